//! A connection: the handshake, its frames, and its end.

use std::time::Duration;

use super::link::{Link, Outbox};
use super::refusal::{refuse, Binary, Outcome, Refusal};
use super::state::{At, Connection, Phase, State};
use super::text::{is_utf8, Text};
use crate::protocol::frame::{self, Frame, FRAME_END, FRAME_OVERHEAD, PROTOCOL_HEADER};
use crate::protocol::method::Method;
use crate::protocol::wire::{ShortStr, WireError};
use crate::{FieldTable, FieldValue};

/// The least that a client may name as `frame_max`; the specification (4.2.3) would have 4096. A test may set less.
const FRAME_MIN: u32 = 8192;

/// The fewest bytes of a method, and of a content header.
const METHOD_MIN: u32 = 4;
const HEADER_MIN: u32 = 12;

/// What comes before the payload of a frame: its type, channel and length.
const FRAME_PREFIX: usize = 7;

/// The largest frame before another size is agreed on.
const FRAME_MAX_AT_FIRST: u32 = 8192;

/// RabbitMQ takes frames that are a little larger than agreed, since some clients count differently.
const FUDGE: u32 = 8;

/// A body in a text is cut after so many bytes.
const SNIPPET: usize = 16;

/// What becomes of a protocol header.
pub(super) enum Greeting {
    /// It is for AMQP 0-9-1, or 0-9, which is spoken the same way.
    Welcome,
    /// The connection ends with this header, for what the broker would take instead.
    Refused([u8; 8]),
}

/// As RabbitMQ 4 has it, save that AMQP 1.0 is refused.
pub(super) fn greeting(header: [u8; 8]) -> Greeting {
    match header {
        PROTOCOL_HEADER | [b'A', b'M', b'Q', b'P', 1, 1, 0, 9] => Greeting::Welcome,
        [b'A', b'M', b'Q', b'P', 0, 0, 9..=255, _] | [b'A', b'M', b'Q', b'P', _, 1, 0, 0] => {
            Greeting::Refused(PROTOCOL_HEADER)
        }
        _ => Greeting::Refused(*b"AMQP\x03\x01\0\0"),
    }
}

impl State {
    /// The protocol header for AMQP 0-9-1 has come.
    pub(super) fn start_connection(&mut self, id: u64) {
        let properties = server_properties();
        let method = Method::ConnectionStart {
            version_major: 0,
            version_minor: 9,
            server_properties: (&properties).into(),
            mechanisms: b"PLAIN AMQPLAIN",
            locales: b"en_US",
        };
        self.send(on_zero(id), &method);
    }

    /// Handles the frames at the front of `received`; returns how many bytes they take. Stops early if the connection is
    /// blocked or at its end.
    pub(super) fn handle(&mut self, id: u64, received: &[u8]) -> usize {
        let mut used = 0;
        while let Some(connection) = self.connections.get(&id) {
            if connection.blocked || connection.phase == Phase::Closed {
                break;
            }
            let rest = &received[used..];
            let frame_max = match connection.frame_max {
                0 if connection.phase < Phase::Opening => FRAME_MAX_AT_FIRST,
                other => other,
            };
            match next_frame(rest, frame_max) {
                Ok(None) => break,
                Ok(Some((frame, length))) => {
                    used += length;
                    self.frame(id, frame);
                }
                Err(refusal) => {
                    self.lost_sync(id, &refusal);
                    break;
                }
            }
            self.run();
        }
        self.run();
        self.flush();
        used
    }

