//! Tables of typed values: message headers, the arguments of a declaration, the properties of a peer.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::iter::FusedIterator;
use std::sync::Arc;
use std::{slice, vec};

use byteorder::{BigEndian, ByteOrder};

use super::field_value::{FieldValue, Form, DECIMAL_MOST, TIMESTAMP_MOST};
use super::short_string::{AsShortString, ShortString};
use super::wire::{Reader, Unsendable, WireError, Writer};

/// How deep tables and arrays may be nested. Each level takes some stack while it is decoded, and the bytes come from
/// anyone who can publish; no sensible table comes near it.
const MAX_DEPTH: usize = 128;

/// How many bytes the length of a table or array takes.
const LENGTH: usize = 4;

/// A table of named values: message headers, `arguments` of declarations, properties of client and server
/// (specification 4.2.5.5; a `dict` in pika).
///
/// Reads like a map. The keys are in the order of their bytes, but a table that came from elsewhere and is not changed is
/// sent as it came, in the order that it came in. A key takes at most 255 bytes; a longer one is refused
/// ([`Error::ShortStringTooLong`](crate::Error::ShortStringTooLong)) when the table is sent.
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
#[derive(Clone, Default)]
pub struct FieldTable(
    /// Tables are passed on much more often than changed, so clones share the fields until one of them is changed. `None` if
    /// there are none.
    Option<Arc<Fields>>,
);

#[derive(Clone, Default)]
struct Fields {
    /// In the order of the keys, each key once. Tables are small, and mostly written or read from end to end.
    sorted: Vec<Field>,
    /// The bytes that this was read from, if the fields stood there in another order, or a key twice. A table that is not
    /// changed is sent as it came.
    came_as: Option<Box<[u8]>>,
}

type Field = (ShortString, FieldValue);

impl FieldTable {
    /// An empty table.
    ///
    /// ```
    /// use haypile::FieldTable;
    ///
    /// const NO_ARGUMENTS: FieldTable = FieldTable::new();
    /// assert!(NO_ARGUMENTS.is_empty());
    /// ```
    pub const fn new() -> Self {
        FieldTable(None)
    }

    /// Of equal keys the last stays. Not inserted one by one: the keys may come in the order that takes longest.
    pub(super) fn from_fields(fields: Vec<Field>) -> Self {
        let mut sorted = fields;
        if !sorted.is_sorted_by(|(one, _), (other, _)| one < other) {
            sorted.sort_by(|(one, _), (other, _)| one.cmp(other));
            // Equal ones stand in the order in which they came.
            sorted.reverse();
            sorted.dedup_by(|(one, _), (other, _)| one == other);
            sorted.reverse();
        }
        let came_as = None;
        FieldTable((!sorted.is_empty()).then(|| Arc::new(Fields { sorted, came_as })))
    }

    fn fields(&self) -> &[Field] {
        self.0.as_ref().map_or(&[], |fields| &fields.sorted)
    }

    fn fields_mut(&mut self) -> &mut Vec<Field> {
        let fields = Arc::make_mut(self.0.get_or_insert_default());
        fields.came_as = None;
        &mut fields.sorted
    }

    /// Where `key` is, or belongs.
    fn find(&self, key: &[u8]) -> Result<usize, usize> {
        self.fields()
            .binary_search_by(|(known, _)| known.as_bytes().cmp(key))
    }

    /// Sets `key` to `value`, and returns the value that it replaces, if any.
    ///
    /// ```
    /// use haypile::{FieldTable, FieldValue};
    ///
    /// let mut headers = FieldTable::new();
    /// assert_eq!(headers.insert("attempt", 1), None);
    /// assert_eq!(headers.insert("attempt", 2), Some(FieldValue::from(1)));
    /// ```
    pub fn insert(
        &mut self,
        key: impl Into<ShortString>,
        value: impl Into<FieldValue>,
    ) -> Option<FieldValue> {
        self.set(key.into(), value.into())
    }

