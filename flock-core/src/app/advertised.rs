use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::State;
use crate::anycast::{Holder, Role, Shared};
use crate::eligibility::{Evidence, eligibility};
use crate::ids::{AttachmentId, PodKey};
use crate::ipam::Allocation;
use crate::ports::ClusterView;
use crate::route::{host_prefix, in_pools};

/// A prefix that is announced, or would be if its pods were eligible.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Advertised {
    /// The prefix: a pool, or a single address.
    pub prefix: IpNet,
    /// Whether it is announced.
    pub announced: bool,
    /// The pods that have the address; none for a pool.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pods: Vec<Standing>,
}

/// How a pod stands to an address that is advertised on its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Standing {
    /// The pod, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodKey>,
    /// The attachment.
    pub attachment: AttachmentId,
    /// What it does for the address.
    pub standing: Standpoint,
    /// Why it does not serve, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What a pod does for an address that is advertised on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Standpoint {
    /// Packets reach it, and the address is announced for it.
    Serving,
    /// Packets of open flows reach it, and new ones where nobody else serves.
    Draining,
    /// No packets of the address reach it.
    Withheld,
}

impl State {
    /// Every prefix that is announced or withheld: pools, then addresses outside of them, then anycast ones.
    pub(super) fn advertised(&self, view: &ClusterView) -> Vec<Advertised> {
        let Some(config) = &self.config else { return Vec::new() };
        let six = config.cidr6.iter().copied().map(IpNet::V6);
        let pools = six.chain(config.cidr4.iter().copied().map(IpNet::V4));
        let mut advertised: Vec<Advertised> =
            pools.map(|prefix| Advertised { prefix, announced: true, pods: Vec::new() }).collect();
        let evidence = self.evidence(view);
        for allocation in self.ipam.allocations() {
            let alone = allocation.held().filter(|it| !in_pools(*it, &config.cidr6, &config.cidr4));
            advertised.extend(alone.map(|address| alone_at(host_prefix(address), allocation, evidence)));
        }
        advertised.extend(self.shared.iter().map(Advertised::from));
        advertised
    }
}

/// An address that one pod has to itself: its host route stays, so open flows drain.
fn alone_at(prefix: IpNet, allocation: &Allocation, evidence: Evidence<'_>) -> Advertised {
    let withheld = eligibility(allocation, evidence).err();
    let standing = if withheld.is_none() { Standpoint::Serving } else { Standpoint::Draining };
    let pod = Standing {
        pod: allocation.pod.clone(),
        attachment: allocation.attachment.clone(),
        standing,
        reason: withheld.map(|why| why.to_string()),
    };
    Advertised { prefix, announced: withheld.is_none(), pods: vec![pod] }
}

impl From<&Shared> for Advertised {
    fn from(shared: &Shared) -> Self {
        Self {
            prefix: host_prefix(shared.address),
            announced: shared.is_announced(),
            pods: shared.holders.iter().map(Standing::from).collect(),
        }
    }
}

impl From<&Holder> for Standing {
    fn from(holder: &Holder) -> Self {
        let (standing, why) = match &holder.role {
            Role::Serving => (Standpoint::Serving, None),
            Role::Draining(why) => (Standpoint::Draining, Some(why)),
            Role::Withheld(why) => (Standpoint::Withheld, Some(why)),
        };
        Self {
            pod: holder.pod.clone(),
            attachment: holder.attachment.clone(),
            standing,
            reason: why.map(ToString::to_string),
        }
    }
}
