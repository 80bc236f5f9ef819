//! The operations: they have few names, so that they meet each other.

use proptest::prelude::*;

use crate::{BasicProperties, FieldTable, FieldValue};

/// One operation, on one of a few channels.
#[derive(Debug, Clone)]
pub(super) struct Operation {
    pub(super) connection: usize,
    pub(super) channel: u16,
    pub(super) what: What,
}

#[derive(Debug, Clone)]
pub(super) enum What {
    CloseConnection,
    CloseChannel,
    DeclareExchange {
        exchange: u8,
        kind: &'static str,
        flags: [bool; 4],
        arguments: Arguments,
    },
    DeleteExchange {
        exchange: u8,
        if_unused: bool,
    },
    BindExchange {
        bind: bool,
        destination: u8,
        source: u8,
        key: &'static str,
    },
    DeclareQueue {
        queue: u8,
        flags: [bool; 4],
        arguments: Arguments,
    },
    DeleteQueue {
        queue: u8,
        if_unused: bool,
        if_empty: bool,
    },
    Purge {
        queue: u8,
    },
    BindQueue {
        bind: bool,
        queue: u8,
        exchange: u8,
        key: &'static str,
        arguments: Arguments,
    },
    Publish {
        /// 0 is the default exchange, which takes the queue's name as routing key.
        exchange: u8,
        queue: u8,
        key: &'static str,
        mandatory: bool,
        size: usize,
        properties: Box<BasicProperties>,
    },
    Consume {
        queue: u8,
        tag: u8,
        no_ack: bool,
        exclusive: bool,
        arguments: Arguments,
    },
    Cancel {
        tag: u8,
    },
    Get {
        queue: u8,
        no_ack: bool,
    },
    /// Of the messages that the channel has, the one at this place, counted around; [`ALL`] means all, and [`UNKNOWN`] a tag
    /// that there is not.
    Acknowledge {
        how: u8,
        which: usize,
        multiple: bool,
        requeue: bool,
    },
    Recover,
    Qos {
        count: u16,
        global: bool,
    },
    Confirm,
    Transaction(u8),
}

/// The names in arguments are those of queues and exchanges here, and get the sequence's prefix.
#[derive(Debug, Clone, Default)]
pub(super) struct Arguments(pub(super) Vec<(&'static str, Argument)>);

#[derive(Debug, Clone)]
pub(super) enum Argument {
    Value(FieldValue),
    Exchange(u8),
    Queue(u8),
}

impl Operation {
    /// What RabbitMQ 3 does otherwise than 4 is not applied to it: an unknown type of exchange (503 there), arguments of other
    /// queue types, what is not bound, more than one mistake in a message, durable exclusive queues.
    pub(super) fn for_rabbitmq_3(&self) -> Option<Operation> {
        let mut operation = self.clone();
        match &mut operation.what {
            What::DeclareExchange { kind, .. } if kind.starts_with("x-") => return None,
            What::DeclareQueue {
                flags, arguments, ..
            } => {
                flags[1] &= !flags[2];
                let known = |(key, _): &(&str, Argument)| {
                    !matches!(*key, "x-delivery-limit" | "x-queue-type")
                };
                arguments.0.retain(known);
            }
            What::BindQueue { bind: false, .. } | What::BindExchange { bind: false, .. } => {
                return None
            }
            What::Publish { properties, .. } => properties.user_id = None,
            _ => {}
        }
        Some(operation)
    }
}

/// What is acknowledged, where it is no message.
pub(super) const ALL: usize = 24;
pub(super) const UNKNOWN: usize = 25;

const KEYS: [&str; 7] = ["a", "b", "a.b", "a.*", "#", "*.b", ""];

fn queue() -> impl Strategy<Value = u8> {
    0..4u8
}

fn exchange() -> impl Strategy<Value = u8> {
    1..4u8
}

fn key() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&KEYS[..])
}

/// True seldom.
fn seldom() -> impl Strategy<Value = bool> {
    prop::bool::weighted(0.12)
}

fn flags() -> impl Strategy<Value = [bool; 4]> {
    [seldom(), seldom(), seldom(), seldom()]
}

