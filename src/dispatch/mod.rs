//! Running the program's callbacks: which, in what order, on which thread.
//!
//! The handles stand above this module. It keeps their callbacks, and reaches a channel's handle through [`Owner`] only.

mod callbacks;
#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;
mod timers;

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use self::callbacks::Runner;
pub(crate) use self::callbacks::{
    CancelCallback, ChannelCallbacks, ConnectionCallbacks, MessageCallback, ReturnCallback,
};
pub use self::timers::TimerId;
use crate::error::Result;
use crate::io::exit;
use crate::io::link::{Link, Shared};
use crate::io::sync::{thread_local, Instant};
use crate::protocol::connection::{ConnectionEvent, Dispatcher};
use crate::protocol::received::Incoming;
use crate::stop::Stop;
use crate::Error;

/// What a callback may return: nothing, or a [`Result`](crate::Result) whose error ends the call that runs the callbacks.
///
/// Closures that never return (`panic!`, `todo!`, `std::process::exit(0)`) are accepted too. The trait is not meant to be
/// implemented elsewhere.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
/// # fn main() { example(|_connection, channel| {
/// use haypile::Error;
///
/// # channel.queue_declare("numbers")?;
/// // Nothing, a result, or no return at all.
/// channel.basic_consume("numbers", |_channel, _method, _properties, _body| {})?;
/// channel.basic_consume("numbers", |channel, method, _properties, body| {
///     let text = String::from_utf8(body).map_err(Error::other)?;
///     println!("{}", text.parse::<i64>().map_err(Error::other)?);
///     channel.basic_ack(method.delivery_tag)
/// })?;
/// channel.basic_consume("numbers", |_, _, _, _| std::process::exit(0))?;
/// # Ok(()) }) }
/// ```
#[diagnostic::on_unimplemented(
    message = "a callback cannot return `{Self}`",
    note = "it returns nothing or a `haypile::Result<()>`; `.map_err(haypile::Error::other)?` passes on any other error"
)]
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

    /// The type `!` has no name in stable Rust, but it is what this function type returns.
    pub trait Returns {
        type Output;
    }
    impl<T> Returns for fn() -> T {
        type Output = T;
    }
}

type Never = <fn() -> ! as sealed::Returns>::Output;

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

/// What dispatch asks of a channel's handle.
pub(crate) trait Owner {
    /// What the channel's callbacks are given.
    type Channel;

    fn channel(self: &Arc<Self>) -> Self::Channel;

    fn callbacks(&self) -> &ChannelCallbacks<Self::Channel>;
}

/// How long the report of a closure waits for its `close-ok` to be on the wire.
pub(crate) const CLOSE_OK_LIMIT: Duration = Duration::from_secs(1);

/// The channel that a thread consumes on.
#[derive(Clone, Copy)]
pub(crate) struct Consuming<'a> {
    pub(crate) slot: usize,
    pub(crate) stop: &'a OnceLock<Stop>,
}

/// A call of `process_data_events`, `start_consuming` or the like, while it lasts.
pub(crate) struct Round<'a, O: Owner> {
    link: &'a Link,
    callbacks: &'a ConnectionCallbacks<O>,
    consuming: Option<Consuming<'a>>,
    dispatcher: Dispatcher,
    /// The call was made in a callback: then there is only input and output, and what comes is delivered later.
    nested: bool,
    /// The connection was open when the call was made.
    was_open: bool,
}

/// What there is to deliver.
#[derive(Default)]
struct Work {
    connection_events: usize,
    channel_events: usize,
    /// The broker closed a channel, and no call has reported it.
    has_closure: bool,
}

impl Work {
    fn is_empty(&self) -> bool {
        self.connection_events + self.channel_events == 0 && !self.has_closure
    }
}

/// What ends a wait before its time.
#[derive(Clone, Copy, PartialEq)]
enum Found {
    /// Something that the call was waiting for.
    Something,
    /// The next timer is another one now, so there is another time to wait until.
    OtherTimer,
}

impl<'a, O: Owner> Round<'a, O> {
    pub(crate) fn enter(
        link: &'a Link,
        callbacks: &'a ConnectionCallbacks<O>,
        consuming: Option<Consuming<'a>>,
    ) -> Self {
        let thread = thread_number();
        let dispatcher = Dispatcher {
            thread,
            channel: consuming.map(|consuming| consuming.slot),
        };
        let mut shared = link.lock();
        let nested = shared.dispatching.contains(&thread);
        if !nested {
            shared.dispatching.push(thread);
            exit::begin_callbacks();
        }
        let was_open = shared.session.end().is_none();
        drop(shared);
        Round {
            link,
            callbacks,
            consuming,
            dispatcher,
            nested,
            was_open,
        }
    }

