//! Stopping: what ends, what is finished first, and what goes back.

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{mpsc, Arc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use haypile::{
    BasicConsume, Channel, Connection, ConnectionParameters, ConsumingEnded, Error, Result, Retry,
    Stop, Supervisor,
};
use support::peer::{m, Args, Peer};
use support::proxy::Proxy;
use support::{
    assert_matches, assert_message_count, bounded, channel, exclusive_queue, let_others_wait,
    message_count, wait_until, Fixture, Log, RefusedPort, SOON,
};

/// Far below every deadline of a wait that a stop has to end here.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Runs something that waits, stops it when it does, and returns how it ended.
fn stopped<T: Send + 'static>(stop: &Stop, wait: impl FnOnce() -> T + Send + 'static) -> T {
    stopped_once(stop, || true, wait)
}

/// [`stopped`], for something that has much to do before it waits.
fn stopped_once<T: Send + 'static>(
    stop: &Stop,
    is_about_to_wait: impl FnMut() -> bool,
    wait: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (done, result) = mpsc::channel();
    let waiting = thread::spawn(move || done.send(wait()).unwrap());
    wait_until(SOON * 2, is_about_to_wait);
    assert!(
        result.recv_timeout(Duration::from_millis(100)).is_err(),
        "it did not wait"
    );
    let began = Instant::now();
    stop.stop();
    let ended = result
        .recv_timeout(AT_ONCE)
        .expect("the stop did not end it");
    assert!(began.elapsed() < AT_ONCE);
    waiting.join().unwrap();
    ended
}

fn assert_stopped<T: std::fmt::Debug>(result: &Result<T>) {
    assert_matches!(result, Err(Error::Stopped { .. }));
}

fn fill(queue: &str, count: usize) -> Channel {
    let admin = channel();
    for n in 0..count {
        admin.basic_publish("", queue, n.to_string()).unwrap();
    }
    assert_message_count(&admin, queue, count as u32);
    admin
}

#[test]
fn the_message_in_hand_is_finished_and_the_rest_goes_back() {
    bounded(|| {
        let mut fixture = Fixture::new();
        for iterator in [false, true] {
            let queue = fixture.queue("hand");
            let channel = channel();
            channel
                .queue_declare(haypile::QueueDeclare::new(&queue).durable(true))
                .unwrap();
            let admin = fill(&queue, 10);
            channel.basic_qos(5).unwrap();
            let stop = channel.stop_handle();
            let handled = Log::new();
            if iterator {
                let mut messages = channel.consume(&queue).unwrap();
                for message in &mut messages {
                    let (method, _, body) = message.unwrap();
                    if body == b"2" {
                        // All that may be prefetched is here.
                        wait_until(SOON, || channel.get_waiting_message_count() == 2 + 2);
                        assert_eq!(stop.stop(), 1);
                    }
                    channel.basic_ack(method.delivery_tag).unwrap();
                    handled.push(body);
                }
                assert!(messages.is_cancelled());
                assert!(messages.next().is_none());
            } else {
                let (seen, asked) = (handled.clone(), stop.clone());
                channel
                    .basic_consume(&queue, move |channel, method, _, body| {
                        if body == b"2" {
                            // From another thread, while this one is busy.
                            let asked = asked.clone();
                            thread::spawn(move || asked.stop()).join().unwrap();
                        }
                        channel.basic_ack(method.delivery_tag)?;
                        seen.push(body);
                        Ok(())
                    })
                    .unwrap();
                assert_eq!(
                    channel.start_consuming().unwrap(),
                    ConsumingEnded::Cancelled
                );
            }
            assert_eq!(handled.all(), [b"0", b"1", b"2"]);
            // The channel is still open, and holds none of them.
            assert_message_count(&admin, &queue, 7);
            assert!(channel.is_open() && channel.consumer_tags().is_empty());
            assert!(stop.is_stopped());
        }
    });
}

#[test]
fn an_idle_consumer_is_stopped() {
    bounded(|| {
        let channel = channel();
        let queue = exclusive_queue(&channel);
        let stop = channel.stop_handle();
        let consumer = channel.clone();
        channel.basic_consume(&queue, |_, _, _, _| ()).unwrap();
        let ended = stopped(&stop, move || consumer.start_consuming());
        assert_eq!(ended.unwrap(), ConsumingEnded::Cancelled);
        assert_eq!(stop.stop(), 2);
        // A stop stays, for the iterator and for what comes later.
        assert!(channel.consume(&queue).unwrap().next().is_none());
        channel.basic_consume(&queue, |_, _, _, _| ()).unwrap();
        assert_eq!(
            channel.start_consuming().unwrap(),
            ConsumingEnded::Cancelled
        );
    });
}

#[test]
fn an_idle_iterator_is_stopped() {
    bounded(|| {
        let channel = channel();
        let queue = exclusive_queue(&channel);
        let stop = channel.stop_handle();
        let ended = stopped(&stop, move || {
            channel.consume(&queue).unwrap().next().is_none()
        });
        assert!(ended);
    });
}

