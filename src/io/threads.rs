//! The two threads of a connection: how they start, and their loops.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::backlog::PERIOD;
use super::exit::{self, AtExit};
use super::link::{Link, Opened, Shared};
use super::reader::{Ahead, Outcome, Reader, SLICE};
use super::sync::thread::{self, Thread};
use super::sync::{after, spawn, Instant, MutexGuard, LONG};
use super::writer::Work;

impl Link {
    /// Starts the writer thread, which starts the reader thread.
    pub(crate) fn start(opened: Opened) -> io::Result<Arc<Link>> {
        let link = Arc::new(Link::new(opened)?);
        link.spawn("haypile-writer", write)?;
        exit::guard_thread();
        let at_exit: Arc<dyn AtExit> = Arc::clone(&link) as _;
        exit::register(Arc::downgrade(&at_exit));
        Ok(link)
    }

    fn spawn(self: &Arc<Self>, name: &str, run: fn(&Arc<Link>)) -> io::Result<Thread> {
        let link = Arc::clone(self);
        let run = move || {
            exit::exempt_thread();
            run(&link);
        };
        spawn(name, Box::new(run))
    }

    /// Starts the reader thread. The writer thread does this when the connection is a little older than `SLICE`: before
    /// that no thread needs it, and a program that sends one message and closes is spared a thread.
    fn start_reader(self: &Arc<Self>) {
        match self.spawn("haypile-reader", read) {
            Ok(thread) => {
                let _ = self.reader_thread.set(thread);
            }
            Err(error) => {
                let mut shared = self.lock();
                self.end_for_lost_stream(&mut shared, error);
                self.act_on_changes(&mut shared);
            }
        }
    }
}

/// The writer thread.
fn write(link: &Arc<Link>) {
    let mut reader_due = Some(after(SLICE));
    loop {
        if reader_due.is_some_and(|due| Instant::now() >= due) && !link.outgoing.is_finishing() {
            reader_due = None;
            link.start_reader();
        }
        let heartbeat_after = link.heartbeat.send_after();
        match link.outgoing.wait_for_work(heartbeat_after, reader_due) {
            Work::Write => link.check_write(link.outgoing.write_rest()),
            Work::Look => {}
            Work::End => break,
        }
    }
    // Threads may wait for room that there will never be.
    link.outgoing.wake_all();
    link.shutdown_stream();
    if reader_due.is_some() {
        // There is no reader thread yet. If the end is not known, as after a failed write, it has to find it.
        if link.lock().session.end().is_none() {
            link.start_reader();
        } else {
            link.log_end();
        }
    }
}

/// The reader thread: reads whenever no other thread does, and is the connection's clock.
fn read(link: &Arc<Link>) {
    read_until_end(link);
    link.log_end();
}

fn read_until_end(link: &Link) {
    let mut seen_turns = 0;
    loop {
        thread::park_timeout(SLICE);
        let mut shared = link.log_late_closures(link.lock());
        link.check_blocked(&mut shared);
        if shared.session.end().is_some() {
            return;
        }
        let is_unused = shared.turns == seen_turns || shared.hand_over;
        seen_turns = shared.turns;
        let was_paused = shared.has_enough(None);
        if was_paused {
            shared = pause(link, shared);
            if shared.session.end().is_some() {
                return;
            }
        }
        shared.resume();
        if !is_unused && !was_paused {
            continue;
        }
        (shared, _) = keep_alive(link, shared);
        let Some(mut reader) = shared.reader.take() else {
            continue;
        };
        shared.hand_over = false;
        shared = read_until_wanted(link, shared, &mut reader);
        shared.reader = Some(reader);
        shared.wake_next_reader();
    }
}

/// Reads and handles what comes until a caller wants to read, or the program has enough, or the connection ends.
fn read_until_wanted<'a>(
    link: &'a Link,
    mut shared: MutexGuard<'a, Shared>,
    reader: &mut Reader,
) -> MutexGuard<'a, Shared> {
    loop {
        let outcome = if reader.more {
            Outcome::Bytes
        } else {
            let timeout = link.next_limit(&shared, reader.last_bytes());
            drop(shared);
            let outcome = reader.read(timeout);
            link.wait_for_write_error(&outcome);
            shared = link.lock();
            outcome
        };
        link.receive(&mut shared, reader, outcome);
        shared = link.log_late_closures(shared);
        let is_over = shared.session.end().is_some();
        if is_over || shared.is_reader_wanted() || shared.has_enough(None) {
            return shared;
        }
    }
}

/// Reading pauses until the program has taken enough, or the connection ends.
fn pause<'a>(link: &'a Link, mut shared: MutexGuard<'a, Shared>) -> MutexGuard<'a, Shared> {
    shared.pause();
    if let Some(reader) = &mut shared.reader {
        reader.begin_pause();
    }
    let mut next_look = SLICE;
    while shared.has_enough(None) {
        let limit = link.blocked_limit(&shared).min(next_look);
        drop(shared);
        thread::park_timeout(limit);
        shared = link.lock();
        link.check_blocked(&mut shared);
        if shared.session.end().is_some() {
            break;
        }
        (shared, next_look) = keep_alive(link, shared);
    }
    shared
}

/// When the stream is not read because what was read before it is not handled: reads as much as the peer insists on, when
/// it is time to, and notices a peer that is dead. Returns when it is time again.
fn keep_alive<'a>(
    link: &'a Link,
    mut shared: MutexGuard<'a, Shared>,
) -> (MutexGuard<'a, Shared>, Duration) {
    // A look that finds nothing says that the peer is silent. It must come often enough for that, too.
    let look_every = PERIOD.min(link.heartbeat.silence_limit().unwrap_or(LONG) / 3);
    let has_enough = shared.has_enough(None);
    let next_look = match &shared.reader {
        Some(reader) if has_enough || reader.has_unhandled() => reader.next_look(look_every),
        // If there is no reader here, a caller is reading.
        _ => look_every,
    };
    if !next_look.is_zero() {
        return (shared, next_look);
    }
    let Some(mut reader) = shared.reader.take() else {
        return (shared, look_every);
    };
    let period_is_over = reader.is_period_over();
    reader.begin_look();
    loop {
        reader.prepare_backlog(&mut shared.session);
        drop(shared);
        let ahead = reader.read_ahead();
        shared = link.lock();
        match ahead {
            Ahead::Bytes => shared.last_bytes = reader.last_bytes(),
            Ahead::Nothing => link.receive(&mut shared, &mut reader, Outcome::Nothing),
            Ahead::End => {
                shared.last_bytes = reader.last_bytes();
                shared.stream_ended = true;
                shared.session.is_draining = true;
            }
        }
        let has_read_enough = !period_is_over || reader.has_quota(shared.session.max_message_size);
        let is_wanted = shared.is_waited_for() && !shared.has_enough(None);
        if has_read_enough || ahead == Ahead::Nothing || is_wanted || shared.stream_ended {
            break;
        }
    }
    reader.end_look(period_is_over);
    shared.reader = Some(reader);
    shared.wake_next_reader();
    (shared, look_every)
}

#[cfg(test)]
#[cfg(not(shuttle))]
#[path = "tests/threads.rs"]
mod tests;
