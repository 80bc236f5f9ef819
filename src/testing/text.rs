//! Names as they came: bytes, nearly always UTF-8.

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use crate::protocol::method::Method;
use crate::protocol::wire::ShortStr;

/// The name of an exchange, a queue, a consumer, a user …, or a routing key. Clones share the bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Text(Arc<[u8]>);

impl Text {
    /// Without the line breaks, which RabbitMQ takes out of names.
    pub(super) fn without_line_breaks(name: ShortStr<'_>) -> Text {
        if name.iter().any(|byte| matches!(byte, b'\r' | b'\n')) {
            let kept: Vec<u8> = name
                .iter()
                .copied()
                .filter(|byte| !matches!(byte, b'\r' | b'\n'))
                .collect();
            return Text(kept.into());
        }
        name.into()
    }

    /// As it stands in a method.
    pub(super) fn name(&self) -> ShortStr<'_> {
        (&*self.0).into()
    }
}

impl From<&[u8]> for Text {
    fn from(bytes: &[u8]) -> Self {
        Text(bytes.into())
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        text.as_bytes().into()
    }
}

impl From<ShortStr<'_>> for Text {
    fn from(name: ShortStr<'_>) -> Self {
        (&*name).into()
    }
}

impl Deref for Text {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Borrow<[u8]> for Text {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&self.0))
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

/// Bytes as RabbitMQ's texts show them: what is not UTF-8 is taken for Latin-1.
pub(super) fn shown(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => bytes.iter().map(|byte| char::from(*byte)).collect(),
    }
}

/// Whether all short strings of a client's method are UTF-8. RabbitMQ asks for that, save in methods with content.
pub(super) fn is_utf8(method: &Method<'_>) -> bool {
    let none = ShortStr::default();
    let names = match *method {
        Method::ConnectionStartOk {
            mechanism, locale, ..
        } => [mechanism, locale, none],
        Method::ConnectionOpen { virtual_host } => [virtual_host, none, none],
        Method::ConnectionUpdateSecret { reason, .. } => [reason, none, none],
        Method::ConnectionClose { reply_text, .. } | Method::ChannelClose { reply_text, .. } => {
            [reply_text, none, none]
        }
        Method::ExchangeDeclare {
            exchange,
            exchange_type,
            ..
        } => [exchange, exchange_type, none],
        Method::ExchangeDelete { exchange, .. } => [exchange, none, none],
        Method::ExchangeBind {
            destination,
            source,
            routing_key,
            ..
        }
        | Method::ExchangeUnbind {
            destination,
            source,
            routing_key,
            ..
        } => [destination, source, routing_key],
        Method::QueueBind {
            queue,
            exchange,
            routing_key,
            ..
        }
        | Method::QueueUnbind {
            queue,
            exchange,
            routing_key,
            ..
        } => [queue, exchange, routing_key],
        Method::QueueDeclare { queue, .. }
        | Method::QueuePurge { queue, .. }
        | Method::QueueDelete { queue, .. }
        | Method::BasicGet { queue, .. } => [queue, none, none],
        Method::BasicConsume {
            queue,
            consumer_tag,
            ..
        } => [queue, consumer_tag, none],
        Method::BasicCancel { consumer_tag, .. } | Method::BasicCancelOk { consumer_tag } => {
            [consumer_tag, none, none]
        }
        _ => [none; 3],
    };
    names.iter().all(|name| std::str::from_utf8(name).is_ok())
}
