//! Consumers and their callbacks; fetching; acknowledging.

use super::{done, Channel, Until, WaitEnd};
use crate::dispatch::{self, CallbackResult, CancelCallback, MessageCallback};
use crate::error::{hints, Result};
use crate::io::close::STOP_GRACE;
use crate::io::link::Shared;
use crate::io::sync::after;
use crate::protocol::calls::Reply;
use crate::protocol::channel::ChannelState;
use crate::protocol::consumers::{Consumer, ConsumerState};
use crate::protocol::method::Method;
use crate::{
    BasicConsume, BasicGet, BasicProperties, BasicQos, ConsumingEnded, Deliver, Error, FieldTable,
    GetOk, Message, ShortString,
};

/// Whether a consumer with these arguments reads a stream: other queues know no offset.
pub(crate) fn is_of_stream(arguments: &FieldTable) -> bool {
    arguments.get(STREAM_OFFSET).is_some()
}

/// The argument with the position in a stream at which to begin, and the header with the position of a message in its stream.
pub(crate) const STREAM_OFFSET: &str = "x-stream-offset";

/// What a cancel waits for while another thread registers the consumer.
const CONSUME_OK: &str = "basic.consume-ok of the consumer to cancel, which was not cancelled";

impl Channel {
    // ---- consumers

    /// Registers a callback for the messages of a queue; returns the consumer's tag
    /// (pika: `basic_consume(queue, on_message_callback, …)`; specification 1.8.3.3).
    ///
    /// The callback runs inside [`start_consuming`](Channel::start_consuming),
    /// [`Connection::process_data_events`](crate::Connection::process_data_events) and the like, never by itself. It may
    /// return nothing or a [`Result`](crate::Result), whose error then ends that call.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// # channel.queue_declare("task_queue")?;
    /// # channel.basic_publish("", "task_queue", "dig")?;
    /// channel.basic_consume("task_queue", |channel, method, _properties, body| {
    ///     println!(" [x] {}", String::from_utf8_lossy(&body));
    ///     channel.basic_ack(method.delivery_tag)
    /// #   .and_then(|()| channel.stop_consuming())
    /// })?;
    /// channel.start_consuming()?;
    /// # Ok(()) }) }
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
        self.notice_fork();
        let BasicConsume {
            queue,
            auto_ack,
            exclusive,
            consumer_tag,
            arguments,
        } = request.into();
        let callback: MessageCallback<Channel> =
            Box::new(move |channel, method, properties, body| {
                callback(channel, method, properties, body).into_result()
            });
        let consumer_tag = consumer_tag.unwrap_or_else(|| self.new_consumer_tag());
        let slot = self.handle.slot;
        let id = {
            let mut shared = self.link().lock();
            if self.is_ended() {
                drop(shared);
                return Err(self.closure());
            }
            let id = self.callbacks().new_consumer_id();
            if let Some(channel) = shared.session.channel(slot) {
                let consumers = &mut channel.consumers;
                if consumers.is_of_iterator(&consumer_tag) || consumers.get(&consumer_tag).is_some()
                {
                    return Err(Error::DuplicateConsumerTag { consumer_tag });
                }
                consumers.registered.push(Consumer {
                    consumer_tag: consumer_tag.clone(),
                    id,
                    auto_ack,
                    of_stream: is_of_stream(&arguments),
                    state: ConsumerState::Requested,
                });
                channel.threads.registering = dispatch::thread_number();
            }
            // Before the broker knows of it, so that no message can come too early.
            self.callbacks().add_consumer(&consumer_tag, id, callback);
            id
        };
        let result = self.subscribe(&queue, &consumer_tag, auto_ack, exclusive, &arguments);
        if let Err(error) = result {
            let mut shared = self.link().lock();
            let callbacks = self.callbacks();
            let removed = callbacks.remove_consumer(&mut shared, slot, &consumer_tag, id);
            drop(shared);
            drop(removed);
            // Threads that wait to cancel it, or for messages.
            self.link().wake_all();
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
        queue: &ShortString,
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
        done(self.call(&method))
    }

