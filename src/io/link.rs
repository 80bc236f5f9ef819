//! What the threads of a connection share: the session with its lock, the two halves of the stream when no thread uses them, and
//! the list of threads that wait.
//!
//! There are two locks. `shared` protects the session and the read half at rest; `Outgoing` has its own for the bytes that
//! go out and the write half at rest. A thread that needs both takes `shared` first. Neither is held during a system call on
//! the stream or while the program's own code runs.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::Duration;

use super::fork::{lock_unless_forked, Process};
use super::reader::Reader;
use super::stream::Stream;
use super::sync::thread::{self, Thread};
use super::sync::{Instant, Mutex, MutexGuard};
use super::writer::Outgoing;
use crate::escaped::Escaped;
use crate::protocol::channel::Wake;
use crate::protocol::connection::{Dispatcher, Session, HELD_BOUND, RESUME_BELOW};
use crate::protocol::handshake::Negotiated;
use crate::protocol::heartbeat::Heartbeat;
use crate::Error;

/// What a waiting thread wants to be woken for: changes of one channel and of those whose callbacks it registered, or all.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Interest {
    channel: Option<usize>,
    thread: u64,
    /// It waits for a reply, which can only come behind what is not delivered yet.
    for_reply: bool,
    /// It may read for itself.
    pub(super) reads: bool,
}

impl Interest {
    /// A call on one channel.
    pub(crate) fn channel(slot: usize) -> Self {
        Interest {
            channel: Some(slot),
            thread: 0,
            for_reply: true,
            reads: true,
        }
    }

    /// A thread that waits until another one has sent something on a channel, or has the reply to it. It leaves reading to
    /// others: no thread could wake it from that.
    pub(crate) fn send_queue(slot: usize) -> Self {
        Interest {
            reads: false,
            ..Interest::channel(slot)
        }
    }

    /// A call that concerns the whole connection.
    pub(crate) fn connection() -> Self {
        Interest {
            channel: None,
            thread: 0,
            for_reply: true,
            reads: true,
        }
    }

    /// The same for a thread that can do without the reply, so that nothing more is read for it while the program has enough.
    pub(crate) fn optional() -> Self {
        Interest {
            for_reply: false,
            ..Interest::connection()
        }
    }
}

impl From<Dispatcher> for Interest {
    fn from(dispatcher: Dispatcher) -> Self {
        Interest {
            channel: dispatcher.channel,
            thread: dispatcher.thread,
            for_reply: false,
            reads: true,
        }
    }
}

/// A thread that sleeps until something changes.
struct Waiter {
    id: u64,
    thread: Thread,
    interest: Interest,
}

/// What the lock `shared` protects.
pub(crate) struct Shared {
    pub(crate) session: Session,
    /// The read half, unless a thread is reading.
    pub(super) reader: Option<Box<Reader>>,
    /// How often callers have read for themselves.
    pub(super) turns: u64,
    /// A caller found nothing to read and leaves reading to the reader thread.
    pub(crate) hand_over: bool,
    /// The reader thread does not read, because too much waits for the program.
    paused: bool,
    /// When reading paused last, and when it went on.
    pub(super) pause: Option<(Instant, Option<Instant>)>,
    /// The stream has ended, and what came before is being handled.
    pub(super) stream_ended: bool,
    waiters: Vec<Waiter>,
    next_waiter: u64,
    pub(super) blocked_since: Option<Instant>,
    pub(super) last_bytes: Instant,
    /// What `last_bytes` was when the end of a thread last waited in vain for the broker to handle what was sent.
    pub(super) asked_in_vain: Option<Instant>,
    /// Why a write failed.
    pub(super) write_error: Option<Arc<io::Error>>,
    /// Threads that run callbacks now.
    pub(crate) dispatching: Vec<u64>,
}

