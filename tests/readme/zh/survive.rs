use haypile::{QueueDeclare, Supervisor};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("AMQP_URL").unwrap_or("amqp://guest:guest@localhost:5672".into());
    let supervisor = Supervisor::new(url).on_event(|event| eprintln!("{event}"));

    // 第一次 Ctrl-C：处理完手头这条消息再退出；第二次：立即结束。
    let stop = supervisor.stop_handle();
    ctrlc::set_handler(move || {
        if stop.stop() > 1 {
            std::process::exit(130);
        }
    })?;

    // 每次断线之后，这段代码会在新连接上从头再跑一遍。
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
        // 断线期间按下 Ctrl-C，也从这里结束。
        Err(haypile::Error::Stopped { .. }) => println!(" [*] stopped"),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
