//! Standard output.

use std::io::Write;

/// Prints a text and a line break. A reader that closes the pipe early has seen enough.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    print_on(text).map(drop)
}

/// The same; whether there is still a reader.
pub(crate) fn print_on(text: &str) -> anyhow::Result<bool> {
    match writeln!(std::io::stdout(), "{text}") {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error.into()),
    }
}
