//! Reads a maintenance window, and computes when it opens and closes. A window is a time of the
//! day, on some days of the week, in a time zone.

use std::fmt;
use std::str::FromStr;

use jiff::civil::{Date, DateTime, Weekday};
use jiff::tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase};
use jiff::{Timestamp, ToSpan};

/// The length of a day, in minutes.
const DAY: u16 = 24 * 60;
const DAYS: [(Weekday, &str); 7] = [
    (Weekday::Monday, "Mon"),
    (Weekday::Tuesday, "Tue"),
    (Weekday::Wednesday, "Wed"),
    (Weekday::Thursday, "Thu"),
    (Weekday::Friday, "Fri"),
    (Weekday::Saturday, "Sat"),
    (Weekday::Sunday, "Sun"),
];

/// A time of the day in which hosts may deploy, such as `Sat,Sun 02:00-05:00 Europe/Berlin`.
///
/// Without days, the window opens every day. If a window contains midnight, it belongs to the day
/// on which it opens. The window opens when the clocks of its time zone first show or skip its
/// beginning. It closes when the clocks first show or skip its end. So if the clocks repeat an
/// hour, the window opens only once. If the clocks skip the whole window, the window opens at the
/// jump of the clocks, and stays open for its usual length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Whether the window opens on each day of the week, from Monday on.
    days: [bool; 7],
    /// The beginning of the window, in minutes after midnight.
    from: u16,
    /// The end of the window, in minutes after midnight. If the end is not greater than the
    /// beginning, it is on the next day.
    to: u16,
    zone: TimeZone,
}

/// Why a text is not a maintenance window.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("window {text:?} {reason}")]
pub struct BadWindow {
    text: String,
    reason: String,
}

impl FromStr for Window {
    type Err = BadWindow;

    fn from_str(text: &str) -> Result<Self, BadWindow> {
        let text = text.trim();
        parse(text).map_err(|reason| BadWindow { text: text.chars().take(80).collect(), reason })
    }
}

fn parse(text: &str) -> Result<Window, String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let (days, hours, zone) = match words[..] {
        [hours, zone] => ([true; 7], hours, zone),
        [days, hours, zone] => (parse_days(days)?, hours, zone),
        _ => {
            let text = "should be days, hours and a time zone, such as \
                        \"Sat,Sun 02:00-05:00 Europe/Berlin\" or \"22:00-06:00 UTC\"";
            return Err(text.to_owned());
        }
    };
    let hours_text = || format!("has bad hours {hours:?}; write hours such as 22:00-06:00");
    let (from, to) = hours.split_once('-').ok_or_else(hours_text)?;
    let (from, to) = parse_time(from).zip(parse_time(to)).ok_or_else(hours_text)?;
    if from == DAY {
        return Err("begins at 24:00; for midnight, write 00:00".to_owned());
    }
    if from == to {
        return Err("has no length; for the whole day, write 00:00-24:00".to_owned());
    }
    let zone = TimeZoneDatabase::bundled().get(zone).map_err(|_| {
        format!("has an unknown time zone {zone:?}; write a time zone like UTC or Europe/Berlin")
    })?;
    Ok(Window { days, from, to, zone })
}

fn parse_days(text: &str) -> Result<[bool; 7], String> {
    let mut days = [false; 7];
    let place = |word: &str| {
        let is_day = |(_, name): &(Weekday, &str)| name.eq_ignore_ascii_case(word);
        DAYS.iter().position(is_day).ok_or_else(|| {
            format!("has an unknown day {word:?}; days are Mon, Tue, Wed, Thu, Fri, Sat and Sun")
        })
    };
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (place(first)?, place(last)?);
        // A range such as `Fri-Mon` passes the end of the week.
        let length = (last + 7 - first) % 7;
        (first..=first + length).for_each(|day| days[day % 7] = true);
    }
    Ok(days)
}

/// Reads a time such as `02:00`. Returns the minutes after midnight. The end of the day is `24:00`.
fn parse_time(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let number = |text: &str| {
        let is_number = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| text.parse::<u16>().ok()).flatten()
    };
    let minutes = number(hour)? * 60 + number(minute).filter(|minute| *minute < 60)?;
    (minutes <= DAY).then_some(minutes)
}

impl Window {
    /// The date at the time `now` in the window's time zone.
    pub(crate) fn date(&self, now: Timestamp) -> Date {
        self.zone.to_datetime(now).date()
    }

    /// The time at which the window opens on this day, and the later time at which it closes.
    /// `None` if the window does not open on this day.
    pub(crate) fn period(&self, day: Date) -> Option<(Timestamp, Timestamp)> {
        let weekday = usize::try_from(day.weekday().to_monday_zero_offset()).ok()?;
        if !self.days[weekday] {
            return None;
        }
        let is_over_midnight = self.to <= self.from;
        let opens = first_shown(&self.zone, at(day, self.from)?)?;
        let last_day = if is_over_midnight { day.tomorrow().ok()? } else { day };
        let closes = first_shown(&self.zone, at(last_day, self.to)?)?;
        if closes > opens {
            return Some((opens, closes));
        }
        let length = self.to + if is_over_midnight { DAY } else { 0 } - self.from;
        Some((opens, opens.checked_add(i64::from(length).minutes()).ok()?))
    }
}

fn at(day: Date, minutes: u16) -> Option<DateTime> {
    let (hour, minute) = (i8::try_from(minutes / 60).ok()?, i8::try_from(minutes % 60).ok()?);
    match hour {
        24 => Some(day.tomorrow().ok()?.at(0, 0, 0, 0)),
        _ => Some(day.at(hour, minute, 0, 0)),
    }
}

/// The moment at which the clocks of a time zone first show or skip this time.
fn first_shown(zone: &TimeZone, time: DateTime) -> Option<Timestamp> {
    let ambiguous = zone.to_ambiguous_timestamp(time);
    match ambiguous.offset() {
        AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Fold { .. } => {
            ambiguous.earlier().ok()
        }
        // The offset from before the jump turns a skipped time into a moment after the jump. The
        // last change of the offset before this moment is the jump.
        AmbiguousOffset::Gap { .. } => {
            let after = ambiguous.later().ok()?.checked_add(1.nanosecond()).ok()?;
            Some(zone.preceding(after).next()?.timestamp())
        }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.days != [true; 7] {
            let days = DAYS.iter().zip(self.days).filter(|(_, is_open)| *is_open);
            let names: Vec<&str> = days.map(|((_, name), _)| *name).collect();
            write!(f, "{} ", names.join(","))?;
        }
        let [from, to] = [self.from, self.to].map(|it| format!("{:02}:{:02}", it / 60, it % 60));
        write!(f, "{from}-{to} {}", self.zone.iana_name().unwrap_or("UTC"))
    }
}

#[cfg(test)]
mod tests;
