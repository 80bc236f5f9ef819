//! Which callback runs, and when one is dropped.

use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::{blocked, bounded, cancel, close, deliver, frame, unblocked, Handle, Rig};
use crate::error::Result;
use crate::protocol::frame::{write_body, write_header};
use crate::protocol::method::Method;
use crate::Error;

/// Something that a callback captures, and the way to see whether that was dropped.
fn captured() -> (Arc<()>, Weak<()>) {
    let value = Arc::new(());
    let seen = Arc::downgrade(&value);
    (value, seen)
}

fn is_dropped(seen: &Weak<()>) -> bool {
    seen.strong_count() == 0
}

/// Registers a consumer that writes down its tag and what it is given, and captures something.
fn consume(rig: &Rig, handle: &Handle, consumer_tag: &'static str) -> (u64, Weak<()>) {
    let ((value, seen), log) = (captured(), rig.log.clone());
    let id = rig.consume(handle, consumer_tag, move |_, body| {
        let _value = &value;
        log.push(format!("{consumer_tag}{body}"));
        Ok(())
    });
    (id, seen)
}

#[test]
fn each_consumer_gets_its_own_messages() {
    bounded(|| {
        let rig = Rig::new();
        let handle = rig.channel();
        // In no order, so that where each belongs is looked for.
        let ids = ["m", "a", "z", "k"].map(|tag| consume(&rig, &handle, tag).0);
        assert_eq!(ids, [1, 2, 3, 4]);
        let mut expected = Vec::new();
        let tags = ["a", "a", "z", "m", "k", "k", "k", "z", "a", "m"];
        for (number, tag) in (1..).zip(tags) {
            rig.say(&deliver(1, tag, number, &number.to_string()));
            expected.push(format!("{tag}{number}"));
        }
        assert!(rig.look().unwrap());
        assert_eq!(rig.log.take(), expected);

        // Whom each was given to is known when the broker cancels one.
        let mut shared = rig.link.lock();
        let channel = shared.session.channel(handle.slot).unwrap();
        for tag in ["a", "k", "m", "z"] {
            assert!(channel.cancel_consumer(tag));
        }
        for (number, tag) in (1..).zip(tags) {
            let lost = channel.consumers.cancelled_consumer_of(number);
            assert_eq!(lost.map(|lost| &*lost.consumer_tag), Some(tag));
        }
    });
}

/// Under the same tag, too: they differ by the id.
#[test]
fn a_consumer_is_removed_by_its_own_id() {
    bounded(|| {
        let rig = Rig::new();
        let handle = rig.channel();
        let (first, of_first) = consume(&rig, &handle, "c");
        let (_, of_other) = consume(&rig, &handle, "d");
        assert!(!rig.remove_consumer(&handle, "c", first + 1));
        assert!(!rig.remove_consumer(&handle, "nobody", first));
        assert!(!is_dropped(&of_first));
        rig.say(&deliver(1, "c", 1, "1"));
        assert!(rig.look().unwrap());
        assert!(rig.remove_consumer(&handle, "c", first));
        assert!(!rig.remove_consumer(&handle, "c", first));
        assert!(is_dropped(&of_first) && !is_dropped(&of_other));
        // A message that was already here is dropped, and the next is delivered.
        rig.say(&[deliver(1, "c", 2, "2"), deliver(1, "d", 3, "3")].concat());
        assert!(rig.look().unwrap());
        assert_eq!(rig.log.take(), ["c1", "d3"]);
        let (second, of_second) = consume(&rig, &handle, "c");
        assert_ne!(second, first);
        assert!(!rig.remove_consumer(&handle, "c", first) && !is_dropped(&of_second));
    });
}

