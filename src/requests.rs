//! What pika passes as keyword arguments: one value for each call, with a setter for each argument that has a default.
//!
//! A name, or a delivery tag, converts into the request where it is enough.

use std::borrow::Cow;
use std::time::Duration;

use crate::{BasicProperties, FieldTable, FieldValue, ShortString};

/// Setters for arguments that are yes or no.
macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident)*) => {
        $(
            $(#[$doc])*
            #[must_use]
            pub fn $name(mut self, $name: bool) -> Self {
                self.$name = $name;
                self
            }
        )*
    };
}

/// Setters for the table of arguments that brokers extend AMQP with.
macro_rules! arguments {
    () => {
        /// Adds one of the broker's own arguments, or replaces it.
        #[must_use]
        pub fn argument(
            mut self,
            key: impl Into<ShortString>,
            value: impl Into<FieldValue>,
        ) -> Self {
            self.arguments.insert(key.into(), value.into());
            self
        }

        /// Gives the whole table of the broker's own arguments, in place of what was there.
        #[must_use]
        pub fn arguments(mut self, arguments: impl Into<FieldTable>) -> Self {
            self.arguments = arguments.into();
            self
        }
    };
}

/// A name that is enough.
macro_rules! from_name {
    ($($request:ident)*) => {
        $(
            impl From<&str> for $request {
                fn from(name: &str) -> Self {
                    $request::named(name.into())
                }
            }

            impl From<&String> for $request {
                fn from(name: &String) -> Self {
                    $request::named(name.into())
                }
            }

            impl From<String> for $request {
                fn from(name: String) -> Self {
                    $request::named(name.into())
                }
            }

            impl From<ShortString> for $request {
                fn from(name: ShortString) -> Self {
                    $request::named(name)
                }
            }

            impl From<&ShortString> for $request {
                fn from(name: &ShortString) -> Self {
                    $request::named(name.clone())
                }
            }
        )*
    };
}

from_name!(QueueDeclare QueueDelete ExchangeDeclare ExchangeDelete BasicConsume BasicGet Consume);

/// What `queue_declare` asks for (pika: `queue_declare(queue, passive=False, durable=False, exclusive=False,
/// auto_delete=False, arguments=None)`; AMQP 0-9-1, `queue.declare`).
///
/// ```
/// use haypile::QueueDeclare;
///
/// let tasks = QueueDeclare::new("tasks").durable(true).argument("x-message-ttl", 60_000);
/// let named_by_the_server = QueueDeclare::new("").exclusive(true);
/// assert_eq!(QueueDeclare::from("tasks"), QueueDeclare::new("tasks"));
/// # let _ = (tasks, named_by_the_server);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct QueueDeclare {
    pub(crate) queue: ShortString,
    pub(crate) passive: bool,
    pub(crate) durable: bool,
    pub(crate) exclusive: bool,
    pub(crate) auto_delete: bool,
    pub(crate) arguments: FieldTable,
}

impl QueueDeclare {
    /// A queue of this name (at most 255 bytes), none of the flags set. With an empty name the server invents one.
    pub fn new(queue: impl Into<ShortString>) -> Self {
        Self::named(queue.into())
    }

    fn named(queue: ShortString) -> Self {
        QueueDeclare {
            queue,
            passive: false,
            durable: false,
            exclusive: false,
            auto_delete: false,
            arguments: FieldTable::new(),
        }
    }

    flags! {
        /// Whether only to ask if the queue exists; if it does not, the broker closes the channel (404). Default: no.
        passive
        /// Whether the queue survives a restart of the broker. Default: no.
        durable
        /// Whether it belongs to this connection alone and goes with it. Default: no.
        exclusive
        /// Whether it is deleted when its last consumer is gone. Default: no.
        auto_delete
    }
    arguments!();
}

