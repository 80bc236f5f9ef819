//! The codec in isolation: bytes to values and back, without sockets or threads.
//!
//! Needs the feature `unstable-internals`, since none of this is public.

// What criterion's macro makes is public.
#![allow(missing_docs)]

use std::hint::black_box;
use std::time::Duration;

use criterion::{criterion_group, criterion_main, Criterion, Throughput};
use haypile::internals as inside;
use haypile::{BasicProperties, DeliveryMode, FieldTable, FieldValue};

/// What a careful application sets.
fn full_properties() -> BasicProperties {
    BasicProperties::new()
        .content_type("application/json")
        .delivery_mode(DeliveryMode::Persistent)
        .correlation_id("8a7c2a0e-35c4-4a6b-8a66-5f6d6d1e4a11")
        .reply_to("amq.gen-JzTY20BRgKO-HjmUJj0wLg")
        .message_id("0191e2f4-7d6c-7000-8000-000000000042")
        .timestamp(1_700_000_000)
        .header("attempt", 1)
        .header("tenant", "north")
        .header(
            "trace",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        )
}

fn transient() -> BasicProperties {
    BasicProperties::new().delivery_mode(DeliveryMode::Transient)
}

/// The payload of the first frame.
fn payload(frame: &[u8]) -> &[u8] {
    let size = u32::from_be_bytes([frame[3], frame[4], frame[5], frame[6]]) as usize;
    &frame[7..7 + size]
}

fn encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode");
    group.throughput(Throughput::Elements(1));
    let mut out = Vec::with_capacity(4096);
    let body = [b'x'; 16];
    for (name, properties) in [
        ("publish, no properties", BasicProperties::new()),
        ("publish, delivery mode", transient()),
        ("publish, many properties", full_properties()),
    ] {
        group.bench_function(name, |b| {
            b.iter(|| {
                out.clear();
                let (key, body) = (black_box("task_queue"), black_box(&body[..]));
                inside::write_publish(&mut out, "", key, black_box(&properties), body).unwrap();
                out.len()
            });
        });
    }
    group.bench_function("ack", |b| {
        b.iter(|| {
            out.clear();
            inside::write_ack(&mut out, black_box(42)).unwrap();
            out.len()
        });
    });
    let arguments: FieldTable = [
        ("x-message-ttl", FieldValue::from(100_000)),
        ("x-queue-type", FieldValue::from("quorum")),
        ("x-dead-letter-exchange", FieldValue::from("dead")),
    ]
    .into_iter()
    .collect();
    group.bench_function("declare with arguments", |b| {
        b.iter(|| {
            out.clear();
            inside::write_declare(&mut out, black_box("task_queue"), black_box(&arguments))
                .unwrap();
            out.len()
        });
    });
    group.finish();
}

fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    group.throughput(Throughput::Elements(1));
    let mut delivery = Vec::new();
    inside::write_delivery(&mut delivery, 42, &transient(), b"x").unwrap();
    let method = payload(&delivery).to_vec();
    group.bench_function("deliver", |b| {
        b.iter(|| inside::read_method(black_box(&method)).unwrap());
    });
    for (name, properties) in [
        ("header, delivery mode", transient()),
        ("header, many properties", full_properties()),
    ] {
        let mut delivery = Vec::new();
        inside::write_delivery(&mut delivery, 42, &properties, b"x").unwrap();
        let header = payload(&delivery[payload(&delivery).len() + 8..]).to_vec();
        group.bench_function(name, |b| {
            b.iter(|| inside::read_header(black_box(&header)).unwrap());
        });
    }
    group.finish();
}

/// What one read may bring: 1,000 deliveries.
fn receive(c: &mut Criterion) {
    const COUNT: u64 = 1000;
    let mut group = c.benchmark_group("receive");
    group.throughput(Throughput::Elements(COUNT));
    for (name, properties, size) in [
        ("16 B", transient(), 16),
        ("16 B, many properties", full_properties(), 16),
        ("1 KiB", transient(), 1024),
    ] {
        let mut bytes = Vec::new();
        for tag in 1..=COUNT {
            inside::write_delivery(&mut bytes, tag, &properties, &vec![b'x'; size]).unwrap();
        }
        group.bench_function(format!("frames, {name}"), |b| {
            b.iter(|| inside::count_frames(black_box(&bytes)).unwrap());
        });
        let mut deliveries = inside::Deliveries::new();
        group.bench_function(format!("messages, {name}"), |b| {
            b.iter(|| {
                let (messages, _) = deliveries.feed(black_box(&bytes)).unwrap();
                assert_eq!(messages as u64, COUNT);
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = encode, decode, receive
}
criterion_main!(benches);
