//! What the watches ask for, and what they live through.

use std::time::Duration;

use flock_core::config::NodeConfigSpec;
use flock_core::ids::PodKey;
use flock_core::ports::{Demand, NodeConfigView, PodSource, Readiness, Retry};
use flock_k8s::Timing;
use flock_k8s::testing::{Answer, FakeApiServer, Mood, Request};
use serde_json::{Value, json};

use crate::bench::{key, soon};
use crate::cluster::{Cluster, TIMING, node_config, pod};

fn spec(asn: u32) -> Value {
    json!({"cidr6": ["2001:db8:f001::/64"], "bgp": {"asn": asn}})
}

fn asn(config: Option<&NodeConfigView>) -> Option<u64> {
    config.and_then(|config| config.spec.as_ref().ok()).map(|spec| spec.bgp.asn)
}

fn is_watch(request: &Request) -> bool {
    request.query.contains_key("watch")
}

/// Requests for a kind, lists or watches.
fn asked(api: &FakeApiServer, plural: &str, watches: bool) -> Vec<Request> {
    let mut requests = api.requests();
    requests.retain(|it| it.path.ends_with(plural) && is_watch(it) == watches);
    requests
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_is_listed_and_watched_with_its_selector() {
    let cluster = Cluster::new().await;
    cluster.api.eventually("all is watched", |api| api.watching() == 3);
    let field = |request: &Request| request.query.get("fieldSelector").cloned();
    for watches in [false, true] {
        let pods = asked(&cluster.api, "/api/v1/pods", watches);
        assert_eq!(pods.len(), 1);
        assert_eq!(pods[0].method, "GET");
        assert_eq!(field(&pods[0]).as_deref(), Some("spec.nodeName=node-a"));
        assert_eq!(pods[0].body, Value::Null);
        let configs = asked(&cluster.api, "/apis/flock.fritzlab.net/v1alpha1/nodeconfigs", watches);
        let mut selectors: Vec<_> = configs.iter().map(field).collect();
        selectors.sort();
        assert_eq!(selectors, [None, Some("metadata.name=node-a".to_owned())]);
        let bookmarked = |request: &Request| request.query.contains_key("allowWatchBookmarks");
        assert!(pods.iter().chain(&configs).all(|request| bookmarked(request) == watches));
        let limit = |request: &Request| request.query.get("limit").cloned();
        assert_eq!(limit(&pods[0]), (!watches).then(|| "250".to_owned()));
        assert!(configs.iter().all(|it| limit(it) == (!watches).then(|| "50".to_owned())));
    }
    assert!(cluster.api.requests().iter().all(|request| !request.path.contains("namespaces")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_list_comes_in_pages_and_other_nodes_are_not_asked_for() {
    let api = FakeApiServer::start();
    for index in 0..550 {
        api.put(pod(&format!("web-{index:03}")));
        let mut elsewhere = pod(&format!("far-{index:03}"));
        elsewhere["spec"]["nodeName"] = json!("node-b");
        api.put(elsewhere);
    }
    let cluster = Cluster::around(api, None, TIMING).await;
    cluster.ready().await;
    assert_eq!(cluster.view().pods.len(), 550);
    assert_eq!(asked(&cluster.api, "/pods", false).len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_and_termination_of_a_pod_show_at_once() {
    let cluster = Cluster::new().await;
    let mut web = pod("web");
    cluster.api.put(web.clone());
    assert!(cluster.until_pods(&["web"]).await.pods[&key("web")].eligible());
    web["status"]["conditions"][0]["status"] = json!("False");
    cluster.api.put(web.clone());
    cluster.until(|view| !view.pods[&key("web")].ready).await;
    web["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    cluster.api.put(web);
    cluster.until(|view| view.pods[&key("web")].terminating).await;
    cluster.api.delete("pods", Some("default"), "web");
    cluster.until_pods(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_bound_to_the_node_later_shows_then() {
    let cluster = Cluster::new().await;
    let mut web = pod("web");
    web["spec"]["nodeName"] = Value::Null;
    cluster.api.put(web);
    cluster.api.put(pod("marker"));
    cluster.until_pods(&["marker"]).await;
    cluster.api.put(pod("web"));
    cluster.until_pods(&["marker", "web"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_is_cut_goes_on_where_it_was() {
    let cluster = Cluster::new().await;
    cluster.api.put(pod("one"));
    cluster.until_pods(&["one"]).await;
    cluster.api.cut();
    cluster.api.put(pod("two"));
    cluster.until_pods(&["one", "two"]).await;
    assert_eq!(asked(&cluster.api, "/pods", false).len(), 1, "no new list");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_ends_by_itself_goes_on_where_it_was() {
    let timing = Timing { watch: Duration::from_secs(1), ..TIMING };
    let cluster = Cluster::around(FakeApiServer::start(), None, timing).await;
    cluster.ready().await;
    cluster.api.eventually("it was watched twice", |api| asked(api, "/pods", true).len() > 1);
    cluster.api.put(pod("one"));
    cluster.until_pods(&["one"]).await;
    let watches = asked(&cluster.api, "/pods", true);
    assert!(watches.iter().all(|watch| watch.query["timeoutSeconds"] == "1"));
    assert_eq!(asked(&cluster.api, "/pods", false).len(), 1, "no new list");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bookmark_moves_on_the_version_a_watch_goes_on_from() {
    let cluster = Cluster::new().await;
    cluster.api.eventually("all is watched", |api| api.watching() == 3);
    // Nothing that is watched, so that only a bookmark can tell of the version.
    for index in 0..5 {
        let mut elsewhere = pod(&format!("far-{index}"));
        elsewhere["spec"]["nodeName"] = json!("node-b");
        cluster.api.put(elsewhere);
    }
    let version = |api: &FakeApiServer| {
        asked(api, "/pods", true).last().map(|watch| watch.query["resourceVersion"].clone())
    };
    assert_eq!(version(&cluster.api).as_deref(), Some("0"));
    cluster.api.bookmark();
    cluster.api.eventually("the bookmark is sent", FakeApiServer::has_told_all);
    cluster.api.cut();
    cluster.api.eventually("the watch goes on from there", |api| {
        version(api).is_some_and(|version| version.parse::<u64>().unwrap() >= 5)
    });
    assert_eq!(asked(&cluster.api, "/pods", false).len(), 1, "no new list");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_gone_leads_to_a_new_list_and_the_view_is_never_empty() {
    let cluster = Cluster::new().await;
    cluster.api.put(pod("one"));
    cluster.api.put(pod("two"));
    let before = cluster.until_pods(&["one", "two"]).await;
    // Missed by the watches, which are cut and cannot go on.
    cluster.api.set_mood(Mood::Away);
    cluster.api.delete("pods", Some("default"), "one");
    cluster.api.compact();
    cluster.api.set_mood(Mood::Well);
    let after = cluster.until_pods(&["two"]).await;
    assert_eq!(after.revision.0, before.revision.0 + 1, "one step, not one with nothing in it");
    assert_eq!(asked(&cluster.api, "/pods", false).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_refused_with_410_leads_to_a_new_list() {
    let cluster = Cluster::new().await;
    cluster.api.eventually("all is watched", |api| api.watching() == 3);
    cluster.api.plan("watch", "/pods", Answer::Status(410));
    cluster.api.cut();
    cluster.api.put(pod("one"));
    cluster.until_pods(&["one"]).await;
    assert_eq!(asked(&cluster.api, "/pods", false).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_the_api_server_are_outlived() {
    for status in [429, 500, 503, 403] {
        let api = FakeApiServer::start();
        api.put(pod("one"));
        api.set_mood(Mood::Failing(status));
        let cluster = Cluster::around(api, None, TIMING).await;
        cluster.api.eventually("it tries again", |api| asked(api, "/pods", false).len() > 3);
        assert!(matches!(cluster.source.ready(), Readiness::Starting(_)));
        cluster.api.set_mood(Mood::Well);
        cluster.ready().await;
        cluster.until_pods(&["one"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_known_state_stays_while_the_api_server_is_away() {
    let cluster = Cluster::new().await;
    cluster.api.put(pod("one"));
    cluster.api.put(node_config("node-a", &spec(65101)));
    let before = cluster.until(|view| view.pods.len() == 1 && view.node_config.is_some()).await;
    cluster.api.set_mood(Mood::Away);
    let tries = cluster.api.requests().len();
    cluster.api.eventually("it tries again", |api| api.requests().len() > tries + 10);
    assert_eq!(cluster.view(), before);
    assert_eq!(cluster.source.ready(), Readiness::Ready);
    let error = cluster.source.pod(&key("one")).await.unwrap_err();
    assert_eq!(error.retry(), Retry::Later);
    cluster.api.put(pod("two"));
    cluster.api.set_mood(Mood::Well);
    cluster.until_pods(&["one", "two"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_open_connection_is_given_up() {
    let timing = Timing { watch: Duration::from_secs(1), read: Duration::from_millis(100), ..TIMING };
    let cluster = Cluster::around(FakeApiServer::start(), None, timing).await;
    cluster.ready().await;
    cluster.api.set_mood(Mood::Silent);
    let error = cluster.source.pod(&key("one")).await.unwrap_err();
    assert!(error.to_string().contains("no answer"), "{error}");
    let watches = asked(&cluster.api, "/pods", true).len();
    cluster.api.eventually("the watch is given up", |api| asked(api, "/pods", true).len() > watches);
    cluster.api.set_mood(Mood::Well);
    cluster.api.put(pod("one"));
    cluster.until_pods(&["one"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_direct_read_asks_for_one_pod() {
    let cluster = Cluster::new().await;
    assert_eq!(cluster.source.pod(&key("web")).await.unwrap(), None);
    let mut web = pod("web");
    web["spec"]["nodeName"] = json!("node-b");
    cluster.api.put(web);
    let read = soon(cluster.source.pod(&key("web"))).await.unwrap().unwrap();
    assert_eq!(read.uid.as_ref().unwrap().to_string(), "uid-web");
    let reads = asked(&cluster.api, "/api/v1/namespaces/default/pods/web", false);
    assert_eq!(reads.len(), 2);
    assert!(reads.iter().all(|request| request.method == "GET" && request.query.is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_are_watched_only_while_they_are_demanded() {
    let cluster = Cluster::new().await;
    let dns = json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "dns", "labels": {"team": "dns"}},
    });
    cluster.api.put(dns);
    let demand = |namespaces| cluster.source.demand(Demand { namespaces, ..Demand::default() });
    cluster.api.put(node_config("node-a", &spec(65101)));
    cluster.until(|view| view.node_config.is_some()).await;
    assert!(asked(&cluster.api, "/namespaces", false).is_empty());
    demand(true);
    let view = cluster.until(|view| !view.namespaces.is_empty()).await;
    assert_eq!(view.namespaces["dns"]["team"], "dns");
    cluster.api.eventually("namespaces are watched", |api| api.watching() == 4);
    demand(false);
    cluster.until(|view| view.namespaces.is_empty()).await;
    cluster.api.eventually("namespaces are not watched", |api| api.watching() == 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn pools_of_other_nodes_are_known() {
    let cluster = Cluster::new().await;
    cluster.api.put(node_config("node-a", &spec(65101)));
    let other = json!({"cidr6": ["2001:db8:f002::/64"], "cidr4": [], "bgp": {"asn": 65102}});
    cluster.api.put(node_config("node-b", &other));
    let view = cluster.until(|view| !view.foreign_pools.is_empty()).await;
    assert_eq!(view.foreign_pools.len(), 1);
    assert_eq!(view.foreign_pools[&"node-b".parse().unwrap()], ["2001:db8:f002::/64".parse().unwrap()]);
    // A change of its status is no news.
    let mut noisy = node_config("node-b", &other);
    noisy["status"] = json!({"pods": 7});
    let before = cluster.until(|view| view.node_config.is_some()).await;
    cluster.api.put(noisy);
    cluster.api.put(pod("marker"));
    let after = cluster.until_pods(&["marker"]).await;
    assert_eq!(after.revision.0, before.revision.0 + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remembered_config_is_in_force_until_the_api_server_has_spoken() {
    let spec_of = |asn| serde_json::from_value::<NodeConfigSpec>(spec(asn)).unwrap();
    let slow = Timing { first: Duration::from_millis(20), ..TIMING };
    for (mood, timing) in [(Mood::Away, TIMING), (Mood::Silent, slow)] {
        let remembered = NodeConfigView { generation: 1, spec: Ok(spec_of(65101)) };
        let api = FakeApiServer::start();
        api.put(node_config("node-a", &spec(65102)));
        api.set_mood(mood);
        let cluster = Cluster::around(api, Some(remembered), timing).await;
        // Nobody answers: the node serves what it can.
        cluster.ready().await;
        assert_eq!(asn(cluster.view().node_config.as_ref()), Some(65101));
        assert!(cluster.view().pods_pending);
        cluster.api.set_mood(Mood::Well);
        cluster.api.cut();
        cluster.until(|view| asn(view.node_config.as_ref()) == Some(65102)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_objects_are_problems_and_no_more() {
    let cluster = Cluster::new().await;
    cluster.api.put(pod("web"));
    cluster.until_pods(&["web"]).await;
    let mut odd = pod("web");
    odd["status"]["podIPs"] = json!([{"ip": "nowhere"}]);
    cluster.api.put(odd);
    let mut odder = pod("odd");
    odder["spec"]["containers"] = json!("none");
    cluster.api.put(odder);
    cluster.api.put(node_config("node-a", &json!({"bgp": {"asn": "many"}, "cidr6": 7})));
    cluster.api.put(node_config("node-b", &json!("nothing")));
    cluster.api.put(json!({
        "apiVersion": "flock.fritzlab.net/v1alpha1", "kind": "NodeConfig", "metadata": {"name": "node-c"},
    }));
    let view = cluster.until(|view| view.problems.len() == 4 && view.node_config.is_some()).await;
    assert_eq!(view.pods.keys().map(PodKey::name).collect::<Vec<_>>(), ["web"], "its last good state");
    assert!(view.problems[1].starts_with("Pod default/web: status.podIPs"), "{:?}", view.problems);
    assert!(view.node_config.as_ref().unwrap().spec.is_err());
    // A list with them in it is a list all the same.
    cluster.api.compact();
    cluster.api.cut();
    cluster.api.put(pod("marker"));
    cluster.until(|view| view.pods.len() == 2).await;
}
