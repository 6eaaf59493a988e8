//! Objects of the API server, stripped to what is used while they are read: nothing else is ever kept. Total: any
//! object gives a view or a reason.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Debug;

use flock_core::config::NodeConfigSpec;
use flock_core::ids::{PodKey, PodUid};
use flock_core::ports::{NodeConfigView, PodView};
use k8s_openapi::ClusterResourceScope;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::Resource;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::collection::Seen;
use crate::convert::api_pod_view;
use crate::manifests::decode;

mod policy;

pub(crate) use self::policy::{ClusterPolicies, Policies, RemotePods};

/// What identifies a kind to the API server, and what of an object of it is kept.
pub(crate) trait Kind: Debug + Clone + Send + Sync + 'static {
    /// What is kept.
    type View: Debug + Clone + PartialEq + Send + Sync + 'static;
    /// What it is found by.
    type Key: Debug + Clone + Ord + Send + Sync + 'static;
    /// What the objects have in common, kept once.
    type Pool: Debug + Default + Send + 'static;
    /// Namespaced or not.
    type Scope;
    const GROUP: &'static str;
    const VERSION: &'static str;
    const KIND: &'static str;
    const PLURAL: &'static str;
    /// Objects of one page of a list: what is read at once is held at once.
    const PAGE: u32 = 50;

    /// What an object of this name, `NAMESPACE/NAME` or `NAME`, is found by.
    fn key(name: &str) -> Option<Self::Key>;

    /// What is kept of an object, `None` where nothing is, or why it cannot be understood.
    fn view(object: Value) -> Result<Option<Self::View>, String>;

    /// Finds what a view has in common with others in the pool.
    fn share(_view: &mut Self::View, _pool: &mut Self::Pool) {}

    /// What of an object that was understood does not have the effect it should have.
    fn remark(_view: &Self::View) -> Option<String> {
        None
    }

    /// What stands in for an object that has never been understood, and what that means.
    fn stand_in(_key: &Self::Key) -> Option<(Self::View, &'static str)> {
        None
    }
}

/// An object of a kind: its name, and what is kept.
#[derive(Debug, Clone)]
pub(crate) struct Stripped<K: Kind> {
    /// Name, namespace, UID and resource version only.
    metadata: ObjectMeta,
    pub(crate) view: Seen<K>,
}

impl<K: Kind> Stripped<K> {
    /// `NAMESPACE/NAME`, or the name of what has no namespace.
    pub(crate) fn key(&self) -> String {
        let name = self.metadata.name.as_deref().unwrap_or_default();
        match &self.metadata.namespace {
            Some(namespace) => format!("{namespace}/{name}"),
            None => name.to_owned(),
        }
    }
}

impl<'de, K: Kind> Deserialize<'de> for Stripped<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = Value::deserialize(deserializer)?;
        let text = |field: &str| object.pointer(field).and_then(Value::as_str).map(str::to_owned);
        let metadata = ObjectMeta {
            name: text("/metadata/name"),
            namespace: text("/metadata/namespace"),
            uid: text("/metadata/uid"),
            resource_version: text("/metadata/resourceVersion"),
            ..ObjectMeta::default()
        };
        Ok(Self { metadata, view: K::view(object) })
    }
}

impl<K: Kind> Resource for Stripped<K> {
    type DynamicType = ();
    type Scope = K::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        K::KIND.into()
    }

    fn group((): &()) -> Cow<'_, str> {
        K::GROUP.into()
    }

    fn version((): &()) -> Cow<'_, str> {
        K::VERSION.into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        K::PLURAL.into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// Pods.
#[derive(Debug, Clone)]
pub(crate) struct Pods;

impl Kind for Pods {
    type View = PodView;
    type Key = PodKey;
    type Pool = ();
    type Scope = NamespaceResourceScope;
    const GROUP: &'static str = "";
    const VERSION: &'static str = "v1";
    const KIND: &'static str = "Pod";
    const PLURAL: &'static str = "pods";
    /// More than nodes have: the API server knows by heart which pods a node has, but until Kubernetes 1.34 it reads all
    /// pods of the cluster for a second page.
    const PAGE: u32 = 250;

    fn key(name: &str) -> Option<PodKey> {
        PodKey::parse(name).ok()
    }

