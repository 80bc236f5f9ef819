//! Remote procedure calls: what a client does, with servers of this crate and peers that reply by hand.

#[path = "support/rpc.rs"]
mod peers;
mod support;

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use haypile::{
    BasicProperties, Connection, ConsumingEnded, Error, FieldValue, QueueDeclare, RpcClient,
    RpcServer, Supervisor,
};
use peers::{echo, increase, ByHand, Server, NEVER};
use support::proxy::Proxy;
use support::{assert_matches, bounded, exclusive_queue, open, unique, wait_until, SOON};

#[test]
fn a_call_returns_its_reply() {
    bounded(|| {
        let server = Server::start(increase);
        let client = RpcClient::open(&open()).unwrap();
        for n in [1, 41, -1] {
            let reply = client.call(&server.queue, n.to_string(), NEVER).unwrap();
            assert_eq!(reply.body, (n + 1).to_string().as_bytes());
        }
        assert_eq!((client.in_flight(), client.late_replies()), (0, 0));
        server.end();
    });
}

#[test]
fn a_request_has_reply_to_and_expiration() {
    bounded(|| {
        let by_hand = ByHand::new();
        let client = RpcClient::open(&open()).unwrap();
        let text = BasicProperties::new()
            .content_type("text/plain")
            .header("attempt", 1);
        let mut ids = Vec::new();
        for (timeout, expiration) in [
            (Duration::from_millis(12_345), "12345"),
            // No shorter than the caller waits.
            (Duration::from_micros(60_000_001), "60001"),
            (Duration::MAX, "4294967295"),
        ] {
            let call = client
                .start_call("", &by_hand.queue, "hello", &text, timeout)
                .unwrap();
            let request = by_hand.take();
            let (_, properties, body) = &request;
            assert_eq!(body, b"hello");
            assert_eq!(properties.expiration.as_deref(), Some(expiration));
            assert_eq!(properties.content_type.as_deref(), Some("text/plain"));
            assert_eq!(properties.headers, text.headers);
            let reply_to = properties.reply_to.as_deref().unwrap();
            assert!(reply_to.starts_with("amq.rabbitmq.reply-to."), "{reply_to}");
            ids.push(properties.correlation_id.clone().unwrap());
            by_hand.reply_to(&request, "done");
            assert_eq!(call.wait().unwrap().body, b"done");
        }
        ids.dedup();
        assert_eq!(ids.len(), 3, "each call has an id of its own");
    });
}

#[test]
fn properties_travel_both_ways() {
    bounded(|| {
        let server = Server::start(|(_, properties, body)| {
            let json = BasicProperties::new()
                .content_type("application/json")
                // Not the server's to choose.
                .correlation_id("another")
                .header("type", properties.content_type.clone().unwrap_or_default());
            Ok((json, body))
        });
        let client = RpcClient::open(&open()).unwrap();
        let text = BasicProperties::new().content_type("text/plain");
        let reply = client
            .call_with("", &server.queue, "{}", text, NEVER)
            .unwrap();
        assert_eq!(reply.body, b"{}");
        assert_eq!(
            reply.properties.content_type.as_deref(),
            Some("application/json")
        );
        let header = reply.properties.get_header("type");
        assert_eq!(header.and_then(FieldValue::as_str), Some("text/plain"));
        server.end();
    });
}

#[test]
fn one_thread_has_many_calls_in_flight_whose_replies_come_in_any_order() {
    bounded(|| {
        let by_hand = ByHand::new();
        let client = RpcClient::open(&open()).unwrap();
        let calls: Vec<_> = (0..100)
            .map(|n| {
                let none = BasicProperties::new();
                client
                    .start_call("", &by_hand.queue, n.to_string(), none, NEVER)
                    .unwrap()
            })
            .collect();
        assert_eq!(client.in_flight(), 100);
        let requests: Vec<_> = (0..100).map(|_| by_hand.take()).collect();
        for request in requests.iter().rev() {
            let body = format!("reply to {}", String::from_utf8_lossy(&request.2));
            by_hand.reply_to(request, &body);
        }
        for (n, call) in calls.into_iter().enumerate() {
            assert_eq!(
                call.wait().unwrap().body,
                format!("reply to {n}").as_bytes()
            );
        }
        assert_eq!((client.in_flight(), client.late_replies()), (0, 0));
    });
}

