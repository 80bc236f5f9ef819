//! The values of a table, each with its wire type.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::{Duration, SystemTime};

use super::field_table::FieldTable;
use super::short_string::{AsShortString, ShortString};
use crate::escaped::{Shown, ShownBytes};

/// One value of a [`FieldTable`], with the type that it has on the wire (specification 4.2.5.5, as RabbitMQ reads it).
///
/// Plain Rust values convert with `into()`, each to the wire type of its own width; so do arrays, vectors and maps of them, of which
/// those of `u8` are [`Bytes`](FieldValue::Bytes). The types that Rust has no match for are built by name: [`timestamp`](FieldValue::timestamp), [`decimal`](FieldValue::decimal),
/// [`bytes`](FieldValue::bytes), [`array`](FieldValue::array), [`void`](FieldValue::void). Where the width does not matter, use
/// [`as_i64`](FieldValue::as_i64) and its like.
///
/// ```
/// use haypile::FieldValue;
///
/// assert_eq!(FieldValue::from(7), FieldValue::I32(7));
/// assert_eq!(FieldValue::from(7u8).as_i64(), Some(7));
/// assert_eq!(FieldValue::from("text").as_str(), Some("text"));
/// assert_eq!(FieldValue::from(vec!["a", "b"]), FieldValue::array(["a", "b"]));
/// assert_eq!(FieldValue::from([0xde_u8, 0xad]), FieldValue::bytes([0xde, 0xad]));
/// ```
#[derive(Clone)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
#[non_exhaustive]
pub enum FieldValue {
    /// Boolean, `t`.
    Bool(bool),
    /// Signed 8-bit integer, `b`.
    I8(i8),
    /// Unsigned 8-bit integer, `B`.
    U8(u8),
    /// Signed 16-bit integer, `s`.
    I16(i16),
    /// Unsigned 16-bit integer, `u`.
    U16(u16),
    /// Signed 32-bit integer, `I`.
    I32(i32),
    /// Unsigned 32-bit integer, `i`.
    U32(u32),
    /// Signed 64-bit integer, `l`.
    I64(i64),
    /// Unsigned 64-bit integer. No type on the wire is one for every client, so it is sent as `l`, and refused where that cannot
    /// hold it, above `i64::MAX`.
    U64(u64),
    /// 32-bit IEEE 754 number, `f`. NaN and infinities cannot be sent.
    F32(#[cfg_attr(feature = "serde", serde(with = "super::serialize::float"))] f32),
    /// 64-bit IEEE 754 number, `d`. NaN and infinities cannot be sent.
    F64(#[cfg_attr(feature = "serde", serde(with = "super::serialize::float"))] f64),
    /// The number `value` / 10^`scale`, `D`.
    Decimal {
        /// How many of the value's digits are behind the decimal point.
        scale: u8,
        /// The digits. Some clients read them as signed, so more than `i32::MAX` cannot be sent.
        value: u32,
    },
    /// Text, `S`: usually, but not necessarily, UTF-8; see [`as_str`](FieldValue::as_str).
    Text(#[cfg_attr(feature = "serde", serde(with = "super::serialize::text_or_bytes"))] Vec<u8>),
    /// A sequence of bytes, `x`.
    Bytes(#[cfg_attr(feature = "serde", serde(with = "super::serialize::bytes"))] Vec<u8>),
    /// A sequence of values, `A`.
    Array(Vec<FieldValue>),
    /// Seconds since 1970-01-01 00:00 UTC, `T`. Other clients cannot read a time after the year 9999, as which they would
    /// take milliseconds: it cannot be sent.
    Timestamp(u64),
    /// A table inside the table, `F`.
    Table(FieldTable),
    /// Nothing, `V`.
    Void,
    /// A number that came in a form in which it is not sent from here; it goes on unchanged.
    Received(ReceivedNumber),
}

/// A number as another client sent it, in a form that not every client can read, so that a program cannot make one: an `L`,
/// a time after the year 9999, a decimal of more than `i32::MAX`.
///
/// It is read through [`FieldValue::as_u64`] and its like, equals a [`FieldValue`] of the same number, and goes on as it came
/// when it is sent, by itself or within its table, also when it was stored with serde in between.
///
/// ```
/// use haypile::FieldValue;
///
/// /// Seconds, from a time that may have come in milliseconds.
/// fn seconds(time: &FieldValue) -> Option<u64> {
///     match time {
///         FieldValue::Received(_) => Some(time.as_u64()? / 1000),
///         _ => time.as_u64(),
///     }
/// }
/// assert_eq!(seconds(&FieldValue::timestamp(1_700_000_000)), Some(1_700_000_000));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "Form"))]
pub struct ReceivedNumber(pub(super) Form);

#[cfg(feature = "testing")]
impl ReceivedNumber {
    /// The same number as it would be sent from here.
    pub(crate) fn plain(self) -> FieldValue {
        self.0.plain()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
pub(super) enum Form {
    /// `t` with another octet than 0 and 1.
    Bool(u8),
    /// `L`, which some clients write and read as unsigned, others, and RabbitMQ, as signed.
    Long(u64),
    Timestamp(u64),
    Decimal {
        scale: u8,
        value: u32,
    },
}

impl Form {
    /// The value that a program would write for it.
    fn plain(self) -> FieldValue {
        match self {
            Form::Bool(octet) => FieldValue::Bool(octet != 0),
            Form::Long(value) => value.into(),
            Form::Timestamp(seconds) => FieldValue::Timestamp(seconds),
            Form::Decimal { scale, value } => FieldValue::Decimal { scale, value },
        }
    }
}

/// What reading from the wire would not have made is no received number.
#[cfg(feature = "serde")]
impl TryFrom<Form> for ReceivedNumber {
    type Error = &'static str;

    fn try_from(form: Form) -> Result<Self, Self::Error> {
        let is_odd = match form {
            Form::Bool(octet) => octet > 1,
            Form::Long(_) => true,
            Form::Timestamp(seconds) => seconds > TIMESTAMP_MOST,
            Form::Decimal { value, .. } => value > DECIMAL_MOST,
        };
        if !is_odd {
            return Err(
                "a number that FieldValue has a variant of its own for is none of `Received`",
            );
        }
        Ok(ReceivedNumber(form))
    }
}

impl From<Form> for FieldValue {
    fn from(form: Form) -> Self {
        FieldValue::Received(ReceivedNumber(form))
    }
}

/// The last second of the year 9999, and of the times that every client can read.
pub(super) const TIMESTAMP_MOST: u64 = 253_402_300_799;

/// The most that every client can read as the digits of a decimal.
pub(super) const DECIMAL_MOST: u32 = i32::MAX as u32;

impl FieldValue {
    /// A time, in seconds since 1970-01-01 00:00 UTC (`datetime` in pika); a [`SystemTime`] converts with `into()`.
    ///
    /// A time after the year 9999, such as one in milliseconds, is refused when it is to be sent
    /// ([`Error::InvalidParameter`](crate::Error::InvalidParameter)).
    ///
    /// ```
    /// use haypile::FieldValue;
    /// use std::time::{Duration, SystemTime};
    ///
    /// assert_eq!(FieldValue::timestamp(0), FieldValue::from(SystemTime::UNIX_EPOCH));
    /// ```
    pub const fn timestamp(seconds: u64) -> Self {
        FieldValue::Timestamp(seconds)
    }

    /// The number `value` / 10^`scale`: `decimal(2, 1999)` is 19.99 (`Decimal` in pika).
    ///
    /// More than `i32::MAX` is refused when it is to be sent ([`Error::InvalidParameter`](crate::Error::InvalidParameter)).
    ///
    /// ```
    /// use haypile::FieldValue;
    ///
    /// let price = FieldValue::decimal(2, 1999); // 19.99
    /// assert_eq!(price.as_decimal(), Some((2, 1999)));
    /// ```
    pub const fn decimal(scale: u8, value: u32) -> Self {
        FieldValue::Decimal { scale, value }
    }

    /// A sequence of bytes that is not text (`bytes` in pika).
    ///
    /// ```
    /// use haypile::FieldValue;
    ///
    /// let digest = FieldValue::bytes([0xde, 0xad]);
    /// assert_eq!(digest.as_bytes(), Some(&[0xde, 0xad][..]));
    /// assert_ne!(FieldValue::bytes("text"), FieldValue::from("text"));
    /// ```
    pub fn bytes(bytes: impl Into<Vec<u8>>) -> Self {
        FieldValue::Bytes(bytes.into())
    }

    /// A sequence of values (`list` in pika).
    ///
    /// ```
    /// use haypile::FieldValue;
    ///
    /// let hosts = FieldValue::array(["a", "b"]);
    /// assert_eq!(hosts.as_array().map(<[FieldValue]>::len), Some(2));
    /// ```
    pub fn array<V: Into<FieldValue>>(values: impl IntoIterator<Item = V>) -> Self {
        FieldValue::Array(values.into_iter().map(Into::into).collect())
    }

    /// No value (`None` in pika).
    ///
    /// ```
    /// use haypile::{FieldTable, FieldValue};
    ///
    /// let headers = FieldTable::from([("parent", FieldValue::void())]);
    /// assert_eq!(headers.get("parent"), Some(&FieldValue::Void));
    /// ```
    pub const fn void() -> Self {
        FieldValue::Void
    }

    /// The text, if this is text and UTF-8.
    ///
    /// ```
    /// use haypile::FieldValue;
    ///
    /// assert_eq!(FieldValue::from("text").as_str(), Some("text"));
    /// assert_eq!(FieldValue::bytes("text").as_str(), None);
    /// ```
    pub fn as_str(&self) -> Option<&str> {
        match self {
            FieldValue::Text(text) => std::str::from_utf8(text).ok(),
            _ => None,
        }
    }

    /// The bytes of a text (of any encoding) or of a sequence of bytes.
    ///
    /// ```
    /// use haypile::FieldValue;
    ///
    /// assert_eq!(FieldValue::from("text").as_bytes(), Some(&b"text"[..]));
    /// assert_eq!(FieldValue::bytes("text").as_bytes(), Some(&b"text"[..]));
    /// ```
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            FieldValue::Text(bytes) | FieldValue::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The boolean.
    ///
    /// ```
    /// use haypile::FieldValue;
    ///
    /// assert_eq!(FieldValue::from(true).as_bool(), Some(true));
    /// assert_eq!(FieldValue::from(1).as_bool(), None);
    /// ```
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            FieldValue::Bool(value) => Some(*value),
            FieldValue::Received(ReceivedNumber(Form::Bool(octet))) => Some(*octet != 0),
            _ => None,
        }
    }

    /// The number, if this is an integer of any width, or a time, that an `i64` can hold. An `L` is read as signed here, as
    /// RabbitMQ does.
    ///
    /// ```
    /// use haypile::FieldValue;
    ///
    /// assert_eq!(FieldValue::from(-7i16).as_i64(), Some(-7));
    /// assert_eq!(FieldValue::from(u64::MAX).as_i64(), None);
    /// ```
    pub fn as_i64(&self) -> Option<i64> {
        match *self {
            FieldValue::I8(value) => Some(value.into()),
            FieldValue::U8(value) => Some(value.into()),
            FieldValue::I16(value) => Some(value.into()),
            FieldValue::U16(value) => Some(value.into()),
            FieldValue::I32(value) => Some(value.into()),
            FieldValue::U32(value) => Some(value.into()),
            FieldValue::I64(value) => Some(value),
            FieldValue::Received(ReceivedNumber(Form::Long(value))) => Some(value as i64),
            FieldValue::U64(value)
            | FieldValue::Timestamp(value)
            | FieldValue::Received(ReceivedNumber(Form::Timestamp(value))) => value.try_into().ok(),
            _ => None,
        }
    }

    /// The number, if this is an integer of any width, or a time, and not negative. An `L` is read as unsigned here.
    ///
    /// ```
    /// use haypile::FieldValue;
    ///
    /// assert_eq!(FieldValue::timestamp(1_700_000_000).as_u64(), Some(1_700_000_000));
    /// assert_eq!(FieldValue::from(-7).as_u64(), None);
    /// ```
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            FieldValue::U64(value)
            | FieldValue::Timestamp(value)
            | FieldValue::Received(ReceivedNumber(Form::Long(value) | Form::Timestamp(value))) => {
                Some(value)
            }
            _ => self.as_i64().and_then(|value| value.try_into().ok()),
        }
    }

    /// The number, if this is a floating-point number of either width.
    ///
    /// ```
    /// use haypile::FieldValue;
    ///
    /// assert_eq!(FieldValue::from(0.5f32).as_f64(), Some(0.5));
    /// assert_eq!(FieldValue::from(1).as_f64(), None);
    /// ```
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            FieldValue::F32(value) => Some(value.into()),
            FieldValue::F64(value) => Some(value),
            _ => None,
        }
    }

