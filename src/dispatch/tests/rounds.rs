//! What a call that runs callbacks waits for, what it delivers, and what it leaves for the next.

use std::io::Read;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::super::{in_callback, thread_number, CallbackResult, UNHANDLED};
use super::{blocked, bounded, cancel, close, deliver, frame, never, unblocked, Handle, Rig, LONG};
use crate::error::Result;
use crate::protocol::connection::HELD_BOUND;
use crate::protocol::method::Method;
use crate::stop::Stop;
use crate::Error;

#[test]
fn a_callback_returns_nothing_or_a_result() {
    bounded(|| {
        assert!(().into_result().is_ok());
        assert!(Ok(()).into_result().is_ok());
        assert!(Err(Error::other("refused")).into_result().is_err());
    });
}

#[test]
fn each_thread_has_a_number_of_its_own() {
    bounded(|| {
        let here = thread_number();
        let numbers = [(); 2].map(|()| thread::spawn(thread_number).join().unwrap());
        assert_eq!(thread_number(), here);
        assert!(here != 0 && !numbers.contains(&here) && numbers[0] != numbers[1]);
        assert!(!numbers.contains(&0));
    });
}

#[test]
fn a_thread_is_inside_of_a_callback_while_it_runs_one() {
    bounded(|| {
        let rig = Rig::new();
        let handle = rig.channel();
        let log = rig.log.clone();
        rig.consume(&handle, "c", move |_, body| {
            log.push(format!("{body} {}", in_callback()));
            match body {
                "panic" => resume_unwind(Box::new("as a callback may end")),
                "error" => Err(Error::other("refused")),
                _ => Ok(()),
            }
        });
        for (tag, body) in (1..).zip(["good", "error", "panic", "good"]) {
            assert!(!in_callback());
            rig.say(&deliver(1, "c", tag, body));
            let looked = catch_unwind(AssertUnwindSafe(|| rig.look()));
            assert_eq!(matches!(looked, Ok(Ok(true))), body == "good", "{body}");
            assert!(!in_callback() && rig.link.lock().dispatching.is_empty());
            assert!(!rig.enter(None).is_nested());
        }
        let log = rig.log.take();
        assert_eq!(log, ["good true", "error true", "panic true", "good true"]);
    });
}

/// A round that another thread begins or ends is nothing to this one.
#[test]
fn rounds_of_other_threads_are_not_nested() {
    bounded(|| {
        let rig = Rig::new();
        let here = rig.enter(None);
        thread::scope(|scope| {
            let there = scope.spawn(|| rig.enter(None).is_nested());
            assert!(!there.join().unwrap());
        });
        assert!(!here.is_nested());
        let nested = rig.enter(None);
        assert!(nested.is_nested() && in_callback());
        drop(nested);
        assert!(rig.enter(None).is_nested() && in_callback());
        let other = Rig::new();
        assert!(!other.enter(None).is_nested());
        drop(here);
        assert!(!rig.enter(None).is_nested() && !in_callback());
    });
}

#[test]
fn a_call_in_a_callback_waits_and_delivers_nothing() {
    bounded(|| {
        const TIME: Duration = Duration::from_millis(30);
        let rig = Rig::new();
        rig.log_blocked();
        let handle = rig.channel();
        let (same, looks) = (rig.clone(), AtomicUsize::new(0));
        rig.consume(&handle, "c", move |_, body| {
            same.log.push(body);
            if body != "first" {
                return Ok(());
            }
            same.add_timer(Duration::ZERO, "timer");
            same.say(&blocked("memory"));
            let start = Instant::now();
            let nested = same.enter(None);
            let look = |_: &mut _| {
                looks.fetch_add(1, Ordering::SeqCst);
                false
            };
            assert!(!nested.run(Some(TIME), look)?);
            assert!(start.elapsed() >= TIME);
            let looks = looks.load(Ordering::SeqCst);
            assert!(looks < 50, "{looks} looks");
            // What it waits for ends it.
            assert!(!nested.run(Some(LONG), |_| true)?);
            // Events of the program wait for the call around, and so does the report of a closure.
            same.say(&close(2));
            assert!(!nested.run(Some(Duration::ZERO), never)?);
            assert!(start.elapsed() < LONG);
            Ok(())
        });
        let other = rig.channel();
        rig.say(&[deliver(1, "c", 1, "first"), deliver(1, "c", 2, "second")].concat());
        assert!(rig.look().unwrap());
        assert_eq!(rig.log.take(), ["first", "second"]);
        assert!(rig.look().unwrap());
        assert_eq!(rig.log.take(), ["timer", "memory"]);
        assert_eq!(rig.look().unwrap_err().reply_code(), Some(404));
        drop(other);
    });
}

