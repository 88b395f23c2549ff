//! Answers requests from memory, for fuzzing and for tests.

use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

use super::access::Access;
use super::serve;
use super::web::Web;

/// Number of bytes that the connection buffers in each direction.
const WINDOW: usize = 64 << 10;

/// Answers the requests in `bytes`, which arrive through `access`. The client sends nothing after
/// `bytes`.
pub async fn replay(web: &Arc<Web>, access: &Access, bytes: &[u8]) -> Vec<u8> {
    let (client, server) = duplex(WINDOW);
    let (web, access) = (Arc::clone(web), access.clone());
    let serving = tokio::spawn(async move { serve::serve(web, server, &access).await });
    let (mut reader, mut writer) = tokio::io::split(client);
    let send = async {
        // The server may close the connection before it has read all bytes. So an error of this
        // write is expected.
        let _ = writer.write_all(bytes).await;
        let _ = writer.shutdown().await;
    };
    let mut answer = Vec::new();
    let ((), read) = tokio::join!(send, reader.read_to_end(&mut answer));
    drop(read);
    // A panic of the task is a bug, so the caller has to see it.
    if let Err(err) = serving.await
        && err.is_panic()
    {
        std::panic::resume_unwind(err.into_panic());
    }
    answer
}
