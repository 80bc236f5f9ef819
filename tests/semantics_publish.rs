//! Publishing, channels and declarations: points 32 to 43 of how pika's blocking channel behaves; and the publisher, which
//! pika does not have. A point that has no test here has one in another file, which names it.

mod support;

use std::time::Duration;

use haypile::{
    BasicProperties, BasicPublish, Channel, Connection, ConnectionParameters, Error, FieldTable,
    FieldValue, QueueDeclare, QueueDeclareOk, QueueDelete, ReturnedMessage,
};
use support::peer::{finish, m, scripted_channel, Args, Handshake, Peer, Session};
use support::{
    assert_matches, assert_message_count, bounded, channel, exclusive_queue, message_count, unique,
    url, SOON,
};

fn mandatory() -> BasicPublish<'static> {
    BasicPublish::new().mandatory(true)
}

fn accept_confirms(session: &mut Session) {
    session.expect(1, m::CONFIRM_SELECT);
    session.send_method(1, m::CONFIRM_SELECT_OK, Args::new());
}

fn send_ack(session: &mut Session, tag: u64, multiple: bool) {
    session.send_method(
        1,
        m::BASIC_ACK,
        Args::new().longlong(tag).octet(u8::from(multiple)),
    );
}

fn send_nack(session: &mut Session, tag: u64) {
    session.send_method(1, m::BASIC_NACK, Args::new().longlong(tag).octet(0));
}

fn send_return(session: &mut Session, key: &str, body: &[u8]) {
    let arguments = Args::new()
        .short(312)
        .shortstr("NO_ROUTE")
        .shortstr("")
        .shortstr(key);
    session.send_content(1, m::BASIC_RETURN, arguments, body);
}

/// A queue that refuses a second message.
fn queue_for_one(channel: &Channel) -> String {
    let name = unique("one");
    let request = QueueDeclare::new(&name)
        .exclusive(true)
        .argument("x-max-length", 1)
        .argument("x-overflow", "reject-publish");
    channel.queue_declare(request).unwrap();
    name
}

#[test]
fn p32_basic_publish_sends_its_defaults_and_its_options() {
    bounded(|| {
        let (channel, peer) = scripted_channel(|session| {
            let (mut method, properties, body) = session.expect_content(1, m::BASIC_PUBLISH);
            assert_eq!(
                (method.short(), method.shortstr(), method.shortstr()),
                (0, "x".into(), "key".into())
            );
            assert_eq!(method.octet(), 0);
            assert_eq!(properties, [0, 0]);
            assert_eq!(body, "grüße".as_bytes());

            let (mut method, properties, body) = session.expect_content(1, m::BASIC_PUBLISH);
            assert_eq!(
                (method.short(), method.shortstr(), method.shortstr()),
                (0, "".into(), "q".into())
            );
            assert_eq!(method.octet(), 1);
            // delivery-mode is flag 12, message-id flag 7.
            assert_eq!(properties, [0b0001_0000, 0b1000_0000, 2, 2, b'4', b'2']);
            assert_eq!(body, b"");
        });
        channel.basic_publish("x", "key", "grüße").unwrap();
        let properties = BasicProperties::new()
            .delivery_mode(haypile::DeliveryMode::Persistent)
            .message_id("42");
        channel
            .basic_publish_with("", "q", "", mandatory().properties(properties))
            .unwrap();
        finish(channel, peer);
    });
}

// haypile does better: the error names the cause.
#[test]
fn p33_without_confirms_an_error_comes_at_a_later_call_and_names_its_cause() {
    bounded(|| {
        let channel = channel();
        let exchange = unique("no-such-exchange");
        channel.basic_publish(&exchange, "key", "lost").unwrap();
        let error = channel
            .queue_declare(QueueDeclare::new(unique("q")).exclusive(true))
            .unwrap_err();
        let Error::ChannelClosedByBroker {
            reply_code, method, ..
        } = &error
        else {
            panic!("{error:?}");
        };
        assert_eq!((*reply_code, *method), (404, Some("basic.publish")));
        let text = error.to_string();
        assert!(
            text.contains(&exchange) && text.contains("basic.publish"),
            "{text}"
        );
        assert!(channel.connection().is_open());
    });
}

