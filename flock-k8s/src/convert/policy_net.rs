//! `ipBlock` of a NetworkPolicy.

use flock_core::policy::PolicyPeer;
use flock_core::prefix;
use flock_core::problem::Problem;
use ipnet::IpNet;
use serde::Deserialize;

/// As written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IpBlock {
    cidr: String,
    except: Option<Vec<String>>,
}

impl IpBlock {
    pub(super) fn cidr(&self) -> &str {
        &self.cidr
    }
}

/// The addresses of a block; what is wrong joins `problems`.
pub(super) fn read(block: &IpBlock, field: &str, problems: &mut Vec<Problem>) -> Option<PolicyPeer> {
    let cidr = net(&block.cidr, &format!("{field}.cidr"), problems);
    let mut except = Vec::new();
    for (index, text) in block.except.iter().flatten().enumerate() {
        let field = format!("{field}.except[{index}]");
        let Some(part) = net(text, &field, problems) else { continue };
        // Without the block there is nothing it could be a part of.
        let Some(cidr) = cidr else { continue };
        if cidr.contains(&part) && cidr != part {
            except.push(part);
            continue;
        }
        let (reason, fix) = if cidr == part {
            (format!("is all of {cidr}"), "remove the whole entry".to_owned())
        } else {
            (format!("is not within {cidr}"), format!("use a part of {cidr}, or remove it"))
        };
        problems.push(Problem::text(field, text, reason, fix));
    }
    except.sort_unstable();
    except.dedup();
    cidr.map(|cidr| PolicyPeer::Net { cidr, except })
}

/// A prefix, without its host bits: the API takes them, and means the network.
pub(super) fn net(text: &str, field: &str, problems: &mut Vec<Problem>) -> Option<IpNet> {
    if let Some(net) = prefix::parse(text) {
        return Some(net.trunc());
    }
    if let Err((reason, fix)) = prefix::read(text, "192.0.2.0/24") {
        problems.push(Problem::text(field, text, reason, fix));
    }
    None
}
