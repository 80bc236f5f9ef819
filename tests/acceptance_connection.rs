//! What pika's acceptance suite for its blocking adapter asks of a connection, asked of haypile.
//! The comment above each test names pika's case.

mod support;

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::thread;
use std::time::{Duration, Instant};

use haypile::{
    BasicConsume, Connection, ConnectionParameters, Error, ExchangeDeclare, FieldValue,
    QueueDeclare,
};
use support::peer::{m, Args, Handshake, Peer, Session};
use support::proxy::Proxy;
use support::{
    assert_matches, bounded, exclusive_queue, open, pump_until, unique, url, Log, RefusedPort, SOON,
};

/// Well above what an idle loop takes, and well below any timeout.
const AT_ONCE: Duration = Duration::from_secs(1);

fn refused(port: &RefusedPort) -> ConnectionParameters {
    ConnectionParameters::new("127.0.0.1").port(port.port())
}

/// A broker that opens the connection and replies to an orderly close; the test ends with the close seen.
fn closing_peer(closed: Log<u16>) -> Peer {
    Peer::start(move |session| {
        session.handshake();
        let code = session.expect(0, m::CONNECTION_CLOSE).short();
        closed.push(code);
        session.send_method(0, m::CONNECTION_CLOSE_OK, Args::new());
        session.expect_end();
    })
}

// pika: TestCreateAndCloseConnection
#[test]
fn open_and_close() {
    bounded(|| {
        let connection = open();
        assert!(connection.is_open());
        assert!(!connection.is_closed());
        connection.close().unwrap();
        assert!(connection.is_closed());
        assert!(!connection.is_open());
    });
}

// pika: TestCreateConnectionWithNoneSocketAndStackTimeouts
#[test]
fn open_without_socket_and_stack_timeouts() {
    bounded(|| {
        let parameters = ConnectionParameters::from_url(url())
            .unwrap()
            .socket_timeout(None)
            .stack_timeout(None);
        assert!(Connection::open(parameters).unwrap().is_open());
    });
}

// pika: TestCreateConnectionFromTwoConfigsFirstUnreachable
#[test]
fn the_second_parameters_are_tried_when_the_first_are_unreachable() {
    bounded(|| {
        let refusing = RefusedPort::new();
        let proxy = Proxy::start();
        let good = ConnectionParameters::from_url(proxy.url()).unwrap();
        let connection = Connection::open([refused(&refusing), good]).unwrap();
        assert!(connection.is_open());
        assert_eq!(proxy.connections(), 1);
        connection.close().unwrap();
    });
}

// pika: TestCreateConnectionFromTwoUnreachableConfigs
// haypile does better: the error lists every attempt with its stage.
#[test]
fn two_unreachable_parameters_are_an_error_that_lists_both() {
    bounded(|| {
        let (first, second) = (RefusedPort::new(), RefusedPort::new());
        let error = Connection::open([refused(&first), refused(&second)]).unwrap_err();
        assert_matches!(error, Error::Connection(_));
        assert!(error.is_connection_error());
        let text = error.to_string();
        for port in [&first, &second] {
            assert!(text.contains(&port.address().to_string()), "{text}");
        }
        assert_eq!(error.connect_failure().unwrap().attempts.len(), 2);
    });
}

// pika: TestMultiCloseConnectionRaisesWrongState
#[test]
fn closing_twice_is_a_wrong_state() {
    bounded(|| {
        let connection = open();
        connection.close().unwrap();
        assert!(connection.is_closed());
        let error = connection.close().unwrap_err();
        assert_matches!(error, Error::ConnectionWrongState { .. });
    });
}

// pika: TestConnectionContextManagerClosesConnection; point 45
// The counterpart of leaving a `with` block is the drop of the last handle.
#[test]
fn the_last_handle_dropped_closes_the_connection() {
    bounded(|| {
        let closed = Log::new();
        let peer = closing_peer(closed.clone());
        let connection = Connection::open(peer.url()).unwrap();
        let second_handle = connection.clone();
        drop(connection);
        assert!(second_handle.is_open());
        drop(second_handle);
        peer.finish();
        assert_eq!(closed.all(), [200]);
    });
}

// pika: TestConnectionContextManagerExitSurvivesClosedConnection; point 45
#[test]
fn dropping_a_closed_connection_does_nothing_more() {
    bounded(|| {
        let closed = Log::new();
        let peer = closing_peer(closed.clone());
        {
            let connection = Connection::open(peer.url()).unwrap();
            connection.close().unwrap();
            assert!(connection.is_closed());
        }
        peer.finish();
        assert_eq!(closed.len(), 1);
    });
}

