//! A scripted broker: speaks just enough AMQP, in bytes of its own, to do what a real broker will not.
//!
//! ```ignore
//! let peer = Peer::start(|session| {
//!     session.handshake();
//!     session.expect(1, m::CHANNEL_OPEN);
//!     session.send_method(1, m::CHANNEL_OPEN_OK, Args::new().longstr(b""));
//!     session.reset();
//! });
//! let connection = Connection::open(peer.url().as_str())?;
//! ```
//!
//! Nothing here uses the crate under test, so that an error in its codec cannot hide behind the same error here.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use haypile::{Channel, Connection};

/// How long the script waits for the client's next byte before it fails.
const PATIENCE: Duration = Duration::from_secs(15);

/// Class and method numbers.
pub mod m {
    pub type Method = (u16, u16);
    pub const CONNECTION_START: Method = (10, 10);
    pub const CONNECTION_START_OK: Method = (10, 11);
    pub const CONNECTION_SECURE: Method = (10, 20);
    pub const CONNECTION_SECURE_OK: Method = (10, 21);
    pub const CONNECTION_TUNE: Method = (10, 30);
    pub const CONNECTION_TUNE_OK: Method = (10, 31);
    pub const CONNECTION_OPEN: Method = (10, 40);
    pub const CONNECTION_OPEN_OK: Method = (10, 41);
    pub const CONNECTION_CLOSE: Method = (10, 50);
    pub const CONNECTION_CLOSE_OK: Method = (10, 51);
    pub const CONNECTION_BLOCKED: Method = (10, 60);
    pub const CONNECTION_UNBLOCKED: Method = (10, 61);
    pub const CONNECTION_UPDATE_SECRET: Method = (10, 70);
    pub const CONNECTION_UPDATE_SECRET_OK: Method = (10, 71);
    pub const CHANNEL_OPEN: Method = (20, 10);
    pub const CHANNEL_OPEN_OK: Method = (20, 11);
    pub const CHANNEL_FLOW: Method = (20, 20);
    pub const CHANNEL_FLOW_OK: Method = (20, 21);
    pub const CHANNEL_CLOSE: Method = (20, 40);
    pub const CHANNEL_CLOSE_OK: Method = (20, 41);
    pub const EXCHANGE_DECLARE: Method = (40, 10);
    pub const EXCHANGE_DECLARE_OK: Method = (40, 11);
    pub const EXCHANGE_DELETE: Method = (40, 20);
    pub const EXCHANGE_DELETE_OK: Method = (40, 21);
    pub const EXCHANGE_BIND: Method = (40, 30);
    pub const EXCHANGE_BIND_OK: Method = (40, 31);
    pub const EXCHANGE_UNBIND: Method = (40, 40);
    pub const EXCHANGE_UNBIND_OK: Method = (40, 51);
    pub const QUEUE_DECLARE: Method = (50, 10);
    pub const QUEUE_DECLARE_OK: Method = (50, 11);
    pub const QUEUE_BIND: Method = (50, 20);
    pub const QUEUE_BIND_OK: Method = (50, 21);
    pub const QUEUE_PURGE: Method = (50, 30);
    pub const QUEUE_PURGE_OK: Method = (50, 31);
    pub const QUEUE_DELETE: Method = (50, 40);
    pub const QUEUE_DELETE_OK: Method = (50, 41);
    pub const QUEUE_UNBIND: Method = (50, 50);
    pub const QUEUE_UNBIND_OK: Method = (50, 51);
    pub const BASIC_QOS: Method = (60, 10);
    pub const BASIC_QOS_OK: Method = (60, 11);
    pub const BASIC_CONSUME: Method = (60, 20);
    pub const BASIC_CONSUME_OK: Method = (60, 21);
    pub const BASIC_CANCEL: Method = (60, 30);
    pub const BASIC_CANCEL_OK: Method = (60, 31);
    pub const BASIC_PUBLISH: Method = (60, 40);
    pub const BASIC_RETURN: Method = (60, 50);
    pub const BASIC_DELIVER: Method = (60, 60);
    pub const BASIC_GET: Method = (60, 70);
    pub const BASIC_GET_OK: Method = (60, 71);
    pub const BASIC_GET_EMPTY: Method = (60, 72);
    pub const BASIC_ACK: Method = (60, 80);
    pub const BASIC_REJECT: Method = (60, 90);
    pub const BASIC_RECOVER: Method = (60, 110);
    pub const BASIC_RECOVER_OK: Method = (60, 111);
    pub const BASIC_NACK: Method = (60, 120);
    pub const CONFIRM_SELECT: Method = (85, 10);
    pub const CONFIRM_SELECT_OK: Method = (85, 11);
    pub const TX_SELECT: Method = (90, 10);
    pub const TX_SELECT_OK: Method = (90, 11);
    pub const TX_COMMIT: Method = (90, 20);
    pub const TX_COMMIT_OK: Method = (90, 21);
    pub const TX_ROLLBACK: Method = (90, 30);
    pub const TX_ROLLBACK_OK: Method = (90, 31);
}

