//! Servers of remote procedure calls: of this crate, and by hand.
#![allow(dead_code, unreachable_pub)] // Each test file uses some of it.

use std::thread::{self, JoinHandle};
use std::time::Duration;

use haypile::{
    BasicGet, BasicProperties, Channel, ConsumingEnded, Message, QueueDeclare, RpcReply, RpcServer,
    Stop,
};

use crate::support::{channel, exclusive_queue, unique, wait_until, SOON};

/// Longer than any test may take: what ends sooner does not end by it.
pub const NEVER: Duration = Duration::from_secs(600);

pub type Foreign = Box<dyn std::error::Error + Send + Sync>;

/// A server of this crate on a connection and a thread of its own.
pub struct Server {
    pub queue: String,
    stop: Stop,
    pub thread: JoinHandle<haypile::Result<ConsumingEnded>>,
}

impl Server {
    pub fn start<R: Into<RpcReply>>(
        handler: impl FnMut(Message) -> Result<R, Foreign> + Send + 'static,
    ) -> Server {
        let channel = channel();
        let queue = unique("rpc");
        // Another connection's clients send to it by the default exchange, which exclusive queues allow.
        channel
            .queue_declare(QueueDeclare::new(&queue).exclusive(true))
            .unwrap();
        Self::on(channel, queue, handler)
    }

    pub fn on<R: Into<RpcReply>>(
        channel: Channel,
        queue: String,
        handler: impl FnMut(Message) -> Result<R, Foreign> + Send + 'static,
    ) -> Server {
        let stop = channel.stop_handle();
        let server = RpcServer::new(&queue).prefetch(10);
        let thread = thread::spawn(move || server.run(&channel, handler));
        Server {
            queue,
            stop,
            thread,
        }
    }

    pub fn end(self) {
        self.stop.stop();
        let ended = self.thread.join().unwrap().unwrap();
        assert_eq!(ended, ConsumingEnded::Cancelled);
    }
}

pub fn echo((_, _, body): Message) -> Result<Vec<u8>, Foreign> {
    Ok(body)
}

pub fn increase((_, _, body): Message) -> Result<String, Foreign> {
    let number: i64 = std::str::from_utf8(&body)?.trim().parse()?;
    Ok((number + 1).to_string())
}

/// A queue whose requests the test takes and replies to by hand.
pub struct ByHand {
    pub channel: Channel,
    pub queue: String,
}

impl ByHand {
    pub fn new() -> Self {
        let channel = channel();
        let queue = exclusive_queue(&channel);
        ByHand { channel, queue }
    }

    /// The next request.
    pub fn take(&self) -> Message {
        let mut taken = None;
        wait_until(SOON, || {
            let get = BasicGet::new(&self.queue).auto_ack(true);
            taken = self.channel.basic_get(get).unwrap();
            taken.is_some()
        });
        let (method, properties, body) = taken.unwrap();
        let mut deliver = haypile::Deliver::default();
        deliver.delivery_tag = method.delivery_tag;
        (deliver, properties, body)
    }

    pub fn reply(&self, to: &BasicProperties, id: Option<&str>, body: &str) {
        let mut properties = BasicProperties::new();
        properties.correlation_id = id.map(Into::into);
        let reply_to = to.reply_to.clone().expect("a call has reply_to");
        self.channel
            .basic_publish_with("", reply_to, body, properties)
            .unwrap();
    }

    pub fn reply_to(&self, request: &Message, body: &str) {
        let id = request.1.correlation_id.as_deref();
        self.reply(&request.1, id, body);
    }
}
