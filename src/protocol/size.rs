//! How much memory what came takes, for the bound on what a connection holds.

use super::channel::{Incoming, Received};
use super::connection::ConnectionEvent;
use super::properties::Arrived;
use crate::{BasicProperties, FieldTable, FieldValue, ReturnedMessage};

/// What an allocation costs beside what is asked for, roughly.
const ALLOCATION: usize = 16;

impl Incoming {
    /// How many bytes of memory this takes until the program takes it.
    pub(crate) fn size(&self) -> usize {
        match self {
            Incoming::Message(message) => message.size(),
            Incoming::Returned(returned) => size_of::<Incoming>() + returned.size(),
            Incoming::Cancelled(consumer_tag) => size_of::<Incoming>() + consumer_tag.len(),
        }
    }
}

impl Received {
    #[inline]
    pub(crate) fn size(&self) -> usize {
        size_of::<Incoming>()
            + 4 * ALLOCATION
            + self.label.len()
            + self.exchange.len()
            + self.routing_key.len()
            + self.properties.size()
            + self.body.len()
    }
}

impl ReturnedMessage {
    pub(crate) fn size(&self) -> usize {
        size_of::<ReturnedMessage>()
            + 5 * ALLOCATION
            + self.method.reply_text.len()
            + self.method.exchange.len()
            + self.method.routing_key.len()
            + size_of_properties(&self.properties)
            + self.body.len()
    }
}

impl ConnectionEvent {
    pub(crate) fn size(&self) -> usize {
        let text = match self {
            ConnectionEvent::Blocked(reason) => ALLOCATION + reason.len(),
            ConnectionEvent::Unblocked => 0,
        };
        size_of::<ConnectionEvent>() + text
    }
}

impl Arrived {
    #[inline]
    fn size(&self) -> usize {
        match self {
            Arrived::Few { .. } => 0,
            Arrived::Many(kept) => size_of_val(&**kept) + ALLOCATION + kept.size,
        }
    }
}

/// What the properties take beside the struct.
pub(super) fn size_of_properties(properties: &BasicProperties) -> usize {
    let texts = [
        &properties.content_type,
        &properties.content_encoding,
        &properties.correlation_id,
        &properties.reply_to,
        &properties.expiration,
        &properties.message_id,
        &properties.message_type,
        &properties.user_id,
        &properties.app_id,
        &properties.cluster_id,
    ];
    let texts = texts.into_iter().flatten();
    let texts: usize = texts.map(|text| ALLOCATION + text.len()).sum();
    texts + properties.headers.as_ref().map_or(0, size_of_table)
}

/// A small table on the wire may be a large one in memory: a field of two bytes becomes one of `size_of::<FieldValue>` and a
/// key.
fn size_of_table(table: &FieldTable) -> usize {
    let fields = table.iter();
    let fields: usize = fields
        .map(|(key, value)| ALLOCATION + key.len() + size_of_value(value))
        .sum();
    // A list that has grown has up to twice the room that it needs.
    let room = table.len().next_power_of_two() * size_of::<(String, FieldValue)>();
    2 * ALLOCATION + room + fields
}

fn size_of_value(value: &FieldValue) -> usize {
    match value {
        FieldValue::Text(bytes) | FieldValue::Bytes(bytes) => ALLOCATION + bytes.len(),
        FieldValue::Array(values) => {
            let room = values.len().next_power_of_two() * size_of::<FieldValue>();
            ALLOCATION + room + values.iter().map(size_of_value).sum::<usize>()
        }
        FieldValue::Table(table) => size_of_table(table),
        _ => 0,
    }
}
