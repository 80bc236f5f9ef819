//! Dead letters: where they go, and what is in their headers.

use super::super::transcript::{compare, table, Client};
use crate::{BasicProperties, FieldTable, FieldValue};

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

#[test]
fn each_way_to_die_is_written_down() {
    compare(|script| {
        let mut client = script.open("a");
        let dead = to(&client, "dead");
        client.declare(1, "dead", &FieldTable::new());
        client.declare(1, "work", &dead);
        let mut short = dead.clone();
        short.insert("x-max-length", 1);
        client.declare(1, "short", &short);
        let mut brief = dead.clone();
        brief.insert("x-message-ttl", 1);
        client.declare(1, "brief", &brief);
        let mut full = short.clone();
        full.insert("x-overflow", "reject-publish-dlx");
        client.declare(1, "full", &full);

        script.note("rejected");
        client.publish(1, "work", "1");
        client.get(1, "work", false);
        client.reject(1, 1, false);
        client.await_count(1, "dead", 1);
        client.get(1, "dead", true);
        script.note("rejected by a nack");
        client.publish(1, "work", "1");
        client.get(1, "work", false);
        client.nack(1, client.last_tag, false, false);
        client.await_count(1, "dead", 1);
        client.get(1, "dead", true);
        script.note("rejected after a requeue");
        client.publish(1, "work", "1");
        client.get(1, "work", false);
        client.reject(1, client.last_tag, true);
        client.get(1, "work", false);
        client.nack(1, client.last_tag, false, false);
        client.await_count(1, "dead", 1);
        client.get(1, "dead", true);
        script.note("expired after a requeue");
        client.publish(1, "brief", "1");
        client.await_count(1, "dead", 1);
        client.get(1, "dead", false);
        client.reject(1, client.last_tag, true);
        client.get(1, "dead", true);
        script.note("expired, by its queue");
        client.publish(1, "brief", "2");
        client.await_count(1, "dead", 1);
        client.get(1, "dead", true);
        script.note("expired, by itself");
        let key = client.name("work");
        let properties = BasicProperties::new().expiration("1").header("own", "kept");
        client.publish_with(1, "", &key, &properties, "3", false);
        client.await_count(1, "dead", 1);
        client.get(1, "dead", true);
        script.note("no room");
        client.publish(1, "short", "4");
        client.publish(1, "short", "5");
        client.await_count(1, "dead", 1);
        client.get(1, "dead", true);
        script.note("no room, refused");
        client.publish(1, "full", "6");
        client.publish(1, "full", "7");
        client.await_count(1, "dead", 1);
        client.get(1, "dead", true);
    });
}

#[test]
fn repeated_deaths_are_counted_and_the_last_comes_first() {
    compare(|script| {
        let mut client = script.open("a");
        let dead = to(&client, "second");
        client.declare(1, "first", &dead);
        let back = to(&client, "first");
        client.declare(1, "second", &back);
        let key = client.name("first");
        let properties = BasicProperties::new().expiration("3600000").message_id("m");
        client.publish_with(1, "", &key, &properties, "m", false);
        for (round, queue) in ["first", "second", "first", "second", "first"]
            .iter()
            .enumerate()
        {
            script.note(format!("round {round}"));
            client.await_count(1, queue, 1);
            client.get(1, queue, false);
            client.reject(1, client.last_tag, false);
        }
        client.await_count(1, "second", 1);
        client.get(1, "second", true);
    });
}

#[test]
fn reasons_of_one_queue_are_entries_of_their_own() {
    compare(|script| {
        if script.version < (4, 0) {
            return script.note("RabbitMQ 3 took what clients wrote there");
        }
        let mut client = script.open("a");
        let mut dead = to(&client, "dead");
        dead.insert("x-max-length", 1);
        client.declare(1, "work", &dead);
        client.declare(1, "dead", &FieldTable::new());
        let key = client.name("work");
        client.publish(1, "work", "m");
        client.get(1, "work", false);
        client.reject(1, 1, false);
        client.await_count(1, "dead", 1);
        for round in 0..3 {
            script.note(format!("round {round}"));
            let headers = client.take_headers(1, "dead");
            let mut properties = BasicProperties::new();
            properties.headers = Some(headers);
            client.publish_with(1, "", &key, &properties, "m", false);
            if round == 1 {
                client.publish(1, "work", "other");
                client.await_count(1, "dead", 1);
                client.get(1, "work", true);
            } else {
                client.get(1, "work", false);
                client.reject(1, client.last_tag, false);
            }
            client.await_count(1, "dead", 1);
        }
        client.get(1, "dead", true);
    });
}

