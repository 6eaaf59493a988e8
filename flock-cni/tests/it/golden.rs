//! Results of every version, as a reader of the specification would write them.

use flock_cni::result::{AddResult, Dns};
use flock_cni::version::SpecVersion;
use flock_cni::wire::Added;

use crate::agent::added;
use crate::schema::check_result;

fn check(name: &str, version: SpecVersion, added: &Added, dns: Dns) {
    let result = AddResult::new(version, added, "eth0", "/run/netns/pod", dns).unwrap();
    check_result(version.as_str(), &serde_json::to_value(&result).unwrap()).unwrap();
    insta::assert_snapshot!(
        format!("{name}-{}", version.as_str()),
        serde_json::to_string_pretty(&result).unwrap()
    );
}

#[test]
fn dual_stack_result_with_dns_in_every_version() {
    let dns = Dns {
        nameservers: vec!["2001:db8::53".into()],
        domain: "example.org".into(),
        search: vec!["pods.example.org".into()],
        options: vec!["ndots:2".into()],
    };
    for version in SpecVersion::ALL {
        check("dual-stack", version, &added(), dns.clone());
    }
}

#[test]
fn single_family_result_in_every_version() {
    for version in SpecVersion::ALL {
        for (name, ipv6) in [("ipv6", true), ("ipv4", false)] {
            let mut added = added();
            added.ips.retain(|ip| ip.address.is_ipv6() == ipv6);
            check(name, version, &added, Dns::default());
        }
    }
}
