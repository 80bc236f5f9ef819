//! What pika's acceptance suite for its blocking adapter asks of publishing, asked of haypile.
//! The comment above each test names pika's case.

mod support;

use std::time::Duration;

use haypile::{
    BasicProperties, BasicPublish, BasicQos, Channel, ConsumingEnded, Error, ExchangeDeclare,
    ExchangeType, Return, ReturnedMessage,
};
use support::{
    assert_matches, assert_message_count, bounded, channel, exclusive_queue, message_count,
    one_header, pump_until, Fixture, Log, Message,
};

fn mandatory() -> BasicPublish<'static> {
    BasicPublish::new().mandatory(true)
}

/// A channel and a direct exchange of its own to which nothing is bound.
fn channel_and_exchange() -> (Channel, String, Fixture) {
    let channel = channel();
    let mut fixture = Fixture::new();
    let exchange = fixture.exchange("x");
    channel
        .exchange_declare(ExchangeDeclare::new(&exchange, ExchangeType::Direct))
        .unwrap();
    (channel, exchange, fixture)
}

type Returned = (Channel, Return, BasicProperties, Vec<u8>);

/// Registers a callback that keeps what comes back.
fn log_returns(channel: &Channel) -> Log<Returned> {
    let returns = Log::new();
    let log = returns.clone();
    channel.add_on_return_callback(move |channel, method, properties, body| {
        log.push((channel.clone(), method, properties, body));
    });
    returns
}

/// Registers a consumer with manual acknowledgements that keeps what comes.
fn log_messages(channel: &Channel, queue: &str) -> (String, Log<(Channel, Message)>) {
    let messages = Log::new();
    let log = messages.clone();
    let on_message = move |channel: &Channel, method, properties, body| {
        log.push((channel.clone(), (method, properties, body)));
    };
    (channel.basic_consume(queue, on_message).unwrap(), messages)
}

#[track_caller]
fn assert_return(method: &Return, exchange: &str) {
    assert_eq!(method.reply_code, 312);
    assert_eq!(method.reply_text, "NO_ROUTE");
    assert_eq!(method.exchange, exchange);
    assert_eq!(method.routing_key, "key");
}

#[track_caller]
fn assert_returns(returns: Vec<Returned>, channel: &Channel, exchange: &str, bodies: &[&str]) {
    assert_eq!(returns.len(), bodies.len());
    for ((given, method, _, body), expected) in returns.into_iter().zip(bodies) {
        assert_eq!(given, *channel);
        assert_return(&method, exchange);
        assert_eq!(body, expected.as_bytes());
    }
}

// pika: TestPublishAndBasicPublishWithPubacksUnroutable; point 34
#[test]
fn unroutable_with_confirms_is_an_error_that_holds_the_message() {
    bounded(|| {
        let (channel, exchange, _fixture) = channel_and_exchange();
        channel.confirm_delivery().unwrap();
        let properties = BasicProperties::new().header("test_name", "unroutable");
        let error = channel
            .basic_publish_with(&exchange, "key", "", mandatory().properties(&properties))
            .unwrap_err();
        assert!(error.is_channel_error());
        let Error::Unroutable(mut returned) = error else {
            panic!("{error:?}");
        };
        assert_eq!(returned.len(), 1);
        let ReturnedMessage {
            method,
            properties,
            body,
            ..
        } = returned.remove(0);
        assert_return(&method, &exchange);
        assert_eq!(
            properties.headers,
            Some(one_header("test_name", "unroutable"))
        );
        assert_eq!(body, b"");
        assert!(channel.is_open());
    });
}

// pika: TestConfirmDeliveryAfterUnroutableMessage
#[test]
fn a_message_returned_before_confirms_were_asked_for_is_dispatched() {
    bounded(|| {
        let (channel, exchange, _fixture) = channel_and_exchange();
        let returns = log_returns(&channel);
        channel
            .basic_publish_with(&exchange, "key", "", mandatory())
            .unwrap();
        channel.confirm_delivery().unwrap();
        // It has come, since it comes before the reply to confirm.select, but no callback runs inside other calls.
        assert!(returns.is_empty());
        channel
            .connection()
            .process_data_events(Duration::ZERO)
            .unwrap();
        assert_returns(returns.take(), &channel, &exchange, &[""]);
    });
}

// pika: TestUnroutableMessagesReturnedInNonPubackMode; point 33
#[test]
fn unroutable_without_confirms_goes_to_the_return_callback() {
    bounded(|| {
        let (channel, exchange, _fixture) = channel_and_exchange();
        let returns = log_returns(&channel);
        channel
            .basic_publish_with(&exchange, "key", "one", mandatory())
            .unwrap();
        channel
            .basic_publish_with(&exchange, "key", "two", mandatory())
            .unwrap();
        pump_until(&channel.connection(), || returns.len() >= 2);
        channel
            .connection()
            .process_data_events(Duration::ZERO)
            .unwrap();
        assert_returns(returns.take(), &channel, &exchange, &["one", "two"]);
    });
}

// pika: TestUnroutableMessageReturnedInPubackMode; point 36
#[test]
fn unroutable_with_confirms_goes_to_the_return_callback_too() {
    bounded(|| {
        let (channel, exchange, _fixture) = channel_and_exchange();
        channel.confirm_delivery().unwrap();
        let returns = log_returns(&channel);
        for body in ["one", "two"] {
            let error = channel
                .basic_publish_with(&exchange, "key", body, mandatory())
                .unwrap_err();
            assert_matches!(error, Error::Unroutable(_));
        }
        assert!(returns.is_empty());
        channel
            .connection()
            .process_data_events(Duration::ZERO)
            .unwrap();
        assert_returns(returns.take(), &channel, &exchange, &["one", "two"]);
    });
}

