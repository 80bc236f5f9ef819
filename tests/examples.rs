//! Every example that is no twin, run as a person would run it, against the broker. What the twins do is in `tests/twins.rs`.
//!
//! `cargo test` builds the examples first; `cargo test --test examples` alone uses them as they were built last.
#![allow(dead_code)] // the harness has more for the twins

#[path = "twins/harness.rs"]
mod harness;
#[path = "support/node.rs"]
mod node;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use harness::{example, Ended, Running, Scene};
use haypile::{BasicGet, BasicProperties, Channel, ExchangeDelete, QueueDeclare};

/// What the examples declare and leave behind.
const QUEUES: [&str; 24] = [
    "confirms.small",
    "control",
    "example",
    "fibonacci",
    "hello",
    "invoices",
    "long_work",
    "mail",
    "measurements",
    "move.from",
    "move.to",
    "news",
    "orders",
    "orders.refused",
    "persistence.durable",
    "recovery-example",
    "refused",
    "refused.dead",
    "retry.failed",
    "retry.wait",
    "retry.work",
    "round_robin",
    "rpc_queue",
    "task_queue",
];
const EXCHANGES: [&str; 4] = ["direct_logs", "logs", "orders.refused", "topic_logs"];

/// The examples have names of their own for what they declare, so where there is no virtual host for each test, they go one
/// after another.
static ALONE: Mutex<()> = Mutex::new(());

struct Stage {
    scene: Scene,
    _alone: Option<MutexGuard<'static, ()>>,
}

impl Stage {
    fn new() -> Self {
        let scene = Scene::new();
        let shared = !scene.name("").is_empty();
        let alone = shared.then(|| ALONE.lock().unwrap_or_else(PoisonError::into_inner));
        let stage = Stage {
            scene,
            _alone: alone,
        };
        stage.clear();
        stage
    }

    fn url(&self) -> &str {
        &self.scene.vhost().url
    }

    fn start(&self, program: &str, arguments: &[&str]) -> Running {
        let mut command = Command::new(example(program));
        command.args(arguments).env("AMQP_URL", self.url());
        Running::start(program.to_owned(), "", command)
    }

    /// Runs a program to its end, and returns what it printed.
    fn run(&self, program: &str, arguments: &[&str]) -> Vec<String> {
        self.start(program, arguments).finish()
    }

    fn channel(&self) -> Channel {
        self.scene.connection.channel().unwrap()
    }

    fn durable_queue(&self, name: &str) -> Channel {
        let channel = self.channel();
        channel
            .queue_declare(QueueDeclare::new(name).durable(true))
            .unwrap();
        channel
    }

    fn count(&self, queue: &str) -> u32 {
        let passive = QueueDeclare::new(queue).passive(true);
        self.channel().queue_declare(passive).unwrap().message_count
    }

    fn wait_for_count(&self, queue: &str, count: u32) {
        eventually(|| self.count(queue) == count);
    }

    /// All that is in a queue, as text.
    fn take_all(&self, queue: &str) -> Vec<(BasicProperties, String)> {
        let channel = self.channel();
        let mut all = Vec::new();
        while let Some((_, properties, body)) = channel
            .basic_get(BasicGet::new(queue).auto_ack(true))
            .unwrap()
        {
            all.push((properties, String::from_utf8(body).unwrap()));
        }
        all
    }

    fn clear(&self) {
        for queue in QUEUES {
            self.channel().queue_delete(queue).unwrap();
        }
        for exchange in EXCHANGES {
            let delete = ExchangeDelete::new(exchange);
            self.channel().exchange_delete(delete).unwrap();
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.clear();
        }
    }
}

fn eventually(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "it does not come true");
        sleep(Duration::from_millis(10));
    }
}

// ---- the seven tutorials

#[test]
fn tutorial_1_hello_world() {
    let stage = Stage::new();
    let receiver = stage.start("tutorial_1_receive", &[]);
    receiver.wait_for(" [*] Waiting for messages. To exit press CTRL+C");
    let sent = stage.run("tutorial_1_send", &[]);
    assert_eq!(sent, [" [x] Sent 'Hello World!'"]);
    receiver.wait_for(" [x] Received Hello World!");
}

