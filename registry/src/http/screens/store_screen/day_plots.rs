//! Draws the free space and the deploys of the last day. The time axis ends at the next multiple of
//! five minutes, so a drawing without new data stays the same until that time.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use jiff::Timestamp;
use maud::{Markup, html};

use crate::fleet::recent_deploys::Deployed;
use crate::free_space::{EVERY, Sample};
use crate::http::screens::durations::took;
use crate::http::screens::widgets::{count, size};

/// The time that the width of a drawing stands for: one day, in seconds.
const DAY: i64 = 24 * 60 * 60;
/// The axis of durations begins at 10^`SHORTEST` ms, which is 10 ms. The axis ends at most at
/// 10^`LONGEST` ms, which is about 3 hours.
const SHORTEST: i32 = 1;
const LONGEST: i32 = 7;

/// The end of the five-minute interval that contains `now`.
pub fn right_edge(now: Timestamp) -> Timestamp {
    let every = EVERY.as_secs().cast_signed();
    let second = (now.as_second().div_euclid(every) + 1) * every;
    Timestamp::from_second(second).unwrap_or(now)
}

/// The horizontal position of a time, from 0 to 1000; `None` if the time is before the left edge.
fn x(time: Timestamp, edge: Timestamp) -> Option<i64> {
    let before = edge.as_second() - time.as_second();
    (before <= DAY).then(|| 1000 - before.max(0) * 1000 / DAY)
}

/// The free space as a line. The lower edge stands for 0 bytes.
pub fn free_space(samples: &[Sample], edge: Timestamp) -> Markup {
    let most = samples.iter().map(|(_, bytes)| *bytes).max().unwrap_or(0);
    let place = |(time, bytes): &Sample| {
        let up = u128::from(*bytes) * 875 / u128::from(most.max(1));
        Some((x(*time, edge)?, 955 - u32::try_from(up).unwrap_or(875)))
    };
    let places: Vec<(i64, u32)> = samples.iter().filter_map(place).collect();
    let mut line = String::new();
    for (place, (x, y)) in places.iter().enumerate() {
        let command = if place == 0 { 'M' } else { 'L' };
        // Writing to a string cannot fail.
        let _ = write!(line, "{command}{x} {}.{}", y / 10, y % 10);
    }
    let (first, last) = (samples.first().map_or(0, |it| it.1), samples.last().map_or(0, |it| it.1));
    let label = format!("Free space, from {} to {} now", size(first), size(last));
    let ends = places.first().zip(places.last());
    let area = ends.map(|((left, _), (right, _))| format!("{line}L{right} 96L{left} 96Z"));
    let paths = html! {
        @if let Some(area) = area { path class="area" d=(area) {} }
        path d=(line) {}
    };
    frame(&size(most), "", &label, &paths)
}

/// The deploys as dots: the horizontal axis is the time, and the vertical axis is the duration.
pub fn deploys(deploys: &[Deployed], edge: Timestamp) -> Markup {
    let slowest = deploys.iter().map(|deploy| deploy.ms).max().unwrap_or(0);
    let top = (SHORTEST + 1..LONGEST).find(|power| ms_of(*power) >= slowest).unwrap_or(LONGEST);
    let dots = |failed: bool| {
        let of_kind = deploys.iter().filter(|deploy| deploy.failed == failed);
        let places = of_kind.filter_map(|it| Some((x(it.time, edge)?, height(it.ms, top))));
        let places: BTreeSet<(i64, i32)> = places.collect();
        places.iter().fold(String::new(), |all, (x, y)| all + &format!("M{x} {y}h0"))
    };
    let (good, bad) = (dots(false), dots(true));
    let label = format!("Durations of deploys: {}", summary(deploys));
    let paths = html! {
        @if !good.is_empty() { path class="dots" d=(good) {} }
        @if !bad.is_empty() { path class="dots bad" d=(bad) {} }
    };
    frame(&took(ms_of(top)), "logarithmic, from 10 ms", &label, &paths)
}

