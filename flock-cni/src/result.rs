//! The result of an ADD in the form of each version of the CNI specification ("Success"), and reading it
//! back for CHECK.

use std::net::IpAddr;

use serde::Serialize;
use serde_json::Value;

use crate::error::{CniError, code};
use crate::version::SpecVersion;
use crate::wire::Added;

/// Index of the pod's interface in `interfaces`: the host's comes first.
const POD_INTERFACE: usize = 1;

/// `dns` of the network configuration, handed on as it is. Empty parts are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Dns {
    /// Name servers, best first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// Local domain; empty for none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// Search domains, best first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Options of the resolver.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl Dns {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Why the agent's answer to an ADD makes no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResultError {
    /// No address at all.
    #[error("flock-agent added {ifname} without any address")]
    NoAddress {
        /// The pod's interface.
        ifname: String,
    },
    /// The gateway is of the other family.
    #[error("flock-agent gave {address} the gateway {gateway} of the other family")]
    Gateway {
        /// The pod's address.
        address: IpAddr,
        /// What should be its gateway.
        gateway: IpAddr,
    },
}

impl From<ResultError> for CniError {
    fn from(error: ResultError) -> Self {
        Self::new(code::WIRE, &error.to_string())
    }
}

/// The result of an ADD; serialises to the document of its version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AddResult {
    cni_version: SpecVersion,
    interfaces: [Interface; 2],
    ips: Vec<Ip>,
    routes: Vec<Route>,
    #[serde(skip_serializing_if = "Dns::is_empty")]
    dns: Dns,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Interface {
    name: String,
    /// Left out where the agent does not know it.
    #[serde(skip_serializing_if = "String::is_empty")]
    mac: String,
    /// Bytes; from 1.1.0 on.
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<u32>,
    /// Path of the netns; left out for the host's interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    sandbox: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Ip {
    /// `4` or `6`; in 0.4.0 only.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'static str>,
    address: String,
    gateway: IpAddr,
    interface: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Route {
    dst: &'static str,
    gw: IpAddr,
}

impl AddResult {
    /// Puts what the agent made into the form of `version`. `ifname` and `netns` are the runtime's.
    pub fn new(
        version: SpecVersion,
        added: &Added,
        ifname: &str,
        netns: &str,
        dns: Dns,
    ) -> Result<Self, ResultError> {
        if added.ips.is_empty() {
            return Err(ResultError::NoAddress { ifname: ifname.to_owned() });
        }
        let wrong = added.ips.iter().find(|ip| ip.address.is_ipv6() != ip.gateway.is_ipv6());
        if let Some(ip) = wrong {
            return Err(ResultError::Gateway { address: ip.address, gateway: ip.gateway });
        }
        let interface = |name: &str, mac: &str, sandbox: Option<&str>| Interface {
            name: name.to_owned(),
            mac: mac.to_owned(),
            mtu: (version >= SpecVersion::V1_1_0).then_some(added.mtu),
            sandbox: sandbox.map(str::to_owned),
        };
        let mut given: Vec<_> = added.ips.iter().collect();
        given.sort_by_key(|ip| ip.address.is_ipv4());
        let ips = given.iter().map(|ip| {
            let (family, length) = if ip.address.is_ipv6() { ("6", 128) } else { ("4", 32) };
            Ip {
                version: (version == SpecVersion::V0_4_0).then_some(family),
                address: format!("{}/{length}", ip.address),
                gateway: ip.gateway,
                interface: POD_INTERFACE,
            }
        });
        let mut routes: Vec<_> = given
            .iter()
            .map(|ip| Route { dst: if ip.gateway.is_ipv6() { "::/0" } else { "0.0.0.0/0" }, gw: ip.gateway })
            .collect();
        routes.dedup();
        Ok(Self {
            cni_version: version,
            interfaces: [
                interface(&added.host_ifname, &added.host_mac, None),
                interface(ifname, &added.pod_mac, Some(netns)),
            ],
            ips: ips.collect(),
            routes,
            dns,
        })
    }
}

/// The addresses a result of any version gives the interface named `ifname`, in the result's order. An
/// address of another interface belongs to a plugin later in the list; one without an interface is taken as
/// ours.
pub(crate) fn addresses_of(result: &Value, ifname: &str) -> Result<Vec<IpAddr>, &'static str> {
    let list = |key| match result.get(key) {
        None | Some(Value::Null) => Ok(&[][..]),
        Some(Value::Array(items)) => Ok(&items[..]),
        Some(_) => Err("interfaces and ips must be lists"),
    };
    if !result.is_object() {
        return Err("must be an object");
    }
    let (interfaces, ips) = (list("interfaces")?, list("ips")?);
    let mut addresses = Vec::new();
    for ip in ips {
        if let Some(index) = ip.get("interface").filter(|index| !index.is_null()) {
            let interface = index.as_u64().and_then(|index| interfaces.get(usize::try_from(index).ok()?));
            let interface = interface.ok_or("an address refers to an interface that is not in the list")?;
            let text = |key| interface.get(key).and_then(Value::as_str).unwrap_or_default();
            if text("name") != ifname || text("sandbox").is_empty() {
                continue;
            }
        }
        let text = ip.get("address").and_then(Value::as_str).ok_or("an entry of ips has no address")?;
        addresses.push(address_of(text).ok_or("an address is not written as ADDRESS/LENGTH")?);
    }
    Ok(addresses)
}

