//! Frames (specification 4.2.3): type, channel, size, payload, end.

use byteorder::{BigEndian, ByteOrder};

use super::method::Method;
use super::properties::{BasicProperties, ReceivedProperties};
use super::wire::{Reader, WireError};

/// What a client sends first (specification 4.2.2).
pub(crate) const PROTOCOL_HEADER: [u8; 8] = *b"AMQP\0\0\x09\x01";
/// A whole heartbeat frame.
pub(crate) const HEARTBEAT: [u8; 8] = [HEARTBEAT_TYPE, 0, 0, 0, 0, 0, 0, FRAME_END];
/// How many bytes a frame has besides its payload.
pub(crate) const FRAME_OVERHEAD: usize = PREFIX + 1;
/// The last octet of every frame.
pub(crate) const FRAME_END: u8 = 0xCE;

/// How many bytes stand before the payload.
pub(crate) const PREFIX: usize = 7;

pub(super) const METHOD_TYPE: u8 = 1;
pub(super) const HEADER_TYPE: u8 = 2;
const BODY_TYPE: u8 = 3;
const HEARTBEAT_TYPE: u8 = 8;

/// The class `basic`, the only one whose methods carry content.
const BASIC: u16 = 60;

/// One frame, its payload still in bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Frame<'a> {
    Method { channel: u16, payload: &'a [u8] },
    Header { channel: u16, payload: &'a [u8] },
    Body { channel: u16, payload: &'a [u8] },
    Heartbeat,
}

/// Reads the frame at the front of `buffer`: the frame and how many bytes it takes, or `None` if it is not all there yet.
///
/// A type that does not exist and a size beyond `frame_max` (0: no limit) are noticed as soon as they can be read, so
/// that no thread waits for the rest of what is no frame.
pub(crate) fn parse(
    buffer: &[u8],
    frame_max: u32,
) -> Result<Option<(Frame<'_>, usize)>, WireError> {
    let Some((prefix, rest)) = buffer.split_first_chunk::<PREFIX>() else {
        return Ok(None);
    };
    let kind = prefix[0];
    let channel = BigEndian::read_u16(&prefix[1..3]);
    let length = BigEndian::read_u32(&prefix[3..7]);
    match kind {
        METHOD_TYPE | HEADER_TYPE | BODY_TYPE => {}
        HEARTBEAT_TYPE if channel == 0 => {}
        HEARTBEAT_TYPE => return Err(WireError::HeartbeatOnChannel(channel)),
        other => return Err(WireError::UnknownFrameType(other)),
    }
    let size = u64::from(length) + FRAME_OVERHEAD as u64;
    let too_large = WireError::FrameTooLarge {
        size,
        max: frame_max,
    };
    if frame_max != 0 && size > u64::from(frame_max) {
        return Err(too_large);
    }
    let Ok(total) = usize::try_from(size) else {
        return Err(too_large);
    };
    let Some((payload, rest)) = rest.split_at_checked(total - FRAME_OVERHEAD) else {
        return Ok(None);
    };
    match rest.first() {
        Some(&FRAME_END) => {}
        Some(&other) => return Err(WireError::BadFrameEnd(other)),
        None => return Ok(None),
    }
    let frame = match kind {
        METHOD_TYPE => Frame::Method { channel, payload },
        HEADER_TYPE => Frame::Header { channel, payload },
        BODY_TYPE => Frame::Body { channel, payload },
        // Its payload should be empty (4.2.7). Whatever is in it instead means nothing.
        _ => Frame::Heartbeat,
    };
    Ok(Some((frame, total)))
}

/// The channel and the payload size of the body frame at the front of `buffer`, of which not all has come.
pub(crate) fn begun_body(buffer: &[u8]) -> Option<(u16, usize)> {
    let prefix = buffer.first_chunk::<PREFIX>()?;
    (prefix[0] == BODY_TYPE).then(|| {
        let length = BigEndian::read_u32(&prefix[3..7]);
        (BigEndian::read_u16(&prefix[1..3]), length as usize)
    })
}

/// Appends a method frame. After an error `out` is as it was.
#[inline]
pub(crate) fn write_method(
    out: &mut Vec<u8>,
    channel: u16,
    method: &Method<'_>,
) -> Result<(), WireError> {
    write_frame(out, METHOD_TYPE, channel, |out| method.encode(out))
}

/// Appends the content header of a message (specification 4.2.6.1). After an error `out` is as it was.
pub(crate) fn write_header(
    out: &mut Vec<u8>,
    channel: u16,
    body_size: u64,
    properties: &BasicProperties,
) -> Result<(), WireError> {
    write_frame(out, HEADER_TYPE, channel, |out| {
        out.extend_from_slice(&header_start(body_size));
        properties.encode(out)
    })
}

/// Appends the content header of a message whose properties are in bytes already.
#[cfg(feature = "testing")]
pub(crate) fn write_encoded_header(
    out: &mut Vec<u8>,
    channel: u16,
    body_size: u64,
    properties: &[u8],
) -> Result<(), WireError> {
    write_frame(out, HEADER_TYPE, channel, |out| {
        out.extend_from_slice(&header_start(body_size));
        out.extend_from_slice(properties);
        Ok(())
    })
}

/// What stands in a content header before the properties.
#[inline]
fn header_start(body_size: u64) -> [u8; 12] {
    let mut start = [0; 12];
    BigEndian::write_u16(&mut start[0..2], BASIC);
    // Two octets of "weight", unused and zero.
    BigEndian::write_u64(&mut start[4..12], body_size);
    start
}

/// The encoded properties in a header frame, which may be followed by others. Empty if it is none.
pub(crate) fn properties_of(header: &[u8]) -> &[u8] {
    let size = header.get(3..PREFIX).map_or(0, BigEndian::read_u32) as usize;
    header.get(PREFIX + 12..PREFIX + size).unwrap_or_default()
}

/// Appends a body frame. `chunk` must fit in a frame.
pub(crate) fn write_body(out: &mut Vec<u8>, channel: u16, chunk: &[u8]) {
    debug_assert!(u32::try_from(chunk.len()).is_ok());
    out.reserve(FRAME_OVERHEAD + chunk.len());
    out.extend_from_slice(&body_prefix(channel, chunk.len() as u32));
    out.extend_from_slice(chunk);
    out.push(FRAME_END);
}

/// What stands before the payload of a body frame of `length` bytes, for those who write the payload from where it lies.
pub(crate) fn body_prefix(channel: u16, length: u32) -> [u8; PREFIX] {
    prefix(BODY_TYPE, channel, length)
}

/// Reads the payload of a header frame: the size of the body that follows, and the properties.
pub(crate) fn read_header(payload: &[u8]) -> Result<(u64, ReceivedProperties), WireError> {
    let (body_size, properties) = split_header(payload)?;
    if let Some(few) = ReceivedProperties::few(properties) {
        return Ok((body_size, few));
    }
    let mut reader = Reader::new(properties);
    let many = ReceivedProperties::many(&mut reader);
    reader.finish("a content header")?;
    Ok((body_size, many))
}

/// The size of the body that follows, and the bytes of the properties.
pub(crate) fn split_header(payload: &[u8]) -> Result<(u64, &[u8]), WireError> {
    let Some((start, properties)) = payload.split_first_chunk::<12>() else {
        let field = "a content header";
        return Err(WireError::Truncated { field });
    };
    match BigEndian::read_u16(&start[..2]) {
        BASIC => Ok((BigEndian::read_u64(&start[4..]), properties)),
        class => Err(WireError::WrongContentClass(class)),
    }
}

#[inline]
fn prefix(kind: u8, channel: u16, length: u32) -> [u8; PREFIX] {
    let mut prefix = [kind, 0, 0, 0, 0, 0, 0];
    BigEndian::write_u16(&mut prefix[1..3], channel);
    BigEndian::write_u32(&mut prefix[3..7], length);
    prefix
}

/// Appends a frame whose payload `fill` appends: the size is put in afterwards.
fn write_frame(
    out: &mut Vec<u8>,
    kind: u8,
    channel: u16,
    fill: impl FnOnce(&mut Vec<u8>) -> Result<(), WireError>,
) -> Result<(), WireError> {
    let start = out.len();
    out.extend_from_slice(&prefix(kind, channel, 0));
    let filled = fill(out).and_then(|()| {
        let length = out.len() - start - PREFIX;
        u32::try_from(length).map_err(|_| WireError::LongStringTooLong {
            field: "frame",
            length,
        })
    });
    match filled {
        Ok(length) => {
            BigEndian::write_u32(&mut out[start + 3..start + PREFIX], length);
            out.push(FRAME_END);
            Ok(())
        }
        Err(error) => {
            out.truncate(start);
            Err(error)
        }
    }
}
