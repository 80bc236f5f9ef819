//! The right to read, between threads that run callbacks and threads that wait for replies.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::broker::{connect, delivery, pick, Behavior, Broker, End};
use super::calls::{declare, declare_ok, Sent, Thing, AT_REST};
use super::check;
use super::sync::thread::spawn;
use super::sync::{is_exact, sleep, Instant};
use crate::io::reader::SLICE;
use crate::protocol::connection::HELD_BOUND;
use crate::{BasicConsume, CallbackResult, Channel, ConsumingEnded, Error, QueueDeclare};

const CONSUMER: &str = "consumer";

const REST: Duration = Duration::from_millis(1);

fn consume<R: CallbackResult>(
    channel: &Channel,
    mut callback: impl FnMut(u64) -> R + Send + 'static,
) {
    let request = BasicConsume::new("queue").consumer_tag(CONSUMER);
    let consume = channel.basic_consume(request, move |_, deliver, _, _| {
        callback(deliver.delivery_tag)
    });
    consume.unwrap();
}

/// Sends the messages of channel 1 and the reply on channel 2 in one order or the other, with pauses.
fn send_both(broker: &Broker, sent: &Sent, messages: u64, pauses: &[Duration]) {
    let answer_at = pick(&[0, 1, messages]);
    for tag in 0..=messages {
        if tag == answer_at {
            sleep(pick(pauses));
            sent.note(Thing::Reply(2));
            declare_ok(broker, 2);
        }
        if tag < messages {
            sleep(pick(pauses));
            sent.note(Thing::Message(tag + 1));
            broker.send_bytes(&delivery(1, CONSUMER, tag + 1));
        }
    }
}

/// A thread inside `start_consuming` gets each message, and another one its reply, both at once, while either may read for
/// both. A callback that takes its time holds up no other thread.
#[test]
fn a_consumer_and_a_caller_are_woken_at_once() {
    check(|| {
        let (connection, broker) = connect(Behavior::PROMPT);
        let sent = Sent::default();
        let playing = {
            let (broker, sent) = (broker.clone(), sent.clone());
            let pauses = [Duration::ZERO, Duration::from_millis(25)];
            spawn(move || broker.play(|broker, _, _| send_both(broker, &sent, 2, &pauses)))
        };
        let consumed = connection.channel().unwrap();
        let channel = connection.channel().unwrap();
        let delivered = Arc::new(AtomicU64::new(0));
        let busy = pick(&[Duration::ZERO, Duration::from_millis(60)]);
        let callback = {
            let (delivered, sent) = (Arc::clone(&delivered), sent.clone());
            move |tag| {
                if busy.is_zero() {
                    sent.assert_just_now(Thing::Message(tag));
                }
                sleep(busy);
                assert_eq!(delivered.fetch_add(1, Ordering::Relaxed) + 1, tag);
            }
        };
        consume(&consumed, callback);
        sleep(AT_REST);
        let consumer = spawn(move || consumed.start_consuming());
        declare(&channel);
        sent.assert_just_now(Thing::Reply(2));
        while delivered.load(Ordering::Relaxed) < 2 {
            sleep(Duration::from_millis(10));
        }
        drop(channel);
        connection.close().unwrap();
        assert_eq!(consumer.join().unwrap().unwrap(), ConsumingEnded::Closed);
        playing.join().unwrap();
    });
}

