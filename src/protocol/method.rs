//! The methods of AMQP 0-9-1 and RabbitMQ's extensions: one table, from which come the type, its encoding, its decoding
//! and the names. `tests/spec.rs` holds the table against the machine-readable specification.

use byteorder::{BigEndian, ByteOrder};

use super::field_table::Table;
use super::wire::{Reader, ShortStr, WireError, Writer};

/// The Rust type of a wire type.
macro_rules! type_of {
    (octet $a:lifetime) => { u8 };
    (short $a:lifetime) => { u16 };
    (long $a:lifetime) => { u32 };
    (longlong $a:lifetime) => { u64 };
    (bit $a:lifetime) => { bool };
    (shortstr $a:lifetime) => { ShortStr<$a> };
    (longstr $a:lifetime) => { &$a [u8] };
    (table $a:lifetime) => { Table<$a> };
}

/// What is sent for a reserved field.
macro_rules! zero {
    (short) => {
        &0
    };
    (bit) => {
        &false
    };
    (shortstr) => {
        b""
    };
    (longstr) => {
        &[]
    };
}

/// Reads or writes a value of a wire type.
macro_rules! pass {
    ($side:ident.table($($argument:expr),*)) => { $side.table_bytes($($argument),*) };
    ($side:ident.$kind:ident($($argument:expr),*)) => { $side.$kind($($argument),*) };
}

/// Returns from a function if this is a short string that is not UTF-8.
macro_rules! must_be_utf8 {
    (shortstr $field:ident) => {
        if std::str::from_utf8($field).is_err() {
            return Err(WireError::not_utf8(stringify!($field), $field));
        }
    };
    ($other:ident $field:ident) => {
        let _ = $field;
    };
}

/// Whether a method of this sender is read: a client reads what a server sends. The broker for tests, tests and fuzzing
/// read everything.
macro_rules! comes_from {
    (client) => {
        cfg!(any(
            test,
            fuzzing,
            feature = "testing",
            feature = "unstable-internals"
        ))
    };
    ($server_or_either:ident) => {
        true
    };
}

/// Whether a method of this sender is written.
macro_rules! goes_from {
    (server) => {
        cfg!(any(
            test,
            fuzzing,
            feature = "testing",
            feature = "unstable-internals"
        ))
    };
    ($client_or_either:ident) => {
        true
    };
}