impl Shared {
    fn new(session: Session, last_bytes: Instant, reader: Option<Box<Reader>>) -> Self {
        Shared {
            session,
            last_bytes,
            asked_in_vain: None,
            reader,
            turns: 0,
            hand_over: false,
            paused: false,
            pause: None,
            stream_ended: false,
            waiters: Vec::new(),
            next_waiter: 0,
            blocked_since: None,
            write_error: None,
            dispatching: Vec::new(),
        }
    }

    // ---- waiting threads

    /// Puts this thread on the list of those that are woken. Returns its number there.
    pub(super) fn add_waiter(&mut self, interest: Interest) -> u64 {
        let id = self.next_waiter;
        self.next_waiter += 1;
        self.waiters.push(Waiter {
            id,
            thread: thread::current(),
            interest,
        });
        id
    }

    pub(super) fn remove_waiter(&mut self, id: u64) {
        self.waiters.retain(|waiter| waiter.id != id);
    }

    pub(super) fn is_waited_for(&self) -> bool {
        !self.waiters.is_empty()
    }

    /// Whether a caller will soon want to read for itself: it waits, or runs callbacks and looks for more afterwards.
    pub(super) fn is_reader_wanted(&self) -> bool {
        self.is_waited_for() || !self.dispatching.is_empty()
    }

    pub(crate) fn wake_all(&self) {
        for waiter in &self.waiters {
            waiter.thread.unpark();
        }
    }

    /// Wakes a thread that waits, if the right to read is free: it must read now, or wait for the reader thread to notice
    /// that no thread does.
    pub(super) fn wake_next_reader(&self) {
        if self.reader.is_some() {
            if let Some(waiter) = self.waiters.first() {
                waiter.thread.unpark();
            }
        }
    }

    /// Wakes the threads that the session's changes concern.
    fn wake_concerned(&mut self) {
        let changed = std::mem::take(&mut self.session.changed);
        let everything = std::mem::take(&mut self.session.connection_changed);
        for slot in &changed {
            if let Some(channel) = self.session.channel(*slot) {
                channel.alert();
            }
        }
        if !self.waiters.is_empty() {
            let mut homes = Vec::new();
            for slot in &changed {
                match self.session.channel(*slot) {
                    Some(channel) if channel.threads.registering != 0 => {
                        homes.push(channel.threads.registering)
                    }
                    _ => {}
                }
            }
            for waiter in &self.waiters {
                let interest = &waiter.interest;
                let is_concerned = match interest.channel {
                    None => everything || !changed.is_empty(),
                    Some(slot) => {
                        everything || changed.contains(&slot) || homes.contains(&interest.thread)
                    }
                };
                if is_concerned {
                    waiter.thread.unpark();
                }
            }
        }
        // The list is put back empty, so that it need not be allocated anew.
        self.session.changed = changed;
        self.session.changed.clear();
    }

    // ---- pausing

    /// Whether so much waits for the program that nothing more should be read.
    ///
    /// A thread that waits for a reply reads on, since the reply can only come behind what is not delivered yet. So does a
    /// thread that waits for messages while none of the program's code is at work on any: what this connection holds would
    /// stay for ever, and what the thread waits for would never come. The end of the stream is read up to as well, because
    /// it may say why.
    pub(super) fn has_enough(&self, interest: Option<Interest>) -> bool {
        let for_reply = |interest: &Interest| interest.for_reply;
        self.session.undelivered > HELD_BOUND
            && self.write_error.is_none()
            && !self.stream_ended
            && !interest.as_ref().is_some_and(for_reply)
            && !self
                .waiters
                .iter()
                .any(|waiter| for_reply(&waiter.interest))
            && (self.session.is_at_work() || !self.is_waited_for() && interest.is_none())
    }

    /// Reading pauses, if it does not already.
    pub(crate) fn pause(&mut self) {
        if !self.paused {
            self.paused = true;
            self.pause = Some((Instant::now(), None));
        }
    }

