//! What to do where brokers are known to refuse, or to do something else than what was asked for: all of it in one place,
//! found by the broker's own words. What is matched here was seen on RabbitMQ 3.10, 4.0 and 4.3.

use crate::{FieldTable, QueueDeclare};

/// A reply code, what the reply text must hold, and what to do about it.
const REFUSALS: [(u16, &[&str], &str); 12] = [
    (
        541,
        &["transient_nonexcl_queues"],
        "this broker has no queues that are neither durable nor exclusive: declare it .durable(true) or .exclusive(true)",
    ),
    (
        540,
        &["global qos"],
        "quorum queues and streams know only a limit for each consumer: leave out .global(true)",
    ),
    (
        541,
        &["`global_qos`"],
        "this broker knows only a limit for each consumer: leave out .global(true)",
    ),
    (
        406,
        &["message size", "larger than"],
        "send it in parts, or send where it is kept, or raise max_message_size in the broker's configuration",
    ),
    (
        406,
        &["inequivalent arg 'x-queue-type'"],
        "the queue is there with another type, perhaps because the default queue type of its virtual host has changed: \
         declare it with the type that it has, by .argument(\"x-queue-type\", …), or delete it first",
    ),
    (
        406,
        &["inequivalent arg", "for queue"],
        "the queue is there and was declared otherwise: declare it as it is, or delete it first (queue_delete, \
         rabbitmqctl delete_queue), or take another name",
    ),
    (
        406,
        &["inequivalent arg", "for exchange"],
        "the exchange is there and was declared otherwise: declare it as it is, or delete it first (exchange_delete), or take \
         another name",
    ),
    (
        406,
        &["prefetch count is not set"],
        "a stream is read with a limit for each consumer: call basic_qos before, without .global(true)",
    ),
    (
        540,
        &["automatic acknowledgement", "stream"],
        "a stream is read without .auto_ack(true), and with basic_qos",
    ),
    (
        540,
        &["basic.get", "stream"],
        "a stream is read with basic_consume or consume, and with basic_qos",
    ),
    (
        406,
        &["invalid property", "for queue"],
        "quorum queues and streams are durable, not exclusive, and not deleted automatically: declare it .durable(true) \
         and nothing else, or as a classic queue",
    ),
    (
        406,
        &["invalid arg", "of queue type"],
        "queues of this type do not know this argument: leave it out, or declare another x-queue-type",
    ),
];

/// What to do about a closure, where that is known.
#[cold]
pub(crate) fn of_refusal(reply_code: u16, reply_text: &str) -> Option<&'static str> {
    let known = |(code, words, _): &&(u16, &[&str], &str)| {
        *code == reply_code && words.iter().all(|word| reply_text.contains(word))
    };
    REFUSALS.iter().find(known).map(|(_, _, hint)| *hint)
}

/// What a declaration asks for that the broker takes and does not do.
pub(crate) fn of_declaration(request: &QueueDeclare) -> Option<&'static str> {
    request.arguments.contains_key("x-ha-policy").then_some(
        "x-ha-policy has done nothing since RabbitMQ 3.0, and there is one copy of this queue: for several, declare a quorum queue, \
         by .durable(true).argument(\"x-queue-type\", \"quorum\")",
    )
}

/// What a prefetch limit with `global` comes to at this broker, where that is not what was asked for.
pub(crate) fn of_global_qos(server_properties: &FieldTable) -> Option<&'static str> {
    let text = |key| server_properties.get(key)?.as_str();
    if text("product")? != "RabbitMQ" {
        return None;
    }
    let mut numbers = text("version")?
        .split('.')
        .map_while(|part| part.parse().ok());
    let version: (u32, u32) = (numbers.next()?, numbers.next()?);
    (version >= (4, 3)).then_some(
        "basic_qos with .global(true): from RabbitMQ 4.3 on each consumer has the limit for itself; divide it by the number of \
         consumers, and leave .global(true) out",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_global_limit_is_warned_of_where_the_broker_does_not_know_it() {
        for (product, version, warned) in [
            ("RabbitMQ", "4.3.0", true),
            ("RabbitMQ", "4.10.1-rc.1", true),
            ("RabbitMQ", "5.0.0", true),
            ("RabbitMQ", "4.2.6", false),
            ("RabbitMQ", "3.13.7", false),
            ("RabbitMQ", "four", false),
            ("RabbitMQ", "", false),
            ("another", "4.3.0", false),
        ] {
            let server = FieldTable::from([("product", product), ("version", version)]);
            assert_eq!(
                of_global_qos(&server).is_some(),
                warned,
                "{product} {version}"
            );
        }
        assert_eq!(of_global_qos(&FieldTable::new()), None);
    }

    #[test]
    fn a_refusal_without_a_known_cure_has_no_hint() {
        for (code, text) in [
            (404, "NOT_FOUND - no queue 'q' in vhost '/'"),
            (406, "PRECONDITION_FAILED - unknown delivery tag 1"),
            (541, "INTERNAL_ERROR"),
            (541, ""),
        ] {
            assert_eq!(of_refusal(code, text), None, "{text}");
        }
    }
}
