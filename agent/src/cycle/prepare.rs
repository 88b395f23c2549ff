//! Coming to the root of a configuration: what is missing is downloaded and extracted, and the root
//! is built; one that is there is used, if it is what it must be.

use std::sync::Arc;
use std::time::Instant;

use deploy_store::{
    Configuration, Digest, Drifted, Extracted, LinkMode, Placed, Root, Size, Store, Unit, listed,
};

use crate::agent::Agent;
use crate::blocking;
use crate::error::{Error, Result};
use crate::fetch::registry_session::Session;
use crate::fetch::{self, Fetched, name_of};
use crate::log::millis;
use crate::records::agent_report::{self, Report};
use crate::records::{current_link, running_script, state_file, unsettled};
use crate::space::make_room;

/// Times that a damaged cache is mended before a cycle gives up, and once for each layer: one is
/// fetched at a time.
const MEND_ATTEMPTS: usize = 3;

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
    let prepared = come_to(agent, session, new, changed).await;
    prepared.map_err(|err| make_room::told(agent, err, None))
}

async fn come_to(
    agent: &Agent,
    session: &mut Session,
    new: &Configuration,
    changed: Changed,
) -> Result<Root> {
    // It may use the very root, and two at once would undo each other's work.
    running_script::ended(&agent.dir).await;
    // What is in use is its service's to write to.
    let used = in_use(agent, new.id())?;
    let in_use = used != Used::No;
    let drifted = if used == Used::Yes { None } else { drift(agent, new, used).await? };
    let Some(drifted) = drifted else {
        return match make(agent, session, new, Way::Reuse { in_use }).await {
            Err(err) if changed == Changed::Accepted && adopt_unseen(agent, new, &err).await => {
                make(agent, session, new, Way::Reuse { in_use }).await
            }
            other => other,
        };
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

/// Whether a root is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Used {
    No,
    /// The state file says so.
    Yes,
    /// The state file is lost, and what the agent noted beside it says so.
    Probably,
}

/// Whether the root `id` is in use. Where the state file is lost, that is the one that this agent
/// deployed last, else the one that the symlink leads to.
fn in_use(agent: &Agent, id: Digest) -> Result<Used> {
    if let Some(deployed) = state_file::read(&agent.state)? {
        return Ok(if deployed.id() == id { Used::Yes } else { Used::No });
    }
    let probably = match (Report::read(&agent.dir).deployed, &agent.current) {
        (Some(deployed), _) => deployed == id.to_string(),
        (None, Some(link)) => {
            let root = std::path::absolute(agent.store.root_path(id)).ok();
            root.is_some() && current_link::target(link)? == root
        }
        (None, None) => false,
    };
    Ok(if probably { Used::Probably } else { Used::No })
}

/// Whether a root was built, and the one in its place cannot be moved away.
fn is_held(err: &Error) -> bool {
    matches!(err, Error::Store(err) if err.is_root_held())
}

/// Mends what of a root the cache has, where it stands. Returns the names that are still not
/// as they should be.
async fn mend(agent: &Agent, new: &Configuration, drifted: Vec<String>) -> Vec<String> {
    let (store, wanted) = (Arc::clone(&agent.store), new.clone());
    let mended = blocking::confined(&agent.confinement, move || store.mend_root(&wanted)).await;
    mended.unwrap_or_else(|err| {
        tracing::debug!("the root is not mended: {err}");
        drifted
    })
}

/// Takes a root that has no record and cannot be compared, because its layers are not all here;
/// `err` says why they did not come. Returns whether there is one.
async fn adopt_unseen(agent: &Agent, new: &Configuration, err: &Error) -> bool {
    let (store, wanted) = (Arc::clone(&agent.store), new.clone());
    let id = new.id();
    let adopted =
        blocking::confined(&agent.confinement, move || store.adopt_unseen_root(&wanted)).await;
    let is_there = adopted.unwrap_or_else(|err| {
        tracing::debug!("the root is not taken as it is: {err}");
        false
    });
    if is_there {
        tracing::warn!(
            event = "root_kept_changed",
            %id,
            files = 0,
            "root {id} has no record and is used as it is: it cannot be compared with its layers, because they are not all here ({err})"
        );
    }
    is_there
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
        let fetched = download(agent, session, new, lost, way).await?;
        let built = build(agent, new, way, fetched.whole).await;
        agent.store.meter().end();
        match built {
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

/// What of a root that is there from an earlier deploy is not as it was built. What is probably in
/// use may have been written to by its service, as long as nothing lacks.
async fn drift(agent: &Agent, new: &Configuration, used: Used) -> Result<Option<Drifted>> {
    let (store, wanted) = (Arc::clone(&agent.store), new.clone());
    let id = new.id();
    let look = move || Ok::<_, Error>(store.drifted_root(&wanted));
    let drifted = blocking::confined(&agent.confinement, look).await?;
    let Some(Drifted { names, lacking, mounted: None }) = &drifted else { return Ok(drifted) };
    let (files, names) = (names.len(), listed(names));
    if used == Used::Probably && !lacking {
        tracing::warn!(
            event = "root_kept_changed",
            %id,
            files,
            "root {id} was changed since it was deployed and is used as it is, because it is in use as far as is known without a state file: {names}"
        );
        return Ok(None);
    }
    tracing::warn!(
        event = "root_damaged",
        %id,
        files,
        "root {id} was changed since it was deployed, and is built again: {names}"
    );
    Ok(drifted)
}

async fn download(
    agent: &Agent,
    session: &mut Session,
    new: &Configuration,
    lost: Option<Digest>,
    way: Way,
) -> Result<Fetched> {
    let started = Instant::now();
    let missing = fetch::missing(&agent.store, new, lost, way == Way::Rebuild)?;
    let mut fetched = Fetched::default();
    if !missing.is_empty() {
        let client = session.client().await?;
        if agent.min_free > 0 {
            let need = fetch::size(&client, &agent.store, &missing).await?;
            let what = format!("the download of {} layers", missing.len());
            make_room::make(agent, new, &what, need).await?;
        }
        let done = fetch::download(&client, &agent.store, missing.clone(), &agent.throttle).await;
        fetched = match done {
            Err(err) if err.is_no_space() => {
                let need = fetch::size(&client, &agent.store, &missing).await.ok();
                return Err(make_room::told(agent, err, need));
            }
            other => other?,
        };
    }
    let (Fetched { blobs, bytes, .. }, ms) = (fetched, millis(started));
    tracing::info!(
        event = "downloaded",
        id = %new.id(),
        layers = blobs,
        bytes,
        ms,
        "downloaded {blobs} of {} layers: {} in {ms} ms", new.layers().len(), Size(bytes)
    );
    Ok(fetched)
}

/// Extracts what is not extracted yet, `fetched` bytes of blobs or more, and builds the root.
async fn build(agent: &Agent, new: &Configuration, way: Way, fetched: u64) -> Result<Root> {
    let (store, wanted) = (Arc::clone(&agent.store), new.clone());
    let copied = agent.min_free > 0 && store.link_mode() == LinkMode::Copy;
    let work = move || {
        let there = way != Way::Rebuild && fetch::has_root(&store, &wanted)?;
        store.meter().begin("extracted", Unit::Bytes, fetched);
        extract(&store, &wanted, there)?;
        store.meter().end();
        Ok::<_, Error>(if copied && !there { store.root_bytes(&wanted)? } else { 0 })
    };
    let need = blocking::confined(&agent.confinement, work).await?;
    if need > 0 {
        make_room::make(agent, new, "a copy of all its files", need).await?;
    }
    if agent.script.is_some() {
        intend(agent, new);
    }
    let (store, wanted) = (Arc::clone(&agent.store), new.clone());
    let built =
        blocking::confined(&agent.confinement, move || build_root(&store, &wanted, way)).await;
    if !built.as_ref().is_ok_and(|root| !root.reused)
        && let Err(err) = unsettled::forget_intended(&agent.dir)
    {
        tracing::debug!("what was intended stays: {err}");
    }
    built
}

/// Writes down that the script is to run. If that fails, it is written and synced later.
fn intend(agent: &Agent, new: &Configuration) {
    let deployed = state_file::read(&agent.state).ok().flatten();
    let old = deployed.map(|deployed| deployed.id());
    if let Err(err) = unsettled::intend(&agent.dir, new.id(), old) {
        tracing::debug!("what is intended is not noted yet: {err}");
    }
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
        "extracted {layers} layers: {files} files of {}, {new_objects} not known before, in {ms} ms", Size(bytes)
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
        format!("the spare, {}, in {ms} ms", agent_report::describe(root.placed))
    } else {
        format!("{}, in {ms} ms", agent_report::describe(root.placed))
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
            "root {id} was there without a record, is in use or has something mounted in it, and is taken over as it is, though it was changed: {}",
            listed(changed)
        );
    }
}
