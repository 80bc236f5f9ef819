//! Which published messages the broker has confirmed, refused or returned (RabbitMQ's `confirm` extension).

use std::collections::VecDeque;
use std::sync::Arc;

use crate::ReturnedMessage;

/// What became of the messages of one channel in confirm mode. Messages are numbered from 1 in the order of publishing.
#[derive(Debug, Default)]
pub(crate) struct Confirms {
    /// Every message up to this one is settled.
    all_to: u64,
    /// Those above it, as far as any is settled.
    above: VecDeque<State>,
    /// Refused messages up to `all_to`, in order.
    nacked: Vec<u64>,
    /// In the order of their numbers.
    returned: Vec<(u64, Arc<ReturnedMessage>)>,
    /// Runs of messages that nobody will ask about.
    forgotten: Vec<(u64, u64)>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Open,
    Settled,
    /// And nobody was told.
    Nacked,
}

/// What became of one message.
#[derive(Debug, PartialEq)]
pub(crate) enum Outcome {
    Acked,
    Returned(Vec<(u64, Arc<ReturnedMessage>)>),
    Nacked(Vec<(u64, Arc<ReturnedMessage>)>),
}

impl Confirms {
    /// The broker's ack or nack. Answers how many messages this settled, or `None` if one of them was never published.
    /// A tag of 0 with `multiple` stands for all messages published so far (specification, `basic.ack`).
    pub(crate) fn settle(
        &mut self,
        tag: u64,
        multiple: bool,
        nack: bool,
        published: u64,
    ) -> Option<u64> {
        let last = if tag == 0 && multiple { published } else { tag };
        if last > published || (last == 0 && !multiple) {
            return None;
        }
        let state = if nack { State::Nacked } else { State::Settled };
        let mut count = 0;
        if multiple {
            while self.all_to < last {
                match self.above.pop_front() {
                    // Acknowledged runs cost nothing per message.
                    None if !nack => {
                        count += last - self.all_to;
                        self.all_to = last;
                    }
                    None | Some(State::Open) => {
                        count += 1;
                        self.advance(state);
                    }
                    Some(known) => self.advance(known),
                }
            }
        } else if last == self.all_to + 1 && self.above.is_empty() {
            count = 1;
            self.advance(state);
        } else if let Some(place) = self.place(last) {
            if self.above.len() <= place {
                self.above.resize(place + 1, State::Open);
            }
            if self.above[place] == State::Open {
                count = 1;
                self.above[place] = state;
            }
        }
        while let Some(state) = self.above.front().copied() {
            if state == State::Open {
                break;
            }
            self.above.pop_front();
            self.advance(state);
        }
        Some(count)
    }

    /// The next message is settled.
    fn advance(&mut self, state: State) {
        self.all_to += 1;
        if state == State::Nacked {
            self.nacked.push(self.all_to);
        }
    }

    /// Where a message is in `above`, or would be.
    fn place(&self, sequence: u64) -> Option<usize> {
        sequence
            .checked_sub(self.all_to + 1)
            .map(|place| place as usize)
    }

    fn state(&self, sequence: u64) -> State {
        match self.place(sequence) {
            None => State::Settled,
            Some(place) => self.above.get(place).copied().unwrap_or(State::Open),
        }
    }

    pub(crate) fn add_returned(&mut self, sequence: u64, message: Arc<ReturnedMessage>) {
        // They come in order, but for what a broker might invent.
        let place = self.returned.partition_point(|(at, _)| *at <= sequence);
        self.returned.insert(place, (sequence, message));
    }

    pub(crate) fn is_settled(&self, sequence: u64) -> bool {
        self.state(sequence) != State::Open
    }

    /// Takes out what became of a message, once it is settled.
    pub(crate) fn take(&mut self, sequence: u64) -> Option<Outcome> {
        if !self.is_settled(sequence) {
            return None;
        }
        let (mut returned, mut nacked) = (Vec::new(), Vec::new());
        self.take_losses(sequence, sequence, &mut returned, &mut nacked);
        Some(if !nacked.is_empty() {
            Outcome::Nacked(returned)
        } else if !returned.is_empty() {
            Outcome::Returned(returned)
        } else {
            Outcome::Acked
        })
    }

