//! What a publisher reports after the end of its channel or connection: which messages are confirmed, which are not, and why.

mod support;

use std::collections::HashSet;

use haypile::{BasicGet, BasicPublish, Channel, Connection, Error, UnconfirmedReport};
use support::peer::{m, Args, Peer, Session};
use support::proxy::Proxy;
use support::{
    assert_matches, bounded, channel, exclusive_queue, met_within, open, unique, Fixture, SOON,
};

fn unconfirmed(result: haypile::Result<()>) -> UnconfirmedReport {
    match result {
        Err(Error::Unconfirmed(report)) => *report,
        other => panic!("{other:?}"),
    }
}

fn send_ack(session: &mut Session, tag: u64, multiple: bool) {
    let arguments = Args::new().longlong(tag).octet(u8::from(multiple));
    session.send_method(1, m::BASIC_ACK, arguments);
}

/// A channel of a peer that takes six messages, returns the fifth, refuses the second, confirms the first and the sixth, and
/// then ends it in some way.
fn half_confirmed(end: impl FnOnce(&mut Session) + Send + 'static) -> (Channel, Peer) {
    let peer = Peer::start(move |session| {
        session.handshake();
        session.open_channel(1);
        session.expect(1, m::CONFIRM_SELECT);
        session.send_method(1, m::CONFIRM_SELECT_OK, Args::new());
        for _ in 0..6 {
            session.expect_content(1, m::BASIC_PUBLISH);
        }
        send_ack(session, 1, false);
        session.send_method(1, m::BASIC_NACK, Args::new().longlong(2).octet(0));
        let unroutable = Args::new()
            .short(312)
            .shortstr("NO_ROUTE")
            .shortstr("")
            .shortstr("key");
        session.send_content(1, m::BASIC_RETURN, unroutable, b"5");
        send_ack(session, 5, false);
        send_ack(session, 6, false);
        end(session);
    });
    let channel = Connection::open(peer.url()).unwrap().channel().unwrap();
    (channel, peer)
}

/// Publishes the six, and checks what is reported when nothing more comes.
fn report_of_six(channel: &Channel, window: usize) -> (haypile::Publisher, UnconfirmedReport) {
    let mut publisher = channel.publisher(window).unwrap();
    for n in 1..=6 {
        let message = BasicPublish::new().mandatory(true);
        let number = publisher.publish_with("", "key", n.to_string(), message);
        assert_eq!(number.unwrap(), n);
    }
    let report = unconfirmed(publisher.wait_for_confirms(SOON));
    let returned: Vec<u64> = report.returned.iter().map(|(number, _)| *number).collect();
    assert_eq!((returned, &report.nacked[..]), (vec![5], &[2][..]));
    assert_eq!(report.pending, [3, 4]);
    assert_eq!(report.confirmed, [1..=1, 6..=6]);
    let confirmed: Vec<u64> = (0..9).filter(|n| report.is_confirmed(*n)).collect();
    assert_eq!(confirmed, [1, 6]);
    (publisher, report)
}

#[test]
fn the_report_comes_after_the_connection_was_lost() {
    bounded(|| {
        let (channel, peer) = half_confirmed(|_| {});
        let (mut publisher, report) = report_of_six(&channel, 10);
        let cause = report.cause.clone().unwrap();
        assert_matches!(cause, Error::StreamLost(_));
        let error = Error::Unconfirmed(Box::new(report));
        assert!(error.is_connection_error() && !error.is_channel_error());
        assert_eq!(error.address(), Some(&*peer.address().to_string()));
        assert!(error.to_string().contains("lost"), "{error}");
        // Each loss is reported once; then there is only the end to speak of.
        let error = publisher.wait_for_confirms(SOON).unwrap_err();
        assert!(error.to_string().contains("lost"), "{error}");
        assert!(!matches!(error, Error::Unconfirmed(_)), "{error:?}");
        assert!(publisher.publish("", "key", "7").is_err());
        assert_eq!(publisher.unconfirmed(), 0);
        peer.finish();
    });
}

#[test]
fn the_report_comes_after_the_broker_closed_the_channel() {
    bounded(|| {
        let (channel, peer) = half_confirmed(|session| {
            session.send_channel_close(1, 404, "NOT_FOUND - no exchange", m::BASIC_PUBLISH);
            session.serve_until_end();
        });
        let (_publisher, report) = report_of_six(&channel, 10);
        let error = Error::Unconfirmed(Box::new(report));
        assert_eq!(error.reply_code(), Some(404));
        assert!(error.is_channel_error() && !error.is_connection_error());
        assert!(channel.connection().is_open());
        channel.connection().close().unwrap();
        peer.finish();
    });
}

#[test]
fn the_report_comes_after_the_broker_closed_the_connection() {
    bounded(|| {
        let (channel, peer) = half_confirmed(|session| {
            session.send_connection_close(320, "CONNECTION_FORCED", (0, 0));
            session.wait_for(0, m::CONNECTION_CLOSE_OK);
        });
        let (_publisher, report) = report_of_six(&channel, 10);
        let error = Error::Unconfirmed(Box::new(report));
        assert_eq!(error.reply_code(), Some(320));
        assert!(error.is_connection_error());
        peer.finish();
    });
}

