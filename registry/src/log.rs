//! The registry's log: one line for each event on stderr, as text or as JSON.

use std::fmt::{self, Write as _};
use std::io::Write as _;

use deploy_cli::progress::Stderr;
use deploy_store::escape;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Time, text and fields.
    Human,
    /// One JSON document a line.
    Json,
}

/// Sends the log of this process to stderr.
pub fn start(format: Format) {
    // Libraries do not log here: their failures return as errors.
    let ours = Targets::new()
        .with_target("deploy_registry", LevelFilter::INFO)
        .with_target("deploy_store", LevelFilter::INFO);
    tracing_subscriber::registry().with(Lines(format).with_filter(ours)).init();
    // A panic is logged like any other line, because its text may include data of a client.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let text = panic.payload().downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.payload().downcast_ref::<&str>().copied());
        let text = text.unwrap_or("without a text");
        tracing::error!(place, "internal error, please report it: {text}");
    }));
}

struct Lines(Format);

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let (level, now) = (*event.metadata().level(), Timestamp::now());
        let line = match self.0 {
            Format::Human => fields.for_people(level, now, &TimeZone::system()),
            Format::Json => fields.as_json(level, now),
        };
        // A log that cannot be written must not stop the service.
        let _ = Stderr.write_all(line.as_bytes());
    }
}

/// An event's text and fields.
#[derive(Default)]
struct Fields {
    message: String,
    fields: Vec<(&'static str, Value)>,
}

impl Fields {
    /// `2026/11/23 03:48:53 text name=value`, the time as in the Go tool's log.
    fn for_people(&self, level: Level, now: Timestamp, zone: &TimeZone) -> String {
        let time = now.to_zoned(zone.clone()).strftime("%Y/%m/%d %H:%M:%S");
        let level = match level {
            Level::ERROR => "error: ",
            Level::WARN => "warning: ",
            _ => "",
        };
        let mut line = format!("{time} {level}{}", printable(&self.message));
        for (name, value) in &self.fields {
            // Writing to a string cannot fail.
            let _ = match value {
                Value::String(text) if is_plain(text) => write!(line, " {name}={text}"),
                Value::String(text) => write!(line, " {name}=\"{}\"", printable(text)),
                value => write!(line, " {name}={value}"),
            };
        }
        line.push('\n');
        line
    }

    fn as_json(&self, level: Level, now: Timestamp) -> String {
        let mut document = Map::new();
        document.insert("ts".to_owned(), format!("{now:.6}").into());
        document.insert("level".to_owned(), level.as_str().to_lowercase().into());
        // A line with an event name has its text as message. Otherwise the text is the event.
        let named = self.fields.iter().any(|(name, _)| *name == "event");
        let text = if named { "message" } else { "event" };
        if !(named && self.message.is_empty()) {
            document.insert(text.to_owned(), self.message.as_str().into());
        }
        document
            .extend(self.fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        format!("{}\n", Value::Object(document))
    }

    fn put(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            (name, value) => self.fields.push((name, value)),
        }
    }
}

fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic() && c != '"')
}

/// Escapes text, except for backslashes: most text was escaped at its source.
fn printable(text: &str) -> String {
    text.split('\\').map(escape).collect::<Vec<_>>().join("\\")
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_lines_cannot_be_forged() {
        let fields = Fields {
            message: "command ok\nfake".to_owned(),
            fields: vec![("user", "a b\x1b[31m".into()), ("code", 5.into()), ("key", "x".into())],
        };
        let now: Timestamp = "2026-11-23T03:48:53.5Z".parse().unwrap();
        assert_eq!(
            fields.for_people(Level::WARN, now, &TimeZone::UTC),
            "2026/11/23 03:48:53 warning: command ok\\nfake user=\"a b\\u{1b}[31m\" code=5 key=x\n"
        );
        let json: Value = serde_json::from_str(&fields.as_json(Level::INFO, now)).unwrap();
        assert_eq!(json["ts"], "2026-11-23T03:48:53.500000Z");
        assert_eq!(json["level"], "info");
        assert_eq!(json["event"], "command ok\nfake");
        assert_eq!(json["code"], 5);
    }

    #[test]
    fn named_event_keeps_its_text() {
        let fields = Fields {
            message: "gc failed: disk full".to_owned(),
            fields: vec![("event", "background_failed".into())],
        };
        let now: Timestamp = "2026-11-23T03:48:53.5Z".parse().unwrap();
        let json: Value = serde_json::from_str(&fields.as_json(Level::ERROR, now)).unwrap();
        assert_eq!(json["event"], "background_failed");
        assert_eq!(json["message"], "gc failed: disk full");
        assert_eq!(
            fields.for_people(Level::ERROR, now, &TimeZone::UTC),
            "2026/11/23 03:48:53 error: gc failed: disk full event=background_failed\n"
        );
    }
}
