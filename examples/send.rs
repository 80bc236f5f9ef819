//! Sends "Hello World" to the queue `hello`: the shortest program that sends.
//!
//! Document: pika消息中间件模块
//! Section: 2.1 send.py; with --durable also 2.6 持久化队列

mod common;

use haypile::{BasicProperties, Connection, DeliveryMode, QueueDeclare};

fn main() -> Result<(), common::Failure> {
    let args = common::Usage::new("Sends \"Hello World\" to the queue `hello`.")
        .flag(
            "durable",
            "let queue and message survive a restart of the broker (give it to receive too)",
        )
        .parse();
    let durable = args.given("durable");

    let queue_name = args.name("hello");
    let connection = Connection::open(args.connection())?;
    let channel = connection.channel()?;

    // A message for a queue that does not exist is dropped, so the sender makes sure that it does.
    channel.queue_declare(QueueDeclare::new(&queue_name).durable(durable))?;

    // The exchange "" delivers to the queue that the routing key names.
    if durable {
        let persistent = BasicProperties::new().delivery_mode(DeliveryMode::Persistent);
        channel.basic_publish_with("", &queue_name, "Hello World", persistent)?;
    } else {
        channel.basic_publish("", &queue_name, "Hello World")?;
    }

    // Closing waits until everything is sent.
    connection.close()?;
    Ok(())
}
