//! Connecting: names, addresses, retries, and the handshake driven to its end.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::stream::{is_timeout, Transport};
use super::sync::Instant;
#[cfg(feature = "tls")]
use super::tls;
use super::wait::{after, Opened};
use crate::error::{Attempt, ConnectFailure, Result, Span, Stage};
use crate::protocol::frame::{self, Frame};
use crate::protocol::handshake::{Handshake, Negotiated, Proposal, Refusal};
use crate::protocol::method::Method;
use crate::{ConnectionParameters, Error, TcpOptions};

/// Which variant of [`Error`] an attempt's failure becomes.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Connection,
    Dns,
    #[cfg(feature = "tls")]
    Tls,
    IncompatibleProtocol,
    Authentication,
    ProbableAuthentication,
    ProbableAccessDenied,
}

/// Why one attempt failed.
struct Failure {
    kind: Kind,
    stage: Stage,
    cause: String,
    reply_code: Option<u16>,
    hint: Option<&'static str>,
}

impl Failure {
    fn new(kind: Kind, stage: Stage, cause: impl Into<String>) -> Self {
        Failure {
            kind,
            stage,
            cause: cause.into(),
            reply_code: None,
            hint: None,
        }
    }

    fn hint(mut self, hint: Option<&'static str>) -> Self {
        self.hint = self.hint.or(hint);
        self
    }
}

/// Tries every address of every host in order, as often as the last parameters say, with their delay in between.
pub(crate) fn open(candidates: &mut [ConnectionParameters]) -> Result<Opened> {
    let Some(last) = candidates.last() else {
        return Err(Error::invalid(
            "parameters",
            "an empty list",
            "at least one set of parameters",
        ));
    };
    let (cycles, delay) = (last.connection_attempts, last.retry_delay);
    let mut failures = Failures::default();
    for cycle in 0..cycles {
        if cycle > 0 {
            thread::sleep(delay);
        }
        for parameters in candidates.iter_mut() {
            parameters.validate()?;
            let security = Security::prepare(parameters)?;
            let addresses = match resolve(parameters) {
                Ok(addresses) => addresses,
                Err(failure) => {
                    failures.add(parameters, None, failure);
                    continue;
                }
            };
            for address in addresses {
                match open_address(parameters, &security, address) {
                    Ok(opened) => {
                        // The parameters that were not needed are forgotten as well.
                        candidates
                            .iter_mut()
                            .for_each(|parameters| parameters.credentials.erase());
                        return Ok(opened);
                    }
                    Err(failure) => failures.add(parameters, Some(address), failure),
                }
            }
        }
    }
    Err(failures.into_error())
}

/// Opens over a stream that the caller made.
pub(crate) fn open_over(
    parameters: &mut ConnectionParameters,
    stream: Transport,
) -> Result<Opened> {
    parameters.validate()?;
    let security = Security::prepare(parameters)?;
    let deadline = parameters.stack_timeout.map(after);
    match secure_and_shake(parameters, &security, stream, deadline) {
        Ok(opened) => {
            parameters.credentials.erase();
            Ok(opened)
        }
        Err(failure) => {
            let mut failures = Failures::default();
            failures.add(parameters, None, failure);
            Err(failures.into_error())
        }
    }
}

fn resolve(parameters: &ConnectionParameters) -> Result<Vec<SocketAddr>, Failure> {
    let port = parameters.effective_port();
    if let Ok(address) = parameters.host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    match (parameters.host.as_str(), port).to_socket_addrs() {
        Ok(addresses) => {
            let mut distinct: Vec<SocketAddr> = Vec::new();
            for address in addresses {
                if !distinct.contains(&address) {
                    distinct.push(address);
                }
            }
            if distinct.is_empty() {
                return Err(Failure::new(
                    Kind::Dns,
                    Stage::Dns,
                    "the name has no address",
                ));
            }
            Ok(distinct)
        }
        Err(error) => Err(Failure::new(Kind::Dns, Stage::Dns, format!("{error}"))),
    }
}

