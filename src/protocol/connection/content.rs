//! The messages that come in, and what the broker says of those that were published.

use std::sync::atomic::Ordering;
use std::sync::Arc;

use super::{Session, HELD_BOUND};
use crate::protocol::calls::Reply;
use crate::protocol::confirms::Confirmation;
use crate::protocol::frame::{self, Frame};
use crate::protocol::method::{id, Method};
use crate::protocol::properties::ReceivedProperties;
use crate::protocol::publish::{find_returned, Fingerprint, Mandatory, SentMandatory};
use crate::protocol::received::{Carrier, Content, Incoming, Received};
use crate::protocol::replies::CallOutcome;
use crate::protocol::wire::ShortStr;
use crate::{BasicProperties, Error, Return, ReturnedMessage, ShortString};

/// How much room is made for a body before any of it has come: what the header claims is not believed beyond this.
const TRUSTED_BODY: u64 = 1 << 20;

impl Session {
    /// A message begins. Returns how many bytes of `rest` were taken with it.
    pub(super) fn message(
        &mut self,
        slot: usize,
        number: u16,
        method: &Method<'_>,
        rest: &[u8],
    ) -> Result<usize, Error> {
        if number == 0 {
            return Err(Error::unexpected(format_args!("a message on channel 0")));
        }
        let Some(mut message) = self.announced(slot, method)? else {
            return Ok(0);
        };
        let used = self.whole_content(number, rest, &mut message)?;
        if used > 0 {
            self.complete(slot, message)?;
        } else {
            self.at(slot)?.content = Content::Header(message);
        }
        Ok(used)
    }

    /// The message that a method announces, without its content. `None` for methods that announce none.
    #[inline]
    fn announced(&mut self, slot: usize, method: &Method<'_>) -> Result<Option<Received>, Error> {
        let (carrier, delivery_tag, exchange, routing_key) = match *method {
            Method::BasicDeliver {
                consumer_tag,
                delivery_tag,
                redelivered,
                exchange,
                routing_key,
            } => (
                Carrier::Deliver {
                    consumer_tag: self.at(slot)?.consumers.shared_tag(consumer_tag),
                    redelivered,
                },
                delivery_tag,
                exchange,
                routing_key,
            ),
            Method::BasicGetOk {
                delivery_tag,
                redelivered,
                exchange,
                routing_key,
                message_count,
            } => (
                Carrier::Get {
                    redelivered,
                    message_count,
                },
                delivery_tag,
                exchange,
                routing_key,
            ),
            Method::BasicReturn {
                reply_code,
                reply_text,
                exchange,
                routing_key,
            } => (
                Carrier::Return {
                    reply_code,
                    reply_text: reply_text.to_text().into(),
                },
                0,
                exchange,
                routing_key,
            ),
            _ => return Ok(None),
        };
        Ok(Some(Received {
            carrier,
            delivery_tag,
            exchange: exchange.to_short_string(),
            routing_key: routing_key.to_short_string(),
            properties: ReceivedProperties::default(),
            body: Vec::new(),
        }))
    }

    /// Takes the header and the one body frame of a message, if both are at hand: most messages are small, and go the short
    /// way. Returns how many bytes of `rest` they are, 0 if they are not there.
    fn whole_content(
        &self,
        number: u16,
        rest: &[u8],
        message: &mut Received,
    ) -> Result<usize, Error> {
        let Some((Frame::Header { channel, payload }, header)) =
            frame::parse(rest, self.frame_max).map_err(Error::syntax)?
        else {
            return Ok(0);
        };
        if channel != number {
            return Ok(0);
        }
        let (size, properties) = frame::read_header(payload).map_err(Error::syntax)?;
        message.properties = properties;
        if size == 0 {
            return Ok(header);
        }
        if size > self.max_message_size {
            return Ok(0);
        }
        match frame::parse(&rest[header..], self.frame_max).map_err(Error::syntax)? {
            Some((Frame::Body { channel, payload }, body))
                if channel == number && payload.len() as u64 == size =>
            {
                message.body = payload.to_vec();
                Ok(header + body)
            }
            _ => Ok(0),
        }
    }

