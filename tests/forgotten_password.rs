//! `erase_on_connect` leaves no copy of the password in the memory of the process. Linux, where a process can read its own.
#![cfg(target_os = "linux")]

mod support;
#[cfg(feature = "tls")]
#[path = "support/tls.rs"]
mod tls;

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::process::Command;

use haypile::{
    AmqPlainCredentials, Connection, ConnectionParameters, Credentials, FieldTable,
    PlainCredentials,
};
use support::bounded;
use support::peer::{m, Args, Handshake, Peer};

/// What the child is given: mechanism, length of the password, port, PEM file of the authority to trust inside TLS.
const CHILD: &str = "HAYPILE_TEST_CHILD";

/// The password is nowhere but in this form, so that looking for it does not put it into memory.
fn masked(length: usize) -> impl Iterator<Item = u8> + Clone {
    let mut state = 7u32;
    (0..length).map(move |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (b'a' + (state >> 24) as u8 % 26) | 0x80
    })
}

fn password(length: usize) -> String {
    // No part of it is left behind by growing.
    let mut password = String::with_capacity(length);
    password.extend(masked(length).map(|byte| char::from(byte & 0x7f)));
    password
}

/// How often the beginning, or the end, of the password stands in memory.
fn copies(length: usize) -> usize {
    let masked: Vec<u8> = masked(length).collect();
    let needles = [&masked[..16], &masked[masked.len() - 16..]];
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let mut memory = fs::File::open("/proc/self/mem").unwrap();
    let mut chunk = vec![0u8; 1 << 20];
    let mut found = 0;
    for line in maps.lines() {
        let (range, rest) = line.split_once(' ').unwrap();
        if !rest.starts_with("rw") {
            continue;
        }
        let (from, to) = range.split_once('-').unwrap();
        let [from, to] = [from, to].map(|text| u64::from_str_radix(text, 16).unwrap());
        let mut at = from;
        while at < to {
            let length = chunk.len().min((to - at) as usize);
            memory.seek(SeekFrom::Start(at)).unwrap();
            // Some mappings of the kernel's cannot be read.
            if memory.read_exact(&mut chunk[..length]).is_err() {
                break;
            }
            // The chunk itself is among what is read.
            let own = chunk.as_ptr() as u64;
            for (offset, window) in chunk[..length].windows(16).enumerate() {
                let address = at + offset as u64;
                let in_chunk = (own..own + chunk.len() as u64).contains(&address);
                if !needles.iter().any(|needle| window[0] == needle[0] & 0x7f) {
                    continue;
                }
                let same = |needle: &&[u8]| window.iter().zip(*needle).all(|(a, b)| *a == b & 0x7f);
                if !in_chunk && needles.iter().any(same) {
                    found += 1;
                }
            }
            chunk[..length].fill(0);
            // Overlapping, so that nothing is cut in two; the last chunk ends the loop.
            at += if length == chunk.len() {
                length as u64 - 16
            } else {
                length as u64
            };
        }
    }
    found
}

/// The end of a text in memory, where the allocator writes nothing when it gets the memory back.
struct EndOf {
    memory: fs::File,
    address: u64,
    /// The text, in another form.
    masked: [u8; 16],
}

impl EndOf {
    fn new(text: &str) -> EndOf {
        let end = &text.as_bytes()[text.len() - 16..];
        let mut masked: [u8; 16] = end.try_into().unwrap();
        masked.iter_mut().for_each(|byte| *byte |= 0x80);
        EndOf {
            memory: fs::File::open("/proc/self/mem").unwrap(),
            address: end.as_ptr() as u64,
            masked,
        }
    }

    /// Whether it still stands where it was. Takes no memory itself.
    fn is_there(&mut self) -> bool {
        let mut now = [0; 16];
        self.memory.seek(SeekFrom::Start(self.address)).unwrap();
        self.memory.read_exact(&mut now).unwrap();
        let is_there = now
            .iter()
            .zip(&self.masked)
            .all(|(now, then)| now | 0x80 == *then);
        now.fill(0);
        std::hint::black_box(&now);
        is_there
    }
}

