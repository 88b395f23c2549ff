use super::*;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

const DATA: u8 = 103;

async fn packet(stream: &mut DuplexStream) -> Vec<u8> {
    let length = stream.read_u32().await.unwrap();
    let mut packet = vec![0; length as usize];
    stream.read_exact(&mut packet).await.unwrap();
    packet
}

async fn send(stream: &mut DuplexStream, kind: u8, body: &[u8]) {
    stream.write_u32(u32::try_from(1 + body.len()).unwrap()).await.unwrap();
    stream.write_u8(kind).await.unwrap();
    stream.write_all(body).await.unwrap();
}

/// A session with a server that has sent only its protocol version, which is 3.
async fn session() -> (Sftp, DuplexStream) {
    let (ours, mut theirs) = tokio::io::duplex(1 << 20);
    let server = async {
        packet(&mut theirs).await;
        send(&mut theirs, 2, &3_u32.to_be_bytes()).await;
        theirs
    };
    let (sftp, server) = futures_util::future::join(Sftp::start(ours), server).await;
    (sftp.unwrap(), server)
}

/// Answers a READ request with `length` bytes.
async fn answer_read(stream: &mut DuplexStream, read: &[u8], length: u32) {
    let data = vec![7; length as usize];
    send(stream, DATA, &[&read[1..5], &length.to_be_bytes()[..], &data].concat()).await;
}

#[tokio::test(start_paused = true)]
async fn slow_server_with_a_long_queue_does_not_time_out() {
    let (sftp, mut server) = session().await;
    let slow = async {
        for _ in 0..10 {
            let read = packet(&mut server).await;
            tokio::time::sleep(STALLED * 9 / 10).await;
            answer_read(&mut server, &read, 4).await;
        }
        server
    };
    let mut reads: FuturesUnordered<_> = (0..10).map(|at| sftp.read("handle", at * 4, 4)).collect();
    let all = async {
        while let Some(bytes) = reads.next().await {
            assert_eq!(bytes.unwrap(), [7; 4]);
        }
    };
    let start = Instant::now();
    let ((), _server) = futures_util::future::join(all, slow).await;
    assert!(start.elapsed() > STALLED * 8);
    assert!(sftp.is_alive());
}

#[tokio::test(start_paused = true)]
async fn silent_server_times_out() {
    let (sftp, _server) = session().await;
    let start = Instant::now();
    let err = sftp.read("handle", 0, 4).await.unwrap_err();
    assert!(matches!(err, Error::Timeout), "{err}");
    assert!(start.elapsed() >= STALLED && start.elapsed() < STALLED * 2);
    assert!(!sftp.is_alive());
}

#[tokio::test]
async fn answer_larger_than_requested_is_an_error() {
    let (sftp, mut server) = session().await;
    let server = async {
        let read = packet(&mut server).await;
        answer_read(&mut server, &read, 5).await;
        server
    };
    let (read, _server) = futures_util::future::join(sftp.read("handle", 0, 4), server).await;
    assert!(read.unwrap_err().to_string().contains("more than requested"));
    assert!(!sftp.is_alive());
}

#[test]
fn request_size_stays_within_the_limit_of_the_server() {
    assert_eq!([size(0), size(1000), size(1 << 40)], [32 << 10, 1000, 255 << 10]);
}
