//! Reads any bytes, and generated documents that are nearly valid, as a configuration. The parser
//! must refuse each document, or find the same names and digests as `serde_json`. The id of the
//! configuration must be the hash of its layers' digests. If the configuration is written as JSON,
//! the parser must read an equal configuration from this JSON. Errors must have no control
//! characters.
#![no_main]

use std::collections::BTreeSet;

use deploy_store::{Configuration, Digest};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

const NAMES: [&str; 14] = [
    "project1",
    "code",
    "a",
    "..",
    "/",
    "a/b",
    "a:b",
    "",
    "-x",
    "\0",
    "\u{202e}\x1b[2J",
    "line\nbreak",
    "<&>\u{2028}",
    "é",
];
const TIMES: [&str; 8] = [
    "2026-11-23T03:49:03.337679474Z",
    "2026-11-23T03:49:03Z",
    "0001-01-01T00:00:00Z",
    "9999-12-30T22:00:00Z",
    "2026-11-23T03:49:03+01:00",
    "2026-02-30T00:00:00Z",
    "2026-11-23",
    "",
];

fn digest(bytes: &mut Unstructured<'_>) -> Result<String> {
    let digest = Digest::of(&[bytes.int_in_range(0..=7)?]).to_string();
    Ok(match bytes.int_in_range(0..=31)? {
        0 => digest.to_uppercase(),
        1 => digest[1..].to_owned(),
        2 => format!("../{digest}"),
        _ => digest,
    })
}

/// Chooses a value: usually one of the first two values, which are valid, and sometimes any value.
fn one_of<'a>(bytes: &mut Unstructured<'_>, from: &[&'a str]) -> Result<&'a str> {
    let usual = bytes.ratio(7, 8)?;
    if usual { Ok(from[bytes.int_in_range(0..=1)?]) } else { bytes.choose(from).copied() }
}

fn document(bytes: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut hashed = String::new();
    let mut layers = Vec::new();
    for n in 0..bytes.int_in_range(0..=6)? {
        let hash = digest(bytes)?;
        hashed.push_str(&hash);
        hashed.push('\n');
        let name = match bytes.int_in_range(0..=7)? {
            0 => one_of(bytes, &NAMES)?.to_owned(),
            1 => bytes.arbitrary::<&str>()?.to_owned(),
            _ => format!("c{n}"),
        };
        layers.push(json!({
            "Name": name,
            "Version": one_of(bytes, &NAMES)?,
            "File": one_of(bytes, &["files/x", "../../etc/passwd", ""])?,
            "Hash": hash,
            "Ctime": one_of(bytes, &TIMES)?,
        }));
    }
    let id = match bytes.int_in_range(0..=31)? {
        0 => digest(bytes)?,
        _ => Digest::of(hashed.as_bytes()).to_string(),
    };
    let mut document = json!({
        "Name": one_of(bytes, &NAMES)?,
        "Mtime": one_of(bytes, &TIMES)?,
        "Hash": id,
        "Layers": layers,
    });
    // Sometimes, a member is missing, has a value of another kind, or is unknown.
    let member = *bytes.choose(&["Name", "Mtime", "Hash", "Layers", "name", "Other"])?;
    match bytes.int_in_range(0..=31)? {
        0 => drop(document.as_object_mut().expect("an object").remove(member)),
        1 => document[member] = Value::Null,
        2 => document[member] = json!([[{}], 1e308, -1, true]),
        _ => {}
    }
    let mut text = document.to_string();
    // Sometimes a member occurs twice.
    if bytes.ratio(1, 32)? {
        text.insert_str(1, &format!("\"{member}\":{},", document[member]));
    }
    Ok(text.into_bytes())
}

fn check(bytes: &[u8]) {
    let configuration = match Configuration::from_json(bytes) {
        Ok(configuration) => configuration,
        Err(err) => {
            let told = err.to_string();
            assert!(!told.chars().any(char::is_control), "{told:?}");
            return;
        }
    };
    let document: Value = serde_json::from_slice(bytes).expect("serde_json reads the document");
    let (mut hashed, mut seen) = (String::new(), BTreeSet::new());
    let layers = document["Layers"].as_array().expect("layers");
    assert_eq!(layers.len(), configuration.layers().len());
    for (layer, document) in configuration.layers().iter().zip(layers) {
        assert_eq!(document["Name"], layer.component.as_str());
        assert_eq!(document["Version"], layer.version.as_str());
        assert_eq!(document["Hash"], layer.digest.to_string());
        assert!(seen.insert(layer.component.as_str()), "a component occurs twice");
        hashed.push_str(&format!("{}\n", layer.digest));
    }
    assert!(!seen.is_empty(), "the configuration has no layers");
    assert_eq!(document["Name"], configuration.name().as_str());
    assert_eq!(configuration.id(), Digest::of(hashed.as_bytes()));
    assert_eq!(document["Hash"], configuration.id().to_string());
    // Directory listings use the name as a file name, so the name must not contain a slash.
    assert!(!configuration.name().as_str().contains('/'));
    let again = Configuration::from_json(&configuration.to_json()).expect("its own JSON");
    assert_eq!(again, configuration);
}

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    if let Ok(document) = document(&mut Unstructured::new(bytes)) {
        check(&document);
    }
});
