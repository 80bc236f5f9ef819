//! A connection without its threads: whom a change wakes, when reading pauses, and what ends a connection.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use super::super::end::WRITE_ERROR_LIMIT;
use super::super::fork::Process;
use super::super::link::{Interest, Link, Opened, Shared};
use super::super::reader::Outcome;
use super::super::writer::Patience;
use super::*;
use crate::protocol::channel::{ChannelState, Gate, Phase};
use crate::protocol::connection::{Dispatcher, HELD_BOUND, RESUME_BELOW};
use crate::protocol::frame::{self, Frame};
use crate::protocol::handshake::Negotiated;
use crate::protocol::method::Method;
use crate::protocol::publish::Outbox;
use crate::Error;

pub(in crate::io) fn opened(
    script: &Script,
    heartbeat: u16,
    blocked_timeout: Option<Duration>,
) -> Opened {
    Opened {
        stream: script.transport(),
        leftover: Vec::new(),
        negotiated: Negotiated {
            channel_max: 10,
            frame_max: 16 * 1024,
            heartbeat,
            ..Negotiated::default()
        },
        address: "broker:5672".into(),
        max_message_size: 1 << 20,
        rpc_timeout: Duration::from_secs(60),
        blocked_timeout,
    }
}

pub(in crate::io) fn link_with(
    script: &Script,
    heartbeat: u16,
    blocked_timeout: Option<Duration>,
) -> Link {
    Link::new(opened(script, heartbeat, blocked_timeout)).unwrap()
}

pub(in crate::io) fn link(script: &Script) -> Link {
    link_with(script, 0, None)
}

/// A channel whose callbacks were registered by this thread.
pub(in crate::io) fn add_channel(shared: &mut Shared, home: u64) -> usize {
    let mut channel = ChannelState::new(Gate::new(Phase::Open));
    channel.threads.registering = home;
    let Ok((slot, _)) = shared.session.add_channel(None, channel) else {
        panic!("there is no channel left");
    };
    slot
}

/// Whether this thread was woken since it was asked for last.
pub(in crate::io) fn is_woken() -> bool {
    let (limit, began) = (Duration::from_millis(20), Instant::now());
    thread::park_timeout(limit);
    began.elapsed() < limit
}

pub(in crate::io) fn ago(time: Duration) -> Instant {
    Instant::now().checked_sub(time).unwrap()
}

pub(in crate::io) fn methods(bytes: &[u8]) -> Vec<String> {
    let (mut rest, mut methods) = (bytes, Vec::new());
    while let Some((frame, used)) = frame::parse(rest, 1 << 20).unwrap() {
        if let Frame::Method { channel, payload } = frame {
            methods.push(format!("{channel} {:?}", Method::decode(payload).unwrap()));
        }
        rest = &rest[used..];
    }
    methods
}

fn lost(end: Option<&Error>) -> String {
    match end {
        Some(Error::StreamLost(lost)) => lost.cause.clone(),
        other => panic!("{other:?}"),
    }
}

// ---- who is woken

#[test]
fn a_change_wakes_those_whom_it_concerns() {
    let link = link(&Script::default());
    let mut shared = link.lock();
    let (one, two) = (add_channel(&mut shared, 1), add_channel(&mut shared, 0));
    let dispatcher = |thread, channel| Interest::from(Dispatcher { thread, channel });
    // Who waits, and whether a change of the first channel, of the second, and of the connection concerns it.
    let waits = [
        (Interest::channel(one), [true, false, true]),
        (Interest::channel(two), [false, true, true]),
        (Interest::connection(), [true, true, true]),
        (Interest::optional(), [true, true, true]),
        (dispatcher(3, None), [true, true, true]),
        (dispatcher(1, Some(two)), [true, true, true]),
        (dispatcher(8, Some(two)), [false, true, true]),
        // A channel that no thread calls its own is nobody's.
        (dispatcher(0, Some(one)), [true, false, true]),
    ];
    is_woken();
    for (interest, expected) in waits {
        let waiter = shared.add_waiter(interest);
        let mut woken = [false; 3];
        for (change, woken) in woken.iter_mut().enumerate() {
            match change {
                0 => shared.session.changed.push(one),
                1 => shared.session.changed.push(two),
                _ => shared.session.connection_changed = true,
            }
            link.act_on_changes(&mut shared);
            *woken = is_woken();
            // It was woken for it, and is not again.
            link.act_on_changes(&mut shared);
            assert!(!is_woken(), "{interest:?}");
        }
        assert_eq!(woken, expected, "{interest:?}");
        shared.remove_waiter(waiter);
        shared.session.connection_changed = true;
        link.act_on_changes(&mut shared);
        assert!(!is_woken(), "it does not wait any more");
    }
}

