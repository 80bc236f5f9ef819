//! Feeds arbitrary bytes to everything that reads from the network, and holds the rules that no input may break.
//! For the fuzzer, and for a test that runs it over pseudo-random bytes.

use std::sync::atomic::Ordering;

use super::channel::{ChannelState, Gate, Phase};
use super::connection::{Dispatcher, Session};
use super::consumers::{Consumer, ConsumerState, IteratorConsumer};
use super::frame::{parse, read_header, write_header, write_method, Frame};
use super::handshake::{Handshake, Negotiated};
use super::method::Method;
use super::publish::{Fingerprint, Mandatory};
use super::received::{Content, Incoming};
use super::wire::WireError;
use crate::{BasicProperties, ConnectionParameters, FieldTable, Message};

/// The largest frame that the fuzz targets let pass, small enough that they find the bound.
pub(crate) const FRAME_MAX: u32 = 4096;

/// Reads frames off `bytes` to their end or first error, and checks that whatever can be read, written and read again is
/// the same both times. Returns how many methods and headers were read.
///
/// # Panics
///
/// If a rule is broken.
pub(crate) fn frames(mut bytes: &[u8], frame_max: u32) -> usize {
    let mut understood = 0;
    while let Ok(Some((frame, length))) = parse(bytes, frame_max) {
        assert!((8..=bytes.len()).contains(&length));
        understood += match frame {
            Frame::Method { channel, payload } => usize::from(method(channel, payload)),
            Frame::Header { channel, payload } => usize::from(header(channel, payload)),
            Frame::Body { .. } | Frame::Heartbeat => 0,
        };
        bytes = &bytes[length..];
    }
    understood
}

/// The payload of a method frame. Returns whether it could be read.
pub(crate) fn method(channel: u16, payload: &[u8]) -> bool {
    let Ok(method) = Method::decode(payload) else {
        return false;
    };
    assert_eq!(
        Method::name_of(method.id().0, method.id().1),
        Some(method.name())
    );
    let mut out = b"before".to_vec();
    match write_method(&mut out, channel, &method) {
        Ok(()) => {
            let Ok(Some((Frame::Method { payload, .. }, _))) = parse(&out[6..], 0) else {
                panic!("{method:?} was written as {out:x?}");
            };
            assert_eq!(Method::decode(payload).as_ref(), Ok(&method));
        }
        Err(error) => refused(error, &out),
    }
    true
}

/// The payload of a header frame. Returns whether it could be read.
pub(crate) fn header(channel: u16, payload: &[u8]) -> bool {
    let Ok((size, properties)) = read_header(payload) else {
        return false;
    };
    let properties = BasicProperties::from(properties);
    let mut out = b"before".to_vec();
    match write_header(&mut out, channel, size, &properties) {
        Ok(()) => {
            let Ok(Some((Frame::Header { payload, .. }, _))) = parse(&out[6..], 0) else {
                panic!("{properties:?} was written as {out:x?}");
            };
            let again = read_header(payload).map(|(size, properties)| (size, properties.into()));
            assert_eq!(again, Ok((size, properties)));
        }
        Err(error) => refused(error, &out),
    }
    true
}

/// What can be read but not written: NaN and infinities.
fn refused(error: WireError, out: &[u8]) {
    assert!(matches!(error, WireError::Unsendable(_)), "{error}");
    assert_eq!(out, b"before");
}

/// What a broker may say on an open connection. Returns whether all of it was understood.
///
/// However the bytes are cut, the program must see the same.
pub(crate) fn session(bytes: &[u8]) -> bool {
    let whole = feed_all([bytes]);
    if whole.error.is_none() {
        for piece in [1, 7, 1000] {
            let cut = feed_all(bytes.chunks(piece));
            assert_eq!(cut, whole, "cut into pieces of {piece} bytes");
        }
    }
    whole.error.is_none()
}

/// The channels of `busy_session`, number 0 included.
pub(crate) const CHANNELS: usize = 7;

/// Everything that a program, and the broker, can see of what came.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Seen {
    /// By channel, in order.
    pub(crate) incoming: [Vec<String>; CHANNELS],
    /// What the iterator on channel 3 yields.
    pub(crate) of_iterator: Vec<String>,
    pub(crate) call_replies: [Vec<String>; CHANNELS],
    pub(crate) confirms: Vec<String>,
    pub(crate) connection: Vec<String>,
    pub(crate) replies: Vec<u8>,
    pub(crate) closures: Vec<String>,
    /// How many bytes could not be used yet.
    pub(crate) left: usize,
    pub(crate) error: Option<String>,
}

