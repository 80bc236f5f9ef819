//! What becomes of a message that was delivered: acknowledged, refused, or delivered again.

use std::sync::atomic::Ordering;

use super::{done, Channel};
use crate::error::Result;
use crate::protocol::acks::Acks;
use crate::protocol::method::Method;
use crate::protocol::wire::WireError;
use crate::{BasicAck, BasicNack, BasicReject, Error};

impl Channel {
    /// Acknowledges a message, or all up to it with [`multiple`](BasicAck::multiple) (pika: `basic_ack`; specification
    /// 1.8.3.13).
    ///
    /// It is sent within a few milliseconds, also while the callback works on; nothing is waited for. As long as all messages of
    /// the channel are acknowledged in the order in which they came, acknowledgements that go out together go out as one with
    /// `multiple`, which means the same and costs the broker much less ([`basic_recover`](Channel::basic_recover) ends that). A tag
    /// that the broker does not know makes it close the channel, which shows at a later call.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// use haypile::BasicAck;
    ///
    /// # channel.queue_declare("tasks")?;
    /// # for task in ["dig", "plant", "water"] {
    /// #     channel.basic_publish("", "tasks", task)?;
    /// # }
    /// # let mut next = || channel.basic_get("tasks").map(|got| got.unwrap().0.delivery_tag);
    /// # let (first, _, third) = (next()?, next()?, next()?);
    /// channel.basic_ack(first)?;
    /// channel.basic_ack(BasicAck::new(third).multiple(true))?; // and all before it
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// What closed the channel or the connection; [`Error::Timeout`] if there was no room to send within `rpc_timeout`;
    /// [`Error::ConsumerCancelled`] if the broker has cancelled the consumer that the message came to, as RabbitMQ does from
    /// 4.3 on when a message is held for too long: the acknowledgement is sent, but most often the message has gone to
    /// another consumer by then, or its queue is gone.
    pub fn basic_ack(&self, request: impl Into<BasicAck>) -> Result<()> {
        let BasicAck {
            delivery_tag,
            multiple,
        } = request.into();
        self.acknowledge(&Method::BasicAck {
            delivery_tag,
            multiple,
        })
    }

    /// Refuses a message, or all up to it, which goes back to the queue unless [`requeue`](BasicNack::requeue) is turned
    /// off (pika: `basic_nack`; RabbitMQ's `basic.nack`).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// use haypile::BasicNack;
    ///
    /// # channel.queue_declare("tasks")?;
    /// # channel.basic_publish("", "tasks", "dig")?;
    /// # let mut next = || channel.basic_get("tasks").map(|got| got.unwrap().0.delivery_tag);
    /// channel.basic_nack(next()?)?; // goes back to the queue
    /// channel.basic_nack(BasicNack::new(next()?).requeue(false))?; // is dropped, or becomes a dead letter
    /// # assert!(channel.basic_get("tasks")?.is_none());
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// As [`basic_ack`](Channel::basic_ack).
    pub fn basic_nack(&self, request: impl Into<BasicNack>) -> Result<()> {
        let BasicNack {
            delivery_tag,
            multiple,
            requeue,
        } = request.into();
        self.acknowledge(&Method::BasicNack {
            delivery_tag,
            multiple,
            requeue,
        })
    }

    /// Refuses one message, which goes back to the queue unless [`requeue`](BasicReject::requeue) is turned off
    /// (pika: `basic_reject`; specification 1.8.3.14).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// use haypile::BasicReject;
    ///
    /// # channel.queue_declare("tasks")?;
    /// # channel.basic_publish("", "tasks", "dig")?;
    /// # let delivery_tag = channel.basic_get("tasks")?.unwrap().0.delivery_tag;
    /// channel.basic_reject(BasicReject::new(delivery_tag).requeue(false))?;
    /// # assert!(channel.basic_get("tasks")?.is_none());
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// As [`basic_ack`](Channel::basic_ack).
    pub fn basic_reject(&self, request: impl Into<BasicReject>) -> Result<()> {
        let BasicReject {
            delivery_tag,
            requeue,
        } = request.into();
        self.acknowledge(&Method::BasicReject {
            delivery_tag,
            requeue,
        })
    }

