//! Runs the twins and their Python originals: a virtual host of their own, the Python environment, the programs.

use std::env;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use self::names::{EXCHANGES, QUEUES};
use haypile::{BasicGet, BasicProperties, Channel, Connection, GetOk, QueueDeclare};

#[path = "../../examples/common/names.rs"]
mod names;

/// What the originals run with. From a version to the next it may print otherwise, hence the exact one.
const PIKA: &str = "1.4.4";

/// How long a condition may take to come true. Usual are milliseconds; machines are busy at times.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long Python's package installer may take, once in the life of a build folder.
const INSTALLER_PATIENCE: Duration = Duration::from_secs(300);

/// Whose program is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Language {
    /// The twin.
    Rust,
    /// The original.
    Python,
}

/// The broker to test with: `AMQP_URL`.
fn amqp_url() -> String {
    env::var("AMQP_URL").unwrap_or_else(|_| {
        panic!("AMQP_URL is not set: run the tests through scripts/with-broker, as in `scripts/with-broker cargo test`")
    })
}

/// An AMQP URL, taken apart no further than is needed here.
pub(crate) struct Url {
    pub(crate) scheme: String,
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) host: String,
    pub(crate) port: String,
    /// As it stands there, or `%2f`.
    pub(crate) vhost: String,
    query: String,
}

impl Url {
    pub(crate) fn parse(url: &str) -> Self {
        let (scheme, rest) = url.split_once("://").expect("AMQP_URL has a scheme");
        let (rest, query) = rest
            .split_once('?')
            .map_or((rest, String::new()), |(rest, query)| {
                (rest, format!("?{query}"))
            });
        let (authority, vhost) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, place) = authority
            .rsplit_once('@')
            .unwrap_or(("guest:guest", authority));
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        let bracket = place.rfind(']').unwrap_or(0);
        let (host, port) = match place[bracket..].rfind(':') {
            Some(colon) => (&place[..bracket + colon], &place[bracket + colon + 1..]),
            None => (place, "5672"),
        };
        Url {
            scheme: scheme.into(),
            user: user.into(),
            password: password.into(),
            host: host.into(),
            port: port.into(),
            vhost: if vhost.is_empty() { "%2f" } else { vhost }.into(),
            query,
        }
    }

    pub(crate) fn with_vhost(&self, vhost: &str) -> String {
        let Url {
            scheme,
            user,
            password,
            host,
            port,
            query,
            ..
        } = self;
        format!("{scheme}://{user}:{password}@{host}:{port}/{vhost}{query}")
    }
}

/// Where programs run at the same time as others that use the same names: a virtual host of their own, or, where none can be
/// made, the one of `AMQP_URL` with names of their own.
pub(crate) struct Vhost {
    pub(crate) url: String,
    /// Its name, if it was made here.
    name: Option<String>,
    /// What stands before each name, if it was not.
    prefix: String,
}

/// The virtual hosts that were made and are not in use. They are deleted when none is in use any more.
struct Pool {
    idle: Vec<Vhost>,
    in_use: usize,
    made: u32,
}

static POOL: Mutex<Pool> = Mutex::new(Pool {
    idle: Vec::new(),
    in_use: 0,
    made: 0,
});
/// Making one takes about as long as a test, so tests rather wait for one another than each have its own.
const MOST_VHOSTS: usize = 4;
static RETURNED: Condvar = Condvar::new();

/// A virtual host of its own, until this is dropped.
struct Lease(Option<Vhost>);

impl Lease {
    fn new() -> Self {
        let mut pool = lock(&POOL);
        while pool.idle.is_empty() && pool.in_use == MOST_VHOSTS {
            pool = RETURNED.wait(pool).unwrap_or_else(PoisonError::into_inner);
        }
        pool.in_use += 1;
        let mut lease = Lease(pool.idle.pop());
        if lease.0.is_none() {
            pool.made += 1;
            let number = pool.made;
            drop(pool);
            lease.0 = Some(Vhost::new(number));
        }
        lease
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut pool = lock(&POOL);
        pool.idle.extend(self.0.take());
        pool.in_use -= 1;
        let idle = if pool.in_use == 0 {
            std::mem::take(&mut pool.idle)
        } else {
            Vec::new()
        };
        drop(pool);
        RETURNED.notify_one();
        for name in idle.into_iter().filter_map(|vhost| vhost.name) {
            let deleted = rabbitmqctl(&["delete_vhost", &name]);
            if !std::thread::panicking() {
                deleted.unwrap();
            }
        }
    }
}

