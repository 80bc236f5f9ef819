//! The messages of a queue as an iterator.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use crate::channel::{is_of_stream, Channel};
use crate::error::Result;
use crate::io::sync::Instant;
use crate::protocol::consumers::{Consumer, ConsumerState, IteratorConsumer};
use crate::{Consume, ConsumingEnded, Error, Message};

/// The messages of a queue, one after another (pika: the generator of `consume`); see [`Channel::consume`].
///
/// The loop's body may borrow what it likes and end with any error, where a callback must be `Send + 'static`.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
/// # fn main() { example(|_connection, channel| {
/// # channel.queue_declare("tasks")?;
/// # channel.basic_publish("", "tasks", "dig")?;
/// let mut done = Vec::new(); // borrowed by the loop, which no callback could do
/// let mut messages = channel.consume("tasks")?;
/// while let Some(message) = messages.next() {
///     let (method, _properties, body) = message?;
///     channel.basic_ack(method.delivery_tag)?;
///     done.push(body);
///     channel.cancel()?;
/// }
/// # assert_eq!(done, [b"dig"]);
/// println!("{:?}", messages.ended());
/// # Ok(()) }) }
/// ```
pub struct Messages {
    channel: Channel,
    consumer_tag: String,
    idle_exit: Option<Duration>,
    time_limit: Option<Duration>,
    /// When `time_limit` is up.
    deadline: Option<Instant>,
    /// Since when the iterator has been waiting for its next message.
    waiting_since: Option<Instant>,
    ended: Option<ConsumingEnded>,
}

impl Channel {
    /// The messages of a queue as an iterator (pika: `consume`).
    ///
    /// It waits for each message, and runs callbacks meanwhile. It ends when [`cancel`](Channel::cancel) was called, when
    /// the broker cancelled the consumer, when this program closed the channel or the connection, or when a limit of the
    /// request has passed: [`idle_exit`](Consume::idle_exit), [`time_limit`](Consume::time_limit). If the broker closed or
    /// the connection is lost, it yields that error once and ends. [`Messages::ended`] returns why nothing more can come.
    /// [`Messages::inactivity_timeout`] yields an idle tick instead of ending, as pika's generator does.
    ///
    /// Dropping it leaves the consumer as it is: the same request resumes it, [`cancel`](Channel::cancel) ends it.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// use haypile::Consume;
    /// use std::time::Duration;
    ///
    /// # channel.queue_declare("task_queue")?;
    /// # channel.basic_publish("", "task_queue", "dig")?;
    /// # let soon = Duration::from_millis(20);
    /// let patience = Consume::new("task_queue").idle_exit(Duration::from_secs(5));
    /// # let patience = patience.idle_exit(soon);
    /// for message in channel.consume(patience)? {
    ///     let (method, _properties, body) = message?;
    ///     println!("{}", String::from_utf8_lossy(&body));
    ///     channel.basic_ack(method.delivery_tag)?;
    /// }
    /// let requeued = channel.cancel()?;
    /// # assert_eq!(requeued, 0);
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] if the channel has an iterator over another queue or with other flags (pika:
    /// `ValueError`); [`Error::ChannelClosedByBroker`] if there is no such queue; and as every call.
    pub fn consume(&self, request: impl Into<Consume>) -> Result<Messages> {
        Messages::start(self, request.into())
    }
}

/// What the iterator comes to when it is asked. Nearly always a message, so its size does not matter, while a box would cost an allocation.
#[allow(clippy::large_enum_variant)]
enum Step {
    Message(Message),
    /// Nothing came in this time.
    Idle,
    /// There is no more, for now or for good.
    End,
}

/// How long one step may wait.
struct Limits {
    /// The time limit of the whole loop is up.
    deadline: Option<Instant>,
    /// `idle_exit` ends the loop.
    exit: Option<Instant>,
    /// An idle tick is due.
    idle: Option<Instant>,
}

impl Limits {
    fn left(&self) -> Option<Duration> {
        let soonest = [self.deadline, self.exit, self.idle].into_iter().flatten();
        let soonest = soonest.min()?;
        Some(soonest.saturating_duration_since(Instant::now()))
    }
}

fn is_up(limit: Option<Instant>) -> bool {
    limit.is_some_and(|limit| limit <= Instant::now())
}

fn after(begin: Instant, limit: Option<Duration>) -> Option<Instant> {
    begin.checked_add(limit?)
}

