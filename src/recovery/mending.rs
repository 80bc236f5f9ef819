//! The thread of a reliable publisher: it connects, sends again what was not confirmed, and tries again what was refused.

use std::any::Any;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::connecting::Connecting;
use super::in_flight::NotSent;
use super::reliable::{Core, State};
use super::retry::Retry;
use super::{Supervisor, SupervisorEvent};
use crate::channel::Channel;
use crate::error::{panic_text, Result};
use crate::io::sync::thread::{self, Thread};
use crate::io::sync::Instant;
use crate::protocol::channel::Wake;
use crate::{Connection, Error};

/// How long the thread waits for room to send before it looks whether the publisher is gone.
const ROOM: Duration = Duration::from_millis(100);

/// How long it parks when nothing is due.
const LONG: Duration = Duration::from_secs(3600);

/// How many refused messages are tried again at once, at most.
const BATCH: usize = 256;

/// How long there may be nothing but refusals before the channel is replaced by a fresh one. A channel of RabbitMQ 3.10 that was opened
/// while a quorum queue had no leader refuses its messages for ever, also when the queue has long had one.
const RENEW: Duration = Duration::from_secs(5);

/// Wakes the thread. Takes no lock, since it is called under the connection's.
#[derive(Default)]
pub(super) struct Signal {
    raised: AtomicBool,
    thread: OnceLock<Thread>,
}

impl Wake for Signal {
    fn wake(&self) {
        if !self.raised.swap(true, Ordering::AcqRel) {
            if let Some(thread) = self.thread.get() {
                thread.unpark();
            }
        }
    }
}

impl Signal {
    /// Wakes the thread wherever it is parked.
    pub(super) fn wake_always(&self) {
        self.raised.store(true, Ordering::Release);
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// Waits until it is raised or the time is up, and lowers it.
    fn wait(&self, until: Option<Instant>) {
        while !self.raised.swap(false, Ordering::AcqRel) {
            let left = until.map_or(LONG, |until| {
                until.saturating_duration_since(Instant::now())
            });
            if left.is_zero() {
                return;
            }
            thread::park_timeout(left);
        }
    }
}

/// Where the thread gets its connections from.
pub(super) trait Connections {
    /// Tries once to open a connection and to set it up, after a pause if one is due. `None` if that failed by something that
    /// may pass.
    fn attempt(&mut self) -> Result<Option<Connection>>;

    /// A connection ended by this. Fails with what ends everything. `progress`: whether anything was confirmed on it.
    fn ended(&mut self, connection: &Connection, error: Error, progress: bool) -> Result<()>;

    fn report(&self, _event: &SupervisorEvent) {}

    fn retry(&self) -> &Retry;
}

/// A supervisor's connections, with the program's set-up.
struct Supervised<'a, F> {
    supervisor: &'a Supervisor,
    connecting: Connecting<'a>,
    set_up: F,
    connected: Instant,
    /// The last connection was of no use because an exchange was missing.
    missing: bool,
}

impl<F> Supervised<'_, F> {
    fn lost(&mut self, connection: &Connection, error: Error) -> Result<()> {
        connection.abandon(&error);
        self.connecting.lost(error, self.connected.elapsed())
    }

    fn mend_if_possible(&mut self, connection: &Connection, error: Error) -> Result<()> {
        let connected = self.connected.elapsed();
        let result = Err(error.clone());
        match self.connecting.loss(connection, connected, &result) {
            Some(loss) => self.lost(connection, loss),
            None => Err(self.connecting.give_up(error)),
        }
    }
}

impl<F: FnMut(&Channel) -> Result<()>> Connections for Supervised<'_, F> {
    fn attempt(&mut self) -> Result<Option<Connection>> {
        let Some(connection) = self.connecting.attempt()? else {
            return Ok(None);
        };
        self.connected = Instant::now();
        let channel = connection.channel();
        match channel.and_then(|channel| (self.set_up)(&channel)) {
            Ok(()) => Ok(Some(connection)),
            Err(error) => {
                self.mend_if_possible(&connection, error)?;
                Ok(None)
            }
        }
    }

    fn ended(&mut self, connection: &Connection, error: Error, progress: bool) -> Result<()> {
        // A missing exchange may come back with the set-up, but a message that names a wrong one closes each channel anew.
        let missing = error.reply_code() == Some(404) && error.is_channel_error();
        let was_missing = std::mem::replace(&mut self.missing, missing);
        if !missing {
            self.mend_if_possible(connection, error)
        } else if progress || !was_missing {
            self.lost(connection, error)
        } else {
            Err(self.connecting.give_up(error))
        }
    }

    fn report(&self, event: &SupervisorEvent) {
        self.supervisor.report(event);
    }

    fn retry(&self) -> &Retry {
        &self.supervisor.retry
    }
}

