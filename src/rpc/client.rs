//! The side that calls.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use super::{RpcReply, ERROR_HEADER};
use crate::channel::{Channel, Then, Until, WaitEnd};
use crate::connection::Connection;
use crate::error::Result;
use crate::io::sync::{after, Instant};
use crate::protocol::publish::OutgoingMessage;
use crate::protocol::replies::{CallOutcome, Replies};
use crate::stop::Stop;
use crate::{
    AsShortString, BasicProperties, BasicPublish, Error, FieldTable, FieldValue, RpcError,
};

/// The pseudo-queue of RabbitMQ's direct reply-to.
const REPLY_TO: &str = "amq.rabbitmq.reply-to";

const REPLY: &str = "the reply; whether a server has worked on the request is unknown";

/// The longest expiration that a request gets, in milliseconds: 49 days, which every RabbitMQ takes.
const LONGEST_EXPIRATION: u128 = u32::MAX as u128;

/// Makes remote procedure calls: sends requests to queues, and hands each caller the reply to its own. pika has no such class; its
/// users build it by hand, with a queue for replies, correlation ids and a loop around `process_data_events`.
///
/// A handle: clones are cheap and mean the same client, and any thread may call at any time, also inside a callback. Any number of
/// calls may be in flight. There is no thread behind it: a thread that waits for a reply reads, for all others as well.
///
/// The client has a channel of its own on the connection, and uses RabbitMQ's direct reply-to, so there is no queue for
/// replies to declare or to clean up. When the channel or the connection ends, every call in flight fails at once with what ended it, and
/// so does each later one: open another client then, on the next connection (see [`Supervisor`](crate::Supervisor)). A request that the
/// broker refuses by closing the channel, such as one for a missing exchange, ends the client as well.
///
/// ```
/// # #[cfg(feature = "testing")]
/// # fn main() -> haypile::Result<()> {
/// use std::time::Duration;
/// use haypile::{Error, RpcClient};
/// # use haypile::{ConnectionParameters, RpcError, RpcServer};
///
/// # let broker = haypile::testing::Broker::start()?;
/// # let connection = broker.connect(ConnectionParameters::default())?;
/// # let channel = connection.channel()?;
/// # channel.queue_declare("increase")?;
/// # let stop = channel.stop_handle();
/// # let server = std::thread::spawn(move || {
/// #     RpcServer::new("increase").run(&channel, |(_, _, body)| {
/// #         let number: i64 = std::str::from_utf8(&body)?.parse()?;
/// #         Ok::<_, Box<dyn std::error::Error + Send + Sync>>((number + 1).to_string())
/// #     })
/// # });
/// let client = RpcClient::open(&connection)?;
/// let reply = client.call("increase", "41", Duration::from_secs(5))?;
/// assert_eq!(reply.body, b"42");
///
/// match client.call("increase", "many", Duration::from_secs(5)) {
///     Err(Error::Rpc(error)) => eprintln!("the server reports: {}", error.message),
///     Err(Error::Unroutable(_)) => eprintln!("there is no such queue"),
///     Err(Error::Timeout { .. }) => eprintln!("no reply in time"),
///     other => println!("{:?}", other?.body),
/// }
/// # stop.stop();
/// # server.join().unwrap()?;
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "testing"))]
/// # fn main() {}
/// ```
#[derive(Clone)]
pub struct RpcClient {
    channel: Channel,
}

/// A call in flight; see [`RpcClient::start_call`].
///
/// Dropping it gives the call up: its reply is dropped when it comes, and counted. It keeps the client's channel open.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
/// # fn main() { example(|connection, channel| {
/// use haypile::{BasicProperties, RpcClient};
/// use std::time::Duration;
///
/// # channel.queue_declare("without a server")?;
/// let client = RpcClient::open(&connection)?;
/// let none = BasicProperties::new();
/// let call = client.start_call("", "without a server", "?", none, Duration::from_millis(20))?;
/// assert!(call.wait().is_err()); // in time, not for ever
/// # Ok(()) }) }
/// ```
#[must_use = "the reply is dropped without `wait`"]
pub struct RpcCall {
    channel: Channel,
    number: u64,
    deadline: Instant,
    timeout: Duration,
}

