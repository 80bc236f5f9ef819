//! A stream that fails while a connection is opened over it.

mod support;

use std::error::Error as _;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;

use haypile::{Connection, ConnectionParameters, Error, Stream};
use support::{assert_matches, bounded, broker_address, url, SOON};

/// What fails.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    /// Each write after so many.
    Writes {
        after: usize,
    },
    /// Each read after so many.
    Reads {
        after: usize,
    },
    /// Writes do not wait.
    WritesWouldBlock,
    /// Each write, and each flush, comes to nothing so many times before it is made.
    ComeToNothing {
        times: usize,
        kind: io::ErrorKind,
    },
    SetReadTimeout,
    SetWriteTimeout,
    TryClone,
}

/// The program's own error, inside the stream's.
#[derive(Debug)]
struct TunnelDown;

impl fmt::Display for TunnelDown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the tunnel is down")
    }
}

impl std::error::Error for TunnelDown {}

struct Faulty {
    stream: TcpStream,
    fault: Fault,
    writes: Arc<AtomicUsize>,
    reads: Arc<AtomicUsize>,
    flushes: Arc<AtomicUsize>,
}

impl Faulty {
    fn new(stream: TcpStream, fault: Fault) -> Self {
        Faulty {
            stream,
            fault,
            writes: Arc::default(),
            reads: Arc::default(),
            flushes: Arc::default(),
        }
    }

    fn fail_if(&self, is_faulty: bool) -> io::Result<()> {
        match is_faulty {
            true => Err(io::Error::other(TunnelDown)),
            false => Ok(()),
        }
    }

    fn come_to_nothing(&self, before: usize) -> io::Result<()> {
        match self.fault {
            Fault::ComeToNothing { times, kind } if before % (times.saturating_add(1)) < times => {
                Err(kind.into())
            }
            _ => Ok(()),
        }
    }
}

impl Read for Faulty {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let before = self.reads.fetch_add(1, Ordering::SeqCst);
        self.fail_if(matches!(self.fault, Fault::Reads { after } if before >= after))?;
        self.stream.read(buffer)
    }
}

impl Write for Faulty {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let before = self.writes.fetch_add(1, Ordering::SeqCst);
        self.fail_if(matches!(self.fault, Fault::Writes { after } if before >= after))?;
        self.come_to_nothing(before)?;
        match self.fault {
            Fault::WritesWouldBlock => Err(io::ErrorKind::WouldBlock.into()),
            _ => self.stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.come_to_nothing(self.flushes.fetch_add(1, Ordering::SeqCst))?;
        self.stream.flush()
    }
}

impl Stream for Faulty {
    fn try_clone(&self) -> io::Result<Box<dyn Stream>> {
        self.fail_if(self.fault == Fault::TryClone)?;
        Ok(Box::new(Faulty {
            stream: self.stream.try_clone()?,
            fault: self.fault,
            writes: Arc::clone(&self.writes),
            reads: Arc::clone(&self.reads),
            flushes: Arc::clone(&self.flushes),
        }))
    }

    fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.fail_if(self.fault == Fault::SetReadTimeout)?;
        Stream::set_read_timeout(&self.stream, timeout)
    }

    fn set_write_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.fail_if(self.fault == Fault::SetWriteTimeout)?;
        Stream::set_write_timeout(&self.stream, timeout)
    }

    fn shutdown(&self) -> io::Result<()> {
        Stream::shutdown(&self.stream)
    }
}

/// One that would wait for ever for a peer that sends nothing.
fn patient() -> ConnectionParameters {
    let parameters = ConnectionParameters::from_url(url()).unwrap();
    parameters.host("tunnel.example").stack_timeout(None)
}

/// A stream whose other end sends nothing, and that end.
fn silent() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (stream, listener.accept().unwrap().0)
}

#[track_caller]
fn assert_names_the_cause(error: &Error) {
    assert_matches!(error, Error::Connection(_));
    assert!(error.address().unwrap().starts_with("tunnel.example:"));
    assert!(error.to_string().contains("the tunnel is down"), "{error}");
    let source = error.source().expect("the stream's error");
    let source: &io::Error = source.downcast_ref().unwrap();
    assert!(source.get_ref().unwrap().is::<TunnelDown>(), "{source:?}");
    assert_eq!(error.connect_failure().unwrap().attempts.len(), 1);
}

