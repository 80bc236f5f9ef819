//! Replies with Fibonacci numbers, by hand. `direct_rpc_server` is such a server by the type that haypile has for it.
//!
//! Mirrors: RabbitMQ tutorial 6, "Remote procedure call (RPC)", `rpc_server.py`.
//! Run: `cargo run --example tutorial_6_rpc_server`; Ctrl-C ends it.

use haypile::{BasicProperties, Connection};

/// 64 bits hold it up to 93. (The tutorial's is recursive, and slow.)
fn fib(n: u8) -> u64 {
    let (mut a, mut b) = (0u64, 1u64);
    for _ in 0..n {
        (a, b) = (b, a.wrapping_add(b));
    }
    a
}

fn main() -> haypile::Result<()> {
    let url = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".into());
    let channel = Connection::open(url)?.channel()?;
    channel.queue_declare("rpc_queue")?;

    channel.basic_qos(1)?;
    channel.basic_consume("rpc_queue", |channel, method, properties, body| {
        let text = String::from_utf8_lossy(&body);
        println!(" [.] fib({text})");
        // The tutorial's server ends if a request is no number, and gets it again when it is started again.
        let response = match text.parse() {
            Ok(n) if n <= 93 => fib(n).to_string(),
            _ => "not a number from 0 to 93".to_owned(),
        };
        if let Some(reply_to) = &properties.reply_to {
            let mut same_id = BasicProperties::new();
            same_id.correlation_id = properties.correlation_id.clone();
            channel.basic_publish_with("", reply_to, response, same_id)?;
        }
        channel.basic_ack(method.delivery_tag)
    })?;
    println!(" [x] Awaiting RPC requests");
    channel.start_consuming()?;
    Ok(())
}
