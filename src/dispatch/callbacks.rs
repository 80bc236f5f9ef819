//! The program's callbacks while they are not running.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use super::timers::Timers;
use super::Owner;
use crate::error::{Result, CANCEL_CAUSES};
use crate::escaped::Escaped;
use crate::io::link::{Link, Shared};
use crate::io::sync::lock;
use crate::protocol::received::Received;
use crate::stop::Stop;
use crate::{BasicProperties, Deliver, Return, ReturnedMessage};

pub(crate) type MessageCallback<C> =
    Box<dyn FnMut(&C, Deliver, BasicProperties, Vec<u8>) -> Result<()> + Send>;
pub(crate) type ReturnCallback<C> =
    Box<dyn FnMut(&C, Return, BasicProperties, Vec<u8>) -> Result<()> + Send>;
pub(crate) type CancelCallback<C> = Box<dyn FnMut(&C, String) -> Result<()> + Send>;
type BlockedCallback = Box<dyn FnMut(&str) -> Result<()> + Send>;
type UnblockedCallback = Box<dyn FnMut() -> Result<()> + Send>;

/// The callbacks of one kind. They run one after another, without the list's lock, and may add to it.
struct CallbackList<F>(Mutex<Vec<Arc<Mutex<F>>>>);

impl<F> CallbackList<F> {
    fn new() -> Self {
        CallbackList(Mutex::new(Vec::new()))
    }

    fn add(&self, callback: F) {
        lock(&self.0).push(Arc::new(Mutex::new(callback)));
    }

    fn run(&self, mut run: impl FnMut(&mut F) -> Result<()>) -> Result<()> {
        let callbacks = lock(&self.0).clone();
        callbacks
            .iter()
            .try_for_each(|callback| run(&mut lock(callback)))
    }

    /// Drops all, without the lock: what they captured is the program's own.
    fn clear(&self) {
        let callbacks = std::mem::take(&mut *lock(&self.0));
        drop(callbacks);
    }
}

/// What a connection keeps for dispatch: its own callbacks, its timers, and the way to the handles of its channels.
pub(crate) struct ConnectionCallbacks<O> {
    pub(crate) timers: Timers,
    blocked: CallbackList<BlockedCallback>,
    unblocked: CallbackList<UnblockedCallback>,
    /// The handles of the channels, by their slot in the session.
    owners: Mutex<Vec<Option<Weak<O>>>>,
    /// What stops the whole connection: that of the supervisor that opened it.
    pub(crate) stop: OnceLock<Stop>,
}

impl<O: Owner> ConnectionCallbacks<O> {
    pub(crate) fn new() -> Self {
        ConnectionCallbacks {
            timers: Timers::default(),
            blocked: CallbackList::new(),
            unblocked: CallbackList::new(),
            owners: Mutex::default(),
            stop: OnceLock::new(),
        }
    }

    pub(crate) fn add_blocked(&self, callback: BlockedCallback) {
        self.blocked.add(callback);
    }

    pub(crate) fn add_unblocked(&self, callback: UnblockedCallback) {
        self.unblocked.add(callback);
    }

    pub(super) fn run_blocked(&self, reason: &str) -> Result<()> {
        self.blocked.run(|callback| callback(reason))
    }

    pub(super) fn run_unblocked(&self) -> Result<()> {
        self.unblocked.run(|callback| callback())
    }

    /// This handle owns the channel in this slot, in place of the one that had the slot before.
    pub(crate) fn set_owner(&self, slot: usize, owner: Weak<O>) {
        let mut owners = lock(&self.owners);
        if owners.len() <= slot {
            owners.resize(slot + 1, None);
        }
        owners[slot] = Some(owner);
    }

    /// The handle of the channel in this slot, if there still is one.
    pub(super) fn owner(&self, slot: usize) -> Option<Arc<O>> {
        lock(&self.owners).get(slot)?.as_ref()?.upgrade()
    }

