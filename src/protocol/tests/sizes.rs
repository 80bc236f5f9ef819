//! How much memory is counted for what waits.

use crate::protocol::properties::ReceivedProperties;
use crate::protocol::received::{Carrier, Incoming, Received};
use crate::protocol::size::{size_of_properties, ALLOCATION};
use crate::{BasicProperties, FieldTable, FieldValue, ReturnedMessage};

fn carrier(consumer_tag: &str) -> Carrier {
    Carrier::Deliver {
        consumer_tag: consumer_tag.into(),
        redelivered: false,
    }
}

fn received() -> Received {
    Received {
        carrier: carrier(""),
        delivery_tag: 1,
        exchange: "".into(),
        routing_key: "".into(),
        properties: ReceivedProperties::default(),
        body: Vec::new(),
    }
}

/// What a header frame's properties are read as.
fn properties(of: &BasicProperties) -> ReceivedProperties {
    let mut bytes = Vec::new();
    crate::protocol::frame::write_header(&mut bytes, 1, 0, of).unwrap();
    let payload = &bytes[7..bytes.len() - 1];
    crate::protocol::frame::read_header(payload).unwrap().1
}

#[test]
fn each_byte_of_a_message_is_counted_once() {
    let least = size_of::<Incoming>() + 4 * ALLOCATION;
    assert_eq!(received().size(), least);
    let grow: [fn(&mut Received); 4] = [
        |message| message.carrier = carrier("hello"),
        |message| message.exchange = "hello".into(),
        |message| message.routing_key = "hello".into(),
        |message| message.body = b"hello".to_vec(),
    ];
    let mut all = received();
    for (at, grow) in grow.into_iter().enumerate() {
        let mut one = received();
        grow(&mut one);
        assert_eq!(one.size(), least + 5);
        grow(&mut all);
        assert_eq!(all.size(), least + 5 * (at + 1));
    }
    let size = all.size();
    let sent = BasicProperties::new().app_id("hello").priority(3);
    all.properties = properties(&sent);
    let of_properties = size_of::<BasicProperties>() + size_of::<usize>() + 2 * ALLOCATION + 5;
    assert_eq!(all.size(), size + of_properties);
    let few = BasicProperties::new().delivery_mode(2).priority(3);
    all.properties = properties(&few);
    assert_eq!(all.size(), size);
    assert_eq!(Incoming::Message(all).size(), size);
    let cancelled = Incoming::Cancelled("hello".into());
    assert_eq!(cancelled.size(), size_of::<Incoming>() + 5);
    let mut returned = ReturnedMessage {
        method: crate::Return::default(),
        properties: BasicProperties::new(),
        body: Vec::new(),
    };
    let grow: [fn(&mut ReturnedMessage); 5] = [
        |message| message.method.reply_text = "hello".into(),
        |message| message.method.exchange = "hello".into(),
        |message| message.method.routing_key = "hello".into(),
        |message| message.properties = BasicProperties::new().priority(1),
        |message| message.body = b"hello".to_vec(),
    ];
    for (at, grow) in grow.into_iter().enumerate() {
        grow(&mut returned);
        let texts = if at < 3 { at + 1 } else { at };
        let size = size_of::<ReturnedMessage>() + 5 * ALLOCATION + 5 * texts;
        assert_eq!(returned.size(), size);
        let event = Incoming::Returned(returned.clone().into());
        assert_eq!(event.size(), size_of::<Incoming>() + size);
    }
}

#[test]
fn each_property_is_counted() {
    let none = BasicProperties::new();
    assert_eq!(size_of_properties(&none), 0);
    let text = ALLOCATION + 5;
    let with: [fn(BasicProperties) -> BasicProperties; 10] = [
        |properties| properties.content_type("hello"),
        |properties| properties.content_encoding("hello"),
        |properties| properties.correlation_id("hello"),
        |properties| properties.reply_to("hello"),
        |properties| properties.expiration("12345"),
        |properties| properties.message_id("hello"),
        |properties| properties.message_type("hello"),
        |properties| properties.user_id("hello"),
        |properties| properties.app_id("hello"),
        |properties| properties.cluster_id("hello"),
    ];
    let mut all = BasicProperties::new();
    for (at, with) in with.into_iter().enumerate() {
        assert_eq!(size_of_properties(&with(BasicProperties::new())), text);
        all = with(all);
        assert_eq!(size_of_properties(&all), (at + 1) * text);
    }
    let table = FieldTable::from([("key", 1)]);
    let of_table = size_of_properties(&none.headers(table.clone()));
    let field = size_of::<(String, FieldValue)>();
    assert_eq!(of_table, 2 * ALLOCATION + field + ALLOCATION + 3);
    assert_eq!(
        size_of_properties(&all.headers(table)),
        10 * text + of_table
    );
}

/// A field of two bytes on the wire becomes one of many in memory.
#[test]
fn values_are_counted_with_the_room_that_they_take() {
    let of = |table: FieldTable| size_of_properties(&BasicProperties::new().headers(table));
    let field = size_of::<(String, FieldValue)>();
    let one = |value: FieldValue| of(FieldTable::from([("a", value)]));
    let plain = one(1.into());
    assert_eq!(plain, 2 * ALLOCATION + field + ALLOCATION + 1);
    // A list grows to the next power of two.
    let three = of(FieldTable::from([("a", 1), ("b", 2), ("cd", 3)]));
    assert_eq!(three, 2 * ALLOCATION + 4 * field + 3 * ALLOCATION + 4);
    let value = size_of::<FieldValue>();
    for (of_value, extra) in [
        ("hello".into(), ALLOCATION + 5),
        (FieldValue::bytes("hello"), ALLOCATION + 5),
        (FieldValue::array([1, 2, 3]), ALLOCATION + 4 * value),
        (
            FieldValue::array(["hello", "you"]),
            ALLOCATION + 2 * value + 2 * ALLOCATION + 8,
        ),
        (
            FieldTable::from([("b", "hello")]).into(),
            2 * ALLOCATION + field + ALLOCATION + 1 + ALLOCATION + 5,
        ),
        (FieldValue::timestamp(1), 0),
        (FieldValue::void(), 0),
    ] {
        let value: FieldValue = of_value;
        assert_eq!(one(value.clone()), plain + extra, "{value:?}");
    }
}
