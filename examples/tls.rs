//! A connection inside TLS: who the broker is, is checked against a certificate authority, and the broker may check who this
//! program is.
//!
//! Mirrors: pika's "TLS parameters example" (`ssl_options=pika.SSLOptions(context, "localhost")`).
//! Run: `cargo run --features tls --example tls -- amqps://guest:guest@localhost:5671/%2f ca.pem [cert.pem key.pem]`

use haypile::{Connection, ConnectionParameters, QueueDeclare, TlsOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (url, options) = match &arguments[..] {
        // The certificates that the system trusts.
        [url] => (url, TlsOptions::new()),
        [url, ca] => (url, TlsOptions::new().ca_certificates_file(ca)),
        [url, ca, certificate, key] => (
            url,
            TlsOptions::new()
                .ca_certificates_file(ca)
                .client_certificate_files(certificate, key),
        ),
        _ => return Err("usage: tls URL [CA.PEM [CERTIFICATE.PEM KEY.PEM]]".into()),
    };
    let parameters = ConnectionParameters::from_url(url)?.tls(options);
    let connection = Connection::open(parameters)?;
    let channel = connection.channel()?;
    let queue = channel
        .queue_declare(QueueDeclare::new("").exclusive(true))?
        .queue;
    channel.basic_publish("", &queue, "nobody else can read this")?;
    if let Some((_method, _properties, body)) = channel.basic_get(&queue)? {
        println!("received {:?} inside TLS", String::from_utf8_lossy(&body));
    }
    connection.close()?;
    Ok(())
}
