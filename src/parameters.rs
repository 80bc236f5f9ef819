//! What a connection is opened with.

mod heartbeat;
mod into_parameters;
mod tcp;

use std::net::Ipv6Addr;
use std::time::Duration;

pub use self::heartbeat::Heartbeat;
pub use self::into_parameters::IntoParameters;
pub use self::tcp::TcpOptions;
use crate::credentials::Credentials;
use crate::error::{Error, Result};
use crate::protocol::WireError;
#[cfg(feature = "tls")]
use crate::TlsOptions;
use crate::{FieldTable, FieldValue, ShortString};

/// The port for plain connections, unless another is given (AMQP 0-9-1, section 4.2.1).
const PORT: u16 = 5672;
/// The port for TLS, unless another is given.
const TLS_PORT: u16 = 5671;
/// The smallest `frame_max` that can be asked for; RabbitMQ 4.1 and later refuse less.
const FRAME_MAX_LEAST: u32 = 8192;
/// The largest `frame_max` that can be asked for, and the default.
const FRAME_MAX_MOST: u32 = 131_072;
/// The most bytes that a short string has room for (AMQP 0-9-1, section 4.2.5.3).
const SHORT_STRING: usize = 255;

/// Where the broker is, how to log in, and what to agree on (pika: `ConnectionParameters`, `URLParameters`).
///
/// Each of pika's fields has a setter of the same name. Nothing is checked until the connection is opened: then what is
/// out of range fails with [`Error::InvalidParameter`], which names the field, the value and what is allowed.
/// `Debug` does not show the password.
///
/// ```
/// use haypile::{ConnectionParameters, PlainCredentials};
/// use std::time::Duration;
///
/// let parameters = ConnectionParameters::new("rabbit.example")
///     .virtual_host("shop")
///     .credentials(PlainCredentials::new("orders", "secret"))
///     .heartbeat(30)
///     .connection_attempts(5)
///     .retry_delay(Duration::from_secs(1))
///     .client_property("connection_name", "orders");
/// # let _ = parameters;
/// ```
///
/// The defaults are pika's: `localhost`, port 5672 (5671 with TLS), virtual host `/`, user `guest` with password
/// `guest`, the heartbeat that the server proposes, `channel_max` 65535, `frame_max` 131072, one connection attempt,
/// `retry_delay` 2 s, `socket_timeout` 10 s, `stack_timeout` 15 s, no `blocked_connection_timeout`, locale `en_US`. The
/// `rpc_timeout` of 60 s and `max_message_size` of 512 MiB are haypile's own.
#[doc(alias = "URLParameters")]
#[doc(alias = "Parameters")]
#[derive(Debug, Clone)]
pub struct ConnectionParameters {
    pub(crate) host: String,
    /// `None`: the scheme's own; see `effective_port`.
    pub(crate) port: Option<u16>,
    pub(crate) virtual_host: String,
    pub(crate) credentials: Credentials,
    pub(crate) channel_max: u16,
    pub(crate) frame_max: u32,
    pub(crate) heartbeat: Heartbeat,
    pub(crate) connection_attempts: u32,
    pub(crate) retry_delay: Duration,
    pub(crate) socket_timeout: Option<Duration>,
    pub(crate) stack_timeout: Option<Duration>,
    pub(crate) blocked_connection_timeout: Option<Duration>,
    pub(crate) rpc_timeout: Duration,
    pub(crate) max_message_size: u64,
    pub(crate) locale: String,
    /// What the program adds to the defaults; see `merged_client_properties`.
    pub(crate) client_properties: FieldTable,
    pub(crate) tcp_options: TcpOptions,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<TlsOptions>,
}

impl ConnectionParameters {
    /// This host (a name or an address, IPv6 with or without brackets), and the defaults for everything else.
    ///
    /// ```
    /// use haypile::ConnectionParameters;
    ///
    /// assert_eq!(ConnectionParameters::new("::1"), ConnectionParameters::from_url("amqp://[::1]")?);
    /// # Ok::<(), haypile::Error>(())
    /// ```
    pub fn new(host: impl Into<String>) -> Self {
        ConnectionParameters {
            host: without_brackets(host.into()),
            ..Self::default()
        }
    }