/// Hands bytes piece by piece to a session that has a channel of each kind, as a connection would.
pub(crate) fn feed_all<'b>(pieces: impl IntoIterator<Item = &'b [u8]>) -> Seen {
    let mut session = busy_session();
    let mut seen = Seen::default();
    let mut buffer = Vec::new();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        let mut more = true;
        while std::mem::take(&mut more) {
            match session.feed(&buffer) {
                Ok(fed) => {
                    assert!(fed.used <= buffer.len());
                    assert!(fed.used > 0 || !fed.more, "no progress");
                    buffer.drain(..fed.used);
                    more = fed.more;
                }
                Err(error) => {
                    seen.error = Some(error.to_string());
                    session.end_all(error);
                }
            }
            take_all(&mut session, &mut seen);
        }
        if seen.error.is_some() {
            break;
        }
    }
    seen.left = buffer.len();
    if let Some(channel) = session.channel(1) {
        let outcomes = (1..=10).map(|sequence| channel.confirms.take(sequence));
        seen.confirms = outcomes.map(|outcome| format!("{outcome:?}")).collect();
    }
    assert_eq!(session.undelivered, 0, "bytes counted and not held");
    for slot in 0..CHANNELS {
        if let Some(channel) = session.channel(slot) {
            let end = channel.gate.end().map(|end| end.to_string());
            seen.closures.extend(end);
            let nothing_begun = matches!(channel.content, Content::None);
            assert!(nothing_begun || channel.phase().is_open(), "{slot}");
        }
    }
    seen
}

/// One open channel, and nothing was asked for.
#[cfg(test)]
pub(crate) fn idle_session() -> Session {
    let mut session = Session::new(FRAME_MAX, 8, "broker:5672".into());
    let channel = ChannelState::new(Gate::new(Phase::Open));
    let added = session.add_channel(None, channel);
    assert!(added.is_ok());
    session
}

/// Channel 1 has consumers, confirms and calls that wait; 2 is being opened, 3 has an iterator, 4 is being closed, 5 is
/// closed, 6 was closed and is being opened again.
pub(crate) fn busy_session() -> Session {
    let mut session = Session::new(FRAME_MAX, 8, "broker:5672".into());
    session.wants_blocked = true;
    for number in 1..=6 {
        let phase = match number {
            2 => Phase::Opening,
            4 => Phase::Closing,
            _ => Phase::Open,
        };
        let mut channel = ChannelState::new(Gate::new(phase));
        let consumer = |consumer_tag: &str| Consumer {
            id: 0,
            consumer_tag: consumer_tag.into(),
            auto_ack: false,
            of_stream: false,
            state: ConsumerState::Active,
        };
        let mut calls = Vec::new();
        match number {
            1 => {
                channel
                    .consumers
                    .registered
                    .extend([consumer("a"), consumer("b")]);
                channel.wants_returns = true;
                channel.gate.confirming.store(true, Ordering::Release);
                channel.gate.published.store(10, Ordering::Release);
                let method = crate::Return {
                    exchange: "x".into(),
                    routing_key: "k".into(),
                    ..crate::Return::default()
                };
                let returned = crate::ReturnedMessage {
                    method,
                    properties: crate::BasicProperties::new(),
                    body: b"body".to_vec(),
                };
                let print = Fingerprint::of_returned(&returned);
                let mandatory = [3, 7].map(|sequence| Mandatory { sequence, print });
                channel.mandatory.extend(mandatory);
                calls.extend([(50, 11), (60, 71), (60, 71), (50, 31), (60, 21)]);
            }
            2 => {
                channel.consumers.registered.push(consumer("a"));
                calls.push((20, 11));
            }
            3 => {
                channel.consumers.iterator = Some(IteratorConsumer {
                    consumer: Consumer {
                        id: 9,
                        auto_ack: true,
                        ..consumer("p")
                    },
                    queue: "q".into(),
                    exclusive: false,
                    is_at_work: false,
                    buffered: Default::default(),
                });
            }
            _ => {}
        }
        for (expects, id) in calls.into_iter().zip(1..) {
            channel.calls.add(id, expects, None);
        }
        let added = session.add_channel(Some(number), channel);
        assert_eq!(added.ok(), Some((usize::from(number), number)));
    }
    for slot in [5, 6] {
        let close = Method::ChannelClose {
            reply_code: 404,
            reply_text: "NOT_FOUND".into(),
            class_id: 0,
            method_id: 0,
        };
        let mut bytes = Vec::new();
        assert!(write_method(&mut bytes, slot, &close).is_ok());
        assert!(session.feed(&bytes).is_ok());
        session.abandon(slot.into());
    }
    let mut again = ChannelState::new(Gate::new(Phase::Opening));
    again.consumers.registered.push(Consumer {
        id: 0,
        consumer_tag: "a".into(),
        auto_ack: false,
        of_stream: false,
        state: ConsumerState::Active,
    });
    again.calls.add(1, (20, 11), None);
    assert_eq!(session.add_channel(Some(6), again).ok(), Some((6, 6)));
    session.to_send.clear();
    session.changed.clear();
    session
}

