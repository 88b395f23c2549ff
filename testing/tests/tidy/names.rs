//! Checks that files with the same name have the same meaning, and that documents name only files
//! that exist.

use std::collections::BTreeMap;

use crate::source::{sources, top};

/// The file names that several folders may use. Each of these names has the same meaning
/// everywhere.
const COMMON: [&str; 14] = [
    "lib",
    "main",
    "error",
    "flags",
    "tests",
    "limits",
    "log",
    "progress",
    "names",
    "blocking",
    "exit_codes",
    "sftp",
    "verbs",
    "fleet",
];
/// The folders whose files have the names of verbs or commands.
const BY_VERB: [&str; 3] = ["/verbs/", "/commands/", "ctl/src/"];

#[test]
fn no_two_files_share_a_name() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for source in sources() {
        if BY_VERB.iter().any(|folder| source.path.contains(folder)) {
            continue;
        }
        let name =
            source.path.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs").to_owned();
        if !COMMON.contains(&name.as_str()) {
            places.entry(name).or_default().push(source.path);
        }
    }
    let shared: Vec<String> = places
        .iter()
        .filter(|(_, paths)| paths.len() > 1)
        .map(|(name, paths)| format!("{name}: {}", paths.join(", ")))
        .collect();
    assert!(
        shared.is_empty(),
        "rename the files, or add the name to COMMON if it has one meaning:\n{}",
        shared.join("\n")
    );
}

/// Checks paths such as `store/src/disk.rs` in documents. A folder's path may end in a slash.
#[test]
fn paths_in_documents_exist() {
    let mut missing = Vec::new();
    for document in
        ["ARCHITECTURE.md", "CONTRIBUTING.md", "README.md"].map(str::to_owned).into_iter().chain(
            ["DURABILITY", "SECURITY", "FORMAT", "OPERATING", "PERFORMANCE", "IMAGES"]
                .map(|name| format!("docs/{name}.md")),
        )
    {
        let text =
            std::fs::read_to_string(top().join(&document)).expect("a document of the checkout");
        for path in text.split('`').skip(1).step_by(2) {
            let krate = path.split('/').next().unwrap_or_default();
            let is_path = !matches!(krate, "" | ".")
                && path.contains('/')
                && !path.contains([' ', '*', '<', '$', '=', '{']);
            if is_path
                && top().join(krate).join("Cargo.toml").exists()
                && !top().join(path).exists()
            {
                missing.push(format!("{document}: {path}"));
            }
        }
    }
    assert!(missing.is_empty(), "these files do not exist:\n{}", missing.join("\n"));
}
