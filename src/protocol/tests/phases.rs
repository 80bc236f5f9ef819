//! What counts in which phase of a channel and of the connection, and what is late.

use super::channel::{channel, consumer, end, session};
use super::message::{cancel, close, deliver, method, with_content};
use crate::protocol::calls::Reply;
use crate::protocol::channel::{ChannelState, Gate, Phase};
use crate::protocol::connection::{Fed, Session};
use crate::protocol::consumers::ConsumerState;
use crate::protocol::frame::{write_body, write_header};
use crate::protocol::method::Method;
use crate::protocol::received::{Content, Incoming};
use crate::Error;

fn open_ok(channel: u16) -> Vec<u8> {
    method(channel, &Method::ChannelOpenOk {})
}

fn close_ok(channel: u16) -> Vec<u8> {
    method(channel, &Method::ChannelCloseOk {})
}

fn connection_close() -> Method<'static> {
    Method::ConnectionClose {
        reply_code: 320,
        reply_text: "maintenance".into(),
        class_id: 0,
        method_id: 0,
    }
}

/// What only channel 0 may carry.
fn of_connection() -> [Method<'static>; 4] {
    let reason = "memory".into();
    [
        connection_close(),
        Method::ConnectionCloseOk {},
        Method::ConnectionBlocked { reason },
        Method::ConnectionUnblocked {},
    ]
}

fn phase(session: &mut Session, slot: usize) -> Phase {
    session.channel(slot).unwrap().phase()
}

/// A session whose channel 1 was closed by the broker after delivery 2, and whose new channel 1 waits for its `open-ok`.
fn reopening(skipped: Option<u64>) -> (Session, usize) {
    let (mut session, slot) = session(channel());
    for tag in 1..=2 {
        session.feed(&deliver(1, "a", tag, b"")).unwrap();
    }
    session.feed(&close(1)).unwrap();
    if let Some(tag) = skipped {
        session.feed(&deliver(1, "a", tag, b"late")).unwrap();
    }
    session.abandon(slot);
    let state = ChannelState::new(Gate::new(Phase::Opening));
    let (slot, number) = session.add_channel(None, state).unwrap();
    assert_eq!(number, 1);
    session.add_call(slot, (20, 11), None);
    (session, slot)
}

#[test]
fn methods_of_the_connection_count_on_channel_0_only() {
    for of_connection in of_connection() {
        let (mut session, slot) = session(channel());
        session.wants_blocked = true;
        let error = session.feed(&method(1, &of_connection)).unwrap_err();
        assert!(error.to_string().contains("did not ask"), "{error}");
        assert!(session.is_open() && session.blocked.is_none() && session.to_send.is_empty());
        assert_eq!(session.next_connection_event(), None);
        assert_eq!(phase(&mut session, slot), Phase::Open);
    }
    // And those of a channel on no other.
    let (mut session, _) = session(channel());
    let error = session.feed(&close(0)).unwrap_err();
    assert!(error.to_string().contains("did not ask"), "{error}");
    assert!(session.to_send.is_empty());
}

#[test]
fn a_connection_is_open_closing_or_ended() {
    let (mut session, slot) = session(channel());
    assert!(session.is_open() && !session.is_closing() && session.end().is_none());
    let error = session
        .feed(&method(0, &Method::ConnectionCloseOk {}))
        .unwrap_err();
    let problem = "channel 0, which did not ask";
    assert!(error.to_string().contains(problem), "{error}");
    session.close(200, "done").unwrap();
    assert!(!session.is_open() && session.is_closing() && session.end().is_none());
    assert!(std::mem::take(&mut session.connection_changed));
    // The channel's close goes first, as pika has it.
    let reply_text = || "done".into();
    let of_channel = Method::ChannelClose {
        reply_code: 200,
        reply_text: reply_text(),
        class_id: 0,
        method_id: 0,
    };
    let of_all = Method::ConnectionClose {
        reply_code: 200,
        reply_text: reply_text(),
        class_id: 0,
        method_id: 0,
    };
    let sent = [method(1, &of_channel), method(0, &of_all)].concat();
    assert_eq!(session.to_send, sent);
    assert_eq!(phase(&mut session, slot), Phase::Closing);
    // Only the end counts now, and on channel 0.
    session.to_send.clear();
    for number in [1, 3] {
        for of_connection in of_connection() {
            session.feed(&method(number, &of_connection)).unwrap();
        }
    }
    for of_connection in &of_connection()[2..] {
        session.feed(&method(0, of_connection)).unwrap();
    }
    assert!(session.is_closing() && session.blocked.is_none() && session.to_send.is_empty());
    session
        .feed(&method(0, &Method::ConnectionCloseOk {}))
        .unwrap();
    assert!(!session.is_open() && !session.is_closing() && session.connection_changed);
    match session.end() {
        Some(Error::ConnectionClosedByClient {
            reply_code: 200,
            reply_text,
        }) => assert_eq!(reply_text, "done"),
        other => panic!("{other:?}"),
    }
    assert_eq!(phase(&mut session, slot), Phase::Closed);
}

