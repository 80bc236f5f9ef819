//! The types of a table's values, against the bytes that RabbitMQ reads.

use std::time::{Duration, SystemTime};

use super::hex;
use crate::protocol::field_value::Form;
use crate::protocol::wire::Reader;
use crate::protocol::{FieldTable, FieldValue, WireError};

fn decode(bytes: &[u8]) -> Result<FieldTable, WireError> {
    FieldTable::decode(bytes)
}

fn encode(table: &FieldTable) -> Result<Vec<u8>, WireError> {
    let mut out = Vec::new();
    table.encode(&mut out)?;
    let (length, fields) = out.split_at(4);
    assert_eq!(length, (fields.len() as u32).to_be_bytes());
    Ok(fields.to_vec())
}

fn one(value: impl Into<FieldValue>) -> FieldTable {
    FieldTable::from([("a", value)])
}

/// Every type of value, and the bytes of a table that has it for its key `a`.
fn golden() -> Vec<(FieldValue, Vec<u8>)> {
    let array = FieldValue::array([FieldValue::from(false), 7.into()]);
    let values: Vec<(FieldValue, &str)> = vec![
        (true.into(), "74 01"),
        (false.into(), "74 00"),
        ((-2i8).into(), "62 fe"),
        (254u8.into(), "42 fe"),
        ((-2i16).into(), "73 fffe"),
        (65534u16.into(), "75 fffe"),
        ((-2i32).into(), "49 fffffffe"),
        (4294967294u32.into(), "69 fffffffe"),
        ((-2i64).into(), "6c fffffffffffffffe"),
        (7u64.into(), "6c 0000000000000007"),
        (Form::Long(u64::MAX).into(), "4c ffffffffffffffff"),
        (
            Form::Timestamp(253_402_300_800).into(),
            "54 0000003afff44180",
        ),
        (
            Form::Decimal {
                scale: 1,
                value: 1 << 31,
            }
            .into(),
            "44 01 80000000",
        ),
        (Form::Bool(2).into(), "74 02"),
        (
            FieldValue::timestamp(253_402_300_799),
            "54 0000003afff4417f",
        ),
        (0.75f32.into(), "66 3f400000"),
        (1.75f64.into(), "64 3ffc000000000000"),
        (FieldValue::decimal(2, 1999), "44 02 000007cf"),
        ("hi".into(), "53 00000002 6869"),
        (FieldValue::Text(vec![0xff, 0]), "53 00000002 ff00"),
        (FieldValue::bytes(*b"\0\xff"), "78 00000002 00ff"),
        (array, "41 00000007 74 00 49 00000007"),
        (FieldValue::timestamp(1_700_000_000), "54 000000006553f100"),
        (
            FieldTable::from([("b", 7u8)]).into(),
            "46 00000004 01 62 42 07",
        ),
        (FieldTable::new().into(), "46 00000000"),
        (Vec::<FieldValue>::new().into(), "41 00000000"),
        (FieldValue::void(), "56"),
    ];
    let field = |bytes| [hex("01:61"), hex(bytes)].concat();
    values
        .into_iter()
        .map(|(value, bytes)| (value, field(bytes)))
        .collect()
}

#[test]
fn every_type_there_and_back() {
    for (value, golden) in golden() {
        let table = one(value);
        assert_eq!(encode(&table).as_ref(), Ok(&golden));
        let read = decode(&golden).unwrap();
        assert_eq!(read, table);
        assert_eq!(encode(&read), Ok(golden));
    }
}

#[test]
fn every_type_cut_short_is_an_error() {
    for (value, golden) in golden() {
        for end in 1..golden.len() {
            let cut = decode(&golden[..end]);
            assert!(
                matches!(cut, Err(WireError::Truncated { .. })),
                "{value:?} at {end}"
            );
        }
    }
    // It is named where it ends: a value of an array, of a table within, and of the table itself.
    for (bytes, field) in [
        ("01:61 41 00000001 49", "array"),
        ("01:61 46 00000003 01:62 49", "table"),
        ("01:61 49", "table"),
    ] {
        assert_eq!(decode(&hex(bytes)), Err(WireError::Truncated { field }));
    }
}

#[test]
fn types_that_do_not_exist_are_refused() {
    let known = b"tbBsuIilLfdDSxATFV";
    for kind in (0..=255).filter(|kind| !known.contains(kind)) {
        let error = WireError::UnknownFieldType(kind);
        assert_eq!(decode(&[1, b'a', kind, 0, 0, 0, 0]), Err(error));
    }
}

