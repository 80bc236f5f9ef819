//! Where a broker refuses, or does something else than what was asked for, the error or one warning names what to do.

#[path = "support/capture.rs"]
mod capture;
mod support;

use capture::{capture, logged};
use haypile::{
    BasicConsume, BasicQos, Channel, Connection, ConnectionParameters, Error, ExchangeDeclare,
    ExchangeType, QueueDeclare,
};
use support::peer::{m, Peer};
use support::{bounded, channel, rabbitmq_version, unique, Fixture};

#[track_caller]
fn assert_mentions(error: &Error, parts: &[&str]) {
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing: {text}");
    }
}

/// What a declaration fails with at a broker that refuses it so.
fn refused_declaration(reply_code: u16, reply_text: &'static str) -> Error {
    let peer = Peer::start(move |session| {
        session.handshake();
        session.open_channel(1);
        session.expect(1, m::QUEUE_DECLARE);
        if matches!(reply_code, 540 | 541) {
            session.send_connection_close(reply_code, reply_text, m::QUEUE_DECLARE);
            session.wait_for(0, m::CONNECTION_CLOSE_OK);
        } else {
            session.send_channel_close(1, reply_code, reply_text, m::QUEUE_DECLARE);
            session.serve_until_end();
        }
    });
    let connection = Connection::open(peer.url()).unwrap();
    let channel = connection.channel().unwrap();
    let error = channel.queue_declare("q").unwrap_err();
    drop((channel, connection));
    peer.finish();
    error
}

#[test]
fn an_acknowledgement_too_many_is_explained() {
    let channel = channel();
    let queue = unique("hints");
    channel
        .queue_declare(QueueDeclare::new(queue.as_str()).exclusive(true))
        .unwrap();
    channel.basic_publish("", queue.as_str(), "task").unwrap();
    let (method, ..) = channel.basic_get(queue.as_str()).unwrap().unwrap();
    channel.basic_ack(method.delivery_tag).unwrap();
    channel.basic_ack(method.delivery_tag).unwrap();
    let error = channel.queue_declare("").unwrap_err();
    assert_eq!(error.reply_code(), Some(406));
    assert_mentions(
        &error,
        &["acknowledged or refused before", "another channel"],
    );
}

/// A quorum queue or a stream, which a node that has just started may not know how to make yet.
fn of_type(channel: &Channel, name: &str, queue_type: &str) {
    let request = QueueDeclare::new(name)
        .durable(true)
        .argument("x-queue-type", queue_type);
    channel.queue_declare(request).unwrap();
}

/// What RabbitMQ 4.3 sends with `deprecated_features.permit.transient_nonexcl_queues = false`.
const DENIED: &str = "INTERNAL_ERROR - Feature `transient_nonexcl_queues` is deprecated.\nIts use is not permitted per the \
    configuration (overriding the default, which is permitted):\n    \"deprecated_features.permit.transient_nonexcl_queues = \
    false\"\nIts use will not be permit...";

#[test]
fn a_transient_queue_that_is_denied_is_to_be_durable_or_exclusive() {
    bounded(|| {
        let error = refused_declaration(541, DENIED);
        assert_mentions(&error, &[".durable(true)", ".exclusive(true)"]);
        assert!(!error.is_retryable());
    });
}

/// The words of a broker without the feature `global_qos`, and those of one whose queue does not know it.
#[test]
fn a_global_limit_that_is_denied_is_to_be_left_out() {
    bounded(|| {
        for (code, text) in [
            (541, "INTERNAL_ERROR - Feature `global_qos` is deprecated.\nBy default, this feature is not permitted anymore."),
            (540, "NOT_IMPLEMENTED - queue 'q' in vhost '/' does not support global qos"),
        ] {
            assert_mentions(&refused_declaration(code, text), &["leave out .global(true)"]);
        }
    });
}

#[test]
fn a_global_limit_is_refused_by_quorum_queues_or_warned_of() {
    bounded(|| {
        capture();
        let mut fixture = Fixture::new();
        let queue = fixture.queue("global");
        let channel = channel();
        of_type(&channel, &queue, "quorum");
        channel.basic_qos(BasicQos::new(5).global(true)).unwrap();
        let consumed = channel.basic_consume(&queue, |_, _, _, _| {});
        if rabbitmq_version(&channel.connection()) >= (4, 3) {
            consumed.unwrap();
            let log = logged();
            assert!(
                log.contains("WARN") && log.contains("each consumer has the limit"),
                "{log}"
            );
        } else {
            assert_mentions(&consumed.unwrap_err(), &["540", "leave out .global(true)"]);
        }
    });
}

#[test]
fn a_small_frame_max_is_refused_with_the_reason() {
    let parameters = ConnectionParameters::new("127.0.0.1").frame_max(4096);
    for refused in [
        Connection::open(parameters).unwrap_err(),
        Connection::open("amqp://127.0.0.1/?frame_max=4096").unwrap_err(),
    ] {
        assert_mentions(&refused, &["4096", "8192", "RabbitMQ 4.1"]);
    }
}

#[test]
fn the_error_of_a_message_above_the_brokers_limit_names_a_remedy() {
    bounded(|| {
        // From 4.0 on at 16 MiB; before that at 128 MiB, with these words.
        let text = "PRECONDITION_FAILED - message size 134217729 is larger than configured max size 134217728";
        assert_mentions(
            &refused_declaration(406, text),
            &["max_message_size", "in parts"],
        );

        let channel = channel();
        if rabbitmq_version(&channel.connection()) < (4, 0) {
            return;
        }
        let queue = support::exclusive_queue(&channel);
        channel.confirm_delivery().unwrap();
        let too_large = vec![0; (16 << 20) + 1];
        let error = channel.basic_publish("", &queue, too_large).unwrap_err();
        assert_mentions(&error, &["406", "max_message_size", "in parts"]);
    });
}

