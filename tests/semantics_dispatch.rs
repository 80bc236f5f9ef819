//! When callbacks run, and in which order: points 1 to 15 of how pika's blocking connection behaves.
//! A point that has no test here has one in another file, which names it.

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{mpsc, Arc};
use std::thread;
use std::time::{Duration, Instant};

use haypile::{
    BasicConsume, BasicPublish, Channel, Connection, Error, ExchangeDeclare, ExchangeType,
    QueueDeclare,
};
use support::peer::{m, Args, Peer};
use support::{
    assert_matches, assert_message_count, bounded, channel, exclusive_queue, message_count, open,
    pump_until, unique, Log, SOON,
};

fn mandatory() -> BasicPublish<'static> {
    BasicPublish::new().mandatory(true)
}

/// A channel with confirms and a queue of its own.
fn channel_and_queue() -> (Channel, String) {
    let channel = channel();
    channel.confirm_delivery().unwrap();
    let queue = exclusive_queue(&channel);
    (channel, queue)
}

/// Publishes, and waits until the messages lie with the consuming channel, undispatched.
#[track_caller]
fn publish_and_let_come(channel: &Channel, queue: &str, bodies: &[&str]) {
    for body in bodies {
        channel
            .basic_publish_with("", queue, body, mandatory())
            .unwrap();
    }
    assert_message_count(channel, queue, 0);
    // What the broker sent before it counted has arrived when it replies once more.
    assert_eq!(message_count(channel, queue), 0);
}

/// Registers a consumer that writes the bodies into the log.
#[track_caller]
fn log_bodies(channel: &Channel, queue: &str, log: &Log<String>) -> String {
    let log = log.clone();
    let on_message = move |_: &Channel, _, _, body: Vec<u8>| {
        log.push(String::from_utf8_lossy(&body).into_owned())
    };
    channel
        .basic_consume(BasicConsume::new(queue).auto_ack(true), on_message)
        .unwrap()
}

#[test]
fn p01_p02_other_calls_queue_what_comes_and_run_no_callback() {
    bounded(|| {
        let (channel, queue) = channel_and_queue();
        let connection = channel.connection();
        let log = Log::new();
        log_bodies(&channel, &queue, &log);
        let (timer, threadsafe, returned) = (log.clone(), log.clone(), log.clone());
        connection
            .call_later(Duration::ZERO, move || timer.push("timer".to_owned()))
            .unwrap();
        connection
            .add_callback_threadsafe(move || threadsafe.push("threadsafe".to_owned()))
            .unwrap();
        channel.add_on_return_callback(move |_, _, _, _| returned.push("returned".to_owned()));

        publish_and_let_come(&channel, &queue, &["message"]);
        let error = channel
            .basic_publish_with("", unique("nowhere"), "lost", mandatory())
            .unwrap_err();
        assert_matches!(error, Error::Unroutable(_));
        let other = exclusive_queue(&channel);
        channel.basic_qos(1).unwrap();
        assert!(channel.basic_get(&other).unwrap().is_none());
        channel.queue_purge(&other).unwrap();
        connection.channel().unwrap().close().unwrap();
        assert_eq!(log.all(), [""; 0]);

        connection.process_data_events(Duration::ZERO).unwrap();
        assert_eq!(log.all(), ["timer", "threadsafe", "message", "returned"]);
    });
}

#[test]
fn p03_connection_events_come_first_but_only_those_ready_at_entry() {
    bounded(|| {
        let (channel, queue) = channel_and_queue();
        let connection = channel.connection();
        let log = Log::new();
        log_bodies(&channel, &queue, &log);
        publish_and_let_come(&channel, &queue, &["message"]);
        let (first, second, same) = (log.clone(), log.clone(), connection.clone());
        connection
            .add_callback_threadsafe(move || {
                first.push("first".to_owned());
                same.add_callback_threadsafe(move || second.push("added by the first".to_owned()))
            })
            .unwrap();
        connection.process_data_events(Duration::ZERO).unwrap();
        assert_eq!(log.take(), ["first", "message"]);
        connection.process_data_events(Duration::ZERO).unwrap();
        assert_eq!(log.take(), ["added by the first"]);
    });
}

