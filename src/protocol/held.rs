//! How much memory it takes to hold what the program has not taken yet.

use super::received::{Incoming, Received};
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
    /// How many bytes of memory this takes as long as it waits. (One that was returned waits as a `ReturnedMessage`.)
    #[inline]
    pub(crate) fn size(&self) -> usize {
        size_of::<Incoming>()
            + 4 * ALLOCATION
            + self.consumer_tag().len()
            + self.exchange.len()
            + self.routing_key.len()
            + self.properties.size()
            + self.body.len()
    }
}
