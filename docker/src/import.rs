//! An import from its input to its end: read, choose, plan, ask what is known, send the rest,
//! and one transaction.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use deploy_store::{
    ComponentName, ConfigurationName, Digest, Limits, Meter, Unit, VersionName, escape,
};
use deploy_wire::image::{Compression, Image, ImageLayer, KnownLayer, Origin};

use crate::choose::foretell::diff_ids;
use crate::choose::{Chosen, Wanted, choose};
use crate::error::{Error, Result};
use crate::plan::{Layer, Planned, plan};
use crate::read::archive::{Archive, Tar};
use crate::read::cache::Cache;
use crate::read::input::{Found, read_archive, read_directory};
use crate::read::spool::Spool;
use crate::send::repack::needs;
use crate::send::run::run_layer;
use crate::send::{Hashes, Part, Stage, unknown};

/// How often layers may vanish between the question and the transaction.
const TRIES: u32 = 3;

/// What is to be done.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which image of the archive.
    pub wanted: Wanted,
    /// Name of the configuration, and start of the components' names; the image's own without.
    pub name: Option<String>,
    /// Layers on top of the image's.
    pub layers: Vec<(ComponentName, VersionName)>,
    /// How blobs are compressed.
    pub compression: Compression,
    /// Whether the image's way to be run becomes a layer.
    pub image_config: bool,
    /// Whether only to say what would be done.
    pub dry_run: bool,
    /// Where the temporary file is; where such files go, without.
    pub tmpdir: Option<PathBuf>,
    /// Bytes that the temporary file may take.
    pub max_temporary: u64,
    /// Bytes of the filesystem that they leave free.
    pub min_free: u64,
    /// What a layer may not exceed.
    pub limits: Limits,
    /// Threads that compress.
    pub threads: usize,
    /// What earlier imports found.
    pub cache: Option<Cache>,
    /// Counts how far the import is.
    pub meter: Arc<Meter>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            wanted: Wanted::default(),
            name: None,
            layers: Vec::new(),
            compression: Compression::default(),
            image_config: false,
            dry_run: false,
            tmpdir: None,
            max_temporary: u64::MAX,
            min_free: 0,
            limits: Limits::STANDARD,
            threads: 1,
            cache: None,
            meter: Arc::default(),
        }
    }
}

/// Where the image comes from.
pub enum Source<'a> {
    /// A stream.
    Stream(&'a mut dyn Read),
    /// A directory, or a file.
    Path(&'a Path),
}

/// Where layers go, and who knows those of earlier imports.
pub trait Destination {
    /// Whether there are these layers, which go on top of the image's.
    fn check(&mut self, layers: &[(ComponentName, VersionName)]) -> Result<()>;
    /// Those of `origins` that need not be made again.
    fn known(&mut self, origins: &[Origin]) -> Result<Vec<KnownLayer>>;
    /// A blob begins.
    fn begin(&mut self, component: &ComponentName) -> Result<()>;
    /// More of it.
    fn write(&mut self, bytes: Vec<u8>) -> Result<()>;
    /// It is whole.
    fn finish(&mut self, digest: Digest) -> Result<()>;
    /// Makes the configuration of it, all or nothing.
    fn commit(
        &mut self,
        name: &ConfigurationName,
        image: &Image,
        layers: &[(ComponentName, VersionName)],
    ) -> Result<Committed>;
}

/// How the transaction ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Committed {
    /// Well; what was said to it.
    Done(String),
    /// Blobs that were known, or sent, are not there any more; what was said to it.
    Missing(String),
}

/// What happens, for people.
#[derive(Debug)]
pub enum Event<'a> {
    /// A layer that must be sent begins: its number among those, and how many there are.
    Sending(usize, usize, &'a ComponentName),
    /// What is in layers cannot be remembered.
    Forgotten(&'a Error),
    /// The transaction begins.
    Updating(&'a ConfigurationName),
}

/// What was done, or would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The configuration.
    pub name: ConfigurationName,
    /// Its layers from the image, lowest first.
    pub layers: Vec<Imported>,
    /// Layers of the image that nothing is left of.
    pub empty: usize,
    /// Bytes that were sent.
    pub sent: u64,
    /// What the transaction said.
    pub said: String,
}

/// What became of one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// Its component.
    pub component: ComponentName,
    /// Its blob; none where it would have to be made.
    pub hash: Option<Digest>,
    /// Length of its tar, in bytes.
    pub tar_bytes: u64,
    /// Length of its blob, in bytes, where that is known.
    pub blob_bytes: Option<u64>,
    /// Whether it was there before.
    pub reused: bool,
    /// Members that were left out because other layers remove them.
    pub removed: usize,
}

