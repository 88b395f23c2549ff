//! Runs work that waits for the disk.

use std::path::PathBuf;

/// Runs `work` on a separate thread. Meanwhile, the tasks that wait for the network continue.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> deploy_store::Result<T> + Send + 'static,
) -> deploy_store::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|err| {
        let cause = std::io::Error::other(err);
        Err(deploy_store::Error::Io { action: "finish", path: PathBuf::from("work"), cause })
    })
}