/// Nothing, some of the values that are good, and now and then one that is refused.
fn one_of(
    good: Vec<(&'static str, Argument)>,
    bad: Vec<(&'static str, Argument)>,
) -> impl Strategy<Value = Arguments> {
    prop_oneof![
        8 => Just(Arguments::default()),
        7 => prop::sample::subsequence(good, 1..3).prop_map(Arguments),
        1 => prop::sample::subsequence(bad, 1..2).prop_map(Arguments),
    ]
}

fn value(value: impl Into<FieldValue>) -> Argument {
    Argument::Value(value.into())
}

fn queue_arguments() -> impl Strategy<Value = Arguments> {
    let good = vec![
        ("x-max-length", value(2)),
        ("x-max-length-bytes", value(20i64)),
        ("x-overflow", value("reject-publish")),
        ("x-overflow", value("reject-publish-dlx")),
        ("x-dead-letter-exchange", Argument::Exchange(1)),
        ("x-dead-letter-exchange", Argument::Exchange(0)),
        ("x-dead-letter-routing-key", Argument::Queue(3)),
        ("x-dead-letter-routing-key", value("a")),
        ("x-max-priority", value(3u8)),
        ("x-message-ttl", value(0)),
        ("x-message-ttl", value(3_600_000)),
        ("x-expires", value(3_600_000)),
        ("x-single-active-consumer", value(true)),
        ("x-queue-type", value("classic")),
        ("x-queue-mode", value("lazy")),
        ("x-other", value(1.5)),
    ];
    let bad = vec![
        ("x-max-length", value(-1)),
        ("x-overflow", value("spill")),
        ("x-dead-letter-exchange", value(7)),
        ("x-max-priority", value(256)),
        ("x-message-ttl", value("soon")),
        ("x-expires", value(0)),
        ("x-single-active-consumer", value(1)),
        ("x-queue-type", value(true)),
        ("x-delivery-limit", value(3)),
    ];
    // Dead letters go to a queue that takes them.
    let dead = vec![
        ("x-dead-letter-exchange", Argument::Exchange(0)),
        ("x-dead-letter-routing-key", Argument::Queue(3)),
    ];
    prop_oneof![
        3 => one_of(good, bad),
        1 => Just(Arguments(dead)),
    ]
}

fn exchange_arguments() -> impl Strategy<Value = Arguments> {
    one_of(
        vec![
            ("alternate-exchange", Argument::Exchange(1)),
            ("alternate-exchange", Argument::Exchange(3)),
            ("other", value("x")),
        ],
        vec![("alternate-exchange", value(false))],
    )
}

fn binding_arguments() -> impl Strategy<Value = Arguments> {
    one_of(
        vec![
            ("k", value(1)),
            ("k", value("text")),
            ("k", FieldValue::Void.into_argument()),
            ("x-k", value(1)),
            ("x-match", value("any")),
            ("x-match", value("all-with-x")),
            ("x-match", value("any-with-x")),
        ],
        vec![("x-match", value("some")), ("x-match", value(1))],
    )
}

impl FieldValue {
    fn into_argument(self) -> Argument {
        Argument::Value(self)
    }
}

fn consumer_arguments() -> impl Strategy<Value = Arguments> {
    one_of(
        vec![("x-priority", value(5)), ("x-priority", value(-5))],
        vec![("x-priority", value("high"))],
    )
}

fn properties() -> impl Strategy<Value = Box<BasicProperties>> {
    let headers = prop::sample::subsequence(
        vec![
            ("k", FieldValue::from(1i64)),
            ("k", FieldValue::from("text")),
            ("x-k", FieldValue::from(1u8)),
            ("CC", FieldValue::array(["a", "b"])),
            ("BCC", FieldValue::array(["a.b"])),
        ],
        0..3,
    );
    let expiration = prop_oneof![
        8 => prop::sample::select(vec!["3600000", "0"]),
        1 => prop::sample::select(vec!["", "soon", "-1", "7 days"]),
    ];
    let user = prop_oneof![30 => Just(""), 6 => Just("guest"), 1 => Just("root")];
    (
        prop::option::weighted(0.3, headers),
        prop::option::weighted(0.2, expiration),
        user,
        0..4u8,
        0..6u8,
    )
        .prop_map(|(headers, expiration, user, mode, priority)| {
            let mut properties = BasicProperties::new().message_id("m");
            if let Some(headers) = headers {
                properties.headers = Some(headers.into_iter().collect::<FieldTable>());
            }
            if let Some(expiration) = expiration {
                properties = properties.expiration(expiration);
            }
            if !user.is_empty() {
                properties = properties.user_id(user);
            }
            if mode > 1 {
                properties = properties.delivery_mode(mode - 1);
            }
            if priority > 2 {
                properties = properties.priority(priority);
            }
            Box::new(properties)
        })
}

fn what() -> impl Strategy<Value = What> {
    let kinds = prop::sample::select(vec!["direct", "fanout", "topic", "headers", "x-unheard-of"]);
    let size = prop_oneof![4 => 8..30usize, 1 => Just(300_000usize)];
    prop_oneof![
        1 => Just(What::CloseConnection),
        2 => Just(What::CloseChannel),
        4 => (exchange(), kinds, flags(), exchange_arguments()).prop_map(
            |(exchange, kind, flags, arguments)| What::DeclareExchange { exchange, kind, flags, arguments }),
        1 => (0..4u8, any::<bool>()).prop_map(
            |(exchange, if_unused)| What::DeleteExchange { exchange, if_unused }),
        2 => (prop::bool::weighted(0.8), 0..4u8, 0..4u8, key()).prop_map(
            |(bind, destination, source, key)| What::BindExchange { bind, destination, source, key }),
        4 => (queue(), flags(), queue_arguments()).prop_map(
            |(queue, flags, arguments)| What::DeclareQueue { queue, flags, arguments }),
        2 => (queue(), any::<bool>(), any::<bool>()).prop_map(
            |(queue, if_unused, if_empty)| What::DeleteQueue { queue, if_unused, if_empty }),
        1 => queue().prop_map(|queue| What::Purge { queue }),
        6 => (prop::bool::weighted(0.8), queue(), 0..4u8, key(), binding_arguments()).prop_map(
            |(bind, queue, exchange, key, arguments)| What::BindQueue { bind, queue, exchange, key, arguments }),
        20 => (prop_oneof![3 => Just(0u8), 2 => exchange()], queue(), key(), any::<bool>(), size, properties()).prop_map(
            |(exchange, queue, key, mandatory, size, properties)|
                What::Publish { exchange, queue, key, mandatory, size, properties }),
        9 => (queue(), 0..8u8, seldom(), prop::bool::weighted(0.05), consumer_arguments()).prop_map(
            |(queue, tag, no_ack, exclusive, arguments)|
                What::Consume { queue, tag, no_ack, exclusive, arguments }),
        2 => (0..8u8).prop_map(|tag| What::Cancel { tag }),
        6 => (queue(), seldom()).prop_map(|(queue, no_ack)| What::Get { queue, no_ack }),
        20 => (0..3u8, 0..=UNKNOWN, seldom(), any::<bool>()).prop_map(
            |(how, which, multiple, requeue)| What::Acknowledge { how, which, multiple, requeue }),
        1 => Just(What::Recover),
        3 => (0..4u16, seldom()).prop_map(|(count, global)| What::Qos { count, global }),
        2 => Just(What::Confirm),
        2 => (0..3u8).prop_map(What::Transaction),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    (0..2usize, 1..3u16, what()).prop_map(|(connection, channel, what)| Operation {
        connection,
        channel,
        what,
    })
}

/// A sequence: mostly it begins with some queues, exchanges and bindings, so that what follows meets them.
pub(super) fn sequence() -> impl Strategy<Value = Vec<Operation>> {
    let start = prop_oneof![
        2 => (queue(), queue_arguments()).prop_map(|(queue, arguments)| What::DeclareQueue {
            queue,
            flags: [false; 4],
            arguments,
        }),
        1 => (exchange(), prop::sample::select(vec!["direct", "fanout", "topic", "headers"])).prop_map(
            |(exchange, kind)| What::DeclareExchange {
                exchange,
                kind,
                flags: [false; 4],
                arguments: Arguments::default(),
            }
        ),
        1 => (queue(), exchange(), key(), binding_arguments()).prop_map(
            |(queue, exchange, key, arguments)| What::BindQueue { bind: true, queue, exchange, key, arguments }),
    ];
    let start = start.prop_map(|what| Operation {
        connection: 0,
        channel: 1,
        what,
    });
    let parts = (
        prop::collection::vec(start, 0..12),
        prop::collection::vec(operation(), 1..50),
    );
    parts.prop_map(|(mut start, rest)| {
        start.extend(rest);
        start
    })
}