impl Vhost {
    fn new(number: u32) -> Self {
        let url = amqp_url();
        let name = format!("haypile-twins-{}-{number}", std::process::id());
        match Self::make(&url, &name) {
            Ok(url) => Vhost {
                url,
                name: Some(name),
                prefix: String::new(),
            },
            Err(reason) => {
                eprintln!("no virtual host of its own ({reason}); names begin with {name}");
                Vhost {
                    url,
                    name: None,
                    prefix: name + "-",
                }
            }
        }
    }

    /// Makes a virtual host and returns the URL of it. `RABBITMQCTL` may be there and not be allowed to.
    fn make(url: &str, name: &str) -> Result<String, String> {
        if env::var_os("RABBITMQCTL").is_none_or(|ctl| ctl.is_empty()) {
            return Err("RABBITMQCTL is not set".to_owned());
        }
        let url = Url::parse(url);
        rabbitmqctl(&["add_vhost", name])?;
        let permissions = ["set_permissions", "-p", name, &url.user, ".*", ".*", ".*"];
        let url = url.with_vhost(name);
        // It may be another broker's.
        let made = rabbitmqctl(&permissions).and_then(|()| {
            Connection::open(&url)
                .and_then(|connection| connection.close())
                .map_err(|error| error.to_string())
        });
        if let Err(reason) = made {
            let _ = rabbitmqctl(&["delete_vhost", name]);
            return Err(reason);
        }
        Ok(url)
    }
}

fn rabbitmqctl(arguments: &[&str]) -> Result<(), String> {
    match rabbitmqctl_command(arguments).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!(
            "RABBITMQCTL {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        )),
        Err(error) => Err(format!("RABBITMQCTL cannot be run: {error}")),
    }
}

/// `RABBITMQCTL` is a program, or a command with arguments.
fn rabbitmqctl_command(arguments: &[&str]) -> Command {
    let ctl = env::var_os("RABBITMQCTL").unwrap_or_default();
    let mut command = if Path::new(&ctl).is_file() {
        Command::new(ctl)
    } else {
        let mut shell = Command::new("sh");
        shell.args(["-c", "$RABBITMQCTL \"$@\"", "sh"]);
        shell
    };
    command.args(arguments).stdin(Stdio::null());
    command
}

