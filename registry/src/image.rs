//! Images that become configurations: what is known of their layers, and the one step at the
//! end of an import.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use deploy_store::{ComponentName, ConfigurationName, Digest, VersionName};
use deploy_wire::command::Refusal;
use deploy_wire::exit;
use deploy_wire::image::{Image, KnownLayer, Origin};
use jiff::Timestamp;

use crate::catalog::{Change, Imaged, NewImage, NewLayer};
use crate::registry::{Registry, blocking};

/// Missing layers that are named.
const NAMED: usize = 5;

impl Registry {
    /// The layers of images whose blobs are here; of `asked` only, if that is given, and then
    /// they stay for as long as an upload does.
    pub async fn known_layers(&self, asked: Option<&[Origin]>) -> Result<Vec<KnownLayer>, Refusal> {
        let mut known = match asked {
            None => self.catalog.layers().await?,
            Some(asked) => self.catalog.known_layers(asked, Timestamp::now()).await?,
        };
        let blobs = Arc::clone(self.blobs());
        let here = blocking(move || {
            let mut here = Vec::with_capacity(known.len());
            for layer in known.drain(..) {
                // A file that is lost is not known, whatever its row says.
                if blobs.contains(layer.hash)? {
                    here.push(layer);
                }
            }
            Ok(here)
        });
        Ok(here.await?)
    }

    /// Makes a configuration of `image` with the layers `upper` on top, or replaces the layers
    /// of one. The order: look for what is against it, check the archives, publish the blobs,
    /// then all rows in one transaction. When that fails, the blobs go back to where they
    /// were uploaded to.
    pub async fn add_image(
        &self,
        name: &ConfigurationName,
        image: &Image,
        upper: &[(ComponentName, VersionName)],
        change: &Change,
    ) -> Result<Imaged, Refusal> {
        let layers = image.layers.iter().map(|layer| NewLayer {
            component: layer.component.clone(),
            digest: layer.hash,
            bytes: 0,
            origin: layer.origin,
        });
        let mut wanted = NewImage { name, layers: layers.collect(), upper };
        self.catalog.check_image(&wanted, change).await?;
        let digests: BTreeSet<Digest> = wanted.layers.iter().map(|layer| layer.digest).collect();
        let digests: Vec<Digest> = digests.into_iter().collect();
        self.check_layers(&wanted.layers).await?;

        let binding = self.binding.lock().await;
        let (blobs, all) = (Arc::clone(self.blobs()), digests.clone());
        let published = match blocking(move || blobs.publish_all(&all)).await {
            Ok(published) => published,
            // Collected, or expired, since it was looked at.
            Err(deploy_store::Error::NoSuchBlob(_)) => {
                let (missing, _) = self.sort_layers(&wanted.layers)?;
                return Err(missing_layers(&wanted.layers, &missing));
            }
            Err(err) => return Err(err.into()),
        };
        let added = match self.measure(&mut wanted.layers) {
            Ok(()) => self.catalog.add_image(&wanted, change).await.map_err(Refusal::from),
            Err(refusal) => Err(refusal),
        };
        if added.is_err() {
            let mut unbound = Vec::with_capacity(published.len());
            for digest in published {
                if !self.catalog.is_bound(digest).await? {
                    unbound.push(digest);
                }
            }
            self.blobs().withdraw_all(&unbound)?;
        }
        drop(binding);
        self.staged.settle(|digest| self.blobs().is_staged(digest).unwrap_or(true));
        added
    }

    /// Whether all layers are here, and those that are only staged are archives that agents
    /// can unpack.
    async fn check_layers(&self, layers: &[NewLayer]) -> Result<(), Refusal> {
        let (missing, staged) = self.sort_layers(layers)?;
        if !missing.is_empty() {
            return Err(missing_layers(layers, &missing));
        }
        // As many at once as may be.
        let rest = Mutex::new(staged);
        let next = || rest.lock().unwrap_or_else(PoisonError::into_inner).pop_first();
        let some = async || {
            while let Some(digest) = next() {
                if let Err(refusal) = self.check_staged(digest).await {
                    // The others need not be looked at.
                    while next().is_some() {}
                    return Err(refusal);
                }
            }
            Ok(())
        };
        let (one, other) = tokio::join!(some(), some());
        one.and(other)
    }

    /// The blobs of `layers` that are not here, and those that are only staged.
    fn sort_layers(
        &self,
        layers: &[NewLayer],
    ) -> Result<(BTreeSet<Digest>, BTreeSet<Digest>), Refusal> {
        let (mut missing, mut staged) = (BTreeSet::new(), BTreeSet::new());
        for NewLayer { digest, .. } in layers {
            if self.blobs().contains(*digest)? {
                continue;
            }
            if self.blobs().is_staged(*digest)? {
                staged.insert(*digest);
            } else {
                missing.insert(*digest);
            }
        }
        Ok((missing, staged))
    }

    fn measure(&self, layers: &mut [NewLayer]) -> Result<(), Refusal> {
        for layer in layers {
            layer.bytes = self.blobs().size(layer.digest)?.unwrap_or(0);
        }
        Ok(())
    }
}

fn missing_layers(layers: &[NewLayer], missing: &BTreeSet<Digest>) -> Refusal {
    let lacking: Vec<&NewLayer> =
        layers.iter().filter(|layer| missing.contains(&layer.digest)).collect();
    let mut text =
        format!("{} of {} layers are not here, upload them again:", lacking.len(), layers.len());
    for layer in lacking.iter().take(NAMED) {
        write!(text, "\n{}  {}", layer.digest, layer.component).expect("a string takes any text");
    }
    if lacking.len() > NAMED {
        write!(text, "\nand {} more", lacking.len() - NAMED).expect("a string takes any text");
    }
    Refusal::new(exit::NOT_FOUND, text)
}
