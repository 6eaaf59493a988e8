use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use flock_core::ipam::Snapshot;
use flock_core::ports::{StateStore, StoreError};
use flock_core::testing::contract::store::{StoreBench, snapshot_of, store};
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::FileStore;
use super::file::StateFile;
use super::writer::{Request, Writer};

/// A state file in a directory that does not exist before the store is opened.
struct Bench {
    home: TempDir,
    store: Option<FileStore>,
}

impl Bench {
    fn new() -> Self {
        let mut bench = Self { home: TempDir::new().unwrap(), store: None };
        bench.restart();
        bench
    }

    fn path(&self) -> PathBuf {
        self.home.path().join("state/allocations.json")
    }

    /// The names in the directory.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path().parent().unwrap()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    async fn load(&self) -> Option<Snapshot> {
        self.store().load().await.unwrap()
    }
}

impl StoreBench for Bench {
    fn store(&self) -> &dyn StateStore {
        self.store.as_ref().unwrap()
    }

    fn restart(&mut self) {
        self.store = None;
        self.store = Some(FileStore::open(&self.path()).unwrap());
    }

    fn fail(&mut self, fail: bool) {
        // A directory where the temporary file has to be.
        let temporary = self.path().with_added_extension("tmp");
        if fail { fs::create_dir(temporary).unwrap() } else { fs::remove_dir(temporary).unwrap() }
    }

    fn corrupt(&mut self) {
        fs::write(self.path(), "{\"version\":1,").unwrap();
        self.restart();
    }
}

#[tokio::test]
async fn file_store_keeps_the_contract() {
    store(async || Bench::new()).await;
}

#[tokio::test]
async fn only_root_can_read_the_state() {
    let bench = Bench::new();
    bench.store().save(snapshot_of(1, 1)).await.unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&bench.path()), 0o600);
    assert_eq!(mode(bench.path().parent().unwrap()), 0o700);
    assert_eq!(bench.names(), ["allocations.json"]);
}

#[tokio::test]
async fn a_crash_in_the_middle_of_a_write_leaves_the_previous_state() {
    let mut bench = Bench::new();
    bench.store().save(snapshot_of(1, 3)).await.unwrap();
    let whole = fs::read(bench.path()).unwrap();
    // What a crash may leave of the temporary file: any beginning of it.
    for length in [0, 1, whole.len() / 2, whole.len()] {
        fs::write(bench.path().with_added_extension("tmp"), &whole[..length]).unwrap();
        bench.restart();
        assert_eq!(bench.load().await, Some(snapshot_of(1, 3)));
        assert_eq!(bench.names(), ["allocations.json"]);
    }
}

#[tokio::test]
async fn a_full_disk_is_reported_and_costs_nothing() {
    let bench = Bench::new();
    bench.store().save(snapshot_of(1, 3)).await.unwrap();
    let temporary = bench.path().with_added_extension("tmp");
    if !flock_core::testing::require("/dev/full", Path::new("/dev/full").exists()) {
        return;
    }
    symlink("/dev/full", &temporary).unwrap();
    let error = bench.store().save(snapshot_of(2, 3)).await.unwrap_err();
    assert!(error.to_string().starts_with(&format!("cannot write {}: No space left", temporary.display())));
    assert_eq!(bench.load().await, Some(snapshot_of(1, 3)));
    assert_eq!(bench.names(), ["allocations.json"], "the unfinished file is gone");
    bench.store().save(snapshot_of(2, 3)).await.unwrap();
    assert_eq!(bench.load().await, Some(snapshot_of(2, 3)));
}

