//! Policies of a manifest directory.

use std::sync::Arc;

use flock_core::policy::{PolicyKey, PolicyView};
use flock_core::ports::PodSource;

use crate::bench::{Bench, soon};

async fn until(bench: &Bench, holds: impl Fn(&PolicyView) -> bool) -> Arc<PolicyView> {
    soon(async {
        loop {
            let view = bench.source.policies();
            if holds(&view) {
                return view;
            }
            bench.source.policies_changed(view.revision).await;
        }
    })
    .await
}

fn policy(spec: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: web, namespace: shop}}\nspec: {spec}\n"
    )
}

#[tokio::test]
async fn policies_are_complete_once_the_directory_has_been_read() {
    let bench = Bench::with(|_| ());
    assert!(!bench.source.policies().complete);
    std::fs::create_dir(&bench.dir).unwrap();
    let view = until(&bench, |view| view.complete).await;
    assert!(view.policies.is_empty());
}

#[tokio::test]
async fn a_policy_that_cannot_be_read_keeps_its_last_good_content() {
    let bench = Bench::new();
    let key = PolicyKey { namespace: "shop".to_owned(), name: "web".to_owned() };
    bench.install("web.yaml", policy("{policyTypes: [Egress]}"));
    let before = until(&bench, |view| view.policies.contains_key(&key)).await;
    assert_eq!(before.policies[&key].ingress, None);
    bench.install("web.yaml", policy("{policyTypes: [Egres]}"));
    let view = bench.until(|view| !view.problems.is_empty()).await;
    let problem = "web.yaml:1: NetworkPolicy shop/web: spec.policyTypes[0] \"Egres\" is not a policy type: \
                   use Ingress, Egress or both; its last good content stays";
    assert_eq!(view.problems, [problem]);
    assert_eq!(bench.source.policies(), before);
    bench.install("web.yaml", policy("{policyTypes: [Ingress]}"));
    until(&bench, |view| view.policies[&key].ingress.is_some()).await;
}

#[tokio::test]
async fn a_second_definition_of_a_policy_is_a_problem() {
    let bench = Bench::new();
    bench.install("a.yaml", policy("{}"));
    bench.install("b.yaml", policy("{policyTypes: [Egress]}"));
    let view = bench.until(|view| !view.problems.is_empty()).await;
    let problem = "b.yaml:1: NetworkPolicy shop/web is already defined at a.yaml:1, this one is ignored";
    assert_eq!(view.problems, [problem]);
    assert!(bench.source.policies().policies.values().all(|policy| policy.ingress.is_some()));
}