fn take_all(session: &mut Session, seen: &mut Seen) {
    let dispatcher = Dispatcher {
        thread: 0,
        channel: None,
    };
    while let Some((slot, _)) = session.begin_turn(&dispatcher) {
        while let Some(incoming) = session.next_event(slot) {
            seen.incoming[slot].push(match incoming {
                Incoming::Message(message) => describe(message.delivered()),
                other => format!("{other:?}"),
            });
        }
        session.end_turn(slot);
    }
    assert_eq!(session.count_events(&dispatcher), 0);
    while let Some(message) = session.next_for_iterator(3) {
        seen.of_iterator.push(describe(message.delivered()));
    }
    for (slot, seen) in seen.call_replies.iter_mut().enumerate() {
        if let Some(channel) = session.channel(slot) {
            let replies = channel.calls.replies.drain(..);
            seen.extend(replies.map(|(id, reply)| format!("{id}: {reply:?}")));
        }
    }
    let events = std::iter::from_fn(|| session.next_connection_event());
    seen.connection
        .extend(events.map(|event| format!("{event:?}")));
    while let Some(closure) = session.take_unreported(&dispatcher) {
        seen.closures.push(closure.to_string());
    }
    seen.replies.append(&mut session.to_send);
    session.changed.clear();
}

fn describe((method, properties, body): Message) -> String {
    let body = String::from_utf8_lossy(&body);
    format!("{method:?} {properties:?} {body}")
}

/// Text as an AMQP URL. Returns whether it is one.
pub(crate) fn url(text: &str) -> bool {
    match ConnectionParameters::from_url(text) {
        Ok(parameters) => {
            // Neither of these may fail in another way than by an error.
            let _ = format!("{parameters:?}");
            let _ = parameters.validate();
            true
        }
        Err(error) => {
            let _ = error.to_string();
            false
        }
    }
}

/// What stands behind the length of a table. Returns whether it is a table.
pub(crate) fn table(bytes: &[u8]) -> bool {
    let Ok(table) = FieldTable::decode(bytes) else {
        return false;
    };
    let mut out = b"before".to_vec();
    if let Err(error) = table.encode(&mut out) {
        // What came may be more than what may be sent.
        assert!(matches!(error, WireError::Unsendable(_)), "{error}");
        return true;
    }
    let again = FieldTable::decode(&out[6 + 4..]);
    assert_eq!(again.as_ref(), Ok(&table));
    for (key, value) in &table {
        assert_eq!(table.get(key), Some(value));
    }
    let _ = format!("{table:?}");
    true
}

/// What a broker says until the connection is open. Returns whether it comes to be.
pub(crate) fn handshake(mut bytes: &[u8]) -> bool {
    let parameters = ConnectionParameters::default();
    let mut negotiated = Negotiated::default();
    let mut handshake = Handshake::new(&parameters, &mut negotiated);
    let (mut out, mut opened, mut failed) = (Vec::new(), false, false);
    while let Ok(Some((frame, length))) = parse(bytes, parameters.frame_max) {
        bytes = &bytes[length..];
        let Frame::Method {
            channel: 0,
            payload,
        } = frame
        else {
            continue;
        };
        match handshake.handle(payload, &mut out) {
            Ok(done) => opened = done,
            Err(failure) => {
                let _ = failure.cause.to_string();
                failed = true;
            }
        }
        if opened || failed {
            break;
        }
    }
    // Whatever came, what is said in return is whole, and what a client says.
    let mut said = out.as_slice();
    while !said.is_empty() {
        let Ok(Some((Frame::Method { channel, payload }, length))) = parse(said, 0) else {
            panic!("{out:x?} is not made of methods");
        };
        assert_eq!(channel, 0);
        let name = Method::decode(payload).map(|method| method.name());
        assert!(
            name.as_ref()
                .is_ok_and(|name| name.starts_with("connection.")),
            "{name:?}"
        );
        said = &said[length..];
    }
    if opened {
        assert!(negotiated.channel_max > 0);
        assert!((4096..=parameters.frame_max).contains(&negotiated.frame_max));
    }
    opened
}
