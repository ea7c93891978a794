//! TLS and passwords against a real Mosquitto, for the real agent and the real collector: with the right ones they
//! work; with a wrong authority or a wrong password both say so in their logs, and no reading is lost by it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use gapless_tests::process::{Process, free_port};
use gapless_tests::site::{Site, SiteSpec, tail};
use gapless_tests::{audit, settle, wait};

const WITHIN: Duration = Duration::from_secs(40);

fn openssl(folder: &Path, arguments: &str) {
    let output = Command::new("openssl").current_dir(folder).args(arguments.split(' ')).output();
    let output = output.expect("openssl is installed");
    assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// `NAME.pem` and `NAME.key` of an authority of our own.
fn authority(folder: &Path, name: &str) {
    openssl(
        folder,
        &format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN={name} \
             -addext keyUsage=critical,keyCertSign -keyout {name}.key -out {name}.pem"
        ),
    );
}

/// A certificate for `localhost`, signed by `ca`.
fn server_certificate(folder: &Path, ca: &str) {
    openssl(
        folder,
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -keyout server.key -out server.csr",
    );
    std::fs::write(folder.join("server.ext"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        .expect("writable");
    let sign = format!(
        "x509 -req -in server.csr -CA {ca}.pem -CAkey {ca}.key -CAcreateserial -days 2 -extfile server.ext \
         -out server.pem"
    );
    openssl(folder, &sign);
}

/// A Mosquitto that takes TLS and known users only.
fn mosquitto(folder: &Path, port: u16) -> Process {
    let passwords = folder.join("users");
    let output =
        Command::new("mosquitto_passwd").args(["-c", "-b"]).arg(&passwords).args(["site", "secret"]).output();
    assert!(output.expect("mosquitto_passwd is installed").status.success());
    let file = |name: &str| folder.join(name).display().to_string();
    let text = format!(
        "user root\nlistener {port} 127.0.0.1\ncafile {}\ncertfile {}\nkeyfile {}\nallow_anonymous false\n\
         password_file {}\nmax_inflight_messages 0\n",
        file("good.pem"),
        file("server.pem"),
        file("server.key"),
        passwords.display()
    );
    let config = folder.join("tls.conf");
    std::fs::write(&config, text).expect("writable");
    let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new("mosquitto");
    let process = Process::start(
        "mosquitto",
        command.arg("-c").arg(&config).env("PATH", path),
        &folder.join("tls.log"),
    );
    wait::until("mosquitto to listen", Duration::from_secs(10), || {
        std::net::TcpStream::connect(("127.0.0.1", port)).map(drop).map_err(|e| e.to_string())
    });
    process
}

/// Puts TLS and the password into one of the site's configurations.
fn secure(site: &Site, file: &str, port: u16, user_key: &str, section_end: &str) {
    let text = std::fs::read_to_string(site.path(file)).expect("the site wrote it");
    let begin = text.find("broker = \"mqtt://").expect("a broker");
    let end = begin + text[begin..].find('\n').expect("a line");
    let keys = format!(
        "broker = \"mqtts://localhost:{port}\"\n{user_key} = \"site\"\npassword_file = \"{}\"\nca_file = \"{}\"",
        site.path("password").display(),
        site.path("trusted.pem").display()
    );
    assert!(text[end..].contains(section_end));
    let secured = [&text[..begin], &keys, &text[end..]].concat();
    std::fs::write(site.path(file), secured).expect("writable");
}

fn give(site: &Site, ca: &str, password: &str) {
    std::fs::copy(site.path(&format!("{ca}.pem")), site.path("trusted.pem")).expect("the authority is there");
    std::fs::write(site.path("password"), format!("{password}\n")).expect("writable");
}

/// Both logs say `words`, in any case of letters.
fn both_say(site: &Site, words: &str) {
    for log in ["agent.log", "collector.log"] {
        wait::until(&format!("{log} to say `{words}`"), WITHIN, || {
            let text = std::fs::read_to_string(site.path(log)).unwrap_or_default();
            if text.to_lowercase().contains(words) { Ok(()) } else { Err(tail(&site.path(log), 5)) }
        });
    }
}

#[test]
fn only_the_right_authority_and_password_work_and_nothing_is_lost_meanwhile() {
    let mut site = Site::new(SiteSpec::default());
    let folder = site.folder.path().to_owned();
    authority(&folder, "good");
    authority(&folder, "wrong");
    server_certificate(&folder, "good");
    let port = free_port();
    let _broker = mosquitto(&folder, port);
    secure(&site, "agent.toml", port, "username", "flush");
    secure(&site, "collector.toml", port, "user", "[http]");

    give(&site, "wrong", "secret");
    site.start_agent();
    site.start_collector();
    both_say(&site, "invalid peer certificate");

    // The agent reads authority and password for each connection; the collector at its start.
    give(&site, "good", "guessed");
    site.stop_collector();
    site.start_collector();
    both_say(&site, "refused");

    give(&site, "good", "secret");
    site.stop_collector();
    site.start_collector();
    settle::until_proven(&site, settle::now(), WITHIN);
    for account in audit::stop_and_audit(&mut site, WITHIN) {
        assert!(account.missing.is_empty(), "{account:?}");
        assert!(account.received > 1, "{account:?}");
    }
    site.stop_collector();
}
