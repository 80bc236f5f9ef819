//! What a connection runs over: any two-way stream of bytes.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use super::sync::Instant;

/// A two-way stream of bytes that a connection can run over: a TCP or Unix socket, a tunnel, a pair of pipes in memory.
///
/// [`Connection::open_stream`](crate::Connection::open_stream) takes one that the caller made. What must hold:
///
/// * One handle is read while another is written, by two threads, each with a handle of its own from
///   [`try_clone`](Stream::try_clone). Neither may wait for the other.
/// * `read` waits until there is at least one byte, and returns 0 only at the end of the stream. It returns no later than
///   [`set_read_timeout`](Stream::set_read_timeout) says, and not much earlier without bytes: every deadline of the
///   connection rests on this. `write` and [`set_write_timeout`](Stream::set_write_timeout) are the same.
/// * `write` may buffer, and sends some of it itself when it has no room. [`flush`](Write::flush) sends what it buffered; it is
///   called whenever nothing more is about to be written. A `write` or `flush` whose time is up is called again; while a
///   connection is opened, until its [`stack_timeout`](crate::ConnectionParameters::stack_timeout) has passed.
/// * A timeout and a dead connection differ by their errors. On Unix, an error of kind [`TimedOut`](io::ErrorKind::TimedOut)
///   that carries the operating system's code (`ETIMEDOUT`) means that the connection is dead, since a timeout of a socket
///   is `EAGAIN` there. Anything else of that kind, and [`WouldBlock`](io::ErrorKind::WouldBlock), means that the time is up.
/// * [`Interrupted`](io::ErrorKind::Interrupted) means nothing: the call is made again, within the same limits. Every other error ends the connection.
///
/// A call that comes to nothing again and again, since it is interrupted, or since a `write` or `flush` does not wait, is made
/// once in a millisecond, so that it keeps no processor busy.
///
/// What can be noticed of a stream that does otherwise ends the connection with an error that says so: a `read` or `write`
/// that claims more bytes than it was given, and a `read` that returns without bytes before its time, again and again (while
/// a connection is opened without a `stack_timeout`, a `write` or `flush` as well). So does a panic in one of its methods: the error has its text (where panics unwind; elsewhere the process ends). A method
/// may be called again after it panicked, [`shutdown`](Stream::shutdown) at least is.
///
/// Methods that are added later will have a default, so that streams written today go on to compile.
///
/// TCP and Unix sockets are streams already. Of something else, here of a stream that counts what is sent:
///
/// ```
/// use haypile::Stream;
/// use std::io::{self, Read, Write};
/// use std::sync::atomic::{AtomicUsize, Ordering};
/// use std::sync::Arc;
/// use std::time::Duration;
///
/// struct Counted(Box<dyn Stream>, Arc<AtomicUsize>);
///
/// impl Read for Counted {
///     fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
///         self.0.read(buffer)
///     }
/// }
///
/// impl Write for Counted {
///     fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
///         let written = self.0.write(bytes)?;
///         self.1.fetch_add(written, Ordering::Relaxed);
///         Ok(written)
///     }
///
///     fn flush(&mut self) -> io::Result<()> {
///         self.0.flush()
///     }
/// }
///
/// impl Stream for Counted {
///     fn try_clone(&self) -> io::Result<Box<dyn Stream>> {
///         Ok(Box::new(Counted(self.0.try_clone()?, Arc::clone(&self.1))))
///     }
///
///     fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
///         self.0.set_read_timeout(timeout)
///     }
///
///     fn set_write_timeout(&self, timeout: Duration) -> io::Result<()> {
///         self.0.set_write_timeout(timeout)
///     }
///
///     fn shutdown(&self) -> io::Result<()> {
///         self.0.shutdown()
///     }
/// }
///
/// # #[cfg(feature = "testing")]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let broker = haypile::testing::Broker::start()?;
/// # let address = broker.address();
/// let (sent, socket) = (Arc::default(), std::net::TcpStream::connect(address)?);
/// let stream = Counted(Box::new(socket), Arc::clone(&sent));
/// haypile::Connection::open_stream(haypile::ConnectionParameters::default(), stream)?.close()?;
/// assert!(sent.load(Ordering::Relaxed) > 0);
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "testing"))]
/// # fn main() {}
/// ```
pub trait Stream: Read + Write + Send {
    /// A second handle to the same stream, as of [`TcpStream::try_clone`].
    ///
    /// # Errors
    /// What the operating system returns.
    fn try_clone(&self) -> io::Result<Box<dyn Stream>>;

