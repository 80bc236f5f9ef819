//! A broker that costs next to nothing, so that the client is what gets measured: on loopback, in threads of this process.
//!
//! It speaks just enough AMQP 0-9-1, routes nothing and keeps nothing.
//!
//! - What is published is counted and dropped. In confirm mode, one `multiple` ack is the reply to each read.
//! - `queue.declare` returns what this connection has sent so far: complete messages as `message_count`, acknowledged
//!   ones as `consumer_count`. That is the fence, and the proof that everything arrived.
//! - The queue named `"q.COUNT.SIZE"` holds COUNT messages of SIZE bytes: [`queue`]. A consumer gets them at once, whatever
//!   its prefetch count, and then nothing. Several consumers take turns, message by message.
//! - Consumers of `"held.COUNT.SIZE"` ([`held_queue`]) get nothing until some queue is purged.
#![allow(dead_code, unreachable_pub)]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{mpsc, Arc, Mutex};
use std::thread;

use haypile::{Channel, Connection, ConnectionParameters, QueueDeclare};

/// How much is read at once, and how much is gathered before it is written.
const CHUNK: usize = 256 * 1024;

/// All that a frame has besides its payload.
const OVERHEAD: usize = 8;

/// The sink listens from now on, to the end of the process. All its threads' names begin with `sink`.
pub fn start() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let accept = move || {
        for stream in listener.incoming().flatten() {
            let serve = move || drop(Server::new(stream).and_then(Server::run));
            thread::Builder::new()
                .name("sink".into())
                .spawn(serve)
                .unwrap();
        }
    };
    thread::Builder::new()
        .name("sink-accept".into())
        .spawn(accept)
        .unwrap();
    address
}

/// Connects to the sink.
pub fn open(sink: SocketAddr) -> (Connection, Channel) {
    let parameters = ConnectionParameters::new(sink.ip().to_string()).port(sink.port());
    let connection = Connection::open(parameters).unwrap();
    let channel = connection.channel().unwrap();
    (connection, channel)
}

/// A queue that holds so many messages of so many bytes.
pub fn queue(count: u64, size: usize) -> String {
    format!("q.{count}.{size}")
}

/// The same, delivered only after the next `queue_purge`.
pub fn held_queue(count: u64, size: usize) -> String {
    format!("held.{count}.{size}")
}

/// Waits until the sink has all that was sent; returns how many messages and acks it has seen on this connection.
pub fn fence(channel: &Channel) -> (u32, u32) {
    let declared = channel
        .queue_declare(QueueDeclare::new("fence").passive(true))
        .unwrap();
    (declared.message_count, declared.consumer_count)
}

/// What is known of one channel.
#[derive(Clone, Copy, Default)]
struct ChannelState {
    confirms: bool,
    /// Bytes of body that the message in progress lacks.
    lacks: u64,
    complete: u64,
    confirmed: u64,
    fetched: u64,
    /// The tag of the last ack.
    acked: u64,
}

/// What one consumer is still to get.
struct Stream {
    channel: u16,
    left: u64,
    size: usize,
    delivered: u64,
    /// The frames of one message, or of a large one without its body.
    frames: Vec<u8>,
    /// Where its delivery tag stands.
    tag_at: usize,
}

impl Stream {
    fn new(channel: u16, consumer_tag: &[u8], queue: &[u8], frame_max: usize) -> Self {
        let (left, size) = contents(queue);
        let mut frames = Vec::new();
        Payload::method(60, 60)
            .string(consumer_tag)
            .bytes(&[0; 9])
            .string(b"")
            .string(queue)
            .write(channel, &mut frames);
        match size < CHUNK {
            true => content(channel, size, frame_max, &mut frames),
            false => header(channel, size, &mut frames),
        }
        Stream {
            channel,
            left,
            size,
            delivered: 0,
            frames,
            tag_at: 7 + 4 + 1 + consumer_tag.len(),
        }
    }

    fn append_next(&mut self, out: &mut Vec<u8>) {
        self.left -= 1;
        self.delivered += 1;
        let tag = out.len() + self.tag_at;
        out.extend_from_slice(&self.frames);
        out[tag..tag + 8].copy_from_slice(&self.delivered.to_be_bytes());
    }
}

