//! The half-hourly meter API, the shipped description of it, and the real collector: a first collection over many windows,
//! values that are none, half hours that the source has not and then has, too many calls, a kill in the midst, consent
//! withdrawn.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use gapless_common::time::Timestamp;
use gapless_simulators::clock;
use gapless_simulators::http_source::{HALF_HOUR_MS, Meter, MeterServer, WINDOW_MS_MAX};
use gapless_tests::api::Api;
use gapless_tests::process::{Process, free_port, own_binary};
use gapless_tests::wait;
use tempfile::TempDir;

const WITHIN: Duration = Duration::from_secs(150);
const DAY_MS: i64 = 86_400_000;
const LAG_MS: i64 = 2 * 3_600_000;

struct Home {
    // The process ends before its folder does.
    collector: Option<Process>,
    folder: TempDir,
    api: Api,
}

fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).expect("the folder is writable");
}

impl Home {
    fn start(server: &MeterServer) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let text = include_str!("../../collector/sources/half-hourly-meter.toml");
        let text = text.replace("127.0.0.1:9400", &server.address().to_string());
        write(folder.path(), "meters.toml", &text);
        let (http, mqtt) = (free_port(), free_port());
        let config = format!(
            "data_dir = \"{0}/data\"\nsources = [\"{0}/meters.toml\"]\n[http]\nlisten = \"127.0.0.1:{http}\"\n\
             [mqtt]\nembedded = \"127.0.0.1:{mqtt}\"\n",
            folder.path().display()
        );
        write(folder.path(), "collector.toml", &config);
        let collector = Some(Self::run(folder.path()));
        let file = folder.path().join("data/admin-token");
        let token =
            wait::until("the token", WITHIN, || std::fs::read_to_string(&file).map_err(|e| e.to_string()));
        let api = Api::new(&format!("http://127.0.0.1:{http}"), token.trim());
        Self { folder, collector, api }
    }

    fn run(folder: &Path) -> Process {
        let mut command = Command::new(own_binary("gapless-collector"));
        command.arg("--config").arg(folder.join("collector.toml")).arg("run");
        Process::start("collector", &mut command, &folder.join("collector.log"))
    }

    /// Kills the collector and starts it again.
    fn kill(&mut self) {
        self.collector.take().into_iter().for_each(Process::kill);
        self.collector = Some(Self::run(self.folder.path()));
        wait::until_true("the collector again", WITHIN, || self.device("gas").is_object());
    }

    /// The readings of a device: value (none where it is flagged) and quality by instant.
    fn readings(&self, channel: &str) -> BTreeMap<i64, (Option<f64>, String)> {
        let rows = self.api.readings(&format!("home-1/{channel}")).unwrap_or_default();
        rows.into_iter().map(|row| (row.at_ms, (row.value.as_f64(), row.quality))).collect()
    }

    fn device(&self, name: &str) -> serde_json::Value {
        self.api.get(&format!("/api/v1/devices/home-1/{name}")).unwrap_or_default()
    }
}

