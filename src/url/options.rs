//! The query options of an AMQP URL.

use std::time::Duration;

use super::literals::dictionary;
use super::{cut, decode, decode_part, is_word, number, Parts, Read, NOT_SHOWN};
use crate::credentials::{AmqPlainCredentials, Credentials, ExternalCredentials, PlainCredentials};
use crate::error::{Error, Result};
use crate::parameters::{ConnectionParameters, TcpOptions};
#[cfg(feature = "tls")]
use crate::TlsOptions;
use crate::{FieldTable, FieldValue};

/// Every query option.
const OPTIONS: [&str; 20] = [
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mechanism {
    Plain,
    AmqPlain,
    External,
}

impl Mechanism {
    fn credentials(self, username: &str, password: &str) -> Credentials {
        match self {
            Mechanism::Plain => PlainCredentials::new(username, password).into(),
            Mechanism::AmqPlain => AmqPlainCredentials::new(username, password).into(),
            Mechanism::External => ExternalCredentials.into(),
        }
    }
}

/// Why an option is refused.
struct Wrong {
    /// The key of its dictionary that has a wrong value.
    key: Option<String>,
    /// What was given there, if that is not the whole option and can be shown.
    shown: Option<String>,
    expected: &'static str,
}

impl From<&'static str> for Wrong {
    fn from(expected: &'static str) -> Self {
        Wrong {
            key: None,
            shown: None,
            expected,
        }
    }
}

impl Wrong {
    /// A dictionary does not know this key.
    fn key(key: &str, expected: &'static str) -> Self {
        Wrong {
            key: None,
            shown: is_word(key, 40, "_-.").then(|| format!("the key {key:?}")),
            expected,
        }
    }

    /// A key of a dictionary has this value. Texts and whole numbers are shown; lists and dictionaries may hold anything.
    fn value(key: &str, value: &FieldValue, expected: &'static str) -> Self {
        let text = value.as_str().map(shortened);
        let number = || value.as_i64().map(|number| number.to_string());
        Wrong {
            key: Some(key.to_owned()),
            shown: text.or_else(number),
            expected,
        }
    }
}

/// A value in quotes, the beginning of a long one.
fn shortened(value: &str) -> String {
    let value: String = value.chars().take(60).collect();
    format!("{value:?}")
}

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

/// The parameters so far, and what the query says beside them.
pub(super) struct Options<'p> {
    parameters: &'p mut ConnectionParameters,
    tls: bool,
    #[cfg(feature = "tls")]
    tls_options: UrlTls,
    /// The options that were set, so that nothing is set twice.
    seen: Vec<String>,
    mechanisms: Vec<Mechanism>,
}

impl<'p> Options<'p> {
    pub(super) fn new(parameters: &'p mut ConnectionParameters) -> Self {
        Options {
            parameters,
            tls: false,
            #[cfg(feature = "tls")]
            tls_options: UrlTls::default(),
            seen: Vec::new(),
            mechanisms: Vec::new(),
        }
    }

    pub(super) fn fill(mut self, parts: &Parts<'_>) -> Result<(), Error> {
        self.tls = parts.tls;
        if !parts.host.is_empty() {
            self.parameters.host = decode_part("url host", parts.host)?;
        }
        self.parameters.port = parts.port;
        if let Some(name) = parts.virtual_host {
            self.parameters.virtual_host = decode_part("url virtual host", name)?;
        }
        for option in parts.query.unwrap_or_default().split('&') {
            if !option.is_empty() {
                let (encoded_name, value) = cut(option, '=');
                let name = decode_part("url option name", encoded_name)?;
                self.add(&name, value.unwrap_or_default(), parts.doubtful)?;
            }
        }
        self.set_credentials(parts.user_info)?;
        #[cfg(feature = "tls")]
        if self.tls {
            self.parameters.tls = Some(self.tls_options.finish()?);
        }
        Ok(())
    }

    /// What the user name, the password and the mechanisms come to.
    fn set_credentials(&mut self, user_info: Option<&str>) -> Result<(), Error> {
        let (encoded_name, encoded_password) = match user_info.map(|user_info| cut(user_info, ':'))
        {
            Some((name, Some(password))) => (name, password),
            // EXTERNAL has no use for a password, nor for the name
            Some((name, None)) if self.mechanisms == [Mechanism::External] => (name, ""),
            Some((_, None)) => {
                let expected = "a user name needs a password; an empty one is written user:@host";
                return Err(Error::invalid("url password", "none", expected));
            }
            None if self.mechanisms.is_empty() => return Ok(()),
            None => ("guest", "guest"),
        };
        let username = decode_part("url user name", encoded_name)?;
        let password = decode_part("url password", encoded_password)?;
        let credentials = |mechanism: &Mechanism| mechanism.credentials(&username, &password);
        self.parameters.credentials = match self.mechanisms.as_slice() {
            [] => credentials(&Mechanism::Plain),
            [one] => credentials(one),
            several => Credentials::FirstOffered(several.iter().map(credentials).collect()),
        };
        Ok(())
    }

