//! Sends a message with headers to the exchange `my_headers`, which routes by them instead of by a routing key.
//!
//! Document: Python怎样操作消息队列?pika连接RabbitMQ
//! Section: 为什么选择RabbitMQ作为消息队列, whose text names headers exchanges; it has no program

mod common;

use common::python;
use haypile::{BasicProperties, Connection, DeliveryMode, ExchangeDeclare, ExchangeType};

fn main() -> Result<(), common::Failure> {
    let args = common::Usage::new("Sends a message with headers to the exchange `my_headers`.")
        .words(
            "KEY=VALUE...",
            "the headers (default: format=pdf type=report)",
        )
        .parse();
    let headers = args.pairs(&[("format", "pdf"), ("type", "report")]);

    let exchange = args.name("my_headers");
    let connection = Connection::open(args.connection())?;
    let channel = connection.channel()?;
    channel
        .exchange_declare(ExchangeDeclare::new(&exchange, ExchangeType::Headers).durable(true))?;
    let message = "Hello World!";
    let mut properties = BasicProperties::new().delivery_mode(DeliveryMode::Persistent);
    for (key, value) in headers {
        properties = properties.header(key, value);
    }
    channel.basic_publish_with(&exchange, "", message, properties)?;
    println!("Sent {}", python::repr_str(message));
    connection.close()?;
    Ok(())
}