/// As after a change of the virtual host's default queue type: what was declared as one type is declared as another.
#[test]
fn the_error_of_a_queue_of_another_type_names_the_argument() {
    bounded(|| {
        let mut fixture = Fixture::new();
        let queue = fixture.queue("type");
        let first = channel();
        of_type(&first, &queue, "quorum");
        let plain = QueueDeclare::new(&queue).durable(true);
        let error = first.queue_declare(plain).unwrap_err();
        assert_mentions(
            &error,
            &["406", ".argument(\"x-queue-type\", …)", "delete it first"],
        );
    });
}

#[test]
fn the_error_of_a_conflicting_redeclaration_names_a_remedy() {
    bounded(|| {
        let mut fixture = Fixture::new();
        let (queue, exchange) = (fixture.queue("again"), fixture.exchange("again"));
        let first = channel();
        first
            .queue_declare(QueueDeclare::new(&queue).durable(true))
            .unwrap();
        let error = first
            .queue_declare(QueueDeclare::new(&queue).durable(true).auto_delete(true))
            .unwrap_err();
        assert_mentions(
            &error,
            &["406", "'auto_delete'", "queue_delete", "another name"],
        );

        let second = channel();
        second
            .exchange_declare(ExchangeDeclare::new(&exchange, ExchangeType::Fanout))
            .unwrap();
        let error = second
            .exchange_declare(ExchangeDeclare::new(&exchange, ExchangeType::Topic))
            .unwrap_err();
        assert_mentions(&error, &["406", "exchange_delete", "another name"]);
    });
}

#[test]
fn the_error_of_a_wrong_read_of_a_stream_names_the_right_one() {
    bounded(|| {
        let mut fixture = Fixture::new();
        let stream = fixture.queue("stream");
        of_type(&channel(), &stream, "stream");

        let error = channel()
            .basic_consume(&stream, |_, _, _, _| {})
            .unwrap_err();
        assert_mentions(&error, &["406", "basic_qos"]);

        let hasty = channel();
        hasty.basic_qos(10).unwrap();
        let request = BasicConsume::new(&stream).auto_ack(true);
        let error = hasty.basic_consume(request, |_, _, _, _| {}).unwrap_err();
        assert_mentions(&error, &["540", "without .auto_ack(true)"]);

        let error = channel().basic_get(&stream).unwrap_err();
        assert_mentions(&error, &["540", "basic_consume"]);
    });
}

#[test]
fn the_error_of_an_option_that_a_type_of_queue_lacks_names_a_remedy() {
    bounded(|| {
        let quorum = || QueueDeclare::new(unique("never")).argument("x-queue-type", "quorum");
        let error = channel().queue_declare(quorum()).unwrap_err();
        assert_mentions(&error, &["406", "durable(true)"]);
        let error = channel()
            .queue_declare(quorum().durable(true).argument("x-max-priority", 5))
            .unwrap_err();
        assert_mentions(&error, &["406", "another x-queue-type"]);
    });
}

/// 406 from RabbitMQ 4 on; RabbitMQ 3 closes the connection with 503.
#[test]
fn an_unknown_type_of_exchange_may_lack_its_plugin() {
    bounded(|| {
        let exchange = unique("never");
        let request = ExchangeDeclare::new(&exchange, ExchangeType::from("x-no-such-type"));
        let error = channel().exchange_declare(request).unwrap_err();
        assert!(matches!(error.reply_code(), Some(406 | 503)), "{error}");
        assert_mentions(&error, &["x-no-such-type", "plugin"]);
    });
}

#[test]
fn an_old_policy_for_copies_is_warned_of() {
    bounded(|| {
        capture();
        let mut fixture = Fixture::new();
        let queue = fixture.queue("ha");
        let request = QueueDeclare::new(&queue)
            .durable(true)
            .argument("x-ha-policy", "all");
        channel().queue_declare(request).unwrap();
        let log = logged();
        let warnings: Vec<&str> = log
            .lines()
            .filter(|line| line.starts_with("WARN") && line.contains(&queue))
            .collect();
        assert!(
            matches!(warnings[..], [one] if one.contains("x-queue-type") && one.contains("quorum")),
            "{warnings:?}"
        );
    });
}

#[test]
fn a_transient_queue_is_warned_of_once_for_each_connection() {
    bounded(|| {
        capture();
        let channel = channel();
        let (lasting, own) = (unique("lasting"), unique("own"));
        let (first, second) = (unique("first"), unique("second"));
        for request in [
            QueueDeclare::new(&lasting).durable(true),
            QueueDeclare::new(&own).exclusive(true),
            QueueDeclare::new(&first),
            QueueDeclare::new(&second),
        ] {
            channel.queue_declare(request).unwrap();
        }
        for queue in [&lasting, &first, &second] {
            channel.queue_delete(queue).unwrap();
        }

        let log = logged();
        let is_warning = |line: &&str| {
            let names = [&lasting, &own, &first, &second];
            line.starts_with("WARN") && names.iter().any(|name| line.contains(name.as_str()))
        };
        let warnings: Vec<&str> = log.lines().filter(is_warning).collect();
        if rabbitmq_version(&channel.connection()) < (4, 0) {
            assert_eq!(warnings, [""; 0]);
        } else {
            assert!(
                matches!(warnings[..], [one] if one.contains(&first) && one.contains(".durable(true)")),
                "{warnings:?}"
            );
        }
    });
}
