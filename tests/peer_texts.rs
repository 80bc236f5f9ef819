//! What the peer sends is data: in errors and logs it stands escaped and cut, while fields keep it as it came.

#[path = "support/capture.rs"]
mod capture;
mod support;

use std::time::Duration;

use capture::{capture, logged};
use haypile::{
    BasicProperties, BasicPublish, Connection, ConnectionParameters, Error, QueueDeclare,
};
use support::peer::{m, Args, Field, Frame, Handshake, Peer, Session};
use support::{assert_matches, bounded, channel, unique, Log};

/// Clears the screen, forges a line of a log, and turns the direction of what follows.
const HOSTILE: &str = "well\u{1b}[2J\r\nERROR forged: all is lost\u{202e}\u{85}";

/// Fails if a text could do more than be read on one line of a screen.
#[track_caller]
fn assert_harmless(text: &str) {
    let harmful = |c: char| c.is_control() || ('\u{200b}'..='\u{206f}').contains(&c);
    assert!(!text.contains(harmful), "{text:?}");
    assert!(text.len() < 4096, "{} bytes: {text:?}", text.len());
}

/// The same for an error, however it is shown, and for everything that was logged.
#[track_caller]
fn assert_shown_harmlessly(error: &Error) {
    for text in [
        error.to_string(),
        format!("{error:?}"),
        format!("{error:#?}"),
    ] {
        assert_harmless(&text);
        assert!(text.contains("forged"), "it is shown, though: {text}");
    }
    if let Some(failure) = error.connect_failure() {
        assert_harmless(&failure.to_string());
        assert_harmless(&format!("{failure:?}"));
        assert_harmless(&failure.cause);
        failure
            .attempts
            .iter()
            .for_each(|attempt| assert_harmless(&attempt.to_string()));
    }
    assert_log_is_harmless();
}

#[track_caller]
fn assert_log_is_harmless() {
    for line in logged().lines() {
        assert_harmless(line);
        assert!(!line.starts_with("ERROR forged"), "{line}");
    }
}

/// Sends back a message of the client's, with that text.
fn send_return(session: &mut Session) {
    let arguments = Args::new()
        .short(312)
        .shortstr(HOSTILE)
        .shortstr("")
        .shortstr("nowhere");
    session.send_content(1, m::BASIC_RETURN, arguments, b"x");
}

fn refused(script: impl FnOnce(&mut Session) + Send + 'static) -> Error {
    capture();
    let peer = Peer::start(script);
    let error = Connection::open(peer.url()).unwrap_err();
    peer.finish();
    error
}

#[test]
fn a_closure_before_and_after_the_login() {
    bounded(|| {
        let error = refused(|session| {
            session.expect_protocol_header();
            session.send_start(&Handshake::default());
            session.expect(0, m::CONNECTION_START_OK);
            session.send_connection_close(403, HOSTILE, (0, 0));
        });
        assert_matches!(error, Error::ProbableAuthentication(_));
        assert_shown_harmlessly(&error);

        let peer = Peer::start(|session| {
            session.handshake();
            session.expect(1, m::CHANNEL_OPEN);
            session.send_connection_close(320, HOSTILE, (0, 0));
            session.expect(0, m::CONNECTION_CLOSE_OK);
        });
        let connection = Connection::open(peer.url()).unwrap();
        let error = connection.channel().unwrap_err();
        assert_shown_harmlessly(&error);
        match &error {
            Error::ConnectionClosedByBroker { reply_text, .. } => assert_eq!(reply_text, HOSTILE),
            other => panic!("{other:?}"),
        }
        // What is reported later repeats it.
        assert_shown_harmlessly(&connection.channel().unwrap_err());
        peer.finish();
    });
}

#[test]
fn mechanisms_without_end() {
    bounded(|| {
        let error = refused(|session| {
            session.expect_protocol_header();
            let mechanisms = format!("{HOSTILE} {}", "X".repeat(100_000));
            let start = Args::new()
                .octet(0)
                .octet(9)
                .table(&[("product", Field::Str(HOSTILE))])
                .longstr(mechanisms.as_bytes())
                .longstr(b"en_US");
            session.send_method(0, m::CONNECTION_START, start);
        });
        assert_matches!(error, Error::Authentication(_));
        assert_shown_harmlessly(&error);
    });
}

#[test]
fn a_channels_closure() {
    bounded(|| {
        capture();
        let peer = Peer::start(|session| {
            session.handshake();
            session.open_channel(1);
            session.expect(1, m::QUEUE_DECLARE);
            session.send_channel_close(1, 406, HOSTILE, m::QUEUE_DECLARE);
            session.expect(1, m::CHANNEL_CLOSE_OK);
            session.serve_until_end();
        });
        let connection = Connection::open(peer.url()).unwrap();
        let channel = connection.channel().unwrap();
        let error = channel.queue_declare("q").unwrap_err();
        assert_shown_harmlessly(&error);
        match &error {
            Error::ChannelClosedByBroker { reply_text, .. } => assert_eq!(reply_text, HOSTILE),
            other => panic!("{other:?}"),
        }
        assert_shown_harmlessly(&channel.basic_publish("", "q", "x").unwrap_err());
        drop(channel);
        connection.close().unwrap();
        peer.finish();
        assert_log_is_harmless();
    });
}

