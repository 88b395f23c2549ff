//! Progress of a transfer: a bar on a terminal, a line every few seconds elsewhere.

use std::cell::Cell;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::complain;

const LINE_EVERY: Duration = Duration::from_secs(5);

/// Shows how far a transfer is, on standard error.
pub struct Progress {
    bar: ProgressBar,
    what: &'static str,
    lines: bool,
    size: Option<u64>,
    last: Cell<Instant>,
}

impl Progress {
    /// Of `size` bytes, if that is known; `what` is done with them, as in "uploaded".
    pub fn new(what: &'static str, size: Option<u64>, quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = match size {
            Some(size) => ProgressBar::new(size),
            None => ProgressBar::new_spinner(),
        };
        let template = match size {
            Some(_) => "{bytes:>10} / {total_bytes} {wide_bar} {bytes_per_sec} {eta}",
            None => "{spinner} {bytes} {bytes_per_sec}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        if quiet || !terminal {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        Self { bar, what, lines: !quiet && !terminal, size, last: Cell::new(Instant::now()) }
    }

    /// So many bytes are there.
    pub fn at(&self, bytes: u64) {
        self.bar.set_position(bytes);
        if self.lines && self.last.get().elapsed() >= LINE_EVERY {
            self.last.set(Instant::now());
            let of = self.size.map(|size| format!(" of {}", HumanBytes(size))).unwrap_or_default();
            complain(&format!("{} {}{of}\n", self.what, HumanBytes(bytes)));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
