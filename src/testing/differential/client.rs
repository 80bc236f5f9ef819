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
const PATIENCE: Duration = Duration::from_secs(20);

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
    record: Arc<Record>,
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

    /// Declares a queue with the flags that are named: `passive durable exclusive auto_delete no_wait`.
    pub(super) fn queue(&mut self, channel: u16, name: &str, flags: &str, arguments: &FieldTable) {
        let has = |flag: &str| flags.split(' ').any(|word| word == flag);
        let full = self.name(name);
        self.record
            .declared
            .lock()
            .unwrap()
            .push((true, full.clone()));
        self.send(
            channel,
            &Method::QueueDeclare {
                queue: full.as_str().into(),
                passive: has("passive"),
                durable: has("durable"),
                exclusive: has("exclusive"),
                auto_delete: has("auto_delete"),
                no_wait: has("no_wait"),
                arguments: arguments.into(),
            },
        );
    }

    /// Declares a queue, and waits until that is done or refused. If it is refused, the channel is opened again.
    pub(super) fn try_declare(
        &mut self,
        channel: u16,
        name: &str,
        flags: &str,
        arguments: &FieldTable,
    ) {
        self.queue(channel, name, flags, arguments);
        self.sync(channel);
    }

    /// Deletes a queue, whatever is in it.
    pub(super) fn delete_queue(&mut self, channel: u16, name: &str) {
        self.delete_queue_if(channel, name, false, false);
    }

    pub(super) fn delete_queue_if(
        &mut self,
        channel: u16,
        name: &str,
        if_unused: bool,
        if_empty: bool,
    ) {
        let full = self.name(name);
        self.send(
            channel,
            &Method::QueueDelete {
                queue: full.as_str().into(),
                if_unused,
                if_empty,
                no_wait: false,
            },
        );
    }

    pub(super) fn purge(&mut self, channel: u16, name: &str) {
        let full = self.name(name);
        let queue = full.as_str().into();
        let no_wait = false;
        self.send(channel, &Method::QueuePurge { queue, no_wait });
    }

    pub(super) fn declare(&mut self, channel: u16, name: &str) {
        self.declare_as(channel, name, "", &FieldTable::new());
    }

    pub(super) fn declare_with(&mut self, channel: u16, name: &str, arguments: &FieldTable) {
        self.declare_as(channel, name, "", arguments);
    }

    /// Declares a queue with flags: see [`queue`](Client::queue).
    pub(super) fn declare_as(
        &mut self,
        channel: u16,
        name: &str,
        flags: &str,
        arguments: &FieldTable,
    ) {
        self.queue(channel, name, flags, arguments);
        self.until("QueueDeclareOk");
    }

    /// Arguments of a queue whose dead letters go to this one, through the default exchange.
    pub(super) fn dead_letters_to(&self, queue: &str) -> FieldTable {
        let queue = self.name(queue);
        FieldTable::from([
            ("x-dead-letter-exchange", ""),
            ("x-dead-letter-routing-key", &queue),
        ])
    }

    /// Asks how many messages and consumers a queue has.
    pub(super) fn count(&mut self, channel: u16, name: &str) {
        self.declare_as(channel, name, "passive", &FieldTable::new());
    }

    /// Waits until a queue has so many messages, without writing that down.
    pub(super) fn await_count(&mut self, channel: u16, name: &str, messages: u32) {
        let begun = Instant::now();
        let full = self.name(name);
        loop {
            let kept = self.record.lines().len();
            self.queue(channel, name, "passive", &FieldTable::new());
            let text = self.next().unwrap_or_default();
            let expected = format!("QueueDeclareOk {{ queue: {full:?}, message_count: {messages},");
            if text.starts_with(&expected) || !text.starts_with("QueueDeclareOk") {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{text}, not {messages}");
            self.record.lines().truncate(kept);
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until a message that is published now, with this expiration, has expired, without writing that down. What was
    /// published before with the same has expired by then as well.
    pub(super) fn await_expiry(&mut self, expiration: &str) {
        const CHANNEL: u16 = 150;
        let kept = self.record.lines().len();
        let properties = BasicProperties::new().expiration(expiration);
        self.open_channel(CHANNEL);
        self.declare(CHANNEL, "clock");
        // What is confirmed is in its queue, or has expired already.
        self.confirms(CHANNEL);
        self.publish_with(CHANNEL, "clock", &properties, "");
        self.until("BasicAck");
        self.await_count(CHANNEL, "clock", 0);
        self.close_channel(CHANNEL);
        self.record.lines().truncate(kept);
    }

    /// Waits until a queue has gone; the channel is closed over it.
    pub(super) fn await_gone(&mut self, channel: u16, name: &str) {
        let begun = Instant::now();
        loop {
            let kept = self.record.lines().len();
            self.queue(channel, name, "passive", &FieldTable::new());
            let text = self.next().unwrap_or_default();
            if !text.starts_with("QueueDeclareOk") {
                self.send(channel, &Method::ChannelCloseOk {});
                self.open_channel(channel);
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{text}");
            self.record.lines().truncate(kept);
            // A queue that is looked at for ever would never expire.
            std::thread::sleep(Duration::from_millis(400));
        }
    }

    pub(super) fn exchange(&mut self, channel: u16, name: &str, kind: &str) {
        self.exchange_with(channel, name, kind, "", &FieldTable::new());
    }

    /// Declares an exchange with the flags that are named: `passive durable auto_delete internal`.
    pub(super) fn exchange_with(
        &mut self,
        channel: u16,
        name: &str,
        kind: &str,
        flags: &str,
        arguments: &FieldTable,
    ) {
        let has = |flag: &str| flags.split(' ').any(|word| word == flag);
        let full = self.name(name);
        if !full.starts_with("amq.") {
            self.record
                .declared
                .lock()
                .unwrap()
                .push((false, full.clone()));
        }
        self.send(
            channel,
            &Method::ExchangeDeclare {
                exchange: full.as_str().into(),
                exchange_type: kind.into(),
                passive: has("passive"),
                durable: has("durable"),
                auto_delete: has("auto_delete"),
                internal: has("internal"),
                no_wait: false,
                arguments: arguments.into(),
            },
        );
        self.until("ExchangeDeclareOk");
    }

    pub(super) fn delete_exchange(&mut self, channel: u16, name: &str, if_unused: bool) {
        let full = self.name(name);
        self.send(
            channel,
            &Method::ExchangeDelete {
                exchange: full.as_str().into(),
                if_unused,
                no_wait: false,
            },
        );
    }

    pub(super) fn bind(&mut self, channel: u16, queue: &str, exchange: &str, key: &str) {
        self.bind_with(channel, queue, exchange, key, &FieldTable::new());
    }

    pub(super) fn bind_with(
        &mut self,
        channel: u16,
        queue: &str,
        exchange: &str,
        key: &str,
        arguments: &FieldTable,
    ) {
        let (queue, exchange) = (self.name(queue), self.name(exchange));
        self.send(
            channel,
            &Method::QueueBind {
                queue: queue.as_str().into(),
                exchange: exchange.as_str().into(),
                routing_key: key.into(),
                no_wait: false,
                arguments: arguments.into(),
            },
        );
        self.until("QueueBindOk");
    }

    pub(super) fn unbind(&mut self, channel: u16, queue: &str, exchange: &str, key: &str) {
        let (queue, exchange) = (self.name(queue), self.name(exchange));
        self.send(
            channel,
            &Method::QueueUnbind {
                queue: queue.as_str().into(),
                exchange: exchange.as_str().into(),
                routing_key: key.into(),
                arguments: (&FieldTable::new()).into(),
            },
        );
    }

    pub(super) fn bind_exchange(&mut self, channel: u16, to: &str, from: &str, key: &str) {
        let (to, from) = (self.name(to), self.name(from));
        self.send(
            channel,
            &Method::ExchangeBind {
                destination: to.as_str().into(),
                source: from.as_str().into(),
                routing_key: key.into(),
                no_wait: false,
                arguments: (&FieldTable::new()).into(),
            },
        );
        self.until("ExchangeBindOk");
    }

    /// Publishes to the default exchange.
    pub(super) fn publish(&mut self, channel: u16, queue: &str, body: &str) {
        self.publish_with(channel, queue, &BasicProperties::new(), body);
    }

    /// Publishes to the default exchange, with properties.
    pub(super) fn publish_with(
        &mut self,
        channel: u16,
        queue: &str,
        properties: &BasicProperties,
        body: &str,
    ) {
        let key = self.name(queue);
        self.publish_to(channel, "", &key, properties, body, false);
    }

    pub(super) fn publish_all(&mut self, channel: u16, queue: &str, bodies: &[&str]) {
        for body in bodies {
            self.publish(channel, queue, body);
        }
    }

    /// Publishes on a channel in confirm mode, and waits until the broker has confirmed that.
    pub(super) fn publish_confirmed(&mut self, channel: u16, queue: &str, body: &str) {
        self.publish(channel, queue, body);
        self.until("BasicAck");
    }

    /// Publishes one by one to a queue with a consumer, and waits for each to be delivered.
    pub(super) fn deliver(&mut self, channel: u16, queue: &str, bodies: &[&str]) {
        for body in bodies {
            self.publish(channel, queue, body);
            self.until("BasicDeliver");
        }
    }

    pub(super) fn publish_to(
        &mut self,
        channel: u16,
        exchange: &str,
        key: &str,
        properties: &BasicProperties,
        body: &str,
        mandatory: bool,
    ) {
        let exchange = self.name(exchange);
        let mut bytes = Vec::new();
        let publish = Method::BasicPublish {
            exchange: exchange.as_str().into(),
            routing_key: key.into(),
            mandatory,
            immediate: false,
        };
        frame::write_method(&mut bytes, channel, &publish).unwrap();
        frame::write_header(&mut bytes, channel, body.len() as u64, properties).unwrap();
        for chunk in body.as_bytes().chunks(4000) {
            frame::write_body(&mut bytes, channel, chunk);
        }
        self.send_bytes(&bytes);
    }

    pub(super) fn confirms(&mut self, channel: u16) {
        self.send(channel, &Method::ConfirmSelect { no_wait: false });
        self.until("ConfirmSelectOk");
    }

    pub(super) fn select(&mut self, channel: u16) {
        self.send(channel, &Method::TxSelect {});
        self.until("TxSelectOk");
    }

    pub(super) fn commit(&mut self, channel: u16) {
        self.send(channel, &Method::TxCommit {});
        self.until("TxCommitOk");
    }

    pub(super) fn rollback(&mut self, channel: u16) {
        self.send(channel, &Method::TxRollback {});
        self.until("TxRollbackOk");
    }

    pub(super) fn consume(&mut self, channel: u16, queue: &str, tag: &str) {
        self.consume_with(channel, queue, tag, "", &FieldTable::new());
    }

    /// Consumes, with the flags that are named: `no_ack exclusive`.
    pub(super) fn consume_with(
        &mut self,
        channel: u16,
        queue: &str,
        tag: &str,
        flags: &str,
        arguments: &FieldTable,
    ) {
        let has = |flag: &str| flags.split(' ').any(|word| word == flag);
        let queue = self.name(queue);
        self.send(
            channel,
            &Method::BasicConsume {
                queue: queue.as_str().into(),
                consumer_tag: tag.into(),
                no_local: false,
                no_ack: has("no_ack"),
                exclusive: has("exclusive"),
                no_wait: false,
                arguments: arguments.into(),
            },
        );
        self.until("BasicConsumeOk");
    }

    pub(super) fn cancel(&mut self, channel: u16, tag: &str) {
        let no_wait = false;
        let consumer_tag = tag.into();
        self.send(
            channel,
            &Method::BasicCancel {
                consumer_tag,
                no_wait,
            },
        );
        self.until("BasicCancelOk");
    }

    pub(super) fn qos(&mut self, channel: u16, prefetch_count: u16, global: bool) {
        self.send(
            channel,
            &Method::BasicQos {
                prefetch_size: 0,
                prefetch_count,
                global,
            },
        );
        self.until("BasicQosOk");
    }

    pub(super) fn get(&mut self, channel: u16, queue: &str, no_ack: bool) {
        let queue = self.name(queue);
        let queue = queue.as_str().into();
        self.send(channel, &Method::BasicGet { queue, no_ack });
        self.until("BasicGet");
    }

    /// Publishes so many messages, whose bodies are their numbers, and waits until they are in their queue.
    pub(super) fn fill(&mut self, channel: u16, queue: &str, messages: u32) {
        for number in 0..messages {
            self.publish(channel, queue, &number.to_string());
        }
        self.await_count(channel, queue, messages);
    }

    /// Waits until a queue has so many messages, and fetches them all.
    pub(super) fn take_all(&mut self, channel: u16, queue: &str, messages: u32) {
        self.await_count(channel, queue, messages);
        for _ in 0..messages {
            self.get(channel, queue, true);
        }
    }

    /// Fetches a message and rejects it, so that it is dropped or becomes a dead letter.
    pub(super) fn fetch_and_reject(&mut self, channel: u16, queue: &str) {
        self.get(channel, queue, false);
        self.reject(channel, self.last_tag, false);
    }

    /// Fetches a message and gives it back.
    pub(super) fn fetch_and_requeue(&mut self, channel: u16, queue: &str) {
        self.get(channel, queue, false);
        self.requeue_last(channel);
    }

    /// Gives back the message that came last.
    pub(super) fn requeue_last(&mut self, channel: u16) {
        self.reject(channel, self.last_tag, true);
    }

    pub(super) fn recover(&mut self, channel: u16) {
        self.send(channel, &Method::BasicRecover { requeue: true });
        self.until("BasicRecoverOk");
    }

    pub(super) fn ack(&mut self, channel: u16, delivery_tag: u64, multiple: bool) {
        self.send(
            channel,
            &Method::BasicAck {
                delivery_tag,
                multiple,
            },
        );
    }

    pub(super) fn nack(&mut self, channel: u16, delivery_tag: u64, multiple: bool, requeue: bool) {
        self.send(
            channel,
            &Method::BasicNack {
                delivery_tag,
                multiple,
                requeue,
            },
        );
    }

    pub(super) fn reject(&mut self, channel: u16, delivery_tag: u64, requeue: bool) {
        self.send(
            channel,
            &Method::BasicReject {
                delivery_tag,
                requeue,
            },
        );
    }
}
