//! Measures the cost of the registry's web page: the time and size of the first screen, and the
//! processor time for browsers that show this screen live.

use std::time::{Duration, Instant};

use deploy_benches::measured_registry::{Registry, exec, quantile};
use deploy_wire::client::Client;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The number of times that the program reads the first screen.
const READS: usize = 20;
/// The number of browsers that show the first screen live.
const BROWSERS: usize = 200;
/// The time during which the browsers show the first screen live.
const WATCH: Duration = Duration::from_secs(30);
/// The pause between two changes while the browsers watch.
const CHANGE_EVERY: Duration = Duration::from_secs(2);

async fn ask(http: &str, path: &str, more: &str) -> TcpStream {
    let mut stream = TcpStream::connect(http).await.expect("the port of -http");
    let request = format!("GET {path} HTTP/1.1\r\nhost: {http}\r\n{more}\r\n");
    stream.write_all(request.as_bytes()).await.expect("a request");
    stream
}

/// The body of the answer to a request for `path`.
async fn read(http: &str, path: &str) -> String {
    let mut answer = String::new();
    let mut stream = ask(http, path, "connection: close\r\n").await;
    stream.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{}", &answer[..answer.len().min(300)]);
    answer.split_once("\r\n\r\n").expect("a head").1.to_owned()
}

/// Reads a stream of changes until `until`, or until the registry ends the stream. Returns the
/// number of bytes that it read.
async fn watch(mut stream: TcpStream, until: Instant) -> usize {
    let (mut bytes, mut piece) = (0, vec![0; 1 << 16]);
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match tokio::time::timeout(left, stream.read(&mut piece)).await {
            Ok(Ok(length)) if length > 0 => bytes += length,
            _ => return bytes,
        }
    }
}

/// Changes a host every two seconds, for the duration `time`. The first screen shows each change.
async fn change(operator: &Client, host: &str, time: Duration) {
    let until = Instant::now() + time;
    for number in 0.. {
        if Instant::now() >= until {
            break;
        }
        let line = match number % 2 {
            0 => format!("host hold {host} -m test"),
            _ => format!("host release {host}"),
        };
        exec(operator, &line, &[]).await.expect("the change is made");
        tokio::time::sleep(CHANGE_EVERY).await;
    }
}

/// The percentage of one processor that the registry uses while a host changes every two seconds.
async fn cost(registry: &Registry, operator: &Client, host: &str) -> f64 {
    let before = registry.cpu();
    change(operator, host, WATCH).await;
    let used = registry.cpu().saturating_sub(before);
    used.as_secs_f64() / WATCH.as_secs_f64() * 100.0
}

/// Prints the time and the size of the first screen, and the cost of browsers that show this screen
/// live.
pub async fn measure(registry: &Registry, operator: &Client, http: &str, host: &str) {
    let (mut times, mut page) = (Vec::new(), String::new());
    for number in 0..READS {
        // Each reading follows a change, so that no reading can use the cached result of an earlier
        // one.
        let line = format!("host label {host} x={}", number % 2 + 1);
        exec(operator, &line, &[]).await.expect("the change is made");
        let began = Instant::now();
        page = read(http, "/").await;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    let [median, longest] = [0.5, 1.0].map(|share| quantile(&times, share));
    println!("screen\t{median:.1}\t{longest:.1}\t{}", page.len().div_ceil(1000));
    let live = page.split_once("data-live=\"").expect("a live page").1;
    let live = live.split('"').next().expect("an end").replace("&amp;", "&");
    let without = cost(registry, operator, host).await;
    let until = Instant::now() + WATCH + Duration::from_secs(2);
    let mut browsers = Vec::new();
    for _ in 0..BROWSERS {
        let stream = ask(http, &live, "accept: text/event-stream\r\n").await;
        browsers.push(tokio::spawn(watch(stream, until)));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let with = cost(registry, operator, host).await;
    let mut bytes = 0;
    for browser in browsers {
        bytes += browser.await.expect("a browser ends");
    }
    assert!(bytes > BROWSERS * 1000, "the browsers got only {bytes} bytes");
    println!("browsers\t{without:.1}\t{with:.1}\t{}", bytes / BROWSERS / 1000);
}
