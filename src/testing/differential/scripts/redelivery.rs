//! What is redelivered: what was delivered before, and in RabbitMQ 4.3 some dead letters.

use super::super::transcript::{compare, table, Client};
use crate::BasicProperties;

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

fn in_transaction(client: &mut Client, tag: u64, requeue: bool) {
    client.select(2);
    client.reject(2, tag, requeue);
    client.commit(2);
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
            client.recover(2);
        }
        "reject in a transaction" => in_transaction(client, tag, true),
        _ => {}
    }
    client.close_channel(2);
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
            let mut arguments = client.dead_letters_to("dead");
            arguments.insert("x-max-length", 1);
            client.declare(1, "dead");
            client.declare_with(1, "work", &arguments);
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
            client.take_all(1, "dead", 1);
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
            let mut arguments = client.dead_letters_to("dead");
            arguments.insert("x-message-ttl", 0);
            client.declare(1, "dead");
            client.declare_with(1, "work", &arguments);
            if before != "nothing" {
                client.open_channel(2);
                client.qos(2, 1, false);
                client.consume(2, "work", "c");
                client.deliver(1, "work", &["m"]);
                client.cancel(2, "c");
                match before {
                    "nack" => client.nack(2, 1, false, true),
                    "reject" => client.reject(2, 1, true),
                    "recover" => {
                        client.recover(2);
                    }
                    "close" => {
                        client.close_channel(2);
                    }
                    _ => in_transaction(&mut client, 1, true),
                }
            } else {
                client.publish(1, "work", "m");
            }
            client.take_all(1, "dead", 1);
            client.close();
        }
    });
}

/// A waiting consumer gets a dead letter from no queue, so that it is not redelivered; but when it dies again, it is.
#[test]
fn dead_letters_that_a_consumer_waits_for_are_not_redelivered() {
    compare(|script| {
        let mut client = script.open("a");
        let (second, third) = (
            client.dead_letters_to("second"),
            client.dead_letters_to("third"),
        );
        client.declare(1, "third");
        client.declare_with(1, "second", &third);
        client.declare_with(1, "first", &second);
        client.open_channel(2);
        client.qos(2, 1, false);
        client.consume(2, "second", "c");
        for body in ["m", "n"] {
            client.publish(1, "first", body);
            client.fetch_and_reject(1, "first");
            if body == "m" {
                client.until("BasicDeliver");
            }
        }
        client.await_count(1, "second", 1);
        script.note("the second one waited for the consumer");
        client.nack(2, 1, false, false);
        client.until("BasicDeliver");
        client.take_all(1, "third", 1);
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
        client.exchange(1, "dlx", "fanout");
        let dlx = table([("x-dead-letter-exchange", script.name("dlx").as_str().into())]);
        let mut brief = client.dead_letters_to("last");
        brief.insert("x-message-ttl", 1);
        client.declare(1, "last");
        client.declare(1, "copy");
        client.declare_with(1, "brief", &brief);
        client.declare_with(1, "ranked", &{
            let mut ranked = dlx.clone();
            ranked.insert("x-max-priority", 3);
            ranked
        });
        client.bind(1, "copy", "dlx", "");
        client.bind(1, "brief", "dlx", "");
        for requeue in [false, true] {
            script.note(format!("requeued before: {requeue}"));
            let properties = BasicProperties::new().priority(2);
            client.publish_with(1, "ranked", &properties, "m");
            client.await_count(1, "ranked", 1);
            client.get(1, "ranked", false);
            if requeue {
                client.requeue_last(1);
                client.await_count(1, "ranked", 1);
                client.get(1, "ranked", false);
            }
            client.nack(1, client.last_tag, false, false);
            client.take_all(1, "copy", 1);
            client.take_all(1, "last", 1);
        }
    });
}
