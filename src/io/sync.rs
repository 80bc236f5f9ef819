//! The locks, the threads and the clock that everything here is made of: the standard library's. When the model checker
//! runs (see `model.rs`), the same code gets the checker's.

use std::io;
use std::sync::PoisonError;
use std::time::Duration;

#[cfg(all(test, shuttle))]
pub(crate) use super::model::sync::{thread, thread_local, Condvar, Instant, Mutex, MutexGuard};
#[cfg(not(all(test, shuttle)))]
pub(crate) use std::{
    sync::{Condvar, Mutex, MutexGuard},
    thread, thread_local,
    time::Instant,
};

/// How long a wait may take when nothing limits it.
pub(crate) const LONG: Duration = Duration::from_secs(3600);

/// The moment after this long, or one so far away that it makes no difference.
pub(crate) fn after(timeout: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(timeout)
        .unwrap_or_else(|| now + Duration::from_secs(1 << 32))
}

/// Locks, also if a thread has panicked while it held the lock: what is locked here is whole whenever a panic may happen.
pub(crate) fn lock<T: ?Sized>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a thread. One function starts all, whatever they do.
pub(crate) fn spawn(name: &str, run: Box<dyn FnOnce() + Send>) -> io::Result<thread::Thread> {
    let handle = thread::Builder::new().name(name.into()).spawn(run)?;
    Ok(handle.thread().clone())
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use super::*;

    #[test]
    fn a_moment_that_cannot_be_represented_is_far_away() {
        const CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);
        assert!(after(Duration::MAX) > Instant::now() + CENTURY);
        let (before, hour) = (Instant::now(), Duration::from_secs(3600));
        let later = after(hour);
        assert!(later >= before + hour && later <= Instant::now() + hour);
    }
}
