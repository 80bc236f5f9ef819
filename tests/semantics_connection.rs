//! Connections and connecting: points 44 to 62 of how pika's blocking connection behaves.
//! A point that has no test here has one in another file, which names it.

mod support;

use std::sync::mpsc;
use std::time::{Duration, Instant};

use haypile::{
    BasicConsume, Connection, ConnectionParameters, Error, ExternalCredentials, FieldTable,
    Heartbeat, PlainCredentials, Stage, TcpOptions,
};
use support::peer::{m, Args, Frame, Greeting, Handshake, Peer};
use support::proxy::Proxy;
use support::{
    assert_matches, bounded, exclusive_queue, open, pump_until, url, url_with, Log, RefusedPort,
};

fn to_broker() -> ConnectionParameters {
    ConnectionParameters::from_url(url()).unwrap()
}

/// What a client with these parameters sends to a broker with these; the connection is open when `check` sees it.
fn greeting(
    parameters: impl FnOnce(ConnectionParameters) -> ConnectionParameters,
    handshake: Handshake,
    check: impl FnOnce(&Connection),
) -> Greeting {
    let greetings = Log::new();
    let log = greetings.clone();
    let peer = Peer::start(move |session| {
        log.push(session.handshake_with(&handshake));
        session.serve_until_end();
    });
    let to_peer = ConnectionParameters::from_url(peer.url()).unwrap();
    let connection = Connection::open(parameters(to_peer)).unwrap();
    check(&connection);
    connection.close().unwrap();
    peer.finish();
    greetings.take().remove(0)
}

#[test]
fn p44_close_closes_the_channels_first() {
    bounded(|| {
        let peer = Peer::start(|session| {
            session.handshake();
            session.open_channel(1);
            session.open_channel(2);
            let mut closed = Vec::new();
            let mut close = loop {
                let frame = session.frame();
                match frame.method() {
                    Some(m::CHANNEL_CLOSE) => {
                        closed.push(frame.channel);
                        session.send_method(frame.channel, m::CHANNEL_CLOSE_OK, Args::new());
                    }
                    Some(m::CONNECTION_CLOSE) => break frame.arguments(),
                    other => panic!("{other:?}"),
                }
            };
            closed.sort_unstable();
            assert_eq!(closed, [1, 2]);
            let sent = (close.short(), close.shortstr(), close.long());
            assert_eq!(sent, (200, "Normal shutdown".into(), 0));
            session.send_method(0, m::CONNECTION_CLOSE_OK, Args::new());
            session.expect_end();
        });
        let connection = Connection::open(peer.url()).unwrap();
        let channels = [(), ()].map(|()| connection.channel().unwrap());
        connection.close().unwrap();
        assert!(channels.iter().all(|channel| channel.is_closed()));
        peer.finish();
    });
}

#[test]
fn p44_close_with_sends_its_reason() {
    bounded(|| {
        let peer = Peer::start(|session| {
            session.handshake();
            let mut close = session.expect(0, m::CONNECTION_CLOSE);
            assert_eq!(
                (close.short(), close.shortstr()),
                (320, "gone fishing".into())
            );
            session.send_method(0, m::CONNECTION_CLOSE_OK, Args::new());
            session.expect_end();
        });
        let connection = Connection::open(peer.url()).unwrap();
        connection.close_with(320, "gone fishing").unwrap();
        let error = connection.close_with(200, "again").unwrap_err();
        assert_matches!(error, Error::ConnectionWrongState { .. });
        peer.finish();
    });
}

// haypile does better: it ends by its deadline (pika hangs until the alarm is over).
#[test]
fn close_ends_while_the_broker_blocks_the_connection() {
    bounded(|| {
        let peer = Peer::start(|session| {
            session.handshake();
            session.open_channel(1);
            session.send_method(
                0,
                m::CONNECTION_BLOCKED,
                Args::new().shortstr("low on memory"),
            );
            session.silent_until_end();
        });
        let parameters = ConnectionParameters::from_url(peer.url())
            .unwrap()
            .rpc_timeout(Duration::from_secs(1));
        let connection = Connection::open(parameters).unwrap();
        let channel = connection.channel().unwrap();
        channel.basic_publish("", "q", "body").unwrap();
        let start = Instant::now();
        // Whether its error mentions the missing reply is left open; that it ends is not.
        let _ = connection.close();
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "{:?}",
            start.elapsed()
        );
        assert!(connection.is_closed());
        drop((channel, connection));
        peer.finish();
    });
}

