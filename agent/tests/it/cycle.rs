//! Tests the cycle against a real ssh server that serves `configs/` and `files/` over sftp.

mod full_disks;

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::source::Source;
use deploy_agent::agent::Agent;
use deploy_agent::control::exit_codes;
use deploy_agent::cycle::{self, Outcome};
use deploy_agent::error::Error;
use deploy_agent::fetch::registry_session::Session;
use deploy_agent::fetch::throttle::Throttle;
use deploy_agent::flags::health_flags::{Check, OnFailure};
use deploy_agent::fleet::offers::Offers;
use deploy_agent::fleet::reporter::{About, Reports};
use deploy_agent::health::gate::Gate;
use deploy_agent::health::verdict::Goal;
use deploy_agent::records::agent_report::{Report, Reporter};
use deploy_agent::records::report_file::ReportFile;
use deploy_agent::records::unproven::Unproven;
use deploy_agent::sandbox::{Confine, Confinement};
use deploy_agent::script::Script;
use deploy_agent::stop::Stop;
use deploy_store::{Configuration, Digest, Limits, LinkMode, Options, Store};
use rustix::fs::inotify;

/// An agent, its directory, and a server in place of the registry.
struct Bench {
    source: Source,
    session: Session,
    agent: Agent,
}

impl Bench {
    /// Makes a bench. Returns `None` if no ssh server can run.
    fn new() -> Option<Self> {
        let source = Source::start()?;
        let home = source.path("agent");
        Some(Self::with(source, home))
    }

    fn with(source: Source, home: PathBuf) -> Self {
        let session = Session::new(source.connect()).tracking("project1".parse().unwrap());
        fs::create_dir(&home).unwrap();
        let agent = Agent {
            store: open(&home),
            confinement: Confinement::to(&home, Confine::Auto).unwrap(),
            state: home.join("state.json"),
            script: None,
            report: Reporter::new(&home),
            current: None,
            keep_roots: 2,
            count_taken_over: false,
            keep_blobs: false,
            min_free: 0,
            spares: None,
            throttle: Throttle::new(0),
            health: None,
            reports: Reports::new(About::default(), ReportFile::default()),
            offers: Offers::default(),
            superseded: tokio::sync::watch::Sender::new(()),
            quiet: false,
            stop: Stop::new().1,
            dir: home,
        };
        Self { source, session, agent }
    }

    async fn cycle(&mut self) -> Result<Outcome, Error> {
        cycle::run(&self.agent, &mut self.session, None, &mut None).await
    }

    async fn switches(&mut self, configuration: &Configuration) {
        assert_eq!(self.cycle().await.unwrap(), Outcome::Switched);
        assert_eq!(fs::read(&self.agent.state).unwrap(), configuration.to_json());
    }

    fn root(&self, configuration: &Configuration) -> PathBuf {
        self.agent.store.root_path(configuration.id())
    }

    /// Gives the agent a script, and returns the script's path. In each run, the script appends a
    /// line to a file. The script exits with the code from [`set_code`].
    fn with_script(&mut self) -> PathBuf {
        let program = self.source.path("deploy.sh");
        let body = "#!/bin/sh\necho \"$OLDID $NEWID $LAYER_0_VERSION\" >>$0.runs\n\
                    test -d \"$NEWROOT\" || exit 9\nexit $(cat $0.code 2>/dev/null || echo 0)\n";
        crate::source::write_executable(&program, body);
        self.agent.script = Some(Script {
            program: program.to_str().unwrap().to_owned(),
            arguments: Vec::new(),
            env_file: None,
            timeout: None,
            grace: Duration::from_secs(60),
            kill_after: Duration::from_secs(10),
        });
        program
    }
}

fn open(dir: &Path) -> Arc<Store> {
    let (limits, link) = (Limits::STANDARD, LinkMode::Auto);
    let options = Options { limits, link, max_blob: 1 << 30, keep_blobs: false };
    Arc::new(Store::open(dir, options).unwrap())
}