    /// The broker cancels a consumer. If it wants no reply it is sent a `basic.cancel` that wants none either: since 4.3
    /// RabbitMQ keeps the tag of a consumer that held a message for too long until this end cancels it as well, and ends a
    /// connection that uses the tag before. To other brokers it means nothing.
    pub(super) fn cancelled(
        &mut self,
        slot: usize,
        consumer_tag: ShortStr<'_>,
        no_wait: bool,
    ) -> Result<(), Error> {
        let tag = consumer_tag.to_text();
        let known = self.at(slot)?.cancel_consumer(&tag);
        if !no_wait {
            self.respond_on(slot, &Method::BasicCancelOk { consumer_tag })?;
        } else if known {
            let cancel = Method::BasicCancel {
                consumer_tag,
                no_wait,
            };
            self.respond_on(slot, &cancel)?;
        }
        if known {
            // The consumer itself goes when this is reported to the program, after the messages that came before it.
            self.push(slot, Incoming::Cancelled(tag));
        }
        Ok(())
    }

    pub(super) fn confirm(&mut self, slot: usize, confirmation: Confirmation) -> Result<(), Error> {
        let channel = self.at(slot)?;
        let gate = Arc::clone(&channel.gate);
        let published = gate.published.load(Ordering::Acquire);
        let confirmed = channel.confirms.record(confirmation, published);
        let Some(confirmed) = confirmed.filter(|_| gate.confirming.load(Ordering::Acquire)) else {
            let (number, tag) = (channel.number, confirmation.tag);
            return Err(Error::unexpected(format_args!(
                "a confirmation on channel {number} of message {tag}, never published"
            )));
        };
        gate.confirmed.fetch_add(confirmed, Ordering::AcqRel);
        let (mandatory, confirms) = (&mut channel.mandatory, &channel.confirms);
        while mandatory
            .front()
            .is_some_and(|message| confirms.is_confirmed(message.sequence))
        {
            mandatory.pop_front();
        }
        self.note_change(slot);
        Ok(())
    }

    pub(super) fn header(&mut self, number: u16, payload: &[u8]) -> Result<(), Error> {
        let Some(slot) = self.slot_of(number)? else {
            return Ok(());
        };
        let (size, properties) = frame::read_header(payload).map_err(Error::syntax)?;
        let max = self.max_message_size;
        let channel = self.at(slot)?;
        let Content::Header(mut message) = std::mem::take(&mut channel.content) else {
            return Err(unannounced("header", number));
        };
        if size > max {
            return self.refuse_message(slot, size);
        }
        message.properties = properties;
        if size == 0 {
            return self.complete(slot, message);
        }
        message.body = Vec::with_capacity(size.min(TRUSTED_BODY) as usize);
        channel.content = Content::Body {
            message,
            remaining: size,
        };
        self.largest_body = self.largest_body.max(size);
        Ok(())
    }

    pub(super) fn body(&mut self, number: u16, chunk: &[u8]) -> Result<(), Error> {
        let Some(slot) = self.slot_of(number)? else {
            return Ok(());
        };
        let channel = self.at(slot)?;
        let Content::Body { message, remaining } = &mut channel.content else {
            return Err(unannounced("body", number));
        };
        let Some(left) = remaining.checked_sub(chunk.len() as u64) else {
            return Err(Error::unexpected(format_args!(
                "more body than its header announced on channel {number}"
            )));
        };
        let body = &mut message.body;
        if body.capacity() - body.len() < chunk.len() {
            // Grow in steps that what has come justifies, and never beyond the end.
            body.reserve_exact((*remaining).min(body.len().max(chunk.len()) as u64) as usize);
        }
        body.extend_from_slice(chunk);
        *remaining = left;
        if left == 0 {
            if let Content::Body { message, .. } = std::mem::take(&mut channel.content) {
                return self.complete(slot, message);
            }
        }
        Ok(())
    }

