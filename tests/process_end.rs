//! What a program has handed over is written before its process ends, however it ends in good order.
//!
//! Each case is a program of its own: this one again, with its part in the environment. So it has no harness of
//! tests; arguments name the cases to run.

#[cfg(feature = "tls")]
#[path = "support/broker.rs"]
mod broker;
mod support;
#[cfg(feature = "tls")]
#[path = "support/tls.rs"]
mod tls;

use std::process::{Command, Stdio};
use std::sync::{mpsc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use haypile::{BasicGet, Channel, Connection, ConnectionParameters, QueueDeclare};
use support::proxy::Proxy;
use support::{assert_message_count, channel, unique, Fixture};

const PART: &str = "HAYPILE_TEST_PART";
const PLACE: &str = "HAYPILE_TEST_PLACE";

/// A program: it is given a URL and a queue.
type Part = fn(&str, &str);

/// How a case is checked after its program has ended.
#[derive(Clone, Copy)]
enum Expected {
    /// So many messages were published.
    Arrived(u32),
    /// So many of ten messages were acknowledged.
    Acknowledged(u32),
}

const CASES: &[Case] = &[
    (
        "exit_after_a_publish",
        exit_after_a_publish,
        Expected::Arrived(1),
        0,
    ),
    (
        "exit_after_50_publishes",
        exit_after_50_publishes,
        Expected::Arrived(50),
        0,
    ),
    (
        "exit_after_a_large_body",
        exit_after_a_large_body,
        Expected::Arrived(2),
        0,
    ),
    (
        "a_channel_in_a_static",
        a_channel_in_a_static,
        Expected::Arrived(50),
        0,
    ),
    (
        "a_channel_that_is_forgotten",
        a_channel_that_is_forgotten,
        Expected::Arrived(1),
        0,
    ),
    (
        "a_channel_that_is_dropped",
        a_channel_that_is_dropped,
        Expected::Arrived(5),
        0,
    ),
    (
        "many_connections_in_statics",
        many_connections_in_statics,
        Expected::Arrived(20),
        0,
    ),
    (
        "a_thread_that_goes_on",
        a_thread_that_goes_on,
        Expected::Arrived(50),
        0,
    ),
    (
        "a_thread_that_exits",
        a_thread_that_exits,
        Expected::Arrived(5),
        3,
    ),
    (
        "a_thread_that_exits_after_a_burst",
        a_thread_that_exits_after_a_burst,
        Expected::Arrived(2000),
        3,
    ),
    (
        "a_thread_that_exits_with_many_channels",
        a_thread_that_exits_with_many_channels,
        Expected::Arrived(40),
        3,
    ),
    (
        "a_thread_that_exits_after_others_have_ended",
        a_thread_that_exits_after_others_have_ended,
        Expected::Arrived(20),
        3,
    ),
    (
        "a_thread_that_exits_after_an_ack",
        a_thread_that_exits_after_an_ack,
        Expected::Acknowledged(1),
        3,
    ),
    (
        "a_thread_that_exits_having_dropped_its_channel",
        a_thread_that_exits_having_dropped_its_channel,
        Expected::Arrived(5),
        3,
    ),
    (
        "a_thread_that_main_joins",
        a_thread_that_main_joins,
        Expected::Arrived(50),
        0,
    ),
    (
        "a_panic_in_main",
        a_panic_in_main,
        Expected::Arrived(1),
        101,
    ),
    (
        "a_drop_after_main",
        a_drop_after_main,
        Expected::Arrived(1),
        0,
    ),
    (
        "exit_after_an_ack",
        exit_after_an_ack,
        Expected::Acknowledged(1),
        0,
    ),
    (
        "exit_after_an_ack_with_more_to_come",
        exit_after_an_ack_with_more_to_come,
        Expected::Acknowledged(1),
        0,
    ),
    (
        "main_returns_in_a_loop_of_acks",
        main_returns_in_a_loop_of_acks,
        Expected::Acknowledged(10),
        0,
    ),
];

static KEPT: OnceLock<Channel> = OnceLock::new();
static MANY: OnceLock<Vec<Channel>> = OnceLock::new();

fn open(url: &str) -> Channel {
    Connection::open(url).unwrap().channel().unwrap()
}

fn publish(channel: &Channel, queue: &str, count: usize) {
    for n in 0..count {
        channel.basic_publish("", queue, n.to_string()).unwrap();
    }
}

fn exit_after_a_publish(url: &str, queue: &str) {
    publish(&open(url), queue, 1);
    std::process::exit(0);
}

fn exit_after_50_publishes(url: &str, queue: &str) {
    let channel = open(url);
    publish(&channel, queue, 50);
    std::process::exit(0);
}

fn exit_after_a_large_body(url: &str, queue: &str) {
    let channel = open(url);
    publish(&channel, queue, 1);
    channel
        .basic_publish("", queue, vec![0; 3_000_000])
        .unwrap();
    std::process::exit(0);
}

fn a_channel_in_a_static(url: &str, queue: &str) {
    publish(KEPT.get_or_init(|| open(url)), queue, 50);
}

fn a_channel_that_is_forgotten(url: &str, queue: &str) {
    let channel = open(url);
    publish(&channel, queue, 1);
    std::mem::forget(channel);
}

/// Its connection is still open when the process ends.
fn a_channel_that_is_dropped(url: &str, queue: &str) {
    let channel = open(url);
    let _connection = channel.connection();
    publish(&channel, queue, 5);
    drop(channel);
    std::process::exit(0);
}

fn many_connections_in_statics(url: &str, queue: &str) {
    let channels = MANY.get_or_init(|| (0..10).map(|_| open(url)).collect());
    for channel in channels {
        publish(channel, queue, 2);
    }
}

/// The thread lives when `main` returns.
fn a_thread_that_goes_on(url: &str, queue: &str) {
    let channel = open(url);
    let (published, is_published) = mpsc::channel();
    let queue = queue.to_owned();
    thread::spawn(move || {
        publish(&channel, &queue, 50);
        published.send(()).unwrap();
        loop {
            thread::park();
        }
    });
    is_published.recv().unwrap();
}

fn a_thread_that_exits(url: &str, queue: &str) {
    let channel = open(url);
    let queue = queue.to_owned();
    thread::spawn(move || {
        publish(&channel, &queue, 5);
        std::process::exit(3);
    });
    loop {
        thread::park();
    }
}

/// Runs something on a thread of its own, which ends the process outside any callback.
fn exit_in_a_thread(run: impl FnOnce() + Send + 'static) {
    thread::spawn(move || {
        run();
        std::process::exit(3);
    });
    loop {
        thread::park();
    }
}

fn a_thread_that_exits_after_a_burst(url: &str, queue: &str) {
    let (url, queue) = (url.to_owned(), queue.to_owned());
    exit_in_a_thread(move || publish(&open(&url), &queue, 2000));
}

fn a_thread_that_exits_with_many_channels(url: &str, queue: &str) {
    let connection = Connection::open(url).unwrap();
    let channels: Vec<_> = (0..20).map(|_| connection.channel().unwrap()).collect();
    let queue = queue.to_owned();
    exit_in_a_thread(move || {
        for channel in channels.iter().chain(&channels) {
            publish(channel, &queue, 1);
        }
    });
}

/// The broker has confirmed for other threads that it has handled all; what came after that counts.
fn a_thread_that_exits_after_others_have_ended(url: &str, queue: &str) {
    let channel = open(url);
    for _ in 0..5 {
        let (channel, queue) = (channel.clone(), queue.to_owned());
        let thread = thread::spawn(move || publish(&channel, &queue, 2));
        thread.join().unwrap();
    }
    let queue = queue.to_owned();
    exit_in_a_thread(move || publish(&channel, &queue, 10));
}

fn a_thread_that_exits_after_an_ack(url: &str, queue: &str) {
    let channel = open(url);
    let (method, _, _) = channel.basic_get(queue).unwrap().unwrap();
    exit_in_a_thread(move || channel.basic_ack(method.delivery_tag).unwrap());
}

fn a_thread_that_exits_having_dropped_its_channel(url: &str, queue: &str) {
    let connection = Connection::open(url).unwrap();
    let kept = connection.clone();
    let queue = queue.to_owned();
    exit_in_a_thread(move || {
        publish(&connection.channel().unwrap(), &queue, 5);
    });
    drop(kept);
}

/// The main thread never touches the connection.
fn a_thread_that_main_joins(url: &str, queue: &str) {
    let (url, queue) = (url.to_owned(), queue.to_owned());
    let worker = thread::spawn(move || publish(KEPT.get_or_init(|| open(&url)), &queue, 50));
    worker.join().unwrap();
}

fn a_panic_in_main(url: &str, queue: &str) {
    publish(KEPT.get_or_init(|| open(url)), queue, 1);
    std::panic::set_hook(Box::new(|_| ()));
    panic!("on purpose");
}

/// A value of the thread's own whose drop publishes, perhaps after everything else.
struct Last(Channel, String);

impl Drop for Last {
    fn drop(&mut self) {
        self.0.basic_publish("", &self.1, "last").unwrap();
        std::mem::forget(self.0.clone());
    }
}

fn a_drop_after_main(url: &str, queue: &str) {
    thread_local!(static LAST: std::cell::OnceCell<Last> = const { std::cell::OnceCell::new() });
    LAST.with(|last| {
        let _ = last.set(Last(open(url), queue.to_owned()));
    });
}

fn exit_after_an_ack(url: &str, queue: &str) {
    let channel = open(url);
    channel.basic_qos(1).unwrap();
    ack_and_exit(&channel, queue);
}

/// More has come, or is coming, when the process ends.
fn exit_after_an_ack_with_more_to_come(url: &str, queue: &str) {
    ack_and_exit(&open(url), queue);
}

fn ack_and_exit(channel: &Channel, queue: &str) {
    channel
        .basic_consume(queue, |channel, method, _, _| {
            channel.basic_ack(method.delivery_tag).unwrap();
            std::process::exit(0);
        })
        .unwrap();
    channel.start_consuming().unwrap();
}

fn main_returns_in_a_loop_of_acks(url: &str, queue: &str) {
    let channel = KEPT.get_or_init(|| open(url));
    for message in channel.consume(queue).unwrap().take(10) {
        let (method, _, _) = message.unwrap();
        channel.basic_ack(method.delivery_tag).unwrap();
    }
}

/// Not in the list: it is checked in its own way.
fn exit_before_a_peer_that_takes_nothing(url: &str, queue: &str) {
    let parameters = ConnectionParameters::from_url(url).unwrap();
    let channel = Connection::open(parameters.rpc_timeout(Duration::from_millis(200)))
        .unwrap()
        .channel()
        .unwrap();
    while channel.basic_publish("", queue, vec![0; 20_000]).is_ok() {}
    std::process::exit(0);
}

fn start(part: &str, url: &str, queue: &str) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .env(PART, part)
        .env(PLACE, format!("{url} {queue}"))
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

/// How often each case is run: what is lost is lost now and then.
const ROUNDS: u32 = 12;

type Case = (&'static str, Part, Expected, i32);

/// The programs connect to the broker by this URL.
fn check(channel: &Channel, url: &str, (name, _, expected, code): &Case) {
    let mut fixture = Fixture::new();
    let queue = fixture.queue("end");
    channel.queue_declare(QueueDeclare::new(&queue)).unwrap();
    for round in 1..=ROUNDS {
        if let Expected::Acknowledged(_) = expected {
            channel.queue_purge(&queue).unwrap();
            for n in 0..10 {
                channel.basic_publish("", &queue, n.to_string()).unwrap();
            }
            assert_message_count(channel, &queue, 10);
        }
        let mut program = start(name, url, &queue);
        let status = program.wait().unwrap();
        assert_eq!(status.code(), Some(*code), "{name}");
        match expected {
            Expected::Arrived(count) => assert_message_count(channel, &queue, round * count),
            // What was not acknowledged comes again when the broker has noticed the end.
            Expected::Acknowledged(count) => {
                assert_message_count(channel, &queue, 10 - count);
                let next = channel
                    .basic_get(BasicGet::new(&queue).auto_ack(true))
                    .unwrap();
                let next = next.map(|(_, _, body)| String::from_utf8(body).unwrap());
                let expected = (*count < 10).then(|| count.to_string());
                assert_eq!(next, expected, "{name}");
            }
        }
    }
}

/// The same over TLS, where what has gathered passes through another buffer.
#[cfg(feature = "tls")]
fn check_over_tls(channel: &Channel, is_asked: impl Fn(&str) -> bool) {
    let authority = tls::Authority::new("haypile's tests");
    let folder = broker::Folder::new();
    let file = folder.write("ca.pem", &authority.pem());
    let config = tls::server_config(
        &authority.server(&["localhost"]),
        None,
        &[&rustls::version::TLS13],
    );
    let server = tls::Server::start(config, Some(support::broker_address()));
    let url = support::url_through(server.address())
        .replacen("amqp://", "amqps://", 1)
        .replacen("127.0.0.1", "localhost", 1);
    let separator = if url.contains('?') { '&' } else { '?' };
    let url = format!("{url}{separator}cacertfile={file}");
    let cases = [
        "exit_after_50_publishes",
        "exit_after_a_large_body",
        "a_channel_in_a_static",
        "a_thread_that_exits_after_a_burst",
        "exit_after_an_ack",
    ];
    for case in CASES.iter().filter(|(name, ..)| cases.contains(name)) {
        let name = format!("{}_over_tls", case.0);
        if is_asked(&name) {
            check(channel, &url, case);
            println!("test {name} ... ok");
        }
    }
}

/// The end of the process waits for a peer that takes nothing, but not for long.
fn check_that_the_wait_is_bounded() {
    let proxy = Proxy::start();
    // Lets the handshake through, and holds back what is published.
    let mut program = start(
        "exit_before_a_peer_that_takes_nothing",
        &proxy.url(),
        &unique("q"),
    );
    support::wait_until(support::SOON, || proxy.client_bytes() > 20_000);
    proxy.hold_client();
    let began = Instant::now();
    let status = program.wait().unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );
}

fn main() {
    if let Ok(part) = std::env::var(PART) {
        let place = std::env::var(PLACE).unwrap();
        let (url, queue) = place.split_once(' ').unwrap();
        if part == "exit_before_a_peer_that_takes_nothing" {
            return exit_before_a_peer_that_takes_nothing(url, queue);
        }
        let (_, play, _, _) = CASES.iter().find(|(name, ..)| *name == part).unwrap();
        return play(url, queue);
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let asked: Vec<&String> = arguments
        .iter()
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let is_asked = |name: &str| asked.is_empty() || asked.iter().any(|asked| name.contains(*asked));
    if arguments.iter().any(|argument| argument == "--list") {
        return;
    }
    let channel = channel();
    for case in CASES.iter().filter(|(name, ..)| is_asked(name)) {
        check(&channel, &support::url(), case);
        println!("test {} ... ok", case.0);
    }
    #[cfg(feature = "tls")]
    check_over_tls(&channel, is_asked);
    if is_asked("the_wait_is_bounded") {
        check_that_the_wait_is_bounded();
        println!("test the_wait_is_bounded ... ok");
    }
}
