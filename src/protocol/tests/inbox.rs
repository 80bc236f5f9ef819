//! What waits for the program: in which order it is taken, by whom, and how it is counted.

use std::sync::Arc;

use super::channel::{channel, consumer, end, session};
use super::message::{cancel, close, deliver, method, returned};
use crate::protocol::channel::Phase;
use crate::protocol::connection::{ConnectionEvent, Dispatcher, Session, HELD_BOUND, RESUME_BELOW};
use crate::protocol::frame::{write_body, write_header};
use crate::protocol::method::Method;
use crate::protocol::received::{Content, Incoming};
use crate::protocol::replies::Replies;

/// Calls on the connection.
const ANY: Dispatcher = Dispatcher {
    thread: 1,
    channel: None,
};

fn feed(session: &mut Session, bytes: &[u8]) {
    let (mut at, mut more) = (0, true);
    while std::mem::take(&mut more) {
        let fed = session.feed(&bytes[at..]).unwrap();
        at += fed.used;
        more = fed.more;
    }
    assert_eq!(at, bytes.len());
}

/// What an event is, in a word.
fn word(incoming: Option<Incoming>) -> String {
    match incoming {
        None => "nothing".into(),
        Some(Incoming::Message(message)) => {
            format!("{} {}", message.consumer_tag(), message.delivery_tag)
        }
        Some(Incoming::Returned(returned)) => format!("returned {}", returned.body.len()),
        Some(Incoming::Cancelled(tag)) => format!("no more for {tag}"),
    }
}

/// What is held, as the connection, the channel, and for returned messages the channel count it.
fn held(session: &mut Session, slot: usize) -> (usize, usize, usize) {
    let channel = session.channel(slot).unwrap();
    let (held, held_returns) = (channel.held, channel.held_returns);
    (session.undelivered, held, held_returns)
}

/// As the documentation of `basic_qos` and of the errors has it.
#[test]
fn four_mib_may_wait_and_two_end_a_pause() {
    assert_eq!((HELD_BOUND, RESUME_BELOW), (4 << 20, 2 << 20));
}

#[test]
fn events_are_counted_until_they_are_taken() {
    let mut state = channel();
    state.wants_returns = true;
    let (mut session, slot) = session(state);
    assert_eq!(
        (held(&mut session, slot), session.count_events(&ANY)),
        ((0, 0, 0), 0)
    );
    let events = [
        deliver(1, "a", 1, b"1"),
        returned(1, b"three"),
        deliver(1, "i", 2, b"22"),
        deliver(1, "b", 3, b"333"),
        cancel(1, "b"),
        returned(1, b""),
        deliver(1, "i", 4, b"4444"),
    ];
    let mut sizes = Vec::new();
    let mut before = (0, 0, 0);
    for event in &events {
        feed(&mut session, event);
        let now = held(&mut session, slot);
        assert!(now.0 > before.0);
        assert_eq!(now.0, now.1);
        sizes.push((now.0 - before.0, now.2 - before.2));
        before = now;
    }
    let is_returned: Vec<bool> = sizes.iter().map(|(all, returns)| all == returns).collect();
    assert_eq!(is_returned, [false, true, false, false, false, true, false]);
    // What is for the iterator is no event.
    assert_eq!(session.count_events(&ANY), 5);

    let mut take = |session: &mut Session, expected: &str, event: usize| {
        let incoming = match event {
            2 | 6 => session.next_for_iterator(slot).map(Incoming::Message),
            _ => session.next_event(slot),
        };
        assert_eq!(word(incoming), expected);
        before = (
            before.0 - sizes[event].0,
            before.1 - sizes[event].0,
            before.2 - sizes[event].1,
        );
        assert_eq!(held(session, slot), before, "{expected}");
    };
    assert_eq!(session.begin_turn(&ANY), Some((slot, 5)));
    take(&mut session, "a 1", 0);
    take(&mut session, "returned 5", 1);
    take(&mut session, "i 2", 2);
    take(&mut session, "b 3", 3);
    take(&mut session, "no more for b", 4);
    take(&mut session, "returned 0", 5);
    assert_eq!(word(session.next_event(slot)), "nothing");
    take(&mut session, "i 4", 6);
    assert!(session.next_for_iterator(slot).is_none());
    assert_eq!(held(&mut session, slot), (0, 0, 0));
    session.end_turn(slot);
    assert_eq!(session.count_events(&ANY), 0);
}

