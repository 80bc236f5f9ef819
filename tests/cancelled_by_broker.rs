//! A consumer that the broker cancels: its tag is free again, and what is acknowledged too late is reported.

mod support;

use std::sync::mpsc;
use std::time::Duration;

use haypile::{BasicConsume, BasicNack, Channel, Connection, ConsumingEnded, Error, QueueDeclare};
use support::peer::{m, Args, Peer, Session};
use support::{
    bounded, bounded_by, channel, exclusive_queue, message_count, open, rabbitmq_version, Fixture,
    Log,
};

fn cancel(session: &mut Session, consumer_tag: &str, no_wait: bool) {
    let arguments = Args::new().shortstr(consumer_tag).octet(u8::from(no_wait));
    session.send_method(1, m::BASIC_CANCEL, arguments);
}

#[track_caller]
fn assert_late(result: haypile::Result<()>, tag: u64) {
    match result {
        Err(Error::ConsumerCancelled {
            consumer_tag,
            delivery_tag,
            ..
        }) => assert_eq!((consumer_tag.as_str(), delivery_tag), ("mine", Some(tag))),
        other => panic!("{other:?}"),
    }
}

/// A tag that RabbitMQ keeps until this end cancels as well, and one that it does not keep: what is sent is the same.
#[test]
fn a_cancel_without_no_wait_gets_cancel_ok() {
    bounded(|| {
        let peer = Peer::start(|session| {
            session.handshake();
            session.open_channel(1);
            for no_wait in [true, false] {
                assert_eq!(session.accept_consumer(1), "mine");
                cancel(session, "mine", no_wait);
                // That of no consumer has no reply unless one is asked for.
                cancel(session, "other", true);
                let method = if no_wait {
                    m::BASIC_CANCEL
                } else {
                    m::BASIC_CANCEL_OK
                };
                let mut arguments = session.expect(1, method);
                assert_eq!(arguments.shortstr(), "mine");
                assert_eq!(arguments.rest(), if no_wait { &[1][..] } else { &[] });
            }
            session.serve_until_end();
        });
        let connection = Connection::open(peer.url().as_str()).unwrap();
        let channel = connection.channel().unwrap();
        for _ in 0..2 {
            let request = BasicConsume::new("q").consumer_tag("mine");
            channel.basic_consume(request, |_, _, _, _| {}).unwrap();
            let ended = channel.start_consuming().unwrap();
            let by_broker = ConsumingEnded::CancelledByBroker {
                consumer_tag: "mine".into(),
            };
            assert_eq!(ended, by_broker);
            assert!(channel.consumer_tags().is_empty());
        }
        connection.close().unwrap();
        peer.finish();
    });
}

/// Two consumers and a fetched message on one channel: only what came to the cancelled one is late, from whichever thread.
#[test]
fn what_is_acknowledged_too_late_is_reported_and_nothing_else() {
    bounded(|| {
        let (sent, all_sent) = mpsc::channel::<()>();
        let peer = Peer::start(move |session| {
            session.handshake();
            session.open_channel(1);
            session.accept_consumer(1);
            session.accept_consumer(1);
            for (tag, consumer) in ["mine", "mine", "theirs", "mine"].into_iter().enumerate() {
                session.deliver(1, consumer, tag as u64 + 1, b"x");
            }
            session.expect(1, m::BASIC_GET);
            let got = Args::new()
                .longlong(5)
                .octet(0)
                .shortstr("")
                .shortstr("q")
                .long(0);
            session.send_content(1, m::BASIC_GET_OK, got, b"fetched");
            session.expect(1, m::BASIC_ACK);
            cancel(session, "mine", true);
            session.expect(1, m::BASIC_CANCEL);
            // They are sent nevertheless.
            session.expect(1, m::BASIC_ACK);
            session.expect(1, m::BASIC_QOS);
            session.send_method(1, m::BASIC_QOS_OK, Args::new());
            all_sent.recv().unwrap();
            for method in [m::BASIC_ACK, m::BASIC_NACK, m::BASIC_NACK, m::BASIC_ACK] {
                session.expect(1, method);
            }
            session.serve_until_end();
        });
        let connection = Connection::open(peer.url().as_str()).unwrap();
        let channel = connection.channel().unwrap();
        let log = Log::new();
        for tag in ["mine", "theirs"] {
            let log = log.clone();
            let request = BasicConsume::new("q").consumer_tag(tag);
            channel
                .basic_consume(request, move |_, method, _, _| {
                    log.push(method.delivery_tag)
                })
                .unwrap();
        }
        support::pump_until(&connection, || log.len() == 4);
        channel.basic_get("q").unwrap().unwrap();
        channel.basic_ack(1).unwrap();
        support::pump_until(&connection, || channel.consumer_tags() == ["theirs"]);
        let other = channel.clone();
        let (acked, is_acked) = mpsc::channel();
        let (end, may_end) = mpsc::channel::<()>();
        // It stays until the connection is closed: the end of a thread asks the broker for more.
        let thread = std::thread::spawn(move || {
            assert_late(other.basic_ack(2), 2);
            acked.send(()).unwrap();
            let _ = may_end.recv();
        });
        is_acked.recv().unwrap();
        // So that the next one does not speak for it.
        channel.basic_qos(1).unwrap();
        channel.basic_ack(3).unwrap();
        assert_late(channel.basic_nack(BasicNack::new(4).requeue(false)), 4);
        // What is given back has gone back anyway.
        channel.basic_nack(4).unwrap();
        channel.basic_ack(5).unwrap();
        sent.send(()).unwrap();
        connection.close().unwrap();
        drop(end);
        thread.join().unwrap();
        peer.finish();
    });
}

