//! Every example against the broker, and against the Python program that it is the twin of (in `tests/python`).
//!
//! `cargo test` builds the examples first; `cargo test --test twins` alone uses them as they were built last.

#[path = "twins/command_line.rs"]
mod command_line;
#[path = "twins/harness.rs"]
#[allow(dead_code)] // it has more for the other examples
mod harness;
#[path = "twins/same_message.rs"]
mod same_message;

use harness::Language::{self, Python, Rust};
use harness::{Ended, Scene, Url};
use haypile::{
    BasicProperties, DeliveryMode, ExchangeDeclare, ExchangeType, FieldValue, QueueDeclare,
};
use std::process::Command;
use std::time::{Duration, Instant};

const WAITING: &str = "Waiting for messages. To exit press CTRL+C";
const STAR_WAITING: &str = " [*] Waiting for messages. To exit press CTRL+C";

/// Runs a function of two languages three times: twin with twin, and each with the original of the other.
macro_rules! mixed {
    ($($pair:ident)*) => {
        $(
            mod $pair {
                use super::{Python, Rust};

                #[test]
                fn rust_to_rust() {
                    super::$pair(Rust, Rust);
                }

                #[test]
                fn python_to_rust() {
                    super::$pair(Python, Rust);
                }

                #[test]
                fn rust_to_python() {
                    super::$pair(Rust, Python);
                }
            }
        )*
    };
}

mixed! {
    ttl fanout work send_receive durable_send_receive publish_subscribe simple broadcast routing topic headers persistent
    rpc compute compute_request
}