// pika: TestConnectionContextManagerClosesConnectionAndPassesOriginalException
#[test]
fn an_error_of_the_program_passes_and_the_connection_is_closed() {
    fn program(url: String) -> haypile::Result<()> {
        let connection = Connection::open(url)?;
        assert!(connection.is_open());
        Err(Error::other("the program's own"))
    }
    bounded(|| {
        let closed = Log::new();
        let peer = closing_peer(closed.clone());
        let error = program(peer.url()).unwrap_err();
        assert_eq!(error.to_string(), "the program's own");
        peer.finish();
        assert_eq!(closed.all(), [200]);
    });
}

// pika: TestConnectionContextManagerClosesConnectionAndPassesSystemException
#[test]
fn a_panic_passes_and_the_connection_is_closed() {
    bounded(|| {
        let closed = Log::new();
        let peer = closing_peer(closed.clone());
        let url = peer.url();
        let panic = catch_unwind(AssertUnwindSafe(|| {
            let connection = Connection::open(url).unwrap();
            assert!(connection.is_open());
            std::panic::resume_unwind(Box::new("the program's own"));
        }))
        .unwrap_err();
        assert_eq!(*panic.downcast::<&str>().unwrap(), "the program's own");
        peer.finish();
        assert_eq!(closed.all(), [200]);
    });
}

// pika: TestLostConnectionResultsInIsClosedConnectionAndChannel
#[test]
fn a_lost_connection_is_closed_and_so_are_its_channels() {
    bounded(|| {
        let proxy = Proxy::start();
        let connection = Connection::open(proxy.url()).unwrap();
        let channel = connection.channel().unwrap();
        proxy.cut();
        let error = channel.basic_qos(1).unwrap_err();
        assert_matches!(error, Error::StreamLost(_));
        assert_eq!(error.address(), Some(&*proxy.address().to_string()));
        assert!(!channel.is_open() && channel.is_closed());
        assert!(!connection.is_open() && connection.is_closed());
    });
}

// pika: TestUpdateSecret; point 47
#[test]
fn update_secret_leaves_everything_open() {
    bounded(|| {
        let connection = open();
        let channel = connection.channel().unwrap();
        connection.update_secret("new_secret", "reason").unwrap();
        assert!(channel.is_open() && !channel.is_closed());
        assert!(connection.is_open() && !connection.is_closed());
    });
}

// pika: TestUpdateSecretOnClosedRaisesWrongState; point 47
#[test]
fn update_secret_on_a_closed_connection_is_a_wrong_state() {
    bounded(|| {
        let connection = open();
        connection.close().unwrap();
        let error = connection
            .update_secret("new_secret", "reason")
            .unwrap_err();
        assert_matches!(error, Error::ConnectionWrongState { .. });
        assert!(connection.is_closed() && !connection.is_open());
    });
}

// pika: TestUpdateSecretExpectsStrings
// The compiler refuses other types than text. What is left to refuse at run time is a reason that AMQP has no room for.
#[test]
fn update_secret_refuses_what_cannot_be_sent() {
    bounded(|| {
        let connection = open();
        let error = connection
            .update_secret("new_secret", &"r".repeat(256))
            .unwrap_err();
        assert_matches!(error, Error::ShortStringTooLong { length: 256, .. });
        assert!(connection.is_open());
        connection.update_secret("new_secret", "reason").unwrap();
    });
}

// pika: TestInvalidExchangeTypeRaisesConnectionClosed
// (the case that pika fails on RabbitMQ 3.10, which closes the connection; RabbitMQ 4 closes the channel)
#[test]
fn an_invalid_exchange_type_is_refused_by_the_broker() {
    bounded(|| {
        let connection = open();
        let channel = connection.channel().unwrap();
        let version = connection
            .server_properties()
            .get("version")
            .and_then(FieldValue::as_str)
            .map(str::to_owned)
            .unwrap();
        let error = channel
            .exchange_declare(ExchangeDeclare::new(unique("x"), "ZZwwInvalid"))
            .unwrap_err();
        if version.starts_with("3.") {
            assert_matches!(error, Error::ConnectionClosedByBroker { .. });
            assert_eq!(error.reply_code(), Some(503));
            assert!(connection.is_closed());
        } else {
            assert_matches!(error, Error::ChannelClosedByBroker { .. });
            assert_eq!(error.reply_code(), Some(406));
            assert!(connection.is_open());
        }
        assert!(error.to_string().contains("ZZwwInvalid"), "{error}");
        assert!(channel.is_closed());
    });
}

