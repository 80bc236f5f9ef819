//! What a connection inside TLS trusts and what it shows of itself.

mod pem;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, Resumption};
use rustls::crypto::{
    verify_tls12_signature, verify_tls13_signature, CryptoProvider, WebPkiSupportedAlgorithms,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, DigitallySignedStruct, InconsistentKeys, RootCertStore, SignatureScheme,
};

use self::pem::{Pem, Setters, USABLE_KEYS};

use crate::error::{Error, Result};

/// How a connection is put inside TLS (pika: `SSLOptions`; feature `tls`).
///
/// Given to [`ConnectionParameters::tls`](crate::ConnectionParameters::tls); an `amqps://` URL brings its own. TLS 1.3 and
/// 1.2 are spoken. Without any setter the server's certificate is verified against the certificates that the platform
/// trusts, and must bear the host's name (or address) as it is in the parameters. Whether it has been revoked is not checked:
/// neither revocation lists nor OCSP are asked.
///
/// | setter | URL option | Python's `ssl` |
/// | --- | --- | --- |
/// | [`ca_certificates_file`](TlsOptions::ca_certificates_file) | `cacertfile` | `load_verify_locations(cafile)` |
/// | [`client_certificate_files`](TlsOptions::client_certificate_files) | `certfile`, `keyfile` | `load_cert_chain(certfile, keyfile)` |
/// | [`server_hostname`](TlsOptions::server_hostname) | `server_name_indication` | `SSLOptions(…, server_hostname)` |
/// | [`danger_accept_any_hostname`](TlsOptions::danger_accept_any_hostname) | none | `check_hostname = False` |
/// | [`danger_accept_any_certificate`](TlsOptions::danger_accept_any_certificate) | `verify=verify_none`, `ssl_options={'verify': False}` | `verify_mode = CERT_NONE` |
///
/// Files are read when a connection is opened, each time anew. What cannot be read or used fails with
/// [`Error::InvalidParameter`], which names the setter, the URL option and the file. `Debug` shows no key.
///
/// ```
/// use haypile::{ConnectionParameters, ExternalCredentials, TlsOptions};
///
/// // an authority of one's own, and a client certificate in place of a password
/// let tls = TlsOptions::new()
///     .ca_certificates_file("/etc/orders/ca.pem")
///     .client_certificate_files("/etc/orders/client.pem", "/etc/orders/client.key");
/// let parameters = ConnectionParameters::new("rabbit.example")
///     .tls(tls)
///     .credentials(ExternalCredentials);
/// # let _ = parameters;
/// ```
#[doc(alias = "SSLOptions")]
#[doc(alias = "SSLContext")]
#[doc(alias = "ssl_options")]
#[derive(Clone, PartialEq, Eq, Default)]
pub struct TlsOptions {
    ca_certificates: Option<Pem>,
    /// Certificate, key.
    client: Option<(Pem, Pem)>,
    server_hostname: Option<String>,
    accept_any_hostname: bool,
    accept_any_certificate: bool,
}

