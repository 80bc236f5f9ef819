//! The end of a thread, with connections that only note what is asked of them.

use super::*;
use std::sync::mpsc;
use std::thread::ThreadId;

/// What happened to a connection, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Event {
    Looked,
    Asked(Ending),
    Waited(Instant),
    Done,
}

type Events = Arc<Mutex<Vec<(Event, Instant)>>>;

/// A connection that has something unhandled when one thread ends, and no other: tests run side by side.
struct Fake {
    of: Mutex<Option<ThreadId>>,
    process: u32,
    has_unhandled: bool,
    events: Events,
    /// The wait lasts until this is dropped.
    held: Mutex<Option<mpsc::Receiver<()>>>,
    /// Whether the threads that asked and waited were the crate's own.
    by_own: Mutex<Vec<bool>>,
}

impl Fake {
    fn registered(change: impl FnOnce(&mut Fake)) -> Arc<Fake> {
        let mut fake = Fake {
            of: Mutex::default(),
            process: std::process::id(),
            has_unhandled: true,
            events: Events::default(),
            held: Mutex::default(),
            by_own: Mutex::default(),
        };
        change(&mut fake);
        let fake = Arc::new(fake);
        let known: Arc<dyn AtExit> = Arc::clone(&fake) as _;
        register(Arc::downgrade(&known));
        fake
    }

    fn note(&self, event: Event) {
        self.events.lock().unwrap().push((event, Instant::now()));
    }

    fn note_thread(&self) {
        self.by_own.lock().unwrap().push(is_exempt());
    }

    fn events(&self) -> Vec<(Event, Instant)> {
        self.events.lock().unwrap().clone()
    }

    fn ending(&self) -> Option<Ending> {
        self.events()
            .into_iter()
            .find_map(|(event, _)| match event {
                Event::Asked(ending) => Some(ending),
                _ => None,
            })
    }
}

impl AtExit for Fake {
    fn process(&self) -> u32 {
        self.process
    }

    fn may_have_unhandled(&self) -> bool {
        let is_its_thread = *self.of.lock().unwrap() == Some(thread::current().id());
        if is_its_thread {
            self.note(Event::Looked);
        }
        is_its_thread && self.has_unhandled
    }

    fn ask_for_unhandled(self: Arc<Self>, ending: Ending) -> PendingReplies {
        self.note(Event::Asked(ending));
        self.note_thread();
        Box::new(move |deadline| {
            if let Some(held) = self.held.lock().unwrap().take() {
                let _ = held.recv();
            }
            self.note(Event::Waited(deadline));
            self.note_thread();
            thread::sleep(Duration::from_millis(20));
            self.note(Event::Done);
        })
    }
}

/// Runs this on a thread at whose end these connections have something unhandled. Returns when the thread has ended.
fn at_the_end_of(name: &str, fakes: &[&Arc<Fake>], run: impl FnOnce() + Send + 'static) {
    let fakes: Vec<_> = fakes.iter().map(|fake| Arc::clone(fake)).collect();
    let thread = thread::Builder::new().name(name.to_owned());
    let run = move || {
        for fake in &fakes {
            *fake.of.lock().unwrap() = Some(thread::current().id());
        }
        run();
    };
    thread.spawn(run).unwrap().join().unwrap();
}

#[test]
fn a_thread_ends_when_the_broker_has_handled_what_it_sent() {
    let fake = Fake::registered(|_| {});
    at_the_end_of("some", &[&fake], || assert!(guard_thread()));
    let ended = Instant::now();
    let events = fake.events();
    let [(Event::Looked, looked), (Event::Asked(Ending::Thread), asked), (Event::Waited(deadline), _), (Event::Done, done)] =
        events[..]
    else {
        panic!("{events:?}");
    };
    assert!(done <= ended);
    let limit = Duration::from_secs(1);
    assert!(deadline >= looked + limit && deadline <= asked + limit);
    assert_eq!(*fake.by_own.lock().unwrap(), [true, true]);
}

#[test]
fn what_ends_the_process_waits_longer() {
    let ways: [(&str, fn()); 2] = [
        ("main", || assert!(guard_thread())),
        ("some", begin_callbacks),
    ];
    for (name, way) in ways {
        let fake = Fake::registered(|_| {});
        at_the_end_of(name, &[&fake], way);
        let events = fake.events();
        let [(Event::Looked, looked), (Event::Asked(Ending::Process), asked), (Event::Waited(deadline), _), _] =
            events[..]
        else {
            panic!("{events:?}");
        };
        let limit = Duration::from_secs(2);
        assert!(deadline >= looked + limit && deadline <= asked + limit);
    }
}

