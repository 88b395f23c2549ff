//! Parses the documents of an image. These are the OCI image index, manifest and configuration (OCI
//! Image Format Specification 1.1), their Docker forms (Image Manifest Version 2, Schema 2), and
//! the `manifest.json` of `docker save`. This module uses neither the disk nor the network. Each
//! list of descriptors, images, layers, names or URLs may have at most [`MAX_LAYERS`] items.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use deploy_store::{Digest, MAX_LAYERS};
use serde::de::{Error as _, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// A reference from an index or a manifest to a blob.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The media type of the blob; empty if the document does not state it.
    #[serde(default)]
    pub media_type: String,
    /// The digest of the blob, as the document states it. [`digest_of`] accepts only `sha256:` and
    /// 64 hex digits.
    pub digest: String,
    /// The length of the blob in bytes.
    pub size: u64,
    /// Other places from which the blob can be downloaded.
    #[serde(default, deserialize_with = "few")]
    pub urls: Vec<String>,
    /// The platform of the image, if the document states it.
    pub platform: Option<Platform>,
    /// The annotations, by their keys.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

/// An operating system and a processor.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Platform {
    /// The operating system, by its name in Go.
    #[serde(default)]
    pub os: String,
    /// The processor, by its name in Go.
    #[serde(default)]
    pub architecture: String,
    /// The variant of the processor, for example `v8`.
    #[serde(default)]
    pub variant: Option<String>,
}

/// The contents of a document that is an index or a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Described {
    /// An index. Its descriptors lead to manifests or to further indexes.
    Index(Vec<Descriptor>),
    /// A manifest, which describes an image.
    Manifest(Box<Manifest>),
}

/// An image's configuration and layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The descriptor of the image's configuration.
    pub config: Descriptor,
    /// The descriptors of the layers, lowest layer first.
    pub layers: Vec<Descriptor>,
    /// Whether the manifest has a `subject`, which refers to another manifest. For example, the
    /// subject of a signature is the signed manifest.
    pub subject: bool,
    /// The type of the content, if the content is not an image.
    pub artifact_type: Option<String>,
}

impl Manifest {
    /// Returns `None` if the manifest describes an image. Otherwise returns a descriptor of the
    /// manifest, and the reason why this descriptor does not belong to an image. Registries also
    /// store signatures, attestations, lists of components, charts and other content.
    pub fn why_no_image(&self) -> Option<(&Descriptor, String)> {
        let of_config = |reason: String| Some((&self.config, reason));
        if self.subject {
            return of_config(
                "belongs to a manifest that describes another manifest, and not an image"
                    .to_owned(),
            );
        }
        if let Some(kind) = &self.artifact_type {
            return of_config(format!(
                "belongs to an artifact of the type {kind:?}, which is not an image"
            ));
        }
        let media_type = &*self.config.media_type;
        if !matches!(media_type, "" | OCI_CONFIG | DOCKER_CONFIG) {
            return of_config(format!(
                "has the media type {media_type:?}, which is not an image's configuration"
            ));
        }
        let first = self.layers.first()?;
        let none = self.layers.iter().all(|layer| !is_layer(&layer.media_type));
        none.then(|| (first, check_layer_type(&first.media_type).err().unwrap_or_default()))
    }
}

/// An image in the file `manifest.json` of `docker save`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Saved {
    /// The name of the file with the image's configuration.
    pub config: String,
    /// The names of the image, with their tags.
    #[serde(default, deserialize_with = "few")]
    pub repo_tags: Vec<String>,
    /// The names of the layers' files, lowest layer first.
    #[serde(default, deserialize_with = "few")]
    pub layers: Vec<String>,
}

/// The configuration of an image. The parser ignores all other fields of the document.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Config {
    /// The platform of the image.
    #[serde(flatten)]
    pub platform: Platform,
    /// The digests of the layers.
    pub rootfs: RootFs,
    /// The settings for running the image.
    pub config: Option<Run>,
}

/// The part of an image's configuration that lists the layers.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct RootFs {
    /// The digests of the uncompressed tars, lowest layer first.
    #[serde(deserialize_with = "few")]
    pub diff_ids: Vec<String>,
}