#[test]
fn events_of_the_connection_are_counted_until_they_are_taken() {
    let (mut session, _) = session(channel());
    session.wants_blocked = true;
    let blocked = |reason: &'static str| {
        let reason = reason.into();
        method(0, &Method::ConnectionBlocked { reason })
    };
    let mut sizes = vec![0];
    for event in [
        blocked("disk"),
        blocked("memory"),
        method(0, &Method::ConnectionUnblocked {}),
    ] {
        feed(&mut session, &event);
        sizes.push(session.undelivered);
    }
    assert_eq!(session.count_connection_events(), 3);
    // The longer text by its length, and none at all by less.
    assert_eq!(sizes[2] - sizes[1], sizes[1] + 2);
    assert!(sizes[3] - sizes[2] < sizes[1] - 4 && sizes[3] > sizes[2]);
    for (event, left) in [
        (ConnectionEvent::Blocked("disk".into()), sizes[3] - sizes[1]),
        (
            ConnectionEvent::Blocked("memory".into()),
            sizes[3] - sizes[2],
        ),
        (ConnectionEvent::Unblocked, 0),
    ] {
        assert_eq!(session.next_connection_event(), Some(event));
        assert_eq!(session.undelivered, left);
    }
    assert_eq!(session.next_connection_event(), None);
    assert_eq!(session.count_connection_events(), 0);
}

#[test]
fn what_came_for_one_consumer_is_taken_out_of_the_rest() {
    let mut state = channel();
    state.wants_returns = true;
    let (mut session, slot) = session(state);
    let of_a = [
        deliver(1, "a", 1, b"first"),
        deliver(1, "a", 3, b"second"),
        cancel(1, "a"),
    ];
    for bytes in &of_a[..1] {
        feed(&mut session, bytes);
    }
    let first = session.undelivered;
    feed(&mut session, &deliver(1, "b", 2, b"of b"));
    feed(&mut session, &returned(1, b"back"));
    feed(&mut session, &cancel(1, "b"));
    let of_others = session.undelivered - first;
    let returns = held(&mut session, slot).2;
    for bytes in &of_a[1..] {
        feed(&mut session, bytes);
    }
    let bodies = |taken: Vec<crate::Message>| -> Vec<Vec<u8>> {
        taken.into_iter().map(|(_, _, body)| body).collect()
    };
    assert!(session.take_undelivered(slot, "nobody").is_empty());
    assert_eq!(session.count_events(&ANY), 6);
    let taken = session.take_undelivered(slot, "a");
    assert_eq!(bodies(taken), [&b"first"[..], b"second"]);
    assert_eq!(held(&mut session, slot), (of_others, of_others, returns));
    assert!(session.take_undelivered(slot, "a").is_empty());
    assert_eq!(session.count_events(&ANY), 3);

    // The others come in their order.
    assert_eq!(session.begin_turn(&ANY), Some((slot, 3)));
    for expected in ["b 2", "returned 4"] {
        assert_eq!(word(session.next_event(slot)), expected);
    }
    assert!(session.end_turn(slot));
    assert!(session.take_undelivered(slot, "b").is_empty());
    assert_eq!(held(&mut session, slot), (0, 0, 0));
    assert_eq!(session.begin_turn(&ANY), None);
    feed(&mut session, &deliver(1, "a", 4, b"again"));
    assert_eq!(session.begin_turn(&ANY), Some((slot, 1)));
}

/// It comes again. What was acknowledged as it was sent does not, and a stream takes nothing back.
#[test]
fn what_the_broker_takes_back_is_dropped() {
    let mut state = channel();
    state.wants_returns = true;
    let (mut session, slot) = session(state);
    session.add_call(slot, (60, 111), None);
    feed(
        &mut session,
        &deliver(1, "b", 1, b"acknowledged as it was sent"),
    );
    feed(&mut session, &returned(1, b"back"));
    feed(&mut session, &cancel(1, "b"));
    let rest = held(&mut session, slot);
    let gate = Arc::clone(&session.channel(slot).unwrap().gate);
    gate.call_appended(&Method::BasicRecover { requeue: true });
    feed(&mut session, &deliver(1, "a", 2, b"taken back"));
    feed(&mut session, &deliver(1, "i", 3, b"taken back"));
    feed(&mut session, &method(1, &Method::BasicRecoverOk));
    assert!(gate.acks.is_recovered(3) && !gate.acks.is_recovered(4));
    assert_eq!(held(&mut session, slot), rest);
    assert!(session.next_for_iterator(slot).is_none());
    assert_eq!(session.begin_turn(&ANY), Some((slot, 3)));
    for expected in ["b 1", "returned 4", "no more for b"] {
        assert_eq!(word(session.next_event(slot)), expected);
    }
    session.end_turn(slot);

    // Nothing is left, so nothing is to be delivered until something comes.
    session.add_call(slot, (60, 111), None);
    feed(&mut session, &deliver(1, "a", 4, b"taken back"));
    feed(&mut session, &method(1, &Method::BasicRecoverOk));
    assert_eq!(session.begin_turn(&ANY), None);
    assert_eq!(held(&mut session, slot), (0, 0, 0));
    feed(&mut session, &deliver(1, "a", 5, b"again"));
    assert_eq!(session.begin_turn(&ANY), Some((slot, 1)));
    session.end_turn(slot);

    let consumers = &mut session.channel(slot).unwrap().consumers;
    for consumer in &mut consumers.registered {
        consumer.of_stream = true;
    }
    consumers.iterator.as_mut().unwrap().consumer.auto_ack = true;
    session.add_call(slot, (60, 111), None);
    feed(&mut session, &deliver(1, "i", 6, b"stays"));
    feed(&mut session, &method(1, &Method::BasicRecoverOk));
    assert_eq!(session.begin_turn(&ANY), Some((slot, 1)));
    assert!(session.next_for_iterator(slot).is_some());
}

