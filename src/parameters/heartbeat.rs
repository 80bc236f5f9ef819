//! The heartbeat that a connection asks for.

use std::fmt;
use std::sync::Arc;

/// Which heartbeat timeout to ask for (pika: `heartbeat`, a number, `None` or a callable).
///
/// A `u16` converts: so many seconds, whatever the server proposes, 0 for none. So does an `Option<u16>`: `None` takes
/// what the server proposes, and is the default.
///
/// ```
/// use haypile::ConnectionParameters;
///
/// let a_minute = ConnectionParameters::new("localhost").heartbeat(60);
/// let none = ConnectionParameters::new("localhost").heartbeat(0);
/// let the_servers = ConnectionParameters::new("localhost").heartbeat(None);
/// # drop((a_minute, none, the_servers));
/// ```
#[derive(Clone, Default)]
pub struct Heartbeat(Choice);

#[derive(Clone, Default)]
enum Choice {
    #[default]
    Servers,
    Seconds(u16),
    Function(Arc<dyn Fn(u16) -> u16 + Send + Sync>),
}

impl Heartbeat {
    /// Asks a function, which is given what the server proposes and returns what to use, both in seconds, 0 for none.
    ///
    /// It runs on the thread that opens the connection, and must not wait for it. (pika's callable is given the
    /// connection as well, which can do nothing at that point.)
    ///
    /// ```
    /// use haypile::{ConnectionParameters, Heartbeat};
    ///
    /// let at_least_ten = Heartbeat::negotiate(|server| server.max(10));
    /// let parameters = ConnectionParameters::default().heartbeat(at_least_ten);
    /// # let _ = parameters;
    /// ```
    pub fn negotiate(function: impl Fn(u16) -> u16 + Send + Sync + 'static) -> Self {
        Heartbeat(Choice::Function(Arc::new(function)))
    }

    /// What to send in `connection.tune-ok`, given what `connection.tune` proposed.
    pub(crate) fn choose(&self, servers: u16) -> u16 {
        match &self.0 {
            Choice::Servers => servers,
            Choice::Seconds(seconds) => *seconds,
            Choice::Function(function) => function(servers),
        }
    }
}

impl From<u16> for Heartbeat {
    fn from(seconds: u16) -> Self {
        Heartbeat(Choice::Seconds(seconds))
    }
}

impl From<Option<u16>> for Heartbeat {
    fn from(seconds: Option<u16>) -> Self {
        Heartbeat(seconds.map_or(Choice::Servers, Choice::Seconds))
    }
}

/// As it is given: `None`, `Some(60)`, or `negotiate(..)`.
impl fmt::Debug for Heartbeat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Choice::Servers => f.write_str("None"),
            Choice::Seconds(seconds) => f.debug_tuple("Some").field(seconds).finish(),
            Choice::Function(_) => f.write_str("negotiate(..)"),
        }
    }
}

/// A function equals only itself and its clones.
impl PartialEq for Heartbeat {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Choice::Servers, Choice::Servers) => true,
            (Choice::Seconds(one), Choice::Seconds(another)) => one == another,
            (Choice::Function(one), Choice::Function(another)) => {
                std::ptr::addr_eq(Arc::as_ptr(one), Arc::as_ptr(another))
            }
            _ => false,
        }
    }
}

impl Eq for Heartbeat {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_given_overrides_the_servers() {
        assert_eq!(Heartbeat::from(30).choose(60), 30);
        assert_eq!(Heartbeat::from(90).choose(60), 90);
        assert_eq!(Heartbeat::from(0).choose(60), 0);
        assert_eq!(Heartbeat::from(None).choose(60), 60);
        assert_eq!(Heartbeat::from(Some(7)).choose(60), 7);
        assert_eq!(Heartbeat::negotiate(|server| server / 2).choose(60), 30);
    }

    #[test]
    fn debug_shows_what_was_given() {
        let shown = |heartbeat: Heartbeat| format!("{heartbeat:?}");
        assert_eq!(shown(None.into()), "None");
        assert_eq!(shown(60.into()), "Some(60)");
        assert_eq!(
            shown(Heartbeat::negotiate(|server| server)),
            "negotiate(..)"
        );
    }
}