/// The settings for running an image, which are the contents of `.deploy/image.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Run {
    /// The user, and optionally the group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The ports on which the image listens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exposed_ports: Option<BTreeMap<String, serde_json::Value>>,
    /// The environment variables, as `NAME=value`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<Vec<String>>,
    /// The program, and the arguments that always come first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// The default arguments; without `entrypoint`, the program and its arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// The directories for the data of the image's process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volumes: Option<BTreeMap<String, serde_json::Value>>,
    /// The working directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// The labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// The signal that stops the image's process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
}

/// The fields of an index and of a manifest. The parser refuses a document that has a list of
/// manifests and also layers or a configuration (CVE-2021-41190).
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Either {
    schema_version: Option<u64>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    subject: Option<IgnoredAny>,
    /// A null list differs from a missing list, because docker 25 writes an index with a null list.
    #[serde(default, deserialize_with = "few_or_null")]
    manifests: Manifests,
    #[serde(default, deserialize_with = "few_or_none")]
    layers: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
}

/// The reason to refuse a document that is neither an index nor a manifest.
pub const NEITHER: &str = "is neither an index nor a manifest of an image";
/// The reason to refuse a document that is both an index and a manifest.
pub const BOTH: &str = "is both an index and a manifest";

const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.";

/// The list of descriptors in an index.
#[derive(Debug, Default)]
enum Manifests {
    #[default]
    Absent,
    Null,
    List(Vec<Descriptor>),
}

/// Reads an index or a manifest. `media_type` is the media type that the document's descriptor
/// announces.
pub fn described(bytes: &[u8], media_type: &str) -> Result<Described, String> {
    let either: Either = json(bytes)?;
    if let Some(own) = either.media_type.as_deref().filter(|own| !own.is_empty())
        && !media_type.is_empty()
        && own != media_type
    {
        return Err(format!("has the media type {own:?}, but {media_type:?} is announced"));
    }
    if either.schema_version.is_some_and(|version| version != 2) {
        return Err("has a schema version other than 2".to_owned());
    }
    match (either.manifests, either.config, either.layers) {
        (Manifests::List(_), _, Some(_)) | (Manifests::List(_), Some(_), _) => Err(BOTH.to_owned()),
        (Manifests::List(manifests), None, None) => Ok(Described::Index(manifests)),
        (Manifests::Null, None, None) => Ok(Described::Index(Vec::new())),
        (_, Some(config), Some(layers)) => {
            let subject = either.subject.is_some();
            let artifact_type = either.artifact_type.filter(|kind| !kind.is_empty());
            Ok(Described::Manifest(Box::new(Manifest { config, layers, subject, artifact_type })))
        }
        _ => Err(NEITHER.to_owned()),
    }
}

