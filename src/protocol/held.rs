//! How much memory it takes to hold what the program has not taken yet.

use super::received::{Carrier, Incoming, Received};
use super::size::ALLOCATION;

impl Incoming {
    /// How many bytes of memory this takes until the program takes it.
    #[inline]
    pub(crate) fn size(&self) -> usize {
        match self {
            Incoming::Message(message) => message.size(),
            Incoming::Returned(returned) => size_of::<Incoming>() + returned.size(),
            Incoming::Cancelled(consumer_tag) => size_of::<Incoming>() + consumer_tag.len(),
        }
    }
}

impl Received {
    #[inline]
    pub(crate) fn size(&self) -> usize {
        let text = match &self.carrier {
            Carrier::Deliver { consumer_tag, .. } => consumer_tag.len(),
            Carrier::Get { .. } => 0,
            Carrier::Return { reply_text, .. } => reply_text.len(),
        };
        size_of::<Incoming>()
            + 4 * ALLOCATION
            + text
            + self.exchange.len()
            + self.routing_key.len()
            + self.properties.size()
            + self.body.len()
    }
}
