//! What consumes and fetches, and what acknowledges and refuses.

use std::time::Duration;

use crate::{FieldTable, FieldValue, ShortString};

from_name!(BasicConsume BasicGet Consume);

/// What `basic_consume` asks for (pika: `basic_consume(queue, on_message_callback, auto_ack=False, exclusive=False,
/// consumer_tag=None, arguments=None)`; AMQP 0-9-1, `basic.consume`).
///
/// ```
/// use haypile::BasicConsume;
///
/// let first = BasicConsume::new("tasks").consumer_tag("first").argument("x-priority", 10);
/// assert_eq!(BasicConsume::from("tasks"), BasicConsume::new("tasks").auto_ack(false));
/// # let _ = first;
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct BasicConsume {
    pub(crate) queue: ShortString,
    pub(crate) auto_ack: bool,
    pub(crate) exclusive: bool,
    pub(crate) consumer_tag: Option<String>,
    pub(crate) arguments: FieldTable,
}

impl BasicConsume {
    /// Consume from this queue, acknowledging by hand, under a tag that the library makes up.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// use haypile::BasicConsume;
    ///
    /// # channel.queue_declare("tasks")?;
    /// let tag = channel.basic_consume(BasicConsume::new("tasks"), |channel, method, _properties, _body| {
    ///     channel.basic_ack(method.delivery_tag)
    /// })?;
    /// assert_eq!(channel.consumer_tags(), [tag]);
    /// # Ok(()) }) }
    /// ```
    pub fn new(queue: impl Into<ShortString>) -> Self {
        Self::named(queue.into())
    }

    fn named(queue: ShortString) -> Self {
        BasicConsume {
            queue,
            auto_ack: false,
            exclusive: false,
            consumer_tag: None,
            arguments: FieldTable::new(),
        }
    }

    flags! {
        /// Whether messages count as acknowledged once they are sent; a crash loses them. Default: no.
        ///
        /// ```
        /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
        /// # fn main() { example(|connection, channel| {
        /// use haypile::BasicConsume;
        /// # use std::time::Duration;
        ///
        /// # channel.queue_declare("tasks")?;
        /// # channel.basic_publish("", "tasks", "dig")?;
        /// channel.basic_consume(BasicConsume::new("tasks").auto_ack(true), |_channel, _method, _properties, _body| ())?;
        /// connection.process_data_events(Duration::from_secs(5))?;
        /// channel.close()?;
        /// assert_eq!(connection.queue_exists("tasks")?.unwrap().message_count, 0); // it did not come back
        /// # Ok(()) }) }
        /// ```
        auto_ack
        /// Whether no other consumer may consume from the queue. Default: no.
        ///
        /// ```
        /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
        /// # fn main() { example(|connection, channel| {
        /// use haypile::BasicConsume;
        ///
        /// # channel.queue_declare("tasks")?;
        /// channel.basic_consume(BasicConsume::new("tasks").exclusive(true), |_channel, _method, _properties, _body| ())?;
        /// let error = connection.channel()?.consume("tasks").unwrap_err();
        /// assert_eq!(error.reply_code(), Some(403));
        /// # Ok(()) }) }
        /// ```
        exclusive
    }

    /// The consumer's name on this channel, at most 255 bytes. Default (and for an empty one): made up, as
    /// `ctag1.9f0c…`.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// use haypile::BasicConsume;
    ///
    /// # channel.queue_declare("tasks")?;
    /// let request = BasicConsume::new("tasks").consumer_tag("first");
    /// channel.basic_consume(request, |_channel, method, _properties, _body| assert_eq!(method.consumer_tag, "first"))?;
    /// channel.basic_cancel("first")?;
    /// assert!(channel.consumer_tags().is_empty());
    /// # Ok(()) }) }
    /// ```
    #[must_use]
    pub fn consumer_tag(mut self, consumer_tag: impl Into<String>) -> Self {
        self.consumer_tag = Some(consumer_tag.into()).filter(|tag| !tag.is_empty());
        self
    }