    /// Nobody will ask what became of `first..=last`: it is not kept, neither what is known nor what is still to come.
    pub(crate) fn forget(&mut self, first: u64, last: u64) {
        self.forgotten.push((first, last));
        self.drop_forgotten();
    }

    /// Drops what has become known of forgotten messages.
    pub(crate) fn drop_forgotten(&mut self) {
        for (first, last) in std::mem::take(&mut self.forgotten) {
            self.take_losses(first, last, &mut Vec::new(), &mut Vec::new());
            if self.unsettled(first, last) > 0 {
                self.forgotten.push((first, last));
            }
        }
    }

    /// Takes out what was returned or refused, and is settled, among `first..=last`.
    pub(crate) fn take_losses(
        &mut self,
        first: u64,
        last: u64,
        returned: &mut Vec<(u64, Arc<ReturnedMessage>)>,
        nacked: &mut Vec<u64>,
    ) {
        // Both lists are in order. They may be long, and mostly there is nothing in them of what is asked for.
        let asked = first..=last;
        let from = self.nacked.partition_point(|at| *at < first);
        if self.nacked.get(from).is_some_and(|at| asked.contains(at)) {
            for at in std::mem::take(&mut self.nacked) {
                if asked.contains(&at) {
                    nacked.push(at);
                } else {
                    self.nacked.push(at);
                }
            }
        }
        for sequence in first.max(self.all_to + 1)..=last.min(self.all_to + self.above.len() as u64)
        {
            let place = (sequence - self.all_to - 1) as usize;
            if self.above[place] == State::Nacked {
                self.above[place] = State::Settled;
                nacked.push(sequence);
            }
        }
        let from = self.returned.partition_point(|(at, _)| *at < first);
        let next = self.returned.get(from);
        if next.is_some_and(|(at, _)| asked.contains(at)) {
            for (at, message) in std::mem::take(&mut self.returned) {
                if asked.contains(&at) && self.is_settled(at) {
                    returned.push((at, message));
                } else {
                    self.returned.push((at, message));
                }
            }
        }
    }

    /// How many of `first..=last` are not settled.
    pub(crate) fn unsettled(&self, first: u64, last: u64) -> usize {
        let first = first.max(self.all_to + 1);
        if first > last {
            return 0;
        }
        let skipped = (first - self.all_to - 1) as usize;
        let asked = (last - first + 1) as usize;
        let known = self.above.iter().skip(skipped).take(asked);
        asked - known.filter(|state| **state != State::Open).count()
    }

    /// Those of `first..=last` that are not settled.
    pub(crate) fn pending(&self, first: u64, last: u64) -> impl Iterator<Item = u64> + '_ {
        (first.max(self.all_to + 1)..=last).filter(|sequence| !self.is_settled(*sequence))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forgotten_is_not_kept() {
        let mut confirms = Confirms::default();
        confirms.settle(1, false, true, 4);
        confirms.forget(1, 3);
        confirms.settle(3, false, true, 4);
        confirms.drop_forgotten();
        confirms.settle(4, true, true, 4);
        confirms.drop_forgotten();
        assert_eq!(confirms.nacked, [4]);
        assert!(confirms.forgotten.is_empty());
    }

    #[test]
    fn single_acks_out_of_order_close_the_gap() {
        let mut confirms = Confirms::default();
        assert_eq!(confirms.settle(3, false, false, 5), Some(1));
        assert_eq!(confirms.settle(2, false, false, 5), Some(1));
        assert!(!confirms.is_settled(1));
        assert_eq!(confirms.unsettled(1, 5), 3);
        assert_eq!(confirms.settle(1, false, false, 5), Some(1));
        assert_eq!(confirms.all_to, 3);
        assert!(confirms.above.is_empty());
        assert_eq!(confirms.pending(1, 5).collect::<Vec<_>>(), [4, 5]);
    }