#[test]
fn p46_calls_on_a_closed_connection_are_a_wrong_state() {
    bounded(|| {
        let connection = open();
        connection.close().unwrap();
        let errors = [
            connection.channel().map(drop),
            connection.process_data_events(Duration::ZERO),
            connection.process_data_events(None),
            connection.sleep(Duration::ZERO),
        ];
        for error in errors {
            let error = error.unwrap_err();
            assert_matches!(error, Error::ConnectionWrongState { .. });
        }
    });
}

#[test]
fn p49_the_heartbeat_is_the_servers_or_ones_own_or_off_or_asked_of_a_function() {
    bounded(|| {
        let server = |heartbeat| Handshake {
            heartbeat,
            ..Handshake::default()
        };
        let agreed = |seconds: u64| {
            move |connection: &Connection| {
                assert_eq!(connection.heartbeat(), Duration::from_secs(seconds))
            }
        };
        assert_eq!(
            greeting(|parameters| parameters, server(60), agreed(60)).heartbeat,
            60
        );
        assert_eq!(
            greeting(
                |parameters| parameters.heartbeat(None),
                server(7),
                agreed(7)
            )
            .heartbeat,
            7
        );
        assert_eq!(
            greeting(
                |parameters| parameters.heartbeat(600),
                server(60),
                agreed(600)
            )
            .heartbeat,
            600
        );
        assert_eq!(
            greeting(|parameters| parameters.heartbeat(5), server(60), agreed(5)).heartbeat,
            5
        );
        assert_eq!(
            greeting(|parameters| parameters.heartbeat(5), server(0), agreed(5)).heartbeat,
            5
        );
        assert_eq!(
            greeting(|parameters| parameters.heartbeat(0), server(60), agreed(0)).heartbeat,
            0
        );
        let half = |parameters: ConnectionParameters| {
            parameters.heartbeat(Heartbeat::negotiate(|server| {
                assert_eq!(server, 60);
                server / 2
            }))
        };
        assert_eq!(greeting(half, server(60), agreed(30)).heartbeat, 30);
    });
}

#[test]
fn p50_heartbeats_are_sent_twice_in_their_time() {
    bounded(|| {
        let (counted, done) = mpsc::channel();
        let peer = Peer::start(move |session| {
            session.handshake_with(&Handshake {
                heartbeat: 1,
                ..Handshake::default()
            });
            let start = Instant::now();
            for _ in 0..4 {
                let frame = session.next_frame().expect("a heartbeat");
                assert_eq!((frame.kind, frame.channel), (Frame::HEARTBEAT, 0));
                assert_eq!(frame.payload, b"");
                session.send_heartbeat();
            }
            let elapsed = start.elapsed();
            assert!(elapsed > Duration::from_millis(1200), "{elapsed:?}");
            assert!(elapsed < Duration::from_secs(4), "{elapsed:?}");
            counted.send(()).unwrap();
            session.serve_until_end();
        });
        let connection = Connection::open(peer.url()).unwrap();
        // No thread calls anything meanwhile.
        done.recv().unwrap();
        connection.close().unwrap();
        peer.finish();
    });
}

#[test]
fn p50_a_silent_peer_is_given_up_after_the_heartbeat_and_five_seconds() {
    bounded(|| {
        let peer = Peer::start(|session| {
            session.handshake_with(&Handshake {
                heartbeat: 1,
                ..Handshake::default()
            });
            session.silent_until_end();
        });
        let connection = Connection::open(peer.url()).unwrap();
        let start = Instant::now();
        let error = connection.process_data_events(None).unwrap_err();
        let elapsed = start.elapsed();
        assert_matches!(error, Error::HeartbeatTimeout { .. });
        assert!(
            elapsed > Duration::from_millis(5500) && elapsed < Duration::from_secs(9),
            "{elapsed:?}"
        );
        assert_eq!(error.address(), Some(&*peer.address().to_string()));
        assert!(error.is_connection_error());
        assert!(connection.is_closed());
        drop(connection);
        peer.finish();
    });
}

