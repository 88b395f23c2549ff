//! Tests the API over HTTP: through stock ssh, and at the port of `-http`.

mod forward;

use serde_json::{Value, json};

use crate::fleet::watcher::Watch;
use crate::fleet::{agent, document, start};
use crate::rig::Rig;
use forward::{Answer, Forward, exchange, send};

/// The port on which the registry serves `-http`.
fn http_port(rig: &Rig) -> u16 {
    rig.wait_for_log("http: listening on ").rsplit(':').next().unwrap().trim().parse().unwrap()
}

/// Starts a registry with two hosts and a rollout. The second host has reported a failure.
fn filled() -> Rig {
    let rig = start(&[]);
    let id = document(&rig, "showconf -name web -json")["Hash"].as_str().unwrap().to_owned();
    for (host, code) in [("web-01", 0), ("web-02", 9)] {
        let line = format!("report -name web -host {host} -id {id} -code {code}");
        assert!(agent(&rig, &line).status.success());
    }
    rig.ok("addconf -name db -layer code:v1");
    rig.ok("changeconf -name db -component code -version v2");
    rig.ok("window set production -times 'Mon-Fri 22:00-06:00 UTC'");
    rig.ok("rollout start -name web -layer code:v2 -waves 1,100% -soak 1h -allow-unknown");
    rig
}

/// Checks an answer against the `OpenAPI` description. A field that the description lacks is an
/// error.
#[track_caller]
fn is_as_described(description: &Value, method: &str, path: &str, answer: &Answer) {
    let operation = &description["paths"][path][method];
    let resolved = |value: &Value| match value["$ref"].as_str() {
        Some(target) => description.pointer(&target[1..]).unwrap().clone(),
        None => value.clone(),
    };
    let response = resolved(&operation["responses"][answer.status.to_string()]);
    let kind = answer.header("content-type").unwrap();
    let schema = &response["content"][kind]["schema"];
    assert!(schema.is_object(), "{method} {path}: {} {kind} is not described", answer.status);
    let mut components = description["components"].clone();
    close(&mut components["schemas"]);
    let schema = json!({ "allOf": [schema], "components": components });
    let options = jsonschema::options().should_validate_formats(true);
    let validator = options.build(&schema).unwrap();
    let document = answer.json();
    let wrong: Vec<String> = validator.iter_errors(&document).map(|err| err.to_string()).collect();
    assert!(wrong.is_empty(), "{method} {path}: {wrong:#?}\n{document:#}");
}

