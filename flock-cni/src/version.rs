//! The versions of the CNI specification flock speaks.

use serde::{Serialize, Serializer};

/// A version of the CNI specification. Ordered: a later one compares greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SpecVersion {
    /// 0.4.0: addresses carry `version`.
    V0_4_0,
    /// 1.0.0: addresses carry no `version` any more.
    V1_0_0,
    /// 1.1.0: GC and STATUS, `mtu` of interfaces.
    V1_1_0,
}

impl SpecVersion {
    /// All of them, oldest first: the answer to VERSION.
    pub const ALL: [Self; 3] = [Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    /// The newest, spoken where the other side has not said which one it wants.
    pub const NEWEST: Self = Self::V1_1_0;

    /// As written in `cniVersion`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// The inverse of [`as_str`](Self::as_str); `None` for a version flock does not speak.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.as_str() == text)
    }

    /// The versions as a person reads them: `0.4.0, 1.0.0, 1.1.0`.
    pub fn list() -> String {
        Self::ALL.map(Self::as_str).join(", ")
    }
}

impl Serialize for SpecVersion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
