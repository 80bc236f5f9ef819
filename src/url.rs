//! AMQP URLs: the RabbitMQ URI specification, its query options and pika's.
//!
//! A URL holds a password, and one that is written wrongly may hold it in any of its parts. So errors name the part and
//! repeat only what cannot be a piece of a password.

mod literals;
mod options;

use std::borrow::Cow;
use std::net::Ipv6Addr;
use std::str::FromStr;

use self::options::Options;
use crate::error::{Error, Result};
use crate::parameters::{has_space, ConnectionParameters, IntoParameters};

/// What was read, or what was expected in its place.
type Read<T> = Result<T, &'static str>;

const SCHEME: &str = "a URL that begins with amqp:// or amqps:// is expected";

const NOT_SHOWN: &str = "a value (not shown)";

/// What most often makes a URL fall apart in the wrong places.
macro_rules! escapes {
    ($expected:literal) => {
        concat!(
            $expected,
            "; in user name and password '/' is written %2F, '?' %3F, '#' %23, '%' %25 and '@' %40"
        )
    };
}

impl ConnectionParameters {
    /// The parameters that an AMQP URL stands for (pika: `URLParameters`).
    ///
    /// `amqp://user:password@host:port/virtual-host?option=value&…`, as the RabbitMQ URI specification has it. Every
    /// part may be left out, and takes its default. `amqps://` is TLS (feature `tls`).
    ///
    /// - Every part is percent-decoded, and must be UTF-8 then. In user name and password, `/` is written `%2F`, `?`
    ///   `%3F`, `#` `%23`, `%` `%25`, `@` `%40` and, in the user name, `:` `%3A`.
    /// - An `@` behind the host, in virtual host and options, is written `%40`: as it is, it is refused, since it most often
    ///   means that a password has one of `/ ? #` in it, and would be taken apart there.
    /// - An IPv6 address stands in brackets: `amqp://[::1]:5672`.
    /// - The virtual host is what follows the slash: none at all in `amqp://host` gives `/`; `amqp://host/` gives the one
    ///   with the **empty name**, as the specification says (pika reads it as `/`); `/` itself is written
    ///   `amqp://host/%2f`. A second slash is an error.
    /// - A user name needs a password, which may be empty: `amqp://user:@host`. (Not with `auth_mechanism=external`.)
    ///
    /// Options, each at most once:
    ///
    /// | option | meaning |
    /// | --- | --- |
    /// | `heartbeat` | seconds, 0 is off |
    /// | `channel_max`, `frame_max`, `connection_attempts` | whole numbers |
    /// | `retry_delay`, `socket_timeout`, `stack_timeout`, `blocked_connection_timeout`, `rpc_timeout` | seconds; fractions are allowed |
    /// | `connection_timeout` | RabbitMQ's name for `socket_timeout`, in milliseconds |
    /// | `locale` | text |
    /// | `auth_mechanism` | `plain`, `amqplain` or `external`; may be repeated, the first that the server offers is used |
    /// | `client_properties` | `{'connection_name': 'orders'}`: a Python or JSON dictionary, percent-encoded |
    /// | `tcp_options` | the same: `TCP_KEEPIDLE`, `TCP_KEEPINTVL` (seconds), `TCP_KEEPCNT`, `TCP_USER_TIMEOUT` (milliseconds) |
    /// | `cacertfile` | path to a PEM file with the authorities to trust, in place of the platform's (`amqps`) |
    /// | `certfile`, `keyfile` | paths to the client's certificate and key, PEM; without `keyfile`, both are in one file (`amqps`) |
    /// | `verify` | `verify_peer` (the default), or `verify_none`, which **switches verification off** and is refused beside `cacertfile` (`amqps`) |
    /// | `server_name_indication` | the name that the server's certificate must bear (`amqps`) |
    /// | `ssl_options` | pika's dictionary: `ca_certs` or `cafile`, `certfile`, `keyfile`, `server_hostname`, and `verify`, for which `False` or `'verify_none'` **switches verification off** (`amqps`) |
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParameter`], naming the part or option (and the key of a dictionary), the value (never a password) and
    /// what is expected, if the text is no such URL or asks for what is out of range; [`Error::ShortStringTooLong`] for a virtual host or
    /// locale over 255 bytes.
    ///
    /// ```
    /// use haypile::{ConnectionParameters, PlainCredentials};
    ///
    /// let parameters = ConnectionParameters::from_url("amqp://orders:secret@rabbit.example/shop?heartbeat=30")?;
    /// assert_eq!(
    ///     parameters,
    ///     ConnectionParameters::new("rabbit.example")
    ///         .virtual_host("shop")
    ///         .credentials(PlainCredentials::new("orders", "secret"))
    ///         .heartbeat(30)
    /// );
    /// let error = ConnectionParameters::from_url("amqp://localhost?heartbeet=30").unwrap_err();
    /// assert!(error.to_string().contains("heartbeet"));
    /// # Ok::<(), haypile::Error>(())
    /// ```
    #[doc(alias = "URLParameters")]
    pub fn from_url(url: impl AsRef<str>) -> Result<Self> {
        parse(url.as_ref())
    }
}

