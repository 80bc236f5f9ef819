//! Publish, consume, confirm, get and start-up against a broker that costs next to nothing (see `support`).
//!
//! The figures are of use in comparison with another run on the same machine: `cargo bench --bench sink -- --save-baseline
//! before`, and later `-- --baseline before`.

// What criterion's macro makes is public.
#![allow(missing_docs)]

mod support;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{criterion_group, criterion_main, Criterion, SamplingMode, Throughput};
use haypile::{BasicConsume, BasicGet, BasicProperties, Connection, DeliveryMode, Supervisor};

fn transient() -> BasicProperties {
    BasicProperties::new().delivery_mode(DeliveryMode::Transient)
}

fn size_name(size: usize) -> String {
    match size {
        0..1024 => format!("{size} B"),
        1024..1_048_576 => format!("{} KiB", size >> 10),
        _ => format!("{} MiB", size >> 20),
    }
}

/// A loop of publishes, up to the moment when the broker has the last of them.
fn publish(c: &mut Criterion) {
    let sink = support::start();
    let mut group = c.benchmark_group("publish");
    group.sampling_mode(SamplingMode::Flat);
    for size in [16, 1024, 65_536, 1 << 20] {
        group.throughput(Throughput::Elements(1));
        let (connection, channel) = support::open(sink);
        let (body, properties) = (vec![b'x'; size], transient());
        let mut arrived = 0;
        group.bench_function(size_name(size), |b| {
            b.iter_custom(|count| {
                let start = Instant::now();
                for _ in 0..count {
                    channel
                        .basic_publish_with("", "q", &body, &properties)
                        .unwrap();
                }
                arrived += count;
                assert_eq!(support::fence(&channel).0, arrived as u32);
                start.elapsed()
            });
        });
        connection.close().unwrap();
    }
    group.finish();
}

fn confirm(c: &mut Criterion) {
    let sink = support::start();
    let mut group = c.benchmark_group("confirm");
    group.sampling_mode(SamplingMode::Flat);
    group.throughput(Throughput::Elements(1));
    let properties = transient();
    for size in [16, 1024] {
        let (connection, channel) = support::open(sink);
        let body = vec![b'x'; size];
        let mut publisher = channel.publisher(1000).unwrap();
        group.bench_function(format!("pipelined, {}", size_name(size)), |b| {
            b.iter_custom(|count| {
                let start = Instant::now();
                for _ in 0..count {
                    publisher.publish_with("", "q", &body, &properties).unwrap();
                }
                publisher
                    .wait_for_confirms(Duration::from_secs(60))
                    .unwrap();
                start.elapsed()
            });
        });
        drop(publisher);
        connection.close().unwrap();

        let url = format!("amqp://{sink}");
        let mut publisher = Supervisor::new(url).publisher(1000, |_| Ok(())).unwrap();
        group.bench_function(format!("reliable, {}", size_name(size)), |b| {
            b.iter_custom(|count| {
                let start = Instant::now();
                for _ in 0..count {
                    publisher.publish_with("", "q", &body, &properties).unwrap();
                }
                publisher
                    .wait_for_confirms(Duration::from_secs(60))
                    .unwrap();
                start.elapsed()
            });
        });
    }
    let (connection, channel) = support::open(sink);
    channel.confirm_delivery().unwrap();
    group.bench_function("one by one, 16 B", |b| {
        b.iter(|| channel.basic_publish_with("", "q", [b'x'; 16], &properties));
    });
    connection.close().unwrap();
    group.finish();
}

/// Consumes so many messages; returns how long it took from subscribing to the cancellation.
fn consume_all(sink: SocketAddr, count: u64, size: usize, auto_ack: bool) -> Duration {
    let (connection, channel) = support::open(sink);
    let bytes = Arc::new(AtomicU64::new(0));
    let (sum, mut left) = (Arc::clone(&bytes), count);
    let start = Instant::now();
    let request = BasicConsume::new(support::queue(count, size)).auto_ack(auto_ack);
    let on_message =
        move |channel: &haypile::Channel, method: haypile::Deliver, _, body: Vec<u8>| {
            sum.fetch_add(body.len() as u64, Ordering::Relaxed);
            if !auto_ack {
                channel.basic_ack(method.delivery_tag)?;
            }
            left -= 1;
            if left == 0 {
                channel.stop_consuming()?;
            }
            haypile::Result::Ok(())
        };
    channel.basic_consume(request, on_message).unwrap();
    channel.start_consuming().unwrap();
    let (_, acks) = support::fence(&channel);
    let took = start.elapsed();
    assert_eq!(bytes.load(Ordering::Relaxed), count * size as u64);
    assert_eq!(u64::from(acks), if auto_ack { 0 } else { count });
    connection.close().unwrap();
    took
}

fn consume(c: &mut Criterion) {
    let sink = support::start();
    let mut group = c.benchmark_group("consume");
    group.sampling_mode(SamplingMode::Flat);
    group.throughput(Throughput::Elements(1));
    for size in [16, 1024, 65_536, 1 << 20] {
        group.bench_function(format!("automatic ack, {}", size_name(size)), |b| {
            b.iter_custom(|count| consume_all(sink, count, size, true));
        });
    }
    group.bench_function("an ack each, 16 B", |b| {
        b.iter_custom(|count| consume_all(sink, count, 16, false));
    });
    group.finish();
}

fn round_trips(c: &mut Criterion) {
    let sink = support::start();
    let mut group = c.benchmark_group("round trip");
    group.sampling_mode(SamplingMode::Flat);
    group.throughput(Throughput::Elements(1));
    let (connection, channel) = support::open(sink);
    let queue = support::queue(0, 16);
    group.bench_function("get, 16 B", |b| {
        b.iter(|| {
            let request = BasicGet::new(&queue).auto_ack(true);
            channel.basic_get(request).unwrap().expect("a message")
        });
    });
    group.bench_function("declare", |b| b.iter(|| support::fence(&channel)));
    connection.close().unwrap();
    group.bench_function("connect, publish, close", |b| {
        b.iter(|| {
            let (connection, channel): (Connection, _) = support::open(sink);
            channel.basic_publish("", "q", "hello").unwrap();
            connection.close().unwrap();
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2));
    targets = publish, confirm, consume, round_trips
}
criterion_main!(benches);
