//! As much HTTP/1.1 as a client of the Kubernetes API speaks.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;

use serde_json::Value;

/// One request.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub query: BTreeMap<String, String>,
    pub content_type: String,
    pub authorization: Option<String>,
    pub body: Value,
}

pub(super) struct Connection<'a> {
    stream: &'a TcpStream,
    buffer: Vec<u8>,
}

impl<'a> Connection<'a> {
    pub(super) fn new(stream: &'a TcpStream) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    /// The next request; `None` when there is none any more.
    pub(super) fn read(&mut self, is_over: &dyn Fn() -> bool) -> io::Result<Option<Request>> {
        let head = loop {
            if let Some(end) = self.buffer.windows(4).position(|it| it == b"\r\n\r\n") {
                let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
                break String::from_utf8(head).unwrap();
            }
            if !self.more(is_over)? {
                return Ok(None);
            }
        };
        let mut lines = head.lines();
        let mut words = lines.next().unwrap().split(' ');
        let (method, target) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
        let headers: BTreeMap<String, String> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
        while self.buffer.len() < length {
            if !self.more(is_over)? {
                return Ok(None);
            }
        }
        let body: Vec<u8> = self.buffer.drain(..length).collect();
        let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let query = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let query = query.map(|(name, value)| (decoded(name), decoded(value))).collect();
        let content_type = headers.get("content-type").cloned().unwrap_or_default();
        let authorization = headers.get("authorization").cloned();
        Ok(Some(Request { method, path: decoded(path), query, content_type, authorization, body }))
    }

    fn more(&mut self, is_over: &dyn Fn() -> bool) -> io::Result<bool> {
        let mut bytes = [0; 4096];
        loop {
            if is_over() {
                return Ok(false);
            }
            match (&mut &*self.stream).read(&mut bytes) {
                Ok(0) => return Ok(false),
                Ok(count) => {
                    self.buffer.extend_from_slice(&bytes[..count]);
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) fn write(&mut self, status: u16, body: &Value) -> io::Result<()> {
        let body = body.to_string();
        let head = head(status, "application/json", body.len());
        (&mut &*self.stream).write_all(format!("{head}{body}").as_bytes())
    }

    pub(super) fn write_text(&mut self, status: u16, text: &str) -> io::Result<()> {
        let head = head(status, "text/plain; charset=utf-8", text.len() + 1);
        (&mut &*self.stream).write_all(format!("{head}{text}\n").as_bytes())
    }

    /// Of the answer only the first half of the body.
    pub(super) fn write_half(&mut self, status: u16, body: &Value) -> io::Result<()> {
        let body = body.to_string();
        let head = head(status, "application/json", body.len());
        let half = body.as_bytes().get(..body.len() / 2).unwrap();
        (&mut &*self.stream).write_all(&[head.as_bytes(), half].concat())
    }

    /// The head of an answer in parts.
    pub(super) fn begin(&mut self) -> io::Result<()> {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
        (&mut &*self.stream).write_all(head.as_bytes())
    }

    /// One part.
    pub(super) fn part(&mut self, body: &Value) -> io::Result<()> {
        self.chunk(&format!("{body}\n"))
    }

    pub(super) fn chunk(&mut self, body: &str) -> io::Result<()> {
        (&mut &*self.stream).write_all(format!("{:x}\r\n{body}\r\n", body.len()).as_bytes())
    }

    pub(super) fn end(&mut self) -> io::Result<()> {
        (&mut &*self.stream).write_all(b"0\r\n\r\n")
    }

    /// Whether the client has gone.
    pub(super) fn is_closed(&self) -> bool {
        self.stream.set_nonblocking(true).unwrap();
        let closed = matches!(self.stream.peek(&mut [0]), Ok(0));
        self.stream.set_nonblocking(false).unwrap();
        closed
    }
}

fn head(status: u16, content_type: &str, length: usize) -> String {
    format!("HTTP/1.1 {status} X\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\r\n")
}

fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        let escaped = std::str::from_utf8(after.get(..2).unwrap_or_default());
        match (first, escaped.ok().and_then(|digits| u8::from_str_radix(digits, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            (b'+', _) => {
                bytes.push(b' ');
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap()
}
