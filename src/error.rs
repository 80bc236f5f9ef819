//! The one error type.

mod connecting;
mod foreign;
pub(crate) mod hints;
mod retry;
mod rpc;
#[cfg(test)]
mod tests;
mod texts;

use std::any::Any;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use connecting::Failure;
pub use connecting::{Attempt, ConnectFailure, Stage};
pub(crate) use foreign::Source;
pub use rpc::RpcError;
pub(crate) use texts::{write_blocked, Span, FATE_UNKNOWN};

use crate::escaped::Escaped;
use crate::protocol::WireError;
use crate::{ReturnedMessage, UnconfirmedReport};

/// What every fallible call of this crate returns, where pika's raises.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
/// # fn main() { example(|_connection, channel| {
/// use haypile::Channel;
///
/// fn backlog(channel: &Channel, queue: &str) -> haypile::Result<u32> {
///     Ok(channel.queue_declare(queue)?.message_count)
/// }
///
/// assert_eq!(backlog(channel, "tasks")?, 0);
/// # Ok(()) }) }
/// ```
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, one variant for each pika exception that can happen here.
///
/// The variants bear pika's names without the suffix. Common questions have predicates, so that matching is
/// seldom needed: [`is_connection_error`](Error::is_connection_error), [`is_channel_error`](Error::is_channel_error),
/// [`is_retryable`](Error::is_retryable), [`reply_code`](Error::reply_code), [`address`](Error::address).
///
/// ```
/// # use haypile::{Connection, ConnectionParameters};
/// let refused = Connection::open(ConnectionParameters::new("127.0.0.1").port(1)).unwrap_err();
/// assert!(refused.is_connection_error());
/// assert_eq!(refused.address(), Some("127.0.0.1:1"));
/// ```
///
/// # Printing an error
///
/// `{error}` is one line with all that is known, the cause included, as one prints an exception. [`source`](std::error::Error::source)
/// gives the cause once more as a value, for the program to look at. So print the error alone: what follows its sources and prints
/// each of them (`{:#}` of `anyhow`, for instance) says the cause twice.
///
/// Of an error of the program's own ([`Error::Other`]) `{error}` shows what that one shows. `{error:?}`, which is what `unwrap` and a
/// `main` that returns the error print, puts the variant's name before the line, and behind it those of the sources that the line
/// does not name.
///
/// ```
/// use haypile::Connection;
/// use std::error::Error;
/// use std::io;
///
/// let refused = Connection::open("amqp://127.0.0.1:1").unwrap_err();
/// let cause = refused.source().and_then(|source| source.downcast_ref::<io::Error>());
/// assert_eq!(cause.map(io::Error::kind), Some(io::ErrorKind::ConnectionRefused));
/// assert!(refused.to_string().contains(&cause.unwrap().to_string()));
/// ```
#[doc(alias = "AMQPError")]
#[derive(Clone)]
#[non_exhaustive]
pub enum Error {
    /// No connection came about, for a reason that none of the more specific variants names: the port refused, the
    /// time was up (pika: `AMQPConnectionError`).
    #[doc(alias = "AMQPConnectionError")]
    Connection(Arc<ConnectFailure>),
    /// The host's name could not be resolved (pika lets `socket.gaierror` through).
    #[doc(alias = "gaierror")]
    Dns(Arc<ConnectFailure>),
    /// TLS could not be agreed on: an untrusted certificate, a wrong name, a server that speaks no TLS
    /// (pika lets `ssl.SSLError` through).
    #[doc(alias = "SSLError")]
    Tls(Arc<ConnectFailure>),
    /// The peer does not speak AMQP 0-9-1 (pika: `IncompatibleProtocolError`).
    #[doc(alias = "IncompatibleProtocolError")]
    #[doc(alias = "ProtocolVersionMismatch")]
    IncompatibleProtocol(Arc<ConnectFailure>),
    /// The server offers no mechanism that these credentials can use (pika: `AuthenticationError`).
    #[doc(alias = "AuthenticationError")]
    Authentication(Arc<ConnectFailure>),
    /// The server refused the login, or closed the connection or the stream at that point: older servers refuse by that
    /// (pika: `ProbableAuthenticationError`).
    #[doc(alias = "ProbableAuthenticationError")]
    ProbableAuthentication(Arc<ConnectFailure>),
    /// The server refused the virtual host, or closed the connection or the stream at that point, for whatever reason
    /// (pika: `ProbableAccessDeniedError`).
    #[doc(alias = "ProbableAccessDeniedError")]
    ProbableAccessDenied(Arc<ConnectFailure>),

