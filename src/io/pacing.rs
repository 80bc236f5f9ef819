//! When gathered bytes are written.
//!
//! What no thread waits for is written by the writer thread, a little later than it could be: so one system call takes all that
//! comes meanwhile. A caller that waits for the broker, or that has gathered much, writes it itself. All these decisions are
//! made here, without a lock and without asking the time.

use std::time::Duration;

use super::sync::LONG;

/// A caller that has gathered this much writes it itself, if no thread is writing.
const WRITE_AT: usize = 48 * 1024;

/// How long after a write bytes may gather before the writer thread writes them.
const GATHER: Duration = Duration::from_micros(500);

/// How long the writer thread sleeps while another thread writes, which wakes it if something is left.
const WHILE_OTHERS_WRITE: Duration = Duration::from_secs(2);

/// What the writer thread finds when it looks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pacing {
    /// Nothing is to be written.
    pub(super) is_idle: bool,
    /// It must not wait: a thread waits for it, it is the rest of a write, or the connection ends.
    pub(super) is_urgent: bool,
    /// No other thread is writing.
    pub(super) has_half: bool,
    pub(super) since_write: Duration,
    /// When a heartbeat is due, if nothing else is sent.
    pub(super) heartbeat_in: Option<Duration>,
}

/// What the writer thread does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Write,
    /// Let bytes gather for this long, and look again. A caller that gathers more need not wake it.
    Gather(Duration),
    /// Sleep for this long, or until woken.
    Sleep(Duration),
}

impl Pacing {
    /// Whether a caller that has gathered this many bytes writes them itself.
    #[inline]
    pub(super) fn is_much(bytes: usize) -> bool {
        bytes >= WRITE_AT
    }

    pub(super) fn next(self) -> Next {
        if self.is_idle {
            Next::Sleep(self.heartbeat_in.unwrap_or(LONG))
        } else if !self.has_half {
            Next::Sleep(WHILE_OTHERS_WRITE)
        } else if self.is_urgent || self.since_write >= GATHER {
            Next::Write
        } else {
            Next::Gather(GATHER - self.since_write)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JUST_WRITTEN: Pacing = Pacing {
        is_idle: false,
        is_urgent: false,
        has_half: true,
        since_write: Duration::from_micros(100),
        heartbeat_in: Some(Duration::from_secs(30)),
    };

    #[test]
    fn bytes_gather_for_a_moment_after_a_write() {
        assert_eq!(
            JUST_WRITTEN.next(),
            Next::Gather(Duration::from_micros(400))
        );
        let long_ago = Pacing {
            since_write: GATHER,
            ..JUST_WRITTEN
        };
        assert_eq!(long_ago.next(), Next::Write);
    }

    #[test]
    fn what_is_urgent_is_written_at_once() {
        let urgent = Pacing {
            is_urgent: true,
            ..JUST_WRITTEN
        };
        assert_eq!(urgent.next(), Next::Write);
    }

    #[test]
    fn the_writer_thread_sleeps_while_others_write_even_if_it_is_urgent() {
        let written_by_others = Pacing {
            has_half: false,
            is_urgent: true,
            ..JUST_WRITTEN
        };
        assert_eq!(written_by_others.next(), Next::Sleep(WHILE_OTHERS_WRITE));
    }

    #[test]
    fn without_traffic_it_sleeps_until_a_heartbeat_is_due() {
        let idle = Pacing {
            is_idle: true,
            ..JUST_WRITTEN
        };
        assert_eq!(idle.next(), Next::Sleep(Duration::from_secs(30)));
        let without_heartbeats = Pacing {
            heartbeat_in: None,
            ..idle
        };
        assert_eq!(without_heartbeats.next(), Next::Sleep(LONG));
    }

    #[test]
    fn who_gathers_much_writes_it() {
        let kib_48 = 48 * 1024;
        assert!(!Pacing::is_much(kib_48 - 1));
        assert!(Pacing::is_much(kib_48));
    }
}
