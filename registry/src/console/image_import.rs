//! `import`: a container image on standard input. What reads, plans and packs it waits for the
//! disk and for the client, on a thread of its own; what changes the registry is done here, as it
//! asks for it.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;
use deploy_from_docker::choose::Wanted;
use deploy_from_docker::compress::MAX_THREADS;
use deploy_from_docker::import::{Committed, Destination, Options, Source, Summary, import};
use deploy_from_docker::{Error, Result as ImportResult, report};
use deploy_store::{ComponentName, ConfigurationName, Digest, Meter, VersionName};
use deploy_wire::command::{Import, Refusal};
use deploy_wire::exit;
use deploy_wire::image::{Image, KnownLayer, Origin};
use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use crate::caller::Client;
use crate::catalog::Change;
use crate::console::Done;
use crate::console::image_verbs;
use crate::registry::Registry;
use crate::stdin::Input;
use crate::uploads::slots::{Place, Places};
use crate::uploads::upload::Upload;

type Upper = Vec<(ComponentName, VersionName)>;
type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// What the importer asks for.
enum Request {
    Check(Upper, Reply<()>),
    Known(Vec<Origin>, Reply<Vec<KnownLayer>>),
    Begin(Reply<()>),
    Write(Bytes, Reply<()>),
    Finish(Digest, Reply<()>),
    Commit(ConfigurationName, Image, Upper, Reply<Committed>),
}

/// Makes a configuration of the image that comes from `input`.
pub async fn run(
    registry: &Registry,
    wanted: &Import,
    mut input: Input,
    change: &Change,
    client: Client,
    meter: &Arc<Meter>,
) -> Result<Done, Refusal> {
    let turn = registry.importing.open(&change.who);
    let too_many = || "too many imports have begun and not ended, try again later";
    let _turn = turn.ok_or_else(|| Refusal::new(exit::FAILED, too_many()))?;
    // A client that has nothing to send yet is in nobody's way.
    input.begin().await.map_err(|err| Refusal::new(exit::FAILED, err.to_string()))?;
    let place = registry.imports.enter(&change.who).await;
    let options = Options { meter: Arc::clone(meter), ..options(registry, wanted)? };
    let dry_run = options.dry_run;
    let begun = std::time::Instant::now();
    let (to, mut requests) = mpsc::channel(1);
    let mut paced = Paced {
        input,
        place,
        places: Arc::clone(&registry.imports),
        key: change.who.clone(),
        runtime: Handle::current(),
    };
    let importing = tokio::task::spawn_blocking(move || {
        let mut here = Here { to };
        import(Source::Stream(&mut paced), &options, &mut here, &mut |_| {})
    });
    let mut work = Work { registry, change, client, upload: None };
    while let Some(request) = requests.recv().await {
        work.answer(request).await;
    }
    let summary = importing
        .await
        .map_err(|err| Refusal::new(exit::FAILED, format!("internal error: {err}")))?
        .map_err(|err| Refusal::new(err.code(), err.to_string()))?;
    Ok(Done::from(text(&summary, dry_run, begun.elapsed())))
}

/// Input that gives its place to others while the client sends nothing, and waits for one when
/// it goes on.
struct Paced {
    input: Input,
    place: Place,
    places: Arc<Places>,
    key: String,
    runtime: Handle,
}

impl Read for Paced {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.place.waits();
        let read = self.input.read(buffer);
        if !self.place.moved() {
            self.place = self.runtime.block_on(self.places.enter(&self.key));
        }
        read
    }
}

fn text(summary: &Summary, dry_run: bool, time: std::time::Duration) -> String {
    let first = if dry_run { report::plan(summary) } else { summary.said.clone() };
    first + &report::closing(summary, dry_run, time)
}

fn options(registry: &Registry, wanted: &Import) -> Result<Options, Refusal> {
    let failed = |why: String| Refusal::new(exit::FAILED, why);
    let platform = wanted.platform.as_deref().map(str::parse).transpose();
    // What the temporary file takes is left free, as by uploads.
    registry.check_free().map_err(failed)?;
    let settings = &registry.settings;
    let free = registry.blobs().free_bytes()?.saturating_sub(settings.min_free);
    let threads = std::thread::available_parallelism();
    Ok(Options {
        wanted: Wanted { image: wanted.image.clone(), platform: platform.map_err(Refusal::usage)? },
        name: wanted.name.as_ref().map(|name| name.as_str().to_owned()),
        layers: wanted.layers.clone(),
        compression: wanted.compress,
        image_config: wanted.image_config,
        dry_run: wanted.dry_run,
        tmpdir: Some(registry.top.path_of(c"uploads")),
        max_temporary: free.min(settings.max_upload),
        min_free: settings.min_free,
        limits: settings.limits,
        threads: threads.map_or(1, std::num::NonZero::get).min(MAX_THREADS),
        // A stream cannot be read a second time, and so nothing is saved.
        cache: None,
        ..Options::default()
    })
}

