//! Cancelling the consumer of a stream: there is nothing to give back, and old brokers end a connection that tries.

mod support;

use std::time::Duration;

use haypile::{BasicConsume, Channel, Consume, QueueDeclare};
use support::{bounded, channel, wait_until, Fixture, Log, SOON};

/// A channel with a stream of ten messages.
fn channel_and_stream(fixture: &mut Fixture) -> (Channel, String) {
    let channel = channel();
    let stream = fixture.queue("stream");
    let declare = QueueDeclare::new(&stream)
        .durable(true)
        .argument("x-queue-type", "stream");
    channel.queue_declare(declare).unwrap();
    fill(&channel, &stream);
    channel.basic_qos(100).unwrap();
    (channel, stream)
}

fn fill(channel: &Channel, stream: &str) {
    let connection = channel.connection();
    let publishing = connection.channel().unwrap();
    let mut publisher = publishing.publisher(100).unwrap();
    for n in 0..10 {
        publisher.publish("", stream, format!("{n}")).unwrap();
    }
    publisher.wait_for_confirms(SOON).unwrap();
}

/// Both ends still agree.
#[track_caller]
fn assert_works(channel: &Channel) {
    for _ in 0..3 {
        channel.basic_qos(100).unwrap();
    }
    assert!(channel.is_open() && channel.connection().is_open());
}

#[test]
fn cancelling_an_iterator_over_a_stream_gives_nothing_back() {
    bounded(|| {
        let mut fixture = Fixture::new();
        let (channel, stream) = channel_and_stream(&mut fixture);
        let request = Consume::new(&stream).argument("x-stream-offset", "first");
        let mut messages = channel.consume(request).unwrap();
        messages.next().unwrap().unwrap();
        wait_until(SOON, || {
            channel.basic_qos(100).unwrap();
            channel.get_waiting_message_count() == 9
        });
        assert_eq!(channel.cancel().unwrap(), 0);
        assert_works(&channel);
    });
}

/// Without an offset a stream's consumer gets what comes from now on.
#[test]
fn cancelling_an_iterator_over_a_stream_without_an_offset_is_harmless() {
    bounded(|| {
        let mut fixture = Fixture::new();
        let (channel, stream) = channel_and_stream(&mut fixture);
        let mut messages = channel.consume(&stream).unwrap();
        fill(&channel, &stream);
        messages.next().unwrap().unwrap();
        wait_until(SOON, || {
            channel.basic_qos(100).unwrap();
            channel.get_waiting_message_count() >= 5
        });
        channel.cancel().unwrap();
        assert_works(&channel);
    });
}

#[test]
fn a_callback_cancels_its_consumer_of_a_stream() {
    bounded(|| {
        for offset in [Some("first"), None] {
            let mut fixture = Fixture::new();
            let (channel, stream) = channel_and_stream(&mut fixture);
            let mut request = BasicConsume::new(&stream).consumer_tag("mine");
            if let Some(offset) = offset {
                request = request.argument("x-stream-offset", offset);
            }
            let log = Log::new();
            let handed_over = log.clone();
            channel
                .basic_consume(request, move |channel, method, _, _| {
                    // Lets the others come.
                    channel
                        .connection()
                        .process_data_events(Duration::from_millis(100))?;
                    handed_over.push(method.delivery_tag);
                    channel.basic_cancel(&method.consumer_tag).map(drop)
                })
                .unwrap();
            if offset.is_none() {
                fill(&channel, &stream);
            }
            channel.start_consuming().unwrap();
            assert_eq!(log.all(), [1]);
            assert_works(&channel);
        }
    });
}

/// What was moved from a stream to another queue bears the stream's header still, and goes back to that queue.
#[test]
fn messages_that_were_moved_from_a_stream_are_not_lost() {
    bounded(|| {
        let mut fixture = Fixture::new();
        let (channel, stream) = channel_and_stream(&mut fixture);
        let queue = support::exclusive_queue(&channel);
        let request = Consume::new(&stream).argument("x-stream-offset", "first");
        for message in channel.consume(request).unwrap().take(10) {
            let (_, properties, body) = message.unwrap();
            channel
                .basic_publish_with("", &queue, body, &properties)
                .unwrap();
        }
        channel.cancel().unwrap();
        channel.consume(&queue).unwrap().next().unwrap().unwrap();
        channel.cancel().unwrap();
        channel.close().unwrap();
        support::assert_message_count(&channel.connection().channel().unwrap(), &queue, 10);
    });
}
