//! Opening a connection: `connection.start` … `connection.open-ok` (specification 2.2.4), as values and bytes.

use std::net::IpAddr;

use super::frame;
use super::method::Method;
use super::wire::ShortStr;
use crate::credentials::overwrite;
use crate::error::{Failure, Stage};
use crate::{ConnectionParameters, Error, FieldTable, FieldValue};

/// The least that any peer must accept as frame_max (specification 4.2.3, `frame-min-size`).
const FRAME_MIN: u32 = 4096;

/// What came out of it.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Negotiated {
    pub(crate) channel_max: u16,
    pub(crate) frame_max: u32,
    pub(crate) heartbeat: u16,
    pub(crate) server_properties: FieldTable,
}

impl Negotiated {
    /// The first two numbers of the broker's version, if it is RabbitMQ and says so.
    pub(crate) fn rabbitmq_version(&self) -> Option<(u32, u32)> {
        let text = |key| self.server_properties.get(key)?.as_str();
        if text("product")? != "RabbitMQ" {
            return None;
        }
        let mut numbers = text("version")?
            .split('.')
            .map_while(|part| part.parse().ok());
        Some((numbers.next()?, numbers.next()?))
    }
}

/// The state of the handshake: what was sent last decides what may come.
pub(crate) struct Handshake<'a> {
    parameters: &'a ConnectionParameters,
    negotiated: &'a mut Negotiated,
    /// How far it came.
    pub(crate) stage: Stage,
}

impl<'a> Handshake<'a> {
    /// Begins where the protocol header was sent; fills in what is negotiated.
    pub(crate) fn new(
        parameters: &'a ConnectionParameters,
        negotiated: &'a mut Negotiated,
    ) -> Self {
        Handshake {
            parameters,
            negotiated,
            stage: Stage::ProtocolHeader,
        }
    }

    /// Takes the server's next method; `out` gets the response, even if this fails. Returns whether the connection is open.
    pub(crate) fn handle(
        &mut self,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<bool, Box<Failure>> {
        let method =
            Method::decode(payload).map_err(|error| self.violated(Error::syntax(error)))?;
        match (self.stage, method) {
            (
                _,
                Method::ConnectionClose {
                    reply_code,
                    reply_text,
                    ..
                },
            ) => {
                self.respond(out, &Method::ConnectionCloseOk {})?;
                Err(self.closed(reply_code, reply_text))
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
                self.check_version(version_major, version_minor)?;
                let properties = server_properties.values();
                self.negotiated.server_properties =
                    properties.map_err(|error| self.violated(Error::syntax(error)))?;
                self.log_in(mechanisms, out)?;
                self.stage = Stage::Authentication;
                Ok(false)
            }
            (
                Stage::Authentication,
                Method::ConnectionTune {
                    channel_max,
                    frame_max,
                    heartbeat,
                },
            ) => {
                self.agree(channel_max, frame_max, heartbeat)?;
                self.open(out)?;
                self.stage = Stage::VirtualHost;
                Ok(false)
            }
            (Stage::VirtualHost, Method::ConnectionOpenOk { .. }) => Ok(true),
            (_, Method::ConnectionSecure { .. }) => Err(no_mechanism(
                "a mechanism that asks a second time (connection.secure)",
            )),
            (stage, other) => Err(self.violated(Error::unexpected(format_args!(
                "{} at the stage {stage} of connecting",
                other.name()
            )))),
        }
    }

    fn check_version(&self, major: u8, minor: u8) -> Result<(), Box<Failure>> {
        if (major, minor) == (0, 9) {
            return Ok(());
        }
        Err(Failure::new(
            Error::IncompatibleProtocol,
            self.stage,
            format_args!("the server speaks AMQP {major}-{minor}, not 0-9"),
            None,
        ))
    }

    /// Appends `connection.start-ok`, for one of the mechanisms that the server offers.
    fn log_in(&self, mechanisms: &[u8], out: &mut Vec<u8>) -> Result<(), Box<Failure>> {
        let offered = String::from_utf8_lossy(mechanisms);
        let names: Vec<&str> = offered.split_ascii_whitespace().collect();
        let Some((mechanism, mut response)) = self.parameters.credentials.respond(&names) else {
            return Err(no_mechanism(&offered));
        };
        let written = self.start_ok(out, mechanism, &response);
        overwrite(&mut response);
        written
    }

    /// Chooses limits that both ends keep, from what the server proposes in `connection.tune`.
    fn agree(
        &mut self,
        channel_max: u16,
        frame_max: u32,
        heartbeat: u16,
    ) -> Result<(), Box<Failure>> {
        if frame_max != 0 && frame_max < FRAME_MIN {
            return Err(self.violated(Error::unexpected(format_args!(
                "connection.tune with a frame_max of {frame_max}, below {FRAME_MIN}"
            ))));
        }
        let ours = self.parameters;
        let agreed = &mut *self.negotiated;
        agreed.channel_max = lower_limit(ours.channel_max.into(), channel_max.into()) as u16;
        agreed.frame_max = lower_limit(ours.frame_max, frame_max);
        agreed.heartbeat = ours.heartbeat.choose(heartbeat);
        Ok(())
    }

    /// Appends `connection.tune-ok`, and `connection.open` behind it.
    fn open(&self, out: &mut Vec<u8>) -> Result<(), Box<Failure>> {
        let tune_ok = Method::ConnectionTuneOk {
            channel_max: self.negotiated.channel_max,
            frame_max: self.negotiated.frame_max,
            heartbeat: self.negotiated.heartbeat,
        };
        self.respond(out, &tune_ok)?;
        let open = Method::ConnectionOpen {
            virtual_host: (&self.parameters.virtual_host).into(),
        };
        self.respond(out, &open)
    }

    fn start_ok(
        &self,
        out: &mut Vec<u8>,
        mechanism: &str,
        response: &[u8],
    ) -> Result<(), Box<Failure>> {
        let client_properties = self.parameters.merged_client_properties();
        let start_ok = |response| Method::ConnectionStartOk {
            client_properties: (&client_properties).into(),
            mechanism: mechanism.into(),
            response,
            locale: (&self.parameters.locale).into(),
        };
        // The password is in it. A buffer that grew would leave a copy behind, so its size is found out first.
        let mut without_response = Vec::new();
        self.respond(&mut without_response, &start_ok(&[]))?;
        out.reserve(without_response.len() + response.len());
        self.respond(out, &start_ok(response))
    }

    fn respond(&self, out: &mut Vec<u8>, method: &Method<'_>) -> Result<(), Box<Failure>> {
        frame::write_method(out, 0, method).map_err(|error| self.violated(Error::syntax(error)))
    }

    /// The server sent something that is not allowed here, or what is to be sent to it cannot be.
    #[cold]
    fn violated(&self, fault: Error) -> Box<Failure> {
        Failure::new(
            Error::IncompatibleProtocol,
            self.stage,
            format_args!("{}", fault),
            None,
        )
    }

    /// Whether the server gives its reason before it hangs up, as RabbitMQ does if both ends announce that they can.
    pub(crate) fn server_gives_reasons(&self) -> bool {
        capability(
            &self.negotiated.server_properties,
            "authentication_failure_close",
        )
    }

    /// The server said no.
    #[cold]
    fn closed(&self, reply_code: u16, reply_text: ShortStr<'_>) -> Box<Failure> {
        let kind: fn(_) -> _ = match self.stage {
            Stage::Authentication => Error::ProbableAuthentication,
            Stage::VirtualHost => Error::ProbableAccessDenied,
            _ => Error::Connection,
        };
        let reply_text = reply_text.to_text();
        let mut failure = Failure::refused(kind, self.stage, reply_code, &reply_text);
        if !failure.retryable {
            failure.hint = self.hint(reply_code);
        }
        failure
    }

    /// What to do about a refusal for good. Other codes than these do not mean the login or the virtual host.
    fn hint(&self, reply_code: u16) -> Option<&'static str> {
        match (self.stage, reply_code) {
            // ACCESS_REFUSED
            (Stage::Authentication, 403) if self.is_remote_guest() => {
                Some("RabbitMQ lets the user guest in from localhost only: create another user")
            }
            (Stage::Authentication, 403) => Some("check the user and the password"),
            // INVALID_PATH, ACCESS_REFUSED, NOT_ALLOWED
            (Stage::VirtualHost, 402 | 403 | 530) => Some(
                "check that the virtual host exists and that the user has permissions on it (in a URL, / is written %2f)",
            ),
            _ => None,
        }
    }

