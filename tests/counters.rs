//! What is counted at the stream: how often haypile writes, how soon, and how much it holds back.
//!
//! A stream of this file's own stands between haypile and the broker, and keeps account of every write.

mod support;

use std::io::{self, IoSlice, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{mpsc, Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use haypile::{BasicConsume, Channel, Connection, ConnectionParameters, Error, Stream};
use support::peer::{m, Peer};
use support::{
    assert_matches, assert_message_count, bounded, bounded_by, broker_address, exclusive_queue,
    url, wait_until, SOON,
};

/// What counts as at once, half of the time. One at a time may take longer on a busy machine.
const AT_ONCE: Duration = Duration::from_millis(20);

/// Every write, with its time and its bytes.
#[derive(Default)]
struct Account {
    writes: Mutex<Vec<(Instant, Vec<u8>)>>,
    written: Condvar,
    /// Whether the bytes are kept, or only counted.
    keep: AtomicBool,
    calls: AtomicU64,
    bytes: AtomicU64,
    /// The most that one write was given.
    most: AtomicU64,
}

impl Account {
    fn new(keep: bool) -> Arc<Self> {
        let account = Account::default();
        account.keep.store(keep, Ordering::Relaxed);
        Arc::new(account)
    }

    fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::SeqCst)
    }

    fn note(&self, count: usize, bytes: impl FnOnce() -> Vec<u8>) {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.bytes.fetch_add(count as u64, Ordering::SeqCst);
        if self.keep.load(Ordering::Relaxed) {
            let mut bytes = bytes();
            bytes.truncate(count);
            self.writes.lock().unwrap().push((Instant::now(), bytes));
            self.written.notify_all();
        }
    }

    /// Waits until `what` has been written since the `from`th write; returns when that was.
    #[track_caller]
    fn wait_for(&self, from: usize, what: &[u8]) -> Instant {
        let deadline = Instant::now() + SOON;
        let mut writes = self.writes.lock().unwrap();
        loop {
            let mut seen = Vec::new();
            for (time, bytes) in writes.iter().skip(from) {
                seen.extend_from_slice(bytes);
                if seen.windows(what.len()).any(|window| window == what) {
                    return *time;
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{what:x?} was not written within {SOON:?}");
            writes = self.written.wait_timeout(writes, left).unwrap().0;
        }
    }

    fn count_writes(&self) -> usize {
        self.writes.lock().unwrap().len()
    }

    /// How many heartbeat frames are among what was written.
    fn heartbeats(&self) -> usize {
        let writes = self.writes.lock().unwrap();
        let heartbeat = [8, 0, 0, 0, 0, 0, 0, 0xCE];
        writes
            .iter()
            .filter(|(_, bytes)| *bytes == heartbeat)
            .count()
    }
}

/// A TCP stream that keeps account of what is written to it, and may be slow.
struct Counted {
    stream: TcpStream,
    account: Arc<Account>,
    /// The most that one write takes, and how long it takes over it.
    slow: Option<(usize, Duration)>,
}

impl Counted {
    fn new(stream: TcpStream, account: &Arc<Account>) -> Self {
        stream.set_nodelay(true).unwrap();
        Counted {
            stream,
            account: Arc::clone(account),
            slow: None,
        }
    }
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer)
    }
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bytes = match self.slow {
            Some((most, time)) => {
                thread::sleep(time);
                &bytes[..bytes.len().min(most)]
            }
            None => bytes,
        };
        self.account
            .most
            .fetch_max(bytes.len() as u64, Ordering::SeqCst);
        let count = self.stream.write(bytes)?;
        self.account.note(count, || bytes.to_vec());
        Ok(count)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.slow.is_some() {
            let first = slices.iter().find(|slice| !slice.is_empty());
            return self.write(first.map_or(&[], |slice| slice));
        }
        let given: usize = slices.iter().map(|slice| slice.len()).sum();
        self.account.most.fetch_max(given as u64, Ordering::SeqCst);
        let count = self.stream.write_vectored(slices)?;
        let gather = || slices.iter().flat_map(|slice| slice.to_vec()).collect();
        self.account.note(count, gather);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl Stream for Counted {
    fn try_clone(&self) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(Counted {
            stream: self.stream.try_clone()?,
            account: Arc::clone(&self.account),
            slow: self.slow,
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

/// Connects to the real broker.
fn open_counted(account: &Arc<Account>, heartbeat: u16) -> (Connection, Channel) {
    let parameters = ConnectionParameters::from_url(url())
        .unwrap()
        .heartbeat(heartbeat);
    let stream = TcpStream::connect(broker_address()).unwrap();
    let connection = Connection::open_stream(parameters, Counted::new(stream, account)).unwrap();
    let channel = connection.channel().unwrap();
    (connection, channel)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// `basic.ack`, not multiple, as it is on the wire.
fn ack_frame(channel: u16, delivery_tag: u64) -> Vec<u8> {
    let mut frame = vec![1];
    frame.extend(channel.to_be_bytes());
    frame.extend([0, 0, 0, 13, 0, 60, 0, 80]);
    frame.extend(delivery_tag.to_be_bytes());
    frame.extend([0, 0xCE]);
    frame
}

#[test]
fn many_publishes_take_few_writes() {
    bounded(|| {
        const COUNT: u32 = 10_000;
        let account = Account::new(false);
        let (connection, channel) = open_counted(&account, 60);
        let queue = exclusive_queue(&channel);
        let (calls, bytes) = (account.calls(), account.bytes());
        for _ in 0..COUNT {
            channel
                .basic_publish("", &queue, "sixteen bytes...")
                .unwrap();
        }
        assert_message_count(&channel, &queue, COUNT);
        let calls = account.calls() - calls;
        assert!(calls < u64::from(COUNT) / 10, "{calls} writes");
        // Nothing was left out, and the account is of the right stream.
        assert!(account.bytes() - bytes > u64::from(COUNT) * 16);
        connection.close().unwrap();
    });
}

#[test]
fn many_acks_take_few_writes() {
    bounded(|| {
        const COUNT: u32 = 10_000;
        let account = Account::new(false);
        let (connection, channel) = open_counted(&account, 60);
        let queue = exclusive_queue(&channel);
        for _ in 0..COUNT {
            channel.basic_publish("", &queue, "").unwrap();
        }
        assert_message_count(&channel, &queue, COUNT);
        let (calls, bytes) = (account.calls(), account.bytes());
        let mut left = COUNT;
        channel
            .basic_consume(&queue, move |channel, method, _, _| {
                channel.basic_ack(method.delivery_tag)?;
                left -= 1;
                match left {
                    0 => channel.stop_consuming(),
                    _ => Ok(()),
                }
            })
            .unwrap();
        channel.start_consuming().unwrap();
        assert_message_count(&channel, &queue, 0);
        let (calls, bytes) = (account.calls() - calls, account.bytes() - bytes);
        // Each read of deliveries may be followed by a write of acks, and the broker sends in small portions.
        assert!(calls < u64::from(COUNT) / 3, "{calls} writes");
        // What goes out together is one ack, for all of them.
        let one = ack_frame(1, 1).len() as u64;
        assert!(
            bytes < (calls + 100) * one,
            "{bytes} bytes in {calls} writes"
        );
        connection.close().unwrap();
    });
}

#[test]
fn acks_of_what_was_fetched_share_a_frame() {
    bounded(|| {
        let account = Account::new(false);
        let (connection, channel) = open_counted(&account, 60);
        let queue = exclusive_queue(&channel);
        for _ in 0..100 {
            channel.basic_publish("", &queue, "").unwrap();
        }
        for tag in 1..=100 {
            let (method, _, _) = channel.basic_get(&queue).unwrap().unwrap();
            assert_eq!(method.delivery_tag, tag);
        }
        let bytes = account.bytes();
        for tag in 1..=100 {
            channel.basic_ack(tag).unwrap();
        }
        assert_message_count(&channel, &queue, 0);
        let bytes = account.bytes() - bytes;
        // The writer thread may look in between, and the count is a message too.
        assert!(bytes < 1000, "{bytes} bytes");
        connection.close().unwrap();
    });
}

#[test]
fn an_ack_goes_out_while_the_callback_works_on() {
    bounded(|| {
        const COUNT: u64 = 21;
        let account = Account::new(true);
        let (connection, channel) = open_counted(&account, 60);
        let queue = exclusive_queue(&channel);
        for _ in 0..COUNT {
            channel.basic_publish("", &queue, "work").unwrap();
        }
        assert_message_count(&channel, &queue, COUNT as u32);
        let (times, took) = mpsc::channel();
        let watched = Arc::clone(&account);
        channel
            .basic_consume(&queue, move |channel, method, _, _| {
                let from = watched.count_writes();
                let tag = method.delivery_tag;
                let acked = Instant::now();
                channel.basic_ack(tag)?;
                // The work: it does not end before the ack is on the wire, and calls nothing.
                let written = watched.wait_for(from, &ack_frame(channel.channel_number(), tag));
                times
                    .send(written.saturating_duration_since(acked))
                    .unwrap();
                match tag {
                    COUNT => channel.stop_consuming(),
                    _ => Ok(()),
                }
            })
            .unwrap();
        channel.start_consuming().unwrap();
        let times: Vec<Duration> = took.try_iter().collect();
        assert_eq!(times.len() as u64, COUNT);
        assert!(median(times.clone()) < AT_ONCE, "{times:?}");
        connection.close().unwrap();
    });
}

#[test]
fn a_publish_on_an_idle_connection_goes_out_at_once() {
    bounded(|| {
        let account = Account::new(true);
        let (connection, channel) = open_counted(&account, 60);
        let queue = exclusive_queue(&channel);
        let mut times = Vec::new();
        for n in 0..21 {
            // Idle means that both threads have gone to sleep.
            thread::sleep(Duration::from_millis(20));
            let body = format!("message {n:04}");
            let from = account.count_writes();
            let published = Instant::now();
            channel.basic_publish("", &queue, &body).unwrap();
            let written = account.wait_for(from, body.as_bytes());
            times.push(written.saturating_duration_since(published));
        }
        assert!(median(times.clone()) < AT_ONCE, "{times:?}");
        assert_message_count(&channel, &queue, 21);
        connection.close().unwrap();
    });
}

/// A large body is written from where it lies, not held back either.
#[test]
fn a_large_publish_goes_out_at_once() {
    bounded(|| {
        let account = Account::new(false);
        let (connection, channel) = open_counted(&account, 60);
        let queue = exclusive_queue(&channel);
        let body = vec![b'x'; 1 << 20];
        let bytes = account.bytes();
        channel.basic_publish("", &queue, &body).unwrap();
        wait_until(SOON, || account.bytes() - bytes > 1 << 20);
        assert_message_count(&channel, &queue, 1);
        connection.close().unwrap();
    });
}

/// Loopback carries up to 64 KiB at once. A write of a little more costs twice as much a byte, whatever the messages are.
#[test]
fn a_write_fits_into_one_segment() {
    bounded(|| {
        let account = Account::new(false);
        let (connection, channel) = open_counted(&account, 60);
        let queue = exclusive_queue(&channel);
        let sizes = [1000; 400].into_iter().chain([20_000; 20]);
        let sizes: Vec<usize> = sizes.chain([40_000, 65_536, 131_064, 1 << 20]).collect();
        let body = |n: usize, size| vec![n as u8; size];
        for (n, size) in sizes.iter().enumerate() {
            channel.basic_publish("", &queue, body(n, *size)).unwrap();
        }
        for (n, size) in sizes.iter().enumerate() {
            let (_, _, got) = channel.basic_get(&queue).unwrap().expect("a message");
            assert!(got == body(n, *size), "message {n} of {size} bytes");
        }
        let most = account.most.load(Ordering::SeqCst);
        assert!(most < 65_000, "{most} bytes in one write");
        connection.close().unwrap();
    });
}

#[test]
fn heartbeats_flow_while_a_callback_runs() {
    bounded(|| {
        let account = Account::new(true);
        let (connection, channel) = open_counted(&account, 1);
        assert_eq!(connection.heartbeat(), Duration::from_secs(1));
        let queue = exclusive_queue(&channel);
        channel.basic_publish("", &queue, "long work").unwrap();
        let (before, watched) = (account.heartbeats(), Arc::clone(&account));
        let on_message = move |channel: &Channel, _, _, _| {
            // The broker gives up after two or three seconds of silence; this takes longer than that.
            let started = Instant::now();
            let long = Duration::from_secs(4);
            wait_until(SOON, || {
                started.elapsed() >= long && watched.heartbeats() >= before + 4
            });
            channel.stop_consuming()
        };
        let request = BasicConsume::new(&queue).auto_ack(true);
        channel.basic_consume(request, on_message).unwrap();
        channel.start_consuming().unwrap();
        // It still replies.
        assert_message_count(&channel, &queue, 0);
        connection.close().unwrap();
    });
}

/// What haypile may hold of messages that are published and not written.
const BOUND: u64 = 4 << 20;

/// What method, header and frames add to a body published to `q` without properties.
const FRAMES: u64 = 48;

#[test]
fn publishing_to_a_peer_that_stops_reading_ends_by_the_deadline_with_bounded_memory() {
    publish_to_a_peer_that_stops_reading(1000);
}

/// These are written from where they lie, which must end by the deadline too.
#[test]
fn publishing_large_bodies_to_a_peer_that_stops_reading_ends_by_the_deadline_with_bounded_memory() {
    publish_to_a_peer_that_stops_reading(100_000);
}

fn publish_to_a_peer_that_stops_reading(size: u64) {
    bounded(move || {
        let (done, wait) = mpsc::channel::<()>();
        let peer = Peer::start(move |session| {
            session.handshake();
            session.open_channel(1);
            // It reads no more, and does not hang up.
            let _ = wait.recv();
        });
        let account = Account::new(false);
        let stream = TcpStream::connect(peer.address()).unwrap();
        let rpc_timeout = Duration::from_secs(1);
        let parameters = ConnectionParameters::new("127.0.0.1").rpc_timeout(rpc_timeout);
        let connection =
            Connection::open_stream(parameters, Counted::new(stream, &account)).unwrap();
        let channel = connection.channel().unwrap();
        let before = account.bytes();
        let body = vec![b'x'; size as usize];
        let mut published = 0;
        let (error, waited) = loop {
            let started = Instant::now();
            match channel.basic_publish("", "q", &body) {
                Ok(()) => published += 1,
                Err(error) => break (error, started.elapsed()),
            }
            assert!(published < 200_000, "all was taken, and nothing is read");
        };
        assert_matches!(error, Error::Timeout { .. });
        assert!(waited >= rpc_timeout, "{waited:?}");
        assert!(waited < rpc_timeout + SOON, "{waited:?}");
        // Of the message that failed a part may have been written.
        let held = (published * (size + FRAMES)).saturating_sub(account.bytes() - before);
        assert!(held < BOUND, "{held} bytes are held");
        done.send(()).unwrap();
        // The peer hangs up now, so closing has no reply to wait for.
        drop(peer);
        let _ = connection.close();
    });
}

#[test]
fn publishing_to_a_slow_peer_holds_a_bounded_amount() {
    bounded_by(Duration::from_secs(60), || {
        const COUNT: u64 = 200_000;
        const SIZE: u64 = 100;
        let peer = Peer::start(move |session| {
            session.handshake();
            session.open_channel(1);
            let mut seen = 0;
            while let Some(frame) = session.frame_or_end() {
                seen += u64::from(frame.is(1, m::BASIC_PUBLISH));
                if frame.is(1, m::CHANNEL_CLOSE) {
                    assert_eq!(seen, COUNT);
                    session.send_method(1, m::CHANNEL_CLOSE_OK, Default::default());
                }
                if frame.is(0, m::CONNECTION_CLOSE) {
                    session.send_method(0, m::CONNECTION_CLOSE_OK, Default::default());
                }
            }
        });
        let account = Account::new(false);
        let stream = TcpStream::connect(peer.address()).unwrap();
        let mut stream = Counted::new(stream, &account);
        stream.slow = Some((64 * 1024, Duration::from_millis(1)));
        let parameters = ConnectionParameters::new("127.0.0.1").rpc_timeout(SOON * 3);
        let connection = Connection::open_stream(parameters, stream).unwrap();
        let channel = connection.channel().unwrap();
        let before = account.bytes();
        let body = [b'x'; SIZE as usize];
        let mut most = 0;
        for n in 1..=COUNT {
            channel.basic_publish("", "q", body).unwrap();
            // Other threads of this program end meanwhile, and have a few bytes of their own sent.
            let written = account.bytes() - before;
            most = most.max((n * (SIZE + FRAMES)).saturating_sub(written));
        }
        assert!(most < BOUND, "{most} bytes were held");
        channel.close().unwrap();
        connection.close().unwrap();
        peer.finish();
    });
}