    /// Whether the call was made in a callback of this connection.
    pub(crate) fn is_nested(&self) -> bool {
        self.nested
    }

    /// Waits until an event can be delivered to the program or the time is up, and delivers what is there: what pika's
    /// `process_data_events` does. `ready` names what else ends the wait. Returns whether anything was delivered.
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
            return match self.consuming {
                // A call that consumes on a channel sees for itself that the channel was stopped.
                Some(_) => Ok(false),
                None => Err(Error::Stopped {
                    waiting_for: "events",
                }),
            };
        }
        let mut delivered = self.run_timers()?;
        delivered += self.deliver_connection_events(work.connection_events)?;
        // A timer's callback may have waited for the broker, and more may have come.
        delivered += self.deliver_channel_events(work.channel_events)?;
        if delivered == 0 {
            self.check_end()?;
        }
        Ok(delivered > 0)
    }

    /// Waits until there is something to deliver or a timer is due, `ready` holds, the connection ends, a stop is asked for, or
    /// the deadline passes.
    fn wait(&self, deadline: Option<Instant>, ready: impl Fn(&mut Shared) -> bool) -> Work {
        loop {
            let timer = self.next_timer();
            let until = [deadline, timer].into_iter().flatten().min();
            let mut work = Work::default();
            let found = self.link.wait(self.dispatcher.into(), until, |shared| {
                work = self.work(shared);
                // A call that consumes on a channel looks at that channel's end, once all that came before it is delivered.
                let is_over = shared.session.end().is_some() && self.consuming.is_none();
                if !work.is_empty() || is_over || ready(shared) || !self.nested && self.is_stopped()
                {
                    return Some(Found::Something);
                }
                (self.next_timer() != timer).then_some(Found::OtherTimer)
            });
            if found == Some(Found::Something) {
                return work;
            }
            let now = Instant::now();
            let is_due = |moment: Option<Instant>| moment.is_some_and(|moment| moment <= now);
            if is_due(deadline) || is_due(self.next_timer()) {
                return work;
            }
        }
    }

    /// What there is to deliver for this call; a nested one delivers nothing.
    fn work(&self, shared: &Shared) -> Work {
        if self.nested {
            return Work::default();
        }
        Work {
            connection_events: shared.session.count_connection_events(),
            channel_events: shared.session.count_events(&self.dispatcher),
            has_closure: shared.session.has_unreported(&self.dispatcher),
        }
    }

    /// When the next timer is due that this call runs; a nested one runs none.
    fn next_timer(&self) -> Option<Instant> {
        if self.nested {
            return None;
        }
        self.callbacks.timers.next()
    }

    /// Runs the timers that are due now; returns how many.
    fn run_timers(&self) -> Result<usize> {
        let mut run = 0;
        for due in self.callbacks.timers.due() {
            if let Some(callback) = self.callbacks.timers.take(due) {
                run += 1;
                callback()?;
            }
        }
        Ok(run)
    }

    /// Delivers what the broker has said of the connection, as far as it waits now; returns how much that was.
    fn deliver_connection_events(&self, waiting: usize) -> Result<usize> {
        let mut delivered = 0;
        for _ in 0..waiting {
            let event = {
                let mut shared = self.link.lock();
                let event = shared.session.next_connection_event();
                self.link.resume_if_paused(&mut shared);
                event
            };
            let Some(event) = event else {
                break;
            };
            delivered += 1;
            match event {
                ConnectionEvent::Blocked(reason) => self.callbacks.run_blocked(&reason)?,
                ConnectionEvent::Unblocked => self.callbacks.run_unblocked()?,
            }
        }
        Ok(delivered)
    }

    /// Delivers what waits on the channels now, in order; what comes meanwhile is left for the next time, so that this ends
    /// and no channel starves another. The last channel goes on with what has been read: each message is then handled just
    /// before its callback runs, while it is in the processor's cache, and the next one gets its memory.
    fn deliver_channel_events(&self, waiting: usize) -> Result<usize> {
        let mut delivered = 0;
        while delivered < waiting && !self.is_stopped() {
            let Some(mut turn) = Turn::begin(self, waiting - delivered) else {
                break;
            };
            turn.run()?;
            delivered += turn.delivered;
        }
        Ok(delivered)
    }

    /// Whether a stop was asked for that ends this.
    fn is_stopped(&self) -> bool {
        let is_set = |stop: &OnceLock<Stop>| stop.get().is_some_and(Stop::is_stopped);
        self.consuming.is_some_and(|channel| is_set(channel.stop)) || is_set(&self.callbacks.stop)
    }

    /// Reports a closure that no call has reported, or the end of the connection.
    fn check_end(&self) -> Result<()> {
        let mut shared = self.link.lock();
        if !self.nested {
            if let Some(closed) = shared.session.take_unreported(&self.dispatcher) {
                drop(shared);
                self.link.flush(CLOSE_OK_LIMIT);
                return Err(closed);
            }
        }
        if self.consuming.is_some() {
            // A call that consumes on a channel takes the end from the channel.
            return Ok(());
        }
        let end = shared.session.report_end(self.was_open);
        drop(shared);
        match end {
            Some(end) => {
                self.callbacks.drop_if_ended(self.link);
                Err(end)
            }
            None => Ok(()),
        }
    }
}

