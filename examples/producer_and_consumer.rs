//! A producer thread and a consumer thread on one connection: what the documents recommend `SelectConnection` for. Neither waits for
//! the other, and no callback is needed. Each has a channel of its own, so that a mistake on one does not end the other.
//!
//! Document: Python怎样操作消息队列?pika连接RabbitMQ
//! Section: Pika库的异步与同步模式有何不同?
//! Mirrors: pika, "Comparing Message Publishing with BlockingConnection and SelectConnection", and its advice to give each thread a
//! connection, which is not needed here.
//! Run: `cargo run --example producer_and_consumer -- 1000`

use std::io::{stderr, IsTerminal, Write};
use std::thread;
use std::time::Duration;

use haypile::{Connection, Consume, QueueDeclare};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".into());
    let count: u64 = std::env::args().nth(1).unwrap_or("1000".into()).parse()?;
    let connection = Connection::open(url)?;
    let producing = connection.channel()?;
    let consuming = connection.channel()?;
    let queue = producing
        .queue_declare(QueueDeclare::new("").exclusive(true))?
        .queue;
    consuming.basic_qos(100)?;

    let sum = thread::scope(|scope| {
        let producer = scope.spawn(|| -> haypile::Result<()> {
            let mut publisher = producing.publisher(100)?;
            for n in 1..=count {
                publisher.publish("", &queue, n.to_string())?;
            }
            publisher.wait_for_confirms(Duration::from_secs(60))
        });
        let consumer = scope.spawn(
            || -> Result<u64, Box<dyn std::error::Error + Send + Sync>> {
                let (mut received, mut sum) = (0, 0);
                let patience = Consume::new(&queue).idle_exit(Duration::from_secs(60));
                for message in consuming.consume(patience)?.take(count as usize) {
                    let (method, _properties, body) = message?;
                    sum += String::from_utf8(body)?.parse::<u64>()?;
                    consuming.basic_ack(method.delivery_tag)?;
                    received += 1;
                    show_progress(received, count);
                }
                Ok(sum)
            },
        );
        producer.join().expect("no panic")?;
        consumer.join().expect("no panic")
    });
    let sum = sum.map_err(|error| error.to_string())?;
    println!("sent and received {count} messages; their sum is {sum}");
    connection.close()?;
    Ok(())
}

/// For people who wait at a terminal; nothing where the output goes to a file or another program.
fn show_progress(n: u64, count: u64) {
    if (n % 100 == 0 || n == count) && stderr().is_terminal() {
        let end = if n == count { "\r\x1b[K" } else { "" };
        eprint!("\r{n} of {count}{end}");
        let _ = stderr().flush();
    }
}
