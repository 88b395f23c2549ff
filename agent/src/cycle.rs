//! One cycle, top to bottom: read the state, fetch the configuration, stop here if
//! nothing has changed, download what is missing, extract, build the root, run the
//! script, replace the state, sweep. Nothing else decides the order.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use deploy_store::{
    Configuration, ConfigurationName, Digest, Drifted, Extracted, Layer, LinkMode, Placed, Root,
    Store, listed,
};

use crate::confine::Confinement;
use crate::deploy::Before;
use crate::error::{Error, Result};
use crate::fetch::{self, Fetched, name_of};
use crate::hold::Hold;
use crate::report::{Report, Reporter};
use crate::script::{self, Script};
use crate::session::Session;
use crate::spare::{self, Spares};
use crate::stop::Stop;
use crate::throttle::Throttle;
use crate::unsettled::{self, Unsettled};
use crate::{blocking, current, deploy, rollback, room, running, state, sweep, unpack, variables};

/// Times that a damaged cache is mended before a cycle gives up, and once for each layer: one is
/// fetched at a time.
const MEND_ATTEMPTS: usize = 3;

/// What an agent works with.
#[derive(Debug)]
pub struct Agent {
    /// Configuration to track.
    pub name: ConfigurationName,
    /// The agent's directory, as it was given.
    pub dir: PathBuf,
    /// The store in it.
    pub store: Arc<Store>,
    /// What confines the threads that read archives and build roots.
    pub confinement: Confinement,
    /// The state file.
    pub state: PathBuf,
    /// What to run, if anything.
    pub script: Option<Script>,
    /// What it leaves for `status`.
    pub report: Reporter,
    /// Symlink to the current root.
    pub current: Option<PathBuf>,
    /// Roots to keep, at least 1.
    pub keep_roots: usize,
    /// Whether roots of another program count among them.
    pub count_taken_over: bool,
    /// Whether blobs of extracted layers stay in the cache.
    pub keep_blobs: bool,
    /// Bytes to keep free; 0 for none.
    pub min_free: u64,
    /// Makes spare roots, if any are to be made.
    pub spares: Option<Spares>,
    /// Holds downloads back.
    pub throttle: Throttle,
    /// Tells when to end.
    pub stop: Stop,
}

/// How a cycle ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// What the registry has is deployed.
    UpToDate,
    /// There is something new, whose script failed and is not to be run again yet.
    Held,
    /// What the registry has was rolled back from.
    RolledBack,
    /// Something new was deployed.
    Switched,
}

/// What is new in a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing that a script could tell.
    None,
    /// The same tree under other names or versions.
    Labels,
    /// Another tree, or the first.
    Tree,
}

impl Change {
    /// What `new` changes in what is deployed.
    pub fn between(old: Option<&Configuration>, new: &Configuration) -> Self {
        fn labels(layer: &Layer) -> (&str, &str) {
            (layer.component.as_str(), layer.version.as_str())
        }
        match old {
            Some(old) if old.id() == new.id() => {
                let same = old.layers().iter().map(labels).eq(new.layers().iter().map(labels));
                if same && old.name() == new.name() { Self::None } else { Self::Labels }
            }
            _ => Self::Tree,
        }
    }
}