fn open_address(
    parameters: &ConnectionParameters,
    security: &Security,
    address: SocketAddr,
) -> Result<Opened, Failure> {
    let deadline = parameters.stack_timeout.map(after);
    let limit = match (parameters.socket_timeout, parameters.stack_timeout) {
        (Some(socket), Some(stack)) => Some(socket.min(stack)),
        (socket, stack) => socket.or(stack),
    };
    let stream = match limit {
        Some(limit) => TcpStream::connect_timeout(&address, limit),
        None => TcpStream::connect(address),
    };
    let stream = stream
        .and_then(|stream| {
            stream.set_nodelay(true)?;
            set_options(&stream, &parameters.tcp_options)?;
            Ok(stream)
        })
        .map_err(|error| tcp_failure(&error, limit))?;
    secure_and_shake(parameters, security, Transport::Tcp(stream), deadline)
}

fn tcp_failure(error: &io::Error, limit: Option<Duration>) -> Failure {
    match error.kind() {
        io::ErrorKind::TimedOut => {
            let limit = limit.unwrap_or_default();
            Failure::new(
                Kind::Connection,
                Stage::Tcp,
                format!("no answer within {}", Span(limit)),
            )
            .hint(Some("a firewall may swallow what is sent there"))
        }
        io::ErrorKind::ConnectionRefused => {
            Failure::new(Kind::Connection, Stage::Tcp, format!("{error}")).hint(Some(
                "nothing listens on that port: is the broker running, and is the port right?",
            ))
        }
        _ => Failure::new(Kind::Connection, Stage::Tcp, format!("{error}")),
    }
}

fn set_options(stream: &TcpStream, options: &TcpOptions) -> io::Result<()> {
    let socket = socket2::SockRef::from(stream);
    if options.needs_keepalive() {
        let mut keepalive = socket2::TcpKeepalive::new();
        if let Some(time) = options.keepidle {
            keepalive = keepalive.with_time(time);
        }
        #[cfg(not(any(target_os = "openbsd", target_os = "redox", target_os = "solaris")))]
        if let Some(interval) = options.keepintvl {
            keepalive = keepalive.with_interval(interval);
        }
        #[cfg(not(any(
            target_os = "openbsd",
            target_os = "redox",
            target_os = "solaris",
            windows
        )))]
        if let Some(count) = options.keepcnt {
            keepalive = keepalive.with_retries(count);
        }
        socket.set_tcp_keepalive(&keepalive)?;
    }
    #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
    if options.user_timeout.is_some() {
        socket.set_tcp_user_timeout(options.user_timeout)?;
    }
    Ok(())
}

fn secure_and_shake(
    parameters: &ConnectionParameters,
    security: &Security,
    stream: Transport,
    deadline: Option<Instant>,
) -> Result<Opened, Failure> {
    let mut secured = security.secure(parameters, stream, deadline)?;
    let (negotiated, leftover) =
        shake_hands(parameters, &mut secured, deadline).inspect_err(|_| {
            // Dropping it need not end a stream that the caller made.
            let _ = secured.stream.shutdown();
        })?;
    Ok(Opened {
        stream: secured.stream,
        leftover,
        negotiated,
        address: parameters.address().into(),
        rpc_timeout: parameters.rpc_timeout,
        blocked_timeout: parameters.blocked_connection_timeout,
    })
}

/// What is needed for TLS, if the connection is to be inside TLS.
struct Security {
    #[cfg(feature = "tls")]
    tls: Option<crate::tls::Prepared>,
}

/// A stream that AMQP can be spoken over.
struct Secured {
    stream: Transport,
    #[cfg(feature = "tls")]
    certificate_missing: bool,
}

#[cfg(not(feature = "tls"))]
impl Security {
    fn prepare(_: &ConnectionParameters) -> Result<Self> {
        Ok(Security {})
    }

    fn secure(
        &self,
        _: &ConnectionParameters,
        stream: Transport,
        _: Option<Instant>,
    ) -> Result<Secured, Failure> {
        Ok(Secured { stream })
    }
}

#[cfg(not(feature = "tls"))]
impl Secured {
    fn tls_failure(&self, _: &io::Error, _: bool) -> Option<Failure> {
        None
    }
}

#[cfg(feature = "tls")]
impl Security {
    fn prepare(parameters: &ConnectionParameters) -> Result<Self> {
        let tls = parameters.tls.as_ref();
        let tls = tls.map(|options| options.prepare(&parameters.host));
        Ok(Security {
            tls: tls.transpose()?,
        })
    }