#[test]
fn a_call_in_a_callback_reports_the_connections_end() {
    bounded(|| {
        let rig = Rig::new();
        let round = rig.enter(None);
        rig.end();
        let start = Instant::now();
        let error = rig.enter(None).run(Some(LONG), never).unwrap_err();
        assert!(start.elapsed() < LONG);
        let is_reported = matches!(error, Error::ConnectionWrongState { .. });
        assert!(is_reported || error.reply_code() == Some(320), "{error:?}");
        drop(round);
    });
}

/// How something comes that ends a wait.
type Happens = fn(&Rig, &Handle);

const EVENTS: [(&str, Happens); 4] = [
    ("timer", |rig, _| rig.add_timer(Duration::ZERO, "timer")),
    ("memory", |rig, _| rig.say(&blocked("memory"))),
    ("unblocked", |rig, _| rig.say(&unblocked())),
    ("message", |rig, handle| {
        rig.say(&deliver(handle.number, "c", 1, "message"));
    }),
];

#[test]
fn a_look_returns_whether_anything_was_delivered() {
    bounded(|| {
        for (log, happens) in EVENTS {
            let rig = Rig::new();
            rig.log_blocked();
            let handle = rig.logging_channel();
            assert!(!rig.look().unwrap());
            happens(&rig, &handle);
            assert!(rig.look().unwrap(), "{log}");
            assert_eq!(rig.log.take(), [log]);
            assert!(!rig.look().unwrap());
        }
    });
}

#[test]
fn what_is_delivered_puts_off_the_report_of_an_end() {
    bounded(|| {
        for (log, happens) in EVENTS {
            let rig = Rig::new();
            rig.log_blocked();
            let (handle, _other) = (rig.logging_channel(), rig.channel());
            happens(&rig, &handle);
            rig.say(&close(2));
            assert!(rig.look().unwrap(), "{log}");
            assert_eq!(rig.log.take(), [log]);
            assert_eq!(rig.look().unwrap_err().reply_code(), Some(404), "{log}");
            assert!(!rig.look().unwrap(), "reported twice");

            let rig = Rig::new();
            rig.log_blocked();
            let handle = rig.logging_channel();
            happens(&rig, &handle);
            rig.end();
            assert!(rig.look().unwrap(), "{log}");
            assert_eq!(rig.log.take(), [log]);
            assert_eq!(rig.look().unwrap_err().reply_code(), Some(320), "{log}");
            let again = rig.look().unwrap_err();
            assert!(matches!(again, Error::ConnectionWrongState { .. }));
        }
    });
}

/// A call that found the connection open returns what ended it, whichever call has reported that.
#[test]
fn a_call_that_waited_returns_what_ended_the_connection() {
    bounded(|| {
        let rig = Rig::new();
        let waiting = rig.enter(None);
        rig.end();
        rig.link.lock().session.end_reported = true;
        let error = waiting.run(None, never).unwrap_err();
        assert_eq!(error.reply_code(), Some(320));
    });
}

/// Makes something happen while another thread waits, and returns how its wait ended. The wait must end long before its time.
fn wait_for(rig: &Rig, consuming: Option<&Handle>, happens: impl FnOnce()) -> Result<bool> {
    let (waits, is_waiting) = mpsc::channel();
    thread::scope(|scope| {
        let waiting = scope.spawn(move || {
            let round = rig.enter(consuming.and_then(Handle::consuming));
            let start = Instant::now();
            let result = round.run(Some(LONG), |_| {
                let _ = waits.send(());
                false
            });
            assert!(start.elapsed() < LONG, "nothing ended the wait");
            result
        });
        is_waiting.recv_timeout(LONG).unwrap();
        happens();
        rig.link.wake_all();
        waiting.join().unwrap()
    })
}

