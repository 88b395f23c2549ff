//! Computes when the maintenance windows of a group of hosts are open.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};

use crate::duration_words::after;
use crate::maintenance_window::{BadWindow, Window};

/// Maximum number of windows of one group.
pub const MAX_WINDOWS: usize = 20;
/// The maximum number of openings whose durations [`open_for`] adds up.
const MAX_PERIODS: usize = 500;
/// The number of days in which [`next_close`] looks for a time at which all windows are closed.
const ALWAYS: i64 = 15;

/// The maintenance windows of a group, at least one. The group's hosts may deploy while any of the
/// windows is open.
///
/// In the text form, `;` separates the windows. JSON contains the text form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Windows(Vec<Window>);

/// Why a text is not a list of maintenance windows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadWindows {
    /// One of the windows is not valid.
    #[error(transparent)]
    Window(#[from] BadWindow),
    /// There are more than [`MAX_WINDOWS`] windows.
    #[error("there are {0} maintenance windows; at most {MAX_WINDOWS} are allowed")]
    TooMany(usize),
}

impl FromStr for Windows {
    type Err = BadWindows;

    fn from_str(text: &str) -> Result<Self, BadWindows> {
        match text.split(';').count() {
            1..=MAX_WINDOWS => Ok(Self(text.split(';').map(str::parse).collect::<Result<_, _>>()?)),
            count => Err(BadWindows::TooMany(count)),
        }
    }
}

impl TryFrom<String> for Windows {
    type Error = BadWindows;

    fn try_from(text: String) -> Result<Self, BadWindows> {
        text.parse()
    }
}

impl From<Windows> for String {
    fn from(windows: Windows) -> Self {
        windows.to_string()
    }
}

impl fmt::Display for Windows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&texts.join("; "))
    }
}

/// Whether one of the windows is open.
pub fn is_open(windows: &Windows, now: Timestamp) -> bool {
    periods(windows, now, 1).any(|(opens, closes)| opens <= now && now < closes)
}

/// The earliest time from `now` on at which one of the windows is open. If a window is open now,
/// this is `now`. The result is `None` only near the last moment that a timestamp can express.
pub fn next_open(windows: &Windows, now: Timestamp) -> Option<Timestamp> {
    // Each window opens at least once a week.
    let ends_later = periods(windows, now, 8).filter(|(_, closes)| *closes > now);
    ends_later.map(|(opens, _)| opens.max(now)).min()
}

/// The earliest time from `now` on at which no window is open. If no window is open now, this is
/// `now`. The result is `None` if a window is always open.
pub fn next_close(windows: &Windows, now: Timestamp) -> Option<Timestamp> {
    let mut periods: Vec<_> = periods(windows, now, ALWAYS).collect();
    periods.sort_unstable();
    let mut end = now;
    for (opens, closes) in periods {
        if opens <= end {
            end = end.max(closes);
        }
    }
    let is_always = end > now.checked_add((24 * (ALWAYS - 2)).hours()).ok()?;
    (!is_always).then_some(end)
}

/// The moment at which the windows have been open for `time` in total since `start`. If this takes
/// more than 500 openings, the result is the end of the 500th opening.
pub fn open_for(windows: &Windows, start: Timestamp, time: Duration) -> Timestamp {
    let (mut moment, mut rest) = (start, time);
    for _ in 0..MAX_PERIODS {
        let Some(opens) = next_open(windows, moment) else { return Timestamp::MAX };
        let Some(closes) = next_close(windows, opens) else { return after(opens, rest) };
        let length = closes.duration_since(opens).unsigned_abs();
        if rest <= length {
            return after(opens, rest);
        }
        (moment, rest) = (closes, rest.saturating_sub(length));
    }
    moment
}

/// The periods in which windows are open, from the day before yesterday until `days` days after
/// today. The periods begin so early because a window that is open now may have opened the day
/// before yesterday: a window may contain midnight, and a repeated hour makes it longer.
fn periods(
    windows: &Windows,
    now: Timestamp,
    days: i64,
) -> impl Iterator<Item = (Timestamp, Timestamp)> {
    windows.0.iter().flat_map(move |window| {
        let today = window.date(now);
        (-2..=days).filter_map(move |day| window.period(today.checked_add(day.days()).ok()?))
    })
}

#[cfg(test)]
mod tests;
