//! Running the program's callbacks: which, in what order, on which thread.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::channel::{Channel, ChannelHandle, TakenCallback};
use crate::connection::Connection;
use crate::error::Result;
use crate::io::exit;
use crate::io::sync::{thread_local, Instant};
use crate::io::wait::{Link, Shared};
use crate::protocol::channel::Incoming;
use crate::protocol::connection::{ConnectionEvent, Dispatcher};
use crate::Error;

/// What a callback may answer: nothing, or a [`Result`](crate::Result) whose error ends the call that runs the callbacks.
///
/// Closures that never return (`panic!`, `todo!`, `std::process::exit(0)`) are accepted too. The trait is not meant to be
/// implemented elsewhere.
pub trait CallbackResult: sealed::Sealed {
    #[doc(hidden)]
    fn into_result(self) -> Result<()>;
}

impl CallbackResult for () {
    fn into_result(self) -> Result<()> {
        Ok(())
    }
}

impl CallbackResult for Result<()> {
    fn into_result(self) -> Result<()> {
        self
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for () {}
    impl Sealed for crate::error::Result<()> {}
    impl Sealed for super::Never {}

    /// The type `!` has no name in stable Rust, but it is what this function type answers.
    pub trait Answers {
        type Output;
    }
    impl<T> Answers for fn() -> T {
        type Output = T;
    }
}

type Never = <fn() -> ! as sealed::Answers>::Output;

impl CallbackResult for Never {
    fn into_result(self) -> Result<()> {
        self
    }
}

/// A number for this thread, the same for as long as it lives and never that of another.
pub(crate) fn thread_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    thread_local!(static NUMBER: Cell<u64> = const { Cell::new(0) });
    NUMBER.with(|number| {
        if number.get() == 0 {
            number.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        number.get()
    })
}

/// Whether this thread is running callbacks, so that what it waits for belongs to the message in hand.
pub(crate) fn in_callback() -> bool {
    exit::is_in_callbacks()
}

/// How long the report of a closure waits for its answer to be on the wire.
pub(crate) const CLOSE_OK_LIMIT: Duration = Duration::from_secs(1);

/// A thread that is inside `process_data_events`, `start_consuming` or the like.
pub(crate) struct Round<'a> {
    connection: &'a Connection,
    /// The channel that the caller consumes on.
    channel: Option<&'a Channel>,
    dispatcher: Dispatcher,
    /// It came here from a callback: then there is only input and output, and what comes is told later.
    nested: bool,
    /// The connection was open when it came.
    was_open: bool,
}

/// What there is to tell.
#[derive(Default)]
struct Work {
    connection_events: usize,
    channel_events: usize,
}

impl<'a> Round<'a> {
    /// `channel` is the one that the caller consumes on.
    pub(crate) fn enter(connection: &'a Connection, channel: Option<&'a Channel>) -> Self {
        let thread = thread_number();
        let dispatcher = Dispatcher {
            thread,
            channel: channel.map(Channel::place),
        };
        let mut shared = connection.link().lock();
        let nested = shared.dispatching.contains(&thread);
        if !nested {
            shared.dispatching.push(thread);
            exit::begin_callbacks();
        }
        let was_open = shared.session.end().is_none();
        Round {
            connection,
            channel,
            dispatcher,
            nested,
            was_open,
        }
    }

    /// Whether the caller is inside a callback of this connection.
    pub(crate) fn is_nested(&self) -> bool {
        self.nested
    }

    /// Waits until something can be told to the program or the time is up, and tells it: what pika's
    /// `process_data_events` does. `ready` names what else ends the wait. Answers whether anything was told.
    pub(crate) fn run(
        &self,
        limit: Option<Duration>,
        ready: impl Fn(&mut Shared) -> bool,
    ) -> Result<bool> {
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        let work = self.wait(deadline, ready);
        if self.nested {
            self.check_end()?;
            return Ok(false);
        }
        if self.is_stopped() {
            return self.stopped();
        }
        let mut told = 0;
        if self.connection.has_timers() || work.connection_events > 0 {
            told += run_connection_events(self.connection, work.connection_events)?;
        }
        // A timer's callback may have waited for the broker, and more may have come.
        told += self.run_channel_events(work.channel_events)?;
        if told == 0 {
            self.check_end()?;
        }
        Ok(told > 0)
    }

