//! Errors of others: what caused one of ours, and what comes out of a program's callbacks.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use super::Error;
use crate::escaped::Escaped;

/// The error that caused one of ours. It is shared, since ours can be cloned.
#[derive(Clone, Default)]
pub(crate) struct Source(Option<Arc<dyn StdError + Send + Sync>>);

impl Source {
    pub(crate) fn new(error: impl StdError + Send + Sync + 'static) -> Self {
        Source(Some(Arc::new(error)))
    }

    pub(crate) fn get(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.0 {
            Some(error) => Some(&**error),
            None => None,
        }
    }
}

impl<E: StdError + Send + Sync + 'static> From<Arc<E>> for Source {
    fn from(error: Arc<E>) -> Self {
        Source(Some(error))
    }
}

/// Its text, escaped and cut: it may repeat the peer's words.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(error) => write!(f, "{}", Escaped(&error.to_string())),
            None => f.write_str("None"),
        }
    }
}

/// Foreign errors cannot be compared. Their text stands beside them.
impl PartialEq for Source {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Source {}

impl Error {
    /// Wraps an error of the program's own, so that a callback can return it:
    /// `serde_json::from_slice(&body).map_err(Error::other)?`.
    ///
    /// The error stays reachable, by [`Error::Other`] and by [`source`](std::error::Error::source). An [`Error`] of this crate
    /// that comes back this way, out of a `Box<dyn Error>` for instance, is not wrapped.
    ///
    /// The standard errors that a callback meets most often need no call: `?` converts those of input and output,
    /// of UTF-8, of reading numbers, and boxed errors:
    ///
    /// ```
    /// # fn body() -> Vec<u8> { b"42".to_vec() }
    /// fn callback() -> haypile::Result<()> {
    ///     let number: u64 = String::from_utf8(body())?.parse()?;
    ///     std::fs::create_dir_all(std::env::temp_dir())?;
    ///     Ok(println!("{number}"))
    /// }
    /// # callback().unwrap();
    /// ```
    pub fn other(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        match error.into().downcast::<Error>() {
            Ok(error) => *error,
            Err(error) => Error::Other(Arc::from(error)),
        }
    }
}

impl From<Box<dyn StdError + Send + Sync>> for Error {
    fn from(error: Box<dyn StdError + Send + Sync>) -> Self {
        Error::other(error)
    }
}

/// A boxed error that may not leave its thread cannot be kept, since an [`Error`] may: the texts of it and of its sources are kept. An
/// [`Error`] of this crate in the box comes out as it is.
impl From<Box<dyn StdError>> for Error {
    fn from(error: Box<dyn StdError>) -> Self {
        match error.downcast::<Error>() {
            Ok(error) => *error,
            Err(error) => Error::Other(Arc::new(Texts::of(&*error))),
        }
    }
}

/// What an error and its sources said.
#[derive(Debug)]
struct Texts {
    text: String,
    source: Option<Box<Texts>>,
}

impl Texts {
    /// How many sources of an error are looked at: a chain may be a circle.
    const DEPTH: usize = 32;

    fn of(error: &dyn StdError) -> Self {
        let mut texts = Vec::new();
        let mut next = Some(error);
        while let Some(error) = next.filter(|_| texts.len() < Self::DEPTH) {
            texts.push(error.to_string());
            next = error.source();
        }
        let mut texts = texts.into_iter().rev();
        let last = Texts {
            text: texts.next().unwrap_or_default(),
            source: None,
        };
        texts.fold(last, |source, text| Texts {
            text,
            source: Some(Box::new(source)),
        })
    }
}

impl fmt::Display for Texts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl StdError for Texts {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|source| &**source as _)
    }
}

/// The standard errors that a callback meets with `?`.
macro_rules! from_standard {
    ($($error:ty,)*) => {$(
        impl From<$error> for Error {
            fn from(error: $error) -> Self {
                Error::other(error)
            }
        }
    )*};
}

