//! Bytes in: the read half of the stream.
//!
//! Nothing here knows the connection: what a read brought comes back as a value, and `receive.rs` does what follows.

use std::io::{self, Read};
use std::time::Duration;

use super::backlog::{Backlog, HALF_QUOTA, PERIOD};
use super::stream::{closed, is_timeout, EarlyReturns, Stream};
use super::sync::Instant;
use crate::protocol::connection::Session;
use crate::Error;

/// How much is read at once. A frame may be larger (up to frame_max): the buffer grows when one is.
const BUFFER: usize = 128 * 1024;

/// How long a waiting caller reads for itself before it leaves reading to the reader thread; how long the reader thread leaves
/// an unused read half alone.
pub(crate) const SLICE: Duration = Duration::from_millis(10);

/// While reading pauses, the stream counts as dry when nothing came for this long.
const DRY: Duration = Duration::from_millis(200);

/// A read that took so long had to wait: there was nothing that the peer could not send.
const WAITED: Duration = Duration::from_millis(10);

/// What one read brought.
pub(crate) enum Outcome {
    Bytes,
    /// The time was up.
    Nothing,
    /// The stream ended.
    End(io::Error),
}

/// What reading ahead brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ahead {
    Bytes,
    /// Nothing came for a while.
    Nothing,
    /// The stream has ended, or the peer closes the connection in what has been read.
    End,
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
    stream: Box<dyn Stream>,
    timeout: Duration,
    early_reads: EarlyReturns,
    last_bytes: Instant,
    /// The beginning of the present period, and how many bytes have come in it. See `backlog`.
    period_began: Instant,
    period_bytes: usize,
    /// When it was last read during a pause.
    looked_at: Instant,
    /// How many bytes have come since a look began.
    look_bytes: usize,
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
        let began = Instant::now();
        let outcome = match self.stream.read(buffer) {
            Ok(0) => Outcome::End(closed()),
            Ok(count) => {
                self.last_bytes = Instant::now();
                if self.last_bytes.saturating_duration_since(began) >= WAITED {
                    self.begin_period(self.last_bytes);
                }
                self.period_bytes = self.period_bytes.saturating_add(count);
                self.look_bytes = self.look_bytes.saturating_add(count);
                self.early_reads.clear();
                return (Outcome::Bytes, count);
            }
            Err(error) if is_timeout(&error) => match self.early_reads.note(timeout) {
                Ok(()) => {
                    if timeout >= WAITED {
                        self.begin_period(Instant::now());
                    }
                    Outcome::Nothing
                }
                Err(error) => Outcome::End(error),
            },
            // A signal: the caller looks at its deadline, which must not begin anew with each signal.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Outcome::Nothing,
            Err(error) => Outcome::End(error),
        };
        (outcome, 0)
    }

    /// The peer's patience begins now.
    fn begin_period(&mut self, now: Instant) {
        (self.period_began, self.period_bytes) = (now, 0);
    }
}