/// A callback that removes its own consumer, or puts another in its place, is dropped when it has run.
#[test]
fn a_consumer_that_is_replaced_while_it_runs_gets_no_more() {
    bounded(|| {
        for replace in [true, false] {
            let rig = Rig::new();
            let handle = rig.channel();
            let ((value, seen), same) = (captured(), rig.clone());
            let id = handle.callbacks.new_consumer_id() + 1;
            let registered = rig.consume(&handle, "c", move |handle, body| {
                let _value = &value;
                same.log.push(format!("old {body}"));
                // The callback is not in the list now.
                assert!(same.remove_consumer(handle, "c", id));
                if replace {
                    consume(&same, handle, "c");
                }
                Ok(())
            });
            assert_eq!(registered, id);
            let messages: Vec<_> = (1..=3)
                .map(|n| deliver(1, "c", n, &n.to_string()))
                .collect();
            rig.say(&messages.concat());
            assert!(rig.look().unwrap());
            assert!(is_dropped(&seen));
            let expected = ["old 1", "c2", "c3"];
            let count = if replace { 3 } else { 1 };
            assert_eq!(rig.log.take(), expected[..count]);
            rig.say(&deliver(1, "c", 4, "4"));
            assert_eq!(rig.look().unwrap(), replace);
            let log = rig.log.take();
            assert_eq!(log, if replace { vec!["c4"] } else { vec![] });
        }
    });
}

#[test]
fn a_callback_that_failed_runs_again() {
    bounded(|| {
        let rig = Rig::new();
        let handle = rig.channel();
        let log = rig.log.clone();
        rig.consume(&handle, "c", move |_, body| {
            log.push(body);
            match body {
                "panic" => resume_unwind(Box::new("as a callback may end")),
                "error" => Err(Error::other("refused")),
                _ => Ok(()),
            }
        });
        let bodies = ["error", "panic", "fine"];
        for (number, body) in (1..).zip(bodies) {
            rig.say(&deliver(1, "c", number, body));
        }
        assert_eq!(rig.look().unwrap_err().to_string(), "refused");
        assert!(catch_unwind(AssertUnwindSafe(|| rig.look())).is_err());
        assert!(rig.look().unwrap());
        assert_eq!(rig.log.take(), bodies);
    });
}

fn returned(channel: u16, body: &str) -> Vec<u8> {
    let returned = Method::BasicReturn {
        reply_code: 312,
        reply_text: "NO_ROUTE".into(),
        exchange: "".into(),
        routing_key: "k".into(),
    };
    let mut bytes = frame(channel, &returned);
    write_header(&mut bytes, channel, body.len() as u64, &Default::default()).unwrap();
    write_body(&mut bytes, channel, body.as_bytes());
    bytes
}

#[test]
fn returned_messages_come_to_all_callbacks_in_their_order() {
    bounded(|| {
        let rig = Rig::new();
        let handle = rig.channel();
        let mut shared = rig.link.lock();
        let channel = shared.session.channel(handle.slot).unwrap();
        channel.wants_returns = true;
        drop(shared);
        for name in ["first", "second"] {
            let log = rig.log.clone();
            handle
                .callbacks
                .add_returned(Box::new(move |_, method, _, body| {
                    let body = String::from_utf8(body).unwrap();
                    log.push(format!("{name} {} {body}", method.reply_code));
                    Ok(())
                }));
        }
        rig.say(&returned(1, "lost"));
        assert!(rig.look().unwrap());
        assert_eq!(rig.log.take(), ["first 312 lost", "second 312 lost"]);
    });
}