#[test]
fn p04_a_channels_events_come_in_the_order_of_their_arrival() {
    bounded(|| {
        let peer = Peer::start(|session| {
            session.handshake();
            session.open_channel(1);
            let first = session.accept_consumer(1);
            let second = session.accept_consumer(1);
            session.expect(1, m::BASIC_QOS);
            session.deliver(1, &first, 1, b"1");
            let returned = Args::new()
                .short(312)
                .shortstr("NO_ROUTE")
                .shortstr("")
                .shortstr("2");
            session.send_content(1, m::BASIC_RETURN, returned, b"2");
            session.deliver(1, &second, 2, b"3");
            session.deliver(1, &first, 3, b"4");
            session.send_method(1, m::BASIC_CANCEL, Args::new().shortstr(&second).octet(1));
            session.deliver(1, &first, 4, b"6");
            session.send_method(1, m::BASIC_QOS_OK, Args::new());
            session.serve_until_end();
        });
        let channel = Connection::open(peer.url()).unwrap().channel().unwrap();
        let log = Log::new();
        log_bodies(&channel, "q", &log);
        log_bodies(&channel, "q", &log);
        let (returned, cancelled) = (log.clone(), log.clone());
        channel.add_on_return_callback(move |_, method, _, _| {
            returned.push(method.routing_key.to_string())
        });
        channel.add_on_cancel_callback(move |_, _| cancelled.push("5".to_owned()));
        channel.basic_qos(1).unwrap();
        assert!(log.is_empty());
        channel
            .connection()
            .process_data_events(Duration::ZERO)
            .unwrap();
        assert_eq!(log.all(), ["1", "2", "3", "4", "5", "6"]);
        channel.connection().close().unwrap();
        peer.finish();
    });
}

#[test]
fn p05_callbacks_may_wait_for_the_broker() {
    bounded(|| {
        let (channel, queue) = channel_and_queue();
        let other = exclusive_queue(&channel);
        let to = other.clone();
        channel
            .basic_consume(&queue, move |channel, method, _, body| {
                channel.queue_declare(QueueDeclare::new(&to).passive(true))?;
                channel.basic_publish_with("", &to, body, mandatory())?;
                assert!(channel.basic_get(&to)?.is_some());
                channel.basic_recover(true)?;
                let another = channel.connection().channel()?;
                another.basic_qos(1)?;
                another.close()?;
                channel.basic_cancel(&method.consumer_tag)?;
                Ok(())
            })
            .unwrap();
        channel
            .basic_publish_with("", &queue, "body", mandatory())
            .unwrap();
        channel.start_consuming().unwrap();
        assert_message_count(&channel, &other, 1);
    });
}

#[test]
fn p05_start_consuming_in_a_callback_is_refused() {
    bounded(|| {
        let (channel, queue) = channel_and_queue();
        let errors = Log::new();
        let log = errors.clone();
        channel
            .basic_consume(&queue, move |channel, method, _, _| {
                log.push(channel.start_consuming().unwrap_err());
                // That of another channel, too.
                let other = channel.connection().channel()?;
                other.basic_consume(method.routing_key.to_string(), |_, _, _, _| {})?;
                log.push(other.start_consuming().unwrap_err());
                channel.basic_ack(method.delivery_tag)?;
                channel.stop_consuming()
            })
            .unwrap();
        channel
            .basic_publish_with("", &queue, "body", mandatory())
            .unwrap();
        channel.start_consuming().unwrap();
        assert_eq!(errors.len(), 2);
        for error in errors.take() {
            assert_matches!(error, Error::Reentrancy { .. });
        }
    });
}

#[test]
fn p06_nested_process_data_events_dispatches_nothing() {
    bounded(|| {
        let (channel, queue) = channel_and_queue();
        let log = Log::new();
        let nested = log.clone();
        channel
            .basic_consume(&queue, move |channel, method, _, body| {
                nested.push(format!("{} begins", String::from_utf8_lossy(&body)));
                let time = Duration::from_millis(50);
                let start = Instant::now();
                channel.connection().process_data_events(time)?;
                assert!(start.elapsed() >= time, "ended after {:?}", start.elapsed());
                nested.push(format!("{} ends", String::from_utf8_lossy(&body)));
                channel.basic_ack(method.delivery_tag)
            })
            .unwrap();
        publish_and_let_come(&channel, &queue, &["one", "two"]);
        let timer = log.clone();
        let on_timer = move || timer.push("timer".to_owned());
        channel
            .connection()
            .call_later(Duration::from_millis(20), on_timer)
            .unwrap();
        channel
            .connection()
            .process_data_events(Duration::ZERO)
            .unwrap();
        assert_eq!(
            log.all(),
            ["one begins", "one ends", "two begins", "two ends"]
        );
        channel
            .connection()
            .process_data_events(Duration::ZERO)
            .unwrap();
        assert_eq!(log.len(), 5);
    });
}

