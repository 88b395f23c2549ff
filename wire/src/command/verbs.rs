//! One file for each verb: its help, flags and examples, and how its command is read and written.

use super::given::Given;
use super::line::Line;
use super::verb::{Verb, listing_of};
use super::{Command, Refusal};

/// Declares the verbs in the order of `help`: the variant of [`Command`] and the file of each.
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
            /// The verb; `None` for `help`.
            pub(super) fn described(&self) -> Option<&'static Verb> {
                match self {
                    Self::Help { .. } => None,
                    $(Self::$variant { .. } => {
                        const VERB: &Verb = &$file::VERB;
                        Some(VERB)
                    })*
                }
            }

            /// Writes the command's flags.
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

/// The output of `help`.
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
    Metrics => metrics,
}