impl IntoParameters for &str {
    fn into_parameters(self) -> Result<Vec<ConnectionParameters>> {
        // Reading a URL checks what it says.
        Ok(vec![ConnectionParameters::from_url(self)?])
    }
}

impl IntoParameters for String {
    fn into_parameters(self) -> Result<Vec<ConnectionParameters>> {
        self.as_str().into_parameters()
    }
}

impl IntoParameters for &String {
    fn into_parameters(self) -> Result<Vec<ConnectionParameters>> {
        self.as_str().into_parameters()
    }
}

impl IntoParameters for Cow<'_, str> {
    fn into_parameters(self) -> Result<Vec<ConnectionParameters>> {
        (*self).into_parameters()
    }
}

impl FromStr for ConnectionParameters {
    type Err = Error;

    /// As [`ConnectionParameters::from_url`].
    fn from_str(url: &str) -> Result<Self> {
        Self::from_url(url)
    }
}

fn parse(url: &str) -> Result<ConnectionParameters, Error> {
    let parts = Parts::of(url)?;
    let mut parameters = ConnectionParameters::default();
    Options::new(&mut parameters).fill(&parts)?;
    parameters.validate()?;
    Ok(parameters)
}

/// The parts of a URL, still percent-encoded.
struct Parts<'u> {
    tls: bool,
    user_info: Option<&'u str>,
    /// Without brackets.
    host: &'u str,
    port: Option<u16>,
    virtual_host: Option<&'u str>,
    query: Option<&'u str>,
    /// Whether this may be a user name and a password with the host forgotten or cut off, so that what looks like an
    /// option is no option.
    doubtful: bool,
}

impl<'u> Parts<'u> {
    fn of(url: &'u str) -> Result<Self, Error> {
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(Error::invalid("url", NOT_SHOWN, SCHEME));
        };
        let end_of_authority = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, behind) = rest.split_at(end_of_authority);
        // A password with one of the three in it. Cut there, it would be taken for host, virtual host or options, and go
        // to name servers, logs and brokers.
        if behind.contains('@') {
            return Err(Error::invalid(
                "url",
                "an '@' behind the first '/', '?' or '#'",
                "in user name and password '/' is written %2F, '?' %3F, '#' %23 and '@' %40; an '@' anywhere else is \
                 written %40 too",
            ));
        }
        let tls = read_scheme(scheme, authority)?;
        if has_space(rest) {
            let value = "a space or control character";
            let expected = "spaces and control characters must be percent-encoded (a space is %20)";
            return Err(Error::invalid("url", value, expected));
        }
        if behind.contains('#') {
            let expected = "an AMQP URL has no fragment; '#' as part of something is written %23";
            return Err(Error::invalid("url", "'#'", expected));
        }
        let (user_info, host_and_port) = match authority.rsplit_once('@') {
            Some((user_info, host_and_port)) => (Some(user_info), host_and_port),
            None => (None, authority),
        };
        let (host, port) = split_host_and_port(host_and_port)
            .map_err(|expected| Error::invalid("url host", NOT_SHOWN, expected))?;
        let doubtful = user_info.is_none()
            && (authority.ends_with(':') || behind.contains("%40") || authority.contains("%40"));
        let port = match port {
            "" => None,
            digits => Some(read_port(digits, user_info.is_some())?),
        };
        let (path, query) = cut(behind, '?');
        let virtual_host = path.strip_prefix('/');
        if virtual_host.is_some_and(|name| name.contains('/')) {
            let shown = "a path of more than one segment";
            let expected = "one name is expected; a '/' in it is written %2f";
            return Err(Error::invalid("url virtual host", shown, expected));
        }
        Ok(Parts {
            tls,
            user_info,
            host,
            port,
            virtual_host,
            query,
            doubtful,
        })
    }
}

