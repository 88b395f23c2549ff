//! Lists the events of a rollout.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use maud::{Markup, html};

use crate::catalog::fleet::{Event, Kind};
use crate::http::screens::need::first_line;
use crate::http::screens::phrases::person;
use crate::http::screens::widgets::{host_address, icon};
use crate::verbs::rollout_status::RolloutStatus;

/// The events, newest first.
pub(super) fn log(status: &RolloutStatus, events: &[Event]) -> Markup {
    if events.is_empty() {
        return html! {
            div class="card empty" {
                p { "The registry no longer has events of this rollout. It keeps the newest \
                     100,000 events." }
            }
        };
    }
    html! {
        ol class="card log" {
            @for event in events { (line(status, event)) }
        }
    }
}

fn line(status: &RolloutStatus, event: &Event) -> Markup {
    let (shape, title) = title(event.kind);
    // The message begins with the number of the rollout, which the screen shows already.
    let begin = format!("rollout {}", status.number);
    let rest = event.message.strip_prefix(&begin).unwrap_or(&event.message);
    let rest = match event.kind {
        Some(Kind::RolloutStarted) => format!("by {}", person(&status.who)),
        _ => first_line(rest.trim_start_matches(':').trim()),
    };
    html! {
        li {
            (time(event.time, status.started))
            (icon(shape))
            div {
                b {
                    @if !event.host.is_empty() {
                        a href=(host_address(&event.host)) { (event.host) } " "
                    }
                    (title)
                }
                " " span class="dim" { (rest) }
            }
        }
    }
}

fn title(kind: Option<Kind>) -> (&'static str, &'static str) {
    match kind {
        Some(Kind::RolloutStarted) => ("none", "started"),
        Some(Kind::RolloutWave) => ("offered", "wave opened"),
        Some(Kind::RolloutFailed) => ("failed", "failed"),
        Some(Kind::RolloutPaused) => ("held", "paused"),
        Some(Kind::RolloutResumed) => ("working", "resumed"),
        Some(Kind::RolloutHalted) => ("failed", "halted"),
        Some(Kind::RolloutAborted) => ("held", "aborted"),
        Some(Kind::RolloutSuperseded) => ("held", "superseded"),
        Some(Kind::RolloutSucceeded) => ("good", "succeeded"),
        _ => ("none", "event"),
    }
}

/// The time of day. If the rollout started on another day, the text also has the date.
fn time(time: Timestamp, started: Timestamp) -> Markup {
    let whole = format!("{time:.0}");
    let [at, began] = [time, started].map(|time| time.to_zoned(TimeZone::UTC));
    let format = if at.date() == began.date() { "%H:%M:%S" } else { "%m-%d %H:%M" };
    html! { time datetime=(whole) title=(whole) { (at.strftime(format).to_string()) } }
}

#[cfg(test)]
mod tests {
    use super::super::super::rollout_parts::tests::rollout;
    use super::*;

    #[test]
    fn event_line_has_the_time_the_host_and_the_reason() {
        let event = Event {
            number: 1,
            time: Timestamp::from_second(86_399).unwrap(),
            kind: Some(Kind::RolloutFailed),
            configuration: "web".to_owned(),
            host: "web-1".to_owned(),
            message: "rollout 7: exit <b>".to_owned(),
        };
        let late = Event { time: Timestamp::from_second(86_400).unwrap(), ..event.clone() };
        let html = log(&rollout("halted", Vec::new()), &[late, event]).into_string();
        assert!(
            html.contains(">23:59:59</time>") && html.contains(">01-02 00:00</time>"),
            "{html}"
        );
        assert!(html.contains("<a href=\"/hosts/web-1\">web-1</a> failed</b>"), "{html}");
        assert!(html.contains("<span class=\"dim\">exit &lt;b&gt;</span>"), "{html}");
    }
}