    /// An open connection was lost (pika: `StreamLostError`).
    #[doc(alias = "StreamLostError")]
    StreamLost(Arc<StreamLost>),
    /// Nothing came from the server for longer than the heartbeat allows (pika: `AMQPHeartbeatTimeout`).
    #[doc(alias = "AMQPHeartbeatTimeout")]
    #[non_exhaustive]
    HeartbeatTimeout {
        /// Host and port.
        address: Arc<str>,
        /// What was negotiated.
        heartbeat: Duration,
        /// How long nothing had come.
        silent_for: Duration,
    },
    /// The server closed the connection (pika: `ConnectionClosedByBroker`).
    #[doc(alias = "ConnectionClosed")]
    #[non_exhaustive]
    ConnectionClosedByBroker {
        /// The AMQP reply code, such as 320 (`CONNECTION_FORCED`).
        reply_code: u16,
        /// What the server said.
        reply_text: String,
        /// The method that caused it, as `class.method`, if the server named one.
        method: Option<&'static str>,
        /// Host and port.
        address: Arc<str>,
        /// This program was closing the connection as well, and the broker did not confirm that: whether it received what
        /// was published last is unknown.
        while_closing: bool,
    },
    /// This program closed the connection while the call was waiting (pika: `ConnectionClosedByClient`).
    #[non_exhaustive]
    ConnectionClosedByClient {
        /// The code given to `close_with`.
        reply_code: u16,
        /// The text given to `close_with`.
        reply_text: String,
    },
    /// The connection is closed or closing, so the call cannot be made (pika: `ConnectionWrongStateError`).
    #[doc(alias = "ConnectionWrongStateError")]
    #[non_exhaustive]
    ConnectionWrongState {
        /// Why it is not.
        reason: Arc<str>,
        /// What ended it, unless this program did.
        cause: Option<Arc<Error>>,
    },
    /// The broker blocked the connection (memory or disk alarm) for longer than
    /// `blocked_connection_timeout` (pika: `ConnectionBlockedTimeout`).
    #[non_exhaustive]
    ConnectionBlockedTimeout {
        /// Host and port.
        address: Arc<str>,
        /// The limit that was set.
        timeout: Duration,
        /// The broker's reason, such as `low on memory`.
        reason: Arc<str>,
    },
    /// Every channel number up to the negotiated maximum is in use (pika: `NoFreeChannels`, which derives from
    /// `AMQPConnectionError` there). The connection is fine, so here it is an error of neither a connection nor a channel.
    #[non_exhaustive]
    NoFreeChannels {
        /// The negotiated maximum.
        channel_max: u16,
    },

