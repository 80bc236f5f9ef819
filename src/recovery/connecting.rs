//! One connection after another: attempts, pauses, events.

use std::any::Any;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::retry::{random, Failures};
use super::verdict;
use super::{Supervisor, SupervisorEvent};
use crate::error::Result;
use crate::io::sync::thread;
use crate::io::sync::Mutex;
use crate::stop::Stop;
use crate::{Connection, ConnectionParameters, ConsumingEnded, Error};

/// What a supervisor knows while it runs.
pub(super) struct Connecting<'a> {
    supervisor: &'a Supervisor,
    /// Whether the result is of no use any more.
    is_unwanted: &'a dyn Fn() -> bool,
    parameters: &'a [ConnectionParameters],
    failures: Failures,
    /// The set-up was once at work for long, or had a consumer that the broker cancelled.
    has_worked: bool,
    /// What the last attempt or connection ended with, and how long to wait for it.
    waiting: Option<(Duration, Error)>,
}

impl<'a> Connecting<'a> {
    pub(super) fn new(
        supervisor: &'a Supervisor,
        is_unwanted: &'a dyn Fn() -> bool,
    ) -> Result<Self> {
        let parameters = supervisor.parameters.as_ref().map_err(Error::clone)?;
        supervisor.retry.check()?;
        Ok(Connecting {
            supervisor,
            is_unwanted,
            parameters,
            failures: Failures::new(supervisor.retry.clone()),
            has_worked: false,
            waiting: None,
        })
    }

    /// Opens the next connection, however many attempts that takes.
    pub(super) fn connect(&mut self) -> Result<Connection> {
        loop {
            if let Some(connection) = self.attempt()? {
                return Ok(connection);
            }
        }
    }

    /// Waits as long as is due, and tries once. `None` if that failed by something that may pass.
    pub(super) fn attempt(&mut self) -> Result<Option<Connection>> {
        let stop = &self.supervisor.stop;
        if let Some((delay, error)) = self.waiting.take() {
            self.supervisor
                .report(&SupervisorEvent::Waiting { delay, error });
            if !stop.sleep(delay, self.is_unwanted) {
                return Err(Error::Stopped {
                    waiting_for: "the next attempt to connect",
                });
            }
        }
        let candidates = self.candidates();
        match open(candidates, stop, self.is_unwanted) {
            Ok(connection) => {
                connection.stopped_by(stop);
                let address = connection.address().to_owned();
                self.supervisor
                    .report(&SupervisorEvent::Connected { address });
                Ok(Some(connection))
            }
            Err(error) if error.is_retryable() => self.failed(error).map(|()| None),
            Err(error) => Err(self.give_up(error)),
        }
    }

    /// All parameters, from a random one on.
    fn candidates(&self) -> Vec<ConnectionParameters> {
        let mut candidates = self.parameters.to_vec();
        if !self.supervisor.in_order && candidates.len() > 1 {
            let start = random() % candidates.len() as u64;
            candidates.rotate_left(start as usize);
        }
        candidates
    }

    /// The loss that ended a connection on which the set-up returned `result`, if the set-up is to run again.
    pub(super) fn loss(
        &self,
        connection: &Connection,
        connected: Duration,
        result: &Result<ConsumingEnded>,
    ) -> Option<Error> {
        let has_worked = self.has_worked || self.supervisor.retry.is_lasting(connected);
        verdict::loss(connection, has_worked, result)
            .filter(|_| result.is_err() || !self.supervisor.stop.is_stopped())
    }

    /// Notes that a connection was lost by this error, having been open for `connected`. Fails if it is time to give up.
    pub(super) fn lost(&mut self, error: Error, connected: Duration) -> Result<()> {
        self.has_worked |= matches!(error, Error::ConsumerCancelled { .. })
            || self.supervisor.retry.is_lasting(connected);
        self.failures.ended(connected);
        self.supervisor.report(&SupervisorEvent::Lost {
            error: error.clone(),
        });
        self.failed(error)
    }

    fn failed(&mut self, error: Error) -> Result<()> {
        match self.failures.add(error.clone()) {
            Ok(delay) => {
                self.waiting = Some((delay, error));
                Ok(())
            }
            Err(gave_up) => Err(self.give_up(gave_up)),
        }
    }

    pub(super) fn give_up(&self, error: Error) -> Error {
        if !matches!(error, Error::Stopped { .. }) {
            self.supervisor.report(&SupervisorEvent::GivingUp {
                error: error.clone(),
            });
        }
        error
    }
}

/// Opens a connection on a thread of its own, so that a stop need not wait for it: one that comes about later is closed there.
fn open(
    candidates: Vec<ConnectionParameters>,
    stop: &Stop,
    is_unwanted: &dyn Fn() -> bool,
) -> Result<Connection> {
    let stopped = || Error::Stopped {
        waiting_for: "a connection",
    };
    if stop.is_stopped() {
        return Err(stopped());
    }
    type Opened = std::result::Result<Result<Connection>, Box<dyn Any + Send>>;
    let slot: Arc<Mutex<Option<Opened>>> = Arc::new(Mutex::new(None));
    let (filled, caller) = (Arc::clone(&slot), thread::current());
    let spawned = thread::Builder::new()
        .name("haypile-connect".into())
        .spawn(move || {
            let opened = panic::catch_unwind(AssertUnwindSafe(|| Connection::open(candidates)));
            *filled.lock().unwrap_or_else(PoisonError::into_inner) = Some(opened);
            // What the caller does not want any more is dropped with the slot, before it is woken: it may be about to exit.
            drop(filled);
            caller.unpark();
        });
    if let Err(error) = spawned {
        return Err(Error::other(error));
    }
    loop {
        let opened = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        match opened {
            Some(Ok(result)) => return result,
            Some(Err(payload)) => panic::resume_unwind(payload),
            None if stop.is_stopped() || is_unwanted() => return Err(stopped()),
            None => stop.park(None),
        }
    }
}
