//! Which published messages the broker has confirmed, refused or returned (RabbitMQ's `confirm` extension).

use std::sync::Arc;

use crate::ReturnedMessage;

/// What became of the messages of one channel in confirm mode. Messages are numbered from 1 in the order of publishing.
#[derive(Debug, Default)]
pub(crate) struct Confirms {
    /// The broker has confirmed or refused every message up to this one.
    all_to: u64,
    /// Those above it, as far as any is confirmed or refused.
    above: Vec<State>,
    /// Refused messages up to `all_to`, in order.
    nacked: Vec<u64>,
    /// In the order of their numbers.
    returned: Vec<(u64, Arc<ReturnedMessage>)>,
    /// How many bytes of memory those take.
    pub(crate) held_returns: usize,
    /// Runs of messages whose outcome is not asked for any more.
    forgotten: Vec<(u64, u64)>,
    /// Something was refused or returned since `outcomes` was last called.
    pub(crate) has_losses: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Unconfirmed,
    /// Or refused, and that has been reported.
    Confirmed,
    /// Refused, and that has not been reported.
    Nacked,
}

/// What the broker says of published messages: `basic.ack` or `basic.nack`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Confirmation {
    /// The number of a message. 0 with `multiple` stands for all that were published so far (specification, `basic.ack`).
    pub(crate) tag: u64,
    /// Whether it is about all messages before this one, too.
    pub(crate) multiple: bool,
    /// Whether the broker refuses them.
    pub(crate) is_nack: bool,
}

/// What the broker did not take.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Losses {
    pub(crate) returned: Vec<(u64, Arc<ReturnedMessage>)>,
    pub(crate) nacked: Vec<u64>,
    /// Neither confirmed nor refused nor returned yet.
    pub(crate) pending: Vec<u64>,
}

/// What became of a channel's messages, for a publisher that has the channel to itself and keeps its own book.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Outcomes {
    /// Every message up to this one has been confirmed or refused.
    pub(crate) all_to: u64,
    /// So have these above it.
    pub(crate) above: Vec<u64>,
    /// What was refused or returned and is reported for the first time.
    pub(crate) losses: Losses,
}

impl Confirms {
    /// What is known of all messages; what was refused or returned is given once.
    pub(crate) fn outcomes(&mut self) -> Outcomes {
        let mut losses = Losses::default();
        self.take_losses(1, u64::MAX, &mut losses);
        self.has_losses = false;
        let above = (self.all_to + 1..).zip(&self.above);
        Outcomes {
            all_to: self.all_to,
            above: above
                .filter(|(_, state)| **state != State::Unconfirmed)
                .map(|(sequence, _)| sequence)
                .collect(),
            losses,
        }
    }

    /// Records what the broker says. Returns how many messages it was the first to confirm or refuse, or `None` if one of them
    /// was never published.
    pub(crate) fn record(&mut self, confirmation: Confirmation, published: u64) -> Option<u64> {
        let Confirmation {
            tag,
            multiple,
            is_nack,
        } = confirmation;
        let last = if tag == 0 && multiple { published } else { tag };
        if last > published || (last == 0 && !multiple) {
            return None;
        }
        let Some(index) = self.index(last) else {
            return Some(0);
        };
        self.has_losses |= is_nack;
        let mut count = 0;
        if self.above.is_empty() && !is_nack && (multiple || index == 0) {
            // Acknowledged runs cost nothing per message.
            count = last - self.all_to;
            self.all_to = last;
        } else {
            if self.above.len() <= index {
                self.above.resize(index + 1, State::Unconfirmed);
            }
            let first = if multiple { 0 } else { index };
            let outcome = if is_nack {
                State::Nacked
            } else {
                State::Confirmed
            };
            for state in &mut self.above[first..=index] {
                if *state == State::Unconfirmed {
                    *state = outcome;
                    count += 1;
                }
            }
            let open = self
                .above
                .iter()
                .position(|state| *state == State::Unconfirmed);
            for state in self.above.drain(..open.unwrap_or(self.above.len())) {
                self.all_to += 1;
                if state == State::Nacked && !is_in_runs(&self.forgotten, self.all_to) {
                    self.nacked.push(self.all_to);
                }
            }
        }
        let all_to = self.all_to;
        self.forgotten.retain(|(_, last)| *last > all_to);
        Some(count)
    }

    /// Where a message is in `above`, or would be.
    fn index(&self, sequence: u64) -> Option<usize> {
        sequence
            .checked_sub(self.all_to + 1)
            .map(|index| index as usize)
    }

