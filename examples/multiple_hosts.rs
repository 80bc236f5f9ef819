//! A cluster: connects to the first node that accepts, and to another one when that is lost.
//!
//! Mirrors: pika, "Connection recovery with multiple hosts" (`blocking_consume_recover_multiple_hosts`), with its rules: a loss is
//! mended by the next host, what the broker closes by an error of the program's is not.
//! Run: `cargo run --example multiple_hosts -- amqp://one.example amqp://two.example`; Ctrl-C ends it.

use std::time::Duration;

use haypile::{QueueDeclare, Retry, Supervisor};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut urls: Vec<String> = std::env::args().skip(1).collect();
    if urls.is_empty() {
        urls.extend(std::env::var("AMQP_URL"));
    }
    if urls.is_empty() {
        return Err("usage: multiple_hosts URL...".into());
    }
    // Each attempt begins at a random host, so that many programs spread over the cluster.
    let supervisor = Supervisor::new(urls)
        .retry(Retry::new().give_up_after(Duration::from_secs(600)))
        .on_event(|event| println!("[{event}]"));
    let stop = supervisor.stop_handle();
    ctrlc::set_handler(move || _ = stop.stop())?;

    supervisor.run(|connection| {
        let channel = connection.channel()?;
        // An auto-delete queue may be gone after a loss, so it is declared each time; it is exclusive, so that it may be transient.
        let queue = QueueDeclare::new("recovery-example")
            .auto_delete(true)
            .exclusive(true);
        channel.queue_declare(queue)?;
        channel.basic_qos(1)?;
        channel.basic_consume("recovery-example", |channel, method, _properties, body| {
            println!("{}", String::from_utf8_lossy(&body));
            channel.basic_ack(method.delivery_tag)
        })?;
        println!("consuming");
        channel.start_consuming()
    })?;
    println!("stopped");
    Ok(())
}
