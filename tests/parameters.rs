//! What a connection is opened with: parameters, credentials, URLs; and the request values. No broker is needed.

use std::time::Duration;

use haypile::{
    AmqPlainCredentials, BasicAck, BasicConsume, BasicGet, BasicNack, BasicProperties,
    BasicPublish, BasicQos, BasicReject, ConnectionParameters, Consume, Credentials, Error,
    ExchangeDeclare, ExchangeDelete, ExchangeType, ExternalCredentials, FieldTable, Heartbeat,
    IntoParameters, PlainCredentials, QueueDeclare, QueueDelete, TcpOptions,
};

fn url(url: &str) -> ConnectionParameters {
    ConnectionParameters::from_url(url).unwrap()
}

fn localhost() -> ConnectionParameters {
    ConnectionParameters::default()
}

/// Field and whole text of the error for this URL.
#[track_caller]
fn refused(url: &str) -> (String, String) {
    fields(ConnectionParameters::from_url(url).expect_err(url))
}

#[track_caller]
fn refused_when_opened(parameters: ConnectionParameters) -> (String, String) {
    fields(parameters.into_parameters().unwrap_err())
}

#[track_caller]
fn fields(error: Error) -> (String, String) {
    let text = error.to_string();
    assert!(!text.ends_with('.'), "{text}");
    match error {
        Error::InvalidParameter { field, .. } => (field.into(), text),
        Error::ShortStringTooLong { field, .. } => (field.into(), text),
        other => panic!("{other:?}"),
    }
}

// parameters

#[test]
fn a_url_and_the_setters_mean_the_same() {
    assert_eq!(url("amqp://"), localhost());
    assert_eq!(url("amqp://localhost:5672/%2f"), localhost());
    assert_eq!(
        url("amqp://user:pass@host:10000/v%2fhost?heartbeat=30"),
        ConnectionParameters::new("host")
            .port(10000)
            .virtual_host("v/host")
            .credentials(PlainCredentials::new("user", "pass"))
            .heartbeat(30)
    );
    assert_eq!(
        ConnectionParameters::new("x").host("localhost"),
        localhost()
    );
    assert_eq!(
        "amqp://host".parse::<ConnectionParameters>().unwrap(),
        ConnectionParameters::new("host")
    );
    assert_eq!(
        ConnectionParameters::from_url(String::from("amqp://host")).unwrap(),
        ConnectionParameters::new("host")
    );
}

#[test]
fn every_field_counts_in_a_comparison() {
    let others = [
        localhost().host("other"),
        localhost().port(5673),
        localhost().virtual_host("other"),
        localhost().credentials(PlainCredentials::new("other", "guest")),
        localhost().credentials(PlainCredentials::new("guest", "other")),
        localhost().credentials(PlainCredentials::new("guest", "guest").erase_on_connect(true)),
        localhost().credentials(AmqPlainCredentials::new("guest", "guest")),
        localhost().credentials(ExternalCredentials),
        localhost().channel_max(7),
        localhost().frame_max(8192),
        localhost().heartbeat(0),
        localhost().heartbeat(Heartbeat::negotiate(|server| server)),
        localhost().connection_attempts(2),
        localhost().retry_delay(Duration::ZERO),
        localhost().socket_timeout(None),
        localhost().stack_timeout(None),
        localhost().blocked_connection_timeout(Duration::ZERO),
        localhost().rpc_timeout(Duration::from_secs(1)),
        localhost().locale("de_DE"),
        localhost().client_property("connection_name", "other"),
        localhost().tcp_options(TcpOptions::new().keepcnt(1)),
    ];
    for (n, one) in others.iter().enumerate() {
        assert_ne!(*one, localhost());
        assert_eq!(one.into_parameters().unwrap(), std::slice::from_ref(one));
        for another in &others[n + 1..] {
            assert_ne!(one, another);
        }
    }
}

