//! Applies the operations to one broker and the other, in AMQP's own methods, and records what they send.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::methods;
use super::operations::{Operation, What, ALL, UNKNOWN};
use crate::protocol::frame::{self, Frame, PROTOCOL_HEADER};
use crate::protocol::method::Method;
use crate::{BasicProperties, FieldTable, FieldValue};

const FRAME_MAX: u32 = 131_072;

/// How long a broker may take for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// A message that was delivered to a channel or fetched by it, and is not acknowledged.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Unacknowledged {
    pub(super) tag: u64,
    /// Consumer and body: what distinguishes it from others, on either side.
    pub(super) identity: String,
}

#[derive(Default)]
pub(super) struct Channel {
    pub(super) open: bool,
    pub(super) unacknowledged: Vec<Unacknowledged>,
    pub(super) consumers: BTreeMap<String, bool>,
    pub(super) confirms: bool,
    pub(super) transaction: bool,
    pub(super) published: u64,
    confirmed: BTreeMap<u64, bool>,
}

/// What its method has of it, its properties, its body as far as it has come, and how long that is to be.
type Content = (String, Option<String>, Vec<u8>, Option<u64>);

/// A connection, in frames.
pub(super) struct Wire {
    stream: TcpStream,
    received: Vec<u8>,
    open: bool,
    pub(super) channels: BTreeMap<u16, Channel>,
    /// The content that is coming, on each channel: what it is of, and what is there.
    content: BTreeMap<u16, Content>,
    /// What the broker sent, for each channel and, as to deliveries, for each consumer.
    records: BTreeMap<String, Vec<String>>,
    syncs: u64,
    /// The release line of the RabbitMQ that takes part, once it is known.
    version: Option<(u32, u32)>,
}

/// One of the two brokers.
pub(super) struct Side {
    address: String,
    wires: [Option<Wire>; 2],
    control: Wire,
    records: BTreeMap<String, Vec<String>>,
}

pub(super) struct Pair {
    sides: [Side; 2],
    prefix: String,
    bodies: u32,
}

impl Wire {
    fn open(address: &str, version: Option<(u32, u32)>) -> Wire {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut wire = Wire {
            stream,
            received: Vec::new(),
            open: true,
            channels: BTreeMap::new(),
            content: BTreeMap::new(),
            records: BTreeMap::new(),
            syncs: 0,
            version,
        };
        wire.stream.write_all(&PROTOCOL_HEADER).unwrap();
        let capabilities: FieldTable = [("consumer_cancel_notify", true), ("basic.nack", true)]
            .into_iter()
            .collect();
        let properties = FieldTable::from([("capabilities", FieldValue::from(capabilities))]);
        wire.send(
            0,
            &Method::ConnectionStartOk {
                client_properties: (&properties).into(),
                mechanism: "PLAIN".into(),
                response: b"\0guest\0guest",
                locale: "en_US".into(),
            },
        );
        let (channel_max, frame_max, heartbeat) = (100, FRAME_MAX, 0);
        wire.send(
            0,
            &Method::ConnectionTuneOk {
                channel_max,
                frame_max,
                heartbeat,
            },
        );
        wire.send(
            0,
            &Method::ConnectionOpen {
                virtual_host: "/".into(),
            },
        );
        wire.wait_for("ConnectionOpenOk");
        wire.records.clear();
        wire
    }

    pub(super) fn send(&mut self, channel: u16, method: &Method<'_>) {
        let mut bytes = Vec::new();
        frame::write_method(&mut bytes, channel, method).unwrap();
        // The broker may have closed the connection; what it sent then is read anyway.
        let _ = self.stream.write_all(&bytes);
    }

    pub(super) fn publish(
        &mut self,
        channel: u16,
        method: &Method<'_>,
        properties: &BasicProperties,
        body: &[u8],
    ) {
        let mut bytes = Vec::new();
        frame::write_method(&mut bytes, channel, method).unwrap();
        frame::write_header(&mut bytes, channel, body.len() as u64, properties).unwrap();
        for chunk in body.chunks(FRAME_MAX as usize - 8) {
            frame::write_body(&mut bytes, channel, chunk);
        }
        let _ = self.stream.write_all(&bytes);
    }

