use ipnet::IpNet;

use super::ClaimSpec;
use crate::claims::{Claim, Kind};
use crate::family::Family;
use crate::prefix;
use crate::problem::Problem;
use crate::selector::LabelSelector;
use crate::special::special_ranges;

/// The entries of `spec.claims`; what is wrong with them joins `problems`.
pub(super) fn claims(specs: &[ClaimSpec], problems: &mut Vec<Problem>) -> Vec<Claim> {
    specs.iter().enumerate().map(|(index, spec)| claim(spec, index, problems)).collect()
}

fn claim(spec: &ClaimSpec, index: usize, problems: &mut Vec<Problem>) -> Claim {
    let field = format!("spec.claims[{index}]");
    Claim {
        cidrs: cidrs(&spec.cidrs, &format!("{field}.cidrs"), problems),
        kinds: kinds(&spec.kinds, &format!("{field}.kinds"), problems),
        namespaces: LabelSelector::validate(
            &spec.namespace_selector,
            &format!("{field}.namespaceSelector"),
            problems,
        ),
    }
}

fn cidrs(texts: &[String], field: &str, problems: &mut Vec<Problem>) -> Vec<IpNet> {
    if texts.is_empty() {
        problems.push(Problem::new(
            field,
            &"[]",
            "covers no address",
            "add a prefix, as in 2001:db8:a::/64, or remove the entry",
        ));
    }
    let mut nets = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        let field = format!("{field}[{index}]");
        match cidr(text) {
            Ok(net) if nets.contains(&net) => {
                problems.push(Problem::text(field, text, "is there twice", "keep one of them"));
            }
            Ok(net) => nets.push(net),
            Err((reason, fix)) => problems.push(Problem::text(field, text, reason, fix)),
        }
    }
    nets
}

fn cidr(text: &str) -> Result<IpNet, (String, String)> {
    let net = prefix::read(text, "2001:db8:a::/64 or 192.0.2.0/26")?;
    // A prefix around such a range is fine: no pod can ask for an address of the range.
    let special = special_ranges(Family::of(net.addr())).find(|(_, range)| range.contains(&net));
    match special {
        Some((what, range)) => {
            Err((format!("lies in the {what} range {range}"), "use addresses that a pod can have".to_owned()))
        }
        None => Ok(net),
    }
}

/// None written means all.
fn kinds(texts: &[String], field: &str, problems: &mut Vec<Problem>) -> Vec<Kind> {
    if texts.is_empty() {
        return Kind::ALL.to_vec();
    }
    let mut kinds = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        let field = format!("{field}[{index}]");
        match Kind::ALL.into_iter().find(|kind| kind.as_str() == text) {
            Some(kind) if kinds.contains(&kind) => {
                problems.push(Problem::text(field, text, "is there twice", "keep one of them"));
            }
            Some(kind) => kinds.push(kind),
            None => {
                let fix = match text.trim().to_ascii_lowercase().as_str() {
                    "anycast" => r#"write "anycast""#,
                    "addresses" | "address" => r#"write "addresses""#,
                    _ => "use anycast or addresses, or leave the field out for both",
                };
                problems.push(Problem::text(field, text, "is not a kind of claim", fix));
            }
        }
    }
    kinds
}
