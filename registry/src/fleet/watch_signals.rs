//! Passes signals from the registry to one watch. All signals of a watch share one waiter, because
//! a registry has thousands of watches, and each waiter costs processor time whenever its watch
//! sends a line.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// The signals of one watch. Clones share their signals.
#[derive(Debug, Clone, Default)]
pub struct WatchSignals(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    waiter: Notify,
    replaced: AtomicBool,
    agent_changed: AtomicBool,
    windows_changed: AtomicBool,
}

/// A signal to a watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchSignal {
    /// The same agent has connected again, so this watch is dead.
    Replaced,
    /// An operator changed the host or the agent.
    AgentChanged,
    /// An operator changed maintenance windows.
    WindowsChanged,
}

impl WatchSignals {
    /// Sends a signal. The watch receives the signal even if it does not wait at this moment. Equal
    /// signals that the watch has not received yet count as one.
    pub fn send(&self, signal: WatchSignal) {
        self.flag(signal).store(true, Ordering::Release);
        self.0.waiter.notify_one();
    }

    /// Waits for a signal. The caller may drop the future at any time, and no signal is lost. The
    /// signal [`WatchSignal::Replaced`] stays: each later call returns it, too.
    pub async fn next(&self) -> WatchSignal {
        loop {
            if self.0.replaced.load(Ordering::Acquire) {
                return WatchSignal::Replaced;
            }
            for signal in [WatchSignal::AgentChanged, WatchSignal::WindowsChanged] {
                let flag = self.flag(signal);
                if flag.load(Ordering::Acquire) && flag.swap(false, Ordering::AcqRel) {
                    return signal;
                }
            }
            self.0.waiter.notified().await;
        }
    }

    fn flag(&self, signal: WatchSignal) -> &AtomicBool {
        match signal {
            WatchSignal::Replaced => &self.0.replaced,
            WatchSignal::AgentChanged => &self.0.agent_changed,
            WatchSignal::WindowsChanged => &self.0.windows_changed,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn each_signal_is_received_once_and_replaced_stays() {
        let signals = WatchSignals::default();
        let sender = signals.clone();
        assert_eq!(signals.next().now_or_never(), None);
        sender.send(WatchSignal::WindowsChanged);
        sender.send(WatchSignal::AgentChanged);
        sender.send(WatchSignal::AgentChanged);
        assert_eq!(signals.next().now_or_never(), Some(WatchSignal::AgentChanged));
        assert_eq!(signals.next().now_or_never(), Some(WatchSignal::WindowsChanged));
        assert_eq!(signals.next().now_or_never(), None);
        sender.send(WatchSignal::Replaced);
        assert_eq!(signals.next().now_or_never(), Some(WatchSignal::Replaced));
        assert_eq!(signals.next().now_or_never(), Some(WatchSignal::Replaced));
    }

    #[tokio::test]
    async fn signal_wakes_a_watch_that_waits() {
        let signals = WatchSignals::default();
        let sender = signals.clone();
        let waiting = tokio::spawn(async move { signals.next().await });
        tokio::task::yield_now().await;
        sender.send(WatchSignal::AgentChanged);
        assert_eq!(waiting.await.unwrap(), WatchSignal::AgentChanged);
    }
}
