//! Tests that roots match their layers, regardless of the changes that services and scripts make.
//! Also tests that the agent does not change the data outside of the roots to which mounts and
//! symlinks lead.
//!
//! The real registry and agent deploy one version after another: newer versions, older versions,
//! and the same tree under another name. The test kills and restarts both programs, while a service
//! and a deploy script change roots at random. Whenever the script begins for a root that is not
//! deployed yet, the test compares the whole root with a model of its layers. After every step, the
//! test also checks that its own data outside of the roots is unchanged.
//!
//! The test cannot cover one case: a service writes in place to a file that another published root
//! shares. To exclude this case, the test compares a root as soon as its script begins, and no
//! service writes during the comparison.
//!
//! The test runs on every filesystem of `DEPLOY_TEST_DIRS`, in every link mode, as root and as an
//! ordinary user. Environment variables configure the test:
//!
//! | variable | meaning |
//! |---|---|
//! | `DEPLOY_TEST_SEED` | the seed |
//! | `DEPLOY_TEST_STEPS` | the number of steps in each place (default: 300; a quarter as an ordinary user) |
//! | `DEPLOY_TEST_LINKS` | the link modes (default: `auto,hardlink,copy`) |
//! | `DEPLOY_TEST_JOBS` | how many places run at the same time (default: 2) |
//! | `DEPLOY_TEST_WITHOUT=mounts,chattr` | leaves kinds of steps out |
//! | `DEPLOY_TEST_MORE=kill` | ten times the weight for a kind of steps |
//! | `DEPLOY_TEST_SHRINK=1` | looks for the fewest steps that still fail |
//! | `DEPLOY_TEST_ONLY=3,7,9` | does only these steps |

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "seeds, steps and faults")]

mod agent;
#[path = "../it/bench/mod.rs"]
mod bench;
mod canary;
mod dice;
mod events;
mod fault;
mod hostile;
mod layers;
mod open;
mod outside;
mod run;
mod script;
mod shrink;
mod steps;
mod tree;
mod world;

use std::path::PathBuf;
use std::process::Command;

use world::Place;

/// The environment variable that the test sets when it starts itself again, in a mount namespace of
/// its own or as an ordinary user.
const INSIDE: &str = "DEPLOY_TEST_MODEL_INSIDE";
/// The factor by which `DEPLOY_TEST_MORE` increases the weight of a kind of steps.
const MORE: usize = 10;
/// The command that runs a program in its own mount namespace, so that the mounts end with the
/// program.
const ROOT: [&str; 4] = ["unshare", "-m", "--propagation", "private"];
/// The command that runs a program as an ordinary user.
const USER: [&str; 4] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];

fn names(variable: &str, kind: &str) -> bool {
    let all = std::env::var(variable).unwrap_or_default();
    all.split(',').any(|other| other == kind)
}

/// Whether the test leaves out steps of this kind.
fn is_without(kind: &str) -> bool {
    names("DEPLOY_TEST_WITHOUT", kind)
}

/// The weight of steps of this kind. `usual` is the weight without `DEPLOY_TEST_MORE`.
fn weight(kind: &str, usual: usize) -> usize {
    if names("DEPLOY_TEST_MORE", kind) { usual * MORE } else { usual }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

fn places() -> Vec<Place> {
    let dirs = std::env::var_os("DEPLOY_TEST_DIRS");
    let mut dirs: Vec<PathBuf> =
        dirs.map(|dirs| std::env::split_paths(&dirs).collect()).unwrap_or_default();
    if dirs.is_empty() {
        println!("DEPLOY_TEST_DIRS is not set: only the filesystem of temporary files is tested");
        dirs.push(std::env::temp_dir());
    }
    let links = std::env::var("DEPLOY_TEST_LINKS");
    let links = links.unwrap_or_else(|_| "auto,hardlink,copy".to_owned());
    let mut places = Vec::new();
    for dir in dirs {
        let has_reflinks = run::has_reflinks(&dir);
        for link in links.split(',') {
            // Without reflinks, this place would be the same as the place with the link mode
            // `auto`.
            if link == "hardlink" && !has_reflinks && links.contains("auto") {
                continue;
            }
            if link == "reflink" && !has_reflinks {
                continue;
            }
            places.push(Place { dir: dir.clone(), link: link.to_owned() });
        }
    }
    places
}

#[test]
fn roots_match_their_layers_whatever_services_and_scripts_do() {
    let inside = std::env::var(INSIDE).unwrap_or_default();
    let is_root = rustix::process::geteuid().is_root();
    if inside.is_empty() && is_root {
        // The mount namespace ends with its process, so no mount outlives the test.
        let as_root = is_without("root") || again(&ROOT, "root");
        let as_user = is_without("user") || again(&USER, "user");
        assert!(
            as_root && as_user,
            "as root: {as_root}, as an ordinary user: {as_user}; see above"
        );
        return;
    }
    let faults = run::everywhere(&places(), &inside);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Runs this test again in a process of its own, and returns whether that run passed. If the test
/// cannot start such a process, it prints that this part is skipped. In CI, the test fails instead.
fn again(before: &[&str], inside: &str) -> bool {
    let mut command = Command::new(before[0]);
    command.args(&before[1..]);
    let mut tried = Command::new(before[0]);
    let test = std::env::current_exe().unwrap();
    let listed = tried.args(&before[1..]).arg(&test).arg("--list").output();
    if !listed.is_ok_and(|output| output.status.success()) {
        assert!(std::env::var_os("CI").is_none(), "{before:?} does not work");
        eprintln!("NOT TESTED: {inside}, because {before:?} does not work here");
        return true;
    }
    let name = "roots_match_their_layers_whatever_services_and_scripts_do";
    command.arg(test).args([name, "--exact", "--nocapture"]).env(INSIDE, inside);
    command.status().unwrap().success()
}
