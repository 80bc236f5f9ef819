//! A private RabbitMQ that is made to measure, and a folder for what it and the client read.
#![allow(dead_code, unreachable_pub)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A folder that goes with this value.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        let path = std::env::temp_dir().join(crate::support::unique("tls"));
        fs::create_dir(&path).unwrap();
        Folder(path)
    }

    /// Writes a file; returns its path.
    pub fn write(&self, name: &str, content: &str) -> String {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A private RabbitMQ, ended with this value.
pub struct Broker {
    process: Child,
    /// `amqps://guest:guest@localhost:PORT`, or `none`
    pub amqps: String,
    /// `amqp://guest:guest@127.0.0.1:PORT`
    pub amqp: String,
    rabbitmqctl: String,
}

impl Broker {
    /// Starts one by `scripts/with-broker`, with these options.
    pub fn start(options: &[(&str, &str)]) -> Broker {
        let folder = Folder::new();
        let log = folder.path().join("log");
        // `cat` ends, and with it the broker, when the pipe to it is closed, which happens at the latest when this process
        // ends, in whatever way.
        let mut process = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/with-broker"))
            .args(["sh", "-c"])
            .arg(r#"printf '%s\n' "${AMQPS_URL:-none}" "$AMQP_URL" "$RABBITMQCTL"; exec cat >/dev/null"#)
            .env_remove("AMQP_URL")
            .env("BROKER_PRIVATE", "1")
            .envs(options.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut line = || match lines.next() {
            Some(line) => line.unwrap(),
            None => panic!("no broker: {}", fs::read_to_string(&log).unwrap()),
        };
        Broker {
            amqps: line(),
            amqp: line(),
            rabbitmqctl: line(),
            process,
        }
    }

    pub fn tls_port(&self) -> u16 {
        port(&self.amqps)
    }

    pub fn plain_port(&self) -> u16 {
        port(&self.amqp)
    }

    pub fn rabbitmqctl(&self, arguments: &[&str]) -> String {
        let output = Command::new(&self.rabbitmqctl)
            .args(arguments)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        text
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

fn port(url: &str) -> u16 {
    url.rsplit(':').next().unwrap().parse().unwrap()
}