    pub(super) fn resume(&mut self) {
        if std::mem::take(&mut self.paused) {
            if let Some((_, ended @ None)) = &mut self.pause {
                *ended = Some(Instant::now());
            }
        }
    }

    /// A pause that may have to do with the end of the connection, in words.
    pub(super) fn describe_pause(&self) -> Option<String> {
        const LONG_ENOUGH: Duration = Duration::from_secs(5);
        const RECENTLY: Duration = Duration::from_secs(60);
        let (began, ended) = self.pause?;
        let now = Instant::now();
        let length = ended.unwrap_or(now).saturating_duration_since(began);
        let recent = ended.is_none_or(|ended| now.saturating_duration_since(ended) < RECENTLY);
        (recent && length >= LONG_ENOUGH).then(|| {
            format!(
                "reading was paused for {} s before, because more than {} MiB of messages waited for the program \
                 (basic_qos bounds what the broker sends)",
                length.as_secs(),
                HELD_BOUND >> 20
            )
        })
    }
}

/// What an open stream becomes a connection with.
pub(crate) struct Opened {
    pub(crate) stream: Box<dyn Stream>,
    /// What came behind the last frame of the handshake.
    pub(crate) leftover: Vec<u8>,
    pub(crate) negotiated: Negotiated,
    pub(crate) address: Arc<str>,
    pub(crate) max_message_size: u64,
    pub(crate) rpc_timeout: Duration,
    pub(crate) blocked_timeout: Option<Duration>,
}

/// One open connection, as the handles and the two threads share it.
pub(crate) struct Link {
    shared: Mutex<Shared>,
    pub(super) outgoing: Outgoing,
    control: Mutex<Box<dyn Stream>>,
    /// Set when the reader thread has started.
    pub(super) reader_thread: OnceLock<Thread>,
    /// The process that opened the connection.
    pub(super) process: Process,
    /// What a forked child is given in place of `shared`: a connection that has ended. The threads that work for the
    /// connection are not there, one of them may have held the lock, and the stream is the parent's.
    inherited: OnceLock<Mutex<Shared>>,
    /// Something on this connection was stopped: closing it takes less patience.
    stopped: AtomicBool,
    pub(crate) address: Arc<str>,
    pub(crate) negotiated: Negotiated,
    pub(crate) heartbeat: Heartbeat,
    pub(crate) rpc_timeout: Duration,
    pub(super) blocked_timeout: Option<Duration>,
}

impl Wake for Link {
    fn wake(&self) {
        self.stopped.store(true, Ordering::Release);
        self.outgoing.wake_all();
        self.wake_all();
    }
}

