//! The one error type.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::escaped::Escaped;
use crate::protocol::WireError;
use crate::{ReturnedMessage, UnconfirmedReport};

/// What every fallible call of this crate answers.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, one variant for each pika exception that can happen here.
///
/// The variants bear pika's names without the suffix. Common questions have predicates, so that matching is
/// seldom needed: [`is_connection_error`](Error::is_connection_error), [`is_channel_error`](Error::is_channel_error),
/// [`reply_code`](Error::reply_code), [`address`](Error::address).
///
/// ```
/// # use haypile::{Connection, ConnectionParameters};
/// let refused = Connection::open(ConnectionParameters::new("127.0.0.1").port(1)).unwrap_err();
/// assert!(refused.is_connection_error());
/// assert_eq!(refused.address(), Some("127.0.0.1:1"));
/// ```
#[derive(Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No connection came about, for a reason that none of the more specific variants names: the port refused, the
    /// time was up (pika: `AMQPConnectionError`).
    #[error("{0}")]
    Connection(Box<ConnectFailure>),
    /// The host's name could not be resolved (pika lets `socket.gaierror` through).
    #[error("{0}")]
    Dns(Box<ConnectFailure>),
    /// TLS could not be agreed on: an untrusted certificate, a wrong name, a server that speaks no TLS
    /// (pika lets `ssl.SSLError` through).
    #[error("{0}")]
    Tls(Box<ConnectFailure>),
    /// The peer does not speak AMQP 0-9-1 (pika: `IncompatibleProtocolError`).
    #[error("{0}")]
    IncompatibleProtocol(Box<ConnectFailure>),
    /// The server offers no mechanism that these credentials can use (pika: `AuthenticationError`).
    #[error("{0}")]
    Authentication(Box<ConnectFailure>),
    /// The server refused the login, or closed the stream at that point, as older servers do
    /// (pika: `ProbableAuthenticationError`).
    #[error("{0}")]
    ProbableAuthentication(Box<ConnectFailure>),
    /// The server refused the virtual host, or closed the stream at that point (pika: `ProbableAccessDeniedError`).
    #[error("{0}")]
    ProbableAccessDenied(Box<ConnectFailure>),

    /// An open connection was lost (pika: `StreamLostError`).
    #[error("{0}")]
    StreamLost(Box<StreamLost>),
    /// Nothing came from the server for longer than the heartbeat allows (pika: `AMQPHeartbeatTimeout`).
    #[error(
        "heartbeat timeout: nothing came from {address} for {} s, at a heartbeat of {} s",
        silent_for.as_secs(), heartbeat.as_secs()
    )]
    HeartbeatTimeout {
        /// Host and port.
        address: Arc<str>,
        /// What was negotiated.
        heartbeat: Duration,
        /// How long nothing had come.
        silent_for: Duration,
    },
    /// The server closed the connection (pika: `ConnectionClosedByBroker`).
    #[error(
        "connection to {address} closed by the broker: {reply_code} {}{}{}",
        Escaped(reply_text), Cause(*method, *reply_code, reply_text), WhileClosing(*while_closing)
    )]
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
    #[error(
        "connection closed by this program: {reply_code} {}",
        Escaped(reply_text)
    )]
    #[non_exhaustive]
    ConnectionClosedByClient {
        /// The code given to `close_with`.
        reply_code: u16,
        /// The text given to `close_with`.
        reply_text: String,
    },
    /// The connection is closed or closing, so the call cannot be made (pika: `ConnectionWrongStateError`).
    #[error("the connection is not open: {reason}")]
    ConnectionWrongState {
        /// Why it is not.
        reason: Arc<str>,
    },
    /// The broker blocked the connection (memory or disk alarm) for longer than
    /// `blocked_connection_timeout` (pika: `ConnectionBlockedTimeout`).
    #[error("{address} blocked the connection for more than {} ({})", Span(*timeout), Escaped(reason))]
    ConnectionBlockedTimeout {
        /// Host and port.
        address: Arc<str>,
        /// The limit that was set.
        timeout: Duration,
        /// The broker's reason, such as `low on memory`.
        reason: Arc<str>,
    },
    /// Every channel number up to the negotiated maximum is in use (pika: `NoFreeChannels`).
    #[error("no free channels: all {channel_max} are in use")]
    NoFreeChannels {
        /// The negotiated maximum.
        channel_max: u16,
    },

    /// The server closed the channel (pika: `ChannelClosedByBroker`). The connection stays open.
    #[error("channel {channel} closed by the broker: {reply_code} {}{}", Escaped(reply_text), Cause(*method, *reply_code, reply_text))]
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
    #[error(
        "channel {channel} closed by this program: {reply_code} {}",
        Escaped(reply_text)
    )]
    #[non_exhaustive]
    ChannelClosedByClient {
        /// The code given to `close_with`.
        reply_code: u16,
        /// The text given to `close_with`.
        reply_text: String,
        /// The channel's number.
        channel: u16,
    },
    /// The channel is closed or closing, so the call cannot be made (pika: `ChannelWrongStateError`).
    #[error("channel {channel} is not open: {reason}")]
    ChannelWrongState {
        /// The channel's number.
        channel: u16,
        /// Why it is not.
        reason: Arc<str>,
    },
    /// A consumer with this tag exists on the channel (pika: `DuplicateConsumerTag`).
    #[error("consumer tag {consumer_tag:?} is in use on this channel")]
    DuplicateConsumerTag {
        /// The tag.
        consumer_tag: String,
    },
    /// A mandatory message could not be routed and came back (pika: `UnroutableError`).
    #[error("{}", Returned("unroutable", .0))]
    Unroutable(Vec<ReturnedMessage>),
    /// The broker refused a message (pika: `NackError`); with what was returned, if anything was.
    #[error("{}", Returned("refused by the broker", .0))]
    Nack(Vec<ReturnedMessage>),
    /// Some messages of a [`Publisher`](crate::Publisher) were returned, refused, or not confirmed in time, or before the
    /// channel or the connection ended. The predicates and `reply_code` speak of what ended it, if anything did.
    #[error("{0}")]
    Unconfirmed(Box<UnconfirmedReport>),

    /// A frame came that has no place where it came (pika: `UnexpectedFrameError`).
    #[error("unexpected frame: {detail}")]
    UnexpectedFrame {
        /// What came, and where.
        detail: Arc<str>,
    },
    /// Bytes came that are no AMQP frame, or break a rule of framing (pika: `InvalidFrameError`, `BodyTooLongError`,
    /// `InvalidFieldTypeException`).
    #[error("protocol syntax: {0}")]
    InvalidFrame(SyntaxError),
    /// A channel number outside 1 … `channel_max`, or one that is in use (pika: `InvalidChannelNumber`).
    #[error("channel number {number} is {problem}")]
    InvalidChannelNumber {
        /// The number asked for.
        number: u16,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The server does not have what the call needs (pika: `MethodNotImplementedError`).
    #[error("the server does not support {capability}")]
    MethodNotImplemented {
        /// The missing capability.
        capability: &'static str,
    },
    /// A name or text of over 255 bytes was given where AMQP has no room for it (pika: `ShortStringTooLong`).
    #[error("{field} is {length} bytes long; AMQP allows 255")]
    ShortStringTooLong {
        /// Which argument or property.
        field: &'static str,
        /// Its length in bytes.
        length: usize,
    },
    /// An argument that cannot be sent or makes no sense (pika: `ValueError`, `TypeError`).
    #[error("{field}: {value} is not allowed; {expected}")]
    InvalidParameter {
        /// Which argument, parameter or URL option.
        field: Box<str>,
        /// The value given (never a secret).
        value: Box<str>,
        /// What would be.
        expected: Box<str>,
    },

    /// The call cannot be made from inside a callback (pika: `ReentrancyError`).
    #[error("{call} cannot be called from inside a callback")]
    #[non_exhaustive]
    Reentrancy {
        /// The call.
        call: &'static str,
    },
    /// The broker, or room in the output buffer, was waited for as long as the parameters allow.
    #[error("no end of {waiting_for} within {}", Span(*after))]
    Timeout {
        /// What was waited for.
        waiting_for: &'static str,
        /// For how long.
        after: Duration,
    },
    /// An error of the program's own, on its way out of a callback; see [`Error::other`].
    #[error("{0}")]
    Other(Arc<dyn std::error::Error + Send + Sync>),
}

