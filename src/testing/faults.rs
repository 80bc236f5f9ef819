//! Misbehaviour on order.

use std::sync::Arc;
use std::time::Duration;

use super::broker::{Broker, Shared};
use super::link::Link;
use super::pipe::Ending;
use super::queue::Reason;
use super::refusal::{self, Refusal};
use super::state::{At, State, Work};
use super::text::Text;
use super::Direction;

/// What becomes of a message instead of what should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NextPublish {
    Nack,
    Return,
    Withhold,
}

/// A client's connection, seen from the broker: [`Broker::connections`] has those that are open, [`Broker::next_connection`]
/// the one that comes next.
///
/// Each fault takes effect at once, counts bytes from now on, and stays until the connection ends, unless its description has it otherwise.
///
/// ```
/// use haypile::testing::Broker;
///
/// # fn main() -> haypile::Result<()> {
/// let broker = Broker::start()?;
/// let connection = haypile::Connection::open(broker.url())?;
/// broker.connections()[0].cut();
/// assert!(connection.channel().is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ClientConnection {
    shared: Arc<Shared>,
    id: u64,
    link: Arc<Link>,
}

impl std::fmt::Debug for ClientConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientConnection")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl ClientConnection {
    /// Its number, as the [`log`](Broker::log) shows it.
    ///
    /// ```
    /// use haypile::{testing::Broker, ConnectionParameters};
    ///
    /// let broker = Broker::start()?;
    /// let channel = broker.connect(ConnectionParameters::default())?.channel()?;
    /// channel.queue_declare("tasks")?;
    /// channel.consume("tasks")?;
    /// assert_eq!(broker.queue("tasks").unwrap().consumers[0].connection, broker.connections()[0].id());
    /// # Ok::<(), haypile::Error>(())
    /// ```
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether it has been opened and has not ended.
    ///
    /// ```
    /// use haypile::{testing::Broker, ConnectionParameters};
    ///
    /// let broker = Broker::start()?;
    /// let connection = broker.connect(ConnectionParameters::default())?;
    /// let seen = broker.connections().remove(0);
    /// assert!(seen.is_open());
    /// connection.close()?;
    /// broker.wait_until(|| !seen.is_open(), std::time::Duration::from_secs(5)).unwrap();
    /// # Ok::<(), haypile::Error>(())
    /// ```
    pub fn is_open(&self) -> bool {
        self.shared.lock().connections.contains_key(&self.id)
    }

    /// The name that the client gave it (the client property `connection_name`).
    ///
    /// ```
    /// use haypile::{testing::Broker, ConnectionParameters};
    ///
    /// let broker = Broker::start()?;
    /// let parameters = ConnectionParameters::default().client_property("connection_name", "orders");
    /// let _connection = broker.connect(parameters)?;
    /// assert_eq!(broker.connections()[0].name().as_deref(), Some("orders"));
    /// # Ok::<(), haypile::Error>(())
    /// ```
    pub fn name(&self) -> Option<String> {
        let state = self.shared.lock();
        state.connections.get(&self.id)?.client_name()
    }

    /// Ends the stream, as if the broker's machine had closed it: without `connection.close`.
    ///
    /// ```
    /// use haypile::{testing::Broker, ConnectionParameters, Error};
    ///
    /// let broker = Broker::start()?;
    /// let connection = broker.connect(ConnectionParameters::default())?;
    /// broker.connections()[0].cut();
    /// assert!(matches!(connection.channel(), Err(Error::StreamLost(_))));
    /// # Ok::<(), haypile::Error>(())
    /// ```
    pub fn cut(&self) {
        self.note("the test cuts it");
        self.link.end(Ending::Cut);
    }

    /// Ends the stream when so many bytes have passed in this direction; what comes after them is lost.
    ///
    /// ```
    /// use haypile::testing::{Broker, Direction};
    /// use haypile::ConnectionParameters;
    ///
    /// let broker = Broker::start()?;
    /// let channel = broker.connect(ConnectionParameters::default())?.channel()?;
    /// channel.queue_declare("tasks")?;
    /// broker.connections()[0].cut_after(Direction::ToBroker, 100);
    /// channel.basic_publish("", "tasks", [0u8; 200])?; // the half of it
    /// assert!(channel.basic_get("tasks").is_err());
    /// assert!(broker.queue("tasks").unwrap().messages.is_empty());
    /// # Ok::<(), haypile::Error>(())
    /// ```
    pub fn cut_after(&self, direction: Direction, bytes: u64) {
        self.note(&format!("the test cuts it after {bytes} bytes {direction}"));
        self.link.end_after(direction, bytes, Ending::Cut);
    }

    /// Ends the stream with a reset, so that reads and writes of the client fail (`ECONNRESET`).
    ///
    /// ```
    /// use haypile::{testing::Broker, Connection};
    ///
    /// let broker = Broker::start()?;
    /// let connection = Connection::open(broker.url())?;
    /// broker.connections()[0].reset();
    /// assert!(connection.channel().unwrap_err().is_connection_error());
    /// # Ok::<(), haypile::Error>(())
    /// ```
    pub fn reset(&self) {
        self.note("the test resets it");
        self.link.end(Ending::Reset);
    }

    /// Ends the stream with a reset when so many bytes have passed in this direction. A client need not see the last of them.
    ///
    /// ```
    /// use haypile::testing::{Broker, Direction};
    /// use haypile::Connection;
    ///
    /// let broker = Broker::start()?;
    /// broker.next_connection().reset_after(Direction::ToClient, 0);
    /// assert!(Connection::open(broker.url()).is_err());
    /// # Ok::<(), haypile::Error>(())
    /// ```
    pub fn reset_after(&self, direction: Direction, bytes: u64) {
        self.note(&format!(
            "the test resets it after {bytes} bytes {direction}"
        ));
        self.link.end_after(direction, bytes, Ending::Reset);
    }

    /// Lets no more bytes through in this direction, until [`resume`](ClientConnection::resume). What the client sends
    /// meanwhile waits, and so does what the broker sends, heartbeats included.
    ///
    /// ```
    /// use haypile::testing::{Broker, Direction};
    /// use haypile::{ConnectionParameters, Error};
    /// use std::time::Duration;
    ///
    /// let broker = Broker::start()?;
    /// let parameters = ConnectionParameters::default().rpc_timeout(Duration::from_millis(500));
    /// let channel = broker.connect(parameters)?.channel()?;
    /// let connection = broker.connections().remove(0);
    /// connection.stall(Direction::ToClient);
    /// assert!(matches!(channel.queue_declare("tasks"), Err(Error::Timeout { .. })));
    /// # connection.resume();
    /// # Ok::<(), haypile::Error>(())
    /// ```
    pub fn stall(&self, direction: Direction) {
        self.note(&format!("the test stalls what goes {direction}"));
        self.link.stall(direction);
    }

    /// Holds everything back for so long in this direction: each write of the broker, each read of what has come.
    ///
    /// ```
    /// use haypile::testing::{Broker, Direction};
    /// use haypile::ConnectionParameters;
    /// use std::time::{Duration, Instant};
    ///
    /// let broker = Broker::start()?;
    /// let channel = broker.connect(ConnectionParameters::default())?.channel()?;
    /// broker.connections()[0].delay(Direction::ToClient, Duration::from_millis(20));
    /// let begun = Instant::now();
    /// channel.queue_declare("tasks")?;
    /// assert!(begun.elapsed() >= Duration::from_millis(20));
    /// # Ok::<(), haypile::Error>(())
    /// ```
    pub fn delay(&self, direction: Direction, delay: Duration) {
        self.note(&format!(
            "the test delays what goes {direction} by {delay:?}"
        ));
        self.link.delay(direction, delay);
    }

    /// Ends stalls and delays.
    ///
    /// ```
    /// use haypile::testing::{Broker, Direction};
    /// use haypile::ConnectionParameters;
    ///
    /// let broker = Broker::start()?;
    /// let channel = broker.connect(ConnectionParameters::default())?.channel()?;
    /// channel.queue_declare("tasks")?;
    /// let connection = broker.connections().remove(0);
    /// connection.stall(Direction::ToBroker);
    /// channel.basic_publish("", "tasks", "sweep")?; // waits
    /// connection.resume();
    /// assert!(channel.basic_get("tasks")?.is_some());
    /// # Ok::<(), haypile::Error>(())
    /// ```
    pub fn resume(&self) {
        self.note("the test lets bytes through again");
        self.link.resume();
    }

    /// Closes the connection as the broker would: `connection.close` with this code and text.
    ///
    /// ```
    /// use haypile::{testing::Broker, ConnectionParameters};
    ///
    /// # fn main() -> haypile::Result<()> {
    /// let broker = Broker::start()?;
    /// let connection = broker.connect(ConnectionParameters::default())?;
    /// broker.connections()[0].close(320, "CONNECTION_FORCED - maintenance");
    /// let error = connection.channel().unwrap_err();
    /// assert_eq!(error.reply_code(), Some(320));
    /// # Ok(())
    /// # }
    /// ```
    pub fn close(&self, reply_code: u16, reply_text: &str) {
        let refusal = by_test(reply_code, reply_text);
        self.shared.change(|state| {
            state.close_connection(self.id, &refusal);
        });
    }

    /// Closes one channel as the broker would: `channel.close` with this code and text. What was unacknowledged goes back.
    ///
    /// ```
    /// use haypile::{testing::Broker, ConnectionParameters};
    ///
    /// let broker = Broker::start()?;
    /// let connection = broker.connect(ConnectionParameters::default())?;
    /// let channel = connection.channel()?;
    /// broker.connections()[0].close_channel(channel.channel_number(), 406, "PRECONDITION_FAILED - because");
    /// assert_eq!(channel.queue_declare("tasks").unwrap_err().reply_code(), Some(406));
    /// assert!(connection.is_open());
    /// # Ok::<(), haypile::Error>(())
    /// ```
    pub fn close_channel(&self, channel: u16, reply_code: u16, reply_text: &str) {
        let refusal = by_test(reply_code, reply_text);
        let at = At {
            connection: self.id,
            channel,
        };
        self.shared
            .change(|state| state.close_channel(at, &refusal));
    }

    fn note(&self, text: &str) {
        self.shared.lock().log.note(self.id, text.into());
    }
}

