//! Threads that use a channel on which another one commits. RabbitMQ takes nothing there but `channel.close` until it has
//! replied to `tx.commit`, and closes the connection over anything else.

mod support;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use haypile::{
    BasicAck, BasicNack, BasicPublish, BasicReject, Channel, Connection, ConnectionParameters,
    Error, QueueDeclare,
};
use support::peer::{m, scripted_channel, Args, Peer, Session};
use support::{
    assert_matches, assert_message_count, bounded, channel, exclusive_queue, let_others_wait, open,
    rabbitmq_version, SOON,
};

const COMMITS: usize = 200;

/// How often another thread does something for each commit: RabbitMQ 4.3 takes 10,000 messages in a transaction at most.
const EACH: usize = 5;

/// Commits again and again while other threads do something on the channel. Returns how often each did.
fn commit_beside<const N: usize>(
    channel: &Channel,
    queue: &str,
    others: [&(dyn Fn() + Sync); N],
) -> [usize; N] {
    let finished = AtomicBool::new(false);
    let commits = AtomicUsize::new(0);
    let counts = [(); N].map(|()| AtomicUsize::new(0));
    thread::scope(|scope| {
        for (other, count) in others.iter().zip(&counts) {
            let (finished, commits) = (&finished, &commits);
            scope.spawn(move || {
                while !finished.load(Ordering::SeqCst) {
                    if count.load(Ordering::SeqCst) >= EACH * (1 + commits.load(Ordering::SeqCst)) {
                        thread::yield_now();
                        continue;
                    }
                    other();
                    count.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for _ in 0..COMMITS {
            channel.basic_publish("", queue, "body").unwrap();
            let committed = channel.tx_commit();
            finished.store(committed.is_err(), Ordering::SeqCst);
            committed.unwrap();
            commits.fetch_add(1, Ordering::SeqCst);
        }
        finished.store(true, Ordering::SeqCst);
    });
    channel.tx_commit().unwrap();
    counts.map(AtomicUsize::into_inner)
}

fn transacted() -> (Channel, String) {
    let channel = channel();
    let queue = exclusive_queue(&channel);
    channel.tx_select().unwrap();
    (channel, queue)
}

#[test]
fn threads_publish_while_another_commits() {
    bounded(|| {
        let (channel, queue) = transacted();
        // Larger ones are written from where they lie.
        let large = vec![b'm'; 33 * 1024];
        let small = || channel.basic_publish("", &queue, "small").unwrap();
        let large = || channel.basic_publish("", &queue, &large).unwrap();
        let mandatory = || {
            let mandatory = BasicPublish::new().mandatory(true);
            let published = channel.basic_publish_with("", &queue, "mandatory", mandatory);
            published.unwrap();
        };
        let counts = commit_beside(&channel, &queue, [&small, &large, &mandatory]);
        assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
        let all = COMMITS + counts.iter().sum::<usize>();
        assert_message_count(&channel, &queue, u32::try_from(all).unwrap());
    });
}

#[test]
fn threads_call_while_another_commits() {
    bounded(|| {
        let (channel, queue) = transacted();
        let declare = || {
            let passive = QueueDeclare::new(&queue).passive(true);
            assert_eq!(channel.queue_declare(passive).unwrap().queue, queue);
        };
        let qos = || channel.basic_qos(10).unwrap();
        let flow = || assert!(channel.flow(true).unwrap());
        let select = || channel.tx_select().unwrap();
        let roll_back = || channel.tx_rollback().unwrap();
        let commit = || channel.tx_commit().unwrap();
        let others: [&(dyn Fn() + Sync); 6] = [&declare, &qos, &flow, &select, &roll_back, &commit];
        let counts = commit_beside(&channel, &queue, others);
        assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
        assert!(channel.is_open());
    });
}

#[test]
fn threads_acknowledge_while_another_commits() {
    bounded(|| {
        let (channel, queue) = transacted();
        let tasks = exclusive_queue(&channel);
        let next = || {
            let publisher = channel.connection().channel().unwrap();
            publisher.basic_publish("", &tasks, "task").unwrap();
            publisher.close().unwrap();
            channel.basic_get(tasks.as_str()).unwrap()
        };
        let ack = || {
            if let Some((method, ..)) = next() {
                channel.basic_ack(method.delivery_tag).unwrap();
            }
        };
        let nack = || {
            if let Some((method, ..)) = next() {
                let nack = BasicNack::new(method.delivery_tag).requeue(false);
                channel.basic_nack(nack).unwrap();
            }
        };
        let reject = || {
            if let Some((method, ..)) = next() {
                let reject = BasicReject::new(method.delivery_tag).requeue(false);
                channel.basic_reject(reject).unwrap();
            }
        };
        let counts = commit_beside(&channel, &queue, [&ack, &nack, &reject]);
        assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
        assert!(channel.basic_get(tasks.as_str()).unwrap().is_none());
        // What was acknowledged is committed: none comes again.
        channel.basic_recover(true).unwrap();
        assert!(channel.basic_get(tasks.as_str()).unwrap().is_none());
    });
}

/// The thread that consumes acknowledges in a callback what the commits of another one publish.
#[test]
fn a_callback_acknowledges_while_another_thread_commits() {
    bounded(|| {
        let (channel, queue) = transacted();
        let (report, reports) = mpsc::channel();
        channel
            .basic_consume(&queue, move |channel, method, _, _| {
                channel.basic_ack(method.delivery_tag)?;
                report.send(()).map_err(Error::other)
            })
            .unwrap();
        thread::scope(|scope| {
            let (channel, queue) = (&channel, &queue);
            scope.spawn(move || {
                for _ in 0..COMMITS {
                    channel.basic_publish("", queue, "body").unwrap();
                    channel.tx_commit().unwrap();
                }
                assert_eq!(reports.iter().take(COMMITS).count(), COMMITS);
                channel.tx_commit().unwrap();
                channel.stop_consuming().unwrap();
            });
            channel.start_consuming().unwrap();
        });
        channel.basic_recover(true).unwrap();
        assert!(channel.basic_get(queue.as_str()).unwrap().is_none());
    });
}

/// A thread that does nothing but commit leaves room for one that publishes, and for another one that does the same.
#[test]
fn every_thread_gets_its_turn_between_commits() {
    const TURNS: usize = 50;
    bounded(|| {
        let (channel, queue) = transacted();
        let publish = || channel.basic_publish("", &queue, "body").unwrap();
        let commit = || channel.tx_commit().unwrap();
        thread::scope(|scope| {
            let publishing = scope.spawn(|| (0..TURNS).for_each(|_| publish()));
            let committing = scope.spawn(|| (0..TURNS).for_each(|_| commit()));
            while !publishing.is_finished() || !committing.is_finished() {
                publish();
                commit();
            }
        });
        assert!(channel.is_open());
    });
}

/// A broker that has got `tx.commit`, and replies when it may go on.
fn committing(
    rest: impl FnOnce(&mut Session, &mpsc::Receiver<()>) + Send + 'static,
) -> (Channel, Peer, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let (has_begun, begun) = mpsc::channel();
    let (go_on, goes_on) = mpsc::channel();
    let (channel, peer) = scripted_channel(move |session| {
        let mut frame = session.frame();
        if frame.is(2, m::CHANNEL_OPEN) {
            session.send_method(2, m::CHANNEL_OPEN_OK, Args::new().longstr(b""));
            frame = session.frame();
        }
        assert!(frame.is(1, m::TX_COMMIT));
        has_begun.send(()).unwrap();
        rest(session, &goes_on);
    });
    (channel, peer, begun, go_on)
}

#[test]
fn nothing_is_sent_until_the_broker_has_committed_and_then_all() {
    bounded(|| {
        let (channel, peer, begun, go_on) = committing(|session, goes_on| {
            // Another channel is not held up.
            session.expect_content(2, m::BASIC_PUBLISH);
            goes_on.recv().unwrap();
            session.expect_nothing_for(Duration::from_millis(100));
            session.send_method(1, m::TX_COMMIT_OK, Args::new());
            let mut came = Vec::new();
            while came.len() < 4 {
                let frame = session.frame();
                assert_eq!(frame.channel, 1);
                let Some(method) = frame.method() else {
                    continue;
                };
                came.push(method);
                if method == m::BASIC_QOS {
                    session.send_method(1, m::BASIC_QOS_OK, Args::new());
                }
            }
            came.sort_unstable();
            let mut expected = [
                m::BASIC_PUBLISH,
                m::BASIC_PUBLISH,
                m::BASIC_ACK,
                m::BASIC_QOS,
            ];
            expected.sort_unstable();
            assert_eq!(came, expected);
        });
        let large = vec![b'm'; 33 * 1024];
        let other = channel.connection().channel().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| channel.tx_commit().unwrap());
            begun.recv_timeout(SOON).unwrap();
            scope.spawn(|| channel.basic_publish("", "q", "body").unwrap());
            scope.spawn(|| channel.basic_publish("", "q", &large).unwrap());
            scope.spawn(|| channel.basic_ack(BasicAck::new(0).multiple(true)).unwrap());
            scope.spawn(|| channel.basic_qos(1).unwrap());
            let_others_wait();
            other.basic_publish("", "q", "not held up").unwrap();
            go_on.send(()).unwrap();
        });
        support::peer::finish(channel, peer);
    });
}

/// What waits for the end of a commit ends with the channel, whatever closes it.
#[test]
fn a_channel_that_is_closed_during_a_commit_holds_up_no_thread() {
    fn sends(channel: &Channel) -> [Result<(), Error>; 3] {
        thread::scope(|scope| {
            [
                scope.spawn(|| channel.basic_publish("", "q", "body")),
                scope.spawn(|| channel.basic_ack(1)),
                scope.spawn(|| channel.basic_qos(1)),
            ]
            .map(|sending| sending.join().unwrap())
        })
    }
    bounded(|| {
        // By this program. RabbitMQ takes `channel.close` during a commit.
        let (channel, peer, begun, _go_on) = committing(|session, _| {
            session.expect(1, m::CHANNEL_CLOSE);
            session.send_method(1, m::CHANNEL_CLOSE_OK, Args::new());
        });
        thread::scope(|scope| {
            let commit = scope.spawn(|| channel.tx_commit());
            begun.recv_timeout(SOON).unwrap();
            let sending = scope.spawn(|| sends(&channel));
            let_others_wait();
            channel.close().unwrap();
            assert_matches!(
                commit.join().unwrap(),
                Err(Error::ChannelClosedByClient { .. })
            );
            for sent in sending.join().unwrap() {
                // The latter if it came only when the channel was closed.
                assert_matches!(
                    sent,
                    Err(Error::ChannelClosedByClient { .. } | Error::ChannelWrongState { .. })
                );
            }
        });
        support::peer::finish(channel, peer);

        // By the broker, which cannot commit.
        let (channel, peer, begun, go_on) = committing(|session, goes_on| {
            goes_on.recv().unwrap();
            session.send_channel_close(1, 406, "PRECONDITION_FAILED", m::TX_COMMIT);
            session.expect(1, m::CHANNEL_CLOSE_OK);
        });
        thread::scope(|scope| {
            let commit = scope.spawn(|| channel.tx_commit());
            begun.recv_timeout(SOON).unwrap();
            let sending = scope.spawn(|| sends(&channel));
            let_others_wait();
            go_on.send(()).unwrap();
            let ends = sending.join().unwrap();
            for end in ends.into_iter().chain([commit.join().unwrap()]) {
                assert_eq!(end.unwrap_err().reply_code(), Some(406));
            }
        });
        support::peer::finish(channel, peer);
    });
}

#[test]
fn a_commit_that_takes_too_long_costs_the_channel_and_holds_up_no_thread() {
    bounded(|| {
        let (has_begun, begun) = mpsc::channel();
        let peer = Peer::start(move |session| {
            session.handshake();
            session.open_channel(1);
            session.expect(1, m::TX_COMMIT);
            has_begun.send(()).unwrap();
            session.expect(1, m::CHANNEL_CLOSE);
            session.send_method(1, m::CHANNEL_CLOSE_OK, Args::new());
            session.serve_until_end();
        });
        let limit = Duration::from_secs(2);
        let parameters = ConnectionParameters::from_url(peer.url()).unwrap();
        let connection = Connection::open(parameters.rpc_timeout(limit)).unwrap();
        let channel = connection.channel().unwrap();
        thread::scope(|scope| {
            let commit = scope.spawn(|| channel.tx_commit());
            begun.recv_timeout(SOON).unwrap();
            // So that their own time ends later.
            let_others_wait();
            let publish = scope.spawn(|| channel.basic_publish("", "q", "body"));
            let call = scope.spawn(|| channel.basic_qos(1));
            let ends = [commit, publish, call].map(|end| end.join().unwrap().unwrap_err());
            for end in &ends {
                let is_of_closed = matches!(
                    end,
                    Error::Timeout {
                        channel_closed: true,
                        ..
                    }
                );
                assert!(is_of_closed, "{end:?}");
                assert!(end.to_string().contains("the channel was closed then"));
            }
            let [commit, others @ ..] = ends.map(|end| end.to_string());
            let unknown = "waiting for tx.commit; whether the broker has committed is unknown";
            assert!(commit.contains(unknown), "{commit}");
            for other in others {
                let in_vain =
                    "waiting for the commit of a transaction by another thread; nothing was sent";
                assert!(other.contains(in_vain), "{other}");
            }
            // Nor is it sent by a later call, which returns what closed the channel.
            let later = channel.basic_publish("", "q", "body").unwrap_err();
            assert_eq!(later.to_string(), commit);
        });
        assert!(channel.is_closed());
        connection.close().unwrap();
        peer.finish();
    });
}

#[test]
fn a_stop_ends_the_wait_for_a_commit() {
    bounded(|| {
        let (channel, peer, begun, go_on) = committing(|session, goes_on| {
            goes_on.recv().unwrap();
            session.send_method(1, m::TX_COMMIT_OK, Args::new());
        });
        thread::scope(|scope| {
            let commit = scope.spawn(|| channel.tx_commit());
            begun.recv_timeout(SOON).unwrap();
            let publish = scope.spawn(|| channel.basic_publish("", "q", "body"));
            let_others_wait();
            channel.stop_handle().stop();
            assert_matches!(publish.join().unwrap(), Err(Error::Stopped { .. }));
            go_on.send(()).unwrap();
            commit.join().unwrap().unwrap();
        });
        support::peer::finish(channel, peer);
    });
}

/// RabbitMQ refuses nothing while it rolls back, or begins transactions.
#[test]
fn nothing_waits_for_a_rollback() {
    bounded(|| {
        let (channel, peer) = scripted_channel(|session| {
            session.expect(1, m::TX_SELECT);
            session.expect_content(1, m::BASIC_PUBLISH);
            session.send_method(1, m::TX_SELECT_OK, Args::new());
            session.expect(1, m::TX_ROLLBACK);
            session.expect_content(1, m::BASIC_PUBLISH);
            session.send_method(1, m::TX_ROLLBACK_OK, Args::new());
        });
        for call in [Channel::tx_select, Channel::tx_rollback] {
            thread::scope(|scope| {
                scope.spawn(|| call(&channel).unwrap());
                let_others_wait();
                channel.basic_publish("", "q", "body").unwrap();
            });
        }
        support::peer::finish(channel, peer);
    });
}

#[test]
fn threads_call_while_another_turns_confirms_on() {
    bounded(|| {
        let connection = open();
        for _ in 0..50 {
            let channel = connection.channel().unwrap();
            thread::scope(|scope| {
                scope.spawn(|| channel.confirm_delivery().unwrap());
                scope.spawn(|| channel.basic_qos(1).unwrap());
                scope.spawn(|| {
                    channel
                        .basic_publish("amq.direct", "nowhere", "body")
                        .unwrap()
                });
            });
            channel.close().unwrap();
        }
    });
}

/// The client cancels what the broker has cancelled, which RabbitMQ 4.3 waits for. During a commit that would cost the connection.
#[test]
fn consumers_are_cancelled_while_a_thread_commits() {
    bounded(|| {
        let (channel, queue) = transacted();
        let other = channel.connection().channel().unwrap();
        let finished = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..COMMITS {
                    let queue = exclusive_queue(&other);
                    channel.basic_consume(&queue, |_, _, _, _| {}).unwrap();
                    other.queue_delete(&queue).unwrap();
                }
                finished.store(true, Ordering::SeqCst);
            });
            while !finished.load(Ordering::SeqCst) && channel.is_open() {
                channel.basic_publish("", &queue, "body").unwrap();
                channel.tx_commit().unwrap();
            }
        });
        assert!(channel.is_open());
    });
}