    /// Reads one frame; `None` at the end.
    fn read(&mut self) -> Option<String> {
        loop {
            if let Some((frame, length)) = frame::parse(&self.received, 0).unwrap() {
                let frame = match frame {
                    Frame::Method { channel, payload } => (1, channel, payload.to_vec()),
                    Frame::Header { channel, payload } => (2, channel, payload.to_vec()),
                    Frame::Body { channel, payload } => (3, channel, payload.to_vec()),
                    Frame::Heartbeat => (8, 0, Vec::new()),
                };
                self.received.drain(..length);
                return Some(self.take(frame.0, frame.1, &frame.2));
            }
            let mut chunk = vec![0; 65536];
            match self.stream.read(&mut chunk) {
                Ok(0) | Err(_) => {
                    self.open = false;
                    return None;
                }
                Ok(count) => self.received.extend_from_slice(&chunk[..count]),
            }
        }
    }

    fn note(&mut self, what: String, text: String) {
        self.records.entry(what).or_default().push(text);
    }

    /// Takes in a frame; returns the method's text.
    fn take(&mut self, kind: u8, channel: u16, payload: &[u8]) -> String {
        match kind {
            1 => self.take_method(channel, payload),
            2 => {
                let (size, properties) = frame::read_header(payload).unwrap();
                let mut properties = BasicProperties::from(properties);
                forget_times(&mut properties);
                if let Some(content) = self.content.get_mut(&channel) {
                    content.1 = Some(format!("{properties:?}"));
                    content.3 = Some(size);
                }
                self.end_content(channel);
                String::new()
            }
            3 => {
                if let Some(content) = self.content.get_mut(&channel) {
                    content.2.extend_from_slice(payload);
                }
                self.end_content(channel);
                String::new()
            }
            _ => String::new(),
        }
    }

    fn take_method(&mut self, number: u16, payload: &[u8]) -> String {
        let method = Method::decode(payload).unwrap();
        let text = format!("{method:?}");
        let channel = self.channels.entry(number).or_default();
        match method {
            Method::ConnectionStart {
                server_properties, ..
            } => {
                let properties = server_properties.values().unwrap();
                let version = properties.get("version").and_then(FieldValue::as_str);
                let mut parts = version.into_iter().flat_map(|version| version.split('.'));
                let mut part = || parts.next()?.parse().ok();
                let own = (part().unwrap_or(0), part().unwrap_or(0));
                self.version.get_or_insert(own);
            }
            Method::BasicDeliver {
                consumer_tag,
                delivery_tag,
                redelivered,
                exchange,
                routing_key,
            } => {
                let tag = consumer_tag.to_text();
                if !channel.consumers.get(&tag).copied().unwrap_or(false) {
                    let identity = format!("consumer {tag}");
                    channel.unacknowledged.push(Unacknowledged {
                        tag: delivery_tag,
                        identity,
                    });
                }
                let text = format!("deliver {redelivered} {exchange:?} {routing_key:?}");
                self.content.insert(
                    number,
                    (
                        format!("{number} consumer {tag}\n{text}"),
                        None,
                        Vec::new(),
                        None,
                    ),
                );
                return String::new();
            }
            Method::BasicGetOk {
                delivery_tag,
                redelivered,
                exchange,
                routing_key,
                message_count,
            } => {
                let identity = "get".to_owned();
                channel.unacknowledged.push(Unacknowledged {
                    tag: delivery_tag,
                    identity,
                });
                let text =
                    format!("get-ok {redelivered} {exchange:?} {routing_key:?} {message_count}");
                self.content.insert(
                    number,
                    (format!("{number}\n{text}"), None, Vec::new(), None),
                );
                return "BasicGetOk".into();
            }
            Method::BasicReturn { .. } => {
                self.content.insert(
                    number,
                    (format!("{number}\n{text}"), None, Vec::new(), None),
                );
                return String::new();
            }
            Method::BasicAck {
                delivery_tag,
                multiple,
            } => channel.confirm(delivery_tag, multiple, true),
            Method::BasicNack {
                delivery_tag,
                multiple,
                ..
            } => channel.confirm(delivery_tag, multiple, false),
            Method::ChannelClose { .. } => {
                *channel = Channel::default();
                self.send(number, &Method::ChannelCloseOk {});
                self.note(number.to_string(), text.clone());
            }
            Method::ConnectionClose { .. } => {
                self.send(0, &Method::ConnectionCloseOk {});
                self.open = false;
                self.note(number.to_string(), text.clone());
            }
            Method::BasicCancel { consumer_tag, .. } => {
                channel.consumers.remove(&consumer_tag.to_text());
                // From another queue's process than what else comes.
                self.note(format!("{number} cancelled"), text.clone());
            }
            Method::BasicCancelOk { consumer_tag } if consumer_tag.starts_with(b"sync") => {}
            _ => self.note(number.to_string(), text.clone()),
        }
        text
    }

