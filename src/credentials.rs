//! How to log in.

use std::fmt;
use std::hint;

/// A user name and a password (pika: `PlainCredentials`).
///
/// They go by the mechanism `PLAIN`, or by `AMQPLAIN` if that is all of the two that the server offers. Both send the
/// password as it is: over an untrusted network use TLS. `Debug` does not show the password.
///
/// An OAuth 2 access token goes in place of the password (RabbitMQ's `rabbitmq_auth_backend_oauth2`, which takes the
/// user from the token). Before it expires, give the broker a new one with
/// [`Connection::update_secret`](crate::Connection::update_secret).
///
/// ```
/// use haypile::{ConnectionParameters, PlainCredentials};
///
/// let parameters = ConnectionParameters::default().credentials(PlainCredentials::new("orders", "secret"));
/// assert!(!format!("{parameters:?}").contains("secret"));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct PlainCredentials(Login);

/// A user name and a password for the mechanism `AMQPLAIN` alone, which servers before `PLAIN` had (no counterpart in
/// pika). `Debug` does not show the password.
///
/// ```
/// use haypile::{AmqPlainCredentials, ConnectionParameters};
///
/// let parameters = ConnectionParameters::default().credentials(AmqPlainCredentials::new("guest", "guest"));
/// # let _ = parameters;
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct AmqPlainCredentials(Login);

macro_rules! login {
    ($($credentials:ident)*) => {
        $(
            impl $credentials {
                /// This user with this password. Neither may contain a zero byte.
                ///
                /// ```
                #[doc = concat!("use haypile::", stringify!($credentials), ";")]
                ///
                #[doc = concat!("let shown = format!(\"{:?}\", ", stringify!($credentials), "::new(\"orders\", \"secret\"));")]
                /// assert!(shown.contains("orders") && !shown.contains("secret"));
                /// ```
                pub fn new(username: impl Into<String>, password: impl Into<String>) -> Self {
                    $credentials(Login {
                        username: username.into(),
                        password: password.into(),
                        erase_on_connect: false,
                    })
                }

                /// Whether user name and password are forgotten once the connection is open, or could not be opened, and
                /// overwritten in memory. Default: no.
                ///
                /// This concerns the copy that the connection was opened with, and what the library made of it: the
                /// frame that it sent, and what it handed to TLS. Parameters are given by value, so a clone that the
                /// program keeps is the program's own to forget, as is the text of a URL. What the operating system
                /// copied, into the buffers of a socket or the swap file, is out of reach, and so is what a
                /// [`Stream`](crate::Stream) of the program's own keeps. A connection that has forgotten its
                /// credentials cannot be opened again from its own copy.
                ///
                /// ```
                #[doc = concat!("use haypile::", stringify!($credentials), ";")]
                ///
                #[doc = concat!("let forgotten = ", stringify!($credentials), "::new(\"orders\", \"secret\").erase_on_connect(true);")]
                #[doc = concat!("assert_ne!(forgotten, ", stringify!($credentials), "::new(\"orders\", \"secret\"));")]
                /// ```
                #[must_use]
                pub fn erase_on_connect(mut self, erase_on_connect: bool) -> Self {
                    self.0.erase_on_connect = erase_on_connect;
                    self
                }
            }

            impl fmt::Debug for $credentials {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    self.0.describe(stringify!($credentials), f)
                }
            }
        )*
    };
}

login!(PlainCredentials AmqPlainCredentials);

impl Default for PlainCredentials {
    /// `guest` with the password `guest`, as brokers have it from the start.
    fn default() -> Self {
        PlainCredentials::new("guest", "guest")
    }
}

/// The user that the transport vouches for, most often by a TLS client certificate (pika: `ExternalCredentials`; mechanism
/// `EXTERNAL`).
///
/// RabbitMQ needs its plugin `rabbitmq_auth_mechanism_ssl`, `EXTERNAL` among its `auth_mechanisms`, and takes the user's
/// name from the certificate: the whole distinguished name, or with `ssl_cert_login_from = common_name` the common name.
/// The certificate is given with `TlsOptions::client_certificate_files` (feature `tls`). A server that does not offer
/// `EXTERNAL` makes for [`Error::Authentication`](crate::Error::Authentication), which names what it offers.
///
/// ```
/// use haypile::{ConnectionParameters, ExternalCredentials};
///
/// let parameters = ConnectionParameters::default().credentials(ExternalCredentials);
/// # let _ = parameters;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExternalCredentials;