#[test]
fn eight_threads_make_a_thousand_calls_each() {
    bounded(|| {
        let server = Server::start(echo);
        let client = RpcClient::open(&open()).unwrap();
        thread::scope(|scope| {
            for thread in 0..8 {
                let (client, queue) = (&client, &server.queue);
                scope.spawn(move || {
                    for n in 0..1000 {
                        let body = format!("{thread}/{n}");
                        let reply = client.call(queue, &body, NEVER).unwrap();
                        assert_eq!(reply.body, body.as_bytes());
                    }
                });
            }
        });
        assert_eq!((client.in_flight(), client.late_replies()), (0, 0));
        server.end();
    });
}

/// Other work on the connection neither holds up the calls nor takes their replies.
#[test]
fn calls_work_beside_consumers_and_inside_callbacks() {
    bounded(|| {
        let server = Server::start(increase);
        let connection = open();
        let client = RpcClient::open(&connection).unwrap();
        let channel = connection.channel().unwrap();
        let numbers = exclusive_queue(&channel);
        let (sender, results) = mpsc::channel();
        let (inner, queue) = (client.clone(), server.queue.clone());
        channel
            .basic_consume(&numbers, move |channel, method, _, body| {
                let reply = inner.call(&queue, body, NEVER)?;
                sender.send(reply.body).map_err(Error::other)?;
                channel.basic_ack(method.delivery_tag)
            })
            .unwrap();
        for n in 0..10 {
            channel.basic_publish("", &numbers, n.to_string()).unwrap();
        }
        thread::scope(|scope| {
            scope.spawn(|| channel.start_consuming().unwrap());
            for n in 100..200 {
                let reply = client.call(&server.queue, n.to_string(), NEVER).unwrap();
                assert_eq!(reply.body, (n + 1).to_string().as_bytes());
            }
            for n in 0..10 {
                assert_eq!(results.recv().unwrap(), (n + 1).to_string().as_bytes());
            }
            channel.stop_handle().stop();
        });
        server.end();
    });
}

#[test]
fn a_missing_server_is_known_at_once() {
    bounded(|| {
        let client = RpcClient::open(&open()).unwrap();
        let queue = unique("nobody");
        let error = client.call(&queue, "hello?", NEVER).unwrap_err();
        let Error::Unroutable(returned) = &error else {
            panic!("{error:?}");
        };
        assert_eq!(error.reply_code(), Some(312));
        assert_eq!(returned[0].method.routing_key, queue);
        assert_eq!(returned[0].body, b"hello?");
        assert!(!error.is_retryable());
        assert!(client.is_open());
        assert_eq!((client.in_flight(), client.late_replies()), (0, 0));
    });
}

#[test]
fn a_call_ends_by_its_deadline_and_its_request_goes() {
    bounded(|| {
        let by_hand = ByHand::new();
        let client = RpcClient::open(&open()).unwrap();
        let timeout = Duration::from_millis(50);
        let began = Instant::now();
        let error = client
            .call(&by_hand.queue, "anybody?", timeout)
            .unwrap_err();
        assert!(began.elapsed() >= timeout);
        assert_matches!(error, Error::Timeout { after, .. } if *after == timeout);
        assert!(error.is_retryable());
        assert!(error.to_string().contains("for the reply"), "{error}");
        support::assert_message_count(&by_hand.channel, &by_hand.queue, 0);
        // The client goes on.
        assert!(client.is_open());
        let none = BasicProperties::new();
        let call = client
            .start_call("", &by_hand.queue, "again", none, NEVER)
            .unwrap();
        let request = by_hand.take();
        assert_eq!(request.2, b"again");
        by_hand.reply_to(&request, "here");
        assert_eq!(call.wait().unwrap().body, b"here");
    });
}

#[test]
fn late_replies_are_dropped_and_counted() {
    bounded(|| {
        let by_hand = ByHand::new();
        let client = RpcClient::open(&open()).unwrap();
        let request = thread::scope(|scope| {
            let taken = scope.spawn(|| by_hand.take());
            let timeout = Duration::from_millis(200);
            let error = client.call(&by_hand.queue, "slow", timeout).unwrap_err();
            assert_matches!(error, Error::Timeout { .. });
            taken.join().unwrap()
        });
        by_hand.reply_to(&request, "too late");
        wait_until(SOON, || client.late_replies() == 1);
        // A call that was given up is as good as one whose time is up.
        let none = BasicProperties::new();
        drop(client.start_call("", &by_hand.queue, "given up", none, NEVER));
        by_hand.reply_to(&by_hand.take(), "in vain");
        wait_until(SOON, || client.late_replies() == 2);
        assert_eq!(client.in_flight(), 0);
    });
}

