//! What a hostile network, a hostile scheduler and an unusual program do to the connection.

mod support;

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{mpsc, Arc};
use std::thread;
use std::time::{Duration, Instant};

use haypile::{
    BasicConsume, BasicPublish, Channel, Connection, ConnectionParameters, Error, QueueDeclare,
    Stream,
};
use support::peer::{m, Args, Frame, Peer, Session};
use support::{
    assert_matches, bounded, channel, exclusive_queue, let_others_wait, met_within, open, Log, SOON,
};

/// More than the reader keeps for the program before it pauses.
const BACKLOG: usize = 6 << 20;

/// Delivers more than the client takes without being asked, in messages of 64 KiB.
fn send_backlog(session: &mut Session, channel: u16, tag: &str) {
    let body = vec![7; 64 * 1024];
    for n in 0..BACKLOG / body.len() {
        session.deliver(channel, tag, n as u64 + 1, &body);
    }
}

/// The processor time that this thread has used.
#[cfg(target_os = "linux")]
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    let nanos = stat.split_whitespace().next().unwrap().parse().unwrap();
    Duration::from_nanos(nanos)
}

#[test]
fn a_lost_connection_is_noticed_while_messages_wait_for_the_program() {
    bounded(|| {
        let (go, gone) = mpsc::channel::<()>();
        let (sent, all_sent) = mpsc::channel::<()>();
        let peer = Peer::start(move |session| {
            session.handshake();
            session.open_channel(1);
            let tag = session.accept_consumer(1);
            session.open_channel(2);
            send_backlog(session, 1, &tag);
            sent.send(()).unwrap();
            gone.recv().unwrap();
            session.reset();
        });
        let connection = Connection::open(peer.url().as_str()).unwrap();
        let consuming = connection.channel().unwrap();
        consuming.basic_consume("q", |_, _, _, _| ()).unwrap();
        let publishing = connection.channel().unwrap();
        all_sent.recv().unwrap();
        // The reader pauses when it has taken its share, which nothing shows from outside. Without the pause the test holds.
        thread::sleep(Duration::from_millis(300));
        go.send(()).unwrap();
        let mut published = 0;
        let failed = met_within(SOON, || {
            published += 1;
            publishing.basic_publish("", "q", [1; 1000]).is_err()
        });
        assert!(
            failed,
            "{published} publishes were accepted on a connection that is gone"
        );
    });
}

fn reads_on_after(free: impl FnOnce(&Channel) + Send + 'static) {
    bounded(move || {
        let (go, gone) = mpsc::channel::<()>();
        let (sent, all_sent) = mpsc::channel::<()>();
        let peer = Peer::start(move |session| {
            session.handshake();
            session.open_channel(1);
            let tag = session.accept_consumer(1);
            send_backlog(session, 1, &tag);
            sent.send(()).unwrap();
            loop {
                let frame = session.frame();
                match frame.method() {
                    Some(m::BASIC_CANCEL) => {
                        let tag = Args::new().shortstr(&tag);
                        session.send_method(1, m::BASIC_CANCEL_OK, tag);
                        break;
                    }
                    Some(m::CHANNEL_CLOSE) => {
                        session.send_method(1, m::CHANNEL_CLOSE_OK, Args::new());
                        break;
                    }
                    _ => {}
                }
            }
            gone.recv().unwrap();
        });
        let connection = Connection::open(peer.url().as_str()).unwrap();
        let channel = connection.channel().unwrap();
        let consume = BasicConsume::new("q").auto_ack(true).consumer_tag("c");
        channel.basic_consume(consume, |_, _, _, _| ()).unwrap();
        all_sent.recv().unwrap();
        // The reader pauses when it has taken its share, which nothing shows from outside. Without the pause the test holds.
        thread::sleep(Duration::from_millis(300));
        free(&channel);
        go.send(()).unwrap();
        assert!(
            met_within(Duration::from_secs(5), || connection.is_closed()),
            "nothing is read any more"
        );
    });
}

