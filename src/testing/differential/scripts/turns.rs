//! Whose turn it is among consumers: priorities, those that have no room, and single active ones.

use super::super::transcript::{compare, table};
use crate::protocol::method::Method;
use crate::{FieldTable, FieldValue};

fn priority(value: i32) -> FieldTable {
    table([("x-priority", value.into())])
}

#[test]
fn ties_take_turns_and_those_without_room_are_passed_over() {
    compare(|script| {
        let mut client = script.open("a");
        client.declare(1, "q");
        for channel in 2..5 {
            client.open_channel(channel);
        }
        client.qos(2, 1, false);
        client.qos(3, 2, false);
        client.qos(4, 1, false);
        client.consume_with(2, "q", "two-a", "", &priority(5));
        client.consume_with(3, "q", "three-a", "", &priority(5));
        client.consume_with(4, "q", "four-low", "", &priority(1));
        client.consume_with(2, "q", "two-b", "", &priority(5));
        client.consume_with(4, "q", "four-high", "", &priority(9));
        client.deliver(1, "q", &["1", "2", "3", "4", "5", "6"]);
        client.publish(1, "q", "7");
        client.publish(1, "q", "8");
        client.await_count(1, "q", 2);
        script.note("the lowest has room first");
        client.ack(4, 2, false);
        client.until("BasicDeliver");
        client.sync(4);
        script.note("one of the middle");
        client.ack(3, 1, false);
        client.until("BasicDeliver");
        script.note("several have room, none is left");
        client.ack(2, 0, true);
        client.ack(3, 0, true);
        client.ack(4, 0, true);
        for channel in 2..5 {
            client.sync(channel);
        }
        client.deliver(1, "q", &["a", "b", "c", "d", "e", "f"]);
        script.note("one goes, and one comes");
        client.cancel(2, "two-b");
        client.ack(4, 0, true);
        client.sync(4);
        client.consume_with(2, "q", "two-c", "", &priority(9));
        client.deliver(1, "q", &["g", "h"]);
        client.requeue_last(2);
        client.until("BasicDeliver");
    });
}

/// What a consumer gives back may come to it again, if it is its turn.
#[test]
fn a_requeued_message_goes_to_the_next_in_turn() {
    compare(|script| {
        let mut client = script.open("a");
        client.declare(1, "q");
        client.qos(1, 1, false);
        for tag in ["x", "y", "z"] {
            client.consume(1, "q", tag);
        }
        client.deliver(1, "q", &["1", "2"]);
        client.nack(1, 1, false, true);
        client.until("BasicDeliver");
        client.nack(1, client.last_tag, false, true);
        client.until("BasicDeliver");
        client.nack(1, 2, false, true);
        client.until("BasicDeliver");
        client.sync(1);
        script.note("with messages behind");
        client.publish_all(1, "q", &["3", "4", "5"]);
        client.until("BasicDeliver");
        client.await_count(1, "q", 2);
        client.nack(1, 0, true, true);
        client.take(3);
        client.sync(1);
        client.count(1, "q");
        script.note("by the end of its channel");
        let mut other = script.open("b");
        other.qos(1, 5, false);
        other.consume(1, "q", "other");
        other.take(2);
        client.close_channel(1);
        other.take(3);
        other.sync(1);
    });
}

#[test]
fn single_active_consumers_hand_over_in_all_ways() {
    compare(|script| {
        if script.version < (4, 0) {
            return script.note("RabbitMQ 3 delivers nothing to the next one for long");
        }
        let mut client = script.open("a");
        let [mut one, mut two, mut three] = ["one", "two", "three"].map(|name| script.open(name));
        let single = table([("x-single-active-consumer", true.into())]);
        client.declare_with(1, "q", &single);
        let none = FieldTable::new();
        one.qos(1, 2, false);
        one.consume(1, "q", "first");
        two.qos(1, 2, false);
        two.consume(1, "q", "second");
        three.consume(1, "q", "third");
        one.consume(1, "q", "fourth");
        client.publish_all(1, "q", &["1", "2", "3", "4", "5"]);
        one.take(2);
        client.await_count(1, "q", 3);
        script.note("the channel of the first one closes");
        one.close_channel(1);
        two.take(2);
        two.sync(1);
        client.await_count(1, "q", 3);
        script.note("the second one is cancelled and keeps what it has");
        two.cancel(1, "second");
        three.take(3);
        two.ack(1, 1, false);
        two.sync(1);
        script.note("it comes back, behind");
        two.consume(1, "q", "second");
        two.nack(1, 2, false, true);
        three.until("BasicDeliver");
        two.sync(1);
        script.note("the connection of the third one ends");
        drop(three);
        // The one that it gave back counts for its new consumer, since that has the same tag.
        two.take(3);
        client.await_count(1, "q", 1);
        script.note("fetching is no consuming");
        client.get(1, "q", false);
        two.ack(1, 0, true);
        client.requeue_last(1);
        two.until("BasicDeliver");
        two.sync(1);
        script.note("with priorities");
        client.declare_with(1, "ranked", &single);
        for (tag, value) in [("low", 1), ("mid", 5), ("high", 9), ("high-too", 9)] {
            client.consume_with(1, "ranked", tag, "no_ack", &priority(value));
        }
        for tag in ["low", "high", "high-too", "mid"] {
            client.deliver(1, "ranked", &["m"]);
            client.cancel(1, tag);
        }
        client.publish(1, "ranked", "m");
        client.await_count(1, "ranked", 1);
        client.consume_with(1, "ranked", "late", "no_ack", &none);
        client.until("BasicDeliver");
    });
}

