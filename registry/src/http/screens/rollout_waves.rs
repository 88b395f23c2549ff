//! Draws the waves of a rollout: a square for each host, or a bar for many hosts.

use maud::{Markup, html};

use super::need::first_line;
use super::widgets::{address, ago, bar, host_address, icon, until};
use crate::verbs::rollout_status::{RolloutHost, RolloutStatus, WaveStatus};

/// The results, in the order in which the screen shows them. Each result has a word, an icon, and a
/// class in a bar.
const RESULTS: [(&str, &str, &str); 5] = [
    ("good", "good", "good"),
    ("working", "working", "work"),
    ("offered", "offered", "idle"),
    ("failed", "failed", "bad"),
    ("held", "held", "off"),
];

/// The limits on the squares of a screen. A wave with more hosts than either limit allows shows a
/// bar, and squares only for hosts that failed or have no result yet.
#[derive(Debug, Clone, Copy)]
pub struct Squares {
    /// Maximum number of squares of one wave.
    pub of_wave: usize,
    /// Number of squares that the rest of the screen may show.
    pub left: usize,
}

/// The waves of a rollout.
pub fn waves(status: &RolloutStatus, squares: &mut Squares) -> Markup {
    let waves: Vec<(u32, &WaveStatus)> = (1..).zip(&status.waves).collect();
    let of = |number: u32| {
        let begin = status.hosts.partition_point(|host| host.wave < number);
        let end = status.hosts.partition_point(|host| host.wave <= number);
        &status.hosts[begin..end]
    };
    html! {
        ol class="waves" {
            @for (number, wave) in &waves {
                li {
                    div { (number) " · " (wave.selector) small { (under(status, *number, wave)) } }
                    @if wave.hosts.is_some() {
                        (opened_wave(status, *number, of(*number), squares))
                    } @else {
                        (bar("", &[], 1))
                        div class="dim" {
                            @if *number as usize == waves.len() && status.ended.is_none() {
                                (status.waiting) " not in a wave yet"
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The status of a wave in a few words, with a time.
fn under(status: &RolloutStatus, number: u32, wave: &WaveStatus) -> Markup {
    let is_last = number == status.wave && status.ended.is_none();
    html! {
        @match (wave.opened, status.soak_ends) {
            (None, _) => "not open",
            (Some(_), _) if is_last && status.status != "running" => {
                (status.status) " " (ago(status.since))
            },
            (Some(_), Some(end)) if is_last => { "soaks, " (until(end)) },
            (Some(opened), _) => { "opened " (ago(opened)) },
        }
    }
}

fn opened_wave(
    status: &RolloutStatus,
    number: u32,
    hosts: &[RolloutHost],
    squares: &mut Squares,
) -> Markup {
    let with = |result: &str| hosts.iter().filter(|host| host.result == result).count() as u64;
    let counts = RESULTS.map(|(word, _, class)| (word, class, with(word)));
    let words: Vec<String> = counts
        .iter()
        .filter(|(.., number)| *number > 0)
        .map(|(word, _, number)| format!("{number} {word}"))
        .collect();
    let most = squares.of_wave.min(squares.left);
    let is_small = hosts.len() <= most;
    // Failed hosts come first, because the number of squares is limited.
    let open = |wanted: &'static str| hosts.iter().filter(move |host| host.result == wanted);
    let notable = open("failed").chain(open("working")).chain(open("offered"));
    let shown: Vec<&RolloutHost> =
        if is_small { hosts.iter().collect() } else { notable.take(most).collect() };
    squares.left -= shown.len();
    let parts = counts.map(|(_, class, number)| (class, number));
    let parts: Vec<_> = parts.into_iter().filter(|(class, _)| *class != "off").collect();
    let list = [("name", status.configuration.as_str()), ("wave", &number.to_string())];
    html! {
        @if is_small {
            (row_of(&shown))
        } @else {
            div { (bar("big", &parts, hosts.len() as u64)) (row_of(&shown)) }
        }
        div class="dim" {
            (words.join(", "))
            @if !is_small && status.ended.is_none() {
                small { a href=(address("/hosts", &list)) { (hosts.len()) " hosts" } }
            }
        }
    }
}

fn row_of(hosts: &[&RolloutHost]) -> Markup {
    html! {
        div class="squares" {
            @for host in hosts { (square(host)) }
        }
    }
}

fn square(host: &RolloutHost) -> Markup {
    let shape = RESULTS.iter().find(|(word, ..)| *word == host.result);
    let shape = shape.map_or("none", |(_, icon, _)| icon);
    let why: String = first_line(&host.why).chars().take(60).collect();
    html! {
        a href=(host_address(&host.host)) {
            svg {
                title { (host.host) ": " (host.result) @if !why.is_empty() { ", " (why) } }
                use href={ "#i-" (shape) } {}
            }
        }
    }
}

/// What the squares mean.
pub fn legend() -> Markup {
    html! {
        ul class="legend" aria-label="Legend" {
            @for (word, shape, _) in RESULTS { li { (icon(shape)) (word) } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rollout_parts::tests::{host, rollout};
    use super::*;

    #[test]
    fn small_wave_has_a_square_for_each_host() {
        let hosts = vec![host("a", 1, "good"), host("b", 1, "failed"), host("c", 1, "held")];
        let mut squares = Squares { of_wave: 10, left: 100 };
        let html = waves(&rollout("running", hosts), &mut squares).into_string();
        assert_eq!(html.matches("<a href=\"/hosts/").count(), 3, "{html}");
        assert!(html.contains("<title>b: failed, exit &lt;b&gt;7&lt;/b&gt;</title>"), "{html}");
        assert!(html.contains("1 good, 1 failed, 1 held"), "{html}");
        assert!(html.contains("29 not in a wave yet") && html.contains("not open"), "{html}");
        assert_eq!(squares.left, 97);
    }

    #[test]
    fn large_wave_shows_a_bar_and_the_hosts_that_are_not_good() {
        let name = |n: usize| format!("h{n:05}");
        let result = |n: usize| match n {
            0..2 => "failed",
            2..300 => "working",
            _ => "good",
        };
        let hosts = (0..10_000).map(|n| host(&name(n), 1, result(n))).collect();
        let mut squares = Squares { of_wave: 200, left: 1000 };
        let html = waves(&rollout("running", hosts), &mut squares).into_string();
        assert_eq!(html.matches("<a href=\"/hosts/").count(), 200);
        assert!(html.contains("h00000: failed") && html.contains("h00199: working"));
        assert!(html.contains("9700 good, 298 working, 2 failed"), "{}", &html[html.len() - 900..]);
        assert!(html.contains("href=\"/hosts?name=web&amp;wave=1\">10000 hosts</a>"));
        assert!(html.len() < 30_000, "{}", html.len());
        assert_eq!(squares.left, 800);
    }
}
