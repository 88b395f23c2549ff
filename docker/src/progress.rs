//! Progress of an import: a bar on a terminal; elsewhere the Go importer's lines.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use deploy_from_docker::import::Event;
use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::complain;

const LINE_EVERY: Duration = Duration::from_secs(5);

/// Shows how far an import is, on standard error.
pub struct Progress {
    bar: ProgressBar,
    quiet: bool,
    sent: u64,
    last: Instant,
}

impl Progress {
    /// Shows nothing if `quiet`.
    pub fn new(quiet: bool) -> Self {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
            bar.set_style(style);
        }
        if quiet || !std::io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        Self { bar, quiet, sent: 0, last: Instant::now() }
    }

    /// Shows what happens.
    pub fn tell(&mut self, event: &Event<'_>) {
        match event {
            Event::Read(bytes) => self.now_and_then(&format!("read {}", HumanBytes(*bytes))),
            Event::Sending(number, all, component) => {
                self.line(&format!("uploading {number}/{all}: \"{component}\"\n"));
            }
            Event::Sent(bytes) => {
                self.sent += bytes;
                self.now_and_then(&format!("sent {}", HumanBytes(self.sent)));
            }
            Event::Forgotten(why) => self.line(&format!("{why}\n")),
            Event::Updating(name) => self.line(&format!("updating configuration \"{name}\"\n")),
        }
    }

    /// The bar goes.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }

    fn line(&mut self, text: &str) {
        if !self.quiet {
            self.last = Instant::now();
            self.bar.suspend(|| complain(text));
        }
    }

    fn now_and_then(&mut self, text: &str) {
        self.bar.set_message(text.to_owned());
        self.bar.tick();
        if self.bar.is_hidden() && self.last.elapsed() >= LINE_EVERY {
            self.line(text);
        }
    }
}
