//! Consuming and settling: points 16 to 31 of how pika's blocking channel behaves.
//! A point that has no test here has one in another file, which names it.

mod support;

use std::time::Duration;

use haypile::{
    BasicAck, BasicConsume, BasicNack, BasicReject, Channel, Connection, Consume, ConsumingEnded,
    Deliver, Error,
};
use support::peer::{finish, m, scripted_channel, Args};
use support::proxy::Proxy;
use support::{
    assert_matches, assert_message_count, bounded, channel_and_queue_of, exclusive_queue,
    message_count, Log, SOON,
};

#[test]
fn p16_basic_consume_sends_its_defaults_and_its_options() {
    bounded(|| {
        let (channel, peer) = scripted_channel(|session| {
            for options in [false, true] {
                let mut consume = session.expect(1, m::BASIC_CONSUME);
                assert_eq!((consume.short(), consume.shortstr()), (0, "q".to_owned()));
                let tag = consume.shortstr();
                // From the lowest bit: no-local, no-ack, exclusive, no-wait.
                assert_eq!(consume.octet(), if options { 0b0110 } else { 0 });
                let arguments = consume.table();
                if options {
                    assert_eq!(tag, "mine");
                    assert!(arguments.starts_with(b"\x0ax-priority"), "{arguments:?}");
                } else {
                    assert_eq!(arguments, b"");
                }
                session.send_method(1, m::BASIC_CONSUME_OK, Args::new().shortstr(&tag));
            }
        });
        channel.basic_consume("q", |_, _, _, _| {}).unwrap();
        let request = BasicConsume::new("q")
            .auto_ack(true)
            .exclusive(true)
            .consumer_tag("mine")
            .argument("x-priority", 10);
        assert_eq!(
            channel.basic_consume(request, |_, _, _, _| {}).unwrap(),
            "mine"
        );
        finish(channel, peer);
    });
}

#[test]
fn p17_a_generated_tag_names_its_channel() {
    bounded(|| {
        let (channel, queue) = channel_and_queue_of(&[]);
        let number = channel.channel_number();
        let tag = channel.basic_consume(&queue, |_, _, _, _| {}).unwrap();
        let random = tag
            .strip_prefix(&format!("ctag{number}."))
            .unwrap_or_else(|| panic!("{tag}"));
        assert_eq!(random.len(), 32, "{tag}");
        assert!(random.bytes().all(|byte| byte.is_ascii_hexdigit()), "{tag}");
    });
}

#[test]
fn p17_a_tag_in_use_is_refused_before_it_is_sent() {
    bounded(|| {
        let (channel, queue) = channel_and_queue_of(&[]);
        let request = || BasicConsume::new(&queue).consumer_tag("mine");
        channel.basic_consume(request(), |_, _, _, _| {}).unwrap();
        let error = channel
            .basic_consume(request(), |_, _, _, _| {})
            .unwrap_err();
        assert!(
            matches!(&error, Error::DuplicateConsumerTag { consumer_tag, .. } if consumer_tag == "mine"),
            "{error:?}"
        );
        assert!(channel.is_open());
        assert_eq!(channel.consumer_tags(), ["mine"]);
        channel.basic_cancel("mine").unwrap();
        channel.basic_consume(request(), |_, _, _, _| {}).unwrap();
    });
}

#[test]
fn p18_start_consuming_returns_at_once_without_consumers() {
    bounded(|| {
        let (channel, _) = channel_and_queue_of(&[]);
        assert_eq!(
            channel.start_consuming().unwrap(),
            ConsumingEnded::NoConsumers
        );
    });
}

#[test]
fn p18_start_consuming_returns_when_the_last_consumer_is_gone() {
    bounded(|| {
        let (channel, queue) = channel_and_queue_of(&["one", "two"]);
        let log = Log::new();
        for queue in [&queue, &exclusive_queue(&channel)] {
            let log = log.clone();
            let on_message = move |channel: &Channel, method: Deliver, _, body: Vec<u8>| {
                channel.basic_ack(method.delivery_tag)?;
                if body == b"two" {
                    channel.basic_cancel(&method.consumer_tag)?;
                }
                log.push(body);
                Ok(())
            };
            channel.basic_consume(queue, on_message).unwrap();
        }
        // Ends the other consumer, after a moment in which start_consuming must not have returned.
        let (same, before) = (channel.clone(), log.clone());
        let on_timer = move || {
            assert_eq!(before.len(), 2);
            assert_eq!(same.consumer_tags().len(), 1);
            same.stop_consuming()
        };
        channel
            .connection()
            .call_later(Duration::from_millis(200), on_timer)
            .unwrap();
        assert_eq!(
            channel.start_consuming().unwrap(),
            ConsumingEnded::Cancelled
        );
        assert_eq!(log.all(), [b"one", b"two"]);
    });
}