// haypile does better: heartbeats flow for as long as a callback runs.
#[test]
fn a_long_callback_does_not_cost_the_connection() {
    bounded(|| {
        let parameters = to_broker().heartbeat(1);
        let connection = Connection::open(parameters).unwrap();
        let channel = connection.channel().unwrap();
        let queue = exclusive_queue(&channel);
        channel
            .basic_consume(&queue, |channel, method, _, _| {
                // Work that takes longer than the broker waits for a heartbeat.
                std::thread::sleep(Duration::from_secs(5));
                channel.basic_ack(method.delivery_tag)?;
                channel.stop_consuming()
            })
            .unwrap();
        channel.basic_publish("", &queue, "body").unwrap();
        channel.start_consuming().unwrap();
        assert!(connection.is_open());
        assert_eq!(support::message_count(&channel, &queue), 0);
    });
}

// Above a bound of undelivered bytes nothing more is read; neither calls nor the connection suffer from it.
#[test]
fn what_is_not_dispatched_costs_neither_replies_nor_the_connection() {
    const MESSAGES: usize = 200;
    const SIZE: usize = 100_000;
    bounded(|| {
        let connection = Connection::open(to_broker().heartbeat(1)).unwrap();
        let channel = connection.channel().unwrap();
        let queue = exclusive_queue(&channel);
        for _ in 0..MESSAGES {
            channel.basic_publish("", &queue, vec![0; SIZE]).unwrap();
        }
        let came = Log::new();
        let log = came.clone();
        channel
            .basic_consume(
                BasicConsume::new(&queue).auto_ack(true),
                move |_, _, _, body| {
                    log.push(body.len());
                },
            )
            .unwrap();
        // Replies come behind the messages, on this channel and on others.
        channel.basic_qos(10).unwrap();
        exclusive_queue(&connection.channel().unwrap());
        assert!(came.is_empty());
        // Longer than a silent peer would be borne.
        std::thread::sleep(Duration::from_secs(7));
        assert!(connection.is_open());
        pump_until(&connection, || came.len() == MESSAGES);
        assert!(came.all().iter().all(|length| *length == SIZE));
        exclusive_queue(&channel);
    });
}

#[test]
fn p51_the_limits_are_the_lower_ones_where_both_give_one() {
    bounded(|| {
        for (mine, servers, agreed) in [
            (65_535, 2047, 2047),
            (100, 2047, 100),
            (100, 0, 100),
            (65_535, 0, 65_535),
        ] {
            let handshake = Handshake {
                channel_max: servers,
                ..Handshake::default()
            };
            let client = greeting(
                |parameters| parameters.channel_max(mine),
                handshake,
                |connection| assert_eq!(connection.channel_max(), agreed),
            );
            assert_eq!(client.channel_max, agreed);
        }
        for (mine, servers, agreed) in [
            (131_072, 65_536, 65_536),
            (8192, 131_072, 8192),
            (131_072, 0, 131_072),
            (131_072, 1 << 30, 131_072),
        ] {
            let handshake = Handshake {
                frame_max: servers,
                ..Handshake::default()
            };
            let client = greeting(
                |parameters| parameters.frame_max(mine),
                handshake,
                |connection| assert_eq!(connection.frame_max(), agreed),
            );
            assert_eq!(client.frame_max, agreed);
        }
    });
}