fn by_test(code: u16, text: &str) -> Refusal {
    Refusal {
        code,
        text: refusal::short(text.into()),
        method: None,
    }
}

/// Faults. Each of them is one call.
impl Broker {
    /// The connections that are open, the oldest first.
    ///
    /// ```
    /// use haypile::{testing::Broker, ConnectionParameters};
    ///
    /// let broker = Broker::start()?;
    /// assert!(broker.connections().is_empty());
    /// let _connection = broker.connect(ConnectionParameters::default())?;
    /// assert_eq!(broker.connections().len(), 1);
    /// # Ok::<(), haypile::Error>(())
    /// ```
    pub fn connections(&self) -> Vec<ClientConnection> {
        let state = self.shared.lock();
        let connections = state.connections.iter();
        connections
            .map(|(id, connection)| ClientConnection {
                shared: Arc::clone(&self.shared),
                id: *id,
                link: Arc::clone(&connection.link),
            })
            .collect()
    }

    /// The connection that comes next, so that it can be given faults before its first byte.
    ///
    /// ```
    /// use haypile::{testing::{Broker, Direction}, Connection};
    ///
    /// # fn main() -> haypile::Result<()> {
    /// let broker = Broker::start()?;
    /// broker.next_connection().cut_after(Direction::ToClient, 100);
    /// assert!(Connection::open(broker.url()).is_err());
    /// assert!(Connection::open(broker.url()).is_ok());
    /// # Ok(())
    /// # }
    /// ```
    pub fn next_connection(&self) -> ClientConnection {
        let mut state = self.shared.lock();
        let id = state.new_id();
        let link = Arc::new(Link::default());
        state.reserved.push_back((id, Arc::clone(&link)));
        ClientConnection {
            shared: Arc::clone(&self.shared),
            id,
            link,
        }
    }