/// Runs one cycle. `waiting` is a configuration whose script is not to be run again yet;
/// `offered` is told the id of what the registry has.
pub async fn run(
    agent: &Agent,
    session: &mut Session,
    waiting: Option<&Configuration>,
    offered: &mut Option<Digest>,
) -> Result<Outcome> {
    let old = state::read(&agent.state)?;
    let old_id = old.as_ref().map(Configuration::id);
    let hold = Hold::read(&agent.dir)?;
    if let Some(hold) = hold.as_ref().filter(|hold| hold.is_unfinished(old_id)) {
        // The registry has no say in it, and may be out of reach.
        rollback::resume(agent, session, hold).await?;
        return Ok(Outcome::RolledBack);
    }
    let new = session.configuration(&agent.name).await?;
    *offered = Some(new.id());
    let waits = |target: &Configuration| {
        waiting.is_some_and(|held| Change::between(Some(held), target) == Change::None)
    };
    if hold.as_ref().is_some_and(|hold| hold.holds(old_id, new.id())) {
        if let Some(old) = &old {
            if is_undone(agent, old) {
                if waits(old) {
                    return Ok(Outcome::Held);
                }
                restore(agent, session, old).await?;
            }
            deploy::mend_link(agent, old)?;
            spare::prepare(agent, old);
        }
        return Ok(Outcome::RolledBack);
    }
    if hold.is_some() {
        let id = new.id();
        tracing::info!(event = "released", %id, "the registry has moved on to {id}: nothing is held any more");
        Hold::lift(&agent.dir)?;
    }
    let change = Change::between(old.as_ref(), &new);
    let undone = change == Change::None && is_undone(agent, &new);
    if change == Change::None && !undone {
        deploy::mend_link(agent, &new)?;
        spare::prepare(agent, &new);
        return Ok(Outcome::UpToDate);
    }
    if waits(&new) {
        return Ok(Outcome::Held);
    }
    if undone {
        restore(agent, session, &new).await?;
        spare::prepare(agent, &new);
        return Ok(Outcome::Switched);
    }
    announce(change, &new);
    foresee(agent, &new)?;
    let root = prepare(agent, session, &new, Changed::Refused).await?;
    deploy::run(agent, old.as_ref(), &new, &root, Before::Remembered).await?;
    sweep::roots(agent, old.as_ref(), &new).await;
    room::tidy(agent).await;
    spare::prepare(agent, &new);
    Ok(Outcome::Switched)
}

/// Whether what is deployed is to be deployed again: its root was removed by hand, or the agent's
/// directory was, or a script was started since that did not succeed.
fn is_undone(agent: &Agent, deployed: &Configuration) -> bool {
    unsettled::read(&agent.dir).is_some() || is_gone(agent, deployed)
}

fn is_gone(agent: &Agent, deployed: &Configuration) -> bool {
    matches!(
        agent.store.root_path(deployed.id()).symlink_metadata(),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound
    )
}

/// Builds the root of what is deployed again, where it is gone, and has the script know.
async fn restore(agent: &Agent, session: &mut Session, deployed: &Configuration) -> Result<()> {
    let id = deployed.id();
    running::ended(agent).await;
    let left = unsettled::read(&agent.dir);
    if is_gone(agent, deployed) {
        tracing::warn!(
            event = "root_gone",
            %id,
            "root {id}, which is deployed, is gone: it is built again, and the script runs"
        );
    } else if let Some(Unsettled { id: failed, failed: Some(at), .. }) = &left {
        tracing::warn!(
            event = "script_again",
            %id,
            failed,
            "the script failed {at:.0} for {failed}: it runs again for {id}, which is deployed"
        );
    } else {
        tracing::warn!(
            event = "script_again",
            %id,
            "a script was started, and its end was not seen: it runs again for {id}, which is deployed"
        );
    }
    if left.is_none() && agent.script.is_some() {
        // The root will be there again before the script has run.
        unsettled::begin(&agent.dir, None, id, None, false)?;
    }
    foresee(agent, deployed)?;
    let root = prepare(agent, session, deployed, Changed::Refused).await?;
    deploy::run(agent, Some(deployed), deployed, &root, Before::Remembered).await
}

fn announce(change: Change, new: &Configuration) {
    let mut layers = String::new();
    if tracing::enabled!(tracing::Level::DEBUG) {
        for (n, layer) in new.layers().iter().enumerate() {
            let (component, version) = (layer.component.as_str(), layer.version.as_str());
            let n = n + 1;
            // Writing to a string cannot fail.
            let _ = write!(layers, "\n\tcomponent {n}: {component:?}, version: {version:?}");
        }
    }
    tracing::info!(
        event = "update_available",
        id = %new.id(),
        layers = new.layers().len(),
        labels_only = change == Change::Labels,
        "configuration update available: {}{layers}", new.id()
    );
    if change == Change::Labels {
        tracing::info!(
            event = "same_tree",
            id = %new.id(),
            "the tree is the one deployed, under other names or versions: the state file is updated and the script runs"
        );
    }
}

