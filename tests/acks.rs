//! Acknowledgements made one after another may share a frame. The broker must be left with what it would have been left with.

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;

use haypile::{BasicAck, BasicConsume, BasicNack, Channel, Connection, Error, QueueDeclare};
use support::peer::{self, m, Args};
use support::{
    assert_message_count, bounded, channel, exclusive_queue, open, pump_until, Fixture, Log,
};

const COUNT: usize = 300;

/// A channel that was given `COUNT` messages, numbered from 1 as their delivery tags are, and has acknowledged none of them.
fn channel_with_messages(connection: &Connection, queue: &str) -> Channel {
    let channel = connection.channel().unwrap();
    channel.queue_declare(QueueDeclare::new(queue)).unwrap();
    for number in 1..=COUNT {
        channel
            .basic_publish("", queue, number.to_string())
            .unwrap();
    }
    let came = Log::new();
    let log = came.clone();
    channel
        .basic_consume(queue, move |_, method, _, _| log.push(method.delivery_tag))
        .unwrap();
    pump_until(connection, || came.len() == COUNT);
    channel
}

/// The numbers of the messages that are in a queue, `count` of them.
fn left_in(queue: &str, count: usize) -> Vec<u64> {
    let channel = channel();
    assert_message_count(&channel, queue, count as u32);
    std::iter::from_fn(|| channel.basic_get(queue).unwrap())
        .map(|(_, _, body)| String::from_utf8(body).unwrap().parse().unwrap())
        .collect()
}

/// Acknowledges what the broker does not know, the first of these tags at least; returns how it closed the channel. It may
/// have done so before the last of them is acknowledged.
fn ack_unknown(channel: &Channel, tags: impl IntoIterator<Item = u64>) -> Error {
    let refused = tags
        .into_iter()
        .find_map(|tag| channel.basic_ack(tag).err());
    let error = channel.basic_qos(1).unwrap_err();
    for error in refused.iter().chain([&error]) {
        assert_eq!(error.reply_code(), Some(406), "{error}");
    }
    error
}

#[test]
fn what_was_not_acknowledged_goes_back_and_nothing_else() {
    bounded(|| {
        let mut fixture = Fixture::default();
        let queue = fixture.queue("acks");
        let connection = open();
        let channel = channel_with_messages(&connection, &queue);
        let discard = |tag| BasicNack::new(tag).requeue(false);
        for tag in 1..=100 {
            channel.basic_ack(tag).unwrap();
        }
        channel.basic_nack(discard(101)).unwrap();
        for tag in 102..=150 {
            channel.basic_ack(tag).unwrap();
        }
        channel
            .basic_ack(BasicAck::new(180).multiple(true))
            .unwrap();
        channel.basic_ack(181).unwrap();
        // From here on out of order.
        for tag in (200..COUNT as u64).step_by(2) {
            channel.basic_ack(tag).unwrap();
        }
        for tag in 182..=190 {
            channel.basic_ack(tag).unwrap();
        }
        channel.close().unwrap();
        let expected: Vec<u64> = (191..=COUNT as u64)
            .filter(|tag| *tag < 200 || tag % 2 == 1 || *tag == COUNT as u64)
            .collect();
        assert_eq!(left_in(&queue, expected.len()), expected);
    });
}

#[test]
fn acks_that_are_rolled_back_stay_so() {
    bounded(|| {
        let mut fixture = Fixture::default();
        let queue = fixture.queue("acks");
        let connection = open();
        let channel = channel_with_messages(&connection, &queue);
        channel.tx_select().unwrap();
        for tag in 1..=10 {
            channel.basic_ack(tag).unwrap();
        }
        channel.tx_rollback().unwrap();
        for tag in 11..=COUNT as u64 {
            channel.basic_ack(tag).unwrap();
        }
        channel.tx_commit().unwrap();
        channel.close().unwrap();
        let expected: Vec<u64> = (1..=10).collect();
        assert_eq!(left_in(&queue, 10), expected);
    });
}

#[test]
fn an_unknown_tag_closes_the_channel_and_spoils_no_other_ack() {
    bounded(|| {
        let mut fixture = Fixture::default();
        let queue = fixture.queue("acks");
        let connection = open();
        let channel = channel_with_messages(&connection, &queue);
        let last = COUNT as u64;
        for tag in 1..=last {
            channel.basic_ack(tag).unwrap();
        }
        let error = ack_unknown(&channel, [last + 1, last + 2]);
        assert!(
            error.to_string().contains(&(last + 1).to_string()),
            "{error}"
        );
        assert_eq!(left_in(&queue, 0), []);
    });
}

/// A message that is acknowledged automatically has a tag as well, which the broker does not know afterwards.
#[test]
fn acking_what_was_acknowledged_automatically_spoils_no_other_ack() {
    bounded(|| {
        let mut fixture = Fixture::default();
        let (queue, automatic) = (fixture.queue("acks"), fixture.queue("acks"));
        let connection = open();
        let channel = channel_with_messages(&connection, &queue);
        channel.queue_declare(automatic.as_str()).unwrap();
        channel.basic_publish("", &automatic, "x").unwrap();
        let came = Log::new();
        let log = came.clone();
        channel
            .basic_consume(
                BasicConsume::new(&automatic).auto_ack(true),
                move |_, method, _, _| log.push(method.delivery_tag),
            )
            .unwrap();
        pump_until(&connection, || !came.is_empty());
        let unknown = came.take()[0];
        for tag in 1..unknown {
            channel.basic_ack(tag).unwrap();
        }
        ack_unknown(&channel, [unknown]);
        assert_eq!(left_in(&queue, 0), []);
    });
}

