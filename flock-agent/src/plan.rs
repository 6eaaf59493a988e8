//! `flock-agent plan`: reads manifests, and prints what the core would do with them.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use flock_core::plan::{Objects, flow, is_stand_in, plan};
use flock_core::policy::FlowEnd;
use flock_k8s::{MAX_FILE_BYTES, is_manifest, read_objects};

use crate::args::{OutputFormat, PlanArgs};
use crate::explain::flow_text;
use crate::print::print;

/// As for a wrong command line: nothing has been planned.
const UNREADABLE: u8 = 2;

/// Prints the plan.
pub(crate) fn run(args: &PlanArgs) -> anyhow::Result<ExitCode> {
    let (files, refused) = read_all(&args.files);
    // A plan without a file that was meant to count would be a wrong one.
    if !refused.is_empty() {
        for reason in refused {
            writeln!(io::stderr(), "error: {reason}")?;
        }
        return Ok(ExitCode::from(UNREADABLE));
    }
    let objects = read_objects(files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())));
    if let (Some(from), Some(to)) = (&args.from, &args.to) {
        return judge(&objects, &from.parse()?, &to.parse()?, args);
    }
    let report = plan(&objects, args.node_name.as_ref());
    print(&match args.output {
        OutputFormat::Json => serde_json::to_string_pretty(&report)?,
        OutputFormat::Table => report.to_string(),
    })?;
    Ok(if report.is_fine() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints whether a flow passes. Objects that cannot be read may be policies: with one of them there is no good answer.
fn judge(objects: &Objects, from: &FlowEnd, to: &FlowEnd, args: &PlanArgs) -> anyhow::Result<ExitCode> {
    for problem in &objects.problems {
        writeln!(io::stderr(), "problem: {problem}")?;
    }
    let told = flow(objects, from, to, args.port.parse()?)?;
    print(&match args.output {
        OutputFormat::Json => serde_json::to_string_pretty(&told)?,
        OutputFormat::Table => {
            let stand_in = told.flows.iter().any(|flow| is_stand_in(flow.from) || is_stand_in(flow.to));
            let note = if stand_in {
                "\nAddresses of 100::/64 and 240.0.0.0/8 stand for pods without one."
            } else {
                ""
            };
            flow_text(&told) + note
        }
    })?;
    let is_fine = objects.problems.is_empty() && told.flows.iter().all(|flow| flow.passes);
    Ok(if is_fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Every file that is meant, with its content, and why others cannot be read.
fn read_all(paths: &[PathBuf]) -> (Vec<(String, Vec<u8>)>, Vec<String>) {
    let (mut files, mut refused) = (Vec::new(), Vec::new());
    for path in paths {
        let listed = if path.is_dir() { manifests_of(path) } else { Ok(vec![path.clone()]) };
        let listed = listed.map_err(|error| format!("cannot read {}: {error}", path.display()));
        for path in listed.unwrap_or_else(|reason| {
            refused.push(reason);
            Vec::new()
        }) {
            match read(&path) {
                Ok(bytes) => files.push((path.display().to_string(), bytes)),
                Err(error) => refused.push(format!("cannot read {}: {error}", path.display())),
            }
        }
    }
    (files, refused)
}

/// The manifests of a directory, in the order of their names, as `run --manifests` reads them.
fn manifests_of(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if is_manifest(&entry.file_name()) {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

/// One byte more than allowed is enough for the parser to refuse it.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let limit = MAX_FILE_BYTES as u64 + 1;
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        io::stdin().take(limit).read_to_end(&mut bytes)?;
    } else {
        File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}
