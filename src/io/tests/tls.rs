//! Records and their ends over a stream in memory, and the handshake before them.

use super::*;
use crate::io::stream::is_timeout;
use crate::io::tests::Script;
use crate::TlsOptions;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ServerConfig, ServerConnection};

use super::handshake::Secured;
use std::collections::VecDeque;
use std::sync::atomic::AtomicUsize;

const MOMENT: Duration = Duration::from_millis(1);

/// The two directions of a stream in memory.
#[derive(Default)]
struct Wire {
    to_server: VecDeque<u8>,
    to_client: VecDeque<u8>,
    /// How much the client may still send until its time is up, if there is a limit.
    room: Option<usize>,
    /// Each read and write moves one byte and takes a moment.
    trickles: bool,
    /// How the next writes fail.
    write_errors: VecDeque<Option<io::ErrorKind>>,
    /// How the next flushes fail, after what was written has gone out.
    flush_errors: VecDeque<io::ErrorKind>,
    /// What is read is followed by the end of the stream.
    is_closed: bool,
    is_shut_down: bool,
    flushes: usize,
    read_timeouts: Vec<Duration>,
    write_timeouts: Vec<Duration>,
}

/// The client's end. It never blocks: where another would wait, the time is up.
#[derive(Clone)]
struct End {
    wire: Arc<Mutex<Wire>>,
    server: Arc<Mutex<ServerConnection>>,
    writes: Arc<AtomicUsize>,
}

impl End {
    fn new(config: Arc<ServerConfig>) -> Self {
        let mut server = ServerConnection::new(config).unwrap();
        server.set_buffer_limit(None);
        End {
            wire: Arc::default(),
            server: Arc::new(Mutex::new(server)),
            writes: Arc::default(),
        }
    }

    /// Lets the server take what has come and respond; returns what of it was data.
    fn serve(&self) -> Vec<u8> {
        let wire = &mut *lock(&self.wire);
        let mut server = lock(&self.server);
        let mut data = Vec::new();
        while !wire.to_server.is_empty() {
            server.read_tls(&mut wire.to_server).unwrap();
            server.process_new_packets().unwrap();
            let _ = server.reader().read_to_end(&mut data);
        }
        while server.wants_write() {
            server.write_tls(&mut wire.to_client).unwrap();
        }
        data
    }

    fn say(&self, data: &[u8]) {
        lock(&self.server).writer().write_all(data).unwrap();
        self.serve();
    }
}

impl Read for End {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if lock(&self.server).is_handshaking() {
            self.serve();
        }
        let wire = &mut *lock(&self.wire);
        match wire.to_client.len() {
            0 if wire.is_closed => Ok(0),
            0 => Err(time_up()),
            _ if wire.trickles => {
                std::thread::sleep(MOMENT);
                wire.to_client.read(&mut buf[..1])
            }
            _ => wire.to_client.read(buf),
        }
    }
}

impl Write for End {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        let wire = &mut *lock(&self.wire);
        if let Some(Some(kind)) = wire.write_errors.pop_front() {
            return Err(kind.into());
        }
        let mut count = buf.len().min(wire.room.unwrap_or(usize::MAX));
        if count == 0 {
            return Err(time_up());
        }
        if wire.trickles {
            std::thread::sleep(MOMENT);
            count = 1;
        }
        if let Some(room) = &mut wire.room {
            *room -= count;
        }
        wire.to_server.extend(&buf[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        let wire = &mut *lock(&self.wire);
        wire.flushes += 1;
        match wire.flush_errors.pop_front() {
            Some(kind) => Err(kind.into()),
            None => Ok(()),
        }
    }
}

impl Stream for End {
    fn try_clone(&self) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(self.clone()))
    }
    fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        lock(&self.wire).read_timeouts.push(timeout);
        Ok(())
    }
    fn set_write_timeout(&self, timeout: Duration) -> io::Result<()> {
        lock(&self.wire).write_timeouts.push(timeout);
        Ok(())
    }
    fn shutdown(&self) -> io::Result<()> {
        lock(&self.wire).is_shut_down = true;
        Ok(())
    }
}

fn versions() -> [Version; 2] {
    [&rustls::version::TLS13, &rustls::version::TLS12]
}

type Version = &'static rustls::SupportedProtocolVersion;

/// A server for this version of TLS, which asks for a client's certificate or not, and what its clients must trust.
fn server(version: Version, asks: bool) -> (End, String) {
    let (end, pem, _) = server_with_key(version, asks);
    (end, pem)
}

