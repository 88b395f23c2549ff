//! Reads the percentages of a policy, and computes a percentage of a number.

use deploy_wire::command::Share;

/// Reads a percentage such as `5%` or `0.25%`. The sign `%` is required, because a number without
/// this sign is a count.
pub(crate) fn parse_percentage(text: &str) -> Option<Share> {
    let number = text.strip_suffix('%')?;
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !is_number(whole) || !is_number(part) || whole.len() > 3 || part.len() > 2 {
        return None;
    }
    let hundredths: u32 = format!("{whole}{part:0<2}").parse().ok()?;
    (1..=Share::ALL.0).contains(&hundredths).then_some(Share(hundredths))
}

/// The share of the number `whole`, rounded down. (`Share::of` rounds up.)
pub(crate) fn rounded_down(share: Share, whole: u64) -> u64 {
    let part = u128::from(whole) * u128::from(share.0) / u128::from(Share::ALL.0);
    u64::try_from(part).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentage_has_a_sign_and_at_most_two_decimals() {
        let read = |text| parse_percentage(text).map(|share| share.0);
        assert_eq!(read("5%"), Some(500));
        assert_eq!(read("0.01%"), Some(1));
        assert_eq!(read("2.5%"), Some(250));
        assert_eq!(read("100%"), Some(10_000));
        for bad in ["5", "", "%", "0%", "0.00%", "100.01%", "1.234%", "-5%", "+5%", "5.%", ".5%"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn share_of_a_number_is_rounded_down() {
        assert_eq!(rounded_down(Share(500), 41), 2);
        assert_eq!(rounded_down(Share(9_500), 10), 9);
        assert_eq!(rounded_down(Share::ALL, u64::MAX), u64::MAX);
        assert_eq!(rounded_down(Share(1), 9_999), 0);
    }
}