    fn set(&mut self, key: ShortString, value: FieldValue) -> Option<FieldValue> {
        match self.find(key.as_bytes()) {
            Ok(index) => Some(std::mem::replace(&mut self.fields_mut()[index].1, value)),
            Err(index) => {
                self.fields_mut().insert(index, (key, value));
                None
            }
        }
    }

    /// The value of `key`.
    ///
    /// ```
    /// use haypile::{FieldTable, FieldValue};
    ///
    /// let headers = FieldTable::from([("attempt", 2)]);
    /// assert_eq!(headers.get("attempt").and_then(FieldValue::as_i64), Some(2));
    /// assert_eq!(headers.get("x-death"), None);
    /// ```
    pub fn get(&self, key: impl AsShortString) -> Option<&FieldValue> {
        self.find(key.as_short_string())
            .ok()
            .map(|index| &self.fields()[index].1)
    }

    /// The value of `key`, to be changed where it is.
    ///
    /// ```
    /// use haypile::{FieldTable, FieldValue};
    ///
    /// let mut headers = FieldTable::from([("attempt", 2)]);
    /// if let Some(value) = headers.get_mut("attempt") {
    ///     *value = FieldValue::from(3);
    /// }
    /// assert_eq!(headers, FieldTable::from([("attempt", 3)]));
    /// ```
    pub fn get_mut(&mut self, key: impl AsShortString) -> Option<&mut FieldValue> {
        self.find(key.as_short_string())
            .ok()
            .map(|index| &mut self.fields_mut()[index].1)
    }

    /// Whether there is a value for `key`.
    ///
    /// ```
    /// use haypile::FieldTable;
    ///
    /// let headers = FieldTable::from([("attempt", 2)]);
    /// assert!(headers.contains_key("attempt") && !headers.contains_key("Attempt"));
    /// ```
    pub fn contains_key(&self, key: impl AsShortString) -> bool {
        self.find(key.as_short_string()).is_ok()
    }

    /// Takes `key` out of the table, and returns its value.
    ///
    /// ```
    /// use haypile::{FieldTable, FieldValue};
    ///
    /// let mut headers = FieldTable::from([("attempt", 2)]);
    /// assert_eq!(headers.remove("attempt"), Some(FieldValue::from(2)));
    /// assert!(headers.is_empty());
    /// ```
    pub fn remove(&mut self, key: impl AsShortString) -> Option<FieldValue> {
        self.find(key.as_short_string())
            .ok()
            .map(|index| self.fields_mut().remove(index).1)
    }

    /// How many values there are.
    ///
    /// ```
    /// use haypile::FieldTable;
    ///
    /// assert_eq!(FieldTable::from([("a", 1), ("b", 2), ("a", 3)]).len(), 2);
    /// ```
    pub fn len(&self) -> usize {
        self.fields().len()
    }

    /// Whether there are no values.
    ///
    /// ```
    /// use haypile::FieldTable;
    ///
    /// assert!(FieldTable::new().is_empty());
    /// assert!(!FieldTable::from([("attempt", 1)]).is_empty());
    /// ```
    pub fn is_empty(&self) -> bool {
        self.fields().is_empty()
    }

    /// All keys and values, in the order of the keys.
    ///
    /// ```
    /// use haypile::FieldTable;
    ///
    /// let headers = FieldTable::from([("b", 2), ("a", 1)]);
    /// let texts: Vec<_> = headers.iter().map(|(key, value)| format!("{key}={}", value.as_i64().unwrap())).collect();
    /// assert_eq!(texts, ["a=1", "b=2"]);
    /// ```
    pub fn iter(&self) -> Iter<'_> {
        Iter(self.fields().iter())
    }

    /// All keys, in their order.
    ///
    /// ```
    /// use haypile::FieldTable;
    ///
    /// let headers = FieldTable::from([("b", 2), ("a", 1)]);
    /// assert!(headers.keys().eq(["a", "b"]));
    /// ```
    pub fn keys(&self) -> Keys<'_> {
        Keys(self.iter())
    }

    /// Reads a table from what stands behind its length. A key that comes twice has the value that comes last.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        decode_table(bytes, 1)
    }

    /// Appends the length and the fields.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<(), WireError> {
        encode_table(self, out, 1)
    }
}

