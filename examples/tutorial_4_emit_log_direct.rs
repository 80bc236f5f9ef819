//! Sends a line with a severity to the exchange `direct_logs`.
//!
//! Mirrors: RabbitMQ tutorial 4, "Routing", `emit_log_direct.py`.
//! Run: `cargo run --example tutorial_4_emit_log_direct -- error Run. Run. Or it will explode.`

use haypile::{Connection, ExchangeDeclare, ExchangeType};

fn main() -> haypile::Result<()> {
    let url = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".into());
    let connection = Connection::open(url)?;
    let channel = connection.channel()?;
    channel.exchange_declare(ExchangeDeclare::new("direct_logs", ExchangeType::Direct))?;

    let mut words = std::env::args().skip(1);
    let severity = words.next().unwrap_or_else(|| "info".to_owned());
    let words: Vec<String> = words.collect();
    let message = match words.is_empty() {
        true => "Hello World!".to_owned(),
        false => words.join(" "),
    };
    channel.basic_publish("direct_logs", &severity, &message)?;
    println!(" [x] Sent {severity}:{message}");
    connection.close()
}
