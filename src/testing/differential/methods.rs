//! The operations as AMQP's methods.

use super::driver::{Channel, Wire};
use super::operations::{Argument, Arguments, What};
use crate::protocol::method::Method;
use crate::FieldTable;

fn arguments(prefix: &str, arguments: &Arguments) -> FieldTable {
    arguments
        .0
        .iter()
        .map(|(key, argument)| {
            let value = match argument {
                Argument::Value(value) => value.clone(),
                Argument::Exchange(number) => exchange_name(prefix, *number).into(),
                Argument::Queue(number) => format!("{prefix}q{number}").into(),
            };
            (*key, value)
        })
        .collect()
}

fn exchange_name(prefix: &str, number: u8) -> String {
    match number {
        0 => String::new(),
        number => format!("{prefix}e{number}"),
    }
}

/// Sends one operation. `target` is the delivery tag that it means, and whether it is for several.
pub(super) fn send(
    wire: &mut Wire,
    number: u16,
    prefix: &str,
    body: u32,
    what: &What,
    target: Option<(u64, bool)>,
) {
    let queue_name = |queue: &u8| format!("{prefix}q{queue}");
    let (no_wait, none) = (false, FieldTable::new());
    match what {
        What::CloseConnection => {}
        What::CloseChannel => {
            let close = Method::ChannelClose {
                reply_code: 200,
                reply_text: "".into(),
                class_id: 0,
                method_id: 0,
            };
            wire.send(number, &close);
            wire.wait_for("ChannelCloseOk");
            wire.channels.insert(number, Channel::default());
        }
        What::DeclareExchange {
            exchange,
            kind,
            flags,
            arguments: table,
        } => {
            let (name, table) = (exchange_name(prefix, *exchange), arguments(prefix, table));
            let [passive, durable, auto_delete, internal] = *flags;
            wire.send(
                number,
                &Method::ExchangeDeclare {
                    exchange: (&name).into(),
                    exchange_type: (*kind).into(),
                    passive,
                    durable,
                    auto_delete,
                    internal,
                    no_wait,
                    arguments: (&table).into(),
                },
            );
        }
        What::DeleteExchange {
            exchange,
            if_unused,
        } => {
            let name = exchange_name(prefix, *exchange);
            wire.send(
                number,
                &Method::ExchangeDelete {
                    exchange: (&name).into(),
                    if_unused: *if_unused,
                    no_wait,
                },
            );
        }
        What::BindExchange {
            bind,
            destination,
            source,
            key,
        } => {
            let names = (
                exchange_name(prefix, *destination),
                exchange_name(prefix, *source),
            );
            let (destination, source) = ((&names.0).into(), (&names.1).into());
            let (routing_key, arguments) = ((*key).into(), (&none).into());
            wire.send(
                number,
                &if *bind {
                    Method::ExchangeBind {
                        destination,
                        source,
                        routing_key,
                        no_wait,
                        arguments,
                    }
                } else {
                    Method::ExchangeUnbind {
                        destination,
                        source,
                        routing_key,
                        no_wait,
                        arguments,
                    }
                },
            );
        }
        What::DeclareQueue {
            queue,
            flags,
            arguments: table,
        } => {
            let (name, table) = (queue_name(queue), arguments(prefix, table));
            let [passive, durable, exclusive, auto_delete] = *flags;
            wire.send(
                number,
                &Method::QueueDeclare {
                    queue: (&name).into(),
                    passive,
                    durable,
                    exclusive,
                    auto_delete,
                    no_wait,
                    arguments: (&table).into(),
                },
            );
        }
        What::DeleteQueue {
            queue,
            if_unused,
            if_empty,
        } => {
            let name = queue_name(queue);
            let (if_unused, if_empty) = (*if_unused, *if_empty);
            wire.send(
                number,
                &Method::QueueDelete {
                    queue: (&name).into(),
                    if_unused,
                    if_empty,
                    no_wait,
                },
            );
        }
        What::Purge { queue } => {
            let name = queue_name(queue);
            wire.send(
                number,
                &Method::QueuePurge {
                    queue: (&name).into(),
                    no_wait,
                },
            );
        }
        What::BindQueue {
            bind,
            queue,
            exchange,
            key,
            arguments: table,
        } => {
            let names = (queue_name(queue), exchange_name(prefix, *exchange));
            let table = arguments(prefix, table);
            let (queue, exchange) = ((&names.0).into(), (&names.1).into());
            let (routing_key, arguments) = ((*key).into(), (&table).into());
            wire.send(
                number,
                &if *bind {
                    Method::QueueBind {
                        queue,
                        exchange,
                        routing_key,
                        no_wait,
                        arguments,
                    }
                } else {
                    Method::QueueUnbind {
                        queue,
                        exchange,
                        routing_key,
                        arguments,
                    }
                },
            );
        }
        What::Publish {
            exchange,
            queue,
            key,
            mandatory,
            size,
            properties,
        } => {
            let exchange_name = exchange_name(prefix, *exchange);
            let key = if *exchange == 0 {
                queue_name(queue)
            } else {
                (*key).to_owned()
            };
            let mut body = format!("m{body:04}-").into_bytes();
            body.resize(*size, b'.');
            let publish = Method::BasicPublish {
                exchange: (&exchange_name).into(),
                routing_key: (&key).into(),
                mandatory: *mandatory,
                immediate: false,
            };
            wire.publish(number, &publish, properties, &body);
            if let Some(channel) = wire.channels.get_mut(&number) {
                channel.published += u64::from(channel.confirms);
            }
        }
        What::Consume {
            queue,
            tag,
            no_ack,
            exclusive,
            arguments: table,
        } => {
            let (name, tag) = (queue_name(queue), format!("c{tag}"));
            let table = arguments(prefix, table);
            if let Some(channel) = wire.channels.get_mut(&number) {
                channel.consumers.entry(tag.clone()).or_insert(*no_ack);
            }
            wire.send(
                number,
                &Method::BasicConsume {
                    queue: (&name).into(),
                    consumer_tag: (&tag).into(),
                    no_local: false,
                    no_ack: *no_ack,
                    exclusive: *exclusive,
                    no_wait,
                    arguments: (&table).into(),
                },
            );
        }
        What::Cancel { tag } => {
            let tag = format!("c{tag}");
            wire.send(
                number,
                &Method::BasicCancel {
                    consumer_tag: (&tag).into(),
                    no_wait,
                },
            );
            wire.sync(number);
            if let Some(channel) = wire.channels.get_mut(&number) {
                channel.consumers.remove(&tag);
            }
        }
        What::Get { queue, no_ack } => {
            let name = queue_name(queue);
            let before = wire
                .channels
                .get(&number)
                .map_or(0, |channel| channel.unacknowledged.len());
            wire.send(
                number,
                &Method::BasicGet {
                    queue: (&name).into(),
                    no_ack: *no_ack,
                },
            );
            wire.sync(number);
            if let (true, Some(channel)) = (*no_ack, wire.channels.get_mut(&number)) {
                // Deliveries may have come as well.
                let fetched =
                    channel.unacknowledged[before.min(channel.unacknowledged.len())..].iter();
                if let Some(at) = fetched
                    .clone()
                    .position(|message| message.identity.starts_with("get"))
                {
                    channel.unacknowledged.remove(before + at);
                }
            }
        }
        What::Acknowledge { how, requeue, .. } => {
            let (delivery_tag, multiple) = target.unwrap_or((999, false));
            let requeue = *requeue;
            let multiple = multiple && *how != 1;
            let method = match how {
                0 => Method::BasicAck {
                    delivery_tag,
                    multiple,
                },
                1 => Method::BasicReject {
                    delivery_tag,
                    requeue,
                },
                _ => Method::BasicNack {
                    delivery_tag,
                    multiple,
                    requeue,
                },
            };
            if let Some(channel) = wire.channels.get_mut(&number) {
                if multiple && delivery_tag == 0 {
                    channel.unacknowledged.clear();
                }
                if channel
                    .unacknowledged
                    .iter()
                    .any(|message| message.tag == delivery_tag)
                {
                    channel.unacknowledged.retain(|message| {
                        message.tag != delivery_tag && !(multiple && message.tag < delivery_tag)
                    });
                }
            }
            wire.send(number, &method);
        }
        What::Recover => {
            if let Some(channel) = wire.channels.get_mut(&number) {
                channel.unacknowledged.clear();
            }
            wire.send(number, &Method::BasicRecover { requeue: true });
        }
        What::Qos { count, global } => wire.send(
            number,
            &Method::BasicQos {
                prefetch_size: 0,
                prefetch_count: *count,
                global: *global,
            },
        ),
        What::Confirm => {
            wire.send(number, &Method::ConfirmSelect { no_wait });
            wire.sync(number);
            if let Some(channel) = wire.channels.get_mut(&number) {
                channel.confirms = channel.open && !channel.transaction;
            }
        }
        What::Transaction(which) => {
            wire.send(
                number,
                &match which {
                    0 => Method::TxSelect {},
                    1 => Method::TxCommit {},
                    _ => Method::TxRollback {},
                },
            );
            if *which == 1 {
                // A channel takes nothing else while it commits.
                wire.wait_for_reply(number, "TxCommitOk");
            }
            wire.sync(number);
            if let Some(channel) = wire.channels.get_mut(&number) {
                channel.transaction |= channel.open && *which == 0;
            }
        }
    }
}