    fn state(&self, sequence: u64) -> State {
        match self.index(sequence) {
            None => State::Confirmed,
            Some(index) => self.above.get(index).copied().unwrap_or(State::Unconfirmed),
        }
    }

    pub(crate) fn is_confirmed(&self, sequence: u64) -> bool {
        self.state(sequence) != State::Unconfirmed
    }

    pub(crate) fn add_returned(&mut self, sequence: u64, message: Arc<ReturnedMessage>) {
        if !is_in_runs(&self.forgotten, sequence) {
            // They come in order, but for what a broker might invent.
            self.has_losses = true;
            let index = self.returned.partition_point(|(at, _)| *at <= sequence);
            self.held_returns += message.size();
            self.returned.insert(index, (sequence, message));
        }
    }

    /// Takes out what became of a message, once that is known.
    pub(crate) fn take(&mut self, sequence: u64) -> Option<Losses> {
        let mut losses = Losses::default();
        self.is_confirmed(sequence).then(|| {
            self.take_losses(sequence, sequence, &mut losses);
            losses
        })
    }

    /// Takes out what became of `first..=last`, which is not asked for again: what is still to come is not kept.
    pub(crate) fn take_for_good(&mut self, first: u64, last: u64, losses: &mut Losses) {
        self.take_losses(first, last, losses);
        for sequence in first.max(self.all_to + 1)..=last {
            let returned = &losses.returned;
            let is_returned = returned.binary_search_by_key(&sequence, |(at, _)| *at);
            if !self.is_confirmed(sequence) && is_returned.is_err() {
                losses.pending.push(sequence);
            }
        }
        if last > self.all_to {
            self.forgotten.push((first, last));
        }
    }

    fn take_losses(&mut self, first: u64, last: u64, losses: &mut Losses) {
        // Both lists are in order. They may be long, and mostly there is nothing in them of what is asked for.
        let from = self.nacked.partition_point(|at| *at < first);
        let to = self.nacked.partition_point(|at| *at <= last);
        losses.nacked.extend(self.nacked.drain(from..to));
        for sequence in first.max(self.all_to + 1)..=last {
            let index = (sequence - self.all_to - 1) as usize;
            let Some(state) = self.above.get_mut(index) else {
                break;
            };
            if *state == State::Nacked {
                *state = State::Confirmed;
                losses.nacked.push(sequence);
            }
        }
        let from = self.returned.partition_point(|(at, _)| *at < first);
        let to = self.returned.partition_point(|(at, _)| *at <= last);
        for (sequence, message) in self.returned.drain(from..to) {
            self.held_returns -= message.size();
            losses.returned.push((sequence, message));
        }
    }

    /// How many of `first..=last` are neither confirmed nor refused.
    pub(crate) fn unconfirmed(&self, first: u64, last: u64) -> usize {
        let first = first.max(self.all_to + 1);
        if first > last {
            return 0;
        }
        let skipped = (first - self.all_to - 1) as usize;
        let asked = (last - first + 1) as usize;
        let known = self.above.iter().skip(skipped).take(asked);
        asked - known.filter(|state| **state != State::Unconfirmed).count()
    }
}