    fn complete(&mut self, slot: usize, message: Received) -> Result<(), Error> {
        let channel = self.at(slot)?;
        match message.carrier {
            Carrier::Deliver { .. } if channel.replies.is_some() => {
                let (_, properties, body) = message.parts();
                let properties = BasicProperties::from(properties);
                let id = properties.correlation_id.clone();
                self.record_outcome(slot, id.as_ref(), CallOutcome::Reply(properties, body));
                Ok(())
            }
            Carrier::Deliver { .. } => {
                if channel.former.is_some() && channel.is_late(&message) {
                    return Ok(());
                }
                channel.gate.acks.note_received(message.delivery_tag);
                // Otherwise it is for a consumer that is gone.
                if !channel.consumers.is_empty() {
                    self.push(slot, Incoming::Message(message));
                }
                Ok(())
            }
            Carrier::Get { .. } => {
                channel.gate.acks.note_received(message.delivery_tag);
                self.reply(
                    slot,
                    id::BASIC_GET_OK,
                    None,
                    Reply::Got(Some(Box::new(message))),
                )
            }
            Carrier::Return {
                reply_code,
                reply_text,
            } => {
                let method = Return {
                    reply_code,
                    reply_text: reply_text.into(),
                    exchange: message.exchange,
                    routing_key: message.routing_key,
                    content_omitted: false,
                };
                let message = ReturnedMessage {
                    method,
                    properties: message.properties.into(),
                    body: message.body,
                };
                self.returned(slot, message)
            }
        }
    }

    /// These mandatory messages were published, and may come back.
    pub(crate) fn expect_returns(&mut self, published: Vec<SentMandatory>) {
        for sent in published {
            match self.channel(sent.slot) {
                Some(channel) if Arc::ptr_eq(&channel.gate, &sent.gate) => {
                    channel.mandatory.push_back(sent.message);
                }
                // The channel is gone, and its slot may be another's.
                _ => {}
            }
        }
    }

    fn returned(&mut self, slot: usize, message: ReturnedMessage) -> Result<(), Error> {
        let (to_report, to_deliver) = self.held_returns();
        let channel = self.at(slot)?;
        if channel.replies.is_some() {
            let id = message.properties.correlation_id.clone();
            self.record_outcome(slot, id.as_ref(), CallOutcome::Returned(message));
            return Ok(());
        }
        let mut tied = None;
        if channel.gate.confirming.load(Ordering::Acquire) {
            // There is none if it was published before the channel confirmed.
            let print = Fingerprint::of_returned(&message);
            let at = find_returned(channel.mandatory.iter(), print);
            tied = at.and_then(|at| channel.mandatory.remove(at));
        }
        let size = message.size();
        let briefly = Arc::new(ReturnedMessage {
            method: Return {
                content_omitted: true,
                ..message.method.clone()
            },
            properties: BasicProperties::new(),
            body: Vec::new(),
        });
        let whole = Arc::new(message);
        let kept = |held: usize| {
            let fits = held + size <= HELD_BOUND;
            Arc::clone(if fits { &whole } else { &briefly })
        };
        if let Some(Mandatory { sequence, .. }) = tied {
            channel.confirms.add_returned(sequence, kept(to_report));
        }
        if channel.wants_returns {
            self.push(slot, Incoming::Returned(kept(to_deliver)));
        }
        Ok(())
    }

    /// Records what has become of a call of an RPC client.
    fn record_outcome(&mut self, slot: usize, id: Option<&ShortString>, outcome: CallOutcome) {
        let Some(channel) = self.channel(slot) else {
            return;
        };
        let calls = channel.replies.as_mut();
        let held = calls.map_or(0, |replies| replies.record(id, outcome));
        channel.held += held;
        self.undelivered += held;
        self.note_change(slot);
    }

    /// Ends a call of an RPC client; returns its outcome, if that has come.
    pub(crate) fn end_call(&mut self, slot: usize, call: u64) -> Option<CallOutcome> {
        let channel = self.channel(slot)?;
        let (outcome, held) = channel.replies.as_mut()?.end(call)?;
        self.no_longer_held(slot, held);
        Some(outcome)
    }

    /// How many bytes of returned messages wait to be reported, and how many for callbacks.
    fn held_returns(&self) -> (usize, usize) {
        let channels = self.channels.iter().flatten();
        channels.fold((0, 0), |(to_report, to_deliver), channel| {
            (
                to_report + channel.confirms.held_returns,
                to_deliver + channel.held_returns,
            )
        })
    }
}

#[cold]
fn unannounced(part: &str, number: u16) -> Error {
    Error::unexpected(format_args!(
        "a content {part} on channel {number} that nothing announced"
    ))
}