    arguments!(BasicConsume, r#""x-priority""#, 10);
}

/// What `consume` asks for (pika: `consume(queue, auto_ack=False, exclusive=False, arguments=None)`; AMQP 0-9-1,
/// `basic.consume`).
///
/// ```
/// use haypile::Consume;
/// use std::time::Duration;
///
/// let patient = Consume::new("tasks").idle_exit(Duration::from_secs(5));
/// assert_eq!(Consume::from("tasks"), Consume::new("tasks").idle_exit(None));
/// # let _ = patient;
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Consume {
    pub(crate) queue: ShortString,
    pub(crate) auto_ack: bool,
    pub(crate) exclusive: bool,
    pub(crate) arguments: FieldTable,
    pub(crate) idle_exit: Option<Duration>,
    pub(crate) time_limit: Option<Duration>,
}

impl Consume {
    /// Iterate over this queue, acknowledging by hand, waiting for as long as it takes.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// use haypile::Consume;
    ///
    /// # channel.queue_declare("tasks")?;
    /// # channel.basic_publish("", "tasks", "dig")?;
    /// for message in channel.consume(Consume::new("tasks"))? { // or just "tasks"
    ///     let (method, _properties, body) = message?;
    ///     assert_eq!(body, b"dig");
    ///     channel.basic_ack(method.delivery_tag)?;
    ///     break;
    /// }
    /// # Ok(()) }) }
    /// ```
    pub fn new(queue: impl Into<ShortString>) -> Self {
        Self::named(queue.into())
    }

    fn named(queue: ShortString) -> Self {
        Consume {
            queue,
            auto_ack: false,
            exclusive: false,
            arguments: FieldTable::new(),
            idle_exit: None,
            time_limit: None,
        }
    }

    flags! {
        /// Whether messages count as acknowledged once they are sent; a crash loses them. Default: no.
        ///
        /// ```
        /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
        /// # fn main() { example(|connection, channel| {
        /// use haypile::Consume;
        ///
        /// # channel.queue_declare("tasks")?;
        /// # channel.basic_publish("", "tasks", "dig")?;
        /// let first = channel.consume(Consume::new("tasks").auto_ack(true))?.next();
        /// # assert!(first.is_some());
        /// channel.close()?;
        /// assert_eq!(connection.queue_exists("tasks")?.unwrap().message_count, 0); // it did not come back
        /// # Ok(()) }) }
        /// ```
        auto_ack
        /// Whether no other consumer may consume from the queue. Default: no.
        ///
        /// ```
        /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
        /// # fn main() { example(|connection, channel| {
        /// use haypile::Consume;
        ///
        /// # channel.queue_declare("tasks")?;
        /// channel.consume(Consume::new("tasks").exclusive(true))?;
        /// assert_eq!(connection.channel()?.consume("tasks").unwrap_err().reply_code(), Some(403));
        /// # Ok(()) }) }
        /// ```
        exclusive
    }

    /// After how long without a message the iterator ends; `None` (the default) is never. The consumer stays, and the
    /// iterator can be asked again. Time that the program itself takes between two messages does not count.
    ///
    /// pika's generator goes on after its `inactivity_timeout`: see [`Messages::inactivity_timeout`](crate::Messages::inactivity_timeout).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// use haypile::Consume;
    /// use std::time::Duration;
    ///
    /// # channel.queue_declare("tasks")?;
    /// # channel.basic_publish("", "tasks", "dig")?;
    /// let all_there_are = channel.consume(Consume::new("tasks").auto_ack(true).idle_exit(Duration::from_secs(1)))?;
    /// assert_eq!(all_there_are.count(), 1);
    /// # Ok(()) }) }
    /// ```
    #[must_use]
    pub fn idle_exit(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.idle_exit = limit.into();
        self
    }

    /// How long the iterator may go on in all, from `consume` on, whatever comes; `None` (the default) is for ever. It has no
    /// counterpart in pika. A message that has come by then and not been yielded stays for the next `consume`, or goes back
    /// by [`cancel`](crate::Channel::cancel).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// use haypile::Consume;
    /// use std::time::Duration;
    ///
    /// # channel.queue_declare("tasks")?;
    /// let mut messages = channel.consume(Consume::new("tasks").time_limit(Duration::from_millis(50)))?;
    /// assert!(messages.next().is_none());
    /// # Ok(()) }) }
    /// ```
    #[must_use]
    pub fn time_limit(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.time_limit = limit.into();
        self
    }

