//! The right to read, among threads that wait for replies.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::broker::{connect, delivery, pick, Behavior, Broker};
use super::check;
use super::sync::thread::{spawn, JoinHandle};
use super::sync::{is_exact, sleep, Instant};
use crate::protocol::method::Method;
use crate::{Channel, QueueDeclare};

/// How long a broker takes: less or more than the time for which a caller reads for itself.
const PAUSES: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_millis(5),
    Duration::from_millis(15),
    Duration::from_millis(45),
];

/// After this time a connection has nothing to do: the reader thread is there and reads, the writer thread sleeps.
pub(super) const AT_REST: Duration = Duration::from_millis(100);

/// What goes over the wire, with the number of its channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Thing {
    Call(u16),
    Reply(u16),
    Message(u64),
}

/// When something was sent, for its receiver to compare.
#[derive(Clone, Default)]
pub(super) struct Sent(Arc<Mutex<Vec<(Thing, Instant)>>>);

impl Sent {
    pub(super) fn note(&self, thing: Thing) {
        self.0.lock().unwrap().push((thing, Instant::now()));
    }

    /// Asserts that what has come now was sent so long ago at most. With exact timing no time passes while any thread can go on.
    pub(super) fn assert_came_within(&self, thing: Thing, limit: Duration) {
        self.assert_took(thing, Instant::now(), limit);
    }

    /// Asserts that it has come at once: no thread slept that could have read or written it.
    pub(super) fn assert_just_now(&self, thing: Thing) {
        self.assert_took(thing, Instant::now(), Duration::ZERO);
    }

    fn assert_took(&self, thing: Thing, came: Instant, limit: Duration) {
        if is_exact() {
            let sent = self.0.lock().unwrap();
            let (_, at) = sent.iter().rfind(|(sent, _)| *sent == thing).unwrap();
            let took = came - *at;
            assert!(took <= limit, "{thing:?} took {took:?}");
        }
    }
}

pub(super) fn declare_ok(broker: &Broker, channel: u16) {
    let queue = format!("queue of channel {channel}");
    let method = Method::QueueDeclareOk {
        queue: (&queue).into(),
        message_count: 0,
        consumer_count: 0,
    };
    broker.send(channel, &method);
}

/// Makes a call, and asserts that the reply is the one to it.
pub(super) fn declare(channel: &Channel) {
    let declared = channel.queue_declare(QueueDeclare::new("queue")).unwrap();
    let number = channel.channel_number();
    assert_eq!(declared.queue, format!("queue of channel {number}"));
}

/// A broker that waits for `together` calls before it replies to them, in any order and after any pause.
fn play(broker: &Broker, sent: &Sent, together: usize) -> JoinHandle<()> {
    let (broker, sent) = (broker.clone(), sent.clone());
    let mut asked = Vec::new();
    spawn(move || {
        broker.play(|broker, channel, method| {
            assert!(matches!(method, Method::QueueDeclare { .. }));
            sent.assert_took(Thing::Call(channel), broker.arrival(), Duration::ZERO);
            asked.push(channel);
            if asked.len() == together {
                while !asked.is_empty() {
                    let next = pick(&[0, asked.len() - 1]);
                    let channel = asked.remove(next);
                    sleep(pick(&PAUSES));
                    sent.note(Thing::Reply(channel));
                    declare_ok(broker, channel);
                }
            }
        });
    })
}

/// Each of several callers gets its reply at once, whichever thread reads it and in whatever order they come.
fn replies_reach_their_callers(callers: usize, calls: usize) {
    let (connection, broker) = connect(Behavior {
        read_most: pick(&[20, usize::MAX]),
        ..Behavior::PROMPT
    });
    let sent = Sent::default();
    let playing = play(&broker, &sent, callers);
    let channels: Vec<Channel> = (0..callers)
        .map(|_| connection.channel().unwrap())
        .collect();
    // Before that, a caller may have to wait for the reader thread to start.
    let at_rest = pick(&[true, false]);
    if at_rest {
        sleep(AT_REST);
    }
    let callers: Vec<_> = channels
        .into_iter()
        .map(|channel| {
            let sent = sent.clone();
            spawn(move || {
                let number = channel.channel_number();
                for _ in 0..calls {
                    sent.note(Thing::Call(number));
                    declare(&channel);
                    if at_rest {
                        sent.assert_just_now(Thing::Reply(number));
                    }
                }
            })
        })
        .collect();
    callers
        .into_iter()
        .for_each(|caller| caller.join().unwrap());
    connection.close().unwrap();
    playing.join().unwrap();
}

#[test]
fn replies_reach_two_callers_at_once() {
    check(|| replies_reach_their_callers(2, 2));
}

