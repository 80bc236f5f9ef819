//! The properties of a message: each alone, none, all, against bytes that were computed independently.

use std::time::{Duration, SystemTime};

use super::{golden_lines, hex};
use crate::protocol::frame::{read_header, write_header};
use crate::protocol::{BasicProperties, DeliveryMode, FieldTable, WireError};

const GOLDEN: &str = include_str!("../../../tests/data/golden-properties.txt");

fn all() -> BasicProperties {
    BasicProperties::new()
        .content_type("text/plain")
        .content_encoding("gzip")
        .headers(FieldTable::from([("x-max-length", 10_000)]))
        .delivery_mode(DeliveryMode::Persistent)
        .priority(5)
        .correlation_id("c-1")
        .reply_to("answers")
        .expiration("60000")
        .message_id("m-1")
        .timestamp(1_700_000_000)
        .message_type("order")
        .user_id("guest")
        .app_id("app")
        .cluster_id("cl")
}

/// Of all properties, only the one with the specification's name.
fn only(name: &str) -> BasicProperties {
    let (all, none) = (all(), BasicProperties::new());
    match name {
        "none" => none,
        "all" => all,
        "content-type" => BasicProperties {
            content_type: all.content_type,
            ..none
        },
        "content-encoding" => BasicProperties {
            content_encoding: all.content_encoding,
            ..none
        },
        "headers" => BasicProperties {
            headers: all.headers,
            ..none
        },
        "delivery-mode" => BasicProperties {
            delivery_mode: all.delivery_mode,
            ..none
        },
        "priority" => BasicProperties {
            priority: all.priority,
            ..none
        },
        "correlation-id" => BasicProperties {
            correlation_id: all.correlation_id,
            ..none
        },
        "reply-to" => BasicProperties {
            reply_to: all.reply_to,
            ..none
        },
        "expiration" => BasicProperties {
            expiration: all.expiration,
            ..none
        },
        "message-id" => BasicProperties {
            message_id: all.message_id,
            ..none
        },
        "timestamp" => BasicProperties {
            timestamp: all.timestamp,
            ..none
        },
        "type" => BasicProperties {
            message_type: all.message_type,
            ..none
        },
        "user-id" => BasicProperties {
            user_id: all.user_id,
            ..none
        },
        "app-id" => BasicProperties {
            app_id: all.app_id,
            ..none
        },
        "cluster-id" => BasicProperties {
            cluster_id: all.cluster_id,
            ..none
        },
        other => panic!("no property {other}"),
    }
}

/// A content header's payload for a body of 0x0102 bytes.
fn payload(properties: &[u8]) -> Vec<u8> {
    [&hex("003c 0000 0000000000000102")[..], properties].concat()
}

/// The properties as the program gets them.
fn read(payload: &[u8]) -> Result<(u64, BasicProperties), WireError> {
    read_header(payload).map(|(size, arrived)| (size, arrived.into()))
}

#[test]
fn each_alone_none_and_all() {
    let golden = golden_lines(GOLDEN);
    assert_eq!(golden.len(), 16);
    for (name, golden) in golden {
        let (properties, payload) = (only(name), payload(&golden));
        let mut out = Vec::new();
        write_header(&mut out, 3, 0x0102, &properties).unwrap();
        assert_eq!(out[..7], [2, 0, 3, 0, 0, 0, payload.len() as u8], "{name}");
        assert_eq!(out[7..out.len() - 1], payload, "{name}");
        assert_eq!(out.last(), Some(&0xce));
        assert_eq!(read(&payload), Ok((0x0102, properties)), "{name}");
        for end in 0..payload.len() {
            let cut = read_header(&payload[..end]);
            assert!(
                matches!(cut, Err(WireError::Truncated { .. })),
                "{name} at {end}"
            );
        }
        let error = WireError::TrailingBytes {
            what: "a content header",
            count: 1,
        };
        assert_eq!(
            read_header(&[&payload[..], &[0]].concat()),
            Err(error),
            "{name}"
        );
    }
}

#[test]
fn every_combination_makes_the_way_there_and_back() {
    let names: Vec<_> = golden_lines(GOLDEN)
        .into_iter()
        .map(|(name, _)| name)
        .take(14)
        .collect();
    for bits in 0..1u32 << 14 {
        let all = all();
        let mut properties = BasicProperties::new();
        for (place, name) in names
            .iter()
            .enumerate()
            .filter(|(place, _)| bits >> place & 1 != 0)
        {
            match place {
                0 => properties.content_type.clone_from(&all.content_type),
                1 => properties
                    .content_encoding
                    .clone_from(&all.content_encoding),
                2 => properties.headers.clone_from(&all.headers),
                3 => properties.delivery_mode = all.delivery_mode,
                4 => properties.priority = all.priority,
                5 => properties.correlation_id.clone_from(&all.correlation_id),
                6 => properties.reply_to.clone_from(&all.reply_to),
                7 => properties.expiration.clone_from(&all.expiration),
                8 => properties.message_id.clone_from(&all.message_id),
                9 => properties.timestamp = all.timestamp,
                10 => properties.message_type.clone_from(&all.message_type),
                11 => properties.user_id.clone_from(&all.user_id),
                12 => properties.app_id.clone_from(&all.app_id),
                13 => properties.cluster_id.clone_from(&all.cluster_id),
                _ => panic!("{name}"),
            }
        }
        let mut out = Vec::new();
        write_header(&mut out, 1, 0, &properties).unwrap();
        assert_eq!(read(&out[7..out.len() - 1]), Ok((0, properties)));
    }
}

