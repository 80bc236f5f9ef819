//! Certificates and keys from PEM texts, as people have them: with a byte order mark, glued together, encrypted, or not PEM at
//! all. What is not read is refused with its reason, so that no certificate is left out in silence.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::error::{Error, Result};

/// Where PEM comes from.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Pem {
    File(PathBuf),
    Bytes(Arc<[u8]>),
}

/// Never the content, since it may be a key.
impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pem::File(path) => write!(f, "{path:?}"),
            Pem::Bytes(_) => f.write_str("<PEM, not shown>"),
        }
    }
}

/// By which setters it is given, as errors name them.
pub(super) struct Setters {
    pub(super) files: &'static str,
    pub(super) texts: &'static str,
}

impl Pem {
    /// The setter that this was given by.
    pub(super) fn setter(&self, setters: &Setters) -> &'static str {
        match self {
            Pem::File(_) => setters.files,
            Pem::Bytes(_) => setters.texts,
        }
    }

    /// Every certificate in it, at least one.
    pub(super) fn certificates(&self, setters: &Setters) -> Result<Vec<CertificateDer<'static>>> {
        certificates(&self.read(setters)?).map_err(|reason| self.refused(setters, &reason))
    }

    /// Every private key in it, at least one.
    pub(super) fn private_keys(&self, setters: &Setters) -> Result<Vec<PrivateKeyDer<'static>>> {
        private_keys(&self.read(setters)?).map_err(|reason| self.refused(setters, &reason))
    }

    pub(super) fn refused(&self, setters: &Setters, reason: &str) -> Error {
        let field = self.setter(setters);
        match self {
            Pem::File(path) => Error::invalid(field, format_args!("{path:?}"), reason),
            Pem::Bytes(_) => Error::invalid(field, "a PEM text (not shown)", reason),
        }
    }

    fn read(&self, setters: &Setters) -> Result<Arc<[u8]>> {
        match self {
            Pem::File(path) => {
                read_file(path).map_err(|error| Error::unreadable(setters.files, path, error))
            }
            Pem::Bytes(bytes) => Ok(Arc::clone(bytes)),
        }
    }
}

/// More than all authorities of the world come to. A device gives bytes for ever.
const FILE_MOST: u64 = 16 << 20;

fn read_file(path: &Path) -> io::Result<Arc<[u8]>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(FILE_MOST + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_MOST {
        return Err(io::Error::other("it is larger than 16 MiB"));
    }
    Ok(bytes.into())
}

const BEGIN: &[u8] = b"-----BEGIN ";
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// What is read, or the reason why not.
type Read<T> = Result<T, String>;

fn certificates(bytes: &[u8]) -> Read<Vec<CertificateDer<'static>>> {
    let text = normalized(bytes)?;
    let mut expected = 0;
    for label in labels(&text) {
        expected += match label {
            b"CERTIFICATE" => 1,
            b"TRUSTED CERTIFICATE" | b"X509 CERTIFICATE" => return Err(
                "a certificate in it is in OpenSSL's own form; convert it: openssl x509 -in FILE"
                    .to_owned(),
            ),
            b"PKCS7" => {
                return Err(
                    "there is PKCS#7 in it; convert it: openssl pkcs7 -in FILE -print_certs"
                        .to_owned(),
                )
            }
            _ => 0,
        };
    }
    let found: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| describe(&error))?;
    match found.len() {
        0 => Err("there is no certificate in PEM form in it".to_owned()),
        count if count < expected => Err(format!(
            "only {count} of the {expected} certificates in it can be read: a BEGIN or END line is broken"
        )),
        _ => Ok(found),
    }
}

fn private_keys(bytes: &[u8]) -> Read<Vec<PrivateKeyDer<'static>>> {
    let text = normalized(bytes)?;
    let found: Result<Vec<_>, _> = PrivateKeyDer::pem_slice_iter(&text).collect();
    match found {
        Ok(keys) if !keys.is_empty() => Ok(keys.into_iter().map(by_content).collect()),
        Err(_) | Ok(_) if is_encrypted(&text) => Err(
            "the key in it is encrypted; decrypt it first: openssl pkey -in encrypted.key -out client.key"
                .to_owned(),
        ),
        Ok(_) => Err(no_key(&text)),
        Err(error) => Err(describe(&error)),
    }
}

