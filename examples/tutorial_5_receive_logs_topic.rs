//! Prints the lines whose topic matches a pattern: `*` stands for one word, `#` for any number of words.
//!
//! Mirrors: RabbitMQ tutorial 5, "Topics", `receive_logs_topic.py`.
//! Run: `cargo run --example tutorial_5_receive_logs_topic -- 'kern.*' '*.critical'`; Ctrl-C ends it.

use haypile::{BasicConsume, Connection, ExchangeDeclare, ExchangeType, QueueDeclare};

fn main() -> haypile::Result<()> {
    let url = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".into());
    let channel = Connection::open(url)?.channel()?;
    channel.exchange_declare(ExchangeDeclare::new("topic_logs", ExchangeType::Topic))?;
    let queue = channel
        .queue_declare(QueueDeclare::new("").exclusive(true))?
        .queue;

    let keys: Vec<String> = std::env::args().skip(1).collect();
    if keys.is_empty() {
        eprintln!("usage: tutorial_5_receive_logs_topic PATTERN...");
        std::process::exit(1);
    }
    for key in keys {
        channel.queue_bind(&queue, "topic_logs", key)?;
    }
    println!(" [*] Waiting for logs. To exit press CTRL+C");

    channel.basic_consume(
        BasicConsume::new(&queue).auto_ack(true),
        |_channel, method, _properties, body| {
            println!(
                " [x] {}:{}",
                method.routing_key,
                String::from_utf8_lossy(&body)
            );
        },
    )?;
    channel.start_consuming()?;
    Ok(())
}
