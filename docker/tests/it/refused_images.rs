//! Tests bad images, files that are not images, and wrong flags. The program must print one clear
//! line, fail with an exit code other than 101 (a panic), and change nothing. Only the messages of
//! the command line's parser may have several lines.

mod documents;
mod layers;

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use crate::image::{
    CONFIG, LAYER, Layout, MANIFEST, Tar, config, digest, docker, docker_manifest, docker_with,
    gzip, layer,
};
use crate::rig::{Answer, Rig};
use serde_json::{Value, json};

/// A registry with a configuration `app`, which no bad image may change.
struct Before {
    rig: Rig,
    everything: String,
}

impl Before {
    fn new() -> Self {
        let rig = Rig::start();
        let good = docker(&[("app:1", &[layer("good", "good")])]);
        rig.import(&["-name", "app"], &good).good();
        let everything = rig.everything();
        Self { rig, everything }
    }

    /// Imports an image that must be refused with one line that contains all `words`.
    #[track_caller]
    fn refuses(&self, what: &str, image: &[u8], words: &[&str]) {
        self.refuses_with(what, &["-name", "app"], image, words);
    }

    #[track_caller]
    fn refuses_with(&self, what: &str, flags: &[&str], image: &[u8], words: &[&str]) {
        self.check(what, &self.rig.import(flags, image), words);
    }

    #[track_caller]
    fn check(&self, what: &str, answer: &Answer, words: &[&str]) {
        assert!(answer.code != 0 && answer.code != 101, "{what}: {answer:?}");
        assert_eq!(answer.out, "", "{what}: {answer:?}");
        assert_eq!(answer.err.lines().count(), 1, "{what}: {answer:?}");
        assert!(answer.err.len() < 1000, "{what}: {answer:?}");
        assert!(!answer.err.contains(|c: char| c.is_control() && c != '\n'), "{what}: {answer:?}");
        for word in words {
            assert!(answer.err.contains(word), "{what}: no {word:?} in {answer:?}");
        }
        assert_eq!(self.rig.everything(), self.everything, "{what}");
    }
}

/// Makes two layers. The file in the second layer has 9,000 bytes.
fn two_layers() -> [Vec<u8>; 2] {
    [layer("one", "one"), layer("two", &"two".repeat(3000))]
}

#[test]
fn truncated_archives_are_refused() {
    let before = Before::new();
    let docker = docker(&[("app:1", &two_layers())]);
    let oci = Layout::of(&two_layers()).archive();
    for (what, whole) in [("docker", docker), ("oci", oci)] {
        // The program must refuse the archive wherever it is cut, except in the zeros at the end.
        let end = whole.iter().rposition(|&byte| byte != 0).unwrap();
        for cut in [1, 300, 512, 1000, end / 4, end / 2, end * 3 / 4, end - 600] {
            before.refuses(&format!("{what} at {cut} of {end}"), &whole[..cut], &[]);
            let packed = gzip(&whole);
            let cut = cut.min(packed.len() - 1).max(2);
            before.refuses(&format!("{what} packed, at {cut}"), &packed[..cut], &[]);
        }
    }
}

#[test]
fn files_that_are_no_image_are_refused() {
    let before = Before::new();
    before.refuses("empty", b"", &["empty"]);
    before.refuses("text", b"this is no archive\n", &[]);
    before.refuses("noise", &[0xa5; 5000], &[]);
    before.refuses("zeros", &[0; 10240], &[]);
    before.refuses("a tar of something else", &layer("etc/passwd", "root"), &["manifest.json"]);
    before.refuses("gzip of text", &gzip(b"this is no archive"), &[]);
    let rig = &before.rig;
    fs::create_dir(rig.path("dir")).unwrap();
    fs::write(rig.path("dir/file"), "").unwrap();
    symlink("/no/where", rig.path("dangling")).unwrap();
    for (name, word) in [("dir", "index.json"), ("none", "none"), ("dangling", "dangling")] {
        let answer = rig.importer(&["-name", "app", name]).output().unwrap().into();
        before.check(name, &answer, &[word]);
    }
}

#[test]
fn terminal_as_input_is_refused() {
    let before = Before::new();
    let importer = before.rig.importer(&["-name", "app"]);
    let words: Vec<_> = std::iter::once(importer.get_program())
        .chain(importer.get_args())
        .map(|word| word.to_str().unwrap())
        .collect();
    // `script` gives the program a terminal. Standard error is written to a file.
    let line = words.join(" ") + " 2>err";
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).current_dir(before.rig.path(""));
    let answer = script.stdin(Stdio::null()).output().unwrap();
    let err = fs::read_to_string(before.rig.path("err")).unwrap();
    let code = answer.status.code().unwrap();
    before.check("a terminal", &Answer { out: String::new(), err, code }, &["standard input"]);
}

