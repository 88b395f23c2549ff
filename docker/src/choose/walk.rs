//! Walks through the indexes and manifests that `index.json` leads to.

use std::collections::BTreeSet;

use super::manifest::{self, Described, Descriptor, digest_of};
use super::{Candidate, Source, check_size, document, plain_name, read_config};
use crate::error::{Error, Result};
use crate::read::image_archive::{Archive, Document};

/// The maximum number of nested indexes.
const MAX_DEPTH: usize = 4;
/// The maximum number of images that a walk finds.
const MAX_IMAGES: usize = 10_000;
/// The maximum number of descriptors that a walk follows. The limit is necessary, because one index
/// may lead to another many times.
const MAX_STEPS: usize = 100_000;
/// The maximum total size in bytes of the documents that the descriptors lead to.
const MAX_READ: usize = 128 << 20;
/// The maximum number of names that are kept for one image.
const MAX_NAMES: usize = 1_000;
/// The maximum length of one name in bytes.
const MAX_NAME: usize = 4 << 10;

/// A walk through indexes.
pub(super) struct Walk<'a> {
    archive: &'a Archive,
    found: &'a mut Vec<Candidate>,
    /// The error for the first skipped descriptor. A descriptor is skipped if its document is
    /// missing or describes no image.
    skipped: &'a mut Option<Error>,
    /// The digests of the current index and of the indexes that lead to it.
    above: BTreeSet<String>,
    /// The number of descriptors that were examined so far.
    steps: usize,
    /// The total size in bytes of the documents of these descriptors.
    read: usize,
}

impl<'a> Walk<'a> {
    /// Creates a walk that adds images to `found`. `skipped` gets the error for the first skipped
    /// descriptor.
    pub(super) fn new(
        archive: &'a Archive,
        found: &'a mut Vec<Candidate>,
        skipped: &'a mut Option<Error>,
    ) -> Self {
        Self { archive, found, skipped, above: BTreeSet::new(), steps: 0, read: 0 }
    }

    /// Follows the descriptors of images and indexes in an index. `names` are the names of the
    /// index.
    pub(super) fn index(
        &mut self,
        list: &[Descriptor],
        names: &[String],
        depth: usize,
    ) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(Error::archive(format!("has indexes nested more than {MAX_DEPTH} deep")));
        }
        for descriptor in list {
            self.steps += 1;
            if self.steps > MAX_STEPS || self.read > MAX_READ {
                return Err(Error::archive("has indexes that lead to too many documents"));
            }
            let mut names = names.to_vec();
            names.extend(names_of(descriptor));
            if manifest::is_index(&descriptor.media_type) {
                if !self.above.insert(descriptor.digest.clone()) {
                    return Err(Error::item(
                        &descriptor.digest,
                        "is an index that leads to itself",
                    ));
                }
                if let Some(document) = self.document(descriptor)? {
                    let fail = |reason| Error::item(&descriptor.digest, reason);
                    match manifest::described(&document.bytes, &descriptor.media_type)
                        .map_err(fail)?
                    {
                        Described::Index(list) => self.index(&list, &names, depth + 1)?,
                        Described::Manifest(_) => return Err(fail("is not an index".to_owned())),
                    }
                }
                self.above.remove(&descriptor.digest);
            } else if is_attestation(descriptor) {
                // The manifest describes another image, and is not an image itself.
            } else if manifest::is_manifest(&descriptor.media_type)
                || descriptor.media_type.is_empty()
            {
                self.manifest(descriptor, names)?;
            } else {
                let media_type = &descriptor.media_type;
                let reason =
                    format!("has the media type {media_type:?}, which is not the type of an image");
                self.skipped.get_or_insert(Error::item(&descriptor.digest, reason));
            }
        }
        Ok(())
    }

    fn manifest(&mut self, descriptor: &Descriptor, names: Vec<String>) -> Result<()> {
        let Some(document) = self.document(descriptor)? else { return Ok(()) };
        let fail = |reason| Error::item(&descriptor.digest, reason);
        let manifest = match manifest::described(&document.bytes, &descriptor.media_type) {
            Ok(Described::Manifest(manifest)) => *manifest,
            Ok(Described::Index(_)) => return Err(fail("is not a manifest".to_owned())),
            // The document belongs to other content that archives contain next to images.
            Err(reason) if reason == manifest::NEITHER => {
                self.skipped.get_or_insert(fail(reason));
                return Ok(());
            }
            Err(reason) => return Err(fail(reason)),
        };
        if let Some((what, reason)) = manifest.why_no_image() {
            self.skipped.get_or_insert(Error::item(&what.digest, reason));
            return Ok(());
        }
        let config = digest_of(&manifest.config.digest).map_err(fail)?;
        let ids = vec![document.digest, config];
        // The same image may have several names.
        if let Some(same) = self.found.iter_mut().find(|other| other.ids == ids) {
            for name in names {
                if same.names.len() < MAX_NAMES && !same.names.contains(&name) {
                    same.names.push(name);
                }
            }
            return Ok(());
        }
        if self.found.len() == MAX_IMAGES {
            return Err(Error::archive(format!("has more than {MAX_IMAGES} images")));
        }
        let platform = match &descriptor.platform {
            Some(platform) => Some(platform.clone()),
            None => read_config(self.archive, config).ok().map(|config| config.platform),
        };
        self.found.push(Candidate { names, ids, platform, source: Source::Manifest(manifest) });
        Ok(())
    }

    /// Finds the document that a descriptor leads to. Returns `None` if the archive lacks the
    /// document, because an archive may lack the images of some platforms.
    fn document(&mut self, descriptor: &Descriptor) -> Result<Option<Document>> {
        let fail = |reason| Error::item(&descriptor.digest, reason);
        let digest = digest_of(&descriptor.digest).map_err(fail)?;
        if !self.archive.has_blob(digest) {
            self.skipped.get_or_insert(fail("is missing".to_owned()));
            return Ok(None);
        }
        let document = document(self.archive.blob(digest)?, &descriptor.digest)?;
        check_size(descriptor, document.bytes.len() as u64)?;
        self.read += document.bytes.len();
        Ok(Some(document.clone()))
    }
}

/// Whether a manifest is about the build of another image. docker adds such manifests to an index.
fn is_attestation(descriptor: &Descriptor) -> bool {
    descriptor.annotations.contains_key("vnd.docker.reference.type")
        || descriptor.platform.as_ref().is_some_and(|platform| platform.os == "unknown")
}

fn names_of(descriptor: &Descriptor) -> Option<String> {
    let is_name = |name: &&String| !name.is_empty() && name.len() <= MAX_NAME;
    let of = |key: &str| descriptor.annotations.get(key).filter(is_name).cloned();
    let full = of("io.containerd.image.name").map(|name| plain_name(&name));
    full.or_else(|| of("org.opencontainers.image.ref.name"))
}