    /// The server closed the channel (pika: `ChannelClosedByBroker`). The connection stays open.
    #[doc(alias = "ChannelClosed")]
    #[non_exhaustive]
    ChannelClosedByBroker {
        /// The AMQP reply code, such as 404 (`NOT_FOUND`) or 406 (`PRECONDITION_FAILED`).
        reply_code: u16,
        /// What the server said.
        reply_text: String,
        /// The channel's number.
        channel: u16,
        /// The method that caused it, as `class.method`, if the server named one.
        method: Option<&'static str>,
    },
    /// This program closed the channel while the call was waiting (pika: `ChannelClosedByClient`).
    #[non_exhaustive]
    ChannelClosedByClient {
        /// The code given to `close_with`.
        reply_code: u16,
        /// The text given to `close_with`.
        reply_text: String,
        /// The channel's number.
        channel: u16,
    },
    /// A message came that is larger than
    /// [`max_message_size`](crate::ConnectionParameters::max_message_size), so the channel was closed with 311
    /// (`CONTENT_TOO_LARGE`). The connection stays open.
    #[non_exhaustive]
    MessageTooLarge {
        /// The channel's number.
        channel: u16,
        /// The size of its body in bytes.
        size: u64,
        /// The limit.
        max: u64,
    },
    /// The channel is closed or closing, so the call cannot be made (pika: `ChannelWrongStateError`).
    #[doc(alias = "ChannelWrongStateError")]
    #[non_exhaustive]
    ChannelWrongState {
        /// The channel's number.
        channel: u16,
        /// Why it is not.
        reason: Arc<str>,
    },
    /// A consumer with this tag exists on the channel (pika: `DuplicateConsumerTag`).
    #[non_exhaustive]
    DuplicateConsumerTag {
        /// The tag.
        consumer_tag: String,
    },
    /// A mandatory message could not be routed and came back (pika: `UnroutableError`).
    #[doc(alias = "UnroutableError")]
    Unroutable(Vec<ReturnedMessage>),
    /// The broker refused a message (pika: `NackError`); with what was returned, if anything was.
    #[doc(alias = "NackError")]
    Nack(Vec<ReturnedMessage>),
    /// Some messages of a [`Publisher`](crate::Publisher) were returned, refused, or not confirmed in time, or before the
    /// channel or the connection ended. The predicates and `reply_code` speak of what ended it, if anything did.
    Unconfirmed(Box<UnconfirmedReport>),

    /// A frame came that has no place where it came (pika: `UnexpectedFrameError`).
    #[doc(alias = "UnexpectedFrameError")]
    #[non_exhaustive]
    UnexpectedFrame {
        /// What came, and where.
        detail: Arc<str>,
    },
    /// Bytes came that are no AMQP frame, or break a rule of framing (pika: `InvalidFrameError`, `BodyTooLongError`,
    /// `InvalidFieldTypeException`).
    #[doc(alias = "InvalidFrameError")]
    #[doc(alias = "ProtocolSyntaxError")]
    #[doc(alias = "BodyTooLongError")]
    #[doc(alias = "InvalidFieldTypeException")]
    InvalidFrame(SyntaxError),
    /// A channel number outside 1 … `channel_max`, or one that is in use (pika: `InvalidChannelNumber`).
    #[non_exhaustive]
    InvalidChannelNumber {
        /// The number asked for.
        number: u16,
        /// What is wrong with it.
        problem: &'static str,
        /// The largest number that was negotiated.
        channel_max: u16,
    },
    /// The server does not have what the call needs (pika: `MethodNotImplementedError`).
    #[doc(alias = "MethodNotImplementedError")]
    #[non_exhaustive]
    MethodNotImplemented {
        /// The missing capability.
        capability: &'static str,
    },
    /// A name or text of over 255 bytes was given where AMQP has no room for it (pika: `ShortStringTooLong`).
    #[non_exhaustive]
    ShortStringTooLong {
        /// Which argument or property.
        field: &'static str,
        /// Its length in bytes.
        length: usize,
    },
    /// An argument that cannot be sent or makes no sense (pika: `ValueError`, `TypeError`).
    #[doc(alias = "ValueError")]
    #[doc(alias = "UnsupportedAMQPFieldException")]
    #[non_exhaustive]
    InvalidParameter {
        /// Which argument, parameter or URL option.
        field: Box<str>,
        /// The value given, or what it is (never a secret).
        value: Box<str>,
        /// What is wrong with it, or what is expected.
        expected: Box<str>,
        /// Why a file that it names cannot be read.
        source: Option<Arc<io::Error>>,
    },

