//! One queue: its messages, its consumers, and whose turn it is.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::arguments::{Overflow, QueueSettings};
use super::text::Text;
use crate::FieldTable;

/// A message as it was published, shared by the queues that it is in.
pub(super) struct Message {
    pub(super) exchange: Text,
    /// The routing key, and behind it those of the header `CC` (and `BCC`, which only routing sees).
    pub(super) keys: Vec<Text>,
    /// How many of the keys come from the header `BCC`; they are last.
    pub(super) blind_keys: usize,
    /// As they stand in the content header.
    pub(super) properties: Vec<u8>,
    pub(super) body: Vec<u8>,
    pub(super) persistent: bool,
    pub(super) priority: u8,
    pub(super) time_to_live: Option<Duration>,
    /// Dead letters: how the message got here, the last death first.
    pub(super) deaths: Vec<Death>,
    /// Why, from which queue and with which exchange it died first.
    pub(super) first_death: Option<(Reason, Text, Text)>,
    /// It died after a failed delivery; see [`Stored::failed`].
    pub(super) failed: bool,
    /// A test withholds its confirm, so a restart loses it.
    pub(super) unconfirmed: bool,
}

/// Why messages left a queue without being acknowledged, how often, and from where.
#[derive(Debug, Clone)]
pub(super) struct Death {
    pub(super) queue: Text,
    pub(super) reason: Reason,
    pub(super) count: i64,
    pub(super) seconds: u64,
    pub(super) exchange: Text,
    pub(super) keys: Vec<Text>,
    pub(super) time_to_live: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    Rejected,
    Expired,
    MaxLength,
}

impl Reason {
    pub(super) fn name(self) -> &'static str {
        match self {
            Reason::Rejected => "rejected",
            Reason::Expired => "expired",
            Reason::MaxLength => "maxlen",
        }
    }
}

/// Where a message stands: the higher priority first, then the older one. A message that goes back goes where it stood.
pub(super) type Place = (u8, u64);

/// A message in a queue.
#[derive(Clone)]
pub(super) struct Stored {
    pub(super) message: Arc<Message>,
    pub(super) place: Place,
    pub(super) redelivered: bool,
    /// A delivery of it has failed, here or where it died before. RabbitMQ 4.3 counts such deliveries for AMQP 1.0, takes the
    /// count along with a dead letter, and calls that redelivered then, though this queue never delivered it.
    pub(super) failed: bool,
    pub(super) expires: Option<Instant>,
    /// That of its queue when it was put there.
    pub(super) generation: u64,
}

pub(super) struct Consumer {
    pub(super) connection: u64,
    pub(super) channel: u16,
    pub(super) tag: Text,
    pub(super) no_ack: bool,
    pub(super) exclusive: bool,
    /// How many unacknowledged messages it may have; 0 is any number.
    pub(super) prefetch: u16,
    /// How many it has. Fewer than none, if it got the tag of one that had some.
    pub(super) unacknowledged: i64,
    pub(super) priority: i64,
    pub(super) arguments: FieldTable,
    /// It could not take a message, and is tried again when that may have changed.
    pub(super) blocked: bool,
    /// Where it stands among the turns, if it may take a message.
    pub(super) turn: Option<Turn>,
}

/// Whose turn it is first: the higher priority, then who has waited longer.
pub(super) type Turn = (Reverse<i64>, u64);

impl Consumer {
    pub(super) fn has_room(&self) -> bool {
        self.no_ack || self.prefetch == 0 || self.unacknowledged < i64::from(self.prefetch)
    }
}

pub(super) struct Queue {
    pub(super) vhost: Text,
    pub(super) name: Text,
    pub(super) durable: bool,
    pub(super) auto_delete: bool,
    /// The connection that it belongs to, if it is exclusive.
    pub(super) owner: Option<u64>,
    pub(super) arguments: FieldTable,
    pub(super) settings: QueueSettings,
    pub(super) ready: BTreeMap<Place, Stored>,
    /// Bytes of the bodies in `ready`.
    pub(super) ready_bytes: u64,
    next_number: u64,
    /// Messages of an earlier one do not come back: a test has had them lost.
    generation: u64,
    pub(super) consumers: BTreeMap<u64, Consumer>,
    /// Consumers that may take a message.
    turns: BTreeMap<Turn, u64>,
    last_turn: u64,
    /// The one consumer that gets messages, if only one may.
    active: Option<u64>,
    /// Since when it was neither consumed from, nor declared, nor fetched from.
    pub(super) unused_since: Instant,
}

impl Queue {
    pub(super) fn new(vhost: Text, name: Text, arguments: FieldTable) -> Queue {
        Queue {
            vhost,
            name,
            durable: false,
            auto_delete: false,
            owner: None,
            arguments,
            settings: QueueSettings::default(),
            ready: BTreeMap::new(),
            ready_bytes: 0,
            next_number: 0,
            generation: 0,
            consumers: BTreeMap::new(),
            turns: BTreeMap::new(),
            last_turn: 0,
            active: None,
            unused_since: Instant::now(),
        }
    }

    // ---- messages

    /// Puts a new message where it stands, and returns where that is.
    pub(super) fn push(&mut self, message: Arc<Message>) -> Place {
        let priority = self
            .settings
            .max_priority
            .map_or(0, |most| message.priority.min(most));
        self.next_number += 1;
        let ttl = match (self.settings.message_ttl, message.time_to_live) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        let place = (u8::MAX - priority, self.next_number);
        self.put(Stored {
            place,
            redelivered: false,
            failed: message.failed,
            expires: ttl.map(|ttl| Instant::now() + ttl),
            generation: self.generation,
            message,
        });
        place
    }

