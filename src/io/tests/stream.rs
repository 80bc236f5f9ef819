//! What a handshake sends, and what stands between this crate and a stream that the program made.

use std::time::Instant;

use super::super::guarded::Guarded;
use super::super::stream::send_all;
use super::*;

/// How sending this ended, and how long it took.
fn sent(script: &Script, bytes: &[u8], limit: Option<Duration>) -> (io::Result<()>, Duration) {
    let (mut stream, bytes) = (script.transport(), bytes.to_vec());
    let sent = elsewhere(move || {
        let began = Instant::now();
        let deadline = limit.map(|limit| began + limit);
        (send_all(&mut *stream, &bytes, deadline), began.elapsed())
    });
    ends(&sent)
}

#[test]
fn what_takes_nothing_is_made_again() {
    let script = Script::default();
    let (interrupted, time_up) = (io::ErrorKind::Interrupted, io::ErrorKind::TimedOut);
    script.lock().takes = [
        Err(interrupted.into()),
        Ok(2),
        Err(time_up.into()),
        Ok(1000),
    ]
    .into();
    script.lock().flush_errors = [interrupted, time_up].into();
    sent(&script, b"abcdef", None).0.unwrap();
    assert_eq!(script.written(), b"abcdef");
    assert_eq!(script.lock().given, [[6], [6], [4], [4]]);
    assert_eq!(script.lock().flushes, 3);
    // Every other error is the end.
    script.lock().takes = [Err(io::ErrorKind::BrokenPipe.into())].into();
    let error = sent(&script, b"more", None).0.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    script.lock().takes = [Ok(0)].into();
    let error = sent(&script, b"more", None).0.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WriteZero);
}

#[test]
fn a_peer_that_takes_nothing_is_waited_for_until_the_deadline() {
    let script = Script::default();
    script.lock().is_stuck = true;
    let limit = Duration::from_millis(150);
    let (result, took) = sent(&script, b"abc", Some(limit));
    assert_eq!(result.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert!(took >= limit);
    // A write that returns at once is not made again at once.
    let writes = script.lock().given.len();
    assert!(writes > 1 && writes <= took.as_millis() as usize + 1);
}

#[test]
fn a_peer_that_takes_little_is_waited_for_no_longer() {
    let script = Script::default();
    script.lock().takes = (0..1000).map(|_| Ok(1)).collect();
    script.lock().before_write = Some(Arc::new(|| std::thread::sleep(Duration::from_millis(5))));
    let (result, _) = sent(&script, &[7; 1000], Some(Duration::from_millis(20)));
    assert_eq!(result.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert!((1..=10).contains(&script.written().len()));
    // What is taken as a whole is sent, however late it is.
    let script = Script::default();
    sent(&script, b"abc", Some(Duration::ZERO)).0.unwrap();
    assert_eq!((script.written().len(), script.lock().flushes), (3, 1));
}

#[test]
fn without_a_deadline_a_stream_that_does_not_wait_is_found_out() {
    let script = Script::default();
    script.lock().is_stuck = true;
    let error = sent(&script, b"abc", None).0.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("set_write_timeout has no effect"),
        "{error}"
    );
    assert_eq!(script.lock().given.len(), 51);
    // Not one that takes something now and then.
    let script = Script::default();
    let nothing = || (0..40).map(|_| Err(io::ErrorKind::WouldBlock.into()));
    script.lock().takes = nothing().chain([Ok(1)]).chain(nothing()).collect();
    sent(&script, b"abc", None).0.unwrap();
    assert_eq!(script.written(), b"abc");
}

#[test]
fn what_a_stream_of_the_program_does_is_passed_on() {
    let script = Script::default();
    let mut stream = Guarded::new(script.transport());
    script.lock().reads = [Ok(b"abc".to_vec())].into();
    let mut buffer = [0; 8];
    assert_eq!(stream.read(&mut buffer).unwrap(), 3);
    assert_eq!(&buffer[..3], b"abc");
    assert_eq!(stream.write(b"defg").unwrap(), 4);
    let slices = [IoSlice::new(b"hi"), IoSlice::new(b"jkl")];
    assert_eq!(stream.write_vectored(&slices).unwrap(), 5);
    stream.flush().unwrap();
    let (short, long) = (Duration::from_millis(3), Duration::from_secs(3));
    stream.set_read_timeout(short).unwrap();
    stream.try_clone().unwrap().set_write_timeout(long).unwrap();
    stream.shutdown().unwrap();
    let script = script.lock();
    assert_eq!(script.written, b"defghijkl");
    assert_eq!(
        (&script.given[..], script.flushes),
        (&[vec![4], vec![2, 3]][..], 1)
    );
    assert_eq!(
        (&script.read_timeouts[..], &script.write_timeouts[..]),
        (&[short][..], &[long][..])
    );
    assert!(script.is_shut_down);
}

/// How long so many calls take.
fn takes(calls: usize, call: impl Fn()) -> Duration {
    let began = Instant::now();
    (0..calls).for_each(|_| call());
    began.elapsed()
}

#[test]
fn calls_that_come_to_nothing_are_slowed_down() {
    type Call = fn(&mut Guarded) -> io::Result<usize>;
    let read: Call = |stream| stream.read(&mut [0; 8]);
    let write: Call = |stream| stream.write(b"abc");
    let write_vectored: Call = |stream| stream.write_vectored(&[IoSlice::new(b"abc")]);
    let flush: Call = |stream| stream.flush().map(|()| 1);
    // A read that returns before its time is an error of its own.
    let calls = [
        (read, false),
        (write, true),
        (write_vectored, true),
        (flush, true),
    ];
    let kinds = [io::ErrorKind::Interrupted, io::ErrorKind::WouldBlock];
    let ms = Duration::from_millis(1);
    for (call, with_timeouts) in calls {
        for kind in kinds {
            let script = Script::default();
            let stream = std::cell::RefCell::new(Guarded::new(script.transport()));
            let made = || call(&mut stream.borrow_mut());
            let fails = || {
                script.lock().takes = [Err(kind.into())].into();
                script.lock().reads = [Err(kind.into())].into();
                script.lock().flush_errors = [kind].into();
                assert_eq!(made().unwrap_err().kind(), kind);
            };
            let works = || {
                let mut script = script.lock();
                script.takes.clear();
                script.reads = [Ok(b"abc".to_vec())].into();
                script.flush_errors.clear();
                drop(script);
                made().unwrap();
            };
            // Not the first few after one that works. A busy machine may take long all the same, so there are more attempts.
            let at_once = |count| {
                works();
                takes(count, fails) < ms
            };
            assert!((0..50).any(|_| at_once(8)));
            if kind == io::ErrorKind::Interrupted || with_timeouts {
                assert!(!at_once(9) && takes(20, fails) >= ms * 20);
            } else {
                assert!((0..50).any(|_| at_once(20)));
            }
        }
    }
}
