//! Publishing: routing, confirms, transactions, and dead letters.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::arguments;
use super::channel::Unacknowledged;
use super::declare::Named;
use super::deliver::{write_content, Acknowledgement};
use super::exchange::{Destination, Route};
use super::faults::NextPublish;
use super::queue::{Death, Message, Reason, Stored};
use super::refusal::{self, refuse, Outcome, Refusal};
use super::state::{At, State, Vhost, MADE_LENGTH};
use super::text::{shown, Text};
use crate::protocol::method::Method;
use crate::protocol::properties::ReceivedProperties;
use crate::protocol::wire::Reader;
use crate::{BasicProperties, DeliveryMode, FieldTable, FieldValue, ShortString};

/// What a client consumes from, and names in `reply_to`, to get direct replies.
pub(super) const REPLY_TO: &str = "amq.rabbitmq.reply-to";

/// The reply code of a message that no queue takes.
const NO_ROUTE: u16 = 312;

/// `basic.publish`, before its content has come.
pub(super) struct Published {
    pub(super) exchange: Text,
    pub(super) routing_key: Text,
    pub(super) mandatory: bool,
    pub(super) immediate: bool,
}

/// As `channel_tx_message_max` is where it is not set.
const MOST_IN_A_TRANSACTION: usize = 10_000;

/// What waits for `tx.commit`.
#[derive(Default)]
pub(super) struct Transaction {
    publishes: Vec<Routed>,
    acknowledged: Vec<(Acknowledgement, BTreeMap<u64, Unacknowledged>)>,
}

/// A message that is to be delivered to queues.
struct Routed {
    message: Arc<Message>,
    targets: Vec<Target>,
    mandatory: bool,
    fault: Option<NextPublish>,
}

/// Where a message goes.
#[derive(Clone, PartialEq)]
enum Target {
    Queue(u64),
    /// A consumer of direct replies.
    Reply(At, Text),
    /// One that has gone. RabbitMQ cannot tell, so that the reply counts as taken.
    GoneReply,
}

impl Transaction {
    /// The same done again and again is done together, in the order of the delivery tags.
    pub(super) fn add(&mut self, how: Acknowledgement, messages: BTreeMap<u64, Unacknowledged>) {
        match self.acknowledged.last_mut() {
            Some((last, together)) if *last == how => together.extend(messages),
            _ => self.acknowledged.push((how, messages)),
        }
    }

    /// The messages whose acknowledgement is not committed.
    pub(super) fn into_unacknowledged(self) -> impl Iterator<Item = Unacknowledged> {
        self.acknowledged
            .into_iter()
            .flat_map(|(_, messages)| messages.into_values())
    }
}

/// The properties of a message, from the bytes of its content header; `None` if they cannot be read.
fn read_encoded(bytes: &[u8]) -> Option<BasicProperties> {
    /// The only flag that stands for no property.
    const NO_PROPERTY: u8 = 2;
    let cleared: Vec<u8>;
    let bytes = match *bytes {
        [first, second, ref rest @ ..] if second & NO_PROPERTY != 0 => {
            cleared = [&[first, second & !NO_PROPERTY], rest].concat();
            &cleared
        }
        _ => bytes,
    };
    if let Some(few) = ReceivedProperties::few(bytes) {
        return Some(few.into());
    }
    let mut reader = Reader::new(bytes);
    let many = ReceivedProperties::many(&mut reader);
    reader.finish("a content header").ok()?;
    Some(many.into())
}

/// Those of a message that the broker has taken, so that they could be read.
pub(super) fn decode_properties(bytes: &[u8]) -> BasicProperties {
    read_encoded(bytes).unwrap_or_default()
}

fn encode_properties(properties: &BasicProperties) -> Vec<u8> {
    let mut bytes = Vec::new();
    // What could be read can be written.
    let _ = properties.encode(&mut bytes);
    bytes
}

/// How long a message is to be kept.
fn read_expiration(text: &ShortString) -> Outcome<Duration> {
    arguments::expiration(text.as_bytes()).or_else(|why| {
        let text = shown(text.as_bytes());
        let before = format!("invalid expiration '{text}': ");
        refuse!(406, "{before}{}", arguments::wrapped(&before, why))
    })
}