#[test]
fn tutorial_2_work_queues() {
    let stage = Stage::new();
    let workers = [(); 2].map(|()| stage.start("tutorial_2_worker", &[]));
    for worker in &workers {
        worker.wait_for(" [*] Waiting for messages. To exit press CTRL+C");
    }
    let sent = stage.run("tutorial_2_new_task", &["First", "message."]);
    assert_eq!(sent, [" [x] Sent First message."]);
    stage.run("tutorial_2_new_task", &[]);
    // One is at work for a second, so the other gets the second task.
    eventually(|| {
        let done = |worker: &Running| worker.has_printed(" [x] Done");
        workers.iter().all(done)
    });
    let got = |text| workers.iter().any(|worker| worker.has_printed(text));
    assert!(got(" [x] Received First message.") && got(" [x] Received Hello World!"));
    stage.wait_for_count("task_queue", 0);
}

#[test]
fn tutorial_3_publish_subscribe() {
    let stage = Stage::new();
    let receivers = [(); 2].map(|()| stage.start("tutorial_3_receive_logs", &[]));
    for receiver in &receivers {
        receiver.wait_for(" [*] Waiting for logs. To exit press CTRL+C");
    }
    stage.run("tutorial_3_emit_log", &[]);
    stage.run("tutorial_3_emit_log", &["warning:", "it", "rains"]);
    for receiver in &receivers {
        receiver.wait_for(" [x] info: Hello World!");
        receiver.wait_for(" [x] warning: it rains");
    }
}

#[test]
fn tutorial_4_routing() {
    let stage = Stage::new();
    let receiver = stage.start("tutorial_4_receive_logs_direct", &["warning", "error"]);
    receiver.wait_for(" [*] Waiting for logs. To exit press CTRL+C");
    let sent = stage.run("tutorial_4_emit_log_direct", &[]);
    assert_eq!(sent, [" [x] Sent info:Hello World!"]);
    stage.run("tutorial_4_emit_log_direct", &["error", "Run.", "Run."]);
    receiver.wait_for(" [x] error:Run. Run.");
    assert!(!receiver.has_printed(" [x] info:Hello World!"));
    let Ended { code, stderr, .. } = stage.start("tutorial_4_receive_logs_direct", &[]).end();
    assert_eq!(code, Some(1));
    assert!(stderr[0].starts_with("usage:"));
}

#[test]
fn tutorial_5_topics() {
    let stage = Stage::new();
    let receiver = stage.start("tutorial_5_receive_logs_topic", &["kern.*", "*.critical"]);
    receiver.wait_for(" [*] Waiting for logs. To exit press CTRL+C");
    for (topic, text) in [
        ("user.info", "no"),
        ("kern.critical", "A critical kernel error"),
        ("user.critical", "another"),
    ] {
        stage.run("tutorial_5_emit_log_topic", &[topic, text]);
    }
    receiver.wait_for(" [x] user.critical:another");
    receiver.wait_for(" [x] kern.critical:A critical kernel error");
    assert!(!receiver.has_printed(" [x] user.info:no"));
}

#[test]
fn tutorial_6_rpc() {
    let stage = Stage::new();
    let server = stage.start("tutorial_6_rpc_server", &[]);
    server.wait_for(" [x] Awaiting RPC requests");
    stage
        .channel()
        .basic_publish("", "rpc_queue", "no number, no address")
        .unwrap();
    assert_eq!(
        stage.run("tutorial_6_rpc_client", &[]),
        [" [x] Requesting fib(30)", " [.] Got 832040"]
    );
    server.wait_for(" [.] fib(30)");
}

#[test]
fn tutorial_7_publisher_confirms() {
    let stage = Stage::new();
    let printed = stage.run("tutorial_7_publisher_confirms", &["500"]);
    let how: Vec<&str> = printed
        .iter()
        .filter_map(|line| {
            line.strip_prefix("Published 500 messages ")?
                .split(" in ")
                .next()
        })
        .collect();
    assert_eq!(how[0], "individually");
    assert_eq!(printed.len(), 3, "{printed:?}");
}

// ---- pika's documented examples

#[test]
fn basic_consumer() {
    let stage = Stage::new();
    let channel = stage.durable_queue("example");
    let consumer = stage.start("basic_consumer", &[]);
    consumer.wait_for("waiting for messages");
    let properties = BasicProperties::new().content_type("text/plain");
    channel
        .basic_publish_with("", "example", "hello", properties)
        .unwrap();
    consumer.wait_for("hello");
    consumer.signal("INT");
    let printed = consumer.finish();
    assert_eq!(
        printed,
        [
            "waiting for messages",
            "1 BasicProperties { content_type: \"text/plain\" }",
            "hello",
            "ended: Cancelled"
        ]
    );
    assert_eq!(stage.count("example"), 0);
}

