//! The side that replies.

use crate::channel::Channel;
use crate::error::Result;
use crate::{
    BasicProperties, BasicReject, Consume, ConsumingEnded, Error, FieldTable, Message, RpcError,
    ShortString,
};

use super::{reply_to, RpcReply, ERROR_HEADER};

/// What any error of a handler becomes.
type Foreign = Box<dyn std::error::Error + Send + Sync>;

/// At most so much of an error's kind is sent: it must fit into a frame of any size.
const KIND_MOST: usize = 255;

/// Replies to requests: a loop that takes each message of a queue, calls a handler, and sends what it returns to where the
/// request's `reply_to` names, with the request's correlation id. pika's users write this loop by hand (its example of an RPC server).
///
/// The requests may come from an [`RpcClient`](crate::RpcClient) or from any other client, in any language.
///
/// - **The handler** gets the request as a [`Message`] and returns the body of the reply, properties with a body, or an error. It
///   runs on the thread that called [`run`](RpcServer::run), so it may borrow, and it may call everything.
/// - **An error** of the handler goes to the caller, as [`Error::Rpc`] there; see [`RpcError`]. The server goes on.
/// - **A request without `reply_to`** is rejected and not put back (so it goes to the queue's dead letter exchange, if there
///   is one), with a warning in the log. The handler does not see it. So is one whose `reply_to` looks like a direct reply-to and is
///   malformed: RabbitMQ before 4.2 ends the connection of a server that replies there.
/// - **The request is acknowledged when its reply has been sent.** A request whose server ends before that goes to another server, so
///   a handler may see a request twice ([`redelivered`](crate::Deliver::redelivered)). One that was delivered before and wants
///   a direct reply is acknowledged just before its reply is sent: if it is the reply that ends connections, it does not come back
///   for ever.
/// - **A panic** of the handler is reported to the caller as an error of the kind `panic`, the request is acknowledged, and the
///   panic goes on through `run`. (Not where a panic aborts the process: there the request comes back.)
///
/// ```
/// # #[cfg(feature = "testing")]
/// # fn main() -> haypile::Result<()> {
/// use haypile::{RpcError, RpcServer};
/// # use haypile::{ConnectionParameters, RpcClient};
///
/// # let broker = haypile::testing::Broker::start()?;
/// # let connection = broker.connect(ConnectionParameters::default())?;
/// # let caller = broker.connect(ConnectionParameters::default())?;
/// let channel = connection.channel()?;
/// channel.queue_declare("length")?;
/// # let stop = channel.stop_handle();
/// # let client = std::thread::spawn(move || {
/// #     let client = RpcClient::open(&caller)?;
/// #     let reply = client.call("length", "größe", std::time::Duration::from_secs(5));
/// #     stop.stop();
/// #     reply
/// # });
/// let mut served = 0;
/// RpcServer::new("length").run(&channel, |(_method, _properties, body)| {
///     served += 1;
///     let text = String::from_utf8(body).map_err(|error| RpcError::new("bad-request", error))?;
///     Ok::<_, RpcError>(text.chars().count().to_string())
/// })?;
/// # assert_eq!(client.join().unwrap()?.body, b"5");
/// # assert_eq!(served, 1);
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "testing"))]
/// # fn main() {}
/// ```
#[derive(Debug, Clone, PartialEq)]
#[must_use = "it replies to nothing without `run`"]
pub struct RpcServer {
    queue: ShortString,
    prefetch: u16,
}

impl RpcServer {
    /// Serves the requests in a queue, which must exist. Prefetch: 1.
    ///
    /// ```
    /// use haypile::RpcServer;
    ///
    /// let server = RpcServer::new("echo");
    /// assert_eq!(server, RpcServer::new("echo").prefetch(1));
    /// ```
    pub fn new(queue: impl Into<ShortString>) -> Self {
        RpcServer {
            queue: queue.into(),
            prefetch: 1,
        }
    }

    /// How many requests the broker sends ahead. With 1, the default, a request goes to a server that is free, and one whose
    /// caller has given up is dropped by the broker and never worked on. With more, quick handlers need not wait for the next
    /// request to travel. 0 is no limit.
    ///
    /// ```
    /// use haypile::RpcServer;
    ///
    /// assert_ne!(RpcServer::new("echo").prefetch(8), RpcServer::new("echo"));
    /// ```
    pub fn prefetch(mut self, prefetch: u16) -> Self {
        self.prefetch = prefetch;
        self
    }