#[test]
fn a_stop_waits_for_nothing_beside_a_silent_broker() {
    bounded(|| {
        let proxy = Proxy::start();
        let channel = Connection::open(proxy.url()).unwrap().channel().unwrap();
        let queue = exclusive_queue(&channel);
        channel.basic_consume(&queue, |_, _, _, _| ()).unwrap();
        let stop = channel.stop_handle();
        let consumer = channel.clone();
        let consuming = thread::spawn(move || consumer.start_consuming());
        proxy.pause();
        let began = Instant::now();
        stop.stop();
        assert!(began.elapsed() < Duration::from_secs(1));
        // The broker is given two seconds to confirm that it cancelled the consumer, and two more to close.
        assert_eq!(
            consuming.join().unwrap().unwrap(),
            ConsumingEnded::Cancelled
        );
        drop(channel);
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "{:?}",
            began.elapsed()
        );
    });
}

#[test]
fn a_stop_concerns_its_own_channel_only() {
    bounded(|| {
        let connection = support::open();
        let (first, second) = (connection.channel().unwrap(), connection.channel().unwrap());
        let queue = exclusive_queue(&second);
        second
            .basic_consume(
                BasicConsume::new(&queue).auto_ack(true),
                |channel, _, _, _| channel.stop_consuming(),
            )
            .unwrap();
        let consumer = second.clone();
        let consuming = thread::spawn(move || consumer.start_consuming());
        first.stop_handle().stop();
        first.basic_publish("", &queue, "on").unwrap();
        assert_eq!(
            consuming.join().unwrap().unwrap(),
            ConsumingEnded::Cancelled
        );
        assert!(!second.stop_handle().is_stopped());
        connection.process_data_events(Duration::ZERO).unwrap();
    });
}

/// A broker that takes messages and confirms none.
fn never_confirms() -> (Peer, Channel) {
    let peer = Peer::start(|session| {
        session.handshake();
        session.open_channel(1);
        session.expect(1, m::CONFIRM_SELECT);
        session.send_method(1, m::CONFIRM_SELECT_OK, Args::new());
        session.serve_until_end();
    });
    let channel = Connection::open(peer.url()).unwrap().channel().unwrap();
    (peer, channel)
}

#[test]
fn a_full_window_is_stopped() {
    bounded(|| {
        let (_peer, channel) = never_confirms();
        let mut publisher = channel.publisher(2).unwrap();
        publisher.publish("", "q", "").unwrap();
        publisher.publish("", "q", "").unwrap();
        let ended = stopped(&channel.stop_handle(), move || {
            let stopped = publisher.publish("", "q", "").map(drop);
            (stopped, publisher.unconfirmed())
        });
        assert_stopped(&ended.0);
        assert_eq!(ended.1, 2, "the third was not sent");
    });
}

#[test]
fn a_wait_for_confirms_is_stopped_and_forgets_nothing() {
    bounded(|| {
        let (_peer, channel) = never_confirms();
        let mut publisher = channel.publisher(2).unwrap();
        publisher.publish("", "q", "").unwrap();
        let (result, report) = stopped(&channel.stop_handle(), move || {
            let stopped = publisher.wait_for_confirms(None);
            // Asked again it gives the broker two seconds.
            (stopped, publisher.wait_for_confirms(None))
        });
        assert_stopped(&result);
        let Err(Error::Unconfirmed(report)) = report else {
            panic!("{report:?}");
        };
        assert_eq!(report.pending, [1]);
    });
}

#[test]
fn what_was_published_before_a_stop_can_still_be_confirmed() {
    bounded(|| {
        let channel = channel();
        let queue = exclusive_queue(&channel);
        let mut publisher = channel.publisher(100).unwrap();
        for _ in 0..100 {
            publisher.publish("", &queue, "").unwrap();
        }
        channel.stop_handle().stop();
        publisher
            .wait_for_confirms(Duration::from_secs(60))
            .unwrap();
    });
}

#[test]
fn a_confirmed_publish_is_stopped() {
    bounded(|| {
        let (_peer, channel) = never_confirms();
        channel.confirm_delivery().unwrap();
        let stop = channel.stop_handle();
        let publishing = channel.clone();
        let result = stopped(&stop, move || publishing.basic_publish("", "q", ""));
        assert_stopped(&result);
        assert!(channel.is_open());
    });
}

