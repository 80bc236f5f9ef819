//! Connecting: names, addresses, retries, and the handshake driven to its end.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::deadline::within;
use super::link::Opened;
use super::stream::{
    closed, describe, is_hang_up, is_timeout, send_all, EarlyReturns, Stream, REASON_LIMIT,
    WITHOUT_DEADLINE,
};
use super::sync::{after, Instant};
#[cfg(feature = "tls")]
use super::tls;
use crate::credentials::overwrite;
use crate::error::{Attempt, ConnectFailure, Failure, Result, Span, Stage};
use crate::protocol::frame::{self, Frame};
use crate::protocol::handshake::{Handshake, Negotiated};
use crate::{ConnectionParameters, Error, TcpOptions};

/// Tries every address of every host in order, as often as the last parameters say, with their delay in between.
pub(crate) fn open(candidates: &[ConnectionParameters]) -> Result<Opened> {
    let mut failures = Failures::default();
    let (cycles, delay) = match candidates.last() {
        Some(last) => (last.connection_attempts, last.retry_delay),
        None => return Err(failures.into_error()),
    };
    for cycle in 0..cycles {
        if cycle > 0 {
            thread::sleep(delay);
        }
        for parameters in candidates {
            let target = Target::new(parameters)?;
            let addresses = match target.resolve() {
                Ok(addresses) => addresses,
                Err(failure) => {
                    failures.add(&target, None, failure);
                    continue;
                }
            };
            for address in &addresses {
                match target.open(address) {
                    Ok(opened) => return Ok(opened),
                    Err(failure) => failures.add(&target, Some(address.ip()), failure),
                }
            }
        }
    }
    Err(failures.into_error())
}

/// Opens over a stream that the caller made.
pub(crate) fn open_over(
    parameters: &ConnectionParameters,
    stream: Box<dyn Stream>,
) -> Result<Opened> {
    let target = Target::new(parameters)?;
    target
        .open_over(stream, parameters.stack_timeout.map(after))
        .map_err(|failure| {
            let mut failures = Failures::default();
            failures.add(&target, None, failure);
            failures.into_error()
        })
}

/// Where to connect to.
struct Target<'a> {
    parameters: &'a ConnectionParameters,
    /// Host and port, as errors name them.
    address: Arc<str>,
    /// What is needed for TLS, if the connection is to be inside TLS.
    #[cfg(feature = "tls")]
    tls: Option<crate::tls::Prepared>,
}

impl<'a> Target<'a> {
    fn new(parameters: &'a ConnectionParameters) -> Result<Self> {
        parameters.validate()?;
        Ok(Target {
            parameters,
            address: parameters.address().into(),
            #[cfg(feature = "tls")]
            tls: prepare_tls(parameters)?,
        })
    }

    /// The addresses to try, each once.
    fn resolve(&self) -> Result<Vec<SocketAddr>, Box<Failure>> {
        self.resolve_by(|host, port| (host, port).to_socket_addrs())
    }