#[test]
fn a_deadline_that_has_passed_sends_nothing() {
    bounded(|| {
        let by_hand = ByHand::new();
        let client = RpcClient::open(&open()).unwrap();
        let error = client
            .call(&by_hand.queue, "?", Duration::ZERO)
            .unwrap_err();
        assert_matches!(error, Error::Timeout { .. });
        let none = BasicProperties::new();
        let call = client.start_call("", &by_hand.queue, "!", none, NEVER);
        let request = by_hand.take();
        assert_eq!(request.2, b"!");
        by_hand.reply_to(&request, "");
        call.unwrap().wait().unwrap();
    });
}

/// Every call in flight, on every thread and on none, ends at once with the reason.
#[test]
fn a_lost_connection_fails_every_call_at_once() {
    bounded(|| {
        let by_hand = ByHand::new();
        let proxy = Proxy::start();
        let connection = Connection::open(proxy.url()).unwrap();
        let client = RpcClient::open(&connection).unwrap();
        let start = |body: &str| {
            let none = BasicProperties::new();
            client
                .start_call("", &by_hand.queue, body, none, NEVER)
                .unwrap()
        };
        // This one has its reply before the loss, and keeps it.
        let replied = start("replied");
        by_hand.reply_to(&by_hand.take(), "in time");
        let kept: Vec<_> = (0..10).map(|n| start(&n.to_string())).collect();
        let barrier = start("all are there");
        thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| client.call(&by_hand.queue, "?", NEVER)))
                .collect();
            for _ in 0..19 {
                by_hand.take();
            }
            proxy.reset();
            for thread in threads {
                let error = thread.join().unwrap().unwrap_err();
                assert_matches!(error, Error::StreamLost(_));
                assert!(error.is_retryable());
            }
        });
        for call in kept.into_iter().chain([barrier]) {
            let error = call.wait().unwrap_err();
            assert_matches!(error, Error::StreamLost(_));
        }
        assert_eq!(replied.wait().unwrap().body, b"in time");
        assert!(!client.is_open());
        let error = client.call(&by_hand.queue, "?", NEVER).unwrap_err();
        assert!(error.is_connection_error(), "{error:?}");
        assert_eq!(client.in_flight(), 0);
    });
}

#[test]
fn the_end_of_the_channel_fails_every_call_with_its_reason() {
    bounded(|| {
        let by_hand = ByHand::new();
        let client = RpcClient::open(&open()).unwrap();
        let none = BasicProperties::new();
        let waiting = client
            .start_call("", &by_hand.queue, "?", &none, NEVER)
            .unwrap();
        let missing = unique("no-exchange");
        let error = client
            .call_with(&missing, "key", "?", &none, NEVER)
            .unwrap_err();
        assert_eq!(error.reply_code(), Some(404), "{error:?}");
        let error = waiting.wait().unwrap_err();
        assert_eq!(error.reply_code(), Some(404), "{error:?}");
        assert!(!client.is_open());
        let error = client.call(&by_hand.queue, "?", NEVER).unwrap_err();
        assert_eq!(error.reply_code(), Some(404), "{error:?}");
    });
}

#[test]
fn closing_the_connection_fails_calls_in_flight() {
    bounded(|| {
        let by_hand = ByHand::new();
        let connection = open();
        let client = RpcClient::open(&connection).unwrap();
        thread::scope(|scope| {
            let call = scope.spawn(|| client.call(&by_hand.queue, "?", NEVER));
            by_hand.take();
            connection.close().unwrap();
            let error = call.join().unwrap().unwrap_err();
            assert_matches!(error, Error::ConnectionClosedByClient { .. });
        });
    });
}

#[test]
fn a_stop_ends_calls() {
    bounded(|| {
        let by_hand = ByHand::new();
        let client = RpcClient::open(&open()).unwrap();
        let stop = client.stop_handle();
        thread::scope(|scope| {
            let call = scope.spawn(|| client.call(&by_hand.queue, "?", NEVER));
            by_hand.take();
            stop.stop();
            let error = call.join().unwrap().unwrap_err();
            assert_matches!(error, Error::Stopped { .. });
        });
        let error = client.call(&by_hand.queue, "?", NEVER).unwrap_err();
        assert_matches!(error, Error::Stopped { .. });
    });
}