/// The reply to a cancel does no harm where the broker does not keep the tag.
#[test]
fn the_tag_of_a_deleted_queues_consumer_can_be_used_again() {
    bounded(|| {
        let channel = channel();
        let mut fixture = Fixture::new();
        for _ in 0..3 {
            let queue = fixture.queue("gone");
            channel.queue_declare(&queue).unwrap();
            channel.basic_publish("", &queue, "x").unwrap();
            let deleted = queue.clone();
            let request = BasicConsume::new(&queue).consumer_tag("mine");
            channel
                .basic_consume(request, move |channel, method, _, _| {
                    open().channel()?.queue_delete(&deleted)?;
                    while !channel.consumer_tags().is_empty() {
                        channel
                            .connection()
                            .process_data_events(Duration::from_millis(1))?;
                    }
                    assert_late(channel.basic_ack(method.delivery_tag), method.delivery_tag);
                    Ok::<(), Error>(())
                })
                .unwrap();
            let by_broker = ConsumingEnded::CancelledByBroker {
                consumer_tag: "mine".into(),
            };
            assert_eq!(channel.start_consuming().unwrap(), by_broker);
        }
        assert!(channel.is_open());
    });
}

/// What ends a loop is what happened to the last consumer, not to one that was lost before.
#[test]
fn a_cancel_by_the_program_is_not_taken_for_an_earlier_one_by_the_broker() {
    bounded(|| {
        let channel = channel();
        let mut fixture = Fixture::new();
        let gone = fixture.queue("gone");
        channel.queue_declare(&gone).unwrap();
        channel.basic_consume(&gone, |_, _, _, _| {}).unwrap();
        let kept = exclusive_queue(&channel);
        let kept = channel.basic_consume(&kept, |_, _, _, _| {}).unwrap();
        let cancelled = Log::new();
        let log = cancelled.clone();
        channel.add_on_cancel_callback(move |_, tag| log.push(tag));
        open().channel().unwrap().queue_delete(&gone).unwrap();
        support::pump_until(&channel.connection(), || cancelled.len() == 1);
        assert_eq!(channel.consumer_tags(), [kept.as_str()]);
        let same = channel.clone();
        let cancel = move || same.basic_cancel(&kept).map(drop);
        channel
            .connection()
            .call_later(Duration::ZERO, cancel)
            .unwrap();
        assert_eq!(
            channel.start_consuming().unwrap(),
            ConsumingEnded::Cancelled
        );
    });
}

/// Whether the broker gives up consumers of quorum queues that hold a message for too long (RabbitMQ 4.3).
fn times_consumers_out(channel: &Channel) -> bool {
    rabbitmq_version(&channel.connection()) >= (4, 3)
}

#[test]
fn the_tag_of_a_consumer_that_was_timed_out_can_be_used_again() {
    bounded_by(Duration::from_secs(90), || {
        let channel = channel();
        if !times_consumers_out(&channel) {
            eprintln!("this broker does not time out consumers of quorum queues");
            return;
        }
        let mut fixture = Fixture::new();
        let queue = fixture.queue("timed-out");
        let quorum = QueueDeclare::new(&queue)
            .durable(true)
            .argument("x-queue-type", "quorum");
        channel.queue_declare(quorum).unwrap();
        channel.basic_publish("", &queue, "slow").unwrap();
        channel.basic_qos(1).unwrap();
        let request = BasicConsume::new(&queue)
            .consumer_tag("mine")
            .argument("x-consumer-timeout", 10_000);
        let (late, reported) = mpsc::channel();
        channel
            .basic_consume(request.clone(), move |channel, method, _, _| {
                while !channel.consumer_tags().is_empty() {
                    channel
                        .connection()
                        .process_data_events(Duration::from_millis(50))?;
                }
                late.send(channel.basic_ack(method.delivery_tag)).unwrap();
                Ok::<(), Error>(())
            })
            .unwrap();
        let by_broker = ConsumingEnded::CancelledByBroker {
            consumer_tag: "mine".into(),
        };
        assert_eq!(channel.start_consuming().unwrap(), by_broker);
        assert_late(reported.recv().unwrap(), 1);
        // The message is there again, for the same tag on the same channel.
        channel
            .basic_consume(request, |channel, method, _, _| {
                assert!(method.redelivered);
                channel.basic_ack(method.delivery_tag)?;
                channel.stop_consuming()
            })
            .unwrap();
        assert_eq!(
            channel.start_consuming().unwrap(),
            ConsumingEnded::Cancelled
        );
        assert_eq!(message_count(&channel, &queue), 0);
    });
}
