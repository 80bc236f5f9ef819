//! The values of a table as a program makes, reads, compares and shows them; and the table as a collection of them.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime};

use crate::protocol::field_table::Table;
use crate::protocol::field_value::Form;
use crate::protocol::{FieldTable, FieldValue};
use crate::ShortString;

/// What a value is read as: `as_i64`, `as_u64`, `as_f64`, `as_bool`, `as_str`, `as_bytes` and `as_decimal`.
type ReadAs = (
    Option<i64>,
    Option<u64>,
    Option<f64>,
    Option<bool>,
    Option<&'static str>,
    Option<&'static [u8]>,
    Option<(u8, u32)>,
);

const NONE: ReadAs = (None, None, None, None, None, None, None);

fn number(signed: i64) -> ReadAs {
    let unsigned = u64::try_from(signed).ok();
    (Some(signed), unsigned, None, None, None, None, None)
}

fn unsigned(value: u64) -> ReadAs {
    (None, Some(value), None, None, None, None, None)
}

fn float(value: f64) -> ReadAs {
    (None, None, Some(value), None, None, None, None)
}

fn boolean(value: bool) -> ReadAs {
    (None, None, None, Some(value), None, None, None)
}

fn bytes(text: Option<&'static str>, bytes: &'static [u8]) -> ReadAs {
    (None, None, None, None, text, Some(bytes), None)
}

fn decimal(scale: u8, value: u32) -> ReadAs {
    (None, None, None, None, None, None, Some((scale, value)))
}

/// Values of every type, no two alike, with what they are shown as and read as.
fn all() -> Vec<(FieldValue, &'static str, ReadAs)> {
    let long = u64::MAX - 1;
    vec![
        (true.into(), "Bool(true)", boolean(true)),
        (false.into(), "Bool(false)", boolean(false)),
        ((-2i8).into(), "I8(-2)", number(-2)),
        (3i8.into(), "I8(3)", number(3)),
        (254u8.into(), "U8(254)", number(254)),
        (3u8.into(), "U8(3)", number(3)),
        ((-2i16).into(), "I16(-2)", number(-2)),
        (3i16.into(), "I16(3)", number(3)),
        (65534u16.into(), "U16(65534)", number(65534)),
        (3u16.into(), "U16(3)", number(3)),
        ((-2i32).into(), "I32(-2)", number(-2)),
        (3i32.into(), "I32(3)", number(3)),
        (4294967294u32.into(), "U32(4294967294)", number(4294967294)),
        (3u32.into(), "U32(3)", number(3)),
        ((-2i64).into(), "I64(-2)", number(-2)),
        (3u64.into(), "I64(3)", number(3)),
        (4usize.into(), "I64(4)", number(4)),
        (
            u64::MAX.into(),
            "U64(18446744073709551615)",
            unsigned(u64::MAX),
        ),
        (FieldValue::U64(3), "U64(3)", number(3)),
        (0.75f32.into(), "F32(0.75)", float(0.75)),
        (1.75f32.into(), "F32(1.75)", float(1.75)),
        (0.75f64.into(), "F64(0.75)", float(0.75)),
        (1.75f64.into(), "F64(1.75)", float(1.75)),
        (
            FieldValue::decimal(2, 1999),
            "Decimal { scale: 2, value: 1999 }",
            decimal(2, 1999),
        ),
        (
            FieldValue::decimal(2, 1998),
            "Decimal { scale: 2, value: 1998 }",
            decimal(2, 1998),
        ),
        (
            FieldValue::decimal(1, 1999),
            "Decimal { scale: 1, value: 1999 }",
            decimal(1, 1999),
        ),
        ("hi".into(), "Text(\"hi\")", bytes(Some("hi"), b"hi")),
        (
            FieldValue::Text(vec![0xff]),
            "Text(b\"\\xff\")",
            bytes(None, b"\xff"),
        ),
        (
            FieldValue::bytes("hi"),
            "Bytes(b\"hi\")",
            bytes(None, b"hi"),
        ),
        (
            FieldValue::bytes([0xff]),
            "Bytes(b\"\\xff\")",
            bytes(None, b"\xff"),
        ),
        (FieldValue::timestamp(3), "Timestamp(3)", number(3)),
        (FieldValue::timestamp(4), "Timestamp(4)", number(4)),
        (
            FieldValue::timestamp(u64::MAX),
            "Timestamp(18446744073709551615)",
            unsigned(u64::MAX),
        ),
        (FieldValue::array([1, 2]), "Array([I32(1), I32(2)])", NONE),
        (FieldValue::array([1]), "Array([I32(1)])", NONE),
        (
            FieldTable::from([("a", 1)]).into(),
            "Table({\"a\": I32(1)})",
            NONE,
        ),
        (
            FieldTable::from([("b", 1)]).into(),
            "Table({\"b\": I32(1)})",
            NONE,
        ),
        (FieldValue::void(), "Void", NONE),
        (
            Form::Long(long).into(),
            "Received(Long(18446744073709551614))",
            (Some(-2), Some(long), None, None, None, None, None),
        ),
        (
            Form::Timestamp(1 << 62).into(),
            "Received(Timestamp(4611686018427387904))",
            number(1 << 62),
        ),
        (
            Form::Decimal {
                scale: 2,
                value: 1 << 31,
            }
            .into(),
            "Received(Decimal { scale: 2, value: 2147483648 })",
            decimal(2, 1 << 31),
        ),
    ]
}