#[test]
fn p20_stop_consuming_cancels_all_and_the_iterator() {
    bounded(|| {
        let (channel, queue) = channel_and_queue_of(&[]);
        let (second, third) = (exclusive_queue(&channel), exclusive_queue(&channel));
        channel.basic_consume(&queue, |_, _, _, _| {}).unwrap();
        let one = channel.basic_consume(&second, |_, _, _, _| {}).unwrap();
        let mut messages = channel
            .consume(Consume::new(&third).idle_exit(Duration::from_millis(1)))
            .unwrap();
        assert!(messages.next().is_none());
        assert_eq!(channel.consumer_tags().len(), 3);
        channel.basic_cancel(&one).unwrap();
        assert_eq!(channel.consumer_tags().len(), 2);
        channel.stop_consuming().unwrap();
        assert!(channel.consumer_tags().is_empty());
        assert!(messages.next().is_none());
        assert!(messages.is_cancelled());
        // With nothing to stop, too.
        channel.stop_consuming().unwrap();
    });
}

#[test]
fn p21_cancelling_an_unknown_tag_does_nothing() {
    bounded(|| {
        let (channel, _) = channel_and_queue_of(&[]);
        assert_eq!(channel.basic_cancel("unknown").unwrap(), []);
        assert!(channel.is_open());
    });
}

#[test]
fn p22_what_comes_during_a_cancel_with_manual_ack_goes_back() {
    bounded(|| {
        let (channel, peer) = scripted_channel(|session| {
            let tag = session.accept_consumer(1);
            session.expect(1, m::BASIC_CANCEL);
            session.deliver(1, &tag, 1, b"late");
            session.deliver(1, &tag, 2, b"later");
            session.send_method(1, m::BASIC_CANCEL_OK, Args::new().shortstr(&tag));
            let mut back = 0;
            while back < 2 {
                let frame = session.frame();
                let mut arguments = frame.arguments();
                let tag = arguments.longlong();
                let (multiple, requeue) = match (frame.method(), arguments.octet()) {
                    (Some(m::BASIC_REJECT), bits) => (false, bits & 1 == 1),
                    (Some(m::BASIC_NACK), bits) => (bits & 1 == 1, bits & 2 == 2),
                    (other, _) => panic!("{other:?}"),
                };
                assert!(requeue);
                assert_eq!(tag, if multiple { 2 } else { back + 1 });
                back = tag;
            }
        });
        let tag = channel
            .basic_consume("q", |_, _, _, _| panic!("it was cancelled"))
            .unwrap();
        assert_eq!(channel.basic_cancel(&tag).unwrap(), []);
        channel
            .connection()
            .process_data_events(Duration::ZERO)
            .unwrap();
        finish(channel, peer);
    });
}

// haypile does better: a clear error.
#[test]
fn p23_stop_consuming_after_the_loss_of_the_connection_fails() {
    bounded(|| {
        let proxy = Proxy::start();
        let connection = Connection::open(proxy.url()).unwrap();
        let channel = connection.channel().unwrap();
        let queue = exclusive_queue(&channel);
        channel.basic_consume(&queue, |_, _, _, _| {}).unwrap();
        proxy.reset();
        assert!(matches!(
            channel.start_consuming(),
            Err(Error::StreamLost(_))
        ));
        let error = channel.stop_consuming().unwrap_err();
        assert!(error.is_connection_error(), "{error:?}");
        assert!(error.to_string().contains("lost"), "{error}");
    });
}

#[test]
fn p24_the_iterators_tag_is_among_the_consumer_tags() {
    bounded(|| {
        let (channel, queue) = channel_and_queue_of(&["body"]);
        let mut messages = channel.consume(&queue).unwrap();
        let (method, _, _) = messages.next().unwrap().unwrap();
        assert_eq!(channel.consumer_tags(), [method.consumer_tag.to_string()]);
        channel.cancel().unwrap();
        assert!(channel.consumer_tags().is_empty());
    });
}

#[test]
fn p25_the_same_iterator_is_resumed_and_another_refused() {
    bounded(|| {
        let (channel, queue) = channel_and_queue_of(&["one", "two"]);
        let next = || {
            channel
                .consume(&queue)
                .unwrap()
                .next()
                .expect("a message")
                .unwrap()
                .2
        };
        assert_eq!(next(), b"one");
        let tags = channel.consumer_tags();
        assert_eq!(next(), b"two");
        assert_eq!(channel.consumer_tags(), tags);
        let other = exclusive_queue(&channel);
        for request in [
            Consume::new(&other),
            Consume::new(&queue).auto_ack(true),
            Consume::new(&queue).exclusive(true),
        ] {
            let error = channel.consume(request).map(drop).unwrap_err();
            assert_matches!(error, Error::InvalidParameter { .. });
        }
        assert!(channel.is_open());
        channel.cancel().unwrap();
        let mut messages = channel
            .consume(Consume::new(&other).idle_exit(Duration::from_millis(1)))
            .unwrap();
        assert!(messages.next().is_none());
    });
}

