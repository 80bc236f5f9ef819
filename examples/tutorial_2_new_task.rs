//! Leaves a task in the durable queue `task_queue`; each dot in it is a second of work.
//!
//! Mirrors: RabbitMQ tutorial 2, "Work Queues", `new_task.py`.
//! Run: `cargo run --example tutorial_2_new_task -- First message.`

use haypile::{BasicProperties, Connection, DeliveryMode, QueueDeclare};

fn main() -> haypile::Result<()> {
    let url = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".into());
    let connection = Connection::open(url)?;
    let channel = connection.channel()?;
    channel.queue_declare(QueueDeclare::new("task_queue").durable(true))?;

    let words: Vec<String> = std::env::args().skip(1).collect();
    let message = match words.is_empty() {
        true => "Hello World!".to_owned(),
        false => words.join(" "),
    };
    let persistent = BasicProperties::new().delivery_mode(DeliveryMode::Persistent);
    channel.basic_publish_with("", "task_queue", &message, persistent)?;
    println!(" [x] Sent {message}");
    connection.close()
}
