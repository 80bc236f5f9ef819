//! What pika's acceptance suite for its blocking adapter asks of consuming, asked of haypile.
//! The comment above each test names pika's case.

mod support;

use std::thread;
use std::time::Duration;

use haypile::{
    BasicConsume, BasicPublish, Channel, Connection, Consume, ConsumingEnded, Deliver,
    ExchangeDeclare, ExchangeType, QueueDeclare,
};
use support::peer::{m, Args, Peer};
use support::{
    assert_closed_by_broker, assert_message_count, bounded, channel, channel_and_queue_of,
    exclusive_queue, message_count, open, unique, Fixture, Log,
};

fn mandatory() -> BasicPublish<'static> {
    BasicPublish::new().mandatory(true)
}

#[track_caller]
fn publish_all(channel: &Channel, queue: &str, bodies: &[&str]) {
    for body in bodies {
        channel
            .basic_publish_with("", queue, body, mandatory())
            .unwrap();
    }
}

/// Fetches what is ready in a queue.
#[track_caller]
fn fetch_all(channel: &Channel, queue: &str) -> Vec<String> {
    std::iter::from_fn(|| channel.basic_get(queue).unwrap())
        .map(|(_, _, body)| String::from_utf8(body).unwrap())
        .collect()
}

/// Keeps asking for round trips until the messages that were ready are on their way to this channel, or with it.
#[track_caller]
fn let_them_come(channel: &Channel, queue: &str) {
    assert_message_count(channel, queue, 0);
    // What the broker sent before it counted has arrived when it replies once more.
    assert_eq!(message_count(channel, queue), 0);
}

// pika: TestBasicConsumeFromUnknownQueueRaisesChannelClosed
#[test]
fn consuming_from_an_unknown_queue_closes_the_channel() {
    bounded(|| {
        let channel = channel();
        assert_closed_by_broker(channel.basic_consume(unique("q"), |_, _, _, _| {}), 404);
        assert!(channel.is_closed());
        assert!(channel.consumer_tags().is_empty());
    });
}

/// Has another thread ask, by `add_callback_threadsafe`, for the acknowledgement, and for the end after the last.
fn ack_by_another_thread(
    channel: &Channel,
    method: Deliver,
    body: Vec<u8>,
    acked: Log<Vec<u8>>,
    stop: impl FnOnce(&Channel, &str) -> haypile::Result<()> + Send + 'static,
) {
    let channel = channel.clone();
    thread::spawn(move || {
        let connection = channel.connection();
        let on_the_consuming_thread = move || -> haypile::Result<()> {
            channel.basic_ack(method.delivery_tag)?;
            let last = body == b"last";
            acked.push(body);
            if last {
                stop(&channel, &method.consumer_tag)?;
            }
            Ok(())
        };
        connection
            .add_callback_threadsafe(on_the_consuming_thread)
            .unwrap();
    });
}

// pika: TestBasicConsumeWithAckFromAnotherThread
#[test]
fn a_callbacks_message_is_acked_at_the_request_of_another_thread() {
    bounded(|| {
        let (channel, queue) = channel_and_queue_of(&["first", "last"]);
        // The second comes only when the first is acknowledged.
        channel.basic_qos(1).unwrap();
        let acked = Log::new();
        let log = acked.clone();
        channel
            .basic_consume(&queue, move |channel, method, _, body| {
                ack_by_another_thread(channel, method, body, log.clone(), |channel, tag| {
                    channel.basic_cancel(tag).map(drop)
                });
            })
            .unwrap();
        assert_eq!(
            channel.start_consuming().unwrap(),
            ConsumingEnded::Cancelled
        );
        assert_eq!(acked.all(), [&b"first"[..], b"last"]);
    });
}

// pika: TestConsumeGeneratorWithAckFromAnotherThread
#[test]
fn the_iterators_message_is_acked_at_the_request_of_another_thread() {
    bounded(|| {
        let (channel, queue) = channel_and_queue_of(&["first", "last"]);
        channel.basic_qos(1).unwrap();
        let acked = Log::new();
        for message in channel.consume(&queue).unwrap() {
            let (method, _, body) = message.unwrap();
            ack_by_another_thread(&channel, method, body, acked.clone(), |channel, _| {
                channel.cancel().map(drop)
            });
        }
        assert_eq!(acked.all(), [&b"first"[..], b"last"]);
        assert!(channel.is_open());
    });
}

