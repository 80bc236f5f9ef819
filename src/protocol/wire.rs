//! The elementary types of the wire (specification 4.2.5): a reader over borrowed bytes, a writer into a buffer.
//!
//! The methods are named after the specification's types, so that the table in `method.rs` can name them.

use std::fmt;
use std::ops::Deref;

use byteorder::{BigEndian, ByteOrder};

use super::short_string::ShortString;
use crate::escaped::Shown;

/// The most bytes a short string can have (specification 4.2.5.3).
pub(crate) const SHORT_STRING_MAX: usize = 255;

/// Bytes that are not AMQP 0-9-1, or a value that AMQP 0-9-1 has no bytes for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WireError {
    /// A name, key or property is longer than the 255 bytes that a short string can hold (pika: `ShortStringTooLong`).
    #[error("{field} is {length} bytes long, but at most 255 bytes can be sent")]
    ShortStringTooLong {
        /// Which argument or property, by its name in this crate; `table key` for the key of a table.
        field: &'static str,
        /// Its length in bytes.
        length: usize,
    },
    /// A text, byte array, array or table is longer than the 4 GiB that a length on the wire can say.
    #[error("{field} is {length} bytes long, but at most 4294967295 bytes can be sent")]
    LongStringTooLong {
        /// Which argument, or `table`, `array`, `text`, `byte array`.
        field: &'static str,
        /// Its length in bytes.
        length: usize,
    },
    /// The data end before the value does.
    #[error("data end in the middle of {field}")]
    Truncated {
        /// What was being read, such as `queue.declare-ok`.
        field: &'static str,
    },
    /// There are more data than the value accounts for.
    #[error("{count} bytes left over at the end of {what}")]
    TrailingBytes {
        /// What was being read, such as `queue.declare-ok`.
        what: &'static str,
        /// How many bytes are left.
        count: usize,
    },
    /// A method that AMQP 0-9-1 and RabbitMQ's extensions do not have.
    #[error("unknown method {method} of class {class}")]
    UnknownMethod {
        /// The class id.
        class: u16,
        /// The method id.
        method: u16,
    },
    /// A frame of a type that AMQP 0-9-1 does not have.
    #[error("unknown frame type {0}")]
    UnknownFrameType(u8),
    /// A frame that does not end with the octet 0xCE.
    #[error("frame ends with octet {0:#04x} instead of 0xce")]
    BadFrameEnd(u8),
    /// A frame is larger than the negotiated `frame_max`.
    #[error("frame of {size} bytes, but the negotiated frame_max is {max}")]
    FrameTooLarge {
        /// The size of the whole frame, in bytes.
        size: u64,
        /// The negotiated `frame_max`, in bytes.
        max: u32,
    },
    /// A heartbeat on a channel other than 0 (specification 4.2.7).
    #[error("heartbeat on channel {0}")]
    HeartbeatOnChannel(u16),
    /// A table holds a value of a type that RabbitMQ does not have.
    #[error("unknown field type {0:#04x} in a table")]
    UnknownFieldType(u8),
    /// Tables and arrays are nested more than 128 levels deep.
    #[error("tables and arrays are nested more than 128 levels deep")]
    NestedTooDeeply,
    /// A value of the program's own that brokers would close the connection over, or that other clients could not read.
    #[error("{0}")]
    Unsendable(Box<Unsendable>),
    /// A content header announces properties that AMQP 0-9-1 does not have.
    #[error("content header with unknown properties, flags {0:#06x}")]
    UnknownProperties(u16),
    /// A content header of a class other than `basic`.
    #[error("content header of class {0} instead of 60")]
    WrongContentClass(u16),
}

/// A value that cannot be sent; see [`WireError::Unsendable`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value}; {expected}")]
pub(crate) struct Unsendable {
    /// Which property or argument, such as `headers["when"][0]`.
    pub(crate) field: String,
    pub(crate) value: String,
    /// What would be sent.
    pub(crate) expected: &'static str,
}

impl WireError {
    #[cold]
    pub(super) fn not_utf8(field: &str, value: &[u8]) -> Self {
        WireError::Unsendable(Box::new(Unsendable {
            field: field.to_owned(),
            value: format!("{:?}", Shown(value)),
            expected: "UTF-8 is expected, since brokers close the connection over other bytes here",
        }))
    }

