//! Prints what is sent to the exchange `log1` with the keywords `info`, `warning` and `error`.
//!
//! Document: RabbitMQ (categories: Python)
//! Section: 交换机模式, 关键字, 消费者

mod common;

use common::python;
use haypile::{Connection, ExchangeDeclare, ExchangeType, QueueDeclare};

fn main() -> Result<(), common::Failure> {
    let args =
        common::Usage::new("Prints what is sent to the exchange `log1` with certain keywords.")
            .count()
            .words("KEYWORD...", "the keywords (default: info warning error)")
            .parse();
    let mut countdown = args.countdown();
    let keywords = args.words_or(&["info", "warning", "error"]);

    let exchange = args.name("log1");
    let connection = Connection::open(args.connection())?;
    let channel = connection.channel()?;
    channel
        .exchange_declare(ExchangeDeclare::new(&exchange, ExchangeType::Direct).durable(true))?;
    // Exclusive wins over durable: the queue goes with this connection.
    let queue = channel
        .queue_declare(QueueDeclare::new("").durable(true).exclusive(true))?
        .queue;
    for keyword in keywords {
        channel.queue_bind(&queue, &exchange, keyword)?;
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