/// The same with the key to its certificate, which it takes from clients as well.
fn server_with_key(version: Version, asks: bool) -> (End, String, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let pem = made.cert.pem();
    let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[version])
        .unwrap();
    let config = if asks {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        config.with_client_cert_verifier(verifier.allow_unauthenticated().build().unwrap())
    } else {
        config.with_no_client_auth()
    };
    let config = config.with_single_cert(vec![certificate], key).unwrap();
    let key = made.signing_key.serialize_pem();
    (End::new(Arc::new(config)), pem, key)
}

fn connected(end: &End, pem: String) -> Result<Secured, Failure> {
    connected_with(end, TlsOptions::new().ca_certificates_pem(pem))
}

fn connected_with(end: &End, options: TlsOptions) -> Result<Secured, Failure> {
    let prepared = options.prepare("localhost").unwrap();
    connect(&prepared, Box::new(end.clone()), None)
}

fn opened(version: Version) -> (End, Box<dyn Stream>) {
    let (end, pem) = server(version, false);
    match connected(&end, pem) {
        Ok(secured) => (end, secured.stream),
        Err(failure) => panic!("{}", cause(&failure)),
    }
}

fn cause(failure: &Failure) -> &str {
    match failure {
        Failure::TimeUp => "time up",
        Failure::Other { cause, .. } => cause,
    }
}

/// The same sequence each time, no two neighbours alike.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.below(256) as u8).collect()
    }
}

#[test]
fn a_write_that_is_interrupted_is_resumed() {
    for version in versions() {
        let (end, mut stream) = opened(version);
        end.serve();
        let mut random = Random(7);
        let data = random.bytes(1 << 20);
        let (mut done, mut arrived, mut waits) = (0, Vec::new(), 0);
        while done < data.len() {
            // As the writer does: after a wait it brings what has not been reported as written, perhaps cut in another
            // way.
            let rest = &data[done..];
            let cut = random.below(rest.len().min(300_000)) + 1;
            let result = match random.below(2) {
                0 => stream.write(rest),
                _ => {
                    let (one, two) = rest.split_at(cut);
                    stream.write_vectored(&[IoSlice::new(one), IoSlice::new(two)])
                }
            };
            match result {
                Ok(count) => {
                    // There may be no further write, so all that was reported as written has gone out.
                    done += count;
                    arrived.extend(end.serve());
                    assert_eq!(arrived.len(), done);
                }
                Err(error) => {
                    assert!(is_timeout(&error));
                    waits += 1;
                    arrived.extend(end.serve());
                }
            }
            lock(&end.wire).room = Some(random.below(60_000));
        }
        assert!(waits > 5 && arrived == data, "{waits}");
    }
}

#[test]
fn records_are_read_however_they_are_cut() {
    for version in versions() {
        let (end, mut stream) = opened(version);
        end.serve();
        let mut random = Random(3);
        let data = random.bytes(1 << 20);
        let (mut said, mut heard, mut held) = (0, Vec::new(), VecDeque::new());
        while heard.len() < data.len() {
            // What the client has not read yet goes before what is held back.
            let unread = std::mem::take(&mut lock(&end.wire).to_client);
            if said < data.len() {
                let count = (random.below(100_000) + 1).min(data.len() - said);
                end.say(&data[said..said + count]);
                said += count;
            }
            {
                let wire = &mut *lock(&end.wire);
                held.append(&mut wire.to_client);
                let count = random.below(held.len() + 1);
                wire.to_client = unread;
                wire.to_client.extend(held.drain(..count));
            }
            let mut buf = vec![0; random.below(200_000) + 1];
            match stream.read(&mut buf) {
                Ok(0) => panic!("the end"),
                Ok(count) => heard.extend_from_slice(&buf[..count]),
                Err(error) => assert!(is_timeout(&error), "{error}"),
            }
        }
        assert!(heard == data);
    }
}

#[test]
fn small_slices_share_a_record() {
    let (end, mut stream) = opened(&rustls::version::TLS13);
    end.serve();
    let before = end.writes.load(Ordering::Relaxed);
    let slices: Vec<_> = (0..100).map(|_| IoSlice::new(b"0123456789")).collect();
    assert_eq!(stream.write_vectored(&slices).unwrap(), 1000);
    assert_eq!(end.writes.load(Ordering::Relaxed), before + 1);
    assert!(lock(&end.wire).to_server.len() < 1050);
    assert_eq!(end.serve(), b"0123456789".repeat(100));
}