type Output = Arc<Mutex<TcpStream>>;

struct Server {
    input: TcpStream,
    output: Output,
    channels: Vec<ChannelState>,
    replies: Vec<u8>,
    frame_max: usize,
    acks: u64,
    held: Vec<Stream>,
    deliver: mpsc::Sender<Vec<Stream>>,
}

impl Server {
    fn new(input: TcpStream) -> io::Result<Server> {
        input.set_nodelay(true)?;
        let output = Arc::new(Mutex::new(input.try_clone()?));
        Ok(Server {
            input,
            output,
            channels: vec![ChannelState::default()],
            replies: Vec::new(),
            frame_max: 131_072,
            acks: 0,
            held: Vec::new(),
            deliver: mpsc::channel().0,
        })
    }

    fn run(mut self) -> io::Result<()> {
        self.input.read_exact(&mut [0; 8])?;
        // {"capabilities": {"publisher_confirms": true}}
        let capabilities = b"\x0ccapabilitiesF\0\0\0\x15\x12publisher_confirmst\x01";
        let start = Payload::method(10, 10)
            .bytes(&[0, 9])
            .long_string(capabilities)
            .long_string(b"PLAIN AMQPLAIN")
            .long_string(b"en_US");
        start.write(0, &mut self.replies);
        self.reply()?;
        let mut buffer = vec![0; CHUNK];
        let (mut from, mut to) = (0, 0);
        // Bytes of a body frame that are dropped without being looked at.
        let mut skip = 0;
        loop {
            if from == to {
                (from, to) = (0, 0);
            } else if to == buffer.len() {
                buffer.copy_within(from..to, 0);
                (from, to) = (0, to - from);
            }
            match self.input.read(&mut buffer[to..])? {
                0 => return Ok(()),
                count => to += count,
            }
            loop {
                let skipped = skip.min(to - from);
                from += skipped;
                skip -= skipped;
                let rest = &buffer[from..to];
                let Some((&[kind, c0, c1, s0, s1, s2, s3], behind)) = rest.split_first_chunk()
                else {
                    break;
                };
                let channel = u16::from_be_bytes([c0, c1]);
                let size = u32::from_be_bytes([s0, s1, s2, s3]) as usize;
                if kind == 3 {
                    let state = self.channel(channel);
                    state.lacks = state.lacks.saturating_sub(size as u64);
                    state.complete += u64::from(state.lacks == 0);
                    skip = size + OVERHEAD;
                    continue;
                }
                let Some(payload) = behind.get(..size) else {
                    break;
                };
                if behind.len() == size {
                    break;
                }
                from += size + OVERHEAD;
                match kind {
                    1 if !self.method(channel, Arguments(payload))? => return Ok(()),
                    2 => {
                        let state = self.channel(channel);
                        state.lacks = Arguments(&payload[4..]).long_long();
                        state.complete += u64::from(state.lacks == 0);
                    }
                    _ => {}
                }
            }
            self.confirm();
            self.reply()?;
        }
    }

    fn channel(&mut self, number: u16) -> &mut ChannelState {
        let number = usize::from(number);
        if number >= self.channels.len() {
            self.channels.resize(number + 1, ChannelState::default());
        }
        &mut self.channels[number]
    }

    fn confirm(&mut self) {
        for (number, state) in self.channels.iter_mut().enumerate() {
            if state.confirms && state.complete > state.confirmed {
                state.confirmed = state.complete;
                Payload::method(60, 80)
                    .bytes(&state.confirmed.to_be_bytes())
                    .bytes(&[1])
                    .write(number as u16, &mut self.replies);
            }
        }
    }

    fn reply(&mut self) -> io::Result<()> {
        if !self.replies.is_empty() {
            self.output.lock().unwrap().write_all(&self.replies)?;
            self.replies.clear();
        }
        Ok(())
    }

