//! Bugs that recovery has elsewhere, each provoked. `DESIGN.md` lists all eight and the tests that hold against them.

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use haypile::{
    BasicPublish, Channel, ConsumingEnded, Error, QueueDeclare, ReliablePublisher, Result, Retry,
    Supervisor,
};
use support::proxy::Proxy;
use support::{assert_matches, assert_message_count, bounded, channel, Fixture};

const LIMIT: Duration = Duration::from_secs(20);

fn supervisor(proxy: &Proxy) -> Supervisor {
    let retry = Retry::new()
        .first(Duration::from_millis(20))
        .most(Duration::from_millis(200));
    Supervisor::new(proxy.url()).retry(retry)
}

fn durable(queue: &str) -> QueueDeclare {
    QueueDeclare::new(queue).durable(true)
}

/// A publisher that declares this queue.
fn publisher(supervisor: &Supervisor, queue: &str) -> ReliablePublisher {
    let declare = durable(queue);
    supervisor
        .publisher(10, move |channel| {
            channel.queue_declare(declare.clone()).map(drop)
        })
        .unwrap()
}

/// Declares this queue and fills it with so many messages. Returns the channel that did it.
fn filled(queue: &str, messages: u32) -> Channel {
    let admin = channel();
    admin.queue_declare(durable(queue)).unwrap();
    for _ in 0..messages {
        admin.basic_publish("", queue, "").unwrap();
    }
    assert_message_count(&admin, queue, messages);
    admin
}

fn is_there(queue: &str) -> bool {
    match channel().queue_declare(QueueDeclare::new(queue).passive(true)) {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.reply_code(), Some(404), "{error}");
            false
        }
    }
}

/// Deleted topology brought back: what another program deletes before the loss is not there after it, unless the set-up itself
/// declares it.
#[test]
fn what_was_deleted_before_a_loss_stays_deleted() {
    bounded(|| {
        let mut fixture = Fixture::new();
        let (queue, exchange) = (fixture.queue("deleted"), fixture.exchange("deleted"));
        let proxy = Proxy::start();
        let mut runs = 0;
        supervisor(&proxy)
            .run(|connection| {
                runs += 1;
                let channel = connection.channel()?;
                if runs == 1 {
                    let declare = haypile::ExchangeDeclare::new(&exchange, "direct").durable(true);
                    channel.exchange_declare(declare)?;
                    channel.queue_declare(durable(&queue))?;
                    channel.queue_bind(&queue, &exchange, "key")?;
                    channel.basic_consume(&queue, |_, _, _, _| ())?;
                    let other = support::channel();
                    other.queue_delete(&queue)?;
                    other.exchange_delete(&exchange)?;
                    proxy.cut();
                    // Fails with the loss.
                    channel.basic_qos(1)?;
                }
                assert!(channel.consumer_tags().is_empty());
                Ok(ConsumingEnded::Closed)
            })
            .unwrap();
        assert_eq!(runs, 2);
        assert!(!is_there(&queue));
        let missing = channel()
            .exchange_declare(haypile::ExchangeDeclare::new(&exchange, "direct").passive(true))
            .unwrap_err();
        assert_eq!(missing.reply_code(), Some(404));
    });
}

/// The same for a publisher, whose set-up declares only once.
#[test]
fn a_publisher_brings_back_nothing_that_its_set_up_does_not_declare() {
    bounded(|| {
        let mut fixture = Fixture::new();
        let queue = fixture.queue("deleted");
        let proxy = Proxy::start();
        let runs = Arc::new(AtomicUsize::new(0));
        let (name, counted) = (queue.clone(), Arc::clone(&runs));
        let mut publisher = supervisor(&proxy)
            .publisher(10, move |channel| {
                match counted.fetch_add(1, Ordering::SeqCst) {
                    0 => channel.queue_declare(durable(&name)).map(drop),
                    _ => Ok(()),
                }
            })
            .unwrap();
        publisher.publish("", &queue, "before").unwrap();
        publisher.wait_for_confirms(LIMIT).unwrap();
        channel().queue_delete(&queue).unwrap();
        proxy.cut();
        publisher
            .publish_with("", &queue, "after", BasicPublish::new().mandatory(true))
            .unwrap();
        let Err(Error::Unconfirmed(report)) = publisher.wait_for_confirms(LIMIT) else {
            panic!("it was routed");
        };
        assert_eq!(report.returned[0].0, 2);
        assert_eq!(runs.load(Ordering::SeqCst), 2);
        assert!(!is_there(&queue));
    });
}