/// An error ends the call before the next callback, and one that is added meanwhile runs from the next event on.
#[test]
fn callbacks_of_one_kind_run_one_after_another() {
    bounded(|| {
        let rig = Rig::new();
        let same = rig.clone();
        rig.callbacks.add_blocked(Box::new(move |reason| {
            same.log.push(reason);
            let log = same.log.clone();
            same.callbacks.add_blocked(Box::new(move |_| {
                log.push("added");
                Ok(())
            }));
            match reason {
                "bad" => Err(Error::other("refused")),
                _ => Ok(()),
            }
        }));
        for (reason, runs) in [("memory", vec!["memory"]), ("disk", vec!["disk", "added"])] {
            rig.say(&blocked(reason));
            assert!(rig.look().unwrap());
            assert_eq!(rig.log.take(), runs);
        }
        rig.say(&[blocked("bad"), unblocked()].concat());
        assert_eq!(rig.look().unwrap_err().to_string(), "refused");
        assert_eq!(rig.log.take(), ["bad"]);
        // What is left comes next.
        let log = rig.log.clone();
        rig.callbacks.add_unblocked(Box::new(move || {
            log.push("unblocked");
            Ok(())
        }));
        assert!(rig.look().unwrap());
        assert_eq!(rig.log.take(), ["unblocked"]);
    });
}

/// The consumer is forgotten before its cancellation is reported.
#[test]
fn a_consumer_that_the_broker_cancelled_is_dropped_and_reported_to_all() {
    bounded(|| {
        let rig = Rig::new();
        let handle = rig.channel();
        let (_, seen) = consume(&rig, &handle, "c");
        for name in ["first", "second"] {
            let (log, seen) = (rig.log.clone(), seen.clone());
            handle.callbacks.add_cancelled(Box::new(move |_, tag| {
                log.push(format!("{name} {tag} {}", is_dropped(&seen)));
                Ok(())
            }));
        }
        rig.say(&cancel(1, "c"));
        assert!(rig.look().unwrap());
        assert_eq!(rig.log.take(), ["first c true", "second c true"]);
    });
}

/// Callbacks often hold the handle that they belong to.
#[test]
fn a_channel_that_is_over_drops_its_callbacks_after_the_last_event() {
    bounded(|| {
        let rig = Rig::new();
        let handle = rig.channel();
        let (_, seen) = consume(&rig, &handle, "c");
        rig.say(&deliver(1, "c", 1, "1"));
        assert!(rig.look().unwrap() && !is_dropped(&seen));
        rig.say(&[deliver(1, "c", 2, "2"), close(1)].concat());
        // A thread that consumes here does this itself.
        let claim = |claims: &[u64]| {
            let mut shared = rig.link.lock();
            shared
                .session
                .channel(handle.slot)
                .unwrap()
                .threads
                .consuming = claims.to_vec();
        };
        claim(&[super::super::thread_number()]);
        assert!(rig.look().unwrap() && !is_dropped(&seen));
        claim(&[]);
        assert_eq!(rig.look().unwrap_err().reply_code(), Some(404));
        assert_eq!(rig.log.take(), ["c1", "c2"]);

        let rig = Rig::new();
        let handle = rig.channel();
        let (_, seen) = consume(&rig, &handle, "c");
        rig.say(&[deliver(1, "c", 1, "1"), close(1)].concat());
        assert!(rig.look().unwrap() && is_dropped(&seen));
    });
}

#[test]
fn all_callbacks_of_a_channel_are_dropped_at_once() {
    bounded(|| {
        let rig = Rig::new();
        let handle = rig.channel();
        let mut seen = vec![consume(&rig, &handle, "c").1];
        let (value, dropped) = captured();
        seen.push(dropped);
        handle.callbacks.add_cancelled(Box::new(move |_, _| {
            let _value = &value;
            Ok(())
        }));
        let (value, dropped) = captured();
        seen.push(dropped);
        handle.callbacks.add_returned(Box::new(move |_, _, _, _| {
            let _value = &value;
            Ok(())
        }));
        assert!(!seen.iter().any(is_dropped));
        handle.callbacks.clear();
        assert!(seen.iter().all(is_dropped));
    });
}

