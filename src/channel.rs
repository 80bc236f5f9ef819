//! The public handle of a channel.

mod acknowledging;
mod consuming;
mod publishing;
mod sending;
mod topology;
mod waiting;

pub(crate) use self::consuming::is_of_stream;
pub(crate) use self::publishing::Then;
use self::sending::Sending;
pub(crate) use self::waiting::{Until, WaitEnd};

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::connection::Connection;
use crate::dispatch::{ChannelCallbacks, Consuming, Owner, Round, CLOSE_OK_LIMIT};
use crate::error::Result;
use crate::io::link::{Interest, Link, Shared};
use crate::io::sync::{after, Instant};
use crate::protocol::calls::Reply;
use crate::protocol::channel::{ChannelState, Gate, Phase};
use crate::protocol::frame;
use crate::protocol::method::Method;
use crate::protocol::publish::Outbox;
use crate::protocol::send_queue::Order;
use crate::stop::Stop;
use crate::Error;

/// A channel (pika: `BlockingChannel`; specification 1.5).
///
/// A handle: clones are cheap and mean the same channel, and any thread may call any method at any time. It keeps its
/// connection alive. When the last handle is dropped the channel is closed, so what it had not acknowledged goes back to
/// its queues; a program that only consumes must therefore keep the handle. Beware of the reverse, too: a callback that
/// holds a clone of its own channel keeps that channel alive until it is cancelled or closed. Callbacks are given the
/// channel, so they need no clone.
///
/// When the broker closes a channel (over a missing queue, for instance), the connection stays open. The call that caused it fails
/// with [`Error::ChannelClosedByBroker`], and so does every later call on the channel. What is only sent
/// ([`basic_publish`](Channel::basic_publish) without confirms, [`basic_ack`](Channel::basic_ack)) cannot fail that way
/// itself: the closure shows at the next call. A program that only asks [`is_open`](Channel::is_open) and drops the channel finds
/// the reason in the log, as a warning, also if the broker closes the channel only after the drop.
///
/// # Errors of every call
///
/// What ended the channel or the connection, again at each later call; [`Error::ChannelWrongState`] if this program closed the
/// channel; [`Error::ShortStringTooLong`] and [`Error::InvalidParameter`] for what cannot be sent, which costs nothing.
///
/// Calls that wait for the broker are bound by
/// [`rpc_timeout`](crate::ConnectionParameters::rpc_timeout). When that runs out they fail with [`Error::Timeout`] and
/// the channel is closed, since a late reply could be taken for the reply to the next call; the error says so, at each later
/// call as well.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
/// # fn main() { example(|connection, channel| {
/// use haypile::Error;
///
/// # channel.queue_declare("hello")?;
/// channel.basic_publish("", "hello", "Hello World!")?;
///
/// // A mistake costs the channel, and not the connection.
/// let error = channel.basic_get("no such queue").unwrap_err();
/// assert!(matches!(error, Error::ChannelClosedByBroker { .. }) && error.reply_code() == Some(404));
/// assert!(channel.is_closed() && connection.is_open());
/// let channel = connection.channel()?;
/// # assert!(channel.basic_get("hello")?.is_some());
/// # Ok(()) }) }
/// ```
#[doc(alias = "BlockingChannel")]
#[derive(Clone)]
pub struct Channel {
    handle: Arc<ChannelHandle>,
}

pub(crate) struct ChannelHandle {
    connection: Connection,
    slot: usize,
    number: u16,
    gate: Arc<Gate>,
    callbacks: ChannelCallbacks<Channel>,
    stop: OnceLock<Stop>,
}

impl Owner for ChannelHandle {
    type Channel = Channel;

    fn channel(self: &Arc<Self>) -> Channel {
        Channel {
            handle: Arc::clone(self),
        }
    }

    fn callbacks(&self) -> &ChannelCallbacks<Channel> {
        &self.callbacks
    }
}

/// What a commit waits for. Like every call it is named by its method, but here the reply decides.
const COMMIT_OK: &str = "tx.commit; whether the broker has committed is unknown";

