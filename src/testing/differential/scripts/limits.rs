//! Queues with limits, and declarations that are refused.

use super::super::transcript::{compare, table, Client};
use crate::{BasicProperties, FieldTable, FieldValue};

fn fill(client: &mut Client, queue: &str, bodies: &[&str]) {
    for body in bodies {
        client.publish(1, queue, body);
        client.take(1);
    }
}

#[test]
fn a_full_queue_drops_its_head_or_refuses() {
    compare(|script| {
        let mut client = script.open("a");
        client.confirms(1);
        for (queue, overflow) in [
            ("drop", Some("drop-head")),
            ("default", None),
            ("refuse", Some("reject-publish")),
            ("dead", Some("reject-publish-dlx")),
        ] {
            script.note(queue);
            let mut arguments = table([("x-max-length", 2.into())]);
            if let Some(overflow) = overflow {
                arguments.insert("x-overflow", overflow);
            }
            client.declare_with(1, queue, &arguments);
            fill(&mut client, queue, &["1", "2", "3"]);
            client.count(1, queue);
            client.get(1, queue, false);
            fill(&mut client, queue, &["4", "5"]);
            let tag = client.last_tag;
            client.reject(1, tag, true);
            let room = if overflow.is_some_and(|how| how.starts_with("reject")) {
                3
            } else {
                2
            };
            client.await_count(1, queue, room);
            for _ in 0..4 {
                client.get(1, queue, true);
            }
        }
    });
}

#[test]
fn a_queue_is_full_by_bytes() {
    compare(|script| {
        let mut client = script.open("a");
        client.confirms(1);
        for (queue, overflow) in [("drop", "drop-head"), ("refuse", "reject-publish")] {
            script.note(queue);
            let arguments = table([
                ("x-max-length-bytes", 10.into()),
                ("x-overflow", overflow.into()),
            ]);
            client.declare_with(1, queue, &arguments);
            let large = "x".repeat(11);
            fill(
                &mut client,
                queue,
                &["12345", "12345", "1", "", &large, "1234567890", "1"],
            );
            client.count(1, queue);
            for _ in 0..4 {
                client.get(1, queue, true);
            }
        }
    });
}

#[test]
fn a_queue_without_room_and_a_consumer() {
    compare(|script| {
        let mut client = script.open("a");
        for overflow in ["drop-head", "reject-publish"] {
            let queue = format!("q-{overflow}");
            let arguments = table([("x-max-length", 0.into()), ("x-overflow", overflow.into())]);
            client.declare_with(1, &queue, &arguments);
            client.publish(1, &queue, "lost");
            client.sync(1);
            client.get(1, &queue, true);
            client.consume(1, &queue, overflow);
            client.publish(1, &queue, "taken");
            client.sync(1);
            client.cancel(1, overflow);
            client.count(1, &queue);
        }
    });
}

#[test]
fn several_queues_one_of_them_full() {
    compare(|script| {
        let mut client = script.open("a");
        let full = table([
            ("x-max-length", 1.into()),
            ("x-overflow", "reject-publish".into()),
        ]);
        client.exchange(1, "f", "fanout");
        client.declare(1, "roomy");
        client.declare_with(1, "full", &full);
        client.bind(1, "roomy", "f", "");
        client.bind(1, "full", "f", "");
        client.confirms(1);
        for body in ["1", "2", "3"] {
            client.publish_to(1, "f", "", &BasicProperties::new(), body, true);
            client.take(1);
        }
        client.await_count(1, "roomy", 3);
        client.count(1, "full");
    });
}

#[test]
fn arguments_of_queues_are_checked_with_the_same_words() {
    compare(|script| {
        let mut client = script.open("a");
        let values = [
            FieldValue::from(-1),
            FieldValue::from(0),
            FieldValue::from(256),
            FieldValue::from(315_360_000_001_i64),
            FieldValue::from("text"),
            FieldValue::from(""),
            FieldValue::Bool(true),
            FieldValue::F64(1.5),
            FieldValue::timestamp(5),
            FieldValue::Void,
            FieldValue::array([1]),
            FieldValue::Table(table([("k", "v".into())])),
            FieldValue::Bytes(b"b".to_vec()),
        ];
        let keys = [
            "x-expires",
            "x-message-ttl",
            "x-dead-letter-exchange",
            "x-dead-letter-routing-key",
            "x-max-length",
            "x-max-length-bytes",
            "x-max-priority",
            "x-overflow",
            "x-single-active-consumer",
            "x-queue-mode",
            "x-other",
        ];
        for key in keys {
            // Classic queues have no modes any more in 4.3.
            if script.version < (4, 3) && key == "x-queue-mode" {
                continue;
            }
            for value in &values {
                // RabbitMQ 3 checks some of them less, or in other words.
                let odd = matches!(
                    value,
                    FieldValue::Void | FieldValue::Bytes(_) | FieldValue::Timestamp(_)
                );
                if script.version < (4, 0) && odd {
                    continue;
                }
                script.note(format!("{key} {value:?}"));
                client.queue(1, "q", "", &table([(key, value.clone())]));
                client.sync(1);
                client.delete_queue(1, "q");
            }
        }
    });
}

