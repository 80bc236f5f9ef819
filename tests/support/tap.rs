//! A forwarder to a broker that reads along: which numbered messages were published, confirmed, delivered and acknowledged on
//! each connection. The body of each message is its number.
#![allow(dead_code, unreachable_pub)]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use super::support::peer::{m, Arguments, Frame, Method};

/// What the broker replied to a message that was published.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    Acked,
    Nacked,
}

#[derive(Clone, Debug)]
pub struct Published {
    pub number: u64,
    pub id: String,
    pub outcome: Option<Outcome>,
}

#[derive(Clone, Debug)]
pub struct Delivered {
    pub number: u64,
    pub id: String,
    pub redelivered: bool,
    pub acked: Option<Instant>,
}

/// What passed on one connection.
#[derive(Clone, Debug, Default)]
pub struct Passed {
    /// In order.
    pub published: Vec<Published>,
    /// In order, so that the first has delivery tag 1: one channel consumes.
    pub delivered: Vec<Delivered>,
    /// How many were published before the present channel was set to confirm.
    pub before: usize,
    /// When the broker ended the stream although neither end had closed the connection.
    pub lost: Option<Instant>,
    pub closing: bool,
    /// An ack of what was not delivered, or was acknowledged before.
    pub wrong_acks: Vec<u64>,
}

impl Passed {
    fn set_outcome(&mut self, mut arguments: Arguments, outcome: Outcome) {
        let (tag, multiple) = (arguments.longlong(), arguments.octet() & 1 == 1);
        let of_channel = &mut self.published[self.before..];
        let to = usize::try_from(tag).unwrap().min(of_channel.len());
        let from = if multiple { 0 } else { to - 1 };
        for published in &mut of_channel[from..to] {
            published.outcome.get_or_insert(outcome);
        }
    }

    fn ack(&mut self, mut arguments: Arguments) {
        let (tag, multiple) = (arguments.longlong(), arguments.octet() & 1 == 1);
        let to = usize::try_from(tag).unwrap();
        if to == 0 || to > self.delivered.len() || self.delivered[to - 1].acked.is_some() {
            self.wrong_acks.push(tag);
            return;
        }
        let from = if multiple { 0 } else { to - 1 };
        for delivered in &mut self.delivered[from..to] {
            delivered.acked.get_or_insert_with(Instant::now);
        }
    }
}

/// See the module's documentation.
pub struct Tap {
    address: SocketAddr,
    connections: Arc<Mutex<Vec<Arc<Mutex<Passed>>>>>,
}

impl Tap {
    /// In front of the broker with this URL.
    pub fn start(url: &str) -> Tap {
        let target = url.rsplit('@').next().unwrap().to_owned();
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let tap = Tap {
            address: listener.local_addr().unwrap(),
            connections: Arc::default(),
        };
        let connections = Arc::clone(&tap.connections);
        thread::spawn(move || {
            for client in listener.incoming() {
                // A broker that is away is one that hangs up.
                let (Ok(client), Ok(broker)) = (client, TcpStream::connect(&*target)) else {
                    continue;
                };
                let passed = Arc::new(Mutex::new(Passed::default()));
                connections.lock().unwrap().push(Arc::clone(&passed));
                for is_client in [true, false] {
                    let (client, broker) =
                        (client.try_clone().unwrap(), broker.try_clone().unwrap());
                    let passed = Arc::clone(&passed);
                    thread::spawn(move || match is_client {
                        true => forward(client, broker, true, &passed),
                        false => forward(broker, client, false, &passed),
                    });
                }
            }
        });
        tap
    }

    pub fn url(&self) -> String {
        format!("amqp://guest:guest@{}", self.address)
    }

    /// What has passed so far, connection by connection.
    pub fn passed(&self) -> Vec<Passed> {
        let connections = self.connections.lock().unwrap();
        connections
            .iter()
            .map(|passed| passed.lock().unwrap().clone())
            .collect()
    }
}

/// Forwards one direction. When the broker is gone, what the client still sends is read to its end, so that no reset keeps it from
/// reading all that has passed.
fn forward(mut from: TcpStream, mut to: TcpStream, is_client: bool, passed: &Mutex<Passed>) {
    let mut reader = Reader {
        is_client,
        // The protocol header.
        skip: if is_client { 8 } else { 0 },
        ..Reader::default()
    };
    let mut chunk = vec![0; 64 * 1024];
    let mut is_open = true;
    while let Ok(length @ 1..) = from.read(&mut chunk) {
        reader.read(&chunk[..length], &mut passed.lock().unwrap());
        is_open = is_open && to.write_all(&chunk[..length]).is_ok();
    }
    if !is_client {
        let mut passed = passed.lock().unwrap();
        passed.lost = (!passed.closing).then(Instant::now);
    }
    let _ = to.shutdown(Shutdown::Write);
}

