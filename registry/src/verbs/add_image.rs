//! The verbs `showlayers`, which lists the known layers of images, and `addimage`, which is the
//! last step of an import.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

use deploy_store::{ComponentName, ConfigurationName, Digest, VersionName};
use deploy_wire::image::{Image, KnownLayer, Origin};
use jiff::Timestamp;

use super::bind::{Sizes, StagedCopies};
use crate::catalog::{Change, Imaged, NewImage, NewLayer};
use crate::error::{Error, Result};
use crate::registry::Registry;

/// Maximum number of missing layers that the error lists.
const NAMED: usize = 5;

impl Registry {
    /// The layers of images, without the layers whose blobs are missing. With `asked`, the function
    /// returns only layers with these origins, and gives the caller a lease on their blobs. The
    /// registry keeps a leased blob as long as an unbound upload.
    pub async fn known_layers(&self, asked: Option<&[Origin]>) -> Result<Vec<KnownLayer>> {
        let known = match asked {
            None => self.catalog.layers().await?,
            Some(asked) => self.catalog.known_layers(asked, Timestamp::now()).await?,
        };
        // A layer without its file does not count as known, even if the catalogue lists the layer.
        let here = self.blobs().sizes(known.iter().map(|layer| layer.hash).collect()).await?;
        Ok(known.into_iter().filter(|layer| here.contains_key(&layer.hash)).collect())
    }

    /// Makes a configuration from `image` with the layers `upper` on top, or replaces the layers of
    /// an existing configuration. `addimage` checks the names and the archives first, then
    /// publishes the blobs, and adds all rows last, in one transaction. If blobs are missing, the
    /// call fails with [`Error::MissingLayers`], which lists the first of these blobs.
    pub async fn add_image(
        &self,
        name: &ConfigurationName,
        image: &Image,
        upper: &[(ComponentName, VersionName)],
        change: &Change,
    ) -> Result<Imaged> {
        let layers = image.layers.iter().map(|layer| NewLayer {
            component: layer.component.clone(),
            digest: layer.hash,
            bytes: 0,
            origin: layer.origin,
        });
        let wanted = NewImage { name, layers: layers.collect(), upper };
        self.catalog.check_image(&wanted, change).await?;
        self.check_layers(&wanted.layers).await?;
        self.bind_image(wanted, change).await
    }

    /// Like [`Registry::add_image`], but does not check the archives of the image.
    async fn bind_image(&self, mut wanted: NewImage<'_>, change: &Change) -> Result<Imaged> {
        let layers = wanted.layers.clone();
        let digests: BTreeSet<Digest> = layers.iter().map(|layer| layer.digest).collect();
        let record = async |sizes: Sizes| {
            for layer in &mut wanted.layers {
                layer.bytes = sizes.get(&layer.digest).copied().unwrap_or(0);
            }
            self.catalog.add_image(&wanted, change).await
        };
        match self.bind(digests.into_iter().collect(), StagedCopies::Remove, record).await? {
            Some(imaged) => Ok(imaged),
            // Since the check, gc has removed a blob, or a staged blob has expired.
            None => {
                let (missing, _) = self.sort_layers(&layers).await?;
                Err(missing_layers(&layers, &missing))
            }
        }
    }

    /// Fails if a blob is missing, or if agents cannot unpack a staged archive.
    async fn check_layers(&self, layers: &[NewLayer]) -> Result<()> {
        let (missing, staged) = self.sort_layers(layers).await?;
        if !missing.is_empty() {
            return Err(missing_layers(layers, &missing));
        }
        // Two checks run at the same time, because the registry allows no more.
        let rest = Mutex::new(staged);
        let next = || rest.lock().unwrap_or_else(PoisonError::into_inner).pop_first();
        let some = async || {
            while let Some(digest) = next() {
                if let Err(err) = self.check_staged(digest).await {
                    // After a failure, the other archives need no check.
                    while next().is_some() {}
                    return Err(err);
                }
            }
            Ok(())
        };
        let (one, other) = tokio::join!(some(), some());
        one.and(other)
    }

