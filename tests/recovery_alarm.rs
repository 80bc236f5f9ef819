//! A broker that is low on memory for longer than `rpc_timeout`: nothing is lost, and nothing is sent twice.

#[path = "support/node.rs"]
mod node;
mod support;

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use haypile::{
    BasicGet, Connection, ConnectionParameters, QueueDeclare, Supervisor, SupervisorEvent,
};
use node::Node;
use support::{bounded_by, wait_until, Log};

const RPC_TIMEOUT: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn a_memory_alarm_delays_messages_and_doubles_none() {
    bounded_by(Duration::from_secs(180), || {
        let node = Node::start();
        let events = Log::new();
        let seen = events.clone();
        let parameters = ConnectionParameters::from_url(&node.url)
            .unwrap()
            .rpc_timeout(RPC_TIMEOUT);
        let mut publisher = Supervisor::new(parameters)
            .on_event(move |event| {
                seen.push(match event {
                    SupervisorEvent::Connected { .. } => "connected",
                    SupervisorEvent::Blocked { reason, .. } => {
                        assert!(!reason.is_empty());
                        "blocked"
                    }
                    SupervisorEvent::Unblocked => "unblocked",
                    _ => "lost",
                });
            })
            .publisher(50, |channel| {
                channel
                    .queue_declare(QueueDeclare::new("alarm").durable(true))
                    .map(drop)
            })
            .unwrap()
            .timeout(LIMIT);
        for n in 0..100 {
            publisher.publish("", "alarm", n.to_string()).unwrap();
        }
        publisher.wait_for_confirms(LIMIT).unwrap();
        node.rabbitmqctl(&["-q", "set_vm_memory_high_watermark", "0.00001"]);
        let publishing = thread::spawn(move || {
            for n in 100..300 {
                publisher.publish("", "alarm", n.to_string()).unwrap();
            }
            publisher.wait_for_confirms(LIMIT).unwrap();
            publisher
        });
        wait_until(LIMIT, || events.all().contains(&"blocked"));
        // The alarm outlasts every deadline of a call.
        let began = Instant::now();
        wait_until(LIMIT, || began.elapsed() > RPC_TIMEOUT * 5 / 2);
        assert!(!publishing.is_finished(), "the broker takes messages");
        node.rabbitmqctl(&["-q", "set_vm_memory_high_watermark", "0.8"]);
        let publisher = publishing.join().unwrap();
        assert_eq!(publisher.republished(), 0);
        // An alarm may come and go more than once before it stays.
        let all = events.all();
        assert_eq!(all[0], "connected");
        assert!(all.contains(&"unblocked"), "{all:?}");
        assert!(
            !all[1..]
                .iter()
                .any(|event| ["connected", "lost"].contains(event)),
            "{all:?}"
        );
        drop(publisher);
        let channel = Connection::open(node.url.as_str())
            .unwrap()
            .channel()
            .unwrap();
        let mut bodies: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
        while let Some((_, _, body)) = channel
            .basic_get(BasicGet::new("alarm").auto_ack(true))
            .unwrap()
        {
            *bodies.entry(body).or_default() += 1;
        }
        assert_eq!(bodies.len(), 300, "none is missing");
        assert!(bodies.values().all(|count| *count == 1), "{bodies:?}");
    });
}
