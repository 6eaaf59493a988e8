//! What the cluster hears of the node: method, path and body. Of its Events in `events`.

use std::sync::Arc;
use std::time::Duration;

use flock_core::ports::{Condition, NodeStatus, PeerState, PeerStatus, PodEvent, StatusSink};
use flock_k8s::testing::{Answer, FakeApiServer, Mood, Request};
use flock_k8s::{KubeStatus, Pace, SILENCE};
use serde_json::{Value, json};

use crate::bench::{node, soon};
use crate::cluster::{Cluster, TIMING, client, node_config, pod};
use crate::schema::{admit, schema};

const STATUS: &str = "/apis/flock.fritzlab.net/v1alpha1/nodeconfigs/node-a/status";
const NODE: &str = "/api/v1/nodes/node-a/status";

/// Nothing waits for long, and nothing is limited.
pub(crate) const PACE: Pace = Pace {
    status: (Duration::ZERO, Duration::ZERO),
    heartbeat: (Duration::from_millis(5), Duration::from_millis(5)),
    quiet: Duration::ZERO,
    retry: (Duration::from_millis(5), Duration::from_millis(20)),
    patience: Duration::from_secs(20),
};

pub(crate) const DAY: Duration = Duration::from_hours(24);

pub(crate) struct Bench {
    pub(crate) cluster: Cluster,
    pub(crate) status: Arc<KubeStatus>,
}

impl Bench {
    /// Tells of the node of a cluster, once that has been read.
    async fn around(cluster: Cluster) -> Self {
        cluster.ready().await;
        let client = client(&cluster.api, SILENCE).await;
        let status = Arc::new(KubeStatus::new(client, &node(), &cluster.source, PACE));
        Self { cluster, status }
    }

    pub(crate) async fn new(pace: Pace) -> Self {
        let cluster = Cluster::new().await;
        let spec = json!({"cidr6": ["2001:db8:f001::/64"], "bgp": {"asn": 65101}});
        cluster.api.put(node_config("node-a", &spec));
        cluster.api.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"}}));
        cluster.api.put(pod("web"));
        cluster.until(|view| view.node_config.is_some() && view.pods.len() == 1).await;
        let client = client(&cluster.api, SILENCE).await;
        let status = Arc::new(KubeStatus::new(client, &node(), &cluster.source, pace));
        Self { cluster, status }
    }

    pub(crate) fn api(&self) -> &FakeApiServer {
        &self.cluster.api
    }

    pub(crate) fn asked(&self, method: &str, path: &str) -> Vec<Request> {
        let mut requests = self.api().requests();
        requests.retain(|it| it.method == method && it.path.starts_with(path));
        requests
    }

    pub(crate) fn until_asked(&self, method: &str, path: &str, times: usize) -> Vec<Request> {
        self.api().eventually(&format!("{method} {path} {times} times"), |_| {
            self.asked(method, path).len() >= times
        });
        self.asked(method, path)
    }

    pub(crate) fn until_events(&self, count: usize) -> Vec<Value> {
        self.api().eventually("the events are there", |api| api.all("events").len() >= count);
        self.api().all("events")
    }

    pub(crate) async fn publish(&self, status: &NodeStatus) -> bool {
        soon(self.status.publish(status)).await.is_ok()
    }

    pub(crate) async fn happened(&self, message: &str) {
        let pod = "default/web".parse().unwrap();
        let event = PodEvent { pod, uid: None, reason: "NetworkRefused", message: message.to_owned() };
        soon(self.status.event(&event)).await.unwrap();
    }

    fn written(&self) -> Value {
        self.api().get("nodeconfigs", None, "node-a").unwrap()["status"].clone()
    }
}

fn condition(kind: &str, status: bool, reason: &str, message: &str) -> Condition {
    Condition { kind: kind.to_owned(), status, reason: reason.to_owned(), message: message.to_owned() }
}

