//! Runs the store's synchronous work on threads that the network code does not use.

use crate::sandbox::Confinement;

/// Runs `work` on a thread that may wait for the disk.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(err) => match err.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The work was cancelled, because the runtime shuts down and the program ends.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Like [`run`], but on a confined thread.
pub async fn confined<T: Send + 'static>(
    confinement: &Confinement,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let confinement = confinement.clone();
    run(move || confinement.run(work)).await
}
