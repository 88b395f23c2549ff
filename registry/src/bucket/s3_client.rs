//! Sends requests to the server of a bucket. Only this file uses the S3 library. Each request has a
//! time limit, and is repeated a few times.
//!
//! The registry needs no condition on a write and no checksum of the server, because not all
//! servers have them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use object_store::aws::{AmazonS3, AmazonS3Builder, AwsCredential};
use object_store::list::{PaginatedListOptions, PaginatedListStore as _};
use object_store::multipart::{MultipartStore as _, PartId};
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, CredentialProvider, GetOptions, GetRange, ObjectStore as _,
    ObjectStoreExt as _, RetryConfig,
};

use super::address::BucketAddress;
use super::failure_text::failure_text;
use super::health::Health;
use super::shared_credentials;
use crate::error::{Error, Result};

/// Maximum time until the server accepts a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Maximum time without a byte from the server. During this time, the registry may send a part.
const SILENCE: Duration = Duration::from_secs(60);
/// How many times a request is repeated, and the time after which it is not repeated again.
const RETRIES: usize = 4;
const RETRY_FOR: Duration = Duration::from_secs(30);
/// Maximum time of a request that sends and receives few bytes, with all repetitions.
const SHORT: Duration = Duration::from_secs(45);
/// How long the keys of the shared file are used before the file is read again.
const KEYS_FOR: Duration = Duration::from_secs(60);

/// A client of one bucket.
#[derive(Debug)]
pub(super) struct Client {
    store: AmazonS3,
    address: BucketAddress,
    /// Whether the server answers.
    pub(super) health: Health,
}

/// The bytes of an object, piece by piece.
pub(super) type Pieces = BoxStream<'static, Result<Bytes>>;

/// An object in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    /// The key after the prefix.
    pub(super) place: String,
    pub(super) bytes: u64,
    /// When the object was written, by the clock of the server.
    pub(super) modified: Timestamp,
}

/// A page of a list.
#[derive(Debug, Default)]
pub(super) struct ListPage {
    pub(super) objects: Vec<Listed>,
    /// Where the next page begins, if there is one.
    pub(super) next: Option<String>,
}

/// A part that was sent.
#[derive(Debug)]
pub(super) struct Part(PartId);

