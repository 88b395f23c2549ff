//! Decides which state of a configuration the registry offers to a host. The registry uses this
//! decision for watches and for polls over sftp. The code is pure: it uses no disk, network or
//! clock.

/// The state that the registry offers to a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostView {
    /// The state that the registry recorded when an operator held the host.
    Held,
    /// The target of a rollout, because a wave of the rollout has taken the host.
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
    fn hold_takes_precedence_over_rollout_and_rollout_over_current_state() {
        assert_eq!(view(true, true), HostView::Held);
        assert_eq!(view(true, false), HostView::Held);
        assert_eq!(view(false, true), HostView::Target);
        assert_eq!(view(false, false), HostView::Current);
    }
}
