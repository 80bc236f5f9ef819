//! Many threads, and which of them runs what.
//!
//! [`Connection`](crate::Connection) and [`Channel`](crate::Channel) are cheap clones, `Send + Sync`: any thread may call any
//! method at any time. There is no need for `add_callback_threadsafe`, which pika's users know as the one method that another
//! thread may call.
//!
//! * **Callbacks run on the thread that is inside** `start_consuming`, `process_data_events`, `sleep` or the iterator, and on no
//!   other. If no thread is, no callback runs.
//! * A connection has two threads of its own, which read, write and send heartbeats. They run none of your code.
//! * A channel for each thread is the simplest rule, since a channel's error closes it for all who share it, and confirms and
//!   transactions belong to the channel.
//!
//! # A producer and a consumer on one connection
//!
//! This takes the place of `SelectConnection`: what waits there in an event loop has a thread here.
//!
//! ```
//! # #[cfg(feature = "testing")]
//! # fn main() -> haypile::Result<()> {
//! # let broker = haypile::testing::Broker::start()?;
//! # let url = broker.url();
//! use std::thread;
//! use haypile::Connection;
//!
//! let connection = Connection::open(url)?;
//! connection.channel()?.queue_declare("tasks")?;
//!
//! let producer = {
//!     let channel = connection.channel()?;
//!     thread::spawn(move || -> haypile::Result<()> {
//!         channel.confirm_delivery()?;
//!         for n in 1..=100 {
//!             channel.basic_publish("", "tasks", n.to_string())?;
//!         }
//!         Ok(())
//!     })
//! };
//!
//! let channel = connection.channel()?;
//! channel.basic_qos(10)?;
//! let mut sum = 0;
//! for message in channel.consume("tasks")? {
//!     let (method, _properties, body) = message?;
//!     let number: u32 = std::str::from_utf8(&body)?.parse()?;
//!     sum += number;
//!     channel.basic_ack(method.delivery_tag)?;
//!     if number == 100 {
//!         break;
//!     }
//! }
//! producer.join().unwrap()?;
//! assert_eq!(sum, 5050);
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "testing"))]
//! # fn main() {}
//! ```
//!
//! # Work in many threads, acknowledged from there
//!
//! The messages come in one thread, and a pool works on them. An ack may be given from any thread, in any order, on the channel
//! on which the message came.
//!
//! ```
//! # #[cfg(feature = "testing")]
//! # fn main() -> haypile::Result<()> {
//! # let broker = haypile::testing::Broker::start()?;
//! # let url = broker.url();
//! use std::sync::{mpsc, Arc, Mutex};
//! use std::thread;
//! use haypile::Connection;
//!
//! let channel = Connection::open(url)?.channel()?;
//! channel.queue_declare("tasks")?;
//! for n in 0..20 {
//!     channel.basic_publish("", "tasks", n.to_string())?;
//! }
//! channel.basic_qos(8)?; // no more than the pool can hold
//!
//! let (sender, tasks) = mpsc::channel::<haypile::Message>();
//! let tasks = Arc::new(Mutex::new(tasks));
//! let workers: Vec<_> = (0..4)
//!     .map(|_| {
//!         let (channel, tasks) = (channel.clone(), Arc::clone(&tasks));
//!         thread::spawn(move || -> haypile::Result<()> {
//!             loop {
//!                 let task = tasks.lock().unwrap().recv();
//!                 let Ok((method, _properties, _body)) = task else {
//!                     return Ok(()); // the sender is gone
//!                 };
//!                 // Work here, with no lock held.
//!                 channel.basic_ack(method.delivery_tag)?;
//!             }
//!         })
//!     })
//!     .collect();
//!
//! for message in channel.consume("tasks")?.take(20) {
//!     sender.send(message?).map_err(haypile::Error::other)?;
//! }
//! drop(sender);
//! for worker in workers {
//!     worker.join().unwrap()?;
//! }
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "testing"))]
//! # fn main() {}
//! ```
//!
//! # What to know
//!
//! * The order in which one thread publishes on one channel is kept. Between threads there is none but what you make.
//! * After a `fork` the child has no connection: each call there says so, and the parent's is left alone.
//! * [`Channel::close`](crate::Channel::close) and [`Connection::close`](crate::Connection::close) may be called beside a running
//!   `start_consuming`, which then ends and says why. [`Connection::update_secret`](crate::Connection::update_secret), too, may be
//!   called beside it, and does not disturb it.
//! * Calls from many threads may wait for the broker at the same time, also on one channel.
