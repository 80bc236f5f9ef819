//! Whatever a URL looks like, no part of its user name and password comes out of it elsewhere. No broker is needed.

use haypile::{ConnectionParameters, Error, PlainCredentials};

/// Texts that occur nowhere else, so that each of them is recognized wherever it comes out.
const PARTS: [&str; 4] = ["Qx7Kp", "Zv3Wd", "Jy9Ht", "Bk5Nf"];

/// That no part comes out of the refusal, or that exactly this user and password were read for the host.
#[track_caller]
fn check(url: &str, user: &str, password: &str) -> bool {
    match ConnectionParameters::from_url(url) {
        Ok(parameters) => {
            let expected = ConnectionParameters::new("rabbit.example")
                .credentials(PlainCredentials::new(user, password));
            assert_eq!(parameters, expected, "{url}");
            let shown = format!("{parameters:?}{parameters:#?}");
            assert!(!password.is_empty() && !shown.contains(password), "{shown}");
            true
        }
        Err(error) => {
            silent(url, &error);
            false
        }
    }
}

#[track_caller]
fn silent(url: &str, error: &Error) {
    let shown = format!("{error} {error:?} {error:#?}");
    for part in PARTS {
        assert!(!shown.contains(part), "{url}: {shown}");
    }
    for digits in ["13579", "2468", "97531"] {
        assert!(!shown.contains(digits), "{url}: {shown}");
    }
}

/// Every way to put up to three of these between parts of a password.
#[test]
fn a_password_with_raw_characters_stays_where_it_is() {
    let characters = [
        "", "/", "?", "#", "@", ":", "%", "&", "=", "+", "[", "]", "//", "\\", "{", "'", " ", ";",
        "://",
    ];
    let (mut taken, mut refused) = (0, 0);
    for one in characters {
        for two in characters {
            for three in characters {
                let [a, b, c, d] = PARTS;
                let password = format!("{a}{one}{b}{two}{c}{three}{d}");
                let url = format!("amqp://user:{password}@rabbit.example");
                if check(&url, "user", &password) {
                    taken += 1;
                } else {
                    refused += 1;
                }
            }
        }
    }
    assert!(taken > 1000 && refused > 1000, "{taken} {refused}");
}

#[test]
fn nor_does_one_that_looks_like_another_part() {
    for password in [
        "?Qx7Kp=x",
        "?Qx7Kp",
        "?heartbeat=Qx7Kp",
        "?locale=Qx7Kp&Zv3Wd",
        "?client_properties=Qx7Kp",
        "?auth_mechanism=Qx7Kp",
        "13579/Qx7Kp",
        "2468/Qx7Kp",
        "2468?Qx7Kp=1",
        "2468#Qx7Kp",
        "97531",
        "97531/",
        "/",
        "/Qx7Kp",
        "//Qx7Kp",
        "//Qx7Kp:Zv3Wd",
        "#Qx7Kp",
        "/Qx7Kp?Zv3Wd=1",
        "/@Qx7Kp",
        "Qx7Kp/@Zv3Wd",
        "@/Qx7Kp",
        "[Qx7Kp",
        "[::1]/Qx7Kp",
        "%Qx7Kp",
        "%2",
        "\u{e9}/Qx7Kp",
    ] {
        for user in ["user", "us:er", "us@er", "", "us/er", "us?er"] {
            let url = format!("amqp://{user}:{password}@rabbit.example");
            match ConnectionParameters::from_url(&url) {
                Ok(parameters) => {
                    let shown = format!("{parameters:?}");
                    assert!(shown.contains("host: \"rabbit.example\""), "{shown}");
                    assert!(shown.contains("virtual_host: \"/\""), "{shown}");
                }
                Err(error) => silent(&url, &error),
            }
        }
    }
}