    fn resolve_by(
        &self,
        look_up: impl FnOnce(&str, u16) -> io::Result<std::vec::IntoIter<SocketAddr>> + Send + 'static,
    ) -> Result<Vec<SocketAddr>, Box<Failure>> {
        let failure = |cause: fmt::Arguments<'_>| {
            Failure::new(Error::Dns, Stage::Dns, cause, None).retryable(true)
        };
        let (host, port) = (
            self.parameters.host.clone(),
            self.parameters.effective_port(),
        );
        let found = match host.parse() {
            Ok(ip) => Ok(vec![SocketAddr::new(ip, port)].into_iter()),
            // The system's resolver has deadlines of its own, and they add up.
            Err(_) => within(self.parameters.stack_timeout, move || look_up(&host, port))
                .and_then(|found| found),
        };
        match found {
            Ok(addresses) if addresses.as_slice().is_empty() => {
                Err(failure(format_args!("the name has no address")))
            }
            Ok(addresses) => {
                let mut distinct = Vec::new();
                for address in addresses {
                    if !distinct.contains(&address) {
                        distinct.push(address);
                    }
                }
                Ok(distinct)
            }
            Err(error) => Err(failure(format_args!("{error}")).caused_by(error)),
        }
    }

    fn open(&self, address: &SocketAddr) -> Result<Opened, Box<Failure>> {
        let parameters = self.parameters;
        let deadline = parameters.stack_timeout.map(after);
        let limit = tcp_limit(parameters);
        match connect_tcp(address, limit, &parameters.tcp_options) {
            Ok(stream) => self.open_over(Box::new(stream), deadline),
            Err(error) => Err(self.unreached(error, limit)),
        }
    }

    #[cold]
    fn unreached(&self, error: io::Error, limit: Duration) -> Box<Failure> {
        let failure = |cause: fmt::Arguments<'_>, hint| {
            Failure::new(Error::Connection, Stage::Tcp, cause, hint).retryable(true)
        };
        let failure = match error.kind() {
            io::ErrorKind::TimedOut if limit < Duration::MAX => failure(
                format_args!("timed out after {}", Span(limit)),
                Some("a firewall may swallow what is sent there"),
            ),
            io::ErrorKind::ConnectionRefused => failure(
                format_args!("{error}"),
                Some("nothing listens on that port: is the broker running, and is the port right?"),
            ),
            _ => failure(format_args!("{error}"), None),
        };
        failure.caused_by(error)
    }

    fn open_over(
        &self,
        stream: Box<dyn Stream>,
        deadline: Option<Instant>,
    ) -> Result<Opened, Box<Failure>> {
        let (stream, certificate_missing) = self.secure(stream, deadline)?;
        let mut opened = Opened {
            stream,
            leftover: Vec::new(),
            negotiated: Negotiated::default(),
            address: Arc::clone(&self.address),
            rpc_timeout: self.parameters.rpc_timeout,
            max_message_size: self.parameters.max_message_size,
            blocked_timeout: self.parameters.blocked_connection_timeout,
        };
        let mut opening = Opening {
            target: self,
            stream: &mut *opened.stream,
            certificate_missing,
            deadline,
            limited_at: None,
            limit: Duration::ZERO,
            handshake: Handshake::new(self.parameters, &mut opened.negotiated),
            sent_last: 0,
            send_error: None,
            received: &mut opened.leftover,
            has_replied: false,
            early_reads: EarlyReturns::of("read"),
        };
        match opening.shake_hands() {
            Ok(()) => Ok(opened),
            Err(failure) => {
                // Dropping it need not end a stream that the caller made.
                let _ = opened.stream.shutdown();
                Err(failure)
            }
        }
    }

    /// The stream that AMQP is spoken over, and whether a client certificate was asked for that there is none of.
    #[cfg(not(feature = "tls"))]
    fn secure(
        &self,
        stream: Box<dyn Stream>,
        _: Option<Instant>,
    ) -> Result<(Box<dyn Stream>, bool), Box<Failure>> {
        Ok((stream, false))
    }

    /// The stream that AMQP is spoken over, and whether a client certificate was asked for that there is none of.
    #[cfg(feature = "tls")]
    fn secure(
        &self,
        stream: Box<dyn Stream>,
        deadline: Option<Instant>,
    ) -> Result<(Box<dyn Stream>, bool), Box<Failure>> {
        let Some(prepared) = &self.tls else {
            return Ok((stream, false));
        };
        match tls::connect(prepared, stream, deadline) {
            Ok(secured) => Ok((secured.stream, secured.certificate_missing)),
            Err(tls::Failure::TimeUp) => {
                let hint = Some("perhaps this port does not expect TLS");
                Err(self.too_slow(Stage::Tls, hint))
            }
            Err(tls::Failure::Other {
                cause,
                hint,
                lost,
                source,
            }) => {
                let mut failure =
                    Failure::new(Error::Tls, Stage::Tls, format_args!("{cause}"), hint)
                        .retryable(lost);
                failure.source = source;
                Err(failure)
            }
        }
    }

    #[cold]
    fn too_slow(&self, stage: Stage, hint: Option<&'static str>) -> Box<Failure> {
        let limit = Span(self.parameters.stack_timeout.unwrap_or_default());
        Failure::new(
            Error::Connection,
            stage,
            format_args!("timed out after {limit} waiting for the peer"),
            self.port_hint().or(hint),
        )
        .retryable(true)
    }

    fn port_hint(&self) -> Option<&'static str> {
        match self.parameters.effective_port() {
            15672 => Some("15672 is the port of RabbitMQ's management pages; AMQP is on 5672"),
            5671 if !self.parameters.uses_tls() => {
                Some("5671 is the port for AMQP over TLS: use an amqps:// URL")
            }
            _ => None,
        }
    }
}

