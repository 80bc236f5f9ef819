//! Tables of typed values: message headers, the arguments of a declaration, the properties of a peer.

use std::collections::{btree_map, BTreeMap};
use std::fmt;
use std::iter::FusedIterator;

use byteorder::{BigEndian, ByteOrder};

use super::field_value::FieldValue;
use super::wire::{with_length, Reader, SyntaxError, Writer};

/// How deep tables and arrays may be nested. Each level takes some stack while it is decoded, and the bytes come from
/// whoever can publish; no sensible table comes near it.
const MAX_DEPTH: usize = 128;

/// A table of named values: message headers, `arguments` of declarations, properties of client and server
/// (specification 4.2.5.5; a `dict` in pika).
///
/// Reads like a map. The keys are in alphabetical order. A key takes at most 255 bytes of UTF-8; a longer one is refused
/// ([`SyntaxError::ShortStringTooLong`]) when the table is sent.
///
/// ```
/// use haypile::{FieldTable, FieldValue};
///
/// let mut headers = FieldTable::new();
/// headers.insert("x-match", "all");
/// headers.insert("attempt", 3);
/// assert_eq!(headers.get("x-match").and_then(FieldValue::as_str), Some("all"));
/// assert_eq!(headers.get("attempt").and_then(FieldValue::as_i64), Some(3));
///
/// let same: FieldTable = [("attempt", FieldValue::from(3)), ("x-match", "all".into())].into_iter().collect();
/// assert_eq!(headers, same);
/// ```
#[derive(Clone, PartialEq, Default)]
pub struct FieldTable(BTreeMap<String, FieldValue>);

impl FieldTable {
    /// An empty table.
    pub const fn new() -> Self {
        FieldTable(BTreeMap::new())
    }

    /// Sets `key` to `value`, and answers the value that it replaces, if any.
    pub fn insert(
        &mut self,
        key: impl Into<String>,
        value: impl Into<FieldValue>,
    ) -> Option<FieldValue> {
        self.0.insert(key.into(), value.into())
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&FieldValue> {
        self.0.get(key)
    }

    /// The value of `key`, to be changed in its place.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut FieldValue> {
        self.0.get_mut(key)
    }

    /// Whether there is a value for `key`.
    pub fn contains_key(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// Takes `key` out of the table, and answers its value.
    pub fn remove(&mut self, key: &str) -> Option<FieldValue> {
        self.0.remove(key)
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All keys and values, in the order of the keys.
    pub fn iter(&self) -> Iter<'_> {
        Iter(self.0.iter())
    }

    /// All keys, in their order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Reads a table from what stands behind its length. A key that comes twice has the value that comes last.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, SyntaxError> {
        decode_table(bytes, 1)
    }

    /// Appends the length and the fields.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<(), SyntaxError> {
        encode_table(self, out, 1)
    }
}

impl fmt::Debug for FieldTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(&self.0).finish()
    }
}

impl<K: Into<String>, V: Into<FieldValue>> Extend<(K, V)> for FieldTable {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, fields: I) {
        let fields = fields.into_iter();
        self.0
            .extend(fields.map(|(key, value)| (key.into(), value.into())));
    }
}

impl<K: Into<String>, V: Into<FieldValue>> FromIterator<(K, V)> for FieldTable {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(fields: I) -> Self {
        let mut table = FieldTable::new();
        table.extend(fields);
        table
    }
}

impl<K: Into<String>, V: Into<FieldValue>, const N: usize> From<[(K, V); N]> for FieldTable {
    fn from(fields: [(K, V); N]) -> Self {
        fields.into_iter().collect()
    }
}

impl IntoIterator for FieldTable {
    type Item = (String, FieldValue);
    type IntoIter = IntoIter;

    fn into_iter(self) -> IntoIter {
        IntoIter(self.0.into_iter())
    }
}

impl<'a> IntoIterator for &'a FieldTable {
    type Item = (&'a str, &'a FieldValue);
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// The keys and values of a [`FieldTable`], in the order of the keys; see [`FieldTable::iter`].
#[derive(Debug, Clone)]
pub struct Iter<'a>(btree_map::Iter<'a, String, FieldValue>);

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a str, &'a FieldValue);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|(key, value)| (key.as_str(), value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl DoubleEndedIterator for Iter<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.0.next_back().map(|(key, value)| (key.as_str(), value))
    }
}

impl ExactSizeIterator for Iter<'_> {}
impl FusedIterator for Iter<'_> {}

/// The owned keys and values of a [`FieldTable`], in the order of the keys.
#[derive(Debug)]
pub struct IntoIter(btree_map::IntoIter<String, FieldValue>);

