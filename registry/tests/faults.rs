//! Makes each disk operation of each verb in `VERBS` fail: either alone, or together with all later
//! operations, as in a crash. After each fault, no acknowledged change is missing, and there is no
//! damage except the injected damage. The verb can be repeated after the fault.

#![allow(clippy::print_stdout, reason = "the test prints the number of steps")]

#[path = "it/bench/mod.rs"]
mod bench;

use std::fs;
use std::time::Duration;

use bench::Bench;
use deploy_registry::registry::Settings;
use deploy_registry::verbs::verify_blobs::{Kind, Scope};
use deploy_store::Digest;
use deploy_store::disk::fault::{self, Fault};
use deploy_wire::command::Refusal;
use deploy_wire::image::{Compression, Image, ImageLayer, Origin};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Add,
    AddExisting,
    AddImage,
    Collect,
    Verify,
    TakeBack,
    Open,
}

const VERBS: [Verb; 7] = [
    Verb::Add,
    Verb::AddExisting,
    Verb::AddImage,
    Verb::Collect,
    Verb::Verify,
    Verb::TakeBack,
    Verb::Open,
];

/// A registry in which each verb has something to do.
struct World {
    bench: Bench,
    /// The digests of the blobs of `code:v1` to `code:v4`.
    digests: Vec<Digest>,
    damaged: Option<Digest>,
}

fn settings() -> Settings {
    Settings { max_versions: 2, keep_states: 1, grace: Duration::ZERO, ..Settings::default() }
}

impl World {
    async fn new(verb: Verb) -> Self {
        let bench = Bench::new(settings()).await;
        let mut digests = Vec::new();
        for version in ["v1", "v2", "v3", "v4"] {
            digests.push(bench.put("code", version, version).await);
        }
        bench.configure("p", &[("code", "v1")]).await.unwrap();
        let mut world = Self { bench, digests, damaged: None };
        match verb {
            Verb::Verify | Verb::TakeBack => world.damage(),
            Verb::Open => world.leave_partial_upload(),
            _ => {}
        }
        if verb == Verb::TakeBack {
            world.bench.registry().verify(Scope::default()).await.unwrap();
        }
        world
    }

    fn damage(&mut self) {
        let digest = self.digests[0];
        let file = self.bench.path("files").join(digest.to_string());
        let mut bytes = fs::read(&file).unwrap();
        bytes[700] ^= 1;
        fs::write(file, bytes).unwrap();
        self.damaged = Some(digest);
    }

    /// Leaves a partial upload, as a crash would.
    fn leave_partial_upload(&self) {
        fs::write(self.bench.path("uploads").join("upload-1-1"), "cut off").unwrap();
    }

    async fn act(&mut self, verb: Verb) -> Result<(), Refusal> {
        match verb {
            Verb::Add => {
                let registry = self.bench.registry();
                let mut staging = registry.blobs().local().stage()?;
                staging.write_at(0, &bench::archive("new"))?;
                let digest = staging.finish()?;
                self.bench.add("code", "v5", digest).await
            }
            Verb::AddExisting => {
                let registry = self.bench.registry();
                let mut staging = registry.blobs().local().stage()?;
                staging.write_at(0, &bench::archive("v4"))?;
                let digest = staging.finish()?;
                self.bench.add("again", "v1", digest).await
            }
            Verb::AddImage => self.add_image().await,
            Verb::Collect => Ok(self.bench.registry().collect(false).await.map(drop)?),
            Verb::Verify => {
                let verified = self.bench.registry().verify(Scope::default()).await?;
                assert!(verified.damaged() >= 1, "{verified:?}");
                Ok(())
            }
            Verb::TakeBack => {
                let registry = self.bench.registry();
                let mut staging = registry.blobs().local().stage()?;
                staging.write_at(0, &bench::archive("v1"))?;
                let digest = staging.finish()?;
                registry.take_back(digest).await?;
                self.damaged = None;
                Ok(())
            }
            Verb::Open => self.bench.try_reopen().await,
        }
    }

    /// Adds an image of three layers. One of these layers already exists.
    async fn add_image(&self) -> Result<(), Refusal> {
        let registry = self.bench.registry();
        let mut image = Image::default();
        for (component, text) in [("i1", "new 1"), ("i2", "v4"), ("i3", "new 3")] {
            let bytes = bench::archive(text);
            let (component, hash) = (component.parse().unwrap(), Digest::of(&bytes));
            let (removals, compression) = (Digest::of(b""), Compression::Gzip);
            let origin = Some(Origin { diff_id: hash, removals, compression });
            image.layers.push(ImageLayer { component, hash, origin });
            if text != "v4" {
                let mut staging = registry.blobs().local().stage()?;
                staging.write_at(0, &bytes)?;
                staging.finish()?;
            }
        }
        let name = "image".parse().unwrap();
        Ok(registry.add_image(&name, &image, &[], &bench::change()).await.map(drop)?)
    }