#[test]
fn flags_that_do_not_exist_are_refused() {
    for flags in [1, 2, 0x8001, 0xffff_u16] {
        let payload = payload(&[&flags.to_be_bytes()[..], &[0; 64]].concat());
        assert_eq!(
            read_header(&payload),
            Err(WireError::UnknownProperties(flags))
        );
    }
}

#[test]
fn content_of_another_class_is_refused() {
    let payload = hex("0032 0000 0000000000000000 0000");
    assert_eq!(read_header(&payload), Err(WireError::WrongContentClass(50)));
}

#[test]
fn a_property_that_is_too_long_is_refused_by_name() {
    let long = "x".repeat(256);
    let refused = |properties: BasicProperties, field| {
        let mut out = b"before".to_vec();
        let error = WireError::ShortStringTooLong { field, length: 256 };
        assert_eq!(write_header(&mut out, 1, 0, &properties), Err(error));
        assert_eq!(out, b"before");
    };
    refused(BasicProperties::new().app_id(&long), "app_id");
    refused(all().message_type(&long), "message_type");
    refused(BasicProperties::new().header(&long, 1), "table key");
    let fits = BasicProperties::new().app_id(&long[1..]);
    assert_eq!(write_header(&mut Vec::new(), 1, 0, &fits), Ok(()));
}

#[test]
fn delivery_modes_keep_their_numbers() {
    for number in 0..=255 {
        assert_eq!(DeliveryMode::from(number).value(), number);
        let payload = payload(&[0x10, 0, number]);
        let mode = Some(DeliveryMode::from(number));
        assert_eq!(read(&payload).unwrap().1.delivery_mode, mode);
    }
    assert_eq!(DeliveryMode::from(2), DeliveryMode::Persistent);
    assert_eq!(DeliveryMode::from(1), DeliveryMode::Transient);
}

#[test]
fn headers_gather() {
    let properties = BasicProperties::new()
        .header("a", 1)
        .header("b", "two")
        .header("a", 3u8);
    let headers = FieldTable::from([
        ("a", crate::protocol::FieldValue::U8(3)),
        ("b", "two".into()),
    ]);
    assert_eq!(properties.headers.as_ref(), Some(&headers));
    assert_eq!(properties.clone().headers(headers), properties);
}

#[test]
fn properties_are_made_of_what_programs_have() {
    let modes = [
        (DeliveryMode::Transient, 1),
        (DeliveryMode::Persistent, 2),
        (DeliveryMode::Other(7), 7),
    ];
    for (mode, number) in modes {
        assert_eq!((u8::from(mode), mode.value()), (number, number));
        assert_eq!(DeliveryMode::from(number), mode);
    }
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(5999);
    assert_eq!(BasicProperties::new().timestamp(time).timestamp, Some(5));
    // Never earlier than asked for.
    for (expiration, text) in [
        (Duration::from_millis(1500), "1500"),
        (Duration::from_micros(1500), "2"),
        (Duration::ZERO, "0"),
        (Duration::from_secs(100_000), "100000000"),
    ] {
        let properties = BasicProperties::new().expiration(expiration);
        assert_eq!(properties.expiration.as_deref(), Some(text));
    }
    let properties = BasicProperties::new().header("a", 1).header("b", 2);
    assert_eq!(properties.get_header("b"), Some(&2.into()));
    assert_eq!(properties.get_header("c"), None);
    assert_eq!(BasicProperties::new().get_header("a"), None);
}

#[test]
fn an_expiration_is_milliseconds_of_ten_years_at_most() {
    let refused = |text: &str| {
        let properties = BasicProperties::new().expiration(text);
        let error = properties.check_expiration().err();
        error.map(|error| error.to_string()).unwrap_or_default()
    };
    assert_eq!(BasicProperties::new().check_expiration(), Ok(()));
    for taken in ["0", "-0", "+7", "315360000000", "000315360000000"] {
        assert_eq!(refused(taken), "", "{taken:?}");
    }
    let no_number = "milliseconds as decimal text are expected (\"60000\" is a minute)";
    let negative = "0 milliseconds or more are expected";
    let too_long =
        "at most 315360000000 milliseconds (ten years) are expected; for no end, leave it out";
    for (text, shown, expected) in [
        ("", "\"\"", no_number),
        ("soon", "\"soon\"", no_number),
        ("1.5", "\"1.5\"", no_number),
        ("-1", "-1", negative),
        ("315360000001", "315360000001", too_long),
        ("9223372036854775808", "9223372036854775808", too_long),
    ] {
        let expected = format!("expiration is {shown}; {expected}");
        assert_eq!(refused(text), expected);
    }
}
