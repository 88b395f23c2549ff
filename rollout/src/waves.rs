//! Reads the waves of a rollout, which are a list of selectors.

use std::fmt;
use std::str::FromStr;

use deploy_wire::command::Share;
use serde::{Deserialize, Serialize};

use crate::selector::{BadSelector, MAX_NAMED_HOSTS, Selector};

/// Maximum number of waves, including the last one.
pub const MAX_WAVES: usize = 50;

/// The waves in their order. The last wave always takes all hosts that remain.
///
/// In the text form, commas separate the selectors: `canary,2,5%,100%`. JSON contains the text
/// form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Waves(Vec<Selector>);

/// The reason why a list of selectors cannot be the waves of a rollout.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadWaves {
    /// One of the selectors is not valid.
    #[error(transparent)]
    Selector(#[from] BadSelector),
    /// There are more than [`MAX_WAVES`] waves.
    #[error(
        "there are {0} waves, including the last wave of all remaining hosts; at most {MAX_WAVES} \
         are allowed"
    )]
    TooMany(usize),
    /// The selectors name more than [`MAX_NAMED_HOSTS`] hosts.
    #[error(
        "the waves name {0} hosts; at most {MAX_NAMED_HOSTS} are allowed, so put them in a group"
    )]
    TooManyHosts(usize),
    /// A wave of all remaining hosts is not the last wave.
    #[error("wave {0} (100%) takes all remaining hosts, so no wave may follow it")]
    AfterAll(usize),
}

const ALL: Selector = Selector::Percent(Share::ALL);

impl Waves {
    /// Makes waves from selectors. Adds a last wave of all remaining hosts, unless the list already
    /// ends with such a wave.
    pub fn new(mut selectors: Vec<Selector>) -> Result<Self, BadWaves> {
        if selectors.last() != Some(&ALL) {
            selectors.push(ALL);
        }
        if selectors.len() > MAX_WAVES {
            return Err(BadWaves::TooMany(selectors.len()));
        }
        let before = &selectors[..selectors.len() - 1];
        if let Some(at) = before.iter().position(|selector| *selector == ALL) {
            return Err(BadWaves::AfterAll(at + 1));
        }
        let named = selectors.iter().map(|selector| match selector {
            Selector::Hosts(hosts) => hosts.len(),
            _ => 0,
        });
        match named.sum() {
            0..=MAX_NAMED_HOSTS => Ok(Self(selectors)),
            named => Err(BadWaves::TooManyHosts(named)),
        }
    }

    /// The selectors. The last one is 100%.
    pub fn selectors(&self) -> &[Selector] {
        &self.0
    }

    /// The number of waves; at least 1.
    pub fn count(&self) -> u32 {
        u32::try_from(self.0.len()).expect("there are at most 50 waves")
    }

    /// The selector of the wave with this number. The first wave has the number 1.
    pub fn selector(&self, wave: u32) -> Option<&Selector> {
        let at = usize::try_from(wave.checked_sub(1)?).ok()?;
        self.0.get(at)
    }
}

impl Default for Waves {
    fn default() -> Self {
        Self(vec![ALL])
    }
}

impl FromStr for Waves {
    type Err = BadWaves;

    fn from_str(text: &str) -> Result<Self, BadWaves> {
        // The function counts the selectors first. So it refuses a long list without reading the
        // selectors.
        let count = text.split(',').count();
        if count > MAX_WAVES {
            return Err(BadWaves::TooMany(count));
        }
        Self::new(text.split(',').map(str::parse).collect::<Result<_, _>>()?)
    }
}

impl TryFrom<String> for Waves {
    type Error = BadWaves;

    fn try_from(text: String) -> Result<Self, BadWaves> {
        text.parse()
    }
}

impl From<Waves> for String {
    fn from(waves: Waves) -> Self {
        waves.to_string()
    }
}

impl fmt::Display for Waves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&texts.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        text.parse::<Waves>().unwrap_err().to_string()
    }

    #[test]
    fn waves_are_read_and_written_as_one_text() {
        let text = "canary,2,5%,@web-01+web-02,100%";
        assert_eq!(text.parse::<Waves>().unwrap().to_string(), text);
        let json = serde_json::to_string(&text.parse::<Waves>().unwrap()).unwrap();
        assert_eq!(json, format!("\"{text}\""));
        assert_eq!(serde_json::from_str::<Waves>(&json).unwrap().count(), 5);
        assert!(serde_json::from_str::<Waves>("\"0\"").is_err());
    }

    #[test]
    fn wave_of_all_remaining_hosts_is_always_the_last() {
        assert_eq!("canary".parse::<Waves>().unwrap().to_string(), "canary,100%");
        assert_eq!(Waves::new(Vec::new()).unwrap(), Waves::default());
        assert_eq!(Waves::default().to_string(), "100%");
        let text = "wave 1 (100%) takes all remaining hosts, so no wave may follow it";
        assert_eq!(refused("100%,5"), text);
    }

    #[test]
    fn waves_and_named_hosts_have_limits() {
        let many = |count| vec!["1"; count].join(",");
        assert_eq!(many(49).parse::<Waves>().unwrap().count(), 50);
        assert!(refused(&many(50)).starts_with("there are 51 waves"));
        assert!(refused(&many(1_000_000)).starts_with("there are 1000000 waves"));
        let half = format!("@{}", vec!["a"; MAX_NAMED_HOSTS / 2 + 1].join("+"));
        assert!(refused(&format!("{half},{half}")).contains("name 10002 hosts"));
        assert!(refused("2,,5%").contains("is empty"));
    }

    #[test]
    fn waves_are_numbered_from_one() {
        let waves: Waves = "2,5%".parse().unwrap();
        assert_eq!(waves.selector(0), None);
        assert_eq!(waves.selector(1), Some(&Selector::Count(2)));
        assert_eq!(waves.selector(3), Some(&ALL));
        assert_eq!(waves.selector(4), None);
    }
}