#[test]
fn replies_reach_three_callers_at_once() {
    check(|| replies_reach_their_callers(3, 1));
}

/// Callers on one channel, too, which wait for one another's replies.
#[test]
fn replies_on_one_channel_reach_their_callers() {
    check(|| {
        let (connection, broker) = connect(Behavior::PROMPT);
        let sent = Sent::default();
        let playing = play(&broker, &sent, 1);
        let channel = connection.channel().unwrap();
        let callers = [(); 2].map(|()| {
            let (channel, sent) = (channel.clone(), sent.clone());
            spawn(move || {
                for _ in 0..2 {
                    sent.note(Thing::Call(1));
                    declare(&channel);
                }
            })
        });
        for caller in callers {
            caller.join().unwrap();
        }
        drop(channel);
        connection.close().unwrap();
        playing.join().unwrap();
    });
}

/// A reply that one read brought behind more messages than are handled at once reaches its caller at once: no thread reads or
/// sleeps while it lies there. The messages wait for a thread that looks for them.
#[test]
fn a_reply_behind_many_messages_reaches_its_caller_at_once() {
    check(|| {
        let (connection, broker) = connect(Behavior::PROMPT);
        let sent = Sent::default();
        let messages = pick(&[3, 4, 5, 9]);
        let playing = {
            let (broker, sent) = (broker.clone(), sent.clone());
            spawn(move || {
                broker.play(|broker, channel, _| {
                    sleep(pick(&PAUSES));
                    let mut bytes = Vec::new();
                    for tag in 1..=messages {
                        bytes.extend(delivery(1, "consumer", tag));
                    }
                    broker.send_bytes(&bytes);
                    sent.note(Thing::Reply(channel));
                    declare_ok(broker, channel);
                });
            })
        };
        let consumed = connection.channel().unwrap();
        let delivered = Arc::new(Mutex::new(Vec::new()));
        let deliver_to = Arc::clone(&delivered);
        let request = crate::BasicConsume::new("queue").consumer_tag("consumer");
        let consume = consumed.basic_consume(request, move |_, deliver, _, _| {
            deliver_to.lock().unwrap().push(deliver.delivery_tag);
        });
        consume.unwrap();
        let channel = connection.channel().unwrap();
        sleep(AT_REST);
        declare(&channel);
        sent.assert_just_now(Thing::Reply(2));
        while delivered.lock().unwrap().len() < messages as usize {
            connection
                .process_data_events(Duration::from_millis(1))
                .unwrap();
        }
        assert_eq!(*delivered.lock().unwrap(), Vec::from_iter(1..=messages));
        drop((channel, consumed));
        connection.close().unwrap();
        playing.join().unwrap();
    });
}

/// While a transaction is being committed nothing is sent on its channel, and afterwards everything is, at once: no thread
/// sleeps that could go on.
#[test]
fn nothing_is_sent_during_a_commit_and_all_of_it_afterwards() {
    check(|| {
        let (connection, broker) = connect(Behavior::PROMPT);
        let playing = {
            let broker = broker.clone();
            spawn(move || {
                broker.play(|broker, channel, method| match method {
                    Method::TxCommit => {
                        sleep(pick(&PAUSES));
                        let read: usize = broker.seen().iter().map(|seen| seen.frame.len()).sum();
                        assert_eq!(broker.written(), read, "something came during a commit");
                        broker.send(channel, &Method::TxCommitOk);
                    }
                    Method::QueueDeclare { .. } => declare_ok(broker, channel),
                    _ => {}
                });
            })
        };
        let channel = connection.channel().unwrap();
        sleep(AT_REST);
        let began = Instant::now();
        let commit: fn(&Channel) = |channel| channel.tx_commit().unwrap();
        let publish: fn(&Channel) = |channel| channel.basic_publish("", "queue", "body").unwrap();
        let threads = [
            vec![commit, publish, commit],
            vec![commit],
            vec![publish, publish],
            vec![declare],
        ];
        let threads = threads.map(|calls| {
            let channel = channel.clone();
            spawn(move || calls.iter().for_each(|call| call(&channel)))
        });
        for thread in threads {
            thread.join().unwrap();
        }
        if is_exact() {
            // Three commits that take as long as they may.
            let took = Instant::now() - began;
            assert!(took <= 3 * PAUSES[3], "{took:?}");
        }
        drop(channel);
        connection.close().unwrap();
        playing.join().unwrap();
        let published = broker
            .seen()
            .iter()
            .filter(|seen| seen.frame[0] == 2)
            .count();
        assert_eq!(published, 3);
    });
}
