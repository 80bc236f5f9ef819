//! Bytes out: what nobody waits for is gathered here; the write half of the stream; the writer thread and its heartbeats.

use std::io::{self, IoSlice, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::exit;
use super::reader::{self, SLICE};
use super::stream::{is_timeout, Transport};
use super::sync::{lock_unless_forked, Condvar, Instant, Mutex, MutexGuard};
use super::wait::{after, Link, LONG};
use crate::error::Error;
use crate::protocol::channel::Gate;
use crate::protocol::frame;
use crate::protocol::publish::{Mandatory, Outbox};

/// A publisher that has gathered this much writes it himself, if nobody is writing.
const WRITE_AT: usize = 48 * 1024;

/// One system call is given no more than this. A call that does not fit into one segment of 64 KiB, as loopback has them,
/// makes a small one after it, and what the peer has not read yet outgrows the processor's cache: half as many bytes get
/// through.
const WRITE_MOST: usize = 60 * 1024;

/// A body is cut so for its system calls, so that several pieces and what goes before them come near `WRITE_MOST`.
const PIECE: usize = 16 * 1024;

/// Above this much, publishers wait for room.
pub(super) const HIGH_WATER: usize = 512 * 1024;

/// Above this much, a peer that makes this end answer is not answered any more.
const ANSWERS_BOUND: usize = 16 << 20;

/// Bodies of this size and more are written from where they lie.
pub(crate) const DIRECT_BODY: usize = 32 * 1024;

/// How long bytes may gather once there is traffic: the writer thread looks for them this often, and nobody has to wake it.
const GATHER: Duration = Duration::from_micros(500);

/// The same while others write all there is, as whoever consumes does with his acks: then each look costs him time.
const GATHER_AT_MOST: Duration = Duration::from_millis(2);

/// After this many looks without traffic the writer thread sleeps, and whoever comes next wakes it.
const IDLE_LOOKS: u32 = 5;

/// The bound of one system call, so that whoever writes can look at his deadline.
pub(super) const WRITE_SLICE: Duration = Duration::from_secs(1);

/// How long the last bytes may take when the connection ends.
const FINISH: Duration = Duration::from_secs(2);

/// The write half of the stream: the right to write.
struct Writer {
    stream: Transport,
    /// What this half has taken to write; what of it is written.
    batch: Vec<u8>,
    done: usize,
    /// All of the batch is written, but the stream may buffer and has not been flushed.
    unflushed: bool,
    /// How many bytes of a body could not be written because the stream was lost.
    lost: usize,
}

enum Outcome {
    Done,
    /// The peer takes nothing at present; the rest stays in the batch.
    Stuck,
    Failed(io::Error),
}

impl Writer {
    fn is_clear(&self) -> bool {
        self.done == self.batch.len() && !self.unflushed
    }

    /// Sends what the stream itself may have buffered.
    fn flush(&mut self) -> Outcome {
        self.unflushed = true;
        loop {
            match self.stream.flush() {
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_timeout(&error) => return Outcome::Stuck,
                Err(error) => return Outcome::Failed(error),
            }
        }
        self.unflushed = false;
        Outcome::Done
    }

    /// How many of the bytes it has taken are not written. What the stream has not flushed counts as one of them.
    fn left(&self) -> usize {
        self.batch.len() - self.done + self.lost + usize::from(self.unflushed)
    }

    fn write(&mut self) -> Outcome {
        let mut began = None;
        while self.done < self.batch.len() {
            let rest = &self.batch[self.done..];
            match self.stream.write(&rest[..rest.len().min(WRITE_MOST)]) {
                Ok(0) => return Outcome::Failed(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_timeout(&error) => return Outcome::Stuck,
                Err(error) => return Outcome::Failed(error),
            }
            // A peer that takes a little at a time must not hold a caller beyond his deadline.
            if self.done < self.batch.len()
                && began.get_or_insert_with(Instant::now).elapsed() >= WRITE_SLICE
            {
                return Outcome::Stuck;
            }
        }
        self.batch.clear();
        self.done = 0;
        self.flush()
    }

    /// Writes the batch and after it the frames of a body, without copying the body.
    fn write_body(&mut self, channel: u16, body: &[u8], chunk: usize) -> Outcome {
        let head = std::mem::take(&mut self.batch);
        let mut left = head.len() - self.done + framed_size(body.len(), chunk);
        let began = Instant::now();
        let mut outcome = Outcome::Done;
        let mut first = Some(&head[self.done..]);
        self.done = 0;
        // Groups bound the list of slices; 64 frames are 8 MiB at the usual frame size.
        for group in body.chunks(chunk * 64) {
            let prefixes: Vec<[u8; 7]> = group
                .chunks(chunk)
                .map(|part| frame::body_prefix(channel, part.len() as u32))
                .collect();
            let before = first.take().unwrap_or_default();
            let mut slices: Vec<IoSlice<'_>> = Vec::new();
            slices.extend(before.chunks(PIECE).map(IoSlice::new));
            for (part, prefix) in group.chunks(chunk).zip(&prefixes) {
                slices.push(IoSlice::new(prefix));
                slices.extend(part.chunks(PIECE).map(IoSlice::new));
                slices.push(IoSlice::new(&[frame::FRAME_END]));
            }
            let mut rest = &mut slices[..];
            while matches!(outcome, Outcome::Done) && !rest.is_empty() {
                match self.stream.write_vectored(first_slices(rest)) {
                    Ok(0) => outcome = Outcome::Failed(io::ErrorKind::WriteZero.into()),
                    Ok(count) => {
                        left -= count;
                        IoSlice::advance_slices(&mut rest, count);
                        if !rest.is_empty() && began.elapsed() >= WRITE_SLICE {
                            outcome = Outcome::Stuck;
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if is_timeout(&error) => outcome = Outcome::Stuck,
                    Err(error) => outcome = Outcome::Failed(error),
                }
            }
            match outcome {
                Outcome::Done => {}
                // A message that has begun must be finished; the rest is kept for whoever writes next.
                Outcome::Stuck => rest
                    .iter()
                    .for_each(|slice| self.batch.extend_from_slice(slice)),
                Outcome::Failed(_) => {
                    self.lost = left;
                    return outcome;
                }
            }
        }
        if self.batch.is_empty() {
            self.batch = head;
            self.batch.clear();
            return self.flush();
        }
        outcome
    }
}

/// How many bytes the frames of a body are.
fn framed_size(body: usize, chunk: usize) -> usize {
    body + body.div_ceil(chunk) * frame::FRAME_OVERHEAD
}

/// As many of the slices as one system call is given, at least one.
fn first_slices<'a, 'b>(slices: &'a [IoSlice<'b>]) -> &'a [IoSlice<'b>] {
    let mut size = 0;
    let fits = |slice: &&IoSlice<'_>| {
        size += slice.len();
        size <= WRITE_MOST
    };
    &slices[..slices.iter().take_while(fits).count().max(1)]
}

struct State {
    outbox: Outbox,
    /// The write half, when nobody is writing.
    half: Option<Box<Writer>>,
    appended: u64,
    written: u64,
    last_write: Instant,
    /// How many times something was gathered that nobody waits for, since the writer thread last looked.
    gathered: u32,
    /// Somebody who waits for the broker came to write this while somebody else was writing.
    urgent: bool,
    /// The writer thread waits to be woken.
    asleep: bool,
    /// Threads that wait for room, for the write half, or for the end of a flush.
    waiting: usize,
    /// When the connection came to its end: write the rest and shut down.
    finishing: Option<Instant>,
    dead: bool,
    /// How many bytes were thrown away when the stream was lost.
    lost: usize,
    /// What had been written when somebody last waited in vain for more to be.
    waited_at: Option<u64>,
}

/// How long somebody waits for room, and what else ends the wait.
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

impl Patience<'_> {
    /// Why a wait ended without room.
    fn end(&self, link: &Link, channel: u16) -> Error {
        if (self.is_stopped)() {
            Error::Stopped { waiting_for: ROOM }
        } else {
            link.timed_out(ROOM, self.limit, Some(channel))
        }
    }
}

