//! Remote procedure calls: clients and servers of this crate, and peers that reply by hand.

#[path = "support/capture.rs"]
mod capture;
mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use haypile::{
    BasicGet, BasicProperties, Channel, Connection, ConsumingEnded, Error, FieldTable, FieldValue,
    Message, QueueDeclare, RpcClient, RpcError, RpcReply, RpcServer, Stop, Supervisor,
};
use support::proxy::Proxy;
use support::{assert_matches, bounded, exclusive_queue, open, unique, wait_until, SOON};

/// Longer than any test may take: what ends sooner does not end by it.
const NEVER: Duration = Duration::from_secs(600);

type Foreign = Box<dyn std::error::Error + Send + Sync>;

/// A server of this crate on a connection and a thread of its own.
struct Server {
    queue: String,
    stop: Stop,
    thread: JoinHandle<haypile::Result<ConsumingEnded>>,
}

impl Server {
    fn start<R: Into<RpcReply>>(
        handler: impl FnMut(Message) -> Result<R, Foreign> + Send + 'static,
    ) -> Server {
        let channel = support::channel();
        let queue = unique("rpc");
        // Another connection's clients send to it by the default exchange, which exclusive queues allow.
        channel
            .queue_declare(QueueDeclare::new(&queue).exclusive(true))
            .unwrap();
        Self::on(channel, queue, handler)
    }

    fn on<R: Into<RpcReply>>(
        channel: Channel,
        queue: String,
        handler: impl FnMut(Message) -> Result<R, Foreign> + Send + 'static,
    ) -> Server {
        let stop = channel.stop_handle();
        let server = RpcServer::new(&queue).prefetch(10);
        let thread = thread::spawn(move || server.run(&channel, handler));
        Server {
            queue,
            stop,
            thread,
        }
    }

    fn end(self) {
        self.stop.stop();
        let ended = self.thread.join().unwrap().unwrap();
        assert_eq!(ended, ConsumingEnded::Cancelled);
    }
}

fn echo((_, _, body): Message) -> Result<Vec<u8>, Foreign> {
    Ok(body)
}

fn increase((_, _, body): Message) -> Result<String, Foreign> {
    let number: i64 = std::str::from_utf8(&body)?.trim().parse()?;
    Ok((number + 1).to_string())
}

/// A queue whose requests the test takes and replies to by hand.
struct ByHand {
    channel: Channel,
    queue: String,
}

impl ByHand {
    fn new() -> Self {
        let channel = support::channel();
        let queue = exclusive_queue(&channel);
        ByHand { channel, queue }
    }

    /// The next request.
    fn take(&self) -> Message {
        let mut taken = None;
        wait_until(SOON, || {
            let get = BasicGet::new(&self.queue).auto_ack(true);
            taken = self.channel.basic_get(get).unwrap();
            taken.is_some()
        });
        let (method, properties, body) = taken.unwrap();
        let mut deliver = haypile::Deliver::default();
        deliver.delivery_tag = method.delivery_tag;
        (deliver, properties, body)
    }

    fn reply(&self, to: &BasicProperties, id: Option<&str>, body: &str) {
        let mut properties = BasicProperties::new();
        properties.correlation_id = id.map(Into::into);
        let reply_to = to.reply_to.clone().expect("a call has reply_to");
        self.channel
            .basic_publish_with("", reply_to, body, properties)
            .unwrap();
    }

    fn reply_to(&self, request: &Message, body: &str) {
        let id = request.1.correlation_id.as_deref();
        self.reply(&request.1, id, body);
    }
}

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

