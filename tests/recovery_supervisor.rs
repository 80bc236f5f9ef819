//! Coming back after a loss: what runs again, what comes out at once, and what former handles can still do.

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use haypile::{
    Channel, ConnectionParameters, ConsumingEnded, Error, QueueDeclare, Result, Retry, Supervisor,
    SupervisorEvent,
};
use support::peer::{m, Args, Peer};
use support::proxy::Proxy;
use support::{
    assert_matches, assert_message_count, bounded, channel, exclusive_queue, unique, url,
    url_through, Fixture, Log, RefusedPort, SOON,
};

/// Quick enough for a test, and slow enough to differ from a loop without a pause.
fn quick() -> Retry {
    Retry::new()
        .first(Duration::from_millis(20))
        .most(Duration::from_millis(200))
}

fn supervisor(url: impl haypile::IntoParameters) -> (Supervisor, Log<String>) {
    let events = Log::new();
    let seen = events.clone();
    let supervisor = Supervisor::new(url)
        .retry(quick())
        .on_event(move |event| seen.push(name(event)));
    (supervisor, events)
}

fn name(event: &SupervisorEvent) -> String {
    let name = match event {
        SupervisorEvent::Connected { .. } => "connected",
        SupervisorEvent::Lost { .. } => "lost",
        SupervisorEvent::Waiting { .. } => "waiting",
        SupervisorEvent::GivingUp { .. } => "giving up",
        _ => "another",
    };
    name.into()
}

/// An error that trying again may mend.
fn passing() -> Error {
    let refused = RefusedPort::new();
    haypile::Connection::open(format!("amqp://{}", refused.address())).unwrap_err()
}

fn done() -> Result<ConsumingEnded> {
    Ok(ConsumingEnded::Cancelled)
}

#[test]
fn a_loss_runs_the_set_up_again_whole() {
    bounded(|| {
        let proxy = Proxy::start();
        let (supervisor, events) = supervisor(proxy.url());
        // The set-up borrows, and need not be Send.
        let runs = std::rc::Rc::new(std::cell::Cell::new(0));
        let mut bodies = Vec::new();
        let ended = supervisor
            .run(|connection| {
                runs.set(runs.get() + 1);
                let channel = connection.channel()?;
                // Another one each time: the broker may not have noticed the end of the one before.
                let queue = exclusive_queue(&channel);
                channel.basic_qos(1)?;
                channel.basic_publish("", &queue, format!("run {}", runs.get()))?;
                for message in channel.consume(&queue)? {
                    let (method, _, body) = message?;
                    bodies.push(String::from_utf8(body).unwrap());
                    channel.basic_ack(method.delivery_tag)?;
                    if runs.get() == 3 {
                        channel.cancel()?;
                    } else {
                        proxy.cut();
                    }
                }
                done()
            })
            .unwrap();
        assert_eq!(ended, ConsumingEnded::Cancelled);
        assert_eq!(bodies, ["run 1", "run 2", "run 3"]);
        let again = ["connected", "lost", "waiting"];
        let expected = [&again[..], &again, &["connected"]].concat();
        assert_eq!(events.all(), expected);
    });
}

#[test]
fn a_callback_under_a_supervisor_comes_back_too() {
    bounded(|| {
        let proxy = Arc::new(Proxy::start());
        let (supervisor, _) = supervisor(proxy.url());
        let queue = unique("callback");
        let seen = Arc::new(AtomicUsize::new(0));
        let ended = supervisor.run(|connection| {
            let channel = connection.channel()?;
            channel.queue_declare(QueueDeclare::new(&queue).exclusive(true))?;
            channel.basic_publish("", &queue, "once a run")?;
            let (seen, proxy) = (Arc::clone(&seen), Arc::clone(&proxy));
            channel.basic_consume(&queue, move |channel, _, _, _| {
                if seen.fetch_add(1, Ordering::SeqCst) == 1 {
                    return channel.stop_consuming();
                }
                proxy.reset();
                Ok(())
            })?;
            channel.start_consuming()
        });
        assert_eq!(ended.unwrap(), ConsumingEnded::Cancelled);
        assert_eq!(seen.load(Ordering::SeqCst), 2);
    });
}

