//! Writes the reports to `report.json`, the state of the watch to `agent.json`, and the metrics to
//! the file of `-metrics-file`. `status`, Prometheus and the next start of the agent read these
//! files. The deploy does not wait for these writes.

use std::convert::Infallible;
use std::ffi::{CString, OsStr};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use deploy_store::Error;

use crate::blocking;
use crate::fleet::metrics_text::Metrics;
use crate::fleet::offers::Offers;
use crate::fleet::reporter::{About, Reports};
use crate::records::agent_report::Reporter;
use crate::records::report_file::ReportFile;
use crate::records::state_file::split;

/// The time from a change of the reports to the write of the files. A short deploy ends before the
/// write, so these writes do not slow down the syncs of the deploy. If the agent is killed before
/// the write, the agent's other records contain the result.
const PAUSE: Duration = Duration::from_millis(250);

/// The data to write, and the files to write to.
#[derive(Debug, Clone)]
pub struct Keeper {
    /// The agent's directory.
    pub dir: PathBuf,
    /// The state file. The modification time of the state file is the time of the last successful
    /// switch.
    pub state: PathBuf,
    /// The file for metrics, if `-metrics-file` is given.
    pub metrics_file: Option<PathBuf>,
    /// Writes the report that `status` reads.
    pub status: Reporter,
    /// The reports that the agent sends to the registry.
    pub reports: Reports,
    /// The registry's offers.
    pub offers: Offers,
}

/// The contents that the keeper wrote last.
#[derive(Debug, Clone, Default)]
struct Written {
    reports: ReportFile,
    metrics: String,
    is_live: Option<bool>,
}

impl Keeper {
    /// Writes the files shortly after each change, until the future is dropped.
    pub async fn run(self) -> Infallible {
        let (mut reports, mut offers) = (self.reports.changed(), self.offers.changed());
        let mut written = Written { reports: self.reports.file(), ..Written::default() };
        loop {
            reports.mark_unchanged();
            offers.mark_unchanged();
            let keeper = self.clone();
            written = blocking::run(move || keeper.write(written)).await;
            tokio::select! {
                _ = reports.changed() => {}
                _ = offers.changed() => {}
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Writes the files one last time, because the agent and its watch end.
    pub async fn finish(self) {
        self.offers.lose();
        blocking::run(move || self.write(Written::default())).await;
    }

    /// Writes each file whose contents would differ from `written`. Returns the contents that the
    /// files have now. If a write fails, the agent only logs the error, because no deploy depends
    /// on these files.
    fn write(&self, mut written: Written) -> Written {
        let file = self.reports.file();
        if file != written.reports {
            match file.write(&self.dir) {
                Ok(()) => written.reports = file,
                Err(err) => tracing::debug!("cannot keep the reports: {err}"),
            }
        }
        let is_live = self.offers.received().is_live;
        if written.is_live != Some(is_live) {
            self.status.update(|report| report.watching = is_live);
            written.is_live = Some(is_live);
        }
        if let Some(path) = &self.metrics_file {
            let metrics = self.metrics(is_live).to_text();
            if metrics != written.metrics {
                match replace(path, metrics.as_bytes()) {
                    Ok(()) => written.metrics = metrics,
                    Err(err) => tracing::warn!(event = "no_metrics", "cannot write metrics: {err}"),
                }
            }
        }
        written
    }

    fn metrics(&self, watch_live: bool) -> Metrics {
        let (about, phase, counts) = self.reports.counts();
        let changed = std::fs::metadata(&self.state).and_then(|meta| meta.modified()).ok();
        let seconds = changed.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let last_success = seconds.and_then(|time| i64::try_from(time.as_secs()).ok());
        let About { configuration, version, link, .. } = about;
        Metrics { configuration, version, link, phase, counts, last_success, watch_live }
    }
}

/// Replaces a file in one step, so that every reader sees a complete file. Does not sync the file.
fn replace(path: &Path, contents: &[u8]) -> Result<(), Error> {
    let (dir, name) = split(path)?;
    // node_exporter reads only files whose names end in .prom, so node_exporter does not read the
    // unfinished file.
    let unfinished = format!("{}.new", OsStr::from_bytes(name.to_bytes()).display());
    let unfinished = CString::new(unfinished).unwrap_or_else(|_| name.clone());
    dir.remove_file(&unfinished)?;
    let file = dir.create_file(&unfinished, 0o644)?;
    (&file).write_all(contents).map_err(|err| Error::io("write", dir.path_of(&unfinished), err))?;
    dir.rename(&unfinished, &dir, &name)
}
