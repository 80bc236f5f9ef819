//! AMQP URLs: the RabbitMQ URI specification, its query options and pika's.
//!
//! A URL holds a password, and one that is written wrongly may hold it in any of its parts. So errors name the part and
//! repeat nothing but what cannot be one.

use std::net::Ipv6Addr;
use std::time::Duration;

use crate::credentials::{AmqPlainCredentials, Credentials, ExternalCredentials, PlainCredentials};
use crate::error::{Error, Result};
use crate::parameters::{ConnectionParameters, TcpOptions};
#[cfg(feature = "tls")]
use crate::TlsOptions;
use crate::{FieldTable, FieldValue};

/// What an `amqps` URL says about TLS.
#[cfg(feature = "tls")]
#[derive(Default)]
struct UrlTls {
    cacertfile: Option<String>,
    certfile: Option<String>,
    keyfile: Option<String>,
    verify: Option<bool>,
    server_name_indication: Option<String>,
}

/// Every option, in the order in which an error lists them.
const OPTIONS: &[&str] = &[
    "auth_mechanism",
    "blocked_connection_timeout",
    "cacertfile",
    "certfile",
    "channel_max",
    "client_properties",
    "connection_attempts",
    "connection_timeout",
    "frame_max",
    "heartbeat",
    "keyfile",
    "locale",
    "retry_delay",
    "rpc_timeout",
    "server_name_indication",
    "socket_timeout",
    "ssl_options",
    "stack_timeout",
    "tcp_options",
    "verify",
];

/// Those that say something about TLS.
const TLS_OPTIONS: &[&str] = &[
    "cacertfile",
    "certfile",
    "keyfile",
    "server_name_indication",
    "ssl_options",
    "verify",
];

const NOT_SHOWN: &str = "the value given (not shown)";

/// What most often makes a URL fall apart in the wrong places.
const ESCAPES: &str =
    "in user name and password, '/' is written %2f, '?' %3f, '#' %23, '%' %25 and '@' %40";

pub(crate) fn parse(url: &str) -> Result<ConnectionParameters> {
    let expected_scheme = "a URL that begins with amqp:// or amqps:// is expected";
    let (scheme, rest) = url
        .split_once("://")
        .ok_or_else(|| Error::invalid("url", NOT_SHOWN, expected_scheme))?;
    let tls = match scheme.to_ascii_lowercase().as_str() {
        "amqp" => false,
        "amqps" => true,
        // what is not a word may be anything
        _ if scheme.is_empty()
            || !scheme.chars().all(|c| c.is_ascii_alphanumeric())
            || scheme.len() > 16 =>
        {
            return Err(Error::invalid("url scheme", NOT_SHOWN, expected_scheme));
        }
        _ => return Err(Error::invalid("url scheme", scheme, expected_scheme)),
    };
    #[cfg(not(feature = "tls"))]
    if tls {
        return Err(Error::invalid(
            "url scheme",
            "amqps",
            "for TLS, haypile must be built with its feature `tls`",
        ));
    }
    if rest.contains(|c: char| c.is_control() || c.is_whitespace()) {
        let expected = "spaces and control characters must be percent-encoded (a space is %20)";
        return Err(Error::invalid(
            "url",
            "a space or control character",
            expected,
        ));
    }
    if rest.contains('#') {
        return Err(Error::invalid(
            "url",
            "'#'",
            "an AMQP URL has no fragment; '#' as part of something is written %23",
        ));
    }

    let (before_query, query) = match rest.split_once('?') {
        Some((before, query)) => (before, query),
        None => (rest, ""),
    };
    let (authority, path) = match before_query.split_once('/') {
        Some((authority, path)) => (authority, Some(path)),
        None => (before_query, None),
    };
    let (user_info, host_and_port) = match authority.rsplit_once('@') {
        Some((user_info, host_and_port)) => (Some(user_info), host_and_port),
        None => (None, authority),
    };

    let mut parameters = ConnectionParameters::default();

    let (host, port) = split_host_and_port(host_and_port)?;
    if !host.is_empty() {
        parameters.host = host;
    }
    if !port.is_empty() {
        // An '@' further on means that this may be the beginning of a password that was cut at its first slash.
        let shown =
            if port.bytes().all(|b| b.is_ascii_digit()) && !rest[authority.len()..].contains('@') {
                port
            } else {
                NOT_SHOWN
            };
        let number = whole_number(port)
            .and_then(|number| u16::try_from(number).ok())
            .filter(|number| *number != 0);
        let expected = || format!("1 to 65535 is expected; {ESCAPES}");
        parameters.port =
            Some(number.ok_or_else(|| Error::invalid("url port", shown, &expected()))?);
    }
    if let Some(path) = path {
        if path.contains('/') {
            let expected = "one name is expected; a '/' in it is written %2f";
            return Err(Error::invalid(
                "url virtual host",
                "a path of more than one segment",
                expected,
            ));
        }
        parameters.virtual_host = decode("url virtual host", path)?;
    }

    let mut options = Options {
        parameters,
        tls,
        #[cfg(feature = "tls")]
        tls_options: UrlTls::default(),
        seen: Vec::new(),
        mechanisms: Vec::new(),
    };
    for option in query.split('&').filter(|option| !option.is_empty()) {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        options.set(&decode("url option name", name)?, value)?;
    }
    let Options {
        mut parameters,
        #[cfg(feature = "tls")]
        tls_options,
        mechanisms,
        ..
    } = options;
    #[cfg(feature = "tls")]
    if tls {
        parameters.tls = Some(tls_options.finish()?);
    }
    if let Some(credentials) = credentials(user_info, &mechanisms)? {
        parameters.credentials = credentials;
    }
    parameters.validate()?;
    Ok(parameters)
}

