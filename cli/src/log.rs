//! Writes the logs of the agent and the registry: one line for each event on stderr, as text or as
//! JSON. Each program defines the form of its lines.
//!
//! Programs log with `tracing`. An event's `message` is its text.

use std::fmt;
use std::io::Write;
use std::sync::Mutex;

use deploy_store::escape;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Text for people.
    Human,
    /// One JSON document per line.
    Json,
}

/// The target of this crate's own events, for filters.
pub const TARGET: &str = "deploy_cli";

/// Makes the program log each panic as one line. Control characters are escaped, because the text
/// of a panic may contain data from a peer or an archive.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let text = panic.payload().downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.payload().downcast_ref::<&str>().copied());
        let text = text.unwrap_or("no message");
        tracing::error!(place, "internal error, please report it: {text}");
    }));
}

/// The functions that format an entry as one line, with a newline at the end.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    /// Formats an entry as text, with the time in the given time zone.
    pub text: fn(&Entry, Timestamp, &TimeZone) -> String,
    /// Formats an entry as a JSON document.
    pub json: fn(&Entry, Timestamp) -> String,
}

/// A `tracing` layer that writes each event as one line.
#[derive(Debug)]
pub struct Lines<W> {
    format: Format,
    form: Form,
    out: Mutex<W>,
}

impl<W: Write> Lines<W> {
    /// Creates a layer that writes lines to `out`, in the given format and in the program's form.
    pub fn new(format: Format, form: Form, out: W) -> Self {
        Self { format, form, out: Mutex::new(out) }
    }
}

impl<S: Subscriber, W: Write + 'static> Layer<S> for Lines<W> {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut entry = Entry::new(*event.metadata().level());
        event.record(&mut entry);
        let line = match self.format {
            Format::Human => (self.form.text)(&entry, Timestamp::now(), &TimeZone::system()),
            Format::Json => (self.form.json)(&entry, Timestamp::now()),
        };
        if let Ok(mut out) = self.out.lock() {
            // An error is ignored, because a failed log write must not stop the program.
            let _ = out.write_all(line.as_bytes());
        }
    }
}

/// The parts of an event.
#[derive(Debug)]
pub struct Entry {
    /// The severity of the event.
    pub level: Level,
    /// The text; empty if the event has no text.
    pub message: String,
    /// The other fields, in the order in which the event has them.
    pub fields: Vec<(&'static str, Value)>,
}

impl Entry {
    /// An entry without text and fields.
    pub fn new(level: Level) -> Self {
        Self { level, message: String::new(), fields: Vec::new() }
    }

    /// The name of the event, from the field `event`.
    pub fn event(&self) -> Option<&str> {
        self.fields.iter().find(|(name, _)| *name == "event").and_then(|(_, value)| value.as_str())
    }

    /// The start of a line of text: the time, and a word if the event is a warning or an error. The
    /// start has the form of the Go tool's log: `2026/11/23 03:48:53 warning: `.
    pub fn head(&self, now: Timestamp, zone: &TimeZone) -> String {
        let time = now.to_zoned(zone.clone()).strftime("%Y/%m/%d %H:%M:%S");
        let level = match self.level {
            Level::ERROR => "error: ",
            Level::WARN => "warning: ",
            _ => "",
        };
        format!("{time} {level}")
    }

    /// The level's name in JSON documents.
    pub fn level_word(&self) -> String {
        self.level.as_str().to_lowercase()
    }

    fn put(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            (name, value) => self.fields.push((name, value)),
        }
    }
}

impl Visit for Entry {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, Value::from(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, Value::from(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, Value::from(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, Value::from(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, Value::from(value));
    }
}

/// The time of an event, in the format of JSON documents.
pub fn time(now: Timestamp) -> String {
    format!("{now:.6}")
}

/// Escapes `text`, except for backslashes. Most texts were already escaped at their source, and a
/// second escape would double their backslashes.
pub fn printable(text: &str) -> String {
    let parts: Vec<String> = text.split('\\').map(escape).collect();
    parts.join("\\")
}