#[test]
fn a_wait_ends_at_the_first_event() {
    bounded(|| {
        for (log, happens) in EVENTS {
            let rig = Rig::new();
            rig.log_blocked();
            let handle = rig.logging_channel();
            assert!(wait_for(&rig, None, || happens(&rig, &handle)).unwrap());
            assert_eq!(rig.log.take(), [log]);
        }
        // A timer that is not due yet.
        let rig = Rig::new();
        rig.add_timer(Duration::from_secs(3600), "never");
        let soon = || rig.add_timer(Duration::from_millis(20), "soon");
        assert!(wait_for(&rig, None, soon).unwrap());
        assert_eq!(rig.log.take(), ["soon"]);
    });
}

#[test]
fn a_timer_for_later_ends_no_wait() {
    bounded(|| {
        let rig = Rig::new();
        rig.log_blocked();
        let (looks, looked) = mpsc::channel();
        thread::scope(|scope| {
            let (rig, looked) = (&rig, looked);
            scope.spawn(move || {
                looked.recv_timeout(LONG).unwrap();
                rig.add_timer(Duration::from_secs(3600), "never");
                // The wait has seen it, and goes on.
                looked.recv_timeout(LONG).unwrap();
                rig.say(&blocked("memory"));
                rig.link.wake_all();
            });
            let delivered = rig.enter(None).run(None, |_| {
                let _ = looks.send(());
                false
            });
            assert!(delivered.unwrap());
        });
        assert_eq!(rig.log.take(), ["memory"]);
    });
}

#[test]
fn a_wait_ends_at_a_closure_an_end_and_a_stop() {
    bounded(|| {
        let rig = Rig::new();
        let handle = rig.channel();
        let error = wait_for(&rig, None, || rig.say(&close(1))).unwrap_err();
        assert_eq!(error.reply_code(), Some(404));

        let error = wait_for(&rig, None, || rig.end()).unwrap_err();
        assert_eq!(error.reply_code(), Some(320));

        let rig = Rig::new();
        let stop = Stop::new();
        assert!(rig.callbacks.stop.set(stop.clone()).is_ok());
        let stopped = wait_for(&rig, None, || {
            stop.stop();
        })
        .unwrap_err();
        let is_of_events = matches!(
            stopped,
            Error::Stopped {
                waiting_for: "events",
                ..
            }
        );
        assert!(is_of_events, "{stopped:?}");
        drop(handle);
    });
}

/// A call that consumes on a channel returns at a stop, and asks the channel.
#[test]
fn consuming_ends_at_a_stop_of_the_channel_or_the_connection() {
    bounded(|| {
        for of_channel in [true, false] {
            let rig = Rig::new();
            let (handle, stop) = (rig.logging_channel(), Stop::new());
            let place = match of_channel {
                true => &handle.stop,
                false => &rig.callbacks.stop,
            };
            assert!(place.set(stop.clone()).is_ok());
            let delivered = wait_for(&rig, Some(&handle), || {
                stop.stop();
            })
            .unwrap();
            assert!(!delivered);
            // Nothing is delivered any more, whatever comes; to a call on the connection the channel's stop is nothing.
            rig.say(&deliver(1, "c", 1, "late"));
            let round = rig.enter(handle.consuming());
            assert!(!round.run(Some(LONG), never).unwrap());
            drop(round);
            assert!(rig.log.take().is_empty());
            match rig.look() {
                Ok(delivered) => assert!(of_channel && delivered),
                Err(error) => assert!(!of_channel && matches!(error, Error::Stopped { .. })),
            }
        }
    });
}

#[test]
fn a_stop_ends_a_turn_after_the_message_in_hand_and_no_call_inside_of_it() {
    bounded(|| {
        const TIME: Duration = Duration::from_millis(20);
        let rig = Rig::new();
        let handle = rig.channel();
        let (stop, same) = (Stop::new(), rig.clone());
        assert!(rig.callbacks.stop.set(stop.clone()).is_ok());
        rig.consume(&handle, "c", move |_, body| {
            same.log.push(body);
            stop.stop();
            let start = Instant::now();
            assert!(!same.enter(None).run(Some(TIME), never)?);
            assert!(start.elapsed() >= TIME);
            Ok(())
        });
        let second = rig.logging_channel();
        let messages = [
            deliver(1, "c", 1, "1"),
            deliver(1, "c", 2, "2"),
            deliver(2, "c", 1, "3"),
        ];
        rig.say(&messages.concat());
        assert!(rig.look().unwrap());
        assert_eq!(rig.log.take(), ["1"]);
        drop(second);
    });
}

