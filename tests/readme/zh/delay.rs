use haypile::{Connection, QueueDeclare};

fn main() -> haypile::Result<()> {
    let url = std::env::var("AMQP_URL").unwrap_or("amqp://guest:guest@localhost:5672".into());
    let channel = Connection::open(url)?.channel()?;
    channel.queue_declare(QueueDeclare::new("task_queue").durable(true))?;

    // 没有消费者的队列：消息满 2 秒后过期，转入 task_queue。
    channel.queue_declare(
        QueueDeclare::new("task_queue.2s")
            .durable(true)
            .argument("x-message-ttl", 2_000)
            .argument("x-dead-letter-exchange", "")
            .argument("x-dead-letter-routing-key", "task_queue"),
    )?;
    channel.basic_publish("", "task_queue.2s", "两秒之后")?;

    for message in channel.consume("task_queue")?.take(1) {
        let (method, _properties, body) = message?;
        println!(" [x] {}", String::from_utf8_lossy(&body));
        channel.basic_ack(method.delivery_tag)?;
    }
    Ok(())
}
