//! Consumers: whose turn it is, prefetch, acknowledgements, cancellations.

use super::super::transcript::{compare, table, Client};
use crate::protocol::method::Method;
use crate::{BasicProperties, FieldTable};

#[test]
fn consumers_take_turns_and_priorities_go_first() {
    compare(|script| {
        let mut client = script.open("a");
        client.declare(1, "fair");
        for tag in ["x", "y", "z"] {
            client.consume(1, "fair", tag);
        }
        client.deliver(1, "fair", &["1", "2", "3", "4", "5"]);
        script.note("priorities");
        client.declare(1, "ranked");
        client.open_channel(2);
        client.qos(2, 1, false);
        client.consume_with(
            2,
            "ranked",
            "low",
            "",
            &table([("x-priority", (-5).into())]),
        );
        client.consume(2, "ranked", "plain");
        client.consume_with(2, "ranked", "high", "", &table([("x-priority", 7.into())]));
        client.deliver(1, "ranked", &["1", "2", "3"]);
        client.publish(1, "ranked", "4");
        client.sync(1);
        // The plain one has room first.
        client.ack(2, 2, false);
        client.until("BasicDeliver");
        client.ack(2, 1, true);
        client.deliver(1, "ranked", &["5"]);
        for value in [
            "high".into(),
            crate::FieldValue::F64(1.0),
            true.into(),
            crate::FieldValue::Void,
        ] {
            client.consume_with(1, "ranked", "odd", "", &table([("x-priority", value)]));
            client.sync_or_open(1);
        }
    });
}

#[test]
fn a_single_active_consumer_is_followed_by_the_next() {
    compare(|script| {
        if script.version < (4, 0) {
            return script.note(
                "RabbitMQ 3 delivers nothing to the next one for long, and looks at no priority",
            );
        }
        let mut client = script.open("a");
        let none = FieldTable::new();
        client.declare_with(1, "q", &table([("x-single-active-consumer", true.into())]));
        client.qos(1, 1, false);
        for tag in ["first", "second", "third"] {
            client.consume(1, "q", tag);
        }
        client.publish_all(1, "q", &["1", "2", "3"]);
        client.until("BasicDeliver");
        client.sync(1);
        client.cancel(1, "first");
        client.until("BasicDeliver");
        client.ack(1, 1, false);
        client.sync(1);
        client.ack(1, 2, false);
        client.until("BasicDeliver");
        script.note("exclusive ones are refused");
        client.consume_with(1, "q", "own", "exclusive", &none);
        client.sync_or_open(1);
        client.count(1, "q");
        script.note("with priorities");
        client.declare_with(1, "p", &table([("x-single-active-consumer", true.into())]));
        client.consume_with(1, "p", "low", "", &table([("x-priority", 1.into())]));
        client.consume_with(1, "p", "high", "", &table([("x-priority", 9.into())]));
        client.deliver(1, "p", &["1", "2"]);
        client.cancel(1, "low");
        client.deliver(1, "p", &["3"]);
    });
}

#[test]
fn exclusive_consumers_and_queues() {
    compare(|script| {
        let mut owner = script.open("owner");
        let mut other = script.open("other");
        let none = FieldTable::new();
        owner.declare_as(1, "mine", "exclusive", &none);
        let full = owner.name("mine");
        let queue = full.as_str().into();
        let (no_wait, no_ack) = (false, false);
        for method in [
            Method::QueuePurge { queue, no_wait },
            Method::BasicGet { queue, no_ack },
            Method::QueueDelete {
                queue,
                if_unused: false,
                if_empty: false,
                no_wait,
            },
            Method::QueueBind {
                queue,
                exchange: "amq.direct".into(),
                routing_key: "".into(),
                no_wait,
                arguments: (&none).into(),
            },
        ] {
            other.send(1, &method);
            other.sync(1);
        }
        for flags in ["passive", "exclusive", ""] {
            other.try_declare(1, "mine", flags, &none);
        }
        other.consume(1, "mine", "c");
        other.sync_or_open(1);
        owner.try_declare(1, "mine", "", &none);
        owner.try_declare(1, "mine", "exclusive", &none);
        // Publishing needs no access.
        other.publish(1, "mine", "m");
        other.sync(1);
        owner.await_count(1, "mine", 1);
        owner.close();
        other.await_gone(1, "mine");

        script.note("consumers");
        other.declare(1, "shared");
        other.consume_with(1, "shared", "one", "exclusive", &none);
        other.consume(1, "shared", "two");
        other.sync_or_open(1);
        other.consume(1, "shared", "one");
        other.consume_with(1, "shared", "two", "exclusive", &none);
        other.sync_or_open(1);
        other.consume(1, "shared", "one");
        other.consume(1, "shared", "one");
        other.agree();
    });
}