/// Reads `manifest.json`.
pub fn saved(bytes: &[u8]) -> Result<Vec<Saved>, String> {
    #[derive(Deserialize)]
    struct All(#[serde(deserialize_with = "few")] Vec<Saved>);
    json::<All>(bytes).map(|all| all.0)
}

/// Reads a configuration.
pub fn config(bytes: &[u8]) -> Result<Config, String> {
    json(bytes)
}

/// Reads the sha256 digest of a descriptor.
pub fn digest_of(text: &str) -> Result<Digest, String> {
    match text.strip_prefix("sha256:") {
        Some(hex) => {
            hex.parse().map_err(|err: deploy_store::Error| format!("has a malformed {err}"))
        }
        None => Err(format!(
            "has the digest {text:?}, which is not a sha256 digest: use sha256 digests"
        )),
    }
}

/// Checks that a media type belongs to a supported layer.
pub fn check_layer_type(media_type: &str) -> Result<(), String> {
    let kind = media_type.strip_prefix(OCI_LAYER).or_else(|| media_type.strip_prefix(DOCKER_LAYER));
    if media_type.ends_with("+encrypted") {
        return Err("is encrypted: decrypt the image first, for example with skopeo".to_owned());
    }
    match kind {
        Some(
            "v1.tar"
            | "v1.tar+gzip"
            | "v1.tar+zstd"
            | "nondistributable.v1.tar"
            | "nondistributable.v1.tar+gzip"
            | "nondistributable.v1.tar+zstd"
            | "diff.tar"
            | "diff.tar.gzip"
            | "diff.tar.zstd"
            | "foreign.diff.tar"
            | "foreign.diff.tar.gzip",
        ) => Ok(()),
        _ => Err(format!(
            "has the media type {media_type:?}, which is not a supported type of layer"
        )),
    }
}

/// Whether a media type belongs to a layer, even if the layer is not supported.
fn is_layer(media_type: &str) -> bool {
    [OCI_LAYER, DOCKER_LAYER].iter().any(|prefix| media_type.starts_with(prefix))
}

/// Whether a media type belongs to an index.
pub fn is_index(media_type: &str) -> bool {
    matches!(
        media_type,
        "application/vnd.oci.image.index.v1+json"
            | "application/vnd.docker.distribution.manifest.list.v2+json"
    )
}

/// Whether a media type belongs to an image manifest.
pub fn is_manifest(media_type: &str) -> bool {
    matches!(
        media_type,
        "application/vnd.oci.image.manifest.v1+json"
            | "application/vnd.docker.distribution.manifest.v2+json"
    )
}

impl Platform {
    /// Whether this platform matches the requested platform.
    pub fn fits(&self, asked: &Self) -> bool {
        // For arm64, v8 is the default variant, and most documents omit it.
        let variant = |platform: &Self| match &platform.variant {
            Some(variant) if platform.architecture == "arm64" && variant == "v8" => None,
            Some(variant) if variant.is_empty() => None,
            other => other.clone(),
        };
        self.os == asked.os
            && self.architecture == asked.architecture
            && variant(asked).is_none_or(|asked| variant(self) == Some(asked))
    }
}

impl FromStr for Platform {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split('/').collect();
        let (os, architecture, variant) = match *parts {
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some(variant.to_owned())),
            _ => ("", "", None),
        };
        if os.is_empty() || architecture.is_empty() {
            return Err(format!("platform {text:?} is neither os/arch nor os/arch/variant"));
        }
        Ok(Self { os: os.to_owned(), architecture: architecture.to_owned(), variant })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os.escape_debug(), self.architecture.escape_debug())?;
        match self.variant.as_deref().filter(|variant| !variant.is_empty()) {
            Some(variant) => write!(f, "/{}", variant.escape_debug()),
            None => Ok(()),
        }
    }
}

fn json<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|err| format!("is malformed: {err}"))
}

/// Reads a list of at most [`MAX_LAYERS`] items, so that the memory of the list is limited. Reads
/// null as an empty list.
fn few<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    Ok(few_or_none(from)?.unwrap_or_default())
}

/// Reads a list, and distinguishes null from a missing field.
fn few_or_null<'de, D: Deserializer<'de>>(from: D) -> Result<Manifests, D::Error> {
    few_or_none(from).map(|list| list.map_or(Manifests::Null, Manifests::List))
}