impl Messages {
    fn start(channel: &Channel, request: Consume) -> Result<Messages> {
        let began = Instant::now();
        channel.notice_fork();
        let (consumer_tag, is_new) = Self::find_or_add_consumer(channel, &request)?;
        if is_new {
            let (auto_ack, exclusive) = (request.auto_ack, request.exclusive);
            let subscribed = channel.subscribe(
                &request.queue,
                &consumer_tag,
                auto_ack,
                exclusive,
                &request.arguments,
            );
            if let Err(error) = subscribed {
                let slot = channel.slot();
                channel.link().lock().session.take_iterator(slot);
                // Threads that wait to cancel it.
                channel.link().wake_all();
                return Err(error);
            }
        }
        Ok(Messages {
            channel: channel.clone(),
            consumer_tag,
            idle_exit: request.idle_exit,
            time_limit: request.time_limit,
            deadline: after(began, request.time_limit),
            waiting_since: None,
            ended: None,
        })
    }

    /// The tag of the consumer behind the channel's iterator, and whether it is new. A new one is added before the broker
    /// knows of it, so that no message can come too early.
    fn find_or_add_consumer(channel: &Channel, request: &Consume) -> Result<(String, bool)> {
        let id = channel.callbacks().new_consumer_id();
        let mut shared = channel.link().lock();
        if channel.is_ended() {
            drop(shared);
            return Err(channel.closure());
        }
        shared.session.iterator_cancelled = None;
        let Some(state) = shared.session.channel(channel.slot()) else {
            drop(shared);
            return Err(channel.closure());
        };
        let present = state.consumers.iterator.as_ref();
        if let Some(present) = present.filter(|iterator| !iterator.is_spent()) {
            let consumer = &present.consumer;
            if (&present.queue, consumer.auto_ack, present.exclusive)
                == (&request.queue, request.auto_ack, request.exclusive)
            {
                return Ok((consumer.consumer_tag.clone(), false));
            }
            let asked = format!(
                "queue {:?}, auto_ack {}, exclusive {}",
                request.queue, request.auto_ack, request.exclusive
            );
            let expected = format!(
                "the channel's iterator has queue {:?}, auto_ack {}, exclusive {}; cancel() ends it",
                present.queue, consumer.auto_ack, present.exclusive
            );
            return Err(Error::invalid("consume", asked, &expected));
        }
        let consumer_tag = channel.new_consumer_tag();
        state.consumers.iterator = Some(IteratorConsumer {
            consumer: Consumer {
                consumer_tag: consumer_tag.clone(),
                id,
                auto_ack: request.auto_ack,
                of_stream: is_of_stream(&request.arguments),
                state: ConsumerState::Requested,
            },
            queue: request.queue.clone(),
            exclusive: request.exclusive,
            buffered: VecDeque::new(),
            is_at_work: false,
        });
        Ok((consumer_tag, true))
    }

    /// Yields `Ok(None)` whenever nothing came for so long, and goes on (pika: `inactivity_timeout`, which yields
    /// `(None, None, None)`). Only a cancellation, a closure or an error ends the loop. `None` waits for ever.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// # use std::time::Duration;
    /// # channel.queue_declare("task_queue")?;
    /// # channel.basic_publish("", "task_queue", "dig")?;
    /// for event in channel.consume("task_queue")?.inactivity_timeout(Duration::from_millis(100)) {
    ///     match event? {
    ///         Some((method, _properties, _body)) => channel.basic_ack(method.delivery_tag)?,
    ///         None => {
    ///             println!("nothing to do");
    /// #           break;
    ///         }
    ///     }
    /// }
    /// # Ok(()) }) }
    /// ```
    pub fn inactivity_timeout(self, limit: impl Into<Option<Duration>>) -> MessagesOrIdle {
        MessagesOrIdle {
            messages: self,
            limit: limit.into(),
        }
    }

    /// Whether nothing more can come, whatever the cause: the consumer was cancelled, by this program or by the broker, or
    /// its channel or connection is closed, and all that had come has been yielded. [`ended`](Messages::ended) returns which.
    ///
    /// While it is false, an iterator that ended by [`idle_exit`](Consume::idle_exit) can be asked again.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// # channel.queue_declare("tasks")?;
    /// let messages = channel.consume("tasks")?;
    /// assert!(!messages.is_cancelled());
    /// channel.cancel()?;
    /// assert!(messages.is_cancelled());
    /// # Ok(()) }) }
    /// ```
    pub fn is_cancelled(&self) -> bool {
        self.ended().is_some()
    }

