//! Coming back after a loss.
//!
//! All of this stands above the public handles. Nothing of a connection is recorded or restored: after a loss the program's
//! own set-up runs again, whole, on a fresh connection.

mod connecting;
mod in_flight;
mod mending;
#[cfg(all(test, shuttle))]
mod model;
mod reliable;
mod retry;
mod verdict;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use self::connecting::Connecting;
use crate::error::{Result, Span};
use crate::escaped::Escaped;
use crate::io::sync::Instant;
use crate::parameters::IntoParameters;
use crate::stop::Stop;
use crate::{Channel, Connection, ConnectionParameters, ConsumingEnded, Error};

pub use self::reliable::ReliablePublisher;
pub use self::retry::Retry;

type OnEvent = dyn Fn(&SupervisorEvent) + Send + Sync;

/// Runs a program's own code on a connection, and runs it again on a fresh one after a loss. pika's users write this loop by
/// hand (its example `consume_recover.py`).
///
/// ```
/// # #[cfg(feature = "testing")]
/// # fn main() -> haypile::Result<()> {
/// # let broker = haypile::testing::Broker::start()?;
/// # let url = broker.url();
/// use haypile::{ConsumingEnded, QueueDeclare, Supervisor};
///
/// let supervisor = Supervisor::new([url.as_str(), "amqp://two.example"])
/// #   .in_order()
///     .on_event(|event| eprintln!("{event}"));
/// # let stop = supervisor.stop_handle();
/// let ended = supervisor.run(|connection| {
///     let channel = connection.channel()?;
///     channel.queue_declare(QueueDeclare::new("orders").durable(true))?;
///     channel.basic_qos(10)?;
///     channel.basic_consume("orders", |channel, method, _properties, _body| {
///         channel.basic_ack(method.delivery_tag)
///     })?;
/// #   stop.stop();
///     channel.start_consuming()
/// })?;
/// assert_eq!(ended, ConsumingEnded::Cancelled); // by a stop
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "testing"))]
/// # fn main() {}
/// ```
///
/// With several hosts each attempt begins at a random one, so that many programs spread over a cluster, and goes on with those
/// that follow; see [`in_order`](Supervisor::in_order).
///
/// Nothing is recorded and nothing is restored: queues, bindings, consumers, qos and confirm mode are there again because the
/// code that makes them runs again. Handles of a former connection stay dead: each call on them fails with an error that names
/// how that connection ended, and sends nothing. So a worker thread that acknowledges a message of before a loss gets an error,
/// which it can ignore: the broker has put the message back, and delivers it again.
///
/// Clones share one [`Stop`].
#[derive(Clone)]
pub struct Supervisor {
    /// What was given, or what is wrong with it.
    parameters: Result<Vec<ConnectionParameters>>,
    in_order: bool,
    retry: Retry,
    on_event: Option<Arc<OnEvent>>,
    stop: Stop,
}

impl Supervisor {
    /// Connects with these parameters: [`ConnectionParameters`], a URL, or several of either. What is wrong with them is the
    /// error of [`run`](Supervisor::run).
    ///
    /// The parameters' own `connection_attempts` and `retry_delay` apply within each attempt.
    ///
    /// ```
    /// # use haypile::Supervisor;
    /// let supervisor = Supervisor::new(["amqp://one.example", "amqp://two.example"]);
    /// # drop(supervisor);
    /// ```
    pub fn new(parameters: impl IntoParameters) -> Self {
        Supervisor {
            parameters: parameters.into_parameters(),
            in_order: false,
            retry: Retry::new(),
            on_event: None,
            stop: Stop::new(),
        }
    }

    /// How long to wait between attempts, and when to give up. Default: [`Retry::new`].
    ///
    /// ```
    /// # use haypile::{Retry, Supervisor};
    /// # use std::time::Duration;
    /// let retry = Retry::new().give_up_after(Duration::from_secs(3600));
    /// let supervisor = Supervisor::new("amqp://localhost").retry(retry);
    /// # drop(supervisor);
    /// ```
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// Begins each attempt at the first host, as [`Connection::open`] does, and not at a random one: for a main broker with a
    /// spare.
    ///
    /// ```
    /// # use haypile::Supervisor;
    /// let supervisor = Supervisor::new(["amqp://main.example", "amqp://spare.example"]).in_order();
    /// # drop(supervisor);
    /// ```
    #[must_use]
    pub fn in_order(mut self) -> Self {
        self.in_order = true;
        self
    }