#[test]
fn p34_a_refused_message_is_an_error() {
    bounded(|| {
        let channel = channel();
        let queue = queue_for_one(&channel);
        channel.confirm_delivery().unwrap();
        channel.basic_publish("", &queue, "first").unwrap();
        let error = channel.basic_publish("", &queue, "second").unwrap_err();
        assert!(
            matches!(&error, Error::Nack(returned) if returned.is_empty()),
            "{error:?}"
        );
        assert!(error.is_channel_error());
        assert_eq!(channel.queue_purge(&queue).unwrap(), 1);
        channel.basic_publish("", &queue, "third").unwrap();
    });
}

#[test]
fn p34_a_refused_message_comes_with_what_was_returned() {
    bounded(|| {
        let (channel, peer) = scripted_channel(|session| {
            accept_confirms(session);
            session.expect_content(1, m::BASIC_PUBLISH);
            send_return(session, "q", b"body");
            send_nack(session, 1);
            session.expect_content(1, m::BASIC_PUBLISH);
            send_ack(session, 2, false);
        });
        channel.confirm_delivery().unwrap();
        let error = channel
            .basic_publish_with("", "q", "body", mandatory())
            .unwrap_err();
        let Error::Nack(returned) = error else {
            panic!("{error:?}");
        };
        assert_eq!(returned.len(), 1);
        assert_eq!(
            (returned[0].method.reply_code, &returned[0].body[..]),
            (312, &b"body"[..])
        );
        channel
            .basic_publish_with("", "q", "body", mandatory())
            .unwrap();
        finish(channel, peer);
    });
}

#[test]
fn p35_not_mandatory_and_unroutable_is_a_success() {
    bounded(|| {
        let channel = channel();
        channel.confirm_delivery().unwrap();
        channel
            .basic_publish("", unique("nowhere"), "lost")
            .unwrap();
    });
}

#[test]
fn p37_a_second_confirm_delivery_does_nothing() {
    bounded(|| {
        let (channel, peer) = scripted_channel(|session| {
            accept_confirms(session);
            session.expect_content(1, m::BASIC_PUBLISH);
            send_ack(session, 1, false);
        });
        channel.confirm_delivery().unwrap();
        channel.confirm_delivery().unwrap();
        channel.basic_publish("", "q", "body").unwrap();
        finish(channel, peer);
    });
}

#[test]
fn p37_a_broker_without_confirms_is_recognized() {
    bounded(|| {
        let peer = Peer::start(|session| {
            let capabilities = vec!["basic.nack", "consumer_cancel_notify"];
            session.handshake_with(&Handshake {
                capabilities,
                ..Handshake::default()
            });
            session.open_channel(1);
            session.serve_until_end();
        });
        let connection = Connection::open(peer.url()).unwrap();
        assert!(!connection.publisher_confirms_supported());
        assert!(!connection.exchange_exchange_bindings_supported());
        assert!(connection.basic_nack_supported() && connection.consumer_cancel_notify_supported());
        let channel = connection.channel().unwrap();
        let error = channel.confirm_delivery().unwrap_err();
        assert_matches!(error, Error::MethodNotImplemented { .. });
        assert!(channel.is_open());
        finish(channel, peer);
    });
}

#[test]
fn p38_channel_numbers_are_the_lowest_free_up_to_the_limit() {
    bounded(|| {
        let parameters = ConnectionParameters::from_url(url())
            .unwrap()
            .channel_max(3);
        let connection = Connection::open(parameters).unwrap();
        assert_eq!(connection.channel_max(), 3);
        let channels: Vec<Channel> = (0..3).map(|_| connection.channel().unwrap()).collect();
        let numbers: Vec<u16> = channels.iter().map(Channel::channel_number).collect();
        assert_eq!(numbers, [1, 2, 3]);
        let error = connection.channel().unwrap_err();
        assert_matches!(error, Error::NoFreeChannels { channel_max: 3, .. });
        assert!(connection.is_open());
        channels[1].close().unwrap();
        let again = connection.channel().unwrap();
        assert_eq!(again.channel_number(), 2);

        let error = connection.channel_with_number(2).unwrap_err();
        assert_matches!(error, Error::InvalidChannelNumber { number: 2, .. });
        let error = connection.channel_with_number(4).unwrap_err();
        assert_matches!(error, Error::InvalidChannelNumber { number: 4, .. });
        let error = connection.channel_with_number(0).unwrap_err();
        assert_matches!(error, Error::InvalidChannelNumber { number: 0, .. });
        again.close().unwrap();
        assert_eq!(
            connection.channel_with_number(2).unwrap().channel_number(),
            2
        );
    });
}

