//! The dependency rule of `docs/architecture.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use cargo_metadata::{DependencyKind, MetadataCommand};

/// Which of our crates each of our crates may depend on, and no other.
const LAYERS: [(&str, &[&str]); 8] = [
    ("flock-core", &[]),
    ("flock-netlink", &["flock-core"]),
    ("flock-bird", &["flock-core"]),
    ("flock-k8s", &["flock-core"]),
    ("flock-cni", &[]),
    ("flock-agent", &["flock-core", "flock-netlink", "flock-bird", "flock-k8s", "flock-cni"]),
    // It stands where the outside world does.
    ("flock-fuzz", &["flock-core", "flock-bird", "flock-k8s", "flock-cni"]),
    // It drives the binaries from outside, as an operator does.
    ("xtask", &["flock-core", "flock-cni"]),
];

/// All that deciding takes. Whatever reaches a kernel, a clock or a socket has no place here; `tracing` only
/// hands an event to whoever listens.
const CORE_DEPENDENCIES: [&str; 9] =
    ["askama", "async-trait", "fnv", "ipnet", "serde", "sha2", "thiserror", "tokio", "tracing"];

/// All that one line of JSON over a socket takes: the plugin is executed for every pod. `nix` bounds what the
/// standard library cannot: a connect, and reading standard input.
const PLUGIN_DEPENDENCIES: [&str; 4] = ["nix", "serde", "serde_json", "thiserror"];

/// What a program needs for I/O, randomness or Kubernetes: none may come in through a dependency either.
const OUTSIDE_WORLD: [&str; 12] = [
    "libc",
    "nix",
    "rustix",
    "mio",
    "socket2",
    "getrandom",
    "rand",
    "chrono",
    "jiff",
    "hyper",
    "kube",
    "k8s-openapi",
];

/// Names of the dependencies each workspace member declares, of the wanted kinds.
fn declared(kinds: &[DependencyKind]) -> BTreeMap<String, BTreeSet<String>> {
    let metadata = MetadataCommand::new().no_deps().exec().unwrap();
    let names = |package: &cargo_metadata::Package| {
        let wanted = package.dependencies.iter().filter(|dependency| kinds.contains(&dependency.kind));
        wanted.map(|dependency| dependency.name.clone()).collect()
    };
    metadata.packages.iter().map(|package| (package.name.to_string(), names(package))).collect()
}

/// Everything that is linked into `package`, with the features it has when built alone.
fn linked(package: &str) -> BTreeSet<String> {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let done = Command::new(env!("CARGO"))
        .args(["tree", "--manifest-path", manifest, "--package", package])
        .args(["--edges", "normal,no-proc-macro", "--prefix", "none", "--format", "{p}"])
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let text = String::from_utf8(done.stdout).unwrap();
    let names: BTreeSet<_> =
        text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
    assert!(names.contains(package), "{text}");
    names
}

#[test]
fn crates_depend_inwards_only() {
    use DependencyKind::{Build, Development, Normal};
    let declared = declared(&[Normal, Build, Development]);
    let layers = BTreeMap::from(LAYERS);
    let ours: Vec<_> = declared.keys().map(String::as_str).collect();
    assert_eq!(ours, layers.keys().copied().collect::<Vec<_>>(), "a new crate needs its place in LAYERS");
    for (package, dependencies) in &declared {
        for dependency in dependencies.iter().filter(|name| declared.contains_key(*name)) {
            let allowed = layers[package.as_str()].contains(&dependency.as_str());
            // A crate's own tests may name it to switch a feature on.
            assert!(allowed || dependency == package, "{package} must not depend on {dependency}");
        }
    }
}

#[test]
fn core_and_plugin_declare_nothing_beyond_their_list() {
    let declared = declared(&[DependencyKind::Normal, DependencyKind::Build]);
    for (package, allowed) in [("flock-core", &CORE_DEPENDENCIES[..]), ("flock-cni", &PLUGIN_DEPENDENCIES)] {
        for dependency in &declared[package] {
            assert!(allowed.contains(&dependency.as_str()), "{package} must not depend on {dependency}");
        }
    }
}

#[test]
fn core_is_linked_with_nothing_that_does_io() {
    let linked = linked("flock-core");
    for name in OUTSIDE_WORLD {
        assert!(!linked.contains(name), "flock-core links {name}: {linked:?}");
    }
}

#[test]
fn plugin_is_linked_without_a_runtime_and_without_kubernetes() {
    let linked = linked("flock-cni");
    for name in ["tokio", "mio", "hyper", "kube", "k8s-openapi", "clap"] {
        assert!(!linked.contains(name), "flock-cni links {name}: {linked:?}");
    }
}
