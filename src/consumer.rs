//! The messages of a queue as an iterator.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use crate::channel::Channel;
use crate::dispatch::Round;
use crate::error::Result;
use crate::io::sync::Instant;
use crate::protocol::channel::Puller;
use crate::{Consume, Error, Message};

/// The messages of a queue, one after another (pika: the generator of `consume`); see [`Channel::consume`].
pub struct Messages {
    channel: Channel,
    consumer_tag: String,
    inactivity_timeout: Option<Duration>,
    failed: bool,
}

impl Messages {
    pub(crate) fn start(channel: &Channel, request: Consume) -> Result<Messages> {
        let Consume {
            queue,
            auto_ack,
            exclusive,
            arguments,
            inactivity_timeout,
        } = request;
        let place = channel.place();
        let consumer_tag = channel.new_consumer_tag();
        {
            let mut shared = channel.link().lock();
            if channel.is_ended() {
                drop(shared);
                return Err(channel.closure());
            }
            shared.session.iterator_cancelled = None;
            let Some(state) = shared.session.channel(place) else {
                return Err(channel.closure());
            };
            if let Some(puller) = &state.puller {
                if (&puller.queue, puller.auto_ack, puller.exclusive)
                    != (&queue, auto_ack, exclusive)
                {
                    return Err(Error::invalid(
                        "consume",
                        format_args!("queue {queue:?}, auto_ack {auto_ack}, exclusive {exclusive}"),
                        &format!(
                            "the channel's iterator has queue {:?}, auto_ack {}, exclusive {}; cancel() ends it",
                            puller.queue, puller.auto_ack, puller.exclusive
                        ),
                    ));
                }
                let consumer_tag = puller.consumer_tag.clone();
                return Ok(Messages {
                    channel: channel.clone(),
                    consumer_tag,
                    inactivity_timeout,
                    failed: false,
                });
            }
            // Before the broker knows of it, so that no message can come too early.
            state.puller = Some(Puller {
                consumer_tag: consumer_tag.clone(),
                queue: queue.clone(),
                auto_ack,
                exclusive,
                buffered: VecDeque::new(),
                cancelled: false,
            });
        }
        if let Err(error) =
            channel.subscribe(&queue, &consumer_tag, auto_ack, exclusive, &arguments)
        {
            if let Some(state) = channel.link().lock().session.channel(place) {
                state.puller = None;
            }
            return Err(error);
        }
        Ok(Messages {
            channel: channel.clone(),
            consumer_tag,
            inactivity_timeout,
            failed: false,
        })
    }

    /// Whether the consumer behind this iterator was cancelled, by [`Channel::cancel`] or by the broker, so that nothing
    /// more will come. If not, the iterator ended because nothing came in time, and can be asked again.
    pub fn is_cancelled(&self) -> bool {
        let mut shared = self.channel.link().lock();
        let state = shared.session.channel(self.channel.place());
        match state.and_then(|state| state.puller.as_ref()) {
            Some(puller) => {
                puller.consumer_tag != self.consumer_tag
                    || (puller.cancelled && puller.buffered.is_empty())
            }
            None => true,
        }
    }

    /// What there is without waiting: a message, the end, or nothing yet.
    fn look(&self) -> Option<Option<Message>> {
        let link = self.channel.link();
        let mut shared = link.lock();
        let state = shared.session.channel(self.channel.place());
        let Some(puller) = state.and_then(|state| state.puller.as_ref()) else {
            return Some(None);
        };
        if puller.consumer_tag != self.consumer_tag {
            return Some(None);
        }
        let over = puller.cancelled;
        let message = shared.session.next_pulled(self.channel.place());
        link.resume_if_paused(&mut shared);
        match message {
            Some(message) => Some(Some(message.delivered())),
            None if over => {
                // The broker ended it, and all of it has been yielded.
                shared.session.take_puller(self.channel.place());
                shared.session.iterator_cancelled = Some(self.consumer_tag.clone());
                Some(None)
            }
            None => None,
        }
    }

    fn advance(&self) -> Result<Option<Message>> {
        let deadline = self
            .inactivity_timeout
            .and_then(|timeout| Instant::now().checked_add(timeout));
        let place = self.channel.place();
        let connection = self.channel.connection();
        let round = Round::enter(&connection, Some(&self.channel));
        loop {
            if self.channel.is_stopped() && !self.channel.is_ended() {
                if !self.is_cancelled() {
                    self.channel.stop_now();
                }
                return Ok(None);
            }
            if let Some(found) = self.look() {
                return Ok(found);
            }
            if self.channel.is_ended() {
                let end = self.channel.ended();
                return match end {
                    Error::ChannelClosedByClient { .. }
                    | Error::ConnectionClosedByClient { .. } => Ok(None),
                    _ => Err(end),
                };
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(None);
            }
            round.run(left, |shared| {
                let Some(state) = shared.session.channel(place) else {
                    return true;
                };
                let puller = state.puller.as_ref();
                let waiting = puller.map(|puller| !puller.buffered.is_empty() || puller.cancelled);
                waiting.unwrap_or(true) || state.gate.is_over() || self.channel.is_stopped()
            })?;
        }
    }
}

impl Iterator for Messages {
    type Item = Result<Message>;

    fn next(&mut self) -> Option<Result<Message>> {
        if self.failed {
            return None;
        }
        let next = self.advance().transpose();
        self.failed = matches!(next, Some(Err(_))) && self.channel.is_ended();
        next
    }
}

impl fmt::Debug for Messages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Messages")
            .field("channel", &self.channel)
            .field("consumer_tag", &self.consumer_tag)
            .field("inactivity_timeout", &self.inactivity_timeout)
            .finish_non_exhaustive()
    }
}

/// Ends the iterator of a channel; answers how many messages went back.
pub(crate) fn cancel(channel: &Channel) -> Result<usize> {
    let place = channel.place();
    let found = {
        let mut shared = channel.link().lock();
        let puller = shared
            .session
            .channel(place)
            .and_then(|state| state.puller.as_ref());
        puller.map(|puller| (puller.consumer_tag.clone(), puller.cancelled))
    };
    if channel.is_ended() {
        return Err(channel.closure());
    }
    let Some((consumer_tag, cancelled)) = found else {
        log::warn!(
            "channel {}: there is no iterator to cancel",
            channel.channel_number()
        );
        return Ok(0);
    };
    if !cancelled {
        channel.unsubscribe(&consumer_tag)?;
    }
    let puller = {
        let mut shared = channel.link().lock();
        let puller = shared.session.take_puller(place);
        channel.link().resume_if_paused(&mut shared);
        puller
    };
    channel.link().poke();
    let Some(puller) = puller else { return Ok(0) };
    if puller.auto_ack {
        if !puller.buffered.is_empty() {
            log::warn!(
                "the iterator was cancelled with {} acknowledged messages not yielded",
                puller.buffered.len()
            );
        }
        return Ok(0);
    }
    for delivery in &puller.buffered {
        channel.basic_reject(delivery.delivery_tag)?;
    }
    Ok(puller.buffered.len())
}
