//! Prefixes as people write them.

use std::net::IpAddr;

use ipnet::IpNet;

/// Reads `ADDRESS/LENGTH` without host bits; else the reason and the fix of a
/// [`Problem`](crate::problem::Problem). `example` is a prefix the fix may show.
pub(crate) fn read(text: &str, example: &str) -> Result<IpNet, (String, String)> {
    let Ok(net) = text.parse::<IpNet>() else {
        return Err(match (text.parse::<IpAddr>(), text.rsplit_once('/')) {
            (Ok(address), _) => {
                ("has no prefix length".to_owned(), format!("write {}", IpNet::from(address)))
            }
            (_, Some((address, length))) if address.parse::<IpAddr>().is_ok() => {
                let longest = if address.contains(':') { 128 } else { 32 };
                let reason = format!("has the prefix length {}", crate::problem::Problem::quote(length));
                (reason, format!("use a number from 0 to {longest}"))
            }
            _ => ("is not a prefix".to_owned(), format!("write ADDRESS/LENGTH, as in {example}")),
        });
    };
    if net != net.trunc() {
        return Err(("has host bits set".to_owned(), format!("write {}", net.trunc())));
    }
    Ok(net)
}
