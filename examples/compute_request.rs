//! The simplest control centre: sends one number to the compute nodes and waits for the result. With one request at a
//! time no correlation id is needed; `compute_center` has several.
//!
//! Document: Python 操作 RabbitMQ 消息队列
//! Section: 远程结果返回, center.py

mod common;

use std::sync::{Arc, Mutex};

use haypile::{
    BasicConsume, BasicProperties, Channel, Connection, ConnectionParameters, Error, QueueDeclare,
};

struct Center {
    connection: Connection,
    channel: Channel,
    request_queue: String,
    callback_queue: String,
    response: Arc<Mutex<Option<Vec<u8>>>>,
}

impl Center {
    fn new(parameters: ConnectionParameters, request_queue: String) -> haypile::Result<Self> {
        let connection = Connection::open(parameters)?;
        let channel = connection.channel()?;
        let callback_queue = channel
            .queue_declare(QueueDeclare::new("").exclusive(true))?
            .queue;

        let response = Arc::new(Mutex::new(None));
        let shared = Arc::clone(&response);
        channel.basic_consume(
            BasicConsume::new(&callback_queue).auto_ack(true),
            move |_, _, _, body| {
                *shared.lock().unwrap() = Some(body);
            },
        )?;
        Ok(Center {
            connection,
            channel,
            request_queue,
            callback_queue,
            response,
        })
    }

    fn request(&self, n: i64) -> haypile::Result<i64> {
        *self.response.lock().unwrap() = None;
        let properties = BasicProperties::new().reply_to(&self.callback_queue);
        self.channel
            .basic_publish_with("", &self.request_queue, n.to_string(), properties)?;
        loop {
            // `None` waits until something has happened; the original polls in a busy loop.
            self.connection.process_data_events(None)?;
            if let Some(body) = self.response.lock().unwrap().take() {
                let text = String::from_utf8(body).map_err(Error::other)?;
                return text.parse().map_err(Error::other);
            }
        }
    }
}

fn main() -> Result<(), common::Failure> {
    let args = common::Usage::new("Sends a number to the compute nodes and prints the result.")
        .words("NUMBER", "the number (default: 30)")
        .parse();
    let n = args.numbers_or(&[30])[0];

    let center = Center::new(args.connection(), args.name("compute_queue"))?;
    println!(" [x] Requesting increase({n})");
    common::say_on_terminal("waiting for a compute node");
    let response = center.request(n)?;
    println!(" [.] Got {response}");
    Ok(())
}
