//! Where an agent learns of the cluster: a directory of manifests, or an API server. Objects are given once; what the
//! two do differently with them is here and nowhere else.

use std::fs;
use std::path::{Path, PathBuf};

use flock_k8s::testing::FakeApiServer;
use serde_json::{Value, json};

use crate::object::text;

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Manifests,
    ApiServer,
}

pub(crate) enum Cluster {
    Manifests(PathBuf),
    ApiServer { api: FakeApiServer, kubeconfig: PathBuf },
}

impl Cluster {
    /// An empty directory below `home`.
    pub(crate) fn of_manifests(home: &Path) -> Self {
        let directory = home.join("manifests");
        fs::create_dir(&directory).unwrap();
        Self::Manifests(directory)
    }

    /// An API server that knows the node only, with a kubeconfig below `home`.
    pub(crate) fn of_api_server(home: &Path, api: FakeApiServer) -> Self {
        let kubeconfig = home.join("kubeconfig");
        api.kubeconfig(&kubeconfig);
        api.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}));
        Self::ApiServer { api, kubeconfig }
    }

    /// The flag that leads an agent to it.
    pub(crate) fn flag(&self) -> (&'static str, &Path) {
        match self {
            Self::Manifests(directory) => ("--manifests", directory),
            Self::ApiServer { kubeconfig, .. } => ("--kubeconfig", kubeconfig),
        }
    }

    /// Adds or replaces an object.
    pub(crate) fn put(&self, object: &Value) {
        match self {
            Self::Manifests(directory) => install(&directory.join(file_of(object)), &object.to_string()),
            Self::ApiServer { api, .. } => {
                let old = known(api, object);
                let object = completed(object.clone(), old.as_ref());
                if old.is_some_and(|old| old["metadata"]["uid"] != object["metadata"]["uid"]) {
                    // Nobody can change a UID: it is another object.
                    self.delete(&object);
                }
                api.put(object);
            }
        }
    }

    /// Removes an object.
    pub(crate) fn delete(&self, object: &Value) {
        match self {
            Self::Manifests(directory) => fs::remove_file(directory.join(file_of(object))).unwrap(),
            Self::ApiServer { api, .. } => {
                let namespace = object["metadata"]["namespace"].as_str();
                api.delete(&plural(object), namespace, text(object, "name"));
            }
        }
    }

    pub(crate) fn directory(&self) -> &Path {
        match self {
            Self::Manifests(directory) => directory,
            Self::ApiServer { .. } => panic!("there is no directory"),
        }
    }

    pub(crate) fn api(&self) -> &FakeApiServer {
        match self {
            Self::Manifests(_) => panic!("there is no API server"),
            Self::ApiServer { api, .. } => api,
        }
    }
}

fn known(api: &FakeApiServer, object: &Value) -> Option<Value> {
    api.get(&plural(object), object["metadata"]["namespace"].as_str(), text(object, "name"))
}

/// What an API server adds to what people write: a UID, a generation that counts changes of the specification, and a
/// label on namespaces.
fn completed(mut object: Value, old: Option<&Value>) -> Value {
    let name = text(&object, "name").to_owned();
    let fresh = (json!(format!("uid-of-{name}")), 0);
    let (uid, generation) = old.map_or(fresh, |old| {
        let metadata = &old["metadata"];
        (metadata["uid"].clone(), metadata["generation"].as_i64().unwrap_or_default())
    });
    let changed = old.is_none_or(|old| old["spec"] != object["spec"]);
    object["metadata"]["generation"] = json!(generation + i64::from(changed));
    if object["metadata"]["uid"].is_null() {
        object["metadata"]["uid"] = uid;
    }
    if object["kind"] == "Namespace" {
        object["metadata"]["labels"]["kubernetes.io/metadata.name"] = json!(name);
    }
    object
}

fn plural(object: &Value) -> String {
    let kind = object["kind"].as_str().unwrap().to_lowercase();
    kind.strip_suffix('y').map_or_else(|| format!("{kind}s"), |stem| format!("{stem}ies"))
}

fn file_of(object: &Value) -> String {
    format!(
        "{}.{}.{}.json",
        object["kind"].as_str().unwrap(),
        text(object, "namespace"),
        text(object, "name")
    )
}

/// Puts a file into place in one step.
pub(crate) fn install(path: &Path, text: &str) {
    let fresh = path.with_extension("tmp");
    fs::write(&fresh, text).unwrap();
    fs::rename(fresh, path).unwrap();
}
