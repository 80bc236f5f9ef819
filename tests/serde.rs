//! The feature `serde`: values there and back, in a format of texts.
#![cfg(feature = "serde")]

mod support;

use haypile::{
    BasicProperties, Connection, ConsumingEnded, Deliver, DeliveryMode, FieldTable, FieldValue,
    GetOk, QueueDeclareOk, Return, ShortString, Unconfirmed,
};
use serde_json::json;
use support::peer::{m, Args, Frame, Peer};
use support::{bounded, channel, exclusive_queue};

fn table() -> FieldTable {
    FieldTable::from([
        ("bool", FieldValue::from(true)),
        ("i8", (-1i8).into()),
        ("u8", 200u8.into()),
        ("i16", i16::MIN.into()),
        ("u16", u16::MAX.into()),
        ("i32", 7.into()),
        ("u32", u32::MAX.into()),
        ("i64", i64::MIN.into()),
        ("u64", u64::MAX.into()),
        ("f32", 0.5f32.into()),
        ("f64", 1.75.into()),
        ("decimal", FieldValue::decimal(2, 1999)),
        ("text", "grün".into()),
        ("no text", FieldValue::Text(vec![0xff, 0])),
        ("bytes", FieldValue::bytes(*b"ab")),
        ("array", FieldValue::array(["a", "b"])),
        ("time", FieldValue::timestamp(1_700_000_000)),
        ("table", FieldTable::from([("a", 1)]).into()),
        ("void", FieldValue::void()),
    ])
}

#[track_caller]
fn there_and_back<T>(value: T) -> serde_json::Value
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let text = serde_json::to_string(&value).unwrap();
    assert_eq!(serde_json::from_str::<T>(&text).unwrap(), value, "{text}");
    serde_json::to_value(&value).unwrap()
}

