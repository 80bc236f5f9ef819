//! Sends ten JSON messages to every queue that is bound to the exchange `aoto_test`.
//!
//! Document: Python使用pika实现RabbitMQ消息收发
//! Section: 广播模式, 生产者

mod common;

use common::python;
use haypile::{
    BasicProperties, Connection, ConnectionParameters, DeliveryMode, ExchangeDeclare, ExchangeType,
};

fn main() -> Result<(), common::Failure> {
    let args =
        common::Usage::new("Sends ten messages to every queue bound to the exchange `aoto_test`.")
            .parse();
    let exchange = args.name("aoto_test");
    for i in 0..10 {
        let message = format!(
            r#"{{"id": "10000{i}", "amount": {}, "name": "aoto", "createtime": "{}"}}"#,
            100 * i,
            python::now_with_microseconds()
        );
        send_to_all(args.connection(), &exchange, &message)?;
    }
    Ok(())
}

/// Opens a connection for this one message, as the original does. A program with more to send keeps its connection.
fn send_to_all(
    parameters: ConnectionParameters,
    exchange: &str,
    message: &str,
) -> haypile::Result<()> {
    let connection = Connection::open(parameters)?;
    let channel = connection.channel()?;
    channel.exchange_declare(ExchangeDeclare::new(exchange, ExchangeType::Fanout))?;
    // A fanout exchange does not look at the routing key.
    let transient = BasicProperties::new().delivery_mode(DeliveryMode::Transient);
    channel.basic_publish_with(exchange, "", message, transient)?;
    connection.close()
}