/// A method is a line: who sends it (`client`, `server` or `either`), class id, method id, the variant's name, the
/// specification's name, and the fields. Reserved fields stand in square brackets, before the others or (`then`) behind them;
/// they are sent as zero and skipped when read.
macro_rules! methods {
    ($(
        $sender:ident $class:literal $method:literal $variant:ident $name:literal
        $([$($before:ident: $before_kind:ident),+])?
        $({$($field:ident: $kind:ident),+})?
        $(then [$($after:ident: $after_kind:ident),+])?;
    )+) => {
        /// One method, with its arguments but without those that are reserved.
        #[derive(Debug, Clone, Copy, PartialEq)]
        pub(crate) enum Method<'a> {
            $( $variant $({ $($field: type_of!($kind 'a)),+ })?, )+
        }

        impl<'a> Method<'a> {
            /// Reads class id, method id and arguments, which must fill the payload.
            pub(crate) fn decode(payload: &'a [u8]) -> Result<Method<'a>, WireError> {
                match deliver(payload) {
                    Some(deliver) => Ok(deliver),
                    None => Method::decode_by_table(payload),
                }
            }

            /// The same, for every method.
            pub(super) fn decode_by_table(payload: &'a [u8]) -> Result<Method<'a>, WireError> {
                let mut reader = Reader::new(payload);
                let class = reader.short();
                let method = reader.short();
                let read = match (class, method) {
                    $( ($class, $method) if comes_from!($sender) => {
                        $( $( reader.$before_kind(); )+ )?
                        $( $( let $field = pass!(reader.$kind()); )+ )?
                        $( $( reader.$after_kind(); )+ )?
                        Method::$variant $({ $($field),+ })?
                    } )+
                    _ => {
                        reader.fail(WireError::UnknownMethod { class, method });
                        Method::ConnectionUnblocked
                    }
                };
                if !reader.is_done() {
                    reader.finish(Method::name_of(class, method).unwrap_or("a method"))?;
                }
                Ok(read)
            }

            /// Appends class id, method id and arguments. After an error, part of them may stand in `out`.
            pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<(), WireError> {
                match *self {
                    Method::BasicPublish { exchange, routing_key, mandatory, immediate } => {
                        publish(out, exchange, routing_key, mandatory, immediate)
                    }
                    Method::BasicAck { delivery_tag, multiple } => {
                        ack(out, delivery_tag, multiple);
                        Ok(())
                    }
                    _ => self.encode_by_table(out),
                }
            }

            /// The same, for every method.
            pub(super) fn encode_by_table(&self, out: &mut Vec<u8>) -> Result<(), WireError> {
                let (class, method) = self.id();
                out.extend_from_slice(&ids(class, method));
                let mut writer = Writer::new(out);
                match self {
                    $( Method::$variant $({ $($field),+ })? if goes_from!($sender) => {
                        $( $( writer.$before_kind(stringify!($before), zero!($before_kind)); )+ )?
                        $( $( pass!(writer.$kind(stringify!($field), $field)); )+ )?
                        $( $( writer.$after_kind(stringify!($after), zero!($after_kind)); )+ )?
                    } )+
                    _ => debug_assert!(false, "a client does not send {}", self.name()),
                }
                writer.finish()
            }

            /// Refuses a short string that is not UTF-8: RabbitMQ closes the connection (501) over it in every method but
            /// `basic.publish`.
            pub(crate) fn check_utf8(&self) -> Result<(), WireError> {
                match self {
                    $( Method::$variant $({ $($field),+ })? if goes_from!($sender) => {
                        $( $( must_be_utf8!($kind $field); )+ )?
                    } )+
                    _ => {}
                }
                Ok(())
            }

            /// Class id and method id.
            pub(crate) fn id(&self) -> MethodId {
                match self {
                    $( Method::$variant { .. } => ($class, $method), )+
                }
            }

            /// The specification's name, such as `queue.declare-ok`.
            pub(crate) fn name(&self) -> &'static str {
                match self {
                    $( Method::$variant { .. } => $name, )+
                }
            }

            /// The specification's name of the method with these ids.
            pub(crate) fn name_of(class: u16, method: u16) -> Option<&'static str> {
                match (class, method) {
                    $( ($class, $method) => Some($name), )+
                    _ => None,
                }
            }
        }

        /// The table itself, for the test that holds it against the specification.
        #[cfg(test)]
        pub(crate) const TABLE: &[(&str, u16, u16, &str, &[(&str, &str)])] = &[$(
            (stringify!($sender), $class, $method, $name, &[
                $( $( (stringify!($before), stringify!($before_kind)), )+ )?
                $( $( (stringify!($field), stringify!($kind)), )+ )?
                $( $( (stringify!($after), stringify!($after_kind)), )+ )?
            ]),
        )+];
    };
}

methods! {
    server 10 10 ConnectionStart "connection.start" { version_major: octet, version_minor: octet, server_properties: table, mechanisms: longstr, locales: longstr };
    client 10 11 ConnectionStartOk "connection.start-ok" { client_properties: table, mechanism: shortstr, response: longstr, locale: shortstr };
    server 10 20 ConnectionSecure "connection.secure" { challenge: longstr };
    client 10 21 ConnectionSecureOk "connection.secure-ok" { response: longstr };
    server 10 30 ConnectionTune "connection.tune" { channel_max: short, frame_max: long, heartbeat: short };
    client 10 31 ConnectionTuneOk "connection.tune-ok" { channel_max: short, frame_max: long, heartbeat: short };
    client 10 40 ConnectionOpen "connection.open" { virtual_host: shortstr } then [capabilities: shortstr, insist: bit];
    server 10 41 ConnectionOpenOk "connection.open-ok" [known_hosts: shortstr];
    either 10 50 ConnectionClose "connection.close" { reply_code: short, reply_text: shortstr, class_id: short, method_id: short };
    either 10 51 ConnectionCloseOk "connection.close-ok";
    server 10 60 ConnectionBlocked "connection.blocked" { reason: shortstr };
    server 10 61 ConnectionUnblocked "connection.unblocked";
    client 10 70 ConnectionUpdateSecret "connection.update-secret" { new_secret: longstr, reason: shortstr };
    server 10 71 ConnectionUpdateSecretOk "connection.update-secret-ok";

    client 20 10 ChannelOpen "channel.open" [out_of_band: shortstr];
    server 20 11 ChannelOpenOk "channel.open-ok" [channel_id: longstr];
    either 20 20 ChannelFlow "channel.flow" { active: bit };
    either 20 21 ChannelFlowOk "channel.flow-ok" { active: bit };
    either 20 40 ChannelClose "channel.close" { reply_code: short, reply_text: shortstr, class_id: short, method_id: short };
    either 20 41 ChannelCloseOk "channel.close-ok";

    client 30 10 AccessRequest "access.request" { realm: shortstr, exclusive: bit, passive: bit, active: bit, write: bit, read: bit };
    server 30 11 AccessRequestOk "access.request-ok" { ticket: short };

    client 40 10 ExchangeDeclare "exchange.declare" [ticket: short] { exchange: shortstr, exchange_type: shortstr, passive: bit, durable: bit, auto_delete: bit, internal: bit, no_wait: bit, arguments: table };
    server 40 11 ExchangeDeclareOk "exchange.declare-ok";
    client 40 20 ExchangeDelete "exchange.delete" [ticket: short] { exchange: shortstr, if_unused: bit, no_wait: bit };
    server 40 21 ExchangeDeleteOk "exchange.delete-ok";
    client 40 30 ExchangeBind "exchange.bind" [ticket: short] { destination: shortstr, source: shortstr, routing_key: shortstr, no_wait: bit, arguments: table };
    server 40 31 ExchangeBindOk "exchange.bind-ok";
    client 40 40 ExchangeUnbind "exchange.unbind" [ticket: short] { destination: shortstr, source: shortstr, routing_key: shortstr, no_wait: bit, arguments: table };
    server 40 51 ExchangeUnbindOk "exchange.unbind-ok";

    client 50 10 QueueDeclare "queue.declare" [ticket: short] { queue: shortstr, passive: bit, durable: bit, exclusive: bit, auto_delete: bit, no_wait: bit, arguments: table };
    server 50 11 QueueDeclareOk "queue.declare-ok" { queue: shortstr, message_count: long, consumer_count: long };
    client 50 20 QueueBind "queue.bind" [ticket: short] { queue: shortstr, exchange: shortstr, routing_key: shortstr, no_wait: bit, arguments: table };
    server 50 21 QueueBindOk "queue.bind-ok";
    client 50 30 QueuePurge "queue.purge" [ticket: short] { queue: shortstr, no_wait: bit };
    server 50 31 QueuePurgeOk "queue.purge-ok" { message_count: long };
    client 50 40 QueueDelete "queue.delete" [ticket: short] { queue: shortstr, if_unused: bit, if_empty: bit, no_wait: bit };
    server 50 41 QueueDeleteOk "queue.delete-ok" { message_count: long };
    client 50 50 QueueUnbind "queue.unbind" [ticket: short] { queue: shortstr, exchange: shortstr, routing_key: shortstr, arguments: table };
    server 50 51 QueueUnbindOk "queue.unbind-ok";

    client 60 10 BasicQos "basic.qos" { prefetch_size: long, prefetch_count: short, global: bit };
    server 60 11 BasicQosOk "basic.qos-ok";
    client 60 20 BasicConsume "basic.consume" [ticket: short] { queue: shortstr, consumer_tag: shortstr, no_local: bit, no_ack: bit, exclusive: bit, no_wait: bit, arguments: table };
    server 60 21 BasicConsumeOk "basic.consume-ok" { consumer_tag: shortstr };
    either 60 30 BasicCancel "basic.cancel" { consumer_tag: shortstr, no_wait: bit };
    either 60 31 BasicCancelOk "basic.cancel-ok" { consumer_tag: shortstr };
    client 60 40 BasicPublish "basic.publish" [ticket: short] { exchange: shortstr, routing_key: shortstr, mandatory: bit, immediate: bit };
    server 60 50 BasicReturn "basic.return" { reply_code: short, reply_text: shortstr, exchange: shortstr, routing_key: shortstr };
    server 60 60 BasicDeliver "basic.deliver" { consumer_tag: shortstr, delivery_tag: longlong, redelivered: bit, exchange: shortstr, routing_key: shortstr };
    client 60 70 BasicGet "basic.get" [ticket: short] { queue: shortstr, no_ack: bit };
    server 60 71 BasicGetOk "basic.get-ok" { delivery_tag: longlong, redelivered: bit, exchange: shortstr, routing_key: shortstr, message_count: long };
    server 60 72 BasicGetEmpty "basic.get-empty" [cluster_id: shortstr];
    either 60 80 BasicAck "basic.ack" { delivery_tag: longlong, multiple: bit };
    client 60 90 BasicReject "basic.reject" { delivery_tag: longlong, requeue: bit };
    client 60 100 BasicRecoverAsync "basic.recover-async" { requeue: bit };
    client 60 110 BasicRecover "basic.recover" { requeue: bit };
    server 60 111 BasicRecoverOk "basic.recover-ok";
    either 60 120 BasicNack "basic.nack" { delivery_tag: longlong, multiple: bit, requeue: bit };

    client 90 10 TxSelect "tx.select";
    server 90 11 TxSelectOk "tx.select-ok";
    client 90 20 TxCommit "tx.commit";
    server 90 21 TxCommitOk "tx.commit-ok";
    client 90 30 TxRollback "tx.rollback";
    server 90 31 TxRollbackOk "tx.rollback-ok";

    client 85 10 ConfirmSelect "confirm.select" { no_wait: bit };
    server 85 11 ConfirmSelectOk "confirm.select-ok";
}

/// The class id and the method id.
pub(crate) type MethodId = (u16, u16);

/// The methods that are known by their ids alone, without their arguments.
pub(crate) mod id {
    use super::MethodId;

    pub(crate) const CONNECTION_CLOSE: MethodId = (10, 50);
    pub(crate) const CONNECTION_CLOSE_OK: MethodId = (10, 51);
    pub(crate) const CHANNEL_OPEN_OK: MethodId = (20, 11);
    pub(crate) const CHANNEL_CLOSE: MethodId = (20, 40);
    pub(crate) const CHANNEL_CLOSE_OK: MethodId = (20, 41);
    pub(crate) const EXCHANGE_UNBIND_OK: MethodId = (40, 51);
    pub(crate) const BASIC_DELIVER: MethodId = (60, 60);
    pub(crate) const BASIC_CONSUME_OK: MethodId = (60, 21);
    pub(crate) const BASIC_CANCEL_OK: MethodId = (60, 31);
    pub(crate) const BASIC_GET_OK: MethodId = (60, 71);
    pub(crate) const BASIC_RECOVER_OK: MethodId = (60, 111);
}

impl Method<'_> {
    /// The method that replies to this one, if any does. It has the next number, but for one.
    pub(crate) fn reply_id(&self) -> MethodId {
        match (self, self.id()) {
            (Method::ExchangeUnbind { .. }, _) => id::EXCHANGE_UNBIND_OK,
            (_, (class, method)) => (class, method + 1),
        }
    }

    /// The consumer that this call starts or cancels.
    pub(crate) fn consumer_tag(&self) -> Option<&[u8]> {
        match self {
            Method::BasicConsume { consumer_tag, .. }
            | Method::BasicCancel { consumer_tag, .. } => Some(consumer_tag),
            _ => None,
        }
    }

    /// Whether a content header, and the body if there is one, follow this method.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn has_content(&self) -> bool {
        matches!(
            self,
            Method::BasicPublish { .. }
                | Method::BasicReturn { .. }
                | Method::BasicDeliver { .. }
                | Method::BasicGetOk { .. }
        )
    }
}

/// `basic.deliver`, if this is one and nothing is wrong with it: read as the table says, but faster, since it comes with
/// each message that is consumed.
#[inline]
fn deliver(payload: &[u8]) -> Option<Method<'_>> {
    let (class, method) = id::BASIC_DELIVER;
    let rest = payload.strip_prefix(&ids(class, method))?;
    let (consumer_tag, rest) = ShortStr::first(rest)?;
    let (numbers, rest) = rest.split_first_chunk::<9>()?;
    let (exchange, rest) = ShortStr::first(rest)?;
    let (routing_key, rest) = ShortStr::first(rest)?;
    rest.is_empty().then(|| Method::BasicDeliver {
        consumer_tag,
        delivery_tag: BigEndian::read_u64(&numbers[..8]),
        redelivered: numbers[8] & 1 != 0,
        exchange,
        routing_key,
    })
}

/// `basic.publish`, written as the table says, but faster.
fn publish(
    out: &mut Vec<u8>,
    exchange: ShortStr<'_>,
    routing_key: ShortStr<'_>,
    mandatory: bool,
    immediate: bool,
) -> Result<(), WireError> {
    out.extend_from_slice(&[0, 60, 0, 40, 0, 0]);
    let mut writer = Writer::new(out);
    writer.shortstr("exchange", &exchange);
    writer.shortstr("routing_key", &routing_key);
    writer.finish()?;
    out.push(u8::from(mandatory) | u8::from(immediate) << 1);
    Ok(())
}

/// `basic.ack`, in the same way.
fn ack(out: &mut Vec<u8>, delivery_tag: u64, multiple: bool) {
    let mut ack = [0, 60, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, u8::from(multiple)];
    BigEndian::write_u64(&mut ack[4..12], delivery_tag);
    out.extend_from_slice(&ack);
}

const fn ids(class: u16, method: u16) -> [u8; 4] {
    let (class, method) = (class.to_be_bytes(), method.to_be_bytes());
    [class[0], class[1], method[0], method[1]]
}
