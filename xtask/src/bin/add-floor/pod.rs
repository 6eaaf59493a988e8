//! A pod's link, addresses, neighbours and routes, in two sends: one per namespace.

use std::fs::File;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;

use nix::libc;
use nix::sched::{CloneFlags, setns};

use crate::netlink::{Netlink, Request, attr, nest};

/// The gateways every pod sees.
const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const GATEWAY4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// Route protocols: the quiet one of flock on the host, `boot` in the pod.
const QUIET: u8 = 118;
const BOOT: u8 = 3;

// Constants of the kernel's headers that libc does not have.
const VETH_INFO_PEER: u16 = 1; // linux/veth.h
const IFLA_INET_CONF: u16 = 1; // linux/if_link.h
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8; // linux/if_link.h
const IN6_ADDR_GEN_MODE_NONE: u8 = 1; // linux/if_link.h
const DEVCONF_FORWARDING: u16 = 1; // linux/ip.h, as the next three
const DEVCONF_PROXY_ARP: u16 = 3;
const DEVCONF_RP_FILTER: u16 = 8;
const DEVCONF_IGNORE_ROUTES_WITH_LINKDOWN: u16 = 29;

const INET: u8 = 2;
const INET6: u8 = 10;
const LOOPBACK: u32 = 1;

/// What is to be attached.
pub(crate) struct Pod<'a> {
    pub(crate) host_ifname: &'a str,
    pub(crate) netns: &'a str,
    pub(crate) ifname: &'a str,
    pub(crate) ip6: Ipv6Addr,
    pub(crate) ip4: Ipv4Addr,
}

impl Pod<'_> {
    /// Attaches the pod and returns a CNI result.
    pub(crate) fn add(&self) -> Result<String, String> {
        let netns = File::open(self.netns).map_err(|error| format!("cannot open {}: {error}", self.netns))?;
        let netns_fd = u32::try_from(netns.as_raw_fd()).map_err(|error| error.to_string())?;
        // Index and addresses are chosen, so nothing has to be read back.
        let hash = fnv1a(self.host_ifname.as_bytes());
        let index = hash & 0x3fff_ffff | 0x4000_0000;
        let [a, b, c, d] = hash.to_be_bytes();
        let (host_mac, pod_mac) = ([2, 0, a, b, c, d], [2, 1, a, b, c, d]);

        let open = || Netlink::open().map_err(|error| format!("cannot open a netlink socket: {error}"));
        open()?.transact(&[
            self.create(index, host_mac, pod_mac, netns_fd),
            conf(index),
            alias_and_up(index, self.netns),
            address(index, INET6, &GATEWAY6.octets(), 64),
            neighbour(index, INET6, &self.ip6.octets(), pod_mac),
            neighbour(index, INET, &self.ip4.octets(), pod_mac),
            route(index, INET6, QUIET, Some(&self.ip6.octets()), None),
            route(index, INET, QUIET, Some(&self.ip4.octets()), None),
        ])?;
        // There is nothing left to do on the host: no way back is needed.
        setns(netns, CloneFlags::CLONE_NEWNET)
            .map_err(|error| format!("cannot enter {}: {error}", self.netns))?;
        open()?.transact(&[
            set_link("bring lo up", LOOPBACK, true, &[]),
            set_link(
                "configure the pod's link",
                index,
                false,
                &nest(libc::IFLA_AF_SPEC, &[no_address_of_its_own()]),
            ),
            set_link("bring the pod's link up", index, true, &[]),
            address(index, INET6, &self.ip6.octets(), 128),
            address(index, INET, &self.ip4.octets(), 32),
            neighbour(index, INET6, &GATEWAY6.octets(), host_mac),
            neighbour(index, INET, &GATEWAY4.octets(), host_mac),
            route(index, INET6, BOOT, None, Some(&GATEWAY6.octets())),
            route(index, INET, BOOT, Some(&GATEWAY4.octets()), None),
            route(index, INET, BOOT, None, Some(&GATEWAY4.octets())),
        ])?;
        Ok(format!(
            "{{\"cniVersion\":\"1.0.0\",\"interfaces\":[{{\"name\":\"{}\"}},{{\"name\":\"{}\",\"sandbox\":\"{}\"}}],\
             \"ips\":[{{\"address\":\"{}/128\",\"gateway\":\"{GATEWAY6}\"}},{{\"address\":\"{}/32\",\"gateway\":\"{GATEWAY4}\"}}]}}",
            self.host_ifname, self.ifname, self.netns, self.ip6, self.ip4
        ))
    }

    /// The pair, with the pod's end born in the pod.
    fn create(&self, index: u32, host_mac: [u8; 6], pod_mac: [u8; 6], netns_fd: u32) -> Request {
        let peer = [
            link(index, false),
            attr(libc::IFLA_IFNAME, &name(self.ifname)),
            attr(libc::IFLA_ADDRESS, &pod_mac),
            attr(libc::IFLA_MTU, &1500_u32.to_ne_bytes()),
            attr(libc::IFLA_NET_NS_FD, &netns_fd.to_ne_bytes()),
        ];
        let info = nest(
            libc::IFLA_LINKINFO,
            &[
                attr(libc::IFLA_INFO_KIND, b"veth"),
                nest(libc::IFLA_INFO_DATA, &[attr(VETH_INFO_PEER, &peer.concat())]),
            ],
        );
        let payload = [
            link(index, false),
            attr(libc::IFLA_IFNAME, &name(self.host_ifname)),
            attr(libc::IFLA_ADDRESS, &host_mac),
            attr(libc::IFLA_MTU, &1500_u32.to_ne_bytes()),
            info,
        ];
        Request {
            step: "create the veth pair",
            kind: libc::RTM_NEWLINK,
            flags: libc::NLM_F_CREATE | libc::NLM_F_EXCL,
            payload: payload.concat(),
        }
    }
}