    /// The call cannot be made from inside a callback (pika: `ReentrancyError`).
    #[doc(alias = "ReentrancyError")]
    #[non_exhaustive]
    Reentrancy {
        /// The call.
        call: &'static str,
    },
    /// What was waited for did not come in the time that the parameters or the call allow.
    ///
    /// A call of a channel that waited for the broker ([`rpc_timeout`](crate::ConnectionParameters::rpc_timeout)) has closed
    /// its channel, since a late reply could be taken for the next one: this is a channel's error then
    /// ([`is_channel_error`](Error::is_channel_error)), and whether the broker did what it was asked to do is unknown. A call
    /// that only waited for room, to send or in a publisher's window, has sent nothing and leaves the channel open; so does a call of
    /// an [`RpcClient`](crate::RpcClient), whose replies bear the number of their call. Without a
    /// channel it is the connection's error.
    #[non_exhaustive]
    Timeout {
        /// What was waited for.
        waiting_for: &'static str,
        /// For how long.
        after: Duration,
        /// The channel whose call this was.
        channel: Option<u16>,
        /// Whether the channel was closed because of it. Then every later call on the channel returns this error again.
        channel_closed: bool,
        /// The broker's reason for blocking the connection, such as `low on memory`, if it did: it reads nothing then from
        /// a connection that publishes.
        blocked: Option<Arc<str>>,
    },
    /// This program stopped the wait by a [`Stop`](crate::Stop). What a publish waited for may have happened all the same.
    #[non_exhaustive]
    Stopped {
        /// What was waited for.
        waiting_for: &'static str,
    },
    /// The broker cancelled a consumer: its queue was deleted, its node was lost, a permission was withdrawn, or it held a
    /// message for too long (pika: `ConsumerCancelled`). [`ConsumingEnded`](crate::ConsumingEnded) says so where a call ends
    /// by it; this is how a [`Supervisor`](crate::Supervisor) reports it, and how a message is that is acknowledged after it.
    #[non_exhaustive]
    ConsumerCancelled {
        /// The consumer it cancelled.
        consumer_tag: String,
        /// The message that was acknowledged or refused too late, if it is that.
        delivery_tag: Option<u64>,
    },
    /// The server of a remote procedure call replied with an error; see [`RpcClient`](crate::RpcClient).
    Rpc(Box<RpcError>),
    /// A [`Supervisor`](crate::Supervisor) gave up. The predicates (but [`is_retryable`](Error::is_retryable), which is false) and
    /// `reply_code` speak of the last error before that, which is the source.
    GaveUp(Arc<GaveUp>),
    /// An error of the program's own, on its way out of a callback; see [`Error::other`].
    Other(Arc<dyn std::error::Error + Send + Sync>),
}

/// Why a broker cancels a consumer. It does not say.
pub(crate) const CANCEL_CAUSES: &str = "its queue was deleted, its node was lost, a permission was withdrawn, or it held a message for too long";

/// What `main` and `unwrap` print: the variant's name, the text, and the causes that the text does not name.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.to_string();
        write!(f, "{}: {text}", self.kind())?;
        // So many causes that no chain is longer, unless it has no end.
        let first = std::error::Error::source(self);
        for cause in std::iter::successors(first, |cause| cause.source()).take(32) {
            let cause = Escaped(&cause.to_string()).to_string();
            if !text.contains(&cause) {
                write!(f, ": {cause}")?;
            }
        }
        Ok(())
    }
}

