//! What a broker may say on an open connection: whole, cut anywhere, spoilt, and made up.

use super::random::Random;
use crate::protocol::connection::{ConnectionEvent, Session};
use crate::protocol::exercise::{self, feed_all, CHANNELS};
use crate::protocol::frame::{self, write_body, write_header, write_method, Frame};
use crate::protocol::method::Method;
use crate::{BasicProperties, DeliveryMode};

/// What the frames of one stream are to come to.
#[derive(Default)]
struct Stream {
    bytes: Vec<u8>,
    /// How many things are delivered, by channel.
    expected: [usize; CHANNELS],
}

/// One thing after another that a broker may say, from channels that take turns.
fn stream(random: &mut Random) -> Stream {
    let mut expected = [0; CHANNELS];
    // The frames of each channel stay in order; those of different channels may be mixed.
    let mut frames: [Vec<Vec<u8>>; CHANNELS] = Default::default();
    let mut replies = vec![
        Method::BasicConsumeOk {
            consumer_tag: "c".into(),
        },
        Method::QueuePurgeOk { message_count: 7 },
        Method::BasicGetEmpty {},
        Method::BasicGetOk {
            delivery_tag: 9,
            redelivered: true,
            exchange: "x".into(),
            routing_key: "k".into(),
            message_count: 3,
        },
        Method::QueueDeclareOk {
            queue: "q".into(),
            message_count: 1,
            consumer_count: 2,
        },
    ];
    let (mut opened, mut opened_again, mut closed) = (false, false, false);
    let (mut delivered_again, mut late_tag) = (0, 100);
    let mut cancelled = false;
    for n in 0..random.below(32) as u64 {
        let channel = 1 + random.below(6);
        let out = &mut frames[channel];
        match (channel, random.below(8)) {
            (2, _) if !opened => {
                opened = true;
                out.push(method(2, &Method::ChannelOpenOk {}));
                expected[2] += 1;
            }
            (4, 0) if !closed => {
                closed = true;
                out.push(method(4, &Method::ChannelCloseOk {}));
            }
            (6, 0) if !opened_again => {
                opened_again = true;
                out.push(method(6, &Method::ChannelOpenOk {}));
                expected[6] += 1;
            }
            // An earlier channel's deliveries: of another consumer, or with numbers that are not due.
            (6, 1) if opened_again => {
                let deliver = if random.below(2) == 0 {
                    late_tag += 1 + n;
                    deliver(6, "a", late_tag)
                } else {
                    delivered_again += 1;
                    deliver(6, "gone", delivered_again)
                };
                out.push(deliver);
                content(random, out, 6, b"late");
            }
            (4 | 5, _) => late(random, out, channel as u16),
            (6, _) if !opened_again => late(random, out, 6),
            (1, 0 | 1) => {
                let Some(reply) = replies.pop() else {
                    continue;
                };
                out.push(method(1, &reply));
                if reply.has_content() {
                    content(random, out, 1, b"fetched");
                }
                expected[1] += 1;
            }
            (1, 2) => {
                let delivery_tag = 1 + n % 10;
                out.push(method(
                    1,
                    &match random.below(3) {
                        0 => Method::BasicNack {
                            delivery_tag,
                            multiple: false,
                            requeue: false,
                        },
                        multiple => Method::BasicAck {
                            delivery_tag,
                            multiple: multiple == 1,
                        },
                    },
                ));
            }
            (1, 3) => {
                let returned = Method::BasicReturn {
                    reply_code: 312,
                    reply_text: "NO_ROUTE".into(),
                    exchange: "x".into(),
                    routing_key: "k".into(),
                };
                out.push(method(1, &returned));
                content(random, out, 1, b"body");
                expected[1] += 1;
            }
            (1, 4) => {
                let cancel = Method::BasicCancel {
                    consumer_tag: "b".into(),
                    no_wait: random.below(2) == 0,
                };
                out.push(method(1, &cancel));
                // A consumer is cancelled once.
                expected[1] += usize::from(!std::mem::replace(&mut cancelled, true));
            }
            (1, 5) => out.push(method(1, &Method::ChannelFlow { active: true })),
            (3, 0) => frames[0].push(frame::HEARTBEAT.to_vec()),
            (3, 1) => {
                let blocked = Method::ConnectionBlocked {
                    reason: "low on memory".into(),
                };
                frames[0].push(method(0, &blocked));
                frames[0].push(method(0, &Method::ConnectionUnblocked {}));
            }
            (channel, _) => {
                let consumer_tag = ["", "a", "a", "p", "", "", "a"][channel];
                let mut delivery_tag = n;
                if channel == 6 {
                    delivered_again += 1;
                    delivery_tag = delivered_again;
                }
                out.push(deliver(channel as u16, consumer_tag, delivery_tag));
                let length = [0, 1, 16, 300, 5000][random.below(5)];
                content(random, out, channel as u16, &vec![b'x'; length]);
                expected[channel] += 1;
            }
        }
    }
    let mut bytes = Vec::new();
    let mut queues = frames.map(|frames| frames.into_iter().peekable());
    while queues.iter_mut().any(|queue| queue.peek().is_some()) {
        if let Some(frame) = queues[random.below(CHANNELS)].next() {
            bytes.extend(frame);
        }
    }
    if random.below(4) == 0 {
        let close = Method::ChannelClose {
            reply_code: 404,
            reply_text: "NOT_FOUND".into(),
            class_id: 60,
            method_id: 40,
        };
        bytes.extend(method(1, &close));
    }
    if random.below(4) == 0 {
        let close = Method::ConnectionClose {
            reply_code: 320,
            reply_text: "CONNECTION_FORCED".into(),
            class_id: 0,
            method_id: 0,
        };
        bytes.extend(method(0, &close));
    }
    Stream { bytes, expected }
}

