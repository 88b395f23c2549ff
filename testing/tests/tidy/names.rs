//! Two files of one name have one meaning.

use std::collections::BTreeMap;

use crate::source::sources;

/// Names that mean the same wherever they stand.
const COMMON: [&str; 12] = [
    "lib", "main", "error", "flags", "tests", "limits", "log", "init", "progress", "verify", "gc",
    "names",
];

#[test]
fn no_two_files_share_a_name() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for source in sources() {
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
        "rename, or add to COMMON if the meaning is one:\n{}",
        shared.join("\n")
    );
}
