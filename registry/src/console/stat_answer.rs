//! Formats the answer of `stat`.

use deploy_store::escape;
use serde_json::{Map, Value, json};

use crate::bucket::BucketStat;
use crate::console::print::seconds;
use crate::console::table::list;
use crate::verbs::stat::Stat;

/// The answer as text.
pub(super) fn stat_text(stat: &Stat) -> String {
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
    list(&rows)
}

/// The answer as JSON.
pub(super) fn stat_json(stat: &Stat) -> Value {
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
    document
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
