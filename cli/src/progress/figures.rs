//! Formats the progress of work: lines, bars, rates and the time left.

use deploy_store::{Reading, Unit};

/// The maximum number of columns between the brackets of a bar.
const MOST_CELLS: usize = 30;
const FEWEST_CELLS: usize = 8;

/// The state of work as a line: `read 1.00 MiB of 8.00 MiB (12%), 3.00 MiB/s, 2s left`.
pub(super) fn line(reading: &Reading, rate: Option<u64>) -> String {
    let Reading { verb, unit, done, whole, .. } = *reading;
    let mut text = match whole {
        Some(whole) => {
            let (whole, percent) = (whole.max(done), percent(done, whole));
            format!("{verb} {} of {} ({percent}%)", bare(unit, done), full(unit, whole))
        }
        None => format!("{verb} {}", full(unit, done)),
    };
    text += &rate.map_or_else(String::new, |rate| format!(", {}/s", full(unit, rate)));
    text + &left(reading, rate).map_or_else(String::new, |left| format!(", {left} left"))
}

/// The state of work as a bar that fits in a line of `columns` columns.
pub(super) fn bar(reading: &Reading, rate: Option<u64>, columns: usize) -> String {
    let Reading { verb, unit, done, whole, .. } = *reading;
    // The last column stays empty, because a character in this column would move the cursor to the
    // next line.
    let room = columns.saturating_sub(1);
    let speed = rate.map_or_else(String::new, |rate| format!("  {}/s", full(unit, rate)));
    let text = match whole {
        Some(whole) => {
            let all = whole.max(done);
            let head = format!("{verb} {} / {}", bare(unit, done), full(unit, all));
            let left =
                left(reading, rate).map_or_else(String::new, |left| format!("  {left} left"));
            let tail = format!("{:>3}%{speed}{left}", percent(done, whole));
            let cells = room.saturating_sub(head.len() + tail.len() + 4).min(MOST_CELLS);
            match cells {
                FEWEST_CELLS.. => format!("{head} [{}] {tail}", filled(done, all, cells)),
                _ => format!("{head} {tail}"),
            }
        }
        None => format!("{verb} {}{speed}", full(unit, done)),
    };
    text.chars().take(room).collect()
}

fn filled(done: u64, all: u64, cells: usize) -> String {
    let share = u128::from(done) * cells as u128 / u128::from(all.max(1));
    let full = usize::try_from(share).unwrap_or(cells).min(cells);
    let head = if full < cells { ">" } else { "" };
    format!("{:<cells$}", "=".repeat(full) + head)
}

fn percent(done: u64, whole: u64) -> u128 {
    (u128::from(done) * 100 / u128::from(whole.max(1))).min(100)
}

/// The remaining time at this rate as text, in the form in which flags accept durations.
fn left(reading: &Reading, rate: Option<u64>) -> Option<String> {
    let rest = reading.whole?.checked_sub(reading.done).filter(|rest| *rest > 0)?;
    let seconds = rest.checked_div(rate?)?;
    Some(match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds}s"),
        (hours, minutes, _) => format!("{hours}h{minutes}m"),
    })
}

fn bare(unit: Unit, count: u64) -> String {
    match unit {
        Unit::Bytes => bytes(count),
        Unit::Items(_) => count.to_string(),
    }
}

fn full(unit: Unit, count: u64) -> String {
    match unit {
        Unit::Bytes => bytes(count),
        Unit::Items(name) => format!("{count} {name}"),
    }
}

/// A number of bytes as text, for example `512 B`, `1.00 KiB` or `3.21 GiB`.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let unit = (count.ilog2() / 10) as usize;
    // The number in hundredths of its unit, rounded down.
    let hundredths = (u128::from(count) * 100) >> (10 * unit);
    format!("{}.{:02} {}", hundredths / 100, hundredths % 100, UNITS[unit - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_fitting_unit() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (1536 << 10, "1.50 MiB"),
            ((1 << 30) - 1, "1023.99 MiB"),
            (u64::MAX, "15.99 EiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    fn items(done: u64, whole: Option<u64>) -> Reading {
        Reading { stage: 1, verb: "removed", unit: Unit::Items("files"), done, whole }
    }

    #[test]
    fn lines_show_the_count_the_rate_and_the_time_left() {
        assert_eq!(line(&items(5, None), Some(2)), "removed 5 files, 2 files/s");
        let whole = "removed 256 of 1000 files (25%), 1 files/s, 12m24s left";
        assert_eq!(line(&items(256, Some(1000)), Some(1)), whole);
        let more = "removed 12 of 12 files (100%), 3 files/s";
        assert_eq!(line(&items(12, Some(10)), Some(3)), more, "there were more than expected");
        let long = "removed 0 of 36000 files (0%), 1 files/s, 10h0m left";
        assert_eq!(line(&items(0, Some(36_000)), Some(1)), long);
        assert!(!line(&items(0, Some(10)), Some(0)).contains("left"), "the rate is 0");
    }

    #[test]
    fn bars_fit_in_any_width() {
        for columns in 0..200 {
            let bar = bar(&items(256, Some(1000)), Some(1), columns);
            assert!(bar.len() < columns.max(1), "{columns}: {bar}");
        }
        let wide = bar(&items(500, Some(1000)), Some(10), 200);
        let cells = "===============>              ";
        assert_eq!(wide, format!("removed 500 / 1000 files [{cells}]  50%  10 files/s  50s left"));
        let all = bar(&items(8, Some(8)), Some(1), 60);
        assert!(all.contains("=] 100%"), "{all}");
    }
}
