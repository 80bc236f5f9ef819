//! Leaves five messages in the queue `my_queue`. Queue and messages survive a restart of the broker.
//!
//! Document: Python怎样操作消息队列?pika连接RabbitMQ
//! Section: 解决方案, 生产者(发布消息)示例

mod common;

use haypile::{BasicProperties, Connection, DeliveryMode, QueueDeclare};

fn main() -> Result<(), common::Failure> {
    let args =
        common::Usage::new("Leaves five persistent messages in the durable queue `my_queue`.")
            .option("interval", "SECONDS", "time after each message (default 1)")
            .parse();
    let interval = args.seconds("interval", 1.0);

    let queue_name = args.name("my_queue");
    let connection = Connection::open(args.connection())?;
    let channel = connection.channel()?;
    channel.queue_declare(QueueDeclare::new(&queue_name).durable(true))?;

    let persistent = BasicProperties::new().delivery_mode(DeliveryMode::Persistent);
    for number in 0..5 {
        let message = format!("Hello World! Message number {number}");
        channel.basic_publish_with("", &queue_name, &message, &persistent)?;
        println!(" [x] Sent '{message}'");
        std::thread::sleep(interval);
    }
    connection.close()?;
    Ok(())
}
