//! The steps of the two threads of a connection one by one, and what they do together.

use super::*;
use crate::io::exit::guard_thread;
use crate::io::link::Interest;
use crate::io::tests::link::{add_channel, is_woken, link, link_with};
use crate::io::tests::{elsewhere, ends, forced_close, hold_writes, until, Script};
use crate::protocol::connection::HELD_BOUND;
use crate::protocol::frame::HEARTBEAT;
use std::collections::VecDeque;
use std::io;

const KIB_64: usize = 64 * 1024;

fn bytes(count: usize) -> io::Result<Vec<u8>> {
    Ok(HEARTBEAT.repeat(count / HEARTBEAT.len()))
}

fn nothing() -> io::Result<Vec<u8>> {
    Err(io::ErrorKind::WouldBlock.into())
}

fn end() -> io::Result<Vec<u8>> {
    Ok(Vec::new())
}

/// More waits for the program than the connection holds.
fn fill(shared: &mut Shared) {
    shared.session.undelivered = HELD_BOUND + 1;
}

fn age(shared: &mut Shared, by: Duration) {
    shared.reader.as_mut().unwrap().age(by);
}

// ---- reading until a caller wants to

/// How many of so many reads are made until the right to read is given back.
fn reads_until_wanted(reads: Vec<io::Result<Vec<u8>>>, prepare: impl FnOnce(&mut Shared)) -> usize {
    let script = Script::default();
    let link = link(&script);
    script.lock().reads = reads.into();
    let mut shared = link.lock();
    prepare(&mut shared);
    let mut reader = shared.reader.take().unwrap();
    drop(read_until_wanted(&link, shared, &mut reader));
    let script = script.lock();
    script.room.len()
}

#[test]
fn the_reader_thread_reads_until_a_caller_wants_to() {
    let three = || vec![bytes(8), bytes(8), end()];
    assert_eq!(reads_until_wanted(three(), |_| {}), 3, "to the end");
    let waited_for = |shared: &mut Shared| {
        shared.add_waiter(Interest::connection());
    };
    assert_eq!(reads_until_wanted(three(), waited_for), 1);
    let dispatching = |shared: &mut Shared| shared.dispatching.push(1);
    assert_eq!(reads_until_wanted(three(), dispatching), 1);
    assert_eq!(reads_until_wanted(three(), fill), 1, "there is enough");
}

#[test]
fn what_was_read_before_is_handled_before_more_is_read() {
    let script = Script::default();
    let mut opened = crate::io::tests::link::opened(&script, 0, None);
    opened.leftover = HEARTBEAT.to_vec();
    let link = Link::new(opened).unwrap();
    let mut shared = link.lock();
    shared.add_waiter(Interest::connection());
    let mut reader = shared.reader.take().unwrap();
    assert!(reader.more);
    shared = read_until_wanted(&link, shared, &mut reader);
    assert!(!reader.more && script.lock().room.is_empty());
    // Only then it reads.
    script.lock().reads = [end()].into();
    shared = read_until_wanted(&link, shared, &mut reader);
    assert!(shared.session.end().is_some());
    assert_eq!(script.lock().room.len(), 1);
}

#[test]
fn the_reader_thread_gives_a_write_time_to_return_why_the_stream_ended() {
    let script = Script::default();
    let link = Arc::new(link(&script));
    let (release, begins) = hold_writes(&script);
    link.append_call(|out| {
        out.bytes.push(b'x');
        Ok(())
    })
    .unwrap();
    let writing = Arc::clone(&link);
    let written = elsewhere(move || writing.write_gathered());
    ends(&begins);
    script.lock().reads = [end()].into();
    let began = Instant::now();
    let mut reader = link.lock().reader.take().unwrap();
    drop(read_until_wanted(&link, link.lock(), &mut reader));
    assert!(began.elapsed() >= crate::io::end::WRITE_ERROR_LIMIT);
    drop(release);
    ends(&written);
}

// ---- pauses

#[test]
fn a_pause_lasts_until_enough_was_taken_or_the_connection_ends() {
    type Way = fn(&Link, &mut Shared);
    let ways: [Way; 3] = [
        |link, shared| {
            shared.session.undelivered = 0;
            link.resume_if_paused(shared);
        },
        |link, shared| {
            link.end_for_lost_stream(shared, io::ErrorKind::BrokenPipe.into());
            link.act_on_changes(shared);
        },
        // The broker blocks it, for as long as it may.
        |link, shared| {
            shared.session.blocked = Some("alarm".into());
            link.act_on_changes(shared);
        },
    ];
    for (n, way) in ways.into_iter().enumerate() {
        let script = Script::default();
        let link = Arc::new(link_with(&script, 0, Some(Duration::from_millis(30))));
        let pausing = Arc::clone(&link);
        let paused = elsewhere(move || {
            assert!(pausing.reader_thread.set(thread::current()).is_ok());
            let mut shared = pausing.lock();
            fill(&mut shared);
            drop(pause(&pausing, shared));
        });
        until(|| link.lock().pause.is_some());
        assert!(paused.try_recv().is_err());
        way(&link, &mut link.lock());
        ends(&paused);
        assert_eq!(link.lock().session.end().is_some(), n > 0);
        assert!(script.lock().room.is_empty(), "nothing was read");
    }
}