impl Error {
    /// The variant's name.
    fn kind(&self) -> &'static str {
        match self {
            Error::Connection(_) => "Connection",
            Error::Dns(_) => "Dns",
            Error::Tls(_) => "Tls",
            Error::IncompatibleProtocol(_) => "IncompatibleProtocol",
            Error::Authentication(_) => "Authentication",
            Error::ProbableAuthentication(_) => "ProbableAuthentication",
            Error::ProbableAccessDenied(_) => "ProbableAccessDenied",
            Error::StreamLost(_) => "StreamLost",
            Error::HeartbeatTimeout { .. } => "HeartbeatTimeout",
            Error::ConnectionClosedByBroker { .. } => "ConnectionClosedByBroker",
            Error::ConnectionClosedByClient { .. } => "ConnectionClosedByClient",
            Error::ConnectionWrongState { .. } => "ConnectionWrongState",
            Error::ConnectionBlockedTimeout { .. } => "ConnectionBlockedTimeout",
            Error::NoFreeChannels { .. } => "NoFreeChannels",
            Error::ChannelClosedByBroker { .. } => "ChannelClosedByBroker",
            Error::ChannelClosedByClient { .. } => "ChannelClosedByClient",
            Error::MessageTooLarge { .. } => "MessageTooLarge",
            Error::ChannelWrongState { .. } => "ChannelWrongState",
            Error::DuplicateConsumerTag { .. } => "DuplicateConsumerTag",
            Error::Unroutable(_) => "Unroutable",
            Error::Nack(_) => "Nack",
            Error::Unconfirmed(_) => "Unconfirmed",
            Error::UnexpectedFrame { .. } => "UnexpectedFrame",
            Error::InvalidFrame(_) => "InvalidFrame",
            Error::InvalidChannelNumber { .. } => "InvalidChannelNumber",
            Error::MethodNotImplemented { .. } => "MethodNotImplemented",
            Error::ShortStringTooLong { .. } => "ShortStringTooLong",
            Error::InvalidParameter { .. } => "InvalidParameter",
            Error::Reentrancy { .. } => "Reentrancy",
            Error::Timeout { .. } => "Timeout",
            Error::Stopped { .. } => "Stopped",
            Error::ConsumerCancelled { .. } => "ConsumerCancelled",
            Error::Rpc(_) => "Rpc",
            Error::GaveUp(_) => "GaveUp",
            Error::Other(_) => "Other",
        }
    }

    /// Whether this concerns the connection, which in nearly all cases is not usable after it (pika: `AMQPConnectionError` and
    /// what derives from it, and violations of the protocol by the peer).
    ///
    /// A [`Timeout`](Error::Timeout) of [`Connection::update_secret`](crate::Connection::update_secret) leaves the connection
    /// open. [`NoFreeChannels`](Error::NoFreeChannels) is none of these, though it derives from `AMQPConnectionError` in pika.
    ///
    /// ```
    /// # use haypile::Connection;
    /// let refused = Connection::open("amqp://127.0.0.1:1").unwrap_err();
    /// assert!(refused.is_connection_error());
    /// ```
    #[doc(alias = "AMQPConnectionError")]
    pub fn is_connection_error(&self) -> bool {
        matches!(
            self.end(),
            Error::Connection(_)
                | Error::Dns(_)
                | Error::Tls(_)
                | Error::IncompatibleProtocol(_)
                | Error::Authentication(_)
                | Error::ProbableAuthentication(_)
                | Error::ProbableAccessDenied(_)
                | Error::StreamLost(_)
                | Error::HeartbeatTimeout { .. }
                | Error::ConnectionClosedByBroker { .. }
                | Error::ConnectionClosedByClient { .. }
                | Error::ConnectionWrongState { .. }
                | Error::ConnectionBlockedTimeout { .. }
                | Error::UnexpectedFrame { .. }
                | Error::InvalidFrame(_)
                | Error::Timeout { channel: None, .. }
        )
    }

    /// Whether this concerns one channel and leaves the connection open (pika: `AMQPChannelError` and what derives from
    /// it).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|connection, channel| {
    /// let error = channel.basic_get("nowhere").unwrap_err();
    /// assert!(error.is_channel_error());
    /// assert_eq!(error.reply_code(), Some(404));
    /// assert!(connection.is_open());
    /// # Ok(()) }) }
    /// ```
    #[doc(alias = "AMQPChannelError")]
    pub fn is_channel_error(&self) -> bool {
        matches!(
            self.end(),
            Error::ChannelClosedByBroker { .. }
                | Error::ChannelClosedByClient { .. }
                | Error::MessageTooLarge { .. }
                | Error::ChannelWrongState { .. }
                | Error::DuplicateConsumerTag { .. }
                | Error::Unroutable(_)
                | Error::Nack(_)
                | Error::Unconfirmed(_)
                | Error::ConsumerCancelled { .. }
                | Error::Timeout {
                    channel: Some(_),
                    ..
                }
        )
    }

    /// What ended the channel or connection: the cause of a report of unconfirmed messages, that of a call on a connection
    /// that is not open, and the last error before a supervisor gave up. Any other error is its own.
    fn end(&self) -> &Error {
        match self {
            Error::GaveUp(gave_up) => gave_up.last().map_or(self, Error::end),
            Error::Unconfirmed(report) => report.cause.as_ref().map_or(self, Error::end),
            Error::ConnectionWrongState { cause, .. } => cause.as_deref().map_or(self, Error::end),
            _ => self,
        }
    }

    /// The AMQP reply code, where the server (or `close_with`, or this library in closing a channel) gave one.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// let missing = channel.basic_get("no such queue").unwrap_err();
    /// assert_eq!(missing.reply_code(), Some(404));
    /// # Ok(()) }) }
    /// ```
    pub fn reply_code(&self) -> Option<u16> {
        match self.end() {
            Error::ConnectionClosedByBroker { reply_code, .. }
            | Error::ConnectionClosedByClient { reply_code, .. }
            | Error::ChannelClosedByBroker { reply_code, .. }
            | Error::ChannelClosedByClient { reply_code, .. } => Some(*reply_code),
            Error::MessageTooLarge { .. } => Some(311),
            Error::Unroutable(returned) | Error::Nack(returned) => {
                returned.first().map(|message| message.method.reply_code)
            }
            _ => self
                .connect_failure()
                .and_then(|failure| failure.reply_code),
        }
    }

    /// Host and port of the peer, where the error concerns one.
    ///
    /// ```
    /// # use haypile::Connection;
    /// let refused = Connection::open("amqp://127.0.0.1:1").unwrap_err();
    /// assert_eq!(refused.address(), Some("127.0.0.1:1"));
    /// ```
    pub fn address(&self) -> Option<&str> {
        match self.end() {
            Error::StreamLost(lost) => Some(&lost.address),
            Error::HeartbeatTimeout { address, .. }
            | Error::ConnectionClosedByBroker { address, .. }
            | Error::ConnectionBlockedTimeout { address, .. } => Some(address),
            _ => self.connect_failure().map(|failure| &*failure.address),
        }
    }

    /// What was tried, if this comes from connecting.
    ///
    /// ```
    /// use haypile::{Connection, Stage};
    ///
    /// let refused = Connection::open("amqp://127.0.0.1:1").unwrap_err();
    /// let failure = refused.connect_failure().unwrap();
    /// assert_eq!(failure.stage, Stage::Tcp);
    /// assert_eq!(failure.attempts.len(), 1);
    /// println!("{}: {}", failure.address, failure.hint.unwrap_or(&failure.cause));
    /// ```
    pub fn connect_failure(&self) -> Option<&ConnectFailure> {
        match self.end() {
            Error::Connection(failure)
            | Error::Dns(failure)
            | Error::Tls(failure)
            | Error::IncompatibleProtocol(failure)
            | Error::Authentication(failure)
            | Error::ProbableAuthentication(failure)
            | Error::ProbableAccessDenied(failure) => Some(failure),
            _ => None,
        }
    }

    #[cold]
    pub(crate) fn unroutable(messages: Vec<(u64, Arc<ReturnedMessage>)>) -> Self {
        Error::Unroutable(owned(messages))
    }

    #[cold]
    pub(crate) fn nack(messages: Vec<(u64, Arc<ReturnedMessage>)>) -> Self {
        Error::Nack(owned(messages))
    }

    pub(crate) fn invalid(field: &str, value: impl fmt::Display, expected: &str) -> Self {
        Self::invalid_value(field, &value, expected)
    }

    /// The same, made once for all types of values.
    fn invalid_value(field: &str, value: &dyn fmt::Display, expected: &str) -> Self {
        Error::InvalidParameter {
            field: field.into(),
            value: format!("{value}").into(),
            expected: expected.into(),
            source: None,
        }
    }

    /// A file that a parameter names cannot be read.
    #[cfg(feature = "tls")]
    #[cold]
    pub(crate) fn unreadable(field: &str, path: &std::path::Path, error: io::Error) -> Self {
        Self::unreadable_files(field, &path, error)
    }

    /// The same, where it is not known which file it was.
    #[cfg(feature = "tls")]
    #[cold]
    pub(crate) fn unreadable_files(field: &str, files: &dyn fmt::Debug, error: io::Error) -> Self {
        Error::InvalidParameter {
            field: field.into(),
            value: format!("{files:?}").into(),
            expected: format!("it cannot be read: {error}").into(),
            source: Some(Arc::new(error)),
        }
    }
}