impl PartialEq for FieldTable {
    fn eq(&self, other: &Self) -> bool {
        self.fields() == other.fields()
    }
}

impl fmt::Debug for FieldTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

impl<K: Into<ShortString>, V: Into<FieldValue>> Extend<(K, V)> for FieldTable {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, fields: I) {
        for (key, value) in fields {
            self.insert(key, value);
        }
    }
}

impl<K: Into<ShortString>, V: Into<FieldValue>> FromIterator<(K, V)> for FieldTable {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(fields: I) -> Self {
        let fields = fields.into_iter();
        let owned = fields.map(|(key, value)| (key.into(), value.into()));
        FieldTable::from_fields(owned.collect())
    }
}

/// A table from what has keys and values, owned or borrowed.
macro_rules! from_fields {
    ($([$($generic:tt)*] $fields:ty;)+) => {$(
        impl<K: Into<ShortString>, V: Into<FieldValue>, $($generic)*> From<$fields> for FieldTable {
            fn from(fields: $fields) -> Self {
                fields.into_iter().collect()
            }
        }

        /// A copy.
        impl<K, V, $($generic)*> From<&$fields> for FieldTable
        where
            K: Clone + Into<ShortString>,
            V: Clone + Into<FieldValue>,
        {
            fn from(fields: &$fields) -> Self {
                let copies = fields.into_iter().map(|field| {
                    let (key, value) = field;
                    (key.clone(), value.clone())
                });
                copies.collect()
            }
        }
    )+};
}

from_fields! {
    [const N: usize] [(K, V); N];
    [] Vec<(K, V)>;
    [] BTreeMap<K, V>;
    [S] HashMap<K, V, S>;
}

/// A copy, which costs nothing until one of the two is changed.
impl From<&FieldTable> for FieldTable {
    fn from(table: &FieldTable) -> Self {
        table.clone()
    }
}

impl IntoIterator for FieldTable {
    type Item = (ShortString, FieldValue);
    type IntoIter = IntoIter;

    fn into_iter(self) -> IntoIter {
        IntoIter(
            self.0
                .map(Arc::unwrap_or_clone)
                .unwrap_or_default()
                .sorted
                .into_iter(),
        )
    }
}

impl<'a> IntoIterator for &'a FieldTable {
    type Item = (&'a ShortString, &'a FieldValue);
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// The keys and values of a [`FieldTable`], in the order of the keys; see [`FieldTable::iter`].
#[derive(Debug, Clone)]
pub struct Iter<'a>(slice::Iter<'a, Field>);

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a ShortString, &'a FieldValue);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|(key, value)| (key, value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl DoubleEndedIterator for Iter<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.0.next_back().map(|(key, value)| (key, value))
    }
}

impl ExactSizeIterator for Iter<'_> {}
impl FusedIterator for Iter<'_> {}

/// The keys of a [`FieldTable`], in their order; see [`FieldTable::keys`].
#[derive(Debug, Clone)]
pub struct Keys<'a>(Iter<'a>);

impl<'a> Iterator for Keys<'a> {
    type Item = &'a ShortString;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|(key, _)| key)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl DoubleEndedIterator for Keys<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.0.next_back().map(|(key, _)| key)
    }
}

impl ExactSizeIterator for Keys<'_> {}
impl FusedIterator for Keys<'_> {}

/// The owned keys and values of a [`FieldTable`], in the order of the keys.
#[derive(Debug)]
pub struct IntoIter(vec::IntoIter<Field>);

impl Iterator for IntoIter {
    type Item = (ShortString, FieldValue);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl DoubleEndedIterator for IntoIter {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.0.next_back()
    }
}

