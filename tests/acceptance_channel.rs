//! What pika's acceptance suite for its blocking adapter asks of a channel, asked of haypile: opening and closing,
//! exchanges and queues, fetching and settling, transactions. The comment above each test names pika's case.

mod support;

use std::time::Duration;

use haypile::{
    BasicNack, BasicPublish, BasicReject, Channel, Connection, Error, ExchangeDeclare,
    ExchangeType, QueueDeclare,
};
use support::peer::{m, Args, Peer};
use support::{
    assert_closed_by_broker, assert_matches, assert_message_count, bounded, channel,
    channel_and_queue_of, exclusive_queue, message_count, open, unique, Fixture,
};

fn mandatory() -> BasicPublish<'static> {
    BasicPublish::new().mandatory(true)
}

/// Fetches a message that must be there; returns its delivery tag.
#[track_caller]
fn fetch(channel: &Channel, queue: &str, expected: &str) -> u64 {
    let (method, _, body) = channel.basic_get(queue).unwrap().expect("a message");
    assert_eq!(String::from_utf8(body).unwrap(), expected);
    method.delivery_tag
}

// pika: TestCreateAndCloseChannel
#[test]
fn open_and_close() {
    bounded(|| {
        let connection = open();
        let channel = connection.channel().unwrap();
        assert!(channel.is_open() && !channel.is_closed());
        assert_eq!(channel.connection(), connection);
        channel.close().unwrap();
        assert!(channel.is_closed() && !channel.is_open());
        assert!(connection.is_open());
    });
}

// pika: TestExchangeDeclareAndDelete
#[test]
fn exchange_declare_and_delete() {
    bounded(|| {
        let channel = channel();
        let mut fixture = Fixture::new();
        let exchange = fixture.exchange("x");
        channel
            .exchange_declare(ExchangeDeclare::new(&exchange, ExchangeType::Direct))
            .unwrap();
        let passive = || ExchangeDeclare::new(&exchange, ExchangeType::Direct).passive(true);
        channel.exchange_declare(passive()).unwrap();
        channel.exchange_delete(&exchange).unwrap();
        assert_closed_by_broker(channel.exchange_declare(passive()), 404);
    });
}

// pika: TestExchangeBindAndUnbind
#[test]
fn exchange_bind_and_unbind() {
    bounded(|| {
        let channel = channel();
        let mut fixture = Fixture::new();
        let (source, destination) = (fixture.exchange("source"), fixture.exchange("destination"));
        channel.confirm_delivery().unwrap();
        channel
            .exchange_declare(ExchangeDeclare::new(&source, ExchangeType::Direct))
            .unwrap();
        channel
            .exchange_declare(ExchangeDeclare::new(&destination, ExchangeType::Direct))
            .unwrap();
        let queue = exclusive_queue(&channel);
        channel.queue_bind(&queue, &destination, "key").unwrap();

        let publish = |body: &str| channel.basic_publish_with(&source, "key", body, mandatory());
        assert!(matches!(publish("before"), Err(Error::Unroutable(_))));
        channel.exchange_bind(&destination, &source, "key").unwrap();
        publish("while bound").unwrap();
        assert_message_count(&channel, &queue, 1);
        channel
            .exchange_unbind(&destination, &source, "key")
            .unwrap();
        assert!(matches!(publish("after"), Err(Error::Unroutable(_))));
        assert_message_count(&channel, &queue, 1);
    });
}

// pika: TestQueueDeclareAndDelete
#[test]
fn queue_declare_and_delete() {
    bounded(|| {
        let channel = channel();
        let queue = unique("q");
        let declared = channel
            .queue_declare(QueueDeclare::new(&queue).exclusive(true))
            .unwrap();
        assert_eq!(
            (
                declared.queue.as_str(),
                declared.message_count,
                declared.consumer_count
            ),
            (&*queue, 0, 0)
        );
        let passive = || QueueDeclare::new(&queue).passive(true);
        assert_eq!(channel.queue_declare(passive()).unwrap().queue, queue);
        assert_eq!(channel.queue_delete(&queue).unwrap(), 0);
        assert_closed_by_broker(channel.queue_declare(passive()), 404);
    });
}

