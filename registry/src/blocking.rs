//! Runs blocking work, such as disk access, on separate threads.

use std::path::PathBuf;

/// Runs `work` on a thread for blocking work, so that `work` does not block the async tasks.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> deploy_store::Result<T> + Send + 'static,
) -> deploy_store::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|err| {
        let cause = std::io::Error::other(err);
        Err(deploy_store::Error::Io {
            action: "finish",
            path: PathBuf::from("a background task"),
            cause,
        })
    })
}