impl Iterator for IntoIter {
    type Item = (String, FieldValue);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl ExactSizeIterator for IntoIter {}
impl FusedIterator for IntoIter {}

fn decode_table(bytes: &[u8], depth: usize) -> Result<FieldTable, SyntaxError> {
    if depth > MAX_DEPTH {
        return Err(SyntaxError::NestedTooDeeply);
    }
    let mut reader = Reader::new(bytes);
    let mut table = FieldTable::new();
    while !reader.is_empty() {
        let key = reader.shortstr("table key")?.into_owned();
        let value = decode_value(&mut reader, depth)?;
        table.0.insert(key, value);
    }
    Ok(table)
}

fn decode_array(bytes: &[u8], depth: usize) -> Result<Vec<FieldValue>, SyntaxError> {
    if depth > MAX_DEPTH {
        return Err(SyntaxError::NestedTooDeeply);
    }
    let mut reader = Reader::new(bytes);
    let mut values = Vec::new();
    while !reader.is_empty() {
        values.push(decode_value(&mut reader, depth)?);
    }
    Ok(values)
}

fn decode_value(reader: &mut Reader<'_>, depth: usize) -> Result<FieldValue, SyntaxError> {
    const VALUE: &str = "a value of a table";
    Ok(match reader.octet("the type of a value of a table")? {
        b't' => FieldValue::Bool(reader.octet(VALUE)? != 0),
        b'b' => FieldValue::I8(reader.octet(VALUE)? as i8),
        b'B' => FieldValue::U8(reader.octet(VALUE)?),
        b's' => FieldValue::I16(reader.short(VALUE)? as i16),
        b'u' => FieldValue::U16(reader.short(VALUE)?),
        b'I' => FieldValue::I32(reader.long(VALUE)? as i32),
        b'i' => FieldValue::U32(reader.long(VALUE)?),
        b'l' | b'L' => FieldValue::I64(reader.longlong(VALUE)? as i64),
        b'f' => FieldValue::F32(f32::from_bits(reader.long(VALUE)?)),
        b'd' => FieldValue::F64(f64::from_bits(reader.longlong(VALUE)?)),
        b'D' => FieldValue::Decimal {
            scale: reader.octet(VALUE)?,
            value: reader.long(VALUE)?,
        },
        b'S' => FieldValue::Text(reader.block(VALUE)?.to_vec()),
        b'x' => FieldValue::Bytes(reader.block(VALUE)?.to_vec()),
        b'A' => FieldValue::Array(decode_array(reader.block(VALUE)?, depth + 1)?),
        b'T' => FieldValue::Timestamp(reader.longlong(VALUE)?),
        b'F' => FieldValue::Table(decode_table(reader.block(VALUE)?, depth + 1)?),
        b'V' => FieldValue::Void,
        other => return Err(SyntaxError::UnknownFieldType(other)),
    })
}

fn encode_table(table: &FieldTable, out: &mut Vec<u8>, depth: usize) -> Result<(), SyntaxError> {
    if depth > MAX_DEPTH {
        return Err(SyntaxError::NestedTooDeeply);
    }
    with_length(out, "table", |out| {
        for (key, value) in table {
            Writer::new(out).shortstr("table key", key)?;
            encode_value(value, out, depth)?;
        }
        Ok(())
    })
}

fn encode_array(values: &[FieldValue], out: &mut Vec<u8>, depth: usize) -> Result<(), SyntaxError> {
    if depth > MAX_DEPTH {
        return Err(SyntaxError::NestedTooDeeply);
    }
    with_length(out, "array", |out| {
        for value in values {
            encode_value(value, out, depth)?;
        }
        Ok(())
    })
}

fn encode_value(value: &FieldValue, out: &mut Vec<u8>, depth: usize) -> Result<(), SyntaxError> {
    match value {
        FieldValue::Bool(value) => out.extend_from_slice(&[b't', u8::from(*value)]),
        FieldValue::I8(value) => out.extend_from_slice(&[b'b', *value as u8]),
        FieldValue::U8(value) => out.extend_from_slice(&[b'B', *value]),
        FieldValue::I16(value) => number(out, b's', BigEndian::write_i16, *value),
        FieldValue::U16(value) => number(out, b'u', BigEndian::write_u16, *value),
        FieldValue::I32(value) => number(out, b'I', BigEndian::write_i32, *value),
        FieldValue::U32(value) => number(out, b'i', BigEndian::write_u32, *value),
        FieldValue::I64(value) => number(out, b'l', BigEndian::write_i64, *value),
        FieldValue::Timestamp(value) => number(out, b'T', BigEndian::write_u64, *value),
        FieldValue::F32(value) if value.is_finite() => {
            number(out, b'f', BigEndian::write_f32, *value)
        }
        FieldValue::F64(value) if value.is_finite() => {
            number(out, b'd', BigEndian::write_f64, *value)
        }
        FieldValue::F32(_) | FieldValue::F64(_) => return Err(SyntaxError::NotFinite),
        FieldValue::Decimal { scale, value } => {
            out.extend_from_slice(&[b'D', *scale]);
            Writer::new(out).long("decimal", value)?;
        }
        FieldValue::Text(text) => {
            out.push(b'S');
            Writer::new(out).longstr("text", text)?;
        }
        FieldValue::Bytes(bytes) => {
            out.push(b'x');
            Writer::new(out).longstr("byte array", bytes)?;
        }
        FieldValue::Array(values) => {
            out.push(b'A');
            encode_array(values, out, depth + 1)?;
        }
        FieldValue::Table(table) => {
            out.push(b'F');
            encode_table(table, out, depth + 1)?;
        }
        FieldValue::Void => out.push(b'V'),
    }
    Ok(())
}

/// The type octet, and the number in its own width.
fn number<T>(out: &mut Vec<u8>, kind: u8, write: fn(&mut [u8], T), value: T) {
    let mut bytes = [0; 8];
    let width = size_of::<T>();
    write(&mut bytes[..width], value);
    out.push(kind);
    out.extend_from_slice(&bytes[..width]);
}
