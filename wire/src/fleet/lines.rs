//! Defines the lines that the registry and an agent exchange on a watch.

use deploy_store::{Configuration, Digest};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::deploy_report::Report;
use super::{MAX_DOCUMENT, MAX_LINE};

/// An offer: the configuration that an agent should deploy, and the conditions of the deploy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Offer {
    /// The number of the change that made the offer. A later change has a greater number.
    pub revision: u64,
    /// The configuration's id; `None` if the configuration does not exist.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Digest>,
    /// The configuration's document, as the agent would read it over sftp. Absent if the document
    /// is longer than [`MAX_DOCUMENT`], or if an operator holds the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub document: Option<String>,
    /// The time that the agent waits before it acts, in milliseconds. This delay prevents all hosts
    /// of a large fleet from downloading at the same time.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_after_ms: u64,
    /// Whether the agent only prepares the configuration, and waits for another offer before it
    /// runs the script. The registry sets this field while the maintenance windows of the host's
    /// group are closed.
    #[serde(skip_serializing_if = "is_false")]
    pub staged_only: bool,
    /// The reason of the hold, if an operator holds the host. While this field is set, the agent
    /// deploys nothing new.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
    /// The number of times that operators have asked this agent to try again. If the number is
    /// greater than the number that the agent has recorded, the agent ends the hold after a
    /// rollback, and tries a failed configuration again.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: u64,
}

/// A line from the registry. An absent field changes nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ToAgent {
    /// The number of the last report that the registry has from this agent. The first line contains
    /// this number, so that the agent's next report has a greater number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seq: Option<u64>,
    /// The new offer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offer: Option<Offer>,
    /// The number of a report. The registry has accepted or refused this report and all earlier
    /// reports, and the agent need not send them again. If `refused` is absent, the report with
    /// this number is on the registry's disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ack: Option<u64>,
    /// The reason why the registry does not keep reports: for example, the host name belongs to
    /// another key. In the first line, the reason applies to all reports of this watch. In a line
    /// with `ack`, the reason applies to the report with that number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// After the agent loses the connection, it waits for a random part of this time, in
    /// milliseconds, and connects again. The random delay prevents all agents of a large fleet from
    /// connecting at the same time. The first line contains this field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reconnect_within_ms: Option<u64>,
}

/// A line from an agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ToRegistry {
    /// A report.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report: Option<Report>,
}

/// The reason why a line is refused.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// The line is too long.
    #[error("the line is longer than {MAX_LINE} bytes")]
    TooLong,
    /// The line is not JSON, or a field has an unexpected type.
    #[error("the line is malformed: {0}")]
    Form(#[from] serde_json::Error),
    /// The line is not a JSON object.
    #[error("the line is not a JSON object")]
    NoObject,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Offer {
    /// The offer of the configuration with the id `id` and the document `json`. The offer has no
    /// document if `json` is longer than [`MAX_DOCUMENT`].
    pub fn of(revision: u64, id: Digest, json: &[u8]) -> Self {
        let document = std::str::from_utf8(json).ok().filter(|text| text.len() <= MAX_DOCUMENT);
        let document = document.map(str::to_owned);
        Self { revision, id: Some(id), document, ..Self::default() }
    }

    /// The configuration in the offer's document. Returns `None` if there is no document, or if the
    /// configuration in the document does not have the offered id.
    pub fn configuration(&self) -> Option<Configuration> {
        let configuration = Configuration::from_json(self.document.as_ref()?.as_bytes()).ok()?;
        (Some(configuration.id()) == self.id).then_some(configuration)
    }
}

/// Formats `message` as one line of JSON, with the line break.
pub fn to_line(message: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(message).unwrap_or_default();
    line.push(b'\n');
    line
}

/// Reads one line. An empty line is a heartbeat, which only shows that the sender is alive.
pub fn from_line<T: DeserializeOwned + Default>(line: &[u8]) -> Result<T, Unreadable> {
    if line.len() > MAX_LINE {
        return Err(Unreadable::TooLong);
    }
    match line.trim_ascii().first() {
        None => return Ok(T::default()),
        // `serde_json` would accept an array and read its elements as the fields, in order.
        Some(b'{') => {}
        Some(_) => return Err(Unreadable::NoObject),
    }
    Ok(serde_json::from_slice(line)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::{MAX_OUTPUT, Phase};

    #[test]
    fn lines_are_written_and_read_back_and_unknown_fields_are_ignored() {
        let report = Report { seq: 7, phase: Phase::Healthy, ..Report::default() };
        let line = to_line(&ToRegistry { report: Some(report.clone()) });
        let end = line.iter().position(|byte| *byte == b'\n');
        assert_eq!(end, Some(line.len() - 1));
        assert_eq!(from_line::<ToRegistry>(&line).unwrap().report, Some(report));
        let later = br#"{"ack": 3, "dance": {"style": "tango"}}"#;
        assert_eq!(from_line::<ToAgent>(later).unwrap().ack, Some(3));
        assert_eq!(from_line::<ToAgent>(b" \n").unwrap(), ToAgent::default());
        for junk in [&b"{"[..], b"[]", b"\xff", b"{\"ack\": -1}"] {
            assert!(from_line::<ToAgent>(junk).is_err(), "{junk:?}");
        }
        assert!(matches!(
            from_line::<ToAgent>(&vec![b' '; MAX_LINE + 1]),
            Err(Unreadable::TooLong)
        ));
    }

    #[test]
    fn longest_report_fits_a_line() {
        let report = Report {
            output: "\u{1}".repeat(MAX_OUTPUT),
            message: "\u{1}".repeat(5000),
            ..Report::default()
        };
        let line = to_line(&ToRegistry { report: Some(report.within_limits()) });
        assert!(line.len() < MAX_LINE, "{}", line.len());
    }
}
