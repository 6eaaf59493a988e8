//! Annotations that hold several values, separated by commas.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::PREFIX;
use crate::family::Family;
use crate::iid::Field;
use crate::prefix;
use crate::problem::Problem;
use crate::special::{MAPPED, special_range_of};

/// Most entries of one list; more is a mistake, and a pod's link is set up in one batch.
pub(super) const MAX_ENTRIES: usize = 64;

/// Why an entry is refused, and what to do about it.
type Fault = (String, String);

/// The entries of a list, read one by one: spaces around them do not count, none may be empty or there twice.
fn list<T: PartialEq>(
    key: &str,
    value: &str,
    problems: &mut Vec<Problem>,
    read: impl Fn(&str) -> Result<T, Fault>,
) -> Vec<T> {
    let mut refuse = |text: &str, (reason, fix): Fault| {
        let problem = Problem::text(key, text, reason, fix);
        // Five commas too many are one problem.
        if !problems.contains(&problem) {
            problems.push(problem);
        }
    };
    let entries = value.split(',').count();
    if value.trim().is_empty() {
        refuse(value, ("is empty".to_owned(), "name at least one, or remove the annotation".to_owned()));
        return Vec::new();
    }
    if entries > MAX_ENTRIES {
        refuse(value, (format!("has {entries} entries"), format!("use at most {MAX_ENTRIES}")));
        return Vec::new();
    }
    let mut read_so_far = Vec::new();
    for text in value.split(',').map(str::trim) {
        if text.is_empty() {
            refuse(value, ("has an empty entry".to_owned(), "remove the comma that is too many".to_owned()));
            continue;
        }
        match read(text) {
            Ok(entry) if read_so_far.contains(&entry) => {
                refuse(text, ("is there twice".to_owned(), "keep one of them".to_owned()));
            }
            Ok(entry) => read_so_far.push(entry),
            Err(fault) => refuse(text, fault),
        }
    }
    read_so_far
}

/// `cidr6`, `cidr4`: prefixes of one family.
pub(super) fn prefixes(key: &str, value: &str, family: Family, problems: &mut Vec<Problem>) -> Vec<IpNet> {
    list(key, value, problems, |text| prefix_of(text, family))
}

fn prefix_of(text: &str, family: Family) -> Result<IpNet, Fault> {
    let (example, other) = match family {
        Family::V6 => ("2001:db8:f001::/64", "cidr4"),
        Family::V4 => ("192.0.2.0/26", "cidr6"),
    };
    let net = prefix::read(text, example)?;
    if Family::of(net.addr()) != family {
        let reason = format!("is an {} prefix", Family::of(net.addr()));
        return Err((reason, format!("move it to {PREFIX}/{other}")));
    }
    Ok(net)
}

/// `ip-algo`: what to embed.
pub(super) fn fields(key: &str, value: &str, problems: &mut Vec<Problem>) -> Vec<Field> {
    list(key, value, problems, |text| {
        let meant = Field::ALL.into_iter().find(|field| field.as_str().eq_ignore_ascii_case(text));
        match meant {
            Some(field) if field.as_str() == text => Ok(field),
            Some(field) => Err((NO_FIELD.to_owned(), format!("write \"{field}\""))),
            None => Err((NO_FIELD.to_owned(), "use namespace, pod, image".to_owned())),
        }
    })
}

const NO_FIELD: &str = "is nothing that can be embedded";

/// `anycast`, `addresses`: addresses a pod may have.
pub(super) fn addresses(key: &str, value: &str, problems: &mut Vec<Problem>) -> Vec<IpAddr> {
    list(key, value, problems, address)
}

fn address(text: &str) -> Result<IpAddr, Fault> {
    let fault = |reason: &str, fix: String| Err((reason.to_owned(), fix));
    let plain = text.split(['/', '%']).next().unwrap_or_default();
    let bare = plain.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(plain);
    let Ok(address) = bare.parse::<IpAddr>() else {
        if let Ok(socket) = text.parse::<SocketAddr>() {
            return fault("has a port", format!("write {}", socket.ip()));
        }
        let fix = "write it as in 2001:db8:a::53 or 192.0.2.53";
        return fault("is not an IP address", fix.to_owned());
    };
    match special_range_of(address) {
        Some((what, _)) if what == MAPPED => {
            return Err((format!("is {what}"), format!("write {}", address.to_canonical())));
        }
        Some((what, range)) => {
            let reason = format!("lies in the {what} range {range}");
            return Err((reason, "use a unicast address that a pod can have".to_owned()));
        }
        None => {}
    }
    if text.contains('%') {
        return fault("has a zone", format!("write {address}"));
    }
    if text.contains('/') {
        return fault("has a prefix length", format!("write {address}"));
    }
    if bare != text {
        return fault("is in brackets", format!("write {address}"));
    }
    Ok(address)
}