/// Qos not set again: after a loss the broker still sends no more than the set-up allows.
#[test]
fn the_prefetch_limit_holds_after_a_loss() {
    bounded(|| {
        let mut fixture = Fixture::new();
        let queue = fixture.queue("qos");
        let admin = filled(&queue, 10);
        let proxy = Proxy::start();
        let mut runs = 0;
        supervisor(&proxy)
            .run(|connection| {
                runs += 1;
                let channel = connection.channel()?;
                channel.basic_qos(3)?;
                channel.basic_consume(&queue, |_, _, _, _| ())?;
                // The broker keeps back what is above the limit.
                assert_message_count(&admin, &queue, 7);
                if runs == 1 {
                    proxy.reset();
                    channel.start_consuming()?;
                }
                Ok(ConsumingEnded::Closed)
            })
            .unwrap();
        assert_eq!(runs, 2);
    });
}

/// Confirm mode not set again: after a loss the broker still confirms, what was published before it and what comes later.
#[test]
fn the_broker_confirms_after_a_loss() {
    bounded(|| {
        let mut fixture = Fixture::new();
        let queue = fixture.queue("confirms");
        let proxy = Proxy::start();
        let mut publisher = publisher(&supervisor(&proxy), &queue);
        // Its channel is open.
        publisher.publish("", &queue, "first").unwrap();
        publisher.wait_for_confirms(LIMIT).unwrap();
        for round in 1..=3u32 {
            proxy.hold_broker();
            publisher.publish("", &queue, "before").unwrap();
            proxy.cut();
            proxy.resume();
            publisher.publish("", &queue, "after").unwrap();
            publisher.wait_for_confirms(LIMIT).unwrap();
            // Both at most: the second may have gone out before the loss was noticed.
            assert!(publisher.republished() <= 2 * u64::from(round));
        }
        assert!(proxy.connections() >= 4);
    });
}

/// A handler that declares something, while the connection is being lost, deadlocks recovery: here it gets an error, and the
/// set-up runs again.
#[test]
fn a_callback_that_declares_during_a_loss_gets_an_error() {
    bounded(|| {
        let mut fixture = Fixture::new();
        let (queue, other) = (fixture.queue("handler"), fixture.queue("declared"));
        let admin = filled(&queue, 1);
        let proxy = Arc::new(Proxy::start());
        let runs = Arc::new(AtomicUsize::new(0));
        let ended = supervisor(&proxy).run(|connection| {
            runs.fetch_add(1, Ordering::SeqCst);
            let channel = connection.channel()?;
            let (proxy, runs, other) = (Arc::clone(&proxy), Arc::clone(&runs), other.clone());
            channel.basic_consume(&queue, move |channel: &Channel, method, _, _| {
                if runs.load(Ordering::SeqCst) == 1 {
                    proxy.cut();
                }
                channel.queue_declare(durable(&other))?;
                channel.basic_ack(method.delivery_tag)?;
                channel.stop_consuming()
            })?;
            channel.start_consuming()
        });
        assert_eq!(ended.unwrap(), ConsumingEnded::Cancelled);
        assert_eq!(runs.load(Ordering::SeqCst), 2);
        assert!(is_there(&other));
        assert_message_count(&admin, &queue, 0);
    });
}

// ---- what a careless program does

#[test]
fn a_set_up_may_run_another_supervisor() {
    bounded(|| {
        let outer = Supervisor::new(support::url());
        let inner = outer.clone();
        let mut runs = 0;
        let ended: Result<ConsumingEnded> = outer.run(|connection| {
            runs += 1;
            connection.channel()?;
            inner.run(|connection| {
                runs += 10;
                connection.channel().map(|_| ConsumingEnded::Closed)
            })
        });
        assert_eq!((ended.unwrap(), runs), (ConsumingEnded::Closed, 11));
    });
}