#[test]
fn keys_may_change() {
    let (end, mut stream) = opened(&rustls::version::TLS13);
    end.serve();
    let mut buf = [0; 100];
    for round in 0..5 {
        lock(&end.server).refresh_traffic_keys().unwrap();
        end.say(b"to the client");
        assert_eq!(stream.read(&mut buf).unwrap(), 13, "{round}");
        // The response goes before what is written next.
        assert_eq!(stream.write(b"to the server").unwrap(), 13);
        assert_eq!(end.serve(), b"to the server");
    }
}

#[test]
fn the_end_is_seen_after_the_last_data() {
    for version in versions() {
        let (end, mut stream) = opened(version);
        end.serve();
        {
            let mut server = lock(&end.server);
            server.writer().write_all(b"bye").unwrap();
            server.send_close_notify();
        }
        end.serve();
        let mut buf = [0; 100];
        assert_eq!(stream.read(&mut buf).unwrap(), 3);
        assert_eq!(stream.read(&mut buf).unwrap(), 0);
        assert_eq!(stream.read(&mut buf).unwrap(), 0);
    }
}

#[test]
fn what_was_tampered_with_is_an_error_after_what_was_not() {
    for version in versions() {
        let (end, mut stream) = opened(version);
        end.serve();
        end.say(b"good");
        let good = lock(&end.wire).to_client.len();
        end.say(b"bad");
        {
            let wire = &mut *lock(&end.wire);
            assert!(wire.to_client.len() > good);
            *wire.to_client.back_mut().unwrap() ^= 1;
        }
        let mut buf = [0; 100];
        assert_eq!(stream.read(&mut buf).unwrap(), 4);
        for _ in 0..2 {
            let error = stream.read(&mut buf).unwrap_err();
            assert!(!is_timeout(&error) && described(&error, false).is_some());
        }
        assert!(stream.write(b"more").is_err());
    }
}

#[test]
fn the_end_is_announced() {
    let (end, mut stream) = opened(&rustls::version::TLS13);
    stream.write_all(b"last").unwrap();
    stream.shutdown().unwrap();
    assert_eq!(end.serve(), b"last");
    let state = lock(&end.server).process_new_packets().unwrap();
    assert!(state.peer_has_closed());
    let waits = lock(&end.wire).write_timeouts.last().copied();
    assert_eq!(waits, Some(Duration::from_millis(10)));
    // Once.
    stream.shutdown().unwrap();
    assert!(lock(&end.wire).to_server.is_empty());
    let (end, stream) = opened(&rustls::version::TLS13);
    end.serve();
    // Where the peer takes nothing, that is no error.
    lock(&end.wire).room = Some(0);
    stream.shutdown().unwrap();
    assert!(lock(&end.wire).is_shut_down);
}

// ---- limits

#[test]
fn parts_of_a_record_do_not_prolong_a_read() {
    let (end, mut stream) = opened(&rustls::version::TLS13);
    end.serve();
    let mut buf = [0; 1000];
    while !lock(&end.wire).to_client.is_empty() {
        assert!(stream.read(&mut buf).is_err());
    }
    let limit = Duration::from_millis(30);
    stream.set_read_timeout(limit).unwrap();
    assert_eq!(lock(&end.wire).read_timeouts.last(), Some(&limit));
    end.say(&[7; 1000]);
    lock(&end.wire).trickles = true;
    let began = Instant::now();
    assert!(is_timeout(&stream.read(&mut buf).unwrap_err()));
    assert!(began.elapsed() >= limit);
    assert!(lock(&end.wire).to_client.len() > 100, "it is not all there");
    // Nothing of it is lost.
    lock(&end.wire).trickles = false;
    assert_eq!(stream.read(&mut buf).unwrap(), 1000);
}

#[test]
fn a_peer_that_takes_little_at_a_time_does_not_prolong_a_write() {
    let (end, mut stream) = opened(&rustls::version::TLS13);
    end.serve();
    let limit = Duration::from_millis(30);
    stream.set_write_timeout(limit).unwrap();
    assert_eq!(lock(&end.wire).write_timeouts.last(), Some(&limit));
    lock(&end.wire).trickles = true;
    let began = Instant::now();
    assert!(is_timeout(&stream.write(&[7; 1000]).unwrap_err()));
    assert!(began.elapsed() >= limit);
    assert!(lock(&end.wire).to_server.len() < 900, "it did not take all");
    lock(&end.wire).trickles = false;
    lock(&end.wire).write_errors = [Some(io::ErrorKind::Interrupted)].into();
    assert_eq!(stream.write(&[7; 1000]).unwrap(), 1000);
    assert_eq!(end.serve(), [7; 1000]);
}