impl RpcClient {
    /// Opens a client: a channel on this connection, which listens for replies.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|connection, _channel| {
    /// let client = haypile::RpcClient::open(&connection)?;
    /// assert!(client.is_open());
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// As [`Connection::channel`]; [`Error::ChannelClosedByBroker`] if the broker has no direct reply-to.
    pub fn open(connection: &Connection) -> Result<Self> {
        let channel = connection.channel()?;
        // From here on deliveries on this channel are replies.
        if let Some(state) = channel.link().lock().session.channel(channel.slot()) {
            let prefix = uuid::Uuid::new_v4().simple().to_string();
            state.replies = Some(Box::new(Replies::new(prefix)));
        }
        let consumer_tag = channel.new_consumer_tag();
        let (no_arguments, auto_ack, exclusive) = (FieldTable::new(), true, false);
        let queue = REPLY_TO.into();
        channel.subscribe(&queue, &consumer_tag, auto_ack, exclusive, &no_arguments)?;
        Ok(RpcClient { channel })
    }

    /// Sends a request to a queue and waits for its reply.
    ///
    /// `timeout` bounds the whole call. It is also the request's `expiration`, so that the queue drops a request that
    /// no caller waits for any more. (What a server has taken by then it does work on; one with a prefetch of 1 takes no more than it
    /// works on.)
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|connection, _channel| {
    /// use haypile::{Error, RpcClient};
    /// use std::time::Duration;
    ///
    /// let client = RpcClient::open(&connection)?;
    /// let missing = client.call("no such queue", "?", Duration::from_secs(5));
    /// assert!(matches!(missing, Err(Error::Unroutable(_)))); // at once
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// - [`Error::Rpc`]: the server replied with an error.
    /// - [`Error::Unroutable`], at once: there is no such queue. A queue that exists and has no consumer takes the request, so that
    ///   call ends by its timeout.
    /// - [`Error::Timeout`]: there was no reply in time, or no room to send the request. The client goes on.
    /// - [`Error::Stopped`]: a [`Stop`] ended the wait, or was asked for before; see [`stop_handle`](RpcClient::stop_handle).
    /// - [`Error::ShortStringTooLong`]: the queue's name; nothing was sent.
    /// - What ended the channel or the connection: all calls in flight fail with it, at once.
    pub fn call(
        &self,
        queue: impl AsShortString,
        body: impl AsRef<[u8]>,
        timeout: Duration,
    ) -> Result<RpcReply> {
        self.call_with("", queue, body, BasicProperties::new(), timeout)
    }

    /// Calls through an exchange, or with properties.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|connection, _channel| {
    /// use haypile::{BasicProperties, RpcClient};
    /// use std::time::Duration;
    ///
    /// let client = RpcClient::open(&connection)?;
    /// let json = BasicProperties::new().content_type("application/json");
    /// let reply = client.call_with("amq.direct", "prices", r#"{"item": 1}"#, json, Duration::from_secs(5));
    /// # assert!(reply.is_err());
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// As [`call`](RpcClient::call). [`Error::InvalidParameter`] if the properties have a `reply_to`, a `correlation_id` or an
    /// `expiration`, which are the client's to set; nothing was sent then. A missing exchange closes the client's channel
    /// ([`Error::ChannelClosedByBroker`], 404), for all calls.
    pub fn call_with<'p>(
        &self,
        exchange: impl AsShortString,
        routing_key: impl AsShortString,
        body: impl AsRef<[u8]>,
        properties: impl Into<Cow<'p, BasicProperties>>,
        timeout: Duration,
    ) -> Result<RpcReply> {
        self.start_call(exchange, routing_key, body, properties, timeout)?
            .wait()
    }

