//! Prints what comes to the queue `hello`.
//!
//! Mirrors: RabbitMQ tutorial 1, "Hello World!", `receive.py`.
//! Run: `cargo run --example tutorial_1_receive`; Ctrl-C ends it.

use haypile::{BasicConsume, Connection};

fn main() -> haypile::Result<()> {
    let url = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".into());
    let channel = Connection::open(url)?.channel()?;
    channel.queue_declare("hello")?;
    channel.basic_consume(
        BasicConsume::new("hello").auto_ack(true),
        |_channel, _method, _properties, body| {
            println!(" [x] Received {}", String::from_utf8_lossy(&body));
        },
    )?;
    println!(" [*] Waiting for messages. To exit press CTRL+C");
    channel.start_consuming()?;
    Ok(())
}