#[test]
fn the_iterators_messages_are_counted_and_go_with_it() {
    let (mut session, slot) = session(channel());
    assert!(!session.is_at_work());
    feed(&mut session, &deliver(1, "a", 1, b"stays"));
    let stays = session.undelivered;
    for tag in 2..=4 {
        feed(&mut session, &deliver(1, "i", tag, b"body"));
    }
    let message = session.next_for_iterator(slot).unwrap();
    assert_eq!(message.delivery_tag, 2);
    assert!(session.is_at_work());
    assert!(session.undelivered > stays);
    // Whom it was given to is remembered.
    let state = session.channel(slot).unwrap();
    assert!(state.cancel_consumer("i"));
    let lost = state
        .consumers
        .cancelled_consumer_of(2)
        .map(|lost| lost.consumer_tag.clone());
    assert_eq!(lost.as_deref(), Some("i"));
    let iterator = session.take_iterator(slot).unwrap();
    assert_eq!(iterator.buffered.len(), 2);
    assert_eq!(held(&mut session, slot), (stays, stays, 0));
    assert!(session.take_iterator(slot).is_none());
    assert!(session.next_for_iterator(slot).is_none());
    assert!(!session.is_at_work());
}

#[test]
fn an_iterator_that_has_nothing_more_is_not_at_work() {
    let (mut session, slot) = session(channel());
    feed(&mut session, &deliver(1, "i", 1, b"body"));
    assert!(!session.is_at_work());
    assert!(session.next_for_iterator(slot).is_some() && session.is_at_work());
    assert!(session.next_for_iterator(slot).is_none() && !session.is_at_work());
}

/// Two channels, numbers 1 and 2, with consumers `a` and `b` each.
fn two() -> (Session, usize, usize) {
    let mut session = Session::new(131_072, 2, "broker:5672".into());
    let mut add = || session.add_channel(None, channel()).unwrap().0;
    let (first, second) = (add(), add());
    (session, first, second)
}

#[test]
fn channels_take_turns_and_each_has_one_at_a_time() {
    let (mut session, first, second) = two();
    for bytes in [
        deliver(1, "a", 1, b""),
        deliver(1, "a", 2, b""),
        deliver(2, "a", 1, b""),
    ] {
        feed(&mut session, &bytes);
    }
    assert_eq!(session.count_events(&ANY), 3);
    assert_eq!(session.begin_turn(&ANY), Some((first, 2)));
    assert!(session.is_at_work());
    // No other thread runs what is being run.
    assert_eq!(session.count_events(&ANY), 1);
    assert_eq!(session.begin_turn(&ANY), Some((second, 1)));
    assert_eq!(
        (session.count_events(&ANY), session.begin_turn(&ANY)),
        (0, None)
    );
    // What comes for a channel in its turn does not put it on the list twice.
    feed(&mut session, &deliver(1, "b", 3, b""));
    assert_eq!(word(session.next_event(first)), "a 1");
    assert_eq!(word(session.next_event(second)), "a 1");
    assert!(session.end_turn(first) && !session.end_turn(second));
    assert!(!session.is_at_work());
    // The one with more goes behind the one where something comes meanwhile.
    assert_eq!(session.begin_turn(&ANY), Some((first, 2)));
    feed(&mut session, &deliver(2, "a", 2, b""));
    assert!(session.end_turn(first));
    assert_eq!(session.begin_turn(&ANY), Some((second, 1)));
    assert_eq!(session.begin_turn(&ANY), Some((first, 2)));
    assert_eq!(session.begin_turn(&ANY), None);
}

