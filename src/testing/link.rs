//! The broker's end of a connection: the stream, what waits to be written to it, and what a test does to the bytes.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::pipe::{End, Ending};
use super::Direction;

/// Above so many bytes that wait to be written a connection's consumers get nothing more.
pub(super) const FULL: usize = 1024 * 1024;

/// How long one write waits before it looks whether the connection has ended.
const WRITE_SLICE: Duration = Duration::from_millis(100);

pub(super) enum Transport {
    Tcp(TcpStream),
    Memory(End),
}

/// A stream, with what a test does to it. A test may do so before there is a stream.
#[derive(Default)]
pub(super) struct Link {
    /// `None` before there is one, and when it has ended: the socket is closed when no thread reads or writes it any more,
    /// even if the link is still held.
    transport: Mutex<Option<Arc<Transport>>>,
    ended: AtomicBool,
    /// Whether any byte is to be treated specially. Else `rules` are not looked at.
    ruled: AtomicBool,
    /// For what comes from the client, and for what goes to it.
    rules: Mutex<[Rule; 2]>,
    changed: Condvar,
}

#[derive(Default)]
struct Rule {
    stalled: bool,
    delay: Duration,
    /// After how many bytes the stream ends, and how.
    end_after: Option<(u64, Ending)>,
}

impl Link {
    /// Gives it its stream.
    pub(super) fn attach(&self, transport: Transport) -> io::Result<()> {
        match &transport {
            Transport::Tcp(stream) => {
                stream.set_nodelay(true)?;
                stream.set_write_timeout(Some(WRITE_SLICE))?;
            }
            Transport::Memory(end) => end.set_timeout(1, Some(WRITE_SLICE)),
        }
        *self.lock_transport() = Some(Arc::new(transport));
        Ok(())
    }

    fn lock_transport(&self) -> MutexGuard<'_, Option<Arc<Transport>>> {
        self.transport
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn transport(&self) -> io::Result<Arc<Transport>> {
        let transport = self.lock_transport().clone();
        transport.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn rules(&self) -> MutexGuard<'_, [Rule; 2]> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Ends the stream in both directions.
    pub(super) fn end(&self, ending: Ending) {
        // Under the lock, so that no thread that waits for a change misses it.
        let rules = self.rules();
        if !self.ended.swap(true, Ordering::AcqRel) {
            let transport = self.lock_transport().take();
            match (transport.as_deref(), ending) {
                (None, _) => {}
                (Some(Transport::Memory(end)), ending) => end.end(ending),
                (Some(Transport::Tcp(stream)), Ending::Cut) => {
                    let _ = stream.shutdown(Shutdown::Both);
                }
                (Some(Transport::Tcp(stream)), Ending::Reset) => {
                    // A close without lingering sends a reset; ending the reads wakes the thread that reads, so that the
                    // socket is closed soon.
                    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
                    let _ = stream.shutdown(Shutdown::Read);
                }
            }
        }
        drop(rules);
        self.changed.notify_all();
    }

    pub(super) fn set_read_timeout(&self, timeout: Option<Duration>) {
        match self.lock_transport().as_deref() {
            None => {}
            Some(Transport::Tcp(stream)) => {
                let _ = stream.set_read_timeout(timeout);
            }
            Some(Transport::Memory(end)) => end.set_timeout(0, timeout),
        }
    }

    pub(super) fn end_after(&self, direction: Direction, bytes: u64, ending: Ending) {
        if bytes == 0 {
            return self.end(ending);
        }
        self.change(|rules| rules[direction as usize].end_after = Some((bytes, ending)));
    }

    pub(super) fn stall(&self, direction: Direction) {
        self.change(|rules| rules[direction as usize].stalled = true);
    }

    pub(super) fn delay(&self, direction: Direction, delay: Duration) {
        self.change(|rules| rules[direction as usize].delay = delay);
    }

    /// Ends stalls and delays.
    pub(super) fn resume(&self) {
        self.change(|rules| {
            for rule in rules {
                rule.stalled = false;
                rule.delay = Duration::ZERO;
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut [Rule; 2])) {
        let mut rules = self.rules();
        change(&mut rules);
        self.ruled.store(true, Ordering::Release);
        drop(rules);
        self.changed.notify_all();
    }

    /// Applies the rules to `count` bytes: waits, and returns how many of them pass. The stream may have ended then.
    fn pass(&self, direction: Direction, count: usize) -> usize {
        if !self.ruled.load(Ordering::Acquire) {
            return count;
        }
        let mut rules = self.rules();
        let begun = Instant::now();
        loop {
            if self.has_ended() {
                return 0;
            }
            let rule = &rules[direction as usize];
            let left = rule.delay.saturating_sub(begun.elapsed());
            rules = if rule.stalled {
                self.changed
                    .wait(rules)
                    .unwrap_or_else(PoisonError::into_inner)
            } else if !left.is_zero() {
                let waited = self.changed.wait_timeout(rules, left);
                waited.unwrap_or_else(PoisonError::into_inner).0
            } else {
                break;
            };
        }
        match &mut rules[direction as usize].end_after {
            Some((left, _)) => {
                let passed = (*left).min(count as u64);
                *left -= passed;
                passed as usize
            }
            None => count,
        }
    }

    /// Ends the stream if it has had the bytes that a rule allows.
    fn check_end(&self, direction: Direction) {
        if !self.ruled.load(Ordering::Acquire) {
            return;
        }
        let due = match self.rules()[direction as usize].end_after {
            Some((0, ending)) => Some(ending),
            _ => None,
        };
        if let Some(ending) = due {
            self.end(ending);
        }
    }

    /// Reads what comes from the client; 0 is the end.
    pub(super) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        // Only now, so that what was read before the end has been handled.
        self.check_end(Direction::ToBroker);
        let count = match &*self.transport()? {
            Transport::Tcp(stream) => (&mut &*stream).read(buffer)?,
            Transport::Memory(end) => end.receive(buffer)?,
        };
        Ok(self.pass(Direction::ToBroker, count))
    }

    pub(super) fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        let passed = self.pass(Direction::ToClient, bytes.len());
        bytes = &bytes[..passed];
        while !bytes.is_empty() {
            if self.has_ended() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let written = match &*self.transport()? {
                Transport::Tcp(stream) => (&mut &*stream).write(bytes),
                Transport::Memory(end) => end.send(bytes),
            };
            match written {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(error),
            }
        }
        self.check_end(Direction::ToClient);
        Ok(())
    }
}

/// Whether a read or write may go on after this error.
pub(super) fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

/// What waits to be written to a client. It is filled under the broker's lock, and emptied by the connection's writer.
#[derive(Default)]
pub(super) struct Outbox {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    /// The writer sleeps.
    idle: bool,
    /// Some consumer got nothing because so much was waiting.
    was_full: bool,
    /// After what waits now, the stream is ended.
    finished: bool,
    /// Nothing more is written.
    abandoned: bool,
    /// After so long without a write a heartbeat is due.
    heartbeat: Option<Duration>,
}

/// What the writer does next.
pub(super) enum Next {
    /// Write these bytes; whether consumers wait for room.
    Write {
        was_full: bool,
    },
    Heartbeat,
    /// Write these bytes, and end the stream.
    Finish,
    Stop,
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends bytes. The writer is woken by [`wake`](Outbox::wake) only.
    pub(super) fn append(&self, fill: impl FnOnce(&mut Vec<u8>)) {
        let mut waiting = self.lock();
        if !waiting.finished && !waiting.abandoned {
            fill(&mut waiting.bytes);
        }
    }