/// One of the ways to log in; see [`ConnectionParameters::credentials`](crate::ConnectionParameters::credentials).
///
/// ```
/// use haypile::{ConnectionParameters, Credentials, ExternalCredentials, PlainCredentials};
///
/// // by certificate where the server offers it, else by password
/// let either = Credentials::FirstOffered(vec![
///     ExternalCredentials.into(),
///     PlainCredentials::new("orders", "secret").into(),
/// ]);
/// let parameters = ConnectionParameters::default().credentials(either);
/// # let _ = parameters;
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credentials {
    /// User name and password.
    Plain(PlainCredentials),
    /// User name and password, by `AMQPLAIN` alone.
    AmqPlain(AmqPlainCredentials),
    /// The identity is the transport's.
    External(ExternalCredentials),
    /// The first of these whose mechanism the server offers.
    FirstOffered(Vec<Credentials>),
}

impl From<PlainCredentials> for Credentials {
    fn from(credentials: PlainCredentials) -> Self {
        Credentials::Plain(credentials)
    }
}

impl From<AmqPlainCredentials> for Credentials {
    fn from(credentials: AmqPlainCredentials) -> Self {
        Credentials::AmqPlain(credentials)
    }
}

impl From<ExternalCredentials> for Credentials {
    fn from(credentials: ExternalCredentials) -> Self {
        Credentials::External(credentials)
    }
}

impl Default for Credentials {
    /// `guest` with the password `guest`.
    fn default() -> Self {
        PlainCredentials::default().into()
    }
}

impl Credentials {
    /// The mechanism to log in with and the response to send for it, out of what the server offers
    /// (`connection.start`, `mechanisms`, split at spaces). `None` if nothing fits.
    pub(crate) fn respond(&self, offered: &[&str]) -> Option<(&'static str, Vec<u8>)> {
        let offers = |mechanism| offered.contains(&mechanism);
        let (login, mechanism) = match self {
            Credentials::Plain(PlainCredentials(login)) if offers(PLAIN) => (login, PLAIN),
            Credentials::Plain(PlainCredentials(login))
            | Credentials::AmqPlain(AmqPlainCredentials(login)) => (login, AMQPLAIN),
            Credentials::External(_) => return offers(EXTERNAL).then(|| (EXTERNAL, Vec::new())),
            Credentials::FirstOffered(choices) => {
                return choices.iter().find_map(|choice| choice.respond(offered))
            }
        };
        if !offers(mechanism) {
            return None;
        }
        let response = if mechanism == PLAIN {
            login.plain()
        } else {
            login.amqplain()
        };
        Some((mechanism, response))
    }

    /// Whether this is RabbitMQ's default user, whom it lets in from its own host only.
    pub(crate) fn is_guest(&self) -> bool {
        match self {
            Credentials::Plain(PlainCredentials(login))
            | Credentials::AmqPlain(AmqPlainCredentials(login)) => login.username == "guest",
            Credentials::External(_) => false,
            Credentials::FirstOffered(choices) => choices.iter().any(Credentials::is_guest),
        }
    }

    /// What is wrong with them, if anything is: which part, and what is expected.
    pub(crate) fn problem(&self) -> Option<(&'static str, &'static str)> {
        match self {
            Credentials::Plain(PlainCredentials(login))
            | Credentials::AmqPlain(AmqPlainCredentials(login)) => {
                let zero = "text without a zero byte is expected";
                if login.username.as_bytes().contains(&0) {
                    Some(("credentials: user name", zero))
                } else if login.password.as_bytes().contains(&0) {
                    Some(("credentials: password", zero))
                } else {
                    None
                }
            }
            Credentials::External(_) => None,
            Credentials::FirstOffered(choices) if choices.is_empty() => {
                Some(("credentials", "at least one way to log in is expected"))
            }
            Credentials::FirstOffered(choices) => choices.iter().find_map(Credentials::problem),
        }
    }
}

const PLAIN: &str = "PLAIN";
const AMQPLAIN: &str = "AMQPLAIN";
const EXTERNAL: &str = "EXTERNAL";

/// Empties this, and overwrites all the memory that it has, so that no secret is left there.
pub(crate) fn overwrite(secret: &mut Vec<u8>) {
    secret.clear();
    secret.resize(secret.capacity(), 0);
    // Else the compiler may leave the overwriting out, since the zeros are never read.
    hint::black_box(secret.as_slice());
    secret.clear();
}

