//! Bytes in: the read half of the stream, and the thread that holds it when nobody else wants it.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use super::backlog::{Backlog, PERIOD};
use super::stream::{closed, is_timeout, Haste, Transport};
use super::sync::{thread, Instant, MutexGuard};
use super::wait::{Link, Shared, LONG};
use crate::protocol::connection::Session;
use crate::Error;

/// How much is read at once. A frame may be larger (up to frame_max): the buffer grows when one is.
const BUFFER: usize = 128 * 1024;

/// How long whoever waits reads for himself before leaving it to the reader thread; how long the reader thread leaves an
/// unused read half alone.
pub(crate) const SLICE: Duration = Duration::from_millis(10);

/// While reading pauses, the stream counts as dry when nothing came for so long.
const DRY: Duration = Duration::from_millis(200);

/// What one read brought.
pub(crate) enum Outcome {
    Bytes,
    /// The time was up.
    Nothing,
    /// The stream ended.
    End(io::Error),
}

/// The read half of the stream: the right to read.
pub(crate) struct Reader {
    source: Source,
    buffer: Vec<u8>,
    /// What of the buffer has been read and not handled.
    start: usize,
    filled: usize,
    /// What has been read holds more that can be handled without reading.
    pub(crate) more: bool,
    /// What was read while the program had enough; it comes behind what is in the buffer.
    backlog: Backlog,
    /// How the stream ended behind the backlog.
    end: Option<io::Error>,
}

/// The stream, and when it was read.
struct Source {
    stream: Transport,
    timeout: Duration,
    haste: Haste,
    last_bytes: Instant,
    /// The beginning of the present period, and how many bytes have come in it. See `backlog`.
    period_began: Instant,
    period_bytes: usize,
    /// When it was last read during a pause.
    looked_at: Instant,
}

impl Source {
    /// Reads once, for at most about `timeout`; how many bytes came is in the second half of what it returns.
    fn read(&mut self, buffer: &mut [u8], timeout: Duration) -> (Outcome, usize) {
        if timeout != self.timeout {
            if let Err(error) = self.stream.set_read_timeout(timeout) {
                return (Outcome::End(error), 0);
            }
            self.timeout = timeout;
        }
        let outcome = match self.stream.read(buffer) {
            Ok(0) => Outcome::End(closed()),
            Ok(count) => {
                self.last_bytes = Instant::now();
                self.period_bytes = self.period_bytes.saturating_add(count);
                self.haste.clear();
                return (Outcome::Bytes, count);
            }
            Err(error) if is_timeout(&error) => match self.haste.note(timeout) {
                Ok(()) => Outcome::Nothing,
                Err(error) => Outcome::End(error),
            },
            // A signal: whoever reads looks at his deadline, which must not begin anew with each signal.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Outcome::Nothing,
            Err(error) => Outcome::End(error),
        };
        (outcome, 0)
    }
}

impl Reader {
    /// `leftover` is what was read beyond the handshake.
    pub(crate) fn new(stream: Transport, leftover: &[u8]) -> io::Result<Self> {
        stream.set_read_timeout(SLICE)?;
        let mut buffer = vec![0; BUFFER.max(leftover.len())];
        buffer[..leftover.len()].copy_from_slice(leftover);
        let now = Instant::now();
        Ok(Reader {
            source: Source {
                stream,
                timeout: SLICE,
                haste: Haste::default(),
                last_bytes: now,
                period_began: now,
                period_bytes: 0,
                looked_at: now,
            },
            buffer,
            start: 0,
            filled: leftover.len(),
            more: !leftover.is_empty(),
            backlog: Backlog::new(),
            end: None,
        })
    }

    pub(crate) fn last_bytes(&self) -> Instant {
        self.source.last_bytes
    }

    /// Reads once, for at most about `timeout`.
    pub(crate) fn read(&mut self, timeout: Duration) -> Outcome {
        self.make_room();
        let room = &mut self.buffer[self.filled..];
        if !self.backlog.is_empty() {
            self.filled += self.backlog.take(room);
            return Outcome::Bytes;
        }
        if let Some(error) = self.end.take() {
            return Outcome::End(error);
        }
        let (outcome, count) = self.source.read(room, timeout);
        self.filled += count;
        outcome
    }

    fn make_room(&mut self) {
        if self.start == self.filled {
            (self.start, self.filled) = (0, 0);
            if self.buffer.len() > BUFFER {
                // It has grown for a frame larger than most.
                self.buffer.truncate(BUFFER);
                self.buffer.shrink_to_fit();
            }
        } else if self.filled == self.buffer.len() {
            if self.start == 0 {
                self.buffer.resize(self.buffer.len() * 2, 0);
            } else {
                self.buffer.copy_within(self.start..self.filled, 0);
                self.filled -= self.start;
                self.start = 0;
            }
        }
    }

    /// What has been read shows that the peer lives. Its patience begins now, unless what is handled comes
    /// from the backlog: then the stream has not been read for longer.
    fn begin_pause(&mut self) {
        let source = &mut self.source;
        source.looked_at = Instant::now();
        if self.backlog.is_empty() {
            (source.period_began, source.period_bytes) = (source.looked_at, 0);
        }
    }

    /// The backlog goes on where the session has come to, and behind what is not handled.
    fn begin_backlog(&mut self, session: &mut Session) {
        let unhandled = &self.buffer[self.start..self.filled];
        let largest = session.take_largest_body();
        self.backlog
            .begin(session.rest_of_frame(), largest, unhandled);
    }

