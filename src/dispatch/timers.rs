//! Callbacks that run once, at their time.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

use crate::error::Result;
use crate::io::sync::{lock, Instant};

pub(crate) type TimerCallback = Box<dyn FnOnce() -> Result<()> + Send>;

/// What `call_later` returns and `remove_timeout` takes.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
/// # fn main() { example(|connection, _channel| {
/// use std::time::Duration;
///
/// let timer = connection.call_later(Duration::from_secs(60), || println!("a minute later"))?;
/// connection.remove_timeout(timer);
/// # Ok(()) }) }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimerId {
    due: Instant,
    number: u64,
}

impl fmt::Debug for TimerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TimerId").field(&self.number).finish()
    }
}

/// The timers of a connection.
#[derive(Default)]
pub(crate) struct Timers {
    /// How many there are, so that a wait needs no lock to see that there are none.
    count: AtomicUsize,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    /// The soonest first.
    waiting: VecDeque<(TimerId, TimerCallback)>,
    last_number: u64,
}

impl Timers {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        lock(&self.queue)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    pub(crate) fn add(&self, due: Instant, callback: TimerCallback) -> TimerId {
        let mut queue = self.queue();
        queue.last_number += 1;
        let id = TimerId {
            due,
            number: queue.last_number,
        };
        let waiting = &queue.waiting;
        let (Ok(index) | Err(index)) = waiting.binary_search_by_key(&id, |(other, _)| *other);
        queue.waiting.insert(index, (id, callback));
        self.count.fetch_add(1, Ordering::AcqRel);
        id
    }

    /// Takes a timer that has not run.
    pub(crate) fn take(&self, timer: TimerId) -> Option<TimerCallback> {
        let waiting = &mut self.queue().waiting;
        let index = waiting.binary_search_by_key(&timer, |(other, _)| *other);
        let (_, callback) = waiting.remove(index.ok()?)?;
        self.count.fetch_sub(1, Ordering::AcqRel);
        Some(callback)
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        if self.is_empty() {
            return None;
        }
        self.queue().waiting.front().map(|(timer, _)| timer.due)
    }

    /// Those that are due now.
    pub(super) fn due(&self) -> Vec<TimerId> {
        if self.is_empty() {
            return Vec::new();
        }
        let now = Instant::now();
        let queue = self.queue();
        let timers = queue.waiting.iter().map(|(timer, _)| *timer);
        timers.take_while(|timer| timer.due <= now).collect()
    }

    /// Drops all of them, without the lock: what they captured is the program's own.
    pub(super) fn clear(&self) {
        let waiting = {
            let mut queue = self.queue();
            self.count.store(0, Ordering::Release);
            std::mem::take(&mut queue.waiting)
        };
        drop(waiting);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn add(timers: &Timers, due: Instant) -> TimerId {
        timers.add(due, Box::new(|| Ok(())))
    }

    #[test]
    fn they_come_in_the_order_of_their_times_and_then_of_their_making() {
        let timers = Timers::default();
        assert!(timers.is_empty() && timers.next().is_none() && timers.due().is_empty());
        let now = Instant::now();
        let later = add(&timers, now + Duration::from_secs(3600));
        let (first, second) = (add(&timers, now), add(&timers, now));
        assert!(!timers.is_empty());
        assert_eq!(timers.next(), Some(now));
        assert_eq!(timers.due(), [first, second]);
        assert_eq!(format!("{later:?} {first:?}"), "TimerId(1) TimerId(2)");
        assert!(timers.take(first).is_some() && timers.take(first).is_none());
        assert_eq!(timers.due(), [second]);
        assert!(timers.take(later).is_some() && timers.take(second).is_some());
        assert!(timers.is_empty() && timers.next().is_none());
    }

    #[test]
    fn none_is_left_or_counted_when_they_are_cleared() {
        let timers = Timers::default();
        let timer = add(&timers, Instant::now());
        timers.clear();
        assert!(timers.is_empty() && timers.next().is_none() && timers.due().is_empty());
        assert!(timers.take(timer).is_none());
        add(&timers, Instant::now());
        assert_eq!(timers.due().len(), 1);
    }
}