pub use m::Method;

/// Builds a method's arguments, or a properties list.
#[derive(Clone, Debug, Default)]
pub struct Args(Vec<u8>);

impl Args {
    pub fn new() -> Self {
        Self::default()
    }
    pub fn octet(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }
    pub fn short(mut self, value: u16) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }
    pub fn long(mut self, value: u32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }
    pub fn longlong(mut self, value: u64) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }
    pub fn shortstr(mut self, value: &str) -> Self {
        self.0.push(u8::try_from(value.len()).unwrap());
        self.0.extend(value.as_bytes());
        self
    }
    pub fn longstr(mut self, value: &[u8]) -> Self {
        self.0
            .extend(u32::try_from(value.len()).unwrap().to_be_bytes());
        self.0.extend(value);
        self
    }
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }
    /// A field table.
    pub fn table(self, fields: &[(&str, Field)]) -> Self {
        let mut inner = Args::new();
        for (key, value) in fields {
            inner = inner.shortstr(key);
            inner = match value {
                Field::Bool(value) => inner.octet(b't').octet(u8::from(*value)),
                Field::Int(value) => inner.octet(b'I').raw(&value.to_be_bytes()),
                Field::Str(value) => inner.octet(b'S').longstr(value.as_bytes()),
                Field::Table(fields) => inner.octet(b'F').table(fields),
            };
        }
        self.longstr(&inner.0)
    }
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A value in a field table.
#[derive(Clone, Debug)]
pub enum Field {
    Bool(bool),
    Int(i32),
    Str(&'static str),
    Table(Vec<(&'static str, Field)>),
}

/// Reads a method's arguments.
#[derive(Clone, Debug)]
pub struct Arguments {
    bytes: Vec<u8>,
    at: usize,
}

impl Arguments {
    fn take(&mut self, length: usize) -> &[u8] {
        let from = self.at;
        self.at += length;
        self.bytes
            .get(from..self.at)
            .expect("the method's arguments end early")
    }
    pub fn octet(&mut self) -> u8 {
        self.take(1)[0]
    }
    pub fn short(&mut self) -> u16 {
        u16::from_be_bytes(self.take(2).try_into().unwrap())
    }
    pub fn long(&mut self) -> u32 {
        u32::from_be_bytes(self.take(4).try_into().unwrap())
    }
    pub fn longlong(&mut self) -> u64 {
        u64::from_be_bytes(self.take(8).try_into().unwrap())
    }
    pub fn shortstr(&mut self) -> String {
        let length = usize::from(self.octet());
        String::from_utf8(self.take(length).to_vec()).unwrap()
    }
    pub fn longstr(&mut self) -> Vec<u8> {
        let length = usize::try_from(self.long()).unwrap();
        self.take(length).to_vec()
    }
    /// A field table's bytes, without the length in front.
    pub fn table(&mut self) -> Vec<u8> {
        self.longstr()
    }
    pub fn rest(&self) -> &[u8] {
        &self.bytes[self.at..]
    }
}

/// One frame.
#[derive(Clone, Debug)]
pub struct Frame {
    pub kind: u8,
    pub channel: u16,
    pub payload: Vec<u8>,
}

impl Frame {
    pub const METHOD: u8 = 1;
    pub const HEADER: u8 = 2;
    pub const BODY: u8 = 3;
    pub const HEARTBEAT: u8 = 8;

    /// Class and method number of a method frame.
    pub fn method(&self) -> Option<Method> {
        (self.kind == Frame::METHOD && self.payload.len() >= 4).then(|| {
            (
                u16::from_be_bytes([self.payload[0], self.payload[1]]),
                u16::from_be_bytes([self.payload[2], self.payload[3]]),
            )
        })
    }

    pub fn is(&self, channel: u16, method: Method) -> bool {
        self.channel == channel && self.method() == Some(method)
    }

    /// The arguments of a method frame.
    pub fn arguments(&self) -> Arguments {
        Arguments {
            bytes: self.payload.clone(),
            at: 4,
        }
    }

    /// The frame's bytes.
    pub fn encode(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind];
        bytes.extend(channel.to_be_bytes());
        bytes.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
        bytes.extend(payload);
        bytes.push(0xCE);
        bytes
    }

    /// A method frame's bytes.
    pub fn encode_method(channel: u16, (class, method): Method, arguments: &Args) -> Vec<u8> {
        let payload = Args::new()
            .short(class)
            .short(method)
            .raw(arguments.bytes());
        Frame::encode(Frame::METHOD, channel, payload.bytes())
    }

    /// The bytes of a method with content: method, header and body frames.
    ///
    /// `properties` is what stands behind the body size: the flags and the values. Without any, two zero bytes.
    pub fn encode_content(
        channel: u16,
        method: Method,
        arguments: &Args,
        properties: &[u8],
        body: &[u8],
    ) -> Vec<u8> {
        let mut bytes = Frame::encode_method(channel, method, arguments);
        let header = Args::new()
            .short(method.0)
            .short(0)
            .longlong(body.len() as u64)
            .raw(properties);
        bytes.extend(Frame::encode(Frame::HEADER, channel, header.bytes()));
        for chunk in body.chunks(4096 - 8) {
            bytes.extend(Frame::encode(Frame::BODY, channel, chunk));
        }
        bytes
    }
}

/// What the scripted broker announces while the connection is opened.
#[derive(Clone, Debug)]
pub struct Handshake {
    pub mechanisms: &'static str,
    pub channel_max: u16,
    pub frame_max: u32,
    /// Seconds.
    pub heartbeat: u16,
    /// Capabilities that are announced; others are left out.
    pub capabilities: Vec<&'static str>,
}

impl Default for Handshake {
    fn default() -> Self {
        Handshake {
            mechanisms: "PLAIN AMQPLAIN EXTERNAL",
            channel_max: 2047,
            frame_max: 131_072,
            heartbeat: 60,
            capabilities: vec![
                "publisher_confirms",
                "exchange_exchange_bindings",
                "basic.nack",
                "consumer_cancel_notify",
                "connection.blocked",
                "authentication_failure_close",
            ],
        }
    }
}

/// What the client sent while the connection was opened.
#[derive(Clone, Debug)]
pub struct Greeting {
    /// The client properties' bytes.
    pub client_properties: Vec<u8>,
    pub mechanism: String,
    pub response: Vec<u8>,
    pub locale: String,
    pub channel_max: u16,
    pub frame_max: u32,
    pub heartbeat: u16,
    pub virtual_host: String,
}

/// The scripted broker's side of one connection.
pub struct Session {
    stream: TcpStream,
    ahead: VecDeque<u8>,
}

impl Session {
    fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Session {
            stream,
            ahead: VecDeque::new(),
        }
    }

    /// More of the client's bytes; false when it has closed its side.
    fn fill(&mut self) -> bool {
        let mut chunk = [0; 16 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) => false,
            Ok(length) => {
                self.ahead.extend(&chunk[..length]);
                true
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("scripted broker: nothing came from the client for {PATIENCE:?}")
            }
            // A child process of the test has ended, for instance. The next look reads.
            Err(error) if error.kind() == ErrorKind::Interrupted => true,
            Err(_) => false,
        }
    }

