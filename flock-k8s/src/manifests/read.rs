//! The bytes of one file as objects. Pure and bounded: neither size nor nesting nor aliases of a file can
//! cost more than a fixed amount of memory.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::iter::once;
use std::path::Path;
use std::sync::Arc;

use flock_core::config::NodeConfigSpec;
use flock_core::ids::NodeName;
use flock_core::policy::{NetworkPolicy, PolicyKey};
use flock_core::ports::{NodeConfigView, PodView};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::convert::{self, ClusterPolicyView, pod_view};

/// `apiVersion` of the NodeConfig objects flock reads.
pub const NODE_CONFIG_VERSION: &str = "flock.fritzlab.net/v1alpha1";

/// `apiVersion` of the `ClusterNetworkPolicies` flock reads.
const CLUSTER_POLICY_VERSION: &str = "policy.networking.k8s.io/v1alpha2";

/// Largest manifest file accepted, in bytes.
pub const MAX_FILE_BYTES: usize = 4 << 20;

/// Faults reported of one file; a person mends a file from the top.
const MAX_FAULTS: usize = 20;

/// Longest part of a problem that comes from the file: a name, a path, a parser's words; in characters.
const MAX_SHOWN: usize = 200;

/// Text a file may come to once its aliases are written out, in bytes.
const MAX_EXPANDED_BYTES: usize = 4 * MAX_FILE_BYTES;

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Syntax {
    Yaml,
    Json,
}

impl Syntax {
    /// By the ending of the file name; `None` for files that are not manifests: other endings, hidden files
    /// and with them what editors leave behind.
    pub(super) fn of(name: &OsStr) -> Option<Self> {
        if name.as_encoded_bytes().starts_with(b".") {
            return None;
        }
        match Path::new(name).extension()?.as_encoded_bytes() {
            b"yaml" | b"yml" => Some(Self::Yaml),
            b"json" => Some(Self::Json),
            _ => None,
        }
    }
}

/// Whether the name of a file in a directory is that of a manifest.
pub fn is_manifest(name: &OsStr) -> bool {
    Syntax::of(name).is_some()
}

/// One object and the line its document starts at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Manifest {
    pub(super) line: u64,
    pub(super) object: Object,
}

/// What flock makes of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Object {
    NodeConfig { name: NodeName, config: NodeConfigView },
    Pod(Arc<PodView>),
    Namespace { name: String, labels: BTreeMap<String, String> },
    NetworkPolicy(Arc<NetworkPolicy>),
    ClusterNetworkPolicy(ClusterPolicyView),
    Other { api_version: String, kind: String },
}

/// Why a file, or an object in it, cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// Where known.
    pub(super) line: Option<u64>,
    pub(super) reason: String,
    /// Stands in for a policy that was never readable: what it forbids is not known, so everything is.
    pub(super) closed: Option<Arc<NetworkPolicy>>,
}

impl Fault {
    pub(super) fn of_file(reason: impl Into<String>) -> Self {
        Self { line: None, reason: reason.into(), closed: None }
    }

    fn at(line: u64, reason: impl Into<String>) -> Self {
        Self { line: Some(line), reason: reason.into(), closed: None }
    }

    /// The fault with the name of its file in front.
    pub(super) fn within(&self, file: &str) -> impl fmt::Display {
        match self.line {
            Some(line) => format!("{file}:{line}: {}", self.reason),
            None => format!("{file}: {}", self.reason),
        }
    }
}

/// All objects of a file, or what is wrong with it.
pub(super) fn parse(syntax: Syntax, bytes: &[u8]) -> Result<Vec<Manifest>, Vec<Fault>> {
    let (manifests, faults) = parse_what_can_be(syntax, bytes);
    if faults.is_empty() { Ok(manifests) } else { Err(faults) }
}

/// The objects of a file that can be read, and what is wrong with the others.
pub(super) fn parse_what_can_be(syntax: Syntax, bytes: &[u8]) -> (Vec<Manifest>, Vec<Fault>) {
    let (mut manifests, mut faults) = (Vec::new(), Vec::new());
    let documents = documents(syntax, bytes).unwrap_or_else(|fault| {
        faults.push(fault);
        Vec::new()
    });
    for (line, document) in documents {
        for found in objects(document) {
            match found {
                Ok(object) => manifests.push(Manifest { line, object }),
                Err(Refused { reason, closed }) => {
                    faults.push(Fault { closed, ..Fault::at(line, reason) });
                }
            }
            if faults.len() == MAX_FAULTS {
                return (manifests, faults);
            }
        }
    }
    (manifests, faults)
}