/// The host, decoded and without brackets, and the digits of the port; either may be empty.
fn split_host_and_port(text: &str) -> Result<(String, &str)> {
    let invalid = |expected: &str| Error::invalid("url host", NOT_SHOWN, expected);
    if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest
            .split_once(']')
            .ok_or_else(|| invalid("the ']' after an IPv6 address is missing"))?;
        let port = match port.strip_prefix(':') {
            Some(port) => port,
            None if port.is_empty() => "",
            None => {
                return Err(invalid(
                    "nothing but a colon and the port may follow the ']' of an IPv6 address",
                ))
            }
        };
        let address = decode("url host", address)?;
        // An address of one link alone names its interface: fe80::1%eth0
        let number = address
            .split_once('%')
            .map_or(address.as_str(), |(number, _interface)| number);
        if number.parse::<Ipv6Addr>().is_err() {
            return Err(invalid("brackets are for IPv6 addresses"));
        }
        return Ok((address, port));
    }
    let (host, port) = text.split_once(':').unwrap_or((text, ""));
    if port.contains(':') {
        let expected = format!(
            "one ':' before the port is expected; an IPv6 address stands in brackets; {ESCAPES}"
        );
        return Err(invalid(&expected));
    }
    Ok((decode("url host", host)?, port))
}

