//! Prints what arrives in the queue `test`. The queue goes when its last consumer goes.
//!
//! Document: Python使用pika实现RabbitMQ消息收发
//! Section: Queue模式, 消费者

mod common;

use haypile::{BasicConsume, Connection, QueueDeclare};

fn main() -> Result<(), common::Failure> {
    let args = common::Usage::new("Prints what arrives in the queue `test`.")
        .count()
        .option(
            "auto-delete",
            "yes|no",
            "whether the queue goes with its last consumer (default yes)",
        )
        .parse();
    let mut countdown = args.countdown();

    let queue_name = args.name("test");
    let connection = Connection::open(args.connection().heartbeat(0))?;

    // The producer declares the same queue without auto_delete. The second of the two uses the queue as it is.
    let queue = QueueDeclare::new(&queue_name)
        .auto_delete(args.yes("auto-delete", true))
        .argument("x-message-ttl", 100 * 1000);
    let channel = common::declare_or_use(&connection, &queue_name, queue)?;

    channel.basic_consume(
        BasicConsume::new(&queue_name).auto_ack(true),
        move |channel, _method, _properties, body| {
            println!("Receive: {}", String::from_utf8_lossy(&body));
            if countdown.last() {
                channel.stop_consuming()?;
            }
            Ok(())
        },
    )?;
    common::say_on_terminal(format_args!("waiting for messages in {queue_name}"));
    channel.start_consuming()?;
    Ok(())
}
