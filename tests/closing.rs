//! `close` returns `Ok` only when the broker has confirmed it: then it has received all that was published before.

mod support;

use std::time::Duration;

use haypile::{Channel, Connection, ConnectionParameters, Error};
use support::peer::{m, Args, Peer};
use support::proxy::Proxy;
use support::{assert_matches, bounded, bounded_by, exclusive_queue, message_count, open, SOON};

/// What an error of `close` must mention.
#[track_caller]
fn assert_unknown(error: &Error) {
    assert!(error.is_connection_error(), "{error:?}");
    assert!(
        error.to_string().contains("published last is unknown"),
        "{error}"
    );
}

fn through(proxy: &Proxy) -> Channel {
    Connection::open(proxy.url()).unwrap().channel().unwrap()
}

/// How many bytes the client and the broker send while something is closed.
fn bytes_of(close: impl Fn(&Channel)) -> (usize, usize) {
    let proxy = Proxy::start();
    let channel = through(&proxy);
    let (client, broker) = (proxy.client_bytes(), proxy.broker_bytes());
    close(&channel);
    (
        (proxy.client_bytes() - client) as usize,
        (proxy.broker_bytes() - broker) as usize,
    )
}

#[test]
fn a_close_that_is_cut_at_any_byte_is_an_error() {
    bounded_by(Duration::from_secs(60), || {
        let (client, broker) = bytes_of(|channel| channel.connection().close().unwrap());
        assert!(client > 40 && broker >= 12, "{client} {broker}");
        let proxy = Proxy::start();
        for offset in 0..client {
            let channel = through(&proxy);
            proxy.cut_client_after(offset);
            let error = channel.connection().close().unwrap_err();
            assert_unknown(&error);
            assert!(matches!(error, Error::StreamLost(_)), "{offset}: {error:?}");
            assert!(channel.connection().is_closed());
        }
        // The reply is the connection's close-ok, and sometimes the channel's before it.
        for offset in 0..12 {
            let channel = through(&proxy);
            proxy.cut_broker_after(offset);
            let error = channel.connection().close().unwrap_err();
            assert_unknown(&error);
            assert!(matches!(error, Error::StreamLost(_)), "{offset}: {error:?}");
        }
    });
}

#[test]
fn closing_a_channel_that_is_cut_at_any_byte_is_an_error() {
    bounded_by(Duration::from_secs(60), || {
        let (client, broker) = bytes_of(|channel| channel.close().unwrap());
        assert!(client > 20 && broker >= 12, "{client} {broker}");
        let proxy = Proxy::start();
        for offset in 0..client {
            let channel = through(&proxy);
            proxy.cut_client_after(offset);
            let error = channel.close().unwrap_err();
            assert_unknown(&error);
            assert!(channel.is_closed());
        }
        for offset in 0..12 {
            let channel = through(&proxy);
            proxy.cut_broker_after(offset);
            assert_unknown(&channel.close().unwrap_err());
        }
    });
}

#[test]
fn a_link_cut_under_publishes_makes_close_an_error() {
    bounded(|| {
        let watching = open().channel().unwrap();
        let queue = exclusive_queue(&watching);
        let proxy = Proxy::start();
        for cut_after in [0, 1, 200, 1000, 5000] {
            let channel = through(&proxy);
            proxy.cut_client_after(cut_after);
            let mut taken = 0;
            for n in 0..100 {
                // It may be noticed in between.
                taken += usize::from(
                    channel
                        .basic_publish("", &queue, format!("{n:0>100}"))
                        .is_ok(),
                );
            }
            let error = channel.connection().close().unwrap_err();
            assert!(
                error.to_string().contains("published last is unknown"),
                "{cut_after}, {taken}: {error}"
            );
            let arrived = message_count(&watching, &queue);
            assert!(arrived < 100, "{arrived}");
            watching.queue_purge(&queue).unwrap();
        }
    });
}