    fn view(object: Value) -> Result<Option<PodView>, String> {
        api_pod_view(decode::<Pod>("", object)?).map(Some).map_err(|error| error.to_string())
    }
}

/// Namespaces, of which the labels count.
#[derive(Debug, Clone)]
pub(crate) struct Namespaces;

impl Kind for Namespaces {
    type View = BTreeMap<String, String>;
    type Key = String;
    type Pool = ();
    type Scope = ClusterResourceScope;
    const GROUP: &'static str = "";
    const VERSION: &'static str = "v1";
    const KIND: &'static str = "Namespace";
    const PLURAL: &'static str = "namespaces";

    fn key(name: &str) -> Option<String> {
        Some(name.to_owned())
    }

    fn view(object: Value) -> Result<Option<Self::View>, String> {
        #[derive(Deserialize)]
        struct Labelled {
            metadata: Labels,
        }
        #[derive(Deserialize)]
        struct Labels {
            name: String,
            labels: Option<BTreeMap<String, String>>,
        }
        let Labels { name, labels } = decode::<Labelled>("", object)?.metadata;
        let mut labels = labels.unwrap_or_default();
        // The API server sets it, too; policies select by it.
        labels.insert("kubernetes.io/metadata.name".to_owned(), name);
        Ok(Some(labels))
    }
}

/// The NodeConfig of this node.
#[derive(Debug, Clone)]
pub(crate) struct Own;

/// What is kept of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OwnView {
    pub(crate) uid: Option<PodUid>,
    pub(crate) config: NodeConfigView,
    /// What its status says of each condition, and since when.
    pub(crate) since: BTreeMap<String, (bool, String)>,
}

impl Kind for Own {
    type View = OwnView;
    type Key = String;
    type Pool = ();
    type Scope = ClusterResourceScope;
    const GROUP: &'static str = "flock.fritzlab.net";
    const VERSION: &'static str = "v1alpha1";
    const KIND: &'static str = "NodeConfig";
    const PLURAL: &'static str = "nodeconfigs";

    fn key(name: &str) -> Option<String> {
        Some(name.to_owned())
    }

    /// What is wrong with it is a part of the view.
    fn view(mut object: Value) -> Result<Option<OwnView>, String> {
        let generation = object.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or_default();
        let uid = object.pointer("/metadata/uid").and_then(Value::as_str);
        let uid = uid.and_then(|uid| PodUid::parse(uid).ok());
        let since = object.pointer("/status/conditions").and_then(Value::as_array);
        let since = since.into_iter().flatten().filter_map(condition).collect();
        let spec = spec::<NodeConfigSpec>(&mut object);
        Ok(Some(OwnView { uid, config: NodeConfigView { generation, spec }, since }))
    }
}

/// A condition that makes sense.
fn condition(value: &Value) -> Option<(String, (bool, String))> {
    let text = |field: &str| value.get(field)?.as_str();
    let since = text("lastTransitionTime").filter(|since| since.parse::<Timestamp>().is_ok())?;
    Some((text("type")?.to_owned(), (text("status")? == "True", since.to_owned())))
}

/// The `NodeConfig`s of all nodes, of which the pools count.
#[derive(Debug, Clone)]
pub(crate) struct Others;

/// The pools as written.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct PoolsView {
    #[serde(default)]
    pub(crate) cidr6: Vec<String>,
    #[serde(default)]
    pub(crate) cidr4: Vec<String>,
}

impl Kind for Others {
    type View = PoolsView;
    type Key = String;
    type Pool = ();
    type Scope = ClusterResourceScope;
    const GROUP: &'static str = Own::GROUP;
    const VERSION: &'static str = Own::VERSION;
    const KIND: &'static str = Own::KIND;
    const PLURAL: &'static str = Own::PLURAL;

    fn key(name: &str) -> Option<String> {
        Some(name.to_owned())
    }

    fn view(mut object: Value) -> Result<Option<PoolsView>, String> {
        spec(&mut object).map(Some)
    }
}

fn spec<T: DeserializeOwned>(object: &mut Value) -> Result<T, String> {
    match object.get_mut("spec").map(Value::take) {
        None => Err("spec is missing".to_owned()),
        Some(spec) => decode("spec", spec),
    }
}