impl TlsOptions {
    /// Verification against the certificates that the platform trusts, and no client certificate.
    ///
    /// On Unix these are OpenSSL's, or what the environment variables `SSL_CERT_FILE` and `SSL_CERT_DIR` name.
    ///
    /// ```
    /// use haypile::{ConnectionParameters, TlsOptions};
    ///
    /// let parameters = ConnectionParameters::new("rabbit.example").tls(TlsOptions::new());
    /// assert_eq!(parameters, ConnectionParameters::from_url("amqps://rabbit.example")?);
    /// # Ok::<(), haypile::Error>(())
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts the authorities in this PEM file, **in place of** the platform's.
    ///
    /// ```
    /// use haypile::{ConnectionParameters, TlsOptions};
    ///
    /// let tls = TlsOptions::new().ca_certificates_file("/etc/orders/ca.pem");
    /// let parameters = ConnectionParameters::new("rabbit.example").tls(tls);
    /// # let _ = parameters;
    /// ```
    #[must_use]
    pub fn ca_certificates_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca_certificates = Some(Pem::File(path.into()));
        self
    }

    /// Trusts the authorities in this PEM text, **in place of** the platform's.
    ///
    /// ```
    /// use haypile::{Connection, ConnectionParameters, Error, TlsOptions};
    ///
    /// let tls = TlsOptions::new().ca_certificates_pem("no certificate");
    /// let error = Connection::open(ConnectionParameters::new("127.0.0.1").tls(tls)).unwrap_err();
    /// assert!(matches!(error, Error::InvalidParameter { .. }), "{error}");
    /// ```
    #[must_use]
    pub fn ca_certificates_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca_certificates = Some(Pem::Bytes(pem.into().into()));
        self
    }

    /// Shows the server this certificate, if it asks for one (mutual TLS). Both files are PEM; the certificate may be
    /// followed by those that lead to its authority. The key may be in the same file.
    ///
    /// Keys are for RSA (2048 to 8192 bits), ECDSA (P-256 or P-384) or Ed25519, as PKCS#8, PKCS#1 or SEC1. One that needs a
    /// passphrase is refused, with an error that names the remedy: `openssl pkey -in encrypted.key -out client.key` decrypts it.
    /// Of several keys, the one that belongs to the certificate is used (Python's `ssl` takes the first).
    ///
    /// Who this is to RabbitMQ is another matter: see [`ExternalCredentials`](crate::ExternalCredentials).
    ///
    /// ```
    /// use haypile::{ConnectionParameters, TlsOptions};
    ///
    /// let tls = TlsOptions::new().client_certificate_files("client.pem", "client.key");
    /// let url = "amqps://rabbit.example?certfile=client.pem&keyfile=client.key";
    /// assert_eq!(ConnectionParameters::new("rabbit.example").tls(tls), ConnectionParameters::from_url(url)?);
    /// # Ok::<(), haypile::Error>(())
    /// ```
    #[must_use]
    pub fn client_certificate_files(
        mut self,
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Self {
        self.client = Some((Pem::File(certificate.into()), Pem::File(key.into())));
        self
    }

    /// The same from PEM texts.
    ///
    /// ```
    /// use haypile::{Connection, ConnectionParameters, Error, TlsOptions};
    ///
    /// let tls = TlsOptions::new().client_certificate_pem("no certificate", "no key");
    /// let error = Connection::open(ConnectionParameters::new("127.0.0.1").tls(tls)).unwrap_err();
    /// assert!(matches!(error, Error::InvalidParameter { .. }), "{error}");
    /// ```
    #[must_use]
    pub fn client_certificate_pem(
        mut self,
        certificate: impl Into<Vec<u8>>,
        key: impl Into<Vec<u8>>,
    ) -> Self {
        self.client = Some((
            Pem::Bytes(certificate.into().into()),
            Pem::Bytes(key.into().into()),
        ));
        self
    }

    /// The name or address that the server's certificate must bear, and that is sent to the server (SNI), in place of the
    /// parameters' host. For a broker behind a tunnel or an address of no name.
    ///
    /// ```
    /// use haypile::{ConnectionParameters, TlsOptions};
    ///
    /// let tls = TlsOptions::new().server_hostname("rabbit.example");
    /// let parameters = ConnectionParameters::new("127.0.0.1").port(9000).tls(tls);
    /// # let _ = parameters;
    /// ```
    #[must_use]
    pub fn server_hostname(mut self, name: impl Into<String>) -> Self {
        self.server_hostname = Some(name.into());
        self
    }

    /// Takes a certificate that **bears another name**, as long as an authority that is trusted has issued it (Python's
    /// `check_hostname = False`). Then anyone with any certificate of that authority can pass for the server: only for an
    /// authority of one's own, given by [`ca_certificates_file`](TlsOptions::ca_certificates_file), that issues to no one
    /// else. Where the name is known, [`server_hostname`](TlsOptions::server_hostname) is the better way.
    ///
    /// Each use is logged as a warning. A URL cannot ask for it.
    ///
    /// ```
    /// use haypile::{ConnectionParameters, TlsOptions};
    ///
    /// let tls = TlsOptions::new()
    ///     .ca_certificates_file("/etc/orders/ca.pem")
    ///     .danger_accept_any_hostname();
    /// let parameters = ConnectionParameters::new("10.1.2.3").tls(tls);
    /// # let _ = parameters;
    /// ```
    #[must_use]
    #[doc(alias = "check_hostname")]
    pub fn danger_accept_any_hostname(mut self) -> Self {
        self.accept_any_hostname = true;
        self
    }

    /// **Switches verification off**: whatever certificate the server shows is taken, so anybody on the way can read and
    /// change everything, the password included. For tests, and for nothing else; an authority of one's own is trusted
    /// by [`ca_certificates_file`](TlsOptions::ca_certificates_file).
    ///
    /// Nothing but this, and what means the same in a URL (`verify=verify_none`, or pika's
    /// `ssl_options={'verify': False}` and `{'verify': 'verify_none'}`), does so. Each use is logged as a warning. Together
    /// with authorities to trust it is refused with [`Error::InvalidParameter`], since one of the two is a mistake.
    ///
    /// ```
    /// use haypile::{ConnectionParameters, TlsOptions};
    ///
    /// let tls = TlsOptions::new().danger_accept_any_certificate();
    /// let parameters = ConnectionParameters::from_url("amqps://localhost?verify=verify_none")?;
    /// assert_eq!(ConnectionParameters::default().tls(tls), parameters);
    /// # Ok::<(), haypile::Error>(())
    /// ```
    #[must_use]
    pub fn danger_accept_any_certificate(mut self) -> Self {
        self.accept_any_certificate = true;
        self
    }

    /// What contradicts itself, if anything does: which setter, what was given, and what is expected.
    pub(crate) fn problem(&self) -> Option<(&'static str, &'static str, &'static str)> {
        let authorities = self.ca_certificates.as_ref();
        let contradicting = authorities.filter(|_| self.accept_any_certificate)?;
        Some((
            contradicting.setter(&CA),
            "with verification switched off, an authority to trust",
            "leave out either the authority (ca_certificates_file or ca_certificates_pem, in a URL: cacertfile) or \
             danger_accept_any_certificate (in a URL: verify=verify_none, or verify in ssl_options)",
        ))
    }

    /// The error for files that were not read in time.
    #[cold]
    pub(crate) fn not_read(&self, error: std::io::Error) -> Error {
        let (certificate, key) = self.client.as_ref().map(|(c, k)| (c, k)).unzip();
        let given = [self.ca_certificates.as_ref(), certificate, key];
        let given: Vec<_> = given.into_iter().flatten().collect();
        Error::unreadable_files("tls", &given, error)
    }

    /// Reads the files and puts together what a handshake with this host needs.
    pub(crate) fn prepare(&self, host: &str) -> Result<Prepared> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(Error::other)?;
        let algorithms = provider.signature_verification_algorithms;
        let builder = if self.accept_any_certificate {
            log::warn!(
                "TLS to {host:?}: the server's certificate is not verified (danger_accept_any_certificate, in a URL \
                 verify=verify_none), so anybody on the way can read and change everything"
            );
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyCertificate(
                    algorithms.supported_schemes(),
                )))
        } else if self.accept_any_hostname {
            log::warn!(
                "TLS to {host:?}: the name in the server's certificate is not verified (danger_accept_any_hostname), so \
                 anybody with a certificate of a trusted authority can pass for the server"
            );
            let verifier = AnyHostname {
                roots: self.roots()?,
                algorithms,
            };
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(verifier))
        } else {
            builder.with_root_certificates(self.roots()?)
        };
        let mut config = builder.with_no_client_auth();
        // Each connection has a configuration of its own, so there is nothing to resume.
        config.resumption = Resumption::disabled();
        Ok(Prepared {
            config,
            client: self.client_key(&provider)?,
            server_name: self.server_name(host)?,
        })
    }

    fn roots(&self) -> Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        let Some(pem) = &self.ca_certificates else {
            let found = rustls_native_certs::load_native_certs();
            let (_, ignored) = roots.add_parsable_certificates(found.certs);
            for error in &found.errors {
                log::debug!("the platform's certificates: {error}");
            }
            log::trace!("{ignored} of the platform's certificates cannot be used");
            if roots.is_empty() {
                let cause = found.errors.first().map(ToString::to_string);
                let value = format!(
                    "no certificate to trust on this platform{}",
                    cause.map(|cause| format!(" ({cause})")).unwrap_or_default()
                );
                let expected = format!("install them, or give your own with {}", CA.files);
                return Err(Error::invalid("tls", value, &expected));
            }
            return Ok(roots);
        };
        let certificates = pem.certificates(&CA)?;
        let count = certificates.len();
        for (certificate, number) in certificates.into_iter().zip(1..) {
            roots.add(certificate).map_err(|error| {
                let reason = format!("certificate {number} of {count} cannot be used: {error}");
                pem.refused(&CA, &reason)
            })?;
        }
        Ok(roots)
    }

    fn client_key(&self, provider: &CryptoProvider) -> Result<Option<Arc<CertifiedKey>>> {
        let Some((certificate, key)) = &self.client else {
            return Ok(None);
        };
        let chain = certificate.certificates(&CERTIFICATE)?;
        let keys = key.private_keys(&KEY)?;
        let count = keys.len();
        let mut last = None;
        for one in keys {
            match CertifiedKey::from_der(chain.clone(), one, provider) {
                Ok(key) => return Ok(Some(Arc::new(key))),
                Err(error) => last = Some(error),
            }
        }
        let reason = match last {
            _ if count > 1 => {
                format!(
                    "none of the {count} private keys in it is that of the client's certificate"
                )
            }
            Some(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                "it is not the key of the client's certificate".to_owned()
            }
            Some(rustls::Error::General(_)) | None => USABLE_KEYS.to_owned(),
            Some(error) => format!("it cannot be used: {error}"),
        };
        Err(key.refused(&KEY, &reason))
    }

    fn server_name(&self, host: &str) -> Result<ServerName<'static>> {
        let (field, name) = match &self.server_hostname {
            Some(name) => (SERVER_NAME, name.as_str()),
            // Certificates know nothing of the interface of an address of one link: fe80::1%eth0
            None => (
                "host",
                host.split_once('%').map_or(host, |(address, _)| address),
            ),
        };
        ServerName::try_from(name.to_owned()).map_err(|_| {
            let expected = "for TLS, a DNS name in ASCII or an IP address is expected";
            Error::invalid(field, format_args!("{name:?}"), expected)
        })
    }
}