#[test]
fn multiple_queues() {
    let stage = Stage::new();
    let mut printed = stage.run("multiple_queues", &[]);
    assert_eq!(printed.pop().as_deref(), Some("ended: Cancelled"));
    let printed: BTreeSet<&str> = printed.iter().map(String::as_str).collect();
    // The order between queues is the broker's affair.
    for line in ["mail: hello", "control: no more news", "control: stop"] {
        assert!(printed.contains(line), "{printed:?}");
    }
}

#[test]
fn basic_get() {
    let stage = Stage::new();
    assert_eq!(stage.run("basic_get", &[]), ["No message returned"]);
    let channel = stage.channel();
    channel.basic_publish("", "example", "one").unwrap();
    channel.basic_publish("", "example", "two").unwrap();
    stage.wait_for_count("example", 2);
    assert_eq!(
        stage.run("basic_get", &[]),
        ["1 BasicProperties", "one", "1 more"]
    );
    assert_eq!(stage.count("example"), 1);
}

#[test]
fn consumer_generator() {
    let stage = Stage::new();
    let channel = stage.durable_queue("example");
    for n in 0..12 {
        channel.basic_publish("", "example", n.to_string()).unwrap();
    }
    stage.wait_for_count("example", 12);
    let printed = stage.run("consumer_generator", &[]);
    assert_eq!(printed.len(), 11);
    assert_eq!((&*printed[0], &*printed[9]), ("1: 0", "10: 9"));
    assert_eq!(printed[10], "Requeued 2 messages");
    // And what is idle reports that.
    let printed = stage.run("consumer_generator", &[]);
    assert_eq!(
        printed,
        [
            "1: 10",
            "2: 11",
            "nothing for a second",
            "nothing for a second",
            "nothing for a second",
            "Requeued 0 messages"
        ]
    );
}

#[test]
fn long_work_in_threads() {
    let stage = Stage::new();
    let channel = stage.durable_queue("long_work");
    let program = stage.start("long_work_in_threads", &[]);
    program.wait_for("waiting for work");
    for seconds in ["0.1", "0.1", "no number, so a second", "0.1", "0.2"] {
        channel.basic_publish("", "long_work", seconds).unwrap();
    }
    program.wait_for_part("works for 0.2 s");
    program.signal("INT");
    let printed = program.finish();
    assert_eq!(printed.last().map(String::as_str), Some("stopped"));
    let count = |part: &str| printed.iter().filter(|line| line.contains(part)).count();
    // What was begun was finished.
    assert_eq!(count(" works for "), count(" is done"), "{printed:?}");
}

#[test]
fn multiple_hosts() {
    let stage = Stage::new();
    let program = stage.start("multiple_hosts", &["amqp://127.0.0.1:1", stage.url()]);
    program.wait_for("consuming");
    let channel = stage.channel();
    channel
        .basic_publish("", "recovery-example", "to whichever host")
        .unwrap();
    program.wait_for("to whichever host");
    program.signal("TERM");
    let printed = program.finish();
    assert_eq!(printed.last().map(String::as_str), Some("stopped"));
}

// ---- what the documents only describe

#[test]
fn confirms() {
    let stage = Stage::new();
    let printed = stage.run("confirms", &[]);
    assert_eq!(printed.len(), 5);
    assert_eq!(
        printed[..3],
        [
            "first: confirmed",
            "lost: returned, NO_ROUTE",
            "second: confirmed"
        ]
    );
    assert_eq!(printed[4], "fourth: refused, the queue is full");
}

#[test]
fn nack_and_reject() {
    let stage = Stage::new();
    let printed = stage.run("nack_and_reject", &[]);
    let all: BTreeSet<&str> = printed.iter().map(String::as_str).collect();
    assert_eq!(
        all,
        BTreeSet::from([
            "again: put back",
            "again: acknowledged",
            "bad: rejected",
            "worse and worst: refused",
            "good: acknowledged",
            "dead letter: bad, rejected",
            "dead letter: worse, rejected",
            "dead letter: worst, rejected",
        ])
    );
}

