//! Ctrl-C and SIGTERM, one and two, at programs that wait in different ways. The programs are this one, started again.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use haypile::{
    Channel, Connection, ConsumingEnded, Error, QueueDeclare, Result, Retry, Stop, Supervisor,
};
use support::peer::{m, Args, Peer};
use support::proxy::Proxy;
use support::{assert_message_count, channel, url, Fixture, RefusedPort};

const PLAY: &str = "HAYPILE_SIGNALS_PLAY";
const URL: &str = "HAYPILE_SIGNALS_URL";
const QUEUE: &str = "HAYPILE_SIGNALS_QUEUE";

/// How a program ends whose wait was stopped.
const STOPPED: i32 = 3;

/// How long after the second signal a program may take, on a machine that has other things to do as well. It is 100 ms when
/// there is nothing else.
const AT_ONCE: Duration = Duration::from_secs(2);

fn main() {
    if let Ok(part) = std::env::var(PLAY) {
        std::process::exit(play(&part));
    }
    for signal in ["INT", "TERM"] {
        busy_callback(signal);
        idle_consumer(signal);
        silent_broker(signal);
        waiting_publisher(signal);
        pause_of_a_supervisor(signal);
    }
}

// ---- the programs

fn print_line(text: &str) {
    println!("{text}");
    std::io::stdout().flush().unwrap();
}

fn handle(stop: Stop) {
    ctrlc::set_handler(move || {
        // Said first, since the program may end at once.
        if !stop.is_stopped() {
            print_line("asked");
        }
        if stop.stop() > 1 {
            std::process::exit(130);
        }
    })
    .unwrap();
}

fn play(part: &str) -> i32 {
    let url = std::env::var(URL).unwrap();
    let queue = std::env::var(QUEUE).unwrap_or_default();
    let result: Result<()> = match part {
        "consume" => consume(&url, &queue),
        "publish" => publish(&url),
        "supervise" => supervise(&url),
        _ => panic!("{part}"),
    };
    match result {
        Ok(()) => 0,
        Err(Error::Stopped { .. }) => STOPPED,
        Err(error) => panic!("{error}"),
    }
}

fn consume(url: &str, queue: &str) -> Result<()> {
    let channel = Connection::open(url)?.channel()?;
    handle(channel.stop_handle());
    channel.basic_qos(10)?;
    channel.basic_consume(queue, |channel, method, _, _| {
        print_line("busy");
        // The signal comes in the middle of this work, which is finished.
        thread::sleep(Duration::from_millis(1500));
        channel.basic_ack(method.delivery_tag)
    })?;
    print_line("ready");
    let ended = channel.start_consuming()?;
    assert_eq!(ended, ConsumingEnded::Cancelled);
    Ok(())
}

fn publish(url: &str) -> Result<()> {
    let channel: Channel = Connection::open(url)?.channel()?;
    handle(channel.stop_handle());
    let mut publisher = channel.publisher(1)?;
    publisher.publish("", "q", "")?;
    print_line("ready");
    publisher.publish("", "q", "").map(drop)
}

fn supervise(url: &str) -> Result<()> {
    let hour = Duration::from_secs(3600);
    let supervisor = Supervisor::new(url)
        .retry(Retry::new().first(hour).most(hour))
        .on_event(|_| print_line("ready"));
    handle(supervisor.stop_handle());
    supervisor.run(|_| Ok(ConsumingEnded::Closed)).map(drop)
}

// ---- the tests