#[test]
fn p51_bodies_are_cut_to_the_frame_size() {
    bounded(|| {
        let sizes = Log::new();
        let log = sizes.clone();
        let peer = Peer::start(move |session| {
            session.handshake_with(&Handshake {
                frame_max: 8192,
                ..Handshake::default()
            });
            session.open_channel(1);
            for length in [8184, 8185, 20_000] {
                session.expect(1, m::BASIC_PUBLISH);
                assert_eq!(session.frame().kind, Frame::HEADER);
                let mut left = length;
                while left > 0 {
                    let frame = session.frame();
                    assert_eq!(frame.kind, Frame::BODY);
                    left -= frame.payload.len();
                    log.push(frame.payload.len());
                }
            }
            session.serve_until_end();
        });
        let connection = Connection::open(peer.url()).unwrap();
        let channel = connection.channel().unwrap();
        for length in [8184, 8185, 20_000] {
            channel.basic_publish("", "q", vec![0; length]).unwrap();
        }
        connection.close().unwrap();
        peer.finish();
        assert_eq!(sizes.all(), [8184, 8184, 1, 8184, 8184, 3632]);
    });
}

#[test]
fn p52_the_defaults_are_pikas() {
    let spelt_out = ConnectionParameters::new("localhost")
        .port(5672)
        .virtual_host("/")
        .credentials(PlainCredentials::new("guest", "guest"))
        .locale("en_US")
        .heartbeat(None)
        .connection_attempts(1)
        .retry_delay(Duration::from_secs(2))
        .socket_timeout(Duration::from_secs(10))
        .stack_timeout(Duration::from_secs(15))
        .blocked_connection_timeout(None)
        .channel_max(65_535)
        .frame_max(131_072)
        .client_properties(FieldTable::new())
        .tcp_options(TcpOptions::new());
    assert_eq!(ConnectionParameters::default(), spelt_out);
    assert_eq!(
        ConnectionParameters::from_url("amqp://").unwrap(),
        spelt_out
    );
    assert_eq!(
        "amqp://guest:guest@localhost:5672/%2f"
            .parse::<ConnectionParameters>()
            .unwrap(),
        spelt_out
    );
}

#[test]
fn p53_bad_values_are_refused_by_name_value_and_range() {
    bounded(|| {
        let good = || ConnectionParameters::new("127.0.0.1").port(RefusedPort::new().port());
        let refused = [
            (good().frame_max(8191), "frame_max", "8191"),
            (good().frame_max(131_073), "frame_max", "131073"),
            (good().channel_max(0), "channel_max", "0"),
            (good().connection_attempts(0), "connection_attempts", "0"),
            (good().socket_timeout(Duration::ZERO), "socket_timeout", "0"),
            (good().stack_timeout(Duration::ZERO), "stack_timeout", "0"),
        ];
        for (parameters, field, value) in refused {
            let error = Connection::open(parameters).unwrap_err();
            assert_matches!(error, Error::InvalidParameter { .. });
            let text = error.to_string();
            assert!(text.contains(field) && text.contains(value), "{text}");
        }
        let error = Connection::open(good().virtual_host("v".repeat(256))).unwrap_err();
        assert_matches!(error, Error::ShortStringTooLong { length: 256, .. });
        let error = Connection::open(Vec::<ConnectionParameters>::new()).unwrap_err();
        assert_matches!(error, Error::InvalidParameter { .. });
        // The limits themselves are allowed.
        for parameters in [
            good().frame_max(8192),
            good().frame_max(131_072),
            good().channel_max(1),
        ] {
            let error = Connection::open(parameters.blocked_connection_timeout(Duration::ZERO))
                .unwrap_err();
            assert_matches!(error, Error::Connection(_));
        }
    });
}

#[test]
fn p54_tcp_options_are_taken() {
    bounded(|| {
        let options = TcpOptions::new()
            .keepidle(Duration::from_secs(60))
            .keepintvl(Duration::from_secs(10))
            .keepcnt(3)
            .user_timeout(Duration::from_millis(1500));
        assert!(Connection::open(to_broker().tcp_options(options))
            .unwrap()
            .is_open());
    });
}