    fn frame(&mut self, id: u64, frame: Frame<'_>) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let phase = connection.phase;
        let (channel, kind, payload) = match frame {
            Frame::Heartbeat => return,
            Frame::Method {
                channel: 0,
                payload,
            } => {
                self.log_method(on_zero(id), payload);
                let outcome = match Method::decode(payload) {
                    Ok(method) if !is_utf8(&method) => Err(Refusal::not_utf8().at(method.id())),
                    Ok(method) => self
                        .connection_method(id, phase, &method)
                        .map_err(|refusal| refusal.at(method.id())),
                    Err(WireError::UnknownMethod { .. }) => return self.end_connection(id),
                    Err(_) => Err(Refusal::bare(541)),
                };
                if let Err(refusal) = outcome {
                    self.fail(id, phase, &refusal);
                }
                return;
            }
            Frame::Method { channel, payload } => (channel, 1, payload),
            Frame::Header { channel, payload } => (channel, 2, payload),
            Frame::Body { channel, payload } => (channel, 3, payload),
        };
        match phase {
            Phase::Closing | Phase::Closed => {}
            Phase::Running if channel != 0 => {
                let at = At {
                    connection: id,
                    channel,
                };
                self.channel_frame(at, frame);
            }
            _ => {
                let refusal = Refusal::new(505, format_args!("type {kind}, {}", Snippet(payload)));
                self.fail(id, phase, &refusal);
            }
        }
    }

    /// Closes the connection over what came on it; while it is not tuned, nothing is sent, as RabbitMQ does.
    fn fail(&mut self, id: u64, phase: Phase, refusal: &Refusal) {
        if phase < Phase::Opening {
            self.end_connection(id);
        } else {
            self.close_connection(id, refusal);
        }
    }