// pika: TestCreateAndCloseConnectionWithChannelAndConsumer
#[test]
fn closing_a_connection_closes_its_channels_and_consumers() {
    bounded(|| {
        let connection = open();
        let channel = connection.channel().unwrap();
        let queue = exclusive_queue(&channel);
        channel.basic_publish("", &queue, vec![b'a'; 1024]).unwrap();
        channel
            .basic_consume(BasicConsume::new(&queue).auto_ack(true), |_, _, _, _| {})
            .unwrap();
        connection.close().unwrap();
        assert!(connection.is_closed() && !connection.is_open());
        assert!(channel.is_closed() && !channel.is_open());
        assert_eq!(channel.consumer_tags(), Vec::<String>::new());
    });
}

// pika: TestUsingInvalidQueueArgument
// The compiler refuses other types than text. What is left to refuse at run time is a name that AMQP has no room for.
#[test]
fn an_invalid_queue_name_is_refused_before_it_is_sent() {
    bounded(|| {
        let connection = open();
        let channel = connection.channel().unwrap();
        let error = channel
            .queue_declare(QueueDeclare::new("q".repeat(256)).exclusive(true))
            .unwrap_err();
        assert_matches!(error, Error::ShortStringTooLong { length: 256, .. });
        assert!(channel.is_open() && connection.is_open());
        exclusive_queue(&channel);
    });
}

// pika: TestSuddenBrokerDisconnectBeforeChannel
#[test]
fn a_connection_reset_before_channel_is_a_lost_stream() {
    bounded(|| {
        let proxy = Proxy::start();
        let connection = Connection::open(proxy.url()).unwrap();
        proxy.stop();
        let error = connection.channel().unwrap_err();
        assert_matches!(error, Error::StreamLost(_));
        assert!(connection.is_closed() && !connection.is_open());
    });
}

// pika: TestNoAccessToConnectionAfterConnectionLost
#[test]
fn calls_after_the_loss_fail_since_the_connection_is_not_open() {
    bounded(|| {
        let proxy = Proxy::start();
        let connection = Connection::open(proxy.url()).unwrap();
        proxy.stop();
        let error = connection.channel().unwrap_err();
        assert_matches!(error, Error::StreamLost(_));
        assert!(connection.is_closed() && !connection.is_open());
        let error = connection.channel().unwrap_err();
        assert_matches!(error, Error::ConnectionWrongState { .. });
        assert!(
            error.to_string().contains("lost"),
            "it should still name the cause: {error}"
        );
    });
}

// pika: TestConnectWithDownedBroker; point 61
#[test]
fn a_refused_port_is_a_connection_error() {
    bounded(|| {
        let refusing = RefusedPort::new();
        let error = Connection::open(refused(&refusing)).unwrap_err();
        assert_matches!(error, Error::Connection(_));
        assert_eq!(error.address(), Some(&*refusing.address().to_string()));
        assert!(error.to_string().contains("TCP"), "{error}");
    });
}

/// Opens a connection to a broker that follows the script and then goes: once in order, once by a reset.
fn opened_against(script: fn(&mut Session)) -> [Error; 2] {
    let peer = Peer::serve(2, move |n, session| {
        script(session);
        if n == 1 {
            session.reset();
        }
    });
    let errors = [(), ()].map(|()| Connection::open(peer.url()).unwrap_err());
    for error in &errors {
        assert!(error.is_connection_error());
        assert_eq!(error.address(), Some(&*peer.address().to_string()));
    }
    peer.finish();
    errors
}

// pika: TestDisconnectDuringConnectionStart; point 62
#[test]
fn a_loss_after_start_is_a_probable_authentication_error() {
    bounded(|| {
        let errors = opened_against(|session| {
            session.expect_protocol_header();
            session.send_start(&Handshake::default());
            session.expect(0, m::CONNECTION_START_OK);
        });
        for error in errors {
            assert_matches!(error, Error::ProbableAuthentication(_));
        }
    });
}

// pika: TestDisconnectDuringConnectionTune; point 62
#[test]
fn a_loss_after_tune_is_a_probable_access_denied_error() {
    bounded(|| {
        let errors = opened_against(|session| {
            session.expect_protocol_header();
            session.send_start(&Handshake::default());
            session.expect(0, m::CONNECTION_START_OK);
            session.send_tune(&Handshake::default());
            session.expect(0, m::CONNECTION_TUNE_OK);
        });
        for error in errors {
            assert_matches!(error, Error::ProbableAccessDenied(_));
        }
    });
}