// pika: TestPassiveQueueDeclareOfUnknownQueueRaisesChannelClosed
#[test]
fn a_passive_declare_of_an_unknown_queue_closes_the_channel() {
    bounded(|| {
        let channel = channel();
        let queue = unique("q");
        let error = channel
            .queue_declare(QueueDeclare::new(&queue).passive(true))
            .unwrap_err();
        let Error::ChannelClosedByBroker {
            reply_code,
            reply_text,
            channel: number,
            method,
            ..
        } = &error
        else {
            panic!("{error:?}");
        };
        assert_eq!(
            (*reply_code, *number, *method),
            (404, channel.channel_number(), Some("queue.declare"))
        );
        assert!(reply_text.contains(&queue), "{reply_text}");
        assert!(error.is_channel_error() && !error.is_connection_error());
        assert!(channel.is_closed());
        assert!(channel.connection().is_open());
    });
}

// pika: TestQueueBindAndUnbindAndPurge
#[test]
fn queue_bind_unbind_and_purge() {
    bounded(|| {
        let channel = channel();
        let mut fixture = Fixture::new();
        let exchange = fixture.exchange("x");
        channel.confirm_delivery().unwrap();
        channel
            .exchange_declare(ExchangeDeclare::new(&exchange, ExchangeType::Direct))
            .unwrap();
        let queue = exclusive_queue(&channel);
        channel.queue_bind(&queue, &exchange, "key").unwrap();
        assert_eq!(message_count(&channel, &queue), 0);
        channel
            .basic_publish_with(&exchange, "key", "first", mandatory())
            .unwrap();
        assert_eq!(message_count(&channel, &queue), 1);
        channel.queue_unbind(&queue, &exchange, "key").unwrap();
        let error = channel
            .basic_publish_with(&exchange, "key", "second", mandatory())
            .unwrap_err();
        assert_matches!(error, Error::Unroutable(_));
        assert_eq!(channel.queue_purge(&queue).unwrap(), 1);
        assert_eq!(message_count(&channel, &queue), 0);
    });
}

// pika: TestBasicGet; point 30
#[test]
fn basic_get() {
    bounded(|| {
        let (channel, queue) = channel_and_queue_of(&[]);
        assert!(channel.basic_get(&queue).unwrap().is_none());
        channel
            .basic_publish_with("", &queue, "body", mandatory())
            .unwrap();
        let (method, properties, body) = channel.basic_get(&queue).unwrap().unwrap();
        assert_eq!(method.delivery_tag, 1);
        assert!(!method.redelivered);
        assert_eq!(method.exchange, "");
        assert_eq!(method.routing_key, *queue);
        assert_eq!(method.message_count, 0);
        assert_eq!(properties.headers, None);
        assert_eq!(body, b"body");
        channel.basic_ack(method.delivery_tag).unwrap();
        assert_message_count(&channel, &queue, 0);
    });
}

/// Fetches two messages and refuses the second; those that are in `left` go back, and only they.
#[track_caller]
fn refuse_second(refuse: impl FnOnce(&Channel, u64) -> haypile::Result<()>, left: &[&str]) {
    let (channel, queue) = channel_and_queue_of(&["one", "two"]);
    fetch(&channel, &queue, "one");
    let second = fetch(&channel, &queue, "two");
    refuse(&channel, second).unwrap();
    assert_message_count(&channel, &queue, left.len() as u32);
    for body in left {
        fetch(&channel, &queue, body);
    }
    if left.is_empty() {
        // The first one is still there, and goes back with its channel.
        channel.close().unwrap();
        let channel = channel.connection().channel().unwrap();
        assert_message_count(&channel, &queue, 1);
        fetch(&channel, &queue, "one");
    }
}

