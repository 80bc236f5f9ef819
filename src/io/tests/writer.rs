//! What is gathered, who writes it and when, and what is left when the peer does not take it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use super::super::fork::Process;
use super::super::write_half::WRITE_SLICE;
use super::super::writer::{
    Gathered, Outgoing, Patience, Refused, Work, WriteResult, DIRECT_BODY, HIGH_WATER,
};
use super::*;
use crate::error::Error;
use crate::protocol::frame::FRAME_END;
use crate::protocol::publish::Outbox;

pub(super) const NOT_AT_ALL: Duration = Duration::ZERO;

pub(super) fn outgoing(script: &Script) -> Outgoing {
    Outgoing::new(script.transport(), Process::current()).unwrap()
}

/// Whether so much has gathered that the caller must write it.
pub(super) fn gather(outgoing: &Outgoing, channel: u16, bytes: &[u8]) -> Result<bool, Refused> {
    let ((), gathered) = outgoing.gather(channel, NOT_AT_ALL.into(), |out| {
        out.bytes.extend_from_slice(bytes);
        Ok(())
    })?;
    Ok(matches!(gathered, Gathered::Much))
}

pub(super) fn gathered(outgoing: &Outgoing, channel: u16, bytes: &[u8]) -> bool {
    match gather(outgoing, channel, bytes) {
        Ok(is_much) => is_much,
        Err(_) => panic!("refused"),
    }
}

/// Bytes of which no two neighbours are alike.
pub(super) fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n % 251) as u8).collect()
}

/// A body in frames, as specification 2.3.5.3 has them.
pub(super) fn framed(channel: u8, body: &[u8], chunk: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in body.chunks(chunk) {
        bytes.extend_from_slice(&[3, 0, channel]);
        bytes.extend_from_slice(&(part.len() as u32).to_be_bytes());
        bytes.extend_from_slice(part);
        bytes.push(FRAME_END);
    }
    bytes
}

pub(super) fn write_message(
    outgoing: &Outgoing,
    body: &[u8],
    chunk: usize,
    head: &[u8],
) -> Result<WriteResult, Refused> {
    let written = outgoing.write_message(NOT_AT_ALL.into(), 5, body, chunk, |out| {
        out.bytes.extend_from_slice(head);
        Ok((!head.is_empty()).then_some(()))
    })?;
    Ok(written.map_or(Ok(()), |((), written)| written))
}

/// The writer thread's work now, without waiting for what others may do.
pub(super) fn work(outgoing: &Outgoing) -> Work {
    outgoing.wait_for_work(None, Some(Instant::now()))
}

/// Lets the writer thread's work be done until there is none.
pub(super) fn write_all(outgoing: &Outgoing) {
    while outgoing.unsent() > 0 {
        if let Work::Write = work(outgoing) {
            outgoing.write_rest().unwrap();
        }
    }
}

/// A write by another thread, which is held until `end`.
pub(super) struct HeldWrite {
    release: mpsc::Sender<()>,
    written: mpsc::Receiver<bool>,
}

impl HeldWrite {
    /// Gathers something and begins to write it.
    pub(super) fn begin(script: &Script, outgoing: &Arc<Outgoing>) -> Self {
        let (release, began) = hold_writes(script);
        gathered(outgoing, 1, b"first ");
        let writes = Arc::clone(outgoing);
        let written = elsewhere(move || writes.write_gathered().is_ok());
        ends(&began);
        HeldWrite { release, written }
    }

    pub(super) fn end(self) {
        drop(self.release);
        assert!(ends(&self.written));
    }
}

// ---- what goes into one system call

#[test]
fn what_was_gathered_goes_out_at_once_in_order_and_is_flushed() {
    let script = Script::default();
    let outgoing = outgoing(&script);
    assert_eq!(outgoing.sleepers(), (false, 0));
    assert_eq!(script.lock().write_timeouts, [WRITE_SLICE]);
    assert!(!gathered(&outgoing, 1, b"one "));
    outgoing
        .append_call(|out| {
            out.bytes.extend_from_slice(b"two ");
            Ok(())
        })
        .unwrap();
    assert!(outgoing.append_replies(b"three"));
    assert_eq!((outgoing.appended(), outgoing.unsent()), (13, 13));
    outgoing.write_gathered().unwrap();
    assert_eq!(script.written(), b"one two three");
    assert_eq!(script.calls(), (1, 1));
    assert_eq!(outgoing.unsent(), 0);
    assert!(outgoing.wait_until_written(12, Instant::now()));
    assert!(outgoing.wait_until_written(13, Instant::now()));
    assert!(!outgoing.wait_until_written(14, Instant::now()));
    // With nothing to write there is no system call.
    outgoing.write_gathered().unwrap();
    assert_eq!(script.calls(), (1, 1));
}

