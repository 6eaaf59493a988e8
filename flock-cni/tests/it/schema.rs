//! What the CNI specification says of the documents a plugin prints, version by version, written down by
//! hand: which keys must, may and must not be there, and what their values are.

use std::net::IpAddr;

use serde_json::{Map, Value};

type Check = Result<(), String>;

/// The keys of an object: those it must have, and those it may have besides.
fn keys<'a>(
    what: &str,
    value: &'a Value,
    must: &[&str],
    may: &[&str],
) -> Result<&'a Map<String, Value>, String> {
    let object = value.as_object().ok_or(format!("{what} is not an object: {value}"))?;
    if let Some(missing) = must.iter().find(|key| !object.contains_key(**key)) {
        return Err(format!("{what} lacks {missing}"));
    }
    match object.keys().find(|key| !must.contains(&key.as_str()) && !may.contains(&key.as_str())) {
        Some(extra) => Err(format!("{what} may not have {extra}")),
        None => Ok(object),
    }
}

fn text<'a>(what: &str, value: &'a Value) -> Result<&'a str, String> {
    value.as_str().filter(|text| !text.is_empty()).ok_or(format!("{what} is not a text: {value}"))
}

fn list<'a>(what: &str, value: &'a Value) -> Result<&'a Vec<Value>, String> {
    value.as_array().ok_or(format!("{what} is not a list: {value}"))
}

fn address(what: &str, value: &Value) -> Result<IpAddr, String> {
    text(what, value)?.parse().map_err(|_| format!("{what} is not an address: {value}"))
}

fn cidr(what: &str, value: &Value) -> Result<(IpAddr, u8), String> {
    let wrong = || format!("{what} is not in CIDR notation: {value}");
    let (address, length) = text(what, value)?.split_once('/').ok_or_else(wrong)?;
    let (address, length): (IpAddr, u8) =
        (address.parse().map_err(|_| wrong())?, length.parse().map_err(|_| wrong())?);
    if length > if address.is_ipv6() { 128 } else { 32 } { Err(wrong()) } else { Ok((address, length)) }
}

/// A hardware address: six pairs of hexadecimal digits.
fn mac(value: &Value) -> Check {
    let parts: Vec<_> = text("mac", value)?.split(':').collect();
    let pair = |part: &&str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
    if parts.len() == 6 && parts.iter().all(pair) { Ok(()) } else { Err(format!("mac is {value}")) }
}

fn version_is(version: &str, value: &Value) -> Check {
    if value["cniVersion"] == version {
        return Ok(());
    }
    Err(format!("cniVersion is {}, the configuration says {version}", value["cniVersion"]))
}

/// A result of ADD.
pub(crate) fn check_result(version: &str, result: &Value) -> Check {
    let newest = version == "1.1.0";
    keys("result", result, &["cniVersion", "interfaces", "ips"], &["routes", "dns"])?;
    version_is(version, result)?;
    let interfaces = list("interfaces", &result["interfaces"])?;
    for interface in interfaces {
        let since_1_1: &[_] = if newest { &["mtu", "socketPath", "pciID"] } else { &[] };
        let object = keys("interface", interface, &["name"], &[&["mac", "sandbox"], since_1_1].concat())?;
        text("name", &interface["name"])?;
        object.get("mac").map_or(Ok(()), mac)?;
        object.get("sandbox").map_or(Ok(""), |value| text("sandbox", value))?;
        if object.get("mtu").is_some_and(|mtu| mtu.as_u64().is_none()) {
            return Err(format!("mtu is {}", interface["mtu"]));
        }
    }
    for ip in list("ips", &result["ips"])? {
        let (must, may): (&[_], &[_]) = if version == "0.4.0" {
            (&["version", "address"], &["gateway", "interface"])
        } else {
            (&["address"], &["gateway", "interface"])
        };
        let object = keys("ip", ip, must, may)?;
        let (address_, _) = cidr("address", &ip["address"])?;
        let family = if address_.is_ipv6() { "6" } else { "4" };
        if object.get("version").is_some_and(|version| version != family) {
            return Err(format!("version of {address_} is {}", ip["version"]));
        }
        object.get("gateway").map_or(Ok(address_), |value| address("gateway", value))?;
        if let Some(index) = object.get("interface") {
            let known = index.as_u64().is_some_and(|index| index < interfaces.len() as u64);
            known.then_some(()).ok_or(format!("interface is {index}"))?;
        }
    }
    let none = Value::Array(Vec::new());
    for route in list("routes", result.get("routes").unwrap_or(&none))? {
        let since_1_1: &[_] = if newest { &["mtu", "advmss", "priority", "table", "scope"] } else { &[] };
        let object = keys("route", route, &["dst"], &[&["gw"], since_1_1].concat())?;
        let (destination, _) = cidr("dst", &route["dst"])?;
        object.get("gw").map_or(Ok(destination), |value| address("gw", value))?;
    }
    result.get("dns").map_or(Ok(()), check_dns)
}

