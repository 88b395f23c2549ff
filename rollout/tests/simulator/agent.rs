//! Defines the behaviour of the simulated agents after the offer of the target. All times are in
//! milliseconds.

use deploy_rollout::Standing;

use crate::dice::Dice;
use crate::events::Deed;

pub const SECOND: u64 = 1_000;
pub const MINUTE: u64 = 60 * SECOND;

/// The behaviour of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Becomes healthy after this time.
    Fine(u64),
    /// Fails after this time.
    Failing(u64),
    /// Becomes healthy after `.0`. Fails `.1` later.
    FailsLater(u64, u64),
    /// Becomes healthy after `.0`. Begins another deploy `.1` later. This deploy takes `.2`, and
    /// then the agent is healthy again.
    Interrupted(u64, u64, u64),
    /// Never has a result.
    Silent,
    /// Disconnects after this time, and never connects again.
    Dies(u64),
    /// Becomes healthy after `.0`. Disconnects `.1` later, and never connects again.
    Vanishes(u64, u64),
    /// Is never connected.
    Dead,
    /// Is connected for `.0` and disconnected for `.1`, again and again. Becomes healthy after
    /// `.2`.
    Flapping(u64, u64, u64),
    /// An agent of the Go tool: fetches the target after this time and reports nothing.
    Unknown(u64),
    /// An agent of the Go tool: fetches the target after `.0`. Its script reports health `.1`
    /// later.
    Reports(u64, u64),
}

/// An agent. The registry knows only what the agent has reported over a connection.
#[derive(Debug)]
pub struct Agent {
    pub kind: Kind,
    pub standing: Standing,
    /// Whether the agent would have a connection if the registry were running.
    pub online: bool,
    /// Whether the agent has a connection.
    pub connected: bool,
    /// Whether the last offer to the agent was the target.
    pub shown: bool,
    /// The number of offers so far. After a new offer, the agent skips the remaining deeds of
    /// earlier offers.
    pub offer: u32,
}

impl Kind {
    pub fn is_unknown(self) -> bool {
        matches!(self, Self::Unknown(_) | Self::Reports(..))
    }

    /// A random behaviour. In a calm fleet, each agent becomes healthy within `most`.
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

    /// The deeds of the agent after an offer of the target, each with its time since the offer.
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
