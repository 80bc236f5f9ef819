//! The locks, the threads and the clock that everything here is made of: the standard library's. When the model checker
//! runs (see `model.rs`), the same code gets the checker's.

#[cfg(all(test, shuttle))]
pub(crate) use super::model::sync::{thread, thread_local, Condvar, Instant, Mutex, MutexGuard};
#[cfg(not(all(test, shuttle)))]
pub(crate) use std::{
    sync::{Condvar, Mutex, MutexGuard},
    thread, thread_local,
    time::Instant,
};