impl Reader {
    /// `leftover` is what was read beyond the handshake.
    pub(crate) fn new(stream: Box<dyn Stream>, leftover: &[u8]) -> io::Result<Self> {
        stream.set_read_timeout(SLICE)?;
        let mut buffer = vec![0; BUFFER.max(leftover.len())];
        buffer[..leftover.len()].copy_from_slice(leftover);
        let now = Instant::now();
        Ok(Reader {
            source: Source {
                stream,
                timeout: SLICE,
                early_reads: EarlyReturns::of("read"),
                last_bytes: now,
                period_began: now,
                period_bytes: 0,
                looked_at: now,
                look_bytes: 0,
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
        // What was read during a pause comes first, and then what ended it.
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

    /// Moves what is not handled to the front of the buffer, which grows for a frame that is larger than itself.
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

    // ---- pausing: the program has enough, but the peer would lose patience

    /// What has been read shows that the peer lives. Its patience begins now if much has come since it began last. Else it goes
    /// on: short pauses with little read in between are like a long one.
    pub(super) fn begin_pause(&mut self) {
        let source = &mut self.source;
        source.looked_at = Instant::now();
        if self.backlog.is_empty() && source.period_bytes >= HALF_QUOTA {
            source.begin_period(source.looked_at);
        }
    }

    /// Whether what was read is not handled yet.
    pub(super) fn has_unhandled(&self) -> bool {
        self.more || !self.backlog.is_empty()
    }

    /// When the stream must be read next although what was read before is not handled: at the end of the period, or to look
    /// whether the peer is silent.
    pub(super) fn next_look(&self, look_every: Duration) -> Duration {
        let of_period = PERIOD.saturating_sub(self.source.period_began.elapsed());
        of_period.min(look_every.saturating_sub(self.source.looked_at.elapsed()))
    }

    /// Whether as much as the peer insists on must be read now.
    pub(super) fn is_period_over(&self) -> bool {
        self.source.period_began.elapsed() >= PERIOD
    }

    /// The stream is about to be looked at.
    pub(super) fn begin_look(&mut self) {
        self.source.look_bytes = 0;
    }

    /// Whether as much has been read in this period as the peer insists on, or in this look: on a busy machine a read may take
    /// so long that it begins a period, again and again.
    pub(super) fn has_quota(&self, max_message_size: u64) -> bool {
        let source = &self.source;
        source.period_bytes.max(source.look_bytes) >= self.backlog.quota(max_message_size)
    }

    /// The stream has been looked at; if the period was over, a new one begins.
    pub(super) fn end_look(&mut self, period_is_over: bool) {
        let source = &mut self.source;
        source.looked_at = Instant::now();
        if period_is_over {
            source.begin_period(source.looked_at);
        }
    }

    /// Lets the present period and the last look be older than they are.
    #[cfg(test)]
    #[cfg(not(shuttle))]
    pub(super) fn age(&mut self, by: Duration) {
        let source = &mut self.source;
        source.period_began = source.period_began.checked_sub(by).unwrap();
        source.looked_at = source.looked_at.checked_sub(by).unwrap();
    }

    /// How much memory the buffer takes.
    #[cfg(test)]
    #[cfg(not(shuttle))]
    pub(super) fn memory(&self) -> usize {
        self.buffer.capacity()
    }

    /// Lets the last bytes be older than they are.
    #[cfg(test)]
    #[cfg(not(shuttle))]
    pub(super) fn age_bytes(&mut self, by: Duration) {
        let source = &mut self.source;
        source.last_bytes = source.last_bytes.checked_sub(by).unwrap();
    }

    /// If the backlog is empty, what is read next begins it: where the session has come to, and behind what is not handled.
    pub(super) fn prepare_backlog(&mut self, session: &mut Session) {
        if self.backlog.is_empty() {
            let unhandled = &self.buffer[self.start..self.filled];
            let largest = session.take_largest_body();
            self.backlog
                .begin(session.rest_of_frame(), largest, unhandled);
        }
    }

    /// Reads once into the backlog. The end of the stream is kept, to be returned behind what came before it.
    pub(super) fn read_ahead(&mut self) -> Ahead {
        let (outcome, count) = self.source.read(self.backlog.room(), DRY);
        self.backlog.add(count);
        match outcome {
            Outcome::Bytes if self.backlog.is_closed() => Ahead::End,
            Outcome::Bytes => Ahead::Bytes,
            Outcome::Nothing => Ahead::Nothing,
            Outcome::End(error) => {
                self.end = Some(error);
                Ahead::End
            }
        }
    }

    /// Lets the session handle what has been read.
    pub(crate) fn handle(&mut self, session: &mut Session) -> Result<(), Error> {
        let fed = session.feed(&self.buffer[self.start..self.filled])?;
        self.start += fed.used;
        self.more = fed.more;
        Ok(())
    }
}
