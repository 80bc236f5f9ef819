//! Whether trying again can help: `Error::is_retryable`, and the sources of errors.

mod support;

use std::error::Error as _;
use std::io;
use std::time::Duration;

use haypile::{
    BasicConsume, Connection, ConnectionParameters, Error, PlainCredentials, QueueDeclare, Stage,
};
use support::peer::{m, Args, Handshake, Peer, Session};
use support::proxy::Proxy;
use support::{
    assert_matches, bounded, bounded_by, exclusive_queue, open, rabbitmqctl, unique, url,
    RefusedPort, OPERATOR_LIMIT,
};

fn parameters(url: &str) -> ConnectionParameters {
    ConnectionParameters::from_url(url).unwrap()
}

fn refused_by(script: impl FnOnce(&mut Session) + Send + 'static) -> Error {
    let peer = Peer::start(script);
    let error = Connection::open(peer.url().as_str()).unwrap_err();
    peer.finish();
    error
}

/// How many bytes the broker sends until a connection is open.
fn length_of_the_handshake() -> usize {
    let proxy = Proxy::start();
    let connection = Connection::open(proxy.url().as_str()).unwrap();
    let length = proxy.broker_bytes();
    drop(connection);
    length.try_into().unwrap()
}

/// The broker refuses nothing here; its connection is cut after so many of its bytes.
fn assert_a_cut_may_pass(cut: usize) {
    let proxy = Proxy::start();
    proxy.cut_broker_after(cut);
    let error = Connection::open(proxy.url().as_str()).unwrap_err();
    assert!(error.is_connection_error(), "{cut}: {error:?}");
    assert!(error.is_retryable(), "{cut}: {error:?}");
    let source = error.source().expect("the cause from the stream");
    assert!(source.is::<io::Error>(), "{cut}: {error:?}");
}

/// A handshake up to the client's login.
fn read_up_to_start_ok(session: &mut Session) {
    session.expect_protocol_header();
    session.send_start(&Handshake::default());
    session.expect(0, m::CONNECTION_START_OK);
}

/// A handshake up to the client's `connection.open`.
fn read_up_to_open(session: &mut Session) {
    read_up_to_start_ok(session);
    session.send_tune(&Handshake::default());
    session.expect(0, m::CONNECTION_TUNE_OK);
    session.expect(0, m::CONNECTION_OPEN);
}

#[test]
fn a_handshake_that_is_cut_anywhere_may_succeed_the_next_time() {
    const THREADS: usize = 6;
    // A frame's head and end, and what is in between here and there; the last frames are short.
    const STRIDE: usize = 5;
    bounded_by(Duration::from_secs(60), || {
        let length = length_of_the_handshake();
        let cuts = (1..12)
            .chain((12..length - 40).step_by(STRIDE))
            .chain(length - 40..length);
        let cuts: Vec<usize> = cuts.collect();
        std::thread::scope(|scope| {
            for share in cuts.chunks(cuts.len().div_ceil(THREADS)) {
                scope.spawn(move || share.iter().copied().for_each(assert_a_cut_may_pass));
            }
        });
    });
}

#[test]
fn a_handshake_that_is_cut_between_frames_is_named_as_pika_does_and_may_succeed() {
    bounded(|| {
        type End = fn(&mut Session);
        for end in [(|_| {}) as End, |session| session.reset()] {
            let error = refused_by(move |session| {
                session.expect_protocol_header();
                end(session);
            });
            assert_matches!(error, Error::IncompatibleProtocol(_));
            assert!(error.is_retryable(), "{error:?}");
            let error = refused_by(move |session| {
                read_up_to_start_ok(session);
                end(session);
            });
            assert_matches!(error, Error::ProbableAuthentication(_));
            assert!(error.is_retryable(), "{error:?}");
            let error = refused_by(move |session| {
                read_up_to_open(session);
                end(session);
            });
            assert_matches!(error, Error::ProbableAccessDenied(_));
            assert!(error.is_retryable(), "{error:?}");
        }
    });
}

/// Half a frame is no refusal, whatever was sent before.
#[test]
fn a_frame_that_is_cut_is_a_loss() {
    bounded(|| {
        let error = refused_by(|session| {
            session.expect_protocol_header();
            session.send_raw(&[1, 0, 0, 0, 0]);
        });
        assert_matches!(error, Error::Connection(_));
        assert!(error.is_retryable(), "{error:?}");
        let error = refused_by(|session| {
            read_up_to_start_ok(session);
            session.send_raw(&[1, 0]);
        });
        assert_matches!(error, Error::Connection(_));
        assert!(error.is_retryable(), "{error:?}");
    });
}

