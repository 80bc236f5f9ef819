//! Exchanges: where messages go.

use super::super::transcript::{compare, table, Client};
use crate::{BasicProperties, FieldTable, FieldValue};

/// Empties the queues, which writes down how many messages each had: so where a message went.
fn purge_all(client: &mut Client, queues: &[&str]) {
    client.sync(1);
    for queue in queues {
        client.purge(1, queue);
        client.until("QueuePurgeOk");
    }
}

#[test]
fn headers_exchanges_match_in_all_their_ways() {
    compare(|script| {
        let mut client = script.open("a");
        client.exchange(1, "h", "headers");
        let ways: [Option<&str>; 5] = [
            None,
            Some("all"),
            Some("any"),
            Some("all-with-x"),
            Some("any-with-x"),
        ];
        let mut queues = Vec::new();
        let wanted = [
            vec![],
            vec![("a", FieldValue::from(1))],
            vec![("a", FieldValue::from(1)), ("b", FieldValue::from("two"))],
            vec![("x-a", FieldValue::from(1)), ("a", FieldValue::from(1))],
            vec![("a", FieldValue::Void)],
        ];
        for (number, fields) in wanted.iter().enumerate() {
            for way in ways {
                let queue = format!("q-{number}-{}", way.unwrap_or("default"));
                client.declare(1, &queue);
                let mut arguments: FieldTable = fields.iter().cloned().collect();
                if let Some(way) = way {
                    arguments.insert("x-match", way);
                }
                client.bind_with(1, &queue, "h", "", &arguments);
                queues.push(queue);
            }
        }
        let names: Vec<&str> = queues.iter().map(String::as_str).collect();
        let messages = [
            vec![],
            vec![("a", FieldValue::from(1))],
            vec![("a", FieldValue::from(2)), ("b", FieldValue::from("two"))],
            vec![("a", FieldValue::from(1u8)), ("b", FieldValue::from("two"))],
            vec![("a", FieldValue::from(1)), ("x-a", FieldValue::from(1))],
            vec![("x-a", FieldValue::from(1))],
            vec![("a", FieldValue::Void)],
        ];
        for fields in messages {
            script.note(format!("{fields:?}"));
            let mut properties = BasicProperties::new();
            properties.headers = Some(fields.into_iter().collect());
            client.publish_to(1, "h", "", &properties, "m", false);
            purge_all(&mut client, &names);
        }
        script.note("no headers");
        client.publish_to(1, "h", "", &BasicProperties::new(), "m", false);
        purge_all(&mut client, &names);
    });
}

#[test]
fn headers_are_compared_by_value() {
    compare(|script| {
        if script.version < (4, 0) {
            return script.note("RabbitMQ 3 compares some of these otherwise");
        }
        let values = [
            FieldValue::Bool(true),
            FieldValue::Bool(false),
            FieldValue::I8(1),
            FieldValue::U8(1),
            FieldValue::I16(1),
            FieldValue::I32(1),
            FieldValue::I64(1),
            FieldValue::F32(1.0),
            FieldValue::F64(1.0),
            FieldValue::F64(1.5),
            FieldValue::F32(1.5),
            FieldValue::from("1"),
            FieldValue::from("true"),
            FieldValue::Bytes(b"1".to_vec()),
            FieldValue::timestamp(1),
            FieldValue::Decimal { scale: 0, value: 1 },
            FieldValue::array([1]),
            FieldValue::Table(table([("k", 1.into())])),
            FieldValue::Void,
        ];
        let mut client = script.open("a");
        client.exchange(1, "h", "headers");
        let mut queues = Vec::new();
        for (number, value) in values.iter().enumerate() {
            let queue = format!("q{number}");
            client.declare(1, &queue);
            client.bind_with(1, &queue, "h", "", &table([("k", value.clone())]));
            queues.push(queue);
        }
        let names: Vec<&str> = queues.iter().map(String::as_str).collect();
        for value in values {
            script.note(format!("{value:?}"));
            let properties = BasicProperties::new().header("k", value);
            client.publish_to(1, "h", "", &properties, "m", false);
            purge_all(&mut client, &names);
        }
    });
}

#[test]
fn bindings_of_headers_exchanges_are_checked() {
    compare(|script| {
        let mut client = script.open("a");
        client.exchange(1, "h", "headers");
        client.exchange(1, "d", "direct");
        client.declare(1, "q");
        for how in [
            FieldValue::from("All"),
            FieldValue::from(""),
            FieldValue::from("any-x"),
            FieldValue::from("n\u{e9}\n"),
            FieldValue::from(1),
            FieldValue::Void,
            FieldValue::Bool(true),
            FieldValue::array([1]),
            FieldValue::Table(table([("a", 1.into())])),
        ] {
            // RabbitMQ 3 prints other letters than ASCII otherwise.
            if script.version < (4, 0) && how.as_str().is_some_and(|text| !text.is_ascii()) {
                continue;
            }
            script.note(format!("{how:?}"));
            for exchange in ["h", "d"] {
                client.bind_with(1, "q", exchange, "", &table([("x-match", how.clone())]));
                client.sync_or_open(1);
            }
        }
    });
}