#[test]
fn a_thread_that_needs_a_reply_ends_a_pause() {
    let script = Script::default();
    let link = Arc::new(link(&script));
    fill(&mut link.lock());
    script.lock().reads = [bytes(8)].into();
    let reading = Arc::clone(&link);
    let read = elsewhere(move || {
        assert!(reading.reader_thread.set(thread::current()).is_ok());
        read_until_end(&reading);
    });
    let has_ended = || link.lock().pause.map(|(_, ended)| ended.is_some());
    until(|| has_ended() == Some(false));
    assert_eq!(script.lock().room.len(), 0);
    let mut shared = link.lock();
    shared.add_waiter(Interest::connection());
    link.look_again_if_paused(&mut shared);
    drop(shared);
    until(|| has_ended() == Some(true));
    // It reads then, and gives the read half back.
    until(|| script.lock().reads.is_empty() && link.lock().reader.is_some());
    let mut shared = link.lock();
    link.end_for_lost_stream(&mut shared, io::ErrorKind::BrokenPipe.into());
    link.act_on_changes(&mut shared);
    drop(shared);
    ends(&read);
}

// ---- what keeps the peer's patience while nothing is handled

#[test]
fn nothing_is_read_before_it_is_time() {
    let script = Script::default();
    let link = link(&script);
    let (shared, next) = keep_alive(&link, link.lock());
    assert_eq!(next, PERIOD, "there is nothing to keep alive");
    drop(shared);
    let mut shared = link.lock();
    fill(&mut shared);
    age(&mut shared, PERIOD / 2);
    let (mut shared, next) = keep_alive(&link, shared);
    assert!(next > Duration::ZERO && next <= PERIOD / 2, "{next:?}");
    // Where a caller reads there is nothing to look after.
    let reader = shared.reader.take();
    let (mut shared, next) = keep_alive(&link, shared);
    assert_eq!(next, PERIOD);
    shared.reader = reader;
    drop(shared);
    assert!(script.lock().room.is_empty());
}

#[test]
fn a_quota_is_read_when_a_period_is_over() {
    // A read that takes long, as on a busy machine, begins a period of its own. That is no reason to read on for ever.
    for read_takes in [Duration::ZERO, Duration::from_millis(12)] {
        assert_eq!(reads_when_a_period_is_over(read_takes), 64, "4 MiB");
    }
}

fn reads_when_a_period_is_over(read_takes: Duration) -> usize {
    let script = Script::default();
    let link = link(&script);
    script.lock().before_read = Some(Arc::new(move || thread::sleep(read_takes)));
    script.lock().reads = (0..100).map(|_| bytes(KIB_64)).collect();
    let mut shared = link.lock();
    if !read_takes.is_zero() {
        // What was read before the look is none of it.
        let mut before = VecDeque::from([bytes(1 << 22)]);
        std::mem::swap(&mut script.lock().reads, &mut before);
        let shared = &mut *shared;
        let reader = shared.reader.as_mut().unwrap();
        while !script.lock().reads.is_empty() {
            reader.read(SLICE);
            reader.handle(&mut shared.session).unwrap();
        }
        let mut script = script.lock();
        script.reads = before;
        script.room.clear();
    }
    fill(&mut shared);
    age(&mut shared, PERIOD);
    is_woken();
    shared.add_waiter(Interest::optional());
    let slot = add_channel(&mut shared, 0);
    shared.session.channel(slot).unwrap().running = true;
    assert!(shared.has_enough(None));
    let (shared, next) = keep_alive(&link, shared);
    let reads = script.lock().room.len();
    assert_eq!(next, PERIOD);
    let reader = shared.reader.as_ref().unwrap();
    assert!(!reader.is_period_over() && reader.has_unhandled());
    assert_eq!(shared.last_bytes, reader.last_bytes());
    assert!(!shared.stream_ended && shared.session.end().is_none());
    assert!(is_woken(), "the right to read was taken for a while");
    let (_shared, next) = keep_alive(&link, shared);
    assert!(next > PERIOD / 2 && script.lock().room.len() == reads);
    reads
}

