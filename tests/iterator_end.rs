//! How the `consume` iterator ends, and what is known of a channel's consumers when it has ended.

mod support;

use std::time::{Duration, Instant};

use haypile::{Channel, Connection, Consume, ConsumingEnded, Error, Message};
use support::peer::{m, Args, Peer, Session};
use support::{assert_matches, bounded, channel, exclusive_queue, open, wait_until, Fixture, SOON};

const TICK: Duration = Duration::from_millis(20);

fn channel_and_queue_of(bodies: &[&str]) -> (Channel, String) {
    let channel = channel();
    let queue = exclusive_queue(&channel);
    for body in bodies {
        channel.basic_publish("", &queue, body).unwrap();
    }
    support::assert_message_count(&channel, &queue, bodies.len() as u32);
    (channel, queue)
}

fn body((_, _, body): Message) -> String {
    String::from_utf8(body).unwrap()
}

#[test]
fn idle_ticks_come_between_messages_and_the_loop_goes_on() {
    bounded(|| {
        let (channel, queue) = channel_and_queue_of(&["a"]);
        let messages = channel.consume(&queue).unwrap();
        let mut seen = Vec::new();
        for event in messages.inactivity_timeout(TICK) {
            match event.unwrap() {
                Some(message) => seen.push(body(message)),
                None => {
                    seen.push("idle".into());
                    match seen.iter().filter(|seen| *seen == "idle").count() {
                        1 | 3 => channel.basic_publish("", &queue, "b").unwrap(),
                        _ if seen.iter().filter(|seen| *seen == "b").count() == 2 => {
                            assert_eq!(channel.cancel().unwrap(), 0);
                        }
                        _ => {}
                    }
                }
            }
        }
        seen.retain(|seen| seen != "idle");
        assert_eq!(seen, ["a", "b", "b"]);
    });
}

#[test]
fn an_idle_tick_of_zero_looks_and_runs_callbacks() {
    bounded(|| {
        let (channel, queue) = channel_and_queue_of(&[]);
        let mut events = channel
            .consume(&queue)
            .unwrap()
            .inactivity_timeout(Duration::ZERO);
        assert!(events.next().unwrap().unwrap().is_none());
        channel.basic_publish("", &queue, "a").unwrap();
        let connection = channel.connection();
        let (called, calls) = std::sync::mpsc::channel();
        connection
            .call_later(Duration::ZERO, move || called.send(()).unwrap())
            .unwrap();
        wait_until(SOON, || events.next().unwrap().unwrap().is_some());
        calls.try_recv().unwrap();
        assert_eq!(events.ended(), None);
    });
}

#[test]
fn idle_exit_ends_the_loop_and_not_the_consumer() {
    bounded(|| {
        let (channel, queue) = channel_and_queue_of(&["a"]);
        let mut messages = channel
            .consume(Consume::new(&queue).idle_exit(TICK))
            .unwrap();
        for _ in 0..3 {
            let bodies: Vec<String> = messages
                .by_ref()
                .map(|message| body(message.unwrap()))
                .collect();
            assert_eq!(bodies, ["a"]);
            assert!(!messages.is_cancelled());
            assert_eq!(messages.ended(), None);
            channel.basic_publish("", &queue, "a").unwrap();
        }
        // With ticks, the same wait goes on from tick to tick.
        let mut events = messages.inactivity_timeout(TICK / 10);
        let mut idle = 0;
        let mut bodies = Vec::new();
        for event in events.by_ref() {
            match event.unwrap() {
                Some(message) => bodies.push(body(message)),
                None => idle += 1,
            }
        }
        assert_eq!(bodies, ["a"]);
        assert!(idle > 0);
        assert!(!events.is_cancelled());
    });
}

#[test]
fn a_time_limit_ends_the_loop_although_messages_keep_coming() {
    bounded(|| {
        let (channel, queue) = channel_and_queue_of(&["x"]);
        let limit = Duration::from_millis(100);
        let begin = Instant::now();
        let mut messages = channel
            .consume(Consume::new(&queue).time_limit(limit))
            .unwrap();
        let shown = format!("{messages:?}");
        assert!(
            shown.contains(&format!("time_limit: Some({limit:?})")),
            "{shown}"
        );
        let mut count = 0;
        for message in messages.by_ref() {
            let (method, ..) = message.unwrap();
            channel.basic_publish("", &queue, "x").unwrap();
            channel.basic_ack(method.delivery_tag).unwrap();
            count += 1;
        }
        assert!(begin.elapsed() >= limit && count > 1);
        assert!(messages.next().is_none() && !messages.is_cancelled());
        // The consumer is there still.
        let mut again = channel.consume(&queue).unwrap();
        assert_eq!(body(again.next().unwrap().unwrap()), "x");
    });
}

