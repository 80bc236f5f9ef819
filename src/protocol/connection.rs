//! An open connection: what each frame does to the channels, and what is to be delivered to the program.

mod channels;
mod content;
mod inbox;

use std::collections::VecDeque;
use std::sync::Arc;

use self::channels::Number;
pub(crate) use self::inbox::{HELD_BOUND, RESUME_BELOW};
use super::channel::{
    ChannelState, Consumer, ConsumerState, Content, Gate, Phase, Reply, FORGOTTEN,
};
use super::frame::{self, Frame};
use super::method::Method;
use crate::error::Result;
use crate::{Error, QueueDeclareOk};

/// What concerns the connection as a whole, to be delivered to the program.
#[derive(Debug, PartialEq)]
pub(crate) enum ConnectionEvent {
    Blocked(String),
    Unblocked,
}

/// Where the connection stands (specification 2.2.4, `connection.close` … `connection.close-ok`).
#[derive(Debug)]
enum ConnectionPhase {
    Open,
    /// This end sent `connection.close`; only `close` and `close-ok` count any more.
    Closing {
        reply_code: u16,
        reply_text: String,
    },
    /// And why.
    Ended(Error),
}

/// A body frame of which only a part has come.
struct PartialBody {
    channel: u16,
    left: usize,
}

/// After this many messages `feed` leaves the rest for later. An allocator gives out again at once what was freed last; of
/// what one message needs it keeps few.
const BATCH: u64 = 4;

/// What `feed` did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fed {
    /// Bytes used.
    pub(crate) used: usize,
    /// It stopped with bytes left that may be whole frames.
    pub(crate) more: bool,
}

/// Where events are asked for: a thread, and the channel that it consumes on, if any.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dispatcher {
    pub(crate) thread: u64,
    pub(crate) channel: Option<usize>,
}

impl Dispatcher {
    /// The events of a channel on which threads consume are run by these. Those of any other are run by calls on the
    /// connection, and by the thread that registered its callbacks.
    pub(crate) fn may_run(&self, channel: &ChannelState) -> bool {
        if channel.claims.is_empty() {
            self.channel.is_none() || channel.home == self.thread
        } else {
            channel.claims.contains(&self.thread)
        }
    }
}

pub(crate) struct Session {
    frame_max: u32,
    channel_max: u16,
    address: Arc<str>,
    /// Channels by their slot, which stays the same for as long as a handle lives; a number may change hands.
    channels: Vec<Option<Box<ChannelState>>>,
    vacant: Vec<usize>,
    numbers: Vec<Number>,
    next_call: u64,
    partial: Option<PartialBody>,
    phase: ConnectionPhase,
    /// Some call failed with it.
    pub(crate) end_told: bool,
    /// The consumer of an iterator that ended because the broker cancelled it.
    pub(crate) iterator_cancelled: Option<String>,
    events: VecDeque<ConnectionEvent>,
    /// There are callbacks for them.
    pub(crate) wants_blocked: bool,
    /// The broker's reason, while it blocks the connection.
    pub(crate) blocked: Option<Arc<str>>,
    /// Channels that have events, oldest first.
    ready: Vec<usize>,
    /// Bytes held for the program.
    pub(crate) undelivered: usize,
    /// The stream has ended, and the rest of what came is being taken in.
    pub(crate) is_draining: bool,
    /// A message with a larger body costs its channel.
    pub(crate) max_message_size: u64,
    /// The size of the largest body of several frames, since this was asked for last.
    largest_body: u64,
    /// How many messages have come for the program, ever.
    arrived: u64,
    /// What the protocol itself has to send.
    pub(crate) to_send: Vec<u8>,
    /// Channels that the broker closed, until a call reports it.
    closures: Vec<usize>,

    /// What changed since waiting threads were last woken.
    pub(crate) changed: Vec<usize>,
    pub(crate) connection_changed: bool,
}

/// The channel and payload size of a body frame of which not all has come.
fn partial_body(bytes: &[u8]) -> Option<(u16, usize)> {
    const BODY: u8 = 3;
    match bytes {
        [BODY, c0, c1, s0, s1, s2, s3, ..] => Some((
            u16::from_be_bytes([*c0, *c1]),
            u32::from_be_bytes([*s0, *s1, *s2, *s3]) as usize,
        )),
        _ => None,
    }
}

/// Takes a channel out of a list; returns whether it was there.
fn take_out(list: &mut Vec<usize>, slot: usize) -> bool {
    match list.iter().position(|listed| *listed == slot) {
        Some(at) => {
            list.remove(at);
            true
        }
        None => false,
    }
}

