//! Publishing: returns, confirms, transactions, and what is refused.

use super::super::transcript::{compare, content_header, table, Client};
use crate::protocol::method::Method;
use crate::{BasicProperties, FieldTable, FieldValue};

#[test]
fn what_is_returned_comes_before_its_confirm() {
    compare(|script| {
        let mut client = script.open("a");
        client.declare(1, "q");
        client.exchange(1, "e", "topic");
        client.confirms(1);
        let properties = BasicProperties::new()
            .message_id("7")
            .header("h", "text")
            .content_type("text/plain");
        for (exchange, key, mandatory) in [
            ("", "nobody", true),
            ("e", "nobody", true),
            ("e", "nobody", false),
            ("", "nobody", false),
        ] {
            client.publish_to(1, exchange, key, &properties, "body", mandatory);
            client.until("BasicAck");
        }
        let key = client.name("q");
        client.publish_to(1, "", &key, &properties, "body", true);
        client.until("BasicAck");
        // Without confirms.
        client.open_channel(2);
        client.publish_to(2, "", "nobody", &properties, "", true);
        client.until("BasicReturn");
        client.sync(2);
    });
}

#[test]
fn a_large_message_is_returned_in_frames() {
    compare(|script| {
        let mut client = script.open_with("a", 8192, 0);
        let body = "x".repeat(50_000);
        client.publish_to(1, "", "nobody", &BasicProperties::new(), &body, true);
        client.until("BasicReturn");
    });
}

#[test]
fn messages_that_cannot_be_published_are_refused() {
    compare(|script| {
        let mut client = script.open("a");
        let none = FieldTable::new();
        client.declare(1, "q");
        client.exchange_with(1, "internal", "fanout", "internal", &none);
        let plain = BasicProperties::new();
        let publish = |client: &mut Client, exchange: &str, properties: BasicProperties| {
            let key = client.name("q");
            client.publish_to(1, exchange, &key, &properties, "body", false);
            client.sync(1);
        };
        publish(&mut client, "missing", plain.clone());
        publish(&mut client, "internal", plain.clone());
        publish(&mut client, "amq.rabbitmq.trace", plain.clone());
        for user in ["guest", "root", "", "gu\nest"] {
            publish(&mut client, "", plain.clone().user_id(user));
        }
        for expiration in [
            "",
            "0",
            "1000",
            " 1",
            "1 ",
            "1.5",
            "-1",
            "soon",
            "0x10",
            "+5",
            "315360000000",
            "315360000001",
            "999999999999999999",
            "9999999999999999999",
            "99999999999999999999",
            "999999999999999999999999999999",
        ] {
            publish(&mut client, "", plain.clone().expiration(expiration));
        }
        for (key, value) in [
            ("CC", FieldValue::from("q")),
            ("CC", FieldValue::from(1)),
            ("CC", FieldValue::array(["q"])),
            ("CC", FieldValue::array([1])),
            ("BCC", FieldValue::from("q")),
            ("BCC", FieldValue::Void),
            ("BCC", FieldValue::array(["q"])),
        ] {
            script.note(format!("{key} {value:?}"));
            publish(&mut client, "", plain.clone().header(key, value));
        }
        client.count(1, "q");
    });
}

#[test]
fn immediate_is_not_implemented() {
    compare(|script| {
        let mut client = script.open("a");
        client.send(
            1,
            &Method::BasicPublish {
                exchange: "".into(),
                routing_key: "".into(),
                mandatory: false,
                immediate: true,
            },
        );
        client.raw(2, 1, &content_header(0));
        client.next();
        client.agree();
    });
}

/// The user is the one of the connection; in which order that and the rest are looked at.
#[test]
fn several_mistakes_in_one_message() {
    compare(|script| {
        if script.version < (4, 0) {
            return script.note("RabbitMQ 3 looks at them in another order");
        }
        let mut client = script.open("a");
        let none = FieldTable::new();
        client.exchange_with(1, "internal", "fanout", "internal", &none);
        let user = BasicProperties::new().user_id("root");
        client.publish_to(1, "internal", "", &user, "", false);
        client.sync(1);
        client.publish_to(1, "missing", "", &user, "", false);
        client.sync(1);
        let both = user.clone().expiration("soon");
        client.publish_to(1, "", "", &both, "", false);
        client.sync(1);
        let all = both.header("CC", 1);
        client.publish_to(1, "", "", &all, "", false);
        client.sync(1);
    });
}