fn runs(program: &Path) -> Vec<String> {
    let runs = fs::read_to_string(format!("{}.runs", program.display())).unwrap_or_default();
    runs.lines().map(str::to_owned).collect()
}

fn set_code(program: &Path, code: u8) {
    fs::write(format!("{}.code", program.display()), code.to_string()).unwrap();
}

#[tokio::test]
async fn agent_deploys_then_does_nothing_then_fetches_only_new_layers() {
    let Some(mut bench) = Bench::new() else { return };
    let code = bench.source.blob(&[("bin/run", "run"), ("etc/conf", "from code")]);
    let v1 = bench.source.blob(&[("etc/conf", "one")]);
    let v2 = bench.source.blob(&[("etc/conf", "two")]);
    let first = bench.source.configure(&[("code", "v1", code), ("config", "v1", v1)]);
    bench.switches(&first).await;
    let root = bench.root(&first);
    assert_eq!(fs::read_to_string(root.join("etc/conf")).unwrap(), "one");
    assert!(root.with_extension("ok").exists());
    assert_eq!(bench.cycle().await.unwrap(), Outcome::UpToDate);

    bench.source.remove_blob(code);
    bench.agent.store.blobs().remove(code).unwrap();
    let second = bench.source.configure(&[("code", "v1", code), ("config", "v2", v2)]);
    bench.switches(&second).await;
    let root = bench.root(&second);
    assert_eq!(fs::read_to_string(root.join("etc/conf")).unwrap(), "two");
    assert_eq!(fs::read_to_string(root.join("bin/run")).unwrap(), "run");
    assert!(bench.root(&first).exists());

    let third = bench.source.configure(&[("code", "v1", code)]);
    bench.switches(&third).await;
    assert!(!bench.root(&first).exists(), "more roots are kept than asked for");
    assert!(bench.root(&second).exists());
}

/// Counts how often any program opens files in some directories.
struct Opens(OwnedFd);

impl Opens {
    fn of(dirs: &[PathBuf]) -> Self {
        let watch = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
        for dir in dirs {
            inotify::add_watch(&watch, dir, inotify::WatchFlags::OPEN).unwrap();
        }
        Self(watch)
    }

    /// Number of times that files with `name` in their names were opened since the last call.
    fn count(&self, name: &str) -> usize {
        let mut buffer = [std::mem::MaybeUninit::uninit(); 1 << 14];
        let mut events = inotify::Reader::new(&self.0, &mut buffer);
        let mut count = 0;
        while let Ok(event) = events.next() {
            let file = event.file_name().and_then(|file| file.to_str().ok());
            count += usize::from(file.is_some_and(|file| file.contains(name)));
        }
        count
    }
}

#[tokio::test]
async fn bump_opens_only_the_new_archive() {
    let Some(mut bench) = Bench::new() else { return };
    let code = bench.source.blob(&[("bin/run", "run")]);
    let v1 = bench.source.blob(&[("etc/conf", "one")]);
    let v2 = bench.source.blob(&[("etc/conf", "two")]);
    let dirs = ["agent/cache", "agent/partial", "files"].map(|dir| bench.source.path(dir));
    let opens = Opens::of(&dirs);
    let first = bench.source.configure(&[("code", "v1", code), ("config", "v1", v1)]);
    bench.switches(&first).await;
    assert!(opens.count(&code.to_string()) > 1, "the first deploy reads the archive");

    let second = bench.source.configure(&[("code", "v1", code), ("config", "v2", v2)]);
    let opens = Opens::of(&dirs);
    bench.switches(&second).await;
    assert_eq!(opens.count(&code.to_string()), 0);
    let opens = Opens::of(&dirs);
    let third = bench.source.configure(&[("code", "v1", code), ("config", "v3", v1)]);
    bench.switches(&third).await;
    assert_eq!(
        opens.count(&v1.to_string()),
        0,
        "the deploy of an earlier tree uses the existing root"
    );
}

