//! What takes minutes, because it waits for a real broker to lose its patience. `scripts/soak` runs it.

mod support;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use haypile::{BasicConsume, Channel, Connection, Consume, Error, QueueDeclare};
use support::{assert_message_count, bounded_by, channel, exclusive_queue, url, Fixture};

/// RabbitMQ closes a connection on which a send does not end within 30 seconds.
const BROKER_PATIENCE: Duration = Duration::from_secs(30);

/// Fills a queue, and consumes it without a prefetch limit, with a first callback that takes three times the broker's
/// patience. Everything comes all the same, in order.
fn long_callback(count: u32, size: usize, patience: Duration) {
    long_callback_before(count, patience, move |_| size);
}

fn long_callback_before(
    count: u32,
    patience: Duration,
    size: impl Fn(u32) -> usize + Send + 'static,
) {
    bounded_by(patience + Duration::from_secs(240), move || {
        let connection = Connection::open(url().as_str()).unwrap();
        let channel = connection.channel().unwrap();
        let queue = exclusive_queue(&channel);
        let body = |n: u32| {
            let mut body = vec![b'x'; size(n)];
            body[..4].copy_from_slice(&n.to_be_bytes());
            body
        };
        let mut publisher = channel.publisher(1000).unwrap();
        for n in 0..count {
            publisher.publish("", &queue, body(n)).unwrap();
        }
        publisher
            .wait_for_confirms(Duration::from_secs(120))
            .unwrap();
        let next = Arc::new(AtomicU32::new(0));
        let seen = Arc::clone(&next);
        channel
            .basic_consume(
                BasicConsume::new(&queue),
                move |channel, method, _, body| {
                    let n = seen.fetch_add(1, Ordering::Relaxed);
                    assert_eq!(body[..4], n.to_be_bytes());
                    if n == 0 {
                        thread::sleep(patience);
                        assert!(channel.is_open());
                    }
                    channel.basic_ack(method.delivery_tag)?;
                    match n + 1 {
                        n if n == count => channel.stop_consuming(),
                        _ => Ok(()),
                    }
                },
            )
            .unwrap();
        channel.start_consuming().unwrap();
        assert_message_count(&channel, &queue, 0);
        connection.close().unwrap();
    });
}

#[test]
#[ignore = "takes two minutes: scripts/soak"]
fn a_long_callback_before_many_small_messages() {
    long_callback(300_000, 100, BROKER_PATIENCE * 3);
}

#[test]
#[ignore = "takes two minutes: scripts/soak"]
fn a_long_callback_before_messages_of_100_kb() {
    long_callback(1_000, 100_000, BROKER_PATIENCE * 3);
}

#[test]
#[ignore = "takes two minutes: scripts/soak"]
fn a_long_callback_before_messages_of_1_mb() {
    long_callback(100, 1_000_000, BROKER_PATIENCE * 3);
}

#[test]
#[ignore = "takes two minutes: scripts/soak"]
fn a_long_callback_before_messages_of_10_mb() {
    long_callback(18, 10_000_000, BROKER_PATIENCE * 3);
}

/// What comes is small, and nothing announces the large messages among it until they are there.
#[test]
#[ignore = "takes two minutes: scripts/soak"]
fn a_long_callback_before_a_few_large_messages_among_small_ones() {
    long_callback_before(3_000, BROKER_PATIENCE * 3, |n| match n % 150 {
        149 => 10_000_000,
        _ => 20_000,
    });
}

#[test]
#[ignore = "takes two minutes: scripts/soak"]
fn many_callbacks_that_each_take_a_little() {
    bounded_by(BROKER_PATIENCE * 8, || {
        let connection = Connection::open(url().as_str()).unwrap();
        let channel = connection.channel().unwrap();
        let queue = exclusive_queue(&channel);
        let mut publisher = channel.publisher(1000).unwrap();
        for n in 0..150_000_u32 {
            let mut body = [b'x'; 100];
            body[..4].copy_from_slice(&n.to_be_bytes());
            publisher.publish("", &queue, body).unwrap();
        }
        publisher.wait_for_confirms(PATIENCE).unwrap();
        drop(publisher);
        let began = Instant::now();
        let mut next = 0_u32;
        channel
            .basic_consume(
                BasicConsume::new(&queue),
                move |channel, method, _, body| {
                    assert_eq!(body[..4], next.to_be_bytes());
                    next += 1;
                    thread::sleep(Duration::from_millis(15));
                    channel.basic_ack(method.delivery_tag)?;
                    match began.elapsed() > BROKER_PATIENCE * 4 {
                        true => channel.stop_consuming(),
                        false => Ok(()),
                    }
                },
            )
            .unwrap();
        channel.start_consuming().unwrap();
        assert!(connection.is_open());
        connection.close().unwrap();
    });
}

/// How many kinds of mistakes there are.
const MISTAKES: u32 = 4;

/// How long the broker may take for confirms.
const PATIENCE: Duration = Duration::from_secs(60);

