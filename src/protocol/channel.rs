//! One channel: its phase, the calls that wait for replies, the message that is coming in, and what has come.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

use super::acks::Acks;
use super::confirms::Confirms;
use super::method::{Method, MethodId};
use super::properties::ReceivedProperties;
use super::publish::Mandatory;
use super::replies::Replies;
use super::send_queue::SendQueue;
use super::wire::ShortStr;
use crate::error::Error;
use crate::{
    BasicProperties, Deliver, GetOk, Message, QueueDeclareOk, ReturnedMessage, ShortString,
};

/// Something that threads wait on, and that can wake them, so that they look again.
pub(crate) trait Wake: Send + Sync {
    fn wake(&self);
}

/// Where a channel stands (specification 2.2.5, `channel.open` … `channel.close-ok`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    /// `channel.open` is sent, `channel.open-ok` has not come.
    Opening,
    /// The same, with the number of a channel that is closed, whose last frames may still come.
    Reopening,
    Open,
    /// The same, and `tx.commit` is sent: until the reply to it only `channel.close` may follow.
    Committing,
    /// This end sent `channel.close`; only `close` and `close-ok` count any more.
    Closing,
    /// Its number is free, or another channel has it by now.
    Closed,
}

impl Phase {
    const ALL: [Phase; 6] = [
        Phase::Opening,
        Phase::Reopening,
        Phase::Open,
        Phase::Committing,
        Phase::Closing,
        Phase::Closed,
    ];

    /// Whether what the broker sends on the channel counts.
    pub(crate) fn is_open(self) -> bool {
        matches!(self, Phase::Open | Phase::Committing)
    }

    /// Whether the channel has come to its end, for the program at least.
    pub(crate) fn is_over(self) -> bool {
        matches!(self, Phase::Closing | Phase::Closed)
    }
}

/// What is known of a channel without the session's lock: where it stands, and what a thread that sends needs.
///
/// The phase changes under the session's lock. A thread that sends looks at it under the lock of the outgoing bytes, and what
/// closes the channel is appended there only after the change, so nothing can follow a `close` or `close-ok`.
#[derive(Debug)]
pub(crate) struct Gate {
    phase: AtomicU8,
    /// Why the channel is over; set before the phase says so.
    end: OnceLock<Error>,
    /// Messages published in confirm mode; 0 while the mode is off.
    pub(crate) published: AtomicU64,
    /// How many of them the broker has confirmed or refused.
    pub(crate) confirmed: AtomicU64,
    pub(crate) confirming: AtomicBool,
    pub(crate) acks: Acks,
    /// The broker cancelled a consumer, so some messages may be acknowledged too late.
    pub(crate) consumer_lost: AtomicBool,
}

impl Gate {
    pub(crate) fn new(phase: Phase) -> Arc<Self> {
        Arc::new(Gate {
            phase: AtomicU8::new(phase as u8),
            end: OnceLock::new(),
            published: Default::default(),
            confirmed: Default::default(),
            confirming: Default::default(),
            acks: Default::default(),
            consumer_lost: Default::default(),
        })
    }

    pub(crate) fn phase(&self) -> Phase {
        Phase::ALL[usize::from(self.phase.load(Ordering::Acquire)) % Phase::ALL.len()]
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// Whether anything may be sent: the channel is open, and no transaction is being committed.
    pub(crate) fn may_send(&self) -> bool {
        self.phase.load(Ordering::Acquire) == Phase::Open as u8
    }

    pub(crate) fn is_over(&self) -> bool {
        self.phase().is_over()
    }

    /// Why the channel is over.
    pub(crate) fn end(&self) -> Option<&Error> {
        self.end.get()
    }

    /// The channel is over; the first reason is kept.
    pub(crate) fn finish(&self, phase: Phase, why: Error) {
        let _ = self.end.set(why);
        self.set_phase(phase);
    }

    /// A call is appended. This is what changes for all that is appended behind it, and not only with the reply.
    pub(crate) fn call_appended(&self, method: &Method<'_>) {
        self.acks.sent(method);
        match method {
            // The broker numbers what comes after this method.
            Method::ConfirmSelect { .. } => self.confirming.store(true, Ordering::Release),
            Method::TxCommit => self.set_phase(Phase::Committing),
            _ => {}
        }
    }

    /// How many messages published in confirm mode are neither confirmed nor refused.
    pub(crate) fn unconfirmed(&self) -> u64 {
        self.published
            .load(Ordering::Acquire)
            .saturating_sub(self.confirmed.load(Ordering::Acquire))
    }
}

/// The reply to a call.
#[derive(Debug)]
pub(crate) enum Reply {
    Done,
    Declared(QueueDeclareOk),
    Count(u32),
    Active(bool),
    Got(Option<Box<Received>>),
}

/// The id of calls whose reply is not waited for any more.
pub(crate) const FORGOTTEN: u64 = 0;

/// A call that waits for its reply. Replies on a channel come in the order of the calls.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) id: u64,
    /// The method of the reply.
    pub(crate) expects: MethodId,
}