#[test]
fn a_system_call_is_given_60_kib_at_most() {
    const KIB: usize = 1024;
    let script = Script::default();
    let outgoing = outgoing(&script);
    let bytes = pattern(200 * KIB);
    gathered(&outgoing, 1, &bytes);
    outgoing.write_gathered().unwrap();
    let given = script.lock().given.clone();
    let sizes = [60, 60, 60, 20].map(|size| vec![size * KIB]);
    assert_eq!(given, sizes);
    assert!(script.written() == bytes);
    // What comes to just so much is one call.
    script.lock().given.clear();
    let head = &bytes[..60 * KIB];
    write_message(&outgoing, b"body", 100, head)
        .unwrap_or_else(|_| panic!("refused"))
        .unwrap();
    let given = script.lock().given.clone();
    let sizes: Vec<usize> = given.iter().map(|slices| slices.iter().sum()).collect();
    assert_eq!(sizes, [60 * KIB, 12]);
}

#[test]
fn a_body_is_written_from_where_it_lies_in_calls_of_nearly_60_kib() {
    const KIB: usize = 1024;
    // More than 64 frames are more than one list of slices; a large frame is more than one slice.
    for (chunk, length) in [(4 * KIB - 8, 270_000), (128 * KIB - 8, 300_000)] {
        let script = Script::default();
        let outgoing = outgoing(&script);
        let (head, body) = (pattern(20 * KIB), pattern(length));
        gathered(&outgoing, 1, &head);
        write_message(&outgoing, &body, chunk, b"head")
            .unwrap_or_else(|_| panic!("refused"))
            .unwrap();
        let mut expected = [head.as_slice(), b"head"].concat();
        expected.extend(framed(5, &body, chunk));
        assert!(script.written() == expected);
        let end = expected.len() as u64;
        assert_eq!((outgoing.appended(), outgoing.unsent()), (end, 0));
        assert!(outgoing.wait_until_written(end, Instant::now()));
        assert_eq!(script.calls().1, 1);
        let given = script.lock().given.clone();
        let sizes: Vec<usize> = given.iter().map(|slices| slices.iter().sum()).collect();
        let largest = given.iter().flatten().max();
        assert_eq!(largest, Some(&(16 * KIB)), "of the slices");
        assert!(sizes.iter().all(|size| *size <= 60 * KIB), "{sizes:?}");
        let small = sizes.iter().filter(|size| **size < 44 * KIB).count();
        assert!(small <= 2, "{sizes:?}");
        // What is written next follows the body.
        gathered(&outgoing, 1, b"next");
        outgoing.write_gathered().unwrap();
        expected.extend_from_slice(b"next");
        assert!(script.written() == expected);
    }
}

#[test]
fn a_slice_larger_than_a_call_still_goes_out() {
    let script = Script::default();
    let outgoing = outgoing(&script);
    let body = pattern(3);
    write_message(&outgoing, &body, 1, b"")
        .unwrap_or_else(|_| panic!("refused"))
        .unwrap();
    assert!(
        script.written().is_empty(),
        "a body without what announces it"
    );
    assert_eq!(outgoing.appended(), 0);
    write_message(&outgoing, &body, 1, b"x")
        .unwrap_or_else(|_| panic!("refused"))
        .unwrap();
    assert_eq!(
        script.written(),
        [b"x".as_slice(), &framed(5, &body, 1)].concat()
    );
}

// ---- a peer that takes a part

#[test]
fn a_write_goes_on_where_a_part_was_taken() {
    let script = Script::default();
    let outgoing = outgoing(&script);
    script.lock().takes = [Ok(3), Err(io::ErrorKind::Interrupted.into()), Ok(4)].into();
    gathered(&outgoing, 1, b"0123456789");
    outgoing.write_gathered().unwrap();
    assert_eq!(script.written(), b"0123456789");
    assert_eq!(script.lock().given, [[10], [7], [7], [3]]);
}

