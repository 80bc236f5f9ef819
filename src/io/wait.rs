//! Every wait for the broker: who reads, and who sleeps until woken.

use super::link::{Interest, Link, Shared};
use super::reader::{Outcome, SLICE};
use super::sync::{thread, Instant, LONG};

impl Link {
    /// Waits until `check` returns something, or until the deadline has passed (`None`). What has gathered is sent before
    /// this thread reads or sleeps.
    ///
    /// `check` runs under the lock, first at once and then whenever something has changed.
    pub(crate) fn wait<T>(
        &self,
        interest: Interest,
        deadline: Option<Instant>,
        mut check: impl FnMut(&mut Shared) -> Option<T>,
    ) -> Option<T> {
        let mut found = None;
        self.wait_until(interest, deadline, &mut |shared| {
            found = check(shared);
            found.is_some()
        });
        found
    }

    /// The same, compiled once for all types of results.
    fn wait_until(
        &self,
        interest: Interest,
        deadline: Option<Instant>,
        check: &mut dyn FnMut(&mut Shared) -> bool,
    ) {
        let mut shared = self.lock();
        let mut may_read = interest.reads;
        loop {
            if check(&mut shared) {
                return shared.wake_next_reader();
            }
            if self.receive_more(&mut shared) {
                continue;
            }
            if self.notice_fork() {
                // No other thread would ever wake this one, and what it read would be the parent's.
                return;
            }
            let left = match deadline {
                Some(deadline) => deadline.saturating_duration_since(Instant::now()),
                None => LONG,
            };
            if left.is_zero() {
                if shared.reader.is_some() {
                    // A caller that only looks in does not read, so the reader thread must.
                    self.hand_over(&mut shared);
                }
                return shared.wake_next_reader();
            }
            if may_read && left >= SLICE && !shared.has_enough(Some(interest)) {
                if let Some(mut reader) = shared.reader.take() {
                    shared.turns += 1;
                    drop(shared);
                    self.write_gathered();
                    let outcome = reader.read(SLICE);
                    self.wait_for_write_error(&outcome);
                    may_read = matches!(outcome, Outcome::Bytes);
                    shared = self.lock();
                    self.receive(&mut shared, &mut reader, outcome);
                    shared.reader = Some(reader);
                    continue;
                }
            }
            if shared.reader.is_some() {
                self.hand_over(&mut shared);
            }
            let waiter = shared.add_waiter(interest);
            drop(shared);
            self.write_gathered();
            thread::park_timeout(left);
            shared = self.lock();
            shared.remove_waiter(waiter);
            may_read = interest.reads;
        }
    }
}
