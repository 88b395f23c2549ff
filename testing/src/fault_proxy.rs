//! Stands between a registry and an S3 server, and makes the network fail: it drops requests, delays
//! them, loses answers, and lets the server carry out requests late. The registry and the server are
//! the real ones.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// How many of 1,000 requests get each fault.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// The request does not reach the server.
    pub drop: u64,
    /// The request reaches the server late.
    pub delay: u64,
    /// The server carries the request out, but its answer is lost.
    pub lose_answer: u64,
    /// The client gets no answer to a deletion, and the server carries it out much later.
    pub late_delete: u64,
}

/// A proxy before an S3 server.
#[derive(Debug)]
pub struct FaultProxy {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    target: String,
    faults: Mutex<Faults>,
    away: AtomicBool,
    dice: AtomicU64,
    /// The number of requests that the server has yet to carry out.
    late: AtomicU64,
    /// The requests that reached the server, as `GET /path`.
    counts: Mutex<Vec<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    Drop,
    Delay,
    LoseAnswer,
    LateDelete,
}

/// A request of HTTP.
struct Request {
    head: String,
    body: Vec<u8>,
}

const DELAY: Duration = Duration::from_millis(300);
const LATE: Duration = Duration::from_secs(2);

impl FaultProxy {
    /// Starts a proxy before the server at `target`, as `127.0.0.1:9000`. `seed` chooses the requests
    /// that fail.
    ///
    /// # Panics
    /// The function panics if the system has no free port.
    pub fn start(target: &str, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("the listener has an address").port();
        let shared = Arc::new(Shared {
            target: target.to_owned(),
            faults: Mutex::default(),
            away: AtomicBool::new(false),
            dice: AtomicU64::new(seed | 1),
            late: AtomicU64::new(0),
            counts: Mutex::default(),
        });
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let shared = Arc::clone(&serving);
                thread::spawn(move || {
                    // A client that closes its connection ends the thread.
                    let _ = serve(&shared, client);
                });
            }
        });
        Self { port, shared }
    }

    /// The address of the proxy.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Sets how often requests fail.
    pub fn set(&self, faults: Faults) {
        *self.shared.faults() = faults;
    }

    /// Sets whether the server is away: all requests are dropped.
    pub fn set_away(&self, away: bool) {
        self.shared.away.store(away, Ordering::SeqCst);
    }

    /// The requests that reached the server since the last call, as `GET /path`.
    pub fn take_requests(&self) -> Vec<String> {
        std::mem::take(&mut *self.shared.requests())
    }

    /// Waits until the server has carried out all late requests.
    pub fn settle(&self) {
        while self.shared.late.load(Ordering::SeqCst) > 0 {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Shared {
    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn requests(&self) -> MutexGuard<'_, Vec<String>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn throw(&self) -> u64 {
        let mut seed = self.dice.load(Ordering::SeqCst);
        seed ^= seed >> 12;
        seed ^= seed << 25;
        seed ^= seed >> 27;
        self.dice.store(seed, Ordering::SeqCst);
        (seed.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % 1000
    }

    fn fault(&self, head: &str) -> Fault {
        if self.away.load(Ordering::SeqCst) {
            return Fault::Drop;
        }
        let Faults { drop, delay, lose_answer, late_delete } = *self.faults();
        let thrown = self.throw();
        if is_deletion(head) && self.throw() < late_delete {
            return Fault::LateDelete;
        }
        match thrown {
            n if n < drop => Fault::Drop,
            n if n < drop + delay => Fault::Delay,
            n if n < drop + delay + lose_answer => Fault::LoseAnswer,
            _ => Fault::None,
        }
    }
}

/// Serves the requests of one connection.
fn serve(shared: &Arc<Shared>, mut client: TcpStream) -> io::Result<()> {
    let Some(request) = read_request(&mut client)? else { return Ok(()) };
    match shared.fault(&request.head) {
        Fault::Drop => return client.shutdown(Shutdown::Both),
        Fault::LateDelete => {
            shared.late.fetch_add(1, Ordering::SeqCst);
            let shared = Arc::clone(shared);
            thread::spawn(move || {
                thread::sleep(LATE);
                let sent = send(&shared, &request).and_then(|mut server| drain(&mut server));
                shared.late.fetch_sub(1, Ordering::SeqCst);
                sent
            });
            return client.shutdown(Shutdown::Both);
        }
        Fault::LoseAnswer => {
            drain(&mut send(shared, &request)?)?;
            return client.shutdown(Shutdown::Both);
        }
        Fault::Delay => thread::sleep(DELAY),
        Fault::None => {}
    }
    let mut server = send(shared, &request)?;
    // The server closes the connection after its answer, and so does the proxy.
    io::copy(&mut server, &mut client)?;
    client.shutdown(Shutdown::Both)
}

/// Whether a request deletes objects: a DELETE of one object, or a POST with a list of objects.
fn is_deletion(head: &str) -> bool {
    let line = head.lines().next().unwrap_or_default();
    line.starts_with("DELETE ") || (line.starts_with("POST ") && line.contains("?delete"))
}

/// Sends a request to the server.
fn send(shared: &Shared, request: &Request) -> io::Result<TcpStream> {
    let line = request.head.lines().next().unwrap_or_default();
    let line = line.rsplit_once(' ').map_or(line, |(line, _)| line);
    shared.requests().push(line.to_owned());
    let mut server = TcpStream::connect(&shared.target)?;
    let head = request.head.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    server.write_all(head.as_bytes())?;
    server.write_all(&request.body)?;
    Ok(server)
}

fn drain(server: &mut TcpStream) -> io::Result<()> {
    io::copy(server, &mut io::sink()).map(drop)
}

/// Reads a request. `None` if the client closed the connection before it.
fn read_request(client: &mut TcpStream) -> io::Result<Option<Request>> {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        match client.read(&mut buffer)? {
            0 => return Ok(None),
            n => bytes.extend_from_slice(&buffer[..n]),
        }
    };
    let mut body = bytes.split_off(end);
    let head = String::from_utf8_lossy(&bytes).into_owned();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    while body.len() < length.unwrap_or(0) {
        match client.read(&mut buffer)? {
            0 => return Ok(None),
            n => body.extend_from_slice(&buffer[..n]),
        }
    }
    Ok(Some(Request { head, body }))
}
