//! Shows the progress of long work: a bar on a terminal, or otherwise a line every ten seconds. If
//! the work ends within a second, nothing is shown.
//!
//! The work counts its progress with a [`Meter`]. [`Display`] decides what to show and when.
//! `Display` writes nothing itself, so that the registry can also send the texts over ssh.
//! [`Shown`] writes the texts to this process's stderr.

mod bar;
mod figures;

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use deploy_store::{Meter, Reading};

pub use bar::{Stderr, over, show};

/// The time after which progress is first shown.
const SHOW_AFTER: Duration = Duration::from_secs(1);
/// The time between two lines of progress.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// The time between two readings of the meter.
pub const LOOK_EVERY: Duration = Duration::from_millis(200);
/// The number of columns that is assumed if a terminal does not state its width.
pub const COLUMNS: usize = 80;
/// The minimum interval over which the rate is computed. Only at the start of a stage is the
/// interval shorter.
const RATE_OVER: Duration = Duration::from_secs(5);

/// The form in which progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Show no progress.
    Nothing,
    /// Show lines.
    Lines,
    /// Show a bar on a terminal with this number of columns.
    Bar(usize),
}

impl Form {
    /// The form for this process's stderr.
    pub fn here(quiet: bool) -> Self {
        match (quiet, bar::columns()) {
            (true, _) => Self::Nothing,
            (false, Some(columns)) => Self::Bar(columns),
            (false, None) => Self::Lines,
        }
    }
}

/// A text that shows progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// A line, without the line break.
    Line(String),
    /// The new bar. An empty text removes the bar.
    Bar(String),
}

/// Decides what to show of a meter, and when.
#[derive(Debug)]
pub struct Display {
    form: Form,
    begun: Instant,
    stage: u64,
    /// The time of the last line, or of the start of the work if there was no line.
    line: Instant,
    /// The count in the last line; 0 if a new stage has begun since. `None` before the first line.
    told: Option<u64>,
    has_bar: bool,
    /// The time and the count at the start of the interval for the rate.
    from: (Instant, u64),
    /// The time and the count at the start of the next interval.
    next: (Instant, u64),
}

impl Display {
    /// A display for work that begins at `now`.
    pub fn new(form: Form, now: Instant) -> Self {
        let mark = (now, 0);
        let (stage, told, has_bar) = (0, None, false);
        Self { form, begun: now, stage, line: now, told, has_bar, from: mark, next: mark }
    }

    /// Sets the width of the terminal.
    pub fn resize(&mut self, columns: usize) {
        if let Form::Bar(before) = &mut self.form {
            *before = columns;
        }
    }

    /// Returns the text to show at `now` for this `reading` of the meter, if any.
    pub fn look(&mut self, reading: Option<Reading>, now: Instant) -> Option<Told> {
        let Some(reading) = reading else { return self.without_bar() };
        let rate = self.rate(&reading, now);
        if now.duration_since(self.begun) < SHOW_AFTER {
            return None;
        }
        match self.form {
            Form::Nothing => None,
            Form::Bar(columns) => {
                self.has_bar = true;
                Some(Told::Bar(figures::bar(&reading, rate, columns)))
            }
            Form::Lines if now.duration_since(self.line) < LINE_EVERY => None,
            Form::Lines => {
                (self.line, self.told) = (now, Some(reading.done));
                Some(Told::Line(figures::line(&reading, rate)))
            }
        }
    }

    /// Returns the text to show at the end of the work, if any. If lines were shown, and the count
    /// has changed since the last line, this text is a line with the final count. If a bar was
    /// shown, the text removes the bar.
    pub fn end(&mut self, reading: Option<Reading>, now: Instant) -> Option<Told> {
        let told = self.told.take();
        if let (Some(reading), Some(told)) = (reading, told)
            && reading.done != told
        {
            let rate = self.rate(&reading, now);
            return Some(Told::Line(figures::line(&reading, rate)));
        }
        self.without_bar()
    }

    fn without_bar(&mut self) -> Option<Told> {
        std::mem::take(&mut self.has_bar).then(|| Told::Bar(String::new()))
    }

    /// The rate over the last seconds, in units per second; `None` at the first reading of a stage.
    fn rate(&mut self, reading: &Reading, now: Instant) -> Option<u64> {
        let mark = (now, reading.done);
        if self.stage != reading.stage {
            self.stage = reading.stage;
            (self.from, self.next) = (mark, mark);
            self.told = self.told.map(|_| 0);
        }
        if now.duration_since(self.next.0) >= RATE_OVER {
            (self.from, self.next) = (self.next, mark);
        }
        let time = now.duration_since(self.from.0).as_millis();
        let done = u128::from(reading.done.saturating_sub(self.from.1));
        let rate = (done * 1000).checked_div(time)?;
        Some(u64::try_from(rate).unwrap_or(u64::MAX))
    }
}

