//! How a connection or a channel ends while threads wait, publish and run callbacks: all of them get the error, and both threads of
//! the connection end (a schedule at whose end a thread sleeps is a failure).

use std::time::Duration;

use super::broker::{connect, pick, Behavior, Broker, End, TIMEOUT};
use super::calls::{declare, declare_ok, AT_REST};
use super::check;
use super::sync::thread::{spawn, JoinHandle};
use super::sync::{is_exact, sleep, Instant};
use crate::io::end::WRITE_ERROR_LIMIT;
use crate::io::write_half::WRITE_SLICE;
use crate::protocol::method::Method;
use crate::{BasicConsume, Channel, Connection, Error, QueueDeclare};

/// How long a connection in its youth may take to find out that it is lost.
const SOON: Duration = Duration::from_millis(20);

fn a_while() -> Duration {
    pick(&[Duration::ZERO, Duration::from_millis(9), AT_REST])
}

/// The stream ends, by a hang-up or by an error, or takes nothing more.
fn lose(broker: &Broker) {
    match pick(&[Some(End::HungUp), Some(End::Reset), None]) {
        Some(end) => broker.send_nothing_more(end),
        None => broker.take_nothing_more(),
    }
}

/// A broker that replies to no call.
fn play(broker: &Broker) -> JoinHandle<()> {
    let broker = broker.clone();
    spawn(move || broker.play(|_, _, _| {}))
}

/// Publishes until that fails, and returns the error.
fn publish_until_it_fails(channel: Channel) -> JoinHandle<Error> {
    spawn(move || loop {
        if let Err(error) = channel.basic_publish("", "queue", "x") {
            return error;
        }
        sleep(Duration::from_millis(3));
    })
}

fn close(reply_text: &str) -> Method<'_> {
    Method::ConnectionClose {
        reply_code: 320,
        reply_text: reply_text.into(),
        class_id: 0,
        method_id: 0,
    }
}

/// Callers, a publisher and a consumer; then `end`. Returns the errors that the callers and the publisher got.
fn end_amid_everything(
    connection: &Connection,
    callers: usize,
    end: impl FnOnce(),
) -> (Vec<Error>, Error) {
    let callers: Vec<_> = (0..callers)
        .map(|_| {
            let channel = connection.channel().unwrap();
            spawn(move || {
                channel
                    .queue_declare(QueueDeclare::new("queue"))
                    .unwrap_err()
            })
        })
        .collect();
    let consumed = connection.channel().unwrap();
    consumed
        .basic_consume(BasicConsume::new("queue"), |_, _, _, _| {})
        .unwrap();
    let consumer = spawn(move || consumed.start_consuming());
    let publisher = publish_until_it_fails(connection.channel().unwrap());
    sleep(a_while());
    end();
    let error = callers.into_iter().map(|caller| caller.join().unwrap());
    let error = error.collect();
    let publisher = publisher.join().unwrap();
    consumer.join().unwrap().unwrap_err();
    (error, publisher)
}

#[test]
fn every_wait_ends_when_the_stream_is_lost() {
    check(|| {
        let (connection, broker) = connect(Behavior::PROMPT);
        let playing = play(&broker);
        let (error, publisher) = end_amid_everything(&connection, 2, || lose(&broker));
        for error in error.iter().chain([&publisher]) {
            assert!(matches!(error, Error::StreamLost(_)), "{error:?}");
        }
        assert!(connection.is_closed());
        playing.join().unwrap();
    });
}

/// Publishers that wait for room, and threads that wait for a flush, get the error that the stream is lost.
#[test]
fn a_wait_for_room_ends_when_the_stream_is_lost() {
    check(|| {
        let (connection, broker) = connect(Behavior {
            room: 1000,
            ..Behavior::PROMPT
        });
        let append = |size| {
            let connection = connection.clone();
            move || {
                let link = connection.link();
                link.gather(1, TIMEOUT.into(), |out| {
                    out.bytes.resize(out.bytes.len() + size, 0);
                    Ok(())
                })
            }
        };
        let publishers = [append(300_000), append(300_000)]
            .map(|append| spawn(move || while append().is_ok() {}));
        let flusher = {
            let (connection, append) = (connection.clone(), append(10));
            spawn(move || {
                if append().is_ok() {
                    connection.link().flush(TIMEOUT);
                }
            })
        };
        sleep(a_while());
        lose(&broker);
        let lost = Instant::now();
        for thread in publishers.into_iter().chain([flusher]) {
            thread.join().unwrap();
        }
        // At the latest when a thread that was writing gives up, which may be the one that has to start the reader thread, and
        // the one that read the end has waited for its error.
        assert!(!is_exact() || lost.elapsed() <= WRITE_SLICE + WRITE_ERROR_LIMIT + SOON);
    });
}

