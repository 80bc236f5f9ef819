//! What a stream of the caller's own may do, what it must not do, and how a dead connection differs from a timeout.

mod support;

use std::io::{self, BufWriter, IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicU8, Ordering};
use std::sync::{mpsc, Arc, Mutex};
use std::time::{Duration, Instant};

use haypile::{BasicGet, Connection, ConnectionParameters, Error, Stream, TcpOptions};
use support::peer::Peer;
use support::{assert_matches, bounded, broker_address, exclusive_queue, url, wait_until, SOON};

/// What is wrong with the stream, from now on, and how many calls came to nothing because of it.
#[derive(Default)]
struct Fault(AtomicU8, AtomicU64);

const NONE: u8 = 0;
const READS_TOO_MUCH: u8 = 1;
const WRITES_TOO_MUCH: u8 = 2;
const DOES_NOT_WAIT: u8 = 3;
#[cfg(target_os = "linux")]
const DEAD_FOR_READS: u8 = 4;
#[cfg(target_os = "linux")]
const DEAD_FOR_WRITES: u8 = 5;
/// A read has been given the error and is slow to return it; a write gets only that there is no connection.
#[cfg(target_os = "linux")]
const DEAD_FOR_A_SLOW_READ: u8 = 6;
#[cfg(target_os = "linux")]
const WRITE_HAS_FAILED: u8 = 7;

const READS_ARE_INTERRUPTED: u8 = 8;
const WRITES_ARE_INTERRUPTED: u8 = 9;
const WRITES_DO_NOT_WAIT: u8 = 10;

#[cfg(target_os = "linux")]
const ETIMEDOUT: i32 = 110;

/// TCP with a fault that can be switched on.
struct Faulty {
    stream: TcpStream,
    fault: Arc<Fault>,
}

impl Faulty {
    fn is(&self, fault: u8) -> bool {
        self.fault.0.load(Ordering::SeqCst) == fault
    }

    /// Fails at once if the stream has this fault.
    fn fail(&self, fault: u8, kind: io::ErrorKind) -> io::Result<()> {
        if !self.is(fault) {
            return Ok(());
        }
        self.fault.1.fetch_add(1, Ordering::SeqCst);
        Err(kind.into())
    }
}

/// The operating system reports this once; afterwards the stream is at its end.
#[cfg(target_os = "linux")]
fn dead(fault: &Fault) -> io::Error {
    fault.0.store(NONE, Ordering::SeqCst);
    io::Error::from_raw_os_error(ETIMEDOUT)
}

impl Read for Faulty {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.fail(DOES_NOT_WAIT, io::ErrorKind::WouldBlock)?;
        self.fail(READS_ARE_INTERRUPTED, io::ErrorKind::Interrupted)?;
        let result = self.stream.read(buffer);
        #[cfg(target_os = "linux")]
        if self.is(DEAD_FOR_READS) {
            let _ = Stream::shutdown(&self.stream);
            return Err(dead(&self.fault));
        }
        #[cfg(target_os = "linux")]
        if self.is(WRITE_HAS_FAILED) {
            std::thread::sleep(Duration::from_millis(50));
            return Err(dead(&self.fault));
        }
        match result {
            Ok(count) if count > 0 && self.is(READS_TOO_MUCH) => Ok(buffer.len() + 1),
            other => other,
        }
    }
}

impl Write for Faulty {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.fail(WRITES_ARE_INTERRUPTED, io::ErrorKind::Interrupted)?;
        self.fail(WRITES_DO_NOT_WAIT, io::ErrorKind::WouldBlock)?;
        #[cfg(target_os = "linux")]
        if self.is(DEAD_FOR_WRITES) {
            return Err(dead(&self.fault));
        }
        #[cfg(target_os = "linux")]
        if self.is(DEAD_FOR_A_SLOW_READ) {
            self.fault.0.store(WRITE_HAS_FAILED, Ordering::SeqCst);
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let count = self.stream.write(bytes)?;
        Ok(count + usize::from(self.is(WRITES_TOO_MUCH)))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl Stream for Faulty {
    fn try_clone(&self) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(Faulty {
            stream: self.stream.try_clone()?,
            fault: Arc::clone(&self.fault),
        }))
    }

    fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        Stream::set_read_timeout(&self.stream, timeout)
    }

    fn set_write_timeout(&self, timeout: Duration) -> io::Result<()> {
        Stream::set_write_timeout(&self.stream, timeout)
    }

    fn shutdown(&self) -> io::Result<()> {
        Stream::shutdown(&self.stream)
    }
}

fn faulty(fault: u8) -> (Faulty, Arc<Fault>) {
    let state = Arc::new(Fault::default());
    state.0.store(fault, Ordering::SeqCst);
    let stream = TcpStream::connect(broker_address()).unwrap();
    let fault = Arc::clone(&state);
    (Faulty { stream, fault }, state)
}

fn parameters() -> ConnectionParameters {
    ConnectionParameters::from_url(url()).unwrap()
}

/// Opens over a sound stream that then gets a fault, and waits for what becomes of it.
fn end_with(fault: u8) -> Error {
    let (stream, state) = faulty(NONE);
    let connection = Connection::open_stream(parameters(), stream).unwrap();
    let channel = connection.channel().unwrap();
    let queue = exclusive_queue(&channel);
    state.0.store(fault, Ordering::SeqCst);
    let began = Instant::now();
    let error = loop {
        if let Err(error) = channel.basic_publish("", &queue, "x") {
            break error;
        }
        if let Err(error) = channel.basic_get(BasicGet::new(&queue).auto_ack(true)) {
            break error;
        }
        assert!(began.elapsed() < SOON, "the fault was not noticed");
    };
    // A write that failed may be noticed by a call before the writer thread has ended the connection.
    wait_until(SOON, || connection.is_closed());
    error
}

#[test]
fn a_stream_that_claims_too_much_ends_the_connection() {
    bounded(|| {
        for (fault, method) in [(READS_TOO_MUCH, "read"), (WRITES_TOO_MUCH, "write")] {
            let error = end_with(fault);
            assert_matches!(error, Error::StreamLost(_));
            let text = error.to_string();
            assert!(
                text.contains(&format!("the stream's {method} returned")),
                "{text}"
            );
        }
        let error = Connection::open_stream(parameters(), faulty(READS_TOO_MUCH).0).unwrap_err();
        assert!(error.to_string().contains("the stream's read"), "{error}");
    });
}

#[test]
fn a_stream_that_does_not_wait_is_noticed() {
    bounded(|| {
        // A broker might have replied before it is read.
        let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let stream = TcpStream::connect(silent.local_addr().unwrap()).unwrap();
        stream.set_nonblocking(true).unwrap();
        let error = Connection::open_stream(parameters(), stream).unwrap_err();
        assert_matches!(error, Error::Connection(_));
        assert!(error.to_string().contains("set_read_timeout"), "{error}");

        let (stream, state) = faulty(NONE);
        let connection = Connection::open_stream(parameters(), stream).unwrap();
        state.0.store(DOES_NOT_WAIT, Ordering::SeqCst);
        wait_until(SOON, || connection.is_closed());
        let error = connection.channel().unwrap_err();
        assert!(error.to_string().contains("set_read_timeout"), "{error}");
    });
}

#[test]
fn calls_that_always_come_to_nothing_keep_no_processor_busy() {
    bounded(|| {
        for fault in [
            READS_ARE_INTERRUPTED,
            WRITES_ARE_INTERRUPTED,
            WRITES_DO_NOT_WAIT,
        ] {
            let (stream, state) = faulty(NONE);
            let connection = Connection::open_stream(parameters(), stream).unwrap();
            let channel = connection.channel().unwrap();
            let began = Instant::now();
            state.0.store(fault, Ordering::SeqCst);
            channel.basic_publish("", "nobody", "x").unwrap();
            wait_until(SOON, || state.1.load(Ordering::SeqCst) >= 100);
            // Once in a millisecond, but for the first.
            assert!(began.elapsed() >= Duration::from_millis(80), "{fault}");
            // Nothing is lost by it.
            state.0.store(NONE, Ordering::SeqCst);
            channel.close().unwrap();
            connection.close().unwrap();
        }
    });
}

