//! Arbitrary bytes: an error or a value, never a panic, and a value makes the way there and back.

use super::golden_lines;
use crate::protocol::exercise;
use crate::protocol::method::Method;
use crate::protocol::properties::ReceivedProperties;
use crate::protocol::wire::Reader;
use crate::BasicProperties;

/// A small generator of pseudo-random numbers (xorshift), so that each run tries the same.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub(super) fn byte(&mut self) -> u8 {
        // Small numbers are likelier, as they are on the wire; they lead deeper into the decoder.
        match self.below(3) {
            0 => self.below(4) as u8,
            1 => b"tbBsuIilLfdDSxATFV"[self.below(18)],
            _ => self.next() as u8,
        }
    }
}

const METHODS: &str = include_str!("../../../tests/data/golden-methods.txt");
const PROPERTIES: &str = include_str!("../../../tests/data/golden-properties.txt");

#[test]
fn random_frames() {
    let mut random = Random(0x5EED_0001);
    for _ in 0..20_000 {
        let payload: Vec<u8> = (0..random.below(60)).map(|_| random.byte()).collect();
        let mut bytes = vec![
            [1, 2, 3, 8][random.below(4)],
            0,
            1,
            0,
            0,
            0,
            payload.len() as u8,
        ];
        bytes.extend_from_slice(&payload);
        bytes.push(0xce);
        exercise::frames(&bytes, 4096);
        exercise::frames(&payload, 0);
    }
}

/// What nearly is a method or a header reaches further than what is nothing at all.
#[test]
fn spoilt_payloads() {
    let mut random = Random(0x5EED_0002);
    let methods = golden_lines(METHODS);
    let headers: Vec<_> = golden_lines(PROPERTIES)
        .into_iter()
        .map(|(name, bytes)| {
            (
                name,
                [&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9][..], &bytes].concat(),
            )
        })
        .collect();
    let (mut read, mut refused) = (0, 0);
    for _ in 0..300 {
        for (golden, decode) in methods
            .iter()
            .map(|golden| (golden, exercise::method as fn(u16, &[u8]) -> bool))
            .chain(headers.iter().map(|golden| (golden, exercise::header as _)))
        {
            let mut bytes = golden.1.clone();
            for _ in 0..=random.below(3) {
                let slot = random.below(bytes.len());
                match random.below(4) {
                    0 => bytes.truncate(slot.max(1)),
                    1 => bytes.insert(slot, random.byte()),
                    _ => bytes[slot] = random.byte(),
                }
            }
            match decode(1, &bytes) {
                true => read += 1,
                false => refused += 1,
            }
        }
    }
    assert!(
        read > 1_000 && refused > 1_000,
        "{read} read, {refused} refused"
    );
}

/// Tables of random fields, each type of value among them, some cut short.
#[test]
fn random_tables() {
    let mut random = Random(0x5EED_0003);
    let mut read = 0;
    for _ in 0..20_000 {
        let mut fields = Vec::new();
        for _ in 0..random.below(6) {
            fields.extend_from_slice(&[1, random.byte()]);
            value(&mut random, &mut fields, 0);
        }
        let cut = if random.below(4) == 0 { 1 } else { 0 };
        let length = fields.len().saturating_sub(cut) as u32;
        let mut payload = vec![0, 50, 0, 50, 0, 0, 0, 0, 0];
        payload.extend_from_slice(&length.to_be_bytes());
        payload.extend_from_slice(&fields[..length as usize]);
        read += usize::from(exercise::method(1, &payload));
    }
    assert!(read > 10_000, "{read}");
}

fn value(random: &mut Random, out: &mut Vec<u8>, depth: usize) {
    let kind = b"tbBsuIilLfdDSxTVAF"[random.below(if depth < 4 { 18 } else { 16 })];
    out.push(kind);
    let length = match kind {
        b't' | b'b' | b'B' => 1,
        b's' | b'u' => 2,
        b'I' | b'i' | b'f' => 4,
        b'l' | b'L' | b'd' | b'T' => 8,
        b'D' => 5,
        b'V' => 0,
        b'S' | b'x' => {
            let length = random.below(10);
            out.extend_from_slice(&(length as u32).to_be_bytes());
            length
        }
        _ => {
            let mut inner = Vec::new();
            for _ in 0..random.below(4) {
                if kind == b'F' {
                    inner.extend_from_slice(&[1, random.byte()]);
                }
                value(random, &mut inner, depth + 1);
            }
            out.extend_from_slice(&(inner.len() as u32).to_be_bytes());
            out.extend_from_slice(&inner);
            0
        }
    };
    out.extend((0..length).map(|_| random.next() as u8));
}

/// What comes with each message has code of its own beside the table of methods: both must read and write the same.
#[test]
fn the_fast_ways_agree_with_the_table() {
    let mut random = Random(0x5EED_000A);
    let names: Vec<String> = [0, 1, 20, 255, 256].map(|length| "n".repeat(length)).into();
    let mut agreed = 0;
    for _ in 0..20_000 {
        let mut name = || names[random.below(names.len())].as_str().into();
        let (exchange, routing_key) = (name(), name());
        let (delivery_tag, bits) = (random.next(), random.below(4));
        let (mandatory, immediate) = (bits & 1 == 1, bits & 2 == 2);
        let publish = Method::BasicPublish {
            exchange,
            routing_key,
            mandatory,
            immediate,
        };
        let ack = Method::BasicAck {
            delivery_tag,
            multiple: mandatory,
        };
        for method in [publish, ack] {
            let (mut fast, mut table) = (Vec::new(), Vec::new());
            let result = method.encode(&mut fast);
            assert_eq!(result, method.encode_by_table(&mut table));
            if result.is_ok() {
                assert_eq!(fast, table);
            }
        }

        let mut deliver = vec![0, 60, 0, 60];
        for length in [random.below(9), 9, random.below(3), random.below(9)] {
            if length != 9 {
                deliver.push(length as u8);
            }
            deliver.extend((0..length).map(|_| random.byte()));
        }
        match random.below(4) {
            0 => deliver.truncate(random.below(deliver.len())),
            1 => deliver.push(random.byte()),
            _ => {}
        }
        let read = Method::decode(&deliver);
        assert_eq!(read, Method::decode_by_table(&deliver));
        agreed += usize::from(read.is_ok());
    }
    assert!(agreed > 5_000, "{agreed}");

    let mut few = 0;
    for flags in 0..=u16::MAX {
        for length in 0..4 {
            let bytes = [&flags.to_be_bytes()[..], &[1, 9, 2][..length]].concat();
            if let Some(arrived) = ReceivedProperties::few(&bytes) {
                let mut reader = Reader::new(&bytes);
                let many = ReceivedProperties::many(&mut reader);
                reader.finish("properties").unwrap();
                assert_eq!(BasicProperties::from(arrived), many.into());
                few += 1;
            }
        }
    }
    assert_eq!(few, 4);
}
