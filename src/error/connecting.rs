//! What can go wrong while connecting.

use std::fmt;
use std::sync::Arc;

use super::retry::may_pass;
use super::{Error, Source};
use crate::escaped::Escaped;

/// How far connecting came. Has no counterpart in pika.
///
/// ```
/// use haypile::{Connection, Stage};
///
/// let refused = Connection::open("amqp://127.0.0.1:1").unwrap_err();
/// assert_eq!(refused.connect_failure().unwrap().stage, Stage::Tcp);
/// ```
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

/// Why one attempt to connect failed. It is handed on in a box, since many steps may return one and hardly any does.
pub(crate) struct Failure {
    /// The variant of [`Error`] that it becomes.
    pub(crate) kind: fn(Arc<ConnectFailure>) -> Error,
    pub(crate) stage: Stage,
    pub(crate) cause: String,
    pub(crate) reply_code: Option<u16>,
    pub(crate) hint: Option<&'static str>,
    /// Whether the next attempt may succeed.
    pub(crate) retryable: bool,
    pub(crate) source: Source,
}

impl Failure {
    /// One that the next attempt would meet again.
    #[cold]
    pub(crate) fn new(
        kind: fn(Arc<ConnectFailure>) -> Error,
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
            retryable: false,
            source: Source::default(),
        })
    }

    /// One that the server refused, by a code and a text of its own.
    #[cold]
    pub(crate) fn refused(
        kind: fn(Arc<ConnectFailure>) -> Error,
        stage: Stage,
        reply_code: u16,
        reply_text: &str,
    ) -> Box<Self> {
        let mut failure =
            Failure::new(kind, stage, format_args!("{reply_code} {reply_text}"), None);
        failure.reply_code = Some(reply_code);
        failure.retryable = may_pass(reply_code, reply_text);
        failure
    }

    /// Says whether the next attempt may succeed.
    pub(crate) fn retryable(mut self: Box<Self>, retryable: bool) -> Box<Self> {
        self.retryable = retryable;
        self
    }

    /// The error of all attempts, of which this is the one that got furthest.
    pub(crate) fn into_error(
        self,
        address: Arc<str>,
        attempts: Vec<Attempt>,
        attempts_made: usize,
    ) -> Error {
        (self.kind)(Arc::new(ConnectFailure {
            address,
            stage: self.stage,
            cause: self.cause,
            reply_code: self.reply_code,
            hint: self.hint,
            attempts,
            attempts_made,
            retryable: self.retryable,
            source: self.source,
        }))
    }

    /// Keeps the error that caused it.
    pub(crate) fn caused_by(
        mut self: Box<Self>,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Box<Self> {
        self.source = Source::new(source);
        self
    }
}

/// One attempt to connect to one address. Has no counterpart in pika, which keeps the last error alone.
///
/// ```
/// # use haypile::Connection;
/// let refused = Connection::open("amqp://127.0.0.1:1").unwrap_err();
/// let failure = refused.connect_failure().unwrap();
/// assert_eq!(&*failure.attempts[0].address, "127.0.0.1:1");
/// ```
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

/// Why no connection came about (pika: the fields of its exceptions, for the last attempt alone).
///
/// The attempt that got furthest gives the error its kind, its cause and its source; all of them are listed. Trying again can help
/// ([`Error::is_retryable`]) if the last attempt at any of the addresses failed in a way that may pass: a broker that is down
/// can come back and take the login that another one refused.
///
/// ```
/// # use haypile::{Connection, ConnectionParameters};
/// let twice = ConnectionParameters::new("127.0.0.1").port(1).connection_attempts(2);
/// # let twice = twice.retry_delay(std::time::Duration::ZERO);
/// let refused = Connection::open(twice).unwrap_err();
/// assert_eq!(refused.connect_failure().unwrap().attempts.len(), 2);
/// ```
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
    /// The attempts made, in order: all of them, or the first ten and the last ten.
    pub attempts: Vec<Attempt>,
    /// How many attempts were made.
    pub attempts_made: usize,
    /// Whether the last attempt at any of the addresses failed in a way that may pass.
    pub(crate) retryable: bool,
    pub(crate) source: Source,
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
            write!(f, "; all {} attempts:", self.attempts_made)?;
            let left_out = self.attempts_made.saturating_sub(self.attempts.len());
            for (n, attempt) in self.attempts.iter().enumerate() {
                if left_out > 0 && n == self.attempts.len() / 2 {
                    write!(f, ", ({left_out} more)")?;
                }
                write!(f, "{} {attempt}", if n == 0 { "" } else { "," })?;
            }
        }
        Ok(())
    }
}
