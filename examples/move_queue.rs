//! Moves the messages of one queue to another, such as dead letters back to where they came from. Nothing is lost: a message is
//! acknowledged in the one queue when the broker has confirmed it in the other. If the program is killed in between, some
//! messages are in both.
//!
//! Shows: `publisher` with its sequence numbers, `idle_exit`, `basic_ack` with `multiple`. pika's users do it with
//! `basic_get`, `basic_publish` and `confirm_delivery`, message by message.
//! Run: `cargo run --example move_queue -- FROM TO`. Both queues must exist.

use std::io::{stderr, IsTerminal, Write};
use std::time::Duration;

use haypile::{BasicAck, BasicPublish, Connection, Consume};

/// So many are on their way at once.
const WINDOW: u64 = 500;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [from, to] = &arguments[..] else {
        return Err("usage: move_queue FROM TO".into());
    };
    if from == to {
        return Err("the two queues are the same".into());
    }
    let url = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".into());
    let connection = Connection::open(url)?;
    for queue in [from, to] {
        if connection.queue_exists(queue.as_str())?.is_none() {
            return Err(format!("there is no queue {queue:?}").into());
        }
    }

    let source = connection.channel()?;
    let target = connection.channel()?;
    source.basic_qos(2 * WINDOW as u16)?;
    let mut publisher = target.publisher(WINDOW as usize)?;
    let (mut moved, mut last) = (0u64, 0);
    // What came within the last second is all there is.
    let messages = source.consume(Consume::new(from.as_str()).idle_exit(Duration::from_secs(1)))?;
    for message in messages {
        let (method, properties, body) = message?;
        // Mandatory: what reaches no queue comes back, and `wait_for_confirms` fails.
        let publish = BasicPublish::new().mandatory(true).properties(&properties);
        publisher.publish_with("", to.as_str(), &body, publish)?;
        last = method.delivery_tag;
        moved += 1;
        if moved % WINDOW == 0 {
            publisher.wait_for_confirms(Duration::from_secs(60))?;
            source.basic_ack(BasicAck::new(last).multiple(true))?;
            show_progress(&format!("{moved} moved"));
        }
    }
    publisher.wait_for_confirms(Duration::from_secs(60))?;
    if moved % WINDOW > 0 {
        source.basic_ack(BasicAck::new(last).multiple(true))?;
    }
    source.cancel()?;
    // Waits until the broker has the acknowledgements.
    connection.close()?;
    show_progress("");
    println!("moved {moved} messages from {from} to {to}");
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
