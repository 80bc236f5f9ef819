//! Prints what is sent to the exchange `my_headers` with the right headers.
//!
//! Document: Python怎样操作消息队列?pika连接RabbitMQ
//! Section: 为什么选择RabbitMQ作为消息队列, whose text names headers exchanges; it has no program

mod common;

use common::python;
use haypile::{Connection, ExchangeDeclare, ExchangeType, FieldTable, FieldValue, QueueDeclare};

fn main() -> Result<(), common::Failure> {
    let args = common::Usage::new(
        "Prints what is sent to the exchange `my_headers` with the right headers.",
    )
    .count()
    .option(
        "match",
        "all|any",
        "whether all of the headers must agree, or one is enough (default all)",
    )
    .words(
        "KEY=VALUE...",
        "the headers (default: format=pdf type=report)",
    )
    .parse();
    let mut countdown = args.countdown();

    let exchange = args.name("my_headers");
    let connection = Connection::open(args.connection())?;
    let channel = connection.channel()?;
    channel
        .exchange_declare(ExchangeDeclare::new(&exchange, ExchangeType::Headers).durable(true))?;
    let queue = channel
        .queue_declare(QueueDeclare::new("").durable(true).exclusive(true))?
        .queue;

    // The binding's arguments are what to look for, x-match is how.
    let mut wanted = FieldTable::new();
    wanted.insert("x-match", args.get("match").unwrap_or("all"));
    for (key, value) in args.pairs(&[("format", "pdf"), ("type", "report")]) {
        wanted.insert(key, value);
    }
    channel.queue_bind_with(&queue, &exchange, "", wanted)?;

    channel.basic_consume(&queue, move |channel, method, properties, body| {
        let headers = properties.headers.unwrap_or_default();
        let format = headers
            .get("format")
            .and_then(FieldValue::as_str)
            .unwrap_or_default();
        println!("{}:{}", python::repr_str(format), python::repr_bytes(&body));
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