    /// The scale and the digits of a decimal: 19.99 is `(2, 1999)`.
    ///
    /// ```
    /// use haypile::FieldValue;
    ///
    /// let (scale, value) = FieldValue::decimal(2, 1999).as_decimal().unwrap();
    /// assert_eq!(f64::from(value) / 10f64.powi(scale.into()), 19.99);
    /// ```
    pub fn as_decimal(&self) -> Option<(u8, u32)> {
        match *self {
            FieldValue::Decimal { scale, value }
            | FieldValue::Received(ReceivedNumber(Form::Decimal { scale, value })) => {
                Some((scale, value))
            }
            _ => None,
        }
    }

    /// The value of `key`, if this is a table that has it.
    ///
    /// ```
    /// use haypile::{FieldTable, FieldValue};
    ///
    /// let death = FieldValue::from(FieldTable::from([("count", 3)]));
    /// assert_eq!(death.get("count").and_then(FieldValue::as_i64), Some(3));
    /// assert_eq!(death.get("count").and_then(|count| count.get("x")), None);
    /// ```
    pub fn get(&self, key: impl AsShortString) -> Option<&FieldValue> {
        self.as_table()?.get(key)
    }

    /// The table.
    ///
    /// ```
    /// use haypile::{FieldTable, FieldValue};
    ///
    /// let value = FieldValue::from(FieldTable::from([("count", 3)]));
    /// assert_eq!(value.as_table().map(FieldTable::len), Some(1));
    /// ```
    pub fn as_table(&self) -> Option<&FieldTable> {
        match self {
            FieldValue::Table(table) => Some(table),
            _ => None,
        }
    }