#[test]
fn messages_go_back_to_where_they_stood() {
    compare(|script| {
        let mut client = script.open("a");
        client.declare(1, "q");
        client.publish_all(1, "q", &["1", "2", "3", "4"]);
        for _ in 0..3 {
            client.get(1, "q", false);
        }
        client.reject(1, 2, true);
        client.get(1, "q", false);
        client.nack(1, 3, true, true);
        client.get(1, "q", false);
        client.get(1, "q", false);
        client.recover(1);
        for _ in 0..5 {
            client.get(1, "q", true);
        }
    });
}

#[test]
fn recovering_delivers_again() {
    compare(|script| {
        let mut client = script.open("a");
        client.declare(1, "q");
        client.consume(1, "q", "c");
        client.deliver(1, "q", &["1", "2", "3"]);
        client.ack(1, 2, false);
        client.send(1, &Method::BasicRecoverAsync { requeue: true });
        client.take(2);
        client.sync(1);
        client.count(1, "q");
        client.cancel(1, "c");
        client.recover(1);
        client.await_count(1, "q", 2);
        // With nothing to recover.
        client.recover(1);
        client.send(1, &Method::BasicRecover { requeue: false });
        client.next();
        client.agree();
    });
}

#[test]
fn prefetch_is_for_each_consumer_or_for_the_channel() {
    compare(|script| {
        let mut client = script.open("a");
        client.declare(1, "q");
        client.fill(1, "q", 12);
        client.qos(1, 2, false);
        client.consume(1, "q", "two");
        client.take(2);
        client.qos(1, 1, false);
        client.consume(1, "q", "one");
        client.take(1);
        client.sync(1);
        client.count(1, "q");
        client.ack(1, 1, false);
        client.until("BasicDeliver");
        client.ack(1, 3, false);
        client.until("BasicDeliver");
        client.count(1, "q");
        script.note("fetched messages do not count");
        client.get(1, "q", false);
        script.note("the channel's");
        client.open_channel(2);
        client.qos(2, 3, true);
        client.qos(2, 2, false);
        client.count(2, "q");
        client.cancel(1, "two");
        client.cancel(1, "one");
        client.qos(2, 2, true);
        client.consume(2, "q", "x");
        client.take(2);
        client.sync(2);
        client.ack(2, 1, false);
        client.until("BasicDeliver");
        client.sync(2);
        client.ack(2, 3, true);
        client.take(2);
        client.sync(2);
        client.count(2, "q");
        script.note("a size is refused");
        client.send(
            1,
            &Method::BasicQos {
                prefetch_size: 10,
                prefetch_count: 0,
                global: false,
            },
        );
        client.next();
        client.agree();
    });
}

/// From 4.3 on it is no limit of the channel, and holds for consumers that come later.
#[test]
fn the_limit_of_a_channel_may_be_changed() {
    compare(|script| {
        let mut client = script.open("a");
        client.declare(1, "q");
        client.fill(1, "q", 20);
        client.qos(1, 3, true);
        client.consume(1, "q", "c");
        client.take(3);
        client.qos(1, 1, true);
        for tag in 1..4 {
            client.ack(1, tag, false);
            if tag == 3 || script.version >= (4, 3) {
                client.until("BasicDeliver");
            }
            client.sync(1);
        }
        client.count(1, "q");
        script.note("another one");
        client.consume(1, "q", "d");
        if script.version >= (4, 3) {
            client.until("BasicDeliver");
        }
        client.sync(1);
        script.note("no limit");
        client.qos(1, 0, true);
        client.consume_with(1, "q", "e", "no_ack", &FieldTable::new());
        client.await_count(1, "q", 0);
    });
}