#[test]
fn reading_goes_on_after_a_cancel_has_taken_what_waited() {
    reads_on_after(|channel| drop(channel.basic_cancel("c").unwrap()));
}

#[test]
fn reading_goes_on_after_a_close_has_dropped_what_waited() {
    reads_on_after(|channel| channel.close().unwrap());
}

#[cfg(target_os = "linux")]
#[test]
fn waiting_for_another_threads_callback_costs_no_processor_time() {
    bounded(|| {
        let (go, gone) = mpsc::channel::<()>();
        let peer = Peer::start(move |session| {
            session.handshake();
            session.open_channel(1);
            let tag = session.accept_consumer(1);
            session.deliver(1, &tag, 1, b"one");
            session.deliver(1, &tag, 2, b"two");
            gone.recv().unwrap();
        });
        let connection = Connection::open(peer.url().as_str()).unwrap();
        let channel = connection.channel().unwrap();
        let inside = Arc::new(AtomicBool::new(false));
        let entered = Arc::clone(&inside);
        channel
            .basic_consume("q", move |_, _, _, _| {
                entered.store(true, Ordering::SeqCst);
                // Long enough for a thread that does not sleep meanwhile to use more than it may.
                thread::sleep(Duration::from_secs(1));
            })
            .unwrap();
        let busy = channel.clone();
        let running = thread::spawn(move || drop(busy.start_consuming()));
        assert!(met_within(SOON, || inside.load(Ordering::SeqCst)));
        let idle = channel.clone();
        let waiting = thread::spawn(move || {
            drop(idle.start_consuming());
            processor_time()
        });
        let_others_wait();
        go.send(()).unwrap();
        let used = waiting.join().unwrap();
        running.join().unwrap();
        assert!(used < Duration::from_millis(200), "{used:?}");
    });
}

#[test]
fn what_a_thread_leaves_undone_is_run_by_another_that_waits() {
    bounded(|| {
        let channel = channel();
        let queue = exclusive_queue(&channel);
        // The hand-over is a race, so it is run a few times.
        for _ in 0..10 {
            leave_undone(&channel, &queue);
        }
    });
}

fn leave_undone(channel: &Channel, queue: &str) {
    let connection = channel.connection();
    let log = Log::new();
    let delivered = log.clone();
    for body in ["one", "two"] {
        channel.basic_publish("", queue, body).unwrap();
    }
    let (began, begin) = mpsc::channel::<()>();
    let (go, gone) = mpsc::channel::<()>();
    let consume = BasicConsume::new(queue).auto_ack(true);
    let tag = channel
        .basic_consume(consume, move |_, _, _, body| {
            delivered.push(body.clone());
            if body == b"one" {
                let _ = began.send(());
                let _ = gone.recv();
                return Err(Error::other("enough"));
            }
            Ok(())
        })
        .unwrap();
    let first = channel.clone();
    let consuming = thread::spawn(move || first.start_consuming().unwrap_err());
    begin.recv().unwrap();
    support::assert_message_count(channel, queue, 0);
    let waiting = thread::spawn(move || {
        let began = Instant::now();
        connection
            .process_data_events(Duration::from_secs(2))
            .unwrap();
        began.elapsed()
    });
    let_others_wait();
    go.send(()).unwrap();
    consuming.join().unwrap();
    let waited = waiting.join().unwrap();
    assert_eq!(log.all(), [b"one", b"two"]);
    assert!(waited < Duration::from_millis(1900), "{waited:?}");
    channel.basic_cancel(&tag).unwrap();
}