#[test]
fn an_error_of_the_handler_is_an_error_of_the_call() {
    bounded(|| {
        let long = "ä".repeat(200_000);
        let text = long.clone();
        let server = Server::start(move |(_, _, body)| match &body[..] {
            b"kind" => Err(RpcError::new("not-found", "no such thing").into()),
            b"long" => Err(RpcError::new(&text, &text).into()),
            b"text" => Err("just a text".into()),
            b"own" => Err(haypile::Error::other("an error of this crate").into()),
            _ => increase((Default::default(), BasicProperties::new(), body)),
        });
        let client = RpcClient::open(&open()).unwrap();
        let failure = |request: &str| match client.call(&server.queue, request, NEVER) {
            Err(Error::Rpc(error)) => *error,
            other => panic!("{request}: {other:?}"),
        };
        assert_eq!(failure("kind"), RpcError::new("not-found", "no such thing"));
        assert_eq!(failure("text"), RpcError::new("error", "just a text"));
        assert_eq!(
            failure("own"),
            RpcError::new("error", "an error of this crate")
        );
        let number = failure("no number");
        assert_eq!(
            (&*number.kind, &*number.message),
            ("error", "invalid digit found in string")
        );
        let cut = failure("long");
        assert_eq!((cut.kind.len(), cut.message), (254, long));

        let error = client.call(&server.queue, "kind", NEVER).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the server replied with an error (not-found): no such thing"
        );
        assert!(!error.is_retryable());
        assert!(!error.is_connection_error() && !error.is_channel_error());
        // And the server goes on.
        assert_eq!(client.call(&server.queue, "1", NEVER).unwrap().body, b"2");
        server.end();
    });
}

/// Servers in other languages may report errors too, and put into the header what they like.
#[test]
fn an_error_header_may_have_any_value() {
    bounded(|| {
        let by_hand = ByHand::new();
        let client = RpcClient::open(&open()).unwrap();
        for (value, kind) in [
            (FieldValue::from("bad-request"), "bad-request"),
            (FieldValue::from(404), "404"),
            (FieldValue::from(true), "true"),
            (FieldValue::void(), ""),
        ] {
            let none = BasicProperties::new();
            let call = client
                .start_call("", &by_hand.queue, "?", none, NEVER)
                .unwrap();
            let (_, request, _) = by_hand.take();
            let mut properties = BasicProperties::new().header("rpc-error", value);
            properties
                .correlation_id
                .clone_from(&request.correlation_id);
            let reply_to = request.reply_to.as_ref().unwrap();
            by_hand
                .channel
                .basic_publish_with("", reply_to, &b"no \xff text"[..], properties)
                .unwrap();
            match call.wait() {
                Err(Error::Rpc(error)) => {
                    assert!(error.kind.contains(kind), "{error:?}");
                    assert_eq!(error.message, "no \u{fffd} text");
                }
                other => panic!("{other:?}"),
            }
        }
    });
}

/// A request without `reply_to` goes to the dead letters, and the handler never sees it.
#[test]
fn a_request_without_reply_to_is_rejected() {
    bounded(|| {
        capture::capture();
        let channel = support::channel();
        let (queue, dead) = (unique("rpc"), unique("dead"));
        let other = channel.connection().channel().unwrap();
        other
            .queue_declare(QueueDeclare::new(&dead).exclusive(true))
            .unwrap();
        channel
            .queue_declare(
                QueueDeclare::new(&queue)
                    .exclusive(true)
                    .argument("x-dead-letter-exchange", "")
                    .argument("x-dead-letter-routing-key", dead.as_str()),
            )
            .unwrap();
        let server = Server::on(channel, queue, |(_, properties, body)| {
            assert!(properties.reply_to.is_some());
            Ok(body)
        });
        let sender = support::channel();
        sender
            .basic_publish("", &server.queue, "no address")
            .unwrap();
        let empty = BasicProperties::new().reply_to("");
        sender
            .basic_publish_with("", &server.queue, "empty address", empty)
            .unwrap();
        support::assert_message_count(&other, &dead, 2);
        let is_about_it = |line: &str| {
            line.starts_with("WARN")
                && line.contains("a request is rejected, since its reply_to is missing")
                && line.contains(&server.queue)
        };
        assert_eq!(
            capture::logged()
                .lines()
                .filter(|line| is_about_it(line))
                .count(),
            2
        );
        let client = RpcClient::open(&open()).unwrap();
        let reply = client.call(&server.queue, "still there", NEVER).unwrap();
        assert_eq!(reply.body, b"still there");
        server.end();
    });
}