    pub(super) fn wake(&self) {
        let waiting = self.lock();
        if waiting.idle && (!waiting.bytes.is_empty() || waiting.finished || waiting.abandoned) {
            drop(waiting);
            self.changed.notify_one();
        }
    }

    /// Whether so much waits that consumers get nothing more for now.
    pub(super) fn is_full(&self) -> bool {
        let mut waiting = self.lock();
        let full = waiting.bytes.len() > FULL;
        waiting.was_full |= full;
        full
    }

    /// Ends the stream after what waits now.
    pub(super) fn finish(&self) {
        self.lock().finished = true;
    }

    /// Ends the writer at once.
    pub(super) fn abandon(&self) {
        self.lock().abandoned = true;
        self.changed.notify_one();
    }

    pub(super) fn set_heartbeat(&self, interval: Option<Duration>) {
        self.lock().heartbeat = interval;
        self.changed.notify_one();
    }

    /// Waits for something to do; bytes to be written are in `bytes` then.
    pub(super) fn next(&self, bytes: &mut Vec<u8>) -> Next {
        bytes.clear();
        let mut waiting = self.lock();
        let mut idle_since = None;
        loop {
            if waiting.abandoned {
                return Next::Stop;
            }
            if !waiting.bytes.is_empty() || waiting.finished {
                std::mem::swap(&mut waiting.bytes, bytes);
                let was_full = std::mem::take(&mut waiting.was_full);
                return if waiting.finished {
                    Next::Finish
                } else {
                    Next::Write { was_full }
                };
            }
            waiting.idle = true;
            waiting = match waiting.heartbeat {
                None => self
                    .changed
                    .wait(waiting)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(interval) => {
                    let now = Instant::now();
                    let due = *idle_since.get_or_insert(now) + interval;
                    if now >= due {
                        waiting.idle = false;
                        return Next::Heartbeat;
                    }
                    let waited = self.changed.wait_timeout(waiting, due - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
            waiting.idle = false;
        }
    }
}