    /// Why nothing more can come, once that is so: [`Cancelled`](ConsumingEnded::Cancelled) by this program,
    /// [`CancelledByBroker`](ConsumingEnded::CancelledByBroker), or [`Closed`](ConsumingEnded::Closed) with its channel or
    /// connection, by whichever side. If it was the broker that closed these, or they were lost, the iterator has yielded the error
    /// with the reason; after a cancellation by the broker it ends without one. The iterator must outlive the loop for this:
    /// `for message in &mut messages`.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// use haypile::ConsumingEnded;
    ///
    /// # channel.queue_declare("tasks")?;
    /// let messages = channel.consume("tasks")?;
    /// channel.cancel()?;
    /// assert_eq!(messages.ended(), Some(ConsumingEnded::Cancelled));
    /// # Ok(()) }) }
    /// ```
    pub fn ended(&self) -> Option<ConsumingEnded> {
        if self.ended.is_some() {
            return self.ended.clone();
        }
        let mut shared = self.channel.link().lock();
        let state = shared.session.channel(self.channel.slot());
        let iterator = state.and_then(|state| state.consumers.iterator.as_ref());
        match iterator.filter(|iterator| iterator.has_tag(&self.consumer_tag)) {
            Some(iterator) if !iterator.buffered.is_empty() => None,
            Some(iterator) if iterator.is_cancelled() => Some(ConsumingEnded::CancelledByBroker {
                consumer_tag: self.consumer_tag.clone(),
            }),
            _ if self.channel.is_ended() => Some(ConsumingEnded::Closed),
            Some(_) => None,
            None => Some(ConsumingEnded::Cancelled),
        }
    }

    /// Takes the next message if it has come.
    fn take_buffered(&self) -> Option<Message> {
        let link = self.channel.link();
        let mut shared = link.lock();
        let state = shared.session.channel(self.channel.slot())?;
        let iterator = state.consumers.iterator.as_ref()?;
        if !iterator.has_tag(&self.consumer_tag) {
            return None;
        }
        let message = shared.session.next_for_iterator(self.channel.slot());
        link.resume_if_paused(&mut shared);
        if message.is_none() {
            link.look_again_if_paused(&mut shared);
        }
        drop(shared);
        message.map(|message| message.delivered())
    }

    /// Waits for the next message, at most for `idle` and for what the request allows.
    fn advance(&mut self, idle: Option<Duration>) -> Result<Step> {
        if is_up(self.deadline) {
            return Ok(Step::End);
        }
        // A clone, so that what the round borrows is not the iterator's own.
        let channel = self.channel.clone();
        let round = channel.enter_round();
        // Most often the next message is there, and no clock is needed.
        let mut limits = None;
        loop {
            if self.channel.is_stopped() && !self.channel.is_ended() {
                if !self.is_cancelled() {
                    self.channel.stop_now();
                }
                return Ok(Step::End);
            }
            if let Some(message) = self.take_buffered() {
                self.waiting_since = None;
                return Ok(Step::Message(message));
            }
            if let Some(ended) = self.ended() {
                return self.end(ended);
            }
            if self.channel.notice_fork() {
                // From now on the channel has ended here.
                continue;
            }
            let limits = match &limits {
                // A limit of zero looks once.
                None => limits.insert(self.limits(idle)),
                Some(limits) if is_up(limits.exit) => {
                    // Asked again, it waits anew.
                    self.waiting_since = None;
                    return Ok(Step::End);
                }
                Some(limits) if is_up(limits.deadline) => return Ok(Step::End),
                Some(limits) if is_up(limits.idle) => return Ok(Step::Idle),
                Some(limits) => limits,
            };
            round.run(limits.left(), |shared| {
                let Some(state) = shared.session.channel(self.channel.slot()) else {
                    return true;
                };
                let iterator = state.consumers.iterator.as_ref();
                let is_ready = iterator
                    .map(|iterator| !iterator.buffered.is_empty() || iterator.is_cancelled());
                is_ready.unwrap_or(true) || state.gate.is_over() || self.channel.is_stopped()
            })?;
        }
    }

    fn limits(&mut self, idle: Option<Duration>) -> Limits {
        let now = Instant::now();
        let waiting_since = *self.waiting_since.get_or_insert(now);
        Limits {
            deadline: self.deadline,
            exit: after(waiting_since, self.idle_exit),
            idle: after(now, idle),
        }
    }

