//! Calls the server of `direct_rpc_server`: one call after another, many at once, and each way in which a call can fail.
//!
//! Mirrors: RabbitMQ's tutorial 6, by other means; `tutorial_6_rpc_client` is the tutorial's own program.
//! Run: `cargo run --example direct_rpc_client`, while `direct_rpc_server` runs.

use std::thread;
use std::time::Duration;

use haypile::{BasicProperties, Connection, Error, RpcClient};

fn main() -> haypile::Result<()> {
    let url = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".into());
    let connection = Connection::open(url)?;
    let client = RpcClient::open(&connection)?;
    let timeout = Duration::from_secs(5);

    let reply = client.call("fibonacci", "30", timeout)?;
    println!("fib(30) = {}", String::from_utf8_lossy(&reply.body));

    // Many calls in flight, from one thread...
    let start = |n: u8| {
        let text = BasicProperties::new().content_type("text/plain");
        client.start_call("", "fibonacci", n.to_string(), text, timeout)
    };
    let calls = (0..10).map(start).collect::<Result<Vec<_>, _>>()?;
    let mut numbers = Vec::new();
    for call in calls {
        numbers.push(String::from_utf8_lossy(&call.wait()?.body).into_owned());
    }
    println!("fib(0..10) = {}", numbers.join(" "));

    // ... and from many.
    let sum = thread::scope(|scope| {
        let call = |n: u8| client.call("fibonacci", n.to_string(), timeout);
        let threads: Vec<_> = (1..=4).map(|n| scope.spawn(move || call(n))).collect();
        let replies = threads.into_iter().map(|thread| thread.join().unwrap());
        replies
            .flatten()
            .map(|reply| number(&reply.body))
            .sum::<u64>()
    });
    println!("fib(1) + fib(2) + fib(3) + fib(4) = {sum}");

    for (queue, request) in [
        ("fibonacci", "ten"),
        ("fibonacci", "200"),
        ("no-such-queue", "1"),
    ] {
        match client.call(queue, request, timeout) {
            Err(Error::Rpc(error)) => println!("{request}: the server reports {}", error.kind),
            // At once, since requests are mandatory.
            Err(Error::Unroutable(_)) => println!("{request}: there is no server at {queue}"),
            Err(Error::Timeout { .. }) => println!("{request}: no reply in time"),
            other => println!("{request}: {:?}", other?),
        }
    }
    Ok(())
}

fn number(body: &[u8]) -> u64 {
    String::from_utf8_lossy(body).parse().unwrap_or(0)
}
