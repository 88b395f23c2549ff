//! Sends messages to the service manager, as `sd_notify(3)` describes them. Without a service
//! manager, these functions do nothing.

use std::time::Duration;

use sd_notify::{NotifyState, notify, watchdog_enabled};

fn tell(states: &[NotifyState<'_>]) {
    // An error is ignored, because a failed notification must not stop the service.
    let _ = notify(states);
}

/// Reports that the program is running. `status` describes in words what the program does.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Reports that the program begins to reload its settings.
pub fn reloading() {
    let mut states = vec![NotifyState::Reloading];
    states.extend(NotifyState::monotonic_usec_now().ok());
    tell(&states);
}

/// Reports that the program has reloaded its settings.
pub fn reloaded() {
    tell(&[NotifyState::Ready]);
}

/// Reports that the program is stopping.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// The time between two calls of [`alive`], which is half of the watchdog's time. `None` if the
/// manager has no watchdog for this service.
pub fn watchdog() -> Option<Duration> {
    watchdog_enabled().map(|time| time / 2)
}

/// Reports that the program is alive.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}
