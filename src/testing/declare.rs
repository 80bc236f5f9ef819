//! The classes `exchange` and `queue`.

use std::fmt;
use std::time::Instant;

use super::arguments;
use super::exchange::{Binding, Destination, Exchange, Kind};
use super::publish::{is_below_reply_to, is_reply_name, REPLY_TO};
use super::queue::Queue;
use super::refusal::{refuse, Outcome, Refusal};
use super::state::{At, State, Vhost, Work};
use super::text::{shown, Text};
use crate::protocol::method::Method;
use crate::protocol::wire::ShortStr;
use crate::FieldTable;

/// A queue or an exchange, as the texts name it.
pub(super) struct Named<'a>(
    pub(super) &'static str,
    pub(super) &'a [u8],
    pub(super) &'a [u8],
);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Named(kind, name, vhost) = *self;
        let (name, vhost) = (shown(name), shown(vhost));
        write!(f, "{kind} '{name}' in vhost '{vhost}'")
    }
}

/// A binding that is to be made or removed.
struct BindingAction<'a> {
    add: bool,
    source: Text,
    destination: Destination,
    key: Text,
    arguments: &'a FieldTable,
}

impl State {
    pub(super) fn vhost_of(&self, at: At) -> Text {
        self.connections
            .get(&at.connection)
            .map_or_else(|| "".into(), |connection| connection.vhost.clone())
    }

    fn vhost_mut(&mut self, name: &Text) -> Outcome<&mut Vhost> {
        match self.vhosts.get_mut(name) {
            Some(vhost) => Ok(vhost),
            None => refuse!(530, "vhost {name} not found"),
        }
    }

    fn reply(&mut self, at: At, no_wait: bool, method: &Method<'_>) -> Outcome {
        if !no_wait {
            self.send(at, method);
        }
        Ok(())
    }

    pub(super) fn exchange_method(&mut self, at: At, method: &Method<'_>) -> Outcome {
        match *method {
            Method::ExchangeDeclare {
                exchange,
                exchange_type,
                passive,
                durable,
                auto_delete,
                internal,
                no_wait,
                arguments,
            } => {
                let declared = Exchange {
                    name: Text::without_line_breaks(exchange),
                    kind: Kind::Direct,
                    durable,
                    auto_delete,
                    internal,
                    arguments: arguments.values().unwrap_or_default(),
                    alternate: None,
                    bindings: Vec::new(),
                };
                let kind = (!passive).then_some(exchange_type);
                self.declare_exchange(at, kind, declared)?;
                self.reply(at, no_wait, &Method::ExchangeDeclareOk {})
            }
            Method::ExchangeDelete {
                exchange,
                if_unused,
                no_wait,
            } => {
                self.delete_exchange(at, Text::without_line_breaks(exchange), if_unused)?;
                self.reply(at, no_wait, &Method::ExchangeDeleteOk {})
            }
            Method::ExchangeBind {
                destination,
                source,
                routing_key,
                no_wait,
                arguments,
            }
            | Method::ExchangeUnbind {
                destination,
                source,
                routing_key,
                no_wait,
                arguments,
            } => {
                let add = matches!(method, Method::ExchangeBind { .. });
                let action = BindingAction {
                    add,
                    source: Text::without_line_breaks(source),
                    destination: Destination::Exchange(Text::without_line_breaks(destination)),
                    key: routing_key.into(),
                    arguments: &arguments.values().unwrap_or_default(),
                };
                self.change_binding(at, action)?;
                let ok = if add {
                    Method::ExchangeBindOk {}
                } else {
                    Method::ExchangeUnbindOk {}
                };
                self.reply(at, no_wait, &ok)
            }
            _ => Ok(()),
        }
    }

