//! Uploads and downloads files. A transfer has many requests in progress at the same time, because
//! otherwise each request would cost a round trip.

use std::collections::VecDeque;

use futures_util::StreamExt;
use futures_util::future::join;
use futures_util::stream::{FuturesOrdered, FuturesUnordered};
use russh_sftp::client::rawsession::SftpResult;
use russh_sftp::protocol::{OpenFlags, StatusCode};
use tokio::sync::mpsc;

use super::sftp::{Sftp, is_status};
use super::{Client, ClientError};

/// Maximum number of bytes in the unanswered requests of one transfer.
const UNDER_WAY: usize = 4 << 20;

impl Client {
    /// Uploads `chunks` as `path`, and closes the file after the last chunk. If `size` is given,
    /// the server can refuse an oversized upload at the start. `progress` gets the total number of
    /// bytes whose receipt the server has confirmed. If the caller drops the future, the client
    /// does not close the file, so the server knows that the file is incomplete.
    pub async fn put(
        &self,
        path: &str,
        size: Option<u64>,
        mut chunks: mpsc::Receiver<Vec<u8>>,
        mut progress: impl FnMut(u64),
    ) -> Result<(), ClientError> {
        let sftp = self.sftp().await?;
        let refused = |err| ClientError::sftp("upload failure", err);
        let flags = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::TRUNCATE;
        let handle = sftp.open_sized(path, flags, size).await.map_err(refused)?;
        let most = (UNDER_WAY / sftp.write_size).max(1);
        let mut under_way = FuturesUnordered::new();
        let mut ready: VecDeque<Vec<u8>> = VecDeque::new();
        let (mut offset, mut taken, mut more) = (0_u64, 0_u64, true);
        while more || !ready.is_empty() || !under_way.is_empty() {
            if under_way.len() < most
                && let Some(piece) = ready.pop_front()
            {
                let (at, handle) = (offset, handle.as_str());
                offset += piece.len() as u64;
                under_way.push(async move {
                    let length = piece.len() as u64;
                    sftp.write(handle, at, piece).await.map(|()| length)
                });
                continue;
            }
            tokio::select! {
                Some(written) = under_way.next() => {
                    taken += written.map_err(refused)?;
                    progress(taken);
                }
                chunk = chunks.recv(), if more && ready.is_empty() => match chunk {
                    Some(chunk) => ready.extend(pieces(chunk, sftp.write_size)),
                    None => more = false,
                },
            }
        }
        sftp.close(&handle).await.map_err(refused)
    }

    /// Downloads the file `path` from `offset` to its end, and passes the bytes to `sink` in order.
    /// While `sink` blocks, the client sends no further requests.
    pub async fn get(
        &self,
        path: &str,
        offset: u64,
        mut sink: impl FnMut(&[u8]) -> Result<(), ClientError>,
    ) -> Result<(), ClientError> {
        let sftp = self.sftp().await?;
        let refused = |err| ClientError::sftp(path, err);
        let handle = sftp.open(path, OpenFlags::READ).await.map_err(refused)?;
        let size = sftp.size(&handle).await.map_err(refused)?.unwrap_or(u64::MAX);
        let most = (UNDER_WAY / sftp.read_size as usize).max(1);
        let mut under_way = FuturesOrdered::new();
        let mut asked = offset;
        let result = loop {
            while under_way.len() < most && asked < size {
                let length = u32::try_from(size - asked).unwrap_or(u32::MAX).min(sftp.read_size);
                under_way.push_back(read_whole(sftp, &handle, asked, length));
                asked += u64::from(length);
            }
            match under_way.next().await {
                None => break Ok(()),
                Some(Err(err)) => break Err(refused(err)),
                Some(Ok(bytes)) if bytes.is_empty() => break Ok(()),
                Some(Ok(bytes)) => {
                    if let Err(err) = sink(&bytes) {
                        break Err(err);
                    }
                }
            }
        };
        drop(under_way);
        if sftp.is_alive() {
            // The result is known already, so an error of the close is ignored.
            let _ = sftp.close(&handle).await;
        }
        result
    }

    /// The length of the file `path`, if the server reports it.
    pub async fn size(&self, path: &str) -> Result<Option<u64>, ClientError> {
        let sftp = self.sftp().await?;
        let refused = |err| ClientError::sftp(path, err);
        let handle = sftp.open(path, OpenFlags::READ).await.map_err(refused)?;
        let (size, closed) = join(sftp.size(&handle), sftp.close(&handle)).await;
        closed.map_err(refused)?;
        size.map_err(refused)
    }

    /// The contents of a small file, or `None` if the file does not exist. The function needs two
    /// round trips, or more if the file is larger than one answer.
    pub async fn read_small(
        &self,
        path: &str,
        limit: usize,
    ) -> Result<Option<Vec<u8>>, ClientError> {
        let sftp = self.sftp().await?;
        let handle = match sftp.open(path, OpenFlags::READ).await {
            Ok(handle) => handle,
            Err(err) if is_status(&err, StatusCode::NoSuchFile) => return Ok(None),
            Err(err) => return Err(ClientError::sftp(path, err)),
        };
        let (read, closed) = join(sftp.read(&handle, 0, sftp.read_size), sftp.close(&handle)).await;
        let mut contents = match read {
            Ok(contents) => contents,
            // The Go registry opens every path, and reports a missing file only when the client
            // reads it.
            Err(err) if is_status(&err, StatusCode::NoSuchFile) => return Ok(None),
            Err(err) => return Err(ClientError::sftp(path, err)),
        };
        closed.map_err(|err| ClientError::sftp(path, err))?;
        let too_large = || ClientError::TooLarge { what: path.to_owned(), limit };
        if contents.len() == sftp.read_size as usize {
            // The file may have more bytes, but the handle is closed, and the path may name another
            // file by now. So the function reads the whole file again.
            contents.clear();
            let fits = |have: usize, more: usize| have + more <= limit;
            self.get(path, 0, |bytes| {
                if !fits(contents.len(), bytes.len()) {
                    return Err(too_large());
                }
                contents.extend_from_slice(bytes);
                Ok(())
            })
            .await?;
        }
        if contents.len() > limit { Err(too_large()) } else { Ok(Some(contents)) }
    }
}

/// Splits `chunk` into pieces that fit into one request.
fn pieces(chunk: Vec<u8>, most: usize) -> Vec<Vec<u8>> {
    if chunk.len() <= most { vec![chunk] } else { chunk.chunks(most).map(<[u8]>::to_vec).collect() }
}

/// Reads `length` bytes, in as many steps as the server needs. If the file ends earlier, the result
/// is shorter.
async fn read_whole(sftp: &Sftp, handle: &str, offset: u64, length: u32) -> SftpResult<Vec<u8>> {
    let mut whole = sftp.read(handle, offset, length).await?;
    while !whole.is_empty() && whole.len() < length as usize {
        let have = u32::try_from(whole.len()).expect("at most length");
        let more = sftp.read(handle, offset + u64::from(have), length - have).await?;
        if more.is_empty() {
            break;
        }
        whole.extend_from_slice(&more);
    }
    Ok(whole)
}
