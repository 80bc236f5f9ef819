//! Every method against bytes that were computed independently.

use super::{golden_lines, hex};
use crate::protocol::field_table::Table;
use crate::protocol::frame::{parse, write_method, Frame};
use crate::protocol::method::Method;
use crate::protocol::wire::{Reader, ShortStr, Writer};
use crate::protocol::{FieldTable, WireError};

const GOLDEN: &str = include_str!("../../../tests/data/golden-methods.txt");

fn table(key: &str, value: impl Into<crate::protocol::FieldValue>) -> Table<'static> {
    Table::Values(Box::leak(Box::new(FieldTable::from([(key, value)]))))
}

fn none() -> Table<'static> {
    static NONE: FieldTable = FieldTable::new();
    Table::Values(&NONE)
}

fn limit() -> Table<'static> {
    table("x-max-length", 10_000)
}

fn text(text: &str) -> ShortStr<'_> {
    text.into()
}

fn bytes(bytes: &[u8]) -> &[u8] {
    bytes
}

/// One of every method, in the order of the specification, as in the data file.
#[rustfmt::skip]
pub(super) fn methods() -> Vec<Method<'static>> {
    use Method::*;
    vec![
        ConnectionStart {
            version_major: 0, version_minor: 9, server_properties: table("product", "Rabbit"),
            mechanisms: bytes(b"PLAIN AMQPLAIN"), locales: bytes(b"en_US"),
        },
        ConnectionStartOk {
            client_properties: table("product", "Rabbit"), mechanism: text("PLAIN"),
            response: bytes(b"\0guest\0guest"), locale: text("en_US"),
        },
        ConnectionSecure { challenge: bytes(b"\x01\xfe") },
        ConnectionSecureOk { response: bytes(b"\xfe\x01") },
        ConnectionTune { channel_max: 2047, frame_max: 131_072, heartbeat: 60 },
        ConnectionTuneOk { channel_max: 7, frame_max: 4096, heartbeat: 0 },
        ConnectionOpen { virtual_host: text("/") },
        ConnectionOpenOk,
        ConnectionClose { reply_code: 320, reply_text: text("CONNECTION_FORCED"), class_id: 0, method_id: 0 },
        ConnectionCloseOk,
        ConnectionBlocked { reason: text("low on memory") },
        ConnectionUnblocked,
        ConnectionUpdateSecret { new_secret: bytes(b"token"), reason: text("expiry") },
        ConnectionUpdateSecretOk,
        ChannelOpen,
        ChannelOpenOk,
        ChannelFlow { active: true },
        ChannelFlowOk { active: false },
        ChannelClose { reply_code: 404, reply_text: text("NOT_FOUND"), class_id: 50, method_id: 10 },
        ChannelCloseOk,
        AccessRequest { realm: text("/data"), exclusive: false, passive: true, active: true, write: true, read: false },
        AccessRequestOk { ticket: 0x0102 },
        ExchangeDeclare {
            exchange: text("logs"), exchange_type: text("fanout"), passive: false, durable: true, auto_delete: false,
            internal: true, no_wait: false, arguments: limit(),
        },
        ExchangeDeclareOk,
        ExchangeDelete { exchange: text("logs"), if_unused: true, no_wait: false },
        ExchangeDeleteOk,
        ExchangeBind {
            destination: text("audit"), source: text("logs"), routing_key: text("a.#"), no_wait: false,
            arguments: limit(),
        },
        ExchangeBindOk,
        ExchangeUnbind {
            destination: text("audit"), source: text("logs"), routing_key: text("a.#"), no_wait: true,
            arguments: none(),
        },
        ExchangeUnbindOk,
        QueueDeclare {
            queue: text("tasks"), passive: false, durable: true, exclusive: false, auto_delete: true, no_wait: false,
            arguments: limit(),
        },
        QueueDeclareOk { queue: text("tasks"), message_count: 3, consumer_count: 1 },
        QueueBind {
            queue: text("tasks"), exchange: text("logs"), routing_key: text("k"), no_wait: true, arguments: none(),
        },
        QueueBindOk,
        QueuePurge { queue: text("tasks"), no_wait: false },
        QueuePurgeOk { message_count: 0x0102_0304 },
        QueueDelete { queue: text("tasks"), if_unused: true, if_empty: false, no_wait: true },
        QueueDeleteOk { message_count: 5 },
        QueueUnbind { queue: text("tasks"), exchange: text("logs"), routing_key: text("k"), arguments: limit() },
        QueueUnbindOk,
        BasicQos { prefetch_size: 0, prefetch_count: 250, global: true },
        BasicQosOk,
        BasicConsume {
            queue: text("tasks"), consumer_tag: text("ctag1"), no_local: false, no_ack: true, exclusive: false,
            no_wait: true, arguments: limit(),
        },
        BasicConsumeOk { consumer_tag: text("ctag1") },
        BasicCancel { consumer_tag: text("ctag1"), no_wait: true },
        BasicCancelOk { consumer_tag: text("ctag1") },
        BasicPublish { exchange: text(""), routing_key: text("tasks"), mandatory: true, immediate: false },
        BasicReturn { reply_code: 312, reply_text: text("NO_ROUTE"), exchange: text(""), routing_key: text("nowhere") },
        BasicDeliver {
            consumer_tag: text("ctag1"), delivery_tag: 0x0102_0304_0506_0708, redelivered: true,
            exchange: text("logs"), routing_key: text("grün"),
        },
        BasicGet { queue: text("tasks"), no_ack: true },
        BasicGetOk {
            delivery_tag: u64::MAX, redelivered: false, exchange: text("logs"), routing_key: text("k"),
            message_count: 9,
        },
        BasicGetEmpty,
        BasicAck { delivery_tag: 7, multiple: true },
        BasicReject { delivery_tag: 8, requeue: true },
        BasicRecoverAsync { requeue: true },
        BasicRecover { requeue: true },
        BasicRecoverOk,
        BasicNack { delivery_tag: 9, multiple: false, requeue: true },
        TxSelect,
        TxSelectOk,
        TxCommit,
        TxCommitOk,
        TxRollback,
        TxRollbackOk,
        ConfirmSelect { no_wait: true },
        ConfirmSelectOk,
    ]
}