#[test]
fn what_trying_again_cannot_mend_comes_out_at_once() {
    bounded(|| {
        let mut fixture = Fixture::new();
        let queue = fixture.queue("fatal");
        channel().queue_declare(&queue).unwrap_or_else(|_| {
            // A broker without transient queues.
            channel()
                .queue_declare(QueueDeclare::new(&queue).durable(true))
                .unwrap()
        });
        let runs = AtomicUsize::new(0);
        let fails = |call: &dyn Fn(&Channel) -> Result<()>| {
            runs.store(0, Ordering::SeqCst);
            let (supervisor, events) = supervisor(url());
            let result = supervisor.run(|connection| {
                runs.fetch_add(1, Ordering::SeqCst);
                call(&connection.channel()?)?;
                done()
            });
            assert_eq!(runs.load(Ordering::SeqCst), 1);
            assert_eq!(events.all(), ["connected"]);
            result.unwrap_err()
        };
        let refused = fails(&|channel| channel.queue_declare("amq.not-mine").map(drop));
        assert_eq!(refused.reply_code(), Some(403));
        let other = QueueDeclare::new(&queue)
            .durable(true)
            .argument("x-max-length", 7);
        let inequivalent = fails(&|channel| channel.queue_declare(other.clone()).map(drop));
        assert_eq!(inequivalent.reply_code(), Some(406));
        let missing = fails(&|channel| {
            channel
                .basic_consume(unique("none"), |_, _, _, _| ())
                .map(drop)
        });
        assert_eq!(
            missing.reply_code(),
            Some(404),
            "on the first connection it is a mistake"
        );
        let own = fails(&|_| Err(Error::other("not today")));
        assert_eq!(own.to_string(), "not today");
        let wrong = fails(&|channel| channel.basic_publish("", "k".repeat(300), "").map(drop));
        assert_matches!(wrong, Error::ShortStringTooLong { .. });
    });
}

#[test]
fn what_is_wrong_with_the_parameters_comes_out_at_once() {
    bounded(|| {
        let run = |supervisor: Supervisor| supervisor.run(|_| panic!("it connected")).unwrap_err();
        let none = run(Supervisor::new("amqp://localhost?heartbeet=3"));
        assert_matches!(none, Error::InvalidParameter { .. });
        let factor = run(Supervisor::new(url()).retry(Retry::new().factor(0.1)));
        assert_matches!(factor, Error::InvalidParameter { .. });
        let parameters = ConnectionParameters::from_url(url()).unwrap();
        let (nowhere, events) = supervisor(parameters.virtual_host(unique("vhost")));
        let refused = run(nowhere);
        assert_eq!(refused.reply_code(), Some(530), "{refused}");
        assert_eq!(events.all(), ["giving up"]);
    });
}

#[test]
fn a_consumer_cancelled_by_the_broker_runs_again() {
    bounded(|| {
        let mut fixture = Fixture::new();
        let queue = fixture.queue("cancelled");
        for iterator in [false, true] {
            let (supervisor, events) = supervisor(url());
            let mut runs = 0;
            let ended = supervisor.run(|connection| {
                runs += 1;
                let channel = connection.channel()?;
                channel.queue_declare(QueueDeclare::new(&queue).durable(true))?;
                if runs == 3 {
                    return Ok(ConsumingEnded::Closed);
                }
                let name = queue.clone();
                let mut messages = None;
                if iterator {
                    messages = Some(channel.consume(&queue)?);
                } else {
                    channel.basic_consume(&queue, |_, _, _, _| ())?;
                }
                thread::spawn(move || support::channel().queue_delete(&name).unwrap());
                match messages {
                    Some(messages) => messages.for_each(drop),
                    None => return channel.start_consuming(),
                }
                done()
            });
            assert_eq!(ended.unwrap(), ConsumingEnded::Closed);
            let again = ["connected", "lost", "waiting"];
            let expected = [&again[..], &again, &["connected"]].concat();
            assert_eq!(events.all(), expected, "iterator: {iterator}");
        }
    });
}

#[test]
fn an_iterator_that_the_program_took_up_again_is_no_loss() {
    bounded(|| {
        let mut fixture = Fixture::new();
        let queue = fixture.queue("own");
        let (supervisor, _) = supervisor(url());
        let mut runs = 0;
        let ended = supervisor.run(|connection| {
            runs += 1;
            let channel = connection.channel()?;
            channel.queue_declare(QueueDeclare::new(&queue).durable(true))?;
            let messages = channel.consume(&queue)?;
            support::channel().queue_delete(&queue)?;
            messages.for_each(drop);
            channel.queue_declare(QueueDeclare::new(&queue).durable(true))?;
            channel.basic_publish("", &queue, "enough")?;
            channel.consume(&queue)?.next().unwrap()?;
            channel.cancel()?;
            done()
        });
        assert_eq!((ended.unwrap(), runs), (ConsumingEnded::Cancelled, 1));
    });
}