/// Runs the thread. It ends when the publisher is dropped, or by what cannot be mended.
pub(super) fn run(core: &Arc<Core>, connections: impl FnOnce() -> Result<()>) {
    let ended = panic::catch_unwind(AssertUnwindSafe(connections));
    let error = match ended {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error),
        Err(payload) => Some(panicked(&*payload)),
    };
    core.end(error);
}

fn panicked(payload: &(dyn Any + Send)) -> Error {
    let text = panic_text(payload);
    Error::other(format!(
        "the program's own code panicked on the publisher's thread: {text}"
    ))
}

/// One connection after another, until the publisher is dropped.
pub(super) fn mend(core: &Arc<Core>, mut connections: impl Connections) -> Result<()> {
    let _ = core.signal.thread.set(thread::current());
    let mut refusals = Refusals::new(connections.retry().clone());
    while !core.is_closing() {
        let connection = connections.attempt()?;
        core.attempted();
        let Some(connection) = connection else {
            continue;
        };
        let mut progress = false;
        let served = serve(
            core,
            &connection,
            &connections,
            &mut refusals,
            &mut progress,
        );
        match served {
            Ok(()) => {
                let closed = connection.close();
                if let Err(error) = closed {
                    log::debug!("{}: {error}", connection.address());
                }
            }
            Err(error) => connections.ended(&connection, error, progress)?,
        }
    }
    Ok(())
}

/// Serves one connection until it ends, or the publisher is dropped.
fn serve(
    core: &Arc<Core>,
    connection: &Connection,
    connections: &impl Connections,
    refusals: &mut Refusals,
    progress: &mut bool,
) -> Result<()> {
    loop {
        let channel = connection.channel()?;
        channel.start_confirming()?;
        channel.watch(Arc::clone(&core.signal) as Arc<dyn Wake>);
        let served = match send_again(core, &channel) {
            Ok(()) => look_after(core, &channel, connections, refusals),
            Err(error) => Err(error),
        };
        match served {
            Ok(After::Renewal) => channel.close()?,
            Ok(After::Drop) => {
                core.lost(&channel);
                return Ok(());
            }
            Err(error) => {
                *progress |= core.lost(&channel);
                return Err(error);
            }
        }
    }
}

/// Why a channel is looked after no more, if nothing went wrong.
enum After {
    /// The publisher is dropped.
    Drop,
    /// Nothing is on its way on it, and it is to be replaced.
    Renewal,
}

/// Sends what the former channel left open, oldest first; then the publisher's caller may go on.
fn send_again(core: &Core, channel: &Channel) -> Result<()> {
    loop {
        let mut state = core.lock();
        if state.closing {
            return Ok(());
        }
        let Some(entry) = state.flight.next_to_send() else {
            core.up(state, channel);
            return Ok(());
        };
        let size = entry.body.len();
        match entry.send(channel, core.id()) {
            Ok(sequence) => {
                state.republished += 1;
                state.flight.sent_again(sequence, entry);
                continue;
            }
            Err(NotSent::NoRoom) => state.flight.not_sent(entry),
            Err(NotSent::Lost(error)) => {
                state.flight.not_sent(entry);
                return Err(error);
            }
            Err(NotSent::Unsendable(error)) => {
                // The new broker may take smaller frames than the former.
                log::warn!("message {} cannot be sent: {error}", entry.number);
                state.flight.give_up(entry);
                continue;
            }
        }
        drop(state);
        channel.link().wait_for_room(ROOM, size);
    }
}

