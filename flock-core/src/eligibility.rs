//! May the addresses of a pod be advertised (interfaces.md section 9)?

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::family::Family;
use crate::ipam::{Allocation, Phase};
use crate::ports::ClusterView;

/// Why an address of a pod is not advertised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Withheld {
    /// Its ADD is not finished.
    Pending,
    /// The pod is not known, or another one has its name now.
    Unknown,
    /// The pod's condition `Ready` is not true.
    NotReady,
    /// The pod is being deleted.
    Terminating,
    /// The pod has no address of its own of the anycast address's family to send packets to.
    NoUnicast {
        /// The family.
        family: Family,
    },
}

impl fmt::Display for Withheld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pending => f.write_str("its ADD is not finished"),
            Self::Unknown => f.write_str("the pod is not known"),
            Self::NotReady => f.write_str("the pod is not Ready"),
            Self::Terminating => f.write_str("the pod is terminating"),
            Self::NoUnicast { family } => write!(f, "the pod has no {family} address of its own"),
        }
    }
}

/// The allocation is committed, and the pod behind it exists, is the same one (UIDs decide), Ready and not
/// terminating. Where the runtime named no pod there is nobody to ask, and the attachment itself is the life
/// of the address.
pub fn eligibility(allocation: &Allocation, view: &ClusterView) -> Result<(), Withheld> {
    if allocation.phase != Phase::Committed {
        return Err(Withheld::Pending);
    }
    let Some(key) = &allocation.pod else { return Ok(()) };
    match view.pods.get(key).filter(|pod| pod.is(allocation.uid.as_ref())) {
        None => Err(Withheld::Unknown),
        Some(pod) if pod.terminating => Err(Withheld::Terminating),
        Some(pod) if !pod.ready => Err(Withheld::NotReady),
        Some(_) => Ok(()),
    }
}
