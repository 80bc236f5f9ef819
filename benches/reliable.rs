//! What a reliable publisher costs beside a `Publisher`, both with confirms and a window of 1000, against a broker that costs
//! next to nothing (see `support`). Prints the table that README.md has.
//!
//! `cargo bench --bench reliable` takes some ten seconds. A pair is a short run of each, one right after the other, so that both
//! meet the same machine; the ratio is the median over all pairs.

mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use haypile::{BasicProperties, DeliveryMode, Supervisor};

const PAIRS: usize = 201;
const WINDOW: usize = 1000;
const LIMIT: Duration = Duration::from_secs(60);

fn main() {
    // `cargo test --benches` only wants to know whether it works.
    let measure = std::env::args().any(|argument| argument == "--bench");
    let sink = support::start();
    println!("| body | `Publisher`, M/s | `ReliablePublisher`, M/s | ratio (quartiles) |");
    println!("|---|---:|---:|---:|");
    for (name, size, messages) in [("16 B", 16, 100_000), ("1 KiB", 1024, 30_000)] {
        let (pairs, messages) = if measure { (PAIRS, messages) } else { (1, 100) };
        let (mut plain, mut reliable) = (Vec::new(), Vec::new());
        for (one, other) in runs(sink, size, pairs, messages) {
            plain.push(messages as f64 / one.as_secs_f64() / 1e6);
            reliable.push(messages as f64 / other.as_secs_f64() / 1e6);
        }
        let ratios = plain.iter().zip(&reliable);
        let ratios = sorted(ratios.map(|(plain, reliable)| reliable / plain).collect());
        println!(
            "| {name} | {:.2} | {:.2} | {:.2} ({:.2} to {:.2}) |",
            sorted(plain)[pairs / 2],
            sorted(reliable)[pairs / 2],
            ratios[pairs / 2],
            ratios[pairs / 4],
            ratios[pairs * 3 / 4]
        );
    }
}

/// How long each run of a pair took, the plain publisher's first.
fn runs(sink: SocketAddr, size: usize, pairs: usize, messages: u64) -> Vec<(Duration, Duration)> {
    let properties = BasicProperties::new().delivery_mode(DeliveryMode::Transient);
    let body = vec![b'x'; size];
    let (connection, channel) = support::open(sink);
    let mut plain = channel.publisher(WINDOW).unwrap();
    let mut run_plain = || {
        let start = Instant::now();
        for _ in 0..messages {
            plain.publish_with("", "q", &body, &properties).unwrap();
        }
        plain.wait_for_confirms(LIMIT).unwrap();
        start.elapsed()
    };
    let supervisor = Supervisor::new(format!("amqp://{sink}"));
    let mut reliable = supervisor.publisher(WINDOW, |_| Ok(())).unwrap();
    let mut run_reliable = || {
        let start = Instant::now();
        for _ in 0..messages {
            reliable.publish_with("", "q", &body, &properties).unwrap();
        }
        reliable.wait_for_confirms(LIMIT).unwrap();
        start.elapsed()
    };
    run_plain();
    run_reliable();
    let pair = |number: usize| {
        if number % 2 == 0 {
            (run_plain(), run_reliable())
        } else {
            let reliable = run_reliable();
            (run_plain(), reliable)
        }
    };
    let all = (0..pairs).map(pair).collect();
    drop(plain);
    connection.close().unwrap();
    all
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}
