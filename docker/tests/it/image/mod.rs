//! Images for tests. The images are composed byte by byte, so that a test can make any defect.
#![allow(dead_code, reason = "each test file uses its part")]

use std::io::Write as _;

use deploy_store::Digest;
use serde_json::{Value, json};

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A tar archive. Each call adds an entry, and names are not checked.
pub struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    pub fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn entry(mut self, name: &str, kind: tar::EntryType, link: &str, content: &[u8]) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
        header.set_mtime(1_700_000_000);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(content.len() as u64);
        // `set_path` would refuse bad names.
        let fields = header.as_old_mut();
        fields.name[..name.len()].copy_from_slice(name.as_bytes());
        fields.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    pub fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        self.entry(name, tar::EntryType::Regular, "", content.as_ref())
    }

    pub fn dir(self, name: &str) -> Self {
        self.entry(name, tar::EntryType::Directory, "", b"")
    }

    pub fn symlink(self, name: &str, to: &str) -> Self {
        self.entry(name, tar::EntryType::Symlink, to, b"")
    }

    pub fn hardlink(self, name: &str, to: &str) -> Self {
        self.entry(name, tar::EntryType::Link, to, b"")
    }

    pub fn end(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// Makes a layer with one file.
pub fn layer(name: &str, content: &str) -> Vec<u8> {
    Tar::new().file(name, content).end()
}

/// Makes an image's configuration for these uncompressed layers.
pub fn config(layers: &[Vec<u8>]) -> Value {
    let ids: Vec<_> = layers.iter().map(|layer| digest(layer)).collect();
    json!({
        "architecture": architecture(), "os": "linux",
        "config": {
            "Entrypoint": ["/bin/app", "-x"], "Env": ["A=b"], "User": "7", "WorkingDir": "/srv",
        },
        "rootfs": {"type": "layers", "diff_ids": ids},
    })
}

/// The processor of this machine, by its name in images.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", Digest::of(bytes))
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Makes an archive like `docker save` before version 25. `images` has the tag and the layers of
/// each image.
pub fn docker(images: &[(&str, &[Vec<u8>])]) -> Vec<u8> {
    let mut tar = Tar::new();
    let mut manifest = Vec::new();
    for (place, (tag, layers)) in images.iter().enumerate() {
        let names: Vec<_> = (0..layers.len()).map(|n| format!("{place}-{n}/layer.tar")).collect();
        for (name, layer) in names.iter().zip(*layers) {
            tar = tar.file(name, layer);
        }
        let config_name = format!("{place}.json");
        tar = tar.file(&config_name, config(layers).to_string());
        manifest.push(json!({"Config": config_name, "RepoTags": [tag], "Layers": names}));
    }
    tar.file("manifest.json", Value::from(manifest).to_string()).end()
}

/// Makes docker's manifest of an image `app:1` with these files as layers.
pub fn docker_manifest(layers: &[&str]) -> Value {
    json!([{"Config": "config.json", "RepoTags": ["app:1"], "Layers": layers}])
}

/// Makes a docker archive of any layers, configuration and manifest.
pub fn docker_with(layers: &[(&str, &[u8])], config: &Value, manifest: &Value) -> Vec<u8> {
    let tar = layers.iter().fold(Tar::new(), |tar, (name, layer)| tar.file(name, layer));
    tar.file("config.json", config.to_string()).file("manifest.json", manifest.to_string()).end()
}

/// An OCI layout: its blobs, and the entries of its index.
#[derive(Default)]
pub struct Layout {
    blobs: Vec<(String, Vec<u8>)>,
    listed: Vec<Value>,
}

impl Layout {
    /// Makes a layout with one image, named `app:1.4`, of these uncompressed layers.
    pub fn of(layers: &[Vec<u8>]) -> Self {
        let mut layout = Self::default();
        let parts: Vec<_> = layers.iter().map(|layer| layout.blob(LAYER, layer)).collect();
        let config = config(layers).to_string();
        let config = layout.blob(CONFIG, config.as_bytes());
        let manifest = layout.manifest(&config, &parts);
        layout.list(manifest);
        layout
    }

    /// The entries of the index.
    pub fn listed(&self) -> &[Value] {
        &self.listed
    }

    /// Adds a blob. Returns its descriptor.
    pub fn blob(&mut self, media: &str, bytes: &[u8]) -> Value {
        let digest = digest(bytes);
        self.blobs.push((digest.clone(), bytes.to_vec()));
        json!({"mediaType": media, "digest": digest, "size": bytes.len()})
    }

    /// Adds a manifest. Returns its descriptor.
    pub fn manifest(&mut self, config: &Value, layers: &[Value]) -> Value {
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers,
        });
        self.blob(MANIFEST, manifest.to_string().as_bytes())
    }

    /// Adds an index. Returns its descriptor.
    pub fn index(&mut self, manifests: &[Value]) -> Value {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
        self.blob(INDEX, index.to_string().as_bytes())
    }

    /// Lists `descriptor` in `index.json` as `app:1.4`.
    pub fn list(&mut self, descriptor: Value) {
        self.list_as("app:1.4", descriptor);
    }

    pub fn list_as(&mut self, name: &str, mut descriptor: Value) {
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        self.listed.push(descriptor);
    }

    /// Replaces the contents `from` of a blob by `to`. If several blobs have these contents, the
    /// last of them is changed. The blob keeps its name.
    pub fn replace(&mut self, from: &[u8], to: &[u8]) {
        let digest = digest(from);
        self.blobs.iter_mut().rfind(|(name, _)| *name == digest).unwrap().1 = to.to_vec();
    }

    /// Removes the blob with the contents `bytes`.
    pub fn remove(&mut self, bytes: &[u8]) {
        let digest = digest(bytes);
        self.blobs.retain(|(name, _)| *name != digest);
    }

    pub fn archive(&self) -> Vec<u8> {
        let index = json!({"schemaVersion": 2, "manifests": self.listed});
        let tar = Tar::new().file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
        let tar = tar.file("index.json", index.to_string());
        let add = |tar: Tar, (digest, bytes): &(String, Vec<u8>)| {
            tar.file(&format!("blobs/{}", digest.replace(':', "/")), bytes)
        };
        self.blobs.iter().fold(tar, add).end()
    }
}