    /// Puts a message where it stands, or stood.
    pub(super) fn put(&mut self, stored: Stored) {
        if stored.generation != self.generation {
            return;
        }
        self.ready_bytes += stored.message.body.len() as u64;
        self.ready.insert(stored.place, stored);
    }

    pub(super) fn take_first(&mut self) -> Option<Stored> {
        let (_, stored) = self.ready.pop_first()?;
        self.ready_bytes -= stored.message.body.len() as u64;
        Some(stored)
    }

    /// Takes the first message if its time is over. Only the first one is looked at, as in RabbitMQ.
    pub(super) fn take_expired(&mut self, now: Instant) -> Option<Stored> {
        let expires = self.ready.first_key_value()?.1.expires?;
        (expires <= now).then(|| self.take_first())?
    }

    /// Whether one more message of this size has no room, where such messages are refused.
    pub(super) fn refuses(&self, bytes: usize) -> bool {
        self.settings.overflow != Overflow::DropHead
            && self.exceeds(self.ready.len() as u64 + 1, self.ready_bytes + bytes as u64)
    }

    /// Takes the first message if there are more than there is room for.
    pub(super) fn take_surplus(&mut self) -> Option<Stored> {
        let surplus = self.settings.overflow == Overflow::DropHead
            && self.exceeds(self.ready.len() as u64, self.ready_bytes);
        surplus.then(|| self.take_first())?
    }

    fn exceeds(&self, count: u64, bytes: u64) -> bool {
        self.settings.max_length.is_some_and(|most| count > most)
            || self.settings.max_bytes.is_some_and(|most| bytes > most)
    }

    /// Messages that are not in the queue now do not come back.
    pub(super) fn lose_unacknowledged(&mut self) {
        self.generation += 1;
        for stored in self.ready.values_mut() {
            stored.generation = self.generation;
        }
    }

    /// Whether the queue still knows of a message that is not in it now.
    pub(super) fn counts(&self, stored: &Stored) -> bool {
        stored.generation == self.generation
    }

    pub(super) fn retain(&mut self, mut keep: impl FnMut(&Stored) -> bool) {
        self.ready.retain(|_, stored| keep(stored));
        let bytes = self.ready.values().map(|stored| stored.message.body.len());
        self.ready_bytes = bytes.sum::<usize>() as u64;
    }

    pub(super) fn purge(&mut self) -> u32 {
        let count = self.ready.len();
        self.ready.clear();
        self.ready_bytes = 0;
        count as u32
    }

    // ---- consumers

    /// Whether a consumer is refused because another one has the queue for itself, or would get it.
    pub(super) fn refuses_consumer(&self, exclusive: bool) -> bool {
        if self.settings.single_active_consumer {
            return exclusive;
        }
        self.consumers.values().any(|consumer| consumer.exclusive)
            || exclusive && !self.consumers.is_empty()
    }

    pub(super) fn add_consumer(&mut self, id: u64, consumer: Consumer) {
        self.consumers.insert(id, consumer);
        self.take_turn(id);
        if self.settings.single_active_consumer {
            self.active.get_or_insert(id);
        }
    }

    pub(super) fn remove_consumer(&mut self, id: u64) {
        let Some(consumer) = self.consumers.remove(&id) else {
            return;
        };
        if let Some(turn) = consumer.turn {
            self.turns.remove(&turn);
        }
        if self.active == Some(id) {
            self.active = self.turns.values().next().copied();
        }
        if self.consumers.is_empty() {
            self.unused_since = Instant::now();
        }
    }

    /// Whether a consumer gets messages, as far as the queue decides it.
    pub(super) fn is_active(&self, id: u64) -> bool {
        !self.settings.single_active_consumer || self.active == Some(id)
    }

    /// Whose turn it is.
    pub(super) fn next_consumer(&self) -> Option<u64> {
        if self.settings.single_active_consumer {
            let active = self.active?;
            return (!self.consumers.get(&active)?.blocked).then_some(active);
        }
        self.turns.values().next().copied()
    }

    /// Behind the others of its priority.
    pub(super) fn take_turn(&mut self, id: u64) {
        let Some(consumer) = self.consumers.get_mut(&id) else {
            return;
        };
        self.last_turn += 1;
        let turn = (Reverse(consumer.priority), self.last_turn);
        if let Some(before) = consumer.turn.replace(turn) {
            self.turns.remove(&before);
        }
        self.turns.insert(turn, id);
    }

    /// It cannot take anything now.
    pub(super) fn block(&mut self, id: u64) {
        if let Some(consumer) = self.consumers.get_mut(&id) {
            consumer.blocked = true;
            if let Some(turn) = consumer.turn.take() {
                self.turns.remove(&turn);
            }
        }
    }

    /// It may be able to take something again.
    pub(super) fn unblock(&mut self, id: u64) {
        match self.consumers.get_mut(&id) {
            Some(consumer) if consumer.blocked && consumer.has_room() => consumer.blocked = false,
            _ => return,
        }
        self.take_turn(id);
    }

    // ---- the end

    /// When the timer has to look at the queue again.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let message = self
            .ready
            .first_key_value()
            .and_then(|(_, stored)| stored.expires);
        let unused = match self.settings.expires {
            Some(expires) if self.consumers.is_empty() => Some(self.unused_since + expires),
            _ => None,
        };
        match (message, unused) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    /// Whether it has been left unused for so long that it goes.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.consumers.is_empty()
            && self
                .settings
                .expires
                .is_some_and(|expires| self.unused_since + expires <= now)
    }
}
