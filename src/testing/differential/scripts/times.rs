//! What time does: messages and queues that expire, heartbeats.

use std::time::{Duration, Instant};

use super::super::transcript::{compare, table};
use crate::BasicProperties;

#[test]
fn messages_expire_in_their_queue() {
    compare(|script| {
        let mut client = script.open("a");
        client.declare_with(1, "brief", &table([("x-message-ttl", 100.into())]));
        client.declare(1, "plain");
        // What is confirmed is in the queue.
        client.confirms(1);
        client.publish_confirmed(1, "brief", "1");
        client.await_count(1, "brief", 0);
        client.get(1, "brief", true);
        script.note("by themselves, the shorter time counts");
        let long = BasicProperties::new().expiration("3600000");
        client.publish_with(1, "brief", &long, "2");
        client.until("BasicAck");
        client.await_count(1, "brief", 0);
        script.note("only at the head");
        let short = BasicProperties::new().expiration("50");
        client.publish_confirmed(1, "plain", "first");
        client.publish_with(1, "plain", &short, "second");
        client.until("BasicAck");
        client.await_expiry("50");
        client.count(1, "plain");
        client.get(1, "plain", false);
        client.get(1, "plain", false);
        script.note("what is unacknowledged does not expire, but when it goes back");
        let short = BasicProperties::new().expiration("1000");
        client.publish_with(1, "plain", &short, "third");
        client.until("BasicAck");
        client.get(1, "plain", false);
        client.await_expiry("1000");
        client.requeue_last(1);
        client.await_count(1, "plain", 0);
    });
}

#[test]
fn a_time_of_nothing_delivers_at_once_or_never() {
    compare(|script| {
        let mut client = script.open("a");
        client.declare_with(1, "q", &table([("x-message-ttl", 0.into())]));
        client.publish(1, "q", "lost");
        client.sync(1);
        client.get(1, "q", true);
        client.qos(1, 1, false);
        client.consume(1, "q", "c");
        client.deliver(1, "q", &["taken"]);
        client.publish(1, "q", "lost, for the consumer is busy");
        client.sync(1);
        client.ack(1, client.last_tag, false);
        client.sync(1);
        client.deliver(1, "q", &["taken as well"]);
        client.requeue_last(1);
        client.sync(1);
        client.count(1, "q");
    });
}

#[test]
fn queues_expire_when_they_are_not_used() {
    compare(|script| {
        let mut client = script.open("a");
        client.declare_with(1, "q", &table([("x-expires", 200.into())]));
        client.publish(1, "q", "m");
        client.await_gone(1, "q");
        client.declare_with(1, "used", &table([("x-expires", 200.into())]));
        client.consume(1, "used", "c");
        // One that is not used has gone meanwhile.
        client.open_channel(2);
        client.declare_with(2, "unused", &table([("x-expires", 200.into())]));
        client.await_gone(2, "unused");
        client.count(1, "used");
        client.cancel(1, "c");
        client.await_gone(1, "used");
    });
}

/// A silent client is given up after two intervals; a silent broker is not: it sends heartbeats.
#[test]
fn heartbeats_come_and_are_missed() {
    compare(|script| {
        let mut client = script.open_with("silent", 131_072, 1);
        let begun = Instant::now();
        let mut beats = 0;
        let mut first = None;
        while let Some(frame) = client.frame() {
            assert_eq!(frame, (8, 0, Vec::new()));
            first.get_or_insert_with(|| begun.elapsed());
            beats += 1;
            assert!(begun.elapsed() < Duration::from_secs(15));
        }
        // Times are not compared closely, for the machine may be busy.
        script.note(format!("some heartbeats: {}", beats > 0));
        script.note(format!(
            "the first one soon: {}",
            first.unwrap() < Duration::from_secs(3)
        ));
        let lasted = begun.elapsed();
        script.note(format!(
            "not given up at once: {}",
            lasted > Duration::from_millis(1500)
        ));
        // One that sends heartbeats is kept.
        let mut client = script.open_with("alive", 131_072, 1);
        for _ in 0..5 {
            std::thread::sleep(Duration::from_millis(700));
            client.raw(8, 0, b"");
        }
        client.sync(1);
        client.close();
    });
}
