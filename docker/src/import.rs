//! Runs a complete import: reads the input, chooses an image, and plans the layers of the image.
//! The import then asks which layers the destination has, and sends the others. Finally, the import
//! makes the configuration.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use deploy_store::{ComponentName, ConfigurationName, Digest, Meter, Unit, escape};
use deploy_wire::image::{Compression, Image, ImageLayer, Origin};

use crate::choose::peek::peek_diff_ids;
use crate::choose::{Chosen, choose};
use crate::error::{Error, Result};
pub use crate::job::{Event, Imported, Options, Source, Summary};
use crate::plan::{Layer, Planned, plan};
use crate::read::cache::Cache;
use crate::read::image_archive::Archive;
use crate::read::image_layer::Tar;
use crate::read::input::{Found, read_archive, read_directory};
use crate::read::spool::Spool;
use crate::send::image_json::image_json_layer;
use crate::send::repack::needs;
use crate::send::{Hashes, Part, Stage, unknown};
pub use crate::to::{Committed, Destination};

/// The maximum number of attempts. Further attempts are needed if a layer disappears from the
/// destination before the transaction.
const TRIES: u32 = 3;

/// Imports an image.
pub fn import(
    source: Source<'_>,
    options: &Options,
    destination: &mut dyn Destination,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<Summary> {
    if let Some(name) = &options.name {
        // A bad name fails before the input is read.
        configuration_name(name)?;
    }
    let path = if let Source::Path(path) = source { Some(path) } else { None };
    let mut archive = read_image(source, path, options, destination)?;
    let mut chosen = choose(&archive, &options.wanted)?;
    if let Some(cache) = &options.cache
        && let Err(err) = archive.remember(cache)
    {
        // The cache is optional, so an error of the cache is shown but does not fail the import.
        tell(Event::Forgotten(&err));
    }
    let name = name_of(&chosen, options)?;
    let images = chosen.layers.len();
    if options.image_config {
        let number = archive.add_tar(&image_json_layer(&chosen.run))?;
        chosen.layers.push(number);
    }
    let tars = tars(&archive, &chosen);
    let layers: Vec<Layer<'_>> =
        tars.iter().map(|tar| Layer { diff_id: tar.diff_id, listing: &tar.listing }).collect();
    let planned = plan(&layers)?;
    let parts = parts(&name, images, &tars, &planned, options.compression)?;
    destination.check(&options.layers)?;
    Prepared { path, options, name, chosen, planned, parts }.commit(archive, destination, tell)
}

/// An image that is planned but not sent yet.
struct Prepared<'a> {
    /// The path at which the image can be read again; `None` if the input is a stream.
    path: Option<&'a Path>,
    options: &'a Options,
    name: ConfigurationName,
    chosen: Chosen,
    planned: Vec<Planned>,
    parts: Vec<Part>,
}