    fn secure(
        &self,
        parameters: &ConnectionParameters,
        stream: Transport,
        deadline: Option<Instant>,
    ) -> Result<Secured, Failure> {
        let Some(prepared) = &self.tls else {
            return Ok(Secured {
                stream,
                certificate_missing: false,
            });
        };
        match tls::connect(prepared, stream.boxed(), deadline) {
            Ok(secured) => Ok(Secured {
                stream: Transport::Other(secured.stream),
                certificate_missing: secured.certificate_missing,
            }),
            Err(tls::Failure::TimeUp) => Err(too_slow(parameters, Stage::Tls)
                .hint(Some("perhaps this port does not expect TLS"))),
            Err(tls::Failure::Other { cause, hint }) => {
                Err(Failure::new(Kind::Tls, Stage::Tls, cause).hint(hint))
            }
        }
    }
}

#[cfg(feature = "tls")]
impl Secured {
    /// Whether the end of the stream is TLS's doing. With TLS 1.3 a server refuses the client's certificate, or the lack
    /// of one, only after the client has gone on to AMQP.
    fn tls_failure(&self, error: &io::Error, nothing_came: bool) -> Option<Failure> {
        match tls::described(error, self.certificate_missing) {
            Some(tls::Failure::Other { cause, hint }) => {
                Some(Failure::new(Kind::Tls, Stage::Tls, cause).hint(hint))
            }
            _ if nothing_came && self.certificate_missing => Some(
                Failure::new(Kind::Tls, Stage::Tls, format!("{error}"))
                    .hint(Some(tls::MISSING_CERTIFICATE)),
            ),
            _ => None,
        }
    }
}

/// The frame that servers must take before another size is agreed on (specification 4.2.3: frame-min-size).
const LOGIN_MOST: usize = 4096;

const LARGE_LOGIN: &str = "password or token, user name and client properties come to more than the 4096 bytes that \
     brokers must take at this point: use a shorter token, or let the broker take more (RabbitMQ: initial_frame_max)";

/// Drives the handshake until the connection is open.
fn shake_hands(
    parameters: &ConnectionParameters,
    secured: &mut Secured,
    deadline: Option<Instant>,
) -> Result<(Negotiated, Vec<u8>), Failure> {
    let respond = |offered: &[&str]| parameters.credentials.respond(offered);
    let heartbeat = |servers: u16| parameters.heartbeat.choose(servers);
    let proposal = Proposal {
        client_properties: parameters.merged_client_properties(),
        respond: &respond,
        locale: &parameters.locale,
        virtual_host: &parameters.virtual_host,
        channel_max: parameters.channel_max,
        frame_max: parameters.frame_max,
        heartbeat: &heartbeat,
    };
    let mut out = Vec::new();
    let mut handshake = Handshake::new(proposal, &mut out);
    let mut received: Vec<u8> = Vec::new();
    let mut answered = false;
    let mut limits = Limits {
        deadline,
        set_at: None,
    };
    loop {
        let stage = handshake.stage();
        let length = out.len();
        let stream = &mut secured.stream;
        let sent = limits
            .set(stream)
            .and_then(|()| stream.write_all(&out))
            .and_then(|()| stream.flush());
        out.clear();
        // What the peer said before it hung up tells more than the failed write, so that is read first.
        let method = loop {
            match frame::parse(&received, parameters.frame_max) {
                Ok(Some((Frame::Method { channel: 0, .. }, length))) => break length,
                Ok(Some((Frame::Heartbeat, length))) => drop(received.drain(..length)),
                Ok(Some(_)) => {
                    return Err(Failure::new(
                        Kind::IncompatibleProtocol,
                        stage,
                        "a frame that has no place here",
                    ))
                }
                Err(error) => {
                    return Err(strange(
                        parameters,
                        stage,
                        &received,
                        answered,
                        &format!("{error}"),
                    ))
                }
                Ok(None) => {
                    if !answered && received.starts_with(b"AMQP") && received.len() >= 8 {
                        return Err(strange(
                            parameters,
                            stage,
                            &received,
                            answered,
                            "another protocol version",
                        ));
                    }
                    if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                        return Err(too_slow(parameters, stage));
                    }
                    let mut chunk = [0; 4096];
                    let stream = &mut secured.stream;
                    let read = limits.set(stream).and_then(|()| stream.read(&mut chunk));
                    let ended = |error: &io::Error| {
                        let nothing_came = !answered && received.is_empty();
                        secured.tls_failure(error, nothing_came).unwrap_or_else(|| {
                            let cause = format!("{error}");
                            if stage == Stage::Authentication && length > LOGIN_MOST {
                                return Failure::new(Kind::ProbableAuthentication, stage, cause)
                                    .hint(Some(LARGE_LOGIN));
                            }
                            hung_up(parameters, stage, &received, answered, cause)
                        })
                    };
                    match read {
                        Ok(0) => {
                            let closed = || io::Error::other("the peer closed the stream");
                            return Err(ended(&sent.err().unwrap_or_else(closed)));
                        }
                        Ok(count) => received.extend_from_slice(&chunk[..count]),
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) if is_timeout(&error) => {
                            if deadline.is_some() {
                                return Err(too_slow(parameters, stage));
                            }
                        }
                        Err(error) => return Err(ended(&error)),
                    }
                }
            }
        };
        answered = true;
        let payload = &received[7..method - 1];
        let step = Method::decode(payload)
            .map_err(Refusal::from)
            .and_then(|m| handshake.handle(m, &mut out));
        received.drain(..method);
        match step {
            Ok(Some(negotiated)) => return Ok((negotiated, received)),
            Ok(None) => {}
            Err(refusal) => {
                let _ = secured.stream.write_all(&out);
                return Err(refused(parameters, stage, refusal));
            }
        }
    }
}