fn check_dns(dns: &Value) -> Check {
    let object = keys("dns", dns, &[], &["nameservers", "domain", "search", "options"])?;
    object.get("domain").map_or(Ok(""), |value| text("domain", value))?;
    for key in ["nameservers", "search", "options"] {
        for entry in object.get(key).map_or(Ok(&Vec::new()), |value| list(key, value))? {
            text(key, entry)?;
        }
    }
    Ok(())
}

/// An error.
pub(crate) fn check_error(version: &str, error: &Value) -> Check {
    keys("error", error, &["cniVersion", "code", "msg"], &["details"])?;
    version_is(version, error)?;
    text("msg", &error["msg"])?;
    error.get("details").map_or(Ok(""), |value| text("details", value))?;
    error["code"].as_u64().filter(|code| *code > 0).map(drop).ok_or(format!("code is {}", error["code"]))
}

/// The answer to VERSION.
pub(crate) fn check_version(version: &str, answer: &Value) -> Check {
    keys("answer", answer, &["cniVersion", "supportedVersions"], &[])?;
    version_is(version, answer)?;
    let supported = list("supportedVersions", &answer["supportedVersions"])?;
    supported.iter().try_for_each(|version| text("supportedVersions", version).map(drop))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The checks must be able to fail, or the tests that use them say nothing.
    #[test]
    fn schema_tells_the_versions_apart() {
        let result = |version: &str, interface: Value, ip: Value| json!({ "cniVersion": version, "interfaces": [interface], "ips": [ip] });
        let (plain, with_mtu) = (json!({ "name": "eth0" }), json!({ "name": "eth0", "mtu": 1500 }));
        let ip = json!({ "address": "192.0.2.5/32", "interface": 0 });
        let with_version = json!({ "address": "192.0.2.5/32", "interface": 0, "version": "4" });
        for (version, interface, ip, good) in [
            ("0.4.0", &plain, &with_version, true),
            ("0.4.0", &plain, &ip, false),
            ("0.4.0", &with_mtu, &with_version, false),
            ("1.0.0", &plain, &ip, true),
            ("1.0.0", &plain, &with_version, false),
            ("1.0.0", &with_mtu, &ip, false),
            ("1.1.0", &with_mtu, &ip, true),
            ("1.1.0", &with_mtu, &with_version, false),
        ] {
            let result = result(version, interface.clone(), ip.clone());
            assert_eq!(check_result(version, &result).is_ok(), good, "{result}");
            assert!(check_result("0.3.1", &result).is_err());
        }
        for bad in [
            json!({ "address": "192.0.2.5" }),
            json!({ "address": "192.0.2.5/33" }),
            json!({ "address": "192.0.2.5/32", "interface": 1 }),
            json!({ "address": "192.0.2.5/32", "gateway": "x" }),
            json!({ "address": "192.0.2.5/32", "extra": 1 }),
        ] {
            assert!(check_result("1.0.0", &result("1.0.0", plain.clone(), bad.clone())).is_err(), "{bad}");
        }
    }

    #[test]
    fn schema_knows_a_bad_error() {
        let good = json!({ "cniVersion": "1.0.0", "code": 7, "msg": "x" });
        assert_eq!(check_error("1.0.0", &good), Ok(()));
        for (key, value) in [
            ("code", json!(0)),
            ("code", json!("7")),
            ("msg", json!("")),
            ("details", json!("")),
            ("x", json!(1)),
        ] {
            let mut bad = good.clone();
            bad[key] = value;
            assert!(check_error("1.0.0", &bad).is_err(), "{bad}");
        }
    }
}