/// Whether one of these runs, each from its first number to its last, has this number.
fn is_in_runs(runs: &[(u64, u64)], sequence: u64) -> bool {
    let mut runs = runs.iter();
    runs.any(|(first, last)| (*first..=*last).contains(&sequence))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(tag: u64) -> Confirmation {
        Confirmation {
            tag,
            multiple: false,
            is_nack: false,
        }
    }

    /// All up to this one.
    fn ack_to(tag: u64) -> Confirmation {
        Confirmation {
            multiple: true,
            ..ack(tag)
        }
    }

    fn nack(tag: u64) -> Confirmation {
        Confirmation {
            is_nack: true,
            ..ack(tag)
        }
    }

    fn nack_to(tag: u64) -> Confirmation {
        Confirmation {
            is_nack: true,
            ..ack_to(tag)
        }
    }

    fn nacked(sequence: u64) -> Losses {
        Losses {
            nacked: vec![sequence],
            ..Losses::default()
        }
    }

    fn returned() -> Arc<ReturnedMessage> {
        Arc::new(ReturnedMessage {
            method: crate::Return::default(),
            properties: crate::BasicProperties::new(),
            body: Vec::new(),
        })
    }

    #[test]
    fn what_is_forgotten_is_not_kept() {
        let mut confirms = Confirms::default();
        confirms.record(nack(1), 4);
        let mut losses = Losses::default();
        confirms.take_for_good(1, 3, &mut losses);
        assert_eq!((losses.nacked, losses.pending), (vec![1], vec![2, 3]));
        confirms.add_returned(2, returned());
        confirms.record(nack(3), 4);
        confirms.record(nack_to(4), 4);
        assert_eq!((confirms.nacked, confirms.returned), (vec![4], vec![]));
        assert!(confirms.forgotten.is_empty());
    }

    /// Not what was confirmed out of order, and nothing that was not asked for.
    #[test]
    fn what_is_pending_is_what_was_asked_for_and_has_not_come() {
        for (first, last, pending) in [
            (1, 6, vec![2, 3, 5, 6]),
            (3, 5, vec![3, 5]),
            (4, 4, vec![]),
            (1, 1, vec![]),
        ] {
            let mut confirms = Confirms::default();
            confirms.record(ack(1), 8);
            confirms.record(ack(4), 8);
            let mut losses = Losses::default();
            confirms.take_for_good(first, last, &mut losses);
            assert_eq!(losses.pending, pending, "{first} to {last}");
        }
    }

    #[test]
    fn what_was_returned_is_reported_before_it_is_confirmed_too() {
        let mut confirms = Confirms::default();
        confirms.add_returned(2, returned());
        assert!(confirms.has_losses);
        assert_eq!(confirms.take(2), None);
        let mut losses = Losses::default();
        confirms.take_for_good(1, 2, &mut losses);
        assert_eq!(losses.returned, [(2, returned())]);
        assert_eq!(losses.pending, [1]);
        assert_eq!(confirms.record(ack_to(2), 2), Some(2));
        assert!(confirms.returned.is_empty() && confirms.forgotten.is_empty());
    }

    #[test]
    fn acks_in_a_row_count_what_they_confirm() {
        let mut confirms = Confirms::default();
        assert_eq!(confirms.record(ack_to(2), 9), Some(2));
        assert_eq!(confirms.record(ack(3), 9), Some(1));
        assert_eq!(confirms.record(ack_to(7), 9), Some(4));
        assert_eq!((confirms.all_to, confirms.above.len()), (7, 0));
        assert!(!confirms.has_losses);
        confirms.record(nack(8), 9);
        assert!(confirms.has_losses);
        confirms.record(ack(9), 9);
        assert!(confirms.has_losses, "until it is asked for");
    }

    #[test]
    fn outcomes_report_each_loss_once() {
        let mut confirms = Confirms::default();
        confirms.record(ack_to(2), 9);
        confirms.record(nack(4), 9);
        confirms.record(ack(6), 9);
        confirms.add_returned(8, returned());
        assert!(confirms.has_losses);
        let outcomes = confirms.outcomes();
        assert_eq!((outcomes.all_to, outcomes.above), (2, vec![4, 6]));
        assert_eq!(outcomes.losses.nacked, [4]);
        assert_eq!(outcomes.losses.returned, [(8, returned())]);
        assert!(!confirms.has_losses);
        confirms.record(nack(3), 9);
        let outcomes = confirms.outcomes();
        assert_eq!((outcomes.all_to, outcomes.above), (4, vec![6]));
        assert_eq!(outcomes.losses.nacked, [3]);
        assert_eq!(outcomes.losses.returned, []);
        confirms.record(ack_to(0), 9);
        let all = Outcomes {
            all_to: 9,
            ..Outcomes::default()
        };
        assert_eq!(confirms.outcomes(), all);
    }

    #[test]
    fn what_was_returned_is_taken_once_and_no_longer_held() {
        let mut confirms = Confirms::default();
        let size = returned().size();
        for sequence in [2, 3, 5] {
            confirms.add_returned(sequence, returned());
        }
        assert_eq!(confirms.held_returns, 3 * size);
        let mut take = |first, last, left| {
            let mut losses = Losses::default();
            confirms.take_for_good(first, last, &mut losses);
            assert_eq!(confirms.held_returns, left * size);
            let taken = losses.returned.into_iter().map(|(sequence, _)| sequence);
            taken.collect::<Vec<u64>>()
        };
        assert_eq!(take(3, 4, 2), [3]);
        assert_eq!(take(1, 2, 1), [2]);
        assert_eq!(take(3, 5, 0), [5]);
    }

    #[test]
    fn what_is_unconfirmed_is_counted_from_any_message_on() {
        let mut confirms = Confirms::default();
        confirms.record(ack(1), 9);
        confirms.record(ack(4), 9);
        for (first, last, unconfirmed) in [
            (1, 9, 7),
            (3, 5, 2),
            (4, 5, 1),
            (4, 4, 0),
            (5, 5, 1),
            (5, 4, 0),
        ] {
            let count = confirms.unconfirmed(first, last);
            assert_eq!(count, unconfirmed, "{first} to {last}");
        }
    }

    #[test]
    fn single_acks_out_of_order_close_the_gap() {
        let mut confirms = Confirms::default();
        assert_eq!(confirms.record(ack(3), 5), Some(1));
        assert_eq!(confirms.record(ack(2), 5), Some(1));
        assert!(!confirms.is_confirmed(1));
        assert_eq!(confirms.unconfirmed(1, 5), 3);
        assert_eq!(confirms.record(ack(1), 5), Some(1));
        assert_eq!(confirms.all_to, 3);
        assert!(confirms.above.is_empty());
    }

    #[test]
    fn multiple_counts_only_what_was_unconfirmed() {
        let mut confirms = Confirms::default();
        confirms.record(nack(2), 9);
        assert_eq!(confirms.record(ack_to(4), 9), Some(3));
        assert_eq!(confirms.record(ack_to(4), 9), Some(0));
        assert_eq!(confirms.take(2), Some(nacked(2)));
        assert_eq!(confirms.take(3), Some(Losses::default()));
        assert_eq!(confirms.take(5), None);
    }

    #[test]
    fn multiple_nack_spares_what_was_acked_before() {
        let mut confirms = Confirms::default();
        confirms.record(ack(2), 3);
        assert_eq!(confirms.record(nack_to(3), 3), Some(2));
        let mut losses = Losses::default();
        confirms.take_losses(1, 3, &mut losses);
        assert_eq!(losses.nacked, [1, 3]);
        confirms.take_losses(1, 3, &mut losses);
        assert_eq!(losses.nacked, [1, 3], "each loss is reported once");
    }

    #[test]
    fn acks_in_any_order_take_little_time_and_none_is_lost() {
        const COUNT: u64 = 100_000;
        let mut confirms = Confirms::default();
        // 7919 is prime, so each number comes once.
        for n in 0..COUNT {
            let sequence = n * 7919 % COUNT + 1;
            let count = confirms.record(
                Confirmation {
                    is_nack: sequence.is_multiple_of(1000),
                    ..ack(sequence)
                },
                COUNT,
            );
            assert_eq!(count, Some(1));
            assert_eq!(confirms.record(ack(sequence), COUNT), Some(0));
        }
        assert_eq!((confirms.all_to, confirms.above.len()), (COUNT, 0));
        let mut losses = Losses::default();
        confirms.take_losses(1, COUNT, &mut losses);
        assert!(losses
            .nacked
            .iter()
            .copied()
            .eq((1..=100).map(|n| n * 1000)));
    }

    /// One that publishes and waits must not pay for what another has not asked for yet.
    #[test]
    fn what_is_kept_for_others_costs_little_time() {
        const COUNT: u64 = 100_000;
        let mut confirms = Confirms::default();
        for sequence in 1..=2 * COUNT {
            let lost = sequence <= COUNT;
            confirms.record(
                Confirmation {
                    is_nack: lost,
                    ..ack(sequence)
                },
                2 * COUNT,
            );
            let outcome = (!lost).then(|| confirms.take(sequence));
            assert!(outcome.is_none_or(|outcome| outcome == Some(Losses::default())));
        }
        let mut losses = Losses::default();
        confirms.take_losses(1, 2 * COUNT, &mut losses);
        assert!(losses.nacked.iter().copied().eq(1..=COUNT));
    }

    #[test]
    fn a_loss_above_an_unconfirmed_message_is_reported_once() {
        let mut confirms = Confirms::default();
        confirms.record(nack(3), 5);
        confirms.record(ack_to(5), 5);
        assert_eq!(confirms.take(3), Some(nacked(3)));

        let mut confirms = Confirms::default();
        confirms.record(nack(3), 5);
        assert_eq!(confirms.take(3), Some(nacked(3)));
        confirms.record(ack_to(0), 5);
        let mut losses = Losses::default();
        confirms.take_losses(1, 5, &mut losses);
        assert!(losses.nacked.is_empty());
        assert_eq!(confirms.unconfirmed(1, 5), 0);
    }

    #[test]
    fn a_tag_of_zero_means_all_and_tags_never_published_are_refused() {
        let mut confirms = Confirms::default();
        assert_eq!(confirms.record(ack(4), 3), None);
        assert_eq!(confirms.record(ack(0), 3), None);
        assert_eq!(confirms.record(ack_to(0), 3), Some(3));
    }
}