#[test]
fn a_busy_channel_does_not_starve_another() {
    bounded(|| {
        let connection = open();
        let (busy, quiet) = (connection.channel().unwrap(), connection.channel().unwrap());
        let (many, few) = (exclusive_queue(&busy), exclusive_queue(&quiet));
        for _ in 0..4000 {
            busy.basic_publish("", &many, "x").unwrap();
        }
        let seen = Arc::new(AtomicUsize::new(0));
        let before = Log::new();
        let (count, note) = (Arc::clone(&seen), before.clone());
        // What has been acknowledged is replaced by more, so that the busy channel never runs out; without this limit all
        // of it would stand before the other's message in the stream.
        busy.basic_qos(100).unwrap();
        busy.basic_consume(&many, move |channel, method, _, _| {
            count.fetch_add(1, Ordering::SeqCst);
            // More comes in the time that a message takes.
            thread::sleep(Duration::from_millis(2));
            channel.basic_ack(method.delivery_tag)
        })
        .unwrap();
        quiet
            .basic_consume(BasicConsume::new(&few).auto_ack(true), move |_, _, _, _| {
                note.push(seen.load(Ordering::SeqCst));
            })
            .unwrap();
        quiet.basic_publish("", &few, "x").unwrap();
        support::pump_until(&connection, || !before.is_empty());
        let before = before.all()[0];
        assert!(
            before < 3000,
            "delivered after {before} of the busy channel"
        );
    });
}

/// A read brings many messages at once, for two channels in turn. Each message is delivered once, in its channel's order, or
/// returned by the cancelling that a callback asks for in the middle.
#[test]
fn what_one_read_brought_is_delivered_once_whatever_happens_meanwhile() {
    bounded(|| {
        const RUNS: u64 = 100;
        const RUN: u64 = 7;
        const MIDDLE: u64 = RUNS * RUN / 2;
        let peer = Peer::start(|session| {
            session.handshake();
            session.open_channel(1);
            session.open_channel(2);
            let tags = [session.accept_consumer(1), session.accept_consumer(2)];
            let mut bytes = Vec::new();
            for run in 0..RUNS {
                for (channel, tag) in (1..).zip(&tags) {
                    for number in run * RUN..(run + 1) * RUN {
                        let deliver = Args::new().shortstr(tag).longlong(number + 1).octet(0);
                        let deliver = deliver.shortstr("").shortstr("key");
                        let (method, body) = (m::BASIC_DELIVER, b"small");
                        let message =
                            Frame::encode_content(channel, method, &deliver, &[0, 0], body);
                        bytes.extend(message);
                    }
                }
            }
            session.send_raw(&bytes);
            session.serve_until_end();
        });
        let connection = Connection::open(peer.url().as_str()).unwrap();
        let (first, second) = (connection.channel().unwrap(), connection.channel().unwrap());
        let (delivered, handed_back, other) = (Log::new(), Log::new(), Log::new());
        let (log, rest) = (delivered.clone(), handed_back.clone());
        first
            .basic_consume(
                BasicConsume::new("q").auto_ack(true),
                move |channel, method, _, _| {
                    log.push(method.delivery_tag);
                    if method.delivery_tag == MIDDLE {
                        for (method, _, _) in channel.basic_cancel(&method.consumer_tag)? {
                            rest.push(method.delivery_tag);
                        }
                    }
                    Ok(())
                },
            )
            .unwrap();
        let log = other.clone();
        second
            .basic_consume(
                BasicConsume::new("q").auto_ack(true),
                move |_, method, _, _| log.push(method.delivery_tag),
            )
            .unwrap();
        support::pump_until(&connection, || other.len() as u64 == RUNS * RUN);
        let all: Vec<u64> = (1..=RUNS * RUN).collect();
        assert_eq!(other.all(), all);
        assert_eq!(delivered.all(), all[..MIDDLE as usize]);
        assert_eq!(handed_back.all(), all[MIDDLE as usize..]);
        connection.close().unwrap();
    });
}

/// A TCP stream whose reads signals interrupt, or whose writes take a little at a time.
struct Odd {
    stream: TcpStream,
    interrupted: bool,
    slow: Arc<AtomicBool>,
}