impl Prepared<'_> {
    /// Sends the blobs that the destination does not have, and makes the configuration. A dry run
    /// does neither. If blobs disappear before the configuration is made, the method asks again
    /// which blobs exist, and sends the missing blobs.
    fn commit(
        self,
        mut archive: Archive,
        destination: &mut dyn Destination,
        tell: &mut dyn FnMut(Event<'_>),
    ) -> Result<Summary> {
        let origins: Vec<Origin> = self.parts.iter().map(|part| part.origin).collect();
        let (mut sent, mut hashes, mut missing) = (0, Hashes::new(), String::new());
        let mut made = BTreeSet::new();
        for tried in 0..TRIES {
            if tried != 1 {
                // The second attempt assumes that the blobs from the first attempt still exist. The
                // third attempt does not assume this.
                hashes.clear();
            }
            for known in destination.known(&origins)? {
                hashes.insert(known.origin, (known.hash, known.bytes));
            }
            let before = hashes.clone();
            let committed = if self.options.dry_run {
                Committed::Done(String::new())
            } else {
                let unknown = unknown(&self.parts, &hashes);
                archive = self.fetch(archive, &unknown)?;
                let (spool, tars) = (&archive.spool, &*tars(&archive, &self.chosen));
                let stage = Stage { spool, tars, planned: &self.planned, options: self.options };
                sent += stage.send(&unknown, &mut hashes, destination, tell)?;
                made.extend(unknown.iter().map(|part| part.origin));
                tell(Event::Updating(&self.name));
                let image = image(&self.parts, &hashes);
                destination.commit(&self.name, &image, &self.options.layers)?
            };
            match committed {
                Committed::Done(said) => {
                    let reused: BTreeSet<Origin> =
                        before.into_keys().filter(|origin| !made.contains(origin)).collect();
                    return Ok(self.summary(&archive, &hashes, &reused, sent, said));
                }
                Committed::Missing(text) => {
                    hashes.retain(|origin, _| !before.contains_key(origin));
                    missing = text;
                }
            }
        }
        Err(Error::Vanishing(missing))
    }

    /// Makes available the bytes of all layers that are needed to make the blobs of `unknown`. If
    /// the bytes of a layer were not kept, the method reads this layer again from the input.
    fn fetch(&self, archive: Archive, unknown: &[&Part]) -> Result<Archive> {
        let needed = unknown.iter().flat_map(|part| needs(part.number, &self.planned[part.number]));
        let needed = needed.map(|number| self.chosen.layers[number]).collect();
        archive.fetch(&needed, |take| match self.path {
            Some(path) => each(Source::Path(path), self.options, take),
            None => Ok(()),
        })
    }

    fn summary(
        self,
        archive: &Archive,
        hashes: &Hashes,
        reused: &BTreeSet<Origin>,
        sent: u64,
        said: String,
    ) -> Summary {
        let of = |part: &Part| Imported {
            component: part.component.clone(),
            hash: hashes.get(&part.origin).map(|(hash, _)| *hash),
            tar_bytes: archive.layers[self.chosen.layers[part.number]].length,
            blob_bytes: hashes.get(&part.origin).map(|(_, bytes)| *bytes),
            reused: reused.contains(&part.origin),
            removed: self.planned[part.number].removed,
        };
        let layers = self.parts.iter().map(of).collect();
        let empty = self.planned.len() - self.parts.len();
        Summary { name: self.name, layers, empty, sent, said }
    }
}

/// Reads the input. If a file was skipped because its name states a wrong digest, the function
/// reads the input again without the cache.
fn read_image(
    source: Source<'_>,
    path: Option<&Path>,
    options: &Options,
    destination: &mut dyn Destination,
) -> Result<Archive> {
    let few = match path {
        Some(path) => most_are_known(path, options, destination)?,
        None => false,
    };
    let archive = read(source, few, options.cache.clone(), options)?;
    match path {
        // The digest of the skipped file differs from the digest in its name, but the image may
        // still need the layer in this file.
        Some(path) if archive.misled => read(Source::Path(path), few, None, options),
        _ => Ok(archive),
    }
}

/// Whether the destination has more than half of the layers that the images of the input list. If
/// [`peek_diff_ids`] finds no layers, the result is `false`.
fn most_are_known(
    path: &Path,
    options: &Options,
    destination: &mut dyn Destination,
) -> Result<bool> {
    let diff_ids = peek_diff_ids(path);
    let whole =
        |diff_id| Origin { diff_id, removals: Digest::of(b""), compression: options.compression };
    let origins: Vec<Origin> = diff_ids.into_iter().map(whole).collect();
    if origins.is_empty() {
        return Ok(false);
    }
    Ok(destination.known(&origins)?.len() * 2 > origins.len())
}

fn tars<'a>(archive: &'a Archive, chosen: &Chosen) -> Vec<&'a Tar> {
    chosen.layers.iter().map(|number| &archive.layers[*number]).collect()
}

