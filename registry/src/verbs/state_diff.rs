//! The verb `diff`, which compares two states of a configuration. It compares the layers of both
//! states and, on request, the files that agents would have in their roots.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;

use deploy_store::{
    Changed, ComponentName, Configuration, ConfigurationName, Digest, VersionName, changed_files,
};

use crate::blocking::blocking;
use crate::error::Result;
use crate::registry::Registry;

/// A layer that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerChange {
    /// The component.
    pub component: ComponentName,
    /// The version in the earlier state, and its blob; `None` if the layer is new.
    pub from: Option<(VersionName, Digest)>,
    /// The version in the later state, and its blob; `None` if the layer was removed.
    pub to: Option<(VersionName, Digest)>,
}

/// The differences between two states.
#[derive(Debug, Clone)]
pub struct Diff {
    /// The number of the earlier state.
    pub from: u64,
    /// The number of the later state.
    pub to: u64,
    /// The layers that differ, in the order of the later state, followed by removed layers.
    pub layers: Vec<LayerChange>,
    /// Whether the common layers of both states are in a different order.
    pub reordered: bool,
    /// The files that differ, sorted by path, if the caller asked for files.
    pub files: Option<Vec<Changed>>,
}

/// The layers that differ, and whether the common layers of both states are in a different order.
pub fn layers(from: &Configuration, to: &Configuration) -> (Vec<LayerChange>, bool) {
    let of = |configuration: &Configuration| -> BTreeMap<ComponentName, (VersionName, Digest)> {
        let layers = configuration.layers().iter();
        layers
            .map(|layer| (layer.component.clone(), (layer.version.clone(), layer.digest)))
            .collect()
    };
    let (before, after) = (of(from), of(to));
    let mut changes = Vec::new();
    for layer in to.layers() {
        let (old, new) = (before.get(&layer.component), &after[&layer.component]);
        if old != Some(new) {
            let component = layer.component.clone();
            changes.push(LayerChange { component, from: old.cloned(), to: Some(new.clone()) });
        }
    }
    for layer in from.layers().iter().filter(|layer| !after.contains_key(&layer.component)) {
        let component = layer.component.clone();
        let old = before.get(&component).cloned();
        changes.push(LayerChange { component, from: old, to: None });
    }
    let order = |configuration: &Configuration, other: &BTreeMap<_, _>| -> Vec<ComponentName> {
        let names = configuration.layers().iter().map(|layer| layer.component.clone());
        names.filter(|name| other.contains_key(name)).collect()
    };
    (changes, order(from, &after) != order(to, &before))
}

impl Registry {
    /// The differences between two states of a configuration. Without numbers, `diff` compares the
    /// current state with the state before it. With `files`, `diff` reads the blobs of layers that
    /// differ.
    pub async fn diff(
        &self,
        name: &ConfigurationName,
        from: Option<u64>,
        to: Option<u64>,
        files: bool,
    ) -> Result<Diff> {
        let (from, to) = self.catalog.two_states(name, from, to).await?;
        let (layers, reordered) = layers(&from.1, &to.1);
        let files = if files { Some(self.changed_files(&from.1, &to.1, ()).await?) } else { None };
        Ok(Diff { from: from.0, to: to.0, layers, reordered, files })
    }

    /// Copies of the blobs, if the blobs are in a bucket.
    async fn copies(&self, from: &[Digest], to: &[Digest]) -> Result<BTreeMap<Digest, File>> {
        if self.blobs().bucket().is_none() {
            return Ok(BTreeMap::new());
        }
        self.blobs().files(from.iter().chain(to).copied().collect()).await
    }

    /// The files that differ between two states, sorted by path. The comparison continues if the
    /// caller stops waiting. `held` is dropped when the comparison ends.
    pub async fn changed_files(
        &self,
        from: &Configuration,
        to: &Configuration,
        held: impl Send + 'static,
    ) -> Result<Vec<Changed>> {
        let digests = |configuration: &Configuration| -> Vec<Digest> {
            configuration.layers().iter().map(|layer| layer.digest).collect()
        };
        let (from, to) = (digests(from), digests(to));
        let (store, copies) = (Arc::clone(self.blobs().local()), self.copies(&from, &to).await?);
        let limits = self.settings.limits;
        let permit = self.checks.acquire().await;
        let changed = blocking(move || {
            let open = |digest| match copies.get(&digest) {
                Some(copy) => reopen(copy),
                None => store.reader(digest),
            };
            let changed = changed_files(&from, &to, open, limits);
            drop(held);
            changed
        });
        let changed = changed.await;
        drop(permit);
        Ok(changed?)
    }
}

/// Another handle of an open file. The comparison reads each file only once.
fn reopen(file: &File) -> deploy_store::Result<File> {
    file.try_clone().map_err(|cause| deploy_store::Error::Io {
        action: "open",
        path: "blob".into(),
        cause,
    })
}