#[test]
fn the_password_is_not_shown() {
    for credentials in [
        Credentials::from(PlainCredentials::new("orders", "hush")),
        AmqPlainCredentials::new("orders", "hush").into(),
        Credentials::FirstOffered(vec![
            ExternalCredentials.into(),
            PlainCredentials::new("orders", "hush").into(),
        ]),
    ] {
        assert!(!format!("{credentials:#?}").contains("hush"));
        let parameters = localhost().credentials(credentials);
        assert!(!format!("{parameters:?}{parameters:#?}").contains("hush"));
        assert!(format!("{parameters:?}").contains("orders"));
    }
    assert!(!format!("{:?}", url("amqp://orders:hush@host")).contains("hush"));
}

#[test]
fn what_is_out_of_range_is_refused_by_name_value_and_range() {
    for (parameters, field, parts) in [
        (
            localhost().frame_max(8191),
            "frame_max",
            ["8191", "8192 to 131072"],
        ),
        (
            localhost().frame_max(131_073),
            "frame_max",
            ["131073", "8192 to 131072"],
        ),
        (
            localhost().frame_max(0),
            "frame_max",
            [" 0 ", "8192 to 131072"],
        ),
        (
            localhost().channel_max(0),
            "channel_max",
            [" 0 ", "1 to 65535"],
        ),
        (
            localhost().connection_attempts(0),
            "connection_attempts",
            [" 0 ", "at least 1"],
        ),
        (
            localhost().socket_timeout(Duration::ZERO),
            "socket_timeout",
            ["0 s", "more than zero"],
        ),
        (
            localhost().stack_timeout(Duration::ZERO),
            "stack_timeout",
            ["0 s", "more than zero"],
        ),
        (
            localhost().rpc_timeout(Duration::ZERO),
            "rpc_timeout",
            ["0 s", "more than zero"],
        ),
        (localhost().host(""), "host", ["\"\"", "address"]),
        (localhost().host("a\0b"), "host", ["a\\0b", "address"]),
        (localhost().host("a b"), "host", ["a b", "address"]),
        (localhost().port(0), "port", [" 0 ", "1 to 65535"]),
        (
            localhost().virtual_host("v".repeat(256)),
            "virtual_host",
            ["256", "255"],
        ),
        (
            localhost().locale("l".repeat(256)),
            "locale",
            ["256", "255"],
        ),
        (
            localhost().tcp_options(TcpOptions::new().keepidle(Duration::ZERO)),
            "tcp_options: keepidle",
            ["0 ms", "1 to 32767"],
        ),
        (
            localhost().tcp_options(TcpOptions::new().keepintvl(Duration::MAX)),
            "tcp_options: keepintvl",
            ["", "1 to 32767"],
        ),
        (
            localhost().tcp_options(TcpOptions::new().keepcnt(128)),
            "tcp_options: keepcnt",
            ["128", "1 to 127"],
        ),
        (
            localhost().tcp_options(TcpOptions::new().user_timeout(Duration::MAX)),
            "tcp_options: user_timeout",
            ["", "2147483647 ms"],
        ),
        (
            localhost().client_property("capabilities", 1),
            "client property capabilities",
            ["", "table"],
        ),
        (
            localhost().credentials(Credentials::FirstOffered(vec![])),
            "credentials",
            ["", "at least one"],
        ),
    ] {
        let (named, text) = refused_when_opened(parameters);
        assert_eq!(named, field);
        for part in parts {
            assert!(text.contains(part), "{text} lacks {part}");
        }
    }
}

#[test]
fn the_edges_of_the_ranges_are_allowed() {
    for parameters in [
        localhost().frame_max(8192),
        localhost().frame_max(131_072),
        localhost().channel_max(1),
        localhost().channel_max(65535),
        localhost().connection_attempts(1),
        localhost().retry_delay(Duration::ZERO),
        localhost().retry_delay(Duration::MAX),
        localhost()
            .socket_timeout(Duration::from_nanos(1))
            .stack_timeout(Duration::MAX),
        localhost().socket_timeout(None).stack_timeout(None),
        localhost().blocked_connection_timeout(Duration::ZERO),
        localhost().blocked_connection_timeout(None),
        localhost()
            .virtual_host("v".repeat(255))
            .locale("l".repeat(255)),
        localhost().virtual_host("").locale(""),
        localhost().tcp_options(TcpOptions::new().user_timeout(Duration::ZERO).keepcnt(127)),
        localhost().host("[::1]"),
    ] {
        parameters.into_parameters().unwrap();
    }
}