impl std::error::Error for Error {
    /// The error that caused this one: of the operating system, of TLS, of the program's own ([`Error::Other`]), what ended
    /// the connection or channel, or the last one before a supervisor gave up. `Display` has named it already; see
    /// [`Error`](Error#printing-an-error).
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Other(error) => Some(&**error),
            Error::StreamLost(lost) => lost.source.get(),
            Error::InvalidFrame(error) => Some(error),
            Error::InvalidParameter {
                source: Some(error),
                ..
            } => Some(&**error),
            Error::ConnectionWrongState { cause, .. } => cause.as_ref().map(|cause| &**cause as _),
            Error::Unconfirmed(report) => report.cause.as_ref().map(|cause| cause as _),
            Error::GaveUp(gave_up) => gave_up.last().map(|error| error as _),
            _ => self.connect_failure()?.source.get(),
        }
    }
}

/// The errors that many places make, made in one.
impl Error {
    /// An argument of the program's own cannot be put on the wire; nothing was sent.
    #[cold]
    pub(crate) fn unsendable(error: WireError) -> Self {
        match error {
            WireError::ShortStringTooLong { field, length } => {
                Error::ShortStringTooLong { field, length }
            }
            WireError::Unsendable(what) => Error::invalid(&what.field, what.value, what.expected),
            WireError::NestedTooDeeply => Error::invalid(
                "argument",
                "a table with tables and arrays in it, more than 128 levels deep",
                "128 levels at most are expected",
            ),
            other => Error::invalid(
                "argument",
                other,
                "something that AMQP can carry is expected",
            ),
        }
    }