/// The same with a thread that calls `process_data_events` again and again, with a pause after each time: it gets messages soon, even if
/// it never stays long enough to read.
#[test]
fn looking_again_and_again_delivers_everything() {
    check(|| {
        let at_rest = pick(&[true, false]);
        let read_most = if at_rest { usize::MAX } else { 200 };
        let (connection, broker) = connect(Behavior {
            read_most,
            ..Behavior::PROMPT
        });
        let sent = Sent::default();
        let playing = {
            let (broker, sent) = (broker.clone(), sent.clone());
            let pauses = [Duration::ZERO, Duration::from_millis(3)];
            spawn(move || broker.play(|broker, _, _| send_both(broker, &sent, 6, &pauses)))
        };
        let consumed = connection.channel().unwrap();
        let channel = connection.channel().unwrap();
        let delivered = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&delivered);
        consume(&consumed, move |tag| {
            assert_eq!(count.fetch_add(1, Ordering::Relaxed) + 1, tag);
            if at_rest {
                sent.assert_came_within(Thing::Message(tag), 4 * REST);
            }
        });
        if at_rest {
            sleep(AT_REST);
        }
        let looking = {
            let (connection, delivered) = (connection.clone(), Arc::clone(&delivered));
            let limit = pick(&[Duration::ZERO, REST, Duration::from_millis(50)]);
            spawn(move || {
                while delivered.load(Ordering::Relaxed) < 6 {
                    connection.process_data_events(limit).unwrap();
                    sleep(REST);
                }
            })
        };
        declare(&channel);
        looking.join().unwrap();
        drop((channel, consumed));
        connection.close().unwrap();
        playing.join().unwrap();
    });
}

/// So many messages that nothing more is read until the program takes some: each counts as more than 192 bytes.
const TOO_MANY: u64 = 2 * (HELD_BOUND as u64 / 192);

/// When too much waits for the program, reading pauses, and goes on when the program has taken some of it; a thread that waits
/// for a reply gets it all the same, at once.
#[test]
fn reading_pauses_and_goes_on() {
    check(|| {
        let (connection, broker) = connect(Behavior {
            read_most: 400,
            ..Behavior::PROMPT
        });
        let sent = Sent::default();
        let playing = {
            let (broker, sent) = (broker.clone(), sent.clone());
            let mut asked = 0;
            spawn(move || {
                broker.play(|broker, channel, _| {
                    asked += 1;
                    if asked == 1 {
                        declare_ok(broker, channel);
                        for tag in 1..=TOO_MANY {
                            broker.send_bytes(&delivery(1, CONSUMER, tag));
                        }
                    } else {
                        sent.note(Thing::Reply(channel));
                        declare_ok(broker, channel);
                    }
                });
            })
        };
        let consumed = connection.channel().unwrap();
        let channel = connection.channel().unwrap();
        let delivered = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&delivered);
        let long = Duration::from_millis(800);
        let unread = Arc::new(Mutex::new(Vec::new()));
        let look = Arc::clone(&unread);
        let observed = broker.clone();
        consume(&consumed, move |tag| {
            assert_eq!(count.fetch_add(1, Ordering::Relaxed) + 1, tag);
            if [1, TOO_MANY - 2].contains(&tag) {
                sleep(long);
                let unread = observed.unread();
                look.lock().unwrap().push(unread);
            }
        });
        let consumer = spawn(move || consumed.start_consuming());
        sleep(AT_REST);
        declare(&channel);
        sleep(pick(&[long / 2, 4 * long]));
        let paused = unread.lock().unwrap().is_empty();
        declare(&channel);
        sent.assert_just_now(Thing::Reply(2));
        while delivered.load(Ordering::Relaxed) < TOO_MANY {
            sleep(Duration::from_millis(10));
        }
        if is_exact() {
            let unread = unread.lock().unwrap();
            // The call made reading go on, if it came while the first callback was at work.
            assert_eq!(unread[0] > 0, !paused, "{unread:?}");
            assert_eq!(unread[1], 0, "{unread:?}");
        }
        drop(channel);
        connection.close().unwrap();
        assert_eq!(consumer.join().unwrap().unwrap(), ConsumingEnded::Closed);
        playing.join().unwrap();
    });
}

