//! The code in both READMEs: each block is the text of a file in `tests/readme/`, which is compiled here; the programs among
//! them run as programs of their own, against the broker; and what the table names on haypile's side compiles.

mod support;

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use haypile::{BasicProperties, Connection, QueueDeclare};

const ENGLISH: &str = include_str!("../README.md");
const CHINESE: &str = include_str!("../README.zh-CN.md");

/// Includes a program and makes its `main` callable.
macro_rules! program {
    ($name:ident, $file:literal, $result:ty) => {
        mod $name {
            include!($file);

            pub(crate) fn run() -> $result {
                main()
            }
        }
    };
}

program!(first, "readme/first.rs", haypile::Result<()>);
program!(survive, "readme/survive.rs", Result<(), Box<dyn std::error::Error>>);
program!(reliable, "readme/reliable.rs", haypile::Result<()>);

program!(first_zh, "readme/zh/first.rs", haypile::Result<()>);
program!(
    survive_zh,
    "readme/zh/survive.rs",
    Result<(), Box<dyn std::error::Error>>
);
program!(reliable_zh, "readme/zh/reliable.rs", haypile::Result<()>);
program!(delay_zh, "readme/zh/delay.rs", haypile::Result<()>);

/// Its test runs as one of this file's.
#[cfg(feature = "testing")]
#[path = "readme/testing.rs"]
mod testing;
#[cfg(feature = "testing")]
#[path = "readme/zh/testing.rs"]
mod testing_zh;

#[path = "readme/table.rs"]
mod table;

/// What a block of code may be.
const IN_ENGLISH: [&str; 4] = [
    include_str!("readme/first.rs"),
    include_str!("readme/survive.rs"),
    include_str!("readme/reliable.rs"),
    include_str!("readme/testing.rs"),
];
const IN_CHINESE: [&str; 5] = [
    include_str!("readme/zh/first.rs"),
    include_str!("readme/zh/survive.rs"),
    include_str!("readme/zh/reliable.rs"),
    include_str!("readme/zh/delay.rs"),
    include_str!("readme/zh/testing.rs"),
];

/// Names the program that a process is to play.
const PLAY: &str = "HAYPILE_README_PROGRAM";

/// Played by the processes that the other tests start.
#[test]
fn program() {
    let Ok(name) = std::env::var(PLAY) else {
        return;
    };
    match name.as_str() {
        "first" => first::run().unwrap(),
        "survive" => survive::run().unwrap(),
        "reliable" => reliable::run().unwrap(),
        "first_zh" => first_zh::run().unwrap(),
        "survive_zh" => survive_zh::run().unwrap(),
        "reliable_zh" => reliable_zh::run().unwrap(),
        "delay_zh" => delay_zh::run().unwrap(),
        _ => panic!("there is no program {name}"),
    }
}

/// A virtual host of its own, so that the fixed names in the READMEs meet nothing, or the one there is.
struct Scene {
    url: String,
    vhost: Option<String>,
}

impl Scene {
    fn new() -> Scene {
        let vhost = support::unique("readme");
        if support::rabbitmqctl(&["add_vhost", &vhost]).is_none() {
            return Scene {
                url: support::url(),
                vhost: None,
            };
        }
        let scene = Scene {
            url: support::url_of_vhost(&vhost),
            vhost: Some(vhost.clone()),
        };
        support::rabbitmqctl(&[
            "set_permissions",
            "-p",
            &vhost,
            &support::user(),
            ".*",
            ".*",
            ".*",
        ]);
        scene
    }

    fn start(&self, name: &str) -> Child {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "program", "--nocapture"])
            .env(PLAY, name)
            .env("AMQP_URL", &self.url)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Runs a program to its end; returns the lines that it printed.
    fn run(&self, name: &str) -> Vec<String> {
        let mut child = self.start(name);
        let mut output = String::new();
        let mut stdout = child.stdout.take().unwrap();
        stdout.read_to_string(&mut output).unwrap();
        assert!(child.wait().unwrap().success(), "{name}: {output}");
        printed(&output)
    }
}

/// What the program printed, without the words of the test around it.
fn printed(output: &str) -> Vec<String> {
    let lines = output.lines().filter(|line| line.starts_with(" ["));
    lines.map(str::to_owned).collect()
}

impl Drop for Scene {
    fn drop(&mut self) {
        if let Some(vhost) = &self.vhost {
            support::rabbitmqctl(&["delete_vhost", vhost]);
            return;
        }
        let Ok(connection) = Connection::open(self.url.as_str()) else {
            return;
        };
        for queue in ["task_queue", "task_queue.2s", "orders"] {
            if let Ok(channel) = connection.channel() {
                let _ = channel.queue_delete(queue);
            }
        }
    }
}

