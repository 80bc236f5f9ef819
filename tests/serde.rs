//! The feature `serde`: values there and back, in a format of texts.
#![cfg(feature = "serde")]

use haypile::{
    BasicProperties, ConsumingEnded, Deliver, DeliveryMode, FieldTable, FieldValue, GetOk,
    QueueDeclareOk, Return, ShortString,
};
use serde_json::json;

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
    assert!(serde_json::to_string(&FieldTable::from([([0xff], 1)])).is_err());
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
