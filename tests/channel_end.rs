//! The end of a channel costs that channel only: what a broker still sends on it is skipped, and its number is free at once.

mod support;

use std::time::Duration;

use haypile::{BasicConsume, Channel, Connection, ConnectionParameters, Error};
use support::peer::{m, Args, Frame, Peer, Session};
use support::{assert_matches, bounded, bounded_by, exclusive_queue, open, unique, Log};

/// The frames of a delivery of `body`, the body in frames of `part` bytes.
fn delivery(
    channel: u16,
    consumer_tag: &str,
    delivery_tag: u64,
    body: &[u8],
    part: usize,
) -> Vec<Vec<u8>> {
    let arguments = Args::new()
        .shortstr(consumer_tag)
        .longlong(delivery_tag)
        .octet(0)
        .shortstr("")
        .shortstr("key");
    let header = Args::new()
        .short(60)
        .short(0)
        .longlong(body.len() as u64)
        .raw(&[0, 0]);
    let mut frames = vec![
        Frame::encode_method(channel, m::BASIC_DELIVER, &arguments),
        Frame::encode(Frame::HEADER, channel, header.bytes()),
    ];
    frames.extend(
        body.chunks(part)
            .map(|part| Frame::encode(Frame::BODY, channel, part)),
    );
    frames
}

fn close(channel: u16) -> Vec<u8> {
    let arguments = Args::new()
        .short(406)
        .shortstr("PRECONDITION_FAILED - unknown delivery tag 5")
        .short(60)
        .short(80);
    Frame::encode_method(channel, m::CHANNEL_CLOSE, &arguments)
}

/// What a broker may still send on a channel, right and wrong.
fn late_frames(channel: u16) -> Vec<Vec<u8>> {
    let mut frames = delivery(channel, "mine", 7, &[b'x'; 3000], 1000);
    frames.push(Frame::encode_content(
        channel,
        m::BASIC_RETURN,
        &Args::new()
            .short(312)
            .shortstr("NO_ROUTE")
            .shortstr("")
            .shortstr("k"),
        &[0, 0],
        b"returned",
    ));
    let ack =
        |tag, method| Frame::encode_method(channel, method, &Args::new().longlong(tag).octet(0));
    frames.push(ack(99, m::BASIC_ACK));
    frames.push(ack(0, m::BASIC_NACK));
    let cancel = Args::new().shortstr("mine").octet(0);
    frames.push(Frame::encode_method(channel, m::BASIC_CANCEL, &cancel));
    frames.push(Frame::encode_method(
        channel,
        m::CHANNEL_FLOW,
        &Args::new().octet(0),
    ));
    frames.push(Frame::encode_method(
        channel,
        m::QUEUE_PURGE_OK,
        &Args::new().long(3),
    ));
    frames.push(Frame::encode_method(channel, (60, 99), &Args::new()));
    // Properties that end early, a header and a body that nothing announced, half a message.
    let mut half = delivery(channel, "mine", 8, &[b'x'; 3000], 1000);
    half.pop();
    frames.push(half.remove(0));
    frames.push(Frame::encode(
        Frame::HEADER,
        channel,
        &[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0xff, 0xff],
    ));
    frames.extend(half);
    frames.push(Frame::encode(Frame::BODY, channel, b""));
    frames
}

/// How the same bytes come to the client.
#[derive(Clone, Copy)]
enum Cut {
    Whole,
    Frames,
    /// In parts of so many bytes.
    Parts(usize),
}

const CUTS: [Cut; 4] = [Cut::Whole, Cut::Frames, Cut::Parts(100), Cut::Parts(1009)];

fn send(session: &mut Session, frames: &[Vec<u8>], cut: Cut) {
    let bytes = frames.concat();
    let mut part = |bytes: &[u8]| {
        session.send_raw(bytes);
        std::thread::yield_now();
    };
    match cut {
        Cut::Whole => part(&bytes),
        Cut::Frames => frames.iter().for_each(|frame| part(frame)),
        Cut::Parts(size) => bytes.chunks(size).for_each(part),
    }
}

fn consume(channel: &Channel, log: &Log<u64>) {
    let log = log.clone();
    let request = BasicConsume::new("q").consumer_tag("mine");
    channel
        .basic_consume(request, move |_, method, _, _| {
            log.push(method.delivery_tag)
        })
        .unwrap();
}

/// Plays both sides for each way in which bytes may come. Channel 1 is open, with a consumer that writes down the tags of
/// what is delivered, when `broker` and `program` begin.
fn for_each_cut(broker: fn(&mut Session, Cut), program: fn(&Connection, &Channel, &Log<u64>)) {
    for cut in CUTS {
        bounded(move || {
            let peer = Peer::start(move |session| {
                session.handshake();
                session.open_channel(1);
                session.accept_consumer(1);
                broker(session, cut);
            });
            let connection = Connection::open(peer.url()).unwrap();
            let channel = connection.channel().unwrap();
            let log = Log::new();
            consume(&channel, &log);
            program(&connection, &channel, &log);
            connection.close().unwrap();
            peer.finish();
        });
    }
}

