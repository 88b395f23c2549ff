use std::fmt::Write as _;

use deploy_store::Limits;

use super::*;
use crate::read::input::Found;
use crate::read::spool::Spool;

/// Makes a tar of one empty file.
fn layer(name: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    builder.append_data(&mut header, name, &b""[..]).unwrap();
    builder.into_inner().unwrap()
}

fn config(platform: &str, layers: &[&[u8]]) -> Vec<u8> {
    let (os, architecture) = platform.split_once('/').unwrap();
    let ids: Vec<String> =
        layers.iter().map(|layer| format!("\"sha256:{}\"", Digest::of(layer))).collect();
    let ids = ids.join(",");
    format!(
        r#"{{"os":"{os}","architecture":"{architecture}","rootfs":{{"diff_ids":[{ids}]}},
        "config":{{"User":"{platform}"}}}}"#
    )
    .into_bytes()
}

fn descriptor(media_type: &str, bytes: &[u8], more: &str) -> String {
    let (digest, size) = (Digest::of(bytes), bytes.len());
    format!(r#"{{"mediaType":"{media_type}","digest":"sha256:{digest}","size":{size}{more}}}"#)
}

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn manifest_of(config: &[u8], layers: &[String]) -> Vec<u8> {
    let config = descriptor("application/vnd.oci.image.config.v1+json", config, "");
    let layers = layers.join(",");
    format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layers}]}}"#).into_bytes()
}

fn index_of(manifests: &[String]) -> Vec<u8> {
    format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, manifests.join(",")).into_bytes()
}

fn archive(files: &[(&str, Vec<u8>)], blobs: &[&[u8]]) -> Archive {
    let mut archive = Archive::new(Spool::new(None, u64::MAX).unwrap(), Limits::STANDARD);
    let mut take = |name: &str, bytes: &[u8]| {
        archive.take(name, Found::File(bytes.len() as u64, &mut &bytes[..])).unwrap();
    };
    for blob in blobs {
        take(&format!("blobs/sha256/{}", Digest::of(blob)), blob);
    }
    for (name, bytes) in files {
        take(name, bytes);
    }
    archive
}

fn chosen(
    archive: &Archive,
    image: Option<&str>,
    platform: Option<&str>,
) -> Result<Chosen, String> {
    let platform = platform.map(|platform| platform.parse().unwrap());
    let wanted = Wanted { image: image.map(str::to_owned), platform };
    choose(archive, &wanted).map_err(|err| err.to_string())
}

const NAMED: &str = r#","annotations":{"org.opencontainers.image.ref.name":"app:1"}"#;

/// Makes an image in the OCI layout. Returns its configuration, manifest and index.
fn oci(layers: &[&[u8]]) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let config = config("linux/amd64", layers);
    let described: Vec<String> = layers.iter().map(|layer| descriptor(LAYER, layer, "")).collect();
    let manifest = manifest_of(&config, &described);
    let index = index_of(&[descriptor(MANIFEST, &manifest, NAMED)]);
    (config, manifest, index)
}

