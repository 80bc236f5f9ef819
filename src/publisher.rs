//! Many messages with confirms.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::channel::{Channel, Then, Until, WaitEnd};
use crate::error::Result;
use crate::io::sync::after;
use crate::protocol::confirms::Losses;
use crate::protocol::publish::OutgoingMessage;
use crate::{AsShortString, BasicPublish, Error, UnconfirmedReport};

/// Publishes with confirms, many at a time; made by [`Channel::publisher`]. Has no counterpart in pika, which waits for
/// each confirmation.
///
/// [`publish`](Publisher::publish) waits only while the window is full. What the broker returned or refused is reported by
/// [`wait_for_confirms`](Publisher::wait_for_confirms), under the sequence number that `publish` returned, also after the
/// channel or the connection has ended. A message that was published before a `wait_for_confirms` that returned `Ok`, or
/// that its report lists as confirmed, is the broker's responsibility.
///
/// Dropping a publisher waits for nothing: call `wait_for_confirms` first.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
/// # fn main() { example(|connection, channel| {
/// use haypile::Error;
/// use std::time::Duration;
///
/// # channel.queue_declare("numbers")?;
/// let mut publisher = channel.publisher(1000)?;
/// for n in 0..10_000 {
///     publisher.publish("", "numbers", n.to_string())?;
/// }
/// match publisher.wait_for_confirms(Duration::from_secs(30)) {
///     // Also when the connection was lost meanwhile: then it is in `report.cause`.
///     Err(Error::Unconfirmed(report)) => eprintln!("publish again: {:?} {:?}", report.nacked, report.pending),
///     other => other?,
/// }
/// # Ok(()) }) }
/// ```
pub struct Publisher {
    channel: Channel,
    window: u64,
    /// Runs of sequence numbers that are this publisher's and not reported, oldest first.
    own: VecDeque<(u64, u64)>,
}

impl Channel {
    /// Publishes many messages with confirms: waits only while `window` of them are unconfirmed. Turns confirms on if they
    /// are off. Has no counterpart in pika.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// # channel.queue_declare("lines")?;
    /// let mut publisher = channel.publisher(100)?;
    /// publisher.publish("", "lines", "first")?;
    /// publisher.wait_for_confirms(None)?;
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] for a window of 0, and as [`confirm_delivery`](Channel::confirm_delivery).
    pub fn publisher(&self, window: usize) -> Result<Publisher> {
        self.notice_fork();
        if window == 0 {
            return Err(Error::invalid("window", 0, "at least 1 is expected"));
        }
        if !self.is_confirming() {
            self.start_confirming()?;
        }
        Ok(Publisher {
            channel: self.clone(),
            window: window as u64,
            own: VecDeque::new(),
        })
    }
}

impl Publisher {
    /// Publishes a message without properties; returns its sequence number on the channel, from 1.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// # channel.queue_declare("lines")?;
    /// let mut publisher = channel.publisher(100)?;
    /// assert_eq!(publisher.publish("", "lines", "first")?, 1);
    /// assert_eq!(publisher.publish("", "lines", "second")?, 2);
    /// # publisher.wait_for_confirms(None)?;
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// As [`Channel::basic_publish`], but for what the broker does with the message, which
    /// [`wait_for_confirms`](Publisher::wait_for_confirms) reports. [`Error::Timeout`] if the window stayed full for
    /// `rpc_timeout`; this message was not sent then, and the publisher goes on. After the end of the channel or the
    /// connection: what ended it; this message was not sent, and `wait_for_confirms` reports what became of the others.
    pub fn publish(
        &mut self,
        exchange: impl AsShortString,
        routing_key: impl AsShortString,
        body: impl AsRef<[u8]>,
    ) -> Result<u64> {
        self.publish_with(exchange, routing_key, body, BasicPublish::new())
    }