/// Whether the scheme asks for TLS.
fn read_scheme(scheme: &str, authority: &str) -> Result<bool, Error> {
    if scheme.eq_ignore_ascii_case("amqp") {
        return Ok(false);
    }
    if !scheme.eq_ignore_ascii_case("amqps") {
        // Where there is an '@', this may be a piece of what stands before it.
        let shown = if is_word(scheme, 16, "+-.") && !authority.contains('@') {
            scheme
        } else {
            NOT_SHOWN
        };
        return Err(Error::invalid("url scheme", shown, SCHEME));
    }
    if !cfg!(feature = "tls") {
        let expected = "for TLS, haypile must be built with its feature `tls`";
        return Err(Error::invalid("url scheme", "amqps", expected));
    }
    Ok(true)
}

/// `behind_login`: whether a user name stands before the host. Without one, what looks like a port may be a password whose
/// host was forgotten.
fn read_port(digits: &str, behind_login: bool) -> Result<u16, Error> {
    number(digits, 1, 65535)
        .map(|port| port as u16)
        .ok_or_else(|| {
            let shown = if is_digits(digits) && (behind_login || digits.len() <= 5) {
                digits
            } else {
                NOT_SHOWN
            };
            Error::invalid("url port", shown, escapes!("1 to 65535 is expected"))
        })
}

/// The host, still encoded but without brackets, and the digits of the port; either may be empty.
fn split_host_and_port(text: &str) -> Read<(&str, &str)> {
    let Some(rest) = text.strip_prefix('[') else {
        let (host, port) = cut(text, ':');
        let port = port.unwrap_or_default();
        if port.contains(':') {
            return Err(escapes!(
                "one ':' before the port is expected; an IPv6 address stands in brackets"
            ));
        }
        return Ok((host, port));
    };
    let (address, Some(behind)) = cut(rest, ']') else {
        return Err("the ']' after an IPv6 address is missing");
    };
    let ("", port) = cut(behind, ':') else {
        return Err("nothing but a colon and the port may follow the ']' of an IPv6 address");
    };
    // An address of one link alone names its interface: fe80::1%eth0
    let decoded = decode(address, '+')?;
    let (number, _interface) = cut(&decoded, '%');
    if number.parse::<Ipv6Addr>().is_err() {
        return Err("brackets are for IPv6 addresses");
    }
    Ok((address, port.unwrap_or_default()))
}

/// What stands before the first such character, and what stands behind it if it is there.
fn cut(text: &str, at: char) -> (&str, Option<&str>) {
    match text.split_once(at) {
        Some((before, behind)) => (before, Some(behind)),
        None => (text, None),
    }
}

/// Whether this is a short word of ASCII letters, digits and these.
fn is_word(text: &str, most: usize, others: &str) -> bool {
    (1..=most).contains(&text.len())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || others.contains(c))
}

/// A whole number within these bounds.
fn number(value: &str, least: u32, most: u32) -> Option<u32> {
    let number = whole_number(value).and_then(|number| u32::try_from(number).ok());
    number.filter(|number| (least..=most).contains(number))
}

/// Digits alone: `parse` would take a plus sign too.
fn whole_number(value: &str) -> Option<u64> {
    value.parse().ok().filter(|_| is_digits(value))
}

fn is_digits(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit())
}

/// A part of the URL, decoded.
fn decode_part(part: &str, text: &str) -> Result<String, Error> {
    decode(text, '+').map_err(|expected| Error::invalid(part, NOT_SHOWN, expected))
}

/// Resolves percent-encoding. `plus` is what a '+' stands for.
fn decode(text: &str, plus: char) -> Read<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => hexadecimal(&mut bytes).ok_or(
                "two hexadecimal digits are expected after '%'; a '%' itself is written %25",
            )?,
            b'+' => plus as u8,
            other => other,
        });
    }
    String::from_utf8(decoded).map_err(|_| "UTF-8 is expected after percent-decoding")
}

