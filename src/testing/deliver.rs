//! Consuming: whose turn it is, `basic.get`, and what comes of acknowledgements.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::arguments::{self, Overflow};
use super::channel::Unacknowledged;
use super::declare::Named;
use super::publish::{is_reply_name, REPLY_TO};
use super::queue::{Consumer, Message, Reason, Stored};
use super::refusal::{refuse, Outcome};
use super::state::{At, State, Work};
use super::text::Text;
use crate::protocol::frame::{self, FRAME_OVERHEAD};
use crate::protocol::method::Method;

/// What a client does with a message that was delivered to it, or that it fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Acknowledgement {
    Ack,
    Requeue(Failure),
    Discard(Failure),
}

/// Whether that counts as a failed delivery, which a dead letter remembers (see [`Stored::failed`]): `basic.reject` and the end
/// of a channel do, `basic.nack` and `basic.recover` do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    Counted,
    NotCounted,
}

/// Appends a method and its content.
pub(super) fn write_content(
    out: &mut Vec<u8>,
    channel: u16,
    method: &Method<'_>,
    message: &Message,
    frame_max: u32,
) {
    let size = message.body.len() as u64;
    let written = frame::write_method(out, channel, method)
        .and_then(|()| frame::write_encoded_header(out, channel, size, &message.properties));
    debug_assert!(written.is_ok());
    let chunk = match frame_max as usize {
        0 => message.body.len().max(1),
        most => most.saturating_sub(FRAME_OVERHEAD).max(1),
    };
    for chunk in message.body.chunks(chunk) {
        frame::write_body(out, channel, chunk);
    }
}

impl State {
    pub(super) fn frame_max(&self, at: At) -> u32 {
        self.connections
            .get(&at.connection)
            .map_or(0, |connection| connection.frame_max)
    }

    /// Puts a message into a queue, or hands it to a consumer. Returns whether the queue took it.
    pub(super) fn enqueue(&mut self, id: u64, message: &Arc<Message>) -> bool {
        let Some(queue) = self.queues.get_mut(&id) else {
            // It has gone while the message was on its way, and with it what waits for the message.
            return true;
        };
        if queue.refuses(message.body.len()) {
            if queue.settings.overflow == Overflow::RejectAndDeadLetter {
                let stored = Stored {
                    message: Arc::clone(message),
                    place: (0, 0),
                    redelivered: false,
                    failed: message.failed,
                    expires: None,
                    generation: 0,
                };
                self.bury(id, stored, Reason::MaxLength);
            }
            return false;
        }
        let place = queue.push(Arc::clone(message));
        self.dispatch(id);
        if message.failed {
            // RabbitMQ 4.3 looks at this only when it takes a message from the queue, not when a consumer gets it at once.
            if let Some(stored) = self
                .queues
                .get_mut(&id)
                .and_then(|queue| queue.ready.get_mut(&place))
            {
                stored.redelivered = true;
            }
        }
        let dropped = self.drop_surplus(id);
        // What has expired behind the head is seen when that has gone.
        if dropped || message.time_to_live.is_some() || self.has_message_ttl(id) {
            self.now = Instant::now();
            self.drop_expired(id);
            self.note_deadline(id);
        }
        true
    }

    fn has_message_ttl(&self, id: u64) -> bool {
        self.queues
            .get(&id)
            .is_some_and(|queue| queue.settings.message_ttl.is_some())
    }

    /// Drops the head for as long as there are too many messages; returns whether there were.
    fn drop_surplus(&mut self, id: u64) -> bool {
        let mut dropped = false;
        while let Some(stored) = self
            .queues
            .get_mut(&id)
            .and_then(|queue| queue.take_surplus())
        {
            self.bury(id, stored, Reason::MaxLength);
            dropped = true;
        }
        dropped
    }

