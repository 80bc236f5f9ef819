//! What a reliable publisher has taken and the broker has not confirmed. No locks, threads or clocks here.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;

use crate::channel::Channel;
use crate::protocol::confirms::Outcomes;
use crate::protocol::publish::OutgoingMessage;
use crate::{BasicProperties, BasicPublish, Error, ReturnedMessage, ShortString, Unconfirmed};

/// All of a message but its number and body. Messages that are alike share it.
#[derive(Debug, Default)]
pub(super) struct Envelope {
    pub(super) exchange: ShortString,
    pub(super) routing_key: ShortString,
    /// As they were given.
    pub(super) properties: BasicProperties,
    pub(super) mandatory: bool,
    /// What it counts for in the bound of bytes, with each message.
    pub(super) weight: usize,
}

/// A message as it was taken.
#[derive(Debug)]
pub(super) struct Entry {
    /// Its own for ever, from 1.
    pub(super) number: u64,
    pub(super) envelope: Arc<Envelope>,
    pub(super) body: Vec<u8>,
    /// How often the broker refused it. As wide as a register, since copying an entry with a narrower field stalls.
    pub(super) refusals: u64,
}

impl Entry {
    /// What it counts for in the bound of bytes.
    fn weight(&self) -> usize {
        weight(&self.envelope, &self.body)
    }

    /// Its properties, with the `message_id` that it is sent with; `id` is what the publisher's own begin with.
    fn properties(&self, id: &str) -> BasicProperties {
        let mut properties = self.envelope.properties.clone();
        if properties.message_id.is_none() {
            properties.message_id = Some(message_id(id, self.number).into());
        }
        properties
    }

    /// Sends it, if there is room at once. Returns its sequence number on the channel.
    pub(super) fn send(&self, channel: &Channel, id: &str) -> Result<u64, NotSent> {
        send(channel, &self.envelope, &self.properties(id), &self.body)
    }

    fn into_unconfirmed(self, id: &str) -> Unconfirmed {
        Unconfirmed {
            number: self.number,
            exchange: self.envelope.exchange.to_string(),
            routing_key: self.envelope.routing_key.to_string(),
            properties: self.properties(id),
            mandatory: self.envelope.mandatory,
            body: self.body,
        }
    }
}

/// What a message counts for in the bound of bytes.
pub(super) fn weight(envelope: &Envelope, body: &[u8]) -> usize {
    size_of::<Entry>() + envelope.weight + body.len()
}

/// Sends a message, if there is room at once. Returns its sequence number on the channel.
pub(super) fn send(
    channel: &Channel,
    envelope: &Envelope,
    properties: &BasicProperties,
    body: &[u8],
) -> Result<u64, NotSent> {
    let publish = BasicPublish::from(properties).mandatory(envelope.mandatory);
    let sent = channel.try_send(OutgoingMessage {
        exchange: envelope.exchange.as_bytes(),
        routing_key: envelope.routing_key.as_bytes(),
        body,
        publish: &publish,
    });
    sent.map_err(|error| match error {
        Error::Timeout { .. } => NotSent::NoRoom,
        Error::ShortStringTooLong { .. } | Error::InvalidParameter { .. } => {
            NotSent::Unsendable(error)
        }
        _ => NotSent::Lost(error),
    })
}

/// A publisher's own message id: what all begin with, and the number.
pub(super) fn message_id(id: &str, number: u64) -> String {
    format!("{id}{number}")
}

/// Makes of a number's message id that of the next number.
pub(super) fn increment(text: &mut String) {
    let mut nines = 0;
    while text.as_bytes().last() == Some(&b'9') {
        text.pop();
        nines += 1;
    }
    let digit = match text.as_bytes().last() {
        Some(digit @ b'0'..=b'8') => {
            let next = digit + 1;
            text.pop();
            char::from(next)
        }
        _ => '1',
    };
    text.push(digit);
    for _ in 0..nines {
        text.push('0');
    }
}

/// Why a message was not sent.
pub(super) enum NotSent {
    /// There is no room at present.
    NoRoom,
    /// It cannot be sent at all.
    Unsendable(Error),
    /// The connection is lost, or about to be found so.
    Lost(Error),
}

