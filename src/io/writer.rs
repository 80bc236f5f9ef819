//! Bytes out: what is gathered to be sent, and which thread writes it.
//!
//! Nothing here knows the connection. What happened comes back as a value: a write that failed, a buffer that must be written,
//! a forked child. `send.rs` does what follows.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::fork::{lock_unless_forked, Process};
use super::pacing::{Next, Pacing};
use super::stream::Stream;
use super::sync::{after, Condvar, Instant, Mutex, MutexGuard};
use super::write_half::{framed_size, WriteHalf, Written, WRITE_SLICE};
use crate::error::Error;
use crate::protocol::frame;
use crate::protocol::publish::{Outbox, SentMandatory};

/// Above this much, publishers wait for room.
pub(super) const HIGH_WATER: usize = 512 * 1024;

/// Above this much, a peer that makes this end reply gets no more replies.
const REPLIES_BOUND: usize = 16 << 20;

/// Bodies of this size and more are written from where they lie.
pub(crate) const DIRECT_BODY: usize = 32 * 1024;

/// How long the last bytes may take when the connection ends.
const FINISH: Duration = Duration::from_secs(2);

struct State {
    outbox: Outbox,
    /// The write half, unless a thread is writing.
    half: Option<Box<WriteHalf>>,
    /// How many of all bytes that were ever appended are written.
    written: u64,
    last_write: Instant,
    /// How many times something was gathered since the writer thread last looked.
    gathered: u32,
    /// A thread that waits for the broker came to write while another one was writing.
    urgent: bool,
    /// The writer thread waits to be woken.
    asleep: bool,
    /// How many threads wait for room, for the write half, or for the end of a flush.
    waiting: usize,
    /// When the connection came to its end: write the rest and shut down.
    finishing: Option<Instant>,
    /// Nothing can be sent any more.
    dead: bool,
    /// Why a write failed.
    error: Option<Arc<io::Error>>,
    /// How many bytes were thrown away when the stream was lost.
    lost: usize,
    /// What had been written when a thread last waited in vain for more to be.
    waited_at: Option<u64>,
    /// For each channel number, how much had been appended after what was sent on it last without waiting for a reply. 0 when
    /// the broker is known to have handled that.
    sent: Vec<u64>,
}

impl State {
    #[inline]
    fn note_sent(&mut self, channel: u16) {
        let number = usize::from(channel);
        if number >= self.sent.len() {
            self.sent.resize(number + 1, 0);
        }
        self.sent[number] = self.outbox.appended();
    }

    /// Whether the write half is there and has nothing left of an earlier write.
    fn can_write(&self) -> bool {
        self.half.as_ref().is_some_and(|half| half.is_clear())
    }
}

/// How long a thread waits for room, and what else ends the wait.
#[derive(Clone, Copy)]
pub(crate) struct Patience<'a> {
    pub(crate) limit: Duration,
    /// Called when the wait begins and whenever a stop was asked for (see `wake_all`).
    pub(crate) is_stopped: &'a dyn Fn() -> bool,
}

impl From<Duration> for Patience<'_> {
    fn from(limit: Duration) -> Self {
        Patience {
            limit,
            is_stopped: &|| false,
        }
    }
}

/// Why something was not appended.
pub(super) enum Refused {
    /// The connection has ended.
    Ended,
    /// This process is a child of the one that opened the connection.
    Forked,
    /// There was no room in time.
    NoRoom,
    /// The wait for room was stopped.
    Stopped,
    /// It cannot be encoded.
    Invalid(Error),
}

/// How much has gathered.
pub(super) enum Gathered {
    /// The writer thread writes it in a moment.
    Little,
    /// The caller must write it.
    Much,
}

/// What became of a write. The error is the stream's.
pub(super) type WriteResult = Result<(), Arc<io::Error>>;

/// What the writer thread has to do.
pub(super) enum Work {
    Write,
    /// The time is up until which it was to sleep, or something has changed.
    Look,
    /// Everything is written, or nothing can be any more.
    End,
}