    /// The same, seen from around the value: `outer` is put before the name of what cannot be sent.
    #[cold]
    pub(crate) fn inside(mut self, outer: fmt::Arguments<'_>) -> Self {
        if let WireError::Unsendable(value) = &mut self {
            value.field.insert_str(0, &fmt::format(outer));
        }
        self
    }
}

/// A short string (specification 4.2.5.3) where it lies: to a [`ShortString`] what `str` is to `String`. It may hold any
/// bytes.
#[derive(Clone, Copy, Default, PartialEq)]
pub(crate) struct ShortStr<'a>(&'a [u8]);

/// A text like any text, and anything else as a byte string.
impl fmt::Debug for ShortStr<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_short_string(), f)
    }
}

impl<'a> From<&'a str> for ShortStr<'a> {
    fn from(text: &'a str) -> Self {
        ShortStr(text.as_bytes())
    }
}

impl<'a> From<&'a String> for ShortStr<'a> {
    fn from(text: &'a String) -> Self {
        ShortStr(text.as_bytes())
    }
}

impl<'a> From<&'a ShortString> for ShortStr<'a> {
    fn from(text: &'a ShortString) -> Self {
        ShortStr(text.as_bytes())
    }
}

impl<'a> From<&'a [u8]> for ShortStr<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        ShortStr(bytes)
    }
}

impl Deref for ShortStr<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0
    }
}

impl ShortStr<'_> {
    /// The short string at the front of some bytes, and what follows it.
    #[inline]
    pub(crate) fn first(bytes: &[u8]) -> Option<(ShortStr<'_>, &[u8])> {
        let (length, rest) = bytes.split_first()?;
        let (text, rest) = rest.split_at_checked(usize::from(*length))?;
        Some((ShortStr(text), rest))
    }

    /// For what the program may pass on: every byte is kept.
    pub(crate) fn to_short_string(self) -> ShortString {
        // Often it is the name of the default exchange.
        if self.0.is_empty() {
            return ShortString::default();
        }
        self.0.into()
    }

    /// For what is only read, and for this program's own names: what is not UTF-8 is replaced by U+FFFD.
    pub(crate) fn to_text(self) -> String {
        match std::str::from_utf8(self.0) {
            Ok(text) => text.to_owned(),
            Err(_) => String::from_utf8_lossy(self.0).into_owned(),
        }
    }
}

/// Reads wire types off the front of a byte slice.
///
/// The first error is kept for `finish`; whatever is read after it is zero or empty, so that the caller need not look in
/// between. `basic.deliver`, which must be read fast, does without a `Reader` where nothing is wrong with it.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    /// The octet that the next bit is in, if consecutive bits have begun one.
    bits: u8,
    /// The next bit's value in that octet; 0 when a new octet must be read.
    next_bit: u8,
    /// The data ended too early.
    ended: bool,
    error: Option<WireError>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Reader {
            rest: bytes,
            bits: 0,
            next_bit: 0,
            ended: false,
            error: None,
        }
    }

    /// Whether everything has been read, or an error came.
    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Whether `finish` will find nothing wrong.
    pub(crate) fn is_done(&self) -> bool {
        self.rest.is_empty() && !self.ended && self.error.is_none()
    }

    /// Checks that there was no error and that all of `what` has been read.
    pub(crate) fn finish(&mut self, what: &'static str) -> Result<(), WireError> {
        match (self.error.take(), self.rest.len()) {
            (Some(error), _) => Err(error),
            (None, _) if self.ended => Err(WireError::Truncated { field: what }),
            (None, 0) => Ok(()),
            (None, count) => Err(WireError::TrailingBytes { what, count }),
        }
    }

    /// Notes an error, unless there was one before; nothing more is read.
    #[cold]
    pub(crate) fn fail(&mut self, error: WireError) {
        if !self.ended {
            self.error.get_or_insert(error);
        }
        self.rest = &[];
    }

    /// There is less than what is to be read.
    #[cold]
    fn end(&mut self) {
        self.ended = true;
        self.rest = &[];
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> [u8; N] {
        self.next_bit = 0;
        match self.rest.split_first_chunk() {
            Some((taken, rest)) => {
                self.rest = rest;
                *taken
            }
            None => {
                self.end();
                [0; N]
            }
        }
    }

    pub(crate) fn octet(&mut self) -> u8 {
        let [octet] = self.array();
        octet
    }

    pub(crate) fn short(&mut self) -> u16 {
        BigEndian::read_u16(&self.array::<2>())
    }

    pub(crate) fn long(&mut self) -> u32 {
        BigEndian::read_u32(&self.array::<4>())
    }

    pub(crate) fn longlong(&mut self) -> u64 {
        BigEndian::read_u64(&self.array::<8>())
    }

    /// One bit. Bits that follow each other share an octet, lowest first (specification 4.2.5.2).
    pub(crate) fn bit(&mut self) -> bool {
        if self.next_bit == 0 {
            self.bits = self.octet();
            self.next_bit = 1;
        }
        let bit = self.bits & self.next_bit != 0;
        self.next_bit <<= 1;
        bit
    }

    pub(crate) fn shortstr(&mut self) -> ShortStr<'a> {
        self.next_bit = 0;
        match ShortStr::first(self.rest) {
            Some((name, rest)) => {
                self.rest = rest;
                name
            }
            None => {
                self.end();
                ShortStr(&[])
            }
        }
    }

    pub(crate) fn longstr(&mut self) -> &'a [u8] {
        self.block()
    }

    /// Bytes behind a length of four octets.
    pub(crate) fn block(&mut self) -> &'a [u8] {
        // A length that an usize cannot hold is certainly more than there is.
        let length = BigEndian::read_u32(&self.array::<4>());
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        match self.rest.split_at_checked(length) {
            Some((block, rest)) => {
                self.rest = rest;
                block
            }
            None => {
                self.end();
                &[]
            }
        }
    }
}

