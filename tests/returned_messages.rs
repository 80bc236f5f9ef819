//! Which publish a returned message belongs to, when messages differ in little: `basic.return` has no number.

mod support;

use std::thread;

use haypile::{
    BasicProperties, BasicPublish, Channel, Connection, Error, ExchangeDeclare, ExchangeType,
    FieldTable, FieldValue, Publisher,
};
use support::peer::{m, Args, Frame, Peer};
use support::{bounded, channel, exclusive_queue, Fixture, SOON};

/// A headers exchange that routes what is of kind `good`.
fn headers_exchange(channel: &Channel, fixture: &mut Fixture) -> String {
    let exchange = fixture.exchange("kinds");
    channel
        .exchange_declare(ExchangeDeclare::new(&exchange, ExchangeType::Headers))
        .unwrap();
    let queue = exclusive_queue(channel);
    let mut arguments = FieldTable::new();
    arguments.insert("kind", "good");
    arguments.insert("x-match", "all");
    channel
        .queue_bind_with(&queue, &exchange, "", arguments)
        .unwrap();
    exchange
}

fn of_kind(kind: &str) -> BasicPublish<'static> {
    let properties = BasicProperties::new().header("kind", kind);
    BasicPublish::new().mandatory(true).properties(properties)
}

/// Waits for the confirms; the numbers of what was returned.
#[track_caller]
fn returned_numbers(publisher: &mut Publisher) -> Vec<u64> {
    let Err(Error::Unconfirmed(report)) = publisher.wait_for_confirms(SOON) else {
        panic!("nothing was returned");
    };
    report.returned.iter().map(|(number, _)| *number).collect()
}

#[test]
fn returns_of_messages_that_differ_only_in_their_headers_are_matched() {
    bounded(|| {
        let mut fixture = Fixture::new();
        let channel = channel();
        let exchange = headers_exchange(&channel, &mut fixture);
        let mut publisher = channel.publisher(100).unwrap();
        let mut bad = Vec::new();
        for n in 0..60 {
            let kind = if n % 3 == 1 { "bad" } else { "good" };
            let number = publisher
                .publish_with(&exchange, "", "body", of_kind(kind))
                .unwrap();
            if kind == "bad" {
                bad.push(number);
            }
        }
        assert_eq!(returned_numbers(&mut publisher), bad);
    });
}

/// RabbitMQ takes this header out of what it returns. Here all the messages have it, and differ in another one.
#[test]
fn returns_of_messages_with_blind_copies_are_matched() {
    bounded(|| {
        let mut fixture = Fixture::new();
        let channel = channel();
        let exchange = headers_exchange(&channel, &mut fixture);
        let copies = FieldValue::Array(vec!["haypile-no-such-queue".into()]);
        let mut publisher = channel.publisher(100).unwrap();
        let mut bad = Vec::new();
        for n in 0..60 {
            let properties = BasicProperties::new().header("BCC", copies.clone());
            let properties = match n % 3 {
                0 => properties.header("kind", "good"),
                1 => properties.header("kind", "bad"),
                _ => properties,
            };
            let message = BasicPublish::new().mandatory(true).properties(properties);
            let number = publisher
                .publish_with(&exchange, "", "body", message)
                .unwrap();
            if n % 3 != 0 {
                bad.push(number);
            }
        }
        assert_eq!(returned_numbers(&mut publisher), bad);
    });
}

#[test]
fn threads_that_publish_on_one_channel_get_their_own_returns_each() {
    bounded(|| {
        let mut fixture = Fixture::new();
        let channel = channel();
        let exchange = headers_exchange(&channel, &mut fixture);
        channel.confirm_delivery().unwrap();
        thread::scope(|scope| {
            for thread in 0..4 {
                let (channel, exchange) = (&channel, &exchange);
                scope.spawn(move || {
                    for n in 0..50 {
                        let is_bad = (n + thread) % 2 == 0;
                        let message = of_kind(if is_bad { "bad" } else { "good" });
                        let result = channel.basic_publish_with(exchange, "", "body", message);
                        match result {
                            Ok(()) => assert!(!is_bad, "{thread} {n}"),
                            Err(Error::Unroutable(returned)) => {
                                assert!(is_bad, "{thread} {n}");
                                assert_eq!(returned.len(), 1);
                            }
                            Err(error) => panic!("{error:?}"),
                        }
                    }
                });
            }
        });
    });
}

/// Each property makes messages differ; large bodies, which are not copied, go another way.
#[test]
fn every_property_and_large_bodies_tell_messages_apart() {
    bounded(|| {
        let mut fixture = Fixture::new();
        let channel = channel();
        let exchange = headers_exchange(&channel, &mut fixture);
        channel.confirm_delivery().unwrap();
        let body = vec![7; 100_000];
        let good = || BasicProperties::new().header("kind", "good");
        let bad = BasicProperties::new().header("kind", "bad");
        thread::scope(|scope| {
            for id in 0..4 {
                let (channel, exchange, body, bad) = (&channel, &exchange, &body, &bad);
                scope.spawn(move || {
                    for n in 0..10 {
                        let bad = bad.clone().message_id(format!("{id} {n}"));
                        let message = BasicPublish::new().mandatory(true).properties(&bad);
                        let result = channel.basic_publish_with(exchange, "", body, message);
                        let Err(Error::Unroutable(returned)) = result else {
                            panic!("{result:?}");
                        };
                        assert_eq!(returned[0].properties, bad);
                        let message = BasicPublish::new().mandatory(true).properties(good());
                        channel
                            .basic_publish_with(exchange, "", body, message)
                            .unwrap();
                    }
                });
            }
        });
    });
}

/// A broker may add to the properties. Then nothing fits exactly, and the oldest message of the same exchange, key and body is
/// taken.
#[test]
fn a_return_with_other_properties_is_the_oldest_of_its_content() {
    bounded(|| {
        let peer = Peer::start(|session| {
            session.handshake();
            session.open_channel(1);
            session.expect(1, m::CONFIRM_SELECT);
            session.send_method(1, m::CONFIRM_SELECT_OK, Args::new());
            for _ in 0..3 {
                session.expect_content(1, m::BASIC_PUBLISH);
            }
            let returned = Args::new()
                .short(312)
                .shortstr("NO_ROUTE")
                .shortstr("")
                .shortstr("key");
            // With no properties at all, as a broker that loses them would.
            session.send_raw(&Frame::encode_content(
                1,
                m::BASIC_RETURN,
                &returned,
                &[0, 0],
                b"b",
            ));
            let all = Args::new().longlong(3).octet(1);
            session.send_method(1, m::BASIC_ACK, all);
            session.serve_until_end();
        });
        let connection = Connection::open(peer.url()).unwrap();
        let mut publisher = connection.channel().unwrap().publisher(10).unwrap();
        for body in ["a", "b", "b"] {
            publisher
                .publish_with("", "key", body, of_kind("bad"))
                .unwrap();
        }
        let Err(Error::Unconfirmed(report)) = publisher.wait_for_confirms(SOON) else {
            panic!("nothing was returned");
        };
        let returned: Vec<u64> = report.returned.iter().map(|(number, _)| *number).collect();
        assert_eq!(returned, [2]);
        drop(publisher);
        connection.close().unwrap();
        peer.finish();
    });
}