/// Deletes the pair; absent is success.
pub(crate) fn del(host_ifname: &str) -> Result<(), String> {
    if nix::net::if_::if_nametoindex(host_ifname).is_err() {
        return Ok(());
    }
    let payload = [link(0, false), attr(libc::IFLA_IFNAME, &name(host_ifname))].concat();
    let request = Request { step: "delete the veth pair", kind: libc::RTM_DELLINK, flags: 0, payload };
    Netlink::open().map_err(|error| format!("cannot open a netlink socket: {error}"))?.transact(&[request])
}

/// Settings of the host's end; in a message of their own, or the link gets an EUI-64 address as it comes up.
fn conf(index: u32) -> Request {
    let on = |kind: u16, value: u32| attr(kind, &value.to_ne_bytes());
    let conf = nest(
        IFLA_INET_CONF,
        &[
            on(DEVCONF_FORWARDING, 1),
            on(DEVCONF_PROXY_ARP, 1),
            on(DEVCONF_RP_FILTER, 0),
            on(DEVCONF_IGNORE_ROUTES_WITH_LINKDOWN, 1),
        ],
    );
    let spec = nest(libc::IFLA_AF_SPEC, &[no_address_of_its_own(), nest(u16::from(INET), &[conf])]);
    set_link("configure the host's link", index, false, &spec)
}

fn no_address_of_its_own() -> Vec<u8> {
    nest(u16::from(INET6), &[attr(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE])])
}

fn alias_and_up(index: u32, alias: &str) -> Request {
    set_link("bring the host's link up", index, true, &attr(libc::IFLA_IFALIAS, alias.as_bytes()))
}

fn set_link(step: &'static str, index: u32, up: bool, attributes: &[u8]) -> Request {
    let payload = [&link(index, up), attributes].concat();
    Request { step, kind: libc::RTM_SETLINK, flags: 0, payload }
}

/// `struct ifinfomsg`.
fn link(index: u32, up: bool) -> Vec<u8> {
    let flag = u32::from(up).to_ne_bytes(); // IFF_UP is 1
    [[0; 4], index.to_ne_bytes(), flag, flag].concat()
}

/// An address that is used at once, without asking whether somebody else has it.
fn address(index: u32, family: u8, address: &[u8], length: u8) -> Request {
    let header = [[family, length, 0x02, 0], index.to_ne_bytes()].concat(); // IFA_F_NODAD is 0x02
    let payload = [header, attr(libc::IFA_LOCAL, address), attr(libc::IFA_ADDRESS, address)].concat();
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    Request { step: "add an address", kind: libc::RTM_NEWADDR, flags, payload }
}

/// A neighbour that is never asked for.
fn neighbour(index: u32, family: u8, address: &[u8], mac: [u8; 6]) -> Request {
    let permanent = 0x80_u16.to_ne_bytes(); // NUD_PERMANENT
    let header = [&[family, 0, 0, 0], &index.to_ne_bytes()[..], &permanent, &[0; 2]].concat();
    let payload = [header, attr(libc::NDA_DST, address), attr(libc::NDA_LLADDR, &mac)].concat();
    let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    Request { step: "add a neighbour", kind: libc::RTM_NEWNEIGH, flags, payload }
}

/// A route through the link: to one address, or the default through a gateway.
fn route(index: u32, family: u8, protocol: u8, to: Option<&[u8]>, gateway: Option<&[u8]>) -> Request {
    let length = to.map_or(0, |address| u8::try_from(address.len() * 8).unwrap_or_default());
    let scope = if gateway.is_some() { libc::RT_SCOPE_UNIVERSE } else { libc::RT_SCOPE_LINK };
    // family, length, no source, no TOS, table main, protocol, scope, type unicast; then no flags.
    let header = [family, length, 0, 0, libc::RT_TABLE_MAIN, protocol, scope, libc::RTN_UNICAST, 0, 0, 0, 0];
    let payload = [
        header.to_vec(),
        to.map_or_else(Vec::new, |address| attr(libc::RTA_DST, address)),
        gateway.map_or_else(Vec::new, |address| attr(libc::RTA_GATEWAY, address)),
        attr(libc::RTA_OIF, &index.to_ne_bytes()),
    ];
    let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    Request { step: "add a route", kind: libc::RTM_NEWROUTE, flags, payload: payload.concat() }
}

fn name(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}

fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}
