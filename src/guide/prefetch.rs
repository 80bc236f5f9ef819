//! Which number to give to `basic_qos`.
//!
//! [`Channel::basic_qos`](crate::Channel::basic_qos) says how many messages the broker may send ahead, before the first of them
//! is acknowledged. Without it there is no limit: all that the queue has is sent, the next consumer finds the queue empty, and
//! memory fills.
//!
//! | work on one message | prefetch | why |
//! | --- | --- | --- |
//! | seconds or more | 1 | fair: a consumer that is free gets the next one |
//! | milliseconds | 10 to 100 | the next one is there when the last is done |
//! | microseconds, acknowledged in batches | several batches, 500 to 2000 | the wire is never idle |
//! | any, from a stream | 100 or more, and not 0 | a stream is refused without (406) |
//!
//! ```
//! # #[cfg(feature = "testing")]
//! # fn main() -> haypile::Result<()> {
//! # let broker = haypile::testing::Broker::start()?;
//! # let url = broker.url();
//! use haypile::Connection;
//!
//! let channel = Connection::open(url)?.channel()?;
//! channel.queue_declare("tasks")?;
//! for task in ["dig", "plant", "water"] {
//!     channel.basic_publish("", "tasks", task)?;
//! }
//! channel.basic_qos(2)?; // before basic_consume, and for each consumer of this channel
//! channel.basic_consume("tasks", |_channel, _method, _properties, _body| {})?;
//! # let tasks = || broker.queue("tasks").unwrap();
//! # broker.wait_until(|| tasks().unacknowledged.len() == 2, std::time::Duration::from_secs(5)).unwrap();
//! assert_eq!(tasks().unacknowledged.len(), 2);
//! assert_eq!(tasks().messages.len(), 1); // the third waits for another consumer, or for an ack
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "testing"))]
//! # fn main() {}
//! ```
//!
//! * It counts messages, not bytes. 100 messages of 10 MiB are a gigabyte.
//! * It means nothing with `auto_ack`, where there is nothing to acknowledge, so everything is sent; nothing to
//!   [`basic_get`](crate::Channel::basic_get); and nothing in a producer.
//! * `BasicQos::new(n).global(true)` was one limit for all consumers of a channel. Quorum queues refuse it up to RabbitMQ 4.2 (540,
//!   which closes the connection), and from 4.3 on each consumer has it for itself: leave it out.
//!
//! # What is held in memory
//!
//! A connection holds 4 MiB of messages ahead of the program, and reads no further until some are taken: the rest stays with the
//! broker. But RabbitMQ closes a connection that takes nothing for 30 seconds. So while a callback works for longer, 4 MiB are
//! read in every 8 seconds and kept: **without a limit an hour of one callback costs up to 1.8 GiB.** With one it costs nothing.
//! The details are at [`basic_qos`](crate::Channel::basic_qos).
//!
//! [`max_message_size`](crate::ConnectionParameters::max_message_size) bounds a single message. A larger one costs its channel,
//! and no memory.