/// Tells what would go wrong later, before any work is done.
pub(crate) fn foresee(agent: &Agent, new: &Configuration) -> Result<()> {
    state::check(&agent.state)?;
    if let Some(link) = &agent.current {
        current::target(link)?;
    }
    let Some(script) = &agent.script else { return Ok(()) };
    script::check_environment(new).map_err(Error::Untellable)?;
    if let Err(err) = script.find() {
        // It may be put right while the layers come.
        tracing::warn!(event = "script_missing", id = %new.id(), "script {err}");
    }
    if let Err(err) = variables::read(script.env_file.as_deref()) {
        tracing::warn!(event = "script_missing", id = %new.id(), "script {err}");
    }
    Ok(())
}

/// What to do with a kept root that somebody changed and that cannot be built again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Changed {
    /// Fail, and try again later.
    Refused,
    /// Use it as it is: it is better than none.
    Accepted,
}

/// Downloads, extracts and builds until the root is there. A cached blob or object that
/// turns out to be damaged is fetched again. One that is there from an earlier deploy is
/// built again if somebody changed it, and stays until that is done.
pub(crate) async fn prepare(
    agent: &Agent,
    session: &mut Session,
    new: &Configuration,
    changed: Changed,
) -> Result<Root> {
    // It may use the very root, and two at once would undo each other's work.
    running::ended(agent).await;
    // What is in use is its service's to write to.
    let in_use = is_in_use(agent, new.id())?;
    let drifted = if in_use { None } else { drift(agent, new).await? };
    let Some(drifted) = drifted else {
        return make(agent, session, new, Way::Reuse { in_use }).await;
    };
    let is_mounted = drifted.mounted.is_some();
    let why = match &drifted.mounted {
        Some(point) => format!("something is mounted on {}", point.display()),
        None => match make(agent, session, new, Way::Rebuild).await {
            Err(err) if changed == Changed::Accepted || is_held(&err) => err.to_string(),
            other => return other,
        },
    };
    let root = make(agent, session, new, Way::Reuse { in_use }).await?;
    let changed = if is_mounted { drifted.names } else { mend(agent, new, drifted.names).await };
    let (id, files, names) = (new.id(), changed.len(), listed(&changed));
    if changed.is_empty() {
        tracing::warn!(event = "root_mended", %id, "root {id} was changed since it was deployed and is mended where it is, because it cannot be built again ({why})");
    } else {
        tracing::warn!(
            event = "root_kept_changed",
            %id,
            files,
            "root {id} was changed since it was deployed and is used as it is, because it cannot be built again ({why}): {names}"
        );
    }
    Ok(Root { changed, ..root })
}

/// Whether the root `id` is in use. Where the state file is lost, that is the one that this agent
/// deployed last, else the one that the symlink leads to, else the one that was built last.
fn is_in_use(agent: &Agent, id: Digest) -> Result<bool> {
    if let Some(deployed) = state::read(&agent.state)? {
        return Ok(deployed.id() == id);
    }
    if let Some(deployed) = Report::read(&agent.dir).deployed {
        return Ok(deployed == id.to_string());
    }
    let linked = match &agent.current {
        Some(link) => current::target(link)?,
        None => None,
    };
    match linked {
        Some(linked) => Ok(std::path::absolute(agent.store.root_path(id)).ok() == Some(linked)),
        None => Ok(agent.store.roots()?.last() == Some(&id)),
    }
}

/// Whether a root was built, and the one in its place cannot be moved away.
fn is_held(err: &Error) -> bool {
    matches!(err, Error::Store(err) if err.is_root_held())
}

