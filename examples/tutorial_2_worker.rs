//! Works on the tasks of `task_queue`, one at a time: the one that is free gets the next one.
//!
//! Mirrors: RabbitMQ tutorial 2, "Work Queues", `worker.py`.
//! Run: `cargo run --example tutorial_2_worker`, as often as you like; Ctrl-C ends it.

use std::thread;
use std::time::Duration;

use haypile::{Connection, QueueDeclare};

fn main() -> haypile::Result<()> {
    let url = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".into());
    let channel = Connection::open(url)?.channel()?;
    channel.queue_declare(QueueDeclare::new("task_queue").durable(true))?;
    println!(" [*] Waiting for messages. To exit press CTRL+C");

    channel.basic_qos(1)?;
    channel.basic_consume("task_queue", |channel, method, _properties, body| {
        println!(" [x] Received {}", String::from_utf8_lossy(&body));
        let dots = body.iter().filter(|byte| **byte == b'.').count();
        thread::sleep(Duration::from_secs(dots as u64));
        println!(" [x] Done");
        // If the worker dies before this, the task goes to another.
        channel.basic_ack(method.delivery_tag)
    })?;
    channel.start_consuming()?;
    Ok(())
}
