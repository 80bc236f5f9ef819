//! What this end acknowledges or refuses of the messages that a channel was given.

use std::sync::atomic::{AtomicU64, Ordering};

use byteorder::{BigEndian, ByteOrder};

use super::frame;
use super::method::Method;
use super::wire::SyntaxError;

/// How long the frame of an acknowledgement is, and where its delivery tag begins; the octet of `multiple` follows.
const FRAME: usize = 21;
const TAG: usize = 11;
const MULTIPLE: usize = TAG + 8;

/// Messages are settled out of order, or a transaction may undo what was settled: each acknowledgement is sent.
const NEVER: u64 = u64::MAX;

/// The acknowledgements of one channel.
///
/// A broker spends more on an acknowledgement than on the message. So one that follows another, unsent one of its channel is
/// not sent beside it: the earlier frame is made to say "all up to this one" (`multiple`; specification 1.8.3.13). It may say
/// so only if every message up to it has been settled, or it would settle one that the program still works on.
///
/// Numbers change under the lock of the outgoing bytes, `delivered` apart, which only grows.
#[derive(Debug, Default)]
pub(crate) struct Acks {
    /// The tag of the last message that came.
    delivered: AtomicU64,
    /// Every message up to this one is settled, and none above it. `NEVER`, once that cannot be said any more.
    settled: AtomicU64,
    /// Where, in all that was ever appended, the acknowledgement ends that settled it.
    end: AtomicU64,
}

impl Acks {
    pub(crate) fn delivered(&self, tag: u64) {
        self.delivered.store(tag, Ordering::Release);
    }

    /// In a transaction what was acknowledged may become unacknowledged again (RabbitMQ's `tx.rollback`).
    pub(crate) fn never_join(&self) {
        self.settled.store(NEVER, Ordering::Relaxed);
    }

    /// Appends `basic.ack`, `basic.nack` or `basic.reject` to `out`, which holds the last of `appended` bytes, or lets an
    /// acknowledgement that stands last in `out` speak for this one too.
    pub(crate) fn write(
        &self,
        out: &mut Vec<u8>,
        appended: u64,
        channel: u16,
        method: &Method<'_>,
    ) -> Result<(), SyntaxError> {
        let (tag, multiple, ack) = match *method {
            Method::BasicAck {
                delivery_tag,
                multiple,
            } => (delivery_tag, multiple, true),
            Method::BasicNack {
                delivery_tag,
                multiple,
                ..
            } => (delivery_tag, multiple, false),
            Method::BasicReject { delivery_tag, .. } => (delivery_tag, false, false),
            _ => return frame::write_method(out, channel, method),
        };
        let settled = self.settled.load(Ordering::Relaxed);
        let new = tag > settled;
        // A tag that is not known is sent as it is, for the broker to complain of it alone.
        let known = tag <= self.delivered.load(Ordering::Acquire);
        let in_order = known && (multiple || tag.wrapping_sub(settled) == 1);
        if new && in_order && ack && self.end.load(Ordering::Relaxed) == appended {
            if let Some(last) = out.last_chunk_mut::<FRAME>() {
                BigEndian::write_u64(&mut last[TAG..MULTIPLE], tag);
                last[MULTIPLE] = 1;
                self.settled.store(tag, Ordering::Relaxed);
                return Ok(());
            }
        }
        frame::write_method(out, channel, method)?;
        if new {
            let settled = if in_order { tag } else { NEVER };
            self.settled.store(settled, Ordering::Relaxed);
            if ack {
                self.end.store(appended + FRAME as u64, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}