/// Forbids fields that the schema does not describe.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.values_mut().for_each(close);
            if fields.get("properties").is_some_and(Value::is_object) {
                fields.entry("additionalProperties").or_insert(Value::Bool(false));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

#[test]
fn documents_match_the_console_and_the_openapi_description() {
    let rig = filled();
    let forward = Forward::open(&rig);
    let description = forward.get("/api/v1/openapi.json").json();
    let hash = document(&rig, "showcomp -name code -json")["versions"][0]["hash"].clone();
    let refs = format!("/refs/{}", hash.as_str().unwrap());
    let refs_line = format!("refs {}", hash.as_str().unwrap());
    for (path, query, line) in [
        ("/fleet", "?name=web&behind=false", "fleet -name web"),
        ("/hosts", "?retired=true", "host list -retired"),
        ("/hosts/web-02", "?name=web", "why -host web-02 -name web"),
        ("/configurations", "?limit=1", "configurations -limit 1"),
        ("/configurations/web", "", "showconf -name web"),
        ("/configurations/db/history", "?before=2", "history -name db -before 2"),
        ("/rollouts", "?name=web&other=x", "rollout list -name web"),
        ("/rollouts/web", "", "rollout status -name web"),
        ("/rollouts/web/1", "", "rollout status -name web -number 1"),
        ("/components", "?after=a", "components -after a"),
        ("/components/code", "?limit=2", "showcomp -name code -limit 2"),
        (&*refs, "", &*refs_line),
        ("/stat", "", "stat"),
        ("/audit", "?since=24h&limit=2", "audit -since 24h -limit 2"),
        ("/windows", "", "window list"),
    ] {
        let answer = forward.get(&format!("/api/v1{path}{query}"));
        let stable = |mut document: Value| {
            // Free space changes while the test runs, and so does the next opening of an open window.
            document.as_object_mut().map(|fields| fields.remove("free_bytes"));
            let groups = document.get_mut("groups").and_then(Value::as_array_mut);
            for group in groups.into_iter().flatten().filter(|group| group["open"] == true) {
                group.as_object_mut().map(|fields| fields.remove("next_open"));
            }
            document
        };
        let printed = document(&rig, &format!("{line} -json"));
        assert_eq!(stable(answer.json()), stable(printed), "{path}");
        let described = path
            .replace("/web-02", "/{host}")
            .replace("/db", "/{name}")
            .replace("/web", "/{name}")
            .replace("/code", "/{name}")
            .replace("/1", "/{number}");
        let described = if path == refs { "/refs/{hash}".to_owned() } else { described };
        is_as_described(&description, "get", &described, &answer);
    }
    let events = forward.get("/api/v1/events?limit=3");
    is_as_described(&description, "get", "/events", &events);
    let lines = rig.ok("events -limit 3 -json");
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.json(), Value::Array(lines));
    for (path, status) in [
        ("/configurations/nothing", 404),
        ("/rollouts/web/9", 404),
        ("/rollouts/web/x", 404),
        ("/hosts/nothing", 404),
        ("/refs/xyz", 404),
        ("/fleet?limit=0", 400),
        ("/fleet?phase=nice", 400),
        ("/audit?before=-1", 400),
        ("/audit?since=soon", 400),
    ] {
        let answer = forward.send("GET", &format!("/api/v1{path}"), &[], "").is(status);
        assert!(!answer.json()["detail"].as_str().unwrap().is_empty());
    }
}

#[test]
fn pages_of_a_list_have_each_entry_once() {
    let rig = filled();
    for version in ["v2", "v3", "v1"] {
        rig.ok(&format!("changeconf -name db -component code -version {version}"));
    }
    let forward = Forward::open(&rig);
    for (path, list, count) in [
        ("/configurations?limit=1", "", 2),
        ("/components/code?limit=2", "/versions", 3),
        ("/hosts?limit=1", "/hosts", 2),
        ("/fleet?limit=1&name=web", "/hosts", 2),
        ("/configurations/db/history?limit=2", "/states", 5),
        ("/audit?limit=3", "", document(&rig, "audit -json").as_array().unwrap().len()),
        ("/events?limit=2&after=0", "", rig.ok("events -json").lines().count()),
    ] {
        let (mut next, mut entries) = (Some(format!("/api/v1{path}")), Vec::new());
        while let Some(path) = next {
            let page = forward.get(&path);
            entries.extend(page.json().pointer(list).unwrap().as_array().unwrap().clone());
            next = page.next();
        }
        assert_eq!(entries.len(), count, "{path}: {entries:#?}");
        let mut texts: Vec<String> = entries.iter().map(Value::to_string).collect();
        texts.sort();
        texts.dedup();
        assert_eq!(texts.len(), count, "{path}: an entry is on two pages");
    }
}

