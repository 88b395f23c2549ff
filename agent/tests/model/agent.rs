//! Starts and kills the agent, sends requests to it, and checks its answers.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::events::Event;
use crate::fault::{Outcome, fault};
use crate::script::{Kill, Plan};
use crate::world::World;

/// Maximum time that the test waits for the agent in any step.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two checks of the agent's state.
const PAUSE: Duration = Duration::from_millis(2);

impl World {
    /// Starts the agent, and waits until its first poll has ended.
    pub fn start(&mut self) -> Outcome {
        let path = self.bench.path("agent.log");
        let log = File::options().create(true).append(true).open(path).unwrap();
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        let mut command = self.bench.agent(&flags);
        self.agent = Some(command.stderr(log).stdin(std::process::Stdio::null()).spawn().unwrap());
        let deadline = Instant::now() + PATIENCE;
        while UnixStream::connect(self.agent_dir().join("control")).is_err() {
            if let Some(status) = self.agent.as_mut().unwrap().try_wait().unwrap() {
                self.agent = None;
                let log = self.agent_log();
                let last = log.lines().last().unwrap_or_default().to_owned();
                return fault("the agent does not start", format!("{status}: {last}"));
            }
            if Instant::now() > deadline {
                return fault("the agent does not start", "no socket within a minute");
            }
            if let Some(Event::Script(asking)) = self.events.next(PAUSE) {
                self.script(&asking)?;
            }
        }
        self.idle()?;
        self.learn();
        Ok(())
    }

    /// Reads the deployed configuration from the state file. If the state file was lost, the model
    /// keeps the last known configuration.
    fn learn(&mut self) {
        if let Some((id, _)) = self.state() {
            self.deployed = Some(id);
        }
    }

    /// Runs a subcommand, whether or not an agent runs. Records its exit code and its last line on
    /// stderr.
    pub fn subcommand(&mut self, arguments: &[&str]) {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_deploy-agent"));
        let output = command.args(arguments).arg("-dir").arg(self.agent_dir()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let last = text.lines().last().unwrap_or_default();
        self.say(format!("  {}: {:?} {last}", arguments.join(" "), output.status.code()));
    }

    /// Waits until the agent is idle.
    pub fn idle(&mut self) -> Outcome {
        match self.ask(r#"{"request":"gc","dry_run":true}"#)? {
            Some(_) => Ok(()),
            None => self.gone(),
        }
    }

    fn gone<T>(&mut self) -> Outcome<T> {
        let status = self.agent.as_mut().and_then(|agent| agent.wait().ok());
        let log = self.agent_log();
        let last = log.lines().last().unwrap_or_default().to_owned();
        fault("the agent ended", format!("{status:?}: {last}"))
    }

    /// Sends a request, and serves scripts until the answer arrives. Returns `None` if the agent
    /// has ended.
    pub fn ask(&mut self, request: &str) -> Outcome<Option<Value>> {
        let dir = self.agent_dir();
        let mut number = self.events.request(&dir, request);
        let deadline = Instant::now() + PATIENCE;
        if let Kill::Soon(after) = self.plan.kill {
            std::thread::sleep(after);
            self.say("  the agent is killed");
            self.kill();
            self.plan.kill = Kill::Never;
        }
        loop {
            match self.events.next(PATIENCE) {
                Some(Event::Script(asking)) => self.script(&asking)?,
                Some(Event::Answer(answered, None))
                    if answered == number && self.runs() && Instant::now() < deadline =>
                {
                    // The request reached the socket of a killed agent, because a child of that
                    // agent held the socket open until its exec. The test repeats the request.
                    std::thread::sleep(PAUSE);
                    number = self.events.request(&dir, request);
                }
                Some(Event::Answer(answered, answer)) if answered == number => return Ok(answer),
                Some(Event::Answer(..)) => {}
                None => return fault("no answer", format!("to {request} within a minute")),
            }
        }
    }

    fn runs(&mut self) -> bool {
        self.agent.as_mut().is_some_and(|agent| matches!(agent.try_wait(), Ok(None)))
    }

    pub fn kill(&mut self) {
        let Some(mut agent) = self.agent.take() else { return };
        agent.kill().unwrap();
        agent.wait().unwrap();
        self.is_certain = false;
    }

    /// Recovers from a kill: lets a running script end, and starts the agent again.
    pub fn recover(&mut self) -> Outcome {
        let deadline = Instant::now() + PATIENCE;
        while self.script_runs() {
            if let Some(Event::Script(asking)) = self.events.next(PAUSE) {
                self.script(&asking)?;
            }
            if Instant::now() > deadline {
                return fault("the test itself", "a script never ends");
            }
        }
        self.plan = Plan::default();
        self.start()
    }

    /// Whether a process has the script in its command line. The process is the script, or a child
    /// that is about to execute the script.
    fn script_runs(&self) -> bool {
        let script = self.bench.path("deploy.sh").display().to_string();
        let processes = std::fs::read_dir("/proc").unwrap();
        processes.filter_map(Result::ok).any(|process| {
            let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&script)
        })
    }