/// What a broker may still send on a channel that it does not yet know to be closed, right and wrong: nothing is to come of it.
fn late(random: &mut Random, out: &mut Vec<Vec<u8>>, channel: u16) {
    let properties = BasicProperties::new().header("n", 1);
    let mut header = Vec::new();
    write_header(&mut header, channel, 700, &properties).unwrap();
    let mut body = Vec::new();
    write_body(&mut body, channel, &[7; 300]);
    let deliver = deliver(channel, "a", 77);
    let other = match random.below(7) {
        0 => Method::BasicAck {
            delivery_tag: 1000,
            multiple: true,
        },
        1 => Method::BasicNack {
            delivery_tag: 0,
            multiple: false,
            requeue: false,
        },
        2 => Method::BasicCancel {
            consumer_tag: "a".into(),
            no_wait: false,
        },
        3 => Method::ChannelFlow { active: false },
        4 => Method::BasicGetEmpty {},
        5 => Method::QueuePurgeOk { message_count: 7 },
        _ => Method::ConnectionUnblocked {},
    };
    match random.below(9) {
        0 => out.extend([deliver, header, body]),
        1 => out.extend([deliver, header]),
        2 => out.extend([header, body]),
        3 => out.push(body),
        4 => out.push(frame_of(2, channel, b"no properties")),
        5 => out.push(frame_of(1, channel, &[0, 60, 0, 99])),
        6 => out.push(frame_of(1, channel, &[0, 60])),
        7 => out.push(frame_of(3, channel, &[])),
        _ => out.push(method(channel, &other)),
    }
}

fn deliver(channel: u16, consumer_tag: &str, delivery_tag: u64) -> Vec<u8> {
    method(
        channel,
        &Method::BasicDeliver {
            consumer_tag: consumer_tag.into(),
            delivery_tag,
            redelivered: false,
            exchange: "".into(),
            routing_key: "q".into(),
        },
    )
}

fn frame_of(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![kind];
    out.extend(channel.to_be_bytes());
    out.extend((payload.len() as u32).to_be_bytes());
    out.extend(payload);
    out.push(frame::FRAME_END);
    out
}

/// The channels of the frames in these bytes.
fn channels_of(mut bytes: &[u8]) -> Vec<u16> {
    let mut channels = Vec::new();
    while let Some((frame, length)) = frame::parse(bytes, 0).unwrap() {
        if let Frame::Method { channel, .. } = frame {
            channels.push(channel);
        }
        bytes = &bytes[length..];
    }
    channels
}

fn method(channel: u16, method: &Method<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    write_method(&mut out, channel, method).unwrap();
    out
}

/// A header and a body in frames of random sizes.
fn content(random: &mut Random, out: &mut Vec<Vec<u8>>, channel: u16, body: &[u8]) {
    let properties = match random.below(3) {
        0 => BasicProperties::new(),
        1 => BasicProperties::new().delivery_mode(DeliveryMode::Transient),
        _ => BasicProperties::new()
            .content_type("text/plain")
            .header("n", 1)
            .reply_to("q"),
    };
    let mut header = Vec::new();
    write_header(&mut header, channel, body.len() as u64, &properties).unwrap();
    out.push(header);
    let mut rest = body;
    while !rest.is_empty() {
        let most = rest.len().min(4096 - frame::FRAME_OVERHEAD);
        let length = match random.below(3) {
            0 => 1 + random.below(most),
            _ => most,
        };
        let mut frame = Vec::new();
        write_body(&mut frame, channel, &rest[..length]);
        out.push(frame);
        rest = &rest[length..];
    }
}

