//! What waits to be delivered to the program, and which thread delivers it.

use std::collections::VecDeque;

use super::{take_out, ConnectionEvent, Dispatcher, Session};
use crate::protocol::consumers::{Consumer, IteratorConsumer};
use crate::protocol::received::{Content, Incoming, Received};
use crate::protocol::size::ALLOCATION;
use crate::Error;

/// Above this many bytes that wait for the program, nothing more is taken in until it takes some. See
/// [`Session::undelivered`].
pub(crate) const HELD_BOUND: usize = if cfg!(all(test, shuttle)) {
    4 << 10
} else {
    4 << 20
};

/// Below this many, more is taken in again.
pub(crate) const RESUME_BELOW: usize = HELD_BOUND / 2;

impl ConnectionEvent {
    fn size(&self) -> usize {
        let text = match self {
            ConnectionEvent::Blocked(reason) => ALLOCATION + reason.len(),
            ConnectionEvent::Unblocked => 0,
        };
        size_of::<ConnectionEvent>() + text
    }
}

/// A consumer that the broker has cancelled.
pub(crate) struct ReportedCancellation {
    /// The number of its channel.
    pub(crate) channel: u16,
    /// Its id, unless it is forgotten already.
    pub(crate) consumer: Option<u64>,
    /// The oldest message that it had not acknowledged, if that is known.
    pub(crate) held: Option<u64>,
}

impl Session {
    /// Keeps what has come until the program takes it: for the channel's iterator, or for its callbacks.
    pub(super) fn push(&mut self, slot: usize, incoming: Incoming) {
        let held = incoming.size();
        let Some(channel) = self.channels.get_mut(slot).and_then(Option::as_deref_mut) else {
            return;
        };
        if self.is_draining && self.undelivered > HELD_BOUND && channel.goes_back(&incoming) {
            // The connection is over, so the broker delivers it to another consumer anyway.
            return;
        }
        self.undelivered += held;
        channel.held += held;
        if let Incoming::Returned(_) = incoming {
            channel.held_returns += held;
        }
        self.arrived += 1;
        match (&mut channel.consumers.iterator, incoming) {
            (Some(iterator), Incoming::Message(message))
                if iterator.has_tag(message.consumer_tag()) =>
            {
                iterator.buffered.push_back(message);
            }
            (_, incoming) => {
                channel.inbox.push_back(incoming);
                if !channel.ready {
                    channel.ready = true;
                    self.ready.push(slot);
                }
            }
        }
        self.note_change(slot);
    }

    pub(super) fn push_connection_event(&mut self, event: ConnectionEvent) {
        if self.wants_blocked {
            self.undelivered += event.size();
            self.events.push_back(event);
        }
    }

    /// How many events that concern the connection as a whole wait now.
    pub(crate) fn count_connection_events(&self) -> usize {
        self.events.len()
    }

    /// Takes the oldest event that concerns the connection as a whole.
    pub(crate) fn next_connection_event(&mut self) -> Option<ConnectionEvent> {
        let event = self.events.pop_front()?;
        self.undelivered -= event.size();
        Some(event)
    }

    /// How many events wait for this dispatcher now.
    pub(crate) fn count_events(&self, dispatcher: &Dispatcher) -> usize {
        let channels = self
            .ready
            .iter()
            .filter_map(|slot| self.channels[*slot].as_deref());
        channels
            .filter(|channel| !channel.running && dispatcher.may_run(channel))
            .map(|channel| channel.inbox.len())
            .sum()
    }

    /// Whether a callback runs, or the body of a loop over an iterator: it will come back for more.
    pub(crate) fn is_at_work(&self) -> bool {
        let mut channels = self.channels.iter().flatten();
        channels.any(|channel| {
            channel.running
                || channel
                    .consumers
                    .iterator
                    .as_ref()
                    .is_some_and(|iterator| iterator.is_at_work)
        })
    }