#[test]
fn a_waiting_thread_is_woken_to_read_when_no_other_does() {
    let link = link(&Script::default());
    let mut shared = link.lock();
    is_woken();
    assert!(!shared.is_waited_for() && !shared.is_reader_wanted());
    shared.wake_next_reader();
    let first = shared.add_waiter(Interest::connection());
    let second = shared.add_waiter(Interest::connection());
    assert!(first != second && shared.is_waited_for() && shared.is_reader_wanted());
    shared.wake_next_reader();
    assert!(is_woken());
    let reader = shared.reader.take();
    shared.wake_next_reader();
    assert!(!is_woken(), "somebody reads");
    shared.reader = reader;
    shared.remove_waiter(first);
    assert!(shared.is_waited_for());
    shared.remove_waiter(second);
    assert!(!shared.is_waited_for() && !shared.is_reader_wanted());
    shared.dispatching.push(1);
    assert!(shared.is_reader_wanted() && !shared.is_waited_for());
}

#[test]
fn a_stop_wakes_all_that_wait() {
    use crate::protocol::channel::Wake;
    let link = link(&Script::default());
    let usual = Duration::from_secs(5);
    assert_eq!(link.closing_timeout(usual), usual);
    assert_eq!(
        link.closing_timeout(Duration::from_secs(99)),
        Duration::from_secs(60)
    );
    is_woken();
    link.lock().add_waiter(Interest::channel(1));
    let link = Arc::new(link);
    let (publisher, done) = (Arc::clone(&link), Arc::new(AtomicBool::new(false)));
    let is_done = Arc::clone(&done);
    let publishing = thread::spawn(move || {
        let patience = Patience {
            limit: Duration::from_secs(20),
            is_stopped: &|| publisher.is_stopped(),
        };
        let full = |out: &mut Outbox| {
            out.bytes.resize(1 << 20, 0);
            Ok(())
        };
        publisher.append_call(full).unwrap();
        let error = publisher.gather(1, patience, |_| Ok(())).unwrap_err();
        is_done.store(true, Ordering::Relaxed);
        error
    });
    until(|| link.outgoing.sleepers().1 == 1);
    assert!(!done.load(Ordering::Relaxed));
    let began = Instant::now();
    link.wake();
    assert!(is_woken());
    let error = publishing.join().unwrap();
    assert!(matches!(error, Error::Stopped { .. }), "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(15), "it was woken");
    assert_eq!(link.closing_timeout(usual), Duration::from_secs(2));
    assert_eq!(
        link.closing_timeout(Duration::from_secs(1)),
        Duration::from_secs(1)
    );
}

#[test]
fn a_thread_that_leaves_the_queue_lets_the_next_one_send() {
    let link = link(&Script::default());
    let mut shared = link.lock();
    let slot = add_channel(&mut shared, 0);
    let queue = &mut shared.session.channel(slot).unwrap().send_queue;
    let (first, second) = (queue.join(), queue.join());
    is_woken();
    shared.add_waiter(Interest::send_queue(slot));
    drop(shared);
    link.leave_send_queue(slot, first);
    assert!(is_woken());
    let mut shared = link.lock();
    let queue = &shared.session.channel(slot).unwrap().send_queue;
    assert!(queue.is_first(Some(second)));
    drop(shared);
    // The channel may be gone by then.
    link.leave_send_queue(slot + 1, second);
}

#[test]
fn watchers_are_woken_by_what_concerns_them() {
    use crate::protocol::channel::{Wake, Watcher};
    #[derive(Default)]
    struct Bell(AtomicBool);
    impl Wake for Bell {
        fn wake(&self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let link = link(&Script::default());
    let mut shared = link.lock();
    let (watched, other) = (add_channel(&mut shared, 0), add_channel(&mut shared, 0));
    let bell = Arc::new(Bell::default());
    shared.session.channel(watched).unwrap().watcher = Some(Watcher {
        wake: Arc::clone(&bell) as _,
        eager: true,
    });
    let rings = || bell.0.swap(false, Ordering::Relaxed);
    shared.session.changed.push(other);
    link.act_on_changes(&mut shared);
    assert!(!rings());
    shared.session.changed.push(watched);
    link.act_on_changes(&mut shared);
    assert!(rings());
    for blocked in [Some("alarm".into()), None] {
        shared.session.blocked = blocked;
        link.act_on_changes(&mut shared);
        assert!(rings());
        link.act_on_changes(&mut shared);
        assert!(!rings(), "nothing has changed");
    }
}

// ---- pauses

#[test]
fn reading_pauses_while_the_program_is_at_work_and_no_thread_waits_for_a_reply() {
    let link = link(&Script::default());
    let mut shared = link.lock();
    let slot = add_channel(&mut shared, 0);
    let idle = Some(Interest::optional());
    let call = Some(Interest::channel(slot));
    shared.session.undelivered = HELD_BOUND;
    assert!(!shared.has_enough(None));
    shared.session.undelivered += 1;
    assert!(shared.has_enough(None));
    // A thread that waits would wait for ever, unless the program's code is at work and comes back for more.
    assert!(!shared.has_enough(idle) && !shared.has_enough(call));
    let waiter = shared.add_waiter(Interest::optional());
    assert!(!shared.has_enough(None));
    let at_work = |shared: &mut Shared, running| {
        shared.session.channel(slot).unwrap().running = running;
    };
    at_work(&mut shared, true);
    let dispatcher = Dispatcher {
        thread: 1,
        channel: Some(slot),
    };
    assert!(shared.has_enough(Some(dispatcher.into())));
    assert!(shared.has_enough(None) && shared.has_enough(idle) && !shared.has_enough(call));
    let caller = shared.add_waiter(Interest::connection());
    assert!(!shared.has_enough(None) && !shared.has_enough(idle));
    shared.remove_waiter(caller);
    shared.stream_ended = true;
    assert!(!shared.has_enough(None));
    shared.stream_ended = false;
    shared.write_error = Some(Arc::new(io::ErrorKind::BrokenPipe.into()));
    assert!(!shared.has_enough(None));
    shared.write_error = None;
    at_work(&mut shared, false);
    shared.remove_waiter(waiter);
    assert!(shared.has_enough(None));
}

#[test]
fn a_pause_is_over_when_half_of_it_was_taken() {
    let link = link(&Script::default());
    let mut shared = link.lock();
    shared.session.undelivered = 0;
    link.resume_if_paused(&mut shared);
    link.look_again_if_paused(&mut shared);
    assert!(!shared.hand_over, "there is no pause");
    shared.pause();
    shared.session.undelivered = RESUME_BELOW + 1;
    link.resume_if_paused(&mut shared);
    assert!(!shared.hand_over);
    link.look_again_if_paused(&mut shared);
    assert!(std::mem::take(&mut shared.hand_over));
    shared.session.undelivered = RESUME_BELOW;
    link.act_on_changes(&mut shared);
    assert!(std::mem::take(&mut shared.hand_over));
    link.look_again_if_paused(&mut shared);
    assert!(!shared.hand_over, "it is over");
    // A pause of a moment explains nothing.
    assert_eq!(shared.describe_pause(), None);
}

#[test]
fn a_long_pause_is_reported_for_a_minute() {
    let link = link(&Script::default());
    let mut shared = link.lock();
    assert_eq!(shared.describe_pause(), None);
    shared.pause();
    let (began, ended) = shared.pause.unwrap();
    assert_eq!(ended, None);
    shared.pause();
    assert_eq!(shared.pause, Some((began, None)), "it goes on");
    shared.resume();
    let ended = shared.pause.unwrap().1.unwrap();
    assert!(ended >= began);
    shared.resume();
    assert_eq!(shared.pause, Some((began, Some(ended))), "it was over");
    shared.pause();
    assert!(shared.pause.unwrap().0 >= ended, "another one");
    let seconds = |seconds| ago(Duration::from_secs(seconds));
    let mut described = |began, ended| {
        shared.pause = Some((began, ended));
        shared.describe_pause()
    };
    assert_eq!(described(seconds(4), None), None);
    assert!(described(seconds(5), None).unwrap().contains("for 5 s"));
    assert!(described(seconds(900), None)
        .unwrap()
        .contains("more than 4 MiB"));
    assert_eq!(described(seconds(60), Some(seconds(57))), None);
    let text = described(seconds(68), Some(seconds(57))).unwrap();
    assert!(
        text.contains("for 11 s") || text.contains("for 10 s"),
        "{text}"
    );
    assert_eq!(described(seconds(900), Some(seconds(60))), None);
}

#[test]
fn the_reader_thread_is_woken_when_it_has_to_look() {
    let link = link_with(&Script::default(), 0, Some(Duration::from_secs(60)));
    assert!(link.reader_thread.set(thread::current()).is_ok());
    let mut shared = link.lock();
    is_woken();
    link.act_on_changes(&mut shared);
    assert!(!is_woken() && !link.outgoing.is_finishing());
    link.hand_over(&mut shared);
    assert!(is_woken() && shared.hand_over);
    shared.session.blocked = Some("alarm".into());
    link.act_on_changes(&mut shared);
    assert!(is_woken(), "it may have to end this");
    link.check_blocked(&mut shared);
    link.act_on_changes(&mut shared);
    assert!(!is_woken() && shared.session.end().is_none());
    link.end_for_lost_stream(&mut shared, io::ErrorKind::UnexpectedEof.into());
    assert!(!is_woken());
    link.act_on_changes(&mut shared);
    assert!(is_woken() && link.outgoing.is_finishing());
}

#[test]
fn a_forked_child_sees_a_connection_that_has_ended() {
    let script = Script::default();
    let mut link = link(&script);
    assert!(!link.notice_fork() && !link.is_inherited());
    assert_eq!(link.lock().session.max_message_size, 1 << 20);
    link.process = Process::other();
    assert!(!link.is_inherited() && link.lock().session.end().is_none());
    assert!(link.notice_fork() && link.is_inherited() && link.notice_fork());
    let end = link.lock().session.end().cloned();
    assert!(
        matches!(end, Some(Error::ConnectionWrongState { .. })),
        "{end:?}"
    );
    assert!(link.is_over() && !link.is_open());
    assert_eq!(link.end_reason().to_string(), end.unwrap().to_string());
    let closed = link.close(200, "bye", Duration::ZERO);
    assert!(
        matches!(closed, Err(Error::ConnectionWrongState { .. })),
        "{closed:?}"
    );
    // A wait would last for ever: no other thread of this process reads.
    let waited = link.wait(Interest::connection(), None, |_| None::<()>);
    assert_eq!(waited, None);
    assert!(script.written().is_empty() && !script.lock().is_shut_down);
}

/// The thread that held the lock stayed behind in the parent.
#[test]
fn a_forked_child_does_not_wait_for_a_lock_that_is_never_released() {
    let mut link = link(&Script::default());
    link.process = Process::other();
    let held = link.lock();
    assert!(held.session.end().is_none());
    let (ended, ends) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| ended.send(link.lock().session.end().is_some()));
        let result = ends.recv_timeout(Duration::from_secs(20));
        drop(held);
        assert_eq!(result, Ok(true));
    });
}