/// The label may name one form of a key while the content has another.
fn by_content(key: PrivateKeyDer<'static>) -> PrivateKeyDer<'static> {
    match PrivateKeyDer::try_from(key.secret_der()) {
        Ok(other) => other.clone_key(),
        Err(_) => key,
    }
}

/// PKCS#8 has a label of its own for it, the older forms have a header.
fn is_encrypted(text: &[u8]) -> bool {
    labels(text).any(|label| label == b"ENCRYPTED PRIVATE KEY")
        || text
            .split(|byte| *byte == b'\n')
            .any(|line| line.starts_with(b"Proc-Type:") && line.ends_with(b"ENCRYPTED"))
}

fn no_key(text: &[u8]) -> String {
    for label in labels(text) {
        match label {
            b"OPENSSH PRIVATE KEY" => {
                return "the key in it is in OpenSSH's own form; convert it: ssh-keygen -p -m PKCS8 -f FILE"
                    .to_owned()
            }
            b"DSA PRIVATE KEY" => return format!("the key in it is a DSA key; {USABLE_KEYS}"),
            _ => {}
        }
    }
    "there is no private key in PEM form in it".to_owned()
}

/// Which keys a client can have.
pub(super) const USABLE_KEYS: &str =
    "a key for RSA (2048 to 8192 bits), ECDSA (P-256 or P-384) or Ed25519 is expected, as PKCS#8, PKCS#1 or SEC1";

/// The text with each BEGIN at the front of a line: without byte order marks (a bundle that was put together of files may have
/// several) and spaces around lines, and with a new line where a file was glued to one that had no last line end.
fn normalized(bytes: &[u8]) -> Read<Vec<u8>> {
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err("it is in UTF-16; save it as UTF-8 or ASCII".to_owned());
    }
    if is_der(bytes) {
        return Err(
            "it is in binary form (DER or PKCS#12), and PEM is expected; convert it with openssl x509, pkey or \
             pkcs12 (-inform DER)"
                .to_owned(),
        );
    }
    let mut text = Vec::with_capacity(bytes.len() + 2);
    for line in bytes.split(|byte| matches!(byte, b'\n' | b'\r')) {
        let mut rest = line;
        loop {
            rest = rest.strip_prefix(BYTE_ORDER_MARK).unwrap_or(rest);
            rest = rest.trim_ascii();
            let glued = rest
                .windows(BEGIN.len())
                .skip(1)
                .position(|window| window == BEGIN)
                .map(|before| before + 1);
            // A BEGIN that stands within other text, such as a remark, begins nothing.
            let Some(at) = glued.filter(|at| ends_section(&rest[..*at])) else {
                break;
            };
            text.extend_from_slice(rest[..at].trim_ascii());
            text.push(b'\n');
            rest = &rest[at..];
        }
        text.extend_from_slice(rest);
        text.push(b'\n');
    }
    Ok(text)
}

fn ends_section(line: &[u8]) -> bool {
    let line = line.strip_suffix(BYTE_ORDER_MARK).unwrap_or(line);
    line.starts_with(b"-----END ") && line.trim_ascii_end().ends_with(b"-----")
}

/// Whether it is a sequence in DER, and as long as its length field has it.
fn is_der(bytes: &[u8]) -> bool {
    match *bytes {
        [0x30, short, ..] if short < 0x80 => bytes.len() == usize::from(short) + 2,
        [0x30, 0x80..=0x84, ..] => !bytes.windows(BEGIN.len()).any(|window| window == BEGIN),
        _ => false,
    }
}

/// The labels of all BEGIN lines.
fn labels(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n').filter_map(|line| {
        let label = line.strip_prefix(BEGIN)?;
        Some(label.strip_suffix(b"-----").unwrap_or(label))
    })
}