impl ExactSizeIterator for IntoIter {}
impl FusedIterator for IntoIter {}

/// The table among the arguments of a method: the values to be sent, or the bytes where they lie. With this, methods own
/// nothing, and are passed on and dropped without code.
#[derive(Clone, Copy)]
pub(crate) enum Table<'a> {
    Values(&'a FieldTable),
    Bytes(&'a [u8]),
}

impl Table<'_> {
    pub(crate) fn values(self) -> Result<FieldTable, WireError> {
        match self {
            Table::Values(table) => Ok(table.clone()),
            Table::Bytes(bytes) => FieldTable::decode(bytes),
        }
    }
}

impl<'a> From<&'a FieldTable> for Table<'a> {
    fn from(table: &'a FieldTable) -> Self {
        Table::Values(table)
    }
}

impl fmt::Debug for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.values() {
            Ok(table) => fmt::Debug::fmt(&table, f),
            Err(error) => write!(f, "({error})"),
        }
    }
}

impl PartialEq for Table<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.values() == other.values()
    }
}

impl<'a> Reader<'a> {
    pub(crate) fn table(&mut self) -> FieldTable {
        FieldTable::decode(self.block()).unwrap_or_else(|error| {
            self.fail(error);
            FieldTable::new()
        })
    }

    /// A table that is left where it lies; its bytes are checked.
    pub(crate) fn table_bytes(&mut self) -> Table<'a> {
        let bytes = self.block();
        if let Err(error) = FieldTable::decode(bytes) {
            self.fail(error);
        }
        Table::Bytes(bytes)
    }
}

impl Writer<'_> {
    pub(crate) fn table(&mut self, field: &'static str, value: &FieldTable) {
        self.append(field, |out| value.encode(out));
    }

    pub(crate) fn table_bytes(&mut self, field: &'static str, value: &Table<'_>) {
        match value {
            Table::Values(table) => self.table(field, table),
            Table::Bytes(bytes) => match FieldTable::decode(bytes) {
                Ok(table) => self.table(field, &table),
                Err(error) => self.fail(error),
            },
        }
    }
}

fn decode_table(bytes: &[u8], depth: usize) -> Result<FieldTable, WireError> {
    if depth > MAX_DEPTH {
        return Err(WireError::NestedTooDeeply);
    }
    let mut reader = Reader::new(bytes);
    let mut fields: Vec<Field> = Vec::new();
    let mut in_order = true;
    while !reader.is_empty() {
        let key = reader.shortstr().to_short_string();
        let value = decode_value(&mut reader, depth);
        in_order &= fields.last().is_none_or(|(last, _)| *last < key);
        fields.push((key, value));
    }
    reader.finish("table")?;
    let mut table = FieldTable::from_fields(fields);
    if let Some(fields) = table.0.as_mut().filter(|_| !in_order) {
        Arc::make_mut(fields).came_as = Some(bytes.into());
    }
    Ok(table)
}

fn decode_array(bytes: &[u8], depth: usize) -> Result<Vec<FieldValue>, WireError> {
    if depth > MAX_DEPTH {
        return Err(WireError::NestedTooDeeply);
    }
    let mut reader = Reader::new(bytes);
    let mut values = Vec::new();
    while !reader.is_empty() {
        values.push(decode_value(&mut reader, depth));
    }
    reader.finish("array").map(|()| values)
}

