//! What becomes of an attempt to connect, over a stream in memory: the handshake to its end, and each way it may fail.

use super::*;
use crate::io::tests::{forced_close, Script};
use crate::protocol::method::Method;
use crate::{FieldTable, FieldValue, PlainCredentials};

/// Eight bytes, as a broker that speaks another version replies.
const OTHER_VERSION: &[u8] = b"AMQP\x03\x01\x00\x00";

fn method(channel: u16, method: &Method<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::write_method(&mut bytes, channel, method).unwrap();
    bytes
}

fn start_of(server_properties: &FieldTable) -> Vec<u8> {
    method(
        0,
        &Method::ConnectionStart {
            version_major: 0,
            version_minor: 9,
            server_properties: server_properties.into(),
            mechanisms: b"PLAIN",
            locales: b"en_US",
        },
    )
}

fn start() -> Vec<u8> {
    start_of(&FieldTable::from([("product", "RabbitMQ")]))
}

/// From a server that says why before it hangs up.
fn start_of_one_that_gives_reasons() -> Vec<u8> {
    let able = FieldTable::from([("authentication_failure_close", true)]);
    start_of(&FieldTable::from([(
        "capabilities",
        FieldValue::from(able),
    )]))
}

fn tune() -> Vec<u8> {
    method(
        0,
        &Method::ConnectionTune {
            channel_max: 10,
            frame_max: 8192,
            heartbeat: 7,
        },
    )
}

fn open_ok() -> Vec<u8> {
    method(0, &Method::ConnectionOpenOk {})
}

fn parameters() -> ConnectionParameters {
    ConnectionParameters::new("broker").port(5672)
}

/// Opens over a stream that brings this, one after the other. An empty one is the stream's end.
fn opened(
    parameters: &ConnectionParameters,
    reads: impl IntoIterator<Item = io::Result<Vec<u8>>>,
) -> (Script, Result<Opened>) {
    let script = Script::default();
    script.lock().reads = reads.into_iter().collect();
    let opened = open_over(parameters, script.transport());
    (script, opened)
}

/// The error of a handshake in which the peer sends this and hangs up.
fn refused(parameters: &ConnectionParameters, sent: &[&[u8]]) -> Error {
    let reads = sent.iter().map(|bytes| Ok(bytes.to_vec()));
    let (script, opened) = opened(parameters, reads.chain([Ok(Vec::new())]));
    assert!(
        script.lock().is_shut_down,
        "a stream that failed is shut down"
    );
    match opened {
        Ok(_) => panic!("it is open"),
        Err(error) => error,
    }
}

fn nothing() -> io::Result<Vec<u8>> {
    Err(io::ErrorKind::WouldBlock.into())
}

/// The methods in this, by name.
fn names(mut bytes: &[u8]) -> Vec<&'static str> {
    let mut names = Vec::new();
    while let Some((frame, length)) = frame::parse(bytes, 0).unwrap() {
        let Frame::Method {
            channel: 0,
            payload,
        } = frame
        else {
            panic!("{frame:?}");
        };
        names.push(Method::decode(payload).unwrap().name());
        bytes = &bytes[length..];
    }
    names
}

// ---- the handshake

#[test]
fn a_handshake_is_driven_to_its_end() {
    let limit = Duration::from_secs(15);
    let parameters = parameters().stack_timeout(limit);
    let start = start();
    let (first, second) = start.split_at(11);
    let reads = [
        Ok(frame::HEARTBEAT.to_vec()),
        Ok(first.to_vec()),
        Err(io::ErrorKind::Interrupted.into()),
        nothing(),
        Ok(second.to_vec()),
        Ok(tune()),
        Ok([open_ok(), frame::HEARTBEAT.to_vec()].concat()),
    ];
    let (script, opened) = opened(&parameters, reads);
    let opened = opened.unwrap();
    assert_eq!(opened.leftover, frame::HEARTBEAT);
    assert_eq!(
        (opened.negotiated.frame_max, opened.negotiated.channel_max),
        (8192, 10)
    );
    assert_eq!(&*opened.address, "broker:5672");
    let written = script.written();
    let (header, methods) = written.split_at(8);
    assert_eq!(header, b"AMQP\0\0\x09\x01");
    assert_eq!(
        names(methods),
        [
            "connection.start-ok",
            "connection.tune-ok",
            "connection.open"
        ]
    );
    let script = script.lock();
    // Each time something is to be sent, and no more often.
    assert_eq!(script.flushes, 3);
    assert!(!script.is_shut_down);
    for timeouts in [&script.read_timeouts, &script.write_timeouts] {
        assert!(!timeouts.is_empty() && timeouts.iter().all(|timeout| *timeout <= limit));
        assert!(
            timeouts.iter().all(|timeout| *timeout > limit / 2),
            "{timeouts:?}"
        );
    }
}

