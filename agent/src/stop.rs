//! SIGTERM and SIGINT, and the part of a cycle that they do not interrupt.

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

/// Tells that the agent is to end. Clones tell the same.
#[derive(Debug, Clone)]
pub struct Stop {
    signal: watch::Receiver<Option<Signal>>,
    critical: Arc<Mutex<()>>,
}

impl Stop {
    /// A stop, and the sender that triggers it.
    pub fn new() -> (watch::Sender<Option<Signal>>, Self) {
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
                let signal = tokio::select! {
                    _ = term.recv() => Signal::Terminated,
                    _ = int.recv() => Signal::Interrupt,
                };
                sender.send_replace(Some(signal));
            }
        });
        Ok(stop)
    }

    /// Returns, with the signal's name, when the agent is to end.
    pub async fn requested(&self) -> Signal {
        let mut signal = self.signal.clone();
        let name = signal.wait_for(Option::is_some).await.map(|name| *name);
        match name {
            Ok(Some(name)) => name,
            // Nobody can ask any more.
            _ => std::future::pending().await,
        }
    }

    /// As [`Stop::requested`], but not while a critical part runs.
    pub async fn requested_when_idle(&self) -> Signal {
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
