//! Prints what arrives in the queue `hello`: the shortest program that receives.
//!
//! Document: pika消息中间件模块
//! Section: 2.2 receive.py; with --durable also 2.6 持久化队列

mod common;

use common::python;
use haypile::{BasicConsume, Connection, QueueDeclare};

fn main() -> Result<(), common::Failure> {
    let args = common::Usage::new("Prints what arrives in the queue `hello`.")
        .count()
        .flag(
            "durable",
            "let the queue survive a restart of the broker (give it to send too)",
        )
        .parse();
    let mut countdown = args.countdown();

    let queue_name = args.name("hello");
    let connection = Connection::open(args.connection())?;
    let channel = connection.channel()?;
    channel.queue_declare(QueueDeclare::new(&queue_name).durable(args.given("durable")))?;

    // With auto_ack the broker forgets a message as soon as it is sent here, whatever becomes of it.
    channel.basic_consume(
        BasicConsume::new(&queue_name).auto_ack(true),
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