    #[test]
    fn multiple_counts_only_what_was_open() {
        let mut confirms = Confirms::default();
        confirms.settle(2, false, true, 9);
        assert_eq!(confirms.settle(4, true, false, 9), Some(3));
        assert_eq!(confirms.settle(4, true, false, 9), Some(0));
        assert_eq!(confirms.take(2), Some(Outcome::Nacked(Vec::new())));
        assert_eq!(confirms.take(3), Some(Outcome::Acked));
        assert_eq!(confirms.take(5), None);
    }

    #[test]
    fn multiple_nack_spares_what_was_acked_before() {
        let mut confirms = Confirms::default();
        confirms.settle(2, false, false, 3);
        assert_eq!(confirms.settle(3, true, true, 3), Some(2));
        let (mut returned, mut nacked) = (Vec::new(), Vec::new());
        confirms.take_losses(1, 3, &mut returned, &mut nacked);
        assert_eq!(nacked, [1, 3]);
        confirms.take_losses(1, 3, &mut returned, &mut nacked);
        assert_eq!(nacked, [1, 3], "each loss is told once");
    }

    #[test]
    fn acks_in_any_order_take_little_time_and_none_is_lost() {
        const COUNT: u64 = 100_000;
        let mut confirms = Confirms::default();
        // 7919 is prime, so each number comes once.
        for n in 0..COUNT {
            let sequence = n * 7919 % COUNT + 1;
            let settled = confirms.settle(sequence, false, sequence.is_multiple_of(1000), COUNT);
            assert_eq!(settled, Some(1));
            assert_eq!(confirms.settle(sequence, false, false, COUNT), Some(0));
        }
        assert_eq!((confirms.all_to, confirms.above.len()), (COUNT, 0));
        let (mut returned, mut nacked) = (Vec::new(), Vec::new());
        confirms.take_losses(1, COUNT, &mut returned, &mut nacked);
        assert!(nacked.iter().copied().eq((1..=100).map(|n| n * 1000)));
    }

    /// One that publishes and waits must not pay for what another has not asked about yet.
    #[test]
    fn what_is_kept_for_others_costs_little_time() {
        const COUNT: u64 = 100_000;
        let mut confirms = Confirms::default();
        for sequence in 1..=2 * COUNT {
            let lost = sequence <= COUNT;
            confirms.settle(sequence, false, lost, 2 * COUNT);
            let outcome = (!lost).then(|| confirms.take(sequence));
            assert!(matches!(outcome, None | Some(Some(Outcome::Acked))));
        }
        let (mut returned, mut nacked) = (Vec::new(), Vec::new());
        confirms.take_losses(1, 2 * COUNT, &mut returned, &mut nacked);
        assert!(nacked.iter().copied().eq(1..=COUNT));
    }

    #[test]
    fn a_loss_above_an_open_message_is_told_once() {
        let mut confirms = Confirms::default();
        confirms.settle(3, false, true, 5);
        confirms.settle(5, true, false, 5);
        assert_eq!(confirms.take(3), Some(Outcome::Nacked(Vec::new())));

        let mut confirms = Confirms::default();
        confirms.settle(3, false, true, 5);
        assert_eq!(confirms.take(3), Some(Outcome::Nacked(Vec::new())));
        confirms.settle(0, true, false, 5);
        let (mut returned, mut nacked) = (Vec::new(), Vec::new());
        confirms.take_losses(1, 5, &mut returned, &mut nacked);
        assert!(nacked.is_empty());
        assert_eq!(confirms.unsettled(1, 5), 0);
    }

    #[test]
    fn a_tag_of_zero_means_all_and_tags_never_published_are_refused() {
        let mut confirms = Confirms::default();
        assert_eq!(confirms.settle(4, false, false, 3), None);
        assert_eq!(confirms.settle(0, false, false, 3), None);
        assert_eq!(confirms.settle(0, true, false, 3), Some(3));
    }
}
