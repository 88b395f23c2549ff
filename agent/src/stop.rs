//! SIGTERM and SIGINT, and the part of a cycle that they do not interrupt.

use std::io;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex, MutexGuard, watch};

/// Tells that the agent is to end. Clones tell the same.
#[derive(Debug, Clone)]
pub struct Stop {
    signal: watch::Receiver<Option<&'static str>>,
    critical: Arc<Mutex<()>>,
}

impl Stop {
    /// A stop, and the sender that triggers it.
    pub fn new() -> (watch::Sender<Option<&'static str>>, Self) {
        let (sender, signal) = watch::channel(None);
        (sender, Self { signal, critical: Arc::default() })
    }

    /// A stop that SIGTERM (`terminated`) and SIGINT (`interrupt`) trigger.
    pub fn on_signals() -> io::Result<Self> {
        let (sender, stop) = Self::new();
        let mut term = signal(SignalKind::terminate())?;
        let mut int = signal(SignalKind::interrupt())?;
        tokio::spawn(async move {
            loop {
                let name = tokio::select! {
                    _ = term.recv() => "terminated",
                    _ = int.recv() => "interrupt",
                };
                sender.send_replace(Some(name));
            }
        });
        Ok(stop)
    }

    /// Returns, with the signal's name, when the agent is to end.
    pub async fn requested(&self) -> &'static str {
        let mut signal = self.signal.clone();
        let name = signal.wait_for(Option::is_some).await.map(|name| *name);
        match name {
            Ok(Some(name)) => name,
            // Nobody can ask any more.
            _ => std::future::pending().await,
        }
    }

    /// As [`Stop::requested`], but not while a critical part runs.
    pub async fn requested_when_idle(&self) -> &'static str {
        let name = self.requested().await;
        let _idle = self.critical.lock().await;
        name
    }

    /// Begins the critical part of a cycle; it ends when the guard is dropped.
    pub async fn critical(&self) -> MutexGuard<'_, ()> {
        self.critical.lock().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waits_for_the_critical_part() {
        let (sender, stop) = Stop::new();
        let critical = stop.critical().await;
        sender.send_replace(Some("terminated"));
        assert_eq!(stop.requested().await, "terminated");
        let waiting = stop.clone();
        let mut idle = tokio::spawn(async move { waiting.requested_when_idle().await });
        tokio::task::yield_now().await;
        assert!(!idle.is_finished());
        drop(critical);
        assert_eq!((&mut idle).await.unwrap(), "terminated");
    }
}
