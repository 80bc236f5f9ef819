//! Asks the server of `tutorial_6_rpc_server` for a Fibonacci number, by hand: a queue for the reply, and an id to know it by.
//! `direct_rpc_client` makes such calls by the type that haypile has for it, which also knows when to give up.
//!
//! Mirrors: RabbitMQ tutorial 6, "Remote procedure call (RPC)", `rpc_client.py`.
//! Run: `cargo run --example tutorial_6_rpc_client`

use std::sync::mpsc::{self, Receiver};

use haypile::{BasicConsume, BasicProperties, Channel, Connection, Error, QueueDeclare};
use uuid::Uuid;

struct FibonacciRpcClient {
    connection: Connection,
    channel: Channel,
    callback_queue: String,
    /// Correlation ids and bodies, as they come.
    responses: Receiver<(String, Vec<u8>)>,
}

impl FibonacciRpcClient {
    fn new(url: String) -> haypile::Result<Self> {
        let connection = Connection::open(url)?;
        let channel = connection.channel()?;
        let callback_queue = channel
            .queue_declare(QueueDeclare::new("").exclusive(true))?
            .queue;
        let (sender, responses) = mpsc::channel();
        channel.basic_consume(
            BasicConsume::new(&callback_queue).auto_ack(true),
            move |_channel, _method, properties, body| {
                let id = properties.correlation_id.unwrap_or_default();
                sender.send((id.into(), body)).map_err(Error::other)
            },
        )?;
        Ok(FibonacciRpcClient {
            connection,
            channel,
            callback_queue,
            responses,
        })
    }

    fn call(&self, n: u8) -> haypile::Result<String> {
        let id = Uuid::new_v4().to_string();
        let properties = BasicProperties::new()
            .reply_to(&self.callback_queue)
            .correlation_id(&id);
        self.channel
            .basic_publish_with("", "rpc_queue", n.to_string(), properties)?;
        loop {
            // The callback runs in here.
            self.connection.process_data_events(None)?;
            for (of, body) in self.responses.try_iter() {
                if of == id {
                    return String::from_utf8(body).map_err(Error::other);
                }
            }
        }
    }
}

fn main() -> haypile::Result<()> {
    let url = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".into());
    let fibonacci_rpc = FibonacciRpcClient::new(url)?;
    println!(" [x] Requesting fib(30)");
    let response = fibonacci_rpc.call(30)?;
    println!(" [.] Got {response}");
    Ok(())
}