#[test]
fn p08_process_data_events_returns_at_the_first_event() {
    bounded(|| {
        let (channel, queue) = channel_and_queue();
        let connection = channel.connection();
        let log = Log::new();
        log_bodies(&channel, &queue, &log);
        let (to, publisher) = (queue.clone(), open());
        let publish = move |body: &'static str| {
            let (to, publisher) = (to.clone(), publisher.clone());
            thread::spawn(move || {
                publisher
                    .channel()
                    .unwrap()
                    .basic_publish("", &to, body)
                    .unwrap()
            })
        };
        for limit in [Some(Duration::from_secs(600)), None] {
            let publishing = publish("message");
            connection.process_data_events(limit).unwrap();
            assert_eq!(log.take(), ["message"]);
            publishing.join().unwrap();
        }
        // A timer is an event, too.
        let timer = log.clone();
        connection
            .call_later(Duration::from_millis(20), move || {
                timer.push("timer".to_owned())
            })
            .unwrap();
        connection.process_data_events(None).unwrap();
        assert_eq!(log.take(), ["timer"]);
    });
}

#[test]
fn p08_heartbeats_are_no_events() {
    bounded(|| {
        let peer = Peer::start(|session| {
            session.handshake();
            for _ in 0..20 {
                session.send_heartbeat();
                session.silent_for(Duration::from_millis(10));
            }
            session.serve_until_end();
        });
        let connection = Connection::open(peer.url()).unwrap();
        let start = Instant::now();
        connection
            .process_data_events(Duration::from_millis(300))
            .unwrap();
        assert!(start.elapsed() >= Duration::from_millis(300));
        connection.close().unwrap();
        peer.finish();
    });
}

#[test]
fn p09_process_data_events_waits_until_the_output_is_written() {
    bounded(|| {
        const MESSAGES: usize = 64;
        const SIZE: usize = 256 * 1024;
        let (go, start_reading) = mpsc::channel();
        let peer = Peer::start(move |session| {
            session.handshake();
            session.open_channel(1);
            start_reading.recv().unwrap();
            for _ in 0..MESSAGES {
                let (_, _, body) = session.expect_content(1, m::BASIC_PUBLISH);
                assert_eq!(body.len(), SIZE);
            }
            session.serve_until_end();
        });
        let connection = Connection::open(peer.url()).unwrap();
        let channel = connection.channel().unwrap();
        let written = Arc::new(AtomicBool::new(false));
        let (flag, same) = (Arc::clone(&written), connection.clone());
        let writing = thread::spawn(move || {
            for _ in 0..MESSAGES {
                channel.basic_publish("", "q", vec![0; SIZE]).unwrap();
            }
            same.process_data_events(Duration::ZERO).unwrap();
            flag.store(true, Ordering::SeqCst);
            channel
        });
        // 16 MiB fit into no socket buffer, and no thread reads them: it waits, for as long as that lasts.
        thread::sleep(Duration::from_millis(200));
        assert!(!written.load(Ordering::SeqCst));
        go.send(()).unwrap();
        drop(writing.join().unwrap());
        assert!(written.load(Ordering::SeqCst));
        connection.close().unwrap();
        peer.finish();
    });
}

#[test]
fn p10_process_data_events_reports_the_closure_of_any_channel() {
    bounded(|| {
        let connection = open();
        let _bystander = connection.channel().unwrap();
        let broken = connection.channel().unwrap();
        broken
            .basic_publish(unique("no-such-exchange"), "key", "lost")
            .unwrap();
        let deadline = Instant::now() + SOON;
        let error = loop {
            assert!(Instant::now() < deadline, "the closure was not reported");
            if let Err(error) = connection.process_data_events(Duration::from_millis(100)) {
                break error;
            }
        };
        assert_matches!(error, Error::ChannelClosedByBroker { .. });
        assert_eq!(error.reply_code(), Some(404));
        assert!(broken.is_closed());
        assert!(connection.is_open());
        connection.process_data_events(Duration::ZERO).unwrap();
    });
}