pub(crate) fn good(pods: u64) -> NodeStatus {
    let ready = condition("Ready", true, "Configured", "pods can be attached");
    let accepted = condition("ConfigAccepted", true, "Accepted", "the NodeConfig is in force");
    NodeStatus { conditions: vec![ready, accepted], pods, ..NodeStatus::default() }
}

pub(crate) fn refused(reason: &str) -> NodeStatus {
    let accepted = condition("ConfigAccepted", false, "Refused", reason);
    NodeStatus { conditions: vec![accepted], ..NodeStatus::default() }
}

/// Waits for what does not wait.
pub(crate) fn at_once<T>(future: impl Future<Output = T>) -> T {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(future))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_is_applied_when_it_changes() {
    let bench = Bench::new(PACE).await;
    let mut status = good(1);
    status.bgp = vec![PeerStatus {
        peer: "2001:db8::1".parse().unwrap(),
        state: PeerState::Established,
        since: "10:00".to_owned(),
        imported: 1,
        exported: 2,
        last_error: None,
    }];
    for _ in 0..3 {
        assert!(bench.publish(&status).await);
    }
    let writes = bench.asked("PATCH", STATUS);
    assert_eq!(writes.len(), 1);
    assert_eq!(writes[0].path, STATUS);
    assert_eq!(writes[0].content_type, "application/apply-patch+yaml");
    assert_eq!((&*writes[0].query["fieldManager"], &*writes[0].query["force"]), ("flock-agent", "true"));
    let mut body = writes[0].body.clone();
    for condition in body["status"]["conditions"].as_array_mut().unwrap() {
        assert!(condition["lastTransitionTime"].take().is_string());
    }
    let expected = json!({
        "apiVersion": "flock.fritzlab.net/v1alpha1",
        "kind": "NodeConfig",
        "metadata": {"name": "node-a"},
        "status": {
            "observedGeneration": 1,
            "conditions": [
                {
                    "type": "Ready", "status": "True", "reason": "Configured",
                    "message": "pods can be attached", "observedGeneration": 1, "lastTransitionTime": null,
                },
                {
                    "type": "ConfigAccepted", "status": "True", "reason": "Accepted",
                    "message": "the NodeConfig is in force", "observedGeneration": 1, "lastTransitionTime": null,
                },
            ],
            "sessions": "1/1",
            "pods": 1,
            "bgp": [{
                "peer": "2001:db8::1", "state": "Established", "since": "10:00", "imported": 1, "exported": 2,
            }],
            "pools": [],
        },
    });
    assert_eq!(body, expected);
    let object = bench.api().get("nodeconfigs", None, "node-a").unwrap();
    let admitted = admit(&schema(), &object).unwrap();
    assert_eq!(admitted["status"], object["status"], "nothing is missing");

    status.pods = 2;
    assert!(bench.publish(&status).await);
    assert_eq!(bench.written()["pods"], 2);
    // A new generation is a new status, whatever it says.
    let mut object = bench.api().get("nodeconfigs", None, "node-a").unwrap();
    object["metadata"]["generation"] = json!(2);
    bench.api().put(object);
    bench.cluster.until(|view| view.node_config.as_ref().is_some_and(|it| it.generation == 2)).await;
    assert!(bench.publish(&status).await);
    assert_eq!(bench.written()["observedGeneration"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_condition_keeps_its_time_until_it_changes() {
    let bench = Bench::new(PACE).await;
    let since = |bench: &Bench| bench.written()["conditions"][1]["lastTransitionTime"].clone();
    assert!(bench.publish(&good(1)).await);
    let first = since(&bench);
    let mut status = good(2);
    status.conditions[1].message = "other words".to_owned();
    assert!(bench.publish(&status).await);
    assert_eq!(since(&bench), first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_condition_keeps_its_time_when_the_agent_is_started_again() {
    let api = FakeApiServer::start();
    let mut object = node_config("node-a", &json!({"bgp": {"asn": 65101}}));
    let old = |kind: &str, status: &str, since: &str| json!({"type": kind, "status": status, "reason": "R", "message": "", "lastTransitionTime": since});
    let long_ago = "2026-01-01T00:00:00Z";
    object["status"]["conditions"] = json!([
        old("Ready", "True", long_ago),
        old("ConfigAccepted", "False", long_ago),
        old("Odd", "True", "long ago"),
        {"type": 7},
    ]);
    api.put(object);
    let bench = Bench::around(Cluster::around(api, None, TIMING).await).await;
    assert!(bench.publish(&good(1)).await);
    let conditions = bench.written()["conditions"].clone();
    assert_eq!(conditions[0]["lastTransitionTime"], long_ago);
    assert_ne!(conditions[1]["lastTransitionTime"], long_ago, "it is another one now");
    let mut status = good(1);
    status.conditions.push(condition("Odd", true, "R", ""));
    assert!(bench.publish(&status).await);
    assert_ne!(bench.written()["conditions"][2]["lastTransitionTime"], "long ago");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_config_nobody_can_read_has_a_status_all_the_same_and_no_flood_of_them() {
    let bench = Bench::new(PACE).await;
    bench.api().put(node_config("node-a", &json!({"bgp": {"asn": "many"}, "cidr6": 7})));
    bench.cluster.until(|view| view.node_config.as_ref().is_some_and(|it| it.spec.is_err())).await;
    for _ in 0..3 {
        assert!(bench.publish(&refused("spec.bgp.asn: many")).await);
    }
    assert_eq!(bench.asked("PATCH", STATUS).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn quick_changes_are_few_writes_and_the_last_one_is_written_in_the_end() {
    let apart = Duration::from_millis(300);
    let bench = Bench::new(Pace { status: (apart, apart), ..PACE }).await;
    let began = std::time::Instant::now();
    for pods in 0..50 {
        assert!(bench.publish(&good(pods)).await);
    }
    let status = good(50);
    bench.api().eventually("the last state is written", |_| {
        at_once(bench.publish(&status));
        bench.written()["pods"] == 50
    });
    let most = 1 + began.elapsed().as_millis() / apart.as_millis();
    assert!(bench.asked("PATCH", STATUS).len() as u128 <= most, "{most}");
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_counters_alone_wait_longer() {
    let bench = Bench::new(Pace { status: (Duration::ZERO, DAY), ..PACE }).await;
    for pods in 0..50 {
        assert!(bench.publish(&good(pods)).await);
    }
    assert_eq!(bench.asked("PATCH", STATUS).len(), 1);
    let mut status = good(51);
    status.conditions[0].status = false;
    assert!(bench.publish(&status).await);
    assert_eq!(bench.written()["pods"], 51);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_that_was_not_taken_is_written_again() {
    for code in [409, 422, 403, 429, 500] {
        let bench = Bench::new(PACE).await;
        bench.api().plan("patch", "/status", Answer::Status(code));
        assert!(!bench.publish(&good(1)).await, "{code}");
        assert!(bench.publish(&good(1)).await, "{code}");
        assert_eq!(bench.written()["pods"], 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_that_is_refused_is_tried_more_and_more_seldom() {
    let bench = Bench::new(Pace { status: (DAY, DAY), ..PACE }).await;
    bench.api().plan_always("patch", "/status", Answer::Status(422));
    assert!(!bench.publish(&good(1)).await);
    for pods in 0..50 {
        assert!(bench.publish(&refused(&pods.to_string())).await, "not asked again");
    }
    assert_eq!(bench.asked("PATCH", STATUS).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_of_an_object_that_was_just_deleted_is_no_error() {
    let bench = Bench::new(PACE).await;
    bench.api().plan("patch", "/status", Answer::Status(404));
    assert!(bench.publish(&good(1)).await);
    bench.api().delete("nodeconfigs", None, "node-a");
    bench.cluster.until(|view| view.node_config.is_none()).await;
    let before = bench.api().requests().len();
    assert!(bench.publish(&good(1)).await);
    assert_eq!(bench.api().requests().len(), before, "there is nothing to write to");
    // Made again, it gets its status.
    bench.api().put(node_config("node-a", &json!({"bgp": {"asn": 65101}})));
    bench.cluster.until(|view| view.node_config.is_some()).await;
    assert!(bench.publish(&good(1)).await);
    assert_eq!(bench.written()["pods"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_says_that_its_network_is_there_and_goes_on_saying_so() {
    let bench = Bench::new(PACE).await;
    let mut object = bench.api().get("nodes", None, "node-a").unwrap();
    object["status"] = json!({"conditions": [
        {"type": "Ready", "status": "True", "reason": "KubeletReady"},
        {"type": "NetworkUnavailable", "status": "True", "reason": "NoRouteCreated"},
    ]});
    bench.api().put(object);
    let looks = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let (status, counter) = (Arc::clone(&bench.status), Arc::clone(&looks));
    let saying = tokio::spawn(async move {
        let ready = || counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst) >= 3;
        status.keep_network_available(ready).await;
    });
    let said = bench.until_asked("PATCH", NODE, 3);
    assert!(looks.load(std::sync::atomic::Ordering::SeqCst) > 3, "not before pods can be attached");
    assert_eq!(said[0].path, NODE);
    assert_eq!(said[0].content_type, "application/strategic-merge-patch+json");
    assert_eq!(said[0].query["fieldManager"], "flock-agent");
    let mut body = said[0].body.clone();
    let condition = &mut body["status"]["conditions"][0];
    assert!(condition["lastHeartbeatTime"].take().is_string());
    let since = condition["lastTransitionTime"].take();
    let expected = json!({"status": {"conditions": [{
        "type": "NetworkUnavailable",
        "status": "False",
        "reason": "FlockReady",
        "message": "flock gives pods their network",
        "lastHeartbeatTime": null,
        "lastTransitionTime": null,
    }]}});
    assert_eq!(body, expected);
    assert!(said.iter().all(|it| it.body["status"]["conditions"][0]["lastTransitionTime"] == since));
    let conditions = bench.api().get("nodes", None, "node-a").unwrap()["status"]["conditions"].clone();
    assert_eq!(conditions.as_array().unwrap().len(), 2);
    assert_eq!(conditions[0]["reason"], "KubeletReady", "nobody else's is touched");
    assert_eq!(conditions[1]["status"], "False");
    // Failures are outlived.
    for mood in [Mood::Failing(403), Mood::Away, Mood::Failing(500)] {
        bench.api().set_mood(mood);
        let before = bench.asked("PATCH", NODE).len();
        bench.until_asked("PATCH", NODE, before + 3);
    }
    bench.api().set_mood(Mood::Well);
    let version = |api: &FakeApiServer| api.get("nodes", None, "node-a").unwrap()["metadata"].clone();
    let before = version(bench.api());
    bench.api().eventually("it is said again", |api| version(api) != before);
    saying.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_recovers_from_an_api_server_that_was_away_at_the_start() {
    let api = FakeApiServer::start();
    api.put(node_config("node-a", &json!({"bgp": {"asn": 65101}})));
    api.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"}}));
    api.set_mood(Mood::Away);
    let cluster = Cluster::around(api, None, TIMING).await;
    let client = client(&cluster.api, SILENCE).await;
    let status = Arc::new(KubeStatus::new(client, &node(), &cluster.source, PACE));
    let bench = Bench { cluster, status: Arc::clone(&status) };
    bench.happened("no").await;
    assert!(bench.publish(&good(1)).await, "nothing to write to yet");
    let saying = tokio::spawn(async move { status.keep_network_available(|| true).await });
    bench.until_asked("PATCH", NODE, 3);
    bench.api().set_mood(Mood::Well);
    bench.cluster.ready().await;
    bench.until_events(1);
    assert!(bench.publish(&good(1)).await);
    assert_eq!(bench.written()["pods"], 1);
    bench.api().eventually("the node says so", |api| {
        api.get("nodes", None, "node-a").unwrap()["status"]["conditions"][0]["reason"] == "FlockReady"
    });
    saying.abort();
}
