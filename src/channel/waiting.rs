//! Waiting for something on a channel, and what else ends such a wait.

use std::time::Duration;

use super::Channel;
use crate::dispatch::in_callback;
use crate::io::close::STOP_GRACE;
use crate::io::link::Interest;
use crate::io::sync::{after, Instant};
use crate::io::writer::Patience;
use crate::protocol::channel::ChannelState;
use crate::stop::Stop;
use crate::Error;

/// How long to wait.
#[derive(Clone, Copy)]
pub(crate) struct Until {
    pub(crate) deadline: Option<Instant>,
    /// A stop of the channel ends the wait as well.
    pub(crate) may_stop: bool,
}

impl Until {
    pub(crate) fn time(deadline: impl Into<Option<Instant>>) -> Self {
        Until {
            deadline: deadline.into(),
            may_stop: false,
        }
    }

    pub(crate) fn time_or_stop(deadline: impl Into<Option<Instant>>) -> Self {
        Until {
            deadline: deadline.into(),
            may_stop: true,
        }
    }

    /// For a wait for confirms. If it was stopped before, what was published last can still be confirmed, if the broker does so
    /// soon.
    pub(crate) fn for_confirms(limit: Option<Duration>, is_stopped: bool) -> Self {
        let limit = if is_stopped {
            Some(limit.map_or(STOP_GRACE, |limit| limit.min(STOP_GRACE)))
        } else {
            limit
        };
        Until {
            deadline: limit.map(after),
            may_stop: !is_stopped,
        }
    }
}

/// What ended a wait. If there is more than one cause, the first of these counts.
pub(crate) enum WaitEnd<T> {
    /// What was waited for is there.
    Found(T),
    /// The channel is over.
    Over,
    /// The channel was stopped.
    Stopped,
    TimedOut,
}

impl Channel {
    /// Waits until `check` finds something, or the wait has to end. `check` runs under the session's lock.
    pub(crate) fn wait_for<T>(
        &self,
        until: Until,
        mut check: impl FnMut(&mut ChannelState) -> Option<T>,
    ) -> WaitEnd<T> {
        let slot = self.slot();
        let ended = self
            .link()
            .wait(Interest::channel(slot), until.deadline, |shared| {
                let channel = shared.session.channel(slot)?;
                match check(channel) {
                    Some(found) => Some(WaitEnd::Found(found)),
                    None if channel.gate.is_over() => Some(WaitEnd::Over),
                    None if until.may_stop && self.is_interrupted() => Some(WaitEnd::Stopped),
                    None => None,
                }
            });
        match ended {
            Some(ended) => ended,
            // In a forked child nothing can be waited for.
            None if self.notice_fork() => WaitEnd::Over,
            None => WaitEnd::TimedOut,
        }
    }

    /// The error of a wait on this channel that took too long.
    pub(crate) fn timed_out(&self, waiting_for: &'static str, limit: Duration) -> Error {
        let number = Some(self.channel_number());
        self.link().timed_out(waiting_for, limit, number)
    }

    /// Whether a stop was asked for that concerns this channel.
    pub(crate) fn is_stopped(&self) -> bool {
        self.handle.stop.get().is_some_and(Stop::is_stopped) || self.handle.connection.is_stopped()
    }

    /// Whether a wait of the program's must end: not if a callback makes it, which belongs to the message in hand.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.is_stopped() && !in_callback()
    }

    /// Does something that may wait for room to send: for this long, unless the channel is stopped.
    pub(crate) fn send_within<T>(
        &self,
        limit: Duration,
        send: impl FnOnce(Patience<'_>) -> T,
    ) -> T {
        send(Patience {
            limit,
            is_stopped: &|| self.is_interrupted(),
        })
    }
}