    /// `doubtful`: see [`Parts`].
    fn add(&mut self, name: &str, encoded: &str, doubtful: bool) -> Result<(), Error> {
        if !OPTIONS.contains(&name) {
            let shown = if is_word(name, 40, "_-.") && !doubtful {
                name
            } else {
                "a name (not shown)"
            };
            let expected = format!("the options are {}", OPTIONS.join(", "));
            return Err(Error::invalid("url option", shown, &expected));
        }
        // Dictionaries come out of Python's urlencode, which writes a space as '+'. Elsewhere a '+' is a '+'.
        let dictionary = name.ends_with("_options") || name == "client_properties";
        let field = format!("url option {name}");
        let value = decode(encoded, if dictionary { ' ' } else { '+' })
            .map_err(|expected| Error::invalid(&field, NOT_SHOWN, expected))?;
        self.set(name, &value).map_err(|wrong| {
            let field = match wrong.key {
                Some(key) => format!("{field}, key {key}"),
                None => field,
            };
            // A dictionary may hold the password of a key file.
            let shown = match wrong.shown {
                None if !dictionary => Some(shortened(&value)),
                shown => shown,
            };
            let shown = shown.filter(|_| !doubtful && !value.contains('@'));
            Error::invalid(
                &field,
                shown.as_deref().unwrap_or(NOT_SHOWN),
                wrong.expected,
            )
        })
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), Wrong> {
        if name == "auth_mechanism" {
            return Ok(self.add_mechanism(value)?);
        }
        // two names, one parameter
        let parameter = match name {
            "connection_timeout" => "socket_timeout",
            name => name,
        };
        if self.seen.iter().any(|seen| seen == parameter) {
            let once =
                "each option is expected once (connection_timeout and socket_timeout are one)";
            return Err(once.into());
        }
        self.seen.push(parameter.to_owned());
        let parameters = &mut *self.parameters;
        match name {
            "blocked_connection_timeout" => {
                parameters.blocked_connection_timeout = Some(seconds(value)?);
            }
            "retry_delay" => parameters.retry_delay = seconds(value)?,
            "socket_timeout" => parameters.socket_timeout = Some(some_seconds(value)?),
            "stack_timeout" => parameters.stack_timeout = Some(some_seconds(value)?),
            "rpc_timeout" => parameters.rpc_timeout = some_seconds(value)?,
            "connection_timeout" => {
                let expected = "1 to 4294967295 milliseconds is expected";
                let millis = number(value, 1, u32::MAX).ok_or(expected)?;
                parameters.socket_timeout = Some(Duration::from_millis(millis.into()));
            }
            "channel_max" => {
                let expected = "1 to 65535 is expected";
                parameters.channel_max = number(value, 1, 65535).ok_or(expected)? as u16;
            }
            "frame_max" => {
                let expected = "8192 to 131072 bytes is expected: RabbitMQ 4.1 and later refuse less than 8192";
                parameters.frame_max = number(value, 8192, 131_072).ok_or(expected)?;
            }
            "heartbeat" => {
                let expected = "0 (off) to 65535 seconds is expected";
                let seconds = number(value, 0, 65535).ok_or(expected)?;
                parameters.heartbeat = (seconds as u16).into();
            }
            "connection_attempts" => {
                let expected = "1 to 4294967295 is expected";
                parameters.connection_attempts = number(value, 1, u32::MAX).ok_or(expected)?;
            }
            "locale" => value.clone_into(&mut parameters.locale),
            "client_properties" => {
                if let Some(properties) = dictionary(value)? {
                    parameters.client_properties = properties;
                }
            }
            "tcp_options" => {
                if let Some(options) = dictionary(value)? {
                    set_tcp_options(&options, &mut parameters.tcp_options)?;
                }
            }
            // The others are about TLS.
            name => return self.set_tls(name, value),
        }
        Ok(())
    }

    fn add_mechanism(&mut self, name: &str) -> Read<()> {
        let mechanism = match name.to_ascii_lowercase().as_str() {
            "plain" => Mechanism::Plain,
            "amqplain" => Mechanism::AmqPlain,
            "external" => Mechanism::External,
            _ => return Err("plain, amqplain or external is expected"),
        };
        if self.mechanisms.contains(&mechanism) {
            return Err("each mechanism is expected once");
        }
        self.mechanisms.push(mechanism);
        Ok(())
    }

    fn set_tls(&mut self, name: &str, value: &str) -> Result<(), Wrong> {
        let none = name == "ssl_options" && value == "None";
        match (self.tls, none) {
            // As in pika, where it means what the scheme says already.
            (false, true) => Ok(()),
            (false, false) => Err("it is about TLS, which needs the scheme amqps://".into()),
            (true, true) => Err("the scheme amqps:// is TLS; without it, use amqp://".into()),
            #[cfg(feature = "tls")]
            (true, false) if name == "ssl_options" => match dictionary(value)? {
                Some(options) => self.tls_options.set_from_dictionary(&options),
                None => Err(super::literals::DICTIONARY.into()),
            },
            #[cfg(feature = "tls")]
            (true, false) => Ok(self.tls_options.set(name, value)?),
            #[cfg(not(feature = "tls"))]
            (true, false) => Ok(()),
        }
    }
}

