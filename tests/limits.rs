//! What a connection takes in at most: how large a message may be.

mod support;

use haypile::{BasicConsume, BasicGet, Channel, Connection, ConnectionParameters, Error};
use support::peer::{m, Args, Peer};
use support::{
    assert_matches, assert_message_count, bounded, exclusive_queue, url, wait_until, Fixture, Log,
    SOON,
};

const LIMIT: usize = 1 << 20;

fn parameters(url: &str) -> ConnectionParameters {
    let parameters = ConnectionParameters::from_url(url).unwrap();
    parameters.max_message_size(LIMIT as u64)
}

/// A queue with three small messages, of which the last is as large as it may be, and a large one among them.
fn fill(fixture: &mut Fixture) -> String {
    let queue = fixture.queue("limits");
    let channel = support::channel();
    channel.queue_declare(queue.as_str()).unwrap();
    for size in [10, 20, LIMIT + 1, LIMIT] {
        channel.basic_publish("", &queue, vec![b'x'; size]).unwrap();
    }
    assert_message_count(&channel, &queue, 4);
    queue
}

#[track_caller]
fn assert_too_large(error: &Error, connection: &Connection, channel: &Channel) {
    let too_large = matches!(error, Error::MessageTooLarge { size, max, .. }
        if (*size, *max) == (LIMIT as u64 + 1, LIMIT as u64));
    assert!(too_large, "{error:?}");
    assert_eq!(error.reply_code(), Some(311));
    assert!(error.is_channel_error() && !error.is_connection_error());
    assert!(!error.is_retryable());
    assert!(error.to_string().contains("CONTENT_TOO_LARGE"), "{error}");
    // The channel is gone, with its number; the connection works.
    assert!(channel.is_closed());
    let again = channel.basic_get("any").unwrap_err();
    assert_eq!(again.to_string(), error.to_string());
    let next = connection.channel().unwrap();
    exclusive_queue(&next);
    next.close().unwrap();
}

#[test]
fn a_message_that_is_too_large_costs_its_consumers_channel() {
    bounded(|| {
        let mut fixture = Fixture::new();
        let queue = fixture.queue("limits");
        let publisher = support::channel();
        publisher.queue_declare(queue.as_str()).unwrap();
        for size in [10, 20] {
            let body = vec![b'x'; size];
            publisher.basic_publish("", &queue, body).unwrap();
        }
        assert_message_count(&publisher, &queue, 2);
        let connection = Connection::open(parameters(&url())).unwrap();
        let other = connection.channel().unwrap();
        let own = exclusive_queue(&other);
        let channel = connection.channel().unwrap();
        let came = Log::new();
        let (log, to) = (came.clone(), queue.clone());
        channel
            .basic_consume(&queue, move |channel, _, _, body| {
                log.push(body.len());
                if body.len() == 10 {
                    let too_large = vec![b'x'; LIMIT + 1];
                    publisher.basic_publish("", &to, too_large).unwrap();
                    wait_until(SOON, || channel.is_closed());
                }
            })
            .unwrap();
        let error = channel.start_consuming().unwrap_err();
        assert_too_large(&error, &connection, &channel);
        // What came before it was handed over, and everything is still in the queue.
        assert_eq!(came.all(), [10, 20]);
        assert_message_count(&other, &queue, 3);
        assert_message_count(&other, &own, 0);
        connection.close().unwrap();
    });
}

#[test]
fn a_message_that_is_too_large_costs_the_channel_of_an_iterator() {
    bounded(|| {
        let mut fixture = Fixture::new();
        let queue = fill(&mut fixture);
        let connection = Connection::open(parameters(&url())).unwrap();
        let channel = connection.channel().unwrap();
        let mut messages = channel.consume(queue.as_str()).unwrap();
        for size in [10, 20] {
            assert_eq!(messages.next().unwrap().unwrap().2.len(), size);
        }
        let error = messages.next().unwrap().unwrap_err();
        assert_too_large(&error, &connection, &channel);
        assert!(messages.next().is_none());
        connection.close().unwrap();
    });
}

#[test]
fn a_message_that_is_too_large_costs_the_channel_that_fetches_it() {
    bounded(|| {
        let mut fixture = Fixture::new();
        let queue = fill(&mut fixture);
        let connection = Connection::open(parameters(&url())).unwrap();
        let channel = connection.channel().unwrap();
        for size in [10, 20] {
            let request = BasicGet::new(&queue).auto_ack(true);
            assert_eq!(channel.basic_get(request).unwrap().unwrap().2.len(), size);
        }
        let error = channel.basic_get(&queue).unwrap_err();
        assert_too_large(&error, &connection, &channel);
        // Without the limit all of it can be had.
        let unlimited = support::channel();
        for size in [LIMIT + 1, LIMIT] {
            let request = BasicGet::new(&queue).auto_ack(true);
            assert_eq!(unlimited.basic_get(request).unwrap().unwrap().2.len(), size);
        }
        connection.close().unwrap();
    });
}

/// However large it claims to be, and whatever of it comes after the channel is closed.
#[test]
fn what_is_left_of_a_large_message_is_skipped() {
    bounded(|| {
        let peer = Peer::start(move |session| {
            session.handshake();
            session.open_channel(1);
            let tag = session.accept_consumer(1);
            let deliver = Args::new()
                .shortstr(&tag)
                .longlong(1)
                .octet(0)
                .shortstr("")
                .shortstr("key");
            session.send_method(1, m::BASIC_DELIVER, deliver);
            let header = Args::new().short(60).short(0).longlong(u64::MAX).short(0);
            session.send_frame(2, 1, header.bytes());
            session.send_frame(3, 1, &vec![b'x'; 100_000]);
            let mut close = session.expect(1, m::CHANNEL_CLOSE);
            assert_eq!(close.short(), 311);
            session.send_frame(3, 1, &vec![b'x'; 100_000]);
            session.send_method(1, m::CHANNEL_CLOSE_OK, Args::new());
            session.serve_until_end();
        });
        let connection = Connection::open(parameters(&peer.url())).unwrap();
        let channel = connection.channel().unwrap();
        channel
            .basic_consume(BasicConsume::new("q").auto_ack(true), |_, _, _, _| ())
            .unwrap();
        let error = channel.start_consuming().unwrap_err();
        assert_matches!(error, Error::MessageTooLarge { size: u64::MAX, .. });
        connection.channel().unwrap();
        assert!(connection.is_open());
        connection.close().unwrap();
        peer.finish();
    });
}

#[test]
fn the_limit_must_leave_something() {
    let error = Connection::open(ConnectionParameters::new("127.0.0.1").max_message_size(0));
    let error = error.unwrap_err();
    assert_matches!(error, Error::InvalidParameter { .. });
    assert!(error.to_string().contains("max_message_size"), "{error}");
}
