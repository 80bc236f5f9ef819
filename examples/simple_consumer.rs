//! Takes messages from the durable queue `hello1` and acknowledges each when it is done with.
//!
//! Document: RabbitMQ (categories: Python)
//! Section: 简单模式, 消费者

mod common;

use common::python;
use haypile::{Connection, QueueDeclare};

fn main() -> Result<(), common::Failure> {
    let args = common::Usage::new("Takes messages from the durable queue `hello1`.")
        .count()
        .parse();
    let mut countdown = args.countdown();

    let queue_name = args.name("hello1");
    let connection = Connection::open(args.connection())?;
    let channel = connection.channel()?;
    // Declared here too, so that the consumer may start first.
    channel.queue_declare(QueueDeclare::new(&queue_name).durable(true))?;
    // One message at a time: the one that is free gets the next.
    channel.basic_qos(1)?;
    channel.basic_consume(&queue_name, move |channel, method, _properties, body| {
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
