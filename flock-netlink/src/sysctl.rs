//! Sets the node up for forwarding (interfaces.md section 11). What is as it should be is not written.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use flock_core::ports::NetlinkError;

use crate::inspect::is_host_ifname;

/// Where the settings of the network namespace that the calling thread is in are.
///
/// A container that may do little has its own /proc/sys read-only; the node's is then mounted at
/// /host/proc/sys/net. Whoever looks there sees its own namespace, as below every /proc/sys/net.
pub(crate) fn root() -> &'static Path {
    let [host, own] = ["/host/proc/sys/net", "/proc/sys/net"].map(Path::new);
    if host.is_dir() { host } else { own }
}

/// Settings below /proc/sys/net, and what was done to them.
struct Settings<'a> {
    root: &'a Path,
    told: &'a mut BTreeSet<String>,
    notices: Vec<String>,
}

/// Forwarding and what new veths inherit; multipath hashing as well as this kernel can. Returns what was
/// changed, and what was refused unless it has been `told`: an old kernel refuses the same at every look.
pub(crate) fn prepare(root: &Path, told: &mut BTreeSet<String>) -> Result<Vec<String>, NetlinkError> {
    let mut settings = Settings { root, told, notices: Vec::new() };
    settings.keep_router_advertisements();
    for name in ["ipv6/conf/all/forwarding", "ipv6/conf/default/forwarding"] {
        settings.require(name, "1")?;
    }
    for name in ["ipv4/ip_forward", "ipv4/conf/default/forwarding"] {
        settings.require(name, "1")?;
    }
    for family in ["ipv6", "ipv4"] {
        settings.try_set(&format!("{family}/conf/default/ignore_routes_with_linkdown"), "1");
        settings.hash_flows(family);
    }
    settings.spell_out_nexthops();
    Ok(settings.notices)
}

impl Settings<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn read(&self, name: &str) -> io::Result<String> {
        std::fs::read_to_string(self.path(name)).map(|value| value.trim().to_owned())
    }

    /// True when the setting changed.
    fn set(&mut self, name: &str, value: &str) -> io::Result<bool> {
        let before = self.read(name)?;
        if before == value {
            return Ok(false);
        }
        std::fs::write(self.path(name), value)?;
        self.notices.push(format!("{} was {before}, set to {value}", sysctl_name(name)));
        Ok(true)
    }

    fn require(&mut self, name: &str, value: &str) -> Result<(), NetlinkError> {
        self.set(name, value).map(drop).map_err(|error| NetlinkError::Kernel {
            step: "turn on forwarding",
            source: io::Error::new(error.kind(), format!("{} = {value}: {error}", sysctl_name(name))),
        })
    }

    fn try_set(&mut self, name: &str, value: &str) {
        if let Err(error) = self.set(name, value) {
            self.refuse(name, value, &error);
        }
    }

    fn refuse(&mut self, name: &str, value: &str, error: &io::Error) {
        let notice = format!("{} cannot be set to {value}: {error}", sysctl_name(name));
        if self.told.insert(notice.clone()) {
            self.notices.push(notice);
        }
    }

    /// An interface that takes router advertisements as a host (`accept_ra` 1) ignores them once it
    /// forwards, and the node would lose its own default route: 2 takes them all the same.
    fn keep_router_advertisements(&mut self) {
        let listed = std::fs::read_dir(self.path("ipv6/conf")).into_iter().flatten().flatten();
        let mut interfaces: Vec<String> =
            listed.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        interfaces.sort_unstable();
        // Not `all` and `default`: new veths would inherit it and take advertisements from pods.
        interfaces.retain(|name| !matches!(name.as_str(), "all" | "default" | "lo") && !is_host_ifname(name));
        for interface in interfaces {
            let is = |setting: &str, value: &str| {
                self.read(&format!("ipv6/conf/{interface}/{setting}")).is_ok_and(|found| found == value)
            };
            if is("accept_ra", "1") && is("forwarding", "0") {
                self.try_set(&format!("ipv6/conf/{interface}/accept_ra"), "2");
            }
        }
    }

    /// Has routes by way of a nexthop object say where they lead, in both families: BIRD does not look at the objects,
    /// and learns no such route without. A kernel before 5.8 does nothing else.
    fn spell_out_nexthops(&mut self) {
        const NAME: &str = "ipv4/nexthop_compat_mode";
        match self.set(NAME, "1") {
            Err(error) if error.kind() != io::ErrorKind::NotFound => self.refuse(NAME, "1", &error),
            _ => {}
        }
    }

    /// Hashes flows by addresses, ports and protocol (policy 3 with these fields, Linux 5.14), so that a
    /// connection keeps its next hop when it is retransmitted; policy 1 comes nearest before that.
    fn hash_flows(&mut self, family: &str) {
        const FIELDS: &str = "55"; // 0x37
        let (policy, fields) =
            (format!("{family}/fib_multipath_hash_policy"), format!("{family}/fib_multipath_hash_fields"));
        let custom = self.set(&fields, FIELDS).and_then(|_| self.set(&policy, "3"));
        if let Err(error) = custom {
            self.refuse(&policy, "3", &error);
            self.try_set(&policy, "1");
        }
    }
}

