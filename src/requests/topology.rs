//! What declares and deletes queues and exchanges.

use crate::{FieldTable, FieldValue, ShortString};

from_name!(QueueDeclare QueueDelete ExchangeDeclare ExchangeDelete);

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
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// use haypile::QueueDeclare;
    ///
    /// assert_eq!(channel.queue_declare(QueueDeclare::new("tasks"))?.queue, "tasks");
    /// assert!(channel.queue_declare(QueueDeclare::new(""))?.queue.starts_with("amq.gen-"));
    /// # Ok(()) }) }
    /// ```
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
        ///
        /// ```
        /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
        /// # fn main() { example(|_connection, channel| {
        /// use haypile::QueueDeclare;
        ///
        /// let error = channel.queue_declare(QueueDeclare::new("nowhere").passive(true)).unwrap_err();
        /// assert_eq!(error.reply_code(), Some(404));
        /// # Ok(()) }) }
        /// ```
        passive
        /// Whether the queue survives a restart of the broker. Default: no.
        ///
        /// ```
        /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
        /// # fn main() { example(|_connection, channel| {
        /// use haypile::QueueDeclare;
        ///
        /// channel.queue_declare(QueueDeclare::new("tasks").durable(true))?;
        /// // Declaring it again takes the same flags.
        /// assert_eq!(channel.queue_declare("tasks").unwrap_err().reply_code(), Some(406));
        /// # Ok(()) }) }
        /// ```
        durable
        /// Whether it belongs to this connection alone and goes with it. Default: no.
        ///
        /// ```
        /// # #[cfg(feature = "testing")]
        /// # fn main() -> haypile::Result<()> {
        /// # let broker = haypile::testing::Broker::start()?;
        /// use haypile::{ConnectionParameters, QueueDeclare};
        ///
        /// let connection = broker.connect(ConnectionParameters::default())?;
        /// connection.channel()?.queue_declare(QueueDeclare::new("mine").exclusive(true))?;
        /// let another = broker.connect(ConnectionParameters::default())?;
        /// assert_eq!(another.channel()?.queue_declare("mine").unwrap_err().reply_code(), Some(405));
        /// connection.close()?;
        /// assert!(another.queue_exists("mine")?.is_none());
        /// # Ok(())
        /// # }
        /// # #[cfg(not(feature = "testing"))]
        /// # fn main() {}
        /// ```
        exclusive
        /// Whether it is deleted when its last consumer is gone. Default: no.
        ///
        /// ```
        /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
        /// # fn main() { example(|connection, channel| {
        /// use haypile::QueueDeclare;
        ///
        /// channel.queue_declare(QueueDeclare::new("news").auto_delete(true))?;
        /// channel.consume("news")?;
        /// channel.cancel()?;
        /// assert!(connection.queue_exists("news")?.is_none());
        /// # Ok(()) }) }
        /// ```
        auto_delete
    }
    arguments!(QueueDeclare, r#""x-max-length""#, 1000);
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
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|connection, channel| {
    /// use haypile::QueueDelete;
    ///
    /// # channel.queue_declare("tasks")?;
    /// # channel.basic_publish("", "tasks", "dig")?;
    /// assert_eq!(channel.queue_delete(QueueDelete::new("tasks"))?, 1); // a message went with it
    /// assert!(connection.queue_exists("tasks")?.is_none());
    /// # Ok(()) }) }
    /// ```
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
        ///
        /// ```
        /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
        /// # fn main() { example(|_connection, channel| {
        /// use haypile::QueueDelete;
        ///
        /// # channel.queue_declare("tasks")?;
        /// channel.consume("tasks")?;
        /// let error = channel.queue_delete(QueueDelete::new("tasks").if_unused(true)).unwrap_err();
        /// assert_eq!(error.reply_code(), Some(406));
        /// # Ok(()) }) }
        /// ```
        if_unused
        /// Whether to delete it only if it has no messages. Default: no.
        ///
        /// ```
        /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
        /// # fn main() { example(|_connection, channel| {
        /// use haypile::QueueDelete;
        ///
        /// # channel.queue_declare("tasks")?;
        /// channel.basic_publish("", "tasks", "dig")?;
        /// let error = channel.queue_delete(QueueDelete::new("tasks").if_empty(true)).unwrap_err();
        /// assert_eq!(error.reply_code(), Some(406));
        /// # Ok(()) }) }
        /// ```
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
    ///
    /// ```
    /// use haypile::ExchangeType;
    ///
    /// assert_eq!(ExchangeType::Topic.as_str(), "topic");
    /// ```
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
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// use haypile::{ExchangeDeclare, ExchangeType};
    ///
    /// channel.exchange_declare(ExchangeDeclare::new("logs", ExchangeType::Fanout))?;
    /// // A text is enough; it must be the same type.
    /// channel.exchange_declare(ExchangeDeclare::new("logs", "fanout"))?;
    /// assert_eq!(channel.exchange_declare("logs").unwrap_err().reply_code(), Some(406));
    /// # Ok(()) }) }
    /// ```
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
        ///
        /// ```
        /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
        /// # fn main() { example(|_connection, channel| {
        /// use haypile::ExchangeDeclare;
        ///
        /// let error = channel.exchange_declare(ExchangeDeclare::from("nowhere").passive(true)).unwrap_err();
        /// assert_eq!(error.reply_code(), Some(404));
        /// # Ok(()) }) }
        /// ```
        passive
        /// Whether the exchange survives a restart of the broker. Default: no.
        ///
        /// ```
        /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
        /// # fn main() { example(|_connection, channel| {
        /// use haypile::ExchangeDeclare;
        ///
        /// channel.exchange_declare(ExchangeDeclare::new("logs", "fanout").durable(true))?;
        /// // Declaring it again takes the same flags.
        /// let error = channel.exchange_declare(ExchangeDeclare::new("logs", "fanout")).unwrap_err();
        /// assert_eq!(error.reply_code(), Some(406));
        /// # Ok(()) }) }
        /// ```
        durable
        /// Whether it is deleted when the last queue or exchange bound to it is gone. Default: no.
        ///
        /// ```
        /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
        /// # fn main() { example(|connection, channel| {
        /// use haypile::ExchangeDeclare;
        ///
        /// # channel.queue_declare("lines")?;
        /// channel.exchange_declare(ExchangeDeclare::new("logs", "fanout").auto_delete(true))?;
        /// channel.queue_bind("lines", "logs", "")?;
        /// channel.queue_unbind("lines", "logs", "")?;
        /// assert!(!connection.exchange_exists("logs")?);
        /// # Ok(()) }) }
        /// ```
        auto_delete
        /// Whether only other exchanges may publish to it. Default: no.
        ///
        /// ```
        /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
        /// # fn main() { example(|_connection, channel| {
        /// use haypile::ExchangeDeclare;
        ///
        /// channel.exchange_declare(ExchangeDeclare::new("inner", "fanout").internal(true))?;
        /// channel.confirm_delivery()?;
        /// assert_eq!(channel.basic_publish("inner", "", "no").unwrap_err().reply_code(), Some(403));
        /// # Ok(()) }) }
        /// ```
        internal
    }
    arguments!(ExchangeDeclare, r#""alternate-exchange""#, r#""unrouted""#);
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
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|connection, channel| {
    /// use haypile::ExchangeDelete;
    ///
    /// # channel.exchange_declare("logs")?;
    /// channel.exchange_delete(ExchangeDelete::new("logs"))?; // or just "logs"
    /// assert!(!connection.exchange_exists("logs")?);
    /// # Ok(()) }) }
    /// ```
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
        ///
        /// ```
        /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
        /// # fn main() { example(|_connection, channel| {
        /// use haypile::ExchangeDelete;
        ///
        /// # channel.queue_declare("lines")?;
        /// # channel.exchange_declare("logs")?;
        /// channel.queue_bind("lines", "logs", "")?;
        /// let error = channel.exchange_delete(ExchangeDelete::new("logs").if_unused(true)).unwrap_err();
        /// assert_eq!(error.reply_code(), Some(406));
        /// # Ok(()) }) }
        /// ```
        if_unused
    }
}