#[test]
fn blobs_with_wrong_digests_are_refused() {
    let before = Before::new();
    let layers = two_layers();
    for (what, bytes) in
        [("layer", layers[1].clone()), ("config", config(&layers).to_string().into_bytes())]
    {
        let mut layout = Layout::of(&layers);
        let mut changed = bytes.clone();
        let at = changed.len() / 2;
        changed[at] ^= 1;
        layout.replace(&bytes, &changed);
        before.refuses(what, &layout.archive(), &[&digest(&bytes)["sha256:".len()..]]);
    }
    let mut layout = Layout::default();
    let part = layout.blob(LAYER, &layers[0]);
    let config = layout.blob(CONFIG, config(&layers[..1]).to_string().as_bytes());
    let manifest =
        json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [part]});
    let manifest = manifest.to_string();
    let listed = layout.blob(MANIFEST, manifest.as_bytes());
    layout.list(listed);
    layout.replace(
        manifest.as_bytes(),
        manifest.replace("\"schemaVersion\":2", "\"schemaVersion\":3").as_bytes(),
    );
    before.refuses(
        "manifest",
        &layout.archive(),
        &[&digest(manifest.as_bytes())["sha256:".len()..]],
    );
}

#[test]
fn missing_blobs_are_reported() {
    let before = Before::new();
    let layers = two_layers();
    let mut layout = Layout::of(&layers);
    layout.remove(&layers[1]);
    before.refuses("layer", &layout.archive(), &[&digest(&layers[1])["sha256:".len()..]]);
    let mut layout = Layout::of(&layers);
    let said = config(&layers).to_string();
    layout.remove(said.as_bytes());
    before.refuses("config", &layout.archive(), &[&digest(said.as_bytes())["sha256:".len()..]]);
    let mut layout = Layout::default();
    let missing = json!({"mediaType": MANIFEST, "digest": digest(b"missing"), "size": 7});
    layout.list(missing.clone());
    before.refuses("manifest", &layout.archive(), &[&digest(b"missing")["sha256:".len()..]]);
    let mut layout = Layout::default();
    let index = layout.index(&[missing]);
    layout.list(index);
    before.refuses("manifest of an index", &layout.archive(), &[]);
    before.refuses("any manifest", &Layout::default().archive(), &["no image"]);

    let manifest = docker_manifest(&["a/layer.tar", "b/layer.tar"]);
    let files: [(&str, &[u8]); 1] = [("a/layer.tar", &layers[0])];
    let image = docker_with(&files, &config(&layers), &manifest);
    before.refuses("layer.tar", &image, &["b/layer.tar"]);
    before.refuses("all", &docker_with(&[], &config(&layers), &manifest), &["a/layer.tar"]);
    let image = Tar::new().file("a/layer.tar", &layers[0]).file("manifest.json", "[]").end();
    before.refuses("images", &image, &["no image"]);
    let none = format!("{}.json", "ab".repeat(32));
    let manifest = json!([{"Config": none, "RepoTags": ["app:1"], "Layers": ["a/layer.tar"]}]);
    let image = docker_with(&files, &config(&layers), &manifest);
    before.refuses("docker's config", &image, &[&none]);
}

#[test]
fn archive_of_several_images_needs_a_name() {
    let before = Before::new();
    let [one, two] = two_layers().map(|layer| vec![layer]);
    let image = docker(&[("app:1", &one), ("example.org/b:2", &two)]);
    before.refuses("docker", &image, &["-image", "app:1", "example.org/b:2"]);
    let flags = ["-name", "app", "-image", "c:3"];
    before.refuses_with("another", &flags, &image, &["c:3", "app:1", "example.org/b:2"]);
    let mut layout = Layout::of(&one);
    let part = layout.blob(LAYER, &two[0]);
    let said = layout.blob(CONFIG, config(&two).to_string().as_bytes());
    let manifest = layout.manifest(&said, &[part]);
    layout.list_as("other", manifest);
    before.refuses("layout", &layout.archive(), &["-image", "app:1", "other"]);
    before.refuses_with("another", &flags, &layout.archive(), &["c:3", "app:1", "other"]);
    let image = docker(&[("app:1", &one)]);
    before.refuses_with("not the only one", &flags, &image, &["c:3", "app:1"]);
}