#[test]
fn secrets_do_not_come_out_of_refusals() {
    let (field, text) =
        refused_when_opened(localhost().credentials(PlainCredentials::new("user", "hu\0sh")));
    assert!(field.contains("password") && !text.contains("hu"), "{text}");
    let (field, text) =
        refused_when_opened(localhost().credentials(PlainCredentials::new("us\0er", "hush")));
    assert!(
        field.contains("user name") && !text.contains("hush"),
        "{text}"
    );
    // a URL where a host belongs
    let (_, text) = refused_when_opened(ConnectionParameters::new("amqp://user:hush@host"));
    assert!(
        text.contains("from_url") && !text.contains("hush"),
        "{text}"
    );
}

#[test]
fn parameters_come_in_many_shapes() {
    let (one, two) = (
        ConnectionParameters::new("one"),
        ConnectionParameters::new("two"),
    );
    let alone = [one.clone()];
    let both = [one.clone(), two.clone()];
    assert_eq!(one.clone().into_parameters().unwrap(), alone);
    assert_eq!((&one).into_parameters().unwrap(), alone);
    assert_eq!("amqp://one".into_parameters().unwrap(), alone);
    assert_eq!(String::from("amqp://one").into_parameters().unwrap(), alone);
    assert_eq!(
        (&String::from("amqp://one")).into_parameters().unwrap(),
        alone
    );
    assert_eq!([one.clone(), two.clone()].into_parameters().unwrap(), both);
    assert_eq!([&one, &two].into_parameters().unwrap(), both);
    assert_eq!(
        (&[one.clone(), two.clone()]).into_parameters().unwrap(),
        both
    );
    assert_eq!(
        vec![one.clone(), two.clone()].into_parameters().unwrap(),
        both
    );
    assert_eq!(
        (&vec![one.clone(), two.clone()]).into_parameters().unwrap(),
        both
    );
    assert_eq!(vec![one, two][..].into_parameters().unwrap(), both);
    assert_eq!(
        ["amqp://one", "amqp://two"].into_parameters().unwrap(),
        both
    );
    assert_eq!(
        vec![String::from("amqp://one"), String::from("amqp://two")]
            .into_parameters()
            .unwrap(),
        both
    );
}

#[test]
fn an_empty_list_is_refused() {
    for error in [
        Vec::<ConnectionParameters>::new()
            .into_parameters()
            .unwrap_err(),
        <[&str; 0]>::into_parameters([]).unwrap_err(),
        (&[] as &[String]).into_parameters().unwrap_err(),
    ] {
        assert!(error.to_string().contains("at least one"), "{error}");
    }
}

#[test]
fn one_wrong_of_several_is_refused() {
    assert!([localhost(), localhost().port(0)]
        .into_parameters()
        .is_err());
    assert!(["amqp://one", "http://two"].into_parameters().is_err());
}

#[test]
fn heartbeats_compare_and_describe_themselves() {
    assert_eq!(Heartbeat::from(5), Heartbeat::from(Some(5)));
    assert_ne!(Heartbeat::from(5), Heartbeat::from(6));
    assert_eq!(Heartbeat::from(None), Heartbeat::default());
    let asked = Heartbeat::negotiate(|server| server.min(60));
    assert_eq!(asked, asked.clone());
    assert_ne!(asked, Heartbeat::negotiate(|server| server.min(60)));
    assert!(format!("{:?}", Heartbeat::from(5)).contains('5'));
    assert!(!format!("{asked:?}{:?}", Heartbeat::default()).is_empty());
    assert_eq!(
        localhost().heartbeat(asked.clone()),
        localhost().heartbeat(asked)
    );
}

