//! The broker for tests under clients that do what they should not.
#![cfg(feature = "testing")]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use haypile::testing::Broker;
use haypile::{BasicConsume, Channel, Connection, ConnectionParameters};

const SOON: Duration = Duration::from_secs(30);

fn channel(broker: &Broker) -> Channel {
    let connection = broker.connect(ConnectionParameters::default()).unwrap();
    connection.channel().unwrap()
}

fn assert_well(broker: &Broker) {
    let channel = channel(broker);
    channel.queue_declare("well").unwrap();
    channel.basic_publish("", "well", "1").unwrap();
    assert!(channel.basic_get("well").unwrap().is_some());
}

/// The frames of a handshake, up to an open channel.
fn opening() -> Vec<u8> {
    let mut bytes = b"AMQP\0\0\x09\x01".to_vec();
    let mut method = |channel: u16, payload: &[u8]| {
        bytes.push(1);
        bytes.extend_from_slice(&channel.to_be_bytes());
        bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes());
        bytes.extend_from_slice(payload);
        bytes.push(0xce);
    };
    let mut start_ok = vec![0, 10, 0, 11, 0, 0, 0, 0];
    start_ok.extend_from_slice(b"\x05PLAIN\0\0\0\x0c\0guest\0guest\x05en_US");
    method(0, &start_ok);
    method(0, &[0, 10, 0, 31, 7, 255, 0, 2, 0, 0, 0, 0]);
    method(0, b"\0\x0a\0\x28\x01/\0\0");
    method(1, &[0, 20, 0, 10, 0]);
    bytes
}

/// The splitmix64 of Steele and Vigna: the same bytes in every run.
fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *seed;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[test]
fn random_bytes_harm_no_other_client() {
    let broker = Broker::start().unwrap();
    let opening = opening();
    for round in 0..200 {
        let mut seed = round;
        let mut bytes = opening.clone();
        match round % 4 {
            // Behind a proper opening, frames of random methods.
            0 => {
                for _ in 0..20 {
                    let length = (random(&mut seed) % 40) as usize;
                    bytes.extend_from_slice(&[(random(&mut seed) % 4) as u8, 0, 1, 0, 0, 0]);
                    bytes.push(length as u8);
                    bytes.extend((0..length).map(|at| match at {
                        0 | 2 => 0,
                        1 => [10, 20, 40, 50, 60, 85, 90][(random(&mut seed) % 7) as usize],
                        3 => (random(&mut seed) % 12) as u8 * 10,
                        _ => random(&mut seed) as u8,
                    }));
                    bytes.push(0xce);
                }
            }
            1 => bytes.extend((0..500).map(|_| random(&mut seed) as u8)),
            // Of the opening, some bytes changed.
            2 => {
                for _ in 0..3 {
                    let at = random(&mut seed) as usize % bytes.len();
                    bytes[at] = random(&mut seed) as u8;
                }
            }
            // Only half of it.
            _ => bytes.truncate(random(&mut seed) as usize % bytes.len()),
        }
        let mut stream = TcpStream::connect(broker.address()).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    broker
        .wait_until(|| broker.connections().is_empty(), SOON)
        .unwrap();
    assert_well(&broker);
}

#[test]
fn half_handshakes_are_left_lying_and_end_with_the_broker() {
    let broker = Broker::start().unwrap();
    let opening = opening();
    let streams: Vec<TcpStream> = (0..opening.len())
        .step_by(3)
        .map(|length| {
            let mut stream = TcpStream::connect(broker.address()).unwrap();
            stream.write_all(&opening[..length]).unwrap();
            stream
        })
        .collect();
    assert_well(&broker);
    drop(broker);
    for mut stream in streams {
        stream.set_read_timeout(Some(SOON)).unwrap();
        let mut rest = Vec::new();
        // An end or a reset, and no waiting.
        if let Err(error) = stream.read_to_end(&mut rest) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
    }
}

#[test]
fn thousands_of_channels() {
    let broker = Broker::builder().channel_max(0).start().unwrap();
    let parameters = ConnectionParameters::default().channel_max(5000);
    let connection = broker.connect(parameters).unwrap();
    let channels: Vec<Channel> = (0..5000).map(|_| connection.channel().unwrap()).collect();
    channels[0].queue_declare("q").unwrap();
    for channel in &channels {
        channel.basic_publish("", "q", "1").unwrap();
    }
    channels[4999].queue_declare("q").unwrap();
    let arrived = || broker.queue("q").unwrap().messages.len() == 5000;
    broker.wait_until(arrived, SOON).unwrap();
    drop(channels);
    connection.close().unwrap();
    assert_well(&broker);
}

#[test]
fn ten_thousand_consumers_get_their_turns() {
    const CONSUMERS: usize = 10_000;
    let broker = Broker::start().unwrap();
    let channel = channel(&broker);
    channel.queue_declare("q").unwrap();
    for _ in 0..CONSUMERS {
        let consume = BasicConsume::new("q").auto_ack(true);
        channel.basic_consume(consume, |_, _, _, _| {}).unwrap();
    }
    let publisher = self::channel(&broker);
    for _ in 0..CONSUMERS {
        publisher.basic_publish("", "q", "1").unwrap();
    }
    publisher.queue_declare("q").unwrap();
    let all_delivered = || broker.queue("q").unwrap().messages.is_empty();
    broker.wait_until(all_delivered, SOON).unwrap();
    drop(channel);
    let gone = || broker.queue("q").unwrap().consumers.is_empty();
    broker.wait_until(gone, SOON).unwrap();
}

/// Its messages wait in the queue, not in the broker's buffers, and others are served meanwhile.
#[test]
fn a_client_that_never_reads() {
    let broker = Broker::start().unwrap();
    let publisher = channel(&broker);
    publisher.queue_declare("q").unwrap();
    publisher.confirm_delivery().unwrap();
    let mut deaf = TcpStream::connect(broker.address()).unwrap();
    let mut bytes = opening();
    // `basic.consume` of `q` with automatic acks.
    let consume = b"\0\x3c\0\x14\0\0\x01q\x01c\x02\0\0\0\0";
    bytes.extend_from_slice(&[1, 0, 1, 0, 0, 0, consume.len() as u8]);
    bytes.extend_from_slice(consume);
    bytes.push(0xce);
    deaf.write_all(&bytes).unwrap();
    let consuming = || broker.queue("q").unwrap().consumers.len() == 1;
    broker.wait_until(consuming, SOON).unwrap();
    let body = vec![b'x'; 1024 * 1024];
    for _ in 0..60 {
        publisher.basic_publish("", "q", &body).unwrap();
    }
    let waiting = broker.queue("q").unwrap().messages.len();
    assert!(waiting > 20, "only {waiting} of 60 wait in the queue");
    assert_well(&broker);
    drop(deaf);
    let gone = || broker.queue("q").unwrap().consumers.is_empty();
    broker.wait_until(gone, SOON).unwrap();
}

/// A body that is announced and never comes costs no memory.
#[test]
fn huge_bodies_that_are_only_announced() {
    let broker = Broker::start().unwrap();
    let mut streams = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(broker.address()).unwrap();
        let mut bytes = opening();
        let publish = b"\0\x3c\0\x28\0\0\0\0\0";
        bytes.extend_from_slice(&[1, 0, 1, 0, 0, 0, publish.len() as u8]);
        bytes.extend_from_slice(publish);
        bytes.push(0xce);
        let mut header = vec![0, 60, 0, 0];
        header.extend_from_slice(&(16 * 1024 * 1024_u64).to_be_bytes());
        header.extend_from_slice(&[0, 0]);
        bytes.extend_from_slice(&[2, 0, 1, 0, 0, 0, header.len() as u8]);
        bytes.extend_from_slice(&header);
        bytes.push(0xce);
        stream.write_all(&bytes).unwrap();
        streams.push(stream);
    }
    assert_well(&broker);
    drop(streams);
    let gone = || broker.connections().is_empty();
    broker.wait_until(gone, SOON).unwrap();
}

