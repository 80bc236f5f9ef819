//! The elementary types of the wire (specification 4.2.5): a reader over borrowed bytes, a writer into a buffer.
//!
//! The methods are named after the specification's types, so that the table in `method.rs` can name them.

use std::borrow::Cow;

use byteorder::{BigEndian, ByteOrder};

use super::field_table::FieldTable;

/// The most bytes a short string can have (specification 4.2.5.3).
pub(crate) const SHORT_STRING_MAX: usize = 255;

/// Bytes that are not AMQP 0-9-1, or a value that AMQP 0-9-1 has no bytes for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SyntaxError {
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
        /// What was being read.
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
    /// A table is larger than a frame (tables cannot be split over frames).
    #[error("table makes a frame of {size} bytes, but the negotiated frame_max is {max}")]
    TableTooLarge {
        /// The size that the frame would have, in bytes.
        size: usize,
        /// The negotiated `frame_max`, in bytes.
        max: u32,
    },
    /// Tables and arrays are nested more than 128 levels deep.
    #[error("tables and arrays are nested more than 128 levels deep")]
    NestedTooDeeply,
    /// NaN or an infinity is to be sent in a table: brokers close the connection over them.
    #[error("a number in a table is NaN or infinite, which brokers refuse")]
    NotFinite,
    /// A content header announces properties that AMQP 0-9-1 does not have.
    #[error("content header with unknown properties, flags {0:#06x}")]
    UnknownProperties(u16),
    /// A content header of a class other than `basic`.
    #[error("content header of class {0} instead of 60")]
    WrongContentClass(u16),
}

/// Reads wire types off the front of a byte slice.
///
/// Every method takes the name of what is read, for the error.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    /// The octet that the next bit is in, if consecutive bits have begun one.
    bits: u8,
    /// The next bit's place in that octet; 0 when a new octet must be read.
    next_bit: u8,
}

impl<'a> Reader<'a> {
    #[inline]
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Reader {
            rest: bytes,
            bits: 0,
            next_bit: 0,
        }
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Checks that all has been read.
    #[inline]
    pub(crate) fn finish(&self, what: &'static str) -> Result<(), SyntaxError> {
        match self.rest.len() {
            0 => Ok(()),
            count => Err(SyntaxError::TrailingBytes { what, count }),
        }
    }