    /// Sends a request and returns without waiting for its reply, so that one thread can have many calls in flight.
    ///
    /// The timeout counts from now. A reply that comes before [`wait`](RpcCall::wait) is kept for it.
    ///
    /// ```
    /// # #[cfg(feature = "testing")]
    /// # fn main() -> haypile::Result<()> {
    /// use std::time::Duration;
    /// use haypile::{BasicProperties, RpcClient};
    /// # use haypile::{ConnectionParameters, RpcServer};
    ///
    /// # let broker = haypile::testing::Broker::start()?;
    /// # let connection = broker.connect(ConnectionParameters::default())?;
    /// # let channel = connection.channel()?;
    /// # channel.queue_declare("echo")?;
    /// # let stop = channel.stop_handle();
    /// # let server = std::thread::spawn(move || {
    /// #     RpcServer::new("echo").run(&channel, |(_, _, body)| Ok::<_, haypile::Error>(body))
    /// # });
    /// let client = RpcClient::open(&connection)?;
    /// let text = BasicProperties::new().content_type("text/plain");
    /// let mut calls = Vec::new();
    /// for n in 0..10 {
    ///     calls.push(client.start_call("", "echo", n.to_string(), &text, Duration::from_secs(5))?);
    /// }
    /// for (n, call) in calls.into_iter().enumerate() {
    ///     assert_eq!(call.wait()?.body, n.to_string().as_bytes());
    /// }
    /// # stop.stop();
    /// # server.join().unwrap()?;
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "testing"))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    /// As [`call_with`](RpcClient::call_with), but for what becomes of the request, which [`wait`](RpcCall::wait) returns.
    pub fn start_call<'p>(
        &self,
        exchange: impl AsShortString,
        routing_key: impl AsShortString,
        body: impl AsRef<[u8]>,
        properties: impl Into<Cow<'p, BasicProperties>>,
        timeout: Duration,
    ) -> Result<RpcCall> {
        self.send(
            exchange.as_short_string(),
            routing_key.as_short_string(),
            body.as_ref(),
            properties.into().into_owned(),
            timeout,
        )
    }

    /// The same, made once for all types of messages.
    fn send(
        &self,
        exchange: &[u8],
        routing_key: &[u8],
        body: &[u8],
        mut properties: BasicProperties,
        timeout: Duration,
    ) -> Result<RpcCall> {
        check_free("reply_to", &properties.reply_to)?;
        check_free("correlation_id", &properties.correlation_id)?;
        check_free("expiration", &properties.expiration)?;
        let (call, correlation_id) = self.begin(timeout)?;
        let channel = &self.channel;
        let milliseconds = timeout.as_nanos().div_ceil(1_000_000);
        properties.expiration = Some(milliseconds.min(LONGEST_EXPIRATION).to_string().into());
        properties.reply_to = Some(REPLY_TO.into());
        properties.correlation_id = Some(correlation_id.into());
        let publish = BasicPublish::from(properties).mandatory(true);
        let message = OutgoingMessage {
            exchange,
            routing_key,
            body,
            publish: &publish,
        };
        channel.send_within(timeout, |patience| {
            channel.send_message(message, patience, Then::Return)
        })?;
        Ok(call)
    }

    /// Enters a call into the table, and returns it with its correlation id. Dropping it takes it out again.
    fn begin(&self, timeout: Duration) -> Result<(RpcCall, String)> {
        let channel = &self.channel;
        channel.notice_fork();
        if channel.is_ended() {
            return Err(channel.closure());
        }
        if channel.is_interrupted() {
            return Err(stopped());
        }
        let link = channel.link();
        if timeout.is_zero() {
            let waiting_for = "the reply; nothing was sent";
            return Err(channel.timed_out(waiting_for, timeout));
        }
        let deadline = after(timeout);
        let mut shared = link.lock();
        let state = shared.session.channel(channel.slot());
        let Some(replies) = state.and_then(|state| state.replies.as_mut()) else {
            drop(shared);
            return Err(channel.closure());
        };
        let (number, correlation_id) = replies.begin();
        let call = RpcCall {
            channel: channel.clone(),
            number,
            deadline,
            timeout,
        };
        Ok((call, correlation_id))
    }

    /// How many replies came that no call waited for: late ones, after the call's timeout, and such as belong to no call of
    /// this client. They are dropped.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|connection, _channel| {
    /// let client = haypile::RpcClient::open(&connection)?;
    /// assert_eq!(client.late_replies(), 0);
    /// # Ok(()) }) }
    /// ```
    pub fn late_replies(&self) -> u64 {
        self.count(Replies::unexpected)
    }

    /// How many calls have been made and are neither waited for to the end nor dropped.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|connection, _channel| {
    /// let client = haypile::RpcClient::open(&connection)?;
    /// assert_eq!(client.in_flight(), 0);
    /// # Ok(()) }) }
    /// ```
    pub fn in_flight(&self) -> usize {
        self.count(Replies::in_flight)
    }

    /// Asks the table of calls; the default if the channel is gone.
    fn count<T: Default>(&self, count: impl Fn(&Replies) -> T) -> T {
        self.channel.notice_fork();
        let mut shared = self.channel.link().lock();
        let state = shared.session.channel(self.channel.slot());
        let replies = state.and_then(|state| state.replies.as_deref());
        replies.map(count).unwrap_or_default()
    }

    /// Whether calls can be made: neither the client's channel nor the connection has ended.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|connection, _channel| {
    /// let client = haypile::RpcClient::open(&connection)?;
    /// connection.close()?;
    /// assert!(!client.is_open());
    /// # Ok(()) }) }
    /// ```
    pub fn is_open(&self) -> bool {
        self.channel.is_open()
    }

    /// What stops the calls of this client: those in flight and later ones fail with [`Error::Stopped`], unless a callback makes
    /// them. The stop of a [`Supervisor`](crate::Supervisor) that opened the connection does so as well.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|connection, _channel| {
    /// use haypile::{Error, RpcClient};
    /// use std::time::Duration;
    ///
    /// let client = RpcClient::open(&connection)?;
    /// client.stop_handle().stop();
    /// let stopped = client.call("prices", "?", Duration::from_secs(5));
    /// assert!(matches!(stopped, Err(Error::Stopped { .. })));
    /// # Ok(()) }) }
    /// ```
    pub fn stop_handle(&self) -> Stop {
        self.channel.stop_handle()
    }
}