/// How a message came.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Carrier {
    Deliver {
        redelivered: bool,
    },
    Get {
        redelivered: bool,
        message_count: u32,
    },
    Return {
        reply_code: u16,
    },
}

/// A message that came, or is coming in. No larger than what is moved without a call of `memcpy`: it is moved several times.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) carrier: Carrier,
    /// The consumer's tag; of a returned message the broker's reason.
    pub(crate) label: Arc<str>,
    pub(crate) delivery_tag: u64,
    pub(crate) exchange: ShortString,
    pub(crate) routing_key: ShortString,
    pub(crate) properties: ReceivedProperties,
    pub(crate) body: Vec<u8>,
}

impl Received {
    /// Which consumer a delivered message is for.
    #[inline]
    pub(crate) fn consumer_tag(&self) -> &str {
        &self.label
    }

    /// A fetched message, as the program gets it.
    pub(crate) fn fetched(self) -> (GetOk, BasicProperties, Vec<u8>) {
        let (redelivered, message_count) = match self.carrier {
            Carrier::Get {
                redelivered,
                message_count,
            } => (redelivered, message_count),
            _ => (false, 0),
        };
        let method = GetOk {
            delivery_tag: self.delivery_tag,
            redelivered,
            exchange: self.exchange,
            routing_key: self.routing_key,
            message_count,
        };
        (method, self.properties.into(), self.body)
    }

    /// A delivered message, as the program gets it.
    pub(crate) fn delivered(self) -> Message {
        let (method, properties, body) = self.parts();
        (method, properties.into(), body)
    }

    /// The same, but for the properties, which are large once they are the program's.
    #[inline]
    pub(crate) fn parts(self) -> (Deliver, ReceivedProperties, Vec<u8>) {
        let method = Deliver {
            consumer_tag: String::from(&*self.label),
            delivery_tag: self.delivery_tag,
            redelivered: matches!(self.carrier, Carrier::Deliver { redelivered: true }),
            exchange: self.exchange,
            routing_key: self.routing_key,
        };
        (method, self.properties, self.body)
    }
}

/// What waits to be delivered to the program, in the order it came. Nearly all are messages, so their size does not matter,
/// while a box would cost an allocation for each.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)]
pub(crate) enum Incoming {
    Message(Received),
    Returned(Arc<ReturnedMessage>),
    /// The broker cancelled this consumer.
    Cancelled(String),
}

/// The message that is coming in: method, then header, then body. There is one for each channel, so its size does not
/// matter, while a box would cost an allocation for each message.
#[derive(Debug, Default)]
#[allow(clippy::large_enum_variant)]
pub(crate) enum Content {
    #[default]
    None,
    Header(Received),
    Body {
        message: Received,
        remaining: u64,
    },
}

/// The one consumer behind the `consume` iterator.
#[derive(Debug)]
pub(crate) struct IteratorConsumer {
    pub(crate) consumer: Consumer,
    pub(crate) queue: ShortString,
    pub(crate) exclusive: bool,
    /// What has come and was not yielded.
    pub(crate) buffered: VecDeque<Received>,
    /// The program works on a message that the iterator has yielded.
    pub(crate) is_at_work: bool,
}

/// What is woken by changes of a channel without a thread that waits on the channel itself.
pub(crate) struct Watcher {
    pub(crate) wake: Arc<dyn Wake>,
    /// It is woken by every confirm as well.
    pub(crate) eager: bool,
}

impl IteratorConsumer {
    /// Whether this is the iterator's tag.
    pub(crate) fn has_tag(&self, consumer_tag: &str) -> bool {
        self.consumer.consumer_tag == consumer_tag
    }

    /// Whether the broker cancelled it.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.consumer.state == ConsumerState::Cancelled
    }

    /// Whether nothing more can be yielded.
    pub(crate) fn is_spent(&self) -> bool {
        self.is_cancelled() && self.buffered.is_empty()
    }
}