struct Program {
    process: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Program {
    fn start(part: &str, url: &str, queue: &str) -> Program {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .env(PLAY, part)
            .env(URL, url)
            .env(QUEUE, queue)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Program { process, lines }
    }

    fn wait_for(&mut self, line: &str) {
        let found = self.lines.by_ref().any(|found| found.unwrap() == line);
        assert!(found, "the program ended without the line {line:?}");
    }

    /// Sends a signal; returns when the program has noticed it.
    fn ask(&mut self, signal: &str) {
        self.kill(signal);
        self.wait_for("asked");
    }

    fn kill(&self, signal: &str) {
        let (option, pid) = (format!("-{signal}"), self.process.id().to_string());
        assert!(Command::new("kill")
            .args([option, pid])
            .status()
            .unwrap()
            .success());
    }

    /// Its exit code, if it ends within the limit.
    fn end(mut self, limit: Duration) -> (i32, Duration) {
        let began = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return (status.code().expect("no signal ends it"), began.elapsed());
            }
            if began.elapsed() > limit {
                let _ = self.process.kill();
                let _ = self.process.wait();
                panic!("the program did not end within {limit:?}");
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Prints how long it took, for people; returns the exit code.
fn exit_code_of(what: &str, signal: &str, times: usize, (code, took): (i32, Duration)) -> i32 {
    println!(
        "{what}, SIG{signal} {times}: exit code {code} after {} ms",
        took.as_millis()
    );
    code
}

fn twice(what: &str, signal: &str, mut program: Program) {
    program.ask(signal);
    program.kill(signal);
    assert_eq!(exit_code_of(what, signal, 2, program.end(AT_ONCE)), 130);
}

/// Two signals at once, at a program that may have ended by the first before the second comes.
fn twice_at_once(what: &str, signal: &str, program: Program, by_the_first: i32) {
    program.kill(signal);
    program.kill(signal);
    let code = exit_code_of(what, signal, 2, program.end(AT_ONCE));
    assert!(code == 130 || code == by_the_first, "{code}");
}

fn filled(queue: &str) -> Channel {
    let admin = channel();
    admin
        .queue_declare(QueueDeclare::new(queue).durable(true))
        .unwrap();
    for _ in 0..3 {
        admin.basic_publish("", queue, "").unwrap();
    }
    assert_message_count(&admin, queue, 3);
    admin
}

fn busy_callback(signal: &str) {
    let mut fixture = Fixture::new();
    let queue = fixture.queue("busy");
    let admin = filled(&queue);
    let mut program = Program::start("consume", &url(), &queue);
    program.wait_for("busy");
    program.ask(signal);
    let ended = program.end(Duration::from_secs(20));
    assert_eq!(exit_code_of("a busy callback", signal, 1, ended), 0);
    // The message in hand is acknowledged, the rest went back.
    assert_message_count(&admin, &queue, 2);
    let mut program = Program::start("consume", &url(), &queue);
    program.wait_for("busy");
    twice("a busy callback", signal, program);
    assert_message_count(&admin, &queue, 2);
}

fn idle_consumer(signal: &str) {
    let mut fixture = Fixture::new();
    let queue = fixture.queue("idle");
    channel()
        .queue_declare(QueueDeclare::new(&queue).durable(true))
        .unwrap();
    let mut program = Program::start("consume", &url(), &queue);
    program.wait_for("ready");
    program.ask(signal);
    let ended = program.end(Duration::from_secs(10));
    assert_eq!(exit_code_of("an idle consumer", signal, 1, ended), 0);
    let mut program = Program::start("consume", &url(), &queue);
    program.wait_for("ready");
    twice_at_once("an idle consumer", signal, program, 0);
}

fn silent_broker(signal: &str) {
    let mut fixture = Fixture::new();
    let queue = fixture.queue("silent");
    channel()
        .queue_declare(QueueDeclare::new(&queue).durable(true))
        .unwrap();
    for times in [1, 2] {
        let proxy = Proxy::start();
        let mut program = Program::start("consume", &proxy.url(), &queue);
        program.wait_for("ready");
        proxy.pause();
        if times == 2 {
            twice("a silent broker", signal, program);
            continue;
        }
        program.ask(signal);
        // Two seconds for the consumers, two for the end of the connection, two for its last bytes.
        let ended = program.end(Duration::from_secs(15));
        assert_eq!(exit_code_of("a silent broker", signal, 1, ended), 0);
    }
}

fn waiting_publisher(signal: &str) {
    let peer = Peer::serve(2, |_, session| {
        session.handshake();
        session.open_channel(1);
        session.expect(1, m::CONFIRM_SELECT);
        session.send_method(1, m::CONFIRM_SELECT_OK, Args::new());
        session.serve_until_end();
    });
    let mut program = Program::start("publish", &peer.url(), "");
    program.wait_for("ready");
    program.ask(signal);
    let ended = program.end(Duration::from_secs(10));
    assert_eq!(
        exit_code_of("a waiting publisher", signal, 1, ended),
        STOPPED
    );
    let mut program = Program::start("publish", &peer.url(), "");
    program.wait_for("ready");
    twice_at_once("a waiting publisher", signal, program, STOPPED);
}

fn pause_of_a_supervisor(signal: &str) {
    let refused = RefusedPort::new();
    let url = format!("amqp://{}", refused.address());
    let mut program = Program::start("supervise", &url, "");
    program.wait_for("ready");
    program.ask(signal);
    let ended = program.end(Duration::from_secs(10));
    assert_eq!(
        exit_code_of("a supervisor's pause", signal, 1, ended),
        STOPPED
    );
    let mut program = Program::start("supervise", &url, "");
    program.wait_for("ready");
    twice_at_once("a supervisor's pause", signal, program, STOPPED);
}