/// A virtual host in which nothing is declared yet, for the programs that a test starts.
pub(crate) struct Scene {
    pub(crate) connection: Connection,
    lease: Lease,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let lease = Lease::new();
        let url = lease
            .0
            .as_ref()
            .map(|vhost| vhost.url.as_str())
            .unwrap_or_default();
        let connection = Connection::open(url).unwrap_or_else(|error| panic!("AMQP_URL: {error}"));
        Scene { connection, lease }
    }

    pub(crate) fn vhost(&self) -> &Vhost {
        self.lease
            .0
            .as_ref()
            .expect("a lease has a virtual host until it ends")
    }

    /// What a queue or exchange of this name is called here.
    pub(crate) fn name(&self, name: &str) -> String {
        match name.starts_with("amq.") {
            true => name.to_owned(),
            false => format!("{}{name}", self.vhost().prefix),
        }
    }

    /// Starts a program.
    pub(crate) fn start(&self, language: Language, program: &str, arguments: &[&str]) -> Running {
        let prefix = self.vhost().prefix.as_str();
        let mut command = match language {
            Language::Rust => {
                let mut command = Command::new(example(program));
                if !prefix.is_empty() {
                    command.args(["--prefix", prefix]);
                }
                command
            }
            Language::Python => {
                let mut command = Command::new(python());
                command.arg(
                    Path::new(env!("CARGO_MANIFEST_DIR"))
                        .join("tests/python")
                        .join(program)
                        .with_extension("py"),
                );
                command.envs([
                    ("PYTHONUNBUFFERED", "1"),
                    ("PYTHONDONTWRITEBYTECODE", "1"),
                    ("TZ", "UTC"),
                    ("PREFIX", prefix),
                ]);
                command
            }
        };
        command.args(arguments).env("AMQP_URL", &self.vhost().url);
        Running::start(format!("{program} ({language:?})"), prefix, command)
    }

    /// Runs a program to its end, and returns what it printed.
    pub(crate) fn run(&self, language: Language, program: &str, arguments: &[&str]) -> Vec<String> {
        self.start(language, program, arguments).finish()
    }

    /// Waits until the queue has a consumer.
    pub(crate) fn wait_for_consumer(&self, queue: &str) {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            // As long as there is no such queue, asking for it costs the channel.
            let channel = self.connection.channel().unwrap();
            match channel.queue_declare(QueueDeclare::new(self.name(queue)).passive(true)) {
                Ok(declared) if declared.consumer_count > 0 => return,
                Ok(_) => {}
                Err(error) => assert_eq!(error.reply_code(), Some(404), "{error}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("{queue} has no consumer after {PATIENCE:?}");
    }

    /// Waits for the next message in the queue, and takes it. Names in it are without the prefix.
    pub(crate) fn take(&self, queue: &str) -> (GetOk, BasicProperties, Vec<u8>) {
        let channel = self.connection.channel().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some((mut method, properties, body)) = channel
                .basic_get(BasicGet::new(self.name(queue)).auto_ack(true))
                .unwrap()
            {
                for name in [&mut method.exchange, &mut method.routing_key] {
                    if let Some(rest) = name.strip_prefix(self.vhost().prefix.as_str()) {
                        *name = rest.to_owned().into();
                    }
                }
                return (method, properties, body);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("{queue} is empty after {PATIENCE:?}");
    }

    /// How many messages the queue has ready. An acknowledged message is in no queue; one that a program left without
    /// acknowledging it is back once the program is gone.
    pub(crate) fn messages_in(&self, queue: &str) -> u32 {
        let channel = self.connection.channel().unwrap();
        channel
            .queue_declare(QueueDeclare::new(self.name(queue)).passive(true))
            .unwrap()
            .message_count
    }

    fn clear(&self) -> haypile::Result<()> {
        let channel: Channel = self.connection.channel()?;
        for queue in QUEUES {
            channel.queue_delete(self.name(queue))?;
        }
        for exchange in EXCHANGES {
            channel.exchange_delete(self.name(exchange))?;
        }
        Ok(())
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let cleared = self.clear().and_then(|()| self.connection.close());
        if !std::thread::panicking() {
            cleared.expect("nothing is left behind");
        }
    }
}

/// A program at work. It is ended when this is dropped.
pub(crate) struct Running {
    name: String,
    child: Child,
    output: Arc<Output>,
}

/// What a program has printed so far.
#[derive(Default)]
struct Output {
    lines: Mutex<Lines>,
    news: Condvar,
}

#[derive(Default)]
struct Lines {
    stdout: Vec<String>,
    stderr: Vec<String>,
    /// How many of the two streams have ended.
    ended: u8,
}

/// How a program ended.
pub(crate) struct Ended {
    /// Its exit code; none if a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<String>,
    pub(crate) stderr: Vec<String>,
}

impl Running {
    /// What the program prints is kept without `prefix`, wherever that stands.
    pub(crate) fn start(name: String, prefix: &str, mut command: Command) -> Self {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{name} cannot be started: {error}"));
        let output = Arc::new(Output::default());
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        output.collect(stdout, prefix, |lines| &mut lines.stdout);
        output.collect(stderr, prefix, |lines| &mut lines.stderr);
        Running {
            name,
            child,
            output,
        }
    }

    /// Waits until the program has printed this line.
    pub(crate) fn wait_for(&self, line: &str) {
        self.output.wait_until(PATIENCE, |lines| {
            lines.stdout.iter().any(|printed| printed == line) || lines.ended == 2
        });
        if !self.has_printed(line) {
            panic!("{} has not printed {line:?} but {}", self.name, self.output);
        }
    }

    /// Waits until the program has printed a line on standard output or standard error that contains this.
    pub(crate) fn wait_for_part(&self, part: &str) {
        let is_there = |lines: &Lines| {
            let mut all = lines.stdout.iter().chain(&lines.stderr);
            all.any(|printed| printed.contains(part))
        };
        self.output
            .wait_until(PATIENCE, |lines| is_there(lines) || lines.ended == 2);
        if !is_there(&lock(&self.output.lines)) {
            panic!("{} has not printed {part:?} but {}", self.name, self.output);
        }
    }

    /// Sends it a signal, such as `INT`, which is what Ctrl-C does.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args(["-s", name, &self.child.id().to_string()])
            .status();
        assert!(sent.is_ok_and(|status| status.success()), "{}", self.name);
    }

    /// Whether all that the program prints has ended, as it does with the program.
    pub(crate) fn has_ended(&self) -> bool {
        lock(&self.output.lines).ended == 2
    }

    /// Whether the program has printed this line by now.
    pub(crate) fn has_printed(&self, line: &str) -> bool {
        lock(&self.output.lines)
            .stdout
            .iter()
            .any(|printed| printed == line)
    }

    /// Waits for the end, which must be a good one, and returns what was printed.
    pub(crate) fn finish(self) -> Vec<String> {
        let name = self.name.clone();
        let Ended {
            code,
            stdout,
            stderr,
        } = self.wait(PATIENCE);
        assert_eq!(
            code,
            Some(0),
            "{name} failed, having printed {stdout:?} and complained {stderr:?}"
        );
        stdout
    }

    /// Waits for the end, whatever it is.
    pub(crate) fn end(self) -> Ended {
        self.wait(PATIENCE)
    }

    fn wait(mut self, patience: Duration) -> Ended {
        let deadline = Instant::now() + patience;
        self.output.wait_until(patience, |lines| lines.ended == 2);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                let lines = std::mem::take(&mut *lock(&self.output.lines));
                return Ended {
                    code: status.code(),
                    stdout: lines.stdout,
                    stderr: lines.stderr,
                };
            }
            assert!(
                Instant::now() < deadline,
                "{} goes on after {patience:?}, with {}",
                self.name,
                self.output
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

impl Output {
    fn collect(
        self: &Arc<Self>,
        stream: impl Read + Send + 'static,
        prefix: &str,
        part: fn(&mut Lines) -> &mut Vec<String>,
    ) {
        let output = Arc::clone(self);
        let prefix = prefix.to_owned();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n') {
                let Ok(line) = line else { break };
                let mut line = String::from_utf8_lossy(&line).into_owned();
                if !prefix.is_empty() {
                    line = line.replace(&prefix, "");
                }
                part(&mut lock(&output.lines)).push(line);
                output.news.notify_all();
            }
            lock(&output.lines).ended += 1;
            output.news.notify_all();
        });
    }

    fn wait_until(&self, patience: Duration, mut done: impl FnMut(&Lines) -> bool) {
        let lines = lock(&self.lines);
        drop(
            self.news
                .wait_timeout_while(lines, patience, |lines| !done(lines)),
        );
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lines = lock(&self.lines);
        write!(f, "{:?}, and complained {:?}", lines.stdout, lines.stderr)
    }
}

