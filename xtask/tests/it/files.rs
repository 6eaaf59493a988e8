//! Sizes of source files.

use std::fs;
use std::path::{Path, PathBuf};

/// A file longer than this, in lines, says more than one thing.
const LIMIT: usize = 600;

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        // Build output, and whatever tools keep in hidden directories, is not ours.
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn no_source_file_is_longer_than_a_reader_can_hold() {
    let mut found = Vec::new();
    sources(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap(), &mut found);
    assert!(found.iter().any(|path| path.ends_with(file!())), "the search misses this very file");
    let long: Vec<_> = found
        .into_iter()
        .map(|path| (fs::read_to_string(&path).unwrap().lines().count(), path))
        .filter(|(lines, _)| *lines > LIMIT)
        .collect();
    assert!(long.is_empty(), "longer than {LIMIT} lines: {long:?}");
}
