//! Formats durations and numbers of hosts for messages, and adds durations to times.

use std::time::Duration;

use jiff::Timestamp;

/// Formats a duration for a message, such as `10m`, `1h30m` or `1.5s`.
pub(crate) fn in_words(time: Duration) -> String {
    let seconds = time.as_secs();
    let parts = [(seconds / 3600, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    if seconds < 60 {
        return format!("{}s", time.as_secs_f32());
    }
    let parts = parts.iter().filter(|(count, _)| *count > 0);
    parts.map(|(count, unit)| format!("{count}{unit}")).collect::<Vec<_>>().concat()
}

/// Formats a number of hosts for a message.
pub fn hosts_in_words(count: impl Into<u64>) -> String {
    match count.into() {
        1 => "1 host".to_owned(),
        count => format!("{count} hosts"),
    }
}

/// The sum of `start` and `time`, or the last possible timestamp if the sum is later.
pub(crate) fn after(start: Timestamp, time: Duration) -> Timestamp {
    start.checked_add(time).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_hours_minutes_and_seconds() {
        for (seconds, text) in
            [(0, "0s"), (59, "59s"), (60, "1m"), (90, "1m30s"), (3600, "1h"), (86_400, "24h")]
        {
            assert_eq!(in_words(Duration::from_secs(seconds)), text);
        }
        assert_eq!(in_words(Duration::from_millis(1500)), "1.5s");
        assert_eq!(in_words(Duration::from_secs(3_661)), "1h1m1s");
    }

    #[test]
    fn time_after_the_last_timestamp_is_the_last_timestamp() {
        assert_eq!(after(Timestamp::MAX, Duration::from_secs(1)), Timestamp::MAX);
        assert_eq!(after(Timestamp::UNIX_EPOCH, Duration::MAX), Timestamp::MAX);
    }
}