/// The rest is left to the writer thread: no caller writes for much longer than a second.
#[test]
fn a_caller_is_not_kept_by_writes_that_are_interrupted_for_ever() {
    let interrupted = || (0..5000).map(|_| io::ErrorKind::Interrupted);
    let script = Script::default();
    let in_writes = outgoing(&script);
    // Each takes a while, so that those of the script last for longer than a second.
    let slowly = || Some(Arc::new(|| thread::sleep(Duration::from_millis(1))) as Arc<_>);
    script.lock().before_write = slowly();
    script.lock().before_flush = slowly();
    script.lock().takes = interrupted().map(|kind| Err(kind.into())).collect();
    write_message(&in_writes, &pattern(40_000), 50_000, b"head")
        .unwrap_or_else(|_| panic!("refused"))
        .unwrap();
    assert!(in_writes.unsent() > 40_000 && script.written().is_empty());
    script.lock().takes.clear();
    script.lock().flush_errors = interrupted().collect();
    in_writes.write_rest().unwrap();
    assert_eq!(in_writes.unsent(), 1);
    script.lock().flush_errors.clear();
    in_writes.write_rest().unwrap();
    assert_eq!(in_writes.unsent(), 0);
}

#[test]
fn what_a_peer_does_not_take_is_written_later() {
    let script = Script::default();
    let outgoing = outgoing(&script);
    script.lock().takes = [Ok(3), Err(io::ErrorKind::WouldBlock.into())].into();
    gathered(&outgoing, 1, b"0123456789");
    outgoing.write_gathered().unwrap();
    assert_eq!(
        (script.written().as_slice(), outgoing.unsent()),
        (b"012".as_slice(), 7)
    );
    assert!(outgoing.wait_until_written(3, Instant::now()));
    assert!(!outgoing.wait_until_written(4, Instant::now()));
    // What comes meanwhile goes behind it; a caller leaves it to the writer thread, which does not let it wait.
    gathered(&outgoing, 1, b"abc");
    outgoing.write_gathered().unwrap();
    assert_eq!(outgoing.unsent(), 10);
    assert!(matches!(work(&outgoing), Work::Write));
    outgoing.write_rest().unwrap();
    assert_eq!(
        (script.written().as_slice(), outgoing.unsent()),
        (b"0123456789".as_slice(), 3)
    );
    assert!(
        matches!(work(&outgoing), Work::Write),
        "a caller waits for it"
    );
    outgoing.write_rest().unwrap();
    assert_eq!(
        (script.written().as_slice(), outgoing.unsent()),
        (b"0123456789abc".as_slice(), 0)
    );
}

#[test]
fn the_rest_of_a_body_is_kept_and_written_later() {
    for taken in [0, 3, 12, 40_000, 100_000] {
        let script = Script::default();
        let outgoing = outgoing(&script);
        let (body, chunk) = (pattern(150_000), 50_000);
        script.lock().takes = [Ok(taken), Err(io::ErrorKind::WouldBlock.into())].into();
        script.lock().is_stuck = true;
        if taken == 0 {
            script.lock().takes.pop_front();
        }
        let expected = [b"head".as_slice(), &framed(5, &body, chunk)].concat();
        write_message(&outgoing, &body, chunk, b"head")
            .unwrap_or_else(|_| panic!("refused"))
            .unwrap();
        let taken = taken.min(60 * 1024).min(script.written().len());
        assert_eq!(outgoing.unsent(), expected.len() - taken);
        assert_eq!(outgoing.appended(), expected.len() as u64);
        assert!(outgoing.wait_until_written(taken as u64, Instant::now()));
        assert!(!outgoing.wait_until_written(taken as u64 + 1, Instant::now()));
        gathered(&outgoing, 1, b"next");
        assert!(matches!(
            write_message(&outgoing, &body, chunk, b"head"),
            Err(Refused::NoRoom)
        ));
        script.lock().is_stuck = false;
        write_all(&outgoing);
        assert!(
            script.written() == [expected.as_slice(), b"next"].concat(),
            "{taken}"
        );
    }
}

