//! Publishing at least once.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::Duration;

use super::in_flight::{self, Entry, Envelope, InFlight, NotSent};
use super::mending::{self, Signal};
use super::retry::random;
use super::Supervisor;
use crate::channel::{Channel, Until};
use crate::dispatch::in_callback;
use crate::error::Result;
use crate::io::fork::{lock_unless_forked, Process};
use crate::io::sync::after;
use crate::io::sync::thread::{self, Thread};
use crate::io::sync::{Instant, Mutex, MutexGuard};
use crate::protocol::publish::OutgoingMessage;
use crate::protocol::size::size_of_properties;
use crate::stop::{park, Stop};
use crate::{AsShortString, BasicProperties, BasicPublish, Error, Unconfirmed, UnconfirmedReport};

/// The bound of what is in flight, unless another is set.
const MAX_BYTES: usize = 64 << 20;

/// How long a drop waits for confirms, and then for the connection's end.
const DROP_TIMEOUT: Duration = Duration::from_secs(5);
const DROP_CLOSE: Duration = Duration::from_secs(2);

/// How many confirms may come before they are noted and the messages dropped, so that their memory serves the next.
const NOTE_AFTER: u64 = 256;

/// Publishes every message at least once; made by [`Supervisor::publisher`]. Has no counterpart in pika.
///
/// A message is *taken* when [`publish`](ReliablePublisher::publish) returns its number; if it fails, the message is not taken.
/// Every message that was taken ends in one of four ways: the broker confirms it; it is returned, being mandatory, and
/// [`wait_for_confirms`](ReliablePublisher::wait_for_confirms) reports it; the broker has refused it for as long as
/// [`Retry::give_up_after`](crate::Retry::give_up_after), which `wait_for_confirms` reports too; or
/// [`take_unconfirmed`](ReliablePublisher::take_unconfirmed) hands it back.
///
/// A loss is mended by a thread of the publisher's own, without a further call: it connects again, runs the set-up, and sends
/// what was not confirmed once more, oldest first. What the broker refuses is tried again, ever more slowly. A receiver recognizes
/// doubles by their `message_id`, which is set where there is none. Order is kept but for what is sent again.
///
/// ```
/// # #[cfg(feature = "testing")]
/// # fn main() -> haypile::Result<()> {
/// # let broker = haypile::testing::Broker::start()?;
/// # let url = broker.url();
/// use haypile::{BasicProperties, DeliveryMode, QueueDeclare, Supervisor};
/// use std::time::Duration;
///
/// let supervisor = Supervisor::new(url);
/// let mut publisher = supervisor.publisher(1000, |channel| {
///     channel.queue_declare(QueueDeclare::new("orders").durable(true))?;
///     Ok(())
/// })?;
/// let persistent = BasicProperties::new().delivery_mode(DeliveryMode::Persistent);
/// for n in 0..5_000 {
///     publisher.publish_with("", "orders", n.to_string(), &persistent)?;
/// #   if n == 2_500 { broker.connections()[0].cut(); }
/// }
/// if let Err(error) = publisher.wait_for_confirms(Duration::from_secs(60)) {
///     eprintln!("{error}");
///     for message in publisher.take_unconfirmed() {
///         // Keep it somewhere.
/// #       panic!("{message:?}");
///     }
/// }
/// assert_eq!(publisher.unconfirmed(), 0);
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "testing"))]
/// # fn main() {}
/// ```
pub struct ReliablePublisher {
    pub(super) core: Arc<Core>,
    stop: Stop,
    window: usize,
    max_bytes: usize,
    timeout: Duration,
    last_number: u64,
    /// The last message's, which the next one mostly shares.
    envelope: Arc<Envelope>,
    /// The envelope's properties with the next message's id.
    properties: BasicProperties,
    /// The number whose id they have; 0 is none.
    named: u64,
}

