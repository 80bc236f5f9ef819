//! A server for remote procedure calls on haypile's own type: it replies with Fibonacci numbers, and to anything else with an
//! error that the caller can distinguish from a result. It comes back after a loss.
//!
//! Mirrors: RabbitMQ's tutorial 6, by other means; `tutorial_6_rpc_server` is the tutorial's own program.
//! Run: `cargo run --example direct_rpc_server`, as often as you like, and `direct_rpc_client`.

use haypile::{QueueDeclare, RpcError, RpcServer, Supervisor};

fn fibonacci(n: u8) -> Option<u64> {
    let (mut a, mut b) = (0u64, 1u64);
    for _ in 0..n {
        (a, b) = (b, a.checked_add(b)?);
    }
    Some(a)
}

/// One request. The error's kind is a word that the caller's program can compare.
fn handle(body: &[u8]) -> Result<String, RpcError> {
    let text = std::str::from_utf8(body).map_err(|error| RpcError::new("bad-request", error))?;
    let n = text
        .parse()
        .map_err(|error| RpcError::new("bad-request", format!("{text:?}: {error}")))?;
    let number = fibonacci(n).ok_or_else(|| RpcError::new("too-large", "beyond 64 bits"))?;
    Ok(number.to_string())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".into());
    let supervisor = Supervisor::new(url).on_event(|event| eprintln!("[{event}]"));
    let stop = supervisor.stop_handle();
    ctrlc::set_handler(move || _ = stop.stop())?;

    supervisor.run(|connection| {
        let channel = connection.channel()?;
        channel.queue_declare(QueueDeclare::new("fibonacci").durable(true))?;
        println!("waiting for requests");
        RpcServer::new("fibonacci").run(&channel, |(_method, _properties, body)| {
            let result = handle(&body);
            println!("{:?}: {result:?}", String::from_utf8_lossy(&body));
            result
        })
    })?;
    println!("stopped");
    Ok(())
}
