//! What may be sent on a channel while a transaction is being committed, and by whom first.

use std::sync::atomic::Ordering;
use std::sync::Arc;

use super::channel::{channel, end, session};
use super::message::{cancel, close, deliver, method};
use crate::protocol::channel::{ChannelState, Gate, Phase};
use crate::protocol::connection::Session;
use crate::protocol::method::Method;
use crate::protocol::publish::{Outbox, OutgoingMessage, Publishing};
use crate::protocol::received::Incoming;
use crate::protocol::send_queue::Order;
use crate::BasicPublish;

/// A session whose channel 1 waits for `tx.commit-ok`.
fn committing() -> (Session, usize, Arc<Gate>) {
    let (mut session, slot) = session(channel());
    let gate = Arc::clone(&session.channel(slot).unwrap().gate);
    gate.call_appended(&Method::TxCommit);
    session.add_call(slot, Method::TxCommit.reply_id(), None);
    (session, slot, gate)
}

fn commit_ok() -> Vec<u8> {
    method(1, &Method::TxCommitOk)
}

/// Publishes; returns how many bytes were appended.
fn publish(gate: &Arc<Gate>) -> usize {
    let message = OutgoingMessage {
        exchange: b"x",
        routing_key: b"k",
        body: b"body",
        publish: &BasicPublish::new(),
    };
    let mut outbox = Outbox::default();
    let number = Publishing::new(gate, 1, 1, 4096, message).write(&mut outbox);
    assert_eq!(number.unwrap().is_some(), !outbox.bytes.is_empty());
    outbox.bytes.len()
}

#[test]
fn nothing_may_be_sent_between_a_commit_and_its_reply() {
    let (mut session, slot, gate) = committing();
    assert_eq!(gate.phase(), Phase::Committing);
    assert!(!gate.may_send() && !gate.is_over() && session.open_channels().is_empty());
    assert_eq!(publish(&gate), 0);
    session.feed(&commit_ok()).unwrap();
    assert_eq!(gate.phase(), Phase::Open);
    assert_eq!(session.open_channels(), [(slot, 1)]);
    assert!(gate.may_send() && publish(&gate) > 0);
}

#[test]
fn other_calls_close_no_gate() {
    let gate = Gate::new(Phase::Open);
    for method in [
        Method::TxSelect,
        Method::TxRollback,
        Method::ConfirmSelect { no_wait: false },
        Method::ChannelFlow { active: true },
    ] {
        gate.call_appended(&method);
        assert!(gate.may_send(), "{method:?}");
    }
}

/// In a transaction no acknowledgement speaks for another.
#[test]
fn a_transaction_changes_what_is_acknowledged() {
    let gate = Gate::new(Phase::Open);
    gate.call_appended(&Method::ConfirmSelect { no_wait: false });
    assert_eq!(gate.acks.acknowledged_to(), Some(0));
    gate.call_appended(&Method::TxSelect);
    assert_eq!(gate.acks.acknowledged_to(), None);
}

/// The broker numbers what comes after the call, whether its reply has come or not.
#[test]
fn what_is_published_behind_confirm_select_is_numbered() {
    let gate = Gate::new(Phase::Open);
    assert!(publish(&gate) > 0);
    assert_eq!(gate.published.load(Ordering::Acquire), 0);
    gate.call_appended(&Method::ConfirmSelect { no_wait: false });
    assert!(publish(&gate) > 0 && publish(&gate) > 0);
    assert_eq!(
        (gate.published.load(Ordering::Acquire), gate.unconfirmed()),
        (2, 2)
    );
}

#[test]
fn what_the_broker_sends_counts_during_a_commit() {
    let (mut session, slot, gate) = committing();
    session.feed(&deliver(1, "a", 1, b"body")).unwrap();
    let channel = session.channel(slot).unwrap();
    assert!(matches!(channel.inbox[0], Incoming::Message(_)));
    assert_eq!(gate.phase(), Phase::Committing);
    // A commit that fails.
    session.feed(&close(1)).unwrap();
    assert_eq!(gate.phase(), Phase::Closed);
}

