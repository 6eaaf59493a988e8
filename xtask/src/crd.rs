//! `cargo xtask crd`: the definition of NodeConfig, as a file for `kubectl apply`.

use std::fs;

use anyhow::{Context, Result};

use crate::cmd;

/// Writes the file, printed by an example of the crate that knows it: xtask itself stays without Kubernetes.
pub(crate) fn run() -> Result<()> {
    let mut print = cmd::cargo();
    print.args(["run", "--quiet", "--package", "flock-k8s", "--example", "crd"]);
    let definition = cmd::output(&mut print)?;
    let path = cmd::root().join("deploy/crd.yaml");
    fs::write(&path, definition).with_context(|| format!("cannot write {}", path.display()))?;
    println!("wrote {}", path.display());
    Ok(())
}