#[test]
fn a_stream_that_buffers_is_flushed_until_it_has_been() {
    let script = Script::default();
    let outgoing = outgoing(&script);
    script.lock().flush_errors = [
        io::ErrorKind::Interrupted,
        io::ErrorKind::WouldBlock,
        io::ErrorKind::WouldBlock,
    ]
    .into();
    gathered(&outgoing, 1, b"abc");
    outgoing.write_gathered().unwrap();
    assert_eq!((script.lock().flushes, outgoing.unsent()), (2, 1));
    assert!(!outgoing.wait_until_written(3, Instant::now()));
    assert!(matches!(work(&outgoing), Work::Write));
    outgoing.write_rest().unwrap();
    assert_eq!((script.lock().flushes, outgoing.unsent()), (3, 1));
    outgoing.write_rest().unwrap();
    assert_eq!((script.lock().flushes, outgoing.unsent()), (4, 0));
    assert!(outgoing.wait_until_written(3, Instant::now()));
    assert_eq!(script.written(), b"abc");
}

#[test]
fn a_stream_that_takes_zero_bytes_is_lost() {
    let script = Script::default();
    let outgoing = outgoing(&script);
    script.lock().takes = [Ok(2), Ok(0)].into();
    gathered(&outgoing, 1, b"abcdef");
    let error = outgoing.write_gathered().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WriteZero);
    assert_eq!(outgoing.unsent(), 4);
}

#[test]
fn a_write_that_took_its_time_and_took_all_is_done() {
    let script = Script::default();
    let outgoing = outgoing(&script);
    let late = WRITE_SLICE / 2 + Duration::from_millis(10);
    script.lock().before_write = Some(Arc::new(move || thread::sleep(late)));
    gathered(&outgoing, 1, b"abc");
    // The time counts from the end of the first call.
    script.lock().takes = [Ok(1), Err(io::ErrorKind::Interrupted.into()), Ok(2)].into();
    outgoing.write_gathered().unwrap();
    assert_eq!((outgoing.unsent(), script.lock().flushes), (0, 1));
    script.lock().takes = [Ok(1), Ok(1000)].into();
    write_message(&outgoing, b"body", 100, b"head")
        .unwrap_or_else(|_| panic!("refused"))
        .unwrap();
    assert_eq!((outgoing.unsent(), script.lock().flushes), (0, 2));
}