#[test]
fn parameters_travel_between_threads() {
    fn travels<T: Send + Sync + Clone + 'static>() {}
    travels::<ConnectionParameters>();
    travels::<BasicPublish<'static>>();
}

// URLs

#[test]
fn every_numeric_option_is_read() {
    assert_eq!(
        url("amqp://?channel_max=7&frame_max=8192&heartbeat=0&connection_attempts=3&retry_delay=0.25&socket_timeout=1.5\
             &stack_timeout=20&blocked_connection_timeout=0&rpc_timeout=5&locale=en%5FUS"),
        localhost()
            .channel_max(7)
            .frame_max(8192)
            .heartbeat(0)
            .connection_attempts(3)
            .retry_delay(Duration::from_millis(250))
            .socket_timeout(Duration::from_millis(1500))
            .stack_timeout(Duration::from_secs(20))
            .blocked_connection_timeout(Duration::ZERO)
            .rpc_timeout(Duration::from_secs(5))
    );
    assert_eq!(
        url("amqp://?connection_timeout=10500"),
        localhost().socket_timeout(Duration::from_millis(10500))
    );
    assert_eq!(url("amqp://?"), localhost());
    assert_eq!(url("amqp://?&heartbeat=9&"), localhost().heartbeat(9));
}

#[test]
fn dictionaries_are_read() {
    let mut properties = FieldTable::new();
    properties.insert("connection_name", "a b+c");
    properties.insert("n", 5);
    let expected = localhost().client_properties(properties);
    // as Python's quote and its urlencode write it, and as JSON
    assert_eq!(url("amqp://?client_properties=%7B%27connection_name%27%3A%20%27a%20b%2Bc%27%2C%20%27n%27%3A%205%7D"), expected);
    assert_eq!(url("amqp://?client_properties=%7B%27connection_name%27%3A+%27a+b%2Bc%27%2C+%27n%27%3A+5%7D"), expected);
    assert_eq!(
        url("amqp://?client_properties={\"connection_name\":\"a%20b%2Bc\",\"n\":5}"),
        expected
    );
    assert_eq!(
        url("amqp://?client_properties=None&tcp_options=None"),
        localhost()
    );
    assert_eq!(
        url("amqp://?tcp_options={'TCP_KEEPIDLE':60,'TCP_KEEPINTVL':10,'TCP_KEEPCNT':3,'TCP_USER_TIMEOUT':30000}"),
        localhost().tcp_options(
            TcpOptions::new()
                .keepidle(Duration::from_secs(60))
                .keepintvl(Duration::from_secs(10))
                .keepcnt(3)
                .user_timeout(Duration::from_secs(30))
        )
    );
}

#[test]
fn an_unknown_option_is_named_and_the_known_ones_listed() {
    let (_, text) = refused("amqp://host?heartbeet=5");
    assert!(
        text.contains("heartbeet") && text.contains("heartbeat") && text.contains("cacertfile"),
        "{text}"
    );
    assert!(refused("amqp://host?Heartbeat=5").1.contains("Heartbeat"));
    assert!(refused("amqp://host?=5").1.contains("the options are"));
}

#[test]
fn a_repeated_option_is_named() {
    let (field, text) = refused("amqp://host?heartbeat=5&heartbeat=5");
    assert!(
        field.contains("heartbeat") && text.contains("once"),
        "{text}"
    );
    let (_, text) = refused("amqp://host?socket_timeout=5&connection_timeout=5000");
    assert!(
        text.contains("connection_timeout") && text.contains("socket_timeout"),
        "{text}"
    );
    assert!(
        refused("amqp://host?auth_mechanism=plain&auth_mechanism=plain")
            .0
            .contains("auth_mechanism")
    );
}