/// Fetched messages count when the limit is set for the first time, and never again.
#[test]
fn fetched_messages_and_the_limit_of_a_channel() {
    compare(|script| {
        if script.version >= (4, 3) {
            return script.note("it has no limit");
        }
        let mut client = script.open("a");
        client.declare(1, "q");
        client.fill(1, "q", 12);
        client.get(1, "q", false);
        client.get(1, "q", false);
        client.qos(1, 3, true);
        client.consume(1, "q", "c");
        client.until("BasicDeliver");
        client.sync(1);
        client.get(1, "q", false);
        client.qos(1, 5, true);
        client.take(2);
        client.sync(1);
        client.ack(1, 1, false);
        client.sync(1);
        client.ack(1, 3, false);
        client.until("BasicDeliver");
        client.sync(1);
    });
}

/// One acknowledgement of several: a queue gets it in parts, of each message that was fetched and of each consumer.
#[test]
fn one_ack_of_several_is_applied_consumer_by_consumer() {
    compare(|script| {
        let mut client = script.open("a");
        let dead = client.dead_letters_to("dead");
        client.declare(1, "dead");
        client.declare_with(1, "q", &dead);
        let deliver = |client: &mut Client| {
            client.qos(1, 2, false);
            for tag in ["z", "a", "m"] {
                client.consume(1, "q", tag);
            }
            client.deliver(1, "q", &["1", "2", "3", "4", "5", "6"]);
            for body in ["7", "8"] {
                client.publish(1, "q", body);
                client.await_count(1, "q", 1);
                client.get(1, "q", false);
            }
        };
        script.note("dead letters");
        deliver(&mut client);
        for tag in ["z", "a", "m"] {
            client.cancel(1, tag);
        }
        client.nack(1, 0, true, false);
        client.take_all(1, "dead", 8);
        script.note("requeued");
        deliver(&mut client);
        client.nack(1, 0, true, true);
        client.take(6);
        client.sync(1);
        client.count(1, "q");
        script.note("acknowledged");
        client.ack(1, 0, true);
        client.take(2);
        client.sync(1);
        script.note("recovered");
        client.send(1, &Method::BasicRecover { requeue: true });
        client.take(3);
        client.sync(1);
    });
}

/// Rejections of a transaction that follow each other are one, in the order of the tags; and so are those of several priorities.
#[test]
fn dead_letters_come_in_the_order_of_tags_and_priorities() {
    compare(|script| {
        let mut client = script.open("a");
        let dead = client.dead_letters_to("dead");
        client.declare(1, "dead");
        client.declare_with(1, "q", &dead);
        client.select(1);
        client.open_channel(2);
        client.confirms(2);
        for body in ["1", "2", "3", "4", "5"] {
            client.publish_confirmed(2, "q", body);
        }
        client.consume(1, "q", "c");
        client.take(5);
        client.reject(1, 4, false);
        client.reject(1, 1, false);
        // Only in 4.3 do the two differ.
        match script.version < (4, 3) {
            true => client.reject(1, 3, false),
            false => client.nack(1, 3, false, false),
        }
        client.reject(1, 2, false);
        client.ack(1, 5, false);
        client.commit(1);
        client.take_all(2, "dead", 4);
        script.note("priorities");
        let mut ranked = dead.clone();
        ranked.insert("x-max-priority", 5);
        client.declare_with(2, "ranked", &ranked);
        client.open_channel(3);
        client.open_channel(4);
        client.consume(3, "ranked", "c");
        for (body, priority) in [("a", 1), ("b", 4), ("c", 0), ("d", 4), ("e", 5)] {
            let properties = BasicProperties::new().priority(priority);
            client.publish_with(4, "ranked", &properties, body);
            client.until("BasicDeliver");
        }
        client.nack(3, 0, true, false);
        client.take_all(2, "dead", 5);
    });
}

