//! Formats the metrics of an agent in the text format of Prometheus. This module does not access
//! the disk, the network or the clock.

use std::fmt::Write as _;

use deploy_wire::fleet::Phase;

use crate::fleet::deploy_counts::DeployCounts;

/// The values of the metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metrics {
    /// The name of the configuration that the agent tracks. The name distinguishes several agents
    /// on one server.
    pub configuration: String,
    /// The version of the agent.
    pub version: String,
    /// How the agent places files in roots: `reflink`, `hardlink` or `copy`.
    pub link: String,
    /// The phase of the last report.
    pub phase: Phase,
    /// The number of deploys, by result.
    pub counts: DeployCounts,
    /// When a switch last succeeded, in seconds since 1970.
    pub last_success: Option<i64>,
    /// Whether a watch is live.
    pub watch_live: bool,
}

impl Metrics {
    /// The metrics as text.
    pub fn to_text(&self) -> String {
        let mut text = Text { configuration: self.configuration.clone(), text: String::new() };
        let labels = [("version", &*self.version), ("link", &*self.link)];
        text.head(
            "info",
            "gauge",
            "The agent's version, and how the agent places files; always 1.",
        );
        text.sample("info", &labels, 1);
        let DeployCounts { healthy, failed, rolled_back, steps } = &self.counts;
        text.head("deploys_total", "counter", "Deploys since the agent's start, by result.");
        for (result, count) in
            [("healthy", healthy), ("failed", failed), ("rolled_back", rolled_back)]
        {
            text.sample("deploys_total", &[("result", result)], count);
        }
        if let Some(at) = self.last_success {
            let name = "last_success_timestamp_seconds";
            text.head(name, "gauge", "When a switch last succeeded, in seconds since 1970.");
            text.sample(name, &[], at);
        }
        text.head("phase", "gauge", "1 for the reported phase, 0 for every other phase.");
        for phase in Phase::ALL {
            text.sample("phase", &[("phase", phase.word())], u8::from(phase == self.phase));
        }
        text.head(
            "watch_live",
            "gauge",
            "1 while a watch is open, so that changes arrive without a poll; otherwise 0.",
        );
        text.sample("watch_live", &[], u8::from(self.watch_live));
        if !steps.is_empty() {
            let name = "deploy_duration_seconds";
            text.head(name, "gauge", "The duration of each step of the last deploy, in seconds.");
            for step in steps {
                #[allow(clippy::cast_precision_loss, reason = "a deploy does not take centuries")]
                let seconds = step.ms as f64 / 1000.0;
                text.sample(name, &[("step", step.phase.word())], seconds);
            }
        }
        text.text
    }
}

struct Text {
    configuration: String,
    text: String,
}

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(
            self.text,
            "# HELP deploy_agent_{name} {help}\n# TYPE deploy_agent_{name} {kind}"
        );
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let labels = [("configuration", &*self.configuration)].iter().chain(labels).fold(
            String::new(),
            |text, (name, value)| {
                let comma = if text.is_empty() { "" } else { "," };
                format!("{text}{comma}{name}=\"{}\"", escaped(value))
            },
        );
        let _ = writeln!(self.text, "deploy_agent_{name}{{{labels}}} {value}");
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use deploy_wire::fleet::Step;

    use super::*;

    #[test]
    fn every_sample_has_a_name_a_type_and_a_number() {
        let mut counts = DeployCounts::default();
        counts.ended(Phase::Failed, &[]);
        let steps = [(Phase::Staged, 1500), (Phase::Healthy, 7)];
        counts.ended(Phase::Healthy, &steps.map(|(phase, ms)| Step { phase, ms }));
        let metrics = Metrics {
            configuration: "web".to_owned(),
            version: "1 \"x\"".to_owned(),
            link: "copy".to_owned(),
            phase: Phase::Healthy,
            counts,
            last_success: Some(1_700_000_000),
            watch_live: true,
        };
        let text = metrics.to_text();
        for line in [
            "# TYPE deploy_agent_deploys_total counter",
            "deploy_agent_info{configuration=\"web\",version=\"1 \\\"x\\\"\",link=\"copy\"} 1",
            "deploy_agent_deploys_total{configuration=\"web\",result=\"failed\"} 1",
            "deploy_agent_last_success_timestamp_seconds{configuration=\"web\"} 1700000000",
            "deploy_agent_phase{configuration=\"web\",phase=\"healthy\"} 1",
            "deploy_agent_phase{configuration=\"web\",phase=\"failed\"} 0",
            "deploy_agent_watch_live{configuration=\"web\"} 1",
            "deploy_agent_deploy_duration_seconds{configuration=\"web\",step=\"staged\"} 1.5",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
        }
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok() && name.starts_with("deploy_agent_"), "{line}");
        }
        assert!(!Metrics::default().to_text().contains("last_success"));
    }
}