#[test]
fn all_that_a_broker_sends_is_delivered() {
    let mut random = Random(0x5EED_0004);
    for _ in 0..300 {
        let Stream { bytes, expected } = stream(&mut random);
        let seen = feed_all([&bytes[..]]);
        assert_eq!((seen.error, seen.left), (None, 0));
        let responses = channels_of(&seen.replies);
        assert!(!responses.iter().any(|channel| (4..=6).contains(channel)));
        for (channel, expected) in expected.iter().enumerate() {
            let mut count = seen.incoming[channel].len() + seen.call_replies[channel].len();
            if channel == 3 {
                count += seen.of_iterator.len();
            }
            assert_eq!(count, *expected, "on channel {channel}");
        }
    }
}

/// Every place in a short stream; some 500 in a long one.
fn places(bytes: &[u8]) -> impl Iterator<Item = usize> {
    (0..=bytes.len()).step_by(1 + bytes.len() / 500)
}

#[test]
fn the_same_is_delivered_wherever_the_bytes_are_cut() {
    let mut random = Random(0x5EED_0005);
    for _ in 0..12 {
        let Stream { bytes, .. } = stream(&mut random);
        let whole = feed_all([&bytes[..]]);
        for cut in places(&bytes) {
            let (first, second) = bytes.split_at(cut);
            assert_eq!(feed_all([first, second]), whole, "cut at {cut}");
        }
        assert_eq!(feed_all(bytes.chunks(1)), whole);
    }
}

#[test]
fn what_ends_early_waits_for_the_rest() {
    let mut random = Random(0x5EED_0006);
    for _ in 0..12 {
        let Stream { bytes, .. } = stream(&mut random);
        for cut in places(&bytes) {
            assert_eq!(feed_all([&bytes[..cut]]).error, None);
        }
    }
}

/// What nearly is right reaches further than what is nothing at all.
#[test]
fn an_empty_body_that_nothing_announced_is_an_error_wherever_it_is_cut() {
    let bytes = [3, 0, 1, 0, 0, 0, 0, 0xce];
    let whole = feed_all([&bytes[..]]);
    assert!(whole.error.is_some());
    for at in 0..bytes.len() {
        let (head, tail) = bytes.split_at(at);
        assert_eq!(feed_all([head, tail]), whole, "cut at {at}");
    }
}

#[test]
fn spoilt_streams() {
    let mut random = Random(0x5EED_0007);
    let (mut understood, mut refused) = (0, 0);
    for _ in 0..2_000 {
        let Stream { mut bytes, .. } = stream(&mut random);
        if bytes.is_empty() {
            continue;
        }
        for _ in 0..=random.below(3) {
            let slot = random.below(bytes.len());
            match random.below(6) {
                0 => bytes.truncate(slot.max(1)),
                1 => bytes.insert(slot, random.byte()),
                2 => {
                    // Something said twice.
                    let end = slot + random.below(bytes.len() - slot + 1);
                    let again = bytes[slot..end].to_vec();
                    bytes.splice(slot..slot, again);
                }
                _ => bytes[slot] = random.byte(),
            }
        }
        match exercise::session(&bytes) {
            true => understood += 1,
            false => refused += 1,
        }
    }
    let enough = understood > 200 && refused > 200;
    assert!(enough, "{understood} understood, {refused} refused");
}

#[test]
fn random_streams() {
    let mut random = Random(0x5EED_0008);
    for _ in 0..10_000 {
        let mut bytes = Vec::new();
        for _ in 0..random.below(5) {
            let payload: Vec<u8> = (0..random.below(40)).map(|_| random.byte()).collect();
            let kind = [1, 2, 3, 8][random.below(4)];
            let channel = if kind == 8 { 0 } else { random.below(8) as u8 };
            bytes.extend([kind, 0, channel, 0, 0, 0, payload.len() as u8]);
            bytes.extend(payload);
            bytes.push(frame::FRAME_END);
        }
        exercise::session(&bytes);
    }
}