/// The broker closes the channel over each of these: a second ack, an ack of an unknown tag, a missing exchange, a missing queue.
fn make_mistake(channel: &Channel, n: u32, tag: u64) {
    let made = match n % MISTAKES {
        0 => channel.basic_ack(tag),
        1 => channel.basic_ack(1 << 40),
        2 => channel.basic_publish("haypile-no-such-exchange", "", "lost on purpose"),
        _ => channel
            .queue_declare(QueueDeclare::new("haypile-no-such-queue").passive(true))
            .map(drop),
    };
    // The broker may have closed the channel already.
    drop(made);
}

/// Publishes each number once: what has no confirm when a channel ends is published again on the next.
fn publish_through_closures(
    connection: &Connection,
    queue: &str,
    numbers: u32,
    closures: u32,
) -> u32 {
    let every = numbers / closures;
    let (mut next, mut ended) = (0, 0);
    let mut again: Vec<u32> = Vec::new();
    while next < numbers || !again.is_empty() {
        let channel = connection.channel().unwrap();
        let mut publisher = channel.publisher(1000).unwrap();
        let mut sent: Vec<u32> = Vec::new();
        let mut pending = std::mem::take(&mut again).into_iter();
        while sent.len() < every as usize {
            let Some(number) = pending.next().or_else(|| (next < numbers).then_some(next)) else {
                break;
            };
            next = next.max(number + 1);
            match publisher.publish("", queue, number.to_be_bytes()) {
                Ok(_) => sent.push(number),
                Err(error) => {
                    assert!(error.is_channel_error(), "{error}");
                    again.push(number);
                    break;
                }
            }
        }
        again.extend(pending);
        if ended < closures {
            make_mistake(&channel, 2 + ended % 2, 0);
            ended += 1;
        }
        match publisher.wait_for_confirms(PATIENCE) {
            Ok(()) => {}
            Err(Error::Unconfirmed(report)) => {
                assert!(
                    report.returned.is_empty() && report.nacked.is_empty(),
                    "{report}"
                );
                again.extend(report.pending.iter().map(|n| sent[*n as usize - 1]));
            }
            Err(error) => assert!(error.is_channel_error(), "{error}"),
        }
        // Whatever came of it, the channel is over or of no more use.
        drop(channel.close());
        assert!(connection.is_open());
    }
    ended
}

/// Consumes until each number has come, and ends its channel by a mistake now and then.
fn consume_through_closures(
    connection: &Connection,
    queue: &str,
    seen: &[AtomicU32],
    closures: u32,
) -> u32 {
    let left = || seen.iter().any(|count| count.load(Ordering::Relaxed) == 0);
    let every = (seen.len() as u32 / closures).max(1);
    let began = Instant::now();
    let mut ended = 0;
    while left() {
        assert!(
            began.elapsed() < Duration::from_secs(1200),
            "messages are missing"
        );
        let channel = connection.channel().unwrap();
        channel.basic_qos(500).unwrap();
        let messages = Consume::new(queue).idle_exit(Duration::from_secs(1));
        let mut taken = 0;
        for message in channel.consume(messages).unwrap() {
            let (method, _, body) = match message {
                Ok(message) => message,
                Err(error) => {
                    assert!(error.is_channel_error(), "{error}");
                    break;
                }
            };
            let number = u32::from_be_bytes(body[..4].try_into().unwrap());
            seen[number as usize].fetch_add(1, Ordering::Relaxed);
            if channel.basic_ack(method.delivery_tag).is_err() {
                break;
            }
            taken += 1;
            if taken == every && ended < closures {
                // What comes behind this is on its way when the channel ends.
                make_mistake(&channel, ended, method.delivery_tag);
                ended += 1;
            }
        }
        drop(channel.close());
        assert!(connection.is_open());
    }
    ended
}

/// 900,000 messages, and 1,300 channels that end by an error amid them: none is lost, and no connection.
#[test]
#[ignore = "takes minutes: scripts/soak"]
fn channels_that_end_by_errors_lose_nothing() {
    const MESSAGES: u32 = 900_000;
    const ENDS: u32 = 650;
    bounded_by(Duration::from_secs(1500), || {
        let mut fixture = Fixture::new();
        let queue = fixture.queue("soak");
        channel()
            .queue_declare(QueueDeclare::new(&queue).durable(true))
            .unwrap();
        let producing = Connection::open(url().as_str()).unwrap();
        let consuming = Connection::open(url().as_str()).unwrap();
        let seen: Vec<AtomicU32> = (0..MESSAGES).map(|_| AtomicU32::new(0)).collect();
        let began = Instant::now();
        let (published, consumed) = thread::scope(|scope| {
            let published =
                scope.spawn(|| publish_through_closures(&producing, &queue, MESSAGES, ENDS));
            let consumed =
                scope.spawn(|| consume_through_closures(&consuming, &queue, &seen, ENDS));
            (published.join().unwrap(), consumed.join().unwrap())
        });
        let doubles: u32 = seen
            .iter()
            .map(|count| count.load(Ordering::Relaxed) - 1)
            .sum();
        println!(
            "{MESSAGES} messages, {published} + {consumed} channels ended by errors, {doubles} came again, in {:?}",
            began.elapsed()
        );
        assert_eq!((published, consumed), (ENDS, ENDS));
        assert_message_count(&channel(), &queue, 0);
        producing.close().unwrap();
        consuming.close().unwrap();
    });
}
