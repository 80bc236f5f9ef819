//! The calls of an RPC client, and their replies.

use std::collections::HashMap;

use super::size::size_of_properties;
use crate::{BasicProperties, ReturnedMessage, ShortString};

/// What has become of a call.
#[derive(Debug)]
pub(crate) enum CallOutcome {
    Reply(BasicProperties, Vec<u8>),
    /// No queue took the request.
    Returned(ReturnedMessage),
}

impl CallOutcome {
    /// How many bytes of memory this takes until its caller takes it.
    fn size(&self) -> usize {
        let content = match self {
            CallOutcome::Reply(properties, body) => size_of_properties(properties) + body.len(),
            CallOutcome::Returned(returned) => returned.size(),
        };
        size_of::<CallOutcome>() + content
    }
}

/// The calls that were made on one channel and have not ended.
#[derive(Debug)]
pub(crate) struct Replies {
    /// Distinguishes this client's correlation ids from all others'.
    prefix: String,
    next: u64,
    calls: HashMap<u64, Option<CallOutcome>>,
    /// Replies that no call waited for.
    unexpected: u64,
}

impl Replies {
    /// `prefix` must be this client's alone.
    pub(crate) fn new(prefix: String) -> Self {
        Replies {
            prefix,
            next: 0,
            calls: HashMap::new(),
            unexpected: 0,
        }
    }

    /// Notes a call; returns its number and its correlation id.
    pub(crate) fn begin(&mut self) -> (u64, String) {
        self.next += 1;
        self.calls.insert(self.next, None);
        (self.next, format!("{}-{}", self.prefix, self.next))
    }

    /// Notes what has become of the call with this correlation id; returns how many bytes are kept for it. Of several outcomes
    /// the first counts. What belongs to no call is dropped.
    pub(super) fn record(&mut self, id: Option<&ShortString>, outcome: CallOutcome) -> usize {
        let number = id.and_then(|id| self.number(id));
        match number.and_then(|number| self.calls.get_mut(&number)) {
            Some(open @ None) => open.insert(outcome).size(),
            _ => {
                if let CallOutcome::Reply(..) = outcome {
                    self.unexpected += 1;
                }
                0
            }
        }
    }

    fn number(&self, id: &ShortString) -> Option<u64> {
        let id = std::str::from_utf8(id.as_bytes()).ok()?;
        let number = id.strip_prefix(self.prefix.as_str())?.strip_prefix('-')?;
        number.parse().ok()
    }

    /// Whether it is known what has become of a call.
    pub(crate) fn is_known(&self, call: u64) -> bool {
        matches!(self.calls.get(&call), Some(Some(_)))
    }

    /// Ends a call; returns its outcome, if that has come, and how many bytes were kept for it.
    pub(super) fn end(&mut self, call: u64) -> Option<(CallOutcome, usize)> {
        let outcome = self.calls.remove(&call)??;
        let size = outcome.size();
        Some((outcome, size))
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.calls.len()
    }

    pub(crate) fn unexpected(&self) -> u64 {
        self.unexpected
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(body: &str) -> CallOutcome {
        CallOutcome::Reply(BasicProperties::new(), body.into())
    }

    fn record(replies: &mut Replies, id: &str, body: &str) -> usize {
        replies.record(Some(&id.into()), reply(body))
    }

    #[test]
    fn replies_find_their_calls_in_any_order() {
        let mut replies = Replies::new("p".into());
        let (first, first_id) = replies.begin();
        let (second, second_id) = replies.begin();
        assert_ne!(first_id, second_id);
        assert!(record(&mut replies, &second_id, "two") > 0);
        assert!(!replies.is_known(first) && replies.is_known(second));
        record(&mut replies, &first_id, "one");
        for (call, expected) in [(first, "one"), (second, "two")] {
            let Some((CallOutcome::Reply(_, body), _)) = replies.end(call) else {
                panic!("no reply to {call}");
            };
            assert_eq!(body, expected.as_bytes());
        }
        assert_eq!((replies.in_flight(), replies.unexpected()), (0, 0));
    }

    #[test]
    fn what_no_call_waits_for_is_dropped_and_counted() {
        let mut replies = Replies::new("p".into());
        let (call, id) = replies.begin();
        let garbage = [
            "",
            "p",
            "p-",
            "p-0",
            "p-2",
            "p--1",
            "q-1",
            "p-1x",
            "1",
            "p-99999999999999999999",
        ];
        for id in garbage {
            assert_eq!(record(&mut replies, id, "garbage"), 0, "{id:?}");
        }
        assert_eq!(replies.record(None, reply("none")), 0);
        let bytes = ShortString::from(&b"p-\xff"[..]);
        assert_eq!(replies.record(Some(&bytes), reply("bytes")), 0);
        assert_eq!(replies.unexpected(), garbage.len() as u64 + 2);
        // A second reply to the same call, and one that comes after its end.
        record(&mut replies, &id, "first");
        record(&mut replies, &id, "second");
        let Some((CallOutcome::Reply(_, body), _)) = replies.end(call) else {
            panic!("no reply");
        };
        assert_eq!(body, b"first");
        record(&mut replies, &id, "late");
        assert_eq!(replies.unexpected(), garbage.len() as u64 + 4);
        assert!(replies.end(call).is_none());
    }

    #[test]
    fn what_is_kept_is_what_is_given_back() {
        let mut replies = Replies::new("p".into());
        let (call, id) = replies.begin();
        let kept = record(&mut replies, &id, &"x".repeat(1000));
        assert_eq!(kept, size_of::<CallOutcome>() + 1000);
        assert_eq!(replies.in_flight(), 1);
        assert_eq!(replies.end(call).map(|(_, size)| size), Some(kept));
    }
}