    /// Drops what will not run any more, if the connection has ended. Callbacks often hold clones of their channel or
    /// connection, which would keep everything alive for ever. A channel that has events left drops its callbacks when
    /// these are delivered. Not to be called under a lock.
    pub(crate) fn drop_if_ended(&self, link: &Link) {
        // In a forked child what the callbacks hold is the parent's; dropping it might report an end that did not happen.
        if link.notice_fork() || link.lock().session.end().is_none() {
            return;
        }
        let idle = link.lock().session.idle_channels();
        let owners: Vec<_> = idle
            .into_iter()
            .filter_map(|slot| self.owner(slot))
            .collect();
        for owner in owners {
            owner.callbacks().clear();
        }
        self.timers.clear();
        self.blocked.clear();
        self.unblocked.clear();
    }
}

/// The callbacks of a channel whose handle is a `C`.
pub(crate) struct ChannelCallbacks<C> {
    messages: Mutex<MessageCallbacks<C>>,
    /// Changes whenever a consumer's callback is removed.
    version: AtomicU64,
    returned: CallbackList<ReturnCallback<C>>,
    cancelled: CallbackList<CancelCallback<C>>,
}

struct MessageCallbacks<C> {
    /// In the order of their consumer tags.
    consumers: Vec<Registered<C>>,
    last_id: u64,
}

/// A consumer's callback, unless it is being run.
pub(crate) struct Registered<C> {
    consumer_tag: String,
    id: u64,
    callback: Option<MessageCallback<C>>,
}

impl<C> MessageCallbacks<C> {
    /// Where the callback of a consumer is, or belongs.
    fn find(&self, consumer_tag: &str) -> std::result::Result<usize, usize> {
        self.consumers
            .binary_search_by(|registered| registered.consumer_tag.as_str().cmp(consumer_tag))
    }

    fn get(&mut self, consumer_tag: &str) -> Option<&mut Registered<C>> {
        let index = self.find(consumer_tag).ok()?;
        Some(&mut self.consumers[index])
    }
}

impl<C> ChannelCallbacks<C> {
    pub(crate) fn new() -> Self {
        ChannelCallbacks {
            messages: Mutex::new(MessageCallbacks {
                consumers: Vec::new(),
                last_id: 0,
            }),
            version: AtomicU64::new(0),
            returned: CallbackList::new(),
            cancelled: CallbackList::new(),
        }
    }

    /// A number that no other consumer of this channel has.
    pub(crate) fn new_consumer_id(&self) -> u64 {
        let mut messages = lock(&self.messages);
        messages.last_id += 1;
        messages.last_id
    }

    pub(crate) fn add_consumer(&self, consumer_tag: &str, id: u64, callback: MessageCallback<C>) {
        let mut messages = lock(&self.messages);
        let registered = Registered {
            consumer_tag: consumer_tag.to_owned(),
            id,
            callback: Some(callback),
        };
        match messages.find(consumer_tag) {
            Ok(index) => messages.consumers[index] = registered,
            Err(index) => messages.consumers.insert(index, registered),
        }
    }

    /// Removes a consumer from the channel, and its callback, which is returned to be dropped without a lock.
    #[must_use]
    pub(crate) fn remove_consumer(
        &self,
        shared: &mut Shared,
        slot: usize,
        consumer_tag: &str,
        id: u64,
    ) -> Option<Registered<C>> {
        if let Some(channel) = shared.session.channel(slot) {
            channel.consumers.remove(consumer_tag, id);
        }
        let mut messages = lock(&self.messages);
        let index = messages.find(consumer_tag).ok()?;
        let is_this = messages.consumers[index].id == id;
        let registered = is_this.then(|| messages.consumers.remove(index));
        self.version.fetch_add(1, Ordering::AcqRel);
        registered
    }

    pub(crate) fn add_returned(&self, callback: ReturnCallback<C>) {
        self.returned.add(callback);
    }

    pub(crate) fn add_cancelled(&self, callback: CancelCallback<C>) {
        self.cancelled.add(callback);
    }

    /// Drops all callbacks, without the lock: what they captured is the program's own.
    pub(crate) fn clear(&self) {
        let consumers = std::mem::take(&mut lock(&self.messages).consumers);
        self.version.fetch_add(1, Ordering::AcqRel);
        drop(consumers);
        self.returned.clear();
        self.cancelled.clear();
    }

