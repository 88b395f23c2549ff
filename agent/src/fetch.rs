//! Finds out which blobs are missing, and downloads the missing blobs.

pub mod registry_session;
pub mod throttle;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use deploy_store::{Configuration, Digest, Layer, Store, Unit};
use deploy_wire::client::{Client, ClientError};
use tokio::task::JoinSet;

use crate::blocking;
use crate::error::{Error, Result};
use crate::fetch::throttle::Throttle;

/// Maximum number of downloads at a time. All downloads use the same connection.
const IN_FLIGHT: usize = 4;
/// Time after which a download counts as long. For a long download, the agent asks the registry for
/// the size of the blobs.
const LONG: Duration = Duration::from_millis(500);

/// The result of a download.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fetched {
    /// Number of downloaded blobs.
    pub blobs: u64,
    /// Number of received bytes. Bytes that an earlier attempt received do not count.
    pub bytes: u64,
    /// Total size of the downloaded blobs, in bytes.
    pub whole: u64,
}

/// Whether the root of `configuration` is built.
pub fn has_root(store: &Store, configuration: &Configuration) -> Result<bool> {
    Ok(store.roots()?.contains(&configuration.id()))
}

/// The layers of `configuration` that are neither extracted nor cached: their blobs must be
/// downloaded. `lost` is a layer that must be extracted again.
pub fn missing(
    store: &Store,
    configuration: &Configuration,
    lost: Option<Digest>,
) -> Result<Vec<Layer>> {
    let mut seen = BTreeSet::new();
    let mut missing = Vec::new();
    for layer in configuration.layers() {
        let digest = layer.digest;
        let extracted = store.has_layer(digest)? && lost != Some(digest);
        if seen.insert(digest) && !extracted && !store.blobs().contains(digest)? {
            missing.push(layer.clone());
        }
    }
    Ok(missing)
}

/// Number of bytes that [`download`] will receive for `layers`.
pub async fn size(client: &Client, store: &Store, layers: &[Layer]) -> Result<u64> {
    let mut bytes: u64 = 0;
    for layer in layers {
        let failed = |cause| Error::Download { layer: name_of(layer), cause };
        let whole = client.size(&format!("files/{}", layer.digest)).await.map_err(failed)?;
        let partial = store.blobs().partial_reader(layer.digest);
        let have = partial.ok().and_then(|file| file.metadata().ok()).map_or(0, |meta| meta.len());
        bytes = bytes.saturating_add(whole.unwrap_or(0).saturating_sub(have));
    }
    Ok(bytes)
}

/// Downloads the blobs of `layers`, several at a time. The first failure ends all downloads. The
/// next attempt resumes each download. The store's meter counts the bytes.
pub async fn download(
    client: &Arc<Client>,
    store: &Arc<Store>,
    layers: Vec<Layer>,
    throttle: &Throttle,
) -> Result<Fetched> {
    let mut fetched = Fetched::default();
    store.meter().begin("downloaded", Unit::Bytes, 0);
    let whole = expect(client, store, layers.clone());
    let mut is_expected = false;
    tokio::pin!(whole);
    let mut waiting = layers.into_iter();
    let mut running = JoinSet::new();
    loop {
        while running.len() < IN_FLIGHT
            && let Some(layer) = waiting.next()
        {
            let (client, store) = (Arc::clone(client), Arc::clone(store));
            let throttle = throttle.clone();
            running.spawn(async move { fetch(&client, &store, &layer, &throttle).await });
        }
        let done = tokio::select! {
            biased;
            done = running.join_next() => done,
            () = &mut whole, if !is_expected => {
                is_expected = true;
                continue;
            }
        };
        let Some(done) = done else {
            store.meter().end();
            return Ok(fetched);
        };
        let done = done.unwrap_or_else(|err| std::panic::resume_unwind(err.into_panic()));
        let (bytes, whole) = done.inspect_err(|_| store.meter().end())?;
        fetched.blobs += 1;
        fetched.bytes += bytes;
        fetched.whole += whole;
    }
}

/// Tells the meter the size of a long download. For a short download, the agent does not ask the
/// registry for the size.
async fn expect(client: &Client, store: &Store, layers: Vec<Layer>) {
    tokio::time::sleep(LONG).await;
    let mut whole: u64 = 0;
    for layer in layers {
        match client.size(&format!("files/{}", layer.digest)).await {
            Ok(Some(bytes)) => whole = whole.saturating_add(bytes),
            // If the size is unknown, the download continues without the size, or fails with a
            // better message.
            Ok(None) | Err(_) => return,
        }
    }
    store.meter().expect(whole);
}

/// Downloads one blob. If the bytes are wrong, discards them and downloads the blob once more.
/// Returns the number of received bytes, and the size of the blob.
async fn fetch(
    client: &Client,
    store: &Arc<Store>,
    layer: &Layer,
    throttle: &Throttle,
) -> Result<(u64, u64)> {
    match attempt(client, store, layer, throttle).await {
        Err(Error::Store(err @ deploy_store::Error::DigestMismatch { .. })) => {
            let name = name_of(layer);
            tracing::warn!(
                event = "wrong_bytes",
                digest = %layer.digest,
                "blob of layer {name}: {err}; downloading the blob again"
            );
        }
        other => return other,
    }
    attempt(client, store, layer, throttle).await.map_err(|err| match err {
        Error::Store(cause @ deploy_store::Error::DigestMismatch { .. }) => {
            Error::WrongBytes { layer: name_of(layer), cause }
        }
        other => other,
    })
}

async fn attempt(
    client: &Client,
    store: &Arc<Store>,
    layer: &Layer,
    throttle: &Throttle,
) -> Result<(u64, u64)> {
    let digest = layer.digest;
    let opened = Arc::clone(store);
    let mut staging = blocking::run(move || opened.blobs().resume(digest)).await?;
    let before = staging.len();
    let meter = store.meter();
    meter.add(before);
    let path = format!("files/{digest}");
    let got = client.get(&path, before, |bytes| {
        throttle.take(bytes.len());
        meter.add(bytes.len() as u64);
        Ok(staging.write_at(staging.len(), bytes)?)
    });
    match got.await {
        Ok(()) => {}
        Err(ClientError::Sink(err)) => return Err(err.into()),
        Err(cause) => return Err(Error::Download { layer: name_of(layer), cause }),
    }
    let whole = staging.len();
    blocking::run(move || staging.check(digest)).await?;
    Ok((whole - before, whole))
}

/// Component and version of a layer, for messages.
pub fn name_of(layer: &Layer) -> String {
    format!("\"{}\" version \"{}\"", layer.component, layer.version)
}
