//! Kills and freezes registries and servers at random, and starts them again.

use std::time::Duration;

use deploy_testing::Engine;

use crate::REGISTRIES;
use crate::dice::Dice;
use crate::world::World;

/// A thing that fails for some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kill {
    /// A registry is killed, and perhaps loses its copies of objects.
    Registry { number: usize, loses_cache: bool },
    /// A registry is frozen.
    FrozenRegistry(usize),
    /// A server is killed.
    Server(Engine),
    /// A server is frozen.
    FrozenServer(Engine),
    /// No request reaches the bucket.
    BucketAway,
}

impl Kill {
    pub fn random(dice: &mut Dice) -> Self {
        let number = dice.throw(REGISTRIES);
        match dice.throw(12) {
            0..=2 => Self::Registry { number, loses_cache: dice.throw(2) == 0 },
            3 | 4 => Self::FrozenRegistry(number),
            5 | 6 => Self::Server(Engine::Database),
            7 => Self::FrozenServer(Engine::Database),
            8 => Self::Server([Engine::Gateway, Engine::ObjectStore][dice.throw(2)]),
            9 => Self::FrozenServer(Engine::Gateway),
            10 => Self::FrozenServer(Engine::ObjectStore),
            _ => Self::BucketAway,
        }
    }

    /// How long the failure lasts. A long one is longer than the ten seconds after which a silent
    /// registry counts as away.
    pub fn lasts(dice: &mut Dice) -> Duration {
        if dice.throw(8) == 0 {
            Duration::from_secs(11) + dice.time(2_000)
        } else {
            dice.time(3_000)
        }
    }

    pub fn begin(self, world: &mut World) {
        match self {
            Self::Registry { number, loses_cache } => {
                world.registries[number].kill();
                if loses_cache {
                    world.registries[number].empty_cache();
                }
            }
            Self::FrozenRegistry(number) => world.registries[number].freeze(),
            Self::Server(engine) => world.engines.kill(engine),
            Self::FrozenServer(engine) => world.engines.freeze(engine),
            Self::BucketAway => world.proxy.set_away(true),
        }
    }

    pub fn end(self, world: &mut World) {
        match self {
            Self::Registry { number, .. } => world.registries[number].start(),
            Self::FrozenRegistry(number) => world.registries[number].thaw(),
            Self::Server(_) => world.engines.start(),
            Self::FrozenServer(engine) => world.engines.thaw(engine),
            Self::BucketAway => world.proxy.set_away(false),
        }
    }

    /// The failures with the lowest numbers end first. No server starts while another one is frozen,
    /// and registries start after the servers.
    fn order(self) -> u8 {
        match self {
            Self::FrozenServer(_) | Self::BucketAway => 0,
            Self::Server(_) => 1,
            Self::Registry { .. } | Self::FrozenRegistry(_) => 2,
        }
    }
}

/// Lets one or two things fail at the same time, for some time. Returns what failed.
pub fn strike(world: &mut World, dice: &mut Dice) -> Vec<Kill> {
    let mut kills = vec![Kill::random(dice)];
    if dice.throw(4) == 0 {
        kills.push(Kill::random(dice));
    }
    for kill in &kills {
        kill.begin(world);
        std::thread::sleep(dice.time(500));
    }
    std::thread::sleep(Kill::lasts(dice));
    kills.sort_by_key(|kill| kill.order());
    for kill in &kills {
        kill.end(world);
    }
    kills
}
