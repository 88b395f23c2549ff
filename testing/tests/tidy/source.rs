//! Reads the project's source files as text.

use std::fs;
use std::path::{Path, PathBuf};

/// The crates, from the highest to the lowest; see ARCHITECTURE.md.
pub const CRATES: [&str; 8] =
    ["agent", "ctl", "registry", "docker", "cli", "rollout", "wire", "store"];

/// A file in the directory `src` of a crate.
pub struct Source {
    /// The path from the top of the checkout, such as `agent/src/cycle.rs`.
    pub path: String,
    /// The module's path within its crate, such as `cycle::poll`; empty for `lib.rs` and `main.rs`.
    pub module: String,
    /// The directory of the file's crate.
    pub krate: &'static str,
    /// The text before the first unit test.
    pub code: String,
    /// The whole text.
    pub text: String,
}

/// The top of the checkout.
pub fn top() -> PathBuf {
    deploy_testing::package().parent().expect("the crate is in the checkout").to_owned()
}

/// All source files of the crates, except files whose names end in `tests.rs`.
pub fn sources() -> Vec<Source> {
    let mut all = Vec::new();
    for krate in CRATES {
        let src = top().join(krate).join("src");
        let mut paths = files_below(&src);
        paths.sort();
        for path in paths {
            let inside =
                path.strip_prefix(&src).expect("it is below").to_str().expect("plain names");
            if inside.ends_with("tests.rs") {
                continue;
            }
            let text = fs::read_to_string(&path).expect("a source file is text");
            let module = match inside.trim_end_matches(".rs") {
                "lib" | "main" => String::new(),
                other => other.replace('/', "::"),
            };
            let code =
                text.split("\n#[cfg(test)]\nmod tests").next().expect("a first part").to_owned();
            all.push(Source { path: format!("{krate}/src/{inside}"), module, krate, code, text });
        }
    }
    assert!(all.len() > 200, "only {} source files were found", all.len());
    all
}

/// All Rust files of the checkout, tests and benches included, but not the fuzz targets.
pub fn all_files() -> Vec<PathBuf> {
    let folders = [
        "agent", "ctl", "registry", "docker", "cli", "rollout", "wire", "store", "testing",
        "benches",
    ];
    folders.iter().flat_map(|folder| files_below(&top().join(folder))).collect()
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a folder of the checkout") {
        let path = entry.expect("a readable folder").path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                found.extend(files_below(&path));
            }
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
    found
}
