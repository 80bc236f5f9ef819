//! Feeds arbitrary bytes to everything that reads from the network, and holds the rules that no input may break.
//! For the fuzzer, and for a test that runs it over pseudo-random bytes.

use super::frame::{parse, read_header, write_header, write_method, Frame};
use super::method::Method;
use super::wire::SyntaxError;

/// Reads frames off `bytes` to their end or first error, and checks that whatever can be read, written and read again is
/// the same both times. Answers how many methods and headers were read.
///
/// # Panics
///
/// If a rule is broken.
pub(crate) fn frames(mut bytes: &[u8], frame_max: u32) -> usize {
    let mut understood = 0;
    while let Ok(Some((frame, length))) = parse(bytes, frame_max) {
        assert!((8..=bytes.len()).contains(&length));
        understood += match frame {
            Frame::Method { channel, payload } => usize::from(method(channel, payload)),
            Frame::Header { channel, payload } => usize::from(header(channel, payload)),
            Frame::Body { .. } | Frame::Heartbeat => 0,
        };
        bytes = &bytes[length..];
    }
    understood
}

/// The payload of a method frame. Answers whether it could be read.
pub(crate) fn method(channel: u16, payload: &[u8]) -> bool {
    let Ok(method) = Method::decode(payload) else {
        return false;
    };
    assert_eq!(
        Method::name_of(method.id().0, method.id().1),
        Some(method.name())
    );
    let mut out = b"before".to_vec();
    match write_method(&mut out, channel, &method) {
        Ok(()) => {
            let Ok(Some((Frame::Method { payload, .. }, _))) = parse(&out[6..], 0) else {
                panic!("{method:?} was written as {out:x?}");
            };
            assert_eq!(Method::decode(payload).as_ref(), Ok(&method));
        }
        Err(error) => refused(error, &out),
    }
    true
}

/// The payload of a header frame. Answers whether it could be read.
pub(crate) fn header(channel: u16, payload: &[u8]) -> bool {
    let Ok((size, properties)) = read_header(payload) else {
        return false;
    };
    let mut out = b"before".to_vec();
    match write_header(&mut out, channel, size, &properties) {
        Ok(()) => {
            let Ok(Some((Frame::Header { payload, .. }, _))) = parse(&out[6..], 0) else {
                panic!("{properties:?} was written as {out:x?}");
            };
            assert_eq!(read_header(payload), Ok((size, properties)));
        }
        Err(error) => refused(error, &out),
    }
    true
}

/// What can be read but not written: NaN, and texts that grew when what is not UTF-8 in them was replaced.
fn refused(error: SyntaxError, out: &[u8]) {
    assert!(
        matches!(
            error,
            SyntaxError::NotFinite | SyntaxError::ShortStringTooLong { .. }
        ),
        "{error}"
    );
    assert_eq!(out, b"before");
}
