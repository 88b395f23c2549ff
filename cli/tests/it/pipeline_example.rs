//! Runs the pipeline of docs/FLEET.md, line by line, with the real programs.

use std::fs;

use crate::stage::Stage;

/// The command lines of the first YAML example in docs/FLEET.md.
fn commands() -> Vec<String> {
    let path = deploy_testing::package().join("../docs/FLEET.md");
    let text = fs::read_to_string(path).unwrap();
    let (_, rest) = text.split_once("```yaml\n").expect("the page has a pipeline");
    let (example, _) = rest.split_once("```").unwrap();
    let lines = example.lines().filter_map(|line| line.trim().strip_prefix("- "));
    lines.map(str::to_owned).collect()
}

#[test]
fn pipeline_of_the_documents_deploys_and_waits() {
    let mut stage = Stage::set(&[]);
    for line in [
        "mkdir build && echo one >build/file && tar -czf first.tgz -C build .",
        "deployctl addver -name code -version first -file first.tgz",
        "deployctl addconf -name web -layer code:first",
        "mkdir agent && printf '#!/bin/sh\\nexit 0\\n' >deploy.sh && chmod +x deploy.sh",
    ] {
        let output = stage.play(line);
        assert!(output.status.success(), "{line}: {output:?}");
    }
    stage.start("deploy-agent -name web -dir agent -poll 1h", "agent.log");
    stage.wait_for("agent.log", "switched to the new configuration");
    // The pipeline counts a host only after the host's first report, so the test waits for that
    // report.
    let reported = "until deployctl fleet -name web | grep -q '1 healthy'; do sleep 0.05; done";
    assert!(stage.play(reported).status.success());
    let commands = commands();
    assert!(commands.iter().any(|line| line.contains("-wait")), "{commands:?}");
    let mut last = String::new();
    for line in commands {
        let output =
            stage.play(&format!("echo two >build/file; CI_COMMIT_SHORT_SHA=abc123; {line}"));
        assert!(output.status.success(), "{line}: {output:?}");
        last = String::from_utf8(output.stdout).unwrap();
    }
    assert!(last.contains("deployed on 1 of 1 host"), "{last}");
}
