use std::time::Duration;

use haypile::{BasicProperties, BasicPublish, DeliveryMode, QueueDeclare, Supervisor};

fn main() -> haypile::Result<()> {
    let url = std::env::var("AMQP_URL").unwrap_or("amqp://guest:guest@localhost:5672".into());
    let mut publisher = Supervisor::new(url).publisher(1000, |channel| {
        channel.queue_declare(QueueDeclare::new("orders").durable(true))?;
        Ok(())
    })?;
    let persistent = BasicProperties::new().delivery_mode(DeliveryMode::Persistent);
    let order = BasicPublish::new().mandatory(true).properties(persistent);
    for number in 1..=10_000 {
        publisher.publish_with("", "orders", format!("order {number}"), order.clone())?;
    }
    publisher.wait_for_confirms(Duration::from_secs(60))?;
    println!(" [x] the broker has them all; sent again: {}", publisher.republished());
    Ok(())
}
