//! Consumes with a callback until Ctrl-C; then the message in hand is finished, and the connection closed.
//!
//! Mirrors: pika, "Using the Blocking Connection to consume messages from RabbitMQ" (`blocking_consume`).
//! Run: `cargo run --example basic_consumer -- QUEUE`, and publish to that queue.

use haypile::{Connection, QueueDeclare};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".into());
    let queue = std::env::args().nth(1).unwrap_or("example".into());
    let connection = Connection::open(url)?;
    let channel = connection.channel()?;
    channel.queue_declare(QueueDeclare::new(&queue).durable(true))?;

    channel.basic_consume(&queue, |channel, method, properties, body| {
        println!("{} {properties:?}", method.delivery_tag);
        println!("{}", String::from_utf8_lossy(&body));
        channel.basic_ack(method.delivery_tag)
    })?;

    // pika: `except KeyboardInterrupt: channel.stop_consuming()`.
    let stop = channel.stop_handle();
    ctrlc::set_handler(move || _ = stop.stop())?;
    println!("waiting for messages");
    let ended = channel.start_consuming()?;
    println!("ended: {ended:?}");
    connection.close()?;
    Ok(())
}
