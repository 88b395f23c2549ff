//! The queue of reports that are not on the disk yet. One transaction writes the reports that
//! arrive within 20 ms, at most 500, so that ten thousand agents may report at the same time.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use super::metrics::Metrics;
use super::recent_deploys::RecentDeploys;
use crate::catalog::Catalog;
use crate::catalog::fleet::{Applied, Sent};

/// How long the first report of a batch waits for others.
const GATHER: Duration = Duration::from_millis(20);
/// Maximum number of reports in one transaction.
const BATCH: usize = 500;
/// Maximum number of queued reports. If the queue is full, the agents wait.
const WAITING: usize = 2000;
/// The pause after an error of the catalogue.
const PAUSE: Duration = Duration::from_secs(1);
/// How many times the registry tries to write a batch. After that, the agents have to send the
/// reports again.
const TRIES: u32 = 3;

/// The two parts of the fleet that count the reports on the disk.
type Counted = (Arc<Metrics>, Arc<RecentDeploys>);

/// A report, and the channel for its result.
type Entry = (Sent, oneshot::Sender<Applied>);

/// Takes reports, and writes them in batches.
#[derive(Debug, Clone)]
pub struct ReportQueue(mpsc::Sender<Entry>);

impl ReportQueue {
    /// Starts a queue for `catalog`. After each batch, the number in `written` changes.
    pub fn new(catalog: Catalog, counted: Counted, written: watch::Sender<u64>) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        tokio::spawn(run(catalog, counted, receiver, written));
        Self(sender)
    }

    /// The number of reports in the queue. The batch that is being written does not count.
    pub fn waiting(&self) -> usize {
        self.0.max_capacity() - self.0.capacity()
    }

    /// Queues a report. The receiver gets the result when the report is on the disk. If the
    /// catalogue fails, the receiver gets an error.
    pub async fn send(&self, sent: Sent) -> oneshot::Receiver<Applied> {
        let (done, result) = oneshot::channel();
        // If the queue has ended, the registry is stopping, and the receiver gets an error.
        let _ = self.0.send((sent, done)).await;
        result
    }
}

async fn run(
    catalog: Catalog,
    (metrics, deploys): Counted,
    mut receiver: mpsc::Receiver<Entry>,
    written: watch::Sender<u64>,
) {
    while let Some(first) = receiver.recv().await {
        let mut batch = vec![first];
        let until = Instant::now() + GATHER;
        while batch.len() < BATCH
            && let Ok(Some(next)) = timeout_at(until, receiver.recv()).await
        {
            batch.push(next);
        }
        let (sent, waiting): (Vec<Sent>, Vec<_>) = batch.into_iter().unzip();
        // Without a result, the agents send their reports again.
        let Some(results) = write(&catalog, &sent).await else { continue };
        for ((sent, done), result) in sent.iter().zip(waiting).zip(results) {
            metrics.reported(&sent.report, &result);
            deploys.reported(sent, &result, Timestamp::now());
            // The agent may have disconnected by now.
            let _ = done.send(result);
        }
        written.send_modify(|count| *count += 1);
    }
}

/// Writes a batch. Returns `None` if the catalogue failed.
async fn write(catalog: &Catalog, sent: &[Sent]) -> Option<Vec<Applied>> {
    for attempt in 1..=TRIES {
        match catalog.apply_reports(sent, Timestamp::now()).await {
            Ok(results) => return Some(results),
            Err(err) if attempt == TRIES => {
                tracing::error!(
                    event = "reports_refused",
                    count = sent.len(),
                    "cannot write reports to the catalogue; the agents send them again: {err}"
                );
            }
            Err(err) => {
                tracing::warn!(
                    event = "reports_wait",
                    count = sent.len(),
                    "cannot write reports yet: {err}"
                );
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    None
}