impl Read for Odd {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if !self.interrupted {
            return self.stream.read(buf);
        }
        let timeout = Duration::from_millis(5);
        TcpStream::set_read_timeout(&self.stream, Some(timeout))?;
        self.stream.read(buf).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                io::ErrorKind::Interrupted.into()
            }
            _ => error,
        })
    }
}

impl Write for Odd {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.slow.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(200));
            return self.stream.write(&buf[..buf.len().min(100)]);
        }
        self.stream.write(buf)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Odd {
    fn try_clone(&self) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(Odd {
            stream: self.stream.try_clone()?,
            interrupted: self.interrupted,
            slow: Arc::clone(&self.slow),
        }))
    }
    fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        TcpStream::set_read_timeout(&self.stream, Some(timeout))
    }
    fn set_write_timeout(&self, timeout: Duration) -> io::Result<()> {
        TcpStream::set_write_timeout(&self.stream, Some(timeout))
    }
    fn shutdown(&self) -> io::Result<()> {
        self.stream.shutdown(std::net::Shutdown::Both)
    }
}

#[test]
fn signals_do_not_put_off_a_deadline() {
    bounded(|| {
        let peer = Peer::start(|session| {
            session.handshake();
            session.open_channel(1);
            session.serve_until_end();
        });
        let stream = TcpStream::connect(peer.address()).unwrap();
        let odd = Odd {
            stream,
            interrupted: true,
            slow: Arc::default(),
        };
        let parameters = ConnectionParameters::new("peer").rpc_timeout(Duration::from_millis(500));
        let connection = Connection::open_stream(parameters, odd).unwrap();
        let channel = connection.channel().unwrap();
        let (done, ended) = mpsc::channel();
        thread::spawn(move || done.send(channel.basic_qos(1).unwrap_err()));
        let error = ended.recv_timeout(SOON).expect("the call never ends");
        assert_matches!(error, Error::Timeout { .. });
    });
}

#[test]
fn a_peer_that_reads_a_little_at_a_time_does_not_put_off_a_deadline() {
    bounded(|| {
        let peer = Peer::start(move |session| {
            session.handshake();
            session.open_channel(1);
            session.serve_until_end();
        });
        let slow = Arc::new(AtomicBool::new(false));
        let odd = Odd {
            stream: TcpStream::connect(peer.address()).unwrap(),
            interrupted: false,
            slow: Arc::clone(&slow),
        };
        let parameters = ConnectionParameters::new("peer").rpc_timeout(Duration::from_secs(1));
        let connection = Connection::open_stream(parameters, odd).unwrap();
        let channel = connection.channel().unwrap();
        slow.store(true, Ordering::SeqCst);
        let (done, ended) = mpsc::channel();
        thread::spawn(move || {
            let began = Instant::now();
            let declare = QueueDeclare::new("q").argument("x-note", "x".repeat(20_000));
            let result = channel.queue_declare(declare);
            let _ = done.send((began.elapsed(), result));
        });
        let ended = ended.recv_timeout(SOON);
        slow.store(false, Ordering::SeqCst);
        let (took, result) = ended.expect("the call has no deadline");
        result.unwrap_err();
        assert!(took < Duration::from_secs(5), "{took:?}");
    });
}

#[test]
fn no_message_is_lost_between_a_callback_and_a_cancel_by_another_thread() {
    bounded(|| {
        let connection = open();
        let consuming = connection.channel().unwrap();
        let queue = exclusive_queue(&consuming);
        for round in 0..20 {
            for _ in 0..300 {
                consuming.basic_publish("", &queue, "x").unwrap();
            }
            let delivered = Arc::new(AtomicUsize::new(0));
            let count = Arc::clone(&delivered);
            let tag = consuming
                .basic_consume(
                    BasicConsume::new(&queue).auto_ack(true),
                    move |_, _, _, _| {
                        count.fetch_add(1, Ordering::SeqCst);
                    },
                )
                .unwrap();
            let other = consuming.clone();
            let seen = Arc::clone(&delivered);
            let cancelling = thread::spawn(move || {
                while seen.load(Ordering::SeqCst) < 20 + round {
                    std::hint::spin_loop();
                }
                other.basic_cancel(&tag).unwrap().len()
            });
            consuming.start_consuming().unwrap();
            let returned = cancelling.join().unwrap();
            let left = consuming.queue_purge(&queue).unwrap() as usize;
            let delivered = delivered.load(Ordering::SeqCst);
            assert_eq!(
                delivered + returned + left,
                300,
                "round {round}: delivered {delivered}, returned {returned}, left {left}"
            );
        }
    });
}

