//! What each way to publish promises.
//!
//! | | returns when | if the broker dies just then | if nothing takes the message | speed |
//! | --- | --- | --- | --- | --- |
//! | [`basic_publish`](crate::Channel::basic_publish) | the message is handed to the connection | lost, unseen | lost, unseen (with `mandatory` it comes back to [`add_on_return_callback`](crate::Channel::add_on_return_callback)) | highest |
//! | the same after [`confirm_delivery`](crate::Channel::confirm_delivery) | the broker has it | an error: whether it has the message is unknown | with `mandatory`: [`Error::Unroutable`](crate::Error::Unroutable) | one round trip each |
//! | [`Channel::publisher`](crate::Channel::publisher) | the message is handed over; waits while the window is full | [`Error::Unconfirmed`](crate::Error::Unconfirmed) lists which are confirmed and which are not | with `mandatory`: in the report | close to the first |
//! | [`Supervisor::publisher`](crate::Supervisor::publisher) | the message is taken | it is sent again on the next connection | with `mandatory`: in the report | close to the first |
//!
//! "The broker has it" means: in a durable queue a persistent message is written to disk, or on most of the nodes of a quorum queue.
//! (A classic queue of RabbitMQ 4.0 was seen to lose confirmed messages now and then when the broker was killed. Where that matters,
//! take a quorum queue on three nodes.) Four things together lose nothing else, and each of them is needed:
//!
//! 1. a **durable queue**: `QueueDeclare::new("orders").durable(true)`;
//! 2. a **persistent message**: `.delivery_mode(DeliveryMode::Persistent)`, or 2 as in pika;
//! 3. a **confirm**, as in the table, and `mandatory` if a missing queue must not pass unseen;
//! 4. an **ack after the work** on the other side, not `auto_ack`.
//!
//! None of this is "exactly once": what is sent again can arrive twice. The receiver knows doubles by the `message_id`.
//!
//! # One at a time
//!
//! ```
//! # #[cfg(feature = "testing")]
//! # fn main() -> haypile::Result<()> {
//! # let broker = haypile::testing::Broker::start()?;
//! # let url = broker.url();
//! use haypile::{BasicProperties, BasicPublish, Connection, DeliveryMode, Error, QueueDeclare};
//!
//! let channel = Connection::open(url)?.channel()?;
//! channel.queue_declare(QueueDeclare::new("orders").durable(true))?;
//! channel.confirm_delivery()?;
//! let persistent = BasicProperties::new().delivery_mode(DeliveryMode::Persistent);
//! let order = BasicPublish::new().mandatory(true).properties(&persistent);
//! channel.basic_publish_with("", "orders", "one hat", order.clone())?; // the broker has it
//!
//! let error = channel.basic_publish_with("", "oders", "one hat", order).unwrap_err();
//! assert!(matches!(error, Error::Unroutable(returned) if returned[0].body == b"one hat"));
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "testing"))]
//! # fn main() {}
//! ```
//!
//! # Many at a time
//!
//! ```
//! # #[cfg(feature = "testing")]
//! # fn main() -> haypile::Result<()> {
//! # let broker = haypile::testing::Broker::start()?;
//! # let url = broker.url();
//! use std::time::Duration;
//! use haypile::{Connection, Error};
//!
//! let channel = Connection::open(url)?.channel()?;
//! channel.queue_declare("lines")?;
//! let mut publisher = channel.publisher(1000)?;
//! for n in 0..5_000 {
//!     publisher.publish("", "lines", format!("line {n}"))?; // its number, from 1
//! }
//! match publisher.wait_for_confirms(Duration::from_secs(30)) {
//!     Err(Error::Unconfirmed(report)) => {
//!         // Numbers of what to publish again, and the cause if the connection was lost.
//!         eprintln!("{:?} {:?} {:?}", report.nacked, report.pending, report.cause);
//!     }
//!     other => other?,
//! }
//! assert_eq!(publisher.unconfirmed(), 0);
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "testing"))]
//! # fn main() {}
//! ```
//!
//! # Across losses
//!
//! ```
//! # #[cfg(feature = "testing")]
//! # fn main() -> haypile::Result<()> {
//! # let broker = haypile::testing::Broker::start()?;
//! # let url = broker.url();
//! use std::time::Duration;
//! use haypile::{QueueDeclare, Supervisor};
//!
//! let supervisor = Supervisor::new(url);
//! let mut publisher = supervisor.publisher(1000, |channel| {
//!     channel.queue_declare(QueueDeclare::new("orders").durable(true))?;
//!     Ok(())
//! })?;
//! publisher.publish("", "orders", "one hat")?;
//! broker.connections()[0].cut(); // it comes back by itself
//! publisher.publish("", "orders", "two hats")?;
//! publisher.wait_for_confirms(Duration::from_secs(30))?;
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "testing"))]
//! # fn main() {}
//! ```
//!
//! # At the end of the program
//!
//! [`Connection::close`](crate::Connection::close) sends what was published and waits, for a bounded time, until the broker has
//! read it; so does dropping the last handle. That is no confirm: call `wait_for_confirms` before it.
//!
//! While the broker **blocks** the connection, for want of memory or disk, it reads nothing from publishers. Then publishing
//! waits for room and fails with [`Error::Timeout`](crate::Error::Timeout), which names the broker's reason.
//! [`Connection::blocked`](crate::Connection::blocked) returns it, too.
