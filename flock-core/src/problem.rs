//! What is wrong with an input, in words a person can act on: the field, its value, the reason, the fix.

use std::fmt;

/// One thing wrong with an input. Prints as `FIELD VALUE REASON: FIX`.
///
/// ```
/// # use flock_core::problem::Problem;
/// let problem = Problem::new("spec.bgp.asn", &0, "is reserved (RFC 7607)", "use 1 to 4294967294");
/// assert_eq!(problem.to_string(), "spec.bgp.asn 0 is reserved (RFC 7607): use 1 to 4294967294");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it is, such as `spec.cidr4[1]` or an annotation key.
    pub field: String,
    /// What is there, quoted when it is text and cut when it is long.
    pub value: String,
    /// Why it is refused: the rest of a sentence that starts with field and value.
    pub reason: String,
    /// What to do about it.
    pub fix: String,
}

impl Problem {
    /// Longest part of a refused text that is repeated, in characters: the message is for a person.
    const SHOWN: usize = 80;

    /// Most problems in one line.
    const JOINED: usize = 50;

    /// A problem with a value that prints itself (a number, a list).
    pub fn new(
        field: impl Into<String>,
        value: &dyn fmt::Display,
        reason: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self { field: field.into(), value: value.to_string(), reason: reason.into(), fix: fix.into() }
    }

    /// A problem with a text, which is shown quoted and escaped.
    pub fn text(
        field: impl Into<String>,
        value: &str,
        reason: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self::new(field, &Self::quote(value), reason, fix)
    }

    /// A text as problems show it: quoted, escaped, cut.
    pub fn quote(value: &str) -> String {
        match value.char_indices().nth(Self::SHOWN) {
            Some((cut, _)) => format!("{:?}...", value.get(..cut).unwrap_or_default()),
            None => format!("{value:?}"),
        }
    }

    /// Several problems in one line. Of very many the rest is counted: a person mends some at a time.
    pub fn join(problems: &[Self]) -> String {
        let mut shown: Vec<String> = problems.iter().take(Self::JOINED).map(Self::to_string).collect();
        match problems.len().saturating_sub(Self::JOINED) {
            0 => {}
            more => shown.push(format!("and {more} more")),
        }
        shown.join("; ")
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}: {}", self.field, self.value, self.reason, self.fix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_and_unprintable_values_are_cut_and_escaped() {
        let problem = Problem::text("key", &"é".repeat(200), "is long", "shorten it");
        assert_eq!(problem.to_string(), format!("key \"{}\"... is long: shorten it", "é".repeat(80)));
        assert_eq!(Problem::quote("a\n\"b\""), r#""a\n\"b\"""#);
    }

    #[test]
    fn several_problems_share_one_line() {
        let problem = |field| Problem::new(field, &1, "is odd", "make it even");
        assert_eq!(
            Problem::join(&[problem("a"), problem("b")]),
            "a 1 is odd: make it even; b 1 is odd: make it even"
        );
        let many = Problem::join(&vec![problem("a"); 1000]);
        assert_eq!((many.matches("a 1").count(), many.ends_with("; and 950 more")), (50, true));
    }
}
