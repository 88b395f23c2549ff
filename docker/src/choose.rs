//! Chooses one image of an archive, and finds the layers of this image.

pub mod manifest;
pub mod peek;
mod walk;

use deploy_store::{Digest, plural};

use crate::error::{Error, Result};
use crate::read::image_archive::{Archive, Document, Item};
use crate::read::input::name_of;
use manifest::{
    Config, Described, Descriptor, Manifest, Platform, Run, Saved, check_layer_type, digest_of,
};
use walk::Walk;

/// The maximum number of images that a message lists.
const MAX_LISTED: usize = 20;

/// The name and the platform of the image that the user asks for. `None` matches every image.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// A name of the image, or the first digits of its id.
    pub image: Option<String>,
    /// The platform.
    pub platform: Option<Platform>,
}

/// The image that [`choose`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// The names of the image. If the user does not name the new configuration of the registry, its
    /// name is derived from the first of these names.
    pub names: Vec<String>,
    /// The image's layers as indexes into [`Archive::layers`], lowest layer first.
    pub layers: Vec<usize>,
    /// The settings for running the image.
    pub run: Run,
}

/// One of the images in the archive, from which [`choose`] chooses.
#[derive(Debug)]
struct Candidate {
    names: Vec<String>,
    /// The digests of the manifest and of the image's configuration, as far as they are known.
    ids: Vec<Digest>,
    platform: Option<Platform>,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Manifest(Manifest),
    Saved(Saved),
}

/// Finds the one image that matches `wanted`.
pub fn choose(archive: &Archive, wanted: &Wanted) -> Result<Chosen> {
    let mut candidates = candidates(archive)?;
    if candidates.is_empty() {
        return Err(Error::archive("has no image"));
    }
    let all = listed(&candidates);
    let narrow =
        |candidates: &mut Vec<Candidate>, what: String, fits: &dyn Fn(&Candidate) -> bool| {
            candidates.retain(|candidate| fits(candidate));
            if candidates.is_empty() {
                let text = format!("the archive has no image {what}; it has: {all}");
                return Err(Error::Choice(text));
            }
            Ok(())
        };
    if let Some(image) = &wanted.image {
        narrow(&mut candidates, format!("called {image:?}"), &|candidate| {
            candidate.is_called(image)
        })?;
    }
    if let Some(platform) = &wanted.platform {
        let what = match &wanted.image {
            Some(image) => format!("called {image:?} for {platform}"),
            None => format!("for {platform}"),
        };
        narrow(&mut candidates, what, &|candidate| {
            candidate.platform.as_ref().is_some_and(|own| own.fits(platform))
        })?;
    }
    match candidates.as_slice() {
        [one] => resolve(archive, one),
        several => Err(Error::Choice(format!(
            "the archive has several images: {}; choose one with -image or -platform",
            listed(several)
        ))),
    }
}

fn listed(candidates: &[Candidate]) -> String {
    let mut names: Vec<String> =
        candidates.iter().take(MAX_LISTED).map(Candidate::described).collect();
    if candidates.len() > MAX_LISTED {
        names.push(format!("and {} more", candidates.len() - MAX_LISTED));
    }
    names.join(", ")
}

impl Candidate {
    fn is_called(&self, asked: &str) -> bool {
        let id = asked.strip_prefix("sha256:").unwrap_or(asked);
        self.names.iter().any(|name| {
            name == asked || plain_name(name) == plain_name(asked) || tag_of(name) == Some(asked)
        }) || id.len() >= 12 && self.ids.iter().any(|own| own.to_string().starts_with(id))
    }

    fn described(&self) -> String {
        let id = self.ids.first().map(ToString::to_string).unwrap_or_default();
        let name = self.names.first().map_or(&id[..id.len().min(12)], |name| name);
        let name = deploy_store::escape(name);
        self.platform.as_ref().map_or(name.clone(), |platform| format!("{name} ({platform})"))
    }
}

/// The normal form of an image's name, in which names are compared. The normal form has no prefix
/// that docker omits when it prints a name. If `name` has no tag, the normal form has the tag
/// `latest`.
fn plain_name(name: &str) -> String {
    let short = name.strip_prefix("docker.io/library/").or_else(|| name.strip_prefix("docker.io/"));
    let short = short.unwrap_or(name);
    match tag_of(short) {
        Some(_) => short.to_owned(),
        None => format!("{short}:latest"),
    }
}

fn tag_of(name: &str) -> Option<&str> {
    name.rsplit_once(':').map(|(_, tag)| tag).filter(|tag| !tag.contains('/'))
}