    /// So many bytes as they are, `None` when the client closed its side before.
    pub fn read_bytes(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.ahead.len() < length {
            if !self.fill() {
                return None;
            }
        }
        Some(self.ahead.drain(..length).collect())
    }

    /// The next frame, heartbeats included; `None` when the client closed its side.
    pub fn next_frame(&mut self) -> Option<Frame> {
        let head = self.read_bytes(7)?;
        let length = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
        let mut payload = self.read_bytes(length + 1)?;
        assert_eq!(
            payload.pop(),
            Some(0xCE),
            "scripted broker: the client's frame has no frame-end"
        );
        Some(Frame {
            kind: head[0],
            channel: u16::from_be_bytes([head[1], head[2]]),
            payload,
        })
    }

    /// The next frame that is no heartbeat; fails when the client closed its side.
    pub fn frame(&mut self) -> Frame {
        self.frame_or_end()
            .expect("scripted broker: the client closed the stream")
    }

    /// The next frame that is no heartbeat, `None` when the client closed its side. `channel.flow` is replied to on the way, as
    /// every broker does: the end of any thread of the process, such as another test's, may send it on every connection.
    pub fn frame_or_end(&mut self) -> Option<Frame> {
        loop {
            let frame = self.next_frame()?;
            if frame.method() == Some(m::CHANNEL_FLOW) {
                let active = frame.arguments().octet();
                self.send_method(frame.channel, m::CHANNEL_FLOW_OK, Args::new().octet(active));
            } else if frame.kind != Frame::HEARTBEAT {
                return Some(frame);
            }
        }
    }

