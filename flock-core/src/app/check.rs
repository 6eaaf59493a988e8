use std::net::IpAddr;

use super::Node;
use super::drift::drift;
use super::error::CheckError;
use super::lock::AttachmentGuard;
use crate::ports::NetnsPath;

/// A CHECK.
#[derive(Debug, Clone)]
pub struct CheckRequest {
    /// The pod's network namespace.
    pub netns: NetnsPath,
    /// The addresses the runtime remembers.
    pub expected: Vec<IpAddr>,
}

impl Node {
    /// Compares what the runtime remembers, what is allocated and what the kernel has. Changes nothing.
    pub async fn check(&self, guard: &AttachmentGuard, request: &CheckRequest) -> Result<(), CheckError> {
        let attachment = guard.attachment();
        let Some(allocation) = self.state().ipam.get(attachment).cloned() else {
            return Err(CheckError::Unknown(attachment.clone()));
        };
        let mut found = Vec::new();
        let held: Vec<IpAddr> = allocation.addresses.iter().collect();
        for address in request.expected.iter().filter(|address| !held.contains(address)) {
            found.push(format!("address {address} of the previous result is not allocated"));
        }
        for address in held.iter().filter(|address| !request.expected.contains(address)) {
            found.push(format!("address {address} is allocated but not in the previous result"));
        }
        let seen = self.ports.netlink.inspect(attachment, Some(request.netns.clone())).await?;
        match seen {
            None => found.push(format!("link {} is missing", attachment.host_ifname())),
            Some(seen) => found.extend(drift(&allocation, &seen)),
        }
        if let Some(firewall) = &self.ports.firewall {
            let links = firewall.links().await?;
            let known = links.get(&attachment.host_ifname()).map(|link| &link.sources);
            let sources = allocation.held().chain(allocation.anycast.iter().copied());
            for address in sources.filter(|address| !known.is_some_and(|known| known.contains(address))) {
                found.push(format!("the firewall does not let the pod send from {address}"));
            }
        }
        if found.is_empty() {
            Ok(())
        } else {
            Err(CheckError::Drifted { attachment: attachment.clone(), drift: found })
        }
    }
}