#[test]
fn a_supervisors_stop_ends_calls_and_servers() {
    bounded(|| {
        let supervisor = Supervisor::new(support::url());
        let by_hand = ByHand::new();
        let queue = unique("rpc");
        let (caller, server) = (supervisor.clone(), supervisor.clone());
        thread::scope(|scope| {
            let calling = scope.spawn(|| {
                caller.run(|connection| {
                    let client = RpcClient::open(connection)?;
                    client.call(&by_hand.queue, "?", NEVER)?;
                    Ok(ConsumingEnded::Cancelled)
                })
            });
            let (ready, is_ready) = mpsc::channel();
            let serving = scope.spawn(|| {
                server.run(move |connection| {
                    let channel = connection.channel()?;
                    channel.queue_declare(QueueDeclare::new(&queue).exclusive(true))?;
                    ready.send(()).map_err(Error::other)?;
                    RpcServer::new(&queue).run(&channel, echo)
                })
            });
            by_hand.take();
            is_ready.recv().unwrap();
            supervisor.stop_handle().stop();
            let error = calling.join().unwrap().unwrap_err();
            assert_matches!(error, Error::Stopped { .. });
            assert_eq!(serving.join().unwrap().unwrap(), ConsumingEnded::Cancelled);
        });
    });
}

/// Replies with another's id, with none, and twice: none is taken for the one that is waited for.
#[test]
fn foreign_replies_are_dropped_and_counted() {
    bounded(|| {
        let by_hand = ByHand::new();
        let connection = open();
        let client = RpcClient::open(&connection).unwrap();
        let other = RpcClient::open(&connection).unwrap();
        let start = |client: &RpcClient| {
            let none = BasicProperties::new();
            let call = client.start_call("", &by_hand.queue, "?", none, NEVER);
            (call.unwrap(), by_hand.take())
        };
        let (call, (_, request, _)) = start(&client);
        let (foreign, (_, foreign_request, _)) = start(&other);
        let id = request.correlation_id.as_deref().unwrap();
        let foreign_id = foreign_request.correlation_id.as_deref().unwrap();
        let longer = format!("{id}0");
        let long = "9".repeat(255);
        let wrong = [
            None,
            Some(""),
            Some("1"),
            Some(foreign_id),
            Some(&id[..id.len() - 1]),
            Some(&longer),
            Some(&long),
        ];
        for id in wrong {
            by_hand.reply(&request, id, "not yours");
        }
        wait_until(SOON, || client.late_replies() == wrong.len() as u64);
        assert_eq!(client.in_flight(), 1);
        by_hand.reply(&request, Some(id), "yours");
        by_hand.reply(&request, Some(id), "twice");
        assert_eq!(call.wait().unwrap().body, b"yours");
        wait_until(SOON, || client.late_replies() == wrong.len() as u64 + 1);
        assert_eq!(other.late_replies(), 0);
        by_hand.reply(&foreign_request, Some(foreign_id), "the other's");
        assert_eq!(foreign.wait().unwrap().body, b"the other's");
    });
}

#[test]
fn what_is_the_clients_to_set_is_refused() {
    bounded(|| {
        let client = RpcClient::open(&open()).unwrap();
        for properties in [
            BasicProperties::new().reply_to("mine"),
            BasicProperties::new().correlation_id("1"),
            BasicProperties::new().expiration("1"),
        ] {
            let error = client
                .call_with("", "q", "?", properties, NEVER)
                .unwrap_err();
            assert_matches!(error, Error::InvalidParameter { .. });
        }
        let error = client.call("x".repeat(256), "?", NEVER).unwrap_err();
        assert_matches!(error, Error::ShortStringTooLong { .. });
        assert_eq!(client.in_flight(), 0);
    });
}

/// A megabyte and more either way: what is sent in several frames, and past the buffers.
#[test]
fn bodies_of_any_size_travel() {
    bounded(|| {
        let server = Server::start(echo);
        let client = RpcClient::open(&open()).unwrap();
        thread::scope(|scope| {
            for size in [0, 1, 131_064, 1 << 20, 3 << 20] {
                let (client, queue) = (&client, &server.queue);
                scope.spawn(move || {
                    let body = vec![size as u8; size];
                    assert!(client.call(queue, &body, NEVER).unwrap().body == body);
                });
            }
        });
        server.end();
    });
}