/// While a callback runs, too: it goes when it has run.
#[test]
fn a_callback_that_is_running_when_all_are_dropped_runs_no_more() {
    bounded(|| {
        let rig = Rig::new();
        let handle = rig.channel();
        let ((value, seen), log) = (captured(), rig.log.clone());
        rig.consume(&handle, "c", move |handle, body| {
            let _value = &value;
            log.push(body);
            handle.callbacks.clear();
            Ok(())
        });
        rig.say(&[deliver(1, "c", 1, "1"), deliver(1, "c", 2, "2")].concat());
        assert!(rig.look().unwrap());
        assert_eq!(rig.log.take(), ["1"]);
        assert!(is_dropped(&seen));
    });
}

/// Everything that a connection keeps, by what it captures.
fn all_kinds(rig: &Rig) -> Vec<Weak<()>> {
    let mut seen = Vec::new();
    let mut capture = || {
        let (value, dropped) = captured();
        seen.push(dropped);
        value
    };
    let (timer, blocked, unblocked) = (capture(), capture(), capture());
    let keep = |value: &Arc<()>| -> Result<()> {
        let _value = value;
        Ok(())
    };
    let due = Instant::now() + Duration::from_secs(3600);
    let timers = &rig.callbacks.timers;
    timers.add(due, Box::new(move || keep(&timer)));
    rig.callbacks.add_blocked(Box::new(move |_| keep(&blocked)));
    rig.callbacks
        .add_unblocked(Box::new(move || keep(&unblocked)));
    seen
}

#[test]
fn a_connection_that_has_ended_drops_what_will_not_run_any_more() {
    bounded(|| {
        let rig = Rig::new();
        let (idle, busy) = (rig.channel(), rig.channel());
        let mut seen = all_kinds(&rig);
        seen.push(consume(&rig, &idle, "c").1);
        let (_, of_busy) = consume(&rig, &busy, "c");
        rig.callbacks.drop_if_ended(&rig.link);
        assert!(!rig.look().unwrap());
        assert!(!seen.iter().any(is_dropped));
        // A channel that has events left keeps its callbacks until these are delivered.
        rig.say(&deliver(2, "c", 1, "last"));
        rig.end();
        rig.callbacks.drop_if_ended(&rig.link);
        assert!(seen.iter().all(is_dropped) && !is_dropped(&of_busy));
        assert!(rig.look().unwrap() && is_dropped(&of_busy));
        assert_eq!(rig.log.take(), ["clast"]);
    });
}

#[test]
fn the_report_of_an_end_drops_what_will_not_run_any_more() {
    bounded(|| {
        let rig = Rig::new();
        let handle = rig.channel();
        let mut seen = all_kinds(&rig);
        seen.push(consume(&rig, &handle, "c").1);
        rig.end();
        assert_eq!(rig.look().unwrap_err().reply_code(), Some(320));
        assert!(seen.iter().all(is_dropped));
    });
}

#[test]
fn a_slot_belongs_to_the_handle_that_took_it_last() {
    bounded(|| {
        let rig = Rig::new();
        let (first, second) = (rig.channel(), rig.channel());
        let callbacks = super::ConnectionCallbacks::new();
        let set = |slot, handle: &Arc<Handle>| callbacks.set_owner(slot, Arc::downgrade(handle));
        let is = |slot, handle: &Arc<Handle>| {
            let owner = callbacks.owner(slot);
            owner.is_some_and(|owner| Arc::ptr_eq(&owner, handle))
        };
        set(3, &first);
        assert!(
            is(3, &first)
                && [0, 1, 2, 4]
                    .iter()
                    .all(|slot| callbacks.owner(*slot).is_none())
        );
        set(1, &second);
        assert!(is(3, &first) && is(1, &second));
        set(3, &second);
        assert!(is(3, &second) && !is(3, &first));
        drop((first, second));
        assert!(callbacks.owner(3).is_none());
    });
}

