//! All that the broker knows. One lock is around it: a method is applied from beginning to end before the next
//! one is, which makes the broker deterministic.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::channel::Channel;
use super::exchange::{Binding, Destination, Exchange, Kind};
use super::faults::NextPublish;
use super::link::{Link, Outbox};
use super::log::{Log, Speaker};
use super::pipe::Ending;
use super::queue::{Queue, Reason, Stored};
use super::refusal::Refusal;
use super::text::Text;
use crate::protocol::frame;
use crate::protocol::method::Method;
use crate::FieldTable;

/// What was set when the broker was started.
#[derive(Clone)]
pub(super) struct Settings {
    /// Names and passwords.
    pub(super) users: Vec<(String, String)>,
    pub(super) vhosts: BTreeSet<String>,
    pub(super) frame_max: u32,
    pub(super) channel_max: u16,
    pub(super) heartbeat: u16,
    /// Whether `basic.qos` with `global` limits the channel.
    pub(super) global_qos: bool,
}

#[derive(Default)]
pub(super) struct Vhost {
    pub(super) exchanges: BTreeMap<Text, Exchange>,
    /// The queues' ids. A queue that is declared again after its deletion is another one.
    pub(super) queues: BTreeMap<Text, u64>,
}

/// How many letters the broker puts behind the prefix of a name that it makes.
pub(super) const MADE_LENGTH: usize = 22;

/// How long a client that closes its connection has at most to close the stream; less if its heartbeats come more often.
const CLOSING_MAX: Duration = Duration::from_secs(30);

/// How far a connection has come (specification 2.2.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Starting,
    Tuning,
    Opening,
    Running,
    /// `connection.close` or `connection.close-ok` was sent; only these two count any more. The client closes the stream; if it
    /// does not, the broker does after some time.
    Closing,
    /// The stream ends behind what is still to be sent.
    Closed,
}

pub(super) struct Connection {
    pub(super) link: Arc<Link>,
    pub(super) outbox: Arc<Outbox>,
    pub(super) phase: Phase,
    pub(super) user: Text,
    pub(super) vhost: Text,
    pub(super) frame_max: u32,
    pub(super) channel_max: u16,
    /// The heartbeats' interval that was agreed on, in seconds.
    pub(super) heartbeat: u16,
    /// When the broker ends the stream if the client has not.
    pub(super) ends: Option<Instant>,
    pub(super) client_properties: FieldTable,
    pub(super) channels: BTreeMap<u16, Channel>,
    /// It has published while the broker was blocked, and is not read from until that is over.
    pub(super) blocked: bool,
    /// Its writer is to be woken.
    touched: bool,
}

impl Connection {
    pub(super) fn new(link: Arc<Link>, outbox: Arc<Outbox>) -> Connection {
        Connection {
            link,
            outbox,
            phase: Phase::Starting,
            user: "".into(),
            vhost: "".into(),
            frame_max: 0,
            channel_max: 0,
            heartbeat: 0,
            ends: None,
            client_properties: FieldTable::new(),
            channels: BTreeMap::new(),
            blocked: false,
            touched: false,
        }
    }

    /// Whether the client has this capability.
    pub(super) fn can(&self, capability: &str) -> bool {
        crate::protocol::handshake::capability(&self.client_properties, capability)
    }
}

/// A channel of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct At {
    pub(super) connection: u64,
    pub(super) channel: u16,
}

/// What is done after the reply to the method at hand.
pub(super) enum Work {
    Dispatch(u64),
    DeadLetter {
        stored: Stored,
        reason: Reason,
        queue: Text,
        vhost: Text,
        exchange: Vec<u8>,
        key: Option<Vec<u8>>,
    },
    /// The consumer's queue has gone.
    Cancelled(At, Text),
}

pub(super) struct State {
    pub(super) settings: Settings,
    pub(super) vhosts: BTreeMap<Text, Vhost>,
    pub(super) queues: BTreeMap<u64, Queue>,
    pub(super) connections: BTreeMap<u64, Connection>,
    /// Where direct replies go.
    pub(super) reply_queues: BTreeMap<Text, (At, Text)>,
    /// Why publishers are blocked.
    pub(super) alarm: Option<String>,
    /// What happens to the next publishes.
    pub(super) next_publishes: VecDeque<NextPublish>,
    pub(super) refused_connections: u32,
    /// For the next connections: what a test has prepared for them.
    pub(super) reserved: VecDeque<(u64, Arc<Link>)>,
    pub(super) log: Log,
    /// The broker is being dropped.
    pub(super) ended: bool,
    /// Grows with all that a test can see.
    pub(super) version: u64,
    pub(super) now: Instant,
    /// When the timer looks next, and whether that is earlier than it knows.
    pub(super) next_tick: Option<Instant>,
    pub(super) tick_earlier: bool,
    /// How many threads wait for something to change.
    pub(super) waiting: usize,
    last_id: u64,
    work: VecDeque<Work>,
    touched: Vec<u64>,
    /// Channels with confirms to be sent.
    pub(super) confirming: BTreeSet<At>,
}

