//! Numbers that other clients cannot read, or read differently, are refused by name before anything is sent; what another client
//! sent that way is read and goes on as it came.

mod support;

use std::net::TcpListener;
use std::time::{Duration, SystemTime};

use haypile::{
    BasicConsume, BasicProperties, Channel, Connection, ConnectionParameters, Consume, Error,
    ExchangeDeclare, FieldTable, FieldValue, QueueDeclare,
};
use support::peer::{m, Args, Frame};
use support::{
    assert_matches, bounded, channel, exclusive_queue, message_count, raw_client, unique,
    wait_until, SOON,
};

/// The last second of the year 9999.
const YEAR_9999: u64 = 253_402_300_799;

/// 2024, in milliseconds.
const MILLISECONDS: u64 = 1_704_067_200_000;

/// Each with a part of the error's text.
fn unsendable() -> Vec<(FieldValue, &'static str)> {
    vec![
        (u64::MAX.into(), "18446744073709551615"),
        ((i64::MAX as u64 + 1).into(), "9223372036854775808"),
        (FieldValue::U64(u64::MAX), "18446744073709551615"),
        (FieldValue::timestamp(MILLISECONDS), "1704067200000"),
        (FieldValue::Timestamp(YEAR_9999 + 1), "253402300800"),
        (
            (SystemTime::UNIX_EPOCH - Duration::from_secs(1)).into(),
            "-1",
        ),
        (FieldValue::decimal(2, 1 << 31), "2147483648"),
        (f64::NAN.into(), "NaN"),
        (f32::INFINITY.into(), "inf"),
    ]
}

#[track_caller]
fn assert_refused<T: std::fmt::Debug>(result: haypile::Result<T>, field: &str, value: &str) {
    match result {
        Err(Error::InvalidParameter {
            field: named,
            value: shown,
            ..
        }) => {
            assert_eq!((&*named, &*shown), (field, value));
        }
        other => panic!("{field}: {other:?}"),
    }
}

#[test]
fn no_call_sends_such_a_number() {
    bounded(|| {
        let channel = channel();
        let queue = exclusive_queue(&channel);
        let exchange = unique("numbers");
        for (value, text) in unsendable() {
            let one = || FieldTable::from([("x", value.clone())]);
            let deep = FieldTable::from([("in", FieldValue::array([FieldValue::from(one())]))]);
            let headers = BasicProperties::new().headers(deep);
            assert_refused(
                channel.basic_publish_with("", &queue, "lost?", headers),
                r#"headers["in"][0]["x"]"#,
                text,
            );
            let field = r#"arguments["x"]"#;
            let declare = QueueDeclare::new(unique("numbers")).arguments(one());
            assert_refused(channel.queue_declare(declare), field, text);
            let declare = ExchangeDeclare::new(&exchange, "direct").arguments(one());
            assert_refused(channel.exchange_declare(declare), field, text);
            assert_refused(
                channel.queue_bind_with(&queue, "amq.direct", "k", one()),
                field,
                text,
            );
            assert_refused(
                channel.queue_unbind_with(&queue, "amq.direct", "k", one()),
                field,
                text,
            );
            assert_refused(
                channel.exchange_bind_with("amq.fanout", "amq.direct", "k", one()),
                field,
                text,
            );
            assert_refused(
                channel.exchange_unbind_with("amq.fanout", "amq.direct", "k", one()),
                field,
                text,
            );
            let consume = BasicConsume::new(&queue).arguments(one());
            assert_refused(channel.basic_consume(consume, |_, _, _, _| ()), field, text);
            let consume = Consume::new(&queue).arguments(one());
            assert_refused(channel.consume(consume).map(|_| ()), field, text);
        }
        for milliseconds in [MILLISECONDS, YEAR_9999 + 1] {
            assert_refused(
                channel.basic_publish_with(
                    "",
                    &queue,
                    "lost?",
                    BasicProperties::new().timestamp(milliseconds),
                ),
                "timestamp",
                &milliseconds.to_string(),
            );
        }
        let mut by_field = BasicProperties::new();
        by_field.timestamp = Some(u64::MAX);
        assert!(channel
            .basic_publish_with("", &queue, "lost?", by_field)
            .is_err());
        let early =
            BasicProperties::new().timestamp(SystemTime::UNIX_EPOCH - Duration::from_secs(7));
        assert_refused(
            channel.basic_publish_with("", &queue, "lost?", early),
            "timestamp",
            "-7",
        );
        assert!(channel.consumer_tags().is_empty());

        // All is as it was, and the largest of each kind goes through.
        assert_eq!(message_count(&channel, &queue), 0);
        let most = BasicProperties::new()
            .timestamp(YEAR_9999)
            .header("u64", i64::MAX as u64)
            .header("time", FieldValue::timestamp(YEAR_9999))
            .header("decimal", FieldValue::decimal(255, i32::MAX as u32))
            .header("now", SystemTime::now());
        channel.basic_publish_with("", &queue, "x", &most).unwrap();
        assert_eq!(get(&channel, &queue), most);
        channel.connection().close().unwrap();
    });
}

