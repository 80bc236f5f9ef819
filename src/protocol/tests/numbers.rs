//! The numbers and slots of channels: which are free, and when.

use std::sync::Arc;

use super::channel::{channel, end};
use super::message::{close, deliver, method};
use crate::protocol::channel::Phase;
use crate::protocol::connection::Session;
use crate::protocol::method::Method;
use crate::Error;

fn session(channel_max: u16) -> Session {
    Session::new(131_072, channel_max, "broker:5672".into())
}

fn close_ok(channel: u16) -> Vec<u8> {
    method(channel, &Method::ChannelCloseOk {})
}

fn refused(session: &mut Session, number: u16) -> &'static str {
    match session.add_channel(Some(number), channel()) {
        Err(Error::InvalidChannelNumber {
            number: refused,
            problem,
            ..
        }) => {
            assert_eq!(refused, number);
            problem
        }
        other => panic!("{number}: {other:?}"),
    }
}

fn added(session: &mut Session, number: Option<u16>) -> (usize, u16) {
    session.add_channel(number, channel()).unwrap()
}

#[test]
fn the_lowest_free_number_is_given() {
    let mut session = session(5);
    assert_eq!(added(&mut session, None), (1, 1));
    assert_eq!(added(&mut session, Some(3)), (2, 3));
    assert_eq!(added(&mut session, None), (3, 2));
    assert_eq!(added(&mut session, None), (4, 4));
    assert_eq!(session.channel(2).unwrap().number, 3);
    assert_eq!(added(&mut session, Some(5)), (5, 5));
    let none = session.add_channel(None, channel());
    assert!(matches!(
        none,
        Err(Error::NoFreeChannels { channel_max: 5, .. })
    ));
    // Neither one that was never given nor the connection's own.
    assert_eq!(refused(&mut session, 0), "out of range");
    assert_eq!(refused(&mut session, 6), "out of range");
    assert_eq!(refused(&mut session, 3), "in use");
    // A number is free when its channel is closed, and its slot when the handle is gone too.
    session.feed(&close(3)).unwrap();
    assert_eq!(added(&mut session, Some(3)), (6, 3));
    session.abandon(2);
    assert!(session.channel(2).is_none());
    session.feed(&close(4)).unwrap();
    assert_eq!(added(&mut session, None), (2, 4));
}

#[test]
fn no_limit_is_the_largest_number() {
    let mut session = session(0);
    assert_eq!(added(&mut session, Some(u16::MAX)).1, u16::MAX);
    assert_eq!(added(&mut session, None).1, 1);
}

/// Rather than none at all, the number of a channel that both ends closed at once is given again.
#[test]
fn a_number_whose_close_ok_may_be_lost_is_given_when_no_other_is_free() {
    let mut session = session(2);
    let (first, second) = (added(&mut session, None).0, added(&mut session, None).0);
    session.close_channel(first, 200, "", end()).unwrap();
    session.close_channel(second, 200, "", end()).unwrap();
    session.abandon(second);
    // Only this end has closed them.
    assert!(session.add_channel(None, channel()).is_err());
    session.feed(&[close(1), close(2)].concat()).unwrap();
    // The handle of the first is there and waits for it.
    assert_eq!(added(&mut session, None), (second, 2));
    assert!(session.add_channel(None, channel()).is_err());
    assert_eq!(session.channel(first).unwrap().phase(), Phase::Closing);
    session.give_up_close_ok(first);
    assert_eq!(session.channel(first).unwrap().phase(), Phase::Closed);
    assert_eq!(added(&mut session, None).1, 1);
    // What has given up its number does not take it from the next channel.
    session.give_up_close_ok(first);
    assert_eq!(refused(&mut session, 1), "in use");

    let mut session = super::channel::session(channel()).0;
    session.close_channel(1, 200, "", end()).unwrap();
    session.feed(&close(1)).unwrap();
    session.abandon(1);
    assert_eq!(added(&mut session, None), (1, 1));
}

