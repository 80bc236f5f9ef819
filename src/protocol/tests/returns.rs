//! Messages that come back, replies to remote procedure calls, and how much of both is kept.

use std::sync::atomic::Ordering;
use std::sync::Arc;

use super::channel::{channel, session};
use super::message::{returned, with_content};
use crate::protocol::channel::{ChannelState, Gate, Phase};
use crate::protocol::connection::{Session, HELD_BOUND};
use crate::protocol::frame::{write_body, write_header, write_method};
use crate::protocol::method::Method;
use crate::protocol::publish::{Fingerprint, Mandatory, SentMandatory};
use crate::protocol::received::Incoming;
use crate::protocol::replies::{CallOutcome, Replies};
use crate::{BasicProperties, FieldTable, Return, ReturnedMessage};

/// A message that comes back with this body.
fn message(body: &[u8]) -> ReturnedMessage {
    ReturnedMessage {
        method: Return {
            reply_code: 312,
            reply_text: "NO_ROUTE".into(),
            exchange: "x".into(),
            routing_key: "k".into(),
            content_omitted: false,
        },
        properties: BasicProperties::new(),
        body: body.to_vec(),
    }
}

/// It was published as this number, on the channel with this gate.
fn sent(slot: usize, gate: &Arc<Gate>, sequence: u64, body: &[u8]) -> SentMandatory {
    let print = Fingerprint::of_returned(&message(body));
    SentMandatory {
        slot,
        gate: Arc::clone(gate),
        message: Mandatory { sequence, print },
    }
}

fn confirming() -> ChannelState {
    let channel = channel();
    channel.gate.confirming.store(true, Ordering::Release);
    channel.gate.published.store(9, Ordering::Release);
    channel
}

/// The numbers of those that came back, as the publisher takes them.
fn returns(session: &mut Session, slot: usize) -> Vec<(u64, Vec<u8>)> {
    let channel = session.channel(slot).unwrap();
    let returned = channel.confirms.outcomes().losses.returned;
    let pairs = returned.into_iter();
    pairs
        .map(|(sequence, message)| (sequence, message.body.clone()))
        .collect()
}

#[test]
fn a_returned_message_is_tied_to_its_publish() {
    let (mut session, slot) = session(confirming());
    let gate = Arc::clone(&session.channel(slot).unwrap().gate);
    let another = Gate::new(Phase::Open);
    session.expect_returns(vec![
        sent(slot, &gate, 1, b"one"),
        sent(slot, &gate, 2, b"two"),
        // Of a channel whose slot this was, and of none.
        sent(slot, &another, 3, b"three"),
        sent(9, &gate, 4, b"four"),
        sent(slot, &gate, 5, b"one"),
    ]);
    for body in [&b"two"[..], b"three", b"one", b"four", b"one", b"one"] {
        session.feed(&returned(1, body)).unwrap();
    }
    let pair = |sequence: u64, body: &[u8]| (sequence, body.to_vec());
    let expected = [pair(1, b"one"), pair(2, b"two"), pair(5, b"one")];
    assert_eq!(returns(&mut session, slot), expected);
    assert_eq!(session.undelivered, 0);
}

/// Once it is confirmed, a message is not expected to come back any more.
#[test]
fn a_confirmed_message_is_not_expected_back() {
    let (mut session, slot) = session(confirming());
    let gate = Arc::clone(&session.channel(slot).unwrap().gate);
    session.expect_returns((1..=3).map(|n| sent(slot, &gate, n, b"same")).collect());
    let ack = |delivery_tag, multiple| Method::BasicAck {
        delivery_tag,
        multiple,
    };
    session
        .feed(&super::message::method(1, &ack(1, false)))
        .unwrap();
    assert!(session.changed.contains(&slot));
    assert_eq!(gate.confirmed.load(Ordering::Acquire), 1);
    assert_eq!(gate.unconfirmed(), 8);
    session.feed(&returned(1, b"same")).unwrap();
    assert_eq!(returns(&mut session, slot), [(2, b"same".to_vec())]);
    session
        .feed(&super::message::method(1, &ack(9, true)))
        .unwrap();
    assert_eq!(gate.unconfirmed(), 0);
    session.feed(&returned(1, b"same")).unwrap();
    assert!(returns(&mut session, slot).is_empty());
}

