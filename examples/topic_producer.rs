//! Sends a message about `europe.weather` to the exchange `log2`, which passes it to the queues whose pattern matches.
//!
//! Document: RabbitMQ (categories: Python)
//! Section: 交换机模式, 通配符, 生产者

mod common;

use common::python;
use haypile::{BasicProperties, Connection, DeliveryMode, ExchangeDeclare, ExchangeType};

fn main() -> Result<(), common::Failure> {
    let args = common::Usage::new("Sends a message to the exchange `log2` with a topic.")
        .option(
            "key",
            "TOPIC",
            "the routing key: words with dots between them (default europe.weather)",
        )
        .parse();
    let key = args.get("key").unwrap_or("europe.weather");

    let exchange = args.name("log2");
    let connection = Connection::open(args.connection())?;
    let channel = connection.channel()?;
    channel.exchange_declare(ExchangeDeclare::new(&exchange, ExchangeType::Topic).durable(true))?;
    let message = "Hello World!";
    let persistent = BasicProperties::new().delivery_mode(DeliveryMode::Persistent);
    channel.basic_publish_with(&exchange, key, message, persistent)?;
    println!("Sent {}", python::repr_str(message));
    connection.close()?;
    Ok(())
}