#[test]
fn p39_calls_return_what_the_brokers_reply_holds() {
    bounded(|| {
        let channel = channel();
        let queue = unique("q");
        let QueueDeclareOk {
            queue: name,
            message_count,
            consumer_count,
            ..
        } = channel
            .queue_declare(QueueDeclare::new(&queue).exclusive(true))
            .unwrap();
        assert_eq!((&*name, message_count, consumer_count), (&*queue, 0, 0));
        let () = channel.basic_qos(1).unwrap();
        let () = channel.basic_recover(true).unwrap();
        let () = channel.confirm_delivery().unwrap();
        let active: bool = channel.flow(true).unwrap();
        assert!(active);
        channel
            .basic_publish_with("", &queue, "body", mandatory())
            .unwrap();
        let purged: u32 = channel.queue_purge(&queue).unwrap();
        assert_eq!(purged, 1);
        channel
            .basic_publish_with("", &queue, "body", mandatory())
            .unwrap();
        let deleted: u32 = channel
            .queue_delete(QueueDelete::new(&queue).if_unused(true))
            .unwrap();
        assert_eq!(deleted, 1);
    });
}

#[test]
fn p40_bindings_send_their_names_and_arguments() {
    bounded(|| {
        let (channel, peer) = scripted_channel(|session| {
            for (ask, reply, nowait) in [
                (m::QUEUE_BIND, m::QUEUE_BIND_OK, true),
                (m::EXCHANGE_BIND, m::EXCHANGE_BIND_OK, true),
                (m::EXCHANGE_UNBIND, m::EXCHANGE_UNBIND_OK, true),
                (m::QUEUE_UNBIND, m::QUEUE_UNBIND_OK, false),
            ] {
                let mut bind = session.expect(1, ask);
                let names = (
                    bind.short(),
                    bind.shortstr(),
                    bind.shortstr(),
                    bind.shortstr(),
                );
                assert_eq!(names, (0, "to".into(), "from".into(), "".into()));
                assert!(!nowait || bind.octet() == 0);
                assert_eq!(bind.table(), b"");
                session.send_method(1, reply, Args::new());
            }
            let mut bind = session.expect(1, m::QUEUE_BIND);
            let names = (
                bind.short(),
                bind.shortstr(),
                bind.shortstr(),
                bind.shortstr(),
            );
            assert_eq!(names, (0, "to".into(), "from".into(), "key".into()));
            assert_eq!(
                (bind.octet(), bind.table()),
                (0, b"\x07x-matchS\0\0\0\x03all".to_vec())
            );
            session.send_method(1, m::QUEUE_BIND_OK, Args::new());
        });
        channel.queue_bind("to", "from", "").unwrap();
        channel.exchange_bind("to", "from", "").unwrap();
        channel.exchange_unbind("to", "from", "").unwrap();
        channel.queue_unbind("to", "from", "").unwrap();
        channel
            .queue_bind_with("to", "from", "key", support::one_header("x-match", "all"))
            .unwrap();
        finish(channel, peer);
    });
}

#[test]
fn p41_an_empty_queue_name_lets_the_broker_choose() {
    bounded(|| {
        let channel = channel();
        let names = [(), ()].map(|()| {
            let queue = channel
                .queue_declare(QueueDeclare::new("").exclusive(true))
                .unwrap()
                .queue;
            assert!(queue.starts_with("amq.gen-"), "{queue}");
            assert_eq!(message_count(&channel, &queue), 0);
            queue
        });
        assert_ne!(names[0], names[1]);
    });
}

