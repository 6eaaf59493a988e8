//! Answers other than the right one.

use std::io;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::answer;
use super::http::Connection;

/// What a request is answered with instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// This status and a Status object.
    Status(u16),
    /// This status in words: what stands before the API server proper answers so.
    Text(u16),
    /// Byte after byte of a list that never ends.
    Trickle,
    /// The right answer, as far as its middle; then the connection is reset.
    Torn,
    /// A watch that says this.
    Stream(String, Then),
    /// The right answer, after so long.
    Late(Duration),
}

/// How a watch goes on when it has said what it has to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It ends well.
    End,
    /// It falls silent.
    Stall,
}

/// An ERROR event.
pub fn error_event(code: u16, message: &str) -> String {
    format!("{}\n", json!({ "type": "ERROR", "object": answer::status(code, message) }))
}

impl Answer {
    /// Gives it. `right` makes the right answer.
    pub(super) fn give(
        &self,
        connection: &mut Connection<'_>,
        right: impl FnOnce() -> (u16, Value),
        is_over: &dyn Fn() -> bool,
    ) -> io::Result<()> {
        match self {
            Self::Status(code) => connection.write(*code, &answer::status(*code, "as planned")),
            Self::Text(code) => connection.write_text(*code, "Too many requests, please try again later."),
            Self::Trickle => {
                connection.begin()?;
                connection.chunk("{\"apiVersion\":\"v1\",\"kind\":\"List\",\"items\":[")?;
                while !is_over() && !connection.is_closed() {
                    connection.chunk(" ")?;
                    thread::sleep(Duration::from_millis(5));
                }
                Err(io::ErrorKind::ConnectionAborted.into())
            }
            Self::Torn => {
                let (code, body) = right();
                connection.write_half(code, &body)?;
                Err(io::ErrorKind::ConnectionReset.into())
            }
            Self::Stream(text, then) => {
                connection.begin()?;
                if !text.is_empty() {
                    connection.chunk(text)?;
                }
                if *then == Then::End {
                    return connection.end();
                }
                while !is_over() && !connection.is_closed() {
                    thread::sleep(Duration::from_millis(5));
                }
                Err(io::ErrorKind::ConnectionAborted.into())
            }
            Self::Late(delay) => {
                thread::sleep(*delay);
                let (code, body) = right();
                connection.write(code, &body)
            }
        }
    }
}
