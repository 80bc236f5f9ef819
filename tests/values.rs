//! Tables, values and properties as a program writes and reads them.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use haypile::{
    BasicConsume, BasicProperties, ConnectionParameters, Consume, Deliver, DeliveryMode,
    ExchangeDeclare, FieldTable, FieldValue, QueueDeclare, ReturnedMessage, ShortString,
};

#[test]
fn headers_and_arguments_take_the_same_things() {
    let expected = FieldTable::from([("a", 1), ("b", 2)]);
    let tables = || {
        let array: FieldTable = [("a", 1), ("b", 2)].into();
        let vector: FieldTable = vec![("b", 2), ("a", 1)].into();
        let sorted: FieldTable = BTreeMap::from([("a", 1), ("b", 2)]).into();
        let hashed: FieldTable = HashMap::from([("a".to_owned(), 1), ("b".to_owned(), 2)]).into();
        [array, vector, sorted, hashed, FieldTable::from(&expected)]
    };
    assert!(tables().iter().all(|table| *table == expected));
    let properties = BasicProperties::new().headers([("a", 1), ("b", 2)]);
    assert_eq!(properties.headers.as_ref(), Some(&expected));
    assert_eq!(BasicProperties::new().headers(&expected), properties);
    assert_eq!(
        QueueDeclare::new("q").arguments([("a", 1), ("b", 2)]),
        QueueDeclare::new("q").argument("b", 2).argument("a", 1)
    );
    let _ = ExchangeDeclare::new("x", "fanout").arguments(vec![("a", 1)]);
    let _ = BasicConsume::new("q").arguments(BTreeMap::from([("a", 1)]));
    let _ = Consume::new("q").arguments(&expected);
}

#[test]
fn what_is_borrowed_is_copied() {
    let expected = FieldTable::from([("a", 1), ("b", 2)]);
    let hashed = HashMap::from([("a".to_owned(), 1), ("b".to_owned(), 2)]);
    let sorted = BTreeMap::from([("a", 1), ("b", 2)]);
    let vector = vec![("b", 2), ("a", 1)];
    let array = [("a".to_owned(), 1), ("b".to_owned(), 2)];
    let headers = |table: FieldTable| table == expected;
    assert!(headers((&hashed).into()) && headers((&sorted).into()) && headers((&vector).into()));
    let properties = BasicProperties::new().headers(&hashed);
    assert_eq!(properties.headers.as_ref(), Some(&expected));
    let by_array = QueueDeclare::new("q").arguments(&array);
    assert_eq!(by_array, QueueDeclare::new("q").arguments(&vector));
    assert_eq!(by_array, QueueDeclare::new("q").arguments(&sorted));
    let lengths = [hashed.len(), sorted.len(), vector.len(), array.len()];
    assert_eq!(lengths, [2; 4]);
}

#[test]
fn lists_and_maps_are_values() {
    let array = FieldValue::array(["a", "b"]);
    let owned = || vec!["a".to_owned(), "b".to_owned()];
    for value in [
        FieldValue::from(vec!["a", "b"]),
        ["a", "b"].into(),
        owned().into(),
        [FieldValue::from("a"), "b".into()].into(),
    ] {
        assert_eq!(value, array);
    }
    assert_eq!(FieldValue::from([1, 2]), FieldValue::array([1, 2]));
    assert_eq!(FieldValue::from(vec![0.5]), FieldValue::array([0.5]));
    // Octets are bytes, however they are given.
    let bytes = FieldValue::bytes([1, 2]);
    for value in [
        FieldValue::from([1u8, 2]),
        vec![1u8, 2].into(),
        (&[1u8, 2][..]).into(),
    ] {
        assert_eq!(value, bytes);
    }
    let table = FieldTable::from([("a", 1)]);
    let properties = BasicProperties::new()
        .header("map", HashMap::from([("a".to_owned(), 1)]))
        .header("sorted", BTreeMap::from([("a", 1)]))
        .header("table", &table)
        .header("hosts", vec!["a", "b"]);
    for key in ["map", "sorted", "table"] {
        let value = properties.get_header(key);
        assert_eq!(value.and_then(FieldValue::as_table), Some(&table));
    }
    assert_eq!(properties.get_header("hosts"), Some(&array));
}