/// Where a consumer stands with the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConsumerState {
    /// `basic.consume` is sent.
    Requested,
    /// `basic.consume-ok` has come.
    Active,
    /// The broker cancelled it, and that has not been reported yet.
    Cancelled,
}

/// Messages that were handed to one consumer, one after another.
#[derive(Debug, Clone, Copy)]
struct Run {
    first: u64,
    last: u64,
    consumer: u64,
}

/// So many runs of a channel are remembered.
const RUNS: usize = 1024;

/// A consumer that the broker cancelled.
#[derive(Debug, Clone)]
pub(crate) struct LostConsumer {
    id: u64,
    pub(crate) consumer_tag: String,
    /// The oldest message that it had not acknowledged, if that is known.
    pub(crate) held: Option<u64>,
    /// Our own `basic.cancel` of it has been confirmed.
    confirmed: bool,
}

/// So many cancelled consumers of a channel are remembered.
const LOST: usize = 64;

/// A consumer on this channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Consumer {
    pub(crate) consumer_tag: String,
    /// Distinguishes it from an earlier consumer with the same tag.
    pub(crate) id: u64,
    pub(crate) auto_ack: bool,
    /// Its queue is a stream, as its arguments say.
    pub(crate) of_stream: bool,
    pub(crate) state: ConsumerState,
}

pub(crate) struct ChannelState {
    pub(crate) number: u16,
    /// An earlier channel had its number: the last delivery tag that was seen of that.
    pub(crate) former: Option<u64>,
    pub(crate) gate: Arc<Gate>,
    /// The calls that wait for replies, oldest first.
    pub(crate) calls: VecDeque<Call>,
    /// Replies that have not been taken, by the ids of their calls.
    pub(crate) call_replies: Vec<(u64, Reply)>,
    /// The threads that wait until they may send, because a transaction is being committed.
    pub(crate) send_queue: SendQueue,
    /// The message that is coming in.
    pub(crate) content: Content,
    /// What has come and waits for callbacks.
    pub(crate) inbox: VecDeque<Incoming>,
    /// Bytes in `inbox` and `iterator`, as the session counts them.
    pub(crate) held: usize,
    /// What of that are returned messages.
    pub(crate) held_returns: usize,
    /// Those whose messages go to callbacks.
    pub(crate) consumers: Vec<Consumer>,
    /// The consumer tag that came with the last message.
    last_tag: Arc<str>,
    /// Which consumer was given which messages, the latest.
    runs: VecDeque<Run>,
    /// The consumers that the broker cancelled, the latest.
    lost: VecDeque<LostConsumer>,
    pub(crate) iterator: Option<IteratorConsumer>,
    /// What became of published messages, in confirm mode.
    pub(crate) confirms: Confirms,
    /// The calls of an RPC client, if the channel belongs to one.
    pub(crate) replies: Option<Box<Replies>>,
    /// Mandatory messages on their way, oldest first, to tie a return to its publish.
    pub(crate) mandatory: VecDeque<Mandatory>,
    /// There is a callback for returned messages.
    pub(crate) wants_returns: bool,
    /// The tag of the last consumer, if the broker cancelled it: why `start_consuming` returns.
    pub(crate) cancelled_by_broker: Option<String>,
    /// The thread that registered callbacks last, which also runs them if no thread consumes here. 0 if none did.
    pub(crate) home: u64,
    /// The threads inside `start_consuming` on this channel: only they run its callbacks.
    pub(crate) claims: Vec<u64>,
    /// A thread delivers this channel's events now; no other does meanwhile.
    pub(crate) running: bool,
    /// Woken when this channel ends, when the broker refuses or returns a message, and when it blocks the connection.
    pub(crate) watcher: Option<Watcher>,
    /// It stands in the session's list of channels that have events.
    pub(crate) ready: bool,
    /// The broker closed it as well, after this end had, and why.
    pub(crate) broker_close: Option<Error>,
    /// No handle is left: it is forgotten when it is closed.
    pub(crate) abandoned: bool,
}