#[test]
fn unknown_media_types_are_refused() {
    let before = Before::new();
    let bytes = layer("one", "one");
    for (media, word) in [
        ("application/vnd.example.layer.v1.squashfs", "application/vnd.example.layer.v1.squashfs"),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "foreign"),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar", "foreign"),
        ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "encrypted"),
        ("application/vnd.oci.image.layer.v1.tar+encrypted", "encrypted"),
    ] {
        let mut layout = Layout::default();
        let part = layout.blob(media, &bytes);
        let said = config(std::slice::from_ref(&bytes)).to_string();
        let said = layout.blob(CONFIG, said.as_bytes());
        let manifest = layout.manifest(&said, &[part]);
        layout.list(manifest);
        // The bytes of a foreign layer are usually not in the archive. If they are in the archive,
        // the layer is treated as an ordinary layer.
        if word != "foreign" {
            before.refuses(media, &layout.archive(), &[word]);
        }
        layout.remove(&bytes);
        before.refuses(media, &layout.archive(), &[word]);
    }
    let mut layout = Layout::default();
    let chart = layout.blob("application/vnd.cncf.helm.config.v1+json", b"{}");
    let part = layout.blob("application/vnd.cncf.helm.chart.content.v1.tar+gzip", &gzip(&bytes));
    let manifest = layout.manifest(&chart, &[part]);
    layout.list(manifest);
    before.refuses("a chart", &layout.archive(), &["helm"]);
    let mut layout = Layout::default();
    let text = layout.blob("text/plain", b"text");
    layout.list(text);
    before.refuses("text", &layout.archive(), &["text/plain"]);
}

#[test]
fn absent_platforms_are_reported() {
    let before = Before::new();
    let layers = [layer("one", "one")];
    let mut layout = Layout::default();
    let part = layout.blob(LAYER, &layers[0]);
    let said = layout.blob(CONFIG, config(&layers).to_string().as_bytes());
    let mut manifest = layout.manifest(&said, &[part]);
    manifest["platform"] = json!({"architecture": "s390x", "os": "linux"});
    let index = layout.index(&[manifest]);
    layout.list(index);
    let image = layout.archive();
    let flags = ["-name", "app", "-platform", "linux/arm/v7"];
    before.refuses_with("another", &flags, &image, &["linux/arm/v7", "linux/s390x"]);
    let flags = ["-name", "app", "-platform", "windows/s390x"];
    before.refuses_with("another system", &flags, &image, &["windows/s390x", "linux/s390x"]);
}

#[test]
fn invalid_names_from_images_are_refused() {
    let before = Before::new();
    let one = [layer("one", "one")];
    for tag in
        ["x\" -layer=\"evil:1\n$(touch pwn)`id`", "-name=other", "../../up", "a\u{1b}[31mb:1"]
    {
        let answer = before.rig.import(&[], &docker(&[(tag, &one)]));
        // If the program accepts the image, the configuration's name must consist of allowed
        // characters.
        if answer.code == 0 {
            let names = before.rig.operator(&["configurations"]);
            for name in names.lines().filter(|name| *name != "app") {
                assert!(
                    name.chars().all(|c| c.is_ascii_alphanumeric() || "._+@~-".contains(c)),
                    "{name:?}"
                );
                before.rig.operator(&["delconf", "-name", name]);
            }
        } else {
            before.check(tag, &answer, &[]);
        }
        assert!(!before.rig.path("pwn").exists());
    }
    let no_tags =
        json!([{"Config": "config.json", "RepoTags": Value::Null, "Layers": ["a/layer.tar"]}]);
    let image = docker_with(&[("a/layer.tar", &one[0])], &config(&one), &no_tags);
    before.refuses_with("no tag", &[], &image, &["-name"]);
    for bad in ["../up", "a/b", "a b", ".hidden", "-x"] {
        let flag = format!("-name={bad}");
        before.refuses_with(bad, &[&flag], &docker(&[("app:1", &one)]), &[]);
    }
}

#[test]
fn wrong_flags_are_refused() {
    let before = Before::new();
    let image = docker(&[("app:1", &[layer("one", "one")])]);
    let with = |flags: &[&str], word: &str| {
        let flags = [&["-name", "app"], flags].concat();
        before.refuses_with(&flags.join(" "), &flags, &image, &[word]);
    };
    with(&["-layer", "none:1"], "none");
    with(&["-key", "none"], "none");
    with(&["-fp", "SHA256:AAAA"], "");
    with(&["-addr", "127.0.0.1:1"], "127.0.0.1:1");
    with(&["-tmpdir", "none"], "none");
    // The parser of the command line has its own messages, which have more than one line.
    for (flag, value) in
        [("-layer", "none"), ("-compress", "xz"), ("-platform", "linux"), ("-x", "")]
    {
        let answer = before.rig.import(&["-name", "app", flag, value], &image);
        assert_eq!(answer.code, 2, "{answer:?}");
        assert!(answer.err.starts_with("error: ") && answer.err.contains(flag), "{answer:?}");
    }
    assert_eq!(before.rig.everything(), before.everything);
}
