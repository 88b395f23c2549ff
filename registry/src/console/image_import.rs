//! Runs the verb `import`, which reads a container image from standard input. The importer reads,
//! plans and packs the image on a separate thread, because this work waits for the disk and for the
//! client. To read from the registry or to change it, the importer sends requests, and this module
//! answers them.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;
use deploy_from_docker::choose::Wanted;
use deploy_from_docker::import::{Committed, Destination, Options, Source, Summary, import};
use deploy_from_docker::send::compress::MAX_THREADS;
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
use crate::error::Error as RegistryError;
use crate::registry::Registry;
use crate::stdin::Input;
use crate::uploads::slots::{Slot, SlotPool};
use crate::uploads::upload::Upload;

type Upper = Vec<(ComponentName, VersionName)>;
type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// A request of the importer.
enum ImportRequest {
    Check(Upper, Reply<()>),
    Known(Vec<Origin>, Reply<Vec<KnownLayer>>),
    Begin(Reply<()>),
    Write(Bytes, Reply<()>),
    Finish(Digest, Reply<()>),
    Commit(ConfigurationName, Image, Upper, Reply<Committed>),
}

/// Makes a configuration from the image on `input`.
pub async fn run(
    registry: &Registry,
    wanted: &Import,
    mut input: Input,
    change: &Change,
    client: Client,
    meter: &Arc<Meter>,
) -> Result<Done, Refusal> {
    let turn = registry.begun_imports.open(&change.key);
    let too_many = || "too many imports are in progress, try again later";
    let _turn = turn.ok_or_else(|| Refusal::new(exit::FAILED, too_many()))?;
    // Until the client sends its first bytes, the import needs no slot.
    input.begin().await.map_err(|err| Refusal::new(exit::FAILED, err.to_string()))?;
    let slot = registry.imports.take(&change.key).await;
    let options = Options { meter: Arc::clone(meter), ..options(registry, wanted)? };
    let dry_run = options.dry_run;
    let begun = std::time::Instant::now();
    let (to, mut requests) = mpsc::channel(1);
    let mut paced = Paced {
        input,
        slot,
        slots: Arc::clone(&registry.imports),
        key: change.key.clone(),
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

/// The input of an import. While the client sends nothing, the import may lose its slot to another
/// import. If this happens, the import waits for a new slot when the client continues.
struct Paced {
    input: Input,
    slot: Slot,
    slots: Arc<SlotPool>,
    key: String,
    runtime: Handle,
}

impl Read for Paced {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.slot.waits_for_client();
        let read = self.input.read(buffer);
        if !self.slot.client_sent() {
            self.slot = self.runtime.block_on(self.slots.take(&self.key));
        }
        read
    }
}

fn text(summary: &Summary, dry_run: bool, time: std::time::Duration) -> String {
    let first = if dry_run { report::plan(summary) } else { summary.said.clone() };
    first + &report::closing(summary, dry_run, time)
}

fn options(registry: &Registry, wanted: &Import) -> Result<Options, Refusal> {
    let platform = wanted.platform.as_deref().map(str::parse).transpose();
    // Uploads must leave a minimum of free disk space. This minimum also applies to the temporary
    // file of the import.
    registry.uploads.check_free()?;
    let settings = &registry.settings;
    let free = registry.blobs().local().free_bytes()?.saturating_sub(settings.min_free);
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
        // A cache would save nothing, because a stream cannot be read twice.
        cache: None,
        ..Options::default()
    })
}

/// Answers the requests of one importer, one after another.
struct Work<'a> {
    registry: &'a Registry,
    change: &'a Change,
    client: Client,
    upload: Option<Upload>,
}

