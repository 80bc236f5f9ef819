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
}

/// The calls of one channel. Replies come in the order of the calls; only `channel.flow-ok` may overtake others: RabbitMQ's channel
/// sends it, while `cancel-ok` and `consume-ok` come from the queue.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    /// Those whose reply has not come, oldest first.
    pub(crate) waiting: VecDeque<Call>,
    /// Replies that have not been taken, by the ids of their calls.
    pub(crate) replies: Vec<(u64, Reply)>,
}

impl Calls {
    pub(crate) fn add(&mut self, id: u64, expects: MethodId) {
        self.waiting.push_back(Call { id, expects });
    }

    /// Whether the oldest call waits for this method.
    pub(crate) fn is_next(&self, method: MethodId) -> bool {
        let first = self.waiting.front();
        first.is_some_and(|call| call.expects == method)
    }

    /// Keeps a reply for the call that it is for. Returns whether there is one.
    pub(crate) fn reply(&mut self, method: MethodId, reply: Reply) -> bool {
        let at = match method {
            id::CHANNEL_FLOW_OK => {
                let mut waiting = self.waiting.iter();
                waiting.position(|call| call.expects == method)
            }
            _ => self.is_next(method).then_some(0),
        };
        let Some(call) = at.and_then(|at| self.waiting.remove(at)) else {
            return false;
        };
        if call.id != FORGOTTEN {
            self.replies.push((call.id, reply));
        }
        true
    }

    /// Takes the reply to a call, if it has come.
    pub(crate) fn take_reply(&mut self, id: u64) -> Option<Reply> {
        let at = self.replies.iter().position(|(call, _)| *call == id)?;
        Some(self.replies.swap_remove(at).1)
    }

    /// The reply to a call is not waited for any more; it may still come.
    pub(crate) fn forget(&mut self, id: u64) {
        if self.take_reply(id).is_none() {
            let waiting = self.waiting.iter_mut();
            let these = waiting.filter(|call| call.id == id);
            these.for_each(|call| call.id = FORGOTTEN);
        }
    }
}