fn candidates(archive: &Archive) -> Result<Vec<Candidate>> {
    let mut found = Vec::new();
    let mut skipped = None;
    let (has_index, has_saved) =
        (archive.contains("index.json"), archive.contains("manifest.json"));
    if has_index {
        match index_of(archive) {
            Ok(list) => Walk::new(archive, &mut found, &mut skipped).index(&list, &[], 0)?,
            // `manifest.json` may still describe an image. The function returns this error only if
            // `manifest.json` describes no image.
            Err(err)
                if has_saved
                    && !matches!(&err, Error::Item { reason, .. } if reason == manifest::BOTH) =>
            {
                skipped = Some(err);
            }
            Err(err) => return Err(err),
        }
    }
    if has_saved {
        let document = document(archive.item("manifest.json")?, "manifest.json")?;
        let of_saved = |reason| Error::item("manifest.json", reason);
        for saved in manifest::saved(&document.bytes).map_err(of_saved)? {
            add_saved(archive, &mut found, saved)?;
        }
    } else if !has_index {
        return Err(Error::archive("has neither manifest.json nor index.json"));
    }
    match skipped {
        Some(err) if found.is_empty() => Err(err),
        _ => Ok(found),
    }
}

/// The descriptors in `index.json`.
fn index_of(archive: &Archive) -> Result<Vec<Descriptor>> {
    let document = document(archive.item("index.json")?, "index.json")?;
    let of_index = |reason| Error::item("index.json", reason);
    match manifest::described(&document.bytes, "").map_err(of_index)? {
        Described::Index(list) => Ok(list),
        Described::Manifest(_) => Err(of_index("is not an index".to_owned())),
    }
}

/// Adds an image of `manifest.json` to `found`. If `index.json` has the same image, that image also
/// gets the names of `manifest.json`.
fn add_saved(archive: &Archive, found: &mut Vec<Candidate>, saved: Saved) -> Result<()> {
    // The file of an image's configuration is usually named after the digest of that configuration.
    let stem = saved.config.rsplit('/').next().unwrap_or_default();
    let announced = stem.strip_suffix(".json").unwrap_or(stem).parse::<Digest>().ok();
    let (mut ids, mut platform) = (Vec::new(), None);
    let is_there = name_of(&saved.config).is_none_or(|path| archive.contains(&path));
    // An archive that was made by hand may lack the image's configuration. The Go importer accepts
    // such an archive, too.
    if is_there || announced.is_some() {
        let document = document(named(archive, &saved.config)?, &saved.config)?;
        if announced.is_some_and(|announced| announced != document.digest) {
            let reason = format!("is damaged: its sha256 is {}", document.digest);
            return Err(Error::item(saved.config, reason));
        }
        if let Some(same) = found.iter_mut().find(|other| other.ids.contains(&document.digest)) {
            let tags = saved.repo_tags.iter().filter(|tag| !tag.is_empty()).cloned();
            let others = std::mem::take(&mut same.names);
            same.names = tags.chain(others).collect();
            return Ok(());
        }
        let fail = |reason| Error::item(&saved.config, reason);
        platform = Some(manifest::config(&document.bytes).map_err(fail)?.platform);
        ids.push(document.digest);
    }
    let names = saved.repo_tags.clone();
    found.push(Candidate { names, ids, platform, source: Source::Saved(saved) });
    Ok(())
}

fn resolve(archive: &Archive, candidate: &Candidate) -> Result<Chosen> {
    let config_digest = candidate.ids.last().copied();
    let layers: Vec<(String, usize)> = match &candidate.source {
        Source::Manifest(manifest) => {
            if let Some(digest) = config_digest {
                check_size(&manifest.config, size_of(archive, digest)?)?;
            }
            manifest.layers.iter().map(|layer| layer_of(archive, layer)).collect::<Result<_>>()?
        }
        Source::Saved(saved) => {
            let diff_ids = config_digest
                .and_then(|digest| read_config(archive, digest).ok())
                .map_or_else(Vec::new, |config| config.rootfs.diff_ids);
            let layer = |(at, name): (usize, &String)| {
                let found = match named(archive, name) {
                    Ok(item) => number(item, name),
                    // Old versions of docker wrote some layers as links to files that are not in
                    // the archive. Such a layer is found by its digest, which the image's
                    // configuration states.
                    Err(err) => {
                        diff_ids.get(at).and_then(|id| with_diff_id(archive, id)).ok_or(err)
                    }
                };
                Ok((name.clone(), found?))
            };
            saved.layers.iter().enumerate().map(layer).collect::<Result<_>>()?
        }
    };
    // The image's configuration is checked after the layers, so that a Helm chart gives a helpful
    // error. The configuration of a chart would only give the error that `rootfs` is missing.
    let run = match config_digest {
        Some(digest) => check_config(archive, digest, &layers)?,
        None => Run::default(),
    };
    let names = candidate.names.iter().filter(|name| !name.is_empty()).cloned().collect();
    let layers = layers.into_iter().map(|(_, number)| number).collect();
    Ok(Chosen { names, layers, run })
}