/// Adds the routing keys in the headers `CC` and `BCC` to a message's, and takes `BCC` out. Returns whether it was there.
fn take_copies(headers: &mut FieldTable, message: &mut Message) -> Outcome<bool> {
    let mut removed = false;
    for key in ["CC", "BCC"] {
        let before = message.keys.len();
        match headers.get(key) {
            None => {}
            Some(FieldValue::Array(keys)) => {
                for key in keys {
                    if let FieldValue::Text(key) = key {
                        message.keys.push(key[..].into());
                    }
                }
            }
            Some(other) => refuse!(
                406,
                "invalid message: {{unacceptable_type_in_header,\"{key}\",{}}}",
                arguments::type_name(other)
            ),
        }
        if key == "BCC" {
            message.blind_keys = message.keys.len() - before;
            removed = headers.remove(key).is_some();
        }
    }
    Ok(removed)
}

impl State {
    pub(super) fn publish(
        &mut self,
        at: At,
        published: Published,
        bytes: Vec<u8>,
        body: Vec<u8>,
    ) -> Outcome {
        if published.immediate {
            refuse!(540, "immediate=true");
        }
        let vhost_name = self.vhost_of(at);
        let Some(vhost) = self.vhosts.get(&vhost_name) else {
            refuse!(530, "vhost {vhost_name} not found");
        };
        let named = || Named("exchange", &published.exchange, &vhost_name);
        let Some(exchange) = vhost.exchanges.get(&published.exchange) else {
            refuse!(404, "no {}", named());
        };
        if exchange.internal {
            refuse!(403, "cannot publish to internal {}", named());
        }
        let mut message = Message {
            exchange: exchange.name.clone(),
            keys: vec![published.routing_key],
            blind_keys: 0,
            properties: bytes,
            body,
            persistent: false,
            priority: 0,
            time_to_live: None,
            deaths: Vec::new(),
            first_death: None,
            failed: false,
            unconfirmed: false,
        };
        let headers = self.read_properties(at, &mut message)?;
        let fault = self.next_publishes.pop_front();
        message.unconfirmed = fault == Some(NextPublish::Withhold);
        let targets = match (fault, self.vhosts.get(&vhost_name)) {
            (None | Some(NextPublish::Withhold), Some(vhost)) => {
                let keys = &message.keys[..];
                let headers = headers.as_ref();
                self.route(vhost, &message.exchange, &Route { keys, headers })
            }
            _ => Vec::new(),
        };
        let mut routed = Routed {
            message: Arc::new(message),
            targets,
            mandatory: published.mandatory,
            fault,
        };
        let Some(channel) = self.channel_mut(at) else {
            return Ok(());
        };
        match &mut channel.transaction {
            Some(transaction) if transaction.publishes.len() == MOST_IN_A_TRANSACTION => {
                refuse!(
                    406,
                    "transaction has reached the maximum of {MOST_IN_A_TRANSACTION} uncommitted publishes"
                );
            }
            Some(transaction) => transaction.publishes.push(routed),
            None => {
                let number = channel.confirms.then(|| {
                    channel.published += 1;
                    channel.published
                });
                routed.mandatory |= fault == Some(NextPublish::Return);
                let taken = self.deliver_routed(at, &routed);
                self.confirm(at, number, taken, fault);
            }
        }
        Ok(())
    }

    /// Takes from the properties what the broker looks at; returns the headers.
    fn read_properties(&mut self, at: At, message: &mut Message) -> Outcome<Option<FieldTable>> {
        if message.properties == [0, 0] {
            return Ok(None);
        }
        let Some(mut properties) = read_encoded(&message.properties) else {
            return Err(Refusal::bare(541).at((0, 0)));
        };
        let mut changed = false;
        if properties
            .reply_to
            .as_ref()
            .is_some_and(|name| name.as_bytes() == REPLY_TO.as_bytes())
        {
            let replies = self
                .channel_mut(at)
                .and_then(|channel| channel.replies.clone());
            let Some((name, _)) = replies else {
                refuse!(406, "fast reply consumer does not exist");
            };
            properties.reply_to = Some((&*name).into());
            changed = true;
        }
        if let Some(text) = &properties.expiration {
            message.time_to_live = Some(read_expiration(text)?);
        }
        if let Some(headers) = &mut properties.headers {
            changed |= take_copies(headers, message)?;
        }
        if let Some(user) = &properties.user_id {
            let Some(connection) = self.connections.get(&at.connection) else {
                return Ok(None);
            };
            if user.as_bytes() != &connection.user[..] {
                let user = shown(user.as_bytes());
                refuse!(
                    406,
                    "user_id property set to '{user}' but authenticated user was '{}'",
                    connection.user
                );
            }
        }
        message.persistent = properties.delivery_mode == Some(DeliveryMode::Persistent);
        message.priority = properties.priority.unwrap_or(0);
        if changed {
            message.properties = encode_properties(&properties);
        }
        Ok(properties.headers)
    }

