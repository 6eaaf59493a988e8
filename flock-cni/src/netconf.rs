//! The network configuration a runtime writes to stdin (CNI specification, "Network configuration" and
//! "Derived configuration"). Each verb reads the keys it needs and no others: a DEL must not fail over an
//! MTU. Unknown keys are ignored, and so is `type`, which only says where the runtime finds this program.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::args::{check_id, check_ifname};
use crate::error::{CniError, code, shorten};
use crate::result::{Dns, addresses_of};
use crate::version::SpecVersion;
use crate::wire::{Attachment, DEFAULT_SOCKET};

/// The MTUs IPv6 (RFC 8200 section 5) and the IPv4 total length field allow, in bytes.
const MTU: std::ops::RangeInclusive<u32> = 1280..=65535;

/// The longest path `sun_path` takes with its NUL (`unix(7)`), in bytes.
const MAX_SOCKET: usize = 107;

const PREV_RESULT: &str = "prevResult";
const RUNTIME_CONFIG: &str = "runtimeConfig";
const POD_ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";
/// What GC keeps. libcni writes both keys; the second is the name an earlier edition of the
/// specification used by mistake.
const VALID_ATTACHMENTS: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];

/// A network configuration of a version flock speaks.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NetConf {
    version: SpecVersion,
    keys: Map<String, Value>,
}

/// What an ADD takes from the configuration.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct AddConf {
    /// MTU of the pod's interface, bytes.
    pub(crate) mtu: Option<u32>,
    /// For the result.
    pub(crate) dns: Dns,
    /// The pod's annotations, where the runtime hands them over.
    pub(crate) annotations: Option<BTreeMap<String, String>>,
}

/// What is wrong with a network configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NetConfError {
    #[error("the network configuration on stdin is not a JSON object: {reason}")]
    Undecodable { reason: String },
    #[error("CNI version {found} is not supported; set cniVersion to one of {}", SpecVersion::list())]
    Version { found: String },
    #[error("CNI {} has no {verb}; it came with {}", found.as_str(), SpecVersion::V1_1_0.as_str())]
    VerbTooNew { verb: &'static str, found: SpecVersion },
    #[error("{key} is missing from the network configuration; {fix}")]
    Missing { key: &'static str, fix: &'static str },
    #[error("{key} of the network configuration is {value}: {reason}")]
    Invalid { key: String, value: String, reason: String },
}

impl NetConfError {
    fn invalid(key: &str, value: &Value, reason: &dyn fmt::Display) -> Self {
        Self::Invalid {
            key: key.to_owned(),
            value: shorten(&value.to_string()),
            reason: shorten(&reason.to_string()),
        }
    }
}

impl From<NetConfError> for CniError {
    fn from(error: NetConfError) -> Self {
        let code = match &error {
            NetConfError::Undecodable { .. } => code::DECODING_FAILURE,
            NetConfError::Version { .. } | NetConfError::VerbTooNew { .. } => code::INCOMPATIBLE_VERSION,
            NetConfError::Missing { .. } | NetConfError::Invalid { .. } => code::INVALID_CONFIG,
        };
        let cni = Self::new(code, &error.to_string());
        match error {
            NetConfError::Version { .. } | NetConfError::VerbTooNew { .. } => {
                cni.with_details(&format!("supported versions: {}", SpecVersion::list()))
            }
            _ => cni,
        }
    }
}

impl NetConf {
    /// Decodes stdin. A configuration without `cniVersion` is of version 0.1.0, says the specification.
    pub(crate) fn parse(stdin: &[u8]) -> Result<Self, NetConfError> {
        let keys: Map<String, Value> = serde_json::from_slice(stdin)
            .map_err(|error| NetConfError::Undecodable { reason: shorten(&error.to_string()) })?;
        let conf = Self { version: SpecVersion::NEWEST, keys };
        let found = conf.get::<String>("cniVersion")?.filter(|text| !text.is_empty());
        let found = found.unwrap_or_else(|| "0.1.0".to_owned());
        match SpecVersion::parse(&found) {
            Some(version) => Ok(Self { version, ..conf }),
            None => Err(NetConfError::Version { found: shorten(&format!("{found:?}")) }),
        }
    }

