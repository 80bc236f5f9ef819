//! Connections over streams that the caller made: with the same deadlines and the same guarantees as over TCP.

#[path = "support/streams.rs"]
mod streams;
mod support;

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use haypile::{
    BasicConsume, BasicGet, Connection, ConnectionParameters, ConsumingEnded, Error, Stage, Stream,
};

use streams::{bridge, pair, End};
use support::peer::Peer;
use support::{assert_matches, bounded, broker_address, wait_until, SOON};

fn parameters() -> ConnectionParameters {
    ConnectionParameters::from_url(support::url()).unwrap()
}

/// A connection to the broker over a pair in memory, and the end that the broker's bytes come in at.
fn in_memory(parameters: ConnectionParameters) -> Connection {
    let (ours, theirs) = pair();
    bridge(theirs, broker_address());
    Connection::open_stream(parameters, ours).unwrap()
}

/// Small and large messages, calls, confirms, consuming.
#[track_caller]
fn works(connection: &Connection) {
    let channel = connection.channel().unwrap();
    let queue = support::exclusive_queue(&channel);
    let mut publisher = channel.publisher(100).unwrap();
    for n in 0..300_u32 {
        let body = n
            .to_be_bytes()
            .repeat(if n % 50 == 0 { 100_000 } else { 10 });
        publisher.publish("", &queue, body).unwrap();
    }
    publisher.wait_for_confirms(SOON).unwrap();
    let mut next = 0_u32;
    channel
        .basic_consume(
            BasicConsume::new(&queue),
            move |channel, method, _, body| {
                assert!(
                    body.chunks(4).all(|part| part == next.to_be_bytes()),
                    "{next}"
                );
                channel.basic_ack(method.delivery_tag)?;
                next += 1;
                match next {
                    300 => channel.stop_consuming(),
                    _ => Ok(()),
                }
            },
        )
        .unwrap();
    assert!(matches!(
        channel.start_consuming().unwrap(),
        ConsumingEnded::Cancelled
    ));
    channel.close().unwrap();
}

#[test]
fn a_pair_in_memory() {
    bounded(|| {
        let connection = in_memory(parameters());
        works(&connection);
        connection.close().unwrap();
    });
}

#[cfg(unix)]
#[test]
fn a_unix_socket() {
    bounded(|| {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        bridge(theirs, broker_address());
        let connection = Connection::open_stream(parameters(), ours).unwrap();
        works(&connection);
        connection.close().unwrap();
    });
}

#[test]
fn a_tcp_stream_that_the_caller_has_connected() {
    bounded(|| {
        let stream = TcpStream::connect(broker_address()).unwrap();
        let connection = Connection::open_stream(parameters(), stream).unwrap();
        works(&connection);
        connection.close().unwrap();
    });
}

#[test]
fn a_stream_within_a_box() {
    bounded(|| {
        let stream: Box<dyn Stream> = Box::new(TcpStream::connect(broker_address()).unwrap());
        let connection = Connection::open_stream(parameters(), stream).unwrap();
        works(&connection);
        connection.close().unwrap();
    });
}

/// A stream that gives and takes a few bytes at a time, and is interrupted in between.
struct Crumbs {
    inner: Box<dyn Stream>,
    interrupted: bool,
}

impl Crumbs {
    fn interrupt(&mut self) -> io::Result<()> {
        self.interrupted = !self.interrupted;
        match self.interrupted {
            true => Err(io::ErrorKind::Interrupted.into()),
            false => Ok(()),
        }
    }
}

impl Read for Crumbs {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.interrupt()?;
        let most = buf.len().min(7);
        self.inner.read(&mut buf[..most])
    }
}

impl Write for Crumbs {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.interrupt()?;
        self.inner.write(&buf[..buf.len().min(5)])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl Stream for Crumbs {
    fn try_clone(&self) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(Crumbs {
            inner: self.inner.try_clone()?,
            interrupted: false,
        }))
    }
    fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.inner.set_read_timeout(timeout)
    }
    fn set_write_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.inner.set_write_timeout(timeout)
    }
    fn shutdown(&self) -> io::Result<()> {
        self.inner.shutdown()
    }
}

#[test]
fn a_stream_of_crumbs() {
    bounded(|| {
        let (ours, theirs) = pair();
        bridge(theirs, broker_address());
        let crumbs = Crumbs {
            inner: Box::new(ours),
            interrupted: false,
        };
        let connection = Connection::open_stream(parameters(), crumbs).unwrap();
        let channel = connection.channel().unwrap();
        let queue = support::exclusive_queue(&channel);
        channel.confirm_delivery().unwrap();
        for length in [0, 1, 10, 1000, 100_000] {
            let body: Vec<u8> = (0..length).map(|n: u32| n as u8).collect();
            channel.basic_publish("", &queue, &body).unwrap();
            let got = channel.basic_get(BasicGet::new(&queue).auto_ack(true));
            assert!(got.unwrap().unwrap().2 == body, "{length}");
        }
        connection.close().unwrap();
    });
}

// ---- deadlines

/// A peer that takes whatever comes and never sends a byte, until the stream ends.
fn mute(mut end: End) -> thread::JoinHandle<usize> {
    thread::spawn(move || {
        let mut taken = 0;
        let mut buffer = [0; 4096];
        while let Ok(count) = end.read(&mut buffer) {
            if count == 0 {
                break;
            }
            taken += count;
        }
        taken
    })
}

