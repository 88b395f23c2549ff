//! The simulated agents: what they do once they are offered the target. All times are milliseconds.

use deploy_rollout::Standing;

use crate::dice::Dice;
use crate::events::Deed;

pub const SECOND: u64 = 1_000;
pub const MINUTE: u64 = 60 * SECOND;

/// How an agent behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Healthy after this time.
    Fine(u64),
    /// Fails after this time.
    Failing(u64),
    /// Healthy after the first time, fails after the second one.
    FailsLater(u64, u64),
    /// Healthy, then deploys again for a time, and is healthy again.
    Interrupted(u64, u64, u64),
    /// Never has a result.
    Silent,
    /// Disconnects for ever after this time.
    Dies(u64),
    /// Healthy after the first time, disconnects for ever after the second one.
    Vanishes(u64, u64),
    /// Is never connected.
    Dead,
    /// Is connected and disconnected for these times, all the time; healthy after the third one.
    Flapping(u64, u64, u64),
    /// An agent of the Go tool: fetches the target after this time and reports nothing.
    Unknown(u64),
    /// An agent of the Go tool whose script reports health after the second time.
    Reports(u64, u64),
}

/// An agent. The registry knows only what the agent has told it on a connection.
#[derive(Debug)]
pub struct Agent {
    pub kind: Kind,
    pub standing: Standing,
    /// Whether the agent has a connection, or would have one if the registry ran.
    pub online: bool,
    /// Whether the agent has a connection.
    pub connected: bool,
    /// Whether the last offer was the target.
    pub shown: bool,
    /// Counts offers. Deeds of an earlier offer are not done any more.
    pub offer: u32,
}

impl Kind {
    pub fn is_unknown(self) -> bool {
        matches!(self, Self::Unknown(_) | Self::Reports(..))
    }

    /// A random behaviour; in a calm fleet, only good ones that need less than `most`.
    pub fn random(dice: &mut Dice, is_calm: bool, most: u64) -> Self {
        let quick = dice.between(10, most.min(2 * MINUTE));
        if is_calm {
            return Self::Fine(quick);
        }
        let any = dice.between(10, 2 * most);
        let later = dice.between(10, 10 * MINUTE);
        match dice.below(100) {
            0..70 => Self::Fine(quick),
            70..74 => Self::Fine(any),
            74..78 => Self::Failing(any),
            78..81 => Self::FailsLater(quick, later),
            81..84 => Self::Interrupted(quick, later, dice.between(10, 5 * MINUTE)),
            84..86 => Self::Silent,
            86..88 => Self::Dies(any),
            88..90 => Self::Vanishes(quick, later),
            90..92 => Self::Dead,
            92..95 => {
                Self::Flapping(dice.between(SECOND, 5 * MINUTE), dice.between(SECOND, MINUTE), any)
            }
            95..98 => Self::Unknown(quick),
            _ => Self::Reports(quick, later),
        }
    }

    /// What the agent does after an offer of the target, and how long after the offer.
    pub fn deeds(self) -> Vec<(u64, Deed)> {
        let working = (1, Deed::Report(Standing::Working));
        let healthy = Deed::Report(Standing::Healthy);
        let failed = Deed::Report(Standing::Failed("exit 1".to_owned()));
        match self {
            Self::Fine(at) | Self::Flapping(_, _, at) => vec![working, (at, healthy)],
            Self::Failing(at) => vec![working, (at, failed)],
            Self::FailsLater(at, later) => {
                vec![working, (at, healthy), (at + later, failed)]
            }
            Self::Interrupted(at, later, lasts) => vec![
                working.clone(),
                (at, healthy.clone()),
                (at + later, working.1),
                (at + later + lasts, healthy),
            ],
            Self::Silent => vec![working],
            Self::Dies(at) => vec![working, (at, Deed::Disconnect)],
            Self::Vanishes(at, later) => {
                vec![working, (at, healthy), (at + later, Deed::Disconnect)]
            }
            Self::Dead => Vec::new(),
            Self::Unknown(at) => vec![(at, working.1)],
            Self::Reports(at, later) => vec![(at, working.1), (at + later, healthy)],
        }
    }
}
