//! Publishing at least once: what was taken is confirmed, reported or handed back.

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use haypile::{
    BasicGet, BasicProperties, BasicPublish, Channel, ConnectionParameters, Error, FieldTable,
    QueueDeclare, ReliablePublisher, Result, Retry, Supervisor, SupervisorEvent,
};
use support::peer::{m, Args, Peer, Session};
use support::proxy::Proxy;
use support::{
    assert_matches, assert_message_count, bounded, channel, let_others_wait, unique, url,
    wait_until, Fixture, Log, RefusedPort, SOON,
};

const LIMIT: Duration = Duration::from_secs(20);

fn quick() -> Retry {
    Retry::new()
        .first(Duration::from_millis(20))
        .most(Duration::from_millis(200))
}

fn supervisor(url: impl haypile::IntoParameters) -> Supervisor {
    Supervisor::new(url).retry(quick())
}

fn nothing(_: &Channel) -> Result<()> {
    Ok(())
}

fn durable(queue: &str) -> QueueDeclare {
    QueueDeclare::new(queue).durable(true)
}

/// All bodies of a queue with how often each came, and the message ids by body.
fn drain(queue: &str) -> (BTreeMap<String, usize>, BTreeMap<String, String>) {
    let channel = channel();
    let (mut bodies, mut ids) = (BTreeMap::new(), BTreeMap::new());
    while let Some((_, properties, body)) = channel
        .basic_get(BasicGet::new(queue).auto_ack(true))
        .unwrap()
    {
        let body = String::from_utf8(body).unwrap();
        *bodies.entry(body.clone()).or_default() += 1;
        let id = properties.message_id.as_deref().unwrap().to_owned();
        let former = ids.insert(body, id.clone());
        assert!(
            former.is_none_or(|former| former == id),
            "a double has its id"
        );
    }
    (bodies, ids)
}

fn report(result: Result<()>) -> haypile::UnconfirmedReport {
    match result {
        Err(Error::Unconfirmed(report)) => *report,
        other => panic!("{other:?}"),
    }
}

#[test]
fn messages_are_numbered_named_and_confirmed() {
    bounded(|| {
        let mut fixture = Fixture::new();
        let queue = fixture.queue("plain");
        let name = queue.clone();
        let mut publisher = supervisor(url())
            .publisher(10, move |channel| {
                channel.queue_declare(durable(&name)).map(drop)
            })
            .unwrap();
        for n in 1..=100u64 {
            assert_eq!(publisher.publish("", &queue, n.to_string()).unwrap(), n);
            assert!(publisher.unconfirmed() <= 10);
        }
        let own = BasicProperties::new().message_id("mine");
        publisher.publish_with("", &queue, "own", &own).unwrap();
        publisher.wait_for_confirms(LIMIT).unwrap();
        assert_eq!((publisher.unconfirmed(), publisher.republished()), (0, 0));
        publisher.wait_for_confirms(LIMIT).unwrap();
        let (bodies, ids) = drain(&queue);
        assert_eq!(bodies.len(), 101);
        assert!(bodies.values().all(|count| *count == 1));
        assert_eq!(ids["own"], "mine");
        let distinct: std::collections::BTreeSet<_> = ids.values().collect();
        assert_eq!(distinct.len(), 101);
    });
}

