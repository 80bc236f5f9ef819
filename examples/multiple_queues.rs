//! One channel, one thread, three queues: each has its callback. A consumer may be cancelled by itself, and the others go on.
//!
//! Mirrors: pika, several calls of `basic_consume` before one `start_consuming`.
//! Run: `cargo run --example multiple_queues`. It sends itself some messages, and ends at a message in `control`.

use haypile::{Connection, QueueDeclare};

fn main() -> haypile::Result<()> {
    let url = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".into());
    let channel = Connection::open(url)?.channel()?;
    for queue in ["news", "mail", "control"] {
        channel.queue_declare(QueueDeclare::new(queue).durable(true))?;
    }

    let news = channel.basic_consume("news", |channel, method, _properties, body| {
        println!("news: {}", String::from_utf8_lossy(&body));
        channel.basic_ack(method.delivery_tag)
    })?;
    channel.basic_consume("mail", |channel, method, _properties, body| {
        println!("mail: {}", String::from_utf8_lossy(&body));
        channel.basic_ack(method.delivery_tag)
    })?;
    // From inside a callback everything can be called, so it can also publish and cancel.
    channel.basic_consume("control", move |channel, method, _properties, body| {
        println!("control: {}", String::from_utf8_lossy(&body));
        channel.basic_ack(method.delivery_tag)?;
        match &body[..] {
            b"no more news" => {
                channel.basic_cancel(&news)?;
                channel.basic_publish("", "mail", "the news are cancelled")?;
                channel.basic_publish("", "control", "stop")
            }
            b"stop" => channel.stop_consuming(),
            _ => Ok(()),
        }
    })?;

    channel.basic_publish("", "news", "it rains")?;
    channel.basic_publish("", "mail", "hello")?;
    channel.basic_publish("", "control", "no more news")?;
    let ended = channel.start_consuming()?;
    println!("ended: {ended:?}");
    Ok(())
}
