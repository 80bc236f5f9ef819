//! The edges of names, tags, transactions and arguments.

use super::super::transcript::{compare, content_header, table};
use crate::protocol::method::Method;
use crate::{BasicProperties, FieldTable, FieldValue};

/// Names as long as can be, and of bytes that are no text.
#[test]
fn names_of_any_bytes() {
    compare(|script| {
        if script.version < (4, 0) {
            return script.note("RabbitMQ 3 sends such bytes back as they are");
        }
        let none = FieldTable::new();
        let arguments = (&none).into();
        let no_wait = false;
        let names: [Vec<u8>; 3] = [vec![b'l'; 255], b"\xff\xfe".to_vec(), b"a\0b".to_vec()];
        for name in &names {
            script.note(format!("{:?}...", String::from_utf8_lossy(&name[..2])));
            let name: &[u8] = name;
            let queue = name.into();
            for method in [
                Method::QueueDeclare {
                    queue,
                    passive: true,
                    durable: false,
                    exclusive: false,
                    auto_delete: false,
                    no_wait,
                    arguments,
                },
                Method::QueueDeclare {
                    queue,
                    passive: false,
                    durable: false,
                    exclusive: true,
                    auto_delete: false,
                    no_wait,
                    arguments,
                },
                Method::ExchangeDeclare {
                    exchange: queue,
                    exchange_type: "direct".into(),
                    passive: false,
                    durable: false,
                    auto_delete: true,
                    internal: false,
                    no_wait,
                    arguments,
                },
                Method::ExchangeDeclare {
                    exchange: queue,
                    exchange_type: queue,
                    passive: false,
                    durable: false,
                    auto_delete: true,
                    internal: false,
                    no_wait,
                    arguments,
                },
                Method::QueueBind {
                    queue,
                    exchange: queue,
                    routing_key: queue,
                    no_wait,
                    arguments,
                },
                Method::BasicConsume {
                    queue,
                    consumer_tag: queue,
                    no_local: false,
                    no_ack: true,
                    exclusive: false,
                    no_wait,
                    arguments,
                },
                Method::BasicGet {
                    queue,
                    no_ack: true,
                },
                Method::QueueDelete {
                    queue,
                    if_unused: false,
                    if_empty: false,
                    no_wait,
                },
                Method::ExchangeDelete {
                    exchange: queue,
                    if_unused: false,
                    no_wait,
                },
            ] {
                let mut client = script.open("a");
                client.send(1, &method);
                client.sync(1);
                if let Method::ExchangeDeclare { .. } = method {
                    client.send(
                        1,
                        &Method::ExchangeDelete {
                            exchange: queue,
                            if_unused: false,
                            no_wait,
                        },
                    );
                    client.sync(1);
                }
            }
            let mut client = script.open("publisher");
            let publish = Method::BasicPublish {
                exchange: "".into(),
                routing_key: queue,
                mandatory: true,
                immediate: false,
            };
            client.send(1, &publish);
            client.raw(2, 1, &content_header(0));
            client.sync(1);
            let publish = Method::BasicPublish {
                exchange: queue,
                routing_key: queue,
                mandatory: true,
                immediate: false,
            };
            client.send(1, &publish);
            client.raw(2, 1, &content_header(0));
            client.sync(1);
        }
    });
}

/// Where a connection opens and closes, too.
#[test]
fn names_of_any_bytes_outside_of_a_channel() {
    compare(|script| {
        let bad: &[u8] = b"\xff";
        let close = |class_id| Method::ChannelClose {
            reply_code: 200,
            reply_text: bad.into(),
            class_id,
            method_id: 0,
        };
        let mut client = script.open("channel");
        client.send(1, &close(0));
        client.agree_or_end();
        let mut client = script.open("connection");
        client.send(
            0,
            &Method::ConnectionClose {
                reply_code: 200,
                reply_text: bad.into(),
                class_id: 0,
                method_id: 0,
            },
        );
        client.agree_or_end();
        let mut client = script.log_in("vhost");
        client.tune_ok(10, 131_072, 0);
        client.send(
            0,
            &Method::ConnectionOpen {
                virtual_host: bad.into(),
            },
        );
        client.agree_or_end();
        let mut client = script.greet("mechanism");
        client.until("ConnectionStart");
        client.send(
            0,
            &Method::ConnectionStartOk {
                client_properties: (&FieldTable::new()).into(),
                mechanism: "PLAIN".into(),
                response: b"\0guest\0guest",
                locale: bad.into(),
            },
        );
        client.agree_or_end();
    });
}

