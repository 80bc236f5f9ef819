//! What survives a restart of the broker: a persistent message in a durable queue, and nothing else.
//!
//! Document: Python怎样操作消息队列?pika连接RabbitMQ
//! Section: 消息的持久化与确认机制 (队列持久化, 消息持久化); also pika消息中间件模块, 2.6 持久化队列
//! Run: `cargo run --example persistence -- before`, restart the broker (`rabbitmqctl stop_app`, `rabbitmqctl start_app`), and
//! `cargo run --example persistence -- after`

use haypile::{BasicGet, BasicProperties, Connection, DeliveryMode, QueueDeclare};

/// The queue that survives. The other one is the connection's own, and goes with it.
const DURABLE: &str = "persistence.durable";

fn before(connection: &Connection) -> haypile::Result<()> {
    let channel = connection.channel()?;
    channel.queue_declare(QueueDeclare::new(DURABLE).durable(true))?;
    channel.queue_purge(DURABLE)?;
    let exclusive = QueueDeclare::new("persistence.exclusive").exclusive(true);
    channel.queue_declare(exclusive)?;

    // The confirm of a persistent message in a durable queue means that it is on disk.
    channel.confirm_delivery()?;
    let persistent = BasicProperties::new().delivery_mode(DeliveryMode::Persistent);
    let transient = BasicProperties::new().delivery_mode(DeliveryMode::Transient);
    channel.basic_publish_with("", DURABLE, "persistent", &persistent)?;
    channel.basic_publish_with("", DURABLE, "transient", &transient)?;
    channel.basic_publish_with("", "persistence.exclusive", "persistent", &persistent)?;
    println!("sent; now restart the broker");
    Ok(())
}

fn after(connection: &Connection) -> haypile::Result<()> {
    for queue in [DURABLE, "persistence.exclusive"] {
        if connection.queue_exists(queue)?.is_none() {
            println!("{queue}: gone");
            continue;
        }
        let channel = connection.channel()?;
        let mut texts = Vec::new();
        while let Some((_, _, body)) = channel.basic_get(BasicGet::new(queue).auto_ack(true))? {
            texts.push(String::from_utf8_lossy(&body).into_owned());
        }
        println!("{queue}: {texts:?}");
    }
    connection.channel()?.queue_delete(DURABLE)?;
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".into());
    let connection = Connection::open(url)?;
    match std::env::args().nth(1).as_deref() {
        Some("before") => before(&connection)?,
        Some("after") => after(&connection)?,
        _ => return Err("usage: persistence before|after".into()),
    }
    connection.close()?;
    Ok(())
}
