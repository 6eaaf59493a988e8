//! The files of the image, in the order of their names and with nothing of the machine that made it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use tar::{Builder, EntryType, Header};

use super::packages::Unpacked;

/// Files by path, without the leading `/`.
#[derive(Debug)]
pub(super) struct Rootfs(BTreeMap<String, Entry>);

#[derive(Debug)]
enum Entry {
    Directory(u32),
    File(u32, Vec<u8>),
    Link(&'static str),
}

impl Rootfs {
    /// What every image has: root's name, places to mount at, and /var/run where runtimes look for namespaces.
    pub(super) fn new() -> Self {
        let mut rootfs = Self(BTreeMap::new());
        for (path, mode) in
            [("/proc", 0o555), ("/sys", 0o555), ("/dev", 0o755), ("/run", 0o755), ("/tmp", 0o1777)]
        {
            rootfs.put(path, Entry::Directory(mode));
        }
        rootfs.put("/var/run", Entry::Link("../run"));
        rootfs.file("/etc/passwd", 0o644, b"root:x:0:0:root:/:/usr/sbin/nologin\n".to_vec());
        rootfs.file("/etc/group", 0o644, b"root:x:0:\n".to_vec());
        rootfs
    }

    /// Adds a file, and the directories it is in.
    pub(super) fn file(&mut self, path: &str, mode: u32, content: Vec<u8>) {
        self.put(path, Entry::File(mode, content));
    }

    /// Adds a program with all it needs.
    pub(super) fn program(&mut self, path: &str, file: &Path, unpacked: &Unpacked) -> Result<()> {
        self.file(path, 0o755, read(file)?);
        for (path, file) in unpacked.libraries(file)? {
            self.file(&path, 0o755, read(&file)?);
        }
        Ok(())
    }

    fn put(&mut self, path: &str, entry: Entry) {
        let path = path.trim_start_matches('/');
        for (end, _) in path.match_indices('/') {
            self.0.entry(path[..end].to_owned()).or_insert(Entry::Directory(0o755));
        }
        self.0.insert(path.to_owned(), entry);
    }

    /// How many files, directories and links there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// All of it as a tar archive.
    pub(super) fn layer(&self) -> Result<Vec<u8>> {
        let mut builder = Builder::new(Vec::new());
        for (path, entry) in &self.0 {
            let (kind, mode, content) = match entry {
                Entry::Directory(mode) => (EntryType::Directory, *mode, &[][..]),
                Entry::File(mode, content) => (EntryType::Regular, *mode, content.as_slice()),
                Entry::Link(_) => (EntryType::Symlink, 0o777, &[][..]),
            };
            let mut header = header(kind, mode, content.len() as u64);
            match entry {
                Entry::Link(target) => builder.append_link(&mut header, path, target)?,
                Entry::Directory(_) => builder.append_data(&mut header, format!("{path}/"), content)?,
                Entry::File(..) => builder.append_data(&mut header, path, content)?,
            }
        }
        Ok(builder.into_inner()?)
    }
}

/// A header that is the same everywhere and at any time.
pub(super) fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layer_is_the_same_in_whatever_order_files_come_and_parents_come_first() {
        let files = [("/usr/bin/a", 0o755), ("/usr/lib/b", 0o644), ("/c", 0o644)];
        let layer = |files: &mut dyn Iterator<Item = (&str, u32)>| {
            let mut rootfs = Rootfs::new();
            files.for_each(|(path, mode)| rootfs.file(path, mode, path.as_bytes().to_vec()));
            rootfs.layer().unwrap()
        };
        let there = layer(&mut files.into_iter());
        assert!(there == layer(&mut files.into_iter().rev()));
        let mut archive = tar::Archive::new(there.as_slice());
        let mut seen = Vec::new();
        for entry in archive.entries().unwrap() {
            let entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            let path = path.trim_end_matches('/').to_owned();
            let parent = path.rsplit_once('/').map(|(parent, _)| parent.to_owned());
            assert!(parent.is_none_or(|parent| seen.contains(&parent)), "{path}");
            assert_eq!((entry.header().uid().unwrap(), entry.header().mtime().unwrap()), (0, 0));
            seen.push(path);
        }
        for (path, _) in files {
            assert!(seen.contains(&path[1..].to_owned()), "{seen:?}");
        }
    }
}