/// Waits for the end of the channel, and tries again what the broker refuses.
fn look_after(
    core: &Core,
    channel: &Channel,
    connections: &impl Connections,
    refusals: &mut Refusals,
) -> Result<After> {
    let mut blocked = false;
    let mut eager = false;
    loop {
        // Before the outcomes are taken in, so that the last of them are.
        let is_over = channel.is_ended();
        let mut state = core.lock();
        state.note_outcomes(channel);
        if is_over {
            drop(state);
            return Err(channel.ended());
        }
        if state.closing {
            return Ok(After::Drop);
        }
        if refusals.is_renewal_due(&state) {
            state.channel_is_replaced();
            return Ok(After::Renewal);
        }
        if (state.flight.refused() > 0) != eager {
            eager = !eager;
            channel.watch_confirms(eager);
        }
        let next = refusals.try_again(core, &mut state, channel);
        drop(state);
        if std::mem::take(&mut refusals.gave_up) {
            // A wait for confirms may have nothing left to wait for.
            channel.link().wake_all();
        }
        let reason = channel.blocked();
        if reason.is_some() != blocked {
            blocked = reason.is_some();
            connections.report(&match reason {
                Some(reason) => SupervisorEvent::Blocked {
                    reason: reason.as_ref().to_owned(),
                },
                None => SupervisorEvent::Unblocked,
            });
        }
        core.signal.wait(next);
    }
}

/// When to try again what the broker refused: ever more slowly while it refuses it again, ever more at once while it does not.
pub(super) struct Refusals {
    retry: Retry,
    delay: Duration,
    batch: usize,
    /// When the next are tried again.
    due: Option<Instant>,
    /// Since when nothing that had been refused was confirmed.
    since: Option<Instant>,
    /// When the channel was last replaced.
    renewed: Option<Instant>,
    gave_up: bool,
}

impl Refusals {
    fn new(retry: Retry) -> Self {
        Refusals {
            delay: retry.start(),
            retry,
            batch: 1,
            due: None,
            since: None,
            renewed: None,
            gave_up: false,
        }
    }

    /// Whether the broker has refused everything for long, so that a fresh channel may do better.
    fn is_renewal_due(&mut self, state: &State) -> bool {
        let refused = state.flight.refused();
        let Some(since) = self.since else {
            return false;
        };
        let since = self.renewed.map_or(since, |renewed| renewed.max(since));
        let now = Instant::now();
        let is_due = refused > 0
            && refused == state.flight.undecided()
            && now.saturating_duration_since(since) >= RENEW;
        if is_due {
            self.renewed = Some(now);
        }
        is_due
    }

    /// Tries again what is due. Returns when to look again.
    fn try_again(&mut self, core: &Core, state: &mut State, channel: &Channel) -> Option<Instant> {
        let now = Instant::now();
        let (mended, refused_again) = state.take_refusals();
        if mended > 0 {
            (self.delay, self.since) = (self.retry.start(), None);
            self.batch = (self.batch * 2).min(BATCH);
            self.due = Some(now);
        }
        if refused_again > 0 {
            self.delay = self.retry.next(self.delay);
            self.batch = 1;
            self.due = None;
        }
        if state.flight.refused() == 0 {
            self.due = None;
            return None;
        }
        let since = *self.since.get_or_insert(now);
        if self.retry.is_over(now.saturating_duration_since(since)) {
            state.flight.give_up_refused();
            core.given_up.fetch_add(1, Ordering::AcqRel);
            self.gave_up = true;
            (self.since, self.due) = (None, None);
            return None;
        }
        let due = match self.due {
            Some(due) => due,
            None => now + self.retry.with_jitter(self.delay),
        };
        if due > now {
            self.due = Some(due);
            return self.due;
        }
        self.send_batch(core, state, channel);
        // Their outcome wakes the thread; if none comes, others are tried.
        self.due = Some(now + self.retry.with_jitter(self.delay));
        self.due
    }

    fn send_batch(&self, core: &Core, state: &mut State, channel: &Channel) {
        for _ in 0..self.batch {
            let Some(entry) = state.flight.next_refused() else {
                break;
            };
            match entry.send(channel, core.id()) {
                Ok(sequence) => {
                    state.republished += 1;
                    state.flight.sent_again(sequence, entry);
                }
                Err(_) => {
                    state.flight.still_refused(entry);
                    break;
                }
            }
        }
    }
}

/// Starts the thread for a supervisor's publisher.
pub(super) fn start(
    core: &Arc<Core>,
    supervisor: Supervisor,
    set_up: impl FnMut(&Channel) -> Result<()> + Send + 'static,
) -> Result<()> {
    let core = Arc::clone(core);
    let spawned = thread::Builder::new()
        .name("haypile-publisher".into())
        .spawn(move || {
            run(&core, || {
                let is_unwanted = || core.is_closing();
                mend(
                    &core,
                    Supervised {
                        supervisor: &supervisor,
                        connecting: Connecting::new(&supervisor, &is_unwanted)?,
                        set_up,
                        connected: Instant::now(),
                        missing: false,
                    },
                )
            });
        });
    spawned.map(drop).map_err(Error::other)
}
