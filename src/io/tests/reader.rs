//! What reads bring, which of them make a new period, and a stream that does not wait.

use std::time::Instant;

use super::super::backlog::{Backlog, HALF_QUOTA, PERIOD};
use super::super::reader::{Ahead, Outcome, Reader, SLICE};
use super::super::stream::EarlyReturns;
use super::*;
use crate::protocol::channel::{ChannelState, Gate, Phase};
use crate::protocol::connection::Session;
use crate::protocol::frame::{self, HEARTBEAT};

const MOMENT: Duration = Duration::from_millis(1);

fn reader(script: &Script, leftover: &[u8]) -> Reader {
    Reader::new(script.transport(), leftover).unwrap()
}

fn session() -> Session {
    Session::new(1 << 20, 8, "broker:5672".into())
}

fn kind(outcome: &Outcome) -> Option<io::ErrorKind> {
    match outcome {
        Outcome::End(error) => Some(error.kind()),
        _ => None,
    }
}

/// Not before the end of the period, and hardly later.
fn end_of_period(reader: &Reader) -> Instant {
    let next = reader.next_look(PERIOD * 2);
    Instant::now() + next
}

#[test]
fn what_came_behind_the_handshake_is_handled_first() {
    let script = Script::default();
    let mut reader = reader(&script, &HEARTBEAT);
    assert!(reader.more && reader.has_unhandled());
    reader.handle(&mut session()).unwrap();
    assert!(!reader.more && !reader.has_unhandled());
    let mut nothing = self::reader(&script, b"");
    assert!(!nothing.has_unhandled());
    assert!(matches!(nothing.read(MOMENT), Outcome::Nothing));
}

#[test]
fn a_timeout_is_set_only_when_it_is_another() {
    let script = Script::default();
    let mut reader = reader(&script, b"");
    for timeout in [SLICE, MOMENT, MOMENT, SLICE] {
        reader.read(timeout);
    }
    assert_eq!(script.lock().read_timeouts, [SLICE, MOMENT, SLICE]);
}

#[test]
fn a_timeout_that_cannot_be_set_ends_the_connection() {
    let script = Script::default();
    let mut reader = reader(&script, b"");
    script.lock().timeout_error = Some(io::ErrorKind::Unsupported);
    let end = reader.read(MOMENT);
    assert_eq!(kind(&end), Some(io::ErrorKind::Unsupported));
    assert!(script.lock().room.is_empty());
    // It has brought nothing.
    script.lock().timeout_error = None;
    script.lock().reads.push_back(Ok(HEARTBEAT.to_vec()));
    assert!(matches!(reader.read(MOMENT), Outcome::Bytes));
    reader.handle(&mut session()).unwrap();
    assert!(!reader.has_unhandled());
}

#[test]
fn reads_return_what_they_brought() {
    let script = Script::default();
    let mut reader = reader(&script, b"");
    let began = reader.last_bytes();
    script.lock().reads = [
        Err(io::ErrorKind::Interrupted.into()),
        Err(io::ErrorKind::TimedOut.into()),
        Ok(HEARTBEAT.to_vec()),
        Err(io::ErrorKind::ConnectionReset.into()),
        Ok(Vec::new()),
    ]
    .into();
    assert!(matches!(reader.read(MOMENT), Outcome::Nothing));
    assert!(matches!(reader.read(MOMENT), Outcome::Nothing));
    assert_eq!(reader.last_bytes(), began);
    assert!(matches!(reader.read(MOMENT), Outcome::Bytes));
    assert!(reader.last_bytes() > began);
    let reset = reader.read(MOMENT);
    assert_eq!(kind(&reset), Some(io::ErrorKind::ConnectionReset));
    let end = reader.read(MOMENT);
    assert_eq!(kind(&end), Some(io::ErrorKind::UnexpectedEof));
}