/// What is to be sent.
pub(super) struct Outgoing {
    state: Mutex<State>,
    /// The writer thread waits for this one.
    work: Condvar,
    /// Threads wait for this one that need room, the write half, or the end of a flush.
    progress: Condvar,
    /// There are mandatory messages that the session does not know of.
    has_mandatory: AtomicBool,
    /// The process that opened the connection.
    pub(super) process: Process,
}

impl Outgoing {
    pub(super) fn new(stream: Box<dyn Stream>, process: Process) -> io::Result<Self> {
        stream.set_write_timeout(WRITE_SLICE)?;
        let half = Some(Box::new(WriteHalf::new(stream)));
        Ok(Outgoing {
            state: Mutex::new(State {
                outbox: Outbox::default(),
                half,
                written: 0,
                last_write: Instant::now(),
                gathered: 0,
                urgent: false,
                asleep: false,
                waiting: 0,
                finishing: None,
                dead: false,
                error: None,
                lost: 0,
                waited_at: None,
                sent: Vec::new(),
            }),
            work: Condvar::new(),
            progress: Condvar::new(),
            has_mandatory: AtomicBool::new(false),
            process,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- appending

    /// Gathers what no thread waits for. Waits for room if there is none.
    #[inline]
    pub(super) fn gather<T>(
        &self,
        channel: u16,
        patience: Patience<'_>,
        write: impl FnOnce(&mut Outbox) -> Result<T, Error>,
    ) -> Result<(T, Gathered), Refused> {
        let mut state = self.lock_to_gather()?;
        if state.outbox.bytes.len() >= HIGH_WATER {
            let has_room = |state: &State| state.outbox.bytes.len() < HIGH_WATER;
            state = self.wait_patiently(state, patience, has_room)?;
        }
        if state.dead {
            return Err(Refused::Ended);
        }
        let appended = write(&mut state.outbox).map_err(Refused::Invalid)?;
        self.note_mandatory(&state);
        state.gathered = state.gathered.wrapping_add(1);
        state.note_sent(channel);
        if Pacing::is_much(state.outbox.bytes.len()) && state.can_write() {
            drop(state);
            if !self.process.is_current() {
                return Err(Refused::Forked);
            }
            return Ok((appended, Gathered::Much));
        }
        self.wake_writer(state);
        Ok((appended, Gathered::Little))
    }

    /// The lock, for what is only gathered. In a forked child no thread would ever write it, and this is where that is noticed.
    ///
    /// To ask each time would cost a system call for each message. So it is asked when the lock stays taken, which means
    /// system calls anyway; for the first few after each look of the writer thread, which looks before it sleeps; and for one
    /// of many after that. So a child whose parent published much just before the fork may gather some in vain.
    #[inline]
    fn lock_to_gather(&self) -> Result<MutexGuard<'_, State>, Refused> {
        const FIRST: u32 = 8;
        const OF_MANY: u32 = 256;
        let Some(state) = lock_unless_forked(&self.state, || !self.process.is_current()) else {
            return Err(Refused::Forked);
        };
        let is_due = state.gathered < FIRST || state.gathered % OF_MANY == 0;
        if is_due && !self.process.is_current() {
            return Err(Refused::Forked);
        }
        Ok(state)
    }

    /// A call that its caller waits for, and so goes on to write: the writer thread is not woken.
    pub(super) fn append_call<T>(
        &self,
        write: impl FnOnce(&mut Outbox) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut state = self.lock();
        let result = write(&mut state.outbox);
        self.note_mandatory(&state);
        result
    }

    /// What the protocol itself must reply, whatever the room. Returns whether the peer takes it at all: one that asks and
    /// asks and reads nothing must not fill the memory.
    #[must_use]
    pub(super) fn append_replies(&self, replies: &[u8]) -> bool {
        let mut state = self.lock();
        if state.outbox.bytes.len() > REPLIES_BOUND {
            return replies.is_empty();
        }
        state.outbox.bytes.extend_from_slice(replies);
        self.wake_writer(state);
        true
    }

    /// Writes one large message: `write` appends what comes before the body, and the body is written from where it lies. Waits
    /// for the write half. Nothing is written if `write` appended nothing and returned `None`.
    pub(super) fn write_message<T>(
        &self,
        patience: Patience<'_>,
        channel: u16,
        body: &[u8],
        chunk: usize,
        write: impl FnOnce(&mut Outbox) -> Result<Option<T>, Error>,
    ) -> Result<Option<(T, WriteResult)>, Refused> {
        let mut state = self.wait_patiently(self.lock(), patience, State::can_write)?;
        if state.dead {
            return Err(Refused::Ended);
        }
        let Some(appended) = write(&mut state.outbox).map_err(Refused::Invalid)? else {
            return Ok(None);
        };
        self.note_mandatory(&state);
        let Some(mut half) = state.half.take() else {
            return Ok(Some((appended, Ok(()))));
        };
        half.take(&mut state.outbox);
        state.outbox.count_direct(framed_size(body.len(), chunk));
        state.note_sent(channel);
        state.urgent = false;
        drop(state);
        let written = half.write_body(channel, body, chunk);
        Ok(Some((appended, self.give_back(half, written))))
    }

    fn note_mandatory(&self, state: &State) {
        if !state.outbox.mandatory.is_empty() {
            self.has_mandatory.store(true, Ordering::Release);
        }
    }

    /// The mandatory messages that were published since the last call. Costs no lock while there are none.
    pub(super) fn take_mandatory(&self) -> Vec<SentMandatory> {
        if !self.has_mandatory.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut state = self.lock();
        self.has_mandatory.store(false, Ordering::Release);
        std::mem::take(&mut state.outbox.mandatory)
    }

    // ---- waiting for room

    /// Waits until `is_ready` or nothing can be sent any more.
    fn wait_patiently<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        patience: Patience<'_>,
        is_ready: impl Fn(&State) -> bool,
    ) -> Result<MutexGuard<'a, State>, Refused> {
        let deadline = after(patience.limit);
        while !is_ready(&state) && !state.dead {
            if (patience.is_stopped)() {
                return Err(Refused::Stopped);
            }
            let in_time;
            (state, in_time) = self.wait_for_progress(state, deadline);
            if !in_time {
                return Err(Refused::NoRoom);
            }
        }
        Ok(state)
    }

