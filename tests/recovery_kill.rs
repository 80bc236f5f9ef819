//! The broker is killed, again and again, while a reliable publisher and a supervised consumer are at work: none is missing.
//!
//! `HAYPILE_SOAK` runs the long form.

#[path = "support/node.rs"]
mod node;
mod support;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use haypile::{
    BasicProperties, Channel, ConsumingEnded, DeliveryMode, Error, QueueDeclare, Retry, Supervisor,
};
use node::Node;
use support::{bounded_by, met_within, SOON};

const QUEUE: &str = "numbers";
const WINDOW: usize = 1000;

fn declare(channel: &Channel) -> haypile::Result<()> {
    channel
        .queue_declare(QueueDeclare::new(QUEUE).durable(true))
        .map(drop)
}

fn supervisor(url: &str) -> Supervisor {
    let retry = Retry::new()
        .first(Duration::from_millis(50))
        .most(Duration::from_millis(500));
    Supervisor::new(url).retry(retry)
}

#[test]
fn nothing_is_lost_when_the_broker_is_killed() {
    let (messages, kills) = match std::env::var("HAYPILE_SOAK") {
        Ok(_) => (200_000u64, 7),
        Err(_) => (10_000, 2),
    };
    bounded_by(
        Duration::from_secs(if kills > 2 { 900 } else { 150 }),
        move || {
            let node = Arc::new(Node::start());
            let received: Arc<Mutex<HashMap<u64, u32>>> = Arc::default();
            let redelivered = Arc::new(AtomicU64::new(0));
            let connections = Arc::new(AtomicUsize::new(0));
            let stale = Arc::new(AtomicUsize::new(0));

            let consuming = supervisor(&node.url);
            let stop = consuming.stop_handle();
            let consumer = {
                let (received, redelivered) = (Arc::clone(&received), Arc::clone(&redelivered));
                let (connections, stale) = (Arc::clone(&connections), Arc::clone(&stale));
                thread::spawn(move || {
                    let mut former: Option<(Channel, u64)> = None;
                    consuming.run(|connection| {
                        connections.fetch_add(1, Ordering::SeqCst);
                        let channel = connection.channel()?;
                        declare(&channel)?;
                        channel.basic_qos(200)?;
                        if let Some((old, tag)) = former.take() {
                            // An ack of before the loss: it fails, and settles nothing here.
                            let error = old.basic_ack(tag).unwrap_err();
                            assert!(
                                !matches!(error, Error::InvalidParameter { .. }),
                                "{error:?}"
                            );
                            stale.fetch_add(1, Ordering::SeqCst);
                        }
                        for message in channel.consume(QUEUE)? {
                            let (method, _, body) = message?;
                            former = Some((channel.clone(), method.delivery_tag));
                            let number: u64 = String::from_utf8(body).unwrap().parse().unwrap();
                            *received.lock().unwrap().entry(number).or_default() += 1;
                            redelivered.fetch_add(u64::from(method.redelivered), Ordering::SeqCst);
                            channel.basic_ack(method.delivery_tag)?;
                        }
                        Ok(ConsumingEnded::Cancelled)
                    })
                })
            };

            let sent = Arc::new(AtomicU64::new(0));
            let killer = {
                let (node, sent) = (Arc::clone(&node), Arc::clone(&sent));
                let connections = Arc::clone(&connections);
                thread::spawn(move || {
                    let mut pauses = Vec::new();
                    for n in 1..=kills {
                        // At random moments, spread over the messages.
                        let at = messages * n / (kills + 1)
                            + u64::from(uuid::Uuid::new_v4().as_fields().0) % 500;
                        assert!(met_within(Duration::from_secs(600), || sent
                            .load(Ordering::SeqCst)
                            >= at));
                        node.kill();
                        let began = Instant::now();
                        node.restart();
                        let before = sent.load(Ordering::SeqCst);
                        // The window fills while the broker is away; it goes on when more than that was taken.
                        let goes_on = || sent.load(Ordering::SeqCst) > before + WINDOW as u64 + 1;
                        met_within(Duration::from_secs(60), || {
                            goes_on() || sent.load(Ordering::SeqCst) == messages
                        });
                        pauses.push(began.elapsed());
                        // A broker that is killed while the consumer is not back yet takes nothing from it.
                        let back = || connections.load(Ordering::SeqCst) as u64 > n;
                        assert!(met_within(Duration::from_secs(60), back));
                    }
                    pauses
                })
            };

            let mut publisher = supervisor(&node.url)
                .publisher(WINDOW, declare)
                .unwrap()
                .timeout(Duration::from_secs(120));
            let persistent = BasicProperties::new().delivery_mode(DeliveryMode::Persistent);
            for number in 1..=messages {
                let taken = publisher
                    .publish_with("", QUEUE, number.to_string(), &persistent)
                    .unwrap();
                assert_eq!(taken, number);
                sent.store(number, Ordering::SeqCst);
            }
            publisher
                .wait_for_confirms(Duration::from_secs(120))
                .unwrap();
            let pauses = killer.join().unwrap();
            let all = || received.lock().unwrap().len() as u64 == messages;
            let complete = met_within(Duration::from_secs(120), all);
            // What comes twice comes soon.
            met_within(SOON / 10, || false);
            stop.stop();
            let ended = consumer.join().unwrap();
            let received = received.lock().unwrap();
            let missing: Vec<u64> = (1..=messages)
                .filter(|n| !received.contains_key(n))
                .take(10)
                .collect();
            let doubles: u64 = received.values().map(|count| u64::from(count - 1)).sum();
            let (redelivered, republished) =
                (redelivered.load(Ordering::SeqCst), publisher.republished());
            eprintln!(
            "{messages} messages, {kills} kills: {} missing, {doubles} doubles ({republished} sent again, {redelivered} \
             redelivered), {} stale acks refused; on again after {pauses:?}",
            missing.len(),
            stale.load(Ordering::SeqCst),
        );
            assert!(complete && missing.is_empty(), "missing: {missing:?}");
            assert_eq!(ended.unwrap(), ConsumingEnded::Cancelled);
            assert!(republished <= kills * WINDOW as u64);
            assert!(doubles <= republished + redelivered);
            assert!(connections.load(Ordering::SeqCst) as u64 > kills);
            assert!(stale.load(Ordering::SeqCst) >= 1);
            drop(publisher);
        },
    );
}