#[test]
fn everything_may_be_closed_twice() {
    let broker = Broker::start().unwrap();
    let channel = channel(&broker);
    let connection = channel.connection();
    channel.close().unwrap();
    assert!(channel.close().is_err());
    broker.connections()[0].close_channel(1, 404, "none there");
    broker.connections()[0].close_channel(77, 404, "nor there");
    connection.channel().unwrap();
    let client = broker.connections().remove(0);
    client.close(320, "once");
    client.close(320, "twice");
    client.cut();
    client.cut();
    client.reset();
    assert!(connection.close().is_err());
    let gone = || broker.connections().is_empty();
    broker.wait_until(gone, SOON).unwrap();
    assert_well(&broker);
}

/// Every call ends, with an error, and none of them hangs.
#[test]
fn a_broker_is_dropped_while_clients_are_in_calls() {
    for round in 0..10 {
        let broker = Broker::start().unwrap();
        let calls = AtomicUsize::new(0);
        let channels: Vec<Channel> = (0..6)
            .map(|number| match number % 2 {
                0 => channel(&broker),
                _ => Connection::open(broker.url()).unwrap().channel().unwrap(),
            })
            .collect();
        channels[0].queue_declare("q").unwrap();
        thread::scope(|scope| {
            for (number, channel) in channels.iter().enumerate() {
                let calls = &calls;
                scope.spawn(move || {
                    if number == 0 {
                        let _ = channel.basic_consume("q", |_, _, _, _| {});
                        assert!(channel.start_consuming().is_err());
                        return;
                    }
                    if number == 1 {
                        // The broker may be gone by then.
                        let _ = channel.confirm_delivery();
                    }
                    loop {
                        let outcome = match number {
                            1 | 2 => channel.basic_publish("", "q", "body"),
                            3 => channel.queue_declare("other").map(drop),
                            _ => channel.basic_get("q").map(drop),
                        };
                        calls.fetch_add(1, Ordering::SeqCst);
                        if outcome.is_err() {
                            return;
                        }
                    }
                });
            }
            let begun = Instant::now();
            while calls.load(Ordering::SeqCst) < 50 * round && begun.elapsed() < SOON {
                thread::yield_now();
            }
            drop(broker);
        });
    }
}