    /// Replies to requests until the consumer ends, and returns why it ended. It sets the prefetch of the channel, and consumes by the
    /// channel's [iterator](Channel::consume).
    ///
    /// It is ended by [`stop_handle`](Channel::stop_handle) from any thread, or by [`cancel`](Channel::cancel), in the handler
    /// too: after the request in hand. What was prefetched goes back then. For a server that survives a loss, call it in
    /// [`Supervisor::run`](crate::Supervisor::run).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|connection, channel| {
    /// use haypile::{ConsumingEnded, Error, RpcServer};
    ///
    /// # channel.queue_declare("echo")?;
    /// # let client = haypile::RpcClient::open(connection)?;
    /// # let call = client.start_call("", "echo", "hello", &haypile::BasicProperties::new(), std::time::Duration::from_secs(5))?;
    /// let ended = RpcServer::new("echo").run(channel, |(_method, _properties, body)| {
    ///     channel.cancel()?; // this request is the last one
    ///     Ok::<_, Error>(body)
    /// })?;
    /// assert_eq!(ended, ConsumingEnded::Cancelled);
    /// # assert_eq!(call.wait()?.body, b"hello");
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// What ended the channel or the connection; [`Error::ChannelClosedByBroker`] (404) if there is no such queue;
    /// [`Error::InvalidParameter`] if the channel has an iterator already; [`Error::Timeout`] if there was no room to send a
    /// reply. No request and no error of the handler ends it, but a reply that the broker refuses by closing the channel or the
    /// connection does. After an error the consumer is still there, if the channel is: `run` again goes on with it.
    pub fn run<R, E>(
        &self,
        channel: &Channel,
        mut handler: impl FnMut(Message) -> Result<R, E>,
    ) -> Result<ConsumingEnded>
    where
        R: Into<RpcReply>,
        E: Into<Foreign>,
    {
        channel.basic_qos(self.prefetch)?;
        let mut messages = channel.consume(Consume::new(self.queue.clone()))?;
        for message in messages.by_ref() {
            let message = message?;
            let Some(request) = Request::begin(channel, &message)? else {
                continue;
            };
            let result = handler(message);
            request.finish(result.map(Into::into).map_err(Into::into))?;
        }
        Ok(messages.ended().unwrap_or(ConsumingEnded::Cancelled))
    }
}

/// A request that the handler works on.
struct Request<'a> {
    channel: &'a Channel,
    /// `None` when it is acknowledged.
    delivery_tag: Option<u64>,
    /// It is acknowledged before its reply is sent.
    ack_first: bool,
    reply_to: ShortString,
    correlation_id: Option<ShortString>,
    /// The reply is sent, or there is none to send.
    done: bool,
}

impl<'a> Request<'a> {
    /// `None` if there is nowhere to reply to; then it is rejected.
    fn begin(channel: &'a Channel, message: &Message) -> Result<Option<Self>> {
        let (method, properties, _) = message;
        let delivery_tag = method.delivery_tag;
        let problem = match properties.reply_to.as_ref() {
            Some(address) if !reply_to::is_well_formed(address.as_bytes()) => "is malformed",
            Some(address) if !address.is_empty() => {
                let direct = reply_to::is_direct(address.as_bytes());
                return Ok(Some(Request {
                    channel,
                    delivery_tag: Some(delivery_tag),
                    ack_first: method.redelivered && direct,
                    reply_to: address.clone(),
                    correlation_id: properties.correlation_id.clone(),
                    done: false,
                }));
            }
            _ => "is missing",
        };
        let number = channel.channel_number();
        let key = &method.routing_key;
        log::warn!("channel {number}: a request is rejected, since its reply_to {problem} (routing key {key:?})");
        channel.basic_reject(BasicReject::new(delivery_tag).requeue(false))?;
        Ok(None)
    }

    fn finish(mut self, result: Result<RpcReply, Foreign>) -> Result<()> {
        self.done = true;
        match result {
            Ok(reply) => match self.send(reply) {
                // Nothing was sent, and nothing can be: that is reported to the caller.
                Err(
                    error @ (Error::InvalidParameter { .. } | Error::ShortStringTooLong { .. }),
                ) => self.report(&error),
                sent => sent,
            },
            Err(error) => self.report(&*error),
        }
    }

    /// Sends a reply and acknowledges the request.
    fn send(&mut self, reply: RpcReply) -> Result<()> {
        let RpcReply {
            mut properties,
            body,
        } = reply;
        properties.correlation_id.clone_from(&self.correlation_id);
        if self.ack_first {
            self.acknowledge()?;
        }
        self.channel
            .basic_publish_with("", &self.reply_to, body, properties)?;
        self.acknowledge()
    }

    fn acknowledge(&mut self) -> Result<()> {
        match self.delivery_tag.take() {
            Some(delivery_tag) => self.channel.basic_ack(delivery_tag),
            None => Ok(()),
        }
    }

    /// Sends an error in place of a reply.
    fn report(&mut self, error: &(dyn std::error::Error + 'static)) -> Result<()> {
        match error.downcast_ref::<RpcError>() {
            Some(RpcError { kind, message }) => self.send_error(kind, message.clone()),
            None => self.send_error("error", error.to_string()),
        }
    }

    fn send_error(&mut self, kind: &str, message: String) -> Result<()> {
        let number = self.channel.channel_number();
        log::info!("channel {number}: a request is replied to with an error of the kind {kind:?}: {message:?}");
        let mut end = kind.len().min(KIND_MOST);
        while !kind.is_char_boundary(end) {
            end -= 1;
        }
        let mut headers = FieldTable::new();
        headers.insert(ERROR_HEADER, &kind[..end]);
        let properties = BasicProperties::new().headers(headers);
        self.send(RpcReply::from((properties, message)))
    }
}

/// The handler panicked: its caller gets an error, and the request does not come back.
impl Drop for Request<'_> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let sent = self.send_error("panic", "the handler of the request panicked".to_owned());
        if let Err(error) = sent {
            log::warn!("the handler panicked, and its caller cannot get an error: {error}");
        }
    }
}