#[test]
fn a_queue_that_is_gone_for_good_is_waited_for_and_given_up() {
    bounded(|| {
        let mut fixture = Fixture::new();
        let queue = fixture.queue("gone");
        channel()
            .queue_declare(QueueDeclare::new(&queue).durable(true))
            .unwrap();
        let (supervisor, events) = supervisor(url());
        let supervisor = supervisor.retry(
            quick()
                .jitter(0.0)
                .give_up_after(Duration::from_millis(700)),
        );
        let began = Instant::now();
        let mut runs = 0;
        let result = supervisor.run(|connection| {
            runs += 1;
            let channel = connection.channel()?;
            channel.basic_consume(&queue, |_, _, _, _| ())?;
            support::channel().queue_delete(&queue)?;
            channel.start_consuming()
        });
        let Err(Error::GaveUp(gave_up)) = result else {
            panic!("{result:?}");
        };
        assert!(began.elapsed() >= Duration::from_millis(700));
        // 20 + 40 + 80 + 160 + 200 + 200 ms are 700 ms.
        assert!(runs <= 8, "{runs} attempts");
        assert_eq!(gave_up.attempts, runs);
        let kinds: Vec<_> = gave_up
            .errors
            .iter()
            .map(|(error, _)| error.reply_code())
            .collect();
        assert_eq!(kinds, [None, Some(404)], "{gave_up}");
        assert!(matches!(
            gave_up.errors[0].0,
            Error::ConsumerCancelled { .. }
        ));
        assert_eq!(events.all().last().unwrap(), "giving up");
    });
}

#[test]
fn a_broker_that_is_away_is_given_up_with_all_kinds_of_errors() {
    bounded(|| {
        let refused = RefusedPort::new();
        let closes = Peer::serve(100, |_, session| session.expect_protocol_header());
        let urls = [format!("amqp://{}", refused.address()), closes.url()];
        let (supervisor, events) = supervisor(urls);
        let supervisor = supervisor.retry(quick().give_up_after(Duration::from_millis(300)));
        let error = supervisor.run(|_| panic!("it connected")).unwrap_err();
        let Error::GaveUp(gave_up) = error else {
            panic!("{error:?}");
        };
        assert!(gave_up.attempts > 1);
        let attempts: u64 = gave_up.errors.iter().map(|(_, count)| count).sum();
        assert_eq!(attempts, gave_up.attempts);
        let text = gave_up.to_string();
        assert!(text.contains(&refused.address().to_string()), "{text}");
        assert!(events
            .all()
            .iter()
            .all(|event| event == "waiting" || event == "giving up"));
    });
}

/// Each pause that a supervisor reports, and when.
fn pauses(supervisor: Supervisor) -> (Supervisor, Log<(Instant, Option<Duration>)>) {
    let events = Log::new();
    let seen = events.clone();
    let supervisor = supervisor.on_event(move |event| {
        let delay = match event {
            SupervisorEvent::Waiting { delay, .. } => Some(*delay),
            _ => None,
        };
        seen.push((Instant::now(), delay));
    });
    (supervisor, events)
}

#[test]
fn each_pause_lasts_as_long_as_is_reported() {
    bounded(|| {
        let refused = RefusedPort::new();
        let retry = quick().give_up_after(Duration::from_millis(500));
        let supervisor = Supervisor::new(format!("amqp://{}", refused.address())).retry(retry);
        let (supervisor, events) = pauses(supervisor);
        supervisor.run(|_| panic!("it connected")).unwrap_err();
        let all = events.all();
        assert!(all.len() > 2, "{all:?}");
        for pair in all.windows(2) {
            let delay = pair[0].1.expect("a pause, and the end");
            assert!(pair[1].0 - pair[0].0 >= delay, "{all:?}");
        }
    });
}