impl Session {
    pub(crate) fn new(frame_max: u32, channel_max: u16, address: Arc<str>) -> Self {
        // Channel 0 is the connection's own; it carries the calls that concern it, such as update-secret.
        let zero = ChannelState::new(Gate::new(Phase::Open));
        Session {
            frame_max,
            channel_max: if channel_max == 0 {
                u16::MAX
            } else {
                channel_max
            },
            address,
            channels: vec![Some(Box::new(zero))],
            vacant: Vec::new(),
            numbers: vec![Number::Taken(0)],
            next_call: 0,
            partial: None,
            phase: ConnectionPhase::Open,
            end_told: false,
            iterator_cancelled: None,
            events: VecDeque::new(),
            wants_blocked: false,
            blocked: None,
            ready: Vec::new(),
            undelivered: 0,
            is_draining: false,
            max_message_size: u64::MAX,
            largest_body: 0,
            arrived: 0,
            to_send: Vec::new(),
            closures: Vec::new(),
            changed: Vec::new(),
            connection_changed: false,
        }
    }

    /// A message is larger than this program takes: its channel is closed, and the rest of it is skipped as whatever comes on
    /// such a channel. What came before it stays for the program.
    #[cold]
    fn refuse_message(&mut self, slot: usize, size: u64) -> Result<(), Error> {
        let max = self.max_message_size;
        let channel = self.at(slot)?;
        let number = channel.number;
        let why = Error::MessageTooLarge {
            channel: number,
            size,
            max,
        };
        channel.gate.finish(Phase::Closing, why);
        channel.content = Content::None;
        let close = Method::ChannelClose {
            reply_code: 311,
            reply_text: "CONTENT_TOO_LARGE".into(),
            class_id: 60,
            method_id: 60,
        };
        frame::write_method(&mut self.to_send, number, &close).map_err(Error::unsendable)?;
        self.closures.push(slot);
        self.touch(slot);
        Ok(())
    }

    /// Why the connection ended.
    pub(crate) fn end(&self) -> Option<&Error> {
        match &self.phase {
            ConnectionPhase::Ended(end) => Some(end),
            _ => None,
        }
    }