/// What `queue_delete` asks for (pika: `queue_delete(queue, if_unused=False, if_empty=False)`; AMQP 0-9-1,
/// `queue.delete`).
///
/// ```
/// use haypile::QueueDelete;
///
/// let careful = QueueDelete::new("tasks").if_unused(true).if_empty(true);
/// # let _ = careful;
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueDelete {
    pub(crate) queue: ShortString,
    pub(crate) if_unused: bool,
    pub(crate) if_empty: bool,
}

impl QueueDelete {
    /// This queue, whatever is in it.
    pub fn new(queue: impl Into<ShortString>) -> Self {
        Self::named(queue.into())
    }

    fn named(queue: ShortString) -> Self {
        QueueDelete {
            queue,
            if_unused: false,
            if_empty: false,
        }
    }

    flags! {
        /// Whether to delete it only if it has no consumers. Default: no.
        if_unused
        /// Whether to delete it only if it has no messages. Default: no.
        if_empty
    }
}

/// How an exchange routes (pika: `ExchangeType`; AMQP 0-9-1, section 3.1.3).
///
/// Text converts, for types that a plugin adds: `"x-consistent-hash".into()`.
///
/// ```
/// use haypile::ExchangeType;
///
/// assert_eq!(ExchangeType::from("fanout"), ExchangeType::Fanout);
/// assert_eq!(ExchangeType::from("x-consistent-hash").as_str(), "x-consistent-hash");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum ExchangeType {
    /// To the queues bound with the message's very routing key.
    #[default]
    Direct,
    /// To every bound queue.
    Fanout,
    /// To the queues whose binding pattern (`*` one word, `#` any number) fits the routing key.
    Topic,
    /// To the queues whose binding arguments fit the message's headers.
    Headers,
    /// A type of this name, which a plugin adds.
    Custom(String),
}

impl ExchangeType {
    /// The name on the wire.
    pub fn as_str(&self) -> &str {
        match self {
            ExchangeType::Direct => "direct",
            ExchangeType::Fanout => "fanout",
            ExchangeType::Topic => "topic",
            ExchangeType::Headers => "headers",
            ExchangeType::Custom(name) => name,
        }
    }

    fn known(name: &str) -> Option<Self> {
        Some(match name {
            "direct" => ExchangeType::Direct,
            "fanout" => ExchangeType::Fanout,
            "topic" => ExchangeType::Topic,
            "headers" => ExchangeType::Headers,
            _ => return None,
        })
    }
}

impl From<&str> for ExchangeType {
    fn from(name: &str) -> Self {
        Self::known(name).unwrap_or_else(|| ExchangeType::Custom(name.to_owned()))
    }
}

impl From<&String> for ExchangeType {
    fn from(name: &String) -> Self {
        name.as_str().into()
    }
}

impl From<String> for ExchangeType {
    fn from(name: String) -> Self {
        Self::known(&name).unwrap_or(ExchangeType::Custom(name))
    }
}

impl std::fmt::Display for ExchangeType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What `exchange_declare` asks for (pika: `exchange_declare(exchange, exchange_type='direct', passive=False,
/// durable=False, auto_delete=False, internal=False, arguments=None)`; AMQP 0-9-1, `exchange.declare`).
///
/// A name alone stands for a direct exchange.
///
/// ```
/// use haypile::{ExchangeDeclare, ExchangeType};
///
/// let logs = ExchangeDeclare::new("logs", ExchangeType::Fanout).durable(true);
/// let hash = ExchangeDeclare::new("hash", "x-consistent-hash").argument("hash-header", "id");
/// assert_eq!(ExchangeDeclare::from("orders"), ExchangeDeclare::new("orders", ExchangeType::Direct));
/// # let _ = (logs, hash);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct ExchangeDeclare {
    pub(crate) exchange: ShortString,
    pub(crate) exchange_type: ExchangeType,
    pub(crate) passive: bool,
    pub(crate) durable: bool,
    pub(crate) auto_delete: bool,
    pub(crate) internal: bool,
    pub(crate) arguments: FieldTable,
}