#[test]
fn a_turn_is_given_to_those_who_may_run_the_channel() {
    let (mut session, first, second) = two();
    session.channel(first).unwrap().threads.consuming.push(7);
    feed(&mut session, &deliver(1, "a", 1, b""));
    feed(&mut session, &deliver(2, "a", 1, b""));
    let claimant = Dispatcher {
        thread: 7,
        channel: Some(first),
    };
    assert_eq!(
        (session.count_events(&ANY), session.count_events(&claimant)),
        (1, 1)
    );
    assert_eq!(session.begin_turn(&ANY), Some((second, 1)));
    assert_eq!(session.begin_turn(&ANY), None);
    assert_eq!(session.begin_turn(&claimant), Some((first, 1)));
}

/// A thread may wait for what is left, or for the end.
#[test]
fn the_end_of_a_turn_returns_whether_others_may_wait_for_it() {
    let ends = |change: fn(&mut Session, usize)| {
        let (mut session, slot) = session(channel());
        feed(&mut session, &deliver(1, "a", 1, b""));
        assert!(session.begin_turn(&ANY).is_some());
        change(&mut session, slot);
        session.end_turn(slot)
    };
    assert!(ends(|_, _| ()));
    assert!(!ends(|session, slot| drop(session.next_event(slot))));
    assert!(ends(|session, slot| {
        session.next_event(slot);
        session.channel(slot).unwrap().consumers.registered.clear();
    }));
    assert!(ends(|session, slot| {
        session.next_event(slot);
        let gate = &session.channel(slot).unwrap().gate;
        gate.finish(Phase::Closing, end());
    }));
    assert!(!session(channel()).0.end_turn(9));
}

#[test]
fn a_channel_that_is_cleared_holds_nothing() {
    let (mut session, first, second) = two();
    session.channel(first).unwrap().wants_returns = true;
    for bytes in [
        deliver(2, "a", 1, b"stays"),
        deliver(1, "a", 1, b"goes"),
        deliver(1, "i", 2, b"goes"),
        returned(1, b"goes"),
    ] {
        feed(&mut session, &bytes);
    }
    // Half a message has come, and replies are waited for.
    let whole = deliver(1, "a", 3, b"goes");
    feed(&mut session, &whole[..whole.len() - 12]);
    let state = session.channel(first).unwrap();
    assert!(matches!(state.content, Content::Body { .. }));
    state.replies = Some(Box::new(Replies::new("p".into())));
    session.clear_channel(first);
    session.clear_channel(9);
    let stays = held(&mut session, second).1;
    assert!(stays > 0);
    assert_eq!(held(&mut session, first), (stays, 0, 0));
    let state = session.channel(first).unwrap();
    assert!(state.consumers.is_empty() && state.is_idle());
    assert!(matches!(state.content, Content::None) && state.replies.is_none());
    assert_eq!(session.count_events(&ANY), 1);
    assert_eq!(session.begin_turn(&ANY), Some((second, 1)));
    assert_eq!(session.begin_turn(&ANY), None);
}

/// The broker's closure is reported once, by a call that runs the channel or by one on it.
#[test]
fn a_closure_is_taken_once_by_those_who_may_run_the_channel() {
    let (mut session, first, second) = two();
    session.channel(second).unwrap().threads.consuming.push(7);
    feed(&mut session, &[close(2), close(1)].concat());
    let claimant = Dispatcher {
        thread: 7,
        channel: Some(second),
    };
    let number = |error: Option<crate::Error>| match error {
        Some(crate::Error::ChannelClosedByBroker { channel, .. }) => channel,
        other => panic!("{other:?}"),
    };
    assert!(session.has_unreported(&ANY) && session.has_unreported(&claimant));
    assert_eq!(number(session.take_unreported(&ANY)), 1);
    assert!(!session.has_unreported(&ANY) && session.take_unreported(&ANY).is_none());
    assert!(!session.reported(first));
    assert_eq!(number(session.take_unreported(&claimant)), 2);
    assert!(!session.has_unreported(&claimant) && !session.reported(second));

    let (mut session, first, _) = two();
    feed(&mut session, &close(1));
    assert!(session.reported(first) && !session.reported(first));
    assert!(!session.has_unreported(&ANY));
}

