//! What is deployed and no longer there is built again; and a script that a killed agent left
//! is not joined by another.

mod bench;

use std::fs;
use std::path::PathBuf;

use bench::{Agent, Bench, deployed, eventually, says};

fn root(bench: &Bench) -> PathBuf {
    bench.path("a1/unpacked").join(bench.state().unwrap().id().to_string())
}

#[test]
fn a_root_that_is_gone_is_built_again() {
    let bench = Bench::new();
    bench.first_configuration();
    let agent = Agent::start(&bench, &[]);
    says(&bench, &["sync"], 0, "");
    let root_of_one = root(&bench);
    fs::remove_dir_all(&root_of_one).unwrap();
    says(&bench, &["sync"], 0, "switched to");
    assert!(root_of_one.join("conf").exists());
    assert_eq!(bench.runs(), 2, "the script does not know");
    says(&bench, &["sync"], 0, "up to date");

    // Where what is deployed is not what the registry has.
    bench.bump("v02", "two\n");
    says(&bench, &["sync"], 0, "switched to");
    says(&bench, &["rollback"], 0, "");
    fs::remove_dir_all(&root_of_one).unwrap();
    says(&bench, &["sync"], 1, "held since a rollback");
    assert!(root_of_one.join("conf").exists());
    assert_eq!(deployed(&bench), "v01");
    says(&bench, &["rollback", "-release"], 0, "");
    eventually("it is released", || deployed(&bench) == "v02");
    agent.stop();

    // Nothing is left but the state file.
    fs::remove_dir_all(bench.path("a1")).unwrap();
    let (code, log) = bench.once(&[]);
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("is gone: it is built again"), "{log}");
    assert_eq!(fs::read_to_string(root(&bench).join("conf")).unwrap(), "two\n");

    // A script that fails then is not run at every look.
    bench.script("#!/bin/sh\necho fails >>failures\nexit 1\n");
    fs::remove_dir_all(root(&bench)).unwrap();
    let agent = Agent::start(&bench, &[]);
    eventually("it failed", || bench.path("failures").exists());
    assert!(root(&bench).join("conf").exists());
    agent.stop();
}

#[test]
fn no_script_runs_beside_one_that_a_killed_agent_left() {
    let bench = Bench::new();
    bench.first_configuration();
    bench.script(
        "#!/bin/sh\necho begin >>runs\nwhile [ ! -e go ]; do sleep 0.02; done\necho end >>runs\n",
    );
    let mut agent = Agent::start(&bench, &[]);
    eventually("the script runs", || bench.runs() == 1);
    eventually("status knows it", || {
        let status = says(&bench, &["status", "-json"], 0, "").json();
        status["script"]["pid"].is_u64()
    });
    says(&bench, &["status"], 0, "script         runs for ");
    agent.process.kill().unwrap();
    agent.process.wait().unwrap();
    drop(agent);
    let agent = Agent::start(&bench, &[]);
    eventually("it waits", || bench.agent_log().contains("waiting for its end"));
    assert_eq!(bench.runs(), 1);
    fs::write(bench.path("go"), "").unwrap();
    says(&bench, &["sync"], 0, "");
    let runs = fs::read_to_string(bench.path("runs")).unwrap();
    assert_eq!(runs, "begin\nend\nbegin\nend\n");
    assert!(says(&bench, &["status", "-json"], 0, "").json()["script"].is_null());
    agent.stop();
}
