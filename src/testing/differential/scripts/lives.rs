//! How messages leave a queue that has limits, times and priorities at once, and what is written down of it.

use super::super::transcript::{compare, table, Client};
use crate::{BasicProperties, FieldTable, FieldValue};

fn with<const N: usize>(mut arguments: FieldTable, more: [(&str, FieldValue); N]) -> FieldTable {
    for (key, value) in more {
        arguments.insert(key, value);
    }
    arguments
}

fn publish_ranked(client: &mut Client, queue: &str, messages: &[(&str, u8)]) {
    for (body, priority) in messages {
        let properties = BasicProperties::new().priority(*priority);
        client.publish_with(1, queue, &properties, body);
        client.take(1);
    }
}

#[test]
fn priorities_and_a_length() {
    compare(|script| {
        let mut client = script.open("a");
        client.confirms(1);
        client.declare(1, "dead");
        for overflow in ["drop-head", "reject-publish", "reject-publish-dlx"] {
            for dead in [false, true] {
                let queue = format!("{overflow}-{dead}");
                script.note(&queue);
                let arguments = table([
                    ("x-max-length", 3.into()),
                    ("x-max-priority", 5.into()),
                    ("x-overflow", overflow.into()),
                ]);
                let arguments = match dead {
                    true => arguments.iter().fold(
                        client.dead_letters_to("dead"),
                        |mut all, (key, value)| {
                            all.insert(key, value.clone());
                            all
                        },
                    ),
                    false => arguments,
                };
                client.declare_with(1, &queue, &arguments);
                let messages = [("a", 1), ("b", 5), ("c", 3), ("d", 0), ("e", 4), ("f", 9)];
                publish_ranked(&mut client, &queue, &messages);
                client.count(1, &queue);
                script.note("given back when it is full");
                client.get(1, &queue, false);
                let tag = client.last_tag;
                publish_ranked(&mut client, &queue, &[("g", 2)]);
                client.reject(1, tag, true);
                client.sync(1);
                let left = if overflow == "drop-head" { 3 } else { 4 };
                client.take_all(1, &queue, left);
                let died = match (dead, overflow) {
                    (false, _) | (_, "reject-publish") => 0,
                    (_, "drop-head") => 4,
                    _ => 3,
                };
                client.take_all(1, "dead", died);
            }
        }
    });
}

#[test]
fn priorities_and_bytes() {
    compare(|script| {
        let mut client = script.open("a");
        client.confirms(1);
        let arguments = table([
            ("x-max-length-bytes", 10.into()),
            ("x-max-priority", 3.into()),
        ]);
        client.declare_with(1, "q", &arguments);
        publish_ranked(
            &mut client,
            "q",
            &[
                ("aaaaa", 0),
                ("bbb", 2),
                ("cc", 1),
                ("d", 3),
                ("eeeeeeeeeeeee", 3),
                ("ff", 0),
            ],
        );
        client.count(1, "q");
        for _ in 0..4 {
            client.get(1, "q", true);
        }
    });
}

/// What has expired behind the head goes as soon as the head goes, whichever way.
#[test]
fn what_expired_behind_the_head() {
    compare(|script| {
        let mut client = script.open("a");
        client.confirms(1);
        client.declare(1, "dead");
        let arguments = with(client.dead_letters_to("dead"), [("x-max-length", 2.into())]);
        let brief = BasicProperties::new().expiration("0");
        for way in ["length", "fetched", "delivered", "purged", "given back"] {
            script.note(way);
            client.declare_with(1, way, &arguments);
            client.publish_confirmed(1, way, "head");
            client.publish_with(1, way, &brief, "behind");
            client.until("BasicAck");
            match way {
                "length" => {
                    client.publish_confirmed(1, way, "last");
                }
                "fetched" => client.get(1, way, false),
                "delivered" => {
                    client.open_channel(2);
                    client.qos(2, 1, false);
                    client.consume(2, way, "c");
                    client.until("BasicDeliver");
                }
                "purged" => client.purge(1, way),
                _ => {
                    client.get(1, way, false);
                    client.publish_confirmed(1, way, "one");
                    client.publish_with(1, way, &brief, "two");
                    client.until("BasicAck");
                    client.requeue_last(1);
                }
            }
            client.sync(1);
            // The head dies as well where it has no room any more.
            let dead = match way {
                "purged" => 0,
                "fetched" | "delivered" => 1,
                _ => 2,
            };
            client.take_all(1, "dead", dead);
            client.get(1, "dead", true);
            client.count(1, way);
        }
    });
}

