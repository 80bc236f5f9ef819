//! A consumer that lives through restarts of the broker, and ends well by Ctrl-C.
//!
//! # Coming back
//!
//! [`Supervisor::run`](crate::Supervisor::run) opens a connection and runs your code on it. After a loss it waits, opens another
//! one, and runs your code again, whole. Nothing is recorded: queues, bindings, consumers and the prefetch limit are there again
//! because the code that makes them runs again.
//!
//! ```
//! # #[cfg(feature = "testing")]
//! # fn main() -> haypile::Result<()> {
//! # let broker = haypile::testing::Broker::start()?;
//! # let url = broker.url();
//! use std::time::Duration;
//! use haypile::{ConsumingEnded, QueueDeclare, Retry, Supervisor};
//!
//! let supervisor = Supervisor::new([url.as_str(), "amqp://spare.example"])
//!     .in_order()
//!     .retry(Retry::new().first(Duration::from_millis(20)).give_up_after(Duration::from_secs(600)))
//!     .on_event(|event| eprintln!("{event}"));
//!
//! let mut runs = 0;
//! let ended = supervisor.run(|connection| {
//!     runs += 1;
//!     let channel = connection.channel()?;
//!     channel.queue_declare(QueueDeclare::new("tasks").durable(true))?;
//!     channel.basic_qos(10)?;
//!     channel.basic_consume("tasks", |channel, method, _properties, _body| {
//!         channel.basic_ack(method.delivery_tag)
//!     })?;
//! #   if runs == 1 { broker.connections()[0].cut(); } else { supervisor.stop_handle().stop(); }
//!     channel.start_consuming()
//! })?;
//! assert_eq!((runs, ended), (2, ConsumingEnded::Cancelled));
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "testing"))]
//! # fn main() {}
//! ```
//!
//! With the iterator it may borrow the program's own state, which lives on from one connection to the next. `Cancelled` stands for the
//! end of the loop: `run` itself knows whether that was a stop, or a consumer that the broker cancelled.
//!
//! ```
//! # #[cfg(feature = "testing")]
//! # fn main() -> haypile::Result<()> {
//! # let broker = haypile::testing::Broker::start()?;
//! # let url = broker.url();
//! use std::collections::HashMap;
//! use haypile::{ConsumingEnded, Supervisor};
//! # haypile::Connection::open(&url)?.channel()?.queue_declare("words")?;
//! # let publish = |word| haypile::Connection::open(broker.url())?.channel()?.basic_publish("", "words", word);
//! # publish("hay")?;
//! # let mut runs = 0;
//!
//! let mut counts: HashMap<String, u32> = HashMap::new();
//! let supervisor = Supervisor::new(url);
//! # let stop = supervisor.stop_handle();
//! let ended = supervisor.run(|connection| {
//! #   runs += 1;
//!     let channel = connection.channel()?;
//!     channel.queue_declare("words")?;
//!     channel.basic_qos(10)?;
//!     for message in channel.consume("words")? {
//!         let (method, _properties, body) = message?;
//!         *counts.entry(String::from_utf8(body)?).or_default() += 1;
//!         channel.basic_ack(method.delivery_tag)?;
//! #       if runs == 1 { channel.queue_delete("words")?; channel.queue_declare("words")?; publish("hay")?; } else { stop.stop(); }
//!     }
//!     Ok(ConsumingEnded::Cancelled)
//! })?;
//! # assert_eq!((runs, counts["hay"], ended), (2, 2, ConsumingEnded::Cancelled));
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "testing"))]
//! # fn main() {}
//! ```
//!
//! What is mended: a lost connection, a broker that shuts down, a timeout, a consumer that the broker cancelled because its queue
//! was deleted or its node went. What comes out at once, since it will be the same next time: a refused login, 403 (unless another
//! consumer has the queue for itself, which may pass), 404 (unless the queue's node is down), 406, a wrong argument, an error of your own.
//! [`Error::is_retryable`](crate::Error::is_retryable) is the rule.
//!
//! **After a loss the broker delivers again what was not acknowledged**, also what you had finished: make the work such that
//! doing it twice does no harm. A handle or a delivery tag of a former connection stays dead: each call fails and sends nothing.
//!
//! # Ending
//!
//! A [`Stop`](crate::Stop) ends all that a supervisor runs, from any thread, and waits for nothing itself. The message in hand is
//! finished and acknowledged, and what was prefetched goes back to its queue. With the crate `ctrlc`, feature `termination` (so
//! that `SIGTERM` counts, too):
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let supervisor = haypile::Supervisor::new("amqp://localhost");
//! let stop = supervisor.stop_handle();
//! ctrlc::set_handler(move || {
//!     if stop.stop() > 1 {
//!         std::process::exit(130); // the second Ctrl-C
//!     }
//! })?;
//! # Ok(())
//! # }
//! ```
//!
//! If the stop comes while there is no connection, [`run`](crate::Supervisor::run) fails with
//! [`Error::Stopped`](crate::Error::Stopped), since nothing came to its own end:
//!
//! ```no_run
//! # use haypile::{Error, Supervisor};
//! # fn set_up(_: &haypile::Connection) -> haypile::Result<haypile::ConsumingEnded> { todo!() }
//! # fn main() -> haypile::Result<()> {
//! # let supervisor = Supervisor::new("amqp://localhost");
//! match supervisor.run(set_up) {
//!     Ok(ended) => println!("{ended:?}"),
//!     Err(Error::Stopped { .. }) => println!("stopped while there was no connection"),
//!     Err(error) => return Err(error),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Without a supervisor it is [`Channel::stop_handle`](crate::Channel::stop_handle).
//!
//! | to end a consumer | what happens |
//! | --- | --- |
//! | [`Stop::stop`](crate::Stop::stop) | returns at once, also beside a broker that is silent. For handlers of signals |
//! | [`Channel::stop_consuming`](crate::Channel::stop_consuming) | asks the broker and waits for it. For callbacks and other threads |
//! | [`Connection::close`](crate::Connection::close) | **not this**: the callback in hand finds its connection closed, and what it did is done again by another |
//!
//! `start_consuming` returns [`ConsumingEnded::Cancelled`](crate::ConsumingEnded::Cancelled) after the first two.
//!
//! # Long work
//!
//! Heartbeats are sent and read by threads of the connection's own, so a callback may take an hour; `heartbeat(0)` is not needed.
//! Two limits of the broker's remain: set a [prefetch limit](super::prefetch), and mind `consumer_timeout`, 30 minutes unless
//! configured otherwise. A message that is held for longer makes RabbitMQ close the channel (406), and from 4.3 on cancel the
//! consumer, of quorum queues only. For longer work acknowledge first and keep the task elsewhere, or let the broker's operator
//! raise the limit.