#[test]
fn p42_closing_a_channel_ends_its_consumers_and_sends_its_reason() {
    bounded(|| {
        let peer = Peer::start(|session| {
            session.handshake();
            for (number, code, text) in [(1, 0, None), (2, 7, Some("done"))] {
                session.open_channel(number);
                session.accept_consumer(number);
                // Its consumer may be cancelled before, or go with it.
                let mut frame = session.frame();
                if frame.method() == Some(m::BASIC_CANCEL) {
                    let tag = frame.arguments().shortstr();
                    session.send_method(number, m::BASIC_CANCEL_OK, Args::new().shortstr(&tag));
                    frame = session.frame();
                }
                assert!(frame.is(number, m::CHANNEL_CLOSE), "{frame:?}");
                let mut close = frame.arguments();
                assert_eq!(close.short(), code);
                let sent = close.shortstr();
                assert!(text.is_none_or(|text| text == sent), "{sent}");
                assert_eq!(close.long(), 0);
                session.send_method(number, m::CHANNEL_CLOSE_OK, Args::new());
            }
            session.serve_until_end();
        });
        let connection = Connection::open(peer.url()).unwrap();
        let first = connection.channel().unwrap();
        first.basic_consume("q", |_, _, _, _| {}).unwrap();
        first.close().unwrap();
        assert!(first.is_closed());
        assert!(first.consumer_tags().is_empty());
        let second = connection.channel_with_number(2).unwrap();
        second.basic_consume("q", |_, _, _, _| {}).unwrap();
        second.close_with(7, "done").unwrap();
        let error = second.close_with(7, "done").unwrap_err();
        assert_matches!(error, Error::ChannelWrongState { channel: 2, .. });
        finish(second, peer);
    });
}

#[test]
fn p43_a_waiting_call_fails_with_the_connections_error() {
    bounded(|| {
        for forced in [false, true] {
            let peer = Peer::start(move |session| {
                session.handshake();
                session.open_channel(1);
                session.expect(1, m::QUEUE_DECLARE);
                if forced {
                    session.send_connection_close(320, "CONNECTION_FORCED - shutdown", (0, 0));
                    session.wait_for(0, m::CONNECTION_CLOSE_OK);
                } else {
                    session.reset();
                }
            });
            let connection = Connection::open(peer.url()).unwrap();
            let channel = connection.channel().unwrap();
            let error = channel.queue_declare("q").unwrap_err();
            if forced {
                assert_matches!(error, Error::ConnectionClosedByBroker { .. });
                assert_eq!(error.reply_code(), Some(320));
            } else {
                assert_matches!(error, Error::StreamLost(_));
            }
            assert_eq!(error.address(), Some(&*peer.address().to_string()));
            assert!(connection.is_closed() && channel.is_closed());
            peer.finish();
        }
    });
}

// haypile does better: every field type that RabbitMQ reads can be sent, floats and unsigned numbers among them.
#[test]
fn every_field_type_survives_the_way_through_the_broker() {
    bounded(|| {
        let channel = channel();
        let queue = exclusive_queue(&channel);
        channel.confirm_delivery().unwrap();
        let sent: FieldTable = [
            ("bool", FieldValue::from(true)),
            ("i8", FieldValue::from(-8i8)),
            ("u8", FieldValue::from(200u8)),
            ("i16", FieldValue::from(-1600i16)),
            ("u16", FieldValue::from(60_000u16)),
            ("i32", FieldValue::from(i32::MIN)),
            ("u32", FieldValue::from(u32::MAX)),
            ("i64", FieldValue::from(i64::MIN)),
            ("u64", FieldValue::from(u64::from(u32::MAX) + 1)),
            ("f32", FieldValue::from(0.5f32)),
            ("f64", FieldValue::from(-0.1f64)),
            ("text", FieldValue::from("grüße")),
            ("bytes", FieldValue::bytes(vec![0, 255, 128])),
            ("timestamp", FieldValue::timestamp(1_700_000_000)),
            ("decimal", FieldValue::decimal(2, 1999)),
            ("void", FieldValue::void()),
            ("array", FieldValue::array(["one", "two"])),
            ("table", support::one_header("inner", "value").into()),
        ]
        .into_iter()
        .collect();
        for (key, value) in sent.iter() {
            let properties = BasicProperties::new().header(key.to_string(), value.clone());
            channel
                .basic_publish_with("", &queue, "", properties)
                .unwrap();
            let (_, properties, _) = channel.basic_get(&queue).unwrap().expect("a message");
            let headers = properties.headers.expect("headers");
            assert_eq!(headers.get(key), Some(value), "{key}");
        }
        let properties = BasicProperties::new().header("f64", f64::NAN);
        let error = channel
            .basic_publish_with("", &queue, "", properties)
            .unwrap_err();
        assert!(!error.is_connection_error(), "{error:?}");
        assert!(channel.is_open());
    });
}