    /// Nothing more can come. What ended it is returned as an error once, unless this program did.
    fn end(&mut self, ended: ConsumingEnded) -> Result<Step> {
        let is_first = self.ended.is_none();
        if is_first && self.channel.link().is_inherited() {
            self.channel.notice_fork();
            self.ended = Some(ConsumingEnded::Closed);
            return Err(self.channel.closure());
        }
        if let ConsumingEnded::CancelledByBroker { consumer_tag } = &ended {
            let mut shared = self.channel.link().lock();
            shared.session.iterator_cancelled = Some(consumer_tag.clone());
        }
        let is_closed = ended == ConsumingEnded::Closed;
        self.ended = Some(ended);
        match self.channel.gate().end() {
            Some(Error::ChannelClosedByClient { .. } | Error::ConnectionClosedByClient { .. }) => {
                Ok(Step::End)
            }
            Some(_) if is_closed && is_first => Err(self.channel.ended()),
            _ => Ok(Step::End),
        }
    }
}

impl Iterator for Messages {
    type Item = Result<Message>;

    fn next(&mut self) -> Option<Result<Message>> {
        match self.advance(None) {
            Ok(Step::Message(message)) => Some(Ok(message)),
            Ok(Step::Idle | Step::End) => None,
            Err(error) => Some(Err(error)),
        }
    }
}

/// The consumer stays, for another iterator to go on with, but the program works on none of its messages now.
impl Drop for Messages {
    fn drop(&mut self) {
        let link = self.channel.link();
        if link.notice_fork() {
            return;
        }
        let mut shared = link.lock();
        let state = shared.session.channel(self.channel.slot());
        if let Some(iterator) = state.and_then(|state| state.consumers.iterator.as_mut()) {
            if iterator.has_tag(&self.consumer_tag) {
                iterator.is_at_work = false;
                link.look_again_if_paused(&mut shared);
            }
        }
    }
}

impl fmt::Debug for Messages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Messages")
            .field("channel", &self.channel)
            .field("consumer_tag", &self.consumer_tag)
            .field("idle_exit", &self.idle_exit)
            .field("time_limit", &self.time_limit)
            .finish_non_exhaustive()
    }
}

/// [`Messages`] with an idle tick; see [`Messages::inactivity_timeout`].
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
/// # fn main() { example(|_connection, channel| {
/// # use std::time::Duration;
/// # channel.queue_declare("tasks")?;
/// let mut events = channel.consume("tasks")?.inactivity_timeout(Duration::from_millis(10));
/// assert_eq!(events.next().transpose()?, Some(None)); // nothing came in time
/// assert!(!events.is_cancelled());
/// # Ok(()) }) }
/// ```
#[derive(Debug)]
pub struct MessagesOrIdle {
    messages: Messages,
    limit: Option<Duration>,
}

impl MessagesOrIdle {
    /// As [`Messages::is_cancelled`].
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// # use std::time::Duration;
    /// # channel.queue_declare("tasks")?;
    /// let events = channel.consume("tasks")?.inactivity_timeout(Duration::from_secs(1));
    /// assert!(!events.is_cancelled());
    /// channel.cancel()?;
    /// assert!(events.is_cancelled());
    /// # Ok(()) }) }
    /// ```
    pub fn is_cancelled(&self) -> bool {
        self.messages.is_cancelled()
    }

    /// As [`Messages::ended`].
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// # use std::time::Duration;
    /// use haypile::ConsumingEnded;
    ///
    /// # channel.queue_declare("tasks")?;
    /// let mut events = channel.consume("tasks")?.inactivity_timeout(Duration::from_millis(10));
    /// while let Some(event) = events.next() {
    ///     assert!(event?.is_none()); // nothing came in time
    ///     channel.cancel()?;
    /// }
    /// assert_eq!(events.ended(), Some(ConsumingEnded::Cancelled));
    /// # Ok(()) }) }
    /// ```
    pub fn ended(&self) -> Option<ConsumingEnded> {
        self.messages.ended()
    }
}

impl Iterator for MessagesOrIdle {
    type Item = Result<Option<Message>>;

    fn next(&mut self) -> Option<Result<Option<Message>>> {
        match self.messages.advance(self.limit) {
            Ok(Step::Message(message)) => Some(Ok(Some(message))),
            Ok(Step::Idle) => Some(Ok(None)),
            Ok(Step::End) => None,
            Err(error) => Some(Err(error)),
        }
    }
}