#[test]
fn a_loss_is_mended_without_a_further_call() {
    bounded(|| {
        let mut fixture = Fixture::new();
        let queue = fixture.queue("mended");
        let proxy = Proxy::start();
        let set_ups = Arc::new(AtomicUsize::new(0));
        let (name, counted) = (queue.clone(), Arc::clone(&set_ups));
        let mut publisher = supervisor(proxy.url())
            .publisher(1000, move |channel| {
                counted.fetch_add(1, Ordering::SeqCst);
                channel.queue_declare(durable(&name)).map(drop)
            })
            .unwrap();
        let admin = channel();
        // Its own thread connects, and has done so when a message has been confirmed.
        publisher.publish("", &queue, "first").unwrap();
        publisher.wait_for_confirms(LIMIT).unwrap();
        admin.queue_purge(&queue).unwrap();
        // The broker gets them, and its confirms get lost.
        proxy.hold_broker();
        for n in 0..50 {
            publisher.publish("", &queue, format!("{n:02}")).unwrap();
        }
        assert_message_count(&admin, &queue, 50);
        assert_eq!(publisher.unconfirmed(), 50);
        proxy.cut();
        proxy.resume();
        assert_message_count(&admin, &queue, 100);
        publisher.wait_for_confirms(LIMIT).unwrap();
        assert_eq!(set_ups.load(Ordering::SeqCst), 2);
        assert_eq!(publisher.republished(), 50);
        // In order, both times.
        let mut bodies = Vec::new();
        while let Some((_, _, body)) = admin
            .basic_get(BasicGet::new(&queue).auto_ack(true))
            .unwrap()
        {
            bodies.push(String::from_utf8(body).unwrap());
        }
        let once: Vec<String> = (0..50).map(|n| format!("{n:02}")).collect();
        assert_eq!(bodies, [once.clone(), once].concat());
    });
}

#[test]
fn nothing_is_lost_over_many_losses() {
    bounded(|| {
        let mut fixture = Fixture::new();
        let queue = fixture.queue("many");
        let proxy = Arc::new(Proxy::start());
        let name = queue.clone();
        let mut publisher = supervisor(proxy.url())
            .publisher(100, move |channel| {
                channel.queue_declare(durable(&name)).map(drop)
            })
            .unwrap();
        let cutter = {
            let proxy = Arc::clone(&proxy);
            thread::spawn(move || {
                for n in 0..10 {
                    // Time passes, so that each loss meets another state of the publisher.
                    thread::sleep(Duration::from_millis(60));
                    if n % 2 == 0 {
                        proxy.cut()
                    } else {
                        proxy.reset()
                    }
                }
            })
        };
        let mut count = 0;
        while !cutter.is_finished() || count < 1000 {
            publisher.publish("", &queue, count.to_string()).unwrap();
            count += 1;
        }
        cutter.join().unwrap();
        publisher.wait_for_confirms(LIMIT).unwrap();
        let (bodies, _) = drain(&queue);
        assert_eq!(bodies.len(), count, "none is missing");
        let doubles = bodies.values().sum::<usize>() - bodies.len();
        assert!(doubles as u64 <= publisher.republished());
        assert!(
            publisher.republished() <= 10 * 100,
            "no more than was in flight"
        );
    });
}

#[test]
fn publishing_waits_while_there_is_no_connection() {
    bounded(|| {
        let mut fixture = Fixture::new();
        let queue = fixture.queue("down");
        channel().queue_declare(durable(&queue)).unwrap();
        let refused = RefusedPort::new();
        let mut publisher = supervisor(format!("amqp://{}", refused.address()))
            .publisher(10, nothing)
            .expect("what may pass is no error of the first attempt")
            .timeout(Duration::from_millis(100));
        let late = publisher.publish("", &queue, "late").unwrap_err();
        assert_matches!(late, Error::Timeout { .. });
        assert!(late.to_string().contains("not taken"), "{late}");
        assert_eq!(publisher.unconfirmed(), 0);
        publisher.wait_for_confirms(LIMIT).unwrap();

        // It does not matter how the broker comes back.
        let proxy = Proxy::start();
        let mut publisher = supervisor(proxy.url()).publisher(10, nothing).unwrap();
        publisher.publish("", &queue, "1").unwrap();
        proxy.cut();
        publisher.publish("", &queue, "2").unwrap();
        publisher.wait_for_confirms(LIMIT).unwrap();
        assert_eq!(drain(&queue).0.len(), 2);
    });
}

#[test]
fn a_returned_message_is_reported_once_and_not_sent_again() {
    bounded(|| {
        let proxy = Proxy::start();
        let mut publisher = supervisor(proxy.url()).publisher(10, nothing).unwrap();
        let nowhere = unique("nowhere");
        let mandatory = || BasicPublish::new().mandatory(true);
        publisher
            .publish_with("", &nowhere, "back", mandatory())
            .unwrap();
        let first = report(publisher.wait_for_confirms(LIMIT));
        let (number, message) = &first.returned[0];
        assert_eq!((*number, &message.body[..]), (1, &b"back"[..]));
        assert!(message.properties.message_id.is_some());
        assert!(first.nacked.is_empty() && first.pending.is_empty() && first.cause.is_none());
        publisher.wait_for_confirms(LIMIT).unwrap();
        proxy.cut();
        publisher
            .publish_with("", &nowhere, "again", mandatory())
            .unwrap();
        let second = report(publisher.wait_for_confirms(LIMIT));
        assert_eq!(second.returned.len(), 1);
        assert_eq!(second.returned[0].0, 2);
        assert!(publisher.take_unconfirmed().is_empty());
    });
}