    fn wait(&self, deadline: Option<Instant>, ready: impl Fn(&mut Shared) -> bool) -> Work {
        let link = self.connection.link();
        loop {
            let next_timer = if self.nested {
                None
            } else {
                self.connection.next_timer()
            };
            let until = match (deadline, next_timer) {
                (Some(deadline), Some(timer)) => Some(deadline.min(timer)),
                (deadline, timer) => deadline.or(timer),
            };
            let mut work = Work::default();
            let found = link.wait(self.dispatcher.into(), until, |shared| {
                if !self.nested {
                    work.channel_events = shared.session.count_events(&self.dispatcher);
                    work.connection_events = shared.session.count_connection_events();
                    if work.channel_events + work.connection_events > 0
                        || shared.session.has_unreported(&self.dispatcher)
                    {
                        return Some(true);
                    }
                }
                // Whoever consumes on a channel looks at that channel's end, when all that came before it has been told.
                let over = shared.session.end().is_some() && self.dispatcher.channel.is_none();
                if over || ready(shared) || !self.nested && self.is_stopped() {
                    return Some(true);
                }
                // A timer that was set meanwhile changes how long to wait.
                (!self.nested && self.connection.next_timer() != next_timer).then_some(false)
            });
            if found == Some(true) {
                return work;
            }
            let now = Instant::now();
            let is_due = |moment: Option<Instant>| moment.is_some_and(|moment| moment <= now);
            if is_due(deadline) || (!self.nested && is_due(self.connection.next_timer())) {
                return work;
            }
        }
    }

    /// What waits on the channels now, in order; what comes meanwhile is left for the next time, so that this ends and no
    /// channel starves another. The last channel goes on with what has been read: each message is then handled just before it
    /// is told, while it is in the processor's cache, and the next one gets its memory.
    fn run_channel_events(&self, waiting: usize) -> Result<usize> {
        let link = self.connection.link();
        let mut told = 0;
        while told < waiting {
            let Some(mut turn) = Turn::begin(link, &self.dispatcher) else {
                break;
            };
            let mut left = turn.waiting.min(waiting - told);
            if told + left == waiting {
                left += UNHANDLED;
            }
            for _ in 0..left {
                if self.is_stopped() {
                    return Ok(told);
                }
                let unhandled = told >= waiting;
                let Some(incoming) = turn.next(unhandled) else {
                    break;
                };
                told += 1;
                turn.tell(incoming)?;
            }
        }
        Ok(told)
    }

    /// Whether a stop was asked for that ends this.
    fn is_stopped(&self) -> bool {
        match self.channel {
            Some(channel) => channel.is_stopped(),
            None => self.connection.is_stopped(),
        }
    }

    /// Whoever consumes on a channel sees for himself that it was stopped.
    fn stopped(&self) -> Result<bool> {
        match self.channel {
            Some(_) => Ok(false),
            None => Err(Error::Stopped {
                waiting_for: "events",
            }),
        }
    }

    /// A closure that nobody was told of, or the end of the connection.
    fn check_end(&self) -> Result<()> {
        let link = self.connection.link();
        let mut shared = link.lock();
        if !self.nested {
            if let Some(closed) = shared.session.take_unreported(&self.dispatcher) {
                drop(shared);
                link.outgoing.flush(link, CLOSE_OK_LIMIT);
                return Err(closed);
            }
        }
        if self.dispatcher.channel.is_some() {
            // Whoever consumes on a channel learns of the end from the channel.
            return Ok(());
        }
        let end = self
            .connection
            .end_error(&mut shared.session, self.was_open);
        drop(shared);
        match end {
            Some(end) => {
                self.connection.let_go_if_ended();
                Err(end)
            }
            None => Ok(()),
        }
    }
}

/// Also when a callback panics.
impl Drop for Round<'_> {
    fn drop(&mut self) {
        if !self.nested {
            exit::end_callbacks();
            let thread = self.dispatcher.thread;
            let mut shared = self.connection.link().lock();
            shared.dispatching.retain(|other| *other != thread);
        }
    }
}