#[test]
fn configuration_changes_only_from_the_expected_state() {
    let rig = start(&[]);
    let forward = Forward::open(&rig);
    let description = forward.get("/api/v1/openapi.json").json();
    let path = "/api/v1/configurations/web";
    let first = forward.get(path);
    let tag = first.header("etag").unwrap().to_owned();
    assert_eq!(tag, format!("\"{}\"", first.json()["Hash"].as_str().unwrap()));
    let unchanged = forward.send("GET", path, &[&format!("If-None-Match: W/\"x\", {tag}")], "");
    assert_eq!((unchanged.status, &*unchanged.body), (304, ""));
    assert_eq!(unchanged.header("etag"), Some(&*tag));

    let body = |version: &str| {
        json!({ "layers": [{ "component": "code", "version": version }] }).to_string()
    };
    let if_match = format!("If-Match: {tag}");
    let changed = forward.send("PATCH", path, &[&if_match], &body("v2")).is(200);
    is_as_described(&description, "patch", "/configurations/{name}", &changed);
    assert_eq!(changed.json()["state"], 2);
    assert!(changed.json()["message"].as_str().unwrap().contains("to roll back run"));
    let now = forward.send("GET", path, &[&format!("If-None-Match: {tag}")], "").is(200);
    assert_eq!(now.header("etag"), changed.header("etag"));
    let refused = forward.send("PATCH", path, &[&if_match], &body("v3")).is(412);
    is_as_described(&description, "patch", "/configurations/{name}", &refused);
    assert_eq!(document(&rig, "showconf -name web -json"), now.json());

    forward.send("PATCH", path, &[], &body("v9")).is(404);
    forward.send("PATCH", path, &[], "{\"layers\": []}").is(400);
    forward.send("PATCH", path, &[&if_match], "").is(400);
    let bearer = format!("Authorization: Bearer {}", forward.bearer);
    let text = "Content-Type: text/plain";
    send(forward.port, "PATCH", path, &[&bearer, text], &body("v3")).is(415);
    let deleted = forward.send("DELETE", path, &[], "").is(405);
    assert_eq!(deleted.header("allow"), Some("GET,HEAD,PATCH"));

    let back = forward.send("POST", &format!("{path}/rollback"), &[], "{\"to\": 1}").is(200);
    assert_eq!(back.header("etag"), Some(&*tag));
    forward.send("POST", &format!("{path}/rollback"), &[], "{\"to\": 77}").is(404);
    let audit = document(&rig, "audit -json -limit 5").to_string();
    for text in ["rollback -name=", "changeconf -name="] {
        assert!(audit.contains(text), "{text}: {audit}");
    }
}

#[test]
fn rollouts_and_hosts_can_be_steered() {
    let rig = start(&[]);
    let mut host = Watch::begin(&rig, "srv", "web", "web-01", "a1");
    let offer = host.offer();
    host.healthy(1, &offer);
    let forward = Forward::open(&rig);
    let description = forward.get("/api/v1/openapi.json").json();
    let post = |path: &str, body: &str| forward.send("POST", &format!("/api/v1{path}"), &[], body);
    let body = json!({
        "layers": [{ "component": "code", "version": "v2" }],
        "waves": "1,100%", "soak": "1h", "max_failed": "0",
    });
    let path = "/api/v1/configurations/web";
    let begun = forward.send("PATCH", path, &[], &body.to_string()).is(200);
    is_as_described(&description, "patch", "/configurations/{name}", &begun);
    assert_eq!(
        (&begun.json()["state"], &begun.json()["rollout"]["target"]),
        (&json!(1), &json!(2))
    );
    for (action, body, status) in [
        ("pause", "{\"message\": \"looking\"}", "paused"),
        ("resume", "", "running"),
        ("skip-soak", "{}", "running"),
        ("abort", "", "aborted"),
    ] {
        // The registry refuses the skip if the soak has not begun yet.
        let answer = post(&format!("/rollouts/web/{action}"), body);
        if action == "skip-soak" && answer.status == 409 {
            continue;
        }
        let answer = answer.is(200);
        is_as_described(&description, "post", &format!("/rollouts/{{name}}/{action}"), &answer);
        assert_eq!(answer.json()["rollout"]["status"], status, "{action}");
    }
    post("/rollouts/web/abort", "").is(409);
    post("/rollouts/nothing/abort", "").is(404);
    post("/hosts/web-01/hold", "").is(400);
    post("/hosts/web-01/hold", "{\"message\": \"\"}").is(400);
    let held = post("/hosts/web-01/hold", "{\"message\": \"<script>alert(1)</script>\"}").is(200);
    is_as_described(&description, "post", "/hosts/{host}/hold", &held);
    let why = forward.get("/api/v1/hosts/web-01").json();
    assert_eq!(why["configurations"][0]["held"], "<script>alert(1)</script>");
    post("/hosts/web-01/release", "").is(200);
    post("/hosts/web-01/retry", "{\"configuration\": \"web\"}").is(200);
    post("/hosts/nothing/release", "").is(404);
    let audit = document(&rig, "audit -json");
    let mut entries = audit.as_array().unwrap().iter();
    let entry = entries.find(|entry| entry["command"].to_string().contains("hold")).unwrap();
    assert_eq!((&entry["user"], &entry["code"]), (&json!("me"), &json!(0)));
}