#[test]
fn the_reason_of_an_alarm() {
    bounded(|| {
        capture();
        let peer = Peer::start(|session| {
            session.handshake();
            session.send_method(0, m::CONNECTION_BLOCKED, Args::new().shortstr(HOSTILE));
            session.silent_until_end();
        });
        let parameters = ConnectionParameters::from_url(peer.url())
            .unwrap()
            .blocked_connection_timeout(Duration::from_millis(300));
        let connection = Connection::open(parameters).unwrap();
        let reasons = Log::new();
        let seen = reasons.clone();
        connection.add_on_connection_blocked_callback(move |_, reason| seen.push(reason));
        let error = loop {
            if let Err(error) = connection.process_data_events(Duration::from_secs(1)) {
                break error;
            }
        };
        assert_matches!(error, Error::ConnectionBlockedTimeout { .. });
        assert_shown_harmlessly(&error);
        assert_eq!(reasons.all(), [HOSTILE], "fields keep what came");
        peer.finish();
    });
}

#[test]
fn a_returned_message() {
    bounded(|| {
        capture();
        let peer = Peer::start(|session| {
            session.handshake();
            session.open_channel(1);
            session.expect(1, m::CONFIRM_SELECT);
            session.send_method(1, m::CONFIRM_SELECT_OK, Args::new());
            for _ in 0..2 {
                session.expect_content(1, m::BASIC_PUBLISH);
            }
            for _ in 0..2 {
                send_return(session);
            }
            session.send_method(1, m::BASIC_ACK, Args::new().longlong(2).octet(1));
            session.expect_content(1, m::BASIC_PUBLISH);
            send_return(session);
            session.send_method(1, m::BASIC_ACK, Args::new().longlong(3).octet(0));
            session.serve_until_end();
        });
        let connection = Connection::open(peer.url()).unwrap();
        let channel = connection.channel().unwrap();
        let mut publisher = channel.publisher(10).unwrap();
        let mandatory = || BasicPublish::new().mandatory(true);
        for _ in 0..2 {
            publisher
                .publish_with("", "nowhere", "x", mandatory())
                .unwrap();
        }
        let error = publisher
            .wait_for_confirms(Duration::from_secs(10))
            .unwrap_err();
        assert_shown_harmlessly(&error);
        let error = channel
            .basic_publish_with("", "nowhere", "x", mandatory())
            .unwrap_err();
        assert_shown_harmlessly(&error);
        match &error {
            Error::Unroutable(returned) => assert_eq!(&*returned[0].method.reply_text, HOSTILE),
            other => panic!("{other:?}"),
        }
        connection.close().unwrap();
        peer.finish();
    });
}

#[test]
fn a_message_without_a_consumer() {
    bounded(|| {
        capture();
        let peer = Peer::start(|session| {
            session.handshake();
            session.open_channel(1);
            let tag = session.accept_consumer(1);
            let deliver = Args::new()
                .shortstr(HOSTILE)
                .longlong(1)
                .octet(0)
                .shortstr(HOSTILE)
                .shortstr(HOSTILE);
            let frames = Frame::encode_content(1, m::BASIC_DELIVER, &deliver, &[0, 0], b"x");
            session.send_raw(&frames);
            session.send_method(1, m::BASIC_CANCEL, Args::new().shortstr(&tag).octet(1));
            session.serve_until_end();
        });
        let connection = Connection::open(peer.url()).unwrap();
        let channel = connection.channel().unwrap();
        channel.basic_consume("q", |_, _, _, _| ()).unwrap();
        let _ = channel.start_consuming();
        let _ = connection.close();
        peer.finish();
        assert!(logged().contains("which is no consumer any more"));
        assert_log_is_harmless();
    });
}

/// An honest broker repeats what another of its users chose.
#[test]
fn an_argument_that_another_tenant_chose() {
    bounded(|| {
        capture();
        let theirs = channel();
        let queue = unique("tenant");
        let arguments = QueueDeclare::new(&queue)
            .exclusive(true)
            .argument("x-dead-letter-exchange", HOSTILE);
        theirs.queue_declare(arguments).unwrap();
        let connection = theirs.connection();
        let ours = connection.channel().unwrap();
        let error = ours
            .queue_declare(QueueDeclare::new(&queue).exclusive(true))
            .unwrap_err();
        assert_eq!(error.reply_code(), Some(406));
        assert_shown_harmlessly(&error);
        assert_shown_harmlessly(&ours.basic_publish("", "", "x").unwrap_err());
        connection.close().unwrap();
        assert_log_is_harmless();
    });
}

#[test]
fn many_returned_messages_make_no_endless_text() {
    bounded(|| {
        let channel = channel();
        let mut publisher = channel.publisher(1000).unwrap();
        let missing = unique("missing");
        let loud = BasicProperties::new().header("x", "y".repeat(10_000));
        let mandatory = BasicPublish::new().mandatory(true).properties(&loud);
        for _ in 0..100 {
            publisher
                .publish_with("", &missing, "x".repeat(1000), mandatory.clone())
                .unwrap();
        }
        let error = publisher
            .wait_for_confirms(Duration::from_secs(30))
            .unwrap_err();
        assert_harmless(&error.to_string());
        assert_harmless(&format!("{error:?}"));
        let Error::Unconfirmed(report) = error else {
            panic!("{error:?}");
        };
        let returned = report
            .returned
            .into_iter()
            .map(|(_, message)| message)
            .collect();
        assert_harmless(&Error::Unroutable(returned).to_string());
    });
}