    /// Whether this end has sent `connection.close` and nothing has ended the connection.
    pub(crate) fn is_closing(&self) -> bool {
        matches!(self.phase, ConnectionPhase::Closing { .. })
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.phase, ConnectionPhase::Open)
    }

    /// The error of a call on a connection that has ended. A call that waited meanwhile gets what ended it, and so does the
    /// first call afterwards; later ones get that the connection is not open, and why.
    pub(crate) fn report_end(&mut self, waited: bool) -> Option<Error> {
        let end = self.end()?.clone();
        let reported = std::mem::replace(&mut self.end_told, true);
        if matches!(end, Error::ConnectionWrongState { .. }) {
            // In a forked child: it says what there is to say.
            return Some(end);
        }
        if !waited && (reported || matches!(end, Error::ConnectionClosedByClient { .. })) {
            return Some(Error::connection_ended(&end));
        }
        Some(end)
    }

    /// Fails if the connection cannot be used any more.
    pub(crate) fn check_open(&mut self) -> Result<(), Error> {
        match self.report_end(false) {
            Some(end) => Err(end),
            None if self.is_closing() => Err(Error::connection_closing("it is being closed")),
            None => Ok(()),
        }
    }

    /// The connection is over, for every channel.
    pub(crate) fn end_all(&mut self, why: Error) {
        if self.end().is_some() {
            return;
        }
        self.phase = ConnectionPhase::Ended(why.clone());
        self.connection_changed = true;
        for slot in 0..self.channels.len() {
            if self.channels[slot].is_some() {
                self.end_channel(slot, why.clone());
            }
        }
    }

    /// Wakes the watchers of all channels.
    pub(crate) fn wake_watchers(&self) {
        for channel in self.channels.iter().flatten() {
            if let Some(watcher) = &channel.watcher {
                watcher.wake.wake();
            }
        }
    }

    /// Notes a call; its reply is to be taken with the id.
    pub(crate) fn add_call(&mut self, slot: usize, expects: (u16, u16)) -> u64 {
        self.next_call += 1;
        let id = self.next_call;
        if let Some(channel) = self.channel(slot) {
            channel
                .calls
                .push_back(super::channel::Call { id, expects });
        }
        id
    }

    // ---- what comes from the broker

    /// How large messages are. What is on its way now counts next time as well.
    pub(crate) fn take_largest_body(&mut self) -> u64 {
        let channels = self.channels.iter().flatten();
        let coming = channels.map(|channel| match &channel.content {
            Content::Body { message, remaining } => message.body.len() as u64 + remaining,
            _ => 0,
        });
        let coming = coming.max().unwrap_or(0);
        std::mem::replace(&mut self.largest_body, coming)
    }

    /// How much is still to come of a frame that has been taken in in part.
    pub(crate) fn rest_of_frame(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| partial.left + 1)
    }

    /// Handles what has come; what it did not use is to be offered again with more behind it. It stops after a few messages for
    /// the program, because a message that is delivered soon is still in the processor's cache and its memory is used again.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<Fed, Error> {
        let mut at = 0;
        let enough = self.arrived + BATCH;
        while self.end().is_none() {
            if self.arrived >= enough {
                return Ok(Fed {
                    used: at,
                    more: at < bytes.len(),
                });
            }
            if let Some(PartialBody { channel, left }) = self.partial {
                let chunk = &bytes[at..bytes.len().min(at + left)];
                if !chunk.is_empty() {
                    if let Err(error) = self.body(channel, chunk) {
                        self.skip_if_late(channel, error)?;
                    }
                    at += chunk.len();
                }
                self.partial = Some(PartialBody {
                    channel,
                    left: left - chunk.len(),
                });
                match bytes.get(at) {
                    None => break,
                    Some(&frame::FRAME_END) => {
                        at += 1;
                        self.partial = None;
                    }
                    Some(&other) => {
                        return Err(Error::syntax(super::WireError::BadFrameEnd(other)))
                    }
                }
                continue;
            }
            match frame::parse(&bytes[at..], self.frame_max).map_err(Error::syntax)? {
                Some((frame, length)) => {
                    at += length;
                    let (channel, handled) = match frame {
                        Frame::Method { channel, payload } => {
                            let used = self.method(channel, payload, &bytes[at..]);
                            (channel, used.map(|used| at += used))
                        }
                        Frame::Header { channel, payload } => {
                            (channel, self.header(channel, payload))
                        }
                        Frame::Body { channel, payload } => (channel, self.body(channel, payload)),
                        Frame::Heartbeat => continue,
                    };
                    if let Err(error) = handled {
                        self.skip_if_late(channel, error)?;
                    }
                }
                None => match partial_body(&bytes[at..]) {
                    Some((channel, left)) if left > 0 => {
                        self.partial = Some(PartialBody { channel, left });
                        at += frame::FRAME_OVERHEAD - 1;
                    }
                    // A body frame of size 0 goes the whole way, once it is whole.
                    _ => break,
                },
            }
        }
        Ok(Fed {
            used: at,
            more: false,
        })
    }

    /// The slot of the channel that a frame is for. `None` if the frame means nothing any more, and is to be skipped.
    #[inline]
    fn slot_of(&self, number: u16) -> Result<Option<usize>, Error> {
        if let Number::Taken(slot) = self.number(number) {
            if self.phase_at(slot) == Phase::Open {
                return Ok(Some(slot));
            }
        }
        self.check_skipped(number)?;
        Ok(None)
    }

    fn phase_at(&self, slot: usize) -> Phase {
        let channel = self.channels.get(slot).and_then(Option::as_deref);
        channel.map_or(Phase::Closed, ChannelState::phase)
    }

    /// A frame for a channel that is not open. It may be late: sent before the broker knew that the channel is closed, or
    /// by a part of it that did not know yet. Until the broker has confirmed a channel that opens, everything on its number
    /// is the earlier channel's.
    #[cold]
    fn check_skipped(&self, number: u16) -> Result<(), Error> {
        let early = match self.number(number) {
            Number::Unused => true,
            Number::Closed { .. } => false,
            Number::Taken(slot) => self.phase_at(slot) == Phase::Opening,
        };
        if early && !self.is_closing() {
            return Err(Error::unexpected(format_args!(
                "a frame on channel {number}, which is not open"
            )));
        }
        Ok(())
    }

    /// A frame that has no meaning on an open channel. If an earlier channel had its number it may be that one's, which the
    /// broker had not finished with when it opened the next one.
    #[cold]
    fn skip_if_late(&mut self, number: u16, error: Error) -> Result<(), Error> {
        let Number::Taken(slot) = self.number(number) else {
            return Err(error);
        };
        let channel = self.at(slot)?;
        if channel.former.is_none() || !matches!(error, Error::UnexpectedFrame { .. }) {
            return Err(error);
        }
        channel.content = Content::None;
        Ok(())
    }

    fn at(&mut self, slot: usize) -> Result<&mut ChannelState, Error> {
        self.channel(slot)
            .ok_or_else(|| Error::unexpected(format_args!("a frame on a channel that is not open")))
    }

    /// Handles a method. If a message follows it and is at hand as a whole in `rest`, takes that too, and returns how many
    /// bytes of `rest` it was.
    fn method(&mut self, number: u16, payload: &[u8], rest: &[u8]) -> Result<usize, Error> {
        let slot = match self.number(number) {
            Number::Taken(slot) if self.phase_at(slot) == Phase::Open => slot,
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
        let id = match payload {
            [c0, c1, m0, m1, ..] => (
                u16::from_be_bytes([*c0, *c1]),
                u16::from_be_bytes([*m0, *m1]),
            ),
            _ => (0, 0),
        };
        if id == (60, 60) {
            self.note_skipped(number, payload);
        }
        let Number::Taken(slot) = self.number(number) else {
            return self.check_skipped(number);
        };
        let counts = match self.phase_at(slot) {
            Phase::Opening | Phase::Reopening => matches!(id, (20, 11 | 40)),
            Phase::Closing if number == 0 => matches!(id, (10, 50 | 51)),
            Phase::Closing => matches!(id, (20, 40 | 41)),
            Phase::Open | Phase::Closed => false,
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
        let channel = self.at(slot)?;
        match method {
            Method::BasicAck {
                delivery_tag,
                multiple,
            } => self.confirm(slot, delivery_tag, multiple, false),
            Method::BasicNack {
                delivery_tag,
                multiple,
                ..
            } => self.confirm(slot, delivery_tag, multiple, true),
            Method::BasicCancel {
                consumer_tag,
                no_wait,
            } => self.cancelled(slot, consumer_tag, no_wait),
            Method::BasicGetEmpty { .. } => self.reply(slot, (60, 71), Reply::Got(None)),
            Method::ChannelFlow { active } => {
                frame::write_method(&mut self.to_send, number, &Method::ChannelFlowOk { active })
                    .map_err(Error::syntax)?;
                Ok(())
            }
            Method::ChannelClose {
                reply_code,
                reply_text,
                class_id,
                method_id,
            } if number != 0 => {
                frame::write_method(&mut self.to_send, number, &Method::ChannelCloseOk {})
                    .map_err(Error::syntax)?;
                let why = Error::ChannelClosedByBroker {
                    reply_code,
                    reply_text: reply_text.to_text(),
                    channel: number,
                    method: Method::name_of(class_id, method_id),
                };
                let channel = self.at(slot)?;
                if channel.phase() == Phase::Closing {
                    // Both ends closed at once. This end's close-ok is still to come, and until then the number is taken.
                    channel.broker_close = Some(why);
                    self.touch(slot);
                    return Ok(());
                }
                self.closures.push(slot);
                self.end_channel(slot, why);
                Ok(())
            }
            Method::ChannelCloseOk {} => {
                // On an open channel it is that of an earlier one; see `give_up_close_ok`.
                if channel.phase() == Phase::Closing {
                    self.release(slot);
                }
                Ok(())
            }
            Method::BasicCancelOk { consumer_tag } => {
                // A peer may reply where no reply is asked for, see `cancelled`.
                let waited_for = channel
                    .calls
                    .front()
                    .is_some_and(|call| call.expects == (60, 31));
                if !waited_for && channel.take_extra_cancel_ok(&consumer_tag.to_text()) {
                    return Ok(());
                }
                self.reply(slot, (60, 31), Reply::Done)
            }
            Method::BasicConsumeOk { consumer_tag } => {
                let mut consumers = channel.consumers.iter_mut();
                let is_this =
                    |consumer: &&mut Consumer| consumer.consumer_tag.as_bytes() == &*consumer_tag;
                if let Some(consumer) = consumers.find(is_this) {
                    consumer.state = ConsumerState::Active;
                }
                self.reply(slot, (60, 21), Reply::Done)
            }
            Method::QueueDeclareOk {
                queue,
                message_count,
                consumer_count,
            } => {
                let declared = QueueDeclareOk {
                    queue: queue.to_text(),
                    message_count,
                    consumer_count,
                };
                self.reply(slot, (50, 11), Reply::Declared(declared))
            }
            Method::QueuePurgeOk { message_count } => {
                self.reply(slot, (50, 31), Reply::Count(message_count))
            }
            Method::QueueDeleteOk { message_count } => {
                self.reply(slot, (50, 41), Reply::Count(message_count))
            }
            Method::ChannelFlowOk { active } => self.reply(slot, (20, 21), Reply::Active(active)),
            Method::ChannelOpenOk { .. } => {
                channel.gate.set_phase(Phase::Open);
                self.reply(slot, (20, 11), Reply::Done)
            }
            Method::ConnectionClose {
                reply_code,
                reply_text,
                class_id,
                method_id,
            } if number == 0 => {
                frame::write_method(&mut self.to_send, 0, &Method::ConnectionCloseOk {})
                    .map_err(Error::syntax)?;
                let address = Arc::clone(&self.address);
                let why = Error::ConnectionClosedByBroker {
                    reply_code,
                    reply_text: reply_text.to_text(),
                    method: Method::name_of(class_id, method_id),
                    address,
                    while_closing: self.is_closing(),
                };
                self.end_all(why);
                Ok(())
            }
            Method::ConnectionCloseOk {} if self.is_closing() => {
                self.end_by_client();
                Ok(())
            }
            Method::ConnectionBlocked { reason } if number == 0 => {
                let reason = reason.to_text();
                self.blocked = Some(reason.as_str().into());
                self.push_connection_event(ConnectionEvent::Blocked(reason));
                self.connection_changed = true;
                Ok(())
            }
            Method::ConnectionUnblocked {} if number == 0 => {
                self.blocked = None;
                self.push_connection_event(ConnectionEvent::Unblocked);
                self.connection_changed = true;
                Ok(())
            }
            other => {
                let id = other.id();
                self.reply(slot, id, Reply::Done)
            }
        }
    }

    /// This program closes the connection: its channels are closed first, as pika does, and nothing more is delivered.
    ///
    /// # Errors
    /// If the text is too long; nothing has happened then.
    pub(crate) fn close(&mut self, reply_code: u16, reply_text: &str) -> Result<(), Error> {
        let close = Method::ConnectionClose {
            reply_code,
            reply_text: reply_text.into(),
            class_id: 0,
            method_id: 0,
        };
        let mut bytes = Vec::new();
        frame::write_method(&mut bytes, 0, &close).map_err(Error::unsendable)?;
        self.phase = ConnectionPhase::Closing {
            reply_code,
            reply_text: reply_text.to_owned(),
        };
        self.connection_changed = true;
        for slot in 1..self.channels.len() {
            let why = Error::ConnectionClosedByClient {
                reply_code,
                reply_text: reply_text.to_owned(),
            };
            self.close_channel(slot, reply_code, reply_text, why)?;
        }
        if let Some(zero) = self.channel(0) {
            zero.gate.set_phase(Phase::Closing);
        }
        self.to_send.extend_from_slice(&bytes);
        Ok(())
    }

    /// This program's own closing came to its end.
    pub(crate) fn end_by_client(&mut self) {
        let (reply_code, reply_text) = match &self.phase {
            ConnectionPhase::Closing {
                reply_code,
                reply_text,
            } => (*reply_code, reply_text.clone()),
            _ => (200, String::new()),
        };
        self.end_all(Error::ConnectionClosedByClient {
            reply_code,
            reply_text,
        });
    }

    /// Hands a reply to the oldest call of a channel, which must be the one that it is for. Only `channel.flow-ok` may overtake
    /// other replies: RabbitMQ's channel sends it, while `cancel-ok` and `consume-ok` come from the queue.
    fn reply(&mut self, slot: usize, id: (u16, u16), reply: Reply) -> Result<(), Error> {
        const FLOW_OK: (u16, u16) = (20, 21);
        let channel = self.at(slot)?;
        let calls = &mut channel.calls;
        let call = match id {
            FLOW_OK => calls.iter().position(|call| call.expects == FLOW_OK),
            _ => calls
                .front()
                .is_some_and(|call| call.expects == id)
                .then_some(0),
        };
        match call.and_then(|at| calls.remove(at)) {
            Some(call) => {
                if call.id != FORGOTTEN {
                    channel.call_replies.push((call.id, reply));
                }
                self.touch(slot);
                Ok(())
            }
            None => {
                let name = Method::name_of(id.0, id.1).unwrap_or("an unknown method");
                let number = channel.number;
                Err(Error::unexpected(format_args!(
                    "{name} on channel {number}, which did not ask for it"
                )))
            }
        }
    }
}