/// What the publisher and its thread share.
pub(super) struct Core {
    /// Held while one message is numbered and handed to the connection, or outcomes are noted. So no confirm can be looked up
    /// for a message that is sent and not yet noted. No thread waits for anything while it holds it.
    state: Mutex<State>,
    /// What the ids of the publisher's messages begin with.
    id: String,
    /// Wakes the thread.
    pub(super) signal: Arc<Signal>,
    /// How often refused messages were given up: the broker sends nothing then that would end a wait for confirms.
    pub(super) given_up: AtomicU64,
    closing: AtomicBool,
    /// The process whose thread works for this publisher.
    process: Process,
    /// What a forked child is given in place of `state`: a publisher that has ended. The thread is not there, and may have held
    /// the lock.
    inherited: OnceLock<Mutex<State>>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) flight: InFlight,
    /// Where new messages are sent. None while there is no connection, or what was lost is not yet sent again.
    channel: Option<Channel>,
    /// Waits for what only the thread changes.
    caller: Option<Thread>,
    /// The thread has tried to connect.
    attempted: bool,
    /// The thread is at its end, by this if anything went wrong.
    over: Option<Error>,
    ended: bool,
    pub(super) closing: bool,
    pub(super) republished: u64,
    /// What became of messages, as far as the thread has not looked at it.
    mended: usize,
    refused_again: usize,
    confirmed: u64,
    /// How many messages of the present channel had an outcome when outcomes were last noted.
    seen: u64,
}

impl State {
    /// Notes the broker's confirms and refusals of this channel's messages.
    pub(super) fn note_outcomes(&mut self, channel: &Channel) {
        // Counted first, so that what comes meanwhile is looked at once more.
        self.seen = channel.confirmed();
        let progress = self.flight.note_outcomes(channel.outcomes());
        self.mended += progress.mended;
        self.refused_again += progress.refused_again;
        self.confirmed += progress.confirmed as u64;
    }

    /// How many messages of the present channel had an outcome since outcomes were last noted. Takes no lock.
    fn new_outcomes(&self) -> u64 {
        let confirmed = self.channel.as_ref().map(Channel::confirmed);
        // A channel that is new may have fewer than the former one had.
        confirmed.map_or(0, |confirmed| confirmed.abs_diff(self.seen))
    }

    fn note_present_outcomes(&mut self) {
        if let Some(channel) = self.channel.clone() {
            self.note_outcomes(&channel);
        }
    }

    /// Nothing is on its way on the present channel, and nothing is sent on it any more.
    pub(super) fn channel_is_replaced(&mut self) {
        self.channel = None;
        self.flight.forget_gaps();
    }

    pub(super) fn take_refusals(&mut self) -> (usize, usize) {
        let mended = std::mem::take(&mut self.mended);
        (mended, std::mem::take(&mut self.refused_again))
    }

    fn wake_caller(&mut self) {
        if let Some(caller) = self.caller.take() {
            caller.unpark();
        }
    }
}

impl Core {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Core {
            state: Mutex::new(State::default()),
            id: format!("{:016x}-", random()),
            signal: Arc::new(Signal::default()),
            given_up: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            process: Process::current(),
            inherited: OnceLock::new(),
        })
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        if self.inherited.get().is_none() {
            if let Some(state) = lock_unless_forked(&self.state, || self.forked().is_some()) {
                return state;
            }
        }
        let state = self.inherited.get().unwrap_or(&self.state);
        state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The error of every call in a forked child. Costs a system call: not for each message.
    fn forked(&self) -> Option<Error> {
        if self.process.is_current() {
            return None;
        }
        let error = Error::forked(self.process.id(), std::process::id());
        self.inherited.get_or_init(|| {
            Mutex::new(State {
                over: Some(error.clone()),
                ended: true,
                ..State::default()
            })
        });
        Some(error)
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// The thread has tried to connect.
    pub(super) fn attempted(&self) {
        let mut state = self.lock();
        state.attempted = true;
        state.wake_caller();
    }

    /// All that was lost is sent again; new messages may follow.
    pub(super) fn up(&self, mut state: MutexGuard<'_, State>, channel: &Channel) {
        state.channel = Some(channel.clone());
        state.note_outcomes(channel);
        state.wake_caller();
    }

    /// The channel is over: the last outcomes are taken in, and what has none is to be sent again. Returns whether anything
    /// was confirmed on it.
    pub(super) fn lost(&self, channel: &Channel) -> bool {
        let mut state = self.lock();
        state.note_outcomes(channel);
        state.channel = None;
        state.flight.lost();
        std::mem::take(&mut state.confirmed) > 0
    }

    /// The thread ends.
    pub(super) fn end(&self, error: Option<Error>) {
        let mut state = self.lock();
        (state.over, state.ended, state.channel) = (error, true, None);
        state.flight.lost();
        state.wake_caller();
    }
}

