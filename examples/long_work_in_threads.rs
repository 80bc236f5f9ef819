//! Work that takes long, in threads: a pool of workers takes the messages from one consumer and acknowledges them itself. Heartbeats
//! go on whatever a callback does, and any thread may use the channel, so no `add_callback_threadsafe` is needed.
//!
//! Mirrors: pika's example `basic_consumer_threaded`, and "heartbeat": how long work and heartbeats go together.
//! Run: `cargo run --example long_work_in_threads`; Ctrl-C ends it when the work in hand is done.

use std::sync::{mpsc, Mutex};
use std::thread;
use std::time::Duration;

use haypile::{Connection, Deliver, Error, QueueDeclare};

const WORKERS: u16 = 4;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".into());
    let connection = Connection::open(url)?;
    let channel = connection.channel()?;
    channel.queue_declare(QueueDeclare::new("long_work").durable(true))?;
    // As many on their way as there are workers: the rest stays with the broker, for other programs.
    channel.basic_qos(WORKERS)?;

    let (sender, jobs) = mpsc::channel::<(Deliver, Vec<u8>)>();
    channel.basic_consume("long_work", move |_channel, method, _properties, body| {
        sender.send((method, body)).map_err(Error::other)
    })?;
    let stop = channel.stop_handle();
    ctrlc::set_handler(move || _ = stop.stop())?;

    let jobs = Mutex::new(jobs);
    thread::scope(|scope| {
        for worker in 1..=WORKERS {
            let (jobs, channel) = (&jobs, &channel);
            scope.spawn(move || -> haypile::Result<()> {
                loop {
                    let job = jobs.lock().unwrap().recv();
                    // The consumer is gone, and with it the sender.
                    let Ok((method, body)) = job else {
                        return Ok(());
                    };
                    let seconds: f64 = String::from_utf8_lossy(&body).parse().unwrap_or(1.0);
                    println!("worker {worker} works for {seconds} s");
                    thread::sleep(Duration::from_secs_f64(seconds.clamp(0.0, 3600.0)));
                    channel.basic_ack(method.delivery_tag)?;
                    println!("worker {worker} is done");
                }
            });
        }
        println!("waiting for work");
        channel.start_consuming()
    })?;
    connection.close()?;
    println!("stopped");
    Ok(())
}
