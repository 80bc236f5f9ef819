//! Each fault that a test can order from the broker for tests, alone, and what a program sees of it.
#![cfg(feature = "testing")]

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use haypile::testing::{Broker, Direction};
use haypile::{
    BasicPublish, Channel, Connection, ConnectionParameters, ConsumingEnded, Error, QueueDeclare,
};

const SOON: Duration = Duration::from_secs(20);

const HEADER: &[u8; 8] = b"AMQP\0\0\x09\x01";

fn channel(broker: &Broker) -> Channel {
    let connection = broker.connect(ConnectionParameters::default()).unwrap();
    connection.channel().unwrap()
}

/// A socket that has sent the protocol header, and reads to the end.
fn greet(broker: &Broker) -> TcpStream {
    let mut stream = TcpStream::connect(broker.address()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let _ = stream.write_all(HEADER);
    stream
}

#[test]
fn just_so_many_bytes_come_before_a_cut() {
    let broker = Broker::start().unwrap();
    for bytes in [1, 7, 8, 100] {
        broker
            .next_connection()
            .cut_after(Direction::ToClient, bytes);
        let mut received = Vec::new();
        // A client that still sends may see a reset at the end.
        let _ = greet(&broker).read_to_end(&mut received);
        assert_eq!(received.len() as u64, bytes);
    }
}

#[test]
fn just_so_many_bytes_are_taken_before_a_cut() {
    let broker = Broker::start().unwrap();
    // All of the header, and not all of it.
    for (bytes, welcome) in [(8, true), (7, false)] {
        let fault = broker.next_connection();
        fault.cut_after(Direction::ToBroker, bytes);
        let mut received = Vec::new();
        let _ = greet(&broker).read_to_end(&mut received);
        broker.wait_until(|| !fault.is_open(), SOON).unwrap();
        let log = broker.log();
        let started = log
            .lines()
            .filter(|line| line.contains(&format!("connection {} ", fault.id())))
            .any(|line| line.contains("connection.start"));
        assert_eq!(started, welcome, "{log}");
    }
}

#[test]
fn a_reset_is_an_error_and_a_cut_an_end() {
    let broker = Broker::start().unwrap();
    let mut stream = greet(&broker);
    let mut start = [0; 100];
    stream.read_exact(&mut start).unwrap();
    broker.connections()[0].cut();
    assert!(stream.read_to_end(&mut Vec::new()).is_ok());
    let fault = broker.next_connection();
    let mut stream = greet(&broker);
    broker.wait_until(|| fault.is_open(), SOON).unwrap();
    stream.read_exact(&mut start).unwrap();
    fault.reset();
    let error = stream.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_connection_in_use_is_reset_after_bytes_in_either_direction() {
    for direction in [Direction::ToBroker, Direction::ToClient] {
        let broker = Broker::start().unwrap();
        let channel = channel(&broker);
        channel.queue_declare("q").unwrap();
        channel.confirm_delivery().unwrap();
        broker.connections()[0].reset_after(direction, 2000);
        let published = (0..1000)
            .take_while(|_| channel.basic_publish("", "q", "message").is_ok())
            .count();
        assert!((1..1000).contains(&published), "{published}");
        broker
            .wait_until(|| broker.connections().is_empty(), SOON)
            .unwrap();
        // What was confirmed is there; one more may be, whose confirm did not come.
        let there = broker.queue("q").unwrap().messages.len();
        assert!(
            there == published || there == published + 1,
            "{there} {published}"
        );
    }
}

#[test]
fn what_is_delayed_comes_later_and_in_order() {
    let broker = Broker::start().unwrap();
    let channel = channel(&broker);
    channel.queue_declare("q").unwrap();
    const DELAY: Duration = Duration::from_millis(150);
    for direction in [Direction::ToBroker, Direction::ToClient] {
        let connection = broker.connections().remove(0);
        connection.delay(direction, DELAY);
        let begun = Instant::now();
        channel.basic_publish("", "q", "1").unwrap();
        channel.basic_publish("", "q", "2").unwrap();
        channel
            .queue_declare(QueueDeclare::new("q").passive(true))
            .unwrap();
        assert!(
            begun.elapsed() >= DELAY,
            "{direction}: {:?}",
            begun.elapsed()
        );
        connection.resume();
        assert_eq!(broker.queue("q").unwrap().bodies(), ["1", "2"]);
        channel.queue_purge("q").unwrap();
    }
}

/// Nothing comes, so that a call runs into its own limit, and then everything does.
#[test]
fn what_is_stalled_waits() {
    let broker = Broker::start().unwrap();
    let parameters = ConnectionParameters::default().rpc_timeout(Duration::from_millis(100));
    let connection = broker.connect(parameters).unwrap();
    let channel = connection.channel().unwrap();
    channel.queue_declare("q").unwrap();
    let client = broker.connections().remove(0);
    client.stall(Direction::ToClient);
    let error = channel.basic_get("q").unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    client.resume();
    connection.channel().unwrap().queue_declare("q").unwrap();
}

#[test]
fn one_connection_is_refused_for_each_order() {
    let broker = Broker::start().unwrap();
    broker.refuse_next_connection();
    broker.refuse_next_connection();
    for in_memory in [true, false] {
        let refused = if in_memory {
            broker.connect(ConnectionParameters::default())
        } else {
            Connection::open(broker.url())
        };
        assert!(refused.unwrap_err().is_connection_error());
    }
    channel(&broker);
}

#[test]
fn a_connection_is_closed_with_a_code() {
    let broker = Broker::start().unwrap();
    let channel = channel(&broker);
    broker.connections()[0].close(530, "NOT_ALLOWED - by test");
    let error = channel.queue_declare("q").unwrap_err();
    assert_eq!(error.reply_code(), Some(530), "{error}");
    assert!(error.to_string().contains("by test"), "{error}");
    assert!(error.is_connection_error());
}

#[test]
fn a_channel_is_closed_with_a_code_and_the_others_go_on() {
    let broker = Broker::start().unwrap();
    let channel = channel(&broker);
    let other = channel.connection().channel().unwrap();
    channel.queue_declare("q").unwrap();
    channel.basic_publish("", "q", "1").unwrap();
    channel.basic_get("q").unwrap().unwrap();
    broker.connections()[0].close_channel(channel.channel_number(), 404, "NOT_FOUND - by test");
    let error = channel.basic_get("q").unwrap_err();
    assert_eq!(error.reply_code(), Some(404), "{error}");
    // What it had is back.
    let (method, ..) = other.basic_get("q").unwrap().unwrap();
    assert!(method.redelivered);
}

#[test]
fn a_cancelled_consumer_ends_and_its_messages_stay() {
    let broker = Broker::start().unwrap();
    let channel = channel(&broker);
    channel.queue_declare("q").unwrap();
    channel.basic_publish("", "q", "1").unwrap();
    let tag = channel.basic_consume("q", |_, _, _, _| {}).unwrap();
    channel.connection().process_data_events(SOON).unwrap();
    assert!(broker.cancel_consumer(&tag.to_string()));
    let ended = channel.start_consuming().unwrap();
    assert!(
        matches!(ended, ConsumingEnded::CancelledByBroker { .. }),
        "{ended:?}"
    );
    let queue = broker.queue("q").unwrap();
    assert!(queue.consumers.is_empty() && queue.unacknowledged.len() == 1);
}

#[test]
fn the_next_publish_is_refused_alone() {
    let broker = Broker::start().unwrap();
    let channel = channel(&broker);
    channel.queue_declare("q").unwrap();
    channel.confirm_delivery().unwrap();
    broker.nack_next_publish();
    let error = channel.basic_publish("", "q", "1").unwrap_err();
    assert!(matches!(error, Error::Nack { .. }), "{error}");
    channel.basic_publish("", "q", "2").unwrap();
    assert_eq!(broker.queue("q").unwrap().bodies(), ["2"]);
}

#[test]
fn the_next_publish_is_returned_alone() {
    let broker = Broker::start().unwrap();
    let channel = channel(&broker);
    channel.queue_declare("q").unwrap();
    channel.confirm_delivery().unwrap();
    broker.return_next_publish();
    let mandatory = BasicPublish::new().mandatory(true);
    let error = channel
        .basic_publish_with("", "q", "1", mandatory.clone())
        .unwrap_err();
    assert!(matches!(error, Error::Unroutable { .. }), "{error}");
    channel.basic_publish_with("", "q", "2", mandatory).unwrap();
    assert_eq!(broker.queue("q").unwrap().bodies(), ["2"]);
}

#[test]
fn a_confirm_never_comes() {
    let broker = Broker::start().unwrap();
    let channel = channel(&broker);
    channel.queue_declare("q").unwrap();
    let mut publisher = channel.publisher(10).unwrap();
    broker.withhold_next_confirm();
    for body in ["1", "2"] {
        publisher.publish("", "q", body).unwrap();
    }
    let error = publisher
        .wait_for_confirms(Duration::from_millis(100))
        .unwrap_err();
    let Error::Unconfirmed(report) = error else {
        panic!("{error}");
    };
    assert_eq!(report.pending, [1]);
}

#[test]
fn a_blocked_broker_holds_up_publishers_only() {
    let broker = Broker::start().unwrap();
    let channel = channel(&broker);
    let reader = self::channel(&broker);
    channel.queue_declare("q").unwrap();
    broker.block("low on disk");
    channel.basic_publish("", "q", "1").unwrap();
    channel
        .connection()
        .process_data_events(Duration::ZERO)
        .unwrap();
    assert!(reader.basic_get("q").unwrap().is_none());
    broker.unblock();
    let arrived = || broker.queue("q").unwrap().bodies() == ["1"];
    broker.wait_until(arrived, SOON).unwrap();
    assert!(reader.basic_get("q").unwrap().is_some());
}

/// A fault that was ordered for a connection that never comes is not for another one, and ends with the broker.
#[test]
fn orders_for_what_never_comes_do_no_harm() {
    let broker = Broker::start().unwrap();
    let fault = broker.next_connection();
    fault.stall(Direction::ToBroker);
    broker.nack_next_publish();
    broker.withhold_next_confirm();
    broker.refuse_next_connection();
    drop(broker);
    assert!(!fault.is_open());
    // All calls are still possible.
    fault.cut();
    fault.close(320, "late");
    fault.close_channel(1, 404, "late");
    fault.resume();
}

/// A text is no longer than AMQP has room for.
#[test]
fn a_text_that_is_too_long_is_cut() {
    let broker = Broker::start().unwrap();
    let channel = channel(&broker);
    let number = channel.channel_number();
    broker.connections()[0].close_channel(number, 404, &"\u{e9}".repeat(300));
    let error = channel.basic_get("q").unwrap_err();
    assert_eq!(error.reply_code(), Some(404), "{error}");
    let other = self::channel(&broker);
    broker.block(&"x".repeat(300));
    other.basic_publish("", "q", "1").unwrap();
    other
        .connection()
        .process_data_events(Duration::ZERO)
        .unwrap();
    broker.unblock();
    other.queue_declare("q").unwrap();
}

#[test]
fn a_blocked_broker_can_be_dropped() {
    let broker = Broker::start().unwrap();
    let channel = channel(&broker);
    broker.block("low on memory");
    channel.basic_publish("", "tasks", "").unwrap();
    let connection = channel.connection();
    broker
        .wait_until(|| connection.blocked().is_some(), SOON)
        .unwrap();
    let (dropped, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        drop(broker);
        dropped.send(()).unwrap();
    });
    wait.recv_timeout(SOON).unwrap();
}

#[test]
fn a_blocked_connection_that_is_cut_is_gone() {
    let broker = Broker::start().unwrap();
    let channel = channel(&broker);
    channel.queue_declare("tasks").unwrap();
    channel.basic_publish("", "tasks", "first").unwrap();
    let (method, _, _) = channel.basic_get("tasks").unwrap().unwrap();
    broker.block("low on memory");
    channel.basic_publish("", "tasks", "second").unwrap();
    let connection = channel.connection();
    broker
        .wait_until(|| connection.blocked().is_some(), SOON)
        .unwrap();
    channel.basic_ack(method.delivery_tag).unwrap();
    broker.connections()[0].cut();
    broker
        .wait_until(|| broker.connections().is_empty(), SOON)
        .unwrap();
    broker.unblock();
    // The fetched message is back, and nothing that was sent while it was blocked has been handled.
    assert_eq!(broker.queue("tasks").unwrap().bodies(), ["first"]);
}
