//! Compares the marker in a bucket with the catalogue. The marker is a small object with the id of
//! the catalogue and a number. The catalogue has the same id, and a number that is at least as high:
//! the registry writes each new number first to the catalogue and then to the bucket. So a higher
//! number in the bucket means that the catalogue is older than the bucket. Such a catalogue does not
//! know all objects, and must not remove the objects that it does not know.

use serde::{Deserialize, Serialize};

/// The key of the marker after the prefix.
pub(super) const PLACE: &str = "deploy-registry.json";
/// The name of the catalogue's note with the same contents.
pub(super) const NOTE: &str = "bucket";

/// The contents of the marker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Marker {
    /// The id of the catalogue.
    pub(super) catalogue: String,
    /// The number, which only grows.
    pub(super) number: u64,
}

/// What a registry finds when it begins to use a bucket.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// The marker in the bucket.
    pub(super) marker: Option<Marker>,
    /// The note in the catalogue.
    pub(super) noted: Option<Marker>,
    /// Whether the catalogue knows objects in the bucket.
    pub(super) knows_objects: bool,
    /// Whether the catalogue knows blobs that are not in a bucket.
    pub(super) knows_files: bool,
    /// Whether the bucket has objects with the prefix.
    pub(super) has_objects: bool,
}

/// Whether a bucket and a catalogue belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// They do.
    Own,
    /// Both are new, or a crash has interrupted the first start.
    New,
    /// The catalogue is older than the bucket, which has this number.
    Older(u64),
    /// The bucket belongs to another catalogue.
    Other,
    /// The bucket has no marker, but the catalogue knows objects.
    NoMarker,
    /// The catalogue is new, but the bucket has objects.
    HasObjects,
    /// The catalogue has blobs that are files in a directory.
    HasFiles,
}

/// Decides whether a bucket and a catalogue belong together.
pub(super) fn compare(found: &Found) -> Verdict {
    match (&found.marker, &found.noted) {
        (_, None) if found.knows_files => Verdict::HasFiles,
        (Some(_), None) => Verdict::Other,
        (None, Some(_)) if found.knows_objects => Verdict::NoMarker,
        (None, _) if found.has_objects => Verdict::HasObjects,
        (None, _) => Verdict::New,
        (Some(marker), Some(noted)) if marker.catalogue != noted.catalogue => Verdict::Other,
        (Some(marker), Some(noted)) if marker.number > noted.number => {
            Verdict::Older(marker.number)
        }
        (Some(_), Some(_)) => Verdict::Own,
    }
}

/// Whether the marker belongs to the catalogue, and the catalogue is not older than the bucket.
pub(super) fn is_own(marker: Option<&Marker>, noted: Option<&Marker>) -> bool {
    let (Some(marker), Some(noted)) = (marker, noted) else { return false };
    marker.catalogue == noted.catalogue && marker.number <= noted.number
}

/// The next marker of a catalogue, with at least the number `least`. The first marker has the id
/// `own`.
pub(super) fn raised(noted: Option<Marker>, own: &str, least: u64) -> Marker {
    match noted {
        Some(Marker { catalogue, number }) => Marker { catalogue, number: least.max(number + 1) },
        None => Marker { catalogue: own.to_owned(), number: least.max(1) },
    }
}

impl Verdict {
    /// Why the bucket cannot be used, and what to do. `None` if it can be used.
    pub(super) fn refusal(self) -> Option<String> {
        let text = match self {
            Self::Own | Self::New => return None,
            Self::Older(number) => {
                return Some(format!(
                    "the catalogue is older than the bucket, as after a restored backup; restore \
                     the newest catalogue, or start with -accept-older-catalogue {number}: then \
                     the registry serves what this catalogue knows, and removes nothing"
                ));
            }
            Self::Other => {
                "the bucket belongs to another catalogue; give the bucket of this catalogue, or \
                 another prefix"
            }
            Self::NoMarker => {
                "the bucket has no marker, but the catalogue knows objects in its bucket; give the \
                 bucket of this catalogue"
            }
            Self::HasObjects => {
                "the bucket has objects, but no marker of this catalogue; give an empty bucket, or \
                 another prefix"
            }
            Self::HasFiles => {
                "the catalogue has files in a directory; leave -bucket out, or begin with an empty \
                 catalogue"
            }
        };
        Some(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marker(catalogue: &str, number: u64) -> Option<Marker> {
        Some(Marker { catalogue: catalogue.to_owned(), number })
    }

    fn found(marker: Option<Marker>, noted: Option<Marker>) -> Found {
        Found { marker, noted, knows_objects: false, knows_files: false, has_objects: false }
    }

    #[test]
    fn bucket_of_another_catalogue_is_refused() {
        let check = |marker, noted| compare(&found(marker, noted));
        assert_eq!(check(None, None), Verdict::New);
        assert_eq!(check(marker("a", 3), marker("a", 3)), Verdict::Own);
        assert_eq!(check(marker("a", 3), marker("a", 4)), Verdict::Own);
        assert_eq!(check(marker("b", 3), marker("a", 4)), Verdict::Other);
        assert_eq!(check(marker("b", 3), None), Verdict::Other);
        assert_eq!(check(None, marker("a", 1)), Verdict::New);
        let full = Found { has_objects: true, ..found(None, None) };
        assert_eq!(compare(&full), Verdict::HasObjects);
        let files = Found { knows_files: true, ..found(None, None) };
        assert_eq!(compare(&files), Verdict::HasFiles);
        let emptied = Found { knows_objects: true, ..found(None, marker("a", 1)) };
        assert_eq!(compare(&emptied), Verdict::NoMarker);
    }

    #[test]
    fn marker_belongs_to_a_catalogue_with_an_equal_or_higher_number() {
        let is_own = |marker: Option<Marker>, noted: Option<Marker>| {
            super::is_own(marker.as_ref(), noted.as_ref())
        };
        assert!(is_own(marker("a", 4), marker("a", 4)) && is_own(marker("a", 4), marker("a", 6)));
        assert!(!is_own(marker("a", 6), marker("a", 4)), "a restored catalogue");
        assert!(!is_own(marker("b", 4), marker("a", 4)));
        assert!(!is_own(None, marker("a", 4)) && !is_own(marker("a", 4), None));
        assert_eq!(Some(raised(None, "me", 0)), marker("me", 1));
        assert_eq!(Some(raised(marker("a", 4), "me", 0)), marker("a", 5));
        assert_eq!(Some(raised(marker("a", 4), "me", 9)), marker("a", 9));
    }

    #[test]
    fn older_catalogue_is_refused_with_the_number_that_accepts_it() {
        let verdict = compare(&found(marker("a", 5), marker("a", 4)));
        assert_eq!(verdict, Verdict::Older(5));
        assert!(verdict.refusal().unwrap().contains("-accept-older-catalogue 5:"));
        assert_eq!(Verdict::Own.refusal(), None);
    }
}
