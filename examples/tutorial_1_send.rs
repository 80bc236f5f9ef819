//! Sends a message to the queue `hello`.
//!
//! Mirrors: RabbitMQ tutorial 1, "Hello World!", `send.py`.
//! Run: `cargo run --example tutorial_1_send`

use haypile::Connection;

fn main() -> haypile::Result<()> {
    let url = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".into());
    let connection = Connection::open(url)?;
    let channel = connection.channel()?;
    channel.queue_declare("hello")?;
    channel.basic_publish("", "hello", "Hello World!")?;
    println!(" [x] Sent 'Hello World!'");
    // Waits until the broker has the message.
    connection.close()
}