    /// Chooses the first channel that has events this dispatcher may run, and returns its slot and how many. The channel is this
    /// dispatcher's alone until `end_turn`.
    pub(crate) fn begin_turn(&mut self, dispatcher: &Dispatcher) -> Option<(usize, usize)> {
        let mut ready = self.ready.iter().copied();
        let slot = ready.find(|slot| {
            let channel = self.channels[*slot].as_deref();
            channel.is_some_and(|channel| !channel.running && dispatcher.may_run(channel))
        })?;
        let channel = self.channel(slot)?;
        channel.running = true;
        Some((slot, channel.inbox.len()))
    }

    /// Takes the oldest event of a channel whose turn it is.
    #[inline]
    pub(crate) fn next_event(&mut self, slot: usize) -> Option<Incoming> {
        let channel = self.channels.get_mut(slot)?.as_deref_mut()?;
        let incoming = channel.inbox.pop_front()?;
        let held = incoming.size();
        channel.held -= held;
        if let Incoming::Returned(_) = incoming {
            channel.held_returns -= held;
        }
        self.undelivered -= held;
        Some(incoming)
    }

    /// Returns whether another thread may have been waiting for this. A channel that has more events goes behind the others.
    pub(crate) fn end_turn(&mut self, slot: usize) -> bool {
        let Some(channel) = self.channel(slot) else {
            return false;
        };
        channel.running = false;
        let more = !channel.inbox.is_empty();
        let over = channel.gate.is_over() || channel.consumers.registered.is_empty();
        channel.ready = more;
        take_out(&mut self.ready, slot);
        if more {
            self.ready.push(slot);
        }
        more || over
    }

    /// The broker has taken back what was not acknowledged, and delivers it again under other tags. So what waits here of it is void.
    /// A stream takes nothing back.
    pub(super) fn drop_taken_back(&mut self, slot: usize) {
        let Some(channel) = self.channel(slot) else {
            return;
        };
        let is_taken_back = |consumer: &Consumer| !consumer.auto_ack && !consumer.of_stream;
        let consumers = &mut channel.consumers;
        let mut held = 0;
        channel.inbox.retain(|incoming| {
            let Incoming::Message(message) = incoming else {
                return true;
            };
            let is_void = consumers
                .get(message.consumer_tag())
                .is_some_and(is_taken_back);
            if is_void {
                held += incoming.size();
            }
            !is_void
        });
        if let Some(iterator) = &mut consumers.iterator {
            if is_taken_back(&iterator.consumer) {
                let void = iterator.buffered.drain(..);
                held += void.map(|message| message.size()).sum::<usize>();
            }
        }
        self.no_longer_held(slot, held);
    }

    /// This many bytes of what waited on a channel were taken, or dropped.
    pub(super) fn no_longer_held(&mut self, slot: usize, bytes: usize) {
        self.undelivered -= bytes;
        let Some(channel) = self.channel(slot) else {
            return;
        };
        channel.held -= bytes;
        if channel.inbox.is_empty() && std::mem::take(&mut channel.ready) {
            take_out(&mut self.ready, slot);
        }
    }

    /// Takes what came for one consumer and was not delivered to the program.
    pub(crate) fn take_undelivered(
        &mut self,
        slot: usize,
        consumer_tag: &str,
    ) -> Vec<crate::Message> {
        let Some(channel) = self.channel(slot) else {
            return Vec::new();
        };
        let mut taken = Vec::new();
        let mut held = 0;
        let mut kept = VecDeque::with_capacity(channel.inbox.len());
        for incoming in channel.inbox.drain(..) {
            let size = incoming.size();
            match incoming {
                Incoming::Message(message) if message.consumer_tag() == consumer_tag => {
                    held += size;
                    taken.push(message.delivered());
                }
                Incoming::Cancelled(tag) if tag == consumer_tag => held += size,
                other => kept.push_back(other),
            }
        }
        channel.inbox = kept;
        self.no_longer_held(slot, held);
        taken
    }

