use haypile::{BasicProperties, Connection, DeliveryMode, QueueDeclare};

fn main() -> haypile::Result<()> {
    let url = std::env::var("AMQP_URL").unwrap_or("amqp://guest:guest@localhost:5672".into());
    let connection = Connection::open(url)?;
    let channel = connection.channel()?;
    channel.queue_declare(QueueDeclare::new("task_queue").durable(true))?;

    // 生产者。开启发布确认后，每次发布都等到 RabbitMQ 收妥才返回。
    channel.confirm_delivery()?;
    let persistent = BasicProperties::new().delivery_mode(DeliveryMode::Persistent);
    for task in ["dig", "plant", "water"] {
        channel.basic_publish_with("", "task_queue", task, &persistent)?;
        println!(" [x] sent {task}");
    }

    // 消费者，通常是另一个程序。
    channel.basic_qos(1)?;
    channel.basic_consume("task_queue", |channel, method, _properties, body| {
        let task = String::from_utf8_lossy(&body);
        println!(" [x] received {task}");
        channel.basic_ack(method.delivery_tag)?;
        if task == "water" {
            channel.stop_consuming()?;
        }
        haypile::Result::Ok(())
    })?;
    let ended = channel.start_consuming()?;
    println!(" [*] {ended:?}");
    connection.close()
}
