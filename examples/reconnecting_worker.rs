//! A worker that survives: it comes back after a loss, and finishes the message in hand at Ctrl-C (or SIGTERM).
//!
//! Mirrors: pika's example `blocking_consume_recover_multiple_hosts`, and what its users do with `KeyboardInterrupt`.
//! Run: `cargo run --example reconnecting_worker`, then pull the plug, or send it work with `tutorial_2_new_task`.

use std::process::exit;
use std::time::Duration;

use haypile::{QueueDeclare, Retry, Supervisor};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".into());
    let supervisor = Supervisor::new(url)
        .retry(Retry::new().most(Duration::from_secs(10)))
        .on_event(|event| eprintln!("[{event}]"));

    // The first Ctrl-C lets the message in hand be finished, the second one ends the program at once.
    let stop = supervisor.stop_handle();
    ctrlc::set_handler(move || {
        if stop.stop() > 1 {
            exit(130);
        }
    })?;

    // This runs again, as a whole, on each new connection.
    supervisor.run(|connection| {
        let channel = connection.channel()?;
        channel.queue_declare(QueueDeclare::new("task_queue").durable(true))?;
        channel.basic_qos(1)?;
        channel.basic_consume("task_queue", |channel, method, _properties, body| {
            let text = String::from_utf8_lossy(&body);
            let again = if method.redelivered { " (again)" } else { "" };
            println!("working on {text:?}{again}");
            // Each dot is a second of work. Heartbeats go on meanwhile.
            let dots = body.iter().filter(|byte| **byte == b'.').count();
            std::thread::sleep(Duration::from_secs(dots as u64));
            channel.basic_ack(method.delivery_tag)?;
            println!("done with {text:?}");
            Ok(())
        })?;
        println!("waiting for work");
        channel.start_consuming()
    })?;
    println!("stopped");
    Ok(())
}