impl ChannelState {
    /// Its number is the session's to give.
    pub(crate) fn new(gate: Arc<Gate>) -> Self {
        ChannelState {
            number: 0,
            former: None,
            gate,
            calls: VecDeque::new(),
            call_replies: Vec::new(),
            send_queue: SendQueue::default(),
            content: Content::None,
            inbox: VecDeque::new(),
            held: 0,
            held_returns: 0,
            consumers: Vec::new(),
            last_tag: Arc::default(),
            runs: VecDeque::new(),
            lost: VecDeque::new(),
            iterator: None,
            confirms: Confirms::default(),
            replies: None,
            mandatory: VecDeque::new(),
            wants_returns: false,
            cancelled_by_broker: None,
            home: 0,
            claims: Vec::new(),
            running: false,
            watcher: None,
            ready: false,
            broker_close: None,
            abandoned: false,
        }
    }

    /// A message is handed to a consumer of the program.
    #[inline]
    pub(crate) fn handed_over(&mut self, delivery_tag: u64, consumer: u64) {
        match self.runs.back_mut() {
            Some(run)
                if run.consumer == consumer && run.last.checked_add(1) == Some(delivery_tag) =>
            {
                run.last = delivery_tag;
            }
            _ => self.begin_run(delivery_tag, consumer),
        }
    }

    #[cold]
    fn begin_run(&mut self, delivery_tag: u64, consumer: u64) {
        if self.runs.len() == RUNS {
            self.runs.pop_front();
        }
        self.runs.push_back(Run {
            first: delivery_tag,
            last: delivery_tag,
            consumer,
        });
    }

    /// The broker cancels a consumer. Returns whether it was there.
    pub(crate) fn cancel_consumer(&mut self, consumer_tag: &str) -> bool {
        let found = self.all_consumers_mut().find(|consumer| {
            consumer.consumer_tag == consumer_tag && consumer.state != ConsumerState::Cancelled
        });
        let Some(consumer) = found else {
            return false;
        };
        consumer.state = ConsumerState::Cancelled;
        let id = consumer.id;
        let acknowledged_to = self.gate.acks.acknowledged_to();
        let mut runs = self.runs.iter().filter(|run| run.consumer == id);
        let held = acknowledged_to.and_then(|last| {
            let run = runs.find(|run| run.last > last)?;
            Some(run.first.max(last + 1))
        });
        if self.lost.len() == LOST {
            self.lost.pop_front();
        }
        self.lost.push_back(LostConsumer {
            id,
            consumer_tag: consumer_tag.to_owned(),
            held,
            confirmed: false,
        });
        self.gate.consumer_lost.store(true, Ordering::Release);
        true
    }

    /// The broker has confirmed a consumer.
    pub(crate) fn consumer_confirmed(&mut self, consumer_tag: &[u8]) {
        let mut consumers = self.all_consumers_mut();
        if let Some(consumer) = consumers.find(|it| it.consumer_tag.as_bytes() == consumer_tag) {
            consumer.state = ConsumerState::Active;
        }
    }

    /// The consumers whose messages go to callbacks, and that of the iterator.
    fn all_consumers(&self) -> impl Iterator<Item = &Consumer> {
        let of_iterator = self.iterator.iter().map(|iterator| &iterator.consumer);
        self.consumers.iter().chain(of_iterator)
    }

    fn all_consumers_mut(&mut self) -> impl Iterator<Item = &mut Consumer> {
        let of_iterator = self.iterator.iter_mut();
        let of_iterator = of_iterator.map(|iterator| &mut iterator.consumer);
        self.consumers.iter_mut().chain(of_iterator)
    }

    /// Whether a `basic.cancel-ok` confirms what this end said of a consumer that the broker had cancelled.
    pub(crate) fn take_extra_cancel_ok(&mut self, consumer_tag: &str) -> bool {
        let mut lost = self.lost.iter_mut();
        match lost.find(|lost| lost.consumer_tag == consumer_tag && !lost.confirmed) {
            Some(lost) => {
                lost.confirmed = true;
                true
            }
            None => false,
        }
    }

    /// The cancelled consumer that a message was handed to.
    pub(crate) fn lost_consumer_of(&self, delivery_tag: u64) -> Option<&LostConsumer> {
        let mut runs = self.runs.iter().rev();
        let run = runs.find(|run| (run.first..=run.last).contains(&delivery_tag))?;
        self.lost.iter().find(|lost| lost.id == run.consumer)
    }

    /// The consumer with this tag that was cancelled last.
    pub(crate) fn last_lost(&self, consumer_tag: &str) -> Option<&LostConsumer> {
        let mut lost = self.lost.iter().rev();
        lost.find(|lost| lost.consumer_tag == consumer_tag)
    }