#[test]
fn a_look_in_between_reads_once() {
    let script = Script::default();
    // With a heartbeat of 10 seconds a peer is dead after 15 of silence.
    let link = link_with(&script, 10, None);
    script.lock().reads = [bytes(KIB_64), bytes(KIB_64)].into();
    let mut shared = link.lock();
    fill(&mut shared);
    age(&mut shared, Duration::from_secs(5));
    let (shared, next) = keep_alive(&link, shared);
    assert_eq!(
        (next, script.lock().room.len()),
        (Duration::from_secs(5), 1)
    );
    let reader = shared.reader.as_ref().unwrap();
    let period_ends_in = reader.next_look(PERIOD);
    assert!(
        period_ends_in <= Duration::from_secs(3),
        "{period_ends_in:?}"
    );
}

#[test]
fn looking_stops_where_there_is_nothing_or_no_need() {
    // What the reads bring, who waits, and how many are made.
    type Case = (Vec<io::Result<Vec<u8>>>, fn(&mut Shared), usize);
    let cases: [Case; 5] = [
        (vec![bytes(8), end(), bytes(8)], |_| {}, 2),
        (vec![bytes(8), Ok(forced_close()), bytes(8)], |_| {}, 2),
        (vec![bytes(8), nothing(), bytes(8)], |_| {}, 2),
        // A thread waits that reads for itself.
        (
            vec![bytes(8), bytes(8)],
            |shared| {
                shared.add_waiter(Interest::connection());
            },
            1,
        ),
        // A thread waits, but there is enough for it.
        (
            vec![bytes(8), bytes(8), nothing()],
            |shared| {
                shared.add_waiter(Interest::optional());
                let slot = add_channel(shared, 0);
                shared.session.channel(slot).unwrap().running = true;
            },
            3,
        ),
    ];
    for (n, (reads, prepare, expected)) in cases.into_iter().enumerate() {
        let script = Script::default();
        let mut opened = crate::io::tests::link::opened(&script, 0, None);
        // Something is not handled yet, so that there is a look although a thread waits.
        opened.leftover = HEARTBEAT.to_vec();
        let link = Link::new(opened).unwrap();
        script.lock().reads = reads.into();
        let mut shared = link.lock();
        fill(&mut shared);
        age(&mut shared, PERIOD);
        prepare(&mut shared);
        let (shared, _) = keep_alive(&link, shared);
        assert_eq!(script.lock().room.len(), expected, "{n}");
        let has_ended = n < 2;
        assert_eq!(shared.stream_ended, has_ended, "{n}");
        assert_eq!(shared.session.is_draining, has_ended, "{n}");
        assert_eq!(
            shared.last_bytes,
            shared.reader.as_ref().unwrap().last_bytes()
        );
    }
}

#[test]
fn a_look_notices_a_peer_that_is_silent() {
    let script = Script::default();
    let link = link_with(&script, 10, None);
    let mut shared = link.lock();
    fill(&mut shared);
    age(&mut shared, PERIOD);
    let (mut shared, _) = keep_alive(&link, shared);
    assert!(shared.session.end().is_none());
    shared
        .reader
        .as_mut()
        .unwrap()
        .age_bytes(Duration::from_secs(15));
    age(&mut shared, PERIOD);
    let (shared, _) = keep_alive(&link, shared);
    assert!(shared.session.end().is_some());
    assert_eq!(script.lock().room.len(), 2);
}

// ---- the threads themselves

#[test]
fn the_end_of_a_thread_of_the_crate_waits_for_nothing() {
    let link = Arc::new(link(&Script::default()));
    let run = |link: &Arc<Link>| {
        if exit::is_exempt() {
            link.lock().hand_over = true;
        }
    };
    link.spawn("haypile-test", run).unwrap();
    until(|| link.lock().hand_over);
    assert!(guard_thread() && !exit::is_exempt());
}

#[test]
#[cfg(target_os = "linux")]
fn a_reader_thread_that_does_not_start_ends_the_connection() {
    const THIS: &str =
        "io::threads::tests::a_reader_thread_that_does_not_start_ends_the_connection";
    if !crate::io::tests::is_where_no_thread_starts(THIS) {
        return;
    }
    let script = Script::default();
    let link = Arc::new(link(&script));
    is_woken();
    link.lock().add_waiter(Interest::connection());
    link.start_reader();
    assert!(link.reader_thread.get().is_none());
    assert!(matches!(link.end_reason(), crate::Error::StreamLost(_)));
    assert!(is_woken() && link.outgoing.is_finishing());
    // Neither does a connection open whose writer thread does not start.
    let opened = crate::io::tests::link::opened(&script, 0, None);
    let error = Link::start(opened).err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}");
}

