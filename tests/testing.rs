//! The broker for tests, as a test uses it: what it misbehaves on order, what it shows, and that nothing is left of it.
#![cfg(feature = "testing")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;

use haypile::testing::{Broker, Direction};
use haypile::{
    BasicConsume, BasicProperties, BasicPublish, BasicQos, Channel, Connection,
    ConnectionParameters, DeliveryMode, Error, QueueDeclare,
};

const SOON: Duration = Duration::from_secs(20);

fn connect(broker: &Broker) -> Connection {
    broker.connect(ConnectionParameters::default()).unwrap()
}

fn channel(broker: &Broker) -> Channel {
    connect(broker).channel().unwrap()
}

#[test]
fn a_message_goes_through_over_tcp_and_in_memory() {
    let broker = Broker::start().unwrap();
    let tcp = Connection::open(broker.url()).unwrap().channel().unwrap();
    let memory = channel(&broker);
    tcp.queue_declare("q").unwrap();
    let body = vec![7; 1_000_000];
    tcp.confirm_delivery().unwrap();
    tcp.basic_publish("", "q", &body).unwrap();
    let (_, _, received) = memory.basic_get("q").unwrap().unwrap();
    assert_eq!(received, body);
}

#[test]
fn a_stream_is_cut_after_so_many_bytes() {
    let broker = Broker::start().unwrap();
    for tcp in [true, false] {
        for direction in [Direction::ToBroker, Direction::ToClient] {
            for reset in [true, false] {
                let fault = broker.next_connection();
                if reset {
                    fault.reset_after(direction, 100);
                } else {
                    fault.cut_after(direction, 100);
                }
                let opened = if tcp {
                    Connection::open(broker.url())
                } else {
                    broker.connect(ConnectionParameters::default())
                };
                assert!(opened.is_err(), "tcp {tcp}, {direction}, reset {reset}");
                broker.wait_until(|| !fault.is_open(), SOON).unwrap();
            }
        }
    }
    let channel = channel(&broker);
    channel.queue_declare("q").unwrap();
    broker.connections()[0].cut();
    let error = channel.basic_get("q").unwrap_err();
    assert!(error.is_connection_error(), "{error}");
}

#[test]
fn a_refused_connection_leaves_the_next_one_alone() {
    let broker = Broker::start().unwrap();
    broker.refuse_next_connection();
    assert!(Connection::open(broker.url()).is_err());
    assert!(Connection::open(broker.url()).is_ok());
}

#[test]
fn a_stalled_connection_goes_on_where_it_stood() {
    let broker = Broker::start().unwrap();
    let channel = channel(&broker);
    channel.queue_declare("q").unwrap();
    let connection = broker.connections().remove(0);
    connection.stall(Direction::ToBroker);
    channel.basic_publish("", "q", "1").unwrap();
    assert!(broker.queue("q").unwrap().messages.is_empty());
    connection.resume();
    let arrived = || broker.queue("q").unwrap().bodies() == ["1"];
    broker.wait_until(arrived, SOON).unwrap();
}

#[test]
fn closures_are_reported_with_their_code() {
    let broker = Broker::start().unwrap();
    let channel = channel(&broker);
    let number = channel.channel_number();
    broker.connections()[0].close_channel(number, 406, "PRECONDITION_FAILED - by test");
    let error = channel.basic_get("q").unwrap_err();
    assert_eq!(error.reply_code(), Some(406), "{error}");
    broker.connections()[0].close(320, "CONNECTION_FORCED - by test");
    let closed = || broker.connections().is_empty();
    broker.wait_until(closed, SOON).unwrap();
    assert!(channel.connection().channel().is_err());
}

#[test]
fn the_next_publishes_come_to_what_was_ordered() {
    let broker = Broker::start().unwrap();
    let channel = channel(&broker);
    channel.queue_declare("q").unwrap();
    channel.confirm_delivery().unwrap();
    broker.nack_next_publish();
    broker.return_next_publish();
    let error = channel.basic_publish("", "q", "1").unwrap_err();
    assert!(matches!(error, Error::Nack { .. }), "{error}");
    let mandatory = BasicPublish::new().mandatory(true);
    let error = channel
        .basic_publish_with("", "q", "2", mandatory)
        .unwrap_err();
    assert!(matches!(error, Error::Unroutable { .. }), "{error}");
    channel.basic_publish("", "q", "3").unwrap();
    assert_eq!(broker.queue("q").unwrap().bodies(), ["3"]);
}

