//! What `flock-agent status` and `explain` tell a person.

use super::with_both_sources;
use crate::harness::{TestNode, add_of, eventually};
use crate::netns::Netns;
use crate::object::{Says, pod, saying};

with_both_sources!(status_and_explain_say_what_was_decided_and_why);

fn status_and_explain_say_what_was_decided_and_why(node: &TestNode) {
    node.serve();
    let asks = [("cidr6", "2001:db8:f001::77/128"), ("ipv4", "false"), ("anycast", "2001:db8:a::53")];
    let (web, netns) = (pod("web", &asks), Netns::new());
    node.put(&web);
    node.add_pod(&web, &netns).unwrap();
    node.wait_protocol("2001:db8:a::53", Some("117"));
    let link = node.report()["allocations"][0]["link"].as_str().unwrap().to_owned();
    let (status, explain) = (|| node.ask(&["status"]), || node.ask(&["explain", "default/web"]));
    let way = format!("2001:db8:a::53/128 nexthop via 2001:db8:f001::77 dev {link} weight 255");
    let told = |object: &str, standing: &str, announced: &str, route: &str| {
        let lines = [
            format!("pod default/web: {object}"),
            "  annotation flock.fritzlab.net/anycast: \"2001:db8:a::53\"".to_owned(),
            "  annotation flock.fritzlab.net/cidr6: \"2001:db8:f001::77/128\"".to_owned(),
            "  annotation flock.fritzlab.net/ipv4: \"false\"".to_owned(),
            format!("  attachment web/eth0 on {link}, committed"),
            "  address 2001:db8:f001::77: serving".to_owned(),
            "    announced: as a part of the pool 2001:db8:f001::/64".to_owned(),
            format!("    route: 2001:db8:f001::77/128 dev {link} proto 118 (quiet)"),
            format!("  anycast 2001:db8:a::53: {standing}"),
            format!("    announced: {announced}"),
            format!("    route: {way} {route}"),
            "  policy: everything passes, from its own addresses\n".to_owned(),
        ];
        lines.join("\n")
    };
    assert_eq!(
        explain(),
        told("Ready", "serving", "on its own, for 1 pods of this node", "proto 117 (announced)")
    );
    for line in [
        "  Ready              yes  pods can be attached\n".to_owned(),
        "  ConfigAccepted     yes  ".to_owned(),
        "  PolicyEnforced     yes  policies are enforced as written\n".to_owned(),
        "  dropped packets: 0 by policy, 0 with a false source, ".to_owned(),
        "2001:db8:f001::/64  1          0        ".to_owned(),
        "2001:db8:a::53/128  yes        default/web  serving\n".to_owned(),
        format!("default/web  2001:db8:f001::77 2001:db8:a::53  {link}  web"),
    ] {
        assert!(status().contains(&line), "{line}\nis not in\n{}", status());
    }

    node.put(&saying(&web, Says::NotReady));
    let no = "no: the pod is not Ready";
    let wanted = told("not Ready", "draining", no, "proto 118 (quiet)");
    eventually("it is withdrawn", || explain() == wanted, || format!("{}\nnot\n{wanted}", explain()));
    let line = "2001:db8:a::53/128  no         default/web  draining  the pod is not Ready\n";
    assert!(status().contains(line), "{}", status());

    // What an ADD now would be refused for, of a pod that is not here yet.
    let (odd, elsewhere) = (pod("odd", &[("ipv6", "perhaps")]), pod("nobody", &[]));
    node.put(&odd);
    let refused =
        "  an ADD now would be refused: flock.fritzlab.net/ipv6 \"perhaps\" is neither true nor false";
    let explain = || node.ask(&["explain", "default/odd"]);
    eventually("it is said", || explain().contains(refused), explain);
    assert!(explain().contains("  holds no address on this node\n"), "{}", explain());
    let unknown = node.ask(&["explain", "default/nobody"]);
    assert!(unknown.contains("node n1 knows no pod default/nobody"), "{unknown}");
    let netns = Netns::new();
    node.add_with(add_of(&elsewhere, &netns)).unwrap();
    let unseen = node.ask(&["explain", "default/nobody"]);
    assert!(unseen.starts_with("pod default/nobody: the cluster shows no such pod\n"), "{unseen}");
}
