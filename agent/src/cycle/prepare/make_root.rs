//! Makes a root: downloads and extracts layers, and builds the root. If the agent finds damage in
//! the cache, the agent repeats these steps.

use std::sync::Arc;
use std::time::Instant;

use deploy_store::{
    Configuration, Digest, Extracted, LinkMode, Placed, Root, Size, Store, Unit, listed, plural,
};
use deploy_wire::fleet::Phase;

use crate::agent::Agent;
use crate::blocking;
use crate::error::{Error, Result};
use crate::fetch::registry_session::Session;
use crate::fetch::{self, Fetched, name_of};
use crate::log::millis;
use crate::records::agent_report;
use crate::records::{state_file, unsettled};
use crate::space::make_room;

/// If the cache is damaged, one call of [`make`] makes at most this number of attempts, plus one
/// attempt for each layer.
const REPAIR_ATTEMPTS: usize = 3;

/// How to get a root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Use an existing root, or build the root if there is none. `in_use` says whether the root is
    /// in use, or is probably in use.
    Reuse { in_use: bool },
    /// Build the root even if it exists.
    Rebuild,
}

/// Downloads and extracts missing layers, and builds the root. If a cached blob or object turns out
/// to be damaged, downloads the layer's blob again.
pub(super) async fn make(
    agent: &Agent,
    session: &mut Session,
    new: &Configuration,
    way: Way,
) -> Result<Root> {
    let mut lost = None;
    let mut attempt = 1;
    loop {
        let is_there = way != Way::Rebuild && fetch::has_root(&agent.store, new)?;
        let fetched = download(agent, session, new, lost, is_there).await?;
        agent.reports.reached(Phase::Fetched);
        let built = build(agent, new, way, is_there, fetched.whole).await;
        agent.store.meter().end();
        match built {
            Err(Error::Store(deploy_store::Error::NoSuchBlob(digest)))
                if attempt < REPAIR_ATTEMPTS + new.layers().len() =>
            {
                tracing::warn!(
                    event = "blob_lost",
                    id = %new.id(),
                    %digest,
                    "the cache is damaged: blob {digest} is downloaded again"
                );
                lost = Some(digest);
                attempt += 1;
            }
            other => return other,
        }
    }
}

async fn download(
    agent: &Agent,
    session: &mut Session,
    new: &Configuration,
    lost: Option<Digest>,
    is_there: bool,
) -> Result<Fetched> {
    let started = Instant::now();
    let missing = if is_there { Vec::new() } else { fetch::missing(&agent.store, new, lost)? };
    let mut fetched = Fetched::default();
    if !missing.is_empty() {
        let client = session.client().await?;
        if agent.min_free > 0 {
            let need = fetch::size(&client, &agent.store, &missing).await?;
            let what = format!("the download of {}", plural(missing.len() as u64, "layer"));
            make_room::make(agent, new, &what, need).await?;
        }
        let done = fetch::download(&client, &agent.store, missing.clone(), &agent.throttle).await;
        fetched = match done {
            Err(err) if err.is_no_space() => {
                let need = fetch::size(&client, &agent.store, &missing).await.ok();
                return Err(make_room::explain_full(agent, err, need));
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
        "downloaded {blobs} of {}: {} in {ms} ms",
        plural(new.layers().len() as u64, "layer"),
        Size(bytes)
    );
    Ok(fetched)
}

/// Extracts the layers that are not extracted yet, and builds the root. `fetched` is the total size
/// of the blobs that were just downloaded, in bytes.
async fn build(
    agent: &Agent,
    new: &Configuration,
    way: Way,
    is_there: bool,
    fetched: u64,
) -> Result<Root> {
    let (store, wanted) = (Arc::clone(&agent.store), new.clone());
    let copied = agent.min_free > 0 && store.link_mode() == LinkMode::Copy;
    let work = move || {
        store.meter().begin("extracted", Unit::Bytes, fetched);
        extract(&store, &wanted, is_there)?;
        store.meter().end();
        Ok::<_, Error>(if copied && !is_there { store.root_bytes(&wanted)? } else { 0 })
    };
    let need = blocking::confined(&agent.confinement, work).await?;
    if need > 0 {
        make_room::make(agent, new, "a copy of the root's files", need).await?;
    }
    if agent.script.is_some() {
        intend(agent, new.id()).await;
    }
    let (store, wanted) = (Arc::clone(&agent.store), new.clone());
    let built =
        blocking::confined(&agent.confinement, move || build_root(&store, &wanted, way)).await;
    if !built.as_ref().is_ok_and(|root| !root.reused) {
        forget_intended(agent).await;
    }
    built
}

/// Records that the script is about to run. If the agent cannot write the record now, the agent
/// writes and syncs the record later.
async fn intend(agent: &Agent, id: Digest) {
    let (dir, state) = (agent.dir.clone(), agent.state.clone());
    let work = move || {
        let deployed = state_file::read(&state).ok().flatten();
        unsettled::intend(&dir, id, deployed.map(|deployed| deployed.id()))
    };
    if let Err(err) = blocking::run(work).await {
        tracing::debug!("the intention to run the script is not recorded yet: {err}");
    }
}

async fn forget_intended(agent: &Agent) {
    let dir = agent.dir.clone();
    if let Err(err) = blocking::run(move || unsettled::forget_intended(&dir)).await {
        tracing::debug!("cannot remove the record of the intention to run the script: {err}");
    }
}

fn extract(store: &Store, new: &Configuration, is_there: bool) -> Result<()> {
    let started = Instant::now();
    let (mut layers, mut all) = (0_u64, Extracted::default());
    let needed = if is_there { &[] } else { new.layers() };
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
        "extracted {}: {} of {}, {}, in {ms} ms",
        plural(layers, "layer"),
        plural(files, "file"),
        Size(bytes),
        plural(new_objects, "new object")
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
        "it existed already".to_owned()
    } else {
        format!("{}, in {ms} ms", agent_report::Placed::from(&root).to_text())
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
        tracing::info!(
            event = "root_adopted", %id,
            "root {id} had no record; the agent compared the root with its layers and adopts it"
        );
    } else {
        tracing::warn!(
            event = "root_adopted",
            %id,
            files,
            "root {id} had no record and was changed, but is in use or has a mount inside; the \
             agent adopts the changed root: {}",
            listed(changed)
        );
    }
}
