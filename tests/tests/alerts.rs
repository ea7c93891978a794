//! Alerts all the way to those who are told: the real collector, a source that withdraws its consent, an HTTP receiver that
//! fails first, and a real mail server with a login over TLS. The collector is killed between raise and delivery.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gapless_common::time::Timestamp;
use gapless_simulators::clock;
use gapless_simulators::remote::RemoteServer;
use gapless_simulators::remote::meter::{HALF_HOUR_MS, Meter};
use gapless_tests::api::Api;
use gapless_tests::process::{Process, free_port, own_binary};
use gapless_tests::wait;
use rustix::process::Signal;
use serde_json::Value as Json;
use tempfile::TempDir;

const WITHIN: Duration = Duration::from_secs(180);
const DAY_MS: i64 = 86_400_000;

/// A request that the receiver got, and what it answered.
#[derive(Debug, Clone)]
struct Got {
    path: String,
    headers: BTreeMap<String, String>,
    body: Json,
    status: u16,
}

/// An HTTP server that answers each POST with one status.
struct Hook {
    address: SocketAddr,
    status: Arc<AtomicU16>,
    got: Arc<Mutex<Vec<Got>>>,
    /// Whether it lets those wait who have sent their request, and how many have begun to.
    holds: Arc<AtomicBool>,
    held: Arc<AtomicUsize>,
}

impl Hook {
    fn start(status: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let (status, got) = (Arc::new(AtomicU16::new(status)), Arc::new(Mutex::new(Vec::new())));
        let (answers, seen) = (Arc::clone(&status), Arc::clone(&got));
        let (holds, held) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (waits, waiting) = (Arc::clone(&holds), Arc::clone(&held));
        let pause = move || {
            waiting.fetch_add(1, Ordering::SeqCst);
            while waits.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let request = serve(&connection, answers.load(Ordering::SeqCst), &pause);
                seen.lock().unwrap_or_else(PoisonError::into_inner).extend(request);
            }
        });
        Self { address, status, got, holds, held }
    }

    fn got(&self) -> MutexGuard<'_, Vec<Got>> {
        self.got.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accepted(&self, path: &str) -> Vec<Got> {
        self.got().iter().filter(|got| got.status == 200 && got.path == path).cloned().collect()
    }
}

/// Answers one request after a `pause`; `None` where it was none.
fn serve(mut connection: &TcpStream, status: u16, pause: &dyn Fn()) -> Option<Got> {
    connection.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    let mut reader = BufReader::new(connection.try_clone().ok()?);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let path = line.split(' ').nth(1)?.to_owned();
    let mut headers = BTreeMap::new();
    loop {
        line.clear();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let mut body = vec![0; headers.get("content-length")?.parse().ok()?];
    reader.read_exact(&mut body).ok()?;
    pause();
    let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    connection.write_all(answer.as_bytes()).ok()?;
    Some(Got { path, headers, body: serde_json::from_slice(&body).ok()?, status })
}

fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).expect("the folder is writable");
}

