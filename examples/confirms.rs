//! How a publisher knows that the broker has its message: confirms. And that a queue has it: mandatory.
//!
//! Document: Python怎样操作消息队列?pika连接RabbitMQ
//! Section: 消息的持久化与确认机制, which names 发布者确认(Publisher Confirms)
//! Mirrors: pika, "Using Delivery Confirmations with the BlockingConnection" (`blocking_delivery_confirmations`) and "Ensuring message
//! delivery with the mandatory flag" (`blocking_publish_mandatory`).
//! Run: `cargo run --example confirms`. `tutorial_7_publisher_confirms` compares the ways to confirm many messages.

use haypile::{BasicProperties, BasicPublish, Connection, DeliveryMode, Error, QueueDeclare};

fn main() -> haypile::Result<()> {
    let url = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".into());
    let connection = Connection::open(url)?;
    let channel = connection.channel()?;
    channel.queue_declare(
        QueueDeclare::new("confirms.small")
            .durable(true)
            .argument("x-max-length", 2)
            .argument("x-overflow", "reject-publish"),
    )?;
    channel.queue_purge("confirms.small")?;

    // From here on each publish returns when the broker has taken the message.
    channel.confirm_delivery()?;
    let persistent = BasicProperties::new().delivery_mode(DeliveryMode::Persistent);
    let mandatory = BasicPublish::new().mandatory(true).properties(&persistent);
    for (queue, text) in [
        ("confirms.small", "first"),
        ("confirms.nowhere", "lost"),
        ("confirms.small", "second"),
        ("confirms.small", "third"),
        ("confirms.small", "fourth"),
    ] {
        match channel.basic_publish_with("", queue, text, mandatory.clone()) {
            Ok(()) => println!("{text}: confirmed"),
            // pika: UnroutableError. Without `mandatory` this would have been confirmed.
            Err(Error::Unroutable(returned)) => {
                println!("{text}: returned, {}", returned[0].method.reply_text);
            }
            // pika: NackError.
            Err(Error::Nack(_)) => println!("{text}: refused, the queue is full"),
            Err(error) => return Err(error),
        }
    }
    connection.close()
}