/// What is to be sent.
pub(crate) struct Outgoing {
    state: Mutex<State>,
    work: Condvar,
    progress: Condvar,
    /// There are mandatory messages that the session does not know of.
    has_mandatory: AtomicBool,
}

/// What a publisher waits for whose peer takes nothing.
const ROOM: &str = "room in the output buffer; nothing was sent";

impl Outgoing {
    pub(crate) fn new(stream: Transport) -> io::Result<Self> {
        stream.set_write_timeout(WRITE_SLICE)?;
        let half = Some(Box::new(Writer {
            stream,
            batch: Vec::new(),
            done: 0,
            unflushed: false,
            lost: 0,
        }));
        Ok(Outgoing {
            state: Mutex::new(State {
                outbox: Outbox::default(),
                half,
                appended: 0,
                written: 0,
                last_write: Instant::now(),
                gathered: 0,
                urgent: false,
                asleep: false,
                waiting: 0,
                finishing: None,
                dead: false,
                lost: 0,
                waited_at: None,
            }),
            work: Condvar::new(),
            progress: Condvar::new(),
            has_mandatory: AtomicBool::new(false),
        })
    }

    #[inline(never)]
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// What the protocol itself must answer, whatever the room. Answers whether the peer takes it at all: one that asks and
    /// asks and reads nothing must not fill the memory.
    #[must_use]
    pub(crate) fn append_answers(&self, answers: &[u8]) -> bool {
        let mut state = self.lock();
        if state.outbox.bytes.len() > ANSWERS_BOUND {
            return answers.is_empty();
        }
        state.outbox.bytes.extend_from_slice(answers);
        state.appended += answers.len() as u64;
        self.wake_writer(state);
        true
    }

