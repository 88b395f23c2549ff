//! Selects the agent's flags that the short help of a subcommand shows.

/// The heading under which the help of the subcommand `sub` shows the agent's flag `flag`; `None`
/// if the subcommand does not use the flag.
pub fn heading(sub: &str, flag: &str) -> Option<&'static str> {
    match (sub, flag) {
        ("verify" | "rollback" | "init", "addr" | "fp" | "key") => Some("Connection"),
        ("unpack", "confine" | "link") => Some("Agent"),
        ("unpack" | "completion" | "man", _) => None,
        (_, "dir")
        | ("status" | "gc", "state")
        | ("gc", "keep_roots" | "cleanold" | "keep_blobs")
        | ("rollback" | "init", "script")
        | ("init", "name") => Some("Agent"),
        _ => None,
    }
}
