//! The objects of all files as one view.

use std::collections::BTreeMap;
use std::sync::Arc;

use flock_core::ids::NodeName;
use flock_core::plan::Objects;
use flock_core::policy::{PolicyPod, PolicyView};
use flock_core::ports::{ClusterView, NodeConfigView};

use super::read::{Fault, Manifest, Object, Syntax, one_line, parse, parse_what_can_be};
use crate::convert::ClusterPolicyView;

/// What one file contributes. With faults the manifests are those of its last good content, if any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) manifests: Vec<Manifest>,
    pub(super) faults: Vec<Fault>,
}

/// What manifests mean to one node, without a directory: the view [`ManifestPodSource`] gives of files with
/// these names and contents. Where two define the same object the first in the order given wins.
/// A file whose name ends in `.json` is read as JSON, any other as YAML.
///
/// [`ManifestPodSource`]: super::ManifestPodSource
///
/// ```
/// # use flock_core::ids::{NodeName, PodKey};
/// let file = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\n";
/// let view = flock_k8s::read_manifests(&NodeName::parse("node-a").unwrap(), [("web.yaml", file.as_bytes())]);
/// assert!(view.problems.is_empty());
/// assert!(view.pods.contains_key(&PodKey::parse("default/web").unwrap()));
/// ```
pub fn read_manifests<'a>(
    node: &NodeName,
    files: impl IntoIterator<Item = (&'a str, &'a [u8])>,
) -> ClusterView {
    let read = |(name, bytes): (&'a str, &[u8])| {
        let content = match parse(syntax(name), bytes) {
            Ok(manifests) => Content { manifests, faults: Vec::new() },
            Err(faults) => Content { manifests: Vec::new(), faults },
        };
        (name, content)
    };
    let files: Vec<(&str, Content)> = files.into_iter().map(read).collect();
    merge(node, files.iter().map(|(name, content)| (*name, content))).0
}

/// What manifests hold, whichever node they are for; files and precedence as for [`read_manifests`]. Of a file with
/// an object that cannot be read, of which a node would take nothing, the others are there all the same: whoever
/// checks manifests wants to know of everything at once.
///
/// ```
/// let file = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\n---\napiVersion: apps/v1\nkind: Deployment\n";
/// let objects = flock_k8s::read_objects([("web.yaml", file.as_bytes())]);
/// assert_eq!(objects.pods[0].key.to_string(), "default/web");
/// assert_eq!(objects.ignored["apps/v1 Deployment"], 1);
/// ```
pub fn read_objects<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Objects {
    let files: Vec<(&str, Content)> =
        files.into_iter().map(|(name, bytes)| (name, partly(name, bytes))).collect();
    let mut objects = Objects::default();
    let contents = files.iter().map(|(name, content)| (*name, content));
    for (file, Manifest { line, object }) in
        distinct(contents, "; a node takes nothing of this file", &mut objects.problems)
    {
        match object {
            Object::NodeConfig { name, config } => {
                objects.nodes.insert(name.clone(), placed(config, file, *line));
            }
            Object::Pod(pod) => objects.pods.push(Arc::clone(pod)),
            Object::Namespace { name, labels } => {
                objects.namespaces.insert(name.clone(), labels.clone());
            }
            Object::NetworkPolicy(policy) => objects.policies.push(Arc::clone(policy)),
            Object::ClusterNetworkPolicy(view) => {
                objects.cluster_policies.push(Arc::clone(&view.policy));
                objects.problems.extend(unenforced(view, file, *line));
            }
            Object::Other { api_version, kind } => {
                *objects.ignored.entry(format!("{api_version} {kind}")).or_default() += 1;
            }
        }
    }
    objects
}

/// A file whose name does not say how it is written is YAML.
fn syntax(name: &str) -> Syntax {
    Syntax::of(name.rsplit('/').next().unwrap_or(name).as_ref()).unwrap_or(Syntax::Yaml)
}

fn partly(name: &str, bytes: &[u8]) -> Content {
    let (manifests, faults) = parse_what_can_be(syntax(name), bytes);
    Content { manifests, faults }
}

/// The views of these files, with revision 0.
pub(super) fn merge<'a>(
    node: &NodeName,
    files: impl IntoIterator<Item = (&'a str, &'a Content)>,
) -> (ClusterView, PolicyView) {
    let mut view = ClusterView { node: Some(node.clone()), ..ClusterView::default() };
    let mut policies = PolicyView::default();
    let files: Vec<(&str, &Content)> = files.into_iter().collect();
    for (file, Manifest { line, object }) in
        distinct(files.iter().copied(), "; its last good content stays", &mut view.problems)
    {
        add(&mut view, node, file, *line, object);
        add_policy(&mut policies, node, object);
    }
    for closed in
        files.iter().flat_map(|(_, content)| &content.faults).filter_map(|fault| fault.closed.as_ref())
    {
        Arc::make_mut(&mut policies.policies).entry(closed.key.clone()).or_insert_with(|| Arc::clone(closed));
    }
    (view, policies)
}

