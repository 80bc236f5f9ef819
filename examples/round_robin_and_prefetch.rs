//! Round robin beside `prefetch_count=1`: a quick and a slow consumer share eight messages. Without a limit each is dealt every other
//! message, ahead of its work; with a prefetch of 1 a worker that is free gets the next one.
//!
//! Document: Python 操作 RabbitMQ 消息队列
//! Section: 四、任务分发 (1 and 4); also pika消息中间件模块, 2.4 消费者轮训机制 and 2.7, and RabbitMQ (categories: Python), 简单模式
//! Run: `cargo run --example round_robin_and_prefetch`

use std::io::{stderr, IsTerminal, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use haypile::{Connection, Consume, QueueDeclare};

const MESSAGES: usize = 8;

/// What both consumers have done, for who waits at a terminal.
static DONE: AtomicUsize = AtomicUsize::new(0);

/// How many messages a consumer works on until nothing comes any more. Each takes so long.
fn work(
    url: &str,
    queue: &str,
    prefetch: u16,
    each: Duration,
    ready: &Barrier,
) -> haypile::Result<usize> {
    let channel = Connection::open(url)?.channel()?;
    // 0 is no limit.
    channel.basic_qos(prefetch)?;
    let messages = channel.consume(Consume::new(queue).idle_exit(Duration::from_millis(500)))?;
    ready.wait();
    let mut count = 0;
    for message in messages {
        let (method, _properties, _body) = message?;
        thread::sleep(each);
        channel.basic_ack(method.delivery_tag)?;
        count += 1;
        let done = DONE.fetch_add(1, Ordering::Relaxed) + 1;
        show_progress(&format!("{done} of {}", 2 * MESSAGES));
    }
    Ok(count)
}

fn main() -> haypile::Result<()> {
    let url = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".into());
    let connection = Connection::open(url.as_str())?;
    let channel = connection.channel()?;
    let queue = "round_robin";
    channel.queue_declare(QueueDeclare::new(queue).durable(true))?;
    for (what, prefetch) in [("round robin", 0), ("prefetch 1", 1)] {
        channel.queue_purge(queue)?;
        let ready = Arc::new(Barrier::new(3));
        let consumers = [Duration::from_millis(300), Duration::ZERO].map(|each| {
            let (url, ready) = (url.clone(), Arc::clone(&ready));
            thread::spawn(move || work(&url, queue, prefetch, each, &ready))
        });
        // Both are there before the first message comes.
        ready.wait();
        for n in 0..MESSAGES {
            channel.basic_publish("", queue, n.to_string())?;
        }
        let [slow, quick] = consumers.map(|consumer| consumer.join().expect("no panic"));
        show_progress("");
        println!(
            "{what}: the slow one did {}, the quick one {}",
            slow?, quick?
        );
    }
    channel.queue_delete(queue)?;
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