impl Link {
    /// A connection without its threads.
    pub(crate) fn new(opened: Opened) -> io::Result<Link> {
        let Opened {
            stream,
            leftover,
            negotiated,
            address,
            max_message_size,
            rpc_timeout,
            blocked_timeout,
        } = opened;
        let process = Process::current();
        let reader = Box::new(Reader::new(stream.try_clone()?, &leftover)?);
        let outgoing = Outgoing::new(stream.try_clone()?, process)?;
        let (frame_max, channel_max) = (negotiated.frame_max, negotiated.channel_max);
        let mut session = Session::new(frame_max, channel_max, Arc::clone(&address));
        session.max_message_size = max_message_size;
        Ok(Link {
            shared: Mutex::new(Shared::new(session, reader.last_bytes(), Some(reader))),
            outgoing,
            control: Mutex::new(stream),
            reader_thread: OnceLock::new(),
            process,
            inherited: OnceLock::new(),
            stopped: AtomicBool::new(false),
            address,
            heartbeat: Heartbeat::new(negotiated.heartbeat),
            negotiated,
            rpc_timeout,
            blocked_timeout,
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Shared> {
        if self.inherited.get().is_none() {
            if let Some(shared) = lock_unless_forked(&self.shared, || self.notice_fork()) {
                return shared;
            }
        }
        let inherited = self.inherited.get().unwrap_or(&self.shared);
        inherited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this process is known to be a child of the one that opened the connection.
    pub(crate) fn is_inherited(&self) -> bool {
        self.inherited.get().is_some()
    }

    /// Whether this process is a child of the one that opened the connection; from then on the connection has ended here.
    /// Costs a system call: not for each message.
    pub(crate) fn notice_fork(&self) -> bool {
        if self.process.is_current() {
            return false;
        }
        self.inherited.get_or_init(|| {
            let (frame_max, channel_max) = (self.negotiated.frame_max, self.negotiated.channel_max);
            let address = Arc::clone(&self.address);
            let mut session = Session::new(frame_max, channel_max, address);
            session.end_all(Error::forked(self.process.id(), Process::current().id()));
            Mutex::new(Shared::new(session, Instant::now(), None))
        });
        true
    }

    /// Whether something on this connection was stopped.
    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    // ---- the reader thread

    /// Lets the reader thread read, so that no caller has to.
    pub(super) fn hand_over(&self, shared: &mut Shared) {
        shared.hand_over = true;
        self.wake_reader();
    }

    fn wake_reader(&self) {
        if let Some(thread) = self.reader_thread.get() {
            thread.unpark();
        }
    }

    /// Lets the reader thread go on after a pause, if enough was taken off the session.
    pub(crate) fn resume_if_paused(&self, shared: &mut Shared) {
        if shared.paused && shared.session.undelivered <= RESUME_BELOW {
            shared.resume();
            self.hand_over(shared);
        }
    }

    /// Some of the program's code is not at work on messages any more, so the reader thread has to look again whether there
    /// is enough.
    pub(crate) fn look_again_if_paused(&self, shared: &mut Shared) {
        if shared.paused {
            self.hand_over(shared);
        }
    }

    // ---- what has changed

    /// Wakes every thread that waits on the connection, because something changed that no frame brought.
    pub(crate) fn wake_all(&self) {
        self.lock().wake_all();
    }

    /// Sends what the protocol itself must reply, and wakes the threads that the session's changes concern.
    pub(super) fn act_on_changes(&self, shared: &mut Shared) {
        let session = &mut shared.session;
        if !session.to_send.is_empty() {
            let replies = std::mem::take(&mut session.to_send);
            if !self.outgoing.append_replies(&replies) {
                let detail = format_args!("more requests than the peer reads replies to");
                self.end_now(session, Error::unexpected(detail));
            }
        }
        match (&session.blocked, shared.blocked_since) {
            (Some(_), None) => {
                shared.blocked_since = Some(Instant::now());
                // It may be asleep for longer than this may last.
                self.wake_reader();
                session.wake_watchers();
            }
            (None, Some(_)) => {
                shared.blocked_since = None;
                session.wake_watchers();
            }
            _ => {}
        }
        if session.end().is_some() {
            self.outgoing.finish();
            self.wake_reader();
        }
        shared.wake_concerned();
        self.resume_if_paused(shared);
    }

    /// Ends the connection; nothing more is sent.
    pub(super) fn end_now(&self, session: &mut Session, error: Error) {
        session.end_all(error);
        self.outgoing.kill();
    }

    pub(super) fn shutdown_stream(&self) {
        let shut = self
            .control
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .shutdown();
        if let Err(error) = shut {
            log::trace!(
                "{}: shutdown: {}",
                self.address,
                Escaped(&error.to_string())
            );
        }
    }

    /// The error of a call that has waited for as long as it may. It says so if the broker blocks the connection, since that is
    /// the reason then.
    #[cold]
    pub(crate) fn timed_out(
        &self,
        waiting_for: &'static str,
        after: Duration,
        channel: Option<u16>,
    ) -> Error {
        Error::Timeout {
            waiting_for,
            after,
            channel,
            channel_closed: false,
            blocked: self.lock().session.blocked.clone(),
        }
    }
}