#[test]
fn frames_of_any_size_in_pieces_of_any_size_are_put_together() {
    // The largest is larger than what is read at once.
    let (mut bytes, mut frames) = (Vec::new(), 0);
    for length in [0, 1, 100_000, 7, 300_000, 131_072, 50, 131_064, 3] {
        let start = bytes.len();
        bytes.extend_from_slice(&frame::body_prefix(1, length));
        bytes.extend((0..length).map(|n| n as u8));
        bytes.push(frame::FRAME_END);
        frames += 1;
        assert_eq!(bytes.len() - start, length as usize + 8);
    }
    for piece in [1000, 8191, 131_072, 1 << 20] {
        let script = Script::default();
        script.lock().reads = bytes
            .chunks(piece)
            .map(|piece| Ok(piece.to_vec()))
            .collect();
        // A channel that is being closed: its frames are skipped, but they must be whole.
        let mut reader = reader(&script, b"");
        let mut session = session();
        let closing = ChannelState::new(Gate::new(Phase::Closing));
        assert!(session.add_channel(Some(1), closing).is_ok());
        let mut reads = 0;
        while let Outcome::Bytes = reader.read(MOMENT) {
            reader.handle(&mut session).unwrap();
            reads += 1;
            assert!(reads < 10_000, "it goes round in circles");
        }
        assert!(!reader.has_unhandled() && frames == 9);
        assert_eq!(session.rest_of_frame(), 0);
    }
}

#[test]
fn a_frame_larger_than_a_read_is_put_together() {
    // A header on an open channel is looked at when it is whole, and this one is not expected.
    let payload = 300_000;
    let mut bytes = [HEARTBEAT.as_slice(), &frame::body_prefix(1, payload)].concat();
    bytes[HEARTBEAT.len()] = 2;
    bytes.resize(bytes.len() + payload as usize, 0);
    bytes.push(frame::FRAME_END);
    for piece in [1000, 8191, 131_072, 1 << 20] {
        let script = Script::default();
        script.lock().reads = bytes
            .chunks(piece)
            .map(|piece| Ok(piece.to_vec()))
            .collect();
        let (mut reader, mut session) = (reader(&script, b""), session());
        let open = ChannelState::new(Gate::new(Phase::Open));
        assert!(session.add_channel(Some(1), open).is_ok());
        let mut reads = 0;
        loop {
            assert!(matches!(reader.read(MOMENT), Outcome::Bytes), "{piece}");
            if reader.handle(&mut session).is_err() {
                break;
            }
            reads += 1;
            assert!(reads < 1000, "it goes round in circles");
        }
        assert!(script.lock().reads.is_empty(), "{piece}");
    }
}

#[test]
fn what_is_read_ahead_is_handled_in_its_turn_and_the_end_behind_it() {
    let script = Script::default();
    let mut reader = reader(&script, b"");
    let mut session = session();
    script.lock().reads.push_back(Ok(HEARTBEAT[..3].to_vec()));
    assert!(matches!(reader.read(MOMENT), Outcome::Bytes));
    reader.handle(&mut session).unwrap();
    reader.prepare_backlog(&mut session);
    script.lock().reads = [
        Ok(HEARTBEAT[3..].to_vec()),
        Err(io::ErrorKind::WouldBlock.into()),
    ]
    .into();
    assert_eq!(reader.read_ahead(), Ahead::Bytes);
    let waits = script.lock().read_timeouts.last().copied();
    assert_eq!(waits, Some(Duration::from_millis(200)));
    assert!(reader.has_unhandled());
    assert_eq!(reader.read_ahead(), Ahead::Nothing);
    script.lock().reads.push_back(Ok(HEARTBEAT.to_vec()));
    script.lock().reads.push_back(Ok(Vec::new()));
    assert_eq!(
        (reader.read_ahead(), reader.read_ahead()),
        (Ahead::Bytes, Ahead::End)
    );
    // What comes behind what was read before is read after it.
    for _ in 0..2 {
        if !reader.has_unhandled() {
            break;
        }
        assert!(matches!(reader.read(MOMENT), Outcome::Bytes));
        reader.handle(&mut session).unwrap();
    }
    assert!(!reader.has_unhandled());
    let end = reader.read(MOMENT);
    assert_eq!(kind(&end), Some(io::ErrorKind::UnexpectedEof));
    assert!(
        matches!(reader.read(MOMENT), Outcome::Nothing),
        "it is said once"
    );
}

