use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::app::{Node, State};
use crate::ipam::Allocation;
use crate::ports::{Firewall, FirewallError};

impl Node {
    /// Forgets the flows of released addresses, so that no later owner inherits them.
    pub(in crate::app) async fn forget_flows(&self, firewall: &dyn Firewall) -> Result<(), FirewallError> {
        let freed = self.state().freed.clone();
        if freed.is_empty() {
            return Ok(());
        }
        firewall.forget(&freed).await?;
        let mut state = self.state();
        state.freed.retain(|address| !freed.contains(address));
        Ok(())
    }

    /// Sees to it that no flow of an earlier owner of these addresses is left.
    pub(in crate::app) async fn forget_flows_of(&self, allocation: &Allocation) -> Result<(), FirewallError> {
        let Some(firewall) = &self.ports.firewall else { return Ok(()) };
        let is_due = {
            let state = self.state();
            allocation.held().any(|address| state.freed.contains(&address))
        };
        if is_due { self.forget_flows(&**firewall).await } else { Ok(()) }
    }
}

impl State {
    /// Addresses whose flows are to be forgotten before another pod gets them. Those of an anycast address that other pods of
    /// the node still have are theirs too: these are judged again instead, since they may go to another pod from now on.
    pub(in crate::app) fn free(&mut self, released: &Allocation) {
        let shared: BTreeSet<IpAddr> =
            self.ipam.allocations().flat_map(|held| held.anycast.iter().copied()).collect();
        self.freed.extend(released.held());
        for address in &released.anycast {
            if shared.contains(address) {
                self.rejudge = true;
            } else {
                self.freed.insert(*address);
            }
        }
    }
}