// ---- a stream that panics

/// TCP of which one method panics, from its nth call on.
struct Panicking {
    stream: TcpStream,
    method: &'static str,
    after: Arc<AtomicU64>,
    calls: Arc<AtomicU64>,
}

impl Panicking {
    fn new(stream: TcpStream, method: &'static str, after: u64) -> Self {
        Panicking {
            stream,
            method,
            after: Arc::new(AtomicU64::new(after)),
            calls: Arc::default(),
        }
    }

    fn called(&self, method: &'static str) {
        if method == self.method {
            let calls = self.calls.fetch_add(1, Ordering::SeqCst);
            if calls >= self.after.load(Ordering::SeqCst) {
                panic!("no more {method}");
            }
        }
    }
}

impl Read for Panicking {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.called("read");
        self.stream.read(buffer)
    }
}

impl Write for Panicking {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.called("write");
        self.stream.write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.called("write_vectored");
        self.stream.write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.called("flush");
        self.stream.flush()
    }
}

impl Stream for Panicking {
    fn try_clone(&self) -> io::Result<Box<dyn Stream>> {
        self.called("try_clone");
        Ok(Box::new(Panicking {
            stream: self.stream.try_clone()?,
            method: self.method,
            after: Arc::clone(&self.after),
            calls: Arc::clone(&self.calls),
        }))
    }

    fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.called("set_read_timeout");
        Stream::set_read_timeout(&self.stream, timeout)
    }

    fn set_write_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.called("set_write_timeout");
        Stream::set_write_timeout(&self.stream, timeout)
    }

    fn shutdown(&self) -> io::Result<()> {
        self.called("shutdown");
        Stream::shutdown(&self.stream)
    }
}

#[track_caller]
fn assert_panicked(error: &Error, method: &'static str) {
    let wanted = format!("the stream's {method} panicked: no more {method}");
    assert!(error.to_string().contains(&wanted), "{error}");
}

#[test]
fn a_panic_of_the_stream_ends_the_connection() {
    bounded(|| {
        for method in [
            "read",
            "write",
            "write_vectored",
            "flush",
            "set_read_timeout",
        ] {
            let stream = TcpStream::connect(broker_address()).unwrap();
            let stream = Panicking::new(stream, method, u64::MAX);
            let after = Arc::clone(&stream.after);
            // Nothing but the panic ends a call.
            let parameters = parameters().rpc_timeout(SOON * 10).heartbeat(0);
            let connection = Connection::open_stream(parameters, stream).unwrap();
            let channel = connection.channel().unwrap();
            let queue = exclusive_queue(&channel);
            after.store(0, Ordering::SeqCst);
            let error = loop {
                // Two sizes, since large bodies are written in another way.
                let sent = channel
                    .basic_publish("", &queue, vec![0; 100_000])
                    .and_then(|()| channel.basic_publish("", &queue, "x"));
                if let Err(error) = sent {
                    break error;
                }
                if let Err(error) = channel.basic_get(BasicGet::new(&queue).auto_ack(true)) {
                    break error;
                }
            };
            assert_matches!(error, Error::StreamLost(_));
            assert_panicked(&error, method);
            wait_until(SOON, || connection.is_closed());
            assert_panicked(&connection.channel().unwrap_err(), method);
        }
    });
}

/// The reader thread reads, and no call is waiting.
#[test]
fn a_panic_of_a_read_is_noticed_without_a_call() {
    bounded(|| {
        let stream = TcpStream::connect(broker_address()).unwrap();
        let stream = Panicking::new(stream, "read", u64::MAX);
        let (after, calls) = (Arc::clone(&stream.after), Arc::clone(&stream.calls));
        let connection = Connection::open_stream(parameters().heartbeat(1), stream).unwrap();
        let seen = calls.load(Ordering::SeqCst);
        wait_until(SOON, || calls.load(Ordering::SeqCst) > seen);
        after.store(0, Ordering::SeqCst);
        wait_until(SOON, || connection.is_closed());
        let end = connection.process_data_events(SOON).unwrap_err();
        assert_panicked(&end, "read");
    });
}