impl ExchangeDeclare {
    /// An exchange of this name (at most 255 bytes) and type, none of the flags set.
    pub fn new(exchange: impl Into<ShortString>, exchange_type: impl Into<ExchangeType>) -> Self {
        ExchangeDeclare {
            exchange_type: exchange_type.into(),
            ..Self::named(exchange.into())
        }
    }

    fn named(exchange: ShortString) -> Self {
        ExchangeDeclare {
            exchange,
            exchange_type: ExchangeType::Direct,
            passive: false,
            durable: false,
            auto_delete: false,
            internal: false,
            arguments: FieldTable::new(),
        }
    }

    flags! {
        /// Whether only to ask if the exchange exists; if it does not, the broker closes the channel (404). Default: no.
        passive
        /// Whether the exchange survives a restart of the broker. Default: no.
        durable
        /// Whether it is deleted when the last queue or exchange bound to it is gone. Default: no.
        auto_delete
        /// Whether only other exchanges may publish to it. Default: no.
        internal
    }
    arguments!();
}

/// What `exchange_delete` asks for (pika: `exchange_delete(exchange, if_unused=False)`; AMQP 0-9-1, `exchange.delete`).
///
/// ```
/// use haypile::ExchangeDelete;
///
/// let careful = ExchangeDelete::new("logs").if_unused(true);
/// # let _ = careful;
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExchangeDelete {
    pub(crate) exchange: ShortString,
    pub(crate) if_unused: bool,
}

impl ExchangeDelete {
    /// This exchange, whatever is bound to it.
    pub fn new(exchange: impl Into<ShortString>) -> Self {
        Self::named(exchange.into())
    }

    fn named(exchange: ShortString) -> Self {
        ExchangeDelete {
            exchange,
            if_unused: false,
        }
    }

    flags! {
        /// Whether to delete it only if nothing is bound to it. Default: no.
        if_unused
    }
}

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
        auto_ack
        /// Whether nobody else may consume from the queue. Default: no.
        exclusive
    }

    /// The consumer's name on this channel, at most 255 bytes. Default (and for an empty one): made up, as
    /// `ctag1.9f0c…`.
    #[must_use]
    pub fn consumer_tag(mut self, consumer_tag: impl Into<String>) -> Self {
        self.consumer_tag = Some(consumer_tag.into()).filter(|tag| !tag.is_empty());
        self
    }

    arguments!();
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
        auto_ack
        /// Whether nobody else may consume from the queue. Default: no.
        exclusive
    }

    /// After how long without a message the iterator ends; `None` (the default) is never. The consumer stays, and the
    /// iterator can be asked again. Time that the program itself takes between two messages does not count.
    ///
    /// pika's generator goes on after its `inactivity_timeout`: see [`Messages::inactivity_timeout`](crate::Messages::inactivity_timeout).
    #[must_use]
    pub fn idle_exit(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.idle_exit = limit.into();
        self
    }

    /// How long the iterator may go on in all, from `consume` on, whatever comes; `None` (the default) is for ever. It has no
    /// counterpart in pika. A message that has come by then and not been yielded stays for the next `consume`, or goes back
    /// by [`cancel`](crate::Channel::cancel).
    #[must_use]
    pub fn time_limit(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.time_limit = limit.into();
        self
    }

    arguments!();
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
        auto_ack
    }
}

