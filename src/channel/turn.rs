//! Sending on a channel while another thread commits a transaction there; see [`Turns`](crate::protocol::turns::Turns).

use super::Channel;
use crate::io::link::{Interest, Shared};
use crate::io::sync::{after, Instant};
use crate::io::writer::Patience;
use crate::Error;

/// What is waited for that another thread commits.
const COMMIT: &str = "the commit of a transaction by another thread; nothing was sent";

/// A thread's turn to send something: at once, or when a transaction is committed that another thread commits.
pub(super) struct Turn<'a> {
    channel: &'a Channel,
    patience: Patience<'a>,
    deadline: Instant,
    /// Its number among those that wait, if it had to.
    number: Option<u64>,
}

impl<'a> Turn<'a> {
    pub(super) fn new(channel: &'a Channel, patience: Patience<'a>) -> Self {
        Turn {
            channel,
            patience,
            deadline: after(patience.limit),
            number: None,
        }
    }

    /// When the patience ends.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Waits until something may be sent, and does the first step of that, under the session's lock.
    pub(super) fn wait<T>(
        &mut self,
        is_commit: bool,
        mut begin: impl FnMut(&mut Shared) -> T,
    ) -> Result<T, Error> {
        let (channel, slot) = (self.channel, self.channel.slot());
        let (link, number) = (channel.link(), &mut self.number);
        let mut is_stopped = false;
        let begun = link.wait(Interest::turn(slot), Some(self.deadline), |shared| {
            if channel.is_ended() {
                return Some(None);
            }
            if shared.session.channel(slot)?.may_send(is_commit, number) {
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
            None if !channel.notice_fork() => {
                let channel = Some(channel.channel_number());
                Err(link.timed_out(COMMIT, self.patience.limit, channel))
            }
            _ if self.number.is_some() => Err(channel.ended()),
            _ => Err(channel.closure()),
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.channel.link().end_turn(self.channel.slot(), number);
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
        let mut turn = None;
        loop {
            if self.gate().may_send() {
                if let Some(sent) = append()? {
                    return Ok(sent);
                }
            }
            self.wait_for_turn(turn.get_or_insert_with(|| Turn::new(self, patience)))?;
        }
    }

    /// The channel is over, or another thread commits a transaction on it.
    #[cold]
    fn wait_for_turn(&self, turn: &mut Turn<'_>) -> Result<(), Error> {
        turn.wait(false, |_| ())
    }
}
