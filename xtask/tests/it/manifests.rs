//! What `deploy/` holds is what Kubernetes and flock understand: nothing misspelt, nothing lost.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use flock_core::annotation::PodIntent;
use flock_core::config::{NodeConfig, NodeConfigSpec};
use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The part of a kustomization we use.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Kustomization {
    api_version: String,
    kind: String,
    resources: Vec<String>,
}

/// A NodeConfig without a status.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct NodeConfigObject {
    api_version: String,
    kind: String,
    metadata: BTreeMap<String, String>,
    spec: NodeConfigSpec,
}

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("deploy")
}

fn documents(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(!documents.is_empty(), "{}", path.display());
    documents
}

/// Every manifest, with the file it is in.
fn manifests() -> Vec<(PathBuf, Value)> {
    let mut files = Vec::new();
    for directory in [deploy(), deploy().join("examples")] {
        files.extend(fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()));
    }
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    assert!(files.iter().any(|file| file.ends_with("install.yaml")));
    let objects =
        files.iter().flat_map(|file| documents(file).into_iter().map(|object| (file.clone(), object)));
    objects.collect()
}

/// The object as its type writes it.
fn through<T: DeserializeOwned + Serialize>(object: &Value) -> Result<Value, serde_json::Error> {
    serde_json::to_value(serde_json::from_value::<T>(object.clone())?)
}

fn decode(object: &Value) -> Result<Value, String> {
    let kind = (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
    let decoded = match kind {
        ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy") => {
            through::<ValidatingAdmissionPolicy>
        }
        ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding") => {
            through::<ValidatingAdmissionPolicyBinding>
        }
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition") => through::<CustomResourceDefinition>,
        ("apps/v1", "DaemonSet") => through::<DaemonSet>,
        ("apps/v1", "Deployment") => through::<Deployment>,
        ("apps/v1", "StatefulSet") => through::<StatefulSet>,
        ("flock.fritzlab.net/v1alpha1", "NodeConfig") => through::<NodeConfigObject>,
        ("kustomize.config.k8s.io/v1beta1", "Kustomization") => through::<Kustomization>,
        ("rbac.authorization.k8s.io/v1", "ClusterRole") => through::<ClusterRole>,
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => through::<ClusterRoleBinding>,
        ("v1", "Namespace") => through::<Namespace>,
        ("v1", "Pod") => through::<Pod>,
        ("v1", "ServiceAccount") => through::<ServiceAccount>,
        other => return Err(format!("{other:?} has no type here")),
    };
    decoded(object).map_err(|error| error.to_string())
}

/// Where two values differ: everything of `written` must be in `read`, and nothing may come in but what a type
/// writes for something left out.
fn lost(written: &Value, read: &Value, at: &str, found: &mut Vec<String>) {
    match (written, read) {
        (Value::Object(written), Value::Object(read)) => {
            for (key, value) in written {
                match read.get(key) {
                    Some(other) => lost(value, other, &format!("{at}.{key}"), found),
                    None => found.push(format!("{at}.{key} is lost")),
                }
            }
            let added = read.iter().filter(|(key, value)| {
                let empty = value.as_array().is_some_and(Vec::is_empty)
                    || value.as_object().is_some_and(serde_json::Map::is_empty)
                    || value.as_str() == Some("");
                !written.contains_key(*key) && !empty
            });
            found.extend(added.map(|(key, _)| format!("{at}.{key} was not written")));
        }
        (Value::Array(written), Value::Array(read)) if written.len() == read.len() => {
            for (index, (value, other)) in written.iter().zip(read).enumerate() {
                lost(value, other, &format!("{at}[{index}]"), found);
            }
        }
        _ if written == read => {}
        _ => found.push(format!("{at} is {written}, and read as {read}")),
    }
}

#[test]
fn every_manifest_is_understood_to_its_last_field() {
    for (file, object) in manifests() {
        let read = decode(&object).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let mut found = Vec::new();
        lost(&object, &read, "", &mut found);
        assert!(found.is_empty(), "{}: {found:?}", file.display());
    }
}

#[test]
fn a_misspelt_field_is_found() {
    let pod = |container: Value| serde_json::json!({ "apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": { "containers": [container] } });
    let look = |object: Value| {
        let mut found = Vec::new();
        lost(&object, &decode(&object).unwrap(), "", &mut found);
        found
    };
    assert_eq!(look(pod(serde_json::json!({ "name": "a", "image": "b" }))), [""; 0]);
    assert_eq!(
        look(pod(serde_json::json!({ "name": "a", "imagePullPolice": "b" }))),
        [".spec.containers[0].imagePullPolice is lost"]
    );
}

#[test]
fn examples_are_good_configurations_and_good_annotations() {
    let (mut configs, mut intents) = (0, 0);
    for (file, object) in manifests() {
        if object["kind"] == "NodeConfig" {
            let spec: NodeConfigSpec = serde_json::from_value(object["spec"].clone()).unwrap();
            NodeConfig::validate(&spec).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            configs += 1;
        }
        let pod = if object["kind"] == "Pod" { &object } else { &object["spec"]["template"] };
        if let Some(annotations) = pod["metadata"].get("annotations") {
            let annotations = serde_json::from_value(annotations.clone()).unwrap();
            PodIntent::parse(&annotations).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            intents += 1;
        }
    }
    assert!(configs >= 2 && intents >= 4, "{configs} {intents}");
}

/// The pod of the daemon set.
fn pod_spec() -> k8s_openapi::api::core::v1::PodSpec {
    let object = documents(&deploy().join("daemonset.yaml")).remove(0);
    let daemon_set: DaemonSet = serde_json::from_value(object).unwrap();
    daemon_set.spec.template.spec.unwrap()
}

#[test]
fn every_mount_has_its_volume_and_every_volume_is_mounted() {
    let pod = pod_spec();
    let volumes: Vec<_> = pod.volumes.unwrap().into_iter().map(|volume| volume.name).collect();
    let containers = pod.init_containers.unwrap().into_iter().chain(pod.containers);
    let mounts: Vec<_> =
        containers.flat_map(|container| container.volume_mounts.unwrap()).map(|mount| mount.name).collect();
    for name in &mounts {
        assert!(volumes.contains(name), "no volume {name}");
    }
    for name in &volumes {
        assert!(mounts.contains(name), "{name} is not mounted");
    }
}

#[test]
fn no_container_has_more_power_than_it_says() {
    let pod = pod_spec();
    for container in pod.init_containers.unwrap().into_iter().chain(pod.containers) {
        let context = container.security_context.unwrap();
        assert_ne!(context.privileged, Some(true), "{}", container.name);
        assert_eq!(context.allow_privilege_escalation, Some(false), "{}", container.name);
        assert_eq!(context.read_only_root_filesystem, Some(true), "{}", container.name);
        assert_eq!(context.capabilities.unwrap().drop.unwrap(), ["ALL"], "{}", container.name);
    }
}
