use std::fmt;
use std::path::{Path, PathBuf};

/// Path of a configuration file that BIRD can be told: absolute, since BIRD runs elsewhere, and fit for a
/// BIRD string, which knows no escapes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfPath(String);

/// Why a path cannot be told to BIRD.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("path {path:?} of the BIRD configuration {reason}")]
pub struct PathError {
    path: PathBuf,
    reason: &'static str,
}

impl ConfPath {
    /// Longest path taken, in bytes: BIRD takes commands of 4096 bytes.
    pub const MAX_LEN: usize = 1024;

    /// Parses a path.
    pub fn parse(path: &Path) -> Result<Self, PathError> {
        let refuse = |reason| Err(PathError { path: path.to_owned(), reason });
        let Some(text) = path.to_str() else { return refuse("must be valid UTF-8") };
        if !path.is_absolute() || path.file_name().is_none() {
            return refuse("must be absolute and name a file");
        }
        if text.contains('"') || text.contains(char::is_control) {
            return refuse("must not hold quotes or control characters: BIRD has no way to write them");
        }
        if text.len() > Self::MAX_LEN {
            return refuse("must not be longer than 1024 bytes");
        }
        Ok(Self(text.to_owned()))
    }

    /// The path.
    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl fmt::Display for ConfPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn only_what_bird_can_read_back_is_a_path() {
        for good in ["/run/flock/bird.conf", "/a b/ü;#.conf", "/run/flock/back\\slash"] {
            assert_eq!(ConfPath::parse(Path::new(good)).unwrap().to_string(), good);
        }
        let long = format!("/{}", "x".repeat(ConfPath::MAX_LEN));
        for bad in ["", "bird.conf", "./bird.conf", "/", "/run/..", "/a\"b", "/a\nb", "/a\tb", "/a\0b", &long]
        {
            assert!(ConfPath::parse(Path::new(bad)).is_err(), "{bad:?}");
        }
        assert!(ConfPath::parse(Path::new(OsStr::from_bytes(b"/\xff"))).is_err());
    }
}
