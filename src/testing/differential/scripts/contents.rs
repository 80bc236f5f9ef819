//! Messages as they come out: their properties byte for byte, their bodies in frames, with and without a death in between.

use super::super::transcript::{compare, content_header, table};
use crate::protocol::method::Method;
use crate::{BasicProperties, FieldTable, FieldValue};

/// A table with fields of all types, out of order.
fn many_types() -> FieldTable {
    table([
        ("z", FieldValue::from("text")),
        ("a", FieldValue::Bool(true)),
        ("x-own", FieldValue::I8(-5)),
        ("u8", FieldValue::U8(200)),
        ("i16", FieldValue::I16(-300)),
        ("u16", FieldValue::U16(60_000)),
        ("i32", FieldValue::I32(-70_000)),
        ("u32", FieldValue::U32(4_000_000_000)),
        ("i64", FieldValue::I64(1 << 40)),
        ("f32", FieldValue::F32(1.5)),
        ("f64", FieldValue::F64(-2.25)),
        (
            "decimal",
            FieldValue::Decimal {
                scale: 2,
                value: 314,
            },
        ),
        ("timestamp", FieldValue::timestamp(1_700_000_000)),
        ("bytes", FieldValue::Bytes(b"\0\xff".to_vec())),
        ("void", FieldValue::Void),
        ("array", FieldValue::array([1, 2])),
        (
            "table",
            FieldValue::Table(table([("b", 1.into()), ("a", FieldValue::array(["x"]))])),
        ),
    ])
}

/// Every property but the headers.
fn all_but_headers() -> BasicProperties {
    let mut all = BasicProperties::new()
        .content_type("text/plain")
        .content_encoding("utf-8")
        .delivery_mode(2)
        .priority(3)
        .correlation_id("c")
        .reply_to("r")
        .expiration("3600000")
        .message_id("m")
        .timestamp(1_700_000_000)
        .user_id("guest")
        .app_id("app");
    all.message_type = Some("t".into());
    all.cluster_id = Some("cluster".into());
    all
}

#[test]
fn properties_come_as_they_were_sent() {
    compare(|script| {
        let mut client = script.open("a");
        client.declare(1, "q");
        let mut all = all_but_headers().priority(200);
        all.headers = Some(many_types());
        let mut empty = BasicProperties::new();
        empty.headers = Some(FieldTable::new());
        let blank = BasicProperties::new().content_type("").message_id("");
        // RabbitMQ 3 refuses modes that mean nothing.
        let modes: &[u8] = match script.version < (4, 0) {
            true => &[1, 2],
            false => &[0, 1, 2, 3, 255],
        };
        let modes = modes
            .iter()
            .map(|mode| BasicProperties::new().delivery_mode(*mode));
        for properties in [all, empty, blank].into_iter().chain(modes) {
            client.publish_with(1, "q", &properties, "m");
            client.take_all(1, "q", 1);
            client.publish_to(1, "", "nobody", &properties, "m", true);
            client.until("BasicReturn");
        }
    });
}

/// What a death adds, and what it leaves alone.
#[test]
fn dead_letters_keep_their_properties() {
    compare(|script| {
        if script.version < (4, 0) {
            return script.note("RabbitMQ 3 puts the headers in another order");
        }
        let mut client = script.open("a");
        let dead = client.dead_letters_to("dead");
        client.declare(1, "dead");
        client.declare_with(1, "q", &dead);
        let all = all_but_headers();
        let mut with_headers = all.clone();
        with_headers.headers = Some(many_types());
        let mut empty = BasicProperties::new();
        empty.headers = Some(FieldTable::new());
        let claimed = BasicProperties::new()
            .header("x-first-death-reason", "made up")
            .header("x-last-death-queue", 7)
            .header("count", 1);
        let plain = BasicProperties::new();
        let modes = [0, 1, 3].map(|mode| BasicProperties::new().delivery_mode(mode));
        for properties in [all, with_headers, empty, claimed, plain]
            .into_iter()
            .chain(modes)
        {
            client.publish_with(1, "q", &properties, "m");
            client.await_count(1, "q", 1);
            client.get(1, "q", false);
            client.nack(1, client.last_tag, false, false);
            client.take_all(1, "dead", 1);
        }
    });
}