    /// Whether the image exists. Fails if only a part of the image exists.
    async fn has_image(&self, what: &str) -> bool {
        let registry = self.bench.registry();
        let configured = registry.catalog.configuration(&"image".parse().unwrap()).await.is_ok();
        let mut versions = 0;
        for component in ["i1", "i2", "i3"] {
            let component = component.parse().unwrap();
            versions += registry.catalog.versions(&component).await.unwrap_or_default().len();
        }
        let known = registry.known_layers(None).await.unwrap().len();
        assert_eq!((versions, known), if configured { (3, 3) } else { (0, 0) }, "{what}");
        configured
    }

    /// Checks that no acknowledged change is missing, and that there is no damage except the
    /// injected damage.
    async fn check(&self, verb: Verb, acknowledged: bool, what: &str) {
        let registry = self.bench.registry();
        let version = |component: &str, version: &str| {
            let catalog = registry.catalog.clone();
            let (component, version) = (component.parse().unwrap(), version.to_owned());
            async move {
                let versions = catalog.versions(&component).await.unwrap_or_default();
                versions.iter().any(|layer| layer.version.as_str() == version)
            }
        };
        for kept in ["v1", "v3", "v4"] {
            assert!(version("code", kept).await, "{what}: the version {kept} is missing");
        }
        let added = match verb {
            Verb::Add => version("code", "v5").await,
            Verb::AddExisting => version("again", "v1").await,
            Verb::AddImage => self.has_image(what).await,
            _ => acknowledged,
        };
        assert!(added || !acknowledged, "{what}: an acknowledged change is missing");
        let verified = registry.verify(Scope::default()).await.unwrap();
        match self.damaged {
            None => {
                // Nothing was damaged, or the verb has restored the damaged blob.
                assert!(verified.damaged() == 0, "{what}: {verified:?}");
            }
            Some(digest) => {
                let path = format!("files/{digest}");
                let right = |kind| matches!(kind, Kind::Damaged | Kind::Missing);
                let rest: Vec<_> = verified
                    .findings
                    .iter()
                    .filter(|finding| finding.path != path || !right(finding.kind))
                    .collect();
                assert!(rest.is_empty(), "{what}: {rest:?}");
                // After a fault, the blob may be restored although the verb failed.
                let back =
                    verb == Verb::TakeBack && registry.blobs().local().contains(digest).unwrap();
                assert!(back || verified.damaged() == 1, "{what}: {verified:?}");
                let aside = fs::read_dir(self.bench.path("quarantine")).unwrap().count();
                assert_eq!(aside, 1, "{what}: the damaged file is not in quarantine");
            }
        }
        let needed = registry.catalog.needs().await.unwrap();
        for digest in needed.keys().filter(|digest| self.damaged != Some(**digest)) {
            let file = self.bench.path("files").join(digest.to_string());
            assert_eq!(Digest::of(&fs::read(file).unwrap()), *digest, "{what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn registry_loses_nothing_when_any_disk_step_fails() {
    for verb in VERBS {
        for fault in [Fault::Broken, Fault::Short, Fault::Dead] {
            let mut n = 1;
            loop {
                let what = format!("{verb:?}, {fault:?} at {n}");
                let mut world = World::new(verb).await;
                fault::arm(n, fault);
                let done = world.act(verb).await;
                if !fault::disarm() {
                    done.unwrap_or_else(|err| panic!("{what}: {err}"));
                    break;
                }
                if fault == Fault::Dead || verb == Verb::Open {
                    world.bench.reopen().await;
                }
                world.check(verb, done.is_ok(), &what).await;
                if done.is_err() {
                    let again = world.act(verb).await;
                    if let Err(refusal) = again {
                        let done = refusal.text.contains("already exists");
                        assert!(done, "{what}, then again: {refusal}");
                    }
                    world.check(verb, true, &format!("{what}, then again")).await;
                }
                world.bench.reopen().await;
                world.check(verb, true, &format!("{what}, opened again")).await;
                n += 1;
            }
            println!("{verb:?}: {fault:?} at each of {} steps", n - 1);
            assert!(n > 2, "{verb:?} has {n} steps");
        }
    }
}