    /// What must be one frame is larger than the frames that were agreed on.
    #[cold]
    pub(crate) fn too_large(field: &str, size: usize, all: &str, frame_max: usize) -> Self {
        let expected = format!("{all} must fit into one frame of {frame_max} bytes");
        Error::invalid(field, format_args!("what takes {size} bytes"), &expected)
    }

    #[cold]
    pub(crate) fn unexpected(detail: fmt::Arguments<'_>) -> Self {
        let detail = Escaped(&fmt::format(detail)).to_string().into();
        Error::UnexpectedFrame { detail }
    }

    /// The connection is another process's.
    #[cold]
    pub(crate) fn forked(parent: u32, child: u32) -> Self {
        let reason = format!(
            "process {parent} opened it, and this is its child {child}, which needs a connection of its own"
        );
        Self::connection_closing(&reason)
    }

    #[cold]
    pub(crate) fn connection_closing(reason: &str) -> Self {
        Error::ConnectionWrongState {
            reason: reason.into(),
            cause: None,
        }
    }

    #[cold]
    pub(crate) fn connection_ended(end: &Error) -> Self {
        Error::ConnectionWrongState {
            reason: end.to_string().into(),
            cause: Some(Arc::new(end.clone())),
        }
    }

    #[cold]
    pub(crate) fn channel_not_open(channel: u16, reason: fmt::Arguments<'_>) -> Self {
        Error::ChannelWrongState {
            channel,
            reason: fmt::format(reason).into(),
        }
    }
}

