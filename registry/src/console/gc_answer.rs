//! Formats the answer of `gc`, which lists what gc removed and kept, or would remove and keep.

use deploy_store::escape;
use serde_json::{Value, json};

use crate::console::table::list;
use crate::verbs::collect::{Collection, Lingering};

/// The answer as text.
pub(super) fn collected(collection: &Collection, dry_run: bool) -> String {
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row = |cells: [&str; 4]| rows.push(cells.map(str::to_owned).to_vec());
    for (component, version) in &collection.versions {
        row(["remove", "version", &format!("{component} {version}"), ""]);
    }
    for blob in &collection.blobs {
        row(["remove", "file", &blob.digest.to_string(), &blob.bytes.to_string()]);
    }
    let uploads = collection.uploads;
    if uploads.files > 0 {
        row(["remove", "uploads", &uploads.files.to_string(), &uploads.bytes.to_string()]);
    }
    let thinned = collection.thinned;
    for (what, count) in [("states", thinned.states), ("audit", thinned.audit)] {
        if count > 0 {
            row(["remove", what, &count.to_string(), ""]);
        }
    }
    for (why, count) in &collection.kept {
        let why = format!("{why:?}").to_lowercase();
        row(["keep", &why, &format!("{} files", count.blobs), &count.bytes.to_string()]);
    }
    if let Some(Lingering { count, .. }) = collection.lingering {
        let (files, bytes) = (format!("{} files", count.blobs), count.bytes.to_string());
        row(["keep", "condemned", &files, &bytes]);
    }
    if let Some(why) = &collection.unfinished {
        row(["keep", "unfinished", "the next gc tries again", &escape(why)]);
    }
    let freed = if dry_run { "bytes would be freed" } else { "bytes freed" };
    let later = match collection.lingering {
        Some(Lingering { time, .. }) if !time.is_zero() => {
            format!(", {} s after they were condemned (-linger)", time.as_secs())
        }
        _ => String::new(),
    };
    list(&rows) + &format!("{} {freed}{later}\n", collection.bytes())
}

/// The answer as JSON.
pub(super) fn collected_json(collection: &Collection, dry_run: bool) -> Value {
    let versions = collection.versions.iter().map(|(component, version)| {
        json!({ "component": component.as_str(), "version": version.as_str() })
    });
    let blobs = collection
        .blobs
        .iter()
        .map(|blob| json!({ "hash": blob.digest.to_string(), "bytes": blob.bytes }));
    let uploads = collection.uploads;
    let mut document = json!({
        "dry_run": dry_run,
        "versions": versions.collect::<Vec<_>>(),
        "files": blobs.collect::<Vec<_>>(),
        "uploads": { "files": uploads.files, "bytes": uploads.bytes },
        "bytes": collection.bytes(),
        "states": collection.thinned.states,
        "audit": collection.thinned.audit,
        "kept": collection.kept,
    });
    if let Some(Lingering { count, time }) = collection.lingering {
        document["condemned"] =
            json!({ "files": count.blobs, "bytes": count.bytes, "seconds": time.as_secs() });
        document["unfinished"] = json!(collection.unfinished);
    }
    document
}
