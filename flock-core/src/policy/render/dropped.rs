//! How packets are dropped: each reason has a counter, and a chain that logs, counts and drops.
//!
//! Without a process that listens to the NFLOG group, the log costs the lookup of the group and nothing else.

use std::fmt;

use super::TABLE;

/// NFLOG group that dropped packets are logged to. One process can listen to it: `flock-agent drops`.
pub const LOG_GROUP: u16 = 117;

/// Dropped packets that are logged in a second, for each reason, and how many more at once after a pause.
pub const LOG_RATE: u32 = 50;

/// Bytes of a packet that are logged: an IPv6 header, some extension headers, and ports.
const LOG_BYTES: u32 = 128;

/// Why the firewall drops a packet; prints as the name of its counter and the prefix of its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DropReason {
    /// A pod sent it from an address that is not the pod's.
    Spoofed,
    /// It is from or to a pod that is shut.
    Shut,
    /// It is in the middle of a flow the kernel does not know, or invalid.
    Stray,
    /// A policy refuses it.
    Refused,
    /// It is a router advertisement, a redirect or a DHCP answer of a pod.
    Forbidden,
}

impl DropReason {
    /// All of them, in the order of their counters.
    pub const ALL: [Self; 5] = [Self::Spoofed, Self::Shut, Self::Stray, Self::Refused, Self::Forbidden];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Spoofed => "spoofed",
            Self::Shut => "shut",
            Self::Stray => "stray",
            Self::Refused => "refused",
            Self::Forbidden => "forbidden",
        }
    }

    /// Reads a name as it prints.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == name)
    }

    /// The chain that drops for this reason.
    pub(super) fn chain(self) -> String {
        format!("drop_{self}")
    }

    /// The rule that logs. Its limit is the reason's own.
    pub(super) fn log(self) -> String {
        format!(
            "limit rate {LOG_RATE}/second burst {LOG_RATE} packets \
             {LOG} \"{self}\" group {LOG_GROUP} snaplen {LOG_BYTES}"
        )
    }
}

/// How the statement that logs starts.
const LOG: &str = "log prefix";

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A table for a kernel that cannot log to a group: each rule that logs is one that does nothing.
pub fn without_log(table: &str) -> String {
    let nothing = |reason| format!("add rule inet {TABLE} drop_{reason} continue\n");
    let mut text = table.to_owned();
    for reason in DropReason::ALL {
        let rule = format!("add rule inet {TABLE} {} {}\n", reason.chain(), reason.log());
        text = text.replace(&rule, &nothing(reason));
    }
    text
}

/// Whether nft refused a table because of a rule that logs, as far as its complaint says.
pub fn is_about_log(complaint: &str) -> bool {
    complaint.contains(LOG)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::render::table;
    use crate::policy::{Ruleset, Stamp};

    #[test]
    fn reasons_are_read_as_they_print() {
        for reason in DropReason::ALL {
            assert_eq!(DropReason::parse(&reason.to_string()), Some(reason));
        }
        assert_eq!(DropReason::parse("admitted"), None);
    }

    #[test]
    fn table_without_log_has_as_many_rules() {
        let table = table(&Ruleset::default(), Stamp::FIRST);
        let silent = without_log(&table);
        assert!(is_about_log(&table) && !is_about_log(&silent), "{silent}");
        assert_eq!(silent.lines().count(), table.lines().count());
        assert!(silent.contains("add rule inet flock drop_shut continue\n"), "{silent}");
    }
}