/// Mends what of a root the cache has, where it stands. Returns the names that are still not
/// as they should be.
async fn mend(agent: &Agent, new: &Configuration, drifted: Vec<String>) -> Vec<String> {
    let (store, wanted) = (Arc::clone(&agent.store), new.clone());
    let mended = blocking::confined(agent, move || store.mend_root(&wanted)).await;
    mended.unwrap_or_else(|err| {
        tracing::debug!("the root is not mended: {err}");
        drifted
    })
}

/// How to come to a root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Use the one that is there. `in_use`: it is what is deployed.
    Reuse { in_use: bool },
    /// Build it, whatever is there.
    Rebuild,
}

async fn make(agent: &Agent, session: &mut Session, new: &Configuration, way: Way) -> Result<Root> {
    let mut lost = None;
    let mut attempt = 1;
    loop {
        download(agent, session, new, lost, way).await?;
        match build(agent, new, way).await {
            Err(Error::Store(deploy_store::Error::NoSuchBlob(digest)))
                if attempt < MEND_ATTEMPTS + new.layers().len() =>
            {
                tracing::warn!(
                    event = "blob_lost",
                    id = %new.id(),
                    %digest,
                    "the cache was damaged: blob {digest} is fetched again"
                );
                lost = Some(digest);
                attempt += 1;
            }
            other => return other,
        }
    }
}

/// What of a root that is there from an earlier deploy is not as it was built.
async fn drift(agent: &Agent, new: &Configuration) -> Result<Option<Drifted>> {
    let (store, wanted) = (Arc::clone(&agent.store), new.clone());
    let id = new.id();
    let look = move || Ok::<_, Error>(store.drifted_root(&wanted));
    let drifted = blocking::confined(agent, look).await?;
    if let Some(Drifted { names, mounted: None }) = &drifted {
        let files = names.len();
        tracing::warn!(
            event = "root_damaged",
            %id,
            files,
            "root {id} was changed since it was deployed, and is built again: {}", listed(names)
        );
    }
    Ok(drifted)
}

async fn download(
    agent: &Agent,
    session: &mut Session,
    new: &Configuration,
    lost: Option<Digest>,
    way: Way,
) -> Result<()> {
    let started = Instant::now();
    let missing = fetch::missing(&agent.store, new, lost, way == Way::Rebuild)?;
    let mut fetched = Fetched::default();
    if !missing.is_empty() {
        let client = session.client().await?;
        if agent.min_free > 0 {
            let need = fetch::size(&client, &agent.store, &missing).await?;
            let what = format!("the download of {} layers", missing.len());
            room::make(agent, new, &what, need).await?;
        }
        fetched = fetch::download(&client, &agent.store, missing, &agent.throttle).await?;
    }
    let (Fetched { blobs, bytes }, ms) = (fetched, millis(started));
    tracing::info!(
        event = "downloaded",
        id = %new.id(),
        layers = blobs,
        bytes,
        ms,
        "downloaded {blobs} of {} layers: {bytes} bytes in {ms} ms", new.layers().len()
    );
    Ok(())
}

/// Extracts what is not extracted yet and builds the root.
async fn build(agent: &Agent, new: &Configuration, way: Way) -> Result<Root> {
    let (store, wanted) = (Arc::clone(&agent.store), new.clone());
    let copied = agent.min_free > 0 && store.link_mode() == LinkMode::Copy;
    let work = move || {
        let there = way != Way::Rebuild && fetch::has_root(&store, &wanted)?;
        extract(&store, &wanted, there)?;
        Ok::<_, Error>(if copied && !there { store.root_bytes(&wanted)? } else { 0 })
    };
    let need = blocking::confined(agent, work).await?;
    if need > 0 {
        room::make(agent, new, "a copy of all its files", need).await?;
    }
    let (store, new) = (Arc::clone(&agent.store), new.clone());
    blocking::confined(agent, move || build_root(&store, &new, way)).await
}

