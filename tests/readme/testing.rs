use std::time::Duration;

use haypile::testing::Broker;
use haypile::{BasicNack, Channel, ConnectionParameters, QueueDeclare, Result};

/// What is to be tested: tasks that cannot be read go to the queue `failed`.
fn set_up(channel: &Channel) -> Result<()> {
    channel.queue_declare("failed")?;
    channel.queue_declare(
        QueueDeclare::new("tasks")
            .argument("x-dead-letter-exchange", "")
            .argument("x-dead-letter-routing-key", "failed"),
    )?;
    channel.basic_consume(
        "tasks",
        |channel, method, _properties, body| match std::str::from_utf8(&body)
            .ok()
            .and_then(|text| text.parse::<u32>().ok())
        {
            Some(_) => channel.basic_ack(method.delivery_tag),
            None => channel.basic_nack(BasicNack::new(method.delivery_tag).requeue(false)),
        },
    )?;
    Ok(())
}

#[test]
fn what_cannot_be_read_is_kept() -> Result<()> {
    let broker = Broker::start()?; // takes a millisecond, and needs nothing installed
    let connection = broker.connect(ConnectionParameters::default())?;
    let channel = connection.channel()?;
    set_up(&channel)?;
    channel.basic_publish("", "tasks", "12")?;
    channel.basic_publish("", "tasks", "twelve")?;
    while broker.queue("failed").unwrap().messages.is_empty() {
        connection.process_data_events(Duration::from_millis(10))?;
    }
    assert_eq!(broker.queue("failed").unwrap().bodies(), ["twelve"]);

    broker.connections()[0].cut(); // and what a real broker does only on a bad day
    assert!(connection
        .process_data_events(Duration::from_secs(5))
        .is_err());
    Ok(())
}
