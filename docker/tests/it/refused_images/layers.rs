//! Tests images whose layers are damaged, lie outside of the image, or have entries outside of the
//! root.

use std::fs;

use crate::image::{
    CONFIG, LAYER, Layout, Tar, config, digest, docker, docker_manifest, docker_with, gzip, layer,
};

use super::{Before, two_layers};

#[test]
fn layers_with_wrong_diff_ids_are_refused() {
    let before = Before::new();
    let layers = two_layers();
    let manifest = docker_manifest(&["a/layer.tar", "b/layer.tar"]);
    let files: [(&str, &[u8]); 2] = [("a/layer.tar", &layers[0]), ("b/layer.tar", &layers[1])];
    let other = config(&[layers[0].clone(), layer("other", "")]);
    before.refuses("another layer", &docker_with(&files, &other, &manifest), &["b/layer.tar"]);
    let fewer = config(&layers[..1]);
    before.refuses("fewer", &docker_with(&files, &fewer, &manifest), &["1", "2"]);
    let mut layout = Layout::default();
    let part = layout.blob(&format!("{LAYER}+gzip"), &gzip(&layers[0]));
    let said = layout.blob(CONFIG, config(&layers[1..]).to_string().as_bytes());
    let manifest = layout.manifest(&said, &[part]);
    layout.list(manifest);
    before.refuses("in a layout", &layout.archive(), &[]);
}

#[test]
fn entries_outside_the_root_are_refused() {
    let before = Before::new();
    for name in [
        "../.wh.x",
        "a/../../.wh.x",
        "..",
        "../x",
        ".wh...",
        ".wh..",
        ".wh.",
        "a/.wh..",
        "a/.wh...",
    ] {
        for lower in [None, Some(layer("a/x", "x"))] {
            let layers: Vec<_> =
                lower.into_iter().chain([Tar::new().file(name, "").end()]).collect();
            before.refuses(name, &docker(&[("app:1", &layers)]), &[]);
        }
    }
}

#[test]
fn external_layers_are_refused() {
    let before = Before::new();
    let manifest = docker_manifest(&["a/layer.tar"]);
    let said = config(&[layer("one", "one")]).to_string();
    let rest =
        |tar: Tar| tar.file("config.json", &said).file("manifest.json", manifest.to_string());
    fs::write(before.rig.path("layer.tar"), layer("one", "one")).unwrap();
    let outside = before.rig.path("layer.tar");
    for to in [
        outside.to_str().unwrap(),
        "/etc/passwd",
        "../../etc/passwd",
        "../../../b/layer.tar",
        "../b/layer.tar",
        "layer.tar",
        "../a/layer.tar",
        "",
        "..",
    ] {
        // A header has space for a name of at most 100 bytes.
        let to = if to.len() > 100 { "/etc/hostname" } else { to };
        let image = rest(Tar::new().symlink("a/layer.tar", to)).end();
        before.refuses(&format!("symlink to {to:?}"), &image, &["a/layer.tar"]);
    }
    let image = rest(
        Tar::new()
            .symlink("a/layer.tar", "../b/layer.tar")
            .symlink("b/layer.tar", "../a/layer.tar"),
    );
    before.refuses("a loop", &image.end(), &["a/layer.tar"]);
    let image = rest(Tar::new().hardlink("a/layer.tar", "/etc/passwd")).end();
    before.refuses("a hardlink", &image, &["a/layer.tar"]);
    let image = rest(Tar::new().dir("a/layer.tar/")).end();
    before.refuses("a directory", &image, &["a/layer.tar"]);
    for name in [
        "/etc/hostname",
        "../../../../etc/hostname",
        outside.to_str().unwrap(),
        "",
        "manifest.json",
    ] {
        let manifest = docker_manifest(&[name]);
        let image = docker_with(&[], &config(&[layer("one", "one")]), &manifest);
        before.refuses(name, &image, &[]);
    }
}

#[test]
fn layers_that_are_not_archives_are_refused() {
    let before = Before::new();
    let good = layer("one", "one");
    let mut sum = good.clone();
    sum[0] ^= 1;
    let mut crc = gzip(&good);
    let at = crc.len() - 6;
    crc[at] ^= 1;
    let big = layer("big", &"0123456789".repeat(20_000));
    let cut = &gzip(&big)[..400];
    for (what, bytes) in [
        ("text", b"this is no archive\n".as_slice()),
        ("noise", &[0xa5; 5000]),
        ("a bad sum", &sum),
        ("cut", &big[..100_000]),
        ("packed and cut", cut),
        ("packed, of another sum", &crc),
        ("packed text", &gzip(b"this is no archive")),
    ] {
        let layers = [good.clone(), bytes.to_vec()];
        before.refuses(what, &Layout::of(&layers).archive(), &[&digest(bytes)["sha256:".len()..]]);
        before.refuses(what, &docker(&[("app:1", &layers)]), &["0-1/layer.tar"]);
    }
    let link = Tar::new().hardlink("link", "no/such/file").end();
    before.refuses("a link to nothing", &docker(&[("app:1", &[good, link])]), &["no/such/file"]);
}

/// Makes an archive with a file that has a length but no bytes.
fn hollow(length: u64) -> Vec<u8> {
    let record = |key: &str, value: &str| {
        let rest = format!(" {key}={value}\n");
        format!("{}{rest}", rest.len() + 2)
    };
    let length = record("GNU.sparse.realsize", &format!("{length:0>20}"));
    let records = record("GNU.sparse.map", "0,0") + &length;
    let mut tar = tar::Builder::new(Vec::new());
    for (name, kind, body) in [
        ("PaxHeaders/0", tar::EntryType::XHeader, records.as_bytes()),
        ("layer.tar", tar::EntryType::Regular, b""),
    ] {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(body.len() as u64);
        tar.append_data(&mut header, name, body).unwrap();
    }
    tar.into_inner().unwrap()
}

#[test]
fn layer_of_holes_is_refused() {
    let before = Before::new();
    before.refuses("exabytes", &hollow(1 << 62), &["unpacks to more than"]);
    before.refuses("megabytes", &hollow(99_999_999), &["layer.tar", "is a sparse file"]);
}