/// A message whose body comes in frames of this size at most.
fn in_frames(body: &[u8]) -> Vec<u8> {
    let announces = Method::BasicReturn {
        reply_code: 312,
        reply_text: "NO_ROUTE".into(),
        exchange: "x".into(),
        routing_key: "k".into(),
    };
    let mut bytes = Vec::new();
    write_method(&mut bytes, 1, &announces).unwrap();
    write_header(&mut bytes, 1, body.len() as u64, &Default::default()).unwrap();
    for chunk in body.chunks(100_000) {
        write_body(&mut bytes, 1, chunk);
    }
    bytes
}

/// Above the bound only that they came back is kept, for the publisher and for callbacks each.
#[test]
fn returned_messages_are_kept_up_to_the_bound() {
    let empty = message(b"").size();
    let half = HELD_BOUND / 2 - empty;
    for (sizes, whole) in [
        (&[10, 10][..], &[true, true][..]),
        (&[HELD_BOUND - empty], &[true]),
        (&[HELD_BOUND - empty + 1], &[false]),
        (&[half, 10, half], &[true, true, false]),
    ] {
        for of_callback in [true, false] {
            let mut state = confirming();
            state.wants_returns = of_callback;
            let (mut session, slot) = session(state);
            let gate = Arc::clone(&session.channel(slot).unwrap().gate);
            for (sequence, size) in (1..).zip(sizes) {
                let body = vec![7; *size];
                if !of_callback {
                    session.expect_returns(vec![sent(slot, &gate, sequence, &body)]);
                }
                session.feed(&in_frames(&body)).unwrap();
            }
            let channel = session.channel(slot).unwrap();
            let kept: Vec<Arc<ReturnedMessage>> = if of_callback {
                let events = std::iter::from_fn(|| session.next_event(slot));
                let returned = events.map(|event| match event {
                    Incoming::Returned(returned) => returned,
                    other => panic!("{other:?}"),
                });
                returned.collect()
            } else {
                let returned = channel.confirms.outcomes().losses.returned;
                returned.into_iter().map(|(_, message)| message).collect()
            };
            let omitted: Vec<bool> = kept
                .iter()
                .map(|message| !message.method.content_omitted)
                .collect();
            assert_eq!(omitted, whole, "{sizes:?} {of_callback}");
            for (message, size) in kept.iter().zip(sizes) {
                let is_whole = !message.method.content_omitted;
                assert_eq!(message.body.len(), if is_whole { *size } else { 0 });
                assert_eq!(message.method.reply_code, 312);
            }
        }
    }
}

/// The bound is the connection's, and not the channel's.
#[test]
fn all_channels_count_together() {
    for of_callback in [true, false] {
        let mut session = Session::new(131_072, 2, "broker:5672".into());
        let mut add = || {
            let mut state = confirming();
            state.wants_returns = of_callback;
            session.add_channel(None, state).unwrap().0
        };
        let slots = [add(), add()];
        let body = vec![7; HELD_BOUND / 2 + 1];
        for (number, slot) in (1..).zip(slots) {
            let gate = Arc::clone(&session.channel(slot).unwrap().gate);
            if !of_callback {
                session.expect_returns(vec![sent(slot, &gate, 1, &body)]);
            }
            let mut bytes = in_frames(&body);
            // The same on channel 2.
            let mut at = 0;
            while at < bytes.len() {
                bytes[at + 2] = number;
                let size = u32::from_be_bytes(bytes[at + 3..at + 7].try_into().unwrap());
                at += size as usize + 8;
            }
            session.feed(&bytes).unwrap();
        }
        let omitted = slots.map(|slot| match of_callback {
            true => match session.next_event(slot) {
                Some(Incoming::Returned(message)) => message.method.content_omitted,
                other => panic!("{other:?}"),
            },
            false => {
                let channel = session.channel(slot).unwrap();
                channel.confirms.outcomes().losses.returned[0]
                    .1
                    .method
                    .content_omitted
            }
        });
        assert_eq!(omitted, [false, true], "{of_callback}");
    }
}