#[test]
fn transactions_publish_and_acknowledge_together() {
    compare(|script| {
        let mut client = script.open("a");
        let mut watcher = script.open("watcher");
        client.declare(1, "q");
        client.select(1);
        client.publish(1, "q", "1");
        client.publish_to(1, "", "nobody", &BasicProperties::new(), "lost", true);
        client.publish(1, "q", "2");
        client.sync(1);
        watcher.count(1, "q");
        client.commit(1);
        watcher.await_count(1, "q", 2);
        client.publish(1, "q", "3");
        client.rollback(1);
        watcher.count(1, "q");

        script.note("acks");
        client.get(1, "q", false);
        client.get(1, "q", false);
        client.ack(1, 1, false);
        client.nack(1, 2, false, true);
        client.sync(1);
        watcher.count(1, "q");
        client.rollback(1);
        client.ack(1, 1, false);
        // Twice in a transaction: the channel is closed, and both messages go back.
        client.ack(1, 1, false);
        client.sync(1);
        watcher.await_count(1, "q", 2);
    });
}

#[test]
fn transactions_acknowledge_in_order() {
    compare(|script| {
        let mut client = script.open("a");
        let mut watcher = script.open("watcher");
        client.declare(1, "q");
        client.publish_all(1, "q", &["1", "2", "3", "4"]);
        client.select(1);
        for _ in 0..4 {
            client.get(1, "q", false);
        }
        client.reject(1, 2, true);
        client.ack(1, 3, true);
        client.nack(1, 4, false, false);
        client.publish(1, "q", "5");
        client.commit(1);
        watcher.take_all(1, "q", 2);
        client.commit(1);
        client.ack(1, 99, false);
        client.sync(1);
        // Not selected on the new channel.
        client.send(1, &Method::TxCommit {});
        client.sync(1);
        client.send(1, &Method::TxRollback {});
        client.sync(1);
        client.select(1);
        client.send(1, &Method::ConfirmSelect { no_wait: false });
        client.sync(1);
        client.send(1, &Method::ConfirmSelect { no_wait: false });
        client.until("ConfirmSelectOk");
        client.send(1, &Method::ConfirmSelect { no_wait: false });
        client.until("ConfirmSelectOk");
        client.send(1, &Method::TxSelect {});
        client.sync(1);
    });
}

#[test]
fn a_transaction_with_a_missing_exchange_and_full_queues() {
    compare(|script| {
        let mut client = script.open("a");
        let full = table([
            ("x-max-length", 1.into()),
            ("x-overflow", "reject-publish".into()),
        ]);
        client.declare_with(1, "q", &full);
        client.select(1);
        client.publish_to(1, "missing", "", &BasicProperties::new(), "", false);
        client.sync(1);
        client.select(1);
        client.publish(1, "q", "1");
        client.publish(1, "q", "2");
        client.commit(1);
        client.open_again(1);
        client.await_count(1, "q", 1);
        client.select(1);
        client.publish_to(1, "", "nobody", &BasicProperties::new(), "a", true);
        client.publish_to(1, "", "nobody", &BasicProperties::new(), "b", true);
        client.send(1, &Method::TxCommit {});
        client.sync(1);
    });
}

#[test]
fn confirms_count_from_when_they_are_asked_for() {
    compare(|script| {
        let mut client = script.open("a");
        client.declare(1, "q");
        client.publish(1, "q", "0");
        client.confirms(1);
        for body in ["1", "2"] {
            client.publish_confirmed(1, "q", body);
        }
        // An exchange that is missing closes the channel, so there is no confirm.
        client.publish_to(1, "missing", "", &BasicProperties::new(), "3", false);
        client.sync(1);
        client.send(1, &Method::ConfirmSelect { no_wait: true });
        client.publish_confirmed(1, "q", "1");
        client.count(1, "q");
    });
}

/// What clients must not send.
#[test]
fn acks_of_confirms_and_unknown_tags() {
    compare(|script| {
        let mut client = script.open("a");
        client.declare(1, "q");
        for multiple in [false, true] {
            client.ack(1, 0, multiple);
            client.sync(1);
            client.nack(1, 0, multiple, true);
            client.sync(1);
            client.ack(1, 7, multiple);
            client.sync(1);
            client.nack(1, 7, multiple, false);
            client.sync(1);
        }
        client.reject(1, 0, false);
        client.sync(1);
        client.reject(1, 1, true);
        client.sync(1);
        client.ack(1, u64::MAX, true);
        client.sync(1);
        script.note("twice");
        client.publish(1, "q", "1");
        client.get(1, "q", false);
        client.ack(1, 1, false);
        client.ack(1, 1, false);
        client.sync(1);
        script.note("without need");
        client.publish(1, "q", "2");
        client.get(1, "q", true);
        client.ack(1, 1, false);
        client.sync(1);
    });
}
