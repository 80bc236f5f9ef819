//! What the examples share: their command line, and Python's way of printing. Nothing here is needed to use haypile.

#![allow(dead_code, unreachable_pub)] // each example uses its part

pub mod python;

use std::collections::HashMap;
use std::env::VarError;
use std::fmt;
use std::io::IsTerminal;
use std::process::exit;
use std::time::Duration;

use haypile::{Channel, Connection, ConnectionParameters, PlainCredentials, QueueDeclare};

/// What ends an example early. `main` prints its `Debug` form, so that is the plain text of the error.
pub struct Failure(String);

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure(error.to_string())
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Declares a queue, or uses it as it is if it exists with other settings.
///
/// The broker refuses a second declaration that differs from the first with 406 (PRECONDITION_FAILED) and closes the
/// channel over it, so a new channel is returned in that case.
pub fn declare_or_use(
    connection: &Connection,
    name: &str,
    declare: QueueDeclare,
) -> haypile::Result<Channel> {
    let channel = connection.channel()?;
    match channel.queue_declare(declare) {
        Ok(_) => Ok(channel),
        Err(error) if error.reply_code() == Some(406) => {
            eprintln!("{error}");
            eprintln!("using the queue as it is");
            let channel = connection.channel()?;
            channel.queue_declare(QueueDeclare::new(name).passive(true))?;
            Ok(channel)
        }
        Err(error) => Err(error),
    }
}

/// Says what the program waits for, to a person who sits before it. The originals are silent here, so where the output goes to
/// a file or another program, nothing is printed.
pub fn say_on_terminal(what: impl fmt::Display) {
    if std::io::stderr().is_terminal() {
        eprintln!("({what})");
    }
}

/// Counts messages up to the number that `--count` gave. Without one there is no last message.
pub struct Countdown(Option<u64>);

impl Countdown {
    /// Counts one message, and returns whether it was the last.
    pub fn last(&mut self) -> bool {
        match &mut self.0 {
            None => false,
            Some(left) => {
                *left = left.saturating_sub(1);
                *left == 0
            }
        }
    }
}

/// What an example accepts on its command line, beside the options that all of them have.
pub struct Usage {
    about: &'static str,
    options: Vec<Opt>,
    words: Option<(&'static str, &'static str)>,
}