    /// Where a message goes from an exchange: through bindings to other exchanges, and by way of alternate exchanges where
    /// no binding takes it.
    fn route(&self, vhost: &Vhost, exchange: &Text, route: &Route<'_>) -> Vec<Target> {
        let mut targets = Vec::new();
        let mut add = |target| {
            if !targets.contains(&target) {
                targets.push(target);
            }
        };
        let mut seen = vec![exchange];
        let mut next = 0;
        while let Some(name) = seen.get(next).copied() {
            next += 1;
            if name.is_empty() {
                for key in route.keys {
                    if let Some(id) = vhost.queues.get(key) {
                        add(Target::Queue(*id));
                    } else if let Some((at, tag)) = self.reply_queues.get(key) {
                        add(Target::Reply(*at, tag.clone()));
                    } else if is_reply_name(key) {
                        add(Target::GoneReply);
                    }
                }
                continue;
            }
            let Some(exchange) = vhost.exchanges.get(name) else {
                continue;
            };
            let mut matched = false;
            for destination in exchange.matches(route) {
                matched = true;
                match destination {
                    Destination::Queue(name) => {
                        if let Some(id) = vhost.queues.get(name) {
                            add(Target::Queue(*id));
                        }
                    }
                    Destination::Exchange(name) => {
                        if !seen.contains(&name) {
                            seen.push(name);
                        }
                    }
                }
            }
            if let (false, Some(alternate)) = (matched, &exchange.alternate) {
                // By way of the default exchange, RabbitMQ 4 reaches no queue from here.
                if !alternate.is_empty() && !seen.contains(&alternate) {
                    seen.push(alternate);
                }
            }
        }
        targets
    }

    /// Puts a message where it goes, or returns it. Returns whether every queue took it.
    fn deliver_routed(&mut self, at: At, routed: &Routed) -> bool {
        if routed.mandatory && routed.targets.is_empty() {
            self.return_message(at, &routed.message);
        }
        let mut taken = routed.fault != Some(NextPublish::Nack);
        for target in &routed.targets {
            taken &= self.deliver_to(target, &routed.message);
        }
        taken
    }

    fn deliver_to(&mut self, target: &Target, message: &Arc<Message>) -> bool {
        match target {
            Target::Queue(id) => self.enqueue(*id, message),
            Target::Reply(at, tag) => {
                self.deliver_reply(*at, tag, message);
                true
            }
            Target::GoneReply => true,
        }
    }

    fn return_message(&mut self, at: At, message: &Message) {
        let frame_max = self.frame_max(at);
        let method = Method::BasicReturn {
            reply_code: NO_ROUTE,
            reply_text: refusal::name(NO_ROUTE).into(),
            exchange: message.exchange.name(),
            routing_key: message.keys[0].name(),
        };
        self.send_frames(at.connection, |out| {
            write_content(out, at.channel, &method, message, frame_max);
        });
    }

    fn confirm(&mut self, at: At, number: Option<u64>, taken: bool, fault: Option<NextPublish>) {
        let (Some(number), Some(channel)) = (number, self.channel_mut(at)) else {
            return;
        };
        if fault == Some(NextPublish::Withhold) {
            channel.withheld.insert(number);
        } else if taken {
            channel.confirmed.insert(number);
        } else {
            channel.refused.insert(number);
        }
        self.confirming.insert(at);
    }