fn lines(folder: &Path, name: &str) -> Vec<String> {
    let text = std::fs::read_to_string(folder.join(name)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn openssl(folder: &Path, arguments: &str) {
    let output = Command::new("openssl").current_dir(folder).args(arguments.split_whitespace()).output();
    let output = output.expect("openssl is installed");
    assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An authority of our own, `ca.pem`, and the mail server's certificate from it.
fn certify(folder: &Path) {
    let ec = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(
        folder,
        &format!(
            "req -x509 {ec} -days 2 -subj /CN=ours -addext keyUsage=critical,keyCertSign -keyout ca.key -out ca.pem"
        ),
    );
    openssl(folder, &format!("req {ec} -subj /CN=localhost -keyout mail.key -out mail.csr"));
    write(folder, "mail.ext", "subjectAltName=IP:127.0.0.1\n");
    openssl(
        folder,
        "x509 -req -in mail.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile mail.ext -out mail.crt",
    );
}

struct Home {
    // The processes end before their folder does.
    collector: Option<Process>,
    _mail: Process,
    folder: TempDir,
    api: Api,
}

impl Home {
    fn start(meter: &RemoteServer<Meter>, hook: &Hook) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let at = folder.path();
        let text = include_str!("../../collector/sources/half-hourly-meter.toml");
        write(at, "meters.toml", &text.replace("127.0.0.1:9400", &meter.address().to_string()));
        certify(at);
        let (http, mqtt, smtp) = (free_port(), free_port(), free_port());
        let mail = Self::mail_server(at, smtp);
        write(at, "slack-url", &format!("http://{}/slack\n", hook.address));
        write(at, "token", "hook-token\n");
        write(at, "password", "wrong\n");
        let config = format!(
            "name = \"north\"\ndata_dir = \"{0}/data\"\nsources = [\"{0}/meters.toml\"]\n\
             [http]\nlisten = \"127.0.0.1:{http}\"\n[mqtt]\nembedded = \"127.0.0.1:{mqtt}\"\n\
             [alerts.webhook.json]\nurl = \"http://{1}/json\"\ntoken_file = \"{0}/token\"\n\
             [alerts.webhook.chat]\nurl = \"@{0}/slack-url\"\ntemplate = \"slack\"\n\
             [alerts.mail.oncall]\nserver = \"smtps://127.0.0.1:{smtp}\"\nfrom = \"Gapless <gapless@example.org>\"\n\
             to = [\"a@example.org\", \"nobody@example.org\", \"b@example.org\"]\nuser = \"gapless\"\npassword_file = \"{0}/password\"\n\
             ca_file = \"{0}/ca.pem\"\n",
            at.display(),
            hook.address,
        );
        write(at, "collector.toml", &config);
        let collector = Some(Self::run(at));
        let file = at.join("data/admin-token");
        let token =
            wait::until("the token", WITHIN, || std::fs::read_to_string(&file).map_err(|e| e.to_string()));
        let api = Api::new(&format!("http://127.0.0.1:{http}"), token.trim());
        Self { collector, _mail: mail, folder, api }
    }

    fn mail_server(folder: &Path, port: u16) -> Process {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/smtp_receiver.py");
        // Debian's own: where another Python is in the way, its packages are not there.
        let mut command = Command::new("/usr/bin/python3");
        command.arg(script).arg(port.to_string()).arg(folder);
        command.arg(folder.join("mail.crt")).arg(folder.join("mail.key"));
        let log = folder.join("mail.log");
        let process = Process::start("mail server", &mut command, &log);
        wait::until("the mail server", WITHIN, || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            if text.contains("ready") { Ok(()) } else { Err(text) }
        });
        process
    }

    fn run(folder: &Path) -> Process {
        let mut command = Command::new(own_binary("gapless-collector"));
        command.arg("--config").arg(folder.join("collector.toml")).arg("run");
        Process::start("collector", &mut command, &folder.join("collector.log"))
    }

    /// SIGKILL; `between` is what happens while there is no collector.
    fn kill(&mut self, between: impl FnOnce(&Path)) {
        self.collector.take().into_iter().for_each(Process::kill);
        between(self.folder.path());
        self.collector = Some(Self::run(self.folder.path()));
        wait::until_true("the collector again", WITHIN, || self.api.items("/api/v1/alerts").is_ok());
    }

    fn receiver(&self, name: &str) -> Json {
        let all = self.api.items("/api/v1/receivers").unwrap_or_default();
        all.into_iter().find(|receiver| receiver["name"] == name).unwrap_or_default()
    }

    fn mails(&self) -> Vec<Json> {
        let lines = lines(self.folder.path(), "mails");
        lines.iter().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }
}

/// How often each device stands in a text, line by line.
fn counted(texts: &[String]) -> BTreeMap<&'static str, usize> {
    let devices = ["home-1/electricity: unauthorised", "home-1/gas: unauthorised"];
    let count = |device: &str| texts.iter().map(|text| text.matches(device).count()).sum::<usize>();
    devices.into_iter().map(|device| (device, count(device))).collect()
}

/// Consent is withdrawn for both meters, each of which is asked.
fn withdraw(meter: &RemoteServer<Meter>, home: &Home) {
    for utility in ["gas", "electricity"] {
        meter.state().withdrawn.insert(utility.to_owned());
        wait::until_true("a refresh", WITHIN, || {
            let refresh = format!("/api/v1/devices/home-1/{utility}/refresh");
            home.api.post(&refresh).is_ok_and(|answer| answer.0 == 200)
        });
    }
}

