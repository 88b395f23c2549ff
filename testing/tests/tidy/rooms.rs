//! Checks that some libraries and exit codes are used only in certain folders.

use crate::source::sources;

/// A word, the folders that may use it, and the reason.
const ROOMS: [(&str, &[&str], &str); 6] = [
    ("sqlx::", &["registry/src/catalog"], "the catalogue is the only room with a database"),
    (
        "russh::",
        &["registry/src/ssh", "wire/src/client"],
        "ssh is spoken by the registry's server and by the client",
    ),
    (
        "StatusCode::",
        &["registry/src/http", "registry/src/ssh/sftp", "wire/src/client"],
        "http and sftp make their own statuses",
    ),
    (
        " exit::",
        &[
            "agent/src/commands",
            "agent/src/control",
            "agent/src/error.rs",
            "ctl/src",
            "docker/src/program",
            "docker/src/error.rs",
            "docker/src/to/remote_registry.rs",
            "registry/src/console",
            "registry/src/http/problem.rs",
            "registry/src/main.rs",
            "registry/src/registry_init.rs",
            "wire/src/client",
            "wire/src/command",
        ],
        "exit codes are made where an answer leaves the program",
    ),
    ("axum::", &["registry/src/http"], "http is the only room with HTTP"),
    (
        "std::process::exit",
        &[
            "agent/src/main.rs",
            "ctl/src/main.rs",
            "registry/src/main.rs",
            "docker/src/program/main.rs",
            "cli/src",
        ],
        "a program ends in its main file",
    ),
];

#[test]
fn libraries_stay_in_their_rooms() {
    let mut strays = Vec::new();
    for source in sources() {
        for (word, rooms, why) in ROOMS {
            if rooms.iter().any(|room| source.path.starts_with(room)) {
                continue;
            }
            for (at, line) in source.code.lines().enumerate() {
                if line.contains(word) && !line.trim_start().starts_with("//") {
                    strays.push(format!("{}:{}: {word} here, but {why}", source.path, at + 1));
                }
            }
        }
    }
    assert!(strays.is_empty(), "{}", strays.join("\n"));
}