/// Consumes on a channel that has its number from one that was closed; only the new one's message is delivered.
fn assert_only_new_messages_come(connection: &Connection, again: &Channel, log: &Log<u64>) {
    assert_eq!(again.channel_number(), 1);
    assert!(log.is_empty());
    consume(again, log);
    support::pump_until(connection, || !log.is_empty());
    assert_eq!(log.all(), [1]);
}

#[track_caller]
fn assert_closed_by_broker(channel: &Channel) {
    let error = channel.basic_qos(1).unwrap_err();
    assert_matches!(
        error,
        Error::ChannelClosedByBroker {
            reply_code: 406,
            ..
        }
    );
}

#[test]
fn what_comes_after_the_brokers_close_is_skipped() {
    for_each_cut(
        |session, cut| {
            // The close stands in the middle of a message.
            let mut frames = delivery(1, "mine", 1, &[b'x'; 3000], 1000);
            frames.insert(3, close(1));
            frames.extend(late_frames(1));
            send(session, &frames, cut);
            session.expect(1, m::CHANNEL_CLOSE_OK);
            send(session, &late_frames(1), cut);
            // The number is opened again, and what comes before open-ok is not the new channel's.
            session.expect(1, m::CHANNEL_OPEN);
            send(session, &late_frames(1), cut);
            session.send_method(1, m::CHANNEL_OPEN_OK, Args::new().longstr(b""));
            session.accept_consumer(1);
            session.deliver(1, "mine", 1, b"new");
            session.serve_until_end();
        },
        |connection, channel, log| {
            let error = channel.start_consuming().unwrap_err();
            assert_matches!(error, Error::ChannelClosedByBroker { .. });
            let again = connection.channel().unwrap();
            assert_only_new_messages_come(connection, &again, log);
            assert_closed_by_broker(channel);
        },
    );
}

#[test]
fn what_comes_after_this_ends_close_is_skipped_without_a_reply() {
    for_each_cut(
        |session, cut| {
            let frames = delivery(1, "mine", 1, &[b'x'; 3000], 1000);
            send(session, &frames[..3], cut);
            session.expect(1, m::CHANNEL_CLOSE);
            send(session, &frames[3..], cut);
            send(session, &late_frames(1), cut);
            session.send_method(1, m::CHANNEL_CLOSE_OK, Args::new());
            send(session, &late_frames(1), cut);
            // No reply came in between.
            session.expect(1, m::CHANNEL_OPEN);
            send(session, &late_frames(1), cut);
            session.send_method(1, m::CHANNEL_OPEN_OK, Args::new().longstr(b""));
            session.expect(1, m::CHANNEL_CLOSE);
            session.expect(0, m::CONNECTION_CLOSE);
            send(session, &late_frames(1), cut);
            send(session, &late_frames(0), cut);
            send(session, &late_frames(9), cut);
            session.send_method(0, m::CONNECTION_CLOSE_OK, Args::new());
            session.expect_end();
        },
        |connection, channel, _| {
            connection.process_data_events(Duration::ZERO).unwrap();
            channel.close().unwrap();
            let again = connection.channel().unwrap();
            assert_eq!(again.channel_number(), 1);
        },
    );
}

/// What is late may also come behind the new channel's open-ok. Nothing of it can mean the new channel, which has asked for
/// nothing yet and published nothing.
#[test]
fn what_cannot_be_the_next_channels_is_skipped() {
    for_each_cut(
        |session, cut| {
            send(session, &[close(1)], cut);
            session.expect(1, m::CHANNEL_CLOSE_OK);
            session.expect(1, m::CHANNEL_OPEN);
            session.send_method(1, m::CHANNEL_OPEN_OK, Args::new().longstr(b""));
            let message = delivery(1, "mine", 7, &[b'x'; 3000], 1000);
            let ack = Args::new().longlong(99).octet(1);
            let late = [
                // The end of a message, all of one, and one that does not end.
                message[2..].to_vec(),
                message[1..].to_vec(),
                message.clone(),
                vec![
                    Frame::encode_method(1, m::BASIC_ACK, &ack),
                    Frame::encode_method(1, m::QUEUE_DELETE_OK, &Args::new().long(3)),
                ],
                message[..3].to_vec(),
            ];
            send(session, &late.concat(), cut);
            session.expect(1, m::QUEUE_PURGE);
            session.send_method(1, m::QUEUE_DELETE_OK, Args::new().long(4));
            send(session, &message[1..], cut);
            session.send_method(1, m::QUEUE_PURGE_OK, Args::new().long(5));
            session.accept_consumer(1);
            session.deliver(1, "mine", 1, b"new");
            session.serve_until_end();
        },
        |connection, channel, log| {
            channel.start_consuming().unwrap_err();
            let again = connection.channel_with_number(1).unwrap();
            assert_eq!(again.queue_purge("q").unwrap(), 5);
            assert_only_new_messages_come(connection, &again, log);
        },
    );
}