/// What `basic_ack` says (pika: `basic_ack(delivery_tag=0, multiple=False)`; AMQP 0-9-1, `basic.ack`).
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
    pub fn new(delivery_tag: u64) -> Self {
        BasicAck {
            delivery_tag,
            multiple: false,
        }
    }

    flags! {
        /// Whether all messages up to this one are meant. Default: no.
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

/// What `basic_nack` says (pika: `basic_nack(delivery_tag=0, multiple=False, requeue=True)`; RabbitMQ's extension
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
    pub fn new(delivery_tag: u64) -> Self {
        BasicNack {
            delivery_tag,
            multiple: false,
            requeue: true,
        }
    }

    flags! {
        /// Whether all messages up to this one are meant. Default: no.
        multiple
        /// Whether it goes back to its queue (yes, the default) or is dropped or dead-lettered (no).
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

/// What `basic_reject` says (pika: `basic_reject(delivery_tag=0, requeue=True)`; AMQP 0-9-1, `basic.reject`).
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
    pub fn new(delivery_tag: u64) -> Self {
        BasicReject {
            delivery_tag,
            requeue: true,
        }
    }

    flags! {
        /// Whether it goes back to its queue (yes, the default) or is dropped or dead-lettered (no).
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
    pub fn new(prefetch_count: u16) -> Self {
        BasicQos {
            prefetch_size: 0,
            prefetch_count,
            global: false,
        }
    }

    /// At most so many bytes unacknowledged at a time; 0 (the default) is no limit, and all that RabbitMQ accepts.
    #[must_use]
    pub fn prefetch_size(mut self, prefetch_size: u32) -> Self {
        self.prefetch_size = prefetch_size;
        self
    }

    flags! {
        /// Whether the limit is shared by all consumers of the channel (RabbitMQ's reading) rather than given to each
        /// new one (pika: `global_qos`). Default: no.
        #[doc(alias = "global_qos")]
        global
    }
}

impl From<u16> for BasicQos {
    fn from(prefetch_count: u16) -> Self {
        BasicQos::new(prefetch_count)
    }
}

/// What `basic_publish_with` takes beside exchange, routing key and body (pika: `basic_publish(…, properties=None,
/// mandatory=False)`; AMQP 0-9-1, `basic.publish`).
///
/// Properties alone convert. Borrowed ones are not copied, so that one value serves any number of messages:
///
/// ```
/// use haypile::{BasicProperties, BasicPublish, DeliveryMode};
///
/// let persistent = BasicProperties::new().delivery_mode(DeliveryMode::Persistent);
/// assert_eq!(BasicPublish::from(&persistent), BasicPublish::new().properties(persistent.clone()));
/// let must_arrive = BasicPublish::new().mandatory(true).properties(&persistent);
/// # let _ = must_arrive;
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct BasicPublish<'a> {
    pub(crate) properties: Cow<'a, BasicProperties>,
    pub(crate) mandatory: bool,
}

/// What a message without properties borrows.
static NO_PROPERTIES: BasicProperties = BasicProperties::NONE;

impl<'a> BasicPublish<'a> {
    /// No properties, not mandatory.
    pub fn new() -> Self {
        BasicPublish {
            properties: Cow::Borrowed(&NO_PROPERTIES),
            mandatory: false,
        }
    }

    flags! {
        /// Whether the message comes back if no queue takes it: to the callbacks of `add_on_return_callback`, and, on
        /// a channel with confirms, as `Error::Unroutable`. Default: no.
        mandatory
    }

    /// The message's properties: a [`BasicProperties`], or a reference to one.
    #[must_use]
    pub fn properties(mut self, properties: impl Into<Cow<'a, BasicProperties>>) -> Self {
        self.properties = properties.into();
        self
    }
}

impl Default for BasicPublish<'_> {
    fn default() -> Self {
        BasicPublish::new()
    }
}

impl From<BasicProperties> for BasicPublish<'_> {
    fn from(properties: BasicProperties) -> Self {
        BasicPublish {
            properties: Cow::Owned(properties),
            mandatory: false,
        }
    }
}

impl<'a> From<&'a BasicProperties> for BasicPublish<'a> {
    fn from(properties: &'a BasicProperties) -> Self {
        BasicPublish {
            properties: Cow::Borrowed(properties),
            mandatory: false,
        }
    }
}

impl From<BasicProperties> for Cow<'_, BasicProperties> {
    fn from(properties: BasicProperties) -> Self {
        Cow::Owned(properties)
    }
}

