//! NodeConfig as the API server knows it: the schema of the CRD with its rules, and its conversion into the
//! terms of the core. What the rules say is what [`NodeConfig::validate`] says, as far as CEL can; the core has
//! the last word.
//!
//! [`NodeConfig::validate`]: flock_core::config::NodeConfig::validate

mod rules;
mod status;

use std::collections::BTreeMap;

use flock_core::config::{BgpSpec, ClaimSpec, DefaultsSpec, NodeConfigSpec, PeerSpec};
use flock_core::selector::{LabelRequirementSpec, LabelSelectorSpec};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{CustomResource, CustomResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::status::{BgpSession, Pool, Status, StatusCondition};

/// The definition of NodeConfig, as it is given to the API server.
pub fn crd() -> CustomResourceDefinition {
    NodeConfig::crd()
}

/// The same as a file: what `deploy/crd.yaml` holds.
pub fn crd_yaml() -> Result<String, serde_saphyr::SerializeError> {
    let yaml = serde_saphyr::to_string(&crd())?;
    Ok(format!("# Written by `cargo xtask crd` from flock-k8s/src/crd.rs.\n{yaml}"))
}

/// The addresses of this node's pods, and how the network hears of them. Its name is the name of the node.
#[derive(Debug, Clone, PartialEq, Eq, CustomResource, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "flock.fritzlab.net",
    version = "v1alpha1",
    kind = "NodeConfig",
    doc = "What flock does on one node: the pools its pods get addresses from, the routers that hear of them, and \
           who may take an address by annotation. It has the name of the node.",
    shortname = "fnc",
    category = "flock",
    derive = "PartialEq",
    status = "Status",
    printcolumn = r#"{"name": "ASN", "type": "integer", "jsonPath": ".spec.bgp.asn", "description": "Autonomous system number of the node"}"#,
    printcolumn = r#"{"name": "IPv6", "type": "string", "jsonPath": ".spec.cidr6", "description": "IPv6 pools"}"#,
    printcolumn = r#"{"name": "IPv4", "type": "string", "jsonPath": ".spec.cidr4", "description": "IPv4 pools"}"#,
    printcolumn = r#"{"name": "Sessions", "type": "string", "jsonPath": ".status.sessions", "description": "BGP sessions that are up, of those configured"}"#,
    printcolumn = r#"{"name": "Pods", "type": "integer", "jsonPath": ".status.pods", "description": "Pods with addresses of flock"}"#,
    printcolumn = r#"{"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Ready')].status", "description": "Whether pods can be attached"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::node()))]
pub struct Spec {
    /// IPv6 pools of this node, such as `2001:db8:f001::/64`. No pool may overlap another.
    #[serde(default)]
    #[schemars(schema_with = "rules::cidr6")]
    pub cidr6: Vec<String>,
    /// IPv4 pools of this node, /30 or larger, such as `192.0.2.0/24`. No pool may overlap another.
    #[serde(default)]
    #[schemars(schema_with = "rules::cidr4")]
    pub cidr4: Vec<String>,
    /// Address families of a pod whose annotations do not say.
    #[serde(default)]
    pub defaults: Defaults,
    /// How the node speaks BGP.
    pub bgp: Bgp,
    /// Who may take which address by the annotations `anycast` and `addresses`. Empty: any pod, any address.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub claims: Vec<Claim>,
}

/// Address families of a pod whose annotations do not say. Where a field is missing: whether there is a pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Defaults {
    /// Whether a pod gets an IPv6 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<bool>,
    /// Whether a pod gets an IPv4 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<bool>,
}

/// How the node speaks BGP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Bgp {
    /// Autonomous system number of the node, 1 to 4294967294 less the reserved ones.
    #[schemars(schema_with = "rules::asn")]
    pub asn: u64,
    /// BGP identifier, an IPv4 address. Not given: the node's primary one, else one derived from its name.
    #[serde(default, rename = "routerID", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "rules::router_id")]
    pub router_id: Option<String>,
    /// The upstream routers.
    #[serde(default)]
    #[schemars(length(max = 16), extend("x-kubernetes-validations" = rules::peers()))]
    pub peers: Vec<Peer>,
}

/// An upstream router.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Peer {
    /// Its address, outside every pool of the node: without prefix length, port or zone, not link-local.
    #[schemars(schema_with = "rules::peer_address")]
    pub address: String,
    /// Its autonomous system number, 1 to 4294967294 less the reserved ones.
    #[schemars(schema_with = "rules::asn")]
    pub asn: u64,
}

/// One permission to take addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// The addresses that may be taken, such as `2001:db8:a::/64` or `192.0.2.0/26`; at least one prefix.
    #[schemars(schema_with = "rules::claim_cidrs")]
    pub cidrs: Vec<String>,
    /// What they may be taken for: `anycast`, `addresses`. Empty: both.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "rules::kinds")]
    pub kinds: Vec<String>,
    /// The namespaces whose pods may take them, as in NetworkPolicy. Empty: all.
    #[serde(default, skip_serializing_if = "Selector::is_empty")]
    pub namespace_selector: Selector,
}

/// A label selector as in NetworkPolicy: all of it has to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Selector {
    /// Labels that must have exactly these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "rules::match_labels")]
    pub match_labels: BTreeMap<String, String>,
    /// Requirements on labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub match_expressions: Vec<Requirement>,
}

/// A requirement on a label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = rules::requirement()))]
pub struct Requirement {
    /// The label.
    #[schemars(schema_with = "rules::label_key")]
    pub key: String,
    /// How it is compared: `In`, `NotIn`, `Exists`, `DoesNotExist`.
    #[schemars(schema_with = "rules::operator")]
    pub operator: String,
    /// The values for `In` and `NotIn`; empty for the others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "rules::label_values")]
    pub values: Vec<String>,
}

impl Selector {
    /// Whether nothing is asked for.
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl From<Spec> for NodeConfigSpec {
    fn from(spec: Spec) -> Self {
        let Spec { cidr6, cidr4, defaults: Defaults { ipv6, ipv4 }, bgp, claims } = spec;
        let peers = bgp.peers.into_iter().map(|Peer { address, asn }| PeerSpec { address, asn });
        Self {
            cidr6,
            cidr4,
            defaults: DefaultsSpec { ipv6, ipv4 },
            bgp: BgpSpec { asn: bgp.asn, router_id: bgp.router_id, peers: peers.collect() },
            claims: claims.into_iter().map(ClaimSpec::from).collect(),
        }
    }
}

impl From<Claim> for ClaimSpec {
    fn from(claim: Claim) -> Self {
        let Claim { cidrs, kinds, namespace_selector: Selector { match_labels, match_expressions } } = claim;
        let requirement =
            |Requirement { key, operator, values }| LabelRequirementSpec { key, operator, values };
        let match_expressions = match_expressions.into_iter().map(requirement).collect();
        Self { cidrs, kinds, namespace_selector: LabelSelectorSpec { match_labels, match_expressions } }
    }
}