#[test]
fn a_write_that_fails_late_has_failed() {
    let script = Script::default();
    let outgoing = outgoing(&script);
    script.lock().takes = [Err(io::ErrorKind::BrokenPipe.into())].into();
    script.lock().before_write = Some(Arc::new(|| thread::sleep(WRITE_SLICE)));
    let written = write_message(&outgoing, b"body", 100, b"head");
    let error = written
        .unwrap_or_else(|_| panic!("refused"))
        .expect_err("it is lost");
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn a_peer_that_takes_a_little_at_a_time_holds_no_caller_for_long() {
    for with_body in [false, true] {
        let script = Script::default();
        let outgoing = outgoing(&script);
        script.lock().takes = (0..1000).map(|_| Ok(1)).collect();
        script.lock().before_write = Some(Arc::new(|| thread::sleep(WRITE_SLICE / 3)));
        let began = Instant::now();
        if with_body {
            write_message(&outgoing, &pattern(500), 1000, b"head")
                .unwrap_or_else(|_| panic!("refused"))
                .unwrap();
        } else {
            gathered(&outgoing, 1, &pattern(1000));
            outgoing.write_gathered().unwrap();
        }
        assert!(began.elapsed() >= WRITE_SLICE, "it is given that much");
        let taken = script.written().len();
        assert!((1..=5).contains(&taken), "{taken}");
    }
}

// ---- a stream that is lost

#[test]
fn after_a_failed_write_nothing_is_accepted_and_what_is_lost_is_counted() {
    let script = Script::default();
    let outgoing = outgoing(&script);
    let reset = || io::Error::from(io::ErrorKind::ConnectionReset);
    script.lock().takes = [Ok(3), Err(reset())].into();
    gathered(&outgoing, 1, b"0123456789");
    assert!(outgoing.error().is_none());
    let error = outgoing.write_gathered().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(outgoing.error().unwrap().kind(), error.kind());
    assert_eq!(outgoing.unsent(), 7);
    assert!(!outgoing.wait_until_written(4, Instant::now() + LONG));
    assert!(matches!(gather(&outgoing, 1, b"x"), Err(Refused::Ended)));
    assert!(matches!(
        write_message(&outgoing, b"x", 10, b"x"),
        Err(Refused::Ended)
    ));
    assert!(matches!(work(&outgoing), Work::End));
    assert!(!outgoing.may_have_unhandled() && outgoing.request_write().is_none());
    // What was appended in between is lost as well.
    assert!(outgoing.append_replies(b"reply"));
    outgoing.kill();
    assert_eq!(outgoing.unsent(), 12);
    outgoing.kill();
    assert_eq!(outgoing.unsent(), 12);
    assert_eq!(script.written(), b"012");
}

#[test]
fn what_is_lost_of_a_body_is_counted() {
    let script = Script::default();
    let outgoing = outgoing(&script);
    script.lock().takes = [Ok(10), Err(io::ErrorKind::ConnectionReset.into())].into();
    let body = pattern(150_000);
    let written = write_message(&outgoing, &body, 50_000, b"head");
    let error = written.unwrap_or_else(|_| panic!("refused")).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(outgoing.unsent(), 4 + framed(5, &body, 50_000).len() - 10);
}

#[test]
fn a_stream_killed_while_it_is_written_counts_nothing_as_written() {
    let script = Script::default();
    let outgoing = Arc::new(outgoing(&script));
    gathered(&outgoing, 1, b"abc");
    let during = Arc::clone(&outgoing);
    script.lock().before_write = Some(Arc::new(move || during.kill()));
    outgoing.write_gathered().unwrap();
    script.lock().before_write = None;
    assert!(!outgoing.wait_until_written(3, Instant::now() + LONG));
}

#[test]
fn only_the_end_ends_the_wait_for_it() {
    let script = Script::default();
    let outgoing = Arc::new(outgoing(&script));
    script.lock().takes = [Err(io::ErrorKind::ConnectionReset.into())].into();
    gathered(&outgoing, 1, b"abc");
    outgoing.write_gathered().unwrap_err();
    let waiting = Arc::clone(&outgoing);
    let waited = elsewhere(move || waiting.wait_for_end(LONG));
    until(|| outgoing.sleepers().1 == 1);
    outgoing.wake_all();
    let early = waited.recv_timeout(Duration::from_millis(50));
    assert_eq!(early, Err(mpsc::RecvTimeoutError::Timeout));
    outgoing.finish();
    ends(&waited);
}

#[test]
fn a_wait_for_the_end_after_a_failed_write_is_over_when_it_has_come() {
    let script = Script::default();
    let outgoing = outgoing(&script);
    // No write has failed.
    outgoing.wait_for_end(LONG);
    script.lock().takes = [Err(io::ErrorKind::ConnectionReset.into())].into();
    gathered(&outgoing, 1, b"abc");
    outgoing.write_gathered().unwrap_err();
    outgoing.wait_for_end(Duration::from_millis(1));
    assert!(!outgoing.is_finishing());
    let outgoing = Arc::new(outgoing);
    let waiting = Arc::clone(&outgoing);
    let ended = elsewhere(move || waiting.wait_for_end(LONG));
    until(|| outgoing.sleepers().1 == 1);
    assert!(ended.try_recv().is_err());
    outgoing.finish();
    ends(&ended);
    assert!(outgoing.is_finishing());
}

// ---- room

#[test]
fn publishers_wait_when_half_a_mebibyte_has_gathered() {
    let script = Script::default();
    let outgoing = outgoing(&script);
    script.lock().is_stuck = true;
    gathered(&outgoing, 1, b"stuck");
    outgoing.write_gathered().unwrap();
    // While a write is stuck it is the writer thread that goes on, however much has gathered.
    assert!(!gathered(&outgoing, 1, &vec![0; HIGH_WATER - 1]));
    outgoing.wait_for_room(NOT_AT_ALL, 0);
    assert!(!gathered(&outgoing, 1, b"x"));
    let before = outgoing.appended();
    assert!(matches!(gather(&outgoing, 1, b"x"), Err(Refused::NoRoom)));
    assert_eq!(outgoing.appended(), before);
    // Replies and calls go out nevertheless.
    assert!(outgoing.append_replies(b"y"));
    outgoing
        .append_call(|out| {
            out.bytes.push(b'z');
            Ok(())
        })
        .unwrap();
    assert_eq!(outgoing.appended(), before + 2);
    // Nobody waits when the stream is dead.
    outgoing.kill();
    assert!(matches!(gather(&outgoing, 1, b"x"), Err(Refused::Ended)));
}

#[test]
fn a_publisher_goes_on_when_there_is_room() {
    let script = Script::default();
    let outgoing = Arc::new(outgoing(&script));
    script.lock().is_stuck = true;
    gathered(&outgoing, 1, b"stuck");
    outgoing.write_gathered().unwrap();
    gathered(&outgoing, 1, &vec![0; HIGH_WATER]);
    let (waits, patient) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&outgoing));
    let looks = Arc::clone(&waits);
    let published = elsewhere(move || {
        let is_stopped = || {
            looks.fetch_add(1, Ordering::Relaxed);
            false
        };
        let patience = Patience {
            limit: LONG,
            is_stopped: &is_stopped,
        };
        let gathered = patient.gather(1, patience, |out| {
            out.bytes.push(b'x');
            Ok(())
        });
        gathered.is_ok()
    });
    let large = Arc::clone(&outgoing);
    let room = elsewhere(move || large.wait_for_room(LONG, 1 << 20));
    let small = Arc::clone(&outgoing);
    let room_for_small = elsewhere(move || small.wait_for_room(LONG, 1));
    until(|| outgoing.sleepers().1 == 3);
    assert_eq!(waits.load(Ordering::Relaxed), 1);
    assert!(room.try_recv().is_err() && room_for_small.try_recv().is_err());
    script.lock().is_stuck = false;
    write_all(&outgoing);
    assert!(ends(&published));
    ends(&room);
    ends(&room_for_small);
}