/// The variant's name and the text: what a program shows whose `main` returns this.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {self}", self.kind())
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
            Error::Other(_) => "Other",
        }
    }

    /// Wraps a foreign error, so that a callback can end with it: `text.parse().map_err(Error::other)?`.
    pub fn other(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Error::Other(Arc::from(error.into()))
    }

    /// Whether the connection is not usable after this (pika: `AMQPConnectionError` and what derives from it, and
    /// violations of the protocol by the peer).
    pub fn is_connection_error(&self) -> bool {
        matches!(
            self.end_of_channel(),
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
                | Error::NoFreeChannels { .. }
                | Error::UnexpectedFrame { .. }
                | Error::InvalidFrame(_)
        )
    }

    /// Whether this concerns one channel and leaves the connection open (pika: `AMQPChannelError` and what derives from
    /// it).
    pub fn is_channel_error(&self) -> bool {
        matches!(
            self.end_of_channel(),
            Error::ChannelClosedByBroker { .. }
                | Error::ChannelClosedByClient { .. }
                | Error::ChannelWrongState { .. }
                | Error::DuplicateConsumerTag { .. }
                | Error::Unroutable(_)
                | Error::Nack(_)
                | Error::Unconfirmed(_)
        )
    }

    /// What a report of unconfirmed messages gives as the end of its channel or connection; any other error is its own.
    fn end_of_channel(&self) -> &Error {
        match self {
            Error::Unconfirmed(report) => report.cause.as_ref().unwrap_or(self),
            _ => self,
        }
    }

    /// The AMQP reply code, where the server (or `close_with`) gave one.
    pub fn reply_code(&self) -> Option<u16> {
        match self.end_of_channel() {
            Error::ConnectionClosedByBroker { reply_code, .. }
            | Error::ConnectionClosedByClient { reply_code, .. }
            | Error::ChannelClosedByBroker { reply_code, .. }
            | Error::ChannelClosedByClient { reply_code, .. } => Some(*reply_code),
            Error::Unroutable(returned) | Error::Nack(returned) => {
                returned.first().map(|message| message.method.reply_code)
            }
            _ => self
                .connect_failure()
                .and_then(|failure| failure.reply_code),
        }
    }

    /// Host and port of the peer, where the error concerns one.
    pub fn address(&self) -> Option<&str> {
        match self.end_of_channel() {
            Error::StreamLost(lost) => Some(&lost.address),
            Error::HeartbeatTimeout { address, .. }
            | Error::ConnectionClosedByBroker { address, .. }
            | Error::ConnectionBlockedTimeout { address, .. } => Some(address),
            _ => self.connect_failure().map(|failure| &*failure.address),
        }
    }

    /// What was tried, if this comes from connecting.
    pub fn connect_failure(&self) -> Option<&ConnectFailure> {
        match self {
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
        Error::invalid(field, format_args!("a frame of {size} bytes"), &expected)
    }

    #[cold]
    pub(crate) fn unexpected(detail: fmt::Arguments<'_>) -> Self {
        let detail = Escaped(&fmt::format(detail)).to_string().into();
        Error::UnexpectedFrame { detail }
    }

    #[cold]
    pub(crate) fn connection_not_open(reason: fmt::Arguments<'_>) -> Self {
        let reason = fmt::format(reason).into();
        Error::ConnectionWrongState { reason }
    }

    #[cold]
    pub(crate) fn channel_not_open(channel: u16, reason: fmt::Arguments<'_>) -> Self {
        let reason = fmt::format(reason).into();
        Error::ChannelWrongState { channel, reason }
    }

    #[cold]
    pub(crate) fn timeout(waiting_for: &'static str, after: Duration) -> Self {
        Error::Timeout { waiting_for, after }
    }
}