    /// Makes the agent poll the registry, and checks the result.
    pub fn sync(&mut self, plan: Plan) -> Outcome {
        let (is_kill, was_up) = (plan.kill != Kill::Never, self.registry_is_up);
        self.plan = plan;
        self.ran.clear();
        let answer = self.ask(r#"{"request":"sync"}"#)?;
        self.plan = Plan::default();
        let Some(answer) = answer else {
            return if is_kill && self.agent.is_none() { self.recover() } else { self.gone() };
        };
        if self.agent.is_none() {
            // The test killed the agent just after the agent's answer.
            self.recover()?;
            return Ok(());
        }
        let (code, text) = (answer["code"].as_u64(), answer["document"].to_string());
        let before = self.deployed.clone();
        self.learn();
        self.say(format!("  sync: {code:?} {text}"));
        let failed = self.ran.last().is_some_and(|(_, code)| *code != 0);
        if code == Some(0) {
            return self.is_synced(failed, &text);
        }
        if self.deployed != before && failed {
            return fault(
                "state",
                "another configuration counts as deployed after a failed script",
            );
        }
        let is_held = self.may_be_held && answer["document"]["outcome"] == "rolled_back";
        if !was_up || failed || is_held {
            return Ok(());
        }
        fault("sync fails", text)
    }

    /// Checks the agent's claim that the registry's configuration is deployed.
    fn is_synced(&mut self, failed: bool, text: &str) -> Outcome {
        if !self.registry_is_up {
            return fault("sync", format!("answered without the registry: {text}"));
        }
        if failed {
            return fault("sync", format!("succeeds although a script failed: {text}"));
        }
        let state = self.state().map(|(_, labels)| labels);
        if state.as_ref() != Some(&self.offered) {
            let text = format!("deployed is {state:?}, and not {:?}", self.offered);
            return fault("sync", text);
        }
        if let Some((labels, code)) = &self.last_script
            && !crate::is_without("unsettled")
            && (*code != 0 || *labels != self.offered)
        {
            let text = format!(
                "{text}, but the last script was for {} and ended with {code}",
                labels.join(" ")
            );
            return fault("up to date though unsettled", text);
        }
        (self.is_certain, self.may_be_held) = (true, false);
        Ok(())
    }

    /// Whether the last script failed for a configuration that is not deployed, and did not belong
    /// to a rollback.
    fn failed_for_new(&self) -> bool {
        let json = std::fs::read(self.agent_dir().join("unsettled.json")).unwrap_or_default();
        let left: serde_json::Value = serde_json::from_slice(&json).unwrap_or_default();
        let id = left["id"].as_str().filter(|id| Some(*id) != self.deployed.as_deref());
        id.is_some() && left["rollback"] != true
    }

    /// Makes the agent roll back.
    pub fn rollback(&mut self, plan: Plan) -> Outcome {
        let is_kill = plan.kill != Kill::Never;
        let path = self.agent_dir().join("previous.json");
        let previous = std::fs::read(path).ok();
        let previous = previous.and_then(|json| deploy_store::Configuration::from_json(&json).ok());
        let target =
            previous.map(|it| it.id().to_string()).filter(|id| Some(id) != self.deployed.as_ref());
        // If a script failed for a new configuration, a rollback returns to the deployed
        // configuration.
        let target = if self.failed_for_new() { self.deployed.clone() } else { target };
        let was_kept = target.as_ref().is_some_and(|id| self.root(id).is_dir());
        self.plan = plan;
        self.ran.clear();
        self.may_be_held = true;
        let answer = self.ask(r#"{"request":"rollback"}"#)?;
        self.plan = Plan::default();
        let Some(answer) = answer else {
            return if is_kill && self.agent.is_none() { self.recover() } else { self.gone() };
        };
        if self.agent.is_none() {
            return self.recover();
        }
        self.learn();
        let (code, error) = (answer["code"].as_u64(), answer["error"].to_string());
        self.say(format!("  rollback: {code:?} {error}"));
        let failed = self.ran.last().is_some_and(|(_, code)| *code != 0);
        // After a failed rollback, the agent runs the script for the deployed configuration. This
        // script may have run before the test reads the agent's answer.
        let any_failed = self.ran.iter().any(|(_, code)| *code != 0);
        // The agent polls the registry after the rollback.
        let back = self.deployed.clone();
        self.idle()?;
        self.learn();
        if was_kept && !self.root(target.as_ref().unwrap()).is_dir() && self.deployed != target {
            // If the next poll has deployed a new configuration, the root may have been removed.
            if code != Some(0) && !failed {
                return fault("kept root gone", format!("after a rollback that failed: {error}"));
            }
        }
        match code {
            Some(0) if self.is_certain && failed => {
                fault("rollback", "succeeds although a script failed")
            }
            Some(0) if self.is_certain && back != target => {
                fault("rollback", format!("returns to {back:?}, wanted {target:?}"))
            }
            Some(0) => Ok(()),
            _ if any_failed || target.is_none() => Ok(()),
            _ if !was_kept && !self.registry_is_up => Ok(()),
            _ => fault("rollback fails", error),
        }
    }
}
