//! Runs a command with `AMQP_URL` pointing at a broker inside this process (`haypile::testing`), and ends with the command's
//! exit code. Without a command, serves until its standard input ends. `scripts/with-broker --testing` uses it.
//!
//! `testing_broker [--vhost NAME]... [COMMAND [ARGUMENT...]]`

use std::io::Read;
use std::process::{Command, ExitCode};

use haypile::testing::Broker;

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1).peekable();
    let mut builder = Broker::builder();
    while arguments.next_if(|next| next == "--vhost").is_some() {
        let name = arguments.next().ok_or("--vhost needs a name")?;
        builder = builder.virtual_host(name.to_string_lossy());
    }
    let broker = builder.start()?;
    let Some(program) = arguments.next() else {
        println!("{}", broker.url());
        std::io::stdin().read_to_end(&mut Vec::new())?;
        return Ok(ExitCode::SUCCESS);
    };
    let status = Command::new(&program)
        .args(arguments)
        .env("AMQP_URL", broker.url())
        // There is none, and another broker's would be wrong.
        .env_remove("RABBITMQCTL")
        .status()
        .map_err(|error| format!("{}: {error}", program.to_string_lossy()))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}
