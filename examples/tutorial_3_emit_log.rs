//! Sends a line to everybody who listens to the exchange `logs`.
//!
//! Mirrors: RabbitMQ tutorial 3, "Publish/Subscribe", `emit_log.py`.
//! Run: `cargo run --example tutorial_3_emit_log -- info: all is well`

use haypile::{Connection, ExchangeDeclare, ExchangeType};

fn main() -> haypile::Result<()> {
    let url = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".into());
    let connection = Connection::open(url)?;
    let channel = connection.channel()?;
    channel.exchange_declare(ExchangeDeclare::new("logs", ExchangeType::Fanout))?;

    let words: Vec<String> = std::env::args().skip(1).collect();
    let message = match words.is_empty() {
        true => "info: Hello World!".to_owned(),
        false => words.join(" "),
    };
    channel.basic_publish("logs", "", &message)?;
    println!(" [x] Sent {message}");
    connection.close()
}