#[test]
fn idle_channels_are_those_without_events_and_without_threads_that_consume() {
    let (mut session, first, second) = two();
    assert_eq!(session.idle_channels(), [0, first, second]);
    feed(&mut session, &deliver(1, "a", 1, b""));
    session.channel(second).unwrap().threads.consuming.push(1);
    assert_eq!(session.idle_channels(), [0]);
    assert!(session.is_idle(0) && !session.is_idle(first) && !session.is_idle(second));
    assert!(session.is_idle(9));
    session.next_event(first);
    assert!(session.is_idle(first));
}

#[test]
fn a_cancelled_consumer_is_reported_with_what_it_held() {
    let mut state = channel();
    state.consumers.registered.push(consumer("c", 9, false));
    let (mut session, slot) = session(state);
    feed(&mut session, &deliver(1, "c", 1, b""));
    session.channel(slot).unwrap().consumers.handed_over(1, 9);
    feed(&mut session, &cancel(1, "c"));
    let cancelled = session.report_cancelled(slot, "c").unwrap();
    assert_eq!(
        (cancelled.channel, cancelled.consumer, cancelled.held),
        (1, Some(9), Some(1))
    );
    let by_broker = |session: &mut Session| {
        session
            .channel(slot)
            .unwrap()
            .consumers
            .cancelled_by_broker
            .take()
    };
    assert_eq!(by_broker(&mut session).as_deref(), Some("c"));
    // One that the program has cancelled meanwhile.
    assert!(session.channel(slot).unwrap().consumers.remove("c", 9));
    let cancelled = session.report_cancelled(slot, "c").unwrap();
    assert_eq!((cancelled.consumer, by_broker(&mut session)), (None, None));
    assert!(session.report_cancelled(9, "c").is_none());
}

#[test]
fn a_message_that_came_is_noted() {
    let (mut session, slot) = session(channel());
    let last = |session: &mut Session| session.channel(slot).unwrap().gate.acks.last_received();
    feed(&mut session, &deliver(1, "a", 1, b""));
    assert_eq!(
        (session.changed.clone(), last(&mut session)),
        (vec![slot], 1)
    );
    let got = Method::BasicGetOk {
        delivery_tag: 2,
        redelivered: false,
        exchange: "".into(),
        routing_key: "k".into(),
        message_count: 0,
    };
    session.add_call(slot, (60, 71), None);
    feed(&mut session, &super::message::with_content(1, &got, b""));
    assert_eq!(last(&mut session), 2);
}

/// What the broker delivers again anyway is not taken in beyond the bound once the stream has ended.
#[test]
fn while_the_rest_is_taken_in_the_bound_holds_for_what_goes_back() {
    for (is_draining, held, consumer_tag, is_kept) in [
        (true, HELD_BOUND + 1, "a", false),
        (true, HELD_BOUND + 1, "b", true),
        (true, HELD_BOUND, "a", true),
        (true, 0, "a", true),
        (false, HELD_BOUND + 1, "a", true),
    ] {
        let (mut session, slot) = session(channel());
        session.is_draining = is_draining;
        session.undelivered = held;
        feed(&mut session, &deliver(1, consumer_tag, 1, b""));
        let kept = session.channel(slot).unwrap().inbox.len();
        assert_eq!(
            kept,
            usize::from(is_kept),
            "{is_draining} {held} {consumer_tag}"
        );
    }
}

#[test]
fn a_large_body_takes_no_more_memory_than_it_needs() {
    let (mut session, slot) = session(channel());
    let size = (3 << 20) + 5;
    let deliver = Method::BasicDeliver {
        consumer_tag: "a".into(),
        delivery_tag: 1,
        redelivered: false,
        exchange: "".into(),
        routing_key: "k".into(),
    };
    let mut bytes = method(1, &deliver);
    write_header(&mut bytes, 1, size as u64, &Default::default()).unwrap();
    feed(&mut session, &bytes);
    let mut capacities = Vec::new();
    for part in vec![7; size].chunks(4000) {
        let channel = session.channel(slot).unwrap();
        if let Content::Body { message, .. } = &channel.content {
            capacities.push(message.body.capacity());
        }
        let mut frame = Vec::new();
        write_body(&mut frame, 1, part);
        feed(&mut session, &frame);
    }
    // It grows a few times, by doubling, but never beyond the end.
    capacities.dedup();
    assert_eq!(
        capacities[0],
        1 << 20,
        "what the header claims is not believed"
    );
    assert!(capacities.len() <= 4, "{capacities:?}");
    let Some(Incoming::Message(message)) = session.next_event(slot) else {
        panic!("it has not come");
    };
    assert!(message.body == vec![7; size]);
    assert_eq!(message.body.capacity(), size);
}
