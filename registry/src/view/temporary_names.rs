//! Recognises temporary names. Some clients write a file under a temporary name, and rename the
//! file when it is complete.

/// Texts that follow the last dot of a temporary name, as chosen by `WinSCP` (`filepart`),
/// rclone (`partial`), `lftp` (`in`), Spring Integration (`writing`), Camel (`inprogress`) and
/// others.
const ENDINGS: [&str; 12] = [
    "filepart",
    "part",
    "partial",
    "tmp",
    "temp",
    "in",
    "writing",
    "uploading",
    "upload",
    "inprogress",
    "incomplete",
    "unfinished",
];

/// Whether a name is temporary. A temporary name begins with a dot (`lftp`, `NiFi`, rsync), or has
/// one of the usual endings.
pub fn is_temporary(name: &str) -> bool {
    name.starts_with('.') || without_ending(name).is_some()
}

/// The name without its temporary ending; `None` if the name has no such ending.
pub fn without_ending(name: &str) -> Option<&str> {
    let (name, ending) = name.rsplit_once('.')?;
    let is_one = ENDINGS.iter().any(|known| ending.eq_ignore_ascii_case(known));
    Some(name).filter(|name| is_one && !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_names_of_known_clients_are_recognised() {
        for (name, rest) in [
            ("v1.filepart", Some("v1")),
            ("v1.tar.gz.PART", Some("v1.tar.gz")),
            ("v1.5f3a9c1b.partial", Some("v1.5f3a9c1b")),
            (".in.v1", None),
            (".v1.Xy12ab", None),
            ("v1.in", Some("v1")),
        ] {
            assert!(is_temporary(name), "{name}");
            assert_eq!(without_ending(name), rest, "{name}");
        }
        for name in ["v1", "1.0", "v1.tar.gz", "part", "in", "v1.parts", "main.inc"] {
            assert!(!is_temporary(name), "{name}");
        }
    }
}
