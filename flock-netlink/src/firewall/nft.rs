//! Runs `nft -f -`.

use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use flock_core::ports::FirewallError;

/// Where distributions have it, before whatever the path of the process says.
const PLACES: [&str; 3] = ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft"];

/// The largest table measured takes seconds.
const PATIENCE: Duration = Duration::from_mins(2);

/// What is read of its complaints. It quotes whole lines, which may be long.
const COMPLAINTS: u64 = 64 << 10;

/// How much of them an error holds.
const LINES: usize = 2;
const CHARACTERS: usize = 500;

fn program() -> &'static str {
    PLACES.into_iter().find(|place| Path::new(place).is_file()).unwrap_or("nft")
}

/// Runs one transaction.
pub(super) fn run(script: &str) -> Result<(), FirewallError> {
    run_program(program(), script)
}

fn run_program(program: &str, script: &str) -> Result<(), FirewallError> {
    let failed = |source| FirewallError::Program { program: program.to_owned(), source };
    let mut child = Command::new(program)
        .args(["-f", "-"])
        .env_clear()
        .env("LC_ALL", "C")
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let (Some(mut input), Some(errors)) = (child.stdin.take(), child.stderr.take()) else {
        return Err(failed(io::Error::other("it has no input")));
    };
    // On its own, so that neither waits for the other, and to be given up if it hangs.
    let (complaint, complaints) = mpsc::channel();
    let reader = move || {
        let (mut errors, mut text) = (errors, Vec::new());
        let read = errors.by_ref().take(COMPLAINTS).read_to_end(&mut text);
        let rest = read.and_then(|_| io::copy(&mut errors, &mut io::sink()));
        drop(rest);
        // Too late for somebody who has given up.
        let _ = complaint.send(text);
    };
    let started = std::thread::Builder::new().name("flock-nft".to_owned()).spawn(reader);
    // If it ends early its complaint says why, and not the broken pipe.
    let written = input.write_all(script.as_bytes());
    drop(input);
    let text = started.and_then(|_| {
        complaints.recv_timeout(PATIENCE).map_err(|_| io::Error::from(io::ErrorKind::TimedOut))
    });
    let text = match text {
        Ok(text) => text,
        Err(error) => {
            // It may have ended this moment, and is waited for below in any case.
            let _ = child.kill();
            let _ = child.wait();
            return Err(failed(error));
        }
    };
    let status = child.wait().map_err(failed)?;
    match written {
        Ok(()) if status.success() => Ok(()),
        Err(error) if status.success() => Err(failed(error)),
        _ => Err(FirewallError::Refused(shorten(&String::from_utf8_lossy(&text), &status.to_string()))),
    }
}

fn shorten(complaint: &str, status: &str) -> String {
    let lines: Vec<&str> = complaint.lines().take(LINES).collect();
    let text: String = lines.join(" ").chars().take(CHARACTERS).collect();
    if text.trim().is_empty() { status.to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_start_of_a_complaint_is_kept() {
        let long = format!("Error: no such table\n{}\nmore", "x".repeat(1000));
        let short = shorten(&long, "exit status: 1");
        assert!(short.starts_with("Error: no such table xxx"), "{short}");
        assert_eq!(short.chars().count(), CHARACTERS);
        assert_eq!(shorten("\n", "exit status: 1"), "exit status: 1");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = run_program("/nonexistent/nft", "").unwrap_err();
        assert!(error.to_string().starts_with("cannot run /nonexistent/nft"), "{error}");
    }

    #[test]
    fn what_a_program_says_on_a_failure_is_the_error() {
        // Understands neither the arguments nor the input.
        let error = run_program("/bin/ls", &"add table x\n".repeat(100_000)).unwrap_err();
        assert!(matches!(&error, FirewallError::Refused(text) if text.contains("ls:")), "{error}");
    }
}