/// Shows a meter from a separate thread until this value is dropped. Dropping the value removes the
/// bar.
#[derive(Debug)]
pub struct Shown {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Shown {
    /// Shows `meter` on stderr. With `quiet`, shows nothing.
    pub fn new(meter: &Arc<Meter>, quiet: bool) -> Self {
        Self::with(meter, Form::here(quiet), show)
    }

    /// Shows `meter` in this form. The thread passes each text to `tell`.
    pub fn with(
        meter: &Arc<Meter>,
        form: Form,
        mut tell: impl FnMut(Told) + Send + 'static,
    ) -> Self {
        if form == Form::Nothing {
            return Self { stop: None, thread: None };
        }
        let (stop, stopped) = mpsc::channel();
        let meter = Arc::clone(meter);
        let mut display = Display::new(form, Instant::now());
        let work = move || {
            while stopped.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
                display.resize(bar::columns().unwrap_or(COLUMNS));
                if let Some(told) = display.look(meter.reading(), Instant::now()) {
                    tell(told);
                }
            }
            if let Some(told) = display.end(meter.reading(), Instant::now()) {
                tell(told);
            }
        };
        // If no thread can be started, the work continues without progress.
        let thread = std::thread::Builder::new().name("progress".to_owned()).spawn(work).ok();
        Self { stop: Some(stop), thread }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was already reported when it happened.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use deploy_store::Unit;

    use super::*;

    #[allow(clippy::unnecessary_wraps, reason = "`look` takes an option")]
    fn reading(stage: u64, done: u64, whole: Option<u64>) -> Option<Reading> {
        Some(Reading { stage, verb: "read", unit: Unit::Bytes, done, whole })
    }

    #[allow(clippy::unnecessary_wraps, reason = "`look` returns an option")]
    fn line(text: &str) -> Option<Told> {
        Some(Told::Line(text.to_owned()))
    }

    #[test]
    fn lines_come_every_ten_seconds_and_once_at_the_end() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut display = Display::new(Form::Lines, begun);
        let whole = Some(100 << 20);
        for second in 0..10 {
            assert_eq!(display.look(reading(1, second << 20, whole), at(second)), None, "{second}");
        }
        let first = "read 10.00 MiB of 100.00 MiB (10%), 1.00 MiB/s, 1m30s left";
        assert_eq!(display.look(reading(1, 10 << 20, whole), at(10)), line(first));
        assert_eq!(display.look(reading(1, 11 << 20, whole), at(11)), None);
        let rest = "read 100.00 MiB of 100.00 MiB (100%), 13.57 MiB/s";
        assert_eq!(display.end(reading(1, 100 << 20, whole), at(12)), line(rest));
        assert_eq!(display.end(reading(1, 100 << 20, whole), at(12)), None);
    }

    #[test]
    fn short_work_shows_nothing() {
        let begun = Instant::now();
        for form in [Form::Nothing, Form::Lines, Form::Bar(80)] {
            let mut display = Display::new(form, begun);
            assert_eq!(display.look(reading(1, 5, Some(10)), begun), None);
            let soon = begun + Duration::from_millis(900);
            assert_eq!(display.look(reading(1, 9, Some(10)), soon), None);
            assert_eq!(display.end(reading(1, 10, Some(10)), soon), None);
        }
    }

    #[test]
    fn bar_is_removed_between_stages_and_at_the_end() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut display = Display::new(Form::Bar(60), begun);
        let bar = |told: Option<Told>| match told {
            Some(Told::Bar(text)) => text,
            other => panic!("{other:?}"),
        };
        display.look(reading(1, 0, Some(1000)), begun);
        let shown = bar(display.look(reading(1, 500, Some(1000)), at(2)));
        assert_eq!(shown, "read 500 B / 1000 B [=======>      ]  50%  250 B/s  2s left");
        let next = bar(display.look(reading(7, 0, None), at(2)));
        assert_eq!(next, "read 0 B", "the rate is not known yet");
        assert_eq!(bar(display.look(None, at(3))), "");
        assert_eq!(display.look(None, at(4)), None);
        display.look(reading(2, 10, None), at(5));
        assert_eq!(bar(display.look(reading(2, 30, None), at(6))), "read 30 B  20 B/s");
        assert_eq!(bar(display.end(reading(2, 30, None), at(6))), "");
        assert_eq!(display.end(None, at(6)), None);
    }

    #[test]
    fn rate_covers_the_last_seconds() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut display = Display::new(Form::Bar(80), begun);
        for second in 0..100 {
            display.look(reading(1, second * 1000, None), at(second));
        }
        for second in 100..120 {
            display.look(reading(1, 100_000, None), at(second));
        }
        let stopped = Told::Bar("read 97.65 KiB  0 B/s".to_owned());
        assert_eq!(display.look(reading(1, 100_000, None), at(120)), Some(stopped));
    }
}