/// The broker closes the connection. Its close is confirmed, after all else that is sent.
#[test]
fn every_wait_ends_when_the_broker_closes_the_connection() {
    check(|| {
        let (connection, broker) = connect(Behavior::PROMPT);
        let playing = play(&broker);
        let (error, publisher) =
            end_amid_everything(&connection, 2, || broker.send(0, &close("shutdown")));
        for error in error.iter().chain([&publisher]) {
            assert!(
                matches!(error, Error::ConnectionClosedByBroker { .. }),
                "{error:?}"
            );
        }
        playing.join().unwrap();
        let seen = broker.seen();
        assert_eq!(&seen[seen.len() - 1].frame[7..11], [0, 10, 0, 51]);
    });
}

/// This end closes the connection while others wait and publish.
#[test]
fn every_wait_ends_when_this_end_closes_the_connection() {
    check(|| {
        let (connection, broker) = connect(Behavior::PROMPT);
        let playing = play(&broker);
        let channels = [(); 2].map(|()| connection.channel().unwrap());
        let publisher = publish_until_it_fails(connection.channel().unwrap());
        let callers = channels.map(|channel| {
            spawn(move || {
                channel
                    .queue_declare(QueueDeclare::new("queue"))
                    .unwrap_err()
            })
        });
        sleep(a_while());
        connection.close().unwrap();
        for thread in callers.into_iter().chain([publisher]) {
            thread.join().unwrap();
        }
        playing.join().unwrap();
    });
}

/// A connection that is lost soon after it was opened, perhaps before there is a reader thread, and perhaps with only a writer to
/// find out.
#[test]
fn a_connection_lost_early_leaves_no_thread_behind() {
    check(|| {
        let (connection, broker) = connect(Behavior::PROMPT);
        let end = pick(&[None, Some(End::Reset), Some(End::HungUp)]);
        if end.is_none() {
            broker.take_nothing_more();
        }
        let publisher = spawn(move || {
            let link = connection.link();
            let sent = link.gather(1, AT_REST.into(), |out| {
                out.bytes.extend_from_slice(b"anything");
                Ok(())
            });
            // It may be lost already.
            drop(sent);
            // The last handle goes here, and closes the connection if it is open.
        });
        if let Some(end) = end {
            sleep(pick(&[Duration::ZERO, Duration::from_millis(9)]));
            broker.send_nothing_more(end);
        }
        publisher.join().unwrap();
    });
}

/// The broker closes a channel while threads publish on it: nothing follows the `close-ok`, each of them gets the reason, and the
/// other channels go on.
#[test]
fn nothing_follows_the_close_ok_of_a_channel() {
    check(|| {
        let (connection, broker) = connect(Behavior::PROMPT);
        let playing = {
            let broker = broker.clone();
            spawn(move || {
                broker.play(|broker, channel, _| {
                    if channel == 2 {
                        declare_ok(broker, 2)
                    }
                })
            })
        };
        let closed = connection.channel().unwrap();
        let other = connection.channel().unwrap();
        let publishers = [closed.clone(), closed].map(publish_until_it_fails);
        sleep(a_while());
        let close = Method::ChannelClose {
            reply_code: 404,
            reply_text: "no such exchange".into(),
            class_id: 60,
            method_id: 40,
        };
        broker.send(1, &close);
        declare(&other);
        for publisher in publishers {
            let error = publisher.join().unwrap();
            assert!(
                matches!(error, Error::ChannelClosedByBroker { .. }),
                "{error:?}"
            );
        }
        drop(other);
        connection.close().unwrap();
        playing.join().unwrap();
        let seen = broker.seen();
        let last = seen.iter().rfind(|seen| seen.channel == 1).unwrap();
        assert_eq!(&last.frame[7..11], [0, 20, 0, 41]);
    });
}
