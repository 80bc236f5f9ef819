//! What the examples make of their command lines.

use super::*;

#[test]
fn takes_the_broker_in_parts_or_as_url() {
    let scene = Scene::new();
    let url = Url::parse(&scene.vhost().url);
    let Url {
        user, host, port, ..
    } = &url;
    let vhost = url.vhost.replace("%2f", "/").replace("%2F", "/");
    let login = format!("--password={}", url.password);
    let parts = [
        "--host", host, "--port", port, "--user", user, &login, "--vhost", &vhost,
    ];
    for arguments in [&parts[..], &["--url", &scene.vhost().url]] {
        // Neither takes anything from the environment then.
        let mut command = Command::new(harness::example("send"));
        command
            .args(arguments)
            .args(["--prefix", &scene.name("")])
            .env("AMQP_URL", "amqp://127.0.0.1:1");
        harness::Running::start("send".into(), "", command).finish();
        assert_eq!(scene.take("hello").2, b"Hello World");
    }
}

#[test]
fn explains_itself() {
    let scene = Scene::new();
    let help = scene.run(Rust, "receive", &["--help"]).join("\n");
    for expected in [
        "Usage: receive [OPTIONS]",
        "--count N",
        "--url URL",
        "--vhost NAME",
    ] {
        assert!(help.contains(expected), "{help}");
    }
}

#[test]
fn refuses_mistakes() {
    let scene = Scene::new();
    for (arguments, complaint) in [
        (&["--colour", "red"][..], "receive: unknown option --colour"),
        (&["--count"], "receive: --count needs a value: N"),
        (
            &["--count", "many"],
            "receive: --count: \"many\" is not a number of messages",
        ),
        (&["--count", "0"], "receive: --count: must be 1 or more"),
        (
            &["--count", "1", "--count=2"],
            "receive: --count is given twice",
        ),
        (&["--durable=yes"], "receive: --durable takes no value"),
        (&["word"], "receive: \"word\" is not expected here"),
        (
            &["--port", "70000"],
            "receive: --port: \"70000\" is not a port number",
        ),
        (&["--url", "http://localhost"], "receive: --url: "),
        (
            &["--url", "amqp://localhost", "--host", "localhost"],
            "receive: give either --url or its parts, not both",
        ),
    ] {
        let Ended {
            code,
            stdout,
            stderr,
        } = scene.start(Rust, "receive", arguments).end();
        assert_eq!(
            (code, stdout.len(), stderr.len()),
            (Some(2), 0, 1),
            "{arguments:?}: {stderr:?}"
        );
        assert!(
            stderr[0].starts_with(complaint),
            "{arguments:?}: {stderr:?}"
        );
        assert!(stderr[0].ends_with(" (--help says more)"), "{stderr:?}");
    }
}

/// An address that cannot be read is not taken for none, which would be guest on localhost.
#[cfg(unix)]
#[test]
fn refuses_what_is_not_utf_8_and_does_not_show_it() {
    use std::os::unix::ffi::OsStrExt;
    let bytes = b"amqp://nobody:s3cret\xff@127.0.0.1:1/";
    let text = std::ffi::OsStr::from_bytes(bytes);
    for argument in [false, true] {
        let mut command = Command::new(harness::example("send"));
        if argument {
            command.arg("--url").arg(text);
        } else {
            command.env("AMQP_URL", text);
        }
        let ended = harness::Running::start("send".into(), "", command).end();
        assert_eq!((ended.code, ended.stderr.len()), (Some(2), 1));
        let complaint = &ended.stderr[0];
        assert!(
            complaint.contains("is not UTF-8") && !complaint.contains("s3cret"),
            "{complaint}"
        );
    }
}

#[test]
fn reports_a_refused_login_in_one_line_without_the_password() {
    let scene = Scene::new();
    let Url { host, port, .. } = Url::parse(&scene.vhost().url);
    let url = format!("amqp://nobody:s3cret@{host}:{port}/");
    let Ended { code, stderr, .. } = scene.start(Rust, "send", &["--url", &url]).end();
    assert_eq!((code, stderr.len()), (Some(1), 1), "{stderr:?}");
    assert!(
        stderr[0].starts_with("Error: cannot connect to ") && !stderr[0].contains("s3cret"),
        "{stderr:?}"
    );
}