#[test]
fn a_wrong_value_is_refused_with_option_value_and_range() {
    for (option, value, range) in [
        ("heartbeat", "soon", "65535"),
        ("heartbeat", "-1", "65535"),
        ("heartbeat", "+1", "65535"),
        ("heartbeat", "1.5", "65535"),
        ("heartbeat", "65536", "65535"),
        ("heartbeat", "99999999999999999999999", "65535"),
        ("heartbeat", "", "65535"),
        ("channel_max", "0", "1 to 65535"),
        ("channel_max", "65536", "1 to 65535"),
        ("frame_max", "4096", "8192 to 131072"),
        ("frame_max", "131073", "8192 to 131072"),
        ("connection_attempts", "0", "1 to 4294967295"),
        ("connection_timeout", "0", "milliseconds"),
        ("connection_timeout", "1.5", "milliseconds"),
        ("socket_timeout", "0", "more than 0"),
        ("socket_timeout", "1e-30", "more than 0"),
        ("stack_timeout", "-1", "more than 0"),
        ("rpc_timeout", "0.0", "more than 0"),
        ("retry_delay", "nan", "0 or more"),
        ("retry_delay", "inf", "0 or more"),
        ("retry_delay", "1e300", "0 or more"),
        ("retry_delay", "-0.5", "0 or more"),
        ("blocked_connection_timeout", "-1", "0 or more"),
        ("blocked_connection_timeout", "", "0 or more"),
        ("auth_mechanism", "kerberos", "plain, amqplain or external"),
    ] {
        let (field, text) = refused(&format!("amqp://host?{option}={value}"));
        assert_eq!(field, format!("url option {option}"));
        assert!(
            text.contains(&format!("\"{value}\"")) && text.contains(range),
            "{text}"
        );
    }
    assert_eq!(
        refused(&format!("amqp://host?locale={}", "l".repeat(256))).0,
        "locale"
    );
}

