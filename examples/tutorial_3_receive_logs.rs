//! Prints what is sent to the exchange `logs` while this runs.
//!
//! Mirrors: RabbitMQ tutorial 3, "Publish/Subscribe", `receive_logs.py`.
//! Run: `cargo run --example tutorial_3_receive_logs`; Ctrl-C ends it.

use haypile::{BasicConsume, Connection, ExchangeDeclare, ExchangeType, QueueDeclare};

fn main() -> haypile::Result<()> {
    let url = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".into());
    let channel = Connection::open(url)?.channel()?;
    channel.exchange_declare(ExchangeDeclare::new("logs", ExchangeType::Fanout))?;
    // A queue of this connection's own, with a name of the broker's making; it goes with the connection.
    let queue = channel
        .queue_declare(QueueDeclare::new("").exclusive(true))?
        .queue;
    channel.queue_bind(&queue, "logs", "")?;
    println!(" [*] Waiting for logs. To exit press CTRL+C");

    channel.basic_consume(
        BasicConsume::new(&queue).auto_ack(true),
        |_channel, _method, _properties, body| {
            println!(" [x] {}", String::from_utf8_lossy(&body));
        },
    )?;
    channel.start_consuming()?;
    Ok(())
}