#[test]
fn a_close_is_seen_wherever_it_is_cut() {
    let bytes = forced_close();
    for cut in 0..bytes.len() {
        let mut backlog = Backlog::new();
        backlog.begin(0, 0, &bytes[..cut]);
        let rest = &bytes[cut..];
        backlog.room()[..rest.len()].copy_from_slice(rest);
        backlog.add(rest.len());
        assert!(backlog.is_closed(), "{cut}");
    }
}

#[test]
fn a_close_is_seen_behind_the_rest_of_a_frame_that_began_before() {
    let rest = [&HEARTBEAT[3..], &forced_close()].concat();
    let script = Script::default();
    let (mut reader, mut session) = (reader(&script, b""), session());
    script.lock().reads = [Ok(HEARTBEAT[..3].to_vec()), Ok(rest)].into();
    assert!(matches!(reader.read(MOMENT), Outcome::Bytes));
    reader.handle(&mut session).unwrap();
    reader.prepare_backlog(&mut session);
    assert_eq!(reader.read_ahead(), Ahead::End);
}

#[test]
fn the_buffer_grows_for_a_frame_larger_than_itself_and_shrinks_behind_it() {
    const USUAL: usize = 128 * 1024;
    let script = Script::default();
    let mut reader = reader(&script, b"");
    let mut session = session();
    let closing = ChannelState::new(Gate::new(Phase::Closing));
    assert!(session.add_channel(Some(1), closing).is_ok());
    // The last bytes of a frame of which the rest came before.
    let skipped = 3 * USUAL;
    let mut bytes = frame::body_prefix(1, skipped as u32).to_vec();
    bytes.resize(bytes.len() + skipped, 0);
    bytes.push(frame::FRAME_END);
    let open = ChannelState::new(Gate::new(Phase::Open));
    assert!(session.add_channel(Some(2), open).is_ok());
    // A header is looked at when it is whole.
    let header = |length: usize| {
        let mut bytes = frame::body_prefix(2, length as u32).to_vec();
        bytes[0] = 2;
        bytes.resize(bytes.len() + length, 0);
        bytes
    };
    script.lock().reads = [Ok(HEARTBEAT.to_vec()), Ok(bytes), Ok(header(3 * USUAL))].into();
    while let Outcome::Bytes = reader.read(MOMENT) {
        reader.handle(&mut session).unwrap();
    }
    let room = std::mem::take(&mut script.lock().room);
    let largest = room.iter().max().copied();
    assert!(room[..2].iter().all(|room| *room == USUAL), "{room:?}");
    // It doubles whenever it is full.
    assert_eq!(largest, Some(2 * USUAL), "{room:?}");
    assert_eq!(room.last().copied(), Some(USUAL - 7), "{room:?}");
    // What a large frame took is given back: with the handshake there may have come more than the usual room.
    let mut reader = self::reader(&script, &HEARTBEAT.repeat(USUAL / 4));
    while reader.has_unhandled() {
        reader.handle(&mut session).unwrap();
    }
    assert!(reader.memory() > USUAL);
    reader.read(MOMENT);
    assert_eq!(script.lock().room, [USUAL]);
    assert_eq!(reader.memory(), USUAL);
}