    /// Resets the next connection as soon as it comes.
    ///
    /// ```
    /// use haypile::{testing::Broker, Connection};
    ///
    /// let broker = Broker::start()?;
    /// broker.refuse_next_connection();
    /// assert!(Connection::open(broker.url()).is_err());
    /// assert!(Connection::open(broker.url()).is_ok());
    /// # Ok::<(), haypile::Error>(())
    /// ```
    pub fn refuse_next_connection(&self) {
        self.shared.change(|state| state.refused_connections += 1);
    }

    /// Cancels a consumer, as if its queue had gone: the client gets `basic.cancel`. What was delivered to it stays unacknowledged.
    /// Returns whether there is a consumer of that tag.
    ///
    /// ```
    /// use haypile::{testing::Broker, ConnectionParameters, ConsumingEnded};
    ///
    /// let broker = Broker::start()?;
    /// let channel = broker.connect(ConnectionParameters::default())?.channel()?;
    /// channel.queue_declare("tasks")?;
    /// let tag = channel.basic_consume("tasks", |_channel, _method, _properties, _body| ())?;
    /// assert!(broker.cancel_consumer(&tag));
    /// assert!(matches!(channel.start_consuming()?, ConsumingEnded::CancelledByBroker { .. }));
    /// # Ok::<(), haypile::Error>(())
    /// ```
    pub fn cancel_consumer(&self, consumer_tag: &str) -> bool {
        let tag = Text::from(consumer_tag);
        self.shared.change(|state| {
            let consumers: Vec<At> = state
                .connections
                .iter()
                .flat_map(|(id, connection)| {
                    let channels = connection.channels.iter();
                    channels
                        .filter(|(_, channel)| channel.consumers.contains_key(&tag))
                        .map(|(number, _)| At {
                            connection: *id,
                            channel: *number,
                        })
                })
                .collect();
            for at in &consumers {
                state.cancel(*at, &tag);
                state.later(Work::Cancelled(*at, tag.clone()));
            }
            !consumers.is_empty()
        })
    }