    /// Returns whether the connection goes on.
    fn method(&mut self, channel: u16, mut arguments: Arguments<'_>) -> io::Result<bool> {
        let id = (arguments.short(), arguments.short());
        let reply = match id {
            (60, 40) => return Ok(true),
            (60, 80) => {
                // Here no client acknowledges out of order.
                let tag = arguments.long_long();
                let multiple = arguments.take() != [0];
                let state = self.channel(channel);
                let count = if multiple { tag - state.acked } else { 1 };
                state.acked = tag;
                self.acks += count;
                return Ok(true);
            }
            // start-ok, tune-ok, connection.open, connection.close
            (10, 11) => Payload::method(10, 30).bytes(&[7, 255, 0, 2, 0, 0, 0, 60]),
            (10, 31) => {
                arguments.short();
                self.frame_max = arguments.long() as usize;
                return Ok(true);
            }
            (10, 40) => Payload::method(10, 41).string(b""),
            (10, 50) => {
                Payload::method(10, 51).write(0, &mut self.replies);
                self.reply()?;
                // The client hangs up first.
                while self.input.read(&mut [0; 1024])? > 0 {}
                return Ok(false);
            }
            (20, 10) => {
                *self.channel(channel) = ChannelState::default();
                Payload::method(20, 11).long_string(b"")
            }
            (50, 10) => {
                let name = arguments.skip(2).string();
                let complete: u64 = self.channels.iter().map(|channel| channel.complete).sum();
                Payload::method(50, 11)
                    .string(name)
                    .bytes(&(complete as u32).to_be_bytes())
                    .bytes(&(self.acks as u32).to_be_bytes())
            }
            (50, 30) => {
                let held = std::mem::take(&mut self.held);
                self.start_delivering(held);
                Payload::method(50, 31).bytes(&[0; 4])
            }
            (60, 20) => {
                let queue = arguments.skip(2).string();
                let consumer_tag = arguments.string();
                Payload::method(60, 21)
                    .string(consumer_tag)
                    .write(channel, &mut self.replies);
                self.reply()?;
                let stream = Stream::new(channel, consumer_tag, queue, self.frame_max);
                match queue.starts_with(b"held.") {
                    true => self.held.push(stream),
                    false => self.start_delivering(vec![stream]),
                }
                return Ok(true);
            }
            (60, 30) => Payload::method(60, 31).string(arguments.string()),
            (60, 70) => {
                let queue = arguments.skip(2).string();
                let (_, size) = contents(queue);
                let state = self.channel(channel);
                state.fetched += 1;
                Payload::method(60, 71)
                    .bytes(&state.fetched.to_be_bytes())
                    .bytes(&[0])
                    .string(b"")
                    .string(queue)
                    .bytes(&[0; 4])
                    .write(channel, &mut self.replies);
                content(channel, size, self.frame_max, &mut self.replies);
                return Ok(true);
            }
            (85, 10) => {
                self.channel(channel).confirms = true;
                Payload::method(85, 11)
            }
            // The reply to everything else is the method that follows it in the specification, without arguments.
            (class, method) => Payload::method(class, method + 1),
        };
        reply.write(channel, &mut self.replies);
        Ok(true)
    }

    /// Delivers in a thread of its own, so that acks are read meanwhile.
    fn start_delivering(&mut self, streams: Vec<Stream>) {
        let Err(mpsc::SendError(streams)) = self.deliver.send(streams) else {
            return;
        };
        let (deliver, more) = mpsc::channel();
        let (output, frame_max) = (Arc::clone(&self.output), self.frame_max);
        self.deliver = deliver;
        let _ = self.deliver.send(streams);
        let run = move || drop(deliver_all(&more, &output, frame_max));
        thread::Builder::new()
            .name("sink-deliver".into())
            .spawn(run)
            .unwrap();
    }
}

