//! Keeps the counters and histograms of a running registry. This module does not keep the values of
//! gauges: for each request, the caller reads the values and passes them as samples.

use std::time::Duration;

use deploy_wire::fleet::{Phase, Report};
use prometheus::core::Collector;
use prometheus::{
    Encoder as _, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter,
    IntCounterVec, Opts, Registry, TextEncoder,
};

use crate::catalog::fleet::Applied;

/// The upper bounds of the buckets of `push_latency_seconds`, in seconds.
const PUSH: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
/// The upper bounds of the buckets of `deploy_duration_seconds`, in seconds.
const DEPLOY: &[f64] = &[0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0];

/// The counters and histograms of the registry.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// The time in seconds from the commit of a change until the registry has written the line with
    /// the change to an agent.
    pub push_latency: Histogram,
    /// The number of polls of configurations over sftp.
    pub polls: IntCounter,
    /// The number of refused connections, by reason.
    pub refused: IntCounterVec,
    /// The number of bytes of blobs that the registry has sent.
    pub sent_bytes: IntCounter,
    deploys: HistogramVec,
    reports: IntCounterVec,
}

/// A value of a gauge. The registry reads the value each time that a client requests the metrics.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The name of the metric, without the prefix `deploy_registry_`.
    pub name: &'static str,
    /// The help text of the metric.
    pub help: &'static str,
    /// The names and the values of the gauge's labels.
    pub labels: Vec<(&'static str, String)>,
    /// The value of the gauge.
    pub value: f64,
}

/// The value of a gauge without labels.
pub fn gauge(name: &'static str, help: &'static str, value: f64) -> Sample {
    Sample { name, help, labels: Vec::new(), value }
}

/// Converts a number to the value of a gauge.
pub fn float(number: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
    let float = number as f64;
    float
}

fn named(name: &str) -> String {
    format!("deploy_registry_{name}")
}

/// Unwraps a new metric. Creation fails only for an invalid name or label, and all names and labels
/// here are valid.
fn made<T>(metric: Result<T, prometheus::Error>) -> T {
    metric.expect("the name and the labels of the metric are valid")
}

impl Default for Metrics {
    fn default() -> Self {
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            HistogramOpts::new(named(name), help).buckets(buckets.to_vec())
        };
        let push = "Time from the commit of a change until it was sent to an agent.";
        let deploy = "Time that agents reported for a step of a deploy.";
        let metrics = Self {
            registry: Registry::new(),
            push_latency: made(Histogram::with_opts(histogram("push_latency_seconds", push, PUSH))),
            polls: made(IntCounter::new(named("polls_total"), "Polls of configurations.")),
            refused: made(IntCounterVec::new(
                Opts::new(named("connections_refused_total"), "Refused connections."),
                &["reason"],
            )),
            sent_bytes: made(IntCounter::new(
                named("blob_sent_bytes_total"),
                "Bytes of blobs that were sent.",
            )),
            deploys: made(HistogramVec::new(
                histogram("deploy_duration_seconds", deploy, DEPLOY),
                &["phase"],
            )),
            reports: made(IntCounterVec::new(
                Opts::new(named("reports_total"), "Reports of agents, by result."),
                &["result"],
            )),
        };
        let all: [Box<dyn Collector>; 6] = [
            Box::new(metrics.push_latency.clone()),
            Box::new(metrics.polls.clone()),
            Box::new(metrics.refused.clone()),
            Box::new(metrics.sent_bytes.clone()),
            Box::new(metrics.deploys.clone()),
            Box::new(metrics.reports.clone()),
        ];
        for collector in all {
            made(metrics.registry.register(collector));
        }
        // If a counter first appears with the value 1, the function `increase()` of Prometheus
        // misses the first event. So each counter appears with the value 0 from the start.
        for result in ["new", "old", "refused"] {
            metrics.reports.with_label_values(&[result]);
        }
        for reason in ["admission", "agents"] {
            metrics.refused.with_label_values(&[reason]);
        }
        metrics
    }
}

impl Metrics {
    /// Counts a report. If the report ends a successful deploy, records the times of the deploy's
    /// steps.
    pub fn reported(&self, report: &Report, applied: &Applied) {
        let result = match applied {
            Applied::New { .. } => "new",
            Applied::Old => "old",
            Applied::Refused(_) => "refused",
        };
        self.reports.with_label_values(&[result]).inc();
        if !matches!(applied, Applied::New { .. }) || report.phase != Phase::Healthy {
            return;
        }
        for step in &report.steps {
            let seconds = Duration::from_millis(step.ms).as_secs_f64();
            self.deploys.with_label_values(&[step.phase.word()]).observe(seconds);
        }
    }

    /// All metrics, and the gauges in `samples`, in the text format of Prometheus.
    pub fn text(&self, samples: &[Sample]) -> String {
        let now = Registry::new();
        for same in samples.chunk_by(|one, other| one.name == other.name) {
            let first = &same[0];
            let names: Vec<&str> = first.labels.iter().map(|(name, _)| *name).collect();
            if names.is_empty() {
                let gauge = made(Gauge::new(named(first.name), first.help));
                gauge.set(first.value);
                made(now.register(Box::new(gauge)));
                continue;
            }
            let gauges = made(GaugeVec::new(Opts::new(named(first.name), first.help), &names));
            for sample in same {
                let values: Vec<&str> = sample.labels.iter().map(|(_, value)| &**value).collect();
                gauges.with_label_values(&values).set(sample.value);
            }
            made(now.register(Box::new(gauges)));
        }
        let mut text = Vec::new();
        for registry in [&self.registry, &now] {
            // Writing to memory does not fail.
            let _ = TextEncoder::new().encode(&registry.gather(), &mut text);
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use deploy_wire::fleet::Step;

    use super::*;

    #[test]
    fn text_has_counters_histograms_and_samples() {
        let metrics = Metrics::default();
        let report = Report {
            phase: Phase::Healthy,
            steps: vec![Step { phase: Phase::Staged, ms: 40 }],
            ..Report::default()
        };
        metrics.reported(&report, &Applied::New { host: 1 });
        metrics.reported(&report, &Applied::Old);
        let sample = |configuration: &str, value| Sample {
            name: "hosts",
            help: "Hosts.",
            labels: vec![("configuration", configuration.to_owned())],
            value,
        };
        let text = metrics.text(&[sample("a\"b", 2.0), sample("c", 3.0)]);
        for line in [
            "deploy_registry_reports_total{result=\"new\"} 1",
            "deploy_registry_reports_total{result=\"old\"} 1",
            "deploy_registry_deploy_duration_seconds_bucket{phase=\"staged\",le=\"0.05\"} 1",
            "deploy_registry_hosts{configuration=\"a\\\"b\"} 2",
            "deploy_registry_hosts{configuration=\"c\"} 3",
            "# TYPE deploy_registry_push_latency_seconds histogram",
        ] {
            assert!(text.lines().any(|one| one == line), "{line} is not in\n{text}");
        }
    }
}