/// Takes every lock that dispatch might hold, as the program's code may. A lock that is held never comes free.
fn take_all_locks(rig: &Rig, handle: &Handle) {
    drop(rig.link.lock());
    rig.link.wake_all();
    handle.callbacks.new_consumer_id();
    handle.callbacks.add_returned(Box::new(|_, _, _, _| Ok(())));
    handle.callbacks.add_cancelled(Box::new(|_, _| Ok(())));
    rig.callbacks.add_blocked(Box::new(|_| Ok(())));
    rig.callbacks.add_unblocked(Box::new(|| Ok(())));
    let due = Instant::now() + Duration::from_secs(3600);
    let timer = rig.callbacks.timers.add(due, Box::new(|| Ok(())));
    drop(rig.callbacks.timers.take(timer));
    drop(rig.callbacks.owner(handle.slot));
}

/// What a callback of the program captures: its drop is the program's code as well.
struct Probe {
    rig: Rig,
    handle: Arc<Handle>,
    name: &'static str,
}

impl Probe {
    fn run(&self) -> Result<()> {
        take_all_locks(&self.rig, &self.handle);
        self.rig.log.push(self.name);
        Ok(())
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        take_all_locks(&self.rig, &self.handle);
        self.rig.log.push(format!("{} dropped", self.name));
    }
}

#[test]
fn no_lock_is_held_while_the_programs_code_runs() {
    bounded(|| {
        let rig = Rig::new();
        let handle = rig.channel();
        let (same, its) = (rig.clone(), Arc::clone(&handle));
        let probe = move |name| Probe {
            rig: same.clone(),
            handle: Arc::clone(&its),
            name,
        };
        let mut shared = rig.link.lock();
        let channel = shared.session.channel(handle.slot).unwrap();
        channel.wants_returns = true;
        drop(shared);
        let message = probe("message");
        rig.consume(&handle, "c", move |_, _| message.run());
        // One that is removed while it runs, and one in its place.
        let (replaced, then) = (probe("replaced"), probe("then"));
        let (mut then, same) = (Some(then), rig.clone());
        let id = handle.callbacks.new_consumer_id() + 1;
        rig.consume(&handle, "d", move |handle, _| {
            same.remove_consumer(handle, "d", id);
            if let Some(then) = then.take() {
                same.consume(handle, "d", move |_, _| then.run());
            }
            replaced.run()
        });
        let (returned_probe, cancelled) = (probe("returned"), probe("cancelled"));
        let callbacks = &handle.callbacks;
        callbacks.add_returned(Box::new(move |_, _, _, _| returned_probe.run()));
        callbacks.add_cancelled(Box::new(move |_, _| cancelled.run()));
        let (timer, late) = (probe("timer"), probe("late"));
        let (blocked_probe, unblocked_probe) = (probe("blocked"), probe("unblocked"));
        let timers = &rig.callbacks.timers;
        timers.add(Instant::now(), Box::new(move || timer.run()));
        let due = Instant::now() + Duration::from_secs(3600);
        timers.add(due, Box::new(move || late.run()));
        rig.callbacks
            .add_blocked(Box::new(move |_| blocked_probe.run()));
        rig.callbacks
            .add_unblocked(Box::new(move || unblocked_probe.run()));
        drop(probe);

        let events = [
            blocked("memory"),
            unblocked(),
            deliver(1, "c", 1, "m"),
            deliver(1, "d", 2, "m"),
            deliver(1, "d", 3, "m"),
            returned(1, "m"),
            cancel(1, "c"),
        ];
        rig.say(&events.concat());
        assert!(rig.look().unwrap());
        let expected = [
            "timer",
            "timer dropped",
            "blocked",
            "unblocked",
            "message",
            "replaced",
            "replaced dropped",
            "then",
            "returned",
            "message dropped",
            "cancelled",
        ];
        assert_eq!(rig.log.take(), expected);
        rig.end();
        assert_eq!(rig.look().unwrap_err().reply_code(), Some(320));
        let mut dropped = rig.log.take();
        dropped.sort();
        let expected = [
            "blocked",
            "cancelled",
            "late",
            "returned",
            "then",
            "unblocked",
        ];
        assert_eq!(dropped, expected.map(|name| format!("{name} dropped")));
    });
}
