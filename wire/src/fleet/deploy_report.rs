//! Defines the report that an agent sends about a deploy.

use deploy_store::Digest;
use serde::{Deserialize, Serialize};

use super::MAX_OUTPUT;

/// Maximum length of a message, in characters.
const MAX_MESSAGE: usize = 2000;
/// Maximum length of each other text except the output, in characters.
const MAX_WORD: usize = 64;
/// Maximum number of steps in a report.
const MAX_STEPS: usize = 16;

/// The progress of a deploy: the last phase that the deploy has reached.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The agent has received the offer.
    Offered,
    /// All layers are on the host.
    Fetched,
    /// The root is built.
    Staged,
    /// The script runs.
    Script,
    /// The script succeeded, and the health checks run.
    Checking,
    /// The configuration is deployed. If there are health checks, they have succeeded.
    Healthy,
    /// The deploy failed. The agent may try again.
    Failed,
    /// The health checks failed, and the agent deployed the previous configuration again.
    RolledBack,
    /// The agent deploys nothing new, because an operator holds its host with `host hold`, or has
    /// run `deploy-agent rollback` on this host.
    Held,
    /// The registry does not know the phase. Either the agent has never reported, or it reported a
    /// phase of a later protocol.
    #[default]
    #[serde(other)]
    Unknown,
}

/// The reason why a deploy failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The agent cannot reach the registry, or the registry refuses the request.
    Registry,
    /// The agent cannot download or extract a layer.
    Layer,
    /// There is not enough free space.
    Space,
    /// The deploy script failed.
    Script,
    /// The health checks failed.
    Health,
    /// An operator rolled the host back, or holds the host.
    Operator,
    /// Another reason.
    #[serde(other)]
    Other,
}

/// A finished step of a deploy, and the time that the step took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The phase that the deploy reached at the end of the step.
    pub phase: Phase,
    /// The time since the end of the previous step, in milliseconds.
    pub ms: u64,
}

/// The report of one agent about one configuration. A later report replaces an earlier one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// The report's number. An agent's later report has a greater number.
    pub seq: u64,
    /// The revision of the newest offer that the agent has acted on; 0 if the agent only polls.
    pub revision: u64,
    /// The number of the deploy. Each agent counts its own deploys.
    pub attempt: u64,
    /// The phase that the deploy has reached.
    pub phase: Phase,
    /// The id of the configuration that the host runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runs: Option<Digest>,
    /// The id of the configuration that the agent deploys or has deployed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wants: Option<Digest>,
    /// The reason why the deploy failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// A description of the result, as text for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The exit code of the script.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The end of the script's output.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub output: String,
    /// The finished steps of the deploy.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Step>,
    /// The boot id of the host.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub boot: String,
    /// The version of the agent.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// The link mode with which the agent places files in a root.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub link: String,
}

impl Phase {
    /// The phase as one word, as in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Offered => "offered",
            Self::Fetched => "fetched",
            Self::Staged => "staged",
            Self::Script => "script",
            Self::Checking => "checking",
            Self::Healthy => "healthy",
            Self::Failed => "failed",
            Self::RolledBack => "rolled_back",
            Self::Held => "held",
        }
    }

    /// The phase called `word`.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.word() == word)
    }

    /// All phases.
    pub const ALL: [Self; 10] = [
        Self::Offered,
        Self::Fetched,
        Self::Staged,
        Self::Script,
        Self::Checking,
        Self::Healthy,
        Self::Failed,
        Self::RolledBack,
        Self::Held,
        Self::Unknown,
    ];

    /// Whether the deploy has ended, with or without success.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Healthy | Self::Failed | Self::RolledBack | Self::Held)
    }

    /// Whether the deploy has ended without success.
    pub fn is_failure(self) -> bool {
        matches!(self, Self::Failed | Self::RolledBack)
    }
}

impl Reason {
    /// All reasons.
    pub const ALL: [Self; 7] = [
        Self::Registry,
        Self::Layer,
        Self::Space,
        Self::Script,
        Self::Health,
        Self::Operator,
        Self::Other,
    ];

    /// The reason as one word, as in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Registry => "registry",
            Self::Layer => "layer",
            Self::Space => "space",
            Self::Script => "script",
            Self::Health => "health",
            Self::Operator => "operator",
            Self::Other => "other",
        }
    }

    /// The reason called `word`.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.word() == word)
    }
}

impl Report {
    /// The same report, with every text and the list of steps cut to the registry's limits. The
    /// output keeps its end. The other texts and the list keep their beginning.
    #[must_use]
    pub fn within_limits(mut self) -> Self {
        let cut = |text: &mut String, most: usize| {
            if let Some((at, _)) = text.char_indices().nth(most) {
                text.truncate(at);
            }
        };
        cut(&mut self.message, MAX_MESSAGE);
        cut(&mut self.boot, MAX_WORD);
        cut(&mut self.version, MAX_WORD);
        cut(&mut self.link, MAX_WORD);
        self.steps.truncate(MAX_STEPS);
        // NUL bytes are replaced, because an environment variable cannot contain a NUL byte.
        for text in [&mut self.message, &mut self.output] {
            if text.contains('\0') {
                *text = text.replace('\0', "\u{fffd}");
            }
        }
        let mut start = self.output.len().saturating_sub(MAX_OUTPUT);
        while !self.output.is_char_boundary(start) {
            start += 1;
        }
        self.output.drain(..start);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_and_reasons_have_the_same_words_as_in_json() {
        for phase in Phase::ALL {
            assert_eq!(serde_json::to_string(&phase).unwrap(), format!("\"{}\"", phase.word()));
            assert_eq!(Phase::of(phase.word()), Some(phase));
        }
        for reason in Reason::ALL {
            assert_eq!(serde_json::to_string(&reason).unwrap(), format!("\"{}\"", reason.word()));
            assert_eq!(Reason::of(reason.word()), Some(reason));
        }
        let read = |text| serde_json::from_str::<Report>(text).unwrap();
        let later = read(r#"{"seq": 3, "phase": "levitating", "reason": "moon", "new": [1]}"#);
        assert_eq!((later.phase, later.reason), (Phase::Unknown, Some(Reason::Other)));
    }

    #[test]
    fn long_texts_are_cut_at_whole_characters() {
        let report = Report {
            message: "ä".repeat(3000),
            output: format!("{}end", "ä".repeat(MAX_OUTPUT)),
            steps: vec![Step { phase: Phase::Staged, ms: 1 }; 40],
            ..Report::default()
        };
        let cut = report.within_limits();
        assert_eq!(cut.message.chars().count(), MAX_MESSAGE);
        assert!(cut.output.len() <= MAX_OUTPUT && cut.output.ends_with("äend"));
        assert_eq!(cut.steps.len(), MAX_STEPS);
        let nul = Report { message: "a\0b".to_owned(), ..Report::default() };
        assert_eq!(nul.within_limits().message, "a\u{fffd}b");
    }
}
