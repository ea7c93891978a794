//! Monitoring as an operator has it: a real Prometheus scrapes a real collector with the shipped configuration and rules;
//! what it stores is what the API says, and every metric that a rule names is there.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use gapless_simulators::modbus::{Fault, FaultKind};
use gapless_tests::api::Api;
use gapless_tests::process::{Process, free_port};
use gapless_tests::site::{SITE, Site, SiteSpec};
use gapless_tests::wait;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(120);
const CONFIG: &str = include_str!("../../collector/deploy/prometheus.yml");
const RULES: &str = include_str!("../../collector/deploy/prometheus-rules.yml");
const RULES_TEST: &str = include_str!("../peers/prometheus-rules-test.yml");

/// Prometheus with the shipped files, as they are but for paths, the address of the collector, and haste.
struct Prometheus {
    api: Api,
    _process: Process,
}

impl Prometheus {
    fn start(site: &Site) -> Self {
        let folder = site.path("prometheus");
        std::fs::create_dir_all(&folder).expect("the folder can be written");
        let rules = folder.join("rules.yml");
        std::fs::write(&rules, RULES).expect("the folder can be written");
        let token = site.collector_folder().join("admin-token");
        let changes = [
            ("/etc/prometheus/gapless-token", token.display().to_string()),
            ("/etc/prometheus/gapless-rules.yml", rules.display().to_string()),
            ("127.0.0.1:8080", site.base_url().replace("http://", "")),
            ("scrape_interval: 30s", "scrape_interval: 1s".to_owned()),
        ];
        let config = changes.iter().fold(CONFIG.to_owned(), |text, (from, to)| {
            assert!(text.contains(from), "{from} stands in the shipped configuration");
            text.replace(from, to)
        });
        let file = folder.join("prometheus.yml");
        std::fs::write(&file, format!("global:\n  evaluation_interval: 1s\n{config}")).expect("writable");
        let port = free_port();
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.tsdb.path={}", folder.join("data").display()));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        let process = Process::start("prometheus", &mut command, &site.path("prometheus.log"));
        Self { api: Api::new(&format!("http://127.0.0.1:{port}"), ""), _process: process }
    }

    /// Labels and last value of each series that an expression gives.
    fn query(&self, expression: &str) -> Result<Vec<(Value, f64)>, String> {
        let escaped: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let answer = self.api.get(&format!("/api/v1/query?query={escaped}"))?;
        let rows = answer["data"]["result"].as_array().ok_or_else(|| answer.to_string())?;
        let value = |row: &Value| row["value"][1].as_str().and_then(|text| text.parse().ok());
        Ok(rows.iter().map(|row| (row["metric"].clone(), value(row).unwrap_or(f64::NAN))).collect())
    }