fn owned(messages: Vec<(u64, Arc<ReturnedMessage>)>) -> Vec<ReturnedMessage> {
    let messages = messages.into_iter();
    messages
        .map(|(_, message)| Arc::unwrap_or_clone(message))
        .collect()
}

impl From<Box<dyn std::error::Error + Send + Sync>> for Error {
    fn from(error: Box<dyn std::error::Error + Send + Sync>) -> Self {
        Error::other(error)
    }
}

/// Which rule of framing or of AMQP's types the peer broke (the specification's 4.2). `Display` says it.
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

/// How far connecting came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// Resolving the host's name.
    Dns,
    /// Reaching the address.
    Tcp,
    /// Agreeing on TLS.
    Tls,
    /// The protocol header was sent; `connection.start` was expected.
    ProtocolHeader,
    /// The login was sent; `connection.tune` was expected.
    Authentication,
    /// `connection.tune-ok` and `connection.open` were sent; `connection.open-ok` was expected.
    VirtualHost,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Dns => "DNS",
            Stage::Tcp => "TCP",
            Stage::Tls => "TLS",
            Stage::ProtocolHeader => "protocol header",
            Stage::Authentication => "authentication",
            Stage::VirtualHost => "tune and virtual host",
        })
    }
}

/// Why one attempt to connect failed. It is handed on in a box, since many steps may answer one and hardly any does.
pub(crate) struct Failure {
    /// The variant of [`Error`] that it becomes.
    pub(crate) kind: fn(Box<ConnectFailure>) -> Error,
    pub(crate) stage: Stage,
    pub(crate) cause: String,
    pub(crate) reply_code: Option<u16>,
    pub(crate) hint: Option<&'static str>,
}