/// Servers without this capability have no other way to refuse.
#[test]
fn a_server_without_a_refusal_refuses_by_hanging_up() {
    bounded(|| {
        let silent = || Handshake {
            capabilities: vec!["basic.nack"],
            ..Handshake::default()
        };
        let error = refused_by(move |session| {
            session.expect_protocol_header();
            session.send_start(&silent());
            session.expect(0, m::CONNECTION_START_OK);
        });
        let by_name = matches!(error, Error::ProbableAuthentication(_));
        assert!(by_name && !error.is_retryable(), "{error:?}");
    });
}

#[test]
fn what_is_no_broker_is_none_the_next_time() {
    bounded(|| {
        for reply in [
            &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
            b"AMQP\x03\x01\x00\x00",
            b"SSH-2.0-OpenSSH_9.2\r\n",
        ] {
            let error = refused_by(move |session| {
                session.expect_protocol_header();
                session.send_raw(reply);
            });
            assert_matches!(error, Error::IncompatibleProtocol(_));
            assert!(!error.is_retryable(), "{error:?}");
        }
    });
}

#[test]
fn a_refused_login_and_an_unknown_virtual_host_stay_refused() {
    bounded(|| {
        let login = PlainCredentials::new("guest", "wrong");
        let error = Connection::open(parameters(&url()).credentials(login)).unwrap_err();
        assert_eq!(error.reply_code(), Some(403));
        assert!(!error.is_retryable(), "{error:?}");
        let error = Connection::open(parameters(&url()).virtual_host("nowhere")).unwrap_err();
        assert_eq!(error.reply_code(), Some(530));
        assert!(!error.is_retryable(), "{error:?}");
    });
}

#[test]
fn a_broker_in_trouble_may_be_well_again() {
    bounded(|| {
        let error = refused_by(|session| {
            read_up_to_open(session);
            let text =
                "INTERNAL_ERROR - access to vhost '/' refused for user 'guest': vhost '/' is down";
            session.send_connection_close(541, text, m::CONNECTION_OPEN);
            session.expect(0, m::CONNECTION_CLOSE_OK);
        });
        assert_matches!(error, Error::ProbableAccessDenied(_));
        assert!(error.is_retryable(), "{error:?}");
    });
}

#[test]
fn a_full_virtual_host_may_have_room_later() {
    if rabbitmqctl(&["status"]).is_none() {
        eprintln!("needs RABBITMQCTL");
        return;
    }
    bounded_by(OPERATOR_LIMIT, || {
        let name = unique("full");
        rabbitmqctl(&["add_vhost", &name]).unwrap();
        rabbitmqctl(&["set_permissions", "-p", &name, "guest", ".*", ".*", ".*"]).unwrap();
        let limits = r#"{"max-connections": 0}"#;
        rabbitmqctl(&["set_vhost_limits", "-p", &name, limits]).unwrap();
        let result = Connection::open(parameters(&url()).virtual_host(&name));
        rabbitmqctl(&["delete_vhost", &name]).unwrap();
        let error = result.unwrap_err();
        assert_eq!(error.reply_code(), Some(530));
        assert!(error.is_retryable(), "{error:?}");
    });
}

/// One host that may come back is enough, however the others failed; the last attempt at each host counts.
#[test]
fn several_hosts_may_succeed_if_one_of_them_may() {
    bounded(|| {
        let refused = RefusedPort::new();
        let down = ConnectionParameters::new("127.0.0.1").port(refused.port());
        let closed = || parameters(&url()).credentials(PlainCredentials::new("guest", "wrong"));
        let error = Connection::open([closed(), down.clone()]).unwrap_err();
        // The attempt that got furthest gives the kind.
        assert_matches!(error, Error::ProbableAuthentication(_));
        assert!(error.is_retryable(), "{error:?}");
        let error = Connection::open([down, closed()]).unwrap_err();
        assert!(error.is_retryable(), "{error:?}");
        let error = Connection::open([closed(), closed()]).unwrap_err();
        assert!(!error.is_retryable(), "{error:?}");

        // The broker is reached in the second attempt only, and refuses.
        let peer = Peer::serve(2, |n, session| {
            session.expect_protocol_header();
            if n == 1 {
                session.send_start(&Handshake::default());
                session.expect(0, m::CONNECTION_START_OK);
                let close = Args::new()
                    .short(403)
                    .shortstr("ACCESS_REFUSED")
                    .short(0)
                    .short(0);
                session.send_method(0, m::CONNECTION_CLOSE, close);
                session.expect(0, m::CONNECTION_CLOSE_OK);
            }
        });
        let twice = parameters(&peer.url())
            .connection_attempts(2)
            .retry_delay(Duration::ZERO);
        let error = Connection::open(twice).unwrap_err();
        assert_eq!(error.connect_failure().unwrap().attempts.len(), 2);
        assert!(!error.is_retryable(), "{error:?}");
        peer.finish();
    });
}