/// Appends wire types to a buffer.
///
/// Every method takes the name of what is written, for the error. The first error is kept for `finish`.
#[derive(Debug)]
pub(crate) struct Writer<'b> {
    out: &'b mut Vec<u8>,
    /// The next bit's value in the last octet; 0 when a new octet must be begun.
    next_bit: u8,
    error: Option<WireError>,
}

impl<'b> Writer<'b> {
    pub(crate) fn new(out: &'b mut Vec<u8>) -> Self {
        Writer {
            out,
            next_bit: 0,
            error: None,
        }
    }

    /// After an error, part of what was to be written may stand in the buffer.
    pub(crate) fn finish(self) -> Result<(), WireError> {
        self.error.map_or(Ok(()), Err)
    }

    #[cold]
    pub(super) fn fail(&mut self, error: WireError) {
        self.error.get_or_insert(error);
    }

    /// Appends what `write` does.
    pub(super) fn append(
        &mut self,
        field: &'static str,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), WireError>,
    ) {
        self.next_bit = 0;
        if let Err(error) = write(self.out) {
            self.fail(error.inside(format_args!("{field}")));
        }
    }

    #[inline]
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.next_bit = 0;
        self.out.extend_from_slice(bytes);
    }

    pub(crate) fn octet(&mut self, _field: &'static str, value: &u8) {
        self.next_bit = 0;
        self.out.push(*value);
    }

    pub(crate) fn short(&mut self, _field: &'static str, value: &u16) {
        let mut bytes = [0; 2];
        BigEndian::write_u16(&mut bytes, *value);
        self.bytes(&bytes);
    }

    pub(crate) fn long(&mut self, _field: &'static str, value: &u32) {
        let mut bytes = [0; 4];
        BigEndian::write_u32(&mut bytes, *value);
        self.bytes(&bytes);
    }

    pub(crate) fn longlong(&mut self, _field: &'static str, value: &u64) {
        let mut bytes = [0; 8];
        BigEndian::write_u64(&mut bytes, *value);
        self.bytes(&bytes);
    }

    pub(crate) fn bit(&mut self, _field: &'static str, value: &bool) {
        self.put_bit(*value);
    }

    fn put_bit(&mut self, value: bool) {
        let bit = if self.next_bit == 0 {
            self.out.push(0);
            1
        } else {
            self.next_bit
        };
        if value {
            if let Some(octet) = self.out.last_mut() {
                *octet |= bit;
            }
        }
        self.next_bit = bit << 1;
    }

    pub(crate) fn shortstr(&mut self, field: &'static str, value: &[u8]) {
        let length = value.len();
        if length > SHORT_STRING_MAX {
            return self.fail(WireError::ShortStringTooLong { field, length });
        }
        self.next_bit = 0;
        self.out.push(length as u8);
        self.out.extend_from_slice(value);
    }

    pub(crate) fn longstr(&mut self, field: &'static str, value: &[u8]) {
        let length = value.len();
        match u32::try_from(length) {
            Ok(prefix) => {
                self.long(field, &prefix);
                self.bytes(value);
            }
            Err(_) => self.fail(WireError::LongStringTooLong { field, length }),
        }
    }
}
