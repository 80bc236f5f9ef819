//! The end of a thread or of the process: what has gathered by then is written first, and the broker handles it.
//!
//! What no thread waits for is gathered, and written a little later by the writer thread, which would be too late if the process
//! ended in between. The standard library has no hook for the end of a process, but it runs the destructors of the ending
//! thread's `thread_local!`s: when a thread ends, when `main` returns, and when `std::process::exit` is called. So each
//! thread that uses a connection is given such a value, whose destructor has everything written that has gathered on any
//! connection, by whatever thread.
//!
//! That alone is not enough. RabbitMQ ends a connection's channels when it sees the end of the stream, also if they have not
//! handled all that came before: of 50 messages written just before the end it may lose most. So the broker is asked for
//! something on each channel on which something was sent that it may not have handled, and its reply is waited for.
//!
//! A thread that ends does not know whether the process ends with it. So it waits as well, but not as long, and neither while
//! the broker takes nothing nor while too much waits for the program: the reply would come only behind that.

use std::cell::Cell;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, TryLockError, Weak};
use std::thread;
use std::time::Duration;

use super::deadline::run_within;
use super::sync::Instant;

/// How long the end of the process may be held up in all.
pub(crate) const LIMIT: Duration = Duration::from_secs(2);

/// The same for the end of a thread that may be no more than that.
const THREAD_LIMIT: Duration = Duration::from_secs(1);

/// Whether the process ends, as far as a thread's destructors know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Process,
    /// The thread ends, and perhaps the process with it.
    Thread,
}

/// Waits until the deadline for the broker's replies to what it was asked.
pub(crate) type PendingReplies = Box<dyn FnOnce(Instant) + Send>;

/// What the end of a thread asks of a connection.
pub(crate) trait AtExit: Send + Sync {
    /// The process that opened it.
    fn process(&self) -> u32;

    /// Whether something was handed over that the broker may not have handled.
    fn may_have_unhandled(&self) -> bool;

    /// Has everything written, and asks the broker whether it has handled it.
    fn ask_for_unhandled(self: Arc<Self>, ending: Ending) -> PendingReplies;
}

static CONNECTIONS: Mutex<Vec<Weak<dyn AtExit>>> = Mutex::new(Vec::new());

/// How many threads that ended have left one behind that still waits for the broker.
static LEFT_BEHIND: AtomicUsize = AtomicUsize::new(0);

/// The lock is held for moments only. If it cannot be had at all, the thread that held it stayed behind in a fork's parent.
fn connections() -> Option<MutexGuard<'static, Vec<Weak<dyn AtExit>>>> {
    lock_within(&CONNECTIONS, LIMIT)
}

fn lock_within<T>(mutex: &Mutex<T>, limit: Duration) -> Option<MutexGuard<'_, T>> {
    let deadline = Instant::now() + limit;
    loop {
        match mutex.try_lock() {
            Ok(guard) => return Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => return None,
            Err(TryLockError::WouldBlock) => thread::yield_now(),
        }
    }
}

/// From now on, what has gathered on this connection is written before a guarded thread ends.
pub(crate) fn register(connection: Weak<dyn AtExit>) {
    if let Some(mut connections) = connections() {
        connections.retain(|known| known.strong_count() > 0);
        connections.push(connection);
    }
}

struct Guard {
    /// The thread belongs to this crate: the program cannot end with it.
    is_own: Cell<bool>,
}

thread_local! {
    static GUARD: Guard = const { Guard { is_own: Cell::new(false) } };
    /// How many calls of this thread are running callbacks. It cannot end in one unless the process ends.
    static CALLING_BACK: Cell<usize> = const { Cell::new(0) };
}

/// Whether this thread is inside a call that runs callbacks.
pub(crate) fn is_in_callbacks() -> bool {
    CALLING_BACK.get() > 0
}

/// This thread may run callbacks from now on.
pub(crate) fn begin_callbacks() {
    guard_thread();
    CALLING_BACK.set(CALLING_BACK.get() + 1);
}

/// This thread has left a call that runs callbacks.
pub(crate) fn end_callbacks() {
    CALLING_BACK.set(CALLING_BACK.get().saturating_sub(1));
}

/// Makes the end of this thread wait for what has gathered. Returns false if this thread's end has come that far already.
#[inline]
pub(crate) fn guard_thread() -> bool {
    // The model checker has its own threads, which end with no process.
    cfg!(all(test, shuttle)) || GUARD.try_with(|_| ()).is_ok()
}

/// This thread is one of the crate's own: its end waits for nothing.
pub(crate) fn exempt_thread() {
    let _ = GUARD.try_with(|guard| guard.is_own.set(true));
}

/// Whether this thread is one of the crate's own.
#[cfg(test)]
#[cfg(not(shuttle))]
pub(super) fn is_exempt() -> bool {
    GUARD.try_with(|guard| guard.is_own.get()).unwrap_or(false)
}

impl Drop for Guard {
    /// Must not panic, and must not log: a logger may have lost its own `thread_local!`s by now.
    fn drop(&mut self) {
        if self.is_own.get() {
            return;
        }
        let connections = unhandled_connections();
        if connections.is_empty() {
            return;
        }
        let is_main = thread::current().name() == Some("main");
        let (ending, limit) = if is_main || is_in_callbacks() {
            (Ending::Process, LIMIT)
        } else {
            (Ending::Thread, THREAD_LIMIT)
        };
        let deadline = Instant::now() + limit;
        let run = move || {
            exempt_thread();
            // All are asked before the first is waited for, so that slow peers take their time together.
            let pending: Vec<PendingReplies> = connections
                .into_iter()
                .map(|connection| connection.ask_for_unhandled(ending))
                .collect();
            for wait in pending {
                wait(deadline);
            }
        };
        // On a thread of its own, which may log. In time or not, this thread goes on to end.
        let _ = run_within(&LEFT_BEHIND, limit, Box::new(run));
    }
}

/// This process's connections on which the broker may not have handled all.
fn unhandled_connections() -> Vec<Arc<dyn AtExit>> {
    let mut known: Vec<Arc<dyn AtExit>> = match connections() {
        Some(connections) => connections.iter().filter_map(Weak::upgrade).collect(),
        None => return Vec::new(),
    };
    // A forked child has its parent's connections, and must not touch them.
    let process = std::process::id();
    known.retain(|it| it.process() == process && it.may_have_unhandled());
    known
}

#[cfg(test)]
#[cfg(not(shuttle))]
#[path = "tests/at_exit.rs"]
mod tests;
