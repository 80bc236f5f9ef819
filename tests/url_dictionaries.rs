//! The dictionaries in an AMQP URL's options, as pika reads them: what an error says of them.

use haypile::{ConnectionParameters, Error};

/// Which key is wrong, and what stands there, unless that may be a secret.
#[test]
fn the_wrong_entry_of_a_dictionary_is_named() {
    let key = "tcp_options, key TCP_KEEPCNT";
    let mut cases = vec![
        (
            "tcp_options={'TCP_NODELAY':1}",
            "tcp_options",
            "the key \"TCP_NODELAY\"",
        ),
        (
            "tcp_options={'TCP_KEEPIDLE':1,'a+b':1}",
            "tcp_options",
            "a value (not shown)",
        ),
        (
            "tcp_options={'TCP_KEEPIDLE':1,'TCP_KEEPCNT':'x'}",
            key,
            "\"x\"",
        ),
        ("tcp_options={'TCP_KEEPCNT':-1}", key, "-1"),
        ("tcp_options={'TCP_KEEPCNT':4294967296}", key, "4294967296"),
        (
            "tcp_options={'TCP_KEEPCNT':1.5}",
            key,
            "a value (not shown)",
        ),
        (
            "tcp_options={'TCP_KEEPCNT':['hush']}",
            key,
            "a value (not shown)",
        ),
        (
            "tcp_options={'TCP_KEEPCNT':{'password':'hush'}}",
            key,
            "a value (not shown)",
        ),
        (
            "tcp_options={'TCP_KEEPCNT':'hush%40host'}",
            key,
            "a value (not shown)",
        ),
    ];
    if cfg!(feature = "tls") {
        let verify = "ssl_options, key verify";
        cases.extend([
            (
                "ssl_options={'certfile':'a','password':'hush'}",
                "ssl_options",
                "the key \"password\"",
            ),
            (
                "ssl_options={'certfile':1}",
                "ssl_options, key certfile",
                "1",
            ),
            (
                "ssl_options={'keyfile':['k.pem','hush']}",
                "ssl_options, key keyfile",
                "a value (not shown)",
            ),
            (
                "ssl_options={'cafile':''}",
                "ssl_options, key cafile",
                "\"\"",
            ),
            ("ssl_options={'verify':'maybe'}", verify, "\"maybe\""),
            ("ssl_options={'verify':2}", verify, "2"),
            (
                "ssl_options={'cafile':'a','ca_certs':'b'}",
                "ssl_options, key cafile",
                "\"a\"",
            ),
            (
                "certfile=a&ssl_options={'certfile':'b'}",
                "ssl_options, key certfile",
                "\"b\"",
            ),
        ]);
    }
    for (query, field, value) in cases {
        let scheme = if query.contains("ssl") {
            "amqps"
        } else {
            "amqp"
        };
        let error = ConnectionParameters::from_url(format!("{scheme}://host?{query}")).unwrap_err();
        let text = error.to_string();
        let Error::InvalidParameter { field: named, .. } = error else {
            panic!("{error:?}");
        };
        assert_eq!(*named, *format!("url option {field}"), "{query}");
        let given = format!("{named}: {value} was given; ");
        assert!(text.starts_with(&given), "{query}: {text}");
        assert!(!text.contains("hush"), "{text}");
    }
}