#[test]
fn messages_go_from_exchange_to_exchange() {
    compare(|script| {
        let mut client = script.open("a");
        client.exchange(1, "f", "fanout");
        client.exchange(1, "t", "topic");
        client.exchange(1, "d", "direct");
        for queue in ["q1", "q2", "q3"] {
            client.declare(1, queue);
        }
        client.bind_exchange(1, "t", "f", "");
        client.bind_exchange(1, "d", "t", "a.*");
        client.bind_exchange(1, "f", "d", "a.b");
        client.bind_exchange(1, "f", "f", "");
        client.bind(1, "q1", "f", "");
        client.bind(1, "q2", "t", "#.b");
        client.bind(1, "q3", "d", "a.b");
        client.bind(1, "q3", "d", "a.c");
        for (exchange, key) in [
            ("f", "a.b"),
            ("f", "x"),
            ("t", "a.c"),
            ("d", "a.b"),
            ("d", "a.c"),
            ("d", ""),
        ] {
            script.note(format!("{exchange} {key}"));
            client.publish_to(1, exchange, key, &BasicProperties::new(), "m", true);
            purge_all(&mut client, &["q1", "q2", "q3"]);
        }
        script.note("errors");
        client.bind_exchange(1, "missing", "f", "");
        client.sync_or_open(1);
        client.bind_exchange(1, "f", "missing", "");
        client.sync_or_open(1);
        client.bind_exchange(1, "", "f", "");
        client.sync_or_open(1);
        client.bind_exchange(1, "f", "", "");
        client.sync_or_open(1);
        client.bind(1, "q1", "", "k");
        client.sync_or_open(1);
        client.bind(1, "missing", "f", "k");
        client.sync_or_open(1);
        client.bind(1, "q1", "missing", "k");
        client.sync_or_open(1);
        client.bind(1, "missing", "missing", "k");
        client.sync_or_open(1);
    });
}

#[test]
fn alternate_exchanges_take_what_nothing_else_does() {
    compare(|script| {
        let mut client = script.open("a");
        let none = FieldTable::new();
        let to = |name: String| table([("alternate-exchange", name.as_str().into())]);
        client.exchange_with(1, "first", "direct", "", &to(script.name("second")));
        client.exchange_with(1, "second", "topic", "", &to(script.name("third")));
        client.exchange_with(1, "third", "fanout", "", &to(script.name("first")));
        client.exchange_with(1, "lost", "direct", "", &to(script.name("missing")));
        client.exchange(1, "plain", "fanout");
        for queue in ["q1", "q2", "q3"] {
            client.declare(1, queue);
        }
        client.bind(1, "q1", "first", "a");
        client.bind(1, "q2", "second", "b.#");
        client.confirms(1);
        let send = |client: &mut Client, exchange: &str, key: &str| {
            script.note(exchange);
            client.publish_to(1, exchange, key, &BasicProperties::new(), "m", true);
            client.until("BasicAck");
            purge_all(client, &["q1", "q2", "q3"]);
        };
        send(&mut client, "first", "a");
        send(&mut client, "first", "b.x");
        send(&mut client, "first", "c");
        send(&mut client, "lost", "c");
        client.bind(1, "q3", "third", "");
        send(&mut client, "first", "c");
        send(&mut client, "third", "c");
        // An exchange that is bound, but delivers to no queue.
        client.bind_exchange(1, "plain", "first", "p");
        send(&mut client, "first", "p");
        // By way of the default exchange.
        client.exchange_with(1, "default", "direct", "", &to(String::new()));
        let key = client.name("q1");
        if script.version >= (4, 0) {
            send(&mut client, "default", &key);
        }
        script.note("errors");
        for arguments in [
            table([("alternate-exchange", 1.into())]),
            table([("alternate-exchange", "x".into())]),
            none.clone(),
        ] {
            client.exchange_with(1, "first", "direct", "", &arguments);
            client.sync_or_open(1);
        }
        client.exchange_with(
            1,
            "odd",
            "direct",
            "",
            &table([("alternate-exchange", 1.into())]),
        );
        client.sync_or_open(1);
    });
}

