//! Sends a line with a topic to the exchange `topic_logs`.
//!
//! Mirrors: RabbitMQ tutorial 5, "Topics", `emit_log_topic.py`.
//! Run: `cargo run --example tutorial_5_emit_log_topic -- kern.critical A critical kernel error`

use haypile::{Connection, ExchangeDeclare, ExchangeType};

fn main() -> haypile::Result<()> {
    let url = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".into());
    let connection = Connection::open(url)?;
    let channel = connection.channel()?;
    channel.exchange_declare(ExchangeDeclare::new("topic_logs", ExchangeType::Topic))?;

    let mut words = std::env::args().skip(1);
    let topic = words.next().unwrap_or_else(|| "anonymous.info".to_owned());
    let words: Vec<String> = words.collect();
    let message = match words.is_empty() {
        true => "Hello World!".to_owned(),
        false => words.join(" "),
    };
    channel.basic_publish("topic_logs", &topic, &message)?;
    println!(" [x] Sent {topic}:{message}");
    connection.close()
}