// ---- what follows a change

#[test]
fn replies_go_out_and_a_peer_that_reads_none_is_given_up() {
    let script = Script::default();
    let link = link(&script);
    let mut shared = link.lock();
    shared.session.to_send = b"reply".to_vec();
    link.act_on_changes(&mut shared);
    assert_eq!(
        (link.outgoing.unsent(), shared.session.to_send.len()),
        (5, 0)
    );
    link.act_on_changes(&mut shared);
    assert_eq!(link.outgoing.unsent(), 5);
    shared.session.to_send = vec![0; 17 << 20];
    link.act_on_changes(&mut shared);
    assert!(shared.session.end().is_none());
    shared.session.to_send = b"reply".to_vec();
    link.act_on_changes(&mut shared);
    let end = shared.session.end().cloned();
    assert!(
        matches!(end, Some(Error::UnexpectedFrame { .. })),
        "{end:?}"
    );
    assert!(link.outgoing.is_finishing());
}

#[test]
fn a_connection_may_be_blocked_for_so_long() {
    let limit = Duration::from_millis(30);
    let link = link_with(&Script::default(), 0, Some(limit));
    let mut shared = link.lock();
    let far = link.next_limit(&shared, Instant::now());
    assert!(far > Duration::from_secs(600));
    assert!(shared.blocked_since.is_none());
    shared.session.blocked = Some("alarm".into());
    link.act_on_changes(&mut shared);
    let since = shared.blocked_since.unwrap();
    assert!(link.next_limit(&shared, Instant::now()) <= limit);
    link.act_on_changes(&mut shared);
    assert_eq!(shared.blocked_since, Some(since), "it goes on");
    shared.session.blocked = None;
    link.act_on_changes(&mut shared);
    assert!(shared.blocked_since.is_none());
    shared.session.blocked = Some("alarm".into());
    link.act_on_changes(&mut shared);
    let since = shared.blocked_since.unwrap();
    while since.elapsed() < limit {
        thread::sleep(limit);
    }
    assert_eq!(link.blocked_limit(&shared), Duration::ZERO);
    assert_eq!(
        link.next_limit(&shared, Instant::now()),
        Duration::from_millis(1)
    );
    link.check_silence(&mut shared, Instant::now());
    match shared.session.end() {
        Some(Error::ConnectionBlockedTimeout {
            reason, timeout, ..
        }) => {
            assert_eq!((&**reason, *timeout), ("alarm", limit));
        }
        other => panic!("{other:?}"),
    }
    assert!(link.outgoing.is_finishing());
}