    /// Hands messages to consumers for as long as there are both.
    pub(super) fn dispatch(&mut self, id: u64) {
        loop {
            let Some(queue) = self.queues.get_mut(&id) else {
                return;
            };
            if queue.ready.is_empty() {
                return;
            }
            let Some(consumer_id) = queue.next_consumer() else {
                return;
            };
            let Some(consumer) = queue.consumers.get_mut(&consumer_id) else {
                return;
            };
            let at = At {
                connection: consumer.connection,
                channel: consumer.channel,
            };
            let Some(connection) = self.connections.get_mut(&at.connection) else {
                return queue.remove_consumer(consumer_id);
            };
            let frame_max = connection.frame_max;
            let full = connection.outbox.is_full();
            let Some(channel) = connection.channels.get_mut(&at.channel) else {
                return queue.remove_consumer(consumer_id);
            };
            if full || channel.is_limited() || !consumer.has_room() {
                queue.block(consumer_id);
                continue;
            }
            let no_ack = consumer.no_ack;
            let tag = consumer.tag.clone();
            if !no_ack {
                consumer.unacknowledged += 1;
                channel.volume += 1;
            }
            channel.last_tag += 1;
            let delivery_tag = channel.last_tag;
            queue.take_turn(consumer_id);
            let Some(stored) = queue.take_first() else {
                return;
            };
            let message = Arc::clone(&stored.message);
            let redelivered = stored.redelivered;
            if !no_ack {
                let unacknowledged = Unacknowledged {
                    queue: id,
                    consumer: Some(tag.clone()),
                    stored,
                };
                channel.unacknowledged.insert(delivery_tag, unacknowledged);
            }
            let method = Method::BasicDeliver {
                consumer_tag: tag.name(),
                delivery_tag,
                redelivered,
                exchange: message.exchange.name(),
                routing_key: message.keys[0].name(),
            };
            self.send_frames(at.connection, |out| {
                write_content(out, at.channel, &method, &message, frame_max);
            });
            // What has expired behind it is not delivered any more.
            self.drop_expired(id);
        }
    }

    /// Hands a direct reply to the consumer that waits for it.
    pub(super) fn deliver_reply(&mut self, at: At, tag: &Text, message: &Message) {
        let frame_max = self.frame_max(at);
        let Some(channel) = self.channel_mut(at) else {
            return;
        };
        channel.last_tag += 1;
        let method = Method::BasicDeliver {
            consumer_tag: tag.name(),
            delivery_tag: channel.last_tag,
            redelivered: false,
            exchange: message.exchange.name(),
            routing_key: message.keys[0].name(),
        };
        self.send_frames(at.connection, |out| {
            write_content(out, at.channel, &method, message, frame_max);
        });
    }

