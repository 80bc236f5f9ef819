//! A broker inside the process, for tests (feature `testing`).
//!
//! A unit test starts it in a millisecond. To a program it looks like RabbitMQ: it speaks AMQP 0-9-1 on a port of its own, to
//! clients in any language, and in memory to this one. What a program cannot provoke on a real broker, a test orders here with
//! one call; and what the broker holds, a test can look at.
//!
//! ```
//! use std::time::Duration;
//!
//! use haypile::testing::Broker;
//! use haypile::{BasicConsume, BasicNack, ConnectionParameters, QueueDeclare};
//!
//! # fn main() -> haypile::Result<()> {
//! let broker = Broker::start()?;
//! let connection = broker.connect(ConnectionParameters::default())?;
//! let channel = connection.channel()?;
//! channel.queue_declare(
//!     QueueDeclare::new("tasks")
//!         .argument("x-dead-letter-exchange", "")
//!         .argument("x-dead-letter-routing-key", "failed"),
//! )?;
//! channel.queue_declare("failed")?;
//!
//! // The code under test: a worker that fails.
//! channel.basic_consume("tasks", |channel, method, _properties, _body| {
//!     channel.basic_nack(BasicNack::new(method.delivery_tag).requeue(false))
//! })?;
//! channel.basic_publish("", "tasks", "sweep")?;
//! connection.process_data_events(Duration::from_secs(5))?;
//!
//! broker
//!     .wait_until(|| broker.queue("failed").is_some_and(|queue| queue.bodies() == ["sweep"]), Duration::from_secs(5))
//!     .unwrap();
//! let failed = broker.queue("failed").unwrap();
//! let headers = failed.messages[0].properties.headers.as_ref().unwrap();
//! assert_eq!(headers.get("x-first-death-queue").and_then(|queue| queue.as_str()), Some("tasks"));
//!
//! // The connection breaks: the program notices.
//! broker.connections()[0].cut();
//! assert!(channel.basic_get("tasks").is_err());
//! # Ok(())
//! # }
//! ```
//!
//! # A worker with retry and dead letters
//!
//! Give the code under test what it gets in the program: a channel, a connection, or a URL. Such a worker is here: what fails
//! waits for ten minutes in a queue of its own and comes back, and after three times it goes to another one, for people to look at.
//!
//! ```
//! use std::time::Duration;
//!
//! use haypile::testing::Broker;
//! use haypile::{BasicNack, BasicProperties, Channel, ConnectionParameters, FieldValue, QueueDeclare};
//!
//! /// How often the message was rejected: its `x-death` header counts it.
//! fn failures(properties: &BasicProperties) -> i64 {
//!     let deaths = properties.get_header("x-death").and_then(FieldValue::as_array).unwrap_or_default();
//!     let rejected = deaths.iter().find(|death| death.get("reason").and_then(FieldValue::as_str) == Some("rejected"));
//!     rejected.and_then(|death| death.get("count")?.as_i64()).unwrap_or(0)
//! }
//!
//! /// The code under test.
//! fn set_up_worker(channel: &Channel, work: fn(&[u8]) -> bool) -> haypile::Result<()> {
//!     let dead_letters_to = |name: &str, to: &str| {
//!         let queue = QueueDeclare::new(name).durable(true);
//!         queue.argument("x-dead-letter-exchange", "").argument("x-dead-letter-routing-key", to)
//!     };
//!     channel.queue_declare(dead_letters_to("tasks", "tasks.wait"))?;
//!     channel.queue_declare(dead_letters_to("tasks.wait", "tasks").argument("x-message-ttl", 600_000))?;
//!     channel.queue_declare(QueueDeclare::new("tasks.failed").durable(true))?;
//!     channel.confirm_delivery()?;
//!     channel.basic_qos(10)?;
//!     channel.basic_consume("tasks", move |channel, method, properties, body| {
//!         if work(&body) {
//!             return channel.basic_ack(method.delivery_tag);
//!         }
//!         if failures(&properties) < 2 {
//!             return channel.basic_nack(BasicNack::new(method.delivery_tag).requeue(false));
//!         }
//!         // With the message's own properties; confirmed, so that it is acknowledged only when it is safe.
//!         channel.basic_publish_with("", "tasks.failed", body, &properties)?;
//!         channel.basic_ack(method.delivery_tag)
//!     })?;
//!     Ok(())
//! }
//!
//! // The test.
//! # fn main() -> haypile::Result<()> {
//! const SOON: Duration = Duration::from_secs(5);
//! let broker = Broker::start()?;
//! let connection = broker.connect(ConnectionParameters::default())?;
//! let channel = connection.channel()?;
//! set_up_worker(&channel, |body| body != b"bad")?;
//! channel.basic_publish("", "tasks", "good")?;
//! channel.basic_publish("", "tasks", "bad")?;
//!
//! // The condition is looked at whenever something changes in the broker. Callbacks run in it, since nothing else runs them here.
//! let holds_the_bad_one = |queue: &str| {
//!     connection.process_data_events(Duration::ZERO).unwrap();
//!     broker.queue(queue).unwrap().bodies() == ["bad"]
//! };
//! for _ in 0..2 {
//!     broker.wait_until(|| holds_the_bad_one("tasks.wait"), SOON).unwrap();
//!     // Ten minutes are over.
//!     assert_eq!(broker.expire_messages("tasks.wait"), 1);
//! }
//! broker.wait_until(|| holds_the_bad_one("tasks.failed"), SOON).unwrap();
//! let all_acknowledged = || broker.queue("tasks").unwrap().unacknowledged.is_empty();
//! broker.wait_until(all_acknowledged, SOON).unwrap();
//! # Ok(())
//! # }
//! ```
//!
//! A test that fails shows more with [`wait_until`](Broker::wait_until)`(…).unwrap()` than with `assert!`: the error shows
//! the methods on all connections, as [`Broker::log`] has them.
//!
//! # A connection that is cut in the middle
//!
//! The worker runs on a thread of its own, under a [`Supervisor`](crate::Supervisor). The test cuts its connection while a
//! message is in hand. The message must come again, and the rest with it.
//!
//! ```
//! use std::sync::mpsc;
//! use std::thread;
//! use std::time::Duration;
//!
//! use haypile::testing::Broker;
//! use haypile::{ConnectionParameters, QueueDeclare, Retry, Supervisor};
//!
//! # fn main() -> haypile::Result<()> {
//! const SOON: Duration = Duration::from_secs(10);
//! let broker = Broker::start()?;
//! let retry = Retry::new().first(Duration::from_millis(10));
//! let supervisor = Supervisor::new(broker.url()).retry(retry);
//! let stop = supervisor.stop_handle();
//! let (in_hand, seen) = mpsc::channel();
//! let (go_on, wait) = mpsc::channel::<()>();
//!
//! thread::scope(|scope| {
//!     scope.spawn(move || {
//!         // The code under test.
//!         supervisor.run(|connection| {
//!             let channel = connection.channel()?;
//!             channel.queue_declare(QueueDeclare::new("tasks").durable(true))?;
//!             for message in channel.consume("tasks")? {
//!                 let (method, _properties, body) = message?;
//!                 let _ = in_hand.send((String::from_utf8_lossy(&body).into_owned(), method.redelivered));
//!                 let _ = wait.recv();
//!                 channel.basic_ack(method.delivery_tag)?;
//!             }
//!             Ok(haypile::ConsumingEnded::Cancelled)
//!         })
//!     });
//!
//!     broker.wait_until(|| broker.queue("tasks").is_some(), SOON).unwrap();
//!     let channel = broker.connect(ConnectionParameters::default())?.channel()?;
//!     channel.basic_publish("", "tasks", "sweep")?;
//!     assert_eq!(seen.recv().unwrap(), ("sweep".into(), false));
//!
//!     // The worker has the message, and loses its connection. Its ack comes too late.
//!     broker.connections()[0].cut();
//!     let _ = go_on.send(());
//!     assert_eq!(seen.recv().unwrap(), ("sweep".into(), true));
//!     let _ = go_on.send(());
//!
//!     let all_done = || {
//!         let tasks = broker.queue("tasks").unwrap();
//!         tasks.messages.is_empty() && tasks.unacknowledged.is_empty()
//!     };
//!     broker.wait_until(all_done, SOON).unwrap();
//!     stop.stop();
//!     Ok::<(), haypile::Error>(())
//! })?;
//! # Ok(())
//! # }
//! ```
//!
//! `cut_after` and `reset_after` of [`ClientConnection`] do so after so many bytes, in either direction: a loop over the number
//! cuts a whole session at each of its bytes in turn. [`Broker::next_connection`] gives such an order before the first byte.
//!
//! # What it does as RabbitMQ does it
//!
//! Error codes and texts are RabbitMQ 4.3's. Default, direct, fanout, topic and headers exchanges; bindings between exchanges;
//! alternate exchanges; `CC` and `BCC`; queues that are server-named, exclusive, passive, auto-delete; `mandatory`; confirms,
//! one and `multiple`; transactions, of 10,000 publishes at most; `basic.get`; consumers with prefetch, fair turns, priorities,
//! exclusive ones and single active ones; acknowledgements of all kinds, and messages that go back to where they stood; time to live
//! of messages and queues; `x-max-length`, `x-max-length-bytes` and `x-overflow`; dead letters with `x-death`; message
//! priorities; direct reply-to; `user_id`; heartbeats; and what comes on a channel after its `channel.close`.
//!
//! As in RabbitMQ 4.3, `basic.qos` with `global` limits each consumer and not the channel, for which
//! [`Builder::global_qos`] asks; a dead letter is redelivered if a delivery of it had failed before it died; and the socket is left to
//! the client after `connection.close-ok`.
//!
//! It is deterministic: a client's method is applied from beginning to end before anything else is. The names that
//! it makes (`amq.gen-…`, `amq.ctag-…`) come in the same order in every run.
//!
//! # What it does not do
//!
//! - Quorum queues and streams: a declaration with such an `x-queue-type` is refused (540 `NOT_IMPLEMENTED`).
//! - Other exchange types (`x-delayed-message`, `x-consistent-hash`…): refused as unknown (406), as RabbitMQ does without the
//!   plugin.
//! - Permissions: every user may do everything. A virtual host or user that was not set in the [`Builder`] is refused.
//! - Persistence: what is durable and persistent outlives [`Broker::restart`], and nothing outlives the broker.
//! - Clusters, policies, plugins, management, `rabbitmqctl`, TLS, AMQP 1.0.
//! - `queue.declare` with `x-queue-mode`, `x-queue-version` or a locator is taken, without meaning anything.
//! - A refused login ends the connection at once, where RabbitMQ waits for a moment.
//! - Some things that no program should do with direct reply-to differ: a channel that consumes its own former reply name as a
//!   queue after the cancellation, and reply names of another virtual host. So do bytes that are not UTF-8 in fields that the
//!   specification reserves.

mod arguments;
mod broker;
mod channel;
mod declare;
mod deliver;
#[cfg(test)]
mod differential;
mod exchange;
mod faults;
mod inspect;
mod link;
mod log;
mod pipe;
mod publish;
mod queue;
mod refusal;
mod session;
mod state;
mod text;

use std::fmt;

pub use broker::{Broker, Builder, NotMet};
pub use faults::ClientConnection;
pub use inspect::{Binding, Consumer, Exchange, Message, Queue};

/// Which way bytes go.
///
/// ```
/// use haypile::testing::{Broker, Direction};
/// use haypile::Connection;
///
/// let broker = Broker::start()?;
/// broker.next_connection().cut_after(Direction::ToBroker, 20); // in the middle of the login
/// assert!(Connection::open(broker.url()).is_err());
/// # Ok::<(), haypile::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the client to the broker.
    ToBroker,
    /// From the broker to the client.
    ToClient,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Direction::ToBroker => "to the broker",
            Direction::ToClient => "to the client",
        })
    }
}
