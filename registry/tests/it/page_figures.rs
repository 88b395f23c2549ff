//! Tests that the figures about hosts and rollouts on the page equal the figures in the console's
//! JSON at the same moment.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::fleet::watcher::Watch;
use crate::fleet::{change, document, start};
use crate::rig::{Rig, wait_until};

/// The page at `path`, over the port of `-http`.
fn page(rig: &Rig, path: &str) -> String {
    let line = rig.wait_for_log("http: listening on ");
    let port: u16 = line.rsplit(':').next().unwrap().trim().parse().unwrap();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{path}: {head}");
    body.to_owned()
}

/// The part of `html` from `begin` to the next `end`.
#[track_caller]
fn part<'a>(html: &'a str, begin: &str, end: &str) -> &'a str {
    let from = html.find(begin).unwrap_or_else(|| panic!("no {begin}: {html}"));
    let rest = &html[from + begin.len()..];
    &rest[..rest.find(end).unwrap_or(rest.len())]
}

/// The text of HTML, with a blank for each tag.
fn text(html: &str) -> String {
    let mut text = String::new();
    let mut is_tag = false;
    for c in html.chars() {
        match c {
            '<' => is_tag = true,
            '>' => {
                is_tag = false;
                text.push(' ');
            }
            _ if !is_tag => text.push(c),
            _ => {}
        }
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn has(text: &str, figure: &str) {
    let is_there = format!(" {text} ").replace([',', ';'], " ").contains(&format!(" {figure} "));
    assert!(is_there, "{figure:?} is not in {text:?}");
}

fn report(seq: u64, offer: &Value, phase: &str) -> Value {
    let mut report = json!({
        "seq": seq, "revision": offer["revision"], "attempt": seq, "phase": phase,
        "wants": offer["id"],
    });
    if phase == "failed" {
        report["reason"] = json!("script");
        report["message"] = json!("exit status 7");
        report["exit_code"] = json!(7);
        report["output"] = json!("migrating\nno such table\n");
    }
    report
}

/// Connects hosts of `web` that run the first version.
fn hosts(rig: &Rig, count: usize) -> Vec<Watch> {
    let watch = |n: usize| {
        let mut watch = Watch::begin(rig, "srv", "web", &format!("web-{n}"), &format!("a{n}"));
        let offer = watch.offer();
        watch.healthy(1, &offer);
        watch
    };
    (0..count).map(watch).collect()
}

/// A fleet with two configurations. Two hosts are in a group, and the others are in no group. The
/// hosts are done, failed, working, held or absent.
fn fleet(rig: &Rig) -> Vec<Watch> {
    let mut watches = hosts(rig, 7);
    for host in ["web-0", "web-1"] {
        rig.ok(&format!("host label {host} group=canary"));
    }
    rig.ok("host hold web-4 -m disk");
    change(rig, "v2");
    for (place, phase) in [(1, "failed"), (2, "failed"), (5, "script")] {
        let offer = watches[place].offer();
        watches[place].report(&report(2, &offer, phase));
    }
    let offer = watches[0].offer();
    watches[0].healthy(2, &offer);
    drop(watches.remove(3));
    rig.ok("addconf -name api -layer code:v1");
    let mut api = Watch::begin(rig, "srv", "api", "web-0", "b0");
    let offer = api.offer();
    api.healthy(1, &offer);
    watches.push(api);
    watches
}

#[test]
fn first_screen_has_the_figures_of_fleet_json() {
    let rig = start(&["-http", "127.0.0.1:0"]);
    let _watches = fleet(&rig);
    wait_until("a host is absent", || {
        document(&rig, "fleet -json")["configurations"][1]["absent"] == 1
    });
    let fleet = document(&rig, "fleet -json");
    let html = page(&rig, "/");
    let rows = fleet["hosts"].as_array().unwrap();
    let names = |is_wanted: &dyn Fn(&Value) -> bool| {
        let wanted = rows.iter().filter(|host| is_wanted(host));
        wanted.map(|host| host["host"].as_str().unwrap()).collect::<BTreeSet<_>>().len()
    };
    let connected = names(&|host| host["connected"] == true);
    let title = text(part(&html, "<h1>Fleet</h1>", "</div>"));
    assert_eq!(title, format!("{} hosts, {connected} connected", names(&|_| true)));

    let configurations = fleet["configurations"].as_array().unwrap();
    let sum =
        |field: &str| configurations.iter().map(|of| of[field].as_u64().unwrap()).sum::<u64>();
    let chips = text(part(&html, "<div class=\"chips\">", "</div>"));
    has(&chips, &format!("{} in all", sum("hosts") + sum("unknown")));
    for field in ["behind", "failed", "absent", "held"] {
        assert!(sum(field) > 0, "{field}: {fleet}");
        has(&chips, &format!("{} {field}", sum(field)));
    }
    for of in configurations {
        has_row(&html, of);
    }
    let needs = text(part(&html, "<section id=\"needs\"", "</section>"));
    has(&needs, &format!("{} hosts failed in the same way", configurations[1]["failed"]));
    assert!(needs.contains("no such table") && needs.contains("web-3 is silent"), "{needs}");
}

/// Checks that the row of a configuration has its counts.
fn has_row(html: &str, of: &Value) {
    let name = of["configuration"].as_str().unwrap();
    let row =
        part(html, &format!("<th scope=\"row\"><a href=\"/configurations/{name}\">"), "</tr>");
    let cells: Vec<String> =
        row.split("<td").skip(1).map(|cell| text(&format!("<td{cell}"))).collect();
    assert_eq!(cells[0], of["state"].to_string());
    has(&cells[1], &of["hosts"].to_string());
    for field in ["done", "failed", "absent", "held"] {
        match of[field].as_u64().unwrap() {
            0 => assert!(!cells[1].contains(field), "{}", cells[1]),
            number => has(&cells[1], &format!("{number} {field}")),
        }
    }
    for (group, cell) in [("canary", &cells[2]), ("", &cells[3])] {
        let counts = &of["groups"][group];
        match counts["hosts"].as_u64() {
            None => assert_eq!(cell, "–"),
            Some(hosts) => has(cell, &format!("{} of {hosts}", counts["done"])),
        }
        if counts["failed"].as_u64() > Some(0) {
            has(cell, &format!("{} failed", counts["failed"]));
        }
    }
}

#[test]
fn lists_have_as_many_hosts_as_the_counts_say() {
    let rig = start(&["-http", "127.0.0.1:0"]);
    let _watches = fleet(&rig);
    wait_until("a host is absent", || {
        document(&rig, "fleet -json")["configurations"][1]["absent"] == 1
    });
    let fleet = document(&rig, "fleet -json");
    let web = &fleet["configurations"][1];
    assert_eq!(web["configuration"], "web");
    let rows = |path: &str| page(&rig, path).matches("<tr><th scope=\"row\">").count() as u64;
    assert_eq!(rows("/hosts"), fleet["hosts"].as_array().unwrap().len() as u64);
    assert_eq!(rows("/hosts?name=web"), web["hosts"].as_u64().unwrap());
    assert_eq!(rows("/hosts?name=web&behind=1"), web["behind"].as_u64().unwrap());
    for field in ["done", "failed", "absent", "held"] {
        let path = format!("/hosts?name=web&only={field}");
        assert_eq!(rows(&path), web[field].as_u64().unwrap(), "{path}");
    }
    let group = web["groups"]["canary"]["hosts"].as_u64().unwrap();
    assert_eq!(rows("/hosts?name=web&group=canary"), group);
    let summary =
        text(part(&page(&rig, "/hosts?name=web"), "<h1 id=\"hosts-h\">Hosts</h1>", "</p>"));
    for (phase, count) in web["phases"].as_object().unwrap() {
        has(&summary, &format!("{count} {}", phase.replace('_', " ")));
    }
    has(
        &summary,
        &format!("state {} confirmed by {} of {}", web["state"], web["done"], web["hosts"]),
    );
}

/// Checks that the rollout screen and the first screen have the figures of `status`.
fn has_rollout(rig: &Rig, status: &Value) {
    let html = page(rig, "/rollouts/web/1");
    let fact = |term: &str| text(part(&html, &format!("<dt>{term}</dt><dd>"), "</dd>"));
    assert_eq!(fact("Status"), status["status"].as_str().unwrap());
    assert_eq!(fact("Failed"), format!("{}, at most {}", status["failed"], status["budget"]));
    assert_eq!(fact("Good"), format!("{} of {}", status["good"], status["taken"]));
    assert_eq!(fact("Not in a wave yet"), status["waiting"].to_string());
    let title = text(part(&html, "rollout 1</h1>", "</p>"));
    assert_eq!(
        title,
        format!("state {} over {} · code: v1 → v2", status["target"], status["base"])
    );
    let hosts = status["hosts"].as_array().unwrap();
    let waves = part(&html, "<ol class=\"waves\">", "</ol>");
    assert_eq!(waves.matches("<li>").count(), status["waves"].as_array().unwrap().len());
    for (number, wave) in (1_u64..).zip(waves.split("<li>").skip(1)) {
        for result in ["good", "working", "offered", "failed", "held"] {
            let of_wave = hosts.iter().filter(|host| host["wave"] == number);
            let count = of_wave.filter(|host| host["result"] == result).count();
            if count > 0 {
                has(&text(wave), &format!("{count} {result}"));
            }
            assert_eq!(wave.matches(&format!(": {result}")).count(), count, "{result}: {wave}");
        }
    }
    let bad = hosts.iter().filter(|host| host["result"] != "good").count();
    let table = part(&html, "<section id=\"hosts\"", "</section>");
    assert_eq!(table.matches("<tr><th scope=\"row\">").count(), bad);
    let first = page(rig, "/");
    if status["ended"].is_null() {
        let card = text(part(&first, "<article", "</article>"));
        has(&card, &format!("failed {}", status["failed"]));
        has(&card, &format!("at most {}", status["budget"]));
        assert!(card.contains(status["status"].as_str().unwrap()), "{card}");
    } else {
        assert!(!first.contains("<article"), "{first}");
    }
}

#[test]
fn rollout_screen_has_the_figures_of_rollout_status_json() {
    let rig = start(&["-http", "127.0.0.1:0"]);
    let mut watches = hosts(&rig, 6);
    let status = || document(&rig, "rollout status -name web -json");
    rig.ok("rollout start -name web -layer code:v2 -waves 3,100% -soak 10m");
    let offers: Vec<Value> = watches[..3].iter().map(Watch::offer).collect();
    has_rollout(&rig, &status());
    watches[0].healthy(2, &offers[0]);
    watches[1].report(&report(2, &offers[1], "failed"));
    watches[2].report(&report(2, &offers[2], "checking"));
    wait_until("a host has failed", || status()["failed"] == 1);
    has_rollout(&rig, &status());
    watches[2].report(&report(3, &offers[2], "failed"));
    wait_until("the rollout halts", || status()["status"] == "halted");
    let halted = status();
    has_rollout(&rig, &halted);
    let html = page(&rig, "/rollouts/web/1");
    let needs = text(part(&html, "<ul class=\"needs\">", "</ul>"));
    assert!(needs.contains(halted["why"].as_str().unwrap()), "{needs}");
    assert!(
        needs.contains("2 hosts failed in the same way") && needs.contains("no such table"),
        "{needs}"
    );
    let events = text(part(&html, "<section id=\"events\"", "</section>"));
    for event in ["halted", "web-1 failed", "wave opened wave 1 of 2 (3): 3 hosts", "started"] {
        assert!(events.contains(event), "{event}: {events}");
    }
    rig.ok("rollout abort -name web");
    has_rollout(&rig, &status());
    let list = text(&page(&rig, "/rollouts"));
    assert!(list.contains("No rollout is active") && list.contains("aborted"), "{list}");
}
