//! What a channel keeps of its consumers, its messages and its calls, and a connection of its channels.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use crate::protocol::calls::{Call, Reply, FORGOTTEN};
use crate::protocol::channel::{ChannelState, Gate, Phase, Wake, Watcher};
use crate::protocol::connection::{Dispatcher, Session};
use crate::protocol::consumers::{Consumer, ConsumerState, IteratorConsumer};
use crate::protocol::frame::{write_body, write_header, write_method};
use crate::protocol::method::Method;
use crate::protocol::properties::ReceivedProperties;
use crate::protocol::received::{Carrier, Incoming, Received};
use crate::{DeliveryMode, Error};

pub(super) fn consumer(consumer_tag: &str, id: u64, auto_ack: bool) -> Consumer {
    Consumer {
        consumer_tag: consumer_tag.into(),
        id,
        auto_ack,
        of_stream: false,
        state: ConsumerState::Active,
    }
}

/// An open channel with the consumers `a` (1) and `b` (2), and with an iterator over `i` (3).
pub(super) fn channel() -> ChannelState {
    let mut channel = ChannelState::new(Gate::new(Phase::Open));
    channel.consumers.registered = vec![consumer("a", 1, false), consumer("b", 2, true)];
    channel.consumers.iterator = Some(IteratorConsumer {
        consumer: consumer("i", 3, false),
        queue: "q".into(),
        exclusive: false,
        buffered: Default::default(),
        is_at_work: false,
    });
    channel
}

fn received(carrier: Carrier, delivery_tag: u64) -> Received {
    Received {
        carrier,
        delivery_tag,
        exchange: "x".into(),
        routing_key: "k".into(),
        properties: ReceivedProperties::Few {
            delivery_mode: Some(DeliveryMode::Persistent),
            priority: Some(3),
        },
        body: b"body".to_vec(),
    }
}

fn delivery(consumer_tag: &str, delivery_tag: u64) -> Received {
    let carrier = Carrier::Deliver {
        consumer_tag: consumer_tag.into(),
        redelivered: true,
    };
    received(carrier, delivery_tag)
}

pub(super) fn end() -> Error {
    Error::ChannelClosedByClient {
        channel: 1,
        reply_code: 200,
        reply_text: "done".into(),
    }
}

#[test]
fn messages_in_a_row_share_their_consumers_tag() {
    let mut channel = channel();
    let mut tag = |bytes: &'static [u8]| channel.consumers.shared_tag(bytes.into());
    let (first, second, other, back) = (tag(b"a"), tag(b"a"), tag(b"b"), tag(b"a"));
    assert!(Arc::ptr_eq(&first, &second));
    assert_eq!((&*first, &*other, &*back), ("a", "b", "a"));
    // What is not UTF-8 is shown, and is no tag of ours.
    assert_eq!((&*tag(b"\xff"), &*tag(b"")), ("\u{fffd}", ""));
}

#[test]
fn a_channel_is_over_once_it_is_being_closed() {
    for (phase, may_send, is_over) in [
        (Phase::Opening, false, false),
        (Phase::Reopening, false, false),
        (Phase::Open, true, false),
        (Phase::Committing, false, false),
        (Phase::Closing, false, true),
        (Phase::Closed, false, true),
    ] {
        let gate = Gate::new(phase);
        assert_eq!((gate.phase(), phase.is_over()), (phase, is_over));
        assert_eq!((gate.may_send(), gate.is_over()), (may_send, is_over));
        let is_open = matches!(phase, Phase::Open | Phase::Committing);
        assert_eq!(phase.is_open(), is_open);
    }
    let gate = Gate::new(Phase::Open);
    gate.finish(Phase::Closing, end());
    gate.finish(Phase::Closed, Error::other("too late"));
    assert_eq!(gate.phase(), Phase::Closed);
    let why = gate.end().map(ToString::to_string);
    assert_eq!(why, Some(end().to_string()));
}

