//! How long to wait before the next attempt, and when to give up.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Result;
use crate::io::sync::Instant;
use crate::{Error, GaveUp};

/// How a [`Supervisor`](crate::Supervisor) waits between its attempts, and when it gives up.
///
/// The first delay is [`first`](Retry::first); each further one is [`factor`](Retry::factor) times as long, up to
/// [`most`](Retry::most). Each is made shorter at random by up to its share [`jitter`](Retry::jitter), so that many programs
/// do not come back to a broker in the same moment. The delay starts anew only after a connection that lasted for
/// [`lasting`](Retry::lasting): one that is lost at once, again and again, is waited for ever longer.
///
/// ```
/// use haypile::Retry;
/// use std::time::Duration;
///
/// let retry = Retry::new().first(Duration::from_secs(1)).give_up_after(Duration::from_secs(3600));
/// # let _ = retry;
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Retry {
    first: Duration,
    most: Duration,
    factor: f64,
    jitter: f64,
    lasting: Duration,
    give_up_after: Option<Duration>,
}

impl Default for Retry {
    fn default() -> Self {
        Retry {
            first: Duration::from_millis(200),
            most: Duration::from_secs(30),
            factor: 2.0,
            jitter: 0.5,
            lasting: Duration::from_secs(10),
            give_up_after: None,
        }
    }
}

impl Retry {
    /// The defaults: 0.2 s first, twice as long each time, 30 s at most, a jitter of one half, never giving up.
    ///
    /// ```
    /// # use haypile::Retry;
    /// assert_eq!(Retry::new(), Retry::default());
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// The first delay. Default: 0.2 s.
    ///
    /// ```
    /// # use haypile::Retry;
    /// # use std::time::Duration;
    /// let retry = Retry::new().first(Duration::from_secs(1));
    /// # assert_ne!(retry, Retry::new());
    /// ```
    #[must_use]
    pub fn first(mut self, first: Duration) -> Self {
        self.first = first;
        self
    }

    /// The longest delay. Default: 30 s.
    ///
    /// ```
    /// # use haypile::Retry;
    /// # use std::time::Duration;
    /// let retry = Retry::new().most(Duration::from_secs(60));
    /// # assert_ne!(retry, Retry::new());
    /// ```
    #[must_use]
    pub fn most(mut self, most: Duration) -> Self {
        self.most = most;
        self
    }

    /// How many times as long each delay is as the one before, at least 1. Default: 2.
    ///
    /// ```
    /// # use haypile::Retry;
    /// let retry = Retry::new().factor(1.5);
    /// # assert_ne!(retry, Retry::new());
    /// ```
    #[must_use]
    pub fn factor(mut self, factor: f64) -> Self {
        self.factor = factor;
        self
    }

    /// The share of each delay that chance may take off, 0 to 1. Default: 0.5.
    ///
    /// ```
    /// # use haypile::Retry;
    /// let retry = Retry::new().jitter(0.1);
    /// # assert_ne!(retry, Retry::new());
    /// ```
    #[must_use]
    pub fn jitter(mut self, jitter: f64) -> Self {
        self.jitter = jitter;
        self
    }

    /// How long a connection must have been open for the next delay to be the first again. Default: 10 s.
    ///
    /// ```
    /// # use haypile::Retry;
    /// # use std::time::Duration;
    /// let retry = Retry::new().lasting(Duration::from_secs(5));
    /// # assert_ne!(retry, Retry::new());
    /// ```
    #[must_use]
    pub fn lasting(mut self, lasting: Duration) -> Self {
        self.lasting = lasting;
        self
    }

    /// After how much time without a lasting connection to give up; `None` is never, the default. The last attempt is made
    /// when the time is up.
    ///
    /// ```
    /// # use haypile::Retry;
    /// # use std::time::Duration;
    /// let retry = Retry::new().give_up_after(Duration::from_secs(3600));
    /// # assert_ne!(retry, Retry::new());
    /// ```
    #[must_use]
    pub fn give_up_after(mut self, give_up_after: impl Into<Option<Duration>>) -> Self {
        self.give_up_after = give_up_after.into();
        self
    }

    pub(super) fn check(&self) -> Result<()> {
        if !(self.factor.is_finite() && self.factor >= 1.0) {
            let expected = "a finite number of at least 1 is expected";
            return Err(Error::invalid("factor", self.factor, expected));
        }
        if !(0.0..=1.0).contains(&self.jitter) {
            return Err(Error::invalid("jitter", self.jitter, "0 to 1 is expected"));
        }
        Ok(())
    }

    /// The delay after this one, without chance.
    pub(super) fn next(&self, delay: Duration) -> Duration {
        let next = delay.as_secs_f64() * self.factor;
        Duration::try_from_secs_f64(next)
            .unwrap_or(self.most)
            .min(self.most)
    }

    pub(super) fn start(&self) -> Duration {
        self.first.min(self.most)
    }

    /// Takes off what chance takes off.
    pub(super) fn with_jitter(&self, delay: Duration) -> Duration {
        let share = 1.0 - self.jitter * chance();
        Duration::try_from_secs_f64(delay.as_secs_f64() * share)
            .unwrap_or(delay)
            .min(delay)
    }

    /// Whether it is time to give up what has failed for so long.
    pub(super) fn is_over(&self, failing: Duration) -> bool {
        self.give_up_after.is_some_and(|limit| failing >= limit)
    }

    pub(super) fn is_lasting(&self, connected: Duration) -> bool {
        connected >= self.lasting
    }
}

