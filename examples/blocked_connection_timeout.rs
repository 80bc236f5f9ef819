//! A well-behaved connection: a heartbeat, so that a dead peer is noticed, and a limit on how long the broker may block a
//! publisher for want of memory or disk, so that it does not wait for ever.
//!
//! Mirrors: pika, "Ensuring well-behaved connection with heartbeat and blocked-connection timeouts"
//! (`heartbeat_and_blocked_timeouts`).
//! Run: `cargo run --example blocked_connection_timeout`, and let the broker run short:
//! `rabbitmqctl set_vm_memory_high_watermark absolute 1` (and back with `0.6`).

use std::time::Duration;

use haypile::{Connection, ConnectionParameters, Error, QueueDeclare};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".into());
    let limit = std::env::args().nth(1).unwrap_or("300".into()).parse()?;
    let parameters = ConnectionParameters::from_url(url)?
        .heartbeat(600)
        .blocked_connection_timeout(Duration::from_secs_f64(limit));
    let connection = Connection::open(parameters)?;
    connection.add_on_connection_blocked_callback(|_connection, reason| {
        println!("blocked: {reason}");
    });
    connection.add_on_connection_unblocked_callback(|_connection| println!("unblocked"));

    let channel = connection.channel()?;
    // There is no consumer, so the oldest are dropped.
    let queue = QueueDeclare::new("")
        .exclusive(true)
        .argument("x-max-length", 10);
    let queue = channel.queue_declare(queue)?.queue;
    let mut sent = 0u64;
    loop {
        let result = channel
            .basic_publish("", &queue, "tick")
            // The callbacks run in here.
            .and_then(|()| connection.sleep(Duration::from_millis(100)));
        match result {
            Ok(()) => sent += 1,
            Err(error @ Error::ConnectionBlockedTimeout { .. }) => {
                println!("given up: {error}");
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
        if sent == 1 {
            println!("publishing");
        }
    }
}