/// What became of an attempt to send a message.
enum Attempt {
    Sent,
    /// As much is in flight as may be.
    NoRoom,
    NoConnection,
    /// This channel's connection takes no more into its output buffer.
    Full(Channel),
}

/// Why a wait is over.
enum Waited {
    /// Something has changed.
    Changed,
    Stopped,
    TimedOut,
}

impl ReliablePublisher {
    pub(super) fn open(
        supervisor: &Supervisor,
        window: usize,
        set_up: impl FnMut(&Channel) -> Result<()> + Send + 'static,
    ) -> Result<Self> {
        let timeout = match &supervisor.parameters {
            Ok(all) => all.first().map(|parameters| parameters.rpc_timeout),
            Err(error) => return Err(error.clone()),
        };
        let mut publisher = Self::new(window, supervisor.stop_handle())?;
        publisher.timeout = timeout.unwrap_or(DROP_TIMEOUT);
        mending::start(&publisher.core, supervisor.clone(), set_up)?;
        publisher.wait_for_first_attempt()?;
        Ok(publisher)
    }

    /// One whose thread is still to be started.
    pub(super) fn new(window: usize, stop: Stop) -> Result<Self> {
        if window == 0 {
            return Err(Error::invalid("window", 0, "at least 1 is expected"));
        }
        Ok(ReliablePublisher {
            core: Core::new(),
            stop,
            window,
            max_bytes: MAX_BYTES,
            timeout: DROP_TIMEOUT,
            last_number: 0,
            envelope: Arc::default(),
            properties: BasicProperties::new(),
            named: 0,
        })
    }

    fn wait_for_first_attempt(&self) -> Result<()> {
        loop {
            let state = self.core.lock();
            if let Some(error) = &state.over {
                return Err(error.clone());
            }
            if state.attempted || state.ended {
                return Ok(());
            }
            if self.stop.is_stopped() {
                return Err(stopped("the first attempt to connect"));
            }
            self.wait(state, Until::time_or_stop(None));
        }
    }

