//! What the writer thread is woken for, what it does, and when it ends.

use std::mem::discriminant;
use std::time::Instant;

use super::super::writer::{Outgoing, Refused, Work};
use super::writer::*;
use super::*;
use crate::protocol::frame::HEARTBEAT;

#[test]
fn the_writer_thread_is_woken_when_there_is_something_to_do() {
    type Way = fn(&Outgoing);
    let ways: [Way; 4] = [
        |outgoing| assert!(!gathered(outgoing, 1, b"x")),
        |outgoing| assert!(outgoing.append_replies(b"x")),
        Outgoing::finish,
        Outgoing::kill,
    ];
    for way in ways {
        let outgoing = Arc::new(outgoing(&Script::default()));
        let sleeping = Arc::clone(&outgoing);
        let woken = elsewhere(move || sleeping.wait_for_work(None, None));
        until(|| outgoing.sleepers().0);
        // What its caller goes on to write is no reason.
        outgoing.append_call(|_| Ok(())).unwrap();
        assert!(outgoing.append_replies(b""));
        assert!(outgoing.sleepers().0);
        way(&outgoing);
        ends(&woken);
        assert!(!outgoing.sleepers().0);
    }
}

#[test]
fn what_is_in_a_hurry_wakes_the_writer_thread() {
    let outgoing = Arc::new(outgoing(&Script::default()));
    let sleeping = Arc::clone(&outgoing);
    let woken = elsewhere(move || sleeping.wait_for_work(None, None));
    until(|| outgoing.sleepers().0);
    outgoing
        .append_call(|out| {
            out.bytes.push(b'x');
            Ok(())
        })
        .unwrap();
    assert!(outgoing.sleepers().0);
    assert_eq!(outgoing.request_write(), Some(1));
    ends(&woken);
    assert!(matches!(work(&outgoing), Work::Write));
}

#[test]
fn the_writer_thread_goes_on_with_what_others_left() {
    let script = Script::default();
    let outgoing = Arc::new(outgoing(&script));
    let first = HeldWrite::begin(&script, &outgoing);
    let sleeping = Arc::clone(&outgoing);
    let woken = elsewhere(move || sleeping.wait_for_work(None, None));
    until(|| outgoing.sleepers().0);
    script.lock().is_stuck = true;
    first.end();
    ends(&woken);
    assert!(matches!(work(&outgoing), Work::Write));
}

#[test]
fn without_traffic_a_heartbeat_is_sent() {
    let script = Script::default();
    let outgoing = outgoing(&script);
    let late = Some(Instant::now());
    assert!(matches!(
        outgoing.wait_for_work(Some(LONG), late),
        Work::Look
    ));
    assert_eq!(outgoing.unsent(), 0);
    assert!(matches!(
        outgoing.wait_for_work(Some(NOT_AT_ALL), late),
        Work::Look
    ));
    assert_eq!(
        (outgoing.unsent(), outgoing.appended()),
        (HEARTBEAT.len(), 8)
    );
    // One is enough, and while anything else waits to be written none is needed.
    outgoing.wait_for_work(Some(NOT_AT_ALL), late);
    write_all(&outgoing);
    assert_eq!(script.written(), HEARTBEAT);
    assert!(outgoing.wait_until_written(8, Instant::now()));
    script.lock().is_stuck = true;
    gathered(&outgoing, 1, b"stuck");
    outgoing.write_gathered().unwrap();
    outgoing.wait_for_work(Some(NOT_AT_ALL), late);
    assert_eq!(outgoing.appended(), 13);
}

#[test]
fn a_write_that_others_wait_for_is_urgent() {
    let script = Script::default();
    let outgoing = Arc::new(outgoing(&script));
    let first = HeldWrite::begin(&script, &outgoing);
    // One thread is writing, and another goes on to wait for the broker.
    gathered(&outgoing, 1, b"second");
    outgoing.write_gathered().unwrap();
    assert!(matches!(work(&outgoing), Work::Look), "somebody is writing");
    outgoing.wait_for_write(Duration::from_millis(1));
    let sleeping = Arc::clone(&outgoing);
    let woken = elsewhere(move || sleeping.wait_for_work(None, None));
    let waiting = Arc::clone(&outgoing);
    let written = elsewhere(move || waiting.wait_for_write(LONG));
    until(|| outgoing.sleepers() == (true, 1));
    assert!(written.try_recv().is_err(), "it is not written yet");
    first.end();
    ends(&written);
    ends(&woken);
    assert!(matches!(work(&outgoing), Work::Write), "at once");
    outgoing.write_rest().unwrap();
    assert_eq!(script.written(), b"first second");
    assert!(matches!(work(&outgoing), Work::Look));
    // What was urgent is written, and what is gathered now may wait: at least once before a moment has passed.
    let waits = (0..1000).any(|_| {
        outgoing.write_rest().unwrap();
        gathered(&outgoing, 1, b"third");
        matches!(work(&outgoing), Work::Look)
    });
    assert!(waits);
}

#[test]
fn at_the_end_the_rest_is_written_and_then_no_more() {
    let script = Script::default();
    let outgoing = outgoing(&script);
    gathered(&outgoing, 1, b"last");
    outgoing.finish();
    assert!(outgoing.is_finishing());
    assert!(matches!(work(&outgoing), Work::Write));
    outgoing.write_rest().unwrap();
    assert!(matches!(work(&outgoing), Work::End));
    assert_eq!(
        (script.written().as_slice(), outgoing.unsent()),
        (b"last".as_slice(), 0)
    );
    assert!(matches!(gather(&outgoing, 1, b"x"), Err(Refused::Ended)));
}

