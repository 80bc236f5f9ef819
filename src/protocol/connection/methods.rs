//! What each method from the broker does.

use std::sync::Arc;

use super::channels::Number;
use super::{ConnectionEvent, Session};
use crate::error::Result;
use crate::protocol::calls::Reply;
use crate::protocol::channel::Phase;
use crate::protocol::confirms::Confirmation;
use crate::protocol::frame;
use crate::protocol::method::{id, Method, MethodId};
use crate::protocol::received::Content;
use crate::{Error, QueueDeclareOk};

/// Above this many bytes that wait for the end of a commit, a peer that makes this end reply is at fault.
const HELD_BACK_BOUND: usize = 64 << 10;

impl Session {
    /// Handles a method. If a message follows it and is at hand as a whole in `rest`, takes that too, and returns how many
    /// bytes of `rest` it was.
    pub(super) fn method(
        &mut self,
        number: u16,
        payload: &[u8],
        rest: &[u8],
    ) -> Result<usize, Error> {
        let slot = match self.number(number) {
            Number::Taken(slot) if self.phase_at(slot).is_open() => slot,
            _ => {
                self.method_while_not_open(number, payload)?;
                return Ok(0);
            }
        };
        let method = Method::decode(payload).map_err(Error::syntax)?;
        let channel = self.at(slot)?;
        if !matches!(channel.content, Content::None)
            && !matches!(method, Method::ChannelClose { .. })
        {
            if channel.former.is_none() {
                return Err(Error::unexpected(format_args!(
                    "{} in the middle of a message on channel {number}",
                    method.name()
                )));
            }
            // What has begun is late, and so is the rest of it, see `skip_if_late`.
            channel.content = Content::None;
        }
        match method {
            Method::BasicDeliver { .. }
            | Method::BasicGetOk { .. }
            | Method::BasicReturn { .. } => self.message(slot, number, &method, rest),
            _ => {
                self.plain_method(slot, number, method)?;
                Ok(0)
            }
        }
    }

    /// A method on a channel that is not open: only what opens or closes it counts (specification 1.5.2.5), the rest is
    /// not even read. The same holds for the connection, on channel 0 (1.4.2.9).
    #[cold]
    fn method_while_not_open(&mut self, number: u16, payload: &[u8]) -> Result<(), Error> {
        let method = match payload {
            [c0, c1, m0, m1, ..] => (
                u16::from_be_bytes([*c0, *c1]),
                u16::from_be_bytes([*m0, *m1]),
            ),
            _ => (0, 0),
        };
        self.note_skipped(number, payload);
        let Number::Taken(slot) = self.number(number) else {
            return self.check_skipped(number);
        };
        let counts = match self.phase_at(slot) {
            Phase::Opening | Phase::Reopening => {
                matches!(method, id::CHANNEL_OPEN_OK | id::CHANNEL_CLOSE)
            }
            Phase::Closing if number == 0 => {
                matches!(method, id::CONNECTION_CLOSE | id::CONNECTION_CLOSE_OK)
            }
            Phase::Closing => matches!(method, id::CHANNEL_CLOSE | id::CHANNEL_CLOSE_OK),
            Phase::Open | Phase::Committing | Phase::Closed => false,
        };
        if counts {
            self.plain_method(
                slot,
                number,
                Method::decode(payload).map_err(Error::syntax)?,
            )
        } else {
            self.check_skipped(number)
        }
    }

    /// A delivery for a channel that is closed: its tag distinguishes those that follow from the next channel's.
    fn note_skipped(&mut self, number: u16, payload: &[u8]) {
        let Ok(Method::BasicDeliver { delivery_tag, .. }) = Method::decode(payload) else {
            return;
        };
        match self.numbers.get_mut(number as usize) {
            Some(Number::Closed { last }) => *last = delivery_tag,
            Some(Number::Taken(slot)) => {
                let channel = self.channels[*slot].as_deref_mut();
                if let Some(former) = channel.and_then(|channel| channel.former.as_mut()) {
                    *former = delivery_tag;
                }
            }
            _ => {}
        }
    }

    /// A method that no message follows.
    fn plain_method(&mut self, slot: usize, number: u16, method: Method<'_>) -> Result<(), Error> {
        match method {
            Method::BasicAck {
                delivery_tag,
                multiple,
            }
            | Method::BasicNack {
                delivery_tag,
                multiple,
                ..
            } => {
                let confirmation = Confirmation {
                    tag: delivery_tag,
                    multiple,
                    is_nack: matches!(method, Method::BasicNack { .. }),
                };
                self.confirm(slot, confirmation)
            }
            Method::BasicCancel {
                consumer_tag,
                no_wait,
            } => self.cancelled(slot, consumer_tag, no_wait),
            Method::ChannelFlow { active } => {
                self.respond_on(slot, &Method::ChannelFlowOk { active })
            }
            Method::ChannelClose {
                reply_code,
                reply_text,
                class_id,
                method_id,
            } if number != 0 => {
                let why = Error::ChannelClosedByBroker {
                    reply_code,
                    reply_text: reply_text.to_text(),
                    channel: number,
                    method: Method::name_of(class_id, method_id),
                };
                self.closed_by_broker(slot, number, why)
            }
            Method::ChannelCloseOk {} => {
                // On an open channel it is that of an earlier one; see `give_up_close_ok`.
                if self.phase_at(slot) == Phase::Closing {
                    self.release(slot);
                }
                Ok(())
            }
            Method::ConnectionClose { .. }
            | Method::ConnectionCloseOk {}
            | Method::ConnectionBlocked { .. }
            | Method::ConnectionUnblocked {}
                if number == 0 =>
            {
                self.connection_method(method)
            }
            _ => self.reply_method(slot, method),
        }
    }

