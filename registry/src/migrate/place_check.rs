//! Decides whether a migration may begin or continue. These functions are pure.

use crate::moved::Unfinished;

/// What a migration finds at its destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The catalogue is new.
    Begin,
    /// The catalogue has a part of this registry. The migration has this id.
    Continue(String),
    /// The catalogue is in use, or was in use.
    NotEmpty,
    /// The catalogue is the destination of an unfinished migration of another registry.
    OfAnother,
}

/// Decides about a catalogue. `source` is the id of the registry that migrates, and `is_unused` says
/// whether the catalogue has no rows apart from those of a new catalogue.
pub(super) fn judge(note: Option<Unfinished>, source: &str, is_unused: bool) -> Verdict {
    match note {
        Some(note) if note.source == source => Verdict::Continue(note.id),
        Some(_) => Verdict::OfAnother,
        None if is_unused => Verdict::Begin,
        None => Verdict::NotEmpty,
    }
}

/// What a directory has before it becomes the destination.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct FoundInDirectory<'a> {
    /// The id of the catalogue on a server to which the directory belongs.
    pub(super) id: Option<&'a str>,
    /// Whether it has the record of a move to a server.
    pub(super) has_moved: bool,
    /// Whether it has a catalogue file.
    pub(super) has_catalogue: bool,
    /// Whether it has blobs.
    pub(super) has_files: bool,
    /// Whether it has the state of a Go registry.
    pub(super) has_go_state: bool,
}

/// Why a directory cannot become the destination for the registry whose catalogue has the id `own`.
/// `None` if it can. A catalogue file is judged by [`judge`].
pub(super) fn refusal(found: FoundInDirectory<'_>, own: &str) -> Option<&'static str> {
    match found.id {
        Some(id) if id != own => {
            Some("the directory belongs to another registry; give an empty directory with -dir")
        }
        // With a part of a catalogue file, a registry that never was in a directory could not start
        // any more.
        Some(_) if !found.has_moved => Some(
            "a registry with its catalogue on a server uses the directory; give an empty directory \
             with -dir",
        ),
        _ if found.has_go_state => {
            Some("the directory has the state of a Go registry; give an empty directory with -dir")
        }
        None if found.has_files && !found.has_catalogue => {
            Some("the directory has files; give an empty directory with -dir")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_new_catalogue_or_one_of_this_migration_is_a_destination() {
        let note =
            |source: &str| Some(Unfinished { id: "i".to_owned(), source: source.to_owned() });
        assert_eq!(judge(None, "s", true), Verdict::Begin);
        assert_eq!(judge(None, "s", false), Verdict::NotEmpty);
        for is_unused in [false, true] {
            assert_eq!(judge(note("s"), "s", is_unused), Verdict::Continue("i".to_owned()));
            assert_eq!(judge(note("t"), "s", is_unused), Verdict::OfAnother);
        }
    }

    #[test]
    fn directory_of_another_registry_is_refused() {
        let empty = FoundInDirectory::default();
        assert_eq!(refusal(empty, "a"), None);
        assert_eq!(
            refusal(
                FoundInDirectory { id: Some("a"), has_moved: true, has_files: true, ..empty },
                "a"
            ),
            None
        );
        assert_eq!(
            refusal(FoundInDirectory { has_catalogue: true, has_files: true, ..empty }, "a"),
            None,
            "the catalogue decides"
        );
        let refused = [
            FoundInDirectory { id: Some("b"), ..empty },
            FoundInDirectory { id: Some("b"), has_moved: true, ..empty },
            FoundInDirectory { id: Some("a"), ..empty },
            FoundInDirectory { has_files: true, ..empty },
            FoundInDirectory { has_go_state: true, ..empty },
            FoundInDirectory { id: Some("a"), has_moved: true, has_go_state: true, ..empty },
        ];
        for found in refused {
            assert!(refusal(found, "a").is_some(), "{found:?}");
        }
    }
}