#[test]
fn carbon_copies_are_routed_and_blind_ones_not_shown() {
    compare(|script| {
        let mut client = script.open("a");
        for queue in ["q1", "q2", "q3"] {
            client.declare(1, queue);
        }
        client.exchange(1, "d", "direct");
        for (queue, key) in [("q1", "k1"), ("q2", "k2"), ("q3", "k3")] {
            client.bind(1, queue, "d", key);
        }
        let properties = BasicProperties::new()
            .header("CC", FieldValue::array(["k2", "nobody"]))
            .header("BCC", FieldValue::array(["k3"]))
            .header("other", 1);
        client.publish_to(1, "d", "k1", &properties, "m", false);
        for queue in ["q1", "q2", "q3"] {
            client.get(1, queue, true);
        }
        client.publish_to(1, "d", "nobody", &properties, "m", true);
        client.get(1, "q3", true);
        let only = BasicProperties::new().header("BCC", FieldValue::array(["k3"]));
        client.publish_to(1, "d", "nobody", &only, "m", true);
        client.sync(1);
        client.get(1, "q3", true);
        let unroutable = BasicProperties::new().header("BCC", FieldValue::array(["k9"]));
        client.publish_to(1, "d", "nobody", &unroutable, "m", true);
        client.sync(1);
    });
}

#[test]
fn topics_match_on_rabbitmq_as_here() {
    compare(|script| {
        let mut client = script.open("a");
        client.exchange(1, "t", "topic");
        let patterns = [
            "", "#", "*", "a", "a.*", "a.#", "#.a", "*.*", "a.#.b", "#.#", "a..b", ".", "*.",
            "a.*.#",
        ];
        let mut queues = Vec::new();
        for (number, pattern) in patterns.iter().enumerate() {
            let queue = format!("q{number}");
            client.declare(1, &queue);
            client.bind(1, &queue, "t", pattern);
            queues.push(queue);
        }
        let names: Vec<&str> = queues.iter().map(String::as_str).collect();
        for key in [
            "", "a", "b", "a.b", "a.b.b", "a..b", ".", "..", "a.", ".a", "*", "#", "a.*",
        ] {
            script.note(key);
            client.publish_to(1, "t", key, &BasicProperties::new(), "m", false);
            purge_all(&mut client, &names);
        }
    });
}

#[test]
fn exchanges_are_declared_and_deleted_with_the_same_words() {
    compare(|script| {
        let mut client = script.open("a");
        let none = FieldTable::new();
        client.exchange_with(1, "e", "direct", "durable", &none);
        for (name, kind, flags) in [
            ("e", "fanout", "durable"),
            ("e", "direct", ""),
            ("e", "direct", "durable auto_delete"),
            ("e", "direct", "durable internal"),
            ("e", "nonsense", "passive"),
            ("missing", "direct", "passive"),
            ("amq.mine", "direct", ""),
            ("amq.direct", "direct", ""),
            ("amq.direct", "direct", "durable"),
            ("amq.direct", "direct", "passive"),
            ("", "direct", ""),
            ("", "direct", "passive"),
            ("x\r\ny", "topic", ""),
        ] {
            script.note(format!("{name:?} {kind} {flags}"));
            client.exchange_with(1, name, kind, flags, &none);
            client.sync_or_open(1);
        }
        if script.version >= (4, 0) {
            client.exchange(1, "n", "nonsense");
            client.sync_or_open(1);
            client.exchange(1, "n", "");
            client.sync_or_open(1);
        }
        client.declare(1, "q");
        client.bind(1, "q", "e", "k");
        for (name, if_unused) in [
            ("e", true),
            ("e", false),
            ("e", false),
            ("missing", true),
            ("", false),
            ("amq.direct", false),
            ("amq.direct", true),
            ("amq.nothing", false),
        ] {
            script.note(format!("delete {name} {if_unused}"));
            client.delete_exchange(1, name, if_unused);
            client.sync_or_open(1);
        }
    });
}

#[test]
fn exchanges_go_with_their_last_binding() {
    compare(|script| {
        let mut client = script.open("a");
        let none = FieldTable::new();
        client.exchange_with(1, "top", "fanout", "auto_delete", &none);
        client.exchange_with(1, "middle", "fanout", "auto_delete", &none);
        client.declare(1, "q");
        client.bind_exchange(1, "middle", "top", "");
        client.bind(1, "q", "middle", "");
        client.delete_queue(1, "q");
        client.sync(1);
        for exchange in ["middle", "top"] {
            client.exchange_with(1, exchange, "fanout", "passive", &none);
            client.sync_or_open(1);
        }
        // Not before there was one.
        client.exchange_with(1, "top", "fanout", "auto_delete", &none);
        client.declare(1, "q");
        client.unbind(1, "q", "top", "never");
        client.sync_or_open(1);
        client.exchange_with(1, "top", "fanout", "passive", &none);
        client.sync_or_open(1);
        client.bind(1, "q", "top", "k");
        client.bind(1, "q", "top", "k");
        client.unbind(1, "q", "top", "k");
        client.sync_or_open(1);
        client.exchange_with(1, "top", "fanout", "passive", &none);
        client.sync_or_open(1);
    });
}
