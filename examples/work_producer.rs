//! Leaves a task in the durable queue `anheng`.
//!
//! Document: Python 操作 RabbitMQ 消息队列
//! Section: python 中操作 RabbitMQ, producer.py

mod common;

use common::python;
use haypile::{
    BasicProperties, Connection, DeliveryMode, ExchangeDeclare, ExchangeType, QueueDeclare,
};

fn main() -> Result<(), common::Failure> {
    let args = common::Usage::new("Leaves a task in the durable queue `anheng`.")
        .words(
            "MESSAGE...",
            "what to send; the words are joined with spaces",
        )
        .parse();
    let message = args.words().join(" ");

    let queue_name = args.name("anheng");
    let exchange = args.name("yanfa");
    let connection = Connection::open(args.connection())?;
    let channel = connection.channel()?;
    let queue = channel
        .queue_declare(QueueDeclare::new(&queue_name).durable(true))?
        .queue;
    // As in the original, the exchange is declared and bound but the message does not go through it.
    channel.exchange_declare(ExchangeDeclare::new(&exchange, ExchangeType::Direct))?;
    channel.queue_bind(&queue, &exchange, "")?;
    channel.basic_qos(1)?;

    // The durable queue survives a restart of the broker, and so does a persistent message in it.
    let persistent = BasicProperties::new().delivery_mode(DeliveryMode::Persistent);
    channel.basic_publish_with("", &queue_name, &message, persistent)?;
    println!("[x] Sent {}", python::repr_str(&message));
    connection.close()?;
    Ok(())
}
