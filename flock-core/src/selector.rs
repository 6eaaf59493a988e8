//! Label selectors, with the semantics of Kubernetes (`metav1.LabelSelector`).

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::problem::Problem;

/// A label selector as in NetworkPolicy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelSelectorSpec {
    /// Labels that must have exactly these values.
    #[serde(default)]
    pub match_labels: BTreeMap<String, String>,
    /// Requirements on labels.
    #[serde(default)]
    pub match_expressions: Vec<LabelRequirementSpec>,
}

/// One entry of `matchExpressions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelRequirementSpec {
    /// The label.
    pub key: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    pub operator: String,
    /// Values, for `In` and `NotIn`.
    #[serde(default)]
    pub values: Vec<String>,
}

/// A selector that keeps the rules of the Kubernetes API: all requirements have to hold, none selects all.
///
/// ```
/// use std::collections::BTreeMap;
/// use flock_core::selector::{LabelRequirementSpec, LabelSelector, LabelSelectorSpec};
///
/// let mut spec = LabelSelectorSpec::default();
/// spec.match_labels.insert("team".to_owned(), "dns".to_owned());
/// let selector = LabelSelector::validate(&spec, "namespaceSelector", &mut vec![]);
/// let labels = |team: &str| BTreeMap::from([("team".to_owned(), team.to_owned())]);
/// assert!(selector.matches(&labels("dns")) && !selector.matches(&labels("web")));
/// assert_eq!(selector.to_string(), "team=dns");
///
/// spec.match_expressions.push(LabelRequirementSpec {
///     key: "tier".to_owned(),
///     operator: "in".to_owned(),
///     values: vec!["a".to_owned()],
/// });
/// let mut problems = vec![];
/// LabelSelector::validate(&spec, "namespaceSelector", &mut problems);
/// assert_eq!(
///     problems[0].to_string(),
///     r#"namespaceSelector.matchExpressions[0].operator "in" is not an operator: write "In""#,
/// );
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LabelSelector(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Requirement {
    key: String,
    operator: Operator,
    values: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

impl Operator {
    const ALL: [(&str, Self); 4] = [
        ("In", Self::In),
        ("NotIn", Self::NotIn),
        ("Exists", Self::Exists),
        ("DoesNotExist", Self::DoesNotExist),
    ];
}

impl LabelSelector {
    /// Takes a selector over; what is wrong with it joins `problems`, under fields that start with `field`.
    /// What is wrong is left out of the outcome, which is of no use then.
    pub fn validate(spec: &LabelSelectorSpec, field: &str, problems: &mut Vec<Problem>) -> Self {
        let mut requirements = Vec::new();
        for (key, value) in &spec.match_labels {
            let field = format!("{field}.matchLabels");
            check_key(&field, key, problems);
            check_value(&field, value, problems);
            let values = vec![value.clone()];
            requirements.push(Requirement { key: key.clone(), operator: Operator::In, values });
        }
        for (index, spec) in spec.match_expressions.iter().enumerate() {
            let field = format!("{field}.matchExpressions[{index}]");
            requirements.extend(requirement(spec, &field, problems));
        }
        Self(requirements)
    }

    /// Whether something with these labels is selected.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|requirement| {
            let value = labels.get(&requirement.key);
            let listed = value.is_some_and(|value| requirement.values.contains(value));
            match requirement.operator {
                Operator::In => listed,
                Operator::NotIn => !listed,
                Operator::Exists => value.is_some(),
                Operator::DoesNotExist => value.is_none(),
            }
        })
    }

    /// Whether everything is selected, whatever its labels.
    pub fn selects_all(&self) -> bool {
        self.0.is_empty()
    }
}

/// As `kubectl --selector` writes it; nothing where everything is selected.
impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Requirement { key, operator, values }) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            match (operator, values.as_slice()) {
                (Operator::In, [value]) => write!(f, "{key}={value}")?,
                (Operator::NotIn, [value]) => write!(f, "{key}!={value}")?,
                (Operator::In, values) => write!(f, "{key} in ({})", values.join(","))?,
                (Operator::NotIn, values) => write!(f, "{key} notin ({})", values.join(","))?,
                (Operator::Exists, _) => f.write_str(key)?,
                (Operator::DoesNotExist, _) => write!(f, "!{key}")?,
            }
        }
        Ok(())
    }
}

fn requirement(spec: &LabelRequirementSpec, field: &str, problems: &mut Vec<Problem>) -> Option<Requirement> {
    let LabelRequirementSpec { key, operator, values } = spec;
    check_key(&format!("{field}.key"), key, problems);
    for (index, value) in values.iter().enumerate() {
        check_value(&format!("{field}.values[{index}]"), value, problems);
    }
    let known = |(name, _): &&(&str, Operator)| name == operator;
    let Some((name, operator)) = Operator::ALL.iter().find(known) else {
        let meant = Operator::ALL.iter().find(|(name, _)| name.eq_ignore_ascii_case(operator));
        let fix = match meant {
            Some((name, _)) => format!("write \"{name}\""),
            None => "use one of In, NotIn, Exists, DoesNotExist".to_owned(),
        };
        problems.push(Problem::text(format!("{field}.operator"), operator, "is not an operator", fix));
        return None;
    };
    let takes_values = matches!(operator, Operator::In | Operator::NotIn);
    let fix = match (takes_values, values.is_empty()) {
        (true, true) => "add at least one".to_owned(),
        (false, false) => {
            let meant = if *operator == Operator::Exists { "In" } else { "NotIn" };
            format!("remove them, or use {meant} instead of {name}")
        }
        _ => return Some(Requirement { key: key.clone(), operator: *operator, values: values.clone() }),
    };
    let reason = if takes_values { "needs values" } else { "takes no values" };
    let shown: Vec<_> = values.iter().map(|value| Problem::quote(value)).collect();
    let shown = format!("[{}]", shown.join(", "));
    problems.push(Problem::new(format!("{field}.values"), &shown, format!("of {name} {reason}"), fix));
    None
}

/// A label key: an optional DNS subdomain and a slash, then a name (Kubernetes, "Labels and Selectors").
fn check_key(field: &str, key: &str, problems: &mut Vec<Problem>) {
    let (prefix, name) = key.rsplit_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let is_label = |part: &str| {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        !part.is_empty() && part.bytes().all(inner) && !part.starts_with('-') && !part.ends_with('-')
    };
    let is_subdomain = |prefix: &str| prefix.len() <= 253 && prefix.split('.').all(is_label);
    if name.is_empty() || !is_name(name) || !prefix.is_none_or(is_subdomain) {
        problems.push(Problem::text(
            field,
            key,
            "is not a label key",
            "write [PREFIX/]NAME, as in team or example.com/team",
        ));
    }
}

fn check_value(field: &str, value: &str, problems: &mut Vec<Problem>) {
    if !is_name(value) {
        problems.push(Problem::text(
            field,
            value,
            "is not a label value",
            "use at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends",
        ));
    }
}

/// What a label's name and its value have in common; a value may be empty.
fn is_name(text: &str) -> bool {
    let outer = |b: Option<&u8>| b.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    text.len() <= 63
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
        && outer(bytes.first())
        && outer(bytes.last())
}