/// A broker that says again and again that it blocks must not fill the memory of a program that does not listen.
#[test]
fn blocking_is_kept_only_for_those_who_listen() {
    let mut bytes = method(
        0,
        &Method::ConnectionBlocked {
            reason: "low on memory".into(),
        },
    );
    bytes.extend(method(0, &Method::ConnectionUnblocked {}));
    let mut session = Session::new(0, 0, "peer".into());
    session.feed(&bytes.repeat(1000)).unwrap();
    assert_eq!(session.next_connection_event(), None);

    session.wants_blocked = true;
    session.feed(&bytes).unwrap();
    assert!(session.undelivered > 0);
    let events: Vec<_> = std::iter::from_fn(|| session.next_connection_event()).collect();
    let reason = "low on memory".to_owned();
    let expected = [ConnectionEvent::Blocked(reason), ConnectionEvent::Unblocked];
    assert_eq!(events, expected);
    assert_eq!(session.undelivered, 0);
}

/// A consumer that the broker cancels while the program cancels it too: what was held for it is not counted any more.
#[test]
fn a_cancellation_that_is_not_delivered_is_not_counted() {
    let mut session = exercise::busy_session();
    let cancel = Method::BasicCancel {
        consumer_tag: "a".into(),
        no_wait: true,
    };
    session.feed(&method(1, &cancel)).unwrap();
    assert!(session.undelivered > 0);
    assert_eq!(session.take_undelivered(1, "a"), []);
    assert_eq!(session.undelivered, 0);
}

/// A program that asked for nothing may still be given back what it published as mandatory. It takes no notice.
#[test]
fn what_is_not_waited_for_is_skipped() {
    let mut session = exercise::idle_session();
    let mut bytes = Vec::new();
    for size in [0, 1, 5000] {
        let back = Method::BasicReturn {
            reply_code: 312,
            reply_text: "NO_ROUTE".into(),
            exchange: "".into(),
            routing_key: "q".into(),
        };
        bytes.extend(method(1, &back));
        let properties = BasicProperties::new().app_id("a").header("n", 1);
        write_header(&mut bytes, 1, size, &properties).unwrap();
        let body = vec![7; size as usize];
        for part in body.chunks(1000) {
            write_body(&mut bytes, 1, part);
        }
    }
    for chunk in [1, 7, 4096, bytes.len()] {
        let mut left = Vec::new();
        for part in bytes.chunks(chunk) {
            left.extend_from_slice(part);
            let used = session.feed(&left).unwrap().used;
            left.drain(..used);
        }
        assert_eq!((left.len(), session.undelivered), (0, 0));
    }
    let unasked = Method::BasicAck {
        delivery_tag: 1,
        multiple: false,
    };
    let error = exercise::idle_session()
        .feed(&method(1, &unasked))
        .unwrap_err();
    let text = "a confirmation on channel 1 of message 1, never published";
    assert!(error.to_string().contains(text), "{}", error);
    let back = Method::BasicReturn {
        reply_code: 312,
        reply_text: "NO_ROUTE".into(),
        exchange: "".into(),
        routing_key: "q".into(),
    };
    let error = exercise::idle_session()
        .feed(&method(0, &back))
        .unwrap_err();
    assert!(error.to_string().contains("channel 0"), "{}", error);
    for frame in [bytes_of_header(), bytes_of_body()] {
        let error = exercise::idle_session().feed(&frame).unwrap_err();
        assert!(error.to_string().contains("nothing announced"), "{}", error);
    }
}

fn bytes_of_header() -> Vec<u8> {
    let mut bytes = Vec::new();
    write_header(&mut bytes, 1, 1, &BasicProperties::new()).unwrap();
    bytes
}

fn bytes_of_body() -> Vec<u8> {
    let mut bytes = Vec::new();
    write_body(&mut bytes, 1, b"x");
    bytes
}

/// A delivery to a channel without a consumer can only be late.
#[test]
fn a_delivery_without_a_consumer_is_dropped() {
    let mut session = exercise::idle_session();
    let mut bytes = deliver(1, "a", 1);
    write_header(&mut bytes, 1, 1, &BasicProperties::new()).unwrap();
    write_body(&mut bytes, 1, b"x");
    session.feed(&bytes).unwrap();
    assert_eq!(session.undelivered, 0);
}

fn close(channel: u16) -> Vec<u8> {
    method(
        channel,
        &Method::ChannelClose {
            reply_code: 406,
            reply_text: "PRECONDITION_FAILED".into(),
            class_id: 60,
            method_id: 80,
        },
    )
}

