//! The only place that touches sockets, threads and clocks, and the only one that waits.

pub(crate) mod backlog;
pub(crate) mod connect;
mod deadline;
pub(crate) mod exit;
#[cfg(all(test, shuttle))]
mod model;
pub(crate) mod reader;
pub(crate) mod stream;
pub(crate) mod sync;
#[cfg(feature = "tls")]
pub(crate) mod tls;
pub(crate) mod wait;
pub(crate) mod writer;