/// What the user name, the password and the mechanisms come to; `None` for the default.
fn credentials(user_info: Option<&str>, mechanisms: &[Mechanism]) -> Result<Option<Credentials>> {
    let external_alone = !mechanisms.is_empty()
        && mechanisms
            .iter()
            .all(|mechanism| *mechanism == Mechanism::External);
    let (username, password) =
        match user_info.map(|user_info| (user_info, user_info.split_once(':'))) {
            Some((_, Some((username, password)))) => (
                decode("url user name", username)?,
                decode("url password", password)?,
            ),
            // EXTERNAL has no use for a password, nor for the name
            Some((username, None)) if external_alone => {
                (decode("url user name", username)?, String::new())
            }
            Some((_, None)) => {
                let expected = "a user name needs a password; an empty one is written user:@host";
                return Err(Error::invalid("url password", "leaving it out", expected));
            }
            None if mechanisms.is_empty() => return Ok(None),
            None => ("guest".to_owned(), "guest".to_owned()),
        };
    let mut choices: Vec<Credentials> = mechanisms
        .iter()
        .map(|mechanism| match mechanism {
            Mechanism::Plain => PlainCredentials::new(username.clone(), password.clone()).into(),
            Mechanism::AmqPlain => {
                AmqPlainCredentials::new(username.clone(), password.clone()).into()
            }
            Mechanism::External => ExternalCredentials.into(),
        })
        .collect();
    Ok(Some(match choices.len() {
        0 => PlainCredentials::new(username, password).into(),
        1 => choices.remove(0),
        _ => Credentials::FirstOffered(choices),
    }))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mechanism {
    Plain,
    AmqPlain,
    External,
}

/// The query, option by option.
struct Options {
    parameters: ConnectionParameters,
    tls: bool,
    #[cfg(feature = "tls")]
    tls_options: UrlTls,
    /// What has been set, so that nothing is set twice.
    seen: Vec<&'static str>,
    mechanisms: Vec<Mechanism>,
}

impl Options {
    fn set(&mut self, name: &str, encoded: &str) -> Result<()> {
        let Some(&name) = OPTIONS.iter().find(|known| **known == name) else {
            // a password cut at its question mark would end up here
            let plain = name.len() <= 40
                && name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
            let shown = if plain && !name.is_empty() {
                name
            } else {
                "the name given (not shown)"
            };
            return Err(Error::invalid(
                "url option",
                shown,
                &format!("the options are {}", OPTIONS.join(", ")),
            ));
        };
        // two names, one parameter
        let what = if name == "connection_timeout" {
            "socket_timeout"
        } else {
            name
        };
        if name != "auth_mechanism" {
            if self.seen.contains(&what) {
                let expected =
                    "each option is expected once (connection_timeout and socket_timeout are one)";
                return Err(Error::invalid(&field(name), "a repetition", expected));
            }
            self.seen.push(what);
        }

        // Dictionaries come out of Python's urlencode, which writes a space as '+'. Elsewhere a '+' is a '+'.
        let value = if name.ends_with("_options") || name == "client_properties" {
            decode(&field(name), &encoded.replace('+', "%20"))?
        } else {
            decode(&field(name), encoded)?
        };
        let value = value.as_str();
        if TLS_OPTIONS.contains(&name) {
            return self.set_tls(name, value);
        }
        let parameters = &mut self.parameters;
        match name {
            "auth_mechanism" => {
                let mechanism = match value.to_ascii_lowercase().as_str() {
                    "plain" => Mechanism::Plain,
                    "amqplain" => Mechanism::AmqPlain,
                    "external" => Mechanism::External,
                    _ => {
                        return Err(invalid(
                            name,
                            value,
                            "plain, amqplain or external is expected",
                        ))
                    }
                };
                if self.mechanisms.contains(&mechanism) {
                    return Err(invalid(name, value, "each mechanism is expected once"));
                }
                self.mechanisms.push(mechanism);
            }
            "blocked_connection_timeout" => {
                parameters.blocked_connection_timeout = Some(seconds(name, value, true)?)
            }
            "retry_delay" => parameters.retry_delay = seconds(name, value, true)?,
            "socket_timeout" => parameters.socket_timeout = Some(seconds(name, value, false)?),
            "stack_timeout" => parameters.stack_timeout = Some(seconds(name, value, false)?),
            "rpc_timeout" => parameters.rpc_timeout = seconds(name, value, false)?,
            "connection_timeout" => {
                let millis = number(
                    name,
                    value,
                    1,
                    u32::MAX.into(),
                    "1 to 4294967295 milliseconds is expected",
                )?;
                parameters.socket_timeout = Some(Duration::from_millis(millis));
            }
            "channel_max" => {
                parameters.channel_max =
                    narrow(number(name, value, 1, 65535, "1 to 65535 is expected")?);
            }
            "frame_max" => {
                parameters.frame_max = narrow(number(
                    name,
                    value,
                    8192,
                    131_072,
                    "8192 to 131072 bytes is expected",
                )?);
            }
            "heartbeat" => {
                let seconds: u16 = narrow(number(
                    name,
                    value,
                    0,
                    65535,
                    "0 (off) to 65535 seconds is expected",
                )?);
                parameters.heartbeat = seconds.into();
            }
            "connection_attempts" => {
                let expected = "1 to 4294967295 is expected";
                parameters.connection_attempts =
                    narrow(number(name, value, 1, u32::MAX.into(), expected)?);
            }
            "locale" => parameters.locale = value.to_owned(),
            "client_properties" => match literal(name, value)? {
                // as in Python, where it is the default
                Literal::None => {}
                Literal::Dictionary(entries) => {
                    parameters.client_properties = field_table(name, entries)?
                }
                _ => return Err(invalid_literal(name, "a dictionary is expected")),
            },
            "tcp_options" => match literal(name, value)? {
                Literal::None => {}
                Literal::Dictionary(entries) => {
                    parameters.tcp_options = tcp_options(name, entries)?
                }
                _ => return Err(invalid_literal(name, "a dictionary is expected")),
            },
            // the table above has no others
            _ => {}
        }
        Ok(())
    }

    fn set_tls(&mut self, name: &'static str, value: &str) -> Result<()> {
        let none = name == "ssl_options" && value == "None";
        if !self.tls {
            // As in pika, where it means what the scheme says already.
            if none {
                return Ok(());
            }
            return Err(Error::invalid(
                "url option",
                name,
                "it is about TLS, which needs the scheme amqps://",
            ));
        }
        if none {
            return Err(invalid(
                name,
                value,
                "the scheme amqps:// is TLS; without it, use amqp://",
            ));
        }
        #[cfg(feature = "tls")]
        {
            let tls = &mut self.tls_options;
            if name == "ssl_options" {
                let Literal::Dictionary(entries) = literal(name, value)? else {
                    return Err(invalid_literal(name, "a dictionary is expected"));
                };
                for (key, value) in entries {
                    tls.set_from_dictionary(name, &key, value)?;
                }
            } else {
                tls.set(name, value)?;
            }
        }
        Ok(())
    }
}

#[cfg(feature = "tls")]
impl UrlTls {
    fn finish(self) -> Result<TlsOptions> {
        let mut options = TlsOptions::new();
        if let Some(path) = self.cacertfile {
            options = options.ca_certificates_file(path);
        }
        options = match (self.certfile, self.keyfile) {
            (Some(certificate), Some(key)) => options.client_certificate_files(certificate, key),
            // as in Python: both are in one file
            (Some(both), None) => options.client_certificate_files(&both, &both),
            (None, Some(_)) => {
                let expected = "certfile is expected with it";
                return Err(invalid("keyfile", "a key without a certificate", expected));
            }
            (None, None) => options,
        };
        if let Some(name) = self.server_name_indication {
            options = options.server_hostname(name);
        }
        if self.verify == Some(false) {
            options = options.danger_accept_any_certificate();
        }
        Ok(options)
    }

    fn set(&mut self, name: &'static str, value: &str) -> Result<()> {
        if value.is_empty() {
            return Err(invalid(name, "an empty value", "something is expected"));
        }
        let place = match name {
            "cacertfile" => &mut self.cacertfile,
            "certfile" => &mut self.certfile,
            "keyfile" => &mut self.keyfile,
            "server_name_indication" => &mut self.server_name_indication,
            _ => {
                let verify = match value {
                    "verify_peer" => true,
                    "verify_none" => false,
                    _ => {
                        return Err(invalid(
                            name,
                            value,
                            "verify_peer or verify_none is expected",
                        ))
                    }
                };
                return match self.verify.replace(verify) {
                    None => Ok(()),
                    Some(_) => Err(invalid(name, "a repetition", "it is in ssl_options too")),
                };
            }
        };
        match place.replace(value.to_owned()) {
            None => Ok(()),
            Some(_) => Err(invalid(name, "a repetition", "it is in ssl_options too")),
        }
    }

    /// One entry of pika's `ssl_options`.
    fn set_from_dictionary(
        &mut self,
        option: &'static str,
        key: &str,
        value: Literal,
    ) -> Result<()> {
        let name = match key {
            "ca_certs" | "cafile" => "cacertfile",
            "certfile" => "certfile",
            "keyfile" => "keyfile",
            "server_hostname" => "server_name_indication",
            "verify" => "verify",
            _ => {
                let expected = "the keys are ca_certs or cafile, certfile, keyfile, server_hostname and verify";
                return Err(invalid_literal(option, expected));
            }
        };
        match value {
            Literal::None => Ok(()),
            Literal::Bool(verify) if name == "verify" => {
                self.set(name, if verify { "verify_peer" } else { "verify_none" })
            }
            Literal::Text(text) => self.set(name, &text),
            _ => Err(invalid_literal(
                option,
                &format!("a text is expected for {key}"),
            )),
        }
    }
}

fn tcp_options(option: &str, entries: Vec<(String, Literal)>) -> Result<TcpOptions> {
    let mut options = TcpOptions::new();
    for (key, value) in entries {
        let value = match value {
            Literal::Whole(value) => u32::try_from(value).ok(),
            _ => None,
        };
        let expected = "whole numbers that are not negative are expected";
        let value = value.ok_or_else(|| invalid_literal(option, expected))?;
        options = match key.as_str() {
            "TCP_KEEPIDLE" => options.keepidle(Duration::from_secs(value.into())),
            "TCP_KEEPINTVL" => options.keepintvl(Duration::from_secs(value.into())),
            "TCP_KEEPCNT" => options.keepcnt(value),
            "TCP_USER_TIMEOUT" => options.user_timeout(Duration::from_millis(value.into())),
            _ => {
                let expected =
                    "the keys are TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT and TCP_USER_TIMEOUT";
                return Err(invalid_literal(option, expected));
            }
        };
    }
    Ok(options)
}

fn field_table(option: &str, entries: Vec<(String, Literal)>) -> Result<FieldTable> {
    let mut table = FieldTable::new();
    for (key, value) in entries {
        table.insert(key, field_value(option, value)?);
    }
    Ok(table)
}

fn field_value(option: &str, value: Literal) -> Result<FieldValue> {
    Ok(match value {
        Literal::None => FieldValue::void(),
        Literal::Bool(value) => value.into(),
        // the smallest type that holds it, as in pika
        Literal::Whole(value) => match (
            i32::try_from(value),
            i64::try_from(value),
            u64::try_from(value),
        ) {
            (Ok(value), _, _) => value.into(),
            (_, Ok(value), _) => value.into(),
            (_, _, Ok(value)) => value.into(),
            _ => return Err(invalid_literal(option, "a number has more than 64 bits")),
        },
        Literal::Fraction(value) => value.into(),
        Literal::Text(value) => value.into(),
        Literal::List(values) => {
            let values: Result<Vec<FieldValue>> = values
                .into_iter()
                .map(|value| field_value(option, value))
                .collect();
            values?.into()
        }
        Literal::Dictionary(entries) => field_table(option, entries)?.into(),
    })
}

/// Seconds, fractions allowed.
fn seconds(name: &str, value: &str, zero: bool) -> Result<Duration> {
    let expected = if zero {
        "seconds, 0 or more, are expected"
    } else {
        "seconds, more than 0, are expected"
    };
    decimal(value)
        .map(|(whole, fraction)| {
            // Digits beyond the ninth are less than a nanosecond.
            let nanos = fraction.chars().chain(std::iter::repeat('0')).take(9);
            let nanos = nanos.fold(0, |nanos, c| nanos * 10 + c.to_digit(10).unwrap_or(0));
            Duration::new(whole, nanos)
        })
        .filter(|duration| zero || !duration.is_zero())
        .ok_or_else(|| invalid(name, value, expected))
}

/// The whole part of a decimal number without a sign, and the digits behind its point. One of the two may be left out.
fn decimal(text: &str) -> Option<(u64, &str)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole = match whole {
        "" if !fraction.is_empty() => 0,
        _ => whole_number(whole)?,
    };
    let digits = fraction.bytes().all(|b| b.is_ascii_digit());
    digits.then_some((whole, fraction))
}

