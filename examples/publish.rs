//! Sends a message to everybody who listens to the exchange `logs` right now.
//!
//! Document: pika消息中间件模块
//! Section: 3.1 publish.py

mod common;

use haypile::{Connection, ExchangeDeclare, ExchangeType};

fn main() -> Result<(), common::Failure> {
    let args =
        common::Usage::new("Sends a message to all subscribers of the exchange `logs`.").parse();

    let exchange = args.name("logs");
    let connection = Connection::open(args.connection())?;
    let channel = connection.channel()?;
    channel.exchange_declare(ExchangeDeclare::new(&exchange, ExchangeType::Fanout))?;
    channel.basic_publish(&exchange, "", "i am jabbok")?;
    // The original closes the channel only. The connection closes when its last handle is dropped.
    channel.close()?;
    Ok(())
}