#[test]
fn message_expires() {
    let stage = Stage::new();
    assert_eq!(
        stage.run("message_expires", &[]),
        [
            "before: 1 and 2 messages",
            "after: 1 and 0 messages",
            "goes with its queue's limit: expired",
            "goes with its own limit: expired"
        ]
    );
}

#[test]
fn round_robin_and_prefetch() {
    let stage = Stage::new();
    let printed = stage.run("round_robin_and_prefetch", &[]);
    assert_eq!(
        printed[0],
        "round robin: the slow one did 4, the quick one 4"
    );
    let dealt = printed[1].strip_prefix("prefetch 1: the slow one did ");
    let (slow, quick) = dealt.unwrap().split_once(", the quick one ").unwrap();
    let (slow, quick): (u32, u32) = (slow.parse().unwrap(), quick.parse().unwrap());
    assert_eq!(slow + quick, 8);
    assert!(slow < quick, "{printed:?}");
}

#[test]
fn direct_reply_to() {
    let stage = Stage::new();
    assert_eq!(
        stage.run("direct_reply_to", &[]),
        ["server: received Marco", "client: received Polo"]
    );
}

#[test]
fn producer_and_consumer() {
    let stage = Stage::new();
    assert_eq!(
        stage.run("producer_and_consumer", &["1000"]),
        ["sent and received 1000 messages; their sum is 500500"]
    );
}

/// On a broker of its own, which is killed as by a power cut, and which is run short of memory.
#[test]
fn persistence_and_blocked_connection_timeout() {
    let node = node::Node::start();
    let start = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(example(program));
        command.args(arguments).env("AMQP_URL", &node.url);
        Running::start(program.to_owned(), "", command)
    };
    let before = start("persistence", &["before"]).finish();
    assert_eq!(before, ["sent; now restart the broker"]);
    node.kill();
    node.restart();
    eventually(|| haypile::Connection::open(node.url.as_str()).is_ok());
    assert_eq!(
        start("persistence", &["after"]).finish(),
        [
            "persistence.durable: [\"persistent\"]",
            "persistence.exclusive: gone"
        ]
    );

    let publisher = start("blocked_connection_timeout", &["0.5"]);
    publisher.wait_for("publishing");
    node.rabbitmqctl(&["set_vm_memory_high_watermark", "absolute", "1"]);
    let printed = publisher.finish();
    assert_eq!(printed[1], "blocked: low on memory");
    let last = printed.last().unwrap();
    assert!(
        last.starts_with("given up: ") && last.contains("for more than 500 ms (low on memory)"),
        "{printed:?}"
    );
}

// ---- what people copy

#[test]
fn reconnecting_worker() {
    let stage = Stage::new();
    let worker = stage.start("reconnecting_worker", &[]);
    worker.wait_for("waiting for work");
    stage.run("tutorial_2_new_task", &["quick"]);
    worker.wait_for("done with \"quick\"");
    // The first Ctrl-C lets the message in hand be finished.
    stage.run("tutorial_2_new_task", &["a second."]);
    worker.wait_for("working on \"a second.\"");
    worker.signal("INT");
    let printed = worker.finish();
    let end = &printed[printed.len() - 2..];
    assert_eq!(end, ["done with \"a second.\"", "stopped"]);
    assert_eq!(stage.count("task_queue"), 0);

    // The second one ends it at once, and what it had goes to another.
    let worker = stage.start("reconnecting_worker", &[]);
    stage.run("tutorial_2_new_task", &["very long...................."]);
    worker.wait_for("working on \"very long....................\"");
    worker.signal("INT");
    // The two signals count as two only if the first has been taken.
    eventually(|| {
        worker.signal("INT");
        worker.has_ended()
    });
    assert_eq!(worker.end().code, Some(130));
    stage.wait_for_count("task_queue", 1);
}

#[test]
fn retry_with_dead_letters() {
    let stage = Stage::new();
    let printed = stage.run("retry_with_dead_letters", &[]);
    assert_eq!(printed[0], "good: done");
    for body in ["bad", "worse"] {
        let of: Vec<&String> = printed
            .iter()
            .filter(|line| line.starts_with(&format!("{body}:")))
            .collect();
        assert_eq!(of.len(), 4, "{printed:?}");
        for (n, line) in of[..3].iter().enumerate() {
            let start = format!("{body}: try {} of 3 failed", n + 1);
            assert!(line.starts_with(&start), "{printed:?}");
        }
        assert_eq!(of[3], &format!("{body}: given up, see retry.failed"));
    }
    let failed = stage.take_all("retry.failed");
    let texts: BTreeSet<&str> = failed.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(texts, BTreeSet::from(["bad", "worse"]));
    assert!(failed[0].0.get_header("error").is_some());
    assert_eq!(
        (stage.count("retry.work"), stage.count("retry.wait")),
        (0, 0)
    );
}

