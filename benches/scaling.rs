//! What a message costs with many channels, many threads, and bodies of every size, against a broker that costs next to
//! nothing (see `support`). Prints the tables that README.md has.
//!
//! `cargo bench --bench scaling` takes about a minute. Each figure is the median of [`ROUNDS`] runs; rounds are interleaved.

mod support;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use haypile::{BasicConsume, BasicProperties, Channel, Connection, Deliver, DeliveryMode};

const ROUNDS: usize = 5;

/// How long one run takes, about.
const RUN: Duration = Duration::from_millis(200);

/// The most messages in one run, and the most bytes.
const MOST: u64 = 500_000;
const MOST_BYTES: u64 = 1 << 30;

/// What one run took.
#[derive(Clone, Copy)]
struct Run {
    messages: u64,
    wall: Duration,
    /// Of all threads but the sink's; none where it cannot be read.
    cpu: Option<Duration>,
}

/// A run of so many messages.
type Scenario = Box<dyn Fn(SocketAddr, u64) -> Run>;

fn main() {
    // `cargo test --benches` only wants to know whether it works.
    let measure = std::env::args().any(|argument| argument == "--bench");
    let sink = support::start();

    let channels = |count: usize| -> Vec<(String, u64, Vec<Scenario>)> {
        let scenarios: Vec<Scenario> = vec![
            Box::new(move |sink, n| publish_on_channels(sink, n, count)),
            Box::new(move |sink, n| consume_on_channels(sink, n, count, true)),
            Box::new(move |sink, n| consume_on_channels(sink, n, count, false)),
        ];
        vec![(format!("{count}"), MOST, scenarios)]
    };
    table(
        "Channels of one connection, one thread, 16 B",
        "channels",
        &["publish", "consume, automatic ack", "consume, an ack each"],
        [1, 100, 2000].into_iter().flat_map(channels).collect(),
        (sink, measure),
    );

    let threads = |count: usize| {
        let scenarios: Vec<Scenario> = vec![
            Box::new(move |sink, n| publish_from_threads(sink, n, count, 16, false)),
            Box::new(move |sink, n| publish_from_threads(sink, n, count, 1024, false)),
            Box::new(move |sink, n| publish_from_threads(sink, n, count, 16, true)),
        ];
        (format!("{count}"), MOST, scenarios)
    };
    table(
        "Threads that publish on one connection",
        "threads",
        &["16 B", "1 KiB", "16 B, on one shared channel"],
        [1, 8].map(threads).into(),
        (sink, measure),
    );

    let sizes = |size: usize| {
        let scenarios: Vec<Scenario> = vec![
            Box::new(move |sink, n| publish_size(sink, n, size)),
            Box::new(move |sink, n| consume_size(sink, n, size)),
        ];
        let most = (MOST_BYTES / (size as u64).max(1)).min(MOST);
        (size_name(size), most, scenarios)
    };
    let all = [
        0,
        16,
        256,
        1 << 10,
        4 << 10,
        16 << 10,
        64 << 10,
        256 << 10,
        1 << 20,
        10 << 20,
        100 << 20,
    ];
    table(
        "Size of the body",
        "body",
        &["publish", "consume, automatic ack"],
        all.map(sizes).into(),
        (sink, measure),
    );
}

fn size_name(size: usize) -> String {
    match size {
        0..1024 => format!("{size} B"),
        1024..1_048_576 => format!("{} KiB", size >> 10),
        _ => format!("{} MiB", size >> 20),
    }
}

/// Measures and prints one table: rows are a name, the most messages in a run, and a scenario for each column.
fn table(
    title: &str,
    what: &str,
    columns: &[&str],
    rows: Vec<(String, u64, Vec<Scenario>)>,
    (sink, measure): (SocketAddr, bool),
) {
    let mut plan = Vec::new();
    for (_, most, scenarios) in &rows {
        for scenario in scenarios {
            let count = match measure {
                true => calibrate(scenario, sink, *most),
                false => 1,
            };
            plan.push((scenario, count, Vec::new()));
        }
    }
    for _ in 0..if measure { ROUNDS } else { 1 } {
        for (scenario, count, runs) in &mut plan {
            runs.push(scenario(sink, *count));
        }
    }
    println!("\n{title}: µs a message (of them client CPU)\n");
    println!("| {what} | {} |", columns.join(" | "));
    println!("|---|{}", "---:|".repeat(columns.len()));
    let mut cells = plan.into_iter().map(|(_, _, runs)| cell(&runs));
    for (name, _, scenarios) in &rows {
        let row: Vec<String> = cells.by_ref().take(scenarios.len()).collect();
        println!("| {name} | {} |", row.join(" | "));
    }
}