// pika: TestBasicPublishDeliveredWhenPendingUnroutable
#[test]
fn a_pending_return_does_not_keep_the_next_message_from_its_queue() {
    bounded(|| {
        let (channel, exchange, _fixture) = channel_and_exchange();
        let queue = exclusive_queue(&channel);
        channel.queue_bind(&queue, &exchange, "key").unwrap();
        channel
            .basic_publish_with(&exchange, "", "unroutable", mandatory())
            .unwrap();
        // A round trip, in which the message comes back.
        channel.connection().channel().unwrap().close().unwrap();
        channel
            .basic_publish_with(&exchange, "key", "routable", mandatory())
            .unwrap();
        assert_message_count(&channel, &queue, 1);
        let (method, _, body) = channel.basic_get(&queue).unwrap().unwrap();
        assert_eq!(method.delivery_tag, 1);
        assert!(!method.redelivered);
        assert_eq!(method.exchange, *exchange);
        assert_eq!(method.routing_key, "key");
        assert_eq!(body, b"routable");
        channel.basic_ack(method.delivery_tag).unwrap();
        assert_message_count(&channel, &queue, 0);
    });
}

// pika: TestPublishAndConsumeWithPubacksAndQosOfOne; point 19
#[test]
fn publish_with_confirms_consume_one_at_a_time_until_the_queue_is_deleted() {
    bounded(|| {
        let (channel, exchange, _fixture) = channel_and_exchange();
        let connection = channel.connection();
        channel.confirm_delivery().unwrap();
        let queue = exclusive_queue(&channel);
        channel.queue_bind(&queue, &exchange, "key").unwrap();
        let properties = BasicProperties::new().header("test_name", "qos of one");
        channel
            .basic_publish_with(
                &exchange,
                "key",
                "first",
                mandatory().properties(&properties),
            )
            .unwrap();
        channel
            .basic_publish_with(&exchange, "key", "second", mandatory())
            .unwrap();
        assert_eq!(message_count(&channel, &queue), 2);

        channel
            .basic_qos(BasicQos::new(1).prefetch_size(0).global(false))
            .unwrap();
        let (tag, messages) = log_messages(&channel, &queue);
        let headers = [Some(one_header("test_name", "qos of one")), None];
        for (n, (body, headers)) in (1..).zip([&b"first"[..], b"second"].into_iter().zip(headers)) {
            while messages.is_empty() {
                connection.process_data_events(None).unwrap();
            }
            let mut came = messages.take();
            assert_eq!(came.len(), 1);
            let (given, (method, properties, came)) = came.remove(0);
            assert_eq!(given, channel);
            assert_eq!(method.consumer_tag, *tag);
            assert_eq!(method.delivery_tag, n);
            assert!(!method.redelivered);
            assert_eq!(method.exchange, *exchange);
            assert_eq!(method.routing_key, "key");
            assert_eq!(properties.headers, headers);
            assert_eq!(came, body);
            channel.basic_ack(method.delivery_tag).unwrap();
        }
        assert_message_count(&channel, &queue, 0);
        connection
            .process_data_events(Duration::from_millis(5))
            .unwrap();
        assert!(messages.is_empty());

        let cancelled = Log::new();
        let log = cancelled.clone();
        channel.add_on_cancel_callback(move |_, tag| log.push(tag));
        channel.queue_delete(&queue).unwrap();
        let ended = channel.start_consuming().unwrap();
        assert_eq!(cancelled.all(), [tag.as_str()]);
        assert_eq!(
            ended,
            ConsumingEnded::CancelledByBroker { consumer_tag: tag }
        );
    });
}

// pika: TestBasicPublishWithoutPubacks
#[test]
fn publish_without_confirms() {
    bounded(|| {
        let (channel, exchange, _fixture) = channel_and_exchange();
        let connection = channel.connection();
        let queue = exclusive_queue(&channel);
        channel.queue_bind(&queue, &exchange, "key").unwrap();
        let properties = BasicProperties::new().header("test_name", "without confirms");
        channel
            .basic_publish_with(
                &exchange,
                "key",
                "mandatory",
                mandatory().properties(&properties),
            )
            .unwrap();
        channel
            .basic_publish(&exchange, "key", "not mandatory")
            .unwrap();
        assert_message_count(&channel, &queue, 2);

        let (tag, messages) = log_messages(&channel, &queue);
        while messages.len() < 2 {
            connection.process_data_events(None).unwrap();
        }
        let headers = [Some(one_header("test_name", "without confirms")), None];
        let bodies = [&b"mandatory"[..], b"not mandatory"];
        for (n, (given, (method, properties, body))) in messages.take().into_iter().enumerate() {
            assert_eq!(given, channel);
            assert_eq!(method.consumer_tag, *tag);
            assert_eq!(method.delivery_tag, n as u64 + 1);
            assert!(!method.redelivered);
            assert_eq!(method.exchange, *exchange);
            assert_eq!(method.routing_key, "key");
            assert_eq!(properties.headers, headers[n]);
            assert_eq!(body, bodies[n]);
            channel.basic_ack(method.delivery_tag).unwrap();
        }
        assert_message_count(&channel, &queue, 0);
        connection
            .process_data_events(Duration::from_millis(5))
            .unwrap();
        assert!(messages.is_empty());
    });
}
