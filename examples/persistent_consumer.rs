//! Works through the queue `my_queue`, a second for each dot in a message, and acknowledges when the work is done.
//!
//! Document: Python怎样操作消息队列?pika连接RabbitMQ
//! Section: 解决方案, 消费者(消费消息)示例

mod common;

use std::time::Duration;

use haypile::{Connection, QueueDeclare};

fn main() -> Result<(), common::Failure> {
    let args = common::Usage::new("Works through the durable queue `my_queue`.")
        .count()
        .parse();
    let mut countdown = args.countdown();

    let queue_name = args.name("my_queue");
    let connection = Connection::open(args.connection())?;
    let channel = connection.channel()?;
    channel.queue_declare(QueueDeclare::new(&queue_name).durable(true))?;
    println!(" [*] Waiting for messages. To exit press CTRL+C");

    channel.basic_qos(1)?;
    channel.basic_consume(&queue_name, move |channel, method, _properties, body| {
        println!(" [x] Received '{}'", String::from_utf8_lossy(&body));
        // However long this takes, heartbeats go on.
        let dots = body.iter().filter(|&&byte| byte == b'.').count();
        std::thread::sleep(Duration::from_secs(dots as u64));
        // Until here the broker keeps the message, and gives it to another consumer if this program ends.
        channel.basic_ack(method.delivery_tag)?;
        println!(" [x] Done");
        if countdown.last() {
            channel.stop_consuming()?;
        }
        Ok(())
    })?;
    channel.start_consuming()?;
    Ok(())
}