/// Runs in a process of its own. Does nothing in the others.
#[test]
fn child() {
    let Ok(given) = std::env::var(CHILD) else {
        return;
    };
    let mut given = given.split(' ');
    let (mechanism, length) = (
        given.next().unwrap(),
        given.next().unwrap().parse().unwrap(),
    );
    let port = given.next().unwrap().parse().unwrap();
    let password = password(length);
    // The credentials take over this memory.
    let mut end = EndOf::new(&password);
    let credentials: Credentials = match mechanism {
        "PLAIN" => PlainCredentials::new("user", password)
            .erase_on_connect(true)
            .into(),
        _ => AmqPlainCredentials::new("user", password)
            .erase_on_connect(true)
            .into(),
    };
    assert!(
        end.is_there(),
        "the credentials do not hold what they were given"
    );
    assert!(copies(length) > 0, "the password is not found where it is");
    let parameters = ConnectionParameters::new("localhost")
        .port(port)
        .credentials(credentials);
    // Client properties of many sizes, so that the buffer that the password is put into is about to grow.
    let mut properties = FieldTable::new();
    properties.insert("padding", "x".repeat(length * 3));
    let parameters = parameters.client_properties(properties);
    #[cfg(feature = "tls")]
    let parameters = match given.next() {
        Some(ca) => parameters.tls(haypile::TlsOptions::new().ca_certificates_file(ca)),
        None => parameters,
    };
    let opened = Connection::open(parameters);
    // Before anything else can use the memory again.
    assert!(!end.is_there(), "the credentials were not overwritten");
    let left = copies(length);
    println!("copies left: {left}");
    assert_eq!(opened.is_ok(), mechanism != "REFUSED", "{opened:?}");
    if let Ok(connection) = opened {
        connection.close().unwrap();
    }
    assert_eq!(left, 0);
}

#[track_caller]
fn run_child(mechanism: &'static str, length: usize, through: impl FnOnce(&Peer) -> String) {
    let peer = Peer::start(move |session| {
        if mechanism == "REFUSED" {
            session.expect_protocol_header();
            session.send_start(&Handshake::default());
            session.expect(0, m::CONNECTION_START_OK);
            let text = "ACCESS_REFUSED";
            let close = Args::new().short(403).shortstr(text).short(0).short(0);
            session.send_method(0, m::CONNECTION_CLOSE, close);
            session.expect_end();
            return;
        }
        session.handshake_with(&Handshake {
            mechanisms: if mechanism == "PLAIN" {
                "PLAIN"
            } else {
                "AMQPLAIN"
            },
            ..Handshake::default()
        });
        let _ = session.frame();
        session.send_method(0, m::CONNECTION_CLOSE_OK, Args::new());
        session.expect_end();
    });
    let given = format!("{mechanism} {length} {}", through(&peer));
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(CHILD, given)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{mechanism}, {length} bytes: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    peer.finish();
}

fn port(peer: &Peer) -> String {
    peer.address().port().to_string()
}

#[test]
fn plain_leaves_no_copy() {
    bounded(|| {
        for length in [20, 100, 700, 3000] {
            run_child("PLAIN", length, port);
        }
    });
}

#[test]
fn amqplain_leaves_no_copy() {
    bounded(|| {
        for length in [20, 100, 700, 3000] {
            run_child("AMQPLAIN", length, port);
        }
    });
}

#[test]
fn a_refused_login_leaves_no_copy() {
    bounded(|| run_child("REFUSED", 40, port));
}

#[cfg(feature = "tls")]
#[test]
fn nor_does_tls() {
    bounded(|| {
        let authority = tls::Authority::new("forgotten");
        let config = tls::server_config(
            &authority.server(&["localhost"]),
            None,
            &[&rustls::version::TLS13, &rustls::version::TLS12],
        );
        let ca = std::env::temp_dir().join(support::unique("ca.pem"));
        fs::write(&ca, authority.pem()).unwrap();
        for length in [20, 3000] {
            let mut server = None;
            run_child("PLAIN", length, |peer| {
                let started = tls::Server::start(config.clone(), Some(peer.address()));
                let port = started.port();
                server = Some(started);
                format!("{port} {}", ca.display())
            });
        }
        fs::remove_file(ca).unwrap();
    });
}