/// Each once.
fn once() -> BTreeMap<&'static str, usize> {
    [("home-1/electricity: unauthorised", 1), ("home-1/gas: unauthorised", 1)].into()
}

#[test]
fn what_is_raised_reaches_everybody_once_though_receivers_fail_and_the_collector_is_killed() {
    let now = clock::now().wall_ms;
    let oldest = Timestamp((now - 2 * DAY_MS).div_euclid(HALF_HOUR_MS) * HALF_HOUR_MS);
    let mut meter = Meter::new("secret", oldest);
    // Each poll has something to ask for.
    meter.lag_ms = 2 * 3_600_000;
    let meter = RemoteServer::start(meter).expect("a port");
    let hook = Hook::start(503);
    let mut home = Home::start(&meter, &hook);
    for device in ["electricity", "gas"] {
        wait::until("readings", WITHIN, || {
            let device = home.api.get(&format!("/api/v1/devices/home-1/{device}"))?;
            let at = device["freshness"]["last_reading_at"].is_string();
            if at { Ok(()) } else { Err(device.to_string()) }
        });
    }
    withdraw(&meter, &home);
    let alerts = wait::until("both alerts", WITHIN, || {
        let alerts = home.api.items("/api/v1/alerts?kind=unauthorised&state=open")?;
        if alerts.len() == 2 { Ok(alerts) } else { Err(format!("{alerts:?}")) }
    });
    assert!(alerts.iter().all(|alert| alert["detail"].as_str().is_some_and(|why| why.contains("occupant"))));

    // The hook is tried again; the mail server, which does not take the password, is left alone.
    wait::until("a third try", WITHIN, || {
        let failures = |name: &str| home.receiver(name)["failures"].as_u64().unwrap_or(0);
        let tries = [("webhook.json", 2), ("webhook.chat", 1), ("mail.oncall", 1)];
        let seen = tries.map(|(name, _)| failures(name));
        if tries.iter().zip(seen).all(|((_, least), failures)| failures >= *least) {
            Ok(())
        } else {
            Err(seen)
        }
    });
    let mail = home.receiver("mail.oncall");
    assert!(mail["last_error"].as_str().is_some_and(|why| why.contains("credentials")), "{mail}");
    let before: BTreeSet<String> =
        hook.got().iter().map(|got| got.headers["idempotency-key"].clone()).collect();
    assert_eq!(before.len(), 2, "each try of a receiver is the same message: {before:?}");

    // Killed before anybody was told. Meanwhile all is mended; the mail server is only busy now.
    home.kill(|folder| {
        assert_eq!(lines(folder, "logins"), ["bad"], "one knock with a wrong password is enough");
        write(folder, "password", "secret\n");
        write(folder, "busy", "");
        hook.status.store(200, Ordering::SeqCst);
    });
    wait::until("the hook to be told", WITHIN, || {
        let json = home.receiver("webhook.json");
        if json["owed"] == 0 { Ok(()) } else { Err(json) }
    });
    wait::until("the mail server to be busy", WITHIN, || {
        let mail = home.receiver("mail.oncall");
        let is_busy = mail["last_error"].as_str().is_some_and(|why| why.contains("451"));
        if is_busy { Ok(()) } else { Err(mail) }
    });
    std::fs::remove_file(home.folder.path().join("busy")).expect("it was there");
    wait::until("everybody to be told", WITHIN, || {
        let all = home.api.items("/api/v1/receivers")?;
        if all.iter().all(|receiver| receiver["owed"] == 0) { Ok(()) } else { Err(format!("{all:?}")) }
    });

    let json = hook.accepted("/json");
    let told: Vec<(i64, String)> = json
        .iter()
        .flat_map(|got| got.body["alerts"].as_array().expect("alerts").clone())
        .map(|alert| (alert["alert"].as_i64().unwrap_or(0), alert["state"].to_string()))
        .collect();
    let expected: Vec<_> =
        alerts.iter().map(|a| (a["id"].as_i64().unwrap_or(0), "\"raised\"".to_owned())).collect();
    assert_eq!(told, expected, "each alert once, in order");
    assert!(json.iter().all(|got| got.headers["authorization"] == "Bearer hook-token"), "{json:?}");
    assert!(
        json.iter().all(|got| got.body["collector"] == "north" && got.body["digest"] == false),
        "{json:?}"
    );
    let first = &json[0].headers["idempotency-key"];
    assert!(
        before.contains(first),
        "what was tried before the kill is what came after it: {before:?}, {first}"
    );
    let slack: Vec<String> = hook.accepted("/slack").iter().map(|got| got.body["text"].to_string()).collect();
    assert_eq!(counted(&slack), once(), "{slack:?}");
    let mails = home.mails();
    // One of the three addresses is refused for good, which costs the others nothing.
    for address in ["a@example.org", "b@example.org"] {
        let own = mails.iter().filter(|mail| mail["to"] == serde_json::json!([address]));
        let texts: Vec<String> = own.map(|mail| mail["text"].to_string()).collect();
        assert_eq!(counted(&texts), once(), "{address}: {mails:?}");
    }
    for mail in &mails {
        assert_eq!(mail["auto-submitted"], "auto-generated", "{mail}");
        assert!(mail["subject"].as_str().is_some_and(|subject| subject.starts_with("[north] ")), "{mail}");
        assert!(mail["message-id"].as_str().is_some_and(|id| id.contains("mail.oncall")), "{mail}");
    }

    // Nobody is told again of what was accepted, and who has seen an alert is known.
    let (posts, sent) = (hook.got().len(), mails.len());
    home.kill(|_| {});
    let id = &alerts[0]["id"];
    let (status, body) = home.api.post(&format!("/api/v1/alerts/{id}/acknowledge")).expect("answered");
    assert_eq!((status, body.contains("token admin")), (200, true), "{body}");
    let all = home.api.items("/api/v1/receivers").expect("answered");
    assert!(all.iter().all(|receiver| receiver["owed"] == 0), "{all:?}");
    assert_eq!((hook.got().len(), home.mails().len()), (posts, sent));
}

