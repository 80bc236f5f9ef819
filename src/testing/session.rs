//! A connection: the handshake, its frames, and its end.

use std::time::Duration;

use super::link::{Link, Outbox};
use super::refusal::{refuse, Binary, Outcome, Refusal};
use super::state::{At, Connection, Phase, State};
use super::text::Text;
use crate::protocol::frame::{self, Frame, FRAME_OVERHEAD};
use crate::protocol::method::Method;
use crate::protocol::wire::{Name, WireError};
use crate::{FieldTable, FieldValue};

/// The least that a client may name as `frame_max` (specification 4.2.3).
const FRAME_MIN: u32 = 4096;

/// The largest frame before another size is agreed on.
const FRAME_MAX_AT_FIRST: u32 = 8192;

/// RabbitMQ takes frames that are a little larger than agreed, since some clients count differently.
const FUDGE: u32 = 8;

/// A body in a text is cut after so many bytes.
const SNIPPET: usize = 16;

impl State {
    /// A client has said that it speaks AMQP 0-9-1.
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
            let limit = if frame_max == 0 { 0 } else { frame_max + FUDGE };
            match frame::parse(rest, limit) {
                Ok(None) => break,
                Ok(Some((frame, length))) => {
                    used += length;
                    self.frame(id, frame);
                }
                Err(error) => {
                    self.lost_sync(id, rest, frame_max, &error);
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
                    Ok(method) => self
                        .connection_method(id, phase, &method)
                        .map_err(|refusal| refusal.at(method.id())),
                    Err(_) => Err(Refusal::new(501, format_args!("cannot decode the method"))),
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

    /// Closes the connection over what was said on it; without a word if it is not known yet who speaks.
    fn fail(&mut self, id: u64, phase: Phase, refusal: &Refusal) {
        if phase == Phase::Starting {
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
    fn lost_sync(&mut self, id: u64, bytes: &[u8], frame_max: u32, error: &WireError) {
        let kind = bytes.first().copied().unwrap_or_default();
        let length = bytes.get(3..7).map_or(0, |length| {
            u32::from_be_bytes([length[0], length[1], length[2], length[3]])
        });
        let payload = bytes.get(7..).unwrap_or_default();
        let payload = &payload[..payload.len().min(length as usize)];
        let snippet = Snippet(payload);
        let refusal = match error {
            WireError::FrameTooLarge { .. } => Refusal::new(
                501,
                format_args!(
                    "type {kind}, all octets = <<>>: {{frame_too_large,{length},{}}}",
                    frame_max.saturating_sub(FRAME_OVERHEAD as u32)
                ),
            ),
            WireError::BadFrameEnd(end) => Refusal::new(
                501,
                format_args!("type {kind}, {snippet}: {{invalid_frame_end_marker,{end}}}"),
            ),
            WireError::HeartbeatOnChannel(_) => {
                Refusal::new(505, format_args!("type {kind}, {snippet}"))
            }
            _ => Refusal::new(501, format_args!("type {kind}, {snippet}: unknown_frame")),
        };
        let phase = self.connections.get(&id).map(|connection| connection.phase);
        self.fail(id, phase.unwrap_or(Phase::Closed), &refusal);
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
                check_negotiated("frame_max", FRAME_MIN, most, frame_max)?;
                let most = settings.channel_max.into();
                check_negotiated("channel_max", 1, most, channel_max.into())?;
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.frame_max = frame_max;
                    connection.channel_max = channel_max;
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
                self.drop_channels(id);
                self.send(on_zero(id), &Method::ConnectionCloseOk {});
                self.end_connection(id);
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

    fn log_in(&mut self, id: u64, mechanism: Name<'_>, response: &[u8]) -> Outcome {
        let login = match &*mechanism {
            b"PLAIN" => plain(response),
            b"AMQPLAIN" => amqplain(response),
            _ => refuse!(
                503,
                "unknown authentication mechanism '{}'",
                Text::from(mechanism)
            ),
        };
        let user = login.and_then(|(user, password)| {
            let known = self
                .settings
                .users
                .iter()
                .any(|(name, known)| name.as_bytes() == user && known.as_bytes() == password);
            known.then(|| Text::from(&user[..]))
        });
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

    /// A connection publishes. If the broker is blocked, the connection is told so, and not read from until that is over.
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

/// The user and the password of a PLAIN response (RFC 4616).
fn plain(response: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut parts = response.splitn(3, |byte| *byte == 0);
    let (_, user, password) = (parts.next()?, parts.next()?, parts.next()?);
    Some((user.to_vec(), password.to_vec()))
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