// pika: TestDisconnectDuringConnectionProtocol; point 62
#[test]
fn a_loss_after_the_protocol_header_is_an_incompatible_protocol_error() {
    bounded(|| {
        for error in opened_against(Session::expect_protocol_header) {
            assert_matches!(error, Error::IncompatibleProtocol(_));
        }
    });
}

// pika: TestProcessDataEvents; points 7, 8
#[test]
fn process_data_events_polls_or_waits_for_its_time() {
    bounded(|| {
        let connection = open();
        let start = Instant::now();
        connection.process_data_events(Duration::ZERO).unwrap();
        assert!(start.elapsed() < AT_ONCE);

        let start = Instant::now();
        connection
            .process_data_events(Duration::from_millis(5))
            .unwrap();
        assert!(start.elapsed() >= Duration::from_millis(5));
        assert!(start.elapsed() < AT_ONCE);
    });
}

// pika: TestConnectionRegisterForBlockAndUnblock; point 48
#[test]
fn blocked_and_unblocked_callbacks_run() {
    bounded(|| {
        let peer = Peer::start(|session| {
            session.handshake();
            session.open_channel(1);
            session.send_method(
                0,
                m::CONNECTION_BLOCKED,
                Args::new().shortstr("low on memory"),
            );
            session.send_method(0, m::CONNECTION_UNBLOCKED, Args::new());
            session.serve_until_end();
        });
        let connection = Connection::open(peer.url()).unwrap();
        let calls = Log::new();
        let (blocked, unblocked) = (calls.clone(), calls.clone());
        connection.add_on_connection_blocked_callback(move |connection, reason| {
            blocked.push((connection.clone(), Some(reason)));
        });
        connection.add_on_connection_unblocked_callback(move |connection| {
            unblocked.push((connection.clone(), None));
        });
        let _channel = connection.channel().unwrap();
        pump_until(&connection, || calls.len() == 2);
        let calls = calls.take();
        assert!(calls.iter().all(|(of, _)| *of == connection));
        assert_eq!(calls[0].1.as_deref(), Some("low on memory"));
        assert_eq!(calls[1].1, None);
        connection.close().unwrap();
        peer.finish();
    });
}

// pika: TestBlockedConnectionTimeout; point 48
#[test]
fn a_connection_blocked_for_too_long_is_given_up() {
    bounded(|| {
        let peer = Peer::start(|session| {
            session.handshake();
            session.send_method(
                0,
                m::CONNECTION_BLOCKED,
                Args::new().shortstr("low on disk"),
            );
            session.silent_until_end();
        });
        let parameters = ConnectionParameters::from_url(peer.url())
            .unwrap()
            .blocked_connection_timeout(Duration::from_millis(1));
        let connection = Connection::open(parameters).unwrap();
        let deadline = Instant::now() + SOON;
        let error = loop {
            assert!(Instant::now() < deadline, "nothing came of the block");
            if let Err(error) = connection.process_data_events(Duration::from_secs(1)) {
                break error;
            }
        };
        assert_matches!(error, Error::ConnectionBlockedTimeout { .. });
        assert!(error.to_string().contains("low on disk"), "{error}");
        assert!(connection.is_closed());
    });
}

// pika: TestAddCallbackThreadsafeFromSameThread; point 15
#[test]
fn a_threadsafe_callback_of_the_same_thread_runs_at_once() {
    bounded(|| {
        let connection = open();
        let ran = Log::new();
        let run = ran.clone();
        let start = Instant::now();
        connection
            .add_callback_threadsafe(move || run.push(thread::current().id()))
            .unwrap();
        assert!(ran.is_empty());
        while ran.is_empty() {
            connection.process_data_events(None).unwrap();
        }
        assert!(start.elapsed() < AT_ONCE);
        assert_eq!(ran.all(), [thread::current().id()]);
    });
}

// pika: TestAddCallbackThreadsafeFromAnotherThread; point 15
#[test]
fn a_threadsafe_callback_of_another_thread_wakes_the_pumping_one() {
    bounded(|| {
        let connection = open();
        let ran = Log::new();
        let (run, other) = (ran.clone(), connection.clone());
        let start = Instant::now();
        let adder = thread::spawn(move || {
            other
                .add_callback_threadsafe(move || run.push(thread::current().id()))
                .unwrap();
        });
        while ran.is_empty() {
            connection.process_data_events(None).unwrap();
        }
        assert!(start.elapsed() < AT_ONCE);
        assert_eq!(ran.all(), [thread::current().id()]);
        adder.join().unwrap();
    });
}

