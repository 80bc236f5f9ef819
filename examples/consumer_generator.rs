//! Consumes by a loop instead of a callback: the loop's body may borrow, break, and use `?` with errors of any kind. With a limit
//! on silence it prints that nothing came, and goes on.
//!
//! Mirrors: pika, "Using the BlockingChannel.consume generator to consume messages" (`blocking_consumer_generator`), and its
//! `inactivity_timeout`.
//! Run: `cargo run --example consumer_generator -- QUEUE`. It ends after ten messages, or when nothing came three times.

use std::time::Duration;

use haypile::{Connection, QueueDeclare};

fn main() -> haypile::Result<()> {
    let url = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".into());
    let queue = std::env::args().nth(1).unwrap_or("example".into());
    let channel = Connection::open(url)?.channel()?;
    channel.queue_declare(QueueDeclare::new(&queue).durable(true))?;

    let (mut received, mut idle) = (0, 0);
    let second = Duration::from_secs(1);
    for event in channel.consume(&queue)?.inactivity_timeout(second) {
        match event? {
            Some((method, _properties, body)) => {
                println!(
                    "{}: {}",
                    method.delivery_tag,
                    String::from_utf8_lossy(&body)
                );
                channel.basic_ack(method.delivery_tag)?;
                received += 1;
            }
            // pika yields (None, None, None) here.
            None => {
                println!("nothing for a second");
                idle += 1;
            }
        }
        if received == 10 || idle == 3 {
            break;
        }
    }
    // Ends the consumer; what it had been sent ahead goes back.
    let requeued = channel.cancel()?;
    println!("Requeued {requeued} messages");
    Ok(())
}