impl<'a> From<&'a BasicProperties> for Cow<'a, BasicProperties> {
    fn from(properties: &'a BasicProperties) -> Self {
        Cow::Borrowed(properties)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_pikas() {
        let queue = QueueDeclare::new("q");
        assert!(!(queue.passive || queue.durable || queue.exclusive || queue.auto_delete));
        assert!(queue.arguments.is_empty());
        let delete = QueueDelete::new("q");
        assert!(!(delete.if_unused || delete.if_empty));
        let exchange = ExchangeDeclare::from("x");
        assert_eq!(exchange.exchange_type, ExchangeType::Direct);
        assert!(
            !(exchange.passive || exchange.durable || exchange.auto_delete || exchange.internal)
        );
        assert!(!ExchangeDelete::new("x").if_unused);
        let consume = BasicConsume::new("q");
        assert!(!(consume.auto_ack || consume.exclusive || consume.consumer_tag.is_some()));
        let consume = Consume::new("q");
        assert!(!(consume.auto_ack || consume.exclusive || consume.idle_exit.is_some()));
        assert!(!BasicGet::new("q").auto_ack);
        assert_eq!(
            BasicAck::default(),
            BasicAck {
                delivery_tag: 0,
                multiple: false
            }
        );
        assert_eq!(
            BasicNack::default(),
            BasicNack {
                delivery_tag: 0,
                multiple: false,
                requeue: true
            }
        );
        assert_eq!(
            BasicReject::default(),
            BasicReject {
                delivery_tag: 0,
                requeue: true
            }
        );
        assert_eq!(
            BasicQos::default(),
            BasicQos {
                prefetch_size: 0,
                prefetch_count: 0,
                global: false
            }
        );
        assert!(!BasicPublish::new().mandatory);
    }

    #[test]
    fn each_setter_sets_its_own_field() {
        let queue = QueueDeclare::new("q").durable(true);
        assert!(queue.durable && !queue.passive && !queue.exclusive && !queue.auto_delete);
        let queue = QueueDeclare::new("q")
            .passive(true)
            .exclusive(true)
            .auto_delete(true);
        assert!(!queue.durable && queue.passive && queue.exclusive && queue.auto_delete);
        let exchange = ExchangeDeclare::new("x", "topic").internal(true);
        assert!(
            exchange.internal && !exchange.durable && exchange.exchange_type == ExchangeType::Topic
        );
        let qos = BasicQos::new(3).prefetch_size(4).global(true);
        assert_eq!(
            qos,
            BasicQos {
                prefetch_size: 4,
                prefetch_count: 3,
                global: true
            }
        );
        assert_eq!(BasicConsume::new("q").consumer_tag("").consumer_tag, None);
        assert_eq!(
            BasicConsume::new("q")
                .consumer_tag("t")
                .consumer_tag
                .as_deref(),
            Some("t")
        );
    }

    #[test]
    fn arguments_are_added_or_given_whole() {
        let queue = QueueDeclare::new("q")
            .argument("x-max-length", 5)
            .argument("x-max-length", 6);
        assert_eq!(queue.arguments.len(), 1);
        assert_eq!(
            queue
                .arguments
                .get("x-max-length")
                .and_then(FieldValue::as_i64),
            Some(6)
        );
        assert!(queue.arguments(FieldTable::new()).arguments.is_empty());
    }

    #[test]
    fn borrowed_properties_are_not_copied() {
        let properties = BasicProperties::new();
        assert!(
            matches!(BasicPublish::from(&properties).properties, Cow::Borrowed(p) if std::ptr::eq(p, &properties))
        );
        assert!(matches!(
            BasicPublish::new().properties(&properties).properties,
            Cow::Borrowed(_)
        ));
        assert!(matches!(BasicPublish::new().properties, Cow::Borrowed(_)));
        assert!(matches!(
            BasicPublish::from(properties).properties,
            Cow::Owned(_)
        ));
    }
}
