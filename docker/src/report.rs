//! Formats the result of an import as text.

use std::fmt::Write as _;
use std::time::Duration;

use deploy_store::plural;

use crate::job::{Imported, Summary};

/// The plan, with one line for each layer.
pub fn plan(summary: &Summary) -> String {
    let mut text = String::new();
    for layer in &summary.layers {
        let Imported { component, hash, tar_bytes, blob_bytes, removed, .. } = layer;
        let what = match (hash, blob_bytes) {
            (Some(hash), Some(bytes)) => format!("known     {bytes} bytes as {hash}"),
            _ => format!("to send   {tar_bytes} bytes before compression"),
        };
        let removed = match removed {
            0 => String::new(),
            n => format!(", removed by later layers: {n}"),
        };
        writeln!(text, "{component:<24}  {what}{removed}").expect("a string takes any text");
    }
    text
}

/// The last line of the output, with the number of layers, the number of reused layers, the number
/// of sent bytes, and the duration.
pub fn closing(summary: &Summary, dry_run: bool, time: Duration) -> String {
    let Summary { name, layers, empty, sent, .. } = summary;
    let reused = layers.iter().filter(|layer| layer.reused).count();
    let mut text = format!("configuration \"{name}\": {}", plural(layers.len() as u64, "layer"));
    if *empty > 0 {
        write!(text, " (empty layers left out: {empty})").expect("a string takes any text");
    }
    let seconds = time.as_secs_f64();
    if dry_run {
        let unknown = layers.len() - reused;
        write!(text, ", {reused} known, {unknown} to send, nothing done, {seconds:.1} s")
    } else {
        write!(text, ", {reused} reused, {sent} bytes sent, {seconds:.1} s")
    }
    .expect("a string takes any text");
    text + "\n"
}