    /// `cniVersion`: the version to answer in.
    pub(crate) fn version(&self) -> SpecVersion {
        self.version
    }

    /// `agentSocket`: where the agent listens.
    pub(crate) fn socket(&self) -> Result<PathBuf, NetConfError> {
        const KEY: &str = "agentSocket";
        let Some(path) = self.get::<String>(KEY)? else { return Ok(DEFAULT_SOCKET.into()) };
        let reason = if !path.starts_with('/') {
            "must be an absolute path"
        } else if path.len() > MAX_SOCKET {
            "is longer than the 107 bytes a socket path may have"
        } else if path.contains('\0') {
            "may not hold a NUL"
        } else {
            return Ok(path.into());
        };
        Err(NetConfError::invalid(KEY, &path.into(), &reason))
    }

    /// What ADD needs. A `prevResult` means that flock is not the first plugin of its list: refused, for
    /// it would add a second uplink beside the one another plugin made.
    pub(crate) fn add(&self) -> Result<AddConf, NetConfError> {
        if let Some(value) = self.value(PREV_RESULT) {
            return Err(NetConfError::invalid(
                PREV_RESULT,
                value,
                &"flock must be the first plugin of its list",
            ));
        }
        let conf = self.settings()?;
        let runtime: Map<String, Value> = self.get(RUNTIME_CONFIG)?.unwrap_or_default();
        let annotations = read(&runtime, POD_ANNOTATIONS)?;
        Ok(AddConf { annotations, ..conf })
    }

    /// Whether an ADD with this configuration could work: what STATUS can tell without the agent.
    pub(crate) fn status(&self) -> Result<(), NetConfError> {
        self.since_1_1("STATUS")?;
        self.settings().map(drop)
    }

    /// The part of [`add`](Self::add) that does not depend on a pod.
    fn settings(&self) -> Result<AddConf, NetConfError> {
        self.check_name()?;
        let mtu: Option<Value> = self.get("mtu")?;
        let mtu = mtu.map(|value| match value.as_u64().and_then(|mtu| u32::try_from(mtu).ok()) {
            Some(mtu) if MTU.contains(&mtu) => Ok(mtu),
            _ => Err(NetConfError::invalid(
                "mtu",
                &value,
                &"must be a whole number from 1280 to 65535; leave it out for the MTU of the uplink",
            )),
        });
        let dns: Map<String, Value> = self.get("dns")?.unwrap_or_default();
        let dns = Dns {
            nameservers: read(&dns, "nameservers")?.unwrap_or_default(),
            domain: read(&dns, "domain")?.unwrap_or_default(),
            search: read(&dns, "search")?.unwrap_or_default(),
            options: read(&dns, "options")?.unwrap_or_default(),
        };
        Ok(AddConf { mtu: mtu.transpose()?, dns, annotations: None })
    }

    /// What CHECK needs: the addresses `prevResult` gives the interface named `ifname`, in its order.
    pub(crate) fn check(&self, ifname: &str) -> Result<Vec<IpAddr>, NetConfError> {
        self.check_name()?;
        let value = self.value(PREV_RESULT).ok_or(NetConfError::Missing {
            key: PREV_RESULT,
            fix: "CHECK compares with what ADD returned",
        })?;
        addresses_of(value, ifname).map_err(|reason| NetConfError::invalid(PREV_RESULT, value, &reason))
    }

    /// What GC needs: the attachments to keep. `None` when the list is null, as libcni writes it when the
    /// runtime gave none: nobody knows what to keep, so everything is kept. A list with an entry that cannot
    /// be read is refused as a whole, for the same reason.
    pub(crate) fn gc(&self) -> Result<Option<Vec<Attachment>>, NetConfError> {
        self.since_1_1("GC")?;
        self.check_name()?;
        let (key, value) = VALID_ATTACHMENTS
            .into_iter()
            .find_map(|key| self.keys.get(key).map(|value| (key, value)))
            .ok_or(NetConfError::Missing {
                key: VALID_ATTACHMENTS[0],
                fix: "GC removes nothing unless it is told what to keep",
            })?;
        let entries = match value {
            Value::Null => return Ok(None),
            Value::Array(entries) => entries,
            other => return Err(NetConfError::invalid(key, other, &"must be a list")),
        };
        entries
            .iter()
            .map(|entry| attachment(entry).map_err(|reason| NetConfError::invalid(key, entry, &reason)))
            .collect::<Result<_, _>>()
            .map(Some)
    }