#[tokio::test]
async fn same_tree_under_new_labels_updates_state_and_runs_script() {
    let Some(mut bench) = Bench::new() else { return };
    let program = bench.with_script();
    let code = bench.source.blob(&[("a", "a")]);
    let first = bench.source.configure(&[("code", "v1", code)]);
    bench.switches(&first).await;
    let second = bench.source.configure(&[("code", "v2", code)]);
    bench.source.remove_blob(code);
    bench.switches(&second).await;
    let id = first.id();
    // A script may remove the old root. In this deploy, the old root stays in use, so the script
    // does not get that root as the old root.
    assert_eq!(runs(&program), [format!(" {id} v1"), format!(" {id} v2")]);
    assert_eq!(bench.cycle().await.unwrap(), Outcome::UpToDate);
}

#[tokio::test]
async fn failed_script_keeps_old_state_and_link() {
    let Some(mut bench) = Bench::new() else { return };
    let program = bench.with_script();
    let link = bench.source.path("current");
    bench.agent.current = Some(link.clone());
    set_code(&program, 3);
    let one = bench.source.blob(&[("a", "one")]);
    let two = bench.source.blob(&[("a", "two")]);
    let first = bench.source.configure(&[("code", "v1", one)]);
    assert!(matches!(bench.cycle().await, Err(Error::Script { .. })));
    assert!(!bench.agent.state.exists() && fs::symlink_metadata(&link).is_err());
    set_code(&program, 0);
    bench.switches(&first).await;
    assert_eq!(fs::read_link(&link).unwrap(), bench.root(&first));

    set_code(&program, 3);
    let second = bench.source.configure(&[("code", "v2", two)]);
    let Err(Error::Script { target, cause, .. }) = bench.cycle().await else {
        panic!("no failure")
    };
    assert!(cause.to_string().contains("exit status 3"), "{cause}");
    assert_eq!(*target, second);
    assert_eq!(fs::read_link(&link).unwrap(), bench.root(&first));
    assert_eq!(fs::read(&bench.agent.state).unwrap(), first.to_json());

    // The script does not run again for the same configuration, but runs for a newer configuration.
    let held = cycle::run(&bench.agent, &mut bench.session, Some(&target), &mut None).await;
    assert_eq!(held.unwrap(), Outcome::Held);
    set_code(&program, 0);
    let third = bench.source.configure(&[("code", "v3", two)]);
    let lifted = cycle::run(&bench.agent, &mut bench.session, Some(&target), &mut None).await;
    assert_eq!(lifted.unwrap(), Outcome::Switched);
    assert_eq!(fs::read_link(&link).unwrap(), bench.root(&third));
    assert_eq!(runs(&program).len(), 4);
}

#[tokio::test]
async fn missing_configuration_or_blob_is_reported_and_changes_nothing() {
    let Some(mut bench) = Bench::new() else { return };
    let err = bench.cycle().await.unwrap_err();
    assert!(err.to_string().starts_with("no configuration \"project1\" in the registry"), "{err}");
    assert_eq!(exit_codes::of(&err), 5);
    let missing = Digest::of(b"nobody has this");
    bench.source.configure(&[("code", "v1", missing)]);
    let err = bench.cycle().await.unwrap_err();
    assert!(err.to_string().contains(&missing.to_string()), "{err}");
    fs::write(bench.source.path("configs/project1.json"), "{").unwrap();
    assert!(matches!(bench.cycle().await, Err(Error::BadConfiguration { .. })));
    let code = bench.source.blob(&[("a", "a")]);
    let good = bench.source.configure(&[("code", "v1", code)]);
    bench.switches(&good).await;
}

#[tokio::test]
async fn blobs_with_wrong_bytes_are_never_deployed() {
    let Some(mut bench) = Bench::new() else { return };
    let code = bench.source.blob(&[("a", "a")]);
    let good = bench.source.configure(&[("code", "v1", code)]);
    let file = bench.source.path(&format!("files/{code}"));
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, "something else").unwrap();
    let err = bench.cycle().await.unwrap_err();
    assert!(matches!(err, Error::WrongBytes { .. }), "{err}");
    assert_eq!(exit_codes::of(&err), 8);
    fs::write(&file, bytes).unwrap();
    bench.switches(&good).await;
}

