//! The public handle of a connection.

mod events;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::channel::{Channel, ChannelHandle};
use crate::dispatch::ConnectionCallbacks;
use crate::error::Result;
use crate::io::connect;
use crate::io::guarded::Guarded;
use crate::io::link::{Interest, Link};
use crate::io::sync::after;
use crate::parameters::IntoParameters;
use crate::protocol::frame;
use crate::protocol::handshake::capability;
use crate::protocol::method::Method;
use crate::stop::Stop;
use crate::{
    ConnectionParameters, Error, ExchangeDeclare, ExchangeType, FieldTable, QueueDeclare,
    QueueDeclareOk, ShortString, Stream,
};

/// How long closing waits for the broker, where `rpc_timeout` allows more.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the last handle's drop waits for the broker.
const DROP_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection to a broker (pika: `BlockingConnection`).
///
/// A handle: clones are cheap and mean the same connection, and any thread may call any method at any time. When the last
/// handle (of the connection and of all its channels) is dropped, the connection is closed gracefully, within a few
/// seconds at most. A drop cannot fail: if the broker does not confirm, or something was not sent, the log has a warning.
/// Call [`close`](Connection::close) to be sure that all that was published has arrived.
///
/// Beware of the reverse: a callback or timer that holds a clone of its own connection, or of one of its channels, keeps the
/// connection open after the program has dropped its handles. A timer does so until it has run or was removed, which is never
/// if no thread runs callbacks any more. End such a connection with [`close`](Connection::close), which drops its callbacks and
/// timers.
///
/// # The end of the process
///
/// What was published or acknowledged just before the process ends is written first, also if the handles are in statics or
/// were forgotten, and whichever thread it came from: when `main` returns or panics, and when a thread calls
/// [`std::process::exit`], in a callback or outside. The end waits until the broker has handled it, since RabbitMQ discards
/// what it has not handled when a stream ends: normally for less than a millisecond, and for two seconds at most. A broker that
/// is further behind, as beside a thread that publishes without a pause, may still lose what it had not handled by then; so may
/// one that takes nothing because of an alarm.
///
/// A thread that ends cannot know whether the process ends with it. So after publishing or acknowledging each thread's end waits
/// as well, for one second at most, if the broker is RabbitMQ, but not while that has blocked the connection or more than 4 MiB
/// of messages wait for the program. A thread for each message costs one round trip each.
///
/// Not protected: `abort` (a panic with `panic = "abort"`, too); a signal that kills; and **the end of a `main` that never used
/// a connection while other threads have just published**: most such runs lose what was sent last, a whole burst included. Any
/// call in the main thread that sends something or runs callbacks protects, before or after, and so does joining the threads. The protection rests on
/// destructors of thread-local values, which run at the end of the process on Linux with glibc; elsewhere they may not.
/// [`close`](Connection::close) is certain everywhere, and returns what came of it.
///
/// # Forked children
///
/// A process that is forked from one with a connection has copies of its handles, but not the connection's threads, and the
/// stream is the parent's. Dropping the copies does nothing, and every call on them fails with
/// [`Error::ConnectionWrongState`]: a child opens its own connection. One exception: `basic_publish` without confirms, and
/// acknowledgements, may return `Ok` in the child for up to 255 calls if the parent made more than eight such calls within
/// about 2 ms before the fork. What they hand over is never sent.
///
/// # Threads
///
/// Heartbeats are sent by a thread of the connection's own, so a callback may take as long as it likes. Callbacks run
/// only on the thread that is inside [`process_data_events`](Connection::process_data_events),
/// [`sleep`](Connection::sleep), [`Channel::start_consuming`] or the iterator of [`Channel::consume`].
///
/// ```
/// # #[cfg(feature = "testing")]
/// # fn main() -> haypile::Result<()> {
/// # let broker = haypile::testing::Broker::start()?;
/// # let url = broker.url();
/// use haypile::Connection;
///
/// let connection = Connection::open(url)?; // such as amqp://guest:guest@localhost:5672/%2f
/// let channel = connection.channel()?;
/// channel.queue_declare("hello")?;
/// channel.basic_publish("", "hello", "Hello World!")?;
/// connection.close()
/// # }
/// # #[cfg(not(feature = "testing"))]
/// # fn main() {}
/// ```
#[doc(alias = "BlockingConnection")]
#[derive(Clone)]
pub struct Connection {
    handle: Arc<ConnectionHandle>,
}

