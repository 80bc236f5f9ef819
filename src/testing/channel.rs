//! One channel: its state, the frames that come on it, and which of the broker's parts does what.

use std::collections::{BTreeMap, BTreeSet};

use super::deliver::Failure;
use super::publish::{Published, Transaction};
use super::queue::Stored;
use super::refusal::{refuse, Binary, Outcome, Refusal};
use super::state::{At, State};
use super::text::{is_utf8, Text};
use crate::protocol::frame::{self, Frame};
use crate::protocol::method::Method;

/// The largest body that RabbitMQ takes, in bytes.
const BODY_MAX: u64 = 16 * 1024 * 1024;

/// The most memory that is set aside for a body before it comes, in bytes.
const RESERVED: u64 = 128 * 1024;

/// The class `basic`, the only one with content.
const BASIC: u16 = 60;

const BASIC_PUBLISH: (u16, u16) = (60, 40);

#[derive(Default)]
pub(super) struct Channel {
    /// `channel.close` was sent; only `channel.close` and `channel.close-ok` count any more.
    pub(super) closing: bool,
    content: Content,
    pub(super) last_tag: u64,
    pub(super) unacknowledged: BTreeMap<u64, Unacknowledged>,
    /// By their tags: in which queue, and as which of its consumers.
    pub(super) consumers: BTreeMap<Text, (u64, u64)>,
    /// For the consumers to come; 0 is no limit.
    pub(super) prefetch: u16,
    /// For all consumers together; 0 is no limit.
    pub(super) limit: u16,
    /// What counts against `limit`.
    pub(super) volume: u32,
    /// What an empty queue name stands for.
    pub(super) last_queue: Option<Text>,
    pub(super) confirms: bool,
    pub(super) published: u64,
    pub(super) confirmed: BTreeSet<u64>,
    pub(super) refused: BTreeSet<u64>,
    /// A test withholds the confirms of these.
    pub(super) withheld: BTreeSet<u64>,
    pub(super) transaction: Option<Transaction>,
    /// The name and the consumer of direct replies.
    pub(super) replies: Option<(Text, Text)>,
}

/// A message that a client has not acknowledged.
pub(super) struct Unacknowledged {
    pub(super) queue: u64,
    /// The tag of the consumer that it was delivered to; `None` if it was fetched.
    pub(super) consumer: Option<Text>,
    pub(super) stored: Stored,
}

/// The message that is coming in.
#[derive(Default)]
enum Content {
    #[default]
    None,
    Header(Published),
    Body {
        published: Published,
        properties: Vec<u8>,
        body: Vec<u8>,
        size: u64,
    },
}

impl Channel {
    pub(super) fn is_open(&self) -> bool {
        !self.closing
    }

    /// Whether all consumers together have as much as they may have.
    pub(super) fn is_limited(&self) -> bool {
        self.limit > 0 && self.volume >= u32::from(self.limit)
    }
}

impl State {
    /// Handles a frame on a channel other than 0.
    pub(super) fn channel_frame(&mut self, at: At, frame: Frame<'_>) {
        if let Err(refusal) = self.take_channel_frame(at, frame) {
            self.refuse(at, &refusal);
        }
    }

    fn take_channel_frame(&mut self, at: At, frame: Frame<'_>) -> Outcome {
        if self.channel_mut(at).is_none() {
            self.open_channel(at, frame)?;
            return Ok(());
        }
        let Some(channel) = self.channel_mut(at) else {
            return Ok(());
        };
        match (std::mem::take(&mut channel.content), frame) {
            (Content::None, Frame::Method { payload, .. }) => {
                self.log_method(at, payload);
                let Some(method) = decode(payload)? else {
                    self.end_connection(at.connection);
                    return Ok(());
                };
                self.channel_method(at, &method)
                    .map_err(|refusal| refusal.at(method.id()))
            }
            (Content::None, _) => {
                refuse!(505, "expected method frame, got non method frame instead")
            }
            (Content::Header(published), Frame::Header { payload, .. }) => {
                self.take_header(at, published, payload)
                    .map_err(|refusal| refusal.at(BASIC_PUBLISH))
            }
            (Content::Header(_), _) => Err(Refusal::new(
                505,
                format_args!(
                    "expected content header for class {BASIC}, got non content header frame instead"
                ),
            )
            .at(BASIC_PUBLISH)),
            (
                Content::Body {
                    published,
                    properties,
                    mut body,
                    size,
                },
                Frame::Body { payload, .. },
            ) => {
                if payload.len() as u64 > size - body.len() as u64 {
                    let text = format_args!("content body frame exceeds remaining content size");
                    return Err(Refusal::new(501, text).at(BASIC_PUBLISH));
                }
                body.extend_from_slice(payload);
                if (body.len() as u64) < size {
                    channel.content = Content::Body {
                        published,
                        properties,
                        body,
                        size,
                    };
                    return Ok(());
                }
                self.take_message(at, published, properties, body)
            }
            (Content::Body { .. }, _) => Err(Refusal::new(
                505,
                format_args!("expected content body, got non content body frame instead"),
            )
            .at(BASIC_PUBLISH)),
        }
    }