    /// Bounds each `read`, on all handles. When nothing came in that time, `read` must fail with
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) or [`TimedOut`](io::ErrorKind::TimedOut). The time is never zero.
    ///
    /// # Errors
    /// What the operating system returns.
    fn set_read_timeout(&self, timeout: Duration) -> io::Result<()>;

    /// Bounds each `write`, on all handles, in the same way.
    ///
    /// # Errors
    /// What the operating system returns.
    fn set_write_timeout(&self, timeout: Duration) -> io::Result<()>;

    /// Ends both directions, on all handles: a `read` or `write` that blocks elsewhere must return at once.
    ///
    /// # Errors
    /// What the operating system returns.
    fn shutdown(&self) -> io::Result<()>;
}

impl Stream for TcpStream {
    fn try_clone(&self) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(TcpStream::try_clone(self)?))
    }

    fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        TcpStream::set_read_timeout(self, Some(timeout))
    }

    fn set_write_timeout(&self, timeout: Duration) -> io::Result<()> {
        TcpStream::set_write_timeout(self, Some(timeout))
    }

    fn shutdown(&self) -> io::Result<()> {
        TcpStream::shutdown(self, Shutdown::Both)
    }
}

#[cfg(unix)]
impl Stream for std::os::unix::net::UnixStream {
    fn try_clone(&self) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(std::os::unix::net::UnixStream::try_clone(self)?))
    }

    fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        std::os::unix::net::UnixStream::set_read_timeout(self, Some(timeout))
    }

    fn set_write_timeout(&self, timeout: Duration) -> io::Result<()> {
        std::os::unix::net::UnixStream::set_write_timeout(self, Some(timeout))
    }

    fn shutdown(&self) -> io::Result<()> {
        std::os::unix::net::UnixStream::shutdown(self, Shutdown::Both)
    }
}

impl Stream for Box<dyn Stream> {
    fn try_clone(&self) -> io::Result<Box<dyn Stream>> {
        (**self).try_clone()
    }

    fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        (**self).set_read_timeout(timeout)
    }

    fn set_write_timeout(&self, timeout: Duration) -> io::Result<()> {
        (**self).set_write_timeout(timeout)
    }

    fn shutdown(&self) -> io::Result<()> {
        (**self).shutdown()
    }
}

/// How long to wait before a call is made again that came to nothing, perhaps at once.
pub(super) const BEFORE_NEXT_CALL: Duration = Duration::from_millis(1);

