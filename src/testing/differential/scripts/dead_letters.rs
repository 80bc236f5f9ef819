//! Dead letters: where they go, and what is in their headers.

use super::super::transcript::{compare, table};
use crate::{BasicProperties, FieldValue};

#[test]
fn each_way_to_die_is_written_down() {
    compare(|script| {
        let mut client = script.open("a");
        let dead = client.dead_letters_to("dead");
        client.declare(1, "dead");
        client.declare_with(1, "work", &dead);
        let mut short = dead.clone();
        short.insert("x-max-length", 1);
        client.declare_with(1, "short", &short);
        let mut brief = dead.clone();
        brief.insert("x-message-ttl", 1);
        client.declare_with(1, "brief", &brief);
        let mut full = short.clone();
        full.insert("x-overflow", "reject-publish-dlx");
        client.declare_with(1, "full", &full);

        script.note("rejected");
        client.publish(1, "work", "1");
        client.fetch_and_reject(1, "work");
        client.take_all(1, "dead", 1);
        script.note("rejected by a nack");
        client.publish(1, "work", "1");
        client.get(1, "work", false);
        client.nack(1, client.last_tag, false, false);
        client.take_all(1, "dead", 1);
        script.note("rejected after a requeue");
        client.publish(1, "work", "1");
        client.fetch_and_requeue(1, "work");
        client.get(1, "work", false);
        client.nack(1, client.last_tag, false, false);
        client.take_all(1, "dead", 1);
        script.note("expired after a requeue");
        client.publish(1, "brief", "1");
        client.await_count(1, "dead", 1);
        client.fetch_and_requeue(1, "dead");
        client.get(1, "dead", true);
        script.note("expired, by its queue");
        client.publish(1, "brief", "2");
        client.take_all(1, "dead", 1);
        script.note("expired, by itself");
        let properties = BasicProperties::new().expiration("1").header("own", "kept");
        client.publish_with(1, "work", &properties, "3");
        client.take_all(1, "dead", 1);
        script.note("no room");
        client.publish(1, "short", "4");
        client.publish(1, "short", "5");
        client.take_all(1, "dead", 1);
        script.note("no room, refused");
        client.publish(1, "full", "6");
        client.publish(1, "full", "7");
        client.take_all(1, "dead", 1);
    });
}

#[test]
fn repeated_deaths_are_counted_and_the_last_comes_first() {
    compare(|script| {
        let mut client = script.open("a");
        let dead = client.dead_letters_to("second");
        client.declare_with(1, "first", &dead);
        let back = client.dead_letters_to("first");
        client.declare_with(1, "second", &back);
        let properties = BasicProperties::new().expiration("3600000").message_id("m");
        client.publish_with(1, "first", &properties, "m");
        for (round, queue) in ["first", "second", "first", "second", "first"]
            .iter()
            .enumerate()
        {
            script.note(format!("round {round}"));
            client.await_count(1, queue, 1);
            client.fetch_and_reject(1, queue);
        }
        client.take_all(1, "second", 1);
    });
}

