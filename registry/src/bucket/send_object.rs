//! Sends a file to the bucket. The file is hashed again while it is sent, so an object never has
//! other bytes than the upload. A long file is sent in parts.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use deploy_store::{Digest, Hasher};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::s3_client::Client;
use crate::blocking::blocking;
use crate::catalog::Catalog;
use crate::error::{Error, Result};

/// Files over this length are sent in parts.
pub(super) const WHOLE: u64 = 16 << 20;
/// The length of a part, unless the file has too many parts of this length.
const PART: u64 = 8 << 20;
/// Maximum number of parts. S3 allows 10,000.
const MOST_PARTS: u64 = 9_000;
/// How many parts of a file are sent at the same time.
const AT_ONCE: usize = 2;

/// A file that is being read and hashed.
struct Reading {
    file: Arc<File>,
    hasher: Hasher,
    at: u64,
    bytes: u64,
    part: u64,
}

/// Sends the file of the blob `digest`, which has `bytes` bytes, to the object at `place`, whose row
/// exists. Then asks the server for the length of the object.
pub(super) async fn send(
    client: &Client,
    catalog: &Catalog,
    place: &str,
    (digest, bytes): (Digest, u64),
    file: File,
) -> Result<()> {
    let part = part_length(bytes);
    let reading = Reading { file: Arc::new(file), hasher: Hasher::default(), at: 0, bytes, part };
    if bytes <= WHOLE {
        let (piece, reading) = read(Reading { part: bytes, ..reading }).await?;
        check(reading, digest)?;
        client.put(place, piece).await?;
    } else {
        send_parts(client, catalog, place, digest, reading).await?;
    }
    match client.length(place).await? {
        Some(found) if found == bytes => Ok(()),
        found => {
            let found =
                found.map_or("does not exist".to_owned(), |found| format!("has {found} bytes"));
            let address = client.address();
            Err(Error::NoBucket(format!(
                "bucket {address}: {place} was written with {bytes} bytes, but {found}"
            )))
        }
    }
}

async fn send_parts(
    client: &Client,
    catalog: &Catalog,
    place: &str,
    digest: Digest,
    reading: Reading,
) -> Result<()> {
    let upload_id = client.begin_parts(place).await?;
    if !catalog.set_upload_id(place, &upload_id).await? {
        client.abort_parts(place, &upload_id).await?;
        return Err(given_up());
    }
    let bytes = reading.bytes;
    let pieces = stream::try_unfold(reading, |reading| async move {
        // An error after the last piece fails the upload before the parts become an object.
        if reading.at == reading.bytes {
            return check(reading, digest).map(|()| None);
        }
        read(reading).await.map(Some)
    });
    let sent = pieces
        .enumerate()
        .map(|(index, piece)| {
            let upload_id = &upload_id;
            async move { client.put_part(place, upload_id, index, piece?).await }
        })
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    match client.end_parts(place, &upload_id, sent).await {
        // The server may have made the object, although its answer was lost.
        Err(err) => match client.length(place).await {
            Ok(Some(found)) if found == bytes => Ok(()),
            _ => Err(err),
        },
        Ok(()) => Ok(()),
    }
}

/// The error for an object that gc has given up while it was being written.
pub(super) fn given_up() -> Error {
    Error::Failed("another registry has given up this upload; send it again".to_owned())
}

fn part_length(bytes: u64) -> u64 {
    bytes.div_ceil(MOST_PARTS).max(PART)
}

/// Reads and hashes the next part.
async fn read(reading: Reading) -> Result<(Bytes, Reading)> {
    let read = blocking(move || {
        let Reading { file, mut hasher, at, bytes, part } = reading;
        let length = usize::try_from(part.min(bytes - at)).unwrap_or(usize::MAX);
        let mut piece = vec![0; length];
        file.read_exact_at(&mut piece, at).map_err(read_error)?;
        hasher.update(&piece);
        let at = at + length as u64;
        Ok((Bytes::from(piece), Reading { file, hasher, at, bytes, part }))
    });
    Ok(read.await?)
}

fn read_error(cause: io::Error) -> deploy_store::Error {
    deploy_store::Error::Io { action: "read", path: "upload".into(), cause }
}

/// Fails if the file has changed since the upload.
fn check(reading: Reading, digest: Digest) -> Result<()> {
    let found = reading.hasher.finish();
    if found == digest {
        return Ok(());
    }
    Err(Error::Damaged(format!(
        "the upload {digest} has changed on the registry's disk: its digest is now {found}; send it \
         again"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_files_have_a_limited_number_of_parts() {
        assert_eq!(part_length(WHOLE + 1), PART);
        for bytes in [64 << 30, 1 << 40] {
            assert!(bytes / part_length(bytes) <= MOST_PARTS);
        }
    }
}
