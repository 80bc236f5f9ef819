//! The public handle of a channel.

mod topology;

use std::any::Any;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crate::connection::Connection;
use crate::consumer::Messages;
use crate::dispatch::{self, CallbackList, CallbackResult, Round, CLOSE_OK_LIMIT};
use crate::error::{Fault, Result};
use crate::io::wait::{after, Interest, Link, Shared};
use crate::io::writer::DIRECT_BODY;
use crate::protocol::channel::{ChannelState, Consumer, Gate, Mandatory, Phase, Reply};
use crate::protocol::confirms::Outcome;
use crate::protocol::connection::fingerprint;
use crate::protocol::frame;
use crate::protocol::method::Method;
use crate::publisher::Publisher;
use crate::{
    BasicAck, BasicConsume, BasicGet, BasicNack, BasicProperties, BasicQos, BasicReject, Consume,
    ConsumingEnded, Deliver, Error, FieldTable, GetOk, Message, Publish, Return, ReturnedMessage,
};

/// A channel (pika: `BlockingChannel`; specification 1.5).
///
/// A handle: clones are cheap and mean the same channel, and any thread may call any method at any time. It keeps its
/// connection alive. When the last handle is dropped the channel is closed, so what it had not acknowledged goes back to
/// its queues; a program that only consumes must therefore keep the handle. Beware of the reverse, too: a callback that
/// holds a clone of its own channel keeps that channel alive until it is cancelled or closed. Callbacks are given the
/// channel, so they need no clone.
///
/// When the broker closes a channel (over a missing queue, say), the connection stays open. The call that caused it fails
/// with [`Error::ChannelClosedByBroker`], and so does every later call on the channel. What is only sent
/// ([`basic_publish`](Channel::basic_publish) without confirms, [`basic_ack`](Channel::basic_ack)) cannot fail that way
/// itself: the closure shows at the next call.
///
/// Calls that wait for the broker are bound by
/// [`rpc_timeout`](crate::ConnectionParameters::rpc_timeout). When that runs out they fail with [`Error::Timeout`] and
/// the channel is closed, since answers could no longer be told apart.
#[derive(Clone)]
pub struct Channel {
    handle: Arc<ChannelHandle>,
}

pub(crate) type MessageCallback =
    dyn FnMut(&Channel, Deliver, BasicProperties, Vec<u8>) -> Result<()> + Send;
type ReturnCallback = dyn FnMut(&Channel, Return, BasicProperties, Vec<u8>) -> Result<()> + Send;
type CancelCallback = dyn FnMut(&Channel, String) -> Result<()> + Send;

pub(crate) struct ChannelHandle {
    connection: Connection,
    place: usize,
    number: u16,
    gate: Arc<Gate>,
    callbacks: Mutex<Callbacks>,
    /// Changes whenever a consumer's callback is added or removed.
    callbacks_version: AtomicU64,
}

#[derive(Default)]
struct Callbacks {
    /// In the order of their consumer tags.
    messages: Vec<MessageSlot>,
    next_slot: u64,
    returned: CallbackList<ReturnCallback>,
    cancelled: CallbackList<CancelCallback>,
}

impl Callbacks {
    /// Where the callback of a consumer is, or belongs.
    fn find(&self, consumer_tag: &str) -> std::result::Result<usize, usize> {
        self.messages
            .binary_search_by(|slot| slot.consumer_tag.as_str().cmp(consumer_tag))
    }

    fn slot(&mut self, consumer_tag: &str) -> Option<&mut MessageSlot> {
        let place = self.find(consumer_tag).ok()?;
        Some(&mut self.messages[place])
    }
}

/// A consumer's callback, unless it is being run.
struct MessageSlot {
    consumer_tag: String,
    id: u64,
    callback: Option<Box<MessageCallback>>,
}

/// A consumer's callback, taken from its place to run it.
pub(crate) struct TakenCallback {
    consumer_tag: String,
    version: u64,
    id: u64,
    pub(crate) callback: Box<MessageCallback>,
}

