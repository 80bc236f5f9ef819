//! A private RabbitMQ that is killed and started again, with its data and at the same port.
#![allow(dead_code, unreachable_pub)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// Ended with this value.
pub struct Node {
    process: Child,
    pub url: String,
    rabbitmqctl: String,
    node: String,
}

impl Node {
    /// Starts one by `scripts/with-broker`.
    pub fn start() -> Node {
        // `cat` ends, and with it the broker, when the pipe to it is closed, which happens at the latest when this process
        // ends, in whatever way.
        let mut process = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/with-broker"))
            .args(["sh", "-c"])
            .arg(
                r#"printf '%s\n' "$AMQP_URL" "$RABBITMQCTL" "$RABBITMQ_NODE"; exec cat >/dev/null"#,
            )
            .env_remove("AMQP_URL")
            .env("BROKER_PRIVATE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut line = || {
            lines
                .next()
                .expect("scripts/with-broker starts a broker")
                .unwrap()
        };
        Node {
            url: line(),
            rabbitmqctl: line(),
            node: line(),
            process,
        }
    }

    fn node(&self, what: &str) {
        assert!(Command::new(&self.node)
            .arg(what)
            .status()
            .unwrap()
            .success());
    }

    /// Kills it, as a power cut would.
    pub fn kill(&self) {
        self.node("kill");
    }

    /// Starts it again, and does not wait until it accepts connections.
    pub fn restart(&self) {
        self.node("start");
    }

    pub fn rabbitmqctl(&self, arguments: &[&str]) {
        let output = Command::new(&self.rabbitmqctl)
            .args(arguments)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}
