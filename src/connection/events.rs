//! What happens on a connection and the callbacks that run then: messages, timers, the broker's blocks.

use std::sync::Arc;
use std::time::Duration;

use super::Connection;
use crate::dispatch::{CallbackResult, Round, TimerId};
use crate::error::Result;
use crate::io::sync::Instant;
use crate::Error;

impl Connection {
    /// Waits until something can be delivered to the program or `time_limit` has passed, then runs the callbacks
    /// (pika: `process_data_events(time_limit)`).
    ///
    /// `Duration::ZERO` looks without waiting, `None` waits for one event. Connection events come first (timers,
    /// thread-safe callbacks, blocked and unblocked), then those of the channels, each channel's in the order they came.
    /// Called inside a callback it waits for the whole time and runs nothing.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|connection, channel| {
    /// use std::time::{Duration, Instant};
    ///
    /// # channel.queue_declare("tasks")?;
    /// # channel.basic_publish("", "tasks", "dig")?;
    /// channel.basic_consume("tasks", |channel, method, _properties, _body| {
    ///     channel.basic_ack(method.delivery_tag)
    /// })?;
    /// let until = Instant::now() + Duration::from_millis(50);
    /// while Instant::now() < until {
    ///     connection.process_data_events(Duration::from_millis(10))?; // the callbacks run in here
    ///     // and here is room for other work
    /// }
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// What a callback returned; a closure of a channel or the connection that no call has reported;
    /// [`Error::Reentrancy`] for `None` inside a callback, which would never return.
    pub fn process_data_events(&self, time_limit: impl Into<Option<Duration>>) -> Result<()> {
        let time_limit = time_limit.into();
        self.link().notice_fork();
        let round = Round::enter(self.link(), self.callbacks(), None);
        if round.is_nested() && time_limit.is_none() {
            return Err(Error::Reentrancy {
                call: "process_data_events without a time limit",
            });
        }
        round.run(time_limit, |_| false).map(|_| ())
    }

