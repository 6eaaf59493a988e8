use std::collections::BTreeMap;

use flock_core::config::BgpSpec;
use flock_core::policy::NetworkPolicy;
use flock_core::testing::pod_view;

use super::*;
use crate::object::{Kind, PoolsView};

type PoolsResult = Result<Option<PoolsView>, String>;

fn index(remembered: Option<NodeConfigView>) -> Index {
    Index::new(NodeName::parse("node-a").unwrap(), remembered)
}

fn config(asn: u64) -> NodeConfigView {
    let bgp = BgpSpec { asn, ..BgpSpec::default() };
    NodeConfigView { generation: 1, spec: Ok(NodeConfigSpec { bgp, ..NodeConfigSpec::default() }) }
}

fn own(config: NodeConfigView) -> OwnView {
    OwnView { uid: None, config, since: BTreeMap::new() }
}

#[test]
fn a_new_list_replaces_the_old_one_when_it_is_complete() {
    let mut index = index(None);
    let names = |index: &Index| index.view().pods.keys().map(ToString::to_string).collect::<Vec<_>>();
    let list = |index: &mut Index, pods: &[&str]| {
        index.pods.begin();
        for pod in pods {
            index.pods.list((*pod).to_owned(), Ok(Some(pod_view(pod))));
        }
    };
    list(&mut index, &["a/one", "a/two"]);
    assert!(names(&index).is_empty());
    index.pods.end();
    list(&mut index, &["a/two", "a/three"]);
    assert_eq!(names(&index), ["a/one", "a/two"], "while the new list comes in");
    index.pods.end();
    assert_eq!(names(&index), ["a/three", "a/two"]);
    index.pods.delete("a/two");
    index.pods.delete("a/unknown");
    assert_eq!(names(&index), ["a/three"]);
}

#[test]
fn a_list_that_is_begun_again_forgets_the_half_of_before() {
    let mut index = index(None);
    index.pods.begin();
    index.pods.list("a/one".to_owned(), Ok(Some(pod_view("a/one"))));
    index.pods.begin();
    index.pods.end();
    assert!(index.view().pods.is_empty());
}

#[test]
fn an_object_that_cannot_be_read_keeps_its_last_good_state() {
    let mut index = index(None);
    index.pods.apply("a/one".to_owned(), Ok(Some(pod_view("a/one"))));
    let before = index.view().pods;
    index.pods.apply("a/one".to_owned(), Err("status.podIPs: odd".to_owned()));
    index.pods.apply("a/two".to_owned(), Err("spec.nodeName: odd".to_owned()));
    assert_eq!(index.view().pods, before);
    let problems =
        ["Pod a/one: status.podIPs: odd; its last good state stays", "Pod a/two: spec.nodeName: odd"];
    assert_eq!(index.view().problems, problems);
    index.pods.begin();
    index.pods.list("a/one".to_owned(), Err("odd".to_owned()));
    index.pods.end();
    assert_eq!(index.view().pods, before, "over a new list too");
    index.pods.apply("a/one".to_owned(), Ok(Some(pod_view("a/one"))));
    assert!(index.view().problems.is_empty());
}

#[test]
fn ready_is_both_lists_or_a_known_config_while_the_api_server_is_away() {
    let mut fresh = index(None);
    assert!(matches!(fresh.readiness(), Readiness::Starting(what) if what.contains("NodeConfig")));
    fresh.set_away(true);
    fresh.settle();
    assert!(matches!(fresh.readiness(), Readiness::Starting(_)), "nothing to work from");
    fresh.own.begin();
    fresh.own.end();
    assert!(matches!(fresh.readiness(), Readiness::Starting(what) if what.contains("pods")));
    fresh.pods.begin();
    fresh.pods.end();
    assert_eq!(fresh.readiness(), Readiness::Ready);

    let mut known = index(Some(config(65101)));
    assert!(matches!(known.readiness(), Readiness::Starting(_)), "it may answer any moment");
    known.set_away(true);
    known.settle();
    assert_eq!(known.readiness(), Readiness::Ready);
    known.set_away(false);
    known.own.begin();
    known.own.end();
    known.settle();
    assert_eq!(known.readiness(), Readiness::Ready, "what serves goes on");
}

#[test]
fn a_node_goes_on_alone_only_with_a_config() {
    let mut fresh = index(None);
    fresh.go_on_alone();
    assert!(matches!(fresh.readiness(), Readiness::Starting(_)));
    let mut known = index(Some(config(65101)));
    known.go_on_alone();
    assert_eq!(known.readiness(), Readiness::Ready);
    assert!(known.view().pods_pending);
}

#[test]
fn what_an_earlier_run_knew_counts_while_the_api_server_is_away_and_has_not_spoken() {
    let mut index = index(Some(config(65101)));
    assert_eq!(index.view().node_config, None, "it may answer any moment");
    index.set_away(true);
    index.settle();
    assert_eq!(index.view().node_config, Some(config(65101)));
    assert!(index.view().pods_pending);
    index.own.begin();
    assert_eq!(index.view().node_config, Some(config(65101)));
    index.own.list("node-a".to_owned(), Ok(Some(own(config(65102)))));
    index.own.end();
    assert_eq!(index.view().node_config, Some(config(65102)));
    index.own.delete("node-a");
    assert_eq!(index.view().node_config, None);
}

#[test]
fn what_an_earlier_run_knew_counts_while_what_is_written_is_refused() {
    let mut index = index(Some(config(65101)));
    index.own.begin();
    index.own.list("node-a".to_owned(), Ok(Some(own(config(0)))));
    index.own.end();
    index.settle();
    assert_eq!(index.view().last_good.map(|spec| (*spec).clone()), config(65101).spec.ok());
}