#[test]
fn so_much_is_sealed_at_once() {
    let (end, mut stream) = opened(&rustls::version::TLS13);
    end.serve();
    let written = stream.write(&vec![0; 1 << 20]).unwrap();
    assert!(written > 100_000 && written <= SEAL, "{written}");
    let kib_64 = vec![0; 64 * 1024];
    let slices = vec![IoSlice::new(&kib_64); 10];
    assert_eq!((some(&slices).len(), some(&slices[..1]).len()), (2, 1));
    let large = vec![0; 1 << 20];
    assert_eq!(some(&[IoSlice::new(&large), IoSlice::new(&large)]).len(), 1);
}

// ---- what a read and a write come to

#[test]
fn a_read_takes_what_is_there() {
    for version in versions() {
        let (end, mut stream) = opened(version);
        end.serve();
        assert_eq!(stream.read(&mut []).unwrap(), 0);
        end.say(b"one ");
        end.say(b"two");
        let mut buf = [0; 100];
        assert_eq!(stream.read(&mut buf).unwrap(), 7);
        assert_eq!(&buf[..7], b"one two");
        // All of it, however many records it came in.
        let (large, mut room) = (Random(2).bytes(40_000), vec![0; 100_000]);
        end.say(&large);
        assert_eq!(stream.read(&mut room).unwrap(), large.len());
        assert!(room[..large.len()] == large);
        // However little it is.
        end.say(b"1");
        assert_eq!(stream.read(&mut buf).unwrap(), 1);
        assert_eq!(buf[0], b'1');
        end.say(b"three");
        assert_eq!(stream.read(&mut buf[..2]).unwrap(), 2);
        assert_eq!(stream.read(&mut buf[2..]).unwrap(), 3);
        assert_eq!(&buf[..5], b"three");
    }
}

#[test]
fn the_end_is_seen_without_data_and_whatever_follows() {
    for version in versions() {
        let (end, mut stream) = opened(version);
        end.serve();
        lock(&end.server).send_close_notify();
        end.serve();
        let mut buf = [0; 100];
        assert_eq!(stream.read(&mut buf).unwrap(), 0);
        lock(&end.wire).to_client.extend(b"more");
        for _ in 0..3 {
            assert_eq!(stream.read(&mut buf).unwrap(), 0);
        }
        // A stream that ends without it ends as well.
        let (end, mut stream) = opened(version);
        end.serve();
        end.say(b"last");
        lock(&end.wire).is_closed = true;
        stream.set_read_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!(stream.read(&mut buf).unwrap(), 4);
        assert_eq!(stream.read(&mut buf).unwrap(), 0);
    }
}

#[test]
fn what_came_before_something_impossible_is_read_however_much_it_is() {
    for version in versions() {
        let (end, mut stream) = opened(version);
        end.serve();
        let good = Random(5).bytes(40_000);
        end.say(&good);
        end.say(b"bad");
        *lock(&end.wire).to_client.back_mut().unwrap() ^= 1;
        let (mut read, mut buf) = (Vec::new(), vec![0; 100_000]);
        let error = loop {
            match stream.read(&mut buf) {
                Ok(count) => read.extend_from_slice(&buf[..count]),
                Err(error) => break error,
            }
            assert!(read.len() <= good.len());
        };
        assert!(read == good && !is_timeout(&error), "{}", read.len());
    }
}

#[test]
fn what_was_sealed_counts_as_the_caller_brings_it_again() {
    let (end, mut stream) = opened(&rustls::version::TLS13);
    end.serve();
    assert_eq!(stream.write(b"").unwrap(), 0);
    let data = Random(9).bytes(100);
    lock(&end.wire).room = Some(10);
    assert!(is_timeout(&stream.write(&data).unwrap_err()));
    lock(&end.wire).room = None;
    assert_eq!(stream.write(&data[..40]).unwrap(), 40);
    assert_eq!(stream.write(&data[40..]).unwrap(), 60);
    assert_eq!(stream.write(b"next").unwrap(), 4);
    assert_eq!(end.serve(), [&data[..], b"next"].concat());
}

