//! What a pod asks for in its annotations.
//!
//! ```
//! use std::collections::BTreeMap;
//! use flock_core::annotation::PodIntent;
//!
//! let pod = |key: &str, value: &str| {
//!     PodIntent::parse(&BTreeMap::from([(format!("flock.fritzlab.net/{key}"), value.to_owned())]))
//! };
//! assert_eq!(pod("ipv4", " False ")?, PodIntent { ipv4: Some(false), ..PodIntent::default() });
//! assert_eq!(
//!     pod("ipv4", "no").unwrap_err().to_string(),
//!     r#"flock.fritzlab.net/ipv4 "no" is neither true nor false: write "false""#,
//! );
//! assert_eq!(
//!     pod("ivp4", "true").unwrap_err().to_string(),
//!     r#"flock.fritzlab.net/ivp4 "true" is not an annotation of flock: use flock.fritzlab.net/ipv4"#,
//! );
//! # Ok::<(), flock_core::annotation::AnnotationError>(())
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::claims::Kind;
use crate::family::Family;
use crate::iid::Field;
use crate::problem::Problem;

mod list;
mod suggest;

/// What the keys of flock's annotations start with, followed by a `/`; also its API group.
pub const PREFIX: &str = "flock.fritzlab.net";

/// The annotations of a pod, read. Keys outside [`PREFIX`] are somebody else's and are not looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodIntent {
    /// `ipv6`: whether the pod gets an IPv6 address; `None` where it does not say.
    pub ipv6: Option<bool>,
    /// `ipv4`: whether the pod gets an IPv4 address; `None` where it does not say.
    pub ipv4: Option<bool>,
    /// `cidr6`: prefixes to allocate from, in order, no host bits, none twice; empty: anywhere.
    pub cidr6: Vec<Ipv6Net>,
    /// `cidr4`: prefixes to allocate from, in order, no host bits, none twice; empty: anywhere.
    pub cidr4: Vec<Ipv4Net>,
    /// `ip-algo`: what to embed in the IPv6 interface identifier, in order, none twice; empty: nothing.
    pub ip_algo: Vec<Field>,
    /// `anycast`: addresses to bind on `lo`: unicast, none twice, none that is also in `addresses`.
    pub anycast: Vec<IpAddr>,
    /// `addresses`: addresses to bind on `eth0`: unicast, none twice. The first of each family takes the
    /// place of the allocation.
    pub addresses: Vec<IpAddr>,
}

impl PodIntent {
    /// Reads annotations. The error holds every problem, not the first.
    pub fn parse(annotations: &BTreeMap<String, String>) -> Result<Self, AnnotationError> {
        let mut intent = Self::default();
        let mut problems = Vec::new();
        for (key, value) in annotations {
            match key.split_once('/') {
                Some((PREFIX, name)) => intent.read(key, name, value, &mut problems),
                // Kubernetes takes a key in any case; left out, it would pass for nothing asked.
                Some((prefix, name)) if prefix.eq_ignore_ascii_case(PREFIX) => {
                    problems.push(unknown(key, name, value));
                }
                _ => {}
            }
        }
        for address in intent.anycast.iter().filter(|address| intent.addresses.contains(address)) {
            problems.push(Problem::text(
                format!("{PREFIX}/{}", Kind::Anycast),
                &address.to_string(),
                format!("is also in {PREFIX}/{}", Kind::Addresses),
                "keep it where it belongs: shared by several pods, or this pod's own",
            ));
        }
        problems.sort_by(|a, b| a.field.cmp(&b.field));
        if problems.is_empty() { Ok(intent) } else { Err(AnnotationError(problems)) }
    }

    fn read(&mut self, key: &str, name: &str, value: &str, problems: &mut Vec<Problem>) {
        match name {
            "ipv6" => self.ipv6 = boolean(key, value, problems),
            "ipv4" => self.ipv4 = boolean(key, value, problems),
            "cidr6" => {
                let nets = list::prefixes(key, value, Family::V6, problems).into_iter();
                self.cidr6 =
                    nets.filter_map(|net| if let IpNet::V6(net) = net { Some(net) } else { None }).collect();
            }
            "cidr4" => {
                let nets = list::prefixes(key, value, Family::V4, problems).into_iter();
                self.cidr4 =
                    nets.filter_map(|net| if let IpNet::V4(net) = net { Some(net) } else { None }).collect();
            }
            "ip-algo" => self.ip_algo = list::fields(key, value, problems),
            "anycast" => self.anycast = list::addresses(key, value, problems),
            "addresses" => self.addresses = list::addresses(key, value, problems),
            _ => problems.push(unknown(key, name, value)),
        }
    }
}

/// Whether a key is one of flock's, known or not.
pub fn is_ours(key: &str) -> bool {
    key.split_once('/').is_some_and(|(prefix, _)| prefix.eq_ignore_ascii_case(PREFIX))
}

fn unknown(key: &str, name: &str, value: &str) -> Problem {
    Problem::text(shown(key), value, "is not an annotation of flock", suggest::suggestion(name))
}

/// A key that is not one of ours. It is at most 317 plain bytes in Kubernetes, but not in a manifest.
fn shown(key: &str) -> String {
    key.chars().take(120).flat_map(char::escape_debug).collect()
}

/// Every problem of a pod's annotations, in the order of their keys; at least one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", Problem::join(.0))]
pub struct AnnotationError(Vec<Problem>);

impl AnnotationError {
    /// The problems one by one.
    pub fn problems(&self) -> &[Problem] {
        &self.0
    }
}

/// Every key, without its prefix.
const KEYS: [&str; 7] = ["ipv6", "ipv4", "cidr6", "cidr4", "ip-algo", "anycast", "addresses"];

fn boolean(key: &str, value: &str, problems: &mut Vec<Problem>) -> Option<bool> {
    let word = value.trim().to_ascii_lowercase();
    let fix = match word.as_str() {
        "true" => return Some(true),
        "false" => return Some(false),
        "1" | "y" | "yes" | "on" | "enable" | "enabled" => r#"write "true""#,
        "0" | "n" | "no" | "off" | "disable" | "disabled" | "none" => r#"write "false""#,
        _ => r#"write "true" or "false""#,
    };
    problems.push(Problem::text(key, value, "is neither true nor false", fix));
    None
}