#[test]
fn timeouts_are_not_set_anew_within_a_moment() {
    let is_so = || {
        let reads = [Ok(start()), Ok(tune()), Ok(open_ok())];
        let (script, opened) = opened(&parameters(), reads);
        assert!(opened.is_ok());
        let set = script.lock().read_timeouts.len();
        set == 1
    };
    // A busy machine may need longer than that.
    assert!((0..20).any(|_| is_so()));
    // After a moment they are.
    let script = Script::default();
    script.lock().before_write = Some(Arc::new(|| thread::sleep(Duration::from_millis(110))));
    script.lock().reads = [Ok(start()), Ok(tune()), Ok(open_ok())].into();
    assert!(open_over(&parameters(), script.transport()).is_ok());
    assert!(script.lock().read_timeouts.len() >= 3);
}

#[test]
fn without_a_deadline_the_stream_has_an_hour() {
    let parameters = parameters().stack_timeout(None);
    let (script, opened) = opened(&parameters, [Ok(start()), Ok(tune()), Ok(open_ok())]);
    assert!(opened.is_ok());
    let hour = Duration::from_secs(3600);
    assert!(script
        .lock()
        .read_timeouts
        .iter()
        .all(|timeout| *timeout == hour));
}

#[test]
fn when_the_time_is_up_no_more_is_read() {
    let parameters = parameters().stack_timeout(Duration::from_nanos(1));
    let (script, opened) = opened(&parameters, [Ok(start())]);
    let error = opened.err().unwrap();
    let failure = error.connect_failure().unwrap();
    assert!(matches!(error, Error::Connection(_)), "{error:?}");
    let cause = failure.cause.as_str();
    assert!(cause.starts_with("timed out after ") && cause.ends_with(" waiting for the peer"));
    assert!(error.is_retryable() && failure.hint.is_none());
    assert_eq!(failure.stage, Stage::ProtocolHeader);
    let script = script.lock();
    assert_eq!(script.reads.len(), 1);
    // Streams take no timeout of 0.
    let least = Duration::from_millis(1);
    assert_eq!(script.write_timeouts, [least]);
    assert_eq!(script.read_timeouts, [least]);
}

#[test]
fn a_stream_that_does_not_wait_is_found_out() {
    let (_, opened) = opened(&parameters(), []);
    let error = opened.err().unwrap();
    assert!(matches!(error, Error::Connection(_)), "{error:?}");
    assert!(
        error.to_string().contains("before its time is up"),
        "{error}"
    );
    // One that brings something now and then waits.
    let early = || (0..40).map(|_| nothing());
    let reads = early()
        .chain([Ok(start())])
        .chain(early())
        .chain([Ok(tune())])
        .chain(early())
        .chain([Ok(open_ok())]);
    let (_, opened) = self::opened(&parameters(), reads);
    assert!(opened.is_ok());
}

#[test]
fn a_stream_whose_timeouts_cannot_be_set_is_an_error_that_may_pass() {
    let script = Script::default();
    script.lock().timeout_error = Some(io::ErrorKind::Other);
    let error = open_over(&parameters(), script.transport()).err().unwrap();
    assert!(matches!(error, Error::Connection(_)), "{error:?}");
    assert!(
        error.to_string().contains("timeouts cannot be set"),
        "{error}"
    );
    assert!(error.is_retryable() && script.written().is_empty());
}

#[test]
fn a_connection_without_its_threads_is_an_error_that_may_pass() {
    let error = not_started("broker:5672".into(), io::ErrorKind::WouldBlock.into());
    assert!(
        matches!(error, Error::Connection(_)) && error.is_retryable(),
        "{error:?}"
    );
    let failure = error.connect_failure().unwrap();
    assert_eq!(
        (failure.attempts.len(), failure.attempts_made),
        (1, 1),
        "{error}"
    );
    assert!(error.to_string().contains("was open, and then"), "{error}");
}