#[test]
fn same_image_is_found_in_every_layout() {
    let (one, two) = (layer("a"), layer("b"));
    let layers: [&[u8]; 3] = [&one, &two, &one];
    let (config, manifest, index) = oci(&layers);
    let plain = archive(&[("index.json", index.clone())], &[&one, &two, &config, &manifest]);
    let found = chosen(&plain, None, None).unwrap();
    assert_eq!((&found.names[..], &found.layers[..]), (&["app:1".to_owned()][..], &[0, 1, 0][..]));
    assert_eq!(found.run.user.as_deref(), Some("linux/amd64"));

    // docker has written this form since version 25. The name in manifest.json is not in
    // index.json.
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", Digest::of(bytes));
    let paths: Vec<String> = layers.iter().map(|layer| format!("\"{}\"", blob(layer))).collect();
    let saved = |config: &str, layers: &str| {
        format!(r#"[{{"Config":"{config}","RepoTags":["app:1.4"],"Layers":[{layers}]}}]"#)
    };
    let both = saved(&blob(&config), &paths.join(",")).into_bytes();
    let files = [("index.json", index), ("manifest.json", both)];
    let found = chosen(&archive(&files, &[&one, &two, &config, &manifest]), None, None).unwrap();
    assert_eq!(found.names, ["app:1.4", "app:1"]);

    // An archive that is made by hand may lack the image's configuration. But if the name of the
    // configuration's file is a digest, the file must exist.
    let hand = |config: &str| {
        let files =
            [("x.tar", layer("a")), ("manifest.json", saved(config, "\"x.tar\"").into_bytes())];
        chosen(&archive(&files, &[]), None, None)
    };
    assert_eq!(hand("c.json").unwrap().layers, [0]);
    let digest = Digest::of(b"c");
    assert!(hand(&format!("{digest}.json")).unwrap_err().contains("is missing"));

    // docker wrote this form before version 25.
    let old = saved("c.json", r#""1/layer.tar","2/layer.tar","1/layer.tar""#).into_bytes();
    let files =
        [("1/layer.tar", one), ("2/layer.tar", two), ("c.json", config), ("manifest.json", old)];
    let found = chosen(&archive(&files, &[]), None, None).unwrap();
    assert_eq!(
        (&found.names[..], &found.layers[..]),
        (&["app:1.4".to_owned()][..], &[0, 1, 0][..])
    );
}

#[test]
fn indexes_lead_to_the_requested_platform() {
    let (one, two) = (layer("a"), layer("b"));
    let (amd, arm) = (config("linux/amd64", &[&one]), config("linux/arm64", &[&two]));
    let of = |config: &[u8], layer: &[u8]| manifest_of(config, &[descriptor(LAYER, layer, "")]);
    let (amd_manifest, arm_manifest) = (of(&amd, &one), of(&arm, &two));
    let platform = r#","platform":{"os":"linux","architecture":"arm64","variant":"v8"}"#;
    let attestation = r#","annotations":{"vnd.docker.reference.type":"attestation-manifest"}"#;
    let inner = index_of(&[
        descriptor(MANIFEST, &amd_manifest, ""),
        descriptor(MANIFEST, &arm_manifest, platform),
        descriptor(MANIFEST, b"says how it was made", attestation),
        descriptor(MANIFEST, b"another platform's, left out", ""),
    ]);
    let outer = index_of(&[descriptor(INDEX, &inner, NAMED)]);
    let blobs: [&[u8]; 7] = [&one, &two, &amd, &arm, &amd_manifest, &arm_manifest, &inner];
    let archive = archive(&[("index.json", outer)], &blobs);
    for (platform, user) in [("linux/amd64", "linux/amd64"), ("linux/arm64", "linux/arm64")] {
        let found = chosen(&archive, None, Some(platform)).unwrap();
        assert_eq!((found.run.user.as_deref(), &*found.names[0]), (Some(user), "app:1"));
    }
    let refused = chosen(&archive, None, None).unwrap_err();
    assert!(refused.contains("app:1 (linux/amd64), app:1 (linux/arm64/v8)"), "{refused}");
    let refused = chosen(&archive, None, Some("linux/s390x")).unwrap_err();
    assert!(refused.contains("for linux/s390x"), "{refused}");
}

#[test]
fn images_are_found_by_name_and_id() {
    let one = layer("a");
    let mut saved = Vec::new();
    let mut files = vec![("1/layer.tar", one.clone())];
    let configs: Vec<Vec<u8>> =
        ["linux/amd64", "linux/riscv64"].map(|platform| config(platform, &[&one])).to_vec();
    for (config, name) in configs.iter().zip(["docker.io/library/app:latest", "other/web:2"]) {
        let id = Digest::of(config);
        saved.push(format!(
            r#"{{"Config":"{id}.json","RepoTags":["{name}"],"Layers":["1/layer.tar"]}}"#
        ));
    }
    let names: Vec<String> =
        configs.iter().map(|config| format!("{}.json", Digest::of(config))).collect();
    files.extend(names.iter().map(String::as_str).zip(configs.iter().cloned()));
    files.push(("manifest.json", format!("[{}]", saved.join(",")).into_bytes()));
    let archive = archive(&files, &[]);
    let id = Digest::of(&configs[1]).to_string();
    for (asked, user) in [
        ("app", "linux/amd64"),
        ("app:latest", "linux/amd64"),
        ("docker.io/library/app", "linux/amd64"),
        ("other/web:2", "linux/riscv64"),
        (&id[..12], "linux/riscv64"),
        (&format!("sha256:{id}"), "linux/riscv64"),
    ] {
        assert_eq!(
            chosen(&archive, Some(asked), None).unwrap().run.user.as_deref(),
            Some(user),
            "{asked}"
        );
    }
    for asked in ["web", "app:2", &id[..11], ""] {
        let refused = chosen(&archive, Some(asked), None).unwrap_err();
        assert!(
            refused.contains("it has: docker.io/library/app:latest (linux/amd64), "),
            "{refused}"
        );
    }
    assert!(chosen(&archive, None, None).unwrap_err().contains("several images"));
}

#[test]
fn inconsistent_archives_are_refused_with_the_reason() {
    let one = layer("a");
    let (config, manifest, index) = oci(&[&one]);
    let refused = |files: &[(&str, Vec<u8>)], blobs: &[&[u8]]| {
        chosen(&archive(files, blobs), None, None).unwrap_err()
    };
    let at = |index: &[u8]| [("index.json", index.to_vec())];
    let mut seen = String::new();
    let mut check = |text: String, want: &str| {
        assert!(text.contains(want), "{text:?} does not say {want:?}");
        writeln!(seen, "{text}").unwrap();
    };
    check(refused(&[], &[&one]), "neither manifest.json nor index.json");
    check(refused(&at(&index), &[&one, &config]), "is missing");
    check(refused(&at(&index), &[&config, &manifest]), "is missing: it is a layer");
    check(refused(&at(&index), &[&one, &manifest]), "is missing");
    check(refused(&at(b"{}"), &[]), "neither an index nor a manifest");
    check(refused(&at(b"{\"manifests\":[]}"), &[]), "no image");
    let of = |layer: String| {
        let manifest = manifest_of(&config, &[layer]);
        let index = index_of(&[descriptor(MANIFEST, &manifest, "")]);
        refused(&at(&index), &[&one, &config, &manifest])
    };
    check(of(descriptor(&format!("{LAYER}+gzip+encrypted"), &one, "")), "encrypted");
    check(of(descriptor("text/plain", &one, "")), "media type");
    check(of(descriptor(LAYER, b"elsewhere", r#","urls":["x"]"#)), "foreign");
    check(of(descriptor(LAYER, &config, "")), "a document, not a layer");
    check(of(descriptor(LAYER, &one, "").replace("sha256:", "sha512:")), "not a sha256");
    check(of(descriptor(LAYER, &one, "").replace("\"size\":", "\"size\":1")), "damaged");
    let other = layer("b");
    let wrong = manifest_of(&config, &[descriptor(LAYER, &other, "")]);
    let index = index_of(&[descriptor(MANIFEST, &wrong, "")]);
    check(refused(&at(&index), &[&other, &config, &wrong]), "the sha256 of its tar is");
    let two = manifest_of(&config, &[descriptor(LAYER, &one, ""), descriptor(LAYER, &one, "")]);
    let index = index_of(&[descriptor(MANIFEST, &two, "")]);
    check(refused(&at(&index), &[&one, &config, &two]), "1 layer, but the manifest lists 2");
    let zoo = index_of(&[descriptor("application/vnd.zoo", &one, "")]);
    check(refused(&at(&zoo), &[&one]), "not the type of an image");
    // A correct index cannot lead to itself, but a damaged file can.
    let own = format!(r#"{{"manifests":[{}]}}"#, descriptor(INDEX, b"x", ""));
    let name = format!("blobs/sha256/{}", Digest::of(b"x"));
    let files = [(&*name, own.clone().into_bytes()), ("index.json", own.into_bytes())];
    check(refused(&files, &[]), "damaged");
    let noise = [("manifest.json", br#"[{"Config":"../c","Layers":[]}]"#.to_vec())];
    check(refused(&noise, &[]), "not name a file");
    assert!(seen.lines().count() > 15 && !seen.contains('\u{1b}'));
}

#[test]
fn non_images_are_skipped() {
    let one = layer("a");
    let (image_config, manifest, _) = oci(&[&one]);
    let signed = b"{\"critical\":{}}".to_vec();
    let signature_config = config("/", &[&signed]);
    let kind = "application/vnd.dev.cosign.simplesigning.v1+json";
    let signature = manifest_of(&signature_config, &[descriptor(kind, &signed, "")]);
    let of = |more: &str| {
        let text = String::from_utf8(manifest.clone()).unwrap();
        text.replacen('{', &format!("{{{more}"), 1).into_bytes()
    };
    let subject = of(&format!(r#""subject":{},"#, descriptor(MANIFEST, &manifest, "")));
    let artifact = of(r#""artifactType":"application/spdx+json","#);
    let empty = b"{\"schemaVersion\":2}".to_vec();
    let blobs: [&[u8]; 9] = [
        &one,
        &image_config,
        &manifest,
        &signed,
        &signature_config,
        &signature,
        &subject,
        &artifact,
        &empty,
    ];
    let others = [&signature, &subject, &artifact, &empty];
    let mut all: Vec<String> = others.iter().map(|other| descriptor(MANIFEST, other, "")).collect();
    for other in &all {
        let alone = archive(&[("index.json", index_of(std::slice::from_ref(other)))], &blobs);
        let refused = chosen(&alone, None, None).unwrap_err();
        assert!(
            refused.contains("not an image")
                || refused.contains("not a supported type of layer")
                || refused.contains("neither"),
            "{refused}"
        );
    }
    all.insert(2, descriptor(MANIFEST, &manifest, NAMED));
    let with_all = archive(&[("index.json", index_of(&all))], &blobs);
    assert_eq!(chosen(&with_all, None, None).unwrap().names, ["app:1"]);
}

#[test]
fn manifest_json_is_used_without_a_usable_index_json() {
    let one = layer("a");
    let (config, manifest, index) = oci(&[&one]);
    let saved = format!(
        r#"[{{"Config":"blobs/sha256/{}","RepoTags":["app:2"],"Layers":["blobs/sha256/{}"]}}]"#,
        Digest::of(&config),
        Digest::of(&one)
    );
    let both = |index: &[u8]| {
        let files = [("index.json", index.to_vec()), ("manifest.json", saved.clone().into_bytes())];
        chosen(&archive(&files, &[&one, &config, &manifest]), None, None)
    };
    for unusable in [
        &br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":null}"#[..],
        br#"{"schemaVersion":2,"manifests":[]}"#,
        b"{}",
        b"[]",
        b"{\"schemaVersion\":1}",
    ] {
        assert_eq!(both(unusable).unwrap().names, ["app:2"], "{}", unusable.escape_ascii());
    }
    // A document that is both an index and a manifest is refused.
    let one = String::from_utf8(index).unwrap();
    let twofold = one.replacen('{', r#"{"layers":[],"#, 1);
    assert!(both(twofold.as_bytes()).unwrap_err().contains("both an index and a manifest"));
    let alone = archive(&[("index.json", br#"{"manifests":null}"#.to_vec())], &[]);
    assert!(chosen(&alone, None, None).unwrap_err().contains("no image"));
}

#[test]
fn dangling_link_resolves_to_the_configured_layer() {
    let (one, two) = (layer("a"), layer("b"));
    let config = config("linux/amd64", &[&one, &two]);
    let saved =
        br#"[{"Config":"c.json","RepoTags":["app:1"],"Layers":["1/layer.tar","2/layer.tar"]}]"#;
    let files = [
        ("1/layer.tar", one),
        ("3/layer.tar", two),
        ("c.json", config),
        ("manifest.json", saved.to_vec()),
    ];
    let with = |target: Option<&str>, files: &[(&str, Vec<u8>)]| {
        let mut archive = archive(files, &[]);
        if let Some(target) = target {
            archive.take("2/layer.tar", Found::Link(target.to_owned())).unwrap();
        }
        chosen(&archive, None, None)
    };
    for target in ["../3/layer.tar", "../4/layer.tar"] {
        assert_eq!(with(Some(target), &files).unwrap().layers, [0, 1], "{target}");
    }
    let without = [files[0].clone(), files[2].clone(), files[3].clone()];
    assert!(with(Some("../3/layer.tar"), &without).unwrap_err().contains("which is missing"));
}