#[test]
fn batch_etl() {
    let stage = Stage::new();
    let channel = stage.durable_queue("measurements");
    channel
        .basic_publish("", "measurements", "no number")
        .unwrap();
    stage.wait_for_count("measurements", 1);
    assert_eq!(
        stage.run("batch_etl", &["--fill", "1200"]),
        ["loaded 1200 messages in 3 batches, refused 1; the sum is 720600"]
    );
    assert_eq!(stage.count("measurements"), 0);
    assert_eq!(
        stage.run("batch_etl", &[]),
        ["loaded 0 messages in 0 batches, refused 0; the sum is 0"]
    );
}

#[test]
fn move_queue() {
    let stage = Stage::new();
    let channel = stage.durable_queue("move.from");
    stage.durable_queue("move.to");
    let mut publisher = channel.publisher(1000).unwrap();
    for n in 0..1234 {
        let properties = BasicProperties::new().message_id(format!("id-{n}"));
        publisher
            .publish_with("", "move.from", n.to_string(), properties)
            .unwrap();
    }
    publisher.wait_for_confirms(None).unwrap();
    assert_eq!(
        stage.run("move_queue", &["move.from", "move.to"]),
        ["moved 1234 messages from move.from to move.to"]
    );
    assert_eq!(stage.count("move.from"), 0);
    let moved = stage.take_all("move.to");
    assert_eq!(moved.len(), 1234);
    for (n, (properties, text)) in moved.iter().enumerate() {
        assert_eq!(text, &n.to_string());
        assert_eq!(properties.message_id.as_deref(), Some(&*format!("id-{n}")));
    }
    let Ended { code, stderr, .. } = stage.start("move_queue", &["move.from", "no-such"]).end();
    assert_eq!(code, Some(1));
    assert_eq!(stderr, ["Error: \"there is no queue \\\"no-such\\\"\""]);
}

#[test]
fn direct_rpc() {
    let stage = Stage::new();
    let server = stage.start("direct_rpc_server", &[]);
    server.wait_for("waiting for requests");
    assert_eq!(
        stage.run("direct_rpc_client", &[]),
        [
            "fib(30) = 832040",
            "fib(0..10) = 0 1 1 2 3 5 8 13 21 34",
            "fib(1) + fib(2) + fib(3) + fib(4) = 7",
            "ten: the server reports bad-request",
            "200: the server reports too-large",
            "1: there is no server at no-such-queue",
        ]
    );
    server.signal("INT");
    assert_eq!(server.finish().last().map(String::as_str), Some("stopped"));
}

#[test]
fn health_check() {
    let stage = Stage::new();
    let check = |arguments: &[&str]| {
        let Ended { code, stdout, .. } = stage.start("health_check", arguments).end();
        (code, stdout.join("\n"))
    };
    let missing = check(&["example"]);
    let expected = "unhealthy: there is no queue \"example\"";
    assert_eq!(missing, (Some(1), expected.to_owned()));

    let channel = stage.durable_queue("example");
    channel.basic_publish("", "example", "waits").unwrap();
    stage.wait_for_count("example", 1);
    let expected = "unhealthy: \"example\" has no consumer; 1 messages wait";
    assert_eq!(check(&["example"]), (Some(1), expected.to_owned()));

    channel.basic_qos(1).unwrap();
    for _ in 0..3 {
        channel.basic_publish("", "example", "waits").unwrap();
    }
    channel.basic_consume("example", |_, _, _, _| ()).unwrap();
    stage.wait_for_count("example", 3);
    let expected = "healthy: \"example\": 3 messages wait, 1 consumers";
    assert_eq!(check(&["example"]), (Some(0), expected.to_owned()));
    let expected = "unhealthy: 3 messages wait in \"example\", more than 2";
    assert_eq!(check(&["example", "2"]), (Some(1), expected.to_owned()));

    let mut command = Command::new(example("health_check"));
    command.arg("example").env("AMQP_URL", "amqp://127.0.0.1:1");
    let Ended { code, stdout, .. } = Running::start("health_check".into(), "", command).end();
    assert_eq!(code, Some(1));
    assert!(
        stdout[0].starts_with("unhealthy: the broker cannot be reached: "),
        "{stdout:?}"
    );
    assert_eq!(check(&[]).0, Some(2));
}