#[test]
fn acking_what_was_delivered_anew_under_its_old_tag_is_refused() {
    bounded(|| {
        let mut fixture = Fixture::default();
        let queue = fixture.queue("acks");
        let connection = open();
        let channel = channel_with_messages(&connection, &queue);
        channel.basic_recover(true).unwrap();
        let last = 2 * COUNT as u64;
        // They are on their way to the consumer, or there.
        assert_message_count(&channel, &queue, 0);
        ack_unknown(&channel, 1..=last);
        assert_eq!(left_in(&queue, COUNT).len(), COUNT);
    });
}

/// The broker takes everything back, so what waits undelivered is void: its delivery tags would close the channel.
#[test]
fn what_is_recovered_is_delivered_once_more_and_only_so() {
    const MESSAGES: u64 = 5;
    bounded(|| {
        let connection = open();
        let channel = connection.channel().unwrap();
        let queue = exclusive_queue(&channel);
        channel.confirm_delivery().unwrap();
        let log = Log::new();
        let came = log.clone();
        let tag = channel
            .basic_consume(&queue, move |channel, method, _, _| {
                came.push((method.delivery_tag, method.redelivered));
                channel.basic_ack(method.delivery_tag)
            })
            .unwrap();
        for number in 0..MESSAGES {
            channel
                .basic_publish("", &queue, number.to_string())
                .unwrap();
        }
        // All are on their way to this channel.
        let other = connection.channel().unwrap();
        assert_message_count(&other, &queue, 0);
        channel.basic_recover(true).unwrap();
        pump_until(&connection, || log.len() as u64 >= MESSAGES);
        let again: Vec<_> = (MESSAGES + 1..=2 * MESSAGES)
            .map(|tag| (tag, true))
            .collect();
        assert_eq!(log.take(), again);

        // Nor are they rejected when the consumer is cancelled.
        channel.basic_publish("", &queue, "one more").unwrap();
        channel.basic_qos(1).unwrap();
        channel.basic_recover(true).unwrap();
        channel.basic_cancel(&tag).unwrap();
        channel.basic_qos(1).unwrap();
        assert_message_count(&channel, &queue, 1);
        connection.close().unwrap();
    });
}

/// What a cancelled consumer had not been given goes back to its queue by `basic.recover` then, and a rejection would close the channel.
#[test]
fn a_cancel_rejects_nothing_that_another_thread_recovers() {
    bounded(|| {
        let (cancel_sent, is_cancel_sent) = mpsc::channel();
        let (cancelled, is_cancelled) = mpsc::channel();
        let (channel, peer) = peer::scripted_channel(move |session| {
            let tag = session.accept_consumer(1);
            session.deliver(1, &tag, 1, b"first");
            session.deliver(1, &tag, 2, b"second");
            session.expect(1, m::BASIC_CANCEL);
            cancel_sent.send(()).unwrap();
            session.expect(1, m::BASIC_RECOVER);
            session.send_method(1, m::BASIC_CANCEL_OK, Args::new().shortstr(&tag));
            is_cancelled.recv().unwrap();
            session.send_method(1, m::BASIC_RECOVER_OK, Args::new());
            // Nothing came between.
            session.expect(1, m::BASIC_QOS);
            session.send_method(1, m::BASIC_QOS_OK, Args::new());
            let tag = session.accept_consumer(1);
            session.deliver(1, &tag, 3, b"first");
            session.expect(1, m::BASIC_CANCEL);
            session.send_method(1, m::BASIC_CANCEL_OK, Args::new().shortstr(&tag));
            assert_eq!(session.expect(1, m::BASIC_REJECT).longlong(), 3);
            session.serve_until_end();
        });
        let tag = channel.basic_consume("q", |_, _, _, _| ()).unwrap();
        thread::scope(|scope| {
            let cancelling = scope.spawn(|| channel.basic_cancel(&tag).unwrap());
            is_cancel_sent.recv().unwrap();
            let recovering = scope.spawn(|| channel.basic_recover(true).unwrap());
            cancelling.join().unwrap();
            cancelled.send(()).unwrap();
            recovering.join().unwrap();
        });
        channel.basic_qos(1).unwrap();
        let tag = channel.basic_consume("q", |_, _, _, _| ()).unwrap();
        channel.basic_cancel(&tag).unwrap();
        peer::finish(channel, peer);
    });
}

#[test]
fn consumers_end_beside_a_recover_and_lose_nothing() {
    const ROUNDS: usize = 100;
    const MESSAGES: u32 = 10;
    bounded(|| {
        let channel = channel();
        let queue = exclusive_queue(&channel);
        channel.confirm_delivery().unwrap();
        for _ in 0..MESSAGES {
            channel.basic_publish("", &queue, "x").unwrap();
        }
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::SeqCst) {
                    channel.basic_recover(true).unwrap();
                }
            });
            for _ in 0..ROUNDS {
                let tag = channel.basic_consume(&queue, |_, _, _, _| ()).unwrap();
                channel.basic_cancel(&tag).unwrap();
                drop(channel.consume(&queue).unwrap());
                channel.cancel().unwrap();
            }
            is_over.store(true, Ordering::SeqCst);
        });
        channel.basic_qos(1).unwrap();
        assert_message_count(&channel, &queue, MESSAGES);
        channel.connection().close().unwrap();
    });
}