/// It looks when it begins, when something changed, and when its time is up: a wait that never sleeps does so all the time.
#[test]
fn a_wait_without_events_lasts_and_looks_rarely() {
    bounded(|| {
        const TIME: Duration = Duration::from_millis(100);
        let lasts = |rig: &Rig, happens: fn(&Rig)| {
            let (begun, has_begun) = mpsc::channel();
            let looks = AtomicUsize::new(0);
            thread::scope(|scope| {
                let other = scope.spawn(move || {
                    has_begun.recv_timeout(LONG).unwrap();
                    happens(rig);
                    rig.link.wake_all();
                });
                let start = Instant::now();
                let round = rig.enter(None);
                let delivered = round.run(Some(TIME), |_| {
                    let _ = begun.send(());
                    looks.fetch_add(1, Ordering::SeqCst);
                    false
                });
                assert!(!delivered.unwrap());
                assert!(start.elapsed() >= TIME);
                other.join().unwrap();
            });
            let looks = looks.into_inner();
            assert!(looks < 50, "{looks} looks");
        };
        let rig = Rig::new();
        lasts(&rig, |_| ());
        // A timer that is not due, and one that another thread sets meanwhile.
        lasts(&rig, |rig| {
            rig.add_timer(Duration::from_secs(3600), "never")
        });
        lasts(&rig, |rig| {
            rig.add_timer(Duration::from_secs(1800), "never")
        });
        let _handle = rig.logging_channel();
        lasts(&rig, |_| ());
    });
}

/// The end of the connection is the channel's to report there.
#[test]
fn a_call_that_consumes_leaves_the_end_to_the_channel() {
    bounded(|| {
        const TIME: Duration = Duration::from_millis(30);
        let rig = Rig::new();
        let handle = rig.logging_channel();
        rig.say(&deliver(1, "c", 1, "last"));
        rig.end();
        let round = rig.enter(handle.consuming());
        let mut shared = rig.link.lock();
        let channel = shared.session.channel(handle.slot).unwrap();
        channel.threads.registering = thread_number();
        drop(shared);
        assert!(round.run(None, never).unwrap());
        assert_eq!(rig.log.take(), ["last"]);
        let start = Instant::now();
        assert!(!round.run(Some(TIME), never).unwrap());
        assert!(start.elapsed() >= TIME);
        assert!(!rig.link.lock().session.end_reported);
        drop(round);
        assert_eq!(rig.look().unwrap_err().reply_code(), Some(320));
    });
}

#[test]
fn what_comes_meanwhile_waits_for_the_next_call() {
    bounded(|| {
        let rig = Rig::new();
        rig.log_blocked();
        let (first, second) = (rig.channel(), rig.logging_channel());
        let same = rig.clone();
        rig.callbacks.add_blocked(Box::new(move |reason| {
            if reason == "memory" {
                same.say(&[blocked("disk"), unblocked()].concat());
                same.add_timer(Duration::ZERO, "timer");
            }
            Ok(())
        }));
        let (same, mut next) = (rig.clone(), 3);
        rig.consume(&first, "c", move |_, body| {
            same.log.push(body);
            if body == "1" {
                same.say(&deliver(1, "c", next, "3"));
                same.say(&deliver(2, "c", 2, "5"));
                next += 1;
            }
            Ok(())
        });
        let waiting = [
            blocked("memory"),
            deliver(1, "c", 1, "1"),
            deliver(1, "c", 2, "2"),
            deliver(2, "c", 1, "4"),
        ];
        rig.say(&waiting.concat());
        assert!(rig.look().unwrap());
        // The last channel goes on with what is there, see below.
        assert_eq!(rig.log.take(), ["memory", "1", "2", "4", "5"]);
        assert!(rig.look().unwrap());
        assert_eq!(rig.log.take(), ["timer", "disk", "unblocked", "3"]);
        assert!(!rig.look().unwrap());
        drop(second);
    });
}

/// What came for another channel while the last one had its turn.
#[test]
fn a_call_ends_when_all_that_waited_is_delivered() {
    bounded(|| {
        let rig = Rig::new();
        let (first, second) = (rig.channel(), rig.logging_channel());
        let same = rig.clone();
        rig.consume(&first, "c", move |_, body| {
            same.log.push(body);
            same.say(&deliver(2, "c", 1, "2"));
            Ok(())
        });
        rig.say(&deliver(1, "c", 1, "1"));
        assert!(rig.look().unwrap());
        assert_eq!(rig.log.take(), ["1"]);
        assert!(rig.look().unwrap());
        assert_eq!(rig.log.take(), ["2"]);
        drop(second);
    });
}