/// The timeouts of the stream while hands are shaken.
struct Limits {
    deadline: Option<Instant>,
    set_at: Option<Instant>,
}

impl Limits {
    /// Sets them to what is left, unless this was done a moment ago: each is a system call.
    fn set(&mut self, stream: &Transport) -> io::Result<()> {
        const MOMENT: Duration = Duration::from_millis(100);
        let now = Instant::now();
        if self.set_at.is_some_and(|at| now - at < MOMENT) {
            return Ok(());
        }
        let left = match self.deadline {
            Some(deadline) => deadline
                .saturating_duration_since(now)
                .max(Duration::from_millis(1)),
            None => Duration::from_secs(3600),
        };
        stream.set_write_timeout(left)?;
        stream.set_read_timeout(left)?;
        self.set_at = Some(now);
        Ok(())
    }
}

fn too_slow(parameters: &ConnectionParameters, stage: Stage) -> Failure {
    let limit = parameters.stack_timeout.unwrap_or_default();
    Failure::new(
        Kind::Connection,
        stage,
        format!("the peer did not answer within {}", Span(limit)),
    )
    .hint(port_hint(parameters))
}

fn port_hint(parameters: &ConnectionParameters) -> Option<&'static str> {
    match parameters.effective_port() {
        15672 => Some("15672 is the port of RabbitMQ's management pages; AMQP is on 5672"),
        5671 if !parameters.uses_tls() => {
            Some("5671 is the port for AMQP over TLS: use an amqps:// URL")
        }
        _ => None,
    }
}

/// The stream ended. What that means depends on how far things had come.
fn hung_up(
    parameters: &ConnectionParameters,
    stage: Stage,
    received: &[u8],
    answered: bool,
    cause: String,
) -> Failure {
    if !answered && !received.is_empty() {
        return strange(parameters, stage, received, answered, &cause);
    }
    let (kind, hint) = match stage {
        Stage::Authentication => (
            Kind::ProbableAuthentication,
            Some("most often the user or the password is wrong"),
        ),
        Stage::VirtualHost => (
            Kind::ProbableAccessDenied,
            Some("most often the virtual host does not exist or the user may not use it"),
        ),
        _ => (
            Kind::IncompatibleProtocol,
            port_hint(parameters).or(Some("the peer may not speak AMQP 0-9-1")),
        ),
    };
    Failure::new(kind, stage, cause).hint(hint)
}

/// What came is not AMQP 0-9-1: perhaps it is something that can be named.
fn strange(
    parameters: &ConnectionParameters,
    stage: Stage,
    received: &[u8],
    answered: bool,
    error: &str,
) -> Failure {
    let failure = |cause: String| Failure::new(Kind::IncompatibleProtocol, stage, cause);
    if answered {
        return failure(error.to_owned());
    }
    match received {
        [b'A', b'M', b'Q', b'P', id, major, minor, revision, ..] => failure(format!(
            "the peer speaks AMQP {id}-{major}-{minor}-{revision}, not 0-9-1"
        )),
        _ if received.starts_with(b"HTTP") => {
            failure("the peer answered with HTTP".into()).hint(port_hint(parameters).or(Some(
                "this may be RabbitMQ's management port (15672); AMQP is on 5672",
            )))
        }
        // A TLS record: alert (21) or handshake (22), version 3.x.
        [21 | 22, 3, ..] => failure("the peer answered with TLS".into()).hint(Some(
            "this port expects TLS: use an amqps:// URL (port 5671)",
        )),
        _ => failure(error.to_owned()).hint(port_hint(parameters)),
    }
}

