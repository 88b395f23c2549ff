//! A registry that runs in the process of the test, with generated blobs.
#![allow(dead_code, reason = "each test file uses only a part of this module")]

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use deploy_registry::blob_store::BlobStore;
use deploy_registry::bucket::BucketSettings;
use deploy_registry::catalog::Change;
use deploy_registry::registry::{Place, Registry, Settings};
use deploy_registry::uploads::upload::Upload;
use deploy_store::Digest;
use deploy_wire::command::{Refusal, Rolling};
use jiff::Timestamp;

/// A new directory, if possible in memory, where fsync costs nothing. The directory is for tests
/// that have thousands of steps and do not simulate power cuts.
pub fn fast_dir() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::tempdir_in(dir).unwrap()
}

pub fn change() -> Change {
    Change {
        user: "me".into(),
        key: "SHA256:abc me".into(),
        address: "127.0.0.1:1".into(),
        command: "test".into(),
        now: Timestamp::now(),
        overrides: false,
        rolling: Rolling::default(),
    }
}

/// A tar archive with one file, whose contents are `text`.
pub fn archive(text: &str) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_size(text.len() as u64);
    header.set_mode(0o644);
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_data(&mut header, "file", text.as_bytes()).unwrap();
    archive.into_inner().unwrap()
}

/// Stages `bytes` as an upload does, and returns their digest.
pub async fn upload(registry: &Registry, bytes: &[u8]) -> Digest {
    if let BlobStore::Directory(blobs) = registry.blobs() {
        let mut staging = blobs.stage().unwrap();
        staging.write_at(0, bytes).unwrap();
        return staging.finish().unwrap();
    }
    try_upload(registry, bytes).await.unwrap()
}

/// Uploads `bytes` like a client.
pub async fn try_upload(registry: &Registry, bytes: &[u8]) -> Result<Digest, Refusal> {
    let mut upload = Upload::begin(&registry.uploads, "SHA256:abc me", None).await?;
    for (n, piece) in bytes.chunks(1 << 18).enumerate() {
        upload.write((n as u64) << 18, Bytes::copy_from_slice(piece)).await?;
    }
    Ok(registry.finish_upload(upload).await?)
}

/// The place of a registry in `dir`. `DEPLOY_TEST_POSTGRES` decides where its catalogue is, and
/// `DEPLOY_TEST_S3` decides where its blobs are.
pub fn place(dir: &Path) -> Place {
    let bucket = deploy_testing::bucket(dir).map(|address| bucket(&address, Duration::ZERO));
    Place { catalogue: deploy_testing::catalogue(dir), bucket, ..Place::from(dir) }
}

/// A bucket whose condemned objects are kept for the time `linger`.
pub fn bucket(address: &str, linger: Duration) -> BucketSettings {
    let address = address.parse().unwrap();
    let abandon = Duration::from_secs(3600);
    BucketSettings { address, cache: 64 << 20, linger, abandon, accepts_older: None }
}

/// The bytes of a stored blob.
pub async fn read(registry: &Registry, digest: Digest) -> Result<Vec<u8>, Refusal> {
    let blob = registry.blobs().open(digest).await?;
    blob.complete().await?;
    let mut bytes = vec![0; usize::try_from(blob.bytes).unwrap()];
    blob.file().read_exact_at(&mut bytes, 0).unwrap();
    Ok(bytes)
}

pub struct Bench {
    dir: tempfile::TempDir,
    settings: Settings,
    registry: Option<Registry>,
}

impl Bench {
    pub async fn new(settings: Settings) -> Self {
        let dir = fast_dir();
        let registry = Some(Registry::open(place(dir.path()), settings).await.unwrap());
        Self { dir, settings, registry }
    }

    pub fn registry(&self) -> &Registry {
        self.registry.as_ref().unwrap()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Opens the registry again, as after a restart of the program.
    pub async fn reopen(&mut self) {
        self.try_reopen().await.unwrap();
    }

    pub async fn close(&mut self) {
        if let Some(registry) = self.registry.take() {
            registry.catalog.close().await;
        }
    }

    /// Like [`Bench::reopen`], but may fail because of the disk.
    pub async fn try_reopen(&mut self) -> Result<(), Refusal> {
        if let Some(registry) = self.registry.take() {
            registry.catalog.close().await;
            let blobs = Arc::clone(registry.blobs().local());
            drop(registry);
            // When a program crashes, its threads end. So the threads of the old registry must end
            // before the new registry opens.
            while Arc::strong_count(&blobs) > 1 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        let opened = Registry::open(place(self.dir.path()), self.settings).await;
        let opened = opened.map_err(|err| Refusal::new(1, err.to_string()));
        self.registry = Some(opened?);
        Ok(())
    }

    pub async fn upload(&self, text: &str) -> Digest {
        upload(self.registry(), &archive(text)).await
    }

    pub async fn add(&self, component: &str, version: &str, digest: Digest) -> Result<(), Refusal> {
        let (component, version) = (component.parse().unwrap(), version.parse().unwrap());
        self.registry().add_version(&component, &version, digest, &change()).await?;
        Ok(())
    }

    /// Uploads an archive with `text`, and binds it to a version.
    pub async fn put(&self, component: &str, version: &str, text: &str) -> Digest {
        let digest = self.upload(text).await;
        self.add(component, version, digest).await.unwrap();
        digest
    }

    /// Makes or replaces a configuration.
    pub async fn configure(&self, name: &str, layers: &[(&str, &str)]) -> Result<(), Refusal> {
        let layers: Vec<_> = layers
            .iter()
            .map(|(component, version)| (component.parse().unwrap(), version.parse().unwrap()))
            .collect();
        let catalog = &self.registry().catalog;
        catalog.add_configuration(&name.parse().unwrap(), &layers, true, &change()).await?;
        Ok(())
    }
}