/// Whatever `reply_to` a request has, the server goes on.
#[test]
fn no_reply_to_ends_the_server() {
    bounded(|| {
        let server = Server::start(echo);
        let sender = support::channel();
        let long = "x".repeat(255);
        let gone = {
            let connection = open();
            let client = RpcClient::open(&connection).unwrap();
            let by_hand = ByHand::new();
            let none = BasicProperties::new();
            let _call = client.start_call("", &by_hand.queue, "?", none, NEVER);
            let (_, properties, _) = by_hand.take();
            connection.close().unwrap();
            properties.reply_to.unwrap().to_string()
        };
        let cut = &gone[..gone.len() - 3];
        for reply_to in [
            "nowhere",
            "amq.rabbitmq.reply-to.",
            "amq.rabbitmq.reply-to.garbage",
            "amq.rabbitmq.reply-to.garbage.key",
            "amq.rabbitmq.reply-to.g2dkAA5yYWJiaXRAbG9jYWxob3N0.xx==",
            "amq.rabbitmq.reply-to. .\n",
            &gone,
            cut,
            &format!("{gone}.more"),
            &long,
            "\u{0}\n",
        ] {
            let properties = BasicProperties::new().reply_to(reply_to);
            sender
                .basic_publish_with("", &server.queue, "?", properties)
                .unwrap();
        }
        let client = RpcClient::open(&open()).unwrap();
        let reply = client.call(&server.queue, "still there", NEVER).unwrap();
        assert_eq!(reply.body, b"still there");
        server.end();
    });
}

/// RabbitMQ before 4.0 ends the connection that replies to a process of a node that it does not know. Such a request must not come
/// back for ever.
#[test]
fn a_request_that_ends_connections_ends_few() {
    bounded(|| {
        let owner = support::channel();
        let queue = unique("rpc");
        owner
            .queue_declare(QueueDeclare::new(&queue).durable(true))
            .unwrap();
        let unknown = BasicProperties::new().reply_to(
            "amq.rabbitmq.reply-to.g1h2AA9yZXBseUAxMjM0NTY3ODkAACc1AAAAAGsJNbE=.q0IXhqYK30msxhaP8h1PXg==",
        );
        owner
            .basic_publish_with("", &queue, "poison", unknown)
            .unwrap();
        let client = RpcClient::open(&open()).unwrap();
        let none = BasicProperties::new();
        let call = client.start_call("", &queue, "after it", none, NEVER);
        let ends = AtomicUsize::new(0);
        let mut served = 0;
        while served == 0 {
            assert!(ends.fetch_add(1, Ordering::Relaxed) < 3, "it comes back");
            let channel = support::channel();
            let ended = RpcServer::new(&queue).run(&channel, |(_, _, body)| -> Result<_, Error> {
                if body == b"after it" {
                    served += 1;
                    channel.cancel()?;
                }
                Ok(body)
            });
            if let Err(error) = ended {
                assert_eq!(error.reply_code(), Some(541), "{error:?}");
            }
        }
        assert_eq!(call.unwrap().wait().unwrap().body, b"after it");
        support::assert_message_count(&owner, &queue, 0);
        owner.queue_delete(&queue).unwrap();
    });
}