#[test]
fn an_end_in_good_order_is_not_cut_short_by_a_limit() {
    let script = Script::default();
    let link = link_with(&script, 0, Some(Duration::ZERO));
    link.append_call(|out| {
        out.bytes.push(b'x');
        Ok(())
    })
    .unwrap();
    let mut shared = link.lock();
    shared.session.blocked = Some("alarm".into());
    shared.session.end_by_client();
    link.act_on_changes(&mut shared);
    link.check_blocked(&mut shared);
    drop(shared);
    link.outgoing.write_rest().unwrap();
    assert_eq!(script.written(), b"x");
}

#[test]
fn without_a_limit_a_connection_stays_blocked() {
    let link = link(&Script::default());
    let mut shared = link.lock();
    shared.session.blocked = Some("alarm".into());
    link.act_on_changes(&mut shared);
    shared.blocked_since = Some(ago(Duration::from_secs(100)));
    link.check_blocked(&mut shared);
    assert!(shared.session.end().is_none());
    drop(shared);
    match link.timed_out("it", Duration::from_secs(1), Some(3)) {
        Error::Timeout {
            blocked, channel, ..
        } => {
            assert_eq!((blocked.as_deref(), channel), (Some("alarm"), Some(3)));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn silence_ends_a_connection_five_seconds_after_the_interval() {
    let script = Script::default();
    let link = link_with(&script, 10, None);
    link.append_call(|out| {
        out.bytes.push(b'x');
        Ok(())
    })
    .unwrap();
    assert!(link.outgoing.request_write().is_some());
    let mut shared = link.lock();
    let next = link.next_limit(&shared, ago(Duration::from_secs(5)));
    assert!(next <= Duration::from_secs(10) && next > Duration::from_secs(8));
    link.check_silence(&mut shared, ago(Duration::from_secs(12)));
    assert!(shared.session.end().is_none());
    link.check_silence(&mut shared, ago(Duration::from_secs(15)));
    match shared.session.end() {
        Some(Error::HeartbeatTimeout {
            heartbeat,
            silent_for,
            ..
        }) => {
            assert_eq!(*heartbeat, Duration::from_secs(10));
            assert!(*silent_for >= Duration::from_secs(15));
        }
        other => panic!("{other:?}"),
    }
    drop(shared);
    // Nothing is sent to a peer that is dead.
    assert!(!link.outgoing.may_have_unhandled() && link.outgoing.request_write().is_none());
    link.write_gathered();
    assert!(script.written().is_empty());
}

// ---- ends

#[test]
fn what_came_is_handled_and_a_violation_is_reported_to_the_peer() {
    let cases: [(&[u8], u16); 2] = [
        (b"\x09\0\0\0\0\0\0\xce", 501),
        (b"\x03\0\0\0\0\0\x01x\xce", 505),
    ];
    for (bytes, code) in cases {
        let script = Script::default();
        let link = link(&script);
        let mut shared = link.lock();
        let mut reader = shared.reader.take().unwrap();
        script.lock().reads.push_back(Ok(frame::HEARTBEAT.to_vec()));
        let outcome = reader.read(Duration::from_millis(1));
        link.receive(&mut shared, &mut reader, outcome);
        assert!(shared.session.end().is_none());
        assert_eq!(shared.last_bytes, reader.last_bytes());
        script.lock().reads.push_back(Ok(bytes.to_vec()));
        let outcome = reader.read(Duration::from_millis(1));
        link.receive(&mut shared, &mut reader, outcome);
        assert!(shared.session.end().is_some());
        link.outgoing.write_rest().unwrap();
        let close = methods(&script.written());
        assert_eq!(close.len(), 1, "{close:?}");
        assert!(
            close[0].starts_with("0 ConnectionClose") && close[0].contains(&code.to_string()),
            "{close:?}"
        );
        assert!(close[0].contains("class_id: 0, method_id: 0"), "{close:?}");
    }
}

#[test]
fn the_more_specific_error_is_the_reason() {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, TimedOut, UnexpectedEof};
    // What a write failed with, what a read found, and which of them counts.
    let cases = [
        (None, UnexpectedEof, UnexpectedEof),
        (Some(ConnectionReset), UnexpectedEof, ConnectionReset),
        (Some(BrokenPipe), ConnectionReset, ConnectionReset),
        (Some(ConnectionReset), TimedOut, ConnectionReset),
        (Some(BrokenPipe), UnexpectedEof, BrokenPipe),
    ];
    for (written, read, reason) in cases {
        for is_reported in [true, false] {
            let script = Script::default();
            let link = link(&script);
            if let Some(written) = written {
                script.lock().takes = [Err(written.into())].into();
                link.append_call(|out| {
                    out.bytes.push(b'x');
                    Ok(())
                })
                .unwrap();
                assert!(link.is_open() && !link.is_over());
                if is_reported {
                    link.write_gathered();
                    assert!(script.lock().is_shut_down);
                    assert!(link.lock().hand_over && link.lock().session.is_draining);
                } else {
                    link.outgoing.write_gathered().unwrap_err();
                }
                assert!(!link.is_open() && link.is_over());
            }
            let mut shared = link.lock();
            link.end_for_lost_stream(&mut shared, read.into());
            let text = lost(shared.session.end());
            let expected = io::Error::from(reason).to_string();
            assert!(text.contains(&expected), "{text}, not {expected}");
            drop(shared);
            assert!(!link.is_open() && link.is_over());
            assert_eq!(lost(Some(&link.end_reason())), text);
        }
    }
}

#[test]
fn a_failed_write_is_the_reason_until_the_reads_have_a_better_one() {
    let script = Script::default();
    let link = link(&script);
    script.lock().takes = [Err(io::ErrorKind::ConnectionReset.into())].into();
    link.append_call(|out| {
        out.bytes.push(b'x');
        Ok(())
    })
    .unwrap();
    link.write_gathered();
    assert!(link.lock().write_error.is_some());
    let reset = io::Error::from(io::ErrorKind::ConnectionReset).to_string();
    assert!(lost(Some(&link.end_reason())).contains(&reset));
    // The first error stays.
    link.write_failed(Arc::new(io::ErrorKind::BrokenPipe.into()));
    assert!(lost(Some(&link.end_reason())).contains(&reset));
    let mut shared = link.lock();
    assert!(shared.session.end().is_none());
    let mut reader = shared.reader.take().unwrap();
    let end = Outcome::End(io::ErrorKind::UnexpectedEof.into());
    link.receive(&mut shared, &mut reader, end);
    assert!(lost(shared.session.end()).contains(&reset));
}

#[test]
fn the_end_is_waited_for_after_a_failed_write() {
    let script = Script::default();
    let link = Arc::new(link(&script));
    script.lock().takes = [Err(io::ErrorKind::BrokenPipe.into())].into();
    link.append_call(|out| {
        out.bytes.push(b'x');
        Ok(())
    })
    .unwrap();
    // Under a busy machine the wait may be over before; then the write's error is what is known.
    let is_so = (0..20).any(|_| {
        link.write_gathered();
        let waits = Arc::clone(&link);
        let reason = thread::spawn(move || waits.end_reason());
        let began = Instant::now();
        while link.outgoing.sleepers().1 == 0 && began.elapsed() < Duration::from_millis(100) {
            thread::yield_now();
        }
        let mut shared = link.lock();
        link.end_for_lost_stream(&mut shared, io::ErrorKind::ConnectionReset.into());
        link.act_on_changes(&mut shared);
        drop(shared);
        let reset = io::Error::from(io::ErrorKind::ConnectionReset).to_string();
        lost(Some(&reason.join().unwrap())).contains(&reset)
    });
    assert!(is_so);
}

#[test]
fn the_end_of_the_stream_waits_for_a_write_that_is_going_on() {
    let script = Script::default();
    let link = Arc::new(link(&script));
    let (release, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    script.lock().before_write = Some(Arc::new(move || {
        let _ = held.lock().unwrap().recv();
    }));
    link.append_call(|out| {
        out.bytes.push(b'x');
        Ok(())
    })
    .unwrap();
    let writes = Arc::clone(&link);
    let writing = thread::spawn(move || writes.write_gathered());
    let outgoing = &link.outgoing;
    // Until the write half is taken there is nothing to wait for.
    let waits = |outcome: Outcome| {
        let began = Instant::now();
        link.wait_for_write_error(&outcome);
        began.elapsed()
    };
    until(|| waits(Outcome::End(io::ErrorKind::UnexpectedEof.into())) >= WRITE_ERROR_LIMIT);
    let shortest = (0..20)
        .map(|_| waits(Outcome::Nothing).min(waits(Outcome::Bytes)))
        .min();
    assert!(shortest < Some(WRITE_ERROR_LIMIT / 2));
    assert_eq!(outgoing.sleepers().1, 0);
    drop(release);
    writing.join().unwrap();
    assert!(waits(Outcome::End(io::ErrorKind::UnexpectedEof.into())) < Duration::from_secs(5));
}

#[test]
fn a_connection_that_is_given_up_is_closed_with_the_reason() {
    let script = Script::default();
    let link = link(&script);
    let cause = Error::Stopped { waiting_for: "it" };
    link.abandon(&cause);
    link.abandon(&Error::Stopped {
        waiting_for: "other",
    });
    assert!(!link.is_open() && link.is_over() && link.outgoing.is_finishing());
    match link.end_reason() {
        Error::ConnectionClosedByClient {
            reply_code,
            reply_text,
            ..
        } => {
            assert_eq!(reply_code, 200);
            assert!(reply_text.contains(&cause.to_string()), "{reply_text}");
        }
        other => panic!("{other:?}"),
    }
    link.outgoing.write_rest().unwrap();
    let sent = methods(&script.written());
    assert_eq!(sent.len(), 1, "{sent:?}");
    assert!(
        sent[0].starts_with("0 ConnectionClose") && sent[0].contains("200"),
        "{sent:?}"
    );
    assert!(sent[0].contains("class_id: 0, method_id: 0"), "{sent:?}");
    assert!(link.check_confirmed(&link.end_reason()).is_ok());
}

#[test]
fn a_channel_that_is_ended_is_closed_with_the_reason() {
    let script = Script::default();
    let link = link(&script);
    let mut shared = link.lock();
    let slot = add_channel(&mut shared, 0);
    is_woken();
    shared.add_waiter(Interest::channel(slot));
    let why = Error::Stopped { waiting_for: "it" };
    link.end_channel(&mut shared, slot, 541, "given up", why);
    assert!(is_woken());
    let channel = shared.session.channel(slot).unwrap();
    assert!(matches!(
        channel.gate.end(),
        Some(Error::Stopped { waiting_for: "it" })
    ));
    drop(shared);
    link.outgoing.write_rest().unwrap();
    let sent = methods(&script.written());
    assert_eq!(sent.len(), 1, "{sent:?}");
    assert!(
        sent[0].starts_with("1 ChannelClose") && sent[0].contains("541"),
        "{sent:?}"
    );
}

#[test]
fn a_close_that_is_not_confirmed_in_time_ends_the_connection_all_the_same() {
    let script = Script::default();
    let link = link(&script);
    // Long enough that a busy machine writes what it has to before.
    let timeout = Duration::from_millis(300);
    let closed = link.close(200, "bye", timeout);
    assert!(matches!(closed, Err(Error::Timeout { .. })), "{closed:?}");
    assert!(methods(&script.written())[0].starts_with("0 ConnectionClose"));
    assert!(script.lock().is_shut_down && link.is_over() && link.outgoing.is_finishing());
    // Nothing more is written.
    link.append_call(|out| {
        out.bytes.push(b'x');
        Ok(())
    })
    .unwrap();
    assert!(link.outgoing.request_write().is_none());
    // Again, it has ended.
    let again = link.close(200, "bye", timeout);
    assert!(
        matches!(again, Err(Error::ConnectionWrongState { .. })),
        "{again:?}"
    );
}

#[test]
fn an_end_is_reported_by_one_close() {
    let script = Script::default();
    let link = link(&script);
    script.lock().reads = [Ok(Vec::new())].into();
    let closed = link.close(200, "bye", Duration::from_secs(20));
    assert!(matches!(closed, Err(Error::StreamLost(_))), "{closed:?}");
    let again = link.close(200, "bye", Duration::from_secs(20));
    assert!(
        matches!(again, Err(Error::ConnectionWrongState { .. })),
        "{again:?}"
    );
}

#[test]
fn a_connection_is_closed_once() {
    let script = Script::default();
    let link = link(&script);
    link.lock().session.close(200, "bye").unwrap();
    let again = link.close(200, "bye", Duration::ZERO);
    let text = again.unwrap_err().to_string();
    assert!(text.contains("another thread"), "{text}");
    link.abandon(&Error::Stopped { waiting_for: "it" });
    link.outgoing.write_rest().unwrap();
    let sent = methods(&script.written());
    assert_eq!(sent.len(), 1, "{sent:?}");
}

#[test]
fn a_close_that_the_broker_did_not_confirm_reports_what_was_not_sent() {
    let script = Script::default();
    let link = link(&script);
    let reset = || io::Error::from(io::ErrorKind::ConnectionReset);
    link.lock().last_bytes = ago(Duration::from_secs(3));
    let mut shared = link.lock();
    link.end_for_lost_stream(&mut shared, reset());
    let end = shared.session.end().cloned().unwrap();
    // What came since says nothing of how long the peer had been silent.
    shared.last_bytes = Instant::now();
    drop(shared);
    let report = |end| match link.check_confirmed(end).unwrap_err() {
        Error::StreamLost(lost) => (lost.cause.clone(), lost.silent_for),
        other => panic!("{other:?}"),
    };
    let (cause, silent_for) = report(&end);
    assert!(cause.starts_with(&reset().to_string()), "{cause}");
    assert!(!cause.contains("bytes"), "{cause}");
    assert!(silent_for >= Duration::from_secs(3));
    link.append_call(|out| {
        out.bytes.extend_from_slice(b"unsent");
        Ok(())
    })
    .unwrap();
    let (cause, _) = report(&end);
    assert!(cause.contains("; 6 bytes were not sent, and "), "{cause}");
}