    /// The next frame must be this method; returns its arguments.
    pub fn expect(&mut self, channel: u16, method: Method) -> Arguments {
        let frame = self.frame();
        assert!(
            frame.is(channel, method),
            "scripted broker: expected {method:?} on channel {channel}, the client sent {:?} (kind {}) on channel {}",
            frame.method(),
            frame.kind,
            frame.channel
        );
        frame.arguments()
    }

    /// Passes over whatever comes before this method; returns its arguments.
    pub fn wait_for(&mut self, channel: u16, method: Method) -> Arguments {
        loop {
            let frame = self.frame();
            if frame.is(channel, method) {
                return frame.arguments();
            }
        }
    }

    /// A method with content: its arguments, the header's bytes from the property flags on, and the body.
    pub fn expect_content(
        &mut self,
        channel: u16,
        method: Method,
    ) -> (Arguments, Vec<u8>, Vec<u8>) {
        let arguments = self.expect(channel, method);
        let header = self.frame();
        assert_eq!((header.kind, header.channel), (Frame::HEADER, channel));
        let size = u64::from_be_bytes(header.payload[4..12].try_into().unwrap()) as usize;
        let mut body = Vec::new();
        while body.len() < size {
            let frame = self.frame();
            assert_eq!((frame.kind, frame.channel), (Frame::BODY, channel));
            body.extend(frame.payload);
        }
        (arguments, header.payload[12..].to_vec(), body)
    }

    /// The client must close its side now, whatever it still sends before.
    pub fn expect_end(&mut self) {
        while self.fill() {}
    }

    /// Sends nothing more, and waits until the client goes away.
    pub fn silent_until_end(&mut self) {
        self.expect_end();
    }