    #[inline]
    fn take(&mut self, length: usize, field: &'static str) -> Result<&'a [u8], SyntaxError> {
        self.next_bit = 0;
        match self.rest.split_at_checked(length) {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => Err(SyntaxError::Truncated { field }),
        }
    }

    #[inline]
    pub(crate) fn octet(&mut self, field: &'static str) -> Result<u8, SyntaxError> {
        self.next_bit = 0;
        match self.rest.split_first() {
            Some((first, rest)) => {
                self.rest = rest;
                Ok(*first)
            }
            None => Err(SyntaxError::Truncated { field }),
        }
    }

    #[inline]
    pub(crate) fn short(&mut self, field: &'static str) -> Result<u16, SyntaxError> {
        self.take(2, field).map(BigEndian::read_u16)
    }

    #[inline]
    pub(crate) fn long(&mut self, field: &'static str) -> Result<u32, SyntaxError> {
        self.take(4, field).map(BigEndian::read_u32)
    }

    #[inline]
    pub(crate) fn longlong(&mut self, field: &'static str) -> Result<u64, SyntaxError> {
        self.take(8, field).map(BigEndian::read_u64)
    }

    /// One bit. Bits that follow each other share an octet, lowest first (specification 4.2.5.2).
    #[inline]
    pub(crate) fn bit(&mut self, field: &'static str) -> Result<bool, SyntaxError> {
        if self.next_bit == 0 {
            self.bits = self.octet(field)?;
            self.next_bit = 1;
        }
        let bit = self.bits & self.next_bit != 0;
        self.next_bit <<= 1;
        Ok(bit)
    }

    /// A short string. What is not UTF-8 is replaced by U+FFFD: names are text, and nothing else makes use of them.
    #[inline]
    pub(crate) fn shortstr(&mut self, field: &'static str) -> Result<Cow<'a, str>, SyntaxError> {
        let length = self.octet(field)?;
        let bytes = self.take(usize::from(length), field)?;
        Ok(match std::str::from_utf8(bytes) {
            Ok(text) => Cow::Borrowed(text),
            Err(_) => String::from_utf8_lossy(bytes),
        })
    }

    #[inline]
    pub(crate) fn longstr(&mut self, field: &'static str) -> Result<Cow<'a, [u8]>, SyntaxError> {
        self.block(field).map(Cow::Borrowed)
    }

    #[inline]
    pub(crate) fn table(
        &mut self,
        field: &'static str,
    ) -> Result<Cow<'a, FieldTable>, SyntaxError> {
        self.block(field)
            .and_then(FieldTable::decode)
            .map(Cow::Owned)
    }

    /// Bytes behind a length of four octets.
    #[inline]
    pub(crate) fn block(&mut self, field: &'static str) -> Result<&'a [u8], SyntaxError> {
        let length = self.long(field)?;
        let length = usize::try_from(length).map_err(|_| SyntaxError::Truncated { field })?;
        self.take(length, field)
    }
}

/// Appends wire types to a buffer.
///
/// Every method takes the name of what is written, for the error.
#[derive(Debug)]
pub(crate) struct Writer<'b> {
    out: &'b mut Vec<u8>,
    /// The next bit's place in the last octet; 0 when a new octet must be begun.
    next_bit: u8,
}

impl<'b> Writer<'b> {
    #[inline]
    pub(crate) fn new(out: &'b mut Vec<u8>) -> Self {
        Writer { out, next_bit: 0 }
    }

    #[inline]
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.next_bit = 0;
        self.out.extend_from_slice(bytes);
    }

    #[inline]
    pub(crate) fn octet(&mut self, _field: &'static str, value: &u8) -> Result<(), SyntaxError> {
        self.next_bit = 0;
        self.out.push(*value);
        Ok(())
    }

    #[inline]
    pub(crate) fn short(&mut self, _field: &'static str, value: &u16) -> Result<(), SyntaxError> {
        let mut bytes = [0; 2];
        BigEndian::write_u16(&mut bytes, *value);
        self.bytes(&bytes);
        Ok(())
    }

    #[inline]
    pub(crate) fn long(&mut self, _field: &'static str, value: &u32) -> Result<(), SyntaxError> {
        let mut bytes = [0; 4];
        BigEndian::write_u32(&mut bytes, *value);
        self.bytes(&bytes);
        Ok(())
    }

    #[inline]
    pub(crate) fn longlong(
        &mut self,
        _field: &'static str,
        value: &u64,
    ) -> Result<(), SyntaxError> {
        let mut bytes = [0; 8];
        BigEndian::write_u64(&mut bytes, *value);
        self.bytes(&bytes);
        Ok(())
    }

    #[inline]
    pub(crate) fn bit(&mut self, _field: &'static str, value: &bool) -> Result<(), SyntaxError> {
        let bit = if self.next_bit == 0 {
            self.out.push(0);
            1
        } else {
            self.next_bit
        };
        if *value {
            if let Some(octet) = self.out.last_mut() {
                *octet |= bit;
            }
        }
        self.next_bit = bit << 1;
        Ok(())
    }

    #[inline]
    pub(crate) fn shortstr(&mut self, field: &'static str, value: &str) -> Result<(), SyntaxError> {
        let length = value.len();
        if length > SHORT_STRING_MAX {
            return Err(SyntaxError::ShortStringTooLong { field, length });
        }
        self.next_bit = 0;
        self.out.push(length as u8);
        self.out.extend_from_slice(value.as_bytes());
        Ok(())
    }

    #[inline]
    pub(crate) fn longstr(&mut self, field: &'static str, value: &[u8]) -> Result<(), SyntaxError> {
        let length = value.len();
        let Ok(prefix) = u32::try_from(length) else {
            return Err(SyntaxError::LongStringTooLong { field, length });
        };
        self.long(field, &prefix)?;
        self.bytes(value);
        Ok(())
    }

    #[inline]
    pub(crate) fn table(
        &mut self,
        _field: &'static str,
        value: &FieldTable,
    ) -> Result<(), SyntaxError> {
        self.next_bit = 0;
        value.encode(self.out)
    }
}

/// Writes a length of four octets for what `fill` appends behind it.
pub(crate) fn with_length(
    out: &mut Vec<u8>,
    field: &'static str,
    fill: impl FnOnce(&mut Vec<u8>) -> Result<(), SyntaxError>,
) -> Result<(), SyntaxError> {
    let place = out.len();
    out.extend_from_slice(&[0; 4]);
    let start = out.len();
    fill(out)?;
    let length = out.len() - start;
    let Ok(prefix) = u32::try_from(length) else {
        return Err(SyntaxError::LongStringTooLong { field, length });
    };
    BigEndian::write_u32(&mut out[place..start], prefix);
    Ok(())
}
