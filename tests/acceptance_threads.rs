//! Any handle from any thread.

mod support;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{mpsc, Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use haypile::{
    BasicPublish, Channel, Connection, ConsumingEnded, Error, ExchangeDeclare, ExchangeType,
    QueueDeclare, Result,
};
use support::peer::{m, Args, Peer};
use support::{
    assert_message_count, bounded, channel, exclusive_queue, let_others_wait, open, unique, Log,
    SOON,
};

fn mandatory() -> BasicPublish<'static> {
    BasicPublish::new().mandatory(true)
}

#[test]
fn four_threads_consume_while_a_fifth_declares_and_publishes() {
    const MESSAGES: usize = 500;
    bounded(|| {
        let connection = open();
        let (ready, queues) = mpsc::channel();
        let received: Vec<Log<String>> = (0..4).map(|_| Log::new()).collect();
        thread::scope(|scope| {
            for (n, log) in received.iter().enumerate() {
                let (connection, ready) = (connection.clone(), ready.clone());
                scope.spawn(move || {
                    let channel = connection.channel().unwrap();
                    channel.basic_qos(50).unwrap();
                    let queue = exclusive_queue(&channel);
                    let (log, here) = (log.clone(), thread::current().id());
                    channel
                        .basic_consume(&queue, move |channel, method, _, body| {
                            // User code runs on the thread that consumes, and nowhere else.
                            assert_eq!(thread::current().id(), here);
                            channel.basic_ack(method.delivery_tag)?;
                            log.push(String::from_utf8(body).map_err(Error::other)?);
                            if log.len() == MESSAGES {
                                channel.stop_consuming()?;
                            }
                            Ok(())
                        })
                        .unwrap();
                    ready.send((n, queue)).unwrap();
                    assert_eq!(
                        channel.start_consuming().unwrap(),
                        ConsumingEnded::Cancelled
                    );
                });
            }
            let publisher = connection.channel().unwrap();
            let queues: Vec<(usize, String)> = queues.iter().take(4).collect();
            for message in 0..MESSAGES {
                for (n, queue) in &queues {
                    publisher
                        .basic_publish("", queue, format!("{n}: {message}"))
                        .unwrap();
                }
                if message % 50 == 0 {
                    let queue = exclusive_queue(&publisher);
                    publisher.queue_bind(&queue, "amq.direct", &queue).unwrap();
                    publisher.queue_delete(&queue).unwrap();
                }
            }
        });
        for (n, log) in received.iter().enumerate() {
            let expected: Vec<String> = (0..MESSAGES)
                .map(|message| format!("{n}: {message}"))
                .collect();
            assert!(
                log.all() == expected,
                "consumer {n} got other messages, or in another order"
            );
        }
        assert!(connection.is_open());
    });
}

#[test]
fn eight_threads_publish_with_confirms_on_one_channel_and_each_gets_its_own_outcome() {
    const EACH: usize = 100;
    bounded(|| {
        let channel = channel();
        channel.confirm_delivery().unwrap();
        let queue = exclusive_queue(&channel);
        let full = unique("full");
        let refusing = QueueDeclare::new(&full)
            .exclusive(true)
            .argument("x-max-length", 0)
            .argument("x-overflow", "reject-publish");
        channel.queue_declare(refusing).unwrap();
        let nowhere = unique("nowhere");
        thread::scope(|scope| {
            for thread in 0..8 {
                let (channel, queue, full, nowhere) = (&channel, &queue, &full, &nowhere);
                scope.spawn(move || {
                    for n in 0..EACH {
                        let body = format!("{thread}: {n}");
                        match n % 4 {
                            0 | 1 => channel
                                .basic_publish_with("", queue, &body, mandatory())
                                .unwrap(),
                            2 => {
                                let error = channel
                                    .basic_publish_with("", nowhere, &body, mandatory())
                                    .unwrap_err();
                                let Error::Unroutable(returned) = error else {
                                    panic!("{error:?}");
                                };
                                assert_eq!(returned.len(), 1);
                                assert_eq!(returned[0].body, body.as_bytes());
                            }
                            _ => {
                                let error = channel.basic_publish("", full, &body).unwrap_err();
                                assert!(
                                    matches!(&error, Error::Nack(none) if none.is_empty()),
                                    "{error:?}"
                                );
                            }
                        }
                    }
                });
            }
        });
        assert_message_count(&channel, &queue, 8 * EACH as u32 / 2);
    });
}

