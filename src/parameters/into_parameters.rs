//! What [`Connection::open`](crate::Connection::open) takes: parameters, a URL, or several of them.

use std::borrow::Cow;

use super::ConnectionParameters;
use crate::error::{Error, Result};

/// What a connection can be opened with: parameters, an AMQP URL, or several of either, which are tried in order.
///
/// ```
/// use haypile::{ConnectionParameters, IntoParameters};
///
/// let one = "amqp://localhost".into_parameters()?;
/// assert_eq!(one, [ConnectionParameters::default()]);
/// let two = ["amqp://first", "amqp://second"].into_parameters()?;
/// assert_eq!(two.len(), 2);
/// # Ok::<(), haypile::Error>(())
/// ```
///
/// The trait is not meant to be implemented elsewhere.
pub trait IntoParameters: sealed::Sealed {
    /// The parameters, at least one, each of them checked.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParameter`] or [`Error::ShortStringTooLong`] for a URL that is none, a value out of range, or
    /// an empty list.
    fn into_parameters(self) -> Result<Vec<ConnectionParameters>>;
}

mod sealed {
    use super::{ConnectionParameters, Cow};

    pub trait Sealed {}
    impl Sealed for ConnectionParameters {}
    impl Sealed for &ConnectionParameters {}
    impl Sealed for &str {}
    impl Sealed for String {}
    impl Sealed for &String {}
    impl Sealed for Cow<'_, str> {}
    impl<T: Sealed, const N: usize> Sealed for [T; N] {}
    impl<T: Sealed> Sealed for Vec<T> {}
    impl<T: Sealed> Sealed for &[T] {}
    impl<T: Sealed, const N: usize> Sealed for &[T; N] {}
    impl<T: Sealed> Sealed for &Vec<T> {}
}

impl IntoParameters for ConnectionParameters {
    fn into_parameters(self) -> Result<Vec<ConnectionParameters>> {
        self.validate()?;
        Ok(vec![self])
    }
}

impl IntoParameters for &ConnectionParameters {
    fn into_parameters(self) -> Result<Vec<ConnectionParameters>> {
        self.clone().into_parameters()
    }
}

impl<T: IntoParameters, const N: usize> IntoParameters for [T; N] {
    fn into_parameters(self) -> Result<Vec<ConnectionParameters>> {
        collect(self)
    }
}

impl<T: IntoParameters> IntoParameters for Vec<T> {
    fn into_parameters(self) -> Result<Vec<ConnectionParameters>> {
        collect(self)
    }
}

impl<T: IntoParameters + Clone> IntoParameters for &[T] {
    fn into_parameters(self) -> Result<Vec<ConnectionParameters>> {
        collect(self.iter().cloned())
    }
}

impl<T: IntoParameters + Clone, const N: usize> IntoParameters for &[T; N] {
    fn into_parameters(self) -> Result<Vec<ConnectionParameters>> {
        collect(self.iter().cloned())
    }
}

impl<T: IntoParameters + Clone> IntoParameters for &Vec<T> {
    fn into_parameters(self) -> Result<Vec<ConnectionParameters>> {
        collect(self.iter().cloned())
    }
}

fn collect<T: IntoParameters>(
    several: impl IntoIterator<Item = T>,
) -> Result<Vec<ConnectionParameters>> {
    let mut all = Vec::new();
    for one in several {
        all.append(&mut one.into_parameters()?);
    }
    if all.is_empty() {
        return Err(Error::invalid(
            "parameters",
            "an empty list",
            "at least one is expected",
        ));
    }
    Ok(all)
}