    /// Ends the stream behind what is to be sent.
    pub(super) fn end_connection(&mut self, id: u64) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.phase = Phase::Closed;
            connection.outbox.finish();
            connection.outbox.wake();
        }
    }

    /// What came is no frame, so nothing behind it can be read.
    fn lost_sync(&mut self, id: u64, refusal: &Refusal) {
        let phase = self.connections.get(&id).map(|connection| connection.phase);
        self.fail(id, phase.unwrap_or(Phase::Closed), refusal);
        self.end_connection(id);
    }

    fn connection_method(&mut self, id: u64, phase: Phase, method: &Method<'_>) -> Outcome {
        match (phase, *method) {
            (
                Phase::Starting,
                Method::ConnectionStartOk {
                    client_properties,
                    mechanism,
                    response,
                    ..
                },
            ) => {
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.client_properties = client_properties.values().unwrap_or_default();
                }
                self.log_in(id, mechanism, response)
            }
            (
                Phase::Tuning,
                Method::ConnectionTuneOk {
                    channel_max,
                    frame_max,
                    heartbeat,
                },
            ) => {
                let settings = &self.settings;
                let most = settings.frame_max;
                let least = match most {
                    0 => FRAME_MIN,
                    most => FRAME_MIN.min(most),
                };
                check_negotiated("frame_max", least, most, frame_max)?;
                let most = settings.channel_max.into();
                check_negotiated("channel_max", 1, most, channel_max.into())?;
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.frame_max = frame_max;
                    connection.channel_max = channel_max;
                    connection.heartbeat = heartbeat;
                    connection.phase = Phase::Opening;
                    set_heartbeat(&connection.link, &connection.outbox, heartbeat);
                }
                Ok(())
            }
            (Phase::Opening, Method::ConnectionOpen { virtual_host }) => {
                let vhost: Text = virtual_host.into();
                if !self.vhosts.contains_key(&vhost) {
                    refuse!(530, "vhost {vhost} not found");
                }
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.vhost = vhost;
                    connection.phase = Phase::Running;
                }
                self.send(on_zero(id), &Method::ConnectionOpenOk {});
                Ok(())
            }
            (Phase::Running, Method::ConnectionClose { .. }) => {
                self.start_closing(id);
                self.send(on_zero(id), &Method::ConnectionCloseOk {});
                Ok(())
            }
            (Phase::Running, Method::ConnectionUpdateSecret { .. }) => {
                self.send(on_zero(id), &Method::ConnectionUpdateSecretOk {});
                Ok(())
            }
            (Phase::Closing, Method::ConnectionClose { .. }) => {
                self.send(on_zero(id), &Method::ConnectionCloseOk {});
                Ok(())
            }
            (Phase::Closing, Method::ConnectionCloseOk { .. }) => {
                self.end_connection(id);
                Ok(())
            }
            (Phase::Closing | Phase::Closed, _) => Ok(()),
            (phase, _) => refuse!(
                504,
                "unexpected method in connection state {}",
                phase.name()
            ),
        }
    }

    fn log_in(&mut self, id: u64, mechanism: ShortStr<'_>, response: &[u8]) -> Outcome {
        let login = match &*mechanism {
            b"PLAIN" => plain(response),
            b"AMQPLAIN" => amqplain(response),
            _ => refuse!(
                503,
                "unknown authentication mechanism '{}'",
                Text::from(mechanism)
            ),
        };
        let Some((user, password)) = login else {
            refuse!(502, "the response is no login");
        };
        let known = self
            .settings
            .users
            .iter()
            .any(|(name, known)| *name.as_bytes() == user && *known.as_bytes() == password);
        let user = known.then(|| Text::from(&user[..]));
        let Some(connection) = self.connections.get_mut(&id) else {
            return Ok(());
        };
        let Some(user) = user else {
            let refusal = Refusal::new(
                403,
                format_args!(
                    "Login was refused using authentication mechanism {}. For details see the broker logfile.",
                    Text::from(mechanism)
                ),
            );
            if connection.can("authentication_failure_close") {
                self.close_connection(id, &refusal);
            } else {
                self.end_connection(id);
            }
            return Ok(());
        };
        connection.user = user;
        connection.phase = Phase::Tuning;
        let tune = Method::ConnectionTune {
            channel_max: self.settings.channel_max,
            frame_max: self.settings.frame_max,
            heartbeat: self.settings.heartbeat,
        };
        self.send(on_zero(id), &tune);
        Ok(())
    }

    // ---- blocking

    /// A connection publishes. If the broker is blocked, the connection gets `connection.blocked`, and is not read from until that is over.
    pub(super) fn check_alarm(&mut self, id: u64) {
        let (Some(reason), Some(connection)) = (self.alarm.clone(), self.connections.get_mut(&id))
        else {
            return;
        };
        if connection.blocked {
            return;
        }
        connection.blocked = true;
        if connection.can("connection.blocked") {
            let blocked = Method::ConnectionBlocked {
                reason: reason.as_str().into(),
            };
            self.send(on_zero(id), &blocked);
        }
    }

    pub(super) fn end_alarm(&mut self) {
        self.alarm = None;
        let blocked: Vec<u64> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.blocked)
            .map(|(id, _)| *id)
            .collect();
        for id in blocked {
            let Some(connection) = self.connections.get_mut(&id) else {
                continue;
            };
            connection.blocked = false;
            if connection.can("connection.blocked") {
                self.send(on_zero(id), &Method::ConnectionUnblocked {});
            }
        }
    }
}

impl Phase {
    /// RabbitMQ's name for it.
    fn name(self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::Tuning => "tuning",
            Phase::Opening => "opening",
            Phase::Running => "running",
            Phase::Closing | Phase::Closed => "closed",
        }
    }
}

fn on_zero(connection: u64) -> At {
    At {
        connection,
        channel: 0,
    }
}

/// Half an interval without a write brings a heartbeat, two without a read end the connection.
fn set_heartbeat(link: &Link, outbox: &Outbox, seconds: u16) {
    if seconds > 0 {
        let interval = Duration::from_secs(seconds.into());
        link.set_read_timeout(Some(interval * 2));
        outbox.set_heartbeat(Some(interval / 2));
    }
}

fn check_negotiated(name: &str, least: u32, most: u32, value: u32) -> Outcome {
    let detail = if value == 0 { " (no limit)" } else { "" };
    let outcome = if value != 0 && value < least {
        Err(("lower", "minimum", least))
    } else if most != 0 && (value == 0 || value > most) {
        Err(("higher", "maximum", most))
    } else {
        Ok(())
    };
    let Err((compared, which, allowed)) = outcome else {
        return Ok(());
    };
    let text = format!(
        "negotiated {name} = {value}{detail} is {compared} than the {which} allowed value ({allowed})"
    );
    Err(Refusal::new(530, format_args!("{text}")).at((10, 30)))
}