    /// The tags of the consumers that may still get something, that of the iterator last.
    pub(crate) fn consumer_tags(&self) -> Vec<String> {
        if self.gate.is_over() {
            return Vec::new();
        }
        self.all_consumers()
            .filter(|consumer| consumer.state != ConsumerState::Cancelled)
            .map(|consumer| consumer.consumer_tag.clone())
            .collect()
    }

    /// Whether nothing waits here for the program, and no thread consumes here.
    pub(crate) fn is_idle(&self) -> bool {
        self.claims.is_empty() && self.inbox.is_empty()
    }

    /// Whether anybody consumes here, the iterator included.
    pub(crate) fn has_consumer(&self) -> bool {
        !self.consumers.is_empty() || self.iterator.is_some()
    }

    pub(crate) fn phase(&self) -> Phase {
        self.gate.phase()
    }

    pub(crate) fn consumer(&self, consumer_tag: &str) -> Option<&Consumer> {
        self.consumers
            .iter()
            .find(|consumer| consumer.consumer_tag == consumer_tag)
    }

    /// The consumer tag of a message that came. Most messages are for the consumer of the one before, and share its tag.
    #[inline]
    pub(crate) fn shared_tag(&mut self, consumer_tag: ShortStr<'_>) -> Arc<str> {
        if *consumer_tag != *self.last_tag.as_bytes() {
            self.last_tag = consumer_tag.to_text().into();
        }
        Arc::clone(&self.last_tag)
    }

    /// Whether a delivery is for the channel that had this number before. RabbitMQ ends a channel that it has closed behind
    /// the back of the next one, and may deliver for both at once. It numbers each channel's messages from 1 without a gap,
    /// and delivers to no consumer before it has confirmed it. So what is late goes on where the former channel ended, and
    /// only a tag that is due here as well can be this channel's then.
    #[cold]
    pub(crate) fn is_late(&mut self, message: &Received) -> bool {
        let (tag, consumer_tag) = (message.delivery_tag, message.consumer_tag());
        let former = self.former.unwrap_or_default();
        let is_due = tag == self.gate.acks.last_came() + 1;
        if tag > former && !is_due {
            self.former = Some(tag);
            return true;
        }
        let iterator = self.iterator.as_ref();
        let of_iterator = iterator.is_some_and(|iterator| iterator.has_tag(consumer_tag));
        let active = |consumer: &Consumer| consumer.state == ConsumerState::Active;
        let late = !of_iterator && !self.consumer(consumer_tag).is_some_and(active);
        if late && is_due {
            // Unless it was for a consumer that is gone: then the next one has the number after it.
            self.gate.acks.came(tag);
        }
        late
    }

    /// Whether this is a message that the broker delivers again if it is not acknowledged.
    pub(crate) fn goes_back(&self, incoming: &Incoming) -> bool {
        match incoming {
            Incoming::Message(message) => self
                .consumer(message.consumer_tag())
                .is_some_and(|consumer| !consumer.auto_ack),
            _ => false,
        }
    }

    /// Forgets a consumer; returns whether it was there.
    pub(crate) fn remove_consumer(&mut self, consumer_tag: &str, id: u64) -> bool {
        let before = self.consumers.len();
        self.consumers
            .retain(|consumer| consumer.id != id || consumer.consumer_tag != consumer_tag);
        self.consumers.len() < before
    }

    /// Wakes the watcher, if what has changed concerns it.
    pub(crate) fn alert(&self) {
        if let Some(watcher) = &self.watcher {
            if watcher.eager || self.gate.is_over() || self.confirms.has_losses {
                watcher.wake.wake();
            }
        }
    }

    /// Whether a thread may send something now. If not, it has an entry in the queue from then on, and must leave it.
    pub(crate) fn may_send(&mut self, is_commit: bool, entry: &mut Option<u64>) -> bool {
        let may_send = self.gate.may_send() && (!is_commit || self.send_queue.is_first(*entry));
        if !may_send {
            entry.get_or_insert_with(|| self.send_queue.join());
        }
        may_send
    }

    /// Takes the reply to a call, if it has come.
    pub(crate) fn take_reply(&mut self, id: u64) -> Option<Reply> {
        let at = self.call_replies.iter().position(|(call, _)| *call == id)?;
        Some(self.call_replies.swap_remove(at).1)
    }

    /// The reply to a call is not waited for any more; it may still come.
    pub(crate) fn forget_call(&mut self, id: u64) {
        if self.take_reply(id).is_none() {
            self.calls
                .iter_mut()
                .filter(|call| call.id == id)
                .for_each(|call| call.id = FORGOTTEN);
        }
    }
}