/// What taking in the broker's outcomes came to.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Progress {
    pub(super) confirmed: usize,
    /// Those of the confirmed that had been refused before.
    pub(super) mended: usize,
    /// Those that were refused for more than the first time.
    pub(super) refused_again: usize,
}

/// Every message that was taken is in exactly one of these, until it is confirmed, reported or handed back.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    /// Sent on the present channel, by their sequence numbers there. What has its outcome leaves a gap until it is in front.
    sent: VecDeque<(u64, Option<Entry>)>,
    /// How many of `sent` are no gaps.
    open: usize,
    /// To be sent again on the next channel, oldest first.
    to_send: VecDeque<Entry>,
    /// Refused by the broker and to be tried again, in the order of their refusals.
    refused: VecDeque<Entry>,
    /// Given up after too many refusals.
    given_up: Vec<Entry>,
    /// Returned by the broker and not reported yet, each with its weight.
    returned: Vec<(u64, ReturnedMessage, usize)>,
    weight: usize,
    /// The memory of bodies that were confirmed, for those to come.
    spare: Vec<Vec<u8>>,
}

/// How many bodies are kept for their memory, and how large each may be.
const SPARE: usize = 1024;
const SPARE_BODY: usize = 2048;

impl InFlight {
    /// A copy of a body.
    pub(super) fn copy(&mut self, body: &[u8]) -> Vec<u8> {
        match self.spare.pop() {
            Some(mut spare) => {
                spare.clear();
                spare.extend_from_slice(body);
                spare
            }
            None => body.to_vec(),
        }
    }

    /// How many messages have no outcome yet.
    pub(super) fn undecided(&self) -> usize {
        self.open + self.to_send.len() + self.refused.len()
    }

    /// How many messages are held, whether they have an outcome or not, and what they weigh.
    pub(super) fn held(&self) -> (usize, usize) {
        let decided = self.given_up.len() + self.returned.len();
        (self.undecided() + decided, self.weight)
    }

    /// Notes a message that is taken and sent for the first time.
    pub(super) fn take(&mut self, sequence: u64, entry: Entry) {
        self.weight += entry.weight();
        self.sent_again(sequence, entry);
    }

    /// Notes that a message which was held is sent.
    pub(super) fn sent_again(&mut self, sequence: u64, entry: Entry) {
        debug_assert!(self.sent.back().is_none_or(|(last, _)| *last < sequence));
        self.sent.push_back((sequence, Some(entry)));
        self.open += 1;
    }

    /// Notes the broker's confirms and refusals of the present channel's messages.
    pub(super) fn note_outcomes(&mut self, outcomes: Outcomes) -> Progress {
        let mut progress = Progress::default();
        for (sequence, message) in outcomes.losses.returned {
            if let Some(entry) = self.remove(sequence) {
                let message = Arc::unwrap_or_clone(message);
                self.returned.push((entry.number, message, entry.weight()));
            }
        }
        for sequence in outcomes.losses.nacked {
            if let Some(mut entry) = self.remove(sequence) {
                entry.refusals += 1;
                progress.refused_again += usize::from(entry.refusals > 1);
                self.refused.push_back(entry);
            }
        }
        for sequence in outcomes.above {
            if let Some(entry) = self.remove(sequence) {
                self.confirmed(entry, &mut progress);
            }
        }
        while self
            .sent
            .front()
            .is_some_and(|(sequence, entry)| *sequence <= outcomes.all_to || entry.is_none())
        {
            if let Some((_, Some(entry))) = self.sent.pop_front() {
                self.open -= 1;
                self.confirmed(entry, &mut progress);
            }
        }
        // One message that stays open must not keep the gaps of all that follow it.
        if self.sent.len() > 2 * self.open + 64 {
            self.sent.retain(|(_, entry)| entry.is_some());
        }
        progress
    }

    fn confirmed(&mut self, entry: Entry, progress: &mut Progress) {
        self.weight -= entry.weight();
        progress.confirmed += 1;
        progress.mended += usize::from(entry.refusals > 0);
        if self.spare.len() < SPARE && entry.body.capacity() <= SPARE_BODY {
            self.spare.push(entry.body);
        }
    }

    fn remove(&mut self, sequence: u64) -> Option<Entry> {
        let at = self.sent.binary_search_by_key(&sequence, |(at, _)| *at);
        let entry = self.sent[at.ok()?].1.take()?;
        self.open -= 1;
        Some(entry)
    }

