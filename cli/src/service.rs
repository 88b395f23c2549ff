//! What a service manager is told, by `sd_notify(3)`; nothing where there is none.

use std::time::Duration;

use sd_notify::{NotifyState, notify, watchdog_enabled};

fn tell(states: &[NotifyState<'_>]) {
    // One that does not listen must not stop the service.
    let _ = notify(states);
}

/// The program does its work, in words: `status`.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Settings are read again, from now on.
pub fn reloading() {
    let mut states = vec![NotifyState::Reloading];
    states.extend(NotifyState::monotonic_usec_now().ok());
    tell(&states);
}

/// Settings have been read again.
pub fn reloaded() {
    tell(&[NotifyState::Ready]);
}

/// The program comes to its end.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// How often [`alive`] is to be called, if the manager has a watchdog: twice within its time.
pub fn watchdog() -> Option<Duration> {
    watchdog_enabled().map(|time| time / 2)
}

/// The program is alive.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}
