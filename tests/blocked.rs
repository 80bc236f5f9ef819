//! Why the broker blocks the connection, and what it has: `Connection::blocked`, `queue_exists`,
//! `exchange_exists`.

#[path = "support/broker.rs"]
mod broker;
mod support;

use std::time::Duration;

use broker::Broker;
use haypile::{
    BasicGet, Connection, ConnectionParameters, Error, ExchangeDeclare, ExchangeType, QueueDeclare,
};
use support::peer::{m, Args, Peer};
use support::{
    assert_matches, bounded, bounded_by, exclusive_queue, open, unique, url, wait_until,
};

const ALARM: Duration = Duration::from_secs(60);

#[test]
fn the_error_of_a_timeout_during_an_alarm_mentions_it_and_that_the_messages_fate_is_unknown() {
    bounded_by(Duration::from_secs(180), || {
        let broker = Broker::start(&[]);
        let parameters = ConnectionParameters::from_url(&broker.amqp)
            .unwrap()
            .rpc_timeout(Duration::from_millis(500));
        let connection = Connection::open(parameters).unwrap();
        let channel = connection.channel().unwrap();
        let caller = connection.channel().unwrap();
        let queue = exclusive_queue(&channel);
        channel.confirm_delivery().unwrap();
        channel.basic_publish("", &queue, "before").unwrap();
        assert_eq!(connection.blocked(), None);
        let mut publisher = connection.channel().unwrap().publisher(1).unwrap();
        publisher.publish("", &queue, "published before").unwrap();
        publisher.wait_for_confirms(ALARM).unwrap();

        broker.rabbitmqctl(&["set_vm_memory_high_watermark", "0"]);
        // The broker sends it when the connection publishes next.
        let error = channel.basic_publish("", &queue, "during").unwrap_err();
        assert_matches!(
            error,
            Error::Timeout {
                blocked: Some(_),
                ..
            }
        );
        assert!(
            error.is_channel_error() && error.is_retryable(),
            "{error:?}"
        );
        let text = error.to_string();
        for part in [
            "500 ms",
            "low on memory",
            "whether the broker has the message is unknown",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(connection.blocked().as_deref(), Some("low on memory"));
        assert!(connection.is_open());

        let error = caller
            .queue_declare(QueueDeclare::new(&queue).passive(true))
            .unwrap_err();
        let text = error.to_string();
        assert!(text.contains("waiting for queue.declare"), "{text}");
        assert!(
            text.contains("blocks the connection (low on memory)"),
            "{text}"
        );

        // The same error comes from a publisher that waits for many, and from one whose window is full.
        publisher.publish("", &queue, "published during").unwrap();
        let error = publisher.publish("", &queue, "never sent").unwrap_err();
        assert!(
            matches!(&error, Error::Timeout { blocked: Some(reason), .. } if &**reason == "low on memory"),
            "{error:?}"
        );
        assert!(error.to_string().contains("nothing was sent"), "{error}");
        let error = publisher
            .wait_for_confirms(Duration::from_millis(100))
            .unwrap_err();
        let text = error.to_string();
        for part in [
            "1 pending (2)",
            "the broker blocks the connection (low on memory)",
            "whether the broker has those pending is unknown",
        ] {
            assert!(text.contains(part), "{text}");
        }
        let Error::Unconfirmed(report) = error else {
            panic!("{error:?}");
        };
        assert_eq!(report.pending, [2]);
        assert_eq!(report.blocked.as_deref(), Some("low on memory"));

        broker.rabbitmqctl(&["set_vm_memory_high_watermark", "0.4"]);
        wait_until(ALARM, || connection.blocked().is_none());
        // It had arrived all the same.
        let channel = connection.channel().unwrap();
        let mut got: Vec<Vec<u8>> = (0..4)
            .filter_map(|_| {
                channel
                    .basic_get(BasicGet::new(&queue).auto_ack(true))
                    .unwrap()
            })
            .map(|(_, _, body)| body)
            .collect();
        got.sort();
        let texts = ["before", "during", "published before", "published during"];
        assert_eq!(got, texts.map(|text| text.as_bytes().to_vec()));
    });
}

#[test]
fn the_reason_for_blocking_is_kept_until_it_ends() {
    bounded(|| {
        let peer = Peer::start(|session| {
            session.handshake();
            session.open_channel(1);
            session.send_method(
                0,
                m::CONNECTION_BLOCKED,
                Args::new().shortstr("low on disk"),
            );
            session.expect(1, m::BASIC_QOS);
            session.send_method(1, m::BASIC_QOS_OK, Args::new());
            session.expect(1, m::BASIC_QOS);
            session.send_method(0, m::CONNECTION_UNBLOCKED, Args::new());
            session.send_method(1, m::BASIC_QOS_OK, Args::new());
            session.send_method(
                0,
                m::CONNECTION_BLOCKED,
                Args::new().shortstr("low on memory"),
            );
            session.expect(1, m::BASIC_QOS);
            session.send_method(1, m::BASIC_QOS_OK, Args::new());
            session.serve_until_end();
        });
        let connection = Connection::open(peer.url().as_str()).unwrap();
        let channel = connection.channel().unwrap();
        channel.basic_qos(1).unwrap();
        assert_eq!(connection.blocked().as_deref(), Some("low on disk"));
        channel.basic_qos(1).unwrap();
        channel.basic_qos(1).unwrap();
        assert_eq!(connection.blocked().as_deref(), Some("low on memory"));
        connection.close().unwrap();
        assert_eq!(connection.blocked(), None);
        peer.finish();
    });
}

#[test]
fn asking_for_a_queue_costs_nothing() {
    bounded(|| {
        let connection = Connection::open(
            ConnectionParameters::from_url(url())
                .unwrap()
                .channel_max(2),
        )
        .unwrap();
        let channel = connection.channel().unwrap();
        let queue = exclusive_queue(&channel);
        channel.basic_publish("", &queue, "x").unwrap();
        support::assert_message_count(&channel, &queue, 1);
        let missing = unique("missing");
        // One number is left for all the questions.
        for _ in 0..20 {
            let found = connection.queue_exists(&queue).unwrap().unwrap();
            assert_eq!(
                (found.queue.as_str(), found.message_count),
                (queue.as_str(), 1)
            );
            assert_eq!(connection.queue_exists(&missing).unwrap(), None);
        }
        assert!(channel.is_open() && connection.is_open());

        // It exists, and is another connection's.
        let error = open().queue_exists(&queue).unwrap_err();
        assert_eq!(error.reply_code(), Some(405));
        let error = connection.queue_exists("q".repeat(256)).unwrap_err();
        assert_matches!(error, Error::ShortStringTooLong { .. });
        connection.close().unwrap();
        let error = connection.queue_exists(&queue).unwrap_err();
        assert_matches!(error, Error::ConnectionWrongState { .. });
    });
}

#[test]
fn asking_for_an_exchange_costs_nothing() {
    bounded(|| {
        let connection = open();
        let channel = connection.channel().unwrap();
        let exchange = unique("exchange");
        channel
            .exchange_declare(
                ExchangeDeclare::new(&exchange, ExchangeType::Topic).auto_delete(true),
            )
            .unwrap();
        for _ in 0..3 {
            assert!(connection.exchange_exists(&exchange).unwrap());
            assert!(connection.exchange_exists("amq.headers").unwrap());
            assert!(!connection.exchange_exists(unique("missing")).unwrap());
        }
        channel.exchange_delete(exchange.as_str()).unwrap();
        assert!(!connection.exchange_exists(&exchange).unwrap());
    });
}

#[test]
fn the_default_exchange_is_not_asked_about() {
    bounded(|| {
        let connection = open();
        let error = connection.exchange_exists("").unwrap_err();
        assert_matches!(
            error,
            Error::ChannelClosedByBroker {
                reply_code: 403,
                ..
            }
        );
        assert!(!error.is_retryable() && connection.is_open());
    });
}

/// RabbitMQ lets every user ask; other brokers and its plugins need not.
#[test]
fn a_user_who_may_not_ask_gets_an_error() {
    bounded(|| {
        let peer = Peer::start(|session| {
            session.handshake();
            for method in [m::QUEUE_DECLARE, m::EXCHANGE_DECLARE] {
                session.open_channel(1);
                session.expect(1, method);
                session.send_channel_close(1, 403, "ACCESS_REFUSED - no", method);
                session.expect(1, m::CHANNEL_CLOSE_OK);
            }
            session.serve_until_end();
        });
        let connection = Connection::open(peer.url().as_str()).unwrap();
        let error = connection.queue_exists("secret").unwrap_err();
        assert_eq!(error.reply_code(), Some(403));
        let error = connection.exchange_exists("secret").unwrap_err();
        assert_eq!(error.reply_code(), Some(403));
        connection.close().unwrap();
        peer.finish();
    });
}

/// The queue is there, so "no" would be wrong.
#[test]
fn a_queue_whose_node_is_down_exists() {
    bounded(|| {
        let peer = Peer::start(|session| {
            session.handshake();
            session.open_channel(1);
            session.expect(1, m::QUEUE_DECLARE);
            let text = "NOT_FOUND - home node 'rabbit@a' of durable queue 'q' in vhost '/' is down or inaccessible";
            session.send_channel_close(1, 404, text, m::QUEUE_DECLARE);
            session.expect(1, m::CHANNEL_CLOSE_OK);
            session.serve_until_end();
        });
        let connection = Connection::open(peer.url().as_str()).unwrap();
        let error = connection.queue_exists("q").unwrap_err();
        assert_eq!(error.reply_code(), Some(404));
        assert!(error.is_retryable(), "{error:?}");
        connection.close().unwrap();
        peer.finish();
    });
}