#[test]
fn a_wrong_dictionary_is_refused() {
    for (option, value, expected) in [
        ("client_properties", "", "dictionary"),
        ("client_properties", "[1]", "dictionary"),
        ("client_properties", "{'a':}", "expected"),
        ("client_properties", "{'a':1e999}", "finite"),
        ("client_properties", "{'a':99999999999999999999}", "64 bits"),
        ("client_properties", "{'capabilities':5}", "table"),
        ("tcp_options", "{'TCP_NODELAY':1}", "TCP_KEEPIDLE"),
        ("tcp_options", "{'TCP_KEEPCNT':'x'}", "whole numbers"),
        ("tcp_options", "{'TCP_KEEPCNT':-1}", "whole numbers"),
        ("tcp_options", "{'TCP_KEEPCNT':0}", "1 to 127"),
        ("tcp_options", "5", "dictionary"),
    ] {
        let text = refused(&format!("amqp://host?{option}={value}")).1;
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn every_part_is_percent_decoded_or_refused_by_name() {
    for (text, part) in [
        ("amqp://us%zzer:p@host", "user name"),
        ("amqp://user:p%4@host", "password"),
        ("amqp://user:p%ff@host", "password"),
        ("amqp://%ff:p@host", "user name"),
        ("amqp://ho%fft", "host"),
        ("amqp://ho%", "host"),
        ("amqp://host/v%g1", "virtual host"),
        ("amqp://host/%c3%28", "virtual host"),
        ("amqp://host?locale=%ff", "locale"),
        ("amqp://host?%ff=1", "option name"),
        ("amqp://host?client_properties=%x", "client_properties"),
    ] {
        let (field, text) = refused(text);
        assert!(field.contains(part), "{text}");
        assert!(
            text.contains("hexadecimal") || text.contains("UTF-8"),
            "{text}"
        );
    }
}

#[test]
fn no_password_comes_out_of_an_error() {
    for text in [
        "amqp://user:hush%zz@host",
        "amqp://user:hush%ff@host",
        "amqp://user:hush/x@host",
        "amqp://user:123/hush@host?nonesuch=1",
        "amqp://user:12?hush@host",
        "amqp://user:12?heartbeat=hush@host",
        "amqp://user:12?verify=hush@host",
        "amqp://user:12?locale=a&locale=hush@host",
        "amqp://user:x?hush=1@host",
        "amqp://user:99999/hush@host",
        "amqp://user:1#hush@host",
        "amqp://user:hush@host:port",
        "amqp://user:hush@host:0",
        "amqp://user:hush@a:b:c",
        "amqp://user:hush@[::1",
        "amqp://user:hush@[::1]x",
        "amqp://user:hush@host/a/b",
        "amqp://user:hush@host?nonesuch=1",
        "amqp://user:hush h@host",
        "user:hush@host",
        "hush://host",
        "user:hush://host",
        "amqp:user:hush@host",
        "amqp://user:hush@host?heartbeat=x",
        "http://user:hush@host",
        "amqps://user:hush@host?verify=maybe",
        "amqp://user:1?ssl_options={'password':'hush'}",
        "amqp://user:hush@@/@/?",
    ] {
        // the scheme is no place for a password, and is the one thing that is repeated
        if text == "hush://host" {
            continue;
        }
        let (_, message) = refused(text);
        assert!(!message.contains("hush"), "{text}: {message}");
        assert!(
            !format!("{:?}", ConnectionParameters::from_url(text).unwrap_err()).contains("hush"),
            "{text}"
        );
    }
}

#[test]
fn other_schemes_are_refused_by_name() {
    assert!(refused("http://host").1.contains("http"));
    for text in [
        "",
        "host",
        "host:5672",
        "amqp:host",
        "://host",
        "amqp:/host",
    ] {
        assert!(refused(text).1.contains("amqp://"), "{text}");
    }
    assert_eq!(url("AmQp://host"), ConnectionParameters::new("host"));
}

#[test]
fn hosts_ports_and_brackets() {
    assert_eq!(
        url("amqp://[::1]:5673"),
        ConnectionParameters::new("::1").port(5673)
    );
    assert_eq!(url("amqp://[::1]"), ConnectionParameters::new("[::1]"));
    assert_eq!(url("amqp://host:"), ConnectionParameters::new("host"));
    for text in [
        "amqp://host:0",
        "amqp://host:65536",
        "amqp://host:+1",
        "amqp://host:amqp",
        "amqp://host:5672x",
        "amqp://host:-1",
        "amqp://[::1]:99999999999999999999",
    ] {
        let (field, text) = refused(text);
        assert!(field == "url port" && text.contains("1 to 65535"), "{text}");
    }
    assert!(refused("amqp://host:65536").1.contains("65536"));
    for text in [
        "amqp://::1",
        "amqp://[::1",
        "amqp://[host]",
        "amqp://[]",
        "amqp://[::1]5672",
        "amqp://a:1:2",
    ] {
        assert_eq!(refused(text).0, "url host", "{text}");
    }
    assert_eq!(refused("amqp://ho%00st").0, "host");
    assert!(refused("amqp://host/v\n").1.contains("percent-encoded"));
    assert!(refused("amqp://host/a b").1.contains("percent-encoded"));
}

#[test]
fn virtual_hosts() {
    assert_eq!(
        url("amqp://host"),
        ConnectionParameters::new("host").virtual_host("/")
    );
    assert_eq!(
        url("amqp://host?heartbeat=1"),
        ConnectionParameters::new("host").heartbeat(1)
    );
    assert_eq!(
        url("amqp://host/"),
        ConnectionParameters::new("host").virtual_host("")
    );
    assert_eq!(url("amqp://host/%2F"), ConnectionParameters::new("host"));
    assert_eq!(
        url("amqp://host/%2Fa%2fb"),
        ConnectionParameters::new("host").virtual_host("/a/b")
    );
    assert_eq!(
        url("amqp://host/a%40b:c"),
        ConnectionParameters::new("host").virtual_host("a@b:c")
    );
    assert_eq!(
        url("amqp://host/a+b"),
        ConnectionParameters::new("host").virtual_host("a+b")
    );
    for text in [
        "amqp://host//",
        "amqp://host//v",
        "amqp://host/a/b",
        "amqp://host/v/",
    ] {
        let (field, text) = refused(text);
        assert!(
            field.contains("virtual host") && text.contains("%2f"),
            "{text}"
        );
    }
    assert_eq!(
        refused(&format!("amqp://host/{}", "v".repeat(256))).0,
        "virtual_host"
    );
}

#[test]
fn users_and_passwords() {
    let of =
        |user: &str, password: &str| localhost().credentials(PlainCredentials::new(user, password));
    assert_eq!(url("amqp://user:pass@"), of("user", "pass"));
    assert_eq!(url("amqp://user:@"), of("user", ""));
    assert_eq!(url("amqp://:@"), of("", ""));
    assert_eq!(
        url("amqp://us%3aer:p%40s%2Fs%25%20%E2%82%AC@"),
        of("us:er", "p@s/s% \u{20ac}")
    );
    assert_eq!(url("amqp://a+b:c+d@"), of("a+b", "c+d"));
    for text in ["amqp://user@host", "amqp://@host"] {
        let (field, text) = refused(text);
        assert!(
            field.contains("password") && text.contains("user name needs a password"),
            "{text}"
        );
    }
    assert!(refused("amqp://user:a%00b@host").0.contains("password"));
}

#[test]
fn mechanisms() {
    assert_eq!(
        url("amqp://?auth_mechanism=external"),
        localhost().credentials(ExternalCredentials)
    );
    assert_eq!(
        url("amqp://user@?auth_mechanism=EXTERNAL"),
        localhost().credentials(ExternalCredentials)
    );
    assert_eq!(
        url("amqp://u:p@?auth_mechanism=amqplain"),
        localhost().credentials(AmqPlainCredentials::new("u", "p"))
    );
    assert_eq!(
        url("amqp://u:p@?auth_mechanism=plain"),
        localhost().credentials(PlainCredentials::new("u", "p"))
    );
    assert_eq!(
        url("amqp://u:p@?auth_mechanism=external&auth_mechanism=plain"),
        localhost().credentials(Credentials::FirstOffered(vec![
            ExternalCredentials.into(),
            PlainCredentials::new("u", "p").into()
        ]))
    );
    assert!(
        refused("amqp://user@?auth_mechanism=external&auth_mechanism=plain")
            .0
            .contains("password")
    );
}

#[test]
fn tls_options_need_the_scheme_for_it() {
    for option in [
        "cacertfile=a",
        "certfile=a",
        "keyfile=a",
        "verify=verify_none",
        "server_name_indication=a",
        "ssl_options={}",
    ] {
        let (_, text) = refused(&format!("amqp://host?{option}"));
        assert!(text.contains("amqps://"), "{text}");
    }
    assert_eq!(
        url("amqp://host?ssl_options=None"),
        ConnectionParameters::new("host")
    );
}

#[cfg(not(feature = "tls"))]
#[test]
fn without_the_feature_amqps_is_refused_by_its_name() {
    assert!(refused("amqps://host").1.contains("feature `tls`"));
}

#[cfg(feature = "tls")]
#[test]
fn amqps_has_its_own_port() {
    assert_eq!(url("amqps://host"), url("amqps://host:5671"));
    assert_ne!(
        url("amqps://host:5671"),
        ConnectionParameters::new("host").port(5671)
    );
    assert_ne!(url("amqps://host?verify=verify_none"), url("amqps://host"));
    assert!(refused("amqps://host?ssl_options=None").1.contains("amqps"));
}

// request values

#[test]
fn a_name_is_enough_in_each_of_its_forms() {
    let name = String::from("name");
    macro_rules! same {
        ($($request:ident($($more:expr)?))*) => {
            $(
                let expected = $request::new("name" $(, $more)?);
                assert_eq!($request::from("name"), expected);
                assert_eq!($request::from(&name), expected);
                assert_eq!($request::from(name.clone()), expected);
                assert!(format!("{expected:?}").contains("name"));
                assert_eq!(expected.clone(), expected);
            )*
        };
    }
    same!(QueueDeclare() QueueDelete() ExchangeDelete() BasicConsume() BasicGet() Consume());
    same!(ExchangeDeclare(ExchangeType::Direct));
    assert_eq!(QueueDeclare::new(&name), QueueDeclare::new("name"));
}

#[test]
fn literals_become_requests() {
    fn ack(request: impl Into<BasicAck>) -> BasicAck {
        request.into()
    }
    fn nack(request: impl Into<BasicNack>) -> BasicNack {
        request.into()
    }
    fn reject(request: impl Into<BasicReject>) -> BasicReject {
        request.into()
    }
    fn qos(request: impl Into<BasicQos>) -> BasicQos {
        request.into()
    }
    assert_eq!(ack(1), BasicAck::new(1).multiple(false));
    assert_ne!(ack(1), BasicAck::new(1).multiple(true));
    assert_eq!(nack(2), BasicNack::new(2).multiple(false).requeue(true));
    assert_eq!(reject(3), BasicReject::new(3).requeue(true));
    assert_eq!(qos(4), BasicQos::new(4).prefetch_size(0).global(false));
    assert_eq!(BasicAck::default(), ack(0));
    assert_eq!(BasicNack::default(), nack(0));
    assert_eq!(BasicReject::default(), reject(0));
    assert_eq!(BasicQos::default(), qos(0));
}

#[test]
fn exchange_types_are_known_by_name() {
    for (kind, name) in [
        (ExchangeType::Direct, "direct"),
        (ExchangeType::Fanout, "fanout"),
        (ExchangeType::Topic, "topic"),
        (ExchangeType::Headers, "headers"),
        (ExchangeType::Custom("x-custom".into()), "x-custom"),
    ] {
        assert_eq!(kind.as_str(), name);
        assert_eq!(kind.to_string(), name);
        assert_eq!(ExchangeType::from(name), kind);
        assert_eq!(ExchangeType::from(name.to_owned()), kind);
    }
}

#[test]
fn properties_become_a_publish_borrowed_or_not() {
    fn publish<'a>(request: impl Into<BasicPublish<'a>>) -> BasicPublish<'a> {
        request.into()
    }
    let properties = BasicProperties::new().message_id("42");
    assert_eq!(publish(&properties), publish(properties.clone()));
    assert_eq!(
        publish(&properties),
        BasicPublish::new().properties(&properties)
    );
    assert_eq!(
        publish(&properties),
        BasicPublish::new().properties(properties.clone())
    );
    assert_ne!(
        publish(&properties),
        BasicPublish::new().properties(&properties).mandatory(true)
    );
    assert_eq!(publish(BasicProperties::new()), BasicPublish::default());
}

#[test]
fn arguments_are_part_of_a_request() {
    let mut table = FieldTable::new();
    table.insert("x-priority", 10);
    assert_eq!(
        QueueDeclare::new("q").argument("x-priority", 10),
        QueueDeclare::new("q").arguments(table.clone())
    );
    assert_eq!(
        BasicConsume::new("q").argument("x-priority", 10),
        BasicConsume::new("q").arguments(table.clone())
    );
    assert_eq!(
        Consume::new("q").argument("x-priority", 10),
        Consume::new("q").arguments(table.clone())
    );
    assert_eq!(
        ExchangeDeclare::new("x", "fanout").argument("x-priority", 10),
        ExchangeDeclare::new("x", ExchangeType::Fanout).arguments(table)
    );
    assert_ne!(
        BasicConsume::new("q").consumer_tag("mine"),
        BasicConsume::new("q")
    );
    assert_eq!(Consume::new("q").idle_exit(None), Consume::new("q"));
    assert_ne!(
        Consume::new("q").idle_exit(Duration::ZERO),
        Consume::new("q")
    );
}