#[test]
fn the_last_channel_goes_on_with_what_has_been_read() {
    bounded(|| {
        const MANY: usize = 300;
        let bodies: Vec<String> = (1..=MANY).map(|n| n.to_string()).collect();
        let read = (2..).zip(&bodies[1..]);
        let read: Vec<Vec<u8>> = read.map(|(tag, body)| deliver(1, "c", tag, body)).collect();
        let rig = Rig::with_unhandled(read.concat());
        let handle = rig.logging_channel();
        rig.say(&deliver(1, "c", 1, "1"));
        assert!(rig.look().unwrap());
        assert_eq!(rig.log.take(), bodies[..1 + UNHANDLED]);
        assert!(rig.look().unwrap());
        assert_eq!(rig.log.take(), bodies[1 + UNHANDLED..]);
        drop(handle);
    });
}

#[test]
fn no_channel_but_the_last_goes_on_with_what_has_been_read() {
    bounded(|| {
        let read = [deliver(2, "c", 2, "4"), deliver(1, "c", 2, "2")];
        let rig = Rig::with_unhandled(read.concat());
        let (first, second) = (rig.logging_channel(), rig.logging_channel());
        rig.say(&[deliver(1, "c", 1, "1"), deliver(2, "c", 1, "3")].concat());
        assert!(rig.look().unwrap());
        assert_eq!(rig.log.take(), ["1", "3", "4"]);
        assert!(rig.look().unwrap());
        assert_eq!(rig.log.take(), ["2"]);
        drop((first, second));
    });
}

/// Of what comes to the last channel meanwhile, no more is delivered than of what had only been read.
#[test]
fn the_last_channel_goes_on_with_a_bound() {
    bounded(|| {
        let rig = Rig::new();
        let (handle, same) = (rig.channel(), rig.clone());
        let last = rig.logging_channel();
        let more = (2..UNHANDLED as u64 + 10).map(|tag| deliver(last.number, "c", tag, "more"));
        let more: Vec<u8> = more.flatten().collect();
        rig.consume(&handle, "c", move |_, _| {
            same.say(&more);
            Ok(())
        });
        let waits = [
            deliver(handle.number, "c", 1, "1"),
            deliver(last.number, "c", 1, "2"),
        ];
        rig.say(&waits.concat());
        assert!(rig.look().unwrap());
        assert_eq!(rig.log.take().len(), 1 + UNHANDLED);
    });
}

#[test]
fn what_waited_for_a_handle_that_is_gone_is_dropped() {
    bounded(|| {
        let rig = Rig::new();
        let (first, second) = (rig.logging_channel(), rig.logging_channel());
        let messages = [
            deliver(1, "c", 1, "1"),
            deliver(1, "c", 2, "2"),
            deliver(2, "c", 1, "3"),
        ];
        rig.say(&messages.concat());
        drop(first);
        assert!(rig.look().unwrap());
        assert_eq!(rig.log.take(), ["3"]);
        drop(second);
    });
}

/// What a callback leaves behind by its error is another thread's at once.
#[test]
fn the_end_of_a_turn_wakes_those_that_wait_for_it() {
    bounded(|| {
        let rig = Rig::new();
        let handle = rig.channel();
        let (waits, is_waiting) = mpsc::channel();
        let (runs, is_running) = mpsc::channel();
        let log = rig.log.clone();
        rig.consume(&handle, "c", move |_, body| {
            log.push(body);
            match body {
                "1" => {
                    runs.send(()).unwrap();
                    // It looks, reads for a moment, looks again, and sleeps then.
                    is_waiting.recv_timeout(LONG).unwrap();
                    is_waiting.recv_timeout(LONG).unwrap();
                    Err(Error::other("refused"))
                }
                _ => Ok(()),
            }
        });
        rig.say(&[deliver(1, "c", 1, "1"), deliver(1, "c", 2, "2")].concat());
        thread::scope(|scope| {
            let first = scope.spawn(|| rig.look().unwrap_err().to_string());
            is_running.recv_timeout(LONG).unwrap();
            let start = Instant::now();
            let round = rig.enter(None);
            let delivered = round.run(Some(LONG), |_| {
                let _ = waits.send(());
                false
            });
            assert!(delivered.unwrap());
            assert!(start.elapsed() < LONG, "nothing woke it");
            assert_eq!(first.join().unwrap(), "refused");
        });
        assert_eq!(rig.log.take(), ["1", "2"]);
    });
}