/// A channel that the connection has taken with it is no better off, and its later calls fail as they did before.
#[test]
fn closing_a_channel_of_a_lost_connection_fails_with_the_loss() {
    bounded(|| {
        let proxy = Proxy::start();
        let channel = through(&proxy);
        channel.basic_publish("", "nowhere", "body").unwrap();
        proxy.cut();
        support::wait_until(SOON, || channel.is_closed());
        for _ in 0..2 {
            let error = channel.close().unwrap_err();
            assert_unknown(&error);
            assert_matches!(error, Error::StreamLost(_));
        }
        let error = channel.basic_qos(1).unwrap_err();
        assert_matches!(error, Error::StreamLost(_));
    });
}

/// The first call after a loss returns what happened, also if that is `close`.
#[test]
fn closing_a_lost_connection_fails_with_the_loss() {
    bounded(|| {
        let proxy = Proxy::start();
        let channel = through(&proxy);
        let connection = channel.connection();
        channel.basic_publish("", "nowhere", "body").unwrap();
        proxy.cut();
        support::wait_until(SOON, || connection.is_closed());
        let error = connection.close().unwrap_err();
        assert_unknown(&error);
        assert_matches!(error, Error::StreamLost(_));
        let error = connection.close().unwrap_err();
        assert_matches!(error, Error::ConnectionWrongState { .. });
        assert_unknown(&error);
    });
}

#[test]
fn a_close_by_the_broker_at_the_same_time_is_reported() {
    bounded(|| {
        let peer = Peer::start(|session| {
            session.handshake();
            session.wait_for(0, m::CONNECTION_CLOSE);
            session.send_connection_close(320, "CONNECTION_FORCED - going down", (0, 0));
            session.wait_for(0, m::CONNECTION_CLOSE_OK);
        });
        let connection = Connection::open(peer.url()).unwrap();
        let error = connection.close().unwrap_err();
        assert_unknown(&error);
        assert_eq!(error.reply_code(), Some(320));
        peer.finish();
    });
}

#[test]
fn a_broker_that_does_not_confirm_in_time_leaves_the_last_messages_unknown() {
    bounded(|| {
        let peer = Peer::start(|session| {
            session.handshake();
            session.open_channel(1);
            session.silent_until_end();
        });
        let parameters = ConnectionParameters::from_url(peer.url()).unwrap();
        let limit = Duration::from_millis(300);
        let connection = Connection::open(parameters.rpc_timeout(limit)).unwrap();
        let channel = connection.channel().unwrap();
        let error = channel.close().unwrap_err();
        assert_matches!(error, Error::Timeout { .. });
        let text = error.to_string();
        assert!(text.contains("published last is unknown"), "{text}");
        let error = connection.close().unwrap_err();
        assert_matches!(error, Error::Timeout { .. });
        let text = error.to_string();
        assert!(text.contains("published last is unknown"), "{text}");
        peer.finish();
    });
}

/// The broker had something against what was published on the channel: this must not look like an orderly end.
#[test]
fn a_close_of_the_channel_by_the_broker_at_the_same_time_is_reported() {
    bounded(|| {
        let peer = Peer::start(|session| {
            session.handshake();
            session.open_channel(1);
            session.wait_for(1, m::CHANNEL_CLOSE);
            session.send_channel_close(1, 404, "NOT_FOUND - no exchange", m::BASIC_PUBLISH);
            session.send_method(1, m::CHANNEL_CLOSE_OK, Args::new());
            session.serve_until_end();
        });
        let connection = Connection::open(peer.url()).unwrap();
        let channel = connection.channel().unwrap();
        channel.basic_publish("nowhere", "", "body").unwrap();
        let error = channel.close().unwrap_err();
        assert_matches!(error, Error::ChannelClosedByBroker { .. });
        assert_eq!(error.reply_code(), Some(404));
        assert!(connection.is_open() && channel.is_closed());
        connection.close().unwrap();
        peer.finish();
    });
}
