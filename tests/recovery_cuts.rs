//! A session of publish, confirm, deliver and ack is cut after each of its bytes, and always gets through.
//!
//! RabbitMQ 4 looks up its own host's name for each connection, before `connection.start`, and one lookup after the other. Where that
//! name is not in the hosts file and a name server drops a query, all connections in the handshake stand for five seconds.

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use haypile::{
    BasicGet, ConnectionParameters, ConsumingEnded, QueueDeclare, Result, Retry, Supervisor,
};
use support::{bounded_by, broker_address, channel, url_through, Fixture};

/// So many sessions run side by side.
const LANES: u64 = 8;

/// A forwarder that cuts the connection on which a certain byte passes, counted over both directions, and no other.
struct Cutter {
    address: SocketAddr,
    /// The byte after which to cut. 0 is none.
    limit: Arc<AtomicU64>,
    passed: Arc<AtomicU64>,
}

impl Cutter {
    fn start() -> Cutter {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let cutter = Cutter {
            address: listener.local_addr().unwrap(),
            limit: Arc::default(),
            passed: Arc::default(),
        };
        let (limit, passed) = (Arc::clone(&cutter.limit), Arc::clone(&cutter.passed));
        let target = broker_address();
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let broker = TcpStream::connect(target).unwrap();
                for (from, to) in [(&client, &broker), (&broker, &client)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let (limit, passed) = (Arc::clone(&limit), Arc::clone(&passed));
                    thread::spawn(move || pump(from, to, &limit, &passed));
                }
            }
        });
        cutter
    }

    /// Cuts after so many bytes from now.
    fn cut_after(&self, bytes: u64) {
        self.passed.store(0, Ordering::SeqCst);
        self.limit.store(bytes, Ordering::SeqCst);
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, limit: &AtomicU64, passed: &AtomicU64) {
    let mut chunk = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut chunk) {
        let before = passed.fetch_add(length as u64, Ordering::SeqCst);
        let at = limit.load(Ordering::SeqCst);
        let left = at.saturating_sub(before);
        if at > 0
            && left <= length as u64
            && limit
                .compare_exchange(at, 0, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok()
        {
            let _ = to.write_all(&chunk[..left as usize]);
            break;
        }
        if to.write_all(&chunk[..length]).is_err() {
            break;
        }
    }
    for stream in [&from, &to] {
        let _ = stream.shutdown(Shutdown::Both);
    }
}

fn supervisor(cutter: &Cutter) -> Supervisor {
    let parameters = ConnectionParameters::from_url(url_through(cutter.address)).unwrap();
    let retry = Retry::new()
        .first(Duration::from_millis(1))
        .most(Duration::from_millis(20));
    Supervisor::new(parameters).retry(retry)
}

/// One message is published, consumed and acked, whatever happens. Returns how often it came.
fn session(cutter: &Cutter, queue: &str, body: &str) -> Result<u32> {
    let declare = QueueDeclare::new(queue).durable(true);
    let mut publisher = supervisor(cutter).publisher(10, move |channel| {
        channel.queue_declare(declare.clone()).map(drop)
    })?;
    publisher.publish("", queue, body)?;
    publisher.wait_for_confirms(Duration::from_secs(60))?;
    drop(publisher);
    let mut seen = 0;
    supervisor(cutter).run(|connection| {
        let channel = connection.channel()?;
        channel.basic_qos(1)?;
        let passive = QueueDeclare::new(queue).passive(true);
        if seen > 0 && channel.queue_declare(passive)?.message_count == 0 {
            // The ack had come through, and the cut came after it.
            return Ok(ConsumingEnded::Cancelled);
        }
        for message in channel.consume(queue)? {
            let (method, _, got) = message?;
            channel.basic_ack(method.delivery_tag)?;
            if got != body.as_bytes() {
                // What an earlier session held when it was cut comes back when the broker has noticed.
                continue;
            }
            seen += 1;
            // The broker has the ack when it has replied to this.
            channel.basic_qos(1)?;
            break;
        }
        channel.cancel()?;
        Ok(ConsumingEnded::Cancelled)
    })?;
    Ok(seen)
}

#[test]
fn a_session_gets_through_wherever_it_is_cut() {
    bounded_by(Duration::from_secs(150), || {
        let mut fixture = Fixture::new();
        let whole = {
            let cutter = Cutter::start();
            let queue = fixture.queue("whole");
            assert_eq!(session(&cutter, &queue, "body").unwrap(), 1);
            cutter.passed.load(Ordering::SeqCst)
        };
        assert!(whole > 2000, "{whole}");
        // Each byte in the long form; in the short one some, others in each run.
        let step = match std::env::var("HAYPILE_SOAK") {
            Ok(_) => 1,
            Err(_) => 31,
        };
        let first = 1 + u64::from(std::process::id()) % step;
        let queues: Vec<String> = (0..LANES)
            .map(|n| fixture.queue(&format!("cut-{n}")))
            .collect();
        let lanes: Vec<_> = (0..LANES)
            .zip(queues)
            .map(|(lane, queue)| {
                thread::spawn(move || {
                    let cutter = Cutter::start();
                    let admin = channel();
                    let mut doubles = 0;
                    let cuts: Vec<u64> = (first..=whole).step_by(step as usize).collect();
                    for at in cuts.iter().skip(lane as usize).step_by(LANES as usize) {
                        cutter.cut_after(*at);
                        let seen = session(&cutter, &queue, &at.to_string())
                            .unwrap_or_else(|error| panic!("cut after {at} bytes: {error}"));
                        assert!(seen >= 1, "cut after {at} bytes: lost");
                        doubles += seen - 1;
                        // A confirm that was lost leaves a double behind.
                        while admin
                            .basic_get(BasicGet::new(&queue).auto_ack(true))
                            .unwrap()
                            .is_some()
                        {
                            doubles += 1;
                        }
                    }
                    (cuts.len(), doubles)
                })
            })
            .collect();
        for lane in lanes {
            let (cuts, doubles) = lane.join().unwrap();
            assert!(doubles as usize <= cuts);
        }
    });
}