    /// A call that somebody waits for, and whoever waits goes on to flush: the writer thread is not woken.
    pub(crate) fn append_quietly(
        &self,
        write: impl FnOnce(&mut Outbox) -> Result<(), Error>,
    ) -> Result<(), Error> {
        exit::guard_thread();
        let mut state = self.lock();
        let before = state.outbox.bytes.len();
        let result = write(&mut state.outbox);
        self.note_mandatory(&state);
        state.appended += (state.outbox.bytes.len() - before) as u64;
        result
    }

    /// The lock, for what is only gathered. In a forked child nobody would ever write it, and this is where that is noticed.
    /// To ask each time would cost a system call for each message. So it is asked when the writer thread sleeps or the lock
    /// stays taken, which means system calls anyway; for the first few after each look of the writer thread; and for one of
    /// many after that. So a child whose parent published much just before the fork may gather some in vain.
    #[inline]
    fn lock_to_gather(&self, link: &Link) -> Result<MutexGuard<'_, State>, Error> {
        const FIRST: u32 = 8;
        const OF_MANY: u32 = 256;
        let Some(state) = lock_unless_forked(&self.state, || link.notice_fork()) else {
            return Err(link.end_reason());
        };
        let is_due = state.asleep || state.gathered < FIRST || state.gathered % OF_MANY == 0;
        if is_due && link.notice_fork() {
            drop(state);
            return Err(link.end_reason());
        }
        Ok(state)
    }

    fn note_mandatory(&self, state: &State) {
        if !state.outbox.mandatory.is_empty() {
            self.has_mandatory.store(true, Ordering::Release);
        }
    }

    /// The mandatory messages that were published since the last call. Costs no lock while there are none.
    pub(crate) fn take_mandatory(&self) -> Vec<(usize, Arc<Gate>, Mandatory)> {
        if !self.has_mandatory.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut state = self.lock();
        self.has_mandatory.store(false, Ordering::Release);
        std::mem::take(&mut state.outbox.mandatory)
    }

    fn wake_writer(&self, mut state: MutexGuard<'_, State>) {
        if state.asleep && !state.outbox.bytes.is_empty() {
            state.asleep = false;
            drop(state);
            self.work.notify_one();
        }
    }

    /// Gathers what nobody waits for. Waits for room, until `timeout` has passed.
    #[inline]
    pub(crate) fn append<'a>(
        &self,
        link: &Link,
        channel: u16,
        patience: impl Into<Patience<'a>>,
        write: impl FnOnce(&mut Outbox) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.append_at(link, channel, patience.into(), |out, _| write(out))
    }

    /// The same; `write` is also told how many bytes were ever appended, and so whether what it wrote last stands last still.
    #[inline]
    pub(crate) fn append_at(
        &self,
        link: &Link,
        channel: u16,
        patience: Patience<'_>,
        write: impl FnOnce(&mut Outbox, u64) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let guarded = exit::guard_thread();
        let mut state = self.lock_to_gather(link)?;
        if state.outbox.bytes.len() >= HIGH_WATER {
            let deadline = after(patience.limit);
            while state.outbox.bytes.len() >= HIGH_WATER && !state.dead {
                let mut goes_on = !(patience.is_stopped)();
                if goes_on {
                    (state, goes_on) = self.wait_for_progress(state, deadline);
                }
                if !goes_on {
                    drop(state);
                    return Err(patience.end(link, channel));
                }
            }
        }
        if state.dead {
            drop(state);
            return Err(link.end_reason());
        }
        let (before, appended) = (state.outbox.bytes.len(), state.appended);
        write(&mut state.outbox, appended)?;
        self.note_mandatory(&state);
        state.gathered = state.gathered.wrapping_add(1);
        state.appended += (state.outbox.bytes.len() - before) as u64;
        if state.outbox.bytes.len() >= WRITE_AT
            && state.half.as_ref().is_some_and(|half| half.is_clear())
        {
            if link.notice_fork() {
                drop(state);
                return Err(link.end_reason());
            }
            self.write_out(link, state);
        } else {
            self.wake_writer(state);
        }
        if !guarded {
            // Nothing will wait for this when the thread has ended.
            self.flush(link, exit::LIMIT);
        }
        Ok(())
    }

    /// Sends one large message: `write` gives what comes before the body; the body goes from where it lies.
    pub(crate) fn append_body<'a>(
        &self,
        link: &Link,
        patience: impl Into<Patience<'a>>,
        channel: u16,
        body: &[u8],
        chunk: usize,
        write: impl FnOnce(&mut Outbox) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let patience = patience.into();
        let guarded = exit::guard_thread();
        if link.notice_fork() {
            return Err(link.end_reason());
        }
        let mut state = self.lock();
        if !state.half.as_ref().is_some_and(|half| half.is_clear()) {
            let deadline = after(patience.limit);
            while !state.half.as_ref().is_some_and(|half| half.is_clear()) && !state.dead {
                let mut goes_on = !(patience.is_stopped)();
                if goes_on {
                    (state, goes_on) = self.wait_for_progress(state, deadline);
                }
                if !goes_on {
                    drop(state);
                    return Err(patience.end(link, channel));
                }
            }
        }
        if state.dead {
            drop(state);
            return Err(link.end_reason());
        }
        let before = state.outbox.bytes.len();
        write(&mut state.outbox)?;
        self.note_mandatory(&state);
        if state.outbox.bytes.len() == before {
            // The channel is closed: the body must not go out without what announces it.
            return Ok(());
        }
        let Some(mut half) = state.half.take() else {
            return Ok(());
        };
        state.appended +=
            (state.outbox.bytes.len() - before + framed_size(body.len(), chunk)) as u64;
        std::mem::swap(&mut half.batch, &mut state.outbox.bytes);
        state.urgent = false;
        drop(state);
        let outcome = half.write_body(channel, body, chunk);
        self.give_back(link, half, outcome);
        if !guarded {
            self.flush(link, exit::LIMIT);
        }
        Ok(())
    }

    /// Waits until there is room for a body of this size, or nothing can be sent any more, or the time is up.
    pub(crate) fn wait_for_room(&self, limit: Duration, body: usize) {
        let mut state = self.lock();
        let deadline = after(limit);
        loop {
            let has_room = if body >= DIRECT_BODY {
                state.half.as_ref().is_some_and(|half| half.is_clear())
            } else {
                state.outbox.bytes.len() < HIGH_WATER
            };
            if has_room || state.dead {
                return;
            }
            let in_time;
            (state, in_time) = self.wait_for_progress(state, deadline);
            if !in_time {
                return;
            }
        }
    }

    /// Writes what has gathered, if nobody else is writing; if somebody is, the writer thread takes this as soon as he is done.
    pub(crate) fn flush_now(&self, link: &Link) {
        let mut state = self.lock();
        if state.outbox.bytes.is_empty() {
            return;
        }
        if state.half.as_ref().is_some_and(|half| half.is_clear()) {
            self.write_out(link, state);
        } else {
            state.urgent = true;
        }
    }

    /// Waits until everything appended so far is written. Returns whether it was, in time.
    pub(crate) fn flush(&self, link: &Link, timeout: Duration) -> bool {
        self.flush_now(link);
        let target = self.lock().appended;
        self.wait_until_written(target, after(timeout))
    }

    /// Has the writer thread write at once, where something has gathered. Returns up to where that is, unless the peer takes
    /// nothing and somebody has waited for it in vain: not every thread that ends must do so again.
    pub(crate) fn hurry(&self) -> Option<u64> {
        let mut state = self.lock();
        let target = state.appended;
        if state.written >= target || state.dead || state.waited_at == Some(state.written) {
            return None;
        }
        state.urgent = true;
        state.asleep = false;
        drop(state);
        self.work.notify_one();
        Some(target)
    }

    /// Waits until everything up to `target` is written. Returns whether it was, in time.
    pub(crate) fn wait_until_written(&self, target: u64, deadline: Instant) -> bool {
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

    fn write_out(&self, link: &Link, mut state: MutexGuard<'_, State>) {
        if link.notice_fork() {
            // The stream is the parent's.
            return;
        }
        let Some(mut half) = state.half.take() else {
            return;
        };
        if half.is_clear() {
            std::mem::swap(&mut half.batch, &mut state.outbox.bytes);
            state.urgent = false;
        }
        drop(state);
        let outcome = half.write();
        self.give_back(link, half, outcome);
    }

    fn give_back(&self, link: &Link, half: Box<Writer>, outcome: Outcome) {
        let mut state = self.lock();
        state.last_write = Instant::now();
        match outcome {
            Outcome::Failed(error) => {
                state.lost += half.left();
                state.dead = true;
                state.asleep = false;
                drop(state);
                self.work.notify_all();
                self.progress.notify_all();
                link.write_failed(error);
            }
            Outcome::Done | Outcome::Stuck => {
                if !state.dead {
                    let left = half.left() + state.outbox.bytes.len();
                    state.written = state.appended.saturating_sub(left as u64);
                }
                let stuck = !half.is_clear();
                state.half = Some(half);
                if state.waiting > 0 {
                    self.progress.notify_all();
                }
                let left = stuck || state.finishing.is_some() || !state.outbox.bytes.is_empty();
                if state.urgent || state.asleep && left {
                    state.asleep = false;
                    drop(state);
                    self.work.notify_one();
                }
            }
        }
    }

    /// Wakes whoever waits for room, so that he looks whether he was stopped.
    pub(crate) fn wake_all(&self) {
        // With the lock, or somebody might have looked already and not wait yet.
        let state = self.lock();
        drop(state);
        self.progress.notify_all();
    }

    /// The connection is over: the rest is written, for a bounded time, and the stream shut down.
    pub(crate) fn finish(&self) {
        let mut state = self.lock();
        state.finishing.get_or_insert_with(Instant::now);
        state.asleep = false;
        drop(state);
        self.work.notify_all();
        self.progress.notify_all();
    }

    /// How many bytes of what was appended are not written, once the connection has ended.
    pub(crate) fn unsent(&self) -> usize {
        let state = self.lock();
        let at_rest = state.half.as_ref().map_or(0, |half| half.left());
        state.lost + state.outbox.bytes.len() + at_rest
    }

    /// When the last bytes were written.
    pub(crate) fn last_write(&self) -> Instant {
        self.lock().last_write
    }

    /// The stream is lost: nothing more can be written.
    pub(crate) fn kill(&self) {
        let mut state = self.lock();
        state.dead = true;
        state.lost += state.outbox.bytes.len();
        state.outbox.bytes.clear();
        state.asleep = false;
        drop(state);
        self.work.notify_all();
        self.progress.notify_all();
    }
}