    fn end_content(&mut self, channel: u16) {
        let complete = self
            .content
            .get(&channel)
            .is_some_and(|content| content.3 == Some(content.2.len() as u64));
        if !complete {
            return;
        }
        let Some((what, properties, body, _)) = self.content.remove(&channel) else {
            return;
        };
        let shown = String::from_utf8_lossy(&body[..body.len().min(12)]).into_owned();
        let (what, text) = what.split_once('\n').unwrap();
        if let Some(message) = self
            .channels
            .get_mut(&channel)
            .and_then(|channel| channel.unacknowledged.last_mut())
        {
            if !message.identity.contains(" body ") && !text.starts_with("BasicReturn") {
                let _ = write!(message.identity, " body {shown}");
            }
        }
        let properties = properties.unwrap_or_default();
        // Before 4.3 no dead letter was redelivered that its queue had not delivered before.
        let text = match self.version < Some((4, 3)) && properties.contains("x-death") {
            true => text.replacen(" true ", " false ", 1),
            false => text.to_owned(),
        };
        let text = format!("{text} {properties} {shown} of {}", body.len());
        self.note(what.to_owned(), text);
    }

    /// Reads until a method whose text begins so has come, or the channel or connection has ended.
    pub(super) fn wait_for(&mut self, method: &str) {
        while self.open {
            match self.read() {
                Some(text) if text.starts_with(method) || text.starts_with("ConnectionClose ") => {
                    return
                }
                Some(_) => {}
                None => return,
            }
        }
    }

    /// Waits until the channel has done all that was sent to it.
    pub(super) fn sync(&mut self, number: u16) {
        if !self.open
            || !self
                .channels
                .get(&number)
                .is_some_and(|channel| channel.open)
        {
            return;
        }
        self.syncs += 1;
        let tag = format!("sync-{}", self.syncs);
        let cancel = Method::BasicCancel {
            consumer_tag: tag.as_str().into(),
            no_wait: false,
        };
        self.send(number, &cancel);
        let expected = format!("BasicCancelOk {{ consumer_tag: {tag:?} }}");
        self.wait_for_reply(number, &expected);
    }

    /// Reads until a method has come whose text begins so, or the channel or connection has ended.
    pub(super) fn wait_for_reply(&mut self, number: u16, method: &str) {
        let is_open = |channel: &Channel| channel.open;
        while self.open && self.channels.get(&number).is_some_and(is_open) {
            match self.read() {
                Some(text) if text.starts_with(method) => return,
                Some(_) => {}
                None => return,
            }
        }
    }

    /// Waits until the channel's publishes are confirmed.
    fn sync_confirms(&mut self, number: u16) {
        let begun = Instant::now();
        loop {
            let open = match self.channels.get(&number) {
                Some(channel) if self.open => {
                    channel.open
                        && channel.confirms
                        && (channel.confirmed.len() as u64) < channel.published
                }
                _ => false,
            };
            if !open || begun.elapsed() > PATIENCE {
                return;
            }
            self.sync(number);
        }
    }

    fn ensure_channel(&mut self, number: u16) {
        if !self
            .channels
            .get(&number)
            .is_some_and(|channel| channel.open)
        {
            self.send(number, &Method::ChannelOpen {});
            self.channels.insert(
                number,
                Channel {
                    open: true,
                    ..Channel::default()
                },
            );
            self.wait_for("ChannelOpenOk");
        }
    }
}

impl Channel {
    fn confirm(&mut self, tag: u64, multiple: bool, ack: bool) {
        let first = if multiple { 1 } else { tag };
        for number in first..=tag {
            self.confirmed.entry(number).or_insert(ack);
        }
    }
}

