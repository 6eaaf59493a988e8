use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Mutex;

use tokio::sync::watch;

use super::error::StartError;
use super::{Node, Ports, Settings, State, lock};
use crate::ids::AttachmentId;
use crate::ipam::{Allocation, Ipam, Phase, Snapshot};
use crate::ports::{LinkIdentity, LinkState, StoreError};
use crate::route::NextHop;
use crate::time::Timestamp;

impl Node {
    /// Takes over what an earlier run left: the state file, and what the kernel says, which wins. Sets the
    /// kernel up for forwarding. Returns the node and what an operator should know.
    ///
    /// | state file | link | outcome |
    /// |---|---|---|
    /// | committed | any | stays; a missing link is the runtime's to report by DEL |
    /// | pending | yes | committed: the pod has its addresses |
    /// | pending | no | released: nobody was told of it |
    /// | - | yes | committed, from the link's alias |
    /// | other addresses than the links | yes | as the links say |
    /// | of another boot | - | dropped: no link survives a boot |
    pub async fn start(
        settings: Settings,
        ports: Ports,
        now: Timestamp,
    ) -> Result<(Self, Vec<String>), StartError> {
        let mut notices = ports.netlink.prepare_node().await?;
        let facts = ports.netlink.node().await?;
        let saved = match ports.store.load().await {
            Ok(snapshot) => snapshot,
            // The store keeps the file aside. Links know their addresses, so the node goes on.
            Err(error @ StoreError::Corrupt { .. }) => {
                notices.push(format!("{error}; allocations are rebuilt from the kernel"));
                None
            }
            Err(error) => return Err(error.into()),
        };
        let links = ports.netlink.attachments().await?;
        let generation = saved.as_ref().map_or(0, |snapshot| snapshot.generation);
        let ipam = take_over(saved, &links, &settings.boot_id, now, &mut notices)?;
        let state = Mutex::new(State { ipam, saved: generation, facts, ..State::default() });
        let node = Self {
            settings,
            ports,
            locks: lock::AttachmentLocks::default(),
            state,
            changes: watch::Sender::new(0),
            firewall_changes: watch::Sender::new(0),
            table: tokio::sync::Mutex::default(),
        };
        if let Err(error) = node.persist().await {
            notices.push(format!("{error}; what this start found out is written later"));
        }
        if let Err(error) = node.start_firewall().await {
            notices.push(format!("{error}; no pod is attached before the firewall can be written"));
        }
        node.demand();
        Ok((node, notices))
    }
}

fn take_over(
    saved: Option<Snapshot>,
    links: &[LinkState],
    boot_id: &str,
    now: Timestamp,
    notices: &mut Vec<String>,
) -> Result<Ipam, StartError> {
    let mut ipam = match saved {
        Some(snapshot) if snapshot.boot_id == boot_id => Ipam::restore(snapshot)?,
        Some(snapshot) => {
            notices
                .push(format!("the node was rebooted: {} allocations dropped", snapshot.allocations.len()));
            // Newer than what is saved, so that it is written.
            let generation = snapshot.generation.saturating_add(1);
            Ipam::restore(Snapshot { version: Snapshot::VERSION, generation, ..Snapshot::default() })?
        }
        None => Ipam::default(),
    };
    for contradicted in contradicted(&ipam, links) {
        notices.push(format!("{contradicted} is released: the kernel says otherwise"));
        ipam.release(&contradicted, now);
    }
    for link in links.iter().filter(|link| link.identity.is_none()) {
        notices.push(format!(
            "link {} carries no readable alias: it is removed unless it gets one",
            link.host.ifname
        ));
    }
    for (link, identity) in identified(links) {
        if ipam.commit(&identity.attachment) {
            continue;
        }
        let allocation = Allocation {
            attachment: identity.attachment.clone(),
            pod: identity.pod.clone(),
            uid: identity.uid.clone(),
            netns: None,
            addresses: identity.addresses,
            extra: carried(link).filter(|address| !identity.addresses.contains(*address)).collect(),
            anycast: link.host.anycast.clone(),
            phase: Phase::Committed,
        };
        match ipam.adopt(allocation) {
            Ok(()) => notices.push(format!("{} is taken over from the kernel", identity.attachment)),
            Err(error) => notices.push(format!("{} cannot be taken over: {error}", identity.attachment)),
        }
    }
    let unfinished: Vec<AttachmentId> = ipam
        .allocations()
        .filter(|allocation| allocation.phase == Phase::Pending)
        .map(|allocation| allocation.attachment.clone())
        .collect();
    for attachment in unfinished {
        notices.push(format!("{attachment} was never finished and is released"));
        ipam.release(&attachment, now);
    }
    Ok(ipam)
}

/// Links that say whose they are.
fn identified(links: &[LinkState]) -> impl Iterator<Item = (&LinkState, &LinkIdentity)> {
    links.iter().filter_map(|link| Some((link, link.identity.as_ref()?)))
}

/// Addresses the kernel sends through a link, in order.
fn carried(link: &LinkState) -> impl Iterator<Item = IpAddr> {
    let through = NextHop::Link(link.host.ifname.clone());
    let named = link.identity.iter().flat_map(|identity| identity.addresses.iter());
    let routed = link.host.routes.iter().filter(move |route| route.next_hop.as_ref() == Some(&through));
    let routed = routed.map(|route| route.destination).filter(|net| net.prefix_len() == net.max_prefix_len());
    named.chain(routed.map(|net| net.addr()))
}

fn sorted(addresses: &[IpAddr]) -> BTreeSet<&IpAddr> {
    addresses.iter().collect()
}

/// Allocations of the file that the kernel, which is the record, speaks against: the attachment's own link
/// carries other addresses, or it has no link and somebody else's carries one of its addresses.
fn contradicted(ipam: &Ipam, links: &[LinkState]) -> Vec<AttachmentId> {
    let linked: BTreeMap<_, _> =
        identified(links).map(|(link, identity)| (&identity.attachment, (link, identity))).collect();
    let carried: BTreeSet<IpAddr> = identified(links).flat_map(|(link, _)| carried(link)).collect();
    ipam.allocations()
        .filter(|held| match linked.get(&held.attachment) {
            // Routes come and go with the state of a link: they do not speak against extra addresses.
            Some((link, identity)) => {
                identity.addresses != held.addresses
                    || identity.more == held.extra.is_empty()
                    || sorted(&held.anycast) != sorted(&link.host.anycast)
            }
            None => held.held().any(|address| carried.contains(&address)),
        })
        .map(|held| held.attachment.clone())
        .collect()
}
