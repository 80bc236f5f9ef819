//! What to do where brokers are known to refuse, or to do something else than what was asked for: all of it in one place,
//! found by the broker's own words. What is matched here was seen on RabbitMQ 3.10, 4.0 and 4.3.

use crate::QueueDeclare;

/// A reply code, what the reply text must hold, and what to do about it.
const REFUSALS: [(u16, &[&str], &str); 16] = [
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
        &["unknown delivery tag"],
        "the message was acknowledged or refused before, or came on another channel, or to a consumer with .auto_ack(true), \
         or was taken back by basic_recover",
    ),
    (
        406,
        &["message size", "larger than"],
        "send it in parts, or send where it is kept, or raise max_message_size in the broker's configuration",
    ),
    (
        406,
        &["transaction has reached the maximum"],
        "commit more often, or raise channel_tx_message_max in the broker's configuration",
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
    (406, &["unknown exchange type"], UNKNOWN_TYPE),
    // RabbitMQ 3, which closes the connection.
    (503, &["unknown exchange type"], UNKNOWN_TYPE),
];

const UNKNOWN_TYPE: &str = "the type is misspelled, or its plugin is not enabled at this broker (rabbitmq-plugins enable); \
     messages can be delayed without one, by queues in which they expire";

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

/// Whether this is a queue that neither outlives the broker nor goes with its connection. RabbitMQ from 4.0 on has them only
/// until they are removed.
pub(crate) fn is_deprecated(request: &QueueDeclare, rabbitmq: Option<(u32, u32)>) -> bool {
    let transient = !request.durable && !request.exclusive && !request.passive;
    transient && rabbitmq.is_some_and(|version| version >= (4, 0))
}

/// What to do about such a queue.
pub(crate) const DEPRECATED: &str = "neither durable nor exclusive: the broker still permits such queues, and a later release \
     will not; declare them .durable(true), or .exclusive(true) for a queue of this connection only (said once for each \
     connection)";

/// What a prefetch limit with `global` comes to at this broker, where that is not what was asked for.
pub(crate) fn of_global_qos(rabbitmq: Option<(u32, u32)>) -> Option<&'static str> {
    rabbitmq.is_some_and(|version| version >= (4, 3)).then_some(
        "basic_qos with .global(true): from RabbitMQ 4.3 on each consumer has the limit for itself; divide it by the number of \
         consumers, and leave .global(true) out",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_global_limit_is_warned_of_where_the_broker_does_not_know_it() {
        for (version, warned) in [
            (Some((4, 3)), true),
            (Some((5, 0)), true),
            (Some((4, 2)), false),
            (Some((3, 13)), false),
            (None, false),
        ] {
            assert_eq!(of_global_qos(version).is_some(), warned, "{version:?}");
        }
    }

    #[test]
    fn a_transient_queue_is_deprecated_unless_it_is_exclusive_or_was_there() {
        let queue = || QueueDeclare::new("q");
        for (request, version, deprecated) in [
            (queue(), Some((4, 0)), true),
            (queue().auto_delete(true), Some((4, 3)), true),
            (queue(), Some((3, 13)), false),
            (queue(), None, false),
            (queue().durable(true), Some((4, 3)), false),
            (queue().exclusive(true), Some((4, 3)), false),
            (queue().passive(true), Some((4, 3)), false),
        ] {
            assert_eq!(
                is_deprecated(&request, version),
                deprecated,
                "{request:?} {version:?}"
            );
        }
    }

    #[test]
    fn a_refusal_without_a_known_cure_has_no_hint() {
        for (code, text) in [
            (404, "NOT_FOUND - no queue 'q' in vhost '/'"),
            (
                406,
                "PRECONDITION_FAILED - fast reply consumer does not exist",
            ),
            (541, "INTERNAL_ERROR"),
            (541, ""),
        ] {
            assert_eq!(of_refusal(code, text), None, "{text}");
        }
    }
}