    /// The values of the array.
    ///
    /// ```
    /// use haypile::FieldValue;
    ///
    /// let hosts = FieldValue::array(["a", "b"]);
    /// assert_eq!(hosts.as_array().unwrap()[1].as_str(), Some("b"));
    /// ```
    pub fn as_array(&self) -> Option<&[FieldValue]> {
        match self {
            FieldValue::Array(values) => Some(values),
            _ => None,
        }
    }
}

/// By what it says: a number in a form in which it came equals the same number in another.
impl PartialEq for FieldValue {
    fn eq(&self, other: &Self) -> bool {
        use FieldValue::*;
        match (self, other) {
            (Received(one), other) | (other, Received(one)) => one.0.plain() == *other,
            (Bool(one), Bool(other)) => one == other,
            (I8(one), I8(other)) => one == other,
            (U8(one), U8(other)) => one == other,
            (I16(one), I16(other)) => one == other,
            (U16(one), U16(other)) => one == other,
            (I32(one), I32(other)) => one == other,
            (U32(one), U32(other)) => one == other,
            (I64(one), I64(other)) => one == other,
            (U64(one), U64(other)) => one == other,
            (F32(one), F32(other)) => one == other,
            (F64(one), F64(other)) => one == other,
            (Decimal { .. }, Decimal { .. }) => self.as_decimal() == other.as_decimal(),
            (Text(one), Text(other)) | (Bytes(one), Bytes(other)) => one == other,
            (Array(one), Array(other)) => one == other,
            (Timestamp(one), Timestamp(other)) => one == other,
            (Table(one), Table(other)) => one == other,
            (Void, Void) => true,
            _ => false,
        }
    }
}