#[test]
fn a_message_becomes_what_the_program_gets() {
    let carrier = Carrier::Get {
        redelivered: true,
        message_count: 9,
    };
    let (method, properties, body) = received(carrier, 7).fetched();
    assert_eq!((method.delivery_tag, method.message_count), (7, 9));
    assert!(method.redelivered && method.exchange == "x" && method.routing_key == "k");
    assert_eq!((properties.priority, &body[..]), (Some(3), &b"body"[..]));

    let (method, properties, body) = delivery("a", 7).delivered();
    assert_eq!((&*method.consumer_tag, method.delivery_tag), ("a", 7));
    assert!(method.redelivered && method.exchange == "x" && method.routing_key == "k");
    assert_eq!((properties.priority, &body[..]), (Some(3), &b"body"[..]));
    let carrier = Carrier::Deliver {
        consumer_tag: "a".into(),
        redelivered: false,
    };
    let anew = received(carrier, 7);
    assert!(!anew.delivered().0.redelivered);
}

/// What the broker cancels is remembered: which messages it was given, and which of them it holds.
#[test]
fn a_cancelled_consumer_is_known_by_its_messages() {
    let mut channel = channel();
    for (delivery_tag, consumer) in [(1, 1), (2, 1), (3, 2), (4, 1), (6, 1)] {
        channel.consumers.handed_over(delivery_tag, consumer);
    }
    // 1 and 2 are acknowledged, so what `a` holds begins with 4.
    channel.gate.acks.note_received(6);
    let ack = Method::BasicAck {
        delivery_tag: 2,
        multiple: true,
    };
    let acks = &channel.gate.acks;
    acks.write(&mut Vec::new(), 0, 1, &ack).unwrap();
    assert_eq!(acks.acknowledged_to(), Some(2));

    assert!(!channel.cancel_consumer("nobody"));
    let is_lost = |channel: &ChannelState| channel.gate.consumer_cancelled.load(Ordering::Acquire);
    assert!(!is_lost(&channel));
    assert_eq!(channel.consumer_tags(), ["a", "b", "i"]);
    assert!(channel.cancel_consumer("a") && !channel.cancel_consumer("a"));
    assert!(is_lost(&channel));
    assert!(channel.cancel_consumer("i") && !channel.cancel_consumer("i"));
    assert_eq!(channel.consumer_tags(), ["b"]);
    let lost = |channel: &ChannelState, delivery_tag| {
        let lost = channel.consumers.cancelled_consumer_of(delivery_tag);
        lost.map(|lost| lost.consumer_tag.clone())
    };
    for (delivery_tag, of_a) in [
        (1, true),
        (2, true),
        (3, false),
        (4, true),
        (5, false),
        (6, true),
        (7, false),
    ] {
        let expected = of_a.then(|| "a".to_owned());
        assert_eq!(lost(&channel, delivery_tag), expected, "{delivery_tag}");
    }
    let held =
        |channel: &ChannelState, tag| channel.consumers.last_cancelled(tag).map(|lost| lost.held);
    assert_eq!(held(&channel, "a"), Some(Some(4)));
    assert_eq!(held(&channel, "i"), Some(None));
    assert_eq!(held(&channel, "b"), None);

    // This end's own cancels are confirmed once each.
    assert!(!channel.consumers.take_extra_cancel_ok("nobody"));
    assert!(
        channel.consumers.take_extra_cancel_ok("a") && !channel.consumers.take_extra_cancel_ok("a")
    );
    assert!(channel.consumers.take_extra_cancel_ok("i"));

    channel.gate.finish(Phase::Closed, end());
    assert!(channel.consumer_tags().is_empty());
}

