//! Uploads and downloads, with many requests under way: over a long line each costs a
//! round trip otherwise.

use std::collections::VecDeque;

use futures_util::StreamExt;
use futures_util::stream::{FuturesOrdered, FuturesUnordered};
use russh_sftp::protocol::{FileAttributes, OpenFlags, StatusCode};
use tokio::sync::mpsc;

use super::{Client, ClientError, is_status, refused};

/// Bytes asked for, or sent, and not answered.
const UNDER_WAY: usize = 4 << 20;

impl Client {
    /// Uploads what comes out of `chunks` under the name `path`. `progress` is told the
    /// bytes that the server has taken.
    pub async fn put(
        &self,
        path: &str,
        mut chunks: mpsc::Receiver<Vec<u8>>,
        mut progress: impl FnMut(u64),
    ) -> Result<(), ClientError> {
        let sftp = self.sftp().await?;
        let flags = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::TRUNCATE;
        let opened = sftp.raw.open(path, flags, FileAttributes::empty()).await;
        let handle = opened.map_err(|err| refused("upload", err))?.handle;
        let most = (UNDER_WAY / sftp.write).max(1);
        let mut under_way = FuturesUnordered::new();
        let mut ready: VecDeque<Vec<u8>> = VecDeque::new();
        let (mut offset, mut taken, mut more) = (0_u64, 0_u64, true);
        while more || !ready.is_empty() || !under_way.is_empty() {
            if under_way.len() < most
                && let Some(chunk) = ready.pop_front()
            {
                let (raw, handle, length) = (&sftp.raw, handle.as_str(), chunk.len() as u64);
                let at = offset;
                offset += length;
                under_way.push(async move { raw.write(handle, at, chunk).await.map(|_| length) });
                continue;
            }
            tokio::select! {
                Some(written) = under_way.next() => {
                    taken += written.map_err(|err| refused("upload", err))?;
                    progress(taken);
                }
                chunk = chunks.recv(), if more && ready.is_empty() => match chunk {
                    Some(chunk) => {
                        ready.extend(chunk.chunks(sftp.write).map(<[u8]>::to_vec));
                    }
                    None => more = false,
                },
            }
        }
        sftp.raw.close(&handle).await.map(drop).map_err(|err| refused("upload", err))
    }

    /// Downloads `path` from `offset` to its end; `sink` gets the bytes in order.
    pub async fn get(
        &self,
        path: &str,
        offset: u64,
        mut sink: impl FnMut(&[u8]) -> Result<(), ClientError>,
    ) -> Result<(), ClientError> {
        let sftp = self.sftp().await?;
        let opened = sftp.raw.open(path, OpenFlags::READ, FileAttributes::empty()).await;
        let handle = opened.map_err(|err| refused(path, err))?.handle;
        let size = sftp.raw.fstat(&handle).await.map_err(|err| refused(path, err))?.attrs.size;
        let size = size.unwrap_or(u64::MAX);
        let most = (UNDER_WAY / sftp.read as usize).max(1);
        let mut under_way = FuturesOrdered::new();
        let mut asked = offset;
        let result = loop {
            while under_way.len() < most && asked < size {
                let length = u32::try_from(size - asked).unwrap_or(u32::MAX).min(sftp.read);
                under_way.push_back(read_whole(&sftp.raw, &handle, asked, length));
                asked += u64::from(length);
            }
            match under_way.next().await {
                None => break Ok(()),
                Some(Err(err)) => break Err(refused(path, err)),
                Some(Ok(data)) if data.is_empty() => break Ok(()),
                Some(Ok(data)) => {
                    if let Err(err) = sink(&data) {
                        break Err(err);
                    }
                }
            }
        };
        drop(under_way);
        // What was read counts, whether or not the server closes well.
        let _ = sftp.raw.close(&handle).await;
        result
    }
}

/// Reads `length` bytes, in as many steps as the server makes of it; fewer at the end
/// of the file.
async fn read_whole(
    raw: &russh_sftp::client::RawSftpSession,
    handle: &str,
    offset: u64,
    length: u32,
) -> Result<Vec<u8>, russh_sftp::client::error::Error> {
    let mut whole: Vec<u8> = Vec::new();
    loop {
        let have = u32::try_from(whole.len()).unwrap_or(u32::MAX);
        let Some(rest) = length.checked_sub(have).filter(|rest| *rest > 0) else {
            return Ok(whole);
        };
        match raw.read(handle, offset + u64::from(have), rest).await {
            Ok(data) if whole.is_empty() => whole = data.data,
            Ok(data) => whole.extend_from_slice(&data.data),
            Err(err) if is_status(&err, StatusCode::Eof) => return Ok(whole),
            Err(err) => return Err(err),
        }
    }
}
