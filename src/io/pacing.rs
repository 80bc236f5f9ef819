//! When gathered bytes are written.
//!
//! What nobody waits for is written by the writer thread, a little later than it could be: so one system call takes all that
//! comes meanwhile, and nobody has to wake a thread that is awake. This type decides; it neither locks nor asks the time.

use std::time::Duration;

use super::sync::LONG;

/// A publisher that has gathered this much writes it itself, if nobody is writing.
pub(super) const WRITE_AT: usize = 48 * 1024;

/// How long bytes may gather while there is traffic: the writer thread looks for them this often.
const GATHER: Duration = Duration::from_micros(500);

/// The same while others write all there is, as a consumer does with its acks: then each look costs them time.
const GATHER_AT_MOST: Duration = Duration::from_millis(2);

/// After this many looks without traffic the writer thread sleeps until it is woken.
const IDLE_LOOKS: u32 = 5;

/// How long the writer thread sleeps while another thread writes. That one wakes it if something is left.
const WHILE_OTHERS_WRITE: Duration = Duration::from_secs(2);

/// What the writer thread sees when it looks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    /// Nothing is to be written.
    pub(super) is_idle: bool,
    /// It must not wait: a thread waits for it, it is the rest of a write, or the connection ends.
    pub(super) is_urgent: bool,
    /// Nobody else is writing.
    pub(super) has_half: bool,
    /// Something was gathered since the last look, even if others have written it.
    pub(super) has_traffic: bool,
    pub(super) since_write: Duration,
    /// When a heartbeat is due, if nothing else is sent.
    pub(super) heartbeat_in: Option<Duration>,
}

/// What the writer thread does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Write,
    /// Look again after this long; whoever gathers need not wake it.
    Look(Duration),
    /// Sleep for this long, or until woken.
    Sleep(Duration),
}

#[derive(Debug)]
pub(super) struct Pacing {
    idle_looks: u32,
    pause: Duration,
}

impl Pacing {
    pub(super) fn new() -> Self {
        Pacing {
            idle_looks: IDLE_LOOKS,
            pause: GATHER,
        }
    }

    pub(super) fn next(&mut self, look: Look) -> Next {
        if look.has_traffic {
            self.idle_looks = 0;
        }
        if look.is_idle {
            if self.idle_looks >= IDLE_LOOKS {
                return Next::Sleep(look.heartbeat_in.unwrap_or(LONG));
            }
            self.idle_looks += 1;
            self.pause = (self.pause * 2).min(GATHER_AT_MOST);
            return Next::Look(self.pause);
        }
        if !look.has_half {
            return Next::Sleep(WHILE_OTHERS_WRITE);
        }
        if look.is_urgent || look.since_write >= GATHER {
            self.pause = GATHER;
            return Next::Write;
        }
        Next::Look(GATHER - look.since_write)
    }
}