const CA: Setters = Setters {
    files: "ca_certificates_file (in a URL: cacertfile)",
    texts: "ca_certificates_pem",
};
const CERTIFICATE: Setters = Setters {
    files: "client_certificate_files (in a URL: certfile)",
    texts: "client_certificate_pem (certificate)",
};
const KEY: Setters = Setters {
    files: "client_certificate_files (in a URL: keyfile)",
    texts: "client_certificate_pem (key)",
};
const SERVER_NAME: &str = "server_hostname (in a URL: server_name_indication)";

impl fmt::Debug for TlsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (certificate, key) = self
            .client
            .as_ref()
            .map(|(certificate, key)| (certificate, key))
            .unzip();
        f.debug_struct("TlsOptions")
            .field("ca_certificates", &self.ca_certificates)
            .field("client_certificate", &certificate)
            .field("client_key", &key)
            .field("server_hostname", &self.server_hostname)
            .field("accept_any_hostname", &self.accept_any_hostname)
            .field("accept_any_certificate", &self.accept_any_certificate)
            .finish()
    }
}

/// What a handshake needs.
pub(crate) struct Prepared {
    pub(crate) config: ClientConfig,
    pub(crate) client: Option<Arc<CertifiedKey>>,
    pub(crate) server_name: ServerName<'static>,
}