// pika: TestTwoBasicConsumersOnSameChannel
#[test]
fn two_consumers_on_one_channel() {
    bounded(|| {
        let channel = channel();
        channel.confirm_delivery().unwrap();
        let mut fixture = Fixture::new();
        let exchange = fixture.exchange("x");
        channel
            .exchange_declare(ExchangeDeclare::new(&exchange, ExchangeType::Direct))
            .unwrap();
        let sent = [("key1", 100), ("key2", 150)];
        let queues = sent.map(|(key, count)| {
            let queue = exclusive_queue(&channel);
            channel.queue_bind(&queue, &exchange, key).unwrap();
            let mut publisher = channel.publisher(100).unwrap();
            for n in 0..count {
                publisher
                    .publish_with(&exchange, key, format!("{key} {n}"), mandatory())
                    .unwrap();
            }
            publisher.wait_for_confirms(support::SOON).unwrap();
            queue
        });
        let consumers = queues.map(|queue| {
            let messages = Log::new();
            let log = messages.clone();
            let on_message = move |channel: &Channel, method, _properties, body| {
                log.push((channel.clone(), method, body))
            };
            let tag = channel.basic_consume(queue, on_message).unwrap();
            (tag, messages)
        });
        while sent
            .iter()
            .zip(&consumers)
            .any(|((_, count), (_, messages))| messages.len() < *count)
        {
            channel.connection().process_data_events(None).unwrap();
        }
        for ((key, count), (tag, messages)) in sent.into_iter().zip(consumers) {
            let messages = messages.take();
            assert_eq!(messages.len(), count);
            for (n, (given, method, body)) in messages.into_iter().enumerate() {
                let method: Deliver = method;
                assert_eq!(given, channel);
                assert_eq!(method.consumer_tag, *tag);
                assert!(!method.redelivered);
                assert_eq!(method.exchange, *exchange);
                assert_eq!(method.routing_key, key);
                assert_eq!(String::from_utf8(body).unwrap(), format!("{key} {n}"));
            }
        }
    });
}

// pika: TestBasicCancelPurgesPendingConsumerCancellationEvt
#[test]
fn basic_cancel_forgets_a_pending_cancel_of_the_broker() {
    bounded(|| {
        let (channel, queue) = channel_and_queue_of(&["body"]);
        let (messages, cancels) = (Log::new(), Log::new());
        let (message_log, cancel_log) = (messages.clone(), cancels.clone());
        let tag = channel
            .basic_consume(&queue, move |_, _, _, body| message_log.push(body))
            .unwrap();
        channel.add_on_cancel_callback(move |_, tag| cancel_log.push(tag));
        let_them_come(&channel, &queue);
        channel.queue_delete(&queue).unwrap();
        // A round trip or two, in which the broker's cancel may arrive.
        channel.connection().channel().unwrap().close().unwrap();
        assert_eq!(channel.basic_cancel(&tag).unwrap(), []);
        assert!(channel.consumer_tags().is_empty());
        channel
            .connection()
            .process_data_events(Duration::from_millis(20))
            .unwrap();
        assert!(messages.is_empty());
        assert!(cancels.is_empty());
    });
}

// The same, where the broker's cancel has certainly arrived before.
#[test]
fn basic_cancel_forgets_a_cancel_of_the_broker_that_has_arrived() {
    bounded(|| {
        let peer = Peer::start(|session| {
            session.handshake();
            session.open_channel(1);
            let tag = session.accept_consumer(1);
            session.expect(1, m::QUEUE_DELETE);
            session.deliver(1, &tag, 1, b"pending");
            session.send_method(1, m::BASIC_CANCEL, Args::new().shortstr(&tag).octet(1));
            session.send_method(1, m::QUEUE_DELETE_OK, Args::new().long(0));
            session.serve_until_end();
        });
        let channel = Connection::open(peer.url()).unwrap().channel().unwrap();
        let called = Log::new();
        let (on_message, on_cancel) = (called.clone(), called.clone());
        let tag = channel
            .basic_consume("q", move |_, _, _, _| on_message.push("message"))
            .unwrap();
        channel.add_on_cancel_callback(move |_, _| on_cancel.push("cancel"));
        channel.queue_delete("q").unwrap();
        assert_eq!(channel.basic_cancel(&tag).unwrap(), []);
        channel
            .connection()
            .process_data_events(Duration::ZERO)
            .unwrap();
        assert_eq!(called.all(), [""; 0]);
        channel.connection().close().unwrap();
        peer.finish();
    });
}

