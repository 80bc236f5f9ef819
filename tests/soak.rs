//! What takes minutes, because it waits for a real broker to lose its patience. `scripts/soak` runs it.

mod support;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use haypile::{BasicConsume, Connection};
use support::{assert_message_count, bounded_by, exclusive_queue, url};

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

/// What comes is small, and nothing tells of the large messages among it until they are there.
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
        for n in 0..150_000_u32 {
            let mut body = [b'x'; 100];
            body[..4].copy_from_slice(&n.to_be_bytes());
            channel.basic_publish("", &queue, body).unwrap();
        }
        assert_message_count(&channel, &queue, 150_000);
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
