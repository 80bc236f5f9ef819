//! Running the program's callbacks: which, in what order, on which thread.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::channel::{Channel, ChannelHandle, MessageCallback};
use crate::connection::Connection;
use crate::error::Result;
use crate::io::wait::{Link, Shared};
use crate::protocol::channel::{Delivery, Incoming};
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

/// Whether this thread is inside a callback of this connection.
pub(crate) fn is_nested(shared: &Shared) -> bool {
    shared.dispatching.contains(&thread_number())
}

/// Marks this thread as running callbacks, also when one of them panics.
struct Dispatching<'a> {
    link: &'a Link,
    thread: u64,
}

impl<'a> Dispatching<'a> {
    fn new(link: &'a Link, thread: u64) -> Self {
        link.lock().dispatching.push(thread);
        Dispatching { link, thread }
    }
}

impl Drop for Dispatching<'_> {
    fn drop(&mut self) {
        let mut shared = self.link.lock();
        let thread = self.thread;
        shared.dispatching.retain(|other| *other != thread);
        drop(shared);
        // Another thread may have been waiting for the channel that ran.
        self.link.poke();
    }
}

/// What pika's `process_data_events` does: waits until something can be told to the program or the time is up, and tells
/// it. `channel` is the one that the caller consumes on; `ready` names what else ends the wait.
pub(crate) fn process(
    connection: &Connection,
    channel: Option<&Channel>,
    limit: Option<Duration>,
    ready: impl Fn(&mut Shared) -> bool,
) -> Result<()> {
    let link = connection.link();
    let dispatcher = Dispatcher {
        thread: thread_number(),
        channel: channel.map(Channel::place),
    };
    let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
    let (nested, waited) = {
        let shared = link.lock();
        (is_nested(&shared), shared.session.end.is_none())
    };
    if nested {
        return process_nested(connection, channel, limit, deadline, waited, ready);
    }
    loop {
        let next_timer = connection.next_timer();
        let until = match (deadline, next_timer) {
            (Some(deadline), Some(timer)) => Some(deadline.min(timer)),
            (deadline, timer) => deadline.or(timer),
        };
        let woken = link.wait(dispatcher.into(), until, |shared| {
            let session = &mut shared.session;
            let something = session.has_event(&dispatcher)
                || !session.events.is_empty()
                || session.has_unreported(&dispatcher)
                || session.end.is_some()
                || ready(shared);
            // A timer that was set meanwhile changes how long to wait.
            (something || connection.next_timer() != next_timer).then_some(something)
        });
        let now = Instant::now();
        let timer_due = connection.next_timer().is_some_and(|due| due <= now);
        if woken == Some(true) || timer_due || deadline.is_some_and(|deadline| deadline <= now) {
            break;
        }
    }
    let told = {
        let _dispatching = Dispatching::new(link, dispatcher.thread);
        let events = run_connection_events(connection)?;
        events + run_channel_events(link, &dispatcher)?
    };
    if told > 0 {
        return Ok(());
    }
    let mut shared = link.lock();
    if let Some(closed) = shared.session.take_unreported(&dispatcher) {
        drop(shared);
        link.outgoing.flush(link, CLOSE_OK_LIMIT);
        return Err(closed);
    }
    // Whoever consumes on a channel learns of the end from the channel.
    if channel.is_some() {
        return Ok(());
    }
    connection
        .end_error(&mut shared.session, waited)
        .map_or(Ok(()), Err)
}

/// How long the report of a closure waits for its answer to be on the wire.
pub(crate) const CLOSE_OK_LIMIT: Duration = Duration::from_secs(1);

/// Inside a callback there is only input and output; what comes is told later.
fn process_nested(
    connection: &Connection,
    channel: Option<&Channel>,
    limit: Option<Duration>,
    deadline: Option<Instant>,
    waited: bool,
    ready: impl Fn(&mut Shared) -> bool,
) -> Result<()> {
    if limit.is_none() && channel.is_none() {
        return Err(Error::Reentrancy {
            call: "process_data_events without a time limit",
        });
    }
    let link = connection.link();
    let dispatcher = Dispatcher {
        thread: thread_number(),
        channel: channel.map(Channel::place),
    };
    link.wait(dispatcher.into(), deadline, |shared| {
        (shared.session.end.is_some() || ready(shared)).then_some(())
    });
    if channel.is_some() {
        return Ok(());
    }
    connection
        .end_error(&mut link.lock().session, waited)
        .map_or(Ok(()), Err)
}