/// Reads the whole input. If `few` is set, the import will probably need few layers, so the
/// function does not keep the bytes of large layers. It only lists them, or takes their listings
/// from `cache`.
fn read(source: Source<'_>, few: bool, cache: Option<Cache>, options: &Options) -> Result<Archive> {
    let Options { tmpdir, max_temporary, min_free, limits, .. } = options;
    let spool = Spool::new(tmpdir.as_deref(), *max_temporary)?.leaving(*min_free);
    let mut archive = Archive::new(spool, *limits);
    if few {
        archive = archive.listing_only(cache);
    }
    each(source, options, &mut |name, found| archive.take(name, found))?;
    archive.finish()?;
    Ok(archive)
}

/// Passes all files and links of the input to `take`.
fn each(
    source: Source<'_>,
    options: &Options,
    take: &mut dyn FnMut(&str, Found<'_>) -> Result<()>,
) -> Result<()> {
    let Options { limits, meter, .. } = options;
    let begin = |whole| meter.begin("read", Unit::Bytes, whole);
    let done = match source {
        Source::Stream(input) => {
            begin(0);
            read_archive(Counted { input, meter }, *limits, take)
        }
        Source::Path(path) if path.is_dir() => {
            begin(0);
            read_directory(path, |name, found| match found {
                Found::File(size, input) => {
                    take(name, Found::File(size, &mut Counted { input, meter }))
                }
                link @ Found::Link(_) => take(name, link),
            })
        }
        Source::Path(path) => {
            let failed = |cause| Error::Input { what: path.display().to_string(), cause };
            let input = File::open(path).map_err(failed)?;
            begin(input.metadata().map_err(failed)?.len());
            read_archive(Counted { input, meter }, *limits, take)
        }
    };
    meter.end();
    done
}

/// A reader that counts the bytes that it reads.
struct Counted<'a, R> {
    input: R,
    meter: &'a Meter,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buffer)?;
        self.meter.add(n as u64);
        Ok(n)
    }
}

fn configuration_name(name: &str) -> Result<ConfigurationName> {
    let parsed: Result<ConfigurationName, _> = name.parse();
    parsed.and_then(|name| name.check_new().map(|()| name)).map_err(|source| Error::Name { source })
}

fn name_of(chosen: &Chosen, options: &Options) -> Result<ConfigurationName> {
    match (&options.name, chosen.names.first()) {
        (Some(name), _) => configuration_name(name),
        // The Go importer derives the same name from the name of an image.
        (None, Some(name)) => configuration_name(&name.replace([':', '/'], ".")),
        (None, None) => Err(Error::Choice(
            "the image has no name: give the configuration a name with -name".into(),
        )),
    }
}

/// The layers that keep at least one member.
fn parts(
    name: &ConfigurationName,
    images: usize,
    tars: &[&Tar],
    planned: &[Planned],
    compression: Compression,
) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    for (number, (tar, planned)) in tars.iter().zip(planned).enumerate() {
        if planned.kept == 0 {
            continue;
        }
        let component = if number < images {
            format!("{name}.l{}", number + 1)
        } else {
            format!("{name}.config")
        };
        let component: Result<ComponentName, _> = component.parse();
        let component = component.and_then(|name| name.check_new().map(|()| name));
        let component = component.map_err(|source| Error::Name { source })?;
        let origin = Origin { diff_id: tar.diff_id, removals: planned.removals, compression };
        parts.push(Part { component, origin, number });
    }
    if parts.is_empty() {
        let name = escape(name.as_str());
        return Err(Error::Choice(format!("image {name:?} is empty: all its layers are empty")));
    }
    Ok(parts)
}

fn image(parts: &[Part], hashes: &Hashes) -> Image {
    let layer = |part: &Part| ImageLayer {
        component: part.component.clone(),
        hash: hashes[&part.origin].0,
        origin: Some(part.origin),
    };
    Image { layers: parts.iter().map(layer).collect() }
}