/// The time of a death is the broker's own.
fn forget_times(properties: &mut BasicProperties) {
    let Some(headers) = &mut properties.headers else {
        return;
    };
    // RabbitMQ 3 has no such headers.
    for what in ["reason", "queue", "exchange"] {
        headers.remove(format!("x-last-death-{what}"));
    }
    let Some(FieldValue::Array(deaths)) = headers.get_mut("x-death") else {
        return;
    };
    for death in deaths {
        if let FieldValue::Table(death) = death {
            death.remove("time");
        }
    }
}

impl Side {
    /// `version` is that of the RabbitMQ that takes part; the one of this side if there is none.
    pub(super) fn new(url: &str, version: Option<(u32, u32)>) -> Side {
        let address = url.rsplit('@').next().unwrap();
        let address = address.split(['/', '?']).next().unwrap().to_owned();
        let control = Wire::open(&address, version);
        Side {
            address,
            wires: [None, None],
            control,
            records: BTreeMap::new(),
        }
    }

    pub(super) fn version(&self) -> (u32, u32) {
        self.control.version.unwrap_or_default()
    }

    fn wire(&mut self, connection: usize) -> &mut Wire {
        let wire = &mut self.wires[connection];
        if !wire.as_ref().is_some_and(|wire| wire.open) {
            *wire = Some(Wire::open(&self.address, self.control.version));
        }
        wire.as_mut().unwrap()
    }

    /// Waits until all has happened, and writes down how many messages and consumers there are.
    fn wait_until_quiet(&mut self, prefix: &str) {
        let (mut counts, none) = (Vec::new(), FieldTable::new());
        for _ in 0..2 {
            for wire in self.wires.iter_mut().flatten() {
                for number in 1..3 {
                    wire.sync(number);
                }
            }
            counts.clear();
            for queue in 0..4 {
                self.control.ensure_channel(1);
                let name = format!("{prefix}q{queue}");
                let declare = Method::QueueDeclare {
                    queue: name.as_str().into(),
                    passive: true,
                    durable: false,
                    exclusive: false,
                    auto_delete: false,
                    no_wait: false,
                    arguments: (&none).into(),
                };
                self.control.send(1, &declare);
                self.control.sync(1);
                counts.extend(self.control.records.remove("1").unwrap_or_default());
            }
        }
        for wire in self.wires.iter_mut().flatten() {
            for number in 1..3 {
                wire.sync(number);
                wire.sync_confirms(number);
            }
        }
        self.records.clear();
        counts.retain(|text| !text.starts_with("ChannelOpenOk"));
        self.records.insert("queues".into(), counts);
        for (number, wire) in self.wires.iter_mut().enumerate() {
            let Some(wire) = wire else { continue };
            for (what, mut texts) in std::mem::take(&mut wire.records) {
                // In which order a queue's consumers are cancelled is not promised.
                if what.ends_with(" cancelled") {
                    texts.sort();
                }
                self.records
                    .insert(format!("connection {number} channel {what}"), texts);
            }
            for (channel, state) in &wire.channels {
                let confirms: Vec<String> = state
                    .confirmed
                    .iter()
                    .map(|entry| format!("{entry:?}"))
                    .collect();
                let mut unacknowledged: Vec<String> = state
                    .unacknowledged
                    .iter()
                    .map(|message| message.identity.clone())
                    .collect();
                unacknowledged.sort();
                self.records.insert(
                    format!("connection {number} channel {channel} confirms"),
                    confirms,
                );
                self.records.insert(
                    format!("connection {number} channel {channel} unacknowledged"),
                    unacknowledged,
                );
            }
        }
    }
}

impl Pair {
    pub(super) fn new(sides: [Side; 2]) -> Pair {
        let prefix = format!("hpd-{}-", &uuid::Uuid::new_v4().simple().to_string()[..8]);
        Pair {
            sides,
            prefix,
            bodies: 0,
        }
    }

    /// Whether the RabbitMQ is one that differs in known ways; see [`Operation::for_rabbitmq_3`].
    pub(super) fn is_rabbitmq_3(&self) -> bool {
        self.sides[0].version() < (4, 0)
    }

    /// Whether several channels of a connection consume. They end in no order when it closes, so that what goes back from one
    /// may still go to another, and with it.
    fn several_consume(&self, connection: usize) -> bool {
        let wire = self.sides[0].wires[connection].as_ref();
        let channels = wire.into_iter().flat_map(|wire| wire.channels.values());
        channels
            .filter(|channel| !channel.consumers.is_empty())
            .count()
            > 1
    }

