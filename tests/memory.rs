//! How much memory a connection takes, whatever comes: each scenario runs in a process of its own, whose peak is measured.
#![cfg(target_os = "linux")]

mod support;

use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use haypile::{
    BasicConsume, BasicProperties, BasicPublish, Channel, Connection, Error, FieldTable, FieldValue,
};
use support::{assert_message_count, bounded_by, exclusive_queue, open, SOON};

/// Set in the process that is measured.
const CHILD: &str = "HAYPILE_MEMORY_CHILD";

const MIB: usize = 1 << 20;

/// What a connection holds, twice for what the allocator keeps and the measure is unsure of, and what is read at once.
const BOUND: usize = 32 * MIB;

/// The value of a line of `/proc/self/status`, in bytes.
fn status(field: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    let kib = line.split_whitespace().nth(1).unwrap();
    kib.parse::<usize>().unwrap() * 1024
}

/// Runs the scenario of the test of this name in a process of its own; it marks where to begin to measure. Returns by how
/// much its memory grew at the peak.
fn growth(name: &str, scenario: fn(&dyn Fn())) -> Option<usize> {
    if std::env::var_os(CHILD).is_some() {
        let before = std::cell::Cell::new(0);
        scenario(&|| {
            // The peak begins anew.
            std::fs::write("/proc/self/clear_refs", "5").unwrap();
            before.set(status("VmRSS:"));
        });
        println!("grew by {}", status("VmHWM:").saturating_sub(before.get()));
        return None;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    let grew = text.lines().find_map(|line| line.split_once("grew by "));
    let grew = grew.unwrap_or_else(|| panic!("{text}")).1.trim();
    Some(grew.parse().unwrap())
}

#[track_caller]
fn stays_within(bound: usize, name: &'static str, scenario: fn(&dyn Fn())) {
    bounded_by(SOON * 12, move || {
        if let Some(grew) = growth(name, scenario) {
            eprintln!("{name}: {} MiB", grew / MIB);
            assert!(grew < bound, "{name} took {} MiB", grew / MIB);
        }
    });
}

fn fill(channel: &Channel, queue: &str, count: u32, size: usize, headers: &FieldTable) {
    let mut publisher = channel.publisher(50).unwrap();
    let properties = BasicProperties::new().headers(headers.clone());
    let body = vec![0; size];
    for _ in 0..count {
        let publish = BasicPublish::new().properties(properties.clone());
        publisher.publish_with("", queue, &body, publish).unwrap();
    }
    publisher.wait_for_confirms(SOON * 3).unwrap();
    assert_message_count(channel, queue, count);
}

/// How long the program is busy while the broker would send more.
const BUSY: Duration = Duration::from_secs(3);

/// Consumes everything on `channel`; the first callback takes long.
fn consume_slowly(channel: &Channel, queue: &str, count: u32) {
    let mut left = count;
    channel
        .basic_consume(
            BasicConsume::new(queue).auto_ack(true),
            move |channel, _, _, _| {
                if left == count {
                    thread::sleep(BUSY);
                }
                left -= 1;
                match left {
                    0 => channel.stop_consuming(),
                    _ => Ok(()),
                }
            },
        )
        .unwrap();
    channel.start_consuming().unwrap();
}

#[test]
fn headers_that_are_not_asked_for() {
    stays_within(BOUND, "headers_that_are_not_asked_for", |begin| {
        const COUNT: u32 = 300;
        let connection = open();
        let channel = connection.channel().unwrap();
        let queue = exclusive_queue(&channel);
        // Small on the wire, and many times as large once they can be looked at.
        let headers: FieldTable = (0..12_000)
            .map(|n| (format!("{n:05}"), FieldValue::from(true)))
            .collect();
        fill(&channel, &queue, COUNT, 0, &headers);
        begin();
        consume_slowly(&channel, &queue, COUNT);
    });
}

#[test]
fn the_body_of_a_loop_works_while_another_thread_waits() {
    stays_within(
        BOUND,
        "the_body_of_a_loop_works_while_another_thread_waits",
        |begin| {
            const COUNT: u32 = 1_500;
            let connection = open();
            let channel = connection.channel().unwrap();
            let queue = exclusive_queue(&channel);
            fill(&channel, &queue, COUNT, 100_000, &FieldTable::new());
            let other = connection.channel().unwrap();
            let silent = exclusive_queue(&other);
            other.basic_consume(&silent, |_, _, _, _| ()).unwrap();
            let waits = other.clone();
            let waiting = thread::spawn(move || waits.start_consuming());
            let pumps = connection.clone();
            let pumping = thread::spawn(move || pumps.sleep(BUSY * 2));
            begin();
            let mut messages = channel.consume(queue.as_str()).unwrap();
            for n in 0..COUNT {
                let (method, _, body) = messages.next().unwrap().unwrap();
                assert_eq!(body.len(), 100_000);
                if n == 10 {
                    thread::sleep(BUSY);
                }
                channel.basic_ack(method.delivery_tag).unwrap();
            }
            other.stop_consuming().unwrap();
            waiting.join().unwrap().unwrap();
            pumping.join().unwrap().unwrap();
        },
    );
}

/// Another channel's consumer waits behind an iterator that is not asked for more. It gets its message all the same.
#[test]
fn an_iterator_that_is_left_alone_does_not_keep_others_waiting() {
    bounded_by(SOON * 3, || {
        let connection = open();
        let channel = connection.channel().unwrap();
        let queue = exclusive_queue(&channel);
        fill(&channel, &queue, 300, 100_000, &FieldTable::new());
        let mut messages = channel.consume(queue.as_str()).unwrap();
        messages.next().unwrap().unwrap();
        drop(messages);
        let other = connection.channel().unwrap();
        let lively = exclusive_queue(&other);
        other
            .basic_consume(&lively, |channel, _, _, _| channel.stop_consuming())
            .unwrap();
        let (waits, waited) = (other.clone(), mpsc::channel());
        let waiting = thread::spawn(move || {
            let ended = waits.start_consuming();
            waited.0.send(()).unwrap();
            ended
        });
        let publisher = support::channel();
        publisher.basic_publish("", &lively, "at last").unwrap();
        waited.1.recv_timeout(SOON).expect("it waits for ever");
        waiting.join().unwrap().unwrap();
        connection.close().unwrap();
    });
}

/// What stands before a reply must be read, and is the one exception: as much as the two systems hold for the connection, and
/// what the broker still sends before it comes to the call, which on a busy machine was 50 MiB.
#[test]
fn calls_beside_a_flood() {
    const CALLS: usize = 2;
    stays_within(BOUND + CALLS * 60 * MIB, "calls_beside_a_flood", |begin| {
        const COUNT: u32 = 3_000;
        let connection = open();
        let channel = connection.channel().unwrap();
        let queue = exclusive_queue(&channel);
        fill(&channel, &queue, COUNT, 100_000, &FieldTable::new());
        let other = connection.channel().unwrap();
        let (done, wait) = mpsc::channel::<()>();
        let mut wait = Some(wait);
        channel
            .basic_consume(
                BasicConsume::new(&queue).auto_ack(true),
                move |channel, _, _, _| {
                    if let Some(wait) = wait.take() {
                        wait.recv().unwrap();
                    }
                    channel.stop_consuming()
                },
            )
            .unwrap();
        begin();
        let consuming = thread::spawn(move || channel.start_consuming());
        for _ in 0..CALLS {
            exclusive_queue(&other);
            // Time passes, in which more would be read if calls lifted the bound.
            thread::sleep(Duration::from_millis(200));
        }
        done.send(()).unwrap();
        consuming.join().unwrap().unwrap();
        connection.close().unwrap();
    });
}

#[test]
fn messages_that_come_back() {
    stays_within(BOUND, "messages_that_come_back", |begin| {
        const COUNT: u64 = 10_000;
        let connection = Connection::open(support::url().as_str()).unwrap();
        let channel = connection.channel().unwrap();
        // Registered, and not run meanwhile.
        let delivered = support::Log::new();
        let log = delivered.clone();
        channel.add_on_return_callback(move |_, method, _, body| {
            assert_eq!(body.is_empty(), method.content_omitted);
            log.push(method.content_omitted);
        });
        begin();
        let mut publisher = channel.publisher(100).unwrap();
        let body = vec![b'x'; 10_000];
        for n in 1..=COUNT {
            let publish = BasicPublish::new().mandatory(true);
            let sequence = publisher.publish_with("", "nowhere", &body, publish);
            assert_eq!(sequence.unwrap(), n);
        }
        let error = publisher.wait_for_confirms(SOON).unwrap_err();
        let Error::Unconfirmed(report) = error else {
            panic!("{error:?}");
        };
        // Each is reported, with its number and its reason; the first ones whole.
        let numbers = report.returned.iter().map(|(sequence, _)| *sequence);
        assert!(numbers.eq(1..=COUNT));
        let mut whole = 0;
        for (_, message) in &report.returned {
            assert_eq!(message.method.reply_code, 312);
            assert_eq!(message.method.routing_key, "nowhere");
            assert_eq!(message.body.is_empty(), message.method.content_omitted);
            whole += usize::from(!message.method.content_omitted);
        }
        assert!((300..500).contains(&whole), "{whole} are whole");
        assert!(!report.returned[0].1.method.content_omitted);
        // So are the callbacks, and there is room again.
        connection.process_data_events(Duration::ZERO).unwrap();
        support::pump_until(&connection, || delivered.len() == COUNT as usize);
        publisher
            .publish_with("", "nowhere", &body, BasicPublish::new().mandatory(true))
            .unwrap();
        let error = publisher.wait_for_confirms(SOON).unwrap_err();
        let Error::Unconfirmed(report) = error else {
            panic!("{error:?}");
        };
        assert_eq!(report.returned[0].1.body, body);
        connection.close().unwrap();
    });
}
