//! Who may send next on a channel where a transaction is committed.

use std::collections::VecDeque;

/// The threads that wait until they may send on a channel, first come first.
///
/// RabbitMQ takes nothing but `channel.close` on a channel between `tx.commit` and its reply, and closes the connection over
/// anything else. So whatever is to be sent there meanwhile waits. A commit waits as well for those that came before it:
/// otherwise a thread that commits again and again would shut out all others.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    last: u64,
    waiting: VecDeque<u64>,
}

impl Turns {
    /// A thread has to wait. Returns its number.
    pub(crate) fn join(&mut self) -> u64 {
        self.last += 1;
        self.waiting.push_back(self.last);
        self.last
    }

    /// It has sent what it had to, or does not wait any more.
    pub(crate) fn leave(&mut self, turn: u64) {
        self.waiting.retain(|waiting| *waiting != turn);
    }

    /// Whether no thread came before this one, which may not have had to wait yet.
    pub(crate) fn is_first(&self, turn: Option<u64>) -> bool {
        let first = self.waiting.front();
        first.is_none_or(|first| Some(*first) == turn)
    }
}
