//! The network list, as text.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use flock_cni::version::SpecVersion;
use serde::Serialize;

use super::PLUGIN;
use super::chain::Link;

/// The capability for which a runtime hands over the annotations of a pod.
const POD_ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";

/// A network list with flock first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Conflist {
    /// For runtimes that know no list of versions: containerd 1.6 and 1.7 take nothing newer.
    cni_version: SpecVersion,
    /// Oldest first; a runtime that knows this key takes the newest it speaks.
    cni_versions: Vec<SpecVersion>,
    name: &'static str,
    plugins: Vec<Plugin>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Plugin {
    r#type: &'static str,
    capabilities: BTreeMap<&'static str, bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_socket: Option<PathBuf>,
}

impl Conflist {
    /// flock alone, with the agent at this socket.
    pub(super) fn new(socket: &Path) -> Self {
        let elsewhere = socket != Path::new(flock_cni::wire::DEFAULT_SOCKET);
        let flock = Plugin {
            agent_socket: elsewhere.then(|| socket.to_owned()),
            ..Plugin::new(PLUGIN, POD_ANNOTATIONS)
        };
        Self {
            cni_version: SpecVersion::V1_0_0,
            cni_versions: SpecVersion::ALL.to_vec(),
            name: PLUGIN,
            plugins: vec![flock],
        }
    }

    /// Puts a plugin that speaks these versions behind the others, and offers only what all of the chain speak.
    /// False, and nothing is changed, for one that does not speak the version every runtime must be offered.
    pub(super) fn chain(&mut self, link: Link, versions: &[SpecVersion]) -> bool {
        if !versions.contains(&self.cni_version) {
            return false;
        }
        self.cni_versions.retain(|version| versions.contains(version));
        self.plugins.push(Plugin::new(link.name(), link.capability()));
        true
    }

    /// Versions flock speaks and does not offer, for another plugin's sake.
    pub(super) fn dropped(&self) -> impl Iterator<Item = SpecVersion> {
        SpecVersion::ALL.into_iter().filter(|version| !self.cni_versions.contains(version))
    }
}

impl Plugin {
    fn new(r#type: &'static str, capability: &'static str) -> Self {
        Self { r#type, capabilities: BTreeMap::from([(capability, true)]), agent_socket: None }
    }
}

impl fmt::Display for Conflist {
    /// The text of the file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = serde_json::to_string_pretty(self).map_err(|_| fmt::Error)?;
        writeln!(f, "{text}")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn value(conflist: &Conflist) -> Value {
        serde_json::from_str(&conflist.to_string()).unwrap()
    }

    #[test]
    fn list_is_the_one_of_the_contract() {
        let conflist = Conflist::new(Path::new("/run/flock/agent.sock"));
        let want = json!({
            "cniVersion": "1.0.0",
            "cniVersions": ["0.4.0", "1.0.0", "1.1.0"],
            "name": "flock",
            "plugins": [{ "type": "flock", "capabilities": { "io.kubernetes.cri.pod-annotations": true } }],
        });
        assert_eq!(value(&conflist), want);
        assert!(conflist.to_string().ends_with("}\n"));
    }

    #[test]
    fn socket_is_named_where_it_is_not_the_default() {
        let conflist = Conflist::new(Path::new("/run/other.sock"));
        assert_eq!(value(&conflist)["plugins"][0]["agentSocket"], "/run/other.sock");
    }

    #[test]
    fn chain_offers_only_what_all_of_it_speak() {
        use SpecVersion::{V0_4_0, V1_0_0, V1_1_0};
        // What the chained plugin speaks, whether it is taken, and what is dropped.
        let table: [(&[SpecVersion], bool, &[SpecVersion]); 5] = [
            (&[V0_4_0, V1_0_0, V1_1_0], true, &[]),
            (&[V0_4_0, V1_0_0], true, &[V1_1_0]),
            (&[V1_0_0], true, &[V0_4_0, V1_1_0]),
            (&[V0_4_0, V1_1_0], false, &[]),
            (&[], false, &[]),
        ];
        for (versions, taken, dropped) in table {
            let mut conflist = Conflist::new(Path::new("/run/flock/agent.sock"));
            assert_eq!(conflist.chain(Link::Portmap, versions), taken, "{versions:?}");
            assert_eq!(conflist.dropped().collect::<Vec<_>>(), dropped, "{versions:?}");
            assert_eq!(conflist.plugins.len(), if taken { 2 } else { 1 }, "{versions:?}");
        }
    }

    #[test]
    fn chained_plugins_get_their_own_capability() {
        let mut conflist = Conflist::new(Path::new("/run/flock/agent.sock"));
        for link in [Link::Portmap, Link::Bandwidth] {
            assert!(conflist.chain(link, &SpecVersion::ALL));
        }
        let want = json!([
            { "type": "portmap", "capabilities": { "portMappings": true } },
            { "type": "bandwidth", "capabilities": { "bandwidth": true } },
        ]);
        assert_eq!(value(&conflist)["plugins"].as_array().unwrap()[1..], *want.as_array().unwrap());
    }
}