#[test]
fn a_withheld_confirm_comes_when_it_is_released() {
    let broker = Broker::start().unwrap();
    let channel = channel(&broker);
    channel.queue_declare("q").unwrap();
    let mut publisher = channel.publisher(10).unwrap();
    broker.withhold_next_confirm();
    publisher.publish("", "q", "1").unwrap();
    publisher.publish("", "q", "2").unwrap();
    let arrived = || broker.queue("q").unwrap().bodies() == ["1", "2"];
    broker.wait_until(arrived, SOON).unwrap();
    let error = publisher
        .wait_for_confirms(Duration::from_millis(50))
        .unwrap_err();
    let Error::Unconfirmed(report) = error else {
        panic!("{error}");
    };
    assert_eq!(report.pending, [1]);
    broker.release_confirms();
    publisher.wait_for_confirms(SOON).unwrap();
}

#[test]
fn a_blocked_broker_notifies_those_that_publish() {
    let broker = Broker::start().unwrap();
    let channel = channel(&broker);
    channel.queue_declare("q").unwrap();
    let connection = channel.connection();
    let seen = Arc::new(AtomicUsize::new(0));
    for shift in [1, 100] {
        let seen = Arc::clone(&seen);
        if shift == 1 {
            connection.add_on_connection_blocked_callback(move |_, _| {
                seen.fetch_add(1, Ordering::SeqCst);
            });
        } else {
            connection.add_on_connection_unblocked_callback(move |_| {
                seen.fetch_add(100, Ordering::SeqCst);
            });
        }
    }
    broker.block("low on memory");
    channel.basic_publish("", "q", "1").unwrap();
    while seen.load(Ordering::SeqCst) < 1 {
        connection.process_data_events(SOON).unwrap();
    }
    assert!(broker.queue("q").unwrap().messages.is_empty());
    broker.unblock();
    while seen.load(Ordering::SeqCst) < 101 {
        connection.process_data_events(SOON).unwrap();
    }
    let arrived = || broker.queue("q").unwrap().bodies() == ["1"];
    broker.wait_until(arrived, SOON).unwrap();
}

#[test]
fn a_restart_keeps_what_is_durable_and_persistent() {
    let broker = Broker::start().unwrap();
    let first = channel(&broker);
    first.queue_declare("transient").unwrap();
    first
        .queue_declare(QueueDeclare::new("durable").durable(true))
        .unwrap();
    let persistent = BasicProperties::new().delivery_mode(DeliveryMode::Persistent);
    first.confirm_delivery().unwrap();
    for body in ["fetched", "kept"] {
        first
            .basic_publish_with("", "durable", body, &persistent)
            .unwrap();
    }
    first.basic_publish("", "durable", "transient").unwrap();
    first.basic_get("durable").unwrap().unwrap();
    broker.restart();
    let second = channel(&broker);
    assert!(first.basic_get("durable").is_err());
    assert!(broker.queue("transient").is_none());
    let queue = broker.queue("durable").unwrap();
    assert_eq!(queue.bodies(), ["fetched", "kept"]);
    assert!(queue.messages[0].redelivered && !queue.messages[1].redelivered);
    assert!(second.is_open());
}

#[test]
fn unacknowledged_messages_are_lost_on_order() {
    let broker = Broker::start().unwrap();
    let channel = channel(&broker);
    channel.queue_declare("q").unwrap();
    for body in ["1", "2"] {
        channel.basic_publish("", "q", body).unwrap();
    }
    let (method, ..) = channel.basic_get("q").unwrap().unwrap();
    assert_eq!(broker.queue("q").unwrap().unacknowledged.len(), 1);
    broker.lose_unacknowledged();
    assert!(broker.queue("q").unwrap().unacknowledged.is_empty());
    channel.basic_ack(method.delivery_tag).unwrap();
    channel.close().unwrap();
    assert_eq!(broker.queue("q").unwrap().bodies(), ["2"]);
}

#[test]
fn a_consumer_is_cancelled_and_shown() {
    let broker = Broker::start().unwrap();
    let channel = channel(&broker);
    channel.queue_declare("q").unwrap();
    let consume = BasicConsume::new("q").consumer_tag("c").auto_ack(true);
    channel.basic_consume(consume, |_, _, _, _| {}).unwrap();
    let consumers = broker.queue("q").unwrap().consumers;
    assert_eq!(consumers.len(), 1);
    assert!(consumers[0].auto_ack && consumers[0].active && consumers[0].consumer_tag == "c");
    assert!(broker.cancel_consumer("c"));
    assert!(!broker.cancel_consumer("c"));
    let ended = channel.start_consuming().unwrap();
    assert_eq!(
        format!("{ended:?}"),
        r#"CancelledByBroker { consumer_tag: "c" }"#
    );
}