    /// How many bytes may be in flight, with all that the messages hold. A larger message is taken when nothing else is in
    /// flight. Up to 2 MiB more are kept for the next messages' bodies. Default: 64 MiB.
    ///
    /// ```
    /// # #[cfg(feature = "testing")]
    /// # fn main() -> haypile::Result<()> {
    /// # let broker = haypile::testing::Broker::start()?;
    /// # use haypile::Supervisor;
    /// # use std::time::Duration;
    /// # let supervisor = Supervisor::new(broker.url());
    /// let publisher = supervisor.publisher(100, |_channel| Ok(()))?.max_bytes(1 << 20);
    /// # assert_eq!(publisher.unconfirmed(), 0);
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "testing"))]
    /// # fn main() {}
    /// ```
    #[must_use]
    pub fn max_bytes(mut self, max_bytes: usize) -> Self {
        self.max_bytes = max_bytes;
        self
    }

    /// How long [`publish`](ReliablePublisher::publish) waits for room or for a connection. Default: the connection's
    /// [`rpc_timeout`](crate::ConnectionParameters::rpc_timeout).
    ///
    /// ```
    /// # #[cfg(feature = "testing")]
    /// # fn main() -> haypile::Result<()> {
    /// # let broker = haypile::testing::Broker::start()?;
    /// # use haypile::Supervisor;
    /// # use std::time::Duration;
    /// # let supervisor = Supervisor::new(broker.url());
    /// let publisher = supervisor.publisher(100, |_channel| Ok(()))?.timeout(Duration::from_secs(5));
    /// # assert_eq!(publisher.unconfirmed(), 0);
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "testing"))]
    /// # fn main() {}
    /// ```
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Takes a message without properties but its `message_id`, and returns its number, from 1.
    ///
    /// Waits while the window or the bound of bytes is full, and while there is no connection.
    ///
    /// ```
    /// # #[cfg(feature = "testing")]
    /// # fn main() -> haypile::Result<()> {
    /// # let broker = haypile::testing::Broker::start()?;
    /// # use haypile::Supervisor;
    /// # use std::time::Duration;
    /// # let supervisor = Supervisor::new(broker.url());
    /// # let mut publisher = supervisor.publisher(100, |channel| channel.queue_declare("q").map(drop))?;
    /// assert_eq!(publisher.publish("", "q", "first")?, 1);
    /// # publisher.wait_for_confirms(Duration::from_secs(5))?;
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "testing"))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    /// The message is not taken then.
    ///
    /// - [`Error::Timeout`] if there was no room or no connection in time. The publisher goes on.
    /// - [`Error::Stopped`] if a stop ended the wait.
    /// - [`Error::Unconfirmed`] if what was returned or refused for good leaves no room; the report lists it.
    /// - [`Error::ShortStringTooLong`] and [`Error::InvalidParameter`] for what cannot be sent.
    /// - What the publisher cannot mend: [`Error::GaveUp`], what the set-up failed with, and what the broker refuses for good,
    ///   such as an exchange that does not exist. The publisher is at its end then, and
    ///   [`take_unconfirmed`](ReliablePublisher::take_unconfirmed) hands back what it holds.
    pub fn publish(
        &mut self,
        exchange: impl AsShortString,
        routing_key: impl AsShortString,
        body: impl AsRef<[u8]>,
    ) -> Result<u64> {
        self.publish_with(exchange, routing_key, body, BasicPublish::new())
    }

    /// Takes a message with properties, or a mandatory one, and returns its number, from 1.
    ///
    /// ```
    /// # #[cfg(feature = "testing")]
    /// # fn main() -> haypile::Result<()> {
    /// # let broker = haypile::testing::Broker::start()?;
    /// # use haypile::Supervisor;
    /// # use std::time::Duration;
    /// # let supervisor = Supervisor::new(broker.url());
    /// # let mut publisher = supervisor.publisher(100, |channel| channel.queue_declare("q").map(drop))?;
    /// use haypile::BasicProperties;
    ///
    /// let named = BasicProperties::new().message_id("order 1");
    /// publisher.publish_with("", "q", "first", named)?;
    /// # publisher.wait_for_confirms(Duration::from_secs(5))?;
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "testing"))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    /// As [`publish`](ReliablePublisher::publish).
    pub fn publish_with<'p>(
        &mut self,
        exchange: impl AsShortString,
        routing_key: impl AsShortString,
        body: impl AsRef<[u8]>,
        publish: impl Into<BasicPublish<'p>>,
    ) -> Result<u64> {
        self.take(OutgoingMessage {
            exchange: exchange.as_short_string(),
            routing_key: routing_key.as_short_string(),
            body: body.as_ref(),
            publish: &publish.into(),
        })
    }

    fn take(&mut self, message: OutgoingMessage<'_>) -> Result<u64> {
        let OutgoingMessage {
            exchange,
            routing_key,
            body,
            publish,
        } = message;
        let given = &*publish.properties;
        let last = &*self.envelope;
        let is_alike = is_same(last.exchange.as_bytes(), exchange)
            && is_same(last.routing_key.as_bytes(), routing_key)
            && last.mandatory == publish.mandatory
            && last.properties == *given;
        if !is_alike {
            self.properties = given.clone();
            self.named = 0;
            self.envelope = Arc::new(Envelope {
                exchange: exchange.into(),
                routing_key: routing_key.into(),
                weight: size_of::<Envelope>()
                    + exchange.len()
                    + routing_key.len()
                    + size_of_properties(given),
                properties: given.clone(),
                mandatory: publish.mandatory,
            });
        }
        let number = self.last_number + 1;
        if self.envelope.properties.message_id.is_none() && self.named != number {
            // Mostly there is the id of the last one, whose memory serves again.
            let mut text = match self.properties.message_id.take() {
                Some(last) if self.named + 1 == number => String::from(last),
                _ => in_flight::message_id(self.core.id(), number - 1),
            };
            in_flight::increment(&mut text);
            self.properties.message_id = Some(text.into());
            self.named = number;
        }
        self.send(number, body)?;
        self.last_number = number;
        Ok(number)
    }

    /// Sends a message as soon as there is room and a connection.
    fn send(&self, number: u64, body: &[u8]) -> Result<()> {
        let mut deadline = None;
        loop {
            let mut state = self.core.lock();
            let (waiting_for, full) = match self.try_send(&mut state, number, body)? {
                Attempt::Sent => return Ok(()),
                Attempt::NoRoom => ("room in flight; the message was not taken", None),
                Attempt::NoConnection => ("a connection; the message was not taken", None),
                Attempt::Full(channel) => (
                    "room in the output buffer; the message was not taken",
                    Some(channel),
                ),
            };
            let channel = state.channel.clone();
            let deadline = *deadline.get_or_insert_with(|| after(self.timeout));
            let waited = match full {
                None => self.wait(state, Until::time_or_stop(deadline)),
                Some(channel) => {
                    drop(state);
                    self.wait_for_room(&channel, body.len(), deadline)
                }
            };
            match waited {
                Waited::Changed => {}
                Waited::Stopped => return Err(stopped(waiting_for)),
                Waited::TimedOut => return Err(self.timed_out(waiting_for, channel.as_ref())),
            }
        }
    }

    /// Sends a message, and notes it as in flight, if that can be done at once.
    fn try_send(&self, state: &mut State, number: u64, body: &[u8]) -> Result<Attempt> {
        if let Some(error) = &state.over {
            return Err(error.clone());
        }
        let weight = in_flight::weight(&self.envelope, body);
        let new_outcomes = state.new_outcomes();
        if new_outcomes >= NOTE_AFTER || new_outcomes > 0 && !self.has_room(state, weight) {
            state.note_present_outcomes();
        }
        if !self.has_room(state, weight) {
            return match state.flight.undecided() {
                // No confirm can make room: all of it was returned or refused for good, and is to be reported.
                0 => Err(unconfirmed(state, None)),
                _ => Ok(Attempt::NoRoom),
            };
        }
        let State {
            flight, channel, ..
        } = state;
        let Some(open) = channel else {
            return Ok(Attempt::NoConnection);
        };
        match in_flight::send(open, &self.envelope, &self.properties, body) {
            Ok(sequence) => {
                let entry = Entry {
                    number,
                    envelope: Arc::clone(&self.envelope),
                    body: flight.copy(body),
                    refusals: 0,
                };
                flight.take(sequence, entry);
                Ok(Attempt::Sent)
            }
            Err(NotSent::Lost(_)) => {
                // The thread notices as well, and opens another.
                *channel = None;
                Ok(Attempt::NoConnection)
            }
            Err(NotSent::NoRoom) => Ok(Attempt::Full(open.clone())),
            Err(NotSent::Unsendable(error)) => Err(error),
        }
    }

    fn has_room(&self, state: &State, weight: usize) -> bool {
        let (count, held) = state.flight.held();
        count < self.window && (held.saturating_add(weight) <= self.max_bytes || count == 0)
    }

    /// Waits for the connection to take more.
    fn wait_for_room(&self, channel: &Channel, body: usize, deadline: Instant) -> Waited {
        let left = deadline.saturating_duration_since(Instant::now());
        if self.is_stopped() {
            return Waited::Stopped;
        }
        if left.is_zero() {
            return Waited::TimedOut;
        }
        channel.link().wait_for_room(left, body);
        Waited::Changed
    }

    /// Waits for a change: on the channel, if there is one, else by the thread.
    fn wait(&self, mut state: MutexGuard<'_, State>, until: Until) -> Waited {
        let deadline = until.deadline;
        if self.core.forked().is_some() {
            // No other thread would ever wake this one.
            return Waited::Changed;
        }
        let may_stop = until.may_stop && !in_callback();
        if may_stop && self.stop.is_stopped() {
            return Waited::Stopped;
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Waited::TimedOut;
        }
        match state.channel.clone() {
            Some(channel) if !channel.is_ended() => {
                let seen = state.seen;
                let given_up = self.core.given_up.load(Ordering::Acquire);
                drop(state);
                channel.wait_for_outcome(seen, deadline, || {
                    may_stop && self.stop.is_stopped()
                        || self.core.given_up.load(Ordering::Acquire) != given_up
                });
            }
            _ => {
                state.caller = Some(thread::current());
                drop(state);
                if may_stop {
                    self.stop.park(deadline);
                } else {
                    park(deadline);
                }
            }
        }
        Waited::Changed
    }

    /// Whether a wait must end: not if a callback makes it, which belongs to the message in hand.
    fn is_stopped(&self) -> bool {
        self.stop.is_stopped() && !in_callback()
    }

    fn timed_out(&self, waiting_for: &'static str, channel: Option<&Channel>) -> Error {
        Error::Timeout {
            waiting_for,
            after: self.timeout,
            channel: channel.map(Channel::channel_number),
            channel_closed: false,
            blocked: channel.and_then(Channel::blocked),
        }
    }

    /// How many messages have no outcome yet.
    ///
    /// ```
    /// # #[cfg(feature = "testing")]
    /// # fn main() -> haypile::Result<()> {
    /// # let broker = haypile::testing::Broker::start()?;
    /// # use haypile::Supervisor;
    /// # use std::time::Duration;
    /// # let supervisor = Supervisor::new(broker.url());
    /// # let mut publisher = supervisor.publisher(100, |channel| channel.queue_declare("q").map(drop))?;
    /// publisher.publish("", "q", "first")?;
    /// publisher.wait_for_confirms(Duration::from_secs(5))?;
    /// assert_eq!(publisher.unconfirmed(), 0);
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "testing"))]
    /// # fn main() {}
    /// ```
    pub fn unconfirmed(&self) -> usize {
        self.core.forked();
        let mut state = self.core.lock();
        state.note_present_outcomes();
        state.flight.undecided()
    }

    /// How often a message was sent again: after a loss, or after a refusal.
    ///
    /// ```
    /// # #[cfg(feature = "testing")]
    /// # fn main() -> haypile::Result<()> {
    /// # let broker = haypile::testing::Broker::start()?;
    /// # use haypile::Supervisor;
    /// # use std::time::Duration;
    /// # let supervisor = Supervisor::new(broker.url());
    /// # let mut publisher = supervisor.publisher(100, |channel| channel.queue_declare("q").map(drop))?;
    /// publisher.publish("", "q", "first")?;
    /// publisher.wait_for_confirms(Duration::from_secs(5))?;
    /// println!("{} sent once more", publisher.republished());
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "testing"))]
    /// # fn main() {}
    /// ```
    pub fn republished(&self) -> u64 {
        self.core.lock().republished
    }

    /// Stops what waits here, and with it all that the supervisor runs. After a stop [`publish`](ReliablePublisher::publish) still
    /// takes a message for which it need not wait, such as the outcome of the message in hand.
    ///
    /// ```
    /// # #[cfg(feature = "testing")]
    /// # fn main() -> haypile::Result<()> {
    /// # let broker = haypile::testing::Broker::start()?;
    /// # use haypile::Supervisor;
    /// # use std::time::Duration;
    /// # let supervisor = Supervisor::new(broker.url());
    /// # let mut publisher = supervisor.publisher(100, |channel| channel.queue_declare("q").map(drop))?;
    /// publisher.publish("", "q", "the last one")?;
    /// assert_eq!(publisher.stop_handle().stop(), 1);
    /// publisher.wait_for_confirms(Duration::from_secs(60))?; // after a stop: for two seconds at most
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "testing"))]
    /// # fn main() {}
    /// ```
    pub fn stop_handle(&self) -> Stop {
        self.stop.clone()
    }

    /// Waits until every message that was taken is confirmed, returned or refused for good, or the time is up.
    ///
    /// ```
    /// # #[cfg(feature = "testing")]
    /// # fn main() -> haypile::Result<()> {
    /// # let broker = haypile::testing::Broker::start()?;
    /// # use haypile::Supervisor;
    /// # use std::time::Duration;
    /// # let supervisor = Supervisor::new(broker.url());
    /// # let mut publisher = supervisor.publisher(100, |channel| channel.queue_declare("q").map(drop))?;
    /// publisher.publish("", "q", "first")?;
    /// publisher.wait_for_confirms(Duration::from_secs(60))?;
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "testing"))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    /// [`Error::Unconfirmed`] if any is not confirmed. The report lists those that were
    /// [`returned`](UnconfirmedReport::returned), each once; those that were refused for good
    /// ([`nacked`](UnconfirmedReport::nacked)), until [`take_unconfirmed`](ReliablePublisher::take_unconfirmed) hands them back;
    /// and those that are [`pending`](UnconfirmedReport::pending), which the publisher goes on to send. Its
    /// [`cause`](UnconfirmedReport::cause) is what has ended the publisher, or [`Error::Stopped`] if a stop ended the wait: asked
    /// again after that, it waits for two seconds at most.
    pub fn wait_for_confirms(&mut self, timeout: impl Into<Option<Duration>>) -> Result<()> {
        self.wait_within(timeout.into())
    }

    fn wait_within(&self, timeout: Option<Duration>) -> Result<()> {
        if let Some(error) = self.core.forked() {
            return Err(error);
        }
        let until = Until::for_confirms(timeout, self.is_stopped());
        let mut cause = None;
        let mut is_last = false;
        loop {
            let mut state = self.core.lock();
            state.note_present_outcomes();
            if state.flight.undecided() == 0 {
                if state.flight.has_outcomes_to_report() {
                    return Err(unconfirmed(&mut state, None));
                }
                return Ok(());
            }
            if state.ended {
                cause = state.over.clone();
                is_last = true;
            }
            if is_last {
                return Err(unconfirmed(&mut state, cause));
            }
            match self.wait(state, until) {
                Waited::Changed => {}
                Waited::TimedOut if until.may_stop => is_last = true,
                Waited::TimedOut | Waited::Stopped => {
                    is_last = true;
                    cause = Some(stopped("confirms"));
                }
            }
        }
    }

    /// Hands back all that is neither confirmed nor returned, whole and in the order of publishing. The publisher forgets these
    /// messages; those that were sent may still arrive. In a [forked child](crate::Connection#forked-children) there are none:
    /// they are the parent's.
    ///
    /// ```
    /// # #[cfg(feature = "testing")]
    /// # fn main() -> haypile::Result<()> {
    /// # let broker = haypile::testing::Broker::start()?;
    /// # use haypile::Supervisor;
    /// # use std::time::Duration;
    /// # let supervisor = Supervisor::new(broker.url());
    /// # let mut publisher = supervisor.publisher(100, |channel| channel.queue_declare("q").map(drop))?;
    /// # broker.withhold_next_confirm();
    /// publisher.publish("", "q", "first")?;
    /// # let limit = Duration::from_millis(50);
    /// if publisher.wait_for_confirms(limit).is_err() {
    ///     for message in publisher.take_unconfirmed() {
    ///         println!("to be kept: {:?}", message.body);
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "testing"))]
    /// # fn main() {}
    /// ```
    pub fn take_unconfirmed(&mut self) -> Vec<Unconfirmed> {
        self.core.forked();
        let mut state = self.core.lock();
        state.note_present_outcomes();
        state.flight.take_all(self.core.id())
    }

    /// Waits for confirms and for the end of the thread, for a bounded time.
    fn finish(&self) {
        if self.core.forked().is_some() {
            return;
        }
        let (ended, undecided) = {
            let mut state = self.core.lock();
            state.note_present_outcomes();
            (state.ended, state.flight.undecided())
        };
        if !ended && undecided > 0 && !std::thread::panicking() {
            // What is left is logged.
            let _ = self.wait_within(Some(DROP_TIMEOUT));
        }
        self.core.closing.store(true, Ordering::Release);
        self.core.lock().closing = true;
        self.core.signal.wake_always();
        let deadline = after(DROP_CLOSE);
        loop {
            let mut state = self.core.lock();
            let left = deadline.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                return;
            }
            state.caller = Some(thread::current());
            drop(state);
            thread::park_timeout(left);
        }
    }
}