#[test]
fn queues_of_a_single_active_consumer_delete_and_refuse_as_others() {
    compare(|script| {
        let mut client = script.open("a");
        let single = table([("x-single-active-consumer", true.into())]);
        client.declare_as(1, "q", "auto_delete", &single);
        client.consume(1, "q", "one");
        client.consume(1, "q", "two");
        client.cancel(1, "one");
        client.count(1, "q");
        client.cancel(1, "two");
        client.await_gone(1, "q");
    });
}

#[test]
fn exclusive_consumers_come_first_or_not_at_all() {
    compare(|script| {
        let mut client = script.open("a");
        let none = FieldTable::new();
        client.declare(1, "q");
        client.open_channel(2);
        client.consume(1, "q", "plain");
        client.consume_with(2, "q", "own", "exclusive", &none);
        client.sync_or_open(2);
        client.consume(2, "q", "plain");
        script.note("one of two is left");
        client.cancel(1, "plain");
        client.consume_with(1, "q", "own", "exclusive", &none);
        client.sync_or_open(1);
        client.cancel(2, "plain");
        client.consume_with(1, "q", "own", "exclusive", &none);
        client.consume_with(2, "q", "second", "exclusive", &none);
        client.sync_or_open(2);
        script.note("others may fetch, publish and purge");
        client.deliver(1, "q", &["m"]);
        client.get(2, "q", true);
        client.purge(2, "q");
        client.sync(2);
        client.requeue_last(1);
        client.until("BasicDeliver");
        client.close_channel(1);
        client.consume_with(2, "q", "second", "exclusive no_ack", &none);
        client.until("BasicDeliver");
    });
}

/// `basic.consume`, `basic.cancel` and the rest without a reply, also where there would be an error.
#[test]
fn methods_without_a_reply() {
    compare(|script| {
        let mut client = script.open("a");
        let none = FieldTable::new();
        let arguments = (&none).into();
        let no_wait = true;
        let names = ["q", "e", "f", "missing"].map(|name| client.name(name));
        let [q, e, f, missing] = names.each_ref().map(|name| name.as_str().into());
        let declare = |queue, passive, durable| Method::QueueDeclare {
            queue,
            passive,
            durable,
            exclusive: false,
            auto_delete: false,
            no_wait,
            arguments,
        };
        let exchange = |exchange, kind: &'static str, passive| Method::ExchangeDeclare {
            exchange,
            exchange_type: kind.into(),
            passive,
            durable: false,
            auto_delete: false,
            internal: false,
            no_wait,
            arguments,
        };
        let consume = |queue, tag: &'static str, exclusive| Method::BasicConsume {
            queue,
            consumer_tag: tag.into(),
            no_local: true,
            no_ack: false,
            exclusive,
            no_wait,
            arguments,
        };
        let bind = |queue, exchange| Method::QueueBind {
            queue,
            exchange,
            routing_key: "k".into(),
            no_wait,
            arguments,
        };
        let between = |bind, source| {
            let (destination, routing_key) = (f, "k".into());
            if bind {
                Method::ExchangeBind {
                    destination,
                    source,
                    routing_key,
                    no_wait,
                    arguments,
                }
            } else {
                Method::ExchangeUnbind {
                    destination,
                    source,
                    routing_key,
                    no_wait,
                    arguments,
                }
            }
        };
        let delete = |queue, if_unused, if_empty| Method::QueueDelete {
            queue,
            if_unused,
            if_empty,
            no_wait,
        };
        let delete_exchange = |exchange, if_unused| Method::ExchangeDelete {
            exchange,
            if_unused,
            no_wait,
        };
        // Deleted in the end by name.
        client.declare(1, "q");
        client.exchange(1, "e", "direct");
        client.exchange(1, "f", "fanout");
        let methods = [
            declare(q, false, false),
            declare(q, true, false),
            declare(q, false, true),
            declare(missing, true, false),
            exchange(e, "direct", false),
            exchange(e, "topic", false),
            exchange(e, "", true),
            exchange(missing, "", true),
            exchange(missing, "unheard-of", false),
            bind(q, e),
            bind(q, missing),
            bind(missing, e),
            between(true, e),
            between(true, missing),
            between(false, missing),
            between(false, e),
            consume(q, "c", false),
            consume(q, "d", true),
            consume(missing, "d", false),
            Method::BasicCancel {
                consumer_tag: "nobody".into(),
                no_wait,
            },
            Method::QueuePurge { queue: q, no_wait },
            Method::QueuePurge {
                queue: missing,
                no_wait,
            },
            delete(q, true, false),
            delete(q, false, true),
            delete(missing, false, false),
            delete_exchange(e, true),
            delete_exchange(missing, true),
            delete_exchange("amq.topic".into(), false),
            delete_exchange("".into(), false),
            Method::ConfirmSelect { no_wait },
        ];
        client.open_channel(2);
        for (at, method) in methods.into_iter().enumerate() {
            // RabbitMQ 3 refuses an unknown type (503) and what is not bound (404) otherwise.
            if script.version < (4, 0) && [8, 14, 15].contains(&at) {
                continue;
            }
            script.note(method.name());
            client.send(1, &method);
            client.sync(1);
            client.declare(2, "q");
        }
    });
}