#[test]
fn a_period_and_a_look_are_over_when_their_time_is() {
    let mut reader = reader(&Script::default(), b"");
    let second = Duration::from_secs(1);
    reader.age(PERIOD - second);
    assert!(!reader.is_period_over());
    // Whichever comes first.
    assert!(
        reader.next_look(PERIOD * 2) <= second && reader.next_look(PERIOD * 2) > Duration::ZERO
    );
    assert_eq!(reader.next_look(second), Duration::ZERO);
    reader.age(second * 2);
    assert!(reader.is_period_over());
    assert_eq!(reader.next_look(PERIOD * 2), Duration::ZERO);
    // A pause looks anew, and its period goes on unless much came in it.
    reader.begin_pause();
    assert!(reader.is_period_over());
    reader.end_look(true);
    assert!(!reader.is_period_over());
    reader.age(second * 2);
    assert_eq!(reader.next_look(second), Duration::ZERO);
    reader.begin_pause();
    let next = reader.next_look(second);
    assert!(next > Duration::ZERO && next <= second);
}

/// Reads ahead so many bytes.
fn read_ahead(script: &Script, reader: &mut Reader, count: usize) {
    reader.prepare_backlog(&mut session());
    script
        .lock()
        .reads
        .push_back(Ok(HEARTBEAT.repeat(count / 8)));
    while !script.lock().reads.is_empty() {
        assert_eq!(reader.read_ahead(), Ahead::Bytes);
    }
}

/// A read that took long because the machine is busy begins a period of its own, so such tests try more than once.
fn once(is_so: impl Fn() -> bool) -> bool {
    (0..20).any(|_| is_so())
}

#[test]
fn a_quota_is_reached_within_a_period() {
    let is_so = || {
        let script = Script::default();
        let mut reader = reader(&script, b"");
        assert!(!reader.has_quota(0) && !reader.is_period_over());
        assert!(reader.next_look(PERIOD) <= PERIOD);
        assert_eq!(reader.next_look(Duration::ZERO), Duration::ZERO);
        read_ahead(&script, &mut reader, HALF_QUOTA);
        let early = reader.has_quota(0);
        read_ahead(&script, &mut reader, HALF_QUOTA);
        let reached = reader.has_quota(0);
        read_ahead(&script, &mut reader, 8);
        let reached = reached && reader.has_quota(0);
        // A look within the period leaves what was counted. So does a pause while what was read ahead is not handled.
        reader.end_look(false);
        reader.begin_pause();
        reader.begin_look();
        let stays = reader.has_quota(0);
        // A look at its end begins the next.
        reader.end_look(true);
        reader.begin_look();
        assert!(!early && !reader.has_quota(0));
        reached && stays
    };
    assert!(once(is_so));
}

#[test]
fn a_pause_after_much_was_read_begins_a_period() {
    let has_quota = |count: usize| {
        let script = Script::default();
        let (mut reader, mut session) = (reader(&script, b""), session());
        script
            .lock()
            .reads
            .push_back(Ok(HEARTBEAT.repeat(count / 8)));
        while let Outcome::Bytes = reader.read(MOMENT) {
            reader.handle(&mut session).unwrap();
        }
        reader.begin_pause();
        reader.begin_look();
        // What is missing to the quota if no period has begun, and not enough if one has.
        read_ahead(&script, &mut reader, HALF_QUOTA + 8);
        reader.has_quota(0)
    };
    assert!(once(|| has_quota(HALF_QUOTA - 8)));
    // One that has begun may be followed by another in the same way, so this is looked at more than once as well.
    assert!((0..5).all(|_| !has_quota(HALF_QUOTA) && !has_quota(HALF_QUOTA + 8)));
}

