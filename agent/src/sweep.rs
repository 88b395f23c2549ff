//! Sweeps: old roots, and what nothing in the cache needs. A sweep that fails is told
//! and tried again; it never fails a deploy.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use deploy_store::{Configuration, Digest, Result, Store, Swept};

use crate::cycle::Agent;
use crate::{blocking, state};

/// Age at which what nothing uses goes from the cache.
const CACHE_AGE: Duration = Duration::from_secs(60 * 60);

/// Removes old roots, but the current one, and the one before, as far as `-keep-roots`
/// goes.
pub async fn roots(agent: &Agent, old: Option<&Configuration>, new: &Configuration) {
    let (store, count) = (Arc::clone(&agent.store), agent.keep_roots);
    let (current, previous) = (new.id(), old.map(Configuration::id));
    let sweep = move || {
        let kept = kept(current, previous, &store.roots()?, count);
        store.sweep_roots(&kept)
    };
    match blocking::run(sweep).await {
        Ok(swept) if swept.files == 0 => {}
        Ok(swept) => {
            tracing::info!(
                event = "roots_removed",
                id = %current,
                roots = swept.files,
                "old roots removed: {}", swept.files
            );
        }
        Err(err) => tracing::warn!(event = "sweep_failed", "cannot remove old roots: {err}"),
    }
}

/// Removes from the cache what has been there for an hour and neither the state nor a
/// root uses.
pub async fn cache(agent: &Agent) {
    let (store, file) = (Arc::clone(&agent.store), agent.state.clone());
    let sweep = move || sweep_cache(&store, state::peek(&file)?.as_ref());
    match blocking::run(sweep).await {
        Ok(Swept { files: 0, .. }) => {}
        Ok(Swept { files, bytes }) => {
            tracing::info!(
                event = "cache_swept",
                files,
                bytes,
                "cache swept: {files} files of {bytes} bytes"
            );
        }
        Err(err) => tracing::warn!(event = "sweep_failed", "cannot sweep the cache: {err}"),
    }
}

fn sweep_cache(store: &Store, current: Option<&Configuration>) -> Result<Swept> {
    let keep: Vec<&Configuration> = current.into_iter().collect();
    let before = SystemTime::now().checked_sub(CACHE_AGE).unwrap_or(SystemTime::UNIX_EPOCH);
    store.sweep_cache(&keep, before)
}

/// The roots to keep: the current one, the one before, then the newest, `count` in all.
fn kept(
    current: Digest,
    previous: Option<Digest>,
    oldest_first: &[Digest],
    count: usize,
) -> Vec<Digest> {
    let mut kept = vec![current];
    for id in previous.into_iter().chain(oldest_first.iter().rev().copied()) {
        if kept.len() < count && !kept.contains(&id) {
            kept.push(id);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_current_root_and_the_one_before_come_first() {
        let [a, b, c, d] = ["a", "b", "c", "d"].map(|text| Digest::of(text.as_bytes()));
        let roots = [a, b, c, d];
        assert_eq!(kept(d, Some(c), &roots, 2), [d, c]);
        assert_eq!(kept(a, Some(c), &roots, 2), [a, c]);
        assert_eq!(kept(a, Some(c), &roots, 3), [a, c, d]);
        assert_eq!(kept(d, Some(c), &roots, 1), [d]);
        assert_eq!(kept(d, Some(d), &roots, 2), [d, c]);
        assert_eq!(kept(d, None, &roots, 9), [d, c, b, a]);
    }
}
