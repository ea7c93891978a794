//! The requests of a bus and the least time they take on its line.

use std::time::Duration;

use gapless_common::profile::{ChannelSpec, Location};

use super::{BusReport, CheckProblem, DeviceReport, MemoryReport, RequestReport};
use crate::config::{Bus, Device, Link};
use crate::modbus::memory::reader::Reader;
use crate::modbus::plan::{PlanError, PlannedRead, ReadPlan};
use crate::modbus::rtu::LineTiming;

/// How soon a device answers at best: few are faster (measured on meters of several makes: 5 to 50 ms).
const TURNAROUND: Duration = Duration::from_millis(5);

pub(super) fn report(bus: &Bus, problems: &mut Vec<CheckProblem>) -> BusReport {
    let timing = timing(&bus.link);
    let devices: Vec<DeviceReport> =
        bus.devices.iter().map(|device| device_report(device, timing, problems)).collect();
    let polled = || devices.iter().filter(|device| !device.paused);
    let least_cycle = timing.map(|_| polled().filter_map(|device| device.least_poll).sum());
    let load = timing.map(|_| polled().map(load_of).sum::<f64>());
    let alone = |problem: &CheckProblem| matches!(problem, CheckProblem::DeviceTooSlow { .. });
    if let Some(load) = load.filter(|load| *load > 1.0 && !problems.iter().any(alone)) {
        problems.push(CheckProblem::BusOverloaded { bus: bus.id.clone(), load });
    }
    BusReport { id: bus.id.clone(), link: bus.link.to_string(), devices, least_cycle, load }
}

fn timing(link: &Link) -> Option<LineTiming> {
    match link {
        Link::Serial(line) => {
            let bits = u8::try_from(line.character_bits()).expect("a character has 10 to 12 bits");
            Some(LineTiming::new(line.baud, bits))
        }
        Link::Tcp(_) => None,
    }
}

fn load_of(device: &DeviceReport) -> f64 {
    let interval = Duration::from_millis(device.interval.as_ms().unsigned_abs());
    device.least_poll.map_or(0.0, |least| least.as_secs_f64() / interval.as_secs_f64())
}

fn device_report(
    device: &Device,
    timing: Option<LineTiming>,
    problems: &mut Vec<CheckProblem>,
) -> DeviceReport {
    // What is collected goes between the polls; that it can be asked for is all that is to be known.
    let planned = match device.memory_settings() {
        Some(settings) => Reader::new(settings).map(|_| Vec::new()),
        None => requests(device, timing),
    };
    let requests = match planned {
        Ok(requests) => requests,
        Err(problem) => {
            let (device, problem) = (device.id.clone(), problem.to_string());
            problems.push(CheckProblem::NoPlan { device, problem });
            Vec::new()
        }
    };
    let least_poll = timing.map(|_| requests.iter().filter_map(|request| request.time).sum());
    let report = DeviceReport {
        id: device.id.clone(),
        unit: device.unit,
        interval: device.grid.interval,
        paused: device.paused,
        profile: device.profile.clone(),
        channels: device.channels.len(),
        requests,
        least_poll,
        memory: device.memory.as_ref().map(|memory| MemoryReport::of(memory, device.grid.interval)),
    };
    if let Some(least) = least_poll.filter(|_| load_of(&report) > 1.0 && !report.paused) {
        let (device, interval) = (report.id.clone(), report.interval);
        problems.push(CheckProblem::DeviceTooSlow { device, interval, least });
    }
    report
}

/// Channels with addresses in one plan; each SunSpec model in one of its own, by offsets.
fn requests(device: &Device, timing: Option<LineTiming>) -> Result<Vec<RequestReport>, PlanError> {
    let model_of = |channel: &ChannelSpec| match channel.location {
        Location::Absolute(_) => None,
        Location::SunSpec { model, .. } => Some(model),
    };
    let mut models: Vec<Option<u16>> = device.channels.iter().map(model_of).collect();
    models.sort_unstable();
    models.dedup();
    let mut all = Vec::new();
    for model in models {
        let chosen: Vec<ChannelSpec> =
            device.channels.iter().filter(|channel| model_of(channel) == model).map(by_offset).collect();
        let plan = ReadPlan::new(&chosen, device.limits())?;
        let pause = Duration::from_millis(u64::from(device.turnaround_ms));
        all.extend(plan.requests().iter().map(|read| request(read, &chosen, model, timing, pause)));
    }
    Ok(all)
}

/// A channel as if its model stood at address 0.
fn by_offset(channel: &ChannelSpec) -> ChannelSpec {
    let absolute = |location| match location {
        Location::SunSpec { offset, .. } => Location::Absolute(offset),
        absolute @ Location::Absolute(_) => absolute,
    };
    let mut channel = channel.clone();
    channel.location = absolute(channel.location);
    channel.scale_from = channel.scale_from.map(absolute);
    channel
}

fn request(
    read: &PlannedRead,
    channels: &[ChannelSpec],
    model: Option<u16>,
    timing: Option<LineTiming>,
    pause: Duration,
) -> RequestReport {
    let ids = read.channels().filter_map(|(index, _)| channels.get(usize::from(index.0)));
    // The silent interval is part of the exchange; a longer pause that the device needs comes on top.
    let time = timing
        .map(|timing| timing.exchange(read.request(), TURNAROUND) + pause.saturating_sub(timing.t3_5()));
    RequestReport {
        function: read.table().read_function(),
        table: read.table(),
        model,
        start: read.start(),
        count: read.count(),
        channels: ids.map(|channel| channel.id.clone()).collect(),
        holes: read.holes(),
        time,
    }
}
