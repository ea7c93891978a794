//! How metrics are written: families of rows for the registry, and its OpenMetrics text told again in the older text format,
//! for scrapers and tools that read no other. Knows no metric.
//!
//! OpenMetrics 1.0 names a counter's family without `_total`, the text format 0.0.4 with it; it knows no units, no type
//! `info` and no end mark.

use std::fmt;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// What tells one row of a family from the others; none for a family of one row.
pub(super) type Labels = Vec<(&'static str, String)>;

/// A family of counters or gauges.
#[derive(Debug)]
pub(super) enum Rows {
    /// What only grows; named without `_total`.
    Counters(Vec<(Labels, u64)>),
    /// What goes up and down.
    Gauges(Vec<(Labels, f64)>),
}

impl EncodeMetric for Rows {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let counter =
            |mut one: MetricEncoder<'_>, value: &u64| one.encode_counter::<NoLabelSet, _, u64>(value, None);
        match self {
            Self::Counters(rows) => rows.iter().try_for_each(|(labels, value)| match labels.is_empty() {
                true => encoder.encode_counter::<NoLabelSet, _, u64>(value, None),
                false => counter(encoder.encode_family(labels)?, value),
            }),
            Self::Gauges(rows) => rows.iter().try_for_each(|(labels, value)| match labels.is_empty() {
                true => encoder.encode_gauge(value),
                false => encoder.encode_family(labels)?.encode_gauge(value),
            }),
        }
    }

    fn metric_type(&self) -> MetricType {
        match self {
            Self::Counters(_) => MetricType::Counter,
            Self::Gauges(_) => MetricType::Gauge,
        }
    }
}

/// One distribution.
#[derive(Debug)]
pub(super) struct Spread {
    /// Upper bounds, ascending, each with the number of observations at or below it and above the one before.
    pub(super) buckets: Vec<(f64, u64)>,
    /// Number of observations.
    pub(super) count: u64,
    /// Their sum.
    pub(super) sum: f64,
}

/// A family of histograms.
#[derive(Debug)]
pub(super) struct Spreads(pub(super) Vec<(Labels, Spread)>);

impl EncodeMetric for Spreads {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(labels, spread)| {
            // The encoder adds them up, the last one to the count.
            let below: u64 = spread.buckets.iter().map(|(_, n)| n).sum();
            let mut buckets = spread.buckets.clone();
            buckets.push((f64::INFINITY, spread.count.saturating_sub(below)));
            let mut one = encoder.encode_family(labels)?;
            one.encode_histogram::<NoLabelSet>(spread.sum, spread.count, &buckets, None)
        })
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

/// The same metrics in the text format 0.0.4.
pub(super) fn older_text(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help: Option<(&str, &str)> = None;
    for line in open_metrics.lines() {
        match line.strip_prefix("# ").and_then(|rest| rest.split_once(' ')) {
            Some(("HELP", rest)) => help = rest.split_once(' '),
            Some(("TYPE", rest)) => {
                let (name, kind) = rest.split_once(' ').unwrap_or((rest, "untyped"));
                let (suffix, kind) = match kind {
                    "counter" => ("_total", "counter"),
                    "info" => ("_info", "gauge"),
                    "unknown" => ("", "untyped"),
                    other => ("", other),
                };
                if let Some((_, words)) = help.take() {
                    text.push_str(&format!("# HELP {name}{suffix} {words}\n"));
                }
                text.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
            }
            // Units, and the end.
            Some(_) => {}
            None if line == "# EOF" => {}
            None => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::{Registry, Unit};

    use super::*;

    /// Both formats of one of each kind.
    #[test]
    fn every_kind_is_written_in_both_formats() {
        let mut registry = Registry::with_prefix("x");
        let labels = vec![("site", "farm".to_owned()), ("agent", "gw".to_owned())];
        registry.register("frames", "Frames taken", Rows::Counters(vec![(labels, 3)]));
        registry.register("writing", "1 where it writes", Rows::Gauges(vec![(Vec::new(), 1.0)]));
        let spread = Spread { buckets: vec![(0.5, 2), (1.0, 1)], count: 4, sum: 7.5 };
        let of = vec![("outcome", "done".to_owned())];
        registry.register_with_unit("work", "How long", Unit::Seconds, Spreads(vec![(of, spread)]));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let expected = "# HELP x_frames Frames taken.\n# TYPE x_frames counter\n\
            x_frames_total{site=\"farm\",agent=\"gw\"} 3\n\
            # HELP x_writing 1 where it writes.\n# TYPE x_writing gauge\nx_writing 1.0\n\
            # HELP x_work_seconds How long.\n# TYPE x_work_seconds histogram\n# UNIT x_work_seconds seconds\n\
            x_work_seconds_sum{outcome=\"done\"} 7.5\nx_work_seconds_count{outcome=\"done\"} 4\n\
            x_work_seconds_bucket{le=\"0.5\",outcome=\"done\"} 2\n\
            x_work_seconds_bucket{le=\"1.0\",outcome=\"done\"} 3\n\
            x_work_seconds_bucket{le=\"+Inf\",outcome=\"done\"} 4\n# EOF\n";
        assert_eq!(text, expected);
        let older = "# HELP x_frames_total Frames taken.\n# TYPE x_frames_total counter\n\
            x_frames_total{site=\"farm\",agent=\"gw\"} 3\n\
            # HELP x_writing 1 where it writes.\n# TYPE x_writing gauge\nx_writing 1.0\n\
            # HELP x_work_seconds How long.\n# TYPE x_work_seconds histogram\n\
            x_work_seconds_sum{outcome=\"done\"} 7.5\nx_work_seconds_count{outcome=\"done\"} 4\n\
            x_work_seconds_bucket{le=\"0.5\",outcome=\"done\"} 2\n\
            x_work_seconds_bucket{le=\"1.0\",outcome=\"done\"} 3\n\
            x_work_seconds_bucket{le=\"+Inf\",outcome=\"done\"} 4\n";
        assert_eq!(older_text(&text), older);
    }
}