/// The manifests of all files, no object twice, each with its file; what is wrong joins `problems`, with what
/// it means for the rest of its file where there is a rest.
fn distinct<'a>(
    files: impl IntoIterator<Item = (&'a str, &'a Content)>,
    rest: &str,
    problems: &mut Vec<String>,
) -> Vec<(&'a str, &'a Manifest)> {
    let mut manifests = Vec::new();
    let mut owners: BTreeMap<(&str, &str, &str), (&str, u64)> = BTreeMap::new();
    for (file, content) in files {
        for fault in &content.faults {
            let kept = if content.manifests.is_empty() { "" } else { rest };
            problems.push(format!("{}{kept}", fault.within(file)));
        }
        for manifest in &content.manifests {
            let line = manifest.line;
            if let Some(id @ (kind, namespace, name)) = identity(&manifest.object) {
                if let Some((owner, owner_line)) = owners.get(&id) {
                    let slash = if namespace.is_empty() { "" } else { "/" };
                    let (namespace, name) = (one_line(namespace), one_line(name));
                    let defined = format!("is already defined at {owner}:{owner_line}, this one is ignored");
                    problems.push(format!("{file}:{line}: {kind} {namespace}{slash}{name} {defined}"));
                    continue;
                }
                owners.insert(id, (file, line));
            }
            manifests.push((file, manifest));
        }
    }
    manifests
}

/// A configuration whose problem, if it has one, says where it is.
fn placed(config: &NodeConfigView, file: &str, line: u64) -> NodeConfigView {
    let spec = config.spec.clone().map_err(|reason| format!("{file}:{line}: {reason}"));
    NodeConfigView { generation: config.generation, spec }
}

/// What of a policy is not enforced, with where it is.
fn unenforced(view: &ClusterPolicyView, file: &str, line: u64) -> Option<String> {
    let name = one_line(&view.policy.name);
    let text = view.unenforced.as_ref()?;
    Some(format!("{file}:{line}: ClusterNetworkPolicy {name}: {text}"))
}

/// Kind, namespace and name of an object flock knows.
fn identity(object: &Object) -> Option<(&str, &str, &str)> {
    match object {
        Object::NodeConfig { name, .. } => Some(("NodeConfig", "", name.as_str())),
        Object::Pod(pod) => Some(("Pod", pod.key.namespace(), pod.key.name())),
        Object::Namespace { name, .. } => Some(("Namespace", "", name)),
        Object::NetworkPolicy(policy) => Some(("NetworkPolicy", &policy.key.namespace, &policy.key.name)),
        Object::ClusterNetworkPolicy(view) => Some(("ClusterNetworkPolicy", "", &view.policy.name)),
        Object::Other { .. } => None,
    }
}

fn add(view: &mut ClusterView, node: &NodeName, file: &str, line: u64, object: &Object) {
    match object {
        Object::NodeConfig { name, config } if name == node => {
            view.node_config = Some(placed(config, file, line));
        }
        Object::NodeConfig { name, config } => {
            if let Ok(spec) = &config.spec {
                view.add_foreign_pools(name.clone(), spec);
            }
        }
        Object::Pod(pod) => {
            view.pods.insert(pod.key.clone(), Arc::clone(pod));
        }
        Object::Namespace { name, labels } => {
            view.namespaces.insert(name.clone(), labels.clone());
        }
        Object::ClusterNetworkPolicy(policy) => view.problems.extend(unenforced(policy, file, line)),
        Object::NetworkPolicy(_) | Object::Other { .. } => {}
    }
}

fn add_policy(view: &mut PolicyView, node: &NodeName, object: &Object) {
    match object {
        Object::NetworkPolicy(policy) => {
            Arc::make_mut(&mut view.policies).insert(policy.key.clone(), Arc::clone(policy));
        }
        Object::ClusterNetworkPolicy(ClusterPolicyView { policy, .. }) => {
            Arc::make_mut(&mut view.cluster).insert(policy.name.clone(), Arc::clone(policy));
        }
        Object::Namespace { name, labels } => {
            Arc::make_mut(&mut view.namespaces).insert(name.clone(), Arc::new(labels.clone()));
        }
        Object::Pod(pod) if pod.node.as_ref() != Some(node) => {
            let pod = PolicyPod::of(pod).map(|pod| (pod.key.clone(), Arc::new(pod)));
            Arc::make_mut(&mut view.pods).extend(pod);
        }
        Object::Pod(_) | Object::NodeConfig { .. } | Object::Other { .. } => {}
    }
}
