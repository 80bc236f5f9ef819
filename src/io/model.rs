//! A model checker walks the hand-offs of the two tokens, the waits and the wake-ups.
//!
//! `scripts/test-models` runs these tests. The production code is the same; its locks, threads and
//! clock come from [`shuttle`], which runs one thread at a time and chooses at each step which one goes on. A connection over
//! a stream in memory meets a scripted broker under thousands of such schedules. A thread that is never
//! woken, bytes that are never written or read, and a lock that is taken twice end a schedule with a failure.
//!
//! Time is the model's own (see [`sync`]), and passes in two ways:
//!
//! * With exact timing it stands still while any thread can go on. So the clock shows it when a thread waits for its deadline
//!   that should have been woken: the tests say how long a thing may take, mostly no time at all.
//! * With early timing any deadline may pass at any step, as if the other threads had been slow. Timeouts then come between
//!   any two steps of the others.
//!
//! In both, deadlines of a second and more never pass: they are there for what goes wrong, and nothing must rest on them.
//!
//! With each timing schedules are chosen by two strategies: at random, and by priorities of the threads which change a few times
//! (PCT: most mistakes need no more).

pub(crate) mod broker;
mod calls;
mod end;
mod events;
pub(crate) mod sync;
mod writing;

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;

use shuttle::scheduler::{
    PctScheduler, RandomScheduler, ReplayScheduler, Schedule, Scheduler, Task, TaskId,
};
use shuttle::{Config, MaxSteps, Runner};

use self::sync::Timing;

/// How many schedules each test walks with each timing by each strategy.
const SCHEDULES: usize = 1500;

/// A schedule of so many steps goes round in circles.
const STEPS: usize = 100_000;

/// How often threads change places in a schedule with priorities.
const CHANGES: usize = 3;

/// With early timing, time passes before one in so many steps.
const EARLY_ONE_IN: u64 = 16;

/// Runs a scenario under many schedules.
pub(crate) fn check(scenario: impl Fn() + Send + Sync + 'static) {
    let scenario = Arc::new(scenario);
    if let Ok(failed) = std::env::var("HAYPILE_MODEL_REPLAY") {
        let (timing, steps) = failed.split_once(' ').expect("the timing, then the steps");
        let timing = if timing == "Exact" {
            Timing::Exact
        } else {
            Timing::Early
        };
        run(ReplayScheduler::new_from_encoded(steps), timing, &scenario);
        return;
    }
    let count = std::env::var("HAYPILE_MODEL_SCHEDULES")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(SCHEDULES);
    let mut walked = 0;
    for timing in [Timing::Exact, Timing::Early] {
        let random = RandomScheduler::new_from_seed(1, count);
        walked += run(TimedScheduler::new(random, timing), timing, &scenario);
        let priorities = PctScheduler::new_from_seed(2, CHANGES + 1, count);
        walked += run(TimedScheduler::new(priorities, timing), timing, &scenario);
    }
    eprintln!("{walked} schedules");
}

fn run<F: Fn() + Send + Sync + 'static>(
    scheduler: impl Scheduler + 'static,
    timing: Timing,
    scenario: &Arc<F>,
) -> usize {
    let mut config = Config::new();
    config.max_steps = MaxSteps::FailAfter(STEPS);
    config.stack_size = 256 * 1024;
    config.silence_warnings = true;
    config
        .ungraceful_shutdown_config
        .immediately_return_on_panic = true;
    let scenario = Arc::clone(scenario);
    let runner = Runner::new(scheduler, config);
    let walked = panic::catch_unwind(AssertUnwindSafe(|| {
        runner.run(move || {
            sync::start(timing);
            scenario();
        })
    }));
    walked.unwrap_or_else(|failure| {
        eprintln!("to see this again: HAYPILE_MODEL_REPLAY=\"{timing:?} THE_SCHEDULE_ABOVE\"");
        panic::resume_unwind(failure)
    })
}

/// Chooses when time passes, and leaves all other choices to a scheduler of the checker.
struct TimedScheduler<S> {
    scheduler: S,
    timing: Timing,
    random: u64,
}

impl<S: Scheduler> TimedScheduler<S> {
    fn new(scheduler: S, timing: Timing) -> Self {
        TimedScheduler {
            scheduler,
            timing,
            random: 1,
        }
    }

    /// Knuth's generator: the checker's own would not be the same in a replay.
    fn is_early(&mut self) -> bool {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % EARLY_ONE_IN == 0
    }
}

impl<S: Scheduler> Scheduler for TimedScheduler<S> {
    fn new_execution(&mut self) -> Option<Schedule> {
        self.scheduler.new_execution()
    }

    fn next_task(
        &mut self,
        runnable: &[&Task],
        current: Option<TaskId>,
        is_yielding: bool,
    ) -> Option<TaskId> {
        let is_clock = |task: &&Task| usize::from(task.id()) == sync::CLOCK_TASK;
        // The checker also offers threads that are parked, since `park` may return without a reason. Here it does not, so
        // that a thread that should have been woken is missed.
        let mut able: Vec<&Task> = runnable
            .iter()
            .filter(|task| task.runnable())
            .copied()
            .collect();
        if let Some(clock) = able.iter().copied().find(is_clock) {
            if able.len() == 1 || sync::is_ringing() {
                return Some(clock.id());
            }
            let early = self.timing == Timing::Early && self.is_early() && sync::may_pass();
            if !early {
                able.retain(|task| !is_clock(task));
            } else {
                return Some(clock.id());
            }
        }
        self.scheduler.next_task(&able, current, is_yielding)
    }

    fn next_u64(&mut self) -> u64 {
        self.scheduler.next_u64()
    }
}