#[test]
fn ended_returns_who_cancelled() {
    bounded(|| {
        let (channel, queue) = channel_and_queue_of(&["a"]);
        let mut messages = channel.consume(&queue).unwrap();
        messages.next().unwrap().unwrap();
        channel.cancel().unwrap();
        assert!(messages.next().is_none() && messages.is_cancelled());
        assert_eq!(messages.ended(), Some(ConsumingEnded::Cancelled));

        // What had come before the broker's cancellation is yielded first.
        let mut fixture = Fixture::new();
        let queue = fixture.queue("cancelled");
        channel.queue_declare(&queue).unwrap();
        channel.basic_publish("", &queue, "a").unwrap();
        channel.basic_publish("", &queue, "b").unwrap();
        let mut messages = channel.consume(&queue).unwrap();
        messages.next().unwrap().unwrap();
        let tag = channel.consumer_tags().pop().unwrap();
        wait_until(SOON, || channel.get_waiting_message_count() == 1);
        open().channel().unwrap().queue_delete(&queue).unwrap();
        wait_until(SOON, || {
            channel
                .connection()
                .process_data_events(Duration::ZERO)
                .unwrap();
            channel.consumer_tags().is_empty()
        });
        assert_eq!(messages.ended(), None);
        assert_eq!(body(messages.next().unwrap().unwrap()), "b");
        let ended = Some(ConsumingEnded::CancelledByBroker { consumer_tag: tag });
        assert_eq!(messages.ended(), ended);
        assert!(messages.next().is_none() && messages.is_cancelled());
        assert_eq!(messages.ended(), ended);
        // There is room for another iterator.
        let other = exclusive_queue(&channel);
        channel.consume(&other).unwrap();
        assert_eq!(messages.ended(), ended);
    });
}

/// Asked again and again after a closure, an iterator must not seem to be idle.
fn assert_closed(messages: &mut haypile::Messages, by_client: bool) {
    wait_until(SOON, || messages.is_cancelled());
    match messages.next() {
        None => assert!(by_client),
        Some(error) => assert!(!by_client && error.is_err()),
    }
    for _ in 0..3 {
        assert!(messages.next().is_none() && messages.is_cancelled());
        assert_eq!(messages.ended(), Some(ConsumingEnded::Closed));
    }
}

/// A channel with a consumer and an iterator that has one message at hand, and what happens to it then.
fn consumers_after(end: impl FnOnce(&Channel, &mut Session) + Send + 'static, by_client: bool) {
    bounded(move || {
        let (hand_over, handed_over) = std::sync::mpsc::channel::<Channel>();
        let peer = Peer::start(move |session| {
            session.handshake();
            session.open_channel(1);
            session.accept_consumer(1);
            let tag = session.accept_consumer(1);
            session.deliver(1, &tag, 1, b"a");
            let channel = handed_over.recv().unwrap();
            end(&channel, session);
        });
        let connection = Connection::open(peer.url().as_str()).unwrap();
        let channel = connection.channel().unwrap();
        channel.basic_consume("q", |_, _, _, _| {}).unwrap();
        let mut messages = channel.consume("q").unwrap();
        assert_eq!(channel.consumer_tags().len(), 2);
        assert_eq!(messages.next().unwrap().unwrap().2, b"a");
        hand_over.send(channel.clone()).unwrap();
        assert_closed(&mut messages, by_client);
        assert!(channel.is_closed() && channel.consumer_tags().is_empty());
        drop(peer);
    });
}

#[test]
fn no_consumer_outlives_a_channel_that_the_broker_closed() {
    consumers_after(
        |_, session| {
            session.send_channel_close(1, 406, "PRECONDITION_FAILED", m::BASIC_ACK);
            session.serve_until_end();
        },
        false,
    );
}

#[test]
fn no_consumer_outlives_a_connection_that_the_broker_closed() {
    consumers_after(
        |_, session| session.send_connection_close(320, "CONNECTION_FORCED", (0, 0)),
        false,
    );
}

#[test]
fn no_consumer_outlives_a_connection_that_is_lost() {
    consumers_after(|_, session| session.reset(), false);
}

#[test]
fn no_consumer_outlives_a_channel_that_this_program_closed() {
    consumers_after(
        |channel, session| {
            let closing = std::thread::spawn({
                let channel = channel.clone();
                move || channel.close().unwrap()
            });
            session.wait_for(1, m::CHANNEL_CLOSE);
            session.send_method(1, m::CHANNEL_CLOSE_OK, Args::new());
            closing.join().unwrap();
            session.serve_until_end();
        },
        true,
    );
}

#[test]
fn no_consumer_outlives_a_connection_that_this_program_closed() {
    consumers_after(
        |channel, session| {
            let closing = std::thread::spawn({
                let connection = channel.connection();
                move || connection.close().unwrap()
            });
            session.serve_until_end();
            closing.join().unwrap();
        },
        true,
    );
}

/// What had come is yielded before the error, and until then nothing shows that it is over.
#[test]
fn what_came_before_a_closure_is_yielded_first() {
    bounded(|| {
        let (channel, queue) = channel_and_queue_of(&["a", "b"]);
        let mut messages = channel.consume(&queue).unwrap();
        messages.next().unwrap().unwrap();
        wait_until(SOON, || channel.get_waiting_message_count() == 1);
        channel.basic_ack(1 << 40).unwrap();
        wait_until(SOON, || {
            let _ = channel.connection().process_data_events(Duration::ZERO);
            channel.is_closed()
        });
        assert!(!messages.is_cancelled());
        assert_eq!(body(messages.next().unwrap().unwrap()), "b");
        let error = messages.next().unwrap().unwrap_err();
        assert_matches!(error, Error::ChannelClosedByBroker { .. });
        assert_eq!(messages.ended(), Some(ConsumingEnded::Closed));
    });
}