#[derive(Clone, PartialEq, Eq)]
struct Login {
    username: String,
    password: String,
    erase_on_connect: bool,
}

impl Login {
    /// RFC 4616, without an identity to act as.
    fn plain(&self) -> Vec<u8> {
        let (username, password) = (self.username.as_bytes(), self.password.as_bytes());
        [b"\0", username, b"\0", password].concat()
    }

    /// A field table without the length that goes before it elsewhere: AMQPLAIN leaves it out.
    fn amqplain(&self) -> Vec<u8> {
        // what does not fit does not fit into a frame either, where it is refused
        let length = |text: &[u8]| u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes();
        let (username, password) = (self.username.as_bytes(), self.password.as_bytes());
        [
            b"\x05LOGINS".as_slice(),
            &length(username),
            username,
            b"\x08PASSWORDS",
            &length(password),
            password,
        ]
        .concat()
    }

    fn describe(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(name)
            .field("username", &self.username)
            .field("password", &format_args!("<not shown>"))
            .field("erase_on_connect", &self.erase_on_connect)
            .finish()
    }
}

/// Opening a connection takes the parameters by value, so this is when it is over, one way or the other.
impl Drop for Login {
    fn drop(&mut self) {
        if self.erase_on_connect {
            for secret in [&mut self.username, &mut self.password] {
                overwrite(&mut std::mem::take(secret).into_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_is_preferred_and_amqplain_will_do() {
        let credentials = Credentials::from(PlainCredentials::new("user", "pass"));
        assert_eq!(
            credentials.respond(&["AMQPLAIN", "PLAIN"]),
            Some(("PLAIN", b"\0user\0pass".to_vec()))
        );
        let (mechanism, response) = credentials.respond(&["AMQPLAIN"]).unwrap();
        assert_eq!(mechanism, "AMQPLAIN");
        assert_eq!(
            response,
            b"\x05LOGINS\0\0\0\x04user\x08PASSWORDS\0\0\0\x04pass"
        );
        assert_eq!(credentials.respond(&["EXTERNAL", "plain"]), None);
        assert_eq!(credentials.respond(&[]), None);
    }

    #[test]
    fn amqplain_alone() {
        let credentials = Credentials::from(AmqPlainCredentials::new("u", "p"));
        assert_eq!(
            credentials.respond(&["PLAIN", "AMQPLAIN"]).unwrap().0,
            "AMQPLAIN"
        );
        assert_eq!(credentials.respond(&["PLAIN"]), None);
    }

    #[test]
    fn external_sends_an_empty_response() {
        let credentials = Credentials::from(ExternalCredentials);
        assert_eq!(
            credentials.respond(&["PLAIN", "EXTERNAL"]),
            Some(("EXTERNAL", Vec::new()))
        );
        assert_eq!(credentials.respond(&["PLAIN"]), None);
    }

    #[test]
    fn the_first_that_is_offered() {
        let either = Credentials::FirstOffered(vec![
            ExternalCredentials.into(),
            PlainCredentials::default().into(),
        ]);
        assert_eq!(
            either.respond(&["PLAIN", "EXTERNAL"]).unwrap().0,
            "EXTERNAL"
        );
        assert_eq!(either.respond(&["PLAIN"]).unwrap().0, "PLAIN");
    }

    #[test]
    fn debug_shows_who_logs_in_and_no_password() {
        let shown = format!("{:?}", PlainCredentials::new("orders", "secret"));
        assert!(shown.contains("PlainCredentials") && shown.contains("orders"));
        assert!(!shown.contains("secret"), "{shown}");
    }

    #[test]
    fn guest_is_known_among_others() {
        let other = || Credentials::from(PlainCredentials::new("orders", "guest"));
        let either = |choice| Credentials::FirstOffered(vec![ExternalCredentials.into(), choice]);
        assert!(Credentials::default().is_guest() && either(Credentials::default()).is_guest());
        assert!(!other().is_guest() && !either(other()).is_guest());
    }

    #[test]
    fn zero_bytes_are_a_problem() {
        assert_eq!(Credentials::default().problem(), None);
        assert!(Credentials::from(PlainCredentials::new("a\0b", "c"))
            .problem()
            .unwrap()
            .0
            .contains("user name"));
        assert!(Credentials::from(AmqPlainCredentials::new("a", "\0"))
            .problem()
            .unwrap()
            .0
            .contains("password"));
        assert!(Credentials::FirstOffered(Vec::new()).problem().is_some());
    }
}