#[test]
fn parameters_are_looked_at_first() {
    let (script, opened) = opened(&parameters().frame_max(1), []);
    let error = opened.err().unwrap();
    assert!(matches!(error, Error::InvalidParameter { .. }), "{error:?}");
    assert!(script.written().is_empty());
    let error = open(&[]).err().unwrap();
    assert!(matches!(error, Error::InvalidParameter { .. }), "{error:?}");
}

// ---- the ways it may fail

#[test]
fn an_end_means_something_else_at_each_stage() {
    type Kind = fn(&Error) -> bool;
    let protocol: Kind = |error| matches!(error, Error::IncompatibleProtocol(_));
    let connection: Kind = |error| matches!(error, Error::Connection(_));
    let login: Kind = |error| matches!(error, Error::ProbableAuthentication(_));
    let access: Kind = |error| matches!(error, Error::ProbableAccessDenied(_));
    let (start, why, tune) = (
        &start()[..],
        &start_of_one_that_gives_reasons()[..],
        &tune()[..],
    );
    let half = &tune[..9];
    // What came, the error, its hint, and whether another attempt may help.
    type Case<'a> = (&'a [&'a [u8]], Kind, Option<&'a str>, bool);
    let cases: [Case<'_>; 17] = [
        (&[], protocol, Some("a proxy whose broker is down"), true),
        // Half a frame is no refusal, however little of it came.
        (&[b"\x01"], connection, None, true),
        (&[b"\x01\0", b"\0"], connection, None, true),
        (&[&start[..20]], connection, None, true),
        (&[start, half], connection, None, true),
        (&[start, b"\x08\0"], connection, None, true),
        (&[start, tune, &start[..8]], connection, None, true),
        // What came is no AMQP.
        (&[b"\x09"], protocol, None, false),
        (&[b"\x01\x07\0"], protocol, None, false),
        (&[b"SSH-2.0-OpenSSH"], protocol, None, false),
        (&[b"AMQP\x03\x01\x00"], protocol, None, false),
        (
            &[start],
            login,
            Some("the user or the password is wrong"),
            false,
        ),
        (
            &[why],
            login,
            Some("the user or the password is wrong"),
            true,
        ),
        (
            &[start, &frame::HEARTBEAT],
            login,
            Some("the user or the password is wrong"),
            false,
        ),
        (
            &[start, tune],
            access,
            Some("the virtual host does not exist"),
            false,
        ),
        (
            &[why, tune],
            access,
            Some("the virtual host does not exist"),
            true,
        ),
        (
            &[start, tune, &frame::HEARTBEAT[..]],
            access,
            Some("the virtual host does not exist"),
            false,
        ),
    ];
    for (n, (sent, kind, hint, retryable)) in cases.into_iter().enumerate() {
        let error = refused(&parameters(), sent);
        let failure = error.connect_failure().unwrap();
        assert!(kind(&error), "{n}: {error:?}");
        assert_eq!(error.is_retryable(), retryable, "{n}: {error}");
        match hint {
            Some(hint) => assert!(failure.hint.unwrap().contains(hint), "{n}: {error}"),
            None => assert_eq!(failure.hint, None, "{n}: {error}"),
        }
    }
}

#[test]
fn the_end_has_its_cause() {
    use std::error::Error as _;
    let cause = |error: &Error| {
        let source = error.source().unwrap();
        source.downcast_ref::<io::Error>().unwrap().kind()
    };
    for sent in [&[][..], &[b"\x01".as_slice()]] {
        let error = refused(&parameters(), sent);
        assert!(
            error.to_string().contains("the peer closed the stream"),
            "{error}"
        );
        assert_eq!(cause(&error), io::ErrorKind::UnexpectedEof);
    }
    // A write that failed says more than the end that is read then.
    let script = Script::default();
    script.lock().takes = [Err(io::ErrorKind::ConnectionReset.into())].into();
    script.lock().reads = [Ok(Vec::new())].into();
    let error = open_over(&parameters(), script.transport()).err().unwrap();
    assert_eq!(cause(&error), io::ErrorKind::ConnectionReset);
    // After it nothing is sent.
    let script = Script::default();
    script.lock().takes = [Err(io::ErrorKind::ConnectionReset.into())].into();
    script.lock().reads = [Ok(start()), Ok(Vec::new())].into();
    let error = open_over(&parameters(), script.transport()).err().unwrap();
    assert_eq!(cause(&error), io::ErrorKind::ConnectionReset);
    assert_eq!(script.lock().given.len(), 1);
    // Unless the peer had said why.
    let script = Script::default();
    script.lock().takes = [Err(io::ErrorKind::ConnectionReset.into())].into();
    script.lock().reads = [Ok(forced_close()), Ok(Vec::new())].into();
    let error = open_over(&parameters(), script.transport()).err().unwrap();
    assert_eq!(error.connect_failure().unwrap().reply_code, Some(320));
    assert_eq!(names(&script.written()), ["connection.close-ok"]);
}