/// The importer's requests, one after another.
struct Work<'a> {
    registry: &'a Registry,
    change: &'a Change,
    client: Client,
    upload: Option<Upload>,
}

impl Work<'_> {
    /// That nobody waits for an answer any more shows when the importer has ended.
    async fn answer(&mut self, request: Request) {
        match request {
            Request::Check(layers, reply) => drop(reply.send(self.check(&layers).await)),
            Request::Known(origins, reply) => {
                drop(reply.send(self.registry.known_layers(Some(&origins)).await));
            }
            Request::Begin(reply) => drop(reply.send(self.begin().await)),
            Request::Write(bytes, reply) => drop(reply.send(self.write(bytes).await)),
            Request::Finish(digest, reply) => drop(reply.send(self.finish(digest).await)),
            Request::Commit(name, image, layers, reply) => {
                drop(reply.send(self.commit(&name, &image, &layers).await));
            }
        }
    }

    async fn check(&self, layers: &Upper) -> Result<(), Refusal> {
        for (component, version) in layers {
            self.registry.catalog.version(component, version).await?;
        }
        Ok(())
    }

    async fn begin(&mut self) -> Result<(), Refusal> {
        self.upload =
            Some(Upload::begin(self.registry, &self.change.who, None).await.map_err(failed)?);
        Ok(())
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), Refusal> {
        let upload = self.upload.as_mut().ok_or_else(|| failed("no upload".to_owned()))?;
        upload.write(self.registry, upload.len(), bytes).await.map_err(failed)
    }

    async fn finish(&mut self, digest: Digest) -> Result<(), Refusal> {
        let upload = self.upload.take().ok_or_else(|| failed("no upload".to_owned()))?;
        match upload.finish(self.registry).await.map_err(failed)? {
            found if found == digest => Ok(()),
            found => Err(failed(format!("what was written as {digest} is {found}"))),
        }
    }

    async fn commit(
        &self,
        name: &ConfigurationName,
        image: &Image,
        layers: &Upper,
    ) -> Result<Committed, Refusal> {
        // It may have begun long ago, and times are those of what was done.
        let change = Change { now: Timestamp::now(), ..self.change.clone() };
        match self.registry.add_image(name, image, layers, &change).await {
            Ok(imaged) => Ok(Committed::Done(image_verbs::imaged_text(name, &imaged, self.client))),
            Err(Refusal { text, code: exit::NOT_FOUND }) => Ok(Committed::Missing(text)),
            Err(refusal) => Err(refusal),
        }
    }
}

fn failed(why: String) -> Refusal {
    Refusal::new(exit::FAILED, why)
}

/// This registry, as the importer's thread sees it.
struct Here {
    to: mpsc::Sender<Request>,
}

impl Here {
    fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> ImportResult<T> {
        let refused = |Refusal { text, code }| Error::Refused { text, code };
        let gone = || Error::Refused { text: "the registry stops".to_owned(), code: exit::FAILED };
        let (reply, answer) = oneshot::channel();
        self.to.blocking_send(request(reply)).map_err(|_| gone())?;
        answer.blocking_recv().map_err(|_| gone())?.map_err(refused)
    }
}

impl Destination for Here {
    fn check(&mut self, layers: &[(ComponentName, VersionName)]) -> ImportResult<()> {
        self.ask(|reply| Request::Check(layers.to_vec(), reply))
    }

    fn known(&mut self, origins: &[Origin]) -> ImportResult<Vec<KnownLayer>> {
        self.ask(|reply| Request::Known(origins.to_vec(), reply))
    }

    fn begin(&mut self, _: &ComponentName) -> ImportResult<()> {
        self.ask(Request::Begin)
    }

    fn write(&mut self, bytes: Vec<u8>) -> ImportResult<()> {
        self.ask(|reply| Request::Write(bytes.into(), reply))
    }

    fn finish(&mut self, digest: Digest) -> ImportResult<()> {
        self.ask(|reply| Request::Finish(digest, reply))
    }

    fn commit(
        &mut self,
        name: &ConfigurationName,
        image: &Image,
        layers: &[(ComponentName, VersionName)],
    ) -> ImportResult<Committed> {
        let (name, image, layers) = (name.clone(), image.clone(), layers.to_vec());
        self.ask(|reply| Request::Commit(name, image, layers, reply))
    }
}