#[test]
fn a_panic_of_the_stream_while_opening_is_an_error() {
    bounded(|| {
        for method in [
            "read",
            "write",
            "flush",
            "try_clone",
            "set_read_timeout",
            "set_write_timeout",
        ] {
            for after in 0..3 {
                let stream = TcpStream::connect(broker_address()).unwrap();
                let stream = Panicking::new(stream, method, after);
                let may_open = after > 0
                    && matches!(
                        method,
                        "try_clone" | "set_read_timeout" | "set_write_timeout"
                    );
                match Connection::open_stream(parameters(), stream) {
                    Err(error) => {
                        assert_matches!(error, Error::Connection(_));
                        assert_panicked(&error, method);
                    }
                    // There are so few such calls.
                    Ok(_) => assert!(may_open, "{method} {after}"),
                }
            }
        }
    });
}

#[test]
fn a_panic_of_shutdown_does_not_keep_a_connection_from_its_end() {
    bounded(|| {
        let stream = TcpStream::connect(broker_address()).unwrap();
        let connection =
            Connection::open_stream(parameters(), Panicking::new(stream, "shutdown", 0)).unwrap();
        connection.close().unwrap();
        assert!(connection.is_closed());
        // The peer speaks no AMQP.
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        drop(listener.accept().unwrap());
        let error = Connection::open_stream(parameters(), Panicking::new(stream, "shutdown", 0));
        assert_matches!(error.unwrap_err(), Error::IncompatibleProtocol(_));
    });
}

#[cfg(feature = "tls")]
#[test]
fn a_panic_of_a_stream_below_tls_is_an_error() {
    use haypile::TlsOptions;
    bounded(|| {
        for method in [
            "read",
            "write",
            "flush",
            "set_read_timeout",
            "set_write_timeout",
        ] {
            let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
            let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let tls = TlsOptions::new().danger_accept_any_certificate();
            let stream = Panicking::new(stream, method, 0);
            let error = Connection::open_stream(parameters().tls(tls), stream).unwrap_err();
            assert_matches!(error, Error::Tls(_));
            assert_panicked(&error, method);
        }
    });
}

// ---- a stream that buffers

/// Sends only when it is flushed or its buffer is full.
struct Buffering {
    stream: TcpStream,
    buffer: Arc<Mutex<BufWriter<TcpStream>>>,
    flushes: Arc<Flushes>,
}

/// Once it may, each second flush runs out of time.
#[derive(Default)]
struct Flushes {
    may_fail: AtomicBool,
    count: AtomicU64,
}

impl Buffering {
    fn new() -> Self {
        let stream = TcpStream::connect(broker_address()).unwrap();
        let inner = stream.try_clone().unwrap();
        Buffering {
            stream,
            buffer: Arc::new(Mutex::new(BufWriter::with_capacity(8192, inner))),
            flushes: Arc::default(),
        }
    }
}

impl Read for Buffering {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer)
    }
}

impl Write for Buffering {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        let count = self.flushes.count.fetch_add(1, Ordering::SeqCst);
        if self.flushes.may_fail.load(Ordering::SeqCst) && count % 2 == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.buffer.lock().unwrap().flush()
    }
}

impl Stream for Buffering {
    fn try_clone(&self) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(Buffering {
            stream: self.stream.try_clone()?,
            buffer: Arc::clone(&self.buffer),
            flushes: Arc::clone(&self.flushes),
        }))
    }

    fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        Stream::set_read_timeout(&self.stream, timeout)
    }

    fn set_write_timeout(&self, timeout: Duration) -> io::Result<()> {
        Stream::set_write_timeout(&self.stream, timeout)
    }

    fn shutdown(&self) -> io::Result<()> {
        Stream::shutdown(&self.stream)
    }
}