/// Waits up to five seconds for what is not confirmed and logs what remains; call
/// [`wait_for_confirms`](ReliablePublisher::wait_for_confirms) first.
impl Drop for ReliablePublisher {
    fn drop(&mut self) {
        self.finish();
        let flight = &mut self.core.lock().flight;
        let left = flight.take_all(self.core.id());
        let returned = flight.take_returned();
        if let Some(first) = left.first() {
            log::warn!(
                "a reliable publisher was dropped with {} messages unconfirmed, the oldest being number {} ({:?})",
                left.len(),
                first.number,
                first.properties.message_id
            );
        }
        if !returned.is_empty() {
            log::warn!(
                "a reliable publisher was dropped with {} returned messages not reported",
                returned.len()
            );
        }
    }
}

impl fmt::Debug for ReliablePublisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReliablePublisher")
            .field("window", &self.window)
            .field("max_bytes", &self.max_bytes)
            .field("unconfirmed", &self.unconfirmed())
            .field("republished", &self.republished())
            .finish_non_exhaustive()
    }
}

/// Compares two names byte by byte: they are short, and the library's `memcmp` costs a quarter of a small message.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(a, b)| a == b)
}

fn stopped(waiting_for: &'static str) -> Error {
    Error::Stopped { waiting_for }
}

/// The report of what is not confirmed.
fn unconfirmed(state: &mut State, cause: Option<Error>) -> Error {
    Error::Unconfirmed(Box::new(UnconfirmedReport {
        returned: state.flight.take_returned(),
        nacked: state.flight.given_up_numbers(),
        pending: state.flight.undecided_numbers(),
        confirmed: Vec::new(),
        cause,
        blocked: state.channel.as_ref().and_then(Channel::blocked),
    }))
}