fn extract(store: &Store, new: &Configuration, there: bool) -> Result<()> {
    let started = Instant::now();
    let (mut layers, mut all) = (0_u64, Extracted::default());
    let needed = if there { &[] } else { new.layers() };
    for layer in needed {
        let extracted = match store.extract_for_root(layer.digest) {
            Err(err @ deploy_store::Error::NoSuchBlob(_)) => return Err(err.into()),
            Err(cause) => return Err(Error::Layer { layer: name_of(layer), cause }),
            Ok(None) => continue,
            Ok(Some(extracted)) => extracted,
        };
        layers += 1;
        all.files += extracted.files;
        all.bytes += extracted.bytes;
        all.new_objects += extracted.new_objects;
    }
    let (Extracted { files, bytes, new_objects, .. }, ms) = (all, millis(started));
    tracing::info!(
        event = "extracted",
        id = %new.id(),
        layers,
        files,
        bytes,
        new_objects,
        ms,
        "extracted {layers} layers: {files} files of {bytes} bytes, {new_objects} not known before, in {ms} ms"
    );
    Ok(())
}

fn build_root(store: &Store, new: &Configuration, way: Way) -> Result<Root> {
    let started = Instant::now();
    let root = match way {
        Way::Reuse { in_use } => {
            if let Some(changed) = store.adopt_root(new, in_use)? {
                announce_adopted(new.id(), &changed);
            }
            store.root(new)?
        }
        Way::Rebuild => store.rebuild_root(new)?,
    };
    let (Placed { reflinked, hardlinked, copied }, ms) = (root.placed, millis(started));
    let how = if root.reused {
        "it was there already".to_owned()
    } else if root.from_spare {
        format!("the spare, {}, in {ms} ms", unpack::describe(root.placed))
    } else {
        format!("{}, in {ms} ms", unpack::describe(root.placed))
    };
    tracing::info!(
        event = "root_ready",
        id = %root.id,
        path = %root.path.display(),
        reused = root.reused,
        from_spare = root.from_spare,
        reflinked,
        hardlinked,
        copied,
        ms,
        "root {} ready: {how}", root.path.display()
    );
    Ok(root)
}

fn announce_adopted(id: Digest, changed: &[String]) {
    let files = changed.len();
    if changed.is_empty() {
        tracing::info!(event = "root_adopted", %id, "root {id} was there without a record: it was compared with its layers and is taken over");
    } else {
        tracing::warn!(
            event = "root_adopted",
            %id,
            files,
            "root {id}, which is in use, was there without a record and is taken over as it is, though it was changed: {}",
            listed(changed)
        );
    }
}

/// Milliseconds since `started`.
pub(crate) fn millis(started: Instant) -> u64 {
    u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(name: &str, layers: &[(&str, &str)]) -> Configuration {
        let now = "2026-11-23T03:49:00Z".parse().unwrap();
        let layer = |&(version, bytes): &(&str, &str)| Layer {
            component: format!("c-{bytes}").parse().unwrap(),
            version: version.parse().unwrap(),
            digest: Digest::of(bytes.as_bytes()),
            created: now,
        };
        let layers = layers.iter().map(layer).collect();
        Configuration::new(name.parse().unwrap(), layers, now).unwrap()
    }

    #[test]
    fn what_counts_as_a_change() {
        let old = configuration("p", &[("v1", "a"), ("v1", "b")]);
        let check = |new: &Configuration| Change::between(Some(&old), new);
        assert_eq!(Change::between(None, &old), Change::Tree);
        assert_eq!(check(&old), Change::None);
        assert_eq!(check(&configuration("p", &[("v1", "a"), ("v2", "b")])), Change::Labels);
        assert_eq!(check(&configuration("q", &[("v1", "a"), ("v1", "b")])), Change::Labels);
        assert_eq!(check(&configuration("p", &[("v1", "b"), ("v1", "a")])), Change::Tree);
        assert_eq!(check(&configuration("p", &[("v1", "a")])), Change::Tree);
    }
}