/// One consumer's messages in a row are remembered as one, however many they are.
#[test]
fn messages_in_a_row_are_remembered_together() {
    let mut channel = channel();
    for tag in 1..=5000 {
        channel.consumers.handed_over(tag, 1);
    }
    channel.gate.acks.note_received(5000);
    let ack = Method::BasicAck {
        delivery_tag: 2,
        multiple: true,
    };
    let acks = &channel.gate.acks;
    acks.write(&mut Vec::new(), 0, 1, &ack).unwrap();
    assert!(channel.cancel_consumer("a"));
    assert!((1..=5000).all(|tag| channel.consumers.cancelled_consumer_of(tag).is_some()));
    assert!(channel.consumers.cancelled_consumer_of(5001).is_none());
    assert_eq!(
        channel.consumers.last_cancelled("a").map(|lost| lost.held),
        Some(Some(3))
    );
}

/// A channel that lives long remembers the latest only.
#[test]
fn what_is_remembered_of_consumers_is_bounded() {
    let mut channel = channel();
    for n in 0..10_000 {
        channel.consumers.handed_over(n + 1, 1 + n % 2);
    }
    channel.cancel_consumer("a");
    let of_a = (1..=10_000).filter(|tag| channel.consumers.cancelled_consumer_of(*tag).is_some());
    let of_a: Vec<u64> = of_a.collect();
    assert_eq!((of_a.len(), of_a[511]), (512, 9_999));

    for n in 0..1000 {
        let tag = format!("c{n}");
        channel
            .consumers
            .registered
            .push(consumer(&tag, 10 + n, false));
        assert!(channel.cancel_consumer(&tag));
    }
    let known = (0..1000).filter(|n| channel.consumers.last_cancelled(&format!("c{n}")).is_some());
    let known: Vec<i32> = known.collect();
    assert_eq!((known.len(), known[0]), (64, 936));
}

#[test]
fn an_iterator_is_spent_when_it_is_cancelled_and_empty() {
    let mut iterator = channel().consumers.iterator.unwrap();
    assert!(!iterator.is_spent());
    iterator.buffered.push_back(delivery("i", 1));
    iterator.consumer.state = ConsumerState::Cancelled;
    assert!(!iterator.is_spent());
    iterator.buffered.clear();
    assert!(iterator.is_spent());
}

#[test]
fn a_consumer_is_removed_by_its_tag_and_its_own_number() {
    let mut channel = channel();
    assert!(!channel.consumers.is_empty());
    assert!(!channel.consumers.remove("a", 2) && !channel.consumers.remove("c", 1));
    assert_eq!(channel.consumers.registered.len(), 2);
    assert!(channel.consumers.remove("a", 1) && !channel.consumers.remove("a", 1));
    assert_eq!(channel.consumers.registered, [consumer("b", 2, true)]);
    channel.consumers.iterator = None;
    assert!(!channel.consumers.is_empty());
    channel.consumers.registered.clear();
    assert!(channel.consumers.is_empty());
}

#[test]
fn an_idle_channel_has_no_events_and_no_thread_that_consumes() {
    let mut channel = channel();
    assert!(channel.is_idle());
    channel.threads.consuming.push(1);
    assert!(!channel.is_idle());
    channel.threads.consuming.clear();
    let event = Incoming::Cancelled("a".into());
    assert!(!channel.goes_back(&event));
    channel.inbox.push_back(event);
    assert!(!channel.is_idle());
}

#[test]
fn what_is_acknowledged_by_hand_is_delivered_again() {
    let channel = channel();
    for (consumer_tag, goes_back) in [("a", true), ("b", false), ("nobody", false)] {
        let message = Incoming::Message(delivery(consumer_tag, 1));
        assert_eq!(channel.goes_back(&message), goes_back, "{consumer_tag}");
    }
}

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_watcher_is_woken_by_what_concerns_it() {
    let woken = |eager, change: fn(&mut ChannelState)| {
        let count = Arc::new(Count::default());
        let mut channel = channel();
        channel.watcher = Some(Watcher {
            wake: Arc::clone(&count) as Arc<dyn Wake>,
            eager,
        });
        change(&mut channel);
        channel.alert();
        count.0.load(Ordering::SeqCst) == 1
    };
    assert!(!woken(false, |_| {}));
    assert!(woken(true, |_| {}));
    assert!(woken(false, |channel| channel
        .gate
        .finish(Phase::Closed, end())));
    assert!(woken(false, |channel| channel.confirms.has_losses = true));
}