/// Imports an image.
pub fn import(
    source: Source<'_>,
    options: &Options,
    destination: &mut dyn Destination,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<Summary> {
    if let Some(name) = &options.name {
        // Before anything is read.
        configuration_name(name)?;
    }
    let path = if let Source::Path(path) = source { Some(path) } else { None };
    let few = match path {
        Some(path) => most_are_known(path, options, destination)?,
        None => false,
    };
    let mut archive = read(source, few, options.cache.clone(), options)?;
    if archive.misled
        && let Some(path) = path
    {
        // A file has a name that is another's. It may be needed all the same.
        archive = read(Source::Path(path), few, None, options)?;
    }
    let mut chosen = choose(&archive, &options.wanted)?;
    if let Some(cache) = &options.cache
        && let Err(err) = archive.remember(cache)
    {
        // An import does not depend on it.
        tell(Event::Forgotten(&err));
    }
    let name = name_of(&chosen, options)?;
    let images = chosen.layers.len();
    if options.image_config {
        let number = archive.add_tar(&run_layer(&chosen.run))?;
        chosen.layers.push(number);
    }
    let tars = tars(&archive, &chosen);
    let layers: Vec<Layer<'_>> =
        tars.iter().map(|tar| Layer { diff_id: tar.diff_id, listing: &tar.listing }).collect();
    let planned = plan(&layers)?;
    let parts = parts(&name, images, &tars, &planned, options.compression)?;
    destination.check(&options.layers)?;
    let origins: Vec<Origin> = parts.iter().map(|part| part.origin).collect();
    let (mut sent, mut hashes, mut missing) = (0, Hashes::new(), String::new());
    let mut made = BTreeSet::new();
    for tried in 0..TRIES {
        if tried != 1 {
            // What was sent a moment ago is there the second time, if not the third.
            hashes.clear();
        }
        for known in destination.known(&origins)? {
            hashes.insert(known.origin, (known.hash, known.bytes));
        }
        let before = hashes.clone();
        if !options.dry_run {
            let unknown = unknown(&parts, &hashes);
            let needed = unknown.iter().flat_map(|part| needs(part.number, &planned[part.number]));
            let needed = needed.map(|number| chosen.layers[number]).collect();
            archive = archive.fetch(&needed, |take| match path {
                Some(path) => each(Source::Path(path), options, take),
                None => Ok(()),
            })?;
            let (spool, tars) = (&archive.spool, &*self::tars(&archive, &chosen));
            let stage = Stage { spool, tars, planned: &planned, options };
            sent += stage.send(&unknown, &mut hashes, destination, tell)?;
            made.extend(unknown.iter().map(|part| part.origin));
            tell(Event::Updating(&name));
        }
        let committed = if options.dry_run {
            Committed::Done(String::new())
        } else {
            destination.commit(&name, &image(&parts, &hashes), &options.layers)?
        };
        match committed {
            Committed::Done(said) => {
                let of = |part: &Part| Imported {
                    component: part.component.clone(),
                    hash: hashes.get(&part.origin).map(|(hash, _)| *hash),
                    tar_bytes: archive.layers[chosen.layers[part.number]].length,
                    blob_bytes: hashes.get(&part.origin).map(|(_, bytes)| *bytes),
                    reused: before.contains_key(&part.origin) && !made.contains(&part.origin),
                    removed: planned[part.number].removed,
                };
                let (layers, empty) = (parts.iter().map(of).collect(), planned.len() - parts.len());
                return Ok(Summary { name, layers, empty, sent, said });
            }
            Committed::Missing(text) => {
                hashes.retain(|origin, _| !before.contains_key(origin));
                missing = text;
            }
        }
    }
    Err(Error::Vanishing(missing))
}

/// Whether most layers of what can be read twice are known, by what it says it has.
fn most_are_known(
    path: &Path,
    options: &Options,
    destination: &mut dyn Destination,
) -> Result<bool> {
    let diff_ids = diff_ids(path);
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

/// Reads all of the input; where `few` of its layers will be asked for, they are only listed, or
/// what `cache` has is taken.
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

/// All files and links of the input.
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

/// A reader whose bytes are counted.
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
        // As the Go importer does it.
        (None, Some(name)) => configuration_name(&name.replace([':', '/'], ".")),
        (None, None) => Err(Error::Choice(
            "the image has no name: give the configuration one with -name".into(),
        )),
    }
}

/// The layers that something is left of.
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
        return Err(Error::Choice(format!("image {name:?} is empty: no layer has anything in it")));
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