/// What a panic said.
pub(crate) fn panic_text(payload: &(dyn Any + Send)) -> &str {
    match (
        payload.downcast_ref::<&str>(),
        payload.downcast_ref::<String>(),
    ) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "without a text",
    }
}

fn owned(messages: Vec<(u64, Arc<ReturnedMessage>)>) -> Vec<ReturnedMessage> {
    let messages = messages.into_iter();
    messages
        .map(|(_, message)| Arc::unwrap_or_clone(message))
        .collect()
}

/// Which rule of framing or of AMQP's types the peer broke (the specification's 4.2). `Display` names it.
///
/// ```
/// use haypile::Error;
///
/// /// Whether what came was no AMQP, so that a proxy or the network is to be looked at.
/// fn is_garbled(error: &Error) -> bool {
///     matches!(error, Error::InvalidFrame(rule) if !rule.to_string().is_empty())
/// }
/// assert!(!is_garbled(&haypile::Connection::open("amqp://127.0.0.1:1").unwrap_err()));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct SyntaxError(WireError);

impl Error {
    /// What came from the peer breaks a rule. For what is to be sent, see `unsendable`.
    #[cold]
    pub(crate) fn syntax(error: WireError) -> Self {
        Error::InvalidFrame(SyntaxError(error))
    }
}

/// How an open connection was lost (pika: `StreamLostError`).
///
/// ```
/// # #[cfg(feature = "testing")]
/// # fn main() -> haypile::Result<()> {
/// # let broker = haypile::testing::Broker::start()?;
/// use haypile::Error;
///
/// # let connection = haypile::Connection::open(broker.url())?;
/// # let channel = connection.channel()?;
/// # broker.connections()[0].cut();
/// if let Err(Error::StreamLost(lost)) = channel.queue_declare("q") {
///     println!("{}: {}", lost.address, lost.cause);
/// }
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "testing"))]
/// # fn main() {}
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamLost {
    /// Host and port.
    pub address: Arc<str>,
    /// What the operating system said, or `the peer closed the stream`.
    pub cause: String,
    /// How long nothing had come before.
    pub silent_for: Duration,
    pub(crate) source: Source,
}

impl fmt::Display for StreamLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "connection to {} lost: {}; the last bytes came {} before",
            self.address,
            self.cause,
            Span(self.silent_for)
        )
    }
}

/// Why a [`Supervisor`](crate::Supervisor) gave up.
///
/// ```
/// use haypile::{Error, Retry, Supervisor};
/// use std::time::Duration;
///
/// let retry = Retry::new().give_up_after(Duration::from_millis(50));
/// let supervisor = Supervisor::new("amqp://127.0.0.1:1").retry(retry);
/// match supervisor.run(|connection| connection.channel()?.start_consuming()) {
///     Err(Error::GaveUp(gave_up)) => {
///         for (error, count) in &gave_up.errors {
///             println!("{count} times {error}");
///         }
///     }
///     other => panic!("{other:?}"),
/// }
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct GaveUp {
    /// For how long there was no lasting connection.
    pub after: Duration,
    /// How many attempts failed in this time.
    pub attempts: u64,
    /// The newest error of each kind, and how often that kind came; the kind that came last is last. Kinds differ by
    /// variant, address and reply code; at most 16 are kept.
    pub errors: Vec<(Error, u64)>,
}

impl GaveUp {
    /// The error that came last.
    fn last(&self) -> Option<&Error> {
        self.errors.last().map(|(error, _)| error)
    }
}
