//! Handles SIGTERM and SIGINT, and provides the critical section that these signals do not
//! interrupt.

use std::fmt;
use std::io;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex, MutexGuard, watch};

/// A signal that ends the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM.
    Terminated,
    /// SIGINT.
    Interrupt,
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Terminated => "terminated",
            Self::Interrupt => "interrupt",
        })
    }
}

/// A request to the agent to stop. Clones share the request.
#[derive(Debug, Clone)]
pub struct Stop {
    signal: watch::Receiver<Option<Signal>>,
    critical: Arc<Mutex<()>>,
}

impl Stop {
    /// Returns a request, and the sender that triggers the request.
    pub fn new() -> (watch::Sender<Option<Signal>>, Self) {
        let (sender, signal) = watch::channel(None);
        (sender, Self { signal, critical: Arc::default() })
    }

    /// A request that SIGTERM and SIGINT trigger. Call this function within a tokio runtime.
    pub fn on_signals() -> io::Result<Self> {
        let (sender, stop) = Self::new();
        let mut term = signal(SignalKind::terminate())?;
        let mut int = signal(SignalKind::interrupt())?;
        tokio::spawn(async move {
            loop {
                let signal = tokio::select! {
                    _ = term.recv() => Signal::Terminated,
                    _ = int.recv() => Signal::Interrupt,
                };
                sender.send_replace(Some(signal));
            }
        });
        Ok(stop)
    }

    /// Waits until the agent must stop, and returns the signal.
    pub async fn requested(&self) -> Signal {
        let mut signal = self.signal.clone();
        let name = signal.wait_for(Option::is_some).await.map(|name| *name);
        match name {
            Ok(Some(name)) => name,
            // The sender was dropped, so no signal can arrive.
            _ => std::future::pending().await,
        }
    }

    /// Like [`Stop::requested`], but also waits for the end of the critical section.
    pub async fn requested_when_idle(&self) -> Signal {
        let name = self.requested().await;
        let _idle = self.critical.lock().await;
        name
    }

    /// Enters the critical section. Dropping the guard leaves the section.
    pub async fn critical(&self) -> MutexGuard<'_, ()> {
        self.critical.lock().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn stop_waits_for_the_critical_section() {
        let (sender, stop) = Stop::new();
        let critical = stop.critical().await;
        sender.send_replace(Some(Signal::Terminated));
        assert_eq!(stop.requested().await, Signal::Terminated);
        let waiting = stop.clone();
        let mut idle = tokio::spawn(async move { waiting.requested_when_idle().await });
        tokio::task::yield_now().await;
        assert!(!idle.is_finished());
        drop(critical);
        assert_eq!((&mut idle).await.unwrap(), Signal::Terminated);
    }
}
