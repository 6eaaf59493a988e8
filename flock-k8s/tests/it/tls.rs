//! The way to an API server that shows a certificate of the cluster's authority.

use std::net::{SocketAddr, TcpListener};

use flock_core::ports::PodSource;
use flock_k8s::testing::{Authority, FakeApiServer};
use flock_k8s::{KubePodSource, SILENCE, connect};
use serde_json::json;

use crate::bench::{key, node, soon};
use crate::cluster::{TIMING, pod};

/// An API server with a pod, and where it takes TLS.
fn server(at: &str, authority: &Authority, names: &[&str]) -> (FakeApiServer, SocketAddr) {
    let api = FakeApiServer::start();
    api.put(pod("web"));
    let address = api.with_tls(TcpListener::bind(at).unwrap(), authority, names);
    (api, address)
}

/// Reads a pod by way of a kubeconfig with this server, authority and token.
async fn read(server: &str, trusted: &Authority) -> Result<bool, String> {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    std::fs::write(at("ca.crt"), trusted.pem()).unwrap();
    std::fs::write(at("token"), "secret").unwrap();
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": server, "certificate-authority": at("ca.crt")}}],
        "users": [{"name": "u", "user": {"tokenFile": at("token")}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "c",
    });
    std::fs::write(at("kubeconfig"), config.to_string()).unwrap();
    let client = connect(Some(&at("kubeconfig")), SILENCE).await.unwrap();
    let source = KubePodSource::open(client, &node(), None, TIMING);
    soon(source.pod(&key("web"))).await.map(|pod| pod.is_some()).map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_of_the_server_is_in_its_certificate_whatever_its_family() {
    let authority = Authority::new();
    for (at, names) in [
        ("127.0.0.1:0", &["127.0.0.1"][..]),
        ("[::1]:0", &["::1"]),
        ("[::1]:0", &["kubernetes.default.svc", "192.0.2.1", "::1"]),
    ] {
        let (api, address) = server(at, &authority, names);
        assert_eq!(read(&format!("https://{address}"), &authority).await, Ok(true), "{at}");
        let requests = api.requests();
        let read = requests.iter().find(|request| request.verb() == "get").unwrap();
        assert_eq!(read.authorization.as_deref(), Some("Bearer secret"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_somebody_else_is_refused_and_the_error_says_why() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (api, address) = server("[::1]:0", &theirs, &["::1"]);
    let error = read(&format!("https://{address}"), &ours).await.unwrap_err();
    assert!(error.contains("invalid peer certificate"), "{error}");
    let (other, address) = server("[::1]:0", &ours, &["2001:db8::1", "kubernetes.default.svc"]);
    let error = read(&format!("https://{address}"), &ours).await.unwrap_err();
    assert!(error.contains("not valid for name"), "{error}");
    assert!(api.requests().is_empty() && other.requests().is_empty(), "nothing was said to them");
}
