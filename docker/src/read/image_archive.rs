//! Reads the files of an image archive. Documents stay in memory. Layers are hashed and listed, and
//! usually written uncompressed to the temporary files. The contents of a file determine whether
//! the file is a layer. Only after all files are read does the importer know which layers belong to
//! the image.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Cursor, Read};
use std::thread::JoinHandle;

use deploy_store::layer::decode::Decoder;
use deploy_store::{Digest, Hasher, Limits};

use super::budget::Budget;
use super::cache::{Cache, announced};
use super::image_layer::{Listed, Room, Tar, hash_rest, list, read_large};
use super::input::{Found, target_of};
use super::spool::{LANES, Spool};
use crate::error::{Error, Result};

/// The maximum size of a manifest, index or configuration, in bytes.
pub const MAX_DOCUMENT: u64 = 4 << 20;
/// The maximum number of bytes of documents that are kept in memory.
pub const MAX_DOCUMENTS: usize = 32 << 20;
/// The maximum number of bytes of memory for the names in all layers.
const LISTINGS: usize = 128 << 20;
/// A layer file of at most this many bytes is short. Short layers are listed without a separate
/// thread.
const SHORT: u64 = 256 << 10;
/// The number of the temporary file for short layers. Large layers use the other temporary files in
/// turn.
const SHORT_LANE: usize = LANES - 1;
/// The maximum number of names that are looked up to follow links: the first name, and the targets.
const MAX_HOPS: usize = 8;

/// The kind of a file.
#[derive(Debug)]
pub enum Item {
    /// A file that looks like JSON.
    Document(Document),
    /// A layer, by its number in [`Archive::layers`].
    Layer(usize),
    /// A link. The value is the unchanged target of the link.
    Link(String),
    /// A file that is neither a document nor a layer. The values are the file's digest, and the
    /// reason why the file is not a layer.
    Other(Digest, String),
}

/// A document, and its digest.
#[derive(Debug, Clone)]
pub struct Document {
    /// The sha256 of the document's bytes.
    pub digest: Digest,
    /// The contents of the document.
    pub bytes: Vec<u8>,
}

/// The contents of an image archive.
#[derive(Debug)]
pub struct Archive {
    items: BTreeMap<String, Item>,
    by_digest: BTreeMap<Digest, String>,
    /// The layers of all images in the archive.
    pub layers: Vec<Tar>,
    /// The temporary files with the bytes of the layers.
    pub spool: Spool,
    /// The total uncompressed length of the layers in bytes.
    pub length: u64,
    /// Whether the bytes of large layers are kept.
    keep: bool,
    /// The cache for large layers whose bytes are not kept.
    cache: Option<Cache>,
    /// Whether a file was skipped by mistake. The name of such a file states a digest that is in
    /// `cache`, but the file has another digest.
    pub misled: bool,
    limits: Limits,
    documents: usize,
    budget: Budget,
    /// For each temporary file, the large layer that is still being listed.
    pending: [Option<Pending>; SHORT_LANE],
    next: usize,
}

/// A layer that another thread lists.
#[derive(Debug)]
struct Pending {
    name: String,
    digest: Digest,
    size: u64,
    compressed: bool,
    listing: JoinHandle<Result<Listed>>,
}

impl Archive {
    /// Makes an empty archive, which writes its layers to `spool`.
    pub fn new(spool: Spool, limits: Limits) -> Self {
        Self {
            items: BTreeMap::new(),
            by_digest: BTreeMap::new(),
            layers: Vec::new(),
            spool,
            length: 0,
            keep: true,
            cache: None,
            misled: false,
            limits,
            documents: 0,
            budget: Budget::new(LISTINGS),
            pending: [const { None }; SHORT_LANE],
            next: 0,
        }
    }

    /// Changes the archive so that it does not keep the bytes of large layers. It lists a large
    /// layer, or only hashes the layer if `cache` has the listing. Imports that need few layers use
    /// this mode. [`Archive::fetch`] can read the large layers again.
    #[must_use]
    pub fn listing_only(self, cache: Option<Cache>) -> Self {
        Self { keep: false, cache, ..self }
    }

    /// Writes the listings of large layers to the cache. Leaves out layers whose file names do not
    /// state their digests.
    pub fn remember(&self, cache: &Cache) -> Result<()> {
        let named = self.items.iter().filter_map(|(name, item)| {
            let Item::Layer(number) = item else { return None };
            let tar = &self.layers[*number];
            (announced(name) == Some(tar.digest) && tar.size > SHORT).then_some(tar)
        });
        cache.keep(named)
    }

    /// Adds the file or link `found` under `name`. After the last file or link, call
    /// [`Archive::finish`] before any other method.
    pub fn take(&mut self, name: &str, found: Found<'_>) -> Result<()> {
        match found {
            Found::Link(target) => self.insert(name, Item::Link(target)),
            Found::File(size, body) => self.take_file(name, size, body),
        }
    }