#[test]
fn a_silent_peer_is_given_up() {
    bounded(|| {
        let (ours, theirs) = pair();
        let peer = mute(theirs);
        let limited = parameters()
            .host("far.example")
            .port(1234)
            .stack_timeout(Duration::from_millis(400));
        let began = Instant::now();
        let error = Connection::open_stream(limited, ours).unwrap_err();
        assert!(began.elapsed() >= Duration::from_millis(400) && began.elapsed() < SOON);
        assert_matches!(error, Error::Connection(_));
        assert_eq!(
            error.connect_failure().unwrap().stage,
            Stage::ProtocolHeader
        );
        // Nobody is connected to, but errors name whom the parameters name.
        assert_eq!(error.address(), Some("far.example:1234"));
        assert_eq!(peer.join().unwrap(), 8);
    });
}

#[test]
fn a_peer_that_takes_nothing_is_given_up() {
    bounded(|| {
        // A first write of 8 bytes always fits; so does the rest of the handshake. The peer stops taking afterwards.
        let (ours, theirs) = pair();
        let stopped = Arc::new(AtomicBool::new(false));
        let broker = valve(theirs, &stopped);
        let connection = Connection::open_stream(
            parameters()
                .heartbeat(0)
                .rpc_timeout(Duration::from_millis(500)),
            ours,
        )
        .unwrap();
        let channel = connection.channel().unwrap();
        stopped.store(true, Ordering::Relaxed);
        let began = Instant::now();
        let error = (0..100)
            .find_map(|_| channel.basic_publish("", "nowhere", vec![0; 100_000]).err())
            .expect("100 times 100 kB went into a stream that holds 16 kB");
        assert_matches!(error, Error::Timeout { .. });
        assert!(began.elapsed() < SOON);
        // Closing has its deadline too.
        let began = Instant::now();
        assert!(connection.close().is_err());
        assert!(began.elapsed() < SOON && connection.is_closed());
        drop(broker);
    });
}

/// A bridge to the broker that can be stopped.
fn valve(end: End, stopped: &Arc<AtomicBool>) -> thread::JoinHandle<()> {
    let peer = TcpStream::connect(broker_address()).unwrap();
    let mut to_us = Stream::try_clone(&end).unwrap();
    let (mut from_peer, mut to_peer) = (peer.try_clone().unwrap(), peer);
    let stop = Arc::clone(stopped);
    let mut from_us = end;
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = from_us.read(&mut buffer) {
            let began = Instant::now();
            while stop.load(Ordering::Relaxed) && began.elapsed() < SOON {
                thread::sleep(Duration::from_millis(10));
            }
            if to_peer.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        let _ = Stream::shutdown(&to_peer);
    });
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = from_peer.read(&mut buffer) {
            if to_us.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        let _ = to_us.shutdown();
    })
}

#[test]
fn a_call_without_a_reply_ends_in_time() {
    bounded(|| {
        let peer = Peer::start(|session| {
            session.handshake();
            session.open_channel(1);
            session.serve_until_end();
        });
        let (ours, theirs) = pair();
        bridge(theirs, peer.address());
        let limited = parameters()
            .virtual_host("/")
            .rpc_timeout(Duration::from_millis(300));
        let connection = Connection::open_stream(limited, ours).unwrap();
        let channel = connection.channel().unwrap();
        let error = channel.tx_select().unwrap_err();
        assert_matches!(error, Error::Timeout { .. });
        drop((channel, connection));
        peer.finish();
    });
}

#[test]
fn a_peer_that_goes_silent_is_noticed() {
    bounded(|| {
        let peer = Peer::start(|session| {
            session.handshake();
            session.silent_until_end();
        });
        let (ours, theirs) = pair();
        bridge(theirs, peer.address());
        let connection = Connection::open_stream(parameters().heartbeat(1), ours).unwrap();
        wait_until(SOON, || connection.is_closed());
        let error = connection.channel().unwrap_err();
        assert_matches!(error, Error::HeartbeatTimeout { .. });
        peer.finish();
    });
}

#[test]
fn an_idle_connection_lives_on_its_heartbeats() {
    bounded(|| {
        let connection = in_memory(parameters().heartbeat(1));
        // Either side gives up after two to three seconds of silence.
        thread::sleep(Duration::from_secs(5));
        works(&connection);
        connection.close().unwrap();
    });
}

#[test]
fn the_end_of_the_stream_wakes_every_thread_that_waits() {
    bounded(|| {
        let (ours, theirs) = pair();
        let end = Stream::try_clone(&theirs).unwrap();
        bridge(theirs, broker_address());
        let connection = Connection::open_stream(parameters(), ours).unwrap();
        let channel = connection.channel().unwrap();
        let queue = support::exclusive_queue(&channel);
        channel.basic_consume(&queue, |_, _, _, _| ()).unwrap();
        let waiting = thread::spawn(move || channel.start_consuming());
        support::let_others_wait();
        end.shutdown().unwrap();
        let error = waiting.join().unwrap().unwrap_err();
        assert_matches!(error, Error::StreamLost(_));
        assert!(connection.is_closed());
    });
}

#[test]
fn closing_ends_the_stream() {
    bounded(|| {
        let (ours, theirs) = pair();
        let mut end = Stream::try_clone(&theirs).unwrap();
        bridge(theirs, broker_address());
        let connection = Connection::open_stream(parameters(), ours).unwrap();
        connection.close().unwrap();
        // The writing thread does so when everything is written.
        wait_until(SOON, || end.write(b"x").is_err());
    });
}