/// A whole number within these bounds.
fn number(name: &str, value: &str, least: u64, most: u64, expected: &str) -> Result<u64> {
    whole_number(value)
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| invalid(name, value, expected))
}

/// Digits alone: `parse` would take a plus sign too.
fn whole_number(value: &str) -> Option<u64> {
    value
        .bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| value.parse().ok())?
}

/// Into the type whose bounds have been checked.
fn narrow<T: TryFrom<u64> + Default>(number: u64) -> T {
    T::try_from(number).unwrap_or_default()
}

fn field(option: &str) -> String {
    format!("url option {option}")
}

/// An option's value that is wrong; cut, because it may be anything.
fn invalid(option: &str, value: &str, expected: &str) -> Error {
    let shown: String = value.chars().take(60).collect();
    Error::invalid(&field(option), format_args!("{shown:?}"), expected)
}

/// A dictionary that is wrong; not shown, because pika's may hold the password of a key file.
fn invalid_literal(option: &str, expected: &str) -> Error {
    Error::invalid(&field(option), NOT_SHOWN, expected)
}

/// Resolves percent-encoding.
fn decode(part: &str, text: &str) -> Result<String> {
    let hex = |byte: Option<u8>| {
        byte.and_then(|byte| char::from(byte).to_digit(16))
            .map(|digit| digit as u8)
    };
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        match (hex(bytes.next()), hex(bytes.next())) {
            (Some(high), Some(low)) => decoded.push(high << 4 | low),
            _ => {
                let expected =
                    "two hexadecimal digits are expected after '%'; a '%' itself is written %25";
                return Err(Error::invalid(part, NOT_SHOWN, expected));
            }
        }
    }
    String::from_utf8(decoded)
        .map_err(|_| Error::invalid(part, NOT_SHOWN, "UTF-8 is expected after percent-decoding"))
}