#[test]
fn the_brokers_end_of_the_connection_is_confirmed() {
    for closing in [false, true] {
        let (mut session, _) = session(channel());
        if closing {
            session.close(200, "done").unwrap();
            session.to_send.clear();
        }
        session.feed(&method(0, &connection_close())).unwrap();
        let confirmed = method(0, &Method::ConnectionCloseOk {});
        assert_eq!(session.to_send, confirmed);
        match session.end() {
            Some(Error::ConnectionClosedByBroker {
                reply_code: 320,
                while_closing,
                ..
            }) => assert_eq!(*while_closing, closing),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_broker_blocks_and_unblocks() {
    let (mut session, _) = session(channel());
    let [_, _, blocked, unblocked] = of_connection();
    session.feed(&method(0, &blocked)).unwrap();
    assert_eq!(session.blocked.as_deref(), Some("memory"));
    assert!(std::mem::take(&mut session.connection_changed));
    session.feed(&method(0, &unblocked)).unwrap();
    assert!(session.blocked.is_none() && session.connection_changed);
}

/// `close-ok` ends what this end has closed, and means nothing on an open channel, where an earlier one's may come late.
#[test]
fn a_channel_is_closed_by_close_ok() {
    let (mut session, slot) = session(channel());
    session.feed(&close_ok(1)).unwrap();
    assert_eq!(phase(&mut session, slot), Phase::Open);
    session.close_channel(slot, 200, "done", end()).unwrap();
    assert_eq!(phase(&mut session, slot), Phase::Closing);
    session.to_send.clear();
    // Nothing else counts, the end of the connection on this channel neither.
    for skipped in [open_ok(1), deliver(1, "a", 1, b""), cancel(1, "a")] {
        session.feed(&skipped).unwrap();
    }
    for of_connection in of_connection() {
        session.feed(&method(1, &of_connection)).unwrap();
    }
    assert!(session.to_send.is_empty() && session.undelivered == 0 && session.is_open());
    assert_eq!(phase(&mut session, slot), Phase::Closing);
    session.feed(&close_ok(1)).unwrap();
    assert_eq!(phase(&mut session, slot), Phase::Closed);
    assert!(matches!(
        session.add_channel(Some(1), channel()),
        Ok((_, 1))
    ));
}

/// Each end may say so before it has heard of the other.
#[test]
fn both_ends_may_close_a_channel_at_once() {
    let (mut session, slot) = session(channel());
    session.close_channel(slot, 200, "done", end()).unwrap();
    session.to_send.clear();
    session.changed.clear();
    session.feed(&close(1)).unwrap();
    assert_eq!(session.to_send, close_ok(1));
    assert_eq!(session.changed, [slot]);
    // Its number is taken until this end's close is confirmed.
    assert_eq!(phase(&mut session, slot), Phase::Closing);
    assert!(session.channel(slot).unwrap().broker_close.is_some());
    assert!(session.add_channel(Some(1), channel()).is_err());
    session.feed(&close_ok(1)).unwrap();
    assert_eq!(phase(&mut session, slot), Phase::Closed);
}

/// Of these no call reports why: there is no handle, or the connection is being closed.
#[test]
fn a_closure_that_no_call_reports_is_kept_to_be_logged() {
    for (is_abandoned, is_closing) in [(false, false), (true, false), (false, true)] {
        let (mut session, slot) = session(channel());
        session.close_channel(slot, 200, "done", end()).unwrap();
        if is_abandoned {
            session.abandon(slot);
        }
        if is_closing {
            session.close(200, "done").unwrap();
        }
        session.feed(&close(1)).unwrap();
        let late = session.late_closures.iter().map(Error::reply_code);
        let expected: &[_] = match is_abandoned || is_closing {
            true => &[Some(404)],
            false => &[],
        };
        assert_eq!(late.collect::<Vec<_>>(), expected);
    }
}

#[test]
fn a_channel_that_opens_waits_for_open_ok() {
    let state = ChannelState::new(Gate::new(Phase::Opening));
    let (mut session, slot) = session(state);
    let call = session.add_call(slot, (20, 11), None);
    let error = session.feed(&deliver(1, "a", 1, b"")).unwrap_err();
    assert!(error.to_string().contains("which is not open"), "{error}");
    session.feed(&open_ok(1)).unwrap();
    assert_eq!(phase(&mut session, slot), Phase::Open);
    let reply = session.channel(slot).unwrap().calls.take_reply(call);
    assert!(matches!(reply, Some(Reply::Done)));
}

/// What a closed channel's number still carries is known by its delivery tags.
#[test]
fn the_last_delivery_of_a_former_channel_is_known() {
    let former = |session: &mut Session, slot| session.channel(slot).unwrap().former;
    for (skipped, known) in [(None, 2), (Some(3), 3), (Some(7), 7)] {
        let (mut session, slot) = reopening(skipped);
        assert_eq!(former(&mut session, slot), Some(known));
        assert_eq!(phase(&mut session, slot), Phase::Reopening);
        // Until the broker has confirmed the new one, all is the former one's; only deliveries have such tags.
        session.feed(&deliver(1, "a", 9, b"late")).unwrap();
        session.feed(&cancel(1, "a")).unwrap();
        let got = Method::BasicGetOk {
            delivery_tag: 20,
            redelivered: false,
            exchange: "".into(),
            routing_key: "".into(),
            message_count: 0,
        };
        session.feed(&with_content(1, &got, b"late")).unwrap();
        assert_eq!(former(&mut session, slot), Some(9));
        session.feed(&open_ok(1)).unwrap();
        assert_eq!(phase(&mut session, slot), Phase::Open);
        assert_eq!(
            (session.undelivered, session.to_send.len()),
            (0, close_ok(1).len())
        );
    }
    let (mut session, slot) = session(channel());
    assert_eq!(former(&mut session, slot), None);
}

/// A new channel's first deliveries, among those of the former one.
#[test]
fn late_deliveries_are_distinguished_from_those_that_are_due() {
    let (mut session, slot) = reopening(Some(3));
    session.feed(&open_ok(1)).unwrap();
    let state = session.channel(slot).unwrap();
    state.consumers.registered = vec![consumer("a", 1, false), consumer("b", 2, false)];
    state.consumers.registered[1].state = ConsumerState::Requested;
    let mut step = |consumer_tag, delivery_tag, is_delivered: bool, last_received| {
        session
            .feed(&deliver(1, consumer_tag, delivery_tag, b""))
            .unwrap();
        let incoming = session.next_event(slot);
        let delivered = matches!(incoming, Some(Incoming::Message(_)));
        assert_eq!(delivered, is_delivered, "{consumer_tag} {delivery_tag}");
        let channel = session.channel(slot).unwrap();
        let (acks, former) = (channel.gate.acks.last_received(), channel.former);
        assert_eq!(acks, last_received, "{consumer_tag} {delivery_tag}");
        former
    };
    // The former channel goes on where it was.
    assert_eq!(step("a", 4, false, 0), Some(4));
    assert_eq!(step("a", 5, false, 0), Some(5));
    // The new one begins with 1; a consumer that the broker has not confirmed gets nothing yet.
    assert_eq!(step("a", 1, true, 1), Some(5));
    assert_eq!(step("b", 4, false, 1), Some(5));
    assert_eq!(step("b", 7, false, 1), Some(7));
    // For a consumer that is gone, but due: the next number is due then.
    assert_eq!(step("gone", 2, false, 2), Some(7));
    assert_eq!(step("a", 3, true, 3), Some(7));
}

/// What has begun on the former channel is dropped with the next method, and the rest of it belongs to nothing.
#[test]
fn a_late_message_that_has_begun_ends_with_the_next_method() {
    let (mut session, slot) = reopening(Some(3));
    session.feed(&open_ok(1)).unwrap();
    session.channel(slot).unwrap().consumers.registered = vec![consumer("a", 1, false)];
    let late = deliver(1, "a", 1, b"late");
    let header = late.len() - 12 - 22;
    let announced = &late[..header];
    let rest = &late[header..];
    session.feed(announced).unwrap();
    let has_begun = |session: &mut Session| {
        let channel = session.channel(slot).unwrap();
        !matches!(channel.content, Content::None)
    };
    assert!(has_begun(&mut session));
    session.feed(&super::message::cancel(1, "a")).unwrap();
    assert!(!has_begun(&mut session));
    session.feed(rest).unwrap();
    assert!(!has_begun(&mut session));
    // That method is the next channel's.
    let event = session.next_event(slot);
    assert!(matches!(event, Some(Incoming::Cancelled(tag)) if tag == "a"));
    assert!(session.next_event(slot).is_none());
}

#[test]
fn an_iterators_deliveries_are_not_late() {
    let (mut session, slot) = reopening(None);
    session.feed(&open_ok(1)).unwrap();
    session.channel(slot).unwrap().consumers.iterator = channel().consumers.iterator;
    session.feed(&deliver(1, "i", 1, b"")).unwrap();
    session.feed(&deliver(1, "other", 2, b"")).unwrap();
    let state = session.channel(slot).unwrap();
    assert_eq!(state.consumers.iterator.as_ref().unwrap().buffered.len(), 1);
    assert!(state.inbox.is_empty());
}

/// What has no meaning on an open channel may be a former one's; what cannot be read is an error all the same.
#[test]
fn what_has_no_meaning_is_skipped_if_there_was_a_former_channel() {
    let mut lone_body = Vec::new();
    write_body(&mut lone_body, 1, b"late");
    let mut cut_message = deliver(1, "a", 9, b"");
    cut_message.truncate(cut_message.len() - 22);
    let cut_short = [&cut_message[..], &open_ok(1)].concat();
    let wrong_end = {
        let mut bytes = lone_body.clone();
        *bytes.last_mut().unwrap() = 0;
        bytes
    };
    let mut unreadable = open_ok(1);
    unreadable[7] = 99;
    for (bytes, is_skipped) in [
        (lone_body, true),
        (method(1, &Method::QueuePurgeOk { message_count: 1 }), true),
        (cut_short, true),
        (wrong_end, false),
        (unreadable, false),
    ] {
        let (mut session, slot) = reopening(None);
        session.feed(&open_ok(1)).unwrap();
        assert_eq!(session.feed(&bytes).is_ok(), is_skipped, "{bytes:?}");
        assert_eq!(phase(&mut session, slot), Phase::Open);

        let (mut session, _) = super::channel::session(channel());
        assert!(session.feed(&bytes).is_err(), "{bytes:?}");
        // In two pieces as well.
        let (mut session, _) = super::channel::session(channel());
        let (first, rest) = bytes.split_at(9);
        let used = session.feed(first).map(|fed| fed.used);
        let fed = used.and_then(|used| session.feed(&[&first[used..], rest].concat()));
        assert!(fed.is_err(), "{bytes:?}");
    }
}

/// The rest of a message of which a part was skipped is skipped, too.
#[test]
fn a_message_with_a_part_that_was_skipped_is_never_whole() {
    let (mut session, slot) = reopening(None);
    session.feed(&open_ok(1)).unwrap();
    session.channel(slot).unwrap().consumers.registered = vec![consumer("a", 1, false)];
    let message = deliver(1, "a", 1, b"");
    let (announced, header) = message.split_at(method_size(&message));
    let mut body = Vec::new();
    write_body(&mut body, 1, b"late");
    for part in [announced, &body, header] {
        session.feed(part).unwrap();
    }
    assert_eq!(session.undelivered, 0);
    session.feed(&message).unwrap();
    assert!(session.undelivered > 0);
}

#[test]
fn a_consumer_is_active_once_it_is_confirmed() {
    let mut state = channel();
    for consumer in &mut state.consumers.registered {
        consumer.state = ConsumerState::Requested;
    }
    let requested = |state: &ChannelState| {
        ["a", "b", "i", "nobody"].map(|consumer_tag| state.consumers.is_requested(consumer_tag))
    };
    assert_eq!(requested(&state), [true, true, false, false]);
    let (mut session, slot) = session(state);
    let call = session.add_call(slot, (60, 21), Some(b"b"));
    let consumer_tag = "b".into();
    session
        .feed(&method(1, &Method::BasicConsumeOk { consumer_tag }))
        .unwrap();
    let state = session.channel(slot).unwrap();
    let states: Vec<ConsumerState> = state
        .consumers
        .registered
        .iter()
        .map(|it| it.state)
        .collect();
    assert_eq!(states, [ConsumerState::Requested, ConsumerState::Active]);
    assert_eq!(requested(state), [true, false, false, false]);
    assert!(matches!(state.calls.take_reply(call), Some(Reply::Done)));
}

/// It is confirmed if the broker asks for that, and cancelled by this end as well if not, once.
#[test]
fn a_cancel_is_responded_to_as_the_broker_wants() {
    let cancel = |consumer_tag: &'static str, no_wait| {
        let consumer_tag = consumer_tag.into();
        method(
            1,
            &Method::BasicCancel {
                consumer_tag,
                no_wait,
            },
        )
    };
    let cancel_ok = |consumer_tag: &'static str| {
        let consumer_tag = consumer_tag.into();
        method(1, &Method::BasicCancelOk { consumer_tag })
    };
    for (consumer_tag, is_known) in [("a", true), ("i", true), ("nobody", false)] {
        let (mut session, slot) = session(channel());
        let mut step = |no_wait, response: Vec<u8>, is_reported: bool| {
            session.feed(&cancel(consumer_tag, no_wait)).unwrap();
            assert_eq!(std::mem::take(&mut session.to_send), response);
            let event = session.next_event(slot);
            let reported = matches!(event, Some(Incoming::Cancelled(tag)) if tag == consumer_tag);
            assert_eq!(reported, is_reported, "{consumer_tag}");
        };
        let response = if is_known {
            cancel(consumer_tag, true)
        } else {
            Vec::new()
        };
        step(true, response, is_known);
        step(true, Vec::new(), false);
        step(false, cancel_ok(consumer_tag), false);
    }
}

/// This end cancels what the broker has cancelled, too, and the broker may confirm that.
#[test]
fn a_cancel_ok_is_for_the_call_that_waits_or_for_a_consumer_that_is_lost() {
    let cancel_ok = |tag: &'static str| {
        let consumer_tag = tag.into();
        method(1, &Method::BasicCancelOk { consumer_tag })
    };
    let (mut session, slot) = session(channel());
    session.feed(&cancel(1, "a")).unwrap();
    // It is sent once, without asking for a reply.
    assert_eq!(session.to_send, cancel(1, "a"));
    let call = session.add_call(slot, (60, 31), Some(b"a"));
    session.feed(&cancel_ok("a")).unwrap();
    let reply = session.channel(slot).unwrap().calls.take_reply(call);
    assert!(matches!(reply, Some(Reply::Done)));
    session.feed(&cancel_ok("a")).unwrap();
    for unknown in ["a", "b"] {
        let error = session.feed(&cancel_ok(unknown)).unwrap_err();
        assert!(error.to_string().contains("did not ask"), "{error}");
    }
    // Calls that wait for something else are not concerned: another method, or another consumer's.
    let consumer_tag = "a".into();
    for (expects, tag, reply) in [
        ((50, 31), None, Method::QueuePurgeOk { message_count: 3 }),
        ((60, 21), Some("a"), Method::BasicConsumeOk { consumer_tag }),
        (
            (60, 31),
            Some("b"),
            Method::BasicCancelOk {
                consumer_tag: "b".into(),
            },
        ),
    ] {
        let (mut session, slot) = super::channel::session(channel());
        session.feed(&cancel(1, "a")).unwrap();
        let call = session.add_call(slot, expects, tag.map(str::as_bytes));
        session.feed(&cancel_ok("a")).unwrap();
        let replies = &session.channel(slot).unwrap().calls.replies;
        assert!(replies.is_empty(), "{reply:?}");
        session.feed(&method(1, &reply)).unwrap();
        let came = session.channel(slot).unwrap().calls.take_reply(call);
        match reply {
            Method::QueuePurgeOk { .. } => assert!(matches!(came, Some(Reply::Count(3)))),
            _ => assert!(matches!(came, Some(Reply::Done)), "{reply:?}"),
        }
    }
}

