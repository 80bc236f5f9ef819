//! What a script's client asks of a broker: queues, exchanges and bindings; publishing, consuming and acknowledging.

use std::time::{Duration, Instant};

use super::client::{Client, PATIENCE};
use crate::protocol::frame;
use crate::protocol::method::Method;
use crate::{BasicProperties, FieldTable};

impl Client {
    /// Declares a queue with the flags that are named: `passive durable exclusive auto_delete no_wait`.
    pub(super) fn queue(&mut self, channel: u16, name: &str, flags: &str, arguments: &FieldTable) {
        let has = |flag: &str| flags.split(' ').any(|word| word == flag);
        let full = self.name(name);
        self.record
            .declared
            .lock()
            .unwrap()
            .push((true, full.clone()));
        self.send(
            channel,
            &Method::QueueDeclare {
                queue: full.as_str().into(),
                passive: has("passive"),
                durable: has("durable"),
                exclusive: has("exclusive"),
                auto_delete: has("auto_delete"),
                no_wait: has("no_wait"),
                arguments: arguments.into(),
            },
        );
    }

    /// Declares a queue, and waits until that is done or refused. If it is refused, the channel is opened again.
    pub(super) fn try_declare(
        &mut self,
        channel: u16,
        name: &str,
        flags: &str,
        arguments: &FieldTable,
    ) {
        self.queue(channel, name, flags, arguments);
        self.sync(channel);
    }

    /// Deletes a queue, whatever is in it.
    pub(super) fn delete_queue(&mut self, channel: u16, name: &str) {
        self.delete_queue_if(channel, name, false, false);
    }

    pub(super) fn delete_queue_if(
        &mut self,
        channel: u16,
        name: &str,
        if_unused: bool,
        if_empty: bool,
    ) {
        let full = self.name(name);
        self.send(
            channel,
            &Method::QueueDelete {
                queue: full.as_str().into(),
                if_unused,
                if_empty,
                no_wait: false,
            },
        );
    }

    pub(super) fn purge(&mut self, channel: u16, name: &str) {
        let full = self.name(name);
        let queue = full.as_str().into();
        let no_wait = false;
        self.send(channel, &Method::QueuePurge { queue, no_wait });
    }

    pub(super) fn declare(&mut self, channel: u16, name: &str) {
        self.declare_as(channel, name, "", &FieldTable::new());
    }

    pub(super) fn declare_with(&mut self, channel: u16, name: &str, arguments: &FieldTable) {
        self.declare_as(channel, name, "", arguments);
    }

    /// Declares a queue with flags: see [`queue`](Client::queue).
    pub(super) fn declare_as(
        &mut self,
        channel: u16,
        name: &str,
        flags: &str,
        arguments: &FieldTable,
    ) {
        self.queue(channel, name, flags, arguments);
        self.until("QueueDeclareOk");
    }

    /// Arguments of a queue whose dead letters go to this one, through the default exchange.
    pub(super) fn dead_letters_to(&self, queue: &str) -> FieldTable {
        let queue = self.name(queue);
        FieldTable::from([
            ("x-dead-letter-exchange", ""),
            ("x-dead-letter-routing-key", &queue),
        ])
    }

    /// Asks how many messages and consumers a queue has.
    pub(super) fn count(&mut self, channel: u16, name: &str) {
        self.declare_as(channel, name, "passive", &FieldTable::new());
    }