impl Client {
    /// A client for the bucket at `address`. The credentials come from the usual variables, from the
    /// shared file, or from the role of the host. Sends no request.
    pub(super) fn new(address: &BucketAddress) -> Result<Self> {
        let retry = RetryConfig {
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(100),
                max_backoff: Duration::from_secs(5),
                base: 2.0,
            },
            max_retries: RETRIES,
            retry_timeout: RETRY_FOR,
        };
        let options = ClientOptions::new()
            .with_connect_timeout(CONNECT)
            .with_timeout_disabled()
            .with_read_timeout(SILENCE);
        let mut builder = AmazonS3Builder::from_env()
            .with_client_options(options)
            .with_bucket_name(&address.name)
            .with_retry(retry);
        if let Some(region) = &address.region {
            builder = builder.with_region(region);
        }
        if let Some(endpoint) = &address.endpoint {
            builder =
                builder.with_endpoint(endpoint).with_allow_http(endpoint.starts_with("http:"));
        }
        let has_own = ["AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE"]
            .iter()
            .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
        if let Some((path, profile)) = shared_credentials::find().filter(|_| !has_own) {
            builder = builder.with_credentials(Arc::new(SharedFile {
                path,
                profile,
                read: Mutex::default(),
            }));
        }
        let store = builder
            .build()
            .map_err(|err| Error::Invalid(format!("bucket {address}: {}", failure_text(&err))))?;
        Ok(Self { store, address: address.clone(), health: Health::default() })
    }

    /// The address of the bucket.
    pub(super) fn address(&self) -> &BucketAddress {
        &self.address
    }

    fn path(&self, place: &str) -> Path {
        Path::from(format!("{}{place}", self.address.prefix))
    }

    /// Writes a whole object.
    pub(super) async fn put(&self, place: &str, bytes: Bytes) -> Result<()> {
        let sent = self.store.put(&self.path(place), bytes.into()).await;
        self.answer("write", place, sent).map(drop)
    }

    /// Begins an object that is sent in parts. Returns the id of the upload.
    pub(super) async fn begin_parts(&self, place: &str) -> Result<String> {
        let path = self.path(place);
        let begun = short(self.store.create_multipart(&path)).await;
        self.answer("write", place, begun)
    }

    /// Sends the part with this index, counted from 0.
    pub(super) async fn put_part(
        &self,
        place: &str,
        upload_id: &str,
        index: usize,
        bytes: Bytes,
    ) -> Result<Part> {
        let (path, id) = (self.path(place), upload_id.to_owned());
        let sent = self.store.put_part(&path, &id, index, bytes.into()).await;
        self.answer("write", place, sent).map(Part)
    }

    /// Makes an object of the parts.
    pub(super) async fn end_parts(
        &self,
        place: &str,
        upload_id: &str,
        parts: Vec<Part>,
    ) -> Result<()> {
        let (path, id) = (self.path(place), upload_id.to_owned());
        let parts = parts.into_iter().map(|Part(id)| id).collect();
        let ended = self.store.complete_multipart(&path, &id, parts).await;
        self.answer("write", place, ended).map(drop)
    }

    /// Discards an unfinished upload in parts. An upload that does not exist counts as success.
    pub(super) async fn abort_parts(&self, place: &str, upload_id: &str) -> Result<()> {
        let (path, id) = (self.path(place), upload_id.to_owned());
        let aborted = short(self.store.abort_multipart(&path, &id)).await;
        self.unless_absent("discard the parts of", place, aborted)
    }

    /// The length of an object. `None` if there is no such object.
    pub(super) async fn length(&self, place: &str) -> Result<Option<u64>> {
        let path = self.path(place);
        match short(self.store.head(&path)).await {
            Err(Failure::Answer(object_store::Error::NotFound { .. })) => {
                self.health.answered();
                Ok(None)
            }
            head => self.answer("look for", place, head).map(|meta| Some(meta.size)),
        }
    }

    /// The bytes of an object from the byte `from` on. `None` if there is no such object.
    pub(super) async fn get(&self, place: &str, from: u64) -> Result<Option<Pieces>> {
        let path = self.path(place);
        let options = GetOptions {
            range: (from > 0).then_some(GetRange::Offset(from)),
            ..GetOptions::default()
        };
        let got = match self.store.get_opts(&path, options).await {
            Err(object_store::Error::NotFound { .. }) => {
                self.health.answered();
                return Ok(None);
            }
            got => self.answer("read", place, got)?,
        };
        let about = format!("bucket {}: read {place}", self.address);
        let pieces = got
            .into_stream()
            .map_err(move |err| Error::NoBucket(format!("{about}: {}", failure_text(&err))));
        Ok(Some(pieces.boxed()))
    }

    /// The bytes of a small object. `None` if there is no such object.
    pub(super) async fn get_small(&self, place: &str) -> Result<Option<Bytes>> {
        let path = self.path(place);
        let got = short(async {
            match self.store.get(&path).await {
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                got => got?.bytes().await.map(Some),
            }
        });
        let got = got.await;
        self.answer("read", place, got)
    }

    /// Deletes an object. An object that does not exist counts as success.
    pub(super) async fn delete(&self, place: &str) -> Result<()> {
        let path = self.path(place);
        let deleted = short(self.store.delete(&path)).await;
        self.unless_absent("delete", place, deleted)
    }

    /// A page of the objects whose keys begin with `under`. `from` is where an earlier page ended.
    pub(super) async fn list(&self, under: &str, from: Option<String>) -> Result<ListPage> {
        let prefix = format!("{}{under}", self.address.prefix);
        let options = PaginatedListOptions { page_token: from, ..Default::default() };
        let listed = short(self.store.list_paginated(Some(&prefix), options)).await;
        let page = self.answer("list", under, listed)?;
        let one = |meta: object_store::ObjectMeta| {
            let key = meta.location.as_ref().strip_prefix(&*self.address.prefix)?.to_owned();
            let seconds = meta.last_modified.timestamp();
            let modified = Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX);
            Some(Listed { place: key, bytes: meta.size, modified })
        };
        let objects = page.result.objects.into_iter().filter_map(one).collect();
        Ok(ListPage { objects, next: page.page_token })
    }

    fn unless_absent(
        &self,
        action: &str,
        place: &str,
        answer: Result<(), impl Into<Failure>>,
    ) -> Result<()> {
        match answer.map_err(Into::into) {
            Err(Failure::Answer(object_store::Error::NotFound { .. })) => {
                self.health.answered();
                Ok(())
            }
            answer => self.answer(action, place, answer),
        }
    }

    /// Records whether the server answered, and makes the error of the registry.
    fn answer<T>(
        &self,
        action: &str,
        place: &str,
        answer: Result<T, impl Into<Failure>>,
    ) -> Result<T> {
        answer.map_err(Into::into).inspect(|_| self.health.answered()).map_err(|failure| {
            let why = match failure {
                Failure::Answer(err) => failure_text(&err),
                Failure::Late => format!("no answer within {} s", SHORT.as_secs()),
            };
            let text = format!("bucket {}: {action} {place}: {why}", self.address);
            self.health.failed(&text);
            Error::NoBucket(text)
        })
    }
}