    /// The broker's host: a name or an address, IPv6 with or without brackets. Default: `localhost`.
    ///
    /// ```
    /// use haypile::ConnectionParameters;
    ///
    /// let parameters = ConnectionParameters::default().host("rabbit.example");
    /// assert_eq!(parameters, ConnectionParameters::new("rabbit.example"));
    /// ```
    #[must_use]
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.host = without_brackets(host.into());
        self
    }

    /// The broker's port. Default: 5672, or 5671 with TLS.
    ///
    /// ```
    /// use haypile::ConnectionParameters;
    ///
    /// let parameters = ConnectionParameters::default().port(5673);
    /// assert_eq!(parameters, ConnectionParameters::from_url("amqp://localhost:5673")?);
    /// # Ok::<(), haypile::Error>(())
    /// ```
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// The virtual host, at most 255 bytes, as it is (not percent-encoded). Default: `/`.
    ///
    /// ```
    /// use haypile::ConnectionParameters;
    ///
    /// let parameters = ConnectionParameters::default().virtual_host("shop/eu");
    /// assert_eq!(parameters, ConnectionParameters::from_url("amqp://localhost/shop%2Feu")?);
    /// # Ok::<(), haypile::Error>(())
    /// ```
    #[must_use]
    pub fn virtual_host(mut self, virtual_host: impl Into<String>) -> Self {
        self.virtual_host = virtual_host.into();
        self
    }

    /// How to log in: [`PlainCredentials`](crate::PlainCredentials),
    /// [`AmqPlainCredentials`](crate::AmqPlainCredentials) or [`ExternalCredentials`](crate::ExternalCredentials).
    /// Default: `guest` with the password `guest`.
    ///
    /// ```
    /// use haypile::{ConnectionParameters, PlainCredentials};
    ///
    /// let parameters = ConnectionParameters::default().credentials(PlainCredentials::new("orders", "secret"));
    /// assert_eq!(parameters, ConnectionParameters::from_url("amqp://orders:secret@localhost")?);
    /// # Ok::<(), haypile::Error>(())
    /// ```
    #[must_use]
    pub fn credentials(mut self, credentials: impl Into<Credentials>) -> Self {
        self.credentials = credentials.into();
        self
    }

    /// The most channels to ask for, 1 to 65535; the server may allow fewer. Default: 65535.
    ///
    /// ```
    /// # #[cfg(feature = "testing")]
    /// # fn main() -> haypile::Result<()> {
    /// # let broker = haypile::testing::Broker::start()?;
    /// use haypile::ConnectionParameters;
    ///
    /// let connection = broker.connect(ConnectionParameters::default().channel_max(8))?;
    /// assert_eq!(connection.channel_max(), 8);
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "testing"))]
    /// # fn main() {}
    /// ```
    #[must_use]
    pub fn channel_max(mut self, channel_max: u16) -> Self {
        self.channel_max = channel_max;
        self
    }

    /// The largest frame to ask for, 8192 to 131072 bytes; the server may allow less. Default: 131072.
    ///
    /// ```
    /// # #[cfg(feature = "testing")]
    /// # fn main() -> haypile::Result<()> {
    /// # let broker = haypile::testing::Broker::start()?;
    /// use haypile::ConnectionParameters;
    ///
    /// let connection = broker.connect(ConnectionParameters::default().frame_max(16_384))?;
    /// assert_eq!(connection.frame_max(), 16_384);
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "testing"))]
    /// # fn main() {}
    /// ```
    #[must_use]
    pub fn frame_max(mut self, frame_max: u32) -> Self {
        self.frame_max = frame_max;
        self
    }

    /// The heartbeat timeout in seconds, which overrides what the server proposes; 0 turns heartbeats off; `None` (the
    /// default) takes the server's; [`Heartbeat::negotiate`] asks a function.
    ///
    /// ```
    /// use haypile::{ConnectionParameters, Heartbeat};
    ///
    /// let off = ConnectionParameters::default().heartbeat(0);
    /// let the_servers = ConnectionParameters::default().heartbeat(None);
    /// let at_most_a_minute = ConnectionParameters::default().heartbeat(Heartbeat::negotiate(|server| server.min(60)));
    /// # let _ = (off, the_servers, at_most_a_minute);
    /// ```
    #[must_use]
    pub fn heartbeat(mut self, heartbeat: impl Into<Heartbeat>) -> Self {
        self.heartbeat = heartbeat.into();
        self
    }

    /// How often to go through all addresses before giving up, at least once. Default: 1.
    ///
    /// ```
    /// use haypile::{Connection, ConnectionParameters};
    /// use std::time::Duration;
    ///
    /// let refused = ConnectionParameters::new("127.0.0.1").port(1); // nothing listens there
    /// let error = Connection::open(refused.connection_attempts(3).retry_delay(Duration::ZERO)).unwrap_err();
    /// assert_eq!(error.connect_failure().unwrap().attempts_made, 3);
    /// ```
    #[must_use]
    pub fn connection_attempts(mut self, connection_attempts: u32) -> Self {
        self.connection_attempts = connection_attempts;
        self
    }

    /// How long to wait between attempts. Default: 2 s.
    ///
    /// ```
    /// use haypile::{Connection, ConnectionParameters};
    /// use std::time::{Duration, Instant};
    ///
    /// let refused = ConnectionParameters::new("127.0.0.1").port(1); // nothing listens there
    /// let begun = Instant::now();
    /// assert!(Connection::open(refused.connection_attempts(2).retry_delay(Duration::from_millis(20))).is_err());
    /// assert!(begun.elapsed() >= Duration::from_millis(20));
    /// ```
    #[must_use]
    pub fn retry_delay(mut self, retry_delay: Duration) -> Self {
        self.retry_delay = retry_delay;
        self
    }

    /// How long to wait for one address to accept the connection; more than zero, `None` for as long as the operating
    /// system does. Default: 10 s.
    ///
    /// ```
    /// use haypile::ConnectionParameters;
    /// use std::time::Duration;
    ///
    /// let parameters = ConnectionParameters::default().socket_timeout(Duration::from_secs(3));
    /// assert_eq!(parameters, ConnectionParameters::from_url("amqp://localhost?socket_timeout=3")?);
    /// # Ok::<(), haypile::Error>(())
    /// ```
    #[must_use]
    pub fn socket_timeout(mut self, socket_timeout: impl Into<Option<Duration>>) -> Self {
        self.socket_timeout = socket_timeout.into();
        self
    }

    /// How long to wait for one address until the connection is open, TLS and login included; more than zero, `None`
    /// for ever. Should be more than `socket_timeout`. Default: 15 s.
    ///
    /// Looking up the host's name may take as long once more, and so may reading the files of TLS, which may be pipes or lie
    /// on another machine. What the system does not return from by then goes on in a thread that is left behind; when 16
    /// have not come to an end, look-ups and reading fail at once.
    ///
    /// ```
    /// # #[cfg(feature = "testing")]
    /// # fn main() -> haypile::Result<()> {
    /// # let broker = haypile::testing::Broker::start()?;
    /// use haypile::{testing::Direction, Connection, ConnectionParameters};
    /// use std::time::Duration;
    ///
    /// broker.next_connection().stall(Direction::ToClient);
    /// let parameters = ConnectionParameters::from_url(broker.url())?.stack_timeout(Duration::from_millis(50));
    /// assert!(Connection::open(parameters).unwrap_err().is_connection_error());
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "testing"))]
    /// # fn main() {}
    /// ```
    #[must_use]
    pub fn stack_timeout(mut self, stack_timeout: impl Into<Option<Duration>>) -> Self {
        self.stack_timeout = stack_timeout.into();
        self
    }

    /// How long the broker may block the connection (for want of memory or disk) before it is given up with
    /// [`Error::ConnectionBlockedTimeout`]; `None` (the default) is for ever.
    ///
    /// ```
    /// # #[cfg(feature = "testing")]
    /// # fn main() -> haypile::Result<()> {
    /// # let broker = haypile::testing::Broker::start()?;
    /// use haypile::{ConnectionParameters, Error};
    /// use std::time::Duration;
    ///
    /// let parameters = ConnectionParameters::default().blocked_connection_timeout(Duration::from_millis(50));
    /// let channel = broker.connect(parameters)?.channel()?;
    /// # broker.block("low on memory");
    /// channel.basic_publish("", "tasks", "dig")?;
    /// let error = channel.queue_declare("tasks").unwrap_err();
    /// assert!(matches!(error, Error::ConnectionBlockedTimeout { .. }), "{error}");
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "testing"))]
    /// # fn main() {}
    /// ```
    #[must_use]
    pub fn blocked_connection_timeout(
        mut self,
        blocked_connection_timeout: impl Into<Option<Duration>>,
    ) -> Self {
        self.blocked_connection_timeout = blocked_connection_timeout.into();
        self
    }

    /// How long a call waits for the broker's reply before it fails with [`Error::Timeout`] and its channel is closed;
    /// more than zero. Default: 60 s. (pika waits for ever.)
    ///
    /// ```
    /// # #[cfg(feature = "testing")]
    /// # fn main() -> haypile::Result<()> {
    /// # let broker = haypile::testing::Broker::start()?;
    /// use haypile::{testing::Direction, ConnectionParameters, Error};
    /// use std::time::Duration;
    ///
    /// let parameters = ConnectionParameters::default().rpc_timeout(Duration::from_millis(500));
    /// let channel = broker.connect(parameters)?.channel()?;
    /// # broker.connections()[0].stall(Direction::ToClient);
    /// assert!(matches!(channel.queue_declare("tasks"), Err(Error::Timeout { .. })));
    /// # broker.connections()[0].resume();
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "testing"))]
    /// # fn main() {}
    /// ```
    #[must_use]
    pub fn rpc_timeout(mut self, rpc_timeout: Duration) -> Self {
        self.rpc_timeout = rpc_timeout;
        self
    }

    /// The largest body of a message that is taken in, in bytes, at least 1. Default: 512 MiB, more than which RabbitMQ never
    /// lets through (its own setting of this name limits what may be published: 16 MiB by default from 4.0 on, 128 MiB before).
    ///
    /// A larger message costs its channel, which is closed with 311 (`CONTENT_TOO_LARGE`; specification 1.2) and
    /// reports [`Error::MessageTooLarge`]. It takes no memory, and the connection stays open. The broker keeps the
    /// message unless it was to be acknowledged automatically. Not in pika, which takes whatever comes.
    ///
    /// ```
    /// # #[cfg(feature = "testing")]
    /// # fn main() -> haypile::Result<()> {
    /// # let broker = haypile::testing::Broker::start()?;
    /// use haypile::{ConnectionParameters, Error};
    ///
    /// let connection = broker.connect(ConnectionParameters::default().max_message_size(1000))?;
    /// let channel = connection.channel()?;
    /// channel.queue_declare("tasks")?;
    /// channel.basic_publish("", "tasks", [0u8; 1001])?;
    /// assert!(matches!(channel.basic_get("tasks"), Err(Error::MessageTooLarge { size: 1001, .. })));
    /// assert!(connection.is_open());
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "testing"))]
    /// # fn main() {}
    /// ```
    #[must_use]
    pub fn max_message_size(mut self, max_message_size: u64) -> Self {
        self.max_message_size = max_message_size;
        self
    }

    /// The language of the server's texts, at most 255 bytes. Default: `en_US`, the only one there is.
    ///
    /// ```
    /// use haypile::ConnectionParameters;
    ///
    /// let parameters = ConnectionParameters::default().locale("de_DE");
    /// assert_eq!(parameters, ConnectionParameters::from_url("amqp://localhost?locale=de_DE")?);
    /// # Ok::<(), haypile::Error>(())
    /// ```
    #[must_use]
    pub fn locale(mut self, locale: impl Into<String>) -> Self {
        self.locale = locale.into();
        self
    }

    /// Adds something that is sent to the broker about this program, or replaces it. `connection_name` is what RabbitMQ's
    /// management page shows.
    ///
    /// A table given as `capabilities` is merged into the library's own, so that single ones can be turned off:
    ///
    /// ```
    /// use haypile::{ConnectionParameters, FieldTable};
    ///
    /// let mut capabilities = FieldTable::new();
    /// capabilities.insert("connection.blocked", false);
    /// let parameters = ConnectionParameters::default()
    ///     .client_property("connection_name", "orders")
    ///     .client_property("capabilities", capabilities);
    /// # let _ = parameters;
    /// ```
    #[doc(alias = "client_properties")]
    #[must_use]
    pub fn client_property(
        mut self,
        key: impl Into<ShortString>,
        value: impl Into<FieldValue>,
    ) -> Self {
        self.client_properties.insert(key, value);
        self
    }

    /// Gives all that is sent to the broker beside the defaults, in place of what was given before (see
    /// [`client_property`](Self::client_property)).
    ///
    /// ```
    /// use haypile::ConnectionParameters;
    ///
    /// let parameters = ConnectionParameters::default().client_properties([("connection_name", "orders")]);
    /// assert_eq!(parameters, ConnectionParameters::default().client_property("connection_name", "orders"));
    /// ```
    #[must_use]
    pub fn client_properties(mut self, client_properties: impl Into<FieldTable>) -> Self {
        self.client_properties = client_properties.into();
        self
    }

    /// Options of the TCP socket. Default: none set.
    ///
    /// ```
    /// use haypile::{ConnectionParameters, TcpOptions};
    ///
    /// let parameters = ConnectionParameters::default().tcp_options(TcpOptions::new().keepcnt(3));
    /// assert_eq!(parameters, ConnectionParameters::from_url("amqp://localhost?tcp_options={'TCP_KEEPCNT':3}")?);
    /// # Ok::<(), haypile::Error>(())
    /// ```
    #[must_use]
    pub fn tcp_options(mut self, tcp_options: TcpOptions) -> Self {
        self.tcp_options = tcp_options;
        self
    }

    /// Puts the connection inside TLS (pika: `ssl_options`; feature `tls`). Default: none, or as an `amqps://` URL has it.
    /// Takes a [`TlsOptions`], or `None` to leave TLS out. It also sets the default port.
    ///
    /// ```
    /// use haypile::{ConnectionParameters, TlsOptions};
    ///
    /// let parameters = ConnectionParameters::new("rabbit.example").tls(TlsOptions::new());
    /// assert_eq!(parameters, ConnectionParameters::from_url("amqps://rabbit.example")?);
    /// # Ok::<(), haypile::Error>(())
    /// ```
    #[doc(alias = "ssl_options")]
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, tls: impl Into<Option<TlsOptions>>) -> Self {
        self.tls = tls.into();
        self
    }

    /// Whether the connection is to be inside TLS.
    pub(crate) fn uses_tls(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.tls.is_some();
        #[cfg(not(feature = "tls"))]
        false
    }

    /// The port given, or else the usual one.
    pub(crate) fn effective_port(&self) -> u16 {
        self.port
            .unwrap_or(if self.uses_tls() { TLS_PORT } else { PORT })
    }

    /// Host and port, as errors name them.
    pub(crate) fn address(&self) -> String {
        let port = self.effective_port();
        let ipv6 = self.host.as_bytes().contains(&b':');
        let (before, behind) = if ipv6 { ("[", "]") } else { ("", "") };
        format!("{before}{}{behind}:{port}", self.host)
    }

    /// What `connection.start-ok` announces to the server: the defaults, and what the program adds to them or puts in their
    /// place.
    pub(crate) fn merged_client_properties(&self) -> FieldTable {
        let mut capabilities = FieldTable::new();
        for capability in [
            "authentication_failure_close",
            "basic.nack",
            "connection.blocked",
            "consumer_cancel_notify",
            "exchange_exchange_bindings",
            "publisher_confirms",
        ] {
            set(&mut capabilities, capability, true.into());
        }
        let mut merged = FieldTable::new();
        for (key, value) in [
            ("product", env!("CARGO_PKG_NAME")),
            ("version", env!("CARGO_PKG_VERSION")),
            ("platform", "Rust"),
            ("information", env!("CARGO_PKG_DESCRIPTION")),
        ] {
            set(&mut merged, key, value.into());
        }
        let own = &self.client_properties;
        if let Some(own) = own.get(CAPABILITIES).and_then(FieldValue::as_table) {
            capabilities.extend(own.clone());
        }
        merged.extend(own.clone());
        set(&mut merged, CAPABILITIES, capabilities.into());
        merged
    }

    /// Refuses what is out of range or cannot be sent.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        self.check_address()?;
        self.check_login()?;
        self.check_limits()?;
        self.check_client_properties()?;
        #[cfg(feature = "tls")]
        if let Some((field, value, expected)) = self.tls.as_ref().and_then(TlsOptions::problem) {
            return Err(Error::invalid(field, value, expected));
        }
        self.tcp_options.validate()
    }

    fn check_address(&self) -> Result<(), Error> {
        // This may be a URL, or a part of one, with a password in it: it is not repeated.
        if self.host.contains(['/', '@', '?', '#'])
            || (self.host.contains([':', '[', ']']) && !is_ipv6(&self.host))
        {
            return Err(Error::invalid(
                "host",
                "a text with one of / @ ? # : [ ]",
                "a host name or an address is expected; a port is given by port, and a URL goes through from_url",
            ));
        }
        if self.host.is_empty() || has_space(&self.host) {
            return Err(Error::invalid(
                "host",
                format_args!("{:?}", self.host),
                "a host name or an address is expected, without spaces or control characters",
            ));
        }
        match self.port {
            Some(0) => Err(Error::invalid("port", 0, "1 to 65535 is expected")),
            _ => Ok(()),
        }
    }

    /// What is sent while logging in.
    fn check_login(&self) -> Result<(), Error> {
        for (field, value) in [
            ("virtual_host", &self.virtual_host),
            ("locale", &self.locale),
        ] {
            if value.len() > SHORT_STRING {
                let length = value.len();
                return Err(Error::ShortStringTooLong { field, length });
            }
        }
        match self.credentials.problem() {
            Some((field, expected)) => Err(Error::invalid(field, "a value (not shown)", expected)),
            None => Ok(()),
        }
    }

    fn check_limits(&self) -> Result<(), Error> {
        const SOME: &str = "at least 1 is expected";
        for (field, value, least, most, expected) in [
            (
                "channel_max",
                self.channel_max.into(),
                1,
                u16::MAX.into(),
                "1 to 65535 is expected",
            ),
            (
                "frame_max",
                self.frame_max.into(),
                FRAME_MAX_LEAST.into(),
                FRAME_MAX_MOST.into(),
                "8192 to 131072 bytes is expected: RabbitMQ 4.1 and later refuse less than 8192",
            ),
            (
                "connection_attempts",
                self.connection_attempts.into(),
                1,
                u64::MAX,
                SOME,
            ),
            ("max_message_size", self.max_message_size, 1, u64::MAX, SOME),
        ] {
            if value < least || value > most {
                return Err(Error::invalid(field, value, expected));
            }
        }
        for (field, value) in [
            ("socket_timeout", self.socket_timeout),
            ("stack_timeout", self.stack_timeout),
            ("rpc_timeout", Some(self.rpc_timeout)),
        ] {
            if value == Some(Duration::ZERO) {
                return Err(Error::invalid(field, "0 s", "more than zero is expected"));
            }
        }
        Ok(())
    }

    /// Whether they fit into a frame is known only when the server has sent how large one may be.
    fn check_client_properties(&self) -> Result<(), Error> {
        let capabilities = self.client_properties.get(CAPABILITIES);
        if capabilities.is_some_and(|value| value.as_table().is_none()) {
            return Err(Error::invalid(
                "client property capabilities",
                "a value that is not a table",
                "a table is expected",
            ));
        }
        let properties = self.merged_client_properties();
        match properties.encode(&mut Vec::new()) {
            Ok(()) => Ok(()),
            Err(WireError::ShortStringTooLong { length, .. }) => Err(Error::invalid(
                "client_properties",
                format_args!("a key of {length} bytes"),
                "at most 255 bytes are expected",
            )),
            Err(error @ WireError::Unsendable(_)) => Err(Error::unsendable(
                error.inside(format_args!("client_properties")),
            )),
            Err(error) => {
                let expected = "something that AMQP can carry is expected";
                Err(Error::invalid("client_properties", error, expected))
            }
        }
    }
}