fn decode_value(reader: &mut Reader<'_>, depth: usize) -> FieldValue {
    match reader.octet() {
        b't' => match reader.octet() {
            octet @ 0..=1 => FieldValue::Bool(octet == 1),
            octet => Form::Bool(octet).into(),
        },
        b'b' => FieldValue::I8(reader.octet() as i8),
        b'B' => FieldValue::U8(reader.octet()),
        b's' => FieldValue::I16(reader.short() as i16),
        b'u' => FieldValue::U16(reader.short()),
        b'I' => FieldValue::I32(reader.long() as i32),
        b'i' => FieldValue::U32(reader.long()),
        b'l' => FieldValue::I64(reader.longlong() as i64),
        b'L' => Form::Long(reader.longlong()).into(),
        b'f' => FieldValue::F32(f32::from_bits(reader.long())),
        b'd' => FieldValue::F64(f64::from_bits(reader.longlong())),
        b'D' => match (reader.octet(), reader.long()) {
            (scale, value) if value > DECIMAL_MOST => Form::Decimal { scale, value }.into(),
            (scale, value) => FieldValue::Decimal { scale, value },
        },
        b'S' => FieldValue::Text(reader.block().to_vec()),
        b'x' => FieldValue::Bytes(reader.block().to_vec()),
        b'T' => match reader.longlong() {
            seconds if seconds > TIMESTAMP_MOST => Form::Timestamp(seconds).into(),
            seconds => FieldValue::Timestamp(seconds),
        },
        b'V' => FieldValue::Void,
        b'A' => {
            let values = decode_array(reader.block(), depth + 1);
            or_fail(reader, values.map(FieldValue::Array))
        }
        b'F' => {
            let table = decode_table(reader.block(), depth + 1);
            or_fail(reader, table.map(FieldValue::Table))
        }
        other => or_fail(reader, Err(WireError::UnknownFieldType(other))),
    }
}

fn or_fail(reader: &mut Reader<'_>, value: Result<FieldValue, WireError>) -> FieldValue {
    value.unwrap_or_else(|error| {
        reader.fail(error);
        FieldValue::Void
    })
}

fn encode_table(table: &FieldTable, out: &mut Vec<u8>, depth: usize) -> Result<(), WireError> {
    let start = begin_sized(out, depth)?;
    for (key, value) in table {
        let mut writer = Writer::new(out);
        writer.shortstr("table key", key.as_bytes());
        writer.finish()?;
        if let Err(error) = encode_value(value, out, depth) {
            return Err(error.inside(format_args!("[{key:?}]")));
        }
    }
    // The fields were written even so: that is what checks them.
    if let Some(bytes) = table
        .0
        .as_ref()
        .and_then(|fields| fields.came_as.as_deref())
    {
        out.truncate(start);
        out.extend_from_slice(bytes);
    }
    end_sized(out, start, "table")
}

fn encode_array(values: &[FieldValue], out: &mut Vec<u8>, depth: usize) -> Result<(), WireError> {
    let start = begin_sized(out, depth)?;
    for (index, value) in values.iter().enumerate() {
        if let Err(error) = encode_value(value, out, depth) {
            return Err(error.inside(format_args!("[{index}]")));
        }
    }
    end_sized(out, start, "array")
}

/// Makes room for the length of a table or array, unless it is nested too deeply; returns where the content begins.
fn begin_sized(out: &mut Vec<u8>, depth: usize) -> Result<usize, WireError> {
    if depth > MAX_DEPTH {
        return Err(WireError::NestedTooDeeply);
    }
    out.extend_from_slice(&[0; LENGTH]);
    Ok(out.len())
}

/// Fills in the length of what was appended since `begin_sized`.
fn end_sized(out: &mut [u8], start: usize, field: &'static str) -> Result<(), WireError> {
    let length = out.len() - start;
    let prefix =
        u32::try_from(length).map_err(|_| WireError::LongStringTooLong { field, length })?;
    BigEndian::write_u32(&mut out[start - LENGTH..start], prefix);
    Ok(())
}

