//! Leaves a persistent message in the durable queue `hello1`.
//!
//! Document: RabbitMQ (categories: Python)
//! Section: 简单模式, 生产者

mod common;

use common::python;
use haypile::{BasicProperties, Connection, DeliveryMode, QueueDeclare};

fn main() -> Result<(), common::Failure> {
    let args =
        common::Usage::new("Leaves a persistent message in the durable queue `hello1`.").parse();

    let queue_name = args.name("hello1");
    let connection = Connection::open(args.connection())?;
    let channel = connection.channel()?;
    channel.queue_declare(QueueDeclare::new(&queue_name).durable(true))?;
    let message = "Hello World!";
    let persistent = BasicProperties::new().delivery_mode(DeliveryMode::Persistent);
    channel.basic_publish_with("", &queue_name, message, persistent)?;
    println!("Sent {}", python::repr_str(message));
    // No close, as in the original: dropping the last handle closes the connection and sends what is left.
    Ok(())
}
