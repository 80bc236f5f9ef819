//! A control centre: five threads share one connection, and each asks the compute nodes for the
//! successor of its number. The results come back in one queue; correlation ids show whose they are.
//!
//! Document: Python 操作 RabbitMQ 消息队列
//! Section: 相互关联编号correlation id, center.py

mod common;

use std::collections::HashMap;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::thread;

use haypile::{
    BasicConsume, BasicProperties, Channel, Connection, ConnectionParameters, Error, QueueDeclare,
};
use uuid::Uuid;

struct Center {
    channel: Channel,
    request_queue: String,
    callback_queue: String,
    /// Who waits for a result, by correlation id.
    waiting: Arc<Mutex<HashMap<String, Sender<Vec<u8>>>>>,
}

impl Center {
    fn new(parameters: ConnectionParameters, request_queue: String) -> haypile::Result<Self> {
        // The channel keeps the connection.
        let channel = Connection::open(parameters)?.channel()?;
        let callback_queue = channel
            .queue_declare(QueueDeclare::new("").exclusive(true))?
            .queue;

        let waiting: Arc<Mutex<HashMap<String, Sender<Vec<u8>>>>> = Arc::default();
        let shared = Arc::clone(&waiting);
        let consume = BasicConsume::new(&callback_queue).auto_ack(true);
        channel.basic_consume(consume, move |_channel, _method, properties, body| {
            let id = properties.correlation_id.unwrap_or_default();
            if let Some(thread) = shared.lock().unwrap().remove(&*id) {
                // It may have given up.
                let _ = thread.send(body);
            }
        })?;
        Ok(Center {
            channel,
            request_queue,
            callback_queue,
            waiting,
        })
    }

    /// Hands the results to the threads that wait for them, until `stop` is called.
    fn run(&self) -> haypile::Result<()> {
        let ended = self.channel.start_consuming();
        // Nothing more comes: this ends the waits.
        self.waiting.lock().unwrap().clear();
        ended.map(|_| ())
    }

    fn stop(&self) {
        self.channel.stop_handle().stop();
    }

    /// Any number of threads may be in here at a time.
    fn request(&self, n: i64) -> haypile::Result<i64> {
        let id = Uuid::new_v4().to_string();
        let (sender, result) = mpsc::channel();
        self.waiting.lock().unwrap().insert(id.clone(), sender);
        let properties = BasicProperties::new()
            .reply_to(&self.callback_queue)
            .correlation_id(id);
        self.channel
            .basic_publish_with("", &self.request_queue, n.to_string(), properties)?;
        // The thread is woken by its own result, and by no other.
        let body = result.recv().map_err(Error::other)?;
        let text = String::from_utf8(body).map_err(Error::other)?;
        text.parse().map_err(Error::other)
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
        let consumer = scope.spawn(|| center.run());
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
        let results: Vec<_> = threads
            .into_iter()
            .map(|thread| thread.join().expect("the thread panicked"))
            .collect();
        center.stop();
        // What ended the consumer is worth more than what followed from it.
        consumer.join().expect("the consumer panicked")?;
        results.into_iter().collect::<haypile::Result<()>>()
    })?;
    Ok(())
}
