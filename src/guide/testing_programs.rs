//! Tests of your program that need no broker: the module `haypile::testing`, feature `testing`.
//!
//! ```toml
//! [dependencies]
//! haypile = "0.1"
//!
//! [dev-dependencies]
//! haypile = { version = "0.1", features = ["testing"] }
//! ```
//!
//! `haypile::testing::Broker::start` takes a millisecond and a port of its own, so every test has its own broker, and all run
//! side by side. To a program it looks like RabbitMQ: the same refusals, codes and texts, dead letters, expiry, confirms. What it
//! does not have (quorum queues, streams, permissions, plugins) it refuses, or says at `haypile::testing`; test that against a
//! real one (`scripts/with-broker cargo test`).
//!
//! # A test
//!
//! Give the code under test a URL or a channel. Then look at what the broker holds.
//!
//! ```
//! # #[cfg(feature = "testing")]
//! # fn main() -> haypile::Result<()> {
//! # let broker = haypile::testing::Broker::start()?;
//! # let url = broker.url();
//! use std::time::Duration;
//! use haypile::{Channel, ConnectionParameters, QueueDeclare};
//!
//! /// The code under test.
//! fn place_order(channel: &Channel, item: &str) -> haypile::Result<()> {
//!     channel.queue_declare(QueueDeclare::new("orders").durable(true))?;
//!     channel.basic_publish("", "orders", item)
//! }
//!
//! let channel = broker.connect(ConnectionParameters::default())?.channel()?;
//! place_order(&channel, "one hat")?;
//!
//! // No sleep: the condition is looked at whenever something changes.
//! let arrived = || broker.queue("orders").is_some_and(|queue| queue.bodies() == ["one hat"]);
//! broker.wait_until(arrived, Duration::from_secs(5)).unwrap(); // on failure it shows what was said
//! assert!(broker.queue("orders").unwrap().durable);
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "testing"))]
//! # fn main() {}
//! ```
//!
//! # A bad day, on order
//!
//! ```
//! # #[cfg(feature = "testing")]
//! # fn main() -> haypile::Result<()> {
//! # let broker = haypile::testing::Broker::start()?;
//! # let url = broker.url();
//! use std::time::Duration;
//! use haypile::{BasicPublish, Connection, Error};
//!
//! let connection = Connection::open(url)?;
//! let channel = connection.channel()?;
//! channel.queue_declare("orders")?;
//! channel.confirm_delivery()?;
//!
//! broker.nack_next_publish(); // as a full queue does
//! assert!(matches!(channel.basic_publish("", "orders", "hat"), Err(Error::Nack(_))));
//!
//! broker.return_next_publish(); // as if nothing were bound
//! let mandatory = BasicPublish::new().mandatory(true);
//! assert!(matches!(channel.basic_publish_with("", "orders", "hat", mandatory), Err(Error::Unroutable(_))));
//!
//! broker.restart(); // every connection is closed with 320; what is durable stays
//! assert!(connection.process_data_events(Duration::from_secs(5)).is_err());
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "testing"))]
//! # fn main() {}
//! ```
//!
//! | to see what your program does when | order |
//! | --- | --- |
//! | the link is cut, now or after so many bytes | `connections()[0].cut()`, `next_connection().cut_after(…)` |
//! | the peer is silent | `stall(Direction::ToClient)`, `resume()` |
//! | everything is slow | `delay(…)` |
//! | an operator closes the connection or a channel | `close(320, …)`, `close_channel(1, 406, …)` |
//! | the queue of a consumer goes | `cancel_consumer(tag)` |
//! | confirms do not come | `withhold_next_confirm()`, `release_confirms()` |
//! | messages expire | `expire_messages("queue")`, without waiting |
//! | acknowledged or not, messages vanish | `lose_unacknowledged()` |
//! | the broker has no memory left, and reads from no publisher | `block("low on memory")`, `unblock()` |
//! | the broker is not there | `refuse_next_connection()` |
//! | the broker restarts | `restart()` |
