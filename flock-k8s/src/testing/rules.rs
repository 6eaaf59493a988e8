//! What `deploy/rbac.yaml` lets the agent do, and who asks for what: as the API server decides it.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value;

use super::http::Request;

/// Verb, API group and resource, which is `PLURAL/SUBRESOURCE` for a part of an object.
pub type Access = (String, String, String);

/// Everything the rules of `deploy/rbac.yaml` allow.
pub fn allowed() -> BTreeSet<Access> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Rule {
        api_groups: Vec<String>,
        resources: Vec<String>,
        verbs: Vec<String>,
    }
    let text = include_str!("../../../deploy/rbac.yaml");
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
    let role = documents.into_iter().find(|it| it["kind"] == "ClusterRole").unwrap();
    let rules: Vec<Rule> = serde_json::from_value(role["rules"].clone()).unwrap();
    let mut allowed = BTreeSet::new();
    for Rule { api_groups, resources, verbs } in rules {
        for group in &api_groups {
            for resource in &resources {
                allowed.extend(verbs.iter().map(|verb| (verb.clone(), group.clone(), resource.clone())));
            }
        }
    }
    allowed
}

impl Request {
    /// What the request does, in the words of the API: `get`, `list`, `watch`, `create`, `patch`.
    pub fn verb(&self) -> &'static str {
        let named = self.target().is_some_and(|target| target.name.is_some());
        match self.method.as_str() {
            "GET" if named => "get",
            "GET" if self.query.contains_key("watch") => "watch",
            "GET" => "list",
            "POST" => "create",
            "PATCH" => "patch",
            _ => "other",
        }
    }

    /// What the request needs a rule for.
    pub fn access(&self) -> Option<Access> {
        let target = self.target()?;
        let resource = match &target.subresource {
            Some(part) => format!("{}/{part}", target.plural),
            None => target.plural,
        };
        Some((self.verb().to_owned(), target.group.to_owned(), resource))
    }

    pub(super) fn target(&self) -> Option<Target> {
        Target::of(&self.path)
    }
}

/// What a path is about.
pub(super) struct Target {
    pub(super) group: &'static str,
    pub(super) plural: String,
    pub(super) namespace: Option<String>,
    pub(super) name: Option<String>,
    pub(super) subresource: Option<String>,
}

impl Target {
    fn of(path: &str) -> Option<Self> {
        let (group, rest) = [
            ("", "/api/v1/"),
            ("flock.fritzlab.net", "/apis/flock.fritzlab.net/v1alpha1/"),
            ("events.k8s.io", "/apis/events.k8s.io/v1/"),
            ("policy.networking.k8s.io", "/apis/policy.networking.k8s.io/v1alpha2/"),
            ("networking.k8s.io", "/apis/networking.k8s.io/v1/"),
        ]
        .into_iter()
        .find_map(|(group, prefix)| Some((group, path.strip_prefix(prefix)?)))?;
        let mut words = rest.split('/').map(str::to_owned).collect::<Vec<_>>().into_iter();
        let mut plural = words.next()?;
        let (mut namespace, mut name) = (None, words.next());
        if plural == "namespaces"
            && let Some(next) = words.next()
        {
            namespace = name.replace(String::new());
            plural = next;
            name = words.next();
        }
        Some(Self { group, plural, namespace, name, subresource: words.next() })
    }
}