/// How long the frame is that these bytes begin with.
fn method_size(bytes: &[u8]) -> usize {
    let size = bytes[3..7].try_into().unwrap();
    u32::from_be_bytes(size) as usize + 8
}

#[test]
fn a_message_that_is_too_large_costs_its_channel() {
    let cases = [(99, false), (100, false), (101, true)];
    let cases = cases
        .into_iter()
        .flat_map(|case| [(case, false), (case, true)]);
    for ((size, is_refused), is_cut) in cases {
        let (mut session, slot) = session(channel());
        session.max_message_size = 100;
        session.feed(&deliver(1, "a", 1, b"before")).unwrap();
        session.changed.clear();
        // As a whole, and with its header by itself.
        let message = deliver(1, "a", 2, &vec![7; size]);
        let (first, rest) = message.split_at(if is_cut { method_size(&message) } else { 0 });
        session.feed(first).unwrap();
        session.feed(rest).unwrap();
        let expected = if is_refused { 1 } else { 2 };
        assert_eq!(session.channel(slot).unwrap().inbox.len(), expected);
        if !is_refused {
            assert!(session.to_send.is_empty());
            continue;
        }
        assert_eq!(phase(&mut session, slot), Phase::Closing);
        let why = session.channel(slot).unwrap().gate.end().cloned();
        match why {
            Some(Error::MessageTooLarge {
                channel: 1,
                size: 101,
                max: 100,
            }) => {}
            other => panic!("{other:?}"),
        }
        let close = Method::ChannelClose {
            reply_code: 311,
            reply_text: "CONTENT_TOO_LARGE".into(),
            class_id: 60,
            method_id: 60,
        };
        assert_eq!(session.to_send, method(1, &close));
        assert!(session.changed.contains(&slot));
        // It is reported as what the broker closes is, once.
        assert!(session.reported(slot) && !session.reported(slot));
    }
}

