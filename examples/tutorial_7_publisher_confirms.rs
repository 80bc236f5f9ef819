//! Publishes with confirms in three ways: each waited for, in batches, and with many on their way at once. It prints how long each
//! takes.
//!
//! Mirrors: RabbitMQ tutorial 7, "Reliable Publishing with Publisher Confirms" (`PublisherConfirms`).
//! Run: `cargo run --release --example tutorial_7_publisher_confirms -- 50000`

use std::io::{stderr, IsTerminal, Write};
use std::time::{Duration, Instant};

use haypile::{Channel, Connection, Error, QueueDeclare};

type Way = fn(&Connection, u32) -> haypile::Result<()>;

const PATIENCE: Duration = Duration::from_secs(60);

fn new_queue(connection: &Connection) -> haypile::Result<(Channel, String)> {
    let channel = connection.channel()?;
    let queue = QueueDeclare::new("").exclusive(true);
    let name = channel.queue_declare(queue)?.queue;
    Ok((channel, name))
}

fn publish_individually(connection: &Connection, count: u32) -> haypile::Result<()> {
    let (channel, queue) = new_queue(connection)?;
    channel.confirm_delivery()?;
    for n in 0..count {
        // Returns when the broker has the message; `Error::Nack` if it refuses it.
        channel.basic_publish("", &queue, n.to_string())?;
        show_progress(n, count);
    }
    Ok(())
}

fn publish_in_batches(connection: &Connection, count: u32) -> haypile::Result<()> {
    let (channel, queue) = new_queue(connection)?;
    let mut publisher = channel.publisher(100)?;
    for n in 0..count {
        publisher.publish("", &queue, n.to_string())?;
        if n % 100 == 99 {
            publisher.wait_for_confirms(PATIENCE)?;
            show_progress(n, count);
        }
    }
    publisher.wait_for_confirms(PATIENCE)
}

fn publish_with_many_on_their_way(connection: &Connection, count: u32) -> haypile::Result<()> {
    let (channel, queue) = new_queue(connection)?;
    // Waits only while 1000 are unconfirmed.
    let mut publisher = channel.publisher(1000)?;
    for n in 0..count {
        publisher.publish("", &queue, n.to_string())?;
        show_progress(n, count);
    }
    match publisher.wait_for_confirms(PATIENCE) {
        Err(Error::Unconfirmed(report)) => {
            // By the numbers that `publish` returned: these are to be published again.
            eprintln!("refused {:?}, pending {:?}", report.nacked, report.pending);
            Err(Error::Unconfirmed(report))
        }
        other => other,
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".into());
    let count = std::env::args().nth(1).unwrap_or("50000".into()).parse()?;
    let connection = Connection::open(url)?;
    let ways: [(&str, Way); 3] = [
        ("individually", publish_individually),
        ("in batches", publish_in_batches),
        ("with many on their way", publish_with_many_on_their_way),
    ];
    for (how, publish) in ways {
        let began = Instant::now();
        publish(&connection, count)?;
        clear_progress();
        let took = began.elapsed().as_millis();
        println!("Published {count} messages {how} in {took} ms");
    }
    connection.close()?;
    Ok(())
}

/// For people who wait at a terminal; nothing where the output goes to a file or another program.
fn show_progress(n: u32, count: u32) {
    if n % 1000 == 999 && stderr().is_terminal() {
        eprint!("\r{} of {count}", n + 1);
        let _ = stderr().flush();
    }
}

fn clear_progress() {
    if stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
}