    /// Takes the next message that is published to no queue, and refuses it (`basic.nack`) if its channel has confirms. Calls
    /// add up: two are for the next two messages.
    ///
    /// ```
    /// use haypile::{testing::Broker, ConnectionParameters, Error};
    ///
    /// let broker = Broker::start()?;
    /// let channel = broker.connect(ConnectionParameters::default())?.channel()?;
    /// channel.confirm_delivery()?;
    /// channel.queue_declare("tasks")?;
    /// broker.nack_next_publish();
    /// assert!(matches!(channel.basic_publish("", "tasks", "sweep"), Err(Error::Nack(_))));
    /// assert!(channel.basic_publish("", "tasks", "sweep").is_ok());
    /// # Ok::<(), haypile::Error>(())
    /// ```
    pub fn nack_next_publish(&self) {
        self.on_next_publish(NextPublish::Nack);
    }

    /// Returns the next message that is published (`basic.return`, 312 `NO_ROUTE`), as if no queue took it, mandatory or not;
    /// then confirms it, if its channel has confirms. Calls add up. Confirms report only what is mandatory as returned; of
    /// another message only [`add_on_return_callback`](crate::Channel::add_on_return_callback) reports.
    ///
    /// ```
    /// use haypile::{testing::Broker, ConnectionParameters, Error};
    ///
    /// # fn main() -> haypile::Result<()> {
    /// let broker = Broker::start()?;
    /// let channel = broker.connect(ConnectionParameters::default())?.channel()?;
    /// channel.confirm_delivery()?;
    /// channel.queue_declare("tasks")?;
    /// broker.return_next_publish();
    /// let error = channel
    ///     .basic_publish_with("", "tasks", "sweep", haypile::BasicPublish::new().mandatory(true))
    ///     .unwrap_err();
    /// assert!(matches!(error, Error::Unroutable { .. }), "{error}");
    /// # Ok(())
    /// # }
    /// ```
    pub fn return_next_publish(&self) {
        self.on_next_publish(NextPublish::Return);
    }

    /// Takes the next message that is published as usual, but does not confirm it: not before
    /// [`release_confirms`](Broker::release_confirms). A [`restart`](Broker::restart) loses such a message. Calls add up.
    ///
    /// ```
    /// use haypile::{testing::Broker, ConnectionParameters};
    /// use std::time::Duration;
    ///
    /// let broker = Broker::start()?;
    /// let channel = broker.connect(ConnectionParameters::default())?.channel()?;
    /// channel.queue_declare("tasks")?;
    /// let mut publisher = channel.publisher(10)?;
    /// broker.withhold_next_confirm();
    /// publisher.publish("", "tasks", "sweep")?;
    /// assert!(publisher.wait_for_confirms(Duration::from_millis(20)).is_err());
    /// assert_eq!(broker.queue("tasks").unwrap().bodies(), ["sweep"]);
    /// # Ok::<(), haypile::Error>(())
    /// ```
    pub fn withhold_next_confirm(&self) {
        self.on_next_publish(NextPublish::Withhold);
    }