    arguments!(Consume, r#""x-priority""#, 10);
}

/// What `basic_get` asks for (pika: `basic_get(queue, auto_ack=False)`; AMQP 0-9-1, `basic.get`).
///
/// ```
/// use haypile::BasicGet;
///
/// assert_eq!(BasicGet::from("tasks"), BasicGet::new("tasks").auto_ack(false));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BasicGet {
    pub(crate) queue: ShortString,
    pub(crate) auto_ack: bool,
}

impl BasicGet {
    /// Fetch from this queue, acknowledging by hand.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// use haypile::BasicGet;
    ///
    /// # channel.queue_declare("tasks")?;
    /// # channel.basic_publish("", "tasks", "dig")?;
    /// let (method, _properties, body) = channel.basic_get(BasicGet::new("tasks"))?.unwrap(); // or just "tasks"
    /// assert_eq!(body, b"dig");
    /// channel.basic_ack(method.delivery_tag)?;
    /// # Ok(()) }) }
    /// ```
    pub fn new(queue: impl Into<ShortString>) -> Self {
        Self::named(queue.into())
    }

    fn named(queue: ShortString) -> Self {
        BasicGet {
            queue,
            auto_ack: false,
        }
    }

    flags! {
        /// Whether the message counts as acknowledged once it is sent. Default: no.
        ///
        /// ```
        /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
        /// # fn main() { example(|connection, channel| {
        /// use haypile::BasicGet;
        ///
        /// # channel.queue_declare("tasks")?;
        /// # channel.basic_publish("", "tasks", "dig")?;
        /// assert!(channel.basic_get(BasicGet::new("tasks").auto_ack(true))?.is_some());
        /// channel.close()?;
        /// assert_eq!(connection.queue_exists("tasks")?.unwrap().message_count, 0); // it did not come back
        /// # Ok(()) }) }
        /// ```
        auto_ack
    }
}

/// What `basic_ack` sends (pika: `basic_ack(delivery_tag=0, multiple=False)`; AMQP 0-9-1, `basic.ack`).
///
/// ```
/// use haypile::BasicAck;
///
/// assert_eq!(BasicAck::from(7), BasicAck::new(7).multiple(false));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BasicAck {
    pub(crate) delivery_tag: u64,
    pub(crate) multiple: bool,
}

impl BasicAck {
    /// This message is done. With `multiple`, 0 stands for all that are unacknowledged on the channel.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|connection, channel| {
    /// use haypile::BasicAck;
    ///
    /// # channel.queue_declare("tasks")?;
    /// # channel.basic_publish("", "tasks", "dig")?;
    /// let (method, _properties, _body) = channel.basic_get("tasks")?.unwrap();
    /// channel.basic_ack(BasicAck::new(method.delivery_tag))?; // or just the tag
    /// channel.close()?;
    /// assert_eq!(connection.queue_exists("tasks")?.unwrap().message_count, 0);
    /// # Ok(()) }) }
    /// ```
    pub fn new(delivery_tag: u64) -> Self {
        BasicAck {
            delivery_tag,
            multiple: false,
        }
    }

    flags! {
        /// Whether all messages up to this one are meant. Default: no.
        ///
        /// ```
        /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
        /// # fn main() { example(|connection, channel| {
        /// use haypile::BasicAck;
        ///
        /// # channel.queue_declare("tasks")?;
        /// # channel.basic_publish("", "tasks", "dig")?;
        /// # channel.basic_publish("", "tasks", "sow")?;
        /// let (_first, _properties, _body) = channel.basic_get("tasks")?.unwrap();
        /// let (second, _properties, _body) = channel.basic_get("tasks")?.unwrap();
        /// channel.basic_ack(BasicAck::new(second.delivery_tag).multiple(true))?;
        /// channel.close()?;
        /// assert_eq!(connection.queue_exists("tasks")?.unwrap().message_count, 0); // both are done
        /// # Ok(()) }) }
        /// ```
        multiple
    }
}

impl Default for BasicAck {
    /// Tag 0, as pika's.
    fn default() -> Self {
        BasicAck::new(0)
    }
}

impl From<u64> for BasicAck {
    fn from(delivery_tag: u64) -> Self {
        BasicAck::new(delivery_tag)
    }
}