    /// GC and STATUS came with 1.1.0. The Go library refuses them below it with the same code, and a runtime
    /// that keeps to the specification does not send them.
    fn since_1_1(&self, verb: &'static str) -> Result<(), NetConfError> {
        if self.version < SpecVersion::V1_1_0 {
            return Err(NetConfError::VerbTooNew { verb, found: self.version });
        }
        Ok(())
    }

    /// `name`: flock has one network and does not use it, but the specification wants it sound.
    fn check_name(&self) -> Result<(), NetConfError> {
        const KEY: &str = "name";
        let name: String =
            self.get(KEY)?.ok_or(NetConfError::Missing { key: KEY, fix: "give the network a name" })?;
        check_id(&name).map_err(|reason| NetConfError::invalid(KEY, &name.into(), &reason))
    }

    /// The value of a key; null is as good as absent, as in the Go libraries.
    fn value(&self, key: &str) -> Option<&Value> {
        self.keys.get(key).filter(|value| !value.is_null())
    }

    fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, NetConfError> {
        read(&self.keys, key)
    }
}

fn read<T: DeserializeOwned>(keys: &Map<String, Value>, key: &str) -> Result<Option<T>, NetConfError> {
    match keys.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            T::deserialize(value).map(Some).map_err(|error| NetConfError::invalid(key, value, &error))
        }
    }
}

