//! Any bytes as the query of an API request. The first byte chooses the route, the rest is what stands behind its `?`.

use std::sync::{Arc, OnceLock};

use axum::body::{Body, to_bytes};
use axum::http::{Request, header};
use axum::{Router, response::Response};
use gapless_collector::api::{ApiState, Health, router};
use gapless_collector::ingest::committer::Committer;
use gapless_collector::ingest::{Inbound, Orders};
use gapless_collector::store::Reader;
use gapless_collector::tokens;
use gapless_common::catalog::{Aggregation, Catalog, Channel, Device, PeriodLabel};
use gapless_common::id::{
    AgentId, BootId, ChannelId, ChannelIndex, ConnectionId, DeviceId, DeviceIndex, Epoch, Seq, SiteId,
};
use gapless_common::message::DataFrame;
use gapless_common::quality::Quality;
use gapless_common::reading::{
    Acquired, CatalogRecord, Completeness, EpochStart, Readings, Record, Sample, Value,
};
use gapless_common::time::{Interval, Slot, SlotGrid, Timestamp};
use gapless_common::topic::{AgentPath, Up};
use gapless_common::wire;
use tower::ServiceExt as _;

use super::Choices;

/// 2026-01-01.
const T0: Timestamp = Timestamp(1_767_225_600_000);
/// Most bytes of an answer over the few readings that there are.
const ANSWER_BYTES_MAX: usize = 64 << 20;
const ROUTES: [&str; 14] = [
    "/api/v1/readings",
    "/api/v1/changes",
    "/api/v1/gaps",
    "/api/v1/coverage",
    "/api/v1/latest",
    "/api/v1/conflicts",
    "/api/v1/parked",
    "/api/v1/series",
    "/api/v1/devices",
    "/api/v1/devices/farm/meter",
    "/api/v1/agents",
    "/api/v1/sites",
    "/api/v1/traffic",
    "/api/v1/jobs",
];

/// The answer is whole, or a problem (RFC 9457) that names what is wrong; never the store's.
pub fn api_query(bytes: &[u8]) {
    static SERVED: OnceLock<Served> = OnceLock::new();
    let mut choices = Choices(bytes);
    let route = choices.pick(&ROUTES);
    let query = escaped(choices.0);
    let served = SERVED.get_or_init(Served::start);
    let Ok(request) = Request::builder()
        .uri(format!("{route}?{query}"))
        .header(header::AUTHORIZATION, format!("Bearer {}", served.token))
        .body(Body::empty())
    else {
        return;
    };
    served.runtime.block_on(async {
        let answer = served.router.clone().oneshot(request).await;
        let answer = answer.unwrap_or_else(|never| match never {});
        check(answer, &format!("{route}?{query}")).await;
    });
}

async fn check(answer: Response, asked: &str) {
    let status = answer.status().as_u16();
    let media_type = answer.headers().get(header::CONTENT_TYPE).cloned();
    let body = to_bytes(answer.into_body(), ANSWER_BYTES_MAX).await;
    let Ok(body) = body else { unreachable!("{asked}: an answer that is broken or without end") };
    match status {
        200 => {
            let json = media_type.is_some_and(|media| media == "application/json");
            assert!(!json || serde_json::from_slice::<serde_json::Value>(&body).is_ok(), "{asked}: {body:?}");
        }
        400 | 404 => {
            assert!(media_type.is_some_and(|media| media == "application/problem+json"), "{asked}");
            let problem: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
            assert_eq!(problem["status"], status, "{asked}: {problem}");
            let text = |field: &str| problem[field].as_str().is_some_and(|text| !text.is_empty());
            assert!(["type", "title", "detail"].into_iter().all(text), "{asked}: {problem}");
        }
        other => unreachable!("{asked}: status {other}, {body:?}"),
    }
}

/// What a URI may hold stays as it is, escapes included; the rest is escaped.
fn escaped(query: &[u8]) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"%&=+-._~:/*,;@!$'()?".contains(&byte);
    let one = |&byte: &u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    query.iter().map(one).collect()
}

/// The API over a database of a few readings, one of them parked.
struct Served {
    runtime: tokio::runtime::Runtime,
    router: Router,
    token: String,
    _folder: tempfile::TempDir,
}

impl Served {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("db");
        let mut committer = Committer::open(&path).expect("a new database");
        let token = tokens::draw(committer.connection(), "fuzz").expect("a token");
        for message in messages() {
            committer.attempt(&[message], T0).expect("the frame is stored");
        }
        let (_, commits) = tokio::sync::watch::channel(committer.head().commit);
        let store = Arc::new(Reader::new(&path));
        let (health, orders) = (Arc::new(Health::default()), Orders::to(&tokio::sync::mpsc::channel(1).0));
        let state = ApiState { store, commits, health, orders, now: || T0 };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Self { runtime: runtime.expect("a runtime"), router: router(state), token, _folder: folder }
    }
}

fn catalog(unit: &str) -> Catalog {
    let channel = |name: &str, aggregation| Channel {
        id: ChannelId::new(name).expect("a name"),
        unit: unit.into(),
        quantity: "".into(),
        aggregation,
        label: PeriodLabel::End,
        attributes: [].into(),
    };
    let channels = vec![channel("u", Aggregation::Instant), channel("energy", Aggregation::Counter)];
    let grid = SlotGrid::every(Interval::from_ms(1_000).expect("a second"));
    let id = DeviceId::new("meter").expect("a name");
    Catalog { devices: vec![Device { id, grid, paused: false, channels, attributes: [].into() }] }
}

fn messages() -> Vec<Inbound> {
    let catalogs = ["V", "kV"].map(catalog);
    let grid = catalogs[0].devices[0].grid;
    let first = grid.slot_at(T0).0 - 60;
    let at = |n: i64| grid.at(Slot(first + n));
    let (hash, bytes) = wire::encode_catalog(&catalogs[0]);
    let (boot, agent_version) = (BootId(1), "1".into());
    let start = EpochStart {
        previous: None,
        boot,
        boot_clock_ms: 0,
        at: at(0),
        clock_set: true,
        durable: true,
        agent_version,
    };
    let polled = |n: i64| {
        let sample = |channel| Sample {
            channel: ChannelIndex(channel),
            value: Some(Value::Number(f64::from(channel) + 0.5)),
            quality: Quality::Good,
        };
        let (device, acquired) = (DeviceIndex(0), Acquired::InSlot(Slot(first + n)));
        Record::Readings(Readings { device, acquired, at: at(n), samples: [0, 1].map(sample).into() })
    };
    let complete = Record::Complete(Completeness { through: vec![(DeviceIndex(0), Slot(first + 9))] });
    let opening = [Record::Start(start), Record::Catalog(CatalogRecord { hash, since: Some(at(0)), bytes })];
    let records = opening.into_iter().chain([0, 1, 2, 5].map(polled)).chain([complete]).collect();
    let path =
        AgentPath { site: SiteId::new("farm").expect("a name"), agent: AgentId::new("gw").expect("a name") };
    let frame = |seq: u64, records, catalog: &Catalog| {
        let (connection, epoch, hash) = (ConnectionId(1), Epoch(1), wire::encode_catalog(catalog).0);
        let frame =
            DataFrame { agent: path.tag(), connection, epoch, first: Seq(seq), catalog: hash, records };
        let payload = wire::encode_data(&frame, catalog).expect("a frame that fits");
        Inbound { topic: path.up(Up::Data), payload, at: T0, token: seq }
    };
    vec![frame(1, records, &catalogs[0]), frame(8, vec![polled(6)], &catalogs[1])]
}
