//! A client that sends what a script has it send, and writes down in order all that a broker sends.

use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::shown::{show_properties, shown, without_made_names};
use super::transcript::Record;
use crate::protocol::frame::{self, Frame};
use crate::protocol::method::Method;
use crate::protocol::wire::WireError;
use crate::{BasicProperties, FieldTable, FieldValue};

/// How long a broker may take for anything.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// What clients claim that they can do, so that nothing is held back from them.
const CAPABILITIES: [&str; 5] = [
    "basic.nack",
    "connection.blocked",
    "consumer_cancel_notify",
    "publisher_confirms",
    "authentication_failure_close",
];

/// A client of a script, in frames.
pub(super) struct Client {
    name: &'static str,
    stream: TcpStream,
    received: Vec<u8>,
    pub(super) frame_max: u32,
    /// The release line of the RabbitMQ that the script is compared with.
    version: (u32, u32),
    /// Of the message that came last.
    pub(super) last_tag: u64,
    /// It sent `connection.close`, and has no `connection.close-ok` yet.
    closed_by_broker: bool,
    prefix: String,
    pub(super) record: Arc<Record>,
    syncs: u32,
}

/// Scripts name things shortly; `amq.` names and the empty one are the broker's.
pub(super) fn full_name(prefix: &str, name: &str) -> String {
    if name.is_empty() || name.starts_with("amq.") {
        name.to_owned()
    } else {
        format!("{prefix}{name}")
    }
}

impl Client {
    /// One that has only connected its socket.
    pub(super) fn new(
        name: &'static str,
        address: &str,
        version: (u32, u32),
        prefix: &str,
        record: &Arc<Record>,
    ) -> Client {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client {
            name,
            stream,
            received: Vec::new(),
            frame_max: 131_072,
            version,
            last_tag: 0,
            closed_by_broker: false,
            prefix: prefix.to_owned(),
            record: Arc::clone(record),
            syncs: 0,
        }
    }

    pub(super) fn send_bytes(&mut self, bytes: &[u8]) {
        // The broker may have closed the connection; what it sent before is read all the same.
        let _ = self.stream.write_all(bytes);
    }

    pub(super) fn send(&mut self, channel: u16, method: &Method<'_>) {
        let mut bytes = Vec::new();
        frame::write_method(&mut bytes, channel, method).unwrap();
        self.send_bytes(&bytes);
    }

