//! Names of the things flock handles. Parsing is the only way to make one, so a value of these types
//! is safe to put into a link alias, a log line or a file name.

use std::fmt;
use std::hash::Hasher;
use std::str::FromStr;

use fnv::FnvHasher;
use serde::{Deserialize, Serialize, Serializer};

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} {reason}")]
pub struct IdError {
    what: &'static str,
    value: String,
    reason: &'static str,
}

impl IdError {
    fn new(what: &'static str, value: &str, reason: &'static str) -> Self {
        // A refused value may be arbitrarily long; the message is for a person.
        let value = value.chars().take(80).collect();
        Self { what, value, reason }
    }
}

/// Reading a name from text by its `parse`, and writing it as it prints; directly and through serde, without
/// a copy: every allocation is written at every change.
macro_rules! parsed {
    ($name:ident) => {
        impl FromStr for $name {
            type Err = IdError;
            fn from_str(value: &str) -> Result<Self, IdError> {
                Self::parse(value)
            }
        }
        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(value: String) -> Result<Self, IdError> {
                Self::parse(&value)
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}

/// A name that is one piece of text.
macro_rules! string_id {
    ($name:ident) => {
        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        parsed!($name);
    };
}

/// A CNI container ID: starts alphanumeric, then alphanumerics, `_`, `.` and `-` (CNI spec,
/// "Parameters"); at most 128 bytes here, so that it fits the alias of a link.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct ContainerId(String);

impl ContainerId {
    /// Longest container ID accepted, in bytes. Runtimes use 64.
    pub const MAX_LEN: usize = 128;

    /// Parses a container ID.
    pub fn parse(value: &str) -> Result<Self, IdError> {
        let err = |reason| Err(IdError::new("container ID", value, reason));
        if value.is_empty() {
            return err("is empty");
        }
        if value.len() > Self::MAX_LEN {
            return err("is longer than 128 characters");
        }
        if !value.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            return err("must start with a letter or a digit");
        }
        if !value.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b)) {
            return err("may hold letters, digits, '_', '.' and '-' only");
        }
        Ok(Self(value.to_owned()))
    }
}
string_id!(ContainerId);

/// The name of an interface: 1 to 15 bytes, no `/`, `:`, space or control character, not `.` or
/// `..` (the rules of the kernel's `dev_valid_name`, and printable ASCII on top).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct IfName(String);

impl IfName {
    /// Longest name the kernel takes, in bytes (`IFNAMSIZ - 1`).
    pub const MAX_LEN: usize = 15;

    /// Parses an interface name.
    pub fn parse(value: &str) -> Result<Self, IdError> {
        let err = |reason| Err(IdError::new("interface name", value, reason));
        if value.is_empty() {
            return err("is empty");
        }
        if value.len() > Self::MAX_LEN {
            return err("is longer than 15 characters");
        }
        if value == "." || value == ".." {
            return err("is reserved");
        }
        if !value.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b':') {
            return err("may not hold '/', ':', spaces or non-printable characters");
        }
        Ok(Self(value.to_owned()))
    }
}
string_id!(IfName);

/// The name of a node, as in `metadata.name` of a Kubernetes Node: a DNS subdomain (RFC 1123).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct NodeName(String);

impl NodeName {
    /// Parses a node name.
    pub fn parse(value: &str) -> Result<Self, IdError> {
        dns_subdomain("node name", value).map(Self)
    }
}
string_id!(NodeName);

/// The UID the API server gave a pod. Opaque, but printable and bounded: 1 to 64 letters, digits, `-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct PodUid(String);

impl PodUid {
    /// Parses a pod UID.
    pub fn parse(value: &str) -> Result<Self, IdError> {
        if value.is_empty() || value.len() > 64 {
            return Err(IdError::new("pod UID", value, "must have 1 to 64 characters"));
        }
        if !value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Err(IdError::new("pod UID", value, "may hold letters, digits and '-' only"));
        }
        Ok(Self(value.to_owned()))
    }
}
string_id!(PodUid);

/// Namespace and name of a pod; prints as `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct PodKey {
    namespace: String,
    name: String,
}

impl PodKey {
    /// Makes a key from a namespace (DNS label) and a name (DNS subdomain), both RFC 1123.
    pub fn new(namespace: &str, name: &str) -> Result<Self, IdError> {
        if namespace.len() > 63 || namespace.contains('.') {
            return Err(IdError::new("namespace", namespace, "must be a DNS label of at most 63 characters"));
        }
        let namespace = dns_subdomain("namespace", namespace)?;
        let name = dns_subdomain("pod name", name)?;
        Ok(Self { namespace, name })
    }