/// What makes the broker close a channel that consumes, from inside the callback.
fn provoke(kind: usize, channel: &Channel, delivery_tag: u64) {
    let _ = match kind {
        0 if delivery_tag == 5 => channel.basic_ack(5).and_then(|()| channel.basic_ack(5)),
        0 => channel.basic_ack(delivery_tag),
        1 => channel.basic_ack(1 << 40),
        2 => channel.basic_publish(unique("no-exchange"), "", "x"),
        _ => channel.queue_purge(unique("no-queue")).map(|_| ()),
    };
}

/// RabbitMQ goes on delivering for a while on a channel that it has closed.
#[test]
fn a_channel_error_under_traffic_leaves_the_connection_open() {
    bounded_by(Duration::from_secs(60), || {
        let connection = open();
        let source = connection.channel().unwrap();
        let queue = exclusive_queue(&source);
        for n in 0..200 {
            source.basic_publish("", &queue, format!("{n}")).unwrap();
        }
        for round in 0..40 {
            let channel = connection.channel().unwrap();
            assert_eq!(channel.channel_number(), 2);
            if round % 2 == 0 {
                channel.basic_qos(1).unwrap();
            }
            channel
                .basic_consume(&queue, move |channel, method, _, _| {
                    provoke(round / 2 % 4, channel, method.delivery_tag);
                })
                .unwrap();
            let error = channel.start_consuming().unwrap_err();
            assert_matches!(error, Error::ChannelClosedByBroker { .. });
            assert!(connection.is_open());
            // The number is free at once, and what comes on it is the new channel's.
            let again = connection.channel_with_number(2).unwrap();
            let first = again.basic_get(&queue).unwrap();
            assert!(first.is_none_or(|(method, ..)| method.delivery_tag == 1));
            again.close().unwrap();
        }
        let acknowledged = 5 * 40 / 4;
        support::assert_message_count(&source, &queue, 200 - acknowledged);
        connection.close().unwrap();
    });
}

/// RabbitMQ ends a channel that it has closed behind the back of the next one with its number, and may deliver for both at
/// once. What is delivered has to be the new channel's, or its acknowledgement would end that channel too.
#[test]
fn a_number_and_a_consumer_tag_can_be_used_again_under_traffic() {
    bounded_by(Duration::from_secs(60), || {
        let connection = open();
        let source = connection.channel().unwrap();
        let queue = exclusive_queue(&source);
        for n in 0..5000 {
            source.basic_publish("", &queue, format!("{n}")).unwrap();
        }
        let request = BasicConsume::new(&queue).consumer_tag("mine");
        for _ in 0..30 {
            let channel = connection.channel_with_number(9).unwrap();
            channel
                .basic_consume(request.clone(), |channel, _, _, _| {
                    let _ = channel.basic_ack(1 << 40);
                })
                .unwrap();
            channel.start_consuming().unwrap_err();
            let again = connection.channel_with_number(9).unwrap();
            let mut due = 1;
            again
                .basic_consume(request.clone(), move |channel, method, _, _| {
                    assert_eq!(method.delivery_tag, due);
                    due += 1;
                    if due > 20 {
                        channel.stop_consuming()?;
                    }
                    Ok(())
                })
                .unwrap();
            again.start_consuming().unwrap();
            again.close().unwrap();
        }
        connection.close().unwrap();
    });
}

/// Each later call says again what closed the channel, and that it did.
#[test]
fn a_confirm_that_does_not_come_closes_the_channel_as_later_calls_say() {
    bounded(|| {
        let peer = Peer::start(|session| {
            session.handshake();
            session.open_channel(1);
            session.expect(1, m::CONFIRM_SELECT);
            session.send_method(1, m::CONFIRM_SELECT_OK, Args::new());
            session.serve_until_end();
        });
        let parameters = ConnectionParameters::from_url(peer.url()).unwrap();
        let parameters = parameters.rpc_timeout(Duration::from_millis(200));
        let connection = Connection::open(parameters).unwrap();
        let channel = connection.channel().unwrap();
        channel.confirm_delivery().unwrap();
        let expected = "channel 1: timed out after 200 ms waiting for the broker's confirmation; whether the broker has the \
            message is unknown; the channel was closed then, since a late reply could be taken for another";
        for _ in 0..2 {
            let error = channel.basic_publish("", "q", "body").unwrap_err();
            assert_eq!(error.to_string(), expected);
            assert!(channel.is_closed());
        }
        let error = channel.basic_qos(1).unwrap_err();
        assert_eq!(error.to_string(), expected);
        let _ = connection.close();
        peer.finish();
    });
}