#[test]
fn the_delay_starts_anew_after_a_connection_that_lasted() {
    bounded(|| {
        let first = Duration::from_millis(10);
        let retry = Retry::new().first(first).factor(100.0).jitter(0.0);
        for (lasting, expected) in [(Duration::ZERO, first), (Duration::MAX, first * 100)] {
            let supervisor = Supervisor::new(url()).retry(retry.clone().lasting(lasting));
            let (supervisor, events) = pauses(supervisor);
            let mut runs = 0;
            let ended = supervisor.run(|_| {
                runs += 1;
                if runs == 3 {
                    done()
                } else {
                    Err(passing())
                }
            });
            assert_eq!(ended.unwrap(), ConsumingEnded::Cancelled);
            let all = events.all();
            let delays: Vec<_> = all.iter().filter_map(|(_, delay)| *delay).collect();
            assert_eq!(delays, [first, expected]);
        }
    });
}

#[test]
fn a_silent_broker_costs_its_timeout_and_no_more() {
    bounded(|| {
        const TIMEOUT: Duration = Duration::from_secs(2);
        let proxy = Proxy::start();
        let parameters = ConnectionParameters::from_url(proxy.url()).unwrap();
        let waiting = Log::new();
        let seen = waiting.clone();
        let supervisor = Supervisor::new(parameters.rpc_timeout(TIMEOUT))
            .retry(quick())
            .on_event(move |event| {
                if name(event) == "waiting" {
                    seen.push(Instant::now());
                }
            });
        let mut runs = 0;
        let mut began = None;
        // The broker is silent until the next attempt is due, so that opening a connection is no part of the time.
        let resumed = thread::scope(|scope| {
            let resumed = scope.spawn(|| {
                support::wait_until(SOON, || !waiting.is_empty());
                proxy.resume();
                waiting.all()[0]
            });
            let ended = supervisor.run(|connection| {
                runs += 1;
                if runs == 1 {
                    proxy.pause();
                    began = Some(Instant::now());
                    let result = connection.channel().map(drop);
                    assert_matches!(result, Err(Error::Timeout { .. }));
                    result?;
                }
                done()
            });
            assert_eq!(ended.unwrap(), ConsumingEnded::Cancelled);
            resumed.join().unwrap()
        });
        assert_eq!((runs, waiting.len()), (2, 1));
        let cost = resumed - began.unwrap();
        // A close in order waits for as long again.
        assert!(cost >= TIMEOUT && cost < TIMEOUT * 3 / 2, "{cost:?}");
    });
}

#[test]
fn former_handles_fail_and_acknowledge_nothing() {
    bounded(|| {
        let proxy = Proxy::start();
        let (supervisor, _) = supervisor(proxy.url());
        let mut fixture = Fixture::new();
        let queue = fixture.queue("stale");
        let admin = channel();
        admin
            .queue_declare(QueueDeclare::new(&queue).durable(true))
            .unwrap();
        admin.basic_publish("", &queue, "one").unwrap();
        assert_message_count(&admin, &queue, 1);
        let mut former: Option<(Channel, u64)> = None;
        supervisor
            .run(|connection| {
                let channel = connection.channel()?;
                let (method, _, _) = channel.basic_get(&queue)?.expect("the message came back");
                let Some((old, tag)) = &former else {
                    former = Some((channel.clone(), method.delivery_tag));
                    // The program itself sees nothing wrong with this connection.
                    return Err(passing());
                };
                assert_eq!(
                    *tag, method.delivery_tag,
                    "both are the first of their channel"
                );
                let before = proxy.client_bytes();
                for error in [
                    old.basic_ack(*tag).unwrap_err(),
                    old.basic_publish("", &queue, "no").unwrap_err(),
                    old.queue_declare(&queue).map(drop).unwrap_err(),
                    old.publisher(10).map(drop).unwrap_err(),
                    old.connection().channel().map(drop).unwrap_err(),
                ] {
                    let text = error.to_string();
                    assert!(
                        text.contains("supervisor") || text.contains("lost"),
                        "{text}"
                    );
                }
                assert_eq!(proxy.client_bytes(), before, "no byte was sent");
                drop(channel);
                done()
            })
            .unwrap();
        // The second connection ended without an ack, so it is back again.
        assert_message_count(&admin, &queue, 1);
    });
}

#[test]
fn acks_are_sent_before_a_connection_is_dropped() {
    bounded(|| {
        let (supervisor, _) = supervisor(url());
        let mut fixture = Fixture::new();
        let queue = fixture.queue("acked");
        let admin = channel();
        admin
            .queue_declare(QueueDeclare::new(&queue).durable(true))
            .unwrap();
        for _ in 0..10 {
            admin.basic_publish("", &queue, "").unwrap();
        }
        assert_message_count(&admin, &queue, 10);
        let mut runs = 0;
        supervisor
            .run(|connection| {
                runs += 1;
                let channel = connection.channel()?;
                if runs == 2 {
                    return done();
                }
                while let Some((method, _, _)) = channel.basic_get(&queue)? {
                    channel.basic_ack(method.delivery_tag)?;
                }
                Ok(ConsumingEnded::CancelledByBroker {
                    consumer_tag: "c".into(),
                })
            })
            .unwrap();
        assert_message_count(&admin, &queue, 0);
    });
}