    /// The first frame on a channel's number.
    fn open_channel(&mut self, at: At, frame: Frame<'_>) -> Outcome {
        let Some(connection) = self.connections.get_mut(&at.connection) else {
            return Ok(());
        };
        let (open, most) = (connection.channels.len(), connection.channel_max);
        if most != 0 && open >= usize::from(most) {
            refuse!(
                530,
                "number of channels opened ({open}) has reached the negotiated channel_max ({most})"
            );
        }
        let Frame::Method { payload, .. } = frame else {
            refuse!(505, "expected method frame, got non method frame instead");
        };
        self.log_method(at, payload);
        let Some(method) = decode(payload)? else {
            self.end_connection(at.connection);
            return Ok(());
        };
        if !matches!(method, Method::ChannelOpen { .. }) {
            let refusal = Refusal::new(504, format_args!("expected 'channel.open'"));
            return Err(refusal.at(method.id()));
        }
        if let Some(connection) = self.connections.get_mut(&at.connection) {
            connection.channels.insert(at.channel, Channel::default());
        }
        self.send(at, &Method::ChannelOpenOk {});
        Ok(())
    }

    fn take_header(&mut self, at: At, published: Published, payload: &[u8]) -> Outcome {
        // The weight, behind the class, is always zero (specification 4.2.6.1).
        if !matches!(payload, [_, _, 0, 0, ..]) {
            refuse!(
                505,
                "expected content header for class {BASIC}, got non content header frame instead"
            );
        }
        let (size, properties) = match frame::split_header(payload) {
            Ok(header) => header,
            Err(crate::protocol::wire::WireError::WrongContentClass(class)) => refuse!(
                505,
                "expected content header for class {BASIC}, got one for class {class} instead"
            ),
            Err(error) => refuse!(501, "{error}"),
        };
        if size > BODY_MAX {
            refuse!(
                501,
                "content body size {size} exceeds maximum allowed size {BODY_MAX}"
            );
        }
        self.check_alarm(at.connection);
        if size == 0 {
            return self.take_message(at, published, properties.to_vec(), Vec::new());
        }
        if let Some(channel) = self.channel_mut(at) {
            channel.content = Content::Body {
                published,
                properties: properties.to_vec(),
                // Not all of it, which may never come.
                body: Vec::with_capacity(size.min(RESERVED) as usize),
                size,
            };
        }
        Ok(())
    }

    fn take_message(
        &mut self,
        at: At,
        published: Published,
        properties: Vec<u8>,
        body: Vec<u8>,
    ) -> Outcome {
        if self.channel_mut(at).is_some_and(|channel| channel.closing) {
            return Ok(());
        }
        self.publish(at, published, properties, body)
            .map_err(|refusal| refusal.at(BASIC_PUBLISH))
    }

