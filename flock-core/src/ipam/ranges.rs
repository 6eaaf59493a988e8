use ipnet::IpNet;

use super::pool::{Target, embedded, targets};
use super::space::SplitMix64;
use super::{Ipam, IpamError, Request};
use crate::family::Family;

impl Ipam {
    /// Where [`allocate`](Self::allocate) would choose an address of a family, in the order it tries: the node's
    /// pools, the part of them asked for, or the parts of that which carry the identity. Empty where none is
    /// chosen, since none is wanted or the pod brings one along.
    pub fn ranges(&self, request: &Request, family: Family) -> Result<Vec<IpNet>, IpamError> {
        if request.given.iter().any(|address| Family::of(*address) == family) {
            return Ok(Vec::new());
        }
        let targets = match family {
            Family::V6 => targets(family, &request.v6, self.v6.pools())?,
            Family::V4 => targets(family, &request.v4, self.v4.pools())?,
        };
        let mut targets = targets.unwrap_or_default();
        if let (Family::V6, Some(embedding), false) = (family, &request.embed, targets.is_empty()) {
            // Which of them comes first is left to chance; any seed gives them all.
            targets = embedded(embedding, &targets, &mut SplitMix64::new(0))?;
            targets.sort_by_key(|target| target.range.first);
        }
        Ok(targets.iter().map(|Target { range, .. }| range.net).collect())
    }
}