    /// Waits until a queue has so many messages, without writing that down.
    pub(super) fn await_count(&mut self, channel: u16, name: &str, messages: u32) {
        let begun = Instant::now();
        let full = self.name(name);
        loop {
            let kept = self.record.lines().len();
            self.queue(channel, name, "passive", &FieldTable::new());
            let text = self.next().unwrap_or_default();
            let expected = format!("QueueDeclareOk {{ queue: {full:?}, message_count: {messages},");
            if text.starts_with(&expected) || !text.starts_with("QueueDeclareOk") {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{text}, not {messages}");
            self.record.lines().truncate(kept);
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until a message that is published now, with this expiration, has expired, without writing that down. What was
    /// published before with the same has expired by then as well.
    pub(super) fn await_expiry(&mut self, expiration: &str) {
        const CHANNEL: u16 = 150;
        let kept = self.record.lines().len();
        let properties = BasicProperties::new().expiration(expiration);
        self.open_channel(CHANNEL);
        self.declare(CHANNEL, "clock");
        // What is confirmed is in its queue, or has expired already.
        self.confirms(CHANNEL);
        self.publish_with(CHANNEL, "clock", &properties, "");
        self.until("BasicAck");
        self.await_count(CHANNEL, "clock", 0);
        self.close_channel(CHANNEL);
        self.record.lines().truncate(kept);
    }

    /// Waits until a queue has gone; the channel is closed over it.
    pub(super) fn await_gone(&mut self, channel: u16, name: &str) {
        let begun = Instant::now();
        loop {
            let kept = self.record.lines().len();
            self.queue(channel, name, "passive", &FieldTable::new());
            let text = self.next().unwrap_or_default();
            if !text.starts_with("QueueDeclareOk") {
                self.send(channel, &Method::ChannelCloseOk {});
                self.open_channel(channel);
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{text}");
            self.record.lines().truncate(kept);
            // A queue that is looked at for ever would never expire.
            std::thread::sleep(Duration::from_millis(400));
        }
    }

    pub(super) fn exchange(&mut self, channel: u16, name: &str, kind: &str) {
        self.exchange_with(channel, name, kind, "", &FieldTable::new());
    }

    /// Declares an exchange with the flags that are named: `passive durable auto_delete internal`.
    pub(super) fn exchange_with(
        &mut self,
        channel: u16,
        name: &str,
        kind: &str,
        flags: &str,
        arguments: &FieldTable,
    ) {
        let has = |flag: &str| flags.split(' ').any(|word| word == flag);
        let full = self.name(name);
        if !full.starts_with("amq.") {
            self.record
                .declared
                .lock()
                .unwrap()
                .push((false, full.clone()));
        }
        self.send(
            channel,
            &Method::ExchangeDeclare {
                exchange: full.as_str().into(),
                exchange_type: kind.into(),
                passive: has("passive"),
                durable: has("durable"),
                auto_delete: has("auto_delete"),
                internal: has("internal"),
                no_wait: false,
                arguments: arguments.into(),
            },
        );
        self.until("ExchangeDeclareOk");
    }

    pub(super) fn delete_exchange(&mut self, channel: u16, name: &str, if_unused: bool) {
        let full = self.name(name);
        self.send(
            channel,
            &Method::ExchangeDelete {
                exchange: full.as_str().into(),
                if_unused,
                no_wait: false,
            },
        );
    }

    pub(super) fn bind(&mut self, channel: u16, queue: &str, exchange: &str, key: &str) {
        self.bind_with(channel, queue, exchange, key, &FieldTable::new());
    }

    pub(super) fn bind_with(
        &mut self,
        channel: u16,
        queue: &str,
        exchange: &str,
        key: &str,
        arguments: &FieldTable,
    ) {
        let (queue, exchange) = (self.name(queue), self.name(exchange));
        self.send(
            channel,
            &Method::QueueBind {
                queue: queue.as_str().into(),
                exchange: exchange.as_str().into(),
                routing_key: key.into(),
                no_wait: false,
                arguments: arguments.into(),
            },
        );
        self.until("QueueBindOk");
    }

    pub(super) fn unbind(&mut self, channel: u16, queue: &str, exchange: &str, key: &str) {
        let (queue, exchange) = (self.name(queue), self.name(exchange));
        self.send(
            channel,
            &Method::QueueUnbind {
                queue: queue.as_str().into(),
                exchange: exchange.as_str().into(),
                routing_key: key.into(),
                arguments: (&FieldTable::new()).into(),
            },
        );
    }

    pub(super) fn bind_exchange(&mut self, channel: u16, to: &str, from: &str, key: &str) {
        let (to, from) = (self.name(to), self.name(from));
        self.send(
            channel,
            &Method::ExchangeBind {
                destination: to.as_str().into(),
                source: from.as_str().into(),
                routing_key: key.into(),
                no_wait: false,
                arguments: (&FieldTable::new()).into(),
            },
        );
        self.until("ExchangeBindOk");
    }

    /// Publishes to the default exchange.
    pub(super) fn publish(&mut self, channel: u16, queue: &str, body: &str) {
        self.publish_with(channel, queue, &BasicProperties::new(), body);
    }

    /// Publishes to the default exchange, with properties.
    pub(super) fn publish_with(
        &mut self,
        channel: u16,
        queue: &str,
        properties: &BasicProperties,
        body: &str,
    ) {
        let key = self.name(queue);
        self.publish_to(channel, "", &key, properties, body, false);
    }

    pub(super) fn publish_all(&mut self, channel: u16, queue: &str, bodies: &[&str]) {
        for body in bodies {
            self.publish(channel, queue, body);
        }
    }

    /// Publishes on a channel in confirm mode, and waits until the broker has confirmed that.
    pub(super) fn publish_confirmed(&mut self, channel: u16, queue: &str, body: &str) {
        self.publish(channel, queue, body);
        self.until("BasicAck");
    }

    /// Publishes one by one to a queue with a consumer, and waits for each to be delivered.
    pub(super) fn deliver(&mut self, channel: u16, queue: &str, bodies: &[&str]) {
        for body in bodies {
            self.publish(channel, queue, body);
            self.until("BasicDeliver");
        }
    }

    pub(super) fn publish_to(
        &mut self,
        channel: u16,
        exchange: &str,
        key: &str,
        properties: &BasicProperties,
        body: &str,
        mandatory: bool,
    ) {
        let exchange = self.name(exchange);
        let mut bytes = Vec::new();
        let publish = Method::BasicPublish {
            exchange: exchange.as_str().into(),
            routing_key: key.into(),
            mandatory,
            immediate: false,
        };
        frame::write_method(&mut bytes, channel, &publish).unwrap();
        frame::write_header(&mut bytes, channel, body.len() as u64, properties).unwrap();
        for chunk in body.as_bytes().chunks(4000) {
            frame::write_body(&mut bytes, channel, chunk);
        }
        self.send_bytes(&bytes);
    }

    pub(super) fn confirms(&mut self, channel: u16) {
        self.send(channel, &Method::ConfirmSelect { no_wait: false });
        self.until("ConfirmSelectOk");
    }

    pub(super) fn select(&mut self, channel: u16) {
        self.send(channel, &Method::TxSelect {});
        self.until("TxSelectOk");
    }

    pub(super) fn commit(&mut self, channel: u16) {
        self.send(channel, &Method::TxCommit {});
        self.until("TxCommitOk");
    }

    pub(super) fn rollback(&mut self, channel: u16) {
        self.send(channel, &Method::TxRollback {});
        self.until("TxRollbackOk");
    }

    pub(super) fn consume(&mut self, channel: u16, queue: &str, tag: &str) {
        self.consume_with(channel, queue, tag, "", &FieldTable::new());
    }

    /// Consumes, with the flags that are named: `no_ack exclusive`.
    pub(super) fn consume_with(
        &mut self,
        channel: u16,
        queue: &str,
        tag: &str,
        flags: &str,
        arguments: &FieldTable,
    ) {
        let has = |flag: &str| flags.split(' ').any(|word| word == flag);
        let queue = self.name(queue);
        self.send(
            channel,
            &Method::BasicConsume {
                queue: queue.as_str().into(),
                consumer_tag: tag.into(),
                no_local: false,
                no_ack: has("no_ack"),
                exclusive: has("exclusive"),
                no_wait: false,
                arguments: arguments.into(),
            },
        );
        self.until("BasicConsumeOk");
    }

    pub(super) fn cancel(&mut self, channel: u16, tag: &str) {
        let no_wait = false;
        let consumer_tag = tag.into();
        self.send(
            channel,
            &Method::BasicCancel {
                consumer_tag,
                no_wait,
            },
        );
        self.until("BasicCancelOk");
    }

    pub(super) fn qos(&mut self, channel: u16, prefetch_count: u16, global: bool) {
        self.send(
            channel,
            &Method::BasicQos {
                prefetch_size: 0,
                prefetch_count,
                global,
            },
        );
        self.until("BasicQosOk");
    }

    pub(super) fn get(&mut self, channel: u16, queue: &str, no_ack: bool) {
        let queue = self.name(queue);
        let queue = queue.as_str().into();
        self.send(channel, &Method::BasicGet { queue, no_ack });
        self.until("BasicGet");
    }

    /// Publishes so many messages, whose bodies are their numbers, and waits until they are in their queue.
    pub(super) fn fill(&mut self, channel: u16, queue: &str, messages: u32) {
        for number in 0..messages {
            self.publish(channel, queue, &number.to_string());
        }
        self.await_count(channel, queue, messages);
    }

    /// Waits until a queue has so many messages, and fetches them all.
    pub(super) fn take_all(&mut self, channel: u16, queue: &str, messages: u32) {
        self.await_count(channel, queue, messages);
        for _ in 0..messages {
            self.get(channel, queue, true);
        }
    }

    /// Fetches a message and rejects it, so that it is dropped or becomes a dead letter.
    pub(super) fn fetch_and_reject(&mut self, channel: u16, queue: &str) {
        self.get(channel, queue, false);
        self.reject(channel, self.last_tag, false);
    }

    /// Fetches a message and gives it back.
    pub(super) fn fetch_and_requeue(&mut self, channel: u16, queue: &str) {
        self.get(channel, queue, false);
        self.requeue_last(channel);
    }

    /// Gives back the message that came last.
    pub(super) fn requeue_last(&mut self, channel: u16) {
        self.reject(channel, self.last_tag, true);
    }

    pub(super) fn recover(&mut self, channel: u16) {
        self.send(channel, &Method::BasicRecover { requeue: true });
        self.until("BasicRecoverOk");
    }

    pub(super) fn ack(&mut self, channel: u16, delivery_tag: u64, multiple: bool) {
        self.send(
            channel,
            &Method::BasicAck {
                delivery_tag,
                multiple,
            },
        );
    }

    pub(super) fn nack(&mut self, channel: u16, delivery_tag: u64, multiple: bool, requeue: bool) {
        self.send(
            channel,
            &Method::BasicNack {
                delivery_tag,
                multiple,
                requeue,
            },
        );
    }

    pub(super) fn reject(&mut self, channel: u16, delivery_tag: u64, requeue: bool) {
        self.send(
            channel,
            &Method::BasicReject {
                delivery_tag,
                requeue,
            },
        );
    }
}
