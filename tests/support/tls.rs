//! Certificates made on the spot, and TLS servers of one's own for what a proper one would not show.
#![allow(dead_code, unreachable_pub)]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rcgen::{
    date_time_ymd, BasicConstraints, CertificateParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig, ServerConnection, SupportedProtocolVersion};

/// A certificate and its key, PEM.
#[derive(Clone)]
pub struct Issued {
    pub certificate: String,
    pub key: String,
}

/// Who issues certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self::with(params)
    }

    pub fn with(params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        Authority(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    /// The authority's own certificate, in binary form.
    pub fn der(&self) -> Vec<u8> {
        self.0.der().to_vec()
    }

    /// The authority's own certificate.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    pub fn issue(&self, params: CertificateParams) -> Issued {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Issued {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }

    /// A good certificate for a server of these names.
    pub fn server(&self, names: &[&str]) -> Issued {
        self.issue(server_params(names))
    }

    /// A client's certificate.
    pub fn client(&self, common_name: &str) -> Issued {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        params
            .extended_key_usages
            .push(ExtendedKeyUsagePurpose::ClientAuth);
        self.issue(params)
    }
}

pub fn server_params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params
        .distinguished_name
        .push(DnType::CommonName, "a server");
    params
        .extended_key_usages
        .push(ExtendedKeyUsagePurpose::ServerAuth);
    params
}

pub fn expired(mut params: CertificateParams) -> CertificateParams {
    params.not_before = date_time_ymd(2019, 1, 1);
    params.not_after = date_time_ymd(2020, 1, 1);
    params
}

pub fn not_yet_valid(mut params: CertificateParams) -> CertificateParams {
    params.not_before = date_time_ymd(3000, 1, 1);
    params.not_after = date_time_ymd(3001, 1, 1);
    params
}

/// Signed with its own key.
pub fn self_signed(params: CertificateParams) -> Issued {
    let key = KeyPair::generate().unwrap();
    Issued {
        certificate: params.self_signed(&key).unwrap().pem(),
        key: key.serialize_pem(),
    }
}

/// What a TLS server of one's own shows and wants.
pub fn server_config(
    server: &Issued,
    clients: Option<&Authority>,
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            let root = CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap();
            roots.add(root).unwrap();
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.unwrap())
        }
    };
    let chain = CertificateDer::pem_slice_iter(server.certificate.as_bytes())
        .collect::<Result<_, _>>()
        .unwrap();
    let key = PrivateKeyDer::from_pem_slice(server.key.as_bytes()).unwrap();
    Arc::new(builder.with_single_cert(chain, key).unwrap())
}

/// A TLS server that shows a certificate with a key that need not be its own.
pub fn server_config_unchecked(
    certificate: &str,
    key: &str,
    version: &'static SupportedProtocolVersion,
) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = CertificateDer::pem_slice_iter(certificate.as_bytes())
        .collect::<Result<_, _>>()
        .unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let key = provider.key_provider.load_private_key(key).unwrap();
    let shown = SingleCertAndKey::from(CertifiedKey::new(chain, key));
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap();
    Arc::new(
        builder
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(shown)),
    )
}

/// A TLS server with nothing behind it but, if that is given, a peer to which the bytes are handed on. Ends with this value.
pub struct Server {
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
    accepted: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start(config: Arc<ServerConfig>, behind: Option<SocketAddr>) -> Server {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let stopped = Arc::new(AtomicBool::new(false));
        let accepted = Arc::new(AtomicUsize::new(0));
        let (stop, accept) = (Arc::clone(&stopped), Arc::clone(&accepted));
        let thread = thread::spawn(move || {
            for client in listener.incoming() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                accept.fetch_add(1, Ordering::Relaxed);
                let session = ServerConnection::new(Arc::clone(&config)).unwrap();
                let stop = Arc::clone(&stop);
                let client = client.unwrap();
                thread::spawn(move || serve(session, client, behind, &stop));
            }
        });
        Server {
            address,
            stopped,
            accepted,
            thread: Some(thread),
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// How many connections came.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(
    mut session: ServerConnection,
    mut client: TcpStream,
    behind: Option<SocketAddr>,
    stopped: &AtomicBool,
) {
    let timeout = Some(Duration::from_secs(10));
    client.set_read_timeout(timeout).unwrap();
    client.set_write_timeout(timeout).unwrap();
    while session.is_handshaking() {
        // A failure leaves an alert behind, which is sent.
        if session.complete_io(&mut client).is_err() {
            let _ = session.write_tls(&mut client);
            // Closing with unread bytes would take it away from the client.
            let _ = client.shutdown(std::net::Shutdown::Write);
            let _ = client.read(&mut [0; 4096]);
            return;
        }
    }
    let mut broker = behind.map(|address| TcpStream::connect(address).unwrap());
    // One thread for both directions: simple, and quick enough for a test.
    let pause = Some(Duration::from_millis(1));
    client.set_read_timeout(pause).unwrap();
    if let Some(broker) = &broker {
        broker.set_read_timeout(pause).unwrap();
    }
    let waiting = |kind| matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut);
    let mut buffer = vec![0; 64 * 1024];
    let began = Instant::now();
    while !stopped.load(Ordering::Relaxed) && began.elapsed() < Duration::from_secs(60) {
        match session.read_tls(&mut client) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if waiting(error.kind()) => {}
            Err(_) => return,
        }
        if session.process_new_packets().is_err() {
            let _ = session.write_tls(&mut client);
            return;
        }
        loop {
            match session.reader().read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => {
                    if let Some(broker) = &mut broker {
                        broker.write_all(&buffer[..count]).unwrap();
                    }
                }
                Err(error) if waiting(error.kind()) => break,
                Err(_) => return,
            }
        }
        if let Some(broker) = &mut broker {
            match broker.read(&mut buffer) {
                Ok(0) => {
                    session.send_close_notify();
                    let _ = session.write_tls(&mut client);
                    return;
                }
                Ok(count) => session.writer().write_all(&buffer[..count]).unwrap(),
                Err(error) if waiting(error.kind()) => {}
                Err(_) => return,
            }
        }
        while session.wants_write() {
            if session.write_tls(&mut client).is_err() {
                return;
            }
        }
    }
}
