//! Every wait for the broker: who reads, who sleeps, who is woken.
//!
//! There are two locks. `shared` protects the session and the read half at rest; `Outgoing` has its own for the bytes
//! that go out and the write half at rest. Whoever needs both takes `shared` first. Neither is held during a system call
//! on the stream or while the program's own code runs.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::Duration;

use super::exit::{self, Gathering, Rest};
use super::reader::{self, Outcome, Reader, SLICE};
use super::stream::{describe, Transport};
use super::sync::thread::{self, Thread};
use super::sync::{lock_unless_forked, Instant, Mutex, MutexGuard};
use super::writer::{self, Outgoing};
use crate::error::{Source, StreamLost, FATE_UNKNOWN};
use crate::escaped::Escaped;
use crate::protocol::channel::Wake;
use crate::protocol::connection::{Dispatcher, Session, HELD_BOUND, RESUME_BELOW};
use crate::protocol::frame;
use crate::protocol::handshake::Negotiated;
use crate::protocol::heartbeat::Heartbeat;
use crate::protocol::method::Method;
use crate::stop::STOP_GRACE;
use crate::Error;

/// The moment after this long, or one so far away that it makes no difference.
pub(crate) fn after(timeout: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(timeout)
        .unwrap_or_else(|| now + Duration::from_secs(1 << 32))
}

/// How long a read may take when nothing limits it.
pub(crate) const LONG: Duration = Duration::from_secs(3600);

/// A thread that sleeps until something changes.
struct Waiter {
    id: u64,
    thread: Thread,
    interest: Interest,
}

/// What a waiting thread wants to hear of: one channel and those whose callbacks it registered, or everything.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Interest {
    pub(crate) channel: Option<usize>,
    pub(crate) thread: u64,
    /// It waits for an answer, which can only come behind what is not delivered yet.
    pub(crate) answer: bool,
}

impl Interest {
    /// A call on one channel.
    pub(crate) fn channel(place: usize) -> Self {
        Interest {
            channel: Some(place),
            thread: 0,
            answer: true,
        }
    }

    /// A call that concerns the whole connection.
    pub(crate) fn connection() -> Self {
        Interest {
            channel: None,
            thread: 0,
            answer: true,
        }
    }
}

impl From<Dispatcher> for Interest {
    fn from(dispatcher: Dispatcher) -> Self {
        Interest {
            channel: dispatcher.channel,
            thread: dispatcher.thread,
            answer: false,
        }
    }
}

/// Whether an error only says that the connection is over.
fn says_nothing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::NotConnected
            | io::ErrorKind::ConnectionAborted
    )
}

/// What the lock `shared` protects.
pub(crate) struct Shared {
    pub(crate) session: Session,
    /// The read half, when nobody is reading.
    pub(crate) reader: Option<Box<Reader>>,
    /// How often callers have read for themselves.
    pub(crate) turns: u64,
    /// A caller found nothing to read and leaves reading to the reader thread.
    pub(crate) hand_over: bool,
    /// The reader thread does not read, because too much waits for the program.
    paused: bool,
    /// When reading paused last, and when it went on.
    pause: Option<(Instant, Option<Instant>)>,
    /// The stream has ended, and what came before is being taken in.
    pub(crate) stream_ended: bool,
    waiters: Vec<Waiter>,
    next_waiter: u64,
    blocked_since: Option<Instant>,
    pub(crate) last_bytes: Instant,
    /// Why a write failed.
    pub(crate) write_error: Option<Arc<io::Error>>,
    /// Threads that run callbacks now.
    pub(crate) dispatching: Vec<u64>,
}