/// A connection with this channel, number 1, and the slot of that.
pub(super) fn session(channel: ChannelState) -> (Session, usize) {
    let mut session = Session::new(131_072, 1, "broker:5672".into());
    let (slot, number) = session.add_channel(None, channel).unwrap();
    assert_eq!(number, 1);
    (session, slot)
}

#[test]
fn callbacks_run_on_threads_that_consume_or_else_on_any_that_looks() {
    let on = |thread, channel| Dispatcher { thread, channel };
    let mut channel = channel();
    channel.threads.registering = 7;
    // No thread consumes: calls on the connection, and the thread that registered the callbacks.
    assert!(on(8, None).may_run(&channel) && on(7, Some(2)).may_run(&channel));
    assert!(!on(8, Some(2)).may_run(&channel));
    channel.threads.consuming.push(9);
    assert!(on(9, None).may_run(&channel) && on(9, Some(1)).may_run(&channel));
    assert!(!on(8, None).may_run(&channel) && !on(7, Some(2)).may_run(&channel));
}

#[test]
fn an_end_is_reported_once_as_what_it_is() {
    let (mut session, _) = session(channel());
    assert!(session.report_end(false).is_none() && session.report_end(true).is_none());
    session.check_open().unwrap();
    let timeout = || Error::ConnectionClosedByBroker {
        reply_code: 320,
        reply_text: "maintenance".into(),
        method: None,
        address: "broker:5672".into(),
        while_closing: false,
    };
    session.end_all(timeout());
    let first = session.report_end(false).unwrap();
    assert!(matches!(first, Error::ConnectionClosedByBroker { .. }));
    let second = session.report_end(false).unwrap();
    assert!(
        matches!(second, Error::ConnectionWrongState { .. }),
        "{second:?}"
    );
    let second = session.check_open().unwrap_err();
    assert!(
        matches!(second, Error::ConnectionWrongState { .. }),
        "{second:?}"
    );
    // A call that waited returns what it is, however often it was reported to others.
    let waited = session.report_end(true).unwrap();
    assert!(matches!(waited, Error::ConnectionClosedByBroker { .. }));
    // It has ended, and with it the calls on channel 0; whatever happens afterwards is not why.
    session.end_all(Error::other("too late"));
    let waited = session.report_end(true).unwrap();
    assert!(matches!(waited, Error::ConnectionClosedByBroker { .. }));
    assert!(session.channel(0).unwrap().gate.is_over());
}

/// It says what there is to say, as often as it is asked.
#[test]
fn the_end_in_a_forked_child_is_reported_as_it_is() {
    let (mut session, _) = session(channel());
    let end = || Error::ConnectionWrongState {
        reason: "of the parent".into(),
        cause: None,
    };
    session.end_all(end());
    for waited in [false, false, true] {
        let reported = session.report_end(waited).unwrap();
        assert_eq!(reported.to_string(), end().to_string());
    }
}

/// Calls that concern the connection are sent on channel 0.
#[test]
fn on_channel_0_something_may_be_sent_until_the_connection_is_closed() {
    let (mut session, _) = session(channel());
    assert!(session.channel(0).unwrap().gate.may_send());
    session.close(200, "done").unwrap();
    assert!(!session.channel(0).unwrap().gate.may_send());
}