fn get(channel: &Channel, queue: &str) -> BasicProperties {
    let mut got = None;
    wait_until(SOON, || {
        got = channel.basic_get(queue).unwrap();
        got.is_some()
    });
    got.unwrap().1
}

#[test]
fn a_refused_message_has_no_number() {
    bounded(|| {
        let channel = channel();
        let queue = exclusive_queue(&channel);
        let mut publisher = channel.publisher(10).unwrap();
        let bad = BasicProperties::new().header("id", u64::MAX);
        assert_eq!(publisher.publish("", &queue, "1").unwrap(), 1);
        assert_refused(
            publisher.publish_with("", &queue, "2", &bad),
            r#"headers["id"]"#,
            "18446744073709551615",
        );
        assert_refused(
            channel.basic_publish_with("", &queue, vec![0; 1 << 20], &bad),
            r#"headers["id"]"#,
            "18446744073709551615",
        );
        assert_eq!(publisher.publish("", &queue, "2").unwrap(), 2);
        publisher.wait_for_confirms(SOON).unwrap();
        assert_eq!(message_count(&channel, &queue), 2);
        channel.connection().close().unwrap();
    });
}

#[test]
fn client_properties_are_checked_before_connecting() {
    bounded(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let parameters = || ConnectionParameters::new("127.0.0.1").port(port);
        for (value, text) in unsendable() {
            assert_refused(
                Connection::open(parameters().client_property("x", value.clone())),
                r#"client_properties["x"]"#,
                text,
            );
            let inner = FieldTable::from([("y", vec![value])]);
            assert_refused(
                Connection::open(parameters().client_property("x", inner)),
                r#"client_properties["x"]["y"][0]"#,
                text,
            );
        }
        let long = "k".repeat(256);
        for properties in [
            FieldTable::from([(long.clone(), 1)]),
            FieldTable::from([("x", FieldTable::from([(long, 1)]))]),
        ] {
            assert_refused(
                Connection::open(parameters().client_properties(properties)),
                "client_properties",
                "a key of 256 bytes",
            );
        }
        let number = "client_properties=%7B%27id%27%3A18446744073709551615%7D";
        let error = Connection::open(format!("amqp://127.0.0.1:{port}?{number}")).unwrap_err();
        assert_matches!(error, Error::InvalidParameter { .. });
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err(), "no client connected");
    });
}