/// The address of an `ADDRESS/LENGTH`.
fn address_of(text: &str) -> Option<IpAddr> {
    let (address, length) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let longest = if address.is_ipv6() { 128 } else { 32 };
    (length.parse::<u8>().ok()? <= longest).then_some(address)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::wire::AddedIp;

    fn added(ips: &[(&str, &str)]) -> Added {
        let ip = |(address, gateway): &(&str, &str)| AddedIp {
            address: address.parse().unwrap(),
            gateway: gateway.parse().unwrap(),
        };
        Added {
            host_ifname: "flock01234567".into(),
            host_mac: "02:00:00:00:00:01".into(),
            pod_mac: "02:00:00:00:00:02".into(),
            mtu: 1500,
            ips: ips.iter().map(ip).collect(),
        }
    }

    const SIX: (&str, &str) = ("2001:db8:f001::a", "fe80::1");
    const FOUR: (&str, &str) = ("192.0.2.5", "169.254.1.1");

    fn result(version: SpecVersion, ips: &[(&str, &str)]) -> Result<Value, ResultError> {
        AddResult::new(version, &added(ips), "eth0", "/run/netns/pod", Dns::default())
            .map(|result| serde_json::to_value(result).unwrap())
    }

    #[test]
    fn ipv6_comes_first_whatever_the_order_of_the_agent() {
        let expect = result(SpecVersion::V1_0_0, &[SIX, FOUR]).unwrap();
        assert_eq!(result(SpecVersion::V1_0_0, &[FOUR, SIX]).unwrap(), expect);
        assert_eq!(expect["ips"][0]["address"], "2001:db8:f001::a/128");
        assert_eq!(expect["routes"][0], json!({ "dst": "::/0", "gw": "fe80::1" }));
    }

    #[test]
    fn routes_are_those_of_the_families_present() {
        let routes = |ips: &[_]| result(SpecVersion::V1_1_0, ips).unwrap()["routes"].clone();
        assert_eq!(routes(&[SIX]), json!([{ "dst": "::/0", "gw": "fe80::1" }]));
        assert_eq!(routes(&[FOUR]), json!([{ "dst": "0.0.0.0/0", "gw": "169.254.1.1" }]));
        assert_eq!(routes(&[FOUR, ("192.0.2.6", "169.254.1.1")]), routes(&[FOUR]));
    }

    #[test]
    fn answer_that_makes_no_sense_is_refused() {
        let message = |ips: &[_]| result(SpecVersion::NEWEST, ips).unwrap_err().to_string();
        assert_eq!(message(&[]), "flock-agent added eth0 without any address");
        assert_eq!(
            message(&[("192.0.2.5", "fe80::1")]),
            "flock-agent gave 192.0.2.5 the gateway fe80::1 of the other family"
        );
    }

    #[test]
    fn result_of_every_version_reads_back() {
        for version in SpecVersion::ALL {
            let result = result(version, &[SIX, FOUR]).unwrap();
            let expect: Vec<IpAddr> = vec![SIX.0.parse().unwrap(), FOUR.0.parse().unwrap()];
            assert_eq!(addresses_of(&result, "eth0"), Ok(expect));
            assert_eq!(addresses_of(&result, "net1"), Ok(vec![]));
        }
    }

    #[test]
    fn address_of_another_interface_is_not_ours() {
        let result = json!({
            "interfaces": [
                { "name": "eth0" },
                { "name": "eth0", "sandbox": "/run/netns/pod" },
                { "name": "net1", "sandbox": "/run/netns/pod" },
            ],
            "ips": [
                { "address": "192.0.2.1/24", "interface": 0 },
                { "address": "192.0.2.2/32", "interface": 1 },
                { "address": "192.0.2.3/24", "interface": 2 },
                { "address": "192.0.2.4/32" },
                { "address": "192.0.2.5/32", "interface": null },
            ],
        });
        let expect: Vec<IpAddr> =
            ["192.0.2.2", "192.0.2.4", "192.0.2.5"].iter().map(|ip| ip.parse().unwrap()).collect();
        assert_eq!(addresses_of(&result, "eth0"), Ok(expect));
    }

    #[test]
    fn result_that_makes_no_sense_is_refused() {
        for bad in [
            json!([]),
            json!("x"),
            json!({ "ips": {} }),
            json!({ "interfaces": 1 }),
            json!({ "ips": [1] }),
            json!({ "ips": [{ "address": "192.0.2.1" }] }),
            json!({ "ips": [{ "address": "192.0.2.1/33" }] }),
            json!({ "ips": [{ "address": "2001:db8::/129" }] }),
            json!({ "ips": [{ "address": "host/32" }] }),
            json!({ "ips": [{ "address": "192.0.2.1/32", "interface": 0 }] }),
            json!({ "ips": [{ "address": "192.0.2.1/32", "interface": -1 }], "interfaces": [{ "name": "eth0" }] }),
        ] {
            assert!(addresses_of(&bad, "eth0").is_err(), "{bad}");
        }
        assert_eq!(addresses_of(&json!({}), "eth0"), Ok(vec![]));
    }
}