/// A broker may close a channel at any place in a message, and go on with the message.
#[test]
fn a_message_is_cut_short_by_the_end_of_its_channel() {
    let mut frames = vec![deliver(1, "a", 1)];
    let mut header = Vec::new();
    write_header(&mut header, 1, 900, &BasicProperties::new()).unwrap();
    frames.push(header);
    for _ in 0..3 {
        frames.push(frame_of(3, 1, &[7; 300]));
    }
    for at in 0..=frames.len() {
        let (before, after) = frames.split_at(at);
        let bytes = [&before.concat()[..], &close(1), &after.concat()].concat();
        let whole = feed_all([&bytes[..]]);
        assert_eq!(whole.error, None, "closed before frame {at}");
        let complete = usize::from(at == frames.len());
        assert_eq!(whole.incoming[1].len(), complete);
        assert_eq!(feed_all(bytes.chunks(1)), whole);
    }
}

#[test]
fn a_frame_on_a_number_that_was_never_opened_is_an_error() {
    for number in [2, 7] {
        let mut bytes = Vec::new();
        write_body(&mut bytes, number, b"x");
        let seen = feed_all([&bytes[..]]);
        assert!(seen.error.unwrap().contains("which is not open"));
    }
}

/// RabbitMQ's queues send the replies to `basic.consume` and `basic.cancel`, each when it comes to it.
#[test]
fn replies_may_overtake_those_of_queues_and_no_others() {
    let (consume_ok, cancel_ok) = ((60, 21), (60, 31));
    let mut session = exercise::idle_session();
    let mut call = |expects, tag: Option<&[u8]>| session.add_call(1, expects, tag);
    let one = call(consume_ok, Some(b"one"));
    let cancelled = call(cancel_ok, Some(b"old"));
    let two = call(consume_ok, Some(b"two"));
    let cancelled_too = call(cancel_ok, Some(b"older"));
    let asked = call((20, 21), None);
    let purged = call((50, 31), None);
    let flow_ok = Method::ChannelFlowOk { active: true };
    let purge_ok = Method::QueuePurgeOk { message_count: 0 };
    let started = |tag: &'static str| Method::BasicConsumeOk {
        consumer_tag: tag.into(),
    };
    let gone = |tag: &'static str| Method::BasicCancelOk {
        consumer_tag: tag.into(),
    };
    let in_order = [
        (&flow_ok, asked),
        (&started("two"), two),
        (&gone("older"), cancelled_too),
        (&gone("old"), cancelled),
        (&purge_ok, purged),
        (&started("one"), one),
    ];
    for (reply, call) in in_order {
        session.feed(&method(1, reply)).unwrap();
        let replies = &session.channel(1).unwrap().calls.replies;
        assert_eq!(replies.last().map(|(id, _)| *id), Some(call), "{reply:?}");
    }
    // The channel itself sends both of these, in their order.
    session.add_call(1, (20, 21), None);
    session.add_call(1, (50, 31), None);
    let error = session.feed(&method(1, &purge_ok)).unwrap_err();
    assert!(error.to_string().contains("did not ask"), "{error}");
}

/// One that names another consumer than any that is waited for.
#[test]
fn a_reply_for_no_consumer_that_waits_is_the_oldest_calls() {
    let mut session = exercise::idle_session();
    let oldest = session.add_call(1, (60, 21), Some(b"one"));
    session.add_call(1, (60, 21), Some(b"two"));
    let consumer_tag = "another".into();
    session
        .feed(&method(1, &Method::BasicConsumeOk { consumer_tag }))
        .unwrap();
    let calls = &mut session.channel(1).unwrap().calls;
    assert!(calls.take_reply(oldest).is_some() && calls.replies.is_empty());
}

/// Once this end has said that it closes the connection, only the broker's close and close-ok count.
#[test]
fn everything_is_skipped_while_the_connection_is_being_closed() {
    let mut random = Random(0x5EED_0009);
    for _ in 0..200 {
        let mut session = exercise::busy_session();
        session.close(200, "bye").unwrap();
        session.to_send.clear();
        let mut frames = Vec::new();
        for _ in 0..random.below(12) {
            let channel = random.below(9) as u16;
            late(&mut random, &mut frames, channel);
        }
        session.feed(&frames.concat()).unwrap();
        assert!(session.to_send.is_empty() && session.end().is_none());
        assert_eq!(session.undelivered, 0);
        let end = match random.below(2) {
            0 => Method::ConnectionCloseOk {},
            _ => Method::ConnectionClose {
                reply_code: 320,
                reply_text: "CONNECTION_FORCED".into(),
                class_id: 0,
                method_id: 0,
            },
        };
        session.feed(&method(0, &end)).unwrap();
        assert!(session.end().is_some());
    }
}
