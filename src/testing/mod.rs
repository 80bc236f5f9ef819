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
//! # What it does as RabbitMQ does it
//!
//! Error codes and texts are RabbitMQ 4.3's. Default, direct, fanout, topic and headers exchanges; bindings between exchanges;
//! alternate exchanges; `CC` and `BCC`; queues that are server-named, exclusive, passive, auto-delete; `mandatory`; confirms,
//! one and `multiple`; transactions; `basic.get`; consumers with prefetch for each consumer and each channel, fair turns, priorities,
//! exclusive ones and single active ones; acknowledgements of all kinds, and messages that go back to where they stood; time to live
//! of messages and queues; `x-max-length`, `x-max-length-bytes` and `x-overflow`; dead letters with `x-death`; message
//! priorities; direct reply-to; `user_id`; heartbeats; and what comes on a channel after its `channel.close`.
//!
//! It is deterministic: what a client says is done from beginning to end before anything else is. The names that
//! it makes (`amq.gen-…`, `amq.ctag-…`) come in the same order in every run.
//!
//! # What it does not do
//!
//! - Quorum queues and streams: a declaration with such an `x-queue-type` is refused (540 `NOT_IMPLEMENTED`).
//! - Other exchange types (`x-delayed-message`, `x-consistent-hash`…): refused as unknown (406), as RabbitMQ does without the
//!   plugin.
//! - Permissions: every user may do everything. A virtual host or user that was not given to the [`Builder`] is refused.
//! - Persistence: what is durable and persistent outlives [`Broker::restart`], and nothing outlives the broker.
//! - Clusters, policies, plugins, management, `rabbitmqctl`, TLS, AMQP 1.0.
//! - `queue.declare` with `x-queue-mode`, `x-queue-version` or a locator is taken, without meaning anything.
//! - A refused login ends the connection at once, where RabbitMQ waits for a moment.

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