// haypile does better: a closure is reported once, and by later calls on its own channel only.
#[test]
fn p11_a_channels_closure_is_reported_once() {
    bounded(|| {
        let connection = open();
        let bystander = connection.channel().unwrap();
        let queue = exclusive_queue(&bystander);
        let channel = connection.channel().unwrap();
        let missing = unique("missing");
        let error = channel
            .queue_declare(QueueDeclare::new(&missing).passive(true))
            .unwrap_err();
        assert_eq!(error.reply_code(), Some(404));
        connection.process_data_events(Duration::ZERO).unwrap();
        connection.sleep(Duration::from_millis(10)).unwrap();
        bystander.basic_publish("", &queue, "fine").unwrap();
        assert_message_count(&bystander, &queue, 1);
        let error = channel.basic_qos(1).unwrap_err();
        assert!(error.is_channel_error(), "{error:?}");
        assert!(
            error.to_string().contains("404"),
            "it should still name the cause: {error}"
        );
    });
}

// The same where the closure comes while no thread waits on that channel: other channels' calls do not report it.
#[test]
fn p11_a_channels_closure_is_not_reported_by_another_channels_call() {
    bounded(|| {
        let connection = open();
        let bystander = connection.channel().unwrap();
        let broken = connection.channel().unwrap();
        broken
            .basic_publish(unique("no-such-exchange"), "key", "lost")
            .unwrap();
        support::wait_until(SOON, || {
            bystander.basic_qos(1).unwrap();
            broken.is_closed()
        });
        let exchange = ExchangeDeclare::new("amq.direct", ExchangeType::Direct).passive(true);
        bystander.exchange_declare(exchange).unwrap();
        let error = broken.basic_qos(1).unwrap_err();
        assert_matches!(error, Error::ChannelClosedByBroker { .. });
        assert_eq!(error.reply_code(), Some(404));
        connection.process_data_events(Duration::ZERO).unwrap();
    });
}

#[test]
fn p12_sleep_dispatches_at_least_once_and_until_its_time() {
    bounded(|| {
        let (channel, queue) = channel_and_queue();
        let connection = channel.connection();
        let log = Log::new();
        log_bodies(&channel, &queue, &log);
        publish_and_let_come(&channel, &queue, &["message"]);
        connection.sleep(Duration::ZERO).unwrap();
        assert_eq!(log.take(), ["message"]);

        for delay in [10, 20] {
            let timer = log.clone();
            let on_timer = move || timer.push(format!("after {delay}"));
            connection
                .call_later(Duration::from_millis(delay), on_timer)
                .unwrap();
        }
        let start = Instant::now();
        connection.sleep(Duration::from_millis(200)).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(200));
        assert_eq!(log.take(), ["after 10", "after 20"]);
    });
}

/// As in pika, which looks for consumers after each round of timers.
#[test]
fn p12_timers_that_are_always_due_keep_no_consumer_from_its_end() {
    fn again(connection: &Connection) {
        let next = connection.clone();
        // Fails when the connection has ended.
        let _ = connection.call_later(Duration::ZERO, move || again(&next));
    }
    bounded(|| {
        let (channel, queue) = channel_and_queue();
        let connection = channel.connection();
        channel.basic_publish("", &queue, "message").unwrap();
        again(&connection);
        channel
            .basic_consume(&queue, |channel, _, _, _| channel.stop_consuming())
            .unwrap();
        let ended = channel.start_consuming().unwrap();
        assert_eq!(ended, haypile::ConsumingEnded::Cancelled);
        connection.close().unwrap();
    });
}