/// What is needed for TLS, if the connection is to be inside TLS. Its files are read now.
#[cfg(feature = "tls")]
fn prepare_tls(parameters: &ConnectionParameters) -> Result<Option<crate::tls::Prepared>> {
    let Some(options) = &parameters.tls else {
        return Ok(None);
    };
    let (work, host) = (options.clone(), parameters.host.clone());
    match within(parameters.stack_timeout, move || work.prepare(&host)) {
        Ok(prepared) => prepared.map(Some),
        Err(error) => Err(options.not_read(error)),
    }
}

/// How long connecting a socket may take.
fn tcp_limit(parameters: &ConnectionParameters) -> Duration {
    let limits = [parameters.socket_timeout, parameters.stack_timeout];
    limits.into_iter().flatten().min().unwrap_or(Duration::MAX)
}

fn connect_tcp(
    address: &SocketAddr,
    limit: Duration,
    options: &TcpOptions,
) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(address, limit)?;
    stream.set_nodelay(true)?;
    set_options(&stream, options)?;
    Ok(stream)
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

/// How every frame of a handshake begins: a method, on channel 0.
const METHOD_FRAME: &[u8] = &[1, 0, 0];

/// The frame that servers must take before another size is agreed on (specification 4.2.3: frame-min-size).
const LOGIN_MOST: usize = 4096;

const LARGE_LOGIN: &str = "password or token, user name and client properties come to more than the 4096 bytes that \
     brokers must take at this point: use a shorter token, or let the broker take more (RabbitMQ: initial_frame_max)";

/// The handshake, as it goes to and fro over the stream.
struct Opening<'a> {
    target: &'a Target<'a>,
    stream: &'a mut dyn Stream,
    #[cfg_attr(not(feature = "tls"), allow(dead_code))]
    certificate_missing: bool,
    deadline: Option<Instant>,
    /// When the stream's timeouts were set, and to what.
    limited_at: Option<Instant>,
    limit: Duration,
    handshake: Handshake<'a>,
    /// How many bytes were sent last.
    sent_last: usize,
    /// Why the peer may not have got them.
    send_error: Option<io::Error>,
    /// What came and has not been taken yet.
    received: &'a mut Vec<u8>,
    /// Whether the peer has sent anything in AMQP.
    has_replied: bool,
    early_reads: EarlyReturns,
}

/// What there was to handle.
enum Progress {
    /// No whole frame has come.
    Incomplete,
    Handled,
    /// The connection is open.
    Open,
}

