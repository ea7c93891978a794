//! The files that we ship for a production broker are true: a real Mosquitto with our ACL lets the main job through
//! and keeps agents apart.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use gapless_tests::process::{Process, free_port};
use gapless_tests::wait;
use rumqttc::{Client, Event, MqttOptions, Packet, QoS};

const SHIPPED: [(&str, &str); 2] = [
    ("mosquitto.conf", include_str!("../../collector/deploy/mosquitto.conf")),
    ("mosquitto.acl", include_str!("../../collector/deploy/mosquitto.acl")),
];

/// The shipped configuration without TLS (certificates are the operator's), on a loopback port, files in `folder`.
fn start(folder: &Path, port: u16) -> Process {
    let [(_, conf), (_, acl)] = SHIPPED;
    let passwords = folder.join("gapless.passwd");
    for (n, user) in ["collector", "gateway-1", "gateway-2"].iter().enumerate() {
        let mut command = Command::new("mosquitto_passwd");
        let create: &[&str] = if n == 0 { &["-c"] } else { &[] };
        let status = command.args(create).arg("-b").arg(&passwords).args([*user, "secret"]).status();
        assert!(
            status.is_ok_and(|s| s.success()),
            "mosquitto_passwd (package mosquitto) makes the password file"
        );
    }
    std::fs::write(folder.join("gapless.acl"), acl).expect("the folder can be written");
    let lines =
        conf.lines().filter(|l| !["cafile", "certfile", "keyfile"].iter().any(|key| l.starts_with(key)));
    let text = lines.collect::<Vec<_>>().join("\n");
    let text = text.replace("listener 8883", &format!("listener {port} 127.0.0.1"));
    let text = format!("user root\n{}\n", text.replace("/etc/mosquitto", &folder.display().to_string()));
    let config = folder.join("mosquitto.conf");
    std::fs::write(&config, text).expect("the folder can be written");
    let mut command = Command::new("/usr/sbin/mosquitto");
    let broker = Process::start("mosquitto", command.arg("-c").arg(&config), &folder.join("mosquitto.log"));
    wait::until_true("mosquitto to listen", Duration::from_secs(10), || {
        std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    broker
}

/// Publishes as `user` on `topic`, and says whether `listener`, subscribed to `filter`, hears it.
fn passes(port: u16, (user, topic): (&str, &str), (listener, filter): (&str, &str)) -> bool {
    let options = |user: &str, id: &str| {
        let mut options = MqttOptions::new(id, "127.0.0.1", port);
        options.set_credentials(user, "secret");
        options
    };
    let (hearing, mut heard) = Client::new(options(listener, "hearing"), 10);
    hearing.subscribe(filter, QoS::AtLeastOnce).expect("queued");
    let subscribed = |e: &Result<Event, _>| matches!(e, Ok(Event::Incoming(Packet::SubAck(_))));
    assert!(heard.iter().any(|e| subscribed(&e)), "the listener subscribes");
    let (saying, mut said) = Client::new(options(user, "saying"), 10);
    saying.publish(topic, QoS::AtLeastOnce, false, "x").expect("queued");
    let acknowledged = |e: &Result<Event, _>| matches!(e, Ok(Event::Incoming(Packet::PubAck(_))));
    assert!(said.iter().any(|e| acknowledged(&e)), "the broker acknowledges what it then drops, too");
    // The broker has acknowledged it: what passes is on its way already, and a second is long on loopback.
    let begin = std::time::Instant::now();
    while begin.elapsed() < Duration::from_secs(1) {
        match heard.recv_timeout(Duration::from_millis(200)) {
            Ok(Ok(Event::Incoming(Packet::Publish(p)))) if p.topic == topic => return true,
            Ok(Ok(_)) | Err(_) => {}
            Ok(Err(e)) => assert_eq!(e.to_string(), "", "the listener lost its connection"),
        }
    }
    false
}

#[test]
fn the_shipped_acl_lets_the_main_job_through_and_keeps_agents_apart() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let _broker = start(folder.path(), port);
    let rows = [
        ("gateway-1", "gapless/v1/north-farm/gateway-1/up/data", "collector", "gapless/v1/+/+/up/+", true),
        (
            "collector",
            "gapless/v1/north-farm/gateway-1/down/ack",
            "gateway-1",
            "gapless/v1/north-farm/gateway-1/down/+",
            true,
        ),
        ("collector", "gapless/v1/collectors/main", "gateway-1", "gapless/v1/collectors/+", true),
        ("gateway-2", "gapless/v1/north-farm/gateway-1/up/data", "collector", "gapless/v1/+/+/up/+", false),
        ("gateway-1", "gapless/v1/collectors/main", "gateway-1", "gapless/v1/collectors/+", false),
        (
            "collector",
            "gapless/v1/north-farm/gateway-1/down/ack",
            "gateway-2",
            "gapless/v1/north-farm/gateway-1/down/+",
            false,
        ),
    ];
    for (user, topic, listener, filter, expected) in rows {
        assert_eq!(
            passes(port, (user, topic), (listener, filter)),
            expected,
            "{user} on {topic} to {listener}"
        );
    }
}