#[derive(Default)]
struct Reader {
    is_client: bool,
    skip: usize,
    bytes: Vec<u8>,
    /// The method of a content that is not complete yet, and what is known of it.
    content: Option<(Method, bool)>,
    id: String,
    left: usize,
    body: Vec<u8>,
}

impl Reader {
    fn read(&mut self, chunk: &[u8], passed: &mut Passed) {
        self.bytes.extend_from_slice(chunk);
        let mut at = 0;
        if self.skip > 0 && self.bytes.len() >= self.skip {
            at = std::mem::take(&mut self.skip);
        }
        while let Some(header) = self.bytes.get(at..at + 7).filter(|_| self.skip == 0) {
            let size = u32::from_be_bytes(header[3..7].try_into().unwrap()) as usize;
            let Some(payload) = self.bytes.get(at + 7..at + 7 + size) else {
                break;
            };
            if self.bytes.len() < at + 8 + size {
                break;
            }
            let frame = Frame {
                kind: header[0],
                channel: u16::from_be_bytes([header[1], header[2]]),
                payload: payload.to_vec(),
            };
            at += 8 + size;
            self.frame(&frame, passed);
        }
        self.bytes.drain(..at);
    }

    fn frame(&mut self, frame: &Frame, passed: &mut Passed) {
        match (frame.kind, frame.method()) {
            (Frame::METHOD, Some(method)) => self.method(method, frame, passed),
            (Frame::HEADER, _) => {
                self.left = u64::from_be_bytes(frame.payload[4..12].try_into().unwrap()) as usize;
                self.id = message_id(&frame.payload[12..]);
            }
            (Frame::BODY, _) => {
                self.left -= frame.payload.len();
                self.body.extend_from_slice(&frame.payload);
            }
            _ => return,
        }
        if self.left == 0 && frame.kind != Frame::METHOD {
            self.complete(passed);
        }
    }

    fn method(&mut self, method: Method, frame: &Frame, passed: &mut Passed) {
        let mut arguments = frame.arguments();
        match (self.is_client, method) {
            (true, m::CONNECTION_CLOSE) | (false, m::CONNECTION_CLOSE_OK) => passed.closing = true,
            (true, m::CONFIRM_SELECT) => passed.before = passed.published.len(),
            (true, m::BASIC_ACK) => passed.ack(arguments),
            (false, m::BASIC_ACK) => passed.set_outcome(arguments, Outcome::Acked),
            (false, m::BASIC_NACK) => passed.set_outcome(arguments, Outcome::Nacked),
            (true, m::BASIC_PUBLISH) => self.content = Some((method, false)),
            (false, m::BASIC_DELIVER) => {
                arguments.shortstr();
                arguments.longlong();
                self.content = Some((method, arguments.octet() & 1 == 1));
            }
            _ => {}
        }
    }

    fn complete(&mut self, passed: &mut Passed) {
        let body = String::from_utf8(std::mem::take(&mut self.body)).unwrap();
        let (number, id) = (body.parse().unwrap(), std::mem::take(&mut self.id));
        match self.content.take() {
            Some((m::BASIC_PUBLISH, _)) => passed.published.push(Published {
                number,
                id,
                outcome: None,
            }),
            Some((_, redelivered)) => passed.delivered.push(Delivered {
                number,
                id,
                redelivered,
                acked: None,
            }),
            None => panic!("a content of no method"),
        }
    }
}

/// The `message-id` among properties (section 4.2.6.1 of the specification); no other text stands before it here.
fn message_id(properties: &[u8]) -> String {
    let flags = u16::from_be_bytes([properties[0], properties[1]]);
    assert_eq!(
        flags & !0b0001_1000_1000_0000,
        0,
        "delivery mode, priority and message id"
    );
    let mut at = 2 + (flags & 0b0001_1000_0000_0000).count_ones() as usize;
    if flags & 0b1000_0000 == 0 {
        return String::new();
    }
    let length = usize::from(properties[at]);
    at += 1;
    String::from_utf8(properties[at..at + length].to_vec()).unwrap()
}