#[test]
fn a_flush_sends_what_reading_made_necessary() {
    let (end, mut stream) = opened(&rustls::version::TLS13);
    end.serve();
    end.say(b"bad");
    *lock(&end.wire).to_client.back_mut().unwrap() ^= 1;
    assert!(stream.read(&mut [0; 100]).is_err());
    assert!(
        lock(&end.wire).to_server.is_empty(),
        "a reader never writes"
    );
    let before = lock(&end.wire).flushes;
    stream.flush().unwrap();
    assert_eq!(lock(&end.wire).flushes, before + 1);
    // An alert.
    let wire = &mut *lock(&end.wire);
    let mut server = lock(&end.server);
    server.read_tls(&mut wire.to_server).unwrap();
    let alert = server.process_new_packets().unwrap_err();
    assert!(
        matches!(alert, rustls::Error::AlertReceived(_)),
        "{alert:?}"
    );
}

#[test]
fn within_a_record_no_end_is_announced() {
    let (end, mut stream) = opened(&rustls::version::TLS13);
    end.serve();
    lock(&end.wire).room = Some(10);
    assert!(stream.write(&[0; 100]).is_err());
    lock(&end.wire).room = None;
    stream.shutdown().unwrap();
    let wire = lock(&end.wire);
    assert!(wire.is_shut_down && wire.to_server.len() == 10);
}

// ---- the handshake

#[test]
fn what_follows_the_handshake_at_once_is_read() {
    for version in versions() {
        let (end, pem) = server(version, false);
        let early = Random(1).bytes(100_000);
        lock(&end.server).writer().write_all(&early).unwrap();
        let mut stream = connected(&end, pem).ok().unwrap().stream;
        end.serve();
        let (mut read, mut buf) = (Vec::new(), vec![0; 30_000]);
        while read.len() < early.len() {
            let count = stream.read(&mut buf).unwrap();
            read.extend_from_slice(&buf[..count]);
        }
        assert!(read == early);
    }
}

#[test]
fn a_certificate_is_missing_where_one_is_asked_for() {
    for version in versions() {
        for asks in [false, true] {
            let (end, pem) = server(version, asks);
            let secured = connected(&end, pem).ok().unwrap();
            assert_eq!(secured.certificate_missing, asks);
        }
        // Not where there is one.
        let (end, pem, key) = server_with_key(version, true);
        let options = TlsOptions::new().ca_certificates_pem(pem.clone());
        let secured = connected_with(&end, options.client_certificate_pem(pem, key));
        assert!(!secured.ok().unwrap().certificate_missing);
        end.serve();
        assert!(lock(&end.server).peer_certificates().is_some());
    }
}

#[test]
fn a_server_that_is_not_trusted_gets_an_alert() {
    for version in versions() {
        let (end, _) = server(version, false);
        let (_, other) = server(version, false);
        let failure = connected(&end, other).err().unwrap();
        assert!(
            cause(&failure).contains("certificate"),
            "{}",
            cause(&failure)
        );
        let wire = &mut *lock(&end.wire);
        assert!(wire.is_shut_down);
        let mut server = lock(&end.server);
        server.read_tls(&mut wire.to_server).unwrap();
        let alert = server.process_new_packets().unwrap_err();
        assert!(
            matches!(alert, rustls::Error::AlertReceived(_)),
            "{alert:?}"
        );
        // Its operator may look into the log, which is worth no long wait.
        let waits = wire.write_timeouts.last().copied();
        assert_eq!(waits, Some(Duration::from_millis(200)));
    }
}