// pika: TestBasicReject
#[test]
fn basic_reject_requeues() {
    bounded(|| refuse_second(|channel, tag| channel.basic_reject(tag), &["two"]));
}

// pika: TestBasicRejectNoRequeue
#[test]
fn basic_reject_without_requeue_drops() {
    bounded(|| {
        let reject = |tag| BasicReject::new(tag).requeue(false);
        refuse_second(|channel, tag| channel.basic_reject(reject(tag)), &[]);
    });
}

// pika: TestBasicNack
#[test]
fn basic_nack_requeues() {
    bounded(|| {
        let nack = |tag| BasicNack::new(tag).multiple(false).requeue(true);
        refuse_second(|channel, tag| channel.basic_nack(nack(tag)), &["two"]);
    });
}

// pika: TestBasicNackNoRequeue
#[test]
fn basic_nack_without_requeue_drops() {
    bounded(|| {
        let nack = |tag| BasicNack::new(tag).requeue(false);
        refuse_second(|channel, tag| channel.basic_nack(nack(tag)), &[]);
    });
}

// pika: TestBasicNackMultiple
#[test]
fn basic_nack_of_several() {
    bounded(|| {
        let nack = |tag| BasicNack::new(tag).multiple(true).requeue(true);
        refuse_second(
            |channel, tag| channel.basic_nack(nack(tag)),
            &["one", "two"],
        );
    });
}

// pika: TestBasicRecoverWithRequeue
#[test]
fn basic_recover_delivers_again() {
    bounded(|| {
        let (channel, queue) = channel_and_queue_of(&["one", "two"]);
        let mut again = Vec::new();
        for (n, message) in (1..).zip(channel.consume(&queue).unwrap()) {
            let (method, _, body) = message.unwrap();
            if n == 2 {
                channel.basic_recover(true).unwrap();
            }
            if n > 2 {
                assert!(method.redelivered);
                again.push(String::from_utf8(body).unwrap());
            }
            if n == 4 {
                break;
            }
        }
        assert_eq!(again, ["one", "two"]);
    });
}

// pika: TestTxCommit
#[test]
fn a_committed_transaction_arrives() {
    bounded(|| {
        let channel = channel();
        let queue = exclusive_queue(&channel);
        channel.tx_select().unwrap();
        channel
            .basic_publish_with("", &queue, "body", mandatory())
            .unwrap();
        assert_eq!(message_count(&channel, &queue), 0);
        channel.tx_commit().unwrap();
        // The reply to a commit may come before the queue has the message.
        assert_message_count(&channel, &queue, 1);
        fetch(&channel, &queue, "body");
    });
}

// pika: TestTxRollback
#[test]
fn a_rolled_back_transaction_does_not() {
    bounded(|| {
        let channel = channel();
        let queue = exclusive_queue(&channel);
        channel.tx_select().unwrap();
        channel
            .basic_publish_with("", &queue, "body", mandatory())
            .unwrap();
        assert_eq!(message_count(&channel, &queue), 0);
        channel.tx_rollback().unwrap();
        assert_eq!(message_count(&channel, &queue), 0);
    });
}

// pika: TestChannelFlow; point 39
#[test]
fn flow_returns_whether_it_is_active() {
    bounded(|| {
        let channel = channel();
        let queue = exclusive_queue(&channel);
        let consumers = || {
            channel
                .queue_declare(QueueDeclare::new(&queue).passive(true))
                .unwrap()
                .consumer_count
        };
        assert_eq!(consumers(), 0);
        channel.basic_consume(&queue, |_, _, _, _| {}).unwrap();
        assert_eq!(consumers(), 1);
        assert!(channel.flow(true).unwrap());
        assert_eq!(consumers(), 1);
    });
}