impl State {
    pub(super) fn new(settings: Settings) -> State {
        let vhosts = settings
            .vhosts
            .iter()
            .map(|name| (name.as_str().into(), Vhost::new()))
            .collect();
        State {
            settings,
            vhosts,
            queues: BTreeMap::new(),
            connections: BTreeMap::new(),
            reply_queues: BTreeMap::new(),
            alarm: None,
            next_publishes: VecDeque::new(),
            refused_connections: 0,
            reserved: VecDeque::new(),
            log: Log::new(),
            ended: false,
            version: 0,
            now: Instant::now(),
            next_tick: None,
            tick_earlier: false,
            waiting: 0,
            last_id: 0,
            work: VecDeque::new(),
            touched: Vec::new(),
            confirming: BTreeSet::new(),
        }
    }

    pub(super) fn new_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// A name that the broker makes, of RabbitMQ's shape: the prefix and 22 letters and digits. They come in the same order
    /// in every run.
    pub(super) fn new_name(&mut self, prefix: &str) -> Text {
        const LETTERS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut name = prefix.to_owned();
        let mut seed = self.new_id();
        for _ in 0..MADE_LENGTH {
            // Steele and Vigna's splitmix64, so that the names look as different as RabbitMQ's.
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = seed;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            name.push(char::from(LETTERS[(mixed >> 58) as usize]));
        }
        name.as_str().into()
    }

    // ---- sending

    /// Lets `fill` append frames to what is sent to a client. They begin with a method, which is logged.
    pub(super) fn send_frames(&mut self, connection: u64, fill: impl FnOnce(&mut Vec<u8>)) {
        let now = self.now;
        let Some(entry) = self.connections.get_mut(&connection) else {
            return;
        };
        let log = &mut self.log;
        entry.outbox.append(|out| {
            let start = out.len();
            fill(out);
            log.sent(now, connection, &out[start..]);
        });
        if !std::mem::replace(&mut entry.touched, true) {
            self.touched.push(connection);
        }
    }

    pub(super) fn send(&mut self, at: At, method: &Method<'_>) {
        self.send_frames(at.connection, |out| {
            let written = frame::write_method(out, at.channel, method);
            debug_assert!(written.is_ok(), "{method:?}");
        });
    }

    /// Closes a channel, or the connection, over what the client sent.
    pub(super) fn refuse(&mut self, at: At, refusal: &Refusal) {
        if refusal.ends_connection() || at.channel == 0 {
            self.close_connection(at.connection, refusal);
        } else {
            self.close_channel(at, refusal);
        }
    }

    /// Sends `connection.close`.
    pub(super) fn close_connection(&mut self, connection: u64, refusal: &Refusal) {
        let Some(entry) = self.connections.get_mut(&connection) else {
            return;
        };
        if matches!(entry.phase, Phase::Closing | Phase::Closed) {
            return;
        }
        self.start_closing(connection);
        let (class_id, method_id) = refusal.method.unwrap_or((0, 0));
        let close = Method::ConnectionClose {
            reply_code: refusal.code,
            reply_text: refusal.text.as_str().into(),
            class_id,
            method_id,
        };
        let channel = 0;
        self.send(
            At {
                connection,
                channel,
            },
            &close,
        );
    }

    /// Ends all that a connection has, and leaves it to the client to close the stream.
    pub(super) fn start_closing(&mut self, connection: u64) {
        let Some(entry) = self.connections.get_mut(&connection) else {
            return;
        };
        entry.phase = Phase::Closing;
        entry.blocked = false;
        let patience = match entry.heartbeat {
            0 => CLOSING_MAX,
            seconds => CLOSING_MAX.min(Duration::from_secs(seconds.into())),
        };
        let ends = Instant::now() + patience;
        entry.ends = Some(ends);
        self.drop_channels(connection);
        self.tick_at(ends);
    }