#[test]
fn p26_without_an_inactivity_timeout_the_iterator_waits() {
    bounded(|| {
        let (channel, queue) = channel_and_queue_of(&[]);
        let same = channel.clone();
        let to = queue.clone();
        channel
            .connection()
            .call_later(Duration::from_millis(300), move || {
                same.basic_publish("", &to, "late")
            })
            .unwrap();
        let (_, _, body) = channel
            .consume(&queue)
            .unwrap()
            .next()
            .expect("a message")
            .unwrap();
        assert_eq!(body, b"late");
    });
}

#[test]
fn p27_the_iterator_ends_on_cancel() {
    bounded(|| {
        let (channel, queue) = channel_and_queue_of(&["one", "two", "three"]);
        let mut bodies = Vec::new();
        for message in channel.consume(&queue).unwrap() {
            let (method, _, body) = message.unwrap();
            channel.basic_ack(method.delivery_tag).unwrap();
            bodies.push(body);
            if bodies.len() == 2 {
                channel.cancel().unwrap();
            }
        }
        assert_eq!(bodies, [b"one", b"two"]);
        assert_message_count(&channel, &queue, 1);
    });
}

// haypile does better: the number is the true one.
#[test]
fn p28_p29_cancel_gives_back_what_waits_and_returns_how_much() {
    bounded(|| {
        let (channel, queue) = channel_and_queue_of(&["1", "2", "3", "4", "5"]);
        assert_eq!(channel.get_waiting_message_count(), 0);
        let mut messages = channel.consume(&queue).unwrap();
        let (method, _, _) = messages.next().unwrap().unwrap();
        channel.basic_ack(method.delivery_tag).unwrap();
        assert_message_count(&channel, &queue, 0);
        assert_eq!(message_count(&channel, &queue), 0);
        assert_eq!(channel.get_waiting_message_count(), 4);
        assert_eq!(channel.cancel().unwrap(), 4);
        assert_eq!(channel.get_waiting_message_count(), 0);
        assert_message_count(&channel, &queue, 4);
        // There is no consumer any more.
        assert_eq!(channel.cancel().unwrap(), 0);
    });
}

#[test]
fn p31_settling_sends_what_pika_sends() {
    bounded(|| {
        let (channel, peer) = scripted_channel(|session| {
            let mut next = |method| {
                let mut arguments = session.expect(1, method);
                (arguments.longlong(), arguments.octet())
            };
            // Of ack, multiple is the lowest bit; of nack, multiple and requeue; of reject, requeue.
            assert_eq!(next(m::BASIC_ACK), (7, 0));
            assert_eq!(next(m::BASIC_ACK), (8, 1));
            assert_eq!(next(m::BASIC_ACK), (0, 1));
            assert_eq!(next(m::BASIC_NACK), (9, 0b10));
            assert_eq!(next(m::BASIC_NACK), (10, 0b01));
            assert_eq!(next(m::BASIC_REJECT), (11, 1));
            assert_eq!(next(m::BASIC_REJECT), (12, 0));
        });
        channel.basic_ack(7).unwrap();
        channel.basic_ack(BasicAck::new(8).multiple(true)).unwrap();
        channel.basic_ack(BasicAck::new(0).multiple(true)).unwrap();
        channel.basic_nack(9).unwrap();
        channel
            .basic_nack(BasicNack::new(10).multiple(true).requeue(false))
            .unwrap();
        channel.basic_reject(11).unwrap();
        channel
            .basic_reject(BasicReject::new(12).requeue(false))
            .unwrap();
        finish(channel, peer);
    });
}

#[test]
fn p31_an_ack_of_an_unknown_tag_fails_at_a_later_call() {
    bounded(|| {
        let (channel, _) = channel_and_queue_of(&[]);
        channel.basic_ack(99).unwrap();
        let error = channel.basic_qos(1).unwrap_err();
        let Error::ChannelClosedByBroker {
            reply_code, method, ..
        } = &error
        else {
            panic!("{error:?}");
        };
        assert_eq!((*reply_code, *method), (406, Some("basic.ack")));
        assert!(error.to_string().contains("99"), "{error}");
        assert!(channel.connection().is_open());
        support::wait_until(SOON, || channel.is_closed());
    });
}
