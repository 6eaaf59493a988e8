//! Reading what a runtime writes, bounded in time and size: a runtime that never closes the pipe must not
//! keep a plugin, and whatever lock is held around it, for ever.

use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The longest network configuration read, in bytes.
pub const MAX_LEN: usize = 1 << 20;

/// Reads `source` to its end. [`ErrorKind::TimedOut`] when the end does not come within `budget`,
/// [`ErrorKind::FileTooLarge`] beyond [`MAX_LEN`] bytes, else what the system says.
pub fn read(mut source: impl Read + AsFd, budget: Duration) -> io::Result<Vec<u8>> {
    let start = Instant::now();
    let mut bytes = Vec::new();
    let mut chunk = [0; 16 * 1024];
    loop {
        let left = budget.saturating_sub(start.elapsed());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(source.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => return Err(io::Error::new(ErrorKind::TimedOut, "it does not end")),
            Err(Errno::EINTR) => continue,
            Ok(_) => {}
            Err(errno) => return Err(errno.into()),
        }
        match source.read(&mut chunk) {
            Ok(0) => return Ok(bytes),
            Ok(read) => bytes.extend_from_slice(chunk.get(..read).unwrap_or_default()),
            Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
            Err(error) => return Err(error),
        }
        if bytes.len() > MAX_LEN {
            return Err(io::Error::new(ErrorKind::FileTooLarge, format!("it has more than {MAX_LEN} bytes")));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::thread;

    use super::*;

    /// Longer than any test machine stalls.
    const LONG: Duration = Duration::from_mins(1);

    #[test]
    fn everything_up_to_the_end_is_read() {
        for length in [0, 1, 16 * 1024, 100_000, MAX_LEN] {
            let (reader, mut writer) = io::pipe().unwrap();
            let writing = thread::spawn(move || writer.write_all(&vec![b' '; length]));
            assert_eq!(read(reader, LONG).unwrap().len(), length);
            writing.join().unwrap().unwrap();
        }
        assert_eq!(read(File::open("/dev/null").unwrap(), LONG).unwrap(), b"");
    }

    #[test]
    fn input_that_does_not_end_is_left() {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"{").unwrap();
        assert_eq!(read(reader, Duration::from_millis(1)).unwrap_err().kind(), ErrorKind::TimedOut);
    }

    #[test]
    fn input_that_is_too_long_is_left() {
        assert_eq!(read(File::open("/dev/zero").unwrap(), LONG).unwrap_err().kind(), ErrorKind::FileTooLarge);
    }
}