#[test]
fn what_an_earlier_run_knew_does_not_come_back_after_the_config_was_deleted() {
    let mut index = index(Some(config(65101)));
    let mut list = |written: Option<NodeConfigView>| {
        index.own.begin();
        if let Some(written) = written {
            index.own.list("node-a".to_owned(), Ok(Some(own(written))));
        }
        index.own.end();
        index.settle();
        index.view().last_good.is_some()
    };
    assert!(list(Some(config(0))), "it is refused");
    assert!(!list(None), "it is deleted");
    assert!(!list(Some(config(0))), "another one is refused");
}

#[test]
fn a_config_without_the_list_of_pods_does_not_show() {
    let mut index = index(None);
    index.own.begin();
    index.own.list("node-a".to_owned(), Ok(Some(own(config(65101)))));
    index.own.end();
    assert_eq!(index.view().node_config, None);
    index.pods.begin();
    assert!(index.view().pods_pending);
    index.pods.end();
    assert!(!index.view().pods_pending);
    assert_eq!(index.view().node_config, Some(config(65101)));
}

#[test]
fn pools_of_other_nodes_are_known_and_ones_own_are_not_foreign() {
    let mut index = index(None);
    let pools = |cidr: &str| Ok(Some(PoolsView { cidr6: vec![cidr.to_owned()], cidr4: Vec::new() }));
    index.others.apply("node-a".to_owned(), pools("2001:db8:f001::/64"));
    index.others.apply("node-b".to_owned(), pools("2001:db8:f002::/64"));
    index.others.apply("Not a node".to_owned(), pools("2001:db8:f003::/64"));
    index.settle();
    let foreign = index.view().foreign_pools;
    assert_eq!(foreign.len(), 1);
    assert_eq!(foreign[&NodeName::parse("node-b").unwrap()], ["2001:db8:f002::/64".parse().unwrap()]);
}

#[test]
fn policies_are_complete_with_all_that_they_need_and_nothing_else() {
    let mut index = index(None);
    let key = "default/deny";
    let policy = || NetworkPolicy::closed(Policies::key(key).unwrap());
    index.policies.begin();
    index.policies.end();
    assert!(!index.policies().complete, "nobody asked for them");
    index.set_demand(Demand { policies: true, ..Demand::default() });
    assert!(!index.policies().complete, "without the policies of all namespaces");
    assert_eq!(index.cluster_policies.absent(), 0);
    assert!(index.policies().complete && !index.wanted().remote_pods);
    index.policies.apply(key.to_owned(), Ok(Some(policy())));
    assert!(!index.policies().complete && index.wanted().namespaces && index.wanted().remote_pods);
    index.namespaces.begin();
    index.namespaces.end();
    assert!(!index.policies().complete, "without the pods");
    index.remote_pods.begin();
    index.remote_pods.end();
    assert!(index.policies().complete);
    index.namespaces.begin();
    assert!(index.policies().complete, "while a list is read anew");
    index.policies.delete(key);
    assert!(index.policies().complete && !index.wanted().namespaces);
}

#[test]
fn a_change_moves_the_stamps_of_the_views_that_show_it() {
    let mut index = index(None);
    let mut moved = |edit: fn(&mut Index)| {
        let before = (index.stamp(), index.policy_stamp());
        edit(&mut index);
        (index.stamp() != before.0, index.policy_stamp() != before.1)
    };
    assert_eq!(
        moved(|index| index.pods.apply("a/one".to_owned(), Ok(Some(pod_view("a/one"))))),
        (true, false)
    );
    assert_eq!(moved(|index| index.namespaces.apply("a".to_owned(), Ok(Some([].into())))), (false, true));
    assert_eq!(moved(|index| index.set_demand(Demand { namespaces: true, policies: false })), (true, false));
    assert_eq!(moved(|index| index.namespaces.delete("a")), (true, true));
    assert_eq!(
        moved(|index| index.remote_pods.apply("a/two".to_owned(), Err("odd".to_owned()))),
        (true, false)
    );
    assert_eq!(
        moved(|index| index.remote_pods.apply("a/two".to_owned(), Err("odd".to_owned()))),
        (false, false)
    );
}

#[test]
fn pools_of_other_nodes_are_read_again_only_when_they_change() {
    let mut index = index(None);
    let pools = |cidr: &str| Ok(Some(PoolsView { cidr6: vec![cidr.to_owned()], cidr4: Vec::new() }));
    let mut seen = |edit: fn(&mut Index, PoolsResult), cidr: &str| {
        edit(&mut index, pools(cidr));
        index.settle();
        index.view().foreign_pools
    };
    let apply = |index: &mut Index, pools| index.others.apply("node-b".to_owned(), pools);
    let first = seen(apply, "2001:db8:f002::/64");
    let status = seen(apply, "2001:db8:f002::/64");
    assert!(Arc::ptr_eq(&first, &status), "the status of another node");
    let pod =
        seen(|index, _| index.pods.apply("a/one".to_owned(), Ok(Some(pod_view("a/one")))), "2001:db8::/64");
    assert!(Arc::ptr_eq(&first, &pod), "a pod of this node");
    let moved = seen(apply, "2001:db8:f003::/64");
    assert_eq!(moved.values().next().unwrap(), &["2001:db8:f003::/64".parse().unwrap()]);
    assert!(seen(|index, _| index.others.delete("node-b"), "2001:db8::/64").is_empty());
    let list = |index: &mut Index, pools| {
        index.others.begin();
        index.others.list("node-b".to_owned(), pools);
        index.others.end();
    };
    assert_eq!(seen(list, "2001:db8:f004::/64").len(), 1);
}