/// Every method with its golden bytes.
fn golden() -> impl Iterator<Item = (Method<'static>, Vec<u8>)> {
    let (methods, golden) = (methods(), golden_lines(GOLDEN));
    assert_eq!((methods.len(), golden.len()), (66, 66));
    methods
        .into_iter()
        .zip(golden)
        .map(|(method, (name, bytes))| {
            assert_eq!(method.name(), name);
            (method, bytes)
        })
}

#[test]
fn every_method_is_written_as_specified() {
    for (method, golden) in golden() {
        let mut out = Vec::new();
        method.encode(&mut out).unwrap();
        assert_eq!(out, golden, "{method:?}");
    }
}

#[test]
fn every_method_is_read_as_specified() {
    for (method, golden) in golden() {
        assert_eq!(Method::decode(&golden), Ok(method));
    }
}

#[test]
fn every_method_arrives_byte_by_byte() {
    for (method, golden) in golden() {
        let mut frame = Vec::new();
        write_method(&mut frame, 0x0a0b, &method).unwrap();
        let (head, rest) = frame.split_at(7);
        assert_eq!(
            head,
            [&[1, 0x0a, 0x0b, 0, 0, 0][..], &[golden.len() as u8]].concat()
        );
        assert_eq!(rest, [&golden[..], &[0xce]].concat());
        for end in 0..frame.len() {
            assert_eq!(
                parse(&frame[..end], 131_072),
                Ok(None),
                "{method:?} at {end}"
            );
        }
        frame.extend_from_slice(b"the next frame");
        let payload = &golden[..];
        let whole = Frame::Method {
            channel: 0x0a0b,
            payload,
        };
        assert_eq!(parse(&frame, 131_072), Ok(Some((whole, golden.len() + 8))));
    }
}

#[test]
fn every_method_cut_short_is_an_error() {
    for (method, golden) in golden() {
        for end in 0..golden.len() {
            let cut = Method::decode(&golden[..end]);
            assert!(
                matches!(cut, Err(WireError::Truncated { .. })),
                "{method:?} at {end}"
            );
        }
    }
}

#[test]
fn every_method_with_something_behind_it_is_an_error() {
    for (method, mut golden) in golden() {
        let what = method.name();
        golden.extend_from_slice(&[0, 0, 0]);
        assert_eq!(
            Method::decode(&golden),
            Err(WireError::TrailingBytes { what, count: 3 })
        );
    }
}

#[test]
fn reserved_fields_are_skipped_whatever_they_hold() {
    for (bytes, method) in [
        (
            "000a 0028 01:2f 03:616263 01",
            Method::ConnectionOpen {
                virtual_host: text("/"),
            },
        ),
        ("000a 0029 03:ff6263", Method::ConnectionOpenOk),
        ("0014 000b 00000002:6162", Method::ChannelOpenOk),
        ("003c 0048 02:6162", Method::BasicGetEmpty),
        (
            "0032 001e 7fff 00 00",
            Method::QueuePurge {
                queue: text(""),
                no_wait: false,
            },
        ),
    ] {
        assert_eq!(Method::decode(&hex(bytes)), Ok(method));
    }
}