/// The byte that the next two digits are.
fn hexadecimal(bytes: &mut std::str::Bytes<'_>) -> Option<u8> {
    let mut digit = || char::from(bytes.next()?).to_digit(16);
    Some((digit()? << 4 | digit()?) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(feature = "tls")]
    use crate::TlsOptions;
    use crate::{AmqPlainCredentials, FieldValue};

    /// Host, effective port and virtual host.
    fn address_of(url: &str) -> (String, u16, String) {
        let parameters = parse(url).unwrap();
        (
            parameters.host.clone(),
            parameters.effective_port(),
            parameters.virtual_host,
        )
    }

    fn login(url: &str) -> Vec<u8> {
        parse(url)
            .unwrap()
            .credentials
            .respond(&["PLAIN"])
            .unwrap()
            .1
    }

    /// The examples of appendix A of the RabbitMQ URI specification, save those whose user name has no password.
    #[test]
    fn the_examples_of_the_specification() {
        for (url, host, port, virtual_host) in [
            ("amqp://user:pass@host:10000/vhost", "host", 10000, "vhost"),
            (
                "amqp://user%61:%61pass@ho%61st:10000/v%2fhost",
                "hoast",
                10000,
                "v/host",
            ),
            ("amqp://", "localhost", 5672, "/"),
            ("amqp://:@/", "localhost", 5672, ""),
            ("amqp://user:pass@", "localhost", 5672, "/"),
            ("amqp://host", "host", 5672, "/"),
            ("amqp://:10000", "localhost", 10000, "/"),
            ("amqp:///vhost", "localhost", 5672, "vhost"),
            ("amqp://host/", "host", 5672, ""),
            ("amqp://host/%2f", "host", 5672, "/"),
            ("amqp://[::1]", "::1", 5672, "/"),
        ] {
            assert_eq!(
                address_of(url),
                (host.to_owned(), port, virtual_host.to_owned()),
                "{url}"
            );
        }
        assert_eq!(
            login("amqp://user%61:%61pass@ho%61st:10000/v%2fhost"),
            b"\0usera\0apass"
        );
        assert_eq!(login("amqp://:@/"), b"\0\0");
        assert_eq!(login("amqp://host"), b"\0guest\0guest");
    }

    #[test]
    fn hosts_and_ports() {
        assert_eq!(
            address_of("AMQP://host:"),
            ("host".into(), 5672, "/".into())
        );
        assert_eq!(
            address_of("amqp://[2001:db8::1]:1/v"),
            ("2001:db8::1".into(), 1, "v".into())
        );
        assert_eq!(
            address_of("amqp://[fe80::1%25eth0]"),
            ("fe80::1%eth0".into(), 5672, "/".into())
        );
        assert_eq!(
            address_of("amqp://b\u{fc}cher/caf%C3%A9"),
            ("b\u{fc}cher".into(), 5672, "caf\u{e9}".into())
        );
        // more than the grammar allows, but with one meaning only
        assert_eq!(login("amqp://user:p@ss@host"), b"\0user\0p@ss");
        assert_eq!(login("amqp://user:a:b@host"), b"\0user\0a:b");
    }

    #[test]
    fn mechanisms() {
        let mechanism = |url: &str, offered: &[&str]| {
            parse(url)
                .unwrap()
                .credentials
                .respond(offered)
                .map(|(name, _)| name)
        };
        let all = ["EXTERNAL", "AMQPLAIN", "PLAIN"];
        assert_eq!(mechanism("amqp://h", &all), Some("PLAIN"));
        assert_eq!(
            mechanism("amqp://h?auth_mechanism=plain", &all),
            Some("PLAIN")
        );
        assert_eq!(
            mechanism("amqp://h?auth_mechanism=AMQPLAIN", &all),
            Some("AMQPLAIN")
        );
        assert_eq!(
            mechanism("amqp://h?auth_mechanism=external", &all),
            Some("EXTERNAL")
        );
        assert_eq!(
            mechanism("amqp://user@h?auth_mechanism=external", &all),
            Some("EXTERNAL")
        );
        assert_eq!(
            mechanism(
                "amqp://h?auth_mechanism=external&auth_mechanism=plain",
                &all
            ),
            Some("EXTERNAL")
        );
        assert_eq!(
            mechanism(
                "amqp://h?auth_mechanism=external&auth_mechanism=plain",
                &["PLAIN"]
            ),
            Some("PLAIN")
        );
        let plain = parse("amqp://u:p@h?auth_mechanism=amqplain").unwrap();
        assert_eq!(plain.credentials, AmqPlainCredentials::new("u", "p").into());
    }

    #[test]
    fn client_properties_keep_their_types() {
        let dictionary = "{'name': \"it\\'s\", 'n': 5, 'big': 5000000000, 'f': 1.5, 'yes': True, 'no': false, 'none': None,\
                          'list': [1, 'a', (2,)], 'capabilities': {'basic.nack': False},}";
        let encoded: String = dictionary
            .bytes()
            .map(|byte| format!("%{byte:02x}"))
            .collect();
        let table = parse(&format!("amqp://h?client_properties={encoded}"))
            .unwrap()
            .client_properties;
        assert_eq!(table.len(), 9);
        assert_eq!(table.get("name"), Some(&FieldValue::from("it's")));
        assert_eq!(table.get("n"), Some(&FieldValue::from(5i32)));
        assert_eq!(table.get("big"), Some(&FieldValue::from(5_000_000_000i64)));
        assert_eq!(table.get("f"), Some(&FieldValue::from(1.5)));
        assert_eq!(table.get("yes"), Some(&FieldValue::from(true)));
        assert_eq!(table.get("no"), Some(&FieldValue::from(false)));
        assert_eq!(table.get("none"), Some(&FieldValue::void()));
        assert_eq!(
            table
                .get("list")
                .and_then(FieldValue::as_array)
                .map(<[_]>::len),
            Some(3)
        );
        let capabilities = table
            .get("capabilities")
            .and_then(FieldValue::as_table)
            .unwrap();
        assert_eq!(
            capabilities.get("basic.nack").and_then(FieldValue::as_bool),
            Some(false)
        );
    }

    /// Any bytes give parameters or an error, and no panic.
    #[test]
    fn nothing_panics() {
        let pieces = [
            "amqp://",
            "amqps://",
            "user",
            ":",
            "@",
            "/",
            "?",
            "&",
            "=",
            "%",
            "%2f",
            "%ff",
            "[",
            "]",
            "::1",
            "heartbeat",
            "client_properties",
            "ssl_options",
            "tcp_options",
            "{",
            "}",
            "'",
            "\\",
            "1",
            "-",
            "e9",
            "\u{e9}",
            "+",
            ",",
            "verify",
            "socket_timeout",
        ];
        let mut state = 1u64;
        for _ in 0..20_000 {
            let mut url = String::from("amqp://");
            for _ in 0..12 {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                url.push_str(pieces[(state >> 33) as usize % pieces.len()]);
            }
            let _ = parse(&url);
        }
    }

    #[cfg(feature = "tls")]
    #[test]
    fn tls_options() {
        assert_eq!(
            address_of("amqps://host"),
            ("host".into(), 5671, "/".into())
        );
        assert_eq!(parse("amqp://host").unwrap().tls, None);
        assert_eq!(parse("amqps://host").unwrap().tls, Some(TlsOptions::new()));
        let verifying = TlsOptions::new()
            .ca_certificates_file("/a/ca.pem")
            .client_certificate_files("c.pem", "k+k.pem")
            .server_hostname("name");
        let trusting = TlsOptions::new()
            .client_certificate_files("c.pem", "k+k.pem")
            .danger_accept_any_certificate();
        for (url, expected) in [
            ("cacertfile=%2Fa/ca.pem&certfile=c.pem&keyfile=k+k.pem&server_name_indication=name", &verifying),
            ("ssl_options={'ca_certs':'/a/ca.pem','certfile':'c.pem',+'keyfile':'k%2Bk.pem','verify':True,'server_hostname':'name'}", &verifying),
            ("certfile=c.pem&keyfile=k+k.pem&verify=verify_none", &trusting),
            ("ssl_options={'certfile':'c.pem','keyfile':'k%2Bk.pem','verify':False}", &trusting),
            ("ssl_options={'certfile':'c.pem','keyfile':'k%2Bk.pem','verify':'verify_none'}", &trusting),
        ] {
            let url = format!("amqps://host?{url}");
            assert_eq!(parse(&url).unwrap().tls.as_ref(), Some(expected), "{url}");
        }
        let url = "amqps://host?cacertfile=/a/ca.pem&certfile=c.pem&keyfile=k+k.pem&verify=verify_peer&server_name_indication=name";
        assert_eq!(parse(url).unwrap().tls, Some(verifying));
        assert_eq!(
            parse("amqps://host?certfile=both.pem").unwrap().tls,
            Some(TlsOptions::new().client_certificate_files("both.pem", "both.pem"))
        );
        for wrong in [
            "amqps://h?keyfile=k.pem",
            "amqps://h?verify=no",
            "amqps://h?cacertfile=",
            "amqps://h?ssl_options=None",
            "amqps://h?ssl_options={'password':'hush'}",
            "amqps://h?ssl_options={'certfile':1}",
            "amqps://h?ssl_options=[]",
            "amqps://h?certfile=a&ssl_options={'certfile':'a'}",
            "amqps://h?ssl_options={'cafile':'a','ca_certs':'b'}",
        ] {
            let error = parse(wrong).unwrap_err().to_string();
            assert!(!error.contains("hush"), "{error}");
        }
    }
}