#[test]
fn a_consumer_that_the_broker_cancels_during_a_commit_is_cancelled_afterwards() {
    bounded(|| {
        let (has_begun, begun) = mpsc::channel();
        let (channel, peer) = scripted_channel(move |session| {
            let tag = session.accept_consumer(1);
            session.expect(1, m::TX_COMMIT);
            has_begun.send(()).unwrap();
            let cancel = Args::new().shortstr(&tag).octet(1);
            session.send_method(1, m::BASIC_CANCEL, cancel);
            session.expect_nothing_for(Duration::from_millis(100));
            session.send_method(1, m::TX_COMMIT_OK, Args::new());
            session.expect(1, m::BASIC_CANCEL);
        });
        channel.basic_consume("q", |_, _, _, _| {}).unwrap();
        channel.tx_commit().unwrap();
        begun.recv_timeout(SOON).unwrap();
        support::peer::finish(channel, peer);
    });
}

/// RabbitMQ 4.3 refuses the next one, with all of them; see `tx_select`.
#[test]
fn a_transaction_has_room_for_ten_thousand_publishes() {
    const LIMIT: u32 = 10_000;
    bounded(|| {
        let channel = channel();
        let queue = exclusive_queue(&channel);
        let connection = channel.connection();
        channel.tx_select().unwrap();
        for _ in 0..LIMIT {
            channel.basic_publish("", &queue, "body").unwrap();
        }
        channel.tx_commit().unwrap();
        // Acknowledgements do not count.
        for number in 0..LIMIT {
            if number < 10 {
                let (method, _, _) = channel.basic_get(&queue).unwrap().unwrap();
                channel.basic_ack(method.delivery_tag).unwrap();
            }
            channel.basic_publish("", &queue, "body").unwrap();
        }
        channel.tx_commit().unwrap();
        assert_message_count(&channel, &queue, 2 * LIMIT - 10);

        for _ in 0..=LIMIT {
            // The broker may have closed the channel over the last one by now.
            let _ = channel.basic_publish("", &queue, "body");
        }
        let committed = channel.tx_commit();
        let other = connection.channel().unwrap();
        if rabbitmq_version(&connection) < (4, 3) {
            committed.unwrap();
            assert_message_count(&other, &queue, 3 * LIMIT - 9);
            return;
        }
        let error = committed.unwrap_err();
        assert_matches!(error, Error::ChannelClosedByBroker { .. });
        assert_eq!(error.reply_code(), Some(406));
        let text = error.to_string();
        assert!(text.contains("maximum of 10000"), "{text}");
        assert!(text.contains("commit more often"), "{text}");
        assert_message_count(&other, &queue, 2 * LIMIT - 10);
    });
}