/// Checks that the image's configuration lists these layers. Returns the settings for running the
/// image.
fn check_config(archive: &Archive, digest: Digest, layers: &[(String, usize)]) -> Result<Run> {
    let config = read_config(archive, digest)?;
    let announced = &config.rootfs.diff_ids;
    if announced.len() != layers.len() {
        let (has, says) = (layers.len(), announced.len());
        return Err(Error::item(
            digest.to_string(),
            format!("lists {}, but the manifest lists {has}", plural(says as u64, "layer")),
        ));
    }
    for ((item, number), announced) in layers.iter().zip(announced) {
        let announced = digest_of(announced).map_err(|reason| Error::item(item, reason))?;
        let found = archive.layers[*number].diff_id;
        if announced != found {
            return Err(Error::item(
                item,
                format!("is damaged: the sha256 of its tar is {found}, not {announced}"),
            ));
        }
    }
    Ok(config.config.unwrap_or_default())
}

fn layer_of(archive: &Archive, descriptor: &Descriptor) -> Result<(String, usize)> {
    let fail = |reason: String| Error::item(&descriptor.digest, reason);
    check_layer_type(&descriptor.media_type).map_err(fail)?;
    let digest = digest_of(&descriptor.digest).map_err(fail)?;
    if !archive.has_blob(digest) {
        let foreign = descriptor.media_type.contains("foreign")
            || descriptor.media_type.contains("nondistributable")
            || !descriptor.urls.is_empty();
        return Err(fail(if foreign {
            "is a foreign layer, whose bytes are elsewhere: make an image that contains the layer"
                .to_owned()
        } else {
            "is missing: it is a layer of the image".to_owned()
        }));
    }
    let number = number(archive.blob(digest)?, &descriptor.digest)?;
    check_size(descriptor, archive.layers[number].size)?;
    Ok((descriptor.digest.clone(), number))
}

/// Finds the layer whose tar has the digest `diff_id`.
fn with_diff_id(archive: &Archive, diff_id: &str) -> Option<usize> {
    let wanted = digest_of(diff_id).ok()?;
    archive.layers.iter().position(|layer| layer.diff_id == wanted)
}

fn number(item: &Item, name: &str) -> Result<usize> {
    match item {
        Item::Layer(number) => Ok(*number),
        Item::Document(_) => Err(Error::item(name, "is a document, not a layer")),
        Item::Link(_) => Err(Error::item(name, "is a link, not a layer")),
        Item::Other(_, why) => Err(Error::item(name, format!("is a layer that {why}"))),
    }
}

fn read_config(archive: &Archive, digest: Digest) -> Result<Config> {
    let name = format!("sha256:{digest}");
    let document = document(archive.blob(digest)?, &name)?;
    manifest::config(&document.bytes).map_err(|reason| Error::item(name, reason))
}

fn size_of(archive: &Archive, digest: Digest) -> Result<u64> {
    Ok(document(archive.blob(digest)?, &digest.to_string())?.bytes.len() as u64)
}

fn check_size(descriptor: &Descriptor, found: u64) -> Result<()> {
    let announced = descriptor.size;
    if announced == found {
        return Ok(());
    }
    let reason = format!("is damaged: it has {found} bytes, but {announced} are announced");
    Err(Error::item(&descriptor.digest, reason))
}

fn named<'a>(archive: &'a Archive, name: &str) -> Result<&'a Item> {
    match name_of(name) {
        Some(path) => archive.item(&path),
        None => Err(Error::item(name, "does not name a file of the archive")),
    }
}

fn document<'a>(item: &'a Item, name: &str) -> Result<&'a Document> {
    match item {
        Item::Document(document) => Ok(document),
        _ => Err(Error::item(name, "is not a JSON document of at most 4 MiB")),
    }
}

#[cfg(test)]
mod tests;
