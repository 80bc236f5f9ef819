//! A message seen to expire: of three, one has no limit, one lives as long as its queue lets it, one as long as its own expiration. What
//! expires can be caught as a dead letter.
//!
//! Document: Python使用pika实现RabbitMQ消息收发
//! Section: Queue模式 (设置消息有效期,过期则删除). There `x-message-ttl` is also given to an exchange, which ignores it.
//! Run: `cargo run --example message_expires`

use std::io::{stderr, IsTerminal, Write};
use std::thread::sleep;
use std::time::{Duration, Instant};

use haypile::{BasicGet, BasicProperties, Connection, QueueDeclare};

fn main() -> haypile::Result<()> {
    let url = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".into());
    let connection = Connection::open(url)?;
    let channel = connection.channel()?;
    // Queues of this connection's own, with names of the broker's making.
    let declare = |queue: QueueDeclare| channel.queue_declare(queue.exclusive(true));
    let expired = declare(QueueDeclare::new(""))?.queue;
    let plain = declare(QueueDeclare::new(""))?.queue;
    let limited = declare(
        QueueDeclare::new("")
            // In milliseconds, for every message of the queue.
            .argument("x-message-ttl", 1500)
            .argument("x-dead-letter-exchange", "")
            .argument("x-dead-letter-routing-key", expired.as_str()),
    )?
    .queue;

    // Each publish returns when the message is in its queue, so that it is counted below.
    channel.confirm_delivery()?;
    channel.basic_publish("", &plain, "stays")?;
    channel.basic_publish("", &limited, "goes with its queue's limit")?;
    let short = BasicProperties::new().expiration(Duration::from_millis(500));
    channel.basic_publish_with("", &limited, "goes with its own limit", short)?;

    let count = |queue: &String| -> haypile::Result<u32> {
        let passive = QueueDeclare::new(queue).passive(true);
        Ok(channel.queue_declare(passive)?.message_count)
    };
    println!(
        "before: {} and {} messages",
        count(&plain)?,
        count(&limited)?
    );
    // A classic queue drops what has expired when that comes to its head: so the second goes with the first.
    let began = Instant::now();
    while count(&expired)? < 2 {
        show_progress(&format!("waiting: {:.1} s", began.elapsed().as_secs_f32()));
        sleep(Duration::from_millis(20));
    }
    show_progress("");
    println!(
        "after: {} and {} messages",
        count(&plain)?,
        count(&limited)?
    );
    while let Some((_, properties, body)) =
        channel.basic_get(BasicGet::new(&expired).auto_ack(true))?
    {
        let why = properties.get_header("x-first-death-reason");
        let why = why.and_then(|why| why.as_str()).unwrap_or("unknown");
        println!("{}: {why}", String::from_utf8_lossy(&body));
    }
    connection.close()
}

/// For people who wait at a terminal; nothing where the output goes to a file or another program.
fn show_progress(text: &str) {
    if stderr().is_terminal() {
        // Back to the line's begin, and the rest of the line cleared.
        eprint!("\r{text}\x1b[K");
        let _ = stderr().flush();
    }
}