    fn wait_for_progress<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        deadline: Instant,
    ) -> (MutexGuard<'a, State>, bool) {
        let now = Instant::now();
        if now >= deadline {
            return (state, false);
        }
        state.waiting += 1;
        let (mut state, _) = self
            .progress
            .wait_timeout(state, deadline - now)
            .unwrap_or_else(PoisonError::into_inner);
        state.waiting -= 1;
        (state, true)
    }

    /// Waits until there is room for a body of this size, or nothing can be sent any more, or the time is up.
    pub(super) fn wait_for_room(&self, limit: Duration, body: usize) {
        let has_room = |state: &State| {
            if body >= DIRECT_BODY {
                state.can_write()
            } else {
                state.outbox.bytes.len() < HIGH_WATER
            }
        };
        // It makes no difference how the wait ended: the caller tries again.
        drop(self.wait_patiently(self.lock(), limit.into(), has_room));
    }

    /// Wakes the threads that wait for room, so that they look whether they were stopped.
    pub(super) fn wake_all(&self) {
        // With the lock: a thread might have looked already and not wait yet.
        let state = self.lock();
        drop(state);
        self.progress.notify_all();
    }

    // ---- writing

    /// Writes what has gathered, unless another thread is writing: then the writer thread writes it right afterwards.
    pub(super) fn write_gathered(&self) -> WriteResult {
        let mut state = self.lock();
        if state.outbox.bytes.is_empty() {
            return Ok(());
        }
        if !state.can_write() {
            state.urgent = true;
            return Ok(());
        }
        self.write_out(state)
    }

    /// The same for the writer thread, which also goes on with a write that the peer did not take as a whole.
    pub(super) fn write_rest(&self) -> WriteResult {
        self.write_out(self.lock())
    }

    fn write_out(&self, mut state: MutexGuard<'_, State>) -> WriteResult {
        if !self.process.is_current() {
            // The stream is the parent's.
            return Ok(());
        }
        let Some(mut half) = state.half.take() else {
            return Ok(());
        };
        if half.is_clear() {
            half.take(&mut state.outbox);
            state.urgent = false;
        }
        drop(state);
        let written = half.write();
        self.give_back(half, written)
    }

    fn give_back(&self, half: Box<WriteHalf>, written: Written) -> WriteResult {
        let mut state = self.lock();
        state.last_write = Instant::now();
        if let Written::Failed(error) = written {
            let error = Arc::new(error);
            state.lost += half.left();
            state.dead = true;
            state.error = Some(Arc::clone(&error));
            self.wake_both(state);
            return Err(error);
        }
        if !state.dead {
            state.written = state.outbox.taken().saturating_sub(half.left() as u64);
        }
        let is_stuck = !half.is_clear();
        state.half = Some(half);
        if state.waiting > 0 {
            self.progress.notify_all();
        }
        let left = is_stuck || state.finishing.is_some() || !state.outbox.bytes.is_empty();
        if state.urgent || state.asleep && left {
            state.asleep = false;
            drop(state);
            self.work.notify_one();
        }
        Ok(())
    }

    /// Waits until no write is going on, or the limit has passed.
    pub(super) fn wait_for_write(&self, limit: Duration) {
        // It makes no difference how the wait ended: the caller looks for the write's error.
        drop(self.wait_patiently(self.lock(), limit.into(), |state| state.half.is_some()));
    }

    /// Waits until the connection has ended after a failed write, but not beyond the limit after that.
    pub(super) fn wait_for_end(&self, limit: Duration) {
        let mut state = self.lock();
        let deadline = state.last_write + limit;
        while state.error.is_some() && state.finishing.is_none() {
            let in_time;
            (state, in_time) = self.wait_for_progress(state, deadline);
            if !in_time {
                return;
            }
        }
    }

    /// Why a write failed.
    pub(super) fn error(&self) -> Option<Arc<io::Error>> {
        self.lock().error.clone()
    }

    /// Where the appended bytes end now: what `wait_until_written` is given.
    pub(super) fn appended(&self) -> u64 {
        self.lock().outbox.appended()
    }

    /// Waits until everything up to `target` is written. Returns whether it was, in time.
    pub(super) fn wait_until_written(&self, target: u64, deadline: Instant) -> bool {
        let mut state = self.lock();
        while state.written < target && !state.dead {
            let in_time;
            (state, in_time) = self.wait_for_progress(state, deadline);
            if !in_time {
                state.waited_at = Some(state.written);
                return false;
            }
        }
        state.written >= target
    }

    /// Has the writer thread write at once, where something has gathered. Returns up to where that is, unless the peer takes
    /// nothing and a thread has waited for it in vain: not every thread that ends must do so again.
    pub(super) fn request_write(&self) -> Option<u64> {
        let mut state = self.lock();
        let target = state.outbox.appended();
        if state.written >= target || state.dead || state.waited_at == Some(state.written) {
            return None;
        }
        state.urgent = true;
        state.asleep = false;
        drop(state);
        self.work.notify_one();
        Some(target)
    }

    // ---- what the broker has handled

    /// Whether anything is not written, or not known to be handled by the broker.
    pub(super) fn may_have_unhandled(&self) -> bool {
        let state = self.lock();
        !state.dead
            && (state.written < state.outbox.appended() || state.sent.iter().any(|at| *at > 0))
    }

    /// Appends something on a channel where the broker may not have handled all. Returns how much had been appended before.
    pub(super) fn append_if_unhandled(
        &self,
        channel: u16,
        write: impl FnOnce(&mut Outbox) -> Result<(), Error>,
    ) -> Option<u64> {
        let mut state = self.lock();
        let sent = state.sent.get(usize::from(channel)).copied();
        if state.dead || sent.unwrap_or(0) == 0 {
            return None;
        }
        let position = state.outbox.appended();
        write(&mut state.outbox).ok()?;
        Some(position)
    }

    /// The broker has handled all that had been sent on a channel by then.
    pub(super) fn note_handled(&self, channel: u16, position: u64) {
        let mut state = self.lock();
        match state.sent.get_mut(usize::from(channel)) {
            Some(at) if *at <= position => *at = 0,
            _ => {}
        }
    }

    // ---- the writer thread

    #[inline]
    fn wake_writer(&self, mut state: MutexGuard<'_, State>) {
        if state.asleep && !state.outbox.bytes.is_empty() {
            state.asleep = false;
            drop(state);
            self.work.notify_one();
        }
    }

    /// Wakes the writer thread and those that wait for progress.
    fn wake_both(&self, mut state: MutexGuard<'_, State>) {
        state.asleep = false;
        drop(state);
        self.work.notify_all();
        self.progress.notify_all();
    }

    /// What the writer thread has to do now. If there is nothing, it sleeps first, but not beyond `until`.
    pub(super) fn wait_for_work(
        &self,
        heartbeat_after: Option<Duration>,
        until: Option<Instant>,
    ) -> Work {
        let mut state = self.lock();
        if state.dead {
            return Work::End;
        }
        let is_stuck = state.half.as_ref().is_some_and(|half| !half.is_clear());
        let is_idle = state.outbox.bytes.is_empty() && !is_stuck;
        if let Some(began) = state.finishing {
            if (is_idle && state.half.is_some()) || began.elapsed() >= FINISH {
                state.dead = true;
                return Work::End;
            }
        }
        let since_write = state.last_write.elapsed();
        if is_idle && heartbeat_after.is_some_and(|limit| since_write >= limit) {
            state.outbox.bytes.extend_from_slice(&frame::HEARTBEAT);
            return Work::Look;
        }
        state.gathered = 0;
        let pacing = Pacing {
            is_idle,
            is_urgent: is_stuck || state.urgent || state.finishing.is_some(),
            has_half: state.half.is_some(),
            since_write,
            heartbeat_in: heartbeat_after.map(|limit| limit.saturating_sub(since_write)),
        };
        let limit = match pacing.next() {
            Next::Write => return Work::Write,
            Next::Gather(limit) => limit,
            Next::Sleep(limit) => {
                state.asleep = true;
                limit
            }
        };
        let limit = until.map_or(limit, |until| {
            limit.min(until.saturating_duration_since(Instant::now()))
        });
        let (mut state, _) = self
            .work
            .wait_timeout(state, limit)
            .unwrap_or_else(PoisonError::into_inner);
        state.asleep = false;
        Work::Look
    }

    // ---- the end

    /// The connection is over: the rest is written, for a bounded time, and the stream shut down.
    pub(super) fn finish(&self) {
        let mut state = self.lock();
        state.finishing.get_or_insert_with(Instant::now);
        self.wake_both(state);
    }

    pub(super) fn is_finishing(&self) -> bool {
        self.lock().finishing.is_some()
    }

    /// The stream is lost: nothing more can be written.
    pub(super) fn kill(&self) {
        let mut state = self.lock();
        state.dead = true;
        state.lost += state.outbox.discard();
        self.wake_both(state);
    }

    /// How many bytes of what was appended are not written, once the connection has ended.
    pub(super) fn unsent(&self) -> usize {
        let state = self.lock();
        let at_rest = state.half.as_ref().map_or(0, |half| half.left());
        state.lost + state.outbox.bytes.len() + at_rest
    }

    /// Whether the writer thread sleeps until woken, and how many threads wait for room, for the write half, or for the end
    /// of a flush.
    #[cfg(test)]
    #[cfg(not(shuttle))]
    pub(super) fn sleepers(&self) -> (bool, usize) {
        let state = self.lock();
        (state.asleep, state.waiting)
    }

    /// When the last bytes were written.
    pub(super) fn last_write(&self) -> Instant {
        self.lock().last_write
    }
}