#[test]
fn what_the_former_connection_still_holds_is_waited_for() {
    bounded(|| {
        let (supervisor, events) = supervisor(url());
        let queue = unique("held");
        let mut runs = 0;
        let ended = supervisor.run(|connection| {
            runs += 1;
            let channel = connection.channel()?;
            // 405 until the broker has noticed that the first connection is gone.
            channel.queue_declare(QueueDeclare::new(&queue).exclusive(true))?;
            if runs == 1 {
                // Another one stands in for a former connection whose end the broker has not noticed.
                let former = support::open();
                let held = QueueDeclare::new(&queue).exclusive(true);
                connection.channel()?.queue_delete(&queue)?;
                former.channel()?.queue_declare(held)?;
                let events = events.clone();
                thread::spawn(move || {
                    support::wait_until(SOON, || events.len() > 6);
                    former.close().unwrap();
                });
                return Err(passing());
            }
            done()
        });
        assert_eq!(ended.unwrap(), ConsumingEnded::Cancelled);
        // The second run failed; the third may meet the very moment of the release.
        assert!(runs >= 3, "{runs}");
    });
}

#[test]
fn the_first_host_is_a_random_one_or_the_first() {
    bounded(|| {
        let proxies = [Proxy::start(), Proxy::start()];
        let urls = || [proxies[0].url(), proxies[1].url()];
        for _ in 0..12 {
            Supervisor::new(urls()).in_order().run(|_| done()).unwrap();
        }
        let count = || [proxies[0].connections(), proxies[1].connections()];
        assert_eq!(count(), [12, 0]);
        // Chance leaves one out in one of 2^49 runs.
        let both = || count()[0] > 12 && count()[1] > 0;
        for _ in 0..50 {
            if !both() {
                Supervisor::new(urls()).run(|_| done()).unwrap();
            }
        }
        assert!(both());
    });
}

#[test]
fn one_of_several_hosts_is_enough() {
    bounded(|| {
        let refused = RefusedPort::new();
        let urls = [url_through(refused.address()), url()];
        let ended =
            Supervisor::new(urls).run(|connection| connection.channel().and_then(|_| done()));
        assert_eq!(ended.unwrap(), ConsumingEnded::Cancelled);
    });
}

#[test]
fn a_panic_passes_through() {
    bounded(|| {
        let supervisor = Supervisor::new(url());
        let run = || supervisor.run(|_| panic!("the program's own"));
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_err();
        assert_eq!(panicked.downcast_ref::<&str>(), Some(&"the program's own"));
    });
}

#[test]
fn an_on_event_may_use_everything() {
    bounded(|| {
        let proxy = Proxy::start();
        let connections = Log::new();
        let seen = connections.clone();
        let supervisor = Supervisor::new(proxy.url())
            .retry(quick())
            .on_event(move |_| {
                seen.push(support::open().is_open());
            });
        let mut runs = 0;
        supervisor
            .run(|connection| {
                runs += 1;
                if runs == 1 {
                    proxy.cut();
                    connection.channel()?;
                }
                done()
            })
            .unwrap();
        assert_eq!(connections.all(), [true; 4]);
    });
}

#[test]
fn a_scripted_close_320_is_a_loss() {
    bounded(|| {
        let peer = Peer::serve(2, |n, session| {
            session.handshake();
            session.open_channel(1);
            if n == 0 {
                session.expect(1, m::BASIC_QOS);
                session.send_connection_close(320, "CONNECTION_FORCED - shutdown", (0, 0));
                session.expect(0, m::CONNECTION_CLOSE_OK);
            } else {
                session.expect(1, m::BASIC_QOS);
                session.send_method(1, m::BASIC_QOS_OK, Args::new());
                session.serve_until_end();
            }
        });
        let (supervisor, events) = supervisor(peer.url());
        supervisor
            .run(|connection| {
                connection.channel()?.basic_qos(1)?;
                done()
            })
            .unwrap();
        assert_eq!(events.all(), ["connected", "lost", "waiting", "connected"]);
        peer.finish();
    });
}