// pika: TestAddCallbackThreadsafeOnClosedConnectionRaisesWrongState; point 15
#[test]
fn a_threadsafe_callback_on_a_closed_connection_is_a_wrong_state() {
    bounded(|| {
        let connection = open();
        connection.close().unwrap();
        let error = connection.add_callback_threadsafe(|| {}).unwrap_err();
        assert_matches!(error, Error::ConnectionWrongState { .. });
    });
}

// pika: TestAddTimeoutRemoveTimeout; point 14
#[test]
fn a_timer_fires_once_and_a_removed_one_never() {
    bounded(|| {
        let connection = open();
        let ran = Log::new();
        let run = ran.clone();
        let start = Instant::now();
        let timer = connection
            .call_later(Duration::from_millis(5), move || run.push(Instant::now()))
            .unwrap();
        while ran.is_empty() {
            connection.process_data_events(None).unwrap();
        }
        assert_eq!(ran.len(), 1);
        let fired = ran.all()[0] - start;
        assert!(
            fired >= Duration::from_millis(5) && fired < AT_ONCE,
            "{fired:?}"
        );
        // One that has fired can be removed, too.
        connection.remove_timeout(timer);
        assert!(!format!("{timer:?}").is_empty());

        let ran = Log::new();
        let run = ran.clone();
        let timer = connection
            .call_later(Duration::from_millis(1), move || run.push(()))
            .unwrap();
        connection.remove_timeout(timer);
        connection
            .process_data_events(Duration::from_millis(100))
            .unwrap();
        assert!(ran.is_empty());
    });
}

// pika: TestViabilityOfMultipleTimeoutsWithSameDeadlineAndCallback
#[test]
fn timers_of_the_same_time_are_apart() {
    bounded(|| {
        let connection = open();
        let ran = Log::new();
        let (run1, run2) = (ran.clone(), ran.clone());
        let timer1 = connection
            .call_later(Duration::ZERO, move || run1.push(1))
            .unwrap();
        let timer2 = connection
            .call_later(Duration::ZERO, move || run2.push(2))
            .unwrap();
        assert_ne!(timer1, timer2);
        connection.remove_timeout(timer1);
        pump_until(&connection, || !ran.is_empty());
        connection
            .process_data_events(Duration::from_millis(20))
            .unwrap();
        assert_eq!(ran.all(), [2]);
    });
}

// pika: TestRemoveTimeoutFromTimeoutCallback
#[test]
fn a_timer_can_remove_others_and_itself() {
    bounded(|| {
        let connection = open();
        let (ran, timers) = (Log::new(), Log::new());
        let never = ran.clone();
        timers.push(
            connection
                .call_later(Duration::from_millis(300), move || never.push("never"))
                .unwrap(),
        );
        let (run, remove, same) = (ran.clone(), timers.clone(), connection.clone());
        let on_timer = move || {
            for timer in remove.take() {
                same.remove_timeout(timer);
            }
            run.push("ran");
        };
        timers.push(connection.call_later(Duration::ZERO, on_timer).unwrap());
        while ran.is_empty() {
            connection.process_data_events(None).unwrap();
        }
        connection.sleep(Duration::from_millis(400)).unwrap();
        assert_eq!(ran.all(), ["ran"]);
    });
}

// pika: TestSleep; point 12
#[test]
fn sleep_lasts_as_long_as_asked() {
    bounded(|| {
        let connection = open();
        let start = Instant::now();
        connection.sleep(Duration::ZERO).unwrap();
        assert!(start.elapsed() < AT_ONCE);

        let start = Instant::now();
        connection.sleep(Duration::from_millis(5)).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(5));
        assert!(start.elapsed() < AT_ONCE);
    });
}

// pika: TestConnectionProperties
#[test]
fn a_connection_returns_its_state_and_the_brokers_capabilities() {
    bounded(|| {
        let connection = open();
        assert!(connection.is_open() && !connection.is_closed());
        assert!(connection.basic_nack_supported());
        assert!(connection.consumer_cancel_notify_supported());
        assert!(connection.exchange_exchange_bindings_supported());
        assert!(connection.publisher_confirms_supported());
        connection.close().unwrap();
        assert!(!connection.is_open() && connection.is_closed());
    });
}
