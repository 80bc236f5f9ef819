//! Reading pauses while much waits for the program. The peer must not lose patience over it, and its end is noticed all the
//! same.

mod support;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{mpsc, Arc};
use std::thread;
use std::time::{Duration, Instant};

use haypile::{BasicConsume, Channel, Connection, ConnectionParameters, ConsumingEnded, Error};
use support::peer::{m, Args, Frame, Peer, Session};
use support::{assert_matches, bounded_by, met_within, SOON};

/// A paused connection is looked at several times within the time after which a silent peer counts as dead: six seconds at
/// a heartbeat of one.
const HEARTBEAT: u16 = 1;

/// The peer gives up a send that does not end within this, as RabbitMQ does after 30 seconds.
const PATIENCE: Duration = Duration::from_secs(12);

const SIZE: usize = 10_000;

/// More than the systems' buffers take.
const FLOOD: u64 = 8_000;

fn limit() -> Duration {
    SOON * 4
}

/// Opens a channel and accepts a consumer; returns its tag.
fn welcome(session: &mut Session) -> String {
    session.handshake();
    session.open_channel(1);
    session.accept_consumer(1)
}

fn body(n: u64) -> Vec<u8> {
    let mut body = vec![b'x'; SIZE];
    body[..8].copy_from_slice(&n.to_be_bytes());
    body
}

fn open(peer: &Peer) -> (Connection, Channel) {
    let parameters = ConnectionParameters::from_url(peer.url()).unwrap();
    let connection = Connection::open(parameters.heartbeat(HEARTBEAT)).unwrap();
    let channel = connection.channel().unwrap();
    (connection, channel)
}

/// Consumes; the first callback does `work` while everything else waits.
fn consume(
    channel: &Channel,
    auto_ack: bool,
    work: impl FnOnce() + Send + 'static,
) -> Arc<AtomicU64> {
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    let mut work = Some(work);
    channel
        .basic_consume(
            BasicConsume::new("queue").auto_ack(auto_ack),
            move |_, method, _, body| {
                assert_eq!(body[..8], method.delivery_tag.to_be_bytes());
                assert_eq!(body.len(), SIZE);
                counted.fetch_add(1, Ordering::SeqCst);
                if let Some(work) = work.take() {
                    work();
                }
            },
        )
        .unwrap();
    count
}

#[test]
fn a_long_callback_does_not_exhaust_the_brokers_patience() {
    bounded_by(limit(), || {
        let sent = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&sent);
        let peer = Peer::start(move |session| {
            let tag = welcome(session);
            for n in 1..=FLOOD {
                let began = Instant::now();
                session.deliver(1, &tag, n, &body(n));
                if began.elapsed() > PATIENCE {
                    return session.reset();
                }
                count.store(n, Ordering::SeqCst);
            }
            session.serve_until_end();
        });
        let (connection, channel) = open(&peer);
        let (looked, looks) = mpsc::channel();
        let observed = Arc::clone(&sent);
        let still_open = connection.clone();
        let count = consume(&channel, false, move || {
            // More than the peer's patience, since its last send need not have begun at once.
            for _ in 0..5 {
                thread::sleep(PATIENCE * 8 / 5 / 5);
                looked.send(observed.load(Ordering::SeqCst)).unwrap();
            }
            assert!(still_open.is_open());
        });
        let stop = channel.clone();
        let done = Arc::clone(&count);
        let stopping = thread::spawn(move || {
            assert!(met_within(limit(), || done.load(Ordering::SeqCst) == FLOOD));
            stop.stop_consuming().unwrap();
        });
        assert_eq!(
            channel.start_consuming().unwrap(),
            ConsumingEnded::Cancelled
        );
        stopping.join().unwrap();
        let looks: Vec<u64> = looks.try_iter().collect();
        // It did pause, and read a bounded amount meanwhile: 4 MiB every eight seconds.
        let read = (looks[4] - looks[1]) * SIZE as u64;
        assert!(looks[4] < FLOOD, "nothing was held back: {looks:?}");
        assert!(read < 16 << 20, "{read} bytes were read: {looks:?}");
        connection.close().unwrap();
        peer.finish();
    });
}

/// Reading pauses again and again, and each time for less than the peer's patience: what was read is handled slowly.
#[test]
fn many_short_callbacks_do_not_exhaust_the_brokers_patience() {
    many_callbacks_of(Duration::from_millis(15));
}

#[test]
fn many_shorter_callbacks_do_not_exhaust_the_brokers_patience() {
    many_callbacks_of(Duration::from_millis(4));
}

