//! Decides what a host is shown of a configuration. Watches, polls over sftp and `fleet` ask this
//! one function. The code is pure.

/// What a host is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostView {
    /// What the host runs already: an operator holds the host.
    Held,
    /// The target of a rollout: a wave has taken the host.
    Target,
    /// The current state of the configuration.
    Current,
}

/// What a host is shown. A hold of the host is above a rollout, and a rollout is above the current
/// state.
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
