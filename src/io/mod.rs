//! The only place that touches sockets, threads and clocks, and the only one that waits.

pub(crate) mod backlog;
pub(crate) mod close;
pub(crate) mod connect;
mod deadline;
mod end;
pub(crate) mod exit;
pub(crate) mod fork;
pub(crate) mod guarded;
pub(crate) mod link;
#[cfg(all(test, shuttle))]
pub(crate) mod model;
mod pacing;
pub(crate) mod reader;
mod receive;
mod send;
pub(crate) mod stream;
pub(crate) mod sync;
#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;
mod threads;
#[cfg(feature = "tls")]
pub(crate) mod tls;
mod wait;
mod write_half;
pub(crate) mod writer;