#[test]
fn what_consumers_hold_when_their_queue_goes() {
    compare(|script| {
        let mut client = script.open("a");
        let dead = client.dead_letters_to("dead");
        client.declare(1, "dead");
        client.declare_with(1, "q", &dead);
        client.qos(1, 2, false);
        client.consume(1, "q", "c");
        client.deliver(1, "q", &["1", "2"]);
        client.publish(1, "q", "3");
        client.await_count(1, "q", 1);
        client.delete_queue(1, "q");
        client.until("QueueDeleteOk");
        client.sync(1);
        client.declare_with(1, "q", &dead);
        script.note("it is another queue of that name");
        client.nack(1, 1, false, false);
        client.nack(1, 2, false, true);
        client.sync(1);
        client.count(1, "q");
        client.count(1, "dead");
        client.ack(1, 2, false);
        client.sync(1);
    });
}

/// Consumers of one channel on two queues, one of which gives back more than it has room for.
#[test]
fn prefetch_is_counted_for_each_consumer_over_queues() {
    compare(|script| {
        let mut client = script.open("a");
        let none = FieldTable::new();
        for queue in ["p", "q"] {
            client.declare(1, queue);
            client.publish_all(1, queue, &["1", "2", "3"]);
            client.await_count(1, queue, 3);
        }
        client.qos(1, 1, false);
        client.consume(1, "p", "p");
        client.until("BasicDeliver");
        client.consume(1, "q", "q");
        client.until("BasicDeliver");
        client.sync(1);
        client.ack(1, 2, false);
        client.until("BasicDeliver");
        client.sync(1);
        client.ack(1, 1, false);
        client.until("BasicDeliver");
        client.sync(1);
        client.get(1, "p", false);
        client.sync(1);
        client.requeue_last(1);
        client.await_count(1, "p", 1);
        script.note("without acknowledgements there is no limit");
        client.consume_with(1, "p", "all", "no_ack", &none);
        client.until("BasicDeliver");
        client.sync(1);
        client.count(1, "p");
    });
}

/// Priorities of other types of number, very large ones, and what is none.
#[test]
fn odd_priorities() {
    compare(|script| {
        let mut client = script.open("a");
        client.declare(1, "q");
        client.open_channel(2);
        client.qos(2, 1, false);
        for (tag, value) in [
            ("least", FieldValue::from(i64::MIN)),
            ("none", FieldValue::from(0u8)),
            ("most", FieldValue::from(i64::MAX)),
            ("less", FieldValue::from(-7i16)),
        ] {
            client.consume_with(2, "q", tag, "", &table([("x-priority", value)]));
        }
        client.deliver(1, "q", &["1", "2", "3", "4"]);
        for value in [
            FieldValue::from("5"),
            FieldValue::F32(1.0),
            FieldValue::array([1]),
            FieldValue::timestamp(5),
        ] {
            if script.version < (4, 0) && matches!(value, FieldValue::Timestamp(_)) {
                continue;
            }
            script.note(format!("{value:?}"));
            client.consume_with(2, "q", "c", "", &table([("x-priority", value)]));
            client.sync_or_open(2);
        }
    });
}
