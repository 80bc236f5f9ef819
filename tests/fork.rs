//! A forked child has copies of its parent's handles. It must not touch the parent's connection, and gets an error when it tries.
#![cfg(unix)]

mod support;

use std::io::Write as _;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use haypile::{BasicPublish, Channel, Connection, Error, Supervisor};
use support::{assert_message_count, bounded, exclusive_queue, open, url, SOON};

/// One test after another: the standard library locks its list of threads while one starts or ends, and a child in which that
/// lock is taken never gets through `exit`.
fn alone(test: impl FnOnce() + Send + 'static) {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    bounded(test);
}

/// Runs something in a child, which ends in good order afterwards; fails if it panics there.
#[track_caller]
fn in_child(body: impl FnOnce()) {
    match fork::fork().unwrap() {
        fork::Fork::Child => {
            // The harness would keep what is printed, and the child has no harness.
            std::panic::set_hook(Box::new(|info| {
                let _ = writeln!(std::io::stderr(), "in the child: {info}");
            }));
            let result = catch_unwind(AssertUnwindSafe(body));
            std::process::exit(if result.is_ok() { 0 } else { 1 });
        }
        fork::Fork::Parent(child) => {
            let deadline = Instant::now() + SOON;
            loop {
                if let Some(status) = fork::waitpid_nohang(child).unwrap() {
                    assert_eq!(status, 0, "the child failed");
                    return;
                }
                assert!(Instant::now() < deadline, "the child hangs");
                thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

/// The connection works, and nothing came in between.
#[track_caller]
fn assert_works(channel: &Channel, queue: &str, before: u32) {
    channel.basic_publish("", queue, "from the parent").unwrap();
    assert_message_count(channel, queue, before + 1);
    assert!(channel.is_open() && channel.connection().is_open());
}

#[track_caller]
fn assert_forked(error: Error) {
    let text = error.to_string();
    assert!(text.contains("needs a connection of its own"), "{text}");
    assert!(error.is_connection_error(), "{error:?}");
}

#[test]
fn a_child_that_drops_its_handles_leaves_the_connection_alone() {
    alone(|| {
        let connection = open();
        let channel = connection.channel().unwrap();
        let queue = exclusive_queue(&channel);
        let second = connection.channel().unwrap();
        second.basic_consume(&queue, |_, _, _, _| ()).unwrap();
        second.close().unwrap();
        let mut handles = Some((connection, channel.clone()));
        let publisher = channel
            .connection()
            .channel()
            .unwrap()
            .publisher(5)
            .unwrap();
        let messages = channel.connection().channel().unwrap().consume(&queue);
        let messages = messages.unwrap();
        let mut rest = Some((publisher, messages));
        in_child(|| {
            drop(rest.take());
            drop(handles.take());
        });
        drop(rest);
        assert_works(&channel, &queue, 0);
        // A child that only ends has copies in its statics, and in the frames of its parent.
        static KEPT: OnceLock<Channel> = OnceLock::new();
        KEPT.set(channel.clone()).unwrap();
        in_child(|| ());
        assert_works(&channel, &queue, 1);
    });
}

/// What they hold is the parent's, and its drop might report an end that is none.
#[test]
fn callbacks_are_not_dropped_in_a_child() {
    static DROPPED: AtomicBool = AtomicBool::new(false);
    struct Held;
    impl Drop for Held {
        fn drop(&mut self) {
            DROPPED.store(true, Ordering::SeqCst);
        }
    }
    alone(|| {
        let connection = open();
        let held = Held;
        let timer = connection.call_later(SOON, move || drop(held)).unwrap();
        in_child(|| {
            assert_forked(connection.process_data_events(Duration::ZERO).unwrap_err());
            assert!(!DROPPED.load(Ordering::SeqCst));
        });
        connection.remove_timeout(timer);
        assert!(DROPPED.load(Ordering::SeqCst));
    });
}

#[test]
fn every_use_in_a_child_is_an_error() {
    alone(|| {
        let connection = open();
        let channel = connection.channel().unwrap();
        let queue = exclusive_queue(&channel);
        let confirmed = connection.channel().unwrap();
        confirmed.confirm_delivery().unwrap();
        let mut publisher = connection.channel().unwrap().publisher(2).unwrap();
        publisher.publish("", &queue, "one").unwrap();
        publisher.publish("", &queue, "two").unwrap();
        publisher.wait_for_confirms(SOON).unwrap();
        let consuming = connection.channel().unwrap();
        let empty = exclusive_queue(&channel);
        let mut messages = consuming.consume(&empty).unwrap();
        // So that something was gathered just before.
        channel.basic_publish("", &queue, "three").unwrap();
        in_child(|| {
            assert_forked(channel.basic_publish("", &queue, "child").unwrap_err());
            assert_forked(channel.basic_ack(1).unwrap_err());
            assert_forked(
                channel
                    .basic_publish("", &queue, vec![0; 100_000])
                    .unwrap_err(),
            );
            assert_forked(confirmed.basic_publish("", &queue, "child").unwrap_err());
            assert_forked(publisher.publish("", &queue, "child").unwrap_err());
            assert_forked(publisher.wait_for_confirms(SOON).unwrap_err());
            assert_forked(channel.queue_declare(&queue).unwrap_err());
            assert_forked(channel.basic_get(&queue).unwrap_err());
            assert_forked(channel.basic_qos(1).unwrap_err());
            let consumed = channel.basic_consume(&queue, |_, _, _, _| ());
            assert_forked(consumed.unwrap_err());
            assert_forked(channel.consume(&queue).map(|_| ()).unwrap_err());
            assert_forked(messages.next().unwrap().map(|_| ()).unwrap_err());
            assert!(messages.next().is_none() && messages.is_cancelled());
            assert_forked(channel.close().unwrap_err());
            assert_forked(connection.channel().map(|_| ()).unwrap_err());
            assert_forked(connection.process_data_events(Duration::ZERO).unwrap_err());
            assert_forked(connection.process_data_events(None).unwrap_err());
            assert_forked(
                connection
                    .call_later(Duration::ZERO, || ())
                    .map(|_| ())
                    .unwrap_err(),
            );
            assert_forked(connection.update_secret("secret", "renewed").unwrap_err());
            assert_forked(connection.close().unwrap_err());
            assert!(connection.is_closed() && !connection.is_open());
            assert!(channel.is_closed() && !channel.is_open());
            assert!(consuming.consumer_tags().is_empty());
            assert_eq!(connection.blocked(), None);
            assert!(format!("{connection:?} {channel:?}").contains("open: false"));
        });
        assert_works(&channel, &queue, 3);
        publisher.publish("", &queue, "four").unwrap();
        publisher.wait_for_confirms(SOON).unwrap();
        confirmed.basic_publish("", &queue, "five").unwrap();
    });
}

/// Each way in is the first that the child takes.
#[test]
fn the_first_use_in_a_child_is_an_error_already() {
    alone(|| {
        let connection = open();
        let channel = connection.channel().unwrap();
        let queue = exclusive_queue(&channel);
        channel.basic_consume(&queue, |_, _, _, _| ()).unwrap();
        let uses: [&dyn Fn() -> Result<(), Error>; 8] = [
            &|| channel.basic_publish("", &queue, "child"),
            &|| channel.basic_ack(1),
            &|| channel.start_consuming().map(|_| ()),
            &|| channel.queue_purge(&queue).map(|_| ()),
            &|| channel.close(),
            &|| connection.close(),
            &|| connection.process_data_events(None),
            &|| {
                let message = BasicPublish::new().mandatory(true);
                channel.basic_publish_with("", &queue, vec![0; 200_000], message)
            },
        ];
        for used in uses {
            in_child(|| assert_forked(used().unwrap_err()));
        }
        assert!(connection.is_open());
        channel.basic_qos(1).unwrap();
    });
}

/// However much is gathered when the child comes to be, and whichever locks the connection's threads hold.
#[test]
fn a_child_of_a_busy_parent_neither_hangs_nor_writes() {
    alone(|| {
        let connection = open();
        let channel = connection.channel().unwrap();
        let queue = exclusive_queue(&channel);
        let consumer = connection.channel().unwrap();
        let mut published = 0;
        let stop = std::sync::atomic::AtomicBool::new(false);
        thread::scope(|scope| {
            let other = connection.channel().unwrap();
            let stop = &stop;
            // Round trips keep the locks of the connection busy.
            scope.spawn(move || {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    other.basic_qos(1).unwrap();
                }
            });
            for round in 0..20 {
                for _ in 0..round * 10 {
                    channel.basic_publish("", &queue, "parent").unwrap();
                    published += 1;
                }
                in_child(|| {
                    // At the latest when as much has gathered as is checked at once.
                    let error = (0..1000)
                        .find_map(|_| channel.basic_publish("", &queue, [b'c'; 2000]).err())
                        .expect("a thousand messages were taken");
                    assert_forked(error);
                    assert_forked(consumer.basic_qos(1).unwrap_err());
                });
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        assert_message_count(&channel, &queue, published);
        assert_works(&channel, &queue, published);
    });
}

/// Its thread is not there in the child, so that nothing would ever be mended or confirmed.
#[test]
fn a_childs_use_of_a_reliable_publisher_is_an_error() {
    alone(|| {
        let channel = support::channel();
        let mut fixture = support::Fixture::new();
        let queue = fixture.queue("fork");
        channel.queue_declare(&queue).unwrap();
        let supervisor = Supervisor::new(url().as_str());
        let publisher = supervisor.publisher(1000, |_| Ok(())).unwrap();
        let mut publisher = Some(publisher.timeout(Duration::from_secs(3600)));
        let mut published = 0;
        for round in 0..20 {
            let own = publisher.as_mut().unwrap();
            for _ in 0..round {
                own.publish("", &queue, "parent").unwrap();
                published += 1;
            }
            in_child(|| {
                let mut own = publisher.take().unwrap();
                if round % 2 == 0 {
                    let error = (0..1000)
                        .find_map(|_| own.publish("", &queue, "child").err())
                        .expect("a thousand messages were taken");
                    assert_forked(error);
                }
                let began = Instant::now();
                assert_forked(own.wait_for_confirms(None).unwrap_err());
                assert_forked(own.publish("", &queue, "child").unwrap_err());
                assert!(own.take_unconfirmed().is_empty());
                assert_eq!(own.unconfirmed(), 0);
                drop(own);
                assert!(began.elapsed() < Duration::from_secs(4), "it waited");
            });
        }
        let own = publisher.as_mut().unwrap();
        own.wait_for_confirms(SOON).unwrap();
        assert_message_count(&channel, &queue, published);
    });
}

#[test]
fn a_child_may_open_a_connection_of_its_own() {
    alone(|| {
        let connection = open();
        let channel = connection.channel().unwrap();
        let queue = exclusive_queue(&channel);
        let shared = support::unique("fork");
        channel.queue_declare(&shared).unwrap();
        let url = url();
        in_child(|| {
            let own = Connection::open(url.as_str()).unwrap();
            let own = own.channel().unwrap();
            own.basic_publish("", &shared, "from the child").unwrap();
            own.basic_publish("", &shared, "once more").unwrap();
            std::mem::forget(own);
        });
        assert_message_count(&channel, &shared, 2);
        channel.queue_delete(&shared).unwrap();
        assert_works(&channel, &queue, 0);
    });
}