/// Timers and thread-safe callbacks that are due now, then what the broker said about the connection by now.
fn run_connection_events(connection: &Connection) -> Result<usize> {
    let mut told = 0;
    for due in connection.due_timers() {
        if let Some(callback) = connection.take_timer(due) {
            told += 1;
            callback()?;
        }
    }
    let waiting = connection.link().lock().session.events.len();
    for _ in 0..waiting {
        let Some(event) = connection.link().lock().session.events.pop_front() else {
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

/// What waits on the channels now, in order; what comes meanwhile is left for the next time, so that this ends.
fn run_channel_events(link: &Link, dispatcher: &Dispatcher) -> Result<usize> {
    let mut left = link.lock().session.count_events(dispatcher);
    let mut told = 0;
    while left > 0 {
        let Some(mut turn) = Turn::begin(link, dispatcher) else {
            break;
        };
        while left > 0 {
            let Some(incoming) = turn.next() else { break };
            left -= 1;
            told += 1;
            turn.tell(incoming)?;
        }
    }
    Ok(told)
}

/// One channel's events are being told; nobody else tells any of that channel meanwhile.
struct Turn<'a> {
    link: &'a Link,
    place: usize,
    /// `None` if the last handle is gone.
    channel: Option<Channel>,
    taken: Option<Taken>,
}

/// The callback of the consumer that was told last, taken from its place for as long as the messages are for it.
struct Taken {
    consumer_tag: String,
    version: u64,
    id: u64,
    callback: Box<MessageCallback>,
}

impl<'a> Turn<'a> {
    fn begin(link: &'a Link, dispatcher: &Dispatcher) -> Option<Self> {
        let mut shared = link.lock();
        let place = shared.session.begin_turn(dispatcher)?;
        let owner = shared
            .session
            .channel(place)
            .and_then(|channel| channel.owner.upgrade());
        drop(shared);
        let handle = owner.and_then(|owner| owner.downcast::<ChannelHandle>().ok());
        Some(Turn {
            link,
            place,
            channel: handle.map(Channel::from),
            taken: None,
        })
    }

    fn next(&self) -> Option<Incoming> {
        let mut shared = self.link.lock();
        let incoming = shared.session.next_event(self.place);
        self.link.resume_if_paused(&mut shared);
        incoming
    }

    fn tell(&mut self, incoming: Incoming) -> Result<()> {
        let Some(channel) = &self.channel else {
            return Ok(());
        };
        match incoming {
            Incoming::Message(delivery) => {
                let Delivery {
                    method,
                    properties,
                    body,
                } = *delivery;
                let version = channel.callbacks_version();
                let fits = |taken: &Taken| {
                    taken.version == version && taken.consumer_tag == method.consumer_tag
                };
                if !self.taken.as_ref().is_some_and(fits) {
                    channel.give_back(
                        self.taken
                            .take()
                            .map(|taken| (taken.consumer_tag, taken.id, taken.callback)),
                    );
                    let found = channel.take_callback(&method.consumer_tag);
                    self.taken = found.map(|(id, callback)| Taken {
                        consumer_tag: method.consumer_tag.clone(),
                        version,
                        id,
                        callback,
                    });
                }
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
            channel.give_back(Some((taken.consumer_tag, taken.id, taken.callback)));
        }
        self.link.lock().session.end_turn(self.place);
        // The handle may be the last one, and close the channel as it goes: after the turn, and without a lock.
        self.channel = None;
    }
}

/// A list of callbacks of one kind. They run one after another, without the list's lock.
pub(crate) type CallbackList<F> = Vec<Arc<Mutex<Box<F>>>>;
