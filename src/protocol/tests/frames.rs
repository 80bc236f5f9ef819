//! The envelope of everything: types, sizes, ends.

use super::hex;
use crate::protocol::frame::*;
use crate::protocol::WireError;

#[test]
fn constants() {
    assert_eq!(PROTOCOL_HEADER.to_vec(), hex("414d5150 00 00 09 01"));
    assert_eq!(HEARTBEAT.to_vec(), hex("08 0000 00000000 ce"));
    assert_eq!(FRAME_OVERHEAD, 8);
}

#[test]
fn every_type_of_frame() {
    let payload = &hex("0102")[..];
    for (bytes, frame) in [
        (
            "01 0007 00000002:0102 ce",
            Frame::Method {
                channel: 7,
                payload,
            },
        ),
        (
            "02 ffff 00000002:0102 ce",
            Frame::Header {
                channel: 65535,
                payload,
            },
        ),
        (
            "03 0100 00000002:0102 ce",
            Frame::Body {
                channel: 256,
                payload,
            },
        ),
        ("08 0000 00000000 ce", Frame::Heartbeat),
        // What a heartbeat carries means nothing.
        ("08 0000 00000002:0102 ce", Frame::Heartbeat),
    ] {
        let bytes = hex(bytes);
        for end in 0..bytes.len() {
            assert_eq!(parse(&bytes[..end], 4096), Ok(None));
        }
        assert_eq!(parse(&bytes, 4096), Ok(Some((frame, bytes.len()))));
        let followed = [&bytes[..], &[0xff; 9]].concat();
        assert_eq!(parse(&followed, 4096), Ok(Some((frame, bytes.len()))));
    }
}

#[test]
fn a_wrong_type_is_refused_before_its_payload_is_there() {
    for kind in (0..=255).filter(|kind| ![1, 2, 3, 8].contains(kind)) {
        let error = WireError::UnknownFrameType(kind);
        assert_eq!(parse(&[kind, 0, 0, 0, 0, 1, 0], 0), Err(error));
    }
    // A server that speaks another version, or another protocol.
    assert_eq!(
        parse(b"AMQP\x03\x01\x00\x00", 0),
        Err(WireError::UnknownFrameType(b'A'))
    );
    assert_eq!(
        parse(b"HTTP/1.1 400", 0),
        Err(WireError::UnknownFrameType(b'H'))
    );
}

#[test]
fn a_heartbeat_is_for_the_connection() {
    assert_eq!(
        parse(&hex("08 0001 00000000"), 0),
        Err(WireError::HeartbeatOnChannel(1))
    );
}

#[test]
fn a_frame_of_frame_max_fits_and_one_byte_more_is_refused_at_once() {
    assert_eq!(parse(&hex("03 0001 00000ff8"), 4096), Ok(None));
    let error = WireError::FrameTooLarge {
        size: 4097,
        max: 4096,
    };
    assert_eq!(parse(&hex("03 0001 00000ff9"), 4096), Err(error));
    let error = WireError::FrameTooLarge {
        size: 0x1_0000_0007,
        max: u32::MAX,
    };
    assert_eq!(parse(&hex("01 0001 ffffffff"), u32::MAX), Err(error));
    // 0 is no limit.
    assert_eq!(parse(&hex("03 0001 00000ff9"), 0), Ok(None));

    let mut whole = Vec::new();
    write_body(&mut whole, 1, &[7; 4088]);
    assert_eq!(whole.len(), 4096);
    let Ok(Some((
        Frame::Body {
            channel: 1,
            payload,
        },
        4096,
    ))) = parse(&whole, 4096)
    else {
        panic!("does not fit");
    };
    assert_eq!(payload, [7; 4088]);
}

#[test]
fn a_header_without_its_size_is_refused() {
    let field = "a content header";
    let error = WireError::Truncated { field };
    assert_eq!(split_header(&[0; 11]), Err(error));
}

#[test]
fn a_frame_must_end_where_its_size_puts_the_end() {
    assert_eq!(
        parse(&hex("03 0001 00000002:0102 cf"), 4096),
        Err(WireError::BadFrameEnd(0xcf))
    );
    assert_eq!(
        parse(&hex("08 0000 00000000 00"), 4096),
        Err(WireError::BadFrameEnd(0))
    );
}

#[test]
fn bodies_are_appended() {
    let mut out = b"before".to_vec();
    write_body(&mut out, 0x0102, b"body");
    assert_eq!(
        out,
        [b"before", &hex("03 0102 00000004 626f6479 ce")[..]].concat()
    );
    assert_eq!(body_prefix(0x0102, 4).to_vec(), hex("03 0102 00000004"));
    out.clear();
    write_body(&mut out, 1, b"");
    assert_eq!(out, hex("03 0001 00000000 ce"));
}