#[test]
fn acks_come_from_another_thread_than_the_callbacks() {
    const MESSAGES: usize = 200;
    bounded(|| {
        let channel = channel();
        let queue = exclusive_queue(&channel);
        // Without the acknowledgements, no more than these would come.
        channel.basic_qos(5).unwrap();
        let (jobs, todo) = mpsc::channel();
        channel
            .basic_consume(&queue, move |_, method, _, _| {
                jobs.send(method.delivery_tag).unwrap()
            })
            .unwrap();
        let worker = channel.clone();
        let working = thread::spawn(move || {
            for tag in todo.iter().take(MESSAGES) {
                worker.basic_ack(tag).unwrap();
            }
            worker.stop_consuming().unwrap();
        });
        for _ in 0..MESSAGES {
            channel.basic_publish("", &queue, "job").unwrap();
        }
        assert_eq!(
            channel.start_consuming().unwrap(),
            ConsumingEnded::Cancelled
        );
        working.join().unwrap();
        channel.close().unwrap();
        assert_message_count(&channel.connection().channel().unwrap(), &queue, 0);
    });
}

#[test]
fn another_thread_cancels_the_iterator() {
    bounded(|| {
        let channel = channel();
        let queue = exclusive_queue(&channel);
        channel.basic_publish("", &queue, "first").unwrap();
        let mut messages = channel.consume(&queue).unwrap();
        assert!(messages.next().unwrap().is_ok());
        let same = channel.clone();
        let cancelling = thread::spawn(move || same.cancel().unwrap());
        assert!(messages.next().is_none());
        assert!(messages.is_cancelled());
        cancelling.join().unwrap();
        assert!(channel.is_open());
    });
}