#[test]
fn values_are_shown_and_read_as_what_they_are() {
    for (value, shown, read_as) in all() {
        assert_eq!(format!("{value:?}"), shown);
        let (signed, unsigned, float, boolean, text, bytes, decimal) = read_as;
        assert_eq!(
            (value.as_i64(), value.as_u64()),
            (signed, unsigned),
            "{shown}"
        );
        assert_eq!(
            (value.as_f64(), value.as_bool()),
            (float, boolean),
            "{shown}"
        );
        assert_eq!((value.as_str(), value.as_bytes()), (text, bytes), "{shown}");
        assert_eq!(value.as_decimal(), decimal, "{shown}");
        assert_eq!(value.as_array().is_some(), shown.starts_with("Array"));
        let has_a = shown == "Table({\"a\": I32(1)})";
        assert_eq!(value.as_table().is_some(), shown.starts_with("Table"));
        assert_eq!(value.get("a"), has_a.then_some(&FieldValue::I32(1)));
    }
    for octet in [0, 7] {
        let received = FieldValue::from(Form::Bool(octet));
        assert_eq!(received.as_bool(), Some(octet != 0));
        assert_eq!(received, FieldValue::from(octet != 0));
    }
}

/// Numbers of different types differ as well: a program that does not care reads them with `as_i64`.
#[test]
fn values_equal_themselves_and_no_others() {
    let all = all();
    for (at, (one, ..)) in all.iter().enumerate() {
        for (other_at, (other, ..)) in all.iter().enumerate() {
            assert_eq!(one == other, at == other_at, "{one:?} and {other:?}");
        }
    }
    // A number in a form in which it is only received equals the same number.
    let forms = [
        Form::Long(9),
        Form::Long(10),
        Form::Timestamp(9),
        Form::Bool(9),
        Form::Bool(0),
        Form::Decimal { scale: 1, value: 9 },
    ];
    let plain: [FieldValue; 6] = [
        9i64.into(),
        10i64.into(),
        FieldValue::timestamp(9),
        true.into(),
        false.into(),
        FieldValue::decimal(1, 9),
    ];
    for (at, form) in forms.into_iter().enumerate() {
        for (other_at, plain) in plain.iter().enumerate() {
            let received = FieldValue::from(form);
            assert_eq!(received == *plain, at == other_at, "{form:?}, {plain:?}");
            assert_eq!(*plain == received, at == other_at, "{form:?}, {plain:?}");
            assert_eq!(
                received == FieldValue::from(forms[other_at]),
                at == other_at
            );
        }
    }
    assert_eq!(
        FieldValue::from(Form::Bool(2)),
        FieldValue::from(Form::Bool(3))
    );
    assert_ne!(FieldValue::from(f64::NAN), FieldValue::from(f64::NAN));
}

#[test]
fn values_are_made_of_what_programs_have() {
    let text = FieldValue::Text(b"text".to_vec());
    let name = ShortString::from("text");
    let texts: [FieldValue; 6] = [
        "text".into(),
        String::from("text").into(),
        (&String::from("text")).into(),
        Cow::Borrowed("text").into(),
        (&name).into(),
        name.into(),
    ];
    assert!(texts.iter().all(|made| *made == text), "{texts:?}");
    assert_eq!(FieldValue::from(&text), text);
    let bytes = FieldValue::Bytes(vec![1, 2]);
    assert_eq!(FieldValue::from(vec![1u8, 2]), bytes);
    assert_eq!(FieldValue::from(&[1u8, 2][..]), bytes);
    let epoch = SystemTime::UNIX_EPOCH;
    for (time, seconds) in [
        (epoch, 0),
        (epoch + Duration::from_millis(1999), 1),
        // Refused when they are to be sent.
        (epoch - Duration::from_millis(1), -1),
        (epoch - Duration::from_secs(1), -1),
        (epoch - Duration::from_millis(1001), -2),
    ] {
        let value = FieldValue::from(time);
        assert_eq!(value, FieldValue::timestamp(seconds as u64), "{time:?}");
    }
}