#[test]
fn p55_the_capabilities_are_pikas_and_client_properties_are_added() {
    bounded(|| {
        let client = greeting(
            |parameters| parameters.client_property("connection_name", "the tests"),
            Handshake::default(),
            |_| {},
        );
        let contains = |bytes: &[u8]| {
            client
                .client_properties
                .windows(bytes.len())
                .any(|window| window == bytes)
        };
        for capability in [
            "authentication_failure_close",
            "basic.nack",
            "connection.blocked",
            "consumer_cancel_notify",
            "exchange_exchange_bindings",
            "publisher_confirms",
        ] {
            let mut field = vec![u8::try_from(capability.len()).unwrap()];
            field.extend(capability.as_bytes());
            field.extend(b"t\x01");
            assert!(contains(&field), "{capability}");
        }
        assert!(contains(b"\x07productS"));
        assert!(contains(b"\x0fconnection_nameS\0\0\0\x09the tests"));
        assert_eq!(client.mechanism, "PLAIN");
        assert_eq!(client.response, b"\0guest\0guest");
        assert_eq!(client.locale, "en_US");
        assert_eq!(client.virtual_host, "/");
    });
}

#[test]
fn p55_external_credentials_send_their_mechanism() {
    bounded(|| {
        let client = greeting(
            |parameters| parameters.credentials(ExternalCredentials),
            Handshake::default(),
            |_| {},
        );
        assert_eq!(
            (&*client.mechanism, &client.response[..]),
            ("EXTERNAL", &b""[..])
        );
    });
}

// Erased they are when a connection has come about; an attempt that failed does not count.
#[test]
fn p56_credentials_to_be_erased_serve_until_a_connection_is_open() {
    bounded(|| {
        let peer = Peer::serve(2, |n, session| {
            if n == 0 {
                session.expect_protocol_header();
                session.send_start(&Handshake::default());
                session.expect(0, m::CONNECTION_START_OK);
            } else {
                assert_eq!(session.handshake().response, b"\0someone\0secret");
                session.serve_until_end();
            }
        });
        let parameters = ConnectionParameters::from_url(peer.url())
            .unwrap()
            .credentials(PlainCredentials::new("someone", "secret").erase_on_connect(true))
            .connection_attempts(2)
            .retry_delay(Duration::from_millis(1));
        Connection::open(parameters).unwrap().close().unwrap();
        peer.finish();
    });
}

#[test]
fn p57_unknown_and_repeated_options_and_missing_passwords_are_refused() {
    for (text, named) in [
        ("amqp://localhost/%2f?heartbeet=1", "heartbeet"),
        ("amqp://localhost/%2f?heartbeat=1&heartbeat=2", "heartbeat"),
        ("amqp://localhost/%2f?frame_max=12", "frame_max"),
        ("amqp://localhost/%2f?channel_max=none", "channel_max"),
        ("amqp://guest@localhost/", "password"),
        ("amqp://localhost//v", "host"),
        ("http://localhost/", "http"),
        ("amqp://localhost:99999/", "port"),
    ] {
        let error = ConnectionParameters::from_url(text).unwrap_err();
        assert!(
            matches!(error, Error::InvalidParameter { .. }),
            "{text}: {error:?}"
        );
        assert!(error.to_string().contains(named), "{text}: {error}");
    }
}

#[test]
fn p57_a_urls_options_reach_the_connection() {
    bounded(|| {
        let options = "heartbeat=17&channel_max=7&frame_max=9000&connection_attempts=2&retry_delay=0.1&socket_timeout=3\
                       &stack_timeout=4.5&blocked_connection_timeout=6";
        let connection = Connection::open(url_with(options)).unwrap();
        assert_eq!(connection.heartbeat(), Duration::from_secs(17));
        assert_eq!(
            (connection.channel_max(), connection.frame_max()),
            (7, 9000)
        );
    });
}

