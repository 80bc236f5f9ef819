//! Options of the TCP socket.

use std::time::Duration;

use crate::error::{Error, Result, Span};

/// Options of the TCP socket (pika: `tcp_options`, a dictionary).
///
/// Any of the three `keep…` turns keepalive on. What is not set stays as the operating system has it. Where the
/// operating system has no such option, it is left out with a warning in the log.
///
/// ```
/// use haypile::{ConnectionParameters, TcpOptions};
/// use std::time::Duration;
///
/// let options = TcpOptions::new()
///     .keepidle(Duration::from_secs(60))
///     .keepintvl(Duration::from_secs(10))
///     .keepcnt(3)
///     .user_timeout(Duration::from_secs(30));
/// let parameters = ConnectionParameters::default().tcp_options(options);
/// # let _ = parameters;
/// ```
#[doc(alias = "tcp_options")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpOptions {
    pub(crate) keepidle: Option<Duration>,
    pub(crate) keepintvl: Option<Duration>,
    pub(crate) keepcnt: Option<u32>,
    pub(crate) user_timeout: Option<Duration>,
}

impl TcpOptions {
    /// None set.
    ///
    /// ```
    /// use haypile::{ConnectionParameters, TcpOptions};
    ///
    /// let parameters = ConnectionParameters::default().tcp_options(TcpOptions::new());
    /// assert_eq!(parameters, ConnectionParameters::default());
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// After how long without traffic to probe the peer, in whole seconds, 1 to 32767 (`TCP_KEEPIDLE`). Default: as the operating system has it.
    ///
    /// ```
    /// use haypile::{ConnectionParameters, TcpOptions};
    /// use std::time::Duration;
    ///
    /// let options = TcpOptions::new().keepidle(Duration::from_secs(60));
    /// let parameters = ConnectionParameters::from_url("amqp://localhost?tcp_options={'TCP_KEEPIDLE':60}")?;
    /// assert_eq!(ConnectionParameters::default().tcp_options(options), parameters);
    /// # Ok::<(), haypile::Error>(())
    /// ```
    #[must_use]
    pub fn keepidle(mut self, keepidle: Duration) -> Self {
        self.keepidle = Some(keepidle);
        self
    }

    /// How long to wait between probes, in whole seconds, 1 to 32767 (`TCP_KEEPINTVL`). Default: as the operating
    /// system has it.
    ///
    /// ```
    /// use haypile::{ConnectionParameters, TcpOptions};
    /// use std::time::Duration;
    ///
    /// let options = TcpOptions::new().keepintvl(Duration::from_secs(10));
    /// let parameters = ConnectionParameters::from_url("amqp://localhost?tcp_options={'TCP_KEEPINTVL':10}")?;
    /// assert_eq!(ConnectionParameters::default().tcp_options(options), parameters);
    /// # Ok::<(), haypile::Error>(())
    /// ```
    #[must_use]
    pub fn keepintvl(mut self, keepintvl: Duration) -> Self {
        self.keepintvl = Some(keepintvl);
        self
    }

    /// After how many unanswered probes to give up, 1 to 127 (`TCP_KEEPCNT`). Default: as the operating system has it.
    ///
    /// ```
    /// use haypile::{ConnectionParameters, IntoParameters, TcpOptions};
    ///
    /// let with = |options| ConnectionParameters::default().tcp_options(options);
    /// assert!(with(TcpOptions::new().keepcnt(3)).into_parameters().is_ok());
    /// assert!(with(TcpOptions::new().keepcnt(128)).into_parameters().is_err());
    /// ```
    #[must_use]
    pub fn keepcnt(mut self, keepcnt: u32) -> Self {
        self.keepcnt = Some(keepcnt);
        self
    }

    /// How long what was sent may stay unacknowledged, in whole milliseconds, at most 24 days; 0 is the operating
    /// system's default (`TCP_USER_TIMEOUT`).
    ///
    /// ```
    /// use haypile::{ConnectionParameters, TcpOptions};
    /// use std::time::Duration;
    ///
    /// let options = TcpOptions::new().user_timeout(Duration::from_secs(30));
    /// let parameters = ConnectionParameters::from_url("amqp://localhost?tcp_options={'TCP_USER_TIMEOUT':30000}")?;
    /// assert_eq!(ConnectionParameters::default().tcp_options(options), parameters);
    /// # Ok::<(), haypile::Error>(())
    /// ```
    #[must_use]
    pub fn user_timeout(mut self, user_timeout: Duration) -> Self {
        self.user_timeout = Some(user_timeout);
        self
    }

    /// Whether keepalive is to be turned on.
    pub(crate) fn needs_keepalive(&self) -> bool {
        self.keepidle.is_some() || self.keepintvl.is_some() || self.keepcnt.is_some()
    }

    pub(super) fn validate(&self) -> Result<(), Error> {
        for (field, value) in [
            ("tcp_options: keepidle", self.keepidle),
            ("tcp_options: keepintvl", self.keepintvl),
        ] {
            if let Some(value) = value.filter(|value| !(1..=32767).contains(&value.as_secs())) {
                return Err(Error::invalid(
                    field,
                    format_args!("{}", Span(value)),
                    "1 to 32767 s is expected",
                ));
            }
        }
        if let Some(value) = self.keepcnt.filter(|value| !(1..=127).contains(value)) {
            return Err(Error::invalid(
                "tcp_options: keepcnt",
                format_args!("{value}"),
                "1 to 127 is expected",
            ));
        }
        if let Some(value) = self
            .user_timeout
            .filter(|value| value.as_millis() > i32::MAX as u128)
        {
            let expected = "at most 2147483647 ms is expected";
            return Err(Error::invalid(
                "tcp_options: user_timeout",
                format_args!("{}", Span(value)),
                expected,
            ));
        }
        Ok(())
    }
}
