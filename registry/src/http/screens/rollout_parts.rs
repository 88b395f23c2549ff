//! Renders parts of a rollout for several screens: its status, next step, budget and actions.

use maud::{Markup, html};

use super::need::first_line;
use super::phrases::layer_changes;
use super::widgets::{ago, bar, confirm, count, pill, until};
use crate::error::Error;
use crate::registry::Registry;
use crate::verbs::rollout_status::RolloutStatus;
use crate::verbs::state_diff;

/// The layers that a rollout changes, as a text such as `code: v1 → v2`. The text is empty if the
/// registry no longer has both states.
pub async fn changed_layers(registry: &Registry, status: &RolloutStatus) -> Result<String, Error> {
    let name = status.configuration.parse()?;
    let (base, target) = (Some(status.base), Some(status.target));
    let ((_, base), (_, target)) = match registry.catalog.two_states(&name, base, target).await {
        Err(Error::NotFound(_)) => return Ok(String::new()),
        two => two?,
    };
    // Since the rollout began, somebody may have deleted the configuration and made it again.
    if target.id() != status.target_hash {
        return Ok(String::new());
    }
    let (changes, reordered) = state_diff::layers(&base, &target);
    Ok(layer_changes(&changes, reordered))
}

/// The two states of a rollout, and the layers that differ between these states.
pub fn what(status: &RolloutStatus, layers: &str) -> String {
    let text = format!("state {} over {}", status.target, status.base);
    if layers.is_empty() { text } else { format!("{text} · {layers}") }
}

/// The status of a rollout in a frame.
pub fn status_pill(status: &str) -> Markup {
    let class = match status {
        "running" => "work",
        "paused" => "warn",
        "halted" => "bad",
        "succeeded" => "good",
        _ => "off",
    };
    pill(class, status)
}

/// How many hosts have failed, and how many may fail.
pub fn failed_of(status: &RolloutStatus) -> Markup {
    let RolloutStatus { failed, budget, .. } = *status;
    let class = if failed > budget { "bad" } else { "warn" };
    let (part, all) = if budget == 0 { (failed, 1) } else { (failed, budget) };
    html! { (failed) ", at most " (budget) (bar("meter", &[(class, part.min(all))], all)) }
}

/// What the rollout does next or waits for, or when the rollout ended.
pub fn next_step(status: &RolloutStatus) -> Markup {
    let RolloutStatus { wave, waves, .. } = status;
    let of = format!("wave {wave} of {}", waves.len());
    html! {
        @if let Some(ended) = status.ended {
            "ended " (ago(ended))
        } @else if status.status != "running" {
            "waits for an operator"
        } @else if let Some(end) = status.soak_ends {
            "soak of " (of) ", " (until(end))
        } @else if *wave == 0 {
            "opens wave 1"
        } @else {
            (of) " is open"
        }
    }
}

/// Links to the changes that the status of the rollout allows.
pub fn actions(status: &RolloutStatus, may_act: bool) -> Markup {
    if !may_act || status.ended.is_some() {
        return html! {};
    }
    let name = [("name", status.configuration.as_str())];
    let is_running = status.status == "running";
    html! {
        div class="actions" {
            @if is_running {
                a class="button" href=(confirm("rollout pause", &name)) { "Pause…" }
                @if status.soak_ends.is_some() {
                    a class="button" href=(confirm("rollout skip-soak", &name)) {
                        "Skip the soak of wave " (status.wave) "…"
                    }
                }
            } @else {
                a class="button" href=(confirm("rollout resume", &name)) { "Resume…" }
            }
            a class="button danger" href=(confirm("rollout abort", &name)) {
                "Abort: " (count(status.taken, "host")) " back to " (status.base) "…"
            }
        }
    }
}

