//! Tests images with bad indexes, manifests and configurations.

use crate::image::{
    CONFIG, INDEX, LAYER, Layout, MANIFEST, Tar, config, digest, docker_manifest, docker_with,
    layer,
};
use serde_json::json;

use super::Before;

#[test]
fn oversized_manifests_are_refused() {
    let before = Before::new();
    let one = layer("one", "one");
    let names = vec!["a/layer.tar"; 100_000];
    let ids = vec![digest(&one); 100_000];
    let rootfs = json!({"type": "layers", "diff_ids": ids});
    let said = json!({"architecture": "amd64", "os": "linux", "rootfs": rootfs});
    let manifest = docker_manifest(&names);
    before.refuses("docker", &docker_with(&[("a/layer.tar", &one)], &said, &manifest), &[]);
    let mut layout = Layout::default();
    let part = layout.blob(LAYER, &one);
    let said = layout.blob(CONFIG, said.to_string().as_bytes());
    let manifest = layout.manifest(&said, &vec![part; 100_000]);
    layout.list(manifest);
    before.refuses("layout", &layout.archive(), &[]);
    // The document is short enough to be read. But it has more layers than a configuration may
    // have.
    let names = vec!["a/layer.tar"; 20_000];
    let manifest = docker_manifest(&names);
    let said = config(&vec![one.clone(); 20_000]);
    before.refuses("many", &docker_with(&[("a/layer.tar", &one)], &said, &manifest), &["10000"]);
    let large = " ".repeat(9 << 20);
    let image = Tar::new().file("manifest.json", &large).end();
    before.refuses("blanks", &image, &["manifest.json"]);
    let image = Tar::new().file("oci-layout", "{}").file("index.json", &large).end();
    before.refuses("blanks", &image, &["index.json"]);
    for (what, text) in [("arrays", "["), ("objects", "{\"a\":")] {
        let image = Tar::new().file("manifest.json", text.repeat(100_000)).end();
        before.refuses(what, &image, &["manifest.json"]);
    }
}

#[test]
fn endlessly_nested_indexes_are_refused() {
    let before = Before::new();
    // A valid blob cannot refer to itself, because it would have to contain its own digest. But a
    // damaged file can contain the digest in its own name.
    let mut layout = Layout::default();
    let honest = layout.index(&[]);
    let lie = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [honest]});
    let empty = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": []});
    layout.replace(empty.to_string().as_bytes(), lie.to_string().as_bytes());
    layout.list(honest);
    before.refuses("itself", &layout.archive(), &[]);
    let mut layout = Layout::of(&[layer("one", "one")]);
    let mut below = layout.index(&[]);
    for _ in 0..1000 {
        below = layout.index(&[below]);
    }
    let mut deep = Layout::default();
    std::mem::swap(&mut deep, &mut layout);
    deep.list_as("deep", below);
    before.refuses_with("deep", &["-name", "app", "-image", "deep"], &deep.archive(), &["index"]);
    // Each index names the next index twice, so there are 2^40 paths.
    let mut wide = Layout::default();
    let mut below = wide.index(&[]);
    for _ in 0..40 {
        below = wide.index(&[below.clone(), below]);
    }
    wide.list(below);
    before.refuses("wide", &wide.archive(), &[]);
    // These indexes are not nested too deeply, but contain 1000 × 1000 × 1000 paths.
    let mut broad = Layout::default();
    let note = json!({"vnd.docker.reference.type": "attestation-manifest"});
    let nowhere = digest(b"");
    let said = json!({"mediaType": MANIFEST, "digest": nowhere, "size": 0, "annotations": note});
    let mut below = broad.index(&vec![said; 1000]);
    for _ in 0..2 {
        below = broad.index(&vec![below; 1000]);
    }
    broad.list(below);
    before.refuses("broad", &broad.archive(), &["lead to too many documents"]);
    // These indexes lead to the same image under very many long names.
    let mut named = Layout::of(&[layer("one", "one")]);
    let one = named.listed()[0].clone();
    let name = |n: usize| {
        let mut one = one.clone();
        one["annotations"] = json!({"org.opencontainers.image.ref.name": format!("{n:0>4000}")});
        one
    };
    let mut below = named.index(&(0..500).map(name).collect::<Vec<_>>());
    below = named.index(&vec![below; 1000]);
    named.list(below);
    before.refuses("named", &named.archive(), &["lead to too many documents"]);
}

#[test]
fn nonsensical_manifests_are_refused() {
    let before = Before::new();
    let one = layer("one", "one");
    let said = config(std::slice::from_ref(&one));
    for manifest in [
        json!({}),
        json!(null),
        json!([7]),
        json!([{}]),
        json!([{"Layers": 7}]),
        json!([{"Config": "config.json", "RepoTags": ["app:1"], "Layers": []}]),
        json!([{"Config": "config.json", "RepoTags": ["app:1"], "Layers": [null]}]),
    ] {
        let image = docker_with(&[("a/layer.tar", &one)], &said, &manifest);
        before.refuses(&manifest.to_string(), &image, &[]);
    }
    for bad in ["sha256:../../../../etc/passwd", "sha256:", "md5:00", "", "sha256:zz", "passwd"] {
        let mut layout = Layout::default();
        let part = json!({"mediaType": LAYER, "digest": bad, "size": 1});
        let said = layout.blob(CONFIG, said.to_string().as_bytes());
        let manifest = layout.manifest(&said, &[part]);
        layout.list(manifest);
        before.refuses(bad, &layout.archive(), &["digest"]);
        let mut layout = Layout::default();
        layout.list(json!({"mediaType": MANIFEST, "digest": bad, "size": 1}));
        before.refuses(bad, &layout.archive(), &["digest"]);
    }
    // A reader of the first manifest and a reader of the last manifest would see different images.
    let manifest = docker_manifest(&["a/layer.tar"]);
    let image = Tar::new().file("a/layer.tar", &one).file("config.json", said.to_string());
    let image = image.file("manifest.json", manifest.to_string());
    let manifest = docker_manifest(&["b/layer.tar"]);
    let image = image.file("b/layer.tar", layer("two", "two"));
    let image = image.file("manifest.json", manifest.to_string()).end();
    before.refuses("two manifests", &image, &["manifest.json"]);
}