fn ttl(producer: Language, consumer: Language) {
    let scene = Scene::new();
    let send = ["--count", "3", "--interval", "0.1"];
    let (sent, received) = if producer == Python {
        // The originals declare the queue differently, so each must come first. The twins take it as it is.
        let sent = scene.run(producer, "ttl_producer", &send);
        (sent, scene.run(consumer, "ttl_consumer", &["--count", "3"]))
    } else {
        let consumer = scene.start(consumer, "ttl_consumer", &["--count", "3"]);
        scene.wait_for_consumer("test");
        let sent = scene.run(producer, "ttl_producer", &send);
        (sent, consumer.finish())
    };
    let sent = without(" [x] Sent ", &sent);
    assert_eq!(sent.len(), 3);
    assert!(
        sent.iter()
            .all(|json| json.starts_with(r#"{"msg": "hello world 20"#)),
        "{sent:?}"
    );
    assert_eq!(sent, without("Receive: ", &received));
}

/// With `--auto-delete` a twin declares the queue as the other's original does, so that it may also come first.
#[test]
fn ttl_twins_declare_the_queue_either_way() {
    let scene = Scene::new();
    let sent = scene.run(
        Rust,
        "ttl_producer",
        &["--count", "1", "--auto-delete", "yes"],
    );
    let received = scene.run(Python, "ttl_consumer", &["--count", "1"]);
    assert_eq!(
        without(" [x] Sent ", &sent),
        without("Receive: ", &received)
    );

    // The queue has gone with its consumer.
    let consumer = scene.start(
        Rust,
        "ttl_consumer",
        &["--count", "1", "--auto-delete", "no"],
    );
    scene.wait_for_consumer("test");
    let sent = scene.run(Python, "ttl_producer", &["--count", "1"]);
    assert_eq!(
        without(" [x] Sent ", &sent),
        without("Receive: ", &consumer.finish())
    );
}

#[test]
fn ttl_twin_reports_that_the_queue_is_declared_otherwise() {
    let scene = Scene::new();
    scene.run(Rust, "ttl_producer", &["--count", "1"]);
    let Ended { code, stderr, .. } = scene.start(Rust, "ttl_consumer", &["--count", "1"]).end();
    assert_eq!(code, Some(0));
    assert!(
        stderr[0]
            .contains("406 PRECONDITION_FAILED - inequivalent arg 'auto_delete' for queue 'test'"),
        "{stderr:?}"
    );
    assert_eq!(stderr[1], "using the queue as it is");
}

#[test]
fn ttl_messages_expire() {
    let scene = Scene::new();
    scene.run(Rust, "ttl_producer", &["--count", "1"]);
    let channel = scene.connection.channel().unwrap();
    // Only the same time to live is accepted in a second declaration.
    channel
        .queue_declare(QueueDeclare::new(scene.name("test")).argument("x-message-ttl", 100_000))
        .unwrap();
    let other = channel
        .queue_declare(QueueDeclare::new(scene.name("test")).argument("x-message-ttl", 99_999))
        .unwrap_err();
    assert_eq!(other.reply_code(), Some(406), "{other}");
}

/// Times are UTC, in Python's format. Such texts sort as the times do.
#[test]
fn ttl_producers_agree_on_the_time() {
    let scene = Scene::new();
    let times = [Rust, Python, Rust].map(|language| {
        scene
            .run(language, "ttl_producer", &["--count", "1"])
            .remove(0)
    });
    assert!(times.is_sorted(), "{times:?}");
    assert!(
        times.iter().all(|line| line.len() == times[0].len()),
        "{times:?}"
    );
}

fn fanout(producer: Language, consumer: Language) {
    let scene = Scene::new();
    let consumer = scene.start(consumer, "fanout_consumer", &["--count", "10"]);
    scene.wait_for_consumer("queue_aoto_1");
    // A second queue gets everything as well.
    let second = scene.start(
        Rust,
        "fanout_consumer",
        &["--count", "10", "--queue", "queue_aoto_2"],
    );
    scene.wait_for_consumer("queue_aoto_2");
    assert!(scene.run(producer, "fanout_producer", &[]).is_empty());

    let received = consumer.finish();
    assert_eq!(received.len(), 10);
    for (i, line) in received.iter().enumerate() {
        let start = format!(
            r#"b'{{"id": "10000{i}", "amount": {}, "name": "aoto", "createtime": "20"#,
            100 * i
        );
        assert!(
            line.starts_with(&start) && line.ends_with(r#""}'"#),
            "{line}"
        );
    }
    assert_eq!(second.finish(), received);
    assert_eq!(scene.messages_in("queue_aoto_1"), 0);
}

fn work(producer: Language, consumer: Language) {
    let scene = Scene::new();
    let consumer = scene.start(consumer, "work_consumer", &["--count", "3"]);
    consumer.wait_for(STAR_WAITING);
    assert_eq!(
        scene.run(producer, "work_producer", &["dig", "the", "garden"]),
        ["[x] Sent 'dig the garden'"]
    );
    assert_eq!(
        scene.run(producer, "work_producer", &["don't"]),
        [r#"[x] Sent "don't""#]
    );
    assert_eq!(
        scene.run(producer, "work_producer", &["1\t\\2 é"]),
        [r"[x] Sent '1\t\\2 é'"]
    );
    assert_eq!(
        consumer.finish(),
        [
            STAR_WAITING,
            " [x] Received b'dig the garden'",
            r#" [x] Received b"don't""#,
            r" [x] Received b'1\t\\2 \xc3\xa9'",
        ]
    );
    assert_eq!(scene.messages_in("anheng"), 0);
}

fn send_receive(sender: Language, receiver: Language) {
    let scene = Scene::new();
    let receiver = scene.start(receiver, "receive", &["--count", "2"]);
    receiver.wait_for("waiting for maeeage");
    assert!(scene.run(sender, "send", &[]).is_empty());
    assert!(scene.run(sender, "send", &[]).is_empty());
    assert_eq!(
        receiver.finish(),
        [
            "waiting for maeeage",
            "Received b'Hello World'",
            "Received b'Hello World'"
        ]
    );
}

fn durable_send_receive(sender: Language, receiver: Language) {
    let scene = Scene::new();
    scene.run(sender, "send", &["--durable"]);
    let received = scene.run(receiver, "receive", &["--durable", "--count", "1"]);
    assert_eq!(received, ["waiting for maeeage", "Received b'Hello World'"]);
}

fn publish_subscribe(publisher: Language, subscriber: Language) {
    let scene = Scene::new();
    // There is no queue yet, so this one is lost.
    scene.run(publisher, "publish", &[]);
    let subscribers =
        [subscriber, Rust].map(|language| scene.start(language, "subscribe", &["--count", "1"]));
    subscribers
        .iter()
        .for_each(|subscriber| subscriber.wait_for("waiting for maeeage"));
    assert!(scene.run(publisher, "publish", &[]).is_empty());
    for subscriber in subscribers {
        assert_eq!(
            subscriber.finish(),
            ["waiting for maeeage", "Received b'i am jabbok'"]
        );
    }
}

fn simple(producer: Language, consumer: Language) {
    let scene = Scene::new();
    let consumer = scene.start(consumer, "simple_consumer", &["--count", "2"]);
    consumer.wait_for(WAITING);
    assert_eq!(
        scene.run(producer, "simple_producer", &[]),
        ["Sent 'Hello World!'"]
    );
    assert_eq!(
        scene.run(producer, "simple_producer", &[]),
        ["Sent 'Hello World!'"]
    );
    assert_eq!(
        consumer.finish(),
        [
            WAITING,
            "'hello1':b'Hello World!'",
            "'hello1':b'Hello World!'"
        ]
    );
    assert_eq!(scene.messages_in("hello1"), 0);
}

fn broadcast(producer: Language, consumer: Language) {
    let scene = Scene::new();
    let consumers = [consumer, Rust]
        .map(|language| scene.start(language, "broadcast_consumer", &["--count", "1"]));
    consumers
        .iter()
        .for_each(|consumer| consumer.wait_for(WAITING));
    assert_eq!(
        scene.run(producer, "broadcast_producer", &[]),
        ["Sent 'Hello World!'"]
    );
    for consumer in consumers {
        assert_eq!(consumer.finish(), [WAITING, "'':b'Hello World!'"]);
    }
}

fn routing(producer: Language, consumer: Language) {
    let scene = Scene::new();
    let consumer = scene.start(consumer, "routing_consumer", &["--count", "3"]);
    consumer.wait_for(WAITING);
    // The original knows one keyword only. No queue is bound with debug.
    for keyword in ["debug", "warning", "error"] {
        scene.run(Rust, "routing_producer", &["--key", keyword]);
    }
    assert_eq!(
        scene.run(producer, "routing_producer", &[]),
        ["Sent 'Hello World!'"]
    );
    assert_eq!(
        consumer.finish(),
        [
            WAITING,
            "'warning':b'Hello World!'",
            "'error':b'Hello World!'",
            "'info':b'Hello World!'"
        ]
    );
}

fn topic(producer: Language, consumer: Language) {
    let scene = Scene::new();
    let consumer = scene.start(consumer, "topic_consumer", &["--count", "3"]);
    let one_word = scene.start(Rust, "topic_consumer", &["--count", "1", "europe.*.rain"]);
    consumer.wait_for(WAITING);
    one_word.wait_for(WAITING);
    for topic in ["asia.weather", "europe", "europe.weather.rain"] {
        scene.run(Rust, "topic_producer", &["--key", topic]);
    }
    assert_eq!(
        scene.run(producer, "topic_producer", &[]),
        ["Sent 'Hello World!'"]
    );
    assert_eq!(
        consumer.finish(),
        [
            WAITING,
            "'europe':b'Hello World!'",
            "'europe.weather.rain':b'Hello World!'",
            "'europe.weather':b'Hello World!'"
        ]
    );
    assert_eq!(
        one_word.finish(),
        [WAITING, "'europe.weather.rain':b'Hello World!'"]
    );
}

fn headers(producer: Language, consumer: Language) {
    let scene = Scene::new();
    let consumer = scene.start(consumer, "headers_consumer", &["--count", "1"]);
    let any = [
        "--count",
        "2",
        "--match",
        "any",
        "type=report",
        "format=zip",
    ];
    let any = scene.start(Rust, "headers_consumer", &any);
    consumer.wait_for(WAITING);
    any.wait_for(WAITING);
    // One header agrees, which is enough for one of the two.
    scene.run(Rust, "headers_producer", &["format=zip", "type=log"]);
    assert_eq!(
        scene.run(producer, "headers_producer", &[]),
        ["Sent 'Hello World!'"]
    );
    assert_eq!(consumer.finish(), [WAITING, "'pdf':b'Hello World!'"]);
    assert_eq!(
        any.finish(),
        [WAITING, "'zip':b'Hello World!'", "'pdf':b'Hello World!'"]
    );
}

fn persistent(producer: Language, consumer: Language) {
    let scene = Scene::new();
    let sent = scene.run(producer, "persistent_producer", &["--interval", "0.01"]);
    let received = scene.run(consumer, "persistent_consumer", &["--count", "5"]);
    let texts: Vec<_> = (0..5)
        .map(|n| format!("'Hello World! Message number {n}'"))
        .collect();
    assert_eq!(without(" [x] Sent ", &sent), texts);
    let mut expected = vec![STAR_WAITING.to_owned()];
    for text in texts {
        expected.extend([format!(" [x] Received {text}"), " [x] Done".to_owned()]);
    }
    assert_eq!(received, expected);
    assert_eq!(scene.messages_in("my_queue"), 0);
}

/// While one consumer is at work, the other gets the rest.
#[test]
fn persistent_consumers_share_fairly() {
    let scene = Scene::new();
    let channel = scene.connection.channel().unwrap();
    channel
        .queue_declare(QueueDeclare::new(scene.name("my_queue")).durable(true))
        .unwrap();
    let slow = scene.start(Rust, "persistent_consumer", &["--count", "1"]);
    channel
        .basic_publish("", scene.name("my_queue"), "takes long.....")
        .unwrap();
    slow.wait_for(" [x] Received 'takes long.....'");

    let quick = scene.start(Python, "persistent_consumer", &["--count", "4"]);
    (0..4).for_each(|_| {
        channel
            .basic_publish("", scene.name("my_queue"), "quick")
            .unwrap()
    });
    quick.finish();
    assert!(!slow.has_printed(" [x] Done"));
    slow.finish();
}

/// A message whose consumer ends before it acknowledged goes to the next.
#[test]
fn persistent_messages_outlive_their_consumer() {
    let scene = Scene::new();
    let channel = scene.connection.channel().unwrap();
    channel
        .queue_declare(QueueDeclare::new(scene.name("my_queue")).durable(true))
        .unwrap();
    let text = format!("takes long{}", ".".repeat(1000));
    channel
        .basic_publish("", scene.name("my_queue"), &text)
        .unwrap();
    for language in [Rust, Python, Rust] {
        let consumer = scene.start(language, "persistent_consumer", &[]);
        consumer.wait_for(&format!(" [x] Received '{text}'"));
        // Dropped here, and so killed.
    }
    let (method, _, body) = scene.take("my_queue");
    assert!(method.redelivered);
    assert_eq!(body, text.as_bytes());
}

fn rpc(client: Language, server: Language) {
    let scene = Scene::new();
    let server = scene.start(server, "rpc_server", &["--count", "1"]);
    server.wait_for("Waiting RPC requests");
    let mut printed = scene.run(client, "rpc_client", &[]);
    assert_eq!(printed.pop().as_deref(), Some("Got b'return ok'"));
    assert!(
        !printed.is_empty() && printed.iter().all(|line| line == "listen..."),
        "{printed:?}"
    );
    assert_eq!(
        server.finish(),
        ["Waiting RPC requests", "Request content b'ok'"]
    );
}

/// The client may come first, and its request may be anything.
#[test]
fn rpc_client_waits_for_a_server() {
    let scene = Scene::new();
    let client = scene.start(Rust, "rpc_client", &["any", "text"]);
    client.wait_for("listen...");
    let server = scene.start(Python, "rpc_server", &["--count", "1"]);
    assert_eq!(
        client.finish().last().map(String::as_str),
        Some("Got b'return any text'")
    );
    server.finish();
}

/// The five threads of the centre share one connection.
fn compute(center: Language, node: Language) {
    let scene = Scene::new();
    let node = scene.start(node, "compute_node", &["--count", "5"]);
    node.wait_for(" [*] Waiting for n");
    let printed = scene.run(center, "compute_center", &[]);
    // The threads' order is their own affair, but for each thread by itself.
    let sorted = |mut lines: Vec<String>| {
        lines.sort();
        lines
    };
    let numbers = [10, 20, 30, 40, 50];
    let place = |line: String| {
        printed
            .iter()
            .position(|printed| *printed == line)
            .unwrap_or_else(|| panic!("{printed:?}"))
    };
    for n in numbers {
        assert!(
            place(format!(" [x] Requesting increase({n})"))
                < place(format!(" [.] increase({n})={}", n + 1))
        );
    }
    assert_eq!(printed.len(), 10, "{printed:?}");
    let mut expected = vec![" [*] Waiting for n".to_owned()];
    expected.extend(numbers.map(|n| format!(" [.] increase({n})")));
    assert_eq!(sorted(node.finish()), sorted(expected));
    assert_eq!(scene.messages_in("compute_queue"), 0);
}

#[test]
fn compute_center_with_many_threads_and_both_kinds_of_nodes() {
    let scene = Scene::new();
    let nodes = [Rust, Python, Rust].map(|language| scene.start(language, "compute_node", &[]));
    nodes
        .iter()
        .for_each(|node| node.wait_for(" [*] Waiting for n"));
    let numbers: Vec<String> = (0..40).map(|n| n.to_string()).collect();
    let numbers: Vec<&str> = numbers.iter().map(String::as_str).collect();
    let printed = scene.run(Rust, "compute_center", &numbers);
    assert_eq!(printed.len(), 80, "{printed:?}");
    for n in 0..40 {
        assert!(
            printed.contains(&format!(" [.] increase({n})={}", n + 1)),
            "{printed:?}"
        );
    }
}

fn compute_request(center: Language, node: Language) {
    let scene = Scene::new();
    // The document has two nodes: this request has no correlation id, so each can reply to it.
    let nodes: &[&str] = if node == Python {
        &["compute_node", "compute_node_without_id"]
    } else {
        &["compute_node"]
    };
    for program in nodes {
        let node = scene.start(node, program, &["--count", "1"]);
        node.wait_for(" [*] Waiting for n");
        assert_eq!(
            scene.run(center, "compute_request", &[]),
            [" [x] Requesting increase(30)", " [.] Got 31"]
        );
        assert_eq!(node.finish(), [" [*] Waiting for n", " [.] increase(30)"]);
    }
}

#[test]
fn what_is_to_last_is_persistent() {
    let scene = Scene::new();
    scene.run(Rust, "simple_producer", &[]);
    assert_eq!(
        scene.take("hello1").1.delivery_mode,
        Some(DeliveryMode::Persistent)
    );
}

#[test]
fn headers_are_text() {
    let scene = Scene::new();
    let channel = scene.connection.channel().unwrap();
    channel
        .exchange_declare(
            ExchangeDeclare::new(scene.name("my_headers"), ExchangeType::Headers).durable(true),
        )
        .unwrap();
    let queue = channel
        .queue_declare(QueueDeclare::new("").exclusive(true))
        .unwrap()
        .queue;
    channel
        .queue_bind(&queue, scene.name("my_headers"), "")
        .unwrap();
    scene.run(Rust, "headers_producer", &["colour=red"]);
    let headers = scene
        .take(&queue)
        .1
        .headers
        .expect("the message has headers");
    assert_eq!(
        headers.get("colour").and_then(FieldValue::as_str),
        Some("red")
    );
}

/// A request without `reply_to` does not come back for ever.
#[test]
fn nodes_survive_a_request_without_address() {
    let scene = Scene::new();
    let node = scene.start(Rust, "compute_node", &["--count", "1"]);
    node.wait_for(" [*] Waiting for n");
    scene
        .connection
        .channel()
        .unwrap()
        .basic_publish("", scene.name("compute_queue"), "1")
        .unwrap();
    let Ended { code, stderr, .. } = node.end();
    assert_eq!(
        (code, stderr),
        (Some(0), vec!["the request has no reply_to".to_owned()])
    );
    assert_eq!(scene.messages_in("compute_queue"), 0);
}

/// What is no number ends no node, whatever it is; the original ends, and finds the same request when it starts again.
#[test]
fn nodes_survive_a_request_that_is_no_number() {
    let scene = Scene::new();
    let node = scene.start(Rust, "compute_node", &["--count", "5"]);
    node.wait_for(" [*] Waiting for n");
    let channel = scene.connection.channel().unwrap();
    let replies = channel
        .queue_declare(QueueDeclare::new("").exclusive(true))
        .unwrap()
        .queue;
    let most = i128::MAX.to_string();
    let requests: [&[u8]; 5] = [
        b"ten",
        b"",
        b"1\xff",
        most.as_bytes(),
        b" 9223372036854775807 ",
    ];
    for request in requests {
        let properties = BasicProperties::new().reply_to(&replies);
        channel
            .basic_publish_with("", scene.name("compute_queue"), request, properties)
            .unwrap();
    }
    assert_eq!(scene.take(&replies).2, b"9223372036854775808");
    let Ended { code, stderr, .. } = node.end();
    assert_eq!(code, Some(0));
    assert_eq!(stderr.len(), 4, "{stderr:?}");
    assert_eq!(stderr[0], "\"ten\" is no number; the request is rejected");
    assert_eq!(scene.messages_in("compute_queue"), 0);
}

#[test]
fn servers_survive_a_request_that_is_no_text() {
    let scene = Scene::new();
    let server = scene.start(Rust, "rpc_server", &["--count", "1"]);
    server.wait_for("Waiting RPC requests");
    let channel = scene.connection.channel().unwrap();
    let replies = channel
        .queue_declare(QueueDeclare::new("").exclusive(true))
        .unwrap()
        .queue;
    let properties = BasicProperties::new().reply_to(&replies);
    channel
        .basic_publish_with("", scene.name("rpc_queue"), b"\xff", properties)
        .unwrap();
    assert_eq!(scene.take(&replies).2, b"return \xff");
    server.finish();
}

/// A thread is woken by its own result. When each looked again every 100 ms whether another had got it, many requests took
/// that long at least. The best of many runs is looked at, since the machine may be busy.
#[test]
fn compute_center_waits_for_nothing_but_results() {
    let scene = Scene::new();
    let node = scene.start(Rust, "compute_node", &[]);
    node.wait_for(" [*] Waiting for n");
    let numbers: Vec<String> = (0..20).map(|n| n.to_string()).collect();
    let numbers: Vec<&str> = numbers.iter().map(String::as_str).collect();
    let mut best = Duration::MAX;
    for _ in 0..40 {
        let began = Instant::now();
        scene.run(Rust, "compute_center", &numbers);
        best = best.min(began.elapsed());
        if best < Duration::from_millis(90) {
            return;
        }
    }
    panic!("it took {best:?} at best");
}

/// Each program names the document that it comes from, and the list of examples names the program.
#[test]
fn every_twin_names_its_document_and_section() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("examples/README.md")).unwrap();
    let documents = [
        "Python使用pika实现RabbitMQ消息收发",
        "Python 操作 RabbitMQ 消息队列",
        "pika消息中间件模块",
        "RabbitMQ (categories: Python)",
        "Python怎样操作消息队列?pika连接RabbitMQ",
    ];
    let mut named = [0; 5];
    for entry in std::fs::read_dir(root.join("examples")).unwrap() {
        let path = entry.unwrap().path();
        let text = match path.extension() {
            Some(extension) if extension == "rs" => std::fs::read_to_string(&path).unwrap(),
            _ => continue,
        };
        let name = path.file_stem().unwrap().to_str().unwrap();
        if name == "tidy" || !text.contains("\nmod common;") {
            continue;
        }
        let line = |start| text.lines().find_map(|line| line.strip_prefix(start));
        let document: &str = line("//! Document: ").unwrap_or_else(|| panic!("{name}"));
        let section: &str = line("//! Section: ").unwrap_or_else(|| panic!("{name}"));
        assert!(!section.is_empty(), "{name}");
        let known = documents.iter().position(|known| *known == document);
        named[known.unwrap_or_else(|| panic!("{name}: {document}"))] += 1;
        assert!(readme.contains(&format!("`{name}`")), "{name}");
    }
    assert!(named.iter().all(|count| *count > 0), "{named:?}");
}

/// The lines without what each begins with.
fn without<'a>(start: &str, lines: &'a [String]) -> Vec<&'a str> {
    lines
        .iter()
        .map(|line| {
            line.strip_prefix(start)
                .unwrap_or_else(|| panic!("{line:?} has no {start:?}"))
        })
        .collect()
}