    /// For a turn: runs consumers' callbacks.
    pub(super) fn runner(&self) -> Runner<'_, C> {
        Runner {
            callbacks: self,
            taken: None,
        }
    }

    pub(super) fn run_returned(&self, channel: &C, returned: &ReturnedMessage) -> Result<()> {
        self.returned.run(|callback| {
            let ReturnedMessage {
                method,
                properties,
                body,
            } = returned.clone();
            callback(channel, method, properties, body)
        })
    }

    /// The broker has cancelled a consumer: it is forgotten now, and reported.
    pub(super) fn run_cancelled(
        &self,
        link: &Link,
        slot: usize,
        channel: &C,
        consumer_tag: &str,
    ) -> Result<()> {
        let mut shared = link.lock();
        let Some(cancelled) = shared.session.report_cancelled(slot, consumer_tag) else {
            return Ok(());
        };
        let registered = cancelled
            .consumer
            .and_then(|id| self.remove_consumer(&mut shared, slot, consumer_tag, id));
        drop(shared);
        drop(registered);
        let (number, tag) = (cancelled.channel, Escaped(consumer_tag));
        match cancelled.held {
            Some(held) => log::warn!(
                "channel {number}: the broker cancelled the consumer '{tag}': {CANCEL_CAUSES} (message {held} had not been acknowledged)"
            ),
            None => log::warn!("channel {number}: the broker cancelled the consumer '{tag}': {CANCEL_CAUSES}"),
        }
        self.cancelled
            .run(|callback| callback(channel, consumer_tag.to_owned()))
    }
}

/// A consumer's callback, taken to run it.
struct Taken<C> {
    consumer_tag: String,
    version: u64,
    id: u64,
    callback: MessageCallback<C>,
}

/// Runs the callbacks of a channel's consumers. It keeps the one that it ran last, so that many messages for one consumer
/// need no look into the list.
pub(super) struct Runner<'a, C> {
    callbacks: &'a ChannelCallbacks<C>,
    taken: Option<Taken<C>>,
}

impl<C> Runner<'_, C> {
    /// Takes the callback of this consumer. Returns that of another one which is gone, to be dropped without a lock.
    #[inline]
    pub(super) fn choose(&mut self, consumer_tag: &str) -> Option<MessageCallback<C>> {
        let version = self.callbacks.version.load(Ordering::Acquire);
        let is_current =
            |taken: &Taken<C>| taken.version == version && taken.consumer_tag == consumer_tag;
        if self.taken.as_ref().is_some_and(is_current) {
            return None;
        }
        let mut messages = lock(&self.callbacks.messages);
        let spent = self
            .taken
            .take()
            .and_then(|taken| put_back(&mut messages, taken));
        if let Some(registered) = messages.get(consumer_tag) {
            if let Some(callback) = registered.callback.take() {
                self.taken = Some(Taken {
                    consumer_tag: consumer_tag.to_owned(),
                    version: self.callbacks.version.load(Ordering::Acquire),
                    id: registered.id,
                    callback,
                });
            }
        }
        spent
    }

    /// The id of the consumer that was chosen, if it is there.
    pub(super) fn consumer(&self) -> Option<u64> {
        self.taken.as_ref().map(|taken| taken.id)
    }

    #[inline]
    pub(super) fn run(&mut self, channel: &C, message: Received) -> Result<()> {
        let (method, properties, body) = message.parts();
        match &mut self.taken {
            Some(taken) => (taken.callback)(channel, method, properties.into(), body),
            None => {
                log::warn!(
                    "a message came for {:?}, which is no consumer any more",
                    method.consumer_tag
                );
                Ok(())
            }
        }
    }
}

/// Returns the callback if its consumer is gone.
fn put_back<C>(messages: &mut MessageCallbacks<C>, taken: Taken<C>) -> Option<MessageCallback<C>> {
    match messages.get(&taken.consumer_tag) {
        Some(registered) if registered.id == taken.id => {
            registered.callback = Some(taken.callback);
            None
        }
        _ => Some(taken.callback),
    }
}

/// Also when a callback panics.
impl<C> Drop for Runner<'_, C> {
    fn drop(&mut self) {
        if let Some(taken) = self.taken.take() {
            let spent = put_back(&mut lock(&self.callbacks.messages), taken);
            drop(spent);
        }
    }
}