#[test]
fn returned_messages_that_are_not_asked_for_are_bounded() {
    bounded(|| {
        let mut publisher = supervisor(url()).publisher(100, nothing).unwrap();
        let nowhere = unique("nowhere");
        let mut sent = 0;
        let failed = loop {
            match publisher.publish_with("", &nowhere, "", BasicPublish::new().mandatory(true)) {
                Ok(_) => sent += 1,
                Err(error) => break error,
            }
            assert!(sent < 10_000);
        };
        let report = report(Err(failed));
        assert_eq!((report.returned.len(), sent), (100, 100));
        publisher
            .publish_with("", &nowhere, "", BasicPublish::new().mandatory(true))
            .unwrap();
    });
}

#[test]
fn what_is_in_flight_is_bounded_by_bytes() {
    bounded(|| {
        let (_peer, publisher) = scripted(|_, session| session.serve_until_end());
        let mut publisher = publisher.max_bytes(100_000);
        // The first one waits for as long as connecting takes.
        publisher.publish("", "q", vec![0; 10_000]).unwrap();
        let mut publisher = publisher.timeout(Duration::from_millis(100));
        let mut taken = 1;
        while publisher.publish("", "q", vec![0; 10_000]).is_ok() {
            taken += 1;
        }
        assert_eq!((taken, publisher.unconfirmed()), (9, 9));
        assert_eq!(publisher.take_unconfirmed().len(), 9);
        // One that is larger than all is taken alone.
        publisher.publish("", "q", vec![0; 200_000]).unwrap();
        publisher.publish("", "q", "").unwrap_err();
    });
}