struct ConnectionHandle {
    link: Arc<Link>,
    callbacks: ConnectionCallbacks<ChannelHandle>,
    warned_of_transient: AtomicBool,
}

impl Drop for ConnectionHandle {
    fn drop(&mut self) {
        if self.link.notice_fork() {
            // The connection is the parent's, and goes on.
            return;
        }
        let timeout = self.link.closing_timeout(DROP_TIMEOUT);
        if self.link.lock().session.end().is_some() {
            self.link.log_unsent();
        } else if let Err(error) = self.link.close(200, "Normal shutdown", timeout) {
            log::warn!("{}: closing: {}", self.link.address, error);
            self.link.log_unsent();
        }
    }
}

impl Connection {
    /// Connects, logs in and opens the virtual host (pika: `BlockingConnection(parameters)`; specification 2.2.4).
    ///
    /// Takes [`ConnectionParameters`], an AMQP URL, or several of either as an array, a slice or a `Vec`: they are tried in
    /// order, every address of each, as often as the last one's `connection_attempts` is.
    ///
    /// ```
    /// # #[cfg(feature = "testing")]
    /// # fn main() -> haypile::Result<()> {
    /// # let broker = haypile::testing::Broker::start()?;
    /// use haypile::{Connection, ConnectionParameters};
    ///
    /// # let (url, address) = (broker.url(), broker.address());
    /// let connection = Connection::open(&url)?;
    /// // The first one that takes us.
    /// let several = [ConnectionParameters::new("127.0.0.1").port(1), ConnectionParameters::from_url(&url)?];
    /// let second = Connection::open(several)?;
    /// assert!(connection.is_open() && second.is_open());
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "testing"))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    /// A parameter out of range ([`Error::InvalidParameter`]); otherwise the kind of the attempt that got furthest
    /// ([`Error::Connection`], [`Error::Dns`], [`Error::Tls`], [`Error::IncompatibleProtocol`],
    /// [`Error::Authentication`], [`Error::ProbableAuthentication`], [`Error::ProbableAccessDenied`]), with every attempt,
    /// how far it came, and a hint where the cause is common.
    pub fn open(parameters: impl IntoParameters) -> Result<Connection> {
        Self::open_first(parameters.into_parameters())
    }

    /// The same, made once for all types of parameters.
    fn open_first(candidates: Result<Vec<ConnectionParameters>>) -> Result<Connection> {
        Self::start(connect::open(&candidates?)?)
    }

    /// The same over a [`Stream`] that the caller made: a proxy, a tunnel, a Unix socket. Has no counterpart in pika. Host and port of the parameters
    /// serve to name the peer in errors, and to check its certificate if they ask for TLS, which is then put around the
    /// stream. If opening fails, the stream is shut down.
    ///
    /// ```
    /// # #[cfg(feature = "testing")]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = haypile::testing::Broker::start()?;
    /// # let proxy = broker.address();
    /// use haypile::{Connection, ConnectionParameters};
    ///
    /// let tunnel = std::net::TcpStream::connect(proxy)?;
    /// let connection = Connection::open_stream(ConnectionParameters::new("broker.example"), tunnel)?;
    /// # assert!(connection.is_open());
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "testing"))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    /// As [`open`](Connection::open).
    pub fn open_stream(
        parameters: ConnectionParameters,
        stream: impl Stream + 'static,
    ) -> Result<Connection> {
        let stream = Box::new(Guarded::new(Box::new(stream)));
        Self::start(connect::open_over(&parameters, stream)?)
    }

    pub(crate) fn start(opened: crate::io::link::Opened) -> Result<Connection> {
        let address = Arc::clone(&opened.address);
        let link = Link::start(opened).map_err(|error| connect::not_started(address, error))?;
        Ok(Connection {
            handle: Arc::new(ConnectionHandle {
                link,
                callbacks: ConnectionCallbacks::new(),
                warned_of_transient: AtomicBool::new(false),
            }),
        })
    }

    pub(crate) fn callbacks(&self) -> &ConnectionCallbacks<ChannelHandle> {
        &self.handle.callbacks
    }

    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.handle.link
    }

    // ---- channels

    /// Opens a channel with the lowest free number (pika: `channel()`; specification 1.5, `channel.open`).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|connection, channel| {
    /// let channel = connection.channel()?;
    /// assert!(channel.is_open());
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// [`Error::NoFreeChannels`], [`Error::ConnectionWrongState`], or what ended the connection.
    pub fn channel(&self) -> Result<Channel> {
        Channel::open(self, None)
    }

    /// Opens a channel with this number, from 1 to [`channel_max`](Connection::channel_max)
    /// (pika: `channel(channel_number)`; specification 1.5.2.1).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|connection, channel| {
    /// let channel = connection.channel_with_number(7)?;
    /// assert_eq!(channel.channel_number(), 7);
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidChannelNumber`] if it is out of range or in use, and as [`channel`](Connection::channel).
    pub fn channel_with_number(&self, channel_number: u16) -> Result<Channel> {
        Channel::open(self, Some(channel_number))
    }

    // ---- what the broker has

    /// Whether a queue exists, and what is in it: a passive `queue.declare` on a channel of its own, so that a queue that is
    /// missing costs nothing (pika: `queue_declare(queue, passive=True)`, which closes the channel then; specification
    /// 1.7.2.1).
    ///
    /// `None` if there is no such queue in this virtual host.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|connection, _channel| {
    /// match connection.queue_exists("orders")? {
    ///     Some(queue) => println!("{} messages are ready", queue.message_count),
    ///     None => println!("it is not declared yet"),
    /// }
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// [`Error::ChannelClosedByBroker`] with 403 if the user may not know, 405 if the queue is there and belongs to another
    /// connection, 404 if it is there and its node is down; and as [`channel`](Connection::channel) and every call.
    pub fn queue_exists(&self, queue: impl Into<ShortString>) -> Result<Option<QueueDeclareOk>> {
        self.look_up(|channel| channel.queue_declare(QueueDeclare::new(queue).passive(true)))
    }

    /// Whether an exchange exists: a passive `exchange.declare` on a channel of its own, so that an exchange that is missing
    /// costs nothing (pika: `exchange_declare(exchange, passive=True)`, which closes the channel then; specification 1.6.2.1).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|connection, _channel| {
    /// assert!(connection.exchange_exists("amq.topic")?);
    /// assert!(!connection.exchange_exists("no such exchange")?);
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// [`Error::ChannelClosedByBroker`] with 403 if the user may not know, as for the default exchange `""`, which always
    /// exists; and as [`channel`](Connection::channel) and every call.
    pub fn exchange_exists(&self, exchange: impl Into<ShortString>) -> Result<bool> {
        // The broker ignores the type.
        let passive = ExchangeDeclare::new(exchange, ExchangeType::Direct).passive(true);
        let found = self.look_up(|channel| channel.exchange_declare(passive))?;
        Ok(found.is_some())
    }

    fn look_up<T>(&self, ask: impl FnOnce(&Channel) -> Result<T>) -> Result<Option<T>> {
        let channel = self.channel()?;
        match ask(&channel) {
            Ok(found) => {
                channel.close()?;
                Ok(Some(found))
            }
            // An error that may pass means that it is there, and cannot be used just now.
            Err(error) if error.reply_code() == Some(404) && !error.is_retryable() => Ok(None),
            Err(error) => Err(error),
        }
    }

    // ---- the end

    /// Closes the connection and all its channels, with reply code 200 (pika: `close()`; specification 1.4.2.9).
    ///
    /// What has been published is sent first, and `Ok` means that the broker has confirmed the close, and so has received all
    /// of it. Threads that wait on this connection are woken:
    /// [`Channel::start_consuming`] ends with [`Closed`](crate::ConsumingEnded::Closed), other calls with
    /// [`Error::ConnectionClosedByClient`].
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|connection, _channel| {
    /// connection.close()?; // the broker has all that was sent before
    /// assert!(connection.is_closed());
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Timeout`] if the broker did not confirm within 10 s (or `rpc_timeout`, if that is less), as happens while it
    /// blocks the connection; [`Error::StreamLost`] or [`Error::ConnectionClosedByBroker`] if the connection ended in another
    /// way, now or since the last call. The connection is gone then, and it is unknown whether the broker received what was
    /// published last. [`Error::ConnectionWrongState`] if it is not open, and another call has returned why.
    pub fn close(&self) -> Result<()> {
        self.close_with(200, "Normal shutdown")
    }

    /// Closes with a code and a text of the caller's (pika: `close(reply_code, reply_text)`; specification 1.4.2.9).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|connection, _channel| {
    /// connection.close_with(200, "no more work today")?;
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// As [`close`](Connection::close); [`Error::ShortStringTooLong`] for a text over 255 bytes.
    pub fn close_with(&self, reply_code: u16, reply_text: &str) -> Result<()> {
        self.link().notice_fork();
        let result = self.link().close(
            reply_code,
            reply_text,
            self.link().closing_timeout(CLOSE_TIMEOUT),
        );
        self.drop_callbacks_if_ended();
        result
    }

    /// Whether the connection is open (pika: `is_open`).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|connection, _channel| {
    /// assert!(connection.is_open());
    /// # Ok(()) }) }
    /// ```
    pub fn is_open(&self) -> bool {
        self.link().is_open()
    }

    /// Whether the connection is closed or lost (pika: `is_closed`).
    ///
    /// Asking drops nothing: callbacks of a lost connection are dropped by the call that reports its end.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|connection, _channel| {
    /// connection.close()?;
    /// assert!(connection.is_closed());
    /// # Ok(()) }) }
    /// ```
    pub fn is_closed(&self) -> bool {
        self.link().notice_fork();
        self.link().is_over()
    }

    /// For a call that reports the end, without a lock: drops the callbacks that will not run any more.
    pub(crate) fn drop_callbacks_if_ended(&self) {
        self.handle.callbacks.drop_if_ended(self.link());
    }

    /// Whether rejecting a message of a stream is harmless: RabbitMQ before 3.13 ends the connection over it.
    pub(crate) fn takes_rejects_of_streams(&self) -> bool {
        self.rabbitmq_version()
            .is_none_or(|version| version >= (3, 13))
    }

    /// The first two numbers of the broker's version, if it is RabbitMQ.
    pub(crate) fn rabbitmq_version(&self) -> Option<(u32, u32)> {
        self.link().negotiated.rabbitmq_version()
    }

    /// Whether to warn of queues that RabbitMQ is about to give up: once for each connection.
    pub(crate) fn is_first_transient_queue(&self) -> bool {
        !self
            .handle
            .warned_of_transient
            .swap(true, Ordering::Relaxed)
    }

    /// Ends the connection without waiting: what has gathered and the closure are sent in the background, and every handle is
    /// dead at once.
    pub(crate) fn abandon(&self, error: &Error) {
        self.link().abandon(error);
        self.drop_callbacks_if_ended();
    }

    /// Why the connection ended.
    pub(crate) fn end(&self) -> Option<Error> {
        let shared = self.link().lock();
        shared.session.end().cloned()
    }

    /// Host and port.
    pub(crate) fn address(&self) -> &str {
        &self.link().address
    }

    /// The consumer of an iterator that came to its end because the broker cancelled it, unless another was begun since.
    pub(crate) fn iterator_cancelled_by_broker(&self) -> Option<String> {
        self.link().lock().session.iterator_cancelled.clone()
    }

    // ---- stopping

    /// From now on this stop ends what waits on the connection.
    pub(crate) fn stopped_by(&self, stop: &Stop) {
        self.watched_by(stop);
        let _ = self.callbacks().stop.set(stop.clone());
    }

    pub(crate) fn watched_by(&self, stop: &Stop) {
        let link: Weak<Link> = Arc::downgrade(self.link());
        stop.wakes(link);
    }

    /// Whether the supervisor of this connection was stopped.
    pub(crate) fn is_stopped(&self) -> bool {
        self.callbacks().stop.get().is_some_and(Stop::is_stopped)
    }

    // ---- the login, and what was negotiated

    /// Gives the broker a new secret, such as a renewed OAuth 2 token, before the old one expires
    /// (pika: `update_secret`; RabbitMQ's `connection.update-secret`).
    ///
    /// Waits until the broker has taken it; channels and consumers live on. The reason is a text for the broker's log, of at
    /// most 255 bytes. The secret is not kept: a new connection takes it from the parameters. It shows in
    /// no error and no log.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|connection, _channel| {
    /// # fn token() -> String { "guest".to_owned() }
    /// // When the credentials are a token that expires; from any thread.
    /// connection.update_secret(&token(), "the token expires soon")?;
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// [`Error::ConnectionClosedByBroker`] if it is refused, [`Error::Timeout`], [`Error::ConnectionWrongState`],
    /// [`Error::ShortStringTooLong`] for the reason, [`Error::InvalidParameter`] for a secret larger than a frame.
    pub fn update_secret(&self, new_secret: &str, reason: &str) -> Result<()> {
        let method = Method::ConnectionUpdateSecret {
            new_secret: new_secret.as_bytes(),
            reason: reason.into(),
        };
        let link = self.link();
        let mut bytes = Vec::new();
        frame::write_method(&mut bytes, 0, &method).map_err(Error::unsendable)?;
        let frame_max = link.negotiated.frame_max as usize;
        if bytes.len() > frame_max {
            return Err(Error::invalid(
                "new_secret",
                format_args!("{} bytes", new_secret.len()),
                &format!("with the reason it must fit into one frame of {frame_max} bytes"),
            ));
        }
        let call = {
            link.notice_fork();
            let mut shared = link.lock();
            shared.session.check_open()?;
            link.append_call(|out| {
                out.bytes.extend_from_slice(&bytes);
                Ok(())
            })?;
            shared.session.add_call(0, method.reply_id(), None)
        };
        let deadline = after(link.rpc_timeout);
        let reply = link.wait(Interest::channel(0), Some(deadline), |shared| {
            if shared.session.channel(0)?.calls.take_reply(call).is_some() {
                return Some(Ok(()));
            }
            shared.session.report_end(true).map(Err)
        });
        let reply = reply.unwrap_or_else(|| {
            let waiting_for = "connection.update-secret-ok";
            Err(link.timed_out(waiting_for, link.rpc_timeout, None))
        });
        reply.inspect_err(|_| self.drop_callbacks_if_ended())
    }

    /// The largest frame in bytes, as negotiated (specification 1.4.2.5, `connection.tune`; not in pika's blocking API).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|connection, _channel| {
    /// assert_eq!(connection.frame_max(), 131_072);
    /// # Ok(()) }) }
    /// ```
    pub fn frame_max(&self) -> u32 {
        self.link().negotiated.frame_max
    }

    /// The highest channel number, as negotiated (specification 1.4.2.5; not in pika's blocking API).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|connection, _channel| {
    /// assert!(connection.channel_max() > 0);
    /// # Ok(()) }) }
    /// ```
    pub fn channel_max(&self) -> u16 {
        match self.link().negotiated.channel_max {
            0 => u16::MAX,
            channel_max => channel_max,
        }
    }

    /// The heartbeat interval, as negotiated; zero means none (specification 4.2.7; not in pika's blocking API).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|connection, _channel| {
    /// println!("a silent broker is noticed after {} s", connection.heartbeat().as_secs() + 5);
    /// # Ok(()) }) }
    /// ```
    pub fn heartbeat(&self) -> Duration {
        self.link().heartbeat.interval()
    }

    /// What the server announces of itself: product, version, capabilities (specification 1.4.2.1; not in pika's blocking API).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|connection, _channel| {
    /// use haypile::FieldValue;
    ///
    /// let version = connection.server_properties().get("version").and_then(FieldValue::as_str);
    /// println!("RabbitMQ {}", version.unwrap_or("of an unknown version"));
    /// # Ok(()) }) }
    /// ```
    pub fn server_properties(&self) -> &FieldTable {
        &self.link().negotiated.server_properties
    }

    fn supports(&self, name: &str) -> bool {
        capability(self.server_properties(), name)
    }

    /// Whether the server knows `basic.nack` (pika: `basic_nack_supported`).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|connection, _channel| {
    /// assert!(connection.basic_nack_supported()); // so does every RabbitMQ
    /// # Ok(()) }) }
    /// ```
    pub fn basic_nack_supported(&self) -> bool {
        self.supports("basic.nack")
    }

    /// Whether the server reports it when it cancels a consumer (pika: `consumer_cancel_notify_supported`).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|connection, _channel| {
    /// assert!(connection.consumer_cancel_notify_supported()); // so does every RabbitMQ
    /// # Ok(()) }) }
    /// ```
    pub fn consumer_cancel_notify_supported(&self) -> bool {
        self.supports("consumer_cancel_notify")
    }

    /// Whether exchanges can be bound to exchanges (pika: `exchange_exchange_bindings_supported`).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|connection, _channel| {
    /// assert!(connection.exchange_exchange_bindings_supported()); // so does every RabbitMQ
    /// # Ok(()) }) }
    /// ```
    pub fn exchange_exchange_bindings_supported(&self) -> bool {
        self.supports("exchange_exchange_bindings")
    }

    /// Whether the server confirms what is published (pika: `publisher_confirms_supported`).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|connection, _channel| {
    /// assert!(connection.publisher_confirms_supported()); // so does every RabbitMQ
    /// # Ok(()) }) }
    /// ```
    pub fn publisher_confirms_supported(&self) -> bool {
        self.supports("publisher_confirms")
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("address", &self.link().address)
            .field("open", &self.is_open())
            .finish_non_exhaustive()
    }
}

impl PartialEq for Connection {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.handle, &other.handle)
    }
}

impl Eq for Connection {}

impl Hash for Connection {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.handle).hash(state);
    }
}
