use haypile::{QueueDeclare, Supervisor};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("AMQP_URL").unwrap_or("amqp://guest:guest@localhost:5672".into());
    let supervisor = Supervisor::new(url).on_event(|event| eprintln!("{event}"));

    // The first Ctrl-C finishes the message in hand; a second one ends the program at once.
    let stop = supervisor.stop_handle();
    ctrlc::set_handler(move || {
        if stop.stop() > 1 {
            std::process::exit(130);
        }
    })?;

    // Runs again, whole, on a fresh connection after each loss.
    let ended = supervisor.run(|connection| {
        let channel = connection.channel()?;
        channel.queue_declare(QueueDeclare::new("task_queue").durable(true))?;
        channel.basic_qos(10)?;
        channel.basic_consume("task_queue", |channel, method, _properties, body| {
            println!(" [x] {}", String::from_utf8_lossy(&body));
            channel.basic_ack(method.delivery_tag)
        })?;
        channel.start_consuming()
    });
    match ended {
        Ok(ended) => println!(" [*] {ended:?}"),
        // Also if Ctrl-C came while there was no connection.
        Err(haypile::Error::Stopped { .. }) => println!(" [*] stopped"),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
