//! Formats the answer of `stat`.

use deploy_store::escape;
use serde_json::{Map, Value, json};

use crate::bucket::BucketStat;
use crate::catalog::{Registries, RegistryRow};
use crate::console::print::seconds;
use crate::console::table::list;
use crate::verbs::stat::Stat;

/// The answer as text. It shows the registries only if the command asks for them.
pub(super) fn stat_text(stat: &Stat, registries: Option<&Registries>) -> String {
    let counts = stat.counts;
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row = |name: &str, value: String, more: String| {
        rows.push(vec![name.to_owned(), value, more]);
    };
    let number = |number: u64| number.to_string();
    row("components", number(counts.components), String::new());
    row("versions", number(counts.versions), format!("{} pinned", counts.pins));
    row("configurations", number(counts.configurations), format!("{} states", counts.states));
    row("files", number(stat.blobs.blobs), format!("{} bytes", stat.blobs.bytes));
    let ratio = stat.dedupe_ratio();
    row("bound", format!("{} bytes", stat.bound.bytes), format!("{ratio:.2} times the files"));
    row("damaged", number(stat.damaged), String::new());
    row("uploads", number(stat.staged.files), format!("{} bytes", stat.staged.bytes));
    row("downloads", number(stat.downloads), String::new());
    row("free", format!("{} bytes", stat.free), String::new());
    if let Some(bucket) = &stat.bucket {
        for (name, value, more) in bucket_rows(bucket) {
            row(name, value, more);
        }
    }
    match &stat.gc {
        Some(gc) => row("last gc", seconds(gc.time), format!("{} bytes freed", gc.blobs.bytes)),
        None => row("last gc", "never".to_owned(), String::new()),
    }
    match &stat.verify {
        Some(verify) => {
            let part = if verify.complete { "" } else { " (not all files)" };
            let found = format!("{} bytes read{part}, {} damaged", verify.bytes, verify.damaged);
            row("last verify", seconds(verify.time), found);
        }
        None => row("last verify", "never".to_owned(), String::new()),
    }
    if let Some(registries) = registries {
        rows.extend(registry_lines(registries));
    }
    list(&rows)
}

/// The answer as JSON.
pub(super) fn stat_json(stat: &Stat, registries: Option<&Registries>) -> Value {
    let counts = stat.counts;
    let mut document = json!({
        "components": counts.components,
        "versions": counts.versions,
        "pins": counts.pins,
        "configurations": counts.configurations,
        "states": counts.states,
        "files": { "files": stat.blobs.blobs, "bytes": stat.blobs.bytes },
        "bound_bytes": stat.bound.bytes,
        "dedupe_ratio": stat.dedupe_ratio(),
        "damaged": stat.damaged,
        "uploads": { "files": stat.staged.files, "bytes": stat.staged.bytes },
        "downloads": stat.downloads,
        "free_bytes": stat.free,
        "last_gc": stat.gc,
        "last_verify": stat.verify,
    });
    if let Some(bucket) = &stat.bucket {
        document["bucket"] = bucket_json(bucket);
    }
    if let Some(registries) = registries {
        document["registries"] = registries_json(registries);
    }
    document
}

/// Whether a registry runs, as far as the catalogue knows.
fn condition(registries: &Registries, row: &RegistryRow) -> &'static str {
    match (row.stopped, row.is_there(registries.now)) {
        (true, _) => "stopped",
        (false, true) => "running",
        (false, false) => "away",
    }
}

/// The key files of a registry that differ from those of the registry that answers.
fn drift(registries: &Registries, row: &RegistryRow) -> Vec<&'static str> {
    let Some(own) = registries.rows.iter().find(|one| one.id == registries.own) else {
        return Vec::new();
    };
    let files = [
        ("operators", &own.described.operators, &row.described.operators),
        ("agents", &own.described.services, &row.described.services),
    ];
    let is_other = |(_, own, other): &(_, &String, &String)| own != other;
    files.into_iter().filter(is_other).map(|(name, ..)| name).collect()
}

fn registry_lines(registries: &Registries) -> Vec<Vec<String>> {
    if registries.rows.is_empty() {
        let why = "only this registry uses the catalogue".to_owned();
        return vec![vec!["registries".to_owned(), "1".to_owned(), why]];
    }
    let line = |row: &RegistryRow| {
        let mut more = format!(
            "{}, version {}, heartbeat {}",
            condition(registries, row),
            escape(&row.described.version),
            seconds(row.heartbeat)
        );
        if row.id == registries.own {
            more += ", answers this";
        }
        for file in drift(registries, row) {
            more += &format!(", other keys of {file}");
        }
        vec!["registry".to_owned(), escape(&row.described.address), more]
    };
    registries.rows.iter().map(line).collect()
}

fn registries_json(registries: &Registries) -> Value {
    let one = |row: &RegistryRow| {
        let described = &row.described;
        json!({
            "id": row.id,
            "address": described.address,
            "version": described.version,
            "state": condition(registries, row),
            "own": row.id == registries.own,
            "started": row.started,
            "heartbeat": row.heartbeat,
            "host_key": described.host_key,
            "operators": described.operators,
            "agents": described.services,
            "drift": drift(registries, row),
        })
    };
    registries.rows.iter().map(one).collect()
}

/// The rows about the bucket: whether it answers, its objects and the cache.
fn bucket_rows(bucket: &BucketStat) -> Vec<(&'static str, String, String)> {
    let state = match &bucket.away {
        None if bucket.removes => String::new(),
        None => "nothing is removed (-accept-older-catalogue)".to_owned(),
        Some(away) => format!("no answer since {}: {}", seconds(away.since), escape(&away.why)),
    };
    let mut rows = vec![("bucket", bucket.address.clone(), state)];
    for (state, count) in &bucket.objects {
        let (objects, bytes) = (count.blobs, count.bytes);
        rows.push(("objects", format!("{objects} {}", state.as_str()), format!("{bytes} bytes")));
    }
    let (cached, limit) = bucket.cache;
    rows.push(("cache", format!("{cached} bytes"), format!("of at most {limit}")));
    rows
}

fn bucket_json(bucket: &BucketStat) -> Value {
    let object = |(state, count): (&crate::catalog::ObjectState, &crate::catalog::BlobCount)| {
        (state.as_str().to_owned(), json!({ "files": count.blobs, "bytes": count.bytes }))
    };
    let objects: Map<String, Value> = bucket.objects.iter().map(object).collect();
    let away = bucket.away.as_ref().map(|away| json!({ "since": away.since, "why": away.why }));
    json!({
        "address": bucket.address,
        "away": away,
        "objects": objects,
        "cache": { "bytes": bucket.cache.0, "limit": bucket.cache.1 },
        "removes": bucket.removes,
    })
}