#[test]
fn bits_keep_their_places() {
    let declare = |octet: u8| {
        let mut payload = hex("0032 000a 0000 01:71");
        payload.extend_from_slice(&[octet, 0, 0, 0, 0]);
        payload
    };
    for index in 0..5 {
        let bit = |n| n == index;
        let method = Method::QueueDeclare {
            queue: text("q"),
            passive: bit(0),
            durable: bit(1),
            exclusive: bit(2),
            auto_delete: bit(3),
            no_wait: bit(4),
            arguments: none(),
        };
        let mut out = Vec::new();
        method.encode(&mut out).unwrap();
        assert_eq!(out, declare(1 << index));
        // The unused bits mean nothing.
        assert_eq!(
            Method::decode(&declare(1 << index | 0b1110_0000)),
            Ok(method)
        );
    }
}

/// No method has bits in two places.
#[test]
fn bits_behind_something_else_begin_an_octet() {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes);
    writer.bit("", &true);
    writer.octet("", &7);
    writer.bit("", &true);
    writer.shortstr("", b"a");
    writer.bit("", &true);
    writer.longstr("", b"b");
    writer.bit("", &true);
    writer.append("", |out| {
        out.push(9);
        Ok(())
    });
    writer.bit("", &false);
    writer.bit("", &true);
    writer.finish().unwrap();
    assert_eq!(bytes, hex("01 07 01 01:61 01 00000001:62 01 09 02"));
    let mut reader = Reader::new(&bytes);
    assert!(reader.bit() && reader.octet() == 7 && reader.bit());
    assert!(*reader.shortstr() == *b"a" && reader.bit());
    assert!(reader.longstr() == b"b" && reader.bit());
    assert!(reader.octet() == 9 && !reader.bit() && reader.bit());
    assert_eq!(reader.finish("everything"), Ok(()));
}

#[test]
fn nothing_is_read_behind_the_end() {
    for read in [
        |reader: &mut Reader<'_>| reader.longlong(),
        |reader: &mut Reader<'_>| reader.longstr().len() as u64,
        |reader: &mut Reader<'_>| reader.shortstr().len() as u64,
    ] {
        let mut reader = Reader::new(&[9, 9, 9, 9, 9]);
        assert_eq!((read(&mut reader), reader.octet()), (0, 0));
        let field = "it";
        assert_eq!(reader.finish(field), Err(WireError::Truncated { field }));
    }
}

#[test]
fn a_text_that_is_not_utf8_is_not_sent() {
    let sends = |queue: &[u8]| {
        let method = Method::QueuePurge {
            queue: queue.into(),
            no_wait: false,
        };
        method.check_utf8().map_err(|error| error.to_string())
    };
    assert_eq!(sends("grün".as_bytes()), Ok(()));
    let problem = "queue is b\"a\\xff\"; UTF-8 is expected, since brokers close the connection over other bytes here";
    assert_eq!(sends(b"a\xff"), Err(problem.to_owned()));
}

#[test]
fn text_that_is_not_utf8_is_read_with_replacements() {
    let payload = hex("003c 0015 03:61ff62");
    let method = Method::decode(&payload).unwrap();
    let Method::BasicConsumeOk { consumer_tag } = method else {
        panic!("not a consume-ok");
    };
    assert_eq!(consumer_tag.to_text(), "a\u{fffd}b");
}

#[test]
fn texts_of_255_bytes_fit_and_256_do_not() {
    let longest = "ü".repeat(127) + "x";
    for (key, fits) in [(longest.clone(), true), (longest + "x", false)] {
        let method = Method::BasicPublish {
            exchange: text("e"),
            routing_key: text(&key),
            mandatory: false,
            immediate: false,
        };
        let mut out = b"before".to_vec();
        let written = write_method(&mut out, 1, &method);
        if fits {
            assert_eq!(written, Ok(()));
            assert_eq!(Method::decode(&out[13..out.len() - 1]), Ok(method));
        } else {
            let error = WireError::ShortStringTooLong {
                field: "routing_key",
                length: 256,
            };
            assert_eq!(written, Err(error));
            assert_eq!(out, b"before");
        }
    }
}

#[test]
fn unknown_methods_are_named_by_their_numbers() {
    let error = WireError::UnknownMethod {
        class: 60,
        method: 61,
    };
    assert_eq!(Method::decode(&hex("003c 003d")), Err(error));
}

/// The replies to these calls name the consumer, too, by which they find their call.
#[test]
fn two_calls_name_their_consumer() {
    for method in methods() {
        let named = match method.name() {
            "basic.consume" | "basic.cancel" => Some(&b"ctag1"[..]),
            _ => None,
        };
        assert_eq!(method.consumer_tag(), named, "{}", method.name());
    }
}
