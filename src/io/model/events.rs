//! The right to read, between threads that run callbacks and threads that wait for answers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::broker::{connect, delivery, pick, Broker, Mood};
use super::calls::{declare, declare_ok, Sent, SETTLED};
use super::check;
use super::sync::sleep;
use super::sync::thread::spawn;
use crate::io::reader::UNDELIVERED_BOUND;
use crate::{BasicConsume, Channel, ConsumingEnded};

const CONSUMER: &str = "consumer";

fn consume(channel: &Channel, mut callback: impl FnMut(u64) + Send + 'static) {
    let request = BasicConsume::new("queue").consumer_tag(CONSUMER);
    let consume = channel.basic_consume(request, move |_, deliver, _, _| {
        callback(deliver.delivery_tag);
    });
    consume.unwrap();
}

/// Sends the messages of channel 1 and the answer on channel 2 in one order or the other, with pauses.
fn send_both(broker: &Broker, sent: &Sent, messages: u64, pauses: &[Duration]) {
    let answer_at = pick(&[0, 1, messages]);
    for tag in 0..=messages {
        if tag == answer_at {
            sleep(pick(pauses));
            sent.note(2);
            declare_ok(broker, 2);
        }
        if tag < messages {
            sleep(pick(pauses));
            sent.note(1);
            broker.send_bytes(&delivery(1, CONSUMER, tag + 1));
        }
    }
}

/// A thread inside `start_consuming` is told each message, and another one gets its answer, both at once, while either may
/// read for both. A callback that takes its time holds up nobody else.
#[test]
fn a_consumer_and_a_caller_are_told_at_once() {
    check(|| {
        let (connection, broker) = connect(Mood::GOOD);
        let sent = Sent::default();
        let playing = {
            let (broker, sent) = (broker.clone(), sent.clone());
            let pauses = [Duration::ZERO, Duration::from_millis(25)];
            spawn(move || broker.play(|broker, _, _| send_both(broker, &sent, 2, &pauses)))
        };
        let consumed = connection.channel().unwrap();
        let channel = connection.channel().unwrap();
        let told = Arc::new(AtomicU64::new(0));
        let busy = pick(&[Duration::ZERO, Duration::from_millis(60)]);
        let callback = {
            let (told, sent) = (Arc::clone(&told), sent.clone());
            move |tag| {
                if busy.is_zero() {
                    sent.assert_just_now(1);
                }
                sleep(busy);
                assert_eq!(told.fetch_add(1, Ordering::Relaxed) + 1, tag);
            }
        };
        consume(&consumed, callback);
        sleep(SETTLED);
        let consumer = spawn(move || consumed.start_consuming());
        declare(&channel);
        sent.assert_just_now(2);
        while told.load(Ordering::Relaxed) < 2 {
            sleep(Duration::from_millis(10));
        }
        drop(channel);
        connection.close().unwrap();
        assert_eq!(consumer.join().unwrap().unwrap(), ConsumingEnded::Closed);
        playing.join().unwrap();
    });
}

/// The same with a thread that calls `process_data_events` again and again.
#[test]
fn whoever_looks_again_and_again_is_told_everything() {
    check(|| {
        let (connection, broker) = connect(Mood {
            sip: pick(&[200, usize::MAX]),
            ..Mood::GOOD
        });
        let sent = Sent::default();
        let playing = {
            let (broker, sent) = (broker.clone(), sent.clone());
            let pauses = [Duration::ZERO, Duration::from_millis(3)];
            spawn(move || broker.play(|broker, _, _| send_both(broker, &sent, 6, &pauses)))
        };
        let consumed = connection.channel().unwrap();
        let channel = connection.channel().unwrap();
        let told = Arc::new(AtomicU64::new(0));
        let tell = Arc::clone(&told);
        consume(&consumed, move |tag| {
            assert_eq!(tell.fetch_add(1, Ordering::Relaxed) + 1, tag);
        });
        let looking = {
            let (connection, told) = (connection.clone(), Arc::clone(&told));
            let limit = pick(&[
                Duration::ZERO,
                Duration::from_millis(1),
                Duration::from_millis(50),
            ]);
            spawn(move || {
                while told.load(Ordering::Relaxed) < 6 {
                    connection.process_data_events(limit).unwrap();
                    sleep(Duration::from_millis(1));
                }
            })
        };
        sleep(pick(&[Duration::ZERO, SETTLED]));
        declare(&channel);
        looking.join().unwrap();
        drop((channel, consumed));
        connection.close().unwrap();
        playing.join().unwrap();
    });
}

/// So many messages that nothing more is read until the program takes some. See `MESSAGE_OVERHEAD`: each counts as at least
/// 512 bytes.
const TOO_MANY: u64 = 3 * (UNDELIVERED_BOUND as u64 / 512);

/// When too much waits for the program, reading pauses, and goes on when the program has taken some of it; whoever waits for
/// an answer gets it all the same, at once.
#[test]
fn reading_pauses_and_goes_on() {
    check(|| {
        let (connection, broker) = connect(Mood {
            sip: 400,
            ..Mood::GOOD
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
                        sent.note(channel);
                        declare_ok(broker, channel);
                    }
                });
            })
        };
        let consumed = connection.channel().unwrap();
        let channel = connection.channel().unwrap();
        let told = Arc::new(AtomicU64::new(0));
        let tell = Arc::clone(&told);
        let long = Duration::from_millis(800);
        let unread = Arc::new(Mutex::new(Vec::new()));
        let look = Arc::clone(&unread);
        let observed = broker.clone();
        consume(&consumed, move |tag| {
            assert_eq!(tell.fetch_add(1, Ordering::Relaxed) + 1, tag);
            if [1, TOO_MANY - 2].contains(&tag) {
                sleep(long);
                let unread = observed.unread();
                look.lock().unwrap().push(unread);
            }
        });
        let consumer = spawn(move || consumed.start_consuming());
        sleep(SETTLED);
        declare(&channel);
        sleep(pick(&[long / 2, 4 * long]));
        let paused = unread.lock().unwrap().is_empty();
        declare(&channel);
        sent.assert_just_now(2);
        while told.load(Ordering::Relaxed) < TOO_MANY {
            sleep(Duration::from_millis(10));
        }
        if super::sync::is_calm() {
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
