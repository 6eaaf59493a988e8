//! What BIRD's control socket answers: [`Decoder`], then the sessions of `show protocols all`.

use flock_bird::codec::{CodecError, Decoder, Line, MAX_LINE, MAX_REPLY, Reply};
use flock_bird::sessions;

/// What an error may come to, in bytes.
const LONGEST_ERROR: usize = 2048;

/// Takes the bytes at once, one by one, and cut in places they name themselves.
pub fn run(data: &[u8]) {
    let whole = decode([data]);
    assert_eq!(decode(data.chunks(1)), whole, "cut after each byte");
    assert_eq!(decode(pieces(data)), whole, "cut in places");
    let (replies, error) = whole;
    if let Some(error) = error {
        let text = error.to_string();
        assert!(text.len() <= LONGEST_ERROR, "{} bytes: {text}", text.len());
    }
    replies.iter().for_each(check);
}

/// Everything that comes out when these pieces come in.
fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Reply>, Option<CodecError>) {
    let mut decoder = Decoder::default();
    assert!(decoder.is_empty());
    pieces.into_iter().for_each(|piece| decoder.feed(piece));
    let mut replies = Vec::new();
    while let Some(next) = decoder.pop() {
        match next {
            Ok(reply) => replies.push(reply),
            Err(error) => {
                assert!(!decoder.is_empty());
                return (replies, Some(error));
            }
        }
    }
    (replies, None)
}

/// The bytes cut into pieces: each as long as its first byte says.
fn pieces(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = usize::from(*rest.first()?).clamp(1, rest.len());
        let (piece, behind) = rest.split_at(length);
        rest = behind;
        Some(piece)
    })
}

fn check(reply: &Reply) {
    assert!(reply.iter().all(|line| line.code < 10_000 && !line.text.contains('\n')), "{reply:?}");
    let rows = sessions(reply);
    if let Some(rows) = &rows {
        assert!(rows.is_sorted_by_key(|row| row.peer));
    }
    let text: String = reply.lines.iter().map(|line| print(line, '-')).collect();
    let text = text + &print(&reply.last, ' ');
    // A replaced byte takes three in UTF-8, so that what just fitted may not fit any more.
    if text.len() <= MAX_REPLY && text.split('\n').all(|line| line.len() <= MAX_LINE) {
        let (again, error) = decode([text.as_bytes()]);
        assert_eq!((again.as_slice(), error), (std::slice::from_ref(reply), None), "printed and read again");
    }
}

fn print(line: &Line, mark: char) -> String {
    format!("{:04}{mark}{}\n", line.code, line.text)
}