#[test]
fn a_wait_for_room_can_be_stopped() {
    let script = Script::default();
    let outgoing = Arc::new(outgoing(&script));
    script.lock().is_stuck = true;
    gathered(&outgoing, 1, b"stuck");
    outgoing.write_gathered().unwrap();
    gathered(&outgoing, 1, &vec![0; HIGH_WATER]);
    let (stop, waits) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
    );
    let (stopped, looked, patient) = (Arc::clone(&stop), Arc::clone(&waits), Arc::clone(&outgoing));
    let refused = elsewhere(move || {
        let is_stopped = || {
            looked.store(true, Ordering::Relaxed);
            stopped.load(Ordering::Relaxed)
        };
        let patience = Patience {
            limit: LONG,
            is_stopped: &is_stopped,
        };
        let gathered = patient.gather(1, patience, |_| Ok(()));
        matches!(gathered, Err(Refused::Stopped))
    });
    until(|| outgoing.sleepers().1 == 1 && waits.load(Ordering::Relaxed));
    stop.store(true, Ordering::Relaxed);
    outgoing.wake_all();
    assert!(ends(&refused));
}

#[test]
fn a_caller_that_gathers_much_writes_it() {
    let script = Script::default();
    let outgoing = outgoing(&script);
    assert!(!gathered(&outgoing, 1, &vec![0; 48 * 1024 - 1]));
    assert!(gathered(&outgoing, 1, b"x"));
    assert!(gathered(&outgoing, 1, b"x"), "until it has");
}

#[test]
fn there_is_room_for_half_a_mebibyte_and_large_bodies_wait_for_the_write_half() {
    const KIB: usize = 1024;
    let script = Script::default();
    let outgoing = outgoing(&script);
    let waits = |limit: Duration, body: usize| {
        let began = Instant::now();
        outgoing.wait_for_room(limit, body);
        began.elapsed() >= limit
    };
    gathered(&outgoing, 1, &pattern(512 * KIB - 1));
    assert!(!waits(LONG, 32 * KIB - 1) && !waits(LONG, 32 * KIB));
    gathered(&outgoing, 1, b"x");
    let moment = Duration::from_millis(10);
    assert!(waits(moment, 1));
    assert!(matches!(gather(&outgoing, 1, b"x"), Err(Refused::NoRoom)));
    // What is being written leaves room for what is gathered, and none for what is written from where it lies.
    script.lock().is_stuck = true;
    outgoing.write_gathered().unwrap();
    assert!(!waits(LONG, 32 * KIB - 1) && waits(moment, 32 * KIB));
}

