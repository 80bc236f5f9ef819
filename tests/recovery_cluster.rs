//! Three nodes, a quorum queue, and the node that the publisher is connected to killed and restarted in turn, while a reliable
//! publisher and a supervised consumer are at work: none is missing. `scripts/soak` runs it.

mod support;

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use haypile::{
    BasicProperties, Channel, Connection, ConsumingEnded, DeliveryMode, QueueDeclare, Retry,
    Supervisor, SupervisorEvent,
};
use support::{bounded_by, met_within, wait_until};

const QUEUE: &str = "replicated";
const WINDOW: usize = 500;
const ROUNDS: usize = 3;
const LIMIT: Duration = Duration::from_secs(120);

/// Three nodes of `tests/support/cluster`, ended with this value.
struct Cluster {
    process: Child,
    urls: Vec<String>,
    node: String,
}

impl Cluster {
    fn start() -> Cluster {
        let root = env!("CARGO_MANIFEST_DIR");
        // `cat` ends, and with it the nodes, when the pipe to it is closed.
        let mut process = Command::new(format!("{root}/scripts/with-broker"))
            .arg(format!("{root}/tests/support/cluster"))
            .args(["sh", "-c"])
            .arg(r#"printf '%s\n' "$CLUSTER_URLS" "$CLUSTER_NODE"; exec cat >/dev/null"#)
            .env_remove("AMQP_URL")
            .env("BROKER_PRIVATE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut line = || lines.next().expect("three nodes start").unwrap();
        let urls = line().split(' ').map(str::to_owned).collect();
        let node = line();
        Cluster {
            process,
            urls,
            node,
        }
    }

    /// `number` is from 0.
    fn node(&self, what: &str, number: usize) {
        let status = Command::new(&self.node)
            .args([what, &(number + 1).to_string()])
            .status();
        assert!(status.unwrap().success());
    }

    fn is_up(&self, number: usize) -> bool {
        Connection::open(self.urls[number].as_str()).is_ok_and(|connection| {
            let channel = connection.channel();
            channel.is_ok_and(|channel| declare(&channel).is_ok())
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

fn declare(channel: &Channel) -> haypile::Result<()> {
    let queue = QueueDeclare::new(QUEUE)
        .durable(true)
        .argument("x-queue-type", "quorum")
        .argument("x-quorum-initial-group-size", 3);
    channel.queue_declare(queue).map(drop)
}

fn supervisor(cluster: &Cluster) -> Supervisor {
    let retry = Retry::new()
        .first(Duration::from_millis(50))
        .most(Duration::from_millis(500));
    Supervisor::new(cluster.urls.iter().map(String::as_str).collect::<Vec<_>>()).retry(retry)
}

#[test]
#[ignore = "takes minutes: scripts/soak"]
fn nothing_is_lost_when_the_nodes_of_a_cluster_are_killed_in_turn() {
    bounded_by(Duration::from_secs(900), || {
        let cluster = Arc::new(Cluster::start());
        wait_until(LIMIT, || cluster.is_up(0));
        let received: Arc<Mutex<HashMap<u64, u32>>> = Arc::default();
        let redelivered = Arc::new(AtomicU64::new(0));

        let consuming = supervisor(&cluster);
        let stop = consuming.stop_handle();
        let consumer = {
            let (received, redelivered) = (Arc::clone(&received), Arc::clone(&redelivered));
            thread::spawn(move || {
                consuming.run(|connection| {
                    let channel = connection.channel()?;
                    declare(&channel)?;
                    channel.basic_qos(200)?;
                    for message in channel.consume(QUEUE)? {
                        let (method, _, body) = message?;
                        let number: u64 = String::from_utf8(body).unwrap().parse().unwrap();
                        *received.lock().unwrap().entry(number).or_default() += 1;
                        redelivered.fetch_add(u64::from(method.redelivered), Ordering::SeqCst);
                        channel.basic_ack(method.delivery_tag)?;
                    }
                    Ok(ConsumingEnded::Cancelled)
                })
            })
        };

        // Where the publisher is connected to.
        let connected: Arc<Mutex<String>> = Arc::default();
        let address = Arc::clone(&connected);
        let publishing = supervisor(&cluster).on_event(move |event| {
            if let SupervisorEvent::Connected { address: to, .. } = event {
                *address.lock().unwrap() = to.clone();
            }
        });
        let (sent, over) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let publisher = {
            let (sent, over) = (Arc::clone(&sent), Arc::clone(&over));
            thread::spawn(move || {
                let mut publisher = publishing
                    .publisher(WINDOW, declare)
                    .unwrap()
                    .timeout(LIMIT);
                let persistent = BasicProperties::new().delivery_mode(DeliveryMode::Persistent);
                let mut number = 0;
                while !over.load(Ordering::SeqCst) {
                    number += 1;
                    let body = number.to_string();
                    let taken = publisher.publish_with("", QUEUE, body, &persistent);
                    assert_eq!(taken.unwrap(), number);
                    sent.store(number, Ordering::SeqCst);
                }
                publisher.wait_for_confirms(LIMIT).unwrap();
                (number, publisher.republished())
            })
        };

        let goes_on = |from: u64| {
            let more = from + WINDOW as u64 + 1;
            met_within(LIMIT, || sent.load(Ordering::SeqCst) > more)
        };
        assert!(goes_on(0));
        let mut pauses = Vec::new();
        for round in 1..=ROUNDS {
            let address = connected.lock().unwrap().clone();
            let at = |url: &String| url.ends_with(&address);
            let number = cluster.urls.iter().position(at).expect(&address);
            cluster.node("kill", number);
            let began = Instant::now();
            assert!(goes_on(sent.load(Ordering::SeqCst)), "it does not go on");
            pauses.push(began.elapsed());
            eprintln!(
                "round {round}: node {} killed, on again after {:?}",
                number + 1,
                began.elapsed()
            );
            cluster.node("start", number);
            wait_until(LIMIT, || cluster.is_up(number));
            // The other two need the restarted one for a majority, once the next is killed.
            assert!(goes_on(sent.load(Ordering::SeqCst)));
        }
        over.store(true, Ordering::SeqCst);
        let (messages, republished) = publisher.join().unwrap();
        let complete = met_within(LIMIT, || received.lock().unwrap().len() as u64 == messages);
        stop.stop();
        let ended = consumer.join().unwrap();
        let received = received.lock().unwrap();
        let missing = (1..=messages).filter(|n| !received.contains_key(n)).count();
        let doubles: u64 = received.values().map(|count| u64::from(count - 1)).sum();
        let redelivered = redelivered.load(Ordering::SeqCst);
        eprintln!(
            "{messages} messages, {ROUNDS} nodes killed: {missing} missing, {doubles} doubles ({republished} sent again, \
             {redelivered} redelivered); on again after {pauses:?}"
        );
        assert!(complete && missing == 0);
        assert_eq!(ended.unwrap(), ConsumingEnded::Cancelled);
        assert!(doubles <= republished + redelivered);
    });
}