#[test]
fn a_cycle_without_a_rejection_ends() {
    compare(|script| {
        let mut client = script.open("a");
        let mut there = to(&client, "there");
        let mut back = to(&client, "here");
        there.insert("x-message-ttl", 1);
        back.insert("x-message-ttl", 1);
        client.declare(1, "there", &back);
        client.declare(1, "here", &there);
        client.publish(1, "here", "m");
        client.await_count(1, "here", 0);
        client.await_count(1, "there", 0);
        // To itself.
        let mut own = to(&client, "own");
        own.insert("x-message-ttl", 1);
        client.declare(1, "own", &own);
        client.publish(1, "own", "m");
        client.await_count(1, "own", 0);
        // With a rejection it goes on.
        let again = to(&client, "again");
        client.declare(1, "again", &again);
        client.publish(1, "again", "m");
        for round in 1..4 {
            client.await_count(1, "again", 1);
            client.get(1, "again", false);
            client.reject(1, round, false);
        }
        client.await_count(1, "again", 1);
        client.get(1, "again", true);
    });
}

#[test]
fn dead_letters_keep_their_keys() {
    compare(|script| {
        let mut client = script.open("a");
        let none = FieldTable::new();
        client.exchange(1, "x", "topic", "", &none);
        client.exchange(1, "dlx", "topic", "", &none);
        let dead = table([("x-dead-letter-exchange", script.name("dlx").as_str().into())]);
        client.declare(1, "work", &dead);
        client.declare(1, "dead", &none);
        client.bind(1, "work", "x", "a.#", &none);
        client.bind(1, "dead", "dlx", "#", &none);
        let properties = BasicProperties::new()
            .header("CC", FieldValue::array(["a.cc"]))
            .header("BCC", FieldValue::array(["a.bcc"]))
            .priority(4)
            .delivery_mode(2)
            .expiration("60000")
            .reply_to("r")
            .correlation_id("c")
            .app_id("app");
        client.publish_with(1, "x", "a.b", &properties, "m", false);
        client.await_count(1, "work", 1);
        client.get(1, "work", false);
        client.nack(1, 1, false, false);
        client.await_count(1, "dead", 1);
        client.get(1, "dead", true);
        if script.version < (4, 0) {
            return script.note("RabbitMQ 3 takes CC out if the dead letter has a key of its own");
        }
        script.note("with a key of its own");
        let mut dead = dead;
        dead.insert("x-dead-letter-routing-key", "other.key");
        client.declare(1, "keyed", &dead);
        client.bind(1, "keyed", "x", "k.#", &none);
        client.publish_with(1, "x", "k.b", &properties, "m", false);
        client.await_count(1, "keyed", 1);
        client.get(1, "keyed", false);
        client.nack(1, 3, false, false);
        client.await_count(1, "dead", 1);
        client.get(1, "dead", true);
    });
}

#[test]
fn a_missing_exchange_loses_dead_letters() {
    compare(|script| {
        let mut client = script.open("a");
        let dead = table([(
            "x-dead-letter-exchange",
            script.name("later").as_str().into(),
        )]);
        client.declare(1, "work", &dead);
        client.declare(1, "dead", &FieldTable::new());
        client.publish(1, "work", "lost");
        client.get(1, "work", false);
        client.nack(1, 1, false, false);
        client.sync(1);
        client.exchange(1, "later", "fanout", "", &FieldTable::new());
        client.bind(1, "dead", "later", "", &FieldTable::new());
        client.publish(1, "work", "kept");
        client.get(1, "work", false);
        client.nack(1, 2, false, false);
        client.await_count(1, "dead", 1);
        client.get(1, "dead", true);
    });
}

#[test]
fn many_die_in_order() {
    compare(|script| {
        let mut client = script.open("a");
        let dead = to(&client, "dead");
        client.declare(1, "work", &dead);
        client.declare(1, "dead", &FieldTable::new());
        for body in ["1", "2", "3", "4"] {
            client.publish(1, "work", body);
            client.get(1, "work", false);
        }
        client.nack(1, 3, true, false);
        client.await_count(1, "dead", 3);
        client.nack(1, 0, true, false);
        client.await_count(1, "dead", 4);
        for _ in 0..4 {
            client.get(1, "dead", true);
        }
        script.note("deleting and purging are no deaths");
        client.publish(1, "work", "5");
        let full = client.name("work");
        client.send(
            1,
            &crate::protocol::method::Method::QueuePurge {
                queue: full.as_str().into(),
                no_wait: false,
            },
        );
        client.until("QueuePurgeOk");
        client.count(1, "dead");
    });
}

/// What is in the header already, and comes from a client.
#[test]
fn a_header_that_a_client_made_up() {
    compare(|script| {
        if script.version < (4, 0) {
            return script.note("RabbitMQ 3 took what clients wrote there");
        }
        let mut client = script.open("a");
        let dead = to(&client, "dead");
        client.declare(1, "work", &dead);
        client.declare(1, "dead", &FieldTable::new());
        let key = client.name("work");
        for (tag, value) in [
            FieldValue::from("text"),
            FieldValue::array([1]),
            FieldValue::array([table([("queue", "elsewhere".into())])]),
        ]
        .into_iter()
        .enumerate()
        {
            let properties = BasicProperties::new()
                .header("x-death", value)
                .header("x-first-death-queue", "made up");
            client.publish_with(1, "", &key, &properties, "m", false);
            client.await_count(1, "work", 1);
            client.get(1, "work", false);
            client.reject(1, tag as u64 * 2 + 1, false);
            client.await_count(1, "dead", 1);
            client.get(1, "dead", true);
        }
    });
}