#[test]
fn what_cannot_be_encoded_is_refused() {
    let script = Script::default();
    let outgoing = outgoing(&script);
    gathered(&outgoing, 1, b"before");
    let refused = outgoing.gather(1, NOT_AT_ALL.into(), |out| {
        assert_eq!(out.appended(), 6);
        Err::<(), _>(Error::Stopped { waiting_for: "it" })
    });
    assert!(matches!(
        refused,
        Err(Refused::Invalid(Error::Stopped { .. }))
    ));
    assert_eq!(outgoing.appended(), 6);
}

#[test]
fn replies_have_a_bound() {
    let script = Script::default();
    let outgoing = outgoing(&script);
    script.lock().is_stuck = true;
    assert!(outgoing.append_replies(&vec![0; 16 << 20]));
    assert!(outgoing.append_replies(b"x"));
    assert!(!outgoing.append_replies(b"x"));
    assert!(outgoing.append_replies(b""));
    assert_eq!(outgoing.appended(), (16 << 20) + 1);
}

#[test]
fn room_for_a_large_body_is_the_write_half() {
    let script = Script::default();
    let outgoing = Arc::new(outgoing(&script));
    script.lock().is_stuck = true;
    gathered(&outgoing, 1, b"stuck");
    outgoing.write_gathered().unwrap();
    // There is room for bytes, and for a body that is copied.
    outgoing.wait_for_room(LONG, DIRECT_BODY - 1);
    let rooms = [DIRECT_BODY, DIRECT_BODY * 2].map(|body| {
        let waiting = Arc::clone(&outgoing);
        elsewhere(move || waiting.wait_for_room(LONG, body))
    });
    until(|| outgoing.sleepers().1 == 2);
    script.lock().is_stuck = false;
    write_all(&outgoing);
    rooms.iter().for_each(ends);
}

#[test]
fn mandatory_messages_are_handed_over_once() {
    use crate::protocol::channel::{Gate, Phase};
    use crate::protocol::publish::{Fingerprint, Mandatory, SentMandatory};
    let script = Script::default();
    let outgoing = outgoing(&script);
    let gate = Gate::new(Phase::Open);
    let note = |out: &mut Outbox, sequence| {
        let print = Fingerprint {
            content: 1,
            properties: 2,
        };
        let message = Mandatory { sequence, print };
        out.bytes.push(b'x');
        out.mandatory.push(SentMandatory {
            slot: 3,
            gate: Arc::clone(&gate),
            message,
        });
    };
    let taken = || {
        let taken = outgoing.take_mandatory();
        let sequences = taken.iter().map(|sent| sent.message.sequence);
        sequences.collect::<Vec<_>>()
    };
    assert!(taken().is_empty());
    let gathered = outgoing.gather(1, NOT_AT_ALL.into(), |out| {
        note(out, 1);
        Ok(())
    });
    assert!(gathered.is_ok());
    assert_eq!(taken(), [1]);
    assert!(taken().is_empty());
    outgoing
        .append_call(|out| {
            note(out, 2);
            Ok(())
        })
        .unwrap();
    assert_eq!(taken(), [2]);
    let written = outgoing.write_message(NOT_AT_ALL.into(), 1, b"body", 10, |out| {
        note(out, 3);
        Ok(Some(()))
    });
    assert!(written.is_ok());
    assert_eq!(taken(), [3]);
}

#[test]
fn a_forked_child_gathers_and_writes_nothing() {
    let script = Script::default();
    let outgoing = Outgoing::new(script.transport(), Process::other()).unwrap();
    assert!(matches!(gather(&outgoing, 1, b"x"), Err(Refused::Forked)));
    assert_eq!(outgoing.appended(), 0);
    assert!(outgoing.append_replies(&vec![0; 64 * 1024]));
    outgoing.write_gathered().unwrap();
    outgoing.write_rest().unwrap();
    assert!(script.written().is_empty());
}

