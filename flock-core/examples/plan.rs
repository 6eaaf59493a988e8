//! What a pod would get on a node, from its annotations and a configuration as an operator writes it:
//! `cargo run -p flock-core --example plan`. For whole manifests there is `flock-agent plan`.
#![allow(clippy::print_stdout)] // an example talks to its reader

use flock_core::annotation::PodIntent;
use flock_core::claims::Surroundings;
use flock_core::config::{BgpSpec, ClaimSpec, NodeConfig, NodeConfigSpec};
use flock_core::ids::PodKey;
use flock_core::pod_plan::{PodFacts, pod_plan};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let node = NodeConfig::validate(&NodeConfigSpec {
        cidr6: vec!["2001:db8:f001::/64".to_owned()],
        cidr4: vec!["192.0.2.0/24".to_owned()],
        bgp: BgpSpec { asn: 65101, ..BgpSpec::default() },
        claims: vec![ClaimSpec { cidrs: vec!["203.0.113.0/24".to_owned()], ..ClaimSpec::default() }],
        ..NodeConfigSpec::default()
    })?;
    let pod = PodKey::new("shop", "web-0")?;
    let facts = PodFacts { key: Some(&pod), ..PodFacts::default() };

    for (key, value) in [
        ("ipv4", "false"),
        ("cidr4", "192.0.2.64/26"),
        ("ip-algo", "namespace,pod"),
        ("addresses", "203.0.113.166"),
        ("addresses", "198.51.100.7"),
    ] {
        println!("{key}: {value}");
        let annotations = [(format!("flock.fritzlab.net/{key}"), value.to_owned())].into();
        match pod_plan(&PodIntent::parse(&annotations)?, facts, &node, &Surroundings::default()) {
            Ok(plan) => println!("  {plan:?}"),
            Err(refused) => println!("  refused: {refused}"),
        }
    }
    Ok(())
}