    /// Reads the client's bytes and sends nothing for so long, or until the client goes away.
    pub fn silent_for(&mut self, time: Duration) {
        let deadline = Instant::now() + time;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            self.stream.set_read_timeout(Some(left)).unwrap();
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => break,
                Ok(length) => self.ahead.extend(&chunk[..length]),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => break,
            }
        }
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    }

    /// Asserts that the client sends nothing for so long.
    pub fn expect_nothing_for(&mut self, time: Duration) {
        self.silent_for(time);
        let ahead = &self.ahead;
        assert!(ahead.is_empty(), "the client sent something: {ahead:?}");
    }

    /// Bytes as they are. That the client may be gone is no failure here.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    pub fn send_frame(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        self.send_raw(&Frame::encode(kind, channel, payload));
    }

    pub fn send_method(&mut self, channel: u16, method: Method, arguments: Args) {
        self.send_raw(&Frame::encode_method(channel, method, &arguments));
    }

    /// A method with content, without properties.
    pub fn send_content(&mut self, channel: u16, method: Method, arguments: Args, body: &[u8]) {
        self.send_raw(&Frame::encode_content(
            channel,
            method,
            &arguments,
            &[0, 0],
            body,
        ));
    }

    pub fn send_heartbeat(&mut self) {
        self.send_frame(Frame::HEARTBEAT, 0, &[]);
    }

    /// Ends the sending side; the client may go on sending.
    pub fn half_close(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Ends the stream by a reset instead of an orderly end, when the session is dropped.
    pub fn reset(&mut self) {
        socket2::SockRef::from(&self.stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    }

    /// The other way round: a client in bytes of its own, with channel 1 open on a real broker.
    pub fn client(broker: SocketAddr, user: &str, password: &str, virtual_host: &str) -> Session {
        let mut session = Session::new(TcpStream::connect(broker).unwrap());
        session.send_raw(b"AMQP\x00\x00\x09\x01");
        session.expect(0, m::CONNECTION_START);
        let start_ok = Args::new()
            .table(&[])
            .shortstr("PLAIN")
            .longstr(format!("\0{user}\0{password}").as_bytes())
            .shortstr("en_US");
        session.send_method(0, m::CONNECTION_START_OK, start_ok);
        let mut tune = session.expect(0, m::CONNECTION_TUNE);
        let tune_ok = Args::new().short(tune.short()).long(tune.long()).short(0);
        session.send_method(0, m::CONNECTION_TUNE_OK, tune_ok);
        let open = Args::new().shortstr(virtual_host).octet(0).octet(0);
        session.send_method(0, m::CONNECTION_OPEN, open);
        session.expect(0, m::CONNECTION_OPEN_OK);
        session.send_method(1, m::CHANNEL_OPEN, Args::new().octet(0));
        session.expect(1, m::CHANNEL_OPEN_OK);
        session
    }

    pub fn expect_protocol_header(&mut self) {
        let header = self
            .read_bytes(8)
            .expect("scripted broker: no protocol header");
        assert_eq!(header, b"AMQP\x00\x00\x09\x01");
    }

    pub fn send_start(&mut self, handshake: &Handshake) {
        let capabilities = handshake
            .capabilities
            .iter()
            .map(|name| (*name, Field::Bool(true)))
            .collect();
        let arguments = Args::new()
            .octet(0)
            .octet(9)
            .table(&[
                ("product", Field::Str("scripted broker")),
                ("version", Field::Str("1.0")),
                ("capabilities", Field::Table(capabilities)),
            ])
            .longstr(handshake.mechanisms.as_bytes())
            .longstr(b"en_US");
        self.send_method(0, m::CONNECTION_START, arguments);
    }

    pub fn send_tune(&mut self, handshake: &Handshake) {
        let arguments = Args::new()
            .short(handshake.channel_max)
            .long(handshake.frame_max)
            .short(handshake.heartbeat);
        self.send_method(0, m::CONNECTION_TUNE, arguments);
    }

    /// Opens the connection as a broker would.
    pub fn handshake(&mut self) -> Greeting {
        self.handshake_with(&Handshake::default())
    }

    /// Opens the connection with other numbers than usual.
    pub fn handshake_with(&mut self, handshake: &Handshake) -> Greeting {
        self.expect_protocol_header();
        self.send_start(handshake);
        let mut start_ok = self.expect(0, m::CONNECTION_START_OK);
        let (client_properties, mechanism) = (start_ok.table(), start_ok.shortstr());
        let (response, locale) = (start_ok.longstr(), start_ok.shortstr());
        self.send_tune(handshake);
        let mut tune_ok = self.expect(0, m::CONNECTION_TUNE_OK);
        let (channel_max, frame_max, heartbeat) =
            (tune_ok.short(), tune_ok.long(), tune_ok.short());
        let virtual_host = self.expect(0, m::CONNECTION_OPEN).shortstr();
        self.send_method(0, m::CONNECTION_OPEN_OK, Args::new().shortstr(""));
        Greeting {
            client_properties,
            mechanism,
            response,
            locale,
            channel_max,
            frame_max,
            heartbeat,
            virtual_host,
        }
    }

    /// The client opens this channel; replies with open-ok.
    pub fn open_channel(&mut self, channel: u16) {
        self.expect(channel, m::CHANNEL_OPEN);
        self.send_method(channel, m::CHANNEL_OPEN_OK, Args::new().longstr(b""));
    }

    /// Closes a channel from the broker's side, without waiting for the reply.
    pub fn send_channel_close(&mut self, channel: u16, code: u16, text: &str, cause: Method) {
        let arguments = Args::new()
            .short(code)
            .shortstr(text)
            .short(cause.0)
            .short(cause.1);
        self.send_method(channel, m::CHANNEL_CLOSE, arguments);
    }

    /// Closes the connection from the broker's side, without waiting for the reply.
    pub fn send_connection_close(&mut self, code: u16, text: &str, cause: Method) {
        let arguments = Args::new()
            .short(code)
            .shortstr(text)
            .short(cause.0)
            .short(cause.1);
        self.send_method(0, m::CONNECTION_CLOSE, arguments);
    }

    /// The client consumes; replies with consume-ok, and returns the tag.
    pub fn accept_consumer(&mut self, channel: u16) -> String {
        let mut arguments = self.expect(channel, m::BASIC_CONSUME);
        let (_reserved, _queue, tag) = (
            arguments.short(),
            arguments.shortstr(),
            arguments.shortstr(),
        );
        self.send_method(channel, m::BASIC_CONSUME_OK, Args::new().shortstr(&tag));
        tag
    }

    /// Delivers a message.
    pub fn deliver(&mut self, channel: u16, consumer_tag: &str, delivery_tag: u64, body: &[u8]) {
        let arguments = Args::new()
            .shortstr(consumer_tag)
            .longlong(delivery_tag)
            .octet(0)
            .shortstr("")
            .shortstr("key");
        self.send_content(channel, m::BASIC_DELIVER, arguments, body);
    }

    /// Replies to everything an orderly client still does, until it has closed the connection or the stream: cancels,
    /// closes of channels and of the connection. Passes over the rest.
    pub fn serve_until_end(&mut self) {
        while let Some(frame) = self.frame_or_end() {
            match frame.method() {
                Some(m::CONNECTION_CLOSE) => {
                    self.send_method(0, m::CONNECTION_CLOSE_OK, Args::new());
                    self.expect_end();
                    return;
                }
                Some(m::CHANNEL_OPEN) => {
                    self.send_method(frame.channel, m::CHANNEL_OPEN_OK, Args::new().longstr(b""));
                }
                Some(m::CHANNEL_CLOSE) => {
                    self.send_method(frame.channel, m::CHANNEL_CLOSE_OK, Args::new())
                }
                Some(m::BASIC_CANCEL) => {
                    let tag = frame.arguments().shortstr();
                    self.send_method(
                        frame.channel,
                        m::BASIC_CANCEL_OK,
                        Args::new().shortstr(&tag),
                    );
                }
                _ => {}
            }
        }
    }
}

/// A scripted broker on a port of its own.
pub struct Peer {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Peer {
    /// Runs the script for the first connection that comes. The stream ends with the script.
    pub fn start(script: impl FnOnce(&mut Session) + Send + 'static) -> Peer {
        let mut script = Some(script);
        Peer::serve(1, move |_, session| {
            if let Some(script) = script.take() {
                script(session);
            }
        })
    }

    /// Runs the script for so many connections, one after another, telling it which (from 0).
    pub fn serve(
        connections: usize,
        mut script: impl FnMut(usize, &mut Session) + Send + 'static,
    ) -> Peer {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let name = format!(
            "{} (scripted broker)",
            thread::current().name().unwrap_or("test")
        );
        let run = move || {
            for n in 0..connections {
                let (stream, _) = listener.accept().unwrap();
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                script(n, &mut Session::new(stream));
            }
        };
        let thread = thread::Builder::new().name(name).spawn(run).unwrap();
        Peer {
            address,
            stop,
            thread: Some(thread),
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    pub fn url(&self) -> String {
        format!("amqp://guest:guest@{}/%2f", self.address)
    }

    /// Waits for the script's end; fails when it failed.
    pub fn finish(mut self) {
        if let Some(thread) = self.thread.take() {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the thread if it is still waiting for a connection.
        let _ = TcpStream::connect(self.address);
        if thread.is_finished() && !thread::panicking() {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

/// A channel whose broker follows the script once the channel is open, and then serves an orderly end.
pub fn scripted_channel(script: impl FnOnce(&mut Session) + Send + 'static) -> (Channel, Peer) {
    let peer = Peer::start(move |session| {
        session.handshake();
        session.open_channel(1);
        script(session);
        session.serve_until_end();
    });
    let connection = Connection::open(peer.url()).unwrap();
    (connection.channel().unwrap(), peer)
}

/// Closes the connection, and waits for the broker's script to end.
pub fn finish(channel: Channel, peer: Peer) {
    channel.connection().close().unwrap();
    peer.finish();
}
