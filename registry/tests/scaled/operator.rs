//! Plays an operator who uploads, binds, changes configurations, pins, deletes and collects, each
//! time at a random registry. If an answer is lost, the operator asks again, perhaps another
//! registry, until it is clear whether the command was carried out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use deploy_store::Digest;
use deploy_wire::exit;
use tokio::time::sleep;

use crate::access::{Access, Answer, At, Download, patience};
use crate::blobs::{self, archive};
use crate::dice::Dice;
use crate::ledger::{Ledger, Outcome, Version};
use crate::{CONFIGURATIONS, GRACE, LIMIT};

/// The end of an insistent request.
#[derive(Debug)]
pub enum Settled {
    Done(String),
    /// The command was refused. `may_be_done` is set if an earlier attempt may have succeeded.
    Refused {
        code: u8,
        why: String,
        may_be_done: bool,
    },
}

/// An operator with a component of its own.
#[derive(Debug)]
pub struct Operator {
    pub component: String,
    pub access: Access,
    pub ledger: Arc<Ledger>,
    pub dice: Dice,
    pub next: usize,
    /// Whether an attempt of the last command had an unknown result. A frozen registry may still
    /// carry this attempt out.
    pub is_doubtful: bool,
}

/// Asks until the answer is clear: the command was carried out, or it conflicts with the state, or
/// names something that does not exist. Also returns whether the result of an attempt is unknown.
pub async fn insist(
    access: &Access,
    ledger: &Ledger,
    dice: &mut Dice,
    line: &str,
) -> (Settled, bool) {
    let (began, mut may_be_done) = (Instant::now(), false);
    loop {
        let at = At::random(dice);
        let answer = access.ask(at, line, patience(dice)).await;
        ledger.note(format!("{line} at {at:?}: {answer:?}"));
        match answer {
            Answer::Done(said) => return (Settled::Done(said), may_be_done),
            Answer::Refused(code @ (exit::CONFLICT | exit::NOT_FOUND | exit::USAGE), why) => {
                return (Settled::Refused { code, why, may_be_done }, may_be_done);
            }
            Answer::Refused(..) => {}
            Answer::Unknown => may_be_done = true,
        }
        assert!(began.elapsed() < LIMIT, "{line}: not done after {LIMIT:?}");
        sleep(Duration::from_millis(50) + dice.time(200)).await;
    }
}

impl Operator {
    pub async fn run(mut self, stop: Arc<AtomicBool>) {
        while !stop.load(Ordering::SeqCst) {
            match self.dice.throw(14) {
                0..=4 => self.release().await,
                5 | 6 => drop(self.add().await),
                7 => self.pin().await,
                8 | 9 => self.delete().await,
                10 => self.collect().await,
                _ => self.read().await,
            }
            sleep(self.dice.time(120)).await;
        }
    }

    pub async fn insist(&mut self, line: &str) -> Settled {
        let (settled, is_doubtful) = insist(&self.access, &self.ledger, &mut self.dice, line).await;
        self.is_doubtful = is_doubtful;
        settled
    }

    /// Uploads an archive, and binds it to a new version. Returns the version's name.
    pub async fn add(&mut self) -> String {
        let text = blobs::some(&mut self.dice);
        let (bytes, name) = (archive(text), format!("v-{}-{}", self.component, self.next));
        let digest = Digest::of(&bytes);
        self.next += 1;
        self.ledger.open().texts.insert(name.clone(), text);
        let line = format!("addver -name {} -version {name} -hash {digest}", self.component);
        loop {
            let uploaded = self.upload(text, &bytes).await;
            match self.insist(&line).await {
                Settled::Done(_) => break,
                Settled::Refused { code: exit::NOT_FOUND, why, .. } => {
                    let age = uploaded.elapsed();
                    assert!(age >= GRACE, "{line}: an upload was lost after {age:?}: {why}");
                }
                Settled::Refused { why, may_be_done, .. } => {
                    assert!(may_be_done, "{line}: {why}, but no attempt had succeeded");
                    assert_eq!(self.digest_of(&name).await, digest.to_string(), "{line}");
                    self.ledger.count("binds after a lost answer");
                    break;
                }
            }
        }
        let version = Version { name: name.clone(), digest, pinned: false, deleting: false };
        let mut ledger = self.ledger.open();
        ledger.versions.entry(self.component.clone()).or_default().push(version);
        *ledger.done.entry("binds").or_default() += 1;
        name
    }

    /// Uploads an archive. Returns when the upload that was acknowledged had begun.
    async fn upload(&mut self, text: usize, bytes: &[u8]) -> Instant {
        let first = Instant::now();
        loop {
            let (at, began) = (At::random(&mut self.dice), Instant::now());
            let uploaded = self.access.upload(at, bytes, patience(&mut self.dice)).await;
            self.ledger.note(format!("upload of {} at {at:?}: {uploaded:?}", blobs::name(text)));
            if uploaded.is_ok() {
                self.ledger.count("uploads");
                return began;
            }
            assert!(first.elapsed() < LIMIT, "upload: not done after {LIMIT:?}");
            sleep(Duration::from_millis(50) + self.dice.time(200)).await;
        }
    }