    /// Reads once into the backlog: the program has enough, but the peer would lose patience.
    fn read_ahead(&mut self, timeout: Duration) -> Outcome {
        let (outcome, count) = self.source.read(self.backlog.room(), timeout);
        self.backlog.add(count);
        outcome
    }

    /// Lets the session take in what has been read.
    pub(crate) fn handle(&mut self, session: &mut Session) -> Result<(), Error> {
        let fed = session.feed(&self.buffer[self.start..self.filled])?;
        self.start += fed.used;
        self.more = fed.more;
        Ok(())
    }
}

/// The reader thread: reads whenever nobody else does, and is the connection's clock.
pub(crate) fn run(link: &Arc<Link>) {
    watch(link);
    tell_end(link);
}

/// Logs why the connection ended: here, where no lock is held, since a logger is the program's own code.
pub(crate) fn tell_end(link: &Link) {
    match link.end_reason() {
        Error::ConnectionClosedByClient { .. } => log::debug!("{}: closed", link.address),
        end => log::warn!("{end}"),
    }
}

fn watch(link: &Arc<Link>) {
    let mut seen_turns = 0;
    loop {
        thread::park_timeout(SLICE);
        let mut shared = link.lock();
        link.check_blocked(&mut shared);
        if shared.session.end().is_some() {
            return;
        }
        let unused = shared.turns == seen_turns || shared.hand_over;
        seen_turns = shared.turns;
        let mut was_paused = false;
        let mut next_look = SLICE;
        while shared.has_enough(None) {
            if !was_paused {
                was_paused = true;
                shared.pause();
                if let Some(reader) = &mut shared.reader {
                    reader.begin_pause();
                }
            }
            let limit = link.blocked_limit(&shared).min(next_look);
            drop(shared);
            thread::park_timeout(limit);
            shared = link.lock();
            link.check_blocked(&mut shared);
            if shared.session.end().is_some() {
                return;
            }
            (shared, next_look) = keep_alive(link, shared);
        }
        shared.resume();
        if !unused && !was_paused {
            continue;
        }
        (shared, _) = keep_alive(link, shared);
        let Some(mut reader) = shared.reader.take() else {
            continue;
        };
        shared.hand_over = false;
        if was_paused {
            // Nobody listened meanwhile, so silence says nothing about the peer.
            reader.source.last_bytes = Instant::now();
        }
        loop {
            let outcome = if reader.more {
                Outcome::Bytes
            } else {
                let timeout = link.next_limit(&shared, &reader);
                drop(shared);
                let outcome = reader.read(timeout);
                shared = link.lock();
                outcome
            };
            link.absorb(&mut shared, &mut reader, outcome);
            let enough = shared.has_enough(None);
            if shared.session.end().is_some() || shared.is_wanted() || enough {
                break;
            }
        }
        seen_turns = shared.turns;
        shared.reader = Some(reader);
        link.leave(shared);
    }
}

/// When the stream is not read because what was read before it is not handled: reads as much as the peer insists on, when
/// it is time to, and notices a peer that is dead. Returns when it is time again.
fn keep_alive<'a>(
    link: &'a Link,
    mut shared: MutexGuard<'a, Shared>,
) -> (MutexGuard<'a, Shared>, Duration) {
    // A look that finds nothing says that the peer is silent. It must come often enough for that, too.
    let look_every = PERIOD.min(link.heartbeat.silence_limit().unwrap_or(LONG) / 3);
    let has_enough = shared.has_enough(None);
    // If there is no reader here, a caller is reading.
    let next_look = shared.reader.as_ref().map_or(look_every, |reader| {
        if !has_enough && !reader.more && reader.backlog.is_empty() {
            return look_every;
        }
        let source = &reader.source;
        let of_period = PERIOD.saturating_sub(source.period_began.elapsed());
        of_period.min(look_every.saturating_sub(source.looked_at.elapsed()))
    });
    if !next_look.is_zero() {
        return (shared, next_look);
    }
    let Some(mut reader) = shared.reader.take() else {
        return (shared, look_every);
    };
    let mut is_dry = false;
    let period_is_over = reader.source.period_began.elapsed() >= PERIOD;
    loop {
        if reader.backlog.is_empty() {
            reader.begin_backlog(&mut shared.session);
        }
        drop(shared);
        let outcome = reader.read_ahead(DRY);
        shared = link.lock();
        let quota = reader.backlog.quota(shared.session.max_message_size);
        let enough = !period_is_over || reader.source.period_bytes >= quota;
        match outcome {
            Outcome::Bytes => shared.last_bytes = reader.last_bytes(),
            Outcome::Nothing => {
                link.absorb(&mut shared, &mut reader, Outcome::Nothing);
                is_dry = true;
            }
            // It is reported behind what came before it.
            Outcome::End(error) => reader.end = Some(error),
        }
        if reader.end.is_some() || reader.backlog.is_closed() {
            shared.stream_ended = true;
            shared.session.is_draining = true;
        }
        let is_wanted = shared.is_waited_for() && !shared.has_enough(None);
        if enough || is_dry || is_wanted || shared.stream_ended || shared.session.end().is_some() {
            break;
        }
    }
    reader.source.looked_at = Instant::now();
    if period_is_over {
        (reader.source.period_began, reader.source.period_bytes) = (Instant::now(), 0);
    }
    shared.reader = Some(reader);
    link.wake_next_reader(&shared);
    (shared, look_every)
}