    /// Returns the missing blobs of `layers`, and the staged blobs of `layers`.
    async fn sort_layers(
        &self,
        layers: &[NewLayer],
    ) -> Result<(BTreeSet<Digest>, BTreeSet<Digest>)> {
        let (mut missing, mut staged) = (BTreeSet::new(), BTreeSet::new());
        for NewLayer { digest, .. } in layers {
            if self.blobs().contains(*digest).await? {
                continue;
            }
            if self.blobs().is_staged(*digest).await? {
                staged.insert(*digest);
            } else if !self.blobs().contains(*digest).await? {
                // The third lookup is needed because another command may have published the blob
                // between the first two lookups.
                missing.insert(*digest);
            }
        }
        Ok((missing, staged))
    }
}

fn missing_layers(layers: &[NewLayer], missing: &BTreeSet<Digest>) -> Error {
    let lacking: Vec<&NewLayer> =
        layers.iter().filter(|layer| missing.contains(&layer.digest)).collect();
    let mut text =
        format!("{} of {} layers are missing, upload them again:", lacking.len(), layers.len());
    for layer in lacking.iter().take(NAMED) {
        write!(text, "\n{}  {}", layer.digest, layer.component).expect("a string takes any text");
    }
    if lacking.len() > NAMED {
        write!(text, "\nand {} more", lacking.len() - NAMED).expect("a string takes any text");
    }
    Error::MissingLayers(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Settings;

    fn layer(component: &str, digest: Digest) -> NewLayer {
        NewLayer { component: component.parse().unwrap(), digest, bytes: 0, origin: None }
    }

    #[tokio::test]
    async fn failed_import_leaves_staged_blobs_staged() {
        let temp = tempfile::tempdir().unwrap();
        let registry = Registry::open(temp.path(), Settings::default()).await.unwrap();
        let stage = |text: &str| {
            let mut staging = registry.blobs().local().stage().unwrap();
            staging.write_at(0, text.as_bytes()).unwrap();
            staging.finish().unwrap()
        };
        let [one, two, bound] = ["one", "two", "bound"].map(stage);
        let (key, command) = (String::new(), "test".to_owned());
        let (user, address, now) = (key.clone(), key.clone(), Timestamp::now());
        let change = Change {
            user,
            key,
            address,
            command,
            now,
            overrides: false,
            rolling: deploy_wire::command::Rolling::default(),
        };
        let (other, v1) = ("other".parse().unwrap(), "v1".parse().unwrap());
        registry.bind_version(&other, &v1, bound, &change).await.unwrap();
        let name = "image".parse().unwrap();
        // The component `gone` has no version `v1`, as if another client had deleted the version
        // after the check.
        let upper = [("gone".parse().unwrap(), Clone::clone(&v1))];
        let layers = vec![layer("a", one), layer("b", two), layer("c", bound)];
        let wanted = NewImage { name: &name, layers: layers.clone(), upper: &upper };
        let refused = registry.bind_image(wanted.clone(), &change).await.unwrap_err();
        assert!(refused.to_string().contains("no version \"v1\""), "{refused}");
        let is_staged = |digest| {
            let blobs = registry.blobs().local();
            (blobs.is_staged(digest).unwrap(), blobs.contains(digest).unwrap())
        };
        assert_eq!([one, two, bound].map(is_staged), [(true, false), (true, false), (false, true)]);
        assert_eq!(registry.catalog.components(None, 9).await.unwrap(), [other]);
        // This upload expires after the check.
        registry.blobs().local().unstage(two).unwrap();
        let wanted = NewImage { upper: &[], ..wanted };
        let refused = registry.bind_image(wanted.clone(), &change).await.unwrap_err();
        assert!(matches!(refused, Error::MissingLayers(_)), "{refused}");
        assert_eq!(is_staged(one), (true, false));
        assert!(refused.to_string().contains("1 of 3 layers"), "{refused}");
        stage("two");
        registry.bind_image(wanted, &change).await.unwrap();
        assert_eq!([one, two].map(is_staged), [(false, true); 2]);
    }
}