/// How one waiting thread was woken.
type Woken = (&'static str, Result<String>);

/// Has threads wait in every way there is, runs `close` once they all do, and returns how each was woken.
fn wake_everyone(close: fn(&Connection)) -> Vec<Woken> {
    let peer = Peer::start(|session| {
        session.handshake();
        while let Some(frame) = session.frame_or_end() {
            match frame.method() {
                Some(m::CHANNEL_OPEN) => {
                    session.send_method(
                        frame.channel,
                        m::CHANNEL_OPEN_OK,
                        Args::new().longstr(b""),
                    );
                }
                Some(m::BASIC_CONSUME) => {
                    let mut arguments = frame.arguments();
                    let (_, _, tag) = (
                        arguments.short(),
                        arguments.shortstr(),
                        arguments.shortstr(),
                    );
                    session.send_method(
                        frame.channel,
                        m::BASIC_CONSUME_OK,
                        Args::new().shortstr(&tag),
                    );
                }
                Some(m::CONFIRM_SELECT) => {
                    session.send_method(frame.channel, m::CONFIRM_SELECT_OK, Args::new())
                }
                Some(m::BASIC_CANCEL) => {
                    let tag = frame.arguments().shortstr();
                    session.send_method(
                        frame.channel,
                        m::BASIC_CANCEL_OK,
                        Args::new().shortstr(&tag),
                    );
                }
                Some(m::CHANNEL_CLOSE) => {
                    session.send_method(frame.channel, m::CHANNEL_CLOSE_OK, Args::new())
                }
                Some(m::CONNECTION_CLOSE) => {
                    session.send_method(0, m::CONNECTION_CLOSE_OK, Args::new());
                    session.expect_end();
                    return;
                }
                // The trigger of a closure by the broker.
                Some(m::CONNECTION_UPDATE_SECRET) => {
                    session.send_connection_close(320, "CONNECTION_FORCED - shutdown", (0, 0));
                    session.wait_for(0, m::CONNECTION_CLOSE_OK);
                    return;
                }
                // queue.declare and basic.publish wait in vain.
                _ => {}
            }
        }
    });
    let connection = Connection::open(peer.url()).unwrap();
    let woken = Log::new();
    type Wait = fn(&Connection, &Channel) -> Result<String>;
    let waits: [(&str, Wait); 6] = [
        ("start_consuming", |_, channel| {
            channel.basic_consume("q", |_, _, _, _| {})?;
            channel.start_consuming().map(|ended| format!("{ended:?}"))
        }),
        ("iterator", |_, channel| {
            match channel.consume("q")?.next() {
                None => Ok("the end".to_owned()),
                Some(message) => message.map(|_| "a message".to_owned()),
            }
        }),
        ("process_data_events", |connection, _| {
            connection
                .process_data_events(None)
                .map(|()| "events".to_owned())
        }),
        ("sleep", |connection, _| {
            connection
                .sleep(Duration::from_secs(600))
                .map(|()| "slept".to_owned())
        }),
        ("queue_declare", |_, channel| {
            channel.queue_declare("q").map(|_| "declared".to_owned())
        }),
        ("basic_publish", |_, channel| {
            channel.confirm_delivery()?;
            channel
                .basic_publish("", "q", "body")
                .map(|()| "published".to_owned())
        }),
    ];
    let all_ready = Arc::new(Barrier::new(waits.len() + 1));
    let threads = waits.map(|(name, wait)| {
        let (connection, woken, all_ready) =
            (connection.clone(), woken.clone(), Arc::clone(&all_ready));
        thread::spawn(move || {
            let channel = connection.channel().unwrap();
            all_ready.wait();
            woken.push((name, wait(&connection, &channel)));
        })
    });
    all_ready.wait();
    let_others_wait();
    let closer = connection.clone();
    thread::spawn(move || close(&closer)).join().unwrap();
    for thread in threads {
        thread.join().unwrap();
    }
    drop(connection);
    peer.finish();
    woken.take()
}

#[test]
fn closing_the_connection_from_any_thread_wakes_everyone() {
    bounded(|| {
        for (name, woken) in
            wake_everyone(|connection| connection.close_with(200, "that was all").unwrap())
        {
            match (name, woken) {
                ("start_consuming", Ok(ended)) => assert_eq!(ended, "Closed"),
                ("iterator", Ok(end)) => assert_eq!(end, "the end"),
                (_, Err(error)) => {
                    assert!(error.is_connection_error(), "{name}: {error:?}");
                    let is_due = matches!(
                        error,
                        Error::ConnectionClosedByClient { .. } | Error::ConnectionWrongState { .. }
                    );
                    assert!(is_due, "{name}: {error:?}");
                    assert!(
                        error.to_string().contains("that was all"),
                        "{name}: {error}"
                    );
                }
                (_, Ok(other)) => panic!("{name}: {other}"),
            }
        }
    });
}

#[test]
fn the_broker_closing_the_connection_wakes_everyone() {
    bounded(|| {
        for (name, woken) in wake_everyone(|connection| {
            let error = connection
                .update_secret("secret", "the broker's cue")
                .unwrap_err();
            assert_eq!(error.reply_code(), Some(320), "{error:?}");
        }) {
            let error = match woken {
                Err(error) => error,
                Ok(other) => panic!("{name}: {other}"),
            };
            assert!(
                matches!(error, Error::ConnectionClosedByBroker { .. }),
                "{name}: {error:?}"
            );
            assert_eq!(error.reply_code(), Some(320));
        }
    });
}

#[test]
fn closing_a_channel_from_another_thread_wakes_those_who_wait_on_it() {
    bounded(|| {
        let connection = open();
        let channel = connection.channel().unwrap();
        let queue = exclusive_queue(&channel);
        let came = Log::new();
        let log = came.clone();
        channel
            .basic_consume(&queue, move |_, _, _, _| log.push(()))
            .unwrap();
        let (same, other) = (channel.clone(), connection.channel().unwrap());
        let consuming = thread::spawn(move || same.start_consuming());
        // A message shows that it consumes.
        other.basic_publish("", &queue, "body").unwrap();
        support::wait_until(SOON, || !came.is_empty());
        channel.close().unwrap();
        assert_eq!(consuming.join().unwrap().unwrap(), ConsumingEnded::Closed);
        assert!(other.is_open() && connection.is_open());
        assert_message_count(&other, &queue, 1);
    });
}

#[test]
fn a_channel_number_can_be_used_again_at_once() {
    bounded(|| {
        let connection = open();
        for _ in 0..100 {
            let channel = connection.channel().unwrap();
            assert_eq!(channel.channel_number(), 1);
            channel.close().unwrap();
            // After a closure by the broker, too.
            let channel = connection.channel().unwrap();
            assert_eq!(channel.channel_number(), 1);
            let passive =
                ExchangeDeclare::new("no-such-exchange", ExchangeType::Direct).passive(true);
            assert_eq!(
                channel.exchange_declare(passive).unwrap_err().reply_code(),
                Some(404)
            );
        }
    });
}

/// Closes a channel that the broker may be about to close, or has closed.
#[track_caller]
fn close_anyhow(channel: &Channel) {
    if let Err(error) = channel.close() {
        let closed = matches!(
            error,
            Error::ChannelClosedByBroker { .. } | Error::ChannelWrongState { .. }
        );
        assert!(closed, "{error:?}");
    }
    assert!(channel.is_closed());
}

#[test]
fn many_threads_use_the_same_few_channel_numbers() {
    bounded(|| {
        let connection = open();
        let numbers = Log::new();
        thread::scope(|scope| {
            for thread in 0..6 {
                let (connection, numbers) = (&connection, numbers.clone());
                scope.spawn(move || {
                    for n in 0..40 {
                        let channel = connection.channel().unwrap();
                        numbers.push(channel.channel_number());
                        match (thread + n) % 4 {
                            0 => channel.close().unwrap(),
                            1 => drop(channel),
                            2 => {
                                // The broker's close crosses what is still being published, and perhaps this close.
                                let exchange = "no-such-exchange";
                                // Bounded: the broker must read all of it before it sees anything else.
                                for _ in 0..1000 {
                                    if channel.basic_publish(exchange, "key", [0; 100]).is_err() {
                                        break;
                                    }
                                }
                                close_anyhow(&channel);
                            }
                            _ => {
                                channel
                                    .basic_publish("no-such-exchange", "key", "body")
                                    .unwrap();
                                close_anyhow(&channel);
                            }
                        }
                    }
                });
            }
        });
        assert!(connection.is_open());
        let used: HashSet<u16> = numbers.take().into_iter().collect();
        assert!(used.len() <= 12, "{used:?}");
        exclusive_queue(&connection.channel().unwrap());
    });
}

#[test]
fn a_close_that_crosses_the_brokers_own() {
    const ROUNDS: usize = 30;
    bounded(|| {
        let peer = Peer::start(|session| {
            session.handshake();
            let text = "PRECONDITION_FAILED - unknown delivery tag 1";
            for round in 0..ROUNDS {
                session.open_channel(1);
                session.expect(1, m::CHANNEL_CLOSE);
                // As if it had been sent before the client's arrived.
                session.send_channel_close(1, 406, text, m::BASIC_ACK);
                // RabbitMQ replies to the client's own close, or does not, or its reply comes late.
                if round % 3 == 0 {
                    session.send_method(1, m::CHANNEL_CLOSE_OK, Args::new());
                }
                // The broker gives the number free when its close has its reply; an open before is a violation.
                session.expect(1, m::CHANNEL_CLOSE_OK);
                if round % 3 == 1 {
                    session.send_method(1, m::CHANNEL_CLOSE_OK, Args::new());
                }
            }
            session.open_channel(1);
            session.expect(1, m::BASIC_QOS);
            session.send_method(1, m::BASIC_QOS_OK, Args::new());
            session.serve_until_end();
        });
        let connection = Connection::open(peer.url()).unwrap();
        let start = Instant::now();
        for _ in 0..ROUNDS {
            let channel = connection.channel().unwrap();
            assert_eq!(channel.channel_number(), 1);
            close_anyhow(&channel);
        }
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "{:?}",
            start.elapsed()
        );
        connection.channel().unwrap().basic_qos(1).unwrap();
        connection.close().unwrap();
        peer.finish();
    });
}