#[test]
fn tables_are_made_of_what_programs_have() {
    let table = FieldTable::from([("a", 1), ("b", 2)]);
    assert_eq!(table.len(), 2);
    assert!(!table.is_empty() && FieldTable::new().is_empty());
    assert_eq!(FieldTable::from(vec![("b", 2), ("a", 1)]), table);
    assert_eq!(
        FieldTable::from(BTreeMap::from([("a", 1), ("b", 2)])),
        table
    );
    assert_eq!(FieldTable::from(HashMap::from([("a", 1), ("b", 2)])), table);
    assert_eq!(FieldTable::from(&table), table);
    for other in [
        FieldTable::new(),
        FieldTable::from([("a", 1)]),
        FieldTable::from([("a", 1), ("b", 3)]),
        FieldTable::from([("a", 1), ("c", 2)]),
    ] {
        assert_ne!(other, table);
    }
}

/// They know how many are left, from both ends.
#[test]
fn the_iterators_of_a_table_are_exact() {
    fn check<T: PartialEq + std::fmt::Debug>(
        mut fields: impl DoubleEndedIterator<Item = T> + ExactSizeIterator,
        expected: [T; 3],
    ) {
        let [first, second, third] = expected;
        assert_eq!((fields.size_hint(), fields.len()), ((3, Some(3)), 3));
        assert_eq!(fields.next_back(), Some(third));
        assert_eq!(fields.size_hint(), (2, Some(2)));
        assert_eq!(fields.next(), Some(first));
        assert_eq!(fields.next_back(), Some(second));
        assert_eq!(fields.size_hint(), (0, Some(0)));
        assert_eq!((fields.next(), fields.next_back()), (None, None));
    }
    let table = FieldTable::from([("a", 1), ("b", 2), ("c", 3)]);
    let keys = ["a", "b", "c"].map(ShortString::from);
    let values = [1, 2, 3].map(FieldValue::from);
    let pair = |at: usize| (&keys[at], &values[at]);
    check(table.iter(), [pair(0), pair(1), pair(2)]);
    check((&table).into_iter(), [pair(0), pair(1), pair(2)]);
    check(table.keys(), [&keys[0], &keys[1], &keys[2]]);
    let owned = |at: usize| (keys[at].clone(), values[at].clone());
    check(table.clone().into_iter(), [owned(0), owned(1), owned(2)]);
}

/// Whether its fields are at hand or its bytes.
#[test]
fn the_table_of_a_method_is_read_shown_and_compared() {
    let table = FieldTable::from([("a", 1)]);
    let mut bytes = Vec::new();
    table.encode(&mut bytes).unwrap();
    let other = FieldTable::from([("a", 2)]);
    let (fields, read) = (Table::from(&table), Table::Bytes(&bytes[4..]));
    for form in [fields, read] {
        assert_eq!(form.values().as_ref(), Ok(&table));
        assert_eq!(format!("{form:?}"), "{\"a\": I32(1)}");
        assert_eq!(form, fields);
        assert_ne!(form, Table::from(&other));
    }
    let broken = Table::Bytes(&bytes[4..8]);
    assert!(broken.values().is_err());
    assert!(format!("{broken:?}").starts_with('('), "{broken:?}");
}

/// The last number that every client can read is the program's own.
#[test]
fn numbers_are_received_as_such_from_the_first_that_cannot_be_sent() {
    let decode = |bytes: &str| {
        let table = FieldTable::decode(&super::hex(bytes)).unwrap();
        format!("{:?}", table.get("a").unwrap())
    };
    for (bytes, shown) in [
        (
            "01:61 44 00 7fffffff",
            "Decimal { scale: 0, value: 2147483647 }",
        ),
        (
            "01:61 44 00 80000000",
            "Received(Decimal { scale: 0, value: 2147483648 })",
        ),
        ("01:61 44 01 00000000", "Decimal { scale: 1, value: 0 }"),
        ("01:61 54 0000003afff4417f", "Timestamp(253402300799)"),
        (
            "01:61 54 0000003afff44180",
            "Received(Timestamp(253402300800))",
        ),
        ("01:61 54 0000000000000000", "Timestamp(0)"),
        ("01:61 74 00", "Bool(false)"),
        ("01:61 74 01", "Bool(true)"),
        ("01:61 74 02", "Received(Bool(2))"),
        ("01:61 4c 0000000000000001", "Received(Long(1))"),
    ] {
        assert_eq!(decode(bytes), shown);
    }
}
