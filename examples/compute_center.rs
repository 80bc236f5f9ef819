//! A control centre: five threads share one connection, and each asks the compute nodes for the
//! successor of its number. The results come back in one queue; correlation ids tell whose they are.

mod common;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use haypile::{
    BasicConsume, BasicProperties, Channel, Connection, ConnectionParameters, Error, QueueDeclare,
};
use uuid::Uuid;

struct Center {
    connection: Connection,
    channel: Channel,
    request_queue: String,
    callback_queue: String,
    /// The results that nobody has fetched yet, by correlation id.
    responses: Arc<Mutex<HashMap<String, Vec<u8>>>>,
}

impl Center {
    fn new(parameters: ConnectionParameters, request_queue: String) -> haypile::Result<Self> {
        let connection = Connection::open(parameters)?;
        let channel = connection.channel()?;
        let callback_queue = channel
            .queue_declare(QueueDeclare::new("").exclusive(true))?
            .queue;

        let responses = Arc::new(Mutex::new(HashMap::new()));
        let shared = Arc::clone(&responses);
        let consume = BasicConsume::new(&callback_queue).auto_ack(true);
        channel.basic_consume(consume, move |_channel, _method, properties, body| {
            if let Some(id) = properties.correlation_id {
                shared.lock().unwrap().insert(id.into(), body);
            }
        })?;
        Ok(Center {
            connection,
            channel,
            request_queue,
            callback_queue,
            responses,
        })
    }

    /// Any number of threads may be in here at a time.
    fn request(&self, n: i64) -> haypile::Result<i64> {
        let id = Uuid::new_v4().to_string();
        let properties = BasicProperties::new()
            .reply_to(&self.callback_queue)
            .correlation_id(&id);
        self.channel
            .basic_publish_with("", &self.request_queue, n.to_string(), properties)?;
        loop {
            // The callback runs on whichever thread is in this call when a result comes, so each thread looks again
            // after a moment whether its own result has come by way of another.
            self.connection
                .process_data_events(Duration::from_millis(100))?;
            if let Some(body) = self.responses.lock().unwrap().remove(&id) {
                let text = String::from_utf8(body).map_err(Error::other)?;
                return text.parse().map_err(Error::other);
            }
        }
    }
}

fn main() -> Result<(), common::Failure> {
    let args = common::Usage::new(
        "Lets several threads ask the compute nodes at once, over one connection.",
    )
    .words(
        "NUMBER...",
        "the numbers, one for each thread (default: 10 20 30 40 50)",
    )
    .parse();
    let numbers = args.numbers_or(&[10, 20, 30, 40, 50]);

    let center = Center::new(args.connection(), args.name("compute_queue"))?;
    thread::scope(|scope| {
        let threads: Vec<_> = numbers
            .iter()
            .map(|&n| {
                let center = &center;
                scope.spawn(move || -> haypile::Result<()> {
                    println!(" [x] Requesting increase({n})");
                    let response = center.request(n)?;
                    println!(" [.] increase({n})={response}");
                    Ok(())
                })
            })
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().expect("the thread panicked"))
    })?;
    Ok(())
}
