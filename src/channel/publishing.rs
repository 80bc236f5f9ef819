//! Publishing, confirms and returned messages.

use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

use super::{done, Channel, Until, WaitEnd};
use crate::dispatch::{self, CallbackResult, ReturnCallback};
use crate::error::Result;
use crate::io::sync::Instant;
use crate::io::writer::{Patience, DIRECT_BODY};
use crate::protocol::channel::{Wake, Watcher};
use crate::protocol::confirms::{Losses, Outcomes};
use crate::protocol::method::Method;
use crate::protocol::publish::{Outbox, OutgoingMessage, Publishing};
use crate::{AsShortString, BasicProperties, BasicPublish, Error, Return};

/// What a publish waits for in confirm mode. The message was sent, so the broker may have it.
const CONFIRM: &str = "the broker's confirmation; whether the broker has the message is unknown";

/// What the caller does when its message is appended.
#[derive(Clone, Copy)]
pub(crate) enum Then {
    /// It waits for the broker's confirmation, and writes what has gathered before that.
    Wait,
    /// Nothing: the writer thread writes the message.
    Return,
}

impl Channel {
    /// Sends a message; returns its number in confirm mode, else 0. Waits for room as long as the patience lasts, unless the
    /// caller is about to wait for the broker.
    pub(crate) fn send_message(
        &self,
        message: OutgoingMessage<'_>,
        patience: Patience<'_>,
        then: Then,
    ) -> Result<u64, Error> {
        let link = self.link();
        let handle = &*self.handle;
        let waits = matches!(then, Then::Wait);
        if waits || link.is_inherited() {
            self.notice_fork();
        }
        let (number, frame_max) = (handle.number, link.negotiated.frame_max);
        let publishing = Publishing::new(&handle.gate, handle.slot, number, frame_max, message);
        self.send(patience, || {
            if message.body.len() >= DIRECT_BODY {
                let head = |out: &mut Outbox| publishing.write_head(out);
                link.write_message(number, patience, message.body, publishing.chunk(), head)
            } else if waits {
                link.append_call(|out| publishing.write(out))
            } else {
                link.gather(number, patience, |out| publishing.write(out))
            }
        })
    }

    /// Publishes a message without properties (pika: `basic_publish(exchange, routing_key, body)`; specification
    /// 1.8.3.7).
    ///
    /// The exchange `""` is the default exchange, whose routing keys are names of queues. Without confirms this only hands
    /// the message to the connection, which sends it within a few milliseconds; a mistake such as a missing exchange closes
    /// the channel later. What the end of the process means for it, and which ends lose it, is described at
    /// [`Connection`](crate::Connection#the-end-of-the-process). After [`confirm_delivery`](Channel::confirm_delivery) it waits
    /// until the broker has taken the message. For many messages with confirms, see [`publisher`](Channel::publisher).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// # channel.queue_declare("hello")?;
    /// channel.basic_publish("", "hello", "Hello World!")?;
    /// channel.basic_publish("amq.topic", "greeting.loud", b"any bytes")?;
    /// # assert!(channel.basic_get("hello")?.is_some());
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// [`Error::ShortStringTooLong`] for a name over 255 bytes (nothing is sent then); [`Error::Nack`] and
    /// [`Error::Unroutable`] in confirm mode; [`Error::Timeout`] if there was no room to send, or no confirmation, within
    /// `rpc_timeout` (without a confirmation in time the channel is closed, and later calls on it repeat the error); what closed the channel or the connection.
    pub fn basic_publish(
        &self,
        exchange: impl AsShortString,
        routing_key: impl AsShortString,
        body: impl AsRef<[u8]>,
    ) -> Result<()> {
        self.basic_publish_with(exchange, routing_key, body, BasicPublish::new())
    }

