//! Looking in.

use super::broker::Broker;
use super::exchange::Destination;
use super::publish::decode_properties;
use super::queue::{Queue as Held, Stored};
use super::state::State;
use super::text::Text;
use crate::{BasicProperties, FieldTable, ShortString};

/// A queue as it was when [`Broker::queue`] looked.
///
/// ```
/// use haypile::testing::Broker;
///
/// # fn main() -> haypile::Result<()> {
/// let broker = Broker::start()?;
/// let channel = haypile::Connection::open(broker.url())?.channel()?;
/// channel.queue_declare("hello")?;
/// channel.confirm_delivery()?;
/// channel.basic_publish("", "hello", "Hello World!")?;
/// assert_eq!(broker.queue("hello").unwrap().bodies(), ["Hello World!"]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Queue {
    /// Its name.
    pub name: ShortString,
    /// Whether it would outlive a restart.
    pub durable: bool,
    /// Whether it belongs to one connection, and goes with it.
    pub exclusive: bool,
    /// Whether it goes with its last consumer.
    pub auto_delete: bool,
    /// What it was declared with.
    pub arguments: FieldTable,
    /// The messages that are ready, the next one to be delivered first.
    pub messages: Vec<Message>,
    /// The messages that were delivered or fetched and are not acknowledged, in the order of connections, channels and delivery
    /// tags.
    pub unacknowledged: Vec<Message>,
    /// Its consumers, the oldest first.
    pub consumers: Vec<Consumer>,
}

impl Queue {
    /// The bodies of the messages that are ready, as text: for comparing them at a glance. What is not UTF-8 is replaced.
    ///
    /// ```
    /// use haypile::{testing::Broker, ConnectionParameters};
    ///
    /// let broker = Broker::start()?;
    /// let channel = broker.connect(ConnectionParameters::default())?.channel()?;
    /// channel.confirm_delivery()?;
    /// channel.queue_declare("tasks")?;
    /// channel.basic_publish("", "tasks", "sweep")?;
    /// channel.basic_publish("", "tasks", "dust")?;
    /// assert_eq!(broker.queue("tasks").unwrap().bodies(), ["sweep", "dust"]);
    /// # Ok::<(), haypile::Error>(())
    /// ```
    pub fn bodies(&self) -> Vec<String> {
        let bodies = self.messages.iter().map(|message| &message.body);
        bodies
            .map(|body| String::from_utf8_lossy(body).into_owned())
            .collect()
    }
}

/// A message in a [`Queue`].
///
/// ```
/// use haypile::{testing::Broker, ConnectionParameters};
///
/// let broker = Broker::start()?;
/// let channel = broker.connect(ConnectionParameters::default())?.channel()?;
/// channel.confirm_delivery()?;
/// channel.queue_declare("tasks")?;
/// channel.basic_publish("", "tasks", "sweep")?;
/// let message = broker.queue("tasks").unwrap().messages.remove(0);
/// assert_eq!((&*message.routing_key, message.redelivered), ("tasks", false));
/// # Ok::<(), haypile::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Message {
    /// The exchange it was published to.
    pub exchange: ShortString,
    /// The routing key it was published with.
    pub routing_key: ShortString,
    /// Its properties, with `x-death` among the headers if it is a dead letter.
    pub properties: BasicProperties,
    /// Its body.
    pub body: Vec<u8>,
    /// Whether it was delivered before, so that the next delivery has the flag.
    pub redelivered: bool,
}

/// A consumer of a [`Queue`].
///
/// ```
/// use haypile::{testing::Broker, ConnectionParameters};
///
/// let broker = Broker::start()?;
/// let channel = broker.connect(ConnectionParameters::default())?.channel()?;
/// channel.queue_declare("tasks")?;
/// channel.basic_qos(10)?;
/// channel.consume("tasks")?;
/// let consumer = broker.queue("tasks").unwrap().consumers.remove(0);
/// assert_eq!((consumer.prefetch_count, consumer.auto_ack, consumer.active), (10, false, true));
/// # Ok::<(), haypile::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Consumer {
    /// Its tag.
    pub consumer_tag: ShortString,
    /// The number of its connection, as [`ClientConnection::id`](super::ClientConnection::id) gives it.
    pub connection: u64,
    /// The number of its channel.
    pub channel: u16,
    /// Whether it does not acknowledge.
    pub auto_ack: bool,
    /// Whether it has the queue for itself.
    pub exclusive: bool,
    /// How many unacknowledged messages it may have; 0 is any number.
    pub prefetch_count: u16,
    /// How many it has.
    pub unacknowledged: u32,
    /// Its priority (`x-priority`).
    pub priority: i64,
    /// What else it was registered with.
    pub arguments: FieldTable,
    /// Whether it gets messages at all: of a queue with a single active consumer, only that one does.
    pub active: bool,
}

