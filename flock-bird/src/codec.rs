//! Replies of BIRD's control socket, without I/O.
//!
//! A reply is a number of lines: `CCCC-text` has more lines behind it, `CCCC text` is the last one, and
//! ` text` carries on with the code of the line before. A line that starts with `+` is news nobody asked
//! for and belongs to no reply.

use std::collections::VecDeque;

/// Longest line taken, in bytes. BIRD prints each through a buffer of 2048 bytes or less.
pub const MAX_LINE: usize = 8 * 1024;

/// Longest reply taken, in bytes: the details of some 500 sessions.
pub const MAX_REPLY: usize = 1024 * 1024;

/// One line of a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// What it is about, 0 to 9999: 8000 and above are errors.
    pub code: u16,
    /// Its text, without the code; bytes that are not UTF-8 are replaced.
    pub text: String,
}

/// A complete reply: at least one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Everything before the last line.
    pub lines: Vec<Line>,
    /// The last line, which says how it went.
    pub last: Line,
}

impl Reply {
    /// All lines in order.
    pub fn iter(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter().chain(std::iter::once(&self.last))
    }
}

/// Why what came is no reply. What follows on the connection cannot be trusted either.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// A line that is in none of the three forms.
    #[error("line {0:?} is not part of a reply")]
    Malformed(String),
    /// A line longer than [`MAX_LINE`].
    #[error("a line is longer than {MAX_LINE} bytes")]
    LineTooLong,
    /// A reply longer than [`MAX_REPLY`].
    #[error("a reply is longer than {MAX_REPLY} bytes")]
    ReplyTooLong,
}

/// Makes replies out of bytes, however they are cut.
#[derive(Debug, Default)]
pub struct Decoder {
    /// A line that has not ended yet.
    partial: Vec<u8>,
    /// Lines of a reply that has not ended yet.
    lines: Vec<Line>,
    /// Bytes in `lines`.
    size: usize,
    complete: VecDeque<Reply>,
    broken: Option<CodecError>,
}

impl Decoder {
    /// Takes what came from the socket. After an error everything is ignored.
    pub fn feed(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.broken.is_some() {
                return;
            }
            if let Err(error) = self.piece(piece) {
                self.broken = Some(error);
            }
        }
    }

    /// The next complete reply; `None` until more has come. An error stays for ever, behind the replies
    /// that came before it.
    pub fn pop(&mut self) -> Option<Result<Reply, CodecError>> {
        self.complete.pop_front().map(Ok).or_else(|| self.broken.clone().map(Err))
    }

    /// Nothing has come that was not asked for by [`pop`](Self::pop).
    pub fn is_empty(&self) -> bool {
        self.partial.is_empty() && self.lines.is_empty() && self.complete.is_empty() && self.broken.is_none()
    }

    /// A part of a line, with its end or without.
    fn piece(&mut self, piece: &[u8]) -> Result<(), CodecError> {
        let (part, ended) = match piece.split_last() {
            Some((b'\n', line)) => (line, true),
            _ => (piece, false),
        };
        if self.partial.len() + part.len() > MAX_LINE {
            return Err(CodecError::LineTooLong);
        }
        self.partial.extend_from_slice(part);
        if ended { self.line() } else { Ok(()) }
    }

    /// A whole line has come.
    fn line(&mut self) -> Result<(), CodecError> {
        let bytes = std::mem::take(&mut self.partial);
        let (code, more, text) = match (parse(&bytes), self.lines.last()) {
            (Some(Parsed::News), _) => return Ok(()),
            (Some(Parsed::Coded { code, more, text }), _) => (code, more, text),
            (Some(Parsed::Continued(text)), Some(before)) => (before.code, true, text),
            (Some(Parsed::Continued(_)) | None, _) => {
                return Err(CodecError::Malformed(
                    String::from_utf8_lossy(&bytes).chars().take(80).collect(),
                ));
            }
        };
        // The line end counts, so that a flood of empty lines is bounded too.
        self.size += bytes.len() + 1;
        if self.size > MAX_REPLY {
            return Err(CodecError::ReplyTooLong);
        }
        let line = Line { code, text: String::from_utf8_lossy(text).into_owned() };
        if more {
            self.lines.push(line);
        } else {
            self.complete.push_back(Reply { lines: std::mem::take(&mut self.lines), last: line });
            self.size = 0;
        }
        Ok(())
    }
}

