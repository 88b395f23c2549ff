//! `verify -repair` quarantines damaged files of the cache, and extracts or downloads their layers
//! again. `verify -repair` does not repair roots, because services use the roots.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use deploy_store::{Aside, Configuration, Digest, Error as StoreError, Layer};
use serde::{Deserialize, Serialize};

use crate::agent::Agent;
use crate::error::Result;
use crate::fetch::registry_session::Session;
use crate::space::{in_use, spare_builder};
use crate::{blocking, fetch};

/// Maximum number of damaged files in one request.
pub const AT_ONCE: usize = 4000;

/// The result of the repair of one damaged file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mended {
    /// Path of the damaged file in the agent's directory.
    pub path: PathBuf,
    /// A text for people that says what the agent did with the file.
    pub done: String,
    /// Whether the damage is repaired.
    pub mended: bool,
}

/// How the repair of a layer ended.
#[derive(Debug, Clone)]
enum Made {
    FromBlob,
    Fetched,
    /// The layer was not extracted again, because nothing uses it.
    Unneeded,
    Failed(String),
}

/// Repairs the files in `damaged`, and skips files that turn out to be sound. The paths in
/// `damaged` are relative to the agent's directory.
pub async fn run(
    agent: &Agent,
    session: &mut Session,
    pending: Option<&Configuration>,
    damaged: &[String],
) -> Result<Vec<Mended>> {
    spare_builder::idle(agent).await;
    let needed = needed(agent, pending)?;
    let mut all = Vec::new();
    // The blobs in `cache` come first, because layers are extracted from blobs. The indexes in
    // `layers` come second, because an index lists the objects of its layer.
    for part in ["cache", "layers", "objects"] {
        let paths: Vec<PathBuf> =
            damaged.iter().map(PathBuf::from).filter(|path| path.starts_with(part)).collect();
        if paths.is_empty() {
            continue;
        }
        if part == "objects" {
            // The agent removes the spare, because the spare may contain damaged objects.
            spare_builder::remove(agent).await?;
        }
        let store = Arc::clone(&agent.store);
        let asides = blocking::run(move || store.set_aside(&paths)).await?;
        let layers: BTreeSet<Digest> =
            asides.iter().flat_map(|aside| aside.layers.iter().copied()).collect();
        let mut made = BTreeMap::new();
        for layer in layers {
            made.insert(layer, make(agent, session, layer, needed.get(&layer)).await);
        }
        for aside in asides {
            let (done, mended) = match part {
                "cache" => blob(agent, session, &aside, &needed).await,
                _ => describe(&aside, &made),
            };
            tracing::warn!(event = "repaired", path = %aside.path.display(), mended, "{} was damaged: {done}", aside.path.display());
            all.push(Mended { path: aside.path, done, mended });
        }
    }
    Ok(all)
}

/// Returns the layers of the current, the previous and the pending configuration, and of all roots.
fn needed(agent: &Agent, pending: Option<&Configuration>) -> Result<BTreeMap<Digest, Layer>> {
    let needs = in_use::retention(agent, pending)?;
    let mut configurations: Vec<Configuration> =
        [needs.current, needs.previous, needs.pending].into_iter().flatten().collect();
    for id in agent.store.roots()? {
        // A root whose record cannot be read is skipped here, and reported separately.
        configurations.extend(agent.store.marked(id));
    }
    let layers = configurations.iter().flat_map(Configuration::layers);
    Ok(layers.map(|layer| (layer.digest, layer.clone())).collect())
}

async fn make(agent: &Agent, session: &mut Session, digest: Digest, layer: Option<&Layer>) -> Made {
    match (extract(agent, digest).await, layer) {
        (Ok(()), _) => Made::FromBlob,
        (Err(StoreError::NoSuchBlob(_)), None) => {
            let store = Arc::clone(&agent.store);
            match blocking::run(move || store.forget_layer(digest)).await {
                Ok(()) => Made::Unneeded,
                Err(err) => Made::Failed(err.to_string()),
            }
        }
        (Err(StoreError::NoSuchBlob(_)), Some(layer)) => {
            if let Err(err) = download(agent, session, layer).await {
                return Made::Failed(err.to_string());
            }
            match extract(agent, digest).await {
                Ok(()) => Made::Fetched,
                Err(err) => Made::Failed(err.to_string()),
            }
        }
        (Err(err), _) => Made::Failed(err.to_string()),
    }
}

