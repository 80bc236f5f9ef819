//! Fetches single messages: for now and then. A loop that fetches is slow, and hard on the broker; see `consumer_generator`.
//!
//! Mirrors: pika, "Using the Blocking Connection to get a message from RabbitMQ" (`blocking_basic_get`).
//! Run: `cargo run --example basic_get -- QUEUE`

use haypile::{Connection, QueueDeclare};

fn main() -> haypile::Result<()> {
    let url = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".into());
    let queue = std::env::args().nth(1).unwrap_or("example".into());
    let channel = Connection::open(url)?.channel()?;
    channel.queue_declare(QueueDeclare::new(&queue).durable(true))?;
    match channel.basic_get(&queue)? {
        Some((method, properties, body)) => {
            println!("{} {properties:?}", method.delivery_tag);
            println!("{}", String::from_utf8_lossy(&body));
            println!("{} more", method.message_count);
            channel.basic_ack(method.delivery_tag)?;
        }
        None => println!("No message returned"),
    }
    Ok(())
}
