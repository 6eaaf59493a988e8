use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::Objects;
use crate::ids::NodeName;
use crate::policy::{FlowEnd, FlowError, FlowExplanation, PolicyPod, PolicyView, Service, explain_flow};
use crate::ports::PodView;

/// Whether the policies of these objects let flows from one end to the other pass, and by which rule. A pod whose
/// status has no address yet stands as one that no policy names by mistake: see [`is_stand_in`].
///
/// ```
/// use std::sync::Arc;
/// use flock_core::plan::{Objects, flow};
/// use flock_core::policy::{NetworkPolicy, PolicyKey};
/// # use flock_core::testing::pod_view;
///
/// let mut objects = Objects::default();
/// objects.pods.extend([pod_view("shop/web"), pod_view("shop/db")].map(Arc::new));
/// let key = PolicyKey { namespace: "shop".to_owned(), name: "closed".to_owned() };
/// objects.policies.push(Arc::new(NetworkPolicy::closed(key)));
///
/// let told = flow(&objects, &"shop/web".parse()?, &"shop/db".parse()?, "tcp/80".parse()?)?;
/// assert!(told.flows.iter().all(|flow| !flow.passes));
/// # Ok::<(), flock_core::policy::FlowError>(())
/// ```
pub fn flow(
    objects: &Objects,
    from: &FlowEnd,
    to: &FlowEnd,
    service: Service,
) -> Result<FlowExplanation, FlowError> {
    explain_flow(&view(objects), &[], from, to, service)
}

/// The objects as policies see them. Every pod stands on some node, whether it says so or not.
fn view(objects: &Objects) -> PolicyView {
    let pods = objects.pods.iter().zip(1_u32..).filter_map(|(pod, number)| {
        let node = pod.node.clone().or_else(|| NodeName::parse("any").ok());
        let mut pod = PolicyPod::of(&PodView { node, ..(**pod).clone() })?;
        if pod.pod_ips.is_empty() {
            pod.pod_ips = stand_ins(number).into();
        }
        Some((pod.key.clone(), Arc::new(pod)))
    });
    let namespaces = objects.namespaces.iter();
    PolicyView {
        complete: true,
        policies: Arc::new(objects.policies.iter().map(|one| (one.key.clone(), Arc::clone(one))).collect()),
        cluster: Arc::new(
            objects.cluster_policies.iter().map(|one| (one.name.clone(), Arc::clone(one))).collect(),
        ),
        namespaces: Arc::new(
            namespaces.map(|(name, labels)| (name.clone(), Arc::new(labels.clone()))).collect(),
        ),
        pods: Arc::new(pods.collect::<BTreeMap<_, _>>()),
        ..PolicyView::default()
    }
}

/// Addresses for a pod that has none yet, out of the discard prefix of IPv6 (RFC 6666) and the reserved block of IPv4
/// (RFC 1112 section 4): only the widest `ipBlock` holds them.
fn stand_ins(number: u32) -> [IpAddr; 2] {
    const DISCARD: u128 = 0x0100 << 112;
    const RESERVED: u32 = 240 << 24;
    [
        Ipv6Addr::from_bits(DISCARD | u128::from(number)).into(),
        Ipv4Addr::from_bits(RESERVED | number & 0x00ff_ffff).into(),
    ]
}

/// Whether an address stands for a pod that has none yet.
pub fn is_stand_in(address: IpAddr) -> bool {
    match address {
        IpAddr::V6(v6) => v6.segments().starts_with(&[0x0100, 0, 0, 0]),
        IpAddr::V4(v4) => v4.octets().starts_with(&[240]),
    }
}