/// What stands in a message, and in the texts about it.
#[test]
fn properties_of_any_bytes() {
    compare(|script| {
        if script.version < (4, 0) {
            return script.note("RabbitMQ 3 looks at them in another order");
        }
        let properties: [(&str, &[u8]); 4] = [
            ("content_type", &[0x80, 0, 1, 0xff]),
            ("expiration", &[0x01, 0, 2, b'1', 0xff]),
            ("message_id", &[0, 0x80, 1, 0xff]),
            ("user_id", &[0, 0x10, 2, b'u', 0xff]),
        ];
        for (what, bytes) in properties {
            script.note(what);
            let mut client = script.open("a");
            client.declare(1, "q");
            let key = client.name("q");
            let publish = Method::BasicPublish {
                exchange: "".into(),
                routing_key: key.as_str().into(),
                mandatory: true,
                immediate: false,
            };
            client.send(1, &publish);
            let mut header = vec![0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            header.extend_from_slice(bytes);
            client.raw(2, 1, &header);
            client.sync(1);
            client.get(1, "q", true);
            client.close();
        }
    });
}

/// In arguments, where they are compared.
#[test]
fn arguments_of_any_bytes() {
    compare(|script| {
        if script.version < (4, 0) {
            return script.note("RabbitMQ 3 sends such bytes back as they are");
        }
        let mut client = script.open("a");
        let odd = FieldValue::Bytes(b"\xff\xe9".to_vec());
        let text = FieldValue::Text(b"\xff\xe9".to_vec());
        for key in [
            "x-dead-letter-exchange",
            "x-queue-type",
            "x-overflow",
            "x-other",
        ] {
            for value in [&text, &odd] {
                if script.version < (4, 0) && matches!(value, FieldValue::Bytes(_)) {
                    continue;
                }
                script.note(format!("{key} {value:?}"));
                client.queue(1, "q", "", &table([(key, value.clone())]));
                client.sync(1);
                client.queue(1, "q", "", &table([(key, "other".into())]));
                client.sync(1);
                client.delete_queue(1, "q");
                client.sync(1);
            }
        }
    });
}

#[test]
fn cancelling_what_is_not_there() {
    compare(|script| {
        let mut client = script.open("a");
        client.declare(1, "q");
        client.cancel(1, "nobody");
        client.cancel(1, "");
        client.consume(1, "q", "c");
        client.cancel(1, "c");
        client.cancel(1, "c");
        script.note("the tag is free, and on another channel it always was");
        client.consume(1, "q", "c");
        client.open_channel(2);
        client.consume(2, "q", "c");
        client.cancel(2, "c");
        client.count(1, "q");
        script.note("a reply to nothing cancels as well, which is no method before 4.3");
        if script.version >= (4, 3) {
            client.send(
                1,
                &Method::BasicCancelOk {
                    consumer_tag: "c".into(),
                },
            );
            client.sync(1);
            client.count(1, "q");
        }
        script.note("by a tag that was made");
        client.consume(1, "q", "");
        client.consume(1, "q", "");
        client.count(1, "q");
    });
}

#[test]
fn transactions_with_deliveries_and_their_ends() {
    compare(|script| {
        let mut client = script.open("a");
        let mut watcher = script.open("watcher");
        client.declare(1, "dead");
        let dead = client.dead_letters_to("dead");
        client.declare_with(1, "q", &dead);
        watcher.publish_all(1, "q", &["1", "2", "3", "4", "5", "6"]);
        watcher.await_count(1, "q", 6);
        client.select(1);
        client.select(1);
        client.qos(1, 2, false);
        client.consume(1, "q", "c");
        client.take(2);
        script.note("what is acknowledged counts until the end of the transaction");
        client.ack(1, 1, false);
        client.sync(1);
        client.commit(1);
        client.until("BasicDeliver");
        script.note("rolled back");
        client.nack(1, 2, false, true);
        client.nack(1, 3, false, false);
        client.sync(1);
        client.rollback(1);
        client.sync(1);
        watcher.count(1, "q");
        client.ack(1, 3, true);
        client.commit(1);
        client.take(2);
        script.note("recovering takes what is not acknowledged in it");
        client.ack(1, 4, false);
        client.recover(1);
        client.until("BasicDeliver");
        client.sync(1);
        client.nack(1, 6, false, false);
        client.commit(1);
        client.until("BasicDeliver");
        watcher.await_count(1, "dead", 1);
        script.note("the channel closes in the middle");
        client.publish(1, "q", "never");
        client.ack(1, 0, true);
        client.close_channel(1);
        watcher.await_count(1, "q", 1);
        watcher.get(1, "q", true);
        watcher.get(1, "q", true);
    });
}

#[test]
fn limits_of_nothing() {
    compare(|script| {
        let mut client = script.open("a");
        client.declare(1, "dead");
        client.confirms(1);
        for (queue, key, died) in [
            ("no-length", "x-max-length", [2, 0, 2]),
            ("no-bytes", "x-max-length-bytes", [2, 0, 1]),
            ("no-time", "x-message-ttl", [2, 2, 2]),
            ("no-priority", "x-max-priority", [0, 0, 0]),
        ] {
            let overflows = ["drop-head", "reject-publish", "reject-publish-dlx"];
            for (overflow, died) in overflows.into_iter().zip(died) {
                let queue = format!("{queue}-{overflow}");
                script.note(&queue);
                let mut arguments = client.dead_letters_to("dead");
                arguments.insert(key, 0);
                arguments.insert("x-overflow", overflow);
                client.declare_with(1, &queue, &arguments);
                for body in ["", "m"] {
                    client.publish(1, &queue, body);
                    client.take(1);
                }
                client.sync(1);
                client.take_all(1, "dead", died);
                client.get(1, "dead", true);
                client.count(1, &queue);
                client.get(1, &queue, true);
                client.get(1, &queue, true);
            }
        }
    });
}

/// A message may name a key twice, in `CC` as well, and be bound several times: each queue gets it once.
#[test]
fn each_queue_gets_a_message_once() {
    compare(|script| {
        let mut client = script.open("a");
        let none = FieldTable::new();
        client.declare(1, "q");
        client.declare(1, "p");
        for exchange in ["x", "y"] {
            client.exchange(1, exchange, "direct");
        }
        for key in ["a", "b"] {
            client.bind(1, "q", "x", key);
            client.bind(1, "q", "y", key);
        }
        client.bind_with(1, "q", "x", "a", &table([("other", 1.into())]));
        let names = ["x", "y"].map(|name| client.name(name));
        for key in ["a", "b"] {
            client.send(
                1,
                &Method::ExchangeBind {
                    destination: names[1].as_str().into(),
                    source: names[0].as_str().into(),
                    routing_key: key.into(),
                    no_wait: false,
                    arguments: (&none).into(),
                },
            );
            client.until("ExchangeBindOk");
        }
        // What is confirmed is in its queues.
        client.confirms(1);
        let (q, p) = (client.name("q"), client.name("p"));
        for (exchange, key, copies) in [
            ("x", "a", vec!["a", "b", "a"]),
            ("x", "b", vec![]),
            ("", q.as_str(), vec![q.as_str(), p.as_str(), p.as_str()]),
            ("", "nobody", vec![p.as_str(), "nobody"]),
        ] {
            let mut properties = BasicProperties::new();
            if !copies.is_empty() {
                properties = properties
                    .header("CC", FieldValue::array(copies.clone()))
                    .header("BCC", FieldValue::array(copies));
            }
            client.publish_to(1, exchange, key, &properties, "m", true);
            client.until("BasicAck");
            for queue in ["q", "p"] {
                client.count(1, queue);
                client.purge(1, queue);
                client.sync(1);
            }
        }
    });
}

/// Declared for one connection, to go with the last consumer, and to last: what of that holds.
#[test]
fn flags_of_queues_together() {
    compare(|script| {
        let mut client = script.open("a");
        let mut other = script.open("b");
        let none = FieldTable::new();
        for flags in [
            "exclusive durable",
            "exclusive auto_delete",
            "exclusive durable auto_delete",
            "durable auto_delete",
        ] {
            script.note(flags);
            client.try_declare(1, "q", flags, &none);
            for second in [flags, "", "exclusive", "durable", "auto_delete", "passive"] {
                client.try_declare(1, "q", second, &none);
                other.try_declare(1, "q", second, &none);
            }
            client.consume(1, "q", "c");
            client.cancel(1, "c");
            client.try_declare(1, "q", "passive", &none);
            client.delete_queue(1, "q");
            client.sync(1);
        }
    });
}

/// A time of its own that a message has lost with its first death, and that its next queue has for all.
#[test]
fn times_and_deaths_one_after_the_other() {
    compare(|script| {
        if script.version < (4, 0) {
            return script.note("RabbitMQ 3 has fewer headers, and another order");
        }
        let mut client = script.open("a");
        client.declare(1, "third");
        let mut second = client.dead_letters_to("third");
        second.insert("x-message-ttl", 1);
        client.declare_with(1, "second", &second);
        let mut first = client.dead_letters_to("second");
        first.insert("x-message-ttl", 3_600_000);
        client.declare_with(1, "first", &first);
        for (expiration, how) in [("1", "expired"), ("50000", "rejected"), ("", "rejected")] {
            script.note(format!("{expiration:?}, {how}"));
            let mut properties = BasicProperties::new();
            if !expiration.is_empty() {
                properties = properties.expiration(expiration);
            }
            client.publish_with(1, "first", &properties, "m");
            if how == "rejected" {
                client.await_count(1, "first", 1);
                client.fetch_and_reject(1, "first");
            }
            client.take_all(1, "third", 1);
        }
    });
}
