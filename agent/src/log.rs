//! Writes the agent's log to stderr: one line per event, for people or as JSON.
//!
//! The line for people is the event's `message`. The JSON form has `ts`, `level` and `event`, then
//! the event's other fields, and finally `message`.

use std::fmt::Write as _;
use std::time::Instant;

use deploy_cli::log::{Entry, Form, Format, Lines, TARGET, printable, time};
use deploy_cli::progress::Stderr;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

/// The form of the agent's lines.
pub const FORM: Form = Form { text: for_people, json: as_json };

/// Sends the log of this process to stderr. If `verbose` is true, the log has more details.
pub fn start(format: Format, verbose: bool) {
    let level = if verbose { LevelFilter::DEBUG } else { LevelFilter::INFO };
    // Log lines of other libraries are dropped, because these libraries also return their errors.
    let ours = Targets::new()
        .with_target("deploy_agent", level)
        .with_target("deploy_store", level)
        .with_target("deploy_wire", level)
        .with_target(TARGET, level);
    let lines = Lines::new(format, FORM, Stderr);
    // A second start in one process, as in tests, changes nothing.
    let _ = tracing_subscriber::registry().with(lines.with_filter(ours)).try_init();
}

/// Milliseconds since `started`.
pub(crate) fn millis(started: Instant) -> u64 {
    u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// The form for people: `2026/11/23 03:48:53 text`.
fn for_people(entry: &Entry, now: Timestamp, zone: &TimeZone) -> String {
    let text = match (entry.event(), &*entry.message) {
        (Some(event), "") => event,
        (_, message) => message,
    };
    // A line break before a tab comes from this program, and stays. The log escapes all other line
    // breaks.
    let text: Vec<String> = text.split("\n\t").map(printable).collect();
    format!("{}{}\n", entry.head(now, zone), text.join("\n\t"))
}

fn as_json(entry: &Entry, now: Timestamp) -> String {
    let mut line = String::from("{");
    let mut put = |name: &str, value: &Value| {
        let comma = if line.len() > 1 { "," } else { "" };
        // Writing to a string cannot fail.
        let _ = write!(line, "{comma}{}:{value}", Value::from(name));
    };
    put("ts", &Value::from(time(now)));
    put("level", &Value::from(entry.level_word()));
    put("event", &Value::from(entry.event().unwrap_or("note")));
    for (name, value) in entry.fields.iter().filter(|(name, _)| *name != "event") {
        put(name, value);
    }
    if !entry.message.is_empty() {
        put("message", &Value::from(&*entry.message));
    }
    line.push_str("}\n");
    line
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use tracing::Level;

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
        let lines = tracing_subscriber::registry().with(Lines::new(format, FORM, buffer.clone()));
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
        let mut entry = Entry::new(Level::WARN);
        entry.message = "a\n\tb\nc\x1b[31m \\t".to_owned();
        let now: Timestamp = "2026-11-23T03:48:53Z".parse().unwrap();
        let want = "2026/11/23 03:48:53 warning: a\n\tb\\nc\\u{1b}[31m \\t\n";
        assert_eq!(for_people(&entry, now, &TimeZone::UTC), want);
    }
}