impl Work<'_> {
    /// Answers one request. If the importer has ended, nobody receives the answer. The caller of
    /// this function notices the importer's end.
    async fn answer(&mut self, request: ImportRequest) {
        match request {
            ImportRequest::Check(layers, reply) => drop(reply.send(self.check(&layers).await)),
            ImportRequest::Known(origins, reply) => {
                let known = self.registry.known_layers(Some(&origins)).await;
                drop(reply.send(known.map_err(Refusal::from)));
            }
            ImportRequest::Begin(reply) => drop(reply.send(self.begin().await)),
            ImportRequest::Write(bytes, reply) => drop(reply.send(self.write(bytes).await)),
            ImportRequest::Finish(digest, reply) => drop(reply.send(self.finish(digest).await)),
            ImportRequest::Commit(name, image, layers, reply) => {
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
        self.upload = Some(Upload::begin(&self.registry.uploads, &self.change.key, None).await?);
        Ok(())
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), Refusal> {
        let upload = self.upload.as_mut().ok_or_else(|| failed("no upload began".to_owned()))?;
        Ok(upload.write(upload.len(), bytes).await?)
    }

    async fn finish(&mut self, digest: Digest) -> Result<(), Refusal> {
        let upload = self.upload.take().ok_or_else(|| failed("no upload began".to_owned()))?;
        match self.registry.finish_upload(upload).await? {
            found if found == digest => Ok(()),
            found => Err(failed(format!("the blob written as {digest} has the digest {found}"))),
        }
    }

    async fn commit(
        &self,
        name: &ConfigurationName,
        image: &Image,
        layers: &Upper,
    ) -> Result<Committed, Refusal> {
        // The import may have begun long ago, but the change happens now.
        let change = Change { now: Timestamp::now(), ..self.change.clone() };
        match self.registry.add_image(name, image, layers, &change).await {
            Ok(imaged) => Ok(Committed::Done(image_verbs::imaged_text(name, &imaged, self.client))),
            // For example, a staged layer may have expired since the importer asked about the
            // layer.
            Err(err @ (RegistryError::MissingLayers(_) | RegistryError::NotFound(_))) => {
                Ok(Committed::Missing(err.to_string()))
            }
            Err(err) => Err(err.into()),
        }
    }
}

fn failed(why: String) -> Refusal {
    Refusal::new(exit::FAILED, why)
}

/// The importer's connection to this registry, through which the importer sends its requests.
struct Here {
    to: mpsc::Sender<ImportRequest>,
}

impl Here {
    fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> ImportRequest) -> ImportResult<T> {
        let refused = |Refusal { text, code }| Error::Refused { text, code };
        let gone =
            || Error::Refused { text: "the registry is stopping".to_owned(), code: exit::FAILED };
        let (reply, answer) = oneshot::channel();
        self.to.blocking_send(request(reply)).map_err(|_| gone())?;
        answer.blocking_recv().map_err(|_| gone())?.map_err(refused)
    }
}

impl Destination for Here {
    fn check(&mut self, layers: &[(ComponentName, VersionName)]) -> ImportResult<()> {
        self.ask(|reply| ImportRequest::Check(layers.to_vec(), reply))
    }

    fn known(&mut self, origins: &[Origin]) -> ImportResult<Vec<KnownLayer>> {
        self.ask(|reply| ImportRequest::Known(origins.to_vec(), reply))
    }

    fn begin(&mut self, _: &ComponentName) -> ImportResult<()> {
        self.ask(ImportRequest::Begin)
    }

    fn write(&mut self, bytes: Vec<u8>) -> ImportResult<()> {
        self.ask(|reply| ImportRequest::Write(bytes.into(), reply))
    }

    fn finish(&mut self, digest: Digest) -> ImportResult<()> {
        self.ask(|reply| ImportRequest::Finish(digest, reply))
    }

    fn commit(
        &mut self,
        name: &ConfigurationName,
        image: &Image,
        layers: &[(ComponentName, VersionName)],
    ) -> ImportResult<Committed> {
        let (name, image, layers) = (name.clone(), image.clone(), layers.to_vec());
        self.ask(|reply| ImportRequest::Commit(name, image, layers, reply))
    }
}