    /// The numbers of the present channel mean nothing any more, and none of them is open.
    pub(super) fn forget_gaps(&mut self) {
        debug_assert_eq!(self.open, 0);
        self.sent.clear();
    }

    /// The channel is over: all that has no outcome is to be sent again, in the order of publishing.
    pub(super) fn lost(&mut self) {
        let sent = mem::take(&mut self.sent).into_iter();
        let mut all: Vec<Entry> = sent.filter_map(|(_, entry)| entry).collect();
        self.open = 0;
        all.extend(mem::take(&mut self.refused));
        all.extend(mem::take(&mut self.to_send));
        all.sort_unstable_by_key(|entry| entry.number);
        self.to_send = all.into();
    }

    pub(super) fn next_to_send(&mut self) -> Option<Entry> {
        self.to_send.pop_front()
    }

    /// Puts it back in its place: it could not be sent.
    pub(super) fn not_sent(&mut self, entry: Entry) {
        self.to_send.push_front(entry);
    }

    pub(super) fn refused(&self) -> usize {
        self.refused.len()
    }

    pub(super) fn next_refused(&mut self) -> Option<Entry> {
        self.refused.pop_front()
    }

    pub(super) fn still_refused(&mut self, entry: Entry) {
        self.refused.push_front(entry);
    }

    pub(super) fn give_up(&mut self, entry: Entry) {
        self.given_up.push(entry);
    }

    /// Gives up all that is refused now.
    pub(super) fn give_up_refused(&mut self) {
        self.given_up.extend(mem::take(&mut self.refused));
    }

    /// What was returned since this was last asked.
    pub(super) fn take_returned(&mut self) -> Vec<(u64, ReturnedMessage)> {
        let mut returned = Vec::new();
        for (number, message, weight) in self.returned.drain(..) {
            self.weight -= weight;
            returned.push((number, message));
        }
        returned.sort_by_key(|(number, _)| *number);
        returned
    }

    pub(super) fn has_outcomes_to_report(&self) -> bool {
        !self.returned.is_empty() || !self.given_up.is_empty()
    }

    pub(super) fn given_up_numbers(&self) -> Vec<u64> {
        let mut numbers: Vec<u64> = self.given_up.iter().map(|entry| entry.number).collect();
        numbers.sort_unstable();
        numbers
    }

    pub(super) fn undecided_numbers(&self) -> Vec<u64> {
        let sent = self.sent.iter().filter_map(|(_, entry)| entry.as_ref());
        let waiting = self.to_send.iter().chain(&self.refused);
        let mut numbers: Vec<u64> = sent.chain(waiting).map(|entry| entry.number).collect();
        numbers.sort_unstable();
        numbers
    }

