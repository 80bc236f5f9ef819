//! A peer that breaks the rules gets to know which one, by the reply code that the specification gives it (1.2), and costs a bounded
//! amount of memory.

mod support;

use haypile::{Connection, Error};
use support::peer::{m, Args, Frame, Handshake, Peer};
use support::{assert_matches, bounded, met_within, SOON};

/// Sends this on a connection on which channel 1 is open; returns what the client named as wrong, and what its calls return.
fn reply_to(bytes: Vec<u8>) -> (u16, String, Error) {
    let (reply, named) = std::sync::mpsc::channel();
    let peer = Peer::start(move |session| {
        session.handshake();
        session.open_channel(1);
        session.send_raw(&bytes);
        let mut close = session.wait_for(0, m::CONNECTION_CLOSE);
        reply.send((close.short(), close.shortstr())).unwrap();
        session.send_method(0, m::CONNECTION_CLOSE_OK, Args::new());
        session.expect_end();
    });
    let connection = Connection::open(peer.url()).unwrap();
    let _channel = connection.channel().unwrap();
    let error = connection.process_data_events(SOON).unwrap_err();
    let (code, text) = named.recv().unwrap();
    peer.finish();
    (code, text, error)
}

#[test]
fn a_frame_that_cannot_be_read_is_a_frame_error() {
    bounded(|| {
        let mut no_end = Frame::encode(Frame::HEARTBEAT, 0, &[]);
        *no_end.last_mut().unwrap() = 0;
        let no_such_method = Frame::encode_method(1, (60, 999), &Args::new());
        let cut_short = Frame::encode_method(1, m::BASIC_DELIVER, &Args::new().octet(200));
        let too_large = vec![Frame::BODY, 0, 1, 0xff, 0xff, 0xff, 0xff];
        let no_such_kind = Frame::encode(7, 1, &[]);
        let of_a_client = Frame::encode_method(1, m::CHANNEL_OPEN, &Args::new().shortstr(""));
        let mut all = vec![no_end, no_such_method, cut_short, too_large, no_such_kind];
        // The broker for tests reads what clients send, with the same table of methods: then it is a method in the wrong place.
        if cfg!(not(feature = "testing")) {
            all.push(of_a_client);
        }
        for bytes in all {
            let (code, text, error) = reply_to(bytes);
            assert_eq!((code, &*text), (501, "FRAME_ERROR"), "{error}");
            assert_matches!(error, Error::InvalidFrame { .. });
        }
    });
}

#[test]
fn a_frame_in_the_wrong_place_is_an_unexpected_frame() {
    bounded(|| {
        let arguments = Args::new().shortstr("c").longlong(1).octet(0);
        let arguments = arguments.shortstr("").shortstr("");
        let deliver = |channel| Frame::encode_method(channel, m::BASIC_DELIVER, &arguments);
        let message = Frame::encode_content(0, m::BASIC_DELIVER, &arguments, &[0, 0], b"x");
        let body_alone = Frame::encode(Frame::BODY, 1, b"x");
        let no_such_channel = deliver(9);
        let unasked = Frame::encode_method(1, m::CHANNEL_OPEN_OK, &Args::new().longstr(b""));
        let in_between = [deliver(1), deliver(1)].concat();
        for bytes in [message, body_alone, no_such_channel, unasked, in_between] {
            let (code, text, error) = reply_to(bytes);
            assert_eq!((code, &*text), (505, "UNEXPECTED_FRAME"), "{error}");
            assert_matches!(error, Error::UnexpectedFrame { .. });
        }
    });
}

/// Each peer must take frames of 4096 bytes (4.2.3), so one that offers less is none.
#[test]
fn a_frame_max_below_the_least_is_refused() {
    bounded(|| {
        let tuned_to = |frame_max| {
            let peer = Peer::start(move |session| {
                let handshake = Handshake {
                    frame_max,
                    ..Handshake::default()
                };
                session.expect_protocol_header();
                session.send_start(&handshake);
                session.expect(0, m::CONNECTION_START_OK);
                session.send_tune(&handshake);
                if session
                    .frame_or_end()
                    .is_some_and(|frame| frame.is(0, m::CONNECTION_TUNE_OK))
                {
                    session.expect(0, m::CONNECTION_OPEN);
                    session.send_method(0, m::CONNECTION_OPEN_OK, Args::new().shortstr(""));
                    session.serve_until_end();
                }
            });
            let opened = Connection::open(peer.url());
            let agreed = opened.map(|connection| connection.frame_max());
            peer.finish();
            agreed
        };
        assert_eq!(tuned_to(4096).unwrap(), 4096);
        for frame_max in [4095, 1] {
            let error = tuned_to(frame_max).unwrap_err().to_string();
            let reason = format!("a frame_max of {frame_max}, below 4096");
            assert!(error.contains(&reason), "{error}");
        }
    });
}

/// The client must reply to each of these, and the peer reads none of the replies.
#[test]
fn a_peer_that_asks_and_does_not_read_costs_a_bounded_amount_of_memory() {
    bounded(|| {
        // Several times what the replies may take, and what the system's buffers hold.
        const MOST: usize = 96 << 20;
        let peer = Peer::start(|session| {
            session.handshake();
            session.open_channel(1);
            let cancel = Args::new().shortstr(&"x".repeat(255)).octet(0);
            let request = Frame::encode_method(1, m::BASIC_CANCEL, &cancel);
            let requests = request.repeat(1000);
            for _ in 0..MOST / requests.len() {
                session.send_raw(&requests);
            }
            session.expect_end();
        });
        let connection = Connection::open(peer.url()).unwrap();
        let channel = connection.channel().unwrap();
        assert!(
            met_within(SOON * 2, || connection.is_closed()),
            "all was read, and the replies are held"
        );
        let error = connection.process_data_events(SOON).unwrap_err();
        let reason = "more requests than the peer reads replies to";
        assert!(error.to_string().contains(reason), "{error}");
        // Only a socket that is closed refuses what the peer still writes.
        drop((channel, connection));
        peer.finish();
    });
}
