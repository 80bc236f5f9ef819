//! The locks, the threads and the clock that everything here is made of: the standard library's. When the model checker
//! runs (see `model.rs`), the same code gets the checker's.

use std::sync::{PoisonError, TryLockError};

#[cfg(all(test, shuttle))]
pub(crate) use super::model::sync::{thread, thread_local, Condvar, Instant, Mutex, MutexGuard};
#[cfg(not(all(test, shuttle)))]
pub(crate) use std::{
    sync::{Condvar, Mutex, MutexGuard},
    thread, thread_local,
    time::Instant,
};

/// Locks, unless `is_forked` says that this process is a fork's child: then the thread that holds the lock may not exist here.
/// Asked only where the lock stays taken for a while, since it costs a system call.
pub(crate) fn lock_unless_forked<T>(
    mutex: &Mutex<T>,
    is_forked: impl Fn() -> bool,
) -> Option<MutexGuard<'_, T>> {
    const LOOKS: u32 = 100;
    // The model checker has neither processes nor time to spin.
    if !cfg!(all(test, shuttle)) {
        for _ in 0..LOOKS {
            match mutex.try_lock() {
                Ok(guard) => return Some(guard),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => std::hint::spin_loop(),
            }
        }
        if is_forked() {
            return None;
        }
    }
    Some(mutex.lock().unwrap_or_else(PoisonError::into_inner))
}
