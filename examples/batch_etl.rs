//! Takes messages in batches, as one does to load them into a database: a batch is full, or nothing has come for a while; then
//! it is loaded, and acknowledged as one.
//!
//! Mirrors: pika's generator, `channel.consume(queue, inactivity_timeout=1)`, with `basic_ack(tag, multiple=True)`.
//! Run: `cargo run --example batch_etl` works on the queue `measurements` until nothing comes any more; with
//! `-- --fill 10000` it puts so many messages there first.

use std::io::{stderr, IsTerminal, Write};
use std::time::Duration;

use haypile::{BasicAck, BasicNack, BasicProperties, Connection, DeliveryMode, QueueDeclare};

const QUEUE: &str = "measurements";
const BATCH: usize = 500;

/// A message that was read: its delivery tag and its text.
struct Row {
    delivery_tag: u64,
    value: u64,
}

/// What stands for the database: one statement for the whole batch.
fn load(batch: &[Row], total: &mut u64) {
    *total += batch.iter().map(|row| row.value).sum::<u64>();
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".into());
    let channel = Connection::open(url)?.channel()?;
    channel.queue_declare(QueueDeclare::new(QUEUE).durable(true))?;

    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("--fill") {
        let count: u64 = arguments.next().ok_or("--fill needs a number")?.parse()?;
        let persistent = BasicProperties::new().delivery_mode(DeliveryMode::Persistent);
        let other = channel.connection().channel()?;
        let mut publisher = other.publisher(1000)?;
        for number in 1..=count {
            publisher.publish_with("", QUEUE, number.to_string(), &persistent)?;
        }
        publisher.wait_for_confirms(Duration::from_secs(60))?;
    }

    // Enough for the next batch to come in while one is loaded.
    channel.basic_qos(2 * BATCH as u16)?;
    let (mut loaded, mut batches, mut total, mut refused) = (0, 0, 0, 0);
    let mut batch = Vec::new();
    let events = channel
        .consume(QUEUE)?
        .inactivity_timeout(Duration::from_secs(1));
    for event in events {
        let idle = match event? {
            Some((method, _properties, body)) => {
                let delivery_tag = method.delivery_tag;
                match String::from_utf8_lossy(&body).parse() {
                    Ok(value) => batch.push(Row {
                        delivery_tag,
                        value,
                    }),
                    Err(_) => {
                        // By itself, and for good: it must not keep the others of its batch from being loaded.
                        refused += 1;
                        channel.basic_nack(BasicNack::new(delivery_tag).requeue(false))?;
                    }
                }
                false
            }
            None => true,
        };
        if batch.len() == BATCH || idle && !batch.is_empty() {
            load(&batch, &mut total);
            // Only now, and all of them: what is not loaded comes again.
            let last = batch[batch.len() - 1].delivery_tag;
            channel.basic_ack(BasicAck::new(last).multiple(true))?;
            loaded += batch.len();
            batches += 1;
            batch.clear();
            show_progress(&format!("{loaded} loaded"));
        }
        if idle {
            break;
        }
    }
    channel.cancel()?;
    show_progress("");
    println!(
        "loaded {loaded} messages in {batches} batches, refused {refused}; the sum is {total}"
    );
    Ok(())
}

/// For people who wait at a terminal; nothing where the output goes to a file or another program.
fn show_progress(text: &str) {
    if stderr().is_terminal() {
        // Back to the line's begin, and the rest of the line cleared.
        eprint!("\r{text}\x1b[K");
        let _ = stderr().flush();
    }
}
