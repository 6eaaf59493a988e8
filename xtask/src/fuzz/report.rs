//! What a person is told of the runs.

use super::engine::Run;

/// How much of an input is shown, in bytes.
const SHOWN: usize = 1000;

/// How much of a reason is shown, in characters.
const LONGEST_REASON: usize = 500;

/// One run in a line.
pub(super) fn line(run: &Run) -> String {
    let figures = run.log.figures;
    format!(
        "{}: {} executions, {}/s, {} edges, {} inputs",
        outcome(run),
        figures.executions,
        figures.rate,
        figures.edges,
        figures.corpus
    )
}

/// Every run in a line of a table.
pub(super) fn table(runs: &[Run]) -> String {
    let row = |cells: [String; 6]| {
        let [target, executions, rate, edges, corpus, outcome] = cells;
        format!("{target:<12} {executions:>12} {rate:>12} {edges:>8} {corpus:>8}  {outcome}\n")
    };
    let head = ["target", "executions", "executions/s", "edges", "corpus", "outcome"];
    let rows = runs.iter().map(|run| {
        let figures = run.log.figures;
        let numbers =
            [figures.executions, figures.rate, figures.edges, figures.corpus].map(|it| it.to_string());
        let [executions, rate, edges, corpus] = numbers;
        row([run.target.clone(), executions, rate, edges, corpus, outcome(run).to_owned()])
    });
    std::iter::once(row(head.map(str::to_owned))).chain(rows).collect()
}

fn outcome(run: &Run) -> &'static str {
    if run.is_clean() { "nothing found" } else { "FOUND SOMETHING" }
}

/// What was found, on what, where that is kept and what to do with it; nothing where nothing was found.
pub(super) fn fault(run: &Run) -> String {
    if run.is_clean() {
        return String::new();
    }
    let target = &run.target;
    let mut lines = vec![String::new(), format!("{target} ended with {}", run.status)];
    lines.extend(run.log.reason.iter().map(|line| format!("  {}", shorten(line))));
    if let (Some(input), Some(path)) = (&run.input, &run.log.input) {
        let path = path.display();
        lines.extend([
            format!("  on {}", show(input)),
            format!("  kept as {path}"),
            "Name it after what is special about it, and it is tested from now on:".to_owned(),
            format!("  cp {path} fuzz/corpus/{target}/NAME"),
            "  cargo test -p flock-fuzz".to_owned(),
        ]);
    } else {
        lines.extend([
            format!("  and left no input. What it said is in {}", run.transcript.display()),
            "Where that does not say why, the stack may have overflowed: try --address-sanitizer".to_owned(),
        ]);
    }
    lines.join("\n") + "\n"
}

/// The bytes of an input as text, the first of them if there are many.
fn show(input: &[u8]) -> String {
    let (shown, cut) = match input.get(..SHOWN) {
        Some(start) if start.len() < input.len() => (start, "..."),
        _ => (input, ""),
    };
    format!("{} bytes: \"{}\"{cut}", input.len(), shown.escape_ascii())
}

fn shorten(line: &str) -> String {
    match line.char_indices().nth(LONGEST_REASON) {
        Some((cut, _)) => format!("{}...", line.get(..cut).unwrap_or_default()),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;
    use crate::fuzz::log::{Figures, Log};

    fn run(target: &str, code: i32, log: Log, input: Option<&[u8]>) -> Run {
        Run {
            target: target.to_owned(),
            log,
            status: ExitStatus::from_raw(code << 8),
            transcript: format!("target/fuzz/log/{target}").into(),
            input: input.map(<[u8]>::to_vec),
        }
    }

    fn clean() -> Run {
        let figures = Figures { executions: 249_801, rate: 2064, edges: 615, corpus: 534 };
        run("annotation", 0, Log { figures, ..Log::default() }, None)
    }

    #[test]
    fn table_has_a_line_per_target() {
        let log = Log { input: Some("target/fuzz/found/bird_reply/crash-0a".into()), ..Log::default() };
        let runs = [clean(), run("bird_reply", 77, log, Some(b"0001 \xff"))];
        let table = table(&runs);
        let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows.len(), 3, "{table}");
        assert_eq!(rows[1], ["annotation", "249801", "2064", "615", "534", "nothing", "found"]);
        assert_eq!(rows[2][5..], ["FOUND", "SOMETHING"]);
    }

    #[test]
    fn fault_says_what_on_what_and_how_to_keep_it() {
        let path = "target/fuzz/found/annotation/crash-0a";
        let log = Log { reason: vec!["x".repeat(9000)], input: Some(path.into()), ..Log::default() };
        let text = fault(&run("annotation", 77, log.clone(), Some(b"ipv4=\xff\n")));
        for part in
            [r#"7 bytes: "ipv4=\xff\n""#, "kept as", &format!("cp {path} fuzz/corpus/annotation/NAME")]
        {
            assert!(text.contains(part), "{text}");
        }
        assert!(text.len() < 1500, "{text}");
        let long = fault(&run("annotation", 77, log, Some(&[b'a'; 5000])));
        assert!(long.contains("5000 bytes") && long.len() < 2500, "{long}");
    }

    #[test]
    fn fault_without_an_input_says_where_to_look() {
        let text = fault(&run("annotation", 1, Log::default(), None));
        assert!(text.contains("target/fuzz/log/annotation"), "{text}");
        assert!(text.contains("--address-sanitizer"), "{text}");
        assert_eq!(fault(&clean()), "");
    }
}
