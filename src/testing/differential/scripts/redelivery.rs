//! What is redelivered: what was delivered before, and in RabbitMQ 4.3 some dead letters.

use super::super::transcript::{compare, table, Client};
use crate::protocol::method::Method;
use crate::{BasicProperties, FieldTable};

/// What happens to a message before it dies.
const BEFORE: [&str; 6] = [
    "nothing",
    "nack",
    "reject",
    "recover",
    "close",
    "reject in a transaction",
];

/// How it dies.
const DEATHS: [&str; 5] = [
    "reject",
    "nack",
    "expire",
    "length",
    "reject in a transaction",
];

/// Arguments that send dead letters to a queue, through the default exchange.
fn to(client: &Client, queue: &str) -> FieldTable {
    table([
        ("x-dead-letter-exchange", "".into()),
        (
            "x-dead-letter-routing-key",
            client.name(queue).as_str().into(),
        ),
    ])
}

fn in_transaction(client: &mut Client, tag: u64, requeue: bool) {
    client.send(2, &Method::TxSelect {});
    client.until("TxSelectOk");
    client.reject(2, tag, requeue);
    client.send(2, &Method::TxCommit {});
    client.until("TxCommitOk");
}

/// Takes a message from a queue, and gives it back in some way. Channel 2 is opened for it, and closed.
fn deliver_before(client: &mut Client, queue: &str, how: &str) {
    client.open_channel(2);
    client.get(2, queue, false);
    let tag = client.last_tag;
    match how {
        "nack" => client.nack(2, tag, false, true),
        "reject" => client.reject(2, tag, true),
        "recover" => {
            client.send(2, &Method::BasicRecover { requeue: true });
            client.until("BasicRecoverOk");
        }
        "reject in a transaction" => in_transaction(client, tag, true),
        _ => {}
    }
    client.close_channel(2);
    client.until("ChannelCloseOk");
}

fn die(client: &mut Client, queue: &str, how: &str) {
    if how == "length" {
        return client.publish(1, queue, "behind");
    }
    client.open_channel(2);
    client.get(2, queue, false);
    let tag = client.last_tag;
    match how {
        "reject" => client.reject(2, tag, false),
        "nack" => client.nack(2, tag, false, false),
        _ => in_transaction(client, tag, false),
    }
    client.sync(2);
    client.close_channel(2);
    client.until("ChannelCloseOk");
}

/// A message that is fetched from the queue of dead letters: whichever way it was delivered before, and died.
#[test]
fn dead_letters_are_redelivered_if_a_delivery_had_failed() {
    compare(|script| {
        let cases: Vec<(&str, &str)> = BEFORE
            .iter()
            .flat_map(|before| DEATHS.iter().map(move |death| (*before, *death)))
            .filter(|(_, death)| *death != "expire")
            .collect();
        script.side_by_side(&cases, |script, (before, death)| {
            script.note(format!("{before}, then {death}"));
            let mut client = script.open("a");
            let mut arguments = to(&client, "dead");
            arguments.insert("x-max-length", 1);
            client.declare(1, "dead", &FieldTable::new());
            client.declare(1, "work", &arguments);
            client.publish(1, "work", "m");
            client.await_count(1, "work", 1);
            if *before != "nothing" {
                deliver_before(&mut client, "work", before);
                client.await_count(1, "work", 1);
            }
            die(&mut client, "work", death);
            client.await_count(1, "dead", 1);
            client.get(1, "dead", false);
            // From here it is one that was delivered.
            client.nack(1, client.last_tag, false, true);
            client.await_count(1, "dead", 1);
            client.get(1, "dead", true);
        });
    });
}

/// A consumer takes it at once, and it expires as soon as it goes back.
#[test]
fn what_expires_when_it_goes_back_is_redelivered_if_its_delivery_had_failed() {
    compare(|script| {
        for before in BEFORE {
            script.note(before);
            let mut client = script.open("a");
            let none = FieldTable::new();
            let mut arguments = to(&client, "dead");
            arguments.insert("x-message-ttl", 0);
            client.declare(1, "dead", &none);
            client.declare(1, "work", &arguments);
            if before != "nothing" {
                client.open_channel(2);
                client.qos(2, 1, false);
                client.consume(2, "work", "c", "", &none);
                client.publish(1, "work", "m");
                client.until("BasicDeliver");
                client.cancel(2, "c");
                match before {
                    "nack" => client.nack(2, 1, false, true),
                    "reject" => client.reject(2, 1, true),
                    "recover" => {
                        client.send(2, &Method::BasicRecover { requeue: true });
                        client.until("BasicRecoverOk");
                    }
                    "close" => {
                        client.close_channel(2);
                        client.until("ChannelCloseOk");
                    }
                    _ => in_transaction(&mut client, 1, true),
                }
            } else {
                client.publish(1, "work", "m");
            }
            client.await_count(1, "dead", 1);
            client.get(1, "dead", true);
            client.close();
        }
    });
}

/// A waiting consumer gets a dead letter from no queue, so that it is not redelivered; but when it dies again, it is.
#[test]
fn dead_letters_that_a_consumer_waits_for_are_not_redelivered() {
    compare(|script| {
        let mut client = script.open("a");
        let none = FieldTable::new();
        let (second, third) = (to(&client, "second"), to(&client, "third"));
        client.declare(1, "third", &none);
        client.declare(1, "second", &third);
        client.declare(1, "first", &second);
        client.open_channel(2);
        client.qos(2, 1, false);
        client.consume(2, "second", "c", "", &none);
        for body in ["m", "n"] {
            client.publish(1, "first", body);
            client.get(1, "first", false);
            client.reject(1, client.last_tag, false);
            if body == "m" {
                client.until("BasicDeliver");
            }
        }
        client.await_count(1, "second", 1);
        script.note("the second one waited for the consumer");
        client.nack(2, 1, false, false);
        client.until("BasicDeliver");
        client.await_count(1, "third", 1);
        client.get(1, "third", true);
        script.note("published anew");
        client.ack(2, 2, false);
        client.publish(1, "third", "m");
        client.get(1, "third", true);
    });
}

/// The count goes from queue to queue, and is taken along by copies for several queues.
#[test]
fn a_failed_delivery_is_remembered_from_queue_to_queue() {
    compare(|script| {
        let mut client = script.open("a");
        let none = FieldTable::new();
        client.exchange(1, "dlx", "fanout", "", &none);
        let dlx = table([("x-dead-letter-exchange", script.name("dlx").as_str().into())]);
        let mut brief = to(&client, "last");
        brief.insert("x-message-ttl", 1);
        client.declare(1, "last", &none);
        client.declare(1, "copy", &none);
        client.declare(1, "brief", &brief);
        client.declare(1, "ranked", &{
            let mut ranked = dlx.clone();
            ranked.insert("x-max-priority", 3);
            ranked
        });
        client.bind(1, "copy", "dlx", "", &none);
        client.bind(1, "brief", "dlx", "", &none);
        for requeue in [false, true] {
            script.note(format!("requeued before: {requeue}"));
            let key = client.name("ranked");
            let properties = BasicProperties::new().priority(2);
            client.publish_with(1, "", &key, &properties, "m", false);
            client.await_count(1, "ranked", 1);
            client.get(1, "ranked", false);
            if requeue {
                client.reject(1, client.last_tag, true);
                client.await_count(1, "ranked", 1);
                client.get(1, "ranked", false);
            }
            client.nack(1, client.last_tag, false, false);
            client.await_count(1, "copy", 1);
            client.get(1, "copy", true);
            client.await_count(1, "last", 1);
            client.get(1, "last", true);
        }
    });
}
