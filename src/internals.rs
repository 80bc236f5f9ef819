//! What this repository's benchmarks and fuzz targets need of the inside. It is no part of the API: it exists only with the
//! feature `unstable-internals`, and anything here may change or go at any time.
#![allow(missing_docs)]

use crate::protocol::channel::{ChannelState, Gate, Phase};
use crate::protocol::connection::{Dispatcher, Session};
use crate::protocol::consumers::{Consumer, ConsumerState};
use crate::protocol::exercise;
use crate::protocol::frame;
use crate::protocol::method::Method;
use crate::protocol::received::Incoming;
use crate::Error;
use crate::{BasicProperties, FieldTable, Result};

/// Arbitrary bytes into what reads from the network. They panic if a rule is broken.
pub mod fuzz {
    use super::exercise;

    pub fn frames(bytes: &[u8]) {
        exercise::frames(bytes, exercise::FRAME_MAX);
    }

    pub fn method(payload: &[u8]) {
        exercise::method(1, payload);
    }

    pub fn header(payload: &[u8]) {
        exercise::header(1, payload);
    }

    pub fn session(bytes: &[u8]) {
        exercise::session(bytes);
    }

    pub fn table(bytes: &[u8]) {
        exercise::table(bytes);
    }

    pub fn handshake(bytes: &[u8]) {
        exercise::handshake(bytes);
    }

    pub fn url(text: &str) {
        exercise::url(text);
    }
}

/// The frames of one message as they are gathered.
pub fn write_publish(
    out: &mut Vec<u8>,
    exchange: &str,
    routing_key: &str,
    properties: &BasicProperties,
    body: &[u8],
) -> Result<()> {
    let method = Method::BasicPublish {
        exchange: exchange.into(),
        routing_key: routing_key.into(),
        mandatory: false,
        immediate: false,
    };
    frame::write_method(out, 1, &method).map_err(Error::syntax)?;
    frame::write_header(out, 1, body.len() as u64, properties).map_err(Error::syntax)?;
    frame::write_body(out, 1, body);
    Ok(())
}

pub fn write_ack(out: &mut Vec<u8>, delivery_tag: u64) -> Result<()> {
    let method = Method::BasicAck {
        delivery_tag,
        multiple: false,
    };
    frame::write_method(out, 1, &method).map_err(Error::syntax)
}

pub fn write_declare(out: &mut Vec<u8>, queue: &str, arguments: &FieldTable) -> Result<()> {
    let method = Method::QueueDeclare {
        queue: queue.into(),
        passive: false,
        durable: true,
        exclusive: false,
        auto_delete: false,
        no_wait: false,
        arguments: arguments.into(),
    };
    frame::write_method(out, 1, &method).map_err(Error::syntax)
}

/// The frames of one delivery, as a broker would send them.
pub fn write_delivery(
    out: &mut Vec<u8>,
    delivery_tag: u64,
    properties: &BasicProperties,
    body: &[u8],
) -> Result<()> {
    let method = Method::BasicDeliver {
        consumer_tag: CONSUMER_TAG.into(),
        delivery_tag,
        redelivered: false,
        exchange: "".into(),
        routing_key: "task_queue".into(),
    };
    frame::write_method(out, 1, &method).map_err(Error::syntax)?;
    frame::write_header(out, 1, body.len() as u64, properties).map_err(Error::syntax)?;
    frame::write_body(out, 1, body);
    Ok(())
}

/// Walks over frames without looking into them; returns how many there are.
pub fn count_frames(mut bytes: &[u8]) -> Result<usize> {
    let mut count = 0;
    while let Some((_, length)) = frame::parse(bytes, 0).map_err(Error::syntax)? {
        bytes = &bytes[length..];
        count += 1;
    }
    Ok(count)
}

/// Decodes the payload of a method frame; returns its class and method numbers.
pub fn read_method(payload: &[u8]) -> Result<(u16, u16)> {
    Ok(Method::decode(payload).map_err(Error::syntax)?.id())
}

/// Decodes the payload of a header frame.
pub fn read_header(payload: &[u8]) -> Result<(u64, BasicProperties)> {
    let (size, properties) = frame::read_header(payload).map_err(Error::syntax)?;
    Ok((size, properties.into()))
}

const CONSUMER_TAG: &str = "ctag1.0123456789abcdef0123456789abcdef";

/// A connection's state with one open channel and a consumer on it, without the connection.
pub struct Deliveries(Session);

impl Deliveries {
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        let mut session = Session::new(131_072, 1, "broker:5672".into());
        let mut channel = ChannelState::new(Gate::new(Phase::Open));
        channel.consumers.registered.push(Consumer {
            id: 0,
            consumer_tag: CONSUMER_TAG.into(),
            auto_ack: true,
            of_stream: false,
            state: ConsumerState::Active,
        });
        let added = session.add_channel(None, channel);
        debug_assert!(added.is_ok());
        Deliveries(session)
    }

    /// Takes in what came from the broker and hands out what is complete; returns how many messages and bytes of body.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(usize, usize)> {
        let dispatcher = Dispatcher {
            thread: 0,
            channel: None,
        };
        let (mut messages, mut size) = (0, 0);
        let (mut rest, mut more) = (bytes, true);
        while more {
            let fed = self.0.feed(rest)?;
            (rest, more) = (&rest[fed.used..], fed.more);
            while let Some((slot, _)) = self.0.begin_turn(&dispatcher) {
                while let Some(incoming) = self.0.next_event(slot) {
                    if let Incoming::Message(message) = incoming {
                        let (_, _, body) = message.delivered();
                        messages += 1;
                        size += body.len();
                    }
                }
                self.0.end_turn(slot);
            }
            self.0.changed.clear();
        }
        Ok((messages, size))
    }
}