#[test]
fn json_worker() {
    let stage = Stage::new();
    let printed = stage.run("json_worker", &[]);
    assert_eq!(printed.len(), 3, "{printed:?}");
    assert_eq!(printed[0], r#"{"order":1,"total":120}"#);
    assert!(printed[1].starts_with("refused: "), "{printed:?}");
    assert_eq!(printed[2], r#"{"order":2,"total":0}"#);
    let invoices = stage.take_all("invoices");
    assert_eq!(
        invoices[0].0.content_type.as_deref(),
        Some("application/json")
    );
    let texts: Vec<&str> = invoices.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(texts, [&*printed[0], &*printed[2]]);
    stage.wait_for_count("orders.refused", 1);
    assert_eq!(stage.take_all("orders.refused")[0].1, "{ no order");
}

// ---- all of them

/// What a person sees who waits at a terminal, and nothing of it in a pipe.
#[test]
fn progress_shows_on_a_terminal_only() {
    let stage = Stage::new();
    let on_terminal = |program: &str, arguments: &[&str]| {
        let mut command = Command::new("python3");
        // A terminal of its own, with all that the program writes copied to this one's output.
        command
            .args([
                "-c",
                "import pty, sys, os; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))",
            ])
            .arg(example(program))
            .args(arguments)
            .env("AMQP_URL", stage.url());
        Running::start(format!("{program} on a terminal"), "", command)
            .finish()
            .join("\n")
    };
    let in_pipe = |program: &str, arguments: &[&str]| {
        let Ended { code, stderr, .. } = stage.start(program, arguments).end();
        assert_eq!((code, stderr), (Some(0), vec![]), "{program}");
    };
    for (program, arguments, progress) in [
        ("batch_etl", &["--fill", "600"][..], "500 loaded"),
        ("producer_and_consumer", &["200"], "100 of 200"),
        ("tutorial_7_publisher_confirms", &["1000"], "1000 of 1000"),
        ("round_robin_and_prefetch", &[], "16 of 16"),
        ("message_expires", &[], "waiting: 0.0 s"),
    ] {
        let shown = on_terminal(program, arguments);
        assert!(shown.contains(progress), "{program}: {shown:?}");
        in_pipe(program, arguments);
    }
    for queue in ["move.from", "move.to"] {
        stage.durable_queue(queue);
    }
    let channel = stage.channel();
    for n in 0..600 {
        channel
            .basic_publish("", "move.from", n.to_string())
            .unwrap();
    }
    stage.wait_for_count("move.from", 600);
    let shown = on_terminal("move_queue", &["move.from", "move.to"]);
    assert!(shown.contains("500 moved"), "{shown:?}");
    in_pipe("move_queue", &["move.to", "move.from"]);
}

/// An example can be copied as it is, has at its head what it shows and how it is run, and is run by a test here or in `tests/tls.rs`.
#[test]
fn every_example_stands_alone_and_is_tested() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tests = include_str!("examples.rs").to_owned() + include_str!("tls.rs");
    for entry in std::fs::read_dir(root.join("examples")).unwrap() {
        let path = entry.unwrap().path();
        let is_source = path.extension().is_some_and(|extension| extension == "rs");
        let name = path.file_stem().unwrap().to_str().unwrap();
        // The broker for programs in other languages, which `scripts/with-broker --testing` runs.
        if !is_source || name == "testing_broker" {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        if text.contains("\nmod common;") {
            continue; // a twin
        }
        assert!(!text.contains("\nmod "), "{name} does not stand alone");
        assert!(
            text.contains("\n//! Run: "),
            "{name} does not have at its head how to run it"
        );
        let origin = ["\n//! Mirrors: ", "\n//! Shows: ", "\n//! Document: "];
        assert!(origin.iter().any(|line| text.contains(line)), "{name}");
        assert!(
            tests.contains(&format!("\"{name}\"")),
            "{name} is not tested"
        );
    }
}
