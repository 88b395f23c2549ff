//! The metrics of a registry: its counters and histograms, and gauges whose values are read for
//! each request.

use crate::error::Result;
use crate::fleet::metrics::Sample;
use crate::registry::Registry;
use crate::verbs::fleet_document::ConfigurationStatus;
use crate::verbs::fleet_status::FleetQuery;

/// Reads one of the counts of a configuration's hosts.
type Count = fn(&ConfigurationStatus) -> u64;

impl Registry {
    /// All metrics in the text format of Prometheus.
    pub async fn metrics(&self) -> Result<String> {
        let fleet = self.fleet_status(&FleetQuery::default()).await?;
        let stat = self.stat().await?;
        let one = |name, help, value| Sample { name, help, labels: Vec::new(), value };
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
        let float = |number: u64| number as f64;
        let mut samples = vec![
            one("agents_connected", "Agents that are connected.", {
                float(u64::try_from(self.fleet.presence.count()).unwrap_or(u64::MAX))
            }),
            one("store_free_bytes", "Bytes that are free on the disk.", float(stat.free)),
            one("store_bytes", "Bytes of the stored files.", float(stat.blobs.bytes)),
            one("store_damaged_blobs", "Stored files that are damaged.", float(stat.damaged)),
        ];
        if let Some(gc) = &stat.gc {
            let help = "When gc last succeeded.";
            #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
            let time = gc.time.as_second() as f64;
            samples.push(one("gc_last_success_timestamp_seconds", help, time));
        }
        for of in &fleet.configurations {
            let label = || ("configuration", of.configuration.clone());
            for (phase, count) in &of.phases {
                let labels = vec![label(), ("phase", (*phase).to_owned())];
                let help = "Hosts by the phase of their last report.";
                samples.push(Sample { name: "hosts", help, labels, value: float(*count) });
            }
        }
        let counts: [(&str, &str, Count); 3] = [
            ("hosts_behind", "Hosts that have not confirmed the current state.", |of| of.behind),
            ("hosts_failed", "Hosts on which the current state failed.", |of| of.failed),
            ("hosts_absent", "Hosts that are behind and not connected.", |of| of.absent),
        ];
        for (name, help, count) in counts {
            for of in &fleet.configurations {
                let labels = vec![("configuration", of.configuration.clone())];
                samples.push(Sample { name, help, labels, value: float(count(of)) });
            }
        }
        Ok(self.fleet.metrics.text(&samples))
    }
}
