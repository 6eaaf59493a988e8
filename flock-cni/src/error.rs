//! The error a CNI plugin prints: JSON on stdout with a code of the specification or of our own.

use serde::Serialize;

use crate::version::SpecVersion;
use crate::wire::Failure;

/// Error codes. Below 100 they belong to the CNI specification ("Error"), from 100 on to flock.
pub mod code {
    /// The `cniVersion` of the configuration is none of ours, or does not know the verb.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// A field of the network configuration is not supported; the message holds its key and value.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// The container does not exist; the runtime need not clean up.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// `CNI_*` variables are missing or invalid; the message names them.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// Reading, writing or connecting failed for a reason that trying again does not mend.
    pub const IO_FAILURE: u32 = 5;
    /// The network configuration is not a JSON object.
    pub const DECODING_FAILURE: u32 = 6;
    /// A value of the network configuration is invalid.
    pub const INVALID_CONFIG: u32 = 7;
    /// Trying again later may succeed: the agent is not there, the pod is not known yet, an address is
    /// still held or none is free.
    pub const TRY_AGAIN: u32 = 11;
    /// STATUS: the node cannot take an ADD now.
    pub const NOT_READY: u32 = 50;
    /// The node failed to do what was asked (kernel, state file); the message says at which step.
    pub const INTERNAL: u32 = 100;
    /// Plugin and agent do not understand each other: different versions, or an answer that makes no sense.
    pub const WIRE: u32 = 101;
    /// CHECK: the attachment is not as ADD left it; the message names what drifted.
    pub const DRIFT: u32 = 102;
    /// The pod asks for something that cannot be granted: an annotation that does not parse, a family or
    /// address this node does not have. The message names the key, the value and the reason.
    pub const POD_REFUSED: u32 = 103;
}

/// Phrases no error text may contain, in any case, and what stands in for them. go-cni, and so containerd,
/// takes a DEL whose error text holds the first (or, without a netns, the second) for a success and never
/// comes back. No replacement can complete a phrase: none ends as one starts or starts as one ends.
const SWALLOWED: [(&str, &str); 2] =
    [("not found", "missing"), ("no such file or directory", "nothing at this path")];

/// A CNI error. Whatever the verb and wherever the text came from, a value of this type is one line without control
/// sequences, and does not contain a phrase that makes a runtime take a failed DEL for a success: the
/// constructors see to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CniError {
    code: u32,
    msg: String,
    details: String,
}

impl CniError {
    /// An error with a code of [`code`] and one sentence.
    pub fn new(code: u32, msg: &str) -> Self {
        Self { code, msg: clean(msg), details: String::new() }
    }

    /// The same with more to tell.
    #[must_use]
    pub fn with_details(self, details: &str) -> Self {
        Self { details: clean(details), ..self }
    }

    /// The same error under another code.
    #[must_use]
    pub(crate) fn with_code(self, code: u32) -> Self {
        Self { code, ..self }
    }

    /// The CNI error code.
    pub fn code(&self) -> u32 {
        self.code
    }

    /// The sentence, and the details after a semicolon where there are any; on one line.
    pub fn text(&self) -> String {
        // No phrase holds a semicolon, so none is completed here.
        let parts = [self.msg.as_str(), self.details.as_str()];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ")
    }

    /// The JSON document of the specification ("Error"), in one line without its end.
    pub fn to_json(&self, version: SpecVersion) -> String {
        #[derive(Serialize)]
        struct Document<'a> {
            #[serde(rename = "cniVersion")]
            cni_version: SpecVersion,
            code: u32,
            msg: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            details: &'a str,
        }
        let document =
            Document { cni_version: version, code: self.code, msg: &self.msg, details: &self.details };
        // Strings and numbers always serialise; the type system does not know.
        serde_json::to_string(&document).unwrap_or_default()
    }
}

impl From<Failure> for CniError {
    /// A refusal of the agent, as it stands. Code 0 means "no error" to a runtime and becomes
    /// [`code::INTERNAL`]; a refusal must say something.
    fn from(failure: Failure) -> Self {
        let code = if failure.code == 0 { code::INTERNAL } else { failure.code };
        let msg = if failure.msg.is_empty() { "flock-agent refuses without a reason" } else { &failure.msg };
        Self::new(code, msg).with_details(&failure.details)
    }
}