    /// Whether the user `guest` logs in over a network.
    fn is_remote_guest(&self) -> bool {
        let host = &self.parameters.host;
        let address = host.parse::<IpAddr>();
        self.parameters.credentials.is_guest()
            && host != "localhost"
            && !address.is_ok_and(|address| address.is_loopback())
    }
}

#[cold]
fn no_mechanism(offered: &str) -> Box<Failure> {
    Failure::new(
        Error::Authentication,
        Stage::Authentication,
        format_args!("no mechanism in common; the server offers: {offered}"),
        Some("PlainCredentials need PLAIN or AMQPLAIN, ExternalCredentials need EXTERNAL"),
    )
}

/// The lower of two limits, where 0 of theirs means none (specification, `connection.tune-ok`).
fn lower_limit(ours: u32, theirs: u32) -> u32 {
    if theirs == 0 {
        ours
    } else {
        ours.min(theirs)
    }
}

/// Whether the server has announced a capability.
pub(crate) fn capability(server_properties: &FieldTable, name: &str) -> bool {
    server_properties
        .get("capabilities")
        .and_then(FieldValue::as_table)
        .and_then(|capabilities| capabilities.get(name))
        .and_then(FieldValue::as_bool)
        .unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_known_of_rabbitmq_only() {
        for (product, version, known) in [
            ("RabbitMQ", "4.3.0", Some((4, 3))),
            ("RabbitMQ", "4.10.1-rc.1", Some((4, 10))),
            ("RabbitMQ", "3.13", Some((3, 13))),
            ("RabbitMQ", "four", None),
            ("RabbitMQ", "4", None),
            ("RabbitMQ", "", None),
            ("another", "4.3.0", None),
        ] {
            let negotiated = Negotiated {
                server_properties: FieldTable::from([("product", product), ("version", version)]),
                ..Negotiated::default()
            };
            assert_eq!(negotiated.rabbitmq_version(), known, "{product} {version}");
        }
        assert_eq!(Negotiated::default().rabbitmq_version(), None);
    }
}