    /// Waits until an expression gives one series with a value that is right.
    fn expect(&self, expression: &str, is_right: impl Fn(f64) -> bool) {
        wait::until(expression, SOON, || match self.query(expression)?.as_slice() {
            [(_, value)] if is_right(*value) => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }

    /// The names of all metrics that it has.
    fn names(&self) -> Result<BTreeSet<String>, String> {
        let answer = self.api.get("/api/v1/label/__name__/values")?;
        let names = answer["data"].as_array().ok_or_else(|| answer.to_string())?;
        Ok(names.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect())
    }
}

/// The metrics that the rules speak of, by their letters alone: what one of them defines is none of ours.
fn metrics_of_rules() -> BTreeSet<String> {
    let is_of_a_name = |c: char| c.is_ascii_lowercase() || c == '_' || c == ':';
    let words = RULES.split(|c: char| !is_of_a_name(c));
    words.filter(|word| word.starts_with("gapless_")).map(str::to_owned).collect()
}

/// Runs promtool over a file and says what it said.
fn promtool(arguments: &[&str], file: &Path) -> Result<String, String> {
    let output = Command::new("promtool").args(arguments).arg(file).output();
    let output = output.map_err(|e| format!("promtool (package prometheus): {e}"))?;
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    if output.status.success() { Ok(said.concat()) } else { Err(said.concat()) }
}

#[test]
fn the_shipped_rules_are_right_and_fire_when_they_should() {
    let folder = tempfile::tempdir().expect("a folder");
    let rules = folder.path().join("rules.yml");
    std::fs::write(&rules, RULES).expect("writable");
    promtool(&["check", "rules"], &rules).unwrap();
    let test = folder.path().join("test.yml");
    std::fs::write(&test, RULES_TEST.replace("RULES]", &format!("{}]", rules.display()))).expect("writable");
    promtool(&["test", "rules"], &test).unwrap();
}

#[test]
fn a_real_prometheus_stores_what_the_collector_knows() {
    let mut site = Site::new(SiteSpec { embedded_broker: true, ..SiteSpec::default() });
    site.start_collector();
    site.start_agent();
    let api = site.api();
    let prometheus = Prometheus::start(&site);
    prometheus.expect("up{job=\"gapless\"}", |up| up > 0.0);
    prometheus.expect("gapless_writing and gapless_receiving", |is| is > 0.0);

    // Devices are fresh, and their readings are counted on.
    let fresh = "count(gapless_staleness_seconds <= on (site, device) gapless_allowed_staleness_seconds)";
    let devices = f64::from(u32::try_from(site.spec.devices.len()).expect("a handful"));
    prometheus.expect(fresh, |n| (n - devices).abs() < 0.5);
    let gateway = format!("{{site=\"{SITE}\",agent=\"gateway\"}}");
    prometheus.expect(&format!("rate(gapless_agent_readings_total{gateway}[10s])"), |rate| rate > 1.0);
    prometheus.expect(&format!("rate(gapless_agent_received_bytes_total{gateway}[10s])"), |rate| rate > 10.0);
    prometheus.expect(&format!("rate(gapless_agent_sent_bytes_total{gateway}[10s])"), |rate| rate > 10.0);
    prometheus.expect(&format!("gapless_agent_connected{gateway}"), |is| is > 0.5);

    // A job and a gap leave their traces.
    wait::until_true("a refresh", SOON, || {
        api.post(&format!("/api/v1/devices/{SITE}/tcp-1/refresh")).is_ok_and(|(status, _)| status == 200)
    });
    prometheus.expect("gapless_job_duration_seconds_count{outcome=\"done\"}", |n| n >= 1.0);
    prometheus
        .expect("histogram_quantile(1, gapless_job_duration_seconds_bucket{outcome=\"done\"})", |s| s > 0.0);
    let quiet = site.spec.devices[2].clone();
    site.line.faults(quiet.unit).expect("the unit").add(Fault::new(FaultKind::Silent));
    prometheus.expect("sum(gapless_gaps{state=\"open\",cause=\"no_answer\"})", |n| n >= 1.0);
    prometheus.expect("gapless_gap_events_total{event=\"opened\"}", |n| n >= 1.0);
    prometheus.expect(&format!("gapless_device_gaps{{device=\"{}\"}}", quiet.name), |n| n >= 1.0);

    // What the rules speak of is there, and Prometheus could evaluate each of them.
    // This site tells nobody of its alerts; that these two are there where somebody is told, tests of the API say.
    let mut wanted = metrics_of_rules();
    for name in ["gapless_receiver_failures", "gapless_receiver_set_aside_total"] {
        assert!(wanted.remove(name), "{name} is in no rule");
    }
    assert!(wanted.len() > 15, "{wanted:?}");
    let names = prometheus.names().expect("answered");
    assert_eq!(wanted.difference(&names).collect::<Vec<_>>(), Vec::<&String>::new(), "of {names:?}");
    wait::until("every rule to be evaluated", SOON, || {
        let answer = prometheus.api.get("/api/v1/rules")?;
        let groups = answer["data"]["groups"].as_array().ok_or("no groups")?.iter();
        let rules = groups.flat_map(|group| group["rules"].as_array().into_iter().flatten());
        let bad: Vec<_> = rules.filter(|rule| rule["health"] != "ok").collect();
        if bad.is_empty() { Ok(()) } else { Err(format!("{bad:?}")) }
    });

    // And one comes when its reason does: the agent goes.
    site.stop_agent();
    let pending = "ALERTS{alertname=\"GaplessAgentAway\",alertstate=\"pending\"}";
    prometheus.expect(pending, |is| is > 0.5);

    // A tool that reads the older format only finds no fault with names, units and helps.
    let (status, text, _) = api.get_with("/metrics", &[("Accept", "text/plain;version=0.0.4")]).unwrap();
    assert_eq!(status, 200);
    lint(&site.path("metrics.txt"), &text);
    site.stop_collector();
}

/// `promtool check metrics` reads from its standard input.
fn lint(file: &Path, text: &str) {
    std::fs::write(file, text).expect("writable");
    let input = std::fs::File::open(file).expect("just written");
    let output = Command::new("promtool").args(["check", "metrics"]).stdin(input).output().expect("promtool");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}\n{text}");
}