#[test]
fn what_a_peer_said_before_it_hung_up_tells_more_than_a_failed_write() {
    let prepared = TlsOptions::new().ca_certificates_pem(server(&rustls::version::TLS13, false).1);
    let prepared = prepared.prepare("localhost").unwrap();
    // handshake_failure
    let alert = b"\x15\x03\x03\0\x02\x02\x28";
    let failed_by = |deadline, takes: Option<io::Error>, reads: Vec<io::Result<Vec<u8>>>| {
        let script = Script::default();
        script.lock().takes = takes.into_iter().map(Err).collect();
        script.lock().reads = reads.into();
        let failure = connect(&prepared, script.transport(), deadline).err();
        let script = script.lock();
        assert!(script.is_shut_down);
        if script.written.is_empty() {
            // The write failed: what the peer has said is worth no long wait.
            let waits = script.read_timeouts.iter().max().copied();
            assert!(waits <= Some(Duration::from_millis(100)), "{waits:?}");
        }
        match failure.unwrap() {
            Failure::TimeUp => ("time up".to_owned(), false),
            Failure::Other { cause, lost, .. } => (cause, lost),
        }
    };
    let failed = |takes, reads| failed_by(None, takes, reads);
    let broken = || Some(io::Error::from(io::ErrorKind::BrokenPipe));
    let (cause, lost) = failed(broken(), vec![Ok(alert.to_vec())]);
    assert!(cause.contains("refused the handshake") && !lost, "{cause}");
    let (cause, lost) = failed(broken(), vec![Ok(Vec::new())]);
    assert!(lost, "{cause}");
    let stuck = || Some(io::Error::from(io::ErrorKind::WouldBlock));
    let now = Some(Instant::now());
    assert_eq!(failed_by(now, stuck(), Vec::new()).0, "time up");
    // A write that came to nothing is made again.
    let (cause, _) = failed(stuck(), vec![Ok(alert.to_vec())]);
    assert!(cause.contains("refused the handshake"), "{cause}");
    // A signal, and a stream that is lost.
    let interrupted = || Err(io::ErrorKind::Interrupted.into());
    let (cause, _) = failed(None, vec![interrupted(), Ok(alert.to_vec())]);
    assert!(cause.contains("refused the handshake"), "{cause}");
    let reset = io::Error::from(io::ErrorKind::ConnectionReset);
    let text = reset.to_string();
    assert_eq!(failed(None, vec![Err(reset)]), (text, true));
}

#[test]
fn where_nothing_is_to_be_sent_nothing_is_asked_of_the_stream() {
    let script = Script::default();
    let prepared = TlsOptions::new().prepare("localhost").unwrap();
    script.lock().reads = [Err(io::ErrorKind::Interrupted.into()), Ok(Vec::new())].into();
    assert!(connect(&prepared, script.transport(), None).is_err());
    let script = script.lock();
    assert_eq!((script.given.len(), script.flushes), (1, 1));
    assert_eq!(
        (script.write_timeouts.len(), script.read_timeouts.len()),
        (1, 2)
    );
}

#[test]
fn after_a_write_that_failed_nothing_more_is_sent() {
    let (end, pem) = server(&rustls::version::TLS13, false);
    lock(&end.wire).flush_errors = [io::ErrorKind::BrokenPipe].into();
    let failure = connected(&end, pem).err().unwrap();
    assert!(matches!(failure, Failure::Other { lost: true, .. }));
    assert!(lock(&end.wire).to_server.is_empty());
}

#[test]
fn a_peer_that_takes_too_long_for_the_last_bytes_is_late() {
    let (end, pem) = server(&rustls::version::TLS13, false);
    let stuck = (0..5000).map(|_| Some(io::ErrorKind::WouldBlock));
    lock(&end.wire).write_errors = std::iter::once(None).chain(stuck).collect();
    let prepared = TlsOptions::new().ca_certificates_pem(pem);
    let prepared = prepared.prepare("localhost").unwrap();
    let deadline = Instant::now() + Duration::from_millis(300);
    let failure = connect(&prepared, Box::new(end), Some(deadline)).err();
    assert!(matches!(failure, Some(Failure::TimeUp)));
}

#[test]
fn a_server_that_takes_no_alert_is_left_soon() {
    let prepared = TlsOptions::new().prepare("localhost").unwrap();
    let script = Script::default();
    // A ServerHello with a cipher that no client offers.
    let hello = [
        b"\x16\x03\x03\0\x2a\x02\0\0\x26\x03\x03".as_slice(),
        &[7; 32],
        b"\0\0\0\0",
    ];
    script.lock().reads = [Ok(hello.concat())].into();
    script.lock().takes = [Ok(10_000)].into();
    script.lock().is_stuck = true;
    let slowly = || std::thread::sleep(Duration::from_millis(110));
    script.lock().before_write = Some(Arc::new(slowly));
    let failure = connect(&prepared, script.transport(), None).err();
    assert!(matches!(failure, Some(Failure::Other { lost: false, .. })));
    let writes = script.lock().given.len();
    assert!((2..=3).contains(&writes), "{writes}");
}

#[test]
fn a_handshake_is_not_done_before_its_last_bytes_are_sent() {
    let (end, pem) = server(&rustls::version::TLS13, false);
    lock(&end.wire).write_errors = [None, Some(io::ErrorKind::BrokenPipe)].into();
    match connected(&end, pem).err().unwrap() {
        Failure::Other { lost: true, .. } => {}
        other => panic!("{}", cause(&other)),
    }
}