#[test]
fn a_port_that_refuses_and_an_unknown_name_keep_their_cause() {
    bounded(|| {
        let refused = RefusedPort::new();
        let down = ConnectionParameters::new("127.0.0.1").port(refused.port());
        let error = Connection::open(down).unwrap_err();
        assert!(error.is_retryable(), "{error:?}");
        let source: Option<&io::Error> = error.source().and_then(|source| source.downcast_ref());
        let kind = source.map(io::Error::kind);
        assert_eq!(kind, Some(io::ErrorKind::ConnectionRefused));

        let label = "a-label-of-more-than-sixty-three-characters-is-nowhere-in-the-dns";
        let unknown = ConnectionParameters::new(format!("{label}.invalid"));
        let error = Connection::open(unknown).unwrap_err();
        assert!(
            matches!(error, Error::Dns(_)) && error.is_retryable(),
            "{error:?}"
        );
        assert!(error
            .source()
            .is_some_and(|source| source.is::<io::Error>()));
    });
}

#[test]
fn a_wrong_argument_stays_wrong() {
    bounded(|| {
        let error = Connection::open("amqp://localhost?heartbeat=soon").unwrap_err();
        assert!(!error.is_retryable(), "{error:?}");
        let connection = open();
        let channel = connection.channel().unwrap();
        let error = channel.queue_purge("x".repeat(256)).unwrap_err();
        assert_matches!(error, Error::ShortStringTooLong { .. });
        assert!(!error.is_retryable());
    });
}

#[test]
fn a_lost_connection_may_come_back_and_a_closed_one_was_meant() {
    bounded(|| {
        let proxy = Proxy::start();
        let connection = Connection::open(proxy.url().as_str()).unwrap();
        let channel = connection.channel().unwrap();
        proxy.reset();
        let lost = channel.basic_qos(1).unwrap_err();
        assert_matches!(lost, Error::StreamLost(_));
        assert!(lost.is_retryable() && lost.is_connection_error());
        assert!(
            lost.source().is_some_and(|source| source.is::<io::Error>()),
            "{lost:?}"
        );
        // The connection's next call fails because it is not open, and keeps the reason.
        let error = connection.channel().unwrap_err();
        assert_matches!(error, Error::ConnectionWrongState { .. });
        assert!(error.is_retryable(), "{error:?}");
        let cause: Option<&Error> = error.source().and_then(|source| source.downcast_ref());
        assert!(matches!(cause, Some(Error::StreamLost(_))), "{error:?}");

        let connection = open();
        let channel = connection.channel().unwrap();
        channel.close().unwrap();
        let error = channel.basic_qos(1).unwrap_err();
        assert!(!error.is_retryable(), "{error:?}");
        connection.close().unwrap();
        let error = connection.channel().unwrap_err();
        assert_matches!(error, Error::ConnectionWrongState { .. });
        assert!(!error.is_retryable(), "{error:?}");
    });
}

#[test]
fn a_broker_that_shuts_down_comes_back() {
    bounded(|| {
        let peer = Peer::start(|session| {
            session.handshake();
            let text =
                "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'";
            session.send_connection_close(320, text, (0, 0));
            session.expect(0, m::CONNECTION_CLOSE_OK);
        });
        let connection = Connection::open(peer.url().as_str()).unwrap();
        let error = connection.process_data_events(None).unwrap_err();
        assert_matches!(error, Error::ConnectionClosedByBroker { .. });
        assert!(error.is_retryable());
        peer.finish();
    });
}

