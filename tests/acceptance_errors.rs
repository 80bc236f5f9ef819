//! Errors name what really happened: what was tried, how far it came, what the other side sent, and what to do.

mod support;

use std::time::{Duration, Instant};

use haypile::{Connection, ConnectionParameters, Error, PlainCredentials, QueueDeclare, Stage};
use support::peer::{m, Args, Handshake, Peer, Session};
use support::proxy::Proxy;
use support::{
    assert_matches, bounded, bounded_by, rabbitmqctl, unique, url, OPERATOR_LIMIT, SOON,
};

/// Fails to connect to a broker that follows the script and then hangs up.
#[track_caller]
fn refused_by(script: impl FnOnce(&mut Session) + Send + 'static) -> Error {
    let peer = Peer::start(script);
    let error = Connection::open(peer.url()).unwrap_err();
    assert!(error.is_connection_error(), "{error:?}");
    assert_eq!(error.address(), Some(&*peer.address().to_string()));
    peer.finish();
    error
}

#[track_caller]
fn assert_failed_at(error: &Error, stage: Stage) {
    assert_eq!(
        error.connect_failure().map(|failure| failure.stage),
        Some(stage),
        "{error:?}"
    );
}

#[test]
fn an_http_response_is_recognized() {
    bounded(|| {
        let error = refused_by(|session| {
            session.expect_protocol_header();
            session.send_raw(
                b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
            );
        });
        assert_matches!(error, Error::IncompatibleProtocol(_));
        assert_failed_at(&error, Stage::ProtocolHeader);
        let text = error.to_string();
        assert!(text.contains("HTTP") && text.contains("15672"), "{text}");
    });
}

#[test]
fn a_tls_alert_is_recognized() {
    bounded(|| {
        let error = refused_by(|session| {
            session.expect_protocol_header();
            // A fatal alert: unexpected message.
            session.send_raw(&[21, 3, 1, 0, 2, 2, 10]);
        });
        assert_failed_at(&error, Stage::ProtocolHeader);
        let text = error.to_string();
        assert!(text.contains("TLS") && text.contains("amqps://"), "{text}");
    });
}

#[test]
fn another_version_of_amqp_is_named() {
    bounded(|| {
        let error = refused_by(|session| {
            session.expect_protocol_header();
            session.send_raw(b"AMQP\x03\x01\x00\x00");
        });
        assert_matches!(error, Error::IncompatibleProtocol(_));
        assert!(error.to_string().contains("1-0-0"), "{error}");
    });
}

#[test]
fn garbage_is_no_amqp() {
    bounded(|| {
        let error = refused_by(|session| {
            session.expect_protocol_header();
            session.send_raw(b"SSH-2.0-OpenSSH_9.2\r\n");
        });
        assert_matches!(error, Error::IncompatibleProtocol(_));
        assert_failed_at(&error, Stage::ProtocolHeader);
    });
}

#[test]
fn a_wrong_password_is_refused_and_kept_secret() {
    bounded(|| {
        let parameters = ConnectionParameters::from_url(url())
            .unwrap()
            .credentials(PlainCredentials::new("guest", "not-the-password"));
        assert!(!format!("{parameters:?}").contains("not-the-password"));
        let error = Connection::open(parameters).unwrap_err();
        assert_matches!(error, Error::ProbableAuthentication(_));
        assert_failed_at(&error, Stage::Authentication);
        assert_eq!(error.reply_code(), Some(403));
        let text = format!("{error} {error:?}");
        assert!(text.contains("ACCESS_REFUSED"), "{text}");
        assert!(!text.contains("not-the-password"), "{text}");
        assert!(error.connect_failure().unwrap().hint.is_some());
    });
}

#[test]
fn an_unknown_virtual_host_is_refused() {
    bounded(|| {
        let parameters = ConnectionParameters::from_url(url())
            .unwrap()
            .virtual_host("no such vhost");
        let error = Connection::open(parameters).unwrap_err();
        assert_matches!(error, Error::ProbableAccessDenied(_));
        assert_failed_at(&error, Stage::VirtualHost);
        assert_eq!(error.reply_code(), Some(530));
        assert!(error.to_string().contains("no such vhost"), "{error}");
        assert!(error.connect_failure().unwrap().hint.is_some());
    });
}