#[test]
fn two_years_of_half_hours_are_collected_kept_up_and_given_up_when_consent_is_withdrawn() {
    let now = clock::now().wall_ms;
    let oldest = Timestamp((now - 400 * DAY_MS).div_euclid(HALF_HOUR_MS) * HALF_HOUR_MS);
    let at = |n: i64| oldest.plus_ms(n * HALF_HOUR_MS);
    let hole: BTreeSet<Timestamp> = (100..110).map(at).collect();
    let mut meter = Meter::new("secret", oldest);
    meter.holes.insert("gas".to_owned(), hole.clone());
    meter.invalid.insert(at(7));
    meter.too_many = 2;
    // The last two hours are not there yet: each poll has something to ask for.
    meter.lag_ms = LAG_MS;
    let server = MeterServer::start(meter).expect("a port");
    let mut home = Home::start(&server);
    let expected = |utility: &str| {
        let last = clock::now().wall_ms - LAG_MS - HALF_HOUR_MS;
        let all = (0..).map(at).take_while(move |at| at.0 <= last);
        let value = |at: Timestamp| match at == oldest.plus_ms(7 * HALF_HOUR_MS) {
            true => (None, "bad_invalid".to_owned()),
            false => (Some(Meter::value(utility, at)), "good".to_owned()),
        };
        all.map(|at| (at.0, value(at))).collect::<BTreeMap<_, _>>()
    };
    let holds = |home: &Home, channel: &str, wanted: &BTreeMap<i64, (Option<f64>, String)>| {
        let got = home.readings(channel);
        let wrong = wanted.iter().find(|(at, value)| got.get(at) != Some(value));
        match wrong {
            None => Ok(()),
            Some((at, value)) => Err(format!(
                "{channel}: {} of {}; at {at} {value:?} wanted, {:?}",
                got.len(),
                wanted.len(),
                got.get(at)
            )),
        }
    };
    let electricity = expected("electricity");
    let mut gas = expected("gas");
    gas.retain(|at, _| !hole.contains(&Timestamp(*at)));
    wait::until("all of the electricity", WITHIN, || holds(&home, "electricity/energy", &electricity));
    wait::until("all of the gas", WITHIN, || holds(&home, "gas/volume", &gas));
    let calls = server.meter().calls.clone();
    assert!(calls.iter().all(|call| call.to.since_ms(call.from) <= WINDOW_MS_MAX));
    assert!(calls.iter().all(|call| [200, 429].contains(&call.status)), "{calls:?}");

    // What it has not is a gap of that cause, and closes by itself once the source has it.
    let gap = wait::until("the gap", WITHIN, || {
        let gaps = home.api.items("/api/v1/gaps?device=gas")?;
        gaps.into_iter().find(|gap| gap["state"] == "waiting").ok_or("no gap that waits".to_owned())
    });
    assert_eq!((&gap["slots"], &gap["cause"]), (&10.into(), &"not_recorded".into()), "{gap}");
    let known = home.api.items("/api/v1/gaps?device=electricity").expect("answered");
    assert_eq!(known.len(), 0, "{known:?}");
    server.meter().holes.clear();
    let (status, body) = home.api.post(&format!("/api/v1/gaps/{}/retry", gap["id"])).expect("answered");
    assert_eq!(status, 200, "{body}");
    let gas = expected("gas");
    wait::until("the gap's readings", WITHIN, || holds(&home, "gas/volume", &gas));

    // A kill costs nothing and asks for nothing again that is here.
    let before = server.meter().calls.len();
    home.kill();
    let (status, body) = wait::until("a refresh", WITHIN, || {
        let answer = home.api.post("/api/v1/devices/home-1/gas/refresh")?;
        if answer.0 == 200 { Ok::<_, String>(answer) } else { Err(answer.1) }
    });
    assert_eq!(status, 200, "{body}");
    wait::until_true("a call", WITHIN, || server.meter().calls.len() > before);
    let again = server.meter().calls[before..].to_vec();
    assert!(again.iter().all(|call| call.to.since_ms(call.from) <= 2 * DAY_MS), "{again:?}");

    // Withdrawn: the device says since when and why, and no further call goes out.
    server.meter().withdrawn = true;
    wait::until_true("a refresh", WITHIN, || {
        home.api.post("/api/v1/devices/home-1/electricity/refresh").is_ok_and(|answer| answer.0 == 200)
    });
    let attributes = wait::until("the word", WITHIN, || {
        let device = home.device("electricity");
        let known = device["attributes"]["not_authorised_since"].is_string();
        if known { Ok(device["attributes"].clone()) } else { Err(device) }
    });
    assert!(attributes["not_authorised_reason"].as_str().is_some_and(|why| why.contains("occupant")));
    wait::until("both", WITHIN, || {
        let state = home.device("gas")["freshness"]["state"].clone();
        if state == "retired" { Ok(()) } else { Err(state) }
    });
    let calls = server.meter().calls.len();
    let (status, _) = home.api.post("/api/v1/devices/home-1/gas/refresh").expect("answered");
    assert_eq!(status, 409, "there is nobody to ask");
    home.kill();
    wait::until_true("its agents", WITHIN, || {
        let agents = home.api.items("/api/v1/agents").unwrap_or_default();
        agents.iter().filter(|agent| agent["link"] == "connected").count() == 2
    });
    assert_eq!(server.meter().calls.len(), calls, "withdrawn stays withdrawn");
    let history = home.api.get("/api/v1/jobs").expect("answered")["history"].clone();
    let done = history.as_array().expect("a list").iter().filter(|job| job["outcome"] == "done");
    assert!(done.map(|job| job["readings"].as_u64().unwrap_or(0)).max() > Some(19_000), "{history}");
}