/// How many messages make a run of about the right length.
fn calibrate(scenario: &Scenario, sink: SocketAddr, most: u64) -> u64 {
    let mut count = most.min(4);
    loop {
        // The better of two, since one disturbance would make all that follows too short.
        let runs = [scenario(sink, count), scenario(sink, count)];
        let run = runs[usize::from(runs[1].wall < runs[0].wall)];
        let factor = RUN.as_secs_f64() / run.wall.as_secs_f64().max(1e-6);
        if factor < 2.0 || run.messages >= most {
            return ((run.messages as f64 * factor) as u64).clamp(1, most);
        }
        count = ((run.messages as f64 * factor.min(10.0)) as u64).min(most);
    }
}

fn cell(runs: &[Run]) -> String {
    let each = |time: Duration, run: &Run| time.as_secs_f64() * 1e6 / run.messages as f64;
    let wall = median(runs.iter().map(|run| each(run.wall, run)).collect());
    let cpu: Option<Vec<f64>> = runs
        .iter()
        .map(|run| run.cpu.map(|cpu| each(cpu, run)))
        .collect();
    match cpu {
        Some(cpu) => format!("{} ({})", short(wall), short(median(cpu))),
        None => short(wall),
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Three digits.
fn short(value: f64) -> String {
    match value {
        ..10.0 => format!("{value:.2}"),
        ..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

// ---- time

struct Meter {
    threads: Option<HashMap<String, u64>>,
    start: Instant,
}

impl Meter {
    fn start() -> Self {
        Meter {
            threads: cpu_of_threads(),
            start: Instant::now(),
        }
    }

    /// Threads that were started since must still live.
    fn stop(self, messages: u64) -> Run {
        let wall = self.start.elapsed();
        let cpu = self.threads.and_then(|before| {
            let after = cpu_of_threads()?;
            let spent = after.iter().map(|(thread, nanoseconds)| {
                nanoseconds.saturating_sub(before.get(thread).copied().unwrap_or(0))
            });
            Some(Duration::from_nanos(spent.sum()))
        });
        Run {
            messages,
            wall,
            cpu,
        }
    }
}

/// Nanoseconds on the processor, by thread, of all threads but the sink's. Only Linux reports them.
fn cpu_of_threads() -> Option<HashMap<String, u64>> {
    let mut all = HashMap::new();
    for task in std::fs::read_dir("/proc/self/task").ok()?.flatten() {
        let read = |file| std::fs::read_to_string(task.path().join(file));
        // A thread may end while this looks.
        let (Ok(name), Ok(times)) = (read("comm"), read("schedstat")) else {
            continue;
        };
        if !name.starts_with("sink") {
            let on_processor = times.split_whitespace().next()?.parse().ok()?;
            let thread = task.file_name().to_string_lossy().into_owned();
            all.insert(thread, on_processor);
        }
    }
    Some(all)
}

// ---- the runs

fn transient() -> BasicProperties {
    BasicProperties::new().delivery_mode(DeliveryMode::Transient)
}

/// Opens so many channels on one connection.
fn open(sink: SocketAddr, count: usize) -> (Connection, Vec<Channel>) {
    let (connection, first) = support::open(sink);
    let more = (1..count).map(|_| connection.channel().unwrap());
    let channels = std::iter::once(first).chain(more).collect();
    (connection, channels)
}

/// Each message on the next channel.
fn publish_on_channels(sink: SocketAddr, count: u64, channels: usize) -> Run {
    let (connection, channels) = open(sink, channels);
    let (properties, body) = (transient(), [b'x'; 16]);
    let meter = Meter::start();
    for channel in channels.iter().cycle().take(count as usize) {
        channel
            .basic_publish_with("", "q", body, &properties)
            .unwrap();
    }
    let (arrived, _) = support::fence(&channels[0]);
    let run = meter.stop(count);
    assert_eq!(u64::from(arrived), count);
    connection.close().unwrap();
    run
}

/// A consumer on each channel; they get their messages in turn.
fn consume_on_channels(sink: SocketAddr, count: u64, channels: usize, auto_ack: bool) -> Run {
    let (connection, channels) = open(sink, channels);
    let each = count.div_ceil(channels.len() as u64);
    let count = each * channels.len() as u64;
    let seen = Arc::new(AtomicU64::new(0));
    for channel in &channels {
        let seen = Arc::clone(&seen);
        let on_message = move |channel: &Channel, method: Deliver, _, _| {
            seen.fetch_add(1, Ordering::Relaxed);
            match auto_ack {
                true => Ok(()),
                false => channel.basic_ack(method.delivery_tag),
            }
        };
        let request = BasicConsume::new(support::held_queue(each, 16)).auto_ack(auto_ack);
        channel.basic_consume(request, on_message).unwrap();
    }
    let meter = Meter::start();
    channels[0].queue_purge("now").unwrap();
    while seen.load(Ordering::Relaxed) < count {
        connection
            .process_data_events(Duration::from_secs(10))
            .unwrap();
    }
    let (_, acks) = support::fence(&channels[0]);
    let run = meter.stop(count);
    assert_eq!(u64::from(acks), if auto_ack { 0 } else { count });
    connection.close().unwrap();
    run
}

/// Each thread on a channel of its own, or all on one.
fn publish_from_threads(
    sink: SocketAddr,
    count: u64,
    threads: usize,
    size: usize,
    shared: bool,
) -> Run {
    let (connection, channels) = open(sink, if shared { 1 } else { threads });
    let each = count.div_ceil(threads as u64);
    let count = each * threads as u64;
    let step = Barrier::new(threads + 1);
    let run = thread::scope(|scope| {
        for n in 0..threads {
            let (channel, step) = (&channels[n % channels.len()], &step);
            scope.spawn(move || {
                let (properties, body) = (transient(), vec![b'x'; size]);
                // All are ready; the time runs; all have published; the time has stopped.
                step.wait();
                step.wait();
                for _ in 0..each {
                    channel
                        .basic_publish_with("", "q", &body, &properties)
                        .unwrap();
                }
                step.wait();
                step.wait();
            });
        }
        step.wait();
        let meter = Meter::start();
        step.wait();
        step.wait();
        let (arrived, _) = support::fence(&channels[0]);
        let run = meter.stop(count);
        step.wait();
        assert_eq!(u64::from(arrived), count);
        run
    });
    connection.close().unwrap();
    run
}

fn publish_size(sink: SocketAddr, count: u64, size: usize) -> Run {
    let (connection, channel) = support::open(sink);
    let (properties, body) = (transient(), vec![b'x'; size]);
    let meter = Meter::start();
    for _ in 0..count {
        channel
            .basic_publish_with("", "q", &body, &properties)
            .unwrap();
    }
    let (arrived, _) = support::fence(&channel);
    let run = meter.stop(count);
    assert_eq!(u64::from(arrived), count);
    connection.close().unwrap();
    run
}

fn consume_size(sink: SocketAddr, count: u64, size: usize) -> Run {
    let (connection, channel) = support::open(sink);
    let mut left = count;
    let on_message = move |channel: &Channel, _, _, body: Vec<u8>| {
        assert_eq!(body.len(), size);
        left -= 1;
        match left {
            0 => channel.stop_consuming(),
            _ => Ok(()),
        }
    };
    let request = BasicConsume::new(support::queue(count, size)).auto_ack(true);
    let meter = Meter::start();
    channel.basic_consume(request, on_message).unwrap();
    channel.start_consuming().unwrap();
    let run = meter.stop(count);
    connection.close().unwrap();
    run
}
