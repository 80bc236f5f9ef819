//! What came: a message, as a whole or in part, and what else waits for the program.

use std::sync::Arc;

use super::properties::ReceivedProperties;
use crate::{BasicProperties, Deliver, GetOk, Message, ReturnedMessage, ShortString};

/// The method that a message came with.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Carrier {
    Deliver {
        /// Shared by messages for one consumer.
        consumer_tag: Arc<str>,
        redelivered: bool,
    },
    Get {
        redelivered: bool,
        message_count: u32,
    },
    Return {
        reply_code: u16,
        reply_text: Box<str>,
    },
}

/// A message that came, or is coming in. No larger than what is moved without a call of `memcpy`: it is moved several times.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) carrier: Carrier,
    /// 0 for one that is returned.
    pub(crate) delivery_tag: u64,
    pub(crate) exchange: ShortString,
    pub(crate) routing_key: ShortString,
    pub(crate) properties: ReceivedProperties,
    pub(crate) body: Vec<u8>,
}

impl Received {
    /// Which consumer a delivered message is for. Empty for any other.
    #[inline]
    pub(crate) fn consumer_tag(&self) -> &str {
        match &self.carrier {
            Carrier::Deliver { consumer_tag, .. } => consumer_tag,
            _ => "",
        }
    }

    /// A fetched message, as the program gets it.
    pub(crate) fn fetched(self) -> (GetOk, BasicProperties, Vec<u8>) {
        let (redelivered, message_count) = match self.carrier {
            Carrier::Get {
                redelivered,
                message_count,
            } => (redelivered, message_count),
            _ => (false, 0),
        };
        let method = GetOk {
            delivery_tag: self.delivery_tag,
            redelivered,
            exchange: self.exchange,
            routing_key: self.routing_key,
            message_count,
        };
        (method, self.properties.into(), self.body)
    }

    /// A delivered message, as the program gets it.
    pub(crate) fn delivered(self) -> Message {
        let (method, properties, body) = self.parts();
        (method, properties.into(), body)
    }

    /// The same, but for the properties, which are large once they are the program's.
    #[inline]
    pub(crate) fn parts(self) -> (Deliver, ReceivedProperties, Vec<u8>) {
        let method = Deliver {
            consumer_tag: String::from(self.consumer_tag()),
            delivery_tag: self.delivery_tag,
            redelivered: matches!(
                self.carrier,
                Carrier::Deliver {
                    redelivered: true,
                    ..
                }
            ),
            exchange: self.exchange,
            routing_key: self.routing_key,
        };
        (method, self.properties, self.body)
    }
}

/// What waits to be delivered to the program, in the order it came. Nearly all are messages, so their size does not matter,
/// while a box would cost an allocation for each.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)]
pub(crate) enum Incoming {
    Message(Received),
    Returned(Arc<ReturnedMessage>),
    /// The broker cancelled this consumer.
    Cancelled(String),
}

/// The message that is coming in: method, then header, then body. There is one for each channel, so its size does not
/// matter, while a box would cost an allocation for each message.
#[derive(Debug, Default)]
#[allow(clippy::large_enum_variant)]
pub(crate) enum Content {
    #[default]
    None,
    Header(Received),
    Body {
        message: Received,
        remaining: u64,
    },
}