async fn extract(agent: &Agent, layer: Digest) -> deploy_store::Result<()> {
    let store = Arc::clone(&agent.store);
    blocking::confined(&agent.confinement, move || store.extract_again(layer)).await
}

async fn download(agent: &Agent, session: &mut Session, layer: &Layer) -> Result<()> {
    let client = session.client().await?;
    fetch::download(&client, &agent.store, vec![layer.clone()], &agent.throttle).await?;
    Ok(())
}

/// Repairs a cached blob. The agent downloads the blob again only with `-keep-blobs`. Without
/// `-keep-blobs`, the agent needs only the extracted layer.
async fn blob(
    agent: &Agent,
    session: &mut Session,
    aside: &Aside,
    needed: &BTreeMap<Digest, Layer>,
) -> (String, bool) {
    let Some(moved) = &aside.moved else { return sound() };
    let digest = aside.path.file_name().and_then(|name| name.to_str()?.parse::<Digest>().ok());
    let layer = digest.and_then(|digest| needed.get(&digest)).filter(|_| agent.keep_blobs);
    let Some(layer) = layer else { return (set_aside(moved, "nothing needs the file"), true) };
    match fetch_blob(agent, session, layer).await {
        Ok(()) => (set_aside(moved, "fetched again"), true),
        Err(err) => (set_aside(moved, &format!("not fetched: {err}")), false),
    }
}

async fn fetch_blob(agent: &Agent, session: &mut Session, layer: &Layer) -> Result<()> {
    download(agent, session, layer).await?;
    let (store, digest) = (Arc::clone(&agent.store), layer.digest);
    blocking::run(move || store.blobs().publish_partial(digest)).await?;
    Ok(())
}

fn describe(aside: &Aside, made: &BTreeMap<Digest, Made>) -> (String, bool) {
    if aside.moved.is_none() && aside.layers.is_empty() {
        return sound();
    }
    let made: Vec<&Made> = aside.layers.iter().filter_map(|layer| made.get(layer)).collect();
    let failed = made.iter().find_map(|made| match made {
        Made::Failed(why) => Some(why),
        _ => None,
    });
    let what = match failed {
        Some(why) => format!("not extracted again: {why}"),
        None if made.iter().any(|made| matches!(made, Made::Fetched)) => {
            "fetched and extracted again".to_owned()
        }
        None if made.iter().any(|made| matches!(made, Made::FromBlob)) => {
            "extracted again from a cached blob".to_owned()
        }
        None => "nothing needs the file".to_owned(),
    };
    let done = match &aside.moved {
        Some(moved) => set_aside(moved, &what),
        None => what,
    };
    match aside.links {
        0 => (done, failed.is_none()),
        n => {
            let linked = if n == 1 {
                "1 file in published roots is a hardlink to the file, and stays damaged"
            } else {
                &format!("{n} files in published roots are hardlinks to the file, and stay damaged")
            };
            (format!("{done}; {linked}"), false)
        }
    }
}

fn sound() -> (String, bool) {
    ("the file is sound now".to_owned(), true)
}

fn set_aside(moved: &Path, what: &str) -> String {
    format!("quarantined as {}; {what}", moved.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repair_text_says_what_happened_to_the_layers() {
        let [a, b] = ["a", "b"].map(|text| Digest::of(text.as_bytes()));
        let aside = |layers: &[Digest], links| Aside {
            path: "objects/aa/x".into(),
            moved: Some("quarantine/x".into()),
            links,
            layers: layers.to_vec(),
        };
        let made = BTreeMap::from([(a, Made::Fetched), (b, Made::Failed("no".to_owned()))]);
        let described = |aside: &Aside| describe(aside, &made);
        let fetched = "quarantined as quarantine/x; fetched and extracted again";
        assert_eq!(described(&aside(&[a], 0)), (fetched.to_owned(), true));
        let failed = "quarantined as quarantine/x; not extracted again: no";
        assert_eq!(described(&aside(&[a, b], 0)), (failed.to_owned(), false));
        let unneeded = "quarantined as quarantine/x; nothing needs the file";
        assert_eq!(described(&aside(&[], 0)).0, unneeded);
        let linked = described(&aside(&[a], 2));
        assert!(linked.0.contains("2 files in published roots") && !linked.1);
    }
}
