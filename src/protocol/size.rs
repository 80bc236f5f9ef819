//! How much memory values take, for the bound on what a connection holds.

use super::properties::ReceivedProperties;
use crate::{BasicProperties, FieldTable, FieldValue};

/// What an allocation costs beside what is asked for, roughly.
pub(crate) const ALLOCATION: usize = 16;

impl ReceivedProperties {
    #[inline]
    pub(super) fn size(&self) -> usize {
        match self {
            ReceivedProperties::Few { .. } => 0,
            ReceivedProperties::Many(kept) => size_of_val(&**kept) + ALLOCATION + kept.size,
        }
    }
}

/// What the properties take beside the struct.
pub(crate) fn size_of_properties(properties: &BasicProperties) -> usize {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_count_for_what_they_hold() {
        let none = size_of_properties(&BasicProperties::new());
        let mut table = FieldTable::new();
        table.insert("key", vec![FieldValue::from("value"); 100]);
        let with = size_of_properties(&BasicProperties::new().headers(table));
        assert!(with > none + 100 * size_of::<FieldValue>() + 500);
    }
}