#[test]
fn after_a_failed_write_only_what_has_come_is_waited_for() {
    let limit = Duration::from_millis(30);
    let failed = |kind: io::ErrorKind, read_takes: Duration, stack_timeout: Duration| {
        let script = Script::default();
        script.lock().takes = [Err(kind.into())].into();
        script.lock().before_read = Some(Arc::new(move || thread::sleep(read_takes)));
        let parameters = parameters().stack_timeout(stack_timeout);
        let error = open_over(&parameters, script.transport()).err().unwrap();
        assert!(matches!(error, Error::Connection(_)) && error.is_retryable());
        let timeouts = script.lock().read_timeouts.clone();
        assert_eq!(script.lock().room.len(), 1, "it looks once");
        let is_late = error.to_string().contains("waiting for the peer");
        (is_late, timeouts.last().copied().unwrap())
    };
    use io::ErrorKind::{ConnectionReset, WouldBlock};
    let long = Duration::from_secs(20);
    let (is_late, waits) = failed(ConnectionReset, Duration::ZERO, long);
    assert_eq!((is_late, waits), (false, Duration::from_millis(100)));
    // The time is up: a write that came to nothing in that time is no loss. One that failed is, in any case.
    let (is_late, waits) = failed(WouldBlock, limit * 2, limit);
    assert!(is_late && waits <= limit);
    let (is_late, _) = failed(ConnectionReset, limit * 2, limit);
    assert!(!is_late);
}

#[test]
fn a_server_that_refuses_and_takes_nothing_is_left_soon() {
    let close = Method::ConnectionClose {
        reply_code: 403,
        reply_text: "ACCESS_REFUSED".into(),
        class_id: 0,
        method_id: 0,
    };
    let script = Script::default();
    script.lock().reads = [Ok(start()), Ok(method(0, &close))].into();
    script.lock().takes = [Ok(8), Ok(10_000)].into();
    script.lock().is_stuck = true;
    script.lock().before_write = Some(Arc::new(|| thread::sleep(Duration::from_millis(60))));
    let error = open_over(&parameters(), script.transport()).err().unwrap();
    assert_eq!(error.connect_failure().unwrap().reply_code, Some(403));
    let writes = script.lock().given.len();
    assert!((3..=4).contains(&writes), "{writes}");
}

#[test]
fn no_more_is_waited_for_than_shows_what_the_peer_speaks() {
    for sent in [OTHER_VERSION, b"HTTP/1.", b"\x09\0\0\0\0\0\0"] {
        let (script, opened) = opened(&parameters(), [Ok(sent.to_vec())]);
        let error = opened.err().unwrap();
        assert!(matches!(error, Error::IncompatibleProtocol(_)), "{error:?}");
        assert_eq!(script.lock().room.len(), 1, "{sent:?}");
    }
}

#[test]
#[cfg(unix)]
fn a_path_that_is_dead_is_no_failed_login() {
    let dead = || io::Error::from_raw_os_error(110);
    if dead().kind() != io::ErrorKind::TimedOut {
        return;
    }
    let (_, opened) = opened(&parameters(), [Ok(start()), Err(dead())]);
    let error = opened.err().unwrap();
    assert!(matches!(error, Error::Connection(_)), "{error:?}");
    assert!(
        error.is_retryable() && error.to_string().contains("acknowledged nothing"),
        "{error}"
    );
}

#[test]
fn a_login_larger_than_brokers_must_take_is_named() {
    let hint = |password: usize| {
        let credentials = PlainCredentials::new("user", "x".repeat(password));
        let error = refused(
            &parameters().credentials(credentials),
            &[&start_of_one_that_gives_reasons()],
        );
        (
            error.connect_failure().unwrap().hint.unwrap(),
            error.is_retryable(),
        )
    };
    // How long the rest is, by what goes out.
    let credentials = PlainCredentials::new("user", "");
    let (script, _) = opened(
        &parameters().credentials(credentials),
        [Ok(start()), Ok(Vec::new())],
    );
    let rest = script.written().len() - frame::PROTOCOL_HEADER.len();
    let (usual, retryable) = hint(4096 - rest);
    assert!(
        usual.contains("the user or the password is wrong") && retryable,
        "{usual}"
    );
    let (large, retryable) = hint(4097 - rest);
    assert!(
        large.contains("more than the 4096 bytes") && !retryable,
        "{large}"
    );
}

