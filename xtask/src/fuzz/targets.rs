//! Which targets there are: one binary each in `fuzz/src/bin/`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// The names of all targets, sorted.
pub(super) fn all(root: &Path) -> Result<Vec<String>> {
    let directory = root.join("fuzz/src/bin");
    let entries = fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        names.extend(path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

/// The targets somebody named, in the order of all; all where none is named.
pub(super) fn select(all: Vec<String>, named: &[String]) -> Result<Vec<String>> {
    if let Some(unknown) = named.iter().find(|name| !all.contains(name)) {
        bail!("there is no target {unknown:?}: use {}", all.join(", "));
    }
    Ok(all.into_iter().filter(|target| named.is_empty() || named.contains(target)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_the_binaries_of_the_crate() {
        let all = all(&crate::cmd::root()).unwrap();
        assert!(all.contains(&"annotation".to_owned()), "{all:?}");
        assert!(all.is_sorted());
    }

    #[test]
    fn named_targets_run_once_each_and_unknown_ones_are_refused() {
        let all = || vec!["a".to_owned(), "b".to_owned(), "c".to_owned()];
        let select = |named: &[&str]| {
            let named: Vec<_> = named.iter().map(ToString::to_string).collect();
            super::select(all(), &named)
        };
        assert_eq!(select(&[]).unwrap(), all());
        assert_eq!(select(&["c", "a", "c"]).unwrap(), ["a", "c"]);
        assert_eq!(select(&["a", "d"]).unwrap_err().to_string(), r#"there is no target "d": use a, b, c"#);
    }
}