    /// Declares an exchange; without a kind, only asks for it.
    fn declare_exchange(
        &mut self,
        at: At,
        kind: Option<ShortStr<'_>>,
        mut declared: Exchange,
    ) -> Outcome {
        let vhost_name = self.vhost_of(at);
        let vhost = self.vhost_mut(&vhost_name)?;
        let name = declared.name.clone();
        let named = Named("exchange", &name, &vhost_name);
        if let Some(kind) = kind {
            match Kind::from_name(&kind) {
                Some(kind) => declared.kind = kind,
                None => {
                    let why = if kind.is_empty() {
                        "invalid"
                    } else {
                        "unknown"
                    };
                    refuse!(406, "{why} exchange type '{}'", Text::from(kind))
                }
            }
        }
        check_not_default(&name)?;
        let Some(found) = vhost.exchanges.get(&name) else {
            if kind.is_none() {
                refuse!(404, "no {named}");
            }
            check_name("exchange", &name)?;
            let alternate = arguments::alternate_exchange(&declared.arguments, &named)?;
            declared.alternate = alternate.map(Text::from);
            vhost.exchanges.insert(name.clone(), declared);
            return Ok(());
        };
        if kind.is_none() {
            return Ok(());
        }
        arguments::compare_field("type", found.kind.name(), declared.kind.name(), &named)?;
        arguments::compare_field("durable", found.durable, declared.durable, &named)?;
        arguments::compare_field(
            "auto_delete",
            found.auto_delete,
            declared.auto_delete,
            &named,
        )?;
        arguments::compare_field("internal", found.internal, declared.internal, &named)?;
        let key = "alternate-exchange";
        arguments::compare(key, &found.arguments, &declared.arguments, &named)
    }

    fn delete_exchange(&mut self, at: At, name: Text, if_unused: bool) -> Outcome {
        let vhost_name = self.vhost_of(at);
        let vhost = self.vhost_mut(&vhost_name)?;
        let named = Named("exchange", &name, &vhost_name);
        check_not_default(&name)?;
        if name.starts_with(b"amq.") {
            refuse!(403, "deletion of system {named} not allowed");
        }
        match vhost.exchanges.get(&name) {
            Some(found) if if_unused && !found.bindings.is_empty() => {
                refuse!(406, "{named} in use")
            }
            Some(_) => vhost.delete_exchange(&name),
            None => {}
        }
        Ok(())
    }

    fn change_binding(&mut self, at: At, action: BindingAction<'_>) -> Outcome {
        let BindingAction {
            add,
            source,
            destination,
            key,
            arguments,
        } = action;
        check_binding_names(&source, &destination)?;
        let vhost_name = self.vhost_of(at);
        let binding = Binding {
            destination,
            key,
            arguments: arguments.clone(),
        };
        let vhost = self.vhost_mut(&vhost_name)?;
        let exchange = vhost.exchanges.get(&source);
        let is_bound = exchange.is_some_and(|exchange| exchange.bindings.contains(&binding));
        if !add && !is_bound {
            // Whether its queue may be used is not checked then.
            return Ok(());
        }
        self.check_ends(at, &vhost_name, &source, &binding, add)?;
        let vhost = self.vhost_mut(&vhost_name)?;
        if !add {
            vhost.remove_binding(&source, &binding);
        } else if let Some(exchange) = vhost.exchanges.get_mut(&source).filter(|_| !is_bound) {
            exchange.bindings.push(binding);
        }
        Ok(())
    }

    /// Whether both ends of a binding are there and may be bound, or unbound.
    fn check_ends(
        &self,
        at: At,
        vhost_name: &Text,
        source: &Text,
        binding: &Binding,
        add: bool,
    ) -> Outcome {
        let Some(vhost) = self.vhosts.get(vhost_name) else {
            return Ok(());
        };
        let Some(exchange) = vhost.exchanges.get(source) else {
            refuse!(404, "no {}", Named("exchange", source, vhost_name));
        };
        let arguments_are_valid = if add {
            exchange.check_binding(&binding.arguments)
        } else {
            Ok(())
        };
        match &binding.destination {
            Destination::Queue(name) => {
                let Some(id) = vhost.queues.get(name) else {
                    refuse!(404, "no {}", Named("queue", name, vhost_name));
                };
                // RabbitMQ checks the arguments before it checks whose the queue is.
                arguments_are_valid?;
                self.queues
                    .get(id)
                    .map_or(Ok(()), |queue| check_owner(queue, at))
            }
            Destination::Exchange(name) if !vhost.exchanges.contains_key(name) => {
                refuse!(404, "no {}", Named("exchange", name, vhost_name))
            }
            Destination::Exchange(_) => arguments_are_valid,
        }
    }