/// Why a request failed.
#[derive(Debug)]
enum Failure {
    Answer(object_store::Error),
    Late,
}

impl From<object_store::Error> for Failure {
    fn from(err: object_store::Error) -> Self {
        Self::Answer(err)
    }
}

/// Waits for the answer to a request with few bytes.
async fn short<T>(request: impl Future<Output = object_store::Result<T>>) -> Result<T, Failure> {
    match tokio::time::timeout(SHORT, request).await {
        Ok(answer) => answer.map_err(Failure::Answer),
        Err(_) => Err(Failure::Late),
    }
}

/// The keys in the shared file.
struct SharedFile {
    path: std::path::PathBuf,
    profile: String,
    read: Mutex<Option<(Instant, Arc<AwsCredential>)>>,
}

impl std::fmt::Debug for SharedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl SharedFile {
    fn keys(&self) -> Result<Arc<AwsCredential>, String> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, keys)) = read.as_ref().filter(|(time, _)| time.elapsed() < KEYS_FOR) {
            return Ok(Arc::clone(keys));
        }
        let path = self.path.display();
        let text =
            std::fs::read_to_string(&self.path).map_err(|err| format!("read {path}: {err}"))?;
        let keys = shared_credentials::parse(&text, &self.profile)
            .ok_or_else(|| format!("{path} has no keys in the section [{}]", self.profile))?;
        let keys = AwsCredential { key_id: keys.id, secret_key: keys.secret, token: keys.token };
        let keys = Arc::new(keys);
        *read = Some((Instant::now(), Arc::clone(&keys)));
        Ok(keys)
    }
}

impl CredentialProvider for SharedFile {
    type Credential = AwsCredential;

    // The library declares the method with the macro `async_trait`, and this is what the macro
    // makes of it.
    fn get_credential<'own, 'future>(
        &'own self,
    ) -> std::pin::Pin<
        Box<dyn Future<Output = object_store::Result<Arc<AwsCredential>>> + Send + 'future>,
    >
    where
        'own: 'future,
        Self: 'future,
    {
        let keys = self
            .keys()
            .map_err(|why| object_store::Error::Generic { store: "S3", source: why.into() });
        Box::pin(async move { keys })
    }
}