/// A publisher before a scripted broker, whose script begins after `confirm.select`.
fn scripted(
    mut script: impl FnMut(usize, &mut Session) + Send + 'static,
) -> (Peer, ReliablePublisher) {
    let peer = Peer::serve(20, move |n, session| {
        session.handshake();
        // The set-up's channel, and the publisher's.
        session.open_channel(1);
        session.expect(1, m::CHANNEL_CLOSE);
        session.send_method(1, m::CHANNEL_CLOSE_OK, Args::new());
        loop {
            let frame = session.frame();
            match frame.method() {
                Some(m::CHANNEL_OPEN) => {
                    session.send_method(frame.channel, m::CHANNEL_OPEN_OK, Args::new().longstr(b""))
                }
                Some(m::CONFIRM_SELECT) => {
                    session.send_method(frame.channel, m::CONFIRM_SELECT_OK, Args::new());
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        script(n, session);
    });
    let publisher = supervisor(peer.url()).publisher(1000, nothing).unwrap();
    (peer, publisher)
}

/// The next message's body and the channel it came on; `None` at the end of the stream.
fn next_message(session: &mut Session) -> Option<(u16, Vec<u8>)> {
    loop {
        let frame = session.frame_or_end()?;
        if frame.kind == 3 {
            return Some((frame.channel, frame.payload));
        }
    }
}

fn send_confirm(session: &mut Session, channel: u16, method: support::peer::Method, tag: u64) {
    let arguments = Args::new().longlong(tag).octet(0);
    session.send_method(channel, method, arguments);
}

#[test]
fn a_nack_is_tried_again_ever_more_slowly() {
    bounded(|| {
        let nacks = Log::new();
        let seen = nacks.clone();
        let (_peer, mut publisher) = scripted(move |_, session| {
            // Refuses everything for a second and a half, then takes it.
            let began = Instant::now();
            let mut tag = 0;
            while let Some((channel, body)) = next_message(session) {
                tag += 1;
                let takes = began.elapsed() > Duration::from_millis(1500);
                let method = if takes { m::BASIC_ACK } else { m::BASIC_NACK };
                if !takes {
                    seen.push(body);
                }
                send_confirm(session, channel, method, tag);
            }
        });
        for n in 0..200 {
            publisher.publish("", "q", n.to_string()).unwrap();
        }
        publisher.wait_for_confirms(LIMIT).unwrap();
        // Each once, and then one at a time with growing pauses: no storm.
        let refused = nacks.len();
        assert!((201..=260).contains(&refused), "{refused} refusals");
        assert_eq!(publisher.republished(), refused as u64);
    });
}

/// RabbitMQ 3.10 does that when a channel was opened while a quorum queue had no leader.
#[test]
fn a_channel_that_refuses_everything_is_replaced() {
    bounded(|| {
        let (_peer, mut publisher) = scripted(|_, session| {
            let (mut tag, mut is_first) = (0, true);
            while let Some(frame) = session.frame_or_end() {
                let channel = frame.channel;
                match frame.method() {
                    Some(m::CHANNEL_CLOSE) => {
                        session.send_method(channel, m::CHANNEL_CLOSE_OK, Args::new());
                        (tag, is_first) = (0, false);
                    }
                    Some(m::CHANNEL_OPEN) => {
                        session.send_method(channel, m::CHANNEL_OPEN_OK, Args::new().longstr(b""))
                    }
                    Some(m::CONFIRM_SELECT) => {
                        session.send_method(channel, m::CONFIRM_SELECT_OK, Args::new())
                    }
                    Some(m::CONNECTION_CLOSE) => {
                        session.send_method(0, m::CONNECTION_CLOSE_OK, Args::new())
                    }
                    _ if frame.kind == 3 => {
                        tag += 1;
                        let method = if is_first {
                            m::BASIC_NACK
                        } else {
                            m::BASIC_ACK
                        };
                        send_confirm(session, channel, method, tag);
                    }
                    _ => {}
                }
            }
        });
        for n in 0..20 {
            publisher.publish("", "q", n.to_string()).unwrap();
        }
        publisher.wait_for_confirms(LIMIT).unwrap();
        assert!(publisher.republished() >= 20);
    });
}

#[test]
fn what_is_refused_for_too_long_is_reported_and_handed_back() {
    bounded(|| {
        let mut fixture = Fixture::new();
        let queue = fixture.queue("full");
        let full = durable(&queue)
            .argument("x-max-length", 1)
            .argument("x-overflow", "reject-publish");
        let mut publisher = Supervisor::new(url())
            .retry(quick().give_up_after(Duration::from_millis(500)))
            .publisher(10, move |channel| {
                channel.queue_declare(full.clone()).map(drop)
            })
            .unwrap();
        for body in ["fits", "too many", "as well"] {
            publisher.publish("", &queue, body).unwrap();
        }
        let began = Instant::now();
        let report = report(publisher.wait_for_confirms(LIMIT));
        assert!(
            began.elapsed() < LIMIT / 2,
            "the wait ends with the last refusal"
        );
        // Queues of some versions take one more than their bound.
        assert!(
            !report.nacked.is_empty() && report.pending.is_empty(),
            "{report}"
        );
        let back = publisher.take_unconfirmed();
        let numbers: Vec<u64> = back.iter().map(|message| message.number).collect();
        assert_eq!(numbers, report.nacked);
        assert_eq!(back.last().unwrap().body, b"as well");
        publisher.wait_for_confirms(LIMIT).unwrap();
    });
}

#[test]
fn a_full_queue_that_is_emptied_gets_all() {
    bounded(|| {
        let mut fixture = Fixture::new();
        let queue = fixture.queue("emptied");
        let full = durable(&queue)
            .argument("x-max-length", 2)
            .argument("x-overflow", "reject-publish");
        let mut publisher = supervisor(url())
            .publisher(50, move |channel| {
                channel.queue_declare(full.clone()).map(drop)
            })
            .unwrap();
        let consumer = channel();
        for n in 0..20 {
            publisher.publish("", &queue, n.to_string()).unwrap();
        }
        let mut seen = std::collections::BTreeSet::new();
        wait_until(LIMIT, || {
            while let Some((_, _, body)) = consumer
                .basic_get(BasicGet::new(&queue).auto_ack(true))
                .unwrap()
            {
                seen.insert(String::from_utf8(body).unwrap());
            }
            seen.len() == 20
        });
        publisher.wait_for_confirms(LIMIT).unwrap();
    });
}

#[test]
fn unconfirmed_messages_are_handed_back_whole() {
    bounded(|| {
        let (_peer, mut publisher) = scripted(|_, session| session.serve_until_end());
        let mut headers = FieldTable::new();
        headers.insert("n", 7);
        let properties = BasicProperties::new().headers(headers).message_id("seven");
        publisher
            .publish_with(
                "amq.topic",
                "a.b",
                "body",
                BasicPublish::new().mandatory(true).properties(&properties),
            )
            .unwrap();
        publisher.publish("", "q", "").unwrap();
        let first = report(publisher.wait_for_confirms(Duration::from_millis(100)));
        assert_eq!(first.pending, [1, 2]);
        let again = report(publisher.wait_for_confirms(Duration::ZERO));
        assert_eq!(again.pending, [1, 2], "they are still in flight");
        let all = publisher.take_unconfirmed();
        let first = &all[0];
        assert_eq!(
            (first.number, &*first.exchange, &*first.routing_key),
            (1, "amq.topic", "a.b")
        );
        assert_eq!((&first.properties, first.mandatory), (&properties, true));
        assert_eq!(first.body, b"body");
        assert_eq!(all[1].number, 2);
        assert!(all[1].properties.message_id.is_some());
        assert_eq!(publisher.unconfirmed(), 0);
        publisher.wait_for_confirms(LIMIT).unwrap();
    });
}

#[test]
fn what_was_confirmed_before_a_loss_is_not_sent_again() {
    bounded(|| {
        let arrived = Log::new();
        let seen = arrived.clone();
        let (_peer, mut publisher) = scripted(move |n, session| {
            for tag in 1.. {
                let Some((channel, body)) = next_message(session) else {
                    return;
                };
                seen.push((n, String::from_utf8(body).unwrap()));
                // The first connection confirms only what is even, out of order, and ends with the fourth.
                if n == 1 || tag % 2 == 0 {
                    send_confirm(session, channel, m::BASIC_ACK, tag);
                }
                if n == 0 && tag == 4 {
                    return;
                }
            }
        });
        for n in 1..=4 {
            publisher.publish("", "q", n.to_string()).unwrap();
        }
        publisher.wait_for_confirms(LIMIT).unwrap();
        let second: Vec<String> = arrived
            .all()
            .into_iter()
            .filter(|(n, _)| *n == 1)
            .map(|(_, body)| body)
            .collect();
        assert_eq!(second, ["1", "3"]);
        assert_eq!(publisher.republished(), 2);
    });
}

#[test]
fn a_missing_exchange_ends_the_publisher_and_hands_all_back() {
    bounded(|| {
        let mut fixture = Fixture::new();
        let queue = fixture.queue("after");
        let name = queue.clone();
        let mut publisher = supervisor(url())
            .publisher(100, move |channel| {
                channel.queue_declare(durable(&name)).map(drop)
            })
            .unwrap();
        publisher.publish("", &queue, "good").unwrap();
        publisher.wait_for_confirms(LIMIT).unwrap();
        publisher.publish(unique("no-exchange"), "", "bad").unwrap();
        publisher.publish("", &queue, "behind").unwrap();
        let report = report(publisher.wait_for_confirms(LIMIT));
        assert_eq!(
            report.cause.as_ref().unwrap().reply_code(),
            Some(404),
            "{report}"
        );
        let refused = publisher.publish("", &queue, "later").unwrap_err();
        assert_eq!(refused.reply_code(), Some(404));
        let bodies: Vec<Vec<u8>> = publisher
            .take_unconfirmed()
            .into_iter()
            .map(|message| message.body)
            .collect();
        assert!(bodies.contains(&b"bad".to_vec()), "{bodies:?}");
        assert!(!bodies.contains(&b"good".to_vec()));
    });
}

#[test]
fn what_the_set_up_cannot_do_comes_out_at_once() {
    bounded(|| {
        let refused = supervisor(url())
            .publisher(1, |channel| channel.queue_declare("amq.not-mine").map(drop));
        assert_eq!(refused.map(drop).unwrap_err().reply_code(), Some(403));
        let own = supervisor(url()).publisher(1, |_| Err(Error::other("not today")));
        assert_eq!(own.map(drop).unwrap_err().to_string(), "not today");
        let panics = supervisor(url()).publisher(1, |_| panic!("oh no"));
        assert!(panics.map(drop).unwrap_err().to_string().contains("oh no"));
        let window = supervisor(url())
            .publisher(0, nothing)
            .map(drop)
            .unwrap_err();
        assert!(matches!(window, Error::InvalidParameter { .. }));
    });
}

#[test]
fn a_set_up_may_do_everything() {
    bounded(|| {
        let mut fixture = Fixture::new();
        let queue = fixture.queue("everything");
        let name = queue.clone();
        let mut publisher = supervisor(url())
            .publisher(10, move |channel| {
                channel.queue_declare(durable(&name))?;
                channel.confirm_delivery()?;
                channel.basic_publish("", &name, "from the set-up")?;
                let (method, _, _) = channel.consume(&name)?.next().unwrap()?;
                channel.basic_ack(method.delivery_tag)?;
                channel.cancel()?;
                channel
                    .connection()
                    .channel()?
                    .publisher(3)?
                    .publish("", &name, "another")?;
                channel.exchange_bind("amq.fanout", "amq.topic", "x")?;
                channel.exchange_unbind("amq.fanout", "amq.topic", "x")
            })
            .unwrap();
        publisher.publish("", &queue, "1").unwrap();
        publisher.wait_for_confirms(LIMIT).unwrap();
        assert_message_count(&channel(), &queue, 2);
    });
}

#[test]
fn arguments_that_cannot_be_sent_are_not_taken() {
    bounded(|| {
        let mut publisher = supervisor(url()).publisher(10, nothing).unwrap();
        let long = "k".repeat(300);
        let error = publisher.publish("", &long, "").unwrap_err();
        assert_matches!(error, Error::ShortStringTooLong { .. });
        let mut headers = FieldTable::new();
        headers.insert("large", "x".repeat(200_000));
        let error = publisher
            .publish_with("", "q", "", BasicProperties::new().headers(headers))
            .unwrap_err();
        assert_matches!(error, Error::InvalidParameter { .. });
        assert_eq!(publisher.unconfirmed(), 0);
        assert_eq!(
            publisher.publish("", unique("q"), "").unwrap(),
            1,
            "a refused message has no number"
        );
        publisher.wait_for_confirms(LIMIT).unwrap();
    });
}

#[test]
fn large_messages_get_through_a_loss() {
    bounded(|| {
        let mut fixture = Fixture::new();
        let queue = fixture.queue("large");
        let proxy = Proxy::start();
        let name = queue.clone();
        let mut publisher = supervisor(proxy.url())
            .publisher(100, move |channel| {
                channel.queue_declare(durable(&name)).map(drop)
            })
            .unwrap();
        for n in 0..20u8 {
            publisher.publish("", &queue, vec![n; 300_000]).unwrap();
            if n % 7 == 6 {
                proxy.reset();
            }
        }
        publisher.wait_for_confirms(LIMIT).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        let consumer = channel();
        while let Some((_, _, body)) = consumer
            .basic_get(BasicGet::new(&queue).auto_ack(true))
            .unwrap()
        {
            assert!(body.len() == 300_000 && body.iter().all(|byte| *byte == body[0]));
            seen.insert(body[0]);
        }
        assert_eq!(seen.len(), 20);
    });
}

#[test]
fn a_waiting_publisher_is_stopped() {
    bounded(|| {
        let (_peer, publisher) = scripted(|_, session| session.serve_until_end());
        let stop = publisher.stop_handle();
        let waiting = thread::spawn(move || {
            let mut publisher = publisher.max_bytes(1000).timeout(LIMIT);
            publisher.publish("", "q", "").unwrap();
            let full = publisher.publish("", "q", [0; 1000]).unwrap_err();
            let report = report(publisher.wait_for_confirms(LIMIT));
            (full, report)
        });
        let_others_wait();
        stop.stop();
        let (full, report) = waiting.join().unwrap();
        assert_matches!(full, Error::Stopped { .. });
        assert!(
            matches!(report.cause, Some(Error::Stopped { .. })),
            "{report}"
        );
        assert_eq!(report.pending, [1]);
    });
}

#[test]
fn a_publisher_without_a_connection_is_stopped() {
    bounded(|| {
        let refused = RefusedPort::new();
        let supervisor = supervisor(format!("amqp://{}", refused.address()));
        let mut publisher = supervisor.publisher(10, nothing).unwrap().timeout(LIMIT);
        let stop = supervisor.stop_handle();
        let waiting = thread::spawn(move || publisher.publish("", "q", ""));
        let_others_wait();
        stop.stop();
        let ended = waiting.join().unwrap();
        assert_matches!(ended, Err(Error::Stopped { .. }));
    });
}

#[test]
fn a_drop_is_bounded() {
    bounded(|| {
        // Down, for good.
        let refused = RefusedPort::new();
        let publisher = supervisor(format!("amqp://{}", refused.address()))
            .publisher(10, nothing)
            .unwrap();
        let began = Instant::now();
        drop(publisher);
        assert!(began.elapsed() < SOON);
        // A broker that confirms nothing is given five seconds, and two for the close.
        let (_peer, mut publisher) = scripted(|_, session| session.serve_until_end());
        publisher.publish("", "q", "").unwrap();
        let began = Instant::now();
        drop(publisher);
        assert!(
            began.elapsed() >= Duration::from_secs(4) && began.elapsed() < SOON,
            "{:?}",
            began.elapsed()
        );
    });
}

#[test]
fn a_drop_waits_for_the_last_confirms() {
    bounded(|| {
        let mut fixture = Fixture::new();
        let queue = fixture.queue("last");
        let name = queue.clone();
        let mut publisher = supervisor(url())
            .publisher(1000, move |channel| {
                channel.queue_declare(durable(&name)).map(drop)
            })
            .unwrap();
        for _ in 0..500 {
            publisher.publish("", &queue, "").unwrap();
        }
        drop(publisher);
        assert_message_count(&channel(), &queue, 500);
    });
}

#[test]
fn a_broker_that_blocks_the_connection_is_reported() {
    bounded(|| {
        let events = Log::new();
        let seen = events.clone();
        let peer = Peer::serve(1, |_, session| {
            session.handshake();
            session.send_method(
                0,
                m::CONNECTION_BLOCKED,
                Args::new().shortstr("low on memory"),
            );
            session.send_method(0, m::CONNECTION_UNBLOCKED, Args::new());
            session.send_method(
                0,
                m::CONNECTION_BLOCKED,
                Args::new().shortstr("low on disk"),
            );
            loop {
                let Some(frame) = session.frame_or_end() else {
                    return;
                };
                match frame.method() {
                    Some(m::CHANNEL_OPEN) => session.send_method(
                        frame.channel,
                        m::CHANNEL_OPEN_OK,
                        Args::new().longstr(b""),
                    ),
                    Some(m::CHANNEL_CLOSE) => {
                        session.send_method(frame.channel, m::CHANNEL_CLOSE_OK, Args::new())
                    }
                    Some(m::CONFIRM_SELECT) => {
                        session.send_method(frame.channel, m::CONFIRM_SELECT_OK, Args::new())
                    }
                    Some(m::CONNECTION_CLOSE) => {
                        session.send_method(0, m::CONNECTION_CLOSE_OK, Args::new())
                    }
                    _ => {}
                }
            }
        });
        let parameters = ConnectionParameters::from_url(peer.url()).unwrap();
        let publisher = Supervisor::new(parameters)
            .on_event(move |event| {
                if let SupervisorEvent::Blocked { reason, .. } = event {
                    seen.push(reason.clone());
                }
            })
            .publisher(10, nothing)
            .unwrap();
        wait_until(SOON, || {
            events.all().last().map(String::as_str) == Some("low on disk")
        });
        drop(publisher);
    });
}
