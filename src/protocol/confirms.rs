//! Which published messages the broker has confirmed, refused or returned (RabbitMQ's `confirm` extension).

use std::collections::{BTreeMap, BTreeSet};

use crate::ReturnedMessage;

/// What became of the messages of one channel in confirm mode. Messages are numbered from 1 in the order of publishing.
#[derive(Debug, Default)]
pub(crate) struct Confirms {
    /// Every message up to this one is settled.
    all_to: u64,
    /// Settled messages above it.
    above: BTreeSet<u64>,
    nacked: BTreeSet<u64>,
    returned: BTreeMap<u64, Vec<ReturnedMessage>>,
}

/// What became of one message.
#[derive(Debug, PartialEq)]
pub(crate) enum Outcome {
    Acked,
    Returned(Vec<ReturnedMessage>),
    Nacked(Vec<ReturnedMessage>),
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
        let mut count = 0;
        if multiple {
            // Refused messages are few; acknowledged runs must cost nothing per message.
            if nack {
                for n in self.all_to + 1..=last {
                    if !self.above.contains(&n) {
                        self.nacked.insert(n);
                    }
                }
            }
            if last > self.all_to {
                let above = self.above.split_off(&(last + 1));
                count = last - self.all_to - self.above.len() as u64;
                self.above = above;
                self.all_to = last;
            }
        } else if last > self.all_to && !self.above.contains(&last) {
            if nack {
                self.nacked.insert(last);
            }
            count = 1;
            if last == self.all_to + 1 {
                self.all_to = last;
            } else {
                self.above.insert(last);
            }
        }
        while self.above.first() == Some(&(self.all_to + 1)) {
            self.above.pop_first();
            self.all_to += 1;
        }
        Some(count)
    }

    pub(crate) fn add_returned(&mut self, sequence: u64, message: ReturnedMessage) {
        self.returned.entry(sequence).or_default().push(message);
    }

    pub(crate) fn is_settled(&self, sequence: u64) -> bool {
        sequence <= self.all_to || self.above.contains(&sequence)
    }

    /// Takes out what became of a message, once it is settled.
    pub(crate) fn take(&mut self, sequence: u64) -> Option<Outcome> {
        if !self.is_settled(sequence) {
            return None;
        }
        let returned = self.returned.remove(&sequence);
        Some(match (self.nacked.remove(&sequence), returned) {
            (true, returned) => Outcome::Nacked(returned.unwrap_or_default()),
            (false, Some(returned)) => Outcome::Returned(returned),
            (false, None) => Outcome::Acked,
        })
    }

    /// Takes out what was returned or refused, and is settled, among `first..=last`.
    pub(crate) fn take_losses(
        &mut self,
        first: u64,
        last: u64,
        returned: &mut Vec<(u64, ReturnedMessage)>,
        nacked: &mut Vec<u64>,
    ) {
        let lost: Vec<u64> = self.nacked.range(first..=last).copied().collect();
        for sequence in lost {
            self.nacked.remove(&sequence);
            nacked.push(sequence);
        }
        let back: Vec<u64> = self
            .returned
            .range(first..=last)
            .map(|(sequence, _)| *sequence)
            .collect();
        for sequence in back
            .into_iter()
            .filter(|sequence| self.is_settled(*sequence))
            .collect::<Vec<_>>()
        {
            for message in self.returned.remove(&sequence).unwrap_or_default() {
                returned.push((sequence, message));
            }
        }
    }

    /// How many of `first..=last` are not settled.
    pub(crate) fn unsettled(&self, first: u64, last: u64) -> usize {
        let first = first.max(self.all_to + 1);
        if first > last {
            return 0;
        }
        (last - first + 1) as usize - self.above.range(first..=last).count()
    }

    /// Those of `first..=last` that are not settled.
    pub(crate) fn pending(&self, first: u64, last: u64) -> impl Iterator<Item = u64> + '_ {
        (first.max(self.all_to + 1)..=last).filter(|sequence| !self.above.contains(sequence))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_tag_of_zero_means_all_and_tags_never_published_are_refused() {
        let mut confirms = Confirms::default();
        assert_eq!(confirms.settle(4, false, false, 3), None);
        assert_eq!(confirms.settle(0, false, false, 3), None);
        assert_eq!(confirms.settle(0, true, false, 3), Some(3));
    }
}