// pika: TestPublishFromBasicConsumeCallback; point 5
#[test]
fn a_callback_publishes_with_confirms() {
    bounded(|| {
        let (channel, source) = channel_and_queue_of(&["body"]);
        let destination = exclusive_queue(&channel);
        let to = destination.clone();
        channel
            .basic_consume(&source, move |channel, method, properties, body| {
                channel.basic_publish_with("", &to, body, mandatory().properties(properties))?;
                channel.basic_ack(method.delivery_tag)
            })
            .unwrap();
        let mut messages = channel
            .consume(Consume::new(&destination).auto_ack(true))
            .unwrap();
        let (_, _, body) = messages.next().expect("a message").unwrap();
        assert_eq!(body, b"body");
        assert_message_count(&channel, &source, 0);
    });
}

// pika: TestStopConsumingFromBasicConsumeCallback; point 20
#[test]
fn a_callback_stops_consuming() {
    bounded(|| {
        let (channel, queue) = channel_and_queue_of(&["first", "second"]);
        channel
            .basic_consume(&queue, |channel, method, _, _| {
                channel.stop_consuming()?;
                channel.basic_ack(method.delivery_tag)
            })
            .unwrap();
        assert_eq!(
            channel.start_consuming().unwrap(),
            ConsumingEnded::Cancelled
        );
        channel.close().unwrap();
        let channel = channel.connection().channel().unwrap();
        assert_message_count(&channel, &queue, 1);
        assert_eq!(fetch_all(&channel, &queue), ["second"]);
    });
}

// pika: TestCloseChannelFromBasicConsumeCallback
#[test]
fn a_callback_closes_the_channel() {
    bounded(|| {
        let (channel, queue) = channel_and_queue_of(&["first", "second"]);
        channel
            .basic_consume(&queue, |channel, _, _, _| channel.close())
            .unwrap();
        assert_eq!(channel.start_consuming().unwrap(), ConsumingEnded::Closed);
        assert!(channel.is_closed());
        let channel = channel.connection().channel().unwrap();
        assert_message_count(&channel, &queue, 2);
        assert_eq!(fetch_all(&channel, &queue), ["first", "second"]);
    });
}

// pika: TestCloseConnectionFromBasicConsumeCallback
#[test]
fn a_callback_closes_the_connection() {
    bounded(|| {
        let mut fixture = Fixture::new();
        let queue = fixture.queue("q");
        let connection = open();
        let channel = connection.channel().unwrap();
        channel.confirm_delivery().unwrap();
        channel
            .queue_declare(QueueDeclare::new(&queue).durable(true).auto_delete(false))
            .unwrap();
        publish_all(&channel, &queue, &["first", "second"]);
        let same = connection.clone();
        channel
            .basic_consume(&queue, move |_, _, _, _| same.close())
            .unwrap();
        assert_eq!(channel.start_consuming().unwrap(), ConsumingEnded::Closed);
        assert!(channel.is_closed() && connection.is_closed());
        let channel = support::channel();
        assert_message_count(&channel, &queue, 2);
        assert_eq!(fetch_all(&channel, &queue), ["first", "second"]);
    });
}

/// Has a callback publish to an exchange that does not exist, so that the broker closes the channel.
fn break_channel_later(channel: &Channel) {
    let same = channel.clone();
    let publish = move || same.basic_publish(unique("no-such-exchange"), "key", "this is wrong");
    channel
        .connection()
        .add_callback_threadsafe(publish)
        .unwrap();
}

// pika: TestStartConsumingRaisesChannelClosedOnSameChannelFailure
#[test]
fn start_consuming_fails_when_its_channel_does() {
    bounded(|| {
        let channel = channel();
        let queue = exclusive_queue(&channel);
        channel.basic_consume(&queue, |_, _, _, _| {}).unwrap();
        break_channel_later(&channel);
        assert_closed_by_broker(channel.start_consuming(), 404);
        assert!(channel.is_closed());
        assert!(channel.connection().is_open());
    });
}

// pika: TestStartConsumingReturnsAfterCancelFromBroker; point 19
#[test]
fn start_consuming_returns_that_the_broker_cancelled() {
    bounded(|| {
        let channel = channel();
        let queue = exclusive_queue(&channel);
        let tag = channel.basic_consume(&queue, |_, _, _, _| {}).unwrap();
        let connection = channel.connection();
        let same = connection.clone();
        connection
            .add_callback_threadsafe(move || same.channel()?.queue_delete(&queue).map(drop))
            .unwrap();
        assert_eq!(
            channel.start_consuming().unwrap(),
            ConsumingEnded::CancelledByBroker { consumer_tag: tag }
        );
        assert!(channel.consumer_tags().is_empty());
        assert!(channel.is_open());
    });
}

