//! A request and its reply without a queue for replies, by hand: direct reply-to. `RpcClient` does it for you, see
//! `direct_rpc_client`.
//!
//! Document: RabbitMQ (categories: Python)
//! Section: RPC(Remote Procedure Call), whose client declares a queue for its replies
//! Mirrors: pika, "Direct reply-to example" (`direct_reply_to`).
//! Run: `cargo run --example direct_reply_to`

use haypile::{BasicConsume, BasicProperties, BasicPublish, Connection, QueueDeclare};

fn main() -> haypile::Result<()> {
    let url = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".into());
    let connection = Connection::open(url)?;
    let channel = connection.channel()?;

    // The server: it replies to whatever address the request has.
    let server = channel
        .queue_declare(QueueDeclare::new("").exclusive(true))?
        .queue;
    channel.basic_consume(
        BasicConsume::new(&server).auto_ack(true),
        |channel, _method, properties, body| {
            println!("server: received {}", String::from_utf8_lossy(&body));
            // The broker has put in an address of this client's.
            let reply_to = properties.reply_to.unwrap_or_default();
            channel.basic_publish("", reply_to, "Polo")
        },
    )?;

    // The client: it consumes from a queue that is none, before it asks, on the same channel, and without acknowledgements.
    channel.basic_consume(
        BasicConsume::new("amq.rabbitmq.reply-to").auto_ack(true),
        |channel, _method, _properties, body| {
            println!("client: received {}", String::from_utf8_lossy(&body));
            channel.stop_consuming()
        },
    )?;
    let properties = BasicProperties::new().reply_to("amq.rabbitmq.reply-to");
    // Mandatory: if there is no server, the request comes back.
    let request = BasicPublish::new().mandatory(true).properties(properties);
    channel.basic_publish_with("", &server, "Marco", request)?;
    channel.start_consuming()?;
    connection.close()
}
