//! Collects the metrics of a registry: its counters, its histograms and its gauges. The values of
//! the gauges are read for each request.

mod contact_gauges;
mod rollout_gauges;

use jiff::Timestamp;

use crate::catalog::fleet::Scope;
use crate::error::Result;
use crate::fleet::metrics::{Sample, float, gauge};
use crate::registry::Registry;
use crate::verbs::fleet_document::ConfigurationStatus;
use crate::verbs::{collect, verify_blobs};

/// Selects one of the counts of a configuration's hosts.
type Count = fn(&ConfigurationStatus) -> u64;

/// The metrics for the counts of a configuration's hosts: the name, the help text, and the count.
const COUNTS: [(&str, &str, Count); 5] = [
    ("hosts_behind", "Hosts that have not confirmed the current state.", |of| of.behind),
    ("hosts_failed", "Hosts on which the current state failed.", |of| of.failed),
    (
        "hosts_absent",
        "Hosts that are not connected, and have neither confirmed the current state nor failed.",
        |of| of.absent,
    ),
    ("hosts_held", "Hosts that an operator holds.", |of| of.held),
    ("hosts_unknown", "Agents that only poll and have never reported.", |of| of.unknown),
];

impl Registry {
    /// All metrics in the text format of Prometheus.
    pub async fn metrics(&self) -> Result<String> {
        let mut samples = self.process_samples();
        samples.extend(self.store_samples().await?);
        samples.extend(self.upkeep_samples().await?);
        samples.extend(self.fleet_samples().await?);
        Ok(self.fleet.metrics.text(&samples))
    }

    /// The gauges of this process and of its connections.
    fn process_samples(&self) -> Vec<Sample> {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let connected = u64::try_from(self.fleet.presence.count_here()).unwrap_or(u64::MAX);
        let waiting = u64::try_from(self.fleet.reports_waiting()).unwrap_or(u64::MAX);
        vec![
            Sample {
                name: "build_info",
                help: "The version of the registry; the value is always 1.",
                labels: vec![("version", version)],
                value: 1.0,
            },
            gauge("start_time_seconds", "When the registry started.", seconds(self.fleet.started)),
            gauge("agents_connected", "Agents that are connected.", float(connected)),
            gauge("reports_waiting", "Reports that are not on the disk yet.", float(waiting)),
            gauge("downloads_active", "Active downloads.", float(self.downloads.all())),
        ]
    }

    /// The gauges of the stored files and of the disk.
    async fn store_samples(&self) -> Result<Vec<Sample>> {
        let (blobs, damaged) = self.catalog.blob_counts().await?;
        let staged = self.blobs().staged().await?;
        let (free, size) = self.disk_bytes().await?;
        let counts = self.catalog.counts().await?;
        let min_free = self.settings.min_free;
        let all = [
            ("store_free_bytes", "Bytes that are free on the disk.", free),
            ("store_capacity_bytes", "Size of the disk in bytes.", size),
            ("store_min_free_bytes", "Bytes that uploads leave free.", min_free),
            ("store_bytes", "Bytes of the stored files.", blobs.bytes),
            ("store_files", "Stored files.", blobs.blobs),
            ("store_damaged_blobs", "Stored files that are damaged.", damaged),
            ("uploads_staged", "Uploads that are open or wait to be bound.", staged.files),
            (
                "uploads_staged_bytes",
                "Bytes of the uploads that are open or wait to be bound.",
                staged.bytes,
            ),
            ("components", "Components.", counts.components),
            ("versions", "Versions of components.", counts.versions),
            ("configurations", "Configurations.", counts.configurations),
            ("states", "States in the histories of configurations.", counts.states),
        ];
        Ok(all.into_iter().map(|(name, help, value)| gauge(name, help, float(value))).collect())
    }

    /// The gauges of gc and of verify. If one of the two has never run, the gauges of its last run
    /// are missing.
    async fn upkeep_samples(&self) -> Result<Vec<Sample>> {
        let due = self.is_collection_due().await?;
        let help = "Whether the next automatic gc will read the files.";
        let mut samples = vec![gauge("gc_due", help, f64::from(u8::from(due)))];
        if let Some(gc) = self.catalog.note::<collect::Noted>(collect::NOTE).await? {
            let help = "When gc last succeeded.";
            samples.push(gauge("gc_last_success_timestamp_seconds", help, seconds(gc.time)));
        }
        let last: Option<verify_blobs::Noted> = self.catalog.note(verify_blobs::NOTE).await?;
        let complete = self.catalog.note(verify_blobs::COMPLETE_NOTE).await?;
        // Earlier versions of the registry did not write the note about the last complete run.
        if let Some(verify) = complete.or_else(|| last.clone().filter(|last| last.complete)) {
            let help = "When the last verify that read all stored files ended.";
            let name = "verify_last_success_timestamp_seconds";
            samples.push(gauge(name, help, seconds(verify.time)));
        }
        if let Some(last) = last {
            let help = "Damaged or missing files and entries that the last verify found.";
            samples.push(gauge("verify_last_damaged", help, float(last.damaged)));
        }
        Ok(samples)
    }

    /// The gauges of the hosts and the rollouts of each configuration. All these gauges show the
    /// fleet at the same moment.
    async fn fleet_samples(&self) -> Result<Vec<Sample>> {
        let snapshot = self.catalog.fleet_snapshot(Scope::default()).await?;
        let mut samples = rollout_gauges::samples(&snapshot);
        samples.extend(self.contact_samples(&snapshot, Timestamp::now()));
        let configurations = self.counted(snapshot, None).configurations;
        for of in &configurations {
            let label = || ("configuration", of.configuration.clone());
            for (phase, count) in &of.phases {
                let labels = vec![label(), ("phase", (*phase).to_owned())];
                let help = "Hosts by the phase of their last report.";
                samples.push(Sample { name: "hosts", help, labels, value: float(*count) });
            }
        }
        for (name, help, count) in COUNTS {
            for of in &configurations {
                let labels = vec![("configuration", of.configuration.clone())];
                samples.push(Sample { name, help, labels, value: float(count(of)) });
            }
        }
        Ok(samples)
    }
}

/// The seconds from the Unix epoch until `time`.
fn seconds(time: Timestamp) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
    let seconds = time.as_second() as f64;
    seconds
}