    /// A frame of any type.
    pub(super) fn raw(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        let mut bytes = vec![kind];
        bytes.extend_from_slice(&channel.to_be_bytes());
        bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes());
        bytes.extend_from_slice(payload);
        bytes.push(0xce);
        self.send_bytes(&bytes);
    }

    fn line(&mut self, text: &str) {
        let text = text.replace(&self.prefix, "");
        let line = format!("{} {}", self.name, without_made_names(&text));
        self.record.lines().push(line);
    }

    pub(super) fn name(&self, name: &str) -> String {
        full_name(&self.prefix, name)
    }

    /// Reads one frame: type, channel, payload. `None` at the end.
    pub(super) fn frame(&mut self) -> Option<(u8, u16, Vec<u8>)> {
        let begun = Instant::now();
        loop {
            match frame::parse(&self.received, 0) {
                Ok(Some((frame, length))) => {
                    let frame = match frame {
                        Frame::Method { channel, payload } => (1, channel, payload.to_vec()),
                        Frame::Header { channel, payload } => (2, channel, payload.to_vec()),
                        Frame::Body { channel, payload } => (3, channel, payload.to_vec()),
                        Frame::Heartbeat => (8, 0, Vec::new()),
                    };
                    self.received.drain(..length);
                    return Some(frame);
                }
                Ok(None) => {}
                Err(WireError::UnknownFrameType(b'A')) if self.received.len() >= 8 => {
                    let header: Vec<u8> = self.received.drain(..8).collect();
                    self.line(&format!("header {header:?}"));
                    continue;
                }
                Err(error) => panic!("{error}: {:?}", self.received),
            }
            let mut chunk = vec![0; 65_536];
            match self.stream.read(&mut chunk) {
                Ok(0) => break,
                Ok(count) => self.received.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let lines = self.record.lines().join("\n");
                    panic!("nothing came in {:?}; before:\n{lines}", begun.elapsed());
                }
                // A reset. Which of the two it is depends on what was not read yet.
                Err(_) => break,
            }
        }
        None
    }

    /// Reads one method, with its content, and writes it down. `None` at the end, which is written down as well.
    pub(super) fn next(&mut self) -> Option<String> {
        let text = loop {
            let Some((kind, channel, payload)) = self.frame() else {
                self.line("the end");
                return None;
            };
            match kind {
                8 => continue,
                1 => {
                    let method = Method::decode(&payload).unwrap();
                    let mut text = shown(&method);
                    if let Method::BasicDeliver { delivery_tag, .. }
                    | Method::BasicGetOk { delivery_tag, .. } = method
                    {
                        self.last_tag = delivery_tag;
                    }
                    if matches!(
                        method,
                        Method::BasicDeliver { .. }
                            | Method::BasicGetOk { .. }
                            | Method::BasicReturn { .. }
                    ) {
                        text += &self.content(channel);
                        // Before 4.3 no dead letter was redelivered that its queue had not delivered before.
                        if self.version < (4, 3) && text.contains("x-death") {
                            text = text.replace("redelivered: true", "redelivered: false");
                        }
                    }
                    self.closed_by_broker |= matches!(method, Method::ConnectionClose { .. });
                    if !text.starts_with("BasicCancelOk { consumer_tag: \"sync") {
                        self.line(&format!("{channel}: {text}"));
                    }
                    break text;
                }
                other => break format!("a frame of type {other} on {channel}"),
            }
        };
        Some(text)
    }

    /// The content behind a method: properties in the order in which they came, and the body.
    fn content(&mut self, channel: u16) -> String {
        let Some((2, on, header)) = self.frame() else {
            return " without a header".into();
        };
        assert_eq!(on, channel);
        let (size, properties) = frame::split_header(&header).unwrap();
        let mut text = String::new();
        // RabbitMQ 3 has the fields of `x-death` in another order, and no `x-last-death` headers: neither is written down.
        show_properties(&mut text, properties, self.version < (4, 0));
        let mut body = Vec::new();
        while (body.len() as u64) < size {
            let Some((3, on, payload)) = self.frame() else {
                return " without its body".into();
            };
            assert_eq!(on, channel);
            assert!(
                self.frame_max == 0 || payload.len() + 8 <= self.frame_max as usize,
                "a frame of {} bytes",
                payload.len()
            );
            body.extend_from_slice(&payload);
        }
        let _ = write!(
            text,
            " {:?} of {}",
            String::from_utf8_lossy(&body[..body.len().min(30)]),
            body.len()
        );
        text
    }

    /// Reads until a method has come whose text begins so, or the end.
    pub(super) fn until(&mut self, method: &str) {
        if self.closed_by_broker && !method.starts_with("Connection") {
            return;
        }
        while let Some(text) = self.next() {
            let ended = text.starts_with("ConnectionClose {") || text.starts_with("ChannelClose {");
            if text.starts_with(method) || ended {
                return;
            }
        }
    }

    /// Reads so many methods.
    pub(super) fn take(&mut self, count: usize) {
        for _ in 0..count {
            if self.next().is_none() {
                return;
            }
        }
    }

    /// Reads until the channel has done all that it was sent; a closed channel is agreed to and opened again.
    pub(super) fn sync(&mut self, channel: u16) {
        if self.closed_by_broker {
            return;
        }
        self.syncs += 1;
        let tag = format!("sync-{}", self.syncs);
        let expected = format!("BasicCancelOk {{ consumer_tag: {tag:?} }}");
        let no_wait = false;
        let consumer_tag = tag.as_str().into();
        self.send(
            channel,
            &Method::BasicCancel {
                consumer_tag,
                no_wait,
            },
        );
        while let Some(text) = self.next() {
            if text == expected {
                return;
            }
            if text.starts_with("ChannelClose {") {
                self.send(channel, &Method::ChannelCloseOk {});
                self.open_channel(channel);
                return;
            }
            if text.starts_with("ConnectionClose {") {
                return self.agree();
            }
        }
    }

    /// Whether the broker leaves the stream open for a moment. Nothing but heartbeats may come meanwhile.
    pub(super) fn is_left_open(&mut self) -> bool {
        let begun = Instant::now();
        self.stream
            .set_read_timeout(Some(Duration::from_millis(300)))
            .unwrap();
        let mut chunk = [0; 64];
        let ended = loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => break true,
                Ok(count) => assert!(chunk[..count]
                    .iter()
                    .all(|byte| [8, 0, 0xce].contains(byte))),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break false,
                Err(_) => break true,
            }
            if begun.elapsed() > Duration::from_millis(300) {
                break false;
            }
        };
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        !ended
    }

    /// Reads to the end.
    pub(super) fn end(&mut self) {
        while self.next().is_some() {}
    }

    /// Agrees to `connection.close`, and reads to the end.
    pub(super) fn agree(&mut self) {
        self.closed_by_broker = false;
        self.send(0, &Method::ConnectionCloseOk {});
        self.end();
    }

    /// The same if the broker has closed the connection.
    pub(super) fn agree_if_asked(&mut self) {
        if self.closed_by_broker {
            self.agree();
        }
    }

    /// Reads one method, agrees if the connection is closed with it, and reads to the end.
    pub(super) fn agree_or_end(&mut self) {
        if self.next().is_some() {
            self.agree();
        }
    }

    /// Fetches a request, and returns where its reply goes, which is not written down.
    pub(super) fn reply_to(&mut self, channel: u16, queue: &str) -> String {
        let queue = self.name(queue);
        let queue = queue.as_str().into();
        let no_ack = true;
        self.send(channel, &Method::BasicGet { queue, no_ack });
        let method = self.frame().unwrap();
        let (_, _, header) = self.frame().unwrap();
        let properties = BasicProperties::from(frame::read_header(&header).unwrap().1);
        let body = self.frame().unwrap();
        self.line(&format!("fetched {} bytes, {}", body.2.len(), method.0));
        properties.reply_to.unwrap().to_string()
    }

    /// Fetches a message, and returns its headers, which are not written down.
    pub(super) fn take_headers(&mut self, channel: u16, queue: &str) -> FieldTable {
        let queue = self.name(queue);
        let queue = queue.as_str().into();
        let no_ack = true;
        self.send(channel, &Method::BasicGet { queue, no_ack });
        self.frame().unwrap();
        let (_, _, header) = self.frame().unwrap();
        let properties = BasicProperties::from(frame::read_header(&header).unwrap().1);
        self.frame().unwrap();
        properties.headers.unwrap_or_default()
    }

    /// Waits until the channel has done all that it was sent, whether it has been closed or not.
    pub(super) fn sync_or_open(&mut self, channel: u16) {
        let last = self.record.lines().last().cloned().unwrap_or_default();
        if last.contains(&format!(" {channel}: ChannelClose {{")) {
            self.open_again(channel);
        } else {
            self.sync(channel);
        }
    }

    /// Closes the connection properly.
    pub(super) fn close(mut self) {
        self.send(
            0,
            &Method::ConnectionClose {
                reply_code: 200,
                reply_text: "".into(),
                class_id: 0,
                method_id: 0,
            },
        );
        self.until("ConnectionCloseOk");
    }

    // ---- methods

    pub(super) fn start_ok(&mut self, mechanism: &str, response: &[u8]) {
        let capabilities: FieldTable = CAPABILITIES.into_iter().map(|name| (name, true)).collect();
        self.start_ok_with(mechanism, response, &capabilities);
    }

    pub(super) fn start_ok_with(
        &mut self,
        mechanism: &str,
        response: &[u8],
        capabilities: &FieldTable,
    ) {
        let capabilities = FieldValue::from(capabilities.clone());
        let properties = FieldTable::from([("capabilities", capabilities)]);
        self.send(
            0,
            &Method::ConnectionStartOk {
                client_properties: (&properties).into(),
                mechanism: mechanism.into(),
                response,
                locale: "en_US".into(),
            },
        );
    }

    pub(super) fn tune_ok(&mut self, channel_max: u16, frame_max: u32, heartbeat: u16) {
        self.frame_max = frame_max;
        self.send(
            0,
            &Method::ConnectionTuneOk {
                channel_max,
                frame_max,
                heartbeat,
            },
        );
    }

    pub(super) fn open_vhost(&mut self, vhost: &str) {
        let virtual_host = vhost.into();
        self.send(0, &Method::ConnectionOpen { virtual_host });
    }

    pub(super) fn open_channel(&mut self, channel: u16) {
        self.send(channel, &Method::ChannelOpen {});
        self.until("ChannelOpenOk");
    }

    /// Agrees that a channel is closed, and opens it again.
    pub(super) fn open_again(&mut self, channel: u16) {
        self.send(channel, &Method::ChannelCloseOk {});
        self.open_channel(channel);
    }

    pub(super) fn close_channel(&mut self, channel: u16) {
        self.send_channel_close(channel);
        self.until("ChannelCloseOk");
    }

    /// Closes a channel without waiting for the reply.
    pub(super) fn send_channel_close(&mut self, channel: u16) {
        self.send(
            channel,
            &Method::ChannelClose {
                reply_code: 200,
                reply_text: "".into(),
                class_id: 0,
                method_id: 0,
            },
        );
    }
}
