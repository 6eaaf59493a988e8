//! Between the plain words of the wire and the types of the core, and from errors to CNI codes.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use flock_cni::error::code;
use flock_cni::wire::{Add, Added, AddedIp, Attachment, Check, Failure, Gc, Pod};
use flock_core::app::{AttachError, AttachRequest, Attached, CheckError, CheckRequest, GcError};
use flock_core::ids::{AttachmentId, ContainerId, IdError, IfName, PodKey, PodUid};
use flock_core::ports::{Mac, NetlinkError, NetnsPath, Retry};
use flock_core::route::{GATEWAY4, GATEWAY6};

use crate::entrance;

/// A refusal with a code and a sentence.
pub(crate) fn failure(code: u32, msg: impl Into<String>) -> Failure {
    Failure { code, msg: msg.into(), details: String::new() }
}

/// A name in the environment of the plugin that is not one.
fn bad_name(error: &IdError) -> Failure {
    failure(code::INVALID_ENVIRONMENT, error.to_string())
}

pub(crate) fn attachment(wire: &Attachment) -> Result<AttachmentId, Failure> {
    let container = ContainerId::parse(&wire.container_id).map_err(|error| bad_name(&error))?;
    let ifname = IfName::parse(&wire.ifname).map_err(|error| bad_name(&error))?;
    Ok(AttachmentId::new(container, ifname))
}

fn netns(path: &str) -> Result<NetnsPath, Failure> {
    NetnsPath::parse(path).map_err(|error| failure(code::INVALID_ENVIRONMENT, error))
}

/// `open` is the namespace itself, where the client has sent it.
pub(crate) fn attach_request(wire: Add, open: Option<&OwnedFd>) -> Result<AttachRequest, Failure> {
    let (pod, uid) = match &wire.pod {
        Some(pod) => pod_identity(pod).map_err(|error| bad_name(&error))?,
        None => (None, None),
    };
    let Add { netns: path, annotations, mtu, loopback_runs, .. } = wire;
    let netns = netns(&path)?;
    let entrance = entrance::path(&netns, open);
    Ok(AttachRequest { netns, entrance, pod, uid, annotations, mtu, loopback_runs })
}

fn pod_identity(pod: &Pod) -> Result<(Option<PodKey>, Option<PodUid>), IdError> {
    let key = PodKey::new(&pod.namespace, &pod.name)?;
    let uid = pod.uid.as_deref().map(PodUid::parse).transpose()?;
    Ok((Some(key), uid))
}

pub(crate) fn check_request(wire: Check, open: Option<&OwnedFd>) -> Result<CheckRequest, Failure> {
    let netns = netns(&wire.netns)?;
    Ok(CheckRequest { netns: entrance::path(&netns, open).unwrap_or(netns), expected: wire.expected })
}

/// What GC keeps. An entry that is no name of ours cannot be an attachment of ours: another plugin's.
pub(crate) fn keep(wire: &Gc) -> BTreeSet<AttachmentId> {
    wire.keep.iter().filter_map(|kept| attachment(kept).ok()).collect()
}

pub(crate) fn added(attached: &Attached) -> Added {
    let ips = attached.addresses.iter().map(|address| AddedIp {
        address,
        gateway: if address.is_ipv6() { GATEWAY6.into() } else { GATEWAY4.into() },
    });
    let pod_mac = attached.link.pod.as_ref().map(|pod| mac(pod.mac)).unwrap_or_default();
    Added {
        host_ifname: attached.link.host.ifname.to_string(),
        host_mac: mac(attached.link.host.mac),
        pod_mac,
        mtu: attached.link.host.mtu,
        ips: ips.collect(),
    }
}

fn mac(bytes: Mac) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

pub(crate) fn attach_failure(error: &AttachError) -> Failure {
    let code = match (error.retry(), error) {
        (Retry::Now | Retry::Later, _) => code::TRY_AGAIN,
        (Retry::Never, AttachError::Annotation(_) | AttachError::Plan(_) | AttachError::Ipam(_)) => {
            code::POD_REFUSED
        }
        (Retry::Never, AttachError::Netlink(NetlinkError::Netns { .. })) => code::INVALID_ENVIRONMENT,
        (Retry::Never, AttachError::Mtu { .. }) => code::INVALID_CONFIG,
        (Retry::Never, _) => code::INTERNAL,
    };
    failure(code, chain(error))
}

pub(crate) fn detach_failure(error: &NetlinkError) -> Failure {
    let code = if error.retry() == Retry::Never { code::INTERNAL } else { code::TRY_AGAIN };
    failure(code, chain(error))
}

pub(crate) fn check_failure(error: &CheckError) -> Failure {
    let code = match error {
        CheckError::Unknown(_) => code::UNKNOWN_CONTAINER,
        CheckError::Drifted { .. } => code::DRIFT,
        CheckError::Netlink(_) | CheckError::Firewall(_) => code::INTERNAL,
    };
    failure(code, chain(error))
}

pub(crate) fn gc_failure(error: &GcError) -> Failure {
    failure(code::TRY_AGAIN, chain(error))
}

/// The error and its causes in one sentence, none said twice.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
