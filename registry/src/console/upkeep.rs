//! The maintenance verbs: `gc`, `refs`, `verify`, `stat`, `diff`, `audit`. These verbs answer with
//! text or JSON. New versions may add fields to the JSON documents, but never remove fields.

use deploy_store::{Digest, How, Meter, escape};
use deploy_wire::command::{Command, Refusal, Since};
use deploy_wire::exit;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::catalog::{Audited, Change, Reference};
use crate::console::Done;
use crate::console::gc_answer::{collected, collected_json};
use crate::console::print::{document, seconds};
use crate::console::stat_answer::{stat_json, stat_text};
use crate::console::table::list;
use crate::registry::Registry;
use crate::verbs::state_diff::{Diff, LayerChange};
use crate::verbs::verify_blobs::{Finding, Kind, Scope, Verified};

/// Runs one of the maintenance verbs.
pub async fn execute(
    registry: &Registry,
    command: &Command,
    change: &Change,
    meter: &Meter,
) -> Result<Done, Refusal> {
    match command {
        Command::Collect { dry_run: true, json, .. } => {
            let collection = registry.would_collect().await?;
            as_asked(*json, || collected_json(&collection, true), || collected(&collection, true))
        }
        Command::Collect { force, json, .. } => {
            let done = registry.collect_counted(*force, meter).await?;
            registry.catalog.audit_change(change, exit::OK, "").await?;
            as_asked(*json, || collected_json(&done, false), || collected(&done, false))
        }
        Command::Verify { sample, budget, resume, json, .. } => {
            let scope = Scope { sample: *sample, budget: *budget, resume: *resume, rate: None };
            let verified = registry.verify_counted(scope, meter).await?;
            let done = as_asked(*json, || verified_json(&verified), || verified_text(&verified))?;
            let code = if verified.damaged() == 0 { exit::OK } else { exit::CORRUPT };
            Ok(Done { code, ..done })
        }
        Command::References { digest: hash, json } => {
            let none = || Refusal::new(exit::NOT_FOUND, format!("no file with hash {hash}"));
            let digest = registry.find_hash(hash).await?.ok_or_else(none)?;
            references(registry, digest, *json).await
        }
        Command::Stat { registries, json } => {
            let stat = registry.stat().await?;
            let all = if *registries { Some(registry.catalog.registries().await?) } else { None };
            let all = all.as_ref();
            as_asked(*json, || stat_json(&stat, all), || stat_text(&stat, all))
        }
        Command::Diff { name, from, to, files, json } => {
            let diff = registry.diff(name, *from, *to, *files).await?;
            as_asked(*json, || diff_json(name.as_str(), &diff), || diff_text(&diff))
        }
        Command::Audit { since, before, limit, json } => {
            let since = since.map(|since| match since {
                Since::At(time) => time,
                Since::Ago(age) => Timestamp::now().checked_sub(age).unwrap_or(Timestamp::MIN),
            });
            let entries = registry.catalog.audit(since, *before, limit.unwrap_or(u64::MAX)).await?;
            as_asked(*json, || audit_json(&entries), || audit_text(&entries))
        }
        _ => unreachable!("`console` runs the other verbs"),
    }
}

fn as_asked(
    json: bool,
    as_json: impl FnOnce() -> Value,
    as_text: impl FnOnce() -> String,
) -> Result<Done, Refusal> {
    Ok(Done::from(if json { document(&as_json())? } else { as_text() }))
}

async fn references(registry: &Registry, digest: Digest, json: bool) -> Result<Done, Refusal> {
    let references = registry.catalog.references_of(digest).await?;
    let bytes = registry.blobs().size(digest).await?;
    let staged = registry.blobs().is_staged(digest).await?;
    let downloads = registry.downloads.count(digest);
    if references.is_empty() && bytes.is_none() && !staged {
        return Err(Refusal::new(exit::NOT_FOUND, format!("no file with hash {digest}")));
    }
    let text = || {
        let mut rows: Vec<Vec<String>> = references.iter().map(|one| cells(one).to_vec()).collect();
        let row = |kind: &str, what: String| vec![kind.to_owned(), what, String::new()];
        if downloads > 0 {
            rows.push(row("transfer", format!("{downloads} downloads in flight")));
        }
        if staged {
            rows.push(row("upload", "waits to be bound".to_owned()));
        }
        if bytes.is_none() && !references.is_empty() {
            rows.push(row("missing", "the file is missing".to_owned()));
        }
        if rows.is_empty() {
            let what = "needs it: gc removes the file when it is old enough".to_owned();
            rows.push(row("nothing", what));
        }
        list(&rows)
    };
    let as_json = || {
        json!({
            "hash": digest.to_string(),
            "bytes": bytes,
            "references": references.iter().map(reference_json).collect::<Vec<_>>(),
            "transfers": downloads,
            "staged": staged,
        })
    };
    as_asked(json, as_json, text)
}

/// A reference to a blob in three columns: its kind, the version or configuration that refers to
/// the blob, and details.
fn cells(reference: &Reference) -> [String; 3] {
    match reference {
        Reference::Current { configuration, number } => {
            ["current".into(), configuration.to_string(), format!("state {number}")]
        }
        Reference::RollbackTarget { configuration, number } => {
            ["rollback".into(), configuration.to_string(), format!("state {number}")]
        }
        Reference::Pin { component, version, message } => {
            ["pinned".into(), format!("{component} {version}"), escape(message)]
        }
        Reference::Version { component, version } => {
            ["version".into(), format!("{component} {version}"), String::new()]
        }
    }
}