// pika: TestNonPubAckPublishAndConsumeHugeMessage
#[test]
fn a_message_of_a_million_bytes() {
    bounded(|| {
        let channel = channel();
        let queue = exclusive_queue(&channel);
        let sent: Vec<u8> = (0..1_000_000u32).map(|n| n as u8).collect();
        channel.basic_publish("", &queue, &sent).unwrap();
        let mut messages = channel
            .consume(Consume::new(&queue).auto_ack(false).exclusive(false))
            .unwrap();
        let (method, _, body) = messages.next().expect("a message").unwrap();
        assert_eq!(method.delivery_tag, 1);
        assert!(!method.redelivered);
        assert_eq!(method.exchange, "");
        assert_eq!(method.routing_key, *queue);
        assert!(body == sent, "the body came back changed");
        channel.basic_ack(method.delivery_tag).unwrap();
        assert_eq!(channel.get_waiting_message_count(), 0);
        drop(messages);
        channel.close().unwrap();
        let channel = channel.connection().channel().unwrap();
        assert_message_count(&channel, &queue, 0);
    });
}

// pika: TestNonPubAckPublishAndConsumeManyMessages
#[test]
fn many_messages_by_the_iterator() {
    bounded(|| {
        const COUNT: u64 = 500;
        let channel = channel();
        let queue = exclusive_queue(&channel);
        for _ in 0..COUNT {
            channel.basic_publish("", &queue, [b'b'; 1024]).unwrap();
        }
        for (n, message) in (1..).zip(channel.consume(&queue).unwrap()) {
            let (method, _, body) = message.unwrap();
            assert_eq!(method.delivery_tag, n);
            assert!(!method.redelivered);
            assert_eq!(method.exchange, "");
            assert_eq!(method.routing_key, *queue);
            assert_eq!(body, [b'b'; 1024]);
            channel.basic_ack(method.delivery_tag).unwrap();
            if n == COUNT {
                break;
            }
        }
        assert_eq!(channel.get_waiting_message_count(), 0);
        channel.close().unwrap();
        let channel = channel.connection().channel().unwrap();
        assert_message_count(&channel, &queue, 0);
    });
}

// pika: TestBasicCancelWithNonAckableConsumer; point 21
#[test]
fn basic_cancel_with_auto_ack_returns_what_was_not_dispatched() {
    bounded(|| {
        let (channel, queue) = channel_and_queue_of(&["first", "second"]);
        assert_message_count(&channel, &queue, 2);
        let tag = channel
            .basic_consume(BasicConsume::new(&queue).auto_ack(true), |_, _, _, _| {})
            .unwrap();
        assert_message_count(&channel, &queue, 0);
        let bodies: Vec<Vec<u8>> = channel
            .basic_cancel(&tag)
            .unwrap()
            .into_iter()
            .map(|(_, _, body)| body)
            .collect();
        assert_eq!(bodies, [&b"first"[..], b"second"]);
        channel.close().unwrap();
        let channel = channel.connection().channel().unwrap();
        assert_eq!(message_count(&channel, &queue), 0);
    });
}

// pika: TestBasicCancelWithAckableConsumer; point 21
#[test]
fn basic_cancel_with_manual_ack_gives_back_what_was_not_dispatched() {
    bounded(|| {
        let (channel, queue) = channel_and_queue_of(&["first", "second"]);
        assert_message_count(&channel, &queue, 2);
        let tag = channel.basic_consume(&queue, |_, _, _, _| {}).unwrap();
        assert_message_count(&channel, &queue, 0);
        assert_eq!(channel.basic_cancel(&tag).unwrap(), []);
        // They are back while the channel is still open.
        assert_message_count(&channel, &queue, 2);
        channel.close().unwrap();
        let channel = channel.connection().channel().unwrap();
        assert_message_count(&channel, &queue, 2);
    });
}

// pika: TestUnackedMessageAutoRestoredToQueueOnChannelClose
#[test]
fn closing_the_channel_gives_back_what_was_not_acked() {
    bounded(|| {
        let (channel, queue) = channel_and_queue_of(&["first", "second"]);
        let tags = Log::new();
        let log = tags.clone();
        channel
            .basic_consume(&queue, move |_, method, _, _| log.push(method.delivery_tag))
            .unwrap();
        while tags.len() != 2 {
            channel.connection().process_data_events(None).unwrap();
        }
        assert_eq!(tags.all(), [1, 2]);
        assert_eq!(message_count(&channel, &queue), 0);
        channel.close().unwrap();
        let channel = channel.connection().channel().unwrap();
        assert_message_count(&channel, &queue, 2);
    });
}