#[test]
fn a_publisher_ties_each_loss_to_its_message() {
    bounded(|| {
        let channel = channel();
        let (queue, full) = (exclusive_queue(&channel), queue_for_one(&channel));
        channel.basic_publish("", &full, "fills it").unwrap();
        assert_message_count(&channel, &full, 1);
        let mut publisher = channel.publisher(4).unwrap();
        let nowhere = unique("nowhere");
        let (mut returned, mut refused) = (Vec::new(), Vec::new());
        for n in 0..30 {
            let (to, lost) = match n % 3 {
                0 => (&queue, None),
                1 => (&nowhere, Some(&mut returned)),
                _ => (&full, Some(&mut refused)),
            };
            let number = publisher
                .publish_with("", to, n.to_string(), mandatory())
                .unwrap();
            if let Some(lost) = lost {
                lost.push((number, n.to_string()));
            }
            assert!(publisher.unconfirmed() <= 4);
        }
        let Err(Error::Unconfirmed(report)) = publisher.wait_for_confirms(SOON) else {
            panic!("all confirmed");
        };
        let reported: Vec<(u64, String)> = report
            .returned
            .iter()
            .map(|(number, ReturnedMessage { body, .. })| {
                (*number, String::from_utf8(body.clone()).unwrap())
            })
            .collect();
        assert_eq!(reported, returned);
        assert_eq!(
            report.nacked,
            refused
                .iter()
                .map(|(number, _)| *number)
                .collect::<Vec<_>>()
        );
        assert_eq!(report.pending, [0; 0]);
        // Each is reported once, and the publisher goes on.
        publisher.publish("", &queue, "last").unwrap();
        publisher.wait_for_confirms(SOON).unwrap();
        assert_eq!(publisher.unconfirmed(), 0);
        assert_message_count(&channel, &queue, 11);
    });
}

#[test]
fn a_publisher_reports_what_was_not_confirmed_in_time() {
    bounded(|| {
        let (channel, peer) = scripted_channel(|session| {
            accept_confirms(session);
            for _ in 0..5 {
                session.expect_content(1, m::BASIC_PUBLISH);
            }
            send_ack(session, 2, true);
            session.expect(1, m::BASIC_QOS);
            send_ack(session, 5, true);
            session.send_method(1, m::BASIC_QOS_OK, Args::new());
            session.expect_content(1, m::BASIC_PUBLISH);
            send_ack(session, 6, false);
        });
        let mut publisher = channel.publisher(10).unwrap();
        let numbers: Vec<u64> = (0..5)
            .map(|_| publisher.publish("", "q", "body").unwrap())
            .collect();
        let Err(Error::Unconfirmed(report)) =
            publisher.wait_for_confirms(Duration::from_millis(100))
        else {
            panic!("all confirmed");
        };
        assert_eq!(report.pending, numbers[2..]);
        assert!(report.returned.is_empty() && report.nacked.is_empty());
        // What comes late has no effect any more.
        channel.basic_qos(1).unwrap();
        publisher.publish("", "q", "body").unwrap();
        publisher.wait_for_confirms(SOON).unwrap();
        drop(publisher);
        finish(channel, peer);
    });
}

#[test]
fn a_publisher_waits_only_while_its_window_is_full() {
    bounded(|| {
        let (acked, acks) = std::sync::mpsc::channel();
        let (channel, peer) = scripted_channel(move |session| {
            accept_confirms(session);
            for n in 1..=5 {
                session.expect_content(1, m::BASIC_PUBLISH);
                if n >= 3 {
                    let tag: u64 = acks.recv().unwrap();
                    send_ack(session, tag, false);
                }
            }
            send_ack(session, 5, true);
        });
        let mut publisher = channel.publisher(3).unwrap();
        for _ in 0..3 {
            publisher.publish("", "q", "body").unwrap();
        }
        // Nothing is confirmed yet, and nothing was waited for.
        assert_eq!(publisher.unconfirmed(), 3);
        for tag in [2, 1, 3] {
            acked.send(tag).unwrap();
            if tag != 3 {
                publisher.publish("", "q", "body").unwrap();
                assert!(publisher.unconfirmed() <= 3);
            }
        }
        publisher.wait_for_confirms(SOON).unwrap();
        drop(publisher);
        finish(channel, peer);
    });
}