    /// Parses `namespace/name`.
    pub fn parse(value: &str) -> Result<Self, IdError> {
        match value.split_once('/') {
            Some((namespace, name)) => Self::new(namespace, name),
            None => Err(IdError::new("pod", value, "must be written as NAMESPACE/NAME")),
        }
    }

    /// The pod's namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The pod's name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

parsed!(PodKey);

/// One interface of one container: what CNI adds, checks and deletes. Prints as `container/ifname`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct AttachmentId {
    container: ContainerId,
    ifname: IfName,
}

impl AttachmentId {
    /// Joins the two halves CNI hands over.
    pub fn new(container: ContainerId, ifname: IfName) -> Self {
        Self { container, ifname }
    }

    /// Parses `container/ifname`; neither half can hold a `/`.
    pub fn parse(value: &str) -> Result<Self, IdError> {
        match value.split_once('/') {
            Some((container, ifname)) => {
                Ok(Self { container: ContainerId::parse(container)?, ifname: IfName::parse(ifname)? })
            }
            None => Err(IdError::new("attachment", value, "must be written as CONTAINER/IFNAME")),
        }
    }

    /// The container.
    pub fn container(&self) -> &ContainerId {
        &self.container
    }

    /// The interface inside the container.
    pub fn ifname(&self) -> &IfName {
        &self.ifname
    }

    /// The host side of the veth pair: `flock` and 8 hex digits, the xor-folded FNV-1a 64 of this ID.
    /// The same attachment has the same link name for ever, so a link is found without a dump.
    pub fn host_ifname(&self) -> IfName {
        let hash = self.hash64();
        let folded = (hash >> 32) ^ (hash & 0xffff_ffff);
        IfName(format!("{}{folded:08x}", Self::HOST_IFNAME_PREFIX))
    }

    /// What the name of every host veth of flock starts with.
    pub const HOST_IFNAME_PREFIX: &'static str = "flock";

    /// FNV-1a 64 of `container/ifname`: names and MAC addresses derive from it.
    pub fn hash64(&self) -> u64 {
        let mut hasher = FnvHasher::default();
        hasher.write(self.container.0.as_bytes());
        hasher.write(b"/");
        hasher.write(self.ifname.0.as_bytes());
        hasher.finish()
    }
}

impl fmt::Display for AttachmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.container, self.ifname)
    }
}

parsed!(AttachmentId);

fn dns_subdomain(what: &'static str, value: &str) -> Result<String, IdError> {
    let err = |reason| Err(IdError::new(what, value, reason));
    if value.is_empty() {
        return err("is empty");
    }
    if value.len() > 253 {
        return err("is longer than 253 characters");
    }
    if !value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.') {
        return err("may hold lower-case letters, digits, '-' and '.' only");
    }
    let edge = |label: &str| label.is_empty() || label.starts_with('-') || label.ends_with('-');
    if value.split('.').any(edge) {
        return err("must have parts that start and end with a letter or a digit");
    }
    Ok(value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn container_id_takes_what_the_cni_spec_allows() {
        for good in ["a", "0af3", "A_b.c-d", &"f".repeat(128)] {
            assert_eq!(ContainerId::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "-a", ".a", "a/b", "a b", "ä", "a\n", &"f".repeat(129)] {
            assert!(ContainerId::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn interface_name_takes_what_the_kernel_allows() {
        for good in ["eth0", "a", "fifteen-letters"] {
            assert!(IfName::parse(good).is_ok(), "{good:?}");
        }
        for bad in ["", ".", "..", "a/b", "a:b", "a b", "sixteen-letters-", "é"] {
            assert!(IfName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn pod_key_reads_back_what_it_prints() {
        let key = PodKey::new("kube-system", "coredns-0.a").unwrap();
        assert_eq!(PodKey::parse(&key.to_string()).unwrap(), key);
        for bad in ["a", "/", "a/", "/b", "A/b", "a.b/c", "a/b/c", "a/-b", "a/b..c"] {
            assert!(PodKey::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn host_ifname_is_stable_and_fits() {
        let id = AttachmentId::parse("0123abcd/eth0").unwrap();
        assert_eq!(id.host_ifname().as_str(), "flock7ac7509f");
        assert_ne!(id.host_ifname(), AttachmentId::parse("0123abcd/eth1").unwrap().host_ifname());
    }

    #[test]
    fn error_names_the_field_the_value_and_the_reason() {
        let text = |r: Result<NodeName, IdError>| r.unwrap_err().to_string();
        assert_eq!(
            text(NodeName::parse("Node_1")),
            "node name \"Node_1\" may hold lower-case letters, digits, '-' and '.' only"
        );
    }
}