#[test]
fn a_reply_to_a_commit_opens_no_channel_that_is_closed_meanwhile() {
    let (mut session, slot, gate) = committing();
    session.close_channel(slot, 0, "", end()).unwrap();
    session.feed(&commit_ok()).unwrap();
    assert_eq!(gate.phase(), Phase::Closing);
    // One that no commit waits for is a violation.
    let (mut session, _) = super::channel::session(channel());
    let error = session.feed(&commit_ok()).unwrap_err();
    assert!(error.to_string().contains("did not ask"), "{error}");
}

/// Asks for something to be sent, for a thread with this entry. Returns whether it may be.
fn ask(channel: &mut ChannelState, is_commit: bool, entry: &mut Option<u64>) -> bool {
    let order = if is_commit {
        Order::InTurn
    } else {
        Order::AtOnce
    };
    let may_send = channel.may_send(order, entry);
    assert!(may_send || entry.is_some());
    may_send
}

#[test]
fn a_commit_waits_for_those_that_came_before_it() {
    let mut channel = ChannelState::new(Gate::new(Phase::Open));
    let [mut first, mut second, mut third, mut other] = [None; 4];
    // Where nothing waits, nothing has to.
    assert!(ask(&mut channel, true, &mut other) && ask(&mut channel, false, &mut other));
    assert_eq!(other, None);
    channel.gate.set_phase(Phase::Committing);
    for (is_commit, entry) in [(false, &mut first), (true, &mut second), (true, &mut third)] {
        assert!(!ask(&mut channel, is_commit, entry));
        // It keeps the entry that it has.
        let before = *entry;
        assert!(!ask(&mut channel, is_commit, entry) && *entry == before);
    }
    channel.gate.set_phase(Phase::Open);
    // A commit that comes only now waits behind the others; what is no commit need not.
    assert!(ask(&mut channel, false, &mut other) && other.is_none());
    assert!(!ask(&mut channel, true, &mut other));
    assert!(!ask(&mut channel, true, &mut second) && !ask(&mut channel, true, &mut third));
    assert!(ask(&mut channel, false, &mut first));
    channel.send_queue.leave(first.unwrap());
    assert!(!ask(&mut channel, true, &mut third) && ask(&mut channel, true, &mut second));
    // One that has given up holds up no other.
    channel.send_queue.leave(third.unwrap());
    channel.send_queue.leave(second.unwrap());
    assert!(ask(&mut channel, true, &mut other));
    channel.send_queue.leave(other.unwrap());
    assert!(ask(&mut channel, true, &mut None));
}

/// What the protocol itself replies on the channel waits as well, but not without a bound.
#[test]
fn replies_wait_for_the_end_of_a_commit() {
    let (mut session, ..) = committing();
    session.feed(&cancel(1, "a")).unwrap();
    let consumer_tag = "b".into();
    let no_wait = false;
    let wanted = Method::BasicCancel {
        consumer_tag,
        no_wait,
    };
    session.feed(&method(1, &wanted)).unwrap();
    let flow = method(1, &Method::ChannelFlow { active: true });
    session.feed(&flow).unwrap();
    assert!(session.to_send.is_empty());
    session.feed(&commit_ok()).unwrap();
    let consumer_tag = "a".into();
    let mut expected = method(
        1,
        &Method::BasicCancel {
            consumer_tag,
            no_wait: true,
        },
    );
    let consumer_tag = "b".into();
    expected.extend(method(1, &Method::BasicCancelOk { consumer_tag }));
    expected.extend(method(1, &Method::ChannelFlowOk { active: true }));
    assert_eq!(session.to_send, expected);

    let (mut session, slot, _) = committing();
    let refused = (0..1 << 20).find_map(|_| session.feed(&flow).err());
    let refused = refused.map(|error| error.to_string()).unwrap_or_default();
    assert!(refused.contains("during a commit"), "{refused}");
    // They are not sent on a channel that has ended.
    let (mut other, ..) = committing();
    other.feed(&flow).unwrap();
    other.close_channel(slot, 0, "", end()).unwrap();
    other.to_send.clear();
    other.feed(&commit_ok()).unwrap();
    assert!(other.to_send.is_empty());
}
