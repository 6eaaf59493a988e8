//! `cargo xtask manifests`: `deploy/install.yaml`, the resources of `deploy/kustomization.yaml` in one file.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::cmd;

/// What `kubectl apply -f` is given by people without kustomize.
const INSTALL: &str = "deploy/install.yaml";

const HEADER: &str = "# Made by `cargo xtask manifests` from the resources of deploy/kustomization.yaml: change those instead.\n";

/// Options of `cargo xtask manifests`.
#[derive(Debug, clap::Args)]
pub(crate) struct ManifestsArgs {
    /// Only say whether the file is what would be written
    #[arg(long)]
    check: bool,
}

/// Runs `cargo xtask manifests`.
pub(crate) fn run(args: &ManifestsArgs) -> Result<()> {
    let root = cmd::root();
    let path = root.join(INSTALL);
    let text = install(&root.join("deploy"))?;
    if args.check {
        if fs::read_to_string(&path).is_ok_and(|found| found == text) {
            return Ok(());
        }
        bail!("{INSTALL} is out of date: run `cargo xtask manifests`");
    }
    fs::write(&path, &text).with_context(|| format!("cannot write {INSTALL}"))?;
    println!("{INSTALL}  {} bytes", text.len());
    Ok(())
}

/// The resources of the kustomization in this directory, as one text.
fn install(deploy: &Path) -> Result<String> {
    let read = |name: &str| {
        let path = deploy.join(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let kustomization = read("kustomization.yaml")?;
    let mut text = HEADER.to_owned();
    for name in resources(&kustomization) {
        text.push_str("---\n");
        text.push_str(read(name)?.trim_start_matches("---\n").trim_end());
        text.push('\n');
    }
    Ok(text)
}

/// The list below `resources:`, which is all there is of YAML in it.
fn resources(kustomization: &str) -> impl Iterator<Item = &str> {
    let list = kustomization.lines().skip_while(|line| *line != "resources:").skip(1);
    list.map_while(|line| line.strip_prefix("  - "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn install_yaml_is_what_the_generator_prints() {
        let root = cmd::root();
        let want = install(&root.join("deploy")).unwrap();
        let found = fs::read_to_string(root.join(INSTALL)).unwrap();
        assert!(found == want, "{INSTALL} is out of date: run `cargo xtask manifests`");
    }

    #[test]
    fn resources_end_where_the_list_ends() {
        let text = "kind: Kustomization\nresources:\n  - a.yaml\n  - b.yaml\nimages:\n  - name: c\n";
        assert_eq!(resources(text).collect::<Vec<_>>(), ["a.yaml", "b.yaml"]);
        assert_eq!(resources("kind: Kustomization\n").count(), 0);
    }

    #[test]
    fn parts_are_documents_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("kustomization.yaml", "resources:\n  - a.yaml\n  - b.yaml\n");
        write("a.yaml", "---\na: 1\n");
        assert!(format!("{:#}", install(dir.path()).unwrap_err()).contains("b.yaml"));
        write("b.yaml", "b: 1\n---\nc: 1\n\n");
        assert_eq!(install(dir.path()).unwrap(), format!("{HEADER}---\na: 1\n---\nb: 1\n---\nc: 1\n"));
    }
}