impl Opening<'_> {
    /// Drives the handshake until the connection is open.
    fn shake_hands(&mut self) -> Result<(), Box<Failure>> {
        let mut out = frame::PROTOCOL_HEADER.to_vec();
        loop {
            if !out.is_empty() {
                // After a write that failed nothing more is sent. What the peer sent before it hung up says more than the
                // write's error, so that is read first.
                if self.send_error.is_none() {
                    self.limit_waits()?;
                    self.send_error = send_all(self.stream, &out, self.deadline).err();
                    self.sent_last = out.len();
                }
                // The password was in it.
                overwrite(&mut out);
            }
            match self.handle_frame(&mut out)? {
                Progress::Open => {
                    return match self.send_error.take() {
                        Some(error) => Err(self.lost(error)),
                        None => Ok(()),
                    }
                }
                Progress::Handled => {}
                Progress::Incomplete => self.receive()?,
            }
        }
    }

    /// Handles the next frame, if all of it has come; `out` gets the response.
    fn handle_frame(&mut self, out: &mut Vec<u8>) -> Result<Progress, Box<Failure>> {
        let (handled, length) = match frame::parse(self.received, self.target.parameters.frame_max)
        {
            Ok(None) => return Ok(Progress::Incomplete),
            Ok(Some((
                Frame::Method {
                    channel: 0,
                    payload,
                },
                length,
            ))) => {
                self.has_replied = true;
                (self.handshake.handle(payload, out), length)
            }
            Ok(Some((Frame::Heartbeat, length))) => (Ok(false), length),
            Ok(Some(_)) => {
                let cause = format_args!("an unexpected frame in the handshake");
                return Err(self.failure(Error::IncompatibleProtocol, cause, None));
            }
            // What a broker that speaks another version replies with is 8 bytes long (4.2.2).
            Err(_) if self.received.starts_with(b"AMQP") && self.received.len() < 8 => {
                return Ok(Progress::Incomplete);
            }
            Err(error) => return Err(self.not_amqp(&error).caused_by(error)),
        };
        self.received.drain(..length);
        match handled {
            Ok(true) => Ok(Progress::Open),
            Ok(false) => Ok(Progress::Handled),
            Err(failure) => {
                // A server that refuses still waits for `close-ok`.
                let _ = self
                    .stream
                    .set_write_timeout(REASON_LIMIT)
                    .and_then(|()| send_all(self.stream, out, Some(after(REASON_LIMIT))));
                Err(failure)
            }
        }
    }

    /// Waits for more from the peer.
    fn receive(&mut self) -> Result<(), Box<Failure>> {
        if self.is_late() {
            return Err(self.too_slow());
        }
        self.limit_waits()?;
        let mut chunk = [0; 4096];
        let error = match self.stream.read(&mut chunk) {
            Ok(0) => match self.send_error.take() {
                Some(error) => error,
                None => closed(),
            },
            Ok(count) => {
                self.received.extend_from_slice(&chunk[..count]);
                self.early_reads.clear();
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            // Whether the deadline has passed is looked at above, before the next read.
            Err(error) if is_timeout(&error) => match self.send_error.take() {
                Some(error) if is_timeout(&error) && self.is_late() => return Err(self.too_slow()),
                Some(error) => return Err(self.lost(error)),
                None => match self.early_reads.note(self.limit) {
                    Ok(()) => return Ok(()),
                    Err(error) => return Err(self.lost(error)),
                },
            },
            Err(error) => error,
        };
        Err(self.ended(error))
    }

    /// Whether the time for all of it is up.
    fn is_late(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Sets the stream's timeouts to what is left, unless this was done a moment ago: each is a system call. After a write that
    /// failed, only what has come already is worth waiting for.
    fn limit_waits(&mut self) -> Result<(), Box<Failure>> {
        const MOMENT: Duration = Duration::from_millis(100);
        let now = Instant::now();
        let has_failed = self.send_error.is_some();
        if self.limited_at.is_some_and(|at| now - at < MOMENT) && !has_failed {
            return Ok(());
        }
        let left = match self.deadline {
            Some(deadline) => deadline
                .saturating_duration_since(now)
                .max(Duration::from_millis(1)),
            None => WITHOUT_DEADLINE,
        };
        let left = if has_failed {
            left.min(REASON_LIMIT)
        } else {
            left
        };
        self.stream
            .set_write_timeout(left)
            .and_then(|()| self.stream.set_read_timeout(left))
            .map_err(|error| {
                self.failure(
                    Error::Connection,
                    format_args!("the stream's timeouts cannot be set: {error}"),
                    None,
                )
                .retryable(true)
                .caused_by(error)
            })?;
        self.limited_at = Some(now);
        self.limit = left;
        Ok(())
    }

    fn failure(
        &self,
        kind: fn(Arc<ConnectFailure>) -> Error,
        cause: fmt::Arguments<'_>,
        hint: Option<&'static str>,
    ) -> Box<Failure> {
        Failure::new(kind, self.handshake.stage, cause, hint)
    }

    fn too_slow(&self) -> Box<Failure> {
        self.target.too_slow(self.handshake.stage, None)
    }

    /// The stream ended. What that means depends on how far things had come.
    #[cold]
    fn ended(&self, error: io::Error) -> Box<Failure> {
        #[cfg(feature = "tls")]
        let error = match self.tls_failure(error) {
            Ok(failure) => return failure,
            Err(error) => error,
        };
        // Half a frame is never a refusal.
        let is_cut = self.has_replied
            || METHOD_FRAME.starts_with(self.received.get(..3).unwrap_or(self.received));
        if !is_hang_up(&error) || is_cut && !self.received.is_empty() {
            return self.lost(error);
        }
        if !self.received.is_empty() {
            return self.not_amqp(&error).caused_by(error);
        }
        let (kind, hint, on_purpose): (fn(_) -> _, _, _) = match self.handshake.stage {
            Stage::Authentication if self.sent_last > LOGIN_MOST => {
                (Error::ProbableAuthentication, LARGE_LOGIN, true)
            }
            Stage::Authentication => (
                Error::ProbableAuthentication,
                "most often the user or the password is wrong",
                !self.handshake.server_gives_reasons(),
            ),
            Stage::VirtualHost => (
                Error::ProbableAccessDenied,
                "most often the virtual host does not exist or the user may not use it",
                !self.handshake.server_gives_reasons(),
            ),
            // A broker that does not speak this protocol says which it speaks. A proxy without a broker behind it hangs up.
            _ => match self.target.port_hint() {
                Some(hint) => (Error::IncompatibleProtocol, hint, true),
                None => (
                    Error::IncompatibleProtocol,
                    "the peer may not speak AMQP 0-9-1, or it is a proxy whose broker is down",
                    false,
                ),
            },
        };
        self.failure(kind, format_args!("{error}"), Some(hint))
            .retryable(!on_purpose)
            .caused_by(error)
    }

    /// The stream ended where no peer ends it on purpose.
    #[cold]
    fn lost(&self, error: io::Error) -> Box<Failure> {
        let cause = describe(&error);
        self.failure(Error::Connection, format_args!("{cause}"), None)
            .retryable(true)
            .caused_by(error)
    }

    /// Whether the end of the stream is TLS's doing. With TLS 1.3 a server refuses the client's certificate, or the lack
    /// of one, only after the client has gone on to AMQP. Otherwise the error comes back.
    #[cfg(feature = "tls")]
    fn tls_failure(&self, error: io::Error) -> Result<Box<Failure>, io::Error> {
        let failure =
            |cause: fmt::Arguments<'_>, hint| Failure::new(Error::Tls, Stage::Tls, cause, hint);
        let nothing_came = !self.has_replied && self.received.is_empty();
        match tls::described(&error, self.certificate_missing) {
            Some(tls::Failure::Other {
                cause,
                hint,
                source,
                ..
            }) => {
                let mut failure = failure(format_args!("{cause}"), hint);
                failure.source = source;
                Ok(failure)
            }
            _ if nothing_came && self.certificate_missing => {
                let hint = Some(tls::MISSING_CERTIFICATE);
                Ok(failure(format_args!("{error}"), hint).caused_by(error))
            }
            _ => Err(error),
        }
    }

    /// What came is not AMQP 0-9-1: perhaps it is something that can be named.
    #[cold]
    fn not_amqp(&self, error: &dyn fmt::Display) -> Box<Failure> {
        let failure = |cause: fmt::Arguments<'_>, hint| {
            self.failure(Error::IncompatibleProtocol, cause, hint)
        };
        if self.has_replied {
            return failure(format_args!("{error}"), None);
        }
        let port_hint = self.target.port_hint();
        match self.received[..] {
            [b'A', b'M', b'Q', b'P', id, major, minor, revision, ..] => failure(
                format_args!("the peer speaks AMQP {id}-{major}-{minor}-{revision}, not 0-9-1"),
                None,
            ),
            [b'H', b'T', b'T', b'P', ..] => failure(
                format_args!("the peer replied with HTTP"),
                port_hint.or(Some(
                    "this may be RabbitMQ's management port (15672); AMQP is on 5672",
                )),
            ),
            // A TLS record: alert (21) or handshake (22), version 3.x.
            [21 | 22, 3, ..] => failure(
                format_args!("the peer replied with TLS"),
                Some("this port expects TLS: use an amqps:// URL (port 5671)"),
            ),
            _ => failure(format_args!("{error}"), port_hint),
        }
    }
}