fn few_or_none<'de, D, T>(from: D) -> Result<Option<Vec<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Few<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Few<T> {
        type Value = Option<Vec<T>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
            let mut list = Vec::new();
            while let Some(item) = items.next_element()? {
                if list.len() == MAX_LAYERS {
                    let text = format!("a list has more than {MAX_LAYERS} items");
                    return Err(A::Error::custom(text));
                }
                list.push(item);
            }
            Ok(Some(list))
        }
    }

    from.deserialize_any(Few(PhantomData))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn descriptor() -> String {
        format!(r#"{{"mediaType":"x","digest":"{DIGEST}","size":3}}"#)
    }

    #[test]
    fn indexes_and_manifests_are_distinguished() {
        let one = descriptor();
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{one}]}}"#);
        let manifest = format!(r#"{{"schemaVersion":2,"config":{one},"layers":[{one},{one}]}}"#);
        assert!(
            matches!(described(index.as_bytes(), "m"), Ok(Described::Index(list)) if list.len() == 1)
        );
        let read = described(manifest.as_bytes(), "").unwrap();
        assert!(matches!(read, Described::Manifest(manifest) if manifest.layers.len() == 2));
        for bad in [
            format!(r#"{{"manifests":[{one}],"config":{one},"layers":[{one}]}}"#),
            format!(r#"{{"manifests":[{one}],"layers":[]}}"#),
            format!(r#"{{"schemaVersion":1,"manifests":[{one}]}}"#),
            r#"{"mediaType":"other","manifests":[]}"#.to_owned(),
            "{}".to_owned(),
            r#"{"layers":null,"config":null}"#.to_owned(),
            "[]".to_owned(),
            r#"{"manifests":[{"digest":"x","size":-1}]}"#.to_owned(),
        ] {
            assert!(described(bad.as_bytes(), "m").is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn artifacts_are_distinguished_from_images() {
        let null = described(br#"{"schemaVersion":2,"manifests":null}"#, "").unwrap();
        assert_eq!(null, Described::Index(Vec::new()));
        let of = |config: &str, layer: &str, more: &str| {
            let part = |kind: &str| descriptor().replace("\"x\"", &format!("{kind:?}"));
            let (config, layer) = (part(config), part(layer));
            let json = format!(r#"{{"config":{config},"layers":[{layer}]{more}}}"#);
            match described(json.as_bytes(), "").unwrap() {
                Described::Manifest(manifest) => manifest.why_no_image().map(|(_, why)| why),
                Described::Index(_) => panic!("{json} was read as an index"),
            }
        };
        let tar = "application/vnd.oci.image.layer.v1.tar";
        for (config, layer, more, want) in [
            (OCI_CONFIG, tar, "", None),
            (DOCKER_CONFIG, tar, "", None),
            ("", "application/vnd.oci.image.layer.v2.tar", r#","artifactType":"""#, None),
            (OCI_CONFIG, tar, r#","subject":{"digest":"x"}"#, Some("another manifest")),
            (OCI_CONFIG, tar, r#","artifactType":"text/spdx""#, Some("text/spdx")),
            ("application/vnd.cncf.helm.config.v1+json", tar, "", Some("helm")),
            (OCI_CONFIG, "application/vnd.dev.cosign.simplesigning.v1+json", "", Some("cosign")),
            (OCI_CONFIG, "application/vnd.in-toto+json", "", Some("in-toto")),
        ] {
            let why = of(config, layer, more);
            let fits = match (&why, want) {
                (Some(why), Some(want)) => why.contains(want),
                (None, None) => true,
                _ => false,
            };
            assert!(fits, "{config} {layer} {more}: {why:?}");
        }
    }

    #[test]
    fn lists_are_limited() {
        let layers = "\"x\",".repeat(100_000) + "\"x\"";
        let many = format!(r#"[{{"Config":"c","RepoTags":null,"Layers":[{layers}]}}]"#);
        assert!(saved(many.as_bytes()).unwrap_err().contains("more than 10000"));
        let one = saved(br#"[{"Config":"c","RepoTags":null,"Layers":["x"]}]"#).unwrap();
        assert_eq!((one[0].repo_tags.len(), &*one[0].layers), (0, &["x".to_owned()][..]));
    }

    #[test]
    fn platforms_match_by_system_processor_and_variant() {
        let platform = |text: &str| text.parse::<Platform>();
        let arm = platform("linux/arm64").unwrap();
        let with = platform("linux/arm64/v8").unwrap();
        assert!(arm.fits(&with) && with.fits(&arm));
        let (six, seven) = (platform("linux/arm/v6").unwrap(), platform("linux/arm/v7").unwrap());
        assert!(!six.fits(&seven) && six.fits(&platform("linux/arm").unwrap()));
        assert_eq!(six.to_string(), "linux/arm/v6");
        for bad in ["", "linux", "/amd64", "linux/", "a/b/c/d"] {
            assert!(platform(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn layers_are_recognised_by_media_type() {
        for good in [
            "application/vnd.oci.image.layer.v1.tar+zstd",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
        ] {
            check_layer_type(good).unwrap();
        }
        let bad = |media_type| check_layer_type(media_type).unwrap_err();
        assert!(bad("application/vnd.oci.image.layer.v1.tar+gzip+encrypted").contains("encrypted"));
        assert!(bad("application/vnd.in-toto+json").contains("media type"));
        assert!(digest_of("sha512:00").unwrap_err().contains("not a sha256"));
        assert!(digest_of(DIGEST).is_ok());
    }
}