    /// Makes the broker deliver again what this channel has not acknowledged, to any consumer if `requeue`
    /// (pika: `basic_recover`; specification 1.8.3.16). RabbitMQ knows only `true`.
    ///
    /// It comes again under other delivery tags, and a tag from before closes the channel (406). What had come and was not handed
    /// to a callback or by the iterator is dropped here, so that it is seen once. A consumer that another thread cancels meanwhile
    /// loses nothing: what it had not been given goes back once.
    ///
    /// Not for a channel that reads a stream: RabbitMQ 3.10 ends the connection over it (541), and later releases send nothing of
    /// it again, so that what was dropped is missing and the stream may stand still. A quorum queue counts it as one more
    /// delivery, and drops a message or moves it on when that passes its limit (20, if none is set, from RabbitMQ 4.0 on).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// # channel.queue_declare("tasks")?;
    /// # channel.basic_publish("", "tasks", "dig")?;
    /// let taken = channel.basic_get("tasks")?;
    /// channel.basic_recover(true)?;
    /// let again = channel.basic_get("tasks")?;
    /// # assert!(taken.is_some());
    /// assert!(again.unwrap().0.redelivered);
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// As every call.
    pub fn basic_recover(&self, requeue: bool) -> Result<()> {
        done(self.call(&Method::BasicRecover { requeue }))?;
        let link = self.link();
        link.resume_if_paused(&mut link.lock());
        Ok(())
    }

    /// Gathers an acknowledgement or a refusal, to be sent soon.
    fn acknowledge(&self, method: &Method<'_>) -> Result<()> {
        let number = self.handle.number;
        self.append_to_acks(|acks, out, before| acks.write(out, before, number, method))?;
        if self.gate().consumer_cancelled.load(Ordering::Acquire) {
            return self.check_not_late(method);
        }
        Ok(())
    }

    /// Gives back a message that was not handed to the program; returns whether it was sent. It is not where the broker takes the
    /// message back anyway, because another thread made it recover what is not acknowledged.
    pub(super) fn give_back(&self, delivery_tag: u64) -> Result<bool> {
        let number = self.handle.number;
        let method = Method::BasicReject {
            delivery_tag,
            requeue: true,
        };
        self.append_to_acks(|acks, out, before| {
            if acks.is_recovered(delivery_tag) {
                return Ok(false);
            }
            acks.write(out, before, number, &method)?;
            Ok(true)
        })
    }

    /// Has something appended behind `before` bytes, when anything may be sent.
    #[inline]
    fn append_to_acks<T>(
        &self,
        append: impl Fn(&Acks, &mut Vec<u8>, u64) -> Result<T, WireError>,
    ) -> Result<T> {
        let (gate, number) = (self.gate(), self.handle.number);
        self.send_within(self.link().rpc_timeout, |patience| {
            self.send(patience, || {
                self.link().gather(number, patience, |out| {
                    if !gate.may_send() {
                        return Ok(None);
                    }
                    let before = out.appended();
                    let appended = append(&gate.acks, &mut out.bytes, before);
                    appended.map(Some).map_err(Error::unsendable)
                })
            })
        })
    }

    /// What acknowledges a message of a consumer that the broker has cancelled is sent, since it may count still, and reported:
    /// most often the broker has given the message to another consumer. A message that is given back has gone back anyway.
    #[cold]
    fn check_not_late(&self, method: &Method<'_>) -> Result<()> {
        let delivery_tag = match *method {
            Method::BasicAck { delivery_tag, .. }
            | Method::BasicNack {
                delivery_tag,
                requeue: false,
                ..
            }
            | Method::BasicReject {
                delivery_tag,
                requeue: false,
            } => delivery_tag,
            _ => return Ok(()),
        };
        let mut shared = self.link().lock();
        let channel = shared.session.channel(self.handle.slot);
        match channel.and_then(|channel| channel.consumers.cancelled_consumer_of(delivery_tag)) {
            Some(cancelled) => Err(Error::ConsumerCancelled {
                consumer_tag: cancelled.consumer_tag.clone(),
                delivery_tag: Some(delivery_tag),
            }),
            None => Ok(()),
        }
    }
}