const CAPABILITIES: &str = "capabilities";

fn set(table: &mut FieldTable, key: &str, value: FieldValue) {
    table.insert(key, value);
}

impl Default for ConnectionParameters {
    /// `localhost`, and the defaults of [`ConnectionParameters`] for the rest.
    fn default() -> Self {
        ConnectionParameters {
            host: "localhost".to_owned(),
            port: None,
            virtual_host: "/".to_owned(),
            credentials: Credentials::default(),
            channel_max: u16::MAX,
            frame_max: FRAME_MAX_MOST,
            heartbeat: Heartbeat::default(),
            connection_attempts: 1,
            retry_delay: Duration::from_secs(2),
            socket_timeout: Some(Duration::from_secs(10)),
            stack_timeout: Some(Duration::from_secs(15)),
            blocked_connection_timeout: None,
            rpc_timeout: Duration::from_secs(60),
            max_message_size: 512 << 20,
            locale: "en_US".to_owned(),
            client_properties: FieldTable::new(),
            tcp_options: TcpOptions::default(),
            #[cfg(feature = "tls")]
            tls: None,
        }
    }
}

/// Field by field, except that the default port equals the same port given; taken apart, so that a new field cannot be
/// forgotten.
impl PartialEq for ConnectionParameters {
    fn eq(&self, other: &Self) -> bool {
        let ConnectionParameters {
            host,
            port: _,
            virtual_host,
            credentials,
            channel_max,
            frame_max,
            heartbeat,
            connection_attempts,
            retry_delay,
            socket_timeout,
            stack_timeout,
            blocked_connection_timeout,
            rpc_timeout,
            max_message_size,
            locale,
            client_properties,
            tcp_options,
            #[cfg(feature = "tls")]
            tls,
        } = self;
        #[cfg(feature = "tls")]
        if *tls != other.tls {
            return false;
        }
        *host == other.host
            && self.effective_port() == other.effective_port()
            && *virtual_host == other.virtual_host
            && *credentials == other.credentials
            && *channel_max == other.channel_max
            && *frame_max == other.frame_max
            && *heartbeat == other.heartbeat
            && *connection_attempts == other.connection_attempts
            && *retry_delay == other.retry_delay
            && *socket_timeout == other.socket_timeout
            && *stack_timeout == other.stack_timeout
            && *blocked_connection_timeout == other.blocked_connection_timeout
            && *rpc_timeout == other.rpc_timeout
            && *max_message_size == other.max_message_size
            && *locale == other.locale
            && *client_properties == other.client_properties
            && *tcp_options == other.tcp_options
    }
}