/// Like a derived one, but text reads as text and bytes as a byte string, and what is long is cut.
impl fmt::Debug for FieldValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FieldValue::Bool(value) => f.debug_tuple("Bool").field(value).finish(),
            FieldValue::I8(value) => f.debug_tuple("I8").field(value).finish(),
            FieldValue::U8(value) => f.debug_tuple("U8").field(value).finish(),
            FieldValue::I16(value) => f.debug_tuple("I16").field(value).finish(),
            FieldValue::U16(value) => f.debug_tuple("U16").field(value).finish(),
            FieldValue::I32(value) => f.debug_tuple("I32").field(value).finish(),
            FieldValue::U32(value) => f.debug_tuple("U32").field(value).finish(),
            FieldValue::I64(value) => f.debug_tuple("I64").field(value).finish(),
            FieldValue::U64(value) => f.debug_tuple("U64").field(value).finish(),
            FieldValue::F32(value) => f.debug_tuple("F32").field(value).finish(),
            FieldValue::F64(value) => f.debug_tuple("F64").field(value).finish(),
            FieldValue::Decimal { scale, value } => {
                let mut decimal = f.debug_struct("Decimal");
                decimal.field("scale", scale).field("value", value).finish()
            }
            FieldValue::Text(bytes) => f.debug_tuple("Text").field(&Shown(bytes)).finish(),
            FieldValue::Bytes(bytes) => f.debug_tuple("Bytes").field(&ShownBytes(bytes)).finish(),
            FieldValue::Array(values) => f.debug_tuple("Array").field(values).finish(),
            FieldValue::Timestamp(seconds) => f.debug_tuple("Timestamp").field(seconds).finish(),
            FieldValue::Table(table) => f.debug_tuple("Table").field(table).finish(),
            FieldValue::Void => f.write_str("Void"),
            FieldValue::Received(number) => f.debug_tuple("Received").field(&number.0).finish(),
        }
    }
}

