//! Sends a request to `rpc_queue` and waits for the reply in a queue of its own.
//!
//! Document: RabbitMQ (categories: Python)
//! Section: RPC(Remote Procedure Call), 客户端
//!
//! `direct_rpc_client` makes such calls by the type that haypile has for it.

mod common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::python;
use haypile::{BasicProperties, Channel, Connection, ConnectionParameters, QueueDeclare};
use uuid::Uuid;

struct Client {
    connection: Connection,
    channel: Channel,
    request_queue: String,
    callback_queue: String,
    expected: Arc<Mutex<Expected>>,
}

/// What the callback and the caller share.
#[derive(Default)]
struct Expected {
    correlation_id: String,
    response: Option<Vec<u8>>,
}

impl Client {
    fn new(parameters: ConnectionParameters, request_queue: String) -> haypile::Result<Self> {
        let connection = Connection::open(parameters)?;
        let channel = connection.channel()?;
        let callback_queue = channel
            .queue_declare(QueueDeclare::new("").exclusive(true))?
            .queue;

        let expected = Arc::new(Mutex::new(Expected::default()));
        let shared = Arc::clone(&expected);
        channel.basic_consume(&callback_queue, move |channel, method, properties, body| {
            let mut expected = shared.lock().unwrap();
            if properties.correlation_id.as_deref() == Some(&*expected.correlation_id) {
                expected.response = Some(body);
                channel.basic_ack(method.delivery_tag)?;
            }
            Ok(())
        })?;
        Ok(Client {
            connection,
            channel,
            request_queue,
            callback_queue,
            expected,
        })
    }

    fn call(&self, message: &str) -> haypile::Result<Vec<u8>> {
        let id = Uuid::new_v4().to_string();
        *self.expected.lock().unwrap() = Expected {
            correlation_id: id.clone(),
            response: None,
        };

        self.channel.queue_declare(&self.request_queue)?;
        let properties = BasicProperties::new()
            .reply_to(&self.callback_queue)
            .correlation_id(id);
        self.channel
            .basic_publish_with("", &self.request_queue, message, properties)?;

        loop {
            // Callbacks run inside this call. It ends when one has run, or after a second. (The original polls
            // without waiting and then sleeps for a second, reply or not.)
            self.connection
                .process_data_events(Duration::from_secs(1))?;
            println!("listen...");
            if let Some(response) = self.expected.lock().unwrap().response.take() {
                return Ok(response);
            }
        }
    }
}

fn main() -> Result<(), common::Failure> {
    let args = common::Usage::new("Sends a request to `rpc_queue` and prints the reply.")
        .words("MESSAGE...", "the request (default: ok)")
        .parse();
    let message = args.words_or(&["ok"]).join(" ");

    let client = Client::new(args.connection(), args.name("rpc_queue"))?;
    let response = client.call(&message)?;
    println!("Got {}", python::repr_bytes(&response));
    Ok(())
}