    /// Calls a function for each event: a loss, a pause, a connection, the end. It runs without a lock, on the thread that has
    /// the event: that of [`run`](Supervisor::run), or the reliable publisher's own.
    ///
    /// ```
    /// use haypile::{Supervisor, SupervisorEvent};
    ///
    /// let supervisor = Supervisor::new("amqp://localhost").on_event(|event| {
    ///     if let SupervisorEvent::Lost { error, .. } = event {
    ///         eprintln!("lost: {error}");
    ///     }
    /// });
    /// # drop(supervisor);
    /// ```
    #[must_use]
    pub fn on_event(mut self, function: impl Fn(&SupervisorEvent) + Send + Sync + 'static) -> Self {
        self.on_event = Some(Arc::new(function));
        self
    }

    /// Stops everything that this supervisor runs; see [`Stop`].
    ///
    /// ```
    /// # use haypile::{Error, Supervisor};
    /// let supervisor = Supervisor::new("amqp://127.0.0.1:1");
    /// supervisor.stop_handle().stop();
    /// let ended = supervisor.run(|connection| connection.channel()?.start_consuming());
    /// assert!(matches!(ended, Err(Error::Stopped { .. })));
    /// ```
    pub fn stop_handle(&self) -> Stop {
        self.stop.clone()
    }

    /// Opens a connection and runs `set_up` on it, on this thread; after a loss again, until it ends for another reason. Returns
    /// what it returned then.
    ///
    /// `set_up` may borrow, and it may call everything. It runs again after
    ///
    /// - an error for which [`is_retryable`](Error::is_retryable) holds: a loss, a timeout, something that the former
    ///   connection still holds, and the like;
    /// - an error that follows from a loss, such as [`Error::ChannelWrongState`] after it;
    /// - a consumer that the broker cancelled, because its queue was deleted or its node was lost, whether `set_up` returned
    ///   [`ConsumingEnded::CancelledByBroker`] or its iterator came to the end by it and it returned
    ///   [`ConsumingEnded::Cancelled`];
    /// - a missing queue or exchange (404) after such a cancellation or after a lasting connection. On a first connection it
    ///   comes out at once, being a mistake.
    ///
    /// ```
    /// # #[cfg(feature = "testing")]
    /// # fn main() -> haypile::Result<()> {
    /// # let broker = haypile::testing::Broker::start()?;
    /// # let url = broker.url();
    /// use haypile::{ConsumingEnded, Retry, Supervisor};
    /// use std::time::Duration;
    ///
    /// let mut runs = 0; // `set_up` may borrow
    /// let retry = Retry::new().first(Duration::from_millis(10));
    /// Supervisor::new(&url).retry(retry).run(|connection| {
    ///     runs += 1;
    ///     let channel = connection.channel()?;
    ///     if runs == 1 {
    /// #       broker.connections()[0].cut();
    ///         channel.queue_declare("tasks")?; // here the connection is lost
    ///     }
    ///     Ok(ConsumingEnded::Cancelled) // and here is the end
    /// })?;
    /// assert_eq!(runs, 2);
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "testing"))]
    /// # fn main() {}
    /// ```
    ///
    /// Each time the former connection is dropped without waiting, and the delay of [`Retry`] passes first. All else comes out
    /// at once: what is refused (403, 406, 530), a wrong argument, an error of the program's own.
    ///
    /// # Errors
    /// What `set_up` returned. [`Error::GaveUp`] after [`Retry::give_up_after`]. [`Error::Stopped`] if a stop ended a pause, an
    /// attempt to connect or a wait in `set_up`. [`Error::InvalidParameter`] for the parameters or the [`Retry`].
    pub fn run(
        &self,
        mut set_up: impl FnMut(&Connection) -> Result<ConsumingEnded>,
    ) -> Result<ConsumingEnded> {
        let mut connecting = Connecting::new(self, &|| false)?;
        loop {
            let connection = connecting.connect()?;
            let connected = Instant::now();
            let result = set_up(&connection);
            let connected = connected.elapsed();
            let Some(error) = connecting.loss(&connection, connected, &result) else {
                return result;
            };
            connection.abandon(&error);
            drop(connection);
            connecting.lost(error, connected)?;
        }
    }

    /// Opens a publisher that loses nothing it has taken: it keeps each message until the broker confirms it, and publishes it
    /// again after a loss. It has a connection and a thread of its own.
    ///
    /// At most `window` messages are in flight. `set_up` declares what the publisher needs; it runs again on each fresh
    /// connection, **on the publisher's own thread**, with a channel that is closed when it returns. It may call everything; callbacks
    /// that it registers are gone with its channel.
    ///
    /// The first attempt is waited for. If it fails by something that may pass, the publisher is returned all the same and goes
    /// on trying.
    ///
    /// ```
    /// # #[cfg(feature = "testing")]
    /// # fn main() -> haypile::Result<()> {
    /// # let broker = haypile::testing::Broker::start()?;
    /// # use haypile::Supervisor;
    /// # let url = broker.url();
    /// let supervisor = Supervisor::new(url);
    /// let mut publisher = supervisor.publisher(100, |channel| channel.queue_declare("orders").map(drop))?;
    /// publisher.publish("", "orders", "first")?;
    /// publisher.wait_for_confirms(None)?;
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "testing"))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] for a window of 0, the parameters or the [`Retry`]; what cannot be mended by trying again;
    /// [`Error::Stopped`].
    pub fn publisher(
        &self,
        window: usize,
        set_up: impl FnMut(&Channel) -> Result<()> + Send + 'static,
    ) -> Result<ReliablePublisher> {
        ReliablePublisher::open(self, window, set_up)
    }

    fn report(&self, event: &SupervisorEvent) {
        match event {
            SupervisorEvent::Connected { .. } | SupervisorEvent::Unblocked => log::info!("{event}"),
            _ => log::warn!("{event}"),
        }
        if let Some(on_event) = &self.on_event {
            on_event(event);
        }
    }
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Supervisor")
            .field("parameters", &self.parameters)
            .field("in_order", &self.in_order)
            .field("retry", &self.retry)
            .field("stop", &self.stop)
            .finish_non_exhaustive()
    }
}

