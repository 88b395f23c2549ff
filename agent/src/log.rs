//! The agent's log: one line per event on stderr, for people or as JSON.
//!
//! The source of the lines are the events of `tracing`. An event's `message` is the line
//! for people. Its other fields make the JSON form, after `ts`, `level` and `event`.

use std::fmt::{self, Write as _};
use std::io::Write;
use std::sync::Mutex;
use std::time::Instant;

use deploy_cli::progress::Stderr;
use deploy_store::escape;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

/// Format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Time and text.
    Human,
    /// One JSON document per line.
    Json,
}

/// Sends the log of this process to stderr; `verbose` adds details.
pub fn start(format: Format, verbose: bool) {
    let level = if verbose { LevelFilter::DEBUG } else { LevelFilter::INFO };
    // Other libraries do not log: their errors are returned.
    let ours = Targets::new()
        .with_target("deploy_agent", level)
        .with_target("deploy_store", level)
        .with_target("deploy_wire", level);
    let lines = Lines::new(format, Stderr);
    // A second start in one process, as in tests, changes nothing.
    let _ = tracing_subscriber::registry().with(lines.with_filter(ours)).try_init();
}

/// Logs each panic as one escaped line: its text may contain data from a registry or an archive.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let text = panic.payload().downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.payload().downcast_ref::<&str>().copied());
        let text = text.unwrap_or("no message");
        tracing::error!(place, "internal error, please report it: {text}");
    }));
}

/// Milliseconds since `started`.
pub(crate) fn millis(started: Instant) -> u64 {
    u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// A `tracing` layer that writes each event as one line.
#[derive(Debug)]
pub struct Lines<W> {
    format: Format,
    out: Mutex<W>,
}

impl<W: Write> Lines<W> {
    /// Lines of `format` to `out`.
    pub fn new(format: Format, out: W) -> Self {
        Self { format, out: Mutex::new(out) }
    }
}

impl<S: Subscriber, W: Write + 'static> Layer<S> for Lines<W> {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut entry = Entry { level: *event.metadata().level(), ..Entry::default() };
        event.record(&mut entry);
        let line = match self.format {
            Format::Human => entry.for_people(Timestamp::now(), &TimeZone::system()),
            Format::Json => entry.as_json(Timestamp::now()),
        };
        if let Ok(mut out) = self.out.lock() {
            // A log that cannot be written must not stop a deploy.
            let _ = out.write_all(line.as_bytes());
        }
    }
}

/// The parts of an event.
struct Entry {
    level: Level,
    event: Option<String>,
    message: String,
    fields: Vec<(&'static str, Value)>,
}

impl Default for Entry {
    fn default() -> Self {
        Self { level: Level::INFO, event: None, message: String::new(), fields: Vec::new() }
    }
}

impl Entry {
    /// `2026/11/23 03:48:53 text`, the time as in the Go tool's log.
    fn for_people(&self, now: Timestamp, zone: &TimeZone) -> String {
        let time = now.to_zoned(zone.clone()).strftime("%Y/%m/%d %H:%M:%S").to_string();
        let level = match self.level {
            Level::ERROR => "error: ",
            Level::WARN => "warning: ",
            _ => "",
        };
        let text = match (&self.event, &*self.message) {
            (Some(event), "") => event,
            (_, message) => message,
        };
        // Only this program's own line breaks stay: those before a tab.
        let text: Vec<String> = text.split("\n\t").map(printable).collect();
        format!("{time} {level}{}\n", text.join("\n\t"))
    }

    fn as_json(&self, now: Timestamp) -> String {
        let level = self.level.as_str().to_lowercase();
        let event = self.event.as_deref().unwrap_or("note");
        let mut line = String::from("{");
        let mut put = |name: &str, value: &Value| {
            let comma = if line.len() > 1 { "," } else { "" };
            // Writing to a string cannot fail.
            let _ = write!(line, "{comma}{}:{value}", Value::from(name));
        };
        put("ts", &Value::from(format!("{now:.6}")));
        put("level", &Value::from(level));
        put("event", &Value::from(event));
        for (name, value) in &self.fields {
            put(name, value);
        }
        if !self.message.is_empty() {
            put("message", &Value::from(&*self.message));
        }
        line.push_str("}\n");
        line
    }

    fn put(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            ("event", Value::String(text)) => self.event = Some(text),
            (name, value) => self.fields.push((name, value)),
        }
    }
}

/// Escapes `text`, except for backslashes: most text was escaped at its source.
fn printable(text: &str) -> String {
    let parts: Vec<String> = text.split('\\').map(escape).collect();
    parts.join("\\")
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

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: Format, say: impl FnOnce()) -> String {
        let buffer = Buffer::default();
        let lines = tracing_subscriber::registry().with(Lines::new(format, buffer.clone()));
        tracing::subscriber::with_default(lines, say);
        let bytes = buffer.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn json_starts_with_time_level_and_event_and_keeps_the_order_of_fields() {
        let line = logged(Format::Json, || {
            tracing::info!(event = "downloaded", id = %"ab", bytes = 7_u64, "got \"it\"\nall");
        });
        let (head, rest) = line.split_once(",\"level\"").unwrap();
        let ts = head.strip_prefix("{\"ts\":\"").unwrap().strip_suffix('"').unwrap();
        assert_eq!(ts.len(), "2026-11-23T03:49:03.337679Z".len(), "{ts}");
        ts.parse::<Timestamp>().unwrap();
        let want = concat!(
            r#":"info","event":"downloaded","id":"ab","bytes":7,"message":"got \"it\"\nall"}"#,
            "\n"
        );
        assert_eq!(rest, want);
    }

    #[test]
    fn event_without_a_name_is_a_note() {
        let line = logged(Format::Json, || tracing::warn!("odd"));
        assert!(line.ends_with("\"level\":\"warn\",\"event\":\"note\",\"message\":\"odd\"}\n"));
    }

    #[test]
    fn line_for_people_is_escaped() {
        let entry = Entry {
            level: Level::WARN,
            message: "a\n\tb\nc\x1b[31m \\t".to_owned(),
            ..Entry::default()
        };
        let now: Timestamp = "2026-11-23T03:48:53Z".parse().unwrap();
        let want = "2026/11/23 03:48:53 warning: a\n\tb\\nc\\u{1b}[31m \\t\n";
        assert_eq!(entry.for_people(now, &TimeZone::UTC), want);
    }
}
