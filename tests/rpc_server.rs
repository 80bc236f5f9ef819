//! Remote procedure calls: what a server does with its requests, and what becomes of its handler's errors.

#[path = "support/capture.rs"]
mod capture;
#[path = "support/rpc.rs"]
mod peers;
mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use haypile::{
    BasicGet, BasicProperties, Connection, ConsumingEnded, Error, FieldTable, FieldValue,
    QueueDeclare, RpcClient, RpcError, RpcServer,
};
use peers::{echo, increase, ByHand, Foreign, Server, NEVER};
use support::proxy::Proxy;
use support::{bounded, exclusive_queue, open, unique, wait_until, SOON};

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
        for (request, problem) in [("nan", "NaN was given"), ("large", "one frame")] {
            match client.call(&server.queue, request, NEVER) {
                Err(Error::Rpc(error)) => assert!(error.message.contains(problem), "{error}"),
                other => panic!("{request}: {other:?}"),
            }
        }
        assert_eq!(client.call(&server.queue, "ok", NEVER).unwrap().body, b"ok");
        server.end();
    });
}

/// It is reported to the caller, the panic goes on, and the request does not come back to end the next server.
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