    /// Takes the next message that the iterator of a channel is to yield.
    pub(crate) fn next_for_iterator(&mut self, slot: usize) -> Option<Received> {
        let channel = self.channel(slot)?;
        let iterator = channel.consumers.iterator.as_mut()?;
        let message = iterator.buffered.pop_front();
        iterator.is_at_work = message.is_some();
        let message = message?;
        let id = iterator.consumer.id;
        channel.consumers.handed_over(message.delivery_tag, id);
        self.no_longer_held(slot, message.size());
        Some(message)
    }

    /// Takes the iterator of a channel, with what it had not yielded.
    pub(crate) fn take_iterator(&mut self, slot: usize) -> Option<IteratorConsumer> {
        let channel = self.channel(slot)?;
        let iterator = channel.consumers.iterator.take()?;
        let held = iterator.buffered.iter().map(Received::size).sum();
        self.no_longer_held(slot, held);
        Some(iterator)
    }

    fn unreported(&self, dispatcher: &Dispatcher) -> Option<usize> {
        let mut closed = self.closures.iter().copied();
        closed.find(|slot| {
            self.channels[*slot]
                .as_deref()
                .is_some_and(|channel| dispatcher.may_run(channel))
        })
    }

    /// Whether the broker closed a channel that this dispatcher runs, and no call has reported it.
    pub(crate) fn has_unreported(&self, dispatcher: &Dispatcher) -> bool {
        self.unreported(dispatcher).is_some()
    }

    /// Takes such a closure to report it.
    pub(crate) fn take_unreported(&mut self, dispatcher: &Dispatcher) -> Option<Error> {
        let slot = self.unreported(dispatcher)?;
        self.reported(slot);
        self.channel(slot)?.gate.end().cloned()
    }

    /// A call reports a channel's closure; returns whether it is the first.
    pub(crate) fn reported(&mut self, slot: usize) -> bool {
        take_out(&mut self.closures, slot)
    }

    /// Whether nothing waits on a channel for the program, and no thread consumes there.
    pub(crate) fn is_idle(&mut self, slot: usize) -> bool {
        self.channel(slot).is_none_or(|channel| channel.is_idle())
    }

    /// The channels on which nothing waits for the program, and no thread consumes.
    pub(crate) fn idle_channels(&self) -> Vec<usize> {
        let channels = self.channels.iter().enumerate();
        let idle = channels
            .filter(|(_, channel)| channel.as_deref().is_some_and(super::ChannelState::is_idle));
        idle.map(|(slot, _)| slot).collect()
    }

    /// It is now reported to the program that the broker has cancelled a consumer.
    pub(crate) fn report_cancelled(
        &mut self,
        slot: usize,
        consumer_tag: &str,
    ) -> Option<ReportedCancellation> {
        let channel = self.channel(slot)?;
        let held = channel
            .consumers
            .last_cancelled(consumer_tag)
            .and_then(|cancelled| cancelled.held);
        let consumer = channel
            .consumers
            .get(consumer_tag)
            .map(|consumer| consumer.id);
        if consumer.is_some() {
            channel.consumers.cancelled_by_broker = Some(consumer_tag.to_owned());
        }
        Some(ReportedCancellation {
            channel: channel.number,
            consumer,
            held,
        })
    }

    /// Drops what waits for the program on a channel that the program closed, and what has come of a message.
    pub(crate) fn clear_channel(&mut self, slot: usize) {
        let Some(channel) = self.channel(slot) else {
            return;
        };
        channel.content = Content::None;
        channel.inbox = VecDeque::new();
        channel.consumers.registered = Vec::new();
        channel.consumers.iterator = None;
        channel.replies = None;
        channel.held_returns = 0;
        let held = channel.held;
        self.no_longer_held(slot, held);
    }
}
