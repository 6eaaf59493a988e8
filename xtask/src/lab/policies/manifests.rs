//! The policies of the lab, as a user would write them.

use std::fmt::Write;

use crate::lab::node::pod_manifest;
use crate::lab::pods::Attached;
use crate::lab::topology::{self, Family, NAMESPACE, Node};

/// The label of the namespace, which a peer asks for.
const NAMESPACES: &str = "\
apiVersion: v1
kind: Namespace
metadata:
  name: demo
  labels: { team: demo }
";

/// Who may reach the pods `web`, and what the pods `api` may reach. Both ends have to agree.
const POLICIES: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { namespace: demo, name: deny-ingress }
spec:
  podSelector:
    matchExpressions:
      - { key: app, operator: In, values: [web, given] }
  policyTypes: [Ingress]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { namespace: demo, name: web-from-api }
spec:
  podSelector: { matchLabels: { app: web } }
  ingress:
    - from:
        - namespaceSelector: { matchLabels: { team: demo } }
          podSelector: { matchLabels: { app: api } }
      ports:
        - { port: http }
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { namespace: demo, name: api-to-web }
spec:
  podSelector: { matchLabels: { app: api } }
  policyTypes: [Egress]
  egress:
    - to:
        - podSelector: { matchLabels: { app: web } }
      ports:
        - { port: http }
";

/// The world reaches `given`, and neither the wires between nodes and router nor the other pods do.
pub(super) const OUTSIDE: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { namespace: demo, name: given-from-outside }
spec:
  podSelector: { matchLabels: { app: given } }
  ingress:
    - from:
        - ipBlock: { cidr: '::/0', except: ['2001:db8::/48', '2001:db8:f000::/36'] }
        - ipBlock: { cidr: 0.0.0.0/0, except: [192.0.2.0/24, 198.51.100.0/24] }
      ports:
        - { protocol: TCP, port: 8080 }
";

/// The same after an edit: the client is not of the world any more.
pub(super) const OUTSIDE_WITHOUT_CLIENT: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { namespace: demo, name: given-from-outside }
spec:
  podSelector: { matchLabels: { app: given } }
  ingress:
    - from:
        - ipBlock: { cidr: '::/0', except: ['2001:db8::/32'] }
        - ipBlock: { cidr: 0.0.0.0/0, except: [192.0.2.0/24, 198.51.100.0/24, 203.0.113.0/24] }
      ports:
        - { protocol: TCP, port: 8080 }
";

/// What a node is told: the namespace, the policies, and the pods of other nodes, which it knows by its manifests only.
pub(super) fn of(node: &Node, attached: &[Attached]) -> String {
    let others = topology::pods().filter(|(other, _)| other.name != node.name);
    let others = others.map(|(other, pod)| {
        let mut manifest = pod_manifest(pod.name, pod.annotations, other);
        let ips = attached.iter().filter(|it| it.pod == pod.name);
        let ips = ips.flat_map(|it| Family::ALL.into_iter().filter_map(|family| it.address(family)));
        manifest.push_str("status:\n  podIPs:\n");
        for ip in ips {
            // Writing into a string cannot fail.
            let _ = writeln!(manifest, "    - {{ ip: '{ip}' }}");
        }
        manifest
    });
    let documents: Vec<_> = [NAMESPACES.to_owned(), POLICIES.to_owned()].into_iter().chain(others).collect();
    documents.join("---\n")
}

/// The pods a policy selects, each with the policies that do.
pub(super) const SELECTED: [(&str, &[&str]); 5] = [
    ("web-1", &["deny-ingress", "web-from-api"]),
    ("web-2", &["deny-ingress", "web-from-api"]),
    ("given-1", &["deny-ingress", "given-from-outside"]),
    ("api-1", &["api-to-web"]),
    ("api-2", &["api-to-web"]),
];

/// A pod as the agent writes it.
pub(super) fn key(pod: &str) -> String {
    format!("{NAMESPACE}/{pod}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::topology::NODES;

    #[test]
    fn every_policy_is_of_the_namespace_of_the_pods() {
        for text in [POLICIES, OUTSIDE, OUTSIDE_WITHOUT_CLIENT] {
            assert_eq!(
                text.matches("kind: NetworkPolicy").count(),
                text.matches(&format!("{{ namespace: {NAMESPACE}, ")).count()
            );
        }
        assert!(NAMESPACES.contains(&format!("name: {NAMESPACE}\n")));
    }

    #[test]
    fn node_is_told_of_the_pods_of_the_other_one_only() {
        for (node, other) in [(&NODES[0], &NODES[1]), (&NODES[1], &NODES[0])] {
            let text = of(node, &[]);
            assert!(!text.contains(&format!("nodeName: {}", node.name)), "{text}");
            assert_eq!(text.matches(&format!("nodeName: {}", other.name)).count(), other.pods.len());
        }
    }
}