#[test]
fn p13_an_error_of_a_callback_comes_out_and_the_rest_is_delivered_later() {
    bounded(|| {
        let (channel, queue) = channel_and_queue();
        let connection = channel.connection();
        let log = Log::new();
        let bodies = log.clone();
        let tag = channel
            .basic_consume(
                BasicConsume::new(&queue).auto_ack(true),
                move |_, _, _, body| {
                    bodies.push(String::from_utf8(body.clone()).map_err(Error::other)?);
                    match &body[..] {
                        b"bad" => Err(Error::other("a bad message")),
                        _ => Ok(()),
                    }
                },
            )
            .unwrap();
        publish_and_let_come(&channel, &queue, &["good", "bad", "after"]);
        let error = connection.process_data_events(Duration::ZERO).unwrap_err();
        assert_matches!(error, Error::Other(_));
        assert_eq!(error.to_string(), "a bad message");
        assert_eq!(log.all(), ["good", "bad"]);
        assert!(connection.is_open() && channel.is_open());
        assert_eq!(channel.consumer_tags(), [tag]);
        connection.process_data_events(Duration::ZERO).unwrap();
        assert_eq!(log.take(), ["good", "bad", "after"]);

        // Out of start_consuming, too; and of timers.
        channel
            .basic_publish_with("", &queue, "bad", mandatory())
            .unwrap();
        assert_eq!(
            channel.start_consuming().unwrap_err().to_string(),
            "a bad message"
        );
        connection
            .call_later(Duration::ZERO, || Err(Error::other("a bad timer")))
            .unwrap();
        assert_eq!(
            connection
                .process_data_events(None)
                .unwrap_err()
                .to_string(),
            "a bad timer"
        );
        assert!(connection.is_open() && channel.is_open());
    });
}

// A callback may end in a panic: it unwinds through, and the connection stays usable.
#[test]
fn p13_a_panic_of_a_callback_unwinds_and_leaves_the_connection_usable() {
    bounded(|| {
        let (channel, queue) = channel_and_queue();
        let log = Log::new();
        let bodies = log.clone();
        channel
            .basic_consume(
                BasicConsume::new(&queue).auto_ack(true),
                move |_, _, _, body| {
                    bodies.push(String::from_utf8(body.clone()).unwrap());
                    if body == b"bad" {
                        std::panic::resume_unwind(Box::new("a callback may end this way"));
                    }
                },
            )
            .unwrap();
        publish_and_let_come(&channel, &queue, &["bad", "after"]);
        let same = channel.clone();
        let panic = thread::spawn(move || same.start_consuming())
            .join()
            .unwrap_err();
        assert_eq!(
            *panic.downcast::<&str>().unwrap(),
            "a callback may end this way"
        );
        let connection = channel.connection();
        assert!(connection.is_open() && channel.is_open());
        pump_until(&connection, || log.len() == 2);
        assert_eq!(log.all(), ["bad", "after"]);
        exclusive_queue(&channel);
    });
}

#[test]
fn p14_a_fired_timer_that_was_not_dispatched_can_be_removed() {
    bounded(|| {
        let connection = open();
        let (log, second) = (Log::new(), Log::new());
        let (first_ran, remove, same) = (log.clone(), second.clone(), connection.clone());
        let on_first = move || {
            for timer in remove.take() {
                same.remove_timeout(timer);
            }
            first_ran.push("first");
        };
        connection
            .call_later(Duration::from_millis(1), on_first)
            .unwrap();
        let never = log.clone();
        second.push(
            connection
                .call_later(Duration::from_millis(2), move || never.push("second"))
                .unwrap(),
        );
        // Both are due when the next call looks.
        thread::sleep(Duration::from_millis(10));
        connection.process_data_events(Duration::ZERO).unwrap();
        connection
            .process_data_events(Duration::from_millis(20))
            .unwrap();
        assert_eq!(log.all(), ["first"]);
    });
}

#[test]
fn a_close_that_is_refused_for_its_text_leaves_timers_and_consumers() {
    bounded(|| {
        let channel = channel();
        let queue = exclusive_queue(&channel);
        let connection = channel.connection();
        let log = Log::new();
        log_bodies(&channel, &queue, &log);
        let timer = log.clone();
        connection
            .call_later(Duration::ZERO, move || timer.push("timer".to_owned()))
            .unwrap();
        let refused = connection.close_with(200, &"x".repeat(256)).unwrap_err();
        assert!(matches!(refused, Error::ShortStringTooLong { .. }));
        channel.basic_publish("", &queue, "message").unwrap();
        pump_until(&connection, || log.len() == 2);
        assert_eq!(log.all(), ["timer", "message"]);
    });
}