#[cfg(feature = "tls")]
impl UrlTls {
    fn finish(self) -> Result<TlsOptions, Error> {
        let mut options = TlsOptions::new();
        if let Some(path) = self.cacertfile {
            options = options.ca_certificates_file(path);
        }
        options = match (self.certfile, self.keyfile) {
            (Some(certificate), Some(key)) => options.client_certificate_files(certificate, key),
            // as in Python: both are in one file
            (Some(both), None) => options.client_certificate_files(&both, &both),
            (None, Some(_)) => {
                let shown = "a key without a certificate";
                let expected = "certfile is expected with it";
                return Err(Error::invalid("url option keyfile", shown, expected));
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

    fn set(&mut self, name: &str, value: &str) -> Read<()> {
        if value.is_empty() {
            return Err("something is expected");
        }
        let set_before = match name {
            "cacertfile" => self.cacertfile.replace(value.to_owned()).is_some(),
            "certfile" => self.certfile.replace(value.to_owned()).is_some(),
            "keyfile" => self.keyfile.replace(value.to_owned()).is_some(),
            "server_name_indication" => {
                let name = self.server_name_indication.replace(value.to_owned());
                name.is_some()
            }
            "verify" => {
                let verify = match value {
                    "verify_peer" => true,
                    "verify_none" => false,
                    _ => return Err("verify_peer or verify_none is expected"),
                };
                self.verify.replace(verify).is_some()
            }
            _ => return Err("an option about TLS is expected"),
        };
        if set_before {
            return Err("what is in ssl_options is expected there alone, and under one key");
        }
        Ok(())
    }

    /// pika's `ssl_options`.
    fn set_from_dictionary(&mut self, options: &FieldTable) -> Result<(), Wrong> {
        const KEYS: &str =
            "the keys are ca_certs or cafile, certfile, keyfile, server_hostname and verify";
        for (key, value) in options {
            let name = match key.as_str() {
                "ca_certs" | "cafile" => "cacertfile",
                "certfile" => "certfile",
                "keyfile" => "keyfile",
                "server_hostname" => "server_name_indication",
                "verify" => "verify",
                _ => return Err(Wrong::key(key, KEYS)),
            };
            let set = match (value.as_str(), value.as_bool()) {
                _ if *value == FieldValue::Void => Ok(()),
                (Some(text), _) => self.set(name, text),
                (_, Some(true)) if name == "verify" => self.set(name, "verify_peer"),
                (_, Some(false)) if name == "verify" => self.set(name, "verify_none"),
                _ if name == "verify" => {
                    Err("True, False, 'verify_peer' or 'verify_none' is expected")
                }
                _ => Err("a text is expected"),
            };
            set.map_err(|expected| Wrong::value(key, value, expected))?;
        }
        Ok(())
    }
}

fn set_tcp_options(entries: &FieldTable, options: &mut TcpOptions) -> Result<(), Wrong> {
    const KEYS: &str = "the keys are TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT and TCP_USER_TIMEOUT";
    const NUMBERS: &str = "whole numbers from 0 to 4294967295 are expected";
    for (key, value) in entries {
        let number = value.as_u64().and_then(|value| u32::try_from(value).ok());
        let number = number.ok_or_else(|| Wrong::value(key, value, NUMBERS));
        let seconds = |number: u32| Some(Duration::from_secs(number.into()));
        match key.as_str() {
            "TCP_KEEPIDLE" => options.keepidle = seconds(number?),
            "TCP_KEEPINTVL" => options.keepintvl = seconds(number?),
            "TCP_KEEPCNT" => options.keepcnt = Some(number?),
            "TCP_USER_TIMEOUT" => {
                options.user_timeout = Some(Duration::from_millis(number?.into()));
            }
            _ => return Err(Wrong::key(key, KEYS)),
        }
    }
    Ok(())
}

/// Seconds, fractions allowed.
fn seconds(value: &str) -> Read<Duration> {
    duration(value)
        .ok_or("seconds as a decimal number, 0 or more, are expected (such as 30 or 0.5)")
}

fn some_seconds(value: &str) -> Read<Duration> {
    let duration = duration(value).filter(|duration| !duration.is_zero());
    duration.ok_or("seconds as a decimal number, more than 0, are expected (such as 30 or 0.5)")
}

fn duration(seconds: &str) -> Option<Duration> {
    let digits_only = seconds.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let seconds: f64 = seconds.parse().ok().filter(|_| digits_only)?;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_read_to_the_nanosecond() {
        let read = |text| seconds(text).ok();
        for (text, nanos) in [
            ("0", 0),
            ("1.5", 1_500_000_000),
            (".25", 250_000_000),
            ("2.", 2_000_000_000),
            ("0.1234567891", 123_456_789),
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
        assert!(some_seconds("0.0000000001").is_err());
    }
}
