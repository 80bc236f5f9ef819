//! Which of the two ways to consume fits.
//!
//! | | callback: `basic_consume`, `start_consuming` | iterator: `consume` |
//! | --- | --- | --- |
//! | state of your own | what it captures must be `Send + 'static`: `Arc`, `Mutex`, channels | borrows what it likes, `&mut` included |
//! | error type | `haypile::Error`; yours go in by [`Error::other`](crate::Error::other) | any: `anyhow`, `eyre`, a box, your own |
//! | several queues | yes, one callback each | one queue for each channel |
//! | doing something else in between | timers: [`call_later`](crate::Connection::call_later) | the loop is yours; an idle tick |
//! | ending | [`Stop`](crate::Stop), [`stop_consuming`](crate::Channel::stop_consuming) | `break`, or the same |
//!
//! **In doubt: the iterator.** A callback must be `Send + 'static` because any thread may run it.
//!
//! # The iterator
//!
//! ```
//! # #[cfg(feature = "testing")]
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let broker = haypile::testing::Broker::start()?;
//! # let url = broker.url();
//! use std::collections::HashMap;
//! use std::time::Duration;
//! use haypile::{Connection, Consume};
//!
//! let channel = Connection::open(url)?.channel()?;
//! channel.queue_declare("words")?;
//! for word in ["hay", "pile", "hay"] {
//!     channel.basic_publish("", "words", word)?;
//! }
//!
//! let mut counts: HashMap<String, u32> = HashMap::new(); // borrowed by the loop: no lock
//! channel.basic_qos(100)?;
//! let words = Consume::new("words").idle_exit(Duration::from_millis(300));
//! for message in channel.consume(words)? {
//!     let (method, _properties, body) = message?;
//!     *counts.entry(String::from_utf8(body)?).or_default() += 1; // an error of another type: `?` all the same
//!     channel.basic_ack(method.delivery_tag)?;
//! }
//! let requeued = channel.cancel()?; // what was prefetched goes back
//! assert_eq!((counts["hay"], requeued), (2, 0));
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "testing"))]
//! # fn main() {}
//! ```
//!
//! Three ways in which nothing comes:
//!
//! * By default the loop waits for as long as it takes.
//! * [`Consume::idle_exit`](crate::Consume::idle_exit) ends the loop when nothing came for so long.
//! * [`Messages::inactivity_timeout`](crate::Messages::inactivity_timeout) yields `Ok(None)` and **goes on**, as pika's does with its
//!   three `None`s.
//!
//! A loss of the connection or of the channel is an `Err` in the loop. **If the broker cancels the consumer, because its queue was
//! deleted, the loop ends without an error**, as pika's does. To know it, keep the iterator (`for message in &mut messages`) and ask
//! [`Messages::ended`](crate::Messages::ended) afterwards; a [`Supervisor`](crate::Supervisor) knows it by itself. Dropping the
//! iterator leaves the consumer registered; [`cancel`](crate::Channel::cancel) ends it.
//!
//! # The callback
//!
//! State goes in by `Arc`, or out by a channel of the standard library:
//!
//! ```
//! # #[cfg(feature = "testing")]
//! # fn main() -> haypile::Result<()> {
//! # let broker = haypile::testing::Broker::start()?;
//! # let url = broker.url();
//! use std::sync::mpsc;
//! use haypile::Connection;
//!
//! let channel = Connection::open(url)?.channel()?;
//! channel.queue_declare("words")?;
//! channel.basic_publish("", "words", "hay")?;
//!
//! let (sender, words) = mpsc::channel();
//! channel.basic_consume("words", move |channel, method, _properties, body| {
//!     channel.basic_ack(method.delivery_tag)?;
//!     sender.send(String::from_utf8(body)?).map_err(haypile::Error::other)?;
//!     channel.stop_consuming()
//! })?;
//! channel.start_consuming()?;
//! assert_eq!(words.recv().unwrap(), "hay");
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "testing"))]
//! # fn main() {}
//! ```
//!
//! A callback is given its channel, so it need not capture one. One that captures a clone keeps the channel open until it is
//! cancelled or closed. If the compiler asks for the type behind a final `Ok(())`, write `haypile::Result::Ok(())`.
