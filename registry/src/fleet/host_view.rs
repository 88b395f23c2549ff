//! Decides which state of a configuration the registry offers to a host. Watches, polls over sftp
//! and `fleet` ask this one function. The code is pure.

/// The state that the registry offers to a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostView {
    /// What the host runs already: an operator holds the host.
    Held,
    /// The target of a rollout: a wave has taken the host.
    Target,
    /// The current state of the configuration.
    Current,
}

/// Which state the registry offers to a host. A hold of the host takes precedence over a rollout,
/// and a rollout takes precedence over the current state.
pub fn view(is_held: bool, is_in_open_wave: bool) -> HostView {
    match (is_held, is_in_open_wave) {
        (true, _) => HostView::Held,
        (false, true) => HostView::Target,
        (false, false) => HostView::Current,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hold_is_above_a_rollout_and_a_rollout_above_the_current_state() {
        assert_eq!(view(true, true), HostView::Held);
        assert_eq!(view(true, false), HostView::Held);
        assert_eq!(view(false, true), HostView::Target);
        assert_eq!(view(false, false), HostView::Current);
    }
}
