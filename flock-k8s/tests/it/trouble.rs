//! Lists and watches that go wrong half-way.

use std::time::Duration;

use flock_core::config::{BgpSpec, NodeConfigSpec};
use flock_core::ports::{NodeConfigView, PodSource, Readiness};
use flock_k8s::Timing;
use flock_k8s::testing::{Answer, FakeApiServer, Mood, Then, error_event};
use serde_json::json;

use crate::bench::{key, soon};
use crate::cluster::{Cluster, TIMING, client, pod};

fn lists(api: &FakeApiServer) -> usize {
    asked(api, "list")
}

fn asked(api: &FakeApiServer, verb: &str) -> usize {
    api.requests().iter().filter(|it| it.verb() == verb && it.path == "/api/v1/pods").count()
}

fn many(api: &FakeApiServer) {
    (0..550).for_each(|index| api.put(pod(&format!("web-{index:03}"))));
}

/// A cluster with a first list and a first watch; then its next watch of pods is answered like this.
async fn next_watch(answer: Answer) -> Cluster {
    let cluster = Cluster::new().await;
    cluster.api.put(pod("one"));
    cluster.until_pods(&["one"]).await;
    cluster.api.plan("watch", "/pods", answer);
    cluster.api.cut();
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_trickles_for_ever_is_given_up() {
    let api = FakeApiServer::start();
    api.put(pod("one"));
    api.plan("list", "/pods", Answer::Trickle);
    let cluster = Cluster::around(api, None, Timing { page: Duration::from_millis(100), ..TIMING }).await;
    cluster.ready().await;
    cluster.until_pods(&["one"]).await;
    assert_eq!(lists(&cluster.api), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_torn_in_the_middle_of_a_page_begins_again() {
    let api = FakeApiServer::start();
    many(&api);
    api.plan("list", "/pods", Answer::Late(Duration::ZERO));
    api.plan("list", "/pods", Answer::Torn);
    let cluster = Cluster::around(api, None, TIMING).await;
    cluster.ready().await;
    assert_eq!(cluster.view().pods.len(), 550);
    assert_eq!(lists(&cluster.api), 2 + 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_continue_token_that_expires_begins_the_list_again_and_half_of_it_never_shows() {
    let api = FakeApiServer::start();
    many(&api);
    let cluster = Cluster::around(api, None, TIMING).await;
    cluster.ready().await;
    let before = cluster.view();
    cluster.api.set_mood(Mood::Away);
    cluster.api.delete("pods", Some("default"), "web-000");
    cluster.api.compact();
    cluster.api.plan("list", "/pods", Answer::Late(Duration::ZERO));
    cluster.api.plan("list", "/pods", Answer::Status(410));
    cluster.api.set_mood(Mood::Well);
    let after = cluster.until(|view| view.pods.len() != 550).await;
    assert_eq!(after.pods.len(), 549);
    assert_eq!(after.revision.0, before.revision.0 + 1, "in one step");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_event_leads_to_a_new_list_whatever_its_code() {
    for (code, message) in [
        (410, "too old resource version: 7 (9)"),
        (500, "etcd event received with PrevKv=nil"),
        (504, "etcdserver: request timed out"),
        (403, "forbidden"),
    ] {
        let cluster = next_watch(Answer::Stream(error_event(code, message), Then::Stall)).await;
        cluster.api.put(pod("two"));
        cluster.until_pods(&["one", "two"]).await;
        assert_eq!(lists(&cluster.api), 2, "{code}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_garbled_line_said_is_not_lost() {
    let bad_version = json!({"type": "ADDED", "object": {"metadata": {"name": "ghost"}}});
    for line in [
        "\u{1f4a9} 0x00\n".to_owned(),
        "{\"type\":\"NEW\",\"object\":{}}\n".to_owned(),
        format!("{bad_version}\n"),
    ] {
        // The line stands for a pod that is there; the stream goes on after it, as if nothing had been.
        let cluster = Cluster::new().await;
        cluster.api.eventually("all is watched", |api| api.watching() == 3);
        cluster.api.plan("watch", "/pods", Answer::Stream(line.clone(), Then::Stall));
        cluster.api.cut();
        cluster.api.put(pod("one"));
        cluster.until_pods(&["one"]).await;
        assert_eq!(lists(&cluster.api), 2, "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_line_and_then_silence_is_given_up_and_goes_on_where_it_was() {
    let timing = Timing { watch: Duration::from_secs(1), ..TIMING };
    let api = FakeApiServer::start();
    let half = "{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"na".to_owned();
    api.plan("watch", "/pods", Answer::Stream(half, Then::Stall));
    let cluster = Cluster::around(api, None, timing).await;
    cluster.ready().await;
    cluster.api.put(pod("one"));
    cluster.until_pods(&["one"]).await;
    assert_eq!(lists(&cluster.api), 1);
}

/// Waits for a watch, and then as long as many requests take: without looking at the clock.
async fn watched_then_many_times_around(cluster: &Cluster) {
    cluster.api.eventually("it was watched", |api| asked(api, "watch") > 0);
    for _ in 0..20 {
        assert_eq!(soon(cluster.source.pod(&key("nobody"))).await.unwrap(), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_ends_at_once_is_not_begun_again_at_once() {
    let bookmark = json!({"type": "BOOKMARK", "object": {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"resourceVersion": "1"},
    }});
    for said in [String::new(), format!("{bookmark}\n")] {
        let api = FakeApiServer::start();
        api.plan_always("watch", "/pods", Answer::Stream(said, Then::End));
        let day = Duration::from_hours(24);
        let cluster = Cluster::around(api, None, Timing { pause: (day, day), ..TIMING }).await;
        cluster.ready().await;
        watched_then_many_times_around(&cluster).await;
        assert_eq!(asked(&cluster.api, "watch"), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_keeps_ending_at_once_still_tells_what_happened() {
    let api = FakeApiServer::start();
    api.plan_always("watch", "/pods", Answer::Stream(String::new(), Then::End));
    let cluster = Cluster::around(api, None, TIMING).await;
    cluster.ready().await;
    cluster.api.eventually("it is tried again", |api| asked(api, "watch") > 3);
    cluster.api.put(pod("one"));
    cluster.api.as_ever();
    cluster.until_pods(&["one"]).await;
    assert_eq!(lists(&cluster.api), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_requests_are_waited_out_without_a_new_list() {
    let cluster = next_watch(Answer::Text(429)).await;
    cluster.api.put(pod("two"));
    cluster.until_pods(&["one", "two"]).await;
    assert_eq!(lists(&cluster.api), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_watched_is_not_listed_all_the_time() {
    let api = FakeApiServer::start();
    api.plan_always("watch", "/pods", Answer::Status(403));
    let day = Duration::from_hours(24);
    let cluster = Cluster::around(api, None, Timing { pause: (day, day), ..TIMING }).await;
    cluster.ready().await;
    watched_then_many_times_around(&cluster).await;
    assert_eq!((lists(&cluster.api), asked(&cluster.api, "watch")), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_huge_object_is_an_object() {
    let cluster = Cluster::new().await;
    let mut huge = pod("huge");
    let text = "x".repeat(1_500_000);
    huge["metadata"]["annotations"] = json!({ "example.com/text": text });
    cluster.api.put(huge);
    let view = cluster.until_pods(&["huge"]).await;
    assert_eq!(view.pods[&key("huge")].annotations["example.com/text"].len(), 1_500_000);
    cluster.api.compact();
    cluster.api.cut();
    cluster.api.put(pod("small"));
    cluster.until_pods(&["huge", "small"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_page_asks_for_what_the_api_server_refuses() {
    let api = FakeApiServer::start();
    many(&api);
    let cluster = Cluster::around(api, None, TIMING).await;
    cluster.ready().await;
    let pages = cluster.api.requests();
    let pages: Vec<_> = pages.iter().filter(|it| it.query.contains_key("continue")).collect();
    assert_eq!(pages.len(), 2);
    assert!(pages.iter().all(|page| !page.query.contains_key("resourceVersion")), "{pages:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_nobody_used_for_a_while_is_not_silent() {
    let api = FakeApiServer::start();
    let silence = Duration::from_secs(10);
    let source = flock_k8s::KubePodSource::open(
        client(&api, silence).await,
        &crate::bench::node(),
        None,
        Timing { watch: Duration::from_mins(5), ..TIMING },
    );
    soon(source.changed(flock_core::ports::Revision::default())).await;
    assert_eq!(soon(source.pod(&key("web"))).await.unwrap(), None);
    // Less than the silence twice, more than it together.
    let quiet = Duration::from_secs(6);
    tokio::time::sleep(quiet).await;
    api.plan("get", "/pods/web", Answer::Late(quiet));
    assert_eq!(soon(source.pod(&key("web"))).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_lets_nobody_in_leaves_the_node_with_what_it_remembers() {
    let spec =
        NodeConfigSpec { bgp: BgpSpec { asn: 65101, ..BgpSpec::default() }, ..NodeConfigSpec::default() };
    for code in [401, 403, 429, 503] {
        let api = FakeApiServer::start();
        api.set_mood(Mood::Failing(code));
        let remembered = NodeConfigView { generation: 1, spec: Ok(spec.clone()) };
        let cluster = Cluster::around(api, Some(remembered), TIMING).await;
        cluster.ready().await;
        assert!(cluster.view().node_config.is_some());
    }
    // Where the kind is not known there is no such object.
    let api = FakeApiServer::start();
    api.plan_always("list", "/nodeconfigs", Answer::Text(404));
    let cluster = Cluster::around(api, Some(NodeConfigView { generation: 1, spec: Ok(spec) }), TIMING).await;
    cluster.api.eventually("it tries again", |api| {
        api.requests().iter().filter(|it| it.path.ends_with("/nodeconfigs")).count() > 6
    });
    assert!(matches!(cluster.source.ready(), Readiness::Starting(_)));
}