    fn channel_method(&mut self, at: At, method: &Method<'_>) -> Outcome {
        let Some(channel) = self.channel_mut(at) else {
            return Ok(());
        };
        // Its content is to be read whatever becomes of the message.
        if let Method::BasicPublish {
            exchange,
            routing_key,
            mandatory,
            immediate,
        } = *method
        {
            channel.content = Content::Header(Published {
                exchange: exchange.into(),
                routing_key: routing_key.into(),
                mandatory,
                immediate,
            });
            return Ok(());
        }
        if channel.closing {
            match method {
                Method::ChannelOpen { .. } => refuse!(504, "second 'channel.open' seen"),
                Method::ChannelClose { .. } => self.send(at, &Method::ChannelCloseOk {}),
                Method::ChannelCloseOk { .. } => self.remove_channel(at),
                _ => {}
            }
            return Ok(());
        }
        match *method {
            Method::ChannelOpen { .. } => refuse!(504, "second 'channel.open' seen"),
            Method::ChannelClose { .. } => {
                self.clear_channel(at);
                self.remove_channel(at);
                self.send(at, &Method::ChannelCloseOk {});
                Ok(())
            }
            Method::ChannelFlow { active: true } => {
                self.send(at, &Method::ChannelFlowOk { active: true });
                Ok(())
            }
            Method::ChannelFlow { active: false } => refuse!(540, "active=false"),
            Method::AccessRequest { .. } => {
                self.send(at, &Method::AccessRequestOk { ticket: 1 });
                Ok(())
            }
            Method::ExchangeDeclare { .. }
            | Method::ExchangeDelete { .. }
            | Method::ExchangeBind { .. }
            | Method::ExchangeUnbind { .. } => self.exchange_method(at, method),
            Method::QueueDeclare { .. }
            | Method::QueueBind { .. }
            | Method::QueueUnbind { .. }
            | Method::QueuePurge { .. }
            | Method::QueueDelete { .. } => self.queue_method(at, method),
            Method::BasicQos { .. }
            | Method::BasicConsume { .. }
            | Method::BasicCancel { .. }
            | Method::BasicCancelOk { .. }
            | Method::BasicGet { .. } => self.consuming_method(at, method),
            Method::BasicAck { .. }
            | Method::BasicNack { .. }
            | Method::BasicReject { .. }
            | Method::BasicRecover { .. }
            | Method::BasicRecoverAsync { .. } => self.acknowledging_method(at, method),
            Method::ConfirmSelect { .. }
            | Method::TxSelect { .. }
            | Method::TxCommit { .. }
            | Method::TxRollback { .. } => self.publishing_method(at, method),
            _ => refuse!(503, "unimplemented method"),
        }
    }

    /// Sends `channel.close`; what was unacknowledged goes back.
    pub(super) fn close_channel(&mut self, at: At, refusal: &Refusal) {
        match self.channel_mut(at) {
            Some(channel) if !channel.closing => {}
            _ => return,
        }
        self.clear_channel(at);
        if let Some(channel) = self.channel_mut(at) {
            channel.closing = true;
        }
        let (class_id, method_id) = refusal.method.unwrap_or((0, 0));
        let close = Method::ChannelClose {
            reply_code: refusal.code,
            reply_text: refusal.text.as_str().into(),
            class_id,
            method_id,
        };
        self.send(at, &close);
    }

    fn remove_channel(&mut self, at: At) {
        if let Some(connection) = self.connections.get_mut(&at.connection) {
            connection.channels.remove(&at.channel);
        }
    }

    /// Ends what a channel has: its consumers go, its messages go back. Its number stays as it is.
    pub(super) fn clear_channel(&mut self, at: At) {
        let Some(channel) = self.channel_mut(at) else {
            return;
        };
        let cleared = Channel {
            closing: channel.closing,
            // What is left of a message still comes, and is to be read as such.
            content: std::mem::take(&mut channel.content),
            ..Channel::default()
        };
        let old = std::mem::replace(channel, cleared);
        self.confirming.remove(&at);
        if let Some((name, _)) = old.replies {
            self.reply_queues.remove(&name);
        }
        // First the consumers, so that nothing comes back to them.
        for (queue, consumer) in old.consumers.into_values() {
            if let Some(queue) = self.queues.get_mut(&queue) {
                queue.remove_consumer(consumer);
            }
            self.delete_if_unused(queue);
        }
        let uncommitted = old
            .transaction
            .into_iter()
            .flat_map(Transaction::into_unacknowledged);
        let mut queues: BTreeMap<u64, Vec<Unacknowledged>> = BTreeMap::new();
        for message in old.unacknowledged.into_values().chain(uncommitted) {
            queues.entry(message.queue).or_default().push(message);
        }
        for (queue, messages) in queues {
            self.put_back(queue, Failure::Counted, messages);
        }
    }
}

/// `None` for a method that AMQP does not have, at which RabbitMQ ends the stream and sends nothing.
fn decode(payload: &[u8]) -> Outcome<Option<Method<'_>>> {
    match Method::decode(payload) {
        Ok(method) if is_utf8(&method) => Ok(Some(method)),
        Ok(_) => Err(Refusal::not_utf8().at((0, 0))),
        Err(crate::protocol::wire::WireError::UnknownMethod { .. }) => Ok(None),
        Err(_) => {
            let arguments = payload.get(4..).unwrap_or_default();
            let refusal = Refusal::new(501, format_args!("cannot decode {}", Binary(arguments)));
            Err(match *payload {
                [a, b, c, d, ..] => {
                    refusal.at((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
                }
                _ => refusal,
            })
        }
    }
}
