//! What this end acknowledges or refuses of the messages that a channel was given.

use std::sync::atomic::{AtomicU64, Ordering};

use byteorder::{BigEndian, ByteOrder};

use super::frame;
use super::method::Method;
use super::wire::WireError;

/// How long the frame of an acknowledgement is, and where its delivery tag begins; the octet of `multiple` follows.
const FRAME: usize = 21;
const TAG: usize = 11;
const MULTIPLE: usize = TAG + 8;

/// It is not known any more which messages the broker waits for: each acknowledgement is sent.
const NEVER: u64 = u64::MAX;

/// The acknowledgements of one channel.
///
/// A broker spends more on an acknowledgement than on the message. So one that follows another, unsent one of its channel is
/// not sent beside it: the earlier frame is made to say "all up to this one" (`multiple`; specification 1.8.3.13). It may say
/// so only if the broker waits for this one and for none before it but those that the earlier frame speaks for. Else it would
/// acknowledge a message that the program still works on, or hide a mistake, or let a mistake spoil what came before it.
///
/// Numbers change under the lock of the outgoing bytes; `last_received` apart, which is set before the program can know the tag,
/// and what the reply to `basic.recover` changes.
#[derive(Debug, Default)]
pub(crate) struct Acks {
    /// The tag of the last message that came. Brokers number upwards.
    last_received: AtomicU64,
    /// Every message up to this one is acknowledged or refused, and those that came after it are not. Or `NEVER`.
    acknowledged_to: AtomicU64,
    /// Where, in all that was ever appended, the last acknowledgement in order ends.
    end: AtomicU64,
    /// How many calls of `basic.recover` wait for the broker's reply.
    recovering: AtomicU64,
    /// Up to this tag the broker has taken back what was not acknowledged.
    recovered_to: AtomicU64,
}

impl Acks {
    /// A message came.
    pub(crate) fn note_received(&self, tag: u64) {
        self.last_received.store(tag, Ordering::Release);
    }

    pub(crate) fn last_received(&self) -> u64 {
        self.last_received.load(Ordering::Acquire)
    }

    /// Up to which tag every message is acknowledged or refused, if that is known.
    pub(crate) fn acknowledged_to(&self) -> Option<u64> {
        Some(self.acknowledged_to.load(Ordering::Relaxed)).filter(|tag| *tag != NEVER)
    }

    /// This method is sent. After some of them the broker need not wait for every message that comes, or may wait again for
    /// one that was acknowledged.
    pub(crate) fn note_sent(&self, method: &Method<'_>) {
        if matches!(
            method,
            Method::BasicConsume { no_ack: true, .. }
                | Method::BasicGet { no_ack: true, .. }
                | Method::BasicRecover { .. }
                | Method::TxSelect
        ) {
            self.acknowledged_to.store(NEVER, Ordering::Relaxed);
        }
        if let Method::BasicRecover { .. } = method {
            self.recovering.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The reply to `basic.recover` has come: the broker has taken back what had come before and was not acknowledged.
    pub(crate) fn recovered(&self) {
        self.recovered_to
            .store(self.last_received(), Ordering::Relaxed);
        // Last, so that a thread that sees no call waiting sees its effect.
        self.recovering.fetch_sub(1, Ordering::Release);
    }

    /// Whether the broker takes a message back because of a `basic.recover`, and would close the channel over its tag.
    pub(crate) fn is_recovered(&self, tag: u64) -> bool {
        self.recovering.load(Ordering::Acquire) > 0
            || tag <= self.recovered_to.load(Ordering::Relaxed)
    }

    /// Appends `basic.ack`, `basic.nack` or `basic.reject` to `out`, which holds the last of `appended` bytes, or lets an
    /// acknowledgement that stands last in `out` speak for this one too.
    pub(crate) fn write(
        &self,
        out: &mut Vec<u8>,
        appended: u64,
        channel: u16,
        method: &Method<'_>,
    ) -> Result<(), WireError> {
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
        let acknowledged_to = self.acknowledged_to.load(Ordering::Relaxed);
        let known = tag <= self.last_received.load(Ordering::Acquire);
        let in_order = known && tag > acknowledged_to && (multiple || tag - acknowledged_to == 1);
        if ack && in_order && self.end.load(Ordering::Relaxed) == appended {
            if let Some(last) = out.last_chunk_mut::<FRAME>() {
                BigEndian::write_u64(&mut last[TAG..MULTIPLE], tag);
                last[MULTIPLE] = 1;
                self.acknowledged_to.store(tag, Ordering::Relaxed);
                return Ok(());
            }
        }
        frame::write_method(out, channel, method)?;
        // 0 means all that the broker has sent, some of which may not have come.
        let acknowledged_to = if in_order { tag } else { NEVER };
        self.acknowledged_to
            .store(acknowledged_to, Ordering::Relaxed);
        if ack {
            self.end.store(appended + FRAME as u64, Ordering::Relaxed);
        }
        Ok(())
    }
}