    fn on_next_publish(&self, fault: NextPublish) {
        self.shared
            .change(|state| state.next_publishes.push_back(fault));
    }

    /// Gives all confirms that were withheld.
    ///
    /// ```
    /// use haypile::{testing::Broker, ConnectionParameters};
    /// use std::time::Duration;
    ///
    /// let broker = Broker::start()?;
    /// let channel = broker.connect(ConnectionParameters::default())?.channel()?;
    /// channel.queue_declare("tasks")?;
    /// let mut publisher = channel.publisher(10)?;
    /// broker.withhold_next_confirm();
    /// publisher.publish("", "tasks", "sweep")?;
    /// # channel.queue_declare("tasks")?;
    /// assert_eq!(publisher.unconfirmed(), 1);
    /// broker.release_confirms();
    /// publisher.wait_for_confirms(Duration::from_secs(5))?;
    /// # Ok::<(), haypile::Error>(())
    /// ```
    pub fn release_confirms(&self) {
        self.shared.change(State::release_confirms);
    }

    /// Blocks publishers, as RabbitMQ does when memory or disk run out: a connection that publishes gets `connection.blocked`
    /// with this reason (`low on memory`), and nothing that it sends is read until [`unblock`](Broker::unblock). Connections
    /// that do not publish notice nothing. A client that is dropped while it is blocked waits for its `close-ok` for a few
    /// seconds first, as with RabbitMQ.
    ///
    /// ```
    /// use haypile::{testing::Broker, ConnectionParameters, Error};
    /// use std::time::Duration;
    ///
    /// let broker = Broker::start()?;
    /// let parameters = ConnectionParameters::default().blocked_connection_timeout(Duration::from_millis(50));
    /// let channel = broker.connect(parameters)?.channel()?;
    /// broker.block("low on memory");
    /// channel.basic_publish("", "tasks", "sweep")?;
    /// assert!(matches!(channel.queue_declare("tasks"), Err(Error::ConnectionBlockedTimeout { .. })));
    /// # Ok::<(), haypile::Error>(())
    /// ```
    pub fn block(&self, reason: &str) {
        self.shared
            .change(|state| state.alarm = Some(refusal::short(reason.into())));
    }

    /// Ends the blocking: connections that got `connection.blocked` get `connection.unblocked`, and are read again.
    ///
    /// ```
    /// use haypile::{testing::Broker, ConnectionParameters};
    /// use std::time::Duration;
    ///
    /// let broker = Broker::start()?;
    /// let connection = broker.connect(ConnectionParameters::default())?;
    /// let channel = connection.channel()?;
    /// channel.queue_declare("tasks")?;
    /// broker.block("low on memory");
    /// channel.basic_publish("", "tasks", "sweep")?;
    /// broker.wait_until(|| connection.blocked().is_some(), Duration::from_secs(5)).unwrap();
    /// broker.unblock();
    /// assert!(channel.basic_get("tasks")?.is_some());
    /// assert_eq!(connection.blocked(), None);
    /// # Ok::<(), haypile::Error>(())
    /// ```
    pub fn unblock(&self) {
        self.shared.change(State::end_alarm);
    }

    /// Does what a restart of the broker does to its clients and to what it holds. Every connection is closed (320). Queues
    /// and exchanges that are not durable go, with what is in them; in durable queues only persistent messages stay, those that
    /// were unacknowledged among them (and `redelivered`). What a client had published and not got confirmed, because
    /// of [`withhold_next_confirm`](Broker::withhold_next_confirm), is lost, as is what was not committed. The
    /// broker listens at the same address, and takes connections at once.
    ///
    /// ```
    /// use haypile::{testing::Broker, Connection, QueueDeclare};
    ///
    /// let broker = Broker::start()?;
    /// let connection = Connection::open(broker.url())?;
    /// let channel = connection.channel()?;
    /// channel.queue_declare(QueueDeclare::new("kept").durable(true))?;
    /// channel.queue_declare("lost")?;
    /// broker.restart();
    /// assert_eq!(broker.queues(), ["kept"]);
    /// assert_eq!(channel.queue_declare("lost").unwrap_err().reply_code(), Some(320));
    /// assert!(Connection::open(broker.url()).is_ok());
    /// # Ok::<(), haypile::Error>(())
    /// ```
    pub fn restart(&self) {
        self.shared.change(State::restart);
    }