#[test]
fn what_speaks_something_else_is_named() {
    let text = |port: u16, sent: &[&[u8]]| {
        let error = refused(&parameters().port(port), sent);
        assert!(matches!(error, Error::IncompatibleProtocol(_)), "{error:?}");
        let failure = error.connect_failure().unwrap();
        (failure.cause.clone(), failure.hint.unwrap_or(""))
    };
    let version = "the peer speaks AMQP 3-1-0-0, not 0-9-1";
    for cut in 0..8 {
        let (one, two) = OTHER_VERSION.split_at(cut);
        let sent: &[&[u8]] = match cut {
            0 => &[two],
            _ => &[one, two],
        };
        assert_eq!(text(5672, sent), (version.to_owned(), ""), "{cut}");
    }
    let (cause, hint) = text(5672, &[b"HTTP/1.1 400 Bad Request\r\n\r\n"]);
    assert!(
        cause.contains("HTTP") && hint.contains("management port (15672)"),
        "{hint}"
    );
    let (_, hint) = text(15672, &[b"HTTP/1.1 400 Bad Request\r\n\r\n"]);
    assert!(
        hint.contains("15672 is the port of RabbitMQ's management pages"),
        "{hint}"
    );
    for alert in [b"\x15\x03\x03\0\x02\x02\x28", b"\x16\x03\x01\0\x02\x02\x28"] {
        let (cause, hint) = text(5672, &[alert]);
        assert!(
            cause.contains("TLS") && hint.contains("amqps://"),
            "{cause}"
        );
    }
    let (_, hint) = text(5671, &[b"SSH-2.0-OpenSSH"]);
    assert!(
        hint.contains("5671 is the port for AMQP over TLS"),
        "{hint}"
    );
    // Behind a frame it is no other protocol.
    let (cause, hint) = text(15672, &[&start(), b"HTTP/1.1 400"]);
    assert!(
        !cause.contains("HTTP") && hint.is_empty(),
        "{cause}; {hint}"
    );
    // Frames, but none that belong here.
    let on_a_channel = method(1, &Method::ConnectionOpenOk {});
    let (cause, _) = text(5672, &[&on_a_channel]);
    assert_eq!(cause, "an unexpected frame in the handshake");
}

#[test]
fn some_ports_are_known_for_something_else() {
    let hint = |parameters: &ConnectionParameters| Target::new(parameters).unwrap().port_hint();
    assert_eq!(hint(&parameters()), None);
    assert!(hint(&parameters().port(15672))
        .unwrap()
        .contains("management"));
    assert!(hint(&parameters().port(5671)).unwrap().contains("amqps://"));
    #[cfg(feature = "tls")]
    assert_eq!(
        hint(&parameters().port(5671).tls(crate::TlsOptions::new())),
        None
    );
    // A peer that hangs up there does so on purpose.
    for port in [15672, 5671] {
        let error = refused(&parameters().port(port), &[]);
        assert!(!error.is_retryable(), "{error}");
        assert_eq!(
            error.connect_failure().unwrap().hint,
            hint(&parameters().port(port))
        );
    }
}

// ---- sockets and names

#[test]
fn a_socket_is_given_the_shorter_of_two_limits() {
    let limit = |socket, stack| {
        let seconds = |seconds: Option<u64>| seconds.map(Duration::from_secs);
        let parameters = parameters();
        tcp_limit(
            &parameters
                .socket_timeout(seconds(socket))
                .stack_timeout(seconds(stack)),
        )
    };
    assert_eq!(limit(Some(3), Some(5)), Duration::from_secs(3));
    assert_eq!(limit(Some(5), Some(3)), Duration::from_secs(3));
    assert_eq!(limit(None, Some(3)), Duration::from_secs(3));
    assert_eq!(limit(Some(3), None), Duration::from_secs(3));
    assert_eq!(limit(None, None), Duration::MAX);
}

