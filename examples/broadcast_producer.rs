//! Sends a message to every queue that is bound to the durable exchange `hello2`.
//!
//! Document: RabbitMQ (categories: Python)
//! Section: 交换机模式, 订阅模式, 生产者

mod common;

use common::python;
use haypile::{BasicProperties, Connection, DeliveryMode, ExchangeDeclare, ExchangeType};

fn main() -> Result<(), common::Failure> {
    let args = common::Usage::new("Sends a message to every queue bound to the exchange `hello2`.")
        .parse();

    let exchange = args.name("hello2");
    let connection = Connection::open(args.connection())?;
    let channel = connection.channel()?;
    channel
        .exchange_declare(ExchangeDeclare::new(&exchange, ExchangeType::Fanout).durable(true))?;
    let message = "Hello World!";
    let persistent = BasicProperties::new().delivery_mode(DeliveryMode::Persistent);
    channel.basic_publish_with(&exchange, "", message, persistent)?;
    println!("Sent {}", python::repr_str(message));
    connection.close()?;
    Ok(())
}