/// The documents that are not empty, each with the line it starts at.
fn documents(syntax: Syntax, bytes: &[u8]) -> Result<Vec<(u64, Value)>, Fault> {
    if bytes.len() > MAX_FILE_BYTES {
        return Err(Fault::of_file(format!("is larger than {} MiB", MAX_FILE_BYTES >> 20)));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let valid = bytes.get(..error.valid_up_to()).unwrap_or_default();
        Fault::at(line_breaks(valid) + 1, "is not UTF-8")
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut documents = match syntax {
        Syntax::Yaml => yaml(text)?,
        Syntax::Json => json(text)?,
    };
    documents.retain(|(_, value)| !value.is_null());
    Ok(documents)
}

fn yaml(text: &str) -> Result<Vec<(u64, Value)>, Fault> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_documents: 10_000,
            max_total_scalar_bytes: MAX_EXPANDED_BYTES,
            max_recorded_anchor_bytes: MAX_EXPANDED_BYTES,
        },
    };
    let documents: Vec<serde_saphyr::Spanned<Value>> =
        serde_saphyr::from_str_multiple_with_options(text, options).map_err(|error| Fault {
            line: error.location().map(|location| location.line()),
            reason: one_line(&error.to_string()),
            closed: None,
        })?;
    Ok(documents.into_iter().map(|document| (document.referenced.line(), document.value)).collect())
}

fn json(text: &str) -> Result<Vec<(u64, Value)>, Fault> {
    let mut documents = Vec::new();
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let (mut line, mut counted) = (1, 0);
    loop {
        let space = text.get(stream.byte_offset()..).unwrap_or_default();
        let start = text.len() - space.trim_ascii_start().len();
        line += line_breaks(text.as_bytes().get(counted..start).unwrap_or_default());
        counted = start;
        match stream.next() {
            None => return Ok(documents),
            Some(Ok(document)) => documents.push((line, document)),
            Some(Err(error)) => {
                let line = u64::try_from(error.line()).ok();
                return Err(Fault { line, reason: one_line(&error.to_string()), closed: None });
            }
        }
    }
}

fn line_breaks(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from(*byte == b'\n')).sum()
}

/// Problems are shown one per line, whatever the parser found in the file, and are for a person: what is long
/// is cut.
pub(super) fn one_line(message: &str) -> String {
    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MAX_SHOWN) {
        Some((cut, _)) => format!("{}...", line.get(..cut).unwrap_or_default()),
        None => line,
    }
}

/// The objects of a document: itself, or the items of a `kind: List` as `kubectl get -o yaml` writes it.
fn objects(document: Value) -> Box<dyn Iterator<Item = Result<Object, Refused>>> {
    #[derive(Deserialize)]
    struct List {
        items: Vec<Value>,
    }
    let is = |field: &str, text: &str| document.get(field).and_then(Value::as_str) == Some(text);
    if !(is("kind", "List") && is("apiVersion", "v1")) {
        return Box::new(once(object(document)));
    }
    match decode::<List>("", document) {
        Ok(list) => {
            Box::new(list.items.into_iter().enumerate().map(|(index, item)| {
                object(item).map_err(|refused| refused.within(&format!("items[{index}]")))
            }))
        }
        Err(reason) => Box::new(once(Err(Refused::from(reason)))),
    }
}

/// An object that cannot be read.
struct Refused {
    reason: String,
    closed: Option<Arc<NetworkPolicy>>,
}

impl Refused {
    fn within(self, place: &str) -> Self {
        Self { reason: format!("{place}: {}", self.reason), ..self }
    }
}

impl From<String> for Refused {
    fn from(reason: String) -> Self {
        Self { reason, closed: None }
    }
}