#[test]
fn only_a_login_on_the_same_connection_counts() {
    let rig = start(&[]);
    let forward = Forward::open(&rig);
    let (port, path) = (forward.port, "/api/v1/configurations/web/rollback");
    let fleet = "/api/v1/fleet";
    let refused = send(port, "GET", fleet, &[], "").is(401);
    assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
    send(port, "GET", fleet, &["Authorization: Bearer 00"], "").is(401);
    send(port, "GET", fleet, &["Cookie: deploy_page=x"], "").is(401);

    let cookie = forward.cookie();
    send(port, "GET", fleet, &[&cookie], "").is(200);
    let origin = format!("Origin: http://localhost:{port}");
    send(port, "POST", path, &[&cookie], "").is(403);
    send(port, "POST", path, &[&cookie, "Origin: http://evil.example"], "").is(403);
    send(port, "POST", path, &[&cookie, &origin], "").is(403);
    send(port, "POST", path, &[&cookie, &origin, "x-csrf-token: 00"], "").is(403);
    let page =
        send(port, "GET", "/confirm?verb=bumpconf&name=web&component=code", &[&cookie], "").is(200);
    let token = page.body.split("name=\"csrf\" value=\"").nth(1).unwrap().split('"').next();
    let token = format!("x-csrf-token: {}", token.unwrap());
    // The request is allowed, but there is no earlier state.
    send(port, "POST", path, &[&cookie, &origin, &token], "").is(404);
    send(port, "POST", path, &[&cookie, "Origin: http://evil.example", &token], "").is(403);
    forward.send("POST", path, &[], "").is(404);

    for host in ["Host: evil.example", "Host: 10.0.0.1"] {
        send(port, "GET", fleet, &[&cookie, host], "").is(421);
    }
}

#[test]
fn port_for_http_is_read_only() {
    let rig = start(&["-http", "127.0.0.1:0"]);
    let port = http_port(&rig);
    let shown = send(port, "GET", "/api/v1/configurations/web", &[], "").is(200);
    assert_eq!(shown.json(), document(&rig, "showconf -name web -json"));
    let origin = format!("Origin: http://localhost:{port}");
    let json = "Content-Type: application/json";
    let path = "/api/v1/configurations/web/rollback";
    for lines in [&[&*origin, json][..], &[json], &[&*origin, json, "X-Forwarded-User: me"]] {
        send(port, "POST", path, lines, "{}").is(403);
    }
    send(port, "POST", path, &["Authorization: Bearer x", json], "{}").is(403);
    send(port, "GET", "/api/v1/fleet", &["Host: evil.example"], "").is(421);
    send(port, "GET", "/api/v1/fleet", &["Host: 127.0.0.1"], "").is(200);
}

#[test]
fn requests_have_limits() {
    let rig = start(&["-http", "127.0.0.1:0"]);
    let forward = Forward::open(&rig);
    let large = format!("{{\"message\": \"{}\"}}", "x".repeat(64 << 10));
    forward.send("POST", "/api/v1/rollouts/web/pause", &[], &large).is(413);
    let long = format!("X-Long: {}", "x".repeat(64 << 10));
    for port in [forward.port, http_port(&rig)] {
        assert_eq!(send(port, "GET", "/api/v1/fleet", &[&long], "").status, 431);
    }
    // The registry waits at least 20 s for the end of the head, but not forever.
    let begun = std::time::Instant::now();
    exchange(http_port(&rig), b"GET /api/v1/fleet HTTP/1.1\r\nHost: localhost\r\n");
    assert!(begun.elapsed().as_secs() >= 20, "{:?}", begun.elapsed());
}