#[test]
fn a_lost_connection_is_released_though_a_callback_holds_its_channel() {
    bounded(|| {
        let dropped = Arc::new(AtomicUsize::new(0));
        struct Witness(Arc<AtomicUsize>);
        impl Drop for Witness {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let peer = Peer::start(|session| {
            session.handshake();
            session.open_channel(1);
            session.accept_consumer(1);
        });
        let connection = Connection::open(peer.url().as_str()).unwrap();
        let channel = connection.channel().unwrap();
        let (own, witness) = (channel.clone(), Witness(Arc::clone(&dropped)));
        channel
            .basic_consume("q", move |_, method, _, _| {
                let _ = &witness;
                own.basic_ack(method.delivery_tag)
            })
            .unwrap();
        while connection
            .process_data_events(Duration::from_secs(1))
            .is_ok()
        {}
        drop((channel, connection));
        assert!(
            met_within(SOON, || dropped.load(Ordering::SeqCst) == 1),
            "the callback and with it the connection live on"
        );
    });
}

/// As the pages of `Connection` and `call_later` say.
#[test]
fn a_timer_that_holds_its_connection_keeps_it_open_until_it_is_closed() {
    fn begin_again(connection: &Connection) -> haypile::Result<()> {
        let own = connection.clone();
        let timer = move || begin_again(&own);
        connection.call_later(Duration::ZERO, timer).map(drop)
    }
    bounded(|| {
        let connection = support::open();
        // The timer that is due later stays with the other one's connection.
        let held = Arc::new(connection.clone());
        let weak = Arc::downgrade(&held);
        let an_hour = Duration::from_secs(3600);
        connection.call_later(an_hour, move || drop(held)).unwrap();
        begin_again(&connection).unwrap();
        connection.process_data_events(Duration::ZERO).unwrap();
        drop(connection);
        assert!(weak.upgrade().expect("the timer was dropped").is_open());
        weak.upgrade().unwrap().close().unwrap();
        assert!(weak.upgrade().is_none(), "the timers live on");
    });
}

#[test]
fn content_on_channel_0_is_a_violation() {
    bounded(|| {
        let peer = Peer::start(|session| {
            session.handshake();
            session.deliver(0, "c", 1, b"x");
            session.wait_for(0, m::CONNECTION_CLOSE);
            session.send_method(0, m::CONNECTION_CLOSE_OK, Args::new());
            session.expect_end();
        });
        let connection = Connection::open(peer.url().as_str()).unwrap();
        assert!(met_within(Duration::from_secs(3), || connection.is_closed()));
    });
}

#[test]
fn a_secret_larger_than_a_frame_is_refused_and_the_connection_lives() {
    bounded(|| {
        let connection = open();
        let secret = "x".repeat(connection.frame_max() as usize + 1);
        let error = connection.update_secret(&secret, "renewed").unwrap_err();
        assert_matches!(error, Error::InvalidParameter { .. });
        connection.channel().unwrap();
    });
}

#[test]
fn messages_that_came_before_the_channel_ended_are_delivered() {
    bounded(|| {
        let peer = Peer::start(|session| {
            session.handshake();
            session.open_channel(1);
            let tag = session.accept_consumer(1);
            for n in 1..=3 {
                session.deliver(1, &tag, n, b"x");
            }
            session.expect(1, m::QUEUE_DECLARE);
            session.send_channel_close(1, 404, "NOT_FOUND", m::QUEUE_DECLARE);
            session.wait_for(1, m::CHANNEL_CLOSE_OK);
            session.serve_until_end();
        });
        let connection = Connection::open(peer.url().as_str()).unwrap();
        let channel = connection.channel().unwrap();
        let log = Log::new();
        let delivered = log.clone();
        channel
            .basic_consume(
                BasicConsume::new("q").auto_ack(true),
                move |channel, method, _, _| {
                    delivered.push(method.delivery_tag);
                    if method.delivery_tag == 1 {
                        let passive = QueueDeclare::new("none").passive(true);
                        channel.queue_declare(passive).unwrap_err();
                    }
                },
            )
            .unwrap();
        channel.start_consuming().unwrap_err();
        assert_eq!(log.all(), [1, 2, 3]);
    });
}

#[test]
fn publishers_of_one_channel_get_their_own_losses_each() {
    bounded(|| {
        let channel = channel();
        let queue = exclusive_queue(&channel);
        channel.confirm_delivery().unwrap();
        let publishing: Vec<_> = (0..4)
            .map(|n| {
                let (channel, queue) = (channel.clone(), queue.clone());
                thread::spawn(move || {
                    let mandatory = || BasicPublish::new().mandatory(true);
                    let mut publisher = channel.publisher(100).unwrap();
                    let mut lost = Vec::new();
                    for k in 0..400 {
                        let key = if k % 7 == n {
                            "nowhere"
                        } else {
                            queue.as_str()
                        };
                        let sequence = publisher.publish_with("", key, "same", mandatory());
                        if key == "nowhere" {
                            lost.push(sequence.unwrap());
                        }
                        if k % 50 == 0 {
                            let result =
                                channel.basic_publish_with("", "nowhere", "same", mandatory());
                            assert!(
                                matches!(&result, Err(Error::Unroutable(back)) if back.len() == 1)
                            );
                        }
                    }
                    match publisher.wait_for_confirms(SOON) {
                        Err(Error::Unconfirmed(report)) => {
                            let delivered: Vec<_> =
                                report.returned.iter().map(|(n, _)| *n).collect();
                            assert_eq!(delivered, lost);
                            assert!(report.nacked.is_empty() && report.pending.is_empty());
                        }
                        other => panic!("{other:?}"),
                    }
                })
            })
            .collect();
        for thread in publishing {
            thread.join().unwrap();
        }
    });
}

#[test]
fn a_thread_that_consumes_on_one_channel_does_not_fill_the_memory_from_another() {
    bounded(|| {
        const CHUNK: usize = 256 * 1024;
        let chunks = Arc::new(AtomicUsize::new(0));
        let sent = Arc::clone(&chunks);
        let peer = Peer::start(move |session| {
            session.handshake();
            session.open_channel(1);
            session.open_channel(2);
            let tag = session.accept_consumer(1);
            session.accept_consumer(2);
            let body = vec![7; CHUNK];
            for n in 0..512 {
                session.deliver(1, &tag, n + 1, &body);
                sent.fetch_add(1, Ordering::SeqCst);
            }
        });
        let connection = Connection::open(peer.url().as_str()).unwrap();
        let (slow, idle) = (connection.channel().unwrap(), connection.channel().unwrap());
        let (go, gone) = mpsc::channel::<()>();
        slow.basic_consume("many", move |_, _, _, _| {
            let _ = gone.recv();
        })
        .unwrap();
        idle.basic_consume("few", |_, _, _, _| ()).unwrap();
        let threads = [slow, idle].map(|channel| thread::spawn(move || channel.start_consuming()));
        // What is on its way in the system's buffers counts as well.
        let filled = met_within(Duration::from_secs(2), || {
            chunks.load(Ordering::SeqCst) * CHUNK > 64 << 20
        });
        let _ = connection.close();
        drop(go);
        for thread in threads {
            drop(thread.join().unwrap());
        }
        assert!(!filled, "all of it was read while the callback ran");
    });
}
