//! Every byte that goes over the wire, held against the specification and against bytes computed independently.

mod acks;
mod channel;
mod commits;
mod fields;
mod frames;
mod golden;
mod handshake;
mod inbox;
mod message;
mod numbers;
mod phases;
mod properties;
mod random;
mod returns;
mod seeds;
mod session;
mod sizes;
mod spec;
mod values;

use super::wire::WireError;

/// Bytes from hexadecimal digits; blanks and colons are there for the eye only.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<char> = text.chars().filter(|c| !matches!(c, ' ' | ':')).collect();
    let pair = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16);
    digits
        .chunks(2)
        .map(|digits| pair(digits).unwrap())
        .collect()
}

/// The lines of a data file that are not comments: the first word, and the bytes behind it.
fn golden_lines(file: &'static str) -> Vec<(&'static str, Vec<u8>)> {
    let lines = file.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, bytes) = line.split_once(' ').unwrap();
            (name, hex(bytes))
        })
        .collect()
}

#[test]
fn errors_name_what_is_wrong() {
    let errors: [(WireError, &str); 6] = [
        (
            WireError::ShortStringTooLong {
                field: "routing_key",
                length: 300,
            },
            "routing_key is 300 bytes long, but at most 255 bytes can be sent",
        ),
        (
            WireError::Truncated { field: "queue" },
            "data end in the middle of queue",
        ),
        (
            WireError::UnknownMethod {
                class: 60,
                method: 7,
            },
            "unknown method 7 of class 60",
        ),
        (
            WireError::BadFrameEnd(0),
            "frame ends with octet 0x00 instead of 0xce",
        ),
        (
            WireError::UnknownProperties(3),
            "content header with unknown properties, flags 0x0003",
        ),
        (
            WireError::UnknownFieldType(b'Z'),
            "unknown field type 0x5a in a table",
        ),
    ];
    for (error, text) in errors {
        assert_eq!(error.to_string(), text);
    }
    assert!(size_of::<WireError>() <= 32);
}

/// One that is larger is moved by calls of `memcpy`, which each message pays for several times.
#[test]
fn a_message_on_its_way_is_small() {
    assert!(size_of::<crate::protocol::received::Incoming>() <= 128);
}