#[tokio::test]
async fn interrupted_download_resumes() {
    let Some(mut bench) = Bench::new() else { return };
    let noise: String =
        (0..200_000_u32).map(|n| Digest::of(&n.to_le_bytes()).to_string()).collect();
    let code = bench.source.blob(&[("noise", &noise)]);
    let good = bench.source.configure(&[("code", "v1", code)]);
    let whole = fs::read(bench.source.path(&format!("files/{code}"))).unwrap();
    let half = whole.len() / 2;
    let mut staging = bench.agent.store.blobs().resume(code).unwrap();
    staging.write_at(0, &whole[..half]).unwrap();
    drop(staging);
    let client = bench.session.client().await.unwrap();
    let layers = good.layers().to_vec();
    let store = &bench.agent.store;
    let fetched =
        deploy_agent::fetch::download(&client, store, layers, &bench.agent.throttle).await.unwrap();
    assert_eq!(fetched.bytes, (whole.len() - half) as u64);
    bench.switches(&good).await;

    // The partial file of an earlier attempt may have wrong bytes. In this case the agent downloads
    // the whole blob again.
    let other = bench.source.blob(&[("other", &noise[1..])]);
    let other_good = bench.source.configure(&[("code", "v2", other)]);
    bench.agent.store.blobs().resume(other).unwrap().write_at(0, b"junk").unwrap();
    bench.switches(&other_good).await;
}

#[tokio::test]
async fn damaged_state_file_and_cache_are_repaired() {
    let Some(mut bench) = Bench::new() else { return };
    let one = bench.source.blob(&[("a", "one")]);
    let first = bench.source.configure(&[("code", "v1", one)]);
    bench.switches(&first).await;
    fs::write(&bench.agent.state, "{").unwrap();
    bench.switches(&first).await;
    assert_eq!(fs::read_to_string(bench.source.path("agent/state.json.damaged")).unwrap(), "{");

    let two = bench.source.blob(&[("a", "two")]);
    let second = bench.source.configure(&[("code", "v2", two)]);
    fs::write(bench.source.path(&format!("agent/cache/{two}")), "junk").unwrap();
    bench.switches(&second).await;
    assert_eq!(fs::read_to_string(bench.root(&second).join("a")).unwrap(), "two");
}

#[tokio::test]
async fn lost_connection_is_reopened_silently() {
    let Some(mut bench) = Bench::new() else { return };
    let code = bench.source.blob(&[("a", "a")]);
    let good = bench.source.configure(&[("code", "v1", code)]);
    bench.switches(&good).await;
    bench.source.drop_connections();
    assert_eq!(bench.cycle().await.unwrap(), Outcome::UpToDate);
}

#[tokio::test]
async fn newer_configuration_interrupts_the_health_gate() {
    let Some(mut bench) = Bench::new() else { return };
    let gate = |check: &str| Gate {
        checks: vec![Check::parse(check).unwrap()],
        goal: Goal { successes: 1, min: Duration::ZERO, deadline: Duration::from_secs(600) },
        on_failure: OnFailure::Rollback,
    };
    bench.agent.health = Some(gate("cmd:false"));
    let one = bench.source.blob(&[("a", "one")]);
    bench.source.configure(&[("code", "v1", one)]);
    let (announce, home) = (bench.agent.superseded.clone(), bench.agent.dir.clone());
    let announcing = tokio::spawn(async move {
        while Report::read(&home).health.is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        announce.send_replace(());
    });
    assert_eq!(bench.cycle().await.unwrap(), Outcome::Undecided);
    announcing.await.unwrap();
    assert!(Unproven::read(&bench.agent.dir).is_some_and(|record| !record.is_rejected()));
    // The next poll finds the newer configuration.
    bench.agent.health = Some(gate("cmd:true"));
    let two = bench.source.blob(&[("a", "two")]);
    let second = bench.source.configure(&[("code", "v2", two)]);
    bench.switches(&second).await;
    assert_eq!(Unproven::read(&bench.agent.dir), None);
    assert_eq!(bench.cycle().await.unwrap(), Outcome::UpToDate);
}