macro_rules! from {
    ($($rust:ty => $variant:ident,)+) => {$(
        impl From<$rust> for FieldValue {
            fn from(value: $rust) -> Self {
                FieldValue::$variant(value.into())
            }
        }
    )+};
}

from! {
    bool => Bool,
    i8 => I8,
    u8 => U8,
    i16 => I16,
    u16 => U16,
    i32 => I32,
    u32 => U32,
    i64 => I64,
    f32 => F32,
    f64 => F64,
    &str => Text,
    String => Text,
    &[u8] => Bytes,
    Vec<u8> => Bytes,
    Vec<FieldValue> => Array,
    FieldTable => Table,
    &FieldTable => Table,
    ShortString => Text,
}

/// A `Vec` of bytes is [`Bytes`](FieldValue::Bytes), and one of anything else is an array.
macro_rules! arrays {
    ($($item:ty),+ $(,)?) => {$(
        impl From<Vec<$item>> for FieldValue {
            fn from(values: Vec<$item>) -> Self {
                FieldValue::array(values)
            }
        }

        impl<const N: usize> From<[$item; N]> for FieldValue {
            fn from(values: [$item; N]) -> Self {
                FieldValue::array(values)
            }
        }
    )+};
}

arrays!(bool, i8, i16, u16, i32, u32, i64, u64, f32, f64, &str, String, FieldTable);

