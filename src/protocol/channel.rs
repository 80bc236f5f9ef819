//! One channel: where it stands, what a thread that sends on it needs to know, and all that is known of it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

use super::acks::Acks;
use super::calls::Calls;
use super::confirms::Confirms;
use super::consumers::{ConsumerState, Consumers};
use super::method::Method;
use super::publish::Mandatory;
use super::received::{Content, Incoming, Received};
use super::replies::Replies;
use super::send_queue::{Order, SendQueue};
use crate::error::Error;

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
    pub(crate) consumer_cancelled: AtomicBool,
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
            consumer_cancelled: Default::default(),
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
        self.acks.note_sent(method);
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

/// What is woken by changes of a channel without a thread that waits on the channel itself.
pub(crate) struct Watcher {
    pub(crate) wake: Arc<dyn Wake>,
    /// It is woken by every confirm as well.
    pub(crate) eager: bool,
}

/// Which threads run the callbacks of a channel.
#[derive(Debug, Default)]
pub(crate) struct CallbackThreads {
    /// Those inside `start_consuming` on the channel: only they run its callbacks.
    pub(crate) consuming: Vec<u64>,
    /// The one that registered callbacks last, which runs them if no thread consumes here. 0 if none did.
    pub(crate) registering: u64,
}

/// What is known of a channel.
pub(crate) struct ChannelState {
    pub(crate) number: u16,
    /// An earlier channel had its number: the last delivery tag that was seen of that.
    pub(crate) former: Option<u64>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) calls: Calls,
    /// The threads that wait until they may send, because a transaction is being committed.
    pub(crate) send_queue: SendQueue,
    /// What the protocol itself has to send when that is done.
    pub(super) held_back: Vec<u8>,
    /// The message that is coming in.
    pub(crate) content: Content,
    /// What has come and waits for callbacks.
    pub(crate) inbox: VecDeque<Incoming>,
    /// Bytes in `inbox` and `iterator`, as the session counts them.
    pub(crate) held: usize,
    /// What of that are returned messages.
    pub(crate) held_returns: usize,
    pub(crate) consumers: Consumers,
    /// What became of published messages, in confirm mode.
    pub(crate) confirms: Confirms,
    /// The calls of an RPC client, if the channel belongs to one.
    pub(crate) replies: Option<Box<Replies>>,
    /// Mandatory messages on their way, oldest first, to tie a return to its publish.
    pub(crate) mandatory: VecDeque<Mandatory>,
    /// There is a callback for returned messages.
    pub(crate) wants_returns: bool,
    pub(crate) threads: CallbackThreads,
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
            calls: Calls::default(),
            send_queue: SendQueue::default(),
            held_back: Vec::new(),
            content: Content::None,
            inbox: VecDeque::new(),
            held: 0,
            held_returns: 0,
            consumers: Consumers::default(),
            confirms: Confirms::default(),
            replies: None,
            mandatory: VecDeque::new(),
            wants_returns: false,
            threads: CallbackThreads::default(),
            running: false,
            watcher: None,
            ready: false,
            broker_close: None,
            abandoned: false,
        }
    }

    /// Whether nothing waits here for the program, and no thread consumes here.
    pub(crate) fn is_idle(&self) -> bool {
        self.threads.consuming.is_empty() && self.inbox.is_empty()
    }

    pub(crate) fn phase(&self) -> Phase {
        self.gate.phase()
    }

    /// The broker cancels a consumer. Returns whether it was there.
    pub(crate) fn cancel_consumer(&mut self, consumer_tag: &str) -> bool {
        let acknowledged_to = self.gate.acks.acknowledged_to();
        let was_there = self.consumers.cancel(consumer_tag, acknowledged_to);
        if was_there {
            self.gate.consumer_cancelled.store(true, Ordering::Release);
        }
        was_there
    }

    /// The tags of the consumers that may still get something, that of the iterator last.
    pub(crate) fn consumer_tags(&self) -> Vec<String> {
        if self.gate.is_over() {
            return Vec::new();
        }
        self.consumers.tags()
    }

    /// Whether a delivery is for the channel that had this number before. RabbitMQ ends a channel that it has closed behind
    /// the back of the next one, and may deliver for both at once. It numbers each channel's messages from 1 without a gap,
    /// and delivers to no consumer before it has confirmed it. So what is late goes on where the former channel ended, and
    /// only a tag that is due here as well can be this channel's then.
    #[cold]
    pub(crate) fn is_late(&mut self, message: &Received) -> bool {
        let (tag, consumer_tag) = (message.delivery_tag, message.consumer_tag());
        let former = self.former.unwrap_or_default();
        let is_due = tag == self.gate.acks.last_received() + 1;
        if tag > former && !is_due {
            self.former = Some(tag);
            return true;
        }
        let consumer = self.consumers.get(consumer_tag);
        let is_active = consumer.is_some_and(|consumer| consumer.state == ConsumerState::Active);
        let late = !is_active && !self.consumers.is_of_iterator(consumer_tag);
        if is_due {
            // Unless it was for a consumer that is gone: then the next one has the number after it.
            self.gate.acks.note_received(tag);
        }
        late
    }

    /// Whether this is a message that the broker delivers again if it is not acknowledged.
    pub(crate) fn goes_back(&self, incoming: &Incoming) -> bool {
        match incoming {
            Incoming::Message(message) => self
                .consumers
                .get(message.consumer_tag())
                .is_some_and(|consumer| !consumer.auto_ack),
            _ => false,
        }
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
    pub(crate) fn may_send(&mut self, order: Order, entry: &mut Option<u64>) -> bool {
        let is_its_turn = order == Order::AtOnce || self.send_queue.is_first(*entry);
        let may_send = is_its_turn && self.gate.may_send();
        if !may_send {
            entry.get_or_insert_with(|| self.send_queue.join());
        }
        may_send
    }
}