/// Only the head is looked at, and each priority has one of its own that is the queue's when nothing higher is left.
#[test]
fn priorities_and_times() {
    compare(|script| {
        let mut client = script.open("a");
        client.confirms(1);
        let dead = with(
            client.dead_letters_to("dead"),
            [("x-max-priority", 3.into())],
        );
        client.declare(1, "dead");
        client.declare_with(1, "q", &dead);
        for (body, priority, expiration) in [
            ("keep high", 3, "3600000"),
            ("brief high", 3, "1"),
            ("brief low", 1, "1"),
            ("keep low", 1, ""),
        ] {
            let mut properties = BasicProperties::new().priority(priority);
            if !expiration.is_empty() {
                properties = properties.expiration(expiration);
            }
            client.publish_with(1, "q", &properties, body);
            client.until("BasicAck");
        }
        client.await_expiry("1");
        client.count(1, "q");
        client.get(1, "q", true);
        client.await_count(1, "dead", 2);
        client.count(1, "q");
        client.get(1, "q", true);
        client.get(1, "dead", true);
        client.get(1, "dead", true);
    });
}

/// A count for each queue and reason, the last one first.
#[test]
fn deaths_of_several_reasons_are_counted() {
    compare(|script| {
        if script.version < (4, 0) {
            return script.note("RabbitMQ 3 counts by other rules");
        }
        let mut client = script.open("a");
        let one = with(client.dead_letters_to("two"), [("x-max-length", 1.into())]);
        let two = with(client.dead_letters_to("one"), [("x-max-length", 2.into())]);
        client.declare_with(1, "one", &one);
        client.declare_with(1, "two", &two);
        client.publish(1, "one", "m");
        client.await_count(1, "one", 1);
        script.note("length");
        client.publish(1, "one", "n");
        client.await_count(1, "two", 1);
        client.get(1, "two", false);
        script.note("rejected");
        client.reject(1, client.last_tag, false);
        // Pushes out the other one.
        client.await_count(1, "two", 1);
        client.get(1, "one", false);
        script.note("rejected again");
        client.nack(1, client.last_tag, false, false);
        client.await_count(1, "two", 2);
        client.get(1, "two", true);
        client.get(1, "two", false);
        script.note("and again");
        client.nack(1, client.last_tag, false, false);
        client.await_count(1, "one", 1);
        client.fetch_and_reject(1, "one");
        client.take_all(1, "two", 1);
        script.note("to itself, by the routing key that it came with");
        let own = table([
            ("x-dead-letter-exchange", "".into()),
            ("x-max-length", 1.into()),
        ]);
        client.declare_with(1, "own", &own);
        client.publish(1, "own", "a");
        client.publish(1, "own", "b");
        client.sync(1);
        client.await_count(1, "own", 1);
        client.fetch_and_reject(1, "own");
        client.await_count(1, "own", 1);
        client.publish(1, "own", "c");
        client.sync(1);
        client.get(1, "own", true);
        client.get(1, "own", true);
        client.declare(1, "none");
    });
}

/// Through exchanges of each type, with keys that were copied, and by an alternate exchange.
#[test]
fn dead_letters_are_routed_as_messages_are() {
    compare(|script| {
        if script.version < (4, 0) {
            return script.note("RabbitMQ 3 has fewer headers, and another order");
        }
        let mut client = script.open("a");
        let none = FieldTable::new();
        let targets = ["by-key", "by-header", "by-both", "rest"];
        for queue in targets {
            client.declare(1, queue);
        }
        client.exchange(1, "rest-x", "fanout");
        client.bind(1, "rest", "rest-x", "");
        let alternate = table([("alternate-exchange", script.name("rest-x").as_str().into())]);
        client.exchange_with(1, "direct", "direct", "", &alternate);
        client.exchange_with(1, "headers", "headers", "", &alternate);
        client.exchange_with(1, "inner", "headers", "internal", &none);
        client.bind(1, "by-key", "direct", "cc");
        client.bind(1, "by-both", "direct", "cc");
        client.bind(1, "by-both", "direct", "other");
        // The headers of the death are there when it is routed.
        let reason = table([
            ("x-match", "all-with-x".into()),
            ("x-first-death-reason", "rejected".into()),
        ]);
        client.bind_with(1, "by-header", "headers", "", &reason);
        client.bind_with(1, "by-header", "inner", "", &table([("h", 1.into())]));
        let properties = BasicProperties::new()
            .header("h", 1)
            .header("CC", FieldValue::array(["cc", "other"]))
            .header("BCC", FieldValue::array(["blind"]));
        for (queue, exchange, routed) in [
            ("a", "direct", [1, 0, 1, 1]),
            ("b", "headers", [0, 2, 0, 0]),
            ("c", "inner", [0, 1, 0, 0]),
            ("d", "gone", [0, 0, 0, 0]),
        ] {
            script.note(exchange);
            let dead = table([(
                "x-dead-letter-exchange",
                script.name(exchange).as_str().into(),
            )]);
            client.declare_with(1, queue, &dead);
            for how in ["reject", "key"] {
                let properties = match how {
                    "reject" => properties.clone(),
                    _ => BasicProperties::new().header("h", 2),
                };
                client.publish_with(1, queue, &properties, how);
                client.await_count(1, queue, 1);
                client.fetch_and_reject(1, queue);
            }
            client.sync(1);
            for (target, messages) in targets.into_iter().zip(routed) {
                client.take_all(1, target, messages);
                client.get(1, target, true);
            }
        }
    });
}