/// Text of the agent or the runtime as it may be shown. It ends up on terminals, hence no control characters; and
/// they go first, since a space may complete a phrase, and so may the `n` of a line feed that JSON writes as `\n`.
fn clean(text: &str) -> String {
    defuse(&text.replace(char::is_control, " "))
}

/// Replaces every phrase of [`SWALLOWED`].
fn defuse(text: &str) -> String {
    SWALLOWED.iter().fold(text.to_owned(), |text, (phrase, instead)| {
        // ASCII lower case keeps every byte where it is, so positions in one are positions in the other.
        let lowered = text.to_ascii_lowercase();
        let mut out = String::with_capacity(text.len());
        let mut done = 0;
        for (at, _) in lowered.match_indices(phrase) {
            out.push_str(text.get(done..at).unwrap_or_default());
            out.push_str(instead);
            done = at + phrase.len();
        }
        out.push_str(text.get(done..).unwrap_or_default());
        out
    })
}

/// The first 120 characters of a text that may be arbitrarily long, for use in a message.
pub(crate) fn shorten(text: &str) -> String {
    const LONGEST: usize = 120;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn swallowed(text: &str) -> bool {
        let text = text.to_ascii_lowercase();
        SWALLOWED.iter().any(|(phrase, _)| text.contains(phrase))
    }

    #[test]
    fn no_error_holds_a_phrase_that_runtimes_swallow() {
        let cases = [
            ("pod not found", "pod missing"),
            ("Not Found: NOT FOUND, not founD", "missing: missing, missing"),
            ("open /x: No such file or directory (os error 2)", "open /x: nothing at this path (os error 2)"),
            ("not not foundfound", "not missingfound"),
            ("äöü not found äöü", "äöü missing äöü"),
            ("notfound, not-found, not  found", "notfound, not-found, not  found"),
            ("not\nfound", "missing"),
            ("\no such file or directory", " o such file or directory"),
            ("", ""),
        ];
        for (text, expect) in cases {
            let error = CniError::new(code::INTERNAL, text).with_details(text);
            assert_eq!((error.msg.as_str(), error.details.as_str()), (expect, expect));
        }
    }

    #[test]
    fn refusal_of_the_agent_is_passed_on_without_the_phrases() {
        let failure = Failure { code: 11, msg: "link not found".into(), details: "NOT FOUND".into() };
        let expect = r#"{"cniVersion":"0.4.0","code":11,"msg":"link missing","details":"missing"}"#;
        assert_eq!(CniError::from(failure).to_json(SpecVersion::V0_4_0), expect);
    }

    #[test]
    fn refusal_without_code_or_reason_gets_one() {
        let failure = Failure { code: 0, msg: String::new(), details: String::new() };
        let error = CniError::from(failure);
        assert_eq!((error.code(), &*error.text()), (code::INTERNAL, "flock-agent refuses without a reason"));
    }

    #[test]
    fn text_for_people_is_one_line_without_control_sequences() {
        let error = CniError::new(code::INTERNAL, "a\n\u{1b}[31mred").with_details("b\r\0");
        assert_eq!(error.text(), "a  [31mred; b  ");
        let json = error.to_json(SpecVersion::NEWEST);
        assert!(json.ends_with(r#""msg":"a  [31mred","details":"b  "}"#), "{json}");
    }

    #[test]
    fn shortened_text_ends_at_a_character() {
        assert_eq!(shorten("short"), "short");
        assert_eq!(shorten(&"ä".repeat(120)), "ä".repeat(120));
        assert_eq!(shorten(&"ä".repeat(121)), format!("{}...", "ä".repeat(120)));
    }

    proptest! {
        #[test]
        fn no_text_gets_a_swallowed_phrase_into_an_error(
            parts in prop::collection::vec(
                prop::sample::select(vec![
                    "not", "NOT", "no", "t", " ", "found", "Found", "fo", "und", "; ", "missing", "such file", "\n",
                    "No", "or directory", "y", "n", "o such file or directory", "\t found", "not found", "no such file or directory", "ä",
                ]),
                0..24,
            ),
            split in 0usize..24,
        ) {
            let split = split.min(parts.len());
            let error = CniError::new(1, &parts[..split].concat()).with_details(&parts[split..].concat());
            prop_assert!(!swallowed(&error.to_json(SpecVersion::NEWEST)));
            prop_assert!(!swallowed(&error.text()));
        }
    }
}