    /// Publishes a message with properties, or as mandatory
    /// (pika: `basic_publish(exchange, routing_key, body, properties, mandatory)`).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// use haypile::{BasicProperties, BasicPublish, DeliveryMode};
    ///
    /// # channel.queue_declare("task_queue")?;
    /// let persistent = BasicProperties::new().delivery_mode(DeliveryMode::Persistent);
    /// channel.basic_publish_with("", "task_queue", "kept on disk", &persistent)?;
    /// let mandatory = BasicPublish::new().mandatory(true).properties(&persistent);
    /// channel.basic_publish_with("", "task_queue", "or returned", mandatory)?;
    /// # assert!(channel.basic_get("task_queue")?.is_some());
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// As [`basic_publish`](Channel::basic_publish).
    pub fn basic_publish_with<'p>(
        &self,
        exchange: impl AsShortString,
        routing_key: impl AsShortString,
        body: impl AsRef<[u8]>,
        publish: impl Into<BasicPublish<'p>>,
    ) -> Result<()> {
        self.publish(OutgoingMessage {
            exchange: exchange.as_short_string(),
            routing_key: routing_key.as_short_string(),
            body: body.as_ref(),
            publish: &publish.into(),
        })
    }

    /// The same, made once for all types of messages.
    fn publish(&self, message: OutgoingMessage<'_>) -> Result<()> {
        let then = if self.is_confirming() {
            Then::Wait
        } else {
            Then::Return
        };
        let sequence = self.send_within(self.link().rpc_timeout, |patience| {
            self.send_message(message, patience, then)
        })?;
        match sequence {
            0 => Ok(()),
            sequence => self.wait_for_confirm(sequence),
        }
    }

    fn wait_for_confirm(&self, sequence: u64) -> Result<()> {
        let limit = self.link().rpc_timeout;
        let until = Until::for_confirms(Some(limit), self.is_interrupted());
        let losses = match self.wait_for(until, |channel| channel.confirms.take(sequence)) {
            WaitEnd::Found(losses) => losses,
            WaitEnd::Over => return Err(self.ended()),
            WaitEnd::TimedOut if until.may_stop => {
                return Err(self.close_after_timeout(CONFIRM, limit));
            }
            WaitEnd::TimedOut | WaitEnd::Stopped => {
                if let Some(channel) = self.link().lock().session.channel(self.slot()) {
                    let losses = &mut Losses::default();
                    channel.confirms.take_for_good(sequence, sequence, losses);
                }
                return Err(Error::Stopped {
                    waiting_for: "the broker's confirmation",
                });
            }
        };
        let Losses {
            returned, nacked, ..
        } = losses;
        if !nacked.is_empty() {
            Err(Error::nack(returned))
        } else if !returned.is_empty() {
            Err(Error::unroutable(returned))
        } else {
            Ok(())
        }
    }

    /// Lets the broker confirm every message from now on (pika: `confirm_delivery`; RabbitMQ's `confirm.select`).
    ///
    /// A second call does nothing but log an error, as in pika.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// use haypile::{BasicPublish, Error};
    ///
    /// # channel.queue_declare("orders")?;
    /// channel.confirm_delivery()?;
    /// channel.basic_publish("", "orders", "the broker has it when this returns")?;
    /// let lost = channel.basic_publish_with("", "nowhere", "?", BasicPublish::new().mandatory(true));
    /// assert!(matches!(lost, Err(Error::Unroutable(_))));
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// [`Error::MethodNotImplemented`] if the server has no confirms, and as every call.
    pub fn confirm_delivery(&self) -> Result<()> {
        if self.is_confirming() {
            log::error!(
                "channel {}: confirm_delivery was called before",
                self.handle.number
            );
            return Ok(());
        }
        self.start_confirming()
    }

    pub(crate) fn is_confirming(&self) -> bool {
        self.handle.gate.confirming.load(Ordering::Acquire)
    }

    pub(crate) fn start_confirming(&self) -> Result<()> {
        if !self.handle.connection.publisher_confirms_supported() {
            return Err(Error::MethodNotImplemented {
                capability: "publisher confirms",
            });
        }
        done(self.call(&Method::ConfirmSelect { no_wait: false }))
    }

    // ---- for a publisher that has the channel to itself

    /// Wakes this when the channel ends, when the broker refuses or returns a message, or (un)blocks the connection.
    pub(crate) fn watch(&self, wake: Arc<dyn Wake>) {
        if let Some(channel) = self.link().lock().session.channel(self.handle.slot) {
            channel.watcher = Some(Watcher { wake, eager: false });
        }
    }

    /// Whether the watcher is woken by confirms too.
    pub(crate) fn watch_confirms(&self, eager: bool) {
        if let Some(channel) = self.link().lock().session.channel(self.handle.slot) {
            if let Some(watcher) = &mut channel.watcher {
                watcher.eager = eager;
            }
        }
    }

    /// Sends a message, if there is room for it at once; else it fails with [`Error::Timeout`]. Returns its number.
    pub(crate) fn try_send(&self, message: OutgoingMessage<'_>) -> Result<u64> {
        self.send_message(message, Duration::ZERO.into(), Then::Return)
    }

    /// What has become of the channel's messages, also after its end.
    pub(crate) fn outcomes(&self) -> Outcomes {
        let mut shared = self.link().lock();
        let channel = shared.session.channel(self.handle.slot);
        channel.map_or_else(Outcomes::default, |channel| channel.confirms.outcomes())
    }

    /// How many messages the broker has confirmed or refused.
    pub(crate) fn confirmed(&self) -> u64 {
        self.handle.gate.confirmed.load(Ordering::Acquire)
    }

    /// Waits until more than `seen` messages are confirmed or refused, `ready` holds, the channel is over, or the time is up.
    pub(crate) fn wait_for_outcome(
        &self,
        seen: u64,
        deadline: Option<Instant>,
        ready: impl Fn() -> bool,
    ) {
        // It makes no difference how the wait ended: the caller looks at everything again.
        let _ = self.wait_for(Until::time(deadline), |_| {
            (self.confirmed() != seen || ready()).then_some(())
        });
    }

    /// Why the broker blocks the connection, if it does.
    pub(crate) fn blocked(&self) -> Option<Arc<str>> {
        self.link().lock().session.blocked.clone()
    }

    /// Runs a callback for each returned message (pika: `add_on_return_callback`; specification 1.8.3.9).
    ///
    /// The broker returns messages published as mandatory that no queue took, in confirm mode too.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|connection, channel| {
    /// use haypile::BasicPublish;
    /// use std::time::Duration;
    ///
    /// channel.add_on_return_callback(|_channel, method, _properties, body| {
    ///     println!("{}: {}", method.reply_text, String::from_utf8_lossy(&body));
    /// });
    /// channel.basic_publish_with("", "nowhere", "?", BasicPublish::new().mandatory(true))?;
    /// connection.process_data_events(Duration::from_secs(1))?; // the callback runs in here
    /// # Ok(()) }) }
    /// ```
    pub fn add_on_return_callback<R: CallbackResult>(
        &self,
        mut callback: impl FnMut(&Channel, Return, BasicProperties, Vec<u8>) -> R + Send + 'static,
    ) {
        self.notice_fork();
        let callback: ReturnCallback<Channel> =
            Box::new(move |channel, method, properties, body| {
                callback(channel, method, properties, body).into_result()
            });
        self.callbacks().add_returned(callback);
        let mut shared = self.link().lock();
        if let Some(channel) = shared.session.channel(self.handle.slot) {
            channel.wants_returns = true;
            channel.threads.registering = dispatch::thread_number();
        }
    }
}