/// A binding, from [`Broker::bindings`].
///
/// ```
/// use haypile::{testing::Broker, ConnectionParameters};
///
/// let broker = Broker::start()?;
/// let channel = broker.connect(ConnectionParameters::default())?.channel()?;
/// channel.queue_declare("tasks")?;
/// channel.queue_bind("tasks", "amq.topic", "orders.#")?;
/// let binding = broker.bindings().remove(0);
/// assert_eq!((&*binding.source, &*binding.destination, &*binding.routing_key), ("amq.topic", "tasks", "orders.#"));
/// assert!(!binding.to_exchange);
/// # Ok::<(), haypile::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Binding {
    /// The exchange that messages come from.
    pub source: ShortString,
    /// The queue or the exchange that they go to.
    pub destination: ShortString,
    /// Whether the destination is an exchange.
    pub to_exchange: bool,
    /// The routing key or pattern.
    pub routing_key: ShortString,
    /// What a headers exchange routes by.
    pub arguments: FieldTable,
}

/// An exchange, from [`Broker::exchange`].
///
/// ```
/// use haypile::{testing::Broker, ConnectionParameters, ExchangeDeclare};
///
/// let broker = Broker::start()?;
/// let channel = broker.connect(ConnectionParameters::default())?.channel()?;
/// channel.exchange_declare(ExchangeDeclare::new("logs", "fanout").durable(true))?;
/// let exchange = broker.exchange("logs").unwrap();
/// assert_eq!((exchange.exchange_type, exchange.durable, exchange.internal), ("fanout", true, false));
/// # Ok::<(), haypile::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exchange {
    /// Its name.
    pub name: ShortString,
    /// `direct`, `fanout`, `topic` or `headers`.
    pub exchange_type: &'static str,
    /// Whether it would outlive a restart.
    pub durable: bool,
    /// Whether it goes with its last binding.
    pub auto_delete: bool,
    /// Whether only other exchanges publish to it.
    pub internal: bool,
}

/// Looking in. What these return is a copy, and stays as it is. Names without a virtual host are of `/`.
impl Broker {
    /// A queue of the virtual host `/`, if there is one of that name.
    ///
    /// ```
    /// use haypile::{testing::Broker, ConnectionParameters};
    ///
    /// # fn main() -> haypile::Result<()> {
    /// let broker = Broker::start()?;
    /// let channel = broker.connect(ConnectionParameters::default())?.channel()?;
    /// channel.queue_declare("tasks")?;
    /// channel.basic_publish("", "tasks", "sweep")?;
    /// channel.basic_get("tasks")?;   // the call before this one has been handled when it returns
    /// let queue = broker.queue("tasks").unwrap();
    /// assert!(queue.messages.is_empty());
    /// assert_eq!(queue.unacknowledged[0].body, b"sweep");
    /// # Ok(())
    /// # }
    /// ```
    pub fn queue(&self, name: &str) -> Option<Queue> {
        self.queue_of("/", name)
    }

    /// A queue of another virtual host.
    ///
    /// ```
    /// use haypile::{testing::Broker, ConnectionParameters};
    ///
    /// let broker = Broker::builder().virtual_host("orders").start()?;
    /// let parameters = ConnectionParameters::default().virtual_host("orders");
    /// broker.connect(parameters)?.channel()?.queue_declare("tasks")?;
    /// assert!(broker.queue_of("orders", "tasks").is_some());
    /// assert!(broker.queue("tasks").is_none());
    /// # Ok::<(), haypile::Error>(())
    /// ```
    pub fn queue_of(&self, virtual_host: &str, name: &str) -> Option<Queue> {
        let state = self.shared.lock();
        let id = state.queue_id(virtual_host.as_bytes(), name.as_bytes())?;
        Some(state.view(id, state.queues.get(&id)?))
    }

