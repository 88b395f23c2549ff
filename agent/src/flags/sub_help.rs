//! Which of the agent's flags the help of a subcommand has.

/// Where the help of the subcommand `sub` has the agent's flag `flag`, if it has use for it.
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
