//! Bytes in: the read half of the stream, and the thread that holds it when nobody else wants it.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use super::stream::{closed, is_timeout, Haste, Transport};
use super::sync::{small_in_model, thread, Instant};
use super::wait::Link;
use crate::protocol::connection::Session;
use crate::Error;

/// How much is read at once. A frame may be larger (up to frame_max): the buffer grows when one is.
const BUFFER: usize = 128 * 1024;

/// How long whoever waits reads for himself before leaving it to the reader thread; how long the reader thread leaves an
/// unused read half alone.
pub(crate) const SLICE: Duration = Duration::from_millis(10);

/// Above this many bytes that nobody has asked for yet, nothing more is read until somebody does.
pub(crate) const UNDELIVERED_BOUND: usize = small_in_model(4 << 20, 4 << 10);

/// Below this many, it is read on.
pub(crate) const RESUME_BELOW: usize = UNDELIVERED_BOUND / 2;

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
    stream: Transport,
    timeout: Duration,
    buffer: Vec<u8>,
    /// What of the buffer has been read and not handled.
    start: usize,
    filled: usize,
    /// What has been read holds more that can be handled without reading.
    pub(crate) more: bool,
    pub(crate) last_bytes: Instant,
    haste: Haste,
}

impl Reader {
    /// `leftover` is what was read beyond the handshake.
    pub(crate) fn new(stream: Transport, leftover: &[u8]) -> io::Result<Self> {
        stream.set_read_timeout(SLICE)?;
        let mut buffer = vec![0; BUFFER.max(leftover.len())];
        buffer[..leftover.len()].copy_from_slice(leftover);
        Ok(Reader {
            stream,
            timeout: SLICE,
            buffer,
            start: 0,
            filled: leftover.len(),
            more: !leftover.is_empty(),
            last_bytes: Instant::now(),
            haste: Haste::default(),
        })
    }

    /// Reads once, for at most about `timeout`.
    pub(crate) fn read(&mut self, timeout: Duration) -> Outcome {
        if timeout != self.timeout {
            if let Err(error) = self.stream.set_read_timeout(timeout) {
                return Outcome::End(error);
            }
            self.timeout = timeout;
        }
        if self.start == self.filled {
            (self.start, self.filled) = (0, 0);
        } else if self.filled == self.buffer.len() {
            if self.start == 0 {
                self.buffer.resize(self.buffer.len() * 2, 0);
            } else {
                self.buffer.copy_within(self.start..self.filled, 0);
                self.filled -= self.start;
                self.start = 0;
            }
        }
        match self.stream.read(&mut self.buffer[self.filled..]) {
            Ok(0) => Outcome::End(closed()),
            Ok(count) => {
                self.filled += count;
                self.last_bytes = Instant::now();
                self.haste.clear();
                Outcome::Bytes
            }
            Err(error) if is_timeout(&error) => match self.haste.note(timeout) {
                Ok(()) => Outcome::Nothing,
                Err(error) => Outcome::End(error),
            },
            // A signal: whoever reads looks at his deadline, which must not begin anew with each signal.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Outcome::Nothing,
            Err(error) => Outcome::End(error),
        }
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
        if shared.session.end.is_some() {
            return;
        }
        let unused = shared.turns == seen_turns || shared.hand_over;
        seen_turns = shared.turns;
        let mut was_paused = false;
        while shared.has_enough(None) && shared.write_error.is_none() {
            shared.paused = true;
            was_paused = true;
            let limit = link.blocked_limit(&shared);
            drop(shared);
            thread::park_timeout(limit);
            shared = link.lock();
            link.check_blocked(&mut shared);
            if shared.session.end.is_some() {
                return;
            }
        }
        shared.paused = false;
        if !unused && !was_paused {
            continue;
        }
        let Some(mut reader) = shared.reader.take() else {
            continue;
        };
        shared.hand_over = false;
        if was_paused {
            // Nobody listened meanwhile, so silence says nothing about the peer.
            reader.last_bytes = Instant::now();
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
            if shared.session.end.is_some()
                || shared.is_wanted()
                || enough && shared.write_error.is_none()
            {
                break;
            }
        }
        seen_turns = shared.turns;
        shared.reader = Some(reader);
        link.leave(shared);
    }
}