/// The library's own texts repeat lines of the file, which may be those of a key.
fn describe(error: &pem::Error) -> String {
    let detail = match error {
        pem::Error::MissingSectionEnd { .. } => "an END line is missing",
        pem::Error::IllegalSectionStart { .. } => "a BEGIN line is broken",
        pem::Error::Base64Decode(_) => "what is between BEGIN and END is not Base64",
        _ => "it cannot be understood",
    };
    format!("PEM is expected: {detail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = include_str!("../../tests/data/tls/ec.pem");
    const TWO: &str = include_str!("../../tests/data/tls/rsa.pem");

    #[track_caller]
    fn count(bytes: impl AsRef<[u8]>) -> usize {
        certificates(bytes.as_ref()).unwrap().len()
    }

    #[track_caller]
    fn reason(bytes: impl AsRef<[u8]>) -> String {
        certificates(bytes.as_ref()).unwrap_err()
    }

    #[test]
    fn every_certificate_of_a_bundle_is_read() {
        let mark = "\u{feff}";
        assert_eq!(count(format!("{ONE}{TWO}")), 2);
        assert_eq!(count(format!("{mark}{ONE}{TWO}")), 2);
        assert_eq!(count(format!("{mark}{ONE}{mark}{TWO}")), 2);
        assert_eq!(
            count(format!("remark\n\n  {ONE}# -----BEGIN of another\n\t{TWO}")),
            2
        );
        let glued = [ONE.trim_end(), TWO.trim_end()];
        assert_eq!(count(glued.concat()), 2);
        assert_eq!(count(glued.join(mark)), 2);
        assert_eq!(count(glued.join("\r\n")), 2);
        assert_eq!(count(glued.join(" ")), 2);
        assert_eq!(count(ONE.replace('\n', "  \r\n")), 1);
        assert_eq!(count(ONE.replace('\n', "\r")), 1);
    }

    #[test]
    fn what_cannot_be_read_is_not_left_out() {
        let trusted = include_str!("../../tests/data/tls/trusted.pem");
        assert!(reason(format!("{ONE}{trusted}")).contains("OpenSSL's own form"));
        assert!(reason(ONE.replace("CERTIFICATE", "PKCS7")).contains("PKCS#7"));
        let broken = ONE.replace("-----END CERTIFICATE-----", "-----END CERTIFICATES----");
        assert!(!reason(format!("{broken}{TWO}")).is_empty());
        let wide: Vec<u8> = "\u{feff}"
            .encode_utf16()
            .chain(ONE.encode_utf16())
            .flat_map(u16::to_le_bytes)
            .collect();
        assert!(reason(wide).contains("UTF-16"));
        assert!(reason("").contains("no certificate"));
    }

    #[test]
    fn der_is_named() {
        for pem in [ONE, TWO] {
            let der = certificates(pem.as_bytes()).unwrap().remove(0);
            assert!(reason(&der).contains("DER"));
        }
        for key in [
            include_str!("../../tests/data/tls/ed25519-pkcs8.pem"),
            include_str!("../../tests/data/tls/rsa-pkcs1.pem"),
        ] {
            let key = private_keys(key.as_bytes()).unwrap().remove(0);
            assert!(private_keys(key.secret_der()).unwrap_err().contains("DER"));
        }
    }

    #[test]
    fn encrypted_keys_are_named_in_each_form() {
        for (text, plain) in [
            (
                include_str!("../../tests/data/tls/rsa-pkcs1-encrypted.pem"),
                include_str!("../../tests/data/tls/rsa-pkcs1.pem"),
            ),
            (
                include_str!("../../tests/data/tls/ec-sec1-encrypted.pem"),
                include_str!("../../tests/data/tls/ec-sec1.pem"),
            ),
            (
                include_str!("../../tests/data/tls/ec-pkcs8-encrypted.pem"),
                include_str!("../../tests/data/tls/ec-pkcs8.pem"),
            ),
        ] {
            for text in [
                text.to_owned(),
                text.replace('\n', "\r\n"),
                format!("{ONE}{text}"),
            ] {
                let reason = private_keys(text.as_bytes()).unwrap_err();
                assert!(reason.contains("encrypted"), "{reason}");
            }
            private_keys(plain.as_bytes()).unwrap();
        }
    }

    #[test]
    fn other_keys_are_named() {
        let labelled =
            |label: &str| format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n");
        for (label, words) in [
            ("OPENSSH PRIVATE KEY", "ssh-keygen"),
            ("DSA PRIVATE KEY", "DSA"),
            ("PUBLIC KEY", "no private key"),
        ] {
            let reason = private_keys(labelled(label).as_bytes()).unwrap_err();
            assert!(reason.contains(words), "{reason}");
        }
    }
}
