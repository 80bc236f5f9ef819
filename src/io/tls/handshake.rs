//! The TLS handshake, driven to its end.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use rustls::{ClientConnection, SignatureScheme};

use super::failure::{describe, lost, other_protocol, Failure};
use super::{ReceivedRecords, TlsStream, SEAL};
use crate::error::Source;
use crate::io::stream::{
    is_timeout, send_all, EarlyReturns, Stream, REASON_LIMIT, WITHOUT_DEADLINE,
};
use crate::io::sync::{after, Instant};
use crate::tls::Prepared;

/// How long an alert may take that says what is wrong.
const ALERT: Duration = Duration::from_millis(200);

/// A stream after a handshake.
pub(crate) struct Secured {
    pub(crate) stream: Box<dyn Stream>,
    /// The server asked for a client's certificate, and there was none to show. It may say only later, or by hanging up,
    /// that it insists.
    pub(crate) certificate_missing: bool,
}

/// Shakes hands over this stream; shuts it down if that fails.
pub(crate) fn connect(
    prepared: &Prepared,
    mut stream: Box<dyn Stream>,
    deadline: Option<Instant>,
) -> Result<Secured, Failure> {
    let result = secure(prepared, &mut *stream, deadline);
    if result.is_err() {
        let _ = stream.shutdown();
    }
    result
}

fn secure(
    prepared: &Prepared,
    stream: &mut dyn Stream,
    deadline: Option<Instant>,
) -> Result<Secured, Failure> {
    let mut handshake = Handshake::new(prepared, stream, deadline)?;
    handshake.run()?;
    let certificate_missing = handshake.certificate.is_missing();
    let Handshake {
        session,
        stream,
        incoming,
        ..
    } = handshake;
    match TlsStream::new(session, incoming, &*stream) {
        Ok(stream) => Ok(Secured {
            stream: Box::new(stream),
            certificate_missing,
        }),
        Err(error) => Err(lost(error, &[])),
    }
}

/// A TLS handshake, as it goes to and fro over the stream.
struct Handshake<'a> {
    session: ClientConnection,
    stream: &'a mut dyn Stream,
    deadline: Option<Instant>,
    incoming: ReceivedRecords,
    /// The first bytes that the peer sent: they say what it speaks if that is not TLS.
    first: Vec<u8>,
    early_reads: EarlyReturns,
    /// Why the peer may not have got what was sent last.
    send_error: Option<io::Error>,
    certificate: Arc<ClientCertificate>,
}

impl<'a> Handshake<'a> {
    fn new(
        prepared: &Prepared,
        stream: &'a mut dyn Stream,
        deadline: Option<Instant>,
    ) -> Result<Self, Failure> {
        let certificate = Arc::new(ClientCertificate {
            key: prepared.client.clone(),
            asked: AtomicBool::new(false),
        });
        let mut config = prepared.config.clone();
        config.client_auth_cert_resolver = certificate.clone();
        let mut session = ClientConnection::new(Arc::new(config), prepared.server_name.clone())
            .map_err(|error| describe(&error, certificate.is_missing()))?;
        session.set_buffer_limit(Some(SEAL));
        Ok(Handshake {
            session,
            stream,
            deadline,
            incoming: ReceivedRecords::default(),
            first: Vec::new(),
            early_reads: EarlyReturns::of("read"),
            send_error: None,
            certificate,
        })
    }

    fn run(&mut self) -> Result<(), Failure> {
        loop {
            self.send()?;
            if !self.session.is_handshaking() {
                return match self.send_error.take() {
                    Some(error) => Err(self.lost(error)),
                    None => Ok(()),
                };
            }
            if self.is_late() {
                return Err(Failure::TimeUp);
            }
            self.receive()?;
            self.open_received()?;
        }
    }

