//! The right to write: publishers, the writer thread, threads that flush.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;

use super::broker::{connect, pick, Behavior, Broker, Seen, FRAME_MAX, TIMEOUT};
use super::check;
use super::sync::thread::{spawn, JoinHandle};
use super::sync::{is_exact, sleep, Instant};
use crate::io::writer::HIGH_WATER;
use crate::protocol::frame;
use crate::Connection;

/// How soon gathered bytes are on their way, while nothing holds any thread up: for so long the writer thread lets them gather.
const SOON: Duration = Duration::from_micros(500);

/// Frame number `number` of a publisher. Its last byte is the frame's end, so `size` bytes of payload come before it.
fn body(number: u8, size: usize) -> Vec<u8> {
    vec![number; size]
}

fn append(connection: &Connection, publisher: u16, number: u8, size: usize) {
    let link = connection.link();
    let sent = link.gather(1, TIMEOUT.into(), |out| {
        assert!(out.bytes.len() < HIGH_WATER);
        frame::write_body(&mut out.bytes, publisher, &body(number, size));
        Ok(())
    });
    sent.expect("room");
}

/// One large message: a frame that announces it, and those of its body, all of them with the same number.
fn append_large(connection: &Connection, publisher: u16, number: u8, size: usize) {
    let link = connection.link();
    let body = body(number, size);
    let chunk = FRAME_MAX as usize - frame::FRAME_OVERHEAD;
    let sent = link.write_message(publisher, TIMEOUT.into(), &body, chunk, |out| {
        frame::write_body(&mut out.bytes, publisher, &[number]);
        Ok(Some(()))
    });
    sent.expect("room");
}

/// Asserts that a publisher's frames came once, whole and in order: each is its number and the size of its payload.
fn assert_came(seen: &[Seen], publisher: u16, expected: &[(u8, usize)]) {
    let came: Vec<(u8, usize)> = seen
        .iter()
        .filter(|seen| seen.channel == publisher)
        .map(|seen| {
            let payload = &seen.frame[7..seen.frame.len() - 1];
            assert!(payload.iter().all(|byte| *byte == payload[0]), "torn");
            (payload[0], payload.len())
        })
        .collect();
    assert_eq!(came, expected);
}

fn play(broker: &Broker) -> JoinHandle<()> {
    let broker = broker.clone();
    spawn(move || broker.play(|_, _, _| {}))
}

/// Lets the writer thread fall asleep, or not.
fn wait_a_little() {
    sleep(pick(&[
        Duration::ZERO,
        Duration::from_millis(1),
        Duration::from_millis(30),
    ]));
}