#[test]
fn a_value_inside_of_headers_is_found_by_its_keys() {
    let death = FieldTable::from([("count", FieldValue::from(3)), ("queue", "work".into())]);
    let properties = BasicProperties::new().header("x-death", vec![FieldValue::from(death)]);
    let count = properties
        .get_header("x-death")
        .and_then(|deaths| deaths.as_array()?.first()?.get("count")?.as_i64());
    assert_eq!(count, Some(3));
    assert_eq!(properties.get_header("x-other"), None);
    assert_eq!(BasicProperties::new().get_header("x-death"), None);
    assert_eq!(FieldValue::from(3).get("count"), None);
    assert!(properties.get_header(String::from("x-death")).is_some());
}

#[test]
fn a_text_among_the_properties_can_be_a_header() {
    let id = ShortString::from([0xff]);
    let properties = BasicProperties::new()
        .header("id", &id)
        .header("same", id.clone());
    assert_eq!(
        properties.get_header("id").and_then(FieldValue::as_bytes),
        Some(&[0xff][..])
    );
    assert_eq!(
        properties.get_header("same"),
        Some(&FieldValue::Text(vec![0xff]))
    );
}

#[test]
fn delivery_modes_are_numbers_too() {
    let mode = |properties: BasicProperties| properties.delivery_mode;
    assert_eq!(
        mode(BasicProperties::new().delivery_mode(2)),
        Some(DeliveryMode::Persistent)
    );
    assert_eq!(
        mode(BasicProperties::new().delivery_mode(1)),
        Some(DeliveryMode::Transient)
    );
    assert_eq!(
        mode(BasicProperties::new().delivery_mode(DeliveryMode::Other(7))),
        Some(DeliveryMode::Other(7))
    );
}

#[test]
fn what_debug_shows_reads_well() {
    let properties = BasicProperties::new()
        .correlation_id([0xff, b'a'])
        .reply_to("answers")
        .header("body", vec![0u8, 255])
        .header("name", "x\u{1b}y");
    assert_eq!(
        format!("{properties:?}"),
        r#"BasicProperties { headers: {"body": Bytes(b"\x00\xff"), "name": Text("x\u{1b}y")}, correlation_id: b"\xffa", reply_to: "answers" }"#
    );
    assert_eq!(format!("{:?}", BasicProperties::new()), "BasicProperties");
    assert_eq!(
        format!("{:?}", FieldValue::bytes([1, b'a'])),
        r#"Bytes(b"\x01a")"#
    );
    let parameters = format!("{:?}", ConnectionParameters::default().heartbeat(60));
    assert!(parameters.contains("heartbeat: Some(60)"), "{parameters}");
    let mut method = Deliver::default();
    method.routing_key = "k".into();
    let shown = format!("{method:?}");
    assert!(shown.contains(r#"routing_key: "k""#), "{shown}");
    let long = FieldTable::from([("x", "y".repeat(100_000)), ("z", "\u{1b}".repeat(100_000))]);
    let shown = format!("{long:?}");
    assert!(
        shown.len() < 5000 && shown.contains("100000 bytes in all"),
        "{} bytes",
        shown.len()
    );
}

/// The iterators of tables have names, and a returned message can be taken apart.
#[test]
fn what_is_public_can_be_named() {
    fn keys(table: &FieldTable) -> haypile::field_table::Keys<'_> {
        table.keys()
    }
    fn fields(table: &FieldTable) -> haypile::field_table::Iter<'_> {
        table.iter()
    }
    fn owned(table: FieldTable) -> haypile::field_table::IntoIter {
        table.into_iter()
    }
    let table = FieldTable::from([("a", 1), ("b", 2)]);
    assert!(keys(&table).rev().eq(["b", "a"]));
    assert_eq!(fields(&table).len(), 2);
    assert_eq!(owned(table).next_back(), Some(("b".into(), 2.into())));
    fn body(returned: ReturnedMessage) -> Vec<u8> {
        let ReturnedMessage { body, .. } = returned;
        body
    }
    let _ = body;
}

/// As in a loop over an array of names.
#[test]
fn a_borrowed_name_is_a_name() {
    for name in ["a", "b"].iter() {
        assert_eq!(QueueDeclare::from(name), QueueDeclare::new(*name));
    }
}

#[test]
fn a_duration_is_a_number_of_milliseconds() {
    for (duration, milliseconds) in [
        (Duration::ZERO, 0),
        (Duration::from_secs(60), 60_000),
        (Duration::from_nanos(1), 1),
        (Duration::from_millis(i64::MAX as u64), i64::MAX),
    ] {
        assert_eq!(FieldValue::from(duration), FieldValue::I64(milliseconds));
    }
    // No number of theirs, so it is refused when it is to be sent.
    let too_long = Duration::from_millis(i64::MAX as u64 + 1);
    assert_eq!(FieldValue::from(too_long), FieldValue::U64(u64::MAX));
}