/// What `basic_nack` sends (pika: `basic_nack(delivery_tag=0, multiple=False, requeue=True)`; RabbitMQ's extension
/// `basic.nack`).
///
/// ```
/// use haypile::BasicNack;
///
/// assert_eq!(BasicNack::from(7), BasicNack::new(7).multiple(false).requeue(true));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BasicNack {
    pub(crate) delivery_tag: u64,
    pub(crate) multiple: bool,
    pub(crate) requeue: bool,
}

impl BasicNack {
    /// This message goes back to its queue. With `multiple`, 0 stands for all that are unacknowledged on the channel.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// use haypile::BasicNack;
    ///
    /// # channel.queue_declare("tasks")?;
    /// # channel.basic_publish("", "tasks", "dig")?;
    /// let (method, _properties, _body) = channel.basic_get("tasks")?.unwrap();
    /// channel.basic_nack(BasicNack::new(method.delivery_tag))?; // or just the tag
    /// assert!(channel.basic_get("tasks")?.unwrap().0.redelivered);
    /// # Ok(()) }) }
    /// ```
    pub fn new(delivery_tag: u64) -> Self {
        BasicNack {
            delivery_tag,
            multiple: false,
            requeue: true,
        }
    }

    flags! {
        /// Whether all messages up to this one are meant. Default: no.
        ///
        /// ```
        /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
        /// # fn main() { example(|connection, channel| {
        /// use haypile::BasicNack;
        ///
        /// # channel.queue_declare("tasks")?;
        /// # channel.basic_publish("", "tasks", "dig")?;
        /// # channel.basic_publish("", "tasks", "sow")?;
        /// let (_first, _properties, _body) = channel.basic_get("tasks")?.unwrap();
        /// let (second, _properties, _body) = channel.basic_get("tasks")?.unwrap();
        /// channel.basic_nack(BasicNack::new(second.delivery_tag).multiple(true))?;
        /// assert_eq!(connection.queue_exists("tasks")?.unwrap().message_count, 2); // both are back
        /// # Ok(()) }) }
        /// ```
        multiple
        /// Whether it goes back to its queue (yes, the default) or is dropped or dead-lettered (no).
        ///
        /// ```
        /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
        /// # fn main() { example(|_connection, channel| {
        /// use haypile::BasicNack;
        ///
        /// # channel.queue_declare("tasks")?;
        /// # channel.basic_publish("", "tasks", "dig")?;
        /// let (method, _properties, _body) = channel.basic_get("tasks")?.unwrap();
        /// channel.basic_nack(BasicNack::new(method.delivery_tag).requeue(false))?;
        /// assert!(channel.basic_get("tasks")?.is_none());
        /// # Ok(()) }) }
        /// ```
        requeue
    }
}

impl Default for BasicNack {
    /// Tag 0, as pika's.
    fn default() -> Self {
        BasicNack::new(0)
    }
}

impl From<u64> for BasicNack {
    fn from(delivery_tag: u64) -> Self {
        BasicNack::new(delivery_tag)
    }
}

/// What `basic_reject` sends (pika: `basic_reject(delivery_tag=0, requeue=True)`; AMQP 0-9-1, `basic.reject`).
///
/// ```
/// use haypile::BasicReject;
///
/// assert_eq!(BasicReject::from(7), BasicReject::new(7).requeue(true));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BasicReject {
    pub(crate) delivery_tag: u64,
    pub(crate) requeue: bool,
}

impl BasicReject {
    /// This message goes back to its queue.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// use haypile::BasicReject;
    ///
    /// # channel.queue_declare("tasks")?;
    /// # channel.basic_publish("", "tasks", "dig")?;
    /// let (method, _properties, _body) = channel.basic_get("tasks")?.unwrap();
    /// channel.basic_reject(BasicReject::new(method.delivery_tag))?; // or just the tag
    /// assert!(channel.basic_get("tasks")?.unwrap().0.redelivered);
    /// # Ok(()) }) }
    /// ```
    pub fn new(delivery_tag: u64) -> Self {
        BasicReject {
            delivery_tag,
            requeue: true,
        }
    }

