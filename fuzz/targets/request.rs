//! Sends any bytes as HTTP requests: through ssh, with and without the cookie of a login, and
//! through the HTTP port. The registry must answer with HTTP or end the connection, and must never
//! report an internal error. The registry must change nothing, because no request has a valid form
//! token.
#![no_main]

use std::sync::{Arc, OnceLock};

use deploy_registry::caller::{Caller, Client};
use deploy_registry::http::{Access, PortAccess, Sessions, Web, replay};
use deploy_registry::registry::{Registry, Settings};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use tokio::runtime::Runtime;

/// A registry and its web page, made once for all inputs.
struct Ground {
    runtime: Runtime,
    registry: Arc<Registry>,
    web: Arc<Web>,
    ssh: Access,
    port: Access,
    cookie: String,
}

fn ground() -> &'static Ground {
    static GROUND: OnceLock<Ground> = OnceLock::new();
    GROUND.get_or_init(|| {
        let dir = std::env::temp_dir().join(format!("deploy-fuzz-request-{}", std::process::id()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let settings = Settings { min_free: 0, ..Settings::default() };
        let registry = runtime.block_on(Registry::open(&dir, settings)).expect("a registry");
        let registry = Arc::new(registry);
        let web = runtime.block_on(async { Web::new(Arc::clone(&registry)) });
        let sessions = Arc::new(Sessions::new().expect("random bytes"));
        let login = sessions.issue(8080).expect("random bytes");
        let token = login.address.split_once("token=").expect("a token").1;
        let cookie = sessions.log_in(token).expect("the token is new");
        let cookie = format!("{}={cookie}", sessions.cookie_name());
        let [user, key, address] = ["anna", "SHA256:x", "127.0.0.1:1"].map(str::to_owned);
        let caller = Caller { user, key, address, client: Client::Web };
        let header = Some("x-forwarded-user".parse().expect("a header"));
        let localhost = [127, 0, 0, 1].into();
        let port = PortAccess::new(header, vec![localhost], Vec::new()).expect("random bytes");
        Ground {
            runtime,
            registry,
            web,
            ssh: Access::Ssh { caller, sessions },
            port: Access::Port { port: Arc::new(port), peer: localhost },
            cookie,
        }
    })
}

/// Generates requests from lists of plausible and hostile values.
fn requests(data: &[u8], cookie: &str) -> Vec<u8> {
    let mut bytes = Unstructured::new(data);
    let mut out = Vec::new();
    while !bytes.is_empty() && out.len() < 1 << 16 {
        if request(&mut bytes, cookie, &mut out).is_err() {
            break;
        }
    }
    out
}

fn request(bytes: &mut Unstructured<'_>, cookie: &str, out: &mut Vec<u8>) -> Result<()> {
    let methods = ["GET", "GET", "GET", "POST", "HEAD", "PATCH", "DELETE", "OPTIONS", "get", "\0"];
    let paths = [
        "/", "/hosts", "/hosts/", "/configurations/", "/configurations/p/diff", "/rollouts/p/1",
        "/components/", "/store", "/audit", "/confirm", "/run", "/login", "/assets/", "/metrics",
        "/healthz", "/readyz", "/api/v1/", "/api/v1/fleet", "/api/v1/configurations/p", "//", "*",
        "http://x/", "/%00", "/%ff", "/../", "/live-not",
    ];
    let fields = [
        "name", "host", "group", "phase", "behind", "after", "before", "from", "to", "verb", "of",
        "since", "who", "limit", "token", "line", "csrf", "m", "component", "version",
    ];
    let values = [
        "p", "web-01", "rollback", "host hold", "rollout abort", "-1", "18446744073709551615",
        "%3Cscript%3E", "%00", "a%0d%0ab", "..", "healthy", "failed", "1", "",
    ];
    let mut line = format!("{} {}", bytes.choose(&methods)?, bytes.choose(&paths)?);
    if bytes.ratio(1, 4)? {
        line.push_str(&String::from_utf8_lossy(bytes.bytes(3)?).replace(['\r', '\n', ' '], "_"));
    }
    let mut query = String::new();
    for _ in 0..bytes.int_in_range(0..=4)? {
        query = query + bytes.choose(&fields)? + "=" + bytes.choose(&values)? + "&";
    }
    let body = if bytes.ratio(1, 3)? { query.clone() } else { String::new() };
    line = format!("{line}?{query} HTTP/1.1\r\n");
    let heads = [
        "host: localhost:1", "host: localhost:1", "host: evil.example", "origin: http://localhost:1",
        "origin: null", "x-forwarded-user: ben", "sec-fetch-site: cross-site", "accept: */*",
        "content-type: application/x-www-form-urlencoded", "content-type: application/json",
        "authorization: Bearer x", "if-match: \"x\"", "if-none-match: *", "last-event-id: x",
        "x-csrf-token: x", "expect: 100-continue", "transfer-encoding: chunked", "range: bytes=0-",
    ];
    for _ in 0..bytes.int_in_range(1..=6)? {
        line = line + bytes.choose(&heads)? + "\r\n";
    }
    if bytes.ratio(2, 3)? {
        line = format!("{line}cookie: {cookie}\r\n");
    }
    let length = if bytes.ratio(1, 16)? { 1 << 30 } else { body.len() };
    out.extend(format!("{line}content-length: {length}\r\n\r\n{body}").into_bytes());
    Ok(())
}

fuzz_target!(|data: &[u8]| {
    let Some((mode, data)) = data.split_first() else { return };
    let ground = ground();
    let bytes = if mode & 2 == 0 { requests(data, &ground.cookie) } else { data.to_vec() };
    let access = if mode & 1 == 0 { &ground.ssh } else { &ground.port };
    let before = ground.registry.catalog.changes.commits();
    let answer = ground.runtime.block_on(replay(&ground.web, access, &bytes));
    let after = ground.registry.catalog.changes.commits();
    assert_eq!(before, after, "a request without a form token changed something");
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 "), "the answer is not HTTP");
    let head = String::from_utf8_lossy(&answer[..answer.len().min(16)]).into_owned();
    assert!(
        !head.contains(" 500 "),
        "the registry reports an internal error: {}",
        String::from_utf8_lossy(&answer)
    );
});