#[test]
fn room_to_send_is_waited_for_until_a_stop() {
    bounded(|| {
        for size in [1 << 10, 1 << 20] {
            let proxy = Proxy::start();
            let channel = Connection::open(proxy.url()).unwrap().channel().unwrap();
            proxy.hold_client();
            let stop = channel.stop_handle();
            let sent = Arc::new(AtomicUsize::new(0));
            let (publishing, counted) = (channel.clone(), Arc::clone(&sent));
            // Filling the buffers of both sockets takes a busy machine seconds.
            let (mut seen, mut since) = (0, Instant::now());
            let is_about_to_wait = move || {
                let now = sent.load(Ordering::SeqCst);
                if std::mem::replace(&mut seen, now) != now {
                    since = Instant::now();
                }
                seen > 0 && since.elapsed() > Duration::from_millis(500)
            };
            let result: haypile::Result<()> = stopped_once(&stop, is_about_to_wait, move || loop {
                publishing.basic_publish("", "nowhere", vec![0; size])?;
                counted.fetch_add(1, Ordering::SeqCst);
            });
            assert_stopped(&result);
        }
    });
}

#[test]
fn a_callback_that_waits_for_a_confirm_is_the_message_in_hand() {
    bounded(|| {
        let proxy = Proxy::start();
        let channel = Connection::open(proxy.url()).unwrap().channel().unwrap();
        let queue = exclusive_queue(&channel);
        let replies = exclusive_queue(&channel);
        channel.basic_publish("", &queue, "ask").unwrap();
        channel.confirm_delivery().unwrap();
        let stop = channel.stop_handle();
        let (in_callback, here) = mpsc::channel();
        let name = replies.clone();
        channel
            .basic_consume(&queue, move |channel, method, _, _| {
                in_callback.send(()).unwrap();
                channel.basic_publish("", &name, "reply")?;
                channel.basic_ack(method.delivery_tag)
            })
            .unwrap();
        let consumer = channel.clone();
        let consuming: JoinHandle<_> = thread::spawn(move || consumer.start_consuming());
        here.recv_timeout(SOON).unwrap();
        proxy.hold_broker();
        stop.stop();
        let_others_wait();
        proxy.resume();
        assert_eq!(
            consuming.join().unwrap().unwrap(),
            ConsumingEnded::Cancelled
        );
        assert_eq!(message_count(&channel, &replies), 1);
        assert_eq!(message_count(&channel, &queue), 0);
    });
}

#[test]
fn a_pause_of_a_supervisor_is_stopped() {
    bounded(|| {
        let refused = RefusedPort::new();
        let hour = Duration::from_secs(3600);
        let retry = Retry::new().first(hour).most(hour);
        let supervisor = Supervisor::new(format!("amqp://{}", refused.address())).retry(retry);
        let stop = supervisor.stop_handle();
        let result = stopped(&stop, move || supervisor.run(|_| panic!("it connected")));
        assert_stopped(&result);
    });
}

#[test]
fn an_attempt_to_connect_is_stopped() {
    bounded(|| {
        let silent = Peer::start(|session| {
            session.expect_protocol_header();
            session.expect_end();
        });
        let parameters = ConnectionParameters::from_url(silent.url())
            .unwrap()
            .stack_timeout(Duration::from_secs(20));
        let supervisor = Supervisor::new(parameters);
        let stop = supervisor.stop_handle();
        let result = stopped(&stop, move || supervisor.run(|_| panic!("it connected")));
        assert_stopped(&result);
    });
}

#[test]
fn a_supervisor_stops_what_it_runs() {
    bounded(|| {
        let supervisor = Supervisor::new(support::url());
        let stop = supervisor.stop_handle();
        let of_events = supervisor.clone();
        let consuming = Log::new();
        let begins = consuming.clone();
        let is_about_to_wait = move || !consuming.is_empty();
        let result = stopped_once(&stop, is_about_to_wait, move || {
            supervisor.run(|connection| {
                let channel = connection.channel()?;
                let queue = exclusive_queue(&channel);
                channel.basic_consume(&queue, |_, _, _, _| ())?;
                begins.push(());
                channel.start_consuming()
            })
        });
        assert_eq!(result.unwrap(), ConsumingEnded::Cancelled);
        assert_stopped(&of_events.run(|_| panic!("it connected")));
    });
}

#[test]
fn a_supervised_wait_for_events_is_stopped() {
    bounded(|| {
        let supervisor = Supervisor::new(support::url());
        let stop = supervisor.stop_handle();
        let connected = Log::new();
        let begins = connected.clone();
        let is_about_to_wait = move || !connected.is_empty();
        let result = stopped_once(&stop, is_about_to_wait, move || {
            supervisor.run(|connection| {
                begins.push(());
                connection.process_data_events(None)?;
                Ok(ConsumingEnded::Closed)
            })
        });
        assert_stopped(&result);
    });
}

#[test]
fn a_loss_during_a_stop_does_not_run_the_set_up_again() {
    bounded(|| {
        let proxy = Proxy::start();
        let supervisor = Supervisor::new(proxy.url());
        let stop = supervisor.stop_handle();
        let mut runs = 0;
        let result = supervisor.run(|connection| {
            runs += 1;
            stop.stop();
            proxy.cut();
            connection.channel()?.basic_qos(1)?;
            Ok(ConsumingEnded::Cancelled)
        });
        assert_stopped(&result);
        assert_eq!(runs, 1);
    });
}
