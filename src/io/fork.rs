//! A forked child has its parent's handles without the parent's other threads. Any lock may be held by a thread that the child
//! does not have, and the stream is the parent's.

use std::sync::{PoisonError, TryLockError};

use super::sync::{Mutex, MutexGuard};

/// The process that opened a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Process(u32);

impl Process {
    pub(crate) fn current() -> Self {
        Process(std::process::id())
    }

    /// Whether this is the process that runs now. Costs a system call: not for each message.
    pub(crate) fn is_current(self) -> bool {
        self.0 == std::process::id()
    }

    pub(crate) fn id(self) -> u32 {
        self.0
    }

    /// Another process than this.
    #[cfg(all(test, not(shuttle)))]
    pub(crate) fn other() -> Self {
        Process(std::process::id() ^ 1)
    }
}

/// Locks, unless `is_forked` says that this process is a fork's child: then the thread that holds the lock may not exist here.
/// `is_forked` is called only where the lock stays taken for a while, since it costs a system call.
pub(crate) fn lock_unless_forked<T>(
    mutex: &Mutex<T>,
    is_forked: impl Fn() -> bool,
) -> Option<MutexGuard<'_, T>> {
    const ATTEMPTS: u32 = 100;
    // The model checker has neither processes nor time to spin.
    if !cfg!(all(test, shuttle)) {
        for _ in 0..ATTEMPTS {
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