#[test]
fn reasons_of_one_queue_are_entries_of_their_own() {
    compare(|script| {
        if script.version < (4, 0) {
            return script.note("RabbitMQ 3 took what clients wrote there");
        }
        let mut client = script.open("a");
        let mut dead = client.dead_letters_to("dead");
        dead.insert("x-max-length", 1);
        client.declare_with(1, "work", &dead);
        client.declare(1, "dead");
        client.publish(1, "work", "m");
        client.fetch_and_reject(1, "work");
        client.await_count(1, "dead", 1);
        for round in 0..3 {
            script.note(format!("round {round}"));
            let headers = client.take_headers(1, "dead");
            let mut properties = BasicProperties::new();
            properties.headers = Some(headers);
            client.publish_with(1, "work", &properties, "m");
            if round == 1 {
                client.publish(1, "work", "other");
                client.await_count(1, "dead", 1);
                client.get(1, "work", true);
            } else {
                client.fetch_and_reject(1, "work");
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
        let mut there = client.dead_letters_to("there");
        let mut back = client.dead_letters_to("here");
        there.insert("x-message-ttl", 1);
        back.insert("x-message-ttl", 1);
        client.declare_with(1, "there", &back);
        client.declare_with(1, "here", &there);
        client.publish(1, "here", "m");
        client.await_count(1, "here", 0);
        client.await_count(1, "there", 0);
        // To itself.
        let mut own = client.dead_letters_to("own");
        own.insert("x-message-ttl", 1);
        client.declare_with(1, "own", &own);
        client.publish(1, "own", "m");
        client.await_count(1, "own", 0);
        // With a rejection it goes on.
        let again = client.dead_letters_to("again");
        client.declare_with(1, "again", &again);
        client.publish(1, "again", "m");
        for round in 1..4 {
            client.await_count(1, "again", 1);
            client.get(1, "again", false);
            client.reject(1, round, false);
        }
        client.take_all(1, "again", 1);
    });
}

#[test]
fn dead_letters_keep_their_keys() {
    compare(|script| {
        let mut client = script.open("a");
        client.exchange(1, "x", "topic");
        client.exchange(1, "dlx", "topic");
        let dead = table([("x-dead-letter-exchange", script.name("dlx").as_str().into())]);
        client.declare_with(1, "work", &dead);
        client.declare(1, "dead");
        client.bind(1, "work", "x", "a.#");
        client.bind(1, "dead", "dlx", "#");
        let properties = BasicProperties::new()
            .header("CC", FieldValue::array(["a.cc"]))
            .header("BCC", FieldValue::array(["a.bcc"]))
            .priority(4)
            .delivery_mode(2)
            .expiration("60000")
            .reply_to("r")
            .correlation_id("c")
            .app_id("app");
        client.publish_to(1, "x", "a.b", &properties, "m", false);
        client.await_count(1, "work", 1);
        client.get(1, "work", false);
        client.nack(1, 1, false, false);
        client.take_all(1, "dead", 1);
        if script.version < (4, 0) {
            return script.note("RabbitMQ 3 takes CC out if the dead letter has a key of its own");
        }
        script.note("with a key of its own");
        let mut dead = dead;
        dead.insert("x-dead-letter-routing-key", "other.key");
        client.declare_with(1, "keyed", &dead);
        client.bind(1, "keyed", "x", "k.#");
        client.publish_to(1, "x", "k.b", &properties, "m", false);
        client.await_count(1, "keyed", 1);
        client.get(1, "keyed", false);
        client.nack(1, 3, false, false);
        client.take_all(1, "dead", 1);
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
        client.declare_with(1, "work", &dead);
        client.declare(1, "dead");
        client.publish(1, "work", "lost");
        client.get(1, "work", false);
        client.nack(1, 1, false, false);
        client.sync(1);
        client.exchange(1, "later", "fanout");
        client.bind(1, "dead", "later", "");
        client.publish(1, "work", "kept");
        client.get(1, "work", false);
        client.nack(1, 2, false, false);
        client.take_all(1, "dead", 1);
    });
}

#[test]
fn many_die_in_order() {
    compare(|script| {
        let mut client = script.open("a");
        let dead = client.dead_letters_to("dead");
        client.declare_with(1, "work", &dead);
        client.declare(1, "dead");
        for body in ["1", "2", "3", "4"] {
            client.publish(1, "work", body);
            client.get(1, "work", false);
        }
        client.nack(1, 3, true, false);
        client.await_count(1, "dead", 3);
        client.nack(1, 0, true, false);
        client.take_all(1, "dead", 4);
        script.note("deleting and purging are no deaths");
        client.publish(1, "work", "5");
        client.purge(1, "work");
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
        let dead = client.dead_letters_to("dead");
        client.declare_with(1, "work", &dead);
        client.declare(1, "dead");
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
            client.publish_with(1, "work", &properties, "m");
            client.await_count(1, "work", 1);
            client.get(1, "work", false);
            client.reject(1, tag as u64 * 2 + 1, false);
            client.take_all(1, "dead", 1);
        }
    });
}