/// Two numbers that change one after the other may be seen as they never were together.
#[test]
fn no_more_are_confirmed_than_were_published() {
    let gate = Gate::new(Phase::Open);
    for (published, confirmed, unconfirmed) in [(3, 1, 2), (3, 3, 0), (3, 4, 0)] {
        gate.published.store(published, Ordering::Release);
        gate.confirmed.store(confirmed, Ordering::Release);
        assert_eq!(gate.unconfirmed(), unconfirmed);
    }
}

#[test]
fn what_this_program_closed_is_reported_as_closed() {
    let (mut session, _) = session(channel());
    session.close(200, "done").unwrap();
    assert!(session.report_end(false).is_none());
    let closing = session.check_open().unwrap_err();
    assert!(
        matches!(closing, Error::ConnectionWrongState { .. }),
        "{closing:?}"
    );
    assert!(closing.to_string().contains("being closed"), "{closing}");
    session.end_by_client();
    let ended = session.report_end(false).unwrap();
    assert!(
        matches!(ended, Error::ConnectionWrongState { .. }),
        "{ended:?}"
    );
}

#[test]
fn every_watcher_is_woken() {
    let count = Arc::new(Count::default());
    let mut watched = channel();
    watched.watcher = Some(Watcher {
        wake: Arc::clone(&count) as Arc<dyn Wake>,
        eager: false,
    });
    session(watched).0.wake_watchers();
    assert_eq!(count.0.load(Ordering::SeqCst), 1);
}

#[test]
fn each_call_has_a_number_of_its_own() {
    let (mut session, slot) = session(channel());
    let ids: Vec<u64> = (0..3)
        .map(|_| session.add_call(slot, (50, 31), None))
        .collect();
    assert!(!ids.contains(&FORGOTTEN) && ids[0] != ids[1] && ids[1] != ids[2]);
    let calls = session.channel(slot).unwrap().calls.waiting.iter();
    assert_eq!(calls.map(|call| call.id).collect::<Vec<_>>(), ids);
}

/// The largest message decides how much must be read during a pause, one that is coming in included.
#[test]
fn a_message_that_is_coming_in_is_measured() {
    let (mut session, _) = session(channel());
    let mut bytes = Vec::new();
    let deliver = Method::BasicDeliver {
        consumer_tag: "a".into(),
        delivery_tag: 1,
        redelivered: false,
        exchange: "".into(),
        routing_key: "k".into(),
    };
    write_method(&mut bytes, 1, &deliver).unwrap();
    write_header(&mut bytes, 1, 150, &Default::default()).unwrap();
    write_body(&mut bytes, 1, &[0; 100]);
    let rest = bytes.split_off(bytes.len() - 61);
    assert_eq!(
        (session.take_largest_body(), session.rest_of_frame()),
        (0, 0)
    );
    session.feed(&bytes).unwrap();
    assert_eq!(session.rest_of_frame(), 61);
    for _ in 0..3 {
        assert_eq!(session.take_largest_body(), 150);
    }
    let mut rest = rest;
    write_body(&mut rest, 1, &[0; 50]);
    session.feed(&rest).unwrap();
    assert_eq!(session.rest_of_frame(), 0);
    assert_eq!(
        (session.take_largest_body(), session.take_largest_body()),
        (150, 0)
    );
}

#[test]
fn a_call_that_is_forgotten_leaves_the_others_theirs() {
    let mut channel = channel();
    let call = |id| Call {
        id,
        expects: (50, 31),
        consumer_tag: None,
    };
    channel.calls.waiting.extend([call(1), call(2)]);
    channel.calls.replies = vec![(3, Reply::Count(3)), (4, Reply::Count(4))];
    channel.calls.forget(1);
    channel.calls.forget(3);
    let waiting: Vec<u64> = channel.calls.waiting.iter().map(|call| call.id).collect();
    assert_eq!(waiting, [FORGOTTEN, 2]);
    assert!(channel.calls.take_reply(3).is_none());
    assert!(matches!(channel.calls.take_reply(4), Some(Reply::Count(4))));
    assert!(channel.calls.take_reply(4).is_none());
}