#[test]
fn a_stream_may_buffer_until_it_is_flushed() {
    bounded(|| {
        let stream = Buffering::new();
        let flushes = Arc::clone(&stream.flushes);
        let connection = Connection::open_stream(parameters(), stream).unwrap();
        flushes.may_fail.store(true, Ordering::SeqCst);
        let channel = connection.channel().unwrap();
        let queue = exclusive_queue(&channel);
        channel.confirm_delivery().unwrap();
        for size in [0, 10, 1000, 10_000, 40_000, 1 << 20] {
            let body: Vec<u8> = (0..size).map(|n: u32| n as u8).collect();
            channel.basic_publish("", &queue, &body).unwrap();
            let got = channel.basic_get(BasicGet::new(&queue).auto_ack(true));
            assert!(got.unwrap().unwrap().2 == body, "{size}");
        }
        let mut publisher = channel.publisher(10).unwrap();
        publisher.publish("", &queue, vec![0; 500]).unwrap();
        publisher.wait_for_confirms(SOON).unwrap();
        connection.close().unwrap();
    });
}

// ---- a dead connection

#[cfg(target_os = "linux")]
#[test]
fn etimedout_is_no_timeout() {
    bounded(|| {
        for fault in [DEAD_FOR_READS, DEAD_FOR_WRITES] {
            let error = end_with(fault);
            assert_matches!(error, Error::StreamLost(_));
            let text = error.to_string();
            assert!(
                text.contains("timed out") && text.contains("TCP_USER_TIMEOUT"),
                "{text}"
            );
        }
        let error = Connection::open_stream(parameters(), faulty(DEAD_FOR_READS).0).unwrap_err();
        assert_matches!(error, Error::Connection(_));
        assert!(error.to_string().contains("timed out"), "{error}");
    });
}

/// The first call that fails gives the reason, also if it fails because of a write, which was not given it.
#[cfg(target_os = "linux")]
#[test]
fn the_first_call_gives_the_reason_that_a_read_was_given() {
    bounded(|| {
        for size in [1, 100_000] {
            let (stream, state) = faulty(NONE);
            let connection = Connection::open_stream(parameters(), stream).unwrap();
            let channel = connection.channel().unwrap();
            let queue = exclusive_queue(&channel);
            state.0.store(DEAD_FOR_A_SLOW_READ, Ordering::SeqCst);
            let began = Instant::now();
            let error = loop {
                if let Err(error) = channel.basic_publish("", &queue, vec![0; size]) {
                    break error;
                }
                assert!(began.elapsed() < SOON, "the fault was not noticed");
            };
            assert!(error.to_string().contains("timed out"), "{size}: {error}");
        }
    });
}

/// The operating system gives up a peer that takes nothing for that long.
#[cfg(target_os = "linux")]
#[test]
fn a_connection_that_tcp_user_timeout_ends_is_reported_as_timed_out() {
    bounded(|| {
        let (done, wait) = mpsc::channel::<()>();
        let peer = Peer::start(move |session| {
            session.handshake();
            session.open_channel(1);
            // It reads no more, and does not hang up.
            let _ = wait.recv();
        });
        let options = TcpOptions::new().user_timeout(Duration::from_secs(1));
        let own = ConnectionParameters::from_url(peer.url()).unwrap();
        let connection = Connection::open(own.heartbeat(0).tcp_options(options)).unwrap();
        let channel = connection.channel().unwrap();
        let began = Instant::now();
        let error = loop {
            if let Err(error) = channel.basic_publish("", "q", vec![0; 100_000]) {
                break error;
            }
            assert!(began.elapsed() < SOON * 2, "the connection is still there");
        };
        assert_matches!(error, Error::StreamLost(_));
        assert!(error.to_string().contains("timed out"), "{error}");
        let end = connection.process_data_events(SOON).unwrap_err();
        assert!(end.to_string().contains("timed out"), "{end}");
        done.send(()).unwrap();
        drop(peer);
    });
}