impl Failure {
    #[cold]
    pub(crate) fn new(
        kind: fn(Box<ConnectFailure>) -> Error,
        stage: Stage,
        cause: fmt::Arguments<'_>,
        hint: Option<&'static str>,
    ) -> Box<Self> {
        Box::new(Failure {
            kind,
            stage,
            cause: Escaped(&fmt::format(cause)).to_string(),
            reply_code: None,
            hint,
        })
    }
}

/// One attempt to connect to one address.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attempt {
    /// Host and port as given, and the address it stood for where they differ.
    pub address: String,
    /// How far it came.
    pub stage: Stage,
    /// What went wrong.
    pub cause: String,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.address, self.stage, self.cause)
    }
}

/// Why no connection came about. The attempt that got furthest gives the error its kind; all of them are listed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectFailure {
    /// Host and port of the attempt that got furthest.
    pub address: Arc<str>,
    /// How far it came.
    pub stage: Stage,
    /// What went wrong there.
    pub cause: String,
    /// The server's reply code, if it gave one.
    pub reply_code: Option<u16>,
    /// What most often causes this, and what to do.
    pub hint: Option<&'static str>,
    /// Every attempt made, in order.
    pub attempts: Vec<Attempt>,
}

impl fmt::Display for ConnectFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cannot connect to {} (stage: {}): {}",
            self.address, self.stage, self.cause
        )?;
        if let Some(hint) = self.hint {
            write!(f, "; {hint}")?;
        }
        if self.attempts.len() > 1 {
            write!(f, "; all {} attempts:", self.attempts.len())?;
            for (n, attempt) in self.attempts.iter().enumerate() {
                write!(f, "{} {attempt}", if n == 0 { "" } else { "," })?;
            }
        }
        Ok(())
    }
}

/// How an open connection was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamLost {
    /// Host and port.
    pub address: Arc<str>,
    /// What the operating system said, or `the peer closed the stream`.
    pub cause: String,
    /// How long nothing had come before.
    pub silent_for: Duration,
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

/// A time to the millisecond. `Debug` of a duration is exact to the nanosecond, and much code.
pub(crate) struct Span(pub(crate) Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.as_secs(), self.0.subsec_millis()) {
            (0, millis) => write!(f, "{millis}ms"),
            (seconds, 0) => write!(f, "{seconds}s"),
            (seconds, millis) => write!(f, "{seconds}.{millis:03}s"),
        }
    }
}

/// What caused a closure, and what to do about it where that is known.
struct Cause<'a>(Option<&'static str>, u16, &'a str);

impl fmt::Display for Cause<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cause(method, reply_code, reply_text) = self;
        if let Some(method) = method {
            write!(f, " (caused by {method})")?;
        }
        let mut words = reply_text.as_bytes().windows(9);
        if *reply_code == 541 && words.any(|word| word == b"transient") {
            f.write_str("; this broker has no queues that are neither durable nor exclusive: declare it .durable(true) or .exclusive(true)")?;
        }
        Ok(())
    }
}

/// What is not known when a connection ended, and the broker had not confirmed that it is closed.
pub(crate) const FATE_UNKNOWN: &str =
    "whether the broker received what was published last is unknown";

struct WhileClosing(bool);

impl fmt::Display for WhileClosing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 {
            write!(f, "; {FATE_UNKNOWN}")?;
        }
        Ok(())
    }
}

/// How many returned messages an error text shows.
const RETURNS_SHOWN: usize = 5;

struct Returned<'a>(&'static str, &'a [ReturnedMessage]);

impl fmt::Display for Returned<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Returned(what, messages) = self;
        f.write_str(what)?;
        for ReturnedMessage { method, .. } in messages.iter().take(RETURNS_SHOWN) {
            write!(
                f,
                ": {} {} (exchange {:?}, routing key {:?})",
                method.reply_code,
                Escaped(&method.reply_text),
                method.exchange,
                method.routing_key
            )?;
        }
        match messages.len().checked_sub(RETURNS_SHOWN) {
            Some(more @ 1..) => write!(f, "; and {more} more"),
            _ => Ok(()),
        }
    }
}