    /// The names of all queues of the virtual host `/`, in alphabetical order.
    ///
    /// ```
    /// use haypile::{testing::Broker, ConnectionParameters};
    ///
    /// let broker = Broker::start()?;
    /// let channel = broker.connect(ConnectionParameters::default())?.channel()?;
    /// channel.queue_declare("tasks")?;
    /// channel.queue_declare("failed")?;
    /// assert_eq!(broker.queues(), ["failed", "tasks"]);
    /// # Ok::<(), haypile::Error>(())
    /// ```
    pub fn queues(&self) -> Vec<ShortString> {
        let state = self.shared.lock();
        let vhost = state.vhosts.get(&b"/"[..]);
        let names = vhost.into_iter().flat_map(|vhost| vhost.queues.keys());
        names.map(short).collect()
    }

    /// An exchange of the virtual host `/`, if there is one of that name.
    ///
    /// ```
    /// use haypile::testing::Broker;
    ///
    /// let broker = Broker::start()?;
    /// assert_eq!(broker.exchange("amq.topic").unwrap().exchange_type, "topic");
    /// assert!(broker.exchange("logs").is_none());
    /// # Ok::<(), haypile::Error>(())
    /// ```
    pub fn exchange(&self, name: &str) -> Option<Exchange> {
        let state = self.shared.lock();
        let vhost = state.vhosts.get(&b"/"[..])?;
        let exchange = vhost.exchanges.get(name.as_bytes())?;
        Some(Exchange {
            name: short(&exchange.name),
            exchange_type: exchange.kind.name(),
            durable: exchange.durable,
            auto_delete: exchange.auto_delete,
            internal: exchange.internal,
        })
    }

    /// All bindings of the virtual host `/`, save those that every queue has to the default exchange: in the order of the
    /// sources' names, and of each source the oldest first.
    ///
    /// ```
    /// use haypile::{testing::Broker, ConnectionParameters};
    ///
    /// let broker = Broker::start()?;
    /// let channel = broker.connect(ConnectionParameters::default())?.channel()?;
    /// channel.queue_declare("tasks")?;
    /// assert!(broker.bindings().is_empty()); // the default exchange is left out
    /// channel.queue_bind("tasks", "amq.fanout", "")?;
    /// assert_eq!(broker.bindings().len(), 1);
    /// # Ok::<(), haypile::Error>(())
    /// ```
    pub fn bindings(&self) -> Vec<Binding> {
        let state = self.shared.lock();
        let vhost = state.vhosts.get(&b"/"[..]);
        let exchanges = vhost.into_iter().flat_map(|vhost| vhost.exchanges.values());
        let mut bindings = Vec::new();
        for exchange in exchanges {
            for binding in &exchange.bindings {
                let (destination, to_exchange) = match &binding.destination {
                    Destination::Queue(name) => (name, false),
                    Destination::Exchange(name) => (name, true),
                };
                bindings.push(Binding {
                    source: short(&exchange.name),
                    destination: short(destination),
                    to_exchange,
                    routing_key: short(&binding.key),
                    arguments: binding.arguments.clone(),
                });
            }
        }
        bindings
    }
}

impl State {
    fn view(&self, id: u64, queue: &Held) -> Queue {
        let channels = self
            .connections
            .values()
            .flat_map(|connection| connection.channels.values());
        let unacknowledged = channels
            .flat_map(|channel| channel.unacknowledged.values())
            .filter(|message| message.queue == id && queue.counts(&message.stored));
        let consumers = queue.consumers.iter().map(|(id, consumer)| Consumer {
            consumer_tag: short(&consumer.tag),
            connection: consumer.connection,
            channel: consumer.channel,
            auto_ack: consumer.no_ack,
            exclusive: consumer.exclusive,
            prefetch_count: consumer.prefetch,
            unacknowledged: consumer.unacknowledged.try_into().unwrap_or(0),
            priority: consumer.priority,
            arguments: consumer.arguments.clone(),
            active: queue.is_active(*id),
        });
        Queue {
            name: short(&queue.name),
            durable: queue.durable,
            exclusive: queue.owner.is_some(),
            auto_delete: queue.auto_delete,
            arguments: queue.arguments.clone(),
            messages: queue.ready.values().map(message).collect(),
            unacknowledged: unacknowledged.map(|entry| message(&entry.stored)).collect(),
            consumers: consumers.collect(),
        }
    }
}

fn message(stored: &Stored) -> Message {
    Message {
        exchange: short(&stored.message.exchange),
        routing_key: short(&stored.message.keys[0]),
        properties: decode_properties(&stored.message.properties),
        body: stored.message.body.clone(),
        redelivered: stored.redelivered,
    }
}

fn short(text: &Text) -> ShortString {
    (&**text).into()
}