#[test]
fn a_publisher_may_be_dropped_in_a_set_up_and_moved_between_threads() {
    bounded(|| {
        let mut fixture = Fixture::new();
        let queue = fixture.queue("moved");
        channel().queue_declare(durable(&queue)).unwrap();
        let supervisor = Supervisor::new(support::url());
        let name = queue.clone();
        let publishing = supervisor.clone();
        let moved = thread::spawn(move || {
            supervisor
                .run(|_| {
                    let mut publisher = publishing.publisher(1, |_| Ok(()))?;
                    publisher.publish("", &name, "dropped at once")?;
                    Ok(ConsumingEnded::Closed)
                })
                .map(drop)
                .and_then(|()| publishing.publisher(1, |_| Ok(())))
        });
        let mut publisher = moved.join().unwrap().unwrap();
        publisher
            .publish("", &queue, "from another thread")
            .unwrap();
        publisher.wait_for_confirms(LIMIT).unwrap();
        assert_message_count(&channel(), &queue, 2);
    });
}

#[test]
fn a_stop_before_all_else_is_an_error_everywhere() {
    bounded(|| {
        let supervisor = Supervisor::new(support::url());
        supervisor.stop_handle().stop();
        let run = supervisor.run(|_| panic!("it connected"));
        assert_matches!(run, Err(Error::Stopped { .. }));
        let publisher = supervisor.publisher(1, |_| Ok(())).map(drop);
        assert_matches!(publisher, Err(Error::Stopped { .. }));
    });
}

#[test]
fn a_stop_from_a_callback_finishes_that_message() {
    bounded(|| {
        let mut fixture = Fixture::new();
        let queue = fixture.queue("from-callback");
        let admin = filled(&queue, 3);
        let supervisor = Supervisor::new(support::url());
        let stop = supervisor.stop_handle();
        let ended = supervisor.run(|connection| {
            let channel = connection.channel()?;
            let stop = stop.clone();
            channel.basic_consume(&queue, move |channel, method, _, _| {
                stop.stop();
                channel.basic_ack(method.delivery_tag)
            })?;
            channel.start_consuming()
        });
        assert_eq!(ended.unwrap(), ConsumingEnded::Cancelled);
        assert_message_count(&admin, &queue, 2);
    });
}

/// A bound that is smaller than any message lets one through at a time.
#[test]
fn a_bound_of_no_bytes_lets_one_message_through_at_a_time() {
    bounded(|| {
        let mut fixture = Fixture::new();
        let queue = fixture.queue("bytes");
        let mut publisher = publisher(&Supervisor::new(support::url()), &queue).max_bytes(0);
        for _ in 0..5 {
            publisher.publish("", &queue, "more than nothing").unwrap();
            assert!(publisher.unconfirmed() <= 1);
        }
        publisher.wait_for_confirms(LIMIT).unwrap();
        assert_message_count(&channel(), &queue, 5);
    });
}

/// An exchange that is deleted meanwhile and that the set-up declares is there again, and nothing is lost.
#[test]
fn an_exchange_that_is_deleted_meanwhile_is_declared_by_the_set_up() {
    bounded(|| {
        let mut fixture = Fixture::new();
        let (queue, exchange) = (fixture.queue("again"), fixture.exchange("again"));
        let (declared, bound) = (exchange.clone(), queue.clone());
        let proxy = Proxy::start();
        let mut publisher = supervisor(&proxy)
            .publisher(10, move |channel| {
                let declare = haypile::ExchangeDeclare::new(&declared, "direct").durable(true);
                channel.exchange_declare(declare)?;
                channel.queue_declare(durable(&bound))?;
                channel.queue_bind(&bound, &declared, "key")
            })
            .unwrap();
        publisher.publish(&exchange, "key", "1").unwrap();
        publisher.wait_for_confirms(LIMIT).unwrap();
        channel().exchange_delete(&exchange).unwrap();
        publisher.publish(&exchange, "key", "2").unwrap();
        publisher.wait_for_confirms(LIMIT).unwrap();
        publisher.publish(&exchange, "key", "3").unwrap();
        publisher.wait_for_confirms(LIMIT).unwrap();
        assert_message_count(&channel(), &queue, 3);
    });
}