#[test]
fn what_a_channel_is_closed_for_mostly_stays() {
    bounded(|| {
        let connection = open();
        let queue = exclusive_queue(&connection.channel().unwrap());

        let channel = connection.channel().unwrap();
        let other = QueueDeclare::new(&queue)
            .exclusive(true)
            .argument("x-max-length", 7);
        let error = channel.queue_declare(other).unwrap_err();
        assert_eq!(error.reply_code(), Some(406));
        assert!(!error.is_retryable(), "{error:?}");

        let channel = connection.channel().unwrap();
        let missing = QueueDeclare::new(unique("missing")).passive(true);
        let error = channel.queue_declare(missing).unwrap_err();
        assert_eq!(error.reply_code(), Some(404));
        assert!(!error.is_retryable(), "{error:?}");

        // Another connection has it, as one's own lost connection may until the broker notices.
        let second = open();
        let channel = second.channel().unwrap();
        let error = channel.basic_consume(&queue, |_, _, _, _| ()).unwrap_err();
        assert_eq!(error.reply_code(), Some(405));
        assert!(error.is_retryable(), "{error:?}");

        let consumer = connection.channel().unwrap();
        consumer
            .basic_consume(BasicConsume::new(&queue).exclusive(true), |_, _, _, _| ())
            .unwrap();
        let channel = connection.channel().unwrap();
        let error = channel.basic_consume(&queue, |_, _, _, _| ()).unwrap_err();
        assert_eq!(error.reply_code(), Some(403));
        assert!(error.is_retryable(), "{error:?}");
    });
}

#[test]
fn an_error_of_the_programs_own_is_its_own_affair() {
    bounded(|| {
        let connection = open();
        connection
            .call_later(Duration::ZERO, || -> haypile::Result<()> {
                let body = vec![0xff];
                std::str::from_utf8(&body)?;
                Ok(())
            })
            .unwrap();
        let error = connection.process_data_events(None).unwrap_err();
        assert_matches!(error, Error::Other(_));
        assert!(!error.is_retryable() && !error.is_connection_error());
        let source = error.source().unwrap();
        assert!(source.is::<std::str::Utf8Error>(), "{error:?}");
        assert!(connection.is_open());
    });
}

#[test]
fn too_many_channels_are_no_error_of_the_connection() {
    bounded(|| {
        let connection = Connection::open(parameters(&url()).channel_max(1)).unwrap();
        let channel = connection.channel().unwrap();
        let error = connection.channel().unwrap_err();
        assert_matches!(error, Error::NoFreeChannels { .. });
        assert!(!error.is_connection_error() && !error.is_channel_error());
        assert!(!error.is_retryable());
        channel.basic_qos(1).unwrap();
    });
}

#[test]
fn a_call_that_takes_too_long_is_its_channels_error() {
    bounded(|| {
        let peer = Peer::start(|session| {
            session.handshake();
            session.expect(1, m::CHANNEL_OPEN);
            session.send_method(1, m::CHANNEL_OPEN_OK, Args::new().longstr(b""));
            session.expect(1, m::BASIC_QOS);
            session.expect(1, m::CHANNEL_CLOSE);
            session.send_method(1, m::CHANNEL_CLOSE_OK, Args::new());
            session.expect(2, m::CHANNEL_OPEN);
            session.expect(2, m::CHANNEL_CLOSE);
            session.send_method(2, m::CHANNEL_CLOSE_OK, Args::new());
            session.serve_until_end();
        });
        let patience = Duration::from_millis(100);
        let connection = Connection::open(parameters(&peer.url()).rpc_timeout(patience)).unwrap();
        let channel = connection.channel_with_number(1).unwrap();
        let error = channel.basic_qos(1).unwrap_err();
        assert_matches!(
            error,
            Error::Timeout {
                channel: Some(1),
                channel_closed: true,
                ..
            }
        );
        assert!(error.is_channel_error() && !error.is_connection_error());
        assert!(error.is_retryable());
        assert!(channel.is_closed() && connection.is_open());
        let error = connection.channel_with_number(2).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("timed out after 100 ms waiting for channel.open"),
            "{text}"
        );
        assert!(!text.contains("block"), "{text}");
        let _ = connection.close();
        peer.finish();
    });
}

#[test]
fn connecting_that_takes_too_long_may_be_quicker_next_time() {
    bounded(|| {
        let peer = Peer::start(|session| {
            session.expect_protocol_header();
            session.expect_end();
        });
        let patience = Duration::from_millis(100);
        let error = Connection::open(parameters(&peer.url()).stack_timeout(patience)).unwrap_err();
        assert_matches!(error, Error::Connection(_));
        assert_eq!(
            error.connect_failure().unwrap().stage,
            Stage::ProtocolHeader
        );
        assert!(error.is_retryable(), "{error:?}");
        peer.finish();
    });
}