/// How many attempts an error lists: the first ones and the last ones. There may be very many over the days.
const ATTEMPTS_LISTED: usize = 20;

/// What failed so far.
#[derive(Default)]
struct Failures {
    attempts: Vec<Attempt>,
    made: usize,
    furthest: Option<(Arc<str>, Box<Failure>)>,
    /// The addresses, and whether the last attempt at each may succeed next time. There are few.
    retryable: Vec<(String, bool)>,
}

impl Failures {
    #[cold]
    fn add(&mut self, target: &Target<'_>, ip: Option<IpAddr>, failure: Box<Failure>) {
        let ip = ip.map(|ip| format!("{ip}"));
        let attempt = Attempt {
            address: match ip.filter(|ip| *ip != target.parameters.host) {
                Some(ip) => format!("{} [{ip}]", target.address),
                None => format!("{}", target.address),
            },
            stage: failure.stage,
            cause: failure.cause.clone(),
        };
        log::debug!("cannot connect to {attempt}");
        let known = |(address, _): &&mut (String, bool)| *address == attempt.address;
        match self.retryable.iter_mut().find(known) {
            Some((_, retryable)) => *retryable = failure.retryable,
            None => self
                .retryable
                .push((attempt.address.clone(), failure.retryable)),
        }
        self.made += 1;
        if self.attempts.len() == ATTEMPTS_LISTED {
            self.attempts.remove(ATTEMPTS_LISTED / 2);
        }
        self.attempts.push(attempt);
        match &self.furthest {
            Some((_, furthest)) if furthest.stage > failure.stage => {}
            _ => self.furthest = Some((Arc::clone(&target.address), failure)),
        }
    }

    #[cold]
    fn into_error(self) -> Error {
        let Some((address, failure)) = self.furthest else {
            return Error::invalid("parameters", "an empty list", "at least one is expected");
        };
        let retryable = self.retryable.iter().any(|(_, retryable)| *retryable);
        failure
            .retryable(retryable)
            .into_error(address, self.attempts, self.made)
    }
}

/// The connection is open, but the operating system refuses a handle to its stream, or a thread that it needs.
#[cold]
pub(crate) fn not_started(address: Arc<str>, error: io::Error) -> Error {
    let failure = Failure::new(
        Error::Connection,
        Stage::VirtualHost,
        format_args!("the connection was open, and then: {error}"),
        None,
    )
    .retryable(true)
    .caused_by(error);
    let attempt = Attempt {
        address: address.to_string(),
        stage: failure.stage,
        cause: failure.cause.clone(),
    };
    failure.into_error(address, vec![attempt], 1)
}

#[cfg(test)]
#[cfg(not(shuttle))]
#[path = "tests/connect.rs"]
mod tests;