#[test]
fn a_second_declaration_must_be_the_same() {
    compare(|script| {
        let mut client = script.open("a");
        let first = table([
            ("x-message-ttl", 60_000.into()),
            ("x-max-length", 5.into()),
            ("x-dead-letter-exchange", "dlx".into()),
            ("x-other", 1.into()),
        ]);
        client.declare_with(1, "q", &first);
        for (flags, change) in [
            ("", None),
            ("durable", None),
            ("auto_delete", None),
            ("exclusive", None),
            ("", Some(("x-message-ttl", FieldValue::from(60_001)))),
            ("", Some(("x-message-ttl", FieldValue::I64(60_000)))),
            ("", Some(("x-message-ttl", FieldValue::from("60000")))),
            ("", Some(("x-max-length", FieldValue::Void))),
            (
                "",
                Some(("x-dead-letter-exchange", FieldValue::from("other"))),
            ),
            ("", Some(("x-other", FieldValue::from(2)))),
            ("", Some(("x-expires", FieldValue::from(1000)))),
            ("", Some(("x-max-priority", FieldValue::from(3)))),
            ("durable", Some(("x-expires", FieldValue::from(-1)))),
        ] {
            script.note(format!("{flags} {change:?}"));
            let mut arguments = first.clone();
            if let Some((key, value)) = change {
                if script.version < (4, 0) && value == FieldValue::Void {
                    continue;
                }
                arguments.insert(key, value);
            }
            client.try_declare(1, "q", flags, &arguments);
        }
        for key in ["x-message-ttl", "x-other"] {
            script.note(format!("without {key}"));
            let mut arguments = first.clone();
            arguments.remove(key);
            client.try_declare(1, "q", "", &arguments);
        }
        client.try_declare(1, "q", "passive", &FieldTable::new());
        client.try_declare(1, "q", "passive no_wait", &FieldTable::new());
        client.try_declare(1, "missing", "passive no_wait", &FieldTable::new());
    });
}

#[test]
fn queues_are_deleted_and_purged_with_the_same_words() {
    compare(|script| {
        let mut client = script.open("a");
        client.delete_queue(1, "missing");
        client.sync(1);
        client.purge(1, "missing");
        client.sync(1);
        client.get(1, "missing", true);
        client.sync_or_open(1);
        client.consume(1, "missing", "c");
        client.sync_or_open(1);
        client.declare(1, "q");
        client.publish(1, "q", "1");
        client.publish(1, "q", "2");
        client.get(1, "q", false);
        client.purge(1, "q");
        client.sync(1);
        client.ack(1, client.last_tag, false);
        client.publish(1, "q", "3");
        client.delete_queue(1, "q");
        client.sync(1);
    });
}

/// Methods that make or delete something take line breaks out of names, and others do not.
#[test]
fn line_breaks_in_names() {
    compare(|script| {
        let mut client = script.open("a");
        let none = FieldTable::new();
        client.declare(1, "q");
        client.exchange(1, "e", "fanout");
        let (queue, exchange) = ("q\r\n", "\ne");
        client.try_declare(1, queue, "", &none);
        client.try_declare(1, queue, "passive", &none);
        client.exchange(1, exchange, "fanout");
        client.exchange_with(1, exchange, "fanout", "passive", &none);
        client.bind(1, queue, exchange, "");
        client.publish_to(1, exchange, "", &BasicProperties::new(), "m", false);
        client.sync(1);
        client.publish(1, queue, "m");
        client.sync(1);
        client.get(1, queue, true);
        client.sync_or_open(1);
        client.consume(1, queue, "c");
        client.sync_or_open(1);
        client.purge(1, queue);
        client.sync(1);
        client.purge(1, "\n");
        client.sync(1);
        client.try_declare(1, "\n", "passive", &none);
        client.delete_queue(1, queue);
        client.sync(1);
        client.count(1, "q");
    });
}

/// What is behind a line break in a name, and names that are not text.
#[test]
fn odd_names() {
    compare(|script| {
        let mut client = script.open("a");
        let none = FieldTable::new();
        for name in [
            "with\nbreak",
            "with space",
            "n\u{e9}",
            "'quoted'",
            "~s ~p",
            "a/b",
        ] {
            client.declare(1, name);
            client.try_declare(1, name, "durable", &none);
            client.delete_queue(1, name);
            client.sync(1);
        }
        let long = "l".repeat(200);
        client.try_declare(1, &long, "passive", &none);
    });
}