#[test]
fn nothing_follows_the_reply_to_the_brokers_close() {
    bounded(|| {
        let peer = Peer::start(|session| {
            session.handshake();
            for _ in 0..20 {
                session.open_channel(1);
                session.wait_for(1, m::BASIC_PUBLISH);
                session.send_channel_close(1, 404, "NOT_FOUND - no exchange", m::BASIC_PUBLISH);
                session.wait_for(1, m::CHANNEL_CLOSE_OK);
                // `open_channel` fails if anything else comes next.
            }
            session.open_channel(1);
            session.serve_until_end();
        });
        let connection = Connection::open(peer.url()).unwrap();
        for _ in 0..20 {
            let channel = connection.channel().unwrap();
            assert_eq!(channel.channel_number(), 1);
            let (stopped, published) = (AtomicBool::new(false), AtomicUsize::new(0));
            thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        while !stopped.load(Ordering::Relaxed) {
                            match channel.basic_publish("x", "key", "body") {
                                Ok(()) => published.fetch_add(1, Ordering::Relaxed),
                                Err(error) => {
                                    assert!(error.is_channel_error(), "{error:?}");
                                    break;
                                }
                            };
                        }
                    });
                }
                support::wait_until(SOON, || channel.is_closed());
                stopped.store(true, Ordering::Relaxed);
            });
            assert!(published.load(Ordering::Relaxed) > 0);
        }
        let _channel = connection.channel().unwrap();
        connection.close().unwrap();
        peer.finish();
    });
}

