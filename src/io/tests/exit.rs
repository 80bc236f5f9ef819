//! What the end of a thread or of the process asks of the broker, and for how long it waits for the reply.

use std::time::Instant;

use super::super::exit::{AtExit, Ending, PendingReplies};
use super::super::link::{Interest, Link, Opened, Shared};
use super::super::writer::Work;
use super::*;
use crate::protocol::calls::FORGOTTEN;
use crate::protocol::channel::{ChannelState, Gate, Phase};
use crate::protocol::connection::HELD_BOUND;
use crate::protocol::frame;
use crate::protocol::handshake::Negotiated;
use crate::protocol::method::Method;
use crate::FieldTable;

/// A connection to a broker of this name, with a channel on which something was sent that is not known to be handled.
fn link(script: &Script, product: &str) -> Arc<Link> {
    let mut server_properties = FieldTable::new();
    server_properties.insert("product", product);
    let opened = Opened {
        stream: script.transport(),
        leftover: Vec::new(),
        negotiated: Negotiated {
            channel_max: 10,
            frame_max: 16 * 1024,
            heartbeat: 0,
            server_properties,
        },
        address: "broker:5672".into(),
        max_message_size: 1 << 20,
        rpc_timeout: LONG,
        blocked_timeout: None,
    };
    let link = Arc::new(Link::new(opened).unwrap());
    let channel = ChannelState::new(Gate::new(Phase::Open));
    assert!(link.lock().session.add_channel(Some(1), channel).is_ok());
    assert!(!link.may_have_unhandled());
    let sent = link.gather(1, LONG.into(), |out| {
        out.bytes.extend_from_slice(b"sent");
        Ok(())
    });
    sent.unwrap();
    link.write_gathered();
    assert!(link.may_have_unhandled());
    script.lock().written.clear();
    link
}

fn method(channel: u16, method: &Method<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::write_method(&mut bytes, channel, method).unwrap();
    bytes
}

fn reply(script: &Script) {
    let reply = method(1, &Method::ChannelFlowOk { active: true });
    script.lock().reads.push_back(Ok(reply));
}

/// What the end asks, once it is written.
fn asks() -> Vec<u8> {
    method(1, &Method::ChannelFlow { active: true })
}

#[test]
fn the_reply_means_that_all_was_handled() {
    for ending in [Ending::Process, Ending::Thread] {
        let script = Script::default();
        let link = link(&script, "RabbitMQ");
        // What was handled is no reason not to ask again.
        for n in 0..2 {
            let wait = Arc::clone(&link).ask_for_unhandled(ending);
            reply(&script);
            wait(Instant::now() + LONG);
            assert_eq!(script.written(), asks(), "{n}");
            assert!(!link.may_have_unhandled(), "{ending:?}");
            script.lock().written.clear();
            if n == 0 {
                let sent = link.gather(1, LONG.into(), |out| {
                    out.bytes.push(b'x');
                    Ok(())
                });
                sent.unwrap();
                link.write_gathered();
                script.lock().written.clear();
            }
        }
        // There is nothing to ask for any more.
        let wait = Arc::clone(&link).ask_for_unhandled(ending);
        wait(Instant::now() + LONG);
        assert!(script.written().is_empty());
    }
}

#[test]
fn a_reply_that_does_not_come_is_waited_for_until_the_deadline_and_by_threads_once() {
    let script = Script::default();
    let link = link(&script, "RabbitMQ");
    let late = Duration::from_millis(300);
    let began = Instant::now();
    let wait = Arc::clone(&link).ask_for_unhandled(Ending::Thread);
    wait(began + late);
    assert!(began.elapsed() >= late);
    assert_eq!(script.written(), asks());
    assert!(link.may_have_unhandled());
    // Nothing has come since, so the next thread that ends does not ask.
    script.lock().written.clear();
    let wait = Arc::clone(&link).ask_for_unhandled(Ending::Thread);
    wait(Instant::now() + LONG);
    assert!(script.written().is_empty());
    // The process does. The late reply to what was asked first is not its own.
    let began = Instant::now();
    let wait = Arc::clone(&link).ask_for_unhandled(Ending::Process);
    reply(&script);
    wait(began + late);
    assert!(began.elapsed() >= late && link.may_have_unhandled());
    assert_eq!(script.written(), asks());
    // No call keeps it, and none waits any more.
    let mut shared = link.lock();
    let slot = shared.session.open_channels()[0].0;
    let calls = &shared.session.channel(slot).unwrap().calls;
    assert!(calls.replies.is_empty());
    assert!(calls.waiting.iter().all(|call| call.id == FORGOTTEN));
}

#[test]
fn a_thread_does_not_ask_where_the_reply_cannot_come_soon() {
    type Spoil = fn(&Link);
    let cases: [(&str, Spoil); 3] = [
        ("OtherMQ", |_| {}),
        ("RabbitMQ", |link| {
            link.lock().session.blocked = Some("alarm".into())
        }),
        ("RabbitMQ", |link| {
            link.lock().session.undelivered = HELD_BOUND + 1
        }),
    ];
    for (product, spoil) in cases {
        let script = Script::default();
        let link = link(&script, product);
        spoil(&link);
        let (began, written) = (Instant::now(), link.outgoing.last_write());
        let wait = Arc::clone(&link).ask_for_unhandled(Ending::Thread);
        wait(began + LONG);
        assert!(began.elapsed() < LONG, "it does not wait");
        assert!(script.written().is_empty() && link.may_have_unhandled());
        // The broker is left a moment for what was written last.
        assert!(written.elapsed() >= Duration::from_millis(5));
        // The end of the process asks.
        let wait = Arc::clone(&link).ask_for_unhandled(Ending::Process);
        reply(&script);
        wait(Instant::now() + LONG);
        assert_eq!(script.written(), asks());
        assert!(!link.may_have_unhandled());
    }
}