    pub(super) fn queue_method(&mut self, at: At, method: &Method<'_>) -> Outcome {
        match *method {
            Method::QueueDeclare { .. } => self.declare_queue(at, method),
            Method::QueueBind {
                queue,
                exchange,
                routing_key,
                no_wait,
                arguments,
            } => {
                let action = BindingAction {
                    add: true,
                    source: Text::without_line_breaks(exchange),
                    key: self.key_or_last_queue(at, queue, routing_key)?,
                    destination: Destination::Queue(self.name_without_line_breaks(at, queue)?),
                    arguments: &arguments.values().unwrap_or_default(),
                };
                self.change_binding(at, action)?;
                self.reply(at, no_wait, &Method::QueueBindOk {})
            }
            Method::QueueUnbind {
                queue,
                exchange,
                routing_key,
                arguments,
            } => {
                let action = BindingAction {
                    add: false,
                    source: Text::without_line_breaks(exchange),
                    key: self.key_or_last_queue(at, queue, routing_key)?,
                    destination: Destination::Queue(self.name_without_line_breaks(at, queue)?),
                    arguments: &arguments.values().unwrap_or_default(),
                };
                self.change_binding(at, action)?;
                self.reply(at, false, &Method::QueueUnbindOk {})
            }
            Method::QueuePurge { queue, no_wait } => {
                let name = self.name_or_last_queue(at, queue)?;
                if is_reply_name(&name) {
                    return self.reply(at, no_wait, &Method::QueuePurgeOk { message_count: 0 });
                }
                let id = self.own_queue(at, &name)?;
                let message_count = self.queues.get_mut(&id).map_or(0, Queue::purge);
                self.reply(at, no_wait, &Method::QueuePurgeOk { message_count })
            }
            Method::QueueDelete {
                queue,
                if_unused,
                if_empty,
                no_wait,
            } => {
                let name = self.name_without_line_breaks(at, queue)?;
                let message_count = self.delete_named_queue(at, &name, if_unused, if_empty)?;
                self.reply(at, no_wait, &Method::QueueDeleteOk { message_count })
            }
            _ => Ok(()),
        }
    }

    fn delete_named_queue(
        &mut self,
        at: At,
        name: &Text,
        if_unused: bool,
        if_empty: bool,
    ) -> Outcome<u32> {
        let vhost = self.vhost_of(at);
        let Some(id) = self.queue_id(&vhost, name) else {
            return Ok(0);
        };
        if let Some(queue) = self.queues.get(&id) {
            check_owner(queue, at)?;
            let named = Named("queue", name, &vhost);
            if if_empty && !queue.ready.is_empty() {
                refuse!(406, "{named} not empty");
            }
            if if_unused && !queue.consumers.is_empty() {
                refuse!(406, "{named} in use");
            }
        }
        Ok(self.delete_queue(id))
    }

    fn declare_queue(&mut self, at: At, method: &Method<'_>) -> Outcome {
        let Method::QueueDeclare {
            queue,
            passive,
            durable,
            exclusive,
            auto_delete,
            no_wait,
            arguments,
        } = *method
        else {
            return Ok(());
        };
        let vhost_name = self.vhost_of(at);
        let mut name = Text::without_line_breaks(queue);
        let named = |name: &Text| Named("queue", name, &vhost_name).to_string();
        if queue.starts_with(REPLY_TO.as_bytes()) {
            if is_reply_name(&name) {
                if !self.reply_queues.contains_key(&name) {
                    refuse!(404, "no {}", named(&name));
                }
            } else if *name != *REPLY_TO.as_bytes() {
                // RabbitMQ's channel crashes over a name that it cannot have made.
                return Err(Refusal::bare(541).at((0, 0)));
            }
            return self.declared(at, name, no_wait, 0, 1);
        }
        let owner = exclusive.then_some(at.connection);
        let durable = durable && !exclusive;
        if name.is_empty() && !passive {
            name = self.new_name("amq.gen-");
        } else if !passive {
            check_name("queue", &name)?;
        }
        if let Some(id) = self.queue_id(&vhost_name, &name) {
            let Some(found) = self.queues.get_mut(&id) else {
                return Ok(());
            };
            let named = named(&name);
            if passive {
                found.unused_since = Instant::now();
                let counts = counts(found);
                check_owner(found, at)?;
                return self.declared(at, name, no_wait, counts.0, counts.1);
            }
            let arguments = arguments.values().unwrap_or_default();
            if found.owner != owner {
                return locked(&named);
            }
            arguments::compare_field("durable", found.durable, durable, &named)?;
            arguments::compare_field("auto_delete", found.auto_delete, auto_delete, &named)?;
            arguments::compare_queue(&found.arguments, &arguments, &named)?;
            found.unused_since = Instant::now();
            let counts = counts(found);
            return self.declared(at, name, no_wait, counts.0, counts.1);
        }
        if passive {
            refuse!(404, "no {}", named(&name));
        }
        let arguments = arguments.values().unwrap_or_default();
        let settings = arguments::queue_settings(&arguments, &named(&name))?;
        let mut queue = Queue::new(vhost_name.clone(), name.clone(), arguments);
        queue.durable = durable;
        queue.auto_delete = auto_delete;
        queue.owner = owner;
        queue.settings = settings;
        let id = self.new_id();
        self.queues.insert(id, queue);
        self.vhost_mut(&vhost_name)?.queues.insert(name.clone(), id);
        self.note_deadline(id);
        self.declared(at, name, no_wait, 0, 0)
    }