from_standard! {
    std::io::Error,
    std::fmt::Error,
    std::str::Utf8Error,
    std::string::FromUtf8Error,
    std::str::ParseBoolError,
    std::char::ParseCharError,
    std::num::ParseIntError,
    std::num::ParseFloatError,
    std::num::TryFromIntError,
    std::net::AddrParseError,
    std::env::VarError,
    std::time::SystemTimeError,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[derive(Debug)]
    struct CannotSave(Box<dyn StdError + Send + Sync>);

    impl fmt::Display for CannotSave {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("cannot save order 7")
        }
    }

    impl StdError for CannotSave {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            Some(&*self.0)
        }
    }

    /// What an error and its sources say.
    fn chain(error: &Error) -> Vec<String> {
        let mut texts = Vec::new();
        let mut next = error.source();
        while let Some(error) = next {
            texts.push(error.to_string());
            next = error.source();
        }
        texts
    }

    #[test]
    fn a_foreign_error_keeps_its_sources() {
        let error = Error::other(CannotSave(Box::new(io::Error::other("disk full"))));
        assert_eq!(error.to_string(), "cannot save order 7");
        assert_eq!(chain(&error), ["cannot save order 7", "disk full"]);
        let own = error.source().and_then(|own| own.downcast_ref());
        assert!(matches!(own, Some(CannotSave(_))));
        assert!(!error.is_retryable());
        let again = error.clone();
        assert_eq!(chain(&again).len(), 2);
        // What a `main` that returns it prints.
        assert_eq!(
            format!("{error:?}"),
            "Other: cannot save order 7: disk full"
        );
    }

    #[test]
    fn an_error_has_no_debug_output_without_end() {
        #[derive(Debug)]
        struct Endless;
        impl fmt::Display for Endless {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("endless")
            }
        }
        impl StdError for Endless {
            fn source(&self) -> Option<&(dyn StdError + 'static)> {
                Some(self)
            }
        }
        assert_eq!(format!("{:?}", Error::other(Endless)), "Other: endless");
    }

    #[test]
    fn a_box_that_stays_on_its_thread_has_a_way_in() {
        fn save() -> Result<(), Box<dyn StdError>> {
            Err(CannotSave(Box::new(io::Error::other("disk full"))))?
        }
        let callback = || -> crate::Result<()> { Ok(save()?) };
        let error = callback().unwrap_err();
        assert_eq!(error.to_string(), "cannot save order 7");
        assert_eq!(chain(&error), ["cannot save order 7", "disk full"]);
    }

    #[test]
    fn an_error_of_this_crate_comes_out_of_a_box_as_it_was() {
        let lost = || Error::Timeout {
            waiting_for: "basic.qos-ok",
            after: std::time::Duration::from_secs(3),
            channel: Some(1),
            channel_closed: false,
            blocked: None,
        };
        let boxed: Box<dyn StdError + Send + Sync> = Box::new(lost());
        let errors = [
            Error::from(boxed),
            Error::from(Box::new(lost()) as Box<dyn StdError>),
            Error::other(lost()),
        ];
        for error in errors {
            assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
        }
        // Inside another error, it decides whether to try again.
        let wrapped = Error::other(CannotSave(Box::new(lost())));
        assert!(matches!(wrapped, Error::Other(_)));
        assert!(wrapped.is_retryable());
    }

    #[test]
    fn standard_errors_need_no_call() {
        fn number(body: &[u8]) -> crate::Result<u8> {
            let text = std::str::from_utf8(body)?;
            Ok(u8::try_from(text.parse::<i64>()?)?)
        }
        assert_eq!(number(b"7").unwrap(), 7);
        for body in [&b"\xff"[..], b"x", b"1000"] {
            let error = number(body).unwrap_err();
            assert!(matches!(error, Error::Other(_)) && error.source().is_some());
        }
        let missing = || -> crate::Result<Vec<u8>> { Ok(std::fs::read("/no/such/file")?) };
        let error = missing().unwrap_err();
        let source = error.source().and_then(|source| source.downcast_ref());
        let kind = source.map(io::Error::kind);
        assert_eq!(kind, Some(io::ErrorKind::NotFound));
    }
}