/// Neither deleting nor expiring a queue, nor purging it, is a death of its messages.
#[test]
fn queues_that_go_take_their_messages_along() {
    compare(|script| {
        let mut client = script.open("a");
        let dead = client.dead_letters_to("dead");
        client.declare(1, "dead");
        client.declare_with(1, "brief", &with(dead.clone(), [("x-expires", 100.into())]));
        client.publish(1, "brief", "m");
        client.await_gone(1, "brief");
        client.declare_as(1, "auto", "auto_delete", &dead);
        client.qos(1, 1, false);
        client.consume(1, "auto", "c");
        client.publish(1, "auto", "1");
        client.deliver(1, "auto", &["2"]);
        client.cancel(1, "c");
        client.await_gone(1, "auto");
        client.ack(1, 1, false);
        client.sync(1);
        client.count(1, "dead");
    });
}

/// What was fetched or delivered, and what deleting a queue counts.
#[test]
fn what_is_unacknowledged_is_not_counted() {
    compare(|script| {
        let mut client = script.open("a");
        let none = FieldTable::new();
        client.declare(1, "q");
        client.publish_all(1, "q", &["1", "2", "3", "4"]);
        client.await_count(1, "q", 4);
        client.get(1, "q", false);
        client.qos(1, 1, false);
        client.consume(1, "q", "c");
        client.until("BasicDeliver");
        client.count(1, "q");
        client.open_channel(2);
        for (if_unused, if_empty) in [(true, true), (true, false), (false, true)] {
            client.delete_queue_if(2, "q", if_unused, if_empty);
            client.sync(2);
        }
        client.purge(2, "q");
        client.until("QueuePurgeOk");
        script.note("empty, but not unused, and with messages that may come back");
        client.delete_queue_if(2, "q", true, true);
        client.sync(2);
        client.cancel(1, "c");
        client.delete_queue_if(2, "q", true, true);
        client.until("QueueDeleteOk");
        client.nack(1, 0, true, true);
        client.sync(1);
        client.try_declare(2, "q", "passive", &none);
    });
}

#[test]
fn exchanges_in_use_are_kept_if_asked() {
    compare(|script| {
        let mut client = script.open("a");
        client.declare(1, "q");
        client.exchange(1, "source", "fanout");
        client.exchange(1, "target", "fanout");
        client.bind_exchange(1, "target", "source", "");
        script.note("one with a binding, and one that is only bound to");
        client.delete_exchange(1, "source", true);
        client.sync(1);
        client.delete_exchange(1, "target", true);
        client.sync(1);
        client.delete_exchange(1, "source", true);
        client.sync(1);
        client.delete_exchange(1, "source", true);
        client.sync(1);
        script.note("with a queue");
        client.exchange(1, "source", "direct");
        client.bind(1, "q", "source", "k");
        client.delete_exchange(1, "source", true);
        client.sync(1);
        client.delete_queue(1, "q");
        client.until("QueueDeleteOk");
        client.delete_exchange(1, "source", true);
        client.sync(1);
        client.delete_exchange(1, "amq.fanout", true);
        client.sync(1);
        client.delete_exchange(1, "amq.fan", true);
        client.sync(1);
        client.delete_exchange(1, "", true);
        client.sync(1);
    });
}