    fn declared(
        &mut self,
        at: At,
        name: Text,
        no_wait: bool,
        message_count: u32,
        consumer_count: u32,
    ) -> Outcome {
        if let Some(channel) = self.channel_mut(at) {
            channel.last_queue = Some(name.clone());
        }
        let ok = Method::QueueDeclareOk {
            queue: name.name(),
            message_count,
            consumer_count,
        };
        self.reply(at, no_wait, &ok)
    }

    /// A queue by its name, if this connection may use it.
    pub(super) fn own_queue(&self, at: At, name: &Text) -> Outcome<u64> {
        let vhost = self.vhost_of(at);
        let found = self.queue_id(&vhost, name);
        match found.and_then(|id| Some((id, self.queues.get(&id)?))) {
            Some((id, queue)) => check_owner(queue, at).map(|()| id),
            None => refuse!(404, "no {}", Named("queue", name, &vhost)),
        }
    }

    /// An empty name is the queue that was declared last on the channel.
    pub(super) fn name_or_last_queue(&mut self, at: At, name: ShortStr<'_>) -> Outcome<Text> {
        if !name.is_empty() {
            return Ok(name.into());
        }
        match self
            .channel_mut(at)
            .and_then(|channel| channel.last_queue.clone())
        {
            Some(name) => Ok(name),
            None => refuse!(404, "no previously declared queue"),
        }
    }

    /// The same for methods that take line breaks out of names. In the others, a queue of such a name is not found.
    fn name_without_line_breaks(&mut self, at: At, name: ShortStr<'_>) -> Outcome<Text> {
        let name = self.name_or_last_queue(at, name)?;
        Ok(Text::without_line_breaks(name.name()))
    }

    /// If both names are empty, the routing key is the name of that queue as well.
    fn key_or_last_queue(
        &mut self,
        at: At,
        queue: ShortStr<'_>,
        key: ShortStr<'_>,
    ) -> Outcome<Text> {
        if queue.is_empty() && key.is_empty() {
            return self.name_or_last_queue(at, queue);
        }
        Ok(key.into())
    }

    /// Deletes a queue that goes with its last consumer, if that has gone.
    pub(super) fn delete_if_unused(&mut self, id: u64) {
        let unused = self
            .queues
            .get(&id)
            .is_some_and(|queue| queue.auto_delete && queue.consumers.is_empty());
        if unused {
            self.delete_queue(id);
        } else {
            self.note_deadline(id);
            self.later(Work::Dispatch(id));
        }
    }
}

fn counts(queue: &Queue) -> (u32, u32) {
    (queue.ready.len() as u32, queue.consumers.len() as u32)
}

/// Whether these names may stand in a binding.
fn check_binding_names(source: &Text, destination: &Destination) -> Outcome {
    match destination {
        Destination::Queue(name) if is_below_reply_to(name) => {
            refuse!(
                403,
                "cannot bind or unbind to a volatile (direct reply-to) queue"
            )
        }
        Destination::Queue(_) => {}
        Destination::Exchange(name) => check_not_default(name)?,
    }
    check_not_default(source)
}

fn check_not_default(exchange: &Text) -> Outcome {
    if exchange.is_empty() {
        refuse!(403, "operation not permitted on the default exchange");
    }
    Ok(())
}

fn check_name(kind: &str, name: &Text) -> Outcome {
    if name.starts_with(b"amq.") {
        refuse!(403, "{kind} name '{name}' contains reserved prefix 'amq.*'");
    }
    Ok(())
}

/// Whether the connection may use the queue: an exclusive one belongs to the connection that declared it.
fn check_owner(queue: &Queue, at: At) -> Outcome {
    match queue.owner {
        Some(owner) if owner != at.connection => {
            locked(&Named("queue", &queue.name, &queue.vhost).to_string())
        }
        _ => Ok(()),
    }
}

fn locked(queue: &str) -> Outcome {
    refuse!(
        405,
        "cannot obtain exclusive access to locked {queue}. It could be originally declared on another connection or the \
         exclusive property value does not match that of the original declaration."
    )
}