#[test]
fn a_peer_that_does_not_reply_may_be_behind_a_firewall() {
    let parameters = parameters();
    let target = Target::new(&parameters).unwrap();
    let text = |kind: io::ErrorKind, limit| {
        let failure = target.unreached(kind.into(), limit);
        assert!(failure.retryable && failure.stage == Stage::Tcp);
        (failure.cause.clone(), failure.hint.unwrap_or(""))
    };
    let second = Duration::from_secs(1);
    let firewall = "a firewall may swallow what is sent there";
    let timed_out = io::Error::from(io::ErrorKind::TimedOut).to_string();
    assert_eq!(
        text(io::ErrorKind::TimedOut, second),
        ("timed out after 1 s".to_owned(), firewall)
    );
    // The system's own limit.
    assert_eq!(
        text(io::ErrorKind::TimedOut, Duration::MAX),
        (timed_out, "")
    );
    let refused = io::Error::from(io::ErrorKind::ConnectionRefused).to_string();
    let (cause, hint) = text(io::ErrorKind::ConnectionRefused, second);
    assert!(cause == refused && hint.contains("nothing listens"));
    let (cause, hint) = text(io::ErrorKind::HostUnreachable, second);
    assert!(!cause.is_empty() && hint.is_empty());
}

#[test]
fn a_name_without_an_address_is_an_error_of_its_own() {
    let parameters = parameters();
    let target = Target::new(&parameters).unwrap();
    let failure = target
        .resolve_by(|_, _| Ok(Vec::new().into_iter()))
        .err()
        .unwrap();
    assert_eq!(
        (failure.stage, &*failure.cause),
        (Stage::Dns, "the name has no address")
    );
    assert!(failure.retryable);
}

#[test]
fn an_address_that_a_name_has_twice_is_tried_once() {
    let parameters = parameters();
    let target = Target::new(&parameters).unwrap();
    let addresses = [1, 2, 1, 2, 3].map(|n| SocketAddr::from(([127, 0, 0, n], 5672)));
    let known = Vec::from(addresses);
    let found = target.resolve_by(move |_, _| Ok(known.into_iter()));
    let expected = [addresses[0], addresses[1], addresses[4]];
    assert_eq!(found.ok().unwrap(), expected);
}

#[test]
fn every_attempt_is_made_and_listed_with_its_address() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let delay = Duration::from_millis(15);
    let named = ConnectionParameters::new("localhost").port(port);
    let numbered = ConnectionParameters::new("127.0.0.1").port(port);
    let numbered = numbered.connection_attempts(3).retry_delay(delay);
    let began = Instant::now();
    let error = open(&[named, numbered]).err().unwrap();
    assert!(began.elapsed() >= delay * 2);
    let failure = error.connect_failure().unwrap();
    let attempts = |address: &str| {
        let attempts = failure.attempts.iter();
        attempts
            .filter(|attempt| attempt.address == address)
            .count()
    };
    assert_eq!(attempts(&format!("127.0.0.1:{port}")), 3);
    assert_eq!(attempts(&format!("localhost:{port} [127.0.0.1]")), 3);
    // The delay is between them: not before the first, and not after the last.
    let once = ConnectionParameters::new("127.0.0.1")
        .port(port)
        .retry_delay(Duration::from_secs(20));
    let began = Instant::now();
    assert!(open(&[once]).is_err());
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[test]
fn the_attempt_that_got_furthest_is_the_reason() {
    let parameters = [parameters(), ConnectionParameters::new("other")];
    let targets = parameters
        .each_ref()
        .map(|parameters| Target::new(parameters).unwrap());
    let error = |attempts: &[(usize, Stage, bool)]| {
        let mut failures = Failures::default();
        for (n, (target, stage, retryable)) in attempts.iter().enumerate() {
            let cause = format_args!("attempt {n}");
            let failure = Failure::new(Error::Connection, *stage, cause, None);
            failures.add(&targets[*target], None, failure.retryable(*retryable));
        }
        let error = failures.into_error();
        (
            error.connect_failure().unwrap().cause.clone(),
            error.is_retryable(),
        )
    };
    use Stage::{Authentication, Tcp};
    let expected = |attempt: &str, retryable| (attempt.to_owned(), retryable);
    assert_eq!(
        error(&[(0, Authentication, false), (0, Tcp, true)]),
        expected("attempt 0", true)
    );
    assert_eq!(
        error(&[(0, Tcp, true), (0, Authentication, false)]),
        expected("attempt 1", false)
    );
    // Of two that got as far, the later.
    assert_eq!(
        error(&[(0, Tcp, false), (0, Tcp, false)]),
        expected("attempt 1", false)
    );
    // The last attempt at each address counts.
    let both = [(0, Tcp, true), (1, Tcp, false), (0, Tcp, false)];
    assert_eq!(error(&both), expected("attempt 2", false));
    assert_eq!(error(&both[..2]), expected("attempt 1", true));
}