    pub(super) fn consuming_method(&mut self, at: At, method: &Method<'_>) -> Outcome {
        match *method {
            Method::BasicQos {
                prefetch_size,
                prefetch_count,
                global,
            } => {
                if prefetch_size != 0 {
                    refuse!(540, "prefetch_size!=0 ({prefetch_size})");
                }
                let global = global && self.settings.global_qos;
                if let Some(channel) = self.channel_mut(at) {
                    if !global {
                        channel.prefetch = prefetch_count;
                        channel.limit = 0;
                    } else if std::mem::replace(&mut channel.limit, prefetch_count) == 0 {
                        channel.volume = channel.unacknowledged.len() as u32;
                    }
                }
                self.send(at, &Method::BasicQosOk {});
                self.unblock_channel(at);
                Ok(())
            }
            Method::BasicConsume { .. } => self.consume(at, method),
            Method::BasicCancel {
                consumer_tag,
                no_wait,
            } => {
                let tag: Text = consumer_tag.into();
                if !no_wait {
                    let ok = Method::BasicCancelOk { consumer_tag };
                    self.send(at, &ok);
                }
                self.cancel(at, &tag);
                Ok(())
            }
            Method::BasicCancelOk { consumer_tag } => {
                self.cancel(at, &consumer_tag.into());
                Ok(())
            }
            Method::BasicGet { queue, no_ack } => {
                let name = self.name_or_last_queue(at, queue)?;
                if is_reply_name(&name) {
                    let vhost = self.vhost_of(at);
                    let named = Named("queue", &name, &vhost);
                    refuse!(540, "basic.get not supported by volatile {named}");
                }
                let id = self.own_queue(at, &name)?;
                self.get(at, id, no_ack);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn consume(&mut self, at: At, method: &Method<'_>) -> Outcome {
        let Method::BasicConsume {
            queue,
            consumer_tag,
            no_ack,
            exclusive,
            no_wait,
            arguments,
            ..
        } = *method
        else {
            return Ok(());
        };
        let name = self.name_or_last_queue(at, queue)?;
        let asked: Text = consumer_tag.into();
        let Some(channel) = self.channel_mut(at) else {
            return Ok(());
        };
        if channel.consumers.contains_key(&asked) {
            refuse!(530, "attempt to reuse consumer tag '{asked}'");
        }
        let tag = if asked.is_empty() {
            self.new_name("amq.ctag-")
        } else {
            asked
        };
        let ok = Method::BasicConsumeOk {
            consumer_tag: tag.name(),
        };
        if *name == *REPLY_TO.as_bytes() {
            self.consume_replies(at, &tag, no_ack)?;
            if !no_wait {
                self.send(at, &ok);
            }
            return Ok(());
        }
        let vhost = self.vhost_of(at);
        let named = Named("queue", &name, &vhost);
        if is_reply_name(&name) {
            return self.refuse_replies(at, &name, &named);
        }
        let id = self.own_queue(at, &name)?;
        let arguments = arguments.values().unwrap_or_default();
        let priority = arguments::consumer_priority(&arguments, &named)?;
        let consumer_id = self.new_id();
        let Some(queue) = self.queues.get_mut(&id) else {
            return Ok(());
        };
        if queue.refuses_consumer(exclusive) {
            refuse!(403, "{named} in exclusive use");
        }
        let Some(channel) = self
            .connections
            .get_mut(&at.connection)
            .and_then(|connection| connection.channels.get_mut(&at.channel))
        else {
            return Ok(());
        };
        let consumer = Consumer {
            connection: at.connection,
            channel: at.channel,
            tag: tag.clone(),
            no_ack,
            exclusive,
            prefetch: channel.prefetch,
            unacknowledged: 0,
            priority,
            arguments,
            blocked: false,
            turn: None,
        };
        channel.consumers.insert(tag.clone(), (id, consumer_id));
        queue.add_consumer(consumer_id, consumer);
        if !no_wait {
            self.send(at, &ok);
        }
        self.later(Work::Dispatch(id));
        Ok(())
    }

    /// The name that the broker made for a channel's direct replies is no queue that one could consume from.
    fn refuse_replies(&mut self, at: At, name: &Text, named: &Named<'_>) -> Outcome {
        let own = self
            .channel_mut(at)
            .and_then(|channel| channel.replies.as_ref());
        if own.is_some_and(|(own, _)| own == name) {
            refuse!(406, "multiple consumers are unsupported for {named}");
        }
        refuse!(406, "only creator channel may consume from {named}");
    }

    fn consume_replies(&mut self, at: At, tag: &Text, no_ack: bool) -> Outcome {
        if !no_ack {
            refuse!(406, "reply consumer cannot acknowledge");
        }
        let name = self.new_name("amq.rabbitmq.reply-to.");
        let Some(channel) = self.channel_mut(at) else {
            return Ok(());
        };
        if channel.replies.is_some() {
            refuse!(406, "reply consumer already set");
        }
        channel.replies = Some((name.clone(), tag.clone()));
        self.reply_queues.insert(name, (at, tag.clone()));
        Ok(())
    }

    /// Ends a consumer, if there is one of that tag. What was delivered to it stays with the channel.
    pub(super) fn cancel(&mut self, at: At, tag: &Text) {
        let Some(channel) = self.channel_mut(at) else {
            return;
        };
        if channel
            .replies
            .as_ref()
            .is_some_and(|(_, other)| other == tag)
        {
            if let Some((name, _)) = channel.replies.take() {
                self.reply_queues.remove(&name);
            }
            return;
        }
        let Some((queue, consumer)) = channel.consumers.remove(tag) else {
            return;
        };
        if let Some(queue) = self.queues.get_mut(&queue) {
            queue.remove_consumer(consumer);
        }
        self.delete_if_unused(queue);
    }

    fn get(&mut self, at: At, id: u64, no_ack: bool) {
        self.drop_expired(id);
        let frame_max = self.frame_max(at);
        let taken = self.queues.get_mut(&id).and_then(|queue| {
            queue.unused_since = Instant::now();
            queue.take_first()
        });
        // What expired behind it is not counted.
        self.drop_expired(id);
        let left = self.queues.get(&id).map_or(0, |queue| queue.ready.len());
        let message_count = left as u32;
        let (Some(stored), Some(channel)) = (taken, self.channel_mut(at)) else {
            self.send(at, &Method::BasicGetEmpty {});
            return;
        };
        channel.last_tag += 1;
        let delivery_tag = channel.last_tag;
        let message = Arc::clone(&stored.message);
        let redelivered = stored.redelivered;
        if !no_ack {
            let unacknowledged = Unacknowledged {
                queue: id,
                consumer: None,
                stored,
            };
            channel.unacknowledged.insert(delivery_tag, unacknowledged);
        }
        let method = Method::BasicGetOk {
            delivery_tag,
            redelivered,
            exchange: message.exchange.name(),
            routing_key: message.keys[0].name(),
            message_count,
        };
        self.send_frames(at.connection, |out| {
            write_content(out, at.channel, &method, &message, frame_max);
        });
    }

    pub(super) fn acknowledging_method(&mut self, at: At, method: &Method<'_>) -> Outcome {
        let requeue_or_discard = |requeue, failure| {
            if requeue {
                Acknowledgement::Requeue(failure)
            } else {
                Acknowledgement::Discard(failure)
            }
        };
        let (tag, multiple, how) = match *method {
            Method::BasicAck {
                delivery_tag,
                multiple,
            } => (delivery_tag, multiple, Acknowledgement::Ack),
            Method::BasicNack {
                delivery_tag,
                multiple,
                requeue,
            } => {
                let how = requeue_or_discard(requeue, Failure::NotCounted);
                (delivery_tag, multiple, how)
            }
            Method::BasicReject {
                delivery_tag,
                requeue,
            } => {
                let how = requeue_or_discard(requeue, Failure::Counted);
                (delivery_tag, false, how)
            }
            Method::BasicRecover { requeue } | Method::BasicRecoverAsync { requeue } => {
                if !requeue {
                    refuse!(540, "requeue=false");
                }
                let messages = self
                    .channel_mut(at)
                    .map(|channel| std::mem::take(&mut channel.unacknowledged))
                    .unwrap_or_default();
                // What goes back is delivered again behind this.
                if matches!(method, Method::BasicRecover { .. }) {
                    self.send(at, &Method::BasicRecoverOk {});
                }
                self.acknowledge(at, Acknowledgement::Requeue(Failure::NotCounted), messages);
                return Ok(());
            }
            _ => return Ok(()),
        };
        let Some(channel) = self.channel_mut(at) else {
            return Ok(());
        };
        let messages = if multiple && tag == 0 {
            std::mem::take(&mut channel.unacknowledged)
        } else if !channel.unacknowledged.contains_key(&tag) {
            refuse!(406, "unknown delivery tag {tag}");
        } else if multiple {
            let above = channel.unacknowledged.split_off(&(tag + 1));
            std::mem::replace(&mut channel.unacknowledged, above)
        } else {
            let message = channel.unacknowledged.remove(&tag);
            message.map(|message| (tag, message)).into_iter().collect()
        };
        match &mut channel.transaction {
            Some(transaction) => transaction.add(how, messages),
            None => self.acknowledge(at, how, messages),
        }
        Ok(())
    }

    /// Does with messages, by their delivery tags, what the client has sent, and lets consumers go on that had no room.
    ///
    /// RabbitMQ sends this to a queue in parts, and the queue is done with one part before the next: first each message that
    /// was fetched, then those of each consumer, in the order of the consumers' tags.
    pub(super) fn acknowledge(
        &mut self,
        at: At,
        how: Acknowledgement,
        messages: BTreeMap<u64, Unacknowledged>,
    ) {
        self.now = Instant::now();
        let was_limited = self.channel_mut(at).is_some_and(|channel| {
            let was_limited = channel.is_limited();
            let delivered = messages
                .values()
                .filter(|message| message.consumer.is_some());
            channel.volume = channel.volume.saturating_sub(delivered.count() as u32);
            was_limited
        });
        let mut parts: BTreeMap<(u64, Option<Text>, u64), Vec<Unacknowledged>> = BTreeMap::new();
        for (tag, message) in messages {
            let consumer = message.consumer.clone();
            let fetched = if consumer.is_none() { tag } else { 0 };
            let part = parts.entry((message.queue, consumer, fetched));
            part.or_default().push(message);
        }
        for ((queue, ..), messages) in parts {
            self.acknowledge_part(at, queue, how, messages);
        }
        if was_limited {
            self.unblock_channel(at);
        }
    }

    /// All of one queue and one consumer.
    fn acknowledge_part(
        &mut self,
        at: At,
        id: u64,
        how: Acknowledgement,
        mut messages: Vec<Unacknowledged>,
    ) {
        let mut consumer = None;
        for message in &messages {
            consumer = self.forget_delivery(at, message);
        }
        if let Some(consumer) = consumer {
            self.unblock_consumer(id, consumer);
        }
        match how {
            Acknowledgement::Ack => {}
            Acknowledgement::Requeue(failure) => return self.put_back(id, failure, messages),
            Acknowledgement::Discard(failure) => {
                // The highest priority first.
                messages.sort_by_key(|message| message.stored.place.0);
                for mut message in messages {
                    message.stored.failed |= failure == Failure::Counted;
                    self.bury(id, message.stored, Reason::Rejected);
                }
            }
        }
        self.dispatch(id);
    }

    /// RabbitMQ goes by the consumer's tag, even if it is that of another consumer by now, which may have more for it.
    fn forget_delivery(&mut self, at: At, message: &Unacknowledged) -> Option<u64> {
        let tag = message.consumer.as_ref()?;
        let (queue, id) = *self.channel_mut(at)?.consumers.get(tag)?;
        if queue != message.queue {
            return None;
        }
        let consumer = self.queues.get_mut(&queue)?.consumers.get_mut(&id)?;
        consumer.unacknowledged -= 1;
        Some(id)
    }

    /// Puts messages of one queue back where they stood.
    pub(super) fn put_back(&mut self, id: u64, failure: Failure, messages: Vec<Unacknowledged>) {
        let Some(queue) = self.queues.get_mut(&id) else {
            return;
        };
        for Unacknowledged { mut stored, .. } in messages {
            stored.redelivered = true;
            stored.failed |= failure == Failure::Counted;
            queue.put(stored);
        }
        self.drop_surplus(id);
        self.drop_expired(id);
        self.note_deadline(id);
        self.dispatch(id);
    }

    pub(super) fn unblock_consumer(&mut self, queue: u64, consumer: u64) {
        if let Some(queue) = self.queues.get_mut(&queue) {
            queue.unblock(consumer);
        }
    }

    /// Asks all consumers of a channel again that had no room.
    fn unblock_channel(&mut self, at: At) {
        let Some(channel) = self.channel_mut(at) else {
            return;
        };
        let consumers: Vec<(u64, u64)> = channel.consumers.values().copied().collect();
        for (queue, consumer) in consumers {
            self.unblock_consumer(queue, consumer);
            self.later(Work::Dispatch(queue));
        }
    }
}
