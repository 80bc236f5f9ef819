//! The properties of a message (specification 1.8.1), and their bytes in a content header (4.2.6.1).

use std::fmt;
use std::num::IntErrorKind;
use std::time::{Duration, SystemTime};

use super::field_table::{sendable_timestamp, unsendable, FieldTable};
use super::field_value::{seconds_since_1970, FieldValue};
use super::short_string::{AsShortString, ShortString};
use super::size::size_of_properties;
use super::wire::{Reader, ShortStr, WireError, Writer};

/// Whether the broker keeps a message over its own restart (pika: `DeliveryMode`).
///
/// ```
/// use haypile::{BasicProperties, DeliveryMode};
///
/// let persistent = BasicProperties::new().delivery_mode(DeliveryMode::Persistent);
/// assert_eq!(persistent, BasicProperties::new().delivery_mode(2));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(from = "u8", into = "u8"))]
#[non_exhaustive]
pub enum DeliveryMode {
    /// 1: kept in memory, as far as the queue lets it (pika: `DeliveryMode.Transient`).
    Transient,
    /// 2: written to disk if the queue is durable (pika: `DeliveryMode.Persistent`).
    Persistent,
    /// A number that AMQP gives no meaning to. RabbitMQ 3.10 closes the channel over it (406); 4.0 and later take it for
    /// transient.
    Other(u8),
}

impl DeliveryMode {
    /// The number that stands on the wire.
    ///
    /// ```
    /// use haypile::DeliveryMode;
    ///
    /// assert_eq!(DeliveryMode::Persistent.value(), 2);
    /// ```
    pub const fn value(self) -> u8 {
        match self {
            DeliveryMode::Transient => 1,
            DeliveryMode::Persistent => 2,
            DeliveryMode::Other(value) => value,
        }
    }
}

impl From<DeliveryMode> for u8 {
    fn from(mode: DeliveryMode) -> Self {
        mode.value()
    }
}

impl From<u8> for DeliveryMode {
    fn from(value: u8) -> Self {
        match value {
            1 => DeliveryMode::Transient,
            2 => DeliveryMode::Persistent,
            other => DeliveryMode::Other(other),
        }
    }
}

