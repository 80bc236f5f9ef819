//! Locks, threads and the clock of the model.
//!
//! The checker has no time, so there is a clock here: a thread that waits with a timeout sets an alarm, and one of its own,
//! the clock, moves the time on to the next alarm and rings it. When that thread has its turn is the scheduler's choice (see
//! `TimedScheduler`).

use std::cell::RefCell;
use std::ops::{Add, Sub};
use std::sync::{Arc, LockResult, PoisonError};
use std::time::Duration;

pub(crate) use shuttle::sync::{Mutex, MutexGuard};
pub(crate) use shuttle::thread_local;

/// When time passes: see [the models](super).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timing {
    Exact,
    Early,
}

/// Deadlines that are so far away never pass.
const NEVER: Duration = Duration::from_secs(1);

/// The number of the clock among the threads of an execution: `start` makes it the first after the one it runs on.
pub(super) const CLOCK_TASK: usize = 1;

std::thread_local! {
    /// All threads of one execution are coroutines of one thread of the system.
    static CLOCK: RefCell<Clock> = RefCell::default();
}

#[derive(Default)]
struct Clock {
    now: Duration,
    alarms: Vec<Alarm>,
    next_alarm: u64,
    /// It wakes the threads that are due, and none goes on until all are awake.
    ringing: bool,
    exact: bool,
}

struct Alarm {
    id: u64,
    due: Duration,
    sleeper: Sleeper,
    rung: bool,
}

#[derive(Clone)]
enum Sleeper {
    Parked(thread::Thread),
    Waiting(Arc<shuttle::sync::Condvar>),
}

impl Alarm {
    /// Whether it can wake its thread: one that was about to wait on a condition when it rang has to be woken again.
    fn can_ring(&self) -> bool {
        !self.rung || matches!(self.sleeper, Sleeper::Waiting(_))
    }
}

impl Clock {
    /// Moves on to the next alarm, and returns what is to be woken.
    fn pass(&mut self) -> Vec<Sleeper> {
        let next = self.alarms.iter().filter(|alarm| !alarm.rung);
        if let Some(next) = next.map(|alarm| alarm.due).min() {
            self.now = self.now.max(next);
        }
        let now = self.now;
        let mut sleepers = Vec::new();
        for alarm in &mut self.alarms {
            if alarm.due <= now && alarm.can_ring() {
                alarm.rung = true;
                sleepers.push(alarm.sleeper.clone());
            }
        }
        sleepers
    }
}

/// A clock for a new execution.
pub(super) fn start(timing: Timing) {
    CLOCK.set(Clock {
        exact: timing == Timing::Exact,
        ..Clock::default()
    });
    let clock = shuttle::thread::Builder::new().name("the clock".into());
    clock.spawn(run).expect("a thread of the model");
}

fn run() {
    loop {
        let sleepers = CLOCK.with_borrow_mut(Clock::pass);
        if sleepers.is_empty() {
            // It was the clock's turn because no other thread can go on, and none ever will: all are at their end, or the
            // checker says who is not.
            return;
        }
        CLOCK.with_borrow_mut(|clock| clock.ringing = true);
        for sleeper in sleepers {
            match sleeper {
                Sleeper::Parked(thread) => thread.unpark(),
                Sleeper::Waiting(condvar) => condvar.notify_all(),
            }
        }
        CLOCK.with_borrow_mut(|clock| clock.ringing = false);
        shuttle::thread::yield_now();
    }
}

pub(super) fn is_ringing() -> bool {
    CLOCK.with_borrow(|clock| clock.ringing)
}

/// Whether any thread waits for the time to pass.
pub(super) fn may_pass() -> bool {
    CLOCK.with_borrow(|clock| clock.alarms.iter().any(Alarm::can_ring))
}

/// Whether time passes only when all threads wait, so that a test can say how long a thing takes.
pub(crate) fn is_exact() -> bool {
    CLOCK.with_borrow(|clock| clock.exact)
}

/// Lets time pass for this thread, however long it is.
pub(crate) fn sleep(duration: Duration) {
    let until = Instant::now() + duration;
    while Instant::now() < until {
        let _alarm = SetAlarm::new(until.0, Sleeper::Parked(thread::current()));
        shuttle::thread::park();
    }
}

struct SetAlarm(u64);

impl SetAlarm {
    fn new(due: Duration, sleeper: Sleeper) -> Self {
        CLOCK.with_borrow_mut(|clock| {
            clock.next_alarm += 1;
            let id = clock.next_alarm;
            clock.alarms.push(Alarm {
                id,
                due,
                sleeper,
                rung: false,
            });
            SetAlarm(id)
        })
    }

    fn for_timeout(timeout: Duration, sleeper: Sleeper) -> Option<Self> {
        (timeout < NEVER).then(|| Self::new(Instant::now().0 + timeout, sleeper))
    }
}

impl Drop for SetAlarm {
    fn drop(&mut self) {
        CLOCK.with_borrow_mut(|clock| clock.alarms.retain(|alarm| alarm.id != self.0));
    }
}

pub(crate) mod thread {
    use std::time::Duration;

    pub(crate) use shuttle::thread::{current, spawn, Builder, JoinHandle, Thread};

    use super::{SetAlarm, Sleeper};

    pub(crate) fn park_timeout(timeout: Duration) {
        let _alarm = SetAlarm::for_timeout(timeout, Sleeper::Parked(current()));
        shuttle::thread::park();
    }
}

/// As the standard library's, except that no caller asks whether the time was up.
#[derive(Default)]
pub(crate) struct Condvar(Arc<shuttle::sync::Condvar>);

impl Condvar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        timeout: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, ())> {
        let _alarm = SetAlarm::for_timeout(timeout, Sleeper::Waiting(Arc::clone(&self.0)));
        match self.0.wait(guard) {
            Ok(guard) => Ok((guard, ())),
            Err(poisoned) => Err(PoisonError::new((poisoned.into_inner(), ()))),
        }
    }

    /// Waits for a time that passes however long it is.
    pub(super) fn wait_until<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        deadline: Instant,
    ) -> MutexGuard<'a, T> {
        let _alarm = SetAlarm::new(deadline.0, Sleeper::Waiting(Arc::clone(&self.0)));
        self.0.wait(guard).unwrap()
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// A moment of the model's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Instant(Duration);

impl Instant {
    pub(crate) fn now() -> Self {
        Instant(CLOCK.with_borrow(|clock| clock.now))
    }

    pub(crate) fn elapsed(&self) -> Duration {
        Self::now() - *self
    }

    pub(crate) fn checked_add(&self, duration: Duration) -> Option<Self> {
        self.0.checked_add(duration).map(Instant)
    }

    pub(crate) fn saturating_duration_since(&self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Instant(self.0 + duration)
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.saturating_duration_since(earlier)
    }
}