/// Also when a callback panics.
impl<O: Owner> Drop for Round<'_, O> {
    fn drop(&mut self) {
        if !self.nested {
            exit::end_callbacks();
            let thread = self.dispatcher.thread;
            let mut shared = self.link.lock();
            shared.dispatching.retain(|other| *other != thread);
        }
    }
}

/// How many messages that have been read and not been handled are delivered at most, after those that waited.
const UNHANDLED: usize = 256;

/// One channel's events are being delivered, and no other thread delivers any of that channel meanwhile.
struct Turn<'a, O: Owner> {
    round: &'a Round<'a, O>,
    slot: usize,
    /// How many events waited when the turn began, as far as this turn may deliver them.
    waiting: usize,
    /// How many messages that have been read and not been handled may be delivered then.
    unhandled: usize,
    delivered: usize,
    /// `None` if the last handle is gone.
    owner: Option<Arc<O>>,
}

impl<'a, O: Owner> Turn<'a, O> {
    /// `left` is how many events may be delivered of those that waited on all channels.
    fn begin(round: &'a Round<'a, O>, left: usize) -> Option<Self> {
        let begun = round.link.lock().session.begin_turn(&round.dispatcher);
        let (slot, waiting) = begun?;
        let waiting = waiting.min(left);
        Some(Turn {
            round,
            slot,
            waiting,
            unhandled: if waiting == left { UNHANDLED } else { 0 },
            delivered: 0,
            owner: round.callbacks.owner(slot),
        })
    }

    /// Delivers the events to the channel's callbacks.
    fn run(&mut self) -> Result<()> {
        let Some(owner) = self.owner.clone() else {
            // What waited is dropped with the channel.
            self.delivered = self.waiting;
            return Ok(());
        };
        let channel = owner.channel();
        let callbacks = owner.callbacks();
        let link = self.round.link;
        let mut runner = callbacks.runner();
        while self.delivered < self.waiting + self.unhandled && !self.round.is_stopped() {
            let Some(incoming) = self.next(&mut runner) else {
                break;
            };
            self.delivered += 1;
            match incoming {
                Incoming::Message(message) => runner.run(&channel, message)?,
                Incoming::Returned(returned) => callbacks.run_returned(&channel, &returned)?,
                Incoming::Cancelled(consumer_tag) => {
                    callbacks.run_cancelled(link, self.slot, &channel, &consumer_tag)?;
                }
            }
        }
        Ok(())
    }

    /// Takes the channel's next event, and the callback that it is for if it is a message.
    #[inline]
    fn next(&self, runner: &mut Runner<'_, O::Channel>) -> Option<Incoming> {
        let link = self.round.link;
        let mut shared = link.lock();
        let mut incoming = shared.session.next_event(self.slot);
        if incoming.is_none() && link.receive_more(&mut shared) {
            incoming = shared.session.next_event(self.slot);
        }
        link.resume_if_paused(&mut shared);
        // The callback is taken under the same lock: when another thread cancels the consumer, it either finds the message
        // here to give back, or the message finds its callback.
        let mut replaced = None;
        if let Some(Incoming::Message(message)) = &incoming {
            replaced = runner.choose(message.consumer_tag());
            let state = shared.session.channel(self.slot);
            if let (Some(consumer), Some(state)) = (runner.consumer(), state) {
                state.consumers.handed_over(message.delivery_tag, consumer);
            }
        }
        drop(shared);
        drop(replaced);
        incoming
    }
}

/// Also when a callback panics.
impl<O: Owner> Drop for Turn<'_, O> {
    fn drop(&mut self) {
        let link = self.round.link;
        let mut shared = link.lock();
        if shared.session.end_turn(self.slot) {
            // Another thread may have been waiting for its turn.
            shared.wake_all();
        }
        link.look_again_if_paused(&mut shared);
        let channel = shared.session.channel(self.slot);
        let is_over = channel.is_some_and(|channel| channel.gate.is_over() && channel.is_idle());
        drop(shared);
        if let Some(owner) = self.owner.take() {
            if is_over {
                owner.callbacks().clear();
            }
            // This may be the last handle, and close the channel as it goes: after the turn, and without a lock.
        }
    }
}