fn object(value: Value) -> Result<Object, Refused> {
    let field = |name: &str| match value.get(name).and_then(Value::as_str) {
        Some(text) if !text.is_empty() => Ok(one_line(text)),
        _ => Err(format!("is not a Kubernetes object: {name} is missing")),
    };
    let (api_version, kind) = (field("apiVersion")?, field("kind")?);
    let name = name_of(&value);
    let object = match (api_version.as_str(), kind.as_str()) {
        (NODE_CONFIG_VERSION, "NodeConfig") => node_config(value),
        (version, "NodeConfig") if version.starts_with("flock.fritzlab.net/") => {
            Err(format!("apiVersion {version:?} is unknown, write {NODE_CONFIG_VERSION}"))
        }
        ("v1", "Pod") => pod(value),
        ("v1", "Namespace") => namespace(value),
        ("networking.k8s.io/v1", "NetworkPolicy") => {
            let closed = closed(&value);
            let policy = network_policy(value);
            return policy.map_err(|reason| Refused { reason: format!("{kind} {name}: {reason}"), closed });
        }
        (CLUSTER_POLICY_VERSION, "ClusterNetworkPolicy") => {
            convert::cluster_policy(value).map(Object::ClusterNetworkPolicy)
        }
        (version, "ClusterNetworkPolicy") if version.starts_with("policy.networking.k8s.io/") => {
            Err(format!("apiVersion {version:?} is unknown, write {CLUSTER_POLICY_VERSION}"))
        }
        _ => return Ok(Object::Other { api_version, kind }),
    };
    object.map_err(|reason| Refused::from(format!("{kind} {name}: {reason}")))
}

/// What stands in for a policy, if it has a name.
fn closed(policy: &Value) -> Option<Arc<NetworkPolicy>> {
    let meta = |field: &str| policy.pointer(field).and_then(Value::as_str).filter(|text| !text.is_empty());
    let namespace = meta("/metadata/namespace").unwrap_or("default").to_owned();
    let name = meta("/metadata/name")?.to_owned();
    Some(Arc::new(NetworkPolicy::closed(PolicyKey { namespace, name })))
}

/// What a person would call the object, for a message.
fn name_of(value: &Value) -> String {
    let meta = |field: &str| value.pointer(field).and_then(Value::as_str);
    match (meta("/metadata/namespace"), meta("/metadata/name")) {
        (Some(namespace), Some(name)) => one_line(&format!("{namespace}/{name}")),
        (None, Some(name)) => one_line(name),
        (_, None) => "without a name".to_owned(),
    }
}

fn node_config(value: Value) -> Result<Object, String> {
    #[derive(Deserialize)]
    struct NodeConfig {
        metadata: ObjectMeta,
        spec: Option<Value>,
    }
    let NodeConfig { metadata, spec } = decode("", value)?;
    let name = NodeName::parse(&metadata.name.unwrap_or_default()).map_err(|error| error.to_string())?;
    let spec = match spec {
        None => Err("spec is missing".to_owned()),
        Some(spec) => decode::<NodeConfigSpec>("spec", spec),
    };
    Ok(Object::NodeConfig {
        name,
        config: NodeConfigView { generation: metadata.generation.unwrap_or_default(), spec },
    })
}

fn pod(value: Value) -> Result<Object, String> {
    let view = pod_view(decode::<Pod>("", value)?).map_err(|error| one_line(&error.to_string()))?;
    Ok(Object::Pod(Arc::new(view)))
}

fn namespace(value: Value) -> Result<Object, String> {
    let meta = decode::<Namespace>("", value)?.metadata;
    let name = meta.name.filter(|name| !name.is_empty()).ok_or("metadata.name is missing")?;
    let mut labels = meta.labels.unwrap_or_default();
    // The API server sets this label on every namespace; policies select by it.
    labels.insert("kubernetes.io/metadata.name".to_owned(), name.clone());
    Ok(Object::Namespace { name, labels })
}

fn network_policy(value: Value) -> Result<Object, String> {
    Ok(Object::NetworkPolicy(Arc::new(convert::network_policy(value)?)))
}

/// Deserialises what stands at `field` of an object and, if that fails, says where.
pub(crate) fn decode<T: DeserializeOwned>(field: &str, value: Value) -> Result<T, String> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = one_line(&error.path().to_string());
        let place = match (field, path.as_str()) {
            (field, ".") => field.to_owned(),
            ("", path) => path.to_owned(),
            (field, path) => format!("{field}.{path}"),
        };
        let reason = one_line(&error.inner().to_string());
        if place.is_empty() { reason } else { format!("{place}: {reason}") }
    })
}