/// What is appended is written by some thread, once and in each publisher's order, and soon, though no thread waits for it.
#[test]
fn what_publishers_append_goes_out_by_itself() {
    check(|| {
        let (connection, broker) = connect(Behavior::PROMPT);
        let playing = play(&broker);
        let publishers: Vec<_> = (1..=2)
            .map(|publisher| {
                let connection = connection.clone();
                spawn(move || {
                    (0..2)
                        .map(|number| {
                            wait_a_little();
                            append(&connection, publisher, number, 10);
                            Instant::now()
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        let seen = broker.await_frames(4);
        for (publisher, handle) in (1..=2).zip(publishers) {
            let appended = handle.join().unwrap();
            assert_came(&seen, publisher, &[(0, 10), (1, 10)]);
            if is_exact() {
                let came = seen.iter().filter(|seen| seen.channel == publisher);
                for (seen, appended) in came.zip(appended) {
                    let took = seen.at - appended;
                    assert!(took <= SOON, "{took:?}");
                }
            }
        }
        connection.close().unwrap();
        playing.join().unwrap();
    });
}

/// `flush` returns that all is written only when all that was appended before it is, whichever thread writes it; and it ends.
#[test]
fn a_flush_ends_when_all_before_it_is_written() {
    check(|| {
        let (connection, broker) = connect(Behavior::PROMPT);
        let playing = play(&broker);
        let appended = Arc::new(AtomicUsize::new(0));
        let threads: Vec<_> = (1..=3)
            .map(|publisher| {
                let (connection, broker) = (connection.clone(), broker.clone());
                let appended = Arc::clone(&appended);
                spawn(move || {
                    for number in 0..2 {
                        // The larger one is enough for a publisher to write it itself.
                        let size = pick(&[10, 50_000]);
                        append(&connection, publisher, number, size);
                        appended.fetch_add(size + frame::FRAME_OVERHEAD, Ordering::Relaxed);
                        if publisher != 3 {
                            let before = appended.load(Ordering::Relaxed);
                            let link = connection.link();
                            assert!(link.flush(TIMEOUT));
                            assert!(broker.written() >= before);
                        }
                    }
                })
            })
            .collect();
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        let seen = broker.await_frames(6);
        for publisher in 1..=3 {
            let numbers: Vec<u8> = seen
                .iter()
                .filter(|seen| seen.channel == publisher)
                .map(|seen| seen.frame[7])
                .collect();
            assert_eq!(numbers, [0, 1]);
        }
        connection.close().unwrap();
        playing.join().unwrap();
    });
}

/// A large message goes out in one piece, between those of others on the same channel and the protocol's own replies.
#[test]
fn a_large_body_is_not_torn_by_others() {
    check(|| {
        let behavior = pick(&[
            Behavior::PROMPT,
            Behavior {
                write_most: 30_000,
                times_out: true,
                ..Behavior::PROMPT
            },
        ]);
        let (connection, broker) = connect(behavior);
        let playing = play(&broker);
        let large = {
            let connection = connection.clone();
            spawn(move || {
                append_large(&connection, 1, 1, 33_000);
                append_large(&connection, 1, 2, 20_000);
            })
        };
        let small = {
            let connection = connection.clone();
            spawn(move || {
                for number in [11, 12] {
                    append(&connection, 1, number, 10);
                }
            })
        };
        let replies = {
            let connection = connection.clone();
            spawn(move || {
                for number in [21, 22] {
                    let mut bytes = Vec::new();
                    frame::write_body(&mut bytes, 2, &body(number, 20));
                    assert!(connection.link().outgoing.append_replies(&bytes));
                }
            })
        };
        for thread in [large, small, replies] {
            thread.join().unwrap();
        }
        let seen = broker.await_frames(4 + 3 + 2 + 2);
        assert_came(&seen, 2, &[(21, 20), (22, 20)]);
        let (small, large): (Vec<_>, Vec<_>) = seen
            .iter()
            .filter(|seen| seen.channel == 1)
            .cloned()
            .partition(|seen| seen.frame[7] > 10);
        assert_came(&small, 1, &[(11, 10), (12, 10)]);
        let chunk = FRAME_MAX as usize - frame::FRAME_OVERHEAD;
        let first = [(1, 1), (1, chunk), (1, chunk), (1, 33_000 - 2 * chunk)];
        let second = [(2, 1), (2, chunk), (2, 20_000 - chunk)];
        assert_came(&large, 1, &[&first[..], &second[..]].concat());
        for number in [1, 2] {
            // Nothing of the channel's comes between the frames of one message.
            let frames: Vec<_> = seen.iter().filter(|seen| seen.channel == 1).collect();
            let first = frames.iter().position(|seen| seen.frame[7] == number);
            let last = frames.iter().rposition(|seen| seen.frame[7] == number);
            let whole = &frames[first.unwrap()..=last.unwrap()];
            assert!(whole.iter().all(|seen| seen.frame[7] == number));
        }
        connection.close().unwrap();
        playing.join().unwrap();
    });
}

/// What a stream does not take at once, because it is slow or its time is up, is written later, by some thread.
#[test]
fn what_the_stream_does_not_take_at_once_is_written_later() {
    check(|| {
        let (connection, broker) = connect(Behavior {
            write_most: 40,
            times_out: true,
            ..Behavior::PROMPT
        });
        let playing = play(&broker);
        let publishers: Vec<_> = (1..=2)
            .map(|publisher| {
                let connection = connection.clone();
                spawn(move || {
                    for number in 0..2 {
                        append(&connection, publisher, number, 50);
                        if publisher == 1 {
                            connection.link().write_gathered();
                        }
                    }
                })
            })
            .collect();
        let seen = broker.await_frames(4);
        for (publisher, handle) in (1..=2).zip(publishers) {
            handle.join().unwrap();
            assert_came(&seen, publisher, &[(0, 50), (1, 50)]);
        }
        connection.close().unwrap();
        playing.join().unwrap();
    });
}

/// Publishers that find the buffer full wait, and are woken when there is room, whichever thread makes it.
#[test]
fn publishers_wait_for_room_and_are_woken() {
    check(|| {
        let (connection, broker) = connect(Behavior {
            room: 200_000,
            times_out: pick(&[true, false]),
            ..Behavior::PROMPT
        });
        let publishers: Vec<_> = (1..=3)
            .map(|publisher| {
                let connection = connection.clone();
                spawn(move || {
                    for number in 0..3 {
                        append(&connection, publisher, number, 250_000);
                    }
                })
            })
            .collect();
        wait_a_little();
        let playing = play(&broker);
        let seen = broker.await_frames(9);
        for (publisher, handle) in (1..=3).zip(publishers) {
            handle.join().unwrap();
            let expected = [(0, 250_000), (1, 250_000), (2, 250_000)];
            assert_came(&seen, publisher, &expected);
        }
        connection.close().unwrap();
        playing.join().unwrap();
    });
}

/// Whatever was accepted before the connection is closed has been sent before `connection.close`, and nothing after it.
#[test]
fn what_was_accepted_is_sent_before_the_close() {
    check(|| {
        let (connection, broker) = connect(Behavior::PROMPT);
        let playing = play(&broker);
        let channels = [(); 2].map(|()| connection.channel().unwrap());
        let publishers = channels.map(|channel| {
            spawn(move || {
                let accepted = (0..3).filter(|_| channel.basic_publish("", "queue", "x").is_ok());
                (channel.channel_number(), accepted.count())
            })
        });
        wait_a_little();
        connection.close().unwrap();
        playing.join().unwrap();
        let seen = broker.seen();
        for publisher in publishers {
            let (channel, accepted) = publisher.join().unwrap();
            let frames: Vec<&Seen> = seen.iter().filter(|seen| seen.channel == channel).collect();
            // Opening and closing the channel, and a method, a header and a body for each message.
            assert_eq!(frames.len(), 1 + 3 * accepted + 1);
            assert_eq!(&frames[frames.len() - 1].frame[7..11], [0, 20, 0, 40]);
        }
        assert_eq!(&seen[seen.len() - 1].frame[7..11], [0, 10, 0, 50]);
    });
}