fn many_callbacks_of(work: Duration) {
    bounded_by(limit(), move || {
        const COUNT: u64 = 200_000;
        let peer = Peer::start(move |session| {
            let tag = welcome(session);
            let mut send = Vec::new();
            for n in 1..=COUNT {
                let arguments = Args::new().shortstr(&tag).longlong(n).octet(0);
                let arguments = arguments.shortstr("").shortstr("key");
                send.extend(Frame::encode_content(
                    1,
                    m::BASIC_DELIVER,
                    &arguments,
                    &[0, 0],
                    &[b'x'; 100],
                ));
                // A send of many messages, as the broker makes them under load.
                if send.len() > 2 << 20 {
                    let began = Instant::now();
                    session.send_raw(&send);
                    if began.elapsed() > PATIENCE {
                        return session.reset();
                    }
                    send.clear();
                }
            }
            session.serve_until_end();
        });
        let (connection, channel) = open(&peer);
        let began = Instant::now();
        channel
            .basic_consume("queue", move |channel, method, _, _| {
                // The work that a message takes: together far more than the peer's patience.
                thread::sleep(work);
                channel.basic_ack(method.delivery_tag)?;
                match began.elapsed() > PATIENCE * 8 / 5 {
                    true => channel.stop_consuming(),
                    false => Ok(()),
                }
            })
            .unwrap();
        assert_eq!(
            channel.start_consuming().unwrap(),
            ConsumingEnded::Cancelled
        );
        connection.close().unwrap();
        peer.finish();
    });
}

#[test]
fn a_peer_that_goes_silent_is_noticed_during_a_pause() {
    bounded_by(limit(), || {
        let peer = Peer::start(move |session| {
            let tag = welcome(session);
            for n in 1..=600 {
                session.deliver(1, &tag, n, &body(n));
            }
            session.silent_until_end();
        });
        let (connection, channel) = open(&peer);
        let watched = connection.clone();
        consume(&channel, false, move || {
            assert!(
                met_within(SOON * 3, || watched.is_closed()),
                "it was not noticed"
            );
        });
        let error = channel.start_consuming().unwrap_err();
        assert_matches!(error, Error::HeartbeatTimeout { .. });
        peer.finish();
    });
}

#[test]
fn a_close_is_noticed_during_a_pause() {
    a_close_during_a_pause(false);
}

/// Here the broker has nothing left to deliver again.
#[test]
fn a_close_is_noticed_during_a_pause_and_no_automatic_ack_is_lost() {
    a_close_during_a_pause(true);
}

fn a_close_during_a_pause(auto_ack: bool) {
    bounded_by(limit(), move || {
        const COUNT: u64 = 700;
        let peer = Peer::start(move |session| {
            let tag = welcome(session);
            for n in 1..=COUNT {
                session.deliver(1, &tag, n, &body(n));
            }
            session.send_connection_close(320, "CONNECTION_FORCED - maintenance", (0, 0));
            session.expect(0, m::CONNECTION_CLOSE_OK);
        });
        let (connection, channel) = open(&peer);
        let watched = connection.clone();
        let count = consume(&channel, auto_ack, move || {
            assert!(
                met_within(SOON * 3, || watched.is_closed()),
                "it was not noticed"
            );
        });
        let error = channel.start_consuming().unwrap_err();
        assert_eq!(error.reply_code(), Some(320), "{error:?}");
        // What would not be delivered again is handed over.
        let count = count.load(Ordering::SeqCst);
        assert!(count == COUNT || !auto_ack, "{count} messages");
        peer.finish();
    });
}

#[test]
fn an_error_after_a_pause_mentions_the_pause() {
    bounded_by(limit(), || {
        let (go, wait) = mpsc::channel();
        let peer = Peer::start(move |session| {
            let tag = welcome(session);
            for n in 1..=600 {
                session.deliver(1, &tag, n, &body(n));
            }
            for _ in 0..8 {
                session.silent_for(Duration::from_secs(1));
                session.send_heartbeat();
            }
            session.reset();
            go.send(()).unwrap();
        });
        let (_connection, channel) = open(&peer);
        consume(&channel, false, move || wait.recv().unwrap());
        let error = channel.start_consuming().unwrap_err();
        assert_matches!(error, Error::StreamLost(_));
        assert!(
            error.to_string().contains("reading was paused for"),
            "{error}"
        );
        peer.finish();
    });
}

/// A call during a pause gets its reply, which stands behind everything that was held back.
#[test]
fn a_reply_is_found_behind_what_was_read_ahead() {
    bounded_by(limit(), || {
        let (declare, asked) = mpsc::channel();
        let peer = Peer::start(move |session| {
            let tag = welcome(session);
            session.open_channel(2);
            for n in 1..=1_000 {
                session.deliver(1, &tag, n, &body(n));
            }
            session.wait_for(2, m::QUEUE_DECLARE);
            let reply = Args::new().shortstr("queue").long(7).long(0);
            session.send_method(2, m::QUEUE_DECLARE_OK, reply);
            session.serve_until_end();
        });
        let (connection, channel) = open(&peer);
        let other_connection = connection.clone();
        let (opened, other) = mpsc::channel();
        let count = consume(&channel, false, move || {
            let other: Channel = other.recv().unwrap();
            // Some of it is read ahead now, and some is not read.
            thread::sleep(Duration::from_millis(2500));
            declare
                .send(other.queue_declare("queue").unwrap().message_count)
                .unwrap();
        });
        opened.send(other_connection.channel().unwrap()).unwrap();
        let stop = channel.clone();
        let stopping = thread::spawn(move || {
            assert!(met_within(limit(), || count.load(Ordering::SeqCst) == 1_000));
            stop.stop_consuming().unwrap();
        });
        channel.start_consuming().unwrap();
        stopping.join().unwrap();
        assert_eq!(asked.recv().unwrap(), 7);
        connection.close().unwrap();
        peer.finish();
    });
}
