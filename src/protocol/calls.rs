//! The calls of a channel, and the replies to them.

use std::collections::VecDeque;

use super::method::{id, MethodId};
use super::received::Received;
use crate::QueueDeclareOk;

/// The reply to a call.
#[derive(Debug)]
pub(crate) enum Reply {
    Done,
    Declared(QueueDeclareOk),
    Count(u32),
    Active(bool),
    Got(Option<Box<Received>>),
}

/// The id of calls whose reply is not waited for any more.
pub(crate) const FORGOTTEN: u64 = 0;

/// A call that waits for its reply.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) id: u64,
    /// The method of the reply.
    pub(crate) expects: MethodId,
    /// The consumer that it starts or cancels, which the reply names.
    pub(crate) consumer_tag: Option<Box<[u8]>>,
}

impl Call {
    /// Whether a queue of RabbitMQ's sends the reply, and not the channel.
    fn is_for_queue(&self) -> bool {
        matches!(self.expects, id::BASIC_CONSUME_OK | id::BASIC_CANCEL_OK)
    }
}

/// The calls of one channel. Replies come in the order of the calls, but for those to `basic.consume` and `basic.cancel`: RabbitMQ's
/// queues send these, each when it comes to it, so that replies to later calls may overtake them.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    /// Those whose reply has not come, oldest first.
    pub(crate) waiting: VecDeque<Call>,
    /// Replies that have not been taken, by the ids of their calls.
    pub(crate) replies: Vec<(u64, Reply)>,
}

impl Calls {
    pub(crate) fn add(&mut self, id: u64, expects: MethodId, consumer_tag: Option<&[u8]>) {
        self.waiting.push_back(Call {
            id,
            expects,
            consumer_tag: consumer_tag.map(Box::from),
        });
    }

    /// Whether a call waits for this consumer to be cancelled.
    pub(crate) fn is_cancelling(&self, consumer_tag: &[u8]) -> bool {
        self.waiting.iter().any(|call| {
            call.expects == id::BASIC_CANCEL_OK
                && call.consumer_tag.as_deref() == Some(consumer_tag)
        })
    }

    /// Keeps a reply for the call that it is for. Returns that call, if there is one.
    pub(crate) fn reply(
        &mut self,
        method: MethodId,
        consumer_tag: Option<&[u8]>,
        reply: Reply,
    ) -> Option<Call> {
        let at = self.find(method, consumer_tag)?;
        let call = self.waiting.remove(at)?;
        if call.id != FORGOTTEN {
            self.replies.push((call.id, reply));
        }
        Some(call)
    }

    /// The call that a reply is for: the oldest that waits for this method, one for the consumer that the reply names before others.
    fn find(&self, method: MethodId, consumer_tag: Option<&[u8]>) -> Option<usize> {
        let mut calls = self.waiting.iter();
        // Up to the first call whose reply nothing overtakes.
        let last = calls.position(|call| !call.is_for_queue());
        let calls = self
            .waiting
            .iter()
            .take(last.map_or(usize::MAX, |last| last + 1));
        let mut these = calls.enumerate().filter(|(_, call)| call.expects == method);
        let oldest = these.clone().next();
        let named = these.find(|(_, call)| call.consumer_tag.as_deref() == consumer_tag);
        named.or(oldest).map(|(at, _)| at)
    }

    /// Takes the reply to a call, if it has come.
    pub(crate) fn take_reply(&mut self, id: u64) -> Option<Reply> {
        let at = self.replies.iter().position(|(call, _)| *call == id)?;
        Some(self.replies.swap_remove(at).1)
    }

    /// The reply to a call is not waited for any more; it may still come.
    pub(crate) fn forget(&mut self, id: u64) {
        self.replies.retain(|(call, _)| *call != id);
        let waiting = self.waiting.iter_mut();
        let these = waiting.filter(|call| call.id == id);
        these.for_each(|call| call.id = FORGOTTEN);
    }
}