#[test]
fn a_write_that_fails_is_reported_at_once() {
    bounded(|| {
        let (stream, _other_end) = silent();
        let stream = Faulty::new(stream, Fault::Writes { after: 0 });
        let error = Connection::open_stream(patient(), stream).unwrap_err();
        assert_names_the_cause(&error);
        assert!(error.is_retryable());
        // In the middle of the handshake: the login, and what follows it.
        for after in 1..3 {
            let stream = TcpStream::connect(broker_address()).unwrap();
            let stream = Faulty::new(stream, Fault::Writes { after });
            let error = Connection::open_stream(patient(), stream).unwrap_err();
            assert_names_the_cause(&error);
        }
    });
}

/// Its time was not up.
#[test]
fn a_write_that_does_not_wait_is_no_timeout() {
    bounded(|| {
        let (stream, _other_end) = silent();
        let stream = Faulty::new(stream, Fault::WritesWouldBlock);
        let error = Connection::open_stream(patient(), stream).unwrap_err();
        assert_matches!(error, Error::Connection(_));
        assert!(!error.to_string().contains("timed out"), "{error}");
        assert!(error.to_string().contains("set_write_timeout"), "{error}");
    });
}

const NOTHING: [io::ErrorKind; 3] = [
    io::ErrorKind::WouldBlock,
    io::ErrorKind::TimedOut,
    io::ErrorKind::Interrupted,
];

#[test]
fn writes_that_come_to_nothing_are_made_again() {
    bounded(|| {
        for kind in NOTHING {
            for (times, stack_timeout) in [(1, None), (3, Some(SOON)), (100, Some(SOON * 2))] {
                let stream = TcpStream::connect(broker_address()).unwrap();
                let stream = Faulty::new(stream, Fault::ComeToNothing { times, kind });
                let parameters = patient().stack_timeout(stack_timeout);
                let connection = Connection::open_stream(parameters, stream).unwrap();
                let channel = connection.channel().unwrap();
                channel.basic_publish("", "nobody", vec![0; 100]).unwrap();
                connection.close().unwrap();
            }
        }
    });
}

/// With a large body, which is written in another way.
#[test]
fn an_open_connection_bears_writes_that_come_to_nothing() {
    bounded(|| {
        for kind in NOTHING {
            let stream = TcpStream::connect(broker_address()).unwrap();
            let stream = Faulty::new(stream, Fault::ComeToNothing { times: 1, kind });
            let connection = Connection::open_stream(patient(), stream).unwrap();
            let channel = connection.channel().unwrap();
            channel.confirm_delivery().unwrap();
            channel
                .basic_publish("", "nobody", vec![0; 300_000])
                .unwrap();
            connection.close().unwrap();
        }
    });
}

#[test]
fn writes_that_always_come_to_nothing_end_with_the_time() {
    bounded(|| {
        for kind in NOTHING {
            let (stream, _other_end) = silent();
            let times = usize::MAX;
            let stream = Faulty::new(stream, Fault::ComeToNothing { times, kind });
            let writes = Arc::clone(&stream.writes);
            let parameters = patient().stack_timeout(Duration::from_millis(300));
            let error = Connection::open_stream(parameters, stream).unwrap_err();
            assert_matches!(error, Error::Connection(_));
            assert!(
                error.to_string().contains("timed out after 300 ms"),
                "{error}"
            );
            let writes = writes.load(Ordering::SeqCst);
            assert!(writes >= 2);
            // None keeps a processor busy. An interrupted one is made again at once, if it is not always so.
            let at_once = if kind == io::ErrorKind::Interrupted {
                10
            } else {
                0
            };
            assert!(writes <= 301 + at_once, "{kind:?}: {writes}");
        }
    });
}

#[test]
fn a_read_that_fails_is_no_refusal_of_the_peer() {
    bounded(|| {
        // Instead of connection.start, of connection.tune, and of connection.open-ok.
        for after in 0..3 {
            let stream = TcpStream::connect(broker_address()).unwrap();
            let stream = Faulty::new(stream, Fault::Reads { after });
            let error = Connection::open_stream(patient(), stream).unwrap_err();
            assert_names_the_cause(&error);
            assert_eq!(error.connect_failure().unwrap().hint, None);
        }
    });
}

#[test]
fn what_the_peer_said_before_tells_more_than_a_write_that_fails() {
    bounded(|| {
        let (stream, mut other_end) = silent();
        other_end
            .write_all(b"HTTP/1.1 400 Bad Request\r\n")
            .unwrap();
        stream.peek(&mut [0]).unwrap();
        let stream = Faulty::new(stream, Fault::Writes { after: 0 });
        let error = Connection::open_stream(patient(), stream).unwrap_err();
        assert_matches!(error, Error::IncompatibleProtocol(_));
        assert!(error.to_string().contains("HTTP"), "{error}");
    });
}