/// While reading pauses, the reader thread sleeps for as long as it takes. It ends all the same when another thread finds that the
/// stream is lost, and it finds out itself when no other thread reads; neither waits for the callback that is at work.
#[test]
fn a_pause_ends_with_the_connection() {
    check(|| {
        let (connection, broker) = connect(Behavior {
            read_most: 400,
            ..Behavior::PROMPT
        });
        let caller_reads = pick(&[true, false]);
        let playing = {
            let broker = broker.clone();
            let mut asked = 0;
            spawn(move || {
                broker.play(|broker, channel, _| {
                    asked += 1;
                    if asked == 1 {
                        declare_ok(broker, channel);
                        for tag in 1..=TOO_MANY {
                            broker.send_bytes(&delivery(1, CONSUMER, tag));
                        }
                    } else {
                        broker.send_nothing_more(End::Reset);
                    }
                });
            })
        };
        let consumed = connection.channel().unwrap();
        let channel = connection.channel().unwrap();
        let busy = Duration::from_secs(2);
        consume(&consumed, move |tag| {
            if tag == 1 {
                sleep(busy);
            }
        });
        let consumer = spawn(move || consumed.start_consuming());
        declare(&channel);
        sleep(pick(&[Duration::ZERO, busy / 4]));
        if caller_reads {
            let delivered = channel.queue_declare(QueueDeclare::new("queue"));
            delivered.unwrap_err();
        } else {
            broker.take_nothing_more();
            while channel.basic_publish("", "queue", "x").is_ok() {
                sleep(REST);
            }
        }
        // What came before the loss is read first, a little at a time, since the program is expected to look soon.
        sleep(busy / 2);
        if is_exact() {
            assert!(connection.is_closed());
            let threads = Arc::strong_count(connection.link()) - 1;
            assert_eq!(threads, 0);
        }
        consumer.join().unwrap().unwrap_err();
        playing.join().unwrap();
    });
}

/// When a callback fails, what comes behind it is delivered to another thread that waited meanwhile.
#[test]
fn what_a_failed_callback_leaves_is_delivered_to_others() {
    check(|| {
        let (connection, broker) = connect(Behavior::PROMPT);
        let playing = {
            let broker = broker.clone();
            spawn(move || broker.play(|_, _, _| {}))
        };
        let consumed = connection.channel().unwrap();
        let delivered = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&delivered);
        consume(&consumed, move |tag| {
            sleep(pick(&[Duration::ZERO, Duration::from_millis(60)]));
            count.fetch_add(1, Ordering::Relaxed);
            let failed = || Error::invalid("message", "it", "another");
            (tag > 1).then_some(()).ok_or_else(failed)
        });
        let threads = [(); 2].map(|()| {
            let (connection, delivered) = (connection.clone(), Arc::clone(&delivered));
            spawn(move || {
                while delivered.load(Ordering::Relaxed) < 2
                    && connection.process_data_events(None).is_ok()
                {}
            })
        });
        sleep(pick(&[Duration::ZERO, AT_REST]));
        let messages = [delivery(1, CONSUMER, 1), delivery(1, CONSUMER, 2)];
        broker.send_bytes(&messages.concat());
        while delivered.load(Ordering::Relaxed) < 2 {
            sleep(Duration::from_millis(10));
        }
        drop(consumed);
        connection.close().unwrap();
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        playing.join().unwrap();
    });
}

/// A thread that waits to run callbacks runs one at once that another thread hands it, or as soon as it does not read any more.
#[test]
fn a_callback_from_another_thread_is_run_at_once() {
    check(|| {
        let (connection, broker) = connect(Behavior::PROMPT);
        let playing = {
            let broker = broker.clone();
            spawn(move || broker.play(|_, _, _| {}))
        };
        let ran = Arc::new(Mutex::new(None));
        let waiting = {
            let (connection, ran) = (connection.clone(), Arc::clone(&ran));
            spawn(move || {
                while ran.lock().unwrap().is_none() {
                    connection.process_data_events(None).unwrap();
                }
            })
        };
        let before = pick(&[Duration::ZERO, Duration::from_millis(5), AT_REST]);
        sleep(before);
        let handed = Instant::now();
        let run = Arc::clone(&ran);
        let callback = move || *run.lock().unwrap() = Some(Instant::now());
        connection.add_callback_threadsafe(callback).unwrap();
        waiting.join().unwrap();
        let ran = ran.lock().unwrap().unwrap();
        // For the first while it reads, and nothing but the time ends a read.
        let limit = if before == AT_REST {
            Duration::ZERO
        } else {
            SLICE
        };
        assert!(!is_exact() || ran - handed <= limit);
        connection.close().unwrap();
        playing.join().unwrap();
    });
}