    /// Ends all channels of a connection, and what is exclusive to it.
    pub(super) fn drop_channels(&mut self, connection: u64) {
        let Some(entry) = self.connections.get(&connection) else {
            return;
        };
        let numbers: Vec<u16> = entry.channels.keys().copied().collect();
        for channel in numbers {
            let at = At {
                connection,
                channel,
            };
            self.clear_channel(at);
            if let Some(entry) = self.connections.get_mut(&connection) {
                entry.channels.remove(&channel);
            }
        }
        let owned: Vec<u64> = self
            .queues
            .iter()
            .filter(|(_, queue)| queue.owner == Some(connection))
            .map(|(id, _)| *id)
            .collect();
        for queue in owned {
            self.delete_queue(queue);
        }
    }

    /// The connection's stream has ended.
    pub(super) fn forget_connection(&mut self, connection: u64) {
        self.drop_channels(connection);
        if self.connections.remove(&connection).is_some() {
            self.log.note(connection, "ended".into());
        }
        self.run();
    }

    // ---- work that is left over

    pub(super) fn later(&mut self, work: Work) {
        self.work.push_back(work);
    }

    /// Does all that is left over. It comes to an end: what is dead-lettered does not come back to where it was without a
    /// client's doing.
    pub(super) fn run(&mut self) {
        while let Some(work) = self.work.pop_front() {
            match work {
                Work::Dispatch(queue) => {
                    self.drop_expired(queue);
                    self.dispatch(queue);
                }
                Work::DeadLetter {
                    stored,
                    reason,
                    queue,
                    vhost,
                    exchange,
                    key,
                } => self.dead_letter(&stored, reason, &queue, &vhost, &exchange, key.as_deref()),
                Work::Cancelled(at, tag) => self.send_cancel(at, &tag),
            }
        }
        self.version += 1;
    }

    /// Sends the confirms that have come together, and wakes those that write.
    pub(super) fn flush(&mut self) {
        self.send_confirms();
        for connection in std::mem::take(&mut self.touched) {
            if let Some(entry) = self.connections.get_mut(&connection) {
                entry.touched = false;
                entry.outbox.wake();
            }
        }
    }

    /// The timer has something to do then.
    pub(super) fn note_deadline(&mut self, queue: u64) {
        let deadline = self.queues.get(&queue).and_then(Queue::deadline);
        if let Some(at) = deadline {
            self.tick_at(at);
        }
    }

    fn tick_at(&mut self, at: Instant) {
        if self.next_tick.is_none_or(|next| at < next) {
            self.next_tick = Some(at);
            self.tick_earlier = true;
        }
    }