#[test]
fn p58_attempts_and_delay_come_from_the_last_parameters() {
    bounded(|| {
        let (first, second) = (RefusedPort::new(), RefusedPort::new());
        let refused = |port: &RefusedPort| ConnectionParameters::new("127.0.0.1").port(port.port());
        let candidates = [
            refused(&first)
                .connection_attempts(9)
                .retry_delay(Duration::from_secs(60)),
            refused(&second)
                .connection_attempts(3)
                .retry_delay(Duration::from_millis(50)),
        ];
        let start = Instant::now();
        let error = Connection::open(candidates).unwrap_err();
        let elapsed = start.elapsed();
        assert!(
            elapsed >= Duration::from_millis(100) && elapsed < Duration::from_secs(5),
            "{elapsed:?}"
        );
        let attempts = &error.connect_failure().unwrap().attempts;
        let addresses: Vec<&str> = attempts
            .iter()
            .map(|attempt| attempt.address.as_str())
            .collect();
        let (one, two) = (first.address().to_string(), second.address().to_string());
        assert_eq!(addresses, [&one, &two, &one, &two, &one, &two]);
        assert!(attempts.iter().all(|attempt| attempt.stage == Stage::Tcp));
    });
}

#[test]
fn p58_a_later_attempt_may_succeed() {
    bounded(|| {
        let peer = Peer::serve(2, |n, session| {
            // Goes away the first time.
            if n == 1 {
                session.handshake();
                session.serve_until_end();
            }
        });
        let parameters = ConnectionParameters::from_url(peer.url())
            .unwrap()
            .connection_attempts(5)
            .retry_delay(Duration::from_millis(10));
        Connection::open(parameters).unwrap().close().unwrap();
        peer.finish();
    });
}

// haypile does better: a name that cannot be resolved does not keep the others from being tried.
#[test]
fn p59_a_bad_name_among_several_does_not_keep_the_good_one_from_being_tried() {
    bounded(|| {
        let proxy = Proxy::start();
        let good = ConnectionParameters::from_url(proxy.url()).unwrap();
        let connection = Connection::open([ConnectionParameters::new(BAD_NAME), good]).unwrap();
        assert!(connection.is_open());
        assert_eq!(proxy.connections(), 1);
    });
}

/// A name that no resolver has to ask the network about: its label is longer than DNS allows.
const BAD_NAME: &str = "a-label-of-more-than-sixty-three-characters-is-nowhere-in-the-dns.invalid";

// haypile does better: the error lists every attempt, with the stage it came to.
#[test]
fn p60_p61_the_error_lists_every_attempt_with_its_stage() {
    bounded(|| {
        let port = RefusedPort::new();
        let peer = Peer::start(|session| session.expect_protocol_header());
        let candidates = vec![
            ConnectionParameters::from_url(peer.url()).unwrap(),
            ConnectionParameters::new(BAD_NAME).port(1234),
            ConnectionParameters::new("127.0.0.1").port(port.port()),
        ];
        let error = Connection::open(candidates).unwrap_err();
        // The one that got furthest gives the error its kind.
        assert_matches!(error, Error::IncompatibleProtocol(_));
        assert_eq!(error.address(), Some(&*peer.address().to_string()));
        let stages: Vec<Stage> = error
            .connect_failure()
            .unwrap()
            .attempts
            .iter()
            .map(|attempt| attempt.stage)
            .collect();
        assert_eq!(stages, [Stage::ProtocolHeader, Stage::Dns, Stage::Tcp]);
        let text = error.to_string();
        for part in [
            peer.address().to_string(),
            format!("{BAD_NAME}:1234"),
            port.address().to_string(),
        ] {
            assert!(text.contains(&part), "{text}");
        }
        for stage in ["protocol header", "DNS", "TCP"] {
            assert!(text.contains(stage), "{text}");
        }
        peer.finish();
    });
}

// haypile does better: a variant of its own, with host and port.
#[test]
fn p61_an_unknown_name_is_a_dns_error() {
    bounded(|| {
        let error = Connection::open(ConnectionParameters::new(BAD_NAME).port(1234)).unwrap_err();
        assert_matches!(error, Error::Dns(_));
        assert!(error.is_connection_error());
        assert_eq!(error.address(), Some(&*format!("{BAD_NAME}:1234")));
        assert_eq!(error.connect_failure().unwrap().stage, Stage::Dns);
    });
}
