//! Writes the registry's log. Each log entry is one line on stderr, as text or as JSON.

use std::fmt::Write as _;

use deploy_cli::log::{Entry, Form, Format, Lines, TARGET, log_panics, printable, time};
use deploy_cli::progress::Stderr;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Map, Value};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// The formats of the registry's log lines.
const FORM: Form = Form { text: for_people, json: as_json };

/// Starts the log. From then on, panics and log entries of level info or above appear on stderr.
pub fn start(format: Format) {
    // The log leaves out the entries of other libraries, because these libraries return their
    // errors.
    let ours = Targets::new()
        .with_target("deploy_registry", LevelFilter::INFO)
        .with_target("deploy_store", LevelFilter::INFO)
        .with_target(TARGET, LevelFilter::INFO);
    let lines = Lines::new(format, FORM, Stderr);
    // The filter must not belong to the layer of the lines. If a library asks whether an event is
    // enabled, as sqlx does after each statement on a server, a filter of a layer would also drop
    // the next event of the same thread (tracing issue 2519).
    tracing_subscriber::registry().with(ours).with(lines).init();
    log_panics();
}

/// Formats an entry as a line for people, such as `2026/11/23 03:48:53 text name=value`.
fn for_people(entry: &Entry, now: Timestamp, zone: &TimeZone) -> String {
    let mut line = entry.head(now, zone) + &printable(&entry.message);
    for (name, value) in &entry.fields {
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

fn as_json(entry: &Entry, now: Timestamp) -> String {
    let mut document = Map::new();
    document.insert("ts".to_owned(), time(now).into());
    document.insert("level".to_owned(), entry.level_word().into());
    // If the entry has an event name, the field `message` has the entry's text. Otherwise, the
    // field `event` has the text.
    let named = entry.event().is_some();
    let text = if named { "message" } else { "event" };
    if !(named && entry.message.is_empty()) {
        document.insert(text.to_owned(), entry.message.as_str().into());
    }
    document.extend(entry.fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    format!("{}\n", Value::Object(document))
}

fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic() && c != '"')
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn log_lines_cannot_be_forged() {
        let mut entry = Entry {
            level: Level::WARN,
            message: "command ok\nfake".to_owned(),
            fields: vec![("user", "a b\x1b[31m".into()), ("code", 5.into()), ("key", "x".into())],
        };
        let now: Timestamp = "2026-11-23T03:48:53.5Z".parse().unwrap();
        assert_eq!(
            for_people(&entry, now, &TimeZone::UTC),
            "2026/11/23 03:48:53 warning: command ok\\nfake user=\"a b\\u{1b}[31m\" code=5 key=x\n"
        );
        entry.level = Level::INFO;
        let json: Value = serde_json::from_str(&as_json(&entry, now)).unwrap();
        assert_eq!(json["ts"], "2026-11-23T03:48:53.500000Z");
        assert_eq!(json["level"], "info");
        assert_eq!(json["event"], "command ok\nfake");
        assert_eq!(json["code"], 5);
    }

    #[test]
    fn named_event_keeps_its_text() {
        let entry = Entry {
            level: Level::ERROR,
            message: "gc failed: disk full".to_owned(),
            fields: vec![("event", "background_failed".into())],
        };
        let now: Timestamp = "2026-11-23T03:48:53.5Z".parse().unwrap();
        let json: Value = serde_json::from_str(&as_json(&entry, now)).unwrap();
        assert_eq!(json["event"], "background_failed");
        assert_eq!(json["message"], "gc failed: disk full");
        assert_eq!(
            for_people(&entry, now, &TimeZone::UTC),
            "2026/11/23 03:48:53 error: gc failed: disk full event=background_failed\n"
        );
    }
}