#[test]
fn a_name_that_is_looked_up_for_ever_ends_by_the_deadline() {
    let limit = Duration::from_millis(50);
    let parameters = ConnectionParameters::new("slow.invalid").stack_timeout(limit);
    let target = Target::new(&parameters).unwrap();
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let failure = target.resolve_by(move |_, _| {
        let _ = held.recv();
        Ok(Vec::new().into_iter())
    });
    let Err(failure) = failure else {
        panic!("it was found");
    };
    assert_eq!(failure.stage, Stage::Dns);
    assert!(failure.retryable);
    assert!(failure.cause.contains("50 ms"), "{}", failure.cause);
    drop(hold);
}

#[test]
#[cfg(target_os = "linux")]
fn the_socket_has_the_options_that_were_asked_for() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let options = TcpOptions::new()
        .keepidle(Duration::from_secs(31))
        .keepintvl(Duration::from_secs(7))
        .keepcnt(4)
        .user_timeout(Duration::from_secs(19));
    let limit = Duration::from_secs(20);
    let stream = connect_tcp(&address, limit, &options).unwrap();
    let socket = socket2::SockRef::from(&stream);
    assert!(stream.nodelay().unwrap() && socket.keepalive().unwrap());
    assert_eq!(socket.tcp_keepalive_time().unwrap().as_secs(), 31);
    assert_eq!(socket.tcp_keepalive_interval().unwrap().as_secs(), 7);
    assert_eq!(socket.tcp_keepalive_retries().unwrap(), 4);
    let user_timeout = socket.tcp_user_timeout().unwrap();
    assert_eq!(user_timeout, Some(Duration::from_secs(19)));
    // What was not asked for stays as the system has it.
    let stream = connect_tcp(&address, limit, &TcpOptions::new()).unwrap();
    let socket = socket2::SockRef::from(&stream);
    assert!(!socket.keepalive().unwrap());
    assert_eq!(socket.tcp_user_timeout().unwrap(), None);
}

#[test]
fn a_port_that_nothing_listens_on_is_named_as_the_likely_reason() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let parameters = ConnectionParameters::new("127.0.0.1").port(address.port());
    let target = Target::new(&parameters).unwrap();
    let Err(failure) = target.open(&address) else {
        panic!("something listens there");
    };
    assert_eq!(failure.stage, Stage::Tcp);
    assert!(failure.retryable);
    assert!(failure
        .hint
        .unwrap()
        .contains("nothing listens on that port"));
}

#[test]
fn an_address_is_not_looked_up() {
    for host in ["127.0.0.1", "::1"] {
        let parameters = ConnectionParameters::new(host).port(7);
        let target = Target::new(&parameters).unwrap();
        let found = target.resolve_by(|_, _| panic!("looked up"));
        let expected = SocketAddr::new(host.parse().unwrap(), 7);
        assert_eq!(found.ok().unwrap(), [expected]);
    }
}

#[test]
fn an_error_has_a_bound_however_often_it_was_tried() {
    let hosts: Vec<ConnectionParameters> = (1..=3)
        .map(|n| ConnectionParameters::new(format!("host-{n}.invalid")))
        .collect();
    let mut failures = Failures::default();
    for n in 0..20_000 {
        let target = Target::new(&hosts[n % 3]).unwrap();
        let cause = format_args!("refused, number {n}");
        let failure = Failure::new(Error::Connection, Stage::Tcp, cause, None);
        failures.add(&target, None, failure);
    }
    let error = failures.into_error();
    let failure = error.connect_failure().unwrap();
    assert_eq!(
        (failure.attempts.len(), failure.attempts_made),
        (20, 20_000)
    );
    let text = error.to_string();
    assert!(text.len() < 3000, "{}", text.len());
    for part in [
        "all 20000 attempts",
        "number 0,",
        "number 9, (19980 more), host",
        "number 19990,",
        "number 19999",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[cfg(feature = "tls")]
#[path = "connect_tls.rs"]
mod inside_tls;
