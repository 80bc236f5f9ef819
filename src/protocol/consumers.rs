//! The consumers of a channel, and which of them was given which messages.

use std::collections::VecDeque;
use std::sync::Arc;

use super::received::Received;
use super::wire::ShortStr;
use crate::ShortString;

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

/// Messages that were handed to one consumer, one after another.
#[derive(Debug, Clone, Copy)]
struct Run {
    first: u64,
    last: u64,
    consumer: u64,
}

/// How many runs of a channel are remembered.
const RUNS: usize = 1024;

/// A consumer that the broker cancelled.
#[derive(Debug, Clone)]
pub(crate) struct CancelledConsumer {
    id: u64,
    pub(crate) consumer_tag: String,
    /// The oldest message that it had not acknowledged, if that is known.
    pub(crate) held: Option<u64>,
    /// Our own `basic.cancel` of it has been confirmed.
    confirmed: bool,
}

/// How many cancelled consumers of a channel are remembered.
const CANCELLED: usize = 64;

/// The consumers of one channel.
#[derive(Debug, Default)]
pub(crate) struct Consumers {
    /// Those whose messages go to callbacks.
    pub(crate) registered: Vec<Consumer>,
    pub(crate) iterator: Option<IteratorConsumer>,
    /// The tag of the last one, if the broker cancelled it: why `start_consuming` returns.
    pub(crate) cancelled_by_broker: Option<String>,
    /// The consumer tag that came with the last message.
    last_tag: Arc<str>,
    /// Which of them was given which messages, the latest.
    runs: VecDeque<Run>,
    /// Those that the broker cancelled, the latest.
    cancelled: VecDeque<CancelledConsumer>,
}

impl Consumers {
    /// The one with this tag whose messages go to callbacks.
    pub(crate) fn get(&self, consumer_tag: &str) -> Option<&Consumer> {
        self.registered
            .iter()
            .find(|consumer| consumer.consumer_tag == consumer_tag)
    }

    /// Whether the iterator has this tag.
    pub(crate) fn is_of_iterator(&self, consumer_tag: &str) -> bool {
        let iterator = self.iterator.as_ref();
        iterator.is_some_and(|iterator| iterator.has_tag(consumer_tag))
    }

    /// Whether there is no consumer, and no iterator.
    pub(crate) fn is_empty(&self) -> bool {
        self.registered.is_empty() && self.iterator.is_none()
    }

    /// The tags of those that may still get something, that of the iterator last.
    pub(super) fn tags(&self) -> Vec<String> {
        self.all()
            .filter(|consumer| consumer.state != ConsumerState::Cancelled)
            .map(|consumer| consumer.consumer_tag.clone())
            .collect()
    }

    /// Forgets a consumer; returns whether it was there.
    pub(crate) fn remove(&mut self, consumer_tag: &str, id: u64) -> bool {
        let before = self.registered.len();
        self.registered
            .retain(|consumer| consumer.id != id || consumer.consumer_tag != consumer_tag);
        self.registered.len() < before
    }

    /// The broker cancels a consumer; all messages up to `acknowledged_to` are acknowledged, if that is known. Returns whether
    /// the consumer was there.
    pub(super) fn cancel(&mut self, consumer_tag: &str, acknowledged_to: Option<u64>) -> bool {
        let found = self.all_mut().find(|consumer| {
            consumer.consumer_tag == consumer_tag && consumer.state != ConsumerState::Cancelled
        });
        let Some(consumer) = found else {
            return false;
        };
        consumer.state = ConsumerState::Cancelled;
        let id = consumer.id;
        let mut runs = self.runs.iter().filter(|run| run.consumer == id);
        let held = acknowledged_to.and_then(|last| {
            let run = runs.find(|run| run.last > last)?;
            Some(run.first.max(last + 1))
        });
        if self.cancelled.len() == CANCELLED {
            self.cancelled.pop_front();
        }
        self.cancelled.push_back(CancelledConsumer {
            id,
            consumer_tag: consumer_tag.to_owned(),
            held,
            confirmed: false,
        });
        true
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

    /// The broker has confirmed a consumer.
    pub(crate) fn confirmed(&mut self, consumer_tag: &[u8]) {
        let mut consumers = self.all_mut();
        if let Some(consumer) = consumers.find(|it| it.consumer_tag.as_bytes() == consumer_tag) {
            consumer.state = ConsumerState::Active;
        }
    }

    /// Whether a consumer is requested that the broker has not confirmed.
    pub(crate) fn is_requested(&self, consumer_tag: &str) -> bool {
        self.all().any(|consumer| {
            consumer.consumer_tag == consumer_tag && consumer.state == ConsumerState::Requested
        })
    }

    /// The consumers whose messages go to callbacks, and that of the iterator.
    fn all(&self) -> impl Iterator<Item = &Consumer> {
        let of_iterator = self.iterator.iter().map(|iterator| &iterator.consumer);
        self.registered.iter().chain(of_iterator)
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut Consumer> {
        let of_iterator = self.iterator.iter_mut();
        let of_iterator = of_iterator.map(|iterator| &mut iterator.consumer);
        self.registered.iter_mut().chain(of_iterator)
    }

    /// Whether a `basic.cancel-ok` confirms what this end said of a consumer that the broker had cancelled.
    pub(crate) fn take_extra_cancel_ok(&mut self, consumer_tag: &str) -> bool {
        let mut cancelled = self.cancelled.iter_mut();
        match cancelled.find(|it| it.consumer_tag == consumer_tag && !it.confirmed) {
            Some(unconfirmed) => {
                unconfirmed.confirmed = true;
                true
            }
            None => false,
        }
    }

    /// The cancelled consumer that a message was handed to.
    pub(crate) fn cancelled_consumer_of(&self, delivery_tag: u64) -> Option<&CancelledConsumer> {
        let mut runs = self.runs.iter().rev();
        let run = runs.find(|run| (run.first..=run.last).contains(&delivery_tag))?;
        self.cancelled.iter().find(|it| it.id == run.consumer)
    }

    /// The consumer with this tag that was cancelled last.
    pub(crate) fn last_cancelled(&self, consumer_tag: &str) -> Option<&CancelledConsumer> {
        let mut cancelled = self.cancelled.iter().rev();
        cancelled.find(|it| it.consumer_tag == consumer_tag)
    }

    /// The consumer tag of a message that came. Most messages are for the consumer of the one before, and share its tag.
    #[inline]
    pub(crate) fn shared_tag(&mut self, consumer_tag: ShortStr<'_>) -> Arc<str> {
        if *consumer_tag != *self.last_tag.as_bytes() {
            self.last_tag = consumer_tag.to_text().into();
        }
        Arc::clone(&self.last_tag)
    }
}
