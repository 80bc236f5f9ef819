//! A stream inside TLS, over any other stream.
//!
//! One lock guards what rustls knows of the connection. It is held while records are opened or sealed, never during a system
//! call. The two directions have a lock each, which belongs to the thread that reads or writes; since there is one of either at a
//! time, no thread waits for them. Sealed records leave rustls only under the lock of the writing direction, so they go out
//! in the order in which they were sealed. What reading makes rustls want to send (the response to a key update, an alert)
//! goes out with the next write, so that a reader never waits for a writer.

mod failure;
mod handshake;

use std::io::{self, IoSlice, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::ClientConnection;

pub(crate) use self::failure::{described, Failure, MISSING_CERTIFICATE};
pub(crate) use self::handshake::connect;
use super::stream::Stream;
use super::sync::{lock, Instant};

/// How much of what the peer sent is read at once.
const READ: usize = 64 * 1024;

/// How much is sealed at once, and so may be waiting for the peer to take it.
const SEAL: usize = 128 * 1024;

/// How long `close_notify` may take; the stream is shut down in any case.
const CLOSE_NOTIFY: Duration = Duration::from_millis(10);

/// A handle to a stream inside TLS.
struct TlsStream(Arc<TlsConnection>);

struct TlsConnection {
    /// The innermost lock.
    session: Mutex<ClientConnection>,
    incoming: Mutex<(ReceivedRecords, Box<dyn Stream>)>,
    outgoing: Mutex<(SealedRecords, Box<dyn Stream>)>,
    /// For what concerns both directions; held for a moment only.
    control: Mutex<Box<dyn Stream>>,
    /// Nanoseconds; see `expired`.
    read_timeout: AtomicU64,
    write_timeout: AtomicU64,
}

fn expired(began: Instant, timeout: &AtomicU64) -> bool {
    began.elapsed().as_nanos() >= u128::from(timeout.load(Ordering::Relaxed))
}

fn store(timeout: &AtomicU64, duration: Duration) {
    let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    timeout.store(nanos, Ordering::Relaxed);
}

fn time_up() -> io::Error {
    io::ErrorKind::WouldBlock.into()
}

fn broken(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// What came from the peer and has not been opened.
#[derive(Default)]
struct ReceivedRecords {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl ReceivedRecords {
    fn rest(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Reads once. Everything that came before must have been taken.
    fn fill(&mut self, stream: &mut dyn Stream) -> io::Result<usize> {
        self.buffer.resize(READ, 0);
        (self.start, self.end) = (0, 0);
        self.end = stream.read(&mut self.buffer)?;
        Ok(self.end)
    }
}

/// What is sealed and has not been taken by the peer.
#[derive(Default)]
struct SealedRecords {
    sealed: Vec<u8>,
    sent: usize,
    /// How many of the caller's bytes are in there. The caller does not know, and so brings them again.
    owed: usize,
}

impl SealedRecords {
    fn is_clear(&self) -> bool {
        self.sent == self.sealed.len()
    }

    /// Takes over what rustls has sealed. Appends, so that the order stays.
    fn collect(&mut self, session: &mut ClientConnection) -> io::Result<()> {
        while session.wants_write() {
            session.write_tls(&mut self.sealed)?;
        }
        Ok(())
    }

    /// Writes until nothing is left or the time is up.
    fn push(&mut self, stream: &mut dyn Stream, timeout: &AtomicU64) -> io::Result<()> {
        let mut began = None;
        while !self.is_clear() {
            // A peer that takes a little now and then does not prolong the time.
            if expired(*began.get_or_insert_with(Instant::now), timeout) {
                return Err(time_up());
            }
            match stream.write(&self.sealed[self.sent..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.sealed.clear();
        self.sent = 0;
        Ok(())
    }
}

impl TlsStream {
    fn new(
        session: ClientConnection,
        incoming: ReceivedRecords,
        stream: &dyn Stream,
    ) -> io::Result<Self> {
        Ok(TlsStream(Arc::new(TlsConnection {
            session: Mutex::new(session),
            incoming: Mutex::new((incoming, stream.try_clone()?)),
            outgoing: Mutex::new((SealedRecords::default(), stream.try_clone()?)),
            control: Mutex::new(stream.try_clone()?),
            read_timeout: AtomicU64::new(u64::MAX),
            write_timeout: AtomicU64::new(u64::MAX),
        })))
    }
}

impl TlsConnection {
    /// Opens as much as is there and fits. `None` if nothing is, `Some(0)` at the end.
    fn open(&self, incoming: &mut ReceivedRecords, buf: &mut [u8]) -> io::Result<Option<usize>> {
        let mut session = lock(&self.session);
        let mut filled = 0;
        loop {
            match session.reader().read(&mut buf[filled..]) {
                // No room is left, or it is the end.
                Ok(0) => return Ok(Some(filled)),
                Ok(count) => {
                    filled += count;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            let mut rest = incoming.rest();
            if !rest.is_empty() {
                incoming.start += session.read_tls(&mut rest)?;
            } else if filled > 0 {
                return Ok(Some(filled));
            }
            // An error stays with the session, so what came before it can be handed out first.
            match session.process_new_packets() {
                Ok(state) if state.plaintext_bytes_to_read() > 0 => {}
                Ok(state) if state.peer_has_closed() => return Ok(Some(filled)),
                Ok(_) if incoming.rest().is_empty() && filled == 0 => return Ok(None),
                Ok(_) => {}
                Err(_) if filled > 0 => return Ok(Some(filled)),
                Err(error) => {
                    return match session.reader().read(buf) {
                        Ok(count) => Ok(Some(count)),
                        Err(_) => Err(broken(error)),
                    }
                }
            }
        }
    }

    fn write(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let brought: usize = bufs.iter().map(|slice| slice.len()).sum();
        let (outgoing, stream) = &mut *lock(&self.outgoing);
        if outgoing.owed == 0 {
            // What is left over from a `flush` that came to nothing goes with it.
            let mut session = lock(&self.session);
            let sealed = session.writer().write_vectored(some(bufs))?;
            outgoing.collect(&mut session)?;
            drop(session);
            if outgoing.is_clear() {
                return match sealed {
                    0 => Ok(0),
                    _ => Err(io::Error::other("this TLS session may seal no more")),
                };
            }
            outgoing.owed = sealed;
        }
        // If the time is up here, what is sealed stays, and the caller brings the same bytes again. They count
        // as written when the peer has taken all of it, since the caller may not come again after that.
        outgoing.push(&mut **stream, &self.write_timeout)?;
        let written = outgoing.owed.min(brought);
        outgoing.owed -= written;
        Ok(written)
    }

    fn flush(&self) -> io::Result<()> {
        let (outgoing, stream) = &mut *lock(&self.outgoing);
        outgoing.collect(&mut lock(&self.session))?;
        outgoing.push(&mut **stream, &self.write_timeout)?;
        stream.flush()
    }

    /// Sends `close_notify`, unless another thread is writing, or a write has stopped within a record.
    fn send_close_notify(&self) {
        let Ok(mut guard) = self.outgoing.try_lock() else {
            return;
        };
        let (outgoing, stream) = &mut *guard;
        if !outgoing.is_clear() {
            return;
        }
        let mut session = lock(&self.session);
        session.send_close_notify();
        let collected = outgoing.collect(&mut session);
        drop(session);
        // The stream is shut down in any case.
        let _ = collected
            .and_then(|()| stream.set_write_timeout(CLOSE_NOTIFY))
            .and_then(|()| stream.write(&outgoing.sealed))
            .and_then(|_| stream.flush());
    }
}

/// The first of them, as many as are sealed at once, at least one.
fn some<'a, 'b>(bufs: &'a [IoSlice<'b>]) -> &'a [IoSlice<'b>] {
    let mut total = 0;
    let count = bufs
        .iter()
        .take_while(|slice| {
            let room = total < SEAL;
            total += slice.len();
            room
        })
        .count();
    &bufs[..count]
}

impl Read for TlsStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let shared = &*self.0;
        let (incoming, stream) = &mut *lock(&shared.incoming);
        let mut began = None;
        loop {
            if let Some(count) = shared.open(incoming, buf)? {
                return Ok(count);
            }
            // Parts of records, and records that are no data, do not prolong the time.
            if expired(
                *began.get_or_insert_with(Instant::now),
                &shared.read_timeout,
            ) {
                return Err(time_up());
            }
            if incoming.fill(&mut **stream)? == 0 {
                return Ok(0);
            }
        }
    }
}

impl Write for TlsStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(&[IoSlice::new(buf)])
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.write(bufs)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Stream for TlsStream {
    fn try_clone(&self) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(TlsStream(Arc::clone(&self.0))))
    }

    fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        store(&self.0.read_timeout, timeout);
        lock(&self.0.control).set_read_timeout(timeout)
    }

    fn set_write_timeout(&self, timeout: Duration) -> io::Result<()> {
        store(&self.0.write_timeout, timeout);
        lock(&self.0.control).set_write_timeout(timeout)
    }

    fn shutdown(&self) -> io::Result<()> {
        self.0.send_close_notify();
        lock(&self.0.control).shutdown()
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
#[path = "tests/tls.rs"]
mod tests;
