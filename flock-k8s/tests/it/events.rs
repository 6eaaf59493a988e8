//! Events: what the cluster hears of pods and of a NodeConfig that is refused.

use std::time::Duration;

use flock_core::ports::{PodEvent, StatusSink};
use flock_k8s::testing::{Answer, Mood};
use flock_k8s::{KubeStatus, Pace, SILENCE};
use serde_json::json;

use crate::bench::soon;
use crate::cluster::client;
use crate::telling::{Bench, DAY, PACE, at_once, good, refused};

const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/default/events";

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_node_config_is_told_once_for_each_reason() {
    let bench = Bench::new(PACE).await;
    for reason in ["spec.bgp.asn: 0", "spec.bgp.asn: 0", "spec.bgp.asn: 23456", "spec.bgp.asn: 23456"] {
        assert!(bench.publish(&refused(reason)).await);
    }
    assert!(bench.publish(&good(0)).await);
    bench.until_events(2);
    let told = bench.asked("POST", EVENTS);
    assert_eq!(told.len(), 2);
    assert_eq!(told[0].path, EVENTS, "the namespace of what has none");
    assert_eq!(told[0].query["fieldManager"], "flock-agent");
    let mut body = told[0].body.clone();
    let name = body["metadata"]["name"].take();
    assert!(name.as_str().unwrap().starts_with("node-a."), "{name}");
    assert!(body["eventTime"].take().is_string());
    let expected = json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": null, "namespace": "default"},
        "eventTime": null,
        "reportingController": "flock.fritzlab.net/agent",
        "reportingInstance": "node-a",
        "action": "Network",
        "reason": "ConfigRefused",
        "regarding": {
            "apiVersion": "flock.fritzlab.net/v1alpha1",
            "kind": "NodeConfig",
            "name": "node-a",
            "uid": "config-1",
        },
        "note": "spec.bgp.asn: 0",
        "type": "Warning",
    });
    assert_eq!(body, expected);
    assert_eq!(told[1].body["note"], "spec.bgp.asn: 23456");
    assert!(bench.asked("PATCH", EVENTS).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_a_pod_is_where_kubectl_describe_looks_for_it() {
    let bench = Bench::new(PACE).await;
    bench.happened("no").await;
    let event = &bench.until_events(1)[0];
    let expected =
        json!({"apiVersion": "v1", "kind": "Pod", "namespace": "default", "name": "web", "uid": "uid-web"});
    assert_eq!(event["regarding"], expected);
    // The runtime knows better than the view which pod it means.
    let (pod, uid) = ("default/web".parse().unwrap(), Some("uid-of-before".parse().unwrap()));
    let event = PodEvent { pod, uid, reason: "NetworkRefused", message: "no".to_owned() };
    soon(bench.status.event(&event)).await.unwrap();
    let events = bench.until_events(2);
    assert!(events.iter().any(|event| event["regarding"]["uid"] == "uid-of-before"), "{events:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_names_make_a_good_event() {
    let bench = Bench::new(PACE).await;
    let long = [&"a".repeat(63), &"b".repeat(63), &"c".repeat(63), &*"d".repeat(61)].join(".");
    let client = client(bench.api(), SILENCE).await;
    let status = KubeStatus::new(client, &long.parse().unwrap(), &bench.cluster.source, PACE);
    let (pod, message) = (format!("default/{long}").parse().unwrap(), "é".repeat(2000));
    let event = PodEvent { pod, uid: None, reason: "NetworkRefused", message };
    soon(status.event(&event)).await.unwrap();
    let event = &bench.until_events(1)[0];
    assert_eq!(event["regarding"]["name"], long);
    assert_eq!(bench.asked("POST", EVENTS).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repetition_moves_on_the_series_of_the_same_event() {
    let bench = Bench::new(PACE).await;
    bench.happened("no").await;
    let name = bench.until_events(1)[0]["metadata"]["name"].as_str().unwrap().to_owned();
    let path = format!("{EVENTS}/{name}");
    bench.api().eventually("it is told again, twice", |_| {
        at_once(bench.happened("no"));
        bench.asked("PATCH", EVENTS).len() >= 2
    });
    let mut last = 1;
    for patch in bench.asked("PATCH", EVENTS) {
        assert_eq!(patch.path, path);
        assert_eq!(patch.content_type, "application/merge-patch+json");
        assert_eq!(patch.query["fieldManager"], "flock-agent");
        let count = patch.body["series"]["count"].as_i64().unwrap();
        assert!(count > last, "{count} after {last}");
        last = count;
        assert!(patch.body["series"]["lastObservedTime"].is_string());
        assert_eq!(patch.body.as_object().unwrap().len(), 1, "{}", patch.body);
    }
    bench.api().eventually("it was taken", |api| {
        api.all("events")[0]["series"]["count"].as_i64().is_some_and(|count| count >= last)
    });
    assert_eq!(bench.api().all("events").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn repetitions_within_the_quiet_time_are_not_told() {
    let bench = Bench::new(Pace { quiet: DAY, ..PACE }).await;
    // One is told after the other: what comes later in the alphabet, when the other was heard.
    for marker in ["y", "z"] {
        (0..100).for_each(|_| at_once(bench.happened("no")));
        bench.happened(marker).await;
        bench.api().eventually("the marker is told", |api| {
            api.all("events").iter().any(|event| event["note"] == marker)
        });
    }
    assert_eq!(bench.asked("POST", EVENTS).len(), 3);
    assert!(bench.asked("PATCH", EVENTS).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_has_expired_is_told_as_a_new_one() {
    let bench = Bench::new(PACE).await;
    bench.happened("no").await;
    let old = bench.until_events(1)[0]["metadata"]["name"].as_str().unwrap().to_owned();
    bench.api().delete("events", Some("default"), &old);
    bench.api().eventually("it is told as a new one", |api| {
        at_once(bench.happened("no"));
        api.all("events").len() == 1
    });
    let name = bench.api().all("events")[0]["metadata"]["name"].clone();
    assert_ne!(name, old);
    bench.api().eventually("the new one goes on", |api| {
        at_once(bench.happened("no"));
        // What happened before counts.
        api.all("events")[0]["series"]["count"].as_i64().is_some_and(|count| count > 2)
    });
    assert_eq!(bench.asked("POST", EVENTS).len(), 2);
    assert_eq!(bench.api().all("events")[0]["metadata"]["name"], name);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_refused_is_no_error_for_ever_and_no_flood() {
    for code in [403, 404, 422] {
        let bench = Bench::new(Pace { quiet: DAY, ..PACE }).await;
        bench.api().plan("create", "/events", Answer::Status(code));
        for _ in 0..100 {
            bench.happened("no").await;
        }
        bench.happened("marker").await;
        bench.until_events(1);
        assert_eq!(bench.asked("POST", EVENTS).len(), 2, "{code}");

        let bench = Bench::new(PACE).await;
        bench.api().plan("create", "/events", Answer::Status(code));
        bench.happened("no").await;
        bench.until_asked("POST", EVENTS, 1);
        // Repeated after the quiet time.
        bench.api().eventually("it is told when it is repeated", |api| {
            at_once(bench.happened("no"));
            api.all("events").len() == 1
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_exists_already_was_told() {
    let bench = Bench::new(PACE).await;
    // The API server takes it, and its answer is lost.
    bench.api().plan("create", "/events", Answer::Torn);
    bench.happened("no").await;
    let posts = bench.until_asked("POST", EVENTS, 2);
    assert_eq!(posts[0].body["metadata"]["name"], posts[1].body["metadata"]["name"]);
    bench.api().eventually("it goes on", |api| {
        at_once(bench.happened("no"));
        api.all("events")[0]["series"]["count"].as_u64() > Some(2)
    });
    assert_eq!((bench.api().all("events").len(), bench.asked("POST", EVENTS).len()), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_while_the_api_server_is_away_is_told_later_and_nobody_waits() {
    for mood in [Mood::Away, Mood::Failing(503), Mood::Failing(401), Mood::Silent] {
        let bench = Bench::new(Pace { patience: Duration::from_millis(50), ..PACE }).await;
        bench.api().set_mood(mood);
        let before = bench.api().requests().len();
        bench.happened("no").await;
        bench.happened("no").await;
        bench.publish(&refused("spec.bgp.asn: 0")).await;
        bench.api().eventually("it is tried", |api| api.requests().len() > before + 4);
        bench.api().set_mood(Mood::Well);
        let events = bench.until_events(2);
        let mut reasons: Vec<_> = events.iter().map(|event| event["reason"].as_str().unwrap()).collect();
        reasons.sort_unstable();
        assert_eq!(reasons, ["ConfigRefused", "NetworkRefused"], "{mood:?}");
    }
}
