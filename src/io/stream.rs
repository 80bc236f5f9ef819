//! What a connection runs over: any two-way stream of bytes.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

/// A two-way stream of bytes that a connection can run over: a TCP or Unix socket, a tunnel, a pair of pipes in memory.
///
/// [`Connection::open_stream`](crate::Connection::open_stream) takes one that the caller made. One end of the stream is
/// read and the other written at the same time, by two threads, each with a handle of its own from
/// [`try_clone`](Stream::try_clone). The deadlines of the connection rest on the two timeouts, so they must work.
pub trait Stream: Read + Write + Send {
    /// A second handle to the same stream, as of [`TcpStream::try_clone`].
    ///
    /// # Errors
    /// What the operating system answers.
    fn try_clone(&self) -> io::Result<Box<dyn Stream>>;

    /// Bounds each `read`, on all handles. When nothing came in that time, `read` must fail with
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) or [`TimedOut`](io::ErrorKind::TimedOut). The time is never zero.
    ///
    /// # Errors
    /// What the operating system answers.
    fn set_read_timeout(&self, timeout: Duration) -> io::Result<()>;

    /// Bounds each `write`, on all handles, in the same way.
    ///
    /// # Errors
    /// What the operating system answers.
    fn set_write_timeout(&self, timeout: Duration) -> io::Result<()>;

    /// Ends both directions, on all handles: a `read` or `write` that blocks elsewhere must return at once.
    ///
    /// # Errors
    /// What the operating system answers.
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

/// A stream as this crate keeps it. A TCP stream is not boxed like the others: the table of its methods would bring all that
/// [`Read`] and [`Write`] have besides what is used here into every program.
pub(crate) enum Transport {
    Tcp(TcpStream),
    Other(Box<dyn Stream>),
}

impl Transport {
    pub(crate) fn try_clone(&self) -> io::Result<Transport> {
        match self {
            Transport::Tcp(stream) => stream.try_clone().map(Transport::Tcp),
            Transport::Other(stream) => stream.try_clone().map(Transport::Other),
        }
    }

    pub(crate) fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        match self {
            Transport::Tcp(stream) => Stream::set_read_timeout(stream, timeout),
            Transport::Other(stream) => stream.set_read_timeout(timeout),
        }
    }

    pub(crate) fn set_write_timeout(&self, timeout: Duration) -> io::Result<()> {
        match self {
            Transport::Tcp(stream) => Stream::set_write_timeout(stream, timeout),
            Transport::Other(stream) => stream.set_write_timeout(timeout),
        }
    }

    pub(crate) fn shutdown(&self) -> io::Result<()> {
        match self {
            Transport::Tcp(stream) => Stream::shutdown(stream),
            Transport::Other(stream) => stream.shutdown(),
        }
    }

    /// For what wraps any stream.
    #[cfg(feature = "tls")]
    pub(crate) fn boxed(self) -> Box<dyn Stream> {
        match self {
            Transport::Tcp(stream) => Box::new(stream),
            Transport::Other(stream) => stream,
        }
    }
}

impl Read for Transport {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Transport::Tcp(stream) => stream.read(buffer),
            Transport::Other(stream) => stream.read(buffer),
        }
    }
}

impl Write for Transport {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Transport::Tcp(stream) => stream.write(bytes),
            Transport::Other(stream) => stream.write(bytes),
        }
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Transport::Tcp(stream) => stream.write_vectored(slices),
            Transport::Other(stream) => stream.write_vectored(slices),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Transport::Tcp(stream) => stream.flush(),
            Transport::Other(stream) => stream.flush(),
        }
    }
}

/// What a read comes to that finds the end of the stream.
#[cold]
pub(crate) fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the peer closed the stream")
}

/// Whether a read or write ended because its time was up.
pub(crate) fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}