    flags! {
        /// Whether it goes back to its queue (yes, the default) or is dropped or dead-lettered (no).
        ///
        /// ```
        /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
        /// # fn main() { example(|_connection, channel| {
        /// use haypile::BasicReject;
        ///
        /// # channel.queue_declare("tasks")?;
        /// # channel.basic_publish("", "tasks", "dig")?;
        /// let (method, _properties, _body) = channel.basic_get("tasks")?.unwrap();
        /// channel.basic_reject(BasicReject::new(method.delivery_tag).requeue(false))?;
        /// assert!(channel.basic_get("tasks")?.is_none());
        /// # Ok(()) }) }
        /// ```
        requeue
    }
}

impl Default for BasicReject {
    /// Tag 0, as pika's.
    fn default() -> Self {
        BasicReject::new(0)
    }
}

impl From<u64> for BasicReject {
    fn from(delivery_tag: u64) -> Self {
        BasicReject::new(delivery_tag)
    }
}

/// What `basic_qos` asks for (pika: `basic_qos(prefetch_size=0, prefetch_count=0, global_qos=False)`; AMQP 0-9-1,
/// `basic.qos`).
///
/// ```
/// use haypile::BasicQos;
///
/// assert_eq!(BasicQos::from(1), BasicQos::new(1).prefetch_size(0).global(false));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BasicQos {
    pub(crate) prefetch_size: u32,
    pub(crate) prefetch_count: u16,
    pub(crate) global: bool,
}

impl BasicQos {
    /// At most so many messages unacknowledged at a time; 0 is no limit.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// use haypile::{BasicQos, QueueDeclare};
    ///
    /// # channel.queue_declare("tasks")?;
    /// channel.basic_qos(BasicQos::new(1))?; // or just 1
    /// channel.consume("tasks")?;
    /// channel.basic_publish("", "tasks", "dig")?;
    /// channel.basic_publish("", "tasks", "sow")?;
    /// let tasks = channel.queue_declare(QueueDeclare::new("tasks").passive(true))?;
    /// assert_eq!(tasks.message_count, 1); // the second one waits in the queue
    /// # Ok(()) }) }
    /// ```
    pub fn new(prefetch_count: u16) -> Self {
        BasicQos {
            prefetch_size: 0,
            prefetch_count,
            global: false,
        }
    }

    /// At most so many bytes unacknowledged at a time; 0 (the default) is no limit. RabbitMQ accepts nothing else, and closes the
    /// connection over it (540).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// use haypile::BasicQos;
    ///
    /// let error = channel.basic_qos(BasicQos::new(1).prefetch_size(4096)).unwrap_err();
    /// assert_eq!(error.reply_code(), Some(540)); // NOT_IMPLEMENTED
    /// # Ok(()) }) }
    /// ```
    #[must_use]
    pub fn prefetch_size(mut self, prefetch_size: u32) -> Self {
        self.prefetch_size = prefetch_size;
        self
    }

    flags! {
        /// Whether the limit is shared by all consumers of the channel (RabbitMQ's reading) rather than given to each
        /// new one (pika: `global_qos`). Default: no.
        ///
        /// ```
        /// # #[cfg(feature = "testing")]
        /// # fn main() -> haypile::Result<()> {
        /// # let broker = haypile::testing::Broker::builder().global_qos(true).start()?;
        /// # let channel = broker.connect(haypile::ConnectionParameters::default())?.channel()?;
        /// use haypile::{BasicQos, QueueDeclare};
        ///
        /// # channel.queue_declare("tasks")?;
        /// channel.basic_qos(BasicQos::new(1).global(true))?;
        /// channel.basic_consume("tasks", |_channel, _method, _properties, _body| ())?;
        /// channel.basic_consume("tasks", |_channel, _method, _properties, _body| ())?;
        /// channel.basic_publish("", "tasks", "dig")?;
        /// channel.basic_publish("", "tasks", "sow")?;
        /// let tasks = channel.queue_declare(QueueDeclare::new("tasks").passive(true))?;
        /// assert_eq!(tasks.message_count, 1); // one for both consumers
        /// # Ok(())
        /// # }
        /// # #[cfg(not(feature = "testing"))]
        /// # fn main() {}
        /// ```
        #[doc(alias = "global_qos")]
        global
    }
}

impl From<u16> for BasicQos {
    fn from(prefetch_count: u16) -> Self {
        BasicQos::new(prefetch_count)
    }
}