    /// Cancels a consumer (pika: `basic_cancel`; specification 1.8.3.5).
    ///
    /// Messages that came for it and were not delivered to the callback go back to the queue. With automatic acknowledgement
    /// they cannot, so they are returned here. A stream keeps its messages, and nothing goes back to it. An unknown
    /// tag is no error: nothing is returned, and a warning is logged.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// # for queue in ["news", "mail"] {
    /// #     channel.queue_declare(queue)?;
    /// # }
    /// let news = channel.basic_consume("news", |_channel, _method, _properties, _body| {})?;
    /// channel.basic_consume("mail", |_channel, _method, _properties, _body| {})?;
    /// channel.basic_cancel(&news)?; // the other one goes on
    /// # assert_eq!(channel.consumer_tags().len(), 1);
    /// # Ok(()) }) }
    /// ```
    ///
    /// A callback that another thread is about to run when this returns still runs, once.
    ///
    /// # Errors
    /// As every call.
    pub fn basic_cancel(&self, consumer_tag: &str) -> Result<Vec<Message>> {
        self.notice_fork();
        let (is_of_iterator, consumer) = match self.link().lock().session.channel(self.slot()) {
            Some(ChannelState { consumers, .. }) => (
                consumers.is_of_iterator(consumer_tag),
                consumers.get(consumer_tag).cloned(),
            ),
            None => (false, None),
        };
        if self.is_ended() {
            return Err(self.closure());
        }
        if is_of_iterator {
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
        let undelivered = self.remove_consumer(&consumer);
        // A thread inside start_consuming may have nothing left to wait for.
        self.link().wake_all();
        if consumer.auto_ack {
            return Ok(undelivered);
        }
        self.give_back_messages(&consumer, undelivered.into_iter())?;
        Ok(Vec::new())
    }

    /// Forgets a consumer that the broker knows no more; returns what came for it and was not delivered.
    fn remove_consumer(&self, consumer: &Consumer) -> Vec<Message> {
        let (slot, tag) = (self.slot(), &*consumer.consumer_tag);
        let mut shared = self.link().lock();
        let callback = self
            .callbacks()
            .remove_consumer(&mut shared, slot, tag, consumer.id);
        if let Some(channel) = shared.session.channel(slot) {
            channel.consumers.cancelled_by_broker = None;
        }
        let undelivered = shared.session.take_undelivered(slot, tag);
        self.link().resume_if_paused(&mut shared);
        drop(shared);
        // What the callback captured may do anything when it is dropped, so not under the lock.
        drop(callback);
        undelivered
    }

    /// Gives back messages that came and were not handed to the program; returns how many. To a stream there is nothing to
    /// give back, since it keeps all of them, and brokers before 3.13 end a connection that tries. That a queue is a stream
    /// shows by its consumer's arguments, or else by a header of its messages, which messages that were moved from a stream
    /// to another queue bear as well: those are left out only where rejecting them might end the connection.
    pub(crate) fn give_back_messages(
        &self,
        consumer: &Consumer,
        messages: impl Iterator<Item = Message>,
    ) -> Result<usize> {
        if consumer.of_stream {
            return Ok(0);
        }
        let must_take_care = !self.handle.connection.takes_rejects_of_streams();
        let mut count = 0;
        for (method, properties, _) in messages {
            if must_take_care && properties.get_header(STREAM_OFFSET).is_some() {
                continue;
            }
            count += usize::from(self.give_back(method.delivery_tag)?);
        }
        Ok(count)
    }

    /// Cancels a consumer at the broker, once the broker has confirmed it: RabbitMQ up to 4.0 closes the connection (541) over a
    /// cancel that comes before its `consume-ok`, and from 4.3 that one never comes then.
    pub(crate) fn unsubscribe(&self, consumer_tag: &str) -> Result<()> {
        let rpc_timeout = self.link().rpc_timeout;
        let limit = if self.is_stopped() {
            rpc_timeout.min(STOP_GRACE)
        } else {
            rpc_timeout
        };
        let confirmed = self.wait_for(Until::time(after(limit)), |channel| {
            let is_requested = channel.consumers.is_requested(consumer_tag);
            (!is_requested).then_some(())
        });
        if let WaitEnd::TimedOut = confirmed {
            return Err(self.timed_out(CONSUME_OK, limit));
        }
        let method = Method::BasicCancel {
            consumer_tag: consumer_tag.into(),
            no_wait: false,
        };
        done(self.call_within(&method, limit))
    }

    /// Runs callbacks until no consumer is left on this channel, and returns why it ended (pika: `start_consuming`).
    ///
    /// From another thread or a signal's handler it is ended by [`stop_handle`](Channel::stop_handle).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// use haypile::ConsumingEnded;
    ///
    /// # channel.queue_declare("tasks")?;
    /// # channel.basic_publish("", "tasks", "last")?;
    /// channel.basic_consume("tasks", |channel, method, _properties, body| {
    ///     channel.basic_ack(method.delivery_tag)?;
    ///     if body == b"last" {
    ///         channel.stop_consuming()?;
    ///     }
    ///     Ok(())
    /// })?;
    /// match channel.start_consuming()? {
    ///     ConsumingEnded::Cancelled => println!("done"),
    ///     ConsumingEnded::CancelledByBroker { consumer_tag, .. } => println!("the queue of {consumer_tag} is gone"),
    ///     other => println!("{other:?}"),
    /// }
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// What a callback returned: everything stays as it is then, and the rest is delivered by the next call. What closed
    /// the channel or the connection, unless this program did. [`Error::Reentrancy`] inside a callback.
    pub fn start_consuming(&self) -> Result<ConsumingEnded> {
        self.notice_fork();
        let link = self.link();
        let round = self.enter_round();
        if round.is_nested() {
            return Err(Error::Reentrancy {
                call: "start_consuming",
            });
        }
        let slot = self.handle.slot;
        let thread = dispatch::thread_number();
        {
            let mut shared = link.lock();
            if self.is_ended() {
                drop(shared);
                return Err(self.closure());
            }
            let Some(channel) = shared.session.channel(slot) else {
                return Ok(ConsumingEnded::Closed);
            };
            if channel.consumers.registered.is_empty() {
                return Ok(ConsumingEnded::NoConsumers);
            }
            channel.threads.consuming.push(thread);
        }
        let _claim = Claim {
            channel: self,
            thread,
        };
        let is_over = |shared: &mut Shared| {
            let Some(channel) = shared.session.channel(slot) else {
                return true;
            };
            // What came before the end is delivered first, so that nothing is lost.
            let over = channel.gate.is_over() || channel.consumers.registered.is_empty();
            over && channel.inbox.is_empty()
        };
        // Until it is over, and once more, for what else has ended. Not until nothing is left to do: timers may be due for ever.
        let mut was_over = false;
        while !self.is_stopped() {
            let is_over_now = is_over(&mut link.lock());
            if is_over_now && was_over {
                break;
            }
            was_over = is_over_now;
            round.run(None, is_over)?;
        }
        if self.is_stopped() && !self.is_ended() {
            self.stop_now();
            return Ok(ConsumingEnded::Cancelled);
        }
        self.why_consuming_ended()
    }

    /// The channel is over or has no consumer left: what `start_consuming` returns then.
    fn why_consuming_ended(&self) -> Result<ConsumingEnded> {
        if let Some(end) = self.handle.gate.end() {
            // Nothing will come any more; the callbacks may hold clones of this channel.
            self.callbacks().clear();
            return match end {
                Error::ChannelClosedByClient { .. } | Error::ConnectionClosedByClient { .. } => {
                    Ok(ConsumingEnded::Closed)
                }
                _ => Err(self.ended()),
            };
        }
        let mut shared = self.link().lock();
        let channel = shared.session.channel(self.slot());
        let by_broker = channel.and_then(|channel| channel.consumers.cancelled_by_broker.take());
        Ok(match by_broker {
            Some(consumer_tag) => ConsumingEnded::CancelledByBroker { consumer_tag },
            None => ConsumingEnded::Cancelled,
        })
    }

    /// Does what a stop asks for: sends what was acknowledged, and gives back what was prefetched.
    pub(crate) fn stop_now(&self) {
        if let Err(error) = self.stop_consuming() {
            log::warn!(
                "channel {}: stopped without a reply from the broker: {error}",
                self.handle.number
            );
        }
        self.link().flush(STOP_GRACE);
    }

    /// Cancels all consumers of this channel, that of the iterator too, so that
    /// [`start_consuming`](Channel::start_consuming) ends (pika: `stop_consuming`). One consumer alone is stopped with
    /// [`basic_cancel`](Channel::basic_cancel).
    ///
    /// Messages with automatic acknowledgement that came and were not delivered are lost by this; cancel such consumers with
    /// [`basic_cancel`](Channel::basic_cancel) to get them.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// # channel.queue_declare("tasks")?;
    /// # channel.basic_publish("", "tasks", "dig")?;
    /// channel.basic_consume("tasks", |channel, method, _properties, _body| {
    ///     channel.basic_ack(method.delivery_tag)?;
    ///     channel.stop_consuming() // after one message
    /// })?;
    /// channel.start_consuming()?;
    /// assert!(channel.consumer_tags().is_empty());
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// As every call.
    pub fn stop_consuming(&self) -> Result<()> {
        self.notice_fork();
        if self.is_ended() {
            return Err(self.closure());
        }
        let (tags, of_iterator) = {
            let mut shared = self.link().lock();
            match shared.session.channel(self.handle.slot) {
                Some(ChannelState { consumers, .. }) => {
                    let registered = consumers.registered.iter();
                    let tags = registered.map(|consumer| consumer.consumer_tag.clone());
                    (tags.collect(), consumers.iterator.is_some())
                }
                None => (Vec::new(), false),
            }
        };
        if of_iterator {
            self.cancel()?;
        }
        for tag in tags {
            let lost = self.basic_cancel(&tag)?;
            if !lost.is_empty() {
                log::warn!(
                    "consumer {tag:?} was stopped with {} acknowledged messages not delivered",
                    lost.len()
                );
            }
        }
        Ok(())
    }

    /// Runs a callback whenever the broker cancels a consumer of this channel, because its queue was deleted, for instance
    /// (pika: `add_on_cancel_callback`; RabbitMQ's consumer cancel notification).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|connection, channel| {
    /// # use std::time::Duration;
    /// # channel.queue_declare("tasks")?;
    /// channel.add_on_cancel_callback(|_channel, consumer_tag| println!("{consumer_tag} gets no more"));
    /// channel.basic_consume("tasks", |_channel, _method, _properties, _body| {})?;
    /// # let other = connection.channel()?;
    /// other.queue_delete("tasks")?;
    /// connection.process_data_events(Duration::from_secs(1))?; // the callback runs in here
    /// # Ok(()) }) }
    /// ```
    pub fn add_on_cancel_callback<R: CallbackResult>(
        &self,
        mut callback: impl FnMut(&Channel, String) -> R + Send + 'static,
    ) {
        self.notice_fork();
        let callback: CancelCallback<Channel> =
            Box::new(move |channel, tag| callback(channel, tag).into_result());
        self.callbacks().add_cancelled(callback);
        if let Some(channel) = self.link().lock().session.channel(self.handle.slot) {
            channel.threads.registering = dispatch::thread_number();
        }
    }

    /// Ends the [`consume`](Channel::consume) iterator: cancels its consumer and gives back what it had not yielded
    /// (pika: `cancel`). Returns how many messages went back to the queue.
    ///
    /// Nothing goes back to a stream, which keeps its messages. With automatic acknowledgement nothing can go back; iterate to the end first if nothing may be lost.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// # channel.queue_declare("tasks")?;
    /// # for task in ["dig", "plant"] {
    /// #     channel.basic_publish("", "tasks", task)?;
    /// # }
    /// for message in channel.consume("tasks")? {
    ///     let (method, _properties, _body) = message?;
    ///     channel.basic_ack(method.delivery_tag)?;
    ///     break;
    /// }
    /// let requeued = channel.cancel()?;
    /// println!("{requeued} messages went back");
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// As every call.
    pub fn cancel(&self) -> Result<usize> {
        self.notice_fork();
        let slot = self.handle.slot;
        let found = {
            let mut shared = self.link().lock();
            let iterator = shared
                .session
                .channel(slot)
                .and_then(|state| state.consumers.iterator.as_ref());
            iterator.map(|iterator| {
                (
                    iterator.consumer.consumer_tag.clone(),
                    iterator.is_cancelled(),
                )
            })
        };
        if self.is_ended() {
            return Err(self.closure());
        }
        let Some((consumer_tag, cancelled)) = found else {
            log::warn!(
                "channel {}: there is no iterator to cancel",
                self.handle.number
            );
            return Ok(0);
        };
        if !cancelled {
            self.unsubscribe(&consumer_tag)?;
        }
        let iterator = {
            let mut shared = self.link().lock();
            let iterator = shared.session.take_iterator(slot);
            self.link().resume_if_paused(&mut shared);
            iterator
        };
        self.link().wake_all();
        let Some(iterator) = iterator else {
            return Ok(0);
        };
        if iterator.consumer.auto_ack {
            if !iterator.buffered.is_empty() {
                log::warn!(
                    "the iterator was cancelled with {} acknowledged messages not yielded",
                    iterator.buffered.len()
                );
            }
            return Ok(0);
        }
        let undelivered = iterator.buffered.into_iter();
        let undelivered = undelivered.map(|message| message.delivered());
        self.give_back_messages(&iterator.consumer, undelivered)
    }

    /// How many messages the iterator has at hand without waiting (pika: `get_waiting_message_count`).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// # channel.queue_declare("tasks")?;
    /// let messages = channel.consume("tasks")?;
    /// assert_eq!(channel.get_waiting_message_count(), 0);
    /// # drop(messages);
    /// # Ok(()) }) }
    /// ```
    pub fn get_waiting_message_count(&self) -> usize {
        self.notice_fork();
        let mut shared = self.link().lock();
        let channel = shared.session.channel(self.handle.slot);
        channel
            .and_then(|channel| channel.consumers.iterator.as_ref())
            .map_or(0, |iterator| iterator.buffered.len())
    }

    /// The tags of this channel's consumers, that of the iterator among them (pika: `consumer_tags`). None once the channel
    /// is closed, by whichever side, and none that the broker cancelled.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// use haypile::BasicConsume;
    ///
    /// # channel.queue_declare("tasks")?;
    /// channel.basic_consume(BasicConsume::new("tasks").consumer_tag("me"), |_, _, _, _| {})?;
    /// assert_eq!(channel.consumer_tags(), ["me"]);
    /// # Ok(()) }) }
    /// ```
    pub fn consumer_tags(&self) -> Vec<String> {
        self.notice_fork();
        let mut shared = self.link().lock();
        let channel = shared.session.channel(self.handle.slot);
        channel.map_or_else(Vec::new, |channel| channel.consumer_tags())
    }

    // ---- fetching and acknowledging

    /// Fetches one message, if there is one (pika: `basic_get`; specification 1.8.3.10).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// use haypile::BasicGet;
    ///
    /// # channel.queue_declare("tasks")?;
    /// channel.basic_publish("", "tasks", "dig")?;
    /// if let Some((method, _properties, body)) = channel.basic_get("tasks")? {
    ///     println!("{}; {} more", String::from_utf8_lossy(&body), method.message_count);
    ///     channel.basic_ack(method.delivery_tag)?;
    /// }
    /// assert!(channel.basic_get(BasicGet::new("tasks").auto_ack(true))?.is_none());
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// [`Error::ChannelClosedByBroker`] if there is no such queue, and as every call.
    pub fn basic_get(
        &self,
        request: impl Into<BasicGet>,
    ) -> Result<Option<(GetOk, BasicProperties, Vec<u8>)>> {
        let BasicGet { queue, auto_ack } = request.into();
        match self.call(&Method::BasicGet {
            queue: (&queue).into(),
            no_ack: auto_ack,
        })? {
            Reply::Got(got) => Ok(got.map(|message| message.fetched())),
            _ => Ok(None),
        }
    }

    /// Limits how many unacknowledged messages the broker sends ahead (pika: `basic_qos`; specification 1.8.3.1).
    ///
    /// `channel.basic_qos(1)` is fair dispatch: a consumer gets the next message when it has acknowledged the last.
    ///
    /// # Memory
    /// Without a limit the broker sends all it has. A connection holds 4 MiB of messages ahead of the program, with all
    /// that they take in memory, and takes in no more until the program takes some of these. What it may hold beyond that:
    ///
    /// * The message that is coming in, up to
    ///   [`max_message_size`](crate::ConnectionParameters::max_message_size).
    /// * What keeps the broker's patience. RabbitMQ closes a connection on which one of its messages does not get through
    ///   within 30 seconds (its `send_timeout`). So while a callback works for longer, 4 MiB are read in every 8 seconds, or one message
    ///   if that is larger, and kept as they came. **An hour costs up to 1.8 GiB**, as far as the queue has that much. A prefetch limit
    ///   costs nothing: what the broker may not send needs no patience.
    /// * What stands before the reply that a call waits for: as much as both systems keep in their buffers for the
    ///   connection (on Linux up to the last values of `tcp_wmem` and `tcp_rmem`, 4 and 6 MiB by default, and what the broker
    ///   itself has on its way), for each call that is made while more than 4 MiB wait. Measured beside a flood of 300 MB:
    ///   14 to 19 MB a call; 50 MB where the machine was so busy that the broker sent on for long before it came to the call.
    /// * What comes for a channel that no thread serves, while every thread that runs callbacks or asks an iterator waits for
    ///   messages of other channels. These can only come behind it, so **it is taken in without a bound**: a queue of 300 MB
    ///   takes 300 MB. A channel is not served when no thread is inside a call that runs its callbacks, or asks its iterator
    ///   for the next message. Give such a consumer a prefetch limit, or cancel it.
    /// * Messages that came back to a publisher: see [`ReturnedMessage`](crate::ReturnedMessage).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// channel.basic_qos(10)?; // before `basic_consume`
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// As every call.
    pub fn basic_qos(&self, request: impl Into<BasicQos>) -> Result<()> {
        let BasicQos {
            prefetch_size,
            prefetch_count,
            global,
        } = request.into();
        if global {
            if let Some(hint) = hints::of_global_qos(self.handle.connection.rabbitmq_version()) {
                log::warn!("channel {}: {hint}", self.channel_number());
            }
        }
        done(self.call(&Method::BasicQos {
            prefetch_size,
            prefetch_count,
            global,
        }))
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
            .channel(self.channel.slot())
        {
            let consuming = &mut channel.threads.consuming;
            if let Some(at) = consuming.iter().position(|thread| *thread == self.thread) {
                consuming.swap_remove(at);
            }
        }
        // Other threads may deliver now what is left there.
        self.channel.link().wake_all();
    }
}