#[test]
fn a_thread_that_has_left_its_callbacks_is_no_more_than_a_thread() {
    let fake = Fake::registered(|_| {});
    at_the_end_of("some", &[&fake], || {
        begin_callbacks();
        begin_callbacks();
        end_callbacks();
        assert!(is_in_callbacks(), "one of two");
        end_callbacks();
        assert!(!is_in_callbacks());
    });
    assert_eq!(fake.ending(), Some(Ending::Thread));
}

#[test]
fn nothing_is_asked_where_nothing_can_be_lost() {
    let nothing_left = Fake::registered(|fake| fake.has_unhandled = false);
    let of_the_parent = Fake::registered(|fake| fake.process ^= 1);
    at_the_end_of("some", &[&nothing_left, &of_the_parent], || {
        assert!(guard_thread())
    });
    assert_eq!(
        (nothing_left.ending(), of_the_parent.ending()),
        (None, None)
    );
    // The crate's own threads, and those that never used a connection.
    let ways: [fn(); 2] = [exempt_thread, || {}];
    for way in ways {
        let fake = Fake::registered(|_| {});
        at_the_end_of("some", &[&fake], way);
        assert!(fake.events().is_empty());
    }
}

#[test]
fn all_are_asked_before_one_is_waited_for() {
    let events = Events::default();
    let fakes = [(); 2].map(|()| Fake::registered(|fake| fake.events = Arc::clone(&events)));
    at_the_end_of("some", &[&fakes[0], &fakes[1]], || assert!(guard_thread()));
    let events = events.lock().unwrap();
    let asked = |(event, _): &(Event, Instant)| matches!(event, Event::Asked(_));
    let waited = |(event, _): &(Event, Instant)| matches!(event, Event::Waited(_));
    let last_asked = events.iter().rposition(asked);
    assert!(last_asked.is_some() && last_asked < events.iter().position(waited));
    assert_eq!(events.iter().filter(|event| asked(event)).count(), 2);
}

#[test]
fn a_wait_without_an_end_holds_no_thread_up_for_longer_than_its_limit() {
    let (release, held) = mpsc::channel();
    let fake = Fake::registered(|fake| fake.held = Mutex::new(Some(held)));
    at_the_end_of("some", &[&fake], || assert!(guard_thread()));
    let events = fake.events();
    assert!(events.iter().all(|(event, _)| *event != Event::Done));
    let asked = events[1].1;
    assert!(asked.elapsed() >= Duration::from_millis(500), "it waits");
    drop(release);
}

#[test]
#[cfg(target_os = "linux")]
fn without_a_thread_to_wait_on_the_end_waits_for_nothing() {
    const THIS: &str = "io::exit::tests::without_a_thread_to_wait_on_the_end_waits_for_nothing";
    if !crate::io::tests::is_where_no_thread_starts(THIS) {
        return;
    }
    let limit = Duration::from_secs(20);
    let began = Instant::now();
    let ended = run_within(&LEFT_BEHIND, limit, Box::new(|| panic!("on which thread?")));
    assert!(ended.is_err());
    assert!(began.elapsed() < limit / 2);
}

#[test]
fn connections_that_are_gone_are_forgotten() {
    let known = |fake: &Weak<dyn AtExit>| connections().unwrap().iter().any(|it| it.ptr_eq(fake));
    let downgrade = |fake: &Arc<Fake>| {
        let fake: Arc<dyn AtExit> = Arc::clone(fake) as _;
        Arc::downgrade(&fake)
    };
    let (gone, kept) = (Fake::registered(|_| {}), Fake::registered(|_| {}));
    let (gone_known, kept_known) = (downgrade(&gone), downgrade(&kept));
    assert!(known(&gone_known) && known(&kept_known));
    drop(gone);
    let _next = Fake::registered(|_| {});
    assert!(!known(&gone_known) && known(&kept_known));
}

#[test]
fn a_lock_is_waited_for_until_it_can_be_had_or_the_time_is_up() {
    let mutex = Mutex::new(1);
    let long = Duration::from_secs(20);
    assert!(lock_within(&mutex, Duration::ZERO).is_some());
    let guard = mutex.lock().unwrap();
    let limit = Duration::from_millis(20);
    let began = Instant::now();
    assert!(lock_within(&mutex, limit).is_none());
    assert!(began.elapsed() >= limit);
    thread::scope(|scope| {
        let (begin, begins) = mpsc::channel();
        let mutex = &mutex;
        let waiting = scope.spawn(move || {
            begin.send(()).unwrap();
            lock_within(mutex, long).map(|guard| *guard)
        });
        begins.recv().unwrap();
        thread::sleep(limit);
        drop(guard);
        assert_eq!(waiting.join().unwrap(), Some(1));
        // A panic elsewhere does not take the lock away.
        let panics = scope.spawn(|| {
            let _guard = mutex.lock().unwrap();
            panic!("on purpose");
        });
        assert!(panics.join().is_err() && mutex.is_poisoned());
    });
    assert!(lock_within(&mutex, Duration::ZERO).is_some());
}