/// The report of a closure waits until the `close-ok` is on the wire, and is made once.
#[test]
fn a_closure_is_reported_behind_what_came_before_it() {
    bounded(|| {
        let rig = Rig::new();
        let (first, second) = (rig.logging_channel(), rig.logging_channel());
        rig.say(&[deliver(1, "c", 1, "last"), close(1), close(2)].concat());
        assert!(rig.look().unwrap());
        assert_eq!(rig.log.take(), ["last"]);
        for channel in [1, 2] {
            match rig.look() {
                Err(Error::ChannelClosedByBroker { channel: which, .. }) => {
                    assert_eq!(which, channel)
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(!rig.look().unwrap());
        drop((first, second));
    });
}

#[test]
fn the_brokers_cancel_is_delivered_behind_the_messages_before_it() {
    bounded(|| {
        let rig = Rig::new();
        let handle = rig.logging_channel();
        let log = rig.log.clone();
        handle.callbacks.add_cancelled(Box::new(move |_, tag| {
            log.push(format!("no more for {tag}"));
            Ok(())
        }));
        rig.say(&deliver(1, "c", 1, "first"));
        assert!(rig.look().unwrap());
        rig.say(&[deliver(1, "c", 2, "last"), cancel(1, "c")].concat());
        assert!(rig.look().unwrap());
        assert_eq!(rig.log.take(), ["first", "last", "no more for c"]);
        let mut shared = rig.link.lock();
        let channel = shared.session.channel(handle.slot).unwrap();
        assert!(channel.consumers.registered.is_empty());
        assert_eq!(channel.consumers.cancelled_by_broker.as_deref(), Some("c"));
        assert_eq!(channel.consumers.last_cancelled("c").unwrap().held, Some(1));
    });
}

/// It is lost if the program ends its process over that report.
#[test]
fn a_closure_is_reported_when_its_close_ok_is_on_the_wire() {
    bounded(|| {
        let rig = Rig::with_unhandled(close(1));
        let _handle = rig.channel();
        assert_eq!(rig.look().unwrap_err().reply_code(), Some(404));
        let close_ok = frame(1, &Method::ChannelCloseOk {});
        let mut read = vec![0; close_ok.len()];
        rig.broker.set_read_timeout(Some(LONG)).unwrap();
        (&*rig.broker).read_exact(&mut read).unwrap();
        assert_eq!(read, close_ok);
    });
}

/// Reading pauses while too much waits for the program, which takes it off in calls like these.
#[test]
fn what_is_taken_off_lets_reading_go_on() {
    bounded(|| {
        let goes_on = |happens: Happens, and_more_waits: bool| {
            let rig = Rig::new();
            rig.log_blocked();
            let handle = rig.logging_channel();
            happens(&rig, &handle);
            let mut shared = rig.link.lock();
            if and_more_waits {
                shared.session.undelivered += HELD_BOUND;
            }
            shared.pause();
            shared.hand_over = false;
            drop(shared);
            assert!(rig.look().unwrap());
            rig.link.lock().hand_over
        };
        let blocked: Happens = |rig, _| rig.say(&blocked("memory"));
        let message: Happens = |rig, handle| rig.say(&deliver(handle.number, "c", 1, "message"));
        assert!(goes_on(blocked, false) && !goes_on(blocked, true));
        // At the end of a turn the reader thread looks again in any case, since no thread may be at work then.
        assert!(goes_on(message, false) && goes_on(message, true));

        // While the turn lasts, it is what has been taken off that counts.
        let rig = Rig::new();
        let handle = rig.channel();
        let same = rig.clone();
        rig.consume(&handle, "c", move |_, body| {
            same.log
                .push(format!("{body} {}", same.link.lock().hand_over));
            Ok(())
        });
        for (number, body, and_more_waits) in [(1, "few", false), (2, "many", true)] {
            rig.say(&deliver(1, "c", number, body));
            let mut shared = rig.link.lock();
            shared.session.undelivered += if and_more_waits { HELD_BOUND } else { 0 };
            shared.pause();
            shared.hand_over = false;
            drop(shared);
            assert!(rig.look().unwrap());
        }
        assert_eq!(rig.log.take(), ["few true", "many false"]);
    });
}