// pika: TestNoAckMessageNotRestoredToQueueOnChannelClose
#[test]
fn closing_the_channel_does_not_give_back_what_needed_no_ack() {
    bounded(|| {
        let (channel, queue) = channel_and_queue_of(&["first", "second"]);
        let mut messages = channel
            .consume(Consume::new(&queue).auto_ack(true))
            .unwrap();
        for n in 1..=2 {
            let (method, _, _) = messages.next().expect("a message").unwrap();
            assert_eq!(method.delivery_tag, n);
        }
        assert_eq!(message_count(&channel, &queue), 0);
        drop(messages);
        channel.close().unwrap();
        let channel = channel.connection().channel().unwrap();
        assert_eq!(message_count(&channel, &queue), 0);
    });
}

// pika: TestConsumeGeneratorInactivityTimeout
// haypile does better: the iterator ends instead of yielding nothings, and can be asked again (point 26).
#[test]
fn the_iterator_ends_when_nothing_comes_and_can_be_asked_again() {
    bounded(|| {
        let (channel, queue) = channel_and_queue_of(&[]);
        let mut messages = channel
            .consume(Consume::new(&queue).idle_exit(Duration::from_millis(100)))
            .unwrap();
        let start = std::time::Instant::now();
        assert!(messages.next().is_none());
        assert!(start.elapsed() >= Duration::from_millis(100));
        assert!(!messages.is_cancelled());
        publish_all(&channel, &queue, &["late"]);
        let (_, _, body) = messages.next().expect("a message").unwrap();
        assert_eq!(body, b"late");
        assert!(messages.next().is_none());
        assert!(!messages.is_cancelled());
    });
}

// pika: TestConsumeGeneratorInterruptedByCancelFromBroker; point 27
#[test]
fn the_iterator_ends_when_the_broker_cancels() {
    bounded(|| {
        let (channel, queue) = channel_and_queue_of(&[]);
        let mut messages = channel
            .consume(Consume::new(&queue).idle_exit(Duration::from_millis(1)))
            .unwrap();
        assert!(messages.next().is_none());
        assert!(!messages.is_cancelled());
        channel.queue_delete(&queue).unwrap();
        support::wait_until(support::SOON, || {
            assert!(messages.next().is_none());
            messages.is_cancelled()
        });
        assert!(channel.consumer_tags().is_empty());
        assert!(channel.is_open());
    });
}

// pika: TestConsumeGeneratorCancelEncountersCancelFromBroker
#[test]
fn cancelling_the_iterator_meets_the_brokers_cancel() {
    bounded(|| {
        let (channel, queue) = channel_and_queue_of(&[]);
        let mut messages = channel
            .consume(Consume::new(&queue).idle_exit(Duration::from_millis(1)))
            .unwrap();
        assert!(messages.next().is_none());
        channel.queue_delete(&queue).unwrap();
        // A moment in which the broker's cancel arrives; the scripted peer below makes certain of it.
        channel
            .connection()
            .process_data_events(Duration::from_millis(20))
            .unwrap();
        assert_eq!(channel.cancel().unwrap(), 0);
        assert!(messages.next().is_none());
        assert!(messages.is_cancelled());
        assert!(channel.consumer_tags().is_empty());
    });
}

// The same, where the broker's cancel has certainly arrived before.
#[test]
fn cancelling_the_iterator_after_the_brokers_cancel_has_arrived() {
    bounded(|| {
        let peer = Peer::start(|session| {
            session.handshake();
            session.open_channel(1);
            let tag = session.accept_consumer(1);
            session.expect(1, m::QUEUE_DELETE);
            session.send_method(1, m::BASIC_CANCEL, Args::new().shortstr(&tag).octet(1));
            session.send_method(1, m::QUEUE_DELETE_OK, Args::new().long(0));
            session.serve_until_end();
        });
        let channel = Connection::open(peer.url()).unwrap().channel().unwrap();
        let mut messages = channel
            .consume(Consume::new("q").idle_exit(Duration::from_millis(1)))
            .unwrap();
        assert!(messages.next().is_none());
        channel.queue_delete("q").unwrap();
        assert_eq!(channel.cancel().unwrap(), 0);
        assert!(messages.next().is_none());
        assert!(messages.is_cancelled());
        drop(messages);
        channel.connection().close().unwrap();
        peer.finish();
    });
}

// pika: TestConsumeGeneratorPassesChannelClosedOnSameChannelFailure; point 27
#[test]
fn the_iterator_fails_when_its_channel_does() {
    bounded(|| {
        let channel = channel();
        let queue = exclusive_queue(&channel);
        break_channel_later(&channel);
        let mut messages = channel.consume(&queue).unwrap();
        assert_closed_by_broker(messages.next().expect("the error"), 404);
        assert!(channel.is_closed());
    });
}
