//! Deadlines for what has none of its own: looking up a name, and opening or reading a file, which may be a pipe or lie on a
//! disk that is far away.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::sync::{lock, spawn};
use crate::error::Span;

/// How many threads may be left behind. They cost memory, and nothing can end them.
const LEFT_BEHIND_MOST: usize = 16;

static LEFT_BEHIND: AtomicUsize = AtomicUsize::new(0);

/// How far a thread has come that is waited for.
enum Work {
    Running,
    Done,
    /// It is waited for no longer.
    LeftBehind,
}

/// Runs something on a thread of its own, and waits for it no longer than this. `None` waits for as long as it takes.
///
/// A thread that is late is left behind, and ends when its system call returns. When too many have not returned, no more are
/// begun.
pub(crate) fn within<T: Send + 'static>(
    limit: Option<Duration>,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    within_counted(&LEFT_BEHIND, limit, work)
}

fn within_counted<T: Send + 'static>(
    left_behind: &'static AtomicUsize,
    limit: Option<Duration>,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let Some(limit) = limit else {
        return Ok(work());
    };
    let result = Arc::new(Mutex::new(None));
    let filled = Arc::clone(&result);
    let run = move || {
        let value = work();
        *lock(&filled) = Some(value);
    };
    run_within(left_behind, limit, Box::new(run))?;
    let value = lock(&result).take();
    value.ok_or_else(|| io::Error::other("there is no result"))
}

/// The same for what has no result. `left_behind` counts the threads that are.
pub(super) fn run_within(
    left_behind: &'static AtomicUsize,
    limit: Duration,
    work: Box<dyn FnOnce() + Send>,
) -> io::Result<()> {
    let late = left_behind.load(Ordering::Acquire);
    if late >= LEFT_BEHIND_MOST {
        return Err(io::Error::other(format!(
            "{late} earlier ones have not come to an end, so no other is begun"
        )));
    }
    let waited_for = Arc::new((Mutex::new(Work::Running), Condvar::new()));
    let workers = Arc::clone(&waited_for);
    let run = move || {
        work();
        let (state, ended) = &*workers;
        let mut state = lock(state);
        if let Work::LeftBehind = *state {
            left_behind.fetch_sub(1, Ordering::AcqRel);
        } else {
            *state = Work::Done;
            ended.notify_one();
        }
    };
    spawn("haypile-deadline", Box::new(run))?;
    let (state, ended) = &*waited_for;
    let waiting =
        ended.wait_timeout_while(lock(state), limit, |state| matches!(state, Work::Running));
    let (mut state, _) = waiting.unwrap_or_else(PoisonError::into_inner);
    if let Work::Done = std::mem::replace(&mut *state, Work::LeftBehind) {
        return Ok(());
    }
    left_behind.fetch_add(1, Ordering::AcqRel);
    Err(io::Error::new(
        io::ErrorKind::TimedOut,
        format!("it took longer than {}", Span(limit)),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::thread;

    const MOMENT: Option<Duration> = Some(Duration::from_millis(10));

    #[test]
    fn what_is_in_time_is_returned() {
        static LATE: AtomicUsize = AtomicUsize::new(0);
        let minute = Some(Duration::from_secs(60));
        assert_eq!(within_counted(&LATE, minute, || 7).unwrap(), 7);
        assert_eq!(within_counted(&LATE, None, || 8).unwrap(), 8);
        assert_eq!(LATE.load(Ordering::Acquire), 0);
    }

    #[test]
    fn what_hangs_is_left_behind_and_only_so_often() {
        static LATE: AtomicUsize = AtomicUsize::new(0);
        let mut holds = Vec::new();
        for _ in 0..LEFT_BEHIND_MOST {
            let (hold, held) = mpsc::channel::<()>();
            holds.push(hold);
            let hangs = move || {
                let _ = held.recv();
            };
            let error = within_counted(&LATE, MOMENT, hangs).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert!(error.to_string().contains("10 ms"), "{error}");
        }
        let error = within_counted(&LATE, MOMENT, || ()).unwrap_err();
        assert!(error.to_string().contains("16 earlier ones"), "{error}");
        // A few more may have been left behind at the same time.
        static MORE: AtomicUsize = AtomicUsize::new(LEFT_BEHIND_MOST + 1);
        assert!(within_counted(&MORE, MOMENT, || ()).is_err());
        drop(holds);
        while LATE.load(Ordering::Acquire) > 0 {
            thread::yield_now();
        }
        within_counted(&LATE, Some(Duration::from_secs(60)), || ()).unwrap();
    }
}