fn reference_json(reference: &Reference) -> Value {
    match reference {
        Reference::Current { configuration, number } => {
            json!({ "why": "current", "configuration": configuration.as_str(), "state": number })
        }
        Reference::RollbackTarget { configuration, number } => {
            json!({ "why": "rollback", "configuration": configuration.as_str(), "state": number })
        }
        Reference::Pin { component, version, message } => json!({
            "why": "pinned",
            "component": component.as_str(),
            "version": version.as_str(),
            "message": message,
        }),
        Reference::Version { component, version } => json!({
            "why": "version",
            "component": component.as_str(),
            "version": version.as_str(),
        }),
    }
}

fn verified_text(verified: &Verified) -> String {
    let mut lines = Vec::new();
    for finding in &verified.findings {
        lines.push(format!("{} {}: {}\n", kind(finding.kind), finding.path, finding.why));
        for hit in &finding.hits {
            let words = cells(hit).into_iter().filter(|cell| !cell.is_empty());
            lines.push(format!("\taffects {}\n", words.collect::<Vec<_>>().join(" ")));
        }
    }
    let text = lines.concat();
    let Verified { blobs, bytes, of, complete, .. } = verified;
    let rest = if *complete { "" } else { "; the time limit is reached, continue with -resume" };
    let text = text
        + &format!(
            "{blobs} of {of} files read, {bytes} bytes: {} damaged{rest}\n",
            verified.damaged()
        );
    let lost = |finding: &Finding| matches!(finding.kind, Kind::Damaged | Kind::Missing);
    if verified.findings.iter().any(lost) { text + MEND } else { text }
}

/// A hint with the way to restore lost files. `verify` itself does not restore files.
const MEND: &str = "to restore damaged or missing files, upload the same bytes again with sftp, \
                    or repeat the deployctl addver command that uploaded them: the registry \
                    restores the files immediately\n";

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Catalogue => "catalogue",
        Kind::Damaged => "damaged",
        Kind::Missing => "missing",
        Kind::Unreadable => "unreadable",
        Kind::Foreign => "foreign",
    }
}

fn verified_json(verified: &Verified) -> Value {
    let findings = verified.findings.iter().map(|finding| {
        json!({
            "kind": kind(finding.kind),
            "path": finding.path,
            "why": finding.why,
            "hits": finding.hits.iter().map(reference_json).collect::<Vec<_>>(),
        })
    });
    json!({
        "files": verified.blobs,
        "bytes": verified.bytes,
        "of": verified.of,
        "complete": verified.complete,
        "damaged": verified.damaged(),
        "findings": findings.collect::<Vec<_>>(),
    })
}

fn diff_text(diff: &Diff) -> String {
    if let Some(files) = &diff.files {
        return files.iter().fold(String::new(), |text, file| {
            let letter = match file.how {
                How::Added => 'A',
                How::Removed => 'D',
                How::Changed => 'M',
                How::Metadata => 'm',
            };
            text + &format!("{letter} {}\n", escape(&file.path.to_string()))
        });
    }
    layers_text(&diff.layers, diff.reordered)
}

/// The layers that differ, one on each line, with both versions.
pub(super) fn layers_text(layers: &[LayerChange], reordered: bool) -> String {
    let rows: Vec<Vec<String>> = layers
        .iter()
        .map(|LayerChange { component, from, to }| {
            let version = |side: &Option<(_, _)>| match side {
                Some((version, _)) => format!("{version}"),
                None => "-".to_owned(),
            };
            vec![component.to_string(), version(from), version(to)]
        })
        .collect();
    let order = if reordered { "the layers are in a different order\n" } else { "" };
    list(&rows) + order
}

fn diff_json(name: &str, diff: &Diff) -> Value {
    let side = |side: &Option<(deploy_store::VersionName, Digest)>| {
        side.as_ref().map(
            |(version, digest)| json!({ "version": version.as_str(), "hash": digest.to_string() }),
        )
    };
    let layers = diff.layers.iter().map(|layer| {
        json!({
            "component": layer.component.as_str(),
            "from": side(&layer.from),
            "to": side(&layer.to),
        })
    });
    let files = diff.files.as_ref().map(|files| {
        let file = files.iter().map(|file| {
            let how = match file.how {
                How::Added => "added",
                How::Removed => "removed",
                How::Changed => "changed",
                How::Metadata => "metadata",
            };
            json!({ "path": file.path.to_string(), "how": how })
        });
        file.collect::<Vec<_>>()
    });
    json!({
        "name": name,
        "configuration": name,
        "from": diff.from,
        "to": diff.to,
        "layers": layers.collect::<Vec<_>>(),
        "reordered": diff.reordered,
        "files": files,
    })
}

fn audit_text(entries: &[Audited]) -> String {
    let rows: Vec<Vec<String>> = entries
        .iter()
        .map(|entry| {
            let Change { user, key, address, command, now, .. } = &entry.change;
            let result = match entry.code {
                exit::OK => "ok".to_owned(),
                code => format!("{code}: {}", escape(&entry.why)),
            };
            let cells = [user, key, address, command].map(|cell| escape(cell));
            [vec![seconds(*now)], cells.to_vec(), vec![result]].concat()
        })
        .collect();
    list(&rows)
}

fn audit_json(entries: &[Audited]) -> Value {
    let entry = |entry: &Audited| {
        json!({
            "number": entry.number,
            "time": entry.change.now,
            "user": entry.change.user,
            "who": entry.change.key,
            "address": entry.change.address,
            "command": entry.change.command,
            "code": entry.code,
            "why": entry.why,
        })
    };
    Value::Array(entries.iter().map(entry).collect())
}