/// A Python or JSON literal.
#[derive(Debug, Clone, PartialEq)]
enum Literal {
    None,
    Bool(bool),
    Whole(i128),
    Fraction(f64),
    Text(String),
    List(Vec<Literal>),
    Dictionary(Vec<(String, Literal)>),
}

fn literal(option: &str, text: &str) -> Result<Literal> {
    let mut reader = LiteralReader { rest: text };
    reader
        .whole()
        .map_err(|expected| invalid_literal(option, expected))
}

/// How deep lists and dictionaries may be nested, so that no text can exhaust the stack.
const DEPTH: usize = 16;

struct LiteralReader<'a> {
    rest: &'a str,
}

type Read<T> = std::result::Result<T, &'static str>;

impl LiteralReader<'_> {
    fn whole(&mut self) -> Read<Literal> {
        let value = self.value(DEPTH)?;
        self.skip_spaces();
        if self.rest.is_empty() {
            Ok(value)
        } else {
            Err("the end is expected after the closing bracket")
        }
    }

    fn value(&mut self, depth: usize) -> Read<Literal> {
        if depth == 0 {
            return Err("at most 16 levels of nesting are expected");
        }
        self.skip_spaces();
        match self.rest.chars().next() {
            Some('{') => self.dictionary(depth),
            Some('[') => self.list(']', depth),
            Some('(') => self.list(')', depth),
            Some('\'' | '"') => self.text().map(Literal::Text),
            Some('-' | '+' | '.' | '0'..='9') => self.number(),
            Some(_) => self.word(),
            None => Err("a Python or JSON dictionary is expected"),
        }
    }

    fn dictionary(&mut self, depth: usize) -> Read<Literal> {
        self.take('{');
        let mut entries: Vec<(String, Literal)> = Vec::new();
        loop {
            self.skip_spaces();
            if self.take('}') {
                return Ok(Literal::Dictionary(entries));
            }
            if !self.rest.starts_with(['\'', '"']) {
                return Err("keys in quotes are expected");
            }
            let key = self.text()?;
            if entries.iter().any(|(known, _)| *known == key) {
                return Err("each key is expected once");
            }
            self.skip_spaces();
            if !self.take(':') {
                return Err("a ':' is expected after a key");
            }
            entries.push((key, self.value(depth - 1)?));
            self.skip_spaces();
            if !self.take(',') && !self.rest.starts_with('}') {
                return Err("',' or '}' is expected after an entry");
            }
        }
    }

    fn list(&mut self, end: char, depth: usize) -> Read<Literal> {
        self.take(if end == ']' { '[' } else { '(' });
        let mut values = Vec::new();
        loop {
            self.skip_spaces();
            if self.take(end) {
                return Ok(Literal::List(values));
            }
            values.push(self.value(depth - 1)?);
            self.skip_spaces();
            if !self.take(',') && !self.rest.starts_with(end) {
                return Err("',' or the closing bracket is expected after an item of a list");
            }
        }
    }

    fn text(&mut self) -> Read<String> {
        const UNFINISHED: &str = "a closing quote is expected";
        const ESCAPE: &str =
            "of escapes, \\\\ \\' \\\" \\/ \\n \\r \\t \\xhh and \\uhhhh are expected";
        let mut text = String::new();
        let mut chars = self.rest.chars();
        let quote = chars.next().ok_or(UNFINISHED)?;
        loop {
            let c = match chars.next().ok_or(UNFINISHED)? {
                c if c == quote => break,
                '\\' => match chars.next().ok_or(UNFINISHED)? {
                    c @ ('\\' | '\'' | '"' | '/') => c,
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    kind @ ('x' | 'u') => {
                        let mut code = 0;
                        for _ in 0..if kind == 'x' { 2 } else { 4 } {
                            code = code * 16
                                + chars.next().and_then(|c| c.to_digit(16)).ok_or(ESCAPE)?;
                        }
                        char::from_u32(code).ok_or(ESCAPE)?
                    }
                    _ => return Err(ESCAPE),
                },
                c => c,
            };
            text.push(c);
        }
        self.rest = chars.as_str();
        Ok(text)
    }

    fn number(&mut self) -> Read<Literal> {
        let end = self
            .rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || "+-._".contains(c)));
        let (text, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        let (negative, text) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        if let Some(number) = whole_number(text) {
            let number = i128::from(number);
            return Ok(Literal::Whole(if negative { -number } else { number }));
        }
        match fraction(text) {
            Some(number) => Ok(Literal::Fraction(if negative { -number } else { number })),
            None if text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() => {
                Err("a number has more than 64 bits")
            }
            None => Err("finite decimal numbers of at most 15 digits are expected"),
        }
    }

    fn word(&mut self) -> Read<Literal> {
        for (word, value) in [
            ("True", Literal::Bool(true)),
            ("true", Literal::Bool(true)),
            ("False", Literal::Bool(false)),
            ("false", Literal::Bool(false)),
            ("None", Literal::None),
            ("null", Literal::None),
        ] {
            if let Some(rest) = self.rest.strip_prefix(word) {
                if !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_') {
                    self.rest = rest;
                    return Ok(value);
                }
            }
        }
        Err("numbers, texts in quotes, True, False, None, lists and dictionaries are expected")
    }

    fn skip_spaces(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, c: char) -> bool {
        match self.rest.strip_prefix(c) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }
}

