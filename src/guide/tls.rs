//! Connections inside TLS: feature `tls` (rustls; TLS 1.3 and 1.2).
//!
//! ```toml
//! haypile = { version = "0.1", features = ["tls"] }
//! ```
//!
//! | pika | haypile |
//! | --- | --- |
//! | `URLParameters("amqps://…")` | the same URL: the certificates that the platform trusts, the host's name, port 5671 |
//! | `SSLOptions(ssl.create_default_context())` | `TlsOptions::new()` |
//! | `context.load_verify_locations(cafile)` | `.ca_certificates_file(path)`, in a URL `cacertfile` |
//! | `context.load_cert_chain(certfile, keyfile)` | `.client_certificate_files(certificate, key)`, in a URL `certfile`, `keyfile` |
//! | `SSLOptions(context, "another.name")` | `.server_hostname("another.name")`, in a URL `server_name_indication` |
//! | `context.check_hostname = False` | `.danger_accept_any_hostname()` |
//! | `context.verify_mode = ssl.CERT_NONE` | `.danger_accept_any_certificate()`, in a URL `verify=verify_none` |
//!
//! ```
//! # #[cfg(feature = "tls")]
//! # fn main() -> haypile::Result<()> {
//! use haypile::{ConnectionParameters, ExternalCredentials, TlsOptions};
//!
//! let url = "amqps://orders:secret@rabbit.example/%2f?cacertfile=/etc/orders/ca.pem";
//! let parameters = ConnectionParameters::from_url(url)?;
//!
//! // With a client certificate and the broker's plugin rabbitmq_auth_mechanism_ssl there is no password.
//! let by_certificate = ConnectionParameters::new("rabbit.example")
//!     .tls(
//!         TlsOptions::new()
//!             .ca_certificates_file("/etc/orders/ca.pem")
//!             .client_certificate_files("/etc/orders/client.pem", "/etc/orders/client.key"),
//!     )
//!     .credentials(ExternalCredentials);
//! # let _ = (parameters, by_certificate);
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "tls"))]
//! # fn main() {}
//! ```
//!
//! * **Verification is on** unless a `danger_…` setter turns it off, which is logged as a warning. Whether a certificate has been
//!   revoked is not checked.
//! * A key with a passphrase must be decrypted first: `openssl pkey -in encrypted.key -out client.key`.
//! * What goes wrong is [`Error::Tls`](crate::Error::Tls): host and port, the cause in plain words, what to do about it.
//!   Certificates do not mend themselves, so it is not retried, unless the stream only ended.
//! * Without the feature an `amqps://` URL is refused with an error that says so.
//! * [`Connection::open_stream`](crate::Connection::open_stream) takes any other two-way stream: a proxy, a tunnel, a Unix socket,
//!   and TLS inside of it if asked for.