// pika: TestChannelRaisesWrongStateWhenDeclaringQueueOnClosedChannel
#[test]
fn a_declare_on_a_closed_channel_is_a_wrong_state() {
    bounded(|| {
        let channel = channel();
        channel.close().unwrap();
        let error = channel
            .queue_declare(QueueDeclare::new(unique("q")).exclusive(true))
            .unwrap_err();
        assert_matches!(error, Error::ChannelWrongState { .. });
    });
}

// No part of what was refused may reach the broker, which would close the connection over it.
#[test]
fn publishing_on_a_closed_channel_is_a_wrong_state_and_sends_nothing() {
    bounded(|| {
        let connection = open();
        let (other, channel) = (connection.channel().unwrap(), connection.channel().unwrap());
        let queue = exclusive_queue(&other);
        channel.close().unwrap();
        for size in [0, 10, 10_000, 1_000_000] {
            let error = channel
                .basic_publish("", &queue, vec![0; size])
                .unwrap_err();
            assert!(
                matches!(error, Error::ChannelWrongState { .. }),
                "{size}: {error:?}"
            );
        }
        let error = channel.basic_ack(1).unwrap_err();
        assert_matches!(error, Error::ChannelWrongState { .. });
        assert_message_count(&other, &queue, 0);
        connection
            .process_data_events(Duration::from_millis(20))
            .unwrap();
        assert!(connection.is_open() && other.is_open());
    });
}

// pika: TestChannelRaisesWrongStateWhenClosingClosedChannel; point 42
#[test]
fn closing_a_closed_channel_is_a_wrong_state() {
    bounded(|| {
        let channel = channel();
        channel.close().unwrap();
        let error = channel.close().unwrap_err();
        assert_matches!(error, Error::ChannelWrongState { .. });
    });
}

// pika: TestChannelContextManagerClosesChannel
// The counterpart of leaving a `with` block is the drop of the last handle.
#[test]
fn the_last_handle_dropped_closes_the_channel() {
    bounded(|| {
        let peer = Peer::start(|session| {
            session.handshake();
            session.open_channel(1);
            assert_eq!(session.expect(1, m::CHANNEL_CLOSE).short(), 0);
            session.send_method(1, m::CHANNEL_CLOSE_OK, Args::new());
            session.serve_until_end();
        });
        let connection = Connection::open(peer.url()).unwrap();
        {
            let channel = connection.channel().unwrap();
            assert!(channel.is_open());
        }
        assert!(connection.is_open());
        connection.close().unwrap();
        peer.finish();
    });
}

// pika: TestChannelContextManagerExitSurvivesClosedChannel
#[test]
fn dropping_a_closed_channel_does_nothing_more() {
    bounded(|| {
        let peer = Peer::start(|session| {
            session.handshake();
            session.open_channel(1);
            session.expect(1, m::CHANNEL_CLOSE);
            session.send_method(1, m::CHANNEL_CLOSE_OK, Args::new());
            session.expect(0, m::CONNECTION_CLOSE);
            session.send_method(0, m::CONNECTION_CLOSE_OK, Args::new());
            session.expect_end();
        });
        let connection = Connection::open(peer.url()).unwrap();
        {
            let channel = connection.channel().unwrap();
            channel.close().unwrap();
            assert!(channel.is_closed());
        }
        connection.close().unwrap();
        peer.finish();
    });
}

// pika: TestChannelContextManagerDoesNotSuppressChannelClosedByBroker
#[test]
fn an_error_of_the_broker_passes_out_of_the_scope_of_its_channel() {
    fn program(channel: Channel) -> haypile::Result<()> {
        channel
            .exchange_declare(ExchangeDeclare::new(unique("x"), ExchangeType::Direct).passive(true))
    }
    bounded(|| {
        let channel = channel();
        assert_closed_by_broker(program(channel.clone()), 404);
        assert!(channel.is_closed());
    });
}
