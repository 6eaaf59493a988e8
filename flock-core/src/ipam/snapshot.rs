use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::pool::number;
use super::{Allocation, Ipam, IpamError};
use crate::time::Timestamp;

/// A released address that is not handed out again yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cooling {
    /// The address.
    pub address: IpAddr,
    /// When it was released.
    pub since: Timestamp,
}

/// Everything the allocator knows, for the state file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// Form of this record; [`Snapshot::VERSION`].
    pub version: u32,
    /// The boot it belongs to: after another boot no link is left, and so no allocation.
    pub boot_id: String,
    /// Counts changes within a boot and over agent restarts; the larger is the newer.
    pub generation: u64,
    /// Every allocation, in the order of attachment IDs.
    pub allocations: Vec<Allocation>,
    /// Every resting address, oldest first.
    pub cooling: Vec<Cooling>,
}

impl Snapshot {
    /// The form written today.
    pub const VERSION: u32 = 1;

    /// Largest generation accepted: nobody gets there by counting, and there is room to count on.
    const MAX_GENERATION: u64 = u64::MAX / 2;
}

impl Ipam {
    /// Everything but pools and node addresses, which come from elsewhere at each start. Its generation is
    /// larger than that of every earlier snapshot that differs in an allocation.
    pub fn snapshot(&self, boot_id: &str) -> Snapshot {
        let cooling = self.v6.cooling().chain(self.v4.cooling());
        let mut cooling: Vec<Cooling> = cooling.map(|(since, address)| Cooling { address, since }).collect();
        cooling.sort_by_key(|it| (it.since, it.address));
        Snapshot {
            version: Snapshot::VERSION,
            boot_id: boot_id.to_owned(),
            generation: self.generation,
            allocations: self.allocations().cloned().collect(),
            cooling,
        }
    }

    /// An allocator that knows what the snapshot says. It has no pools yet, and it does not look at the
    /// boot: of another boot, there is nothing to restore.
    ///
    /// ```
    /// use flock_core::ipam::{Ipam, Snapshot};
    ///
    /// let empty = Ipam::default().snapshot("b1");
    /// assert_eq!(Ipam::restore(empty.clone())?.snapshot("b1"), empty);
    ///
    /// let tomorrow = Snapshot { version: 2, ..empty };
    /// assert!(Ipam::restore(tomorrow).is_err());
    /// # Ok::<(), flock_core::ipam::IpamError>(())
    /// ```
    pub fn restore(snapshot: Snapshot) -> Result<Self, IpamError> {
        let bad = |reason: String| IpamError::BadSnapshot { reason };
        let Snapshot { version, generation, allocations, cooling, .. } = snapshot;
        if version != Snapshot::VERSION {
            return Err(bad(format!("version {version} is not {}", Snapshot::VERSION)));
        }
        if generation > Snapshot::MAX_GENERATION {
            return Err(bad(format!("generation {generation} cannot have been counted")));
        }
        let mut ipam = Self::default();
        for allocation in allocations {
            if ipam.get(&allocation.attachment).is_some() {
                return Err(bad(format!("attachment {} is there twice", allocation.attachment)));
            }
            ipam.adopt(allocation).map_err(|error| bad(error.to_string()))?;
        }
        for Cooling { address, since } in cooling {
            if let Some(holder) = ipam.holder(address) {
                let attachment = &holder.attachment;
                return Err(bad(format!("address {address} is cooling down and held by {attachment}")));
            }
            let space = ipam.space_mut(address);
            if space.is_shared(number(address)) {
                return Err(bad(format!("address {address} is cooling down and shared")));
            }
            if space.is_cooling(number(address)) {
                return Err(bad(format!("address {address} is cooling down twice")));
            }
            space.cool(number(address), since);
        }
        ipam.generation = generation;
        Ok(ipam)
    }
}