/// The end of a thread asks the broker whether it has handled what was published. On a channel that commits, RabbitMQ takes
/// nothing and closes the connection.
#[test]
fn a_thread_that_ends_does_not_disturb_a_commit() {
    bounded(|| {
        let channel = channel();
        let queue = exclusive_queue(&channel);
        channel.tx_select().unwrap();
        let committed = Arc::new(AtomicBool::new(false));
        let done = Arc::clone(&committed);
        let other = channel.connection().channel().unwrap();
        let ending = thread::spawn(move || {
            while !done.load(Ordering::SeqCst) {
                let publisher = other.clone();
                let publish = move || publisher.basic_publish("", "no such queue", "body");
                thread::spawn(publish).join().unwrap().unwrap();
            }
        });
        for _ in 0..200 {
            channel.basic_publish("", &queue, "body").unwrap();
            channel.tx_commit().unwrap();
        }
        committed.store(true, Ordering::SeqCst);
        ending.join().unwrap();
        assert_message_count(&channel, &queue, 200);
    });
}

/// RabbitMQ's queues send what confirms a consumer or its end, so the replies to other calls may come before.
#[test]
fn consumers_come_and_go_beside_any_other_call() {
    const ROUNDS: usize = 150;
    bounded(|| {
        let others: [fn(&Channel, &str) -> Result<()>; 5] = [
            |channel, queue| {
                let passive = QueueDeclare::new(queue).passive(true);
                channel.queue_declare(passive).map(drop)
            },
            |channel, queue| channel.basic_get(queue).map(drop),
            |channel, _| channel.basic_qos(10),
            |channel, queue| channel.queue_purge(queue).map(drop),
            |channel, queue| {
                let tag = channel.basic_consume(queue, |_, _, _, _| ())?;
                channel.basic_cancel(&tag).map(drop)
            },
        ];
        for other in others {
            let channel = channel();
            let queues = [exclusive_queue(&channel), exclusive_queue(&channel)];
            thread::scope(|scope| {
                scope.spawn(|| {
                    for _ in 0..ROUNDS {
                        other(&channel, &queues[0]).unwrap();
                    }
                });
                for _ in 0..ROUNDS {
                    let tag = channel.basic_consume(&queues[1], |_, _, _, _| ()).unwrap();
                    channel.basic_cancel(&tag).unwrap();
                }
            });
            assert!(channel.consumer_tags().is_empty());
            channel.connection().close().unwrap();
        }
    });
}

/// RabbitMQ would close the connection over a cancel that comes before the consumer's confirmation, or never confirm it.
#[test]
fn a_consumer_is_cancelled_while_another_thread_registers_it() {
    const ROUNDS: usize = 100;
    bounded(|| {
        let cancel_all: [fn(&Channel) -> Result<()>; 3] = [
            Channel::stop_consuming,
            |channel| channel.cancel().map(drop),
            |channel| {
                let mut tags = channel.consumer_tags().into_iter();
                tags.try_for_each(|tag| channel.basic_cancel(&tag).map(drop))
            },
        ];
        for cancel_all in cancel_all {
            let channel = channel();
            let queue = exclusive_queue(&channel);
            let is_over = AtomicBool::new(false);
            thread::scope(|scope| {
                scope.spawn(|| {
                    while !is_over.load(Ordering::SeqCst) {
                        cancel_all(&channel).unwrap();
                    }
                });
                for _ in 0..ROUNDS {
                    channel.basic_consume(&queue, |_, _, _, _| ()).unwrap();
                    drop(channel.consume(&queue).unwrap());
                }
                is_over.store(true, Ordering::SeqCst);
            });
            channel.stop_consuming().unwrap();
            assert!(channel.consumer_tags().is_empty());
            // The broker has no consumer left either.
            let again = channel.queue_declare(QueueDeclare::new(&queue).passive(true));
            assert_eq!(again.unwrap().consumer_count, 0);
            channel.connection().close().unwrap();
        }
    });
}
