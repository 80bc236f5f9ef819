//! Who may send next on a channel where a transaction is committed.

use std::collections::VecDeque;

/// When something may be sent that had to wait for a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// As soon as the reply to the commit has come.
    AtOnce,
    /// After all that waited before it as well: another commit.
    InTurn,
}

/// The threads that wait until they may send on a channel, first come first.
///
/// RabbitMQ takes nothing but `channel.close` on a channel between `tx.commit` and its reply, and closes the connection over
/// anything else. So whatever is to be sent there meanwhile waits. A commit waits as well for those that came before it:
/// otherwise a thread that commits again and again would shut out all others.
#[derive(Debug, Default)]
pub(crate) struct SendQueue {
    last: u64,
    waiting: VecDeque<u64>,
}

impl SendQueue {
    /// A thread has to wait. Returns the number of its entry.
    pub(crate) fn join(&mut self) -> u64 {
        self.last += 1;
        self.waiting.push_back(self.last);
        self.last
    }

    /// It has sent what it had to, or does not wait any more.
    pub(crate) fn leave(&mut self, entry: u64) {
        self.waiting.retain(|waiting| *waiting != entry);
    }

    /// Whether no entry stands before this one, or any at all before a thread that has none.
    pub(crate) fn is_first(&self, entry: Option<u64>) -> bool {
        let first = self.waiting.front();
        first.is_none_or(|first| Some(*first) == entry)
    }
}