enum Parsed<'a> {
    News,
    Continued(&'a [u8]),
    Coded { code: u16, more: bool, text: &'a [u8] },
}

fn parse(line: &[u8]) -> Option<Parsed<'_>> {
    match line {
        [b'+', ..] => Some(Parsed::News),
        [b' ', text @ ..] => Some(Parsed::Continued(text)),
        [a, b, c, d, mark @ (b' ' | b'-'), text @ ..] => {
            let digits = [a, b, c, d];
            if !digits.iter().all(|digit| digit.is_ascii_digit()) {
                return None;
            }
            let code = digits.iter().fold(0, |code, digit| code * 10 + u16::from(**digit - b'0'));
            Some(Parsed::Coded { code, more: *mark == b'-', text })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fmt::Write;

    /// Everything that comes out when `bytes` come in cut at these places.
    fn decode(bytes: &[u8], cuts: &[usize]) -> (Vec<Reply>, Option<CodecError>) {
        let mut decoder = Decoder::default();
        let mut replies = Vec::new();
        let mut error = None;
        let mut rest = bytes;
        for cut in cuts {
            let (piece, behind) = rest.split_at(cut % (rest.len() + 1));
            decoder.feed(piece);
            rest = behind;
            // Taking replies early or late makes no difference.
            if cut % 2 == 0
                && let Some(Ok(reply)) = decoder.pop()
            {
                replies.push(reply);
            }
        }
        decoder.feed(rest);
        while let Some(next) = decoder.pop() {
            match next {
                Ok(reply) => replies.push(reply),
                Err(found) => {
                    error = Some(found);
                    break;
                }
            }
        }
        (replies, error)
    }

    fn reply(lines: &[(u16, &str)]) -> Reply {
        let mut lines: Vec<Line> =
            lines.iter().map(|(code, text)| Line { code: *code, text: (*text).to_owned() }).collect();
        let last = lines.pop().unwrap();
        Reply { lines, last }
    }

    fn encode(reply: &Reply) -> Vec<u8> {
        let mut text = String::new();
        let mut before = None;
        for line in &reply.lines {
            if before == Some(line.code) {
                writeln!(text, " {}", line.text).unwrap();
            } else {
                writeln!(text, "{:04}-{}", line.code, line.text).unwrap();
            }
            before = Some(line.code);
        }
        writeln!(text, "{:04} {}", reply.last.code, reply.last.text).unwrap();
        text.into_bytes()
    }

    #[test]
    fn replies_read_as_bird_means_them() {
        let check = |bytes: &str, expect: &[Reply]| {
            assert_eq!(decode(bytes.as_bytes(), &[]), (expect.to_vec(), None), "{bytes:?}");
        };
        check("", &[]);
        check("0001 BIRD 2.0.12 ready.\n", &[reply(&[(1, "BIRD 2.0.12 ready.")])]);
        check("0000 \n0000 \n", &[reply(&[(0, "")]), reply(&[(0, "")])]);
        check(
            "1000-BIRD 2.0.12\n1011-Router ID is 192.0.2.2\n Hostname is vm\n0013 Daemon is up and running\n",
            &[reply(&[
                (1000, "BIRD 2.0.12"),
                (1011, "Router ID is 192.0.2.2"),
                (1011, "Hostname is vm"),
                (13, "Daemon is up and running"),
            ])],
        );
        check("1006-\n \n0000 \n", &[reply(&[(1006, ""), (1006, ""), (0, "")])]);
        check("+news\n0002-a\n+more news\n b\n0003 c\n", &[reply(&[(2, "a"), (2, "b"), (3, "c")])]);
        check("0001 not ended", &[]);
        check("0001-not complete\n", &[]);
    }

    #[test]
    fn what_is_no_reply_is_an_error_after_the_replies_before_it() {
        let check = |bytes: &str, wrong: &str| {
            let (replies, error) = decode(format!("0000 \n{bytes}0000 \n").as_bytes(), &[]);
            assert_eq!(replies, [reply(&[(0, "")])], "{bytes:?}");
            assert_eq!(error, Some(CodecError::Malformed(wrong.to_owned())));
        };
        check("\n", "");
        check("HTTP/1.1 400 Bad Request\n", "HTTP/1.1 400 Bad Request");
        check("0001\n", "0001");
        check("00a1 x\n", "00a1 x");
        check("0001+x\n", "0001+x");
        check(" continued from nothing\n", " continued from nothing");
        check("\u{661}000 x\n", "\u{661}000 x");
        check(&format!("{}\n", "y".repeat(200)), &"y".repeat(80));
    }

    #[test]
    fn lines_and_replies_are_bounded() {
        let line = |length: usize| format!("0000 {}\n", "x".repeat(length - 5));
        assert_eq!(decode(line(MAX_LINE).as_bytes(), &[]).1, None);
        assert_eq!(decode(line(MAX_LINE + 1).as_bytes(), &[]).1, Some(CodecError::LineTooLong));
        assert_eq!(decode(&vec![b' '; MAX_LINE + 1], &[]).1, Some(CodecError::LineTooLong));

        let lines = |count: usize| format!("1006-1234\n{}0000 \n", " 12345678\n".repeat(count));
        assert_eq!(decode(lines(MAX_REPLY / 10 - 2).as_bytes(), &[]).1, None);
        assert_eq!(decode(lines(MAX_REPLY / 10 + 1).as_bytes(), &[]).1, Some(CodecError::ReplyTooLong));
        let blank = format!("1006-\n{}", " \n".repeat(MAX_REPLY));
        assert_eq!(decode(blank.as_bytes(), &[]).1, Some(CodecError::ReplyTooLong));
        assert_eq!(decode("+\n".repeat(MAX_REPLY).as_bytes(), &[]), (vec![], None), "news is not kept");
    }

    fn any_reply() -> impl Strategy<Value = Reply> {
        let line = (0u16..10_000, "[^\n]{0,20}").prop_map(|(code, text)| Line { code, text });
        // Few codes, so that continuation lines happen.
        let few = (1000u16..1003, "[^\n]{0,20}").prop_map(|(code, text)| Line { code, text });
        (proptest::collection::vec(few, 0..6), line).prop_map(|(lines, last)| Reply { lines, last })
    }

    /// Bytes that look like replies often enough to get deep into the decoder.
    fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b"0001 ".to_vec()),
            Just(b"1006-".to_vec()),
            Just(b" ".to_vec()),
            Just(b"+".to_vec()),
            Just(b"\n".to_vec()),
            any_reply().prop_map(|reply| encode(&reply)),
            proptest::collection::vec(any::<u8>(), 0..8),
            Just(vec![b'x'; MAX_LINE / 2]),
        ];
        proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn replies_come_out_as_they_went_in_however_they_are_cut(
            replies in proptest::collection::vec(any_reply(), 0..5),
            cuts in proptest::collection::vec(any::<usize>(), 0..12),
        ) {
            let bytes: Vec<u8> = replies.iter().flat_map(encode).collect();
            prop_assert_eq!(decode(&bytes, &cuts), (replies, None));
        }

        #[test]
        fn any_bytes_give_the_same_however_they_are_cut(
            bytes in any_bytes(),
            cuts in proptest::collection::vec(any::<usize>(), 0..12),
        ) {
            prop_assert_eq!(decode(&bytes, &cuts), decode(&bytes, &[]));
        }
    }
}