#[test]
fn no_mechanism_in_common_is_an_authentication_error() {
    bounded(|| {
        let error = refused_by(|session| {
            session.expect_protocol_header();
            session.send_start(&Handshake {
                mechanisms: "GSSAPI SCRAM-SHA-1",
                ..Handshake::default()
            });
            session.expect_end();
        });
        assert_matches!(error, Error::Authentication(_));
        assert!(error.to_string().contains("GSSAPI"), "{error}");
    });
}

#[test]
fn a_refused_port_names_its_stage_and_address() {
    bounded(|| {
        let port = support::RefusedPort::new();
        let error =
            Connection::open(format!("amqp://guest:guest@{}/", port.address())).unwrap_err();
        assert_matches!(error, Error::Connection(_));
        assert_failed_at(&error, Stage::Tcp);
        assert_eq!(error.address(), Some(&*port.address().to_string()));
    });
}

#[test]
fn a_silent_peer_is_given_up_by_the_stack_timeout() {
    bounded(|| {
        type Script = fn(&mut Session);
        let scripts: [(Stage, Script); 3] = [
            (Stage::ProtocolHeader, |_| {}),
            (Stage::Authentication, |session| {
                session.expect_protocol_header();
                session.send_start(&Handshake::default());
            }),
            (Stage::VirtualHost, |session| {
                session.expect_protocol_header();
                session.send_start(&Handshake::default());
                session.expect(0, m::CONNECTION_START_OK);
                session.send_tune(&Handshake::default());
            }),
        ];
        for (stage, script) in scripts {
            let peer = Peer::start(move |session| {
                script(session);
                session.silent_until_end();
            });
            let parameters = ConnectionParameters::from_url(peer.url())
                .unwrap()
                .stack_timeout(Duration::from_millis(200));
            let start = Instant::now();
            let error = Connection::open(parameters).unwrap_err();
            let elapsed = start.elapsed();
            assert!(
                elapsed >= Duration::from_millis(200) && elapsed < Duration::from_secs(3),
                "{elapsed:?}"
            );
            assert_matches!(error, Error::Connection(_));
            assert_failed_at(&error, stage);
            peer.finish();
        }
    });
}

#[test]
fn the_error_of_a_lost_connection_has_its_cause_and_how_long_the_peer_was_silent() {
    bounded(|| {
        for reset in [false, true] {
            let proxy = Proxy::start();
            let connection = Connection::open(proxy.url()).unwrap();
            if reset {
                proxy.reset();
            } else {
                proxy.cut();
            }
            let error = connection.process_data_events(None).unwrap_err();
            let Error::StreamLost(lost) = &error else {
                panic!("{error:?}");
            };
            assert_eq!(*lost.address, *proxy.address().to_string());
            assert!(!lost.cause.is_empty());
            assert!(lost.silent_for < SOON, "{lost:?}");
            assert!(error.to_string().contains(&*lost.cause), "{error}");
        }
    });
}

#[test]
fn a_channel_error_names_code_text_and_cause() {
    bounded(|| {
        let channel = support::channel();
        let queue = unique("q");
        channel
            .queue_declare(QueueDeclare::new(&queue).exclusive(true))
            .unwrap();
        let error = channel
            .queue_declare(
                QueueDeclare::new(&queue)
                    .exclusive(true)
                    .argument("x-max-length", 1),
            )
            .unwrap_err();
        let text = error.to_string();
        for part in [
            "406",
            "PRECONDITION_FAILED",
            "x-max-length",
            "queue.declare",
            &queue,
        ] {
            assert!(text.contains(part), "{text}");
        }
    });
}

#[test]
fn error_541_for_a_transient_queue_names_what_to_declare_instead() {
    bounded(|| {
        let peer = Peer::start(|session| {
            session.handshake();
            session.open_channel(1);
            session.expect(1, m::QUEUE_DECLARE);
            let text = "INTERNAL_ERROR - Feature `transient_nonexcl_queues` is deprecated and not permitted";
            session.send_connection_close(541, text, m::QUEUE_DECLARE);
            session.wait_for(0, m::CONNECTION_CLOSE_OK);
        });
        let connection = Connection::open(peer.url()).unwrap();
        let channel = connection.channel().unwrap();
        let error = channel.queue_declare("q").unwrap_err();
        assert_matches!(error, Error::ConnectionClosedByBroker { .. });
        assert_eq!(error.reply_code(), Some(541));
        let text = error.to_string();
        assert!(
            text.contains("durable(true)") && text.contains("exclusive(true)"),
            "{text}"
        );
        assert!(text.contains("queue.declare"), "{text}");
        drop((channel, connection));
        peer.finish();
    });
}