#[test]
fn at_the_end_a_peer_that_takes_nothing_is_given_two_seconds() {
    let script = Script::default();
    let outgoing = outgoing(&script);
    script.lock().is_stuck = true;
    gathered(&outgoing, 1, b"last");
    outgoing.write_gathered().unwrap();
    let began = Instant::now();
    outgoing.finish();
    while !matches!(work(&outgoing), Work::End) {
        outgoing.write_rest().unwrap();
        // A second call does not begin the time anew.
        outgoing.finish();
        assert!(began.elapsed() < LONG, "it does not end");
    }
    assert!(began.elapsed() >= Duration::from_secs(2));
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(outgoing.unsent(), 4);
}

#[test]
fn a_thread_in_a_hurry_has_it_written_at_once_unless_that_was_in_vain() {
    let script = Script::default();
    let outgoing = outgoing(&script);
    assert_eq!(outgoing.request_write(), None);
    gathered(&outgoing, 1, b"abc");
    outgoing.write_gathered().unwrap();
    assert_eq!(outgoing.request_write(), None, "all is written");
    gathered(&outgoing, 1, b"def");
    assert_eq!(outgoing.request_write(), Some(6));
    assert!(matches!(work(&outgoing), Work::Write));
    script.lock().takes = [Ok(1), Err(io::ErrorKind::WouldBlock.into())].into();
    script.lock().is_stuck = true;
    outgoing.write_rest().unwrap();
    assert_eq!(outgoing.request_write(), Some(6));
    assert!(!outgoing.wait_until_written(6, Instant::now()));
    assert_eq!(outgoing.request_write(), None, "it was waited for in vain");
    script.lock().takes = [Ok(1), Err(io::ErrorKind::WouldBlock.into())].into();
    outgoing.write_rest().unwrap();
    assert_eq!(
        outgoing.request_write(),
        Some(6),
        "the peer takes something again"
    );
    outgoing.kill();
    assert_eq!(outgoing.request_write(), None);
}

#[test]
fn a_thread_that_waits_until_all_is_written_is_woken() {
    let script = Script::default();
    let outgoing = Arc::new(outgoing(&script));
    gathered(&outgoing, 1, b"abc");
    let waiting = Arc::clone(&outgoing);
    let written = elsewhere(move || waiting.wait_until_written(3, Instant::now() + LONG));
    until(|| outgoing.sleepers().1 == 1);
    outgoing.write_gathered().unwrap();
    assert!(ends(&written));
    gathered(&outgoing, 1, b"abc");
    let waiting = Arc::clone(&outgoing);
    let written = elsewhere(move || waiting.wait_until_written(6, Instant::now() + LONG));
    until(|| outgoing.sleepers().1 == 1);
    outgoing.kill();
    assert!(!ends(&written));
    assert_eq!(outgoing.sleepers().1, 0);
    // A failed write ends the wait, too.
    let script = Script::default();
    let outgoing = Arc::new(self::outgoing(&script));
    let (began, waiting) = (outgoing.last_write(), Arc::clone(&outgoing));
    let written = elsewhere(move || waiting.wait_until_written(1, Instant::now() + LONG));
    until(|| outgoing.sleepers().1 == 1);
    script.lock().takes = [Err(io::ErrorKind::ConnectionReset.into())].into();
    gathered(&outgoing, 1, b"abc");
    outgoing.write_gathered().unwrap_err();
    assert!(!ends(&written));
    assert!(outgoing.last_write() > began);
}

#[test]
fn a_large_message_takes_what_was_urgent_along() {
    let waits = || {
        let script = Script::default();
        let outgoing = Arc::new(outgoing(&script));
        let first = HeldWrite::begin(&script, &outgoing);
        gathered(&outgoing, 1, b"urgent ");
        outgoing.write_gathered().unwrap();
        first.end();
        let written = write_message(&outgoing, b"body", 10, b"head ");
        assert!(matches!(written, Ok(Ok(()))));
        assert!(script.written().starts_with(b"first urgent head "));
        // What is gathered now may wait.
        gathered(&outgoing, 1, b"second");
        matches!(work(&outgoing), Work::Look)
    };
    // At least once before a moment has passed.
    assert!((0..100).any(|_| waits()));
}

#[test]
fn the_writer_thread_is_woken_when_a_write_of_others_is_over() {
    // What it is left to do then: what was gathered meanwhile, or the end.
    type Way = fn(&Outgoing);
    let ways: [(Way, Work); 2] = [
        (
            |outgoing| assert!(!gathered(outgoing, 1, b"second")),
            Work::Write,
        ),
        (Outgoing::finish, Work::End),
    ];
    for (way, then) in ways {
        let script = Script::default();
        let outgoing = Arc::new(outgoing(&script));
        let first = HeldWrite::begin(&script, &outgoing);
        way(&outgoing);
        assert!(
            matches!(work(&outgoing), Work::Look),
            "another thread is writing"
        );
        let sleeping = Arc::clone(&outgoing);
        let woken = elsewhere(move || sleeping.wait_for_work(None, None));
        until(|| outgoing.sleepers().0);
        first.end();
        assert!(
            !outgoing.sleepers().0,
            "it was woken before that write returned"
        );
        ends(&woken);
        until(|| discriminant(&work(&outgoing)) == discriminant(&then));
    }
}

#[test]
fn after_a_look_the_writer_thread_sleeps_no_more() {
    let outgoing = outgoing(&Script::default());
    assert!(matches!(work(&outgoing), Work::Look));
    assert!(!outgoing.sleepers().0);
}
