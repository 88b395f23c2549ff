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
    /// Bytes that are there, and those that the last line told of, if there was one.
    bytes: Cell<u64>,
    told: Cell<Option<u64>>,
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
        let (last, bytes, told) = (Cell::new(Instant::now()), Cell::new(0), Cell::new(None));
        Self { bar, what, lines: !quiet && !terminal, size, last, bytes, told }
    }

    /// So many bytes are there.
    pub fn at(&self, bytes: u64) {
        self.bar.set_position(bytes);
        self.bytes.set(bytes);
        if self.lines && self.last.get().elapsed() >= LINE_EVERY {
            self.last.set(Instant::now());
            self.tell(bytes);
        }
    }

    fn tell(&self, bytes: u64) {
        self.told.set(Some(bytes));
        let of = self.size.map(|size| format!(" of {}", HumanBytes(size))).unwrap_or_default();
        complain(&format!("{} {}{of}\n", self.what, HumanBytes(bytes)));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        // Whoever was told of a part is told of the rest.
        let bytes = self.bytes.get();
        if self.told.get().is_some_and(|told| told != bytes) {
            self.tell(bytes);
        }
        self.bar.finish_and_clear();
    }
}
