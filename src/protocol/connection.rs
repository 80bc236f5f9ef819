//! An open connection: what each frame does to the channels, and what is to be delivered to the program.

mod channels;
mod content;
mod inbox;
mod methods;

use std::collections::VecDeque;
use std::sync::Arc;

use self::channels::Number;
pub(crate) use self::inbox::{HELD_BOUND, RESUME_BELOW};
use super::channel::{ChannelState, Gate, Phase};
use super::frame::{self, Frame};
use super::method::{Method, MethodId};
use super::received::Content;
use crate::error::Result;
use crate::Error;

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
    Ended(Error),
}

/// A body frame of which only a part has come.
#[derive(Clone, Copy)]
struct PartialBody {
    channel: u16,
    /// How much of its payload is still to come.
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
        let threads = &channel.threads;
        if threads.consuming.is_empty() {
            self.channel.is_none() || threads.registering == self.thread
        } else {
            threads.consuming.contains(&self.thread)
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
    /// A call has failed with the end of the connection.
    pub(crate) end_reported: bool,
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
    /// Why the broker closed channels that had no handle any more, or whose connection was being closed, until that is logged: no
    /// call is left to report it.
    pub(crate) late_closures: Vec<Error>,

    /// What changed since waiting threads were last woken.
    pub(crate) changed: Vec<usize>,
    pub(crate) connection_changed: bool,
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
            end_reported: false,
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
            late_closures: Vec::new(),
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
        let close = Method::ChannelClose {
            reply_code: 311,
            reply_text: "CONTENT_TOO_LARGE".into(),
            class_id: 60,
            method_id: 60,
        };
        frame::write_method(&mut self.to_send, number, &close).map_err(Error::unsendable)?;
        self.closures.push(slot);
        self.note_change(slot);
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
        let reported = std::mem::replace(&mut self.end_reported, true);
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
            self.end_channel(slot, why.clone());
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
    pub(crate) fn add_call(
        &mut self,
        slot: usize,
        expects: MethodId,
        consumer_tag: Option<&[u8]>,
    ) -> u64 {
        self.next_call += 1;
        let id = self.next_call;
        if let Some(channel) = self.channel(slot) {
            channel.calls.add(id, expects, consumer_tag);
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
            if let Some(partial) = self.partial {
                at += self.feed_partial(partial, &bytes[at..])?;
                if self.partial.is_some() {
                    break;
                }
                continue;
            }
            let Some((frame, length)) =
                frame::parse(&bytes[at..], self.frame_max).map_err(Error::syntax)?
            else {
                match frame::begun_body(&bytes[at..]) {
                    Some((channel, left)) if left > 0 => {
                        self.partial = Some(PartialBody { channel, left });
                        at += frame::PREFIX;
                    }
                    // A body frame of size 0 goes the whole way, once it is whole.
                    _ => break,
                }
                continue;
            };
            at += length;
            let (channel, handled) = match frame {
                Frame::Method { channel, payload } => {
                    let used = self.method(channel, payload, &bytes[at..]);
                    (channel, used.map(|used| at += used))
                }
                Frame::Header { channel, payload } => (channel, self.header(channel, payload)),
                Frame::Body { channel, payload } => (channel, self.body(channel, payload)),
                Frame::Heartbeat => continue,
            };
            if let Err(error) = handled {
                self.skip_if_late(channel, error)?;
            }
        }
        Ok(Fed {
            used: at,
            more: false,
        })
    }

    /// Goes on with a body frame that has begun; returns how many of these bytes belong to it.
    fn feed_partial(&mut self, partial: PartialBody, bytes: &[u8]) -> Result<usize, Error> {
        let PartialBody { channel, left } = partial;
        let chunk = &bytes[..bytes.len().min(left)];
        if !chunk.is_empty() {
            if let Err(error) = self.body(channel, chunk) {
                self.skip_if_late(channel, error)?;
            }
        }
        match bytes.get(chunk.len()) {
            None => {
                let left = left - chunk.len();
                self.partial = Some(PartialBody { channel, left });
                Ok(chunk.len())
            }
            Some(&frame::FRAME_END) => {
                self.partial = None;
                Ok(chunk.len() + 1)
            }
            Some(&other) => Err(Error::syntax(super::WireError::BadFrameEnd(other))),
        }
    }

    /// The slot of the channel that a frame is for. `None` if the frame means nothing any more, and is to be skipped.
    #[inline]
    fn slot_of(&self, number: u16) -> Result<Option<usize>, Error> {
        if let Number::Taken(slot) = self.number(number) {
            if self.phase_at(slot).is_open() {
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

    /// The channel in a slot that a frame has led to.
    fn at(&mut self, slot: usize) -> Result<&mut ChannelState, Error> {
        self.channel(slot)
            .ok_or_else(|| Error::unexpected(format_args!("a frame on a channel that is not open")))
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
}