/// Whether the reader thread reads within a while in which a caller reads again and again, and leaves reading to it or not.
fn reads_beside_a_caller(hand_over: bool) -> bool {
    let script = Script::default();
    let link = Arc::new(link(&script));
    let reading = Arc::clone(&link);
    let read = elsewhere(move || read_until_end(&reading));
    let began = Instant::now();
    while began.elapsed() < SLICE * 6 {
        let mut shared = link.lock();
        shared.turns += 1;
        shared.hand_over = hand_over;
        drop(shared);
        thread::sleep(SLICE / 20);
    }
    let has_read = !script.lock().room.is_empty();
    let mut shared = link.lock();
    link.end_for_lost_stream(&mut shared, io::ErrorKind::BrokenPipe.into());
    drop(shared);
    ends(&read);
    has_read
}

#[test]
fn a_caller_that_reads_keeps_the_right_to_unless_it_hands_over() {
    // A busy machine may keep the caller from it.
    assert!((0..20).any(|_| !reads_beside_a_caller(false)));
    assert!((0..3).all(|_| reads_beside_a_caller(true)));
}

#[test]
fn after_an_end_within_a_pause_nothing_is_read() {
    let script = Script::default();
    let link = Arc::new(link(&script));
    fill(&mut link.lock());
    let reading = Arc::clone(&link);
    let read = elsewhere(move || {
        assert!(reading.reader_thread.set(thread::current()).is_ok());
        read_until_end(&reading);
    });
    until(|| link.lock().pause.is_some());
    let mut shared = link.lock();
    link.end_for_lost_stream(&mut shared, io::ErrorKind::BrokenPipe.into());
    link.act_on_changes(&mut shared);
    drop(shared);
    ends(&read);
    assert!(script.lock().room.is_empty());
}

#[cfg(unix)]
mod over_a_socket {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn start() -> (Arc<Link>, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        let mut opened = crate::io::tests::link::opened(&Script::default(), 0, None);
        opened.stream = Box::new(near);
        (Link::start(opened).unwrap(), far)
    }

    #[test]
    fn the_reader_thread_takes_the_right_to_read_and_gives_it_back() {
        let (link, mut far) = start();
        until(|| link.lock().reader.is_none());
        assert_eq!(link.lock().pause, None, "it has not paused");
        assert!(!link.lock().hand_over);
        // Nobody wants it, so it reads on.
        let before = link.lock().last_bytes;
        far.write_all(&HEARTBEAT).unwrap();
        until(|| link.lock().last_bytes > before);
        assert!(link.lock().reader.is_none());
        // A thread that waits is woken to read when the next bytes have come.
        is_woken();
        link.lock().add_waiter(Interest::connection());
        far.write_all(&HEARTBEAT).unwrap();
        let (limit, began) = (Duration::from_secs(20), Instant::now());
        thread::park_timeout(limit);
        assert!(began.elapsed() < limit);
        drop(far);
        until(|| link.lock().session.end().is_some());
    }

    /// A program that sends one message and closes is spared a thread.
    #[test]
    fn a_connection_that_ends_soon_has_no_reader_thread() {
        let is_so = || {
            let (link, mut far) = start();
            until(|| link.outgoing.sleepers().0);
            let mut shared = link.lock();
            shared.session.end_by_client();
            link.act_on_changes(&mut shared);
            drop(shared);
            let nothing = far.read(&mut [0]).unwrap();
            assert_eq!(nothing, 0);
            until(|| Arc::strong_count(&link) == 1);
            link.reader_thread.get().is_none()
        };
        // On a busy machine it may not end soon.
        assert!((0..100).any(|_| is_so()));
    }

    #[test]
    fn at_the_end_the_rest_is_written_and_the_stream_shut_down() {
        let (link, mut far) = start();
        link.append_call(|out| {
            out.bytes.extend_from_slice(b"last");
            Ok(())
        })
        .unwrap();
        let mut shared = link.lock();
        shared.session.end_by_client();
        link.act_on_changes(&mut shared);
        drop(shared);
        let mut written = Vec::new();
        far.read_to_end(&mut written).unwrap();
        assert_eq!(written, b"last");
    }

    #[test]
    fn a_failed_write_is_followed_by_reading_to_the_end() {
        let (link, mut far) = start();
        far.write_all(&forced_close()).unwrap();
        drop(far);
        link.append_call(|out| {
            out.bytes.push(b'x');
            Ok(())
        })
        .unwrap();
        link.write_gathered();
        until(|| link.lock().session.end().is_some());
        let end = link.end_reason();
        assert_eq!(end.reply_code(), Some(320), "{end:?}");
    }
}
