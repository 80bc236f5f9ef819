//! Who reads while a thread waits, and what is sent meanwhile.

use std::thread;
use std::time::Instant;

use super::super::exit::guard_thread;
use super::super::link::{Interest, Shared};
use super::super::reader::SLICE;
use super::link::{is_woken, link};
use super::*;
use crate::protocol::frame::HEARTBEAT;
use crate::Error;

fn never(_: &mut Shared) -> Option<()> {
    None
}

#[test]
fn a_caller_that_only_looks_in_leaves_reading_to_the_reader_thread() {
    let script = Script::default();
    let link = link(&script);
    assert!(link.reader_thread.set(thread::current()).is_ok());
    // Neither without time nor with less than a read may take.
    for time in [Duration::ZERO, SLICE / 2] {
        is_woken();
        let waited = link.wait(Interest::connection(), Some(Instant::now() + time), never);
        assert_eq!(waited, None);
        assert!(std::mem::take(&mut link.lock().hand_over));
        assert!(
            is_woken() || time > Duration::ZERO,
            "it is the reader thread here"
        );
        assert!(script.lock().room.is_empty(), "it does not read");
    }
    // Where another thread reads there is nothing to leave.
    let reader = link.lock().reader.take();
    for time in [Duration::ZERO, SLICE / 2] {
        link.wait(Interest::connection(), Some(Instant::now() + time), never);
        assert!(!link.lock().hand_over);
    }
    link.lock().reader = reader;
}

#[test]
fn a_thread_that_no_frame_may_wake_does_not_read() {
    let script = Script::default();
    let link = Arc::new(link(&script));
    let waiting = Arc::clone(&link);
    let waits = thread::spawn(move || {
        let mut looks = 0;
        let interest = Interest::send_queue(0);
        waiting.wait(interest, Some(Instant::now() + LONG), |_| {
            looks += 1;
            (looks == 3).then_some(())
        })
    });
    // Neither at first nor when it was woken.
    for _ in 0..2 {
        until(|| link.lock().is_waited_for());
        assert!(std::mem::take(&mut link.lock().hand_over));
        link.wake_all();
        until(|| waits.is_finished() || link.lock().hand_over);
    }
    assert_eq!(waits.join().unwrap(), Some(()));
    assert!(script.lock().room.is_empty());
}

#[test]
fn a_caller_reads_for_itself_first() {
    let script = Script::default();
    let link = link(&script);
    script.lock().reads = [Ok(HEARTBEAT.to_vec()), Ok(HEARTBEAT.to_vec())].into();
    let mut looks = 0;
    let waited = link.wait(Interest::connection(), Some(Instant::now() + LONG), |_| {
        looks += 1;
        (looks == 3).then_some(7)
    });
    assert_eq!((waited, looks), (Some(7), 3), "after each read");
    let shared = link.lock();
    assert_eq!(shared.turns, 2);
    assert!(!shared.hand_over && shared.reader.is_some());
    // For no longer than that at a time, which the stream is told once.
    assert_eq!(script.lock().read_timeouts, [SLICE]);
}

#[test]
fn a_caller_that_was_woken_reads_again() {
    let script = Script::default();
    let link = Arc::new(link(&script));
    let waiting = Arc::clone(&link);
    let before = link.lock().last_bytes;
    let waits = thread::spawn(move || {
        waiting.wait(
            Interest::connection(),
            Some(Instant::now() + LONG),
            |shared| (shared.last_bytes > before).then(Instant::now),
        )
    });
    // It has read in vain, and leaves reading to the reader thread, which is not there.
    until(|| link.lock().hand_over && link.lock().is_waited_for());
    assert_eq!(script.lock().room.len(), 1);
    script.lock().reads = [Ok(HEARTBEAT.to_vec())].into();
    let began = Instant::now();
    link.lock().wake_next_reader();
    let found = waits.join().unwrap();
    assert!(found.is_some_and(|at| at < began + LONG / 2));
}