    /// Runs callbacks, as [`process_data_events`](Connection::process_data_events), for all of this time and at least
    /// once (pika: `sleep`).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|connection, _channel| {
    /// use std::time::Duration;
    ///
    /// connection.sleep(Duration::from_millis(10))?; // callbacks run meanwhile
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// As [`process_data_events`](Connection::process_data_events).
    pub fn sleep(&self, duration: Duration) -> Result<()> {
        let deadline = Instant::now().checked_add(duration);
        loop {
            let left = match deadline {
                Some(deadline) => deadline.saturating_duration_since(Instant::now()),
                None => Duration::from_secs(3600),
            };
            self.process_data_events(left)?;
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(());
            }
        }
    }

    /// Runs a callback once, after this time, on the thread that runs callbacks then (pika: `call_later`).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|connection, _channel| {
    /// use std::time::Duration;
    ///
    /// connection.call_later(Duration::from_millis(10), || println!("10 ms later"))?;
    /// connection.sleep(Duration::from_millis(50))?; // it runs in here
    /// # Ok(()) }) }
    /// ```
    ///
    /// A timer that holds a clone of the connection keeps it open until it has run or was removed, and one that begins itself anew
    /// does so until [`close`](Connection::close): dropping the program's handles does not end such a connection.
    ///
    /// # Errors
    /// As [`add_callback_threadsafe`](Connection::add_callback_threadsafe).
    pub fn call_later<R: CallbackResult>(
        &self,
        delay: Duration,
        callback: impl FnOnce() -> R + Send + 'static,
    ) -> Result<TimerId> {
        self.link().notice_fork();
        let open = self.link().lock().session.check_open();
        open.inspect_err(|_| self.drop_callbacks_if_ended())?;
        let now = Instant::now();
        let Some(due) = now.checked_add(delay) else {
            return Err(Error::invalid(
                "delay",
                format_args!("{delay:?}"),
                "less than the clock can count is expected",
            ));
        };
        let callback = Box::new(move || callback().into_result());
        let id = self.callbacks().timers.add(due, callback);
        self.link().wake_all();
        Ok(id)
    }

    /// Takes back a timer that has not run (pika: `remove_timeout`). One that has run is no error.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|connection, _channel| {
    /// use std::time::Duration;
    ///
    /// let timer = connection.call_later(Duration::from_millis(10), || panic!("too late"))?;
    /// connection.remove_timeout(timer);
    /// connection.sleep(Duration::from_millis(50))?;
    /// # Ok(()) }) }
    /// ```
    pub fn remove_timeout(&self, timer: TimerId) {
        drop(self.callbacks().timers.take(timer));
    }

    /// Runs a callback on the thread that runs callbacks, soon (pika: `add_callback_threadsafe`).
    ///
    /// pika needs this for every call from another thread. Here any thread may call anything, so it serves only what must
    /// run on that one thread. If it holds a clone of the connection, that stays open until it has run; see
    /// [`call_later`](Connection::call_later).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|connection, _channel| {
    /// use std::time::Duration;
    ///
    /// let other = connection.clone();
    /// std::thread::spawn(move || other.add_callback_threadsafe(|| println!("on the consumer's thread")));
    /// connection.process_data_events(Duration::from_secs(1))?; // it runs in here
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// [`Error::ConnectionWrongState`] if the connection is closed, or what ended it.
    pub fn add_callback_threadsafe<R: CallbackResult>(
        &self,
        callback: impl FnOnce() -> R + Send + 'static,
    ) -> Result<()> {
        self.call_later(Duration::ZERO, callback).map(|_| ())
    }

    /// Why the broker blocks this connection, such as `low on memory`; `None` if it does not (RabbitMQ's
    /// `connection.blocked`; pika keeps only whether).
    ///
    /// The broker reports it when a connection publishes while memory or disk are short. It reads nothing from the connection
    /// then: what is published waits, and so does every call behind it.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|connection, _channel| {
    /// if let Some(reason) = connection.blocked() {
    ///     println!("the broker takes no messages: {reason}");
    /// }
    /// # Ok(()) }) }
    /// ```
    pub fn blocked(&self) -> Option<String> {
        self.link().notice_fork();
        let shared = self.link().lock();
        match shared.session.end() {
            None => shared.session.blocked.as_deref().map(str::to_owned),
            Some(_) => None,
        }
    }

    /// Runs a callback whenever the broker blocks this connection, with its reason, such as `low on memory`
    /// (pika: `add_on_connection_blocked_callback`; RabbitMQ's `connection.blocked`).
    ///
    /// While it is blocked the broker reads nothing from a connection that publishes: publishers soon wait, with their
    /// deadline. See [`blocked_connection_timeout`](crate::ConnectionParameters::blocked_connection_timeout).
    ///
    /// ```
    /// # #[cfg(feature = "testing")]
    /// # fn main() -> haypile::Result<()> {
    /// # use std::time::Duration;
    /// # let broker = haypile::testing::Broker::start()?;
    /// # let connection = haypile::Connection::open(broker.url())?;
    /// connection.add_on_connection_blocked_callback(|_connection, reason| println!("blocked: {reason}"));
    /// # broker.block("low on memory");
    /// connection.process_data_events(Duration::from_secs(1))?; // it runs in here
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "testing"))]
    /// # fn main() {}
    /// ```
    pub fn add_on_connection_blocked_callback<R: CallbackResult>(
        &self,
        mut callback: impl FnMut(&Connection, String) -> R + Send + 'static,
    ) {
        let handle = Arc::downgrade(&self.handle);
        self.callbacks()
            .add_blocked(Box::new(move |reason| match handle.upgrade() {
                Some(handle) => callback(&Connection { handle }, reason.to_owned()).into_result(),
                None => Ok(()),
            }));
        self.link().notice_fork();
        self.link().lock().session.wants_blocked = true;
    }

    /// Runs a callback whenever the broker takes up this connection again
    /// (pika: `add_on_connection_unblocked_callback`).
    ///
    /// ```
    /// # #[cfg(feature = "testing")]
    /// # fn main() -> haypile::Result<()> {
    /// # use std::time::Duration;
    /// # let broker = haypile::testing::Broker::start()?;
    /// # let connection = haypile::Connection::open(broker.url())?;
    /// connection.add_on_connection_unblocked_callback(|_connection| println!("it goes on"));
    /// # broker.block("low on memory");
    /// # broker.unblock();
    /// connection.process_data_events(Duration::from_secs(1))?; // it runs in here
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "testing"))]
    /// # fn main() {}
    /// ```
    pub fn add_on_connection_unblocked_callback<R: CallbackResult>(
        &self,
        mut callback: impl FnMut(&Connection) -> R + Send + 'static,
    ) {
        let handle = Arc::downgrade(&self.handle);
        self.callbacks()
            .add_unblocked(Box::new(move || match handle.upgrade() {
                Some(handle) => callback(&Connection { handle }).into_result(),
                None => Ok(()),
            }));
        self.link().notice_fork();
        self.link().lock().session.wants_blocked = true;
    }
}