/// The window of four has room for the sixth only when two of the first are confirmed or refused; a seventh never has.
#[test]
fn the_report_comes_after_a_publish_that_waited_for_room_met_the_end() {
    bounded(|| {
        let (channel, peer) = half_confirmed(|session| {
            send_ack(session, 6, false);
        });
        let mut publisher = channel.publisher(6).unwrap();
        let message = || BasicPublish::new().mandatory(true);
        for n in 1..=6 {
            publisher
                .publish_with("", "key", n.to_string(), message())
                .unwrap();
        }
        // There is room again as long as the connection lives, and no program takes the messages.
        let error = (0..1000)
            .find_map(|_| {
                publisher
                    .publish_with("", "other", "later", message())
                    .err()
            })
            .expect("the window has an end");
        assert!(error.is_connection_error(), "{error:?}");
        let waiting = publisher.unconfirmed();
        let report = unconfirmed(publisher.wait_for_confirms(SOON));
        assert!(report.cause.is_some());
        assert_eq!(report.nacked, [2]);
        assert_eq!(report.pending[..2], [3, 4]);
        assert_eq!(report.pending.len(), waiting);
        assert!(report.is_confirmed(1) && report.is_confirmed(6));
        peer.finish();
    });
}

#[test]
fn what_is_confirmed_before_the_end_is_no_loss() {
    bounded(|| {
        let connection = open();
        let channel = connection.channel().unwrap();
        let queue = exclusive_queue(&channel);
        let mut publisher = channel.publisher(10).unwrap();
        for _ in 0..20 {
            publisher.publish("", &queue, "body").unwrap();
        }
        assert!(met_within(SOON, || publisher.unconfirmed() == 0));
        connection.close().unwrap();
        publisher.wait_for_confirms(SOON).unwrap();
        // Asked again there is nothing to report, and the call fails as every other.
        assert!(publisher.wait_for_confirms(SOON).is_err());
    });
}

#[test]
fn a_missing_exchange_is_the_cause() {
    bounded(|| {
        let channel = channel();
        let mut publisher = channel.publisher(100).unwrap();
        let number = publisher
            .publish(unique("no-such-exchange"), "key", "lost")
            .unwrap();
        let error = publisher.wait_for_confirms(SOON).unwrap_err();
        assert_eq!(error.reply_code(), Some(404));
        assert!(error.is_channel_error(), "{error:?}");
        let report = unconfirmed(Err(error));
        assert_eq!(report.pending, [number]);
        let cause = report.cause.unwrap();
        assert_matches!(cause, Error::ChannelClosedByBroker { .. });
        assert!(channel.connection().is_open());
        for error in [
            publisher.publish("", "q", "lost").unwrap_err(),
            publisher.wait_for_confirms(SOON).unwrap_err(),
            channel.basic_qos(1).unwrap_err(),
        ] {
            assert_eq!(error.reply_code(), Some(404), "{error:?}");
        }
    });
}

/// Publishing goes on through cuts of the link. What a report does not call confirmed is published again: then nothing is
/// lost, and no more comes twice than was on its way when the link was cut.
#[test]
fn what_the_reports_do_not_confirm_is_all_that_need_be_published_again() {
    const COUNT: usize = 3000;
    const WINDOW: usize = 50;
    bounded(|| {
        let mut fixture = Fixture::new();
        let queue = fixture.queue("again");
        let reading = channel();
        reading.queue_declare(&queue).unwrap();
        let proxy = Proxy::start();
        let mut waiting: Vec<usize> = (0..COUNT).collect();
        let (mut published, mut cuts) = (0, 0);
        while !waiting.is_empty() {
            assert!(cuts < 10, "{} still wait", waiting.len());
            let connection = Connection::open(proxy.url()).unwrap();
            let mut publisher = connection.channel().unwrap().publisher(WINDOW).unwrap();
            let mut sent = 0;
            for n in &waiting {
                match publisher.publish("", &queue, n.to_string()) {
                    Ok(number) => assert_eq!(number, sent as u64 + 1),
                    Err(_) => break,
                }
                sent += 1;
                published += 1;
                if published % 700 == 0 {
                    proxy.cut();
                    cuts += 1;
                }
            }
            match publisher.wait_for_confirms(SOON) {
                Ok(()) => drop(waiting.drain(..sent)),
                Err(Error::Unconfirmed(report)) => {
                    assert!(report.cause.is_some() && report.pending.len() <= WINDOW);
                    let mut number = 0;
                    waiting.retain(|_| {
                        number += 1;
                        !report.is_confirmed(number)
                    });
                }
                Err(error) => panic!("{error:?}"),
            }
        }
        assert!(cuts >= 4);
        assert!(published <= COUNT + cuts * WINDOW, "{published}");
        // The connections that were cut may still be at work on what they were sent.
        let mut missing: HashSet<String> = (0..COUNT).map(|n| n.to_string()).collect();
        assert!(met_within(SOON, || {
            while let Some((_, _, body)) = reading
                .basic_get(BasicGet::new(&queue).auto_ack(true))
                .unwrap()
            {
                missing.remove(std::str::from_utf8(&body).unwrap());
            }
            missing.is_empty()
        }));
    });
}
