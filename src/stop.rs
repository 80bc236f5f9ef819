//! Asking a program to stop, from any thread.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use crate::io::sync::thread::{self, Thread};
use crate::io::sync::{Instant, Mutex, MutexGuard, LONG};
use crate::protocol::channel::Wake;

/// Stops what waits: a channel's ([`Channel::stop_handle`](crate::Channel::stop_handle)) or all that a supervisor runs
/// ([`Supervisor::stop_handle`](crate::Supervisor::stop_handle)). pika's programs raise `KeyboardInterrupt` through
/// `start_consuming` for this.
///
/// A handle: clones are cheap and mean the same stop, and any thread may use it. [`stop`](Stop::stop) waits for nothing, so it
/// can be called from the thread that handles signals, also while the broker is silent. A stop cannot be taken back.
///
/// After a stop
///
/// - [`start_consuming`](crate::Channel::start_consuming) returns
///   [`Cancelled`](crate::ConsumingEnded::Cancelled) and the [`consume`](crate::Channel::consume) iterator ends, both after the
///   message in hand: a callback is never interrupted. The consumers are cancelled, what was acknowledged is sent, and what was
///   prefetched goes back to its queue (with automatic acknowledgement it is lost, as with
///   [`stop_consuming`](crate::Channel::stop_consuming)).
/// - Waits for confirms, for room in a publisher's window or in the output buffer fail with
///   [`Error::Stopped`](crate::Error::Stopped), unless a callback makes them, which belongs to the message in hand. What was
///   published without a confirm may have arrived. [`wait_for_confirms`](crate::Publisher::wait_for_confirms), if it is called
///   after the stop, waits for two seconds at most, so that the last messages can still be confirmed.
/// - A supervisor does not connect again; its pauses and attempts to connect end with [`Error::Stopped`](crate::Error::Stopped).
/// - Closing waits for the broker for two seconds at most.
///
/// Other calls end by their own deadlines.
///
/// With the crate `ctrlc` the first Ctrl-C finishes the message in hand, and the second ends the program at once:
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
/// # fn main() { example(|_connection, channel| {
/// # fn serve(channel: &haypile::Channel) -> Result<(), Box<dyn std::error::Error>> {
/// let stop = channel.stop_handle();
/// ctrlc::set_handler(move || {
///     if stop.stop() > 1 {
///         std::process::exit(130);
///     }
/// })?;
/// channel.start_consuming()?; // Ok(ConsumingEnded::Cancelled) after Ctrl-C
/// # Ok(())
/// # }
/// # assert!(channel.is_open());
/// # _ = serve;
/// # Ok(()) }) }
/// ```
#[derive(Clone)]
pub struct Stop {
    inner: Arc<Inner>,
}

struct Inner {
    asked: AtomicU64,
    sleepers: Mutex<Sleepers>,
}

/// Parks this thread until it is unparked or the time is up.
pub(crate) fn park(deadline: Option<Instant>) {
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    thread::park_timeout(left.unwrap_or(LONG));
}

/// Who is to be woken. The lock is held only while a list is changed or walked.
#[derive(Default)]
struct Sleepers {
    wakers: Vec<Weak<dyn Wake>>,
    threads: Vec<Thread>,
}

impl Stop {
    pub(crate) fn new() -> Self {
        Stop {
            inner: Arc::new(Inner {
                asked: AtomicU64::new(0),
                sleepers: Mutex::new(Sleepers::default()),
            }),
        }
    }

    /// Asks for a stop, and returns how often that was done, this time included. Waits for nothing.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// let stop = channel.stop_handle();
    /// assert_eq!(stop.stop(), 1);
    /// assert_eq!(stop.stop(), 2);
    /// # Ok(()) }) }
    /// ```
    pub fn stop(&self) -> u64 {
        let asked = self.inner.asked.fetch_add(1, Ordering::AcqRel) + 1;
        let wakers: Vec<Arc<dyn Wake>> = {
            let sleepers = self.lock();
            sleepers.threads.iter().for_each(Thread::unpark);
            sleepers.wakers.iter().filter_map(Weak::upgrade).collect()
        };
        // Without the lock: each takes its own.
        wakers.iter().for_each(|waker| waker.wake());
        asked
    }

    /// Whether a stop was asked for.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// let stop = channel.stop_handle();
    /// assert!(!stop.is_stopped());
    /// stop.stop();
    /// assert!(stop.is_stopped());
    /// # Ok(()) }) }
    /// ```
    pub fn is_stopped(&self) -> bool {
        self.inner.asked.load(Ordering::Acquire) > 0
    }

    fn lock(&self) -> MutexGuard<'_, Sleepers> {
        self.inner
            .sleepers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on this is woken by a stop, for as long as it lives.
    pub(crate) fn wakes(&self, waker: Weak<dyn Wake>) {
        let mut sleepers = self.lock();
        sleepers.wakers.retain(|waker| waker.strong_count() > 0);
        sleepers.wakers.push(waker);
    }

    /// Parks this thread until it is unparked, stopped, or the time is up. The caller looks again at what it waits for.
    pub(crate) fn park(&self, deadline: Option<Instant>) {
        let this = thread::current();
        let id = this.id();
        self.lock().threads.push(this);
        if !self.is_stopped() {
            park(deadline);
        }
        let mut sleepers = self.lock();
        if let Some(at) = sleepers.threads.iter().position(|other| other.id() == id) {
            sleepers.threads.swap_remove(at);
        }
    }

    /// Sleeps for this long. Returns false if a stop ended the sleep, or `is_unwanted`, which is called whenever this thread is
    /// unparked.
    pub(crate) fn sleep(&self, duration: Duration, is_unwanted: &dyn Fn() -> bool) -> bool {
        let deadline = Instant::now().checked_add(duration);
        while !self.is_stopped() && !is_unwanted() {
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return true;
            }
            self.park(deadline);
        }
        false
    }
}

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stop")
            .field("asked", &self.inner.asked.load(Ordering::Relaxed))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Counter(AtomicU64);

    impl Wake for Counter {
        fn wake(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn counts_and_wakes_what_still_lives() {
        let stop = Stop::new();
        let (kept, dropped) = (
            Arc::new(Counter(AtomicU64::new(0))),
            Arc::new(Counter(AtomicU64::new(0))),
        );
        let watched: Weak<dyn Wake> = Arc::downgrade(&(Arc::clone(&kept) as Arc<dyn Wake>));
        stop.wakes(watched);
        stop.wakes(Arc::downgrade(&(Arc::clone(&dropped) as Arc<dyn Wake>)));
        drop(dropped);
        assert!(!stop.is_stopped());
        assert_eq!((stop.stop(), stop.clone().stop()), (1, 2));
        assert!(stop.is_stopped());
        assert_eq!(kept.0.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_sleep_ends_with_the_stop() {
        let stop = Stop::new();
        let other = stop.clone();
        let sleeper = std::thread::spawn(move || other.sleep(Duration::from_secs(600), &|| false));
        while stop.lock().threads.is_empty() {
            std::thread::yield_now();
        }
        stop.stop();
        assert!(!sleeper.join().unwrap());
        assert!(stop.lock().threads.is_empty());
        assert!(!stop.sleep(Duration::ZERO, &|| false), "a stop stays");
    }

    #[test]
    fn a_sleep_ends_with_its_time() {
        assert!(Stop::new().sleep(Duration::from_millis(1), &|| false));
    }
}