#[test]
fn a_peer_without_amqp_leaves_a_cause() {
    bounded(|| {
        // A TLS alert, HTTP, and nothing known; the peer goes on, or hangs up.
        for said in [
            &[21, 3, 1, 0, 2, 2, 40][..],
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            b"220 mail.example ESMTP\r\n",
        ] {
            for hangs_up in [false, true] {
                let (stream, mut other_end) = silent();
                other_end.write_all(said).unwrap();
                let other_end = Some(other_end).filter(|_| !hangs_up);
                let error = Connection::open_stream(patient(), stream).unwrap_err();
                assert_matches!(error, Error::IncompatibleProtocol(_));
                assert!(error.source().is_some(), "{error:?}");
                drop(other_end);
            }
        }
    });
}

#[test]
fn timeouts_that_cannot_be_set_are_no_fault_of_the_peer() {
    bounded(|| {
        for fault in [Fault::SetReadTimeout, Fault::SetWriteTimeout] {
            let stream = TcpStream::connect(broker_address()).unwrap();
            let stream = Faulty::new(stream, fault);
            let error = Connection::open_stream(patient(), stream).unwrap_err();
            assert_names_the_cause(&error);
            assert!(error.to_string().contains("timeout"), "{error}");
        }
    });
}

#[test]
fn a_stream_that_cannot_be_cloned_is_named() {
    bounded(|| {
        let stream = TcpStream::connect(broker_address()).unwrap();
        let stream = Faulty::new(stream, Fault::TryClone);
        let error = Connection::open_stream(patient(), stream).unwrap_err();
        assert_names_the_cause(&error);
    });
}

#[cfg(feature = "tls")]
mod inside_tls {
    use haypile::TlsOptions;

    use super::*;

    fn patient_with_tls() -> ConnectionParameters {
        patient().tls(TlsOptions::new().danger_accept_any_certificate())
    }

    fn source(error: &Error) -> &io::Error {
        error.source().unwrap().downcast_ref().unwrap()
    }

    #[test]
    fn a_write_that_fails_in_the_tls_handshake_is_reported_at_once() {
        bounded(|| {
            let faults = [
                Fault::Writes { after: 0 },
                Fault::SetReadTimeout,
                Fault::SetWriteTimeout,
            ];
            for fault in faults {
                let (stream, _other_end) = silent();
                let stream = Faulty::new(stream, fault);
                let error = Connection::open_stream(patient_with_tls(), stream).unwrap_err();
                assert_matches!(error, Error::Tls(_));
                assert!(error.to_string().contains("the tunnel is down"), "{error}");
                // It is not the port.
                assert_eq!(error.connect_failure().unwrap().hint, None);
                let source = source(&error).get_ref().unwrap();
                assert!(source.is::<TunnelDown>(), "{source:?}");
            }
        });
    }

    #[test]
    fn a_write_that_does_not_wait_is_no_timeout() {
        bounded(|| {
            let (stream, _other_end) = silent();
            let stream = Faulty::new(stream, Fault::WritesWouldBlock);
            let error = Connection::open_stream(patient_with_tls(), stream).unwrap_err();
            assert_matches!(error, Error::Tls(_));
            let text = source(&error).to_string();
            assert!(text.contains("set_write_timeout"), "{text}");
        });
    }

    #[test]
    fn writes_that_always_come_to_nothing_end_with_the_time() {
        bounded(|| {
            for kind in NOTHING {
                let (stream, _other_end) = silent();
                let times = usize::MAX;
                let stream = Faulty::new(stream, Fault::ComeToNothing { times, kind });
                let parameters = patient_with_tls().stack_timeout(Duration::from_millis(300));
                let error = Connection::open_stream(parameters, stream).unwrap_err();
                assert!(
                    error.to_string().contains("timed out after 300 ms"),
                    "{error}"
                );
            }
        });
    }

    #[test]
    fn a_peer_without_tls_leaves_a_cause() {
        bounded(|| {
            // It goes on, and what it sends cannot be read; or it hangs up.
            for (hangs_up, said) in [
                (false, &b"AMQP\0\0\x09\x01"[..]),
                (false, b"HTTP/1.1 400 Bad Request\r\n\r\n"),
                (true, b"AMQP"),
                (true, b"HT"),
            ] {
                let (stream, mut other_end) = silent();
                other_end.write_all(said).unwrap();
                let other_end = Some(other_end).filter(|_| !hangs_up);
                let error = Connection::open_stream(patient_with_tls(), stream).unwrap_err();
                assert_matches!(error, Error::Tls(_));
                assert!(error.source().is_some(), "{error:?}");
                drop(other_end);
            }
        });
    }
}
