//! The right column of the README's table, in an order in which it compiles.

use std::time::Duration;

use haypile::*;

#[allow(unused)]
pub(crate) fn right_column(
    body: &str,
    tag: u64,
    callback: fn(&Channel, Deliver, BasicProperties, Vec<u8>),
) -> Result<()> {
    let connection = Connection::open(ConnectionParameters::new("h").port(5672))?;
    let connection = Connection::open("amqp://user:password@host:5672/%2f")?;
    let channel = connection.channel()?;
    channel.queue_declare("q")?;
    channel.queue_declare(QueueDeclare::new("q").durable(true))?;
    let queue = channel
        .queue_declare(QueueDeclare::new("").exclusive(true))?
        .queue;
    QueueDeclare::new("q").argument("x-message-ttl", 60_000);
    channel.exchange_declare(ExchangeDeclare::new("e", ExchangeType::Topic))?;
    channel.queue_bind("q", "e", "q")?;
    channel.basic_publish("", "q", body)?;
    channel.basic_publish_with("", "q", body, BasicProperties::new().delivery_mode(2))?;
    channel.basic_publish_with("", "q", body, BasicPublish::new().mandatory(true))?;
    channel.basic_consume("q", callback)?;
    channel.basic_consume(BasicConsume::new("q").auto_ack(true), callback)?;
    channel.basic_qos(1)?;
    channel.basic_ack(tag)?;
    channel.basic_ack(BasicAck::new(tag).multiple(true))?;
    channel.basic_nack(BasicNack::new(tag).requeue(false))?;
    channel.basic_reject(BasicReject::new(tag).requeue(false))?;
    if let Some((method, properties, body)) = channel.basic_get("q")? {}
    for message in channel.consume("q")? {
        let (method, properties, body) = message?;
    }
    for message in channel
        .consume("q")?
        .inactivity_timeout(Duration::from_secs(1))
    {
        match message {
            Ok(Some((method, properties, body))) => {}
            Ok(None) => {}
            Err(error) => return Err(error),
        }
    }
    for message in channel.consume(Consume::new("q").idle_exit(Duration::from_secs(1)))? {}
    connection.process_data_events(Duration::ZERO)?;
    connection.process_data_events(Duration::from_secs(1))?;
    connection.process_data_events(None)?;
    connection.sleep(Duration::from_secs(1))?;
    connection.call_later(Duration::from_secs(5), || println!("five seconds"))?;
    connection.add_callback_threadsafe(|| println!("on the thread of the callbacks"))?;
    let properties = BasicProperties::new();
    properties.reply_to.as_deref();
    properties.get_header("x-death");
    match channel.queue_declare("q") {
        Err(Error::ChannelClosedByBroker {
            reply_code: 406, ..
        }) => {}
        Err(error) if error.is_connection_error() => {}
        Err(error) if error.is_channel_error() => {}
        _ => {}
    }
    channel.stop_handle().stop();
    connection.queue_exists("q")?;
    ConnectionParameters::new("h").credentials(PlainCredentials::new("user", "password"));
    #[cfg(feature = "tls")]
    ConnectionParameters::new("h").tls(TlsOptions::new());
    Ok(())
}