/// Why a table cannot be sent.
#[track_caller]
fn refused(table: &FieldTable) -> String {
    match encode(table) {
        Err(error @ WireError::Unsendable(_)) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn numbers_that_clients_read_differently_are_refused_by_name() {
    const I64_MOST: u64 = i64::MAX as u64;
    for (value, most) in [
        (FieldValue::from(I64_MOST + 1), FieldValue::from(I64_MOST)),
        (FieldValue::U64(u64::MAX), FieldValue::U64(I64_MOST)),
        (usize::MAX.into(), (i64::MAX as usize).into()),
        (
            FieldValue::timestamp(253_402_300_800),
            FieldValue::timestamp(253_402_300_799),
        ),
        (FieldValue::timestamp(u64::MAX), FieldValue::timestamp(0)),
        (
            (SystemTime::UNIX_EPOCH - Duration::from_millis(1)).into(),
            SystemTime::UNIX_EPOCH.into(),
        ),
        (
            FieldValue::decimal(0, 1 << 31),
            FieldValue::decimal(255, i32::MAX as u32),
        ),
        (f64::NAN.into(), f64::MAX.into()),
        (f32::NEG_INFINITY.into(), f32::MIN.into()),
    ] {
        assert!(encode(&one(most)).is_ok());
        let text = refused(&one(value.clone()));
        assert!(text.starts_with("[\"a\"] is "), "{text}");
        let array = FieldValue::array([FieldValue::void(), value]);
        let text = refused(&one(FieldTable::from([("b", array)])));
        assert!(text.starts_with("[\"a\"][\"b\"][1] is "), "{text}");
    }
    for (value, text) in [
        (
            FieldValue::U64(u64::MAX),
            "is 18446744073709551615; whole numbers up to 9223372036854775807 are expected, since clients read larger ones differently",
        ),
        (
            FieldValue::decimal(0, 1 << 31),
            "is 2147483648; decimals with digits up to 2147483647 are expected, since clients read larger ones differently",
        ),
        (
            f64::NAN.into(),
            "is NaN; finite numbers are expected, since brokers close the connection over others",
        ),
        (
            FieldValue::timestamp(1 << 40),
            "is 1099511627776; seconds from 1970 to 9999 are expected (not milliseconds)",
        ),
    ] {
        assert_eq!(refused(&one(value)), format!("[\"a\"] {text}"));
    }
    let day = Duration::from_secs(86_400);
    assert_eq!(FieldValue::from(day), FieldValue::I64(86_400_000));
    assert_eq!(encode(&one(FieldValue::U64(7))), encode(&one(7i64)));
    let text = refused(&one(SystemTime::UNIX_EPOCH - Duration::from_secs(5)));
    assert!(text.starts_with("[\"a\"] is -5; "), "{text}");
}

#[test]
fn what_came_otherwise_is_read_and_goes_on() {
    let came = hex(
        "01:61 4c ffffffffffffffff  01:62 54 000001bcfe568800  01:63 44 02 ffffffff  01:64 74 07 \
         01:65 41 00000009 4c 8000000000000000  01:66 4c 0000000000000005",
    );
    let table = decode(&came).unwrap();
    let get = |key: &str| table.get(key).unwrap();
    assert_eq!(
        (get("a").as_u64(), get("a").as_i64()),
        (Some(u64::MAX), Some(-1))
    );
    assert_eq!(get("b").as_u64(), Some(1_911_232_563_200));
    assert_eq!(get("b"), &FieldValue::timestamp(1_911_232_563_200));
    assert_eq!(get("c").as_decimal(), Some((2, u32::MAX)));
    assert_eq!(get("d"), &FieldValue::Bool(true));
    assert_eq!(get("e").as_array().unwrap()[0], FieldValue::U64(1 << 63));
    assert_eq!(get("f"), &FieldValue::I64(5));
    assert_ne!(get("a"), &FieldValue::I64(-1));
    // The whole table, a copy of it field by field, and with another field beside them.
    assert_eq!(encode(&table), Ok(came.clone()));
    let mut copy: FieldTable = table.iter().collect();
    assert_eq!(encode(&copy), Ok(came.clone()));
    copy.insert("z", FieldValue::void());
    assert_eq!(encode(&copy), Ok([came, hex("01:7a 56")].concat()));
    assert!(
        format!("{table:?}").contains("Received(Long(18446744073709551615))"),
        "{table:?}"
    );
}

#[test]
fn a_key_that_comes_twice_has_its_last_value() {
    let table = decode(&hex("01:61 42 01  01:62 42 02  01:61 42 03")).unwrap();
    assert_eq!(table, FieldTable::from([("a", 3u8), ("b", 2)]));
}

#[test]
fn a_table_is_sent_as_it_came_until_it_is_changed() {
    let came = hex("01:62 42 02  01:61 42 01  01:62 42 03");
    let sorted = hex("01:61 42 01  01:62 42 03");
    let table = decode(&came).unwrap();
    assert_eq!(encode(&table), Ok(came.clone()));
    assert_eq!(encode(&table.clone()), Ok(came.clone()));
    assert_eq!(table, decode(&sorted).unwrap());
    assert_eq!(encode(&table.iter().collect()), Ok(sorted.clone()));
    // Out of order, or twice: each of them is enough.
    for came in ["01:62 56  01:61 56", "01:61 42 01  01:61 42 02"] {
        let came = hex(came);
        assert_eq!(encode(&decode(&came).unwrap()), Ok(came));
    }

    let outer = one(table.clone());
    let inside = [
        &hex("01:61 46")[..],
        &(came.len() as u32).to_be_bytes(),
        &came,
    ]
    .concat();
    assert_eq!(encode(&outer), Ok(inside));

    let mut changed = table.clone();
    *changed.get_mut("a").unwrap() = 1u8.into();
    assert_eq!((encode(&changed), encode(&table)), (Ok(sorted), Ok(came)));
    // What cannot be sent is refused in this form too.
    let nan = decode(&hex("01:62 66 7fc00000  01:61 56")).unwrap();
    assert!(refused(&nan).starts_with("[\"b\"] is NaN"));
}

#[test]
fn keys_that_are_not_utf_8_are_kept() {
    let came = hex("01:61 56  02:ff00 42 01");
    let table = decode(&came).unwrap();
    assert_eq!(table.get([0xff, 0]), Some(&FieldValue::U8(1)));
    assert_eq!(table.get("\u{fffd}\0"), None);
    assert_eq!(encode(&table), Ok(came));
    let mut copy = FieldTable::new();
    copy.extend(table.clone());
    assert_eq!(copy, table);
    assert_eq!(copy.remove([0xff, 0]), Some(FieldValue::U8(1)));
}

#[test]
fn keys_in_the_worst_order_take_little_time() {
    let mut bytes = Vec::new();
    for key in (0..128 * 128u16).rev() {
        bytes.push(2);
        bytes.extend_from_slice(&[(key >> 7) as u8, key as u8 & 0x7f]);
        bytes.push(b'V');
    }
    let table = decode(&bytes).unwrap();
    assert_eq!(table.len(), 128 * 128);
    assert!(table.keys().is_sorted());
}

#[test]
fn an_inner_length_must_not_exceed_the_outer_one() {
    // The inner table and array say that they are longer than what holds them.
    for bytes in [
        "01:61 46 00000005 01:62 42 07",
        "01:61 41 00000003 42 07",
        "01:61 53 ffffffff 61",
    ] {
        assert!(matches!(
            decode(&hex(bytes)),
            Err(WireError::Truncated { .. })
        ));
    }
    // The inner table ends in the middle of its value, which goes on outside.
    let error = WireError::Truncated { field: "table" };
    assert_eq!(decode(&hex("01:61 46 00000003 01:62 42 07")), Err(error));
}

#[test]
fn numbers_that_are_none_are_read_but_not_sent() {
    let numbers = [
        (f64::NAN, "NaN"),
        (f64::INFINITY, "inf"),
        (f64::NEG_INFINITY, "-inf"),
    ];
    for (number, shown) in numbers {
        let why = refused(&one(number));
        assert!(why.contains(&format!("is {shown}; ")), "{why}");
        refused(&one(number as f32));
        refused(&one(vec![FieldValue::from(number)]));
    }
    let read = decode(&hex("01:61 66 7f800000")).unwrap();
    assert_eq!(
        read.get("a").and_then(FieldValue::as_f64),
        Some(f64::INFINITY)
    );
}

#[test]
fn keys_of_255_bytes_fit_and_256_do_not() {
    let key = "k".repeat(255);
    let table = FieldTable::from([(key.clone(), 1)]);
    assert_eq!(decode(&encode(&table).unwrap()), Ok(table));
    let error = WireError::ShortStringTooLong {
        field: "table key",
        length: 256,
    };
    assert_eq!(encode(&FieldTable::from([(key + "k", 1)])), Err(error));
}

/// `depth` containers in each other, the table that holds them all included.
fn nested(depth: usize, kind: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    for level in (1..depth).rev() {
        let key: &[u8] = if kind == b'F' || level == 1 {
            b"\x01a"
        } else {
            b""
        };
        bytes = [key, &[kind], &(bytes.len() as u32).to_be_bytes(), &bytes].concat();
    }
    bytes
}

#[test]
fn deep_nesting_is_refused_both_ways() {
    for kind in [b'F', b'A'] {
        let deepest = nested(128, kind);
        let table = decode(&deepest).unwrap();
        assert_eq!(encode(&table), Ok(deepest));
        assert_eq!(decode(&nested(129, kind)), Err(WireError::NestedTooDeeply));
        assert_eq!(
            decode(&nested(2_000, kind)),
            Err(WireError::NestedTooDeeply)
        );

        let deeper = match kind {
            b'F' => one(table),
            _ => one(vec![table.get("a").unwrap().clone()]),
        };
        assert_eq!(encode(&deeper), Err(WireError::NestedTooDeeply));
    }
}

#[test]
fn the_deepest_table_needs_little_stack() {
    // Less than any thread has.
    let run = || {
        let table = decode(&nested(128, b'F')).unwrap();
        assert_eq!(table, table.clone());
        assert!(!format!("{table:?}").is_empty());
        encode(&table).unwrap();
    };
    let thread = std::thread::Builder::new().stack_size(1 << 20);
    thread.spawn(run).unwrap().join().unwrap();
}

#[test]
fn values_are_read_as_other_types_where_they_fit() {
    for (value, number) in [
        (FieldValue::from(-1i8), -1),
        (1u8.into(), 1),
        (i16::MIN.into(), i16::MIN.into()),
        (u16::MAX.into(), u16::MAX.into()),
        (i32::MIN.into(), i32::MIN.into()),
        (u32::MAX.into(), u32::MAX.into()),
        (i64::MIN.into(), i64::MIN),
        (5usize.into(), 5),
        (FieldValue::timestamp(9), 9),
    ] {
        assert_eq!(value.as_i64(), Some(number));
        assert_eq!(value.as_u64(), u64::try_from(number).ok());
        assert_eq!(
            (value.as_f64(), value.as_bool(), value.as_str()),
            (None, None, None)
        );
    }
    let large = FieldValue::from(u64::MAX);
    assert_eq!((large.as_u64(), large.as_i64()), (Some(u64::MAX), None));

    let text = FieldValue::from("text");
    assert_eq!(
        (text.as_str(), text.as_bytes()),
        (Some("text"), Some(&b"text"[..]))
    );
    let broken = FieldValue::Text(vec![0xff]);
    assert_eq!(
        (broken.as_str(), broken.as_bytes()),
        (None, Some(&[0xff][..]))
    );
    let bytes = FieldValue::bytes("text");
    assert_eq!(
        (bytes.as_str(), bytes.as_bytes()),
        (None, Some(&b"text"[..]))
    );

    assert_eq!(FieldValue::from(true).as_bool(), Some(true));
    assert_eq!(FieldValue::from(0.5f32).as_f64(), Some(0.5));
    assert_eq!(FieldValue::void().as_i64(), None);
    let array = FieldValue::from(vec![FieldValue::from(1)]);
    assert_eq!(array.as_array(), Some(&[FieldValue::I32(1)][..]));
    assert_eq!(FieldValue::from(one(1)).as_table(), Some(&one(1)));
}

#[test]
fn reads_like_a_map() {
    let mut table = FieldTable::new();
    assert!(table.is_empty());
    assert_eq!(table.insert("b", 1), None);
    assert_eq!(table.insert(String::from("a"), "x"), None);
    assert_eq!(table.insert("b", 2), Some(FieldValue::I32(1)));
    assert_eq!(
        (
            table.len(),
            table.contains_key("b"),
            table.contains_key("c")
        ),
        (2, true, false)
    );
    assert_eq!(table.keys().collect::<Vec<_>>(), ["a", "b"]);
    let last = table.iter().next_back().unwrap();
    assert_eq!((last.0.as_str(), last.1), ("b", &FieldValue::I32(2)));
    *table.get_mut("b").unwrap() = FieldValue::void();

    let mut copy = FieldTable::new();
    copy.extend(&table);
    assert_eq!(copy, table);
    assert_eq!(table.clone().into_iter().collect::<FieldTable>(), table);
    assert_eq!(table.remove("a"), Some("x".into()));
    assert_eq!(table.remove("a"), None);
    assert_eq!(format!("{copy:?}"), r#"{"a": Text("x"), "b": Void}"#);
}

/// A table that cannot be read is an error of what it is read for.
#[test]
fn a_reader_notes_what_is_wrong_with_a_table() {
    let read = |bytes: &[u8]| {
        let mut reader = Reader::new(bytes);
        let table = reader.table();
        (table, reader.finish("it"))
    };
    let (table, read_well) = read(b"\0\0\0\x04\x01at\x01");
    assert_eq!(
        (table, read_well),
        (FieldTable::from([("a", true)]), Ok(()))
    );
    let (table, badly) = read(b"\0\0\0\x04\x01aZ\x01");
    assert_eq!(
        (table, badly),
        (FieldTable::new(), Err(WireError::UnknownFieldType(b'Z')))
    );
}