/// The server said no.
fn refused(parameters: &ConnectionParameters, stage: Stage, refusal: Refusal) -> Failure {
    match refusal {
        Refusal::Closed {
            reply_code,
            reply_text,
        } => {
            let local = parameters.host == "localhost"
                || parameters
                    .host
                    .parse::<IpAddr>()
                    .is_ok_and(|address| address.is_loopback());
            let (kind, hint) = match stage {
                Stage::Authentication if parameters.credentials.is_guest() && !local => (
                    Kind::ProbableAuthentication,
                    Some("RabbitMQ lets the user guest in from localhost only: create another user"),
                ),
                Stage::Authentication => (Kind::ProbableAuthentication, Some("check the user and the password")),
                Stage::VirtualHost => (
                    Kind::ProbableAccessDenied,
                    Some("check that the virtual host exists and that the user has permissions on it (in a URL, / is written %2f)"),
                ),
                _ => (Kind::Connection, None),
            };
            let mut failure =
                Failure::new(kind, stage, format!("{reply_code} {reply_text}")).hint(hint);
            failure.reply_code = Some(reply_code);
            failure
        }
        Refusal::Mechanisms(offered) => Failure::new(
            Kind::Authentication,
            Stage::Authentication,
            format!("no mechanism in common; the server offers: {offered}"),
        )
        .hint(Some(
            "PlainCredentials need PLAIN or AMQPLAIN, ExternalCredentials need EXTERNAL",
        )),
        Refusal::Version(major, minor) => Failure::new(
            Kind::IncompatibleProtocol,
            stage,
            format!("the server speaks AMQP {major}-{minor}, not 0-9"),
        ),
        Refusal::Violation(error) => {
            Failure::new(Kind::IncompatibleProtocol, stage, format!("{}", *error))
        }
    }
}

/// What failed so far.
#[derive(Default)]
struct Failures {
    attempts: Vec<Attempt>,
    furthest: Option<(Arc<str>, Failure)>,
}

impl Failures {
    fn add(
        &mut self,
        parameters: &ConnectionParameters,
        address: Option<SocketAddr>,
        failure: Failure,
    ) {
        let given = parameters.address();
        let shown = match address.map(|address| format!("{}", address.ip())) {
            Some(ip) if ip != parameters.host => format!("{given} [{ip}]"),
            _ => given.clone(),
        };
        log::debug!(
            "cannot connect to {shown} ({}): {}",
            failure.stage,
            failure.cause
        );
        self.attempts.push(Attempt {
            address: shown,
            stage: failure.stage,
            cause: failure.cause.clone(),
        });
        if self
            .furthest
            .as_ref()
            .is_none_or(|(_, furthest)| failure.stage >= furthest.stage)
        {
            self.furthest = Some((given.into(), failure));
        }
    }

    fn into_error(self) -> Error {
        let Some((address, failure)) = self.furthest else {
            return Error::invalid(
                "parameters",
                "an empty list",
                "at least one set of parameters",
            );
        };
        let Failure {
            kind,
            stage,
            cause,
            reply_code,
            hint,
        } = failure;
        let failure = Box::new(ConnectFailure {
            address,
            stage,
            cause,
            reply_code,
            hint,
            attempts: self.attempts,
        });
        match kind {
            Kind::Connection => Error::Connection(failure),
            Kind::Dns => Error::Dns(failure),
            #[cfg(feature = "tls")]
            Kind::Tls => Error::Tls(failure),
            Kind::IncompatibleProtocol => Error::IncompatibleProtocol(failure),
            Kind::Authentication => Error::Authentication(failure),
            Kind::ProbableAuthentication => Error::ProbableAuthentication(failure),
            Kind::ProbableAccessDenied => Error::ProbableAccessDenied(failure),
        }
    }
}