#[test]
fn tables_keep_the_types_of_their_values() {
    let shown = there_and_back(table());
    assert_eq!(shown["i32"], json!({"I32": 7}));
    assert_eq!(shown["text"], json!({"Text": "grün"}));
    assert_eq!(shown["no text"], json!({"Text": [255, 0]}));
    assert_eq!(shown["bytes"], json!({"Bytes": [97, 98]}));
    assert_eq!(
        shown["array"],
        json!({"Array": [{"Text": "a"}, {"Text": "b"}]})
    );
    assert_eq!(shown["void"], json!("Void"));
    assert_eq!(there_and_back(FieldTable::new()), json!({}));
    let twice =
        serde_json::from_str::<FieldTable>(r#"{"b": "Void", "a": {"I8": 1}, "a": {"I8": 2}}"#);
    assert_eq!(
        twice.unwrap(),
        FieldTable::from([("a", FieldValue::I8(2)), ("b", FieldValue::void())])
    );
    // Such a key is refused rather than changed.
    let error = serde_json::to_string(&FieldTable::from([([0xff, b'k'], 1)])).unwrap_err();
    assert!(error.to_string().contains(r#"b"\xffk""#), "{error}");
}

/// JSON has no such numbers, and serde_json would write null.
#[test]
fn numbers_that_are_not_finite_are_kept() {
    for (value, written) in [
        (f64::NAN, "NaN"),
        (f64::INFINITY, "inf"),
        (f64::NEG_INFINITY, "-inf"),
    ] {
        for (field, kind) in [
            (FieldValue::F64(value), "F64"),
            (FieldValue::F32(value as f32), "F32"),
        ] {
            let text = serde_json::to_string(&field).unwrap();
            assert_eq!(text, json!({kind: written}).to_string());
            let read: FieldValue = serde_json::from_str(&text).unwrap();
            assert_eq!(format!("{read:?}"), format!("{field:?}"));
        }
    }
    for finite in [f64::MAX, f64::MIN_POSITIVE, -0.0, 7.0, 0.1] {
        there_and_back(FieldValue::F64(finite));
    }
    for finite in [f32::MAX, f32::MIN_POSITIVE, -0.0, 7.0, 0.1, 16_777_217.0] {
        there_and_back(FieldValue::F32(finite));
    }
    let read = |text| serde_json::from_str::<FieldValue>(text);
    assert_eq!(read(r#"{"F64": 7}"#).unwrap(), FieldValue::F64(7.0));
    assert_eq!(read(r#"{"F32": -7}"#).unwrap(), FieldValue::F32(-7.0));
    for wrong in [
        r#"{"F64": null}"#,
        r#"{"F64": "seven"}"#,
        r#"{"F32": 1e39}"#,
    ] {
        read(wrong).unwrap_err();
    }
}

/// What no client would have sent, and what a program could not have made otherwise.
#[test]
fn received_numbers_are_only_what_can_be_received() {
    let read = |text| serde_json::from_str::<FieldValue>(text);
    for possible in [
        r#"{"Received":{"Long":18446744073709551615}}"#,
        r#"{"Received":{"Long":7}}"#,
        r#"{"Received":{"Timestamp":253402300800}}"#,
        r#"{"Received":{"Decimal":{"scale":2,"value":2147483648}}}"#,
        r#"{"Received":{"Bool":2}}"#,
    ] {
        let value = read(possible).unwrap();
        assert_eq!(serde_json::to_string(&value).unwrap(), possible);
    }
    for impossible in [
        r#"{"Received":{"Timestamp":253402300799}}"#,
        r#"{"Received":{"Decimal":{"scale":2,"value":7}}}"#,
        r#"{"Received":{"Bool":1}}"#,
    ] {
        let error = read(impossible).unwrap_err().to_string();
        assert!(error.contains("FieldValue"), "{error}");
    }
}

/// As pika refuses an unknown keyword.
#[test]
fn an_unknown_property_is_refused() {
    let read = serde_json::from_value::<BasicProperties>;
    let error = read(json!({"delivry_mode": 2})).unwrap_err().to_string();
    assert!(
        error.contains("delivry_mode") && error.contains("delivery_mode"),
        "{error}"
    );
    let decimal = json!({"Decimal": {"scale": 2, "value": 7, "sign": -1}});
    serde_json::from_value::<FieldValue>(decimal).unwrap_err();
    // What the broker's methods become may get more fields in a later version, whose files this one can read.
    let declared = json!({"queue": "q", "message_count": 1, "consumer_count": 0, "later": true});
    let declared: QueueDeclareOk = serde_json::from_value(declared).unwrap();
    assert_eq!(declared.message_count, 1);
}

#[test]
fn properties_read_like_properties() {
    let all = BasicProperties::new()
        .content_type("text/plain")
        .content_encoding("utf-8")
        .headers(table())
        .delivery_mode(2)
        .priority(5)
        .correlation_id([0xff])
        .reply_to("answers")
        .expiration("60000")
        .message_id("m")
        .timestamp(1_700_000_000)
        .message_type("order")
        .user_id("guest")
        .app_id("app")
        .cluster_id("c");
    let shown = there_and_back(all);
    assert_eq!(shown["delivery_mode"], json!(2));
    assert_eq!(shown["correlation_id"], json!([255]));
    assert_eq!(shown["reply_to"], json!("answers"));
    assert_eq!(
        there_and_back(BasicProperties::new())["reply_to"],
        json!(null)
    );
    let few: BasicProperties = serde_json::from_value(json!({"delivery_mode": 1})).unwrap();
    assert_eq!(
        few,
        BasicProperties::new().delivery_mode(DeliveryMode::Transient)
    );
}

#[test]
fn plain_structs() {
    let mut deliver = Deliver::default();
    deliver.consumer_tag = "tag".into();
    deliver.delivery_tag = 7;
    deliver.routing_key = ShortString::from([0xff, 0xfe]);
    let shown = there_and_back(deliver);
    assert_eq!(shown["delivery_tag"], json!(7));
    assert_eq!(shown["routing_key"], json!([255, 254]));
    there_and_back(GetOk::default());
    there_and_back(Return::default());
    there_and_back(QueueDeclareOk::default());
    there_and_back(ConsumingEnded::Cancelled);
    there_and_back(ShortString::from("text"));
    let returned = json!({
        "method": {"reply_code": 312, "reply_text": "NO_ROUTE", "exchange": "", "routing_key": "k"},
        "properties": {},
        "body": "x",
    });
    let message: haypile::ReturnedMessage = serde_json::from_value(returned).unwrap();
    assert_eq!(
        (message.method.reply_code, &message.body[..]),
        (312, &b"x"[..])
    );
    assert_eq!(there_and_back(message)["body"], json!("x"));
}

/// Another client sent milliseconds. The message is stored, and sent on by the next run of the program.
#[test]
fn a_received_message_that_was_stored_goes_on_as_it_came() {
    const MILLISECONDS: u64 = 1_700_000_000_000;
    bounded(|| {
        let headers = [
            &b"\x01uL"[..],
            &u64::MAX.to_be_bytes(),
            b"\x01wT",
            &MILLISECONDS.to_be_bytes(),
        ]
        .concat();
        let length = (headers.len() as u32).to_be_bytes();
        let properties = [
            &[0x20, 0x40][..], // headers, timestamp
            &length,
            &headers,
            &MILLISECONDS.to_be_bytes(),
        ]
        .concat();
        let peer = Peer::start(move |session| {
            session.handshake();
            session.open_channel(1);
            session.expect(1, m::BASIC_GET);
            let got = Args::new()
                .longlong(1)
                .octet(0)
                .shortstr("")
                .shortstr("q")
                .long(0);
            session.send_raw(&Frame::encode_content(
                1,
                m::BASIC_GET_OK,
                &got,
                &properties,
                b"x",
            ));
            assert!(session.frame().is(1, m::BASIC_PUBLISH));
            assert_eq!(session.frame().payload[12..], properties);
            session.serve_until_end();
        });
        let connection = Connection::open(peer.url()).unwrap();
        let channel = connection.channel().unwrap();
        let (_, properties, body) = channel.basic_get("q").unwrap().unwrap();
        let stored = serde_json::to_string(&properties).unwrap();
        let mut read: BasicProperties = serde_json::from_str(&stored).unwrap();
        assert_eq!(read, properties);
        channel.basic_publish_with("", "q", &body, &read).unwrap();
        // Another time than the one that came is the program's own.
        read.timestamp = Some(MILLISECONDS + 1);
        let stored = serde_json::to_string(&read).unwrap();
        let read: BasicProperties = serde_json::from_str(&stored).unwrap();
        channel
            .basic_publish_with("", "q", &body, &read)
            .unwrap_err();
        connection.close().unwrap();
        peer.finish();
    });
}

/// Brokers take what was stored, too.
#[test]
fn a_broker_takes_what_was_stored() {
    bounded(|| {
        let channel = channel();
        let queue = exclusive_queue(&channel);
        let stored = json!({
            "headers": {"u": {"Received": {"Long": u64::MAX}}},
            "timestamp": 1_700_000_000_000u64,
            "timestamp_as_received": 1_700_000_000_000u64,
        });
        let properties: BasicProperties = serde_json::from_value(stored).unwrap();
        channel
            .basic_publish_with("", &queue, "x", &properties)
            .unwrap();
        let mut got = None;
        support::wait_until(support::SOON, || {
            got = channel.basic_get(&queue).unwrap();
            got.is_some()
        });
        let (_, came, _) = got.unwrap();
        assert_eq!(came.timestamp, properties.timestamp);
        channel.connection().close().unwrap();
    });
}

/// What a publisher had left can be kept in a file.
#[test]
fn an_unconfirmed_message_there_and_back() {
    let json = json!({
        "number": 7,
        "exchange": "",
        "routing_key": "q",
        "properties": { "message_id": "m" },
        "mandatory": true,
        "body": [1, 2],
    });
    let message: Unconfirmed = serde_json::from_value(json).unwrap();
    assert_eq!(message.properties.message_id.as_deref(), Some("m"));
    assert_eq!((message.number, &*message.body), (7, &[1, 2][..]));
    there_and_back(message);
}