impl<const N: usize> From<[FieldValue; N]> for FieldValue {
    fn from(values: [FieldValue; N]) -> Self {
        FieldValue::Array(values.into())
    }
}

impl<const N: usize> From<[u8; N]> for FieldValue {
    fn from(bytes: [u8; N]) -> Self {
        FieldValue::Bytes(bytes.into())
    }
}

impl<K: Into<ShortString>, V: Into<FieldValue>> From<BTreeMap<K, V>> for FieldValue {
    fn from(fields: BTreeMap<K, V>) -> Self {
        FieldValue::Table(fields.into())
    }
}

impl<K: Into<ShortString>, V: Into<FieldValue>, S> From<HashMap<K, V, S>> for FieldValue {
    fn from(fields: HashMap<K, V, S>) -> Self {
        FieldValue::Table(fields.into())
    }
}

/// Every byte of it.
impl From<&ShortString> for FieldValue {
    fn from(text: &ShortString) -> Self {
        text.clone().into()
    }
}

/// A copy, so that a table can be extended by another.
impl From<&FieldValue> for FieldValue {
    fn from(value: &FieldValue) -> Self {
        value.clone()
    }
}

impl From<&String> for FieldValue {
    fn from(value: &String) -> Self {
        value.as_str().into()
    }
}

impl From<Cow<'_, str>> for FieldValue {
    fn from(value: Cow<'_, str>) -> Self {
        value.into_owned().into()
    }
}

/// A signed 64-bit integer where that can hold the number. A larger one is refused when it is to be sent
/// ([`Error::InvalidParameter`](crate::Error::InvalidParameter)): there is no type that every client would read it from.
impl From<u64> for FieldValue {
    fn from(value: u64) -> Self {
        match i64::try_from(value) {
            Ok(value) => FieldValue::I64(value),
            Err(_) => FieldValue::U64(value),
        }
    }
}

/// A timestamp, to the second. A time before 1970 is refused when it is to be sent
/// ([`Error::InvalidParameter`](crate::Error::InvalidParameter)).
impl From<SystemTime> for FieldValue {
    fn from(time: SystemTime) -> Self {
        FieldValue::Timestamp(seconds_since_1970(time))
    }
}

/// Milliseconds, as RabbitMQ counts them in `x-message-ttl`, `x-expires` and the like; a part of one counts as a whole one. One
/// that no number of theirs can hold is refused when it is to be sent ([`Error::InvalidParameter`](crate::Error::InvalidParameter)).
///
/// ```
/// use haypile::{FieldValue, QueueDeclare};
/// use std::time::Duration;
///
/// assert_eq!(FieldValue::from(Duration::from_secs(60)), FieldValue::I64(60_000));
/// let short_lived = QueueDeclare::new("q").argument("x-message-ttl", Duration::from_secs(60));
/// ```
impl From<Duration> for FieldValue {
    fn from(duration: Duration) -> Self {
        let milliseconds = duration.as_nanos().div_ceil(1_000_000);
        match i64::try_from(milliseconds) {
            Ok(milliseconds) => FieldValue::I64(milliseconds),
            Err(_) => FieldValue::U64(u64::MAX),
        }
    }
}

/// A time before 1970 becomes a number that is refused when it is to be sent.
pub(super) fn seconds_since_1970(time: SystemTime) -> u64 {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => since.as_secs(),
        Err(before) => {
            let before = before.duration();
            let seconds = before.as_secs() + u64::from(before.subsec_nanos() > 0);
            seconds.wrapping_neg()
        }
    }
}

/// As from `u64`.
impl From<usize> for FieldValue {
    fn from(value: usize) -> Self {
        (value as u64).into()
    }
}
