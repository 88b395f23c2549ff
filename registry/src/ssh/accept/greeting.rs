//! Reads the first bytes of a connection before the ssh library gets the connection. In ssh, the
//! client's order of ciphers decides which cipher is used, and most clients list a slow cipher
//! first. This module finds the client's ciphers. If the client has a fast cipher, the server then
//! offers only fast ciphers.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::shared_socket::Socket;

/// Maximum length of a client's identification with its line end, in bytes.
const MAX_ID: usize = 255;
/// Maximum length of the packet that lists a client's algorithms, in bytes (RFC 4253 §6.1).
const MAX_PACKET: usize = 35_000;
const KEXINIT: u8 = 20;
const COOKIE: usize = 16;
/// Number of lists before the lists of ciphers: key exchange and host key.
const LISTS_BEFORE: usize = 2;

/// A connection whose first bytes were already read. The ssh library reads these bytes again.
#[derive(Debug)]
pub struct Greeted {
    stream: Socket,
    replay: Bytes,
    /// Number of bytes to drop from the ssh library's output. These bytes are the server's
    /// identification, which was sent already.
    skip: usize,
}

/// Sends `id` (with its line end) and reads the first bytes of the client. Returns the connection,
/// the ciphers that the client offers in both directions, and the client's identification.
pub async fn greet(mut stream: Socket, id: &str) -> io::Result<(Greeted, Vec<String>, String)> {
    stream.write_all(id.as_bytes()).await?;
    let mut heard = BytesMut::new();
    let id_end = read_until(&mut stream, &mut heard, |heard| {
        match heard.iter().position(|&byte| byte == b'\n') {
            Some(end) if end < MAX_ID => Ok(Some(end + 1)),
            None if heard.len() < MAX_ID => Ok(None),
            _ => Err(unfit("the client's identification is too long")),
        }
    })
    .await?;
    let packet_end = read_until(&mut stream, &mut heard, |heard| match heard[id_end..] {
        [a, b, c, d, ..] => match u32::from_be_bytes([a, b, c, d]) as usize {
            length if length > MAX_PACKET => Err(unfit("the client's first packet is too long")),
            length => Ok((heard.len() >= id_end + 4 + length).then_some(id_end + 4 + length)),
        },
        _ => Ok(None),
    })
    .await?;
    let ciphers = ciphers_of(&heard[id_end..packet_end]).unwrap_or_default();
    let client = String::from_utf8_lossy(&heard[..id_end]).into_owned();
    Ok((Greeted { stream, replay: heard.freeze(), skip: id.len() }, ciphers, client))
}

/// Reads until `complete` returns the end of the message.
async fn read_until(
    stream: &mut Socket,
    heard: &mut BytesMut,
    complete: impl Fn(&[u8]) -> io::Result<Option<usize>>,
) -> io::Result<usize> {
    loop {
        if let Some(end) = complete(heard)? {
            return Ok(end);
        }
        if stream.read_buf(heard).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn unfit(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// The ciphers that are in both lists of a KEXINIT packet. A packet that cannot be parsed counts as
/// a packet without ciphers. The library later checks the packet itself.
fn ciphers_of(mut packet: &[u8]) -> Option<Vec<String>> {
    packet.try_get_u32().ok()?;
    let padding = usize::from(packet.try_get_u8().ok()?);
    let payload_end = packet.len().checked_sub(padding)?;
    let mut payload = packet.get(..payload_end)?;
    if payload.try_get_u8().ok()? != KEXINIT || payload.len() < COOKIE {
        return None;
    }
    payload.advance(COOKIE);
    for _ in 0..LISTS_BEFORE {
        take_list(&mut payload)?;
    }
    let (sent, received) = (take_list(&mut payload)?, take_list(&mut payload)?);
    Some(sent.into_iter().filter(|name| received.contains(name)).map(str::to_owned).collect())
}

fn take_list<'a>(payload: &mut &'a [u8]) -> Option<Vec<&'a str>> {
    let length = payload.try_get_u32().ok()? as usize;
    let (list, rest) = payload.split_at_checked(length)?;
    *payload = rest;
    Some(std::str::from_utf8(list).ok()?.split(',').collect())
}

impl AsyncRead for Greeted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.replay.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let length = self.replay.len().min(buffer.remaining());
        buffer.put_slice(&self.replay.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Greeted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.skip == 0 {
            return Pin::new(&mut self.stream).poll_write(context, bytes);
        }
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        Poll::Ready(Ok(skipped))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    fn kexinit(lists: &[&str]) -> Vec<u8> {
        let mut payload = vec![KEXINIT];
        payload.extend([7; COOKIE]);
        for list in lists {
            payload.extend(u32::try_from(list.len()).unwrap().to_be_bytes());
            payload.extend(list.as_bytes());
        }
        let padding = 5;
        let length = u32::try_from(1 + payload.len() + padding).unwrap();
        [&length.to_be_bytes()[..], &[5], &payload, &[0; 5]].concat()
    }

    #[test]
    fn only_ciphers_of_both_directions_count() {
        let packet = kexinit(&["kex", "key", "a,b,c", "c,b", "mac"]);
        assert_eq!(ciphers_of(&packet), Some(vec!["b".to_owned(), "c".to_owned()]));
        for end in 0..40 {
            assert_eq!(ciphers_of(&packet[..end]), None, "{end}");
        }
        assert_eq!(ciphers_of(&[&packet[..4], &[255], &packet[5..]].concat()), None);
    }

    #[tokio::test]
    async fn first_bytes_are_replayed_and_the_id_is_sent_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let sent = [b"SSH-2.0-x\r\n", &kexinit(&["k", "k", "a", "a", "m"])[..], b"more"].concat();
        client.write_all(&sent).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let (mut greeted, ciphers, id) =
            greet(Socket::new(server), "SSH-2.0-me\r\n").await.unwrap();
        assert_eq!((&*id, &ciphers[..]), ("SSH-2.0-x\r\n", &["a".to_owned()][..]));
        greeted.write_all(b"SSH-2.0-me\r\nthen").await.unwrap();
        let mut again = vec![0; sent.len()];
        greeted.read_exact(&mut again).await.unwrap();
        assert_eq!(again, sent);
        drop(greeted);
        let mut seen = String::new();
        client.read_to_string(&mut seen).await.unwrap();
        assert_eq!(seen, "SSH-2.0-me\r\nthen");
    }

    #[tokio::test]
    async fn oversized_first_messages_are_refused() {
        let long_packet = [&b"SSH-2.0-x\n"[..], &u32::MAX.to_be_bytes()].concat();
        for sent in [vec![b'x'; MAX_ID], long_packet] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            client.write_all(&sent).await.unwrap();
            let (server, _) = listener.accept().await.unwrap();
            let err = greet(Socket::new(server), "SSH-2.0-me\r\n").await.unwrap_err();
            assert_eq!(err.kind(), io::ErrorKind::InvalidData);
        }
    }
}
