//! What becomes of a message that is not acknowledged: put back, thrown away, or kept as a dead letter. `basic_reject` refuses one,
//! `basic_nack` one or all up to it.
//!
//! Document: Python怎样操作消息队列?pika连接RabbitMQ
//! Section: 消息的持久化与确认机制, which names basic_nack and basic_reject
//! Run: `cargo run --example nack_and_reject`

use std::time::Duration;

use haypile::{BasicGet, BasicNack, BasicReject, Connection, Consume, FieldValue, QueueDeclare};

fn main() -> haypile::Result<()> {
    let url = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".into());
    let connection = Connection::open(url)?;
    let channel = connection.channel()?;
    let dead = "refused.dead";
    channel.queue_declare(QueueDeclare::new(dead).durable(true))?;
    channel.queue_declare(
        QueueDeclare::new("refused")
            .durable(true)
            .argument("x-dead-letter-exchange", "")
            .argument("x-dead-letter-routing-key", dead),
    )?;
    for queue in ["refused", dead] {
        channel.queue_purge(queue)?;
    }
    for text in ["again", "bad", "worse", "worst", "good"] {
        channel.basic_publish("", "refused", text)?;
    }

    let soon = Duration::from_millis(500);
    for message in channel.consume(Consume::new("refused").idle_exit(soon))? {
        let (method, _properties, body) = message?;
        let tag = method.delivery_tag;
        match &body[..] {
            // requeue is the default, in pika as well: without a limit such as this one, that is an endless loop.
            b"again" if !method.redelivered => {
                println!("again: put back");
                channel.basic_nack(tag)?;
            }
            b"bad" => {
                println!("bad: rejected");
                channel.basic_reject(BasicReject::new(tag).requeue(false))?;
            }
            // This one and all before it that have no ack or nack yet: "worse" too.
            b"worst" => {
                println!("worse and worst: refused");
                channel.basic_nack(BasicNack::new(tag).multiple(true).requeue(false))?;
            }
            b"worse" => {}
            text => {
                let text = String::from_utf8_lossy(text);
                println!("{text}: acknowledged");
                channel.basic_ack(tag)?;
            }
        }
    }
    channel.cancel()?;

    // The header x-death has how a message died, and how often.
    while let Some((_, properties, body)) = channel.basic_get(BasicGet::new(dead).auto_ack(true))? {
        let death = properties
            .get_header("x-death")
            .and_then(FieldValue::as_array)
            .and_then(|deaths| deaths.first());
        let reason = death.and_then(|death| death.get("reason")?.as_str());
        let reason = reason.unwrap_or("for no reason");
        println!("dead letter: {}, {reason}", String::from_utf8_lossy(&body));
    }
    connection.close()
}