/// Takes every certificate; see [`TlsOptions::danger_accept_any_certificate`].
#[derive(Debug)]
struct AnyCertificate(Vec<SignatureScheme>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    // Who signed means nothing where anybody will do, and certificates that are too odd to be read are taken too.
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}

/// Takes every certificate that a trusted authority has issued; see [`TlsOptions::danger_accept_any_hostname`].
#[derive(Debug)]
struct AnyHostname {
    roots: RootCertStore,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for AnyHostname {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let certificate = ParsedCertificate::try_from(certificate)?;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(result: Result<Prepared>) -> String {
        match result {
            Ok(_) => panic!("it was taken"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let missing = TlsOptions::new().ca_certificates_file("/no/such/ca.pem");
        let shown = text(missing.prepare("h"));
        assert!(
            shown.contains("cacertfile") && shown.contains("/no/such/ca.pem"),
            "{shown}"
        );
        let shown = text(
            TlsOptions::new()
                .danger_accept_any_certificate()
                .client_certificate_files("/no/such/c.pem", "/no/such/k.pem")
                .prepare("h"),
        );
        assert!(
            shown.contains("certfile") && shown.contains("/no/such/c.pem"),
            "{shown}"
        );
        let none = TlsOptions::new().ca_certificates_pem("nothing of the kind");
        assert!(text(none.prepare("h")).contains("no certificate"));
        let broken = TlsOptions::new().ca_certificates_pem("-----BEGIN CERTIFICATE-----\nhush");
        let shown = text(broken.prepare("h"));
        assert!(
            shown.contains("END line") && !shown.contains("hush"),
            "{shown}"
        );
    }

    #[test]
    fn names() {
        let any = TlsOptions::new().danger_accept_any_certificate();
        for (host, name) in [
            ("rabbit.example", "rabbit.example"),
            ("127.0.0.1", "127.0.0.1"),
            ("::1", "::1"),
            ("fe80::1%eth0", "fe80::1"),
        ] {
            let prepared = any.prepare(host).unwrap();
            assert_eq!(prepared.server_name.to_str(), name, "{host}");
        }
        let other = any.clone().server_hostname("other");
        assert_eq!(other.prepare("h").unwrap().server_name.to_str(), "other");
        assert!(text(any.prepare("b\u{fc}cher")).contains("host"));
        assert!(text(any.server_hostname("a b").prepare("h")).contains("server_hostname"));
    }

    #[test]
    fn debug_shows_no_key() {
        let shown = format!(
            "{:?}",
            TlsOptions::new().client_certificate_pem("hush", "hush")
        );
        assert!(!shown.contains("hush") && shown.contains("not shown"));
        assert!(!shown.contains(&format!("{:?}", b"hush")));
    }
}
