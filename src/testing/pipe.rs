//! A two-way stream of bytes in memory: what a connection without a socket runs over.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::Stream;

/// How many bytes one direction holds before writers wait.
const ROOM: usize = 256 * 1024;

/// How a direction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// What was written before is still read, then comes the end.
    Cut,
    /// What was not read is lost, and reads fail.
    Reset,
}

#[derive(Default)]
struct Direction {
    bytes: VecDeque<u8>,
    ending: Option<Ending>,
    readers: usize,
    writers: usize,
}

#[derive(Default)]
struct Lane {
    direction: Mutex<Direction>,
    readable: Condvar,
    writable: Condvar,
}

impl Lane {
    fn lock(&self) -> MutexGuard<'_, Direction> {
        self.direction
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, ending: Ending) {
        let mut direction = self.lock();
        if ending == Ending::Reset {
            direction.bytes.clear();
        }
        direction.ending.get_or_insert(ending);
        drop(direction);
        self.readable.notify_all();
        self.writable.notify_all();
    }
}

/// One end of a stream in memory.
pub(super) struct End {
    reads: Arc<Lane>,
    writes: Arc<Lane>,
    /// For reads and for writes, shared by all handles of this end; `None` waits for as long as it takes.
    timeouts: Arc<Mutex<[Option<Duration>; 2]>>,
}

/// Two ends; what is written into one is read from the other.
pub(super) fn pair() -> (End, End) {
    let lanes = [Arc::new(Lane::default()), Arc::new(Lane::default())];
    let end = |reads: usize| End {
        reads: Arc::clone(&lanes[reads]),
        writes: Arc::clone(&lanes[1 - reads]),
        timeouts: Arc::default(),
    };
    (end(0), end(1))
}

impl End {
    fn timeout(&self, which: usize) -> Option<Duration> {
        self.timeouts.lock().unwrap_or_else(PoisonError::into_inner)[which]
    }

    pub(super) fn set_timeout(&self, which: usize, timeout: Option<Duration>) {
        self.timeouts.lock().unwrap_or_else(PoisonError::into_inner)[which] = timeout;
    }

    pub(super) fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut direction = self.reads.lock();
        let mut deadline = None;
        while direction.bytes.is_empty() {
            match direction.ending {
                Some(Ending::Cut) => return Ok(0),
                Some(Ending::Reset) => return Err(io::ErrorKind::ConnectionReset.into()),
                None => {}
            }
            direction.readers += 1;
            let waited = wait(
                &self.reads.readable,
                direction,
                self.timeout(0),
                &mut deadline,
            );
            direction = waited.0;
            direction.readers -= 1;
            if waited.1 && direction.bytes.is_empty() && direction.ending.is_none() {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        let count = direction.bytes.read(buffer)?;
        if direction.writers > 0 {
            self.reads.writable.notify_all();
        }
        Ok(count)
    }

    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut direction = self.writes.lock();
        let mut deadline = None;
        loop {
            match direction.ending {
                Some(Ending::Cut) => return Err(io::ErrorKind::BrokenPipe.into()),
                Some(Ending::Reset) => return Err(io::ErrorKind::ConnectionReset.into()),
                None => {}
            }
            let count = bytes.len().min(ROOM - direction.bytes.len());
            if count > 0 || bytes.is_empty() {
                direction.bytes.extend(&bytes[..count]);
                if direction.readers > 0 {
                    self.writes.readable.notify_all();
                }
                return Ok(count);
            }
            direction.writers += 1;
            let waited = wait(
                &self.writes.writable,
                direction,
                self.timeout(1),
                &mut deadline,
            );
            direction = waited.0;
            direction.writers -= 1;
            if waited.1 && direction.bytes.len() == ROOM && direction.ending.is_none() {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }

    /// Ends both directions.
    pub(super) fn end(&self, ending: Ending) {
        self.reads.end(ending);
        self.writes.end(ending);
    }
}

/// Waits once, until `deadline`, which is set at the first wait; returns whether the time is up.
fn wait<'a>(
    changed: &Condvar,
    direction: MutexGuard<'a, Direction>,
    timeout: Option<Duration>,
    deadline: &mut Option<Instant>,
) -> (MutexGuard<'a, Direction>, bool) {
    let Some(timeout) = timeout else {
        let direction = changed
            .wait(direction)
            .unwrap_or_else(PoisonError::into_inner);
        return (direction, false);
    };
    let now = Instant::now();
    let deadline = *deadline.get_or_insert(now + timeout);
    let left = deadline.saturating_duration_since(now);
    let (direction, _) = changed
        .wait_timeout(direction, left)
        .unwrap_or_else(PoisonError::into_inner);
    (direction, Instant::now() >= deadline)
}

impl Read for End {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.receive(buffer)
    }
}

impl Write for End {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.send(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for End {
    fn try_clone(&self) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(End {
            reads: Arc::clone(&self.reads),
            writes: Arc::clone(&self.writes),
            timeouts: Arc::clone(&self.timeouts),
        }))
    }

    fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.set_timeout(0, Some(timeout));
        Ok(())
    }

    fn set_write_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.set_timeout(1, Some(timeout));
        Ok(())
    }

    fn shutdown(&self) -> io::Result<()> {
        self.end(Ending::Cut);
        Ok(())
    }
}