/// So that the rest is handled when these are delivered.
#[test]
fn a_few_messages_are_handled_at_a_time() {
    let messages: Vec<Vec<u8>> = (1..=9).map(|tag| deliver(1, "a", tag, b"body")).collect();
    let length = messages[0].len();
    for count in [1, 3, 4, 5, 8, 9] {
        let (mut session, slot) = session(channel());
        let bytes = messages[..count].concat();
        let handled = count.min(4);
        let fed = Fed {
            used: handled * length,
            more: count > 4,
        };
        assert_eq!(session.feed(&bytes).unwrap(), fed, "{count}");
        assert_eq!(session.channel(slot).unwrap().inbox.len(), handled);
    }
}

/// Beyond what is trusted of its header, a body gets room as it comes, and never more than it needs.
#[test]
fn a_body_gets_the_room_that_it_needs() {
    const CHUNK: usize = 100 << 10;
    for size in [5 << 20, (1 << 20) + 1, 1 << 20, CHUNK + 1] {
        let (mut session, slot) = session(channel());
        let mut announced = deliver(1, "a", 1, b"");
        announced.truncate(announced.len() - 22);
        session.feed(&announced).unwrap();
        let mut header = Vec::new();
        write_header(&mut header, 1, size as u64, &Default::default()).unwrap();
        session.feed(&header).unwrap();
        match &session.channel(slot).unwrap().content {
            Content::Body { message, .. } => {
                assert_eq!(message.body.capacity(), size.min(1 << 20));
            }
            other => panic!("{other:?}"),
        }
        for chunk in vec![7; size].chunks(CHUNK) {
            let mut frame = Vec::new();
            write_body(&mut frame, 1, chunk);
            session.feed(&frame).unwrap();
        }
        let Some(Incoming::Message(message)) = session.next_event(slot) else {
            panic!("no message of {size}");
        };
        assert_eq!((message.body.len(), message.body.capacity()), (size, size));
    }
}

#[test]
fn replies_bring_what_they_say() {
    let (mut session, slot) = session(channel());
    let calls = [(50, 11), (50, 41), (20, 21)].map(|expects| session.add_call(slot, expects, None));
    let declared = Method::QueueDeclareOk {
        queue: "q".into(),
        message_count: 3,
        consumer_count: 4,
    };
    for reply in [
        declared,
        Method::QueueDeleteOk { message_count: 5 },
        Method::ChannelFlowOk { active: true },
    ] {
        session.feed(&method(1, &reply)).unwrap();
    }
    let channel = session.channel(slot).unwrap();
    match calls.map(|call| channel.calls.take_reply(call)) {
        [Some(Reply::Declared(declared)), Some(Reply::Count(5)), Some(Reply::Active(true))] => {
            let counts = (declared.message_count, declared.consumer_count);
            assert_eq!((&*declared.queue, counts), ("q", (3, 4)));
        }
        other => panic!("{other:?}"),
    }
}
