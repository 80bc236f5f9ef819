//! Prints what is sent to the exchange `log2` about anything that begins with `europe`.
//!
//! Document: RabbitMQ (categories: Python)
//! Section: 交换机模式, 通配符, 消费者

mod common;

use common::python;
use haypile::{Connection, ExchangeDeclare, ExchangeType, QueueDeclare};

fn main() -> Result<(), common::Failure> {
    let args =
        common::Usage::new("Prints what is sent to the exchange `log2` with a matching topic.")
            .count()
            .words(
                "PATTERN...",
                "* is one word, # any number of words (default: europe.#)",
            )
            .parse();
    let mut countdown = args.countdown();
    let patterns = args.words_or(&["europe.#"]);

    let exchange = args.name("log2");
    let connection = Connection::open(args.connection())?;
    let channel = connection.channel()?;
    channel.exchange_declare(ExchangeDeclare::new(&exchange, ExchangeType::Topic).durable(true))?;
    // Exclusive wins over durable: the queue goes with this connection.
    let queue = channel
        .queue_declare(QueueDeclare::new("").durable(true).exclusive(true))?
        .queue;
    for pattern in patterns {
        channel.queue_bind(&queue, &exchange, pattern)?;
    }

    channel.basic_consume(&queue, move |channel, method, _properties, body| {
        println!(
            "{}:{}",
            python::repr_str(&method.routing_key),
            python::repr_bytes(&body)
        );
        channel.basic_ack(method.delivery_tag)?;
        if countdown.last() {
            channel.stop_consuming()?;
        }
        Ok(())
    })?;
    println!("Waiting for messages. To exit press CTRL+C");
    channel.start_consuming()?;
    Ok(())
}
