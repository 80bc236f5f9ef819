//! The tables in the code against the machine-readable specification.

use crate::protocol::method::{id, Method, TABLE};
use crate::protocol::properties;

const SPECIFICATION: &str = include_str!("../../../tests/data/amqp-methods.txt");

/// A name of ours as the specification has it.
fn specified(name: &str) -> String {
    match name {
        "exchange_type" | "message_type" => "type".to_owned(),
        "no_wait" => "nowait".to_owned(),
        _ => name.replace('_', "-"),
    }
}

#[test]
fn methods_are_those_of_the_specification() {
    let mut ours = TABLE.iter();
    let mut count = 0;
    for line in SPECIFICATION
        .lines()
        .filter(|line| line.starts_with(|c: char| c.is_ascii_digit()))
    {
        let mut words = line.split(' ');
        let (_, class, method, name, fields) = ours.next().expect(line);
        assert_eq!(words.next().unwrap(), class.to_string(), "{line}");
        assert_eq!(words.next().unwrap(), method.to_string(), "{line}");
        assert_eq!(words.next().unwrap(), *name, "{line}");
        let _synchronous = words.next().unwrap();
        let _content = words.next().unwrap();
        let fields = fields
            .iter()
            .map(|(name, kind)| format!("{}:{kind}", specified(name)));
        assert_eq!(
            words.collect::<Vec<_>>(),
            fields.collect::<Vec<_>>(),
            "{line}"
        );
        assert_eq!(Method::name_of(*class, *method), Some(*name));
        count += 1;
    }
    assert_eq!((ours.next(), count), (None, 66));
    assert_eq!(Method::name_of(60, 41), None);
    assert_eq!(Method::name_of(0, 0), None);
}

/// The program reads what a server sends and writes what a client sends, and has no code for the rest.
#[test]
fn each_method_has_the_sender_that_the_specification_gives_it() {
    let either = [
        "connection.close",
        "connection.close-ok",
        "channel.flow",
        "channel.flow-ok",
        "channel.close",
        "channel.close-ok",
        "basic.cancel",
        "basic.cancel-ok",
        "basic.ack",
        "basic.nack",
    ];
    let server = [
        "connection.start",
        "connection.secure",
        "connection.tune",
        "connection.blocked",
        "connection.unblocked",
        "basic.return",
        "basic.deliver",
        "basic.get-empty",
    ];
    let client = [
        "connection.start-ok",
        "connection.secure-ok",
        "connection.tune-ok",
    ];
    for (sender, _, _, name, _) in TABLE {
        let expected = if either.contains(name) {
            "either"
        } else if server.contains(name) || (name.ends_with("-ok") && !client.contains(name)) {
            "server"
        } else {
            "client"
        };
        assert_eq!(*sender, expected, "{name}");
    }
}

#[test]
fn variants_are_named_after_the_methods() {
    for method in super::golden::methods() {
        let name: String = method.name().split(['.', '-']).map(capitalized).collect();
        let debug = format!("{method:?}");
        assert_eq!(debug.split([' ', '{']).next(), Some(name.as_str()));
    }
}

#[test]
fn each_request_has_the_reply_that_is_named_after_it() {
    let mut found = 0;
    for request in super::golden::methods() {
        let reply = format!("{}-ok", request.name());
        if TABLE.iter().any(|(_, _, _, name, _)| *name == reply) {
            let (class, method) = request.reply_id();
            assert_eq!(Method::name_of(class, method), Some(reply.as_str()));
            found += 1;
        }
    }
    assert_eq!(found, 28);
}

#[test]
fn ids_are_those_of_the_table() {
    for ((class, method), name) in [
        (id::CONNECTION_CLOSE, "connection.close"),
        (id::CONNECTION_CLOSE_OK, "connection.close-ok"),
        (id::CHANNEL_OPEN_OK, "channel.open-ok"),
        (id::BASIC_CONSUME_OK, "basic.consume-ok"),
        (id::BASIC_CANCEL_OK, "basic.cancel-ok"),
        (id::CHANNEL_CLOSE, "channel.close"),
        (id::CHANNEL_CLOSE_OK, "channel.close-ok"),
        (id::EXCHANGE_UNBIND_OK, "exchange.unbind-ok"),
        (id::BASIC_DELIVER, "basic.deliver"),
        (id::BASIC_GET_OK, "basic.get-ok"),
    ] {
        assert_eq!(Method::name_of(class, method), Some(name));
    }
}

fn capitalized(word: &str) -> String {
    let (first, rest) = word.split_at(1);
    first.to_uppercase() + rest
}

#[test]
fn content_follows_the_methods_that_the_specification_lists() {
    for method in super::golden::methods() {
        let (class, id) = method.id();
        let start = format!("{class} {id} {} ", method.name());
        let line = SPECIFICATION
            .lines()
            .find(|line| line.starts_with(&start))
            .expect(&start);
        assert_eq!(
            method.has_content(),
            line.split(' ').nth(4) == Some("content"),
            "{line}"
        );
    }
}

#[test]
fn properties_are_those_of_the_specification() {
    let specification = SPECIFICATION
        .lines()
        .filter_map(|line| line.strip_prefix("property "));
    let ours = properties::TABLE.iter().map(|(flag, name, kind)| {
        let kind = if *name == "timestamp" {
            "timestamp"
        } else {
            kind
        };
        format!("{flag} {}:{kind}", specified(name))
    });
    assert_eq!(specification.collect::<Vec<_>>(), ours.collect::<Vec<_>>());
    assert_eq!(properties::TABLE.len(), 14);
}
