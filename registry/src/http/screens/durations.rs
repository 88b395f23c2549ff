//! Formats durations for people.

/// Milliseconds in groups of three digits, such as `1 152 ms`. The spaces between the groups are
/// narrow.
pub fn milliseconds(ms: u64) -> String {
    let digits = ms.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text + " ms"
}

/// A duration with about three digits, such as `9.82 s`.
pub fn took(ms: u64) -> String {
    match ms {
        0..100 => format!("{ms} ms"),
        100..10_000 => format!("{}.{:02} s", ms / 1000, ms % 1000 / 10),
        10_000..120_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        120_000..7_200_000 => format!("{} m {} s", ms / 60_000, ms / 1000 % 60),
        _ => format!("{} h {} m", ms / 3_600_000, ms / 60_000 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units_and_few_digits() {
        let groups = [7, 412, 1152, 1_234_567].map(milliseconds);
        assert_eq!(groups, ["7 ms", "412 ms", "1\u{202f}152 ms", "1\u{202f}234\u{202f}567 ms"]);
        let texts = [7, 312, 9820, 14_020, 200_000, 7_260_000].map(took);
        assert_eq!(texts, ["7 ms", "0.31 s", "9.82 s", "14.0 s", "3 m 20 s", "2 h 1 m"]);
    }
}