/// A number with a point or an exponent. As long as all digits together and the power of ten are numbers that an `f64`
/// holds exactly, their product or quotient is the nearest one; more digits than that nobody writes into a URL.
fn fraction(text: &str) -> Option<f64> {
    const MOST: u64 = 1_000_000_000_000_000;
    let (digits, exponent) = match text.split_once(['e', 'E']) {
        Some((digits, exponent)) => (digits, exponent.parse::<i8>().ok()?),
        None => (text, 0),
    };
    let (whole, behind) = decimal(digits)?;
    let mut number = whole;
    for digit in behind.bytes() {
        number = number.checked_mul(10)?.checked_add((digit - b'0').into())?;
    }
    let scale = i32::from(exponent) - i32::try_from(behind.len()).ok()?;
    if number >= MOST || scale.abs() > 22 {
        return None;
    }
    let power = (0..scale.abs()).fold(1.0, |power, _| power * 10.0);
    let number = number as f64;
    Some(if scale < 0 {
        number / power
    } else {
        number * power
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_numbers_are_read_as_rust_reads_them() {
        for text in [
            "1.5",
            "0.1",
            ".25",
            "7.",
            "3e2",
            "2.5E-3",
            "123456789.012345",
            "1e22",
            "1e-22",
            "0.000",
            "9.95e-3",
        ] {
            assert_eq!(fraction(text), text.parse().ok(), "{text}");
        }
        for text in [
            "",
            ".",
            "e1",
            "1e",
            "1.2.3",
            "1e23",
            "1234567890123456.5",
            "1e999",
            "-1",
            "1_0",
            "0x1",
            "nan",
        ] {
            assert_eq!(fraction(text), None, "{text}");
        }
        assert_eq!(fraction("18446744073709551615.9"), None);
    }

    #[test]
    fn seconds_are_read_to_the_nanosecond() {
        let read = |text| seconds("x", text, true).ok();
        for (text, nanos) in [
            ("0", 0),
            ("1.5", 1_500_000_000),
            (".25", 250_000_000),
            ("2.", 2_000_000_000),
            ("0.1234567899", 123_456_789),
        ] {
            assert_eq!(read(text), Some(Duration::from_nanos(nanos)), "{text}");
        }
        for text in [
            "",
            ".",
            "-1",
            "+1",
            "1,5",
            "1.-5",
            "1.5s",
            "inf",
            "nan",
            "1.\u{661}",
            "18446744073709551616",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
        assert!(seconds("x", "0.0000000001", false).is_err());
    }

    /// Host, effective port and virtual host.
    fn place(url: &str) -> (String, u16, String) {
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
                place(url),
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
        assert_eq!(place("AMQP://host:"), ("host".into(), 5672, "/".into()));
        assert_eq!(
            place("amqp://[2001:db8::1]:1/v"),
            ("2001:db8::1".into(), 1, "v".into())
        );
        assert_eq!(
            place("amqp://[fe80::1%25eth0]"),
            ("fe80::1%eth0".into(), 5672, "/".into())
        );
        assert_eq!(
            place("amqp://b\u{fc}cher/caf%C3%A9"),
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

    #[test]
    fn literals() {
        let read = |text: &str| LiteralReader { rest: text }.whole();
        assert_eq!(read(" {} "), Ok(Literal::Dictionary(Vec::new())));
        assert_eq!(read("-7"), Ok(Literal::Whole(-7)));
        assert_eq!(read("1e3"), Ok(Literal::Fraction(1000.0)));
        assert_eq!(
            read(r#""\u00e9\x41\n""#),
            Ok(Literal::Text("\u{e9}A\n".into()))
        );
        assert_eq!(read("()"), Ok(Literal::List(Vec::new())));
        for wrong in [
            "",
            "{",
            "{'a'",
            "{'a':",
            "{'a': 1",
            "{'a': 1 'b': 2}",
            "{'a': 1, 'a': 2}",
            "{1: 2}",
            "[1",
            "[1 2]",
            "'a",
            "'\\",
            "'\\q'",
            "'\\x4'",
            "'\\ud800'",
            "nan",
            "inf",
            "1e999",
            "1_000",
            "0x10",
            "Nonesuch",
            "{} {}",
            "[1)",
            "{,}",
            "-",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        let deep = "[".repeat(100_000);
        assert!(read(&deep).is_err());
        assert!(read(&format!("{}{}", "[".repeat(16), "]".repeat(16))).is_ok());
        assert!(read(&format!("{}{}", "[".repeat(17), "]".repeat(17))).is_err());
    }

    /// Whatever the bytes, there is an answer.
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
        assert_eq!(place("amqps://host"), ("host".into(), 5671, "/".into()));
        assert_eq!(parse("amqp://host").unwrap().tls, None);
        assert_eq!(parse("amqps://host").unwrap().tls, Some(TlsOptions::new()));
        let verifying = TlsOptions::new()
            .ca_certificates_file("/a/ca.pem")
            .client_certificate_files("c.pem", "k+k.pem")
            .server_hostname("name");
        let expected = verifying.clone().danger_accept_any_certificate();
        let url = "amqps://host?cacertfile=%2Fa/ca.pem&certfile=c.pem&keyfile=k+k.pem&verify=verify_none&server_name_indication=name";
        assert_eq!(parse(url).unwrap().tls.as_ref(), Some(&expected));
        let url = "amqps://host?ssl_options={'ca_certs':'/a/ca.pem','certfile':'c.pem',+'keyfile':'k%2Bk.pem','verify':False,'server_hostname':'name'}";
        assert_eq!(parse(url).unwrap().tls.as_ref(), Some(&expected));
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
