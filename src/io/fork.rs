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
    #[cfg(test)]
    #[cfg(not(shuttle))]
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

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    #[test]
    fn a_process_knows_itself() {
        let (process, other) = (Process::current(), Process::other());
        assert_eq!(process.id(), std::process::id());
        assert!(process.is_current() && !other.is_current());
        assert_ne!(other.id(), process.id());
    }

    #[test]
    fn whether_this_is_a_child_is_asked_only_where_a_lock_stays_taken() {
        let mutex = Mutex::new(7);
        let never = || -> bool { panic!("asked") };
        assert_eq!(
            lock_unless_forked(&mutex, never).map(|guard| *guard),
            Some(7)
        );
        let guard = mutex.lock().unwrap();
        assert!(lock_unless_forked(&mutex, || true).is_none());
        let asked = AtomicUsize::new(0);
        thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let is_forked = || {
                    asked.fetch_add(1, Ordering::Relaxed);
                    false
                };
                lock_unless_forked(&mutex, is_forked).map(|guard| *guard)
            });
            while asked.load(Ordering::Relaxed) == 0 {
                thread::yield_now();
            }
            assert!(!waiting.is_finished());
            drop(guard);
            assert_eq!(waiting.join().unwrap(), Some(7));
            let panics = scope.spawn(|| {
                let _guard = mutex.lock().unwrap();
                panic!("on purpose");
            });
            assert!(panics.join().is_err() && mutex.is_poisoned());
        });
        assert_eq!(asked.into_inner(), 1);
        assert_eq!(
            lock_unless_forked(&mutex, never).map(|guard| *guard),
            Some(7)
        );
    }
}