#[test]
fn a_close_ok_is_given_up_only_where_both_ends_closed() {
    let mut session = session(3);
    let slots = [(); 3].map(|()| added(&mut session, None).0);
    session.close_channel(slots[1], 200, "", end()).unwrap();
    session.feed(&close(3)).unwrap();
    session.changed.clear();
    for slot in slots {
        session.give_up_close_ok(slot);
    }
    let phases = slots.map(|slot| session.channel(slot).unwrap().phase());
    assert_eq!(phases, [Phase::Open, Phase::Closing, Phase::Closed]);
    assert!(session.changed.is_empty());
}

#[test]
fn channels_are_listed_by_their_phases() {
    let mut session = session(5);
    let slots = [(); 4].map(|()| added(&mut session, None).0);
    session
        .channel(slots[3])
        .unwrap()
        .gate
        .set_phase(Phase::Opening);
    assert_eq!(
        session.open_channels(),
        [(slots[0], 1), (slots[1], 2), (slots[2], 3)]
    );
    assert!(session.closing_channels().is_empty());
    for slot in &slots[..2] {
        session.close_channel(*slot, 200, "", end()).unwrap();
    }
    session.feed(&close(2)).unwrap();
    assert_eq!(session.open_channels(), [(slots[2], 3)]);
    // The close-ok of the other may be lost, and is not waited for.
    let closing = session.closing_channels();
    assert_eq!(closing.len(), 1);
    let gate = &session.channel(slots[0]).unwrap().gate;
    assert!(Arc::ptr_eq(&closing[0], gate));
    session.feed(&close_ok(1)).unwrap();
    assert!(session.closing_channels().is_empty());
}

/// So that those that wait are woken, each once.
#[test]
fn what_changes_is_listed_for_those_that_wait() {
    let mut session = session(2);
    let (first, second) = (added(&mut session, None).0, added(&mut session, None).0);
    assert!(session.changed.is_empty());
    let flow = |number| method(number, &Method::ChannelFlowOk { active: true });
    for slot in [first, first, second] {
        session.add_call(slot, (20, 21), None);
    }
    session.feed(&[flow(1), flow(1), flow(2)].concat()).unwrap();
    assert_eq!(session.changed, [first, second]);
    session.changed.clear();
    session.close_channel(first, 200, "", end()).unwrap();
    assert_eq!(session.changed, [first]);
    session.changed.clear();
    session.feed(&close_ok(1)).unwrap();
    assert_eq!(session.changed, [first]);
    assert!(!session.connection_changed);
    // A handle that is gone waits for nothing, but the end of the process may.
    session.close_channel(second, 200, "", end()).unwrap();
    session.abandon(second);
    session.feed(&close_ok(2)).unwrap();
    assert!(session.connection_changed && !session.changed.contains(&second));

    // What changes of others stays listed.
    let mut session = super::numbers::session(2);
    let (first, second) = (added(&mut session, None).0, added(&mut session, None).0);
    session.feed(&[close(1), close(2)].concat()).unwrap();
    session.abandon(first);
    assert_eq!(session.changed, [second]);
}

#[test]
fn a_channel_is_closed_once() {
    let mut session = session(1);
    let slot = added(&mut session, None).0;
    session.feed(&deliver(1, "a", 1, b"waits")).unwrap();
    assert!(session.undelivered > 0);
    session.close_channel(slot, 200, "done", end()).unwrap();
    // What waited for the program is dropped.
    assert_eq!((session.undelivered, session.is_idle(slot)), (0, true));
    let sent = Method::ChannelClose {
        reply_code: 200,
        reply_text: "done".into(),
        class_id: 0,
        method_id: 0,
    };
    assert_eq!(session.to_send, method(1, &sent));
    session.close_channel(slot, 500, "again", end()).unwrap();
    session.close_channel(9, 500, "nobody", end()).unwrap();
    assert_eq!(session.to_send, method(1, &sent));
}