fn attachment(entry: &Value) -> Result<Attachment, &'static str> {
    let text = |key| entry.get(key).and_then(Value::as_str).ok_or("must hold containerID and ifname");
    let (container_id, ifname) = (text("containerID")?, text("ifname")?);
    check_id(container_id).map_err(|_| "containerID is not a container ID")?;
    check_ifname(ifname).map_err(|_| "ifname is not an interface name")?;
    Ok(Attachment { container_id: container_id.to_owned(), ifname: ifname.to_owned() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A sound configuration with some keys set otherwise.
    fn conf(changes: &Value) -> NetConf {
        let mut keys = json!({ "cniVersion": "1.1.0", "name": "pods", "type": "flock" });
        for (key, value) in changes.as_object().unwrap() {
            keys[key] = value.clone();
        }
        NetConf::parse(keys.to_string().as_bytes()).unwrap()
    }

    fn code_of<T>(result: Result<T, NetConfError>) -> Option<u32> {
        result.err().map(|error| CniError::from(error).code())
    }

    #[test]
    fn stdin_must_be_one_json_object() {
        let nested = "[".repeat(100_000);
        let deep = format!("{{\"x\":{}", "[".repeat(100_000));
        let text = format!("{:?}", "a".repeat(100_000));
        for bad in [
            "",
            " ",
            "[]",
            "null",
            "1",
            &text,
            "{",
            "{} {}",
            "{\"name\":\"a\",}",
            "\u{feff}{}",
            &nested,
            &deep,
        ] {
            let error = NetConf::parse(bad.as_bytes()).unwrap_err();
            assert!(matches!(error, NetConfError::Undecodable { .. }), "{}", shorten(bad));
            assert!(error.to_string().len() < 250, "{error}");
        }
        assert_eq!(code_of(NetConf::parse(b"\xff\xfe")), Some(code::DECODING_FAILURE));
    }

    #[test]
    fn version_must_be_one_of_ours() {
        for version in SpecVersion::ALL {
            assert_eq!(conf(&json!({ "cniVersion": version.as_str() })).version(), version);
        }
        let cases = [
            ("{}", "\"0.1.0\""),
            (r#"{"cniVersion":null}"#, "\"0.1.0\""),
            (r#"{"cniVersion":"1.2.0"}"#, "\"1.2.0\""),
        ];
        for (stdin, found) in cases {
            let error = CniError::from(NetConf::parse(stdin.as_bytes()).unwrap_err());
            assert_eq!(error.code(), code::INCOMPATIBLE_VERSION);
            assert_eq!(
                error.text(),
                format!(
                    "CNI version {found} is not supported; set cniVersion to one of 0.4.0, 1.0.0, 1.1.0; \
                     supported versions: 0.4.0, 1.0.0, 1.1.0"
                )
            );
        }
        assert_eq!(code_of(NetConf::parse(br#"{"cniVersion":1}"#)), Some(code::INVALID_CONFIG));
    }

    #[test]
    fn gc_and_status_came_with_1_1_0() {
        for version in [SpecVersion::V0_4_0, SpecVersion::V1_0_0] {
            let conf = conf(&json!({ "cniVersion": version.as_str(), "cni.dev/valid-attachments": [] }));
            assert_eq!(conf.gc(), Err(NetConfError::VerbTooNew { verb: "GC", found: version }));
            let error = CniError::from(conf.status().unwrap_err());
            assert_eq!(error.code(), code::INCOMPATIBLE_VERSION);
            let expect = format!("CNI {} has no STATUS; it came with 1.1.0; ", version.as_str());
            assert!(error.text().starts_with(&expect), "{}", error.text());
        }
        assert_eq!(conf(&json!({})).status(), Ok(()));
    }

    #[test]
    fn unknown_keys_are_ignored() {
        let conf = conf(&json!({ "ipam": { "type": "none" }, "args": [1], "flavour": null }));
        assert_eq!(conf.add(), Ok(AddConf::default()));
    }

    #[test]
    fn name_follows_the_specification_where_it_matters() {
        for bad in [json!(null), json!(""), json!("-a"), json!("a b"), json!(7)] {
            let conf = conf(&json!({ "name": bad, "prevResult": null, "cni.dev/valid-attachments": [] }));
            for code in
                [code_of(conf.add()), code_of(conf.status()), code_of(conf.check("eth0")), code_of(conf.gc())]
            {
                assert_eq!(code, Some(code::INVALID_CONFIG), "{bad}");
            }
            assert_eq!(conf.socket(), Ok(DEFAULT_SOCKET.into()), "all that DEL reads");
        }
    }

    #[test]
    fn socket_is_an_absolute_path_that_fits() {
        let longest = format!("/{}", "s".repeat(106));
        for good in ["/run/flock/agent.sock", &longest] {
            assert_eq!(conf(&json!({ "agentSocket": good })).socket(), Ok(good.into()));
        }
        let too_long = format!("{longest}s");
        for bad in [
            json!(""),
            json!("agent.sock"),
            json!("@flock"),
            json!("/a\0b"),
            json!(too_long),
            json!(1),
            json!([]),
        ] {
            assert_eq!(
                code_of(conf(&json!({ "agentSocket": bad })).socket()),
                Some(code::INVALID_CONFIG),
                "{bad}"
            );
        }
    }

    #[test]
    fn mtu_is_what_both_families_can_use() {
        for good in [1280, 1500, 9000, 65535] {
            assert_eq!(conf(&json!({ "mtu": good })).add().unwrap().mtu, Some(good));
        }
        assert_eq!(conf(&json!({ "mtu": null })).add().unwrap().mtu, None);
        for bad in
            [json!(0), json!(1279), json!(65536), json!(-1), json!(1500.5), json!("1500"), json!(1u64 << 40)]
        {
            let error = conf(&json!({ "mtu": bad })).add().unwrap_err();
            assert_eq!(
                error.to_string(),
                format!(
                    "mtu of the network configuration is {bad}: must be a whole number from 1280 to 65535; \
                     leave it out for the MTU of the uplink"
                )
            );
        }
    }

    #[test]
    fn annotations_come_from_the_runtime() {
        let annotations =
            |value: Value| conf(&json!({ "runtimeConfig": value })).add().map(|add| add.annotations);
        assert_eq!(annotations(json!({ "portMappings": [] })), Ok(None));
        assert_eq!(annotations(json!({ POD_ANNOTATIONS: null })), Ok(None));
        assert_eq!(annotations(json!({ POD_ANNOTATIONS: {} })), Ok(Some(BTreeMap::new())));
        assert_eq!(
            annotations(json!({ POD_ANNOTATIONS: { "a/b": "c" } })),
            Ok(Some(BTreeMap::from([("a/b".into(), "c".into())])))
        );
        for bad in
            [json!([]), json!("x"), json!({ POD_ANNOTATIONS: "x" }), json!({ POD_ANNOTATIONS: { "a": 1 } })]
        {
            assert_eq!(code_of(annotations(bad.clone())), Some(code::INVALID_CONFIG), "{bad}");
        }
    }

    #[test]
    fn dns_is_read_key_by_key() {
        let dns = json!({ "nameservers": ["2001:db8::53"], "search": ["example.org"], "more": 1 });
        let expect = Dns {
            nameservers: vec!["2001:db8::53".into()],
            search: vec!["example.org".into()],
            ..Dns::default()
        };
        assert_eq!(conf(&json!({ "dns": dns })).add().unwrap().dns, expect);
        for bad in [json!([]), json!({ "domain": 1 }), json!({ "options": "ndots:2" })] {
            assert_eq!(code_of(conf(&json!({ "dns": bad })).add()), Some(code::INVALID_CONFIG), "{bad}");
        }
    }

    #[test]
    fn flock_comes_first_in_a_list() {
        let add = conf(&json!({ "prevResult": {} })).add();
        assert_eq!(code_of(add.clone()), Some(code::INVALID_CONFIG));
        assert_eq!(
            add.unwrap_err().to_string(),
            "prevResult of the network configuration is {}: flock must be the first plugin of its list"
        );
        assert!(conf(&json!({ "prevResult": null })).add().is_ok());
    }

    #[test]
    fn check_needs_what_add_returned() {
        assert_eq!(
            conf(&json!({})).check("eth0").unwrap_err().to_string(),
            "prevResult is missing from the network configuration; CHECK compares with what ADD returned"
        );
        let previous = json!({ "ips": [{ "address": "2001:db8::a/128" }] });
        assert_eq!(
            conf(&json!({ "prevResult": previous })).check("eth0"),
            Ok(vec!["2001:db8::a".parse().unwrap()])
        );
        let bad = conf(&json!({ "prevResult": { "ips": 1 } })).check("eth0");
        assert_eq!(code_of(bad), Some(code::INVALID_CONFIG));
    }

    #[test]
    fn gc_keeps_what_it_is_told_and_removes_nothing_untold() {
        let [key, older] = VALID_ATTACHMENTS;
        let list = json!([{ "containerID": "c0ffee", "ifname": "eth0", "more": 1 }]);
        let kept = Ok(Some(vec![Attachment { container_id: "c0ffee".into(), ifname: "eth0".into() }]));
        let gc = |changes: Value| conf(&changes).gc();
        assert_eq!(gc(json!({ key: list })), kept);
        assert_eq!(gc(json!({ older: list })), kept);
        assert_eq!(gc(json!({ key: list, older: [] })), kept);
        assert_eq!(gc(json!({ key: null, older: list })), Ok(None));
        assert_eq!(gc(json!({ key: null })), Ok(None));
        assert_eq!(gc(json!({ older: null })), Ok(None));
        assert_eq!(gc(json!({ key: [] })), Ok(Some(vec![])));
        assert_eq!(code_of(gc(json!({}))), Some(code::INVALID_CONFIG));
        for bad in [
            json!({}),
            json!("all"),
            json!([null]),
            json!([["c0ffee", "eth0"]]),
            json!([{ "containerID": "c0ffee" }]),
            json!([{ "containerID": "c0ffee", "ifname": 0 }]),
            json!([{ "containerID": "c0ffee", "ifname": "eth0" }, { "containerID": "../x", "ifname": "eth0" }]),
            json!([{ "containerID": "c0ffee", "ifname": "a/b" }]),
        ] {
            assert_eq!(code_of(gc(json!({ key: bad }))), Some(code::INVALID_CONFIG), "{bad}");
        }
    }
}