/// Writes and flushes all of this for a handshake. What takes nothing is made again until the deadline; each write is limited
/// by the stream's timeout as well. The error is a timeout only if the deadline has passed.
pub(crate) fn send_all(
    stream: &mut (impl Write + ?Sized),
    mut bytes: &[u8],
    deadline: Option<Instant>,
) -> io::Result<()> {
    let mut early_writes = EarlyReturns::of("write");
    loop {
        let sent = match bytes {
            [] => match stream.flush() {
                Ok(()) => return Ok(()),
                Err(error) => Err(error),
            },
            bytes => stream.write(bytes),
        };
        match sent {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                bytes = &bytes[count..];
                early_writes.clear();
                if bytes.is_empty() {
                    continue;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if is_timeout(&error) => {
                if deadline.is_none() {
                    early_writes.note(WITHOUT_DEADLINE)?;
                }
                thread::sleep(BEFORE_NEXT_CALL);
            }
            Err(error) => return Err(error),
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
    }
}

/// How long a read or write of a handshake without a deadline may take.
pub(crate) const WITHOUT_DEADLINE: Duration = Duration::from_secs(3600);

/// Counts reads, or writes, that return before their time, to find out a stream that does not wait: reading it would keep a
/// processor busy.
pub(crate) struct EarlyReturns {
    /// `read` or `write`.
    method: &'static str,
    /// When the first of the calls in a row returned that came to nothing.
    since: Option<Instant>,
    /// How many followed it, and how long they were to take.
    calls: u32,
    expected: Duration,
}

impl EarlyReturns {
    /// How many calls in a row are looked at together, since a single one may be early for a good reason.
    const CALLS: u32 = 50;

    pub(crate) fn of(method: &'static str) -> Self {
        EarlyReturns {
            method,
            since: None,
            calls: 0,
            expected: Duration::ZERO,
        }
    }

    /// A call with this timeout came to nothing; an error if such calls return much too early.
    pub(crate) fn note(&mut self, timeout: Duration) -> io::Result<()> {
        let Some(since) = self.since else {
            self.since = Some(Instant::now());
            return Ok(());
        };
        self.calls += 1;
        self.expected += timeout;
        if self.calls < Self::CALLS {
            return Ok(());
        }
        let early = since.elapsed() < self.expected / 10;
        self.clear();
        if !early {
            return Ok(());
        }
        let method = self.method;
        Err(io::Error::other(format!(
            "the stream's {method} gives up before its time is up: set_{method}_timeout has no effect \
             (a non-blocking socket?)"
        )))
    }

    /// A call came to something.
    pub(crate) fn clear(&mut self) {
        *self = EarlyReturns::of(self.method);
    }
}

/// Whether this is what a read or a write comes to when the peer has hung up.
pub(crate) fn is_hang_up(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(
        error.kind(),
        BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof
    )
}

/// For how long to look for what the peer said, after a write of a handshake that failed: it may say why.
pub(crate) const REASON_LIMIT: Duration = Duration::from_millis(100);

/// What a read comes to that finds the end of the stream.
#[cold]
pub(crate) fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the peer closed the stream")
}

/// Whether a read or write ended because its time was up, and not because the connection is dead.
pub(crate) fn is_timeout(error: &io::Error) -> bool {
    match error.kind() {
        io::ErrorKind::WouldBlock => true,
        io::ErrorKind::TimedOut => !is_dead_path(error),
        _ => false,
    }
}

/// Whether the operating system gave the connection up, because its peer acknowledged nothing for too long. On Windows the
/// code is the same as for the end of a socket's timeout; there the next read or write finds the end of the connection.
fn is_dead_path(error: &io::Error) -> bool {
    cfg!(not(windows)) && error.kind() == io::ErrorKind::TimedOut && error.raw_os_error().is_some()
}

/// What an error of the stream means, for the report of the connection's end.
#[cold]
pub(crate) fn describe(error: &io::Error) -> String {
    if is_dead_path(error) {
        "the connection timed out: the peer acknowledged nothing in time (TCP_USER_TIMEOUT, keepalive or retransmissions)"
            .to_owned()
    } else {
        error.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// What this crate sets is what the socket has, and a shutdown ends both directions.
    macro_rules! holds {
        ($near:expr, $far:expr) => {
            let (near, mut far) = ($near, $far);
            let (read, write) = (Duration::from_secs(3), Duration::from_secs(4));
            Stream::set_read_timeout(&near, read).unwrap();
            Stream::set_write_timeout(&near, write).unwrap();
            assert_eq!(near.read_timeout().unwrap(), Some(read));
            assert_eq!(near.write_timeout().unwrap(), Some(write));
            let other = Stream::try_clone(&near).unwrap();
            // Through the box as well.
            let other: Box<dyn Stream> = Box::new(other);
            other.set_read_timeout(write).unwrap();
            other.set_write_timeout(read).unwrap();
            assert_eq!(near.read_timeout().unwrap(), Some(write));
            assert_eq!(near.write_timeout().unwrap(), Some(read));
            Stream::shutdown(&near).unwrap();
            assert_eq!(far.read(&mut [0; 8]).unwrap(), 0);
            let mut other = other;
            assert_eq!(other.read(&mut [0; 8]).unwrap(), 0);
        };
    }

    #[test]
    fn a_tcp_socket_is_a_stream() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        holds!(near, listener.accept().unwrap().0);
    }

    #[test]
    #[cfg(unix)]
    fn a_unix_socket_is_a_stream() {
        let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        holds!(near, far);
    }

    #[test]
    fn the_end_of_a_time_and_a_dead_path_differ() {
        // ETIMEDOUT
        #[cfg(target_os = "linux")]
        {
            let dead = io::Error::from_raw_os_error(110);
            assert!(is_dead_path(&dead) && !is_timeout(&dead));
            assert!(describe(&dead).contains("the peer acknowledged nothing in time"));
            let reset = io::Error::from_raw_os_error(104);
            assert!(!is_dead_path(&reset) && !is_timeout(&reset));
            assert_eq!(describe(&reset), reset.to_string());
        }
        for kind in [io::ErrorKind::TimedOut, io::ErrorKind::WouldBlock] {
            let time_up = io::Error::from(kind);
            assert!(is_timeout(&time_up) && !is_dead_path(&time_up));
            assert_eq!(describe(&time_up), time_up.to_string());
        }
        assert!(!is_timeout(&closed()));
    }
}