    /// Publishes a message with properties, or as mandatory; returns its sequence number on the channel, from 1.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// use haypile::{BasicProperties, BasicPublish, DeliveryMode};
    ///
    /// # channel.queue_declare("lines")?;
    /// let mut publisher = channel.publisher(100)?;
    /// let persistent = BasicProperties::new().delivery_mode(DeliveryMode::Persistent);
    /// let mandatory = BasicPublish::new().mandatory(true).properties(&persistent);
    /// publisher.publish_with("", "lines", "first", mandatory)?;
    /// # publisher.wait_for_confirms(None)?;
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// As [`publish`](Publisher::publish).
    pub fn publish_with<'p>(
        &mut self,
        exchange: impl AsShortString,
        routing_key: impl AsShortString,
        body: impl AsRef<[u8]>,
        publish: impl Into<BasicPublish<'p>>,
    ) -> Result<u64> {
        if self.channel.gate().unconfirmed() >= self.window {
            self.wait_for_room()?;
        }
        let message = OutgoingMessage {
            exchange: exchange.as_short_string(),
            routing_key: routing_key.as_short_string(),
            body: body.as_ref(),
            publish: &publish.into(),
        };
        let channel = &self.channel;
        let sequence = channel.send_within(channel.link().rpc_timeout, |patience| {
            channel.send_message(message, patience, Then::Return)
        })?;
        match self.own.back_mut() {
            Some((_, last)) if *last + 1 == sequence => *last = sequence,
            _ => self.own.push_back((sequence, sequence)),
        }
        Ok(sequence)
    }

    fn wait_for_room(&self) -> Result<()> {
        if self.channel.notice_fork() {
            return Err(self.channel.closure());
        }
        let limit = self.channel.link().rpc_timeout;
        let room = self
            .channel
            .wait_for(Until::time_or_stop(after(limit)), |channel| {
                let has_room = channel.gate.unconfirmed() < self.window;
                (has_room && !channel.gate.is_over()).then_some(())
            });
        match room {
            WaitEnd::Found(()) => Ok(()),
            WaitEnd::Over => Err(self.channel.ended()),
            WaitEnd::Stopped => Err(Error::Stopped {
                waiting_for: "room in the publisher's window",
            }),
            WaitEnd::TimedOut => {
                let waiting_for = "room in the publisher's window; nothing was sent";
                Err(self.channel.timed_out(waiting_for, limit))
            }
        }
    }

    /// How many of this publisher's messages are neither confirmed nor refused nor returned yet.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// # channel.queue_declare("lines")?;
    /// let mut publisher = channel.publisher(100)?;
    /// publisher.publish("", "lines", "first")?;
    /// publisher.wait_for_confirms(None)?;
    /// assert_eq!(publisher.unconfirmed(), 0);
    /// # Ok(()) }) }
    /// ```
    pub fn unconfirmed(&self) -> usize {
        self.channel.notice_fork();
        let mut shared = self.channel.link().lock();
        let Some(channel) = shared.session.channel(self.channel.slot()) else {
            return 0;
        };
        self.own
            .iter()
            .map(|(first, last)| channel.confirms.unconfirmed(*first, *last))
            .sum()
    }

    /// Waits until the broker has confirmed, refused or returned every message published so far, or the time is up.
    ///
    /// After the end of the channel or the connection the report still comes: [`UnconfirmedReport::cause`] is what ended
    /// it, [`pending`](UnconfirmedReport::pending) which messages have no confirmation, and
    /// [`confirmed`](UnconfirmedReport::confirmed) which have one, so that only the rest need be published again elsewhere.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// use haypile::{BasicPublish, Error};
    /// use std::time::Duration;
    ///
    /// let mut publisher = channel.publisher(100)?;
    /// let lost = publisher.publish_with("", "nowhere", "?", BasicPublish::new().mandatory(true))?;
    /// match publisher.wait_for_confirms(Duration::from_secs(30)) {
    ///     Err(Error::Unconfirmed(report)) => assert_eq!(report.returned[0].0, lost),
    ///     other => panic!("{other:?}"),
    /// }
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Unconfirmed`] with what was returned, refused, or pending when the time was up or the channel ended. Each loss
    /// is reported once, the pending ones are forgotten by this publisher, and it can go on if its channel is open. If the
    /// channel is not, and nothing was published since the last report: what closed it, as for every call. [`Error::Stopped`]
    /// if a stop ended the wait; asked again, it waits for two seconds at most.
    pub fn wait_for_confirms(&mut self, timeout: impl Into<Option<Duration>>) -> Result<()> {
        let timeout = timeout.into();
        self.channel.notice_fork();
        if self.own.is_empty() && self.channel.is_ended() {
            return Err(self.channel.closure());
        }
        let own = &self.own;
        let until = Until::for_confirms(timeout, self.channel.is_interrupted());
        let known = self.channel.wait_for(until, |channel| {
            // The oldest are confirmed first, so the newest show soonest that something is unconfirmed.
            let is_known =
                |(first, last): &(u64, u64)| channel.confirms.unconfirmed(*first, *last) == 0;
            own.iter().rev().all(is_known).then_some(())
        });
        if let WaitEnd::Stopped = known {
            return Err(Error::Stopped {
                waiting_for: "confirms",
            });
        }
        let own = std::mem::take(&mut self.own);
        let mut losses = Losses::default();
        let mut shared = self.channel.link().lock();
        if let Some(channel) = shared.session.channel(self.channel.slot()) {
            for (first, last) in &own {
                channel.confirms.take_for_good(*first, *last, &mut losses);
            }
        }
        let blocked = shared.session.blocked.clone();
        drop(shared);
        if losses == Losses::default() {
            return Ok(());
        }
        let is_over = self.channel.is_ended();
        let cause = is_over.then(|| self.channel.ended());
        let blocked = blocked.filter(|_| !is_over);
        Err(Error::Unconfirmed(Box::new(report(
            &own, losses, cause, blocked,
        ))))
    }
}

/// What is reported of runs of messages of which some were lost: the others are confirmed.
fn report(
    own: &VecDeque<(u64, u64)>,
    losses: Losses,
    cause: Option<Error>,
    blocked: Option<Arc<str>>,
) -> UnconfirmedReport {
    let Losses {
        returned,
        nacked,
        pending,
    } = losses;
    let returned_numbers = returned.iter().map(|(sequence, _)| sequence);
    let mut lost: Vec<u64> = returned_numbers
        .chain(&nacked)
        .chain(&pending)
        .copied()
        .collect();
    lost.sort_unstable();
    let mut lost = lost.into_iter().peekable();
    let mut confirmed = Vec::new();
    for (first, last) in own {
        let mut from = *first;
        while let Some(sequence) = lost.next_if(|sequence| sequence <= last) {
            if from < sequence {
                confirmed.push(from..=sequence - 1);
            }
            from = sequence + 1;
        }
        if from <= *last {
            confirmed.push(from..=*last);
        }
    }
    let returned = returned.into_iter();
    UnconfirmedReport {
        returned: returned
            .map(|(sequence, message)| (sequence, Arc::unwrap_or_clone(message)))
            .collect(),
        nacked,
        pending,
        confirmed,
        cause,
        blocked,
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        if self.channel.link().notice_fork() {
            return;
        }
        let unconfirmed = self.unconfirmed();
        if let Some(channel) = self
            .channel
            .link()
            .lock()
            .session
            .channel(self.channel.slot())
        {
            for (first, last) in self.own.drain(..) {
                channel
                    .confirms
                    .take_for_good(first, last, &mut Losses::default());
            }
        }
        if unconfirmed > 0 {
            log::warn!("a publisher was dropped with {unconfirmed} messages unconfirmed; call wait_for_confirms first");
        }
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher")
            .field("channel", &self.channel)
            .field("window", &self.window)
            .field("unconfirmed", &self.unconfirmed())
            .finish_non_exhaustive()
    }
}