/// The writer thread.
pub(crate) fn run(link: &Arc<Link>) {
    let outgoing = &link.outgoing;
    let send_after = link.heartbeat.send_after();
    let mut idle_looks = IDLE_LOOKS;
    let mut pause = GATHER;
    let mut reader_due = Some(after(SLICE));
    let mut state = outgoing.lock();
    while !state.dead {
        if reader_due.is_some_and(|due| Instant::now() >= due) && state.finishing.is_none() {
            reader_due = None;
            drop(state);
            link.start_reader();
            state = outgoing.lock();
            continue;
        }
        let stuck = state.half.as_ref().is_some_and(|half| !half.is_clear());
        let idle = state.outbox.bytes.is_empty() && !stuck;
        let since = state.last_write.elapsed();
        if std::mem::take(&mut state.gathered) > 0 {
            // There is traffic that this thread is responsible for, even if others have written it meanwhile.
            idle_looks = 0;
        }
        if let Some(began) = state.finishing {
            if (idle && state.half.is_some()) || began.elapsed() >= FINISH {
                state.dead = true;
                break;
            }
        }
        if idle && send_after.is_some_and(|after| since >= after) {
            state.outbox.bytes.extend_from_slice(&frame::HEARTBEAT);
            state.appended += frame::HEARTBEAT.len() as u64;
            continue;
        }
        let due = stuck || state.urgent || since >= GATHER || state.finishing.is_some();
        if !idle && due && state.half.is_some() {
            pause = GATHER;
            outgoing.write_out(link, state);
            state = outgoing.lock();
            continue;
        }
        let nap = if idle && idle_looks >= IDLE_LOOKS {
            state.asleep = true;
            send_after.map_or(LONG, |after| after - since)
        } else if idle {
            idle_looks += 1;
            pause = (pause * 2).min(GATHER_AT_MOST);
            pause
        } else if state.half.is_some() {
            GATHER - since
        } else {
            // Somebody else writes; he wakes this thread if something is left.
            state.asleep = true;
            FINISH
        };
        let until_reader =
            reader_due.map_or(LONG, |due| due.saturating_duration_since(Instant::now()));
        state = outgoing
            .work
            .wait_timeout(state, nap.min(until_reader))
            .unwrap_or_else(PoisonError::into_inner)
            .0;
        state.asleep = false;
    }
    drop(state);
    outgoing.progress.notify_all();
    link.shutdown_stream();
    if reader_due.is_some() {
        // There is no reader thread yet. If nobody knows the end, as after a failed write, it has to find it.
        if link.lock().session.end().is_none() {
            link.start_reader();
        } else {
            reader::tell_end(link);
        }
    }
}