impl Drop for ChannelHandle {
    fn drop(&mut self) {
        let link = self.connection.link();
        let mut shared = link.lock();
        let Some(channel) = shared.session.channel(self.place) else {
            return;
        };
        let consumers = match channel.phase {
            Phase::Open => channel.consumers.len(),
            _ => 0,
        };
        let why = Error::ChannelClosedByClient {
            reply_code: 0,
            reply_text: "the last handle was dropped".into(),
            channel: self.number,
        };
        link.end_channel(&mut shared, self.place, 0, "", why.into());
        shared.session.abandon(self.place);
        link.resume_if_paused(&mut shared);
        drop(shared);
        if consumers > 0 {
            log::warn!(
                "channel {}: the last handle was dropped while {consumers} consumers were registered; the channel is closed",
                self.number,
            );
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl From<Arc<ChannelHandle>> for Channel {
    fn from(handle: Arc<ChannelHandle>) -> Self {
        Channel { handle }
    }
}

/// How long `close` waits for a close-ok that may have got lost because the broker closed the channel at the same time.
const CROSSED_CLOSE_OK: Duration = Duration::from_millis(50);

/// What takes nothing with its answer.
fn done(answer: Result<Reply, Fault>) -> Result<()> {
    answer?;
    Ok(())
}

impl Channel {
    pub(crate) fn open(connection: &Connection, number: Option<u16>) -> Result<Channel> {
        let link = connection.link();
        let mut shared = link.lock();
        if let Err(error) = connection.check_open(&mut shared.session) {
            drop(shared);
            connection.let_go_if_ended();
            return Err(error.into());
        }
        let gate = Gate::opened();
        let nobody: Weak<dyn Any + Send + Sync> = Weak::<ChannelHandle>::new();
        let state = ChannelState::new(Arc::clone(&gate), nobody);
        let (place, number) = shared.session.add_channel(number, state)?;
        let handle = Arc::new(ChannelHandle {
            connection: connection.clone(),
            place,
            number,
            gate,
            callbacks: Mutex::default(),
            callbacks_version: AtomicU64::new(0),
        });
        if let Some(channel) = shared.session.channel(place) {
            let owner: Arc<dyn Any + Send + Sync> = Arc::clone(&handle) as _;
            channel.owner = Arc::downgrade(&owner);
        }
        let channel = Channel { handle };
        let method = Method::ChannelOpen;
        let call = channel.begin_call(&mut shared, &method, (20, 11));
        drop(shared);
        channel.finish_call(call?, &method)?;
        Ok(channel)
    }

    pub(crate) fn place(&self) -> usize {
        self.handle.place
    }

    pub(crate) fn gate(&self) -> &Gate {
        &self.handle.gate
    }

    pub(crate) fn link(&self) -> &Link {
        self.handle.connection.link()
    }

    // ---- the end of a channel, and how it is told

    /// Why a call cannot be made any more. Whoever waited when it happened is told by `ended`.
    pub(crate) fn closure(&self) -> Fault {
        let number = self.handle.number;
        let end = self.ended();
        match &*end {
            Error::ChannelClosedByClient {
                reply_code,
                reply_text,
                ..
            } => Fault::channel_not_open(
                number,
                format_args!("closed by this program: {reply_code} {reply_text}"),
            ),
            Error::ConnectionClosedByClient { .. } => {
                Fault::channel_not_open(number, format_args!("{}", *end))
            }
            _ => end,
        }
    }

    /// Why the channel ended. The broker's closure counts as reported from now on.
    pub(crate) fn ended(&self) -> Fault {
        let link = self.link();
        let (first, idle) = {
            let mut shared = link.lock();
            shared.session.end_told |= shared.session.end.is_some();
            let first = shared.session.reported(self.handle.place);
            (first, shared.session.is_idle(self.handle.place))
        };
        if first {
            link.outgoing.flush(link, CLOSE_OK_LIMIT);
        }
        if idle {
            // Nothing will come for the consumers any more; they may hold clones of this channel.
            self.forget_callbacks();
        }
        match self.handle.gate.end.get() {
            Some(end) => end.clone(),
            None => Fault::channel_not_open(self.handle.number, format_args!("it is being closed")),
        }
    }

    pub(crate) fn forget_callbacks(&self) {
        let callbacks = std::mem::take(&mut *lock(&self.handle.callbacks));
        self.callbacks_changed();
        drop(callbacks);
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.handle.gate.end.get().is_some()
    }

    // ---- calls that wait for the broker

    fn begin_call(
        &self,
        shared: &mut Shared,
        method: &Method<'_>,
        expects: (u16, u16),
    ) -> Result<u64, Fault> {
        let number = self.handle.number;
        let link = self.link();
        let frame_max = link.negotiated.frame_max as usize;
        link.outgoing.append_quietly(|out| {
            let start = out.len();
            frame::write_method(out, number, method).map_err(Fault::unsendable)?;
            let size = out.len() - start;
            if size > frame_max {
                out.truncate(start);
                let all = "with all its arguments it";
                return Err(Fault::too_large(method.name(), size, all, frame_max));
            }
            let gate = &*self.handle.gate;
            gate.acks.sent(method);
            if matches!(method, Method::ConfirmSelect { .. }) {
                // The broker numbers what comes after this method, so the mode begins here and not with its answer.
                gate.confirming.store(true, Ordering::Release);
            }
            Ok(())
        })?;
        Ok(shared.session.add_call(self.handle.place, expects))
    }

    fn finish_call(&self, call: u64, method: &Method<'_>) -> Result<Reply, Fault> {
        let link = self.link();
        let place = self.handle.place;
        let answer = link.wait(
            Interest::channel(place),
            Some(after(link.rpc_timeout)),
            |shared| {
                let channel = shared.session.channel(place)?;
                match channel.take_answer(call) {
                    Some(reply) => Some(Some(reply)),
                    None if channel.gate.end.get().is_some() => Some(None),
                    None => None,
                }
            },
        );
        match answer {
            Some(Some(reply)) => Ok(reply),
            Some(None) => Err(self.ended()),
            None => Err(self.time_is_up(method.name())),
        }
    }

    /// A call was not answered in time: answers can no longer be told apart, so the channel is closed.
    pub(crate) fn time_is_up(&self, waiting_for: &'static str) -> Fault {
        let link = self.link();
        let error = Fault::timeout(waiting_for, link.rpc_timeout);
        let mut shared = link.lock();
        let place = self.handle.place;
        link.end_channel(&mut shared, place, 0, "no answer in time", error.clone());
        error
    }

    fn call(&self, method: &Method<'_>, expects: (u16, u16)) -> Result<Reply, Fault> {
        let mut shared = self.link().lock();
        if self.is_ended() {
            drop(shared);
            return Err(self.closure());
        }
        let call = self.begin_call(&mut shared, method, expects);
        drop(shared);
        self.finish_call(call?, method)
    }

    // ---- what is only sent

    /// Gathers what settles messages.
    fn settle(&self, method: &Method<'_>) -> Result<()> {
        let link = self.link();
        let handle = &*self.handle;
        if !handle.gate.is_open() {
            return Err(self.closure().into());
        }
        let mut closed = false;
        let write = |out: &mut Vec<u8>, appended| {
            closed = !handle.gate.is_open();
            if !closed {
                let acks = &handle.gate.acks;
                acks.write(out, appended, handle.number, method)
                    .map_err(Fault::unsendable)?;
            }
            Ok(())
        };
        let sent = link.outgoing.append_at(link, link.rpc_timeout, write);
        if closed {
            return Err(self.closure().into());
        }
        Ok(sent?)
    }

    /// Sends a message; answers its number in confirm mode, else 0.
    pub(crate) fn send_message(
        &self,
        exchange: &str,
        routing_key: &str,
        body: &[u8],
        publish: &Publish<'_>,
        waits: bool,
    ) -> Result<u64, Fault> {
        let link = self.link();
        let handle = &*self.handle;
        let gate = &*handle.gate;
        let frame_max = link.negotiated.frame_max as usize;
        let chunk = frame_max - frame::FRAME_OVERHEAD;
        let direct = body.len() >= DIRECT_BODY;
        // Before the lock, unless the mode is turned on just now.
        let expected = publish.mandatory && gate.confirming.load(Ordering::Acquire);
        let content = expected.then(|| fingerprint(exchange, routing_key, body));
        if !gate.is_open() {
            return Err(self.closure());
        }
        let mut closed = false;
        let mut sequence = 0;
        let write = |out: &mut Vec<u8>| {
            if !gate.is_open() {
                closed = true;
                return Ok(());
            }
            let start = out.len();
            let method = Method::BasicPublish {
                exchange: exchange.into(),
                routing_key: routing_key.into(),
                mandatory: publish.mandatory,
                immediate: false,
            };
            frame::write_method(out, handle.number, &method).map_err(Fault::unsendable)?;
            let header = out.len();
            if let Err(error) =
                frame::write_header(out, handle.number, body.len() as u64, &publish.properties)
            {
                out.truncate(start);
                return Err(Fault::unsendable(error));
            }
            let size = out.len() - header;
            if size > frame_max {
                out.truncate(start);
                let all = "all properties and headers";
                return Err(Fault::too_large("properties", size, all, frame_max));
            }
            if !direct && !body.is_empty() {
                for part in body.chunks(chunk) {
                    frame::write_body(out, handle.number, part);
                }
            }
            if gate.confirming.load(Ordering::Relaxed) {
                sequence = gate.published.load(Ordering::Relaxed) + 1;
                gate.published.store(sequence, Ordering::Release);
                if publish.mandatory {
                    let content =
                        content.unwrap_or_else(|| fingerprint(exchange, routing_key, body));
                    lock(&gate.mandatory).push_back(Mandatory { sequence, content });
                }
            }
            Ok(())
        };
        let sent = if direct {
            link.outgoing
                .append_body(link, link.rpc_timeout, handle.number, body, chunk, write)
        } else if waits {
            link.outgoing.append_quietly(write)
        } else {
            link.outgoing.append(link, link.rpc_timeout, write)
        };
        if closed {
            return Err(self.closure());
        }
        sent.map(|()| sequence)
    }

    // ---- publishing

    /// Publishes a message without properties (pika: `basic_publish(exchange, routing_key, body)`; specification
    /// 1.8.3.7).
    ///
    /// The exchange `""` is the default exchange, whose routing keys are names of queues. Without confirms this only hands
    /// the message to the connection, which sends it within a few milliseconds; a mistake such as a missing exchange closes
    /// the channel later. After [`confirm_delivery`](Channel::confirm_delivery) it waits until the broker has taken the message. For
    /// many messages with confirms, see [`publisher`](Channel::publisher).
    ///
    /// # Errors
    /// [`Error::ShortStringTooLong`] for a name over 255 bytes (nothing is sent then); [`Error::Nack`] and
    /// [`Error::Unroutable`] in confirm mode; [`Error::Timeout`] if there was no room to send, or no confirmation, within
    /// `rpc_timeout`; what closed the channel or the connection.
    pub fn basic_publish(
        &self,
        exchange: &str,
        routing_key: &str,
        body: impl AsRef<[u8]>,
    ) -> Result<()> {
        self.basic_publish_with(exchange, routing_key, body, Publish::new())
    }

    /// Publishes a message with properties, or as mandatory
    /// (pika: `basic_publish(exchange, routing_key, body, properties, mandatory)`).
    ///
    /// ```no_run
    /// # fn main() -> haypile::Result<()> {
    /// # use haypile::{BasicProperties, Connection, DeliveryMode, Publish};
    /// # let channel = Connection::open("amqp://localhost")?.channel()?;
    /// let persistent = BasicProperties::new().delivery_mode(DeliveryMode::Persistent);
    /// channel.basic_publish_with("", "task_queue", "kept on disk", &persistent)?;
    /// channel.basic_publish_with("", "task_queue", "or told", Publish::new().mandatory(true).properties(&persistent))?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`basic_publish`](Channel::basic_publish).
    pub fn basic_publish_with<'p>(
        &self,
        exchange: &str,
        routing_key: &str,
        body: impl AsRef<[u8]>,
        publish: impl Into<Publish<'p>>,
    ) -> Result<()> {
        self.publish(exchange, routing_key, body.as_ref(), publish.into())
    }

    /// The same, made once for all types of messages.
    fn publish(
        &self,
        exchange: &str,
        routing_key: &str,
        body: &[u8],
        publish: Publish<'_>,
    ) -> Result<()> {
        let waits = self.handle.gate.confirming.load(Ordering::Acquire);
        let sequence = self.send_message(exchange, routing_key, body, &publish, waits)?;
        match sequence {
            0 => Ok(()),
            sequence => self.wait_for_confirm(sequence),
        }
    }

    fn wait_for_confirm(&self, sequence: u64) -> Result<()> {
        let link = self.link();
        let place = self.handle.place;
        let outcome = link.wait(
            Interest::channel(place),
            Some(after(link.rpc_timeout)),
            |shared| {
                let channel = shared.session.channel(place)?;
                match channel.confirms.take(sequence) {
                    Some(outcome) => Some(Some(outcome)),
                    None if channel.gate.end.get().is_some() => Some(None),
                    None => None,
                }
            },
        );
        match outcome {
            Some(Some(Outcome::Acked)) => Ok(()),
            Some(Some(Outcome::Returned(messages))) => Err(Error::unroutable(messages)),
            Some(Some(Outcome::Nacked(messages))) => Err(Error::nack(messages)),
            Some(None) => Err(self.ended().into()),
            None => Err(self.time_is_up("the broker's confirmation").into()),
        }
    }

    /// Lets the broker confirm every message from now on (pika: `confirm_delivery`; RabbitMQ's `confirm.select`).
    ///
    /// A second call does nothing but log an error, as in pika.
    ///
    /// # Errors
    /// [`Error::MethodNotImplemented`] if the server has no confirms, and as every call.
    pub fn confirm_delivery(&self) -> Result<()> {
        if self.handle.gate.confirming.load(Ordering::Acquire) {
            log::error!(
                "channel {}: confirm_delivery was called before",
                self.handle.number
            );
            return Ok(());
        }
        self.start_confirming()
    }

    pub(crate) fn start_confirming(&self) -> Result<()> {
        if !self.handle.connection.publisher_confirms_supported() {
            return Err(Error::MethodNotImplemented {
                capability: "publisher confirms",
            });
        }
        done(self.call(&Method::ConfirmSelect { no_wait: false }, (85, 11)))
    }

    /// Publishes many messages with confirms: waits only while `window` of them are unconfirmed. Turns confirms on if they
    /// are off. Has no counterpart in pika.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] for a window of 0, and as [`confirm_delivery`](Channel::confirm_delivery).
    pub fn publisher(&self, window: usize) -> Result<Publisher> {
        if window == 0 {
            return Err(Error::invalid("window", 0, "at least 1 is expected"));
        }
        if !self.handle.gate.confirming.load(Ordering::Acquire) {
            self.start_confirming()?;
        }
        Ok(Publisher::new(self.clone(), window as u64))
    }

    /// Runs a callback for each returned message (pika: `add_on_return_callback`; specification 1.8.3.9).
    ///
    /// The broker returns messages published as mandatory that no queue took, in confirm mode too.
    pub fn add_on_return_callback<R: CallbackResult>(
        &self,
        mut callback: impl FnMut(&Channel, Return, BasicProperties, Vec<u8>) -> R + Send + 'static,
    ) {
        let callback: Box<ReturnCallback> = Box::new(move |channel, method, properties, body| {
            callback(channel, method, properties, body).into_result()
        });
        lock(&self.handle.callbacks)
            .returned
            .push(Arc::new(Mutex::new(callback)));
        let mut shared = self.link().lock();
        if let Some(channel) = shared.session.channel(self.handle.place) {
            channel.wants_returns = true;
            channel.home = dispatch::thread_number();
        }
    }

    pub(crate) fn tell_returned(&self, returned: &ReturnedMessage) -> Result<()> {
        let callbacks = lock(&self.handle.callbacks).returned.clone();
        callbacks.iter().try_for_each(|callback| {
            let ReturnedMessage {
                method,
                properties,
                body,
            } = returned.clone();
            lock(callback)(self, method, properties, body)
        })
    }

    // ---- consuming

    /// Registers a callback for the messages of a queue; answers the consumer's tag
    /// (pika: `basic_consume(queue, on_message_callback, …)`; specification 1.8.3.3).
    ///
    /// The callback runs inside [`start_consuming`](Channel::start_consuming),
    /// [`Connection::process_data_events`] and the like, never by itself. It may answer nothing or a
    /// [`Result`](crate::Result), whose error then ends that call.
    ///
    /// ```no_run
    /// # fn main() -> haypile::Result<()> {
    /// # let channel = haypile::Connection::open("amqp://localhost")?.channel()?;
    /// channel.basic_consume("task_queue", |channel, method, _properties, body| {
    ///     println!(" [x] {}", String::from_utf8_lossy(&body));
    ///     channel.basic_ack(method.delivery_tag)
    /// })?;
    /// channel.start_consuming()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::DuplicateConsumerTag`]; [`Error::ChannelClosedByBroker`] if there is no such queue (404) or it may not be
    /// consumed (403); and as every call.
    pub fn basic_consume<R: CallbackResult>(
        &self,
        request: impl Into<BasicConsume>,
        mut callback: impl FnMut(&Channel, Deliver, BasicProperties, Vec<u8>) -> R + Send + 'static,
    ) -> Result<String> {
        let BasicConsume {
            queue,
            auto_ack,
            exclusive,
            consumer_tag,
            arguments,
        } = request.into();
        let callback: Box<MessageCallback> = Box::new(move |channel, method, properties, body| {
            callback(channel, method, properties, body).into_result()
        });
        let consumer_tag = consumer_tag.unwrap_or_else(|| self.new_consumer_tag());
        let place = self.handle.place;
        let id = {
            let mut shared = self.link().lock();
            if self.is_ended() {
                drop(shared);
                return Err(self.closure().into());
            }
            let mut callbacks = lock(&self.handle.callbacks);
            callbacks.next_slot += 1;
            let id = callbacks.next_slot;
            if let Some(channel) = shared.session.channel(place) {
                let puller = channel.puller.as_ref();
                let pulled = puller.is_some_and(|puller| puller.consumer_tag == consumer_tag);
                if pulled || channel.consumer(&consumer_tag).is_some() {
                    return Err(Error::DuplicateConsumerTag { consumer_tag });
                }
                channel.consumers.push(Consumer {
                    consumer_tag: consumer_tag.clone(),
                    id,
                    auto_ack,
                });
                channel.home = dispatch::thread_number();
            }
            // Before the broker knows of it, so that no message can come too early.
            let slot = MessageSlot {
                consumer_tag: consumer_tag.clone(),
                id,
                callback: Some(callback),
            };
            match callbacks.find(&consumer_tag) {
                Ok(place) => callbacks.messages[place] = slot,
                Err(place) => callbacks.messages.insert(place, slot),
            }
            id
        };
        let result = self.subscribe(&queue, &consumer_tag, auto_ack, exclusive, &arguments);
        if let Err(error) = result {
            drop(self.forget_consumer(&consumer_tag, id));
            return Err(error);
        }
        Ok(consumer_tag)
    }

    pub(crate) fn new_consumer_tag(&self) -> String {
        format!(
            "ctag{}.{}",
            self.handle.number,
            uuid::Uuid::new_v4().simple()
        )
    }

    pub(crate) fn subscribe(
        &self,
        queue: &str,
        consumer_tag: &str,
        auto_ack: bool,
        exclusive: bool,
        arguments: &FieldTable,
    ) -> Result<()> {
        let method = Method::BasicConsume {
            queue: queue.into(),
            consumer_tag: consumer_tag.into(),
            no_local: false,
            no_ack: auto_ack,
            exclusive,
            no_wait: false,
            arguments: arguments.into(),
        };
        done(self.call(&method, (60, 21)))
    }

    fn callbacks_changed(&self) {
        self.handle.callbacks_version.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether a callback that was taken is still the one for this consumer.
    pub(crate) fn is_current(&self, taken: &TakenCallback, consumer_tag: &str) -> bool {
        taken.version == self.handle.callbacks_version.load(Ordering::Acquire)
            && taken.consumer_tag == consumer_tag
    }

    /// Takes a consumer's callback to run it; `give_back` puts it in its place again.
    pub(crate) fn take_callback(&self, consumer_tag: &str) -> Option<TakenCallback> {
        let mut callbacks = lock(&self.handle.callbacks);
        let slot = callbacks.slot(consumer_tag)?;
        Some(TakenCallback {
            consumer_tag: consumer_tag.to_owned(),
            version: self.handle.callbacks_version.load(Ordering::Acquire),
            id: slot.id,
            callback: slot.callback.take()?,
        })
    }

    /// Puts a callback in its place again. If its consumer is gone, it is answered, to be dropped without a lock: what it
    /// captured is the program's own.
    pub(crate) fn give_back(&self, taken: Option<TakenCallback>) -> Option<Box<MessageCallback>> {
        let taken = taken?;
        let mut callbacks = lock(&self.handle.callbacks);
        let slot = callbacks.slot(&taken.consumer_tag);
        match slot.filter(|slot| slot.id == taken.id) {
            Some(slot) => {
                slot.callback = Some(taken.callback);
                None
            }
            None => Some(taken.callback),
        }
    }

    /// Forgets a consumer; answers its callback, to be dropped without a lock.
    #[must_use]
    fn forget_consumer(&self, consumer_tag: &str, id: u64) -> Option<MessageSlot> {
        let mut shared = self.link().lock();
        self.forget_consumer_in(&mut shared, consumer_tag, id)
    }

    fn forget_consumer_in(
        &self,
        shared: &mut Shared,
        consumer_tag: &str,
        id: u64,
    ) -> Option<MessageSlot> {
        if let Some(channel) = shared.session.channel(self.handle.place) {
            channel.remove_consumer(consumer_tag, id);
        }
        let mut callbacks = lock(&self.handle.callbacks);
        let place = callbacks.find(consumer_tag).ok()?;
        let ours = callbacks.messages[place].id == id;
        let slot = ours.then(|| callbacks.messages.remove(place));
        self.callbacks_changed();
        slot
    }

    /// Cancels a consumer (pika: `basic_cancel`; specification 1.8.3.5).
    ///
    /// Messages that came for it and were not told to the callback go back to the queue. With automatic acknowledgement
    /// they cannot, so they are answered here. An unknown tag is no error: nothing is answered, and a warning is logged.
    ///
    /// # Errors
    /// As every call.
    pub fn basic_cancel(&self, consumer_tag: &str) -> Result<Vec<Message>> {
        let place = self.handle.place;
        let (consumer, pulled) = {
            let mut shared = self.link().lock();
            let channel = shared.session.channel(place);
            let puller = channel.as_ref().and_then(|channel| channel.puller.as_ref());
            let pulled = puller.is_some_and(|puller| puller.consumer_tag == consumer_tag);
            (
                channel.and_then(|channel| channel.consumer(consumer_tag).cloned()),
                pulled,
            )
        };
        if self.is_ended() {
            return Err(self.closure().into());
        }
        if pulled {
            self.cancel()?;
            return Ok(Vec::new());
        }
        let Some(consumer) = consumer else {
            log::warn!(
                "channel {}: there is no consumer {consumer_tag:?} to cancel",
                self.handle.number
            );
            return Ok(Vec::new());
        };
        self.unsubscribe(consumer_tag)?;
        let (undelivered, slot) = {
            let mut shared = self.link().lock();
            let slot = self.forget_consumer_in(&mut shared, consumer_tag, consumer.id);
            if let Some(channel) = shared.session.channel(place) {
                channel.cancelled_by_broker = None;
            }
            let undelivered = shared.session.take_undelivered(place, consumer_tag);
            self.link().resume_if_paused(&mut shared);
            (undelivered, slot)
        };
        drop(slot);
        // Whoever is inside start_consuming may have nothing left to wait for.
        self.link().poke();
        if consumer.auto_ack {
            return Ok(undelivered);
        }
        for (method, ..) in &undelivered {
            self.basic_reject(method.delivery_tag)?;
        }
        Ok(Vec::new())
    }

    pub(crate) fn unsubscribe(&self, consumer_tag: &str) -> Result<()> {
        done(self.call(
            &Method::BasicCancel {
                consumer_tag: consumer_tag.into(),
                no_wait: false,
            },
            (60, 31),
        ))
    }

    /// Runs callbacks until no consumer is left on this channel, and says why it ended (pika: `start_consuming`).
    ///
    /// # Errors
    /// What a callback answered: everything stays as it is then, and the rest is delivered by the next call. What closed
    /// the channel or the connection, unless this program did. [`Error::Reentrancy`] inside a callback.
    pub fn start_consuming(&self) -> Result<ConsumingEnded> {
        let link = self.link();
        let round = Round::enter(&self.handle.connection, Some(self));
        if round.is_nested() {
            return Err(Error::Reentrancy {
                call: "start_consuming",
            });
        }
        let place = self.handle.place;
        let thread = dispatch::thread_number();
        {
            let mut shared = link.lock();
            if self.is_ended() {
                drop(shared);
                return Err(self.closure().into());
            }
            let Some(channel) = shared.session.channel(place) else {
                return Ok(ConsumingEnded::Closed);
            };
            if channel.consumers.is_empty() {
                return Ok(ConsumingEnded::NoConsumers);
            }
            channel.claims.push(thread);
        }
        let _claim = Claim {
            channel: self,
            thread,
        };
        let is_over = |shared: &mut Shared| {
            let Some(channel) = shared.session.channel(place) else {
                return true;
            };
            // What came before the end is told first, so that nothing is lost.
            let over = channel.gate.end.get().is_some() || channel.consumers.is_empty();
            over && channel.inbox.is_empty()
        };
        while round.run(None, is_over)? || !is_over(&mut link.lock()) {}
        if let Some(end) = self.handle.gate.end.get() {
            // Nothing will come any more; the callbacks may hold clones of this channel.
            self.forget_callbacks();
            return match **end {
                Error::ChannelClosedByClient { .. } | Error::ConnectionClosedByClient { .. } => {
                    Ok(ConsumingEnded::Closed)
                }
                _ => Err(self.ended().into()),
            };
        }
        let by_broker = link
            .lock()
            .session
            .channel(place)
            .and_then(|channel| channel.cancelled_by_broker.take());
        Ok(match by_broker {
            Some(consumer_tag) => ConsumingEnded::CancelledByBroker { consumer_tag },
            None => ConsumingEnded::Cancelled,
        })
    }

    /// Cancels all consumers of this channel, that of the iterator too, so that
    /// [`start_consuming`](Channel::start_consuming) ends (pika: `stop_consuming`). One consumer alone is stopped with
    /// [`basic_cancel`](Channel::basic_cancel).
    ///
    /// Messages with automatic acknowledgement that came and were not told are lost by this; cancel such consumers with
    /// [`basic_cancel`](Channel::basic_cancel) to get them.
    ///
    /// # Errors
    /// As every call.
    pub fn stop_consuming(&self) -> Result<()> {
        if self.is_ended() {
            return Err(self.closure().into());
        }
        let (tags, pulled) = {
            let mut shared = self.link().lock();
            match shared.session.channel(self.handle.place) {
                Some(channel) => (
                    channel
                        .consumers
                        .iter()
                        .map(|consumer| consumer.consumer_tag.clone())
                        .collect(),
                    channel.puller.is_some(),
                ),
                None => (Vec::new(), false),
            }
        };
        if pulled {
            self.cancel()?;
        }
        for tag in tags {
            let lost = self.basic_cancel(&tag)?;
            if !lost.is_empty() {
                log::warn!(
                    "consumer {tag:?} was stopped with {} acknowledged messages not told",
                    lost.len()
                );
            }
        }
        Ok(())
    }

    /// Runs a callback whenever the broker cancels a consumer of this channel, because its queue was deleted, say
    /// (pika: `add_on_cancel_callback`; RabbitMQ's consumer cancel notification).
    pub fn add_on_cancel_callback<R: CallbackResult>(
        &self,
        mut callback: impl FnMut(&Channel, String) -> R + Send + 'static,
    ) {
        let callback: Box<CancelCallback> =
            Box::new(move |channel, tag| callback(channel, tag).into_result());
        lock(&self.handle.callbacks)
            .cancelled
            .push(Arc::new(Mutex::new(callback)));
        if let Some(channel) = self.link().lock().session.channel(self.handle.place) {
            channel.home = dispatch::thread_number();
        }
    }

    pub(crate) fn tell_cancelled(&self, consumer_tag: &str) -> Result<()> {
        let slot = {
            let mut shared = self.link().lock();
            let channel = shared.session.channel(self.handle.place);
            let consumer = channel.and_then(|channel| channel.consumer(consumer_tag).cloned());
            consumer.and_then(|consumer| {
                let slot = self.forget_consumer_in(&mut shared, consumer_tag, consumer.id);
                if let Some(channel) = shared.session.channel(self.handle.place) {
                    channel.cancelled_by_broker = Some(consumer_tag.to_owned());
                }
                slot
            })
        };
        drop(slot);
        let callbacks = lock(&self.handle.callbacks).cancelled.clone();
        callbacks
            .iter()
            .try_for_each(|callback| lock(callback)(self, consumer_tag.to_owned()))
    }

    /// The messages of a queue as an iterator (pika: `consume`).
    ///
    /// It waits for each message, and runs callbacks meanwhile. It ends when [`cancel`](Channel::cancel) was called, when
    /// the broker cancelled the consumer, or when nothing came within the inactivity timeout; asked again, it waits anew.
    /// Dropping it leaves the consumer as it is: the same request resumes it, [`cancel`](Channel::cancel) ends it.
    ///
    /// ```no_run
    /// # fn main() -> haypile::Result<()> {
    /// # use haypile::{Connection, Consume};
    /// # use std::time::Duration;
    /// # let channel = Connection::open("amqp://localhost")?.channel()?;
    /// let patience = Consume::new("task_queue").inactivity_timeout(Duration::from_secs(5));
    /// for message in channel.consume(patience)? {
    ///     let (method, _properties, body) = message?;
    ///     println!("{}", String::from_utf8_lossy(&body));
    ///     channel.basic_ack(method.delivery_tag)?;
    /// }
    /// let requeued = channel.cancel()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] if the channel has an iterator over another queue or with other flags (pika:
    /// `ValueError`); [`Error::ChannelClosedByBroker`] if there is no such queue; and as every call.
    pub fn consume(&self, request: impl Into<Consume>) -> Result<Messages> {
        Messages::start(self, request.into())
    }

    /// Ends the [`consume`](Channel::consume) iterator: cancels its consumer and gives back what it had not yielded
    /// (pika: `cancel`). Answers how many messages went back to the queue.
    ///
    /// With automatic acknowledgement nothing can go back; iterate to the end first if nothing may be lost.
    ///
    /// # Errors
    /// As every call.
    pub fn cancel(&self) -> Result<usize> {
        crate::consumer::cancel(self)
    }

    /// How many messages the iterator has at hand without waiting (pika: `get_waiting_message_count`).
    pub fn get_waiting_message_count(&self) -> usize {
        let mut shared = self.link().lock();
        let channel = shared.session.channel(self.handle.place);
        channel
            .and_then(|channel| channel.puller.as_ref())
            .map_or(0, |puller| puller.buffered.len())
    }

    /// The tags of this channel's consumers, that of the iterator among them (pika: `consumer_tags`).
    pub fn consumer_tags(&self) -> Vec<String> {
        let mut shared = self.link().lock();
        let Some(channel) = shared.session.channel(self.handle.place) else {
            return Vec::new();
        };
        let pulled = channel
            .puller
            .iter()
            .map(|puller| puller.consumer_tag.clone());
        channel
            .consumers
            .iter()
            .map(|consumer| consumer.consumer_tag.clone())
            .chain(pulled)
            .collect()
    }

    /// Fetches one message, if there is one (pika: `basic_get`; specification 1.8.3.10).
    ///
    /// # Errors
    /// [`Error::ChannelClosedByBroker`] if there is no such queue, and as every call.
    pub fn basic_get(
        &self,
        request: impl Into<BasicGet>,
    ) -> Result<Option<(GetOk, BasicProperties, Vec<u8>)>> {
        let BasicGet { queue, auto_ack } = request.into();
        match self.call(
            &Method::BasicGet {
                queue: (&queue).into(),
                no_ack: auto_ack,
            },
            (60, 71),
        )? {
            Reply::Got(got) => Ok(got.map(|message| {
                let (method, properties, body) = *message;
                (method, properties.into(), body)
            })),
            _ => Ok(None),
        }
    }

    /// Acknowledges a message, or all up to it with [`multiple`](BasicAck::multiple) (pika: `basic_ack`; specification
    /// 1.8.3.13).
    ///
    /// It is sent within a few milliseconds, also while the callback works on; nothing is waited for. As long as all messages of
    /// the channel are settled in the order in which they came, acknowledgements that go out together go out as one with
    /// `multiple`, which says the same and costs the broker much less. A tag that the broker does not know makes it close the
    /// channel, which shows at a later call.
    ///
    /// # Errors
    /// What closed the channel or the connection; [`Error::Timeout`] if there was no room to send within `rpc_timeout`.
    pub fn basic_ack(&self, request: impl Into<BasicAck>) -> Result<()> {
        let BasicAck {
            delivery_tag,
            multiple,
        } = request.into();
        self.settle(&Method::BasicAck {
            delivery_tag,
            multiple,
        })
    }

    /// Refuses a message, or all up to it, which goes back to the queue unless [`requeue`](BasicNack::requeue) is turned
    /// off (pika: `basic_nack`; RabbitMQ's `basic.nack`).
    ///
    /// # Errors
    /// As [`basic_ack`](Channel::basic_ack).
    pub fn basic_nack(&self, request: impl Into<BasicNack>) -> Result<()> {
        let BasicNack {
            delivery_tag,
            multiple,
            requeue,
        } = request.into();
        self.settle(&Method::BasicNack {
            delivery_tag,
            multiple,
            requeue,
        })
    }

    /// Refuses one message, which goes back to the queue unless [`requeue`](BasicReject::requeue) is turned off
    /// (pika: `basic_reject`; specification 1.8.3.14).
    ///
    /// # Errors
    /// As [`basic_ack`](Channel::basic_ack).
    pub fn basic_reject(&self, request: impl Into<BasicReject>) -> Result<()> {
        let BasicReject {
            delivery_tag,
            requeue,
        } = request.into();
        self.settle(&Method::BasicReject {
            delivery_tag,
            requeue,
        })
    }

    /// Makes the broker deliver again what this channel has not acknowledged, to any consumer if `requeue`
    /// (pika: `basic_recover`; specification 1.8.3.16). RabbitMQ knows only `true`.
    ///
    /// # Errors
    /// As every call.
    pub fn basic_recover(&self, requeue: bool) -> Result<()> {
        done(self.call(&Method::BasicRecover { requeue }, (60, 111)))
    }

    /// Limits how many unacknowledged messages the broker sends ahead (pika: `basic_qos`; specification 1.8.3.1).
    ///
    /// `channel.basic_qos(1)` is fair dispatch: a consumer gets the next message when it has acknowledged the last.
    ///
    /// # Errors
    /// As every call.
    pub fn basic_qos(&self, request: impl Into<BasicQos>) -> Result<()> {
        let BasicQos {
            prefetch_size,
            prefetch_count,
            global,
        } = request.into();
        done(self.call(
            &Method::BasicQos {
                prefetch_size,
                prefetch_count,
                global,
            },
            (60, 11),
        ))
    }

    // ---- the handle

    /// Closes the channel (pika: `close()`). What it had not acknowledged goes back; its consumers end.
    ///
    /// # Errors
    /// [`Error::ChannelWrongState`] if it is not open, or as every call on a channel that the broker closed.
    pub fn close(&self) -> Result<()> {
        self.close_with(0, "Normal shutdown")
    }

    /// Closes with a code and a text of the caller's (pika: `close(reply_code, reply_text)`; specification 1.5.2.5).
    ///
    /// # Errors
    /// As [`close`](Channel::close); [`Error::ShortStringTooLong`] for a text over 255 bytes.
    pub fn close_with(&self, reply_code: u16, reply_text: &str) -> Result<()> {
        if reply_text.len() > 255 {
            return Err(Error::ShortStringTooLong {
                field: "reply_text",
                length: reply_text.len(),
            });
        }
        let link = self.link();
        let place = self.handle.place;
        let mut shared = link.lock();
        if self.is_ended() {
            drop(shared);
            return Err(self.closure().into());
        }
        let why = Error::ChannelClosedByClient {
            reply_code,
            reply_text: reply_text.into(),
            channel: self.handle.number,
        };
        link.end_channel(&mut shared, place, reply_code, reply_text, why.into());
        drop(shared);
        let limit = Duration::from_secs(10).min(link.rpc_timeout);
        let deadline = after(limit);
        let mut crossed = false;
        let closed = link.wait(Interest::channel(place), Some(deadline), |shared| {
            let channel = shared.session.channel(place);
            crossed = channel.as_ref().is_some_and(|channel| channel.crossed);
            let closed = channel.is_none_or(|channel| channel.phase == Phase::Closed);
            (closed || crossed).then_some(())
        });
        if crossed {
            let patience = deadline.min(after(CROSSED_CLOSE_OK));
            link.wait(Interest::channel(place), Some(patience), |shared| {
                let channel = shared.session.channel(place);
                channel
                    .is_none_or(|channel| channel.phase == Phase::Closed)
                    .then_some(())
            });
            link.lock().session.give_up_close_ok(place);
        }
        self.forget_callbacks();
        // A connection that is lost meanwhile has taken the channel with it.
        closed.ok_or(Error::Timeout {
            waiting_for: "the broker's channel.close-ok",
            after: limit,
        })
    }

    /// Whether the channel is open (pika: `is_open`).
    pub fn is_open(&self) -> bool {
        !self.is_ended()
    }

    /// Whether the channel is closed (pika: `is_closed`).
    pub fn is_closed(&self) -> bool {
        self.is_ended()
    }

    /// The channel's number, from 1 (pika: `channel_number`).
    pub fn channel_number(&self) -> u16 {
        self.handle.number
    }

    /// The connection that the channel belongs to (pika: `connection`).
    pub fn connection(&self) -> Connection {
        self.handle.connection.clone()
    }
}

/// While a thread is inside `start_consuming`, the channel's callbacks are its own.
pub(crate) struct Claim<'a> {
    channel: &'a Channel,
    thread: u64,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if let Some(channel) = self
            .channel
            .link()
            .lock()
            .session
            .channel(self.channel.place())
        {
            if let Some(at) = channel
                .claims
                .iter()
                .position(|thread| *thread == self.thread)
            {
                channel.claims.swap_remove(at);
            }
        }
        // What is left there may be told by others now.
        self.channel.link().poke();
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("number", &self.handle.number)
            .field("open", &self.is_open())
            .finish_non_exhaustive()
    }
}

impl PartialEq for Channel {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.handle, &other.handle)
    }
}

impl Eq for Channel {}

impl Hash for Channel {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.handle).hash(state);
    }
}