#[test]
fn the_programs_run() {
    support::bounded_by(std::time::Duration::from_secs(120), || {
        let scene = Scene::new();
        for language in ["", "_zh"] {
            assert_eq!(
                scene.run(&format!("first{language}")),
                [
                    " [x] sent dig",
                    " [x] sent plant",
                    " [x] sent water",
                    " [x] received dig",
                    " [x] received plant",
                    " [x] received water",
                    " [*] Cancelled",
                ]
            );
            let reliable = [" [x] the broker has them all; sent again: 0"];
            assert_eq!(scene.run(&format!("reliable{language}")), reliable);
            let connection = Connection::open(scene.url.as_str()).unwrap();
            let channel = connection.channel().unwrap();
            assert_eq!(channel.queue_purge("orders").unwrap(), 10_000);
            survives_and_ends(&scene, &format!("survive{language}"));
        }
        assert_eq!(scene.run("delay_zh"), [" [x] 两秒之后"]);
    });
}

/// The consumer comes back after a loss, and ends by Ctrl-C with its message finished.
fn survives_and_ends(scene: &Scene, name: &str) {
    let connection = Connection::open(scene.url.as_str()).unwrap();
    let channel = connection.channel().unwrap();
    let queue = QueueDeclare::new("task_queue").durable(true);
    channel.queue_declare(queue).unwrap();
    let mut child = scene.start(name);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || loop {
        let line = lines.next().expect("the program goes on").unwrap();
        if line.starts_with(" [") {
            return line;
        }
    };
    let tasks = BasicProperties::new();
    channel
        .basic_publish_with("", "task_queue", "before", &tasks)
        .unwrap();
    assert_eq!(next(), " [x] before");
    if let Some(vhost) = &scene.vhost {
        support::rabbitmqctl(&["close_all_connections", "--vhost", vhost, "a test"]);
        let connection = Connection::open(scene.url.as_str()).unwrap();
        let channel = connection.channel().unwrap();
        channel.basic_publish("", "task_queue", "after").unwrap();
        assert_eq!(next(), " [x] after");
    }
    let pid = child.id().to_string();
    let sent = Command::new("kill").args(["-INT", &pid]).status().unwrap();
    assert!(sent.success());
    assert_eq!(next(), " [*] Cancelled");
    assert!(child.wait().unwrap().success());
}

/// The blocks of code of one language.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let mut blocks = Vec::new();
    let mut rest = text;
    while let Some((_, from)) = rest.split_once(&format!("```{language}")) {
        let (_, from) = from.split_once('\n').unwrap();
        let (block, after) = from.split_once("```").unwrap();
        blocks.push(block);
        rest = after;
    }
    blocks
}

#[test]
fn every_block_of_code_is_compiled_here() {
    assert_eq!(blocks(ENGLISH, "rust"), IN_ENGLISH);
    assert_eq!(blocks(CHINESE, "rust"), IN_CHINESE);
}

/// Text without what layout adds.
fn squeezed(text: &str) -> String {
    let text: String = text.split_whitespace().collect();
    text.replace(",)", ")").replace(",}", "}")
}

#[test]
fn what_the_table_names_compiles() {
    let _ = table::right_column;
    let compiled = squeezed(include_str!("readme/table.rs"));
    for readme in [ENGLISH, CHINESE] {
        let mut rows = 0;
        for line in readme
            .lines()
            .filter(|line| line.contains("::") || line.contains("channel."))
        {
            let Some(row) = line.strip_prefix("| `") else {
                continue;
            };
            let right = row.split(" | ").nth(1).expect("two columns");
            let right = right.replace("\\|", "|");
            for code in right.split('`').skip(1).step_by(2) {
                rows += 1;
                assert!(compiled.contains(&squeezed(code)), "not compiled: {code}");
            }
        }
        assert!(rows > 25, "{rows}");
    }
}

/// What a reader is sent to is there, and each example is one that can be run.
#[test]
fn what_the_readmes_name_is_there() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    for readme in [ENGLISH, CHINESE] {
        for link in readme.split("](").skip(1) {
            let path = link.split(')').next().unwrap();
            assert!(root.join(path).exists(), "{path}");
        }
        for command in readme.split("--example ").skip(1) {
            let name: String = command
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                .collect();
            let path = format!("examples/{name}.rs");
            assert!(root.join(&path).exists(), "{path}");
        }
        // The tables of programs to copy.
        for row in readme
            .split("`cargo run --example` |\n| --- | --- |\n")
            .skip(1)
        {
            let rows = row.split("\n\n").next().unwrap();
            for line in rows.lines() {
                let (_, right) = line.trim_end_matches('|').rsplit_once(" | ").unwrap();
                for name in right.split('`').skip(1).step_by(2) {
                    assert!(root.join(format!("examples/{name}.rs")).exists(), "{name}");
                }
            }
        }
        for script in readme.split("scripts/").skip(1) {
            let name: String = script
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || *c == '-')
                .collect();
            assert!(root.join("scripts").join(&name).exists(), "scripts/{name}");
        }
    }
}