fn sysctl_name(path: &str) -> String {
    format!("net.{}", path.replace('/', "."))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree like /proc/sys/net with these settings and the ones that are always there.
    fn tree(extra: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let usual = [
            ("ipv6/conf/all/forwarding", "0"),
            ("ipv6/conf/default/forwarding", "0"),
            ("ipv6/conf/default/ignore_routes_with_linkdown", "0"),
            ("ipv6/conf/default/accept_ra", "1"),
            ("ipv6/conf/all/accept_ra", "1"),
            ("ipv4/ip_forward", "0"),
            ("ipv4/conf/default/forwarding", "0"),
            ("ipv4/conf/default/ignore_routes_with_linkdown", "0"),
            ("ipv6/fib_multipath_hash_policy", "0"),
            ("ipv6/fib_multipath_hash_fields", "7"),
            ("ipv4/fib_multipath_hash_policy", "0"),
            ("ipv4/fib_multipath_hash_fields", "7"),
            ("ipv4/nexthop_compat_mode", "0"),
        ];
        for (name, value) in usual.iter().chain(extra) {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, format!("{value}\n")).unwrap();
        }
        root
    }

    fn value(root: &tempfile::TempDir, name: &str) -> String {
        std::fs::read_to_string(root.path().join(name)).unwrap().trim().to_owned()
    }

    /// Root may write every file, so a refusal is a directory in its place.
    fn refuse(root: &tempfile::TempDir, name: &str) {
        std::fs::remove_file(root.path().join(name)).unwrap();
        std::fs::create_dir(root.path().join(name)).unwrap();
    }

    #[test]
    fn everything_is_set_once() {
        let root = tree(&[]);
        let notices = prepare(root.path(), &mut BTreeSet::new()).unwrap();
        assert_eq!(notices.len(), 11, "{notices:#?}");
        assert!(notices.contains(&"net.ipv6.conf.all.forwarding was 0, set to 1".to_owned()), "{notices:#?}");
        for name in ["ipv4/fib_multipath_hash_policy", "ipv6/fib_multipath_hash_policy"] {
            assert_eq!(value(&root, name), "3");
        }
        assert_eq!(value(&root, "ipv4/nexthop_compat_mode"), "1");
        assert_eq!(prepare(root.path(), &mut BTreeSet::new()).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_node_keeps_its_default_route_from_router_advertisements() {
        let root = tree(&[
            ("ipv6/conf/eth0/accept_ra", "1"),
            ("ipv6/conf/eth0/forwarding", "0"),
            ("ipv6/conf/eth1/accept_ra", "0"),
            ("ipv6/conf/eth1/forwarding", "0"),
            ("ipv6/conf/eth2/accept_ra", "1"),
            ("ipv6/conf/eth2/forwarding", "1"),
            ("ipv6/conf/flock00000000/accept_ra", "1"),
            ("ipv6/conf/flock00000000/forwarding", "0"),
        ]);
        let notices = prepare(root.path(), &mut BTreeSet::new()).unwrap();
        assert_eq!(notices[0], "net.ipv6.conf.eth0.accept_ra was 1, set to 2", "first of all: {notices:#?}");
        let left = [("eth1", "0"), ("eth2", "1"), ("flock00000000", "1"), ("default", "1"), ("all", "1")];
        for (interface, kept) in left {
            assert_eq!(value(&root, &format!("ipv6/conf/{interface}/accept_ra")), kept, "{interface}");
        }
    }

    #[test]
    fn forwarding_that_cannot_be_turned_on_is_an_error() {
        let root = tree(&[]);
        refuse(&root, "ipv4/ip_forward");
        let error = prepare(root.path(), &mut BTreeSet::new()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("turn on forwarding: net.ipv4.ip_forward = 1"), "{text}");
    }

    #[test]
    fn what_is_refused_but_not_needed_is_said() {
        let root = tree(&[]);
        refuse(&root, "ipv4/conf/default/ignore_routes_with_linkdown");
        std::fs::remove_file(root.path().join("ipv6/fib_multipath_hash_fields")).unwrap();
        // Before Linux 5.8; nothing is missing then.
        std::fs::remove_file(root.path().join("ipv4/nexthop_compat_mode")).unwrap();
        let mut told = BTreeSet::new();
        let notices = prepare(root.path(), &mut told).unwrap().join("\n");
        assert!(notices.contains("net.ipv4.conf.default.ignore_routes_with_linkdown cannot be set to 1"));
        assert!(notices.contains("net.ipv6.fib_multipath_hash_policy cannot be set to 3"));
        assert!(!notices.contains("nexthop_compat_mode"), "{notices}");
        assert_eq!(value(&root, "ipv6/fib_multipath_hash_policy"), "1");
        assert_eq!(value(&root, "ipv4/fib_multipath_hash_policy"), "3");
        assert_eq!(prepare(root.path(), &mut told).unwrap(), Vec::<String>::new(), "once");
        std::fs::write(root.path().join("ipv4/ip_forward"), "0").unwrap();
        let repaired = prepare(root.path(), &mut told).unwrap();
        assert_eq!(repaired, ["net.ipv4.ip_forward was 0, set to 1"], "that is news every time");
    }
}