/// Whether there is a space or a control character in a text.
pub(crate) fn has_space(text: &str) -> bool {
    text.chars().any(|c| c.is_control() || c.is_whitespace())
}

/// Whether this is an IPv6 address, perhaps with its interface: `fe80::1%eth0`.
fn is_ipv6(host: &str) -> bool {
    let address = host.split_once('%').map_or(host, |(address, _)| address);
    address.parse::<Ipv6Addr>().is_ok()
}

/// Names have no brackets: they are how URLs keep an IPv6 address apart from the port.
fn without_brackets(host: String) -> String {
    match host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        Some(inner) => inner.to_owned(),
        None => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_pikas() {
        let parameters = ConnectionParameters::default();
        assert_eq!(parameters.address(), "localhost:5672");
        assert_eq!(parameters.virtual_host, "/");
        assert_eq!(
            parameters.credentials.respond(&["PLAIN"]).unwrap().1,
            b"\0guest\0guest"
        );
        assert_eq!(
            (parameters.channel_max, parameters.frame_max),
            (65535, 131_072)
        );
        assert_eq!(parameters.heartbeat.choose(60), 60);
        assert_eq!(
            (parameters.connection_attempts, parameters.retry_delay),
            (1, Duration::from_secs(2))
        );
        assert_eq!(parameters.socket_timeout, Some(Duration::from_secs(10)));
        assert_eq!(parameters.stack_timeout, Some(Duration::from_secs(15)));
        assert_eq!(parameters.blocked_connection_timeout, None);
        assert_eq!(parameters.rpc_timeout, Duration::from_secs(60));
        assert_eq!(parameters.locale, "en_US");
        assert_eq!(parameters.tcp_options, TcpOptions::default());
        assert!(!parameters.tcp_options.needs_keepalive());
        parameters.validate().unwrap();
    }

    #[test]
    fn addresses_bracket_ipv6() {
        assert_eq!(ConnectionParameters::new("[::1]").host, "::1");
        assert_eq!(
            ConnectionParameters::new("::1").port(1).address(),
            "[::1]:1"
        );
        assert_eq!(
            ConnectionParameters::new("127.0.0.1").address(),
            "127.0.0.1:5672"
        );
    }

    #[test]
    fn client_properties_are_merged_over_the_defaults() {
        let plain = ConnectionParameters::default().merged_client_properties();
        let text = |table: &FieldTable, key: &str| {
            table
                .get(key)
                .and_then(FieldValue::as_str)
                .map(str::to_owned)
        };
        assert_eq!(text(&plain, "product").as_deref(), Some("haypile"));
        assert_eq!(
            text(&plain, "version").as_deref(),
            Some(env!("CARGO_PKG_VERSION"))
        );
        assert_eq!(text(&plain, "platform").as_deref(), Some("Rust"));
        assert!(text(&plain, "information").is_some());
        let capabilities = plain
            .get("capabilities")
            .and_then(FieldValue::as_table)
            .unwrap();
        assert_eq!(capabilities.len(), 6);
        assert!(capabilities
            .iter()
            .all(|(_, value)| value.as_bool() == Some(true)));

        let mut own = FieldTable::new();
        own.insert("connection.blocked", false);
        own.insert("mine", true);
        let merged = ConnectionParameters::default()
            .client_property("product", "orders")
            .client_property("connection_name", "one")
            .client_property("capabilities", own)
            .merged_client_properties();
        assert_eq!(text(&merged, "product").as_deref(), Some("orders"));
        assert_eq!(text(&merged, "connection_name").as_deref(), Some("one"));
        assert_eq!(merged.len(), plain.len() + 1);
        let capabilities = merged
            .get("capabilities")
            .and_then(FieldValue::as_table)
            .unwrap();
        assert_eq!(capabilities.len(), 7);
        assert_eq!(
            capabilities
                .get("connection.blocked")
                .and_then(FieldValue::as_bool),
            Some(false)
        );
        assert_eq!(
            capabilities.get("basic.nack").and_then(FieldValue::as_bool),
            Some(true)
        );
    }
}