impl Shared {
    fn new(session: Session, last_bytes: Instant, reader: Option<Box<Reader>>) -> Self {
        Shared {
            session,
            last_bytes,
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

    pub(crate) fn is_waited_for(&self) -> bool {
        !self.waiters.is_empty()
    }

    /// Whether so much waits for the program that nothing more should be taken in. Whoever waits for a reply reads on, since
    /// it can only come behind what is not delivered yet. So does everybody who waits for messages while none of the program's
    /// code is at work on any: what this connection holds would stay for ever, and what they wait for would never come. The
    /// end of the stream is read up to as well, because it may say why.
    pub(crate) fn has_enough(&self, interest: Option<Interest>) -> bool {
        let for_reply = |interest: &Interest| interest.answer;
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

    pub(crate) fn resume(&mut self) {
        if std::mem::take(&mut self.paused) {
            if let Some((_, ended @ None)) = &mut self.pause {
                *ended = Some(Instant::now());
            }
        }
    }

    /// A pause that may have to do with the end of the connection, in words.
    fn describe_pause(&self) -> Option<String> {
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

    pub(crate) fn wake_all(&self) {
        for waiter in &self.waiters {
            waiter.thread.unpark();
        }
    }

    /// Whether somebody will soon want to read for himself: he waits, or runs callbacks and looks for more afterwards.
    pub(crate) fn is_wanted(&self) -> bool {
        self.is_waited_for() || !self.dispatching.is_empty()
    }
}

/// One open connection, as the handles and the two threads share it.
pub(crate) struct Link {
    shared: Mutex<Shared>,
    pub(crate) outgoing: Outgoing,
    control: Mutex<Transport>,
    reader_thread: OnceLock<Thread>,
    /// The process that opened the connection.
    process: u32,
    /// What a forked child is given in place of `shared`: a connection that has ended. The threads that work for the
    /// connection are not there, one of them may have held the lock, and the stream is the parent's.
    inherited: OnceLock<Mutex<Shared>>,
    /// Something on this connection was stopped: closing it takes less patience.
    stopped: AtomicBool,
    pub(crate) address: Arc<str>,
    pub(crate) negotiated: Negotiated,
    pub(crate) heartbeat: Heartbeat,
    pub(crate) rpc_timeout: Duration,
    blocked_timeout: Option<Duration>,
}

impl Wake for Link {
    fn wake(&self) {
        self.stopped.store(true, Ordering::Release);
        self.outgoing.wake_all();
        self.poke();
    }
}

/// What an open stream becomes a connection with.
pub(crate) struct Opened {
    pub(crate) stream: Transport,
    /// What came behind the last frame of the handshake.
    pub(crate) leftover: Vec<u8>,
    pub(crate) negotiated: Negotiated,
    pub(crate) address: Arc<str>,
    pub(crate) max_message_size: u64,
    pub(crate) rpc_timeout: Duration,
    pub(crate) blocked_timeout: Option<Duration>,
}

/// Nothing is asked of the broker about what was written longer ago than this: it has had its time.
const HANDLED_AFTER: Duration = Duration::from_secs(1);

impl Gathering for Link {
    fn write(self: Arc<Self>) -> Option<Rest> {
        let target = self.outgoing.hurry()?;
        Some(Box::new(move |deadline| {
            self.outgoing.wait_until_written(target, deadline);
        }))
    }

    fn write_and_confirm(self: Arc<Self>) -> Option<Rest> {
        if self.outgoing.hurry().is_none() && self.last_write().elapsed() > HANDLED_AFTER {
            return None;
        }
        let mut calls = self.ask_all_channels();
        // A channel that is being closed cannot be asked, but its close-ok says as much.
        let mut closing = self.lock().session.closing_channels();
        self.outgoing.hurry();
        Some(Box::new(move |deadline| {
            let confirmed = self.wait(Interest::connection(), Some(deadline), |shared| {
                calls.retain(|(place, call)| match shared.session.channel(*place) {
                    Some(channel) if channel.gate.end().is_none() => {
                        channel.take_answer(*call).is_none()
                    }
                    _ => false,
                });
                if !closing.is_empty() {
                    let still = shared.session.closing_channels();
                    closing.retain(|gate| still.iter().any(|other| Arc::ptr_eq(gate, other)));
                }
                (calls.is_empty() && closing.is_empty()).then_some(())
            });
            if confirmed.is_none() {
                let unsent = self.outgoing.unsent();
                log::warn!(
                    "{}: the process ends, and the broker has not handled everything; {unsent} bytes are not sent",
                    self.address
                );
            }
        }))
    }

    fn last_write(&self) -> Instant {
        self.outgoing.last_write()
    }

    fn process(&self) -> u32 {
        self.process
    }
}

impl Link {
    /// Starts the writer thread, which starts the reader thread.
    pub(crate) fn start(opened: Opened) -> io::Result<Arc<Link>> {
        let Opened {
            stream,
            leftover,
            negotiated,
            address,
            max_message_size,
            rpc_timeout,
            blocked_timeout,
        } = opened;
        let reader = Box::new(Reader::new(stream.try_clone()?, &leftover)?);
        let outgoing = Outgoing::new(stream.try_clone()?)?;
        let heartbeat = Heartbeat::new(negotiated.heartbeat);
        let (frame_max, channel_max) = (negotiated.frame_max, negotiated.channel_max);
        let mut session = Session::new(frame_max, channel_max, Arc::clone(&address));
        session.max_message_size = max_message_size;
        let link = Arc::new(Link {
            shared: Mutex::new(Shared::new(session, reader.last_bytes(), Some(reader))),
            outgoing,
            process: std::process::id(),
            inherited: OnceLock::new(),
            control: Mutex::new(stream),
            reader_thread: OnceLock::new(),
            stopped: AtomicBool::new(false),
            address,
            heartbeat,
            negotiated,
            rpc_timeout,
            blocked_timeout,
        });
        link.spawn("haypile-writer", writer::run)?;
        exit::guard_thread();
        let gathering: Arc<dyn Gathering> = Arc::clone(&link) as _;
        exit::register(Arc::downgrade(&gathering));
        Ok(link)
    }

    fn spawn(self: &Arc<Self>, name: &str, run: fn(&Arc<Link>)) -> io::Result<Thread> {
        let link = Arc::clone(self);
        let handle = thread::Builder::new()
            .name(name.into())
            .spawn(move || run(&link))?;
        Ok(handle.thread().clone())
    }

    /// Starts the reader thread. The writer thread does this when the connection is a little older than `SLICE`: before
    /// that nobody needs it, and a program that sends one message and closes is spared a thread.
    pub(crate) fn start_reader(self: &Arc<Self>) {
        match self.spawn("haypile-reader", reader::run) {
            Ok(thread) => {
                let _ = self.reader_thread.set(thread);
            }
            Err(error) => {
                let mut shared = self.lock();
                self.lost(&mut shared, error);
                self.settle(&mut shared);
            }
        }
    }

    #[inline(never)]
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
        if self.is_inherited() {
            return true;
        }
        let process = std::process::id();
        if process == self.process {
            return false;
        }
        self.inherited.get_or_init(|| {
            let (frame_max, channel_max) = (self.negotiated.frame_max, self.negotiated.channel_max);
            let address = Arc::clone(&self.address);
            let mut session = Session::new(frame_max, channel_max, address);
            session.end_all(Error::forked(self.process, process));
            Mutex::new(Shared::new(session, Instant::now(), None))
        });
        true
    }

    /// Asks something of the broker on each open channel that has no effect, and whose answer means that the channel has
    /// handled all that came before. Returns the calls.
    fn ask_all_channels(&self) -> Vec<(usize, u64)> {
        let mut shared = self.lock();
        let mut calls = Vec::new();
        for (place, number) in shared.session.open_channels() {
            let asked = self.outgoing.append_quietly(|out| {
                let method = Method::ChannelFlow { active: true };
                frame::write_method(&mut out.bytes, number, &method).map_err(Error::unsendable)
            });
            if asked.is_ok() {
                calls.push((place, shared.session.add_call(place, (20, 21))));
            }
        }
        calls
    }

    /// Waits until `check` answers something, or until the deadline has passed (`None`). What has gathered is sent before
    /// this thread reads or sleeps.
    ///
    /// `check` runs under the lock, first at once and then whenever something has changed.
    pub(crate) fn wait<T>(
        &self,
        interest: Interest,
        deadline: Option<Instant>,
        mut check: impl FnMut(&mut Shared) -> Option<T>,
    ) -> Option<T> {
        let mut answer = None;
        self.wait_until(interest, deadline, &mut |shared| {
            answer = check(shared);
            answer.is_some()
        });
        answer
    }

    /// The same, made once for all types of answers.
    fn wait_until(
        &self,
        interest: Interest,
        deadline: Option<Instant>,
        check: &mut dyn FnMut(&mut Shared) -> bool,
    ) {
        let mut shared = self.lock();
        let mut may_read = true;
        loop {
            let done = check(&mut shared);
            if !done && self.absorb_more(&mut shared) {
                continue;
            }
            if done {
                return self.leave(shared);
            }
            if self.notice_fork() {
                // Nobody would ever wake this thread, and what it read would be the parent's.
                return;
            }
            let left = match deadline {
                Some(deadline) => deadline.saturating_duration_since(Instant::now()),
                None => LONG,
            };
            if left.is_zero() {
                if shared.reader.is_some() {
                    // Whoever only looks in does not read; then somebody else must.
                    self.hand_over(&mut shared);
                }
                return self.leave(shared);
            }
            let enough = shared.has_enough(Some(interest));
            if shared.reader.is_some() && may_read && left >= SLICE && !enough {
                let Some(mut reader) = shared.reader.take() else {
                    continue;
                };
                shared.turns += 1;
                drop(shared);
                self.outgoing.flush_now(self);
                let outcome = reader.read(SLICE);
                may_read = matches!(outcome, Outcome::Bytes);
                shared = self.lock();
                self.absorb(&mut shared, &mut reader, outcome);
                shared.reader = Some(reader);
                continue;
            }
            if shared.reader.is_some() {
                self.hand_over(&mut shared);
            }
            let id = shared.next_waiter;
            shared.next_waiter += 1;
            shared.waiters.push(Waiter {
                id,
                thread: thread::current(),
                interest,
            });
            drop(shared);
            self.outgoing.flush_now(self);
            thread::park_timeout(left);
            shared = self.lock();
            shared.waiters.retain(|waiter| waiter.id != id);
            may_read = true;
        }
    }

    /// Somebody else who waits must read now, or wait for the reader thread to notice that nobody does.
    pub(crate) fn leave(&self, shared: MutexGuard<'_, Shared>) {
        self.wake_next_reader(&shared);
    }

    pub(crate) fn wake_next_reader(&self, shared: &Shared) {
        if shared.reader.is_some() {
            if let Some(waiter) = shared.waiters.first() {
                waiter.thread.unpark();
            }
        }
    }

    /// Lets the reader thread read, so that nobody has to.
    pub(crate) fn hand_over(&self, shared: &mut Shared) {
        shared.hand_over = true;
        self.wake_reader();
    }

    fn wake_reader(&self) {
        if let Some(thread) = self.reader_thread.get() {
            thread.unpark();
        }
    }

    /// Wakes whoever waits for anything on the connection, because something changed that no frame brought.
    pub(crate) fn poke(&self) {
        self.lock().wake_all();
    }

    /// Whether a thread that took something off the session must let the reader thread go on.
    pub(crate) fn resume_if_paused(&self, shared: &mut Shared) {
        if shared.paused && shared.session.undelivered <= RESUME_BELOW {
            shared.resume();
            self.hand_over(shared);
        }
    }

    /// Some of the program's code is not at work on messages any more: whether there is enough is to be looked at anew.
    pub(crate) fn look_again_if_paused(&self, shared: &mut Shared) {
        if shared.paused {
            self.hand_over(shared);
        }
    }

    // ---- what reading brings

    /// Takes in a little of what has been read before, if nobody is reading. Answers whether there was any.
    pub(crate) fn absorb_more(&self, shared: &mut Shared) -> bool {
        let Some(mut reader) = shared.reader.take_if(|reader| reader.more) else {
            return false;
        };
        self.absorb(shared, &mut reader, Outcome::Bytes);
        shared.reader = Some(reader);
        true
    }

    /// Takes in what a read brought.
    pub(crate) fn absorb(&self, shared: &mut Shared, reader: &mut Reader, outcome: Outcome) {
        match outcome {
            Outcome::Bytes => {
                shared.last_bytes = reader.last_bytes();
                // What came may be about any message that was published before it came.
                shared
                    .session
                    .expect_returns(self.outgoing.take_mandatory());
                if let Err(error) = reader.handle(&mut shared.session) {
                    self.violated(shared, error);
                }
            }
            Outcome::Nothing => self.check_silence(shared, reader),
            Outcome::End(error) => self.lost(shared, error),
        }
        self.settle(shared);
    }

    /// Sends what the protocol itself must answer and wakes those whom the changes concern.
    fn settle(&self, shared: &mut Shared) {
        let session = &mut shared.session;
        if !session.replies.is_empty() {
            let replies = std::mem::take(&mut session.replies);
            if !self.outgoing.append_answers(&replies) {
                let detail = format_args!("more that must be answered than the peer reads answers");
                session.end_all(Error::unexpected(detail));
                self.outgoing.kill();
                return self.settle(shared);
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
        let changed = std::mem::take(&mut session.changed);
        let everything = std::mem::take(&mut session.connection_changed);
        for place in &changed {
            if let Some(channel) = session.channel(*place) {
                channel.alert();
            }
        }
        if !shared.waiters.is_empty() {
            let mut homes = Vec::new();
            for place in &changed {
                match shared.session.channel(*place) {
                    Some(channel) if channel.home != 0 => homes.push(channel.home),
                    _ => {}
                }
            }
            for Waiter {
                thread, interest, ..
            } in &shared.waiters
            {
                let concerned = match interest.channel {
                    None => everything || !changed.is_empty(),
                    Some(place) => {
                        everything || changed.contains(&place) || homes.contains(&interest.thread)
                    }
                };
                if concerned {
                    thread.unpark();
                }
            }
        }
        shared.session.changed = changed;
        shared.session.changed.clear();
        self.resume_if_paused(shared);
    }

    /// The peer broke a rule: it is told, and the connection ends.
    fn violated(&self, shared: &mut Shared, error: Error) {
        let (reply_code, text) = match error {
            Error::UnexpectedFrame { .. } => (505, "UNEXPECTED_FRAME"),
            _ => (501, "FRAME_ERROR"),
        };
        let close = Method::ConnectionClose {
            reply_code,
            reply_text: text.into(),
            class_id: 0,
            method_id: 0,
        };
        let _ = frame::write_method(&mut shared.session.replies, 0, &close);
        shared.session.end_all(error);
    }

    fn lost(&self, shared: &mut Shared, error: io::Error) {
        // After a failed write this end shuts the stream down, so the write's error is the one that counts, unless it only
        // says that there is no connection any more and the read's says why.
        let cause = match shared.write_error.take() {
            Some(written) if !says_nothing(&written) || says_nothing(&error) => written,
            _ => Arc::new(error),
        };
        let lost = self.stream_lost(shared, Some(cause));
        shared.session.end_all(lost);
        self.outgoing.kill();
    }

    fn stream_lost(&self, shared: &Shared, cause: Option<Arc<io::Error>>) -> Error {
        let text = match &cause {
            Some(error) => Escaped(&describe(error)).to_string(),
            None => "it was shut down".to_owned(),
        };
        let text = match shared.describe_pause() {
            Some(pause) => format!("{text}; {pause}"),
            None => text,
        };
        let source = cause.map(Source::from).unwrap_or_default();
        Error::StreamLost(Box::new(self.lost_stream(shared, text, source)))
    }

    fn lost_stream(&self, shared: &Shared, cause: String, source: Source) -> StreamLost {
        StreamLost {
            address: Arc::clone(&self.address),
            cause,
            silent_for: shared.last_bytes.elapsed(),
            source,
        }
    }

    /// The error of a call that waited for as long as it may. It says so if the broker blocks the connection, which is the
    /// reason then.
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
            blocked: self.lock().session.blocked.clone(),
        }
    }

    fn check_silence(&self, shared: &mut Shared, reader: &Reader) {
        let silent_for = reader.last_bytes().elapsed();
        if self
            .heartbeat
            .silence_limit()
            .is_some_and(|limit| silent_for >= limit)
        {
            let address = Arc::clone(&self.address);
            let error = Error::HeartbeatTimeout {
                address,
                heartbeat: self.heartbeat.interval(),
                silent_for,
            };
            shared.session.end_all(error);
            self.outgoing.kill();
        }
        self.check_blocked(shared);
    }

    /// Ends a connection that the broker has blocked for too long.
    pub(crate) fn check_blocked(&self, shared: &mut Shared) {
        let (Some(since), Some(timeout)) = (shared.blocked_since, self.blocked_timeout) else {
            return;
        };
        if since.elapsed() >= timeout && shared.session.end().is_none() {
            let reason = shared.session.blocked.clone().unwrap_or_else(|| "".into());
            let error = Error::ConnectionBlockedTimeout {
                address: Arc::clone(&self.address),
                timeout,
                reason,
            };
            shared.session.end_all(error);
            self.outgoing.kill();
            self.settle(shared);
        }
    }

    /// How long the reader thread may block until it must look at a limit.
    pub(crate) fn next_limit(&self, shared: &Shared, reader: &Reader) -> Duration {
        let silence = self
            .heartbeat
            .silence_limit()
            .map(|limit| limit.saturating_sub(reader.last_bytes().elapsed()));
        let limit = silence.unwrap_or(LONG).min(self.blocked_limit(shared));
        limit.max(Duration::from_millis(1))
    }

    /// How long the connection may still be blocked.
    pub(crate) fn blocked_limit(&self, shared: &Shared) -> Duration {
        match (shared.blocked_since, self.blocked_timeout) {
            (Some(since), Some(timeout)) => timeout.saturating_sub(since.elapsed()),
            _ => LONG,
        }
    }

    // ---- the end

    /// A write failed. The broker may have said why before it hung up, so what it sent is read to the end first.
    pub(crate) fn write_failed(&self, error: io::Error) {
        let mut shared = self.lock();
        shared.write_error.get_or_insert_with(|| Arc::new(error));
        shared.session.is_draining = true;
        self.hand_over(&mut shared);
        drop(shared);
        self.shutdown_stream();
    }

    /// What ended the connection, or is about to.
    pub(crate) fn end_reason(&self) -> Error {
        let shared = self.lock();
        if let Some(end) = shared.session.end() {
            return end.clone();
        }
        let cause = shared.write_error.clone();
        self.stream_lost(&shared, cause)
    }

    pub(crate) fn shutdown_stream(&self) {
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

    /// Closes the connection: says so, waits for the broker to confirm, and ends it in any case. `Ok` means that the broker
    /// has confirmed.
    pub(crate) fn close(
        &self,
        reply_code: u16,
        reply_text: &str,
        timeout: Duration,
    ) -> Result<(), Error> {
        let mut shared = self.lock();
        if let Some(end) = shared.session.end().cloned() {
            let told = std::mem::replace(&mut shared.session.end_told, true);
            drop(shared);
            if self.is_inherited() {
                return Err(end);
            }
            let error = self.not_confirmed(&end);
            return Err(match end {
                Error::ConnectionClosedByClient { .. } => Error::connection_ended(&end),
                _ if told => Error::connection_ended(&error),
                _ => error,
            });
        }
        if shared.session.is_closing() {
            return Err(Error::connection_closing(
                "it is being closed by another thread",
            ));
        }
        shared.session.close(reply_code, reply_text)?;
        self.settle(&mut shared);
        drop(shared);
        let deadline = after(timeout);
        let interest = Interest::connection();
        let ended = self.wait(interest, Some(deadline), |shared| {
            let end = shared.session.end().cloned();
            shared.session.end_told |= end.is_some();
            end
        });
        match ended {
            Some(end) => self.check_confirmed(&end),
            None => {
                let mut shared = self.lock();
                shared.session.end_by_client();
                self.settle(&mut shared);
                self.outgoing.kill();
                drop(shared);
                self.shutdown_stream();
                let waiting_for = "connection.close-ok; whether the broker received what was published last is unknown";
                Err(self.timed_out(waiting_for, timeout, None))
            }
        }
    }

    /// Whether the end of the connection means that the broker has confirmed a close, and with it all that was sent before.
    pub(crate) fn check_confirmed(&self, end: &Error) -> Result<(), Error> {
        match end {
            Error::ConnectionClosedByClient { .. } => Ok(()),
            _ => Err(self.not_confirmed(end)),
        }
    }

    /// The error of a close that the broker has not confirmed: what ended the connection, and what that means for what was
    /// sent last.
    fn not_confirmed(&self, end: &Error) -> Error {
        let (cause, source) = match end {
            Error::ConnectionClosedByBroker {
                reply_code,
                reply_text,
                method,
                address,
                ..
            } => {
                let closed = Error::ConnectionClosedByBroker {
                    reply_code: *reply_code,
                    reply_text: reply_text.clone(),
                    method: *method,
                    address: Arc::clone(address),
                    while_closing: true,
                };
                return closed;
            }
            Error::StreamLost(lost) => (lost.cause.clone(), lost.source.clone()),
            other => (format!("{other}"), Source::new(other.clone())),
        };
        let unsent = match self.outgoing.unsent() {
            0 => String::new(),
            bytes => format!("{bytes} bytes were not sent, and "),
        };
        let shared = self.lock();
        let mut lost =
            self.lost_stream(&shared, format!("{cause}; {unsent}{FATE_UNKNOWN}"), source);
        if let Error::StreamLost(first) = end {
            lost.silent_for = first.silent_for;
        }
        Error::StreamLost(Box::new(lost))
    }

    /// Logs how much of what was handed over was never written, when nobody can be told any more.
    pub(crate) fn log_unsent(&self) {
        if self.is_inherited() {
            return;
        }
        let unsent = self.outgoing.unsent();
        if unsent > 0 {
            log::warn!(
                "{}: dropped after the connection had ended; {unsent} bytes were not sent, and {FATE_UNKNOWN}",
                self.address
            );
        }
    }

    /// How long closing may wait for the broker.
    pub(crate) fn closing_timeout(&self, usual: Duration) -> Duration {
        let usual = usual.min(self.rpc_timeout);
        if self.stopped.load(Ordering::Acquire) {
            usual.min(STOP_GRACE)
        } else {
            usual
        }
    }

    /// Ends the connection for every handle at once. The writer thread sends what has gathered, and the closure.
    pub(crate) fn abandon(&self, error: &Error) {
        let mut shared = self.lock();
        if shared.session.end().is_some() {
            return;
        }
        let reply_text = "given up by this program";
        let close = Method::ConnectionClose {
            reply_code: 200,
            reply_text: reply_text.into(),
            class_id: 0,
            method_id: 0,
        };
        if !shared.session.is_closing() {
            // The text is short enough, so it can be encoded.
            let _ = frame::write_method(&mut shared.session.replies, 0, &close);
        }
        let end = Error::ConnectionClosedByClient {
            reply_code: 200,
            reply_text: format!("its supervisor dropped it after: {error}"),
        };
        shared.session.end_all(end);
        self.settle(&mut shared);
    }

    /// Ends a channel from this side without waiting; its number is free when the broker has confirmed.
    pub(crate) fn end_channel(
        &self,
        shared: &mut Shared,
        place: usize,
        code: u16,
        text: &str,
        why: Error,
    ) {
        // Its text was measured before, so it can be encoded.
        let _ = shared.session.close_channel(place, code, text, why);
        self.settle(shared);
    }
}
