//! Finds directories and programs for tests.

use std::path::{Path, PathBuf};

/// The directory of the package that is being tested.
///
/// This function looks the path up at run time, because the checkout may have moved since the test
/// was compiled.
pub fn package() -> PathBuf {
    match std::env::var_os("CARGO_MANIFEST_DIR") {
        Some(dir) => dir.into(),
        None => std::env::current_dir().expect("a test has a working directory"),
    }
}

/// The path of the program called `name`, in the build directory of the test. Cargo builds only the
/// programs of the test's own package, so a program of another package may be missing.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the test program has a path");
    let programs = test.parent().and_then(Path::parent).expect("tests are in target/*/deps");
    let path = programs.join(name);
    assert!(path.exists(), "{} is missing: run cargo build --workspace --bins", path.display());
    path
}

/// The directories that the variable `DEPLOY_TEST_DIRS` lists, separated by colons. Each directory
/// is on a filesystem to test. Without the variable, the function returns only the directory for
/// temporary files.
pub fn directories() -> Vec<PathBuf> {
    match std::env::var_os("DEPLOY_TEST_DIRS") {
        Some(dirs) => std::env::split_paths(&dirs).collect(),
        None => vec![std::env::temp_dir()],
    }
}