/// Bodies around the sizes at which another frame is needed.
#[test]
fn bodies_are_cut_into_frames() {
    compare(|script| {
        const FRAME_MAX: usize = 8192;
        let mut client = script.open_with("a", FRAME_MAX as u32, 0);
        client.declare(1, "q");
        let whole = FRAME_MAX - 8;
        for size in [
            0,
            1,
            whole - 1,
            whole,
            whole + 1,
            2 * whole - 1,
            2 * whole,
            2 * whole + 1,
            100_000,
        ] {
            client.publish(1, "q", &"x".repeat(size));
            client.await_count(1, "q", 1);
            let queue = client.name("q");
            let queue = queue.as_str().into();
            client.send(
                1,
                &Method::BasicGet {
                    queue,
                    no_ack: true,
                },
            );
            let mut frames = Vec::new();
            let mut left = None;
            while left != Some(0) {
                let (kind, _, payload) = client.frame().unwrap();
                if kind == 2 {
                    let bytes = payload[4..12].try_into().unwrap();
                    left = Some(u64::from_be_bytes(bytes));
                } else if kind == 3 {
                    left = left.map(|left| left - payload.len() as u64);
                }
                frames.push(format!(
                    "{kind}: {}",
                    if kind == 3 { payload.len() } else { 0 }
                ));
            }
            script.note(format!("{size}: {}", frames.join(", ")));
        }
    });
}

/// Body frames of any size, empty ones as well, make up a message.
#[test]
fn bodies_may_come_in_any_frames() {
    compare(|script| {
        let mut client = script.open("a");
        client.declare(1, "q");
        let key = client.name("q");
        let publish = Method::BasicPublish {
            exchange: "".into(),
            routing_key: key.as_str().into(),
            mandatory: true,
            immediate: false,
        };
        for pieces in [
            &["a", "b", "c"][..],
            &["", "abc"],
            &["a", "", "bc"],
            &["abcdefg", "h"],
        ] {
            client.send(1, &publish);
            let size: usize = pieces.iter().map(|piece| piece.len()).sum();
            client.raw(2, 1, &content_header(size as u64));
            for piece in pieces {
                client.raw(3, 1, piece.as_bytes());
            }
            client.take_all(1, "q", 1);
        }
        script.note("two channels in turn");
        client.open_channel(2);
        client.send(1, &publish);
        client.send(2, &publish);
        client.raw(2, 2, &content_header(2));
        client.raw(2, 1, &content_header(2));
        client.raw(3, 1, b"1");
        client.raw(3, 2, b"2");
        client.raw(3, 2, b"2");
        client.await_count(2, "q", 1);
        client.raw(3, 1, b"1");
        client.take_all(1, "q", 2);
        script.note("a method in the middle, on another channel and on the same");
        client.send(1, &publish);
        client.count(2, "q");
        client.raw(2, 1, &content_header(2));
        client.count(2, "q");
        client.raw(3, 1, b"1");
        client.count(2, "q");
        client.count(1, "q");
        client.agree_if_asked();
    });
}

/// What is mandatory and cannot be routed is returned, and confirmed; one ack may be for several.
#[test]
fn returns_and_confirms_of_many() {
    compare(|script| {
        let mut client = script.open("a");
        client.declare(1, "q");
        client.exchange(1, "e", "direct");
        client.bind(1, "q", "e", "k");
        client.confirms(1);
        for (exchange, key, mandatory) in [
            ("e", "k", true),
            ("e", "other", true),
            ("e", "other", false),
            ("e", "k", false),
        ] {
            let properties = BasicProperties::new().header("CC", FieldValue::array(["more"]));
            client.publish_to(1, exchange, key, &properties, "m", mandatory);
            client.until("BasicAck");
        }
        script.note("by way of CC");
        let properties = BasicProperties::new().header("CC", FieldValue::array(["x", "k"]));
        client.publish_to(1, "e", "other", &properties, "m", true);
        client.until("BasicAck");
        let properties = BasicProperties::new().header("BCC", FieldValue::array(["k"]));
        client.publish_to(1, "e", "other", &properties, "m", true);
        client.until("BasicAck");
        let properties = BasicProperties::new().header("BCC", FieldValue::array(["none"]));
        client.publish_to(1, "e", "other", &properties, "m", true);
        client.until("BasicAck");
        client.count(1, "q");
        for _ in 0..4 {
            client.get(1, "q", true);
        }
        script.note("returned in a transaction");
        client.open_channel(2);
        client.select(2);
        client.publish_to(2, "e", "other", &BasicProperties::new(), "1", true);
        client.publish_to(2, "e", "k", &BasicProperties::new(), "2", true);
        client.publish_to(2, "e", "other", &BasicProperties::new(), "3", true);
        client.sync(2);
        client.commit(2);
        client.await_count(1, "q", 1);
    });
}

/// The same user by another spelling, none, and a user that is not the connection's.
#[test]
fn the_user_must_be_the_one_of_the_connection() {
    compare(|script| {
        let mut client = script.open("a");
        client.declare(1, "q");
        let key = client.name("q");
        client.confirms(1);
        for user in ["guest", "Guest", "guest ", "other"] {
            let properties = BasicProperties::new().user_id(user);
            for key in [key.as_str(), "nobody"] {
                client.publish_to(1, "", key, &properties, user, true);
                match user {
                    "guest" => client.until("BasicAck"),
                    _ => client.sync(1),
                }
            }
        }
        client.count(1, "q");
    });
}