    /// Does what is due, and finds out what is due next.
    pub(super) fn tick(&mut self) {
        self.now = Instant::now();
        let due: Vec<u64> = self
            .queues
            .iter()
            .filter(|(_, queue)| queue.deadline().is_some_and(|at| at <= self.now))
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            if self
                .queues
                .get(&id)
                .is_some_and(|queue| queue.is_due(self.now))
            {
                self.delete_queue(id);
            } else {
                self.drop_expired(id);
            }
        }
        for connection in self.connections.values_mut() {
            if connection.ends.is_some_and(|at| at <= self.now) {
                connection.ends = None;
                connection.link.end(Ending::Cut);
            }
        }
        self.run();
        self.flush();
        let queues = self.queues.values().filter_map(Queue::deadline);
        let connections = self.connections.values();
        self.next_tick = queues
            .chain(connections.filter_map(|connection| connection.ends))
            .min();
    }

    /// There is room again in what waits for a connection.
    pub(super) fn drained(&mut self, connection: u64) {
        let waiting: Vec<(u64, Vec<u64>)> =
            self.queues
                .iter()
                .map(|(id, queue)| {
                    let blocked = queue.consumers.iter().filter(|(_, consumer)| {
                        consumer.connection == connection && consumer.blocked
                    });
                    (*id, blocked.map(|(id, _)| *id).collect())
                })
                .filter(|(_, consumers): &(u64, Vec<u64>)| !consumers.is_empty())
                .collect();
        for (queue, consumers) in waiting {
            for consumer in consumers {
                self.unblock_consumer(queue, consumer);
            }
            self.later(Work::Dispatch(queue));
        }
        self.run();
        self.flush();
    }

    // ---- queues and exchanges

    pub(super) fn queue_id(&self, vhost: &[u8], name: &[u8]) -> Option<u64> {
        self.vhosts.get(vhost)?.queues.get(name).copied()
    }

    /// Deletes a queue: its messages, bindings and consumers. Returns how many messages were ready.
    pub(super) fn delete_queue(&mut self, id: u64) -> u32 {
        let Some(queue) = self.queues.remove(&id) else {
            return 0;
        };
        for consumer in queue.consumers.into_values() {
            let at = At {
                connection: consumer.connection,
                channel: consumer.channel,
            };
            if let Some(channel) = self.channel_mut(at) {
                channel.consumers.remove(&consumer.tag);
                self.later(Work::Cancelled(at, consumer.tag));
            }
        }
        if let Some(vhost) = self.vhosts.get_mut(&queue.vhost) {
            vhost.queues.remove(&queue.name);
            vhost.remove_destination(Destination::Queue(queue.name));
        }
        queue.ready.len() as u32
    }

    /// Sends `basic.cancel` for a consumer whose queue has gone, if the client has that capability.
    fn send_cancel(&mut self, at: At, tag: &Text) {
        let Some(connection) = self.connections.get(&at.connection) else {
            return;
        };
        let open = connection
            .channels
            .get(&at.channel)
            .is_some_and(Channel::is_open);
        if open && connection.can("consumer_cancel_notify") {
            let cancel = Method::BasicCancel {
                consumer_tag: tag.name(),
                no_wait: true,
            };
            self.send(at, &cancel);
        }
    }

    pub(super) fn channel_mut(&mut self, at: At) -> Option<&mut Channel> {
        self.connections
            .get_mut(&at.connection)?
            .channels
            .get_mut(&at.channel)
    }

    /// Drops the messages at the head of a queue whose time is over.
    pub(super) fn drop_expired(&mut self, id: u64) {
        let now = self.now;
        while let Some(stored) = self
            .queues
            .get_mut(&id)
            .and_then(|queue| queue.take_expired(now))
        {
            self.bury(id, stored, Reason::Expired);
        }
    }

    /// Dead-letters a message that left its queue, if the queue's arguments name where to.
    pub(super) fn bury(&mut self, id: u64, stored: Stored, reason: Reason) {
        let Some(queue) = self.queues.get(&id) else {
            return;
        };
        let Some(exchange) = queue.settings.dead_letter_exchange.clone() else {
            return;
        };
        let work = Work::DeadLetter {
            stored,
            reason,
            queue: queue.name.clone(),
            vhost: queue.vhost.clone(),
            exchange,
            key: queue.settings.dead_letter_key.clone(),
        };
        self.later(work);
    }

    pub(super) fn log_method(&mut self, at: At, payload: &[u8]) {
        self.log.method(
            self.now,
            at.connection,
            Speaker::Client,
            at.channel,
            payload,
        );
    }
}

impl Vhost {
    /// With the exchanges that are always there.
    pub(super) fn new() -> Vhost {
        let mut vhost = Vhost::default();
        for (name, kind) in [
            ("", Kind::Direct),
            ("amq.direct", Kind::Direct),
            ("amq.fanout", Kind::Fanout),
            ("amq.topic", Kind::Topic),
            ("amq.headers", Kind::Headers),
            ("amq.match", Kind::Headers),
        ] {
            vhost
                .exchanges
                .insert(name.into(), Exchange::new(name, kind));
        }
        let trace = Exchange {
            internal: true,
            ..Exchange::new("amq.rabbitmq.trace", Kind::Topic)
        };
        vhost.exchanges.insert(trace.name.clone(), trace);
        vhost
    }

    /// Removes all bindings to what has gone, and the exchanges that were there for those bindings only.
    pub(super) fn remove_destination(&mut self, destination: Destination) {
        let mut gone = vec![destination];
        while let Some(destination) = gone.pop() {
            let mut unused = Vec::new();
            for exchange in self.exchanges.values_mut() {
                let before = exchange.bindings.len();
                exchange
                    .bindings
                    .retain(|binding| binding.destination != destination);
                let lost = exchange.bindings.len() < before;
                if lost && exchange.auto_delete && exchange.bindings.is_empty() {
                    unused.push(exchange.name.clone());
                }
            }
            for name in unused {
                self.exchanges.remove(&name);
                gone.push(Destination::Exchange(name));
            }
        }
    }

    /// Deletes an exchange and its bindings.
    /// Removes a binding of an exchange, which may go with its last one.
    pub(super) fn remove_binding(&mut self, source: &Text, binding: &Binding) {
        let Some(exchange) = self.exchanges.get_mut(source) else {
            return;
        };
        exchange.bindings.retain(|known| known != binding);
        if exchange.auto_delete && exchange.bindings.is_empty() {
            self.delete_exchange(source);
        }
    }

    pub(super) fn delete_exchange(&mut self, name: &Text) {
        self.exchanges.remove(name);
        self.remove_destination(Destination::Exchange(name.clone()));
    }
}
