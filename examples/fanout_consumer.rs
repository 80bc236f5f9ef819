//! Prints what the exchange `aoto_test` sends to everybody, from a queue of its own.
//!
//! Document: Python使用pika实现RabbitMQ消息收发
//! Section: 广播模式, 消费者

mod common;

use common::python;
use haypile::{Connection, ExchangeDeclare, ExchangeType};

fn main() -> Result<(), common::Failure> {
    let args = common::Usage::new("Prints what arrives at the exchange `aoto_test`.")
        .count()
        .option(
            "queue",
            "NAME",
            "the queue to bind; each name gets every message (default queue_aoto_1)",
        )
        .parse();
    let mut countdown = args.countdown();
    let queue = &args.name(args.get("queue").unwrap_or("queue_aoto_1"));

    let exchange = args.name("aoto_test");
    let connection = Connection::open(args.connection())?;
    let channel = connection.channel()?;
    // The original gives the exchange an argument that only queues know. Brokers ignore it there, so this still agrees
    // with the producer's declaration, and messages do not expire.
    channel.exchange_declare(
        ExchangeDeclare::new(&exchange, ExchangeType::Fanout).argument("x-message-ttl", 100 * 1000),
    )?;
    channel.queue_declare(queue)?;
    // Where no routing key is given, pika uses the queue's name. A fanout exchange does not look at it.
    channel.queue_bind(queue, &exchange, queue)?;

    channel.basic_consume(queue, move |channel, method, _properties, body| {
        channel.basic_ack(method.delivery_tag)?;
        println!("{}", python::repr_bytes(&body));
        if countdown.last() {
            channel.stop_consuming()?;
        }
        Ok(())
    })?;
    common::say_on_terminal(format_args!("waiting for messages in {queue}"));
    channel.start_consuming()?;
    Ok(())
}