#[test]
fn messages_expire_at_once_on_order() {
    let broker = Broker::start().unwrap();
    let channel = channel(&broker);
    let queue = QueueDeclare::new("q")
        .argument("x-message-ttl", 3_600_000)
        .argument("x-dead-letter-exchange", "")
        .argument("x-dead-letter-routing-key", "dead");
    channel.queue_declare(queue).unwrap();
    channel.queue_declare("dead").unwrap();
    channel.confirm_delivery().unwrap();
    channel.basic_publish("", "q", "1").unwrap();
    assert_eq!(broker.expire_messages("q"), 1);
    assert_eq!(broker.queue("dead").unwrap().bodies(), ["1"]);
}

/// RabbitMQ drops what has expired behind a message before it counts how many are left.
#[test]
fn a_fetch_does_not_count_what_has_expired() {
    let broker = Broker::start().unwrap();
    let channel = channel(&broker);
    channel.queue_declare("q").unwrap();
    channel.basic_publish("", "q", "1").unwrap();
    let expired = BasicProperties::new().expiration("0");
    channel.basic_publish_with("", "q", "2", expired).unwrap();
    let (method, ..) = channel.basic_get("q").unwrap().unwrap();
    assert_eq!(method.message_count, 0);
}

#[test]
fn the_log_has_every_method_and_no_password() {
    let broker = Broker::builder().user("me", "s3cret").start().unwrap();
    let connection = Connection::open(broker.url()).unwrap();
    let channel = connection.channel().unwrap();
    channel.queue_declare("log-me").unwrap();
    let error = broker.wait_until(|| false, Duration::ZERO).unwrap_err();
    let text = format!("{error:?}");
    assert!(
        text.contains(r#"client: queue.declare { queue: "log-me""#),
        "{text}"
    );
    assert!(text.contains("broker: queue.declare-ok"), "{text}");
    assert!(!text.contains("s3cret"), "{text}");
}

#[test]
fn a_wrong_password_and_an_unknown_virtual_host_are_refused() {
    let broker = Broker::start().unwrap();
    let address = broker.address();
    let error = Connection::open(format!("amqp://guest:no@{address}")).unwrap_err();
    assert_eq!(error.reply_code(), Some(403), "{error}");
    let error = Connection::open(format!("amqp://guest:guest@{address}/no")).unwrap_err();
    assert_eq!(error.reply_code(), Some(530), "{error}");
}

/// Linux counts them.
#[cfg(target_os = "linux")]
#[test]
fn brokers_leave_no_thread_and_no_descriptor() {
    const BROKERS: usize = 1000;
    // A program of its own, so that no other test's threads are counted.
    if std::env::var_os("HAYPILE_COUNT_BROKERS").is_none() {
        let test = "brokers_leave_no_thread_and_no_descriptor";
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env("HAYPILE_COUNT_BROKERS", "1")
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    let count = |what: &str| {
        std::fs::read_dir(format!("/proc/self/{what}"))
            .unwrap()
            .count()
    };
    let before = (count("task"), count("fd"));
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                while next.fetch_add(1, Ordering::SeqCst) < BROKERS {
                    let broker = Broker::start().unwrap();
                    let channel = channel(&broker);
                    channel.queue_declare("q").unwrap();
                    channel.basic_publish("", "q", "1").unwrap();
                    assert!(channel.basic_get("q").unwrap().is_some());
                }
            });
        }
    });
    // The last thread of a scope may be on its way out.
    let begun = std::time::Instant::now();
    while (count("task"), count("fd")) != before {
        assert!(
            begun.elapsed() < SOON,
            "{:?} {before:?}",
            (count("task"), count("fd"))
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// `basic.qos` with `global`: for each consumer, as in RabbitMQ 4.3, or for the channel.
#[test]
fn a_global_limit_is_for_each_consumer_unless_the_channel_may_have_one() {
    for (permitted, delivered) in [(false, 4), (true, 2)] {
        let broker = Broker::builder().global_qos(permitted).start().unwrap();
        let connection = broker.connect(ConnectionParameters::default()).unwrap();
        let channel = connection.channel().unwrap();
        channel.queue_declare("tasks").unwrap();
        for body in ["1", "2", "3", "4", "5"] {
            channel.basic_publish("", "tasks", body).unwrap();
        }
        channel.basic_qos(BasicQos::new(2).global(true)).unwrap();
        for _ in 0..2 {
            channel
                .basic_consume("tasks", |_channel, _method, _properties, _body| Ok(()))
                .unwrap();
        }
        let queue = broker.queue("tasks").unwrap();
        assert_eq!(queue.unacknowledged.len(), delivered, "{permitted}");
    }
}

#[test]
fn a_builder_shows_no_password() {
    let builder = Broker::builder().user("reporter", "hush");
    let shown = format!("{builder:?}");
    assert!(
        shown.contains("reporter") && !shown.contains("hush"),
        "{shown}"
    );
}
