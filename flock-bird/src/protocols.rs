//! Sessions out of the text of `show protocols all`.

use std::net::IpAddr;

use flock_core::bird;
use flock_core::ports::{PeerState, PeerStatus};

use crate::codec::Reply;

const ROW: u16 = 1002;
const DETAIL: u16 = 1006;

/// The sessions of flock in a reply to `show protocols all`, in the order of their addresses; protocols of
/// other names are left out. `None` when a row is not in BIRD's form.
pub fn sessions(reply: &Reply) -> Option<Vec<PeerStatus>> {
    let mut sessions: Vec<PeerStatus> = Vec::new();
    let mut ours = false;
    for line in reply.iter() {
        match line.code {
            ROW => {
                let peer = bird::peer_of(line.text.split_whitespace().next()?);
                ours = peer.is_some();
                if let Some(peer) = peer {
                    sessions.push(row(peer, &line.text)?);
                }
            }
            DETAIL if ours => {
                if let Some(session) = sessions.last_mut() {
                    detail(session, line.text.trim());
                }
            }
            _ => {}
        }
    }
    sessions.sort_by_key(|session| session.peer);
    Some(sessions)
}

/// A row of the table: name, protocol, table, state, since, and what the protocol adds.
fn row(peer: IpAddr, text: &str) -> Option<PeerStatus> {
    let mut words = text.split_whitespace().skip(4);
    let since = words.next()?;
    let since = match words.next() {
        // With `timeformat protocol iso long` date and time, with others one of them.
        Some(time) if is_date(since) && is_time(time) => format!("{since} {time}"),
        _ => since.to_owned(),
    };
    Some(PeerStatus { peer, state: PeerState::Down, since, last_error: None, imported: 0, exported: 0 })
}

fn is_date(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('-')
}

fn is_time(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_digit()) && word.contains(':')
}

/// A line below the row, indentation taken off. A session has one `Routes` line per channel.
fn detail(session: &mut PeerStatus, text: &str) {
    let Some((label, value)) = text.split_once(':') else { return };
    let value = value.trim();
    match label {
        "BGP state" => session.state = state(value),
        "Last error" => session.last_error = Some(value.to_owned()),
        "Routes" => {
            let count = |what: &str| {
                let mut counts = value.split(',').filter_map(|count| count.trim().split_once(' '));
                counts.find(|(_, word)| *word == what).and_then(|(number, _)| number.parse::<u64>().ok())
            };
            session.imported = session.imported.saturating_add(count("imported").unwrap_or(0));
            session.exported = session.exported.saturating_add(count("exported").unwrap_or(0));
        }
        _ => {}
    }
}

fn state(word: &str) -> PeerState {
    match word {
        "Idle" => PeerState::Idle,
        "Connect" => PeerState::Connect,
        "Active" => PeerState::Active,
        "OpenSent" => PeerState::OpenSent,
        "OpenConfirm" => PeerState::OpenConfirm,
        "Established" => PeerState::Established,
        _ => PeerState::Down,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Decoder, Line};
    use proptest::prelude::*;

    fn reply(bytes: &[u8]) -> Reply {
        let mut decoder = Decoder::default();
        decoder.feed(bytes);
        decoder.pop().unwrap().unwrap()
    }

    fn parse(text: &str) -> Option<Vec<PeerStatus>> {
        sessions(&reply(text.as_bytes()))
    }

    fn session(peer: &str, state: PeerState, since: &str) -> PeerStatus {
        PeerStatus {
            peer: peer.parse().unwrap(),
            state,
            since: since.to_owned(),
            last_error: None,
            imported: 0,
            exported: 0,
        }
    }

    #[test]
    fn sessions_of_bird_2_are_read() {
        let text = include_str!("../tests/it/transcripts/show-protocols-all-2.0.12.txt");
        let refused = |error: &str| Some(error.to_owned());
        assert_eq!(
            parse(text).unwrap(),
            [
                PeerStatus {
                    last_error: refused("Socket: Connection reset by peer"),
                    ..session("192.0.2.1", PeerState::Active, "2026-01-02 20:22:51")
                },
                PeerStatus {
                    last_error: refused("Socket: No route to host"),
                    ..session("192.0.2.77", PeerState::Connect, "2026-01-02 20:22:50")
                },
                PeerStatus {
                    exported: 1,
                    ..session("2001:db8:0:a::1", PeerState::Established, "2026-01-02 20:22:51")
                },
            ]
        );
    }

    #[test]
    fn every_state_and_time_format_is_understood() {
        let check = |since: &str, state: &str, expect: PeerState| {
            let text = format!(
                "1002-flk4_192_0_2_1 BGP        ---        up     {since}  Something  odd: 12:00\n\
                 1006-  BGP state:          {state}\n0000 \n"
            );
            assert_eq!(parse(&text).unwrap(), [session("192.0.2.1", expect, since)]);
        };
        for (word, state) in [
            ("Idle", PeerState::Idle),
            ("Connect", PeerState::Connect),
            ("Active", PeerState::Active),
            ("OpenSent", PeerState::OpenSent),
            ("OpenConfirm", PeerState::OpenConfirm),
            ("Established", PeerState::Established),
            ("Close", PeerState::Down),
            ("Down", PeerState::Down),
            ("Unheard of", PeerState::Down),
        ] {
            for since in ["2026-01-02 20:22:51", "20:22:51.077", "2026-01-02"] {
                check(since, word, state);
            }
        }
    }

    #[test]
    fn routes_of_all_channels_are_summed_and_numbers_out_of_range_are_not_believed() {
        let text = "1002-flk6_2001_db8__1 BGP --- up 2026-01-02 20:22:51 Established\n\
                    1006-    Routes:         1 imported, 7 filtered, 2 exported, 0 preferred\n\
                    \x20    Routes:         30 imported, 40 exported, 0 preferred\n\
                    \x20    Routes:         99999999999999999999 imported, -1 exported\n\
                    0000 \n";
        let row = &parse(text).unwrap()[0];
        assert_eq!((row.imported, row.exported), (31, 42));
    }

    #[test]
    fn rows_that_are_not_ours_are_left_out_and_broken_ones_are_told() {
        assert_eq!(parse("0000 \n"), Some(vec![]));
        let foreign = "1002-uplink BGP --- up 2026-01-02 20:22:51\n1006-  BGP state: Established\n0000 \n";
        assert_eq!(parse(foreign), Some(vec![]));
        // The details of a foreign protocol do not end up on the row before it.
        let both = format!("1002-flk4_192_0_2_1 BGP --- start 20:22:51\n{foreign}");
        assert_eq!(parse(&both).unwrap(), [session("192.0.2.1", PeerState::Down, "20:22:51")]);
        assert_eq!(parse("1002-flk4_192_0_2_1 BGP ---\n0000 \n"), None);
        assert_eq!(parse("1002-\n0000 \n"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_without_harm(lines in proptest::collection::vec(
            (prop_oneof![Just(ROW), Just(DETAIL), 0u16..9999],
             "\\PC{0,40}|flk4_192_0_2_1( [^\n]{0,9}){0,6}|(BGP state|Routes|Last error):[^\n]{0,30}"),
            0..12,
        )) {
            let lines = lines.into_iter().map(|(code, text)| Line { code, text }).collect();
            let reply = Reply { lines, last: Line { code: 0, text: String::new() } };
            if let Some(rows) = sessions(&reply) {
                prop_assert!(rows.is_sorted_by_key(|row| row.peer));
            }
        }
    }
}