    /// Sends the confirms that have come together: as one where nothing below is open.
    pub(super) fn send_confirms(&mut self) {
        for at in std::mem::take(&mut self.confirming) {
            let Some(channel) = self.channel_mut(at) else {
                continue;
            };
            let confirmed = std::mem::take(&mut channel.confirmed);
            let refused = std::mem::take(&mut channel.refused);
            let open = channel.withheld.first().copied().unwrap_or(u64::MAX);
            for (own, other, ack) in [(&refused, &confirmed, false), (&confirmed, &refused, true)] {
                let cutoff = open.min(other.first().copied().unwrap_or(u64::MAX));
                let together = match own.range(..cutoff).next_back() {
                    // A lone `basic.nack` is one for several as well, as in RabbitMQ.
                    Some(last) if own.len() > 1 || !ack => {
                        self.send_confirm(at, *last, true, ack);
                        *last
                    }
                    _ => 0,
                };
                for number in own.range(together + 1..) {
                    self.send_confirm(at, *number, false, ack);
                }
            }
        }
    }

    fn send_confirm(&mut self, at: At, delivery_tag: u64, multiple: bool, ack: bool) {
        let method = if ack {
            Method::BasicAck {
                delivery_tag,
                multiple,
            }
        } else {
            Method::BasicNack {
                delivery_tag,
                multiple,
                // It means nothing here, and is what RabbitMQ sends.
                requeue: true,
            }
        };
        self.send(at, &method);
    }

    /// Gives the confirms that a test withheld.
    pub(super) fn release_confirms(&mut self) {
        for (id, connection) in &mut self.connections {
            for (number, channel) in &mut connection.channels {
                let withheld = std::mem::take(&mut channel.withheld);
                if !withheld.is_empty() {
                    channel.confirmed.extend(withheld);
                    self.confirming.insert(At {
                        connection: *id,
                        channel: *number,
                    });
                }
            }
        }
    }

    pub(super) fn publishing_method(&mut self, at: At, method: &Method<'_>) -> Outcome {
        let Some(channel) = self.channel_mut(at) else {
            return Ok(());
        };
        match *method {
            Method::ConfirmSelect { no_wait } => {
                if channel.transaction.is_some() {
                    refuse!(406, "cannot switch from tx to confirm mode");
                }
                channel.confirms = true;
                if !no_wait {
                    self.send(at, &Method::ConfirmSelectOk {});
                }
            }
            Method::TxSelect { .. } => {
                if channel.confirms {
                    refuse!(406, "cannot switch from confirm to tx mode");
                }
                channel.transaction.get_or_insert_default();
                self.send(at, &Method::TxSelectOk {});
            }
            _ => {
                let Some(transaction) = channel.transaction.take() else {
                    refuse!(406, "channel is not transactional");
                };
                channel.transaction = Some(Transaction::default());
                if matches!(method, Method::TxCommit { .. }) {
                    return self.commit(at, transaction);
                }
                for (_, messages) in transaction.acknowledged {
                    channel.unacknowledged.extend(messages);
                }
                self.send(at, &Method::TxRollbackOk {});
            }
        }
        Ok(())
    }

    fn commit(&mut self, at: At, transaction: Transaction) -> Outcome {
        let mut taken = true;
        for routed in &transaction.publishes {
            taken &= self.deliver_routed(at, routed);
        }
        // What consumers get for their acknowledgements comes behind this.
        if taken {
            self.send(at, &Method::TxCommitOk {});
        }
        for (how, messages) in transaction.acknowledged {
            self.acknowledge(at, how, messages);
        }
        if !taken {
            refuse!(406, "partial tx completion");
        }
        Ok(())
    }

    // ---- dead letters

    /// Publishes a message that left its queue to where the queue's arguments name.
    pub(super) fn dead_letter(
        &mut self,
        stored: &Stored,
        reason: Reason,
        queue: &Text,
        vhost_name: &Text,
        exchange: &[u8],
        key: Option<&[u8]>,
    ) {
        let exists = self
            .vhosts
            .get(vhost_name)
            .is_some_and(|vhost| vhost.exchanges.contains_key(exchange));
        if !exists {
            return;
        }
        let (message, headers) = buried(stored, reason, queue, exchange, key);
        let Some(vhost) = self.vhosts.get(vhost_name) else {
            return;
        };
        let route = Route {
            keys: &message.keys,
            headers: headers.as_ref(),
        };
        let mut targets = self.route(vhost, &message.exchange, &route);
        if reason != Reason::Rejected {
            targets.retain(|target| match target {
                Target::Queue(id) => self
                    .queues
                    .get(id)
                    .is_some_and(|queue| !is_cycle(&queue.name, &message.deaths)),
                Target::Reply(..) | Target::GoneReply => true,
            });
        }
        let message = Arc::new(message);
        for target in &targets {
            self.deliver_to(target, &message);
        }
    }
}