    /// Applies an operation to the first one, and `other` to the second one: the same, or one of the same kind.
    pub(super) fn apply(&mut self, operation: &Operation, other: &Operation) {
        let (mut operation, mut other) = (operation.clone(), other.clone());
        if matches!(operation.what, What::CloseConnection)
            && self.several_consume(operation.connection)
        {
            operation.what = What::CloseChannel;
            other.what = What::CloseChannel;
        }
        let whats = [&operation.what, &other.what];
        let operation = &operation;
        let number = operation.channel;
        self.bodies += 1;
        let target = self.target(operation);
        if matches!(operation.what, What::Acknowledge { which, .. } if which < ALL)
            && target.is_some_and(|(tags, _)| tags == [999, 999])
        {
            // The channel has nothing to be acknowledged.
            return;
        }
        for (which, side) in self.sides.iter_mut().enumerate() {
            let wire = side.wire(operation.connection);
            if matches!(operation.what, What::CloseConnection) {
                let close = Method::ConnectionClose {
                    reply_code: 200,
                    reply_text: "".into(),
                    class_id: 0,
                    method_id: 0,
                };
                wire.send(0, &close);
                wire.wait_for("ConnectionCloseOk");
                wire.open = false;
                continue;
            }
            wire.ensure_channel(number);
            let target = target
                .as_ref()
                .map(|(tags, multiple)| (tags[which], *multiple));
            methods::send(
                wire,
                number,
                &self.prefix,
                self.bodies,
                whats[which],
                target,
            );
            wire.sync(number);
        }
        for side in &mut self.sides {
            side.wait_until_quiet(&self.prefix);
        }
    }

    /// The delivery tags that a settling operation means, on either side, and whether it is for several.
    fn target(&mut self, operation: &Operation) -> Option<([u64; 2], bool)> {
        let What::Acknowledge {
            which, multiple, ..
        } = operation.what
        else {
            return None;
        };
        let left: Vec<Vec<Unacknowledged>> = self
            .sides
            .iter()
            .map(|side| {
                let wire = side.wires[operation.connection].as_ref();
                let channel = wire.and_then(|wire| wire.channels.get(&operation.channel));
                channel.map_or_else(Vec::new, |channel| channel.unacknowledged.clone())
            })
            .collect();
        if which == ALL {
            return Some(([0, 0], true));
        }
        let count = left[0].len();
        if which == UNKNOWN || count == 0 {
            return Some(([999, 999], multiple));
        }
        let first = &left[0][which % count];
        let other = left[1]
            .iter()
            .find(|other| other.identity == first.identity);
        let same_order = left[0]
            .iter()
            .map(|message| &message.identity)
            .eq(left[1].iter().map(|message| &message.identity));
        let tags = [first.tag, other.map_or(999, |other| other.tag)];
        Some((tags, multiple && same_order))
    }

    /// What one of them sent and the other did not.
    pub(super) fn difference(&self) -> Option<String> {
        let [rabbitmq, own] = &self.sides;
        let keys: BTreeSet<&String> = rabbitmq.records.keys().chain(own.records.keys()).collect();
        let mut text = String::new();
        let none = Vec::new();
        for key in keys {
            let (one, other) = (
                rabbitmq.records.get(key).unwrap_or(&none),
                own.records.get(key).unwrap_or(&none),
            );
            if one != other {
                let _ = writeln!(text, "{key}\n  RabbitMQ: {one:#?}\n  here: {other:#?}");
            }
        }
        (!text.is_empty()).then_some(text)
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        // Exclusive queues and consumers first.
        for side in &mut self.sides {
            side.wires = [None, None];
            for number in 0..4 {
                side.control.ensure_channel(1);
                let name = format!("{}q{number}", self.prefix);
                let delete = Method::QueueDelete {
                    queue: name.as_str().into(),
                    if_unused: false,
                    if_empty: false,
                    no_wait: false,
                };
                side.control.send(1, &delete);
                side.control.sync(1);
                side.control.ensure_channel(1);
                let name = format!("{}e{number}", self.prefix);
                let delete = Method::ExchangeDelete {
                    exchange: name.as_str().into(),
                    if_unused: false,
                    no_wait: false,
                };
                side.control.send(1, &delete);
                side.control.sync(1);
            }
        }
    }
}