/// What another client sends that way, through a real broker: in, on, and out again, byte for byte as the broker gives it to
/// others. (RabbitMQ 4 itself turns an `L` into an `l`.)
#[test]
fn what_another_client_sent_goes_on_unchanged() {
    bounded(|| {
        let channel = channel();
        let (from, to) = (unique("from"), unique("to"));
        for queue in [&from, &to] {
            channel
                .queue_declare(QueueDeclare::new(queue).auto_delete(true))
                .unwrap();
        }
        let mut fields = Vec::new();
        for (key, value) in [
            ("a", &[&b"L"[..], &u64::MAX.to_be_bytes()].concat()),
            ("b", &[&b"L"[..], &5u64.to_be_bytes()].concat()),
            ("c", &[&b"T"[..], &MILLISECONDS.to_be_bytes()].concat()),
            ("d", &[&b"T"[..], &u64::MAX.to_be_bytes()].concat()),
            ("e", &[&b"D\x02"[..], &u32::MAX.to_be_bytes()].concat()),
            (
                "f",
                &[&b"A\0\0\0\x09L"[..], &(1u64 << 63).to_be_bytes()].concat(),
            ),
            (
                "g",
                &[&b"F\0\0\0\x0b\x01xT"[..], &MILLISECONDS.to_be_bytes()].concat(),
            ),
        ] {
            fields.extend([1, key.as_bytes()[0]]);
            fields.extend(value);
        }
        // Headers and the timestamp; headers alone.
        let both = Args::new()
            .short(0x2040)
            .longstr(&fields)
            .longlong(MILLISECONDS);
        let headers_alone = Args::new().short(0x2000).longstr(&fields);
        let mut other = raw_client();
        let publish = Args::new().short(0).shortstr("").shortstr(&from).octet(0);
        for properties in [&both, &headers_alone, &both] {
            let message =
                Frame::encode_content(1, m::BASIC_PUBLISH, &publish, properties.bytes(), b"x");
            other.send_raw(&message);
        }
        let mut raw_get = |queue: &str| loop {
            other.send_method(
                1,
                m::BASIC_GET,
                Args::new().short(0).shortstr(queue).octet(1),
            );
            if other.frame().is(1, m::BASIC_GET_OK) {
                let header = other.frame();
                assert_eq!(other.frame().payload, b"x");
                return header.payload[12..].to_vec();
            }
        };
        let as_given = [raw_get(&from), raw_get(&from)];

        let came = get(&channel, &from);
        let headers = came.headers.as_ref().unwrap();
        let number = |key: &str| headers.get(key).and_then(FieldValue::as_u64);
        assert_eq!(headers.get("a").and_then(FieldValue::as_i64), Some(-1));
        assert_eq!(number("b"), Some(5));
        assert_eq!(number("c"), Some(MILLISECONDS));
        assert_eq!(number("d"), Some(u64::MAX));
        assert_eq!(
            headers.get("e").and_then(FieldValue::as_decimal),
            Some((2, u32::MAX))
        );
        assert_eq!(came.timestamp, Some(MILLISECONDS));

        // As a whole, and by its fields.
        channel.basic_publish_with("", &to, "x", &came).unwrap();
        let copied = BasicProperties::new().headers(headers.iter().collect::<FieldTable>());
        channel.basic_publish_with("", &to, "x", copied).unwrap();
        assert_eq!([raw_get(&to), raw_get(&to)], as_given);

        // Another such number in the same properties is refused even so.
        let mut changed = came.clone();
        changed.timestamp = Some(MILLISECONDS + 1);
        assert_refused(
            channel.basic_publish_with("", &to, "x", changed),
            "timestamp",
            "1704067200001",
        );
        let changed = came.header("new", u64::MAX);
        assert_refused(
            channel.basic_publish_with("", &to, "x", changed),
            r#"headers["new"]"#,
            "18446744073709551615",
        );
        for queue in [&from, &to] {
            channel.queue_delete(queue).unwrap();
        }
        channel.connection().close().unwrap();
    });
}

#[test]
fn times_and_spans_are_taken_as_they_are() {
    let moment = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_900);
    let properties = BasicProperties::new()
        .timestamp(moment)
        .expiration(Duration::from_secs(60))
        .delivery_mode(2);
    let same = BasicProperties::new()
        .timestamp(1_700_000_000)
        .expiration("60000")
        .delivery_mode(haypile::DeliveryMode::Persistent);
    assert_eq!(properties, same);
    let expiration = |span| BasicProperties::new().expiration(span).expiration.unwrap();
    assert_eq!(expiration(Duration::ZERO), "0");
    assert_eq!(expiration(Duration::from_micros(1)), "1", "not at once");
    assert_eq!(expiration(Duration::from_micros(1001)), "2");
    assert_eq!(
        FieldValue::from(moment),
        FieldValue::timestamp(1_700_000_000)
    );
}