    /// Hands back everything that is neither confirmed nor returned, in the order of publishing.
    pub(super) fn take_all(&mut self, id: &str) -> Vec<Unconfirmed> {
        self.lost();
        let mut all = mem::take(&mut self.given_up);
        all.extend(mem::take(&mut self.to_send));
        all.sort_unstable_by_key(|entry| entry.number);
        self.weight -= all.iter().map(|entry| entry.weight()).sum::<usize>();
        let all = all.into_iter();
        all.map(|entry| entry.into_unconfirmed(id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::confirms::Losses;

    fn entry(number: u64) -> Entry {
        Entry {
            number,
            envelope: Arc::default(),
            body: number.to_string().into(),
            refusals: 0,
        }
    }

    /// What so many messages of one digit weigh.
    fn weighs(count: usize) -> usize {
        count * entry(1).weight()
    }

    fn of(numbers: std::ops::RangeInclusive<u64>) -> InFlight {
        let mut flight = InFlight::default();
        for number in numbers {
            flight.take(number, entry(number));
        }
        flight
    }

    fn acked(all_to: u64, above: &[u64]) -> Outcomes {
        Outcomes {
            all_to,
            above: above.to_vec(),
            ..Outcomes::default()
        }
    }

    fn nacked(all_to: u64, nacked: &[u64]) -> Outcomes {
        Outcomes {
            all_to,
            losses: Losses {
                nacked: nacked.to_vec(),
                ..Losses::default()
            },
            ..Outcomes::default()
        }
    }

    #[test]
    fn what_is_confirmed_is_removed_in_any_order() {
        let mut flight = of(1..=6);
        assert_eq!(flight.note_outcomes(acked(1, &[3, 5])).confirmed, 3);
        assert_eq!(flight.undecided_numbers(), [2, 4, 6]);
        assert_eq!(flight.note_outcomes(acked(1, &[3, 5])).confirmed, 0);
        assert_eq!(flight.note_outcomes(acked(5, &[])).confirmed, 2);
        assert_eq!((flight.undecided(), flight.held()), (1, (1, weighs(1))));
    }

    #[test]
    fn after_a_loss_the_rest_goes_out_in_order() {
        let mut flight = of(1..=6);
        flight.note_outcomes(nacked(2, &[1]));
        flight.note_outcomes(acked(2, &[4]));
        flight.lost();
        let mut numbers = Vec::new();
        let mut sequence = 0;
        while let Some(entry) = flight.next_to_send() {
            sequence += 1;
            numbers.push(entry.number);
            flight.sent_again(sequence, entry);
        }
        assert_eq!(numbers, [1, 3, 5, 6]);
        assert_eq!(flight.note_outcomes(acked(4, &[])).confirmed, 4);
        assert_eq!(flight.held(), (0, 0));
    }

    #[test]
    fn what_finds_no_room_stays_in_front() {
        let mut flight = of(1..=3);
        flight.lost();
        for _ in 0..2 {
            let first = flight.next_to_send().unwrap();
            assert_eq!(first.number, 1);
            flight.not_sent(first);
        }
        assert_eq!(flight.undecided_numbers(), [1, 2, 3]);
    }

    #[test]
    fn a_refused_message_is_tried_again_and_counts_when_it_is_mended() {
        let mut flight = of(1..=2);
        assert_eq!(flight.note_outcomes(nacked(1, &[1])).refused_again, 0);
        assert_eq!(flight.refused(), 1);
        let again = flight.next_refused().unwrap();
        assert_eq!((again.number, again.refusals), (1, 1));
        flight.sent_again(3, again);
        let progress = flight.note_outcomes(acked(3, &[]));
        assert_eq!((progress.confirmed, progress.mended), (2, 1));
    }

    #[test]
    fn what_was_returned_is_reported_once_and_not_sent_again() {
        let message = Arc::new(ReturnedMessage {
            method: crate::Return::default(),
            properties: BasicProperties::new(),
            body: Vec::new(),
        });
        let mut flight = of(1..=2);
        let mut outcomes = Outcomes::default();
        outcomes.losses.returned.push((2, message));
        flight.note_outcomes(outcomes);
        flight.lost();
        assert_eq!(flight.undecided_numbers(), [1]);
        assert_eq!(
            flight.held(),
            (2, weighs(2)),
            "it is held until it is reported"
        );
        assert_eq!(flight.take_returned()[0].0, 2);
        assert!(flight.take_returned().is_empty());
        assert_eq!(flight.held(), (1, weighs(1)));
    }

    #[test]
    fn everything_is_handed_back_whole() {
        let mut flight = of(1..=5);
        flight.note_outcomes(nacked(2, &[1, 2]));
        let refused = flight.next_refused().unwrap();
        flight.give_up(refused);
        assert_eq!(flight.given_up_numbers(), [1]);
        let all = flight.take_all("id-");
        let bodies: Vec<&[u8]> = all.iter().map(|message| &message.body[..]).collect();
        assert_eq!(bodies, [b"1", b"2", b"3", b"4", b"5"]);
        assert_eq!((flight.held(), flight.undecided()), ((0, 0), 0));
        assert_eq!(flight.note_outcomes(acked(5, &[])), Progress::default());
    }

    #[test]
    fn message_ids_count_up() {
        let mut text = message_id("ab9-", 0);
        for number in 0..12_345 {
            assert_eq!(text, format!("ab9-{number}"));
            increment(&mut text);
        }
        let mut text = message_id("", 999);
        increment(&mut text);
        assert_eq!(text, "1000");
    }

    #[test]
    fn one_open_message_does_not_keep_the_gaps_of_the_others() {
        let mut flight = of(1..=1);
        for number in 2..10_000 {
            flight.take(number, entry(number));
            flight.note_outcomes(acked(0, &[number]));
        }
        assert_eq!(flight.undecided(), 1);
        assert!(flight.sent.len() < 100);
    }
}