/// What happens to the connection of a [`Supervisor`].
///
/// ```
/// use haypile::SupervisorEvent;
///
/// fn is_trouble(event: &SupervisorEvent) -> bool {
///     !matches!(event, SupervisorEvent::Connected { .. } | SupervisorEvent::Unblocked)
/// }
/// # assert!(!is_trouble(&SupervisorEvent::Unblocked));
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum SupervisorEvent {
    /// A connection is open.
    #[non_exhaustive]
    Connected {
        /// Host and port.
        address: String,
    },
    /// A connection ended by this, or is of no use after it.
    #[non_exhaustive]
    Lost {
        /// Why.
        error: Error,
    },
    /// An attempt to connect failed, or a connection was lost; the next attempt follows after a pause.
    #[non_exhaustive]
    Waiting {
        /// How long the pause is.
        delay: Duration,
        /// What the last attempt came to.
        error: Error,
    },
    /// The broker blocks the connection of a [`ReliablePublisher`], for want of memory or of disk: it takes no message until it
    /// unblocks the connection. In [`Supervisor::run`] the callbacks of
    /// [`Connection::add_on_connection_blocked_callback`] hear of this.
    #[non_exhaustive]
    Blocked {
        /// The broker's reason.
        reason: String,
    },
    /// The broker has unblocked the connection.
    Unblocked,
    /// There is no further attempt.
    #[non_exhaustive]
    GivingUp {
        /// [`Error::GaveUp`], or what cannot be mended by trying again.
        error: Error,
    },
}

impl fmt::Display for SupervisorEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SupervisorEvent::Connected { address } => write!(f, "connected to {address}"),
            SupervisorEvent::Lost { error } => write!(f, "lost: {error}"),
            SupervisorEvent::Waiting { delay, error } => {
                write!(f, "next attempt in {}; the last one: {error}", Span(*delay))
            }
            SupervisorEvent::Blocked { reason } => {
                write!(f, "the broker blocks the connection ({})", Escaped(reason))
            }
            SupervisorEvent::Unblocked => f.write_str("the broker has unblocked the connection"),
            SupervisorEvent::GivingUp { error } => write!(f, "giving up: {error}"),
        }
    }
}
