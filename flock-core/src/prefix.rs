//! Prefixes as people write them.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::problem::Problem;

/// Reads `ADDRESS/LENGTH`, host bits and all. As strict as the standard library is with addresses: no leading
/// zeros, which some read as octal.
pub fn parse(text: &str) -> Option<IpNet> {
    let (address, length) = text.split_once('/')?;
    let plain = length == "0" || !length.starts_with(['0', '+']);
    let length = length.parse().ok().filter(|_| plain)?;
    IpNet::new(address.parse().ok()?, length).ok()
}

/// Reads `ADDRESS/LENGTH` without host bits; else the reason and the fix of a [`Problem`]. `example` is a
/// prefix the fix may show.
pub fn read(text: &str, example: &str) -> Result<IpNet, (String, String)> {
    let Some(net) = parse(text) else {
        return Err(match text.parse::<IpAddr>() {
            Ok(address) => ("has no prefix length".to_owned(), format!("write {}", IpNet::from(address))),
            Err(_) => near_miss(text).unwrap_or_else(|| {
                ("is not a prefix".to_owned(), format!("write ADDRESS/LENGTH, as in {example}"))
            }),
        });
    };
    if net != net.trunc() {
        return Err(("has host bits set".to_owned(), format!("write {}", net.trunc())));
    }
    Ok(net)
}

/// The reason and the fix for what is not quite a prefix.
pub(crate) fn near_miss(text: &str) -> Option<(String, String)> {
    let (address, length) = text.split_once('/')?;
    // `IpNet` takes leading zeros.
    if let Ok(net) = text.parse::<IpNet>() {
        return Some(("has a leading zero".to_owned(), format!("write {net}")));
    }
    address.parse::<IpAddr>().ok()?;
    let longest = if address.contains(':') { 128 } else { 32 };
    let reason = format!("has the prefix length {}", Problem::quote(length));
    Some((reason, format!("use a number from 0 to {longest}")))
}