impl Drop for ChannelHandle {
    fn drop(&mut self) {
        let link = self.connection.link();
        if link.notice_fork() {
            return;
        }
        let mut shared = link.lock();
        let Some(channel) = shared.session.channel(self.slot) else {
            return;
        };
        let consumers = match channel.phase() {
            phase if phase.is_open() => channel.consumers.registered.len(),
            _ => 0,
        };
        let why = Error::ChannelClosedByClient {
            reply_code: 0,
            reply_text: "the last handle was dropped".into(),
            channel: self.number,
        };
        link.end_channel(&mut shared, self.slot, 0, "", why);
        let unreported = shared.session.reported(self.slot);
        shared.session.abandon(self.slot);
        link.resume_if_paused(&mut shared);
        drop(shared);
        if let (true, Some(end)) = (unreported, self.gate.end()) {
            // As by a program that asks `is_open` and takes another channel: no call would report what became of its messages.
            log::warn!("{end}; no call reported this before the last handle was dropped");
        }
        if consumers > 0 {
            log::warn!(
                "channel {}: the last handle was dropped while {consumers} consumers were registered; the channel is closed",
                self.number,
            );
        }
    }
}

/// How long `close` waits for a close-ok that may have got lost because the broker closed the channel at the same time.
const CLOSE_OK_AFTER_BOTH: Duration = Duration::from_millis(50);

/// How a channel that this end closes came to its end.
enum Closed {
    InGoodOrder,
    /// The broker closed it at the same time, because of this.
    ByBroker(Error),
    /// The connection has taken the channel with it.
    WithConnection(Error),
}

/// For calls whose reply has nothing in it.
fn done(reply: Result<Reply, Error>) -> Result<()> {
    reply?;
    Ok(())
}

impl Channel {
    pub(crate) fn open(connection: &Connection, number: Option<u16>) -> Result<Channel> {
        let link = connection.link();
        link.notice_fork();
        let mut shared = link.lock();
        if let Err(error) = shared.session.check_open() {
            drop(shared);
            connection.drop_callbacks_if_ended();
            return Err(error);
        }
        let gate = Gate::new(Phase::Opening);
        let state = ChannelState::new(Arc::clone(&gate));
        let (slot, number) = shared.session.add_channel(number, state)?;
        let handle = Arc::new(ChannelHandle {
            connection: connection.clone(),
            slot,
            number,
            gate,
            callbacks: ChannelCallbacks::new(),
            stop: OnceLock::new(),
        });
        connection
            .callbacks()
            .set_owner(slot, Arc::downgrade(&handle));
        let channel = Channel { handle };
        let method = Method::ChannelOpen;
        let call = channel.begin_call(&mut shared, &method);
        drop(shared);
        let limit = link.rpc_timeout;
        channel.finish_call(call?, &method, limit, after(limit))?;
        Ok(channel)
    }

    pub(crate) fn callbacks(&self) -> &ChannelCallbacks<Channel> {
        &self.handle.callbacks
    }

