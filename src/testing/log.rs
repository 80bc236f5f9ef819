//! The methods that were sent and received, kept for a test that fails.

use std::collections::VecDeque;
use std::fmt::{self, Write};
use std::time::Instant;

use crate::protocol::frame::{self, Frame};
use crate::protocol::method::Method;

/// How many entries are kept.
const ENTRIES: usize = 2000;

/// How many bytes of a method are kept.
const BYTES: usize = 512;

/// What an entry is about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Speaker {
    Client,
    Broker,
}

/// The last of them, as bytes: they are made text only when the log is read.
pub(super) struct Log {
    begun: Instant,
    entries: VecDeque<Entry>,
    dropped: u64,
}

struct Entry {
    at: Instant,
    connection: u64,
    what: What,
}

enum What {
    Method {
        speaker: Speaker,
        channel: u16,
        payload: Box<[u8]>,
        cut: bool,
    },
    /// A connection came or went, or a test interfered.
    Note(String),
}

impl Log {
    pub(super) fn new() -> Log {
        Log {
            begun: Instant::now(),
            entries: VecDeque::new(),
            dropped: 0,
        }
    }

    pub(super) fn method(
        &mut self,
        now: Instant,
        connection: u64,
        speaker: Speaker,
        channel: u16,
        payload: &[u8],
    ) {
        let kept = &payload[..payload.len().min(BYTES)];
        self.add(Entry {
            at: now,
            connection,
            what: What::Method {
                speaker,
                channel,
                payload: kept.into(),
                cut: kept.len() < payload.len(),
            },
        });
    }

    /// The method at the front of frames that the broker sends.
    pub(super) fn sent(&mut self, now: Instant, connection: u64, frames: &[u8]) {
        if let Ok(Some((Frame::Method { channel, payload }, _))) = frame::parse(frames, 0) {
            self.method(now, connection, Speaker::Broker, channel, payload);
        }
    }

    pub(super) fn note(&mut self, connection: u64, text: String) {
        self.add(Entry {
            at: Instant::now(),
            connection,
            what: What::Note(text),
        });
    }

    fn add(&mut self, entry: Entry) {
        if self.entries.len() == ENTRIES {
            self.entries.pop_front();
            self.dropped += 1;
        }
        self.entries.push_back(entry);
    }
}

/// A line for each entry: seconds since the start, connection, channel, the sender, and the method.
impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.dropped > 0 {
            writeln!(f, "({} earlier lines are not kept)", self.dropped)?;
        }
        for entry in &self.entries {
            let at = entry.at.saturating_duration_since(self.begun).as_secs_f64();
            write!(f, "{at:10.6}  connection {}  ", entry.connection)?;
            match &entry.what {
                What::Note(text) => writeln!(f, "{text}")?,
                What::Method {
                    speaker,
                    channel,
                    payload,
                    cut,
                } => {
                    let speaker = match speaker {
                        Speaker::Client => "client",
                        Speaker::Broker => "broker",
                    };
                    write!(f, "channel {channel}  {speaker}: ")?;
                    write_method(f, payload, *cut)?;
                }
            }
        }
        Ok(())
    }
}

fn write_method(f: &mut fmt::Formatter<'_>, payload: &[u8], cut: bool) -> fmt::Result {
    match Method::decode(payload) {
        // A password stands in it.
        Ok(method @ (Method::ConnectionStartOk { .. } | Method::ConnectionUpdateSecret { .. })) => {
            writeln!(f, "{}", method.name())
        }
        Ok(method) => {
            let mut text = String::new();
            write!(text, "{method:?}")?;
            // The variant's name is that of the specification.
            let fields = text.find(" {").map_or("", |at| &text[at..]);
            writeln!(f, "{}{fields}", method.name())
        }
        Err(_) => {
            let ids = (payload.get(..2), payload.get(2..4));
            let name = match ids {
                (Some(&[a, b]), Some(&[c, d])) => {
                    Method::name_of(u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
                }
                _ => None,
            };
            let why = if cut {
                "too long to be kept"
            } else {
                "cannot be read"
            };
            writeln!(f, "{} ({why})", name.unwrap_or("a method"))
        }
    }
}
