//! Takes tasks from the durable queue `anheng`, one at a time. Start several: the one that is free gets the next task.
//!
//! Document: Python 操作 RabbitMQ 消息队列
//! Section: python 中操作 RabbitMQ, consumer.py

mod common;

use common::python;
use haypile::{Connection, ExchangeDeclare, ExchangeType, QueueDeclare};

fn main() -> Result<(), common::Failure> {
    let args = common::Usage::new("Takes tasks from the durable queue `anheng`, one at a time.")
        .count()
        .parse();
    let mut countdown = args.countdown();

    let queue_name = args.name("anheng");
    let exchange = args.name("yanfa");
    let connection = Connection::open(args.connection())?;
    let channel = connection.channel()?;
    let queue = channel
        .queue_declare(QueueDeclare::new(&queue_name).durable(true))?
        .queue;
    channel.exchange_declare(ExchangeDeclare::new(&exchange, ExchangeType::Direct))?;
    channel.queue_bind(&queue, &exchange, "")?;

    // Fair dispatch: the broker keeps the next task back until this one is acknowledged.
    channel.basic_qos(1)?;
    println!(" [*] Waiting for messages. To exit press CTRL+C");

    channel.basic_consume(&queue_name, move |channel, method, _properties, body| {
        println!(" [x] Received {}", python::repr_bytes(&body));
        // If the program ends before this, the task goes to another consumer.
        channel.basic_ack(method.delivery_tag)?;
        if countdown.last() {
            channel.stop_consuming()?;
        }
        Ok(())
    })?;
    channel.start_consuming()?;
    Ok(())
}