    /// What the broker says of the connection as a whole, on channel 0.
    fn connection_method(&mut self, method: Method<'_>) -> Result<(), Error> {
        match method {
            Method::ConnectionClose {
                reply_code,
                reply_text,
                class_id,
                method_id,
            } => {
                self.respond(0, &Method::ConnectionCloseOk {})?;
                let why = Error::ConnectionClosedByBroker {
                    reply_code,
                    reply_text: reply_text.to_text(),
                    method: Method::name_of(class_id, method_id),
                    address: Arc::clone(&self.address),
                    while_closing: self.is_closing(),
                };
                self.end_all(why);
                Ok(())
            }
            Method::ConnectionCloseOk {} if self.is_closing() => {
                self.end_by_client();
                Ok(())
            }
            Method::ConnectionBlocked { reason } => {
                let reason = reason.to_text();
                self.blocked = Some(reason.as_str().into());
                self.push_connection_event(ConnectionEvent::Blocked(reason));
                self.connection_changed = true;
                Ok(())
            }
            Method::ConnectionUnblocked {} => {
                self.blocked = None;
                self.push_connection_event(ConnectionEvent::Unblocked);
                self.connection_changed = true;
                Ok(())
            }
            other => self.reply_method(0, other),
        }
    }

    /// A method that replies to a call, with what it means for the channel besides.
    fn reply_method(&mut self, slot: usize, method: Method<'_>) -> Result<(), Error> {
        let channel = self.at(slot)?;
        let method_id = method.id();
        let mut consumer = None;
        let reply = match method {
            Method::ChannelOpenOk { .. } => {
                channel.gate.set_phase(Phase::Open);
                Reply::Done
            }
            Method::TxCommitOk => {
                channel.gate.set_phase(Phase::Open);
                let held_back = std::mem::take(&mut channel.held_back);
                self.to_send.extend(held_back);
                Reply::Done
            }
            Method::BasicConsumeOk { consumer_tag } => {
                consumer = Some(consumer_tag);
                Reply::Done
            }
            Method::BasicCancelOk { consumer_tag } => {
                // A peer may reply where no reply is asked for, see `cancelled`.
                let is_waited_for = channel.calls.is_cancelling(&consumer_tag);
                let consumers = &mut channel.consumers;
                if !is_waited_for && consumers.take_extra_cancel_ok(&consumer_tag.to_text()) {
                    return Ok(());
                }
                consumer = Some(consumer_tag);
                Reply::Done
            }
            Method::BasicGetEmpty { .. } => {
                return self.reply(slot, id::BASIC_GET_OK, None, Reply::Got(None));
            }
            Method::QueueDeclareOk {
                queue,
                message_count,
                consumer_count,
            } => Reply::Declared(QueueDeclareOk {
                queue: queue.to_text(),
                message_count,
                consumer_count,
            }),
            Method::QueuePurgeOk { message_count } | Method::QueueDeleteOk { message_count } => {
                Reply::Count(message_count)
            }
            Method::ChannelFlowOk { active } => Reply::Active(active),
            _ => Reply::Done,
        };
        self.reply(slot, method_id, consumer.as_deref(), reply)
    }

    /// Sends something on a channel that the protocol asks for; after the commit, if one waits for its reply there.
    pub(super) fn respond_on(&mut self, slot: usize, method: &Method<'_>) -> Result<(), Error> {
        let channel = self.at(slot)?;
        let number = channel.number;
        if channel.phase() != Phase::Committing {
            return self.respond(number, method);
        }
        if channel.held_back.len() > HELD_BACK_BOUND {
            return Err(Error::unexpected(format_args!(
                "more requests on channel {number} during a commit than can be replied to afterwards"
            )));
        }
        frame::write_method(&mut channel.held_back, number, method).map_err(Error::syntax)
    }

    /// Sends what the protocol asks this end to send in return.
    fn respond(&mut self, number: u16, method: &Method<'_>) -> Result<(), Error> {
        frame::write_method(&mut self.to_send, number, method).map_err(Error::syntax)
    }

    /// Hands a reply to the call of a channel that it is for.
    pub(super) fn reply(
        &mut self,
        slot: usize,
        method: MethodId,
        consumer_tag: Option<&[u8]>,
        reply: Reply,
    ) -> Result<(), Error> {
        let channel = self.at(slot)?;
        if let Some(call) = channel.calls.reply(method, consumer_tag, reply) {
            match (method, &call.consumer_tag) {
                (id::BASIC_CONSUME_OK, Some(tag)) => channel.consumers.confirmed(tag),
                (id::BASIC_RECOVER_OK, _) => {
                    channel.gate.acks.recovered();
                    self.drop_taken_back(slot);
                }
                _ => {}
            }
            self.note_change(slot);
            return Ok(());
        }
        let name = Method::name_of(method.0, method.1).unwrap_or("an unknown method");
        let number = channel.number;
        Err(Error::unexpected(format_args!(
            "{name} on channel {number}, which did not ask for it"
        )))
    }
}
