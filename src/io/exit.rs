//! The end of a thread or of the process: what has gathered by then is written first.
//!
//! What nobody waits for is gathered, and written a little later by the writer thread, which would be too late if the process
//! ended in between. The standard library has no hook for the end of a process, but it runs the destructors of the ending
//! thread's `thread_local!`s: when a thread ends, when `main` returns, and when `std::process::exit` is called. So each
//! thread that uses a connection is given such a value, whose destructor has everything written that has gathered on any
//! connection, by whatever thread.
//!
//! That alone is not enough. RabbitMQ ends a connection's channels when it sees the end of the stream, also if they have not
//! handled all that came before: of 50 messages written just before the end it may lose most. So where it is certain that
//! the process ends, the broker is asked for something on each channel, and its answer is waited for. A thread that ends,
//! but may only be that, waits for `GRACE` instead.

use std::cell::Cell;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError, Weak};
use std::thread;
use std::time::Duration;

use super::sync::Instant;

/// How long the end of a thread may be held up in all.
pub(crate) const LIMIT: Duration = Duration::from_secs(2);

/// How long a thread's end leaves the broker to handle what was written last, if the process might end with it.
const GRACE: Duration = Duration::from_millis(5);

/// What is still to be waited for.
pub(crate) type Rest = Box<dyn FnOnce(Instant) + Send>;

/// A connection, as far as the end of a thread concerns it.
pub(crate) trait Gathering: Send + Sync {
    /// Has everything written that has gathered.
    fn write(self: Arc<Self>) -> Option<Rest>;

    /// The same, and has the broker confirm that it has handled what was sent.
    fn write_and_confirm(self: Arc<Self>) -> Option<Rest>;

    /// When the last bytes were written.
    fn last_write(&self) -> Instant;

    /// The process that opened it.
    fn process(&self) -> u32;
}

static CONNECTIONS: Mutex<Vec<Weak<dyn Gathering>>> = Mutex::new(Vec::new());

/// The lock is held for moments only. If it cannot be had at all, the thread that held it stayed behind in a fork's parent.
fn connections() -> Option<MutexGuard<'static, Vec<Weak<dyn Gathering>>>> {
    let deadline = Instant::now() + LIMIT;
    loop {
        match CONNECTIONS.try_lock() {
            Ok(known) => return Some(known),
            Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => return None,
            Err(TryLockError::WouldBlock) => thread::yield_now(),
        }
    }
}

/// What has gathered on this connection is written before a guarded thread ends.
pub(crate) fn register(connection: Weak<dyn Gathering>) {
    if let Some(mut connections) = connections() {
        connections.retain(|known| known.strong_count() > 0);
        connections.push(connection);
    }
}

struct Guard;

thread_local! {
    static GUARD: Guard = const { Guard };
    /// How many calls of this thread are running callbacks. It cannot end in one unless the process ends.
    static CALLING_BACK: Cell<usize> = const { Cell::new(0) };
}

/// Whether this thread is inside a call that runs callbacks.
pub(crate) fn is_in_callbacks() -> bool {
    CALLING_BACK.get() > 0
}

/// This thread may run callbacks from now on.
pub(crate) fn begin_callbacks() {
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

impl Drop for Guard {
    /// Must not panic, and must not log: a logger may have lost its own `thread_local!`s by now.
    fn drop(&mut self) {
        // A forked child has its parent's connections, and must not touch them.
        let process = std::process::id();
        let Some(mut connections) = connections().map(|known| {
            let known = known.iter().filter_map(Weak::upgrade);
            known.collect::<Vec<_>>()
        }) else {
            return;
        };
        connections.retain(|connection| connection.process() == process);
        if connections.is_empty() {
            return;
        }
        let deadline = Instant::now() + LIMIT;
        let is_main = thread::current().name() == Some("main");
        if is_main || is_in_callbacks() {
            elsewhere(deadline, move || {
                wait_for_all(connections, Gathering::write_and_confirm, deadline);
            });
            return;
        }
        wait_for_all(connections.clone(), Gathering::write, deadline);
        let written = connections.iter().map(|it| it.last_write()).max();
        let left = written.map(|at| (at + GRACE).saturating_duration_since(Instant::now()));
        if let Some(left) = left.filter(|left| !left.is_zero()) {
            thread::sleep(left);
        }
    }
}

/// All are asked before the first is waited for, so that slow peers take their time together.
fn wait_for_all(
    connections: Vec<Arc<dyn Gathering>>,
    ask: fn(Arc<dyn Gathering>) -> Option<Rest>,
    deadline: Instant,
) {
    let asked: Vec<Rest> = connections.into_iter().filter_map(ask).collect();
    for rest in asked {
        rest(deadline);
    }
}

/// Runs something on a thread of its own, which may log, and waits for it until the deadline.
fn elsewhere(deadline: Instant, run: impl FnOnce() + Send + 'static) {
    let done = Arc::new((Mutex::new(false), Condvar::new()));
    let tell = Arc::clone(&done);
    let started = thread::Builder::new()
        .name("haypile-exit".into())
        .spawn(move || {
            run();
            *tell.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
            tell.1.notify_all();
        });
    if started.is_err() {
        return;
    }
    let (lock, changed) = &*done;
    let is_done = lock.lock().unwrap_or_else(PoisonError::into_inner);
    let left = deadline.saturating_duration_since(Instant::now());
    drop(changed.wait_timeout_while(is_done, left, |is_done| !*is_done));
}