#[test]
fn a_forked_child_notices_it_after_few_messages_and_then_once_in_256() {
    // How many messages a child gathers whose parent had gathered so many since the writer thread looked last.
    let in_vain = |before: usize, looks: bool| {
        let script = Script::default();
        let mut outgoing = outgoing(&script);
        for _ in 0..before {
            gathered(&outgoing, 1, b"");
        }
        if looks {
            assert!(matches!(work(&outgoing), Work::Look));
        }
        outgoing.process = Process::other();
        (0..1000).position(|_| gather(&outgoing, 1, b"").is_err())
    };
    assert_eq!(in_vain(0, false), Some(0));
    assert_eq!(in_vain(7, false), Some(0));
    assert_eq!(in_vain(8, false), Some(248));
    assert_eq!(in_vain(255, false), Some(1));
    assert_eq!(in_vain(256, false), Some(0));
    assert_eq!(in_vain(100, true), Some(0), "the writer thread has looked");
    // A thread that has gathered much would write it, and looks in any case.
    let mut outgoing = outgoing(&Script::default());
    for _ in 0..8 {
        gathered(&outgoing, 1, b"");
    }
    outgoing.process = Process::other();
    let much = gather(&outgoing, 1, &[0; 48 * 1024]);
    assert!(matches!(much, Err(Refused::Forked)));
}

#[test]
fn a_lock_that_stays_taken_is_waited_for_unless_the_one_who_has_it_is_in_the_parent() {
    for is_forked in [false, true] {
        let mut outgoing = outgoing(&Script::default());
        if is_forked {
            outgoing.process = Process::other();
        }
        let outgoing = Arc::new(outgoing);
        let (release, held) = mpsc::channel::<()>();
        let (begin, begins) = mpsc::channel();
        let holding = Arc::clone(&outgoing);
        let held = elsewhere(move || {
            let call = holding.append_call(|_| {
                begin.send(()).unwrap();
                let _ = held.recv();
                Ok(())
            });
            call.unwrap();
        });
        ends(&begins);
        let gathering = Arc::clone(&outgoing);
        let gathered = elsewhere(move || gather(&gathering, 1, b"x").is_ok());
        if is_forked {
            assert!(!ends(&gathered));
        }
        drop(release);
        ends(&held);
        if !is_forked {
            assert!(ends(&gathered));
        }
    }
}

// ---- what the broker has handled

#[test]
fn what_a_channel_has_sent_is_unhandled_until_the_broker_replies() {
    let script = Script::default();
    let outgoing = outgoing(&script);
    let ask = |channel| {
        outgoing.append_if_unhandled(channel, |out| {
            out.bytes.extend_from_slice(b"?");
            Ok(())
        })
    };
    assert!(!outgoing.may_have_unhandled());
    assert_eq!((ask(0), ask(3), ask(7)), (None, None, None));
    outgoing
        .append_call(|out| {
            out.bytes.extend_from_slice(b"call");
            Ok(())
        })
        .unwrap();
    assert!(outgoing.may_have_unhandled(), "it is not written");
    outgoing.write_gathered().unwrap();
    assert!(
        !outgoing.may_have_unhandled(),
        "a call waits for its reply itself"
    );
    gathered(&outgoing, 3, b"abc");
    outgoing.write_gathered().unwrap();
    assert!(outgoing.may_have_unhandled());
    assert_eq!((ask(2), ask(4)), (None, None));
    let asked = ask(3);
    assert_eq!(asked, Some(7));
    assert_eq!(outgoing.appended(), 8);
    outgoing.write_gathered().unwrap();
    // Less than that is not all.
    outgoing.note_handled(3, 6);
    outgoing.note_handled(9, 100);
    assert!(outgoing.may_have_unhandled());
    outgoing.note_handled(3, 7);
    assert!(!outgoing.may_have_unhandled());
    assert_eq!(ask(3), None);
    // What is sent on one channel changes nothing for another, whichever number is larger.
    for channel in [1, 2, 4, 1] {
        gathered(&outgoing, channel, b"x");
    }
    outgoing.write_gathered().unwrap();
    assert_eq!(outgoing.appended(), 12);
    // The broker may have handled more than was sent on that channel.
    for channel in [1, 4, 2] {
        assert!(outgoing.may_have_unhandled());
        outgoing.note_handled(channel, 100);
    }
    assert!(!outgoing.may_have_unhandled());
    // A large message counts as well, with all its bytes.
    write_message(&outgoing, b"body", 10, b"head")
        .unwrap_or_else(|_| panic!("refused"))
        .unwrap();
    assert!(outgoing.may_have_unhandled());
    let position = 12 + 4 + framed(5, b"body", 10).len() as u64;
    assert_eq!(ask(5), Some(position));
    outgoing.note_handled(5, position - 1);
    assert!(ask(5).is_some());
    outgoing.kill();
    assert_eq!(ask(5), None);
    assert!(!outgoing.may_have_unhandled());
}