#[test]
fn consumers_are_cancelled_when_their_queue_goes() {
    compare(|script| {
        let mut client = script.open("a");
        let mut other = script.open("other");
        client.declare(1, "q");
        client.consume(1, "q", "c");
        client.deliver(1, "q", &["1"]);
        other.delete_queue(1, "q");
        other.until("QueueDeleteOk");
        client.until("BasicCancel {");
        client.ack(1, 1, false);
        client.sync(1);
        client.cancel(1, "c");
        // The tag is free.
        client.declare(1, "q");
        client.consume(1, "q", "c");
        script.note("a consumer is in the way, or a message");
        client.deliver(1, "q", &["1", "2"]);
        for (if_unused, if_empty) in [(true, false), (false, true), (true, true)] {
            other.delete_queue_if(1, "q", if_unused, if_empty);
            other.sync(1);
            if if_empty {
                break;
            }
        }
    });
}

#[test]
fn queues_go_with_their_last_consumer() {
    compare(|script| {
        let mut client = script.open("a");
        let none = FieldTable::new();
        client.declare_as(1, "q", "auto_delete", &none);
        client.get(1, "q", true);
        client.consume(1, "q", "one");
        client.consume(1, "q", "two");
        client.cancel(1, "one");
        client.count(1, "q");
        client.cancel(1, "two");
        client.await_gone(1, "q");
        client.declare_as(1, "q", "auto_delete", &none);
        client.consume(1, "q", "one");
        client.close_channel(1);
        client.open_channel(1);
        client.await_gone(1, "q");
    });
}

#[test]
fn names_that_are_empty_mean_the_last_queue() {
    compare(|script| {
        let mut client = script.open("a");
        let none = FieldTable::new();
        client.get(1, "", true);
        client.sync_or_open(1);
        client.consume(1, "", "c");
        client.sync_or_open(1);
        client.bind(1, "", "amq.topic", "");
        client.sync_or_open(1);
        client.declare_as(1, "", "", &none);
        client.bind(1, "", "amq.topic", "");
        client.get(1, "", true);
        client.consume(1, "", "");
        client.try_declare(1, "", "passive", &none);
        client.try_declare(1, "amq.mine", "", &none);
        client.try_declare(1, "amq.mine", "passive", &none);
    });
}

#[test]
fn queues_with_priorities_deliver_the_highest_first() {
    compare(|script| {
        let mut client = script.open("a");
        client.declare_with(1, "q", &table([("x-max-priority", 5.into())]));
        for (number, priority) in [None, Some(0), Some(3), Some(5), Some(9), Some(3), Some(1)]
            .into_iter()
            .enumerate()
        {
            let mut properties = BasicProperties::new();
            properties.priority = priority;
            client.publish_with(1, "q", &properties, &number.to_string());
        }
        client.await_count(1, "q", 7);
        client.get(1, "q", false);
        client.get(1, "q", false);
        client.get(1, "q", false);
        client.nack(1, 3, true, true);
        for _ in 0..8 {
            client.get(1, "q", true);
        }
    });
}

#[test]
fn multiple_acks_and_unknown_tags() {
    compare(|script| {
        let mut client = script.open("a");
        client.declare(1, "q");
        let fill = |client: &mut Client| {
            for body in ["1", "2", "3", "4"] {
                client.publish(1, "q", body);
                client.get(1, "q", false);
            }
        };
        fill(&mut client);
        client.ack(1, 2, true);
        client.ack(1, 2, true);
        client.sync(1);
        client.take_all(1, "q", 2);
        fill(&mut client);
        let last = client.last_tag;
        client.ack(1, last, true);
        client.ack(1, 0, true);
        client.sync(1);
        fill(&mut client);
        let last = client.last_tag;
        client.ack(1, last - 1, false);
        client.ack(1, last, true);
        client.sync(1);
        client.count(1, "q");
    });
}

/// Two consumers on two connections, and a large message in frames of either's size.
#[test]
fn large_messages_are_cut_as_each_connection_agreed() {
    compare(|script| {
        let mut small = script.open_with("small", 8192, 0);
        let mut large = script.open_with("large", 131_072, 0);
        small.declare(1, "q");
        let body = "x".repeat(100_000);
        for _ in 0..2 {
            large.publish(1, "q", &body);
        }
        large.await_count(1, "q", 2);
        small.get(1, "q", true);
        large.get(1, "q", true);
    });
}