fn encode_value(value: &FieldValue, out: &mut Vec<u8>, depth: usize) -> Result<(), WireError> {
    // Of a number the type octet, its width, and its bits; of a negative one those of its own width are kept.
    let (kind, width, bits) = match value {
        FieldValue::Bool(value) => (b't', 1, u64::from(*value)),
        FieldValue::I8(value) => (b'b', 1, *value as u64),
        FieldValue::U8(value) => (b'B', 1, u64::from(*value)),
        FieldValue::I16(value) => (b's', 2, *value as u64),
        FieldValue::U16(value) => (b'u', 2, u64::from(*value)),
        FieldValue::I32(value) => (b'I', 4, *value as u64),
        FieldValue::U32(value) => (b'i', 4, u64::from(*value)),
        FieldValue::I64(value) => (b'l', 8, *value as u64),
        FieldValue::U64(value) if i64::try_from(*value).is_ok() => (b'l', 8, *value),
        FieldValue::U64(value) => {
            let expected = "whole numbers up to 9223372036854775807 are expected, since clients read larger ones differently";
            return Err(unsendable(value, expected));
        }
        FieldValue::Timestamp(value) => (b'T', 8, sendable_timestamp(*value)?),
        FieldValue::F32(value) if value.is_finite() => (b'f', 4, u64::from(value.to_bits())),
        FieldValue::F64(value) if value.is_finite() => (b'd', 8, value.to_bits()),
        FieldValue::F32(value) => return Err(not_finite((*value).into())),
        FieldValue::F64(value) => return Err(not_finite(*value)),
        FieldValue::Decimal { value, .. } if *value > DECIMAL_MOST => {
            let expected = "decimals with digits up to 2147483647 are expected, since clients read larger ones differently";
            return Err(unsendable(value, expected));
        }
        FieldValue::Decimal { scale, value } => (b'D', 5, decimal_bits(*scale, *value)),
        FieldValue::Received(number) => match number.0 {
            Form::Bool(octet) => (b't', 1, octet.into()),
            Form::Long(value) => (b'L', 8, value),
            Form::Timestamp(seconds) => (b'T', 8, seconds),
            Form::Decimal { scale, value } => (b'D', 5, decimal_bits(scale, value)),
        },
        FieldValue::Void => (b'V', 0, 0),
        FieldValue::Text(bytes) => return text(out, b'S', "text", bytes),
        FieldValue::Bytes(bytes) => return text(out, b'x', "byte array", bytes),
        FieldValue::Array(values) => {
            out.push(b'A');
            return encode_array(values, out, depth + 1);
        }
        FieldValue::Table(table) => {
            out.push(b'F');
            return encode_table(table, out, depth + 1);
        }
    };
    out.push(kind);
    out.extend_from_slice(&bits.to_be_bytes()[8 - width..]);
    Ok(())
}

#[cold]
fn not_finite(value: f64) -> WireError {
    let value = match value {
        f64::INFINITY => "inf",
        f64::NEG_INFINITY => "-inf",
        _ => "NaN",
    };
    let expected = "finite numbers are expected, since brokers close the connection over others";
    unsendable(&value, expected)
}

fn decimal_bits(scale: u8, value: u32) -> u64 {
    u64::from(scale) << 32 | u64::from(value)
}

/// A number of seconds that every client can read as a time.
pub(super) fn sendable_timestamp(seconds: u64) -> Result<u64, WireError> {
    if seconds <= TIMESTAMP_MOST {
        return Ok(seconds);
    }
    let expected = "seconds from 1970 to 9999 are expected (not milliseconds)";
    match i64::try_from(seconds) {
        Ok(_) => Err(unsendable(&seconds, expected)),
        // A time before 1970.
        Err(_) => Err(unsendable(&(seconds as i64), expected)),
    }
}

#[cold]
pub(super) fn unsendable(value: &dyn fmt::Display, expected: &'static str) -> WireError {
    WireError::Unsendable(Box::new(Unsendable {
        field: String::new(),
        value: value.to_string(),
        expected,
    }))
}

/// The type octet, and the bytes behind their length.
fn text(out: &mut Vec<u8>, kind: u8, field: &'static str, bytes: &[u8]) -> Result<(), WireError> {
    out.push(kind);
    let mut writer = Writer::new(out);
    writer.longstr(field, bytes);
    writer.finish()
}