/// Turns the table of properties into the struct, its setters, and both directions of the wire.
///
/// A property is a bit of the flags, a field, a value for the example, the wire type (a method of `Reader` and `Writer`), the field's type, what the
/// setter takes and makes of it, and how the wire type becomes the field's and back.
macro_rules! properties {
    ($(
        $(#[$doc:meta])*
        $flag:literal $name:ident($example:literal): $kind:ident $type:ty, $setter:ty, $set:expr, $read:expr, $write:expr;
    )+) => {
        /// The properties of a message, all of them optional (pika: `BasicProperties`, same names; `type` is
        /// [`message_type`](BasicProperties::message_type)).
        ///
        /// Most of them are for the applications to agree on; the broker itself reads `headers` (headers exchanges),
        /// `delivery_mode`, `priority` (priority queues), `expiration` and `user_id`, and `reply_to` where it names
        /// `amq.rabbitmq.reply-to`.
        /// Texts take at most 255 bytes; a longer one is refused when the message is published
        /// ([`Error::ShortStringTooLong`](crate::Error::ShortStringTooLong)). They need not be UTF-8, and what came goes on as it
        /// came; see [`ShortString`].
        ///
        /// With the feature `serde` they are a map of the names below, where an unknown name is an error. One more name,
        /// `timestamp_as_received`, keeps a `timestamp` that came with a message and that a program could not send of its own (after
        /// the year 9999), so that it can still go on as it came after it was stored.
        ///
        /// ```
        /// use haypile::{BasicProperties, DeliveryMode};
        ///
        /// let properties = BasicProperties::new()
        ///     .content_type("application/json")
        ///     .delivery_mode(DeliveryMode::Persistent)
        ///     .header("attempt", 1);
        /// assert_eq!(properties.content_type.as_deref(), Some("application/json"));
        /// ```
        #[derive(Clone, PartialEq, Default)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
        #[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
        pub struct BasicProperties {
            $( $(#[$doc])* pub $name: Option<$type>, )+
            /// No property: what lets `timestamp` go on as it came.
            #[doc(hidden)]
            pub timestamp_as_received: ReceivedTimestamp,
        }

        /// Shows the properties that are set.
        impl fmt::Debug for BasicProperties {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut properties = f.debug_struct("BasicProperties");
                $(
                    if let Some(value) = &self.$name {
                        properties.field(stringify!($name), value);
                    }
                )+
                properties.finish()
            }
        }

        impl BasicProperties {
            pub(crate) const NONE: Self = BasicProperties {
                $( $name: None, )+
                timestamp_as_received: ReceivedTimestamp(None),
            };

            $(
                #[doc = concat!("Sets [`", stringify!($name), "`](#structfield.", stringify!($name), "). Default: not set.")]
                ///
                /// ```
                /// use haypile::BasicProperties;
                ///
                #[doc = concat!("let properties = BasicProperties::new().", stringify!($name), "(", $example, ");")]
                #[doc = concat!("assert_eq!(properties.", stringify!($name), ", Some(", $example, ".into()));")]
                /// ```
                #[must_use]
                pub fn $name(mut self, $name: $setter) -> Self {
                    self.$name = Some($set($name));
                    self
                }
            )+

            /// The property flags, and behind them the values of those that are set, in the order of the flags.
            pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<(), WireError> {
                if let Some(seconds) = self.timestamp.filter(|_| self.timestamp != self.timestamp_as_received.0) {
                    sendable_timestamp(seconds).map_err(|error| error.inside(format_args!("timestamp")))?;
                }
                let start = out.len();
                let mut flags = 0u16;
                let mut writer = Writer::new(out);
                // Zero until all are known.
                writer.short("property flags", &flags);
                $(
                    if let Some(value) = &self.$name {
                        flags |= 1 << $flag;
                        writer.$kind(stringify!($name), $write(value));
                    }
                )+
                writer.finish()?;
                out[start..start + 2].copy_from_slice(&flags.to_be_bytes());
                Ok(())
            }

            /// Reads the values of the properties that these flags announce.
            fn decode(flags: u16, reader: &mut Reader<'_>) -> Self {
                let mut properties = BasicProperties::default();
                // The lowest bit would announce more flags, and the next one a property that does not exist: what follows
                // could not be read.
                if flags & 0b11 != 0 {
                    reader.fail(WireError::UnknownProperties(flags));
                }
                $(
                    if flags & (1 << $flag) != 0 {
                        properties.$name = Some($read(reader.$kind()));
                    }
                )+
                properties.timestamp_as_received =
                    ReceivedTimestamp(properties.timestamp.filter(|seconds| sendable_timestamp(*seconds).is_err()));
                properties
            }
        }

        /// The properties' bits, names and wire types, for the test that holds them against the specification.
        #[cfg(test)]
        pub(crate) const TABLE: &[(u32, &str, &str)] = &[$( ($flag, stringify!($name), stringify!($kind)) ),+];
    };
}

properties! {
    /// The MIME type of the body, such as `application/json`.
    15 content_type(r#""application/json""#): shortstr ShortString, impl Into<ShortString>, Into::into, ShortStr::to_short_string, ShortString::as_bytes;
    /// The MIME encoding of the body, such as `utf-8` or `gzip`. Nothing is encoded or decoded here.
    14 content_encoding(r#""gzip""#): shortstr ShortString, impl Into<ShortString>, Into::into, ShortStr::to_short_string, ShortString::as_bytes;
    /// Named values of the application's own. Headers exchanges route by them, and RabbitMQ adds some
    /// (`x-death` for dead letters).
    13 headers(r#"[("attempt", 1)]"#): table FieldTable, impl Into<FieldTable>, Into::into, std::convert::identity, std::convert::identity;
    /// Whether the message outlives a restart of the broker. Not set is transient. The setter takes pika's number too:
    /// `delivery_mode(2)` is persistent.
    12 delivery_mode(r#"2"#): octet DeliveryMode, impl Into<DeliveryMode>, Into::into, DeliveryMode::from, delivery_mode_octet;
    /// The priority in a queue declared with `x-max-priority`; higher is delivered first. AMQP has 0 to 9, RabbitMQ
    /// takes up to 255. Not set is 0.
    11 priority(r#"9"#): octet u8, u8, u8::from, u8::from, std::convert::identity;
    /// What ties a reply to its request: chosen by the client, repeated by the server.
    10 correlation_id(r#""request 7""#): shortstr ShortString, impl Into<ShortString>, Into::into, ShortStr::to_short_string, ShortString::as_bytes;
    /// Where replies go: usually the name of a queue, or `amq.rabbitmq.reply-to` for RabbitMQ's direct reply-to.
    9 reply_to(r#""amq.rabbitmq.reply-to""#): shortstr ShortString, impl Into<ShortString>, Into::into, ShortStr::to_short_string, ShortString::as_bytes;
    /// After how long the broker drops the message if no consumer takes it: milliseconds, as decimal text (`"60000"` is a
    /// minute). The setter takes a
    /// [`Duration`](std::time::Duration) too; what is less than a millisecond is rounded up. What RabbitMQ would close the
    /// channel over is refused when the message is published ([`Error::InvalidParameter`](crate::Error::InvalidParameter)): a
    /// text that is no whole number, and more than ten years (315,360,000,000 ms). For no end, leave it out.
    8 expiration(r#""60000""#): shortstr ShortString, impl IntoExpiration, IntoExpiration::into_expiration, ShortStr::to_short_string, ShortString::as_bytes;
    /// The application's name for this message.
    7 message_id(r#""order 7""#): shortstr ShortString, impl Into<ShortString>, Into::into, ShortStr::to_short_string, ShortString::as_bytes;
    /// When the message was made, in seconds since 1970-01-01 00:00 UTC. The setter takes a
    /// [`SystemTime`](std::time::SystemTime) too, into which other times convert (`SystemTime::from` a `DateTime` of `chrono`). A time after the year 9999, such as one in milliseconds, is refused when the
    /// message is published ([`Error::InvalidParameter`](crate::Error::InvalidParameter)), since other clients cannot read it;
    /// one that came so goes on as it came.
    6 timestamp(r#"1_700_000_000u64"#): longlong u64, impl IntoTimestamp, IntoTimestamp::into_timestamp, u64::from, std::convert::identity;
    /// The application's name for this kind of message (`type` in the specification and in pika).
    #[doc(alias = "type")]
    5 message_type(r#""order.new""#): shortstr ShortString, impl Into<ShortString>, Into::into, ShortStr::to_short_string, ShortString::as_bytes;
    /// The user who publishes. RabbitMQ closes the channel if it is not the user that the connection is logged in as.
    4 user_id(r#""guest""#): shortstr ShortString, impl Into<ShortString>, Into::into, ShortStr::to_short_string, ShortString::as_bytes;
    /// The application that publishes.
    3 app_id(r#""shop""#): shortstr ShortString, impl Into<ShortString>, Into::into, ShortStr::to_short_string, ShortString::as_bytes;
    /// Deprecated in AMQP 0-9-1; RabbitMQ makes no use of it.
    2 cluster_id(r#""""#): shortstr ShortString, impl Into<ShortString>, Into::into, ShortStr::to_short_string, ShortString::as_bytes;
}

impl BasicProperties {
    /// Properties none of which is set.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// use haypile::BasicProperties;
    ///
    /// # channel.queue_declare("tasks")?;
    /// channel.basic_publish("", "tasks", "dig")?; // without properties
    /// assert_eq!(channel.basic_get("tasks")?.unwrap().1, BasicProperties::new());
    /// # Ok(()) }) }
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Refuses an expiration that RabbitMQ would close the channel over. Bytes that are no text go on as they are: they were not
    /// written by the program, but came from a peer, perhaps another broker.
    #[inline]
    pub(crate) fn check_expiration(&self) -> Result<(), WireError> {
        let bytes = self.expiration.as_ref().map(ShortString::as_bytes);
        match bytes.map(std::str::from_utf8) {
            Some(Ok(text)) => check_expiration(text),
            Some(Err(_)) | None => Ok(()),
        }
    }

    /// The value of one of the [`headers`](#structfield.headers), if there is one of that name.
    ///
    /// ```
    /// use haypile::{BasicProperties, FieldValue};
    ///
    /// let properties = BasicProperties::new().header("attempt", 2);
    /// assert_eq!(properties.get_header("attempt").and_then(FieldValue::as_i64), Some(2));
    /// ```
    pub fn get_header(&self, key: impl AsShortString) -> Option<&FieldValue> {
        self.headers.as_ref()?.get(key)
    }

    /// Adds one header to [`headers`](#structfield.headers), or replaces the one of that name.
    ///
    /// ```
    /// use haypile::{BasicProperties, FieldValue};
    ///
    /// let properties = BasicProperties::new().header("attempt", 1).header("attempt", 2).header("source", "web");
    /// assert_eq!(properties.get_header("attempt"), Some(&FieldValue::from(2)));
    /// assert_eq!(properties.headers.unwrap().len(), 2);
    /// ```
    #[must_use]
    pub fn header(mut self, key: impl Into<ShortString>, value: impl Into<FieldValue>) -> Self {
        self.headers
            .get_or_insert_with(FieldTable::new)
            .insert(key, value);
        self
    }
}

/// The timestamp that properties came with. How they came is no part of what they say, so all are equal.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ReceivedTimestamp(Option<u64>);

impl PartialEq for ReceivedTimestamp {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// What [`BasicProperties::timestamp`] takes: seconds since 1970-01-01 00:00 UTC, or a [`SystemTime`].
///
/// The trait is not meant to be implemented elsewhere.
///
/// ```
/// use haypile::BasicProperties;
/// use std::time::{Duration, SystemTime};
///
/// let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
/// assert_eq!(BasicProperties::new().timestamp(time), BasicProperties::new().timestamp(1_700_000_000));
/// ```
pub trait IntoTimestamp: sealed::Sealed {
    #[doc(hidden)]
    fn into_timestamp(self) -> u64;
}

impl IntoTimestamp for u64 {
    fn into_timestamp(self) -> u64 {
        self
    }
}

/// To the second. A time before 1970 is refused when the message is published.
impl IntoTimestamp for SystemTime {
    fn into_timestamp(self) -> u64 {
        seconds_since_1970(self)
    }
}

/// What [`BasicProperties::expiration`] takes: milliseconds as decimal text, or a [`Duration`].
///
/// The trait is not meant to be implemented elsewhere.
///
/// ```
/// use haypile::BasicProperties;
/// use std::time::Duration;
///
/// let a_minute = BasicProperties::new().expiration(Duration::from_secs(60));
/// assert_eq!(a_minute, BasicProperties::new().expiration("60000"));
/// ```
pub trait IntoExpiration: sealed::Sealed {
    #[doc(hidden)]
    fn into_expiration(self) -> ShortString;
}

/// In milliseconds; what is less than one is rounded up.
impl IntoExpiration for Duration {
    fn into_expiration(self) -> ShortString {
        self.as_nanos().div_ceil(1_000_000).to_string().into()
    }
}

/// RabbitMQ's limit, in milliseconds: ten years.
const EXPIRATION_MOST: i64 = 315_360_000_000;

/// Refuses what RabbitMQ refuses and nothing else, a sign and zeros in front among what it takes: so what was delivered can be
/// published again.
fn check_expiration(expiration: &str) -> Result<(), WireError> {
    let number = expiration.parse::<i64>();
    let (shown, expected) = match &number {
        Ok(0..=EXPIRATION_MOST) => return Ok(()),
        Err(error) if *error.kind() != IntErrorKind::PosOverflow => (
            format!("{expiration:?}"),
            "milliseconds as decimal text are expected (\"60000\" is a minute)",
        ),
        Ok(..0) => (expiration.to_owned(), "0 milliseconds or more are expected"),
        _ => (
            expiration.to_owned(),
            "at most 315360000000 milliseconds (ten years) are expected; for no end, leave it out",
        ),
    };
    Err(unsendable(&shown, expected).inside(format_args!("expiration")))
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for u64 {}
    impl Sealed for std::time::SystemTime {}
    impl Sealed for std::time::Duration {}
}

macro_rules! expiration_texts {
    ($($text:ty),+) => {$(
        impl sealed::Sealed for $text {}

        impl IntoExpiration for $text {
            fn into_expiration(self) -> ShortString {
                self.into()
            }
        }
    )+};
}

expiration_texts!(&str, String, &String, ShortString, &ShortString);

fn delivery_mode_octet(mode: &DeliveryMode) -> &u8 {
    match mode {
        DeliveryMode::Transient => &1,
        DeliveryMode::Persistent => &2,
        DeliveryMode::Other(value) => value,
    }
}

/// The properties of a message that waits for the program. Most messages carry none, or only a delivery mode and a priority,
/// and are small for it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ReceivedProperties {
    Few {
        delivery_mode: Option<DeliveryMode>,
        priority: Option<u8>,
    },
    Many(Box<SizedProperties>),
}

/// Properties, and how much memory they take beside this.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SizedProperties {
    properties: BasicProperties,
    pub(super) size: usize,
}

impl Default for ReceivedProperties {
    fn default() -> Self {
        ReceivedProperties::Few {
            delivery_mode: None,
            priority: None,
        }
    }
}

impl ReceivedProperties {
    /// Reads what [`encode`](BasicProperties::encode) writes, if that is not much.
    pub(crate) fn few(bytes: &[u8]) -> Option<Self> {
        const MODE: u8 = 1 << 4;
        const PRIORITY: u8 = 1 << 3;
        const BOTH: u8 = MODE | PRIORITY;
        let (mode, priority) = match *bytes {
            [0, 0] => (None, None),
            [MODE, 0, mode] => (Some(mode), None),
            [PRIORITY, 0, priority] => (None, Some(priority)),
            [BOTH, 0, mode, priority] => (Some(mode), Some(priority)),
            _ => return None,
        };
        Some(ReceivedProperties::Few {
            delivery_mode: mode.map(DeliveryMode::from),
            priority,
        })
    }

    /// Reads all that [`encode`](BasicProperties::encode) writes.
    pub(crate) fn many(reader: &mut Reader<'_>) -> Self {
        let flags = reader.short();
        let properties = BasicProperties::decode(flags, reader);
        let size = size_of_properties(&properties);
        ReceivedProperties::Many(Box::new(SizedProperties { properties, size }))
    }
}

impl From<ReceivedProperties> for BasicProperties {
    #[inline]
    fn from(arrived: ReceivedProperties) -> Self {
        match arrived {
            ReceivedProperties::Few {
                delivery_mode,
                priority,
            } => BasicProperties {
                delivery_mode,
                priority,
                ..BasicProperties::default()
            },
            ReceivedProperties::Many(kept) => kept.properties,
        }
    }
}
