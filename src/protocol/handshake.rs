//! Opening a connection: `connection.start` … `connection.open-ok` (specification 2.2.4), as values and bytes.

use super::frame;
use super::method::Method;
use crate::error::{Fault, Stage};
use crate::{FieldTable, FieldValue};

/// The least that any peer must accept as frame_max (specification 4.2.3, `frame-min-size`).
const FRAME_MIN: u32 = 4096;

/// Answers mechanism and response for the mechanisms that a server offers.
pub(crate) type Respond<'a> = dyn Fn(&[&str]) -> Option<(&'static str, Vec<u8>)> + 'a;

/// What the client brings to the handshake.
pub(crate) struct Proposal<'a> {
    pub(crate) client_properties: FieldTable,
    /// Answers mechanism and response for the mechanisms that the server offers.
    pub(crate) respond: &'a Respond<'a>,
    pub(crate) locale: &'a str,
    pub(crate) virtual_host: &'a str,
    pub(crate) channel_max: u16,
    pub(crate) frame_max: u32,
    /// Answers the heartbeat to use, in seconds, for the server's.
    pub(crate) heartbeat: &'a dyn Fn(u16) -> u16,
}

/// What came out of it.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Negotiated {
    pub(crate) channel_max: u16,
    pub(crate) frame_max: u32,
    pub(crate) heartbeat: u16,
    pub(crate) server_properties: FieldTable,
}

/// Why it came to nothing.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The server closed the connection.
    Closed { reply_code: u16, reply_text: String },
    /// No common mechanism; what was offered.
    Mechanisms(String),
    /// The server speaks another version of the protocol.
    Version(u8, u8),
    /// The server said something that has no place here, or something that this end cannot send.
    Violation(Fault),
}

impl<E: Into<Fault>> From<E> for Refusal {
    fn from(error: E) -> Self {
        Refusal::Violation(error.into())
    }
}

/// The state of the handshake: what was sent last decides what may come.
pub(crate) struct Handshake<'a> {
    proposal: Proposal<'a>,
    stage: Stage,
    negotiated: Negotiated,
}

impl<'a> Handshake<'a> {
    /// Begins; `out` gets the protocol header.
    pub(crate) fn new(proposal: Proposal<'a>, out: &mut Vec<u8>) -> Self {
        out.extend_from_slice(&frame::PROTOCOL_HEADER);
        Handshake {
            proposal,
            stage: Stage::ProtocolHeader,
            negotiated: Negotiated::default(),
        }
    }

    /// How far it came.
    pub(crate) fn stage(&self) -> Stage {
        self.stage
    }

    /// Takes the server's next method; `out` gets the answer. Done when it returns what was negotiated.
    pub(crate) fn handle(
        &mut self,
        method: Method<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Option<Negotiated>, Refusal> {
        match (self.stage, method) {
            (
                _,
                Method::ConnectionClose {
                    reply_code,
                    reply_text,
                    ..
                },
            ) => {
                frame::write_method(out, 0, &Method::ConnectionCloseOk {})?;
                Err(Refusal::Closed {
                    reply_code,
                    reply_text: reply_text.into_owned(),
                })
            }
            (
                Stage::ProtocolHeader,
                Method::ConnectionStart {
                    version_major,
                    version_minor,
                    server_properties,
                    mechanisms,
                    ..
                },
            ) => {
                if (version_major, version_minor) != (0, 9) {
                    return Err(Refusal::Version(version_major, version_minor));
                }
                self.negotiated.server_properties = server_properties.values()?;
                let offered = String::from_utf8_lossy(mechanisms).into_owned();
                let names: Vec<&str> = offered.split_ascii_whitespace().collect();
                let Some((mechanism, response)) = (self.proposal.respond)(&names) else {
                    return Err(Refusal::Mechanisms(offered));
                };
                let answer = Method::ConnectionStartOk {
                    client_properties: (&self.proposal.client_properties).into(),
                    mechanism: mechanism.into(),
                    response: &response,
                    locale: self.proposal.locale.into(),
                };
                frame::write_method(out, 0, &answer)?;
                self.stage = Stage::Authentication;
                Ok(None)
            }
            (
                Stage::Authentication,
                Method::ConnectionTune {
                    channel_max,
                    frame_max,
                    heartbeat,
                },
            ) => {
                if frame_max != 0 && frame_max < FRAME_MIN {
                    return Err(Refusal::Violation(Fault::unexpected(format_args!(
                        "connection.tune with a frame_max of {frame_max}, below {FRAME_MIN}"
                    ))));
                }
                let agreed = &mut self.negotiated;
                agreed.channel_max =
                    agree(self.proposal.channel_max.into(), channel_max.into()) as u16;
                agreed.frame_max = agree(self.proposal.frame_max, frame_max);
                agreed.heartbeat = (self.proposal.heartbeat)(heartbeat);
                let answer = Method::ConnectionTuneOk {
                    channel_max: agreed.channel_max,
                    frame_max: agreed.frame_max,
                    heartbeat: agreed.heartbeat,
                };
                frame::write_method(out, 0, &answer)?;
                let open = Method::ConnectionOpen {
                    virtual_host: self.proposal.virtual_host.into(),
                };
                frame::write_method(out, 0, &open)?;
                self.stage = Stage::VirtualHost;
                Ok(None)
            }
            (Stage::VirtualHost, Method::ConnectionOpenOk { .. }) => {
                Ok(Some(std::mem::take(&mut self.negotiated)))
            }
            (_, Method::ConnectionSecure { .. }) => Err(Refusal::Mechanisms(
                "a mechanism that asks a second time (connection.secure)".into(),
            )),
            (stage, other) => Err(Refusal::Violation(Fault::unexpected(format_args!(
                "{} at the stage {stage} of connecting",
                other.name()
            )))),
        }
    }
}

/// The lower of two limits, where 0 means none (specification, `connection.tune-ok`).
fn agree(mine: u32, theirs: u32) -> u32 {
    if mine == 0 || theirs == 0 {
        mine.max(theirs)
    } else {
        mine.min(theirs)
    }
}

/// The value of a capability that the server told of.
pub(crate) fn capability(server_properties: &FieldTable, name: &str) -> bool {
    server_properties
        .get("capabilities")
        .and_then(FieldValue::as_table)
        .and_then(|capabilities| capabilities.get(name))
        .and_then(FieldValue::as_bool)
        .unwrap_or(false)
}