impl RpcCall {
    /// Waits for the reply.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|connection, channel| {
    /// use haypile::{BasicProperties, Error, RpcClient};
    /// use std::time::Duration;
    ///
    /// # channel.queue_declare("without a server")?;
    /// let client = RpcClient::open(&connection)?;
    /// let none = BasicProperties::new();
    /// let call = client.start_call("", "without a server", "?", none, Duration::from_millis(20))?;
    /// match call.wait() {
    ///     Err(Error::Timeout { .. }) => println!("no reply in time"),
    ///     other => println!("{other:?}"),
    /// }
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// As [`RpcClient::call`].
    pub fn wait(self) -> Result<RpcReply> {
        let channel = &self.channel;
        channel.notice_fork();
        let known = channel.wait_for(Until::time_or_stop(self.deadline), |channel| {
            let replies = channel.replies.as_ref()?;
            replies.is_known(self.number).then_some(())
        });
        match known {
            WaitEnd::Found(()) => match self.take() {
                Some(outcome) => result(outcome),
                None => Err(channel.ended()),
            },
            WaitEnd::Over => Err(channel.ended()),
            WaitEnd::Stopped => Err(stopped()),
            WaitEnd::TimedOut => Err(channel.timed_out(REPLY, self.timeout)),
        }
    }

    fn take(&self) -> Option<CallOutcome> {
        let link = self.channel.link();
        let mut shared = link.lock();
        let outcome = shared.session.end_call(self.channel.slot(), self.number);
        link.resume_if_paused(&mut shared);
        outcome
    }
}

impl Drop for RpcCall {
    fn drop(&mut self) {
        if !self.channel.link().notice_fork() {
            drop(self.take());
        }
    }
}

fn result(outcome: CallOutcome) -> Result<RpcReply> {
    let (properties, body) = match outcome {
        CallOutcome::Reply(properties, body) => (properties, body),
        CallOutcome::Returned(message) => return Err(Error::Unroutable(vec![message])),
    };
    match properties.get_header(ERROR_HEADER) {
        None => Ok(RpcReply { properties, body }),
        Some(kind) => {
            let kind = match kind {
                FieldValue::Text(kind) => String::from_utf8_lossy(kind).into_owned(),
                other => format!("{other:?}"),
            };
            let message = String::from_utf8_lossy(&body).into_owned();
            Err(Error::Rpc(Box::new(RpcError { kind, message })))
        }
    }
}

fn check_free<T: fmt::Display>(field: &str, value: &Option<T>) -> Result<()> {
    match value {
        None => Ok(()),
        Some(value) => {
            let expected = "the RPC client sets it";
            Err(Error::invalid(
                field,
                format_args!("{value:.100}"),
                expected,
            ))
        }
    }
}

fn stopped() -> Error {
    Error::Stopped {
        waiting_for: "the reply to a call",
    }
}

impl fmt::Debug for RpcClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RpcClient")
            .field("channel", &self.channel)
            .field("in_flight", &self.in_flight())
            .field("late_replies", &self.late_replies())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for RpcCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RpcCall")
            .field("channel", &self.channel)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
