//! Computes a daily maintenance window in UTC without the code under test.

use std::sync::Arc;

use deploy_rollout::Windows;

use crate::agent::MINUTE;
use crate::dice::Dice;
use crate::world::START;

const DAY: u64 = 24 * 60 * MINUTE;

/// A window that opens every day, `from` milliseconds after midnight UTC, and stays open for
/// `length` milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct DailyWindow {
    from: u64,
    length: u64,
}

impl DailyWindow {
    /// A random window of at least an hour. An hour is longer than each deadline.
    pub fn random(dice: &mut Dice) -> Self {
        let (from, length) = (dice.below(24 * 60), dice.between(60, 10 * 60));
        Self { from: from * MINUTE, length: length * MINUTE }
    }

    pub fn windows(self) -> Arc<Windows> {
        let text = |time: u64| {
            let minute = time / MINUTE % (24 * 60);
            format!("{:02}:{:02}", minute / 60, minute % 60)
        };
        let (from, to) = (text(self.from), text(self.from + self.length));
        Arc::new(format!("{from}-{to} UTC").parse().unwrap())
    }

    /// The times at which the window opens yesterday, today and tomorrow, in milliseconds of Unix
    /// time.
    fn openings(self, clock: u64) -> impl Iterator<Item = u64> {
        let today = (START + clock) / DAY * DAY + self.from;
        (0..3).map(move |day| today + day * DAY - DAY)
    }

    /// The earliest time, from `clock` on, at which the window is open.
    pub fn open_at(self, clock: u64) -> u64 {
        let now = START + clock;
        let mut openings = self.openings(clock);
        let opens = openings.find(|opens| opens + self.length > now).unwrap();
        opens.max(now) - START
    }

    /// The total time for which the window is open between two times.
    pub fn open_between(self, from: u64, to: u64) -> u64 {
        let mut open = 0;
        let mut clock = from;
        while clock < to {
            clock = self.open_at(clock);
            let closes = self.openings(clock).find(|it| it + self.length > START + clock).unwrap();
            let closes = closes + self.length - START;
            open += closes.min(to).saturating_sub(clock);
            clock = closes;
        }
        open
    }
}