/// SIGTERM comes while a receiver has a message and has not answered yet: what it answers is written down.
#[test]
fn a_message_that_is_taken_during_a_stop_is_not_told_again_after_the_next_start() {
    let oldest = Timestamp((clock::now().wall_ms - 2 * DAY_MS).div_euclid(HALF_HOUR_MS) * HALF_HOUR_MS);
    let mut meter = Meter::new("secret", oldest);
    meter.lag_ms = 2 * 3_600_000;
    let meter = RemoteServer::start(meter).expect("a port");
    let hook = Hook::start(200);
    hook.holds.store(true, Ordering::SeqCst);
    let mut home = Home::start(&meter, &hook);
    wait::until("readings", WITHIN, || {
        let device = home.api.get("/api/v1/devices/home-1/gas")?;
        if device["freshness"]["last_reading_at"].is_string() { Ok(()) } else { Err(device.to_string()) }
    });
    withdraw(&meter, &home);
    wait::until_true("a message under way", WITHIN, || hook.held.load(Ordering::SeqCst) > 0);
    let mut collector = home.collector.take().expect("it runs");
    collector.signal(Signal::TERM);
    wait::until_true("the collector to stop serving", WITHIN, || home.api.get("/api/v1/alerts").is_err());
    hook.holds.store(false, Ordering::SeqCst);
    wait::until_true("it to end", WITHIN, || !collector.is_running());
    home.collector = Some(Home::run(home.folder.path()));
    wait::until("the hook to be owed nothing", WITHIN, || {
        let all = ["webhook.json", "webhook.chat"].map(|name| home.receiver(name)["owed"].clone());
        if all.iter().all(|owed| *owed == 0) { Ok(()) } else { Err(all) }
    });
    let mut told = BTreeMap::<String, usize>::new();
    hook.got().iter().for_each(|got| *told.entry(got.headers["idempotency-key"].clone()).or_default() += 1);
    assert!(!told.is_empty() && told.values().all(|times| *times == 1), "{told:?}");
}
