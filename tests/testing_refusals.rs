//! What the broker for tests does not do is refused with an error: the list is in the documentation of `haypile::testing`.
#![cfg(feature = "testing")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use haypile::testing::Broker;
use haypile::{
    BasicConsume, Channel, Connection, ConnectionParameters, Error, ExchangeDeclare, QueueDeclare,
};

fn channel(broker: &Broker) -> Channel {
    let connection = broker.connect(ConnectionParameters::default()).unwrap();
    connection.channel().unwrap()
}

fn assert_refused(error: Error, code: u16, text: &str) {
    assert_eq!(error.reply_code(), Some(code), "{error}");
    assert!(error.to_string().contains(text), "{error}");
}

#[test]
fn quorum_queues_and_streams_are_not_implemented() {
    let broker = Broker::start().unwrap();
    for kind in ["quorum", "stream"] {
        let queue = QueueDeclare::new("q")
            .durable(true)
            .argument("x-queue-type", kind);
        let error = channel(&broker).queue_declare(queue).unwrap_err();
        assert_refused(
            error,
            540,
            &format!("NOT_IMPLEMENTED - the broker for tests has no queues of type '{kind}'"),
        );
        assert!(broker.queue("q").is_none());
    }
    let queue = QueueDeclare::new("q").argument("x-queue-type", "other");
    let error = channel(&broker).queue_declare(queue).unwrap_err();
    assert_refused(error, 406, "invalid arg 'x-queue-type'");
}

#[test]
fn their_arguments_are_invalid() {
    let broker = Broker::start().unwrap();
    for key in [
        "x-delivery-limit",
        "x-max-age",
        "x-quorum-initial-group-size",
    ] {
        let queue = QueueDeclare::new("q").argument(key, 5);
        let error = channel(&broker).queue_declare(queue).unwrap_err();
        assert_refused(error, 406, &format!("invalid arg '{key}'"));
    }
    let channel = channel(&broker);
    channel.queue_declare("q").unwrap();
    let offset = BasicConsume::new("q").argument("x-stream-offset", "first");
    let error = channel.basic_consume(offset, |_, _, _, _| {}).unwrap_err();
    assert_refused(error, 406, "invalid arg 'x-stream-offset'");
}

#[test]
fn exchanges_of_plugins_are_unknown() {
    let broker = Broker::start().unwrap();
    for kind in ["x-delayed-message", "x-consistent-hash", "x-random"] {
        let exchange = ExchangeDeclare::new("e", kind);
        let error = channel(&broker).exchange_declare(exchange).unwrap_err();
        assert_refused(error, 406, "unknown exchange type");
    }
}

/// Users and virtual hosts are those that were named when it started; nothing adds others.
#[test]
fn unknown_users_and_virtual_hosts_are_refused() {
    let broker = Broker::builder()
        .user("me", "secret")
        .virtual_host("mine")
        .start()
        .unwrap();
    let address = broker.address();
    let error = Connection::open(format!("amqp://guest:guest@{address}")).unwrap_err();
    assert_refused(error, 403, "ACCESS_REFUSED");
    let error = Connection::open(format!("amqp://me:secret@{address}/theirs")).unwrap_err();
    assert_refused(error, 530, "vhost theirs not found");
    Connection::open(format!("amqp://me:secret@{address}/mine")).unwrap();
}

/// Neither a management API, nor TLS, nor AMQP 1.0 is behind its port: each of them gets the header of AMQP.
#[test]
fn other_protocols_get_a_header_and_the_end() {
    let broker = Broker::start().unwrap();
    for (sent, expected) in [
        (
            &b"GET /api/queues HTTP/1.1\r\n\r\n"[..],
            *b"AMQP\x03\x01\0\0",
        ),
        (
            b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
            *b"AMQP\x03\x01\0\0",
        ),
        (b"AMQP\0\x01\0\0", *b"AMQP\0\0\x09\x01"),
        (b"AMQP\x03\x01\0\0", *b"AMQP\0\0\x09\x01"),
    ] {
        let mut stream = TcpStream::connect(broker.address()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream.write_all(sent).unwrap();
        let mut received = Vec::new();
        // What it did not read may make the end a reset.
        let _ = stream.read_to_end(&mut received);
        assert_eq!(received, expected);
    }
}

/// Methods that RabbitMQ does not do either.
#[test]
fn what_rabbitmq_does_not_implement_is_refused_as_there() {
    let broker = Broker::start().unwrap();
    let immediate = broker.connect(ConnectionParameters::default()).unwrap();
    let channel = immediate.channel().unwrap();
    let error = channel.basic_recover(false).unwrap_err();
    assert_refused(error, 540, "requeue=false");
}

/// What is durable outlives a restart, and nothing outlives the broker.
#[test]
fn nothing_outlives_the_broker() {
    let broker = Broker::start().unwrap();
    channel(&broker)
        .queue_declare(QueueDeclare::new("q").durable(true))
        .unwrap();
    broker.restart();
    assert!(broker.queue("q").is_some());
    drop(broker);
    assert!(Broker::start().unwrap().queue("q").is_none());
}