/// Delivers what comes in, one message of each stream in turn.
fn deliver_all(
    more: &mpsc::Receiver<Vec<Stream>>,
    output: &Output,
    frame_max: usize,
) -> io::Result<()> {
    let mut streams: Vec<Stream> = Vec::new();
    let mut out = Vec::new();
    let body = vec![b'x'; frame_max - OVERHEAD];
    loop {
        match streams.is_empty() {
            true => match more.recv() {
                Ok(new) => streams = new,
                Err(_) => return Ok(()),
            },
            false => streams.extend(more.try_iter().flatten()),
        }
        for stream in &mut streams {
            if stream.left == 0 {
                continue;
            }
            stream.append_next(&mut out);
            if stream.size >= CHUNK {
                // So that a large body comes out of the cache and not out of memory.
                let mut output = output.lock().unwrap();
                output.write_all(&out)?;
                out.clear();
                let full = frame(3, stream.channel, &body);
                for _ in 0..stream.size / body.len() {
                    output.write_all(&full)?;
                }
                let rest = &body[..stream.size % body.len()];
                if !rest.is_empty() {
                    append_frame(3, stream.channel, rest, &mut out);
                }
            }
            if out.len() >= CHUNK {
                output.lock().unwrap().write_all(&out)?;
                out.clear();
            }
        }
        streams.retain(|stream| stream.left > 0);
        if streams.is_empty() {
            output.lock().unwrap().write_all(&out)?;
            out.clear();
        }
    }
}

/// What a queue holds, by its name.
fn contents(queue: &[u8]) -> (u64, usize) {
    let text = std::str::from_utf8(queue).unwrap_or_default();
    let mut parts = text.split('.').skip(1);
    let mut number = || parts.next().and_then(|part| part.parse().ok()).unwrap_or(0);
    let (count, size): (u64, u64) = (number(), number());
    (count, size as usize)
}

fn header(channel: u16, size: usize, out: &mut Vec<u8>) {
    let mut payload = vec![0, 60, 0, 0];
    payload.extend((size as u64).to_be_bytes());
    // The flag of delivery_mode, and "transient".
    payload.extend([0x10, 0, 1]);
    append_frame(2, channel, &payload, out);
}

/// The header and the body of a message.
fn content(channel: u16, size: usize, frame_max: usize, out: &mut Vec<u8>) {
    header(channel, size, out);
    let mut left = size;
    while left > 0 {
        let part = left.min(frame_max - OVERHEAD);
        out.push(3);
        out.extend(channel.to_be_bytes());
        out.extend((part as u32).to_be_bytes());
        out.resize(out.len() + part, b'x');
        out.push(0xCE);
        left -= part;
    }
}

fn append_frame(kind: u8, channel: u16, payload: &[u8], out: &mut Vec<u8>) {
    out.push(kind);
    out.extend(channel.to_be_bytes());
    out.extend((payload.len() as u32).to_be_bytes());
    out.extend(payload);
    out.push(0xCE);
}

fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + OVERHEAD);
    append_frame(kind, channel, payload, &mut out);
    out
}

/// The payload of a method frame that is being built.
struct Payload(Vec<u8>);

impl Payload {
    fn method(class: u16, method: u16) -> Self {
        let mut payload = Vec::with_capacity(64);
        payload.extend(class.to_be_bytes());
        payload.extend(method.to_be_bytes());
        Payload(payload)
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn string(self, bytes: &[u8]) -> Self {
        self.bytes(&[bytes.len() as u8]).bytes(bytes)
    }

    fn long_string(self, bytes: &[u8]) -> Self {
        self.bytes(&(bytes.len() as u32).to_be_bytes()).bytes(bytes)
    }

    fn write(self, channel: u16, out: &mut Vec<u8>) {
        append_frame(1, channel, &self.0, out);
    }
}

/// What is left of a method's arguments. The client is trusted: what it sends is well formed.
struct Arguments<'a>(&'a [u8]);

impl<'a> Arguments<'a> {
    fn skip(&mut self, count: usize) -> &mut Self {
        self.0 = &self.0[count..];
        self
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (taken, rest) = self.0.split_first_chunk().unwrap();
        self.0 = rest;
        *taken
    }

    fn short(&mut self) -> u16 {
        u16::from_be_bytes(self.take())
    }

    fn long(&mut self) -> u32 {
        u32::from_be_bytes(self.take())
    }

    fn long_long(&mut self) -> u64 {
        u64::from_be_bytes(self.take())
    }

    fn string(&mut self) -> &'a [u8] {
        let [length] = self.take();
        let (string, rest) = self.0.split_at(usize::from(length));
        self.0 = rest;
        string
    }
}