/// A number from 0 to below 1.
fn chance() -> f64 {
    // 53 bits are what an f64 holds exactly.
    (random() >> 11) as f64 / (1u64 << 53) as f64
}

/// A random number. The numbers of a UUID are random but for six bits in the middle.
pub(super) fn random() -> u64 {
    let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
    high ^ low.rotate_left(32)
}

/// Kinds of errors that `GaveUp` keeps apart.
const KINDS: usize = 16;

/// What has gone wrong since the last lasting connection.
pub(super) struct Failures {
    retry: Retry,
    delay: Duration,
    since: Option<Instant>,
    count: u64,
    kinds: Vec<(Error, u64)>,
}

impl Failures {
    pub(super) fn new(retry: Retry) -> Self {
        Failures {
            delay: retry.start(),
            retry,
            since: None,
            count: 0,
            kinds: Vec::new(),
        }
    }

    /// A connection ended that had been open for so long.
    pub(super) fn ended(&mut self, connected: Duration) {
        if self.retry.is_lasting(connected) {
            self.delay = self.retry.start();
            self.since = None;
            self.count = 0;
            self.kinds.clear();
        }
    }

    /// Notes what went wrong; returns how long to wait before the next attempt, or what all came to if that is to be the end.
    pub(super) fn add(&mut self, error: Error) -> Result<Duration> {
        let since = *self.since.get_or_insert_with(Instant::now);
        self.count += 1;
        self.note(error);
        let mut delay = self.retry.with_jitter(self.delay);
        self.delay = self.retry.next(self.delay);
        if let Some(limit) = self.retry.give_up_after {
            let failing = since.elapsed();
            if failing >= limit {
                return Err(Error::GaveUp(Arc::new(GaveUp {
                    after: failing,
                    attempts: self.count,
                    errors: mem::take(&mut self.kinds),
                })));
            }
            delay = delay.min(limit - failing);
        }
        Ok(delay)
    }

    /// The newest error of each kind is kept, at the end of the list, and how often the kind came.
    fn note(&mut self, error: Error) {
        let alike = |(other, _): &(Error, u64)| {
            mem::discriminant(other) == mem::discriminant(&error)
                && other.reply_code() == error.reply_code()
                && other.address() == error.address()
        };
        let before = match self.kinds.iter().position(alike) {
            Some(at) => self.kinds.remove(at).1,
            None => 0,
        };
        if self.kinds.len() == KINDS {
            self.kinds.remove(0);
        }
        self.kinds.push((error, before + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(code: u16) -> Error {
        Error::ConnectionClosedByClient {
            reply_code: code,
            reply_text: String::new(),
        }
    }

    #[test]
    fn delays_grow_to_their_most_and_start_anew_after_a_lasting_connection() {
        let retry = Retry::new()
            .first(Duration::from_secs(1))
            .most(Duration::from_secs(5))
            .jitter(0.0);
        let mut failures = Failures::new(retry);
        let mut delays = || failures.add(lost(1)).unwrap().as_secs();
        assert_eq!(
            [delays(), delays(), delays(), delays(), delays()],
            [1, 2, 4, 5, 5]
        );
        failures.ended(Duration::from_secs(9));
        assert_eq!(failures.add(lost(1)).unwrap(), Duration::from_secs(5));
        failures.ended(Duration::from_secs(10));
        assert_eq!(failures.add(lost(1)).unwrap(), Duration::from_secs(1));
    }

    #[test]
    fn extreme_settings_do_no_harm() {
        for retry in [
            Retry::new()
                .first(Duration::MAX)
                .most(Duration::MAX)
                .factor(1e300),
            Retry::new()
                .first(Duration::ZERO)
                .most(Duration::ZERO)
                .jitter(1.0),
            Retry::new()
                .first(Duration::from_secs(60))
                .most(Duration::from_secs(1)),
        ] {
            retry.check().unwrap();
            let most = retry.most;
            let mut failures = Failures::new(retry);
            for _ in 0..100 {
                assert!(failures.add(lost(1)).unwrap() <= most);
            }
        }
        for (factor, jitter) in [
            (0.5, 0.0),
            (f64::NAN, 0.0),
            (f64::INFINITY, 0.0),
            (1.0, -0.1),
            (1.0, 1.1),
            (1.0, f64::NAN),
        ] {
            let checked = Retry::new().factor(factor).jitter(jitter).check();
            assert!(matches!(checked, Err(Error::InvalidParameter { .. })));
        }
    }

    #[test]
    fn chance_takes_off_no_more_than_its_share() {
        let retry = Retry::new().jitter(0.5);
        let second = Duration::from_secs(1);
        let delays: Vec<Duration> = (0..100).map(|_| retry.with_jitter(second)).collect();
        assert!(delays
            .iter()
            .all(|delay| *delay <= second && *delay >= second / 2));
        assert!(delays.iter().any(|delay| *delay != delays[0]));
    }

    #[test]
    fn what_made_it_give_up_is_listed_by_kind_and_bounded() {
        let mut failures = Failures::new(Retry::new().give_up_after(Duration::ZERO));
        failures.retry.give_up_after = None;
        for code in 0..40 {
            failures.add(lost(code)).unwrap();
            failures.add(lost(code)).unwrap();
        }
        failures.retry.give_up_after = Some(Duration::ZERO);
        let Err(Error::GaveUp(gave_up)) = failures.add(lost(39)) else {
            panic!("it goes on");
        };
        assert_eq!(gave_up.attempts, 81);
        assert_eq!(gave_up.errors.len(), KINDS);
        let (last, count) = gave_up.errors.last().unwrap();
        assert_eq!((last.reply_code(), *count), (Some(39), 3));
    }
}