    /// Begins to run callbacks, as a call that consumes on this channel.
    pub(crate) fn enter_round(&self) -> Round<'_, ChannelHandle> {
        let consuming = Consuming {
            slot: self.handle.slot,
            stop: &self.handle.stop,
        };
        let callbacks = self.handle.connection.callbacks();
        Round::enter(self.link(), callbacks, Some(consuming))
    }

    pub(crate) fn slot(&self) -> usize {
        self.handle.slot
    }

    pub(crate) fn gate(&self) -> &Gate {
        &self.handle.gate
    }

    pub(crate) fn link(&self) -> &Link {
        self.handle.connection.link()
    }

    /// Ends this channel here if this process is a forked child; see [`Link::notice_fork`].
    pub(crate) fn notice_fork(&self) -> bool {
        let forked = self.link().notice_fork();
        if forked && !self.is_ended() {
            let why = self.link().end_reason();
            self.handle.gate.finish(Phase::Closed, why);
        }
        forked
    }

    // ---- the end of a channel, and how it is reported

    /// Why a call cannot be made any more. A call that waited when it happened returns `ended` instead.
    pub(crate) fn closure(&self) -> Error {
        let number = self.handle.number;
        let end = self.ended();
        match &end {
            Error::ChannelClosedByClient {
                reply_code,
                reply_text,
                ..
            } => Error::channel_not_open(
                number,
                format_args!("closed by this program: {reply_code} {reply_text}"),
            ),
            Error::ConnectionClosedByClient { .. } => {
                Error::channel_not_open(number, format_args!("{end}"))
            }
            _ => end,
        }
    }

    /// Why the channel ended. The broker's closure counts as reported from now on.
    pub(crate) fn ended(&self) -> Error {
        let link = self.link();
        let (first, idle) = {
            let mut shared = link.lock();
            shared.session.end_reported |= shared.session.end().is_some();
            let first = shared.session.reported(self.handle.slot);
            (first, shared.session.is_idle(self.handle.slot))
        };
        if first {
            link.flush(CLOSE_OK_LIMIT);
        }
        if idle {
            // Nothing will come for the consumers any more; they may hold clones of this channel.
            self.callbacks().clear();
        }
        match self.handle.gate.end() {
            Some(end) => end.clone(),
            None => Error::channel_not_open(self.handle.number, format_args!("it is being closed")),
        }
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.handle.gate.is_over()
    }

    // ---- calls that wait for the broker

    fn begin_call(&self, shared: &mut Shared, method: &Method<'_>) -> Result<u64, Error> {
        let number = self.handle.number;
        let link = self.link();
        let frame_max = link.negotiated.frame_max as usize;
        method.check_utf8().map_err(Error::unsendable)?;
        link.append_call(|Outbox { bytes: out, .. }| {
            let start = out.len();
            frame::write_method(out, number, method).map_err(Error::unsendable)?;
            let size = out.len() - start;
            if size > frame_max {
                out.truncate(start);
                let all = "with all its arguments it";
                return Err(Error::too_large(method.name(), size, all, frame_max));
            }
            self.handle.gate.call_appended(method);
            Ok(())
        })?;
        let (slot, expects) = (self.handle.slot, method.reply_id());
        Ok(shared
            .session
            .add_call(slot, expects, method.consumer_tag()))
    }

    fn finish_call(
        &self,
        call: u64,
        method: &Method<'_>,
        limit: Duration,
        deadline: Instant,
    ) -> Result<Reply, Error> {
        let until = Until::time(deadline);
        match self.wait_for(until, |channel| channel.calls.take_reply(call)) {
            WaitEnd::Found(reply) => Ok(reply),
            WaitEnd::TimedOut => {
                let waiting_for = match method {
                    Method::TxCommit => COMMIT_OK,
                    _ => method.name(),
                };
                Err(self.close_after_timeout(waiting_for, limit))
            }
            WaitEnd::Over | WaitEnd::Stopped => Err(self.ended()),
        }
    }

    /// A reply did not come in time. If it came later it could be taken for the reply to the next call, so the channel is
    /// closed.
    pub(crate) fn close_after_timeout(&self, waiting_for: &'static str, limit: Duration) -> Error {
        let link = self.link();
        let mut error = self.timed_out(waiting_for, limit);
        if let Error::Timeout { channel_closed, .. } = &mut error {
            *channel_closed = true;
        }
        let mut shared = link.lock();
        let slot = self.handle.slot;
        link.end_channel(&mut shared, slot, 0, "no reply in time", error.clone());
        error
    }

    fn call(&self, method: &Method<'_>) -> Result<Reply, Error> {
        self.call_within(method, self.link().rpc_timeout)
    }

    fn call_within(&self, method: &Method<'_>, limit: Duration) -> Result<Reply, Error> {
        self.notice_fork();
        let mut sending = Sending::new(self, limit.into());
        let order = match method {
            Method::TxCommit => Order::InTurn,
            _ => Order::AtOnce,
        };
        let call = sending.wait(order, |shared| self.begin_call(shared, method))??;
        let deadline = sending.deadline();
        drop(sending);
        self.finish_call(call, method, limit, deadline)
    }

    // ---- the handle

    /// Closes the channel (pika: `close()`; specification 1.5.2.5). What it had not acknowledged goes back; its consumers end.
    ///
    /// `Ok` means that the broker has confirmed, and so has handled all that was sent on the channel before.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|connection, channel| {
    /// channel.close()?;
    /// assert!(channel.is_closed() && connection.is_open());
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// [`Error::ChannelWrongState`] if it is not open, or as every call on a channel that the broker closed, also if it does
    /// so only now. [`Error::Timeout`] if it did not confirm within 10 s (or `rpc_timeout`, if that is less), and what ended
    /// the connection: then it is unknown whether the broker received what was published last.
    pub fn close(&self) -> Result<()> {
        self.close_with(0, "Normal shutdown")
    }

    /// Closes with a code and a text of the caller's (pika: `close(reply_code, reply_text)`; specification 1.5.2.5).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// channel.close_with(200, "no more work today")?;
    /// # Ok(()) }) }
    /// ```
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
        let slot = self.handle.slot;
        self.notice_fork();
        let mut shared = link.lock();
        if self.is_ended() {
            drop(shared);
            let error = self.closure();
            return match error {
                // A forked child's.
                Error::ConnectionWrongState { .. } => Err(error),
                _ if error.is_connection_error() => link.check_confirmed(&error),
                _ => Err(error),
            };
        }
        let why = Error::ChannelClosedByClient {
            reply_code,
            reply_text: reply_text.into(),
            channel: self.handle.number,
        };
        link.end_channel(&mut shared, slot, reply_code, reply_text, why);
        drop(shared);
        let limit = Duration::from_secs(10).min(link.rpc_timeout);
        let closed = self.wait_for_close_ok(after(limit));
        self.callbacks().clear();
        match closed {
            Some(Closed::InGoodOrder) => Ok(()),
            Some(Closed::ByBroker(error)) => Err(error),
            Some(Closed::WithConnection(end)) => {
                link.lock().session.end_reported = true;
                link.check_confirmed(&end)
            }
            None => {
                let waiting_for = "channel.close-ok; whether the broker received what was published last is unknown";
                Err(self.timed_out(waiting_for, limit))
            }
        }
    }

    /// Waits for the broker's `channel.close-ok`; `None` if it did not come in time.
    fn wait_for_close_ok(&self, deadline: Instant) -> Option<Closed> {
        let (link, slot) = (self.link(), self.slot());
        let is_closed = |channel: Option<&mut ChannelState>| {
            channel.is_none_or(|channel| channel.phase() == Phase::Closed)
        };
        let closed = link.wait(Interest::channel(slot), Some(deadline), |shared| {
            let channel = shared.session.channel(slot);
            let by_broker = channel
                .as_ref()
                .and_then(|channel| channel.broker_close.clone());
            if let Some(error) = by_broker {
                return Some(Closed::ByBroker(error));
            }
            is_closed(channel).then(|| match shared.session.end() {
                Some(end) => Closed::WithConnection(end.clone()),
                None => Closed::InGoodOrder,
            })
        });
        if let Some(Closed::ByBroker(_)) = closed {
            // Both ends have closed it, and RabbitMQ often loses its close-ok then.
            let patience = deadline.min(after(CLOSE_OK_AFTER_BOTH));
            link.wait(Interest::channel(slot), Some(patience), |shared| {
                is_closed(shared.session.channel(slot)).then_some(())
            });
            link.lock().session.give_up_close_ok(slot);
        }
        closed
    }

    /// What stops this channel: its [`start_consuming`](Channel::start_consuming), its iterator, and its waits for confirms, for
    /// room and for another thread's commit; see [`Stop`]. All calls return the same. It has no counterpart in pika.
    ///
    /// If the channel's connection was opened by a [`Supervisor`](crate::Supervisor), that one's stop stops the channel as
    /// well.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// # channel.queue_declare("tasks")?;
    /// channel.basic_consume("tasks", |_channel, _method, _properties, _body| {})?;
    /// let stop = channel.stop_handle();
    /// std::thread::spawn(move || stop.stop());
    /// channel.start_consuming()?; // ends by the stop
    /// # Ok(()) }) }
    /// ```
    pub fn stop_handle(&self) -> Stop {
        let made = || {
            let stop = Stop::new();
            self.handle.connection.watched_by(&stop);
            stop
        };
        self.handle.stop.get_or_init(made).clone()
    }

    /// Whether the channel is open (pika: `is_open`).
    ///
    /// It turns false when the broker's close has come, and does not show the reason: the next call on the channel returns that.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// assert!(channel.is_open());
    /// # Ok(()) }) }
    /// ```
    pub fn is_open(&self) -> bool {
        self.notice_fork();
        !self.is_ended() && !self.link().is_over()
    }

    /// Whether the channel is closed (pika: `is_closed`).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// channel.close()?;
    /// assert!(channel.is_closed());
    /// # Ok(()) }) }
    /// ```
    pub fn is_closed(&self) -> bool {
        !self.is_open()
    }

    /// The channel's number, from 1 (pika: `channel_number`).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// assert_eq!(channel.channel_number(), 1);
    /// # Ok(()) }) }
    /// ```
    pub fn channel_number(&self) -> u16 {
        self.handle.number
    }

    /// The connection that the channel belongs to (pika: `connection`).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|connection, channel| {
    /// let another = channel.connection().channel()?;
    /// # assert_ne!(*channel, another);
    /// # Ok(()) }) }
    /// ```
    pub fn connection(&self) -> Connection {
        self.handle.connection.clone()
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
