//! Sending on a channel while another thread commits a transaction there; see [`SendQueue`](crate::protocol::send_queue::SendQueue).

use super::Channel;
use crate::io::link::{Interest, Shared};
use crate::io::sync::{after, Instant};
use crate::io::writer::Patience;
use crate::protocol::send_queue::Order;
use crate::Error;

/// What is waited for that another thread commits.
const COMMIT: &str = "the commit of a transaction by another thread; nothing was sent";

/// A thread that is to send something: at once, or when a transaction is committed that another thread commits.
pub(super) struct Sending<'a> {
    channel: &'a Channel,
    patience: Patience<'a>,
    deadline: Instant,
    /// Its entry in the queue, if it had to wait.
    entry: Option<u64>,
}

impl<'a> Sending<'a> {
    pub(super) fn new(channel: &'a Channel, patience: Patience<'a>) -> Self {
        Sending {
            channel,
            patience,
            deadline: after(patience.limit),
            entry: None,
        }
    }

    /// When the patience ends.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Waits until something may be sent, and does the first step of that, under the session's lock.
    pub(super) fn wait<T>(
        &mut self,
        order: Order,
        mut begin: impl FnMut(&mut Shared) -> T,
    ) -> Result<T, Error> {
        let (channel, slot) = (self.channel, self.channel.slot());
        let (link, entry) = (channel.link(), &mut self.entry);
        let mut is_stopped = false;
        let begun = link.wait(Interest::send_queue(slot), Some(self.deadline), |shared| {
            if channel.is_ended() {
                return Some(None);
            }
            if shared.session.channel(slot)?.may_send(order, entry) {
                return Some(Some(begin(shared)));
            }
            is_stopped = (self.patience.is_stopped)();
            is_stopped.then_some(None)
        });
        match begun {
            Some(Some(begun)) => Ok(begun),
            _ if is_stopped => Err(Error::Stopped {
                waiting_for: COMMIT,
            }),
            None if !channel.notice_fork() => Err(channel.timed_out(COMMIT, self.patience.limit)),
            _ if self.entry.is_some() => Err(match channel.ended() {
                Error::Timeout {
                    after,
                    channel,
                    channel_closed,
                    blocked,
                    ..
                } => Error::Timeout {
                    // What the commit waited for is its own thread's.
                    waiting_for: COMMIT,
                    after,
                    channel,
                    channel_closed,
                    blocked,
                },
                end => end,
            }),
            _ => Err(channel.closure()),
        }
    }
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        if let Some(entry) = self.entry {
            let link = self.channel.link();
            link.leave_send_queue(self.channel.slot(), entry);
        }
    }
}

impl Channel {
    /// Sends something that is appended by `append`, which returns `None` if nothing may be sent now.
    #[inline]
    pub(super) fn send<T>(
        &self,
        patience: Patience<'_>,
        mut append: impl FnMut() -> Result<Option<T>, Error>,
    ) -> Result<T, Error> {
        let mut waiting = None;
        loop {
            if self.gate().may_send() {
                // At this one place, so that it is compiled into the caller.
                if let Some(sent) = append()? {
                    return Ok(sent);
                }
            }
            let waiting = waiting.get_or_insert_with(|| Sending::new(self, patience));
            self.wait_until_sendable(waiting)?;
        }
    }

    /// The channel is over, or another thread commits a transaction on it.
    #[cold]
    fn wait_until_sendable(&self, waiting: &mut Sending<'_>) -> Result<(), Error> {
        waiting.wait(Order::AtOnce, |_| ())
    }
}
