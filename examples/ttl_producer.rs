//! Sends a JSON message to the queue `test` every 1.5 seconds. What no consumer fetches is dropped after 100 seconds.
//!
//! Document: Python使用pika实现RabbitMQ消息收发
//! Section: Queue模式, 生产者

mod common;

use common::python;
use haypile::{Connection, QueueDeclare};

fn main() -> Result<(), common::Failure> {
    let args = common::Usage::new("Sends a JSON message to the queue `test` every 1.5 seconds.")
        .count()
        .option("interval", "SECONDS", "time between messages (default 1.5)")
        .option(
            "auto-delete",
            "yes|no",
            "whether the queue goes with its last consumer (default no)",
        )
        .parse();
    let interval = args.seconds("interval", 1.5);
    let mut countdown = args.countdown();

    // A heartbeat of 0 means none: neither side notices when the other is gone.
    let queue_name = args.name("test");
    let connection = Connection::open(args.connection().heartbeat(0))?;

    // x-message-ttl is in milliseconds.
    let queue = QueueDeclare::new(&queue_name)
        .auto_delete(args.yes("auto-delete", false))
        .argument("x-message-ttl", 100 * 1000);
    let channel = common::declare_or_use(&connection, &queue_name, queue)?;

    loop {
        let message = format!(r#"{{"msg": "hello world {}"}}"#, python::now());
        channel.basic_publish("", &queue_name, &message)?;
        println!(" [x] Sent {message}");
        if countdown.last() {
            break;
        }
        std::thread::sleep(interval);
    }
    connection.close()?;
    Ok(())
}