/// One option: its name, what its value is called (empty for a flag), and what it does.
struct Opt(&'static str, &'static str, &'static str);

/// The options that name the broker to use.
const BROKER: [Opt; 6] = [
    Opt(
        "url",
        "URL",
        "the broker, as amqp://user:password@host:port/vhost (default: AMQP_URL, if set)",
    ),
    Opt(
        "host",
        "NAME",
        "or by its parts: the host (default localhost)",
    ),
    Opt("port", "N", "its port (default 5672)"),
    Opt("user", "NAME", "the user (default guest)"),
    Opt(
        "password",
        "TEXT",
        "the user's password (default guest); AMQP_URL hides it from other users",
    ),
    Opt("vhost", "NAME", "the virtual host (default /)"),
];

/// For those who share a broker with others. Each example uses it by way of [`Arguments::name`].
const PREFIX: Opt = Opt(
    "prefix",
    "TEXT",
    "put before the names of queues and exchanges (default: nothing); tidy deletes them again",
);

impl Usage {
    /// An example that does what `about` describes.
    pub fn new(about: &'static str) -> Self {
        Usage {
            about,
            options: Vec::new(),
            words: None,
        }
    }

    /// Adds `--name VALUE`.
    pub fn option(mut self, name: &'static str, value: &'static str, help: &'static str) -> Self {
        self.options.push(Opt(name, value, help));
        self
    }

    /// Adds `--name`.
    pub fn flag(self, name: &'static str, help: &'static str) -> Self {
        self.option(name, "", help)
    }

    /// Adds `--count N`.
    pub fn count(self) -> Self {
        self.option(
            "count",
            "N",
            "end after N messages (default: go on for ever, as the original does)",
        )
    }

    /// Adds words that are no options.
    pub fn words(mut self, name: &'static str, help: &'static str) -> Self {
        self.words = Some((name, help));
        self
    }

    /// Reads the command line. `--help` and mistakes end the program here.
    pub fn parse(self) -> Arguments {
        let mut given = Vec::new();
        for argument in std::env::args_os().skip(1) {
            match argument.into_string() {
                Ok(text) => given.push(text),
                // Not shown, since it may hold a password.
                Err(_) => fail("an argument is not UTF-8"),
            }
        }
        if given
            .iter()
            .take_while(|word| *word != "--")
            .any(|word| word == "--help" || word == "-h")
        {
            print!("{self}");
            exit(0);
        }
        match self.read(given) {
            Ok(arguments) => arguments,
            Err(message) => fail(message),
        }
    }

    fn read(self, given: Vec<String>) -> Result<Arguments, String> {
        let mut arguments = Arguments {
            values: HashMap::new(),
            words: Vec::new(),
        };
        let mut given = given.into_iter();
        while let Some(word) = given.next() {
            if word == "--" {
                arguments.words.extend(given.by_ref());
            } else if let Some(option) = word.strip_prefix("--") {
                let (name, mut value) = match option.split_once('=') {
                    Some((name, value)) => (name, Some(value.to_owned())),
                    None => (option, None),
                };
                let Some(Opt(name, takes, _)) = self.all().find(|known| known.0 == name) else {
                    return Err(format!("unknown option --{name}"));
                };
                match (takes.is_empty(), &value) {
                    (true, Some(_)) => return Err(format!("--{name} takes no value")),
                    (true, None) => value = Some(String::new()),
                    (false, Some(_)) => {}
                    (false, None) => value = given.next(),
                }
                let value = value.ok_or_else(|| format!("--{name} needs a value: {takes}"))?;
                if arguments.values.insert(name, value).is_some() {
                    return Err(format!("--{name} is given twice"));
                }
            } else {
                arguments.words.push(word);
            }
        }
        match arguments.words.first() {
            Some(word) if self.words.is_none() => {
                return Err(format!("{word:?} is not expected here"))
            }
            _ => {}
        }
        if arguments.given("url") && BROKER[1..].iter().any(|part| arguments.given(part.0)) {
            return Err("give either --url or its parts, not both".to_owned());
        }
        Ok(arguments)
    }

    fn all(&self) -> impl Iterator<Item = &Opt> {
        self.options.iter().chain(&BROKER).chain([&PREFIX])
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = self
            .words
            .map(|(name, _)| format!(" [{name}]"))
            .unwrap_or_default();
        writeln!(
            f,
            "{}\n\nUsage: {} [OPTIONS]{words}\n",
            self.about,
            program()
        )?;
        if let Some((name, help)) = self.words {
            writeln!(f, "  {name:<22}{help}\n")?;
        }
        for Opt(name, value, help) in self.all() {
            writeln!(f, "  {:<22}{help}", format!("--{name} {value}"))?;
        }
        writeln!(f, "  {:<22}this text", "--help")
    }
}

/// What the command line holds.
pub struct Arguments {
    values: HashMap<&'static str, String>,
    words: Vec<String>,
}

impl Arguments {
    /// Where to connect: `--url`, or its parts, or the environment's `AMQP_URL`, or guest on localhost.
    pub fn connection(&self) -> ConnectionParameters {
        if let Some(url) = self.get("url") {
            return from_url("--url", url);
        }
        if !BROKER.iter().any(|part| self.given(part.0)) {
            return match std::env::var("AMQP_URL") {
                Ok(url) => from_url("AMQP_URL", &url),
                Err(VarError::NotPresent) => ConnectionParameters::default(),
                Err(VarError::NotUnicode(_)) => fail("AMQP_URL is not UTF-8"),
            };
        }
        let text = |name, default| self.get(name).unwrap_or(default);
        ConnectionParameters::new(text("host", "localhost"))
            .port(self.parsed("port", "a port number").unwrap_or(5672))
            .virtual_host(text("vhost", "/"))
            .credentials(PlainCredentials::new(
                text("user", "guest"),
                text("password", "guest"),
            ))
    }

    /// How many messages `--count` allows.
    pub fn countdown(&self) -> Countdown {
        let count = self.parsed("count", "a number of messages");
        if count == Some(0) {
            fail("--count: must be 1 or more");
        }
        Countdown(count)
    }

    /// What a queue or an exchange of this name is called here.
    pub fn name(&self, name: &str) -> String {
        format!("{}{name}", self.get("prefix").unwrap_or_default())
    }

    /// The value of an option, as text.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// Whether an option was given.
    pub fn given(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// An option that is yes or no.
    pub fn yes(&self, name: &str, default: bool) -> bool {
        match self.get(name) {
            None => default,
            Some("yes") => true,
            Some("no") => false,
            Some(other) => fail(format_args!("--{name}: {other:?} is neither yes nor no")),
        }
    }

    /// An option that is a time in seconds.
    pub fn seconds(&self, name: &str, default: f64) -> Duration {
        let seconds = self.parsed(name, "a number of seconds").unwrap_or(default);
        match Duration::try_from_secs_f64(seconds) {
            Ok(duration) => duration,
            Err(error) => fail(format_args!("--{name}: {error}")),
        }
    }

    /// The words that are no options.
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// The words that are no options, or `default` if there are none.
    pub fn words_or<'a>(&'a self, default: &[&'a str]) -> Vec<&'a str> {
        if self.words.is_empty() {
            return default.to_vec();
        }
        self.words.iter().map(String::as_str).collect()
    }

    /// The words as whole numbers, or `default` if there are none.
    pub fn numbers_or(&self, default: &[i64]) -> Vec<i64> {
        if self.words.is_empty() {
            return default.to_vec();
        }
        let number = |word: &String| match word.parse() {
            Ok(number) => number,
            Err(_) => fail(format_args!("{word:?} is not a whole number")),
        };
        self.words.iter().map(number).collect()
    }

    /// The words as `key=value` pairs, or `default` if there are none.
    pub fn pairs(&self, default: &[(&str, &str)]) -> Vec<(String, String)> {
        if self.words.is_empty() {
            return default
                .iter()
                .map(|(key, value)| (key.to_string(), value.to_string()))
                .collect();
        }
        let pair = |word: &String| match word.split_once('=') {
            Some((key, value)) => (key.to_owned(), value.to_owned()),
            None => fail(format_args!("{word:?} is not of the form KEY=VALUE")),
        };
        self.words.iter().map(pair).collect()
    }

    fn parsed<T: std::str::FromStr>(&self, name: &str, expected: &str) -> Option<T> {
        let value = self.get(name)?;
        match value.parse() {
            Ok(parsed) => Some(parsed),
            Err(_) => fail(format_args!("--{name}: {value:?} is not {expected}")),
        }
    }
}

fn from_url(source: &str, url: &str) -> ConnectionParameters {
    match ConnectionParameters::from_url(url) {
        Ok(parameters) => parameters,
        Err(error) => fail(format_args!("{source}: {error}")),
    }
}

/// Ends the program over a mistake on its command line.
pub fn fail(message: impl fmt::Display) -> ! {
    eprintln!("{}: {message} (--help says more)", program());
    exit(2)
}

fn program() -> String {
    let path = std::env::args_os().next().unwrap_or_default();
    let name = std::path::Path::new(&path).file_stem().unwrap_or_default();
    name.to_string_lossy().into_owned()
}