/// Why a rollout is paused or has halted, as a sentence.
pub fn stopped(status: &RolloutStatus) -> Markup {
    let RolloutStatus { wave, waves, why, .. } = status;
    html! {
        (status.status) " in wave " (wave) " of " (waves.len())
        @if !why.is_empty() { ": " (first_line(why)) }
    }
}

#[cfg(test)]
pub mod tests {
    use deploy_store::Digest;
    use jiff::Timestamp;

    use super::*;
    use crate::verbs::rollout_status::{RolloutHost, WaveStatus};

    /// A host of a wave.
    pub fn host(host: &str, wave: u32, result: &'static str) -> RolloutHost {
        let why = if result == "failed" { "exit <b>7</b>".to_owned() } else { String::new() };
        RolloutHost { host: host.to_owned(), group: String::new(), wave, result, why }
    }

    /// A rollout with two waves. The first wave is open, and has these hosts.
    pub fn rollout(status: &'static str, hosts: Vec<RolloutHost>) -> RolloutStatus {
        let wave = |selector: &str, hosts: Option<u64>| WaveStatus {
            selector: selector.to_owned(),
            hosts,
            opened: hosts.map(|_| Timestamp::UNIX_EPOCH),
        };
        let with = |result: &str| hosts.iter().filter(|host| host.result == result).count() as u64;
        RolloutStatus {
            number: 7,
            configuration: "web".to_owned(),
            status,
            why: "<script>alert(1)</script>".to_owned(),
            since: Timestamp::UNIX_EPOCH,
            base: 14,
            target: 15,
            target_hash: Digest::of(b"target"),
            wave: 1,
            waves: vec![wave("canary", Some(hosts.len() as u64)), wave("100%", None)],
            soak_ends: None,
            failed: with("failed"),
            budget: 2,
            good: with("good"),
            taken: hosts.len() as u64,
            waiting: 29,
            hosts,
            who: "SHA256:abc anna".to_owned(),
            started: Timestamp::UNIX_EPOCH,
            ended: None,
        }
    }

    #[test]
    fn actions_fit_the_status_and_need_permission() {
        let running = rollout("running", vec![host("a", 1, "good")]);
        let html = actions(&running, true).into_string();
        assert!(html.contains("verb=rollout+pause&amp;name=web"), "{html}");
        assert!(html.contains("Abort: 1 host back to 14"), "{html}");
        assert!(!html.contains("resume") && !html.contains("skip-soak"), "{html}");
        assert_eq!(actions(&running, false).into_string(), "");
        let soaking = RolloutStatus { soak_ends: Some(Timestamp::UNIX_EPOCH), ..running.clone() };
        assert!(actions(&soaking, true).into_string().contains("verb=rollout+skip-soak"));
        assert!(next_step(&soaking).into_string().contains("data-until=\"1970-01-01T00:00:00Z\""));
        let halted = rollout("halted", Vec::new());
        let html = actions(&halted, true).into_string();
        assert!(html.contains("verb=rollout+resume") && !html.contains("pause"), "{html}");
        let ended = RolloutStatus { ended: Some(Timestamp::UNIX_EPOCH), ..running };
        assert_eq!(actions(&ended, true).into_string(), "");
    }

    #[test]
    fn reason_of_a_halt_is_escaped() {
        let html = stopped(&rollout("halted", Vec::new())).into_string();
        assert!(html.contains("halted in wave 1 of 2: &lt;script&gt;"), "{html}");
    }

    #[test]
    fn bar_shows_failed_hosts_against_the_budget() {
        let hosts = |failed| (0..failed).map(|n| host(&format!("h{n}"), 1, "failed")).collect();
        let within = failed_of(&rollout("running", hosts(1))).into_string();
        assert!(
            within.contains("1, at most 2")
                && within.contains("class=\"warn\" x=\"0.00\" width=\"50")
        );
        let over = failed_of(&rollout("halted", hosts(3))).into_string();
        assert!(
            over.contains("3, at most 2") && over.contains("class=\"bad\" x=\"0.00\" width=\"100")
        );
    }
}