    /// Loses all messages that were delivered or fetched and are not acknowledged, so that they never come again: for tests
    /// of what becomes of a program when the broker breaks its promise. Later acknowledgements of them are taken as usual.
    ///
    /// ```
    /// use haypile::{testing::Broker, ConnectionParameters};
    ///
    /// let broker = Broker::start()?;
    /// let channel = broker.connect(ConnectionParameters::default())?.channel()?;
    /// channel.queue_declare("tasks")?;
    /// channel.basic_publish("", "tasks", "sweep")?;
    /// assert!(channel.basic_get("tasks")?.is_some());
    /// broker.lose_unacknowledged();
    /// channel.basic_recover(true)?; // would bring it back
    /// assert!(channel.basic_get("tasks")?.is_none());
    /// # Ok::<(), haypile::Error>(())
    /// ```
    pub fn lose_unacknowledged(&self) {
        self.shared.change(|state| {
            for queue in state.queues.values_mut() {
                queue.lose_unacknowledged();
            }
        });
    }

    /// Lets the time of every message at the head of a queue run out that has one (`expiration`, `x-message-ttl`): they
    /// are dropped or dead-lettered now, so that a test need not wait. Returns how many there were: 0 as well if there is no such
    /// queue.
    ///
    /// ```
    /// use haypile::{testing::Broker, BasicProperties, ConnectionParameters};
    /// use std::time::Duration;
    ///
    /// let broker = Broker::start()?;
    /// let channel = broker.connect(ConnectionParameters::default())?.channel()?;
    /// channel.confirm_delivery()?;
    /// channel.queue_declare("tasks")?;
    /// let an_hour = BasicProperties::new().expiration(Duration::from_secs(3600));
    /// channel.basic_publish_with("", "tasks", "sweep", an_hour)?;
    /// assert_eq!(broker.expire_messages("tasks"), 1);
    /// assert!(channel.basic_get("tasks")?.is_none());
    /// # Ok::<(), haypile::Error>(())
    /// ```
    pub fn expire_messages(&self, queue: &str) -> usize {
        self.shared.change(|state| {
            let Some(id) = state.queue_id(b"/", queue.as_bytes()) else {
                return 0;
            };
            let mut count = 0;
            while let Some(stored) = state
                .queues
                .get_mut(&id)
                .filter(|queue| {
                    let first = queue.ready.first_key_value();
                    first.is_some_and(|(_, stored)| stored.expires.is_some())
                })
                .and_then(|queue| queue.take_first())
            {
                state.bury(id, stored, Reason::Expired);
                count += 1;
            }
            count
        })
    }
}

impl State {
    fn restart(&mut self) {
        let forced = Refusal {
            code: 320,
            text: format!(
                "{} - broker forced connection closure with reason 'shutdown'",
                refusal::name(320)
            ),
            method: None,
        };
        let connections: Vec<u64> = self.connections.keys().copied().collect();
        for id in connections {
            self.close_connection(id, &forced);
            self.end_connection(id);
        }
        let transient: Vec<u64> = self
            .queues
            .iter()
            .filter(|(_, queue)| !queue.durable)
            .map(|(id, _)| *id)
            .collect();
        for id in transient {
            self.delete_queue(id);
        }
        for queue in self.queues.values_mut() {
            queue.retain(|stored| stored.message.persistent && !stored.message.unconfirmed);
        }
        for vhost in self.vhosts.values_mut() {
            let transient: Vec<Text> = vhost
                .exchanges
                .values()
                .filter(|exchange| !exchange.durable)
                .map(|exchange| exchange.name.clone())
                .collect();
            for name in transient {
                vhost.delete_exchange(&name);
            }
        }
        self.alarm = None;
        self.log.note(0, "the test restarts the broker".into());
    }
}
