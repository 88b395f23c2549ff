//! Lists the verbs. The file of a verb contains the help, the flags and the examples of the verb,
//! and the code that reads and writes the verb's command.

use super::given::Given;
use super::line::Line;
use super::verb::{Verb, listing_of};
use super::{Command, Refusal};

/// Declares the verbs in the order of `help`. Each verb has a variant of [`Command`] and a file.
macro_rules! verbs {
    ($($variant:ident => $file:ident),* $(,)?) => {
        $(#[allow(clippy::unnecessary_wraps, reason = "all verbs are read by functions of one type")]
        pub(super) mod $file;)*

        /// All verbs, in the order of `help`.
        pub const VERBS: &[Verb] = &[$($file::VERB),*];

        /// The function that reads the verb called `name`.
        pub(super) fn parser(name: &str) -> Option<fn(&Given) -> Result<Command, Refusal>> {
            match name {
                $(name if name == $file::VERB.name => Some($file::parse),)*
                _ => None,
            }
        }

        impl Command {
            /// The verb of this command. `None` for `help`.
            pub(super) fn described(&self) -> Option<&'static Verb> {
                match self {
                    Self::Help { .. } => None,
                    $(Self::$variant { .. } => {
                        const VERB: &Verb = &$file::VERB;
                        Some(VERB)
                    })*
                }
            }

            /// Adds the command's flags to `line`.
            pub(super) fn write(&self, line: &mut Line) {
                match self {
                    Self::Help { .. } => {}
                    $(Self::$variant { .. } => $file::write(self, line),)*
                }
            }
        }
    };
}

/// The verb called `name`.
pub fn find(name: &str) -> Option<&'static Verb> {
    VERBS.iter().find(|verb| verb.name == name)
}

/// The output of `help` for all verbs.
pub fn listing() -> String {
    listing_of(VERBS)
}

verbs! {
    AddVersion => addver,
    Put => put,
    AddConfiguration => addconf,
    AddImage => addimage,
    Import => import,
    BumpConfiguration => bumpconf,
    ChangeConfiguration => changeconf,
    ShowConfiguration => showconf,
    ShowComponent => showcomp,
    ShowLayers => showlayers,
    Components => components,
    Configurations => configurations,
    DeleteVersion => delver,
    DeleteComponent => delcomp,
    DeleteConfiguration => delconf,
    History => history,
    Rollback => rollback,
    Diff => diff,
    Pin => pin,
    Unpin => unpin,
    References => refs,
    Collect => gc,
    Verify => verify,
    Stat => stat,
    Audit => audit,
    Fleet => fleet,
    Why => why,
    Wait => wait,
    Events => events,
    Host => host,
    Retry => retry,
    Freeze => freeze,
    Rollout => rollout,
    Promote => promote,
    Window => window,
    Metrics => metrics,
    Web => web,
}