/// What an RPC client sends and gets on a channel of its own.
#[test]
fn replies_are_kept_for_their_calls_and_counted() {
    let mut state = channel();
    let mut replies = Box::new(Replies::new("p".into()));
    let ids = [replies.begin(), replies.begin(), replies.begin()];
    state.replies = Some(replies);
    let (mut session, slot) = session(state);
    let content = |announces: &Method<'_>, id: &str, body: &[u8]| {
        let mut bytes = super::message::method(1, announces);
        let properties = BasicProperties::new().correlation_id(id);
        write_header(&mut bytes, 1, body.len() as u64, &properties).unwrap();
        write_body(&mut bytes, 1, body);
        bytes
    };
    let deliver = Method::BasicDeliver {
        consumer_tag: "a".into(),
        delivery_tag: 1,
        redelivered: false,
        exchange: "".into(),
        routing_key: "k".into(),
    };
    let back = Method::BasicReturn {
        reply_code: 312,
        reply_text: "NO_ROUTE".into(),
        exchange: "".into(),
        routing_key: "k".into(),
    };
    session
        .feed(&content(&deliver, &ids[0].1, b"reply"))
        .unwrap();
    let first = session.undelivered;
    assert!(first > 5);
    assert!(session.changed.contains(&slot));
    session
        .feed(&content(&back, &ids[1].1, b"request"))
        .unwrap();
    let both = session.undelivered;
    assert!(both > first);
    assert_eq!(session.channel(slot).unwrap().held, both);
    // A reply that no call waits for is dropped.
    session.feed(&content(&deliver, "p-9", b"stray")).unwrap();
    session.feed(&with_content(1, &deliver, b"stray")).unwrap();
    assert_eq!(session.undelivered, both);
    let replies = session.channel(slot).unwrap().replies.as_ref().unwrap();
    assert_eq!((replies.unexpected(), replies.in_flight()), (2, 3));

    assert!(session.end_call(slot, ids[2].0).is_none());
    match session.end_call(slot, ids[0].0) {
        Some(CallOutcome::Reply(_, body)) => assert_eq!(body, b"reply"),
        other => panic!("{other:?}"),
    }
    assert_eq!(session.undelivered, both - first);
    assert_eq!(session.channel(slot).unwrap().held, both - first);
    match session.end_call(slot, ids[1].0) {
        Some(CallOutcome::Returned(message)) => assert_eq!(message.body, b"request"),
        other => panic!("{other:?}"),
    }
    assert!(session.end_call(slot, ids[1].0).is_none());
    assert_eq!(
        (session.undelivered, session.channel(slot).unwrap().held),
        (0, 0)
    );
    assert!(session.channel(slot).unwrap().inbox.is_empty());
}

/// RabbitMQ takes this header out of what it returns.
#[test]
fn a_message_is_known_without_its_header_bcc() {
    let print = |headers: &[(&str, &str)]| {
        let mut returned = message(b"body");
        returned.properties = returned
            .properties
            .headers(FieldTable::from_iter(headers.iter().copied()));
        Fingerprint::of_returned(&returned)
    };
    let expected = print(&[("a", "1"), ("b", "2")]);
    assert_eq!(print(&[("BCC", "x"), ("a", "1"), ("b", "2")]), expected);
    assert_ne!(print(&[("a", "1")]), expected);
    assert_ne!(print(&[("CC", "x"), ("a", "1"), ("b", "2")]), expected);
    assert_eq!(print(&[("BCC", "x")]), print(&[]));
}
