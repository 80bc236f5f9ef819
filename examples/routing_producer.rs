//! Sends a message with the keyword `info` to the exchange `log1`, which passes it to the queues that
//! are bound with that keyword.
//!
//! Document: RabbitMQ (categories: Python)
//! Section: 交换机模式, 关键字, 生产者

mod common;

use common::python;
use haypile::{BasicProperties, Connection, DeliveryMode, ExchangeDeclare, ExchangeType};

fn main() -> Result<(), common::Failure> {
    let args = common::Usage::new("Sends a message to the exchange `log1` with a keyword.")
        .option("key", "KEYWORD", "the routing key (default info)")
        .parse();
    let key = args.get("key").unwrap_or("info");

    let exchange = args.name("log1");
    let connection = Connection::open(args.connection())?;
    let channel = connection.channel()?;
    channel
        .exchange_declare(ExchangeDeclare::new(&exchange, ExchangeType::Direct).durable(true))?;
    let message = "Hello World!";
    let persistent = BasicProperties::new().delivery_mode(DeliveryMode::Persistent);
    channel.basic_publish_with(&exchange, key, message, persistent)?;
    println!("Sent {}", python::repr_str(message));
    connection.close()?;
    Ok(())
}
