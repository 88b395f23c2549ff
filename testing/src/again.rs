//! Runs tests again in a separate environment.

use std::process::{Command, ExitStatus, Stdio};

/// Runs this test program again, but only the test `test`, and with the environment variable
/// `variable` set. The command line begins with the words of `before`, such as `unshare -m`. `test`
/// has the form `module::function`.
pub fn run_test_again(before: &[&str], test: &str, variable: &str) -> ExitStatus {
    let program = std::env::current_exe().expect("the test program has a path");
    let listed = Command::new(&program).args(["--list", "--exact", test]).output();
    let listed = listed.expect("a test program starts").stdout;
    // Without this check, a wrong name would run no test and would succeed.
    assert!(
        String::from_utf8_lossy(&listed).lines().any(|line| line == format!("{test}: test")),
        "no test is called {test}"
    );
    let mut words = before.iter().map(std::ffi::OsStr::new).chain([program.as_os_str()]);
    let mut again = Command::new(words.next().expect("there is the program itself"));
    again.args(words).args(["--exact", test, "--nocapture"]).env(variable, "1");
    again.status().expect("the first word is a program")
}

/// Returns true if this process has its own mount namespace. The caller then continues with the
/// test. Otherwise, this function runs `test` again in a process with its own mount namespace, and
/// returns false. If no mount namespace can be made, this function panics in CI. Outside CI, this
/// function skips the test and returns false.
#[allow(clippy::print_stderr, reason = "the function reports a skipped test")]
pub fn in_own_mounts(test: &str) -> bool {
    const INSIDE: &str = "DEPLOY_TEST_OWN_MOUNTS";
    const UNSHARE: [&str; 4] = ["unshare", "-m", "--propagation", "private"];
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let mut tried = Command::new(UNSHARE[0]);
    tried.args(&UNSHARE[1..]).arg("true").stderr(Stdio::null());
    if !tried.status().is_ok_and(|status| status.success()) {
        assert!(std::env::var_os("CI").is_none(), "CI must run as root");
        eprintln!("{test} IS SKIPPED: no mount namespace can be made");
        return false;
    }
    assert!(run_test_again(&UNSHARE, test, INSIDE).success(), "{test} failed in its own mounts");
    false
}
