//! Tests that the agent rebuilds a deployed root that is missing, and that no second script starts
//! while the script of a killed agent runs.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::bench::{Agent, Bench, deployed, says};
use deploy_testing::eventually;

fn root(bench: &Bench) -> PathBuf {
    bench.path("a1/unpacked").join(bench.state().unwrap().id().to_string())
}

#[test]
fn missing_root_is_rebuilt() {
    let bench = Bench::new();
    bench.first_configuration();
    let agent = Agent::start(&bench, &[]);
    says(&bench, &["sync"], 0, "");
    let root_of_one = root(&bench);
    fs::remove_dir_all(&root_of_one).unwrap();
    says(&bench, &["sync"], 0, "switched to");
    assert!(root_of_one.join("conf").exists());
    assert_eq!(bench.runs(), 2, "the script runs again");
    says(&bench, &["sync"], 0, "up to date");

    // After a rollback, the deployed configuration differs from the registry's configuration. The
    // agent still rebuilds the missing root.
    bench.bump("v02", "two\n");
    says(&bench, &["sync"], 0, "switched to");
    says(&bench, &["rollback"], 0, "");
    fs::remove_dir_all(&root_of_one).unwrap();
    says(&bench, &["sync"], 1, "on hold after a rollback");
    assert!(root_of_one.join("conf").exists());
    assert_eq!(deployed(&bench), "v01");
    says(&bench, &["rollback", "-release"], 0, "");
    eventually("the hold is released", || deployed(&bench) == "v02");
    agent.stop();

    // After this removal, only the state file is left.
    fs::remove_dir_all(bench.path("a1")).unwrap();
    let (code, log) = bench.once(&[]);
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("is missing; the agent rebuilds the root"), "{log}");
    assert_eq!(fs::read_to_string(root(&bench).join("conf")).unwrap(), "two\n");

    // If the script fails after such a rebuild, each agent runs the script again until the script
    // succeeds.
    bench.script("#!/bin/sh\necho fails >>runs\nexit 1\n");
    let before = bench.runs();
    fs::remove_dir_all(root(&bench)).unwrap();
    assert_eq!(bench.once(&[]).0, Some(1));
    assert!(root(&bench).join("conf").exists());
    let (code, log) = bench.once(&[]);
    assert_eq!((code, bench.runs()), (Some(1), before + 2), "{log}");
    let agent = Agent::start(&bench, &[]);
    says(&bench, &["sync"], 1, "exit status 1");
    bench.script("#!/bin/sh\necho works >>runs\n");
    says(&bench, &["sync"], 0, "switched to");
    says(&bench, &["sync"], 0, "up to date");
    agent.stop();
}

#[test]
fn agent_waits_for_the_script_of_a_killed_agent() {
    let bench = Bench::new();
    bench.first_configuration();
    // A request from within the script would wait for the script's own end. Both agents refuse such
    // a request.
    let program = env!("CARGO_BIN_EXE_deploy-agent");
    bench.script(&format!(
        "#!/bin/sh\necho begin >>runs\nfor n in $(seq 3000); do [ -e go ] && break; sleep 0.02; done\n\
         {program} sync -dir a1 >>asked 2>&1\necho end >>runs\n"
    ));
    let mut agent = Agent::start(&bench, &[]);
    eventually("the script runs", || bench.runs() == 1);
    eventually("status shows the script", || {
        let status = says(&bench, &["status", "-json"], 0, "").json();
        status["script"]["pid"].is_u64()
    });
    says(&bench, &["status"], 0, "script         runs for ");
    agent.process.kill().unwrap();
    agent.process.wait().unwrap();
    drop(agent);
    let agent = Agent::start(&bench, &[]);
    eventually("the agent waits", || bench.agent_log().contains("waiting for the script's end"));
    assert_eq!(bench.runs(), 1);
    fs::write(bench.path("go"), "").unwrap();
    says(&bench, &["sync"], 0, "");
    let runs = fs::read_to_string(bench.path("runs")).unwrap();
    assert_eq!(runs, "begin\nend\nbegin\nend\n");
    let asked = fs::read_to_string(bench.path("asked")).unwrap();
    assert_eq!(
        asked.matches("the deploy script or a health check sent this request").count(),
        2,
        "{asked}"
    );
    assert!(says(&bench, &["status", "-json"], 0, "").json()["script"].is_null());
    agent.stop();
}

/// The registry returns to the deployed configuration while the script of a killed agent still runs
/// for another configuration. The next agent then runs the script again for the deployed
/// configuration.
#[test]
fn script_with_unknown_result_runs_again() {
    let bench = Bench::new();
    bench.first_configuration();
    let script = |wait: &str| {
        bench.script(&format!("#!/bin/sh\n{wait}\ncat $NEWROOT/conf >active\necho run >>runs\n"));
    };
    script("");
    let agent = Agent::start(&bench, &[]);
    says(&bench, &["sync"], 0, "");
    let active = || fs::read_to_string(bench.path("active")).unwrap();
    let one = active();
    script("touch begun; for n in $(seq 3000); do [ -e go ] && break; sleep 0.02; done");
    bench.bump("v02", "two\n");
    let mut asking = ask_beside(&bench);
    // The test waits until the start of the script is recorded and the script runs. Before its
    // exec, the child process still holds the agent's socket.
    eventually("the second script runs", || {
        bench.path("a1/script.json").exists() && bench.path("begun").exists()
    });
    drop(agent);
    asking.wait().unwrap();
    assert_eq!(deployed(&bench), "v01");
    // Without an agent, `gc` refuses to run while the script runs.
    says(&bench, &["gc"], 1, "a script whose agent was killed runs for");
    bench.operator("ssh", &["rollback", "-name", "project1"], "");
    let agent = Agent::start(&bench, &[]);
    eventually("the agent waits", || bench.agent_log().contains("waiting for the script's end"));
    fs::write(bench.path("go"), "").unwrap();
    says(&bench, &["sync"], 0, "");
    assert_eq!((active(), deployed(&bench).as_str(), bench.runs()), (one, "v01", 3));
    says(&bench, &["sync"], 0, "up to date");
    agent.stop();
}

fn ask_beside(bench: &Bench) -> Child {
    let mut sync = Command::new(env!("CARGO_BIN_EXE_deploy-agent"));
    sync.args(["sync", "-dir", "a1"]).current_dir(bench.temp.path());
    sync.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}