#[test]
fn where_nothing_is_asked_all_is_written_at_least() {
    let script = Script::default();
    let link = link(&script, "OtherMQ");
    script.lock().is_stuck = true;
    let sent = link.gather(1, LONG.into(), |out| {
        out.bytes.push(b'x');
        Ok(())
    });
    sent.unwrap();
    let (began, late) = (Instant::now(), Duration::from_millis(300));
    let wait = Arc::clone(&link).ask_for_unhandled(Ending::Thread);
    wait(began + late);
    assert!(began.elapsed() >= late);
}

#[test]
fn as_much_as_may_be_held_is_no_reason_not_to_ask() {
    let script = Script::default();
    let link = link(&script, "RabbitMQ");
    link.lock().session.undelivered = HELD_BOUND;
    let wait = Arc::clone(&link).ask_for_unhandled(Ending::Thread);
    reply(&script);
    wait(Instant::now() + LONG);
    assert!(!link.may_have_unhandled());
}

#[test]
fn a_channel_that_is_being_closed_is_waited_for() {
    let script = Script::default();
    let link = link(&script, "RabbitMQ");
    let closing = ChannelState::new(Gate::new(Phase::Closing));
    assert!(link.lock().session.add_channel(Some(2), closing).is_ok());
    let late = Duration::from_millis(300);
    let began = Instant::now();
    let wait = Arc::clone(&link).ask_for_unhandled(Ending::Process);
    reply(&script);
    wait(began + late);
    assert!(began.elapsed() >= late && link.may_have_unhandled());
    // Channel 1 is done; close-ok says that the other is, too.
    let closed = method(2, &Method::ChannelCloseOk {});
    script.lock().reads.push_back(Ok(closed));
    let wait = Arc::clone(&link).ask_for_unhandled(Ending::Process);
    wait(Instant::now() + LONG);
    assert!(!link.may_have_unhandled());
}

#[test]
fn a_channel_that_has_ended_is_not_waited_for() {
    let script = Script::default();
    let link = link(&script, "RabbitMQ");
    let wait = Arc::clone(&link).ask_for_unhandled(Ending::Process);
    let close = Method::ChannelClose {
        reply_code: 404,
        reply_text: "NOT_FOUND".into(),
        class_id: 60,
        method_id: 40,
    };
    script.lock().reads.push_back(Ok(method(1, &close)));
    let began = Instant::now();
    wait(began + LONG);
    assert!(began.elapsed() < LONG);
}

#[test]
fn a_channel_is_not_asked_while_a_commit_waits_for_its_reply() {
    for ending in [Ending::Process, Ending::Thread] {
        let script = Script::default();
        let link = link(&script, "RabbitMQ");
        let slot = link.lock().session.open_channels()[0].0;
        let mut shared = link.lock();
        let gate = Arc::clone(&shared.session.channel(slot).unwrap().gate);
        gate.call_appended(&Method::TxCommit);
        let _ = shared
            .session
            .add_call(slot, Method::TxCommit.reply_id(), None);
        drop(shared);
        let wait = Arc::clone(&link).ask_for_unhandled(ending);
        wait(Instant::now() + LONG);
        assert!(script.written().is_empty() && link.may_have_unhandled());
        // The reply to the commit.
        let reply = method(1, &Method::TxCommitOk);
        script.lock().reads.push_back(Ok(reply));
        let is_done = |_: &mut Shared| gate.may_send().then_some(());
        assert_eq!(link.wait(Interest::channel(slot), None, is_done), Some(()));
        let wait = Arc::clone(&link).ask_for_unhandled(ending);
        self::reply(&script);
        wait(Instant::now() + LONG);
        assert_eq!(script.written(), asks());
    }
}

#[test]
fn what_is_asked_is_written_without_waiting_for_more() {
    let is_so = || {
        let script = Script::default();
        let link = link(&script, "RabbitMQ");
        let _wait = Arc::clone(&link).ask_for_unhandled(Ending::Process);
        let next = link.outgoing.wait_for_work(None, Some(Instant::now()));
        matches!(next, Work::Write)
    };
    assert!((0..50).all(|_| is_so()));
}

/// A connection that only the end of one thread concerns: other tests have threads that end.
struct OnlyFor(Arc<Link>, Mutex<Option<std::thread::ThreadId>>);

impl AtExit for OnlyFor {
    fn process(&self) -> u32 {
        self.0.process()
    }

    fn may_have_unhandled(&self) -> bool {
        let thread = std::thread::current().id();
        *self.1.lock().unwrap() == Some(thread) && self.0.may_have_unhandled()
    }

    fn ask_for_unhandled(self: Arc<Self>, ending: Ending) -> PendingReplies {
        Arc::clone(&self.0).ask_for_unhandled(ending)
    }
}

#[test]
fn a_thread_that_only_calls_has_what_others_sent_handled_as_well() {
    let script = Script::default();
    let link = link(&script, "RabbitMQ");
    let only = Arc::new(OnlyFor(Arc::clone(&link), Mutex::default()));
    let at_exit: Arc<dyn AtExit> = Arc::clone(&only) as _;
    crate::io::exit::register(Arc::downgrade(&at_exit));
    reply(&script);
    let call = move || {
        *only.1.lock().unwrap() = Some(std::thread::current().id());
        only.0.append_call(|out| {
            out.bytes.extend_from_slice(b"call");
            Ok(())
        })
    };
    std::thread::spawn(call).join().unwrap().unwrap();
    assert_eq!(script.written(), [b"call".as_slice(), &asks()].concat());
}