/// The message as it leaves a queue: with its history, and to be routed anew.
fn buried(
    stored: &Stored,
    reason: Reason,
    queue: &Text,
    exchange: &[u8],
    key: Option<&[u8]>,
) -> (Message, Option<FieldTable>) {
    let old = &stored.message;
    let shown_keys = &old.keys[..old.keys.len() - old.blind_keys];
    let mut deaths = old.deaths.clone();
    let known = deaths
        .iter()
        .position(|death| death.queue == *queue && death.reason == reason);
    let mut death = match known {
        Some(known) => deaths.remove(known),
        None => Death {
            queue: queue.clone(),
            reason,
            count: 0,
            seconds: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |time| time.as_secs()),
            exchange: old.exchange.clone(),
            keys: shown_keys.to_vec(),
            time_to_live: old.time_to_live,
        },
    };
    death.count += 1;
    let last = (reason, queue.clone(), old.exchange.clone());
    let first = old.first_death.clone().unwrap_or_else(|| last.clone());
    deaths.insert(0, death);

    let mut properties = decode_properties(&old.properties);
    properties.expiration = None;
    let headers = properties.headers.get_or_insert_with(FieldTable::new);
    headers.insert(
        "x-death",
        FieldValue::array(deaths.iter().map(Death::table)),
    );
    for (which, (reason, queue, exchange)) in [("first", &first), ("last", &last)] {
        headers.insert(format!("x-{which}-death-reason"), reason.name());
        headers.insert(format!("x-{which}-death-queue"), text_value(queue));
        headers.insert(format!("x-{which}-death-exchange"), text_value(exchange));
    }
    let (keys, blind_keys) = match key {
        Some(key) => (vec![key.into()], 0),
        None => (old.keys.clone(), old.blind_keys),
    };
    let message = Message {
        exchange: exchange.into(),
        keys,
        blind_keys,
        properties: encode_properties(&properties),
        body: old.body.clone(),
        persistent: old.persistent,
        priority: old.priority,
        time_to_live: None,
        deaths,
        first_death: Some(first),
        failed: stored.failed,
        unconfirmed: false,
    };
    (message, properties.headers)
}

/// Whether this may be a name that the broker made for direct replies.
pub(super) fn is_reply_name(name: &[u8]) -> bool {
    is_below_reply_to(name) && name.len() == REPLY_TO.len() + 1 + MADE_LENGTH
}

/// Whether it begins as such a name.
pub(super) fn is_below_reply_to(name: &[u8]) -> bool {
    let made = name.strip_prefix(REPLY_TO.as_bytes());
    made.is_some_and(|made| made.first() == Some(&b'.'))
}

fn text_value(text: &Text) -> FieldValue {
    FieldValue::Text(text.to_vec())
}

impl Death {
    /// An entry of the header `x-death`.
    fn table(&self) -> FieldValue {
        let mut fields = Vec::new();
        if let Some(ttl) = self.time_to_live {
            fields.push(("original-expiration", ttl.as_millis().to_string().into()));
        }
        fields.extend([
            ("count", self.count.into()),
            ("reason", self.reason.name().into()),
            ("queue", text_value(&self.queue)),
            ("time", FieldValue::timestamp(self.seconds)),
            ("exchange", text_value(&self.exchange)),
            (
                "routing-keys",
                FieldValue::array(self.keys.iter().map(text_value)),
            ),
        ]);
        FieldValue::Table(in_order(fields))
    }
}

/// A table that keeps the order of its fields, which RabbitMQ does not sort here either.
fn in_order(fields: Vec<(&str, FieldValue)>) -> FieldTable {
    const LENGTH: usize = 4;
    let mut bytes = Vec::new();
    for field in fields {
        let mut one = Vec::new();
        // What could be read can be written.
        let _ = FieldTable::from([field]).encode(&mut one);
        bytes.extend_from_slice(one.get(LENGTH..).unwrap_or_default());
    }
    FieldTable::decode(&bytes).unwrap_or_default()
}

/// Whether a message has been in this queue before, and no client has rejected it since.
fn is_cycle(queue: &Text, deaths: &[Death]) -> bool {
    let before = deaths.iter().position(|death| death.queue == *queue);
    before.is_some_and(|at| {
        deaths[..=at]
            .iter()
            .all(|death| death.reason != Reason::Rejected)
    })
}