/// An example, as cargo built it beside this test.
pub(crate) fn example(name: &str) -> PathBuf {
    let this = env::current_exe().expect("the test's own path");
    let profile = this
        .parent()
        .and_then(Path::parent)
        .expect("the test lies in deps, beside examples");
    let path = profile
        .join("examples")
        .join(name)
        .with_extension(env::consts::EXE_EXTENSION);
    assert!(
        path.is_file(),
        "{} is missing: build it with `cargo build --examples`",
        path.display()
    );
    path
}

/// A Python that has pika, in a virtual environment in the build folder. It is made at the first run.
fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let home = folder.join(format!("pika-{PIKA}"));
        let python = |home: &Path| home.join("bin/python");
        let works = |home: &Path| {
            let check = format!("import pika; assert pika.__version__ == '{PIKA}'");
            Command::new(python(home))
                .args(["-c", &check])
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success())
        };
        if !works(&home) {
            // It is made under another name and put into its place whole: what is there is complete, and of two that make
            // it at the same time one comes too late and uses the other's.
            let draft = folder.join(format!("pika-{PIKA}.{}", std::process::id()));
            install(
                "python3",
                [OsStr::new("-m"), OsStr::new("venv"), draft.as_os_str()],
            );
            let requirement = format!("pika=={PIKA}");
            install(
                python(&draft),
                [
                    "-m",
                    "pip",
                    "--disable-pip-version-check",
                    "install",
                    "--quiet",
                    &requirement,
                ],
            );
            if std::fs::rename(&draft, &home).is_err() && !works(&home) {
                // What is in its place is of no use, perhaps since the system has got another Python.
                _ = std::fs::remove_dir_all(&home);
                _ = std::fs::rename(&draft, &home);
            }
            _ = std::fs::remove_dir_all(&draft);
            assert!(
                works(&home),
                "{} has no pika {PIKA}",
                python(&home).display()
            );
        }
        python(&home)
    })
}

fn install<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, arguments: impl IntoIterator<Item = S>) {
    let mut command = Command::new(program);
    command.args(arguments);
    let name = format!("{command:?}");
    let Ended {
        code,
        stdout,
        stderr,
    } = Running::start(name.clone(), "", command).wait(INSTALLER_PATIENCE);
    assert_eq!(
        code,
        Some(0),
        "{name} failed; the tests need Python 3 with venv (Debian, Ubuntu: apt-get install python3-venv) and a way to the \
         Python package index: {stdout:?} {stderr:?}"
    );
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A test that failed has not harmed what the others share.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