/// An '@' behind the host is looked for before anything else, and the error names how to write what was meant.
#[test]
fn a_raw_at_sign_behind_the_host_is_refused_first() {
    for url in [
        "amqp://user:Qx7Kp/Zv3Wd@rabbit.example",
        "amqp://user:?Qx7Kp=x@rabbit.example",
        "amqp://user:Qx7Kp#Zv3Wd@rabbit.example",
        "amqp://user:1/Qx7Kp@rabbit.example/orders?heartbeat=1",
        // which would be wrong without it as well
        "amqp://user:70000/Qx7Kp@rabbit.example",
        "amqp://us er:Qx7Kp/Zv3Wd@rabbit.example",
        "amqp://us%er:Qx7Kp/Zv3Wd@rabbit.example",
        "Qx7Kp://user:Zv3Wd/Jy9Ht@rabbit.example",
        "amqps://user:Qx7Kp/Zv3Wd@rabbit.example",
        // where it could be meant, too
        "amqp://rabbit.example/Qx7Kp@Zv3Wd",
        "amqp://rabbit.example?client_properties={'connection_name':'Qx7Kp@Zv3Wd'}",
    ] {
        let error = ConnectionParameters::from_url(url).unwrap_err();
        silent(url, &error);
        let text = error.to_string();
        for part in ["'@'", "'/' is written %2F", "%3F", "%23", "%40"] {
            assert!(text.contains(part), "{url}: {text}");
        }
    }
    let encoded = ConnectionParameters::from_url("amqp://rabbit.example/a%40b").unwrap();
    let expected = ConnectionParameters::new("rabbit.example").virtual_host("a@b");
    assert_eq!(encoded, expected);
}

#[test]
fn what_is_missing_does_not_show_the_rest() {
    for url in [
        "user:Qx7Kp@rabbit.example",
        "Qx7Kp:Zv3Wd@rabbit.example",
        "Qx7Kp://Zv3Wd@rabbit.example",
        "amqp:user:Qx7Kp@rabbit.example",
        "amqp:/user:Qx7Kp@rabbit.example",
        "amqp//user:Qx7Kp@rabbit.example",
        "amqp:///user:Qx7Kp@rabbit.example",
        "amqp://user:Qx7Kp",
        "amqp://user:Qx7Kp/Zv3Wd",
        "amqp://user:Qx7Kp?Zv3Wd",
        "amqp://user:?Qx7Kp=x",
        "amqp://user:?Qx7Kp=x%40rabbit.example",
        "amqp://user:1357913579/orders",
        "amqp://Qx7Kp@rabbit.example",
        "amqp://user%3AQx7Kp%40rabbit.example",
        "amqp://user%3AQx7Kp",
        "amqp%3A%2F%2Fuser:Qx7Kp@rabbit.example",
        "amqp://amqp://user:Qx7Kp@rabbit.example",
        "\"amqp://user:Qx7Kp@rabbit.example\"",
        " amqp://user:Qx7Kp@rabbit.example",
        "amqp://user:Qx7Kp@rabbit.example:99999999",
        "amqp://user:Qx7Kp@rabbit.example:5672x",
        "amqp://user:Qx7Kp@rabbit.example:5672:5672",
        "amqp://user:Qx7Kp@rabbit.example/orders/more",
        "amqp://user:Qx7Kp@rabbit.example?nonesuch=1",
        "amqp://user:Qx7Kp@rabbit.example?heartbeat=x",
        "amqp://user:Qx7Kp@rabbit.example\n",
        "amqp://user:Qx7Kp\n@rabbit.example",
    ] {
        silent(url, &ConnectionParameters::from_url(url).expect_err(url));
    }
}

/// What is no host does not get as far as a name server.
#[test]
fn nor_does_what_stands_where_a_host_belongs() {
    for host in [
        "amqp://user:Qx7Kp@rabbit.example",
        "user:Qx7Kp@rabbit.example",
        "user:Qx7Kp",
        "rabbit.example:5672",
        "Qx7Kp?Zv3Wd",
        "Qx7Kp#Zv3Wd",
        "[::1]:5672",
        "Qx7Kp/Zv3Wd",
    ] {
        let error = haypile::Connection::open(ConnectionParameters::new(host)).expect_err(host);
        assert!(
            matches!(&error, Error::InvalidParameter { field, .. } if &**field == "host"),
            "{error:?}"
        );
        silent(host, &error);
    }
}