/// A server replies without a correlation id if the request has none, and with whatever it has.
#[test]
fn correlation_ids_go_back_as_they_came() {
    bounded(|| {
        let server = Server::start(echo);
        let channel = support::channel();
        let replies = exclusive_queue(&channel);
        let long = "x".repeat(255);
        for id in [None, Some(""), Some("1"), Some("\u{0} ü"), Some(&*long)] {
            let mut properties = BasicProperties::new().reply_to(&replies);
            properties.correlation_id = id.map(Into::into);
            channel
                .basic_publish_with("", &server.queue, "?", properties)
                .unwrap();
            let mut got = None;
            wait_until(SOON, || {
                let get = BasicGet::new(&replies).auto_ack(true);
                got = channel.basic_get(get).unwrap();
                got.is_some()
            });
            let (_, properties, body) = got.unwrap();
            assert_eq!(properties.correlation_id.as_deref(), id);
            assert_eq!(body, b"?");
        }
        server.end();
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
fn a_reply_that_cannot_be_sent_is_an_error_of_the_call() {
    bounded(|| {
        let server = Server::start(|(_, _, body)| {
            let mut headers = FieldTable::new();
            match &body[..] {
                b"nan" => headers.insert("x", f64::NAN),
                b"large" => headers.insert("x", "x".repeat(1_000_000)),
                _ => None,
            };
            Ok((BasicProperties::new().headers(headers), body))
        });
        let client = RpcClient::open(&open()).unwrap();
        for request in ["nan", "large"] {
            match client.call(&server.queue, request, NEVER) {
                Err(Error::Rpc(error)) => assert!(error.message.contains("not allowed"), "{error}"),
                other => panic!("{request}: {other:?}"),
            }
        }
        assert_eq!(client.call(&server.queue, "ok", NEVER).unwrap().body, b"ok");
        server.end();
    });
}

/// The caller learns of it, the panic goes on, and the request does not come back to end the next server.
#[test]
fn a_panic_of_the_handler_is_an_error_of_the_call() {
    bounded(|| {
        let channel = support::channel();
        let queue = exclusive_queue(&channel);
        let client = RpcClient::open(&open()).unwrap();
        let server = Server::on(channel.clone(), queue.clone(), |_| -> Result<(), Foreign> {
            panic!("on purpose")
        });
        match client.call(&queue, "?", NEVER) {
            Err(Error::Rpc(error)) => assert_eq!(error.kind, "panic"),
            other => panic!("{other:?}"),
        }
        let panic = server.thread.join().unwrap_err();
        assert_eq!(panic.downcast_ref(), Some(&"on purpose"));
        // The channel is as it was, and serves again.
        let server = Server::on(channel, queue, echo);
        let reply = client.call(&server.queue, "next", NEVER).unwrap();
        assert_eq!(reply.body, b"next");
        server.end();
    });
}

#[test]
fn a_request_goes_to_another_server_if_the_first_is_lost() {
    bounded(|| {
        let proxy = Proxy::start();
        let queue = unique("rpc");
        let owner = support::channel();
        owner
            .queue_declare(QueueDeclare::new(&queue).durable(true))
            .unwrap();
        let lost = Connection::open(proxy.url()).unwrap().channel().unwrap();
        let (taken, is_taken) = mpsc::channel();
        let (go_on, may_go_on) = mpsc::channel::<()>();
        let server = Server::on(lost, queue.clone(), move |message| {
            taken.send(())?;
            let _ = may_go_on.recv();
            echo(message)
        });
        let client = RpcClient::open(&open()).unwrap();
        let call = thread::spawn({
            let queue = queue.clone();
            move || client.call(&queue, "twice", NEVER)
        });
        is_taken.recv().unwrap();
        proxy.reset();
        drop(go_on);
        let error = server.thread.join().unwrap().unwrap_err();
        assert!(error.is_connection_error(), "{error:?}");
        let second = Server::on(
            owner.connection().channel().unwrap(),
            queue.clone(),
            |(method, _, body)| {
                assert!(method.redelivered);
                Ok(body)
            },
        );
        assert_eq!(call.join().unwrap().unwrap().body, b"twice");
        second.end();
        owner.queue_delete(&queue).unwrap();
    });
}

#[test]
fn a_server_ends_when_its_handler_cancels() {
    bounded(|| {
        let channel = support::channel();
        let queue = exclusive_queue(&channel);
        let client = RpcClient::open(&open()).unwrap();
        let calls: Vec<_> = ["1", "2", "3"]
            .iter()
            .map(|body| {
                let none = BasicProperties::new();
                client.start_call("", &queue, body, none, NEVER).unwrap()
            })
            .collect();
        // The handler borrows what it likes.
        let served = AtomicUsize::new(0);
        let ended = RpcServer::new(&queue).run(&channel, |(_, _, body)| -> Result<_, Error> {
            if served.fetch_add(1, Ordering::Relaxed) == 1 {
                channel.cancel()?;
            }
            Ok(body)
        });
        assert_eq!(ended.unwrap(), ConsumingEnded::Cancelled);
        assert_eq!(served.into_inner(), 2);
        for (call, expected) in calls.into_iter().zip(["1", "2"]) {
            assert_eq!(call.wait().unwrap().body, expected.as_bytes());
        }
        support::assert_message_count(&channel, &queue, 1);
    });
}

#[test]
fn a_server_without_a_queue_fails() {
    bounded(|| {
        let channel = support::channel();
        let error = RpcServer::new(unique("missing"))
            .run(&channel, echo)
            .unwrap_err();
        assert_eq!(error.reply_code(), Some(404), "{error:?}");
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
