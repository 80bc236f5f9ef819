//! When a heartbeat is due and when silence means a dead peer (specification 4.2.7).

use std::time::Duration;

/// The rules for one negotiated interval; none of it asks the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Heartbeat {
    interval: Duration,
}

impl Heartbeat {
    /// `seconds` as negotiated; 0 is off.
    pub(crate) fn new(seconds: u16) -> Self {
        Heartbeat {
            interval: Duration::from_secs(seconds.into()),
        }
    }

    pub(crate) fn interval(self) -> Duration {
        self.interval
    }

    /// How long after the last bytes sent the next must follow: half the interval, as pika has it, so that one delay does
    /// not make the peer lose patience. `None` when heartbeats are off.
    pub(crate) fn send_after(self) -> Option<Duration> {
        (!self.interval.is_zero()).then(|| self.interval / 2)
    }

    /// How long nothing may come before the peer counts as dead: five seconds more than the interval, as pika has it.
    /// `None` when heartbeats are off.
    pub(crate) fn silence_limit(self) -> Option<Duration> {
        (!self.interval.is_zero()).then(|| self.interval + Duration::from_secs(5))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules() {
        let heartbeat = Heartbeat::new(10);
        assert_eq!(heartbeat.interval(), Duration::from_secs(10));
        assert_eq!(heartbeat.send_after(), Some(Duration::from_secs(5)));
        assert_eq!(heartbeat.silence_limit(), Some(Duration::from_secs(15)));
        assert_eq!(Heartbeat::new(0).send_after(), None);
        assert_eq!(Heartbeat::new(0).silence_limit(), None);
    }
}