#[test]
fn a_publisher_waits_for_room() {
    let script = Script::default();
    let link = link(&script);
    script.lock().is_stuck = true;
    let fill = |bytes: usize| {
        link.append_call(|out| {
            out.bytes.resize(bytes, 0);
            Ok(())
        })
    };
    fill(512 * 1024).unwrap();
    let limit = Duration::from_millis(30);
    let refused = link.gather(7, limit.into(), |_| Ok(())).unwrap_err();
    match refused {
        Error::Timeout {
            after,
            channel,
            channel_closed,
            ..
        } => {
            assert_eq!((after, channel, channel_closed), (limit, Some(7), false));
        }
        other => panic!("{other:?}"),
    }
    let began = Instant::now();
    link.wait_for_room(limit, 1);
    assert!(began.elapsed() >= limit);
    // When there is room it returns at once, whatever the limit.
    script.lock().is_stuck = false;
    link.write_gathered();
    link.wait_for_room(LONG, 1);
}

#[test]
fn a_caller_that_has_gathered_much_writes_it() {
    let script = Script::default();
    let link = link(&script);
    let gathered = link.gather(1, Duration::ZERO.into(), |out| {
        out.bytes.resize(48 * 1024, 7);
        Ok(3)
    });
    assert_eq!(gathered.unwrap(), 3);
    assert_eq!(script.written().len(), 48 * 1024);
}

#[test]
fn a_large_message_whose_write_fails_is_reported() {
    let script = Script::default();
    let link = link(&script);
    let write = |head: &'static [u8]| {
        link.write_message(1, Duration::ZERO.into(), b"body", 100, |out| {
            out.bytes.extend_from_slice(head);
            Ok((!head.is_empty()).then_some(5))
        })
    };
    assert_eq!(write(b"").unwrap(), None);
    assert!(script.written().is_empty());
    assert_eq!(write(b"head").unwrap(), Some(5));
    script.lock().takes = [Err(io::ErrorKind::BrokenPipe.into())].into();
    assert_eq!(write(b"head").unwrap(), Some(5), "it was taken over");
    assert!(link.lock().write_error.is_some() && script.lock().is_shut_down);
}

#[test]
fn a_large_message_is_not_waited_for_until_it_is_written() {
    let script = Script::default();
    let link = link(&script);
    script.lock().takes = [Ok(1)].into();
    script.lock().is_stuck = true;
    assert!(guard_thread());
    let sent = link.write_message(1, LONG.into(), b"body", 100, |out| {
        out.bytes.extend_from_slice(b"head");
        Ok(Some(()))
    });
    sent.unwrap();
    // A wait in vain would leave its mark here.
    assert!(link.outgoing.request_write().is_some());
}

/// Sends something when the thread ends, after what guards the thread has gone.
struct AtTheVeryEnd {
    send: Box<dyn FnMut()>,
}

impl Drop for AtTheVeryEnd {
    fn drop(&mut self) {
        (self.send)();
    }
}

thread_local! {
    static AT_THE_VERY_END: std::cell::RefCell<Option<AtTheVeryEnd>> = const { std::cell::RefCell::new(None) };
}

#[test]
fn what_the_very_end_of_a_thread_sends_is_written_at_once() {
    for is_large in [false, true] {
        let script = Script::default();
        let link = Arc::new(link(&script));
        let (sending, scripted) = (Arc::clone(&link), script.clone());
        let (report, reported) = std::sync::mpsc::channel();
        let run = move || {
            let send = move || {
                let write = |out: &mut crate::protocol::publish::Outbox| {
                    out.bytes.extend_from_slice(b"last");
                    Ok(Some(()))
                };
                let began = Instant::now();
                let sent = if is_large {
                    // The peer takes the rest only after a while.
                    scripted.lock().takes = [Ok(1), Err(io::ErrorKind::WouldBlock.into())].into();
                    sending.write_message(1, LONG.into(), b"body", 100, write)
                } else {
                    sending.gather(1, LONG.into(), write)
                };
                let _ = report.send((guard_thread(), sent.is_ok(), began.elapsed()));
            };
            // What is used first is dropped last.
            AT_THE_VERY_END.set(Some(AtTheVeryEnd {
                send: Box::new(send),
            }));
            assert!(guard_thread());
        };
        thread::spawn(run).join().unwrap();
        let (is_guarded, is_sent, took) = reported.recv().unwrap();
        assert!(
            is_sent && !is_guarded,
            "the order of destructors is another"
        );
        if is_large {
            // It waits for the writer thread, which is not there, as long as the end of a process may.
            assert!(took >= Duration::from_secs(2), "{took:?}");
        } else {
            assert_eq!(script.written(), b"last");
        }
    }
}
