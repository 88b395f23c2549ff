//! Reads shares of a whole, such as `5%`.

use std::fmt;

/// A share, in hundredths of a per cent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(pub u32);

impl Share {
    /// The whole: 100%.
    pub const ALL: Self = Self(10_000);

    /// Reads a share, with or without the sign `%`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let number = text.strip_suffix('%').unwrap_or(text);
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let hundredths = format!("{part:0<2}");
        Some(format!("{whole}{hundredths}"))
            .filter(|all| hundredths.len() == 2 && all.len() <= 6 && digits(all))
            .and_then(|all| all.parse().ok())
            .filter(|hundredths| (1..=Self::ALL.0).contains(hundredths))
            .map(Self)
            .ok_or_else(|| "should be from 0.01% to 100%".to_owned())
    }

    /// This share of the number `whole`, rounded up.
    pub fn of(self, whole: u64) -> u64 {
        let all = u128::from(whole) * u128::from(self.0);
        u64::try_from(all.div_ceil(u128::from(Self::ALL.0))).unwrap_or(u64::MAX)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0 / 100, self.0 % 100) {
            (whole, 0) => write!(f, "{whole}%"),
            (whole, rest) => write!(f, "{whole}.{rest:02}%"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn share_of_a_number_is_rounded_up() {
        assert_eq!(Share::parse("95%").unwrap().of(10), 10);
        assert_eq!(Share::parse("98%").unwrap().of(41), 41);
        assert_eq!(Share::parse("50%").unwrap().of(41), 21);
        assert_eq!(Share::ALL.of(u64::MAX), u64::MAX);
        assert_eq!(Share::ALL.of(0), 0);
    }
}
