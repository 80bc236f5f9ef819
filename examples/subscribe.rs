//! Prints what is sent to the exchange `logs` while this runs.
//!
//! Document: pika消息中间件模块
//! Section: 3.2 subscribe.py

mod common;

use common::python;
use haypile::{BasicConsume, Connection, ExchangeDeclare, ExchangeType, QueueDeclare};

fn main() -> Result<(), common::Failure> {
    let args = common::Usage::new("Prints what is sent to the exchange `logs` while this runs.")
        .count()
        .parse();
    let mut countdown = args.countdown();

    let exchange = args.name("logs");
    let connection = Connection::open(args.connection())?;
    let channel = connection.channel()?;
    channel.exchange_declare(ExchangeDeclare::new(&exchange, ExchangeType::Fanout))?;

    // With an empty name the broker invents one. An exclusive queue is gone when its connection is.
    let queue = channel
        .queue_declare(QueueDeclare::new("").exclusive(true))?
        .queue;
    channel.queue_bind(&queue, &exchange, &queue)?;

    channel.basic_consume(
        BasicConsume::new(&queue).auto_ack(true),
        move |channel, _method, _properties, body| {
            println!("Received {}", python::repr_bytes(&body));
            if countdown.last() {
                channel.stop_consuming()?;
            }
            Ok(())
        },
    )?;
    println!("waiting for maeeage"); // spelt as in the original
    channel.start_consuming()?;
    Ok(())
}