    /// The digest of a version that the registries have.
    async fn digest_of(&mut self, name: &str) -> String {
        let line = format!("showcomp -name {} -json", self.component);
        let Settled::Done(said) = self.insist(&line).await else { panic!("{line} is refused") };
        let shown: serde_json::Value = serde_json::from_str(&said).unwrap();
        let versions = shown["versions"].as_array().unwrap();
        let version = versions.iter().find(|version| version["version"] == name);
        version.unwrap_or_else(|| panic!("{name} is missing in {said}"))["hash"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// Puts a new version into a configuration.
    async fn release(&mut self) {
        let version = self.add().await;
        let name = CONFIGURATIONS[self.dice.throw(CONFIGURATIONS.len())];
        self.ledger.open().set(name, &version, Outcome::Unknown);
        let change = format!("changeconf -name {name} -component {}", self.component);
        loop {
            let hash = current(&self.access, &self.ledger, &mut self.dice, name).await;
            let line = format!("{change} -version {version} -if-hash {hash}");
            match self.insist(&line).await {
                Settled::Done(_) => break,
                // Another operator has changed the configuration, or an earlier attempt has made this
                // change.
                Settled::Refused { code: exit::CONFLICT, why, may_be_done } => {
                    if is_in_history(&self.access, &self.ledger, &mut self.dice, name, &version)
                        .await
                    {
                        assert!(may_be_done, "{line}: {why}, but no attempt had succeeded");
                        self.ledger.count("changes after a lost answer");
                        break;
                    }
                }
                Settled::Refused { code, why, .. } => panic!("{line}: {code} {why}"),
            }
        }
        let mut ledger = self.ledger.open();
        ledger.set(name, &version, Outcome::Done);
        *ledger.done.entry("changes").or_default() += 1;
    }

    fn some_version(&mut self) -> Option<Version> {
        let ledger = self.ledger.open();
        let versions = ledger.versions.get(&self.component)?;
        let left: Vec<&Version> = versions.iter().rev().take(6).filter(|it| !it.deleting).collect();
        (!left.is_empty()).then(|| left[self.dice.throw(left.len())].clone())
    }

    fn mark(&self, name: &str, mark: impl FnOnce(&mut Version)) {
        self.ledger.open().version(&self.component, name).map(mark).expect("it is in the ledger");
    }

    async fn pin(&mut self) {
        let Some(version) = self.some_version() else { return };
        let of = format!("-name {} -version {}", self.component, version.name);
        if version.pinned {
            self.mark(&version.name, |version| version.pinned = false);
            // The version may have been unpinned by an attempt whose answer was lost.
            self.insist(&format!("unpin {of}")).await;
            // A frozen registry may unpin the version later.
            self.mark(&version.name, |version| version.deleting = self.is_doubtful);
            return;
        }
        match self.insist(&format!("pin {of} -m why")).await {
            Settled::Done(_) => self.mark(&version.name, |version| version.pinned = true),
            Settled::Refused { why, .. } => self.is_gone(&version.name, &why),
        }
        self.ledger.count("pins");
    }

    /// Checks that no required version is gone.
    fn is_gone(&self, name: &str, why: &str) {
        let is_required = self.ledger.open().is_required(&self.component, name);
        assert!(!is_required, "{} {name} is lost: {why}", self.component);
    }

    async fn delete(&mut self) {
        let Some(version) = self.some_version() else { return };
        let line = format!("delver -name {} -version {}", self.component, version.name);
        self.mark(&version.name, |version| version.deleting = true);
        match self.insist(&line).await {
            Settled::Done(_) => {
                assert!(!version.pinned, "{version:?} is pinned, but was deleted");
                self.ledger.count("deletions");
            }
            // A frozen registry may delete the version later.
            Settled::Refused { code: exit::CONFLICT, may_be_done, .. } => {
                self.mark(&version.name, |version| version.deleting = may_be_done);
            }
            // The version was deleted by an attempt whose answer was lost, or by gc.
            Settled::Refused { why, may_be_done, .. } => {
                if !may_be_done {
                    self.mark(&version.name, |version| version.deleting = false);
                    self.is_gone(&version.name, &why);
                    self.mark(&version.name, |version| version.deleting = true);
                }
            }
        }
    }

    async fn collect(&mut self) {
        // gc may end early because the bucket does not answer. It may be repeated.
        let at = At::random(&mut self.dice);
        let answer = self.access.ask(at, "gc -q", patience(&mut self.dice)).await;
        self.ledger.note(format!("gc at {at:?}: {answer:?}"));
        self.ledger.count("gc");
    }

    /// Downloads one version once.
    async fn read(&mut self) {
        let Some(version) = self.some_version() else { return };
        let at = At::random(&mut self.dice);
        match self.access.download(at, version.digest).await {
            Download::Bytes(bytes) => assert_eq!(Digest::of(&bytes), version.digest, "{version:?}"),
            Download::Missing(why) => self.is_gone(&version.name, &why),
            Download::Failed(_) => {}
        }
        self.ledger.count("downloads");
    }
}

/// The hash of a configuration's current state.
pub async fn current(access: &Access, ledger: &Ledger, dice: &mut Dice, name: &str) -> String {
    let line = format!("showconf -name {name} -json");
    let (Settled::Done(said), _) = insist(access, ledger, dice, &line).await else {
        panic!("{line} is refused");
    };
    let shown: serde_json::Value = serde_json::from_str(&said).unwrap();
    shown["Hash"].as_str().unwrap().to_owned()
}

/// Whether the history of a configuration has a change to this version.
pub async fn is_in_history(
    access: &Access,
    ledger: &Ledger,
    dice: &mut Dice,
    name: &str,
    version: &str,
) -> bool {
    let line = format!("history -name {name} -limit 1000 -json");
    let (Settled::Done(said), _) = insist(access, ledger, dice, &line).await else {
        panic!("{line} is refused");
    };
    said.split([' ', ':', '"']).any(|word| word == version)
}