/// Timers and thread-safe callbacks that are due now, then what the broker had said about the connection.
fn run_connection_events(connection: &Connection, waiting: usize) -> Result<usize> {
    let mut told = 0;
    for due in connection.due_timers() {
        if let Some(callback) = connection.take_timer(due) {
            told += 1;
            callback()?;
        }
    }
    for _ in 0..waiting {
        let event = {
            let link = connection.link();
            let mut shared = link.lock();
            let event = shared.session.next_connection_event();
            link.resume_if_paused(&mut shared);
            event
        };
        let Some(event) = event else {
            break;
        };
        told += 1;
        match event {
            ConnectionEvent::Blocked(reason) => connection.tell_blocked(&reason)?,
            ConnectionEvent::Unblocked => connection.tell_unblocked()?,
        }
    }
    Ok(told)
}

/// Beyond what waits, so many messages at most are told of what has been read and not been handled.
const UNHANDLED: usize = 256;

/// One channel's events are being told; nobody else tells any of that channel meanwhile.
struct Turn<'a> {
    link: &'a Link,
    place: usize,
    /// How many events waited when the turn began.
    waiting: usize,
    /// `None` if the last handle is gone.
    channel: Option<Channel>,
    taken: Option<TakenCallback>,
}

impl<'a> Turn<'a> {
    fn begin(link: &'a Link, dispatcher: &Dispatcher) -> Option<Self> {
        let mut shared = link.lock();
        let (place, waiting) = shared.session.begin_turn(dispatcher)?;
        let owner = shared
            .session
            .channel(place)
            .and_then(|channel| channel.owner.upgrade());
        drop(shared);
        let handle = owner.and_then(|owner| owner.downcast::<ChannelHandle>().ok());
        Some(Turn {
            link,
            place,
            waiting,
            channel: handle.map(Channel::from),
            taken: None,
        })
    }

    /// Takes the next event, and the callback that it needs in the same breath: a consumer that is cancelled by another
    /// thread either has its message still there to give back, or its callback still here to tell it. `unhandled` says
    /// that it may come from what has been read and not been handled.
    fn next(&mut self, unhandled: bool) -> Option<Incoming> {
        let mut shared = self.link.lock();
        let mut incoming = shared.session.next_event(self.place);
        if incoming.is_none() && unhandled && self.link.absorb_more(&mut shared) {
            incoming = shared.session.next_event(self.place);
        }
        self.link.resume_if_paused(&mut shared);
        let mut spent = None;
        if let (Some(channel), Some(Incoming::Message(delivery))) = (&self.channel, &incoming) {
            let consumer_tag = &delivery.label;
            let fits = |taken: &TakenCallback| channel.is_current(taken, consumer_tag);
            if !self.taken.as_ref().is_some_and(fits) {
                spent = channel.give_back(self.taken.take());
                self.taken = channel.take_callback(consumer_tag);
            }
            if let (Some(taken), Some(state)) = (&self.taken, shared.session.channel(self.place)) {
                state.handed_over(delivery.delivery_tag, taken.id);
            }
        }
        drop(shared);
        drop(spent);
        incoming
    }

    fn tell(&mut self, incoming: Incoming) -> Result<()> {
        let Some(channel) = &self.channel else {
            return Ok(());
        };
        match incoming {
            Incoming::Message(delivery) => {
                let (method, properties, body) = delivery.parts();
                match &mut self.taken {
                    Some(taken) => (taken.callback)(channel, method, properties.into(), body),
                    None => {
                        log::warn!(
                            "a message came for {:?}, which is no consumer any more",
                            method.consumer_tag
                        );
                        Ok(())
                    }
                }
            }
            Incoming::Returned(returned) => channel.tell_returned(&returned),
            Incoming::Cancelled(consumer_tag) => channel.tell_cancelled(&consumer_tag),
        }
    }
}

/// Also when a callback panics.
impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let (Some(channel), Some(taken)) = (&self.channel, self.taken.take()) {
            drop(channel.give_back(Some(taken)));
        }
        let mut shared = self.link.lock();
        if shared.session.end_turn(self.place) {
            // Somebody else may have been waiting for his turn.
            shared.wake_all();
        }
        self.link.look_again_if_paused(&mut shared);
        let idle = shared.session.is_idle(self.place);
        drop(shared);
        if let Some(channel) = self
            .channel
            .as_ref()
            .filter(|channel| idle && channel.is_ended())
        {
            channel.forget_callbacks();
        }
        // The handle may be the last one, and close the channel as it goes: after the turn, and without a lock.
        self.channel = None;
    }
}

/// A list of callbacks of one kind. They run one after another, without the list's lock.
pub(crate) type CallbackList<F> = Vec<Arc<Mutex<Box<F>>>>;