#[test]
fn a_connection_that_an_operator_closes_fails_with_the_reason() {
    bounded_by(OPERATOR_LIMIT, || {
        // Its name is how the operator finds it.
        let name = unique("connection");
        let parameters = ConnectionParameters::from_url(url())
            .unwrap()
            .client_property("connection_name", &*name);
        let connection = Connection::open(parameters).unwrap();
        let Some(pid) = find_connection(&name) else {
            eprintln!("not tested: there is no RABBITMQCTL");
            return;
        };
        rabbitmqctl(&["close_connection", &pid, "out of order"]);
        let error = connection.process_data_events(None).unwrap_err();
        assert_matches!(error, Error::ConnectionClosedByBroker { .. });
        assert_eq!(error.reply_code(), Some(320));
        assert!(error.to_string().contains("out of order"), "{error}");
    });
}

/// The broker's id for the connection of that name.
fn find_connection(name: &str) -> Option<String> {
    let mut found = None;
    support::met_within(SOON, || {
        let Some(list) = rabbitmqctl(&["-q", "list_connections", "pid", "client_properties"])
        else {
            return true;
        };
        found = list
            .lines()
            .find(|line| line.contains(name))
            .and_then(|line| line.split_whitespace().next())
            .map(str::to_owned);
        found.is_some()
    });
    found
}

// What comes after a violation of the protocol is not believed: the connection ends, with the reason in its error.
#[test]
fn a_violation_of_the_protocol_ends_the_connection() {
    bounded(|| {
        type Violation = fn(&mut Session);
        let violations: [Violation; 6] = [
            // A frame whose last byte is not the frame-end.
            |session| session.send_raw(&[1, 0, 1, 0, 0, 0, 4, 0, 60, 0, 11, 0]),
            // A frame of a type there is not.
            |session| session.send_raw(&[9, 0, 1, 0, 0, 0, 0, 0xCE]),
            // Larger than what was agreed.
            |session| session.send_raw(&[1, 0, 1, 0x7F, 0xFF, 0xFF, 0xFF]),
            // A body without a method before.
            |session| session.send_raw(&[3, 0, 1, 0, 0, 0, 1, b'x', 0xCE]),
            // On a channel that is not open.
            |session| session.send_method(9, m::BASIC_QOS_OK, Args::new()),
            // A reply without a call.
            |session| {
                session.send_method(
                    1,
                    m::QUEUE_DECLARE_OK,
                    Args::new().shortstr("q").long(0).long(0),
                )
            },
        ];
        for violation in violations {
            let peer = Peer::start(move |session| {
                session.handshake();
                session.open_channel(1);
                session.expect(1, m::BASIC_QOS);
                violation(session);
                session.silent_until_end();
            });
            let connection = Connection::open(peer.url()).unwrap();
            let channel = connection.channel().unwrap();
            let error = channel.basic_qos(1).unwrap_err();
            assert!(error.is_connection_error(), "{error:?}");
            assert_matches!(
                error,
                Error::UnexpectedFrame { .. } | Error::InvalidFrame(_)
            );
            assert!(connection.is_closed() && channel.is_closed());
            drop((channel, connection));
            peer.finish();
        }
    });
}

// A call that gets no reply from the broker is given up, and its channel closed, since replies could be mistaken.
#[test]
fn a_call_without_a_reply_is_given_up_with_its_channel() {
    bounded(|| {
        let peer = Peer::start(|session| {
            session.handshake();
            session.open_channel(1);
            session.expect(1, m::BASIC_QOS);
            session.serve_until_end();
        });
        let parameters = ConnectionParameters::from_url(peer.url())
            .unwrap()
            // Closing has this long, too.
            .rpc_timeout(Duration::from_secs(1));
        let connection = Connection::open(parameters).unwrap();
        let channel = connection.channel().unwrap();
        let start = Instant::now();
        let error = channel.basic_qos(1).unwrap_err();
        assert_matches!(error, Error::Timeout { .. });
        assert!(start.elapsed() < SOON);
        support::wait_until(SOON, || channel.is_closed());
        assert!(connection.is_open());
        connection.close().unwrap();
        drop((channel, connection));
        peer.finish();
    });
}