    /// Whether the time for all of it is up.
    fn is_late(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// How long a read or write may take.
    fn remaining(&self) -> Duration {
        let remaining = match self.deadline {
            Some(deadline) => deadline
                .saturating_duration_since(Instant::now())
                .max(Duration::from_millis(1)),
            None => WITHOUT_DEADLINE,
        };
        match &self.send_error {
            Some(_) => remaining.min(REASON_LIMIT),
            None => remaining,
        }
    }

    fn send(&mut self) -> Result<(), Failure> {
        let sealed = take_sealed(&mut self.session).map_err(|error| self.lost(error))?;
        // After a write that failed nothing more is sent.
        if sealed.is_empty() || self.send_error.is_some() {
            return Ok(());
        }
        let limit = self.remaining();
        let sent = self
            .stream
            .set_write_timeout(limit)
            .and_then(|()| send_all(self.stream, &sealed, self.deadline));
        match sent {
            Ok(()) => Ok(()),
            Err(error) if is_timeout(&error) => Err(Failure::TimeUp),
            // What the peer sent before it hung up says more, and is read next.
            Err(error) if self.session.is_handshaking() => {
                self.send_error = Some(error);
                Ok(())
            }
            Err(error) => Err(self.lost(error)),
        }
    }

    /// Reads once. Nothing need have come.
    fn receive(&mut self) -> Result<(), Failure> {
        let limit = self.remaining();
        let read = self
            .stream
            .set_read_timeout(limit)
            .and_then(|()| self.incoming.fill(self.stream));
        match read {
            Ok(0) => return Err(self.lost(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => self.early_reads.clear(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) if is_timeout(&error) => {
                let noted = match self.send_error.take() {
                    Some(error) => Err(error),
                    None => self.early_reads.note(limit),
                };
                return noted.map_err(|error| self.lost(error));
            }
            Err(error) => return Err(self.lost(error)),
        }
        let missing = 8_usize.saturating_sub(self.first.len());
        self.first.extend(self.incoming.rest().iter().take(missing));
        Ok(())
    }

    /// Opens what has come, up to the end of the handshake; what follows that stays where it is.
    fn open_received(&mut self) -> Result<(), Failure> {
        while !self.incoming.rest().is_empty() && self.session.is_handshaking() {
            let mut rest = self.incoming.rest();
            let taken = self
                .session
                .read_tls(&mut rest)
                .map_err(|error| lost(error, &self.first))?;
            self.incoming.start += taken;
            if let Err(error) = self.session.process_new_packets() {
                send_alert(&mut self.session, self.stream);
                let source = Source::new(error.clone());
                return Err(other_protocol(&self.first, source)
                    .unwrap_or_else(|_| describe(&error, self.certificate.is_missing())));
            }
            if taken == 0 {
                return Err(self.lost(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        Ok(())
    }

    fn lost(&self, error: io::Error) -> Failure {
        lost(error, &self.first)
    }
}

/// Lets the peer know why, if that can be done quickly: its operator may look into its log.
fn send_alert(session: &mut ClientConnection, stream: &mut dyn Stream) {
    if let Ok(sealed) = take_sealed(session) {
        let _ = stream
            .set_write_timeout(ALERT)
            .and_then(|()| send_all(stream, &sealed, Some(after(ALERT))));
    }
}

fn take_sealed(session: &mut ClientConnection) -> io::Result<Vec<u8>> {
    let mut sealed = Vec::new();
    while session.wants_write() {
        session.write_tls(&mut sealed)?;
    }
    Ok(sealed)
}

/// The client's certificate, and whether the server asked for one.
#[derive(Debug)]
struct ClientCertificate {
    key: Option<Arc<CertifiedKey>>,
    asked: AtomicBool,
}

impl ClientCertificate {
    /// Whether the server asked for one and there is none.
    fn is_missing(&self) -> bool {
        self.key.is_none() && self.asked.load(Ordering::Relaxed)
    }
}

impl ResolvesClientCert for ClientCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        self.key.clone()
    }

    fn has_certs(&self) -> bool {
        self.key.is_some()
    }
}