    /// Waits for the layers that are still being listed.
    pub fn finish(&mut self) -> Result<()> {
        (0..SHORT_LANE).try_for_each(|lane| self.wait_for_lane(lane))
    }

    /// Reads the layers with these numbers again from the input, unless their bytes were kept.
    pub fn fetch(
        mut self,
        numbers: &BTreeSet<usize>,
        read: impl FnOnce(&mut dyn FnMut(&str, Found<'_>) -> Result<()>) -> Result<()>,
    ) -> Result<Self> {
        // The function finds the layers by name, because it may need two layers with the same
        // digest.
        let mut wanted = BTreeMap::new();
        for (name, item) in &self.items {
            if let Item::Layer(number) = item
                && numbers.contains(number)
                && self.layers[*number].region.is_none()
            {
                // The layer will be listed again. So the first listing is dropped now, to save
                // memory.
                let listing = std::mem::take(&mut self.layers[*number].listing);
                wanted.insert(name.clone(), (*number, listing.digest()));
            }
        }
        if wanted.is_empty() {
            return Ok(self);
        }
        let mut again = Self::new(self.spool, self.limits);
        again.budget = self.budget.clone();
        read(&mut |name, found| match (&found, wanted.get(name)) {
            (Found::File(..), Some(_)) => again.take(name, found),
            _ => Ok(()),
        })?;
        again.finish()?;
        let Self { items, layers, spool, .. } = again;
        self.spool = spool;
        let mut layers: Vec<Option<Tar>> = layers.into_iter().map(Some).collect();
        for (name, (number, listing)) in wanted {
            let before = &mut self.layers[number];
            let found = match items.get(&name) {
                Some(Item::Layer(number)) => layers[*number].take(),
                _ => None,
            };
            match found {
                Some(tar)
                    if (tar.digest, tar.diff_id) == (before.digest, before.diff_id)
                        && tar.listing.digest() == listing =>
                {
                    *before = tar;
                }
                _ => {
                    if let Some(cache) = &self.cache {
                        cache.forget(before.digest);
                    }
                    return Err(Error::item(name, "was changed while it was being read"));
                }
            }
        }
        Ok(self)
    }

    fn insert(&mut self, name: &str, item: Item) -> Result<()> {
        let digest = self.digest_of(&item);
        if let Some(before) = self.items.insert(name.to_owned(), item)
            && (digest.is_none() || digest != self.digest_of(&before))
        {
            return Err(Error::item(name, "appears twice"));
        }
        if let Some(digest) = digest {
            self.by_digest.entry(digest).or_insert_with(|| name.to_owned());
        }
        Ok(())
    }

    /// Adds a tar that this program made, and returns the tar's number.
    pub fn add_tar(&mut self, tar: &[u8]) -> Result<usize> {
        let listed = list(Ok(tar), Some(Hasher::default()), self.room(SHORT_LANE, true));
        match self.add(SHORT_LANE, Digest::of(tar), tar.len() as u64, listed)? {
            Item::Layer(number) => Ok(number),
            _ => Err(Error::archive("has no room for another layer")),
        }
    }

    /// Finds the item with the name `name`. If the item is a link, the function follows the link.
    pub fn item(&self, name: &str) -> Result<&Item> {
        let mut at = name.to_owned();
        for _ in 0..MAX_HOPS {
            match self.items.get(&at) {
                Some(Item::Link(target)) => {
                    at = target_of(&at, target).ok_or_else(|| {
                        Error::item(
                            name,
                            format!("is a link that leads out of the archive, to {target:?}"),
                        )
                    })?;
                }
                Some(item) => return Ok(item),
                None if at == name => return Err(Error::item(name, "is missing")),
                None => {
                    return Err(Error::item(
                        name,
                        format!("is a link to {at:?}, which is missing"),
                    ));
                }
            }
        }
        Err(Error::item(name, "is a link in a chain that is too long or circular"))
    }

    /// Whether there is an item with the name `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.items.contains_key(name)
    }

    /// Whether there is a file with this digest, or a file that is named by this digest.
    pub fn has_blob(&self, digest: Digest) -> bool {
        self.by_digest.contains_key(&digest) || self.contains(&format!("blobs/sha256/{digest}"))
    }

    /// Finds the item that has this digest.
    pub fn blob(&self, digest: Digest) -> Result<&Item> {
        if let Some(name) = self.by_digest.get(&digest) {
            return self.item(name);
        }
        let name = format!("blobs/sha256/{digest}");
        let item = self.item(&name)?;
        let found = self.digest_of(item).map_or_else(String::new, |found| found.to_string());
        Err(Error::item(name, format!("is damaged: its sha256 is {found}")))
    }

    fn digest_of(&self, item: &Item) -> Option<Digest> {
        match item {
            Item::Document(document) => Some(document.digest),
            Item::Layer(number) => Some(self.layers[*number].digest),
            Item::Other(digest, _) => Some(*digest),
            Item::Link(_) => None,
        }
    }

    fn take_file(&mut self, name: &str, size: u64, body: &mut dyn Read) -> Result<()> {
        let fail = |cause| Error::Input { what: name.to_owned(), cause };
        if size <= SHORT {
            let bytes = read_short(size, body).map_err(fail)?;
            let item = if is_document(&bytes) {
                self.keep(bytes)
            } else {
                let digest = Digest::of(&bytes);
                let plain = Decoder::new(&bytes[..], self.limits);
                let listed = list(plain, Some(Hasher::default()), self.room(SHORT_LANE, true));
                self.add(SHORT_LANE, digest, size, listed)?
            };
            return self.insert(name, item);
        }
        let mut start = Vec::new();
        (&mut *body).take(1024).read_to_end(&mut start).map_err(fail)?;
        if size <= MAX_DOCUMENT && is_document(&start) {
            body.read_to_end(&mut start).map_err(fail)?;
            let item = self.keep(start);
            return self.insert(name, item);
        }
        let known = self.cache.as_ref().and_then(|it| it.find_named(name, size, &self.budget));
        if let Some((announced, listed)) = known {
            let mut hasher = Hasher::default();
            hasher.update(&start);
            let digest = hash_rest(hasher, body).map_err(fail)?;
            if digest != announced {
                self.misled = true;
                return self.insert(name, Item::Other(digest, "was not examined".to_owned()));
            }
            let item = self.add(SHORT_LANE, digest, size, Ok(listed))?;
            return self.insert(name, item);
        }
        let compressed = start.starts_with(&[0x1f, 0x8b])
            || start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])
            || start.get(1..4) == Some(&[0x2a, 0x4d, 0x18]);
        let lane = self.next;
        self.next = (lane + 1) % SHORT_LANE;
        self.wait_for_lane(lane)?;
        let whole = Cursor::new(start).chain(body);
        let (digest, listing) =
            read_large(whole, compressed, self.room(lane, self.keep)).map_err(fail)?;
        let name = name.to_owned();
        self.pending[lane] = Some(Pending { name, digest, size, compressed, listing });
        Ok(())
    }

    /// Waits for the large layer that uses the temporary file `lane`, if there is such a layer.
    fn wait_for_lane(&mut self, lane: usize) -> Result<()> {
        let Some(pending) = self.pending[lane].take() else { return Ok(()) };
        let Pending { name, digest, size, compressed, listing } = pending;
        let mut listed = listing.join().expect("the thread that lists does not panic");
        if let Ok(listed) = &mut listed
            && !compressed
        {
            listed.diff_id = digest;
        }
        let item = self.add(lane, digest, size, listed)?;
        self.insert(&name, item)
    }

    /// The destination and the limits of a layer that uses the temporary file `lane`.
    fn room(&self, lane: usize, keep: bool) -> Room {
        let appender = if keep { self.spool.append(lane) } else { self.spool.measure(lane) };
        Room { appender, limits: self.limits, budget: self.budget.clone() }
    }

    fn keep(&mut self, bytes: Vec<u8>) -> Item {
        let digest = Digest::of(&bytes);
        if self.documents + bytes.len() > MAX_DOCUMENTS {
            // The image probably does not need all these documents. For example, some may describe
            // how images were made.
            let reason = format!("exceeds the limit of {MAX_DOCUMENTS} bytes for all documents");
            return Item::Other(digest, reason);
        }
        self.documents += bytes.len();
        Item::Document(Document { digest, bytes })
    }

    fn add(
        &mut self,
        lane: usize,
        digest: Digest,
        size: u64,
        listed: Result<Listed>,
    ) -> Result<Item> {
        match listed {
            Ok(Listed { diff_id, length, kept, listing }) => {
                self.length = self.length.saturating_add(length);
                let region = kept.then(|| self.spool.keep(lane, length));
                self.layers.push(Tar { digest, size, diff_id, length, region, listing });
                Ok(Item::Layer(self.layers.len() - 1))
            }
            Err(Error::Archive { reason }) => {
                self.spool.discard(lane)?;
                Ok(Item::Other(digest, reason))
            }
            Err(err) => Err(err),
        }
    }
}

fn read_short(size: u64, body: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    body.take(size).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Whether a file begins like JSON. A tar is not a document, even if the name of its first file
/// begins like JSON.
pub fn is_document(start: &[u8]) -> bool {
    let first = start.iter().find(|byte| !byte.is_ascii_whitespace());
    matches!(first, Some(b'{' | b'[')) && start.get(257..262) != Some(b"ustar")
}

#[cfg(test)]
mod tests;