/// The number of deploys, their durations, and the number of failures.
pub fn summary(deploys: &[Deployed]) -> String {
    let mut times: Vec<u64> = deploys.iter().filter(|it| !it.failed).map(|it| it.ms).collect();
    times.sort_unstable();
    let mut text = count(deploys.len() as u64, "deploy");
    if !times.is_empty() {
        let at = |percent: usize| took(times[(times.len() * percent).div_ceil(100) - 1]);
        // Writing to a string cannot fail.
        let _ = write!(text, ": p50 {}, p99 {}", at(50), at(99));
    }
    let failed = deploys.len() - times.len();
    if failed > 0 { text + &format!(", {failed} failed") } else { text }
}

fn ms_of(power: i32) -> u64 {
    10_u64.pow(power.unsigned_abs())
}

/// The distance of a duration from the upper edge, in units of the drawing. A duration of 10^`top`
/// ms has the distance 8.
#[expect(clippy::cast_possible_truncation, reason = "the result is from 8 to 92")]
fn height(ms: u64, top: i32) -> i32 {
    let power = f64::from(u32::try_from(ms.max(1)).unwrap_or(u32::MAX)).log10();
    let share = (power - f64::from(SHORTEST)) / f64::from(top - SHORTEST);
    (92.0 - 84.0 * share.clamp(0.0, 1.0)).round() as i32
}

fn frame(top: &str, beside: &str, label: &str, paths: &Markup) -> Markup {
    html! {
        div class="card pad" {
            div class="axis" aria-hidden="true" { span { (top) } span { (beside) } }
            svg class="plot" viewBox="0 0 1000 96" preserveAspectRatio="none" role="img" aria-label=(label) {
                path class="grid" d="M0 95.5H1000M0 50H1000M0 8H1000" {}
                (paths)
            }
            div class="axis" aria-hidden="true" {
                span { "24 h ago" } span { "12 h" } span { "now" }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use deploy_wire::fleet::{Phase, Report, Step};

    use super::*;
    use crate::catalog::fleet::{Applied, Sent};
    use crate::fleet::recent_deploys::RecentDeploys;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn some(durations: &[(u64, Phase)]) -> Vec<Deployed> {
        let deploys = RecentDeploys::default();
        for (attempt, (ms, phase)) in durations.iter().enumerate() {
            let steps = vec![Step { phase: *phase, ms: *ms }];
            let attempt = attempt as u64 + 1;
            let report = Report { attempt, phase: *phase, steps, ..Report::default() };
            let (host, name) = ("h".parse().unwrap(), "n".parse().unwrap());
            let sent = Sent { key: String::new(), host, name, instance: String::new(), report };
            deploys.reported(&sent, &Applied::New { host: 1 }, at(DAY / 2));
        }
        deploys.since(at(0))
    }

    #[test]
    fn right_edge_moves_every_five_minutes() {
        assert_eq!(right_edge(at(0)), at(300));
        assert_eq!(right_edge(at(299)), at(300));
        assert_eq!(right_edge(at(300)), at(600));
        assert_eq!((x(at(0), at(DAY)), x(at(DAY), at(DAY))), (Some(0), Some(1000)));
        assert_eq!(x(at(0), at(DAY + 1)), None);
    }

    #[test]
    fn free_space_is_a_line_above_zero() {
        let samples = [(at(0), 1 << 30), (at(DAY / 2), 2 << 30), (at(DAY), 0)];
        let html = free_space(&samples, at(DAY)).into_string();
        assert!(html.contains("d=\"M0 51.8L500 8.0L1000 95.5\""), "{html}");
        assert!(html.contains("<span>2 GiB</span>") && html.contains("L1000 96L0 96Z"), "{html}");
    }

    #[test]
    fn failed_deploys_do_not_count_for_the_percentiles() {
        let deploys_of_a_day =
            some(&[(340, Phase::Healthy), (100, Phase::Healthy), (9800, Phase::Failed)]);
        assert_eq!(summary(&deploys_of_a_day), "3 deploys: p50 0.10 s, p99 0.34 s, 1 failed");
        assert_eq!(summary(&[]), "0 deploys");
        let html = deploys(&deploys_of_a_day, at(DAY)).into_string();
        assert!(html.contains("class=\"dots bad\" d=\"M500 8h0\""), "{html}");
        assert!(html.contains("<span>10.0 s</span>"), "{html}");
        assert_eq!((height(10, 4), height(10_000, 4), height(0, 4)), (92, 8, 92));
    }
}
