//! The configuration of a node as an operator writes it.

use serde::{Deserialize, Serialize};

use crate::selector::LabelSelectorSpec;

/// `spec` of a NodeConfig as an operator writes it. Everything is text, so that
/// one pass can report every problem.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeConfigSpec {
    /// IPv6 pools of this node.
    #[serde(default)]
    pub cidr6: Vec<String>,
    /// IPv4 pools of this node, /30 or larger.
    #[serde(default)]
    pub cidr4: Vec<String>,
    /// Families a pod gets when its annotations do not say.
    #[serde(default)]
    pub defaults: DefaultsSpec,
    /// How the node speaks BGP.
    pub bgp: BgpSpec,
    /// Who may take which address. Empty: any pod, any address.
    #[serde(default)]
    pub claims: Vec<ClaimSpec>,
}

/// `spec.defaults`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DefaultsSpec {
    /// Default of the annotation `ipv6`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<bool>,
    /// Default of the annotation `ipv4`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<bool>,
}

/// `spec.bgp`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BgpSpec {
    /// Our autonomous system number.
    pub asn: u64,
    /// BGP identifier, an IPv4 address.
    #[serde(default, rename = "routerID", skip_serializing_if = "Option::is_none")]
    pub router_id: Option<String>,
    /// The upstream routers.
    #[serde(default)]
    pub peers: Vec<PeerSpec>,
}

/// One entry of `spec.bgp.peers`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerSpec {
    /// The neighbour's address.
    pub address: String,
    /// The neighbour's autonomous system number.
    pub asn: u64,
}

/// One entry of `spec.claims`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClaimSpec {
    /// Addresses the entry grants.
    pub cidrs: Vec<String>,
    /// `anycast`, `addresses`; empty means both.
    #[serde(default)]
    pub kinds: Vec<String>,
    /// Namespaces the entry is for.
    #[serde(default)]
    pub namespace_selector: LabelSelectorSpec,
}