/// The user and the password of a PLAIN response (RFC 4616), which names no other user to act for.
fn plain(response: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut parts = response.split(|byte| *byte == 0);
    let (for_whom, user, password) = (parts.next()?, parts.next()?, parts.next()?);
    let complete = for_whom.is_empty() && parts.next().is_none();
    complete.then(|| (user.to_vec(), password.to_vec()))
}

/// The same of an AMQPLAIN response, a table.
fn amqplain(response: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let table = FieldTable::decode(response).ok()?;
    let value = |key: &str| Some(table.get(key)?.as_bytes()?.to_vec());
    Some((value("LOGIN")?, value("PASSWORD")?))
}

fn server_properties() -> FieldTable {
    let capabilities: FieldTable = [
        "publisher_confirms",
        "exchange_exchange_bindings",
        "basic.nack",
        "consumer_cancel_notify",
        "connection.blocked",
        "consumer_priorities",
        "authentication_failure_close",
        "per_consumer_qos",
        "direct_reply_to",
    ]
    .into_iter()
    .map(|name| (name, true))
    .collect();
    let mut properties = FieldTable::new();
    properties.insert("capabilities", capabilities);
    properties.insert("cluster_name", "haypile-testing");
    properties.insert("product", "haypile broker for tests");
    properties.insert("version", env!("CARGO_PKG_VERSION"));
    properties.insert("platform", FieldValue::from("Rust"));
    properties
}

/// The frame at the front of what was received, and how many bytes it takes; or what RabbitMQ sends over what is none. It looks
/// at the size first, then at the end, and only then at what kind of frame it is.
fn next_frame(received: &[u8], frame_max: u32) -> Outcome<Option<(Frame<'_>, usize)>> {
    let Some((prefix, rest)) = received.split_first_chunk::<FRAME_PREFIX>() else {
        return Ok(None);
    };
    let kind = prefix[0];
    let length = u32::from_be_bytes([prefix[3], prefix[4], prefix[5], prefix[6]]);
    let most = frame_max.saturating_sub(FRAME_OVERHEAD as u32);
    if frame_max != 0 && length > most + FUDGE {
        refuse!(
            501,
            "type {kind}, all octets = <<>>: {{frame_too_large,{length},{most}}}"
        );
    }
    let Some((payload, [end, ..])) = rest.split_at_checked(length as usize) else {
        return Ok(None);
    };
    let snippet = Snippet(payload);
    if *end != FRAME_END {
        refuse!(
            501,
            "type {kind}, {snippet}: {{invalid_frame_end_marker,{end}}}"
        );
    }
    match frame::parse(received, 0) {
        Ok(Some((Frame::Method { .. }, _))) if length < METHOD_MIN => {}
        Ok(Some((Frame::Header { .. }, _))) if length < HEADER_MIN => {}
        Ok(Some((Frame::Heartbeat, _))) if length > 0 => {}
        Ok(frame) => return Ok(frame),
        Err(WireError::HeartbeatOnChannel(_)) if length == 0 => {
            refuse!(505, "type {kind}, {snippet}")
        }
        Err(_) => {}
    }
    refuse!(501, "type {kind}, {snippet}: unknown_frame")
}

/// The beginning of a payload, as RabbitMQ shows it.
struct Snippet<'a>(&'a [u8]);

impl std::fmt::Display for Snippet<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.get(..SNIPPET) {
            Some(first) if self.0.len() > SNIPPET => {
                write!(f, "first 16 octets = {}", Binary(first))
            }
            _ => write!(f, "all octets = {}", Binary(self.0)),
        }
    }
}

impl Connection {
    /// What the client calls itself.
    pub(super) fn client_name(&self) -> Option<String> {
        let name = self.client_properties.get("connection_name")?;
        Some(name.as_str()?.to_owned())
    }
}
