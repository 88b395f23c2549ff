//! Describes the effect of a command, for the page that asks for a confirmation.

/// Sentences about the effect of a command, each split into its subject and the rest.
pub type Effects = Vec<(String, String)>;

/// What a command would do.
#[derive(Debug, Default)]
pub struct Effect {
    /// The title of the confirmation.
    pub title: String,
    /// The sentences that describe the effect.
    pub effects: Effects,
    /// The text on the button.
    pub button: String,
    /// Whether the change is hard to undo.
    pub is_danger: bool,
    /// The label of the message field, and whether the command needs a message. With `None`, the
    /// confirmation has no message field.
    pub message: Option<(&'static str, bool)>,
}