#[tokio::test]
async fn what_is_no_state_is_kept_aside_and_never_lost() {
    let mut bench = Bench::new();
    let version_2 = serde_json::to_string(&Snapshot { version: 2, ..snapshot_of(1, 0) }).unwrap();
    let good = serde_json::to_string(&snapshot_of(1, 1)).unwrap();
    let mut twice = snapshot_of(1, 1);
    twice.allocations.extend(twice.allocations.clone());
    let twice = serde_json::to_string(&twice).unwrap();
    let cases = [
        (String::new(), "EOF while parsing"),
        (good[..good.len() - 1].to_owned(), "EOF while parsing"),
        (good.clone() + "x", "trailing characters"),
        (good.replace("/eth0", "/et/h0"), "interface name"),
        (twice, "is there twice"),
        (version_2, "version is 2, this flock knows 1"),
    ];
    for (index, (text, reason)) in cases.iter().enumerate() {
        fs::write(bench.path(), text).unwrap();
        bench.restart();
        let error = bench.store().load().await.unwrap_err();
        assert!(
            matches!(&error, StoreError::Corrupt { .. }) && error.to_string().contains(reason),
            "{error}"
        );
        assert_eq!(&fs::read_to_string(bench.path()).unwrap(), text, "looking changes nothing");

        bench.store().save(snapshot_of(2, 1)).await.unwrap();
        assert_eq!(bench.load().await, Some(snapshot_of(2, 1)));
        let kept = bench.path().with_added_extension(format!("corrupt-{}", index + 1));
        assert_eq!(&fs::read_to_string(kept).unwrap(), text);
    }
    assert_eq!(bench.names().len(), 1 + cases.len());
}

#[tokio::test]
async fn what_cannot_be_read_is_left_alone() {
    let mut bench = Bench::new();
    bench.store = None;
    fs::create_dir(bench.path()).unwrap();
    fs::write(bench.path().join("mine"), "x").unwrap();
    let error = FileStore::open(&bench.path()).unwrap_err();
    assert!(error.to_string().starts_with("cannot read "), "{error}");
    assert_eq!(fs::read_to_string(bench.path().join("mine")).unwrap(), "x");
}

#[test]
fn saves_that_wait_for_each_other_share_one_write() {
    if !flock_core::testing::require("/dev/full", Path::new("/dev/full").exists()) {
        return;
    }
    let mut bench = Bench::new();
    bench.store = None;
    let writer = Writer::new(StateFile::open(&bench.path()).unwrap()).unwrap();
    // The first write fails and a second one would not: the link to the full disk is then gone.
    symlink("/dev/full", bench.path().with_added_extension("tmp")).unwrap();
    let (requests, queue) = mpsc::channel();
    let answers: Vec<_> = (0..100_u64)
        .map(|index| {
            let (answer, answered) = oneshot::channel();
            requests.send(Request::Save(snapshot_of(1 + (index * 37) % 100, 2), answer)).unwrap();
            answered
        })
        .collect();
    drop(requests);
    writer.run(&queue);
    for answered in answers {
        let error = answered.blocking_recv().unwrap().unwrap_err();
        assert!(error.to_string().contains("No space left on device"), "{error}");
    }
    assert_eq!(bench.names(), [""; 0]);
}

#[test]
fn a_second_store_is_refused_and_leaves_the_write_of_the_first_alone() {
    let bench = Bench::new();
    let temporary = bench.path().with_added_extension("tmp");
    fs::write(&temporary, "a write under way").unwrap();
    let error = FileStore::open(&bench.path()).unwrap_err();
    assert!(error.to_string().contains("another agent keeps its state there"), "{error}");
    assert_eq!(fs::read_to_string(&temporary).unwrap(), "a write under way");
}

#[test]
fn a_path_that_names_no_file_is_refused() {
    for path in ["", "/", "/tmp/.."] {
        let error = FileStore::open(Path::new(path)).unwrap_err();
        assert!(matches!(error, StoreError::Io { step: "use", .. }), "{path}: {error}");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = FileStore::open(&file.path().join("allocations.json")).unwrap_err();
    assert!(matches!(error, StoreError::Io { step: "create directory", .. }), "{error}");
}
