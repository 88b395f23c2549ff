//! Checks that some libraries and exit codes are used only in certain folders.

use crate::source::sources;

/// For each word: the folders and files that may contain the word, and the reason.
const ROOMS: [(&str, &[&str], &str); 7] = [
    ("sqlx::", &["registry/src/catalog"], "only the catalogue may use the database"),
    (
        "russh::",
        &["registry/src/ssh", "wire/src/client"],
        "only the registry's ssh server and the client may speak ssh",
    ),
    (
        "StatusCode::",
        &["registry/src/http", "registry/src/ssh/sftp", "wire/src/client"],
        "only the code for HTTP and sftp may make status codes",
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
            "registry/src/registry_import.rs",
            "registry/src/registry_init.rs",
            "registry/src/registry_migrate.rs",
            "wire/src/client",
            "wire/src/command",
        ],
        "only code that answers a command or ends a program may make exit codes",
    ),
    (
        "object_store::",
        &["registry/src/bucket/s3_client.rs"],
        "only the client of the bucket may send requests to it",
    ),
    ("axum::", &["registry/src/http"], "only this folder may serve HTTP"),
    (
        "std::process::exit",
        &[
            "agent/src/main.rs",
            "ctl/src/main.rs",
            "registry/src/main.rs",
            "docker/src/program/main.rs",
            "cli/src",
        ],
        "only a main file or the cli crate may end the program",
    ),
];

#[test]
fn libraries_are_used_only_in_certain_folders() {
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