#[test]
fn a_read_that_had_to_wait_begins_a_period() {
    struct Slow(Script, Duration);
    impl Read for Slow {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            std::thread::sleep(self.1);
            self.0.read(buffer)
        }
    }
    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    impl Stream for Slow {
        fn try_clone(&self) -> io::Result<Box<dyn Stream>> {
            self.0.try_clone()
        }

        fn set_read_timeout(&self, _: Duration) -> io::Result<()> {
            Ok(())
        }

        fn set_write_timeout(&self, _: Duration) -> io::Result<()> {
            Ok(())
        }

        fn shutdown(&self) -> io::Result<()> {
            Ok(())
        }
    }
    let script = Script::default();
    let slow_reader = |takes| {
        let slow = Slow(script.clone(), takes);
        Reader::new(Box::new(slow), b"").unwrap()
    };
    let mut reader = slow_reader(Duration::from_millis(12));
    let before = Instant::now();
    script.lock().reads.push_back(Ok(HEARTBEAT.to_vec()));
    assert!(matches!(reader.read(SLICE), Outcome::Bytes));
    // The period began when the bytes came, so its end is not before the end of one that began then.
    let began = reader.last_bytes();
    assert!(began >= before + SLICE);
    let end = end_of_period(&reader);
    assert!(end >= began + PERIOD);
    // So does one that brought nothing, if its time was as long.
    let before = Instant::now();
    assert!(matches!(reader.read(SLICE), Outcome::Nothing));
    let end = end_of_period(&reader);
    assert!(end >= before + SLICE + PERIOD);
    let before = Instant::now();
    assert!(matches!(reader.read(MOMENT), Outcome::Nothing));
    let end = end_of_period(&reader);
    assert!(end <= before + PERIOD + Duration::from_millis(5));
    // Whether a period begins with a read of so long that brings something, or of this timeout that brings nothing.
    let begins = |takes, timeout, bytes: Option<Vec<u8>>| {
        let mut reader = slow_reader(takes);
        let second = Duration::from_secs(1);
        reader.age(second);
        let brings = bytes.is_some();
        script.lock().reads.extend(bytes.map(Ok));
        assert_eq!(matches!(reader.read(timeout), Outcome::Bytes), brings);
        reader.next_look(PERIOD * 2) > PERIOD - second / 2
    };
    assert!(begins(Duration::ZERO, SLICE * 3, None));
    assert!(!begins(Duration::from_millis(12), SLICE / 2, None));
    assert!(begins(SLICE * 3, SLICE, Some(HEARTBEAT.to_vec())));
    assert!(once(|| !begins(SLICE / 3, SLICE, Some(HEARTBEAT.to_vec()))));
}

// ---- a stream that does not wait

#[test]
fn reads_that_return_too_early_again_and_again_are_an_error() {
    let early = |timeout, reads: usize| {
        let mut counted = EarlyReturns::of("read");
        (0..reads).find(|_| counted.note(timeout).is_err())
    };
    let minute = Duration::from_secs(60);
    assert_eq!(early(minute, 50), None);
    assert_eq!(early(minute, 51), Some(50));
    // With a timeout as short as they took they are not early.
    assert_eq!(early(Duration::ZERO, 200), None);
    // Bytes in between begin the count anew.
    let mut counted = EarlyReturns::of("read");
    for n in 0..500 {
        assert!(counted.note(minute).is_ok(), "{n}");
        if n % 50 == 49 {
            counted.clear();
        }
    }
}

#[test]
fn reads_that_wait_a_tenth_of_their_time_are_not_too_early() {
    let mut counted = EarlyReturns::of("read");
    let timeout = Duration::from_millis(10);
    for n in 0..60 {
        assert!(counted.note(timeout).is_ok(), "{n}");
        std::thread::sleep(timeout / 5);
    }
}

#[test]
fn reads_that_waited_before_are_no_excuse() {
    let mut counted = EarlyReturns::of("read");
    let timeout = Duration::from_millis(10);
    for n in 0..51 {
        assert!(counted.note(timeout).is_ok(), "{n}");
        std::thread::sleep(timeout / 2);
    }
    assert!((0..51).any(|_| counted.note(timeout).is_err()));
}

#[test]
fn a_stream_that_never_waits_ends_the_connection() {
    let script = Script::default();
    let mut reader = reader(&script, b"");
    let mut is_end = || matches!(reader.read(Duration::from_secs(60)), Outcome::End(_));
    // Not while it brings something now and then.
    for _ in 0..5 {
        assert!(!(0..40).any(|_| is_end()));
        script.lock().reads.push_back(Ok(HEARTBEAT.to_vec()));
        assert!(!is_end());
    }
    assert_eq!((0..60).position(|_| is_end()), Some(50));
}
