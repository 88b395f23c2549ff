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
        let wanted = NewImage { name, layers: layers.collect(), upper };
        self.catalog.check_image(&wanted, change).await?;
        self.check_layers(&wanted.layers).await?;
        self.bind_image(wanted, change).await
    }

    /// Makes a configuration of an image whose blobs were checked.
    async fn bind_image(
        &self,
        mut wanted: NewImage<'_>,
        change: &Change,
    ) -> Result<Imaged, Refusal> {
        let digests: BTreeSet<Digest> = wanted.layers.iter().map(|layer| layer.digest).collect();
        let digests: Vec<Digest> = digests.into_iter().collect();
        let binding = self.binding.lock().await;
        let blobs = Arc::clone(self.blobs());
        let published = match blocking(move || blobs.publish_all(&digests)).await {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Settings;

    fn layer(component: &str, digest: Digest) -> NewLayer {
        NewLayer { component: component.parse().unwrap(), digest, bytes: 0, origin: None }
    }

    #[tokio::test]
    async fn what_comes_between_the_check_and_the_rows_leaves_blobs_where_they_were() {
        let temp = tempfile::tempdir().unwrap();
        let registry = Registry::open(temp.path(), Settings::default()).await.unwrap();
        let stage = |text: &str| {
            let mut staging = registry.blobs().stage().unwrap();
            staging.write_at(0, text.as_bytes()).unwrap();
            staging.finish().unwrap()
        };
        let [one, two, bound] = ["one", "two", "bound"].map(stage);
        let (who, command) = (String::new(), "test".to_owned());
        let (login, address, now) = (who.clone(), who.clone(), Timestamp::now());
        let change = Change { login, who, address, command, now };
        let (other, v1) = ("other".parse().unwrap(), "v1".parse().unwrap());
        registry.bind(&other, &v1, bound, &change).await.unwrap();
        let name = "image".parse().unwrap();
        // As if it had been deleted since.
        let upper = [("gone".parse().unwrap(), Clone::clone(&v1))];
        let layers = vec![layer("a", one), layer("b", two), layer("c", bound)];
        let wanted = NewImage { name: &name, layers: layers.clone(), upper: &upper };
        let refused = registry.bind_image(wanted.clone(), &change).await.unwrap_err();
        assert!(refused.text.contains("no version \"v1\""), "{refused}");
        let is_staged = |digest| {
            let blobs = registry.blobs();
            (blobs.is_staged(digest).unwrap(), blobs.contains(digest).unwrap())
        };
        assert_eq!([one, two, bound].map(is_staged), [(true, false), (true, false), (false, true)]);
        assert_eq!(registry.catalog.components().await.unwrap(), [other]);
        // And an upload that has expired since.
        registry.blobs().unstage(two).unwrap();
        let wanted = NewImage { upper: &[], ..wanted };
        let refused = registry.bind_image(wanted.clone(), &change).await.unwrap_err();
        assert_eq!((refused.code, is_staged(one)), (exit::NOT_FOUND, (true, false)), "{refused}");
        assert!(refused.text.contains("1 of 3 layers"), "{refused}");
        stage("two");
        registry.bind_image(wanted, &change).await.unwrap();
        assert_eq!([one, two].map(is_staged), [(false, true); 2]);
    }
}
